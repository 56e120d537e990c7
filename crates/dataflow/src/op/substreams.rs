//! One operator for each key, with the key's own watermark: what `PARTITION BY` makes of a window's
//! aggregation.
//!
//! ```text
//! batch -> rows by key -> the key's operator
//! key watermarks -> each key's operator closes its windows
//! watermark (the least of all keys) -> keys that are behind it close theirs
//! ```
//!
//! An operator lives as long as its key has a window open; lateness is decided at the source, so that
//! one that holds nothing knows nothing. Memory is that of open windows, and a fixed part for each key
//! that has one.
//!
//! Over session windows a key's operator cuts the sessions as well.
//!
//! Not here: what is done with rows and windows (the operator), by what rows are judged (`watermark`).

use crate::operator::{InputId, OpError, Operator, Output, Stats, Wrote};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::deltas::Named;
use crate::state::{StateReader, StateWriter};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::{take, take_record_batch};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use weir_plan::{Element, EmitPolicy, LateRows, Rows, WatermarkTime};

const NAME: &str = "Substreams";
/// Of a key with an open window, besides its bytes and what its operator says it holds.
const SUBSTREAM_BYTES: usize = 1_536;
/// Before its key's watermark is heard of.
const NEVER: i64 = i64::MIN;

type Make = Box<dyn Fn() -> Result<Box<dyn Operator>, OpError> + Send>;

pub struct Substreams {
    make: Make,
    partition: Vec<Arc<dyn PhysicalExpr>>,
    converter: RowConverter,
    schema: SchemaRef,
    policy: EmitPolicy,
    /// A result set leaves as one batch.
    whole: bool,
    subs: HashMap<Arc<[u8]>, Sub>,
    /// Who is behind the watermark of all is at the front.
    by_watermark: BTreeSet<(i64, Arc<[u8]>)>,
    backfilled: bool,
    changed: bool,
    due_us: i64,
    keys: u64,
    bytes: u64,
    late_rows: u64,
    /// Late rows that are to be told of.
    late: Vec<LateRows>,
    /// What checkpoints say of the keys.
    lasting: Named<Arc<[u8]>>,
}

struct Sub {
    op: Box<dyn Operator>,
    watermark: i64,
    stats: Stats,
}

impl Sub {
    fn save(&mut self, out: &mut Writer) -> Result<(), OpError> {
        out.i64(self.watermark);
        let mut state = StateWriter::default();
        self.op.snapshot(&mut state)?;
        state.finish().save(out);
        Ok(())
    }
}

/// Writes a key's operator if there is one.
fn put(sub: Option<&mut Sub>, out: &mut Writer) -> Result<bool, OpError> {
    match sub {
        Some(sub) => sub.save(out).map(|()| true),
        None => Ok(false),
    }
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
}

fn eval(e: DataFusionError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(e) }
}

fn arrow(e: ArrowError) -> OpError {
    eval(DataFusionError::ArrowError(Box::new(e), None))
}

fn plan(reason: impl ToString) -> OpError {
    OpError::Plan { operator: NAME, reason: reason.to_string() }
}

impl Substreams {
    /// `make` gives the operator of a new key, which emits by `policy` rows of `schema`.
    ///
    /// # Errors
    /// What making an operator says.
    pub fn new(
        make: Make,
        partition: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
        policy: EmitPolicy,
        whole: bool,
        input: &Schema,
    ) -> Result<Self, OpError> {
        // A plan that does not fit fails the start, not the first row.
        make()?;
        let fields =
            partition.iter().map(|k| k.data_type(input).map(SortField::new)).collect::<Result<_, _>>();
        Ok(Substreams {
            make,
            converter: RowConverter::new(fields.map_err(eval)?).map_err(plan)?,
            partition,
            schema,
            policy,
            whole,
            subs: HashMap::new(),
            by_watermark: BTreeSet::new(),
            backfilled: false,
            changed: false,
            due_us: i64::MIN,
            keys: 0,
            bytes: 0,
            late_rows: 0,
            late: Vec::new(),
            lasting: Named::default(),
        })
    }

    fn fresh(&self) -> Result<Box<dyn Operator>, OpError> {
        let mut op = (self.make)()?;
        if self.backfilled {
            op.end_of_backfill(&mut Output::default())?;
        }
        Ok(op)
    }

    /// One call of a key's operator; its rows go to `rows`. Drops it if it holds nothing then.
    fn call(
        &mut self,
        key: &Arc<[u8]>,
        rows: &mut Vec<Rows>,
        f: impl FnOnce(&mut Sub, &mut Output) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let subs = &mut self.subs;
        self.lasting.note(key, |out| put(subs.get_mut(key), out))?;
        let mut sub = match self.subs.remove(key) {
            Some(sub) => {
                self.by_watermark.remove(&(sub.watermark, key.clone()));
                self.forget(key, &sub.stats);
                sub
            }
            None => Sub { op: self.fresh()?, watermark: NEVER, stats: Stats::default() },
        };
        let mut out = Output::default();
        let mut outcome = f(&mut sub, &mut out);
        // Results of one key are few: they leave as one piece.
        while outcome.is_ok() && sub.op.unfinished() {
            outcome = sub.op.go_on(&mut out);
        }
        let late_before = sub.stats.late_rows;
        sub.stats = sub.op.stats();
        self.late_rows += sub.stats.late_rows.saturating_sub(late_before);
        self.late.extend(out.late);
        rows.extend(out.elements.into_iter().filter_map(|e| match e {
            Element::Rows(rows) => Some(rows),
            _ => None,
        }));
        if sub.stats.keys > 0 {
            self.keys += sub.stats.keys;
            self.bytes += sub.stats.state_bytes + (key.len() + SUBSTREAM_BYTES) as u64;
            self.by_watermark.insert((sub.watermark, key.clone()));
            self.subs.insert(key.clone(), sub);
        }
        outcome
    }

    /// Takes in what was saved of a key.
    fn take(&mut self, key: Arc<[u8]>, from: &mut Reader<'_>) -> Result<(), OpError> {
        let watermark = from.i64().map_err(damaged)?;
        let state = StateReader::load(from).map_err(damaged)?;
        self.call(&key, &mut Vec::new(), |sub, _| {
            sub.watermark = watermark;
            sub.op.restore(&state)
        })
    }

    fn forget(&mut self, key: &Arc<[u8]>, stats: &Stats) {
        self.keys -= stats.keys;
        self.bytes -= stats.state_bytes + (key.len() + SUBSTREAM_BYTES) as u64;
    }

    /// All keys, in the order of their bytes.
    fn every(
        &mut self,
        rows: &mut Vec<Rows>,
        f: impl Fn(&mut Sub, &mut Output) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let mut keys: Vec<Arc<[u8]>> = self.subs.keys().cloned().collect();
        keys.sort_unstable();
        keys.iter().try_for_each(|key| self.call(key, rows, &f))
    }

    /// Hands rows on: few small batches as one, and as one where they will be sorted.
    fn leave(&mut self, rows: Vec<Rows>, out: &mut Output) -> Result<(), OpError> {
        self.lasting.hand_on();
        self.late.drain(..).for_each(|late| out.late(late));
        let few = rows.iter().map(|r| r.batch.num_rows()).sum::<usize>() <= crate::task::SLICE_ROWS_MAX;
        if rows.len() < 2 || !(self.whole || few) {
            rows.into_iter().for_each(|r| out.rows(r));
            return Ok(());
        }
        let batch = concat_batches(&self.schema, rows.iter().map(|r| &r.batch)).map_err(arrow)?;
        let weights: Option<Vec<&Int64Array>> = rows.iter().map(|r| r.weights.as_ref()).collect();
        let weights = weights.map(|all| all.iter().flat_map(|w| w.values().iter().copied()).collect());
        out.rows(Rows { batch, weights });
        Ok(())
    }

    fn encode(&self, columns: &[ArrayRef]) -> Result<arrow_row::Rows, OpError> {
        self.converter.convert_columns(columns).map_err(arrow)
    }
}

impl Operator for Substreams {
    fn rows(&mut self, from: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let n = rows.batch.num_rows();
        let columns = self
            .partition
            .iter()
            .map(|k| k.evaluate(&rows.batch).and_then(|v| v.into_array(n)).map_err(eval))
            .collect::<Result<Vec<_>, _>>()?;
        let keys = self.encode(&columns)?;
        let encoded: Vec<arrow_row::Row<'_>> = keys.iter().collect();
        // In the order of their first rows.
        let mut slots: HashMap<&[u8], usize> = HashMap::new();
        let mut found: Vec<(Arc<[u8]>, Vec<u32>)> = Vec::new();
        for (i, key) in encoded.iter().enumerate() {
            let slot = *slots.entry(key.as_ref()).or_insert_with(|| {
                found.push((key.as_ref().into(), Vec::new()));
                found.len() - 1
            });
            found[slot].1.push(i as u32);
        }
        let mut results = Vec::new();
        if let [(key, _)] = found.as_slice() {
            self.call(key, &mut results, |sub, out| sub.op.rows(from, rows, out))?;
        } else {
            for (key, places) in found {
                let places = UInt32Array::from(places);
                let batch = take_record_batch(&rows.batch, &places).map_err(arrow)?;
                let weights = match &rows.weights {
                    Some(w) => Some(take(w, &places, None).map_err(arrow)?.as_primitive().clone()),
                    None => None,
                };
                self.call(&key, &mut results, |sub, out| sub.op.rows(from, Rows { batch, weights }, out))?;
            }
        }
        self.changed = true;
        self.leave(results, out)
    }

    fn key_watermarks(&mut self, marks: &RecordBatch, out: &mut Output) -> Result<(), OpError> {
        let last = marks.num_columns() - 1;
        let keys = self.encode(&marks.columns()[..last])?;
        let at = marks.column(last).as_primitive::<Int64Type>().values();
        let mut results = Vec::new();
        for (key, at) in keys.iter().zip(at) {
            // A key without an open window has nothing to close.
            if self.subs.contains_key(key.as_ref()) {
                self.call(&key.as_ref().into(), &mut results, |sub, out| {
                    sub.watermark = sub.watermark.max(*at);
                    sub.op.watermark(WatermarkTime(sub.watermark), out)
                })?;
            }
        }
        self.leave(results, out)
    }

    /// The least that any key's watermark can be.
    fn watermark(&mut self, at: WatermarkTime, out: &mut Output) -> Result<(), OpError> {
        let mut results = Vec::new();
        while let Some((behind, key)) = self.by_watermark.first().cloned()
            && behind < at.0
        {
            self.call(&key, &mut results, |sub, out| {
                sub.watermark = at.0;
                sub.op.watermark(at, out)
            })?;
        }
        self.leave(results, out)
    }

    fn tick(&mut self, now_us: i64, out: &mut Output) -> Result<(), OpError> {
        if self.tick_due().is_some_and(|due| due <= now_us) {
            let mut results = Vec::new();
            self.every(&mut results, |sub, out| sub.op.tick(now_us, out))?;
            self.changed = false;
            if let EmitPolicy::Periodic { every_us, .. } | EmitPolicy::OnUpdate { every_us: Some(every_us) } =
                self.policy
            {
                self.due_us = now_us.saturating_add(every_us);
            }
            self.leave(results, out)?;
        }
        out.push(Element::Tick(now_us));
        Ok(())
    }

    fn tick_due(&self) -> Option<i64> {
        let (timed, repeat) = match self.policy {
            EmitPolicy::Periodic { repeat, .. } => (true, repeat),
            EmitPolicy::OnUpdate { every_us } => (every_us.is_some(), false),
            _ => (false, false),
        };
        (timed && self.backfilled && (self.changed || repeat)).then_some(self.due_us)
    }

    fn end_of_backfill(&mut self, out: &mut Output) -> Result<(), OpError> {
        let mut results = Vec::new();
        self.every(&mut results, |sub, out| sub.op.end_of_backfill(out))?;
        self.backfilled = true;
        self.leave(results, out)?;
        out.push(Element::EndOfBackfill);
        Ok(())
    }

    fn end(&mut self, out: &mut Output) -> Result<(), OpError> {
        let mut results = Vec::new();
        self.every(&mut results, |sub, out| sub.op.end(out))?;
        self.leave(results, out)
    }

    /// Of the key that is furthest behind.
    fn waits_for(&self) -> Option<i64> {
        let (_, key) = self.by_watermark.first()?;
        self.subs[key].op.waits_for()
    }

    fn stats(&self) -> Stats {
        Stats {
            late_rows: self.late_rows,
            keys: self.keys,
            state_bytes: self.bytes + self.lasting.bytes() as u64,
            ..Stats::default()
        }
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        let mut keys: Vec<Arc<[u8]>> = self.subs.keys().cloned().collect();
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(self.subs[key].stats.state_bytes));
        for key in keys {
            let mut spilled = false;
            self.call(&key, &mut Vec::new(), |sub, _| {
                spilled = sub.op.spill()?;
                Ok(())
            })?;
            if spilled {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        out.u64(u64::from(self.backfilled));
        out.u64(u64::from(self.changed));
        out.u64(self.late_rows);
        let n = self.subs.len() as u64;
        if self.lasting.snapshot(into, n, || self.subs.keys().cloned().collect()) {
            into.put("all", out.0);
            return Ok(());
        }
        let mut all: Vec<_> = self.subs.iter_mut().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(b.0));
        out.u64(all.len() as u64);
        for (key, sub) in all {
            out.bytes(key);
            sub.save(&mut out)?;
        }
        into.put("substreams", out.0);
        Ok(())
    }

    fn snapshot_more(&mut self, things: usize) -> Result<Wrote, OpError> {
        let subs = &mut self.subs;
        self.lasting.write_more(things, |key, out| put(subs.get_mut(key), out))
    }

    fn snapshot_lost(&mut self) {
        self.lasting.lose();
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        if let Some(all) = from.get("all") {
            let mut all = Reader(all);
            self.backfilled = all.u64().map_err(damaged)? == 1;
            self.changed = all.u64().map_err(damaged)? == 1;
            let late_rows = all.u64().map_err(damaged)?;
            let mut lasting = std::mem::take(&mut self.lasting);
            lasting.restore(NAME, from, |key, rest| self.take(key, rest))?;
            (self.lasting, self.late_rows) = (lasting, late_rows);
            return Ok(());
        }
        let mut from = Reader(from.bytes(NAME, "substreams")?);
        self.backfilled = from.u64().map_err(damaged)? == 1;
        self.changed = from.u64().map_err(damaged)? == 1;
        self.late_rows = from.u64().map_err(damaged)?;
        for _ in 0..from.count(24).map_err(damaged)? {
            let (key, late_rows) = (from.bytes().map_err(damaged)?.into(), self.late_rows);
            self.take(key, &mut from)?;
            self.late_rows = late_rows;
        }
        Ok(())
    }
}
