//! Runs a bounded plan on the compute runtime and hands out its batches.

use super::memory::BudgetPool;
use super::registry::QueryEntry;
use super::state::{Event, Finish};
use arrow::array::RecordBatch;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::stream::{BoxStream, unfold};
use futures::{FutureExt, StreamExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weir_base::{Code, Error, Result};
use weir_plan::StreamError;

/// Batches computed ahead of the client.
const BATCHES_AHEAD: usize = 2;
/// How often the numbers of rows read so far are brought up to date.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Plans and starts a query. Dropping the stream cancels it.
///
/// # Errors
/// Planning errors come at once, others in the stream: 241 naming the operator, 159, 394.
pub async fn start_bounded(
    entry: Arc<QueryEntry>,
    plan: LogicalPlan,
    state: &SessionState,
    compute: &Handle,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    entry.on(Event::Start);
    let state = state.clone();
    let pool = Arc::new(BudgetPool::new(entry.memory.clone()));
    let planning = async move {
        let plan = yielding(state.create_physical_plan(&plan).await?)?;
        let env =
            RuntimeEnvBuilder::from_runtime_env(state.runtime_env()).with_memory_pool(pool).build_arc()?;
        let task = TaskContext::from(&state).with_runtime(env);
        Ok::<_, datafusion::error::DataFusionError>((plan, Arc::new(task)))
    };
    let deadline = entry.spec.execution_max.map(|limit| tokio::time::Instant::now() + limit);
    let mut planning = AbortOnDrop(compute.spawn(AssertUnwindSafe(planning).catch_unwind()));
    let planned = tokio::select! {
        planned = &mut planning.0 => flat(planned),
        () = entry.killed.cancelled() => Err((Finish::Cancelled, entry.killed_error())),
        () = until(deadline) => Err((Finish::Failed, entry.timeout_error())),
    };
    let (plan, task) = match planned {
        Ok(Ok(planned)) => planned,
        Ok(Err(e)) => {
            let e = Error::from(StreamError::from(e));
            entry.end(Finish::Failed, Some(&e));
            return Err(e);
        }
        Err((finish, e)) => {
            entry.end(finish, Some(&e));
            return Err(e);
        }
    };
    entry.on(Event::Run);
    let (to, from) = mpsc::channel(BATCHES_AHEAD);
    let drive = drive(entry.clone(), plan, task, to);
    let driver = AbortOnDrop(compute.spawn(AssertUnwindSafe(drive).catch_unwind()));
    let output = Output { entry, from, driver, deadline, ended: false };
    let batches = unfold(output, |mut output| async move {
        let item = output.next().await?;
        Some((item, output))
    });
    Ok(batches.boxed())
}

/// Makes operators that give more rows than they take hand the thread back now and then: only
/// leaves do by themselves, so that a large join between them could not be cancelled.
fn yielding(plan: Arc<dyn ExecutionPlan>) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let multiplies = |name: &str| name.ends_with("JoinExec") || name == "UnnestExec";
    plan.transform_up(|node| {
        Ok(if multiplies(node.name()) {
            let node: Arc<dyn ExecutionPlan> = Arc::new(CooperativeExec::new(node));
            Transformed::yes(node)
        } else {
            Transformed::no(node)
        })
    })
    .data()
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

type Caught<T> = std::result::Result<std::thread::Result<T>, tokio::task::JoinError>;

/// A panic is this query's failure.
fn flat<T>(outcome: Caught<T>) -> std::result::Result<T, (Finish, Error)> {
    let what = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(panic)) => panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into()),
        Err(_) => {
            return Err((
                Finish::Cancelled,
                Error::new(Code::QueryWasCancelled, "the server is shutting down"),
            ));
        }
    };
    Err((Finish::Failed, Error::new(Code::LogicalError, format!("the query stopped on a bug: {what}"))))
}

/// Pulls the plan's batches until its end or until nobody wants them.
async fn drive(
    entry: Arc<QueryEntry>,
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    to: mpsc::Sender<RecordBatch>,
) -> std::result::Result<(), datafusion::error::DataFusionError> {
    let mut stream: SendableRecordBatchStream = execute_stream(plan.clone(), task)?;
    let mut beat = tokio::time::interval(PROGRESS_EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let batch = tokio::select! {
            biased;
            batch = stream.next() => batch,
            _ = beat.tick() => {
                read_so_far(&entry, &plan);
                continue;
            }
        };
        let Some(batch) = batch else { break };
        let batch = batch?;
        if batch.num_rows() > 0 {
            entry.progress.result_rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            read_so_far(&entry, &plan);
            if to.send(batch).await.is_err() {
                return Ok(());
            }
        }
    }
    read_so_far(&entry, &plan);
    Ok(())
}

/// Takes the numbers of the plan's leaves over into the query's progress.
fn read_so_far(entry: &QueryEntry, plan: &Arc<dyn ExecutionPlan>) {
    fn leaves(plan: &Arc<dyn ExecutionPlan>, rows: &mut u64, bytes: &mut u64) {
        let children = plan.children();
        if children.is_empty() {
            if let Some(metrics) = plan.metrics() {
                *rows += metrics.output_rows().unwrap_or(0) as u64;
                *bytes += metrics.sum_by_name("bytes_scanned").map_or(0, |v| v.as_usize()) as u64;
            }
        } else {
            children.into_iter().for_each(|c| leaves(c, rows, bytes));
        }
    }
    let (mut rows, mut bytes) = (0, 0);
    leaves(plan, &mut rows, &mut bytes);
    entry.progress.read_rows.store(rows, Ordering::Relaxed);
    entry.progress.read_bytes.store(bytes, Ordering::Relaxed);
}

type Driven = std::thread::Result<std::result::Result<(), datafusion::error::DataFusionError>>;

struct Output {
    entry: Arc<QueryEntry>,
    from: mpsc::Receiver<RecordBatch>,
    driver: AbortOnDrop<Driven>,
    deadline: Option<tokio::time::Instant>,
    ended: bool,
}

impl Output {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        if self.ended {
            return None;
        }
        let (finish, error) = tokio::select! {
            biased;
            () = self.entry.killed.cancelled() => (Finish::Cancelled, Some(self.entry.killed_error())),
            () = until(self.deadline) => (Finish::Failed, Some(self.entry.timeout_error())),
            batch = self.from.recv() => match batch {
                Some(batch) => return Some(Ok(batch)),
                None => match flat((&mut self.driver.0).await) {
                    Ok(Ok(())) => (Finish::Finished, None),
                    Ok(Err(e)) => (Finish::Failed, Some(StreamError::from(e).into())),
                    Err((finish, e)) => (finish, Some(e)),
                },
            },
        };
        self.ended = true;
        self.driver.0.abort();
        self.entry.end(finish, error.as_ref());
        error.map(Err)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.ended {
            self.entry.end(Finish::Cancelled, None);
        }
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
