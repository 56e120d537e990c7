//! What a bounded query reads: parts up to the committed end, then the log from there to the
//! durable end, both borders taken at one instant.

use super::Shard;
use super::cursor::read_log;
use super::retention::LogPin;
use crate::batch::TailBatch;
use crate::error::Result;
use crate::manifest::Version;
use crate::parts::PartFile;
use std::collections::VecDeque;
use std::sync::Arc;
use weir_base::SeqNo;

/// Rows `0 .. durable_end` of a shard, each exactly once, for as long as it is held.
#[derive(Debug, Clone)]
pub struct ShardSnapshot {
    pub shard: Arc<Shard>,
    /// In sequence order of their first rows.
    pub parts: Vec<Arc<PartFile>>,
    /// Rows from here to `durable_end` are read from the log.
    pub committed_end: SeqNo,
    pub durable_end: SeqNo,
    _pin: Arc<(Arc<Version>, LogPin)>,
}

impl Shard {
    /// The shard as of now. Take [`Shard::sync`] first to see every acknowledged row.
    pub fn snapshot(self: &Arc<Self>) -> ShardSnapshot {
        let mut taken = None;
        let pin = self.pin_at(|| {
            let version = self.version();
            let at =
                if self.has_parts() { version.committed_end } else { self.log.start().max(version.floor) };
            taken = Some(version);
            at
        });
        let version = taken.expect("pin_at asks for the position");
        let committed_end = pin.position();
        let mut parts: Vec<_> = version.parts.values().cloned().collect();
        parts.sort_by_key(|p| (p.meta.sn_min, p.meta.id));
        // Read last: whatever was committed by the version is durable.
        let durable_end = self.log.durable_end().max(committed_end);
        let shard = self.clone();
        ShardSnapshot { shard, parts, committed_end, durable_end, _pin: Arc::new((version, pin)) }
    }
}

impl ShardSnapshot {
    /// The snapshot's rows that lie in the log. Blocks on the disk; iterate off the network
    /// threads.
    pub fn log_rows(&self) -> LogRows {
        self.log_rows_from(self.committed_end)
    }

    /// The same from `from` on.
    pub(super) fn log_rows_from(&self, from: SeqNo) -> LogRows {
        LogRows { snapshot: self.clone(), at: self.committed_end.max(from), ready: VecDeque::new() }
    }

    /// Of the snapshot's log the rows `from .. end`, and no parts.
    pub fn log_piece(&self, from: SeqNo, end: SeqNo) -> ShardSnapshot {
        ShardSnapshot {
            shard: self.shard.clone(),
            parts: Vec::new(),
            committed_end: from.max(self.committed_end),
            durable_end: end.min(self.durable_end),
            _pin: self._pin.clone(),
        }
    }

    /// Rows in parts and log together.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|p| p.meta.rows).sum::<u64>() + (self.durable_end.0 - self.committed_end.0)
    }
}

/// Iterates over a snapshot's log rows in sequence order.
#[derive(Debug)]
pub struct LogRows {
    snapshot: ShardSnapshot,
    at: SeqNo,
    ready: VecDeque<TailBatch>,
}

impl Iterator for LogRows {
    type Item = Result<TailBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.at = batch.end().unwrap_or(self.at);
                return Some(Ok(batch));
            }
            let end = self.snapshot.durable_end;
            if self.at >= end {
                return None;
            }
            match read_log(&self.snapshot.shard, self.at, end) {
                Ok((batches, next)) => {
                    self.ready = batches;
                    if self.ready.is_empty() {
                        // Marks only.
                        self.at = next;
                        if next >= end {
                            return None;
                        }
                    }
                }
                Err(e) => {
                    self.at = end;
                    return Some(Err(e));
                }
            }
        }
    }
}
