//! Rows of an INSERT: bytes of the body through the format's decoder into the engine's
//! writer. At most one decoded batch and one step of the body are in memory.

use super::upload::Upload;
use crate::formats;
use bytes::Bytes;
use weir_base::{Error, Result};
use weir_engine::outcome::{Done, InsertHandle, InsertWriter};
use weir_format::BoxDecoder;

struct Pump {
    decoder: BoxDecoder,
    writer: Box<dyn InsertWriter>,
    rows_max: usize,
    batches: u64,
}

/// Writes all of the statement's inline data and the body.
///
/// # Errors
/// Input that does not parse, a body that breaks off, a refused write. Rows of batches that
/// were complete before stay, unless it is all or nothing; the message says how many.
pub async fn pump(handle: InsertHandle, upload: &mut Upload) -> Result<Done> {
    let decoder = formats::decoder(&handle.format, &handle.schema, &handle.format_settings)?;
    let whole = handle.whole;
    let mut pump =
        Pump { decoder, writer: handle.writer, rows_max: handle.batch_rows_max.max(1), batches: 0 };
    match pump.all(handle.inline, upload).await {
        Ok(()) => pump.writer.finish().await,
        Err(e) if pump.batches == 0 || whole => Err(e),
        Err(e) => Err(pump.kept(e).await),
    }
}

impl Pump {
    async fn all(&mut self, inline: Vec<u8>, upload: &mut Upload) -> Result<()> {
        if !inline.is_empty() {
            self.push(inline.into()).await?;
        }
        while let Some(bytes) = upload.next().await? {
            self.push(bytes).await?;
        }
        self.decoder.finish().map_err(formats::decode_failed)?;
        self.write_ready().await
    }

    async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.decoder.push(bytes).map_err(formats::decode_failed)?;
        self.write_ready().await
    }

    async fn write_ready(&mut self) -> Result<()> {
        while let Some(batch) = self.decoder.next_batch(self.rows_max).map_err(formats::decode_failed)? {
            if batch.batch.num_rows() > 0 {
                self.batches += 1;
                self.writer.write(batch).await?;
            }
        }
        Ok(())
    }

    /// The error, with how many rows were acknowledged before it.
    async fn kept(self, mut error: Error) -> Error {
        match self.writer.finish().await {
            Ok(done) => error.message += &format!("; {} rows before it are kept", done.written_rows),
            Err(also) => error.message += &format!("; and rows before it: {}", also.message),
        }
        error
    }
}
