//! Rows to messages.

use super::schema::SchemaWriter;
use super::{PayloadFormat, PayloadSettings};
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use weir_base::Code;
use weir_format::{FormatError, FormatSettings, ResultStats};
use weir_plan::StreamError;

/// Payloads of a batch of rows, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    /// Of each message: where it ends, whether it has a payload, and one past its last row.
    messages: Vec<(usize, bool, usize)>,
}

impl Encoded {
    /// Payload and first row of each message.
    pub fn messages(&self) -> impl Iterator<Item = (Option<&[u8]>, usize)> {
        let before = |i: usize| if i == 0 { (0, true, 0) } else { self.messages[i - 1] };
        self.messages.iter().enumerate().map(move |(i, (end, there, _))| {
            let (begin, _, row) = before(i);
            (there.then(|| &self.bytes[begin..*end]), row)
        })
    }

    fn end(&mut self, rows: usize) {
        self.messages.push((self.bytes.len(), true, rows));
    }
}

pub(crate) struct PayloadEncoder {
    format: PayloadFormat,
    schema: SchemaRef,
    by_schema: Option<SchemaWriter>,
    settings: FormatSettings,
    /// Every row is a message of its own; else messages are filled up to so many bytes.
    one_per_row: bool,
    message_bytes_max: usize,
    limit: (&'static str, &'static str),
}

impl PayloadEncoder {
    /// Takes the columns of `schema`.
    ///
    /// # Errors
    /// 36 where they do not fit the format's schema, 210 where who holds it does not answer.
    pub fn new(format: PayloadFormat, schema: SchemaRef, how: &PayloadSettings) -> Result<Self, StreamError> {
        let by_schema = match &format {
            PayloadFormat::Schema(f) => Some(f.writer(&schema, tokio::runtime::Handle::current)?),
            _ => None,
        };
        Ok(PayloadEncoder {
            format,
            schema,
            by_schema,
            settings: FormatSettings::default(),
            one_per_row: how.one_message_per_row,
            message_bytes_max: how.message_bytes_max,
            limit: how.limit,
        })
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// `one_per_row`: even where it need not be.
    ///
    /// # Errors
    /// 36 for a row that the format can not carry or that is too large for a message.
    pub fn encode(&self, rows: &RecordBatch, one_per_row: bool) -> Result<Encoded, StreamError> {
        let out = match &self.format {
            PayloadFormat::Schema(_) => self.by_schema(rows)?,
            PayloadFormat::Raw => self.raw(rows),
            PayloadFormat::Rows(info) if info.name == "JSONEachRow" => {
                self.lines(info.name, rows, one_per_row || self.one_per_row)?
            }
            PayloadFormat::Rows(info) => self.row_by_row(info.name, rows)?,
        };
        let mut begin = 0;
        for (end, _, last) in &out.messages {
            if end - begin > self.message_bytes_max {
                return Err(StreamError {
                    code: Code::BadArguments,
                    message: format!(
                        "a message of {} bytes (row {last} of the block) is larger than {} allows, {}; raise it{}",
                        end - begin,
                        self.limit.0,
                        self.message_bytes_max,
                        self.limit.1
                    ),
                });
            }
            begin = *end;
        }
        Ok(out)
    }

    fn by_schema(&self, rows: &RecordBatch) -> Result<Encoded, StreamError> {
        let mut out = Encoded::default();
        let Some(writer) = &self.by_schema else { return Ok(out) };
        let mut bytes = Vec::new();
        writer.write(rows, &mut bytes, |bytes| {
            let row = out.messages.len() + 1;
            out.messages.push((bytes.len(), true, row));
        })?;
        out.bytes = bytes;
        Ok(out)
    }

    fn raw(&self, rows: &RecordBatch) -> Encoded {
        let mut out = Encoded::default();
        let column = rows.column(0);
        for row in 0..rows.num_rows() {
            if column.is_null(row) {
                out.messages.push((out.bytes.len(), false, row + 1));
                continue;
            }
            match column.data_type() {
                DataType::Binary => out.bytes.extend(column.as_binary::<i32>().value(row)),
                _ => out.bytes.extend(column.as_string::<i32>().value(row).as_bytes()),
            }
            out.end(row + 1);
        }
        out
    }

    /// Of a format whose line breaks stand between rows only.
    fn lines(&self, name: &str, rows: &RecordBatch, one_per_row: bool) -> Result<Encoded, StreamError> {
        let text = self.text(name, rows)?;
        let mut out = Encoded { bytes: Vec::with_capacity(text.len()), messages: Vec::new() };
        let mut begin = 0;
        for (row, end) in memchr::memchr_iter(b'\n', &text).enumerate() {
            let line = &text[begin..end];
            begin = end + 1;
            let filled = out.bytes.len() - out.messages.last().map_or(0, |m| m.0);
            if one_per_row || filled == 0 {
                out.bytes.extend(line);
                if one_per_row {
                    out.end(row + 1);
                }
            } else if filled + 1 + line.len() <= self.message_bytes_max {
                out.bytes.push(b'\n');
                out.bytes.extend(line);
            } else {
                out.end(row);
                out.bytes.extend(line);
            }
        }
        if out.messages.last().map_or(0, |m| m.0) < out.bytes.len() {
            out.end(rows.num_rows());
        }
        Ok(out)
    }

    fn row_by_row(&self, name: &str, rows: &RecordBatch) -> Result<Encoded, StreamError> {
        let mut out = Encoded::default();
        for row in 0..rows.num_rows() {
            let mut text = self.text(name, &rows.slice(row, 1))?;
            if self.format.is_lines() && text.last() == Some(&b'\n') {
                text.pop();
            }
            out.bytes.extend(text);
            out.end(row + 1);
        }
        Ok(out)
    }

    fn text(&self, name: &str, rows: &RecordBatch) -> Result<Vec<u8>, StreamError> {
        let failed = |e: FormatError| StreamError {
            code: Code::BadArguments,
            message: format!("rows could not be written as {name}: {e}"),
        };
        let mut encoder = weir_format::encoder(name, self.schema.clone(), &self.settings).map_err(failed)?;
        let mut text = Vec::new();
        encoder.begin(&mut text).map_err(failed)?;
        encoder.batch(rows, &mut text).map_err(failed)?;
        encoder.end(&ResultStats::default(), &mut text).map_err(failed)?;
        Ok(text)
    }
}
