//! Recent rows, decoded once and shared by every tail reader; and how much of the log waits
//! to be committed.
//!
//! Filled by the log's writer after a record is durable, in sequence order, so what is here
//! may be read. A reader that finds its position gone reads the log instead, so the ring is
//! the first to give way where the process is short of memory.

use crate::batch::{Sns, TailBatch, Times};
use crate::payload;
use crate::schema::{SchemaBook, adapt};
use arrow_array::RecordBatch;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use weir_base::memory::Reclaim;
use weir_base::{Clock, MemoryBudget, Reservation, SeqNo};
use weir_log::{CommitObserver, Record, RecordKind};

#[derive(Debug)]
pub(crate) struct Ring {
    bytes_max: AtomicU64,
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    queue: VecDeque<(TailBatch, u64)>,
    /// As many bytes as the batches of the queue.
    held: Reservation,
}

impl Entries {
    /// Lets go of the oldest batch; `None` if there is none.
    fn pop(&mut self) -> Option<u64> {
        let (_, bytes) = self.queue.pop_front()?;
        self.held.shrink(bytes);
        Some(bytes)
    }
}

impl Ring {
    /// Counted against `memory`, which may take the oldest batches back at any time.
    pub fn new(bytes_max: u64, memory: &Arc<MemoryBudget>) -> Arc<Self> {
        let held = memory.reserve(0).expect("nothing fits any limit");
        let entries = Mutex::new(Entries { queue: VecDeque::new(), held });
        let ring = Arc::new(Ring { bytes_max: AtomicU64::new(bytes_max), entries });
        let holder: Weak<Ring> = Arc::downgrade(&ring);
        memory.add_reclaimer(holder);
        ring
    }

    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    fn push(&self, batch: TailBatch) {
        let bytes = batch.batch.get_array_memory_size() as u64;
        let limit = self.bytes_max.load(Ordering::Relaxed);
        let mut entries = self.entries.lock();
        while entries.held.bytes() + bytes > limit {
            if entries.pop().is_none() {
                return;
            }
        }
        // Only into what is free: nobody goes short for the sake of the ring.
        while entries.held.grow_gently(bytes).is_err() {
            if entries.pop().is_none() {
                return;
            }
        }
        entries.queue.push_back((batch, bytes));
    }

    /// Forgets everything: what follows does not join on to what is here.
    pub fn clear(&self) {
        let mut entries = self.entries.lock();
        while entries.pop().is_some() {}
    }

    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.entries.lock().held.bytes()
    }

    /// The rows of the record that holds `from`, from there on; `None` if they are not here.
    pub fn get(&self, from: SeqNo) -> Option<TailBatch> {
        let entries = self.entries.lock();
        let i = entries.queue.partition_point(|(b, _)| b.end().expect("no empty batches") <= from);
        let (batch, _) = entries.queue.get(i)?;
        (batch.sn(0) <= from).then(|| batch.starting_at(from))
    }
}

impl Reclaim for Ring {
    fn reclaim(&self, bytes: u64) -> u64 {
        let Some(mut entries) = self.entries.try_lock() else { return 0 };
        let mut given = 0;
        while given < bytes {
            match entries.pop() {
                Some(n) => given += n,
                None => break,
            }
        }
        given
    }
}

/// What is in the log and not yet in parts.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: Mutex<Waiting>,
    /// Something was added, or a threshold changed.
    pub grown: Notify,
    /// Something was committed, or commits began to fail.
    pub shrunk: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// (end, bytes, when added), coalesced so that the queue stays short.
    records: VecDeque<(SeqNo, u64, Duration)>,
    bytes: u64,
    /// At this end or with so many bytes a commit is due: the committer sleeps until then. Zero
    /// until it has said so.
    due_end: SeqNo,
    due_bytes: u64,
    /// Somebody waits for room: what there is is due.
    hurry: bool,
}

/// Records are counted together up to this size: the queue is bounded by the log it describes.
const COALESCE_BYTES: u64 = 256 << 10;

impl Backlog {
    /// Wakes the committer if it sleeps without end, or a commit is due: not for each record, which
    /// would take a core from who waits for the row.
    pub fn add(&self, end: SeqNo, bytes: u64, now: Duration) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += bytes;
        if waiting.records.is_empty() || end >= waiting.due_end || waiting.bytes >= waiting.due_bytes {
            self.grown.notify_one();
        }
        match waiting.records.back_mut() {
            Some(last) if last.1 + bytes <= COALESCE_BYTES => {
                last.0 = end;
                last.1 += bytes;
            }
            _ => waiting.records.push_back((end, bytes, now)),
        }
    }

    /// Rows below `end` are in parts.
    pub fn committed(&self, end: SeqNo) {
        let mut waiting = self.waiting.lock();
        waiting.hurry = false;
        while waiting.records.front().is_some_and(|r| r.0 <= end) {
            let (_, bytes, _) = waiting.records.pop_front().expect("there is a front");
            waiting.bytes -= bytes;
        }
        drop(waiting);
        self.shrunk.notify_waiters();
    }

    pub fn bytes(&self) -> u64 {
        self.waiting.lock().bytes
    }

    /// Makes a commit due now.
    pub fn hurry(&self) {
        self.waiting.lock().hurry = true;
        self.grown.notify_one();
    }

    pub fn is_hurried(&self) -> bool {
        self.waiting.lock().hurry
    }

    /// A commit is due at `end`, or with so many bytes.
    pub fn due_at(&self, end: SeqNo, bytes: u64) {
        let mut waiting = self.waiting.lock();
        (waiting.due_end, waiting.due_bytes) = (end, bytes);
    }

    /// When the oldest waiting record was added.
    pub fn oldest(&self) -> Option<Duration> {
        self.waiting.lock().records.front().map(|r| r.2)
    }
}

/// What goes through the log with a record: its rows, and the memory that both take while they
/// are queued or being written.
pub(crate) struct Attached {
    pub batch: RecordBatch,
    _held: Reservation,
}

impl Attached {
    pub fn new(batch: RecordBatch, held: Reservation) -> Arc<Self> {
        Arc::new(Attached { batch, _held: held })
    }
}

/// What the log tells of each durable record.
pub(crate) struct Observer {
    pub ring: Arc<Ring>,
    pub backlog: Arc<Backlog>,
    pub clock: Arc<dyn Clock>,
}

impl CommitObserver for Observer {
    fn durable(&self, record: &Record, attachment: Option<Arc<dyn Any + Send + Sync>>) {
        if record.kind != RecordKind::ROWS || record.rows == 0 {
            return;
        }
        let end = record.base.plus(u64::from(record.rows));
        self.backlog.add(end, record.payload.len() as u64, self.clock.monotonic());
        match attachment.and_then(|a| a.downcast::<Attached>().ok()) {
            Some(attached) => {
                let batch = attached.batch.clone();
                drop(attached);
                self.ring.push(TailBatch {
                    batch,
                    sns: Sns::Dense(record.base),
                    append_times: Times::One(record.append_time),
                });
            }
            // Readers fetch it from the log.
            None => self.ring.clear(),
        }
    }
}

/// A record of the log as rows with the stream's current columns.
pub(crate) fn decode_record(record: &Record, book: &SchemaBook) -> crate::error::Result<TailBatch> {
    let batch = payload::decode(&record.payload, book)?;
    let current = &book.current().schema;
    let batch = if batch.schema_ref() == current { batch } else { adapt(&batch, current)? };
    Ok(TailBatch { batch, sns: Sns::Dense(record.base), append_times: Times::One(record.append_time) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn the_committer_is_woken_by_the_first_record_and_when_a_commit_is_due() {
        let backlog = Backlog::default();
        backlog.due_at(SeqNo(100), 1000);
        let add = |end, bytes| {
            backlog.add(SeqNo(end), bytes, Duration::ZERO);
            backlog.grown.notified().now_or_never().is_some()
        };
        assert!(add(1, 10), "the first: its age decides");
        assert!(!add(99, 10));
        assert!(add(100, 10), "rows");
        backlog.due_at(SeqNo(200), 1000);
        assert!(!add(150, 969));
        assert!(add(151, 1), "bytes");
        backlog.committed(SeqNo(151));
        backlog.due_at(SeqNo(251), 1000);
        assert!(add(152, 10), "the first after a commit of everything");
    }
}
