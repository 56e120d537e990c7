//! What functions say of the rows before a row, per partition: `lag`, `row_number`, running aggregates.
//!
//! ```text
//! batch -> partition keys -> groups -> for each row in its order: what functions give, then the row
//!                                      is remembered
//! ```
//!
//! A function is a function of the partition's rows in the order in which they come, so where batches
//! end changes nothing. The state of a partition stays as long as the query: it grows with the number
//! of partitions, by the values its functions look back at. Partitions that memory has no room for go to
//! disk, and those of a batch come back before it is taken in.
//!
//! Not here: who brings rows into log order (sources), ranks within result sets (`rank`).

mod running;
mod values;

use crate::operator::{InputId, OpError, Operator, Output, Stats, Wrote};
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keyed::{Keyed, unknown};
use crate::state::keys::{BatchKeys, Key, KeyForm};
use crate::state::paged::Paged;
use crate::state::rows::Layout;
use crate::state::spill::SpillSpace;
use crate::state::table::{GroupTable, Picked};
use crate::state::{StateReader, StateWriter};
use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use running::Running;
use std::sync::Arc;
use values::{Encoded, Values};
use weir_plan::{OverKind, OverSpec, Rows};

const NAME: &str = "Over";
/// Partitions that are restored before memory is looked at.
const RESTORE_KEYS: usize = 1 << 10;

pub struct Over {
    partition: Vec<Arc<dyn PhysicalExpr>>,
    functions: Vec<Function>,
    pasts: Vec<Past>,
    form: KeyForm,
    groups: GroupTable,
    empty: Box<dyn Fn(&KeyForm) -> GroupTable + Send>,
    spilled: Paged,
    spilled_keys: usize,
    /// What checkpoints say of the partitions.
    keyed: Keyed,
    /// Groups in memory of which something is on disk.
    loaded: usize,
    resources: Resources,
    /// Bytes when this call began: the loop has counted so many.
    counted: usize,
    /// Word of a partition's row: how many rows it had.
    seen: usize,
    at: usize,
    schema: SchemaRef,
}

enum Function {
    RowNumber,
    /// What an expression gave some rows before, of `pasts`.
    Lag {
        past: usize,
        rows: usize,
        default: Encoded,
    },
    Running {
        arg: Option<Arc<dyn PhysicalExpr>>,
        filter: Option<Arc<dyn PhysicalExpr>>,
        state: Running,
    },
}

/// The last values of one expression, shared by functions that look back at it. Row `i` of a partition
/// lies in slot `i % rows`.
struct Past {
    arg: Arc<dyn PhysicalExpr>,
    rows: usize,
    values: Values,
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

fn evaluate(e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
    e.evaluate(batch).and_then(|v| v.into_array(batch.num_rows())).map_err(eval)
}

fn spill(source: std::io::Error) -> OpError {
    OpError::Spill { operator: NAME, source }
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
}

/// What lies beside the rows of partitions.
fn values<'a>(pasts: &'a mut [Past], functions: &'a mut [Function]) -> impl Iterator<Item = &'a mut Values> {
    let running = functions.iter_mut().filter_map(|f| match f {
        Function::Running { state, .. } => state.values(),
        _ => None,
    });
    pasts.iter_mut().map(|p| &mut p.values).chain(running)
}

/// Writes a partition down.
fn put(groups: &GroupTable, pasts: &[Past], functions: &[Function], group: u32, out: &mut Writer) {
    groups.key(group).save(out);
    groups.save_words(group, out);
    pasts.iter().for_each(|p| p.values.save(group, out));
    for function in functions {
        if let Function::Running { state, .. } = function
            && let Some(values) = state.kept()
        {
            values.save(group, out);
        }
    }
}

/// Takes in a partition that is not in memory.
fn take<'a>(
    groups: &mut GroupTable,
    values: impl Iterator<Item = &'a mut Values>,
    key: Key<'_>,
    hash: u32,
    from: &mut Reader<'_>,
) -> Result<(), Damaged> {
    let group = groups.intern_one(key, hash).map_err(|_| Damaged("too many keys"))?;
    groups.load_words(group, from)?;
    let mut values = values;
    values.try_for_each(|v| v.load(group, from))
}

impl Over {
    /// # Errors
    /// [`OpError::Plan`] when types do not fit or a function has no state for its argument.
    pub fn new(
        spec: &OverSpec,
        at: usize,
        schema: SchemaRef,
        input: &Schema,
        resources: Resources,
    ) -> Result<Self, OpError> {
        if schema.fields().len() != input.fields().len() + spec.functions.len() {
            return Err(plan("the result has another number of columns"));
        }
        let types = spec.partition.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>();
        let form = KeyForm::of(&types.map_err(eval)?).map_err(plan)?;
        let mut layout = Layout::default();
        let hash = GroupTable::reserve(&form, &mut layout);
        let seen = layout.word(0);
        let mut depths: Vec<(Arc<dyn PhysicalExpr>, usize)> = Vec::new();
        for f in &spec.functions {
            if let (OverKind::Lag { rows, .. }, Some(arg)) = (&f.kind, &f.arg) {
                match depths.iter_mut().find(|(e, _)| e == arg) {
                    Some((_, depth)) => *depth = (*depth).max(*rows),
                    None => depths.push((arg.clone(), *rows)),
                }
            }
        }
        let pasts = depths
            .into_iter()
            .map(|(arg, rows)| {
                let t = arg.data_type(input).map_err(eval)?;
                let values = Values::new(&t, rows, false, &mut layout).map_err(plan)?;
                Ok(Past { arg, rows, values })
            })
            .collect::<Result<Vec<_>, OpError>>()?;
        let functions = spec
            .functions
            .iter()
            .map(|f| {
                Ok(match &f.kind {
                    OverKind::RowNumber => Function::RowNumber,
                    OverKind::Lag { rows, default } => {
                        let arg = f.arg.as_ref().ok_or_else(|| plan("lag of nothing"))?;
                        let past = pasts.iter().position(|p| p.arg.eq(arg)).expect("made above");
                        let t = arg.data_type(input).map_err(eval)?;
                        let default = default.cast_to(&t).and_then(|v| v.to_array()).map_err(eval)?;
                        let default = pasts[past].values.encode(&default).map_err(arrow)?;
                        Function::Lag { past, rows: *rows, default }
                    }
                    kind => Function::Running {
                        arg: f.arg.clone(),
                        filter: f.filter.clone(),
                        state: Running::new(kind, f, input, &mut layout)?,
                    },
                })
            })
            .collect::<Result<Vec<_>, OpError>>()?;
        let empty = Box::new(move |form: &KeyForm| GroupTable::new(form, hash, &layout));
        Ok(Over {
            partition: spec.partition.clone(),
            functions,
            pasts,
            groups: empty(&form),
            form,
            empty,
            spilled: Paged::default(),
            spilled_keys: 0,
            keyed: Keyed::default(),
            loaded: 0,
            resources,
            counted: 0,
            seen,
            at,
            schema,
        })
    }

    /// Brings the partitions of a batch back that were spilled.
    fn load(&mut self, keys: &BatchKeys, rows: usize) -> Result<(), OpError> {
        if self.spilled.is_empty() {
            return Ok(());
        }
        let wanted = self.groups.missing(keys, Picked::all(rows));
        let (groups, loaded) = (&mut self.groups, &mut self.loaded);
        let (pasts, functions) = (&mut self.pasts, &mut self.functions);
        let done = self.spilled.load(&self.form, wanted, |(hash, key), from| {
            *loaded += 1;
            take(groups, values(pasts, functions), key, hash, from)
        });
        done.map_err(spill)
    }

    /// Writes all partitions in memory down and begins anew.
    fn write(&mut self, space: &SpillSpace) -> Result<(), OpError> {
        let since = self.keyed.leave(|g, out| put(&self.groups, &self.pasts, &self.functions, g, out));
        let groups = std::mem::replace(&mut self.groups, (self.empty)(&self.form));
        self.spilled_keys += groups.len() - std::mem::take(&mut self.loaded);
        let write = |g: u32, out: &mut Writer| put(&groups, &self.pasts, &self.functions, g, out);
        let done = self.spilled.spill(space, &self.form, groups.sorted(&self.form), write, |_| Ok(true));
        values(&mut self.pasts, &mut self.functions).for_each(|v| v.clear());
        self.keyed.went_to(done.map_err(spill)?, &since);
        Ok(())
    }

    /// Spills when there is no room for what this call has added.
    fn make_room(&mut self) -> Result<(), OpError> {
        let bytes = self.bytes();
        let much = bytes - self.spilled.memory_bytes() >= self.resources.spill_bytes_min();
        if much && self.resources.is_tight(self.counted, bytes) {
            Operator::spill(self)?;
        }
        Ok(())
    }

    /// The columns of all functions that look back at one expression.
    fn look_back(
        &mut self,
        past: usize,
        batch: &RecordBatch,
        groups: &[u32],
        before: &[u64],
        columns: &mut [Option<ArrayRef>],
    ) -> Result<(), OpError> {
        let Past { arg, rows: depth, values } = &mut self.pasts[past];
        let now = values.encode(&evaluate(arg, batch)?).map_err(arrow)?;
        let mut asked: Vec<_> = self
            .functions
            .iter()
            .enumerate()
            .filter_map(|(i, f)| match f {
                Function::Lag { past: p, rows, default } if *p == past => {
                    Some((i, *rows, default, values.collector(groups.len())))
                }
                _ => None,
            })
            .collect();
        let depth = *depth as u64;
        for (row, (group, before)) in groups.iter().zip(before).enumerate() {
            for (_, rows, default, out) in &mut asked {
                match *rows as u64 {
                    0 => out.push(&now, row),
                    back if back <= *before => {
                        values.get(&self.groups.rows, *group, ((before - back) % depth) as usize, out);
                    }
                    _ => out.push(default, 0),
                }
            }
            if depth > 0 {
                // The slot held the row that is `depth` back, which was read above.
                values.set(&mut self.groups.rows, *group, (before % depth) as usize, &now, row);
            }
        }
        for (i, _, _, out) in asked {
            columns[i] = Some(values.column(out).map_err(arrow)?);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let running = self.functions.iter().map(|f| match f {
            Function::Running { state, .. } => state.bytes(),
            _ => 0,
        });
        self.groups.bytes()
            + self.spilled.memory_bytes()
            + self.keyed.bytes()
            + self.pasts.iter().map(|p| p.values.bytes()).sum::<usize>()
            + running.sum::<usize>()
    }
}

impl Operator for Over {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.weights.is_some() {
            return Err(plan("functions over the rows of a changelog"));
        }
        let batch = rows.batch;
        let n = batch.num_rows();
        let keys = self.partition.iter().map(|k| evaluate(k, &batch)).collect::<Result<Vec<_>, _>>()?;
        let keys = self.form.encode(&keys, n).map_err(arrow)?;
        self.counted = self.bytes();
        self.load(&keys, n)?;
        let mut groups = Vec::with_capacity(n);
        self.groups
            .intern(&keys, Picked::all(n), &mut groups)
            .map_err(|e| OpError::Row { reason: format!("PARTITION BY: {e}") })?;
        let (table, pasts, functions) = (&self.groups, &self.pasts, &self.functions);
        for group in &groups {
            self.keyed.note(*group, |out| put(table, pasts, functions, *group, out));
        }
        let len = self.groups.len();
        values(&mut self.pasts, &mut self.functions).for_each(|v| v.extend_to(len));
        let before: Vec<u64> = groups
            .iter()
            .map(|g| {
                let seen = self.groups.rows.word_mut(*g, self.seen);
                *seen += 1;
                *seen - 1
            })
            .collect();
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.functions.len()];
        for past in 0..self.pasts.len() {
            self.look_back(past, &batch, &groups, &before, &mut columns)?;
        }
        for (function, column) in self.functions.iter_mut().zip(&mut columns) {
            match function {
                Function::Lag { .. } => {}
                Function::RowNumber => {
                    *column = Some(Arc::new(before.iter().map(|b| b + 1).collect::<UInt64Array>()));
                }
                Function::Running { arg, filter, state } => {
                    let arg = arg.as_ref().map(|a| evaluate(a, &batch)).transpose()?;
                    let counts = match filter {
                        None => None,
                        Some(f) => Some(evaluate(f, &batch)?.as_boolean().clone()),
                    };
                    *column = Some(state.rows(&mut self.groups.rows, &groups, arg, counts)?);
                }
            }
        }
        let mut all = batch.columns().to_vec();
        for (i, column) in columns.into_iter().enumerate() {
            let column = column.expect("every function gives a column");
            let wanted = self.schema.field(self.at + i).data_type();
            let column = if column.data_type() == wanted {
                column
            } else {
                arrow::compute::cast(&column, wanted).map_err(arrow)?
            };
            all.insert(self.at + i, column);
        }
        self.make_room()?;
        self.keyed.hand_on();
        out.rows(Rows::append(RecordBatch::try_new(self.schema.clone(), all).map_err(plan)?));
        Ok(())
    }

    fn stats(&self) -> Stats {
        let keys = self.spilled_keys + self.groups.len() - self.loaded;
        Stats { keys: keys as u64, state_bytes: self.bytes() as u64, ..Stats::default() }
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        // One partition of all rows is needed for every row.
        let some = self.groups.len() > 0 && !matches!(self.form, KeyForm::Unit);
        let Some(space) = self.resources.spill.clone().filter(|_| some) else { return Ok(false) };
        self.write(&space)?;
        Ok(true)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        // One partition is not worth a file.
        if !matches!(self.form, KeyForm::Unit) {
            let keys = self.stats().keys;
            if self.keyed.snapshot(into, self.groups.len(), keys, &self.spilled).map_err(spill)? {
                return Ok(());
            }
        }
        let mut out = Writer::default();
        // How many there are is known in the end.
        let mut n = 0u64;
        out.u64(0);
        if !self.spilled.is_empty() {
            let mut newest = self.spilled.newest().map_err(spill)?;
            while let Some(entry) = newest.next(&self.form).map_err(spill)? {
                let key = Key::load(&mut Reader(entry)).map_err(damaged)?;
                // What came back is newer in memory.
                if self.groups.find_one(key, key.hash()).is_none() {
                    out.0.extend_from_slice(entry);
                    n += 1;
                }
            }
        }
        for group in 0..self.groups.len() as u32 {
            put(&self.groups, &self.pasts, &self.functions, group, &mut out);
            n += 1;
        }
        out.0[..8].copy_from_slice(&n.to_le_bytes());
        into.put("partitions", out.0);
        Ok(())
    }

    fn snapshot_more(&mut self, things: usize) -> Result<Wrote, OpError> {
        let (groups, pasts, functions) = (&self.groups, &self.pasts, &self.functions);
        let put = |group: u32, out: &mut Writer| put(groups, pasts, functions, group, out);
        self.keyed.write_more(things, &self.form, put, |_| Ok(true)).map_err(spill)
    }

    fn snapshot_lost(&mut self) {
        self.keyed.lose();
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        if from.lies_in_runs() {
            let mut keyed = std::mem::take(&mut self.keyed);
            keyed.restore(NAME, from, |block| {
                for (hash, key, mut rest) in
                    unknown(block, &self.form, &self.groups, &self.spilled).map_err(spill)?
                {
                    if self.groups.find_one(key, hash).is_none() {
                        let all = values(&mut self.pasts, &mut self.functions);
                        take(&mut self.groups, all, key, hash, &mut rest).map_err(damaged)?;
                    }
                }
                self.make_room()
            })?;
            self.keyed = keyed;
            return Ok(());
        }
        let mut from = Reader(from.bytes(NAME, "partitions")?);
        for i in 1..=from.count(1).map_err(damaged)? {
            let key = Key::load(&mut from).map_err(damaged)?;
            let all = values(&mut self.pasts, &mut self.functions);
            take(&mut self.groups, all, key, key.hash(), &mut from).map_err(damaged)?;
            if i % RESTORE_KEYS == 0 {
                self.make_room()?;
            }
        }
        Ok(())
    }
}
