//! Runs an unbounded plan and hands out its rows.

use super::buffer::{Late, buffer};
use super::registry::QueryEntry;
use super::state::{Event, Finish};
use crate::source::StreamSources;
use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, watch};
use weir_base::{Clock, Error, Result};
use weir_plan::{Lasting, Running, Runtime, SourceFactory, StreamPlan};

pub struct StreamingQuery {
    /// Never ends until cancelled or a LIMIT is reached. Dropping it cancels the query.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// What the query's owner should know, for example that history begins later than asked.
    pub warnings: Vec<String>,
    pub running: Arc<dyn Running>,
}

/// Starts a plan. Returns once its sources are open: rows inserted after that are live. `lasting`: it keeps
/// checkpoints.
///
/// # Errors
/// What opening a source says; code 394 when killed meanwhile.
pub async fn start_streaming(
    entry: Arc<QueryEntry>,
    plan: StreamPlan,
    sources: StreamSources,
    runtime: &dyn Runtime,
    clock: Arc<dyn Clock>,
    lasting: Option<Lasting>,
) -> Result<StreamingQuery> {
    entry.on(Event::Start);
    let late = Late::of(&entry);
    let (told, taken) = lasting.as_ref().map(|_| watch::channel(0)).unzip();
    let (sink, from) =
        buffer(entry.spec.output_buffer_bytes_max, entry.progress.clone(), clock.clone(), late, taken);
    let sources = sources.for_plan(&plan.root, clock.clone());
    let (warnings, positions) = (sources.warnings(), sources.sources());
    let factory: Arc<dyn SourceFactory> = Arc::new(sources);
    let shown = Arc::new(plan.root.clone());
    let started = tokio::select! {
        started = runtime.start(plan, factory, Box::new(sink), clock, entry.memory.clone(), lasting) => started,
        () = entry.killed.cancelled() => {
            entry.end(Finish::Cancelled, None);
            return Err(entry.killed_error());
        }
    };
    let running = match started {
        Ok(running) => running,
        Err(e) => {
            let e = Error::from(e);
            entry.end(Finish::Failed, Some(&e));
            return Err(e);
        }
    };
    entry.attach(shown, positions, running.clone());
    entry.on(Event::Run);
    let deadline = entry.spec.execution_max.map(|limit| tokio::time::Instant::now() + limit);
    let handle = running.clone();
    let output = Output { entry, running, from, deadline, ended: false, taken: 0, told };
    let batches = unfold(output, |mut output| async move {
        let item = output.next().await?;
        Some((item, output))
    });
    Ok(StreamingQuery { batches: batches.boxed(), warnings: warnings.all(), running: handle })
}

struct Output {
    entry: Arc<QueryEntry>,
    running: Arc<dyn Running>,
    from: mpsc::Receiver<(RecordBatch, tokio::sync::OwnedSemaphorePermit)>,
    deadline: Option<tokio::time::Instant>,
    ended: bool,
    /// Rows handed out. Who comes back for more has taken them.
    taken: u64,
    told: Option<watch::Sender<u64>>,
}

impl Output {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        if self.ended {
            return None;
        }
        if let Some(told) = &self.told {
            told.send_replace(self.taken);
        }
        let deadline = self.deadline;
        let timeout = async move {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let (finish, error) = tokio::select! {
            biased;
            () = self.entry.killed.cancelled() => (Finish::Cancelled, Some(self.entry.killed_error())),
            () = timeout => (Finish::Failed, Some(self.entry.timeout_error())),
            item = self.from.recv() => match item {
                Some((batch, _room)) => {
                    let n = batch.num_rows() as u64;
                    self.taken += n;
                    self.entry.progress.taken_rows.fetch_add(n, Ordering::Relaxed);
                    return Some(Ok(batch));
                }
                // The task has let go of its sink: it has ended or is about to.
                None => match self.running.join().await {
                    Ok(()) => (Finish::Finished, None),
                    Err(e) => (Finish::Failed, Some(e.into())),
                },
            },
        };
        self.ended = true;
        self.running.cancel();
        self.entry.end(finish, error.as_ref());
        error.map(Err)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.ended {
            self.running.cancel();
            self.entry.end(Finish::Cancelled, None);
        }
    }
}
