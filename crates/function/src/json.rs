//! JSON held as text: paths and extraction. Text that is not JSON gives the type's default,
//! as ClickHouse does.

use crate::scalar::{Args, Call, Scalar, Want, args, many};
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, PrimitiveArray, StringArray};
use arrow::datatypes::UInt64Type;
use datafusion::common::Result;
use serde_json::Value;
use std::sync::Arc;
use weir_format::types::Type;

/// `json_extract_*(json, key or index, …)`.
const PATH: Args = many(&[Want::Str, Want::Any]);

/// Walks keys (text) and indexes (from 1, negative from the end).
fn walk<'a>(mut at: &'a Value, call: &Call, row: usize) -> Option<&'a Value> {
    use arrow::array::AsArray;
    use arrow::datatypes::DataType;
    for step in call.args.iter().skip(1) {
        at = match step.data_type() {
            DataType::Utf8 => at.get(step.as_string::<i32>().value(row))?,
            _ => {
                let n = arrow::compute::cast(step, &DataType::Int64).ok()?;
                let n = n.as_primitive::<arrow::datatypes::Int64Type>().value(row);
                let len = match at {
                    Value::Array(a) => a.len(),
                    Value::Object(o) => o.len(),
                    _ => return None,
                } as i64;
                let i = if n > 0 { n - 1 } else { len + n };
                let i = usize::try_from(i).ok()?;
                match at {
                    Value::Array(a) => a.get(i)?,
                    Value::Object(o) => o.values().nth(i)?,
                    _ => return None,
                }
            }
        };
    }
    Some(at)
}

fn each<T>(call: &Call, f: impl Fn(Option<&Value>) -> T) -> Vec<T> {
    use arrow::array::Array;
    let texts = call.str(0);
    (0..call.rows)
        .map(|i| {
            let parsed =
                texts.is_valid(i).then(|| serde_json::from_str::<Value>(texts.value(i)).ok()).flatten();
            f(parsed.as_ref().and_then(|v| walk(v, call, i)))
        })
        .collect()
}

fn extract(
    name: &'static str,
    docs: &'static str,
    result: Type,
    kernel: impl Fn(&Call) -> Result<ArrayRef> + Send + Sync + 'static,
) -> Scalar {
    const ARGS: Args = Args { optional: 1, ..PATH };
    Scalar::new(name, "f(json[, key or index, …])", docs, ARGS, result, kernel)
}

fn as_int(v: Option<&Value>) -> i64 {
    match v {
        Some(Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).unwrap_or(0),
        Some(Value::Bool(b)) => i64::from(*b),
        Some(Value::String(s)) => s.parse().unwrap_or(0),
        _ => 0,
    }
}

fn as_float(v: Option<&Value>) -> f64 {
    match v {
        Some(Value::Number(n)) => n.as_f64().unwrap_or(0.0),
        Some(Value::Bool(b)) => f64::from(u8::from(*b)),
        Some(Value::String(s)) => s.parse().unwrap_or(0.0),
        _ => 0.0,
    }
}

fn raw(v: Option<&Value>) -> String {
    v.map_or_else(String::new, Value::to_string)
}

fn text(v: Option<&Value>) -> String {
    match v {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// A JSON path `$.a.b[0]."c d"`; `None` where nothing lies there.
fn at_path<'a>(mut at: &'a Value, path: &str) -> Option<&'a Value> {
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']')?;
            at = match index.trim().trim_matches(['"', '\'']) {
                key if key.len() != index.trim().len() => at.get(key)?,
                number => at.get(number.parse::<usize>().ok()?)?,
            };
            rest = after;
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '`'));
        let (key, after) = match quote {
            Some(q) => rest[1..].split_once(q)?,
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        if key.is_empty() {
            return None;
        }
        at = at.get(key)?;
        rest = after;
    }
    Some(at)
}

fn by_path(name: &'static str, docs: &'static str, f: fn(Option<&Value>) -> String) -> Scalar {
    Scalar::new(name, "f(json, '$.path')", docs, args(&[Want::Str, Want::Str]), Type::String, move |call| {
        let rows = call.str(0).iter().zip(call.str(1)).map(|(json, path)| {
            let parsed = serde_json::from_str::<Value>(json?).ok();
            Some(f(parsed.as_ref().and_then(|v| at_path(v, path?))))
        });
        Ok(Arc::new(rows.collect::<StringArray>()))
    })
}

pub(crate) fn functions() -> Vec<Scalar> {
    vec![
        extract("json_extract_int", "an integer, 0 if it is none", Type::Int64, |call| {
            Ok(Arc::new(Int64Array::from(each(call, as_int))))
        }),
        extract("json_extract_uint", "an unsigned integer, 0 if it is none", Type::UInt64, |call| {
            let of = |v: Option<&Value>| v.and_then(Value::as_u64).unwrap_or_else(|| as_int(v).max(0) as u64);
            Ok(Arc::new(PrimitiveArray::<UInt64Type>::from(each(call, of))))
        }),
        extract("json_extract_float", "a number, 0 if it is none", Type::Float64, |call| {
            Ok(Arc::new(Float64Array::from(each(call, as_float))))
        }),
        extract("json_extract_bool", "a bool, false if it is none", Type::Bool, |call| {
            Ok(Arc::new(BooleanArray::from(each(call, |v| v.and_then(Value::as_bool).unwrap_or(false)))))
        }),
        extract("json_extract_string", "a string, '' if it is none", Type::String, |call| {
            let of = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or("").to_owned();
            Ok(Arc::new(StringArray::from(each(call, of))))
        }),
        extract("json_extract_raw", "the value's JSON text", Type::String, |call| {
            Ok(Arc::new(StringArray::from(each(call, raw))))
        }),
        extract("json_has", "whether something lies there", Type::Bool, |call| {
            Ok(Arc::new(BooleanArray::from(each(call, |v| v.is_some()))))
        }),
        extract("json_length", "how many elements an array or object has", Type::UInt64, |call| {
            let of = |v: Option<&Value>| match v {
                Some(Value::Array(a)) => a.len() as u64,
                Some(Value::Object(o)) => o.len() as u64,
                _ => 0,
            };
            Ok(Arc::new(PrimitiveArray::<UInt64Type>::from(each(call, of))))
        }),
        extract("is_valid_json", "whether the text is JSON", Type::Bool, |call| {
            Ok(Arc::new(BooleanArray::from(each(call, |v| v.is_some()))))
        }),
        by_path("json_value", "the scalar at a JSON path as text, '' if there is none", |v| match v {
            Some(Value::Array(_) | Value::Object(_)) => String::new(),
            other => text(other),
        }),
        by_path("json_query", "the array or object at a JSON path as JSON text", |v| match v {
            Some(Value::Array(_) | Value::Object(_)) => raw(v),
            _ => String::new(),
        }),
        // What the binder makes of `column:a.b`: any value as text.
        by_path("json_path_text", "whatever lies at a JSON path, as text", text),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let v: Value = serde_json::from_str(r#"{"a":{"b":[10,{"c d":"x"}]},"e":null}"#).unwrap();
        let cases = [
            ("$.a.b[0]", Some("10")),
            ("a.b[1].\"c d\"", Some("\"x\"")),
            ("$.a.`b`[0]", Some("10")),
            ("$.e", Some("null")),
            ("$.a.x", None),
            ("$.a.b[9]", None),
            ("$.a..b", None),
        ];
        for (path, expected) in cases {
            assert_eq!(at_path(&v, path).map(Value::to_string).as_deref(), expected, "{path}");
        }
    }
}
