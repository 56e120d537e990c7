//! Starts a view's query: bound anew from its text, restored from its newest checkpoint, with its target
//! at the end.

use super::alert::{AlertSink, Caller};
use super::bad_rows::BadRows;
use super::outside::ExternalSink;
use super::route::Route;
use super::select::{self, TIME_ALIAS};
use super::sink::{Fitting, Lane, Reached, ViewSink, Written};
use super::{Calls, Output, ViewSpec};
use crate::engine::{Shared, Statement};
use crate::execute::{Target, background, target};
use crate::query::{Event, Finish, Late, LateWriter, QueryEntry, late_target};
use crate::scope::EngineScope;
use crate::source::StreamSources;
use arrow::datatypes::Field;
use datafusion::execution::{SessionState, TaskContext};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as Shared_};
use std::sync::Arc;
use weir_base::{Code, Error, Result, err};
use weir_catalog::RelationName;
use weir_plan::{
    ExternalWrite, Lasting, NodeId, Position, ReplayOrder, Running, Sink, SourceFactory, StreamError,
    StreamPlan, WEIGHT_COLUMN,
};
use weir_sql::bind::{BindOptions, BoundQuery, bind_query};
use weir_sql::stream;
use weir_storage::TIME_COLUMN;

/// Resolves with why a view can not write.
type Unwritten = Shared_<BoxFuture<'static, StreamError>>;

/// A view's query while it runs. Dropping it ends it.
pub(super) struct RunningView {
    pub entry: Arc<QueryEntry>,
    pub running: Arc<dyn Running>,
    /// Streams by the node that reads them.
    pub sources: Vec<(NodeId, RelationName)>,
    pub warnings: Vec<String>,
    lanes: Vec<Arc<Lane>>,
    /// Of one that writes to an external stream.
    outside: Option<Unwritten>,
    ended: bool,
}

impl RunningView {
    /// Says how it ended, once.
    pub fn end(&mut self, error: Option<&Error>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.running.cancel();
            let finish = if error.is_some() { Finish::Failed } else { Finish::Cancelled };
            self.entry.end(finish, error);
        }
    }

    /// Returns once a row of it could not be written.
    pub fn unwritten(&self) -> impl Future<Output = Error> + use<> {
        let (lanes, outside) = (self.lanes.clone(), self.outside.clone());
        async move {
            if let Some(outside) = outside {
                return outside.await.into();
            }
            if lanes.is_empty() {
                return std::future::pending().await;
            }
            let all = lanes.iter().map(|lane| Box::pin(lane.failed()));
            futures::future::select_all(all).await.0.into()
        }
    }

    /// Returns once its task has ended and nothing it wrote is on its way.
    pub async fn gone(&self) {
        // How it ended is known.
        let _ = self.running.join().await;
        idle(&self.lanes).await;
    }
}

async fn idle(lanes: &[Arc<Lane>]) {
    for lane in lanes {
        lane.idle().await;
    }
}

impl Drop for RunningView {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// A view's SELECT, bound.
pub(crate) struct BoundView {
    cx: Statement,
    bound: BoundQuery,
    scope: Arc<EngineScope>,
    state: SessionState,
}

impl BoundView {
    /// What it gives, under the names of its target's columns.
    pub fn columns(&self) -> impl Iterator<Item = Field> {
        self.bound.schema.fields().iter().map(|f| match f.name().as_str() {
            TIME_ALIAS => f.as_ref().clone().with_name(TIME_COLUMN),
            _ => f.as_ref().clone(),
        })
    }

    /// Every relation it reads.
    pub fn used(&self) -> Vec<RelationName> {
        self.scope.used().into_iter().collect()
    }
}

/// Binds a view's SELECT against what exists now. `now()` is when the view was created, at every start:
/// else it would be another query each time.
///
/// # Errors
/// What its SELECT is refused with; code 80 where it has an end.
pub(crate) fn bind(shared: &Arc<Shared>, spec: &ViewSpec) -> Result<BoundView> {
    let cx = background(shared.clone(), &spec.resolve_in, &spec.settings, &spec.text(), &spec.query_id())?;
    let state = cx.state()?;
    let options = BindOptions { now_us: spec.created_us, ..cx.bind_options(false) };
    let mut first_error = None;
    let mut candidates = select::candidates(&spec.select)?;
    if let Output::Alert(_) = spec.output {
        // Whoever is called gets what the SELECT gives.
        candidates.drain(..candidates.len() - 1);
    }
    for query in candidates {
        let scope = Arc::new(cx.scope());
        match bind_query(&query, &*scope, &state, &options) {
            Ok(bound) => {
                let names = bound
                    .schema
                    .fields()
                    .iter()
                    .filter(|f| [TIME_ALIAS, TIME_COLUMN].contains(&f.name().as_str()));
                if names.count() > 1 {
                    continue;
                }
                check(spec, &bound)?;
                return Ok(BoundView { cx, bound, scope, state });
            }
            // The last one is the SELECT as it was written.
            Err(e) => first_error = Some(e),
        }
    }
    Err(first_error.unwrap_or_else(|| err!(LogicalError, "{} has no SELECT", spec.what())))
}

fn check(spec: &ViewSpec, bound: &BoundQuery) -> Result<()> {
    if !bound.unbounded {
        return Err(err!(
            IncorrectQuery,
            "the SELECT of {} ends: it reads no stream as it grows; use a task (CREATE TASK) for what is to be \
             computed now and then",
            spec.what()
        ));
    }
    if bound.replay_order == ReplayOrder::EventTime {
        return Err(err!(
            NotImplemented,
            "a view takes rows in log order; replay_order='event_time' is for queries that are not kept"
        ));
    }
    Ok(())
}

/// The plan of a view, and the statement it runs as.
pub(super) struct Planned {
    pub cx: Statement,
    pub plan: StreamPlan,
    /// `None` = what it gives is called out.
    target: Option<Target>,
    late: Option<Target>,
    scope: Arc<EngineScope>,
    replay_order: ReplayOrder,
    task: Arc<TaskContext>,
}

/// Plans a view.
///
/// # Errors
/// As [`bind`]; code 80 where it gives what its target does not take.
pub(super) fn plan(shared: &Arc<Shared>, spec: &ViewSpec) -> Result<Planned> {
    let bound = bind(shared, spec)?;
    let names: Vec<String> = bound.columns().map(|f| f.name().clone()).collect();
    let BoundView { cx, mut bound, scope, state } = bound;
    let target = match &spec.output {
        Output::Alert(_) => None,
        Output::Stream(to) => Some(target(&cx, to, Some(&names)).map_err(|e| {
            let way = if names.iter().any(|n| n == WEIGHT_COLUMN) {
                "; a changelog goes into a stream WITH SETTINGS mode='changelog'"
            } else {
                ""
            };
            let message = format!("view {} does not fit its target {to}: {}{way}", spec.name, e.message);
            Error { message, ..e }
        })?),
    };
    let late = late_target(&cx)?;
    bound.late_columns = late.iter().flat_map(|t| &t.columns).map(|(name, _)| name.clone()).collect();
    let replay_order = bound.replay_order;
    let plan = stream::lower(bound, &state)?;
    let task = Arc::new(TaskContext::from(&state));
    Ok(Planned { cx, plan, target, late, scope, replay_order, task })
}

/// Starts it; returns once it has a checkpoint to go on from.
pub(super) async fn start(
    shared: &Arc<Shared>,
    spec: &ViewSpec,
    bad: &BadRows,
    calls: &Arc<Calls>,
) -> Result<RunningView> {
    let Planned { cx, plan, target, late, scope, replay_order, task } = self::plan(shared, spec)?;
    let entry = cx.register(true)?;
    entry.on(Event::Start);
    let mut lanes = Vec::new();
    let mut outside = None;
    let started = async {
        if let Some(late) = late {
            entry.keep_late(LateWriter::new(&cx, late, &plan, &entry)?);
        }
        let (sink, written) = match (&target, &spec.output) {
            (Some(target), _) if target.external().is_some() => {
                let (sink, written) = into_external(spec, target, &plan, &cx, &entry).await?;
                outside = Some(sink.failed().boxed().shared());
                (Box::new(sink) as Box<dyn Sink>, written)
            }
            (Some(target), _) => {
                let (sink, written) = into_stream(shared, spec, target, &plan, &cx, &entry)?;
                lanes = sink.lanes();
                (Box::new(sink) as Box<dyn Sink>, written)
            }
            (None, Output::Alert(alert)) => {
                let hook = shared.config.web_hook.clone().ok_or_else(|| {
                    err!(NotImplemented, "this server has no way to call a URL; alerts need one")
                })?;
                let caller = Caller {
                    name: spec.name.clone(),
                    id: spec.id,
                    spec: alert.clone(),
                    calls: calls.clone(),
                    hook,
                    clock: shared.world.clock.clone(),
                    written: entry.writing(),
                };
                let (memory, progress) = (entry.memory.clone(), entry.progress.clone());
                let sink = AlertSink::new(caller, memory, progress, Late::of(&entry));
                (Box::new(sink) as Box<dyn Sink>, Vec::new())
            }
            (None, Output::Stream(_)) => return Err(err!(LogicalError, "a view without its target")),
        };
        let store = shared.checkpoints.of(&spec.id.to_string());
        let (memory, progress) = (entry.memory.clone(), entry.progress.clone());
        let clock = shared.world.clock.clone();
        let shown = Arc::new(plan.root.clone());
        let named = shown.sources().into_iter();
        let named: Vec<_> =
            named.map(|(id, s)| (id, RelationName::new(s.database.clone(), s.relation.clone()))).collect();
        let sources = StreamSources::new(scope, replay_order, task, memory, progress)
            .telling(cx.record.clone())
            .for_plan(&plan.root, clock.clone())
            .cutting(bad.cuts(&named));
        let (warnings, positions) = (sources.warnings(), sources.sources());
        let factory: Arc<dyn SourceFactory> = Arc::new(sources);
        let lasting = Some(Lasting { store, written });
        let memory = entry.memory.clone();
        let running = shared.runtime.start(plan, factory, sink, clock, memory, lasting).await;
        let running = running.map_err(|e| match e.code {
            // A stream that was dropped and made again begins at 0.
            Code::SequenceOutOfRange => {
                let way = "the stream is another one than the view has taken rows in from; drop the view and create it again";
                Error::new(e.code, format!("{}: {way}", e.message))
            }
            _ => e.into(),
        })?;
        entry.attach(shown, positions, running.clone());
        entry.on(Event::Run);
        Ok::<_, Error>((running, named, warnings.all()))
    };
    match started.await {
        Ok((running, sources, warnings)) => {
            Ok(RunningView { entry, running, sources, warnings, lanes, outside, ended: false })
        }
        Err(e) => {
            idle(&lanes).await;
            entry.end(Finish::Failed, Some(&e));
            Err(e)
        }
    }
}

/// The end of a view that writes to an external stream, and up to where it has written before.
async fn into_external(
    spec: &ViewSpec,
    target: &Target,
    plan: &StreamPlan,
    cx: &Statement,
    entry: &Arc<QueryEntry>,
) -> Result<(ExternalSink, Vec<Position>)> {
    let stream =
        target.external().ok_or_else(|| err!(LogicalError, "{} is no external stream", target.name))?;
    if stream.is_table() {
        return Err(err!(
            NotImplemented,
            "{} is a table of files: a view would write one for each of its steps; write them with INSERT INTO {} SELECT …",
            target.name,
            target.name
        ));
    }
    let transactional = stream.is_transactional();
    let how = match transactional {
        true => ExternalWrite::Transactional(format!("weir-{}", spec.id)),
        false => ExternalWrite::Plain,
    };
    let mut writer = stream.write(how).await?;
    let reached = writer.reached().await?;
    let fitting = Fitting::new(target, plan.root.schema(), cx.settings.cast_overflow_wrap)?;
    let of = (entry.memory.clone(), entry.progress.clone());
    let written = reached.iter().cloned().collect();
    let sink =
        ExternalSink::new(fitting, writer, (transactional, reached), of, entry.writing(), Late::of(entry));
    Ok((sink, written))
}

/// The end of a view that writes to a stream, and up to where it has written before.
fn into_stream(
    shared: &Shared,
    spec: &ViewSpec,
    target: &Target,
    plan: &StreamPlan,
    cx: &Statement,
    entry: &Arc<QueryEntry>,
) -> Result<(ViewSink, Vec<Position>)> {
    let writer = spec.writer();
    let mut ahead = Vec::new();
    for shard in target.shards() {
        let position = match shard.progress(&writer) {
            None => None,
            Some(bytes) => Some(Reached::decode(&bytes).ok_or_else(|| {
                err!(CorruptedData, "the position of view {} in {} is not one", spec.name, target.name)
            })?),
        };
        ahead.push(position);
    }
    let of = |reached: &Reached| {
        let from = reached.within.as_ref().map(|w| w.from.clone());
        [Some(reached.at.clone()), from]
    };
    let written = ahead.iter().flatten().flat_map(of).flatten().collect();
    let fitting = Fitting::new(target, plan.root.schema(), cx.settings.cast_overflow_wrap)?;
    let counted = Arc::new(Written { rows: entry.writing(), progress: entry.progress.clone() });
    let (memory, disk) = (entry.memory.clone(), shared.world.disk.clone());
    let route = Route::of(&plan.root);
    let sink =
        ViewSink::new(writer, target, (fitting, route), ahead, (memory, disk), (Late::of(entry), counted));
    Ok((sink, written))
}
