//! What a reader asks of history: which columns, which rows it can do without, how far ahead.

use super::Shard;
use crate::batch::{TailBatch, part_schema};
use crate::error::{Result, StorageError};
use crate::parts::PartFile;
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use parquet::file::metadata::ParquetMetaData;
use std::fmt::Debug;
use std::sync::Arc;
use weir_base::{MemoryBudget, ShardId};

/// Says which rows of history can not matter to a reader. It filters again: keeping too much
/// changes nothing, and live rows are never asked about.
pub trait Pruner: Send + Sync + Debug {
    /// Of each part whether it may hold a row that is wanted.
    fn parts(&self, shard: ShardId, parts: &[Arc<PartFile>]) -> Vec<bool>;
    /// The same of each row group of a part, by its footer. `file` is the part's own schema.
    fn row_groups(&self, file: &SchemaRef, footer: &ParquetMetaData) -> Vec<bool>;
}

/// The default: all there is of each row, nothing left out, nothing read ahead.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Positions among the stream's columns, in the order batches are to have; `None` = all.
    pub columns: Option<Vec<usize>>,
    /// Append times are looked at. Without, rows from parts may come with [`crate::Times::Unread`].
    pub append_times: bool,
    /// Sequence numbers are looked at, also where order is free ([`crate::Sns::Unread`]).
    pub sns: bool,
    pub pruner: Option<Arc<dyn Pruner>>,
    /// History is read from parts where these need only be decoded, though the log may hold it:
    /// they are smaller, and give single columns.
    pub parts_first: bool,
    /// Decoded rows held for the reader at most, beside one row group; 0 = decode when asked.
    pub ahead_bytes_max: u64,
    /// What is held is charged to it. A row group in hand is held even where it refuses.
    pub memory: Option<Arc<MemoryBudget>>,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            columns: None,
            append_times: true,
            sns: true,
            pruner: None,
            parts_first: false,
            ahead_bytes_max: 0,
            memory: None,
        }
    }
}

/// [`Wanted`] of one stream.
#[derive(Debug)]
pub(super) struct Reading {
    pub wanted: Wanted,
    /// What batches have.
    pub schema: SchemaRef,
}

impl Reading {
    pub fn new(shard: &Shard, wanted: Wanted) -> Arc<Self> {
        let schema = match &wanted.columns {
            None => shard.schema.clone(),
            Some(columns) => {
                let all = shard.schema.fields();
                let fields: Vec<_> = columns.iter().map(|i| all[*i].clone()).collect();
                Arc::new(Schema::new_with_metadata(fields, shard.schema.metadata().clone()))
            }
        };
        Arc::new(Reading { wanted, schema })
    }

    /// The wanted columns as parts hold them, with sequence numbers and append times.
    pub fn part_schema(&self) -> SchemaRef {
        part_schema(&self.schema)
    }

    /// Of a batch with all columns those that are wanted.
    pub fn pick(&self, rows: TailBatch) -> Result<TailBatch> {
        let Some(columns) = &self.wanted.columns else { return Ok(rows) };
        let picked = columns.iter().map(|i| rows.batch.column(*i).clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), picked, &options)
            .map_err(|e| StorageError::Schema { what: e.to_string() })?;
        Ok(TailBatch { batch, ..rows })
    }
}
