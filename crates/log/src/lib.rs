//! Floor 1: an append-only log of opaque records, one per shard.
//!
//! The log does not know rows, Arrow, schemas or event semantics: a record is bytes with a
//! header that says how many sequence numbers it takes. What it promises:
//! - acknowledged means survives a crash (for the acknowledgement mode asked);
//! - sequence numbers are dense, never repeat, also across restarts;
//! - append time never falls within a log, also across restarts;
//! - a reader sees only records below `durable_end`, each checksummed when read.
//!
//! [`ShardLog`] is the seam: [`segment log`](SegmentLog) is our own; a Kafka topic can be
//! another (its numbers increase but may have gaps).

mod core;
mod frontier;
mod idempotency;
mod index;
mod lead;
mod memory;
mod pieces;
mod progress;
mod record;
mod recover;
mod roll;
mod segment;
mod shared;
mod writer;

pub use crate::core::{Group, LogCore};
pub use memory::{MemoryLog, MemoryLogConfig};
pub use progress::{PROGRESS_BYTES_MAX, Progress, WRITERS_MAX};
pub use writer::{LogMetrics, SegmentLog};

use bytes::Bytes;
use std::any::Any;
use std::sync::Arc;
use weir_base::{AppendTime, ErrorKind, EventTime, SeqNo};

/// What a record's payload is. The log stores the byte and does not interpret it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordKind(pub u8);

impl RecordKind {
    /// Rows of a stream.
    pub const ROWS: RecordKind = RecordKind(1);
    /// No rows: a watermark or another mark for readers.
    pub const MARK: RecordKind = RecordKind(2);
    /// Written by the log itself after a clean stop or an idle second.
    pub const SEAL: RecordKind = RecordKind(3);
    /// A catalog event.
    pub const EVENT: RecordKind = RecordKind(4);
}

/// Names one record of a retried insert. The last `idempotent_ids_max` are remembered
/// through restarts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// At most 255 bytes.
    pub id: Arc<str>,
    /// Which record of the insert, from 0.
    pub record_no: u32,
    /// Of the rows, so that the same id with other rows is refused.
    pub content_hash: u64,
}

/// One record to be written.
#[derive(Clone)]
pub struct Append {
    pub kind: RecordKind,
    /// How many sequence numbers the record takes; 0 only for marks.
    pub rows: u32,
    pub event_min: EventTime,
    pub event_max: EventTime,
    pub idempotency: Option<Idempotency>,
    /// How far the writer of the record has come, which the log remembers.
    pub progress: Option<Progress>,
    pub payload: Bytes,
    /// Handed back to the [`CommitObserver`], so that a decoded form need not be decoded again.
    pub attachment: Option<Arc<dyn Any + Send + Sync>>,
}

/// When the caller hears back. The fsync follows at once in every mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// After the group fsync: survives a lost machine.
    #[default]
    Durable,
    /// After the write: survives a killed process.
    Written,
    /// Once queued; a failure is only seen in metrics. The number is not known yet:
    /// `base` is [`SeqNo::MAX`] and the append time 0.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub base: SeqNo,
    pub rows: u32,
    pub append_time: AppendTime,
    /// The record was there already under the same idempotency key; nothing was added.
    pub repeated: bool,
}

/// A record as read back: header fields and the checked payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    pub base: SeqNo,
    pub rows: u32,
    pub append_time: AppendTime,
    pub event_min: EventTime,
    pub event_max: EventTime,
    pub idempotency: Option<Idempotency>,
    pub payload: Bytes,
}

/// Told of every record once it is durable, in sequence order, on the thread that wrote it:
/// the log's or an appender's. Must be quick and must not block on the log.
pub trait CommitObserver: Send + Sync {
    fn durable(&self, record: &Record, attachment: Option<Arc<dyn Any + Send + Sync>>);
}

/// Why an append failed. Every variant but `Io` and `Closed` means that nothing was written;
/// after `Io` the outcome is unknown: the record may be found when the log is reopened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    #[error("record of {size_bytes} bytes exceeds the limit of {limit_bytes} bytes")]
    TooLarge { size_bytes: u64, limit_bytes: u64 },
    #[error("idempotent_id '{id}' record {record_no} was used before with other rows")]
    IdempotencyConflict { id: String, record_no: u32 },
    #[error("an idempotent_id of {size_bytes} bytes exceeds the limit of 255 bytes")]
    IdTooLong { size_bytes: u64 },
    #[error("idempotent_id '{id}' has {limit} records, the most that are remembered; insert larger blocks")]
    IdTooManyRecords { id: String, limit: u64 },
    #[error("progress of {size_bytes} bytes exceeds the limit of {PROGRESS_BYTES_MAX} bytes")]
    ProgressTooLong { size_bytes: u64 },
    #[error(
        "{limit} views write to this stream, the most there can be; drop one, or let this one write elsewhere"
    )]
    TooManyWriters { limit: u64 },
    #[error("the disk is full: {free_bytes} bytes free, {needed_bytes} needed; free space and retry")]
    DiskFull { free_bytes: u64, needed_bytes: u64 },
    #[error("the log refuses appends after an earlier failed write: {reason}")]
    Poisoned { reason: String },
    /// Only of a log in memory: what it keeps would pass the process's limit.
    #[error(transparent)]
    Memory(weir_base::memory::OverBudget),
    #[error("the log is closed")]
    Closed,
    #[error("could not write {path}")]
    Io { path: String, source: Arc<std::io::Error> },
}

impl AppendError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. }
            | Self::IdempotencyConflict { .. }
            | Self::IdTooLong { .. }
            | Self::ProgressTooLong { .. }
            | Self::TooManyWriters { .. }
            | Self::IdTooManyRecords { .. } => ErrorKind::Invalid,
            Self::DiskFull { .. }
            | Self::Poisoned { .. }
            | Self::Memory(_)
            | Self::Closed
            | Self::Io { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Why a read or an open failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The rows are gone from the log; they may be in parts.
    #[error("sequence number {asked} is below the oldest held, {oldest}")]
    Truncated { asked: SeqNo, oldest: SeqNo },
    #[error("{path} is damaged at byte {offset}: {what}")]
    Corrupt { path: String, offset: u64, what: String },
    #[error("could not read {path}")]
    Io { path: String, source: Arc<std::io::Error> },
}

impl ReadError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Truncated { .. } => ErrorKind::NotFound,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Io { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Why a log could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] AppendError),
}

impl OpenError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(e) => e.kind(),
            Self::Write(e) => e.kind(),
        }
    }
}

/// Sizes and bounds of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment is sealed when the next group would pass this; a larger group has a segment
    /// of its own.
    pub segment_size_bytes_max: u64,
    /// A segment is sealed at the first group or truncation after this age.
    pub segment_age_ms_max: u64,
    /// One entry of the sparse index for about so much log.
    pub index_interval_bytes: u64,
    /// Larger payloads are refused; at most 4 GiB - 1.
    pub record_bytes_max: u64,
    /// Appends wait once payloads of so many bytes are queued or being written.
    pub queue_bytes_max: u64,
    /// Appends wait once so many are queued or being written.
    pub queue_records_max: u32,
    /// Insert ids remembered for deduplication, through restarts.
    pub idempotent_ids_max: u32,
    /// How far ahead of the clock append times are reserved while the frontier is watched on
    /// an idle log; also how far they may run ahead after a crash.
    pub append_time_reserve_ms: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_size_bytes_max: 256 << 20,
            segment_age_ms_max: 24 * 3600 * 1000,
            index_interval_bytes: 4 << 20,
            record_bytes_max: 256 << 20,
            queue_bytes_max: 64 << 20,
            queue_records_max: 65_536,
            idempotent_ids_max: 1_000,
            append_time_reserve_ms: 2_000,
        }
    }
}

/// One segment, for `system.log_segments`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    pub path: String,
    pub base: SeqNo,
    pub end: SeqNo,
    pub size_bytes: u64,
    pub sealed: bool,
    pub first_append_time: AppendTime,
    pub last_append_time: AppendTime,
}

/// One shard's log. Readers are cursors: they hold a [`SeqNo`] and pull.
#[async_trait::async_trait]
pub trait ShardLog: Send + Sync + std::fmt::Debug {
    /// Queues the record (bounded: waits when full) and returns as `ack` asks.
    async fn append(&self, append: Append, ack: Ack) -> Result<Appended, AppendError>;

    /// Asks for a group commit of everything accepted before the call, waits for it, and
    /// returns the durable end that covers it.
    async fn sync(&self) -> Result<SeqNo, AppendError>;

    /// The newest durable progress of a writer; `None` = it has written nothing, or was forgotten.
    fn progress(&self, writer: &[u8; 16]) -> Option<Bytes>;

    /// Everyone of whom a progress is remembered.
    fn writers(&self) -> Vec<[u8; 16]>;

    /// The oldest sequence number still held; equals `durable_end` for an empty log.
    fn start(&self) -> SeqNo;

    /// One past the newest durable sequence number.
    fn durable_end(&self) -> SeqNo;

    /// `durable_end` as it moves. A waiting reader is woken at once.
    fn watch_durable_end(&self) -> tokio::sync::watch::Receiver<SeqNo>;

    /// Every later record has a greater append time than this: what has less is below
    /// `durable_end` as read after this call. Non-decreasing.
    fn append_frontier(&self) -> AppendTime;

    /// Whole durable records, the first of which holds `from`, until about `bytes_max` bytes
    /// (at least one). Empty at `durable_end`. Blocks on the disk; every checksum is verified.
    /// Marks (records of no rows) come in front of the row that follows them, once it is
    /// durable, so a reader that goes on from the last row's end sees each record once.
    fn read(&self, from: SeqNo, bytes_max: usize) -> Result<Vec<Record>, ReadError>;

    /// Where to start reading so that no held row with event time `>= from` is missed. From
    /// the sparse time index: may be early, never late.
    fn seek_event_time(&self, from: EventTime) -> Result<SeqNo, ReadError>;

    /// Like `seek_event_time`, by append time.
    fn seek_append_time(&self, from: AppendTime) -> Result<SeqNo, ReadError>;

    /// Drops whole sealed segments that end at or below `before`. Blocks on the disk.
    fn truncate(&self, before: SeqNo) -> Result<(), AppendError>;

    fn segments(&self) -> Vec<SegmentInfo>;

    /// Writes a seal and stops the writer. Later appends get [`AppendError::Closed`].
    async fn close(&self);
}

#[cfg(test)]
mod tests;
