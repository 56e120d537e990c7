//! Aggregates over a table of groups: each takes words of its rows, or a column beside them.
//!
//! A batch at a time: groups are looked up once, then every aggregate runs over the batch by
//! itself. Reading never changes a state, so the same state serves intermediate results, final
//! ones and snapshots.
//!
//! A new aggregate is a kind in `plan`, an [`Accumulate`] here and a line in [`accumulators`].
//!
//! Not here: keys (`state`), when results leave (`op::aggregate`).

mod fixed;
mod hll;
mod quantile;
mod sketch;
mod values;

use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Layout, RowStore};
use crate::state::table::Picked;
use arrow_array::{Array, ArrayRef, BooleanArray, Int32Array, Int64Array};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, FieldRef};
use weir_plan::AggregateKind;

/// What one aggregate reads of a batch.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub args: Vec<ArrayRef>,
    /// Rows for which this is not true are left out.
    pub filter: Option<BooleanArray>,
}

/// Where each row of a batch stands among all rows.
#[derive(Debug)]
pub(crate) enum Order {
    /// Event time (nanoseconds), shard, sequence number.
    Log { times: Int64Array, shards: Int32Array, sns: Int64Array },
    /// As they came: of the first row.
    Came(i64),
}

pub(crate) type Place = (i64, i32, i64);

impl Order {
    #[inline]
    pub fn at(&self, row: usize) -> Place {
        match self {
            Order::Log { times, shards, sns } => (times.value(row), shards.value(row), sns.value(row)),
            Order::Came(first) => (first + row as i64, 0, 0),
        }
    }
}

/// One batch for the aggregates of a table.
pub(crate) struct Batch<'a> {
    /// Of each picked row.
    pub groups: &'a [u32],
    pub picked: Picked<'a>,
    pub order: &'a Order,
}

/// The state of one aggregate for all groups of a table.
pub(crate) trait Accumulate: Send {
    /// Takes rows in; groups may be new.
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError>;

    /// The results of groups, of the type that was declared.
    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError>;

    /// Bytes held beside the rows.
    fn bytes(&self) -> usize {
        0
    }

    fn save(&self, _: &mut Writer) {}

    fn load(&mut self, _: &mut Reader<'_>) -> Result<(), Damaged> {
        Ok(())
    }
}

/// Calls `f(group, row)` for every picked row that the filter keeps and whose value is not null.
#[inline(always)]
fn each(
    batch: &Batch<'_>,
    filter: Option<&BooleanArray>,
    nulls: Option<&NullBuffer>,
    mut f: impl FnMut(u32, usize),
) {
    if let (Picked::All(_), None, None) = (batch.picked, filter, nulls) {
        for (row, group) in batch.groups.iter().enumerate() {
            f(*group, row);
        }
        return;
    }
    for (i, group) in batch.groups.iter().enumerate() {
        let row = batch.picked.at(i);
        let kept = filter.is_none_or(|k| k.is_valid(row) && k.value(row));
        if kept && nulls.is_none_or(|n| n.is_valid(row)) {
            f(*group, row);
        }
    }
}

/// What an aggregate is made of, known when the plan is built.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub kind: AggregateKind,
    pub args: Vec<DataType>,
    /// No row can be left out: no filter, no null.
    pub always: bool,
    pub output: FieldRef,
}

/// The accumulators of one table. Takes its words from `layout`, always the same ones for the same
/// shapes.
pub(crate) fn accumulators(
    shapes: &[Shape],
    layout: &mut Layout,
) -> Result<Vec<Box<dyn Accumulate>>, ArrowError> {
    shapes.iter().map(|s| accumulator(s, layout)).collect()
}

fn accumulator(shape: &Shape, layout: &mut Layout) -> Result<Box<dyn Accumulate>, ArrowError> {
    use AggregateKind as K;
    Ok(match shape.kind {
        K::Count => Box::new(fixed::Count::new(layout)),
        K::Sum => fixed::sum(shape, layout)?,
        K::Avg => Box::new(fixed::Avg::new(layout)),
        K::Min | K::Max => match fixed::Extreme::new(shape, layout) {
            Some(fixed) => Box::new(fixed),
            None => Box::new(values::Pick::new(shape)?),
        },
        K::First { .. } | K::Last { .. } | K::ArgMin | K::ArgMax => Box::new(values::Pick::new(shape)?),
        K::Quantile { level } => Box::new(quantile::Quantile::new(level, layout)),
        K::Uniq => Box::new(hll::Uniq::new(shape)?),
        K::UniqExact | K::GroupUniqArray => Box::new(values::Distinct::new(shape)?),
        K::VarPop | K::VarSamp | K::StddevPop | K::StddevSamp => {
            Box::new(fixed::Variance::new(shape.kind, layout))
        }
        K::GroupArray { .. } => Box::new(values::Collect::new(shape)?),
        K::BitAnd | K::BitOr | K::BitXor => fixed::bits(shape, layout)?,
    })
}

/// Casts to the type that was declared, where it is another.
fn to_output(array: ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to { Ok(array) } else { arrow::compute::cast(&array, to) }
}
