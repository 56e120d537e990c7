//! Row groups of a part, any of them by itself, with the columns that are asked for.
//!
//! A row group's bytes are read in one go and verified; what decodes them holds nothing else.

use super::file::PartFile;
use super::read::{PartSource, roots};
use super::store::PartStore;
use crate::error::{Result, StorageError};
use crate::schema::adapt;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::{Buf, Bytes, buf::Reader};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;
use std::ops::Range;
use std::sync::Arc;

/// A part whose footer was read.
#[derive(Debug)]
pub(crate) struct PartGroups {
    store: Arc<PartStore>,
    pub part: Arc<PartFile>,
    footer: ArrowReaderMetadata,
}

impl PartGroups {
    /// Blocks on the store, here and in `read`.
    pub fn open(store: &Arc<PartStore>, part: &Arc<PartFile>) -> Result<Self> {
        let source = PartSource::new(store, part, 1);
        let footer = ArrowReaderMetadata::load(&source, ArrowReaderOptions::new())
            .map_err(|e| StorageError::parquet("read part", part.path(), e))?;
        let groups = PartGroups { store: store.clone(), part: part.clone(), footer };
        let rows: u64 = (0..groups.len()).map(|g| groups.rows(g)).sum();
        if rows != part.meta.rows {
            let what = format!("{rows} rows, the manifest says {}", part.meta.rows);
            return Err(StorageError::Corrupt { path: part.path().to_owned(), offset: 0, what });
        }
        Ok(groups)
    }

    pub fn len(&self) -> usize {
        self.footer.metadata().num_row_groups()
    }

    pub fn rows(&self, group: usize) -> u64 {
        self.footer.metadata().row_group(group).num_rows().max(0) as u64
    }

    pub fn schema(&self) -> &SchemaRef {
        self.footer.schema()
    }

    pub fn footer(&self) -> &ParquetMetaData {
        self.footer.metadata()
    }

    /// The greatest value of an int64 column in a row group, if the footer says.
    pub fn max_int64(&self, group: usize, column: &str) -> Option<i64> {
        let columns = self.footer.metadata().row_group(group).columns();
        let column = columns.iter().find(|c| c.column_path().parts() == [column])?;
        match column.statistics()? {
            Statistics::Int64(s) => s.max_opt().copied(),
            _ => None,
        }
    }

    /// A row group's rows in file order, with the columns of `schema`.
    pub fn read(&self, group: usize, schema: &SchemaRef, batch_rows: usize) -> Result<Vec<RecordBatch>> {
        let path = self.part.path();
        let failed = |e| StorageError::parquet("read part", path, e);
        let mask = roots(&self.footer, schema);
        let row_group = self.footer.metadata().row_group(group);
        let ranges: Vec<Range<u64>> = row_group
            .columns()
            .iter()
            .enumerate()
            .filter(|(leaf, _)| mask.leaf_included(*leaf))
            .map(|(_, column)| column.byte_range())
            .map(|(start, length)| start..start + length)
            .collect();
        let chunks = self.store.read(path, &ranges)?;
        let chunks = ranges.iter().map(|r| r.start).zip(chunks).collect();
        let source = Chunks { size_bytes: self.part.meta.size_bytes, chunks };
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(source, self.footer.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(batch_rows)
            .build()
            .map_err(failed)?;
        let mut batches = Vec::new();
        let mut rows = 0;
        for batch in reader {
            let batch = batch.map_err(|e| StorageError::arrow("read part", path, e))?;
            rows += batch.num_rows() as u64;
            batches.push(adapt(&batch, schema)?);
        }
        if rows != self.rows(group) {
            let what = format!("{rows} rows in row group {group}, its footer says {}", self.rows(group));
            return Err(StorageError::Corrupt { path: path.to_owned(), offset: 0, what });
        }
        Ok(batches)
    }
}

/// Column chunks in memory, by their place in the file.
struct Chunks {
    size_bytes: u64,
    chunks: Vec<(u64, Bytes)>,
}

impl Chunks {
    fn from(&self, start: u64) -> std::result::Result<Bytes, ParquetError> {
        let holds = |(at, bytes): &&(u64, Bytes)| *at <= start && start < at + bytes.len() as u64;
        match self.chunks.iter().find(holds) {
            Some((at, bytes)) => Ok(bytes.slice((start - at) as usize..)),
            None => Err(ParquetError::General(format!("byte {start} lies in no column chunk that was read"))),
        }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.size_bytes
    }
}

impl ChunkReader for Chunks {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> std::result::Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{} bytes at {start}, {length} asked", bytes.len())));
        }
        Ok(bytes.slice(..length))
    }
}
