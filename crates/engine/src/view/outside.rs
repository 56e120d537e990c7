//! The end of a view that writes to an external stream.
//!
//! ```text
//! rows -> bounded channel -> a task: writes them -> flush, or a transaction with how far the view has come
//! ```
//!
//! Invariants
//! - a checkpoint counts only once all that was sent before it is durable on the other side: each row is there
//!   at least once;
//! - with transactions rows and position are there together: after a restart the last committed position says
//!   where to go on, and what lies before it is not written again.
//!
//! Not here: the other side (`connect`).

use super::sink::Fitting;
use crate::Progress as QueryProgress;
use crate::query::Late;
use arrow::array::RecordBatch;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use weir_base::{Code, MemoryBudget, Reservation};
use weir_plan::{Durable, Element, Epoch, ExternalWriter, LateRows, Position, Sink, StreamError};

/// Batches that wait to be written.
const WAITING: usize = 4;
/// Rows go on their way by themselves; for so long nobody waits for the other side's word, as long as more come.
const FLUSH_EVERY: Duration = Duration::from_millis(20);
/// Between two transactions, where more and more rows come.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

enum Said {
    Rows(RecordBatch, Reservation),
    Complete(Position),
    /// To be answered once all before is durable.
    Barrier(oneshot::Sender<()>),
}

/// Rows that are durable, and why no more will be.
type Written = (u64, Option<StreamError>);

pub(super) struct ExternalSink {
    fitting: Fitting,
    to: mpsc::Sender<Said>,
    written: watch::Receiver<Written>,
    /// Up to where it has written before, as long as the query has not come there.
    ahead: Option<Position>,
    memory: Arc<MemoryBudget>,
    progress: Arc<QueryProgress>,
    rows: watch::Sender<u64>,
    late: Late,
}

impl ExternalSink {
    /// `reached`: of a transactional writer, how far it has come by the other side.
    pub fn new(
        fitting: Fitting,
        writer: Box<dyn ExternalWriter>,
        (transactional, reached): (bool, Option<Position>),
        (memory, progress): (Arc<MemoryBudget>, Arc<QueryProgress>),
        rows: watch::Sender<u64>,
        late: Late,
    ) -> Self {
        let (to, from) = mpsc::channel(WAITING);
        let (told, written) = watch::channel((0, None));
        let writing = Writing {
            writer,
            transactional,
            told,
            rows: rows.clone(),
            progress: progress.clone(),
            unflushed: 0,
            flushed: 0,
            at: None,
            committed: Instant::now(),
        };
        tokio::spawn(writing.run(from));
        ExternalSink { fitting, to, written, ahead: reached, memory, progress, rows, late }
    }

    /// Returns with why nothing more can be written.
    pub fn failed(&self) -> impl Future<Output = StreamError> + Send + use<> {
        let mut written = self.written.clone();
        async move {
            // An error means that it has ended with the query.
            let failed = written.wait_for(|(_, error)| error.is_some()).await.ok().map(|now| now.1.clone());
            match failed {
                Some(error) => error.unwrap_or_else(gone),
                None => std::future::pending().await,
            }
        }
    }

    async fn say(&self, what: Said) -> Result<(), StreamError> {
        self.to.send(what).await.map_err(|_| self.written.borrow().1.clone().unwrap_or_else(gone))
    }
}

fn gone() -> StreamError {
    StreamError { code: Code::QueryWasCancelled, message: "the view has ended".into() }
}

#[async_trait::async_trait]
impl Sink for ExternalSink {
    async fn send(&mut self, element: Element) -> Result<(), StreamError> {
        let Element::Rows(rows) = element else { return Ok(()) };
        let n = rows.batch.num_rows() as u64;
        for counter in [&self.progress.given_rows, &self.progress.taken_rows, &self.progress.result_rows] {
            counter.fetch_add(n, Ordering::Relaxed);
        }
        if self.ahead.is_some() {
            // It was written before.
            self.rows.send_modify(|all| *all += n);
            return Ok(());
        }
        let batch = self.fitting.fit(&rows.batch)?;
        let held = self.memory.reserve(batch.get_array_memory_size() as u64).map_err(|e| StreamError {
            code: Code::MemoryLimitExceeded,
            message: format!("rows to be written: {e}; raise max_memory_usage"),
        })?;
        self.say(Said::Rows(batch, held)).await
    }

    async fn complete(&mut self, at: &Position) -> Result<(), StreamError> {
        if self.ahead.is_some() { Ok(()) } else { self.say(Said::Complete(at.clone())).await }
    }

    async fn passed(&mut self, at: &Position) -> Result<(), StreamError> {
        if self.ahead.as_ref().is_some_and(|ahead| ahead.within(at)) {
            self.ahead = None;
        }
        Ok(())
    }

    async fn barrier(&mut self, _epoch: Epoch) -> Result<Durable, StreamError> {
        let (answer, answered) = oneshot::channel();
        self.say(Said::Barrier(answer)).await?;
        let written = self.written.clone();
        Ok(Box::pin(
            async move { answered.await.map_err(|_| written.borrow().1.clone().unwrap_or_else(gone)) },
        ))
    }

    async fn late(&mut self, rows: LateRows) -> Result<(), StreamError> {
        self.late.take(rows).await
    }
}

/// Writes; ends with the sink.
struct Writing {
    writer: Box<dyn ExternalWriter>,
    transactional: bool,
    told: watch::Sender<Written>,
    /// For who waits until rows are written.
    rows: watch::Sender<u64>,
    progress: Arc<QueryProgress>,
    /// Rows written since the last flush, and before.
    unflushed: u64,
    flushed: u64,
    /// What is written is complete to there; `None` = rows came since.
    at: Option<Position>,
    /// The last transaction; of who writes without, when the first row came that was not flushed.
    committed: Instant,
}

impl Writing {
    async fn run(mut self, mut from: mpsc::Receiver<Said>) {
        let nobody = self.told.clone();
        tokio::select! {
            done = self.work(&mut from) => {
                if let Err(e) = done {
                    self.told.send_modify(|(_, error)| *error = Some(e));
                }
            }
            // What is not durable is made again from the checkpoint.
            () = nobody.closed() => {}
        }
    }

    async fn work(&mut self, from: &mut mpsc::Receiver<Said>) -> Result<(), StreamError> {
        loop {
            let said = match from.try_recv() {
                Ok(said) => said,
                Err(_) => {
                    // Nothing more is at hand: what there is goes on its way.
                    let wait = self.due();
                    if wait == Some(Duration::ZERO) {
                        self.flush().await?;
                        continue;
                    }
                    let said = tokio::select! {
                        said = from.recv() => said,
                        () = tokio::time::sleep(wait.unwrap_or(COMMIT_EVERY)), if wait.is_some() => continue,
                    };
                    match said {
                        Some(said) => said,
                        None => return Ok(()),
                    }
                }
            };
            match said {
                Said::Rows(batch, held) => {
                    self.at = None;
                    if self.unflushed == 0 && !self.transactional {
                        self.committed = Instant::now();
                    }
                    self.writer.write(&batch).await?;
                    self.unflushed += batch.num_rows() as u64;
                    drop(held);
                }
                Said::Complete(at) => {
                    self.at = Some(at);
                    let due = self.committed.elapsed() >= COMMIT_EVERY || self.writer.is_full();
                    if self.transactional && due {
                        self.flush().await?;
                    }
                }
                Said::Barrier(answer) => {
                    self.flush().await?;
                    // Who asked may have left.
                    let _ = answer.send(());
                }
            }
        }
    }

    /// How long until a flush; `None` = there is nothing to flush.
    fn due(&self) -> Option<Duration> {
        match (self.unflushed, self.transactional, &self.at) {
            (0, _, _) | (_, true, None) => None,
            (_, true, Some(_)) => Some(self.writer.linger().saturating_sub(self.committed.elapsed())),
            (_, false, _) => Some(FLUSH_EVERY.saturating_sub(self.committed.elapsed())),
        }
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        if self.unflushed == 0 {
            return Ok(());
        }
        let at = self.at.as_ref().filter(|_| self.transactional);
        if self.transactional && at.is_none() {
            return Err(StreamError {
                code: Code::LogicalError,
                message: "rows were to be committed before all of their input was taken in".into(),
            });
        }
        self.writer.flush(at).await?;
        self.committed = Instant::now();
        self.flushed += self.unflushed;
        let rows = std::mem::take(&mut self.unflushed);
        self.rows.send_modify(|all| *all += rows);
        self.progress.written_rows.fetch_add(rows, Ordering::Relaxed);
        self.told.send_modify(|(all, _)| *all = self.flushed);
        Ok(())
    }
}
