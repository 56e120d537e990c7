//! The operators of one task and how they are joined; carries an element from a source up to
//! the sink.
//!
//! Synchronous and without I/O: every element that goes in comes out of the top, turned into
//! zero or more, before the next goes in.
//!
//! Not here: polling sources, waiting for the sink (`task`), what a gate lets pass (`gate`).

use crate::gate::{Gate, Signal};
use crate::operator::{InputId, Operator, Output, Stats, Wrote};
use crate::state::runs::RunFiles;
use crate::state::{PendingRuns, StateReader, StateWriter};
use crate::watermark::Judge;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use weir_base::{Clock, Code, Reservation, SeqNo};
use weir_plan::{
    Element, Epoch, LateRows, NodeId, Position, QueryCounters, Rows, Source, SourcePosition, StreamError,
};

/// Where a node's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Sink,
    Node(usize, InputId),
}

pub(crate) struct Node {
    id: NodeId,
    name: &'static str,
    op: Box<dyn Operator>,
    gate: Gate,
    target: Target,
    ended: bool,
    /// It has more to emit ([`Operator::unfinished`]).
    busy: bool,
    /// Its end follows the last piece.
    ends: bool,
    /// What came meanwhile: at most what one element became, since no source is polled.
    waiting: VecDeque<Waiting>,
    stats: Stats,
    counters: Arc<QueryCounters>,
}

enum Waiting {
    Element(InputId, Element),
    Signal(Signal),
}

impl Node {
    pub fn new(
        id: NodeId,
        name: &'static str,
        op: Box<dyn Operator>,
        inputs: usize,
        target: Target,
        counters: Arc<QueryCounters>,
    ) -> Self {
        Node {
            id,
            name,
            op,
            gate: Gate::new(inputs),
            target,
            ended: false,
            busy: false,
            ends: false,
            waiting: VecDeque::new(),
            stats: Stats::default(),
            counters,
        }
    }
}

/// A source and what the task knows of it.
pub(crate) struct Leaf {
    pub id: NodeId,
    /// `None` once it has ended, or nothing it could give is wanted.
    pub source: Option<Box<dyn Source>>,
    /// It has brought this barrier; not polled until the barrier has left at the top.
    pub blocked: Option<Epoch>,
    /// Who judges its rows, and as which side.
    judge: Option<(usize, usize)>,
    /// Somebody above counts by the clock: rows come behind a tick that says what time it is.
    pub timed: bool,
    /// It has come to where it is to stop for now.
    pub held: bool,
    /// The last frontier it told, microseconds; `i64::MIN` = none.
    pub frontier_us: i64,
    /// Its history is over.
    pub backfilled: bool,
    /// Where it stood when it ended.
    last: Vec<SeqNo>,
    /// Where it stood when its last element had been taken in.
    pub fed: Vec<SeqNo>,
    target: Target,
    counters: Arc<QueryCounters>,
}

impl Leaf {
    /// Per shard, the first row not taken in.
    pub fn position(&self) -> Vec<SeqNo> {
        self.source.as_ref().map_or_else(|| self.last.clone(), |s| s.position())
    }

    /// Whether it is polled.
    pub fn is_asked(&self) -> bool {
        self.blocked.is_none() && !self.held
    }

    pub fn new(
        id: NodeId,
        source: Box<dyn Source>,
        judge: Option<(usize, usize)>,
        target: Target,
        counters: Arc<QueryCounters>,
    ) -> Self {
        let fed = source.position();
        Leaf {
            id,
            source: Some(source),
            blocked: None,
            judge,
            timed: false,
            held: false,
            frontier_us: i64::MIN,
            backfilled: false,
            last: Vec::new(),
            fed,
            target,
            counters,
        }
    }
}

/// State of every operator at one epoch.
pub(crate) type Snapshot = (Epoch, Vec<(NodeId, StateReader)>);

pub(crate) struct Graph {
    pub nodes: Vec<Node>,
    pub leaves: Vec<Leaf>,
    /// Of one source each, or of those that one window reads.
    pub judges: Vec<Judge>,
    clock: Arc<dyn Clock>,
    /// Memory of all operators' state.
    held: Reservation,
    /// The last tick; none before it began.
    ticked_us: i64,
    /// What has left at the top and waits for the sink: at most what one element became.
    pub results: VecDeque<Element>,
    /// Rows left out as late that the sink is to be told of: at most what one element held.
    pub late: VecDeque<LateRows>,
    /// Whether barriers make operators write their state down.
    pub keep_snapshots: bool,
    partial: Vec<(NodeId, StateReader)>,
    /// Where large state goes at a barrier.
    pub files: Option<RunFiles>,
    /// What operators write of the last barrier, and whether they are still at it.
    pub runs: Vec<(NodeId, PendingRuns)>,
    pub writing: bool,
    /// Complete snapshots, for whoever stores them.
    pub snapshots: Vec<Snapshot>,
    /// Nothing follows at the top.
    pub ended: bool,
}

impl Graph {
    pub fn new(clock: Arc<dyn Clock>, held: Reservation) -> Self {
        Graph {
            nodes: Vec::new(),
            leaves: Vec::new(),
            judges: Vec::new(),
            clock,
            held,
            ticked_us: i64::MIN,
            results: VecDeque::new(),
            late: VecDeque::new(),
            keep_snapshots: false,
            partial: Vec::new(),
            files: None,
            runs: Vec::new(),
            writing: false,
            snapshots: Vec::new(),
            ended: false,
        }
    }

    pub fn counters(&self) -> Vec<(NodeId, &'static str, Arc<QueryCounters>)> {
        let nodes = self.nodes.iter().map(|n| (n.id, n.name, n.counters.clone()));
        let leaves = self.leaves.iter().map(|l| (l.id, "Source", l.counters.clone()));
        let mut all: Vec<_> = nodes.chain(leaves).collect();
        all.sort_by_key(|(id, ..)| *id);
        all
    }

    /// Gives operators their state back, before the first element.
    pub fn restore(&mut self, saved: &[(NodeId, StateReader)]) -> Result<(), crate::OpError> {
        for (id, state) in saved {
            if let Some(node) = self.nodes.iter_mut().find(|n| n.id == *id) {
                node.op.restore(state)?;
                node.gate.restore(node.name, state)?;
            }
            let leaf = self.leaves.iter().find(|l| l.id == *id);
            if let Some((judge, _)) = leaf.and_then(|l| l.judge) {
                self.judges[judge].restore(state)?;
            }
        }
        Ok(())
    }

    /// Ends branches that need no input at all (`LIMIT 0`).
    pub fn begin(&mut self) -> Result<(), StreamError> {
        for index in 0..self.nodes.len() {
            self.end_if_done(index)?;
        }
        Ok(())
    }

    /// When an operator next wants a tick: a time that has passed asks for one now.
    pub fn tick_due(&self) -> Option<i64> {
        let due = |n: &Node| {
            let due = n.op.tick_due();
            n.counters.due_us.store(due.unwrap_or(i64::MAX), Relaxed);
            due
        };
        let due = self.nodes.iter().filter(|n| !n.ended).filter_map(due).min()?;
        // A clock that stands still gives one tick, however often it is asked for.
        Some(due.max(self.ticked_us.saturating_add(1)))
    }

    /// Where the query stands.
    pub fn position(&self, ticked: bool) -> Position {
        let source = |l: &Leaf| SourcePosition {
            next: l.position(),
            frontier_us: l.frontier_us,
            backfilled: l.backfilled,
        };
        Position { sources: self.leaves.iter().map(source).collect(), ticked }
    }

    /// Rows wait for the sink.
    pub fn has_rows(&self) -> bool {
        self.results.iter().any(|e| matches!(e, Element::Rows(_)))
    }

    /// Goes on from where a saved query stood; its operators are restored apart.
    pub fn stand_at(&mut self, position: &Position) {
        for (leaf, at) in self.leaves.iter_mut().zip(&position.sources) {
            leaf.frontier_us = at.frontier_us;
            leaf.backfilled = at.backfilled;
            leaf.counters.backfilled.store(at.backfilled, Relaxed);
        }
    }

    /// What waits for the clock leaves as if its time had come.
    pub fn tick_what_waits(&mut self) -> Result<(), StreamError> {
        let due = self.nodes.iter().filter(|n| !n.ended).filter_map(|n| n.op.tick_due()).max();
        match due {
            Some(due) => self.tick_at(due.max(self.clock.now_us())),
            None => Ok(()),
        }
    }

    /// Processing time for every operator.
    pub fn tick(&mut self) -> Result<(), StreamError> {
        self.tick_at(self.clock.now_us())
    }

    fn tick_at(&mut self, now_us: i64) -> Result<(), StreamError> {
        self.ticked_us = now_us;
        for leaf in 0..self.leaves.len() {
            if self.leaves[leaf].source.is_some() {
                self.feed(leaf, Element::Tick(now_us))?;
            }
        }
        Ok(())
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Takes one element of a source all the way up.
    pub fn feed(&mut self, leaf: usize, mut element: Element) -> Result<(), StreamError> {
        if self.leaves[leaf].timed && matches!(element, Element::Rows(_)) {
            let now_us = self.clock.now_us();
            self.send(self.leaves[leaf].target, Element::Tick(now_us))?;
        }
        let l = &mut self.leaves[leaf];
        if let (Element::Rows(rows), Some((judge, side))) = (&element, l.judge)
            && rows.batch.num_rows() > 0
        {
            let batch = self.judges[judge].rows(side, &rows.batch)?;
            element = Element::Rows(Rows { batch, weights: rows.weights.clone() });
        }
        match &element {
            Element::Rows(rows) => {
                let n = rows.batch.num_rows() as u64;
                if n == 0 {
                    return Ok(());
                }
                l.counters.rows_in.fetch_add(n, Relaxed);
                l.counters.rows_out.fetch_add(n, Relaxed);
                l.counters.batches_in.fetch_add(1, Relaxed);
                l.counters.idle.store(false, Relaxed);
                l.counters.came_us.store(self.clock.now_us(), Relaxed);
            }
            Element::Watermark(at) => l.counters.rose(*at, self.clock.now_us()),
            Element::Idle => l.counters.idle.store(true, Relaxed),
            Element::Barrier(epoch) => l.blocked = Some(*epoch),
            Element::End => {
                l.last = l.source.take().map(|s| s.position()).unwrap_or_default();
                if let Some((judge, side)) = l.judge {
                    self.judges[judge].end(side);
                    self.tell(leaf)?;
                }
            }
            Element::EndOfBackfill => {
                // What a restored query replays was live when it came first.
                if std::mem::replace(&mut l.backfilled, true) {
                    return Ok(());
                }
                l.counters.backfilled.store(true, Relaxed);
                if let Some((judge, side)) = l.judge {
                    self.judges[judge].end_of_backfill(side)?;
                    self.tell(leaf)?;
                }
            }
            Element::Frontier(append_us) => {
                l.frontier_us = l.frontier_us.max(*append_us);
                if let Some((judge, _)) = l.judge {
                    self.judges[judge].frontier(*append_us);
                }
                self.tell(leaf)?;
                // What one of several sources in one order says holds for all of them.
                for target in self.sides(leaf) {
                    self.send(target, Element::Frontier(*append_us))?;
                }
                return Ok(());
            }
            Element::Tick(_) | Element::KeyWatermarks(_) => {}
        }
        if let (Element::Barrier(_), Some((judge, _)), true) =
            (&element, self.leaves[leaf].judge, self.keep_snapshots)
            && self.of_judge(judge).all(|l| l.blocked.is_some() || l.source.is_none())
        {
            // Barriers come at one place of the log: the last one to come finds what all have seen.
            let mut state = StateWriter::default();
            self.judges[judge].save(&mut state);
            self.partial.push((self.leaves[leaf].id, state.finish()));
        }
        let (target, rows) = (self.leaves[leaf].target, matches!(element, Element::Rows(_)));
        self.send(target, element)?;
        if rows { self.tell(leaf) } else { Ok(()) }
    }

    fn of_judge(&self, judge: usize) -> impl Iterator<Item = &Leaf> {
        self.leaves.iter().filter(move |l| l.judge.is_some_and(|(of, _)| of == judge))
    }

    /// Where sources with this one's judge give their rows to; of one that judges nothing its own target.
    fn sides(&self, leaf: usize) -> Vec<Target> {
        match self.leaves[leaf].judge {
            None => vec![self.leaves[leaf].target],
            Some((judge, _)) => self.of_judge(judge).map(|l| l.target).collect(),
        }
    }

    /// Sends the watermark of a source that judges, if it rose, and to those with the same judge.
    fn tell(&mut self, leaf: usize) -> Result<(), StreamError> {
        let l = &mut self.leaves[leaf];
        let Some((judge, side)) = l.judge else { return Ok(()) };
        let judge = &mut self.judges[judge];
        l.counters.future_rows.store(judge.future_rows(side), Relaxed);
        l.counters.set_shards(judge.shards(side));
        let target = l.target;
        let (keys, at) = (judge.tell_keys(), judge.tell());
        let keys_held = judge.keys_held();
        // What sources hold together is counted with the first of them.
        let of = l.judge.map(|(judge, _)| judge);
        let first = self.leaves.iter_mut().find(|l| l.judge.map(|(judge, _)| judge) == of);
        if let (Some(held), Some(l)) = (keys_held, first) {
            l.counters.keys.store(held.0, Relaxed);
            let before = l.counters.state_bytes.swap(held.1, Relaxed);
            match held.1.checked_sub(before) {
                None => self.held.shrink(before - held.1),
                Some(more) => self.held.grow(more).map_err(|e| StreamError {
                    code: Code::MemoryLimitExceeded,
                    message: format!(
                        "watermarks of {} keys take {} bytes: {e}; raise max_memory_usage or lower partition_lag_max_ms",
                        held.0, held.1
                    ),
                })?,
            }
        }
        if let Some(keys) = keys {
            self.send(target, Element::KeyWatermarks(keys))?;
        }
        let Some(at) = at else { return Ok(()) };
        let (now_us, of) = (self.clock.now_us(), self.leaves[leaf].judge);
        self.leaves.iter().filter(|l| l.judge.map(|j| j.0) == of.map(|j| j.0)).for_each(|l| {
            l.counters.rose(at, now_us);
        });
        self.sides(leaf).into_iter().try_for_each(|target| self.send(target, Element::Watermark(at)))
    }

    fn send(&mut self, target: Target, element: Element) -> Result<(), StreamError> {
        match target {
            Target::Sink => self.leave(element),
            Target::Node(index, from) => self.enter(index, from, element),
        }
    }

    fn leave(&mut self, element: Element) -> Result<(), StreamError> {
        match element {
            Element::Barrier(epoch) => {
                self.leaves.iter_mut().for_each(|l| l.blocked = None);
                if self.keep_snapshots {
                    let states = std::mem::take(&mut self.partial);
                    self.snapshots.push((epoch, states));
                }
                self.results.push_back(Element::Barrier(epoch));
            }
            Element::End => {
                self.ended = true;
                self.results.push_back(Element::End);
            }
            Element::Tick(_) | Element::Frontier(_) | Element::KeyWatermarks(_) => {}
            other => self.results.push_back(other),
        }
        Ok(())
    }

    fn enter(&mut self, index: usize, from: InputId, element: Element) -> Result<(), StreamError> {
        let node = &mut self.nodes[index];
        if node.ended {
            return Ok(());
        }
        if node.busy {
            node.waiting.push_back(Waiting::Element(from, element));
            return Ok(());
        }
        let mut signals = Vec::new();
        let misaligned =
            |e: crate::gate::Misaligned| StreamError { code: Code::LogicalError, message: e.to_string() };
        match element {
            Element::Rows(rows) => {
                node.gate.rows(from);
                node.counters.rows_in.fetch_add(rows.batch.num_rows() as u64, Relaxed);
                node.counters.batches_in.fetch_add(1, Relaxed);
                node.counters.idle.store(false, Relaxed);
                return self.call(index, |op, out| op.rows(from, rows, out));
            }
            Element::Watermark(at) => node.gate.watermark(from, at, &mut signals),
            Element::Idle => node.gate.idle(from, &mut signals),
            Element::Tick(now_us) => node.gate.tick(now_us, &mut signals),
            Element::Frontier(append_us) => node.gate.frontier(from, append_us, &mut signals),
            Element::KeyWatermarks(marks) => {
                return self.call(index, |op, out| op.key_watermarks(&marks, out));
            }
            Element::EndOfBackfill => node.gate.end_of_backfill(from, &mut signals),
            Element::Barrier(epoch) => {
                node.gate.barrier(from, epoch, &mut signals).map_err(misaligned)?;
            }
            Element::End => node.gate.end(from, &mut signals).map_err(misaligned)?,
        }
        for signal in signals {
            self.signal(index, signal)?;
        }
        Ok(())
    }

    fn signal(&mut self, index: usize, signal: Signal) -> Result<(), StreamError> {
        let node = &mut self.nodes[index];
        if node.ended {
            return Ok(());
        }
        if node.busy {
            node.waiting.push_back(Waiting::Signal(signal));
            return Ok(());
        }
        match signal {
            Signal::Watermark(at) => {
                self.nodes[index].counters.rose(at, self.clock.now_us());
                self.call(index, |op, out| op.watermark(at, out))
            }
            Signal::Frontier(append_us) => self.call(index, |op, out| op.frontier(append_us, out)),
            Signal::Tick(now_us) => self.call(index, |op, out| op.tick(now_us, out)),
            Signal::EndOfBackfill => self.call(index, |op, out| op.end_of_backfill(out)),
            Signal::Barrier(epoch) => {
                if self.keep_snapshots {
                    let node = &mut self.nodes[index];
                    let mut state = match &self.files {
                        Some(files) => StateWriter::with_files(files.clone(), epoch, node.id),
                        None => StateWriter::default(),
                    };
                    node.op.snapshot(&mut state)?;
                    node.gate.save(&mut state);
                    if let Some(runs) = state.take_runs() {
                        self.runs.push((node.id, runs));
                        self.writing = true;
                    }
                    self.partial.push((node.id, state.finish()));
                }
                self.send(self.nodes[index].target, Element::Barrier(epoch))
            }
            Signal::Idle => {
                self.nodes[index].counters.idle.store(true, Relaxed);
                self.send(self.nodes[index].target, Element::Idle)
            }
            Signal::End => {
                self.call(index, |op, out| op.end(out))?;
                self.nodes[index].ends = self.nodes[index].busy;
                if self.nodes[index].busy { Ok(()) } else { self.end(index) }
            }
        }
    }

    /// Lets an operator go on that has more to emit, the last of the chain first; `false` = none has.
    /// Until then no source is polled.
    pub fn resume(&mut self) -> Result<bool, StreamError> {
        // Nodes lie above what feeds them.
        let Some(index) = self.nodes.iter().position(|n| n.busy && !n.ended) else { return Ok(false) };
        self.call(index, |op, out| op.go_on(out))?;
        while !self.nodes[index].busy
            && let Some(waiting) = self.nodes[index].waiting.pop_front()
        {
            match waiting {
                Waiting::Element(from, element) => self.enter(index, from, element)?,
                Waiting::Signal(signal) => self.signal(index, signal)?,
            }
        }
        if !self.nodes[index].busy && std::mem::take(&mut self.nodes[index].ends) {
            self.end(index)?;
        }
        Ok(true)
    }

    /// Has operators write more of what the last barrier asked for; how far they are.
    pub fn write_more(&mut self, things: usize) -> Result<Wrote, StreamError> {
        let mut all = Wrote::All;
        for node in self.nodes.iter_mut().filter(|_| self.writing) {
            all = all.max(node.op.snapshot_more(things)?);
            if all != Wrote::All {
                break;
            }
        }
        self.writing &= all != Wrote::All;
        Ok(all)
    }

    /// The last checkpoint was not completed.
    pub fn snapshot_lost(&mut self) {
        self.nodes.iter_mut().for_each(|n| n.op.snapshot_lost());
    }

    /// One call of an operator, timed; what it emitted goes on at once.
    fn call(
        &mut self,
        index: usize,
        f: impl FnOnce(&mut dyn Operator, &mut Output) -> Result<(), crate::OpError>,
    ) -> Result<(), StreamError> {
        let mut out = Output::default();
        let node = &mut self.nodes[index];
        let began = self.clock.monotonic();
        let outcome = f(node.op.as_mut(), &mut out);
        let took = self.clock.monotonic().saturating_sub(began);
        node.counters.busy_ns.fetch_add(took.as_nanos() as u64, Relaxed);
        node.counters.rows_out.fetch_add(out.rows, Relaxed);
        node.busy = node.op.unfinished();
        node.counters.waits_for.store(node.op.waits_for().unwrap_or(i64::MAX), Relaxed);
        let (stats, before) = (node.op.stats(), node.stats);
        if stats != before {
            node.stats = stats;
            node.counters.late_rows.store(stats.late_rows, Relaxed);
            node.counters.skipped_rows.store(stats.skipped_rows, Relaxed);
            node.counters.expired_keys.store(stats.expired_keys, Relaxed);
            node.counters.keys.store(stats.keys, Relaxed);
            node.counters.state_bytes.store(stats.state_bytes, Relaxed);
        }
        outcome?;
        self.account(index, before.state_bytes)?;
        self.late.extend(out.late);
        let target = self.nodes[index].target;
        for element in out.elements {
            self.send(target, element)?;
        }
        self.end_if_done(index)
    }

    /// Counts what an operator holds now against the query's memory; it spills before it is refused.
    fn account(&mut self, index: usize, before: u64) -> Result<(), StreamError> {
        let node = &mut self.nodes[index];
        loop {
            let now = node.stats.state_bytes;
            let Some(more) = now.checked_sub(before) else {
                self.held.shrink(before - now);
                return Ok(());
            };
            let Err(refused) = self.held.grow(more) else { return Ok(()) };
            if !node.op.spill()? {
                return Err(StreamError {
                    code: Code::MemoryLimitExceeded,
                    message: format!(
                        "{} holds {now} bytes of state for {} keys: {refused}; raise max_memory_usage or group by fewer keys",
                        node.name, node.stats.keys
                    ),
                });
            }
            node.stats = node.op.stats();
            node.counters.keys.store(node.stats.keys, Relaxed);
            node.counters.state_bytes.store(node.stats.state_bytes, Relaxed);
        }
    }

    fn end_if_done(&mut self, index: usize) -> Result<(), StreamError> {
        if !self.nodes[index].ended && self.nodes[index].op.done() { self.end(index) } else { Ok(()) }
    }

    /// Ends a node: its sources are let go, what is above hears of it.
    fn end(&mut self, index: usize) -> Result<(), StreamError> {
        if std::mem::replace(&mut self.nodes[index].ended, true) {
            return Ok(());
        }
        self.cut(index);
        self.send(self.nodes[index].target, Element::End)
    }

    /// Drops every source below a node.
    fn cut(&mut self, index: usize) {
        for leaf in &mut self.leaves {
            let mut at = leaf.target;
            while let Target::Node(above, _) = at {
                if above == index {
                    leaf.source = None;
                    leaf.blocked = None;
                    break;
                }
                at = self.nodes[above].target;
            }
        }
    }
}
