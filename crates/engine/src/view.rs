//! Materialized views: queries nobody has to watch.
//!
//! ```text
//! catalog: what a view is -> Views: a driver each -> machine (pure): start, stop, wait, remove
//!   driver -> run: query of the view, restored from its checkpoint -> sink: target, exactly once
//! ```
//!
//! A view that cannot run says why in `system.materialized_views` and stops no other. An alert is one whose rows
//! are called out (`alert`); a task runs now and then (`task`).
//!
//! Not here: statements (`ddl`), operators and what is in a checkpoint (`dataflow`).

mod alert;
mod bad_rows;
mod dlq;
pub(crate) mod files;
mod held;
mod machine;
mod outside;
mod remote;
mod route;
mod run;
mod select;
mod sink;
mod spec;
mod status;
pub(crate) mod task;

pub use alert::WebHook;
pub(crate) use alert::{BATCH_ROWS_MAX, Calls};
pub(crate) use run::bind;
pub(crate) use spec::{Output, ViewSpec};
pub(crate) use status::{ViewEvent, ViewInfo};
pub(crate) use task::{TaskInfo, check as check_task, forget as forget_task};

use crate::engine::Shared;
use crate::query::QueryRegistry;
use crate::settings::LogWriter;
use bad_rows::{BadRows, OnError, Verdict};
use files::CHECKPOINTS_DIR;
use futures::FutureExt;
use machine::{Action, Event, Failure, Machine, State};
use parking_lot::Mutex;
use run::RunningView;
use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use task::Task;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
use weir_base::{Error, Result, err};
use weir_catalog::{Relation, RelationName};
use weir_plan::{CheckpointStatus, RowsAt};
use weir_storage::LogPin;

/// Requests to a view that wait; who asks beyond waits to ask.
const REQUESTS_MAX: usize = 16;
/// How long the last checkpoint of a stop may take.
const LAST_CHECKPOINT_WAIT: Duration = Duration::from_millis(2_500);
/// How long a wait for the clock goes on without looking at it.
const CLOCK_LOOK: Duration = Duration::from_millis(100);

/// Whether bytes are the position of a view in its target.
pub(crate) fn is_position(bytes: &[u8]) -> bool {
    sink::Reached::decode(bytes).is_some()
}

/// Reads what is kept of rows that a view leaves out, beside the directory of its checkpoints. Blocks.
pub(crate) fn check_skipped(disk: &dyn weir_base::Disk, dir: &str) -> std::io::Result<()> {
    let (parent, id) = (weir_base::disk::parent(dir), dir.rsplit('/').next().unwrap_or(dir));
    BadRows::load(disk, parent, id).map(|_| ())
}

/// What a view is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steer {
    Pause,
    Resume,
    Recover,
    Checkpoint,
    Sync,
    Drain,
    Drop,
}

type Request = (Steer, oneshot::Sender<Result<()>>);

/// A view from outside.
pub(crate) struct View {
    pub spec: Mutex<ViewSpec>,
    requests: mpsc::Sender<Request>,
    shown: Mutex<status::Shown>,
    /// Of an alert.
    pub calls: Arc<Calls>,
}

/// All views of a process.
#[derive(Default)]
pub(crate) struct Views {
    all: Mutex<HashMap<Uuid, Arc<View>>>,
    tasks: Mutex<HashMap<Uuid, Arc<Task>>>,
    log: status::ViewLog,
}

impl Views {
    /// Drives every view there is. Returns at once: a view that cannot run says so itself.
    pub fn open_all(&self, shared: &Arc<Shared>) {
        if let Err(e) = shared.world.disk.remove_dir_all(held::DIR) {
            tracing::warn!(dir = held::DIR, error = %e, "could not remove what views of a killed process left");
        }
        for relation in shared.catalog.snapshot().relations() {
            if let Some(spec) = ViewSpec::of(relation) {
                self.drive(shared, spec, None);
            }
        }
        for job in shared.catalog.snapshot().jobs() {
            match ViewSpec::of_alert(job) {
                Some(spec) => self.drive(shared, spec, None),
                None => self.schedule(shared, job.clone()),
            }
        }
        self.remove_strays(shared);
        let strays = stray_positions(shared);
        if !strays.is_empty() {
            shared.spawn(async move {
                for (shard, writer) in strays {
                    if let Err(e) = shard.forget_progress(writer).await {
                        tracing::debug!(error = %e, "a position of a dropped view stays until the next start");
                    }
                }
            });
        }
    }

    /// Checkpoints of views, and runs of tasks, that are gone: a stop came between.
    fn remove_strays(&self, shared: &Arc<Shared>) {
        let mut known: HashSet<String> = self.all.lock().keys().map(Uuid::to_string).collect();
        known.extend(self.tasks.lock().keys().map(Uuid::to_string));
        let disk = shared.world.disk.clone();
        let Ok(entries) = disk.list(files::CHECKPOINTS_DIR) else { return };
        let id = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
        for entry in entries.into_iter().filter(|e| !known.contains(&id(&e.name))) {
            let removed = if entry.is_dir {
                disk.remove_dir_all(&format!("{CHECKPOINTS_DIR}/{}", entry.name))
            } else {
                disk.remove_file(&format!("{CHECKPOINTS_DIR}/{}", entry.name))
            };
            if let Err(e) = removed {
                tracing::warn!(id = entry.name, error = %e, "could not remove checkpoints of a view that is gone");
            }
        }
    }

    /// Begins a view that was just created; returns once it runs, or with why it does not.
    pub async fn created(&self, shared: &Arc<Shared>, relation: &Relation) -> Result<()> {
        let spec = ViewSpec::of(relation)
            .ok_or_else(|| err!(LogicalError, "{} is no materialized view", relation.full_name()))?;
        self.begun(shared, spec).await
    }

    /// As [`Views::created`], of what a view or an alert is.
    pub async fn begun(&self, shared: &Arc<Shared>, spec: ViewSpec) -> Result<()> {
        let (began, begun) = oneshot::channel();
        self.drive(shared, spec, Some(began));
        begun.await.unwrap_or_else(|_| Err(err!(QueryWasCancelled, "the server is shutting down")))
    }

    /// Whether a view's query can run and fits its target, before the view is there.
    pub fn check(&self, shared: &Arc<Shared>, spec: &ViewSpec) -> Result<()> {
        run::plan(shared, spec).map(|_| ())
    }

    /// Whether a view's checkpoint can go on as the query that `spec` says.
    pub async fn fits(&self, shared: &Arc<Shared>, spec: &ViewSpec) -> Result<()> {
        let plan = run::plan(shared, spec)?.plan;
        shared.runtime.check(&plan, shared.checkpoints.of(&spec.id.to_string())).await.map_err(Error::from)
    }

    /// Whether a view runs, or will by itself.
    pub fn is_active(&self, id: Uuid) -> bool {
        self.all.lock().get(&id).is_some_and(|v| v.shown.lock().goes_on())
    }

    fn drive(&self, shared: &Arc<Shared>, spec: ViewSpec, began: Option<oneshot::Sender<Result<()>>>) {
        let (requests, asked) = mpsc::channel(REQUESTS_MAX);
        let id = spec.id;
        let view = Arc::new(View {
            spec: Mutex::new(spec),
            requests,
            shown: Mutex::default(),
            calls: Arc::default(),
        });
        self.all.lock().insert(id, view.clone());
        let driver = Driver {
            shared: shared.clone(),
            view,
            machine: Machine::new(),
            asked,
            running: None,
            pins: Vec::new(),
            began,
            changed_at: 0,
            settled: false,
            bad_rows: BadRows::default(),
        };
        shared.spawn(driver.run());
    }

    fn get(&self, id: Uuid) -> Result<Arc<View>> {
        self.all.lock().get(&id).cloned().ok_or_else(|| err!(UnknownStream, "the view was dropped"))
    }

    /// Asks a view for something, and waits for it.
    ///
    /// # Errors
    /// Code 36 where its state does not allow it; its own error.
    pub async fn steer(&self, queries: &QueryRegistry, id: Uuid, what: Steer) -> Result<()> {
        let view = self.get(id)?;
        if let Steer::Sync | Steer::Drain = what {
            return view.wait_for_rows(queries, what).await;
        }
        let (answer, answered) = oneshot::channel();
        let gone = || err!(QueryWasCancelled, "the server is shutting down");
        view.requests.send((what, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Ends a view whose catalog entry is gone, and removes what was kept for it.
    pub async fn dropped(&self, queries: &QueryRegistry, id: Uuid) -> Result<()> {
        let ended = self.steer(queries, id, Steer::Drop).await;
        self.all.lock().remove(&id);
        ended
    }

    /// Asks a task for something.
    pub async fn steer_task(&self, id: Uuid, what: Steer) -> Result<()> {
        let task = self.tasks.lock().get(&id).cloned();
        task.ok_or_else(|| err!(UnknownStream, "the task was dropped"))?.ask(what).await
    }

    /// Ends a task whose catalog entry is gone; what it is writing is waited for.
    pub async fn task_dropped(&self, id: Uuid) {
        let task = self.tasks.lock().remove(&id);
        if let Some(task) = task {
            // It may have ended with the server.
            let _ = task.ask(Steer::Drop).await;
        }
    }

    /// Every task, by name.
    pub fn list_tasks(&self) -> Vec<TaskInfo> {
        let all: Vec<_> = self.tasks.lock().values().cloned().collect();
        let mut all: Vec<_> = all.iter().filter_map(|t| t.info()).collect();
        all.sort_by(|a, b| (&a.job.database, &a.job.name).cmp(&(&b.job.database, &b.job.name)));
        all
    }

    /// Takes another query or other settings; the view must not run.
    pub fn changed(&self, relation: &Relation) -> Result<()> {
        let spec = ViewSpec::of(relation)
            .ok_or_else(|| err!(LogicalError, "{} is no materialized view", relation.full_name()))?;
        let view = self.get(spec.id)?;
        *view.spec.lock() = spec;
        Ok(())
    }

    /// Every view with its state, by name.
    pub fn list(&self, shared: &Shared) -> Vec<ViewInfo> {
        self.list_of(shared, |output| matches!(output, Output::Stream(_)))
    }

    /// Every alert with its state, by name.
    pub fn list_alerts(&self, shared: &Shared) -> Vec<ViewInfo> {
        self.list_of(shared, |output| matches!(output, Output::Alert(_)))
    }

    fn list_of(&self, shared: &Shared, which: fn(&Output) -> bool) -> Vec<ViewInfo> {
        let all: Vec<_> =
            self.all.lock().values().filter(|v| which(&v.spec.lock().output)).cloned().collect();
        let mut all: Vec<_> = all.iter().map(|v| v.info(shared)).collect();
        all.sort_by(|a, b| (&a.database, &a.name).cmp(&(&b.database, &b.name)));
        all
    }

    /// What happened to views, the oldest first.
    pub fn events(&self) -> Vec<ViewEvent> {
        self.log.all()
    }
}

/// Positions of views that are gone, in the targets they wrote to: a stop came between. Found before anybody
/// can create another view.
fn stray_positions(shared: &Shared) -> Vec<(Arc<weir_storage::Shard>, [u8; 16])> {
    let snapshot = shared.catalog.snapshot();
    let views = snapshot.relations().filter_map(|r| Some(ViewSpec::of(r)?.writer()));
    let known: Vec<[u8; 16]> = views.chain(snapshot.jobs().map(|j| *j.id.as_bytes())).collect();
    let open = snapshot.relations().filter_map(|r| shared.streams.get(r).ok());
    let shards = open.flat_map(|open| open.store.shards().to_vec());
    shards
        .flat_map(|shard| shard.writers().into_iter().map(move |writer| (shard.clone(), writer)))
        // Those of others are not ours to forget.
        .filter(|(_, writer)| !known.contains(writer) && !LogWriter::is_remote(writer))
        .collect()
}

impl View {
    /// Returns when all that was durable at the call has been taken in and what it became is durable; to
    /// drain ends the query then.
    async fn wait_for_rows(&self, queries: &QueryRegistry, what: Steer) -> Result<()> {
        let (name, id) = {
            let spec = self.spec.lock();
            (spec.what(), spec.query_id())
        };
        {
            let shown = self.shown.lock();
            if !shown.is_running() {
                let why = shown.error().map(|e| format!(": {}", e.message)).unwrap_or_default();
                return Err(err!(
                    BadArguments,
                    "{name} takes no rows in, it is in state {}{why}",
                    shown.name_of_state()
                ));
            }
        }
        match what {
            Steer::Drain => queries.drain(&id).await,
            _ => queries.sync(&id).await,
        }
    }
}

/// Carries out what a view's machine says.
struct Driver {
    shared: Arc<Shared>,
    view: Arc<View>,
    machine: Machine,
    asked: mpsc::Receiver<Request>,
    running: Option<RunningView>,
    /// Log rows that checkpoints which are kept still need.
    pins: Vec<LogPin>,
    /// Who waits for the first start.
    began: Option<oneshot::Sender<Result<()>>>,
    /// Rows taken in when the last checkpoint was made.
    changed_at: u64,
    /// Every epoch that is kept is of after the last change.
    settled: bool,
    bad_rows: BadRows,
}

/// What the driver waited for.
enum Came {
    Request(Request),
    /// The query has ended.
    Ended(Result<()>),
    CheckpointDue,
    BackoffDue,
    /// The server stops.
    Stopping,
}

impl Driver {
    async fn run(mut self) {
        if let Err(e) = self.load_bad_rows().await {
            let e = self.failed(err!(CorruptedData, "rows that the view leaves out could not be read: {e}"));
            self.take(Event::Start { restores: true }).await;
            self.take(e).await;
        } else {
            self.begin().await;
        }
        self.serve().await;
    }

    async fn load_bad_rows(&mut self) -> std::io::Result<()> {
        let (disk, id) = (self.shared.world.disk.clone(), self.spec().id.to_string());
        let load = move || BadRows::load(&*disk, CHECKPOINTS_DIR, &id);
        self.bad_rows = tokio::task::spawn_blocking(load).await.map_err(std::io::Error::other)??;
        Ok(())
    }

    async fn save_bad_rows(&mut self) -> Result<()> {
        let (disk, id) = (self.shared.world.disk.clone(), self.spec().id.to_string());
        let rows = std::mem::take(&mut self.bad_rows);
        let save = move || (rows.save(&*disk, CHECKPOINTS_DIR, &id), rows);
        let (saved, rows) = tokio::task::spawn_blocking(save)
            .await
            .map_err(|e| err!(LogicalError, "noting a row that is left out stopped on a bug: {e}"))?;
        self.bad_rows = rows;
        saved.map_err(|e| err!(CannotWriteFile, "a row that is left out could not be noted: {e}"))
    }

    async fn begin(&mut self) {
        let waits = self.spec().waits();
        let first = if waits { Event::Pause } else { Event::Start { restores: self.restores().await } };
        self.take(first).await;
        if let Some(began) = self.began.take() {
            // It waits for RESUME.
            let _ = began.send(Ok(()));
        }
    }

    async fn serve(&mut self) {
        loop {
            match self.next().await {
                Came::Stopping => {
                    self.stop(true).await;
                    return;
                }
                Came::Request((Steer::Drop, answer)) => {
                    self.take(Event::Drop).await;
                    let _ = answer.send(Ok(()));
                    return;
                }
                Came::Request((what, answer)) => {
                    // Who asked may have left.
                    let _ = answer.send(self.steer(what).await);
                }
                Came::Ended(Ok(())) => self.take(Event::Finished).await,
                Came::Ended(Err(e)) => self.fail(e).await,
                Came::CheckpointDue => self.checkpoint_if_changed().await,
                Came::BackoffDue => {
                    let restores = self.restores().await;
                    self.take(Event::Due { restores }).await;
                }
            }
        }
    }

    fn spec(&self) -> ViewSpec {
        self.view.spec.lock().clone()
    }

    fn now_us(&self) -> i64 {
        self.shared.world.clock.now_us()
    }

    /// Whether there is a checkpoint to go on from.
    async fn restores(&self) -> bool {
        let dir = self.shared.checkpoints.of(&self.spec().id.to_string());
        tokio::task::spawn_blocking(move || dir.list().is_ok_and(|files| !files.is_empty()))
            .await
            .unwrap_or(false)
    }

    async fn next(&mut self) -> Came {
        let (running, backoff) = (self.running.as_ref().map(|r| r.running.clone()), self.machine.state());
        let (clock, interval) = (self.shared.world.clock.clone(), self.spec().checkpoint_interval());
        let killed = self.running.as_ref().map(|r| (r.entry.killed.clone(), r.unwritten()));
        let stopping = self.shared.stopping();
        let ended = async {
            match (running, killed) {
                (Some(running), Some((killed, unwritten))) => tokio::select! {
                    ended = running.join() => ended.map_err(Error::from),
                    e = unwritten => Err(e),
                    () = killed.cancelled() => Err(err!(QueryWasCancelled, "its query was killed; SYSTEM PAUSE stops it")),
                },
                _ => std::future::pending().await,
            }
        };
        let backoff = async {
            match backoff {
                State::Backoff(until_us) => loop {
                    let wait = until_us.saturating_sub(clock.now_us());
                    if wait <= 0 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_micros(wait as u64).min(CLOCK_LOOK)).await;
                },
                _ => std::future::pending().await,
            }
        };
        let checkpoint = async {
            match self.machine.state() {
                State::Running => tokio::time::sleep(interval).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => Came::Stopping,
            request = self.asked.recv() => match request {
                Some(request) => Came::Request(request),
                None => Came::Stopping,
            },
            ended = ended => Came::Ended(ended),
            () = backoff => Came::BackoffDue,
            () = checkpoint => Came::CheckpointDue,
        }
    }

    /// Moves the machine on and does what it says, until there is something to wait for.
    async fn take(&mut self, event: Event) {
        let mut event = Some(event);
        while let Some(e) = event.take() {
            let before = self.machine.state();
            let Some(action) = self.machine.on(e) else { return };
            let after = self.machine.state();
            if before != after {
                self.note(after.name(), "");
            }
            match action {
                Action::Wait | Action::WaitUntil(_) => {}
                Action::Stop => self.stop(true).await,
                Action::Remove => self.remove().await,
                Action::Start => event = Some(self.start().await),
            }
        }
    }

    /// Starts the query; gives what came of it.
    async fn start(&mut self) -> Event {
        let spec = self.spec();
        // A bug in one view's start is that view's failure.
        let started = AssertUnwindSafe(run::start(&self.shared, &spec, &self.bad_rows, &self.view.calls))
            .catch_unwind()
            .await;
        let started =
            started.unwrap_or_else(|_| Err(err!(LogicalError, "the view stopped on a bug while it started")));
        match started {
            Ok(running) => {
                let passed_over = running.running.checkpoints().and_then(|c| c.passed_over);
                for warning in running.warnings.iter().chain(&passed_over) {
                    self.note("Warning", warning);
                }
                self.view.shown.lock().started(running.entry.clone(), running.running.clone());
                (self.changed_at, self.settled) = (0, false);
                self.running = Some(running);
                self.pin();
                if let Some(began) = self.began.take() {
                    let _ = began.send(Ok(()));
                }
                Event::Started { now_us: self.now_us() }
            }
            Err(e) => self.failed(e),
        }
    }

    /// Notes an error; gives the event it is.
    fn failed(&mut self, e: Error) -> Event {
        let how = Failure::of(e.code);
        self.note("Failed", &e.to_string());
        self.view.shown.lock().failed(&e, self.now_us());
        if let Some(began) = self.began.take() {
            let _ = began.send(Err(e));
        }
        Event::Failed { how, now_us: self.now_us() }
    }

    async fn fail(&mut self, e: Error) {
        let mut at = None;
        if let Some(mut running) = self.running.take() {
            running.end(Some(&e));
            running.gone().await;
            let rows = running.running.failed_at();
            let name =
                |node| running.sources.iter().find(|(id, _)| *id == node).map(|(_, name)| name.clone());
            at = rows.and_then(|rows| Some((name(rows.node)?, rows)));
        }
        let event = match self.judge(e.clone(), at).await {
            Ok(event) => event,
            Err(e) => self.failed(e),
        };
        self.take(event).await;
    }

    /// What a failure of the query comes to.
    async fn judge(&mut self, e: Error, at: Option<(RelationName, RowsAt)>) -> Result<Event> {
        let spec = self.spec();
        let (on_error, after) = (OnError::of(&spec.settings), spec.best_effort_after());
        match self.bad_rows.judge(e.code, at, on_error, after) {
            Verdict::NotARow => Ok(self.failed(e)),
            Verdict::LookCloser => {
                self.note("LookCloser", &e.message);
                Ok(Event::Again)
            }
            Verdict::Stop(row) => {
                let message = format!(
                    "row {} of {} shard {}: {}; {}, then SYSTEM RECOVER {} {}",
                    row.sn,
                    row.stream,
                    row.shard,
                    e.message,
                    match spec.output {
                        Output::Stream(_) => format!(
                            "mend the query, or ALTER VIEW {} MODIFY QUERY SETTING on_error='skip' (or 'dlq')",
                            spec.name
                        ),
                        Output::Alert(_) =>
                            "mend what it reads, or create it with on_error='skip' (or 'dlq')".into(),
                    },
                    spec.object(),
                    spec.name
                );
                self.view.shown.lock().bad_row(Some((row.shard, row.sn.0)));
                self.bad_rows.forget_place();
                Ok(self.failed(Error { message, ..e }))
            }
            Verdict::LeaveOut(row) => {
                if on_error == OnError::Dlq {
                    dlq::ensure(&self.shared, &spec).await?;
                    dlq::write(&self.shared, &spec, &row, &e).await?;
                }
                self.save_bad_rows().await?;
                self.bad_rows.forget_place();
                self.view.shown.lock().skipped(self.bad_rows.count());
                self.note(
                    "RowSkipped",
                    &format!("{} shard {} row {}: {}", row.stream, row.shard, row.sn, e.message),
                );
                Ok(Event::Again)
            }
        }
    }

    /// Ends the query, after a last checkpoint where that is possible soon.
    async fn stop(&mut self, checkpoint: bool) {
        let Some(mut running) = self.running.take() else { return };
        if checkpoint {
            let last = tokio::time::timeout(LAST_CHECKPOINT_WAIT, running.running.checkpoint()).await;
            match last {
                Ok(Ok(_)) => self.view.shown.lock().checkpointed(running.running.checkpoints()),
                Ok(Err(e)) => self.note("Warning", &format!("no last checkpoint: {}", e.message)),
                Err(_) => self
                    .note("Warning", "no last checkpoint: it takes too long; rows are worked through again"),
            }
        }
        running.end(None);
        running.gone().await;
    }

    async fn remove(&mut self) {
        self.stop(false).await;
        self.pins.clear();
        let spec = self.spec();
        if let Ok(open) = self.target(&spec) {
            for shard in open.store.shards() {
                if let Err(e) = shard.forget_progress(spec.writer()).await {
                    tracing::debug!(view = %spec.name, error = %e, "the positions of a dropped view stay");
                }
            }
        }
        let (shared, id) = (self.shared.clone(), spec.id.to_string());
        let remove = move || {
            BadRows::remove(&*shared.world.disk, CHECKPOINTS_DIR, &id)
                .and_then(|()| shared.checkpoints.remove(&id))
        };
        let removed = tokio::task::spawn_blocking(remove).await;
        if let Ok(Err(e)) = removed {
            tracing::warn!(view = %spec.name, error = %e, "could not remove checkpoints; the next start will");
        }
    }

    fn target(&self, spec: &ViewSpec) -> Result<Arc<crate::streams::OpenStream>> {
        let Output::Stream(target) = &spec.output else {
            return Err(err!(BadArguments, "an alert writes to no stream"));
        };
        let snapshot = self.shared.catalog.snapshot();
        self.shared.streams.get(snapshot.expect_relation(&target.database, &target.name)?)
    }

    async fn steer(&mut self, what: Steer) -> Result<()> {
        let (name, object) = (self.spec().what(), self.spec().object());
        let state = self.machine.state();
        let refuse = |verb: &str, remedy: &str| {
            Err(err!(BadArguments, "{name} is in state {}: it can not be {verb}{remedy}", state.name()))
        };
        match what {
            Steer::Pause if state == State::Paused => Ok(()),
            Steer::Pause => {
                self.take(Event::Pause).await;
                Ok(())
            }
            Steer::Resume if state == State::Running => Ok(()),
            Steer::Resume if state == State::Error => refuse(
                "resumed",
                &format!("; SYSTEM RECOVER {object} starts it again once the reason is gone"),
            ),
            Steer::Resume => {
                let restores = self.restores().await;
                self.take(Event::Resume { restores }).await;
                self.outcome()
            }
            Steer::Recover if state == State::Running => Ok(()),
            Steer::Recover if state == State::Paused => {
                refuse("recovered", &format!("; SYSTEM RESUME {object} goes on"))
            }
            Steer::Recover => {
                let restores = self.restores().await;
                self.take(Event::Recover { restores }).await;
                self.outcome()
            }
            Steer::Checkpoint => match &self.running {
                Some(running) => {
                    let running = running.running.clone();
                    running.checkpoint().await.map_err(Error::from)?;
                    self.checkpointed();
                    Ok(())
                }
                None => refuse("checkpointed", ""),
            },
            // These are not the driver's: it goes on meanwhile.
            Steer::Sync | Steer::Drain | Steer::Drop => Ok(()),
        }
    }

    /// Of a start that was asked for.
    fn outcome(&self) -> Result<()> {
        match self.machine.state() {
            State::Running => Ok(()),
            _ => Err(self
                .view
                .shown
                .lock()
                .error()
                .unwrap_or_else(|| err!(LogicalError, "the view did not start"))),
        }
    }

    async fn checkpoint_if_changed(&mut self) {
        let Some(running) = &self.running else { return };
        let rows: u64 = running
            .running
            .counters()
            .iter()
            .map(|(_, _, c)| c.rows_in.load(std::sync::atomic::Ordering::Relaxed))
            .sum();
        // Once more after the last change: the epoch before is kept as well, and holds the log.
        if rows == self.changed_at && self.settled {
            return;
        }
        match running.running.clone().checkpoint().await {
            Ok(_) => {
                self.settled = rows == self.changed_at;
                self.changed_at = rows;
                self.checkpointed();
            }
            // The query goes on, and what it needs stays pinned; the next one may go well.
            Err(e) => self.note("CheckpointFailed", &e.message),
        }
    }

    fn checkpointed(&mut self) {
        if let Some(running) = &self.running {
            self.view.shown.lock().checkpointed(running.running.checkpoints());
        }
        self.pin();
    }

    /// Keeps the log from where the newest checkpoint stands.
    fn pin(&mut self) {
        let Some(running) = &self.running else { return };
        let Some(CheckpointStatus { needs, .. }) = running.running.checkpoints() else { return };
        let snapshot = self.shared.catalog.snapshot();
        let mut pins = Vec::new();
        for (node, position) in &needs {
            let Some((_, name)) = running.sources.iter().find(|(id, _)| id == node) else { continue };
            let Some(relation) = snapshot.relation(&name.database, &name.name) else { continue };
            let Ok(relation) = snapshot.rows_of(relation) else { continue };
            let Ok(open) = self.shared.streams.get(relation) else { continue };
            for (shard, next) in open.store.shards().iter().zip(&position.next) {
                // Of what is gone from the log already, parts have the rows.
                pins.extend(shard.pin_log(*next).ok());
            }
        }
        self.pins = pins;
    }

    fn note(&self, event: &str, detail: &str) {
        let spec = self.view.spec.lock();
        self.view.shown.lock().state(self.machine.state(), self.machine.failures());
        self.shared.views.log.add(self.now_us(), &spec.name, event, detail);
        if event == "Failed" {
            tracing::warn!(view = %spec.name, error = detail, "a view failed");
        }
    }
}
