//! Numbers.

use crate::World;
use crate::scalar::{Args, Call, Scalar, Want, args, like_argument, opt};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, Int8Type, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, plan_err};
use std::sync::Arc;
use weir_format::types::Type;

const ONE: Args = args(&[Want::Float]);
const TWO: Args = args(&[Want::Float, Want::Float]);

fn f1(name: &'static str, aliases: &[&str], docs: &'static str, f: fn(f64) -> f64) -> Scalar {
    Scalar::new(name, "f(x)", docs, ONE, Type::Float64, move |call| {
        Ok(Arc::new(call.float(0).unary::<_, Float64Type>(f)))
    })
    .aliases(aliases)
}

fn f2(name: &'static str, aliases: &[&str], docs: &'static str, f: fn(f64, f64) -> f64) -> Scalar {
    Scalar::new(name, "f(x, y)", docs, TWO, Type::Float64, move |call| {
        let pairs = call.float(0).values().iter().zip(call.float(1).values());
        Ok(Arc::new(Float64Array::from_iter_values(pairs.map(|(a, b)| f(*a, *b)))))
    })
    .aliases(aliases)
}

fn test(name: &'static str, docs: &'static str, f: fn(f64) -> bool) -> Scalar {
    Scalar::new(name, "f(x)", docs, ONE, Type::Bool, move |call| {
        Ok(Arc::new(BooleanArray::from_iter(call.float(0).values().iter().map(|v| Some(f(*v))))))
    })
}

/// `round`, `floor`, `ceil`, `trunc` to a number of digits: integers and decimals keep their
/// type, floats go through `f` at that scale.
fn rounding(name: &'static str, aliases: &[&str], docs: &'static str, f: fn(f64) -> f64) -> Scalar {
    const ARGS: Args = opt(&[Want::Number, Want::Int], 1);
    Scalar::new(name, "f(x[, digits])", docs, ARGS, Type::Float64, move |call| {
        let digits = match call.constants.get(1) {
            None => 0,
            Some(Some(ScalarValue::Int64(Some(d)))) => (*d).clamp(-38, 38) as i32,
            Some(_) => return plan_err!("the number of digits must be a constant"),
        };
        round_array(&call.args[0], digits, f)
    })
    .result(like_argument(0))
    .aliases(aliases)
}

fn round_array(values: &ArrayRef, digits: i32, f: fn(f64) -> f64) -> Result<ArrayRef> {
    match values.data_type() {
        DataType::Float32 | DataType::Float64 => {
            let scale = 10f64.powi(digits.abs());
            let rounded = cast(values, &DataType::Float64)?
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|v| {
                    let r = if digits >= 0 { f(v * scale) / scale } else { f(v / scale) * scale };
                    if r.is_finite() { r } else { v }
                });
            Ok(cast(&rounded, values.data_type())?)
        }
        DataType::Decimal128(p, s) => {
            let drop = i32::from(*s) - digits;
            if drop <= 0 {
                return Ok(values.clone());
            }
            let unit = 10i128.pow(drop.min(38) as u32);
            let rounded = values
                .as_primitive::<Decimal128Type>()
                .unary::<_, Decimal128Type>(|v| round_integer(v, unit, f))
                .with_precision_and_scale(*p, *s)?;
            Ok(Arc::new(rounded))
        }
        _ if digits >= 0 => Ok(values.clone()),
        _ => {
            let unit = 10i128.pow((-digits) as u32);
            let wide = cast(values, &DataType::Decimal128(38, 0))?;
            let rounded = wide
                .as_primitive::<Decimal128Type>()
                .unary::<_, Decimal128Type>(|v| round_integer(v, unit, f));
            Ok(cast(&rounded.with_precision_and_scale(38, 0)?, values.data_type())?)
        }
    }
}

/// Applies `f`'s direction to `v / unit` exactly: the fraction decides, never a float of `v`.
fn round_integer(v: i128, unit: i128, f: fn(f64) -> f64) -> i128 {
    let (whole, rest) = (v.div_euclid(unit), v.rem_euclid(unit));
    let side = match (rest * 2).cmp(&unit) {
        _ if rest == 0 => 0.0,
        std::cmp::Ordering::Less => 0.25,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.75,
    };
    // Parity and sign matter to half-even and truncation: keep both in a small float.
    let small = whole.rem_euclid(2) as f64 - if whole < 0 { 2.0 } else { 0.0 };
    let moved = f(small + side) - small;
    (whole + moved as i128) * unit
}

fn abs() -> Scalar {
    Scalar::new(
        "abs",
        "abs(x)",
        "the absolute value; unsigned for integers",
        args(&[Want::Number]),
        Type::Float64,
        |call| {
            let x = &call.args[0];
            Ok(match x.data_type() {
                DataType::Float32 | DataType::Float64 => {
                    let a = cast(x, &DataType::Float64)?
                        .as_primitive::<Float64Type>()
                        .unary::<_, Float64Type>(f64::abs);
                    cast(&a, x.data_type())?
                }
                DataType::Decimal128(p, s) => Arc::new(
                    x.as_primitive::<Decimal128Type>()
                        .unary::<_, Decimal128Type>(i128::abs)
                        .with_precision_and_scale(*p, *s)?,
                ),
                t if t.is_signed_integer() => {
                    let wide = cast(x, &DataType::Int64)?;
                    let a: PrimitiveArray<UInt64Type> =
                        wide.as_primitive::<arrow::datatypes::Int64Type>().unary(i64::unsigned_abs);
                    cast(&a, call.result.data_type())?
                }
                _ => x.clone(),
            })
        },
    )
    .result(|fields, _| {
        let unsigned = match fields[0].data_type() {
            DataType::Int8 => DataType::UInt8,
            DataType::Int16 => DataType::UInt16,
            DataType::Int32 => DataType::UInt32,
            DataType::Int64 => DataType::UInt64,
            other => other.clone(),
        };
        Ok(fields[0].as_ref().clone().with_data_type(unsigned))
    })
}

fn bits(name: &'static str, docs: &'static str, f: fn(i64, i64) -> i64) -> Scalar {
    const ARGS: Args = args(&[Want::Number, Want::Int]);
    Scalar::new(name, "f(a, b)", docs, ARGS, Type::Int64, move |call| {
        // Through the bits: an uint64 keeps all 64 of them.
        let a: Int64Array = match call.args[0].data_type() {
            DataType::UInt64 => call.args[0].as_primitive::<UInt64Type>().unary(|v| v as i64),
            _ => cast(&call.args[0], &DataType::Int64)?.as_primitive::<arrow::datatypes::Int64Type>().clone(),
        };
        let out = a.values().iter().zip(call.int(1).values()).map(|(a, b)| f(*a, *b));
        narrow_bits(Int64Array::from_iter_values(out), call)
    })
    .result(like_argument(0))
}

fn narrow_bits(values: Int64Array, call: &Call) -> Result<ArrayRef> {
    use arrow::datatypes::{Int16Type, Int32Type, UInt8Type, UInt16Type};
    Ok(match call.result.data_type() {
        DataType::Int8 => Arc::new(values.unary::<_, Int8Type>(|v| v as i8)),
        DataType::Int16 => Arc::new(values.unary::<_, Int16Type>(|v| v as i16)),
        DataType::Int32 => Arc::new(values.unary::<_, Int32Type>(|v| v as i32)),
        DataType::UInt8 => Arc::new(values.unary::<_, UInt8Type>(|v| v as u8)),
        DataType::UInt16 => Arc::new(values.unary::<_, UInt16Type>(|v| v as u16)),
        DataType::UInt32 => Arc::new(values.unary::<_, UInt32Type>(|v| v as u32)),
        DataType::UInt64 => Arc::new(values.unary::<_, UInt64Type>(|v| v as u64)),
        DataType::Int64 => Arc::new(values),
        other => return plan_err!("bit functions take integers, not {other}"),
    })
}

fn random(world: &World) -> Vec<Scalar> {
    const ARGS: Args = opt(&[Want::Any], 1);
    let (a, b) = (world.rng.clone(), world.rng.clone());
    vec![
        Scalar::new("rand", "rand()", "a random uint32 for each row", ARGS, Type::UInt32, move |call| {
            Ok(Arc::new(PrimitiveArray::<UInt32Type>::from_iter_values(
                (0..call.rows).map(|_| a.u64() as u32),
            )))
        })
        .aliases(&["rand32"])
        .volatile(),
        Scalar::new("rand64", "rand64()", "a random uint64 for each row", ARGS, Type::UInt64, move |call| {
            Ok(Arc::new(PrimitiveArray::<UInt64Type>::from_iter_values((0..call.rows).map(|_| b.u64()))))
        })
        .volatile(),
    ]
}

/// Integer division; the result has the first argument's width and is signed if either is.
fn int_div(name: &'static str, docs: &'static str, by_zero: Option<i128>) -> Scalar {
    const ARGS: Args = args(&[Want::Number, Want::Number]);
    Scalar::new(name, "f(a, b)", docs, ARGS, Type::Int64, move |call| {
        let wide = DataType::Decimal128(38, 0);
        let (a, b) = (cast(&call.args[0], &wide)?, cast(&call.args[1], &wide)?);
        let (a, b) = (a.as_primitive::<Decimal128Type>(), b.as_primitive::<Decimal128Type>());
        let mut out = Vec::with_capacity(call.rows);
        for i in 0..call.rows {
            let there = a.is_valid(i) && b.is_valid(i);
            out.push(match (there, b.value(i), by_zero) {
                (false, _, _) => 0,
                (true, 0, Some(instead)) => instead,
                (true, 0, None) => return Err(ArrowError::DivideByZero.into()),
                (true, divisor, _) => a.value(i) / divisor,
            });
        }
        let out = PrimitiveArray::<Decimal128Type>::from(out).with_precision_and_scale(38, 0)?;
        Ok(cast(&out, call.result.data_type())?)
    })
    .result(|fields, _| {
        let (a, b) = (fields[0].data_type(), fields[1].data_type());
        let signed = a.is_signed_integer() || b.is_signed_integer() || a.is_floating() || b.is_floating();
        let wide = match (a.primitive_width().unwrap_or(8), signed) {
            (1, true) => DataType::Int8,
            (2, true) => DataType::Int16,
            (4, true) => DataType::Int32,
            (1, false) => DataType::UInt8,
            (2, false) => DataType::UInt16,
            (4, false) => DataType::UInt32,
            (_, false) => DataType::UInt64,
            (_, true) => DataType::Int64,
        };
        Ok(Field::new("", wide, false))
    })
}

pub(crate) fn functions(world: &World) -> Vec<Scalar> {
    let mut all = vec![
        abs(),
        int_div("int_div", "a / b towards zero; an error if b is 0", None),
        int_div("int_div_or_zero", "a / b towards zero; 0 if b is 0", Some(0)),
        f1("sqrt", &[], "square root", f64::sqrt),
        f1("cbrt", &[], "cube root", f64::cbrt),
        f1("exp", &[], "e to the x", f64::exp),
        f1("exp2", &[], "2 to the x", f64::exp2),
        f1("exp10", &[], "10 to the x", |x| 10f64.powf(x)),
        f1("log", &["ln"], "natural logarithm", f64::ln),
        f1("log2", &[], "logarithm to the base 2", f64::log2),
        f1("log10", &[], "logarithm to the base 10", f64::log10),
        f1("sin", &[], "sine", f64::sin),
        f1("cos", &[], "cosine", f64::cos),
        f1("tan", &[], "tangent", f64::tan),
        f1("asin", &[], "arc sine", f64::asin),
        f1("acos", &[], "arc cosine", f64::acos),
        f1("atan", &[], "arc tangent", f64::atan),
        f1("degrees", &[], "radians to degrees", f64::to_degrees),
        f1("radians", &[], "degrees to radians", f64::to_radians),
        f2("pow", &["power"], "x to the y", f64::powf),
        f2("atan2", &[], "angle of the point (y, x)", f64::atan2),
        test("is_nan", "whether x is not a number", f64::is_nan),
        test("is_finite", "whether x is neither infinite nor NaN", f64::is_finite),
        test("is_infinite", "whether x is infinite", f64::is_infinite),
        rounding("round", &[], "to the nearest; halves go to the even neighbour", f64::round_ties_even),
        rounding("floor", &[], "the greatest not above x", f64::floor),
        rounding("ceil", &["ceiling"], "the least not below x", f64::ceil),
        rounding("trunc", &["truncate"], "towards zero", f64::trunc),
        bits("bit_and", "bitwise and", |a, b| a & b),
        bits("bit_or", "bitwise or", |a, b| a | b),
        bits("bit_xor", "bitwise exclusive or", |a, b| a ^ b),
        bits("bit_shift_left", "shifted left", |a, b| a.checked_shl(b as u32).unwrap_or(0)),
        bits("bit_shift_right", "shifted right", |a, b| a.checked_shr(b as u32).unwrap_or(0)),
    ];
    all.push(Scalar::new("sign", "sign(x)", "-1, 0 or 1", ONE, Type::Int8, |call| {
        let signs = call.float(0).values().iter().map(|v| if *v > 0.0 { 1 } else { -i8::from(*v < 0.0) });
        Ok(Arc::new(PrimitiveArray::<Int8Type>::from_iter_values(signs)))
    }));
    for (name, value) in [("pi", std::f64::consts::PI), ("e", std::f64::consts::E)] {
        all.push(Scalar::new(name, "f()", "the constant", args(&[]), Type::Float64, move |call| {
            Ok(Arc::new(Float64Array::from(vec![value; call.rows])))
        }));
    }
    all.extend(random(world));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_by_their_digits() {
        let cases: [(i128, i128, fn(f64) -> f64, i128); 8] = [
            (15, 10, f64::round_ties_even, 20),
            (25, 10, f64::round_ties_even, 20),
            (-15, 10, f64::round_ties_even, -20),
            (-25, 10, f64::round_ties_even, -20),
            (-11, 10, f64::floor, -20),
            (-19, 10, f64::trunc, -10),
            (11, 10, f64::ceil, 20),
            (20, 10, f64::ceil, 20),
        ];
        for (v, unit, f, expected) in cases {
            assert_eq!(round_integer(v, unit, f), expected, "{v} to {unit}");
        }
    }
}
