//! The rows of a log that others keep (a topic) as far as they are not in parts.
//!
//! ```text
//! the log -> who reads it -> fed here, once, in order -> cursors, snapshots -> parts
//! ```
//!
//! Invariants
//! - numbers increase and may have gaps; what was fed is durable in the log, so all of it may be seen;
//! - append times never fall, whatever the log says of them;
//! - what is here is bounded: who feeds waits until rows are in parts;
//! - after a restart rows are fed again from the committed end on, so nothing here needs a disk.
//!
//! Not here: the log itself, and where it ends ([`LogKeeper`]).

use crate::batch::{Sns, TailBatch, Times};
use crate::error::{Result, StorageError};
use arrow_array::TimestampMicrosecondArray;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use weir_base::{AppendTime, EventTime, MemoryBudget, Reservation, SeqNo, ShardId};

/// Who reads the log and feeds its shards.
#[async_trait::async_trait]
pub trait LogKeeper: Send + Sync + fmt::Debug {
    /// Returns once every row that was in the shard's log at the call has been fed.
    ///
    /// # Errors
    /// What keeps it from finding out or from reading, in a line.
    async fn caught_up(&self, shard: ShardId) -> Result<(), StorageError>;
}

/// What became of rows.
#[derive(Debug)]
pub(crate) enum Fed {
    Taken,
    /// Too much waits for parts.
    Full(TailBatch),
}

pub(crate) struct ExternalLog {
    held: Mutex<Held>,
    durable: watch::Sender<SeqNo>,
    keeper: OnceLock<Arc<dyn LogKeeper>>,
}

struct Held {
    batches: VecDeque<(TailBatch, u64)>,
    /// Rows below are in parts, or gone.
    start: SeqNo,
    end: SeqNo,
    append_last: AppendTime,
    memory: Reservation,
}

impl fmt::Debug for ExternalLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.lock();
        write!(f, "external log, rows {} .. {} held", held.start, held.end)
    }
}

impl ExternalLog {
    /// Rows below `begin` are in parts, the last of them of `append_last`.
    pub fn new(begin: SeqNo, append_last: AppendTime, memory: &Arc<MemoryBudget>) -> Self {
        let memory = memory.reserve(0).expect("nothing fits any limit");
        let held = Held { batches: VecDeque::new(), start: begin, end: begin, append_last, memory };
        ExternalLog { held: Mutex::new(held), durable: watch::Sender::new(begin), keeper: OnceLock::new() }
    }

    /// Set once, before anybody reads.
    pub fn keep_by(&self, keeper: Arc<dyn LogKeeper>) {
        // A second one would be of the same log.
        let _ = self.keeper.set(keeper);
    }

    pub fn start(&self) -> SeqNo {
        self.held.lock().start
    }

    pub fn durable_end(&self) -> SeqNo {
        *self.durable.borrow()
    }

    pub fn watch_durable_end(&self) -> watch::Receiver<SeqNo> {
        self.durable.subscribe()
    }

    pub fn bytes(&self) -> u64 {
        self.held.lock().memory.bytes()
    }

    pub fn rows(&self) -> u64 {
        self.held.lock().batches.iter().map(|(b, _)| b.rows() as u64).sum()
    }

    /// See [`LogKeeper::caught_up`].
    pub async fn sync(&self, shard: ShardId) -> Result<SeqNo> {
        if let Some(keeper) = self.keeper.get() {
            keeper.caught_up(shard).await?;
        }
        Ok(self.durable_end())
    }

    /// Takes rows in that follow what was fed; the first of a log that holds nothing is taken whatever its
    /// size. `counted` is told of their end and bytes before anybody can see them, and so before they can be
    /// committed.
    ///
    /// # Errors
    /// [`StorageError::Schema`] for numbers that do not increase.
    pub fn feed(&self, rows: TailBatch, limit_bytes: u64, counted: impl FnOnce(SeqNo, u64)) -> Result<Fed> {
        let mut held = self.held.lock();
        let mut last = held.end.0.checked_sub(1);
        for row in 0..rows.rows() {
            let sn = rows.sn(row).0;
            if last.is_some_and(|last| sn <= last) {
                return Err(StorageError::Schema {
                    what: format!(
                        "row {sn} of an external log came after {}; each row needs a greater number than the one before \
                         it",
                        last.unwrap_or(0)
                    ),
                });
            }
            last = Some(sn);
        }
        let bytes = rows.batch.get_array_memory_size() as u64;
        let some = !held.batches.is_empty();
        if some && held.memory.bytes() + bytes > limit_bytes {
            return Ok(Fed::Full(rows));
        }
        if held.memory.grow(bytes).is_err() {
            if some {
                return Ok(Fed::Full(rows));
            }
            held.memory.grow_anyway(bytes);
        }
        let rows = held.in_time(rows);
        held.end = rows.end().unwrap_or(held.end);
        counted(held.end, bytes);
        held.batches.push_back((rows, bytes));
        let end = held.end;
        drop(held);
        self.durable.send_replace(end);
        Ok(Fed::Taken)
    }

    /// No row comes any more below `end`.
    pub fn passed(&self, end: SeqNo) {
        let mut held = self.held.lock();
        if end > held.end {
            held.end = end;
            drop(held);
            self.durable.send_replace(end);
        }
    }

    /// The rows of the batch that holds `from` or, in a gap, of the next one.
    pub fn get(&self, from: SeqNo) -> Option<TailBatch> {
        let held = self.held.lock();
        if from < held.start {
            return None;
        }
        let i = held.batches.partition_point(|(b, _)| b.end().expect("no empty batches") <= from);
        held.batches.get(i).map(|(batch, _)| batch.starting_at(from))
    }

    /// Rows from `from` on, about so many bytes, and where they end.
    ///
    /// # Errors
    /// [`StorageError::Truncated`] where they are in parts.
    pub fn read(&self, from: SeqNo, bytes_max: usize) -> Result<(Vec<(TailBatch, u64)>, SeqNo)> {
        let held = self.held.lock();
        if from < held.start {
            return Err(StorageError::Truncated { asked: from, oldest: held.start });
        }
        let (mut read, mut bytes) = (Vec::new(), 0);
        for (batch, size) in &held.batches {
            if batch.end().is_some_and(|end| end <= from) {
                continue;
            }
            if bytes >= bytes_max as u64 {
                let next = batch.sn(0);
                return Ok((read, next));
            }
            read.push((batch.starting_at(from), *size));
            bytes += size;
        }
        Ok((read, held.end.max(from)))
    }

    /// All that is here, and where it ends.
    pub fn all(&self) -> (Arc<Vec<TailBatch>>, SeqNo) {
        let held = self.held.lock();
        (Arc::new(held.batches.iter().map(|(b, _)| b.clone()).collect()), held.end)
    }

    /// Lets go of rows below `before`, which are in parts or wanted no more.
    pub fn truncate(&self, before: SeqNo) {
        let mut held = self.held.lock();
        held.start = held.start.max(before.min(held.end));
        while let Some((batch, _)) = held.batches.front() {
            if batch.end().is_some_and(|end| end > before) {
                break;
            }
            let (_, bytes) = held.batches.pop_front().expect("there is a front");
            held.memory.shrink(bytes);
        }
    }

    pub fn seek_event_time(&self, from: EventTime) -> SeqNo {
        let held = self.held.lock();
        let mut from_on = held.batches.iter().filter(|(b, _)| crate::batch::event_range(&b.batch).1 >= from);
        from_on.next().map_or(held.end, |(b, _)| b.sn(0))
    }

    pub fn seek_append_time(&self, from: AppendTime) -> SeqNo {
        let held = self.held.lock();
        let mut from_on = held.batches.iter().filter(|(b, _)| b.append_time(b.rows() - 1) >= from);
        from_on.next().map_or(held.end, |(b, _)| b.sn(0))
    }
}

impl Held {
    /// Append times that do not fall.
    fn in_time(&mut self, rows: TailBatch) -> TailBatch {
        let last = &mut self.append_last;
        let times = (0..rows.rows()).map(|row| {
            *last = (*last).max(rows.append_time(row));
            last.0
        });
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        TailBatch { append_times: Times::Listed(times), ..rows }
    }
}

/// The rows before `end`.
pub(crate) fn before(rows: &TailBatch, end: SeqNo) -> TailBatch {
    let n = match &rows.sns {
        Sns::Dense(base) => (end.0.saturating_sub(base.0) as usize).min(rows.rows()),
        Sns::Listed(list) => list.values().partition_point(|sn| (*sn as u64) < end.0),
        Sns::Unread => unreachable!("asked for a number that was not wanted"),
    };
    if n == rows.rows() { rows.clone() } else { rows.slice(0, n) }
}
