//! Keyed aggregation: over windows, which close, or over the whole stream.
//!
//! ```text
//! batch -> keys and arguments evaluated -> rows by window -> table of the window: groups, aggregates
//! watermark -> tables of closed windows leave in order (end, start, key) and are freed
//! batch, tick -> what changed, or everything, as the emit policy says
//! ```
//!
//! While history is read nothing but closed windows leaves; at its end there is one emission.
//!
//! Not here: late rows (none come here), state in memory (`state`), aggregates (`agg`).

mod emit;
mod table;

use crate::agg::{Input, Order, Shape};
use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::bytes::{Reader, Writer};
use crate::state::keys::KeyForm;
use crate::state::rows::Layout;
use crate::state::table::{GroupTable, Picked};
use crate::state::{StateReader, StateWriter};
use crate::time::nanos;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::BTreeMap;
use std::sync::Arc;
use table::Table;
use weir_plan::{
    AggregateKind, AggregateSpec, EmitPolicy, EmitSpec, Projection, RowOrder, Rows, WatermarkTime, WindowKeys,
};

/// Bounds of a window in nanoseconds: end first, the order in which windows close.
type Bounds = (i64, i64);
const GLOBAL: Bounds = (i64::MAX, i64::MIN);

pub struct Aggregate {
    name: &'static str,
    /// Without those that are the window.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    window: Option<Window>,
    specs: Vec<AggregateSpec>,
    order: Option<RowOrder>,
    emit: EmitSpec,
    whole: bool,
    schema: SchemaRef,
    form: KeyForm,
    shapes: Vec<Shape>,
    tables: BTreeMap<Bounds, Table>,
    /// Rows taken in so far.
    came: i64,
    /// History is being read.
    muted: bool,
    /// Something changed since the last emission.
    changed: bool,
    /// When the next emission is due; unknown before the first tick.
    due_us: i64,
    bytes: usize,
    groups: usize,
}

struct Window {
    keys: WindowKeys,
    start: Arc<dyn PhysicalExpr>,
    end: Arc<dyn PhysicalExpr>,
    start_type: DataType,
    end_type: DataType,
}

/// A plan's aggregation, as one thing.
pub struct Spec<'a> {
    pub keys: &'a [Projection],
    pub aggregates: &'a [AggregateSpec],
    pub order: Option<RowOrder>,
    pub window: Option<WindowKeys>,
    pub emit: EmitSpec,
    pub whole: bool,
    pub schema: SchemaRef,
}

impl Aggregate {
    /// # Errors
    /// [`OpError::Plan`] when types do not fit or an aggregate has no state for its argument.
    pub fn new(spec: Spec<'_>, input: &Schema) -> Result<Self, OpError> {
        let name = if spec.window.is_some() { "WindowAggregate" } else { "Aggregate" };
        let plan = |reason: String| OpError::Plan { operator: name, reason };
        let eval = |e: DataFusionError| OpError::Eval { operator: name, source: Box::new(e) };
        if spec.schema.fields().len() != spec.keys.len() + spec.aggregates.len() {
            return Err(plan("the result has another number of columns".into()));
        }
        let window = match spec.window {
            None => None,
            Some(keys) => {
                let expr = |at: usize| {
                    let key = spec.keys.get(at).ok_or_else(|| plan("a window that is no key".into()))?;
                    let t = key.expr.data_type(input).map_err(eval)?;
                    match crate::time::nanos_per_unit(&t) {
                        Some(_) => Ok((key.expr.clone(), t)),
                        None => Err(plan(format!("window bound {} is {t}, no time", key.name))),
                    }
                };
                let ((start, start_type), (end, end_type)) = (expr(keys.start)?, expr(keys.end)?);
                Some(Window { keys, start, end, start_type, end_type })
            }
        };
        let is_bound = |at: usize| spec.window.is_some_and(|w| at == w.start || at == w.end);
        let keys: Vec<_> = spec
            .keys
            .iter()
            .enumerate()
            .filter(|(i, _)| !is_bound(*i))
            .map(|(_, k)| k.expr.clone())
            .collect();
        let types = keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>().map_err(eval)?;
        let shapes = spec
            .aggregates
            .iter()
            .map(|a| shape(a, input))
            .collect::<Result<Vec<_>, DataFusionError>>()
            .map_err(eval)?;
        if spec.emit.changelog && spec.window.is_some() {
            return Err(plan("a changelog of windows".into()));
        }
        if spec.emit.policy == EmitPolicy::OnClose && spec.window.is_none() {
            return Err(plan("a global aggregation never closes".into()));
        }
        let op = Aggregate {
            name,
            keys,
            window,
            specs: spec.aggregates.to_vec(),
            order: spec.order,
            emit: spec.emit,
            whole: spec.whole,
            schema: spec.schema,
            form: KeyForm::of(&types).map_err(|e| plan(e.to_string()))?,
            shapes,
            tables: BTreeMap::new(),
            came: 0,
            muted: true,
            changed: false,
            due_us: i64::MIN,
            bytes: 0,
            groups: 0,
        };
        // A type without a state fails the start, not the first row.
        op.new_table()?;
        Ok(op)
    }

    fn arrow(&self, e: ArrowError) -> OpError {
        let source = DataFusionError::ArrowError(Box::new(e), None);
        OpError::Eval { operator: self.name, source: Box::new(source) }
    }

    fn new_table(&self) -> Result<Table, OpError> {
        let mut layout = Layout::default();
        let hash = GroupTable::reserve(&self.form, &mut layout);
        let states = crate::agg::accumulators(&self.shapes, &mut layout).map_err(|e| self.arrow(e))?;
        Ok(Table::new(GroupTable::new(&self.form, hash, &layout), states))
    }

    fn evaluate(&self, e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
        e.evaluate(batch)
            .and_then(|v| v.into_array(batch.num_rows()))
            .map_err(|e| OpError::Eval { operator: self.name, source: Box::new(e) })
    }

    fn inputs(&self, batch: &RecordBatch) -> Result<Vec<Input>, OpError> {
        self.specs
            .iter()
            .map(|spec| {
                let args = spec.args.iter().map(|a| self.evaluate(a, batch)).collect::<Result<_, _>>()?;
                let filter = match &spec.filter {
                    None => None,
                    Some(f) => Some(self.evaluate(f, batch)?.as_boolean().clone()),
                };
                Ok(Input { args, filter })
            })
            .collect()
    }

    fn order_of(&self, batch: &RecordBatch) -> Result<Order, OpError> {
        let Some(order) = self.order else { return Ok(Order::Came(self.came)) };
        let wrong = || OpError::Plan {
            operator: self.name,
            reason: "the order of rows is a time, an int32 and an int64".into(),
        };
        let times = nanos(batch.column(order.time)).ok_or_else(wrong)?;
        let shards = batch.column(order.shard).as_primitive_opt::<Int32Type>().ok_or_else(wrong)?;
        let sns = batch.column(order.sn).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        Ok(Order::Log { times: Int64Array::from(times), shards: shards.clone(), sns: sns.clone() })
    }

    /// The rows of each window of a batch; `None` = all of them in the one window.
    fn split(&self, batch: &RecordBatch) -> Result<Vec<(Bounds, Option<Vec<u32>>)>, OpError> {
        let Some(window) = &self.window else { return Ok(vec![(GLOBAL, None)]) };
        let bound = |e| -> Result<Vec<i64>, OpError> {
            let array = self.evaluate(e, batch)?;
            nanos(&array).ok_or_else(|| OpError::Plan {
                operator: self.name,
                reason: format!("a window bound is {}", array.data_type()),
            })
        };
        let (starts, ends) = (bound(&window.start)?, bound(&window.end)?);
        let first = (ends[0], starts[0]);
        if ends.iter().all(|e| *e == first.0) && starts.iter().all(|s| *s == first.1) {
            return Ok(vec![(first, None)]);
        }
        let mut found: BTreeMap<Bounds, usize> = BTreeMap::new();
        let mut rows: Vec<Vec<u32>> = Vec::new();
        let (mut last, mut slot) = (None, 0);
        for (row, bounds) in ends.into_iter().zip(starts).enumerate() {
            if last != Some(bounds) {
                slot = *found.entry(bounds).or_insert_with(|| {
                    rows.push(Vec::new());
                    rows.len() - 1
                });
                last = Some(bounds);
            }
            rows[slot].push(row as u32);
        }
        Ok(found.into_iter().map(|(b, slot)| (b, Some(std::mem::take(&mut rows[slot])))).collect())
    }

    fn retire(&mut self, table: &Table) {
        self.bytes -= table.held_bytes;
        self.groups -= table.groups.len();
    }

    fn close(&mut self, up_to: i64, out: &mut Output) -> Result<(), OpError> {
        let mut batches = Vec::new();
        while let Some((bounds, _)) = self.tables.first_key_value()
            && bounds.0 <= up_to
        {
            let bounds = *bounds;
            let table = self.tables.remove(&bounds).expect("it was there");
            let mut groups: Vec<u32> = (0..table.groups.len() as u32).collect();
            table.groups.sort(&self.form, &mut groups);
            batches.extend(self.results(bounds, &table, &groups)?);
            self.retire(&table);
        }
        self.leave(batches, out)
    }
}

fn shape(spec: &AggregateSpec, input: &Schema) -> Result<Shape, DataFusionError> {
    let args = spec.args.iter().map(|a| a.data_type(input)).collect::<Result<Vec<_>, _>>()?;
    let nullable = spec.args.iter().map(|a| a.nullable(input)).collect::<Result<Vec<_>, _>>()?;
    let floats = matches!(spec.kind, AggregateKind::Quantile { .. });
    Ok(Shape {
        kind: spec.kind,
        args,
        always: spec.filter.is_none() && !nullable.contains(&true) && !floats,
        output: spec.output.clone(),
    })
}

impl Operator for Aggregate {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.weights.is_some() {
            return Err(OpError::Plan { operator: self.name, reason: "aggregation of a changelog".into() });
        }
        let batch = rows.batch;
        let n = batch.num_rows();
        let columns = self.keys.iter().map(|k| self.evaluate(k, &batch)).collect::<Result<Vec<_>, _>>()?;
        let keys = self.form.encode(&columns, n).map_err(|e| self.arrow(e))?;
        let inputs = self.inputs(&batch)?;
        let order = self.order_of(&batch)?;
        for (bounds, listed) in self.split(&batch)? {
            let mut table = match self.tables.remove(&bounds) {
                Some(table) => table,
                None => self.new_table()?,
            };
            let picked = match &listed {
                None => Picked::All(n),
                Some(rows) => Picked::Listed(rows),
            };
            let before = (table.held_bytes, table.groups.len());
            let updated = self.update(bounds, &mut table, &keys, picked, &inputs, &order);
            table.held_bytes = table.bytes();
            self.bytes = self.bytes + table.held_bytes - before.0;
            self.groups += table.groups.len() - before.1;
            self.tables.insert(bounds, table);
            updated?;
        }
        self.came += n as i64;
        self.changed = true;
        if !self.muted && self.emit.policy == (EmitPolicy::OnUpdate { every_us: None }) {
            self.emit_changed(out)?;
        }
        Ok(())
    }

    /// Closes windows. The watermark ends here: rows of open windows are yet to leave.
    fn watermark(&mut self, at: WatermarkTime, out: &mut Output) -> Result<(), OpError> {
        if self.window.is_some() { self.close(at.0, out) } else { Ok(()) }
    }

    fn tick(&mut self, now_us: i64, out: &mut Output) -> Result<(), OpError> {
        if self.tick_due().is_some_and(|due| due <= now_us) {
            self.emit_due(out)?;
            if let EmitPolicy::Periodic { every_us, .. } | EmitPolicy::OnUpdate { every_us: Some(every_us) } =
                self.emit.policy
            {
                self.due_us = now_us.saturating_add(every_us);
            }
        }
        out.push(weir_plan::Element::Tick(now_us));
        Ok(())
    }

    fn tick_due(&self) -> Option<i64> {
        let (timed, repeat) = match self.emit.policy {
            EmitPolicy::Periodic { repeat, .. } => (true, repeat),
            EmitPolicy::OnUpdate { every_us } => (every_us.is_some(), false),
            EmitPolicy::OnClose => (false, false),
        };
        (timed && !self.muted && (self.changed || repeat)).then_some(self.due_us)
    }

    fn end_of_backfill(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.muted = false;
        if self.changed {
            self.emit_due(out)?;
        }
        out.push(weir_plan::Element::EndOfBackfill);
        Ok(())
    }

    fn end(&mut self, out: &mut Output) -> Result<(), OpError> {
        if self.window.is_some() {
            return self.close(i64::MAX, out);
        }
        if self.changed { self.emit_due(out) } else { Ok(()) }
    }

    fn stats(&self) -> Stats {
        Stats { keys: self.groups as u64, state_bytes: self.bytes as u64, late_rows: 0 }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        out.i64(self.came);
        out.u64(u64::from(self.muted));
        out.u64(u64::from(self.changed));
        out.u64(self.tables.len() as u64);
        for ((end, start), table) in &self.tables {
            out.i64(*end);
            out.i64(*start);
            table.save(&mut out).map_err(|e| self.arrow(e))?;
        }
        into.put("tables", out.0);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let bytes = from.bytes(self.name, "tables")?;
        let mut from = Reader(bytes);
        let name = self.name;
        let damaged =
            |e: crate::state::bytes::Damaged| OpError::Restore { operator: name, reason: e.to_string() };
        self.came = from.i64().map_err(damaged)?;
        self.muted = from.u64().map_err(damaged)? == 1;
        self.changed = from.u64().map_err(damaged)? == 1;
        for _ in 0..from.count(16).map_err(damaged)? {
            let bounds = (from.i64().map_err(damaged)?, from.i64().map_err(damaged)?);
            let mut table = self.new_table()?;
            table.load(&mut from).map_err(damaged)?;
            table.held_bytes = table.bytes();
            self.bytes += table.held_bytes;
            self.groups += table.groups.len();
            self.tables.insert(bounds, table);
        }
        Ok(())
    }
}
