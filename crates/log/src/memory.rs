//! The log of a stream in memory: same promises, except that a restart empties it.
//!
//! Written counts as durable. The oldest records go when `retention_bytes_max` is passed.
//! Sequence numbers and append times go on after a restart: both are reserved ahead in a
//! small file, which is written about every [`TIME_AHEAD_US`] of activity.

use crate::core::write_error;
use crate::frontier::{ExtendGate, FILE_NAME, Frontier, NOTHING, Promise, PromiseFile, extend_soon};
use crate::idempotency::{IdempotencyIndex, RECORDS_MAX, Seen};
use crate::progress::ProgressTable;
use crate::{
    Ack, Append, AppendError, Appended, CommitObserver, OpenError, ReadError, Record, SegmentInfo, ShardLog,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::watch;
use weir_base::{AppendTime, Clock, Disk, EventTime, MemoryBudget, Reservation, SeqNo};

/// Numbers reserved at a time; those not used are skipped after a crash.
const NUMBERS_AHEAD: u64 = 1 << 24;
/// Append times reserved at a time.
const TIME_AHEAD_US: i64 = 10_000_000;
/// What a record takes besides its payload.
const RECORD_BYTES: u64 = 256;

/// Bounds of one log in memory.
#[derive(Debug, Clone)]
pub struct MemoryLogConfig {
    /// The oldest records are dropped beyond this; the newest one always stays.
    pub retention_bytes_max: u64,
    pub record_bytes_max: u64,
    /// Insert ids remembered for deduplication, until the restart.
    pub idempotent_ids_max: u32,
    /// What the records are counted against; `None` = against nothing.
    pub memory: Option<Arc<MemoryBudget>>,
}

impl Default for MemoryLogConfig {
    fn default() -> Self {
        MemoryLogConfig {
            retention_bytes_max: 256 << 20,
            record_bytes_max: 256 << 20,
            idempotent_ids_max: 1_000,
            memory: None,
        }
    }
}

/// A log without segments. See [`ShardLog`] for what it promises.
pub struct MemoryLog {
    inner: Arc<Inner>,
    observer: Option<Arc<dyn CommitObserver>>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    config: MemoryLogConfig,
    dir: String,
    state: Mutex<State>,
    promise: Mutex<Reserved>,
    frontier: Frontier,
    durable: watch::Sender<SeqNo>,
    extending: ExtendGate,
}

struct State {
    records: VecDeque<Record>,
    bytes: u64,
    held: Option<Reservation>,
    next: SeqNo,
    ids: IdempotencyIndex,
    progress: ProgressTable,
    closed: bool,
}

struct Reserved {
    file: PromiseFile,
    promise: Promise,
    closed: bool,
}

impl Reserved {
    fn write(&mut self, promise: Promise) -> io::Result<()> {
        if !self.closed {
            self.file.write(promise)?;
            self.promise = promise;
        }
        Ok(())
    }
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").field("durable_end", &self.durable_end()).finish()
    }
}

fn cost(record: &Record) -> u64 {
    record.payload.len() as u64 + RECORD_BYTES
}

impl MemoryLog {
    /// Opens the log empty, at the number after the last that was reserved in `dir`.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &str,
        config: MemoryLogConfig,
        observer: Option<Arc<dyn CommitObserver>>,
    ) -> Result<Arc<MemoryLog>, OpenError> {
        let (file, promise) = PromiseFile::open(disk, dir)?;
        let state = State {
            records: VecDeque::new(),
            bytes: 0,
            held: config.memory.as_ref().map(|m| m.reserve(0).expect("nothing fits any limit")),
            next: promise.sn,
            ids: IdempotencyIndex::new(config.idempotent_ids_max as usize),
            progress: ProgressTable::default(),
            closed: false,
        };
        // What was reserved is used up; the first append reserves anew.
        let used = Promise { append_time: NOTHING.append_time, sn: promise.sn };
        Ok(Arc::new(MemoryLog {
            inner: Arc::new(Inner {
                clock,
                config,
                dir: dir.to_owned(),
                state: Mutex::new(state),
                promise: Mutex::new(Reserved { file, promise: used, closed: false }),
                frontier: Frontier::new(NOTHING.append_time, promise.append_time, TIME_AHEAD_US),
                durable: watch::Sender::new(promise.sn),
                extending: ExtendGate::default(),
            }),
            observer,
        }))
    }

    /// [`ShardLog::append`], which here never waits except for the reserve file.
    pub fn append_blocking(&self, append: Append) -> Result<Appended, AppendError> {
        let inner = &*self.inner;
        let (size_bytes, limit_bytes) = (append.payload.len() as u64, inner.config.record_bytes_max);
        if size_bytes > limit_bytes {
            return Err(AppendError::TooLarge { size_bytes, limit_bytes });
        }
        let mut state = inner.state.lock();
        if state.closed {
            return Err(AppendError::Closed);
        }
        if let Some(key) = &append.idempotency {
            if key.id.len() > 255 {
                return Err(AppendError::IdTooLong { size_bytes: key.id.len() as u64 });
            }
            if let Some(seen) = state.ids.check(key, &append)? {
                return Ok(seen.repeated());
            }
            if state.ids.refuses(key) {
                let limit = RECORDS_MAX as u64;
                return Err(AppendError::IdTooManyRecords { id: key.id.to_string(), limit });
            }
        }
        if let Some(progress) = &append.progress {
            state.progress.check(progress)?;
        }
        // Before anything is decided: a refusal changes nothing.
        if let Some(held) = &mut state.held {
            held.grow(size_bytes + RECORD_BYTES).map_err(AppendError::Memory)?;
        }
        let append_time = inner.frontier.start_group(inner.clock.now_us());
        let (base, end) = (state.next, state.next.plus(u64::from(append.rows)));
        assert!(end <= SeqNo::MAX, "sequence numbers are used up");
        if let Err(e) = inner.reserve(append_time, end) {
            inner.frontier.group_refused();
            state.give_back(size_bytes + RECORD_BYTES);
            return Err(e);
        }
        if let Some(key) = &append.idempotency {
            let content_hash = key.content_hash;
            state.ids.insert(key, Seen { content_hash, base, rows: append.rows, append_time });
        }
        if let Some(progress) = &append.progress {
            state.progress.note(progress);
        }
        let rows = append.rows;
        let record = Record {
            kind: append.kind,
            base,
            rows,
            append_time,
            event_min: append.event_min,
            event_max: append.event_max,
            idempotency: append.idempotency,
            payload: append.payload,
        };
        state.next = end;
        state.bytes += cost(&record);
        state.records.push_back(record.clone());
        while state.bytes > inner.config.retention_bytes_max && state.records.len() > 1 {
            state.drop_oldest();
        }
        if let Some(observer) = &self.observer {
            observer.durable(&record, append.attachment);
        }
        inner.frontier.group_durable();
        inner.durable.send_replace(end);
        Ok(Appended { base, rows, append_time, repeated: false })
    }
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= cost(&record);
            self.give_back(cost(&record));
        }
    }

    fn give_back(&mut self, bytes: u64) {
        if let Some(held) = &mut self.held {
            held.shrink(bytes);
        }
    }

    fn start(&self) -> SeqNo {
        self.records.front().map_or(self.next, |r| r.base)
    }
}

impl Inner {
    /// Makes sure that a restart goes on after `append_time` and at or after `end`.
    fn reserve(&self, append_time: AppendTime, end: SeqNo) -> Result<(), AppendError> {
        let mut reserved = self.promise.lock();
        let Promise { append_time: until, sn } = reserved.promise;
        if append_time <= until && end <= sn {
            return Ok(());
        }
        let ahead = Promise {
            append_time: AppendTime(append_time.0.saturating_add(TIME_AHEAD_US)).max(until),
            sn: if end <= sn { sn } else { end.plus(NUMBERS_AHEAD).min(SeqNo::MAX) },
        };
        let written = reserved.write(ahead);
        written.map_err(|e| write_error(&format!("{}/{FILE_NAME}", self.dir), e))?;
        self.frontier.reserved(ahead.append_time);
        Ok(())
    }

    /// Reserves so that the frontier can follow the clock.
    fn extend(&self) -> io::Result<()> {
        let mut reserved = self.promise.lock();
        let until = self.frontier.reserve_until(self.clock.now_us()).max(reserved.promise.append_time);
        let promise = Promise { append_time: until, ..reserved.promise };
        reserved.write(promise)?;
        self.frontier.reserved(until);
        Ok(())
    }
}

#[async_trait::async_trait]
impl ShardLog for MemoryLog {
    async fn append(&self, append: Append, _ack: Ack) -> Result<Appended, AppendError> {
        self.append_blocking(append)
    }

    async fn sync(&self) -> Result<SeqNo, AppendError> {
        Ok(self.durable_end())
    }

    fn progress(&self, writer: &[u8; 16]) -> Option<Bytes> {
        self.inner.state.lock().progress.get(writer).cloned()
    }

    fn writers(&self) -> Vec<[u8; 16]> {
        self.inner.state.lock().progress.writers()
    }

    fn start(&self) -> SeqNo {
        self.inner.state.lock().start()
    }

    fn durable_end(&self) -> SeqNo {
        self.inner.state.lock().next
    }

    fn watch_durable_end(&self) -> watch::Receiver<SeqNo> {
        self.inner.durable.subscribe()
    }

    fn append_frontier(&self) -> AppendTime {
        let (frontier, wants_reserve) = self.inner.frontier.get(self.inner.clock.now_us());
        if wants_reserve {
            extend_soon(&self.inner, |i| &i.extending, self.inner.clock.monotonic(), Inner::extend);
        }
        frontier
    }

    fn read(&self, from: SeqNo, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        let state = self.inner.state.lock();
        if from >= state.next {
            return Ok(Vec::new());
        }
        if from < state.start() {
            return Err(ReadError::Truncated { asked: from, oldest: state.start() });
        }
        let wanted = |r: &Record| {
            if r.rows == 0 { r.base >= from } else { r.base.plus(u64::from(r.rows)) > from }
        };
        let first = state.records.partition_point(|r| !wanted(r));
        let (mut out, mut marks, mut bytes) = (Vec::new(), Vec::new(), 0);
        for record in state.records.range(first..) {
            if !out.is_empty() && bytes >= bytes_max {
                break;
            }
            marks.push(record.clone());
            if record.rows > 0 {
                bytes += marks.iter().map(|r: &Record| r.payload.len()).sum::<usize>();
                out.append(&mut marks);
            }
        }
        Ok(out)
    }

    fn seek_event_time(&self, from: EventTime) -> Result<SeqNo, ReadError> {
        let state = self.inner.state.lock();
        let hit = state.records.iter().find(|r| r.rows > 0 && r.event_max >= from);
        Ok(hit.map_or(state.next, |r| r.base))
    }

    fn seek_append_time(&self, from: AppendTime) -> Result<SeqNo, ReadError> {
        let state = self.inner.state.lock();
        let at = state.records.partition_point(|r| r.append_time < from);
        Ok(state.records.get(at).map_or(state.next, |r| r.base))
    }

    fn truncate(&self, before: SeqNo) -> Result<(), AppendError> {
        let mut state = self.inner.state.lock();
        while state.records.front().is_some_and(|r| r.base.plus(u64::from(r.rows)) <= before) {
            state.drop_oldest();
        }
        Ok(())
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.inner.state.lock();
        let (Some(first), Some(last)) = (state.records.front(), state.records.back()) else {
            return Vec::new();
        };
        vec![SegmentInfo {
            path: "(memory)".into(),
            base: first.base,
            end: state.next,
            size_bytes: state.bytes,
            sealed: false,
            first_append_time: first.append_time,
            last_append_time: last.append_time,
        }]
    }

    async fn close(&self) {
        let next = {
            let mut state = self.inner.state.lock();
            state.closed = true;
            state.next
        };
        let mut reserved = self.inner.promise.lock();
        if !reserved.closed && reserved.promise != NOTHING {
            let exact = Promise { append_time: self.inner.frontier.freeze(), sn: next };
            if let Err(e) = reserved.write(exact) {
                tracing::warn!(error = %e, "could not give back reserved numbers");
            }
        }
        reserved.closed = true;
    }
}

impl Drop for MemoryLog {
    fn drop(&mut self) {
        // A reservation under way ends first; none follows.
        self.inner.promise.lock().closed = true;
    }
}
