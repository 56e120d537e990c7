//! What an aggregation is made of and never changes: keys, arguments, shapes; evaluates batches and
//! takes them into parts, on whichever thread.

use super::expiry::Ages;
use super::part::Part;
use super::{Bounds, GLOBAL};
use crate::agg::{Batch, Cut, Input, Order, Shape, count};
use crate::operator::OpError;
use crate::state::bytes::Damaged;
use crate::state::keys::{BatchKeys, KeyForm};
use crate::state::rows::Layout;
use crate::state::table::{CHUNK_ROWS, GroupTable, Picked};
use crate::time::{from_nanos, nanos, units};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use weir_plan::{AggregateSpec, EmitSpec, RowOrder, WindowKeys};

pub(super) struct Core {
    pub name: &'static str,
    /// Without those that are the window.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    pub window: Option<Window>,
    pub specs: Vec<AggregateSpec>,
    pub order: Option<RowOrder>,
    pub emit: EmitSpec,
    pub whole: bool,
    /// The input is a changelog.
    pub changelog: bool,
    pub schema: SchemaRef,
    pub form: KeyForm,
    pub shapes: Vec<Shape>,
    /// Whether any aggregate looks at where rows stand.
    pub ordered: bool,
    /// Keys without a row for so long are forgotten, microseconds.
    pub ttl_us: Option<i64>,
}

pub(super) struct Window {
    pub keys: WindowKeys,
    pub start: Arc<dyn PhysicalExpr>,
    pub end: Arc<dyn PhysicalExpr>,
    pub start_type: DataType,
    pub end_type: DataType,
}

/// A batch, evaluated; every part takes its rows from it.
pub(super) struct Work {
    pub keys: BatchKeys,
    inputs: Vec<Input>,
    /// How often each row is there.
    weights: Option<Int64Array>,
    order: Order,
    /// Which groups change must be known later.
    marks: bool,
    /// Processing time, microseconds.
    pub now_us: i64,
}

impl Core {
    pub fn arrow(&self, e: ArrowError) -> OpError {
        let source = DataFusionError::ArrowError(Box::new(e), None);
        OpError::Eval { operator: self.name, source: Box::new(source) }
    }

    pub fn damaged(&self, e: &Damaged) -> OpError {
        OpError::Restore { operator: self.name, reason: e.to_string() }
    }

    /// Of saved state that could not be read; what is missing or cut is damaged.
    pub fn unread(&self, e: io::Error) -> OpError {
        match e.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
                OpError::Restore { operator: self.name, reason: e.to_string() }
            }
            _ => OpError::Read { operator: self.name, source: e },
        }
    }

    pub fn spill(&self, source: io::Error) -> OpError {
        OpError::Spill { operator: self.name, source }
    }

    pub fn new_part(&self) -> Result<Part, OpError> {
        let mut layout = Layout::default();
        let hash = GroupTable::reserve(&self.form, &mut layout);
        let weight = self.changelog.then(|| layout.word(0));
        let ages = self.ttl_us.map(|_| Ages::reserve(&mut layout));
        let states = crate::agg::accumulators(&self.shapes, &mut layout).map_err(|e| self.arrow(e))?;
        Ok(Part::new(GroupTable::new(&self.form, hash, &layout), states, weight, ages))
    }

    fn evaluate(&self, e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
        e.evaluate(batch)
            .and_then(|v| v.into_array(batch.num_rows()))
            .map_err(|e| OpError::Eval { operator: self.name, source: Box::new(e) })
    }

    /// `came` = rows that came before.
    pub fn work(
        &self,
        batch: &RecordBatch,
        weights: Option<Int64Array>,
        came: i64,
        marks: bool,
        now_us: i64,
    ) -> Result<Work, OpError> {
        let columns = self.keys.iter().map(|k| self.evaluate(k, batch)).collect::<Result<Vec<_>, _>>()?;
        let keys = self.form.encode(&columns, batch.num_rows()).map_err(|e| self.arrow(e))?;
        let inputs = self.inputs(batch)?;
        Ok(Work { keys, inputs, weights, order: self.order_of(batch, came)?, marks, now_us })
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

    fn order_of(&self, batch: &RecordBatch, came: i64) -> Result<Order, OpError> {
        let Some(order) = self.order.filter(|_| self.ordered) else {
            return Ok(if self.changelog { Order::Same } else { Order::Came { first: came, rows: None } });
        };
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
    pub fn split(&self, batch: &RecordBatch) -> Result<Vec<(Bounds, Option<Vec<u32>>)>, OpError> {
        let Some(window) = self.window.as_ref().filter(|w| !w.keys.closed_below()) else {
            return Ok(vec![(GLOBAL, None)]);
        };
        let (starts, ends) = (self.evaluate(&window.start, batch)?, self.evaluate(&window.end, batch)?);
        let bound = |array: &ArrayRef| OpError::Plan {
            operator: self.name,
            reason: format!("a window bound is {}", array.data_type()),
        };
        let by_start = units(&starts).ok_or_else(|| bound(&starts))?;
        let by_end = units(&ends).ok_or_else(|| bound(&ends))?;
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if let Some(windows) = of_one_size(by_start, by_end) {
            return Ok(windows);
        }
        let starts = nanos(&starts).expect("a time, as found above");
        let ends = nanos(&ends).expect("a time, as found above");
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

    /// Takes picked rows into a part, noting what a later emission must know.
    pub fn update(
        &self,
        bounds: Bounds,
        part: &mut Part,
        work: &Work,
        picked: Picked<'_>,
    ) -> Result<(), OpError> {
        let unordered = Order::Came { first: 0, rows: None };
        let mut groups = Vec::with_capacity(picked.len().min(CHUNK_ROWS));
        for picked in picked.chunks(CHUNK_ROWS) {
            let known = part.groups.len();
            let interned = part.groups.intern(&work.keys, picked, &mut groups);
            interned.map_err(|e| OpError::Row { reason: e.to_string() })?;
            part.note(bounds, &groups);
            self.touch(part, &groups, known, work.now_us)?;
            if work.marks {
                self.mark(bounds, part, &groups)?;
            }
            let mut cut = Cut::new(picked);
            let inputs = cut.inputs(&work.inputs).map_err(|e| self.arrow(e))?;
            let order = self.ordered.then(|| cut.order(&work.order));
            let weights = work
                .weights
                .as_ref()
                .map(|w| (0..picked.len()).map(|i| w.value(picked.at(i))).collect::<Vec<i64>>());
            if let Some(at) = part.weight {
                for (row, group) in groups.iter().enumerate() {
                    let weight = weights.as_ref().map_or(1, |w| w[row]);
                    count(&mut part.groups.rows, *group, at, weight).map_err(|e| self.arrow(e))?;
                }
            }
            let order = order.as_ref().unwrap_or(&unordered);
            let batch = Batch { groups: &groups, order, weights: weights.as_deref() };
            for (state, input) in part.states.iter_mut().zip(&inputs) {
                state.update(&mut part.groups.rows, &batch, input).map_err(|e| self.arrow(e))?;
            }
        }
        Ok(())
    }

    /// Notes which groups change, and for a changelog the rows that were told of them.
    fn mark(&self, bounds: Bounds, part: &mut Part, groups: &[u32]) -> Result<(), OpError> {
        let first = part.groups.mark(groups);
        if !self.emit.changelog {
            return Ok(());
        }
        let changed = part.groups.changed()[first..].iter().copied();
        let told: Vec<u32> = changed.filter(|g| part.told.contains(*g)).collect();
        if !told.is_empty() {
            let at = part.old_batches.len();
            part.old_batches.push(self.result(bounds, part, &told)?);
            part.old.extend(told.into_iter().enumerate().map(|(row, g)| (g, (at, row))));
        }
        Ok(())
    }

    /// Rows of groups, in their order.
    pub fn result(&self, (end, start): Bounds, part: &Part, groups: &[u32]) -> Result<RecordBatch, OpError> {
        let mut keys = part.groups.key_columns(&self.form, groups).map_err(|e| self.arrow(e))?.into_iter();
        let total = self.schema.fields().len() - part.states.len();
        // Of sessions the window is the first of the keys.
        let bounds = self.window.as_ref().filter(|w| w.keys.closed_below()).map(|w| {
            let mut bound = || keys.next().expect("it was encoded");
            let (end, start) = (bound(), bound());
            [(w.keys.end, end), (w.keys.start, start)]
        });
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for at in 0..total {
            if let Some((_, bound)) = bounds.iter().flatten().find(|(of, _)| *of == at) {
                columns.push(bound.clone());
                continue;
            }
            let bound = match &self.window {
                Some(w) if at == w.keys.start => Some((start, &w.start_type)),
                Some(w) if at == w.keys.end => Some((end, &w.end_type)),
                _ => None,
            };
            columns.push(match bound {
                Some((at, t)) => from_nanos(vec![at; groups.len()], t).expect("a time, checked when made"),
                None => keys.next().expect("as many keys as were encoded"),
            });
        }
        for (state, field) in part.states.iter().zip(&self.schema.fields()[total..]) {
            let values = state.evaluate(&part.groups.rows, groups).map_err(|e| self.arrow(e))?;
            let values = if values.data_type() == field.data_type() {
                values
            } else {
                arrow::compute::cast(&values, field.data_type()).map_err(|e| self.arrow(e))?
            };
            columns.push(values);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(groups.len()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| OpError::Plan { operator: self.name, reason: e.to_string() })
    }
}

/// Windows that a batch with few of them is split into without looking any up.
const WINDOWS_FEW: i64 = 8;

/// The rows of each window where all windows have one size and follow each other, and are few.
fn of_one_size(
    (starts, unit): (&[i64], i64),
    (ends, end_unit): (&[i64], i64),
) -> Option<Vec<(Bounds, Option<Vec<u32>>)>> {
    let size = ends[0].checked_sub(starts[0]).filter(|size| *size > 0 && unit == end_unit)?;
    let (mut least, mut greatest, mut others) = (i64::MAX, i64::MIN, false);
    for (start, end) in starts.iter().zip(ends) {
        (least, greatest) = (least.min(*start), greatest.max(*start));
        others |= end.wrapping_sub(*start) != size;
    }
    let windows = greatest.checked_sub(least)? / size + 1;
    if others || windows > WINDOWS_FEW {
        return None;
    }
    let nanos = |at: i64| at.saturating_mul(unit);
    let bounds = |start: i64| (nanos(start.saturating_add(size)), nanos(start));
    if windows == 1 && least == greatest {
        return Some(vec![(bounds(least), None)]);
    }
    let mut split = Vec::new();
    let mut total = 0;
    for window in 0..windows {
        let start = least + window * size;
        // Without a branch: whether a row is the window's is as good as random.
        let mut rows = vec![0u32; starts.len()];
        let mut n = 0;
        for (row, at) in starts.iter().enumerate() {
            rows[n] = row as u32;
            n += usize::from(*at == start);
        }
        rows.truncate(n);
        total += n;
        if n > 0 {
            split.push((bounds(start), Some(rows)));
        }
    }
    (total == starts.len()).then_some(split)
}
