//! The end of a view's query: its rows into the view's target, each record with how far the view had come.
//!
//! ```text
//! rows -> held until all is here that its input became -> dealt to target shards -> a lane each:
//!         what waits becomes one record, with the newest position it is complete to -> append
//! ```
//!
//! Invariants
//! - a record holds all rows of its shard up to the position it names, from the record before on: whoever
//!   finds it knows what not to write again; of a large result set it names the pieces, dealt by group, that
//!   are written;
//! - the shard of a row is a function of the row (its group, else its source's shard), the same after a
//!   restart;
//! - nothing is written to a shard before the restored query has come to that shard's newest position.
//!
//! Not here: what a position is (`plan::Position`), records and their syncs (`storage`).

use super::held::Held;
use super::route::Route;
use super::select::TIME_ALIAS;
use crate::execute::Target;
use crate::expr::convert_column;
use crate::query::Late;
use crate::{Progress as QueryProgress, ingest::IngestPlan};
use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Notify, watch};
use weir_base::{Code, Disk, Error, MemoryBudget, Reservation, Result, SeqNo, err};
use weir_plan::{Durable, Element, Epoch, LateRows, Position, Sink, SourcePosition, StreamError};
use weir_storage::{Ack, Progress, Shard, StorageError, TIME_COLUMN};

/// Rows of one lane that wait while a record is on its way, bytes; then the query waits too. A record is there
/// three times while it is written: as what waited, as one batch, and as bytes.
const WAITING_BYTES_MAX: u64 = 2 << 20;

/// Turns what a query gives into rows of its target.
pub(super) struct Fitting {
    ingest: Arc<IngestPlan>,
    /// Of each column of the target that is given: where it stands in the result.
    given: Vec<usize>,
    source: SchemaRef,
    columns: Vec<(String, weir_format::types::Type)>,
    schema: SchemaRef,
    wrap: bool,
}

impl Fitting {
    /// Columns go by name.
    pub fn new(target: &Target, source: SchemaRef, wrap: bool) -> Result<Self> {
        let given = target
            .columns
            .iter()
            .map(|(name, _)| {
                let found = source.index_of(name).or_else(|e| match name.as_str() {
                    TIME_COLUMN => source.index_of(TIME_ALIAS),
                    _ => Err(e),
                });
                found.map_err(|_| err!(LogicalError, "column {name} is not in the result"))
            })
            .collect::<Result<_>>()?;
        let (columns, schema) = (target.columns.clone(), target.schema.clone());
        Ok(Fitting { ingest: target.ingest(), given, source, columns, schema, wrap })
    }

    /// # Errors
    /// A value that its column can not hold.
    pub fn fit(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let arrays = self
            .given
            .iter()
            .zip(&self.columns)
            .map(|(i, (_, to))| convert_column(batch.column(*i), self.source.field(*i), to, self.wrap))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let given = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|e| err!(TypeMismatch, "the rows do not fit the target: {e}"))?;
        let absent = vec![None; given.num_columns()];
        self.ingest.complete(&given, &absent)
    }

    /// Rows by shard.
    pub fn deal(
        &self,
        route: &Route,
        result: &RecordBatch,
        from: usize,
    ) -> Result<Vec<(usize, RecordBatch)>> {
        let complete = self.fit(result)?;
        let shards = self.ingest.shards() as usize;
        if shards == 1 {
            return Ok(vec![(0, complete)]);
        }
        let own =
            if self.ingest.sharding_is_deterministic() { self.ingest.shards_of(&complete)? } else { None };
        let of_row = match own {
            Some(of_row) => of_row,
            None => match route.shards(result, shards)? {
                Some(of_row) => of_row,
                None => return Ok(vec![(from % shards, complete)]),
            },
        };
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); shards];
        for (row, shard) in of_row.iter().enumerate() {
            rows[*shard as usize].push(row as u32);
        }
        let some = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        some.map(|(shard, rows)| {
            let picked = take_record_batch(&complete, &UInt32Array::from(rows));
            picked.map(|batch| (shard, batch)).map_err(|e| err!(LogicalError, "could not deal rows: {e}"))
        })
        .collect()
    }
}

/// How far a view has written to a shard of its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    pub at: Position,
    /// `None` = all that left up to there.
    pub within: Option<Within>,
}

/// Of what left after `from` so many pieces of so many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Within {
    pub from: Position,
    pub done: u16,
    pub pieces: u16,
}

/// First byte of a [`Reached`] that lies within what left at its position; else it is a position alone.
const WITHIN: u8 = 0xFF;

impl Reached {
    /// A position; before it, where it lies within: 0xFF, pieces written (u16), pieces in all (u16), length
    /// (u16) and position of what was written before, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(within) = &self.within {
            let from = within.from.encode();
            out.push(WITHIN);
            out.extend(within.done.to_le_bytes());
            out.extend(within.pieces.to_le_bytes());
            out.extend((from.len() as u16).to_le_bytes());
            out.extend(from);
        }
        out.extend(self.at.encode());
        out
    }

    /// The reverse; `None` if the bytes are not that.
    pub fn decode(bytes: &[u8]) -> Option<Reached> {
        let Some(([WITHIN, a, b, c, d, e, f], rest)) = bytes.split_first_chunk::<7>() else {
            return Position::decode(bytes).map(|at| Reached { at, within: None });
        };
        let number = |low: &u8, high: &u8| u16::from_le_bytes([*low, *high]);
        let (from, rest) = rest.split_at_checked(usize::from(number(e, f)))?;
        let from = Position::decode(from)?;
        let within = Some(Within { from, done: number(a, b), pieces: number(c, d) });
        Position::decode(rest).map(|at| Reached { at, within })
    }

    /// Whether it is there already what left at `at` in this piece.
    fn has(&self, at: &Position, piece: u16) -> bool {
        self.at != *at || self.within.as_ref().is_none_or(|w| piece < w.done)
    }

    /// Whether `at` lies amid what was written in pieces: what leaves there belongs to them, though batches
    /// were cut elsewhere then.
    fn is_amid(&self, at: &Position) -> bool {
        self.within.as_ref().is_some_and(|w| at.within(&self.at) && *at != self.at && !at.within(&w.from))
    }
}

/// What waits for a shard of the target.
#[derive(Default)]
struct Waiting {
    batches: Vec<RecordBatch>,
    bytes: u64,
    held: Vec<Reservation>,
    at: Option<Reached>,
    /// Someone appends, and takes what waits when that is done.
    busy: bool,
    failed: Option<StreamError>,
}

/// One shard of the target.
pub(super) struct Lane {
    shard: Arc<Shard>,
    writer: [u8; 16],
    name: String,
    waiting: Mutex<Waiting>,
    /// A record is durable, or failed.
    moved: Notify,
    written: Arc<Written>,
}

/// Rows that are durable, and counters of the view.
pub(super) struct Written {
    pub rows: watch::Sender<u64>,
    pub progress: Arc<QueryProgress>,
}

impl Lane {
    /// Adds rows that are complete to a position. Waits while too much waits.
    async fn add(
        self: &Arc<Self>,
        batches: Vec<RecordBatch>,
        at: &Reached,
        memory: &Arc<MemoryBudget>,
    ) -> Result<(), StreamError> {
        let bytes: u64 = batches.iter().map(|b| b.get_array_memory_size() as u64).sum();
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let mut waiting = self.waiting.lock();
                if let Some(e) = &waiting.failed {
                    return Err(e.clone());
                }
                if waiting.bytes == 0 || waiting.bytes + bytes <= WAITING_BYTES_MAX {
                    waiting.held.push(memory.reserve(bytes).map_err(|e| StreamError {
                        code: Code::MemoryLimitExceeded,
                        message: format!("rows on their way to {}: {e}; raise max_memory_usage", self.name),
                    })?);
                    waiting.batches.extend(batches);
                    waiting.bytes += bytes;
                    waiting.at = Some(at.clone());
                    if !std::mem::replace(&mut waiting.busy, true) {
                        tokio::spawn(self.clone().write());
                    }
                    return Ok(());
                }
            }
            moved.await;
        }
    }

    /// Appends what waits until nothing does.
    async fn write(self: Arc<Self>) {
        loop {
            let (batches, at, held) = {
                let mut waiting = self.waiting.lock();
                let Some(at) = waiting.at.take().filter(|_| waiting.failed.is_none()) else {
                    waiting.busy = false;
                    drop(waiting);
                    self.moved.notify_waiters();
                    return;
                };
                waiting.bytes = 0;
                (std::mem::take(&mut waiting.batches), at, std::mem::take(&mut waiting.held))
            };
            let appended = self.append(batches, &at).await;
            drop(held);
            match appended {
                Ok(rows) => {
                    self.written.progress.written_rows.fetch_add(rows, Ordering::Relaxed);
                    self.written.rows.send_modify(|all| *all += rows);
                }
                Err(e) => {
                    let mut waiting = self.waiting.lock();
                    waiting.failed = Some(e);
                    // The rows are made again from the last checkpoint.
                    (waiting.batches, waiting.held, waiting.at) = (Vec::new(), Vec::new(), None);
                }
            }
            self.moved.notify_waiters();
        }
    }

    async fn append(&self, batches: Vec<RecordBatch>, at: &Reached) -> Result<u64, StreamError> {
        let joined = match &batches[..] {
            [one] => one.clone(),
            all => concat_batches(&all[0].schema(), all).map_err(|e| StreamError {
                code: Code::LogicalError,
                message: format!("could not join rows for {}: {e}", self.name),
            })?,
        };
        let (rows, bytes) = (joined.num_rows() as u64, joined.get_array_memory_size() as u64);
        let progress = Progress { writer: self.writer, bytes: at.encode().into() };
        let appended = self.shard.append_as(joined, progress, Ack::Durable).await;
        appended.map_err(|e| {
            let e = match e {
                StorageError::Dropped => err!(UnknownStream, "stream {} was dropped", self.name),
                StorageError::Append(weir_log::AppendError::TooLarge { .. }) => err!(
                    BadArguments,
                    "{e}: {rows} rows left at once; let fewer leave, with EMIT ON UPDATE or EMIT CHANGELOG"
                ),
                e => Error::from(e),
            };
            StreamError { code: e.code, message: format!("writing to {}: {}", self.name, e.message) }
        })?;
        self.written.progress.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(rows)
    }

    /// Returns once nothing is on its way, however that ended: a query that is restarted before would not
    /// know of it.
    pub async fn idle(&self) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if !self.waiting.lock().busy {
                return;
            }
            moved.await;
        }
    }

    /// Returns once something could not be written, with why.
    pub async fn failed(&self) -> StreamError {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if let Some(e) = &self.waiting.lock().failed {
                return e.clone();
            }
            moved.await;
        }
    }

    /// Returns once nothing waits.
    async fn settled(self: Arc<Self>) -> Result<(), StreamError> {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let waiting = self.waiting.lock();
                if let Some(e) = &waiting.failed {
                    return Err(e.clone());
                }
                if !waiting.busy {
                    return Ok(());
                }
            }
            moved.await;
        }
    }
}

pub(super) struct ViewSink {
    fitting: Fitting,
    route: Route,
    lanes: Vec<Arc<Lane>>,
    /// Of each lane up to where it was written before, where the query has not come there.
    ahead: Vec<Option<Reached>>,
    /// Since the last position.
    held: Held,
    disk: Arc<dyn Disk>,
    last: Position,
    memory: Arc<MemoryBudget>,
    late: Late,
    written: Arc<Written>,
}

impl ViewSink {
    /// `ahead`: of each shard of the target how far the view had written to it.
    pub fn new(
        writer: [u8; 16],
        target: &Target,
        (fitting, route): (Fitting, Route),
        ahead: Vec<Option<Reached>>,
        (memory, disk): (Arc<MemoryBudget>, Arc<dyn Disk>),
        (late, written): (Late, Arc<Written>),
    ) -> Self {
        let lane = |shard: &Arc<Shard>| {
            Arc::new(Lane {
                shard: shard.clone(),
                writer,
                name: target.name.to_string(),
                waiting: Mutex::default(),
                moved: Notify::new(),
                written: written.clone(),
            })
        };
        let lanes = target.shards().iter().map(lane).collect();
        let held = Held::new(disk.clone(), memory.clone(), route.clone());
        ViewSink {
            fitting,
            route,
            lanes,
            ahead,
            held,
            disk,
            last: Position::default(),
            memory,
            late,
            written,
        }
    }

    /// One for each shard of the target.
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.clone()
    }

    /// Into how many pieces what leaves at a position was cut before a restart.
    fn begun(&self, at: Option<&Position>) -> Option<u16> {
        let of = |a: &&Reached| at.is_none_or(|at| a.at == *at);
        let within = self.ahead.iter().flatten().filter(of).find_map(|a| a.within.as_ref());
        within.map(|w| w.pieces.max(1))
    }

    /// Which shard of its sources the rows since the last position came from.
    fn moved(&self, at: &Position) -> usize {
        for (i, source) in at.sources.iter().enumerate() {
            let before = self.last.sources.get(i);
            // Of a shard that came since nothing was taken in before.
            let was = |b: &SourcePosition, s: usize| b.next.get(s).copied().unwrap_or(SeqNo::ZERO);
            let moved = |(s, next): (usize, &SeqNo)| before.is_none_or(|b| was(b, s) != *next);
            if let Some(shard) = source.next.iter().enumerate().position(moved) {
                return shard;
            }
        }
        0
    }
}

#[async_trait::async_trait]
impl Sink for ViewSink {
    async fn send(&mut self, element: Element) -> Result<(), StreamError> {
        if let Element::Rows(rows) = element {
            let n = rows.batch.num_rows() as u64;
            self.written.progress.given_rows.fetch_add(n, Ordering::Relaxed);
            self.written.progress.taken_rows.fetch_add(n, Ordering::Relaxed);
            self.written.progress.result_rows.fetch_add(n, Ordering::Relaxed);
            self.held.push(rows.batch, self.begun(None))?;
        }
        Ok(())
    }

    async fn complete(&mut self, at: &Position) -> Result<(), StreamError> {
        if self.ahead.iter().flatten().any(|a| a.is_amid(at)) {
            return Ok(());
        }
        let shard_from = self.moved(at);
        let from = std::mem::replace(&mut self.last, at.clone());
        let mut set = self.held.take();
        set.close(&self.disk, &self.route)?;
        let pieces = self.begun(Some(at)).unwrap_or(set.pieces());
        for piece in 0..pieces {
            let more = piece + 1 < pieces;
            let within = more.then(|| Within { from: from.clone(), done: piece + 1, pieces });
            let reached = Reached { at: at.clone(), within };
            let mut dealt: Vec<Vec<RecordBatch>> = vec![Vec::new(); self.lanes.len()];
            for batch in set.piece(&self.route, piece, pieces)? {
                if batch.num_rows() == 0 {
                    continue;
                }
                for (shard, rows) in self.fitting.deal(&self.route, &batch, shard_from)? {
                    dealt[shard].push(rows);
                }
            }
            for (shard, batches) in dealt.into_iter().enumerate().filter(|(_, b)| !b.is_empty()) {
                if self.ahead[shard].as_ref().is_some_and(|ahead| ahead.has(at, piece)) {
                    let n: u64 = batches.iter().map(|b| b.num_rows() as u64).sum();
                    self.written.rows.send_modify(|all| *all += n);
                    continue;
                }
                self.lanes[shard].add(batches, &reached, &self.memory).await?;
            }
        }
        Ok(())
    }

    async fn passed(&mut self, at: &Position) -> Result<(), StreamError> {
        if !self.held.is_empty() {
            // What leaves amid pieces waits for their position, where nothing more may have left.
            self.complete(at).await?;
        }
        for ahead in &mut self.ahead {
            if ahead.as_ref().is_some_and(|a| a.at.within(at)) {
                *ahead = None;
            }
        }
        // What comes next is told from what was there by where it moves on.
        if self.last.sources.is_empty() || self.last.within(at) {
            self.last = at.clone();
        }
        Ok(())
    }

    async fn barrier(&mut self, _epoch: Epoch) -> Result<Durable, StreamError> {
        let lanes = self.lanes.clone();
        Ok(Box::pin(async move {
            for lane in lanes {
                lane.settled().await?;
            }
            Ok(())
        }))
    }

    async fn late(&mut self, rows: LateRows) -> Result<(), StreamError> {
        self.late.take(rows).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(next: u64) -> Position {
        let source = SourcePosition { next: vec![SeqNo(next)], frontier_us: 7, backfilled: true };
        Position { sources: vec![source], ticked: false }
    }

    #[test]
    fn what_was_written_within_a_result_set_is_known_by_piece() {
        let whole = Reached { at: at(5), within: None };
        let within = Some(Within { from: at(2), done: 2, pieces: 9 });
        let within = Reached { at: at(5), within };
        for reached in [&whole, &within] {
            assert_eq!(Reached::decode(&reached.encode()).as_ref(), Some(reached));
            assert_eq!(Reached::decode(&reached.encode()[1..]), None);
        }
        let amid: Vec<u64> = (0..9).filter(|n| within.is_amid(&at(*n))).collect();
        assert_eq!(amid, [3, 4], "what left there was dealt with what left at 5");
        assert!(!whole.is_amid(&at(4)));
        // (reached, position, piece, there)
        let cases = [
            (&whole, at(5), 3, true),
            (&whole, at(4), 3, true),
            (&within, at(2), 8, true),
            (&within, at(5), 1, true),
            (&within, at(5), 2, false),
        ];
        for (reached, position, piece, there) in cases {
            assert_eq!(reached.has(&position, piece), there, "{reached:?} {position:?} {piece}");
        }
    }
}
