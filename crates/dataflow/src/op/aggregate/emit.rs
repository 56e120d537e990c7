//! What leaves an aggregation: result sets, changed groups, pairs of old and new.

use super::table::Table;
use super::{Aggregate, Bounds};
use crate::agg::{Batch, Input, Order};
use crate::operator::{OpError, Output};
use crate::state::keys::BatchKeys;
use crate::state::table::Picked;
use crate::time::from_nanos;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave_record_batch;
use weir_plan::{EmitPolicy, Rows};

/// Rows of a batch that leaves; even, since changes leave in pairs.
const ROWS_MAX: usize = 65_536;

impl Aggregate {
    /// Takes picked rows into a table, noting what a later emission must know.
    pub(super) fn update(
        &self,
        bounds: Bounds,
        table: &mut Table,
        keys: &BatchKeys,
        picked: Picked<'_>,
        inputs: &[Input],
        order: &Order,
    ) -> Result<(), OpError> {
        let mut groups = Vec::with_capacity(picked.len());
        table.groups.intern(keys, picked, &mut groups).map_err(|e| OpError::Row { reason: e.to_string() })?;
        let marks = self.emit.changelog || matches!(self.emit.policy, EmitPolicy::OnUpdate { .. });
        if marks {
            let first = table.groups.mark(&groups);
            if self.emit.changelog {
                let told: Vec<u32> = table.groups.changed()[first..]
                    .iter()
                    .copied()
                    .filter(|g| table.told.contains(g))
                    .collect();
                if !told.is_empty() {
                    let at = table.old_batches.len();
                    table.old_batches.push(self.result(bounds, table, &told)?);
                    table.old.extend(told.into_iter().enumerate().map(|(row, g)| (g, (at, row))));
                }
            }
        }
        let batch = Batch { groups: &groups, picked, order };
        for (state, input) in table.states.iter_mut().zip(inputs) {
            state.update(&mut table.groups.rows, &batch, input).map_err(|e| self.arrow(e))?;
        }
        Ok(())
    }

    /// Rows of groups, in their order.
    fn result(&self, (end, start): Bounds, table: &Table, groups: &[u32]) -> Result<RecordBatch, OpError> {
        let mut keys = table.groups.key_columns(&self.form, groups).map_err(|e| self.arrow(e))?.into_iter();
        let total = self.schema.fields().len() - table.states.len();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for at in 0..total {
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
        for (state, field) in table.states.iter().zip(&self.schema.fields()[total..]) {
            let values = state.evaluate(&table.groups.rows, groups).map_err(|e| self.arrow(e))?;
            let values = if values.data_type() == field.data_type() {
                values
            } else {
                arrow::compute::cast(&values, field.data_type()).map_err(|e| self.arrow(e))?
            };
            columns.push(values);
        }
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(groups.len()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| OpError::Plan { operator: self.name, reason: e.to_string() })
    }

    pub(super) fn results(
        &self,
        bounds: Bounds,
        table: &Table,
        groups: &[u32],
    ) -> Result<Vec<Rows>, OpError> {
        groups.chunks(ROWS_MAX).map(|g| Ok(Rows::append(self.result(bounds, table, g)?))).collect()
    }

    /// Old and new rows of groups that changed, side by side.
    fn changes(&self, bounds: Bounds, table: &mut Table) -> Result<Vec<Rows>, OpError> {
        let mut all = Vec::new();
        for groups in table.groups.changed().chunks(ROWS_MAX / 2) {
            let new = self.result(bounds, table, groups)?;
            let mut batches: Vec<&RecordBatch> = table.old_batches.iter().collect();
            batches.push(&new);
            let (mut places, mut weights) = (Vec::new(), Vec::new());
            for (row, group) in groups.iter().enumerate() {
                if let Some(old) = table.old.get(group) {
                    places.push(*old);
                    weights.push(-1);
                }
                places.push((batches.len() - 1, row));
                weights.push(1);
            }
            let batch = interleave_record_batch(&batches, &places).map_err(|e| self.arrow(e))?;
            all.push(Rows { batch, weights: Some(Int64Array::from(weights)) });
        }
        table.told.extend(table.groups.changed());
        table.old.clear();
        table.old_batches.clear();
        table.groups.clean();
        Ok(all)
    }

    /// Groups that changed since the last emission.
    pub(super) fn emit_changed(&mut self, out: &mut Output) -> Result<(), OpError> {
        let mut batches = Vec::new();
        let mut tables = std::mem::take(&mut self.tables);
        for (bounds, table) in &mut tables {
            if table.groups.changed().is_empty() {
                continue;
            }
            if self.emit.changelog {
                batches.extend(self.changes(*bounds, table)?);
                let held = table.bytes();
                self.bytes = self.bytes + held - table.held_bytes;
                table.held_bytes = held;
            } else {
                batches.extend(self.results(*bounds, table, table.groups.changed())?);
                table.groups.clean();
            }
        }
        self.tables = tables;
        self.changed = false;
        self.leave(batches, out)
    }

    fn emit_all(&mut self, out: &mut Output) -> Result<(), OpError> {
        let mut batches = Vec::new();
        for (bounds, table) in &self.tables {
            let groups: Vec<u32> = (0..table.groups.len() as u32).collect();
            batches.extend(self.results(*bounds, table, &groups)?);
        }
        self.changed = false;
        self.leave(batches, out)
    }

    /// What the policy sends when it is time.
    pub(super) fn emit_due(&mut self, out: &mut Output) -> Result<(), OpError> {
        match self.emit.policy {
            EmitPolicy::OnClose => Ok(()),
            EmitPolicy::Periodic { .. } if !self.emit.changelog => self.emit_all(out),
            _ => self.emit_changed(out),
        }
    }

    /// Hands batches on, as one where they will be sorted.
    pub(super) fn leave(&self, batches: Vec<Rows>, out: &mut Output) -> Result<(), OpError> {
        if !self.whole || batches.len() < 2 {
            batches.into_iter().for_each(|b| out.rows(b));
            return Ok(());
        }
        let batch =
            concat_batches(&self.schema, batches.iter().map(|r| &r.batch)).map_err(|e| self.arrow(e))?;
        let weights = batches.iter().map(|r| r.weights.clone()).collect::<Option<Vec<_>>>();
        let weights = weights.map(|all| all.iter().flat_map(|w| w.values().iter().copied()).collect());
        out.rows(Rows { batch, weights });
        Ok(())
    }
}
