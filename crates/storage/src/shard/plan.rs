//! Which parts to merge next. Pure.

use std::ops::Range;

/// How far merging goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeMode {
    /// Parts of like size together, so that each byte is rewritten a few times in all: what
    /// the background does.
    Tiered,
    /// Until no two neighbours fit into one part: `SYSTEM MERGE`.
    ToRest,
}

/// Inputs of one merge at most: bounds its memory and open readers.
const FAN_IN_MAX: usize = 16;
/// Inputs of one background merge at least.
const FAN_IN_MIN: usize = 4;

/// Given the sizes of one partition's parts in sequence order, the neighbours to merge and
/// the bytes that this rewrites per part saved (less is better).
pub(super) fn plan_merge(sizes: &[u64], bytes_max: u64, mode: MergeMode) -> Option<(Range<usize>, u64)> {
    let fan_in_min = match mode {
        MergeMode::Tiered => FAN_IN_MIN,
        MergeMode::ToRest => 2,
    };
    let mut best: Option<(Range<usize>, u64)> = None;
    for start in 0..sizes.len() {
        let (mut sum, mut largest) = (0u64, 0);
        for (n, size) in sizes[start..].iter().take(FAN_IN_MAX).enumerate() {
            sum = sum.saturating_add(*size);
            largest = largest.max(*size);
            if sum > bytes_max {
                break;
            }
            // A large part is not rewritten for the sake of a few small ones.
            let balanced = mode == MergeMode::ToRest || largest <= sum / 2;
            if n + 1 < fan_in_min || !balanced {
                continue;
            }
            let cost = sum / n as u64;
            if best.as_ref().is_none_or(|(_, c)| cost < *c) {
                best = Some((start..start + n + 1, cost));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use MergeMode::{Tiered, ToRest};

    #[test]
    fn plans() {
        type Case = (&'static str, &'static [u64], MergeMode, Option<Range<usize>>);
        let cases: [Case; 8] = [
            ("nothing", &[], ToRest, None),
            ("one is at rest", &[5], ToRest, None),
            ("two are merged when asked", &[5, 5], ToRest, Some(0..2)),
            ("two are left by the background", &[5, 5], Tiered, None),
            ("four alike", &[5, 5, 5, 5], Tiered, Some(0..4)),
            ("a large one is left alone", &[500, 5, 5, 5, 5], Tiered, Some(1..5)),
            ("no large one for three small", &[500, 5, 5, 5], Tiered, None),
            ("too large together", &[600, 600], ToRest, None),
        ];
        for (name, sizes, mode, expected) in cases {
            assert_eq!(plan_merge(sizes, 1000, mode).map(|p| p.0), expected, "{name}");
        }
    }

    #[test]
    fn rest_is_reached_and_rewrites_little() {
        let mut sizes = vec![10u64; 300];
        let (mut rewritten, mut merges) = (0, 0);
        while let Some((range, _)) = plan_merge(&sizes, u64::MAX, ToRest) {
            let sum = sizes[range.clone()].iter().sum();
            rewritten += sum;
            merges += 1;
            sizes.splice(range, [sum]);
        }
        assert_eq!(sizes, [3000]);
        assert!(rewritten <= 4 * 3000 && merges < 40, "{rewritten} bytes in {merges} merges");
    }
}
