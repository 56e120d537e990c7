//! Running sums: all values of a group with their places, added up when they are looked at.
//!
//! Values lie in words, 32 bytes each with their place.

use super::{Accumulate, Batch, Input, Place, Shape, each};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, ListArray, UInt64Array};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{ArrowError, DataType};
use std::sync::Arc;
use weir_plan::AggregateKind;

type Entry = (Place, u64);

pub(super) struct Moving {
    window: Option<usize>,
    mean: bool,
    /// Int64, UInt64 or Float64.
    values: DataType,
    all: Column<Vec<Entry>>,
    bytes: usize,
    output: DataType,
}

fn wrong(what: impl std::fmt::Display) -> ArrowError {
    ArrowError::InvalidArgumentError(format!("running sums of {what}"))
}

/// Values as words.
fn words(array: &ArrayRef) -> Result<Vec<u64>, ArrowError> {
    Ok(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values().iter().map(|v| *v as u64).collect(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().values().to_vec(),
        DataType::Float64 => {
            array.as_primitive::<Float64Type>().values().iter().map(|v| v.to_bits()).collect()
        }
        other => return Err(wrong(other)),
    })
}

/// Places that rows bring as arguments.
fn places(args: &[ArrayRef]) -> Result<Option<Vec<Place>>, ArrowError> {
    let [time, shard, sn] = args else { return Ok(None) };
    let times = crate::time::nanos(time).ok_or_else(|| wrong(time.data_type()))?;
    let shards = shard.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong(shard.data_type()))?;
    let sns = sn.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(sn.data_type()))?;
    let rows = times.into_iter().zip(shards.values()).zip(sns.values());
    Ok(Some(rows.map(|((time, shard), sn)| (time, *shard, *sn)).collect()))
}

impl Moving {
    pub fn new(shape: &Shape) -> Result<Self, ArrowError> {
        let (window, mean) = match shape.kind {
            AggregateKind::MovingSum { window } => (window, false),
            AggregateKind::MovingAvg { window } => (window, true),
            _ => return Err(wrong("another aggregate")),
        };
        let values = shape.args.first().cloned().unwrap_or(DataType::Null);
        words(&arrow_array::new_empty_array(&values))?;
        let output = shape.output.data_type().clone();
        Ok(Moving { window, mean, values, all: Column::default(), bytes: 0, output })
    }

    /// Adds up the values of a group in their order.
    fn sums<T: Copy>(
        &self,
        sorted: &[T],
        zero: T,
        add: impl Fn(T, T) -> T,
        less: Option<impl Fn(T, T) -> T>,
    ) -> Vec<T> {
        let mut sum = zero;
        let sum_at = |i: usize| {
            sum = match (self.window, &less) {
                (Some(w), Some(less)) if i >= w => less(add(sum, sorted[i]), sorted[i - w]),
                // Added anew, so that nothing of what has left stays in a float.
                (Some(w), None) => sorted[(i + 1).saturating_sub(w)..=i].iter().fold(zero, |s, v| add(s, *v)),
                _ => add(sum, sorted[i]),
            };
            sum
        };
        (0..sorted.len()).map(sum_at).collect()
    }

    fn push(&mut self, group: u32, entry: Entry) {
        self.bytes += size_of::<Entry>();
        self.all.get_mut(group).push(entry);
    }
}

impl Accumulate for Moving {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.all.extend_to(rows.len());
        let values = words(&input.args[0])?;
        let places = places(&input.args[1..])?;
        let nulls = input.args[0].logical_nulls();
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| {
            let place = places.as_ref().map_or_else(|| batch.order.at(row), |p| p[row]);
            self.push(g, (place, values[row]));
        });
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let sorted = |g: &u32| {
            let mut all = self.all.held(*g).cloned().unwrap_or_default();
            all.sort_by_key(|(place, _)| *place);
            all.into_iter().map(|(_, v)| v).collect::<Vec<u64>>()
        };
        let all: Vec<Vec<u64>> = groups.iter().map(sorted).collect();
        let wrapping = |all: &[u64]| self.sums(all, 0, u64::wrapping_add, Some(u64::wrapping_sub));
        let floats = |all: &[u64]| {
            let values: Vec<f64> = all.iter().map(|v| f64::from_bits(*v)).collect();
            self.sums(&values, 0.0, |a, b| a + b, None::<fn(f64, f64) -> f64>)
        };
        let values: ArrayRef = match (&self.values, self.mean) {
            (DataType::Float64, mean) => {
                let of_group = |all: &Vec<u64>| {
                    let n = if mean { self.window.unwrap_or(all.len()) as f64 } else { 1.0 };
                    floats(all).into_iter().map(move |s| s / n)
                };
                Arc::new(all.iter().flat_map(of_group).map(Some).collect::<Float64Array>())
            }
            (_, true) => return Err(wrong("means of integers")),
            (DataType::Int64, _) => {
                let signed = all.iter().flat_map(|all| wrapping(all)).map(|v| v as i64);
                Arc::new(Int64Array::from_iter_values(signed))
            }
            _ => Arc::new(UInt64Array::from_iter_values(all.iter().flat_map(|all| wrapping(all)))),
        };
        let DataType::List(item) = &self.output else { return Err(wrong(&self.output)) };
        let values = super::to_output(values, item.data_type())?;
        let offsets = OffsetBuffer::from_lengths(all.iter().map(Vec::len));
        let nulls: NullBuffer = all.iter().map(|l| !l.is_empty()).collect::<Vec<bool>>().into();
        Ok(Arc::new(ListArray::try_new(item.clone(), offsets, values, Some(nulls))?))
    }

    fn bytes(&self) -> usize {
        self.bytes + self.all.bytes()
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let all = self.all.held(group).map_or(&[][..], Vec::as_slice);
        out.u64(all.len() as u64);
        for ((time, shard, sn), value) in all {
            out.i64(*time);
            out.i64(i64::from(*shard));
            out.i64(*sn);
            out.u64(*value);
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.all.extend_to(rows.len());
        for _ in 0..from.count(32)? {
            let place = (from.i64()?, from.i64()? as i32, from.i64()?);
            let value = from.u64()?;
            self.push(group, (place, value));
        }
        Ok(())
    }
}
