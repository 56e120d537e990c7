//! One shard: its log, its parts, and the stitch between them.
//!
//! Invariants
//! - a row below `committed_end` lies in exactly one live part (or was removed), a row from
//!   there to `durable_end` in the log; readers take both borders at one instant;
//! - the log drops nothing above `committed_end` nor at or above a pin;
//! - appends, commits and merges may fail and be repeated; none loses a row.
//!
//! `append`, `commit`, `merge`, `retention` each hold one duty; `snapshot` and `cursor` read
//! (`replay`, `ahead`, `scan` parts for them, as `wanted` says);
//! `background` decides when, and nothing else, so that tests drive the same functions.

mod ahead;
mod append;
mod background;
mod commit;
mod cursor;
mod feed;
mod merge;
mod open;
mod plan;
mod replay;
mod retention;
mod room;
mod scan;
mod snapshot;
#[cfg(test)]
mod tests;
mod verify;
mod wanted;

pub use cursor::TailCursor;
pub use plan::MergeMode;
pub use retention::LogPin;
pub use scan::HistoryScan;
pub use snapshot::{LogRows, ShardSnapshot};
pub use verify::Verified;
pub use wanted::{Pruner, Wanted};

pub(crate) use open::ShardSpec;

use crate::context::StoreContext;
use crate::error::{Result, StorageError};
use crate::layout::PartLayout;
use crate::logs::Log;
use crate::manifest::{Manifest, Version};
use crate::options::{StorageType, StreamOptions};
use crate::parts::{Garbage, PartInfo};
use crate::ring::{Backlog, Ring};
use crate::schema::SchemaBook;
use crate::store::FilesUser;
use arc_swap::ArcSwap;
use arrow_schema::SchemaRef;
use parking_lot::Mutex;
use retention::Pins;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::watch;
use weir_base::metrics::Metric;
use weir_base::{AppendTime, EventTime, SeqNo, ShardId};
use weir_log::SegmentInfo;

/// One shard of a stream. Shared; all calls take `&self`.
#[derive(Debug)]
pub struct Shard {
    me: Weak<Shard>,
    id: ShardId,
    part_dir: String,
    ctx: StoreContext,
    schema: SchemaRef,
    part_schema: SchemaRef,
    book: Arc<SchemaBook>,
    layout: Arc<dyn PartLayout>,
    options: ArcSwap<StreamOptions>,
    storage_type: StorageType,
    log: Log,
    ring: Arc<Ring>,
    backlog: Arc<Backlog>,
    /// `None` for streams in memory.
    manifest: Option<Mutex<Manifest>>,
    version: ArcSwap<Version>,
    pins: Mutex<Pins>,
    garbage: Arc<Garbage>,
    /// Files of a failed change that may turn out durable; see [`Manifest::append`].
    doubtful: Mutex<Vec<String>>,
    merging: Mutex<()>,
    making_room: Mutex<()>,
    /// Bytes that are being appended, where the log has a bound.
    appending: AtomicU64,
    dropped_rows: AtomicU64,
    commit_error: Mutex<Option<String>>,
    /// Set once, ends the background.
    closing: watch::Sender<bool>,
    closed: AtomicBool,
    log_closed: tokio::sync::OnceCell<()>,
    /// Set once, before `closing`: the stream is no longer there for anyone new.
    dropped: AtomicBool,
    /// Whoever holds the shard may read its files.
    _user: FilesUser,
    metrics: ShardMetrics,
}

#[derive(Debug)]
struct ShardMetrics {
    committed_rows: Metric,
    commits: Metric,
    commit_failures: Metric,
    merges: Metric,
    merges_put_off: Metric,
    expired_rows: Metric,
    dropped_rows: Metric,
}

/// A shard in numbers, for system streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStats {
    pub shard: ShardId,
    pub oldest: SeqNo,
    pub committed_end: SeqNo,
    pub durable_end: SeqNo,
    /// Rows a bounded query would see now.
    pub rows: u64,
    pub parts: u64,
    pub part_bytes: u64,
    pub log_bytes: u64,
    pub uncommitted_bytes: u64,
    /// Why the last commit failed; `None` if it did not.
    pub commit_error: Option<String>,
}

impl Shard {
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The stream's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// One past the newest row readers may see.
    pub fn durable_end(&self) -> SeqNo {
        self.log.durable_end()
    }

    /// Rows below lie in parts, rows from here on in the log. For streams without parts: where
    /// the log begins.
    pub fn committed_end(&self) -> SeqNo {
        let version = self.version();
        if self.has_parts() { version.committed_end } else { self.log.start().max(version.floor) }
    }

    /// The oldest row held; equals `durable_end` if there is none.
    pub fn oldest(&self) -> SeqNo {
        let version = self.version();
        let parts = version.parts.values().map(|p| p.meta.sn_min).min();
        let log = self.log.start().max(version.floor);
        parts.map_or(log, |parts| parts.min(log))
    }

    /// The oldest row the log holds.
    pub fn log_start(&self) -> SeqNo {
        self.log.start().max(self.version().floor)
    }

    /// Every later row has a greater append time.
    pub fn append_frontier(&self) -> AppendTime {
        self.log.append_frontier()
    }

    /// Reads every part of the process, each block verified; see [`StoreContext::object_store`].
    pub fn object_store(&self) -> Arc<dyn object_store::ObjectStore> {
        self.ctx.object_store()
    }

    /// `durable_end` as it moves.
    pub fn watch_durable_end(&self) -> watch::Receiver<SeqNo> {
        self.log.watch_durable_end()
    }

    /// Where to start reading so that no row with `_tp_time >= from` is missed: may be early,
    /// never late.
    pub fn seek_event_time(&self, from: EventTime) -> Result<SeqNo> {
        self.seek(self.log.seek_event_time(from)?, |part| part.event_max >= from)
    }

    /// Like [`Shard::seek_event_time`], by append time.
    pub fn seek_append_time(&self, from: AppendTime) -> Result<SeqNo> {
        self.seek(self.log.seek_append_time(from)?, |part| part.append_max >= from)
    }

    fn seek(&self, in_log: SeqNo, matches: impl Fn(&crate::parts::PartMeta) -> bool) -> Result<SeqNo> {
        let version = self.version();
        // Rows that the log still holds are found there, by its finer index.
        let log_start = self.log.start();
        let in_parts = version
            .parts
            .values()
            .filter(|p| p.meta.sn_min < log_start && matches(&p.meta))
            .map(|p| p.meta.sn_min)
            .min();
        Ok(in_parts.map_or(in_log, |sn| sn.min(in_log)).max(version.floor))
    }

    pub fn parts(&self) -> Vec<PartInfo> {
        self.version().parts.values().map(|p| p.info()).collect()
    }

    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.log.segments()
    }

    pub fn stats(&self) -> ShardStats {
        let version = self.version();
        let parts = version.parts.values();
        let committed_end = self.committed_end();
        let durable_end = self.durable_end();
        ShardStats {
            shard: self.id,
            oldest: self.oldest(),
            committed_end,
            durable_end,
            rows: parts.clone().map(|p| p.meta.rows).sum::<u64>() + self.log.rows_from(committed_end),
            parts: parts.len() as u64,
            part_bytes: parts.map(|p| p.meta.size_bytes).sum(),
            log_bytes: self.log.bytes(),
            uncommitted_bytes: if self.has_parts() { self.backlog.bytes() } else { 0 },
            commit_error: self.commit_error.lock().clone(),
        }
    }

    pub(crate) fn set_options(&self, options: &StreamOptions) {
        self.ring.set_bytes_max(options.tail_ring_bytes_max);
        self.options.store(Arc::new(options.clone()));
        self.backlog.grown.notify_one();
        self.backlog.shrunk.notify_waiters();
    }

    pub fn options(&self) -> Arc<StreamOptions> {
        self.options.load_full()
    }

    /// Removes all rows below the present durable end; sequence numbers go on. Blocks.
    ///
    /// # Errors
    /// Nothing was removed that a reader can see.
    pub fn truncate_once(&self) -> Result<()> {
        match &self.manifest {
            Some(manifest) => {
                let mut manifest = manifest.lock();
                let to = self.log.durable_end();
                let rows = to.0 - manifest.state().committed_end.0;
                manifest.append(crate::manifest::Change::Truncate { to, rows })?;
                self.publish(&mut manifest);
                self.backlog.committed(to);
            }
            None => {
                let to = self.log.durable_end();
                let before = self.version();
                self.version.store(Arc::new(Version {
                    number: before.number + 1,
                    floor: to,
                    ..Version::empty()
                }));
            }
        }
        self.retain_once()?;
        self.collect_garbage();
        Ok(())
    }

    /// Removes the files of parts that nobody holds any more. Blocks.
    pub fn collect_garbage(&self) -> usize {
        self.garbage.collect(self.ctx.parts())
    }

    /// Ends background work, writes what the log has accepted and closes it. Later appends
    /// fail, waiting cursors end with [`StorageError::Closed`].
    pub async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.send_replace(true);
        self.log_closed.get_or_init(|| self.log.close()).await;
        self.backlog.shrunk.notify_waiters();
    }

    /// Whether the stream was dropped. Snapshots go on reading what they hold; cursors end with
    /// [`StorageError::Dropped`].
    pub fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }

    pub(crate) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::SeqCst);
    }

    /// What a call that found the log closed says.
    fn closed_error(&self) -> StorageError {
        if self.is_dropped() { StorageError::Dropped } else { StorageError::Closed }
    }

    fn has_parts(&self) -> bool {
        self.storage_type == StorageType::Hybrid
    }

    fn version(&self) -> Arc<Version> {
        self.version.load_full()
    }

    /// Shows readers the manifest's state.
    fn publish(&self, manifest: &mut Manifest) {
        // The manifest is no longer in doubt: files of failed changes can go.
        std::mem::take(&mut *self.doubtful.lock()).into_iter().for_each(|path| self.garbage.add(path));
        let before = self.version();
        let next =
            Version::of(manifest.state(), manifest.version(), &self.part_dir, &self.garbage, Some(&before));
        self.version.store(Arc::new(next));
    }

    fn note_commit(&self, outcome: &Result<bool>) {
        let error = outcome.as_ref().err().map(weir_error_text);
        if let Some(error) = &error {
            self.metrics.commit_failures.add(1);
            tracing::warn!(dir = self.part_dir, error, "a commit failed and will be repeated");
        } else if matches!(outcome, Ok(true)) {
            self.metrics.commits.add(1);
        }
        let failed = error.is_some();
        *self.commit_error.lock() = error;
        if failed {
            self.backlog.shrunk.notify_waiters();
        }
    }
}

fn weir_error_text(e: &StorageError) -> String {
    weir_base::Error::from(e.clone()).message
}
