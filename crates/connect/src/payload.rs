//! Payloads of messages to rows and back, by the name of their format.
//!
//! Messages of text are decoded many at a time; where one of them is not exactly one row, or does not parse,
//! they are decoded one by one.
//!
//! A message without a payload (a tombstone) is NULL for a single column of bytes, and no row otherwise.
//!
//! Not here: where messages come from.

mod decode;
mod encode;
mod infer;
mod registry;
mod schema;

pub(crate) use decode::{Decoded, Failed, Messages, PayloadDecoder};
pub(crate) use encode::PayloadEncoder;
pub(crate) use infer::infer;
pub(crate) use registry::{Registry, RegistrySettings, SubjectStrategy};
pub(crate) use schema::{SchemaArgs, SchemaFormat, language_of};

use crate::remote::RemoteHosts;
use crate::settings::bad;
use arrow_schema::{DataType, Schema, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::Code;
use weir_format::FormatInfo;
use weir_plan::{SchemaText, StreamError};

/// How bytes of a payload are to be understood.
#[derive(Debug, Clone)]
pub(crate) enum PayloadFormat {
    /// The payload is the value of the only column.
    Raw,
    /// A format of rows.
    Rows(&'static FormatInfo),
    /// A format with a schema.
    Schema(Arc<SchemaFormat>),
}

/// What a payload format is told beside its name.
#[derive(Debug, Clone, Default)]
pub(crate) struct PayloadSettings {
    pub format: Option<String>,
    /// `schema[:Message]`.
    pub format_schema: Option<String>,
    pub registry: Option<RegistrySettings>,
    pub one_message_per_row: bool,
    /// Rows are packed into messages up to so many bytes.
    pub message_bytes_max: usize,
    /// The setting that says so, and what else has to be raised.
    pub limit: (&'static str, &'static str),
}

const RAW: &str = "RawBLOB";

fn is_bytes(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::Binary)
}

impl PayloadFormat {
    /// By name; without one `RawBLOB` for a single column of text, else `JSONEachRow`.
    ///
    /// # Errors
    /// 73 for a name that is not known, 36 where columns or schema do not fit it.
    pub fn of(
        how: &PayloadSettings,
        columns: &Schema,
        topic: &str,
        schemas: &BTreeMap<String, SchemaText>,
        hosts: &RemoteHosts,
    ) -> Result<PayloadFormat, StreamError> {
        let one = matches!(columns.fields().iter().as_slice(), [f] if is_bytes(f.data_type()));
        let name = how.format.as_deref().unwrap_or(if one { RAW } else { "JSONEachRow" });
        if let Some((language, name)) = language_of(name) {
            let registry = how.registry.clone().map(|r| Registry::new(r, language, hosts)).transpose()?;
            let args = SchemaArgs { format_schema: how.format_schema.as_deref(), schemas, registry, topic };
            if let Some(format) = SchemaFormat::new(language, name, args, columns)? {
                return Ok(PayloadFormat::Schema(Arc::new(format)));
            }
        } else if how.registry.is_some() || how.format_schema.is_some() {
            return Err(bad(format!(
                "format_schema and kafka_schema_registry_url are for data_format 'Avro', 'Protobuf' and \
                 'ProtobufSingle', not '{name}'"
            )));
        }
        if name.eq_ignore_ascii_case(RAW) {
            return if one {
                Ok(PayloadFormat::Raw)
            } else {
                Err(bad(format!(
                    "data_format='{RAW}' takes one column of type string or bytes for the payload; found {}",
                    columns.fields().len()
                )))
            };
        }
        match weir_format::find(name) {
            Ok(info) if info.input => Ok(PayloadFormat::Rows(info)),
            Ok(info) => Err(bad(format!(
                "data_format='{}' can only be written; messages have to be read, too",
                info.name
            ))),
            Err(e) => {
                Err(StreamError { code: Code::UnknownFormat, message: format!("data_format: {e}; or {RAW}") })
            }
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            PayloadFormat::Raw => RAW,
            PayloadFormat::Rows(info) => info.name,
            PayloadFormat::Schema(format) => format.name,
        }
    }

    pub fn content_type(&self) -> &'static str {
        match self {
            PayloadFormat::Rows(info) => info.content_type,
            PayloadFormat::Raw | PayloadFormat::Schema(_) => "application/octet-stream",
        }
    }

    /// Whether values are found by name, so that only those wanted need be looked for.
    fn names_columns(&self) -> bool {
        matches!(self, PayloadFormat::Schema(_)) || self.name().eq_ignore_ascii_case("JSONEachRow")
    }

    /// Whether messages can be put behind each other with a line break between.
    fn is_lines(&self) -> bool {
        matches!(self.name(), "JSONEachRow" | "JSONCompactEachRow" | "CSV" | "TabSeparated")
    }
}

/// The columns of a payload that are looked for.
pub(crate) fn wanted(format: &PayloadFormat, payload: &SchemaRef, columns: Option<&[String]>) -> SchemaRef {
    match columns {
        Some(names) if format.names_columns() => {
            let fields = payload.fields().iter().filter(|f| names.contains(f.name())).cloned();
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        }
        _ => payload.clone(),
    }
}
