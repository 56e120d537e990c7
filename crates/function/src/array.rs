//! Arrays. Positions count from 1.

use crate::scalar::{Args, Call, Scalar, Want, args, bad_value, opt};
use crate::string::string_lists;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Builder, ListBuilder, PrimitiveArray, StringArray,
};
use arrow::datatypes::{DataType, Field, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, plan_err};
use std::sync::Arc;
use weir_format::types::Type;

/// Rows longer than this are refused, so that one call cannot take all memory.
const RANGE_MAX: i64 = 10_000_000;

/// Elements of each list and the value searched for, in comparable form.
fn search(call: &Call, f: impl Fn(usize, &[bool]) -> u64) -> Result<Vec<u64>> {
    let list = call.args[0].as_list::<i32>();
    let needle = arrow::compute::cast(&call.args[1], &list.value_type())?;
    let converter = RowConverter::new(vec![SortField::new(list.value_type())])?;
    let elements = converter.convert_columns(std::slice::from_ref(list.values()))?;
    let wanted = converter.convert_columns(&[needle])?;
    let offsets = list.value_offsets();
    Ok((0..call.rows)
        .map(|i| {
            let (a, b) = (offsets[i] as usize, offsets[i + 1] as usize);
            let hits: Vec<bool> = (a..b).map(|e| elements.row(e) == wanted.row(i)).collect();
            f(i, &hits)
        })
        .collect())
}

/// Sum, minimum, maximum, average of each list.
fn reduce(name: &'static str, docs: &'static str, f: fn(&[f64]) -> f64, keep_type: bool) -> Scalar {
    Scalar::new(name, "f(array)", docs, args(&[Want::List]), Type::Float64, move |call| {
        let list = call.args[0].as_list::<i32>();
        let values = arrow::compute::cast(list.values(), &DataType::Float64)?;
        let values = values.as_primitive::<arrow::datatypes::Float64Type>();
        let out: arrow::array::Float64Array = list
            .value_offsets()
            .windows(2)
            .map(|w| {
                let part: Vec<f64> = (w[0] as usize..w[1] as usize)
                    .filter(|e| values.is_valid(*e))
                    .map(|e| values.value(e))
                    .collect();
                Some(if part.is_empty() { 0.0 } else { f(&part) })
            })
            .collect();
        Ok(arrow::compute::cast(&out, call.result.data_type())?)
    })
    .result(move |fields, _| match fields[0].data_type() {
        DataType::List(e) if keep_type && e.data_type().is_numeric() => {
            Ok(Field::new("", e.data_type().clone(), false))
        }
        DataType::List(e) if e.data_type().is_numeric() => Ok(Type::Float64.field("")),
        other => plan_err!("{name} takes an array of numbers, not {other}"),
    })
}

fn sum() -> Scalar {
    Scalar::new(
        "array_sum",
        "array_sum(array)",
        "sum of the elements",
        args(&[Want::List]),
        Type::Float64,
        |call| {
            let list = call.args[0].as_list::<i32>();
            let wide = arrow::compute::cast(list.values(), call.result.data_type())?;
            let sums = list.value_offsets().windows(2).map(|w| {
                let part = wide.slice(w[0] as usize, (w[1] - w[0]) as usize);
                Ok(match call.result.data_type() {
                    DataType::Int64 => ScalarValue::Int64(Some(
                        arrow::compute::sum(part.as_primitive::<arrow::datatypes::Int64Type>()).unwrap_or(0),
                    )),
                    DataType::UInt64 => ScalarValue::UInt64(Some(
                        arrow::compute::sum(part.as_primitive::<UInt64Type>()).unwrap_or(0),
                    )),
                    _ => ScalarValue::Float64(Some(
                        arrow::compute::sum(part.as_primitive::<arrow::datatypes::Float64Type>())
                            .unwrap_or(0.0),
                    )),
                })
            });
            let sums = sums.collect::<Result<Vec<_>>>()?;
            if sums.is_empty() {
                return Ok(arrow::array::new_empty_array(call.result.data_type()));
            }
            ScalarValue::iter_to_array(sums)
        },
    )
    .result(|fields, _| match fields[0].data_type() {
        DataType::List(e) if e.data_type().is_signed_integer() => Ok(Type::Int64.field("")),
        DataType::List(e) if e.data_type().is_unsigned_integer() => Ok(Type::UInt64.field("")),
        DataType::List(e) if e.data_type().is_numeric() => Ok(Type::Float64.field("")),
        other => plan_err!("array_sum takes an array of numbers, not {other}"),
    })
}

fn range() -> Scalar {
    const ARGS: Args = opt(&[Want::Int, Want::Int, Want::Int], 2);
    Scalar::new(
        "range",
        "range([start, ]end[, step])",
        "integers from start to before end",
        ARGS,
        Type::Array(Box::new(Type::Int64)),
        |call| {
            let mut out = ListBuilder::new(Int64Builder::new()).with_field(Type::Int64.field("item"));
            for i in 0..call.rows {
                let get = |a: usize| call.int(a).value(i);
                let (start, end, step) = match call.args.len() {
                    1 => (0, get(0), 1),
                    2 => (get(0), get(1), 1),
                    _ => (get(0), get(1), get(2)),
                };
                if step == 0 {
                    return Err(bad_value("range takes a step other than 0"));
                }
                let n = (i128::from(end) - i128::from(start)).div_euclid(i128::from(step));
                if n > i128::from(RANGE_MAX) {
                    return Err(bad_value(format!("range would make {n} elements, more than {RANGE_MAX}")));
                }
                let mut v = start;
                while if step > 0 { v < end } else { v > end } {
                    out.values().append_value(v);
                    let Some(next) = v.checked_add(step) else { break };
                    v = next;
                }
                out.append(true);
            }
            Ok(Arc::new(out.finish()))
        },
    )
}

/// Bytes of a text, elements of an array or map.
fn length() -> Scalar {
    Scalar::new(
        "length",
        "length(x)",
        "bytes of a string, elements of an array or map",
        args(&[Want::Any]),
        Type::UInt64,
        |call| lengths(&call.args[0]),
    )
    .result(|fields, _| match fields[0].data_type() {
        DataType::Utf8 | DataType::Binary | DataType::List(_) | DataType::Map(..) | DataType::Null => {
            Ok(Type::UInt64.field(""))
        }
        DataType::FixedSizeBinary(_) | DataType::Utf8View | DataType::LargeUtf8 => Ok(Type::UInt64.field("")),
        other => plan_err!(
            "illegal type {other} of argument 1 of function length; it takes a string, array or map"
        ),
    })
    .aliases(&["len"])
}

fn lengths(array: &ArrayRef) -> Result<ArrayRef> {
    let from = |offsets: &[i32]| -> ArrayRef {
        Arc::new(PrimitiveArray::<UInt64Type>::from_iter_values(
            offsets.windows(2).map(|w| (w[1] - w[0]) as u64),
        ))
    };
    Ok(match array.data_type() {
        DataType::Utf8 => from(array.as_string::<i32>().value_offsets()),
        DataType::Binary => from(array.as_binary::<i32>().value_offsets()),
        DataType::List(_) => from(array.as_list::<i32>().value_offsets()),
        DataType::Map(..) => from(array.as_map().value_offsets()),
        _ => {
            let text = arrow::compute::cast(array, &DataType::Utf8)?;
            from(text.as_string::<i32>().value_offsets())
        }
    })
}

pub(crate) fn functions() -> Vec<Scalar> {
    const FIND: Args = args(&[Want::List, Want::Any]);
    vec![
        length(),
        Scalar::new(
            "empty",
            "empty(x)",
            "whether a string, array or map has length 0",
            args(&[Want::Any]),
            Type::Bool,
            |call| {
                let n = lengths(&call.args[0])?;
                Ok(Arc::new(
                    n.as_primitive::<UInt64Type>()
                        .iter()
                        .map(|v| v.map(|v| v == 0))
                        .collect::<BooleanArray>(),
                ))
            },
        ),
        Scalar::new(
            "not_empty",
            "not_empty(x)",
            "whether a string, array or map has a length",
            args(&[Want::Any]),
            Type::Bool,
            |call| {
                let n = lengths(&call.args[0])?;
                Ok(Arc::new(
                    n.as_primitive::<UInt64Type>()
                        .iter()
                        .map(|v| v.map(|v| v != 0))
                        .collect::<BooleanArray>(),
                ))
            },
        ),
        Scalar::new("has", "has(array, x)", "whether x is an element", FIND, Type::Bool, |call| {
            let hits = search(call, |_, hits| u64::from(hits.contains(&true)))?;
            Ok(Arc::new(BooleanArray::from_iter(hits.into_iter().map(|h| Some(h == 1)))))
        })
        .aliases(&["array_contains"]),
        Scalar::new(
            "index_of",
            "index_of(array, x)",
            "where x is, from 1; 0 if nowhere",
            FIND,
            Type::UInt64,
            |call| {
                let at = search(call, |_, hits| hits.iter().position(|h| *h).map_or(0, |p| p as u64 + 1))?;
                Ok(Arc::new(PrimitiveArray::<UInt64Type>::from(at)))
            },
        ),
        Scalar::new(
            "count_equal",
            "count_equal(array, x)",
            "how often x is an element",
            FIND,
            Type::UInt64,
            |call| {
                let n = search(call, |_, hits| hits.iter().filter(|h| **h).count() as u64)?;
                Ok(Arc::new(PrimitiveArray::<UInt64Type>::from(n)))
            },
        ),
        sum(),
        reduce("array_avg", "average of the elements", |v| v.iter().sum::<f64>() / v.len() as f64, false),
        reduce("array_min", "least element", |v| v.iter().copied().fold(f64::INFINITY, f64::min), true),
        reduce(
            "array_max",
            "greatest element",
            |v| v.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            true,
        ),
        range(),
        Scalar::new(
            "array_string_concat",
            "array_string_concat(array[, separator])",
            "elements as one text",
            opt(&[Want::List, Want::Str], 1),
            Type::String,
            |call| {
                let list = call.args[0].as_list::<i32>();
                let by = call.constant_str(1, "the separator")?.unwrap_or_default();
                let texts = arrow::compute::cast(list.values(), &DataType::Utf8)?;
                let texts = texts.as_string::<i32>();
                let rows = list.value_offsets().windows(2).map(|w| {
                    let parts: Vec<&str> = (w[0] as usize..w[1] as usize)
                        .filter(|e| texts.is_valid(*e))
                        .map(|e| texts.value(e))
                        .collect();
                    Some(parts.join(&by))
                });
                Ok(Arc::new(rows.collect::<StringArray>()))
            },
        ),
        Scalar::new(
            "tokens",
            "tokens(s)",
            "runs of letters and digits",
            args(&[Want::Str]),
            Type::Array(Box::new(Type::String)),
            |call| {
                let rows = call.str(0).iter().map(|s| {
                    s.map(|s| {
                        s.split(|c: char| !c.is_alphanumeric())
                            .filter(|t| !t.is_empty())
                            .map(str::to_owned)
                            .collect()
                    })
                });
                Ok(string_lists(rows.collect()))
            },
        ),
    ]
}
