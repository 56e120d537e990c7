//! Columns to messages.

use super::read::{child, fields};
use super::schema::ProtobufSchema;
use super::{NANOS, TIMESTAMP, is_wrapper};
use crate::datum::{Datum, datum_of, rescaled, text_of};
use crate::paths::{Target, targets, unused};
use crate::view::{Columns, Values, View};
use crate::{FormatError, FormatSettings};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use std::collections::HashMap;

/// Writes rows of some columns as messages.
pub struct ProtobufWriter {
    columns: Columns,
    schema: ProtobufSchema,
    targets: Vec<Target>,
    settings: FormatSettings,
}

impl ProtobufWriter {
    /// # Errors
    /// A column that no field is for.
    pub fn new(
        columns: &SchemaRef,
        schema: ProtobufSchema,
        settings: &FormatSettings,
    ) -> Result<Self, FormatError> {
        let columns = Columns::new(columns);
        let targets = targets(&columns.names, &fields(&schema.message), &child);
        if let Some(i) = unused(columns.names.len(), &targets) {
            return Err(FormatError::Schema {
                name: "Protobuf",
                what: format!("message {} has no field {}", schema.full_name(), columns.names[i]),
            });
        }
        Ok(ProtobufWriter { columns, schema, targets, settings: settings.clone() })
    }

    pub fn schema(&self) -> &ProtobufSchema {
        &self.schema
    }

    /// Appends a message with its length before it.
    pub fn delimit(message: &[u8], out: &mut Vec<u8>) {
        let mut size = message.len();
        while size >= 0x80 {
            out.push(size as u8 | 0x80);
            size >>= 7;
        }
        out.push(size as u8);
        out.extend(message);
    }

    /// Hands each row's message over.
    ///
    /// # Errors
    /// A value that its field can not hold.
    pub fn write(&self, batch: &RecordBatch, mut each: impl FnMut(Vec<u8>)) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            let message = self.message(&self.schema.message, &self.targets, &views, row)?;
            each(message.map(|m| m.encode_to_vec()).unwrap_or_default());
        }
        Ok(())
    }

    /// `None`: nothing of it is set.
    fn message(
        &self,
        desc: &MessageDescriptor,
        targets: &[Target],
        views: &[View<'_>],
        row: usize,
    ) -> Result<Option<DynamicMessage>, FormatError> {
        let mut message = None;
        for (field, target) in desc.fields().zip(targets) {
            let value = match target {
                Target::Skip => None,
                Target::Column(i) => value(&field, &views[*i], row, &self.settings)
                    .map_err(|what| FormatError::Encode { column: self.columns.names[*i].clone(), what })?,
                Target::Record(below) => match field.kind() {
                    Kind::Message(inner) => self.message(&inner, below, views, row)?.map(Value::Message),
                    _ => None,
                },
            };
            if let Some(value) = value {
                message.get_or_insert_with(|| DynamicMessage::new(desc.clone())).set_field(&field, value);
            }
        }
        Ok(message)
    }
}

/// The value of a field; `None` = it is not set.
fn value(
    field: &FieldDescriptor,
    view: &View<'_>,
    row: usize,
    settings: &FormatSettings,
) -> Result<Option<Value>, String> {
    match &view.data {
        Values::Map { offsets, keys, values } if field.is_map() => {
            let Kind::Message(entry) = field.kind() else { return Ok(None) };
            let (key, of) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            let mut map = HashMap::new();
            for i in view.items(offsets, row) {
                let key = one(&key, keys, i, settings)?.into_map_key();
                let key: MapKey = key.ok_or("a key that Protobuf has no type for")?;
                map.insert(key, one(&of, values, i, settings)?);
            }
            Ok(Some(Value::Map(map)))
        }
        Values::Array { offsets, items } if field.is_list() => {
            let all = view.items(offsets, row).map(|i| one(&field.kind(), items, i, settings));
            Ok(Some(Value::List(all.collect::<Result<_, _>>()?)))
        }
        _ if field.is_list() || field.is_map() => {
            Err(format!("{} can not be written as the repeated field {}", view.kind.ty, field.name()))
        }
        _ if view.is_null(row) => match field.is_required() {
            true => Err("null for a required field".into()),
            false => Ok(None),
        },
        _ => one(&field.kind(), view, row, settings).map(Some),
    }
}

fn one(kind: &Kind, view: &View<'_>, row: usize, settings: &FormatSettings) -> Result<Value, String> {
    if let (Kind::Message(desc), Values::Tuple { fields: views, spec }) = (kind, &view.data) {
        let mut message = DynamicMessage::new(desc.clone());
        for (place, ((name, _), view)) in spec.fields.iter().zip(views).enumerate() {
            let field = if spec.named { desc.get_field_by_name(name) } else { desc.fields().nth(place) };
            let field = field.ok_or_else(|| format!("message {} has no field {name}", desc.full_name()))?;
            if let Some(value) =
                value(&field, view, row, settings).map_err(|what| format!("{name}: {what}"))?
            {
                message.set_field(&field, value);
            }
        }
        return Ok(Value::Message(message));
    }
    let mut scratch = Vec::new();
    let unfit = || format!("{} can not be written as {}", view.kind.ty, word(kind));
    let datum = datum_of(view, row, settings, &mut scratch).ok_or_else(unfit)?;
    if datum == Datum::Null {
        return Err(format!("null within a value; {} has none there", word(kind)));
    }
    if let Kind::Message(desc) = kind {
        return message_of(desc, datum, view, row, settings);
    }
    let range = || format!("out of range of {}", word(kind));
    let integer = || datum.integer().filter(|_| !matches!(datum, Datum::Decimal { .. })).ok_or_else(unfit);
    Ok(match kind {
        Kind::Double => Value::F64(datum.float().ok_or_else(unfit)?),
        Kind::Float => Value::F32(datum.float().ok_or_else(unfit)? as f32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(integer()?.try_into().map_err(|_| range())?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(integer()?.try_into().map_err(|_| range())?)
        }
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer()?.try_into().map_err(|_| range())?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer()?.try_into().map_err(|_| range())?),
        Kind::Bool => match datum {
            Datum::Bool(v) => Value::Bool(v),
            _ => return Err(unfit()),
        },
        Kind::String => match datum {
            Datum::Text(v) => Value::String(v.to_owned()),
            Datum::Bytes(v) => match std::str::from_utf8(v) {
                Ok(text) => Value::String(text.to_owned()),
                Err(_) => return Err("bytes that are not UTF-8 for a string".into()),
            },
            // Dates, times and decimals have no type of their own.
            Datum::Date(_) | Datum::Time { .. } | Datum::Decimal { .. } => {
                let mut text = Vec::new();
                text_of(view, row, settings, &mut text);
                Value::String(String::from_utf8_lossy(&text).into_owned())
            }
            _ => return Err(unfit()),
        },
        Kind::Bytes => match datum {
            Datum::Text(v) => Value::Bytes(v.as_bytes().to_vec().into()),
            Datum::Bytes(v) => Value::Bytes(v.to_vec().into()),
            _ => return Err(unfit()),
        },
        Kind::Enum(desc) => match datum {
            Datum::Text(v) => {
                let value = desc.get_value_by_name(v);
                Value::EnumNumber(
                    value.ok_or_else(|| format!("'{v}' is no name of {}", desc.full_name()))?.number(),
                )
            }
            _ => Value::EnumNumber(integer()?.try_into().map_err(|_| range())?),
        },
        Kind::Message(_) => return Err(unfit()),
    })
}

/// A scalar where the schema has a message for it.
fn message_of(
    desc: &MessageDescriptor,
    datum: Datum<'_>,
    view: &View<'_>,
    row: usize,
    settings: &FormatSettings,
) -> Result<Value, String> {
    let mut message = DynamicMessage::new(desc.clone());
    match datum {
        Datum::Time { value, digits } if desc.full_name() == TIMESTAMP => {
            let seconds = rescaled(value, digits, 0).ok_or("out of range of a timestamp")?;
            let unit = 10i64.pow(u32::from(digits));
            let nanos = value.rem_euclid(unit) * (NANOS / unit);
            message.set_field_by_name("seconds", Value::I64(seconds));
            message.set_field_by_name("nanos", Value::I32(nanos as i32));
        }
        _ if is_wrapper(desc) => {
            let field = desc.get_field_by_name("value").ok_or("a wrapper without a value")?;
            message.set_field(&field, one(&field.kind(), view, row, settings)?);
        }
        _ => return Err(format!("{} can not be written as message {}", view.kind.ty, desc.full_name())),
    }
    Ok(Value::Message(message))
}

fn word(kind: &Kind) -> String {
    match kind {
        Kind::Message(m) => m.full_name().to_owned(),
        Kind::Enum(e) => e.full_name().to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}
