//! How far the sources of a query have come, for `SYSTEM SYNC QUERY` and checkpoints.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weir_base::SeqNo;
use weir_plan::NodeId;
use weir_storage::Shard;

/// One source. A row counts as delivered when the task has come back for more: then all it
/// became has been taken by the sink.
#[derive(Debug)]
pub(super) struct SourceProgress {
    shards: Vec<(Arc<Shard>, AtomicU64)>,
    /// One past the last row of history, per shard.
    history_ends: Vec<SeqNo>,
    history_rows: u64,
    ended: AtomicBool,
    moved: Notify,
}

impl SourceProgress {
    /// Of each shard: where it begins, and one past the last row of history.
    pub fn new(shards: impl IntoIterator<Item = (Arc<Shard>, SeqNo, SeqNo)>) -> Arc<Self> {
        let (mut all, mut history_ends, mut history_rows) = (Vec::new(), Vec::new(), 0);
        for (shard, from, end) in shards {
            history_rows += end.0.saturating_sub(from.0);
            history_ends.push(end);
            all.push((shard, AtomicU64::new(from.0)));
        }
        Arc::new(SourceProgress {
            shards: all,
            history_ends,
            history_rows,
            ended: AtomicBool::new(false),
            moved: Notify::new(),
        })
    }

    pub fn delivered(&self, shard: usize, up_to: SeqNo) {
        if self.shards[shard].1.swap(up_to.0, Ordering::SeqCst) != up_to.0 {
            self.moved.notify_waiters();
        }
    }

    pub fn ended(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.moved.notify_waiters();
    }

    /// How far it is behind its log. While history is read rows count as they come: a replay by
    /// event time moves no position before its end.
    fn read(&self, rows: u64, backfilled: bool) -> SourceRead {
        let after = |from: &dyn Fn(usize) -> u64| -> u64 {
            let shards = self.shards.iter().enumerate();
            shards.map(|(i, (shard, _))| shard.durable_end().0.saturating_sub(from(i))).sum()
        };
        let behind_rows = if self.ended.load(Ordering::SeqCst) {
            0
        } else if backfilled {
            after(&|i| self.shards[i].1.load(Ordering::SeqCst))
        } else {
            self.history_rows.saturating_sub(rows) + after(&|i| self.history_ends[i].0)
        };
        SourceRead { behind_rows, history_rows: self.history_rows }
    }

    /// `false` = the source has ended before.
    async fn reach(&self, targets: &[SeqNo]) -> bool {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let there = |(i, target): (usize, &SeqNo)| self.shards[i].1.load(Ordering::SeqCst) >= target.0;
            let ended = self.ended.load(Ordering::SeqCst);
            if targets.iter().enumerate().all(there) {
                return true;
            }
            if ended {
                return false;
            }
            moved.await;
        }
    }
}

/// How much of its log a source has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceRead {
    /// Durable and not read yet.
    pub behind_rows: u64,
    /// There when the query started, and wanted by it.
    pub history_rows: u64,
}

/// All sources of one query.
#[derive(Debug, Default)]
pub struct QuerySources {
    all: Mutex<Vec<(NodeId, Arc<SourceProgress>)>>,
    drain: CancellationToken,
}

impl QuerySources {
    /// One that is opened again takes the place of itself.
    pub(super) fn add(&self, id: NodeId, source: Arc<SourceProgress>) {
        let mut all = self.all.lock();
        all.retain(|(of, _)| *of != id);
        all.push((id, source));
    }

    /// What is known of one source, which has given so many rows; nothing of one without a log.
    pub fn read(&self, id: NodeId, rows: u64, backfilled: bool) -> SourceRead {
        let all = self.all.lock();
        let source = all.iter().find(|(n, _)| *n == id);
        source.map_or_else(SourceRead::default, |(_, s)| s.read(rows, backfilled))
    }

    /// Returns when everything durable at the call has been handed to the query's sink; `false` = a
    /// source has ended before.
    pub async fn sync(&self) -> bool {
        let sources: Vec<_> = self.all.lock().iter().map(|(_, s)| s.clone()).collect();
        let targets: Vec<Vec<SeqNo>> =
            sources.iter().map(|s| s.shards.iter().map(|(shard, _)| shard.durable_end()).collect()).collect();
        let mut all = true;
        for (source, targets) in sources.iter().zip(&targets) {
            all &= source.reach(targets).await;
        }
        all
    }

    /// Asks every source to give what is durable now, then its last watermark, then its end.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Cancelled once the query is drained.
    pub(super) fn draining(&self) -> CancellationToken {
        self.drain.clone()
    }
}
