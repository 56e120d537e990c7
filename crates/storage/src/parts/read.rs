//! A part back into batches, block by verified block, in bounded memory.

use super::checks::BLOCK_BYTES;
use super::file::PartFile;
use super::store::PartStore;
use crate::error::{Result, StorageError};
use crate::schema::adapt;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parking_lot::Mutex;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::io::{self, Read};
use std::sync::Arc;

/// Bytes fetched around a place that is read in sequence.
const WINDOW_BYTES: u64 = 256 << 10;

/// Yields a part's rows in file order, with the columns of the given part schema.
pub(crate) struct PartReader {
    part: Arc<PartFile>,
    schema: SchemaRef,
    reader: ParquetRecordBatchReader,
    windows: Arc<Windows>,
    rows_left: u64,
}

impl PartReader {
    /// Blocks on the store, here and in `next`.
    pub fn open(
        store: &Arc<PartStore>,
        part: &Arc<PartFile>,
        schema: &SchemaRef,
        batch_rows: usize,
    ) -> Result<Self> {
        let source = PartSource::new(store, part, windows_max(schema));
        let windows = source.0.clone();
        let failed = |e| StorageError::parquet("read part", part.path(), e);
        let footer = ArrowReaderMetadata::load(&source, ArrowReaderOptions::new()).map_err(failed)?;
        let columns = roots(&footer, schema);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(source, footer)
            .with_projection(columns)
            .with_batch_size(batch_rows)
            .build()
            .map_err(failed)?;
        let (part, rows_left) = (part.clone(), part.meta.rows);
        Ok(PartReader { part, schema: schema.clone(), reader, windows, rows_left })
    }

    /// Of the file, held around places that are read.
    pub fn windows_bytes(&self) -> u64 {
        self.windows.recent.lock().iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// What [`PartReader::windows_bytes`] is at most, where pages are not larger than a window.
    pub fn windows_bytes_max(schema: &SchemaRef) -> u64 {
        windows_max(schema) as u64 * WINDOW_BYTES
    }

    /// The next rows; `None` at the end, by when exactly the manifest's row count was read.
    pub fn next(&mut self) -> Result<Option<RecordBatch>> {
        let corrupt =
            |what: String| StorageError::Corrupt { path: self.part.path().to_owned(), offset: 0, what };
        match self.reader.next() {
            Some(Ok(batch)) => {
                let rows = batch.num_rows() as u64;
                if rows > self.rows_left {
                    return Err(corrupt(format!("more rows than the manifest's {}", self.part.meta.rows)));
                }
                self.rows_left -= rows;
                adapt(&batch, &self.schema).map(Some)
            }
            Some(Err(e)) => Err(StorageError::arrow("read part", self.part.path(), e)),
            None if self.rows_left > 0 => Err(corrupt(format!(
                "{} rows fewer than the manifest's {}",
                self.rows_left, self.part.meta.rows
            ))),
            None => Ok(None),
        }
    }
}

/// One a column, and the ends of the file.
fn windows_max(schema: &SchemaRef) -> usize {
    schema.flattened_fields().len() + 2
}

/// Of a file the columns that `schema` has, by name.
pub(super) fn roots(footer: &ArrowReaderMetadata, schema: &SchemaRef) -> ProjectionMask {
    let file = footer.schema().fields().iter().enumerate();
    let wanted = file.filter(|(_, f)| schema.column_with_name(f.name()).is_some()).map(|(i, _)| i);
    ProjectionMask::roots(footer.parquet_schema(), wanted)
}

/// A part as the Parquet reader wants it: pages are asked for one by one, header and body
/// apart, from several columns in turn, so a window around each place is kept.
pub(super) struct PartSource(Arc<Windows>);

impl PartSource {
    pub fn new(store: &Arc<PartStore>, part: &Arc<PartFile>, windows_max: usize) -> Self {
        let (store, part) = (store.clone(), part.clone());
        PartSource(Arc::new(Windows { store, part, recent: Mutex::default(), windows_max }))
    }
}

struct Windows {
    store: Arc<PartStore>,
    part: Arc<PartFile>,
    /// Most recently used last.
    recent: Mutex<Vec<(u64, Bytes)>>,
    windows_max: usize,
}

impl Windows {
    /// At least `length` bytes from `start` (fewer only at the end of the file), often more.
    fn bytes(&self, start: u64, length: u64) -> Result<Bytes, ParquetError> {
        let size = self.part.meta.size_bytes;
        let end = start.saturating_add(length).min(size);
        if start >= end {
            return Ok(Bytes::new());
        }
        let mut recent = self.recent.lock();
        let holds = |(at, bytes): &(u64, Bytes)| *at <= start && end <= at + bytes.len() as u64;
        if let Some(i) = recent.iter().position(holds) {
            let window = recent.remove(i);
            let found = window.1.slice((start - window.0) as usize..);
            recent.push(window);
            return Ok(found);
        }
        let until = end.max(start.saturating_add(WINDOW_BYTES)).div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
        let read = self
            .store
            .read(self.part.path(), std::slice::from_ref(&(start..until.min(size))))
            .map_err(|e| ParquetError::External(Box::new(e)))?
            .remove(0);
        if recent.len() >= self.windows_max {
            recent.remove(0);
        }
        recent.push((start, read.clone()));
        Ok(read)
    }
}

impl Length for PartSource {
    fn len(&self) -> u64 {
        self.0.part.meta.size_bytes
    }
}

impl ChunkReader for PartSource {
    type T = SourceRead;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(SourceRead { windows: self.0.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.0.bytes(start, length as u64)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!(
                "{} bytes at {start} of {}, {length} asked",
                bytes.len(),
                self.0.part.path()
            )));
        }
        Ok(bytes.slice(..length))
    }
}

pub(super) struct SourceRead {
    windows: Arc<Windows>,
    at: u64,
}

impl Read for SourceRead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.windows.bytes(self.at, 1).map_err(|e| match e {
            ParquetError::External(inner) => io::Error::other(inner),
            other => io::Error::other(other),
        })?;
        let n = bytes.len().min(out.len());
        out[..n].copy_from_slice(&bytes[..n]);
        self.at += n as u64;
        Ok(n)
    }
}
