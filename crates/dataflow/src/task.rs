//! The task loop: polls sources in turn, feeds the graph, waits for the sink.
//!
//! Back-pressure is the sink's `send`: while it waits, no source is polled, so nothing queues
//! here beyond what one element became. A source with a barrier in flight is not polled
//! until that barrier has left at the top.
//!
//! Not here: how an element moves through operators (`graph`), starting and joining (`runtime`).

use crate::graph::{Graph, Snapshot};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use weir_base::{Clock, Code};
use weir_plan::{Element, Rows, Sink, StreamError};

/// Batches above this are fed in slices, so that a query can be cancelled between them.
pub(crate) const SLICE_ROWS_MAX: usize = 65_536;
/// After so many rows without waiting the thread is offered to other queries.
const ROWS_BEFORE_YIELD: usize = 32_768;

/// How long a wait for the clock goes on without looking at it, microseconds.
const CLOCK_LOOK_US: u64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Everything has left, `End` included.
    Ended,
    Cancelled,
}

/// Takes the snapshots of complete epochs. The seam to checkpoints.
pub(crate) type SnapshotTarget = Box<dyn FnMut(Snapshot) + Send>;

pub(crate) struct Task {
    pub graph: Graph,
    pub sink: Box<dyn Sink>,
    pub cancel: watch::Receiver<bool>,
    pub snapshots: Option<SnapshotTarget>,
}

impl Task {
    pub async fn run(mut self) -> Result<Finish, StreamError> {
        self.graph.keep_snapshots = self.snapshots.is_some();
        self.graph.begin()?;
        let mut turn = 0;
        let mut rows_since_wait = 0;
        loop {
            if !self.settle().await? {
                return Ok(Finish::Cancelled);
            }
            if self.graph.ended {
                return Ok(Finish::Ended);
            }
            if rows_since_wait >= ROWS_BEFORE_YIELD {
                rows_since_wait = 0;
                tokio::task::yield_now().await;
            }
            let due = self.graph.tick_due();
            if due.is_some_and(|due| due <= self.graph.clock().now_us()) {
                self.graph.tick()?;
                continue;
            }
            let (leaf, element) = match self.ready(turn)? {
                Some(found) => found,
                None => {
                    rows_since_wait = 0;
                    let mut cancel = self.cancel.clone();
                    let clock = self.graph.clock().clone();
                    tokio::select! {
                        biased;
                        () = cancelled(&mut cancel) => return Ok(Finish::Cancelled),
                        () = reached(clock, due) => continue,
                        found = wait_any(&mut self.graph, turn) => found?,
                    }
                }
            };
            turn = leaf + 1;
            match element {
                Element::Rows(rows) if rows.batch.num_rows() > SLICE_ROWS_MAX => {
                    let mut at = 0;
                    while at < rows.batch.num_rows() && self.graph.leaves[leaf].source.is_some() {
                        let n = SLICE_ROWS_MAX.min(rows.batch.num_rows() - at);
                        let slice = Rows {
                            batch: rows.batch.slice(at, n),
                            weights: rows.weights.as_ref().map(|w| w.slice(at, n)),
                        };
                        self.graph.feed(leaf, Element::Rows(slice))?;
                        at += n;
                        if !self.settle().await? {
                            return Ok(Finish::Cancelled);
                        }
                        tokio::task::yield_now().await;
                    }
                }
                element => {
                    if let Element::Rows(rows) = &element {
                        rows_since_wait += rows.batch.num_rows();
                    }
                    self.graph.feed(leaf, element)?;
                }
            }
        }
    }

    /// Hands results to the sink until no operator has more; `false` = cancelled meanwhile.
    async fn settle(&mut self) -> Result<bool, StreamError> {
        loop {
            if !self.drain().await? {
                return Ok(false);
            }
            if !self.graph.resume()? {
                return Ok(true);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Hands results to the sink; `false` = cancelled meanwhile.
    async fn drain(&mut self) -> Result<bool, StreamError> {
        if let Some(target) = &mut self.snapshots {
            self.graph.snapshots.drain(..).for_each(target);
        }
        if *self.cancel.borrow() {
            return Ok(false);
        }
        while let Some(rows) = self.graph.late.pop_front() {
            tokio::select! {
                biased;
                () = cancelled(&mut self.cancel) => return Ok(false),
                told = self.sink.late(rows) => told?,
            }
        }
        while let Some(element) = self.graph.results.pop_front() {
            tokio::select! {
                biased;
                () = cancelled(&mut self.cancel) => return Ok(false),
                sent = self.sink.send(element) => sent?,
            }
        }
        Ok(true)
    }

    /// An element that is there already, from the source whose turn it is or the next after.
    fn ready(&mut self, turn: usize) -> Result<Option<(usize, Element)>, StreamError> {
        let n = self.graph.leaves.len();
        for k in 0..n {
            let i = (turn + k) % n;
            let leaf = &mut self.graph.leaves[i];
            if leaf.blocked.is_none()
                && let Some(source) = &mut leaf.source
                && let Some(element) = source.try_next()?
            {
                return Ok(Some((i, element)));
            }
        }
        Ok(None)
    }
}

/// Resolves once the query is cancelled; also when whoever could cancel it is gone.
async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    // An error means that the handle was dropped, which cancels too.
    let _ = cancel.wait_for(|c| *c).await;
}

/// Returns when the clock has come to a time; never for none.
async fn reached(clock: Arc<dyn Clock>, due_us: Option<i64>) {
    let Some(due_us) = due_us else { return std::future::pending().await };
    let wait_us = due_us.saturating_sub(clock.now_us()).max(0) as u64;
    // A test's clock does not run with the machine's: it is looked at again and again.
    tokio::time::sleep(Duration::from_micros(wait_us.min(CLOCK_LOOK_US))).await;
}

type Next<'a> = (usize, Pin<Box<dyn Future<Output = Result<Element, StreamError>> + Send + 'a>>);

/// The next element of any source, beginning with the one whose turn it is.
async fn wait_any(graph: &mut Graph, turn: usize) -> Result<(usize, Element), StreamError> {
    let mut waiting: Vec<Next<'_>> = graph
        .leaves
        .iter_mut()
        .enumerate()
        .filter(|(_, leaf)| leaf.blocked.is_none())
        .filter_map(|(i, leaf)| leaf.source.as_mut().map(|s| (i, s.next())))
        .collect();
    if waiting.is_empty() {
        return Err(StreamError {
            code: Code::LogicalError,
            message: "the query waits for sources, but none is left to give anything".into(),
        });
    }
    let first = waiting.iter().position(|(i, _)| *i >= turn).unwrap_or(0);
    waiting.rotate_left(first);
    poll_fn(move |cx| {
        for (i, next) in &mut waiting {
            if let Poll::Ready(element) = next.as_mut().poll(cx) {
                return Poll::Ready(element.map(|e| (*i, e)));
            }
        }
        Poll::Pending
    })
    .await
}
