//! Contracts between whoever starts a streaming query, whoever runs it, and the two ends.

use crate::{Element, LateRows, NodeId, SourceSpec, StreamPlan};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
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
}

/// Numbers of one operator while it runs.
#[derive(Debug, Default)]
pub struct QueryCounters {
    pub rows_in: AtomicU64,
    pub rows_out: AtomicU64,
    pub batches_in: AtomicU64,
    pub busy_ns: AtomicU64,
    pub late_rows: AtomicU64,
    /// Rows so far ahead of their append time that they do not move the watermark.
    pub future_rows: AtomicU64,
    /// Keys held, over all windows.
    pub keys: AtomicU64,
    pub state_bytes: AtomicU64,
    /// Nanoseconds since the epoch; `i64::MIN` before the first.
    pub watermark: AtomicI64,
    pub idle: AtomicBool,
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
    ) -> Result<Arc<dyn Running>, StreamError>;
}
