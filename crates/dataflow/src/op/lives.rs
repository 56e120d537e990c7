//! Lives of keys (`EMIT AFTER KEY EXPIRE`, `AFTER SESSION CLOSE`): rows wait until the life of their
//! key has ended, and leave together with its number; an aggregation above sees complete groups.
//!
//! ```text
//! row in log order -> lives silent for longer than the timeout end -> opens a life, joins its key's,
//!                     or lies in none -> the life ends by its span or by a condition
//! frontier         -> lives silent for longer than the timeout end
//! ```
//!
//! Silence is counted in append time and rows come in log order, so what leaves is a function of the
//! log. A key is forgotten with its life. What is held is the rows of open lives, all of it accounted; rows
//! that memory has no room for go to disk, what is known of a life stays.
//!
//! Not here: how rows are stored (`held`, `kept`), aggregates, putting rows into log order (sources).

use super::held::{Handle, Held};
use super::kept::{Kept, RowsOf, pieces};
use crate::operator::{InputId, OpError, Operator, Output, Stats, Wrote};
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::deltas::Named;
use crate::state::{StateReader, StateWriter};
use crate::time::nanos;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use weir_plan::{Element, LifeSpec, Rows, WatermarkTime};

const NAME: &str = "Lives";
/// Rows of a batch that leaves, save where one life has more.
const ROWS_MAX: usize = 65_536;
/// Rows that are restored before memory is looked at.
const RESTORE_ROWS: usize = 8_192;

/// The life of one key.
#[derive(Debug)]
struct Life {
    number: i64,
    key: Arc<[u8]>,
    first_ns: i64,
    last_ns: i64,
    last_append_us: i64,
    /// Rows that were spilled, the first ones.
    on_disk: usize,
    rows: Vec<Handle>,
}

impl Life {
    fn rows_of(&self) -> RowsOf<'_> {
        (self.number, self.on_disk, &self.rows)
    }

    fn len(&self) -> usize {
        self.on_disk + self.rows.len()
    }
}

type Silent = (i64, i64, Arc<[u8]>);

pub struct Lives {
    spec: LifeSpec,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    converter: Option<RowConverter>,
    input: SchemaRef,
    schema: SchemaRef,
    held: Held,
    lives: HashMap<Arc<[u8]>, Life>,
    /// An entry a life, no later than its silence is too long, with its number and key. Only with a timeout.
    silent: BinaryHeap<Reverse<Silent>>,
    next_number: i64,
    skipped_rows: u64,
    /// Bytes of keys, and rows in memory of lives.
    key_bytes: usize,
    listed: usize,
    kept: Kept,
    /// What checkpoints say of lives, by their keys.
    lasting: Named<Arc<[u8]>>,
    /// Lives that have ended and not yet left, and what goes on after them.
    leaving: VecDeque<Life>,
    then: Option<Element>,
    resources: Resources,
    /// Bytes when this call began: the loop has counted so many.
    counted: usize,
}

impl Lives {
    /// # Errors
    /// [`OpError::Plan`] when keys can not be compared.
    pub fn new(
        spec: LifeSpec,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
        input: &Schema,
        resources: Resources,
    ) -> Result<Self, OpError> {
        let types = keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>();
        let types = types.map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })?;
        let fields: Vec<SortField> = types.into_iter().map(SortField::new).collect();
        let converter = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields).map_err(arrow)?),
        };
        let input = Arc::new(input.clone());
        Ok(Lives {
            spec,
            keys,
            converter,
            held: Held::new(input.clone()),
            kept: Kept::new(NAME, input.clone()),
            input,
            schema,
            lives: HashMap::new(),
            silent: BinaryHeap::new(),
            next_number: 0,
            skipped_rows: 0,
            key_bytes: 0,
            listed: 0,
            lasting: Named::default(),
            leaving: VecDeque::new(),
            then: None,
            resources,
            counted: 0,
        })
    }

    /// The keys of rows as bytes.
    fn keys_of(&self, batch: &RecordBatch) -> Result<Vec<Box<[u8]>>, OpError> {
        let Some(converter) = &self.converter else { return Ok(vec![Box::default(); batch.num_rows()]) };
        let columns = self.keys.iter().map(|k| evaluate(k, batch)).collect::<Result<Vec<_>, _>>()?;
        let rows = converter.convert_columns(&columns).map_err(arrow)?;
        Ok(rows.iter().map(|r| r.as_ref().into()).collect())
    }

    /// Whether a condition is true of each row; NULL is not.
    fn holds(batch: &RecordBatch, at: Option<usize>) -> Result<Option<Vec<bool>>, OpError> {
        let Some(at) = at else { return Ok(None) };
        let array = batch.column(at).as_boolean_opt().ok_or_else(|| OpError::Plan {
            operator: NAME,
            reason: "what opens or closes a session is no condition".into(),
        })?;
        Ok(Some((0..array.len()).map(|i| array.is_valid(i) && array.value(i)).collect()))
    }

    fn end_life(&mut self, key: &[u8], ended: &mut Vec<Life>) -> Result<(), OpError> {
        if let Some(life) = self.lives.remove(key) {
            let (kept, held) = (&self.kept, &self.held);
            self.lasting.note(&life.key, |out| put(kept, held, Some(&life), out))?;
            self.key_bytes -= life.key.len();
            self.listed -= life.rows.len();
            ended.push(life);
        }
        Ok(())
    }

    /// Ends lives without a row appended in the last timeout before `now_us`.
    fn pass(&mut self, now_us: i64, ended: &mut Vec<Life>) -> Result<(), OpError> {
        let Some(timeout_us) = self.spec.timeout_us else { return Ok(()) };
        while let Some(Reverse((due, number, _))) = self.silent.peek()
            && *due < now_us
        {
            let number = *number;
            let Some(Reverse((_, _, key))) = self.silent.pop() else { return Ok(()) };
            match self.lives.get(&key).filter(|l| l.number == number) {
                None => {}
                Some(life) => {
                    let due = life.last_append_us.saturating_add(timeout_us);
                    if due < now_us {
                        self.end_life(&key, ended)?;
                    } else {
                        self.silent.push(Reverse((due, number, key)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes one row.
    fn take(&mut self, key: &[u8], row: Row, ended: &mut Vec<Life>) -> Result<(), OpError> {
        let cut = self.lives.contains_key(key)
            && (row.opens == Some(true) && !self.spec.merge_open || row.closes && !self.spec.close_included);
        if cut {
            self.end_life(key, ended)?;
        }
        if !self.lives.contains_key(key) {
            if row.opens == Some(false) {
                self.held.release(row.at);
                self.skipped_rows += 1;
                return Ok(());
            }
            let key: Arc<[u8]> = key.into();
            self.lasting.note(&key, |_| Ok::<_, OpError>(false))?;
            let life = Life {
                number: self.next_number,
                key: key.clone(),
                first_ns: row.time_ns,
                last_ns: row.time_ns,
                last_append_us: row.append_us,
                on_disk: 0,
                rows: Vec::new(),
            };
            self.next_number += 1;
            self.key_bytes += key.len();
            if let Some(timeout_us) = self.spec.timeout_us {
                self.silent.push(Reverse((
                    row.append_us.saturating_add(timeout_us),
                    life.number,
                    key.clone(),
                )));
            }
            self.lives.insert(key, life);
        }
        let Some(life) = self.lives.get_mut(key) else { return Ok(()) };
        let (kept, held) = (&self.kept, &self.held);
        self.lasting.note(&life.key, |out| put(kept, held, Some(life), out))?;
        life.first_ns = life.first_ns.min(row.time_ns);
        life.last_ns = life.last_ns.max(row.time_ns);
        life.last_append_us = row.append_us;
        life.rows.push(row.at);
        self.listed += 1;
        let closes = row.closes && self.spec.close_included;
        if closes || life.last_ns.saturating_sub(life.first_ns) >= self.spec.span_max_ns {
            self.end_life(key, ended)?;
        }
        Ok(())
    }

    /// Lets lives go that have ended, each whole in one batch, and then what comes after them.
    fn give(&mut self, ended: Vec<Life>, then: Option<Element>, out: &mut Output) -> Result<(), OpError> {
        self.leaving.extend(ended);
        self.then = then;
        self.give_more(out)
    }

    fn give_more(&mut self, out: &mut Output) -> Result<(), OpError> {
        let (mut lives, mut rows) = (Vec::new(), 0);
        while let Some(life) = self.leaving.pop_front() {
            if self.spec.only && life.last_ns.saturating_sub(life.first_ns) < self.spec.span_max_ns {
                self.skipped_rows += life.len() as u64;
                life.rows.into_iter().for_each(|r| self.held.release(r));
                continue;
            }
            rows += life.len();
            lives.push(life);
            if rows >= self.resources.piece_rows {
                break;
            }
        }
        self.leave(lives, out)?;
        if !self.leaving.is_empty() {
            return Ok(());
        }
        if self.held.live() == 0 {
            self.held = Held::new(self.input.clone());
        } else if self.held.is_sparse() {
            self.tidy()?;
        }
        if self.lives.is_empty() {
            self.kept.clear();
        }
        // Entries of lives that ended otherwise go when they are the most.
        if let Some(timeout_us) = self.spec.timeout_us
            && self.silent.len() > 2 * self.lives.len() + 1_024
        {
            let due = |l: &Life| l.last_append_us.saturating_add(timeout_us);
            self.silent = self.lives.values().map(|l| Reverse((due(l), l.number, l.key.clone()))).collect();
        }
        if let Some(then) = self.then.take() {
            out.push(then);
        }
        self.make_room()
    }

    fn leave(&mut self, lives: Vec<Life>, out: &mut Output) -> Result<(), OpError> {
        if lives.is_empty() {
            return Ok(());
        }
        let all: Vec<RowsOf<'_>> = lives.iter().map(Life::rows_of).collect();
        let batch = self.kept.gather(&self.held, &all)?;
        let numbers = lives.iter().flat_map(|l| std::iter::repeat_n(l.number, l.len()));
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(numbers)));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        lives.into_iter().flat_map(|l| l.rows).for_each(|r| self.held.release(r));
        out.rows(Rows::append(batch.map_err(arrow)?));
        Ok(())
    }

    fn bytes(&self) -> usize {
        if self.lives.is_empty() && self.leaving.is_empty() {
            return 0;
        }
        // The key lies once, with two counters.
        let per_life = size_of::<Life>() + size_of::<Arc<[u8]>>() + 32;
        self.held.bytes()
            + self.kept.memory_bytes()
            + (self.lives.len() + self.leaving.len()) * per_life
            + self.silent.capacity() * size_of::<Silent>()
            + self.lasting.bytes()
            + self.key_bytes
            + 2 * self.listed * size_of::<Handle>()
    }

    /// Spills when there is no room for what this call has added.
    fn make_room(&mut self) -> Result<(), OpError> {
        let much = self.held.bytes() >= self.resources.spill_bytes_min();
        if much && self.resources.is_tight(self.counted, self.bytes()) {
            self.spill()?;
        }
        Ok(())
    }

    /// Open lives by number.
    fn in_order(&self) -> Vec<&Life> {
        let mut all: Vec<&Life> = self.lives.values().collect();
        all.sort_unstable_by_key(|l| l.number);
        all
    }

    /// Stores the rows of open lives anew: dead ones between them go.
    fn tidy(&mut self) -> Result<(), OpError> {
        let live: Vec<Handle> = self.in_order().iter().flat_map(|l| l.rows.iter().copied()).collect();
        let mut moved = Vec::with_capacity(live.len());
        let mut held = Held::new(self.input.clone());
        for rows in live.chunks(ROWS_MAX) {
            let batch = self.held.gather(rows).map_err(arrow)?;
            moved.extend(keep(&mut held, &batch)?);
        }
        self.held = held;
        let mut all: Vec<&mut Life> = self.lives.values_mut().collect();
        all.sort_unstable_by_key(|l| l.number);
        all.into_iter().flat_map(|l| &mut l.rows).zip(moved).for_each(|(row, moved)| *row = moved);
        Ok(())
    }

    fn write(&self, out: &mut Writer) -> Result<(), OpError> {
        out.i64(self.next_number);
        let lives = self.in_order();
        out.u64(lives.len() as u64);
        for life in &lives {
            out.i64(life.number);
            out.bytes(&life.key);
            out.i64(life.first_ns);
            out.i64(life.last_ns);
            out.i64(life.last_append_us);
            out.u64(life.len() as u64);
        }
        let pieces = pieces(&lives, |l| l.len());
        out.u64(pieces.len() as u64);
        for lives in pieces {
            let all: Vec<RowsOf<'_>> = lives.iter().map(|l| l.rows_of()).collect();
            let batch = self.kept.gather(&self.held, &all)?;
            let written = || -> Result<Vec<u8>, ArrowError> {
                let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema())?;
                writer.write(&batch)?;
                writer.into_inner()
            };
            out.u64(lives.len() as u64);
            out.bytes(&written().map_err(arrow)?);
        }
        Ok(())
    }

    fn restore_runs(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.next_number = from.u64(NAME, "next_number")? as i64;
        let mut lasting = std::mem::take(&mut self.lasting);
        let (mut lives, mut rows) = (Vec::new(), Vec::new());
        lasting.restore(NAME, from, |key, rest| {
            let life = |from: &mut Reader<'_>| -> Result<(Life, usize), Damaged> {
                let (number, first_ns, last_ns) = (from.i64()?, from.i64()?, from.i64()?);
                let last_append_us = from.i64()?;
                let n = Kept::load(from, &mut rows)?;
                let life =
                    Life { number, key, first_ns, last_ns, last_append_us, on_disk: 0, rows: Vec::new() };
                Ok((life, n))
            };
            lives.push(life(rest).map_err(damaged)?);
            if rows.len() >= RESTORE_ROWS {
                self.come_back(&mut lives, &mut rows)?;
            }
            Ok(())
        })?;
        self.lasting = lasting;
        self.come_back(&mut lives, &mut rows)
    }

    /// Lives with so many of the rows each.
    fn come_back(
        &mut self,
        lives: &mut Vec<(Life, usize)>,
        rows: &mut Vec<Box<[u8]>>,
    ) -> Result<(), OpError> {
        if lives.is_empty() {
            return Ok(());
        }
        let mut moved = keep(&mut self.held, &self.kept.columns(rows)?)?.into_iter();
        rows.clear();
        for (mut life, n) in lives.drain(..) {
            life.rows = moved.by_ref().take(n).collect();
            self.put_back(life);
        }
        self.make_room()
    }

    fn put_back(&mut self, life: Life) {
        self.key_bytes += life.key.len();
        self.listed += life.rows.len();
        if let Some(timeout_us) = self.spec.timeout_us {
            let due = life.last_append_us.saturating_add(timeout_us);
            self.silent.push(Reverse((due, life.number, life.key.clone())));
        }
        self.lives.insert(life.key.clone(), life);
    }

    fn read(&mut self, from: &mut Reader<'_>) -> Result<(), OpError> {
        self.next_number = from.i64().map_err(damaged)?;
        let mut lives = VecDeque::new();
        for _ in 0..from.count(48).map_err(damaged)? {
            lives.push_back(read_life(from).map_err(damaged)?);
        }
        for _ in 0..from.count(16).map_err(damaged)? {
            let unread = |_| damaged(Damaged("kept rows do not read"));
            let missing = || damaged(Damaged("kept rows are missing"));
            let n = from.u64().map_err(damaged)? as usize;
            let bytes = from.bytes().map_err(damaged)?;
            let mut reader = arrow::ipc::reader::StreamReader::try_new(bytes, None).map_err(unread)?;
            let batch = reader.next().ok_or_else(missing)?.map_err(unread)?;
            if lives.is_empty() {
                return Ok(());
            }
            let mut moved = keep(&mut self.held, &batch)
                .map_err(|_| damaged(Damaged("kept rows are not this query's")))?
                .into_iter();
            for (mut life, rows) in lives.drain(..n.min(lives.len())) {
                life.rows = moved.by_ref().take(rows).collect();
                if life.rows.len() != rows || rows == 0 {
                    return Err(missing());
                }
                self.put_back(life);
            }
            if moved.next().is_some() {
                return Err(damaged(Damaged("rows of no life")));
            }
            self.make_room()?;
        }
        if lives.is_empty() { Ok(()) } else { Err(damaged(Damaged("kept rows are missing"))) }
    }
}

/// A life without its rows, and how many it has.
fn read_life(from: &mut Reader<'_>) -> Result<(Life, usize), Damaged> {
    let (number, key) = (from.i64()?, from.bytes()?.into());
    let (first_ns, last_ns, last_append_us) = (from.i64()?, from.i64()?, from.i64()?);
    let rows = from.u64()? as usize;
    let life = Life { number, key, first_ns, last_ns, last_append_us, on_disk: 0, rows: Vec::new() };
    Ok((life, rows))
}

/// Writes a life, if there is one; its key stands before.
fn put(kept: &Kept, held: &Held, life: Option<&Life>, out: &mut Writer) -> Result<bool, OpError> {
    let Some(life) = life else { return Ok(false) };
    out.i64(life.number);
    out.i64(life.first_ns);
    out.i64(life.last_ns);
    out.i64(life.last_append_us);
    kept.save(held, life.rows_of(), out)?;
    Ok(true)
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
}

/// What is to be known of a row.
#[derive(Debug, Clone, Copy)]
struct Row {
    at: Handle,
    time_ns: i64,
    append_us: i64,
    /// `None` = every row may open a life.
    opens: Option<bool>,
    closes: bool,
}

fn keep(held: &mut Held, batch: &RecordBatch) -> Result<Vec<Handle>, OpError> {
    let all = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
    let (block, first) = held.add(batch, &all).map_err(arrow)?;
    Ok((0..batch.num_rows() as u32).map(|i| (block, first + i)).collect())
}

fn arrow(e: ArrowError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(DataFusionError::ArrowError(Box::new(e), None)) }
}

fn evaluate(e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
    e.evaluate(batch)
        .and_then(|v| v.into_array(batch.num_rows()))
        .map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })
}

impl Operator for Lives {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let plan = |reason: &str| OpError::Plan { operator: NAME, reason: reason.into() };
        if rows.weights.is_some() {
            return Err(plan("lives over a changelog"));
        }
        self.counted = self.bytes();
        let batch = rows.batch;
        let times = nanos(batch.column(self.spec.time)).ok_or_else(|| plan("the time of a life is none"))?;
        let appends = batch.column(self.spec.append_time).as_primitive_opt::<TimestampMicrosecondType>();
        let appends = appends.ok_or_else(|| plan("append times are microseconds"))?.values();
        let opens = Self::holds(&batch, self.spec.opens)?;
        let closes = Self::holds(&batch, self.spec.closes)?;
        let keys = self.keys_of(&batch)?;
        let handles = keep(&mut self.held, &batch)?;
        let mut ended = Vec::new();
        for (i, at) in handles.into_iter().enumerate() {
            self.pass(appends[i], &mut ended)?;
            let row = Row {
                at,
                time_ns: times[i],
                append_us: appends[i],
                opens: opens.as_ref().map(|o| o[i]),
                closes: closes.as_ref().is_some_and(|c| c[i]),
            };
            self.take(&keys[i], row, &mut ended)?;
        }
        self.lasting.hand_on();
        self.give(ended, None, out)
    }

    /// Ends here: rows of open lives are yet to leave.
    fn watermark(&mut self, _: WatermarkTime, _: &mut Output) -> Result<(), OpError> {
        Ok(())
    }

    fn frontier(&mut self, append_us: i64, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes();
        let mut ended = Vec::new();
        self.pass(append_us.saturating_add(1), &mut ended)?;
        self.lasting.hand_on();
        self.give(ended, Some(Element::Frontier(append_us)), out)
    }

    fn end(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes();
        let mut ended: Vec<Life> = self.lives.drain().map(|(_, l)| l).collect();
        ended.sort_unstable_by_key(|l| l.number);
        (self.key_bytes, self.listed) = (0, 0);
        self.give(ended, None, out)
    }

    fn unfinished(&self) -> bool {
        !self.leaving.is_empty()
    }

    fn go_on(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes();
        self.give_more(out)
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        // Rows on their way out are where they were.
        let some = self.leaving.is_empty() && self.held.live() > 0 && self.kept.can_spill();
        let Some(space) = self.resources.spill.clone().filter(|_| some) else { return Ok(false) };
        let mut kept = std::mem::replace(&mut self.kept, Kept::new(NAME, self.input.clone()));
        let lives = self.in_order();
        let rows: Vec<RowsOf<'_>> =
            lives.iter().map(|l| l.rows_of()).filter(|(_, _, rows)| !rows.is_empty()).collect();
        let open = || lives.iter().map(|l| l.number).collect();
        let done = kept.spill(&space, &self.held, &rows, open);
        self.kept = kept;
        done?;
        for life in self.lives.values_mut() {
            life.on_disk += std::mem::take(&mut life.rows).len();
        }
        self.held = Held::new(self.input.clone());
        self.listed = 0;
        Ok(true)
    }

    fn stats(&self) -> Stats {
        Stats {
            keys: self.lives.len() as u64,
            state_bytes: self.bytes() as u64,
            skipped_rows: self.skipped_rows,
            ..Stats::default()
        }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        into.put_u64("skipped_rows", self.skipped_rows);
        let keys = || self.lives.keys().cloned().collect();
        if self.kept.can_spill() && self.lasting.snapshot(into, self.lives.len() as u64, keys) {
            into.put_u64("next_number", self.next_number as u64);
            return Ok(());
        }
        let mut out = Writer::default();
        self.write(&mut out)?;
        into.put("lives", out.0);
        Ok(())
    }

    fn snapshot_more(&mut self, things: usize) -> Result<Wrote, OpError> {
        let (kept, held, lives) = (&self.kept, &self.held, &self.lives);
        self.lasting.write_more(things, |key, out| put(kept, held, lives.get(key), out))
    }

    fn snapshot_lost(&mut self) {
        self.lasting.lose();
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.skipped_rows = from.u64(NAME, "skipped_rows")?;
        if from.lies_in_runs() {
            return self.restore_runs(from);
        }
        let mut bytes = Reader(from.bytes(NAME, "lives")?);
        self.read(&mut bytes)
    }
}
