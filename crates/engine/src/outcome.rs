//! What a statement gives back.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use weir_base::Result;
use weir_format::{DecodedBatch, FormatSettings};

/// Result columns: Arrow fields made by `weir_format::types`.
pub type Schema = SchemaRef;

pub enum Outcome {
    /// No rows: DDL, SET, SYSTEM, a finished INSERT.
    Done(Done),
    Rows(QueryHandle),
    /// The statement waits for data in its format: the protocol decodes and writes it.
    Insert(Box<InsertHandle>),
}

#[derive(Debug, Clone, Default)]
pub struct Done {
    pub query_id: String,
    pub written_rows: u64,
    pub written_bytes: u64,
    /// For the `X-…-Summary` and warning headers.
    pub warnings: Vec<String>,
}

/// Read while a query runs.
#[derive(Debug, Default)]
pub struct Progress {
    pub read_rows: AtomicU64,
    pub read_bytes: AtomicU64,
    pub written_rows: AtomicU64,
    pub written_bytes: AtomicU64,
    /// 0 = not known.
    pub total_rows: AtomicU64,
    pub result_rows: AtomicU64,
    /// Rows that a streaming query has put into its output buffer, and those its reader has taken.
    pub given_rows: AtomicU64,
    pub taken_rows: AtomicU64,
    /// Since when the query waits for its reader, microseconds since the epoch; 0 = it does not.
    pub full_since_us: AtomicI64,
}

impl Progress {
    pub fn add_read(&self, rows: u64, bytes: u64) {
        self.read_rows.fetch_add(rows, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A running query. Dropping it (or its `batches`) cancels the query.
pub struct QueryHandle {
    pub query_id: String,
    pub schema: Schema,
    /// Never ends until cancelled.
    pub streaming: bool,
    /// The FORMAT clause; `None` leaves it to the protocol.
    pub format: Option<String>,
    pub format_settings: FormatSettings,
    pub progress: Arc<Progress>,
    pub warnings: Vec<String>,
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

/// An INSERT that takes its rows from the protocol.
pub struct InsertHandle {
    pub query_id: String,
    /// The format named in the statement (`Values` for VALUES).
    pub format: String,
    pub format_settings: FormatSettings,
    /// Columns named in the statement, to decode into.
    pub schema: Schema,
    /// Data that followed the statement in its own text; comes before the body.
    pub inline: Vec<u8>,
    /// Rows a batch should have (`max_insert_block_size`).
    pub batch_rows_max: usize,
    /// All of its rows or none: of input that breaks off nothing is kept.
    pub whole: bool,
    pub writer: Box<dyn InsertWriter>,
}

/// Takes decoded rows. Each batch becomes one record a shard.
#[async_trait::async_trait]
pub trait InsertWriter: Send {
    /// Fills defaults and appends. Returns when the append is acknowledged as `ack` asks, or
    /// earlier if more may be in flight (bounded); `finish` waits for all.
    async fn write(&mut self, batch: DecodedBatch) -> Result<()>;
    /// Waits for every acknowledgement. The error says how many rows are kept.
    async fn finish(self: Box<Self>) -> Result<Done>;
}
