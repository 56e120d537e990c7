//! Aggregates over sketches: a state a group, the same as over a stream (`weir-sketch`).

use super::own::{Own, constant};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, ListArray, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, EmitTo, GroupsAccumulator};
use std::sync::Arc;
use weir_sketch::{Bins, Hll, bins::bin, hash_rows};

/// How a sketch takes rows in and what it gives.
trait Sketch: std::fmt::Debug + Clone + Send + Sync + 'static {
    type Item: Copy;
    type State: std::fmt::Debug + Default + Send + Sync;
    /// What each row adds; rows without a value are null.
    fn items(&self, args: &[ArrayRef]) -> Result<(Vec<Self::Item>, Option<NullBuffer>)>;
    /// Returns the bytes that the state grew by.
    fn add(state: &mut Self::State, item: Self::Item) -> usize;
    fn merge(state: &mut Self::State, saved: &[u8]) -> std::result::Result<(), weir_sketch::Damaged>;
    fn save(state: &Self::State, out: &mut Vec<u8>);
    fn bytes(state: &Self::State) -> usize;
    fn finish(&self, states: &[Self::State]) -> ArrayRef;
}

fn damaged(_: weir_sketch::Damaged) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("the state of a sketch does not read")
}

#[derive(Debug)]
struct One<S: Sketch> {
    sketch: S,
    state: S::State,
}

impl<S: Sketch> Accumulator for One<S> {
    fn update_batch(&mut self, args: &[ArrayRef]) -> Result<()> {
        let (items, nulls) = self.sketch.items(args)?;
        for (row, item) in items.into_iter().enumerate() {
            if nulls.as_ref().is_none_or(|n| n.is_valid(row)) {
                S::add(&mut self.state, item);
            }
        }
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.sketch.finish(std::slice::from_ref(&self.state)), 0)
    }
    fn size(&self) -> usize {
        size_of_val(self) + S::bytes(&self.state)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut saved = Vec::new();
        S::save(&self.state, &mut saved);
        Ok(vec![ScalarValue::Binary(Some(saved))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for saved in states[0].as_binary::<i32>().iter().flatten() {
            S::merge(&mut self.state, saved).map_err(damaged)?;
        }
        Ok(())
    }
}

struct Many<S: Sketch> {
    sketch: S,
    states: Vec<S::State>,
    /// On the heap.
    bytes: usize,
}

impl<S: Sketch> Many<S> {
    fn take(&mut self, emit_to: EmitTo) -> Vec<S::State> {
        let taken = emit_to.take_needed(&mut self.states);
        let gone: usize = taken.iter().map(S::bytes).sum();
        self.bytes = self.bytes.saturating_sub(gone);
        taken
    }
}

fn saved<S: Sketch>(states: &[S::State]) -> ArrayRef {
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for state in states {
        S::save(state, &mut bytes);
        ends.push(bytes.len());
    }
    let lengths = ends.windows(2).map(|w| w[1] - w[0]);
    Arc::new(BinaryArray::new(OffsetBuffer::from_lengths(lengths), bytes.into(), None))
}

impl<S: Sketch> GroupsAccumulator for Many<S> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.states.resize_with(total, S::State::default);
        let (items, nulls) = self.sketch.items(values)?;
        let mut grown = 0;
        if nulls.is_none() && filter.is_none() {
            for (item, group) in items.into_iter().zip(groups) {
                grown += S::add(&mut self.states[*group], item);
            }
        } else {
            for (row, (item, group)) in items.into_iter().zip(groups).enumerate() {
                let kept = filter.is_none_or(|f| f.is_valid(row) && f.value(row));
                if kept && nulls.as_ref().is_none_or(|n| n.is_valid(row)) {
                    grown += S::add(&mut self.states[*group], item);
                }
            }
        }
        self.bytes += grown;
        Ok(())
    }
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let states = self.take(emit_to);
        Ok(self.sketch.finish(&states))
    }
    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![saved::<S>(&self.take(emit_to))])
    }
    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.states.resize_with(total, S::State::default);
        let saved = values[0].as_binary::<i32>();
        for (row, group) in groups.iter().enumerate() {
            if saved.is_valid(row) {
                let state = &mut self.states[*group];
                let before = S::bytes(state);
                S::merge(state, saved.value(row)).map_err(damaged)?;
                self.bytes = self.bytes + S::bytes(state) - before.min(self.bytes);
            }
        }
        Ok(())
    }
    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let (items, nulls) = self.sketch.items(values)?;
        let mut states = Vec::with_capacity(items.len());
        for (row, item) in items.into_iter().enumerate() {
            let mut state = S::State::default();
            let kept = filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if kept && nulls.as_ref().is_none_or(|n| n.is_valid(row)) {
                S::add(&mut state, item);
            }
            states.push(state);
        }
        Ok(vec![saved::<S>(&states)])
    }
    fn size(&self) -> usize {
        self.states.capacity() * size_of::<S::State>() + self.bytes
    }
}

/// DDSketch at given levels.
#[derive(Debug, Clone)]
struct Quantiles {
    levels: Vec<f64>,
    /// One array of all levels.
    list: bool,
}

impl Sketch for Quantiles {
    type Item = u16;
    type State = Bins;

    fn items(&self, args: &[ArrayRef]) -> Result<(Vec<u16>, Option<NullBuffer>)> {
        let values = args[0].as_primitive::<Float64Type>();
        let items = values.values().iter().map(|v| bin(*v)).collect();
        let nulls = values.nulls().cloned();
        // What is no number has no rank.
        if values.values().iter().any(|v| v.is_nan()) {
            let numbers = NullBuffer::from_iter(values.values().iter().map(|v| !v.is_nan()));
            return Ok((items, NullBuffer::union(nulls.as_ref(), Some(&numbers))));
        }
        Ok((items, nulls))
    }
    #[inline]
    fn add(state: &mut Bins, bin: u16) -> usize {
        if state.add_in_place(bin) {
            return 0;
        }
        let before = state.bytes();
        state.add(bin, 1);
        state.bytes().saturating_sub(before)
    }
    fn merge(state: &mut Bins, saved: &[u8]) -> std::result::Result<(), weir_sketch::Damaged> {
        state.load(saved)
    }
    fn save(state: &Bins, out: &mut Vec<u8>) {
        state.save(out);
    }
    fn bytes(state: &Bins) -> usize {
        state.bytes()
    }
    fn finish(&self, states: &[Bins]) -> ArrayRef {
        let all = states.iter().map(|s| s.quantiles(&self.levels));
        if !self.list {
            return Arc::new(all.map(|q| q.map(|q| q[0])).collect::<Float64Array>());
        }
        let mut values: Vec<f64> = Vec::new();
        // Of no rows, an array of what no number is.
        all.for_each(|q| values.extend(q.unwrap_or_else(|| vec![f64::NAN; self.levels.len()])));
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(self.levels.len(), states.len()));
        Arc::new(ListArray::new(item(), offsets, Arc::new(Float64Array::from(values)), None))
    }
}

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float64, true))
}

impl Quantiles {
    fn of(args: &AccumulatorArgs<'_>, list: bool) -> Result<Self> {
        let level = |at: usize| -> Result<Option<f64>> {
            match constant(args, at, "the level")? {
                None => Ok(None),
                Some(v) => match v.cast_to(&DataType::Float64) {
                    Ok(ScalarValue::Float64(Some(l))) if (0.0..=1.0).contains(&l) => Ok(Some(l)),
                    _ => plan_err!("the level of a quantile is between 0 and 1, not {v}"),
                },
            }
        };
        let mut levels = Vec::new();
        while let Some(l) = level(levels.len() + 1)? {
            levels.push(l);
        }
        if levels.is_empty() {
            levels.push(0.5);
        }
        Ok(Quantiles { levels, list })
    }
}

/// HyperLogLog.
#[derive(Debug, Clone)]
struct Uniq;

impl Sketch for Uniq {
    type Item = u64;
    type State = Hll;

    fn items(&self, args: &[ArrayRef]) -> Result<(Vec<u64>, Option<NullBuffer>)> {
        Ok(hash_rows(args)?)
    }
    #[inline]
    fn add(state: &mut Hll, hash: u64) -> usize {
        if let Hll::Dense(_) = state {
            state.add(hash);
            return 0;
        }
        let before = state.bytes();
        state.add(hash);
        state.bytes().saturating_sub(before)
    }
    fn merge(state: &mut Hll, saved: &[u8]) -> std::result::Result<(), weir_sketch::Damaged> {
        state.merge(&Hll::load(saved)?);
        Ok(())
    }
    fn save(state: &Hll, out: &mut Vec<u8>) {
        state.save(out);
    }
    fn bytes(state: &Hll) -> usize {
        state.bytes()
    }
    fn finish(&self, states: &[Hll]) -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(states.iter().map(Hll::count)))
    }
}

fn state(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    vec![Arc::new(Field::new(format!("{}[sketch]", args.name), DataType::Binary, true))]
}

fn floats(given: &[DataType]) -> Result<Vec<DataType>> {
    if !given[0].is_numeric() && given[0] != DataType::Null {
        return plan_err!("illegal type {} of argument 1 of a quantile; it takes a number", given[0]);
    }
    Ok(vec![DataType::Float64; given.len()])
}

/// `quantile(x[, level])`.
pub(super) fn quantile() -> Arc<AggregateUDF> {
    Own::new(
        "quantile",
        (1, 2),
        |_| Ok(DataType::Float64),
        state,
        |args| Ok(Box::new(One { sketch: Quantiles::of(args, false)?, state: Bins::default() })),
    )
    .aliases(&["quantile_t_digest", "quantile_timing", "quantile_dd", "quantile_deterministic"])
    .coerce(floats)
    .groups(|args| Ok(Box::new(Many { sketch: Quantiles::of(args, false)?, states: Vec::new(), bytes: 0 })))
    .udaf()
}

/// `quantiles(x, level, …)`.
pub(super) fn quantiles() -> Arc<AggregateUDF> {
    Own::new(
        "quantiles",
        (1, 64),
        |_| Ok(DataType::List(item())),
        state,
        |args| Ok(Box::new(One { sketch: Quantiles::of(args, true)?, state: Bins::default() })),
    )
    .aliases(&["quantiles_t_digest", "quantiles_timing", "quantiles_dd"])
    .coerce(floats)
    .groups(|args| Ok(Box::new(Many { sketch: Quantiles::of(args, true)?, states: Vec::new(), bytes: 0 })))
    .udaf()
}

/// `uniq(x, …)`.
pub(super) fn uniq() -> Arc<AggregateUDF> {
    Own::new(
        "uniq",
        (1, 64),
        |_| Ok(DataType::UInt64),
        state,
        |_| Ok(Box::new(One { sketch: Uniq, state: Hll::Empty })),
    )
    .aliases(&[
        "unique",
        "approx_distinct",
        "approx_count_distinct",
        "uniq_hll12",
        "unique_hll12",
        "uniq_combined",
        "unique_combined",
        "uniq_combined64",
        "unique_combined64",
        "uniq_theta",
        "unique_theta",
    ])
    .groups(|_| Ok(Box::new(Many { sketch: Uniq, states: Vec::new(), bytes: 0 })))
    .udaf()
}
