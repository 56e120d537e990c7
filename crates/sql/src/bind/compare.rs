//! The two sides of a comparison or of arithmetic with times, brought together.
//!
//! A literal is turned into the other side's type, never the column into the literal's, so
//! that statistics, bloom filters and seeks can use the predicate.

use super::cast;
use super::infer::type_of;
use super::widths;
use datafusion::arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{BinaryExpr, Cast};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, lit};
use weir_base::Error;
use weir_format::types::Type;

fn text(e: &Expr) -> Option<&str> {
    match e {
        Expr::Literal(ScalarValue::Utf8(Some(t)) | ScalarValue::Utf8View(Some(t)), _) => Some(t),
        Expr::Alias(a) => text(&a.expr),
        _ => None,
    }
}

/// `literal` as a value of `other`, if it is one that other types can mean.
///
/// # Errors
/// Code 53: a text that is no value of the type.
pub(crate) fn literal_for(literal: &Expr, other: &Type) -> Result<Option<Expr>, Error> {
    let t = other.inner();
    if let Some(text) = text(literal) {
        return Ok(match t {
            Type::String
            | Type::Bytes
            | Type::Enum(..)
            | Type::Array(_)
            | Type::Map(..)
            | Type::Tuple(_)
            | Type::Nothing => None,
            Type::Date => match cast::literal(text, t) {
                Ok(v) => Some(lit(v)),
                // A time of day on the other side: compare as times.
                Err(e) => match cast::literal(text, &Type::DateTime64(3, None)) {
                    Ok(v) => Some(lit(v)),
                    Err(_) => return Err(e),
                },
            },
            _ => Some(lit(cast::literal(text, t)?)),
        });
    }
    let Expr::Literal(v, _) = literal else { return Ok(None) };
    if v.is_null() {
        return Ok(None);
    }
    let from = v.data_type();
    let to = t.storage();
    if *t == Type::Bool && widths::is_integer(&from) {
        return Ok(match v.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(n @ (0 | 1)))) => Some(lit(n == 1)),
            _ => None,
        });
    }
    let exact = (widths::is_integer(&from) && widths::is_integer(&to) && !matches!(t, Type::Ipv4))
        || matches!((&from, &to), (DataType::Timestamp(..), DataType::Timestamp(..)));
    if !exact || from == to {
        return Ok(None);
    }
    // Only if it comes back the same: 300 is no uint8, half a second no datetime.
    let Ok(there) = v.cast_to(&to) else { return Ok(None) };
    let same = there.cast_to(&from).is_ok_and(|back| back == *v) && !there.is_null();
    Ok(same.then(|| lit(there)))
}

/// Both sides of a comparison in types that compare as ClickHouse compares them.
///
/// # Errors
/// Code 53, as [`literal_for`].
pub(crate) fn align(left: Expr, right: Expr, schema: &DFSchema) -> Result<(Expr, Expr), Error> {
    let (Some(lt), Some(rt)) = (type_of(&left, schema), type_of(&right, schema)) else {
        return Ok((left, right));
    };
    let is_literal = |e: &Expr| matches!(e, Expr::Literal(..));
    if (is_literal(&right) || text(&right).is_some() && text(&left).is_none())
        && let Some(r) = literal_for(&right, &lt)?
    {
        return Ok((left, r));
    }
    if (is_literal(&left) || text(&left).is_some() && text(&right).is_none())
        && let Some(l) = literal_for(&left, &rt)?
    {
        return Ok((l, right));
    }
    let (ls, rs) = (lt.storage(), rt.storage());
    Ok(match (&ls, &rs) {
        (DataType::Boolean, r) if widths::is_number(r) => {
            (left.cast_to(&DataType::UInt8, schema).map_err(df)?, right)
        }
        (l, DataType::Boolean) if widths::is_number(l) => {
            (left, right.cast_to(&DataType::UInt8, schema).map_err(df)?)
        }
        (DataType::Timestamp(lu, lz), DataType::Timestamp(ru, rz)) if lu != ru || lz != rz => {
            let unit = finer(*lu, *ru);
            let to = DataType::Timestamp(unit, lz.clone());
            (as_type(left, &ls, &to), as_type(right, &rs, &to))
        }
        (DataType::Date32, DataType::Timestamp(..)) => (as_type(left, &ls, &rs), right),
        (DataType::Timestamp(..), DataType::Date32) => (left, as_type(right, &rs, &ls)),
        _ => (left, right),
    })
}

fn df(e: datafusion::common::DataFusionError) -> Error {
    super::errors::from_datafusion(e)
}

/// A literal is converted at once, anything else by a cast; same type stays as it is.
pub(crate) fn as_type(e: Expr, from: &DataType, to: &DataType) -> Expr {
    if from == to {
        return e;
    }
    if let Expr::Literal(v, _) = &e
        && let Ok(v) = v.cast_to(to)
    {
        return lit(v);
    }
    Expr::Cast(Cast::new(Box::new(e), to.clone()))
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let rank = |u: TimeUnit| match u {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    if rank(a) >= rank(b) { a } else { b }
}

fn per_second(u: TimeUnit) -> i64 {
    match u {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// `time ± integer` (seconds, or days of a date) and `time - time`; `None` for anything else.
pub(crate) fn time_arithmetic(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Option<Expr> {
    let (lt, rt) = (left.get_type(schema).ok()?, right.get_type(schema).ok()?);
    match (&lt, &rt) {
        (DataType::Timestamp(..) | DataType::Date32, r) if widths::is_integer(r) => {
            shift(left, &lt, op, right, schema)
        }
        (l, DataType::Timestamp(..) | DataType::Date32) if widths::is_integer(l) && op == Operator::Plus => {
            shift(right, &rt, op, left, schema)
        }
        (DataType::Date32, DataType::Date32) if op == Operator::Minus => {
            let days = |e: &Expr| as_type(e.clone(), &DataType::Date32, &DataType::Int32);
            Some(binary(days(left), op, days(right)))
        }
        (DataType::Timestamp(lu, z), DataType::Timestamp(ru, _)) if op == Operator::Minus => {
            let unit = finer(*lu, *ru);
            let at = DataType::Timestamp(unit, z.clone());
            let ticks =
                |e: &Expr, from: &DataType| as_type(as_type(e.clone(), from, &at), &at, &DataType::Int64);
            let difference = binary(ticks(left, &lt), op, ticks(right, &rt));
            Some(match unit {
                TimeUnit::Second => as_type(difference, &DataType::Int64, &DataType::Int32),
                // Seconds with a fraction.
                _ => binary(
                    as_type(difference, &DataType::Int64, &DataType::Float64),
                    Operator::Divide,
                    lit(per_second(unit) as f64),
                ),
            })
        }
        (DataType::Timestamp(..), DataType::Date32) if op == Operator::Minus => {
            time_arithmetic(left, op, &as_type(right.clone(), &rt, &lt), schema)
        }
        _ => None,
    }
}

fn shift(time: &Expr, time_type: &DataType, op: Operator, by: &Expr, schema: &DFSchema) -> Option<Expr> {
    if let Expr::Literal(v, _) = by
        && let Ok(ScalarValue::Int64(Some(n))) = v.cast_to(&DataType::Int64)
    {
        let interval = match time_type {
            DataType::Date32 => IntervalMonthDayNano::new(0, i32::try_from(n).ok()?, 0),
            _ => IntervalMonthDayNano::new(0, 0, n.checked_mul(1_000_000_000)?),
        };
        let step = lit(ScalarValue::IntervalMonthDayNano(Some(interval)));
        return Some(binary(time.clone(), op, step));
    }
    let number = match time_type {
        DataType::Date32 => DataType::Int32,
        _ => DataType::Int64,
    };
    let ticks = as_type(time.clone(), time_type, &number);
    let mut by = Expr::Cast(Cast::new(Box::new(by.clone()), number.clone()));
    if let DataType::Timestamp(unit, _) = time_type
        && per_second(*unit) != 1
    {
        by = binary(by, Operator::Multiply, lit(per_second(*unit)));
    }
    let to = type_of(time, schema)?.field("cast").with_nullable(true);
    Some(Expr::Cast(Cast::new_from_field(Box::new(binary(ticks, op, by)), std::sync::Arc::new(to))))
}

pub(crate) fn binary(l: Expr, op: Operator, r: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)))
}
