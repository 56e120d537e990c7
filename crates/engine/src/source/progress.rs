//! How far the sources of a query have come, for `SYSTEM SYNC QUERY` and checkpoints.

use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weir_base::SeqNo;
use weir_plan::{ExternalStream, NodeId};
use weir_storage::Shard;

/// One source. A row counts as delivered when the task has come back for more: then all it
/// became has been taken by the sink.
#[derive(Debug)]
pub(super) struct SourceProgress {
    log: Log,
    /// Per shard, the first row not delivered.
    delivered: RwLock<Vec<AtomicU64>>,
    /// One past the last row of history, per shard.
    history_ends: Vec<SeqNo>,
    history_rows: u64,
    ended: AtomicBool,
    moved: Notify,
}

/// Where the rows lie.
#[derive(Debug)]
enum Log {
    Shards(Vec<Arc<Shard>>),
    /// Its partitions by number, in the order in which they are read, and one past the last offset that is known
    /// of each.
    External(Arc<dyn ExternalStream>, RwLock<Vec<(i32, SeqNo)>>),
}

impl Log {
    /// One past the last row of each shard, as far as known without asking.
    fn ends(&self) -> Vec<SeqNo> {
        match self {
            Log::Shards(shards) => shards.iter().map(|s| s.durable_end()).collect(),
            Log::External(_, known) => known.read().iter().map(|(_, end)| *end).collect(),
        }
    }

    async fn ask_ends(&self) -> Vec<SeqNo> {
        if let Log::External(stream, known) = self
            && let Ok(now) = stream.partitions().await
        {
            for (id, end) in known.write().iter_mut() {
                *end = now.iter().find(|p| p.id == *id).map_or(*end, |p| p.end);
            }
        }
        self.ends()
    }
}

impl SourceProgress {
    /// Of each partition: its number, where it begins, and one past the last row of history.
    pub fn external(
        stream: Arc<dyn ExternalStream>,
        parts: impl IntoIterator<Item = (i32, SeqNo, SeqNo)>,
    ) -> Arc<Self> {
        let (mut known, mut delivered, mut history_ends, mut history_rows) = (vec![], vec![], vec![], 0);
        for (id, from, end) in parts {
            history_rows += end.0.saturating_sub(from.0);
            history_ends.push(end);
            known.push((id, end));
            delivered.push(AtomicU64::new(from.0));
        }
        Arc::new(SourceProgress {
            log: Log::External(stream, RwLock::new(known)),
            delivered: RwLock::new(delivered),
            history_ends,
            history_rows,
            ended: AtomicBool::new(false),
            moved: Notify::new(),
        })
    }

    /// A partition came since.
    pub fn appeared(&self, id: i32) {
        if let Log::External(_, known) = &self.log {
            known.write().push((id, SeqNo::ZERO));
            self.delivered.write().push(AtomicU64::new(0));
        }
    }

    /// Of each shard: where it begins, and one past the last row of history.
    pub fn new(shards: impl IntoIterator<Item = (Arc<Shard>, SeqNo, SeqNo)>) -> Arc<Self> {
        let (mut all, mut delivered, mut history_ends, mut history_rows) = (vec![], vec![], vec![], 0);
        for (shard, from, end) in shards {
            history_rows += end.0.saturating_sub(from.0);
            history_ends.push(end);
            all.push(shard);
            delivered.push(AtomicU64::new(from.0));
        }
        Arc::new(SourceProgress {
            log: Log::Shards(all),
            delivered: RwLock::new(delivered),
            history_ends,
            history_rows,
            ended: AtomicBool::new(false),
            moved: Notify::new(),
        })
    }

    pub fn delivered(&self, shard: usize, up_to: SeqNo) {
        if self.delivered.read()[shard].swap(up_to.0, Ordering::SeqCst) != up_to.0 {
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
        let (ends, delivered) = (self.log.ends(), self.delivered.read());
        let after = |from: &dyn Fn(usize) -> u64| -> u64 {
            ends.iter().enumerate().map(|(i, end)| end.0.saturating_sub(from(i))).sum()
        };
        let behind_rows = if self.ended.load(Ordering::SeqCst) {
            0
        } else if backfilled {
            after(&|i| delivered[i].load(Ordering::SeqCst))
        } else {
            self.history_rows.saturating_sub(rows)
                + after(&|i| self.history_ends.get(i).map_or(0, |end| end.0))
        };
        SourceRead { behind_rows, history_rows: self.history_rows }
    }

    /// `false` = the source has ended before.
    async fn reach(&self, targets: &[SeqNo]) -> bool {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let ended = self.ended.load(Ordering::SeqCst);
            let reached = {
                let delivered = self.delivered.read();
                targets.iter().zip(delivered.iter()).all(|(to, at)| at.load(Ordering::SeqCst) >= to.0)
            };
            if reached {
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
        let targets = futures::future::join_all(sources.iter().map(|s| s.log.ask_ends())).await;
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
