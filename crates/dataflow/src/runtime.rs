//! Starts plans as tasks on the compute runtime, and holds the handle to each.
//!
//! A panic anywhere in a query is that query's failure, never the process's.

use crate::build::build;
use crate::resources::Resources;
use crate::state::spill::SpillSpace;
use crate::task::{Finish, Task};
use crate::workers::Workers;
use futures::FutureExt;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use weir_base::{Clock, Code, MemoryBudget};
use weir_plan::{
    Lasting, NodeId, QueryCounters, Running, Runtime, Sink, SourceFactory, StreamError, StreamPlan,
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
    /// Returns once all sources are open, so that rows inserted after it count as live.
    async fn start(
        &self,
        plan: StreamPlan,
        sources: Arc<dyn SourceFactory>,
        sink: Box<dyn Sink>,
        clock: Arc<dyn Clock>,
        memory: Arc<MemoryBudget>,
        _lasting: Option<Lasting>,
    ) -> Result<Arc<dyn Running>, StreamError> {
        let mut resources = self.resources.clone();
        resources.memory = Some(memory.clone());
        let prepare = async move {
            let mut opened = HashMap::new();
            for (id, spec) in plan.root.sources() {
                opened.insert(id, sources.open(id, spec).await?);
            }
            Ok::<_, StreamError>(build(&plan, &mut opened, clock, &memory, &resources, &[])?)
        };
        let prepare = AbortOnDrop(self.compute.spawn(AssertUnwindSafe(prepare).catch_unwind()));
        let graph = prepare.join().await??;

        let counters = graph.counters();
        let (cancel, cancelled) = watch::channel(false);
        let (done, outcome) = watch::channel(None);
        let task = Task { graph, sink, cancel: cancelled, snapshots: None };
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
        Ok(Arc::new(Query { counters, cancel, outcome }))
    }
}

/// A started query. Dropping it drops the sender of `cancel`, which the task takes as cancel.
struct Query {
    counters: Vec<(NodeId, &'static str, Arc<QueryCounters>)>,
    cancel: watch::Sender<bool>,
    outcome: watch::Receiver<Option<Result<Finish, StreamError>>>,
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
