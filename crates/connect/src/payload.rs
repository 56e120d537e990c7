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

pub(crate) use decode::{Bad, Decoded, Messages, PayloadDecoder};
pub(crate) use encode::PayloadEncoder;
pub(crate) use infer::infer;

use crate::settings::bad;
use arrow_schema::{DataType, Schema, SchemaRef};
use weir_base::Code;
use weir_format::FormatInfo;
use weir_plan::StreamError;

/// How bytes of a payload are to be understood.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PayloadFormat {
    /// The payload is the value of the only column.
    Raw,
    /// A format of rows.
    Rows(&'static FormatInfo),
}

/// What a payload format is told beside its name.
#[derive(Debug, Clone, Default)]
pub(crate) struct PayloadSettings {
    pub format: Option<String>,
    pub one_message_per_row: bool,
    /// Rows are packed into messages up to so many bytes.
    pub message_bytes_max: usize,
}

const RAW: &str = "RawBLOB";

fn is_bytes(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::Binary)
}

impl PayloadFormat {
    /// By name; without one `RawBLOB` for a single column of text, else `JSONEachRow`.
    ///
    /// # Errors
    /// 73 for a name that is not known, 36 where the columns do not fit it.
    pub fn of(name: Option<&str>, columns: &Schema) -> Result<PayloadFormat, StreamError> {
        let one = matches!(columns.fields().iter().as_slice(), [f] if is_bytes(f.data_type()));
        let name = name.unwrap_or(if one { RAW } else { "JSONEachRow" });
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
        for later in ["Avro", "Protobuf", "ProtobufSingle"] {
            if name.eq_ignore_ascii_case(later) {
                return Err(StreamError {
                    code: Code::NotImplemented,
                    message: format!(
                        "data_format='{later}' is not supported yet; read the payload as RawBLOB"
                    ),
                });
            }
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
        }
    }

    /// Whether values are found by name, so that only those wanted need be looked for.
    fn names_columns(&self) -> bool {
        self.name().eq_ignore_ascii_case("JSONEachRow")
    }

    /// Whether messages can be put behind each other with a line break between.
    fn is_lines(&self) -> bool {
        matches!(self.name(), "JSONEachRow" | "JSONCompactEachRow" | "CSV" | "TabSeparated")
    }
}

/// The columns of a payload that are looked for.
pub(crate) fn wanted(format: PayloadFormat, payload: &SchemaRef, columns: Option<&[String]>) -> SchemaRef {
    match columns {
        Some(names) if format.names_columns() => {
            let fields = payload.fields().iter().filter(|f| names.contains(f.name())).cloned();
            std::sync::Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        }
        _ => payload.clone(),
    }
}
