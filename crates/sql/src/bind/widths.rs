//! The result types of arithmetic, as ClickHouse has them. Pure.
//!
//! An integer literal has the smallest type that holds it; `+ - *` give the next wider type up
//! to 64 bits; `-` is signed; `/` is float64; `%` has the width of the divisor.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

/// A number's kind: what the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    signed: bool,
    float: bool,
    bytes: u8,
}

fn kind(t: &DataType) -> Option<Kind> {
    let (signed, float, bytes) = match t {
        DataType::Boolean | DataType::UInt8 => (false, false, 1),
        DataType::UInt16 => (false, false, 2),
        DataType::UInt32 => (false, false, 4),
        DataType::UInt64 => (false, false, 8),
        DataType::Int8 => (true, false, 1),
        DataType::Int16 => (true, false, 2),
        DataType::Int32 => (true, false, 4),
        DataType::Int64 => (true, false, 8),
        DataType::Float16 | DataType::Float32 => (true, true, 4),
        DataType::Float64 => (true, true, 8),
        _ => return None,
    };
    Some(Kind { signed, float, bytes })
}

fn make(k: Kind) -> DataType {
    match (k.float, k.signed, k.bytes) {
        (true, _, 8) => DataType::Float64,
        (true, ..) => DataType::Float32,
        (_, true, 1) => DataType::Int8,
        (_, true, 2) => DataType::Int16,
        (_, true, 4) => DataType::Int32,
        (_, true, _) => DataType::Int64,
        (_, false, 1) => DataType::UInt8,
        (_, false, 2) => DataType::UInt16,
        (_, false, 4) => DataType::UInt32,
        (_, false, _) => DataType::UInt64,
    }
}

fn next(bytes: u8) -> u8 {
    (bytes * 2).min(8)
}

/// What arithmetic does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Plus,
    Minus,
    Multiply,
    Divide,
    Modulo,
}

/// The type of `a op b`; `None` when either is no plain number (decimals, times).
pub(crate) fn result(op: Arithmetic, a: &DataType, b: &DataType) -> Option<DataType> {
    let (a, b) = (kind(a)?, kind(b)?);
    let float = a.float || b.float;
    let bytes = next(a.bytes.max(b.bytes));
    Some(make(match op {
        Arithmetic::Plus | Arithmetic::Multiply => Kind { signed: a.signed || b.signed, float, bytes },
        Arithmetic::Minus => Kind { signed: true, float, bytes },
        Arithmetic::Divide => Kind { signed: true, float: true, bytes: 8 },
        Arithmetic::Modulo if float => Kind { signed: true, float: true, bytes: 8 },
        Arithmetic::Modulo => {
            Kind { signed: a.signed, float: false, bytes: if a.signed { next(b.bytes) } else { b.bytes } }
        }
    }))
}

/// The type in which `a % b` is computed before it is narrowed to its result type.
pub(crate) fn modulo_type(a: &DataType, b: &DataType) -> Option<DataType> {
    let (x, y) = (kind(a)?, kind(b)?);
    Some(match (x.float || y.float, x.signed || y.signed) {
        (true, _) => DataType::Float64,
        (_, true) => DataType::Int64,
        _ => DataType::UInt64,
    })
}

/// The type of `-a`.
pub(crate) fn negated(a: &DataType) -> Option<DataType> {
    let k = kind(a)?;
    Some(make(Kind { signed: true, float: k.float, bytes: if k.signed { k.bytes } else { next(k.bytes) } }))
}

pub(crate) fn is_number(t: &DataType) -> bool {
    kind(t).is_some() && *t != DataType::Boolean
}

pub(crate) fn is_integer(t: &DataType) -> bool {
    t.is_integer()
}

/// The literal in the smallest integer type that holds it.
pub(crate) fn smallest(value: &ScalarValue) -> Option<ScalarValue> {
    let n: i128 = match value {
        ScalarValue::Int64(Some(n)) => i128::from(*n),
        ScalarValue::UInt64(Some(n)) => i128::from(*n),
        _ => return None,
    };
    Some(match n {
        0..=0xff => ScalarValue::UInt8(Some(n as u8)),
        0x100..=0xffff => ScalarValue::UInt16(Some(n as u16)),
        0x1_0000..=0xffff_ffff => ScalarValue::UInt32(Some(n as u32)),
        0x1_0000_0000.. => ScalarValue::UInt64(Some(n as u64)),
        -0x80..=-1 => ScalarValue::Int8(Some(n as i8)),
        -0x8000..=-1 => ScalarValue::Int16(Some(n as i16)),
        -0x8000_0000..=-1 => ScalarValue::Int32(Some(n as i32)),
        _ => ScalarValue::Int64(Some(n as i64)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Arithmetic::*;
    use DataType::*;

    #[test]
    fn result_types_are_clickhouses() {
        let cases = [
            (Plus, UInt8, UInt8, UInt16),
            (Plus, UInt8, Int8, Int16),
            (Plus, UInt32, UInt8, UInt64),
            (Plus, UInt64, UInt64, UInt64),
            (Plus, UInt64, Int8, Int64),
            (Plus, Float32, UInt8, Float64),
            (Plus, Boolean, UInt8, UInt16),
            (Minus, UInt8, UInt8, Int16),
            (Minus, UInt64, UInt64, Int64),
            (Minus, Float64, Int8, Float64),
            (Multiply, Int16, UInt16, Int32),
            (Multiply, Int32, Int32, Int64),
            (Divide, UInt8, UInt8, Float64),
            (Modulo, UInt64, UInt8, UInt8),
            (Modulo, Int32, UInt8, Int16),
            (Modulo, Int8, Int64, Int64),
            (Modulo, Float32, UInt8, Float64),
        ];
        for (op, a, b, expected) in cases {
            assert_eq!(result(op, &a, &b), Some(expected), "{a} {op:?} {b}");
        }
        assert_eq!(result(Plus, &Utf8, &UInt8), None);
        assert_eq!(negated(&UInt8), Some(Int16));
        assert_eq!(negated(&Int8), Some(Int8));
        assert_eq!(negated(&UInt64), Some(Int64));
    }

    #[test]
    fn literals_take_the_smallest_type() {
        let cases: [(i64, ScalarValue); 8] = [
            (0, ScalarValue::UInt8(Some(0))),
            (255, ScalarValue::UInt8(Some(255))),
            (256, ScalarValue::UInt16(Some(256))),
            (65_536, ScalarValue::UInt32(Some(65_536))),
            (4_294_967_296, ScalarValue::UInt64(Some(4_294_967_296))),
            (-1, ScalarValue::Int8(Some(-1))),
            (-129, ScalarValue::Int16(Some(-129))),
            (i64::MIN, ScalarValue::Int64(Some(i64::MIN))),
        ];
        for (n, expected) in cases {
            assert_eq!(smallest(&ScalarValue::Int64(Some(n))), Some(expected));
        }
    }
}
