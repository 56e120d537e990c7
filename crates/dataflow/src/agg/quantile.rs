//! Quantiles: each group's bins in a slot of a size-classed slab, then as a histogram.
//!
//! ```text
//! row: 32 bits, class and slot -> slab of that class: count, then bins as they came
//!                              -> beyond 127 values a histogram of the bins that occur
//! ```
//! A slot that has become too small is used again by another group.

use super::sketch::{bin, value};
use super::{Accumulate, Batch, Input, each, to_output};
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
const SEGMENT: usize = 1 << 17;
/// A histogram keeps so many bins; what is less than the least of them counts as it.
const BINS_MAX: usize = 4_096;

#[derive(Debug, Default)]
struct Slab {
    size: usize,
    segments: Vec<Vec<u16>>,
    slots: usize,
    free: Vec<u32>,
}

impl Slab {
    fn new(size: usize) -> Self {
        Slab { size, ..Slab::default() }
    }

    fn take(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let per_segment = SEGMENT / self.size;
        if self.slots.is_multiple_of(per_segment) {
            let first = self.segments.is_empty();
            self.segments.push(if first { Vec::new() } else { Vec::with_capacity(SEGMENT) });
        }
        let last = self.segments.last_mut().expect("pushed above when there was none");
        last.resize(last.len() + self.size, 0);
        self.slots += 1;
        (self.slots - 1) as u32
    }

    #[inline]
    fn slot(&self, slot: u32) -> &[u16] {
        let per_segment = SEGMENT / self.size;
        let at = slot as usize % per_segment * self.size;
        &self.segments[slot as usize / per_segment][at..at + self.size]
    }

    #[inline]
    fn slot_mut(&mut self, slot: u32) -> &mut [u16] {
        let per_segment = SEGMENT / self.size;
        let at = slot as usize % per_segment * self.size;
        &mut self.segments[slot as usize / per_segment][at..at + self.size]
    }

    fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.capacity() * 2).sum::<usize>() + self.free.capacity() * 4
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
    fn add(&mut self, bin: u16) {
        self.total += 1;
        match self.bins.binary_search(&bin) {
            Ok(at) => self.counts[at] += 1,
            // The low end gives way: what is asked for is mostly the high one.
            Err(0) if self.bins.len() == BINS_MAX => self.counts[0] += 1,
            Err(at) => {
                self.bins.insert(at, bin);
                self.counts.insert(at, 1);
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
fn rank(level: f64, n: u64) -> Option<u64> {
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
}

impl Quantile {
    pub fn new(level: f64, layout: &mut Layout) -> Self {
        Quantile {
            level,
            at: layout.half(),
            slabs: CLASSES.map(Slab::new),
            histograms: Vec::new(),
            histogram_bytes: 0,
        }
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
            histogram.add(bin);
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
        let larger = if class + 1 < HISTOGRAM {
            let new = self.slabs[class + 1].take();
            let (small, large) = self.slabs.split_at_mut(class + 1);
            let (from, to) = (small[class].slot(slot), large[0].slot_mut(new));
            to[..from.len()].copy_from_slice(from);
            to[n + 1] = bin;
            to[0] += 1;
            new
        } else {
            let mut histogram = Histogram::default();
            self.slabs[class].slot(slot)[1..].iter().for_each(|b| histogram.add(*b));
            histogram.add(bin);
            self.histogram_bytes += histogram.bytes();
            self.histograms.push(histogram);
            self.histograms.len() as u32 - 1
        };
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
        each(batch, input.filter.as_ref(), values.nulls(), |g, row| {
            // What is no number has no rank.
            if !v[row].is_nan() {
                self.add(rows, g, bin(v[row]));
            }
        });
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

    fn save(&self, out: &mut Writer) {
        for slab in &self.slabs {
            out.u64(slab.slots as u64);
            for slot in 0..slab.slots as u32 {
                let bytes: Vec<u8> = slab.slot(slot).iter().flat_map(|b| b.to_le_bytes()).collect();
                out.0.extend_from_slice(&bytes);
            }
            out.u64(slab.free.len() as u64);
            slab.free.iter().for_each(|f| out.u64(u64::from(*f)));
        }
        out.u64(self.histograms.len() as u64);
        for h in &self.histograms {
            let bins: Vec<u64> = h.bins.iter().map(|b| u64::from(*b)).collect();
            out.words(&bins);
            out.words(&h.counts);
        }
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        for slab in &mut self.slabs {
            for _ in 0..from.count(slab.size * 2)? {
                let slot = slab.take();
                for at in slab.slot_mut(slot) {
                    let (bytes, rest) = from.0.split_at_checked(2).ok_or(Damaged("it ends early"))?;
                    from.0 = rest;
                    *at = u16::from_le_bytes([bytes[0], bytes[1]]);
                }
            }
            let n = from.count(8)?;
            slab.free = (0..n).map(|_| from.u64().map(|f| f as u32)).collect::<Result<_, _>>()?;
        }
        for _ in 0..from.count(16)? {
            let bins: Vec<u16> = from.words()?.into_iter().map(|b| b as u16).collect();
            let counts = from.words()?;
            if bins.len() != counts.len() {
                return Err(Damaged("bins without counts"));
            }
            let histogram = Histogram { bins, total: counts.iter().sum(), counts };
            self.histogram_bytes += histogram.bytes();
            self.histograms.push(histogram);
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
            let mut saved = Writer::default();
            q.save(&mut saved);
            let mut again = Quantile::new(level, &mut Layout::default());
            again.load(&mut Reader(&saved.0)).unwrap();
            for q in [&q, &again] {
                for (g, values) in model.iter_mut().enumerate() {
                    values.sort_by(f64::total_cmp);
                    let expected = rank(level, values.len() as u64).map(|r| values[r as usize]);
                    match (q.quantile(&rows, g as u32, &mut Vec::new()), expected) {
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
            h.add(b);
        }
        assert_eq!((h.counts.len(), h.total), (BINS_MAX, 60_000));
        assert_eq!(h.counts.iter().sum::<u64>(), 60_000);
        let mut up = Histogram::default();
        (0..60_000u16).for_each(|b| up.add(b));
        assert_eq!((up.bins, up.counts), (h.bins, h.counts));
    }
}
