//! The queries that run, by id.
//!
//! Invariants
//! - at most `concurrent_max` entries; an id is there once;
//! - an entry is there from `register` until its last holder is gone.

use super::history::QueryRecord;
use super::late::{LateLog, LateWriter};
use super::operators::{OperatorStatus, OperatorSums, statuses};
use super::state::{Event, Finish, State};
use crate::Progress;
use crate::source::QuerySources;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weir_base::error::did_you_mean;
use weir_base::metrics::{Metric, Registry};
use weir_base::{Clock, Error, MemoryBudget, Result, err};
use weir_plan::{NodeId, QueryCounters, Running, StreamNode};

/// The kind of statements whose end is the end of their result.
pub(crate) const SELECT: &str = "Select";

/// What is known of a query before it starts.
#[derive(Debug, Clone)]
pub struct QuerySpec {
    pub query_id: String,
    pub user: String,
    pub database: String,
    pub text: String,
    pub streaming: bool,
    /// `max_memory_usage`; `None` = only the server's limit.
    pub memory_bytes_max: Option<u64>,
    /// `max_execution_time`.
    pub execution_max: Option<Duration>,
    /// `output_buffer_bytes_max`: results kept for a slow reader.
    pub output_buffer_bytes_max: u64,
    /// Takes down what becomes of it.
    pub record: Option<Arc<QueryRecord>>,
}

/// A row of `system.queries`.
#[derive(Debug, Clone)]
pub struct QueryInfo {
    pub query_id: String,
    pub user: String,
    pub database: String,
    pub text: String,
    pub streaming: bool,
    pub state: &'static str,
    /// Microseconds since the Unix epoch.
    pub started_us: i64,
    pub elapsed: Duration,
    pub read_rows: u64,
    pub read_bytes: u64,
    pub result_rows: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    /// Of a streaming query, per operator in the order of its plan.
    pub operators: Vec<OperatorStatus>,
    pub sums: OperatorSums,
    /// What the plan says of each operator.
    pub plan: Option<Arc<StreamNode>>,
    /// Rows put into the output buffer, those that the reader has not taken, and since when the query
    /// waits for it.
    pub given_rows: u64,
    pub waiting_rows: u64,
    pub full_since_us: Option<i64>,
}

pub type OperatorInfo = (NodeId, &'static str, Arc<QueryCounters>);

/// One query. Held by whoever drives it and by its result stream; the registry lists it as
/// long as one of them lives.
#[derive(Debug)]
pub struct QueryEntry {
    pub spec: QuerySpec,
    pub progress: Arc<Progress>,
    pub memory: Arc<MemoryBudget>,
    /// Cancelled by `KILL QUERY` and shutdown.
    pub killed: CancellationToken,
    state: Mutex<State>,
    streaming: Mutex<Option<Streaming>>,
    /// Of `INSERT … SELECT`: how many of the rows that have left are durable in the target.
    written: Mutex<Option<watch::Receiver<u64>>>,
    /// Takes late rows, from before the start on.
    late: Mutex<Option<LateWriter>>,
    clock: Arc<dyn Clock>,
    started_us: i64,
    started: Duration,
    /// Late, future and skipped rows and expired keys that counters of the process know of.
    counted: Mutex<[u64; 4]>,
    registry: Weak<QueryRegistry>,
}

/// What runs of a streaming query.
#[derive(Clone)]
struct Streaming {
    plan: Arc<StreamNode>,
    sources: Arc<QuerySources>,
    running: Arc<dyn Running>,
    operators: Vec<OperatorInfo>,
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").field("sources", &self.sources).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub struct QueryRegistry {
    entries: Mutex<BTreeMap<String, Weak<QueryEntry>>>,
    concurrent_max: AtomicUsize,
    memory: Arc<MemoryBudget>,
    clock: Arc<dyn Clock>,
    /// An entry is no longer there.
    gone: Notify,
    pub late: LateLog,
    drops: Drops,
}

/// What streaming queries of this process left out: late, future and skipped rows, expired keys.
#[derive(Debug, Default)]
pub struct Drops([Metric; 4]);

impl Drops {
    pub fn of(metrics: &Registry) -> Self {
        Drops([
            metrics.counter("weir_late_rows_total", "rows that came after their window had closed"),
            metrics.counter(
                "weir_future_rows_total",
                "rows so far ahead of their append time that they moved no watermark",
            ),
            metrics.counter("weir_skipped_rows_total", "rows left out because of an emit policy"),
            metrics.counter(
                "weir_expired_keys_total",
                "keys of aggregations forgotten because no row came for them",
            ),
        ])
    }
}

impl QueryRegistry {
    /// `memory`: the server's budget, which every query's is a child of.
    pub fn new(
        concurrent_max: usize,
        memory: Arc<MemoryBudget>,
        clock: Arc<dyn Clock>,
        drops: Drops,
    ) -> Arc<Self> {
        let concurrent_max = AtomicUsize::new(concurrent_max);
        let gone = Notify::new();
        Arc::new(QueryRegistry {
            entries: Mutex::default(),
            concurrent_max,
            memory,
            clock,
            gone,
            drops,
            late: LateLog::default(),
        })
    }

    /// Brings the counters of dropped rows up to now.
    pub fn count_drops(&self) {
        let entries: Vec<_> = self.entries.lock().values().filter_map(Weak::upgrade).collect();
        entries.iter().for_each(|e| e.count_drops(&self.drops));
    }

    pub fn set_concurrent_max(&self, max: usize) {
        self.concurrent_max.store(max, Ordering::Relaxed);
    }

    /// # Errors
    /// Code 216 when the id runs already, 202 when too many queries run.
    pub fn register(self: &Arc<Self>, spec: QuerySpec) -> Result<Arc<QueryEntry>> {
        let limit = spec.memory_bytes_max.unwrap_or_else(|| self.memory.limit_bytes());
        let memory = self.memory.child(format!("query {}", spec.query_id), limit);
        let mut entries = self.entries.lock();
        if entries.get(&spec.query_id).is_some_and(|e| e.strong_count() > 0) {
            return Err(err!(QueryIdInUse, "query with id {} is already running", spec.query_id));
        }
        let max = self.concurrent_max.load(Ordering::Relaxed);
        if entries.len() >= max {
            return Err(err!(
                TooManyQueries,
                "{} queries are running, max_concurrent_queries is {max}; wait or end some with KILL QUERY",
                entries.len()
            ));
        }
        let entry = Arc::new(QueryEntry {
            progress: spec.record.as_ref().map_or_else(Arc::default, |r| r.progress.clone()),
            memory,
            killed: CancellationToken::new(),
            state: Mutex::new(State::Planned),
            streaming: Mutex::new(None),
            written: Mutex::new(None),
            late: Mutex::new(None),
            started_us: self.clock.now_us(),
            started: self.clock.monotonic(),
            clock: self.clock.clone(),
            counted: Mutex::default(),
            registry: Arc::downgrade(self),
            spec,
        });
        entries.insert(entry.spec.query_id.clone(), Arc::downgrade(&entry));
        if let Some(record) = &entry.spec.record {
            record.begin(entry.spec.streaming);
        }
        Ok(entry)
    }

    pub fn get(&self, query_id: &str) -> Option<Arc<QueryEntry>> {
        self.entries.lock().get(query_id)?.upgrade()
    }

    pub fn list(&self) -> Vec<QueryInfo> {
        let entries: Vec<_> = self.entries.lock().values().filter_map(Weak::upgrade).collect();
        entries.iter().map(|e| e.info()).collect()
    }

    /// Asks a query to stop; `None` = there is none of that id. See [`QueryRegistry::gone`].
    pub fn kill(&self, query_id: &str) -> Option<Weak<QueryEntry>> {
        let entry = self.get(query_id)?;
        entry.killed.cancel();
        Some(Arc::downgrade(&entry))
    }

    /// Returns once the last holder of each of these has let go.
    pub async fn gone(&self, queries: &[Weak<QueryEntry>]) {
        loop {
            let gone = self.gone.notified();
            tokio::pin!(gone);
            // Counted from here on, so that nothing between the look and the wait is missed.
            gone.as_mut().enable();
            if queries.iter().all(|q| q.strong_count() == 0) {
                return;
            }
            gone.await;
        }
    }

    pub fn kill_all(&self) {
        let entries: Vec<_> = self.entries.lock().values().filter_map(Weak::upgrade).collect();
        entries.iter().for_each(|e| e.killed.cancel());
    }

    /// `SYSTEM SYNC QUERY`: returns when all that was durable at the call has been handed to
    /// the query's sink; of an `INSERT … SELECT`, when it is durable in the target.
    ///
    /// # Errors
    /// Code 36 for an id that does not run or does not stream; the query's own error where it failed before.
    pub async fn sync(&self, query_id: &str) -> Result<()> {
        let (entry, streaming) = self.streaming(query_id)?;
        let (killed, progress, written) =
            (entry.killed.clone(), entry.progress.clone(), entry.written.lock().clone());
        drop(entry);
        let all = tokio::select! {
            all = streaming.sources.sync() => all,
            () = killed.cancelled() => return Ok(()),
        };
        if !all && let Err(e) = streaming.running.join().await {
            let message =
                format!("query {query_id} failed before it had taken in all that was durable: {}", e.message);
            return Err(Error::new(e.code, message));
        }
        if all_written(written, &progress).await {
            return Ok(());
        }
        let why = match streaming.running.join().await {
            Ok(()) => err!(QueryWasCancelled, "it was ended"),
            Err(e) => e.into(),
        };
        let message = format!("query {query_id} ended before its rows were written: {}", why.message);
        Err(Error::new(why.code, message))
    }

    /// `SYSTEM DRAIN QUERY`: the query takes all that is durable now, sets its watermarks to
    /// infinity, emits and ends. Returns when its rows have left, whether or not they were read.
    ///
    /// # Errors
    /// As [`QueryRegistry::sync`].
    pub async fn drain(&self, query_id: &str) -> Result<()> {
        let (entry, streaming) = self.streaming(query_id)?;
        let (progress, written) = (entry.progress.clone(), entry.written.lock().clone());
        drop(entry);
        streaming.sources.drain();
        // How it ended its own client hears.
        let _ = streaming.running.join().await;
        drop(streaming);
        all_written(written, &progress).await;
        Ok(())
    }

    /// Ids of the streaming queries that run.
    pub fn streaming_ids(&self) -> Vec<String> {
        let entries: Vec<_> = self.entries.lock().values().filter_map(Weak::upgrade).collect();
        let streams = entries.iter().filter(|e| e.streaming.lock().is_some());
        streams.map(|e| e.spec.query_id.clone()).collect()
    }

    /// A query that runs.
    ///
    /// # Errors
    /// Code 36 for an id that does not run.
    pub fn expect(&self, query_id: &str) -> Result<Arc<QueryEntry>> {
        self.get(query_id).ok_or_else(|| {
            let running: Vec<String> = self.entries.lock().keys().cloned().collect();
            let hint = did_you_mean(query_id, running.iter().map(String::as_str));
            err!(BadArguments, "no query with id {query_id} is running{hint}")
        })
    }

    fn streaming(&self, query_id: &str) -> Result<(Arc<QueryEntry>, Streaming)> {
        let entry = self.expect(query_id)?;
        let streaming = entry.streaming.lock().clone();
        match streaming {
            Some(streaming) => Ok((entry, streaming)),
            None => Err(err!(BadArguments, "query {query_id} is not a running streaming query")),
        }
    }
}

/// Waits until the rows that have left so far are durable in the target, if there is one; `false` = whoever
/// wrote them has ended before.
async fn all_written(written: Option<watch::Receiver<u64>>, progress: &Progress) -> bool {
    let Some(mut written) = written else { return true };
    let left = progress.result_rows.load(Ordering::Relaxed);
    written.wait_for(|rows| *rows >= left).await.is_ok()
}

impl QueryEntry {
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    /// Moves the life cycle on.
    pub fn on(&self, event: Event) {
        let mut state = self.state.lock();
        match state.on(event) {
            Some(next) => *state = next,
            None => {
                debug_assert!(false, "query {} in {:?} cannot take {event:?}", self.spec.query_id, *state);
                tracing::error!(query_id = %self.spec.query_id, state = ?*state, ?event, "impossible event");
            }
        }
    }

    /// Ends the life cycle whatever it was.
    pub(crate) fn end(&self, finish: Finish, error: Option<&Error>) {
        if let Some(record) = &self.spec.record {
            match error {
                Some(e) => record.fail(e),
                None if finish == Finish::Cancelled => record.fail(&self.killed_error()),
                None => {}
            }
            // An insert goes on after the query it reads from.
            if record.kind() == SELECT {
                record.end(self.memory.peak_bytes());
            }
        }
        self.on(match finish {
            Finish::Finished => Event::Drained,
            Finish::Cancelled => Event::Cancel,
            Finish::Failed => Event::Fail,
        });
        self.on(Event::Released);
        if let Some(registry) = self.registry.upgrade() {
            self.count_drops(&registry.drops);
        }
        // They hold the shards that were read, and with them the files of dropped streams.
        *self.streaming.lock() = None;
    }

    pub(crate) fn attach(
        &self,
        plan: Arc<StreamNode>,
        sources: Arc<QuerySources>,
        running: Arc<dyn Running>,
    ) {
        let operators = running.counters();
        *self.streaming.lock() = Some(Streaming { plan, sources, running, operators });
    }

    /// Its operators now.
    fn operators(&self) -> (Option<Arc<StreamNode>>, Vec<OperatorStatus>) {
        // What is read of a source takes no lock of the query.
        let Some(s) = self.streaming.lock().clone() else { return (None, Vec::new()) };
        let read = |id, rows, backfilled| s.sources.read(id, rows, backfilled);
        let all = statuses(&s.plan, &s.operators, read);
        (Some(s.plan.clone()), all)
    }

    /// Adds what was left out since the last time to counters of the process.
    fn count_drops(&self, drops: &Drops) {
        let (_, operators) = self.operators();
        let sums = OperatorSums::of(&operators, 0);
        let now = [sums.late_rows, sums.future_rows, sums.skipped_rows, sums.expired_keys];
        let mut counted = self.counted.lock();
        for ((now, counted), metric) in now.iter().zip(counted.iter_mut()).zip(&drops.0) {
            metric.add(now.saturating_sub(*counted) as i64);
            *counted = (*counted).max(*now);
        }
    }

    /// For whoever writes the query's rows down: to be told how many of them are durable.
    pub(crate) fn writing(&self) -> watch::Sender<u64> {
        let (to, from) = watch::channel(0);
        *self.written.lock() = Some(from);
        to
    }

    pub(crate) fn keep_late(&self, writer: LateWriter) {
        *self.late.lock() = Some(writer);
    }

    pub(crate) fn late_writer(&self) -> Option<LateWriter> {
        self.late.lock().take()
    }

    pub(super) fn registry(&self) -> Weak<QueryRegistry> {
        self.registry.clone()
    }

    /// For the record of what became of it.
    pub(crate) fn failed(&self, e: &Error) {
        if let Some(record) = &self.spec.record {
            record.fail(e);
        }
    }

    /// What `KILL QUERY` makes of it.
    pub(crate) fn killed_error(&self) -> Error {
        err!(QueryWasCancelled, "query {} was cancelled", self.spec.query_id)
    }

    pub(super) fn timeout_error(&self) -> Error {
        let limit = self.spec.execution_max.unwrap_or_default();
        err!(
            TimeoutExceeded,
            "query {} ran longer than max_execution_time of {} s",
            self.spec.query_id,
            limit.as_secs_f64()
        )
    }

    pub fn info(&self) -> QueryInfo {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (plan, operators) = self.operators();
        let full_since_us = self.progress.full_since_us.load(Ordering::Relaxed);
        QueryInfo {
            query_id: self.spec.query_id.clone(),
            user: self.spec.user.clone(),
            database: self.spec.database.clone(),
            text: self.spec.text.clone(),
            streaming: self.spec.streaming,
            state: self.state().name(),
            started_us: self.started_us,
            elapsed: self.clock.monotonic().saturating_sub(self.started),
            read_rows: load(&self.progress.read_rows),
            read_bytes: load(&self.progress.read_bytes),
            result_rows: load(&self.progress.result_rows),
            written_rows: load(&self.progress.written_rows),
            written_bytes: load(&self.progress.written_bytes),
            memory_bytes: self.memory.used_bytes(),
            memory_peak_bytes: self.memory.peak_bytes(),
            sums: OperatorSums::of(&operators, self.clock.now_us()),
            operators,
            plan,
            given_rows: load(&self.progress.given_rows),
            waiting_rows: if self.spec.streaming {
                load(&self.progress.given_rows).saturating_sub(load(&self.progress.taken_rows))
            } else {
                0
            },
            full_since_us: (full_since_us != 0).then_some(full_since_us),
        }
    }
}

impl Drop for QueryEntry {
    fn drop(&mut self) {
        if let Some(record) = &self.spec.record {
            record.note_memory(self.memory.peak_bytes());
        }
        if let Some(registry) = self.registry.upgrade() {
            let mut entries = registry.entries.lock();
            // Another query may have taken the id after the last holder let go.
            if entries.get(&self.spec.query_id).is_some_and(|e| e.strong_count() == 0) {
                entries.remove(&self.spec.query_id);
            }
            drop(entries);
            registry.gone.notify_waiters();
        }
    }
}
