//! Session windows: rows wait until the watermark has passed them, are cut into sessions key by key
//! in order, and leave with the bounds of their session when it closes.
//!
//! ```text
//! batch -> late rows left out -> kept, waiting by (event time, shard, sequence number)
//! watermark -> rows before it go to their key's session -> sessions that end by then leave
//! ```
//!
//! Since rows are cut in order, a row that comes in time between two others finds them not yet cut:
//! nothing is ever merged, and one rule serves idle gaps, greatest lengths and conditions.
//!
//! A row is late when its shard's watermark is past its event time. Keys are forgotten with their last
//! row; what is held is the rows of open sessions, all of it accounted. Rows of sessions that memory has no
//! room for go to disk; rows that wait stay.
//!
//! Not here: what a session is (`plan::session`), how rows are stored (`held`, `kept`), aggregates.

mod saved;

use super::held::{Handle, Held};
use super::kept::{Kept, RowsOf};
use super::late;
use super::window::times_of;
use crate::operator::{InputId, OpError, Operator, Output, Stats, Wrote};
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::deltas::Named;
use crate::state::keys::{self as table, KeyForm};
use crate::state::rows::Layout;
use crate::state::spill::SpillSpace;
use crate::state::table::{GroupTable, Picked};
use crate::state::{StateReader, StateWriter};
use crate::time::{from_nanos, nanos_per_unit};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use weir_plan::{
    Element, Judged, OpenSession, Place, Rows, SessionKeys, SessionSpec, WatermarkTime, WindowKind,
    WindowSpec, WindowTime,
};

const NAME: &str = "Session";
/// Rows of a batch that leaves.
const ROWS_MAX: usize = 65_536;
const NONE: u32 = u32::MAX;

/// Where a row stands among the rows of its key.
type Order = (i64, i32, i64);

/// A row that the watermark has not passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    order: Order,
    at: Handle,
    key: u32,
    starts: bool,
    ends: bool,
}

/// A session that has not closed.
#[derive(Debug)]
struct Cut {
    /// Of its rows on disk.
    number: i64,
    key: u32,
    bounds: OpenSession,
    /// Of the row that opened it.
    began: Order,
    /// Rows that were spilled, the first ones.
    on_disk: usize,
    /// In order; the first may be one that is left out, and is not spilled.
    rows: Vec<Handle>,
    left_out: bool,
    /// It gets no more rows.
    ended: bool,
}

impl Cut {
    fn rows_of(&self) -> RowsOf<'_> {
        (self.number, self.on_disk, &self.rows)
    }

    /// Those of them that leave.
    fn given(&self) -> RowsOf<'_> {
        (self.number, self.on_disk, &self.rows[usize::from(self.left_out)..])
    }

    fn len(&self) -> usize {
        self.on_disk + self.rows.len()
    }
}

/// What is known of a key while it has rows.
#[derive(Debug, Clone, Copy)]
struct Key {
    /// Its session that gets more rows.
    open: u32,
    /// Rows that wait, and sessions.
    uses: u32,
}

pub struct Session {
    spec: SessionSpec,
    time: WindowTime,
    judged: Option<Judged>,
    by: SessionKeys,
    at: usize,
    input: SchemaRef,
    schema: SchemaRef,
    form: KeyForm,
    state: State,
    kept: Kept,
    /// What checkpoints say of sessions, by their slots.
    lasting: Named<u32>,
    /// Sessions that have closed and not yet left, and what goes on after them.
    leaving: VecDeque<Cut>,
    then: Vec<Element>,
    resources: Resources,
    /// Bytes when this call began: the loop has counted so many.
    counted: usize,
    /// Of processing time: the last tick.
    now_us: i64,
    late_rows: u64,
}

struct State {
    held: Held,
    table: GroupTable,
    keys: Vec<Key>,
    keys_used: usize,
    waiting: BinaryHeap<Reverse<Waiting>>,
    sessions: Vec<Option<Cut>>,
    free: Vec<u32>,
    /// One entry a session: no later than its end.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    /// Rows in memory of sessions.
    listed: usize,
    next_number: i64,
}

impl State {
    fn new(form: &KeyForm, input: &SchemaRef) -> Self {
        let mut layout = Layout::default();
        let hash = GroupTable::reserve(form, &mut layout);
        State {
            held: Held::new(input.clone()),
            table: GroupTable::new(form, hash, &layout),
            keys: Vec::new(),
            keys_used: 0,
            waiting: BinaryHeap::new(),
            sessions: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            listed: 0,
            next_number: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.held.bytes()
            + self.table.bytes()
            + self.keys.capacity() * size_of::<Key>()
            + self.waiting.capacity() * size_of::<Waiting>()
            + self.sessions.capacity() * size_of::<Option<Cut>>()
            + self.free.capacity() * 4
            + self.due.capacity() * size_of::<(i64, u32)>()
            + self.listed * 2 * size_of::<Handle>()
    }

    fn session(&self, slot: u32) -> Option<&Cut> {
        self.sessions.get(slot as usize).and_then(Option::as_ref)
    }

    fn is_empty(&self) -> bool {
        self.held.live() == 0 && self.sessions.len() == self.free.len()
    }

    /// The key of another table.
    fn key(&mut self, key: table::Key<'_>) -> Result<u32, Damaged> {
        let group = self.table.intern_one(key, key.hash()).map_err(|_| Damaged("too many keys"))?;
        self.keys.resize(self.table.len(), Key { open: NONE, uses: 0 });
        Ok(group)
    }

    fn use_key(&mut self, key: u32) {
        let used = &mut self.keys[key as usize].uses;
        *used += 1;
        self.keys_used += usize::from(*used == 1);
    }

    fn unuse_key(&mut self, key: u32) {
        let used = &mut self.keys[key as usize].uses;
        *used -= 1;
        self.keys_used -= usize::from(*used == 0);
    }

    fn put(&mut self, session: Cut, end: i64) -> u32 {
        let slot = self.free.pop().unwrap_or(self.sessions.len() as u32);
        self.put_at(slot, session, end);
        slot
    }

    fn put_at(&mut self, slot: u32, session: Cut, end: i64) {
        self.listed += session.rows.len();
        if slot as usize >= self.sessions.len() {
            self.sessions.resize_with(slot as usize + 1, || None);
        }
        self.sessions[slot as usize] = Some(session);
        self.due.push(Reverse((end, slot)));
    }

    /// The open session of a key.
    fn open(&self, key: u32) -> Option<(u32, &Cut)> {
        let slot = self.keys[key as usize].open;
        Some((slot, self.sessions.get(slot as usize)?.as_ref()?))
    }

    /// Takes the next row of its key; gives the slot of the session that it opens.
    fn cut(&mut self, spec: &SessionSpec, row: Waiting) -> Option<u32> {
        let slot = self.keys[row.key as usize].open;
        let open_slot = (slot != NONE).then_some(slot as usize);
        let mut open = open_slot.map(|s| self.sessions[s].as_ref().expect("open sessions are there").bounds);
        let step = spec.step(&mut open, row.order.0, row.starts, row.ends);
        if step.ended_before.is_some()
            && let Some(session) = open_slot.and_then(|s| self.sessions[s].as_mut())
        {
            session.ended = true;
            self.keys[row.key as usize].open = NONE;
        }
        match step.place {
            Place::Outside => {
                self.held.release(row.at);
                self.unuse_key(row.key);
                None
            }
            Place::Joins => {
                let session = open_slot.and_then(|s| self.sessions[s].as_mut()).expect("it is open");
                session.rows.push(row.at);
                self.listed += 1;
                if let Some(bounds) = step.ended_after.or(open) {
                    session.bounds = bounds;
                }
                if step.ended_after.is_some() {
                    session.ended = true;
                    self.keys[row.key as usize].open = NONE;
                }
                self.unuse_key(row.key);
                None
            }
            place @ (Place::Opens | Place::OpensLeftOut) => {
                let bounds = open.expect("it was opened");
                // The key's use by the row becomes that by the session.
                let session = Cut {
                    number: self.next_number,
                    key: row.key,
                    bounds,
                    began: row.order,
                    on_disk: 0,
                    rows: vec![row.at],
                    left_out: place == Place::OpensLeftOut,
                    ended: false,
                };
                self.next_number += 1;
                let slot = self.put(session, bounds.end_ns(spec));
                self.keys[row.key as usize].open = slot;
                Some(slot)
            }
        }
    }

    /// The sessions that end by `up_to`, in the order in which they close, with the slots they had.
    fn closed(&mut self, spec: &SessionSpec, up_to: i64) -> Vec<(u32, Cut)> {
        let mut closed = Vec::new();
        while let Some(Reverse((end, slot))) = self.due.peek().copied()
            && end <= up_to
        {
            self.due.pop();
            let session = self.sessions[slot as usize].as_ref().expect("one entry a session");
            let now_ends = session.bounds.end_ns(spec);
            if now_ends > end {
                self.due.push(Reverse((now_ends, slot)));
                continue;
            }
            let session = self.sessions[slot as usize].take().expect("it was there");
            self.free.push(slot);
            self.listed -= session.rows.len();
            let key = &mut self.keys[session.key as usize];
            if key.open == slot {
                key.open = NONE;
            }
            self.unuse_key(session.key);
            closed.push((slot, session));
        }
        closed
    }

    fn slots(&self) -> impl Iterator<Item = u32> {
        (0..self.sessions.len() as u32).filter(|s| self.sessions[*s as usize].is_some())
    }

    /// Sessions by the row that began them, and waiting rows, in an order that does not depend on how
    /// they came here.
    fn in_order(&self) -> (Vec<u32>, Vec<Waiting>) {
        let mut sessions: Vec<u32> = self.slots().collect();
        sessions.sort_unstable_by_key(|s| self.sessions[*s as usize].as_ref().map(|s| s.began));
        let mut waiting: Vec<Waiting> = self.waiting.iter().map(|w| w.0).collect();
        waiting.sort_unstable();
        (sessions, waiting)
    }
}

impl Session {
    /// # Errors
    /// [`OpError::Plan`] when window or columns do not fit.
    pub fn new(
        window: WindowSpec,
        time: WindowTime,
        judged: Option<Judged>,
        by: SessionKeys,
        at: usize,
        schema: SchemaRef,
        input: &SchemaRef,
    ) -> Result<Self, OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        window.check().map_err(plan)?;
        let WindowKind::Session(spec) = window.kind else {
            return Err(plan(format!("{window} is no session")));
        };
        if spec.conditions.is_some() != by.conditions.is_some() {
            return Err(plan("conditions without brackets".into()));
        }
        let bound = schema.fields().get(at).map(|f| f.data_type());
        if bound.is_none_or(|t| nanos_per_unit(t).is_none()) {
            return Err(plan(format!("window_start is {bound:?}, no time")));
        }
        let types = by.keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>();
        let types = types.map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })?;
        let form = KeyForm::of(&types).map_err(|e| plan(e.to_string()))?;
        let state = State::new(&form, input);
        Ok(Session {
            spec,
            time,
            judged,
            by,
            at,
            input: input.clone(),
            schema,
            form,
            state,
            kept: Kept::new(NAME, input.clone()),
            lasting: Named::default(),
            leaving: VecDeque::new(),
            then: Vec::new(),
            resources: Resources::one_thread(),
            counted: 0,
            now_us: i64::MIN,
            late_rows: 0,
        })
    }

    /// What it may use of the machine besides its thread.
    pub fn with(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    fn keys_of(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, OpError> {
        self.by.keys.iter().map(|k| evaluate(k, batch)).collect()
    }

    /// Keeps rows of a batch and says which key each has.
    fn take_in(&mut self, batch: &RecordBatch, rows: &UInt32Array) -> Result<(Handle, Vec<u32>), OpError> {
        let columns = self.keys_of(batch)?;
        let encoded = self.form.encode(&columns, batch.num_rows()).map_err(arrow)?;
        let picked = rows.values();
        let mut keys = Vec::with_capacity(picked.len());
        self.state
            .table
            .intern(&encoded, Picked::Listed(picked), &mut keys)
            .map_err(|e| OpError::Row { reason: e.to_string() })?;
        self.state.keys.resize(self.state.table.len(), Key { open: NONE, uses: 0 });
        let first = self.state.held.add(batch, rows).map_err(arrow)?;
        Ok((first, keys))
    }

    /// Cuts what the watermark has passed, and lets go what has closed; `then` follows.
    fn advance(&mut self, watermark: i64, then: Vec<Element>, out: &mut Output) -> Result<(), OpError> {
        while let Some(Reverse(next)) = self.state.waiting.peek()
            && (next.order.0 < watermark || watermark == i64::MAX)
        {
            let Reverse(row) = self.state.waiting.pop().expect("it was seen");
            if let Some((slot, session)) = self.state.open(row.key) {
                let (state, kept) = (&self.state, &self.kept);
                self.lasting.note(&slot, |out| saved::put(kept, state, Some(session), out))?;
            }
            if let Some(slot) = self.state.cut(&self.spec, row) {
                self.lasting.note(&slot, |_| Ok::<_, OpError>(false))?;
            }
        }
        for (slot, session) in self.state.closed(&self.spec, watermark) {
            let (state, kept) = (&self.state, &self.kept);
            self.lasting.note(&slot, |out| saved::put(kept, state, Some(&session), out))?;
            self.leaving.push_back(session);
        }
        self.lasting.hand_on();
        self.then = then;
        self.give_more(out)
    }

    fn give_more(&mut self, out: &mut Output) -> Result<(), OpError> {
        let (mut sessions, mut rows) = (Vec::new(), 0);
        while let Some(session) = self.leaving.pop_front() {
            rows += session.len();
            sessions.push(session);
            if rows >= self.resources.piece_rows {
                break;
            }
        }
        self.give(sessions, out)?;
        if !self.leaving.is_empty() {
            return Ok(());
        }
        if self.state.is_empty() {
            self.state = State::new(&self.form, &self.input);
            self.kept.clear();
        } else if self.state.held.is_sparse() || self.state.table.len() > 2 * self.state.keys_used + 1_024 {
            self.tidy()?;
        }
        self.then.drain(..).for_each(|e| out.push(e));
        self.make_room()
    }

    fn give(&mut self, sessions: Vec<Cut>, out: &mut Output) -> Result<(), OpError> {
        let all: Vec<RowsOf<'_>> = sessions.iter().map(Cut::given).collect();
        let batch = self.kept.gather(&self.state.held, &all)?;
        let t = self.schema.field(self.at).data_type().clone();
        let bound = |of: &dyn Fn(&Cut) -> i64| -> ArrayRef {
            let each = sessions.iter().zip(&all);
            let values = each.flat_map(|(s, (_, n, rows))| std::iter::repeat_n(of(s), n + rows.len()));
            from_nanos(values.collect(), &t).expect("checked to be a time when made")
        };
        let mut columns = batch.columns().to_vec();
        columns.insert(self.at, bound(&|s| s.bounds.first_ns));
        columns.insert(self.at + 1, bound(&|s| s.bounds.end_ns(&self.spec)));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(arrow)?;
        sessions.into_iter().flat_map(|s| s.rows).for_each(|row| self.state.held.release(row));
        for at in (0..batch.num_rows()).step_by(ROWS_MAX) {
            out.rows(Rows::append(batch.slice(at, ROWS_MAX.min(batch.num_rows() - at))));
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        if self.state.is_empty() && self.leaving.is_empty() {
            return 0;
        }
        self.state.bytes()
            + self.kept.memory_bytes()
            + self.lasting.bytes()
            + self.leaving.len() * size_of::<Cut>()
    }

    /// Spills when there is no room for what this call has added, and it is the rows of sessions.
    fn make_room(&mut self) -> Result<(), OpError> {
        let held = &self.state.held;
        let much = held.bytes() >= self.resources.spill_bytes_min() && 4 * self.state.listed >= held.live();
        if much && self.resources.is_tight(self.counted, self.bytes()) {
            self.spill()?;
        }
        Ok(())
    }

    /// Writes the rows of sessions down; those that wait are stored anew.
    fn spill_rows(&mut self, space: &SpillSpace) -> Result<(), OpError> {
        for session in self.state.sessions.iter_mut().flatten().filter(|s| s.left_out) {
            // What is left out is of no use to anyone.
            session.left_out = false;
            self.state.held.release(session.rows.remove(0));
        }
        let mut open: Vec<&Cut> = self.state.sessions.iter().flatten().collect();
        open.sort_unstable_by_key(|s| s.number);
        let rows: Vec<RowsOf<'_>> = open.iter().map(|s| s.rows_of()).filter(|r| !r.2.is_empty()).collect();
        let numbers = || open.iter().map(|s| s.number).collect();
        self.kept.spill(space, &self.state.held, &rows, numbers)?;
        for session in self.state.sessions.iter_mut().flatten() {
            session.on_disk += std::mem::take(&mut session.rows).len();
        }
        self.state.listed = 0;
        let mut waiting = std::mem::take(&mut self.state.waiting).into_vec();
        let mut held = Held::new(self.input.clone());
        for rows in waiting.chunks_mut(ROWS_MAX) {
            let handles: Vec<Handle> = rows.iter().map(|r| r.0.at).collect();
            let batch = self.state.held.gather(&handles).map_err(arrow)?;
            let all = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
            let (block, first) = held.add(&batch, &all).map_err(arrow)?;
            rows.iter_mut().zip(first..).for_each(|(row, at)| row.0.at = (block, at));
        }
        self.state.held = held;
        self.state.waiting = waiting.into();
        Ok(())
    }

    /// Makes the state anew from what is live: dead rows and forgotten keys go. Its cost is paid by
    /// as many rows or keys as died since the last time.
    fn tidy(&mut self) -> Result<(), OpError> {
        let (state, kept) = (&self.state, &self.kept);
        self.lasting.rename(|slot, out| saved::put(kept, state, state.session(*slot), out))?;
        let (sessions, waiting) = self.state.in_order();
        let mut old = std::mem::replace(&mut self.state, State::new(&self.form, &self.input));
        self.state.next_number = old.next_number;
        let mut sessions: Vec<Cut> =
            sessions.into_iter().map(|s| old.sessions[s as usize].take().expect("it is there")).collect();
        for session in &mut sessions {
            let key = self.state.key(old.table.key(session.key));
            session.key = key.map_err(damaged)?;
        }
        let live: Vec<Handle> = sessions
            .iter()
            .flat_map(|s| s.rows.iter().copied())
            .chain(waiting.iter().map(|w| w.at))
            .collect();
        let mut moved = Vec::with_capacity(live.len());
        for rows in live.chunks(ROWS_MAX) {
            let batch = old.held.gather(rows).map_err(arrow)?;
            moved.extend(self.keep_all(&batch)?);
        }
        self.refill(sessions, waiting, moved);
        Ok(())
    }

    /// Keeps all rows of a batch: handle and key of each.
    fn keep_all(&mut self, batch: &RecordBatch) -> Result<Vec<(Handle, u32)>, OpError> {
        let all = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
        let ((block, first), keys) = self.take_in(batch, &all)?;
        Ok(keys.into_iter().enumerate().map(|(i, key)| ((block, first + i as u32), key)).collect())
    }

    /// Sessions and waiting rows over rows that lie somewhere else now.
    fn refill(&mut self, sessions: Vec<Cut>, waiting: Vec<Waiting>, moved: Vec<(Handle, u32)>) {
        let mut moved = moved.into_iter();
        let mut next = || moved.next().expect("as many as there were");
        for mut session in sessions {
            for row in &mut session.rows {
                (*row, _) = next();
            }
            let (key, ended, end) = (session.key, session.ended, session.bounds.end_ns(&self.spec));
            self.state.use_key(key);
            let slot = self.state.put(session, end);
            if !ended {
                self.state.keys[key as usize].open = slot;
            }
        }
        for mut row in waiting {
            (row.at, row.key) = next();
            self.state.use_key(row.key);
            self.state.waiting.push(Reverse(row));
        }
    }
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
}

fn arrow(e: ArrowError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(DataFusionError::ArrowError(Box::new(e), None)) }
}

fn evaluate(e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
    e.evaluate(batch)
        .and_then(|v| v.into_array(batch.num_rows()))
        .map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })
}

/// Whether a condition is true of each row; NULL is not.
fn holds(e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<Vec<bool>, OpError> {
    let array = evaluate(e, batch)?;
    let array = array.as_boolean_opt().ok_or_else(|| OpError::Plan {
        operator: NAME,
        reason: format!("{e} is {}, no condition", array.data_type()),
    })?;
    Ok((0..array.len()).map(|i| array.is_valid(i) && array.value(i)).collect())
}

impl Operator for Session {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let plan = |reason: &str| OpError::Plan { operator: NAME, reason: reason.into() };
        if rows.weights.is_some() {
            return Err(plan("windows over a changelog"));
        }
        self.counted = self.bytes();
        let batch = rows.batch;
        let times = times_of(NAME, &self.time, self.now_us, &batch)?;
        let mut kept: Vec<u32> = Vec::with_capacity(times.len());
        match &self.judged {
            None => kept.extend(0..times.len() as u32),
            Some(judged) => {
                let watermarks = late::judged(NAME, judged, &batch)?;
                let mut late_rows = Vec::new();
                for (row, (time, watermark)) in times.iter().zip(watermarks).enumerate() {
                    if watermark > time { late_rows.push(row as u32) } else { kept.push(row as u32) }
                }
                self.late_rows += late_rows.len() as u64;
                late::tell(NAME, judged, &batch, late_rows, &times, out)?;
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        let shards = batch.column(self.by.shard).as_primitive_opt::<Int32Type>();
        let shards = shards.ok_or_else(|| plan("shards are int32"))?.values();
        let sns = batch.column(self.by.sn).as_primitive_opt::<Int64Type>();
        let sns = sns.ok_or_else(|| plan("sequence numbers are int64"))?.values();
        let (starts, ends) = match &self.by.conditions {
            None => (Vec::new(), Vec::new()),
            Some((starts, ends)) => (holds(starts, &batch)?, holds(ends, &batch)?),
        };
        let kept = UInt32Array::from(kept);
        let ((block, first), keys) = self.take_in(&batch, &kept)?;
        for (i, (row, key)) in kept.values().iter().zip(keys).enumerate() {
            let row = *row as usize;
            self.state.use_key(key);
            self.state.waiting.push(Reverse(Waiting {
                order: (times[row], shards[row], sns[row]),
                at: (block, first + i as u32),
                key,
                starts: starts.get(row).copied().unwrap_or(false),
                ends: ends.get(row).copied().unwrap_or(false),
            }));
        }
        self.make_room()
    }

    fn watermark(&mut self, at: WatermarkTime, out: &mut Output) -> Result<(), OpError> {
        // A source by itself says nothing of the clock; its end does.
        if matches!(self.time, WindowTime::Processing) && at != WatermarkTime::INFINITY {
            return Ok(());
        }
        self.counted = self.bytes();
        self.advance(at.0, vec![Element::Watermark(at)], out)
    }

    fn tick(&mut self, now_us: i64, out: &mut Output) -> Result<(), OpError> {
        if matches!(self.time, WindowTime::Processing) {
            self.now_us = now_us;
            if self.tick_due().is_some_and(|due| due <= now_us) {
                let now_ns = now_us.saturating_mul(1_000);
                let then = vec![Element::Watermark(WatermarkTime(now_ns)), Element::Tick(now_us)];
                self.counted = self.bytes();
                return self.advance(now_ns, then, out);
            }
        }
        out.push(Element::Tick(now_us));
        Ok(())
    }

    fn tick_due(&self) -> Option<i64> {
        if matches!(self.time, WindowTime::Event(_)) {
            return None;
        }
        // The end of a session, or of the one that the first waiting row makes if none follows.
        let first = self.state.waiting.peek().map(|w| w.0.order.0.saturating_add(self.spec.idle_ns));
        let end = self.state.due.peek().map(|d| d.0.0).into_iter().chain(first).min()?;
        Some(end.saturating_add(999).div_euclid(1_000))
    }

    fn end(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes();
        self.advance(i64::MAX, Vec::new(), out)
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
        let some = self.leaving.is_empty() && self.state.listed > 0 && self.kept.can_spill();
        let Some(space) = self.resources.spill.clone().filter(|_| some) else { return Ok(false) };
        self.spill_rows(&space)?;
        Ok(true)
    }

    /// No later than the end of the next session.
    fn waits_for(&self) -> Option<i64> {
        let waiting = self.state.waiting.peek().map(|w| w.0.order.0.saturating_add(self.spec.idle_ns));
        self.state.due.peek().map(|d| d.0.0).into_iter().chain(waiting).min()
    }

    fn stats(&self) -> Stats {
        Stats {
            late_rows: self.late_rows,
            keys: self.state.keys_used as u64,
            state_bytes: self.bytes() as u64,
            ..Stats::default()
        }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        into.put_u64("late_rows", self.late_rows);
        let mut out = Writer::default();
        let sessions = self.state.sessions.len() - self.state.free.len();
        if self.kept.can_spill()
            && self.lasting.snapshot(into, sessions as u64, || self.state.slots().collect())
        {
            self.write_waiting(&mut out)?;
            into.put_u64("next_number", self.state.next_number as u64);
            into.put("waiting", out.0);
            return Ok(());
        }
        self.write(&mut out)?;
        into.put("sessions", out.0);
        Ok(())
    }

    fn snapshot_more(&mut self, things: usize) -> Result<Wrote, OpError> {
        let (state, kept) = (&self.state, &self.kept);
        self.lasting.write_more(things, |slot, out| saved::put(kept, state, state.session(*slot), out))
    }

    fn snapshot_lost(&mut self) {
        self.lasting.lose();
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.late_rows = from.u64(NAME, "late_rows")?;
        if from.lies_in_runs() {
            return self.read_runs(from);
        }
        let mut bytes = Reader(from.bytes(NAME, "sessions")?);
        self.read(&mut bytes)
    }
}
