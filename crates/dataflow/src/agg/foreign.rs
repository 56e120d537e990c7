//! Aggregates by the accumulators they bring (DataFusion's, and those of our function crate): one
//! object a group, given the rows of its group.
//!
//! Reading must not change a state, and their `state()` may: after a snapshot a group goes on from
//! the state that was saved.

use super::{Accumulate, Batch, Input, Shape, each, to_output};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, new_empty_array};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::Accumulator;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use parking_lot::Mutex;
use std::sync::Arc;

type Slot = Option<Mutex<Box<dyn Accumulator>>>;

pub(super) struct Foreign {
    f: Arc<AggregateFunctionExpr>,
    /// `None` = no row yet.
    groups: Column<Slot>,
    /// Of all accumulators, as they say.
    bytes: usize,
    output: DataType,
}

fn arrow(e: DataFusionError) -> ArrowError {
    match e {
        DataFusionError::ArrowError(e, _) => *e,
        other => ArrowError::ExternalError(Box::new(other)),
    }
}

impl Foreign {
    pub fn new(f: Arc<AggregateFunctionExpr>, shape: &Shape) -> Self {
        Foreign { f, groups: Column::default(), bytes: 0, output: shape.output.data_type().clone() }
    }

    fn give(&mut self, group: u32, args: &[ArrayRef]) -> Result<(), DataFusionError> {
        let slot = self.groups.get_mut(group);
        if slot.is_none() {
            *slot = Some(Mutex::new(self.f.create_accumulator()?));
        } else if let Some(held) = slot {
            self.bytes = self.bytes.saturating_sub(held.get_mut().size());
        }
        let held = slot.as_mut().expect("made above where it was missing").get_mut();
        held.update_batch(args)?;
        self.bytes += held.size();
        Ok(())
    }

    /// The states of groups that have rows, a row each; the groups go on from them.
    fn states(&self) -> Result<Option<RecordBatch>, DataFusionError> {
        let mut columns: Vec<Vec<ScalarValue>> = Vec::new();
        for slot in self.groups.iter().flatten() {
            let mut held = slot.lock();
            let state = held.state()?;
            *held = self.from_state(&state)?;
            columns.resize_with(state.len(), Vec::new);
            columns.iter_mut().zip(state).for_each(|(c, v)| c.push(v));
        }
        if columns.is_empty() {
            return Ok(None);
        }
        let arrays = columns.into_iter().map(ScalarValue::iter_to_array).collect::<Result<Vec<_>, _>>()?;
        let fields: Vec<Field> = arrays
            .iter()
            .enumerate()
            .map(|(i, a)| Field::new(i.to_string(), a.data_type().clone(), true))
            .collect();
        Ok(Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?))
    }

    fn from_state(&self, state: &[ScalarValue]) -> Result<Box<dyn Accumulator>, DataFusionError> {
        let arrays = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>, _>>()?;
        let mut new = self.f.create_accumulator()?;
        new.merge_batch(&arrays)?;
        Ok(new)
    }

    fn read(&mut self, groups: &[u32], states: &RecordBatch) -> Result<(), DataFusionError> {
        for (row, group) in groups.iter().enumerate() {
            let arrays: Vec<ArrayRef> = states.columns().iter().map(|c| c.slice(row, 1)).collect();
            let mut new = self.f.create_accumulator()?;
            new.merge_batch(&arrays)?;
            self.bytes += new.size();
            *self.groups.get_mut(*group) = Some(Mutex::new(new));
        }
        Ok(())
    }
}

impl Accumulate for Foreign {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.groups.extend_to(rows.len());
        let mut kept: Vec<(u32, u32)> = Vec::with_capacity(batch.groups.len());
        each(batch, input.filter.as_ref(), None, |g, row| kept.push((g, row as u32)));
        // Rows of a group stay in their order.
        kept.sort_by_key(|(g, _)| *g);
        let rows = UInt32Array::from_iter_values(kept.iter().map(|(_, row)| *row));
        let taken = input
            .args
            .iter()
            .map(|a| arrow_select::take::take(a, &rows, None))
            .collect::<Result<Vec<_>, _>>()?;
        let mut start = 0;
        for of_group in kept.chunk_by(|a, b| a.0 == b.0) {
            let own: Vec<ArrayRef> = taken.iter().map(|a| a.slice(start, of_group.len())).collect();
            start += of_group.len();
            self.give(of_group[0].0, &own).map_err(arrow)?;
        }
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        if groups.is_empty() {
            return Ok(new_empty_array(&self.output));
        }
        let value = |group: &u32| match self.groups.get(*group) {
            Some(held) => held.lock().evaluate(),
            None => self.f.create_accumulator()?.evaluate(),
        };
        let there = |g: &&u32| (**g as usize) < self.groups.len();
        let values = groups
            .iter()
            .map(|g| if there(&g) { value(g) } else { self.f.create_accumulator()?.evaluate() })
            .collect::<Result<Vec<_>, _>>();
        let array = values.and_then(ScalarValue::iter_to_array).map_err(arrow)?;
        to_output(array, &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.groups.bytes()
    }

    fn save(&self, out: &mut Writer) {
        out.u64(self.groups.len() as u64);
        for slot in self.groups.iter() {
            out.u64(u64::from(slot.is_some()));
        }
        // Saving has no way to fail: what does not read is told when it is restored.
        let bytes = self.states().and_then(|states| {
            let Some(states) = states else { return Ok(Vec::new()) };
            let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &states.schema())?;
            writer.write(&states)?;
            Ok(writer.into_inner()?)
        });
        match bytes {
            Ok(bytes) => {
                out.u64(1);
                out.bytes(&bytes);
            }
            Err(e) => {
                tracing::error!(aggregate = self.f.name(), "its state was not saved: {e}");
                out.u64(0);
            }
        }
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let n = from.count(8)?;
        self.groups.extend_to(n);
        let mut there = Vec::new();
        for group in 0..n as u32 {
            if from.u64()? == 1 {
                there.push(group);
            }
        }
        if from.u64()? != 1 {
            return Err(Damaged("an aggregate's accumulator gave no state"));
        }
        let bytes = from.bytes()?;
        if there.is_empty() {
            return Ok(());
        }
        let damaged = |_| Damaged("an accumulator's state does not read");
        let mut reader = arrow::ipc::reader::StreamReader::try_new(bytes, None).map_err(damaged)?;
        let states = reader.next().ok_or(Damaged("an accumulator's state is missing"))?.map_err(damaged)?;
        if states.num_rows() != there.len() {
            return Err(Damaged("accumulators of another number"));
        }
        self.read(&there, &states).map_err(|_| Damaged("an accumulator refuses its state"))
    }
}
