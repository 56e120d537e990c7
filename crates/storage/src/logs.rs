//! Which log a shard gets.

use crate::context::StoreContext;
use crate::error::{Result, StorageError};
use crate::options::{StorageType, StreamOptions};
use std::sync::Arc;
use weir_log::{CommitObserver, LogConfig, MemoryLog, MemoryLogConfig, OpenError, SegmentLog, ShardLog};

/// What a stream in memory keeps without `logstore_retention_bytes`.
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;

/// A log with a bound has so many segments, so that dropping the oldest drops a part of it.
pub(crate) const SEGMENTS_OF_A_BOUND: u64 = 8;

/// Opens the log in `dir/log`. Blocks.
pub(crate) fn open_log(
    ctx: &StoreContext,
    dir: &str,
    options: &StreamOptions,
    observer: Arc<dyn CommitObserver>,
) -> Result<Arc<dyn ShardLog>> {
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
        return Ok(MemoryLog::open(disk, clock, &dir, config, Some(observer)).map_err(failed)?);
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
    Ok(SegmentLog::open(disk, clock, &dir, config, Some(observer)).map_err(failed)?)
}

fn open_error(dir: &str, e: OpenError) -> StorageError {
    tracing::debug!(dir, error = %e, "a log did not open");
    match e {
        OpenError::Read(e) => e.into(),
        OpenError::Write(e) => e.into(),
    }
}
