//! ArrowStream: the IPC streaming format.
//!
//! Messages are framed here before Arrow's reader sees them, so that no declared length is
//! trusted: not that of a message, not that of a compressed buffer. The reader itself is another
//! project's code over bytes of strangers; a panic in it is an error of the input.

use crate::conform::Conform;
use crate::rows::slice_ready;
use crate::view::Columns;
use crate::{DecodedBatch, Decoder, Encoder, FormatError, FormatSettings, ResultStats};
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Metadata of one message: names and buffer positions.
const METADATA_BYTES_MAX: usize = 64 << 20;

/// Runs another project's reader: its panics and errors are the input's fault.
pub(crate) fn guarded<T, E: std::fmt::Display>(
    row: u64,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, FormatError> {
    let what = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(v)) => return Ok(v),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "the input is damaged".to_owned(),
    };
    Err(FormatError::Parse { row, column: None, what, text: String::new() })
}

pub(crate) struct ArrowStreamDecoder {
    conform: Conform,
    reader: StreamDecoder,
    input: Vec<u8>,
    at: usize,
    body_bytes_max: usize,
    finished: bool,
    ended: bool,
    batches: VecDeque<RecordBatch>,
    ready: Option<(DecodedBatch, usize)>,
    failed: Option<FormatError>,
}

impl ArrowStreamDecoder {
    pub fn new(schema: SchemaRef, s: &FormatSettings) -> ArrowStreamDecoder {
        ArrowStreamDecoder {
            conform: Conform::new(schema, s),
            reader: StreamDecoder::new(),
            input: Vec::new(),
            at: 0,
            body_bytes_max: s.body_bytes_max,
            finished: false,
            ended: false,
            batches: VecDeque::new(),
            ready: None,
            failed: None,
        }
    }

    fn bad(&self, what: impl Into<String>) -> FormatError {
        FormatError::Parse {
            row: self.conform.rows_before() + 1,
            column: None,
            what: what.into(),
            text: String::new(),
        }
    }

    /// Bytes of the next message, or `None` if it is not whole yet.
    fn message(&self) -> Result<Option<usize>, FormatError> {
        let rest = &self.input[self.at..];
        let word = |at: usize| rest.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let Some(first) = word(0) else { return Ok(None) };
        let (lead, size) = if first == u32::MAX {
            let Some(size) = word(4) else { return Ok(None) };
            (8, size as usize)
        } else {
            (4, first as usize)
        };
        if size == 0 {
            return Ok(Some(lead));
        }
        if size > METADATA_BYTES_MAX {
            return Err(self.bad(format!(
                "metadata of {size} bytes is more than the limit of {METADATA_BYTES_MAX}; is this an Arrow stream?"
            )));
        }
        let Some(metadata) = rest.get(lead..lead + size) else { return Ok(None) };
        let row = self.conform.rows_before() + 1;
        let (body, compressed) = guarded(row, || {
            let message = root_as_message(metadata).map_err(|e| e.to_string())?;
            let batch = match message.header_type() {
                MessageHeader::RecordBatch => message.header_as_record_batch(),
                MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|d| d.data()),
                _ => None,
            };
            let mut compressed = Vec::new();
            if let Some(batch) = batch.filter(|b| b.compression().is_some()) {
                for buffer in batch.buffers().into_iter().flatten() {
                    if buffer.length() > 0 {
                        compressed.push(buffer.offset());
                    }
                }
            }
            Ok::<_, String>((message.bodyLength(), compressed))
        })?;
        let limit = self.body_bytes_max;
        let body = usize::try_from(body).ok().filter(|b| *b <= limit).ok_or_else(|| {
            self.bad(format!("a message of {body} bytes is more than the limit of {limit} (body_bytes_max)"))
        })?;
        let Some(body) = rest.get(lead + size..lead + size + body) else { return Ok(None) };
        // Each compressed buffer says first how large it becomes.
        let mut expanded = 0usize;
        for offset in compressed {
            let declared = usize::try_from(offset)
                .ok()
                .and_then(|o| body.get(o..)?.first_chunk::<8>())
                .map(|b| i64::from_le_bytes(*b))
                .ok_or_else(|| self.bad("a buffer outside its message"))?;
            expanded = expanded.saturating_add(usize::try_from(declared).unwrap_or(0));
            if expanded > limit {
                return Err(self.bad(format!("a message that expands beyond {limit} bytes (body_bytes_max)")));
            }
        }
        Ok(Some(lead + size + body.len()))
    }

    fn advance(&mut self) -> Result<(), FormatError> {
        while self.ready.is_none() {
            if let Some(batch) = self.batches.pop_front() {
                if batch.num_rows() > 0 {
                    self.ready = Some((self.conform.batch(&batch)?, 0));
                }
                continue;
            }
            if self.ended {
                return Ok(());
            }
            let Some(size) = self.message()? else {
                if self.finished && self.at < self.input.len() {
                    return Err(FormatError::Truncated { row: self.conform.rows_before() + 1 });
                }
                return Ok(());
            };
            let mut bytes = Buffer::from(&self.input[self.at..self.at + size]);
            self.at += size;
            self.ended = size <= 8;
            let row = self.conform.rows_before() + 1;
            let (reader, batches) = (&mut self.reader, &mut self.batches);
            guarded(row, || {
                while !bytes.is_empty() {
                    if let Some(batch) = reader.decode(&mut bytes)? {
                        batches.push_back(batch);
                    }
                }
                Ok::<_, arrow_schema::ArrowError>(())
            })?;
        }
        Ok(())
    }
}

impl Decoder for ArrowStreamDecoder {
    fn push(&mut self, bytes: Bytes) -> Result<(), FormatError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if self.at > 0 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        if !self.ended {
            self.input.extend_from_slice(&bytes);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), FormatError> {
        self.finished = true;
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn next_batch(&mut self, rows_max: usize) -> Result<Option<DecodedBatch>, FormatError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if let Err(e) = self.advance() {
            self.failed = Some(e.clone());
            return Err(e);
        }
        Ok(slice_ready(&mut self.ready, rows_max))
    }
}

/// The schema that leaves: the storage of our types.
pub(crate) fn storage_schema(columns: &Columns) -> SchemaRef {
    let fields: Vec<_> = columns.names.iter().zip(&columns.kinds).map(|(n, k)| k.ty.field(n)).collect();
    Arc::new(Schema::new(fields))
}

/// The batch in the storage of our types.
pub(crate) fn storage_batch(
    columns: &Columns,
    schema: &SchemaRef,
    batch: &RecordBatch,
) -> Result<RecordBatch, FormatError> {
    let mut arrays = columns.arrays(batch)?;
    for (array, field) in arrays.iter_mut().zip(schema.fields()) {
        *array = crate::conform::to_storage(array.clone(), field.data_type())
            .map_err(|what| FormatError::Encode { column: field.name().clone(), what })?;
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options).map_err(other)
}

pub(crate) fn other(e: impl std::fmt::Display) -> FormatError {
    FormatError::Encode { column: String::new(), what: e.to_string() }
}

pub(crate) struct ArrowStreamEncoder {
    columns: Columns,
    schema: SchemaRef,
    writer: Option<StreamWriter<Vec<u8>>>,
}

impl ArrowStreamEncoder {
    pub fn new(schema: &SchemaRef, _s: &FormatSettings) -> ArrowStreamEncoder {
        let columns = Columns::new(schema);
        ArrowStreamEncoder { schema: storage_schema(&columns), columns, writer: None }
    }

    fn writer(&mut self) -> Result<&mut StreamWriter<Vec<u8>>, FormatError> {
        if self.writer.is_none() {
            self.writer = Some(StreamWriter::try_new(Vec::new(), &self.schema).map_err(other)?);
        }
        Ok(self.writer.as_mut().expect("just made"))
    }
}

impl Encoder for ArrowStreamEncoder {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        out.append(self.writer()?.get_mut());
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let batch = storage_batch(&self.columns, &self.schema, batch)?;
        let writer = self.writer()?;
        writer.write(&batch).map_err(other)?;
        out.append(writer.get_mut());
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let writer = self.writer()?;
        writer.finish().map_err(other)?;
        out.append(writer.get_mut());
        Ok(())
    }
}
