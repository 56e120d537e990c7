//! Columns made of what surrounds a payload.

use super::batch::RawMessage;
use arrow_array::builder::{BinaryBuilder, MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::{ArrayRef, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, SchemaRef};
use std::sync::Arc;
use weir_base::Code;
use weir_plan::{MESSAGE_HEADERS_COLUMN, MESSAGE_KEY_COLUMN, StreamError};

/// Surroundings of messages, one behind the other.
pub(super) struct Around {
    schema: SchemaRef,
    times_ms: Vec<i64>,
    keys: Option<Keys>,
    headers: Option<MapBuilder<StringBuilder, StringBuilder>>,
}

enum Keys {
    Text(StringBuilder, bool),
    Bytes(BinaryBuilder, bool),
}

impl Around {
    /// Gives the columns of `schema`.
    pub fn new(schema: SchemaRef) -> Self {
        let field = |name: &str| schema.field_with_name(name).ok();
        let keys = field(MESSAGE_KEY_COLUMN).map(|f| match f.data_type() {
            DataType::Binary => Keys::Bytes(BinaryBuilder::new(), f.is_nullable()),
            _ => Keys::Text(StringBuilder::new(), f.is_nullable()),
        });
        let headers = field(MESSAGE_HEADERS_COLUMN).map(map_builder);
        Around { schema, times_ms: Vec::new(), keys, headers }
    }

    /// # Errors
    /// 27 for a key that does not fit its column.
    pub fn push(&mut self, message: &RawMessage<'_>) -> Result<(), StreamError> {
        match &mut self.keys {
            None => {}
            Some(Keys::Text(out, nullable)) => match message.key().map(std::str::from_utf8) {
                None if *nullable => out.append_null(),
                None => out.append_value(""),
                Some(Ok(text)) => out.append_value(text),
                Some(Err(_)) => {
                    return Err(StreamError {
                        code: Code::CannotParseInput,
                        message: format!("the key is not UTF-8; declare {MESSAGE_KEY_COLUMN} bytes"),
                    });
                }
            },
            Some(Keys::Bytes(out, nullable)) => match message.key() {
                None if *nullable => out.append_null(),
                key => out.append_value(key.unwrap_or_default()),
            },
        }
        if let Some(out) = &mut self.headers {
            message.for_each_header(|name, value| {
                out.keys().append_value(name);
                out.values().append_value(String::from_utf8_lossy(value));
            });
            out.append(true).map_err(|e| StreamError { code: Code::LogicalError, message: e.to_string() })?;
        }
        self.times_ms.push(message.time_ms());
        Ok(())
    }

    pub fn times_ms(&self) -> &[i64] {
        &self.times_ms
    }

    /// Columns of all that was pushed, in the order of the schema.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        let times = std::mem::take(&mut self.times_ms);
        let mut out: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            out.push(match (field.name().as_str(), &mut self.keys, &mut self.headers) {
                (MESSAGE_KEY_COLUMN, Some(Keys::Text(keys, _)), _) => Arc::new(keys.finish()),
                (MESSAGE_KEY_COLUMN, Some(Keys::Bytes(keys, _)), _) => Arc::new(keys.finish()),
                (MESSAGE_HEADERS_COLUMN, _, Some(headers)) => Arc::new(headers.finish()),
                _ => {
                    let zone = match field.data_type() {
                        DataType::Timestamp(_, zone) => zone.clone(),
                        _ => None,
                    };
                    Arc::new(TimestampMillisecondArray::from(times.clone()).with_timezone_opt(zone))
                }
            });
        }
        out
    }
}

fn map_builder(field: &Field) -> MapBuilder<StringBuilder, StringBuilder> {
    let DataType::Map(entries, _) = field.data_type() else {
        return MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    };
    let (names, fields) = match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => (
            MapFieldNames {
                entry: entries.name().clone(),
                key: fields[0].name().clone(),
                value: fields[1].name().clone(),
            },
            Some((fields[0].clone(), fields[1].clone())),
        ),
        _ => (MapFieldNames::default(), None),
    };
    let builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    match fields {
        Some((key, value)) => builder.with_keys_field(key).with_values_field(value),
        None => builder,
    }
}
