//! Aggregates over a table of groups: each takes words of its rows, or a column beside them.
//!
//! About a thousand rows at a time: groups are looked up once, then every aggregate runs over the rows
//! by itself, while the rows of their groups are in the cache. Reading never changes a state, so the
//! same state serves intermediate results, final ones and snapshots.
//!
//! The state of one group can be written down and merged into another's. That serves snapshots,
//! spilling, restoring into another number of threads, and windows made of panes.
//!
//! Over a changelog rows have weights, and an aggregate needs a state from which rows can be taken
//! back: `retract` and `multiset` hold those, so that rows which only come cost nothing more.
//!
//! A new aggregate is a kind in `plan`, an [`Accumulate`] here and a line in [`accumulators`].
//!
//! Not here: keys (`state`), when results leave (`op::aggregate`).

mod fixed;
mod foreign;
mod hll;
mod moving;
mod multiset;
mod quantile;
mod ranked;
mod retract;
mod values;

pub(crate) use retract::{count, not_there};

use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Layout, RowStore};
use crate::state::table::Picked;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, Int32Array, Int64Array, UInt32Array};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, FieldRef};
use std::sync::Arc;
use weir_plan::AggregateKind;

/// What one aggregate reads of a batch.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub args: Vec<ArrayRef>,
    /// Rows for which this is not true are left out.
    pub filter: Option<BooleanArray>,
}

/// Cuts picked rows out of arrays.
pub(crate) struct Cut<'a> {
    picked: Picked<'a>,
    /// Of listed rows.
    indices: Option<UInt32Array>,
    /// Arrays that several aggregates read are cut once.
    done: Vec<(ArrayRef, ArrayRef)>,
}

impl<'a> Cut<'a> {
    pub fn new(picked: Picked<'a>) -> Self {
        let indices = match picked {
            Picked::Run { .. } => None,
            Picked::Listed(rows) => Some(UInt32Array::from(rows.to_vec())),
        };
        Cut { picked, indices, done: Vec::new() }
    }

    fn array(&mut self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match self.picked {
            Picked::Run { first, len } if first == 0 && len == array.len() => Ok(array.clone()),
            Picked::Run { first, len } => Ok(array.slice(first, len)),
            Picked::Listed(_) => {
                if let Some((_, part)) = self.done.iter().find(|(from, _)| Arc::ptr_eq(from, array)) {
                    return Ok(part.clone());
                }
                let indices = self.indices.as_ref().expect("made of a list");
                let part = arrow_select::take::take(array, indices, None)?;
                self.done.push((array.clone(), part.clone()));
                Ok(part)
            }
        }
    }

    pub fn inputs(&mut self, all: &[Input]) -> Result<Vec<Input>, ArrowError> {
        all.iter()
            .map(|input| {
                let args = input.args.iter().map(|a| self.array(a)).collect::<Result<_, _>>()?;
                let filter = match &input.filter {
                    None => None,
                    Some(f) => Some(self.array(&(Arc::new(f.clone()) as ArrayRef))?.as_boolean().clone()),
                };
                Ok(Input { args, filter })
            })
            .collect()
    }

    pub fn order(&self, all: &Order) -> Order {
        let picked = self.picked;
        fn cut<T: Copy>(all: &[T], picked: Picked<'_>) -> Vec<T> {
            (0..picked.len()).map(|i| all[picked.at(i)]).collect()
        }
        match (all, picked) {
            (Order::Came { first, .. }, Picked::Run { first: skip, .. }) => {
                Order::Came { first: first + skip as i64, rows: None }
            }
            (Order::Came { first, .. }, Picked::Listed(rows)) => {
                Order::Came { first: *first, rows: Some(rows.to_vec()) }
            }
            (Order::Same, _) => Order::Same,
            (Order::Log { times, shards, sns }, _) => Order::Log {
                times: cut(times.values(), picked).into(),
                shards: cut(shards.values(), picked).into(),
                sns: cut(sns.values(), picked).into(),
            },
        }
    }
}

/// Where each row of a batch stands among all rows.
#[derive(Debug)]
pub(crate) enum Order {
    /// Event time (nanoseconds), shard, sequence number.
    Log { times: Int64Array, shards: Int32Array, sns: Int64Array },
    /// As they came.
    Came { first: i64, rows: Option<Vec<u32>> },
    /// Rows of a changelog that have no place: what is taken back came at another time.
    Same,
}

pub(crate) type Place = (i64, i32, i64);

impl Order {
    #[inline]
    pub fn at(&self, row: usize) -> Place {
        match self {
            Order::Log { times, shards, sns } => (times.value(row), shards.value(row), sns.value(row)),
            Order::Came { first, rows } => {
                let row = rows.as_ref().map_or(row as i64, |r| i64::from(r[row]));
                (first + row, 0, 0)
            }
            Order::Same => (0, 0, 0),
        }
    }
}

/// Some rows for the aggregates of a table; their inputs have as many.
pub(crate) struct Batch<'a> {
    /// Of each row.
    pub groups: &'a [u32],
    pub order: &'a Order,
    /// How often each row is there, negative ones take back; `None` = once. Only aggregates of a
    /// changelog look at it.
    pub weights: Option<&'a [i64]>,
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

    /// Whether it looks at where rows stand.
    fn ordered(&self) -> bool {
        true
    }

    /// Writes the state of one group down.
    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer);

    /// Takes in what [`Self::save`] wrote of a group; a new group becomes exactly that one.
    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged>;
}

/// Calls `f(group, row)` for every row that the filter keeps and whose value is not null.
#[inline(always)]
fn each(
    batch: &Batch<'_>,
    filter: Option<&BooleanArray>,
    nulls: Option<&NullBuffer>,
    mut f: impl FnMut(u32, usize),
) {
    let kept = kept(batch.groups.len(), filter, nulls);
    // One place that calls `f`, so that it becomes a part of the loop.
    for i in 0..kept.as_ref().map_or(batch.groups.len(), Vec::len) {
        let row = kept.as_ref().map_or(i, |k| k[i] as usize);
        f(batch.groups[row], row);
    }
}

/// The rows that count; `None` = all.
fn kept(n: usize, filter: Option<&BooleanArray>, nulls: Option<&NullBuffer>) -> Option<Vec<u32>> {
    let nulls = nulls.filter(|n| n.null_count() > 0);
    if filter.is_none() && nulls.is_none() {
        return None;
    }
    let is_kept = |row: &u32| {
        let row = *row as usize;
        filter.is_none_or(|f| f.is_valid(row) && f.value(row)) && nulls.is_none_or(|n| n.is_valid(row))
    };
    Some((0..n as u32).filter(is_kept).collect())
}

/// What an aggregate is made of, known when the plan is built.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub kind: AggregateKind,
    pub args: Vec<DataType>,
    /// No row can be left out: no filter, no null.
    pub always: bool,
    /// Rows are taken back, too.
    pub changelog: bool,
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
    if shape.changelog {
        return retract::accumulator(shape, layout);
    }
    Ok(match &shape.kind {
        K::Count => Box::new(fixed::Count::new(layout)),
        K::Sum => fixed::sum(shape, layout)?,
        K::Avg => Box::new(fixed::Avg::new(layout)),
        K::Min | K::Max => match fixed::Extreme::new(shape, layout) {
            Some(fixed) => Box::new(fixed),
            None => Box::new(values::Pick::new(shape)?),
        },
        K::First { .. } | K::Last { .. } | K::ArgMin | K::ArgMax => Box::new(values::Pick::new(shape)?),
        K::Quantile { level } => Box::new(quantile::Quantile::new(*level, layout)),
        K::Uniq => Box::new(hll::Uniq::new(shape)),
        K::UniqExact | K::GroupUniqArray | K::GroupUniqArrayLeast { .. } => {
            Box::new(values::Distinct::new(shape)?)
        }
        K::VarPop | K::VarSamp | K::StddevPop | K::StddevSamp => {
            Box::new(fixed::Variance::new(shape.kind.clone(), layout))
        }
        K::GroupArray { .. } | K::GroupArrayFirst { .. } => Box::new(values::Collect::new(shape)?),
        K::MovingSum { .. } | K::MovingAvg { .. } => Box::new(moving::Moving::new(shape)?),
        K::BitAnd | K::BitOr | K::BitXor => fixed::bits(shape, layout)?,
        K::TopK { k, with_count } => Box::new(ranked::TopK::new(*k, *with_count, shape)?),
        K::MinK { k } | K::MaxK { k } => Box::new(ranked::Least::new(*k, shape)?),
        K::Udaf(f) => Box::new(foreign::Foreign::new(f.clone(), shape)?),
    })
}

/// Casts to the type that was declared, where it is another.
fn to_output(array: ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to { Ok(array) } else { arrow::compute::cast(&array, to) }
}
