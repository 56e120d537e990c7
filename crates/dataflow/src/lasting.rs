//! The side of a task that lets its query be stopped at any moment and go on.
//!
//! ```text
//! asked -> barrier into every source at one place -> snapshot of every operator, sink's promise
//!       -> beside the task: what was sent is durable, the epoch's file is durable -> answered
//! ```
//!
//! Invariants
//! - an epoch counts only once everything that was sent before its barrier is durable;
//! - at most one is being written; who asks meanwhile gets the next one.
//!
//! Not here: what is in an epoch's file (`checkpoint`), passing positions again (`task`).

use crate::checkpoint::{self, KeptEpochs, Saved, Sizes};
use crate::graph::Snapshot;
use crate::identity::Identity;
use crate::state::PendingRuns;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use weir_base::{Clock, Code};
use weir_plan::{
    CheckpointStatus, CheckpointStore, Durable, Epoch, NodeId, Position, SourcePosition, StreamError,
};

/// Requests that wait; who asks beyond waits to ask.
const REQUESTS_MAX: usize = 16;

pub(crate) type Answer = oneshot::Sender<Result<Epoch, StreamError>>;

/// What of a query's checkpoints is seen from outside.
pub(crate) type Status = Arc<parking_lot::Mutex<CheckpointStatus>>;

pub(crate) fn requests() -> (mpsc::Sender<Answer>, mpsc::Receiver<Answer>) {
    mpsc::channel(REQUESTS_MAX)
}

#[derive(Debug)]
pub(crate) struct Keeping {
    pub store: Arc<dyn CheckpointStore>,
    pub identity: Arc<Identity>,
    /// The last epoch that was begun.
    pub epoch: Epoch,
    requests: mpsc::Receiver<Answer>,
    /// Who asked and waits for the one that is being written.
    next: Option<Answer>,
    pub status: Status,
    pub clock: Arc<dyn Clock>,
    /// Sources in the order of positions.
    pub sources: Vec<NodeId>,
    /// Positions to pass before anything else.
    pub written: Vec<Position>,
    /// Those that the restored epoch lies behind.
    pub passed: Vec<Position>,
    writing: Option<JoinHandle<()>>,
    /// Epochs that are kept.
    pub kept: Arc<parking_lot::Mutex<KeptEpochs>>,
    /// The last one could not be written.
    lost: Arc<AtomicBool>,
}

impl Keeping {
    pub fn new(
        store: Arc<dyn CheckpointStore>,
        identity: Arc<Identity>,
        requests: mpsc::Receiver<Answer>,
        clock: Arc<dyn Clock>,
        sources: Vec<NodeId>,
        kept: KeptEpochs,
    ) -> Self {
        Keeping {
            store,
            identity,
            epoch: Epoch(0),
            requests,
            next: None,
            status: Status::default(),
            clock,
            sources,
            written: Vec::new(),
            passed: Vec::new(),
            writing: None,
            kept: Arc::new(parking_lot::Mutex::new(kept)),
            lost: Arc::default(),
        }
    }

    /// Whether the last epoch could not be written; asked once.
    pub fn was_lost(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// Goes on from an epoch; `passed_over`: why from no newer one.
    pub fn stands_at(&mut self, saved: &Saved, passed_over: Option<String>) {
        self.epoch = saved.epoch;
        *self.status.lock() = CheckpointStatus {
            epoch: saved.epoch.0,
            bytes: saved.bytes,
            at_us: saved.at_us,
            needs: needs(&self.sources, &self.kept.lock()),
            passed_over,
            ..CheckpointStatus::default()
        };
    }

    /// Somebody asks for a checkpoint, and none is being written.
    pub fn asked(&mut self) -> Option<Answer> {
        if self.writing.as_ref().is_some_and(|w| !w.is_finished()) {
            return None;
        }
        self.next.take().or_else(|| self.requests.try_recv().ok())
    }

    /// Waits until [`Self::asked`] has something to give.
    pub async fn wait(&mut self) {
        if let Some(writing) = &mut self.writing {
            // It answers for itself how it ended.
            let _ = writing.await;
            self.writing = None;
        }
        if self.next.is_none() {
            self.next = self.requests.recv().await;
        }
        if self.next.is_none() {
            // Nobody can ask any more.
            std::future::pending().await
        }
    }

    /// Waits for what is being written.
    pub async fn end(self) {
        if let Some(writing) = self.writing {
            // Who asked for it hears how it ended.
            let _ = writing.await;
        }
    }

    /// Writes an epoch beside the task, once `durable` says that it may count.
    pub fn write(
        &mut self,
        position: Position,
        mut snapshot: Snapshot,
        runs: Vec<(NodeId, PendingRuns)>,
        durable: Durable,
        stopped: Duration,
        answer: Answer,
    ) {
        let (store, identity, status) = (self.store.clone(), self.identity.clone(), self.status.clone());
        let (clock, sources) = (self.clock.clone(), self.sources.clone());
        let (kept, lost) = (self.kept.clone(), self.lost.clone());
        let (epoch, began) = (snapshot.0, clock.monotonic().saturating_sub(stopped));
        self.writing = Some(tokio::spawn(async move {
            let written = async {
                let cut = |e: std::io::Error| {
                    io_failed(&format!("checkpoint {} could not be written", epoch.0), &e)
                };
                for (node, runs) in runs {
                    let runs = runs.durable().await.map_err(cut)?;
                    if let Some((_, state)) = snapshot.1.iter_mut().find(|(id, _)| *id == node) {
                        state.name_runs(&runs);
                    }
                }
                durable.await?;
                let (kept, at_us) = (kept.clone(), clock.now_us());
                let write = move || checkpoint::write(&*store, &kept, &identity, &position, at_us, &snapshot);
                let written = spawn_blocking(write).await.map_err(|e| failed(epoch, &e))?;
                written.map_err(cut)
            };
            let written = written.await;
            lost.store(written.is_err(), Ordering::Relaxed);
            let written = written.map(|Sizes { written, all }| {
                let took_us = clock.monotonic().saturating_sub(began).as_micros() as u64;
                let mut status = status.lock();
                *status = CheckpointStatus {
                    epoch: epoch.0,
                    written_bytes: written,
                    bytes: all,
                    took_us,
                    stopped_us: stopped.as_micros() as u64,
                    at_us: clock.now_us(),
                    needs: needs(&sources, &kept.lock()),
                    passed_over: None,
                };
                epoch
            });
            // Nobody may wait for it any more.
            let _ = answer.send(written);
        }));
    }
}

/// From where on rows may be asked for once more.
fn needs(sources: &[NodeId], kept: &KeptEpochs) -> Vec<(NodeId, SourcePosition)> {
    let oldest = kept.oldest().map(|p| p.sources.clone()).unwrap_or_default();
    sources.iter().copied().zip(oldest).collect()
}

fn failed(epoch: Epoch, e: &dyn std::fmt::Display) -> StreamError {
    StreamError {
        code: Code::LogicalError,
        message: format!("writing checkpoint {} stopped on a bug: {e}", epoch.0),
    }
}

/// What could not be written or read of a checkpoint.
pub(crate) fn io_failed(what: &str, e: &std::io::Error) -> StreamError {
    let code = match e.kind() {
        std::io::ErrorKind::StorageFull => Code::NotEnoughSpace,
        std::io::ErrorKind::InvalidData => Code::CorruptedData,
        _ => Code::IoError,
    };
    StreamError { code, message: format!("{what}: {e}") }
}
