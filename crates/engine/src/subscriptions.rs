//! Queries without end that keep checkpoints under their id: `SUBSCRIBE TO`, `RECOVER FROM`, `UNSUBSCRIBE TO`.
//!
//! ```text
//! SUBSCRIBE TO -> about.json -> query with checkpoints -> rows to its client
//!   every interval: barrier -> the client took what was sent before -> epoch durable -> log pinned for it
//! RECOVER FROM -> about.json -> the same query, restored -> rows past the checkpoint
//! ```
//!
//! Invariants
//! - an epoch counts only once the client has taken every row that was sent before it: what is sent again after
//!   `RECOVER FROM` may have been there before, and nothing is left out;
//! - what nobody goes on with for [`UNUSED_MAX`] is let go, and the log with it.
//!
//! Not here: running a query (`query`), what is in a checkpoint (`dataflow`).

mod about;

use crate::engine::{Shared, Statement};
use crate::execute::{context_of, run_streaming};
use crate::query::{QueryEntry, StreamingQuery};
use crate::session::Session;
use crate::view::files::CheckpointDir;
use about::{About, Need};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use uuid::Uuid;
use weir_base::error::did_you_mean;
use weir_base::{Code, Error, Result, err};
use weir_catalog::RelationName;
use weir_plan::{CheckpointStore, Lasting, NodeId, ReplayOrder, Running};
use weir_sql::ast::{Parsed, Statement as Ast};
use weir_sql::bind::{BindOptions, BoundQuery};
use weir_sql::parse;
use weir_storage::LogPin;

/// Below the data directory; one directory a query.
const DIR: &str = "subscriptions";
const SUBSCRIPTIONS_MAX: usize = 1_000;
const CHECKPOINT_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// What nobody goes on with for so long goes.
const UNUSED_MAX: Duration = Duration::from_secs(7 * 86_400);
/// A query that runs says at least so often that it is used.
const USED_EVERY: Duration = Duration::from_secs(86_400);
/// How long the end of a query that is removed is waited for.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How often unused ones are looked for.
const UNUSED_LOOK: Duration = Duration::from_secs(60);

/// All of a process, by the id of their query.
#[derive(Default)]
pub(crate) struct Subscriptions {
    all: Mutex<BTreeMap<String, Arc<Subscription>>>,
}

struct Subscription {
    id: Uuid,
    about: Mutex<About>,
    /// Log rows that its checkpoints still need.
    pins: Mutex<Vec<LogPin>>,
    /// Held by who runs it.
    run: Mutex<Run>,
}

#[derive(Default)]
enum Run {
    #[default]
    Stopped,
    Starting,
    Running(Weak<dyn Running>),
    /// It is being removed.
    Gone,
}

/// A row of `system.subscriptions`.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionInfo {
    pub about: About,
    pub state: &'static str,
}

fn dir_of(id: Uuid) -> String {
    format!("{DIR}/{id}")
}

fn io_failed(e: &std::io::Error) -> Error {
    let code = match e.kind() {
        std::io::ErrorKind::StorageFull => Code::NotEnoughSpace,
        _ => Code::CannotWriteFile,
    };
    Error::new(code, format!("the query could not be noted for RECOVER FROM: {e}"))
}

/// Directories of checkpoints, and of which query each is. Blocks.
///
/// # Errors
/// What is kept of one that can not be read.
pub(crate) fn stored(disk: &dyn weir_base::Disk) -> std::io::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for entry in disk.list(DIR).unwrap_or_default().into_iter().filter(|e| e.is_dir) {
        let dir = format!("{DIR}/{}", entry.name);
        if let Some(about) = About::load(disk, &dir)? {
            all.push((dir, format!("query {}", about.query_id)));
        }
    }
    Ok(all)
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(f).await;
    done.map_err(|e| err!(LogicalError, "noting a query stopped on a bug: {e}"))?.map_err(|e| io_failed(&e))
}

impl Subscriptions {
    /// Finds those there are, pins the log for them, and begins to look for those that nobody uses. Blocks.
    pub fn open_all(&self, shared: &Arc<Shared>) {
        let disk = &shared.world.disk;
        for entry in disk.list(DIR).unwrap_or_default().into_iter().filter(|e| e.is_dir) {
            let Ok(id) = Uuid::parse_str(&entry.name) else { continue };
            match About::load(&**disk, &dir_of(id)) {
                Ok(Some(about)) if about.epoch > 0 => {
                    let subscription = Arc::new(Subscription::new(id, about));
                    subscription.pin(shared);
                    let query_id = subscription.about.lock().query_id.clone();
                    self.all.lock().insert(query_id, subscription);
                }
                // Its client never heard of it, or of its end.
                Ok(_) => {
                    if let Err(e) = disk.remove_dir_all(&dir_of(id)) {
                        tracing::warn!(%id, error = %e, "could not remove a query that was not subscribed to");
                    }
                }
                Err(e) => tracing::warn!(%id, error = %e, "a subscription can not be read; its files stay"),
            }
        }
        let looks = shared.clone();
        shared.spawn(async move {
            let stopping = looks.stopping();
            loop {
                looks.subscriptions.remove_unused(&looks).await;
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(UNUSED_LOOK) => {}
                }
            }
        });
    }

    async fn remove_unused(&self, shared: &Arc<Shared>) {
        let oldest_us = shared.world.clock.now_us().saturating_sub(UNUSED_MAX.as_micros() as i64);
        let all: Vec<_> = self.all.lock().values().cloned().collect();
        for unused in all.into_iter().filter(|s| s.about.lock().used_us < oldest_us) {
            if !unused.claim(|run| matches!(run, Run::Stopped), Run::Gone) {
                continue;
            }
            let query_id = unused.about.lock().query_id.clone();
            tracing::warn!(
                query_id,
                "nobody went on with this query for a week; its checkpoints are removed"
            );
            if let Err(e) = self.remove(shared, &unused).await {
                tracing::warn!(query_id, error = %e, "could not remove its checkpoints");
            }
        }
    }

    /// The subscription first, then its files: what a stop leaves is found to be of nobody.
    async fn remove(&self, shared: &Arc<Shared>, of: &Subscription) -> Result<()> {
        let (disk, dir) = (shared.world.disk.clone(), dir_of(of.id));
        let removed =
            blocking(move || About::remove(&*disk, &dir).and_then(|()| disk.remove_dir_all(&dir))).await;
        of.pins.lock().clear();
        let query_id = of.about.lock().query_id.clone();
        let mut all = self.all.lock();
        if all.get(&query_id).is_some_and(|s| s.id == of.id) {
            all.remove(&query_id);
        }
        removed
    }

    fn get(&self, query_id: &str) -> Result<Arc<Subscription>> {
        let all = self.all.lock();
        all.get(query_id).cloned().ok_or_else(|| {
            let hint = did_you_mean(query_id, all.keys().map(String::as_str));
            err!(
                BadArguments,
                "there are no checkpoints of a query {query_id}{hint}; SUBSCRIBE TO SELECT … keeps some under its \
                 query id (system.subscriptions)"
            )
        })
    }

    pub fn list(&self) -> Vec<SubscriptionInfo> {
        let all: Vec<_> = self.all.lock().values().cloned().collect();
        all.iter().map(|s| s.info()).collect()
    }

    /// `SYSTEM CHECKPOINT QUERY`.
    ///
    /// # Errors
    /// Code 36 where it does not run; what writing it down says.
    pub async fn checkpoint(&self, shared: &Arc<Shared>, query_id: &str) -> Result<()> {
        let subscription = self.get(query_id)?;
        let running = match &*subscription.run.lock() {
            Run::Running(running) => running.upgrade(),
            _ => None,
        };
        let Some(running) = running else {
            return Err(err!(
                BadArguments,
                "query {query_id} does not run; RECOVER FROM '{query_id}' goes on with it"
            ));
        };
        running.checkpoint().await.map_err(Error::from)?;
        subscription.checkpointed(shared, &*running).await
    }

    /// `UNSUBSCRIBE TO`: ends the query if it runs, and removes what is kept of it.
    ///
    /// # Errors
    /// Code 36 for an id that is not subscribed to.
    pub async fn unsubscribe(&self, shared: &Arc<Shared>, query_id: &str) -> Result<()> {
        let subscription = self.get(query_id)?;
        let before = std::mem::replace(&mut *subscription.run.lock(), Run::Gone);
        if let Run::Running(running) = before
            && let Some(running) = running.upgrade()
        {
            // A client that does not read never hears that its query was killed.
            running.cancel();
        }
        if let Some(killed) = shared.queries.kill(query_id) {
            // What a checkpoint on its way leaves behind is of nobody, and goes at the next start.
            let _ = tokio::time::timeout(KILL_WAIT, shared.queries.gone(&[killed])).await;
        }
        self.remove(shared, &subscription).await
    }
}

impl Subscription {
    fn new(id: Uuid, about: About) -> Self {
        Subscription { id, about: Mutex::new(about), pins: Mutex::default(), run: Mutex::default() }
    }

    fn info(&self) -> SubscriptionInfo {
        let state = match &*self.run.lock() {
            Run::Stopped | Run::Gone => "Stopped",
            Run::Starting => "Starting",
            Run::Running(_) => "Running",
        };
        SubscriptionInfo { about: self.about.lock().clone(), state }
    }

    /// Takes it over where it is as wanted.
    fn claim(&self, wanted: impl Fn(&Run) -> bool, next: Run) -> bool {
        let mut run = self.run.lock();
        let is = wanted(&run);
        if is {
            *run = next;
        }
        is
    }

    fn stopped(&self) {
        self.claim(|run| !matches!(run, Run::Gone), Run::Stopped);
    }

    fn pin(&self, shared: &Shared) {
        let needs = self.about.lock().needs.clone();
        let snapshot = shared.catalog.snapshot();
        let mut pins = Vec::new();
        for need in &needs {
            let Some(relation) = snapshot.relation(&need.stream.database, &need.stream.name) else {
                continue;
            };
            let Some(open) = shared.streams.get(relation).ok().filter(|_| relation.id == need.id) else {
                continue;
            };
            // Of what is gone from the log already, parts have the rows.
            pins.extend(
                open.store.shards().iter().zip(&need.next).filter_map(|(s, next)| s.pin_log(*next).ok()),
            );
        }
        *self.pins.lock() = pins;
    }

    /// Notes what the checkpoints that are kept need.
    async fn checkpointed(&self, shared: &Arc<Shared>, running: &dyn Running) -> Result<()> {
        let Some(status) = running.checkpoints() else { return Ok(()) };
        let about = {
            let mut about = self.about.lock();
            about.epoch = status.epoch;
            about.bytes = status.bytes;
            about.at_us = status.at_us;
            about.used_us = shared.world.clock.now_us();
            for need in &mut about.needs {
                let found = status.needs.iter().find(|(node, _)| node.0 == need.node);
                need.next = found.map(|(_, at)| at.next.clone()).unwrap_or_default();
            }
            about.clone()
        };
        let (disk, dir) = (shared.world.disk.clone(), dir_of(self.id));
        blocking(move || about.save(&*disk, &dir)).await?;
        self.pin(shared);
        Ok(())
    }
}

/// `SUBSCRIBE TO`.
///
/// # Errors
/// Code 36 for an id that is taken; code 80 for a query that ends; what the query is refused with.
pub(crate) async fn subscribe(
    cx: &Statement,
    query: &sqlparser::ast::Query,
    text: &[u8],
) -> Result<(StreamingQuery, BoundSchema)> {
    let shared = &cx.shared;
    let about = About {
        query_id: cx.query_id.clone(),
        text: String::from_utf8_lossy(text).into_owned(),
        database: cx.session_database().to_owned(),
        settings: cx.session.settings.clone(),
        parameters: cx.session.parameters.clone(),
        created_us: shared.world.clock.now_us(),
        used_us: shared.world.clock.now_us(),
        ..About::default()
    };
    let subscription = Arc::new(Subscription::new(shared.new_id(), about));
    {
        let mut all = shared.subscriptions.all.lock();
        if all.contains_key(&cx.query_id) {
            return Err(err!(
                BadArguments,
                "query {0} has checkpoints already; RECOVER FROM '{0}' goes on with it, UNSUBSCRIBE TO '{0}' removes them",
                cx.query_id
            ));
        }
        if all.len() >= SUBSCRIPTIONS_MAX {
            return Err(err!(
                TooManyQueries,
                "{SUBSCRIPTIONS_MAX} queries keep checkpoints; UNSUBSCRIBE TO those that nobody goes on with \
                 (system.subscriptions)"
            ));
        }
        all.insert(cx.query_id.clone(), subscription.clone());
    }
    *subscription.run.lock() = Run::Starting;
    let mut claim =
        Claim { shared: shared.clone(), subscription: subscription.clone(), first: true, held: true };
    let started = start(cx, &subscription, query).await;
    claim.held = false;
    if started.is_err() {
        *subscription.run.lock() = Run::Gone;
        // Why it did not start is what its client hears.
        let _ = shared.subscriptions.remove(shared, &subscription).await;
    }
    started
}

/// While a query starts: its client may leave at any moment.
struct Claim {
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    /// Nothing is kept of it yet.
    first: bool,
    held: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        if !self.first {
            return self.subscription.stopped();
        }
        // Its files, if there are any, are of nobody.
        *self.subscription.run.lock() = Run::Gone;
        let query_id = self.subscription.about.lock().query_id.clone();
        let mut all = self.shared.subscriptions.all.lock();
        if all.get(&query_id).is_some_and(|s| s.id == self.subscription.id) {
            all.remove(&query_id);
        }
    }
}

/// `RECOVER FROM`.
///
/// # Errors
/// Code 36 for an id that is not there or runs; what the query is refused with now.
pub(crate) async fn recover(
    cx: &Statement,
    query_id: &str,
) -> Result<(Statement, StreamingQuery, BoundSchema)> {
    let subscription = cx.shared.subscriptions.get(query_id)?;
    let about = subscription.about.lock().clone();
    let mut statements = parse::parse(&about.text)?;
    let Some(Parsed { statement: Ast::Subscribe(query), settings, .. }) = statements.pop() else {
        return Err(err!(CorruptedData, "the text of query {query_id} is no SUBSCRIBE TO"));
    };
    let session = Session {
        database: about.database.clone(),
        settings: about.settings.clone(),
        parameters: about.parameters.clone(),
        ..cx.session.clone()
    };
    let again = context_of(cx, &session, &settings, query_id)?;
    if !subscription.claim(|run| matches!(run, Run::Stopped), Run::Starting) {
        return Err(err!(
            QueryIdInUse,
            "query {query_id} is running; KILL QUERY ends it and keeps its checkpoints"
        ));
    }
    let mut claim =
        Claim { shared: cx.shared.clone(), subscription: subscription.clone(), first: false, held: true };
    let started = start(&again, &subscription, &query).await;
    claim.held = false;
    match started {
        Ok((streaming, schema)) => Ok((again, streaming, schema)),
        Err(e) => {
            subscription.stopped();
            Err(e)
        }
    }
}

type BoundSchema = arrow::datatypes::SchemaRef;

/// Begins the query, or goes on with it.
async fn start(
    cx: &Statement,
    subscription: &Arc<Subscription>,
    query: &sqlparser::ast::Query,
) -> Result<(StreamingQuery, BoundSchema)> {
    let shared = &cx.shared;
    let state = cx.state()?;
    let scope = Arc::new(cx.scope());
    let created_us = subscription.about.lock().created_us;
    let options = BindOptions { now_us: created_us, ..cx.bind_options(false) };
    let bound = weir_sql::bind::bind_query(query, &*scope, &state, &options)?;
    check(&bound)?;
    let schema = bound.schema.clone();
    let entry = cx.register(true)?;
    let dir = dir_of(subscription.id);
    let store = Arc::new(CheckpointDir::at(shared.world.disk.clone(), dir));
    let lasting = Lasting { store: store as Arc<dyn CheckpointStore>, written: Vec::new() };
    let first = subscription.about.lock().epoch == 0;
    let known = subscription.about.lock().needs.clone();
    let check_sources = |sources: Vec<(NodeId, RelationName)>| {
        let needs = needs(shared, sources)?;
        if let Some(other) = known.iter().find(|k| !needs.iter().any(|n| n.node == k.node && n.id == k.id)) {
            return Err(err!(
                SequenceOutOfRange,
                "stream {} is another one than the query has read; UNSUBSCRIBE TO '{}' and SUBSCRIBE anew",
                other.stream,
                cx.query_id
            ));
        }
        if first {
            subscription.about.lock().needs = needs;
        }
        Ok(())
    };
    let keeping = Some((lasting, &check_sources as &(dyn Fn(_) -> Result<()> + Send + Sync)));
    let started = run_streaming(cx, entry.clone(), bound, &state, scope, keeping).await?;
    let running = started.running.clone();
    subscription.checkpointed(shared, &*running).await?;
    *subscription.run.lock() = Run::Running(Arc::downgrade(&running));
    let every = cx.settings.checkpoint_interval.unwrap_or(CHECKPOINT_INTERVAL_DEFAULT);
    shared.spawn(keep(shared.clone(), subscription.clone(), running, entry, every));
    let warnings = started.running.checkpoints().and_then(|c| c.passed_over);
    let held = Held { shared: shared.clone(), subscription: subscription.clone(), failed: false };
    let batches = futures::stream::unfold((started.batches, held), |(mut batches, mut held)| async move {
        match batches.next().await {
            Some(batch) => {
                held.failed |= batch.is_err();
                Some((batch, (batches, held)))
            }
            None => {
                held.finished().await;
                None
            }
        }
    });
    let warnings = started.warnings.into_iter().chain(warnings).collect();
    Ok((StreamingQuery { batches: batches.boxed(), warnings, running: started.running }, schema))
}

fn check(bound: &BoundQuery) -> Result<()> {
    if !bound.unbounded {
        return Err(err!(
            IncorrectQuery,
            "the query ends: it reads no stream as it grows, so there is nothing to go on with; run it without SUBSCRIBE TO"
        ));
    }
    if bound.replay_order == ReplayOrder::EventTime {
        return Err(err!(
            NotImplemented,
            "a query with checkpoints takes rows in log order; replay_order='event_time' is for queries that are not kept"
        ));
    }
    Ok(())
}

/// The streams that a query reads.
fn needs(shared: &Shared, sources: Vec<(NodeId, RelationName)>) -> Result<Vec<Need>> {
    let snapshot = shared.catalog.snapshot();
    let of = |(node, name): (NodeId, RelationName)| {
        let relation = snapshot.rows_of(snapshot.expect_relation(&name.database, &name.name)?)?;
        Ok(Need { node: node.0, stream: relation.full_name(), id: relation.id, next: Vec::new() })
    };
    sources.into_iter().map(of).collect()
}

/// Has checkpoints written while the query runs.
async fn keep(
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    running: Arc<dyn Running>,
    entry: Arc<QueryEntry>,
    every: Duration,
) {
    let progress = entry.progress.clone();
    // The query is listed as long as somebody holds it.
    drop(entry);
    let of = || {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        (load(&progress.read_rows), load(&progress.result_rows))
    };
    let (stopping, mut before) = (shared.stopping(), of());
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = running.join() => return,
            () = tokio::time::sleep(every) => {}
        }
        let now = of();
        if std::mem::replace(&mut before, now) == now {
            let unused_us = shared.world.clock.now_us().saturating_sub(subscription.about.lock().used_us);
            if unused_us > USED_EVERY.as_micros() as i64
                && let Err(e) = subscription.checkpointed(&shared, &*running).await
            {
                tracing::debug!(error = %e, "that a query is used could not be noted; it is tried again");
            }
            continue;
        }
        let written = match running.checkpoint().await {
            Ok(_) => subscription.checkpointed(&shared, &*running).await,
            Err(e) => Err(e.into()),
        };
        if let Err(e) = written {
            tracing::debug!(error = %e, "a checkpoint of a query that was subscribed to failed; the next is tried");
        }
    }
}

/// Held by a query's rows.
struct Held {
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    failed: bool,
}

impl Held {
    /// Its client has taken all there will ever be.
    async fn finished(&self) {
        if self.failed || !self.subscription.claim(|run| matches!(run, Run::Running(_)), Run::Gone) {
            return;
        }
        if let Err(e) = self.shared.subscriptions.remove(&self.shared, &self.subscription).await {
            tracing::warn!(error = %e, "checkpoints of a query that has ended stay until the next start");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.subscription.about.lock().used_us = self.shared.world.clock.now_us();
        self.subscription.stopped();
    }
}
