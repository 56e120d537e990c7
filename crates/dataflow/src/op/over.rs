//! What functions say of the rows before a row, per partition: `lag`, `row_number`, running aggregates.
//!
//! ```text
//! batch -> partition keys -> groups -> for each row in its order: what functions give, then the row
//!                                      is remembered
//! ```
//!
//! A function is a function of the partition's rows in the order in which they come, so where batches
//! end changes nothing. The state of a partition stays as long as the query: it grows with the number
//! of partitions, by the values its functions look back at.
//!
//! Not here: who brings rows into log order (sources), ranks within result sets (`rank`).

mod running;
mod values;

use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::bytes::{Reader, Writer};
use crate::state::keys::KeyForm;
use crate::state::rows::Layout;
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

pub struct Over {
    partition: Vec<Arc<dyn PhysicalExpr>>,
    functions: Vec<Function>,
    pasts: Vec<Past>,
    form: KeyForm,
    groups: GroupTable,
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

impl Over {
    /// # Errors
    /// [`OpError::Plan`] when types do not fit or a function has no state for its argument.
    pub fn new(spec: &OverSpec, at: usize, schema: SchemaRef, input: &Schema) -> Result<Self, OpError> {
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
        let groups = GroupTable::new(&form, hash, &layout);
        Ok(Over { partition: spec.partition.clone(), functions, pasts, form, groups, seen, at, schema })
    }

    fn values(&mut self) -> impl Iterator<Item = &mut Values> {
        let running = self.functions.iter_mut().filter_map(|f| match f {
            Function::Running { state, .. } => state.values(),
            _ => None,
        });
        self.pasts.iter_mut().map(|p| &mut p.values).chain(running)
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
        let mut groups = Vec::with_capacity(n);
        self.groups
            .intern(&keys, Picked::all(n), &mut groups)
            .map_err(|e| OpError::Row { reason: format!("PARTITION BY: {e}") })?;
        let len = self.groups.len();
        self.values().for_each(|v| v.extend_to(len));
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
        out.rows(Rows::append(RecordBatch::try_new(self.schema.clone(), all).map_err(plan)?));
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { keys: self.groups.len() as u64, state_bytes: self.bytes() as u64, ..Stats::default() }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        self.groups.save(&mut out);
        let len = self.groups.len();
        self.values().for_each(|v| v.save(len, &mut out));
        into.put("partitions", out.0);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let mut from = Reader(from.bytes(NAME, "partitions")?);
        let damaged =
            |e: crate::state::bytes::Damaged| OpError::Restore { operator: NAME, reason: e.to_string() };
        self.groups.load(&mut from).map_err(damaged)?;
        let len = self.groups.len();
        self.values().try_for_each(|v| v.load(len, &mut from)).map_err(damaged)
    }
}
