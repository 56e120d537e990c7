//! A [`Type`] made ready for work: zones resolved, enum names indexed, one node per level.
//!
//! Decoders and encoders walk this tree next to their data, so that nothing about a type is
//! looked up per value.

use crate::types::{EnumWidth, Type};
use arrow_schema::Field;
use std::collections::HashMap;
use std::sync::Arc;

/// One level of a type.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub ty: Type,
    pub nullable: bool,
    pub low_cardinality: bool,
    pub shape: Shape,
}

#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Decimal { precision: u8, scale: u8 },
    String,
    Bytes,
    Date,
    Time(TimeKind),
    Uuid,
    Ipv4,
    Ipv6,
    Enum(EnumKind),
    Array(Box<Kind>),
    Map(Box<Kind>, Box<Kind>),
    Tuple(TupleKind),
    Nothing,
}

/// `datetime` and `datetime64`.
#[derive(Debug, Clone)]
pub(crate) struct TimeKind {
    /// `None` is UTC.
    pub zone: Option<chrono_tz::Tz>,
    /// Digits after the second that the type shows.
    pub digits: u8,
    /// Digits after the second that the Arrow unit holds: 0, 3, 6 or 9.
    pub unit_digits: u8,
    /// `datetime`: 32 bits of seconds on the wire.
    pub seconds: bool,
}

impl TimeKind {
    /// Storage ticks in one tick of the declared precision.
    pub fn unit_per_tick(&self) -> i64 {
        10i64.pow(u32::from(self.unit_digits - self.digits))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct EnumKind {
    pub width: EnumWidth,
    pub names: Arc<[(Arc<str>, i16)]>,
    by_name: Arc<HashMap<Arc<str>, i16>>,
    by_value: Arc<HashMap<i16, usize>>,
}

impl EnumKind {
    fn new(width: EnumWidth, names: &Arc<[(Arc<str>, i16)]>) -> Self {
        EnumKind {
            width,
            names: names.clone(),
            by_name: Arc::new(names.iter().cloned().collect()),
            by_value: Arc::new(names.iter().enumerate().map(|(i, (_, v))| (*v, i)).collect()),
        }
    }
    pub fn value_of(&self, name: &str) -> Option<i16> {
        self.by_name.get(name).copied()
    }
    pub fn name_of(&self, value: i16) -> Option<&str> {
        self.by_value.get(&value).map(|i| &*self.names[*i].0)
    }
    /// The default of an enum is the name of its least value.
    pub fn default_name(&self) -> &str {
        self.names.first().map_or("", |(n, _)| n)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct TupleKind {
    pub fields: Vec<(String, Kind)>,
    pub named: bool,
}

impl Kind {
    pub fn new(ty: &Type) -> Kind {
        let nullable = ty.is_nullable();
        let low_cardinality = matches!(ty, Type::LowCardinality(_));
        let shape = match ty.inner() {
            Type::Bool => Shape::Bool,
            Type::Int8 => Shape::Int8,
            Type::Int16 => Shape::Int16,
            Type::Int32 => Shape::Int32,
            Type::Int64 => Shape::Int64,
            Type::UInt8 => Shape::UInt8,
            Type::UInt16 => Shape::UInt16,
            Type::UInt32 => Shape::UInt32,
            Type::UInt64 => Shape::UInt64,
            Type::Float32 => Shape::Float32,
            Type::Float64 => Shape::Float64,
            Type::Decimal(p, s) => Shape::Decimal { precision: *p, scale: *s },
            Type::String => Shape::String,
            Type::Bytes => Shape::Bytes,
            Type::Date => Shape::Date,
            Type::DateTime(tz) => Shape::Time(time(tz, 0, true)),
            Type::DateTime64(p, tz) => Shape::Time(time(tz, *p, false)),
            Type::Uuid => Shape::Uuid,
            Type::Ipv4 => Shape::Ipv4,
            Type::Ipv6 => Shape::Ipv6,
            Type::Enum(width, names) => Shape::Enum(EnumKind::new(*width, names)),
            Type::Array(t) => Shape::Array(Box::new(Kind::new(t))),
            Type::Map(k, v) => Shape::Map(Box::new(Kind::new(k)), Box::new(Kind::new(v))),
            Type::Tuple(fields) => Shape::Tuple(TupleKind {
                named: fields.iter().any(|(n, _)| n.is_some()),
                fields: fields
                    .iter()
                    .enumerate()
                    .map(|(i, (n, t))| {
                        (n.as_ref().map_or_else(|| (i + 1).to_string(), |n| n.to_string()), Kind::new(t))
                    })
                    .collect(),
            }),
            Type::Nothing | Type::Nullable(_) | Type::LowCardinality(_) => Shape::Nothing,
        };
        Kind { ty: ty.clone(), nullable, low_cardinality, shape }
    }

    /// The kind of a field; storage without a type of ours is shown as its text.
    pub fn of_field(field: &Field) -> Kind {
        Kind::new(
            &Type::of_field(field).unwrap_or_else(|| {
                if field.is_nullable() { Type::String.into_nullable() } else { Type::String }
            }),
        )
    }
}

fn time(tz: &Option<Arc<str>>, digits: u8, seconds: bool) -> TimeKind {
    let zone = tz.as_ref().filter(|z| !matches!(&***z, "UTC" | "Z" | "+00:00")).and_then(|z| z.parse().ok());
    let unit_digits = match digits {
        0 => 0,
        1..=3 => 3,
        4..=6 => 6,
        _ => 9,
    };
    TimeKind { zone, digits, unit_digits, seconds }
}
