//! Aggregates whose state is a few words of the row.

use super::{Accumulate, Batch, Input, Shape, each, to_output};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Flag, Half, Layout, RowStore};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Decimal128Array, Float64Array, Int64Array, UInt64Array};
use arrow_schema::{ArrowError, DataType};
use std::collections::HashMap;
use std::sync::Arc;
use weir_plan::AggregateKind;

/// 32 bits in the row; what passes them is kept aside, which few groups ever need.
pub(super) struct Count {
    at: Half,
    above: HashMap<u32, u64>,
}

impl Count {
    pub fn new(layout: &mut Layout) -> Self {
        Count { at: layout.half(), above: HashMap::new() }
    }
}

impl Accumulate for Count {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let nulls = input.args.first().and_then(|a| a.logical_nulls());
        each(batch, input.filter.as_ref(), nulls.as_ref(), |group, _| {
            let (more, over) = rows.half(group, self.at).overflowing_add(1);
            rows.set_half(group, self.at, more);
            if over {
                *self.above.entry(group).or_default() += 1;
            }
        });
        Ok(())
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let above = |g: &u32| self.above.get(g).copied().unwrap_or(0) << 32;
        let counts = groups.iter().map(|g| (above(g) | u64::from(rows.half(*g, self.at))) as i64);
        Ok(Arc::new(Int64Array::from_iter_values(counts)))
    }

    fn bytes(&self) -> usize {
        self.above.capacity() * 16
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(self.above.get(&group).copied().unwrap_or(0) << 32 | u64::from(rows.half(group, self.at)));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let more = u64::from(rows.half(group, self.at)).wrapping_add(from.u64()?);
        rows.set_half(group, self.at, more as u32);
        if more >> 32 > 0 {
            *self.above.entry(group).or_default() += more >> 32;
        }
        Ok(())
    }
}

/// Set once a value was taken in, where that is not sure for every group.
#[derive(Clone, Copy)]
struct Seen(Option<Flag>);

impl Seen {
    fn new(shape: &Shape, layout: &mut Layout) -> Self {
        Seen((!shape.always).then(|| layout.flag()))
    }
    #[inline]
    fn set(self, rows: &mut RowStore, group: u32) {
        if let Some(flag) = self.0 {
            rows.set_flag(group, flag);
        }
    }
    fn is_set(self, rows: &RowStore, group: u32) -> bool {
        self.0.is_none_or(|flag| rows.flag(group, flag))
    }
    fn save(self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u8(u8::from(self.is_set(rows, group)));
    }
    fn merge(self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        if from.u8()? != 0 {
            self.set(rows, group);
        }
        Ok(())
    }
}

/// How a type's values lie in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Signed,
    Unsigned,
    Float,
}

/// Sums of integers wrap at 64 bits, as the bounded ones do.
struct Sum {
    at: usize,
    word: Word,
    seen: Seen,
    output: DataType,
}

struct DecimalSum {
    low: usize,
    high: usize,
    seen: Seen,
    output: DataType,
}

pub(super) fn sum(shape: &Shape, layout: &mut Layout) -> Result<Box<dyn Accumulate>, ArrowError> {
    let seen = Seen::new(shape, layout);
    let output = shape.output.data_type().clone();
    Ok(match &output {
        DataType::Int64 => Box::new(Sum { at: layout.word(0), word: Word::Signed, seen, output }),
        DataType::UInt64 => Box::new(Sum { at: layout.word(0), word: Word::Unsigned, seen, output }),
        DataType::Float64 => {
            Box::new(Sum { at: layout.word(0f64.to_bits()), word: Word::Float, seen, output })
        }
        DataType::Decimal128(..) => {
            Box::new(DecimalSum { low: layout.word(0), high: layout.word(0), seen, output })
        }
        other => return Err(ArrowError::NotYetImplemented(format!("sum giving {other} over a stream"))),
    })
}

impl Accumulate for Sum {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let values = to_output(input.args[0].clone(), &self.output)?;
        let filter = input.filter.as_ref();
        let (at, seen) = (self.at, self.seen);
        match self.word {
            Word::Signed => {
                let v = values.as_primitive::<Int64Type>().values();
                each(batch, filter, values.nulls(), |g, row| {
                    let word = rows.word_mut(g, at);
                    *word = word.wrapping_add(v[row] as u64);
                    seen.set(rows, g);
                });
            }
            Word::Unsigned => {
                let v = values.as_primitive::<UInt64Type>().values();
                each(batch, filter, values.nulls(), |g, row| {
                    let word = rows.word_mut(g, at);
                    *word = word.wrapping_add(v[row]);
                    seen.set(rows, g);
                });
            }
            Word::Float => {
                let v = values.as_primitive::<Float64Type>().values();
                each(batch, filter, values.nulls(), |g, row| {
                    let word = rows.word_mut(g, at);
                    *word = (f64::from_bits(*word) + v[row]).to_bits();
                    seen.set(rows, g);
                });
            }
        }
        Ok(())
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.at));
        self.seen.save(rows, group, out);
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let (more, word) = (from.u64()?, rows.word_mut(group, self.at));
        *word = match self.word {
            Word::Signed | Word::Unsigned => word.wrapping_add(more),
            Word::Float => (f64::from_bits(*word) + f64::from_bits(more)).to_bits(),
        };
        self.seen.merge(rows, group, from)
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let words = groups.iter().map(|g| self.seen.is_set(rows, *g).then(|| rows.word(*g, self.at)));
        Ok(match self.word {
            Word::Signed => Arc::new(words.map(|w| w.map(|w| w as i64)).collect::<Int64Array>()),
            Word::Unsigned => Arc::new(words.collect::<UInt64Array>()),
            Word::Float => Arc::new(words.map(|w| w.map(f64::from_bits)).collect::<Float64Array>()),
        })
    }
}

impl Accumulate for DecimalSum {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        // Widening the precision keeps the scale, so the integers are the same.
        let values = input.args[0].as_primitive::<Decimal128Type>();
        each(batch, input.filter.as_ref(), values.nulls(), |g, row| {
            let held = u128::from(rows.word(g, self.low)) | u128::from(rows.word(g, self.high)) << 64;
            let more = held.wrapping_add(values.value(row) as u128);
            *rows.word_mut(g, self.low) = more as u64;
            *rows.word_mut(g, self.high) = (more >> 64) as u64;
            self.seen.set(rows, g);
        });
        Ok(())
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.low));
        out.u64(rows.word(group, self.high));
        self.seen.save(rows, group, out);
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let more = u128::from(from.u64()?) | u128::from(from.u64()?) << 64;
        let held = u128::from(rows.word(group, self.low)) | u128::from(rows.word(group, self.high)) << 64;
        let sum = held.wrapping_add(more);
        *rows.word_mut(group, self.low) = sum as u64;
        *rows.word_mut(group, self.high) = (sum >> 64) as u64;
        self.seen.merge(rows, group, from)
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let value =
            |g: u32| (u128::from(rows.word(g, self.low)) | u128::from(rows.word(g, self.high)) << 64) as i128;
        let sums: Decimal128Array =
            groups.iter().map(|g| self.seen.is_set(rows, *g).then(|| value(*g))).collect();
        Ok(Arc::new(sums.with_data_type(self.output.clone())))
    }
}

pub(super) struct Avg {
    sum: usize,
    count: usize,
}

impl Avg {
    pub fn new(layout: &mut Layout) -> Self {
        Avg { sum: layout.word(0f64.to_bits()), count: layout.word(0) }
    }
}

impl Accumulate for Avg {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let values = to_output(input.args[0].clone(), &DataType::Float64)?;
        let v = values.as_primitive::<Float64Type>().values();
        each(batch, input.filter.as_ref(), values.nulls(), |g, row| {
            let word = rows.word_mut(g, self.sum);
            *word = (f64::from_bits(*word) + v[row]).to_bits();
            *rows.word_mut(g, self.count) += 1;
        });
        Ok(())
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.sum));
        out.u64(rows.word(group, self.count));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let word = rows.word_mut(group, self.sum);
        *word = (f64::from_bits(*word) + f64::from_bits(from.u64()?)).to_bits();
        *rows.word_mut(group, self.count) += from.u64()?;
        Ok(())
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let means: Float64Array = groups
            .iter()
            .map(|g| match rows.word(*g, self.count) {
                0 => None,
                n => Some(f64::from_bits(rows.word(*g, self.sum)) / n as f64),
            })
            .collect();
        Ok(Arc::new(means))
    }
}

/// Least or greatest of values that fit a word, kept in a form whose unsigned order is theirs.
pub(super) struct Extreme {
    at: usize,
    word: Word,
    least: bool,
    seen: Seen,
    output: DataType,
}

const SIGN: u64 = 1 << 63;

/// Total order: −NaN < −∞ < … < ∞ < NaN.
fn ordered(f: f64) -> u64 {
    let bits = f.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn disordered(word: u64) -> f64 {
    f64::from_bits(if word & SIGN == 0 { !word } else { word & !SIGN })
}

impl Extreme {
    /// `None` for types that do not fit.
    pub fn new(shape: &Shape, layout: &mut Layout) -> Option<Self> {
        let word = match shape.args.first()? {
            t if t.is_unsigned_integer() => Word::Unsigned,
            t if t.is_signed_integer() => Word::Signed,
            DataType::Date32 | DataType::Timestamp(..) => Word::Signed,
            DataType::Float32 | DataType::Float64 => Word::Float,
            _ => return None,
        };
        let least = shape.kind == AggregateKind::Min;
        Some(Extreme {
            at: layout.word(if least { u64::MAX } else { 0 }),
            word,
            least,
            seen: Seen::new(shape, layout),
            output: shape.output.data_type().clone(),
        })
    }

    #[inline]
    fn take(&self, rows: &mut RowStore, group: u32, value: u64) {
        let word = rows.word_mut(group, self.at);
        *word = if self.least { (*word).min(value) } else { (*word).max(value) };
        self.seen.set(rows, group);
    }
}

/// Integers and times as int64.
fn as_i64(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Date32 => {
            arrow::compute::cast(&arrow::compute::cast(array, &DataType::Int32)?, &DataType::Int64)
        }
        _ => to_output(array.clone(), &DataType::Int64),
    }
}

fn from_i64(array: ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match to {
        DataType::Date32 => {
            arrow::compute::cast(&arrow::compute::cast(&array, &DataType::Int32)?, &DataType::Date32)
        }
        _ => to_output(array, to),
    }
}

impl Accumulate for Extreme {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let array = &input.args[0];
        let (filter, nulls) = (input.filter.as_ref(), array.nulls());
        match self.word {
            Word::Signed => {
                let wide = as_i64(array)?;
                let v = wide.as_primitive::<Int64Type>().values();
                each(batch, filter, nulls, |g, row| self.take(rows, g, v[row] as u64 ^ SIGN));
            }
            Word::Unsigned => {
                let wide = to_output(array.clone(), &DataType::UInt64)?;
                let v = wide.as_primitive::<UInt64Type>().values();
                each(batch, filter, nulls, |g, row| self.take(rows, g, v[row]));
            }
            Word::Float => {
                let wide = to_output(array.clone(), &DataType::Float64)?;
                let v = wide.as_primitive::<Float64Type>().values();
                each(batch, filter, nulls, |g, row| self.take(rows, g, ordered(v[row])));
            }
        }
        Ok(())
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.at));
        self.seen.save(rows, group, out);
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let (other, word) = (from.u64()?, rows.word_mut(group, self.at));
        *word = if self.least { (*word).min(other) } else { (*word).max(other) };
        self.seen.merge(rows, group, from)
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let words = groups.iter().map(|g| self.seen.is_set(rows, *g).then(|| rows.word(*g, self.at)));
        match self.word {
            Word::Signed => {
                let wide: Int64Array = words.map(|w| w.map(|w| (w ^ SIGN) as i64)).collect();
                from_i64(Arc::new(wide), &self.output)
            }
            Word::Unsigned => to_output(Arc::new(words.collect::<UInt64Array>()), &self.output),
            Word::Float => {
                to_output(Arc::new(words.map(|w| w.map(disordered)).collect::<Float64Array>()), &self.output)
            }
        }
    }
}

/// Welford's method (Technometrics 4, 1962): count, mean, sum of squared deviations.
pub(super) struct Variance {
    kind: AggregateKind,
    count: usize,
    mean: usize,
    m2: usize,
}

impl Variance {
    pub fn new(kind: AggregateKind, layout: &mut Layout) -> Self {
        Variance { kind, count: layout.word(0), mean: layout.word(0), m2: layout.word(0) }
    }
}

impl Accumulate for Variance {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let values = to_output(input.args[0].clone(), &DataType::Float64)?;
        let v = values.as_primitive::<Float64Type>().values();
        each(batch, input.filter.as_ref(), values.nulls(), |g, row| {
            let n = rows.word(g, self.count) + 1;
            let mean = f64::from_bits(rows.word(g, self.mean));
            let delta = v[row] - mean;
            let mean = mean + delta / n as f64;
            let m2 = f64::from_bits(rows.word(g, self.m2)) + delta * (v[row] - mean);
            *rows.word_mut(g, self.count) = n;
            *rows.word_mut(g, self.mean) = mean.to_bits();
            *rows.word_mut(g, self.m2) = m2.to_bits();
        });
        Ok(())
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.count));
        out.u64(rows.word(group, self.mean));
        out.u64(rows.word(group, self.m2));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let other = (from.u64()?, f64::from_bits(from.u64()?), f64::from_bits(from.u64()?));
        let float = |at| f64::from_bits(rows.word(group, at));
        let held = (rows.word(group, self.count), float(self.mean), float(self.m2));
        let (n, mean, m2) = match (held.0, other.0) {
            (0, _) => other,
            (_, 0) => held,
            // Chan, Golub, LeVeque (1979).
            (a, b) => {
                let (n, delta) = (a + b, other.1 - held.1);
                let share = b as f64 / n as f64;
                (n, held.1 + delta * share, held.2 + other.2 + delta * delta * a as f64 * share)
            }
        };
        *rows.word_mut(group, self.count) = n;
        *rows.word_mut(group, self.mean) = mean.to_bits();
        *rows.word_mut(group, self.m2) = m2.to_bits();
        Ok(())
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        use AggregateKind as K;
        let sample = matches!(self.kind, K::VarSamp | K::StddevSamp);
        let root = matches!(self.kind, K::StddevPop | K::StddevSamp);
        let all: Float64Array = groups
            .iter()
            .map(|g| {
                let n = rows.word(*g, self.count).checked_sub(u64::from(sample)).filter(|n| *n > 0)?;
                let variance = f64::from_bits(rows.word(*g, self.m2)) / n as f64;
                Some(if root { variance.sqrt() } else { variance })
            })
            .collect();
        Ok(Arc::new(all))
    }
}

struct Bits {
    kind: AggregateKind,
    at: usize,
    seen: Seen,
    output: DataType,
}

pub(super) fn bits(shape: &Shape, layout: &mut Layout) -> Result<Box<dyn Accumulate>, ArrowError> {
    let output = shape.output.data_type().clone();
    if !output.is_integer() {
        return Err(ArrowError::NotYetImplemented(format!("bitwise aggregates of {output} over a stream")));
    }
    let at = layout.word(if shape.kind == AggregateKind::BitAnd { u64::MAX } else { 0 });
    Ok(Box::new(Bits { kind: shape.kind.clone(), at, seen: Seen::new(shape, layout), output }))
}

impl Accumulate for Bits {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let array = &input.args[0];
        let words: Vec<u64> = if array.data_type().is_unsigned_integer() {
            to_output(array.clone(), &DataType::UInt64)?.as_primitive::<UInt64Type>().values().to_vec()
        } else {
            let wide = to_output(array.clone(), &DataType::Int64)?;
            wide.as_primitive::<Int64Type>().values().iter().map(|v| *v as u64).collect()
        };
        each(batch, input.filter.as_ref(), array.nulls(), |g, row| {
            let word = rows.word_mut(g, self.at);
            match self.kind {
                AggregateKind::BitAnd => *word &= words[row],
                AggregateKind::BitOr => *word |= words[row],
                _ => *word ^= words[row],
            }
            self.seen.set(rows, g);
        });
        Ok(())
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.at));
        self.seen.save(rows, group, out);
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let (other, word) = (from.u64()?, rows.word_mut(group, self.at));
        match self.kind {
            AggregateKind::BitAnd => *word &= other,
            AggregateKind::BitOr => *word |= other,
            _ => *word ^= other,
        }
        self.seen.merge(rows, group, from)
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let words = groups.iter().map(|g| self.seen.is_set(rows, *g).then(|| rows.word(*g, self.at)));
        if self.output.is_unsigned_integer() {
            to_output(Arc::new(words.collect::<UInt64Array>()), &self.output)
        } else {
            to_output(Arc::new(words.map(|w| w.map(|w| w as i64)).collect::<Int64Array>()), &self.output)
        }
    }
}
