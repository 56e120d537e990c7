//! Rows that are kept, in columns, and given back by handle.
//!
//! ```text
//! block: parts of growing batches; a handle is (block, row). Merging parts moves no row.
//! ```
//! A block goes when the last of its rows is released. What is left of dead rows in blocks that still
//! have others is the caller's to clear away: it knows who holds handles ([`Held::is_sparse`]).
//!
//! Not here: what rows mean.

use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave_record_batch;
use std::collections::HashMap;

/// Rows of a block that takes more batches.
const BLOCK_ROWS: usize = 8_192;

/// Where a row lies: block, and row in it.
pub(crate) type Handle = (u32, u32);

#[derive(Debug)]
struct Part {
    first: u32,
    batch: RecordBatch,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Block {
    parts: Vec<Part>,
    rows: u32,
    live: u32,
}

#[derive(Debug)]
pub(crate) struct Held {
    schema: SchemaRef,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// Takes the next batch.
    open: Option<u32>,
    live: usize,
    stored: usize,
    bytes: usize,
}

impl Held {
    pub fn new(schema: SchemaRef) -> Self {
        Held { schema, blocks: Vec::new(), free: Vec::new(), open: None, live: 0, stored: 0, bytes: 0 }
    }

    pub fn live(&self) -> usize {
        self.live
    }

    pub fn bytes(&self) -> usize {
        self.bytes + self.blocks.capacity() * size_of::<Block>() + self.free.capacity() * 4
    }

    /// Whether most of what is stored is dead.
    pub fn is_sparse(&self) -> bool {
        self.stored > 2 * self.live + BLOCK_ROWS
    }

    /// Keeps chosen rows of a batch; the handles follow one another from the one given.
    pub fn add(&mut self, batch: &RecordBatch, rows: &UInt32Array) -> Result<Handle, ArrowError> {
        // Copied, so that nothing of the rest of the batch stays.
        let columns = batch
            .columns()
            .iter()
            .map(|c| arrow_select::take::take(c, rows, None))
            .collect::<Result<Vec<_>, _>>()?;
        let n = rows.len();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(n));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let at = match self.open.filter(|at| self.blocks[*at as usize].rows as usize + n <= BLOCK_ROWS) {
            Some(at) => at,
            None => {
                let at = self.free.pop().unwrap_or_else(|| {
                    self.blocks.push(Block::default());
                    self.blocks.len() as u32 - 1
                });
                // One that still has room is left to the batches that fit it.
                if n < BLOCK_ROWS {
                    self.open = Some(at);
                }
                at
            }
        };
        let block = &mut self.blocks[at as usize];
        let first = block.rows;
        let bytes = batch.get_array_memory_size();
        block.parts.push(Part { first, batch, bytes });
        block.rows += n as u32;
        block.live += n as u32;
        self.bytes += bytes;
        self.live += n;
        self.stored += n;
        // Parts at least halve from one to the next, so there are few and a row is copied few times.
        while let [.., before, last] = block.parts.as_slice()
            && before.batch.num_rows() < 2 * last.batch.num_rows()
        {
            let batch = concat_batches(&self.schema, [&before.batch, &last.batch])?;
            let (first, old) = (before.first, before.bytes + last.bytes);
            let bytes = batch.get_array_memory_size();
            block.parts.truncate(block.parts.len() - 2);
            block.parts.push(Part { first, batch, bytes });
            self.bytes = self.bytes + bytes - old;
        }
        Ok((at, first))
    }

    pub fn release(&mut self, (at, _): Handle) {
        let block = &mut self.blocks[at as usize];
        block.live -= 1;
        self.live -= 1;
        if block.live == 0 {
            self.stored -= block.rows as usize;
            self.bytes -= block.parts.iter().map(|p| p.bytes).sum::<usize>();
            *block = Block::default();
            self.free.push(at);
            if self.open == Some(at) {
                self.open = None;
            }
        }
    }

    /// Rows by handle, in this order.
    pub fn gather(&self, rows: &[Handle]) -> Result<RecordBatch, ArrowError> {
        let mut batches: Vec<&RecordBatch> = Vec::new();
        // Of each block that is met: where its parts begin among the batches.
        let mut met: HashMap<u32, usize> = HashMap::new();
        let places: Vec<(usize, usize)> = rows
            .iter()
            .map(|(at, row)| {
                let parts = &self.blocks[*at as usize].parts;
                let base = *met.entry(*at).or_insert_with(|| {
                    batches.extend(parts.iter().map(|p| &p.batch));
                    batches.len() - parts.len()
                });
                let part = parts.partition_point(|p| p.first <= *row) - 1;
                (base + part, (*row - parts[part].first) as usize)
            })
            .collect();
        if batches.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        interleave_record_batch(&batches, &places)
    }
}
