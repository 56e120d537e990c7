//! The task loop: polls sources in turn, feeds the graph, waits for the sink.
//!
//! Back-pressure is the sink's `send`: while it waits, no source is polled, so nothing queues
//! here beyond what one element became. A source with a barrier in flight is not polled
//! until that barrier has left at the top.
//!
//! A query that lasts says to its sink how far it has come whenever all that became of its rows is sent, takes
//! checkpoints between elements when it is asked, and after a restart passes first where results were
//! written before.
//!
//! Not here: how an element moves through operators (`graph`), starting and joining (`runtime`), what is
//! written of a checkpoint (`lasting`).

use crate::graph::{Graph, Leaf, Snapshot};
use crate::lasting::{Answer, Keeping};
use crate::operator::Wrote;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use weir_base::{Clock, Code};
use weir_plan::{Durable, Element, Epoch, Position, Rows, RowsAt, Sink, StreamError};

/// Batches above this are fed in slices, so that a query can be cancelled between them.
pub(crate) const SLICE_ROWS_MAX: usize = 65_536;
/// After so many rows without waiting the thread is offered to other queries.
const ROWS_BEFORE_YIELD: usize = 32_768;

/// How long a query that comes to where it stood waits before it looks at where it is.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Groups of a checkpoint that are written between two elements.
const THINGS_AT_ONCE: usize = 8_192;
/// How long a query without rows waits for the disk to take more of a checkpoint.
const LOOK_AT_DISK: Duration = Duration::from_millis(1);
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
    /// Of a query that lasts.
    pub keeping: Option<Keeping>,
    pub told: Told,
    /// What was being taken in when it failed.
    pub failed_at: FailedAt,
}

pub(crate) type FailedAt = Arc<parking_lot::Mutex<Option<RowsAt>>>;

/// What was said to the sink of a lasting query.
#[derive(Default)]
pub(crate) struct Told {
    /// Rows were sent since it heard how far the query has come.
    rows: bool,
    /// Results left because of the clock since the last row was taken in.
    ticked: bool,
    /// What it promised at the barrier that has just left.
    durable: Option<Durable>,
}

impl Task {
    pub async fn run(mut self) -> Result<Finish, StreamError> {
        let finish = self.work().await;
        if finish.is_err() {
            self.note_failed_source();
        }
        let Task { graph, keeping, .. } = self;
        // A checkpoint that is being written is over before anybody starts from another.
        drop(graph);
        if let Some(keeping) = keeping {
            keeping.end().await;
        }
        finish
    }

    /// Rows that a source could not give.
    fn note_failed_source(&self) {
        let mut failed_at = self.failed_at.lock();
        let failed = |leaf: &Leaf| Some((leaf.id, leaf.source.as_ref()?.failed_at()?));
        if let (None, Some((node, (shard, from, end)))) =
            (&*failed_at, self.graph.leaves.iter().find_map(failed))
        {
            *failed_at = Some(RowsAt { node, shard, from, end });
        }
    }

    async fn work(&mut self) -> Result<Finish, StreamError> {
        self.graph.keep_snapshots = self.snapshots.is_some() || self.keeping.is_some();
        self.graph.begin()?;
        if !self.pass_written().await? {
            return Ok(Finish::Cancelled);
        }
        let mut turn = 0;
        let mut rows_since_wait = 0;
        loop {
            if !self.settle().await? {
                return Ok(Finish::Cancelled);
            }
            self.say_how_far().await?;
            if self.graph.ended {
                return Ok(Finish::Ended);
            }
            if let Some(answer) = self.keeping.as_mut().and_then(Keeping::asked) {
                self.checkpoint(answer).await?;
                continue;
            }
            if rows_since_wait >= ROWS_BEFORE_YIELD {
                rows_since_wait = 0;
                tokio::task::yield_now().await;
            }
            let wrote = self.graph.write_more(THINGS_AT_ONCE)?;
            let due = self.graph.tick_due();
            if due.is_some_and(|due| due <= self.graph.clock().now_us()) {
                self.graph.tick()?;
                self.told.ticked |= self.graph.has_rows();
                continue;
            }
            let (leaf, element) = match self.ready(turn)? {
                Some(found) => found,
                None if wrote == Wrote::More => {
                    tokio::task::yield_now().await;
                    if *self.cancel.borrow() {
                        return Ok(Finish::Cancelled);
                    }
                    continue;
                }
                None => {
                    rows_since_wait = 0;
                    let waits = wrote == Wrote::Waits;
                    let mut cancel = self.cancel.clone();
                    let clock = self.graph.clock().clone();
                    tokio::select! {
                        biased;
                        () = cancelled(&mut cancel) => return Ok(Finish::Cancelled),
                        () = asked(&mut self.keeping) => continue,
                        () = reached(clock, due) => continue,
                        () = disk(waits) => continue,
                        found = wait_any(&mut self.graph, turn) => found?,
                    }
                }
            };
            turn = leaf + 1;
            if let Element::Rows(rows) = &element {
                rows_since_wait += rows.batch.num_rows();
            }
            if !self.feed(leaf, element).await? {
                return Ok(Finish::Cancelled);
            }
        }
    }

    /// Takes in an element; `false` = cancelled meanwhile.
    async fn feed(&mut self, leaf: usize, element: Element) -> Result<bool, StreamError> {
        let fed = self.feed_slices(leaf, element).await;
        let now = self.graph.leaves[leaf].position();
        let before = std::mem::replace(&mut self.graph.leaves[leaf].fed, now.clone());
        if fed.is_err() {
            let node = self.graph.leaves[leaf].id;
            let moved = before.iter().zip(&now).enumerate().find(|(_, (a, b))| a < b);
            *self.failed_at.lock() =
                moved.map(|(shard, (from, end))| RowsAt { node, shard, from: *from, end: *end });
        }
        fed
    }

    /// A large batch in slices.
    async fn feed_slices(&mut self, leaf: usize, element: Element) -> Result<bool, StreamError> {
        let Element::Rows(rows) = element else {
            self.graph.feed(leaf, element)?;
            return Ok(true);
        };
        self.told.ticked = false;
        if rows.batch.num_rows() <= SLICE_ROWS_MAX {
            self.graph.feed(leaf, Element::Rows(rows))?;
            return Ok(true);
        }
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
                return Ok(false);
            }
            tokio::task::yield_now().await;
        }
        Ok(true)
    }

    /// Says to the sink of a lasting query that all is sent of what its rows became.
    async fn say_how_far(&mut self) -> Result<(), StreamError> {
        if self.keeping.is_some() && std::mem::take(&mut self.told.rows) {
            let at = self.graph.position(self.told.ticked);
            self.sink.complete(&at).await?;
        }
        Ok(())
    }

    /// Sends a barrier through all operators, and has their state written down beside the task.
    async fn checkpoint(&mut self, answer: Answer) -> Result<(), StreamError> {
        let clock = self.graph.clock().clone();
        let began = clock.monotonic();
        let at = self.graph.position(self.told.ticked);
        let Some(keeping) = &mut self.keeping else { return Ok(()) };
        if keeping.was_lost() {
            self.graph.snapshot_lost();
        }
        keeping.epoch = Epoch(keeping.epoch.0 + 1);
        let epoch = keeping.epoch;
        for leaf in 0..self.graph.leaves.len() {
            if self.graph.leaves[leaf].source.is_some() {
                self.graph.feed(leaf, Element::Barrier(epoch))?;
            }
        }
        if !self.drain().await? {
            // Who asked hears it from the channel.
            return Ok(());
        }
        let bug = |what: &str| StreamError { code: Code::LogicalError, message: what.into() };
        let snapshot = self.graph.snapshots.pop().ok_or_else(|| bug("a barrier was lost on its way up"))?;
        let durable = self.told.durable.take().ok_or_else(|| bug("a barrier did not come to the sink"))?;
        let stopped = clock.monotonic().saturating_sub(began);
        if let Some(keeping) = &mut self.keeping {
            let runs = std::mem::take(&mut self.graph.runs);
            keeping.write(at, snapshot, runs, durable, stopped, answer);
        }
        Ok(())
    }

    /// After a restart: comes exactly to each position up to which results were written before, and tells
    /// the sink; `false` = cancelled meanwhile.
    async fn pass_written(&mut self) -> Result<bool, StreamError> {
        let Some(keeping) = &mut self.keeping else { return Ok(true) };
        let (passed, written) = (std::mem::take(&mut keeping.passed), std::mem::take(&mut keeping.written));
        for at in &passed {
            self.sink.passed(at).await?;
        }
        self.sink.passed(&self.graph.position(false)).await?;
        for stop in &written {
            if !self.come_to(stop).await? {
                return Ok(false);
            }
            self.sink.passed(stop).await?;
        }
        for leaf in &mut self.graph.leaves {
            leaf.held = false;
            if let Some(source) = &mut leaf.source {
                source.stop_at(None);
            }
        }
        Ok(true)
    }

    async fn come_to(&mut self, stop: &Position) -> Result<bool, StreamError> {
        for (leaf, at) in self.graph.leaves.iter_mut().zip(&stop.sources) {
            if let Some(source) = &mut leaf.source {
                source.stop_at(Some(&at.next));
            }
        }
        let mut turn = 0;
        loop {
            if !self.settle().await? {
                return Ok(false);
            }
            self.say_how_far().await?;
            let mut there = true;
            for (leaf, at) in self.graph.leaves.iter_mut().zip(&stop.sources) {
                let next = leaf.position();
                leaf.held = leaf.source.is_none() || next.iter().zip(&at.next).all(|(n, stop)| n >= stop);
                there &= leaf.held;
            }
            if there || self.graph.ended {
                break;
            }
            let (leaf, element) = match self.ready(turn)? {
                Some(found) => found,
                None => {
                    let mut cancel = self.cancel.clone();
                    tokio::select! {
                        biased;
                        () = cancelled(&mut cancel) => return Ok(false),
                        found = wait_any(&mut self.graph, turn) => found?,
                        // It may have come there without an element: rows that are gone lie between.
                        () = tokio::time::sleep(LOOK_AGAIN) => continue,
                    }
                }
            };
            turn = leaf + 1;
            if !self.feed(leaf, element).await? {
                return Ok(false);
            }
        }
        // What was known there besides rows.
        for (i, at) in stop.sources.iter().enumerate() {
            let leaf = &self.graph.leaves[i];
            if leaf.source.is_some() && at.backfilled && !leaf.backfilled {
                self.graph.feed(i, Element::EndOfBackfill)?;
            }
            if self.graph.leaves[i].source.is_some() && at.frontier_us > self.graph.leaves[i].frontier_us {
                self.graph.feed(i, Element::Frontier(at.frontier_us))?;
            }
            if !self.settle().await? {
                return Ok(false);
            }
        }
        if stop.ticked {
            self.graph.tick_what_waits()?;
            self.told.ticked = true;
            if !self.settle().await? {
                return Ok(false);
            }
        }
        self.say_how_far().await?;
        Ok(true)
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
            self.told.rows |= matches!(element, Element::Rows(_));
            if let (Element::Barrier(epoch), true) = (&element, self.keeping.is_some()) {
                self.told.durable = Some(self.sink.barrier(*epoch).await?);
                continue;
            }
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
            if leaf.is_asked()
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

/// Returns when somebody wants a checkpoint; never of a query that keeps none.
async fn asked(keeping: &mut Option<Keeping>) {
    match keeping {
        Some(keeping) => keeping.wait().await,
        None => std::future::pending().await,
    }
}

/// Returns when the disk may take more of a checkpoint; never where nobody waits for it.
async fn disk(waits: bool) {
    if waits { tokio::time::sleep(LOOK_AT_DISK).await } else { std::future::pending().await }
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
        .filter(|(_, leaf)| leaf.is_asked())
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
