//! DDSketch (Masson, Rim, Lee; VLDB 2019): values as the numbers of logarithmic bins, so that a
//! quantile is within 1 % of a value at its rank. Bins are 16 bits wide.
//!
//! The logarithm is the exponent plus a quadratic of the mantissa, which costs 8 % more bins and
//! no call; the way back uses the same quadratic, so the error stays within the bound.
//!
//! Magnitudes from 2^-436 to 2^436 are told apart; smaller ones count as the least bin, greater
//! ones as the greatest.

/// Bins a binary order of magnitude: 3 / (4 ln γ), with γ = 1.01 / 0.99.
const BINS_PER_OCTAVE: f64 = 37.498_749_916_654;
/// The bin of zero; greater values lie above it, negative ones below.
pub const ZERO: u16 = 1 << 15;
const HALF_RANGE: i64 = 16_383;

/// Without the call that `f64::floor` is on processors without an instruction for it.
#[inline]
fn floor(x: f64) -> i64 {
    let whole = x as i64;
    whole - i64::from(x < whole as f64)
}

/// The bin of a value that is a number.
#[inline]
pub fn bin(value: f64) -> u16 {
    let bits = value.abs().to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    if exponent == -1023 {
        // Zero, and what is too small to have a mantissa of its own.
        return ZERO;
    }
    let s = f64::from_bits((bits & 0xF_FFFF_FFFF_FFFF) | 1023 << 52) - 1.0;
    let log = exponent as f64 + s * (4.0 - s) / 3.0;
    let index = floor(log * BINS_PER_OCTAVE).clamp(-HALF_RANGE, HALF_RANGE - 1);
    let above = (index + HALF_RANGE + 1) as u16;
    if value < 0.0 { ZERO - above } else { ZERO + above }
}

/// A value within 1 % of every value of the bin.
pub fn value(bin: u16) -> f64 {
    if bin == ZERO {
        return 0.0;
    }
    let index = i64::from(bin.abs_diff(ZERO)) - HALF_RANGE - 1;
    let bound = |index: i64| {
        let log = index as f64 / BINS_PER_OCTAVE;
        let exponent = floor(log);
        // The root of (4 s − s²) / 3 = log − exponent.
        let s = 2.0 - (4.0 - 3.0 * (log - exponent as f64)).sqrt();
        // Two to the exponent.
        (1.0 + s) * f64::from_bits(((exponent + 1023) as u64) << 52)
    };
    let (low, high) = (bound(index), bound(index + 1));
    let middle = 2.0 * low * high / (low + high);
    if bin < ZERO { -middle } else { middle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_is_within_one_percent_and_in_order() {
        let mut before = 0;
        let mut v = 1e-120f64;
        while v < 1e120 {
            let b = bin(v);
            assert!(b >= before, "{v}");
            before = b;
            assert!((value(b) / v - 1.0).abs() <= 0.010_000_1, "{v} {}", value(b));
            assert!((value(bin(-v)) / -v - 1.0).abs() <= 0.010_000_1, "-{v}");
            v *= 1.000_7;
        }
        assert_eq!((bin(0.0), bin(-0.0), value(ZERO)), (ZERO, ZERO, 0.0));
        assert!(bin(-1.0) < bin(-0.5) && bin(-0.5) < ZERO && ZERO < bin(1e-9));
        assert!(bin(f64::INFINITY) >= bin(1e300) && bin(f64::NEG_INFINITY) <= bin(-1e300));
        assert_eq!(bin(5e-324), ZERO);
    }
}
