//! Contracts between whoever starts a streaming query, whoever runs it, and the two ends.

use crate::{
    CheckpointStatus, CheckpointStore, Element, Epoch, Lasting, LateRows, NodeId, Position, RowsAt,
    SourceSpec, StreamPlan, WatermarkTime,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use weir_base::{Clock, Code, MemoryBudget, SeqNo};

/// Why a running query failed, with the code its client sees.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct StreamError {
    pub code: Code,
    pub message: String,
}

/// Where elements come from. Owned and polled by one task; being dropped cancels it.
#[async_trait::async_trait]
pub trait Source: Send {
    /// The next element. Waits without polling; must be cancel safe: a dropped call loses no
    /// element. After `End` it is not called again.
    async fn next(&mut self) -> Result<Element, StreamError>;

    /// The next element if one is there without waiting on other parties.
    fn try_next(&mut self) -> Result<Option<Element>, StreamError>;

    /// Per shard, the first sequence number not yet handed out (goes into checkpoints).
    fn position(&self) -> Vec<SeqNo>;

    /// Gives no row at or past these numbers, one a shard, until it is told otherwise; `None` = all. It is
    /// not polled while it stands there.
    fn stop_at(&mut self, _bounds: Option<&[SeqNo]>) {}

    /// Of a source that failed: the rows it failed on, by the place of their shard, the first and one past the
    /// last; `None` = no rows' fault.
    fn failed_at(&self) -> Option<(usize, SeqNo, SeqNo)> {
        None
    }
}

/// Makes the sources of a plan; implemented by `engine`.
#[async_trait::async_trait]
pub trait SourceFactory: Send + Sync {
    async fn open(&self, id: NodeId, spec: &SourceSpec) -> Result<Box<dyn Source>, StreamError>;
}

/// Where results go. Back-pressure: `send` waits until there is room.
#[async_trait::async_trait]
pub trait Sink: Send {
    async fn send(&mut self, element: Element) -> Result<(), StreamError>;

    /// Rows that were left out as late. Told beside the results, each once.
    async fn late(&mut self, _rows: LateRows) -> Result<(), StreamError> {
        Ok(())
    }

    /// All that the rows up to `at` became has been sent. Said only to the sink of a lasting query, and
    /// only where something was sent since the last time.
    async fn complete(&mut self, _at: &Position) -> Result<(), StreamError> {
        Ok(())
    }

    /// A checkpoint stands here: it counts once what was sent before is durable, which the future tells.
    async fn barrier(&mut self, _epoch: Epoch) -> Result<Durable, StreamError> {
        Ok(Box::pin(std::future::ready(Ok(()))))
    }

    /// The query stands here: first where it begins, then at each position of [`Lasting::written`] that it has
    /// come to: what was sent so far was written before by whoever had come there.
    async fn passed(&mut self, _at: &Position) -> Result<(), StreamError> {
        Ok(())
    }
}

/// Resolves once something is durable, or with why it will not be.
pub type Durable = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send>>;

/// What a source that judges rows knows of one of its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardProgress {
    pub shard: i32,
    /// Nanoseconds since the epoch; `i64::MIN` before the first row.
    pub watermark: i64,
    /// Append time of its last row, microseconds since the epoch.
    pub last_append_us: i64,
    /// Holds nobody back.
    pub idle: bool,
}

/// Numbers of one operator while it runs.
#[derive(Debug)]
pub struct QueryCounters {
    pub rows_in: AtomicU64,
    pub rows_out: AtomicU64,
    pub batches_in: AtomicU64,
    pub busy_ns: AtomicU64,
    pub late_rows: AtomicU64,
    /// Rows so far ahead of their append time that they do not move the watermark.
    pub future_rows: AtomicU64,
    /// Rows left out because of an emit policy.
    pub skipped_rows: AtomicU64,
    /// Keys forgotten because no row came for them (`aggregate_state_ttl_sec`).
    pub expired_keys: AtomicU64,
    /// Keys held, over all windows.
    pub keys: AtomicU64,
    pub state_bytes: AtomicU64,
    /// Nanoseconds since the epoch; `i64::MIN` before the first.
    pub watermark: AtomicI64,
    pub idle: AtomicBool,
    /// When the watermark last rose, microseconds since the epoch; `i64::MIN` = never.
    pub rose_us: AtomicI64,
    /// When rows last came in, likewise.
    pub came_us: AtomicI64,
    /// What is held leaves when the watermark comes to this; `i64::MAX` = nothing waits for one.
    pub waits_for: AtomicI64,
    /// Processing time of the next emission, microseconds; `i64::MAX` = none is due.
    pub due_us: AtomicI64,
    /// Of a source: its history has been read.
    pub backfilled: AtomicBool,
    shards: Mutex<Vec<ShardProgress>>,
}

impl Default for QueryCounters {
    fn default() -> Self {
        QueryCounters {
            rows_in: AtomicU64::new(0),
            rows_out: AtomicU64::new(0),
            batches_in: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            late_rows: AtomicU64::new(0),
            future_rows: AtomicU64::new(0),
            skipped_rows: AtomicU64::new(0),
            expired_keys: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            state_bytes: AtomicU64::new(0),
            watermark: AtomicI64::new(i64::MIN),
            idle: AtomicBool::new(false),
            rose_us: AtomicI64::new(i64::MIN),
            came_us: AtomicI64::new(i64::MIN),
            waits_for: AtomicI64::new(i64::MAX),
            due_us: AtomicI64::new(i64::MAX),
            backfilled: AtomicBool::new(false),
            shards: Mutex::default(),
        }
    }
}

impl QueryCounters {
    /// The watermark is `at` now.
    pub fn rose(&self, at: WatermarkTime, now_us: i64) {
        if self.watermark.swap(at.0, Relaxed) != at.0 {
            self.rose_us.store(now_us, Relaxed);
        }
    }

    /// Of a source that judges, per shard.
    pub fn shards(&self) -> Vec<ShardProgress> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_shards(&self, shards: impl Iterator<Item = ShardProgress>) {
        let mut held = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        held.clear();
        held.extend(shards);
    }
}

/// A query that was started. Dropping it cancels the query.
#[async_trait::async_trait]
pub trait Running: Send + Sync {
    /// Per operator, by node.
    fn counters(&self) -> Vec<(NodeId, &'static str, Arc<QueryCounters>)>;
    /// Asks the query to stop; `join` then returns soon.
    fn cancel(&self);
    /// Waits until the query has ended: `Ok` when finished or cancelled.
    async fn join(&self) -> Result<(), StreamError>;

    /// Makes a checkpoint now and returns when it is durable.
    ///
    /// # Errors
    /// Code 48 for a query that is not lasting; why it could not be written (the query goes on).
    async fn checkpoint(&self) -> Result<Epoch, StreamError> {
        Err(StreamError {
            code: Code::NotImplemented,
            message: "the query keeps no checkpoints; give it checkpoint_interval".into(),
        })
    }

    /// The rows that a query was taking in when it failed.
    fn failed_at(&self) -> Option<RowsAt> {
        None
    }

    /// Of a lasting query.
    fn checkpoints(&self) -> Option<CheckpointStatus> {
        None
    }
}

/// Runs plans; implemented by `dataflow`, handed to `engine` by `server`.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync {
    async fn start(
        &self,
        plan: StreamPlan,
        sources: Arc<dyn SourceFactory>,
        sink: Box<dyn Sink>,
        clock: Arc<dyn Clock>,
        memory: Arc<MemoryBudget>,
        lasting: Option<Lasting>,
    ) -> Result<Arc<dyn Running>, StreamError>;

    /// Reads all of a query's checkpoints again: how many bytes, and what of them does not check.
    ///
    /// # Errors
    /// Files that can not be read at all.
    async fn verify(&self, store: Arc<dyn CheckpointStore>) -> Result<(u64, Vec<String>), StreamError>;

    /// Whether a plan can go on from the newest checkpoint in `store`; one that has none can.
    ///
    /// # Errors
    /// Code 80 with what keeps it from that.
    async fn check(&self, plan: &StreamPlan, store: Arc<dyn CheckpointStore>) -> Result<(), StreamError>;
}
