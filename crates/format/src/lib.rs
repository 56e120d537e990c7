//! Floor 1: types, and bytes to `RecordBatch` and back.
//!
//! Not here: SQL, streams, sockets, where bytes come from. A format knows a schema and bytes.

mod arrow_stream;
pub mod avro;
mod column;
mod conform;
mod csv;
mod datum;
mod fault;
mod json;
mod kind;
mod native;
mod parquet;
mod paths;
mod pretty;
pub mod protobuf;
mod registry;
mod rowbinary;
mod rows;
pub mod text;
mod tsv;
pub mod types;
mod values;
mod view;

#[cfg(test)]
mod tests;

pub use parquet::{ParquetRows, parquet_columns};
pub use registry::{decoder, encoder, find, formats};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;

/// How names of types are spelled towards a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spelling {
    /// `int32`, `low_cardinality(string)`.
    #[default]
    Lower,
    /// `Int32`, `LowCardinality(String)`.
    Camel,
}

/// Settings that formats obey; the session fills them from its settings.
#[derive(Debug, Clone)]
pub struct FormatSettings {
    pub spelling: Spelling,
    /// `output_format_json_quote_64bit_integers`, default false.
    pub json_quote_64bit_integers: bool,
    /// `output_format_json_quote_denormals`: inf and nan as strings, else null. Default false.
    pub json_quote_denormals: bool,
    /// `format_csv_delimiter`, default `,`.
    pub csv_delimiter: u8,
    /// `input_format_skip_unknown_fields`, default true (as Proton): fields no column has are skipped.
    pub skip_unknown_fields: bool,
    /// `input_format_null_as_default`, default true: a null for a column that is not nullable
    /// takes the column's default.
    pub null_as_default: bool,
    /// `input_utf8='replace'`: bytes that are not UTF-8 become U+FFFD, else they are refused.
    pub utf8_replace: bool,
    /// `output_format_pretty_max_rows`, default 10000.
    pub pretty_rows_max: usize,
    /// A row or value larger than this is refused. Default 64 MiB.
    pub row_bytes_max: usize,
    /// A Parquet file, a Native block or an Arrow message larger than this is refused: those
    /// must be whole in memory before they can be read. Default 1 GiB.
    pub body_bytes_max: usize,
    /// Native protocol revision of the client over HTTP (`client_protocol_version`); 0 without
    /// block info.
    pub native_revision: u64,
    /// `output_format_parquet_compression_method` etc. stay at zstd.
    /// `date_time_input_format='best_effort'`; default basic plus ISO 8601.
    pub best_effort_times: bool,
}

impl Default for FormatSettings {
    fn default() -> Self {
        FormatSettings {
            spelling: Spelling::Lower,
            json_quote_64bit_integers: false,
            json_quote_denormals: false,
            csv_delimiter: b',',
            skip_unknown_fields: true,
            null_as_default: true,
            utf8_replace: false,
            pretty_rows_max: 10_000,
            row_bytes_max: 64 << 20,
            body_bytes_max: 1 << 30,
            native_revision: 0,
            best_effort_times: false,
        }
    }
}

/// Input that does not parse. Nothing of the batch that holds the row was handed out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FormatError {
    /// `row` counts from 1 over the whole input.
    #[error("row {row}{}: {what}{}", column.as_ref().map(|c| format!(", column {c}")).unwrap_or_default(),
            if text.is_empty() { String::new() } else { format!(", at '{text}'") })]
    Parse {
        row: u64,
        column: Option<String>,
        what: String,
        /// The offending text, cut to 100 characters.
        text: String,
    },
    #[error("format {name} is not known{hint}")]
    Unknown { name: String, hint: String },
    #[error("format {name} can not be used for {direction}")]
    Direction { name: String, direction: &'static str },
    #[error("format {name} can not carry column {column} of type {data_type}")]
    Unsupported { name: String, column: String, data_type: String },
    /// A value of a result that the format has no room for; the query must cast it.
    #[error("column {column}: {what}")]
    Encode { column: String, what: String },
    /// A schema of a format that has schemas.
    #[error("{name} schema: {what}")]
    Schema { name: &'static str, what: String },
    #[error("the input ends in the middle of row {row}")]
    Truncated { row: u64 },
}

/// Decodes a byte stream into batches of one schema. Pulled by whoever reads the body.
///
/// Batches hold the schema's columns in order. `absent()` tells which columns the input never
/// named, so that the engine can fill their defaults.
pub trait Decoder: Send {
    /// Takes the next bytes of the input; any split is allowed, also inside a row.
    fn push(&mut self, bytes: Bytes) -> Result<(), FormatError>;
    /// No more bytes come.
    fn finish(&mut self) -> Result<(), FormatError>;
    /// The next batch of up to `rows_max` rows; `None` when more bytes are needed (before
    /// `finish`) or everything was handed out (after). Before `finish` a decoder may hold back
    /// rows to fill a batch.
    fn next_batch(&mut self, rows_max: usize) -> Result<Option<DecodedBatch>, FormatError>;
}

/// Rows with a mark for each value the input did not give.
#[derive(Debug, Clone)]
pub struct DecodedBatch {
    /// In the schema asked for; values not given hold the type's default.
    pub batch: RecordBatch,
    /// For each column: `None` if every row gave it, else which rows left it out (true = left
    /// out). The engine puts the column's DEFAULT there.
    pub absent: Vec<Option<arrow_array::BooleanArray>>,
}

/// What an encoder is told at the end of a bounded result.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResultStats {
    pub elapsed_ns: u64,
    pub rows_read: u64,
    pub bytes_read: u64,
    /// Rows there would be without LIMIT; `None` if no LIMIT cut the result.
    pub rows_before_limit: Option<u64>,
}

/// Encodes batches of one schema. A streaming result never ends, so each `batch` call must
/// leave complete rows in `out`.
pub trait Encoder: Send {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError>;
    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError>;
    fn end(&mut self, stats: &ResultStats, out: &mut Vec<u8>) -> Result<(), FormatError>;
}

/// One row of the format table: everything that knows formats asks this.
#[derive(Debug, Clone, Copy)]
pub struct FormatInfo {
    /// The canonical name, for example `JSONEachRow`.
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub input: bool,
    pub output: bool,
    pub content_type: &'static str,
}

/// So many defaults of a field's type: null where it can be, else zero or empty.
pub fn default_array(field: &arrow_schema::Field, rows: usize) -> arrow_array::ArrayRef {
    if field.is_nullable() {
        return arrow_array::new_null_array(field.data_type(), rows);
    }
    let mut column = column::Column::new(&kind::Kind::of_field(field));
    (0..rows).for_each(|_| column.push_default());
    match column.finish(true) {
        Ok(array) => array,
        Err(_) => unreachable!("defaults are UTF-8"),
    }
}

pub type BoxDecoder = Box<dyn Decoder>;
pub type BoxEncoder = Box<dyn Encoder>;
/// The schema both sides speak: fields made by [`types::Type::field`].
pub type FormatSchema = SchemaRef;
