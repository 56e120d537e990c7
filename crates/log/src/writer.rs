//! The log others use: a bounded queue, and a thread that drains it into groups.
//!
//! An append that finds the log idle is a group of its own, written by who appends (`lead`):
//! waking a thread and being woken by it takes longer than the work. Whatever comes meanwhile
//! is queued. The thread takes what is queued, writes it, syncs, answers, and looks again: no
//! linger, no polling. It starts with the first append and ends after an idle second (having
//! written a seal), so a thousand quiet logs cost no threads.
//!
//! Not here: what a group is (`core`).

use crate::core::{Group, LogCore, write_error};
use crate::frontier::{ExtendGate, extend_soon};
use crate::lead::Lead;
use crate::shared::Shared;
use crate::{
    Ack, Append, AppendError, Appended, CommitObserver, LogConfig, OpenError, ReadError, Record, SegmentInfo,
    ShardLog,
};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use weir_base::metrics::Metric;
use weir_base::{AppendTime, Clock, Disk, EventTime, SeqNo};

/// After this long without work the writer seals the log and ends.
const IDLE: Duration = Duration::from_secs(1);
/// Queue bytes are counted in units of this, rounded up.
const BYTES_UNIT: u64 = 1024;

/// Counters of one log since it was opened.
#[derive(Debug, Clone, Default)]
pub struct LogMetrics {
    pub groups_total: Metric,
    pub records_total: Metric,
    pub rows_total: Metric,
    pub payload_bytes_total: Metric,
    /// Failed appends nobody waited for (`Ack::None`, or a caller that went away).
    pub unheard_failures_total: Metric,
}

/// A log of segment files. See [`ShardLog`] for what it promises.
pub struct SegmentLog {
    inner: Arc<Inner>,
    bytes: Arc<Semaphore>,
    bytes_units_max: u32,
    records: Arc<Semaphore>,
}

pub(crate) struct Inner {
    writing: Mutex<Writing>,
    shared: Arc<Shared>,
    observer: Option<Arc<dyn CommitObserver>>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) wake: Condvar,
    pub(crate) metrics: LogMetrics,
    extending: ExtendGate,
}

/// The core, and the group that is written and waits for its sync although nobody holds the lock.
pub(crate) struct Writing {
    pub core: LogCore,
    pub unsynced: Option<Unsynced>,
}

/// Whoever takes the core next syncs it first; the thread is on its way for that.
pub(crate) struct Unsynced {
    pub group: Group,
    pub _room: Room,
}

/// Bytes and a record of the queue's bounds; given back when the group is done.
pub(crate) type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

pub(crate) struct Queue {
    pub items: VecDeque<Item>,
    thread: Option<JoinHandle<()>>,
    /// The thread will look at the queue again before it ends.
    running: bool,
    pub closed: bool,
    /// A group is being written, by the thread or by who appended it.
    pub busy: bool,
    /// A group is left for the thread to sync.
    pub unsynced: bool,
    /// Since the thread began to wait.
    pub active: bool,
}

pub(crate) enum Item {
    Append {
        append: Append,
        ack: Ack,
        reply: Option<oneshot::Sender<Result<Appended, AppendError>>>,
        room: Room,
    },
    Sync {
        reply: oneshot::Sender<Result<SeqNo, AppendError>>,
        room: OwnedSemaphorePermit,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

impl std::fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentLog")
            .field("start", &self.inner.shared.start())
            .field("durable_end", &self.inner.shared.durable_end())
            .finish()
    }
}

impl SegmentLog {
    /// Opens or creates the log in `dir`. Blocks on the disk: reads the last segment and the
    /// footers of the others. No other handle may write to the directory.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] inside if durable bytes are damaged; it names file and offset.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &str,
        config: LogConfig,
        observer: Option<Arc<dyn CommitObserver>>,
    ) -> Result<Arc<SegmentLog>, OpenError> {
        let bytes_units_max = config.queue_bytes_max.div_ceil(BYTES_UNIT).clamp(1, 1 << 28) as u32;
        let records_max = config.queue_records_max.max(1) as usize;
        let core = LogCore::open(disk, clock, dir, config)?;
        let queue = Queue {
            items: VecDeque::new(),
            thread: None,
            running: false,
            closed: false,
            busy: false,
            unsynced: false,
            active: false,
        };
        Ok(Arc::new(SegmentLog {
            inner: Arc::new(Inner {
                shared: core.shared().clone(),
                writing: Mutex::new(Writing { core, unsynced: None }),
                observer,
                queue: Mutex::new(queue),
                wake: Condvar::new(),
                metrics: LogMetrics::default(),
                extending: ExtendGate::default(),
            }),
            bytes: Arc::new(Semaphore::new(bytes_units_max as usize)),
            bytes_units_max,
            records: Arc::new(Semaphore::new(records_max)),
        }))
    }

    /// Appends one group on the calling thread, past the queue, and returns once it is
    /// durable. For callers without a runtime.
    pub fn append_blocking(
        &self,
        appends: Vec<Append>,
    ) -> Result<Vec<Result<Appended, AppendError>>, AppendError> {
        if self.inner.queue.lock().closed {
            return Err(AppendError::Closed);
        }
        let mut writing = self.inner.writing();
        let mut group = writing.core.write(appends)?;
        self.inner.metrics.count(&group);
        writing.core.commit(&mut group, self.inner.observer.as_deref())?;
        Ok(group.into_results())
    }

    /// What [`ShardLog::close`] does, on the calling thread.
    pub fn close_blocking(&self) {
        let thread = {
            let mut queue = self.inner.queue.lock();
            queue.closed = true;
            self.inner.wake.notify_all();
            queue.thread.take()
        };
        if let Some(thread) = thread {
            // A panic there has been reported on its own thread; there is nothing left to stop.
            let _ = thread.join();
        }
        self.inner.seal_and_stop();
    }

    /// Marks after the last durable row, which [`ShardLog::read`] gives only with the row
    /// after them: what a view wrote last, after a restart. Blocks on the disk.
    pub fn end_marks(&self) -> Result<Vec<Record>, ReadError> {
        self.inner.shared.end_marks()
    }

    pub fn metrics(&self) -> &LogMetrics {
        &self.inner.metrics
    }

    /// The error of an earlier failed write, after which the log refuses appends.
    pub fn poisoned(&self) -> Option<AppendError> {
        self.inner.writing.lock().core.refuse_if_poisoned().err()
    }

    #[cfg(test)]
    pub(crate) fn has_thread(&self) -> bool {
        self.inner.queue.lock().running
    }

    /// The answer to a sync while nothing is queued or being written, so nothing to wait for.
    fn nothing_pending(&self) -> Option<Result<SeqNo, AppendError>> {
        let queue = self.inner.queue.lock();
        if queue.busy || queue.unsynced || queue.closed || !queue.items.is_empty() {
            return None;
        }
        let writing = self.inner.writing.try_lock()?;
        let done = writing.core.refuse_if_poisoned().map(|()| writing.core.durable_end());
        writing.unsynced.is_none().then_some(done)
    }

    fn enqueue(&self, item: Item) -> Result<(), AppendError> {
        let mut queue = self.inner.queue.lock();
        if queue.closed {
            return Err(AppendError::Closed);
        }
        self.inner.ensure_thread(&mut queue)?;
        queue.items.push_back(item);
        self.inner.wake.notify_one();
        Ok(())
    }
}

#[async_trait::async_trait]
impl ShardLog for SegmentLog {
    async fn append(&self, append: Append, ack: Ack) -> Result<Appended, AppendError> {
        let size_bytes = append.payload.len() as u64;
        let limit_bytes = self.inner.shared.config.record_bytes_max;
        if size_bytes > limit_bytes {
            return Err(AppendError::TooLarge { size_bytes, limit_bytes });
        }
        let units = size_bytes.div_ceil(BYTES_UNIT).clamp(1, u64::from(self.bytes_units_max)) as u32;
        let closed = |_| AppendError::Closed;
        let room = (
            self.bytes.clone().acquire_many_owned(units).await.map_err(closed)?,
            self.records.clone().acquire_owned().await.map_err(closed)?,
        );
        if ack == Ack::None {
            let rows = append.rows;
            self.enqueue(Item::Append { append, ack, reply: None, room })?;
            return Ok(Appended { base: SeqNo::MAX, rows, append_time: AppendTime(0), repeated: false });
        }
        let (append, room) = match Inner::lead(&self.inner, append, ack, room) {
            Lead::Done(outcome) => return outcome,
            Lead::Queue(append, room) => (append, room),
        };
        let (reply, heard) = oneshot::channel();
        self.enqueue(Item::Append { append, ack, reply: Some(reply), room })?;
        heard.await.unwrap_or(Err(AppendError::Closed))
    }

    async fn sync(&self) -> Result<SeqNo, AppendError> {
        if let Some(done) = self.nothing_pending() {
            return done;
        }
        let room = self.records.clone().acquire_owned().await.map_err(|_| AppendError::Closed)?;
        let (reply, heard) = oneshot::channel();
        self.enqueue(Item::Sync { reply, room })?;
        heard.await.unwrap_or(Err(AppendError::Closed))
    }

    fn progress(&self, writer: &[u8; 16]) -> Option<Bytes> {
        self.inner.shared.progress(writer)
    }

    fn writers(&self) -> Vec<[u8; 16]> {
        self.inner.shared.writers()
    }

    fn start(&self) -> SeqNo {
        self.inner.shared.start()
    }

    fn durable_end(&self) -> SeqNo {
        self.inner.shared.durable_end()
    }

    fn watch_durable_end(&self) -> watch::Receiver<SeqNo> {
        self.inner.shared.durable.subscribe()
    }

    fn append_frontier(&self) -> AppendTime {
        let (frontier, wants_reserve) = self.inner.shared.frontier.get(self.inner.shared.clock.now_us());
        if wants_reserve {
            let now = self.inner.shared.clock.monotonic();
            extend_soon(&self.inner, |i| &i.extending, now, |i| i.shared.extend_promise());
        }
        frontier
    }

    fn read(&self, from: SeqNo, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        self.inner.shared.read(from, bytes_max)
    }

    fn seek_event_time(&self, from: EventTime) -> Result<SeqNo, ReadError> {
        Ok(self.inner.shared.seek_event_time(from))
    }

    fn seek_append_time(&self, from: AppendTime) -> Result<SeqNo, ReadError> {
        Ok(self.inner.shared.seek_append_time(from))
    }

    fn truncate(&self, before: SeqNo) -> Result<(), AppendError> {
        self.inner.writing().core.truncate(before)
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.inner.shared.segments()
    }

    async fn close(&self) {
        let (reply, heard) = oneshot::channel();
        let asked = {
            let mut queue = self.inner.queue.lock();
            // Only the writer thread blocks on the disk. Without one, start it for this.
            let asked = !queue.closed && self.inner.ensure_thread(&mut queue).is_ok();
            if asked {
                queue.items.push_back(Item::Close { reply });
            }
            queue.closed = true;
            self.inner.wake.notify_all();
            asked
        };
        if asked {
            // An error means that the writer is gone, which is what was asked for.
            let _ = heard.await;
        }
    }
}

impl Drop for SegmentLog {
    /// Answers what is queued with `Closed` and waits for the group in flight, so that the
    /// directory can be opened again. Writes no seal: that is [`ShardLog::close`].
    fn drop(&mut self) {
        let thread = {
            let mut queue = self.inner.queue.lock();
            queue.closed = true;
            queue.items.retain(|item| matches!(item, Item::Close { .. }));
            self.inner.wake.notify_all();
            queue.thread.take()
        };
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
        self.inner.shared.close_promise(false);
    }
}

impl Inner {
    /// The core, with nothing left unsynced.
    pub(crate) fn writing(&self) -> MutexGuard<'_, Writing> {
        let mut writing = self.writing.lock();
        let writing_ref = &mut *writing;
        if let Some(Unsynced { mut group, _room }) = writing_ref.unsynced.take()
            && writing_ref.core.commit(&mut group, self.observer.as_deref()).is_err()
        {
            // Poisoned; who appended them has heard that they are written.
            self.metrics.unheard_failures_total.add(group.results().len() as i64);
        }
        writing
    }

    pub(crate) fn observer(&self) -> Option<&dyn CommitObserver> {
        self.observer.as_deref()
    }

    pub(crate) fn ensure_thread(self: &Arc<Self>, queue: &mut Queue) -> Result<(), AppendError> {
        if queue.running {
            return Ok(());
        }
        let inner = self.clone();
        let spawned = std::thread::Builder::new().name("weir-log".into()).spawn(move || inner.run());
        queue.thread = Some(spawned.map_err(|e| write_error("a writer thread", e))?);
        queue.running = true;
        Ok(())
    }

    fn run(&self) {
        let _stopped = StoppedOnPanic(self);
        let group_bytes_max =
            self.shared.config.queue_bytes_max.min(self.shared.config.segment_size_bytes_max);
        let mut queue = self.queue.lock();
        loop {
            let mut items = Vec::new();
            let mut sealed = false;
            while queue.busy || !queue.unsynced && queue.items.is_empty() {
                if !queue.busy && (queue.closed || sealed && !queue.active) {
                    queue.running = false;
                    return;
                }
                queue.active = false;
                let idle = self.wake.wait_for(&mut queue, IDLE).timed_out();
                sealed = idle && !queue.busy && !queue.active && !queue.unsynced && queue.items.is_empty();
                if sealed {
                    MutexGuard::unlocked(&mut queue, || self.seal());
                }
            }
            (queue.busy, queue.unsynced) = (true, false);
            let mut bytes = 0;
            while let Some(item) = queue.items.front() {
                if let Item::Append { append, .. } = item {
                    let len = append.payload.len() as u64;
                    if bytes > 0 && bytes + len > group_bytes_max {
                        break;
                    }
                    bytes += len;
                }
                items.extend(queue.items.pop_front());
            }
            MutexGuard::unlocked(&mut queue, || self.group(items));
            queue.busy = false;
        }
    }

    fn group(&self, items: Vec<Item>) {
        let (mut appends, mut waiting, mut syncs, mut closes) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut rooms, mut sync_rooms) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Append { append, ack, reply, room } => {
                    appends.push(append);
                    waiting.push((ack, reply));
                    rooms.push(room);
                }
                Item::Sync { reply, room } => {
                    syncs.push(reply);
                    sync_rooms.push(room);
                }
                Item::Close { reply } => closes.push(reply),
            }
        }
        let outcome = self.write_and_commit(appends, &mut waiting);
        drop((rooms, sync_rooms));
        for reply in syncs {
            let _ = reply.send(outcome.clone());
        }
        if !closes.is_empty() {
            self.seal_and_stop();
            for reply in closes {
                let _ = reply.send(());
            }
        }
    }

    fn write_and_commit(&self, appends: Vec<Append>, waiting: &mut [Waiter]) -> Result<SeqNo, AppendError> {
        let mut writing = self.writing();
        let core = &mut writing.core;
        let mut group = match core.write(appends) {
            Ok(group) => group,
            Err(e) => {
                waiting.iter_mut().for_each(|w| self.answer(w, Err(e.clone())));
                return Err(e);
            }
        };
        self.metrics.count(&group);
        for (waiter, result) in waiting.iter_mut().zip(group.results()) {
            if waiter.0 == Ack::Written {
                self.answer(waiter, result.clone());
            }
        }
        let committed = core.commit(&mut group, self.observer.as_deref());
        drop(writing);
        for (waiter, result) in waiting.iter_mut().zip(group.into_results()) {
            let result = match &committed {
                Ok(_) => result,
                Err(e) => result.and(Err(e.clone())),
            };
            self.answer(waiter, result);
        }
        committed
    }

    fn answer(&self, waiter: &mut Waiter, result: Result<Appended, AppendError>) {
        let failed = result.is_err();
        let heard = waiter.1.take().is_some_and(|reply| reply.send(result).is_ok());
        if failed && !heard {
            self.metrics.unheard_failures_total.add(1);
        }
    }

    fn seal(&self) {
        // A failure poisons the log and is logged there; the next append reports it.
        let _ = self.writing().core.seal();
    }

    fn seal_and_stop(&self) {
        self.seal();
        self.shared.close_promise(true);
    }
}

/// An observer that panics ends the writer: what waits hears `Closed` instead of nothing.
pub(crate) struct StoppedOnPanic<'a>(pub &'a Inner);

impl Drop for StoppedOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue.lock();
            queue.closed = true;
            queue.busy = false;
            queue.items.clear();
            self.0.wake.notify_all();
        }
    }
}

type Waiter = (Ack, Option<oneshot::Sender<Result<Appended, AppendError>>>);

impl LogMetrics {
    pub(crate) fn count(&self, group: &Group) {
        let (mut records, mut rows) = (0, 0);
        for appended in group.results().iter().flatten().filter(|a| !a.repeated) {
            records += 1;
            rows += i64::from(appended.rows);
        }
        self.groups_total.add(i64::from(records > 0));
        self.records_total.add(records);
        self.rows_total.add(rows);
        self.payload_bytes_total.add(group.payload_bytes() as i64);
    }
}
