//! Time columns as nanoseconds, and back.
//!
//! Times before 1677 and after 2262 do not fit; they count as the nearest that does.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{
    Array, ArrayRef, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use arrow_schema::{DataType, TimeUnit};
use std::sync::Arc;

/// Nanoseconds of one unit of a timestamp type; `None` for other types.
pub(crate) fn nanos_per_unit(t: &DataType) -> Option<i64> {
    match t {
        DataType::Timestamp(TimeUnit::Second, _) => Some(1_000_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => Some(1_000_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Some(1_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(1),
        _ => None,
    }
}

/// The values of a timestamp column in its own unit, and the nanoseconds of one.
pub(crate) fn units(array: &ArrayRef) -> Option<(&[i64], i64)> {
    let unit = nanos_per_unit(array.data_type())?;
    let values: &[i64] = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => array.as_primitive::<TimestampSecondType>().values(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().values()
        }
        _ => array.as_primitive::<TimestampNanosecondType>().values(),
    };
    Some((values, unit))
}

/// The values of a timestamp column in nanoseconds; what lies under nulls is anything.
pub(crate) fn nanos(array: &ArrayRef) -> Option<Vec<i64>> {
    let (values, unit) = units(array)?;
    Some(if unit == 1 { values.to_vec() } else { values.iter().map(|v| v.saturating_mul(unit)).collect() })
}

/// Nanoseconds as a column of a timestamp type.
pub(crate) fn from_nanos(values: Vec<i64>, t: &DataType) -> Option<ArrayRef> {
    let unit = nanos_per_unit(t)?;
    let values = if unit == 1 { values } else { values.into_iter().map(|v| v.div_euclid(unit)).collect() };
    from_units(values, t)
}

/// Values in a timestamp type's own unit as a column.
pub(crate) fn from_units(values: Vec<i64>, t: &DataType) -> Option<ArrayRef> {
    Some(match t {
        DataType::Timestamp(TimeUnit::Second, z) => {
            Arc::new(TimestampSecondArray::from(values).with_timezone_opt(z.clone())) as ArrayRef
        }
        DataType::Timestamp(TimeUnit::Millisecond, z) => {
            Arc::new(TimestampMillisecondArray::from(values).with_timezone_opt(z.clone()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, z) => {
            Arc::new(TimestampMicrosecondArray::from(values).with_timezone_opt(z.clone()))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, z) => {
            Arc::new(TimestampNanosecondArray::from(values).with_timezone_opt(z.clone()))
        }
        _ => return None,
    })
}
