//! A batch as the bytes of one log record, and back without copying.
//!
//! Layout, every part padded to 64 bytes so that buffers can be used where they lie:
//! a header (version, schema id, rows, number of messages), then each Arrow IPC message as
//! metadata and body: dictionaries first, the batch last. The schema is not repeated.
//!
//! Not here: record framing and checksums (the log's), schemas (`schema`).

use crate::error::{Result, StorageError};
use crate::options::Codec;
use crate::schema::{KnownSchema, SchemaBook, SchemaId};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_buffer::Buffer;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_ipc::{CompressionType, MetadataVersion};
use arrow_row::{RowConverter, SortField};
use arrow_schema::ArrowError;
use bytes::Bytes;
use std::collections::HashMap;
use xxhash_rust::xxh3::Xxh3;

const VERSION: u16 = 1;
const ALIGN: usize = 64;
const HEADER_BYTES: usize = 64;

/// Encodes `batch`, which has the book's current schema.
pub(crate) fn encode(batch: &RecordBatch, schema: &KnownSchema, codec: Codec) -> Result<Bytes> {
    let failed = |source| StorageError::Arrow { doing: "encode rows", source: std::sync::Arc::new(source) };
    let compression = match codec {
        Codec::None => None,
        Codec::Lz4 => Some(CompressionType::LZ4_FRAME),
        Codec::Zstd => Some(CompressionType::ZSTD),
    };
    let options = IpcWriteOptions::try_new(ALIGN, false, MetadataVersion::V5)
        .and_then(|o| o.try_with_compression(compression))
        .map_err(failed)?;
    let generator = IpcDataGenerator::default();
    let mut tracker = DictionaryTracker::new(false);
    // Assigns the dictionary ids that the stored schema has.
    generator.schema_to_bytes_with_dictionary_tracker(&schema.schema, &mut tracker, &options);
    let (mut messages, last) =
        generator.encode(batch, &mut tracker, &options, &mut IpcWriteContext::default()).map_err(failed)?;
    messages.push(last);
    let total = HEADER_BYTES
        + messages
            .iter()
            .map(|m| ALIGN + padded(m.ipc_message.len()) + padded(m.arrow_data.len()))
            .sum::<usize>();
    let mut out = Vec::with_capacity(total);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(messages.len() as u16).to_le_bytes());
    out.extend_from_slice(&(batch.num_rows() as u32).to_le_bytes());
    out.extend_from_slice(&schema.id.0.to_le_bytes());
    pad(&mut out);
    for message in &messages {
        out.extend_from_slice(&(message.ipc_message.len() as u64).to_le_bytes());
        out.extend_from_slice(&(message.arrow_data.len() as u64).to_le_bytes());
        pad(&mut out);
        out.extend_from_slice(&message.ipc_message);
        pad(&mut out);
        out.extend_from_slice(&message.arrow_data);
        pad(&mut out);
    }
    Ok(Bytes::from(out))
}

/// Decodes a payload that the log has verified, into the schema it was written with. Arrays
/// share the payload's memory where it is aligned and not compressed.
pub(crate) fn decode(payload: &Bytes, book: &SchemaBook) -> Result<RecordBatch> {
    let bad = |what: &str| StorageError::Schema { what: format!("record payload: {what}") };
    let failed = |source: ArrowError| StorageError::Arrow {
        doing: "decode rows",
        source: std::sync::Arc::new(source),
    };
    let header = payload.get(..HEADER_BYTES).ok_or_else(|| bad("shorter than its header"))?;
    let version = u16::from_le_bytes([header[0], header[1]]);
    if version != VERSION {
        return Err(bad(&format!("version {version}, this build reads {VERSION}")));
    }
    let messages = u16::from_le_bytes([header[2], header[3]]);
    let rows = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
    let id = SchemaId(u64::from_le_bytes(header[8..16].try_into().expect("eight bytes")));
    let schema = book.get(id).ok_or_else(|| bad(&format!("unknown schema {:016x}", id.0)))?;
    let whole = Buffer::from(payload.clone());
    let mut dictionaries: HashMap<i64, ArrayRef> = HashMap::new();
    let mut at = HEADER_BYTES;
    for no in 1..=messages {
        let sizes = payload.get(at..at + ALIGN).ok_or_else(|| bad("cut short"))?;
        let meta_len = u64::from_le_bytes(sizes[..8].try_into().expect("eight bytes")) as usize;
        let body_len = u64::from_le_bytes(sizes[8..16].try_into().expect("eight bytes")) as usize;
        let meta_at = at + ALIGN;
        let body_at = meta_at.saturating_add(padded(meta_len));
        at = body_at.saturating_add(padded(body_len));
        if at > payload.len() {
            return Err(bad("a message reaches past the end"));
        }
        let message = arrow_ipc::root_as_message(&payload[meta_at..meta_at + meta_len])
            .map_err(|e| bad(&e.to_string()))?;
        let body = whole.slice_with_length(body_at, body_len);
        if no < messages {
            let batch = message.header_as_dictionary_batch().ok_or_else(|| bad("no dictionary where due"))?;
            read_dictionary(&body, batch, &schema.ipc, &mut dictionaries, &message.version())
                .map_err(failed)?;
            continue;
        }
        let batch = message.header_as_record_batch().ok_or_else(|| bad("no batch where due"))?;
        let batch =
            read_record_batch(&body, batch, schema.ipc.clone(), &dictionaries, None, &message.version())
                .map_err(failed)?;
        if batch.num_rows() != rows as usize {
            return Err(bad("the number of rows does not match"));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        return RecordBatch::try_new_with_options(schema.schema.clone(), batch.columns().to_vec(), &options)
            .map_err(failed);
    }
    Err(bad("no messages"))
}

/// A hash of the rows' values and column names, for idempotent inserts: equal rows give equal
/// hashes however they were batched into arrays, encoded or sliced.
///
/// Compute it before defaults such as `now64()` are filled in, else a repeat never matches.
///
/// # Errors
/// If a column has a type that cannot be compared (unions of nested types).
pub fn content_hash(batch: &RecordBatch) -> Result<u64> {
    let failed = |source| StorageError::Arrow { doing: "hash rows", source: std::sync::Arc::new(source) };
    let mut hash = Xxh3::new();
    for field in batch.schema().fields() {
        hash.update(field.name().as_bytes());
        hash.update(&[0xff]);
    }
    hash.update(&(batch.num_rows() as u64).to_le_bytes());
    let fields = batch.columns().iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(failed)?;
    let step = 4_096;
    for start in (0..batch.num_rows()).step_by(step) {
        let part = batch.slice(start, step.min(batch.num_rows() - start));
        let rows = converter.convert_columns(part.columns()).map_err(failed)?;
        for row in rows.iter() {
            hash.update(&(row.data().len() as u64).to_le_bytes());
            hash.update(row.data());
        }
    }
    Ok(hash.digest())
}

fn padded(len: usize) -> usize {
    len.div_ceil(ALIGN).saturating_mul(ALIGN)
}

fn pad(out: &mut Vec<u8>) {
    out.resize(padded(out.len()), 0);
}

#[cfg(test)]
mod tests;
