//! The source over an external stream.
//!
//! ```text
//! start position -> offset in each partition -> one reader of all -> completed rows, by partition
//!   -> as they come, or in log order: a row waits until every other partition has a later one, or has
//!      been read to its end
//! ```
//!
//! Invariants
//! - every message from the start position on is given once, in the order of offsets in its partition, and all
//!   rows of a message at once;
//! - append times never fall within a partition: a message that says it is older than the one before counts as
//!   written with it;
//! - rows that wait for other partitions are bounded: their partition is not read meanwhile.
//!
//! Not here: decoding (`connect`), judging.

use super::factory::Warnings;
use super::merge::Origin;
use super::progress::SourceProgress;
use super::tail::Cuts;
use crate::Progress;
use crate::externals::OpenExternal;
use crate::scan::{ExternalAccess, Picker};
use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;
use weir_base::{Clock, Code, Error, EventTime, MemoryBudget, Reservation, Result, SeqNo, ShardId, err};
use weir_plan::{
    Element, ExternalRead, ExternalReader, ExternalRows, ExternalScan, ExternalStream, NodeId, Partition,
    Rows, Source, SourceOrder, SourceSpec, StartPosition, StreamError, WatermarkTime,
};
use weir_storage::{SN_COLUMN, Sns, TIME_COLUMN, TailBatch, Times};

/// Bytes of a partition that wait for others; then it is not read, until few are left.
const WAITING_BYTES_MAX: usize = 8 << 20;
const WAITING_BYTES_FEW: usize = 1 << 20;
/// How often a silent source says that time passes, as long as that can make a partition idle.
const FRONTIER_TELL: Duration = Duration::from_millis(100);
/// What was written so long ago has come, where a partition has been read to its end: clocks of those who write
/// differ.
const FRONTIER_LAG_US: i64 = 1_000_000;
/// A query that is drained has all there was once nothing has come for so long.
const DRAIN_SILENCE: Duration = Duration::from_millis(700);

/// Rows of one message or more.
struct Piece {
    rows: TailBatch,
    bytes: usize,
    _held: Option<Reservation>,
}

struct PartState {
    id: i32,
    origin: Origin,
    queue: VecDeque<Piece>,
    bytes: usize,
    /// Not read for now.
    held: bool,
    /// One past the last row given: it moves with rows only, so that which partition rows came from can be told
    /// from where positions differ.
    next: SeqNo,
    /// First offset not read.
    read: SeqNo,
    /// One past the last offset of history.
    history_end: SeqNo,
    caught_up: bool,
    /// The greatest append time of a row read, microseconds.
    last_append: i64,
    /// Nothing from here on is given for now.
    stop: SeqNo,
    cuts: Cuts,
}

impl PartState {
    /// One past the last offset of which all is given.
    fn delivered(&self) -> SeqNo {
        if self.queue.is_empty() { self.next.max(self.read) } else { self.next }
    }

    fn history_done(&self) -> bool {
        self.delivered() >= self.history_end
    }

    /// Rows that may be given now.
    fn ready(&self) -> Option<&TailBatch> {
        self.queue.front().map(|piece| &piece.rows).filter(|rows| rows.sn(0) < self.stop)
    }

    fn is_held(&self) -> bool {
        self.next >= self.stop
    }
}

pub(super) struct ExternalSource {
    name: Arc<str>,
    open: Arc<OpenExternal>,
    picker: Picker,
    reader: Box<dyn ExternalReader>,
    parts: Vec<PartState>,
    /// Rows leave in log order over partitions.
    ordered: bool,
    /// A silence means something for so many microseconds.
    idle_timeout_us: Option<i64>,
    given_us: i64,
    told_us: i64,
    clock: Arc<dyn Clock>,
    phase: Phase,
    delivered: Arc<SourceProgress>,
    read: Arc<Progress>,
    warnings: Arc<Warnings>,
    memory: Arc<MemoryBudget>,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What ended it, and the rows it was about.
    failed: Option<(usize, SeqNo, SeqNo)>,
    /// Troubles that were told.
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Results leave while history is read.
    Announcing,
    History {
        announced: bool,
    },
    Live,
    Draining,
    Closing,
    Ended,
}

/// What a factory knows beside the stream.
pub(super) struct Opening {
    pub id: NodeId,
    pub source: usize,
    pub cuts: HashMap<(NodeId, usize), Cuts>,
    pub read: Arc<Progress>,
    pub warnings: Arc<Warnings>,
    pub memory: Arc<MemoryBudget>,
    pub drain: WaitForCancellationFutureOwned,
    /// Other sources of the query want their rows in one order with these.
    pub together: bool,
}

/// Partitions that are read, of all there are.
pub(crate) fn pick(name: &str, all: Vec<Partition>, picked: Option<&[i32]>) -> Result<Vec<Partition>> {
    let Some(picked) = picked else { return Ok(all) };
    if let Some(missing) = picked.iter().find(|id| !all.iter().any(|p| p.id == **id)) {
        return Err(err!(BadArguments, "shards names partition {missing}; {name} has {}", all.len()));
    }
    Ok(all.into_iter().filter(|p| picked.contains(&p.id)).collect())
}

/// Where each partition is to be read from.
async fn starts(
    stream: &dyn ExternalStream,
    name: &str,
    parts: &[Partition],
    spec: &SourceSpec,
    warnings: &Warnings,
) -> Result<Vec<SeqNo>> {
    Ok(match &spec.start {
        StartPosition::Latest => parts.iter().map(|p| p.end).collect(),
        StartPosition::Earliest => parts.iter().map(|p| p.first).collect(),
        StartPosition::EventTime(EventTime(at_ms)) => stream.seek_time(*at_ms, parts).await?,
        StartPosition::SeqNo(list) | StartPosition::Restored(list) => {
            if list.len() > parts.len() {
                return Err(err!(
                    BadArguments,
                    "seek_to names {} offsets, {name} has {} partitions; give one for all or one for each",
                    list.len(),
                    parts.len()
                ));
            }
            let one = list.len() == 1 && matches!(spec.start, StartPosition::SeqNo(_));
            if list.len() > 1 && list.len() < parts.len() && matches!(spec.start, StartPosition::SeqNo(_)) {
                return Err(err!(
                    BadArguments,
                    "seek_to names {} offsets, {name} has {} partitions; give one for all or one for each",
                    list.len(),
                    parts.len()
                ));
            }
            let mut out = Vec::with_capacity(parts.len());
            for (i, p) in parts.iter().enumerate() {
                // A partition that came since is read from its beginning.
                let asked = list.get(i).or(list.first().filter(|_| one)).copied().unwrap_or(p.first);
                // Of a restored query the other side says itself whether it has the offset, and what is to be done
                // without it. (Some brokers say that a partition ends before what they have given.)
                if matches!(spec.start, StartPosition::Restored(_)) {
                    out.push(asked);
                    continue;
                }
                if asked > p.end {
                    return Err(err!(
                        SequenceOutOfRange,
                        "seek_to asks for offset {asked} of {name} partition {}, which ends at {}",
                        p.id,
                        p.end
                    ));
                }
                if asked < p.first {
                    warnings.add(format!(
                        "{name} partition {} holds no message before offset {}; the query asked for {asked} and \
                         starts at {}",
                        p.id, p.first, p.first
                    ));
                }
                out.push(asked.max(p.first));
            }
            out
        }
    })
}

impl ExternalSource {
    pub async fn open(
        access: ExternalAccess,
        spec: &SourceSpec,
        with: Opening,
    ) -> Result<(Self, Arc<SourceProgress>), StreamError> {
        let (open, name) = (access.open.clone(), access.name.clone());
        if spec.history.replay.is_some() {
            return Err(StreamError {
                code: Code::NotImplemented,
                message: format!("{name} is an external stream: replay_speed is not supported there"),
            });
        }
        if with.together {
            return Err(StreamError {
                code: Code::NotImplemented,
                message: format!(
                    "{name} is an external stream: it can not stand in a UNION below a window or a function over \
                     earlier rows; put it into a stream by a materialized view first"
                ),
            });
        }
        let parts = pick(&name, open.stream.partitions().await?, access.picked.as_deref())?;
        let starts = starts(&*open.stream, &name, &parts, spec, &with.warnings).await?;
        let picker = Picker::by_name(&open.schema, &spec.columns, spec.schema.clone())?;
        let columns = (!open.computes).then(|| {
            let own = |c: &&String| open.schema.index_of(c).is_ok();
            spec.columns.iter().filter(own).cloned().collect::<Vec<_>>()
        });
        let cuts = |i: usize| with.cuts.get(&(with.id, i)).cloned().unwrap_or_default();
        let skipped: BTreeMap<_, _> = parts
            .iter()
            .enumerate()
            .map(|(i, p)| (p.id, cuts(i).skipped))
            .filter(|(_, skipped)| !skipped.is_empty())
            .collect();
        let from: Vec<_> = parts.iter().zip(&starts).map(|(p, s)| (p.id, *s)).collect();
        let scan = ExternalScan { from, columns, skipped, follow: access.picked.is_none(), pass_over: false };
        let reader = open.stream.read(scan).await?;
        let progress = SourceProgress::external(
            open.stream.clone(),
            parts.iter().zip(&starts).map(|(p, start)| (p.id, *start, p.end)),
        );
        let judged = spec.watermark.as_ref();
        let ordered = judged.is_some() || spec.log_order || spec.history.order == SourceOrder::Live;
        let silence_us = |w: &weir_plan::WatermarkSpec| w.silence_us.max(w.timeout.map_or(0, |t| t.after_us));
        let states = parts.iter().zip(&starts).enumerate();
        let states = states
            .map(|(i, (p, start))| PartState {
                id: p.id,
                origin: Origin { stream: name.clone(), shard: p.id as u32, source: with.source },
                queue: VecDeque::new(),
                bytes: 0,
                held: false,
                next: *start,
                read: *start,
                history_end: p.end,
                caught_up: false,
                last_append: i64::MIN,
                stop: SeqNo::MAX,
                cuts: cuts(i),
            })
            .collect();
        let source = ExternalSource {
            name,
            picker,
            reader,
            parts: states,
            ordered,
            idle_timeout_us: judged.map(|w| w.idle_timeout_us.max(silence_us(w))),
            given_us: i64::MIN,
            told_us: i64::MIN,
            clock: access.clock.clone(),
            phase: if spec.history.emits { Phase::Announcing } else { Phase::History { announced: false } },
            delivered: progress.clone(),
            read: with.read,
            warnings: with.warnings,
            memory: with.memory,
            drain: Box::pin(with.drain),
            failed: None,
            trouble: None,
            open,
        };
        Ok((source, progress))
    }

    /// Takes what the reader gives.
    fn take(&mut self, read: ExternalRead) -> Result<(), StreamError> {
        match read {
            ExternalRead::Rows(rows) => self.take_rows(rows),
            ExternalRead::CaughtUp { partition, at } => {
                if let Some(p) = self.parts.iter_mut().find(|p| p.id == partition) {
                    (p.caught_up, p.read) = (true, p.read.max(at));
                }
                Ok(())
            }
            ExternalRead::Appeared(id) => {
                self.warnings
                    .add(format!("{} has a new partition {id}; it is read from its beginning", self.name));
                let source = self.parts.first().map_or(0, |p| p.origin.source);
                self.parts.push(PartState {
                    id,
                    origin: Origin { stream: self.name.clone(), shard: id as u32, source },
                    queue: VecDeque::new(),
                    bytes: 0,
                    held: false,
                    next: SeqNo::ZERO,
                    read: SeqNo::ZERO,
                    history_end: SeqNo::ZERO,
                    caught_up: false,
                    last_append: i64::MIN,
                    stop: SeqNo::MAX,
                    cuts: Cuts::default(),
                });
                self.delivered.appeared(id);
                Ok(())
            }
            ExternalRead::Notice(what) => {
                self.warnings.add(format!("{}: {what}", self.name));
                Ok(())
            }
            ExternalRead::PassedOver { partition, at, error }
            | ExternalRead::BadMessage { partition, at, error } => {
                self.failed = self.parts.iter().position(|p| p.id == partition).map(|i| (i, at, at.plus(1)));
                Err(error)
            }
        }
    }

    fn take_rows(&mut self, rows: ExternalRows) -> Result<(), StreamError> {
        let Some(i) = self.parts.iter().position(|p| p.id == rows.partition) else { return Ok(()) };
        let p = &mut self.parts[i];
        let from = p.read;
        (p.read, p.caught_up) = (rows.next, false);
        if rows.batch.num_rows() == 0 {
            return Ok(());
        }
        let last = &mut p.last_append;
        let told_us = self.told_us;
        let rows_append = rows.append_us.into_iter().map(|us| {
            // Later than what was said to have passed.
            *last = (*last).max(us).max(told_us.saturating_add(1));
            *last
        });
        let append = TimestampMicrosecondArray::from_iter_values(rows_append).with_timezone("UTC");
        let complete = match self.open.ingest.complete(&rows.batch, &rows.absent) {
            Ok(complete) => complete,
            Err(e) => {
                self.failed = Some((i, from, rows.next));
                return Err(e.into());
            }
        };
        let bytes = complete.get_array_memory_size();
        let held = self.memory.reserve(bytes as u64).map_err(|e| StreamError {
            code: Code::MemoryLimitExceeded,
            message: format!("rows of {}: {e}; raise max_memory_usage", self.name),
        })?;
        let all = TailBatch {
            batch: complete,
            sns: Sns::Listed(Int64Array::from(rows.sns)),
            append_times: Times::Listed(append),
        };
        let mut held = Some(held);
        let mut pieces = VecDeque::new();
        if p.cuts == Cuts::default() {
            pieces.push_back(all);
        } else {
            p.cuts.cut(all, &mut pieces);
        }
        for rows_of in pieces {
            let bytes = rows_of.batch.get_array_memory_size();
            p.bytes += bytes;
            p.queue.push_back(Piece { rows: rows_of, bytes, _held: held.take() });
        }
        if !p.held && p.bytes > WAITING_BYTES_MAX {
            p.held = true;
            self.reader.hold(p.id, true);
        }
        Ok(())
    }

    /// The partition whose first row is next, and how many of its rows may go.
    fn turn(&self) -> Option<(usize, usize)> {
        if !self.ordered || self.parts.len() == 1 {
            return self.parts.iter().enumerate().find_map(|(i, p)| p.ready().map(|rows| (i, rows.rows())));
        }
        let mut heads = Vec::with_capacity(self.parts.len());
        for (i, p) in self.parts.iter().enumerate() {
            match (p.ready(), &self.phase) {
                (Some(rows), _) => heads.push((p.origin.arrival(rows, 0), i)),
                // Nothing is to come of it for now.
                (None, _) if p.is_held() || !p.queue.is_empty() => {}
                (None, Phase::Draining) => {}
                (None, _) if p.caught_up => {}
                (None, _) => return None,
            }
        }
        heads.sort_by(|a, b| a.0.cmp(&b.0));
        let (_, first) = heads.first()?;
        let rows = self.parts[*first].ready()?;
        let bound = heads.get(1).map(|(key, _)| key);
        Some((*first, self.parts[*first].origin.run_length(rows, bound).max(1)))
    }

    /// Gives rows of a partition; all those of a message at once.
    fn give(&mut self, i: usize, n: usize) -> Result<RecordBatch, StreamError> {
        let p = &mut self.parts[i];
        let mut piece = p.queue.pop_front().expect("it has rows");
        let total = piece.rows.rows();
        let stop = p.stop;
        let mut n = n.min((0..total).position(|r| piece.rows.sn(r) >= stop).unwrap_or(total)).max(1);
        while n < total && piece.rows.sn(n) == piece.rows.sn(n - 1) {
            n += 1;
        }
        let rows = piece.rows.slice(0, n);
        p.next = piece.rows.sn(n - 1).plus(1);
        if n < total {
            piece.rows = piece.rows.slice(n, total - n);
            p.queue.push_front(piece);
        } else {
            p.bytes -= piece.bytes;
        }
        if p.held && p.bytes <= WAITING_BYTES_FEW {
            p.held = false;
            self.reader.hold(p.id, false);
        }
        self.given_us = self.given_us.max(rows.append_time(n - 1).0);
        let id = p.id;
        self.picker.pick(&rows, ShardId(id as u32)).map_err(|e| {
            let name = &self.name;
            StreamError {
                code: Code::LogicalError,
                message: format!("rows of {name} do not fit the plan: {e}"),
            }
        })
    }

    /// What can be given without more of the reader.
    fn ready(&mut self) -> Result<Option<Element>, StreamError> {
        for (i, p) in self.parts.iter_mut().enumerate() {
            let nothing_before = match p.queue.front() {
                Some(piece) => piece.rows.sn(0) >= p.stop,
                None => p.caught_up && p.read >= p.stop,
            };
            if p.stop != SeqNo::MAX && nothing_before {
                p.next = p.next.max(p.stop);
            }
            self.delivered.delivered(i, p.delivered());
        }
        match self.phase {
            Phase::Announcing => {
                self.phase = Phase::History { announced: true };
                return Ok(Some(Element::EndOfBackfill));
            }
            Phase::Closing => {
                self.phase = Phase::Ended;
                return Ok(Some(Element::Watermark(WatermarkTime::INFINITY)));
            }
            Phase::Ended => return Ok(Some(Element::End)),
            Phase::History { announced } => {
                let done = |p: &PartState| p.history_done() || p.queue.is_empty() && p.caught_up;
                if self.parts.iter().all(done) {
                    self.phase = Phase::Live;
                    if !announced {
                        return Ok(Some(Element::EndOfBackfill));
                    }
                }
            }
            Phase::Live | Phase::Draining => {}
        }
        let Some((i, n)) = self.turn() else { return Ok(None) };
        let batch = self.give(i, n)?;
        self.read.add_read(batch.num_rows() as u64, batch.get_array_memory_size() as u64);
        Ok(Some(Element::Rows(Rows::append(batch))))
    }

    /// Whether it matters how time passes without rows.
    fn counts_silence(&self) -> bool {
        let may_idle = |timeout| self.told_us <= self.given_us.saturating_add(timeout);
        self.phase == Phase::Live
            && self.given_us != i64::MIN
            && self.idle_timeout_us.is_some_and(may_idle)
            && self.parts.iter().all(|p| p.caught_up && p.queue.is_empty())
    }

    fn tell_trouble(&mut self) {
        let now = self.reader.trouble();
        if now != self.trouble {
            if let Some(trouble) = &now {
                self.warnings.add(format!("{}: {trouble}; it is tried again", self.name));
            }
            self.trouble = now;
        }
    }
}

impl Drop for ExternalSource {
    fn drop(&mut self) {
        self.delivered.ended();
    }
}

#[async_trait::async_trait]
impl Source for ExternalSource {
    async fn next(&mut self) -> Result<Element, StreamError> {
        let mut silent_since = Instant::now();
        loop {
            if let Some(element) = self.ready()? {
                return Ok(element);
            }
            self.tell_trouble();
            let (counts, draining) = (self.counts_silence(), self.phase == Phase::Draining);
            let read = tokio::select! {
                biased;
                read = self.reader.next() => Some(read?),
                () = self.drain.as_mut(), if !draining => {
                    self.phase = Phase::Draining;
                    silent_since = Instant::now();
                    None
                }
                () = tokio::time::sleep(FRONTIER_TELL) => None,
            };
            match read {
                Some(read) => {
                    silent_since = Instant::now();
                    self.take(read)?;
                }
                None if self.phase == Phase::Draining => {
                    let nothing = self.parts.iter().all(|p| p.queue.is_empty());
                    if nothing && silent_since.elapsed() >= DRAIN_SILENCE {
                        self.phase = Phase::Closing;
                    }
                }
                None if counts => {
                    let frontier = self.clock.now_us().saturating_sub(FRONTIER_LAG_US);
                    if frontier > self.told_us.max(self.given_us) {
                        self.told_us = frontier;
                        return Ok(Element::Frontier(frontier));
                    }
                }
                None => {}
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Element>, StreamError> {
        loop {
            if let Some(element) = self.ready()? {
                return Ok(Some(element));
            }
            match self.reader.try_next()? {
                Some(read) => self.take(read)?,
                None => return Ok(None),
            }
        }
    }

    fn position(&self) -> Vec<SeqNo> {
        self.parts.iter().map(|p| p.next).collect()
    }

    fn stop_at(&mut self, bounds: Option<&[SeqNo]>) {
        for (i, p) in self.parts.iter_mut().enumerate() {
            // A partition that was not there then.
            p.stop = bounds.map_or(SeqNo::MAX, |b| b.get(i).copied().unwrap_or(SeqNo::ZERO));
        }
    }

    fn failed_at(&self) -> Option<(usize, SeqNo, SeqNo)> {
        self.failed
    }
}

/// Rows of a bounded read, complete, with where they lie.
pub(crate) fn completed(open: &OpenExternal, rows: ExternalRows) -> Result<TailBatch, Error> {
    let batch = open.ingest.complete(&rows.batch, &rows.absent)?;
    debug_assert!(
        batch.schema().index_of(TIME_COLUMN).is_ok() && batch.schema().index_of(SN_COLUMN).is_err()
    );
    let append = TimestampMicrosecondArray::from(rows.append_us).with_timezone("UTC");
    Ok(TailBatch { batch, sns: Sns::Listed(Int64Array::from(rows.sns)), append_times: Times::Listed(append) })
}
