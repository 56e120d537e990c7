//! Quantiles: each group's bins in a slot of a size-classed slab, then as a histogram.
//!
//! ```text
//! row: 32 bits, class and slot -> slab of that class: count, then bins as they came
//!                              -> beyond 127 values a histogram of the bins that occur
//! ```
//! A slot that has become too small is used again by another group.

use super::sketch::{bin, value};
use super::{Accumulate, Batch, Input, each, to_output};
use crate::state::block::{Block, HUGE_BYTES, prefetch};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Half, Layout, RowStore};
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, Float64Array};
use arrow_schema::{ArrowError, DataType};
use std::sync::Arc;

/// Slots of the classes hold so many 16-bit numbers, the first of which is the count.
const CLASSES: [usize; 6] = [4, 8, 16, 32, 64, 128];
const HISTOGRAM: usize = CLASSES.len();
/// Bits of a handle that say the slot.
const SLOT_BITS: u32 = 29;
/// Numbers of one segment of a slab.
const SEGMENT: usize = HUGE_BYTES / 2;
/// Slots of a first segment at first.
const FIRST_SLOTS: usize = 8;
/// A histogram keeps so many bins; what is less than the least of them counts as it.
const BINS_MAX: usize = 4_096;
/// Instead of a number of bins: a histogram follows.
const SAVED_HISTOGRAM: u8 = u8::MAX;

#[derive(Debug)]
struct Slab {
    /// Numbers of a slot, as a power of two.
    shift: u32,
    segments: Vec<Block<u16>>,
    slots: usize,
    free: Vec<u32>,
}

impl Slab {
    fn new(size: usize) -> Self {
        Slab { shift: size.trailing_zeros(), segments: Vec::new(), slots: 0, free: Vec::new() }
    }

    fn size(&self) -> usize {
        1 << self.shift
    }

    /// Segment and place in it.
    #[inline]
    fn place(&self, slot: u32) -> (usize, usize) {
        let at = (slot as usize) << self.shift;
        (at / SEGMENT, at % SEGMENT)
    }

    fn take(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let (segment, at) = self.place(self.slots as u32);
        match self.segments.get_mut(segment) {
            Some(held) if at == held.len() => held.grow(2 * at),
            Some(_) => {}
            None if segment == 0 => self.segments.push(Block::zeroed(FIRST_SLOTS << self.shift)),
            None => self.segments.push(Block::zeroed(SEGMENT)),
        }
        self.slots += 1;
        (self.slots - 1) as u32
    }

    #[inline]
    fn slot(&self, slot: u32) -> &[u16] {
        let (segment, at) = self.place(slot);
        &self.segments[segment][at..at + self.size()]
    }

    #[inline]
    fn slot_mut(&mut self, slot: u32) -> &mut [u16] {
        let ((segment, at), size) = (self.place(slot), self.size());
        &mut self.segments[segment][at..at + size]
    }

    fn bytes(&self) -> usize {
        self.segments.iter().map(Block::bytes).sum::<usize>() + self.free.capacity() * 4
    }
}

/// Bins that occur, ascending, and how often. Sparse, since values of both signs have all small
/// magnitudes between them.
#[derive(Debug, Default, Clone)]
struct Histogram {
    bins: Vec<u16>,
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    fn add(&mut self, bin: u16, times: u64) {
        self.total += times;
        match self.bins.binary_search(&bin) {
            Ok(at) => self.counts[at] += times,
            // The low end gives way: what is asked for is mostly the high one.
            Err(0) if self.bins.len() == BINS_MAX => self.counts[0] += times,
            Err(at) => {
                self.bins.insert(at, bin);
                self.counts.insert(at, times);
                if self.bins.len() > BINS_MAX {
                    self.bins.remove(0);
                    let lost = self.counts.remove(0);
                    self.counts[0] += lost;
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Histogram>() + self.bins.capacity() * 2 + self.counts.capacity() * 8
    }

    fn quantile(&self, level: f64) -> Option<f64> {
        let rank = rank(level, self.total)?;
        let mut passed = 0;
        for (bin, n) in self.bins.iter().zip(&self.counts) {
            passed += n;
            if passed > rank {
                return Some(value(*bin));
            }
        }
        None
    }
}

/// Of `n` sorted values the one that counts.
pub(super) fn rank(level: f64, n: u64) -> Option<u64> {
    let last = n.checked_sub(1)?;
    Some(((level.clamp(0.0, 1.0) * last as f64).floor() as u64).min(last))
}

pub(super) struct Quantile {
    level: f64,
    /// Handle + 1; 0 = no value yet.
    at: Half,
    slabs: [Slab; HISTOGRAM],
    histograms: Vec<Histogram>,
    histogram_bytes: usize,
    /// Of a batch: the bin of each group's row, once its slot has been asked for.
    asked: Vec<(u32, u16)>,
}

impl Quantile {
    pub fn new(level: f64, layout: &mut Layout) -> Self {
        Quantile {
            level,
            at: layout.half(),
            slabs: CLASSES.map(Slab::new),
            histograms: Vec::new(),
            histogram_bytes: 0,
            asked: Vec::new(),
        }
    }

    fn prefetch(&self, rows: &RowStore, group: u32) {
        let Some(held) = rows.half(group, self.at).checked_sub(1) else { return };
        let (class, slot) = ((held >> SLOT_BITS) as usize, held & ((1 << SLOT_BITS) - 1));
        if class < HISTOGRAM {
            prefetch(&self.slabs[class].slot(slot)[0]);
        }
    }

    /// Adds a bin many times.
    fn add_times(&mut self, rows: &mut RowStore, group: u32, bin: u16, times: u64) {
        let histogram = self.histogram_of(rows, group);
        let before = histogram.bytes();
        histogram.add(bin, times);
        let more = histogram.bytes() - before;
        self.histogram_bytes += more;
    }

    fn histogram_of(&mut self, rows: &mut RowStore, group: u32) -> &mut Histogram {
        let held = rows.half(group, self.at).checked_sub(1);
        let place = held.map(|held| ((held >> SLOT_BITS) as usize, held & ((1 << SLOT_BITS) - 1)));
        if let Some((HISTOGRAM, slot)) = place {
            return &mut self.histograms[slot as usize];
        }
        let mut histogram = Histogram::default();
        if let Some((class, slot)) = place {
            let bins = self.slabs[class].slot(slot);
            bins[1..1 + bins[0] as usize].iter().for_each(|b| histogram.add(*b, 1));
            self.slabs[class].free.push(slot);
        }
        self.histogram_bytes += histogram.bytes();
        self.histograms.push(histogram);
        let slot = self.histograms.len() as u32 - 1;
        rows.set_half(group, self.at, ((HISTOGRAM as u32) << SLOT_BITS | slot) + 1);
        &mut self.histograms[slot as usize]
    }

    fn add(&mut self, rows: &mut RowStore, group: u32, bin: u16) {
        let handle = rows.half(group, self.at);
        let Some(held) = handle.checked_sub(1) else {
            let slot = self.slabs[0].take();
            self.slabs[0].slot_mut(slot)[..2].copy_from_slice(&[1, bin]);
            rows.set_half(group, self.at, slot + 1);
            return;
        };
        let (class, slot) = ((held >> SLOT_BITS) as usize, held & ((1 << SLOT_BITS) - 1));
        if class == HISTOGRAM {
            let histogram = &mut self.histograms[slot as usize];
            let before = histogram.bytes();
            histogram.add(bin, 1);
            self.histogram_bytes += histogram.bytes() - before;
            return;
        }
        let place = self.slabs[class].slot_mut(slot);
        let n = place[0] as usize;
        if n + 1 < place.len() {
            place[n + 1] = bin;
            place[0] += 1;
            return;
        }
        if class + 1 == HISTOGRAM {
            return self.add_times(rows, group, bin, 1);
        }
        let larger = self.slabs[class + 1].take();
        let (small, large) = self.slabs.split_at_mut(class + 1);
        let (from, to) = (small[class].slot(slot), large[0].slot_mut(larger));
        to[..from.len()].copy_from_slice(from);
        to[n + 1] = bin;
        to[0] += 1;
        self.slabs[class].free.push(slot);
        rows.set_half(group, self.at, (((class + 1) as u32) << SLOT_BITS | larger) + 1);
    }

    fn quantile(&self, rows: &RowStore, group: u32, sorted: &mut Vec<u16>) -> Option<f64> {
        let held = rows.half(group, self.at).checked_sub(1)?;
        let (class, slot) = ((held >> SLOT_BITS) as usize, held & ((1 << SLOT_BITS) - 1));
        if class == HISTOGRAM {
            return self.histograms[slot as usize].quantile(self.level);
        }
        let place = self.slabs[class].slot(slot);
        sorted.clear();
        sorted.extend_from_slice(&place[1..1 + place[0] as usize]);
        sorted.sort_unstable();
        rank(self.level, sorted.len() as u64).map(|r| value(sorted[r as usize]))
    }
}

impl Accumulate for Quantile {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        let values = to_output(input.args[0].clone(), &DataType::Float64)?;
        let v = values.as_primitive::<Float64Type>().values();
        let mut asked = std::mem::take(&mut self.asked);
        each(batch, input.filter.as_ref(), values.nulls(), |g, row| {
            // What is no number has no rank.
            if !v[row].is_nan() {
                self.prefetch(rows, g);
                asked.push((g, bin(v[row])));
            }
        });
        asked.drain(..).for_each(|(group, bin)| self.add(rows, group, bin));
        self.asked = asked;
        Ok(())
    }

    fn evaluate(&self, rows: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let mut sorted = Vec::new();
        let all: Float64Array = groups.iter().map(|g| self.quantile(rows, *g, &mut sorted)).collect();
        Ok(Arc::new(all))
    }

    fn bytes(&self) -> usize {
        self.slabs.iter().map(Slab::bytes).sum::<usize>() + self.histogram_bytes
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        let Some(held) = rows.half(group, self.at).checked_sub(1) else { return out.u8(0) };
        let (class, slot) = ((held >> SLOT_BITS) as usize, held & ((1 << SLOT_BITS) - 1));
        if class == HISTOGRAM {
            let h = &self.histograms[slot as usize];
            out.u8(SAVED_HISTOGRAM);
            out.u64(h.bins.len() as u64);
            for (bin, n) in h.bins.iter().zip(&h.counts) {
                out.u16(*bin);
                out.u64(*n);
            }
            return;
        }
        let bins = self.slabs[class].slot(slot);
        out.u8(bins[0] as u8);
        bins[1..1 + bins[0] as usize].iter().for_each(|b| out.u16(*b));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        match from.u8()? {
            SAVED_HISTOGRAM => {
                for _ in 0..from.count(10)? {
                    let (bin, times) = (from.u16()?, from.u64()?);
                    self.add_times(rows, group, bin, times);
                }
            }
            n => {
                for _ in 0..n {
                    let bin = from.u16()?;
                    self.add(rows, group, bin);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::Rng;

    #[test]
    fn quantiles_of_few_and_many_values_are_within_one_percent() {
        let rng = Rng::seeded(5);
        for level in [0.0, 0.5, 0.9, 0.99, 1.0] {
            let mut layout = Layout::default();
            let mut q = Quantile::new(level, &mut layout);
            let mut rows = RowStore::new(&layout);
            let mut model: Vec<Vec<f64>> = vec![Vec::new(); 40];
            (0..40).for_each(|_| {
                rows.push();
            });
            for _ in 0..30_000 {
                // Group g gets about g² values, negative ones among them.
                let group = (rng.f64().sqrt() * 40.0) as u32;
                let v = (rng.f64() - 0.3) * 10f64.powf(rng.f64() * 6.0 - 2.0);
                if group > 0 || rng.below(50) == 0 {
                    q.add(&mut rows, group, bin(v));
                    model[group as usize].push(v);
                }
            }
            // Into an empty one as it was; twice is every value twice.
            let mut again = Quantile::new(level, &mut Layout::default());
            let mut other = RowStore::new(&layout);
            for group in 0..40 {
                let mut saved = Writer::default();
                q.save(&rows, group, &mut saved);
                other.push();
                again.merge(&mut other, group, &mut Reader(&saved.0)).unwrap();
                let mut twice = Writer::default();
                again.save(&other, group, &mut twice);
                assert_eq!(saved.0, twice.0);
                if level == 1.0 {
                    again.merge(&mut other, group, &mut Reader(&saved.0)).unwrap();
                }
            }
            for (q, rows) in [(&q, &rows), (&again, &other)] {
                for (g, values) in model.iter_mut().enumerate() {
                    values.sort_by(f64::total_cmp);
                    let expected = rank(level, values.len() as u64).map(|r| values[r as usize]);
                    match (q.quantile(rows, g as u32, &mut Vec::new()), expected) {
                        (Some(got), Some(expected)) => {
                            assert!((got - expected).abs() <= expected.abs() * 0.010_001, "{got} {expected}");
                        }
                        (got, expected) => assert_eq!(got, expected),
                    }
                }
            }
        }
    }

    #[test]
    fn a_wide_histogram_gives_up_its_low_end() {
        let mut h = Histogram::default();
        for b in (0..60_000u16).rev() {
            h.add(b, 1);
        }
        assert_eq!((h.counts.len(), h.total), (BINS_MAX, 60_000));
        assert_eq!(h.counts.iter().sum::<u64>(), 60_000);
        let mut up = Histogram::default();
        (0..60_000u16).for_each(|b| up.add(b, 1));
        assert_eq!((up.bins, up.counts), (h.bins, h.counts));
    }
}
