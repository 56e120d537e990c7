//! Messages to rows.

use super::PayloadFormat;
use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::concat::concat_batches;
use std::sync::Arc;
use weir_base::Code;
use weir_format::{DecodedBatch, FormatError, FormatSettings};
use weir_plan::StreamError;

/// Payloads, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    /// Where each ends; `None` = it has no payload.
    ends: Vec<(usize, bool)>,
}

impl Messages {
    pub fn push(&mut self, payload: Option<&[u8]>) {
        self.bytes.extend(payload.unwrap_or_default());
        self.ends.push((self.bytes.len(), payload.is_some()));
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn get(&self, i: usize) -> Option<&[u8]> {
        let begin = if i == 0 { 0 } else { self.ends[i - 1].0 };
        let (end, there) = self.ends[i];
        there.then(|| &self.bytes[begin..end])
    }

    /// Those from `from` on.
    pub fn rest(&self, from: usize) -> Messages {
        let mut rest = Messages::default();
        (from..self.len()).for_each(|i| rest.push(self.get(i)));
        rest
    }

    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// Rows of messages.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub batch: RecordBatch,
    pub absent: Vec<Option<BooleanArray>>,
    /// How many rows each message became; `None` = one each.
    pub rows: Option<Vec<u32>>,
}

/// Why messages do not decode.
#[derive(Debug)]
pub(crate) enum Failed {
    /// A message is not what it should be. What came before it decodes.
    Bad { index: usize, error: StreamError },
    /// Who knows their schemas does not answer; later they may.
    Away(StreamError),
    /// Who knows their schemas does not let us.
    Refused(StreamError),
}

pub(crate) struct PayloadDecoder {
    format: PayloadFormat,
    schema: SchemaRef,
    settings: FormatSettings,
    /// Of whoever asks for schemas.
    runtime: tokio::runtime::Handle,
}

impl PayloadDecoder {
    /// Gives the columns of `schema`. Decodes on threads that may wait.
    pub fn new(
        format: PayloadFormat,
        schema: SchemaRef,
        settings: FormatSettings,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        PayloadDecoder { format, schema, settings, runtime }
    }

    /// The first `n` messages.
    pub fn decode(&self, messages: &Messages, n: usize) -> Result<Decoded, Failed> {
        match &self.format {
            PayloadFormat::Schema(format) => {
                format.decode(messages, n, &self.schema, &self.settings, &self.runtime)
            }
            PayloadFormat::Raw => self.raw(messages, n),
            PayloadFormat::Rows(info) if self.format.is_lines() => match self.lines(info.name, messages, n) {
                Some(decoded) => Ok(decoded),
                None => self.one_by_one(info.name, messages, n),
            },
            PayloadFormat::Rows(info) => self.one_by_one(info.name, messages, n),
        }
    }

    fn raw(&self, messages: &Messages, n: usize) -> Result<Decoded, Failed> {
        let nullable = self.schema.fields().first().is_none_or(|f| f.is_nullable());
        let array: ArrayRef = match self.schema.fields().first().map(|f| f.data_type()) {
            // Not asked for.
            None => {
                let options = RecordBatchOptions::new().with_row_count(Some(n));
                let batch = RecordBatch::try_new_with_options(self.schema.clone(), Vec::new(), &options)
                    .map_err(|e| bug(e.to_string()))?;
                return Ok(Decoded { batch, absent: Vec::new(), rows: None });
            }
            Some(DataType::Binary) => {
                let mut out = BinaryBuilder::with_capacity(n, messages.bytes());
                for payload in messages.iter().take(n) {
                    match payload {
                        None if nullable => out.append_null(),
                        payload => out.append_value(payload.unwrap_or_default()),
                    }
                }
                Arc::new(out.finish())
            }
            Some(_) => {
                let mut out = StringBuilder::with_capacity(n, messages.bytes());
                for (index, payload) in messages.iter().take(n).enumerate() {
                    match payload.map(std::str::from_utf8) {
                        None if nullable => out.append_null(),
                        None => out.append_value(""),
                        Some(Ok(text)) => out.append_value(text),
                        Some(Err(_)) if self.settings.utf8_replace => {
                            out.append_value(String::from_utf8_lossy(payload.unwrap_or_default()));
                        }
                        Some(Err(e)) => {
                            let message = format!(
                                "the payload is not UTF-8 at byte {}; declare the column as bytes",
                                e.valid_up_to()
                            );
                            let error = StreamError { code: Code::CannotParseInput, message };
                            return Err(Failed::Bad { index, error });
                        }
                    }
                }
                Arc::new(out.finish())
            }
        };
        let batch = RecordBatch::try_new(self.schema.clone(), vec![array]).map_err(|e| bug(e.to_string()))?;
        Ok(Decoded { batch, absent: vec![None], rows: None })
    }

    /// All at once; `None` where that can not be.
    fn lines(&self, name: &str, messages: &Messages, n: usize) -> Option<Decoded> {
        let mut bytes = Vec::with_capacity(messages.bytes() + n);
        let mut rows = Vec::new();
        let mut filled = 0;
        for (i, payload) in messages.iter().take(n).enumerate() {
            match payload.map(|p| body(name, p)) {
                Some(payload) if !payload.is_empty() => {
                    bytes.extend(payload);
                    bytes.push(b'\n');
                    filled += 1;
                    if !rows.is_empty() {
                        rows.push(1);
                    }
                }
                _ => {
                    if rows.is_empty() {
                        rows = vec![1; i];
                    }
                    rows.push(0);
                }
            }
        }
        let DecodedBatch { batch, absent } = self.whole(name, bytes).ok()?;
        let rows = (filled < n).then_some(rows);
        // What is not blank is a row or more, so that as many rows as messages are one each.
        (batch.num_rows() == filled).then_some(Decoded { batch, absent, rows })
    }

    fn one_by_one(&self, name: &str, messages: &Messages, n: usize) -> Result<Decoded, Failed> {
        let mut all = Vec::new();
        let mut rows = Vec::with_capacity(n);
        for (index, payload) in messages.iter().take(n).enumerate() {
            let Some(payload) = payload.filter(|p| !body(name, p).is_empty()) else {
                rows.push(0);
                continue;
            };
            let decoded = self
                .whole(name, payload.to_vec())
                .map_err(|e| Failed::Bad { index, error: not_parsed(&e) })?;
            rows.push(decoded.batch.num_rows() as u32);
            all.push(decoded);
        }
        let batches: Vec<&RecordBatch> = all.iter().map(|d| &d.batch).collect();
        let batch = concat_batches(&self.schema, batches).map_err(|e| bug(e.to_string()))?;
        let absent = (0..self.schema.fields().len()).map(|c| absent_of(&all, c)).collect();
        Ok(Decoded { batch, absent, rows: Some(rows) })
    }

    /// All rows of a text.
    fn whole(&self, name: &str, bytes: Vec<u8>) -> Result<DecodedBatch, FormatError> {
        let mut decoder = weir_format::decoder(name, self.schema.clone(), &self.settings)?;
        decoder.push(bytes.into())?;
        decoder.finish()?;
        let mut all = Vec::new();
        while let Some(batch) = decoder.next_batch(usize::MAX)? {
            all.push(batch);
        }
        if all.len() == 1 {
            return Ok(all.remove(0));
        }
        let batches: Vec<&RecordBatch> = all.iter().map(|d| &d.batch).collect();
        let batch = concat_batches(&self.schema, batches)
            .map_err(|e| FormatError::Encode { column: String::new(), what: e.to_string() })?;
        let absent = (0..self.schema.fields().len()).map(|c| absent_of(&all, c)).collect();
        Ok(DecodedBatch { batch, absent })
    }
}

/// A payload without what may stand around a row: blanks are values in some formats.
fn body<'a>(name: &str, payload: &'a [u8]) -> &'a [u8] {
    if name.starts_with("JSON") {
        return payload.trim_ascii();
    }
    let end = payload.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |i| i + 1);
    &payload[..end]
}

fn absent_of(all: &[DecodedBatch], column: usize) -> Option<BooleanArray> {
    let of = |d: &DecodedBatch| d.absent.get(column).cloned().flatten();
    if all.iter().all(|d| of(d).is_none()) {
        return None;
    }
    let flags = all.iter().flat_map(|d| {
        let mask = of(d);
        (0..d.batch.num_rows()).map(move |i| mask.as_ref().is_some_and(|m| m.value(i))).collect::<Vec<_>>()
    });
    Some(BooleanArray::from(flags.collect::<Vec<bool>>()))
}

pub(super) fn not_parsed(e: &FormatError) -> StreamError {
    let code = match e {
        FormatError::Truncated { .. } => Code::CannotReadAllData,
        _ => Code::CannotParseInput,
    };
    StreamError { code, message: e.to_string() }
}

fn bug(message: String) -> Failed {
    let message = format!("decoded messages do not fit their columns: {message}");
    Failed::Bad { index: 0, error: StreamError { code: Code::LogicalError, message } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::PayloadSettings;
    use crate::remote::RemoteHosts;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_schema::{Field, Schema};
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    fn format_of(name: Option<&str>, schema: &Schema) -> Result<PayloadFormat, StreamError> {
        let how = PayloadSettings { format: name.map(str::to_owned), ..PayloadSettings::default() };
        PayloadFormat::of(&how, schema, "t", &BTreeMap::new(), &RemoteHosts::default())
    }

    fn decode(
        format: &str,
        columns: &[(&str, DataType)],
        messages: &[Option<&str>],
    ) -> Result<Decoded, Failed> {
        let fields = columns.iter().map(|(name, t)| Field::new(*name, t.clone(), false));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut all = Messages::default();
        messages.iter().for_each(|m| all.push(m.map(str::as_bytes)));
        decoder(format_of(Some(format), &schema).unwrap(), schema).decode(&all, all.len())
    }

    fn decoder(format: PayloadFormat, schema: SchemaRef) -> PayloadDecoder {
        static RUNTIME: LazyLock<tokio::runtime::Runtime> =
            LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().unwrap());
        PayloadDecoder::new(format, schema, FormatSettings::default(), RUNTIME.handle().clone())
    }

    fn bad(failed: Failed) -> (usize, StreamError) {
        match failed {
            Failed::Bad { index, error } => (index, error),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_become_rows_of_theirs() {
        let id = [("id", DataType::Int64)];
        // (format, messages, ids, rows of each message where they are not one each)
        let cases: [(&str, &[Option<&str>], &[i64], Option<&[u32]>); 5] = [
            ("JSONEachRow", &[Some("{\"id\":1}"), Some(" {\"id\":2}\n")], &[1, 2], None),
            (
                "JSONEachRow",
                &[Some("{\"id\":1}{\"id\":2}"), None, Some("{\"id\":3}")],
                &[1, 2, 3],
                Some(&[2, 0, 1]),
            ),
            ("JSONEachRow", &[None, Some(""), Some("{\"id\":\n4}")], &[4], Some(&[0, 0, 1])),
            ("CSV", &[Some("5"), Some("6\r\n"), Some("7\n8")], &[5, 6, 7, 8], Some(&[1, 1, 2])),
            ("CSVWithNames", &[Some("id\n9\n"), Some("id\n10")], &[9, 10], Some(&[1, 1])),
        ];
        for (format, messages, ids, rows) in cases {
            let decoded = decode(format, &id, messages).unwrap();
            let got = decoded.batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!((got.as_slice(), decoded.rows.as_deref()), (ids, rows), "{format} {messages:?}");
        }
        let cut = [Some("{\"id\":1}"), Some("{\"id\":"), Some("{\"id\":2}")];
        assert_eq!(bad(decode("JSONEachRow", &id, &cut).unwrap_err()).0, 1);
    }

    #[test]
    fn blanks_are_values_where_a_format_says_so() {
        let two = [("a", DataType::Utf8), ("b", DataType::Utf8)];
        let decoded = decode("TSV", &two, &[Some(" x\ty "), Some("\t\n")]).unwrap();
        let value = |c: usize, row: usize| decoded.batch.column(c).as_string::<i32>().value(row).to_owned();
        assert_eq!([value(0, 0), value(1, 0), value(0, 1), value(1, 1)], [" x", "y ", "", ""]);
    }

    #[test]
    fn the_payload_itself_is_text_or_bytes() {
        let text = decode("RawBLOB", &[("raw", DataType::Utf8)], &[Some("a"), None]).unwrap();
        assert_eq!(text.batch.column(0).as_string::<i32>().value(1), "");
        let schema = Arc::new(Schema::new(vec![Field::new("raw", DataType::Utf8, false)]));
        let mut messages = Messages::default();
        messages.push(Some(b"ok"));
        messages.push(Some(&[0xff]));
        let decoder = decoder(PayloadFormat::Raw, schema);
        let (index, error) = bad(decoder.decode(&messages, 2).unwrap_err());
        assert_eq!(index, 1);
        assert!(error.message.contains("bytes"), "{}", error.message);
        assert_eq!(decoder.decode(&messages, 1).unwrap().batch.num_rows(), 1);
    }
}
