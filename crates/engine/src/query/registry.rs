//! The queries that run, by id.
//!
//! Invariants
//! - at most `concurrent_max` entries; an id is there once;
//! - an entry is there from `register` until its last holder is gone.

use super::state::{Event, Finish, State};
use crate::Progress;
use crate::source::QuerySources;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use weir_base::{Clock, Error, MemoryBudget, Result, err};
use weir_plan::{NodeId, QueryCounters};

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
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    /// Of a streaming query, per operator.
    pub operators: Vec<OperatorInfo>,
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
    streaming: Mutex<Option<(Arc<QuerySources>, Vec<OperatorInfo>)>>,
    clock: Arc<dyn Clock>,
    started_us: i64,
    started: Duration,
    registry: Weak<QueryRegistry>,
}

#[derive(Debug)]
pub struct QueryRegistry {
    entries: Mutex<BTreeMap<String, Weak<QueryEntry>>>,
    concurrent_max: AtomicUsize,
    memory: Arc<MemoryBudget>,
    clock: Arc<dyn Clock>,
}

impl QueryRegistry {
    /// `memory`: the server's budget, which every query's is a child of.
    pub fn new(concurrent_max: usize, memory: Arc<MemoryBudget>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let concurrent_max = AtomicUsize::new(concurrent_max);
        Arc::new(QueryRegistry { entries: Mutex::default(), concurrent_max, memory, clock })
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
            progress: Arc::default(),
            memory,
            killed: CancellationToken::new(),
            state: Mutex::new(State::Planned),
            streaming: Mutex::new(None),
            started_us: self.clock.now_us(),
            started: self.clock.monotonic(),
            clock: self.clock.clone(),
            registry: Arc::downgrade(self),
            spec,
        });
        entries.insert(entry.spec.query_id.clone(), Arc::downgrade(&entry));
        Ok(entry)
    }

    pub fn get(&self, query_id: &str) -> Option<Arc<QueryEntry>> {
        self.entries.lock().get(query_id)?.upgrade()
    }

    pub fn list(&self) -> Vec<QueryInfo> {
        let entries: Vec<_> = self.entries.lock().values().filter_map(Weak::upgrade).collect();
        entries.iter().map(|e| e.info()).collect()
    }

    /// Asks a query to stop; `false` = there is none of that id. It is gone once `get` says so.
    pub fn kill(&self, query_id: &str) -> bool {
        let entry = self.get(query_id);
        if let Some(entry) = &entry {
            entry.killed.cancel();
        }
        entry.is_some()
    }

    pub fn kill_all(&self) {
        let entries: Vec<_> = self.entries.lock().values().filter_map(Weak::upgrade).collect();
        entries.iter().for_each(|e| e.killed.cancel());
    }

    /// `SYSTEM SYNC QUERY`: returns when all that was durable at the call has been handed to
    /// the query's sink.
    ///
    /// # Errors
    /// Code 36 for an id that does not run or does not stream.
    pub async fn sync(&self, query_id: &str) -> Result<()> {
        let entry =
            self.get(query_id).ok_or_else(|| err!(BadArguments, "no query with id {query_id} is running"))?;
        let sources = entry.streaming.lock().as_ref().map(|(sources, _)| sources.clone());
        let sources =
            sources.ok_or_else(|| err!(BadArguments, "query {query_id} is not a running streaming query"))?;
        let killed = entry.killed.clone();
        drop(entry);
        tokio::select! {
            () = sources.sync() => {}
            () = killed.cancelled() => {}
        }
        Ok(())
    }
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
    pub(super) fn end(&self, finish: Finish) {
        self.on(match finish {
            Finish::Finished => Event::Drained,
            Finish::Cancelled => Event::Cancel,
            Finish::Failed => Event::Fail,
        });
        self.on(Event::Released);
    }

    pub(super) fn attach(&self, sources: Arc<QuerySources>, operators: Vec<OperatorInfo>) {
        *self.streaming.lock() = Some((sources, operators));
    }

    /// What `KILL QUERY` makes of it.
    pub(super) fn killed_error(&self) -> Error {
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
            memory_bytes: self.memory.used_bytes(),
            memory_peak_bytes: self.memory.peak_bytes(),
            operators: self.streaming.lock().as_ref().map_or_else(Vec::new, |(_, ops)| ops.clone()),
        }
    }
}

impl Drop for QueryEntry {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            let mut entries = registry.entries.lock();
            // Another query may have taken the id after the last holder let go.
            if entries.get(&self.spec.query_id).is_some_and(|e| e.strong_count() == 0) {
                entries.remove(&self.spec.query_id);
            }
        }
    }
}
