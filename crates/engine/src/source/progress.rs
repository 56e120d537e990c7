//! How far the sources of a query have come, for `SYSTEM SYNC QUERY` and checkpoints.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weir_base::SeqNo;
use weir_storage::Shard;

/// One source. A row counts as delivered when the task has come back for more: then all it
/// became has been taken by the sink.
#[derive(Debug)]
pub(super) struct SourceProgress {
    shards: Vec<(Arc<Shard>, AtomicU64)>,
    ended: AtomicBool,
    moved: Notify,
}

impl SourceProgress {
    pub fn new(shards: impl IntoIterator<Item = (Arc<Shard>, SeqNo)>) -> Arc<Self> {
        Arc::new(SourceProgress {
            shards: shards.into_iter().map(|(shard, from)| (shard, AtomicU64::new(from.0))).collect(),
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

    async fn reach(&self, targets: &[SeqNo]) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let there = |(i, target): (usize, &SeqNo)| self.shards[i].1.load(Ordering::SeqCst) >= target.0;
            if self.ended.load(Ordering::SeqCst) || targets.iter().enumerate().all(there) {
                return;
            }
            moved.await;
        }
    }
}

/// All sources of one query.
#[derive(Debug, Default)]
pub struct QuerySources {
    all: Mutex<Vec<Arc<SourceProgress>>>,
    drain: CancellationToken,
}

impl QuerySources {
    pub(super) fn add(&self, source: Arc<SourceProgress>) {
        self.all.lock().push(source);
    }

    /// Returns when everything durable at the call has been handed to the query's sink, or the
    /// sources have ended.
    pub async fn sync(&self) {
        let sources = self.all.lock().clone();
        let targets: Vec<Vec<SeqNo>> =
            sources.iter().map(|s| s.shards.iter().map(|(shard, _)| shard.durable_end()).collect()).collect();
        for (source, targets) in sources.iter().zip(&targets) {
            source.reach(targets).await;
        }
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
