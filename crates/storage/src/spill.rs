//! Rows dealt into buckets in one temporary file, read back bucket by bucket.
//!
//! The file is removed when the spill is dropped, or at the next open of the shard. Blocks
//! carry a checksum each: what comes back is what went in, or an error.

use crate::context::StoreContext;
use crate::error::{Result, StorageError};
use crate::options::Codec;
use crate::order::failed;
use crate::payload;
use crate::schema::SchemaBook;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use bytes::Bytes;
use std::io::IoSlice;
use std::sync::Arc;
use weir_base::disk::{OpenMode, read_exact_at};
use weir_base::{Disk, DiskFile};

/// Rows collected for a bucket before they are written.
const BLOCK_ROWS: usize = 8_192;

pub(crate) struct Spill {
    disk: Arc<dyn Disk>,
    path: String,
    file: Arc<dyn DiskFile>,
    len_bytes: u64,
    schema: SchemaRef,
    book: SchemaBook,
    buckets: Vec<Bucket>,
    next: usize,
}

#[derive(Default)]
struct Bucket {
    collected: Vec<RecordBatch>,
    rows: usize,
    /// (offset, length, crc32c) of what was written.
    blocks: Vec<(u64, usize, u32)>,
}

impl Spill {
    pub fn create(ctx: &StoreContext, dir: String, schema: &SchemaRef, buckets: usize) -> Result<Self> {
        let path = format!("{dir}/{:016x}.spill", ctx.rng.u64());
        let failed = |e| StorageError::io("create", &path, e);
        ctx.disk.create_dir_all(&dir).map_err(failed)?;
        let file = ctx.disk.open(&path, OpenMode::CreateNew).map_err(failed)?;
        let book = SchemaBook::in_memory(schema)?;
        let buckets = (0..buckets).map(|_| Bucket::default()).collect();
        let (disk, schema) = (ctx.disk.clone(), schema.clone());
        Ok(Spill { disk, path, file, len_bytes: 0, schema, book, buckets, next: 0 })
    }

    pub fn add(&mut self, bucket: usize, batch: RecordBatch) -> Result<()> {
        let b = &mut self.buckets[bucket];
        b.rows += batch.num_rows();
        b.collected.push(batch);
        if b.rows >= BLOCK_ROWS { self.write(bucket) } else { Ok(()) }
    }

    /// Writes what is still collected; afterwards buckets are read.
    pub fn finish(&mut self) -> Result<()> {
        (0..self.buckets.len()).try_for_each(|bucket| self.write(bucket))
    }

    fn write(&mut self, bucket: usize) -> Result<()> {
        let b = &mut self.buckets[bucket];
        b.rows = 0;
        let collected = std::mem::take(&mut b.collected);
        if collected.is_empty() {
            return Ok(());
        }
        let whole = concat_batches(&self.schema, &collected).map_err(failed("spill rows"))?;
        let bytes = payload::encode(&whole, self.book.current(), Codec::Lz4)?;
        self.file
            .write_all_at(self.len_bytes, &[IoSlice::new(&bytes)])
            .map_err(|e| StorageError::io("write", &self.path, e))?;
        b.blocks.push((self.len_bytes, bytes.len(), crc32c::crc32c(&bytes)));
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    /// The rows of the next bucket that has any; `None` after the last.
    pub fn next_bucket(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(bucket) = self.buckets.get_mut(self.next) {
            self.next += 1;
            let blocks = std::mem::take(&mut bucket.blocks);
            if blocks.is_empty() {
                continue;
            }
            let mut batches = Vec::with_capacity(blocks.len());
            for (offset, len, crc) in blocks {
                let mut bytes = vec![0; len];
                read_exact_at(&*self.file, offset, &mut bytes)
                    .map_err(|e| StorageError::io("read", &self.path, e))?;
                if crc32c::crc32c(&bytes) != crc {
                    let what = "a block does not match its checksum".to_owned();
                    return Err(StorageError::Corrupt { path: self.path.clone(), offset, what });
                }
                batches.push(payload::decode(&Bytes::from(bytes), &self.book)?);
            }
            return concat_batches(&self.schema, &batches).map(Some).map_err(failed("read spilled rows"));
        }
        Ok(None)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Err(e) = self.disk.remove_file(&self.path) {
            tracing::debug!(path = self.path, error = %e, "a temporary file stays until the next open");
        }
    }
}
