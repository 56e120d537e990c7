//! What a bounded query reads: parts up to the committed end, then the log from there to the
//! durable end, both borders taken at one instant.

use super::Shard;
use super::cursor::read_log;
use super::retention::LogPin;
use crate::batch::TailBatch;
use crate::error::Result;
use crate::external::before;
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
    /// Rows of an external log, of which nothing is read again.
    held: Option<Arc<Vec<TailBatch>>>,
    _pin: Arc<(Arc<Version>, LogPin)>,
}

impl Shard {
    /// The shard as of now. Take [`Shard::sync`] first to see every acknowledged row.
    pub fn snapshot(self: &Arc<Self>) -> ShardSnapshot {
        // What is held goes when it is in parts, so it comes first.
        let held = self.log.external().map(|log| log.all());
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
        let durable_end = match &held {
            Some((_, end)) => (*end).max(committed_end),
            None => self.log.durable_end().max(committed_end),
        };
        let (shard, held) = (self.clone(), held.map(|(rows, _)| rows));
        ShardSnapshot { shard, parts, committed_end, durable_end, held, _pin: Arc::new((version, pin)) }
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
            held: self.held.clone(),
            _pin: self._pin.clone(),
        }
    }

    /// Rows in parts and log together.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|p| p.meta.rows).sum::<u64>() + self.rows_in_log()
    }

    /// Rows in the log.
    pub fn rows_in_log(&self) -> u64 {
        match &self.held {
            Some(held) => held.iter().map(|b| self.within(b).map_or(0, |b| b.rows() as u64)).sum(),
            None => self.durable_end.0 - self.committed_end.0,
        }
    }

    /// Rows of the log among these.
    fn within(&self, rows: &TailBatch) -> Option<TailBatch> {
        let rows = before(&rows.starting_at(self.committed_end), self.durable_end);
        (rows.rows() > 0).then_some(rows)
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
            if let Some(held) = &self.snapshot.held {
                let rows = held.iter().filter_map(|b| self.snapshot.within(b));
                self.ready = rows.map(|b| b.starting_at(self.at)).filter(|b| b.rows() > 0).collect();
                if self.ready.is_empty() {
                    self.at = end;
                }
                continue;
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
