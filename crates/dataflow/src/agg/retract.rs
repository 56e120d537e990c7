//! Aggregates of a changelog: states from which a row can be taken back.
//!
//! Each counts its values, so that it knows when none is left. Sums of floats keep twice the digits
//! (Dekker 1971, Knuth 4.2.2): what a great value pushed out is there again when it is taken back.
//! What is no finite number is counted apart.
//!
//! Not here: aggregates that must know every value (`multiset`), rows that only come (`fixed`).

use super::multiset::{Bins, Multiset};
use super::{Accumulate, Batch, Input, Shape, to_output};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Layout, RowStore};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, UInt64Array};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType};
use std::collections::HashMap;
use std::sync::Arc;
use weir_plan::AggregateKind;

/// A row error: code 36 for the client.
pub(crate) fn not_there() -> ArrowError {
    ArrowError::ComputeError(
        "a changelog takes back a row that is not there; read it from its beginning (SETTINGS \
         seek_to='earliest'), and insert a row before the one with _tp_delta -1 that takes it back"
            .into(),
    )
}

/// The accumulator of a changelog.
pub(super) fn accumulator(shape: &Shape, layout: &mut Layout) -> Result<Box<dyn Accumulate>, ArrowError> {
    use AggregateKind as K;
    let output = shape.output.data_type().clone();
    Ok(match &shape.kind {
        K::Count => Box::new(Count { n: layout.word(0) }),
        K::Sum => match &output {
            DataType::Int64 | DataType::UInt64 => {
                Box::new(Sum { n: layout.word(0), at: layout.word(0), output })
            }
            DataType::Decimal128(..) => {
                Box::new(DecimalSum { n: layout.word(0), low: layout.word(0), high: layout.word(0), output })
            }
            DataType::Float64 => Box::new(Moments::new(shape.kind.clone(), layout)),
            other => {
                return Err(ArrowError::NotYetImplemented(format!("sum giving {other} over a changelog")));
            }
        },
        K::Avg | K::VarPop | K::VarSamp | K::StddevPop | K::StddevSamp => {
            Box::new(Moments::new(shape.kind.clone(), layout))
        }
        K::BitXor if output.is_integer() => Box::new(Xor { n: layout.word(0), at: layout.word(0), output }),
        K::Quantile { level } => Box::new(Bins::new(*level)),
        K::Min
        | K::Max
        | K::First { .. }
        | K::Last { .. }
        | K::ArgMin
        | K::ArgMax
        | K::UniqExact
        | K::GroupArray { .. }
        | K::GroupUniqArray => Box::new(Multiset::new(shape)?),
        other => {
            return Err(ArrowError::NotYetImplemented(format!(
                "{other:?} can not take rows back and is not supported over a changelog"
            )));
        }
    })
}

/// Calls `f(group, row, weight)` for every row that the filter keeps and whose value is not
/// null.
pub(super) fn each_weighted(
    batch: &Batch<'_>,
    filter: Option<&BooleanArray>,
    nulls: Option<&NullBuffer>,
    mut f: impl FnMut(u32, usize, i64) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    for (row, group) in batch.groups.iter().enumerate() {
        let kept = filter.is_none_or(|k| k.is_valid(row) && k.value(row));
        let weight = batch.weights.map_or(1, |w| w[row]);
        if kept && weight != 0 && nulls.is_none_or(|n| n.is_valid(row)) {
            f(*group, row, weight)?;
        }
    }
    Ok(())
}

/// Adds a weight to a word that counts; what is left.
#[inline]
pub(crate) fn count(rows: &mut RowStore, group: u32, at: usize, weight: i64) -> Result<i64, ArrowError> {
    let word = rows.word_mut(group, at);
    let left = (*word as i64)
        .checked_add(weight)
        .ok_or_else(|| ArrowError::ComputeError("more than 2^63 rows in one group".into()))?;
    if left < 0 {
        return Err(not_there());
    }
    *word = left as u64;
    Ok(left)
}

struct Count {
    n: usize,
}

impl Accumulate for Count {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let nulls = input.args.first().and_then(|a| a.logical_nulls());
        each_weighted(batch, input.filter.as_ref(), nulls.as_ref(), |g, _, weight| {
            count(rows, g, self.n, weight).map(drop)
        })
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let counts = groups.iter().map(|g| rows.word(*g, self.n) as i64);
        Ok(Arc::new(Int64Array::from_iter_values(counts)))
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        [self.n].iter().for_each(|at| out.u64(rows.word(group, *at)));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let n = rows.word_mut(group, self.n);
        *n = n.wrapping_add(from.u64()?);
        Ok(())
    }
}

/// Of integers; wraps at 64 bits, as the bounded one does.
struct Sum {
    n: usize,
    at: usize,
    output: DataType,
}

/// Integers as words, of which two's complement makes sums the same.
fn words(array: &ArrayRef, output: &DataType) -> Result<Vec<u64>, ArrowError> {
    let wide = to_output(array.clone(), output)?;
    Ok(match output {
        DataType::UInt64 => wide.as_primitive::<UInt64Type>().values().to_vec(),
        _ => wide.as_primitive::<Int64Type>().values().iter().map(|v| *v as u64).collect(),
    })
}

fn from_words(words: impl Iterator<Item = Option<u64>>, output: &DataType) -> Result<ArrayRef, ArrowError> {
    if output.is_unsigned_integer() {
        to_output(Arc::new(words.collect::<UInt64Array>()), output)
    } else {
        to_output(Arc::new(words.map(|w| w.map(|w| w as i64)).collect::<Int64Array>()), output)
    }
}

fn wide(t: &DataType) -> DataType {
    if t.is_unsigned_integer() { DataType::UInt64 } else { DataType::Int64 }
}

impl Accumulate for Sum {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let values = words(&input.args[0], &self.output)?;
        let nulls = input.args[0].logical_nulls();
        each_weighted(batch, input.filter.as_ref(), nulls.as_ref(), |g, row, weight| {
            count(rows, g, self.n, weight)?;
            let word = rows.word_mut(g, self.at);
            *word = word.wrapping_add(values[row].wrapping_mul(weight as u64));
            Ok(())
        })
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let all = groups.iter().map(|g| (rows.word(*g, self.n) > 0).then(|| rows.word(*g, self.at)));
        from_words(all, &self.output)
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        [self.n, self.at].iter().for_each(|at| out.u64(rows.word(group, *at)));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        for at in [self.n, self.at] {
            let word = rows.word_mut(group, at);
            *word = word.wrapping_add(from.u64()?);
        }
        Ok(())
    }
}

struct DecimalSum {
    n: usize,
    low: usize,
    high: usize,
    output: DataType,
}

impl DecimalSum {
    fn add(&self, rows: &mut RowStore, group: u32, more: u128) {
        let held = u128::from(rows.word(group, self.low)) | u128::from(rows.word(group, self.high)) << 64;
        let sum = held.wrapping_add(more);
        *rows.word_mut(group, self.low) = sum as u64;
        *rows.word_mut(group, self.high) = (sum >> 64) as u64;
    }
}

impl Accumulate for DecimalSum {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        // Widening the precision keeps the scale, so the integers are the same.
        let values = input.args[0].as_primitive::<Decimal128Type>();
        each_weighted(batch, input.filter.as_ref(), values.nulls(), |g, row, weight| {
            count(rows, g, self.n, weight)?;
            self.add(rows, g, values.value(row).wrapping_mul(i128::from(weight)) as u128);
            Ok(())
        })
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let value =
            |g: u32| (u128::from(rows.word(g, self.low)) | u128::from(rows.word(g, self.high)) << 64) as i128;
        let sums: Decimal128Array =
            groups.iter().map(|g| (rows.word(*g, self.n) > 0).then(|| value(*g))).collect();
        Ok(Arc::new(sums.with_data_type(self.output.clone())))
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        [self.n, self.low, self.high].iter().for_each(|at| out.u64(rows.word(group, *at)));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let n = rows.word_mut(group, self.n);
        *n = n.wrapping_add(from.u64()?);
        let more = u128::from(from.u64()?) | u128::from(from.u64()?) << 64;
        self.add(rows, group, more);
        Ok(())
    }
}

/// What occurs an even number of times is not seen.
struct Xor {
    n: usize,
    at: usize,
    output: DataType,
}

impl Accumulate for Xor {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let values = words(&input.args[0], &wide(&self.output))?;
        let nulls = input.args[0].logical_nulls();
        each_weighted(batch, input.filter.as_ref(), nulls.as_ref(), |g, row, weight| {
            count(rows, g, self.n, weight)?;
            if weight % 2 != 0 {
                *rows.word_mut(g, self.at) ^= values[row];
            }
            Ok(())
        })
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let all = groups.iter().map(|g| (rows.word(*g, self.n) > 0).then(|| rows.word(*g, self.at)));
        from_words(all, &self.output)
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        [self.n, self.at].iter().for_each(|at| out.u64(rows.word(group, *at)));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let n = rows.word_mut(group, self.n);
        *n = n.wrapping_add(from.u64()?);
        *rows.word_mut(group, self.at) ^= from.u64()?;
        Ok(())
    }
}

/// A number as the sum of two floats, the second below the first's last digit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Twofold(f64, f64);

impl Twofold {
    fn sum(a: f64, b: f64) -> Self {
        let s = a + b;
        let part = s - a;
        Twofold(s, (a - (s - part)) + (b - part))
    }
    fn product(a: f64, b: f64) -> Self {
        let p = a * b;
        Twofold(p, a.mul_add(b, -p))
    }
    fn add(self, more: Twofold) -> Self {
        let high = Self::sum(self.0, more.0);
        let low = Self::sum(self.1, more.1);
        let first = Self::sum(high.0, high.1 + low.0);
        Self::sum(first.0, first.1 + low.1)
    }
    fn times(self, by: Twofold) -> Self {
        let p = Self::product(self.0, by.0);
        Self::sum(p.0, p.1 + self.0 * by.1 + self.1 * by.0)
    }
    fn over(self, by: f64) -> Self {
        let first = self.0 / by;
        let left = self.add(Self::product(first, -by));
        Self::sum(first, left.0 / by)
    }
    fn value(self) -> f64 {
        self.0 + self.1
    }
}

/// Sum, mean, variance of floats: number, sum and sum of squares.
struct Moments {
    kind: AggregateKind,
    n: usize,
    sum: (usize, usize),
    squares: Option<(usize, usize)>,
    /// NaN, ∞, −∞ of groups that have any.
    others: HashMap<u32, [i64; 3]>,
}

impl Moments {
    fn new(kind: AggregateKind, layout: &mut Layout) -> Self {
        use AggregateKind as K;
        let mut two = || (layout.word(0f64.to_bits()), layout.word(0f64.to_bits()));
        let sum = two();
        let squares = (!matches!(kind, K::Sum | K::Avg)).then(&mut two);
        Moments { kind, n: layout.word(0), sum, squares, others: HashMap::new() }
    }

    fn result(&self, rows: &RowStore, group: u32) -> Option<f64> {
        use AggregateKind as K;
        let n = match rows.word(group, self.n) {
            0 => return None,
            n => n as f64,
        };
        let sum = load(rows, group, self.sum);
        match (&self.kind, self.others.get(&group)) {
            (K::Sum | K::Avg, Some([0, _, 0])) => Some(f64::INFINITY),
            (K::Sum | K::Avg, Some([0, 0, _])) => Some(f64::NEG_INFINITY),
            (K::VarSamp | K::StddevSamp, _) if n == 1.0 => None,
            (_, Some(_)) => Some(f64::NAN),
            (K::Sum, None) => Some(sum.value()),
            (K::Avg, None) => Some(sum.over(n).value()),
            (kind, None) => {
                let squares = load(rows, group, self.squares.expect("kept for this kind"));
                let mean = sum.over(n);
                let shifted = mean.times(sum);
                let around = squares.add(Twofold(-shifted.0, -shifted.1)).value().max(0.0);
                let sample = matches!(kind, K::VarSamp | K::StddevSamp);
                let variance = around / (n - f64::from(u8::from(sample)));
                let root = matches!(kind, K::StddevPop | K::StddevSamp);
                Some(if root { variance.sqrt() } else { variance })
            }
        }
    }
}

fn load(rows: &RowStore, group: u32, at: (usize, usize)) -> Twofold {
    Twofold(f64::from_bits(rows.word(group, at.0)), f64::from_bits(rows.word(group, at.1)))
}

fn store(rows: &mut RowStore, group: u32, at: (usize, usize), to: Twofold) {
    *rows.word_mut(group, at.0) = to.0.to_bits();
    *rows.word_mut(group, at.1) = to.1.to_bits();
}

impl Accumulate for Moments {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let values = to_output(input.args[0].clone(), &DataType::Float64)?;
        let v = values.as_primitive::<Float64Type>().values();
        each_weighted(batch, input.filter.as_ref(), values.nulls(), |g, row, weight| {
            let left = count(rows, g, self.n, weight)?;
            let value = v[row];
            if !value.is_finite() {
                let which = if value.is_nan() { 0 } else { 1 + usize::from(value < 0.0) };
                let counts = self.others.entry(g).or_default();
                counts[which] += weight;
                if counts[which] < 0 {
                    return Err(not_there());
                }
                if *counts == [0; 3] {
                    self.others.remove(&g);
                }
                return Ok(());
            }
            let times = weight as f64;
            let none = Twofold(0.0, 0.0);
            let sum =
                if left == 0 { none } else { load(rows, g, self.sum).add(Twofold::product(value, times)) };
            store(rows, g, self.sum, sum);
            if let Some(at) = self.squares {
                let square = Twofold::product(value, value).times(Twofold(times, 0.0));
                store(rows, g, at, if left == 0 { none } else { load(rows, g, at).add(square) });
            }
            Ok(())
        })
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let all: Float64Array = groups.iter().map(|g| self.result(rows, *g)).collect();
        Ok(Arc::new(all))
    }

    fn bytes(&self) -> usize {
        self.others.capacity() * 32
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.n));
        for at in std::iter::once(self.sum).chain(self.squares) {
            let held = load(rows, group, at);
            out.u64(held.0.to_bits());
            out.u64(held.1.to_bits());
        }
        let others = self.others.get(&group);
        out.u8(u8::from(others.is_some()));
        others.into_iter().flatten().for_each(|n| out.i64(*n));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let n = rows.word_mut(group, self.n);
        *n = n.wrapping_add(from.u64()?);
        for at in std::iter::once(self.sum).chain(self.squares) {
            let more = Twofold(f64::from_bits(from.u64()?), f64::from_bits(from.u64()?));
            store(rows, group, at, load(rows, group, at).add(more));
        }
        if from.u8()? != 0 {
            for n in self.others.entry(group).or_default() {
                *n = n.wrapping_add(from.i64()?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_great_value_pushed_out_is_there_again() {
        let sum = |all: &[f64]| {
            let mut held = Twofold(0.0, 0.0);
            all.iter().for_each(|v| held = held.add(Twofold(*v, 0.0)));
            held.value()
        };
        assert_eq!(sum(&[1.5, 1e20, 0.25, -1e20]), 1.75);
        assert_eq!(sum(&[0.1, 0.2, 0.3, -0.1, -0.2, -0.3]), 0.0);
        assert_eq!(Twofold(10.0, 0.0).over(4.0).value(), 2.5);
        let third = Twofold(1.0, 0.0).over(3.0);
        assert_eq!(third.times(Twofold(3.0, 0.0)).value(), 1.0);
    }
}
