//! Aggregates by the accumulators they bring (DataFusion's, and those of our function crate): one
//! object a group, given the rows of its group. What depends on the order of rows is given the order
//! as further arguments.
//!
//! Reading must not change a state, and their `state()` may: a group that was saved goes on from what
//! was saved.

use super::{Accumulate, Batch, Input, Shape, each, to_output};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::{Array, ArrayRef, UInt32Array, new_empty_array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::Accumulator;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use parking_lot::Mutex;
use std::sync::Arc;

pub(super) struct Foreign {
    f: Arc<AggregateFunctionExpr>,
    /// States as bytes.
    converter: RowConverter,
    state_types: Vec<DataType>,
    /// `None` = no row yet.
    groups: Column<Option<Mutex<Box<dyn Accumulator>>>>,
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
    pub fn new(f: Arc<AggregateFunctionExpr>, shape: &Shape) -> Result<Self, ArrowError> {
        let fields = f.state_fields().map_err(arrow)?;
        let state_types: Vec<DataType> = fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(Foreign {
            converter: RowConverter::new(state_types.iter().cloned().map(SortField::new).collect())?,
            state_types,
            f,
            groups: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }

    /// Does something with a group's accumulator, which is made where it is missing.
    fn change(
        &mut self,
        group: u32,
        act: impl FnOnce(&mut dyn Accumulator) -> Result<(), DataFusionError>,
    ) -> Result<(), DataFusionError> {
        let slot = self.groups.get_mut(group);
        match slot {
            None => *slot = Some(Mutex::new(self.f.create_accumulator()?)),
            Some(held) => self.bytes = self.bytes.saturating_sub(held.get_mut().size()),
        }
        let held = slot.as_mut().expect("made above where it was missing").get_mut();
        let done = act(held.as_mut());
        self.bytes += held.size();
        done
    }

    /// A group's state in bytes; the group goes on from it.
    fn state(&self, held: &Mutex<Box<dyn Accumulator>>) -> Result<Vec<u8>, DataFusionError> {
        let mut held = held.lock();
        let state = held.state()?;
        let arrays = state
            .iter()
            .zip(&self.state_types)
            .map(|(value, t)| Ok(to_output(value.to_array()?, t)?))
            .collect::<Result<Vec<_>, DataFusionError>>()?;
        let mut again = self.f.create_accumulator()?;
        again.merge_batch(&arrays)?;
        *held = again;
        Ok(self.converter.convert_columns(&arrays)?.row(0).as_ref().to_vec())
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
            self.change(of_group[0].0, |held| held.update_batch(&own)).map_err(arrow)?;
        }
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        if groups.is_empty() {
            return Ok(new_empty_array(&self.output));
        }
        let value = |group: &u32| match self.groups.held(*group).and_then(Option::as_ref) {
            Some(held) => held.lock().evaluate(),
            None => self.f.create_accumulator()?.evaluate(),
        };
        let values = groups.iter().map(value).collect::<Result<Vec<_>, _>>().map_err(arrow)?;
        if let DataType::Map(..) = self.output {
            // Of maps the library makes no array.
            let each =
                values.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>, _>>().map_err(arrow)?;
            let each: Vec<&dyn Array> = each.iter().map(AsRef::as_ref).collect();
            return to_output(arrow_select::concat::concat(&each)?, &self.output);
        }
        to_output(ScalarValue::iter_to_array(values).map_err(arrow)?, &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.groups.bytes()
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let Some(held) = self.groups.held(group).and_then(Option::as_ref) else { return out.u8(0) };
        match self.state(held) {
            Ok(state) => {
                out.u8(1);
                out.bytes(&state);
            }
            // Writing down has no way to fail: it is told to whom reads.
            Err(e) => {
                tracing::error!(aggregate = self.f.name(), "its state could not be saved: {e}");
                out.u8(2);
            }
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.groups.extend_to(rows.len());
        match from.u8()? {
            0 => return Ok(()),
            1 => {}
            _ => return Err(Damaged("an aggregate's accumulator gave no state")),
        }
        let bytes = from.bytes()?;
        let parser = self.converter.parser();
        let arrays = self
            .converter
            .convert_rows([parser.parse(bytes)])
            .map_err(|_| Damaged("an accumulator's state does not read"))?;
        self.change(group, |held| held.merge_batch(&arrays))
            .map_err(|_| Damaged("an accumulator refuses its state"))
    }
}
