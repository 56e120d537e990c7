//! The bins of a group's values and how often each occurs.
//!
//! ```text
//! few values: bins as they came -> more: counts of a range of bins, for each sign
//!                               -> where values lie very far apart: bins that occur, ascending
//! ```
//! However it is held, the result is that of the [`BINS_MAX`] greatest bins that occur, where
//! lesser values count as the least of these.

use crate::Damaged;
use crate::bins::{ZERO, value};
use std::collections::BTreeMap;

/// So many bins are told apart: the low end gives way, what is asked for is mostly the high one.
pub const BINS_MAX: usize = 4_096;
/// Values kept one by one.
const FEW_MAX: usize = 128;
/// Bins of one range; a wider one is held sparsely.
const RANGE_MAX: usize = 4_096;

/// Of `n` sorted values the one that counts.
#[inline]
pub fn rank(level: f64, n: u64) -> Option<u64> {
    let last = n.checked_sub(1)?;
    Some(((level.clamp(0.0, 1.0) * last as f64).floor() as u64).min(last))
}

/// Counts of the bins from `first` on.
#[derive(Debug, Clone, Default)]
struct Range {
    first: u16,
    counts: Vec<u64>,
}

impl Range {
    #[inline]
    fn count(&mut self, bin: u16) -> bool {
        match self.counts.get_mut(bin.wrapping_sub(self.first) as usize) {
            Some(count) => {
                *count += 1;
                true
            }
            None => false,
        }
    }

    /// `false` where the range would be too wide.
    #[inline]
    fn add(&mut self, bin: u16, n: u64) -> bool {
        if let Some(count) = self.counts.get_mut(bin.wrapping_sub(self.first) as usize) {
            *count = count.saturating_add(n);
            return true;
        }
        self.widen(bin, n)
    }

    #[cold]
    fn widen(&mut self, bin: u16, n: u64) -> bool {
        if self.counts.is_empty() {
            self.first = bin;
            self.counts.push(n);
            return true;
        }
        let last = self.first as usize + self.counts.len() - 1;
        let (low, high) = ((self.first).min(bin) as usize, last.max(bin as usize));
        if high - low >= RANGE_MAX {
            return false;
        }
        // Room for neighbours, so that a range grows in few steps.
        let spare = ((high - low) / 4).min(RANGE_MAX - 1 - (high - low));
        let (low, high) = if (bin as usize) < self.first as usize {
            (low.saturating_sub(spare), high)
        } else {
            (low, (high + spare).min(usize::from(u16::MAX)))
        };
        let mut counts = vec![0; high - low + 1];
        let at = self.first as usize - low;
        counts[at..at + self.counts.len()].copy_from_slice(&self.counts);
        self.counts = counts;
        self.first = low as u16;
        self.counts[bin as usize - low] += n;
        true
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = (u16, u64)> {
        let first = self.first;
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, n)| (first + i as u16, *n))
    }
}

#[derive(Debug, Clone)]
enum Held {
    Few(Vec<u16>),
    /// Bins below zero, and others.
    Ranges(Box<[Range; 2]>),
    #[expect(clippy::box_collection, reason = "a group without values should cost a word, not three")]
    Sparse(Box<BTreeMap<u16, u64>>),
}

/// The bins of one group.
#[derive(Debug, Clone)]
pub struct Bins(Held);

impl Default for Bins {
    fn default() -> Self {
        Bins(Held::Few(Vec::new()))
    }
}

impl Bins {
    /// Takes a bin in, `n` times.
    #[inline]
    pub fn add(&mut self, bin: u16, n: u64) {
        if let Held::Ranges(ranges) = &mut self.0
            && ranges[usize::from(bin >= ZERO)].add(bin, n)
        {
            return;
        }
        self.add_slowly(bin, n);
    }

    /// Takes a bin in where that makes the state no larger; `false` where it does not.
    #[inline]
    pub fn add_in_place(&mut self, bin: u16) -> bool {
        let Held::Ranges(ranges) = &mut self.0 else { return false };
        ranges[usize::from(bin >= ZERO)].count(bin)
    }

    fn add_slowly(&mut self, bin: u16, n: u64) {
        match &mut self.0 {
            Held::Few(bins) if n.saturating_add(bins.len() as u64) <= FEW_MAX as u64 => {
                bins.extend(std::iter::repeat_n(bin, n as usize));
            }
            Held::Sparse(bins) => {
                *bins.entry(bin).or_insert(0) += n;
                if bins.len() > BINS_MAX {
                    let (_, lost) = bins.pop_first().expect("more than there may be");
                    *bins.first_entry().expect("one was taken of many").get_mut() += lost;
                }
            }
            Held::Few(_) => {
                let few = std::mem::replace(self, Bins(Held::Ranges(Box::default())));
                few.each(|bin, n| self.add(bin, n));
                self.add(bin, n);
            }
            Held::Ranges(_) => {
                let ranges = std::mem::replace(self, Bins(Held::Sparse(Box::default())));
                ranges.each(|bin, n| self.add(bin, n));
                self.add(bin, n);
            }
        }
    }

    /// Bins and how often, ascending where it is not a few.
    fn each(&self, mut f: impl FnMut(u16, u64)) {
        match &self.0 {
            Held::Few(bins) => bins.iter().for_each(|b| f(*b, 1)),
            Held::Ranges(ranges) => ranges.iter().flat_map(Range::iter).for_each(|(b, n)| f(b, n)),
            Held::Sparse(bins) => bins.iter().for_each(|(b, n)| f(*b, *n)),
        }
    }

    pub fn merge(&mut self, other: &Bins) {
        other.each(|bin, n| self.add(bin, n));
    }

    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Held::Few(bins) if bins.is_empty())
    }

    /// Values at these levels (0 to 1); `None` where there is no value.
    pub fn quantiles(&self, levels: &[f64]) -> Option<Vec<f64>> {
        let mut all: Vec<(u16, u64)> = Vec::new();
        self.each(|bin, n| all.push((bin, n)));
        if matches!(self.0, Held::Few(_)) {
            all.sort_unstable();
        }
        if all.len() > BINS_MAX && !matches!(self.0, Held::Few(_)) {
            let gone = all.len() - BINS_MAX;
            let lost: u64 = all.drain(..gone).map(|(_, n)| n).sum();
            all[0].1 += lost;
        }
        let total = all.iter().map(|(_, n)| n).sum();
        levels
            .iter()
            .map(|level| {
                let rank = rank(*level, total)?;
                let mut passed = 0;
                let at = all.iter().find(|(_, n)| {
                    passed += n;
                    passed > rank
                });
                at.map(|(bin, _)| value(*bin))
            })
            .collect()
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Held::Few(bins) => bins.capacity() * 2,
            Held::Ranges(ranges) => {
                size_of::<[Range; 2]>() + ranges.iter().map(|r| r.counts.capacity() * 8).sum::<usize>()
            }
            Held::Sparse(bins) => bins.len() * 20,
        }
    }

    /// Bins (2 bytes) with how often (8 bytes); a few without.
    pub fn save(&self, out: &mut Vec<u8>) {
        let few = matches!(self.0, Held::Few(_));
        out.push(u8::from(!few));
        self.each(|bin, n| {
            out.extend_from_slice(&bin.to_le_bytes());
            if !few {
                out.extend_from_slice(&n.to_le_bytes());
            }
        });
    }

    /// Adds what [`Bins::save`] wrote.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let (kind, rest) = bytes.split_first().ok_or(Damaged)?;
        let size = match kind {
            0 => 2,
            1 => 10,
            _ => return Err(Damaged),
        };
        if !rest.len().is_multiple_of(size) {
            return Err(Damaged);
        }
        for entry in rest.chunks_exact(size) {
            let (bin, n) = entry.split_at(2);
            let n = if size == 2 { 1 } else { u64::from_le_bytes(n.try_into().map_err(|_| Damaged)?) };
            self.add(u16::from_le_bytes([bin[0], bin[1]]), n);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::bin;

    /// What the header promises, written plainly.
    fn model(bins: &[u16], level: f64) -> Option<f64> {
        let mut sorted = bins.to_vec();
        sorted.sort_unstable();
        let mut distinct = sorted.clone();
        distinct.dedup();
        let least = distinct.len().checked_sub(BINS_MAX).map_or(0, |i| distinct[i]);
        rank(level, sorted.len() as u64).map(|r| value(sorted[r as usize].max(least)))
    }

    #[test]
    fn however_it_is_held_the_answer_is_that_of_the_bins() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1u64 << 53) as f64
        };
        // (name, values, value from two random numbers)
        let cases: [(&str, usize, fn(f64, f64) -> f64); 6] = [
            ("none", 0, |_, _| 0.0),
            ("few", 100, |a, _| a - 0.5),
            ("one sign, six decades", 20_000, |a, _| 10f64.powf(a * 6.0)),
            ("both signs", 20_000, |a, b| (a - 0.4) * 10f64.powf(b * 5.0 - 2.0)),
            ("far apart", 5_000, |a, b| (a - 0.5).signum() * 10f64.powf(b * 200.0 - 100.0)),
            ("zero and infinities", 500, |a, _| [0.0, f64::INFINITY, f64::NEG_INFINITY][(a * 3.0) as usize]),
        ];
        for (name, n, f) in cases {
            let bins: Vec<u16> = (0..n).map(|_| bin(f(random(), random()))).collect();
            let mut whole = Bins::default();
            bins.iter().for_each(|b| whole.add(*b, 1));
            let mut merged = Bins::default();
            for part in bins.chunks(n / 7 + 1).rev() {
                let (mut own, mut saved) = (Bins::default(), Vec::new());
                part.iter().rev().for_each(|b| own.add(*b, 1));
                own.save(&mut saved);
                let mut read = Bins::default();
                read.load(&saved).unwrap();
                merged.merge(&read);
            }
            for level in [0.0, 0.1, 0.5, 0.9, 0.99, 1.0] {
                let expected = model(&bins, level);
                assert_eq!(whole.quantiles(&[level]).map(|v| v[0]), expected, "{name} at {level}");
                assert_eq!(merged.quantiles(&[level]).map(|v| v[0]), expected, "{name} merged at {level}");
            }
        }
        assert_eq!(Bins::default().load(&[1, 2, 3]), Err(Damaged));
    }
}
