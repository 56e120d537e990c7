//! Number of distinct values, about: exact up to a few hundred hashes, then HyperLogLog (Flajolet
//! and others, 2007) with 4096 registers: standard error 1.6 %, 4 KiB a group.

use crate::Damaged;

const REGISTER_BITS: u32 = 12;
const REGISTERS: usize = 1 << REGISTER_BITS;
/// Hashes kept as they are; as many bytes as half the registers.
const SPARSE_MAX: usize = 256;

/// The hashes of one group.
#[derive(Debug, Default, Clone, PartialEq)]
pub enum Hll {
    #[default]
    Empty,
    /// Ascending.
    Sparse(Vec<u64>),
    Dense(Box<[u8]>),
}

#[inline]
fn register(registers: &mut [u8], hash: u64) {
    let at = (hash >> (64 - REGISTER_BITS)) as usize;
    let rank = ((hash << REGISTER_BITS) | 1 << (REGISTER_BITS - 1)).leading_zeros() as u8 + 1;
    registers[at] = registers[at].max(rank);
}

impl Hll {
    #[inline]
    pub fn add(&mut self, hash: u64) {
        match self {
            Hll::Dense(registers) => register(registers, hash),
            _ => self.add_sparse(hash),
        }
    }

    fn add_sparse(&mut self, hash: u64) {
        match self {
            Hll::Empty => *self = Hll::Sparse(vec![hash]),
            Hll::Sparse(hashes) => {
                if let Err(at) = hashes.binary_search(&hash) {
                    if hashes.len() < SPARSE_MAX {
                        hashes.insert(at, hash);
                        return;
                    }
                    let mut registers = vec![0; REGISTERS].into_boxed_slice();
                    hashes.iter().chain([&hash]).for_each(|h| register(&mut registers, *h));
                    *self = Hll::Dense(registers);
                }
            }
            Hll::Dense(registers) => register(registers, hash),
        }
    }

    pub fn merge(&mut self, other: &Hll) {
        match other {
            Hll::Empty => {}
            Hll::Sparse(hashes) => hashes.iter().for_each(|h| self.add(*h)),
            Hll::Dense(theirs) => {
                let held = match std::mem::replace(self, Hll::Dense(theirs.clone())) {
                    Hll::Dense(own) => {
                        let Hll::Dense(registers) = self else { unreachable!("it was just made dense") };
                        registers.iter_mut().zip(own).for_each(|(r, o)| *r = (*r).max(o));
                        return;
                    }
                    other => other,
                };
                self.merge(&held);
            }
        }
    }

    pub fn count(&self) -> u64 {
        match self {
            Hll::Empty => 0,
            Hll::Sparse(hashes) => hashes.len() as u64,
            Hll::Dense(registers) => {
                let m = REGISTERS as f64;
                let sum: f64 = registers.iter().map(|r| (-f64::from(*r)).exp2()).sum();
                let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
                let zeros = registers.iter().filter(|r| **r == 0).count();
                let linear = raw <= 2.5 * m && zeros > 0;
                (if linear { m * (m / zeros as f64).ln() } else { raw }).round() as u64
            }
        }
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        match self {
            Hll::Empty => 0,
            Hll::Sparse(hashes) => hashes.capacity() * 8,
            Hll::Dense(_) => REGISTERS,
        }
    }

    /// A kind, then hashes or registers.
    pub fn save(&self, out: &mut Vec<u8>) {
        match self {
            Hll::Empty => {}
            Hll::Sparse(hashes) => {
                out.push(1);
                hashes.iter().for_each(|h| out.extend_from_slice(&h.to_le_bytes()));
            }
            Hll::Dense(registers) => {
                out.push(2);
                out.extend_from_slice(registers);
            }
        }
    }

    /// What [`Hll::save`] wrote.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn load(bytes: &[u8]) -> Result<Hll, Damaged> {
        let Some((kind, rest)) = bytes.split_first() else { return Ok(Hll::Empty) };
        match kind {
            1 if rest.len().is_multiple_of(8) && (1..=SPARSE_MAX * 8).contains(&rest.len()) => {
                let mut hashes: Vec<u64> = rest
                    .chunks_exact(8)
                    .map(|h| u64::from_le_bytes(h.try_into().expect("eight bytes")))
                    .collect();
                hashes.sort_unstable();
                hashes.dedup();
                Ok(Hll::Sparse(hashes))
            }
            2 if rest.len() == REGISTERS => Ok(Hll::Dense(rest.into())),
            _ => Err(Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_when_few_and_near_when_many() {
        for n in [0u64, 1, 256, 257, 5_000, 20_000, 1_000_000] {
            let mut set = Hll::default();
            let mut parts = vec![Hll::default(); 3];
            for i in 0..n {
                let hash = xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes());
                set.add(hash);
                set.add(hash);
                parts[(i % 7 % 3) as usize].add(hash);
            }
            let error = set.count() as f64 - n as f64;
            assert!(error.abs() <= if n <= 256 { 0.0 } else { 0.05 * n as f64 }, "{n}: {}", set.count());
            let mut merged = Hll::default();
            for part in &parts {
                let mut saved = Vec::new();
                part.save(&mut saved);
                merged.merge(&Hll::load(&saved).unwrap());
            }
            assert_eq!(merged, set, "{n} in three parts");
        }
        assert_eq!(Hll::load(&[2, 0]), Err(Damaged));
    }
}
