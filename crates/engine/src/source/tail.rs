//! The source over a stored stream.

use super::event_time::{EventTimeReplay, SortedRun};
use super::factory::Warnings;
use super::free::FreeHistory;
use super::gate::{Live, Seat};
use super::merge::{Key, Origin};
use super::pace::Pace;
use super::progress::SourceProgress;
use super::shard::{Mode, ShardReader};
use crate::Progress;
use crate::scan::Picker;
use arrow::array::RecordBatch;
use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use weir_base::{Code, Error, SeqNo};
use weir_plan::{Element, Rows, Source, StreamError, WatermarkTime};
use weir_storage::{LogFull, StorageError, TailBatch};

pub(super) struct StreamSource {
    pub name: Arc<str>,
    pub shards: Vec<ShardState>,
    pub picker: Picker,
    pub phase: Phase,
    /// The end of backfill was said already.
    pub announced: bool,
    pub pace: Option<Pace>,
    pub seat: Seat,
    pub delivered: Arc<SourceProgress>,
    pub read: Arc<Progress>,
    pub warnings: Arc<Warnings>,
    /// Ready once the query is drained.
    pub drain: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The shard asked first for live rows.
    pub turn: usize,
    /// Live rows leave in log order over shards too: rows are judged or feed a function of their order,
    /// and there are several shards.
    pub ordered: Option<LogOrder>,
}

/// Live rows of several shards in log order: a row waits until no other shard can have an earlier
/// one, about a group commit.
pub(super) struct LogOrder {
    /// A silence means something for so many microseconds: a shard falls idle, a timeout happens. `None`
    /// = nobody wants to know of it.
    idle_timeout_us: Option<i64>,
    /// The greatest append time of a row given, and the frontier told since.
    given_us: i64,
    told_us: i64,
    /// With the live rows of other sources.
    together: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How long a row waits before the frontiers of silent shards are looked at again.
const FRONTIER_LOOK: Duration = Duration::from_millis(2);
/// How often a silent source says that time passes, as long as that can make a shard idle.
const FRONTIER_TELL: Duration = Duration::from_millis(100);

impl LogOrder {
    pub fn new(idle_timeout_us: Option<i64>, together: bool) -> Self {
        LogOrder { idle_timeout_us, given_us: i64::MIN, told_us: i64::MIN, together, timer: None }
    }

    /// Wakes the task after a while.
    fn wait(&mut self, wait: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(wait)));
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        Poll::Ready(())
    }
}

pub(super) enum Phase {
    /// Backfill is said to be over before it begins: results leave meanwhile.
    Announced(Box<Phase>),
    Arrival,
    /// In no order.
    Free(FreeHistory),
    EventTime(EventTimeReplay),
    /// Past its own history, waiting for the other sources.
    Seam,
    Live,
    /// Nothing follows a replay that has an end.
    Ending,
    /// The rows that were durable when the query was told to drain.
    Draining,
    /// The last watermark was given.
    Drained,
}

pub(super) struct ShardState {
    reader: ShardReader,
    origin: Origin,
    /// Where history begins, and one past its last row.
    history_start: SeqNo,
    history_end: SeqNo,
    history_done: bool,
    /// Read and not yet given.
    head: Option<TailBatch>,
    /// Of the batch that crosses the end of history, what lies behind it.
    carry: Option<TailBatch>,
    /// First row not given.
    next: SeqNo,
    /// A row was read: from now on, being overtaken by retention is an error.
    begun: bool,
    /// Nothing from here on is given for now.
    stop: SeqNo,
    /// Rows that are left out, and those that are given one by one.
    cuts: Cuts,
    /// Pieces of what was read.
    pieces: VecDeque<TailBatch>,
}

/// What a view knows of rows of one shard that its query failed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cuts {
    /// Not given at all.
    pub skipped: BTreeSet<SeqNo>,
    /// Given one by one, to find the one that fails: the first, and one past the last.
    pub careful: Option<(SeqNo, SeqNo)>,
}

impl Cuts {
    /// What remains of rows, in pieces.
    pub fn cut(&self, rows: TailBatch, into: &mut VecDeque<TailBatch>) {
        let n = rows.rows();
        let (Some(first), Some(last)) = ((n > 0).then(|| rows.sn(0)), n.checked_sub(1).map(|i| rows.sn(i)))
        else {
            return;
        };
        let slow = self.careful.filter(|(from, end)| *from <= last && first < *end);
        if slow.is_none() && self.skipped.range(first..=last).next().is_none() {
            into.push_back(rows);
            return;
        }
        let single = |sn: SeqNo| slow.is_some_and(|(from, end)| from <= sn && sn < end);
        let mut begin = 0;
        for i in 0..n {
            let sn = rows.sn(i);
            let skipped = self.skipped.contains(&sn);
            if skipped || single(sn) {
                if begin < i {
                    into.push_back(rows.slice(begin, i - begin));
                }
                if !skipped {
                    into.push_back(rows.slice(i, 1));
                }
                begin = i + 1;
            }
        }
        if begin < n {
            into.push_back(rows.slice(begin, n - begin));
        }
    }
}

/// Rows that are given at once: between two batches a query says how far it has come.
const GIVEN_ROWS_MAX: usize = 65_536;

impl ShardState {
    pub fn new(reader: ShardReader, origin: Origin, history_end: SeqNo, cuts: Cuts) -> Self {
        let next = reader.position();
        ShardState {
            reader,
            origin,
            history_start: next,
            history_end,
            history_done: next >= history_end,
            head: None,
            carry: None,
            next,
            begun: false,
            stop: SeqNo::MAX,
            cuts,
            pieces: VecDeque::new(),
        }
    }

    /// It has come to where it is to stop.
    fn is_held(&self) -> bool {
        self.next >= self.stop
    }

    /// Of rows at hand so many lie before where it is to stop.
    fn before_stop(&self, rows: &TailBatch) -> usize {
        if self.stop == SeqNo::MAX {
            return rows.rows();
        }
        let (mut low, mut high) = (0, rows.rows());
        while low < high {
            let middle = low.midpoint(high);
            if rows.sn(middle) < self.stop { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The next rows as they are to be given.
    fn poll_rows(
        &mut self,
        mode: Mode,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<TailBatch>, StorageError>> {
        loop {
            if let Some(rows) = self.pieces.pop_front() {
                return Poll::Ready(Ok(Some(rows)));
            }
            match ready!(self.reader.poll(mode, cx)) {
                Ok(Some(rows)) if self.cuts == Cuts::default() => return Poll::Ready(Ok(Some(rows))),
                Ok(Some(rows)) => {
                    self.cuts.cut(rows, &mut self.pieces);
                    if self.pieces.is_empty() {
                        // Nothing is left of them.
                        self.next = self.next.max(self.reader.position());
                    }
                }
                other => return Poll::Ready(other),
            }
        }
    }

    /// Fills `head` or finds the end of history.
    fn poll_head(
        &mut self,
        name: &str,
        warnings: &Warnings,
        pace: Option<&Pace>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        while !self.history_done && self.head.is_none() {
            if self.pieces.is_empty() && self.reader.position() >= self.history_end {
                self.end_history();
                break;
            }
            let rows = match ready!(self.poll_rows(Mode::History, cx)) {
                Ok(Some(rows)) => rows,
                Ok(None) => {
                    self.end_history();
                    break;
                }
                Err(e) => {
                    self.overtaken(name, e, warnings)?;
                    continue;
                }
            };
            self.begun = true;
            let before = (0..rows.rows()).rev().find(|i| rows.sn(*i) < self.history_end).map_or(0, |i| i + 1);
            if before < rows.rows() {
                self.carry = Some(rows.slice(before, rows.rows() - before));
            }
            if before == 0 {
                self.end_history();
                continue;
            }
            let rows = rows.slice(0, before);
            let end = rows.end().unwrap_or(self.next);
            let (rows, past) = match pace {
                Some(pace) => pace.within(rows)?,
                None => (rows, false),
            };
            if rows.rows() > 0 {
                self.head = Some(rows);
            } else {
                self.next = end;
            }
            if past {
                // What follows lies behind the end of the replay.
                self.carry = None;
                self.history_done = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// From here on what is durable now is all there is.
    fn drain(&mut self) {
        (self.head, self.carry) = (None, None);
        self.pieces.clear();
        // A live read under way is let go; the rows it would have given are read again.
        self.reader.reset(self.next);
        self.history_end = self.reader.shard().durable_end();
        self.history_done = self.next >= self.history_end;
    }

    fn end_history(&mut self) {
        self.history_done = true;
        // Rows at the end of history that were removed, or left out, count as given.
        self.next = self.next.max(self.history_end);
        if self.carry.is_none() && self.pieces.is_empty() {
            self.next = self.next.max(self.reader.position());
        }
    }

    /// What counts as delivered while history is read: all but its last row, so that who waits for
    /// it waits for what its end makes leave.
    fn delivered_of_history(&self) -> SeqNo {
        let last = SeqNo(self.history_end.0.saturating_sub(1));
        self.next.min(last).max(self.history_start)
    }

    /// Retention was faster, or the stream is gone: at the start the query begins later and says so.
    fn overtaken(&mut self, name: &str, e: StorageError, warnings: &Warnings) -> Result<(), StreamError> {
        let (asked, oldest) = match e {
            StorageError::Truncated { asked, oldest } => (asked, oldest),
            StorageError::Dropped => return Err(dropped(name)),
            e => return Err(Error::from(e).into()),
        };
        let shard = self.origin.shard;
        let may_drop = self.reader.shard().options().log_full == LogFull::DropOldest;
        if self.begun && may_drop {
            warnings.add(format!(
                "{name} shard {shard} was full and dropped rows {asked} to {oldest}, which the query had not read"
            ));
            self.reader.reset(oldest);
            self.next = self.next.max(oldest);
            return Ok(());
        }
        if self.begun {
            return Err(StreamError {
                code: Code::SequenceOutOfRange,
                message: format!(
                    "retention of {name} shard {shard} removed rows the query had not read: it was at \
                     {asked}, the oldest held is {oldest}; start it anew or keep more log"
                ),
            });
        }
        warnings.add(format!(
            "{name} shard {shard} holds no row before sequence number {oldest}; the query asked for {asked} \
             and starts at {oldest}"
        ));
        self.reader.reset(oldest);
        self.next = self.next.max(oldest);
        Ok(())
    }
}

fn dropped(name: &str) -> StreamError {
    StreamError { code: Code::UnknownStream, message: format!("stream {name} was dropped") }
}

impl StreamSource {
    fn poll_element(&mut self, cx: &mut Context<'_>) -> Poll<Result<Element, StreamError>> {
        // Being asked again means that all given so far has passed the sink.
        let live = matches!(self.phase, Phase::Live | Phase::Ending | Phase::Draining | Phase::Drained);
        for (i, shard) in self.shards.iter().enumerate() {
            self.delivered.delivered(i, if live { shard.next } else { shard.delivered_of_history() });
        }
        // Also where rows were read ahead: who reads a dropped stream holds its files.
        if self.shards.iter().any(|s| s.reader.shard().is_dropped()) {
            return Poll::Ready(Err(dropped(&self.name)));
        }
        loop {
            match &mut self.phase {
                Phase::Announced(_) => {
                    let Phase::Announced(history) = std::mem::replace(&mut self.phase, Phase::Seam) else {
                        unreachable!("matched above")
                    };
                    self.phase = *history;
                    self.announced = true;
                    return Poll::Ready(Ok(Element::EndOfBackfill));
                }
                Phase::Free(history) => {
                    let rows = match ready!(history.poll(cx)) {
                        Ok(rows) => rows,
                        Err(StorageError::Dropped) => return Poll::Ready(Err(dropped(&self.name))),
                        Err(e) => return Poll::Ready(Err(Error::from(e).into())),
                    };
                    if let Some((shard, rows)) = rows {
                        let batch = self.pick(shard, &rows)?;
                        return Poll::Ready(Ok(self.rows(batch)));
                    }
                    self.pass_history();
                }
                Phase::Arrival => match ready!(self.poll_arrival(cx))? {
                    Some(batch) => return Poll::Ready(Ok(self.rows(batch))),
                    None => self.leave_history(),
                },
                Phase::EventTime(replay) => {
                    let run = match ready!(replay.poll_head(cx))? {
                        Some(run) => run,
                        None => {
                            self.pass_history();
                            continue;
                        }
                    };
                    let key = run.key(0, &self.shards[0].origin);
                    let bound = ready!(self.seat.poll_turn(key, cx));
                    let batch = self.cut_event_time(bound);
                    return Poll::Ready(Ok(self.rows(batch)));
                }
                Phase::Seam => {
                    ready!(self.seat.poll_all_done(cx));
                    let ends = self.pace.as_ref().is_some_and(Pace::ends);
                    self.phase = if ends { Phase::Ending } else { Phase::Live };
                    for shard in &mut self.shards {
                        shard.head = shard.carry.take();
                    }
                    if !self.announced {
                        return Poll::Ready(Ok(Element::EndOfBackfill));
                    }
                }
                Phase::Live => {
                    if self.drain.as_mut().poll(cx).is_ready() {
                        self.shards.iter_mut().for_each(ShardState::drain);
                        self.seat.drains();
                        self.phase = Phase::Draining;
                        continue;
                    }
                    if self.ordered.is_some() {
                        return self.poll_ordered(cx);
                    }
                    let batch = ready!(self.poll_live(cx))?;
                    return Poll::Ready(Ok(self.rows(batch)));
                }
                Phase::Draining => match ready!(self.poll_drained(cx))? {
                    Some(batch) => return Poll::Ready(Ok(self.rows(batch))),
                    None => {
                        self.seat.leave();
                        self.phase = Phase::Drained;
                        return Poll::Ready(Ok(Element::Watermark(WatermarkTime::INFINITY)));
                    }
                },
                Phase::Ending => {
                    self.seat.leave();
                    self.phase = Phase::Drained;
                    return Poll::Ready(Ok(Element::Watermark(WatermarkTime::INFINITY)));
                }
                Phase::Drained => return Poll::Ready(Ok(Element::End)),
            }
        }
    }

    fn leave_history(&mut self) {
        self.seat.done();
        self.phase = Phase::Seam;
    }

    /// History was read otherwise than by the shards' own readers: these go on behind it.
    fn pass_history(&mut self) {
        for shard in &mut self.shards {
            shard.reader.reset(shard.next.max(shard.history_end));
            shard.end_history();
            shard.begun = true;
        }
        self.leave_history();
    }

    /// The shards that have rows at hand, by the place of their first in log order.
    fn heads(&self) -> Vec<(usize, Key)> {
        let shards = self.shards.iter().enumerate();
        let mut heads: Vec<_> =
            shards.filter_map(|(i, s)| Some((i, s.origin.arrival(s.head.as_ref()?, 0)))).collect();
        heads.sort_by(|a, b| a.1.cmp(&b.1));
        heads
    }

    /// The next run of history in log order; `None` at its end.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecordBatch>, StreamError>> {
        let mut waiting = false;
        for shard in &mut self.shards {
            // All are asked before any is waited for, so that their reads overlap.
            match shard.poll_head(&self.name, &self.warnings, self.pace.as_ref(), cx) {
                Poll::Ready(read) => read?,
                Poll::Pending => waiting = true,
            }
        }
        if waiting {
            self.seat.unknown();
            return Poll::Pending;
        }
        let mut heads = self.heads();
        let all = heads.len();
        heads.retain(|(i, _)| {
            let shard = &mut self.shards[*i];
            let held = shard.head.as_ref().is_some_and(|rows| shard.before_stop(rows) == 0);
            if held {
                // Rows that are gone lie between.
                shard.next = shard.next.max(shard.stop);
            }
            !held
        });
        if heads.is_empty() && all > 0 {
            // Told to stop here: who polls it all the same waits until it is told otherwise.
            self.seat.done();
            return Poll::Pending;
        }
        let Some((least, key)) = heads.first().cloned() else { return Poll::Ready(Ok(None)) };
        let bound = ready!(self.seat.poll_turn(key, cx));
        let bound = match (bound, heads.get(1).map(|(_, k)| k.clone())) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let shard = &mut self.shards[least];
        let due = match (&mut self.pace, &shard.head) {
            (Some(pace), Some(rows)) => ready!(pace.poll_due(rows, cx))?,
            _ => usize::MAX,
        };
        let rows = shard.head.take().expect("it has the least head");
        let n = shard.origin.run_length(&rows, bound.as_ref()).max(1).min(due).min(shard.before_stop(&rows));
        let n = n.min(GIVEN_ROWS_MAX);
        if n < rows.rows() {
            shard.head = Some(rows.slice(n, rows.rows() - n));
        }
        let given = self.give(least, rows.slice(0, n));
        if self.shards.iter().all(ShardState::is_held) {
            // It is not polled for now, and holds nobody back.
            self.seat.done();
        } else {
            // Until the next head is known nobody may pass.
            self.seat.unknown();
        }
        given.map(|b| Poll::Ready(Ok(Some(b)))).unwrap_or_else(|e| Poll::Ready(Err(e)))
    }

    /// Whatever any shard still has of what was durable; `None` = nothing.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RecordBatch>, StreamError>> {
        for shard in &mut self.shards {
            ready!(shard.poll_head(&self.name, &self.warnings, None, cx))?;
        }
        // In log order over shards, as those want them that judge rows.
        let heads = self.shards.iter().enumerate();
        let mut heads: Vec<(usize, Key)> =
            heads.filter_map(|(i, s)| s.head.as_ref().map(|rows| (i, s.origin.arrival(rows, 0)))).collect();
        heads.sort_by(|a, b| a.1.cmp(&b.1));
        let Some((least, key)) = heads.first().cloned() else { return Poll::Ready(Ok(None)) };
        let mut bound = heads.get(1).map(|(_, k)| k.clone());
        if self.ordered.as_ref().is_some_and(|o| o.together) {
            let others = ready!(self.seat.poll_turn(key, cx));
            bound = bound.into_iter().chain(others).min();
            self.seat.unknown();
        }
        let shard = &mut self.shards[least];
        let rows = shard.head.take().expect("it has the least head");
        let n = shard.origin.run_length(&rows, bound.as_ref()).clamp(1, GIVEN_ROWS_MAX);
        if n < rows.rows() {
            shard.head = Some(rows.slice(n, rows.rows() - n));
        }
        Poll::Ready(self.give(least, rows.slice(0, n)).map(Some))
    }

    fn cut_event_time(&mut self, bound: Option<Key>) -> RecordBatch {
        let origin = self.shards[0].origin.clone();
        let Phase::EventTime(replay) = &mut self.phase else { unreachable!("called in that phase") };
        let run: SortedRun = replay.take_head();
        let n = run.run_length(&origin, bound.as_ref()).max(1);
        let (first, rest) = run.split(n);
        if let Some(rest) = rest {
            replay.put_back(rest);
        }
        self.seat.unknown();
        first
    }

    /// Whatever any shard has, in turn.
    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<Result<RecordBatch, StreamError>> {
        let n = self.shards.len();
        for k in 0..n {
            let i = (self.turn + k) % n;
            let shard = &mut self.shards[i];
            loop {
                let rows = match shard.head.take() {
                    Some(rows) => rows,
                    None => match shard.poll_rows(Mode::Live, cx) {
                        Poll::Pending => break,
                        Poll::Ready(Ok(Some(rows))) => rows,
                        Poll::Ready(Ok(None)) => continue,
                        Poll::Ready(Err(e)) => {
                            shard.overtaken(&self.name, e, &self.warnings)?;
                            continue;
                        }
                    },
                };
                shard.begun = true;
                if rows.rows() > GIVEN_ROWS_MAX {
                    shard.head = Some(rows.slice(GIVEN_ROWS_MAX, rows.rows() - GIVEN_ROWS_MAX));
                    return Poll::Ready(self.give(i, rows.slice(0, GIVEN_ROWS_MAX)));
                }
                self.turn = i + 1;
                return Poll::Ready(self.give(i, rows));
            }
        }
        Poll::Pending
    }

    /// The next live rows in log order, or how far append time has come without any.
    fn poll_ordered(&mut self, cx: &mut Context<'_>) -> Poll<Result<Element, StreamError>> {
        loop {
            // Frontiers first: what is appended after they were read lies behind them.
            let mut frontiers: Vec<i64> =
                self.shards.iter().map(|s| s.reader.shard().append_frontier().0).collect();
            for (shard, frontier) in self.shards.iter_mut().zip(&mut frontiers) {
                while shard.head.is_none() {
                    match shard.poll_rows(Mode::Live, cx) {
                        Poll::Ready(Ok(rows)) => {
                            shard.begun = true;
                            shard.head = rows.filter(|r| r.rows() > 0);
                        }
                        Poll::Ready(Err(e)) => shard.overtaken(&self.name, e, &self.warnings)?,
                        Poll::Pending => {
                            // Rows that are there and not read yet lie before the frontier.
                            if shard.reader.position() < shard.reader.shard().durable_end() {
                                *frontier = i64::MIN;
                            }
                            break;
                        }
                    }
                }
            }
            let silent = self.shards.iter().zip(&frontiers).filter(|(s, _)| s.head.is_none());
            let mut frontier = silent.map(|(_, f)| *f).min().unwrap_or(i64::MAX);
            let heads = self.heads();
            let order = self.ordered.as_mut().expect("asked by it");
            let mut bound = heads.get(1).map(|(_, k)| k.clone());
            if order.together {
                let own = Live { head: heads.first().map(|(_, k)| k.clone()), frontier_us: frontier };
                let Some(others) = self.seat.live(own) else {
                    ready!(order.wait(FRONTIER_LOOK, cx));
                    continue;
                };
                frontier = frontier.min(others.frontier_us);
                // Rows of one append time go by their streams, so one that stands there is not passed yet.
                frontier = frontier.min(match (&others.head, heads.first()) {
                    (Some(other), None) => other.time.saturating_sub(1),
                    (Some(other), Some((_, own))) if other < own => i64::MIN,
                    _ => i64::MAX,
                });
                bound = bound.into_iter().chain(others.head).min();
            }
            let Some((least, key)) = heads.first().cloned() else {
                let may_idle = |timeout| order.told_us <= order.given_us.saturating_add(timeout);
                if order.given_us == i64::MIN || !order.idle_timeout_us.is_some_and(may_idle) {
                    return Poll::Pending;
                }
                ready!(order.wait(FRONTIER_TELL, cx));
                if frontier > order.told_us.max(order.given_us) {
                    order.told_us = frontier;
                    return Poll::Ready(Ok(Element::Frontier(frontier)));
                }
                continue;
            };
            if key.time > frontier {
                ready!(order.wait(FRONTIER_LOOK, cx));
                continue;
            }
            order.timer = None;
            let shard = &mut self.shards[least];
            let rows = shard.head.take().expect("it has the least head");
            let mut n = shard.origin.run_length(&rows, bound.as_ref()).clamp(1, GIVEN_ROWS_MAX);
            while n > 1 && rows.append_time(n - 1).0 > frontier {
                n -= 1;
            }
            if n < rows.rows() {
                shard.head = Some(rows.slice(n, rows.rows() - n));
            }
            let batch = self.give(least, rows.slice(0, n))?;
            return Poll::Ready(Ok(self.rows(batch)));
        }
    }

    fn give(&mut self, shard: usize, rows: TailBatch) -> Result<RecordBatch, StreamError> {
        let state = &mut self.shards[shard];
        state.next = rows.end().unwrap_or(state.next);
        if let (Some(order), Some(last)) = (&mut self.ordered, rows.rows().checked_sub(1)) {
            order.given_us = order.given_us.max(rows.append_time(last).0);
        }
        self.pick(shard, &rows)
    }

    fn pick(&self, shard: usize, rows: &TailBatch) -> Result<RecordBatch, StreamError> {
        let shard = self.shards[shard].reader.shard().id();
        self.picker.pick(rows, shard).map_err(|e| StreamError {
            code: Code::LogicalError,
            message: format!("rows of {} do not fit the plan: {e}", self.name),
        })
    }

    fn rows(&self, batch: RecordBatch) -> Element {
        self.read.add_read(batch.num_rows() as u64, batch.get_array_memory_size() as u64);
        Element::Rows(Rows::append(batch))
    }
}

impl Drop for StreamSource {
    fn drop(&mut self) {
        self.delivered.ended();
    }
}

#[async_trait::async_trait]
impl Source for StreamSource {
    async fn next(&mut self) -> Result<Element, StreamError> {
        poll_fn(|cx| self.poll_element(cx)).await
    }

    fn try_next(&mut self) -> Result<Option<Element>, StreamError> {
        // The task asks again with its own waker before it waits.
        match self.poll_element(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(element) => element.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    fn position(&self) -> Vec<SeqNo> {
        self.shards.iter().map(|s| s.next).collect()
    }

    /// Only while it reads history by its shards' own readers: what a restored query has given before lies
    /// there.
    fn stop_at(&mut self, bounds: Option<&[SeqNo]>) {
        for (i, shard) in self.shards.iter_mut().enumerate() {
            shard.stop = bounds.map_or(SeqNo::MAX, |b| b[i]);
        }
        if !matches!(self.phase, Phase::Arrival | Phase::Announced(_)) {
            return;
        }
        if self.shards.iter().all(ShardState::is_held) {
            self.seat.done();
        } else {
            self.seat.unknown();
        }
    }
}
