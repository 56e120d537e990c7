//! `to_<type>(x)`: text is parsed as the formats parse it, numbers are checked for overflow.

use crate::scalar::{Args, Call, Scalar, Want, args, bad_value, opt};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{Offset, TimeZone};
use datafusion::common::{Result, ScalarValue, plan_err};
use std::sync::Arc;
use weir_format::types::Type;

/// What happens where a value does not convert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnBad {
    Error,
    Null,
    /// The type's default (0, '', 1970-01-01).
    Zero,
}

/// Any value as text, as the text formats write it.
pub(crate) fn to_text(array: &ArrayRef, field: &FieldRef) -> Result<ArrayRef> {
    if let DataType::Utf8 = array.data_type() {
        return Ok(array.clone());
    }
    let mut rows: Vec<Option<String>> = Vec::with_capacity(array.len());
    match Type::of_field(field).as_ref().map(Type::inner) {
        Some(Type::Uuid) => {
            let ids = array.as_fixed_size_binary();
            rows.extend(ids.iter().map(|v| v.map(uuid_text)));
        }
        Some(Type::Ipv4) => {
            let ips = array.as_primitive::<arrow::datatypes::UInt32Type>();
            rows.extend(ips.iter().map(|v| v.map(|v| std::net::Ipv4Addr::from(v).to_string())));
        }
        Some(Type::Ipv6) => {
            let ips = array.as_fixed_size_binary();
            rows.extend(ips.iter().map(|v| v.map(ipv6_text)));
        }
        Some(Type::DateTime(_) | Type::DateTime64(..)) => {
            let digits = match Type::of_field(field).map(|t| t.inner().clone()) {
                Some(Type::DateTime64(p, _)) => p,
                _ => 0,
            };
            let format = match digits {
                0 => "%Y-%m-%d %H:%M:%S".to_owned(),
                n => format!(
                    "%Y-%m-%d %H:%M:%S%.{}f",
                    if n <= 3 {
                        3
                    } else if n <= 6 {
                        6
                    } else {
                        9
                    }
                ),
            };
            let options = FormatOptions::new()
                .with_timestamp_format(Some(&format))
                .with_timestamp_tz_format(Some(&format));
            let formatter = ArrayFormatter::try_new(array, &options)?;
            for i in 0..array.len() {
                rows.push(array.is_valid(i).then(|| {
                    let mut text = formatter.value(i).to_string();
                    // Precisions between the storage's: cut the digits that are not asked for.
                    if digits > 0
                        && let Some(dot) = text.rfind('.')
                    {
                        text.truncate(dot + 1 + digits as usize);
                    }
                    text
                }));
            }
        }
        _ => {
            let formatter = ArrayFormatter::try_new(array, &FormatOptions::new())?;
            for i in 0..array.len() {
                rows.push(array.is_valid(i).then(|| formatter.value(i).to_string()));
            }
        }
    }
    Ok(Arc::new(StringArray::from(rows)))
}

fn uuid_text(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).unwrap_or_default().hyphenated().to_string()
}

fn ipv6_text(bytes: &[u8]) -> String {
    <[u8; 16]>::try_from(bytes).map_or_else(|_| String::new(), |b| std::net::Ipv6Addr::from(b).to_string())
}

/// One text value to storage bytes of uuid, ipv4, ipv6.
fn parse_special(target: &Type, text: &str) -> Option<Vec<u8>> {
    match target {
        Type::Uuid => uuid::Uuid::parse_str(text.trim()).ok().map(|u| u.into_bytes().to_vec()),
        Type::Ipv4 => text.trim().parse::<std::net::Ipv4Addr>().ok().map(|a| a.octets().to_vec()),
        Type::Ipv6 => {
            let t = text.trim();
            let a = t.parse::<std::net::Ipv6Addr>().ok();
            a.or_else(|| t.parse::<std::net::Ipv4Addr>().ok().map(|v4| v4.to_ipv6_mapped()))
                .map(|a| a.octets().to_vec())
        }
        _ => None,
    }
}

fn convert(call: &Call, target: &Type, on_bad: OnBad) -> Result<ArrayRef> {
    let from = &call.args[0];
    if *target == Type::String {
        return to_text(from, &call.fields[0]);
    }
    let storage = call.result.data_type();
    let is_text = matches!(from.data_type(), DataType::Utf8);
    if is_text && matches!(target, Type::Uuid | Type::Ipv4 | Type::Ipv6) {
        return special(call, target, on_bad);
    }
    // Safe: what does not convert becomes null, so that we can say which value it was.
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let source: ArrayRef = if is_text {
        let s = from.as_string::<i32>();
        Arc::new(s.iter().map(|v| v.map(|v| normalise(v, target))).collect::<StringArray>())
    } else if matches!(from.data_type(), DataType::Float32 | DataType::Float64) && storage.is_integer() {
        // Floats are cut towards zero; a cast of 1.5 to an integer is no overflow.
        let wide = arrow::compute::cast(from, &DataType::Float64)?;
        Arc::new(
            wide.as_primitive::<arrow::datatypes::Float64Type>()
                .unary::<_, arrow::datatypes::Float64Type>(f64::trunc),
        )
    } else {
        from.clone()
    };
    let source = match (source.data_type(), storage) {
        // Numbers are seconds for datetime and days for date.
        (t, DataType::Timestamp(unit, _)) if t.is_numeric() => {
            // Since the epoch, whatever zone the result is shown in.
            let utc: Option<Arc<str>> = Some("UTC".into());
            let n = arrow::compute::cast(&source, &DataType::Int64)?;
            let seconds = DataType::Timestamp(arrow::datatypes::TimeUnit::Second, utc.clone());
            let seconds = arrow::compute::cast(&n, &seconds)?;
            arrow::compute::cast(&seconds, &DataType::Timestamp(*unit, utc))?
        }
        (t, DataType::Date32) if t.is_integer() => arrow::compute::cast(&source, &DataType::Int32)?,
        _ => source,
    };
    let mut out = cast_with_options(&source, storage, &options)?;
    if is_text
        && out.null_count() > from.null_count()
        && let DataType::Timestamp(unit, Some(zone)) = storage
        && let Ok(zone) = zone.parse::<chrono_tz::Tz>()
    {
        let local = cast_with_options(&source, &DataType::Timestamp(*unit, None), &options)?;
        out = with_clock_changes(&out, &local, zone)?;
    }
    finish(call, out, target, on_bad)
}

/// Fills in the local times that a clock change repeats, as the first of the two, and those that
/// it skips, with the offset after it: arrow has no instant for either.
fn with_clock_changes(found: &ArrayRef, local: &ArrayRef, zone: chrono_tz::Tz) -> Result<ArrayRef> {
    let per = super::datetime::ticks(found.data_type());
    let (instants, locals) =
        (arrow::compute::cast(found, &DataType::Int64)?, arrow::compute::cast(local, &DataType::Int64)?);
    let (instants, locals): (&Int64Array, &Int64Array) = (instants.as_primitive(), locals.as_primitive());
    let offset = |local_s: i64| -> Option<i64> {
        let naive = chrono::DateTime::from_timestamp(local_s, 0)?.naive_utc();
        let of = |naive: &chrono::NaiveDateTime| zone.offset_from_local_datetime(naive).earliest();
        let day_after = naive.checked_add_signed(chrono::TimeDelta::days(1))?;
        Some(i64::from(of(&naive).or_else(|| of(&day_after))?.fix().local_minus_utc()))
    };
    let filled: Int64Array = instants
        .iter()
        .zip(locals)
        .map(|(instant, local)| {
            instant.or_else(|| {
                let local = local?;
                Some(local - offset(local.div_euclid(per))?.checked_mul(per)?)
            })
        })
        .collect();
    Ok(arrow::compute::cast(&filled, found.data_type())?)
}

/// Makes arrow's parser see what ClickHouse accepts.
fn normalise(text: &str, target: &Type) -> String {
    let t = text.trim();
    match target {
        Type::Bool => match t.to_ascii_lowercase().as_str() {
            "1" | "t" | "yes" | "y" | "on" => "true".into(),
            "0" | "f" | "no" | "n" | "off" => "false".into(),
            other => other.into(),
        },
        Type::DateTime(_) | Type::DateTime64(..) if t.len() == 10 && t.as_bytes()[4] == b'-' => {
            format!("{t} 00:00:00")
        }
        Type::Date if t.len() > 10 => t[..10].to_owned(),
        _ => t.to_owned(),
    }
}

fn special(call: &Call, target: &Type, on_bad: OnBad) -> Result<ArrayRef> {
    let width = if *target == Type::Ipv4 { 4 } else { 16 };
    let texts = call.str(0);
    let rows: Vec<Option<Vec<u8>>> = texts.iter().map(|t| t.and_then(|t| parse_special(target, t))).collect();
    let out: ArrayRef = if *target == Type::Ipv4 {
        let numbers = rows.iter().map(|r| r.as_ref().map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])));
        Arc::new(numbers.collect::<arrow::array::UInt32Array>())
    } else {
        Arc::new(arrow::array::FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows.into_iter(), width)?)
    };
    finish(call, out, target, on_bad)
}

/// Nulls that were not null before are values that did not convert.
fn finish(call: &Call, out: ArrayRef, target: &Type, on_bad: OnBad) -> Result<ArrayRef> {
    let from = &call.args[0];
    let bad = |i: usize| from.is_valid(i) && out.is_null(i);
    if out.null_count() == from.null_count() {
        return Ok(out);
    }
    match on_bad {
        OnBad::Null => Ok(out),
        OnBad::Error => {
            let first = (0..out.len()).find(|i| bad(*i)).unwrap_or(0);
            let text = to_text(&from.slice(first, 1), &call.fields[0])?;
            let text: String = text.as_string::<i32>().value(0).chars().take(100).collect();
            Err(bad_value(format!("can not convert '{text}' to {target}")))
        }
        OnBad::Zero => {
            let zero = ScalarValue::new_default(out.data_type())?.to_array_of_size(out.len())?;
            let keep = arrow::array::BooleanArray::from_iter((0..out.len()).map(|i| Some(!bad(i))));
            Ok(arrow::compute::kernels::zip::zip(&keep, &out, &zero)?)
        }
    }
}

/// `to_x`, `to_x_or_null`, `to_x_or_zero`.
fn family(names: [&'static str; 3], aliases: [&[&str]; 3], target: Type, out: &mut Vec<Scalar>) {
    const ARGS: Args = args(&[Want::Any]);
    for ((name, alias), on_bad) in
        names.into_iter().zip(aliases).zip([OnBad::Error, OnBad::Null, OnBad::Zero])
    {
        let docs = match on_bad {
            OnBad::Error => "converted, or an error naming the value",
            OnBad::Null => "converted, or null",
            OnBad::Zero => "converted, or the type's default",
        };
        let result = if on_bad == OnBad::Null { target.clone().into_nullable() } else { target.clone() };
        let t = target.clone();
        out.push(
            Scalar::new(name, "f(x)", docs, ARGS, result, move |call| convert(call, &t, on_bad))
                .aliases(alias),
        );
    }
}

fn with_zone(
    name: &'static str,
    on_bad: OnBad,
    make: fn(Option<Arc<str>>, u8) -> Type,
    fractional: bool,
) -> Scalar {
    const PLAIN: Args = opt(&[Want::Any, Want::Str], 1);
    const FRACTIONAL: Args = opt(&[Want::Any, Want::Any, Want::Str], 2);
    let zone_at = if fractional { 2 } else { 1 };
    let type_of = move |constants: &[Option<&ScalarValue>]| -> Result<Type> {
        let zone = match constants.get(zone_at) {
            None => None,
            Some(Some(ScalarValue::Utf8(Some(z)))) => Some(Arc::from(z.as_str())),
            Some(_) => return plan_err!("{name} takes a constant time zone"),
        };
        let digits = match constants.get(1).filter(|_| fractional) {
            None => 3,
            Some(Some(v)) => match v.cast_to(&DataType::Int64)? {
                ScalarValue::Int64(Some(d)) if (0..=9).contains(&d) => d as u8,
                _ => return plan_err!("{name} takes a precision of 0 to 9"),
            },
            Some(None) => return plan_err!("{name} takes a constant precision"),
        };
        let t = make(zone, digits);
        Ok(if on_bad == OnBad::Null { t.into_nullable() } else { t })
    };
    let args = if fractional { FRACTIONAL } else { PLAIN };
    Scalar::new(
        name,
        "f(x[, digits][, zone])",
        "a time from text, a number or another time",
        args,
        make(None, 3),
        move |call| {
            let target = Type::of_field(&call.result).unwrap_or(Type::DateTime(None));
            convert(call, target.inner(), on_bad)
        },
    )
    .result(move |_, constants| Ok::<Field, _>(type_of(constants)?.field("")))
}

pub(crate) fn functions() -> Vec<Scalar> {
    let mut all = Vec::new();
    macro_rules! families {
        ($($name:literal, [$($alias:literal),*] => $t:expr;)*) => {
            $(family(
                [concat!("to_", $name), concat!("to_", $name, "_or_null"), concat!("to_", $name, "_or_zero")],
                [&[$(concat!("to_", $alias)),*], &[$(concat!("to_", $alias, "_or_null")),*], &[$(concat!("to_", $alias, "_or_zero")),*]],
                $t,
                &mut all,
            );)*
        };
    }
    families! {
        "int8", [] => Type::Int8;
        "int16", [] => Type::Int16;
        "int32", ["int"] => Type::Int32;
        "int64", [] => Type::Int64;
        "uint8", [] => Type::UInt8;
        "uint16", [] => Type::UInt16;
        "uint32", ["uint"] => Type::UInt32;
        "uint64", [] => Type::UInt64;
        "float32", [] => Type::Float32;
        "float64", ["float"] => Type::Float64;
        "bool", [] => Type::Bool;
        "date", [] => Type::Date;
        "uuid", [] => Type::Uuid;
        "ipv4", [] => Type::Ipv4;
        "ipv6", [] => Type::Ipv6;
    }
    all.push(Scalar::new("to_string", "to_string(x)", "as text", args(&[Want::Any]), Type::String, |call| {
        to_text(&call.args[0], &call.fields[0])
    }));
    for (name, on_bad) in [
        ("to_datetime", OnBad::Error),
        ("to_datetime_or_null", OnBad::Null),
        ("to_datetime_or_zero", OnBad::Zero),
    ] {
        all.push(with_zone(name, on_bad, |z, _| Type::DateTime(z), false));
    }
    for (name, on_bad) in [
        ("to_datetime64", OnBad::Error),
        ("to_datetime64_or_null", OnBad::Null),
        ("to_datetime64_or_zero", OnBad::Zero),
        ("to_time", OnBad::Error),
    ] {
        all.push(with_zone(name, on_bad, |z, d| Type::DateTime64(d, z), true));
    }
    for (name, digits) in [("to_decimal32", 9u8), ("to_decimal64", 18), ("to_decimal128", 38)] {
        const ARGS: Args = args(&[Want::Any, Want::Any]);
        all.push(
            Scalar::new(
                name,
                "f(x, scale)",
                "a decimal with that many digits after the point",
                ARGS,
                Type::Nothing,
                move |call| {
                    let target = Type::of_field(&call.result).unwrap_or(Type::Decimal(digits, 0));
                    convert(call, target.inner(), OnBad::Error)
                },
            )
            .result(move |_, constants| {
                match constants[1].map(|s| s.cast_to(&DataType::Int64)).transpose()? {
                    Some(ScalarValue::Int64(Some(s))) if (0..=i64::from(digits)).contains(&s) => {
                        Ok(Type::Decimal(digits, s as u8).field(""))
                    }
                    _ => plan_err!("{name} takes a constant scale of 0 to {digits}"),
                }
            }),
        );
    }
    all
}
