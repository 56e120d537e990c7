//! Object container files: a header with the schema, then blocks of values, each ended by the file's mark.

use super::read::{self, AvroRows};
use super::schema::AvroSchema;
use super::write::{self, AvroWriter};
use crate::rows::{BATCH_BYTES_MAX, slice_ready};
use crate::{DecodedBatch, Decoder, Encoder, FormatError, FormatSettings, ResultStats};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use std::io::Read;

const MAGIC: &[u8] = b"Obj\x01";
const MARK_BYTES: usize = 16;
/// Values are written out as a block once they take so much.
const BLOCK_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

struct Header {
    schema: AvroSchema,
    codec: Codec,
    mark: [u8; MARK_BYTES],
}

pub(crate) struct AvroFileDecoder {
    rows: AvroRows,
    settings: FormatSettings,
    header: Option<Header>,
    /// What was not read yet, from `at` on.
    body: Vec<u8>,
    at: usize,
    finished: bool,
    rows_before: u64,
    /// Bytes of values in `rows`.
    held: usize,
    ready: Option<(DecodedBatch, usize)>,
    failed: Option<FormatError>,
}

impl AvroFileDecoder {
    pub fn new(schema: SchemaRef, settings: &FormatSettings) -> Self {
        AvroFileDecoder {
            rows: AvroRows::new(schema, settings),
            settings: settings.clone(),
            header: None,
            body: Vec::new(),
            at: 0,
            finished: false,
            rows_before: 0,
            held: 0,
            ready: None,
            failed: None,
        }
    }

    fn bad(&self, what: impl Into<String>) -> FormatError {
        let row = self.rows_before + self.rows.len() as u64 + 1;
        FormatError::Parse { row, column: None, what: what.into(), text: String::new() }
    }

    /// Reads the header, or a block; whether there was one.
    fn step(&mut self) -> Result<bool, FormatError> {
        let rest = &self.body[self.at..];
        let Some(header) = &self.header else {
            let mut input = rest;
            if !rest.starts_with(&MAGIC[..rest.len().min(MAGIC.len())]) {
                return Err(self.bad("not a file of Avro: it does not begin with Obj1"));
            }
            let Some(parsed) = parse_header(&mut input) else { return Ok(false) };
            let left = input.len();
            self.header = Some(parsed.map_err(|what| self.bad(what))?);
            self.at = self.body.len() - left;
            return Ok(true);
        };
        let mut input = rest;
        let (Ok(count), Ok(size)) = (read::long(&mut input), read::long(&mut input)) else {
            // At most ten bytes a number: with more at hand it is none.
            return if rest.len() >= 20 { Err(self.bad("a block without a length")) } else { Ok(false) };
        };
        let max = self.settings.body_bytes_max;
        let (count, size) = match (u64::try_from(count), usize::try_from(size)) {
            (Ok(count), Ok(size)) if size <= max => (count, size),
            _ => {
                return Err(
                    self.bad(format!("a block of {count} values and {size} bytes; at most {max} are taken"))
                );
            }
        };
        if input.len() < size + MARK_BYTES {
            return Ok(false);
        }
        let (block, mark) = input.split_at(size);
        if mark[..MARK_BYTES] != header.mark {
            return Err(self.bad("a block does not end with the file's mark; the file is damaged"));
        }
        let values = unpacked(header.codec, block, max).map_err(|what| self.bad(what))?;
        let mut values = values.as_slice();
        self.held += values.len();
        for _ in 0..count {
            self.rows.value(&header.schema, &mut values)?;
        }
        if !values.is_empty() {
            return Err(self.bad("a block is longer than its values; the file is damaged"));
        }
        self.at = self.body.len() - (input.len() - size - MARK_BYTES);
        if self.at > self.body.len() / 2 {
            self.body.drain(..self.at);
            self.at = 0;
        }
        Ok(true)
    }

    fn advance(&mut self, rows_max: usize) -> Result<(), FormatError> {
        while self.ready.is_none() {
            let full = self.rows.len() >= rows_max || self.held >= BATCH_BYTES_MAX;
            if !full && self.step()? {
                continue;
            }
            if !full && !self.finished {
                return Ok(());
            }
            if !full && self.at < self.body.len() {
                let row = self.rows_before + self.rows.len() as u64 + 1;
                return Err(FormatError::Truncated { row });
            }
            if self.rows.is_empty() {
                return Ok(());
            }
            self.rows_before += self.rows.len() as u64;
            self.held = 0;
            self.ready = Some((self.rows.finish()?, 0));
        }
        Ok(())
    }
}

/// `None`: it is not all there yet.
fn parse_header(input: &mut &[u8]) -> Option<Result<Header, String>> {
    *input = input.get(MAGIC.len()..)?;
    let (mut schema, mut codec) = (None, Codec::Null);
    loop {
        let mut count = read::long(input).ok()?;
        if count == 0 {
            break;
        }
        if count < 0 {
            read::long(input).ok()?;
            count = count.saturating_neg();
        }
        for _ in 0..count {
            let (key, value) = (read::bytes(input).ok()?, read::bytes(input).ok()?);
            match key {
                b"avro.schema" => schema = Some(value),
                b"avro.codec" => {
                    codec = match value {
                        b"null" | b"" => Codec::Null,
                        b"deflate" => Codec::Deflate,
                        b"snappy" => Codec::Snappy,
                        b"zstandard" => Codec::Zstandard,
                        other => {
                            let name = String::from_utf8_lossy(other);
                            return Some(Err(format!(
                                "its codec is {name}; null, deflate, snappy and zstandard are read"
                            )));
                        }
                    };
                }
                _ => {}
            }
        }
    }
    let (mark, rest) = input.split_at_checked(MARK_BYTES)?;
    *input = rest;
    let text = schema.and_then(|s| std::str::from_utf8(s).ok());
    let Some(text) = text else { return Some(Err("its header has no schema".into())) };
    let mark = mark.try_into().ok()?;
    Some(AvroSchema::parse(text).map(|schema| Header { schema, codec, mark }).map_err(|e| e.to_string()))
}

fn unpacked(codec: Codec, block: &[u8], max: usize) -> Result<Vec<u8>, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("a block can not be unpacked: {e}");
    let bounded = |reader: &mut dyn Read| {
        let mut out = Vec::new();
        reader.take(max as u64 + 1).read_to_end(&mut out).map_err(|e| damaged(&e))?;
        if out.len() > max { Err(format!("a block larger than {max} bytes once unpacked")) } else { Ok(out) }
    };
    match codec {
        Codec::Null => Ok(block.to_vec()),
        Codec::Deflate => bounded(&mut flate2::read::DeflateDecoder::new(block)),
        Codec::Zstandard => bounded(&mut zstd::stream::read::Decoder::new(block).map_err(|e| damaged(&e))?),
        Codec::Snappy => {
            // A CRC-32 of the values stands behind them.
            let (packed, sum) = block.split_last_chunk::<4>().ok_or_else(|| damaged(&"it is too short"))?;
            let size = snap::raw::decompress_len(packed).map_err(|e| damaged(&e))?;
            if size > max {
                return Err(format!("a block larger than {max} bytes once unpacked"));
            }
            let out = snap::raw::Decoder::new().decompress_vec(packed).map_err(|e| damaged(&e))?;
            let mut crc = flate2::Crc::new();
            crc.update(&out);
            if crc.sum() != u32::from_be_bytes(*sum) {
                return Err("the checksum of a block does not fit; the file is damaged".into());
            }
            Ok(out)
        }
    }
}

impl Decoder for AvroFileDecoder {
    fn push(&mut self, bytes: Bytes) -> Result<(), FormatError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        self.body.extend_from_slice(&bytes);
        if self.header.is_none() && self.body.len() > self.settings.row_bytes_max {
            let e = self.bad(format!("a header larger than {} bytes", self.settings.row_bytes_max));
            self.failed = Some(e.clone());
            self.body = Vec::new();
            return Err(e);
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
        if let Err(e) = self.advance(rows_max.max(1)) {
            self.failed = Some(e.clone());
            self.body = Vec::new();
            return Err(e);
        }
        Ok(slice_ready(&mut self.ready, rows_max))
    }
}

/// Writes blocks without compression.
pub(crate) struct AvroFileEncoder {
    schema: SchemaRef,
    settings: FormatSettings,
    writer: Option<AvroWriter>,
    mark: [u8; MARK_BYTES],
}

impl AvroFileEncoder {
    pub fn new(schema: &SchemaRef, settings: &FormatSettings) -> Self {
        AvroFileEncoder {
            schema: schema.clone(),
            settings: settings.clone(),
            writer: None,
            mark: [0; MARK_BYTES],
        }
    }
}

impl Encoder for AvroFileEncoder {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let schema = AvroSchema::of_columns(&self.schema, "row")?;
        // Any mark will do that is not likely to stand between values: it is made of the schema.
        let text = schema.text().to_owned();
        for (i, half) in self.mark.chunks_mut(8).enumerate() {
            let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ (i as u64 + 1), |h: u64, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            });
            half.copy_from_slice(&hash.to_le_bytes());
        }
        self.writer = Some(AvroWriter::new(&self.schema, schema, &self.settings)?);
        out.extend(MAGIC);
        write::long(2, out);
        for (key, value) in [("avro.schema", text.as_str()), ("avro.codec", "null")] {
            write::bytes(key.as_bytes(), out);
            write::bytes(value.as_bytes(), out);
        }
        write::long(0, out);
        out.extend(self.mark);
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let Some(writer) = &self.writer else {
            return Err(FormatError::Schema { name: "Avro", what: "rows before the header".into() });
        };
        let (mut block, mut count, mark) = (Vec::new(), 0, self.mark);
        let close = |block: &mut Vec<u8>, count: &mut i64, out: &mut Vec<u8>| {
            if *count > 0 {
                write::long(*count, out);
                write::bytes(block, out);
                out.extend(mark);
                block.clear();
                *count = 0;
            }
        };
        let written = writer.write(batch, &mut block, |block| {
            count += 1;
            if block.len() >= BLOCK_BYTES {
                close(block, &mut count, out);
            }
        });
        close(&mut block, &mut count, out);
        written
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}
