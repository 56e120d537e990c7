//! Parts that only need decoding, decoded ahead of their reader.
//!
//! Work is cut into row groups (small parts are one piece) that blocking threads decode side by
//! side; rows are handed out in the order of the work. How many are under way grows from one with
//! what is taken, so that who wants a few rows pays for a few, up to [`UNITS_MAX`] and to the
//! bytes the reader allows; where its memory refuses, one is under way.
//!
//! Not here: parts that must be merged or put into sequence order first (`replay`).

use super::Shard;
use super::wanted::Reading;
use crate::batch::{APPEND_TIME_COLUMN, SN_COLUMN, Sns, TailBatch, Times, append_time_type};
use crate::error::{Result, StorageError};
use crate::order::failed;
use crate::parts::{PartFile, PartGroups};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::filter::filter_record_batch;
use futures::FutureExt;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::{JoinHandle, spawn_blocking};
use weir_base::{Reservation, SeqNo};

/// Rows handed out at once.
const BATCH_ROWS: usize = 32_768;
/// Pieces of work under way at most.
const UNITS_MAX: usize = 4;
/// A part of so many rows is one piece: its footer is read with it.
const SMALL_PART_ROWS: u64 = 131_072;
/// Taken for a value whose width its type does not tell.
const WIDTH_GUESS_BYTES: u64 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By sequence number; the parts are in that order, each by itself and one after the other.
    Sequence,
    Any,
}

/// Turns pieces of parts into rows; shared by the threads that do.
#[derive(Debug, Clone)]
struct Decoder {
    shard: Arc<Shard>,
    reading: Arc<Reading>,
    order: Order,
    from: SeqNo,
    pruned: bool,
}

/// A row group, and how many rows of its part lie before it.
#[derive(Debug, Clone, Copy)]
struct Piece {
    group: usize,
    first_row: u64,
}

#[derive(Debug)]
enum Work {
    Part(Arc<PartFile>),
    Group(Arc<PartGroups>, Piece),
}

#[derive(Debug)]
struct Opened {
    groups: Arc<PartGroups>,
    left: VecDeque<Piece>,
}

#[derive(Debug)]
struct Unit {
    bytes: u64,
    work: JoinHandle<Result<Vec<TailBatch>>>,
}

#[derive(Debug)]
pub(super) struct Ahead {
    decoder: Decoder,
    /// Not yet opened, in order.
    parts: VecDeque<Arc<PartFile>>,
    open: Option<Opened>,
    opening: Option<JoinHandle<Result<Opened>>>,
    /// Made, and not yet begun for want of memory.
    held_back: Option<Work>,
    flight: VecDeque<Unit>,
    ready: VecDeque<TailBatch>,
    ready_bytes: u64,
    units_max: usize,
    /// For `flight` and `ready`, as far as memory allowed.
    held: Option<Reservation>,
}

impl Ahead {
    /// The rows of `parts` at or after `from`; `pruned`: without what the reader can do without.
    pub fn new(
        shard: &Arc<Shard>,
        reading: &Arc<Reading>,
        parts: VecDeque<Arc<PartFile>>,
        order: Order,
        from: SeqNo,
        pruned: bool,
    ) -> Self {
        // Of nothing, so that it is not refused.
        let held = reading.wanted.memory.as_ref().and_then(|m| m.reserve(0).ok());
        let decoder = Decoder { shard: shard.clone(), reading: reading.clone(), order, from, pruned };
        Ahead {
            decoder,
            parts,
            open: None,
            opening: None,
            held_back: None,
            flight: VecDeque::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            units_max: 1,
            held,
        }
    }

    /// The next rows; `None` after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<TailBatch>> {
        loop {
            self.fill().await?;
            if let Some(rows) = self.ready.pop_front() {
                return Ok(Some(rows));
            }
            self.give_back(self.ready_bytes);
            self.ready_bytes = 0;
            let Some(unit) = self.flight.front_mut() else { return Ok(None) };
            let rows = joined((&mut unit.work).await)?;
            let unit = self.flight.pop_front().expect("it was the first");
            self.ready_bytes = unit.bytes;
            self.ready = rows.into();
            self.units_max = (self.units_max + 1).min(UNITS_MAX);
        }
    }

    /// Like [`Ahead::next`] on the caller's thread; the two are not mixed.
    pub fn next_blocking(&mut self) -> Result<Option<TailBatch>> {
        debug_assert!(self.flight.is_empty() && self.opening.is_none());
        loop {
            if let Some(rows) = self.ready.pop_front() {
                return Ok(Some(rows));
            }
            let work = match self.at_hand() {
                Some(work) => work,
                None => match self.parts.pop_front() {
                    None => return Ok(None),
                    Some(part) => {
                        self.open = Some(self.decoder.open(&part)?);
                        continue;
                    }
                },
            };
            self.ready = self.decoder.run(&work)?.into();
        }
    }

    /// Begins as much work as may be under way.
    async fn fill(&mut self) -> Result<()> {
        let bytes_max = self.decoder.reading.wanted.ahead_bytes_max;
        loop {
            let held: u64 = self.flight.iter().map(|u| u.bytes).sum::<u64>() + self.ready_bytes;
            let room = self.flight.len() < self.units_max && held < bytes_max;
            let nothing_ahead = self.flight.is_empty() && self.ready.is_empty();
            if !(room || nothing_ahead) {
                return Ok(());
            }
            let Some(work) = self.next_work().await? else { return Ok(()) };
            let bytes = self.decoder.bytes_of(&work);
            let refused = self.held.as_mut().is_some_and(|h| h.grow_gently(bytes).is_err());
            if refused && !(self.flight.is_empty() && self.ready.is_empty()) {
                self.held_back = Some(work);
                return Ok(());
            }
            let decoder = self.decoder.clone();
            let bytes = if refused { 0 } else { bytes };
            self.flight.push_back(Unit { bytes, work: spawn_blocking(move || decoder.run(&work)) });
        }
    }

    fn give_back(&mut self, bytes: u64) {
        if let Some(held) = &mut self.held {
            held.shrink(bytes);
        }
    }

    /// Work that needs no footer to be read first.
    fn at_hand(&mut self) -> Option<Work> {
        if let Some(work) = self.held_back.take() {
            return Some(work);
        }
        if let Some(open) = &mut self.open {
            if let Some(piece) = open.left.pop_front() {
                return Some(Work::Group(open.groups.clone(), piece));
            }
            self.open = None;
        }
        let part = self.parts.pop_front_if(|p| p.meta.rows <= SMALL_PART_ROWS)?;
        Some(Work::Part(part))
    }

    /// `None` at the end, and where only waiting could tell while other work is under way.
    async fn next_work(&mut self) -> Result<Option<Work>> {
        loop {
            if let Some(work) = self.at_hand() {
                return Ok(Some(work));
            }
            let Some(part) = self.parts.front() else { return Ok(None) };
            let opening = self.opening.get_or_insert_with(|| {
                let (decoder, part) = (self.decoder.clone(), part.clone());
                spawn_blocking(move || decoder.open(&part))
            });
            let opened = if self.flight.is_empty() && self.ready.is_empty() {
                opening.await
            } else {
                match opening.now_or_never() {
                    Some(opened) => opened,
                    None => return Ok(None),
                }
            };
            self.opening = None;
            self.open = Some(joined(opened)?);
            self.parts.pop_front();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.flight.iter().for_each(|unit| unit.work.abort());
    }
}

fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.map_err(|e| StorageError::Worker { doing: "a read", reason: e.to_string() })?
}

impl Decoder {
    /// Reads a part's footer and finds the row groups that matter.
    fn open(&self, part: &Arc<PartFile>) -> Result<Opened> {
        let groups = Arc::new(PartGroups::open(self.shard.ctx.parts(), part)?);
        let pruner = self.reading.wanted.pruner.as_ref().filter(|_| self.pruned);
        let kept = pruner.map(|p| p.row_groups(groups.schema(), groups.footer()));
        let mut left = VecDeque::new();
        let mut first_row = 0;
        for group in 0..groups.len() {
            let rows = groups.rows(group);
            let end = if is_dense(part) {
                part.meta.sn_min.0 + first_row + rows
            } else {
                groups.max_int64(group, SN_COLUMN).map_or(u64::MAX, |last| last as u64 + 1)
            };
            let wanted = kept.as_ref().is_none_or(|k| k.get(group).copied().unwrap_or(true));
            if end > self.from.0 && wanted {
                left.push_back(Piece { group, first_row });
            }
            first_row += rows;
        }
        Ok(Opened { groups, left })
    }

    fn run(&self, work: &Work) -> Result<Vec<TailBatch>> {
        match work {
            Work::Group(groups, piece) => self.decode(groups, *piece),
            Work::Part(part) => {
                let opened = self.open(part)?;
                let mut all = Vec::new();
                for piece in opened.left {
                    all.append(&mut self.decode(&opened.groups, piece)?);
                }
                Ok(all)
            }
        }
    }

    fn decode(&self, groups: &PartGroups, piece: Piece) -> Result<Vec<TailBatch>> {
        let meta = &groups.part.meta;
        let (own, wanted) = (self.reading.schema.fields(), &self.reading.wanted);
        let dense = is_dense(&groups.part);
        let cut = meta.sn_min < self.from;
        let with_sns = !dense && (self.order == Order::Sequence || wanted.sns || cut);
        let one_time = meta.append_min == meta.append_max;
        let with_times = wanted.append_times && !one_time;
        let mut fields: Vec<_> = own.iter().cloned().collect();
        if with_sns {
            fields.push(Arc::new(Field::new(SN_COLUMN, DataType::Int64, false)));
        }
        if with_times {
            fields.push(Arc::new(Field::new(APPEND_TIME_COLUMN, append_time_type(), false)));
        }
        let schema = Arc::new(Schema::new(fields));
        let mut at = meta.sn_min.plus(piece.first_row);
        let mut all = Vec::new();
        for batch in groups.read(piece.group, &schema, BATCH_ROWS)? {
            let n = batch.num_rows();
            let base = at;
            at = at.plus(n as u64);
            if dense && at <= self.from {
                continue;
            }
            // Rows that are in no order and partly before the start.
            let batch = if cut && with_sns && !meta.arrival { self.later(&batch)? } else { batch };
            if batch.num_rows() == 0 {
                continue;
            }
            let sns = match (dense, with_sns) {
                (true, _) => Sns::Dense(base),
                (false, true) => Sns::Listed(batch.column(own.len()).as_primitive::<Int64Type>().clone()),
                (false, false) => Sns::Unread,
            };
            let append_times = match (wanted.append_times, with_times) {
                (false, _) => Times::Unread,
                (true, false) => Times::One(meta.append_min),
                (true, true) => {
                    let last = batch.columns().last().expect("it was asked for");
                    Times::Listed(last.as_primitive::<TimestampMicrosecondType>().clone())
                }
            };
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let columns = batch.columns()[..own.len()].to_vec();
            let batch = RecordBatch::try_new_with_options(self.reading.schema.clone(), columns, &options)
                .map_err(|e| StorageError::Schema { what: e.to_string() })?;
            let rows = TailBatch { batch, sns, append_times };
            let rows = if cut && meta.arrival { rows.starting_at(self.from) } else { rows };
            if rows.rows() > 0 {
                all.push(rows);
            }
        }
        Ok(all)
    }

    /// Of rows with their sequence numbers behind the wanted columns those at or after the start.
    fn later(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let sns = batch.column(self.reading.schema.fields().len()).as_primitive::<Int64Type>();
        let keep: BooleanArray = sns.values().iter().map(|sn| Some(*sn as u64 >= self.from.0)).collect();
        filter_record_batch(batch, &keep).map_err(failed("read part"))
    }

    /// About what the rows of a piece take when they are decoded.
    fn bytes_of(&self, work: &Work) -> u64 {
        let rows = match work {
            Work::Part(part) => part.meta.rows,
            Work::Group(groups, piece) => groups.rows(piece.group),
        };
        let width = |f: &Arc<Field>| f.data_type().primitive_width().map_or(WIDTH_GUESS_BYTES, |w| w as u64);
        let positions = if self.reading.wanted.append_times { 16 } else { 8 };
        rows * (self.reading.schema.fields().iter().map(width).sum::<u64>() + positions)
    }
}

/// Whether sequence numbers follow from the place in the part.
fn is_dense(part: &PartFile) -> bool {
    part.meta.arrival && part.meta.rows == part.meta.sn_end.0 - part.meta.sn_min.0
}
