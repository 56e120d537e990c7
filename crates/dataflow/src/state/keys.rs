//! The keys of a batch, encoded and hashed at once, and the way back to columns.
//!
//! Three forms: one integer-like column as words, one string column as its bytes, anything else
//! as Arrow's row format, whose bytes order as the values do.
//!
//! Not here: looking keys up (`table`).

use super::bytes::{Damaged, Reader, Writer};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Int64Array, PrimitiveArray, StringArray, UInt64Array};
use arrow_buffer::NullBuffer;
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::{ArrowError, DataType};
use std::sync::Arc;

/// What a set of key columns becomes.
#[derive(Debug)]
pub(crate) enum KeyForm {
    /// No key: one group.
    Unit,
    Int {
        data_type: DataType,
    },
    Text,
    Rows(RowConverter),
}

/// The keys of one batch.
pub(crate) enum BatchKeys {
    Unit,
    Int { values: Vec<u64>, nulls: Option<NullBuffer>, hashes: Vec<u32> },
    Text { values: StringArray, hashes: Vec<u32> },
    Rows { values: Rows, hashes: Vec<u32> },
}

/// The hash of a key that is NULL.
const NULL_HASH: u32 = 0;

/// One key by itself, as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Unit,
    /// Of the forms that keep NULL aside.
    Null,
    Int(u64),
    Bytes(&'a [u8]),
}

impl<'a> Key<'a> {
    pub fn hash(&self) -> u32 {
        match self {
            Key::Unit | Key::Null => NULL_HASH,
            Key::Int(word) => hash_word(*word),
            Key::Bytes(bytes) => hash_bytes(bytes),
        }
    }

    pub fn save(&self, out: &mut Writer) {
        match self {
            Key::Unit => out.0.push(0),
            Key::Null => out.0.push(1),
            Key::Int(word) => {
                out.0.push(2);
                out.u64(*word);
            }
            Key::Bytes(bytes) => {
                out.0.push(3);
                out.u64(bytes.len() as u64);
                out.0.extend_from_slice(bytes);
            }
        }
    }

    pub fn load(from: &mut Reader<'a>) -> Result<Self, Damaged> {
        Ok(match from.u8()? {
            0 => Key::Unit,
            1 => Key::Null,
            2 => Key::Int(from.u64()?),
            3 => Key::Bytes(from.bytes()?),
            _ => return Err(Damaged("a key of an unknown form")),
        })
    }
}

fn is_signed(t: &DataType) -> bool {
    !t.is_unsigned_integer()
}

fn is_word(t: &DataType) -> bool {
    t.is_integer()
        || matches!(t, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) | DataType::Time64(_))
}

/// Spreads a word over 32 bits.
#[inline]
pub(crate) fn hash_word(word: u64) -> u32 {
    let x = (word ^ (word >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x >> 32) as u32
}

#[inline]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(bytes) >> 32) as u32
}

/// Integer-like values as words; the sort order of signed types is not theirs.
fn words(array: &ArrayRef) -> Result<Vec<u64>, ArrowError> {
    fn of<T: ArrowPrimitiveType<Native = i64>>(a: &PrimitiveArray<T>) -> Vec<u64> {
        a.values().iter().map(|v| *v as u64).collect()
    }
    if array.data_type().is_unsigned_integer() {
        let wide = arrow::compute::cast(array, &DataType::UInt64)?;
        return Ok(wide.as_primitive::<UInt64Type>().values().to_vec());
    }
    let wide = match array.data_type() {
        DataType::Date32 => {
            arrow::compute::cast(&arrow::compute::cast(array, &DataType::Int32)?, &DataType::Int64)?
        }
        _ => arrow::compute::cast(array, &DataType::Int64)?,
    };
    Ok(of(wide.as_primitive::<Int64Type>()))
}

/// What lies under a NULL is anything.
fn hash_nulls(nulls: Option<&NullBuffer>, hashes: &mut [u32]) {
    let Some(nulls) = nulls.filter(|n| n.null_count() > 0) else { return };
    hashes.iter_mut().zip(nulls).filter(|(_, valid)| !valid).for_each(|(h, _)| *h = NULL_HASH);
}

impl BatchKeys {
    /// Of each row; no hashes where there is one group only.
    pub fn hashes(&self) -> Option<&[u32]> {
        match self {
            BatchKeys::Unit => None,
            BatchKeys::Int { hashes, .. }
            | BatchKeys::Text { hashes, .. }
            | BatchKeys::Rows { hashes, .. } => Some(hashes),
        }
    }

    /// The key of a row, and its hash.
    pub fn key(&self, row: usize) -> (u32, Key<'_>) {
        match self {
            BatchKeys::Unit => (NULL_HASH, Key::Unit),
            BatchKeys::Int { nulls: Some(nulls), .. } if nulls.is_null(row) => (NULL_HASH, Key::Null),
            BatchKeys::Int { values, hashes, .. } => (hashes[row], Key::Int(values[row])),
            BatchKeys::Text { values, .. } if values.is_null(row) => (NULL_HASH, Key::Null),
            BatchKeys::Text { values, hashes } => (hashes[row], Key::Bytes(values.value(row).as_bytes())),
            BatchKeys::Rows { values, hashes } => (hashes[row], Key::Bytes(values.row(row).data())),
        }
    }
}

impl KeyForm {
    pub fn of(types: &[DataType]) -> Result<Self, ArrowError> {
        Ok(match types {
            [] => KeyForm::Unit,
            [t] if is_word(t) => KeyForm::Int { data_type: t.clone() },
            [DataType::Utf8] => KeyForm::Text,
            types => KeyForm::Rows(RowConverter::new(types.iter().cloned().map(SortField::new).collect())?),
        })
    }

    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<BatchKeys, ArrowError> {
        Ok(match self {
            KeyForm::Unit => BatchKeys::Unit,
            KeyForm::Int { .. } => {
                let values = words(&columns[0])?;
                let nulls = columns[0].nulls().cloned();
                let mut hashes: Vec<u32> = values.iter().map(|w| hash_word(*w)).collect();
                hash_nulls(nulls.as_ref(), &mut hashes);
                BatchKeys::Int { values, nulls, hashes }
            }
            KeyForm::Text => {
                let values = columns[0].as_string::<i32>().clone();
                let mut hashes: Vec<u32> =
                    (0..rows).map(|i| hash_bytes(values.value(i).as_bytes())).collect();
                hash_nulls(values.nulls(), &mut hashes);
                BatchKeys::Text { values, hashes }
            }
            KeyForm::Rows(converter) => {
                let values = converter.convert_columns(columns)?;
                let hashes = values.iter().map(|r| hash_bytes(r.as_ref())).collect();
                BatchKeys::Rows { values, hashes }
            }
        })
    }

    /// Columns of integer keys.
    pub fn int_column(&self, words: impl Iterator<Item = Option<u64>>) -> Result<ArrayRef, ArrowError> {
        let KeyForm::Int { data_type } = self else { unreachable!("asked by form") };
        if data_type.is_unsigned_integer() {
            let wide: UInt64Array = words.collect();
            return arrow::compute::cast(&(Arc::new(wide) as ArrayRef), data_type);
        }
        let wide: Int64Array = words.map(|w| w.map(|w| w as i64)).collect();
        let wide: ArrayRef = Arc::new(wide);
        match data_type {
            DataType::Date32 => {
                arrow::compute::cast(&arrow::compute::cast(&wide, &DataType::Int32)?, &DataType::Date32)
            }
            t => arrow::compute::cast(&wide, t),
        }
    }

    /// Whether integer keys compare as signed ones.
    pub fn signed(&self) -> bool {
        matches!(self, KeyForm::Int { data_type } if is_signed(data_type))
    }
}
