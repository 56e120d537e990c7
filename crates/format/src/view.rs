//! Arrays seen as values of our types, for encoders.
//!
//! A batch may come with other Arrow types than its schema's types are stored as (string views,
//! dictionaries, wider decimals): [`Columns`] casts those once per batch, then [`View`] hands out
//! values without further checks.

use crate::FormatError;
use crate::kind::{EnumKind, Kind, Shape, TimeKind, TupleKind};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, SchemaRef, TimeUnit};

/// The columns of a result: names and kinds, worked out once.
pub(crate) struct Columns {
    pub names: Vec<String>,
    pub kinds: Vec<Kind>,
}

impl Columns {
    pub fn new(schema: &SchemaRef) -> Columns {
        Columns {
            names: schema.fields().iter().map(|f| f.name().clone()).collect(),
            kinds: schema.fields().iter().map(|f| Kind::of_field(f)).collect(),
        }
    }

    /// The batch's columns in the storage of their kinds.
    pub fn arrays(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, FormatError> {
        self.kinds
            .iter()
            .zip(batch.columns())
            .zip(&self.names)
            .map(|((kind, array), name)| {
                stored(kind, array).map_err(|what| FormatError::Encode { column: name.clone(), what })
            })
            .collect()
    }

    pub fn views<'a>(&'a self, arrays: &'a [ArrayRef]) -> Vec<View<'a>> {
        self.kinds.iter().zip(arrays).map(|(k, a)| View::new(k, a)).collect()
    }
}

/// The array with the kind's storage, cast if it has another.
pub(crate) fn stored(kind: &Kind, array: &ArrayRef) -> Result<ArrayRef, String> {
    let storage = kind.ty.storage();
    if *array.data_type() == storage || storage.equals_datatype(array.data_type()) {
        return Ok(array.clone());
    }
    let options = arrow_cast::CastOptions { safe: false, ..Default::default() };
    arrow_cast::cast_with_options(array, &storage, &options)
        .map_err(|e| format!("can not be shown as {}: {e}", kind.ty))
}

pub(crate) struct View<'a> {
    pub kind: &'a Kind,
    nulls: Option<&'a NullBuffer>,
    pub data: Values<'a>,
}

pub(crate) enum Values<'a> {
    Bool(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Decimal { values: &'a [i128], precision: u8, scale: u8 },
    String(&'a StringArray),
    Bytes(&'a BinaryArray),
    Enum(&'a StringArray, &'a EnumKind),
    Date(&'a [i32]),
    Time(&'a [i64], &'a TimeKind),
    Uuid(&'a FixedSizeBinaryArray),
    Ipv6(&'a FixedSizeBinaryArray),
    Ipv4(&'a [u32]),
    Array { offsets: &'a [i32], items: Box<View<'a>> },
    Map { offsets: &'a [i32], keys: Box<View<'a>>, values: Box<View<'a>> },
    Tuple { fields: Vec<View<'a>>, spec: &'a TupleKind },
    Nothing,
}

impl<'a> View<'a> {
    /// `array` has the storage of `kind` (see [`stored`]).
    pub fn new(kind: &'a Kind, array: &'a ArrayRef) -> View<'a> {
        macro_rules! numbers {
            ($variant:ident, $t:ty) => {
                Values::$variant(array.as_primitive::<$t>().values())
            };
        }
        let data = match &kind.shape {
            Shape::Bool => Values::Bool(array.as_boolean()),
            Shape::Int8 => numbers!(Int8, Int8Type),
            Shape::Int16 => numbers!(Int16, Int16Type),
            Shape::Int32 => numbers!(Int32, Int32Type),
            Shape::Int64 => numbers!(Int64, Int64Type),
            Shape::UInt8 => numbers!(UInt8, UInt8Type),
            Shape::UInt16 => numbers!(UInt16, UInt16Type),
            Shape::UInt32 => numbers!(UInt32, UInt32Type),
            Shape::UInt64 => numbers!(UInt64, UInt64Type),
            Shape::Float32 => numbers!(Float32, Float32Type),
            Shape::Float64 => numbers!(Float64, Float64Type),
            Shape::Date => numbers!(Date, Date32Type),
            Shape::Ipv4 => numbers!(Ipv4, UInt32Type),
            Shape::Decimal { precision, scale } => Values::Decimal {
                values: array.as_primitive::<Decimal128Type>().values(),
                precision: *precision,
                scale: *scale,
            },
            Shape::String => Values::String(array.as_string()),
            Shape::Bytes => Values::Bytes(array.as_binary()),
            Shape::Enum(e) => Values::Enum(array.as_string(), e),
            Shape::Time(t) => Values::Time(ticks(array), t),
            Shape::Uuid => Values::Uuid(array.as_fixed_size_binary()),
            Shape::Ipv6 => Values::Ipv6(array.as_fixed_size_binary()),
            Shape::Array(k) => {
                let list = array.as_list::<i32>();
                Values::Array { offsets: list.value_offsets(), items: Box::new(View::new(k, list.values())) }
            }
            Shape::Map(k, v) => {
                let map = array.as_map();
                Values::Map {
                    offsets: map.value_offsets(),
                    keys: Box::new(View::new(k, map.keys())),
                    values: Box::new(View::new(v, map.values())),
                }
            }
            Shape::Tuple(t) => Values::Tuple {
                fields: t
                    .fields
                    .iter()
                    .zip(array.as_struct().columns())
                    .map(|((_, k), a)| View::new(k, a))
                    .collect(),
                spec: t,
            },
            Shape::Nothing => Values::Nothing,
        };
        View { kind, nulls: array.nulls(), data }
    }

    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        match self.nulls {
            Some(n) => n.is_null(row),
            None => matches!(self.data, Values::Nothing),
        }
    }

    /// The items of an array or map value; a null one has none.
    pub fn items(&self, offsets: &[i32], row: usize) -> std::ops::Range<usize> {
        if self.is_null(row) { 0..0 } else { offsets[row] as usize..offsets[row + 1] as usize }
    }
}

fn ticks(array: &ArrayRef) -> &[i64] {
    let DataType::Timestamp(unit, _) = array.data_type() else {
        unreachable!("times are stored as timestamps")
    };
    match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    }
}
