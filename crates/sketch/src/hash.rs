//! A 64-bit hash of a row's values, the same wherever the row is read.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBuffer;
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use xxhash_rust::xxh3::xxh3_64;

/// Every bit of the result depends on every bit of `word` (the finalizer of MurmurHash3).
#[inline]
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

fn words<T: ArrowPrimitiveType>(array: &ArrayRef, word: impl Fn(T::Native) -> u64, out: &mut Vec<u64>) {
    out.extend(array.as_primitive::<T>().values().iter().map(|v| mixed(word(*v) ^ SEED)));
}

/// Zero is not its own hash.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both zeros are one value, and all that is no number.
#[inline]
fn float(v: f64) -> u64 {
    if v == 0.0 {
        0
    } else if v.is_nan() {
        f64::NAN.to_bits()
    } else {
        v.to_bits()
    }
}

fn column(array: &ArrayRef, out: &mut Vec<u64>) -> Result<(), ArrowError> {
    use TimeUnit as U;
    match array.data_type() {
        DataType::Int8 => words::<Int8Type>(array, |v| v as u64, out),
        DataType::Int16 => words::<Int16Type>(array, |v| v as u64, out),
        DataType::Int32 => words::<Int32Type>(array, |v| v as u64, out),
        DataType::Int64 => words::<Int64Type>(array, |v| v as u64, out),
        DataType::UInt8 => words::<UInt8Type>(array, u64::from, out),
        DataType::UInt16 => words::<UInt16Type>(array, u64::from, out),
        DataType::UInt32 => words::<UInt32Type>(array, u64::from, out),
        DataType::UInt64 => words::<UInt64Type>(array, |v| v, out),
        DataType::Date32 => words::<Date32Type>(array, |v| v as u64, out),
        DataType::Timestamp(U::Second, _) => words::<TimestampSecondType>(array, |v| v as u64, out),
        DataType::Timestamp(U::Millisecond, _) => words::<TimestampMillisecondType>(array, |v| v as u64, out),
        DataType::Timestamp(U::Microsecond, _) => words::<TimestampMicrosecondType>(array, |v| v as u64, out),
        DataType::Timestamp(U::Nanosecond, _) => words::<TimestampNanosecondType>(array, |v| v as u64, out),
        DataType::Float32 => words::<Float32Type>(array, |v| float(f64::from(v)), out),
        DataType::Float64 => words::<Float64Type>(array, float, out),
        DataType::Utf8 => out.extend(array.as_string::<i32>().iter().map(|v| text(v.map(str::as_bytes)))),
        DataType::LargeUtf8 => {
            out.extend(array.as_string::<i64>().iter().map(|v| text(v.map(str::as_bytes))));
        }
        DataType::Utf8View => {
            out.extend(array.as_string_view().iter().map(|v| text(v.map(str::as_bytes))));
        }
        DataType::Binary => out.extend(array.as_binary::<i32>().iter().map(text)),
        DataType::FixedSizeBinary(_) => out.extend(array.as_fixed_size_binary().iter().map(text)),
        other => {
            let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
            let rows = converter.convert_columns(std::slice::from_ref(array))?;
            out.extend(rows.iter().map(|r| xxh3_64(r.as_ref())));
        }
    }
    Ok(())
}

#[inline]
fn text(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(0, xxh3_64)
}

/// The hash of each row over `columns`, and which rows have a value in all of them.
///
/// # Errors
/// A type that has no row format.
pub fn hash_rows(columns: &[ArrayRef]) -> Result<(Vec<u64>, Option<NullBuffer>), ArrowError> {
    let mut hashes = Vec::new();
    let mut nulls = None;
    for (i, array) in columns.iter().enumerate() {
        nulls = NullBuffer::union(nulls.as_ref(), array.logical_nulls().as_ref());
        let mut own = Vec::with_capacity(array.len());
        column(array, &mut own)?;
        if i == 0 {
            hashes = own;
        } else {
            hashes.iter_mut().zip(own).for_each(|(h, o)| *h = mixed(h.rotate_left(17) ^ o));
        }
    }
    Ok((hashes, nulls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{BooleanArray, Float64Array, Int64Array, StringArray, StringViewArray};
    use std::sync::Arc;

    #[test]
    fn equal_rows_have_equal_hashes_and_a_null_is_none() {
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(1), Some(0)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some("a"), None]));
        let (h, nulls) = hash_rows(&[ints.clone(), texts.clone()]).unwrap();
        assert_eq!(h[0], h[2]);
        assert_ne!(h[0], h[3]);
        let nulls = nulls.unwrap();
        assert_eq!((0..4).map(|i| nulls.is_valid(i)).collect::<Vec<_>>(), [true, false, true, false]);
        let views: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b", "a", "c"]));
        assert_eq!(hash_rows(&[views]).unwrap().0[..3], hash_rows(&[texts]).unwrap().0[..3]);
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        let (h, _) = hash_rows(&[floats]).unwrap();
        assert_eq!((h[0], h[2]), (h[1], h[3]));
        let bools: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
        let (h, _) = hash_rows(&[bools]).unwrap();
        assert_ne!(h[0], h[1]);
    }
}
