//! Tasks: queries with an end that run now and then, each run into a stream.
//!
//! ```text
//! due -> rows of the query as of that time, held -> noted on disk if they are more than one record
//!     -> records of the target's shards, each with the run's time
//! ```
//!
//! Invariants
//! - one run at a time; of runs that were missed the last one is made up for, once;
//! - a run is in its target as a whole or not at all, once it had time to be finished: a record that a shard
//!   names is not written to it again, and of those that are missing the note has the rows.
//!
//! Not here: statements (`ddl::jobs`), when a run is due ([`schedule`]).

mod redo;
mod schedule;

use super::alert::reached;
use super::held::{Held, Set};
use super::route::Route;
use super::sink::Fitting;
use super::spec::is_set;
use super::{Steer, Views};
use crate::engine::{Shared, Statement};
use crate::execute::{Target, background, target};
use crate::query::{QueryEntry, start_bounded};
use crate::scope::EngineScope;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::execution::SessionState;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
pub(crate) use redo::verify;
use redo::{Record, Redo, RedoWriter};
use schedule::Schedule;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use weir_base::{Error, Result, err};
use weir_catalog::{Job, JobKind, RelationName};
use weir_sql::bind::{BindOptions, BoundQuery};
use weir_sql::parse;
use weir_storage::{Ack, Progress};

const REQUESTS_MAX: usize = 16;
/// After a failure, doubled each time.
const RETRY_FIRST_US: i64 = 1_000_000;
const RETRY_LONGEST_US: i64 = 60_000_000;
const VERSION: u8 = 1;

pub(crate) struct Task {
    pub job: Arc<Job>,
    requests: mpsc::Sender<(Steer, oneshot::Sender<()>)>,
    shown: Mutex<Shown>,
}

#[derive(Debug, Clone, Default)]
struct Shown {
    state: &'static str,
    next_us: Option<i64>,
    /// The time of the last run that was whole, and how long that took.
    last_us: Option<i64>,
    last_took_us: i64,
    runs: u64,
    failures: u64,
    rows: u64,
    error: Option<Error>,
}

/// A row of `system.tasks`.
#[derive(Debug, Clone)]
pub(crate) struct TaskInfo {
    pub job: Arc<Job>,
    pub every_us: i64,
    pub timeout_us: Option<i64>,
    pub target: String,
    pub state: &'static str,
    pub next_us: Option<i64>,
    pub last_us: Option<i64>,
    pub last_took_us: i64,
    pub runs: u64,
    pub failures: u64,
    pub rows: u64,
    pub last_error: String,
}

impl Task {
    pub fn info(&self) -> Option<TaskInfo> {
        let JobKind::Task { every_us, timeout_us, target } = &self.job.kind else { return None };
        let shown = self.shown.lock().clone();
        Some(TaskInfo {
            job: self.job.clone(),
            every_us: *every_us,
            timeout_us: *timeout_us,
            target: target.to_string(),
            state: shown.state,
            next_us: shown.next_us,
            last_us: shown.last_us,
            last_took_us: shown.last_took_us,
            runs: shown.runs,
            failures: shown.failures,
            rows: shown.rows,
            last_error: shown.error.map(|e| e.to_string()).unwrap_or_default(),
        })
    }

    pub async fn ask(&self, what: Steer) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || err!(QueryWasCancelled, "the server is shutting down");
        self.requests.send((what, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// A task's query, bound as of a time.
struct Bound {
    cx: Statement,
    query: BoundQuery,
    state: SessionState,
    scope: Arc<EngineScope>,
    target: Target,
    fitting: Fitting,
}

/// Binds a task's query and finds its target.
///
/// # Errors
/// What its SELECT is refused with; code 80 where it gives what its target does not take.
fn bind(shared: &Arc<Shared>, job: &Job, at_us: i64) -> Result<Bound> {
    let JobKind::Task { target: name, .. } = &job.kind else {
        return Err(err!(LogicalError, "{} is no task", job.full_name()));
    };
    let text = format!("CREATE TASK {} INTO {name} AS {}", job.full_name(), job.select);
    let cx = background(shared.clone(), &job.resolve_in, &job.settings, &text, &format!("task-{}", job.id))?;
    let mut statements = parse::parse(&job.select)?;
    let query = match (statements.len(), statements.pop().map(|p| p.statement)) {
        (1, Some(weir_sql::Statement::Query(query))) => query,
        _ => return Err(err!(Syntax, "a task is one SELECT")),
    };
    let (state, scope) = (cx.state()?, Arc::new(cx.scope()));
    let options = BindOptions { now_us: at_us, ..cx.bind_options(true) };
    let query = weir_sql::bind::bind_query(&query, &*scope, &state, &options)?;
    if query.unbounded {
        return Err(err!(
            IncorrectQuery,
            "the SELECT of task {} has no end; use a materialized view for what is never over",
            job.full_name()
        ));
    }
    let names: Vec<String> = query.schema.fields().iter().map(|f| f.name().clone()).collect();
    let target = target(&cx, name, Some(&names)).map_err(|e| {
        let message = format!("task {} does not fit its target {name}: {}", job.full_name(), e.message);
        Error { message, ..e }
    })?;
    let fitting = Fitting::new(&target, query.schema.clone(), cx.settings.cast_overflow_wrap)?;
    Ok(Bound { cx, query, state, scope, target, fitting })
}

/// Whether a task can run, and what it reads.
pub(crate) fn check(shared: &Arc<Shared>, job: &Job) -> Result<Vec<RelationName>> {
    let bound = bind(shared, job, shared.world.clock.now_us())?;
    if bound.target.external().is_some() {
        return Err(err!(
            NotImplemented,
            "task {} can not write to an external stream yet: its runs are told apart by what lies in the target; \
             write to a stream, and let a materialized view take its rows on",
            job.full_name()
        ));
    }
    Ok(bound.scope.used().into_iter().collect())
}

impl Views {
    /// Begins to run a task.
    pub fn schedule(&self, shared: &Arc<Shared>, job: Arc<Job>) {
        let JobKind::Task { every_us, .. } = job.kind else { return };
        let (requests, asked) = mpsc::channel(REQUESTS_MAX);
        let shown = Shown { state: "Waiting", ..Shown::default() };
        let task = Arc::new(Task { job: job.clone(), requests, shown: Mutex::new(shown) });
        self.tasks.lock().insert(job.id, task.clone());
        let last = written(shared, &job).into_iter().flatten().map(|(at_us, _)| at_us).max();
        task.shown.lock().last_us = last;
        let unfinished = !matches!(Redo::open(&*shared.world.disk, job.id), Ok(None));
        let schedule = Schedule::new(job.created_ms.saturating_mul(1_000), every_us, last);
        let paused = job.paused || is_set(&job.settings, "pause_on_start");
        let runner = Runner {
            shared: shared.clone(),
            task,
            schedule,
            asked,
            paused,
            unfinished,
            retry_us: None,
            failed: 0,
        };
        shared.spawn(runner.run());
    }
}

/// Of each shard of its target, the last run that is in it, and its last record.
fn written(shared: &Shared, job: &Job) -> Vec<Option<(i64, u16)>> {
    let JobKind::Task { target, .. } = &job.kind else { return Vec::new() };
    let snapshot = shared.catalog.snapshot();
    let relation = snapshot.expect_relation(&target.database, &target.name);
    let Ok(open) = relation.map_err(Error::from).and_then(|r| shared.streams.get(r)) else {
        return Vec::new();
    };
    let run = |bytes: bytes::Bytes| match bytes.split_first_chunk::<11>() {
        Some(([VERSION, at @ .., low, high], _)) => {
            Some((i64::from_le_bytes(*at), u16::from_le_bytes([*low, *high])))
        }
        _ => None,
    };
    open.store.shards().iter().map(|s| s.progress(job.id.as_bytes()).and_then(run)).collect()
}

/// Takes what a dropped task left in its target's shards.
pub(crate) async fn forget(shared: &Shared, job: &Job) {
    let JobKind::Task { target, .. } = &job.kind else { return };
    if let Err(e) = redo::forget(&*shared.world.disk, job.id) {
        tracing::debug!(task = %job.full_name(), error = %e, "a run of a dropped task goes with the next start");
    }
    let snapshot = shared.catalog.snapshot();
    let relation = snapshot.expect_relation(&target.database, &target.name);
    let Ok(open) = relation.map_err(Error::from).and_then(|r| shared.streams.get(r)) else { return };
    for shard in open.store.shards() {
        if let Err(e) = shard.forget_progress(*job.id.as_bytes()).await {
            tracing::debug!(task = %job.full_name(), error = %e, "what a dropped task wrote last stays noted");
        }
    }
}

struct Runner {
    shared: Arc<Shared>,
    task: Arc<Task>,
    schedule: Schedule,
    asked: mpsc::Receiver<(Steer, oneshot::Sender<()>)>,
    paused: bool,
    /// A run is noted and may not be whole in its target: that comes first.
    unfinished: bool,
    /// After a failure: not before.
    retry_us: Option<i64>,
    failed: u32,
}

enum Came {
    Due,
    Request(Steer, oneshot::Sender<()>),
    Stopping,
}

impl Runner {
    fn now_us(&self) -> i64 {
        self.shared.world.clock.now_us()
    }

    fn due_us(&self) -> i64 {
        let due_us = if self.unfinished { i64::MIN } else { self.schedule.next_us() };
        self.retry_us.unwrap_or(i64::MIN).max(due_us)
    }

    async fn run(mut self) {
        loop {
            let due = (!self.paused).then(|| self.due_us());
            {
                let mut shown = self.task.shown.lock();
                shown.next_us = due;
                shown.state = match (self.paused, self.retry_us) {
                    (true, _) => "Paused",
                    (false, Some(_)) => "Backoff",
                    (false, None) => "Waiting",
                };
            }
            match self.next(due).await {
                Came::Stopping => return,
                Came::Request(what, answer) => {
                    let ends = self.steer(what);
                    // Who asked may have left.
                    let _ = answer.send(());
                    if ends {
                        return;
                    }
                }
                Came::Due => {
                    if self.once().await {
                        return;
                    }
                }
            }
        }
    }

    async fn next(&mut self, due: Option<i64>) -> Came {
        let stopping = self.shared.stopping();
        tokio::select! {
            biased;
            () = stopping.cancelled() => Came::Stopping,
            request = self.asked.recv() => match request {
                Some((what, answer)) => Came::Request(what, answer),
                None => Came::Stopping,
            },
            () = reached(self.shared.world.clock.clone(), due) => Came::Due,
        }
    }

    /// Whether it has ended.
    fn steer(&mut self, what: Steer) -> bool {
        match what {
            Steer::Pause => self.paused = true,
            Steer::Resume => {
                self.paused = false;
                self.retry_us = None;
            }
            Steer::Drop => return true,
            Steer::Recover | Steer::Checkpoint | Steer::Sync | Steer::Drain => {}
        }
        false
    }

    /// The run that is due; whether the task has ended meanwhile.
    async fn once(&mut self) -> bool {
        let mut at_us = self.schedule.due_us(self.now_us());
        self.task.shown.lock().state = "Running";
        let began = self.now_us();
        let (shared, job) = (self.shared.clone(), self.task.job.clone());
        let stopping = self.shared.stopping();
        let done = if self.unfinished {
            match finish(&shared, &job).await {
                Ok(Some((of_run, rows))) => {
                    (self.unfinished, at_us) = (false, of_run);
                    Ok(rows)
                }
                // There is none: what is due is yet to run.
                Ok(None) => {
                    self.unfinished = false;
                    return false;
                }
                Err(e) => Err(e),
            }
        } else {
            // Only while rows are read: what is being written is waited for.
            let rows = tokio::select! {
                biased;
                () = stopping.cancelled() => return true,
                request = self.asked.recv() => {
                    let Some((what, answer)) = request else { return true };
                    let ends = self.steer(what);
                    let _ = answer.send(());
                    return ends;
                }
                rows = read(&shared, &job, at_us) => rows,
            };
            match rows {
                Ok(rows) => rows.write(&shared, &job, at_us, &mut self.unfinished).await,
                Err(e) => Err(e),
            }
        };
        let now_us = self.now_us();
        let mut shown = self.task.shown.lock();
        match done {
            Ok(rows) => {
                shown.runs += 1;
                shown.rows += rows;
                shown.last_us = Some(at_us);
                shown.last_took_us = now_us.saturating_sub(began);
                shown.error = None;
                self.schedule.done(at_us);
                (self.retry_us, self.failed) = (None, 0);
            }
            Err(e) => {
                tracing::warn!(task = %job.full_name(), error = %e, "a run of a task failed");
                shown.failures += 1;
                shown.error = Some(e);
                let wait = RETRY_FIRST_US.saturating_mul(1 << self.failed.min(16)).min(RETRY_LONGEST_US);
                self.failed += 1;
                self.retry_us = Some(now_us.saturating_add(wait));
            }
        }
        false
    }
}

/// What a run gives, held until all of it is there.
struct Rows {
    bound: Bound,
    set: Set,
    route: Route,
    /// Listed while it runs.
    _entry: Arc<QueryEntry>,
}

async fn read(shared: &Arc<Shared>, job: &Job, at_us: i64) -> Result<Rows> {
    let JobKind::Task { timeout_us, .. } = job.kind else {
        return Err(err!(LogicalError, "{} is no task", job.full_name()));
    };
    let bound = bind(shared, job, at_us)?;
    let entry = bound.cx.register(false)?;
    let compute = &shared.config.compute;
    let rows = start_bounded(entry.clone(), bound.query.plan.clone(), &bound.state, compute).await?;
    let due = timeout_us.map(|us| Duration::from_micros(us as u64));
    let route = Route::Source;
    let disk = shared.world.disk.clone();
    let mut held = Held::new(disk.clone(), entry.memory.clone(), route.clone());
    let all = hold(rows, &mut held);
    match due {
        None => all.await?,
        Some(due) => tokio::time::timeout(due, all).await.map_err(|_| {
            err!(TimeoutExceeded, "a run took longer than its TIMEOUT of {} s", due.as_secs_f64())
        })??,
    }
    let mut set = held.take();
    set.close(&disk, &route)?;
    Ok(Rows { bound, set, route, _entry: entry })
}

async fn hold(mut rows: BoxStream<'static, Result<RecordBatch>>, held: &mut Held) -> Result<()> {
    while let Some(batch) = rows.next().await {
        held.push(batch?, None)?;
    }
    Ok(())
}

impl Rows {
    /// Writes them down; gives how many. Once that takes more than one record, the run is `unfinished` until all of
    /// them are there.
    async fn write(self, shared: &Shared, job: &Job, at_us: i64, unfinished: &mut bool) -> Result<u64> {
        let JobKind::Task { every_us, .. } = job.kind else { return Ok(0) };
        let shards = self.bound.target.shards().to_vec();
        let from = (at_us / every_us.max(1)).unsigned_abs() as usize;
        let pieces = self.set.pieces();
        let mut redo: Option<RedoWriter> = None;
        // The only record, as long as no other has come.
        let mut one: Option<Record> = None;
        for piece in 0..pieces {
            let mut dealt: Vec<Vec<RecordBatch>> = vec![Vec::new(); shards.len()];
            for batch in self.set.piece(&self.route, piece, pieces)?.iter().filter(|b| b.num_rows() > 0) {
                for (shard, rows) in self.bound.fitting.deal(&self.route, batch, from)? {
                    dealt[shard].push(rows);
                }
            }
            for (shard, batches) in dealt.into_iter().enumerate().filter(|(_, b)| !b.is_empty()) {
                let rows = concat_batches(&batches[0].schema(), &batches)
                    .map_err(|e| err!(LogicalError, "could not join the rows of a run: {e}"))?;
                let record = Record { shard: shard as u32, number: piece, of: pieces, rows };
                match (&mut redo, one.take()) {
                    (Some(redo), _) => redo.add(&record)?,
                    (None, None) => one = Some(record),
                    (None, Some(before)) => {
                        let redo = redo.insert(RedoWriter::begin(shared.world.disk.clone(), job.id, at_us)?);
                        redo.add(&before)?;
                        redo.add(&record)?;
                    }
                }
            }
        }
        if let Some(redo) = redo {
            redo.finish()?;
            *unfinished = true;
            let rows = finish(shared, job).await?.map_or(0, |(_, rows)| rows);
            *unfinished = false;
            return Ok(rows);
        }
        match one {
            None => Ok(0),
            Some(record) => append(shared, job, at_us, record).await,
        }
    }
}

/// Appends what is missing of the run that is noted, if one is; gives its time and how many rows it has.
async fn finish(shared: &Shared, job: &Job) -> Result<Option<(i64, u64)>> {
    let disk = &*shared.world.disk;
    let Some(mut redo) = Redo::open(disk, job.id)? else { return Ok(None) };
    let (at_us, mut rows) = (redo.at_us, 0);
    while let Some(record) = redo.next()? {
        rows += append(shared, job, at_us, record).await?;
    }
    redo::remove(disk, job.id)?;
    Ok(Some((at_us, rows)))
}

/// Appends a record unless its shard has it already; gives its rows.
async fn append(shared: &Shared, job: &Job, at_us: i64, record: Record) -> Result<u64> {
    let JobKind::Task { target, .. } = &job.kind else { return Ok(0) };
    let at = record.shard as usize;
    if written(shared, job).get(at).copied().flatten().is_some_and(|last| last >= (at_us, record.number)) {
        return Ok(record.rows.num_rows() as u64);
    }
    let snapshot = shared.catalog.snapshot();
    let relation = snapshot.expect_relation(&target.database, &target.name);
    let open = relation.map_err(Error::from).and_then(|r| shared.streams.get(r))?;
    let shard = open.store.shards().get(at).cloned();
    let shard = shard.ok_or_else(|| {
        err!(BadArguments, "{target} has no shard {at} any more; DROP the task and create it again")
    })?;
    let n = record.rows.num_rows() as u64;
    let mut bytes = vec![VERSION];
    bytes.extend(at_us.to_le_bytes());
    bytes.extend(record.number.to_le_bytes());
    bytes.extend(record.of.to_le_bytes());
    let progress = Progress { writer: *job.id.as_bytes(), bytes: bytes.into() };
    shard.append_as(record.rows, progress, Ack::Durable).await.map_err(Error::from)?;
    Ok(n)
}
