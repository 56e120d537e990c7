//! A column under construction, value by value, from any text or row format.
//!
//! Invariant: after each `push_*` that returned `Ok`, all buffers of the column and its children
//! hold the same number of values. After an error or an input that ended early the owner calls
//! [`Column::truncate`] to drop what the half-read row left.
//!
//! Not here: formats (they read into [`Data`] directly where speed matters, else by
//! [`Column::push_text`]), Native (it builds arrays from whole columns).

use crate::fault::Fault;
use crate::kind::{EnumKind, Kind, Shape, TimeKind};
use crate::text::number::{self, Int, IntError};
use crate::text::{ident, time};
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, TimeUnit};
use std::mem;
use std::sync::Arc;

pub(crate) struct Column {
    pub kind: Arc<Kind>,
    pub nulls: Option<NullBufferBuilder>,
    pub data: Data,
}

pub(crate) enum Data {
    Bool(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: u8,
    },
    /// Bytes of strings are checked to be UTF-8 when the batch is finished.
    String(Strings),
    Bytes(Strings),
    Enum(Strings, EnumKind),
    Date(Vec<i32>),
    Time(Vec<i64>, TimeKind),
    Uuid(Vec<u8>),
    Ipv6(Vec<u8>),
    Ipv4(Vec<u32>),
    Array {
        offsets: Vec<i32>,
        items: Box<Column>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Box<Column>,
        values: Box<Column>,
    },
    Tuple {
        fields: Vec<Column>,
        rows: usize,
    },
    Nothing(usize),
}

/// Values of varying length: `offsets` has one entry more than values.
pub(crate) struct Strings {
    pub offsets: Vec<i32>,
    pub bytes: Vec<u8>,
}

impl Strings {
    fn new() -> Self {
        Strings { offsets: vec![0], bytes: Vec::new() }
    }
    #[inline]
    pub fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.end_value();
    }
    /// Ends a value whose bytes were appended to `bytes`.
    #[inline]
    pub fn end_value(&mut self) {
        // Batches are cut long before 2 GiB (`rows::BATCH_BYTES_MAX` and the row limit).
        self.offsets.push(self.bytes.len() as i32);
    }
    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(self.offsets[rows] as usize);
    }
    fn take(&mut self) -> (Vec<i32>, Vec<u8>) {
        let mut offsets = Vec::with_capacity(self.offsets.len());
        offsets.push(0);
        let bytes = Vec::with_capacity(self.bytes.len());
        (mem::replace(&mut self.offsets, offsets), mem::replace(&mut self.bytes, bytes))
    }
}

/// A value that is not UTF-8: which one, and its bytes.
pub(crate) struct NotUtf8 {
    pub row: usize,
    pub bytes: Vec<u8>,
}

impl Column {
    pub fn new(kind: &Kind) -> Column {
        let data = match &kind.shape {
            Shape::Bool => Data::Bool(BooleanBufferBuilder::new(0)),
            Shape::Int8 => Data::Int8(vec![]),
            Shape::Int16 => Data::Int16(vec![]),
            Shape::Int32 => Data::Int32(vec![]),
            Shape::Int64 => Data::Int64(vec![]),
            Shape::UInt8 => Data::UInt8(vec![]),
            Shape::UInt16 => Data::UInt16(vec![]),
            Shape::UInt32 => Data::UInt32(vec![]),
            Shape::UInt64 => Data::UInt64(vec![]),
            Shape::Float32 => Data::Float32(vec![]),
            Shape::Float64 => Data::Float64(vec![]),
            Shape::Decimal { precision, scale } => {
                Data::Decimal { values: vec![], precision: *precision, scale: *scale }
            }
            Shape::String => Data::String(Strings::new()),
            Shape::Bytes => Data::Bytes(Strings::new()),
            Shape::Enum(e) => Data::Enum(Strings::new(), e.clone()),
            Shape::Date => Data::Date(vec![]),
            Shape::Time(t) => Data::Time(vec![], t.clone()),
            Shape::Uuid => Data::Uuid(vec![]),
            Shape::Ipv6 => Data::Ipv6(vec![]),
            Shape::Ipv4 => Data::Ipv4(vec![]),
            Shape::Array(k) => Data::Array { offsets: vec![0], items: Box::new(Column::new(k)) },
            Shape::Map(k, v) => Data::Map {
                offsets: vec![0],
                keys: Box::new(Column::new(k)),
                values: Box::new(Column::new(v)),
            },
            Shape::Tuple(t) => {
                Data::Tuple { fields: t.fields.iter().map(|(_, k)| Column::new(k)).collect(), rows: 0 }
            }
            Shape::Nothing => Data::Nothing(0),
        };
        let nulls =
            (kind.nullable && !matches!(kind.shape, Shape::Nothing)).then(|| NullBufferBuilder::new(0));
        Column { kind: Arc::new(kind.clone()), nulls, data }
    }

    pub fn len(&self) -> usize {
        match &self.data {
            Data::Bool(v) => v.len(),
            Data::Int8(v) => v.len(),
            Data::Int16(v) => v.len(),
            Data::Int32(v) | Data::Date(v) => v.len(),
            Data::Int64(v) | Data::Time(v, _) => v.len(),
            Data::UInt8(v) => v.len(),
            Data::UInt16(v) => v.len(),
            Data::UInt32(v) | Data::Ipv4(v) => v.len(),
            Data::UInt64(v) => v.len(),
            Data::Float32(v) => v.len(),
            Data::Float64(v) => v.len(),
            Data::Decimal { values, .. } => values.len(),
            Data::String(s) | Data::Bytes(s) | Data::Enum(s, _) => s.offsets.len() - 1,
            Data::Uuid(v) | Data::Ipv6(v) => v.len() / 16,
            Data::Array { offsets, .. } | Data::Map { offsets, .. } => offsets.len() - 1,
            Data::Tuple { rows, .. } | Data::Nothing(rows) => *rows,
        }
    }

    /// Drops all values from `rows` on, also half-pushed ones.
    pub fn truncate(&mut self, rows: usize) {
        if let Some(nulls) = &mut self.nulls
            && nulls.len() > rows
        {
            nulls.truncate(rows);
        }
        match &mut self.data {
            Data::Bool(v) => v.truncate(rows),
            Data::Int8(v) => v.truncate(rows),
            Data::Int16(v) => v.truncate(rows),
            Data::Int32(v) | Data::Date(v) => v.truncate(rows),
            Data::Int64(v) | Data::Time(v, _) => v.truncate(rows),
            Data::UInt8(v) => v.truncate(rows),
            Data::UInt16(v) => v.truncate(rows),
            Data::UInt32(v) | Data::Ipv4(v) => v.truncate(rows),
            Data::UInt64(v) => v.truncate(rows),
            Data::Float32(v) => v.truncate(rows),
            Data::Float64(v) => v.truncate(rows),
            Data::Decimal { values, .. } => values.truncate(rows),
            Data::String(s) | Data::Bytes(s) | Data::Enum(s, _) => s.truncate(rows),
            Data::Uuid(v) | Data::Ipv6(v) => v.truncate(rows * 16),
            Data::Array { offsets, items } => {
                offsets.truncate(rows + 1);
                items.truncate(offsets[rows] as usize);
            }
            Data::Map { offsets, keys, values } => {
                offsets.truncate(rows + 1);
                keys.truncate(offsets[rows] as usize);
                values.truncate(offsets[rows] as usize);
            }
            Data::Tuple { fields, rows: len } => {
                fields.iter_mut().for_each(|f| f.truncate(rows));
                *len = rows.min(*len);
            }
            Data::Nothing(len) => *len = rows.min(*len),
        }
    }

    #[inline]
    pub fn valid(&mut self) {
        if let Some(nulls) = &mut self.nulls {
            nulls.append_non_null();
        }
    }

    /// The type's default: null if nullable, else zero, empty, or the first name of an enum.
    pub fn push_default(&mut self) {
        if let Some(nulls) = &mut self.nulls {
            nulls.append_null();
        }
        match &mut self.data {
            Data::Bool(v) => v.append(false),
            Data::Int8(v) => v.push(0),
            Data::Int16(v) => v.push(0),
            Data::Int32(v) | Data::Date(v) => v.push(0),
            Data::Int64(v) | Data::Time(v, _) => v.push(0),
            Data::UInt8(v) => v.push(0),
            Data::UInt16(v) => v.push(0),
            Data::UInt32(v) | Data::Ipv4(v) => v.push(0),
            Data::UInt64(v) => v.push(0),
            Data::Float32(v) => v.push(0.0),
            Data::Float64(v) => v.push(0.0),
            Data::Decimal { values, .. } => values.push(0),
            Data::String(s) | Data::Bytes(s) => s.push(b""),
            Data::Enum(s, names) => {
                s.bytes.extend_from_slice(names.default_name().as_bytes());
                s.end_value();
            }
            Data::Uuid(v) | Data::Ipv6(v) => v.extend_from_slice(&[0; 16]),
            Data::Array { offsets, .. } | Data::Map { offsets, .. } => {
                offsets.push(*offsets.last().expect("offsets start with 0"));
            }
            Data::Tuple { fields, rows } => {
                fields.iter_mut().for_each(Column::push_default);
                *rows += 1;
            }
            Data::Nothing(rows) => *rows += 1,
        }
    }

    /// Copies value `i` of a column of the same shape, not nullable and without items.
    pub fn push_from(&mut self, from: &Column, i: usize) {
        match (&mut self.data, &from.data) {
            (Data::Bool(to), Data::Bool(v)) => to.append(v.get_bit(i)),
            (Data::Int8(to), Data::Int8(v)) => to.push(v[i]),
            (Data::Int16(to), Data::Int16(v)) => to.push(v[i]),
            (Data::Int32(to), Data::Int32(v)) | (Data::Date(to), Data::Date(v)) => to.push(v[i]),
            (Data::Int64(to), Data::Int64(v)) | (Data::Time(to, _), Data::Time(v, _)) => to.push(v[i]),
            (Data::UInt8(to), Data::UInt8(v)) => to.push(v[i]),
            (Data::UInt16(to), Data::UInt16(v)) => to.push(v[i]),
            (Data::UInt32(to), Data::UInt32(v)) | (Data::Ipv4(to), Data::Ipv4(v)) => to.push(v[i]),
            (Data::UInt64(to), Data::UInt64(v)) => to.push(v[i]),
            (Data::Float32(to), Data::Float32(v)) => to.push(v[i]),
            (Data::Float64(to), Data::Float64(v)) => to.push(v[i]),
            (Data::Decimal { values: to, .. }, Data::Decimal { values: v, .. }) => to.push(v[i]),
            (Data::Uuid(to), Data::Uuid(v)) | (Data::Ipv6(to), Data::Ipv6(v)) => {
                to.extend_from_slice(&v[i * 16..i * 16 + 16]);
            }
            (Data::String(to), Data::String(v))
            | (Data::Bytes(to), Data::Bytes(v))
            | (Data::Enum(to, _), Data::Enum(v, _)) => {
                to.push(&v.bytes[v.offsets[i] as usize..v.offsets[i + 1] as usize]);
            }
            _ => unreachable!("columns of one shape without items"),
        }
        self.valid();
    }

    /// Bytes of text held, for limits.
    pub fn bytes_held(&self) -> usize {
        match &self.data {
            Data::String(s) | Data::Bytes(s) | Data::Enum(s, _) => s.bytes.len(),
            _ => 0,
        }
    }

    /// A null in the input. `Ok(false)`: the column is not nullable and got its default.
    pub fn push_null(&mut self, null_as_default: bool) -> Result<bool, Fault> {
        if !self.kind.nullable && !null_as_default {
            return Err(Fault::new(format!("null for {}, which is not nullable", self.kind.ty), b""));
        }
        self.push_default();
        Ok(self.kind.nullable)
    }

    /// Reads all of `text`, unescaped and without quotes, as one value. Arrays, maps and tuples
    /// are refused: their grammar is the format's.
    pub fn push_text(&mut self, text: &[u8], best_effort: bool) -> Result<(), Fault> {
        let bad = |ty: &crate::types::Type| Fault::new(format!("can not be read as {ty}"), text);
        macro_rules! int {
            ($values:expr) => {
                match Int::read(text) {
                    Ok(v) => $values.push(v),
                    Err(e) => return Err(int_fault(e, text, &self.kind)),
                }
            };
        }
        match &mut self.data {
            Data::Bool(v) => match read_bool(text) {
                Some(b) => v.append(b),
                None => return Err(bad(&self.kind.ty)),
            },
            Data::Int8(v) => int!(v),
            Data::Int16(v) => int!(v),
            Data::Int32(v) => int!(v),
            Data::Int64(v) => int!(v),
            Data::UInt8(v) => int!(v),
            Data::UInt16(v) => int!(v),
            Data::UInt32(v) => int!(v),
            Data::UInt64(v) => int!(v),
            Data::Float32(v) => v.push(number::read_float32(text).ok_or_else(|| bad(&self.kind.ty))?),
            Data::Float64(v) => v.push(number::read_float(text).ok_or_else(|| bad(&self.kind.ty))?),
            Data::Decimal { values, precision, scale } => {
                match number::read_decimal(text, *precision, *scale) {
                    Ok(v) => values.push(v),
                    Err(e) => return Err(int_fault(e, text, &self.kind)),
                }
            }
            Data::String(s) | Data::Bytes(s) => s.push(text),
            Data::Enum(s, names) => match enum_name(text, names) {
                Some(name) => s.push(name.as_bytes()),
                None => return Err(Fault::new(format!("no name of {}", self.kind.ty), text)),
            },
            Data::Date(v) => v.push(time::read_date(text).ok_or_else(|| bad(&self.kind.ty))?),
            Data::Time(v, k) => {
                v.push(time::read_time(text, k, best_effort).ok_or_else(|| bad(&self.kind.ty))?)
            }
            Data::Uuid(v) => v.extend_from_slice(&ident::read_uuid(text).ok_or_else(|| bad(&self.kind.ty))?),
            Data::Ipv6(v) => v.extend_from_slice(&ident::read_ipv6(text).ok_or_else(|| bad(&self.kind.ty))?),
            Data::Ipv4(v) => v.push(ident::read_ipv4(text).ok_or_else(|| bad(&self.kind.ty))?),
            Data::Array { .. } | Data::Map { .. } | Data::Tuple { .. } => return Err(bad(&self.kind.ty)),
            Data::Nothing(_) => return Err(Fault::new("a value where only null can be", text)),
        }
        self.valid();
        Ok(())
    }

    /// Ends an array or map value whose items were pushed.
    pub fn end_items(&mut self) {
        match &mut self.data {
            Data::Array { offsets, items } => offsets.push(items.len() as i32),
            Data::Map { offsets, keys, .. } => offsets.push(keys.len() as i32),
            Data::Tuple { rows, .. } => *rows += 1,
            _ => unreachable!("only arrays, maps and tuples have items"),
        }
        self.valid();
    }

    /// The values as an Arrow array of the type's storage; the column starts anew.
    pub fn finish(&mut self, utf8_replace: bool) -> Result<ArrayRef, NotUtf8> {
        let nulls = self.nulls.as_mut().and_then(NullBufferBuilder::finish);
        fn numbers<T: ArrowPrimitiveType>(v: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
            Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(renew(v)), nulls))
        }
        Ok(match &mut self.data {
            Data::Bool(v) => Arc::new(BooleanArray::new(v.finish(), nulls)),
            Data::Int8(v) => numbers::<Int8Type>(v, nulls),
            Data::Int16(v) => numbers::<Int16Type>(v, nulls),
            Data::Int32(v) => numbers::<Int32Type>(v, nulls),
            Data::Int64(v) => numbers::<Int64Type>(v, nulls),
            Data::UInt8(v) => numbers::<UInt8Type>(v, nulls),
            Data::UInt16(v) => numbers::<UInt16Type>(v, nulls),
            Data::UInt32(v) | Data::Ipv4(v) => numbers::<UInt32Type>(v, nulls),
            Data::UInt64(v) => numbers::<UInt64Type>(v, nulls),
            Data::Float32(v) => numbers::<Float32Type>(v, nulls),
            Data::Float64(v) => numbers::<Float64Type>(v, nulls),
            Data::Date(v) => numbers::<Date32Type>(v, nulls),
            Data::Decimal { values, precision, scale } => decimals(renew(values), nulls, *precision, *scale),
            Data::Time(v, _) => timestamps(renew(v), nulls, &self.kind.ty.storage()),
            Data::String(s) | Data::Enum(s, _) => {
                let (offsets, bytes) = s.take();
                utf8(offsets, bytes, nulls, utf8_replace)?
            }
            Data::Bytes(s) => {
                let (offsets, bytes) = s.take();
                Arc::new(BinaryArray::new(OffsetBuffer::new(offsets.into()), Buffer::from_vec(bytes), nulls))
            }
            Data::Uuid(v) | Data::Ipv6(v) => {
                Arc::new(FixedSizeBinaryArray::new(16, Buffer::from_vec(renew(v)), nulls))
            }
            Data::Array { offsets, items } => {
                let offsets = mem::replace(offsets, vec![0]);
                let items = items.finish(utf8_replace).map_err(|e| e.in_items(&offsets))?;
                list(&self.kind.ty.storage(), offsets, items)
            }
            Data::Map { offsets, keys, values } => {
                let offsets = mem::replace(offsets, vec![0]);
                let keys = keys.finish(utf8_replace).map_err(|e| e.in_items(&offsets))?;
                let values = values.finish(utf8_replace).map_err(|e| e.in_items(&offsets))?;
                map(&self.kind.ty.storage(), offsets, keys, values)
            }
            Data::Tuple { fields, rows } => {
                let rows = mem::take(rows);
                let arrays =
                    fields.iter_mut().map(|f| f.finish(utf8_replace)).collect::<Result<Vec<_>, _>>()?;
                tuple(&self.kind.ty.storage(), arrays, rows)
            }
            Data::Nothing(rows) => Arc::new(NullArray::new(mem::take(rows))),
        })
    }
}

impl NotUtf8 {
    fn in_items(self, offsets: &[i32]) -> NotUtf8 {
        NotUtf8 { row: offsets.partition_point(|o| *o as usize <= self.row).saturating_sub(1), ..self }
    }
}

/// Takes the values and leaves room for as many.
fn renew<T>(v: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(v.len());
    mem::replace(v, next)
}

#[cold]
fn int_fault(e: IntError, text: &[u8], kind: &Kind) -> Fault {
    match e {
        IntError::NotANumber => Fault::new(format!("can not be read as {}", kind.ty), text),
        IntError::OutOfRange => Fault::new(format!("out of range of {}", kind.ty), text),
    }
}

/// A name of the enum, or the number of one.
fn enum_name<'a>(text: &'a [u8], names: &'a EnumKind) -> Option<&'a str> {
    let text = std::str::from_utf8(text).ok()?;
    if names.value_of(text).is_some() {
        return Some(text);
    }
    names.name_of(text.parse().ok()?)
}

fn read_bool(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"1" => Some(true),
        b"false" | b"0" => Some(false),
        _ => ["true", "t", "yes", "y", "on"]
            .iter()
            .any(|w| text.eq_ignore_ascii_case(w.as_bytes()))
            .then_some(true)
            .or_else(|| {
                ["false", "f", "no", "n", "off"]
                    .iter()
                    .any(|w| text.eq_ignore_ascii_case(w.as_bytes()))
                    .then_some(false)
            }),
    }
}

/// Strings after a check of their bytes.
pub(crate) fn utf8(
    offsets: Vec<i32>,
    bytes: Vec<u8>,
    nulls: Option<NullBuffer>,
    replace: bool,
) -> Result<ArrayRef, NotUtf8> {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let bytes = Buffer::from_vec(bytes);
    if let Ok(array) = StringArray::try_new(offsets.clone(), bytes.clone(), nulls.clone()) {
        return Ok(Arc::new(array));
    }
    let value = |i: usize| &bytes[offsets[i] as usize..offsets[i + 1] as usize];
    let rows = offsets.len() - 1;
    if !replace {
        let row = (0..rows)
            .find(|i| std::str::from_utf8(value(*i)).is_err())
            .expect("the array was refused, so some value is not UTF-8");
        return Err(NotUtf8 { row, bytes: value(row).to_vec() });
    }
    let repaired = (0..rows)
        .map(|i| nulls.as_ref().is_none_or(|n| n.is_valid(i)).then(|| String::from_utf8_lossy(value(i))))
        .collect::<StringArray>();
    Ok(Arc::new(repaired))
}

pub(crate) fn decimals(v: Vec<i128>, nulls: Option<NullBuffer>, precision: u8, scale: u8) -> ArrayRef {
    let array = Decimal128Array::new(v.into(), nulls)
        .with_precision_and_scale(precision, scale as i8)
        .expect("the type checked precision and scale");
    Arc::new(array)
}

pub(crate) fn timestamps(v: Vec<i64>, nulls: Option<NullBuffer>, storage: &DataType) -> ArrayRef {
    let DataType::Timestamp(unit, zone) = storage else { unreachable!("times are stored as timestamps") };
    let zone = zone.clone();
    match unit {
        TimeUnit::Second => Arc::new(TimestampSecondArray::new(v.into(), nulls).with_timezone_opt(zone)),
        TimeUnit::Millisecond => {
            Arc::new(TimestampMillisecondArray::new(v.into(), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Microsecond => {
            Arc::new(TimestampMicrosecondArray::new(v.into(), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Nanosecond => {
            Arc::new(TimestampNanosecondArray::new(v.into(), nulls).with_timezone_opt(zone))
        }
    }
}

pub(crate) fn list(storage: &DataType, offsets: Vec<i32>, items: ArrayRef) -> ArrayRef {
    let DataType::List(field) = storage else { unreachable!("arrays are stored as lists") };
    Arc::new(ListArray::new(field.clone(), OffsetBuffer::new(offsets.into()), items, None))
}

pub(crate) fn map(storage: &DataType, offsets: Vec<i32>, keys: ArrayRef, values: ArrayRef) -> ArrayRef {
    let DataType::Map(field, _) = storage else { unreachable!("maps are stored as maps") };
    let DataType::Struct(kv) = field.data_type() else { unreachable!("entries of a map are a struct") };
    let entries = StructArray::new(kv.clone(), vec![keys, values], None);
    Arc::new(MapArray::new(field.clone(), OffsetBuffer::new(offsets.into()), entries, None, false))
}

pub(crate) fn tuple(storage: &DataType, fields: Vec<ArrayRef>, rows: usize) -> ArrayRef {
    let DataType::Struct(names) = storage else { unreachable!("tuples are stored as structs") };
    if fields.is_empty() {
        return Arc::new(StructArray::new_empty_fields(rows, None));
    }
    Arc::new(StructArray::new(names.clone(), fields, None))
}
