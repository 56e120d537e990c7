//! Aggregates over how often each value occurs: `top_k`, `group_uniq_array`, `any_heavy`, `entropy`, `histogram`.
//!
//! Counts are exact, so that order and batches change nothing; memory goes with distinct values and
//! is accounted for. Of values that occur equally often the lesser comes first.

use super::own::{Own, number};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, ListArray, StructArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, UInt64Type};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

const K_MAX: u64 = 65_536;
const K_DEFAULT: usize = 10;
const BINS_MAX: u64 = 250;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Finish {
    /// The distinct values, ascending; at most so many.
    Distinct(Option<usize>),
    /// The most frequent, with how often where wanted.
    Top { k: usize, with_count: bool },
    /// The most frequent one.
    Heavy,
    /// Shannon's, in bits.
    Entropy,
    /// At most so many bins.
    Histogram { bins: usize },
}

#[derive(Debug)]
struct Counts {
    finish: Finish,
    /// The second argument says how often a row counts.
    weighted: bool,
    value_type: DataType,
    converter: RowConverter,
    counts: HashMap<Box<[u8]>, u64>,
    bytes: usize,
}

/// The fields of `(value, count)`.
fn pair(value: &DataType) -> Fields {
    vec![Field::new("1", value.clone(), true), Field::new("2", DataType::UInt64, false)].into()
}

impl Counts {
    fn new(finish: Finish, value_type: DataType) -> Result<Self> {
        let converter = RowConverter::new(vec![SortField::new(value_type.clone())])?;
        Ok(Counts { finish, weighted: false, value_type, converter, counts: HashMap::new(), bytes: 0 })
    }

    fn take(&mut self, rows: &Rows, values: &ArrayRef, n: impl Fn(usize) -> u64) {
        let nulls = values.logical_nulls();
        for row in 0..values.len() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let bytes = rows.row(row);
            match self.counts.get_mut(bytes.as_ref()) {
                Some(count) => *count += n(row),
                None => {
                    self.bytes += bytes.as_ref().len() + ENTRY_BYTES;
                    self.counts.insert(bytes.as_ref().into(), n(row));
                }
            }
        }
    }

    /// Ascending.
    fn sorted(&self) -> Vec<(&[u8], u64)> {
        let mut all: Vec<(&[u8], u64)> = self.counts.iter().map(|(v, n)| (&**v, *n)).collect();
        all.sort_unstable();
        all
    }

    /// The most frequent first.
    fn top(&self, k: usize) -> Vec<(&[u8], u64)> {
        let mut all = self.sorted();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        all.truncate(k);
        all
    }

    fn values(&self, all: &[(&[u8], u64)]) -> Result<ArrayRef> {
        let parser = self.converter.parser();
        let mut columns = self.converter.convert_rows(all.iter().map(|(v, _)| parser.parse(v)))?;
        Ok(columns.pop().expect("one field"))
    }
}

fn one_list(values: ArrayRef) -> ScalarValue {
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ScalarValue::List(Arc::new(ListArray::new(item, offsets, values, None)))
}

fn counts_of(all: &[(&[u8], u64)]) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(all.iter().map(|(_, n)| *n)))
}

impl Accumulator for Counts {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let rows = self.converter.convert_columns(&arrays[..1])?;
        if self.weighted {
            let weights = arrays[1].as_primitive::<UInt64Type>();
            self.take(&rows, &arrays[0], |i| if weights.is_valid(i) { weights.value(i) } else { 0 });
        } else {
            self.take(&rows, &arrays[0], |_| 1);
        }
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(match self.finish {
            Finish::Distinct(most) => {
                let mut all = self.sorted();
                all.truncate(most.unwrap_or(usize::MAX));
                one_list(self.values(&all)?)
            }
            Finish::Top { k, with_count } => {
                let all = self.top(k);
                let values = self.values(&all)?;
                if with_count {
                    let pairs = StructArray::new(pair(&self.value_type), vec![values, counts_of(&all)], None);
                    one_list(Arc::new(pairs))
                } else {
                    one_list(values)
                }
            }
            Finish::Heavy => match self.top(1).as_slice() {
                [] => ScalarValue::try_from(&self.value_type)?,
                all => ScalarValue::try_from_array(&self.values(all)?, 0)?,
            },
            Finish::Entropy => {
                let total = self.counts.values().sum::<u64>() as f64;
                // Ascending, so that rounding is the same whatever came first.
                let share = |n: u64| n as f64 / total;
                let bits: f64 = self.sorted().iter().map(|(_, n)| -share(*n) * share(*n).log2()).sum();
                ScalarValue::Float64((!self.counts.is_empty()).then_some(bits + 0.0))
            }
            Finish::Histogram { bins } => {
                let all = self.sorted();
                let values = self.values(&all)?;
                let points = values.as_primitive::<Float64Type>().values().iter().zip(&all);
                let points: Vec<(f64, f64)> = points.map(|(v, (_, n))| (*v, *n as f64)).collect();
                if let Some((v, _)) = points.iter().find(|(v, _)| !v.is_finite()) {
                    return exec_err!("histogram takes finite numbers, not {v}");
                }
                one_list(Arc::new(bars(&points, bins)))
            }
        })
    }
    fn size(&self) -> usize {
        size_of_val(self) + self.converter.size() + self.bytes
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let all = self.sorted();
        Ok(vec![one_list(self.values(&all)?), one_list(counts_of(&all))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (values, counts) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for row in 0..values.len() {
            if values.is_null(row) {
                continue;
            }
            let (v, n) = (values.value(row), counts.value(row));
            let n = n.as_primitive::<UInt64Type>();
            let rows = self.converter.convert_columns(std::slice::from_ref(&v))?;
            self.take(&rows, &v, |i| n.value(i));
        }
        Ok(())
    }
}

fn state(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let list = |t: DataType| DataType::new_list(t, true);
    vec![
        Arc::new(Field::new(
            format!("{}[values]", args.name),
            list(args.input_fields[0].data_type().clone()),
            true,
        )),
        Arc::new(Field::new(format!("{}[counts]", args.name), list(DataType::UInt64), true)),
    ]
}

fn of(args: &AccumulatorArgs<'_>, finish: Finish) -> Result<Box<dyn Accumulator>> {
    Ok(Box::new(Counts::new(finish, args.exprs[0].data_type(args.schema)?)?))
}

fn list_of_first(given: &[DataType]) -> Result<DataType> {
    Ok(DataType::new_list(given[0].clone(), true))
}

fn k_of(args: &AccumulatorArgs<'_>) -> Result<usize> {
    Ok(number(args, 1, "the k of top_k", K_MAX)?.unwrap_or(K_DEFAULT))
}

/// `top_k(x[, k])`.
pub(super) fn top_k() -> Arc<AggregateUDF> {
    Own::new("top_k", (1, 2), list_of_first, state, |args| {
        of(args, Finish::Top { k: k_of(args)?, with_count: false })
    })
    .aliases(&["top_k_exact"])
    .udaf()
}

/// `top_k(x, k, true)`: the binder writes it so, since the result has another type.
pub(super) fn top_k_with_count() -> Arc<AggregateUDF> {
    let pairs = |given: &[DataType]| Ok(DataType::new_list(DataType::Struct(pair(&given[0])), true));
    Own::new("top_k_with_count", (1, 2), pairs, state, |args| {
        of(args, Finish::Top { k: k_of(args)?, with_count: true })
    })
    .udaf()
}

/// `top_k_weighted(x, weight[, k])`, written `top_k_weighted(k)(x, weight)`.
pub(super) fn top_k_weighted() -> Arc<AggregateUDF> {
    Own::new("top_k_weighted", (2, 3), list_of_first, state, |args| {
        let k = number(args, 2, "the k of top_k_weighted", K_MAX)?.unwrap_or(K_DEFAULT);
        let finish = Finish::Top { k, with_count: false };
        let counts = Counts::new(finish, args.exprs[0].data_type(args.schema)?)?;
        Ok(Box::new(Counts { weighted: true, ..counts }))
    })
    .coerce(|given| {
        if !given[1].is_integer() && given[1] != DataType::Null {
            return plan_err!(
                "illegal type {} of argument 2 of top_k_weighted; it takes an integer",
                given[1]
            );
        }
        let mut taken = vec![given[0].clone(), DataType::UInt64];
        taken.extend(given.get(2).cloned());
        Ok(taken)
    })
    .udaf()
}

/// `any_heavy(x)`.
pub(super) fn any_heavy() -> Arc<AggregateUDF> {
    Own::new("any_heavy", (1, 1), |given| Ok(given[0].clone()), state, |args| of(args, Finish::Heavy)).udaf()
}

/// Neighbours that lie closest become one, at their mean, until so many are left: means and weights, ascending
/// (Ben-Haim and Tom-Tov, JMLR 11, 2010).
fn fused(points: &[(f64, f64)], bins: usize) -> Vec<(f64, f64)> {
    let mut points: Vec<Option<(f64, f64)>> = points.iter().copied().map(Some).collect();
    let n = points.len();
    let mut left: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
    let mut right: Vec<usize> = (1..=n).collect();
    // Distances are not negative: their bits order as they do.
    let distance = |points: &[Option<(f64, f64)>], a: usize, b: usize| match (points.get(a), points.get(b)) {
        (Some(Some((a, _))), Some(Some((b, _)))) => Some((b - a).to_bits()),
        _ => None,
    };
    let mut closest: BinaryHeap<Reverse<(u64, usize, usize)>> =
        (1..n).filter_map(|b| Some(Reverse((distance(&points, b - 1, b)?, b - 1, b)))).collect();
    let mut there = n;
    while there > bins
        && let Some(Reverse((apart, a, b))) = closest.pop()
    {
        // Of what has moved or gone meanwhile there is a newer entry, or none.
        let (true, true, Some((a_mean, a_weight)), Some((b_mean, b_weight))) =
            (right[a] == b, distance(&points, a, b) == Some(apart), points[a], points[b])
        else {
            continue;
        };
        let weight = a_weight + b_weight;
        points[a] = Some((a_mean + b_weight * (b_mean - a_mean) / weight, weight));
        points[b] = None;
        right[a] = right[b];
        if let Some(next) = left.get_mut(right[b]) {
            *next = a;
        }
        there -= 1;
        for (a, b) in [(left[a], a), (a, right[a])] {
            closest.extend(distance(&points, a, b).map(|apart| Reverse((apart, a, b))));
        }
    }
    points.into_iter().flatten().collect()
}

/// Lower bound, upper bound and height of each bin; between the middles of two bins density changes evenly.
fn bars(points: &[(f64, f64)], bins: usize) -> StructArray {
    let (first, last) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(0.0, |p| p.0));
    let fused = fused(points, bins);
    let (mut lower, mut upper, mut height) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (mean, weight)) in fused.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| fused.get(i));
        let after = fused.get(i + 1);
        lower.push(before.map_or(first, |b| f64::midpoint(b.0, *mean)));
        upper.push(after.map_or(last, |a| f64::midpoint(*mean, a.0)));
        let half = |other: Option<&(f64, f64)>| other.map_or(*weight, |o| (o.1 + 3.0 * weight) / 4.0);
        height.push(f64::midpoint(half(before), half(after)));
    }
    let column = |values: Vec<f64>| Arc::new(Float64Array::from(values)) as ArrayRef;
    StructArray::new(bar(), vec![column(lower), column(upper), column(height)], None)
}

/// The fields of `(lower, upper, height)`.
fn bar() -> Fields {
    ["1", "2", "3"].map(|name| Field::new(name, DataType::Float64, false)).to_vec().into()
}

/// `histogram(x, bins)`, written `histogram(bins)(x)`.
pub(super) fn histogram() -> Arc<AggregateUDF> {
    let result = |_: &[DataType]| Ok(DataType::new_list(DataType::Struct(bar()), true));
    Own::new("histogram", (2, 2), result, state, |args| {
        match number(args, 1, "the number of bins", BINS_MAX)? {
            Some(bins) => of(args, Finish::Histogram { bins }),
            None => plan_err!("histogram takes a value and a number of bins, histogram(5)(x)"),
        }
    })
    .coerce(|given| match &given[0] {
        t if t.is_numeric() || *t == DataType::Null => Ok(vec![DataType::Float64, given[1].clone()]),
        other => plan_err!("illegal type {other} of argument 1 of histogram; it takes a number"),
    })
    .udaf()
}

/// `entropy(x)`.
pub(super) fn entropy() -> Arc<AggregateUDF> {
    Own::new("entropy", (1, 1), |_| Ok(DataType::Float64), state, |args| of(args, Finish::Entropy)).udaf()
}

/// `group_uniq_array(x[, most])`.
pub(super) fn group_uniq_array() -> Arc<AggregateUDF> {
    Own::new("group_uniq_array", (1, 2), list_of_first, state, |args| {
        let most = number(args, 1, "the size of group_uniq_array", u64::from(u32::MAX))?;
        of(args, Finish::Distinct(most))
    })
    .udaf()
}

#[cfg(test)]
mod tests {
    use super::fused;

    #[test]
    fn the_closest_neighbours_become_one() {
        // (name, points, bins, expected)
        let cases = [
            ("few enough", vec![(1.0, 2.0), (5.0, 1.0)], 3, vec![(1.0, 2.0), (5.0, 1.0)]),
            ("one pair", vec![(1.0, 2.0), (2.0, 2.0), (9.0, 1.0)], 2, vec![(1.5, 4.0), (9.0, 1.0)]),
            ("weights pull", vec![(0.0, 3.0), (4.0, 1.0), (20.0, 1.0)], 2, vec![(1.0, 4.0), (20.0, 1.0)]),
            (
                "again and again",
                vec![(1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (9.0, 1.0), (11.0, 1.0)],
                2,
                vec![(7.0 / 3.0, 3.0), (10.0, 2.0)],
            ),
            ("all", vec![(1.0, 1.0), (2.0, 1.0), (6.0, 2.0)], 1, vec![(3.75, 4.0)]),
        ];
        for (name, points, bins, expected) in cases {
            assert_eq!(fused(&points, bins), expected, "{name}");
        }
    }
}
