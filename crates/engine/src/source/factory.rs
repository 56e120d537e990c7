//! Opens the sources of one query.

use super::event_time::EventTimeReplay;
use super::gate::ReplayGate;
use super::merge::Origin;
use super::progress::{QuerySources, SourceProgress};
use super::random::RandomSource;
use super::shard::ShardReader;
use super::start::resolve;
use super::tail::{LogOrder, Phase, ShardState, StreamSource};
use crate::Progress;
use crate::query::QueryRecord;
use crate::scan::{Picker, StoredAccess, StreamAccess, StreamLookup};
use datafusion::execution::TaskContext;
use parking_lot::Mutex;
use std::sync::Arc;
use weir_base::{MemoryBudget, SeqNo};
use weir_plan::{NodeId, ReplayOrder, Source, SourceFactory, SourceSpec, StreamError, WatermarkSpec};

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
        }
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

    async fn open_stored(
        &self,
        id: NodeId,
        access: StoredAccess,
        spec: &SourceSpec,
    ) -> Result<Box<dyn Source>, StreamError> {
        let picker = Picker::by_name(&access.schema, &spec.columns, spec.schema.clone())?;
        let shards = access.store.shards().to_vec();
        // The ends first: what comes after them is live, wherever the start lies.
        let ends: Vec<SeqNo> = shards.iter().map(|s| s.durable_end()).collect();
        let starts = resolve(&access.name, &shards, &spec.start, &self.warnings).await?;
        let seat = self.gate.seat();
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
            _ => (Phase::Arrival, ends),
        };
        // A shard alone is in order and never held back; it is asked how time passes where somebody
        // counts its silences.
        let silence_us = |w: &WatermarkSpec| w.silence_us.max(w.timeout.map_or(0, |t| t.after_us));
        let judged = spec.watermark.as_ref().filter(|w| shards.len() > 1 || silence_us(w) > 0);
        let ordered = judged.map(|w| LogOrder::new(w.idle_timeout_us.max(silence_us(w))));
        let shards = shards
            .into_iter()
            .zip(starts.into_iter().zip(ends))
            .map(|(shard, (start, end))| {
                let origin =
                    Origin { stream: access.name.clone(), shard: shard.id().0, source: seat.index() };
                ShardState::new(ShardReader::new(shard, start), origin, end)
            })
            .collect();
        Ok(Box::new(StreamSource {
            name: access.name,
            shards,
            picker,
            phase,
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

#[async_trait::async_trait]
impl SourceFactory for StreamSources {
    async fn open(&self, id: NodeId, spec: &SourceSpec) -> Result<Box<dyn Source>, StreamError> {
        match self.lookup.store(&spec.database, &spec.relation)? {
            StreamAccess::Stored(access) => self.open_stored(id, access, spec).await,
            StreamAccess::Random(access) => {
                Ok(Box::new(RandomSource::new(access, spec, self.progress.clone(), self.sources.draining())?))
            }
        }
    }
}
