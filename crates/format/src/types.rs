//! Weir's types: their names in both spellings and their Arrow storage.
//!
//! A type is ClickHouse's in meaning and name. Where Arrow has no such type, the field's
//! metadata key [`TYPE_KEY`] keeps the canonical name; the storage stays plain Arrow, so that
//! every kernel and any Parquet reader works on it:
//!
//! | type | storage |
//! | --- | --- |
//! | `bool` `int8…64` `uint8…64` `float32/64` | the same in Arrow |
//! | `decimal(P,S)`, P ≤ 38 | `Decimal128(P, S)` |
//! | `string` | `Utf8` |
//! | `bytes` | `Binary` (named `String` towards clients) |
//! | `date` | `Date32` |
//! | `datetime(tz)` | `Timestamp(Second, tz or UTC)` |
//! | `datetime64(p, tz)` | `Timestamp(s, ms, us or ns, tz or UTC)`: the unit that holds `p` digits |
//! | `uuid` `ipv6` | `FixedSizeBinary(16)`, big endian |
//! | `ipv4` | `UInt32` |
//! | `enum8/16` | `Utf8`, names checked on entry |
//! | `low_cardinality(T)` | storage of `T` (dictionary-coded in parts and on the native wire) |
//! | `array(T)` `map(K,V)` `tuple(…)` | `List` `Map` `Struct` |
//! | `nullable(T)` | storage of `T` in a nullable field |
//!
//! Fields are not nullable unless the type says so.

mod parse;

use crate::Spelling;
use arrow_schema::{DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, Fields, TimeUnit};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Field metadata key that holds the canonical (lower-case) type name.
pub const TYPE_KEY: &str = "weir.type";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
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
    /// Precision 1 to 38, scale 0 to precision.
    Decimal(u8, u8),
    String,
    Bytes,
    Date,
    /// Time zone as written, `None` = the server's (UTC).
    DateTime(Option<Arc<str>>),
    /// Digits after the second, 0 to 9.
    DateTime64(u8, Option<Arc<str>>),
    Uuid,
    Ipv4,
    Ipv6,
    /// Names with values, ascending by value; 8 or 16 bits.
    Enum(EnumWidth, Arc<[(Arc<str>, i16)]>),
    Array(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// Names are `None` for `tuple(int32, string)`: the fields are then called 1, 2, …
    Tuple(Arc<[(Option<Arc<str>>, Type)]>),
    Nullable(Box<Type>),
    LowCardinality(Box<Type>),
    /// The type of a bare `NULL`.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnumWidth {
    Bits8,
    Bits16,
}

/// Why a type name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    #[error("unknown type {name}{hint}")]
    Unknown { name: String, hint: String },
    /// A type of the dialect that this version does not have.
    #[error("type {name} is not supported yet")]
    NotYet { name: String },
    #[error("bad type {name}: {what}")]
    Bad { name: String, what: String },
}

impl Type {
    /// Parses either spelling and all aliases, for example `Nullable(Int32)`, `int`,
    /// `datetime64(3, 'UTC')`.
    pub fn parse(text: &str) -> Result<Type, TypeError> {
        parse::parse(text)
    }

    /// The Arrow storage, without nullability.
    pub fn storage(&self) -> DataType {
        match self {
            Type::Bool => DataType::Boolean,
            Type::Int8 => DataType::Int8,
            Type::Int16 => DataType::Int16,
            Type::Int32 => DataType::Int32,
            Type::Int64 => DataType::Int64,
            Type::UInt8 => DataType::UInt8,
            Type::UInt16 => DataType::UInt16,
            Type::UInt32 | Type::Ipv4 => DataType::UInt32,
            Type::UInt64 => DataType::UInt64,
            Type::Float32 => DataType::Float32,
            Type::Float64 => DataType::Float64,
            Type::Decimal(p, s) => DataType::Decimal128(*p, *s as i8),
            Type::String | Type::Enum(..) => DataType::Utf8,
            Type::Bytes => DataType::Binary,
            Type::Date => DataType::Date32,
            Type::DateTime(tz) => DataType::Timestamp(TimeUnit::Second, Some(zone(tz))),
            Type::DateTime64(p, tz) => DataType::Timestamp(unit_of(*p), Some(zone(tz))),
            Type::Uuid | Type::Ipv6 => DataType::FixedSizeBinary(16),
            Type::Array(t) => DataType::List(Arc::new(t.field("item"))),
            Type::Map(k, v) => DataType::Map(
                Arc::new(Field::new(
                    "entries",
                    DataType::Struct(Fields::from(vec![k.field("key"), v.field("value")])),
                    false,
                )),
                false,
            ),
            Type::Tuple(fields) => DataType::Struct(
                fields
                    .iter()
                    .enumerate()
                    .map(|(i, (name, t))| {
                        t.field(&name.as_ref().map_or_else(|| (i + 1).to_string(), |n| n.to_string()))
                    })
                    .collect(),
            ),
            Type::Nullable(t) | Type::LowCardinality(t) => t.storage(),
            Type::Nothing => DataType::Null,
        }
    }

    pub fn is_nullable(&self) -> bool {
        match self {
            Type::Nullable(_) | Type::Nothing => true,
            Type::LowCardinality(t) => t.is_nullable(),
            _ => false,
        }
    }

    /// The type without `nullable` and `low_cardinality` around it.
    pub fn inner(&self) -> &Type {
        match self {
            Type::Nullable(t) | Type::LowCardinality(t) => t.inner(),
            other => other,
        }
    }

    /// `nullable(self)`, unless it is already.
    pub fn into_nullable(self) -> Type {
        match self {
            t if t.is_nullable() => t,
            Type::LowCardinality(t) => Type::LowCardinality(Box::new(t.into_nullable())),
            t => Type::Nullable(Box::new(t)),
        }
    }

    /// An Arrow field of this type. The name is kept in metadata where storage alone does not
    /// tell the type.
    pub fn field(&self, name: &str) -> Field {
        let field = Field::new(name, self.storage(), self.is_nullable());
        if Type::from_storage(field.data_type(), field.is_nullable()).as_ref() == Some(self) {
            field
        } else {
            field.with_metadata(HashMap::from([(TYPE_KEY.to_owned(), self.to_string())]))
        }
    }

    /// The type of a field: from its metadata if that still fits the storage, else the nearest
    /// type of the storage. Nullability is always the field's own.
    ///
    /// `None` for storage Weir has no type for (then the engine casts or refuses).
    pub fn of_field(field: &Field) -> Option<Type> {
        if let Some(declared) = field.metadata().get(TYPE_KEY).and_then(|t| Type::parse(t).ok())
            && same_storage(&declared.storage(), field.data_type())
        {
            return Some(match (declared.is_nullable(), field.is_nullable()) {
                (true, false) => declared.without_nullable(),
                (false, true) => declared.into_nullable(),
                _ => declared,
            });
        }
        Type::from_storage(field.data_type(), field.is_nullable())
    }

    fn without_nullable(self) -> Type {
        match self {
            Type::Nullable(t) => *t,
            Type::LowCardinality(t) => Type::LowCardinality(Box::new(t.without_nullable())),
            t => t,
        }
    }

    fn from_storage(data_type: &DataType, nullable: bool) -> Option<Type> {
        let t = match data_type {
            DataType::Null => return Some(Type::Nothing),
            DataType::Boolean => Type::Bool,
            DataType::Int8 => Type::Int8,
            DataType::Int16 => Type::Int16,
            DataType::Int32 => Type::Int32,
            DataType::Int64 => Type::Int64,
            DataType::UInt8 => Type::UInt8,
            DataType::UInt16 => Type::UInt16,
            DataType::UInt32 => Type::UInt32,
            DataType::UInt64 => Type::UInt64,
            DataType::Float16 | DataType::Float32 => Type::Float32,
            DataType::Float64 => Type::Float64,
            // Schemas of strangers may say anything of digits.
            DataType::Decimal128(p, s) | DataType::Decimal32(p, s) | DataType::Decimal64(p, s)
                if *p <= DECIMAL128_MAX_PRECISION && (0..=*p as i8).contains(s) =>
            {
                Type::Decimal(*p, *s as u8)
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Type::String,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Type::Bytes,
            DataType::Date32 | DataType::Date64 => Type::Date,
            DataType::Timestamp(unit, tz) => {
                let tz = tz.clone().filter(|z| &**z != "UTC");
                match unit {
                    TimeUnit::Second => Type::DateTime(tz),
                    TimeUnit::Millisecond => Type::DateTime64(3, tz),
                    TimeUnit::Microsecond => Type::DateTime64(6, tz),
                    TimeUnit::Nanosecond => Type::DateTime64(9, tz),
                }
            }
            DataType::List(f)
            | DataType::LargeList(f)
            | DataType::FixedSizeList(f, _)
            | DataType::ListView(f)
            | DataType::LargeListView(f) => Type::Array(Box::new(Type::of_field(f)?)),
            DataType::Map(entries, _) => {
                let DataType::Struct(kv) = entries.data_type() else { return None };
                Type::Map(Box::new(Type::of_field(kv.first()?)?), Box::new(Type::of_field(kv.get(1)?)?))
            }
            DataType::Struct(fields) => Type::Tuple(tuple_of(fields)?),
            DataType::Dictionary(_, value) => {
                return Type::from_storage(value, nullable).map(|t| Type::LowCardinality(Box::new(t)));
            }
            _ => return None,
        };
        // Arrays, maps and tuples have no nullable form: a null there reads as the default.
        Some(if nullable && !matches!(t, Type::Array(_) | Type::Map(..) | Type::Tuple(_)) {
            Type::Nullable(Box::new(t))
        } else {
            t
        })
    }

    /// The name in the spelling a client knows.
    pub fn name(&self, spelling: Spelling) -> String {
        match spelling {
            Spelling::Lower => self.to_string(),
            Spelling::Camel => {
                let mut out = String::new();
                self.write(&mut out, Spelling::Camel).expect("writing to a String cannot fail");
                out
            }
        }
    }

    fn write(&self, f: &mut impl fmt::Write, s: Spelling) -> fmt::Result {
        let camel = s == Spelling::Camel;
        let pick = |lower: &'static str, upper: &'static str| if camel { upper } else { lower };
        match self {
            Type::Bool => f.write_str(pick("bool", "Bool")),
            Type::Int8 => f.write_str(pick("int8", "Int8")),
            Type::Int16 => f.write_str(pick("int16", "Int16")),
            Type::Int32 => f.write_str(pick("int32", "Int32")),
            Type::Int64 => f.write_str(pick("int64", "Int64")),
            Type::UInt8 => f.write_str(pick("uint8", "UInt8")),
            Type::UInt16 => f.write_str(pick("uint16", "UInt16")),
            Type::UInt32 => f.write_str(pick("uint32", "UInt32")),
            Type::UInt64 => f.write_str(pick("uint64", "UInt64")),
            Type::Float32 => f.write_str(pick("float32", "Float32")),
            Type::Float64 => f.write_str(pick("float64", "Float64")),
            Type::Decimal(p, sc) => write!(f, "{}({p}, {sc})", pick("decimal", "Decimal")),
            Type::String => f.write_str(pick("string", "String")),
            Type::Bytes => f.write_str(pick("bytes", "String")),
            Type::Date => f.write_str(pick("date", "Date")),
            Type::DateTime(None) => f.write_str(pick("datetime", "DateTime")),
            Type::DateTime(Some(tz)) => write!(f, "{}('{tz}')", pick("datetime", "DateTime")),
            Type::DateTime64(p, None) => write!(f, "{}({p})", pick("datetime64", "DateTime64")),
            Type::DateTime64(p, Some(tz)) => write!(f, "{}({p}, '{tz}')", pick("datetime64", "DateTime64")),
            Type::Uuid => f.write_str(pick("uuid", "UUID")),
            Type::Ipv4 => f.write_str(pick("ipv4", "IPv4")),
            Type::Ipv6 => f.write_str(pick("ipv6", "IPv6")),
            Type::Enum(width, values) => {
                f.write_str(match width {
                    EnumWidth::Bits8 => pick("enum8", "Enum8"),
                    EnumWidth::Bits16 => pick("enum16", "Enum16"),
                })?;
                f.write_str("(")?;
                for (i, (name, value)) in values.iter().enumerate() {
                    let quoted = name.replace('\\', "\\\\").replace('\'', "\\'");
                    write!(f, "{}'{quoted}' = {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            Type::Array(t) => {
                f.write_str(pick("array(", "Array("))?;
                t.write(f, s)?;
                f.write_str(")")
            }
            Type::Map(k, v) => {
                f.write_str(pick("map(", "Map("))?;
                k.write(f, s)?;
                f.write_str(", ")?;
                v.write(f, s)?;
                f.write_str(")")
            }
            Type::Tuple(fields) => {
                f.write_str(pick("tuple(", "Tuple("))?;
                for (i, (name, t)) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    if let Some(name) = name {
                        write!(f, "{} ", crate::types::parse::quote_name(name))?;
                    }
                    t.write(f, s)?;
                }
                f.write_str(")")
            }
            Type::Nullable(t) => {
                f.write_str(pick("nullable(", "Nullable("))?;
                t.write(f, s)?;
                f.write_str(")")
            }
            Type::LowCardinality(t) => {
                f.write_str(pick("low_cardinality(", "LowCardinality("))?;
                t.write(f, s)?;
                f.write_str(")")
            }
            Type::Nothing => f.write_str(pick("nullable(nothing)", "Nullable(Nothing)")),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Spelling::Lower)
    }
}

fn zone(tz: &Option<Arc<str>>) -> Arc<str> {
    tz.clone().unwrap_or_else(|| Arc::from("UTC"))
}

fn unit_of(digits: u8) -> TimeUnit {
    match digits {
        0 => TimeUnit::Second,
        1..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    }
}

#[allow(clippy::type_complexity)] // The parts of Type::Tuple, nothing more.
fn tuple_of(fields: &Fields) -> Option<Arc<[(Option<Arc<str>>, Type)]>> {
    let unnamed = fields.iter().enumerate().all(|(i, f)| *f.name() == (i + 1).to_string());
    fields
        .iter()
        .map(|f: &FieldRef| Some(((!unnamed).then(|| Arc::from(f.name().as_str())), Type::of_field(f)?)))
        .collect::<Option<Vec<_>>>()
        .map(Arc::from)
}

/// Same storage, whatever inner fields are called and whether they may be null.
fn same_storage(a: &DataType, b: &DataType) -> bool {
    a.equals_datatype(b) || a == b
}
