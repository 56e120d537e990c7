//! Messages to columns.

use super::schema::ProtobufSchema;
use super::{NANOS, TIMESTAMP, is_wrapper};
use crate::column::{Column, Data};
use crate::datum::Datum;
use crate::fault::Fault;
use crate::kind::Shape;
use crate::paths::{Child, Target, targets};
use crate::rows::Rows;
use crate::{DecodedBatch, FormatError, FormatSettings};
use arrow_schema::SchemaRef;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

/// Rows of messages.
pub struct ProtobufRows {
    rows: Rows,
    /// Where the fields of the message seen last go.
    plan: Option<(MessageDescriptor, Vec<Target>)>,
}

/// Fields of a message by name.
pub(super) fn fields(message: &MessageDescriptor) -> Vec<(String, FieldDescriptor)> {
    message.fields().map(|f| (f.name().to_owned(), f)).collect()
}

pub(super) fn child(field: &FieldDescriptor) -> Child<FieldDescriptor> {
    match field.kind() {
        Kind::Message(m) if !field.is_list() && !field.is_map() => Child::Record(fields(&m)),
        _ => Child::Value,
    }
}

impl ProtobufRows {
    /// Gives the columns of `schema`.
    pub fn new(schema: SchemaRef, settings: &FormatSettings) -> Self {
        ProtobufRows { rows: Rows::new(schema, settings), plan: None }
    }

    /// Appends one message, all of `bytes`.
    ///
    /// # Errors
    /// Bytes that are no such message, or a value that its column can not hold. The rows before it stay.
    pub fn push(&mut self, schema: &ProtobufSchema, bytes: &[u8]) -> Result<(), FormatError> {
        let row = self.rows.row_number();
        let message = DynamicMessage::decode(schema.message.clone(), bytes)
            .map_err(|e| Fault::new(format!("no message of {}: {e}", schema.full_name()), b"").at_row(row))?;
        if self.plan.as_ref().is_none_or(|(of, _)| *of != schema.message) {
            let targets = targets(&self.rows.names, &fields(&schema.message), &child);
            self.plan = Some((schema.message.clone(), targets));
        }
        let Some((_, targets)) = &self.plan else { return Ok(()) };
        let settings = self.rows.settings.clone();
        if let Err(fault) = record(&message, targets, &mut self.rows.columns, &settings) {
            self.rows.undo_row();
            return Err(fault.at_row(row));
        }
        self.rows.fill_row();
        self.rows.end_row();
        Ok(())
    }

    /// Appends messages that each have their length before them; how many there were.
    ///
    /// # Errors
    /// As [`Self::push`]; the rows of these bytes are gone then, those before stay.
    pub fn push_delimited(&mut self, schema: &ProtobufSchema, bytes: &[u8]) -> Result<u32, FormatError> {
        let (mut rest, mut count) = (bytes, 0);
        while !rest.is_empty() {
            let pushed = match delimited(&mut rest) {
                Some(message) => self.push(schema, message),
                None => Err(Fault::new(
                    "a message shorter than its length says; data_format='ProtobufSingle' is for messages without a length",
                    b"",
                )
                .at_row(self.rows.row_number())),
            };
            if let Err(e) = pushed {
                (0..count).for_each(|_| self.rows.unpush_row());
                return Err(e);
            }
            count += 1;
        }
        Ok(count)
    }

    pub fn len(&self) -> usize {
        self.rows.batch_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows, and none are left.
    pub fn finish(&mut self) -> Result<DecodedBatch, FormatError> {
        self.rows.flush()
    }
}

/// The bytes behind a length.
fn delimited<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut size = 0u64;
    for (i, byte) in input.iter().take(10).enumerate() {
        size |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte & 0x80 == 0 {
            let (message, rest) = input[i + 1..].split_at_checked(usize::try_from(size).ok()?)?;
            *input = rest;
            return Some(message);
        }
    }
    None
}

fn record(
    message: &DynamicMessage,
    targets: &[Target],
    columns: &mut [Column],
    settings: &FormatSettings,
) -> Result<(), Fault> {
    for (field, target) in message.descriptor().fields().zip(targets) {
        if *target == Target::Skip || field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let got = message.get_field(&field);
        // No text at all says nothing of a number or a time: it is left out.
        if let (Target::Column(i), Value::String(_) | Value::Bytes(_)) = (target, got.as_ref())
            && !matches!(columns[*i].data, Data::String(_) | Data::Bytes(_))
            && !message.has_field(&field)
        {
            continue;
        }
        match (target, got.as_ref()) {
            (Target::Column(i), got) => value(&field.kind(), got, &mut columns[*i], settings),
            (Target::Record(below), Value::Message(inner)) => record(inner, below, columns, settings),
            _ => Ok(()),
        }
        .map_err(|fault| fault.in_column(field.name()))?;
    }
    Ok(())
}

fn value(kind: &Kind, value: &Value, column: &mut Column, settings: &FormatSettings) -> Result<(), Fault> {
    let unfit = |what: &str, column: &Column| {
        Fault::new(format!("{what} can not be read as {}", column.kind.ty), b"")
    };
    let datum = match value {
        Value::List(all) => {
            if !matches!(column.data, Data::Array { .. }) {
                return Err(unfit("a repeated field", column));
            }
            let Data::Array { items, .. } = &mut column.data else { unreachable!("looked at above") };
            for one in all {
                self::value(kind, one, items, settings)?;
            }
            column.end_items();
            return Ok(());
        }
        Value::Map(entries) => {
            let Kind::Message(entry) = kind else { return Err(unfit("a map", column)) };
            if !matches!(column.data, Data::Map { .. }) {
                return Err(unfit("a map", column));
            }
            let Data::Map { keys, values, .. } = &mut column.data else { unreachable!("looked at above") };
            // In the order of keys: the message has none.
            let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let of = entry.map_entry_value_field().kind();
            for (key, value) in entries {
                keys.push_datum(key_datum(key), settings)?;
                self::value(&of, value, values, settings)?;
            }
            column.end_items();
            return Ok(());
        }
        Value::Message(message) => return inner(message, column, settings),
        Value::EnumNumber(n) => {
            let name = kind.as_enum().and_then(|e| e.get_value(*n)).map(|v| v.name().to_owned());
            let texts = matches!(column.data, Data::String(_) | Data::Bytes(_) | Data::Enum(..));
            let number = n.to_string();
            return match name {
                Some(name) if texts => column.push_datum(Datum::Text(&name), settings),
                None if texts => column.push_datum(Datum::Text(&number), settings),
                _ => column.push_datum(Datum::Int((*n).into()), settings),
            };
        }
        Value::Bool(v) => Datum::Bool(*v),
        Value::I32(v) => Datum::Int((*v).into()),
        Value::I64(v) => Datum::Int(*v),
        Value::U32(v) => Datum::UInt((*v).into()),
        Value::U64(v) => Datum::UInt(*v),
        Value::F32(v) => Datum::Float((*v).into()),
        Value::F64(v) => Datum::Float(*v),
        Value::String(v) => Datum::Text(v),
        Value::Bytes(v) => Datum::Bytes(v),
    };
    column.push_datum(datum, settings)
}

fn key_datum(key: &MapKey) -> Datum<'_> {
    match key {
        MapKey::Bool(v) => Datum::Bool(*v),
        MapKey::I32(v) => Datum::Int((*v).into()),
        MapKey::I64(v) => Datum::Int(*v),
        MapKey::U32(v) => Datum::UInt((*v).into()),
        MapKey::U64(v) => Datum::UInt(*v),
        MapKey::String(v) => Datum::Text(v),
    }
}

/// A message as the value of one column.
fn inner(message: &DynamicMessage, column: &mut Column, settings: &FormatSettings) -> Result<(), Fault> {
    let desc = message.descriptor();
    let get = |name: &str| message.get_field_by_name(name).map(|v| v.into_owned());
    if desc.full_name() == TIMESTAMP && !matches!(column.data, Data::Tuple { .. }) {
        let seconds = get("seconds").and_then(|v| v.as_i64()).unwrap_or(0);
        let nanos = get("nanos").and_then(|v| v.as_i32()).unwrap_or(0);
        let time = match seconds.checked_mul(NANOS).and_then(|s| s.checked_add(nanos.into())) {
            Some(value) => Datum::Time { value, digits: 9 },
            None => Datum::Time { value: seconds, digits: 0 },
        };
        return column.push_datum(time, settings);
    }
    if is_wrapper(&desc)
        && let (Some(field), Some(got)) = (desc.get_field_by_name("value"), get("value"))
    {
        return value(&field.kind(), &got, column, settings);
    }
    let kind = column.kind.clone();
    let (Shape::Tuple(spec), Data::Tuple { fields: into, .. }) = (&kind.shape, &mut column.data) else {
        return Err(Fault::new(format!("a message can not be read as {}", kind.ty), b""));
    };
    for (place, ((name, _), column)) in spec.fields.iter().zip(into.iter_mut()).enumerate() {
        let field = if spec.named { desc.get_field_by_name(name) } else { desc.fields().nth(place) };
        match field.filter(|f| !f.supports_presence() || message.has_field(f)) {
            Some(field) => {
                value(&field.kind(), &message.get_field(&field), column, settings)
                    .map_err(|f| f.in_column(name))?;
            }
            None => column.push_default(),
        }
    }
    column.end_items();
    Ok(())
}
