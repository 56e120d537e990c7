//! Starts plans as tasks on the compute runtime, and holds the handle to each.
//!
//! A panic anywhere in a query is that query's failure, never the process's.

use crate::build::build;
use crate::checkpoint::{self, KeptEpochs, Saved};
use crate::identity::Identity;
use crate::lasting::{Answer, Keeping, Status, io_failed, requests};
use crate::resources::Resources;
use crate::state::runs::RunFiles;
use crate::state::spill::SpillSpace;
use crate::task::{FailedAt, Finish, Task, Told};
use crate::workers::Workers;
use futures::FutureExt;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use weir_base::{Clock, Code, MemoryBudget};
use weir_plan::{
    CheckpointStatus, CheckpointStore, Epoch, Lasting, NodeId, QueryCounters, RowsAt, Running, Runtime, Sink,
    SourceFactory, SourceOrder, SourceSpec, StartPosition, StreamError, StreamPlan,
};

/// Runs every query on one tokio runtime, apart from the network's.
#[derive(Debug, Clone)]
pub struct DataflowRuntime {
    compute: Handle,
    resources: Resources,
}

impl DataflowRuntime {
    /// State that memory has no room for goes here.
    pub fn spill_to(mut self, space: Arc<SpillSpace>) -> Self {
        self.resources.spill = Some(space);
        self
    }

    /// Large states are worked on by as many threads as the machine has cores.
    pub fn new(compute: Handle) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        DataflowRuntime { compute, resources: Resources::new(Workers::new(cores)) }
    }
}

#[async_trait::async_trait]
impl Runtime for DataflowRuntime {
    /// Returns once all sources are open, so that rows inserted after it count as live; of a lasting query
    /// once it has a checkpoint to go on from.
    async fn start(
        &self,
        plan: StreamPlan,
        sources: Arc<dyn SourceFactory>,
        sink: Box<dyn Sink>,
        clock: Arc<dyn Clock>,
        memory: Arc<MemoryBudget>,
        lasting: Option<Lasting>,
    ) -> Result<Arc<dyn Running>, StreamError> {
        let mut resources = self.resources.clone();
        resources.memory = Some(memory.clone());
        let (ask, asked) = requests();
        let prepare = async move {
            let identity = Arc::new(Identity::of(&plan));
            let (mut saved, mut kept) = match &lasting {
                Some(lasting) => newest(&lasting.store).await?,
                None => (None, KeptEpochs::default()),
            };
            if let Some(lasting) = &lasting
                && saved.is_none()
                && !lasting.written.is_empty()
            {
                return Err(nothing_left());
            }
            let mut passed_over = None;
            let mut graph = loop {
                if let Some(saved) = &saved {
                    fits(saved, &identity)?;
                }
                let mut opened = HashMap::new();
                for (i, (id, spec)) in plan.root.sources().into_iter().enumerate() {
                    let source = match &lasting {
                        Some(_) => sources.open(id, &lasting_source(spec, saved.as_ref(), i)).await?,
                        None => sources.open(id, spec).await?,
                    };
                    opened.insert(id, source);
                }
                let states = saved.as_mut().map(|s| std::mem::take(&mut s.states)).unwrap_or_default();
                let node = |place: u32| identity.kept.get(place as usize).copied();
                let states: Vec<_> = states.into_iter().filter_map(|(at, s)| Some((node(at)?, s))).collect();
                let built = build(&plan, &mut opened, clock.clone(), &memory, &resources, &states);
                let (e, lasting) = match (built, &lasting) {
                    (Ok(graph), _) => break graph,
                    (Err(e), Some(lasting)) => (StreamError::from(e), lasting),
                    (Err(e), None) => return Err(e.into()),
                };
                let before = if e.code == Code::CorruptedData { kept.pass_over() } else { None };
                let (Some(before), Some(damaged)) = (before, saved) else { return Err(e) };
                let told = format!(
                    "checkpoint {} is damaged ({}); the query goes on from checkpoint {}, and works through more rows again",
                    damaged.epoch.0, e.message, before.0
                );
                tracing::warn!("{told}");
                passed_over = Some(told);
                let load = move |store: &Arc<dyn CheckpointStore>| checkpoint::again(store, before);
                saved = Some(blocking(lasting.store.clone(), load).await?);
            };
            let mut keeping = None;
            if let Some(lasting) = lasting {
                // What a stop left unfinished would be in the way of its number, as would what is damaged.
                kept = blocking(lasting.store.clone(), move |store| {
                    kept.remove_others(&**store)?;
                    Ok(kept)
                })
                .await?;
                graph.files = Some(RunFiles::new(lasting.store.clone()));
                let sources = plan.root.sources().into_iter().map(|(id, _)| id).collect();
                let mut keeps = Keeping::new(lasting.store, identity, asked, clock, sources, kept);
                let mut written = lasting.written;
                // Of two positions of a query one lies within the other.
                written.sort_by(|a, b| b.within(a).cmp(&a.within(b)));
                if let Some(saved) = &saved {
                    graph.stand_at(&saved.position);
                    keeps.stands_at(saved, passed_over);
                    let past = written.iter().position(|p| !p.within(&saved.position));
                    keeps.written = written.split_off(past.unwrap_or(written.len()));
                }
                keeps.passed = written;
                keeping = Some(keeps);
            }
            Ok::<_, StreamError>((graph, keeping))
        };
        let prepare = AbortOnDrop(self.compute.spawn(AssertUnwindSafe(prepare).catch_unwind()));
        let (graph, keeping) = prepare.join().await??;

        let (counters, failed_at) = (graph.counters(), FailedAt::default());
        let (cancel, cancelled) = watch::channel(false);
        let (done, outcome) = watch::channel(None);
        let checkpoints = keeping.as_ref().map(|k| (ask, k.status.clone()));
        // What a query begins with must be known before it takes a row in: where it began is no longer
        // to be had after a restart.
        let first = match &checkpoints {
            Some((ask, status)) if status.lock().epoch == 0 => Some(begin_checkpoint(ask).await?),
            _ => None,
        };
        let task = Task {
            graph,
            sink,
            cancel: cancelled,
            snapshots: None,
            keeping,
            told: Told::default(),
            failed_at: failed_at.clone(),
        };
        self.compute.spawn(async move {
            let result = match AssertUnwindSafe(task.run()).catch_unwind().await {
                Ok(Ok(finish)) => Ok(finish),
                Ok(Err(e)) => Err(e),
                Err(panic) => Err(panicked(panic.as_ref())),
            };
            if let Err(e) = &result {
                tracing::debug!(code = e.code.number(), message = %e.message, "streaming query failed");
            }
            done.send_replace(Some(result));
        });
        let query = Query { counters, cancel, outcome, checkpoints, failed_at };
        if let Some(first) = first
            && let Err(e) = query.written(first).await
        {
            query.cancel();
            // How it ends changes nothing about why.
            let _ = query.join().await;
            return Err(e);
        }
        Ok(Arc::new(query))
    }

    async fn verify(&self, store: Arc<dyn CheckpointStore>) -> Result<(u64, Vec<String>), StreamError> {
        blocking(store, checkpoint::verify).await
    }

    async fn check(&self, plan: &StreamPlan, store: Arc<dyn CheckpointStore>) -> Result<(), StreamError> {
        match newest(&store).await?.0 {
            Some(saved) => fits(&saved, &Identity::of(plan)),
            None => Ok(()),
        }
    }
}

/// A started query. Dropping it drops the sender of `cancel`, which the task takes as cancel.
struct Query {
    counters: Vec<(NodeId, &'static str, Arc<QueryCounters>)>,
    cancel: watch::Sender<bool>,
    outcome: watch::Receiver<Option<Result<Finish, StreamError>>>,
    /// Of a lasting query.
    checkpoints: Option<(mpsc::Sender<Answer>, Status)>,
    failed_at: FailedAt,
}

type Asked = oneshot::Receiver<Result<Epoch, StreamError>>;

async fn begin_checkpoint(ask: &mpsc::Sender<Answer>) -> Result<Asked, StreamError> {
    let (answer, answered) = oneshot::channel();
    ask.send(answer).await.map_err(|_| ended())?;
    Ok(answered)
}

fn ended() -> StreamError {
    StreamError { code: Code::QueryWasCancelled, message: "the query has ended".into() }
}

impl Query {
    /// Waits for a checkpoint that was asked for; of a query that ends meanwhile what ended it.
    async fn written(&self, asked: Asked) -> Result<Epoch, StreamError> {
        match asked.await {
            Ok(written) => written,
            Err(_) => Err(self.join().await.err().unwrap_or_else(ended)),
        }
    }
}

/// What a lasting query goes on from; `None` = it begins.
async fn newest(store: &Arc<dyn CheckpointStore>) -> Result<(Option<Saved>, KeptEpochs), StreamError> {
    blocking(store.clone(), checkpoint::newest).await
}

async fn blocking<T: Send + 'static>(
    store: Arc<dyn CheckpointStore>,
    f: impl FnOnce(&Arc<dyn CheckpointStore>) -> std::io::Result<T> + Send + 'static,
) -> Result<T, StreamError> {
    let done = tokio::task::spawn_blocking(move || f(&store)).await.map_err(|e| StreamError {
        code: Code::LogicalError,
        message: format!("reading checkpoints stopped on a bug: {e}"),
    })?;
    done.map_err(|e| io_failed("a checkpoint could not be read", &e))
}

fn nothing_left() -> StreamError {
    StreamError {
        code: Code::CorruptedData,
        message:
            "results were written but no checkpoint is left to go on from; restore the checkpoint files from \
                  a backup, or drop and create the query anew"
                .into(),
    }
}

/// Whether a plan can take a saved state.
fn fits(saved: &Saved, identity: &Identity) -> Result<(), StreamError> {
    if saved.shape == identity.shape && saved.meaning.is_none_or(|m| m == identity.meaning) {
        return Ok(());
    }
    Err(StreamError {
        code: Code::IncorrectQuery,
        message: format!(
            "the state of checkpoint {} is of another query than this one: the rows that come to an operator with \
             state, or what it computes, have changed since; only what is above the last such operator may change",
            saved.epoch.0
        ),
    })
}

/// A source whose place is known at every moment: rows in log order, from where the query stood.
fn lasting_source(spec: &SourceSpec, saved: Option<&Saved>, index: usize) -> SourceSpec {
    let mut spec = spec.clone();
    if spec.history.order == SourceOrder::Any {
        spec.history.order = SourceOrder::Log;
    }
    let stood = saved.and_then(|s| s.position.sources.get(index)).filter(|s| !s.next.is_empty());
    if let Some(stood) = stood {
        spec.start = StartPosition::Restored(stood.next.clone());
        spec.history.log_only = false;
    }
    spec
}

#[async_trait::async_trait]
impl Running for Query {
    fn counters(&self) -> Vec<(NodeId, &'static str, Arc<QueryCounters>)> {
        self.counters.clone()
    }

    fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    async fn join(&self) -> Result<(), StreamError> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(result) => result.clone().expect("waited for it").map(|_| ()),
            Err(_) => Err(StreamError {
                code: Code::QueryWasCancelled,
                message: "the server is shutting down".into(),
            }),
        }
    }

    async fn checkpoint(&self) -> Result<Epoch, StreamError> {
        let Some((ask, _)) = &self.checkpoints else {
            return Err(StreamError {
                code: Code::NotImplemented,
                message: "the query keeps no checkpoints; give it checkpoint_interval".into(),
            });
        };
        let asked = begin_checkpoint(ask).await?;
        self.written(asked).await
    }

    fn failed_at(&self) -> Option<RowsAt> {
        *self.failed_at.lock()
    }

    fn checkpoints(&self) -> Option<CheckpointStatus> {
        self.checkpoints.as_ref().map(|(_, status)| status.lock().clone())
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> StreamError {
    let what = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    StreamError { code: Code::LogicalError, message: format!("the query stopped on a bug: {what}") }
}

/// Opening sources stops when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<std::thread::Result<T>>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> Result<T, StreamError> {
        match (&mut self.0).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(panicked(panic.as_ref())),
            Err(_) => Err(StreamError {
                code: Code::QueryWasCancelled,
                message: "the server is shutting down".into(),
            }),
        }
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
