//! Which log a shard gets, and what it asks of it.

use crate::batch::TailBatch;
use crate::context::StoreContext;
use crate::error::{Result, StorageError};
use crate::external::ExternalLog;
use crate::manifest::Manifest;
use crate::options::{LogStore, StorageType, StreamOptions};
use crate::ring::decode_record;
use crate::schema::SchemaBook;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::watch;
use weir_base::{AppendTime, EventTime, SeqNo};
use weir_log::{
    CommitObserver, LogConfig, MemoryLog, MemoryLogConfig, OpenError, RecordKind, SegmentInfo, SegmentLog,
    ShardLog,
};

/// What a stream in memory keeps without `logstore_retention_bytes`.
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;

/// A log with a bound has so many segments, so that dropping the oldest drops a part of it.
pub(crate) const SEGMENTS_OF_A_BOUND: u64 = 8;

/// A shard's log.
#[derive(Debug)]
pub(crate) enum Log {
    Own(Arc<dyn ShardLog>),
    External(ExternalLog),
}

/// Rows as they were read, each batch with the bytes it took in the log, and where to go on.
pub(crate) type LogRead = (Vec<(TailBatch, u64)>, SeqNo);

impl Log {
    /// Our own log, which rows can be appended to.
    ///
    /// # Errors
    /// [`StorageError::KeptElsewhere`].
    pub fn own(&self) -> Result<&Arc<dyn ShardLog>> {
        match self {
            Log::Own(log) => Ok(log),
            Log::External(_) => Err(StorageError::KeptElsewhere),
        }
    }

    pub fn external(&self) -> Option<&ExternalLog> {
        match self {
            Log::Own(_) => None,
            Log::External(log) => Some(log),
        }
    }

    /// Whole records, the first of which holds `from`, until about `bytes_max` bytes. See [`ShardLog::read`].
    pub fn read(&self, from: SeqNo, bytes_max: usize, book: &SchemaBook) -> Result<LogRead> {
        let log = match self {
            Log::Own(log) => log,
            Log::External(log) => return log.read(from, bytes_max),
        };
        let (mut rows, mut next) = (Vec::new(), from);
        for record in log.read(from, bytes_max)? {
            next = next.max(record.base.plus(u64::from(record.rows)));
            if record.kind == RecordKind::ROWS && record.rows > 0 {
                let tail = decode_record(&record, book)?.starting_at(from);
                rows.push((tail, record.payload.len() as u64));
            }
        }
        Ok((rows, next))
    }

    pub fn start(&self) -> SeqNo {
        match self {
            Log::Own(log) => log.start(),
            Log::External(log) => log.start(),
        }
    }

    pub fn durable_end(&self) -> SeqNo {
        match self {
            Log::Own(log) => log.durable_end(),
            Log::External(log) => log.durable_end(),
        }
    }

    pub fn watch_durable_end(&self) -> watch::Receiver<SeqNo> {
        match self {
            Log::Own(log) => log.watch_durable_end(),
            Log::External(log) => log.watch_durable_end(),
        }
    }

    /// An external log promises nothing of rows to come.
    pub fn append_frontier(&self) -> AppendTime {
        match self {
            Log::Own(log) => log.append_frontier(),
            Log::External(_) => AppendTime(i64::MIN),
        }
    }

    pub fn seek_event_time(&self, from: EventTime) -> Result<SeqNo> {
        match self {
            Log::Own(log) => Ok(log.seek_event_time(from)?),
            Log::External(log) => Ok(log.seek_event_time(from)),
        }
    }

    pub fn seek_append_time(&self, from: AppendTime) -> Result<SeqNo> {
        match self {
            Log::Own(log) => Ok(log.seek_append_time(from)?),
            Log::External(log) => Ok(log.seek_append_time(from)),
        }
    }

    /// None of an external log.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        match self {
            Log::Own(log) => log.segments(),
            Log::External(_) => Vec::new(),
        }
    }

    /// Bytes on our disk or, of an external log, in memory.
    pub fn bytes(&self) -> u64 {
        match self {
            Log::Own(log) => log.segments().iter().map(|s| s.size_bytes).sum(),
            Log::External(log) => log.bytes(),
        }
    }

    /// Rows from `committed_end` on.
    pub fn rows_from(&self, committed_end: SeqNo) -> u64 {
        match self {
            Log::Own(log) => log.durable_end().0.saturating_sub(committed_end.0),
            Log::External(log) => log.rows(),
        }
    }

    pub fn truncate(&self, before: SeqNo) -> Result<()> {
        match self {
            Log::Own(log) => Ok(log.truncate(before)?),
            Log::External(log) => {
                log.truncate(before);
                Ok(())
            }
        }
    }

    /// None of an external log.
    pub fn progress(&self, writer: &[u8; 16]) -> Option<Bytes> {
        match self {
            Log::Own(log) => log.progress(writer),
            Log::External(_) => None,
        }
    }

    pub fn writers(&self) -> Vec<[u8; 16]> {
        match self {
            Log::Own(log) => log.writers(),
            Log::External(_) => Vec::new(),
        }
    }

    pub async fn close(&self) {
        if let Log::Own(log) = self {
            log.close().await;
        }
    }
}

/// Opens the log in `dir/log`, or begins where the parts of an external one end. Blocks.
pub(crate) fn open_log(
    ctx: &StoreContext,
    dir: &str,
    options: &StreamOptions,
    manifest: Option<&Manifest>,
    observer: Arc<dyn CommitObserver>,
) -> Result<Log> {
    if options.log_store == LogStore::External {
        let state =
            manifest.ok_or(StorageError::NoParts { storage_type: "memory", what: "an external log" })?;
        let state = state.state();
        let append_last = state.parts.values().map(|p| p.append_max).max().unwrap_or(AppendTime(i64::MIN));
        return Ok(Log::External(ExternalLog::new(state.committed_end, append_last, &ctx.memory)));
    }
    let dir = format!("{dir}/log");
    let (disk, clock) = (ctx.disk.clone(), ctx.clock.clone());
    let failed = |e: OpenError| open_error(&dir, e);
    if options.storage_type == StorageType::Memory {
        let config = MemoryLogConfig {
            retention_bytes_max: options.log_retention_bytes.unwrap_or(MEMORY_BYTES_DEFAULT),
            idempotent_ids_max: options.idempotent_ids_max,
            memory: Some(ctx.memory.clone()),
            ..Default::default()
        };
        return Ok(Log::Own(MemoryLog::open(disk, clock, &dir, config, Some(observer)).map_err(failed)?));
    }
    let config = LogConfig {
        segment_size_bytes_max: match options.log_bytes_max {
            Some(max) => options.segment_size_bytes_max.min(max / SEGMENTS_OF_A_BOUND),
            None => options.segment_size_bytes_max,
        },
        index_interval_bytes: options.index_interval_bytes,
        idempotent_ids_max: options.idempotent_ids_max,
        ..Default::default()
    };
    Ok(Log::Own(SegmentLog::open(disk, clock, &dir, config, Some(observer)).map_err(failed)?))
}

fn open_error(dir: &str, e: OpenError) -> StorageError {
    tracing::debug!(dir, error = %e, "a log did not open");
    match e {
        OpenError::Read(e) => e.into(),
        OpenError::Write(e) => e.into(),
    }
}
