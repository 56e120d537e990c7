//! Opens the sources of one query.

use super::event_time::EventTimeReplay;
use super::external::{ExternalSource, Opening};
use super::free::FreeHistory;
use super::gate::ReplayGate;
use super::merge::Origin;
use super::pace::{Began, Pace};
use super::progress::{QuerySources, SourceProgress};
use super::prune::PlanPruner;
use super::random::RandomSource;
use super::shard::ShardReader;
use super::start::resolve;
use super::tail::{Cuts, LogOrder, Phase, ShardState, StreamSource};
use crate::Progress;
use crate::query::QueryRecord;
use crate::scan::{ExternalAccess, Picker, StoredAccess, StreamAccess, StreamLookup, full_schema};
use arrow::datatypes::Schema;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::utils::reassign_expr_columns;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::{AppendTime, Clock, Error, EventTime, MemoryBudget, SeqNo, SystemClock};
use weir_plan::{
    NodeId, ReplayOrder, ReplaySpec, Source, SourceFactory, SourceOrder, SourceSpec, StartPosition,
    StreamError, StreamNode, WatermarkSpec,
};
use weir_storage::{APPEND_TIME_COLUMN, Pruner, SN_COLUMN, Shard, TIME_COLUMN, Wanted};

/// Rows of history that are decoded before the plan asks for them, over all shards of a source.
pub(super) const AHEAD_BYTES_MAX: u64 = 32 << 20;

/// Warnings kept of one query; later ones are dropped.
const WARNINGS_MAX: usize = 100;

/// What a query's owner should know and that is no error.
#[derive(Debug, Default)]
pub struct Warnings {
    all: Mutex<Vec<String>>,
    /// For `system.query_warnings`.
    record: Option<Arc<QueryRecord>>,
}

impl Warnings {
    pub fn add(&self, warning: String) {
        let mut all = self.all.lock();
        if all.len() < WARNINGS_MAX {
            if let Some(record) = &self.record {
                record.warn(&warning);
            }
            all.push(warning);
        }
    }
    pub fn all(&self) -> Vec<String> {
        self.all.lock().clone()
    }
}

/// The source factory of one query.
pub struct StreamSources {
    lookup: Arc<dyn StreamLookup>,
    replay_order: ReplayOrder,
    gate: Arc<ReplayGate>,
    /// For scans of history in event-time order.
    task: Arc<TaskContext>,
    memory: Arc<MemoryBudget>,
    progress: Arc<Progress>,
    warnings: Arc<Warnings>,
    sources: Arc<QuerySources>,
    /// The query has this source only: its rows are put in order with no other's.
    alone: bool,
    /// Sources whose live rows are wanted in one order.
    together: Vec<NodeId>,
    /// For history at the pace at which it came.
    clock: Arc<dyn Clock>,
    began: Arc<Began>,
    /// Rows that a view's query failed on, by source and shard.
    cuts: HashMap<(NodeId, usize), Cuts>,
}

impl StreamSources {
    /// `task` must know the store of parts (`scan::register_parts`).
    pub fn new(
        lookup: Arc<dyn StreamLookup>,
        replay_order: ReplayOrder,
        task: Arc<TaskContext>,
        memory: Arc<MemoryBudget>,
        progress: Arc<Progress>,
    ) -> Self {
        StreamSources {
            lookup,
            replay_order,
            gate: Arc::default(),
            task,
            memory,
            progress,
            warnings: Arc::default(),
            sources: Arc::default(),
            alone: false,
            together: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            began: Arc::default(),
            cuts: HashMap::new(),
        }
    }

    /// For this plan, by this clock.
    #[must_use]
    pub fn for_plan(mut self, plan: &StreamNode, clock: Arc<dyn Clock>) -> Self {
        self.alone = plan.sources().len() == 1;
        self.together = plan.together().into_iter().flatten().collect();
        self.clock = clock;
        self
    }

    /// Leaves rows out, or gives them one by one.
    #[must_use]
    pub(crate) fn cutting(mut self, cuts: HashMap<(NodeId, usize), Cuts>) -> Self {
        self.cuts = cuts;
        self
    }

    /// What is to be said of the query is said in its record, too.
    #[must_use]
    pub fn telling(mut self, record: Arc<QueryRecord>) -> Self {
        self.warnings = Arc::new(Warnings { record: Some(record), ..Warnings::default() });
        self
    }

    pub fn warnings(&self) -> Arc<Warnings> {
        self.warnings.clone()
    }

    pub fn sources(&self) -> Arc<QuerySources> {
        self.sources.clone()
    }

    /// What is asked of storage, and the columns that comes to.
    fn wanted(
        &self,
        access: &StoredAccess,
        spec: &SourceSpec,
        shards: &[Arc<Shard>],
        together: bool,
    ) -> (Wanted, Schema) {
        let has = |name: &str| spec.columns.iter().any(|c| c == name);
        let of_plan = |name: &String| access.schema.index_of(name).ok();
        let mut columns: Vec<usize> = spec.columns.iter().filter_map(of_plan).collect();
        columns.extend(spec.history.replay.as_ref().and_then(|r| of_plan(&r.column)));
        columns.sort_unstable();
        columns.dedup();
        let read = access.schema.project(&columns).expect("positions of its own columns");
        // A row that is left out counts for no watermark. Over one shard only rows below the time
        // the plan asks for are, and these judge nobody it wants; over several they could decide
        // which shard is idle.
        let prunes = spec.watermark.is_none() || shards.len() == 1 && !together;
        let wanted = Wanted {
            columns: Some(columns),
            append_times: shards.len() > 1
                || !self.alone
                || has(APPEND_TIME_COLUMN)
                || spec.history.replay.as_ref().is_some_and(|r| r.column == APPEND_TIME_COLUMN),
            sns: has(SN_COLUMN),
            pruner: if prunes { pruner(access, spec) } else { None },
            parts_first: true,
            ahead_bytes_max: AHEAD_BYTES_MAX / shards.len().max(1) as u64,
            memory: Some(self.memory.clone()),
        };
        (wanted, read)
    }

    async fn open_stored(
        &self,
        id: NodeId,
        access: StoredAccess,
        spec: &SourceSpec,
    ) -> Result<Box<dyn Source>, StreamError> {
        let shards = access.store.shards().to_vec();
        let together = self.together.contains(&id);
        let (wanted, read) = self.wanted(&access, spec, &shards, together);
        let picker = Picker::by_name(&read, &spec.columns, spec.schema.clone())?;
        // The ends first: what comes after them is live, wherever the start lies.
        let ends: Vec<SeqNo> = shards.iter().map(|s| s.durable_end()).collect();
        let pace = match &spec.history.replay {
            None => None,
            Some(r) => Some(Pace::new(&access.name, r, &read, self.began.clone(), self.clock.clone())?),
        };
        let mut starts = match &spec.history.replay {
            Some(replay) if spec.start == StartPosition::Latest => replay_starts(&shards, replay).await?,
            _ => resolve(&access.name, &shards, &spec.start, &self.warnings).await?,
        };
        if spec.history.log_only {
            for (start, shard) in starts.iter_mut().zip(&shards) {
                *start = shard.log_start().max(*start);
            }
        }
        let seat = self.gate.seat(together);
        let bounds = starts.iter().zip(&ends).map(|(start, end)| (*start, *end));
        let progress = SourceProgress::new(
            shards.iter().cloned().zip(bounds).map(|(shard, (start, end))| (shard, start, end)),
        );
        self.sources.add(id, progress.clone());
        let history = starts.iter().zip(&ends).any(|(start, end)| start < end);
        let (phase, ends) = match self.replay_order {
            ReplayOrder::EventTime if history => {
                let snapshots: Vec<_> = shards.iter().map(|s| s.snapshot()).collect();
                let ends = snapshots.iter().map(|s| s.durable_end).collect();
                let (task, memory) = (self.task.clone(), self.memory.clone());
                let replay =
                    EventTimeReplay::new(access.clone(), snapshots, starts.clone(), spec, task, memory)?;
                (Phase::EventTime(replay), ends)
            }
            ReplayOrder::Arrival if history && spec.history.order == SourceOrder::Any => {
                let snapshots: Vec<_> = shards.iter().map(|s| s.snapshot()).collect();
                let ends = snapshots.iter().map(|s| s.durable_end).collect();
                let scans = snapshots.iter().zip(&starts).map(|(s, from)| s.scan(*from, wanted.clone()));
                (Phase::Free(FreeHistory::new(scans)), ends)
            }
            _ => (Phase::Arrival, ends),
        };
        let phase = if spec.history.emits { Phase::Announced(Box::new(phase)) } else { phase };
        // A shard alone is in order and never held back; it is asked how time passes where somebody
        // counts its silences.
        let silence_us = |w: &WatermarkSpec| w.silence_us.max(w.timeout.map_or(0, |t| t.after_us));
        let judged = spec.watermark.as_ref().filter(|w| shards.len() > 1 || together || silence_us(w) > 0);
        // Live rows in log order as well: a changelog by key, functions over earlier rows.
        let live =
            (shards.len() > 1 || together) && (spec.history.order == SourceOrder::Live || spec.log_order);
        let idle_timeout_us = judged.map(|w| w.idle_timeout_us.max(silence_us(w)));
        let ordered = (judged.is_some() || live).then(|| LogOrder::new(idle_timeout_us, together));
        let shards = shards
            .into_iter()
            .zip(starts.into_iter().zip(ends))
            .enumerate()
            .map(|(i, (shard, (start, end)))| {
                let cuts = self.cuts.get(&(id, i)).cloned().unwrap_or_default();
                let origin =
                    Origin { stream: access.name.clone(), shard: shard.id().0, source: seat.index() };
                ShardState::new(ShardReader::new(shard, start, wanted.clone()), origin, end, cuts)
            })
            .collect();
        Ok(Box::new(StreamSource {
            name: access.name,
            shards,
            picker,
            phase,
            announced: false,
            pace,
            seat,
            delivered: progress,
            read: self.progress.clone(),
            warnings: self.warnings.clone(),
            drain: Box::pin(self.sources.draining().cancelled_owned()),
            turn: 0,
            ordered,
        }))
    }
}

/// Where a replay begins that no seek places: at its start time, as far as an index knows.
async fn replay_starts(shards: &[Arc<Shard>], replay: &ReplaySpec) -> Result<Vec<SeqNo>, StreamError> {
    let (all, replay) = (shards.to_vec(), replay.clone());
    let found = tokio::task::spawn_blocking(move || {
        let start = |shard: &Arc<Shard>| match (replay.start_us, replay.column.as_str()) {
            (Some(us), APPEND_TIME_COLUMN) => shard.seek_append_time(AppendTime(us)),
            (Some(us), TIME_COLUMN) => shard.seek_event_time(EventTime(us.div_euclid(1_000))),
            _ => Ok(shard.oldest()),
        };
        all.iter().map(start).collect::<Result<Vec<_>, _>>()
    });
    let found = found.await.map_err(|e| StreamError {
        code: weir_base::Code::LogicalError,
        message: format!("seeking the start of a replay stopped: {e}"),
    })?;
    found.map_err(|e| Error::from(e).into())
}

fn pruner(access: &StoredAccess, spec: &SourceSpec) -> Option<Arc<dyn Pruner>> {
    let full = full_schema(&access.schema);
    // A hint that does not fit (an unknown column) prunes nothing.
    let predicate = reassign_expr_columns(spec.prune.clone()?, &full).ok()?;
    let (stream, partition_column) = (access.schema.clone(), access.partition_column.clone());
    Some(Arc::new(PlanPruner { predicate, stream, full, partition_column }))
}

#[async_trait::async_trait]
impl SourceFactory for StreamSources {
    async fn open(&self, id: NodeId, spec: &SourceSpec) -> Result<Box<dyn Source>, StreamError> {
        match self.lookup.store(&spec.database, &spec.relation)? {
            StreamAccess::Stored(access) if access.live.is_none() => self.open_stored(id, access, spec).await,
            access @ (StreamAccess::Stored(_) | StreamAccess::External(_)) => {
                let access = match access {
                    StreamAccess::External(access) => access,
                    StreamAccess::Stored(StoredAccess { name, live: Some(open), .. }) => {
                        ExternalAccess { name, open, clock: self.clock.clone(), picked: None }
                    }
                    _ => unreachable!("the others were matched"),
                };
                let with = Opening {
                    id,
                    source: self.gate.seat(false).index(),
                    cuts: self.cuts.clone(),
                    read: self.progress.clone(),
                    warnings: self.warnings.clone(),
                    memory: self.memory.clone(),
                    drain: self.sources.draining().cancelled_owned(),
                    together: self.together.contains(&id),
                };
                let (source, progress) = ExternalSource::open(access, spec, with).await?;
                self.sources.add(id, progress);
                Ok(Box::new(source))
            }
            StreamAccess::Random(access) => {
                Ok(Box::new(RandomSource::new(access, spec, self.progress.clone(), self.sources.draining())?))
            }
        }
    }
}
