//! Number of distinct values, about: exact up to a few hundred hashes, then HyperLogLog (Flajolet
//! and others, 2007) with 4096 registers: standard error 1.6 %, 4 KiB a group.

use super::{Accumulate, Batch, Input, Shape, each};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::{Array, ArrayRef, UInt64Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType};
use std::sync::Arc;

const REGISTER_BITS: u32 = 12;
const REGISTERS: usize = 1 << REGISTER_BITS;
/// Hashes kept as they are; as many bytes as half the registers.
const SPARSE_MAX: usize = 256;

#[derive(Debug, Default, Clone, PartialEq)]
enum Set {
    #[default]
    Empty,
    /// Ascending.
    Sparse(Vec<u64>),
    Dense(Box<[u8]>),
}

fn register(registers: &mut [u8], hash: u64) {
    let at = (hash >> (64 - REGISTER_BITS)) as usize;
    let rank = ((hash << REGISTER_BITS) | 1 << (REGISTER_BITS - 1)).leading_zeros() as u8 + 1;
    registers[at] = registers[at].max(rank);
}

impl Set {
    fn add(&mut self, hash: u64) {
        match self {
            Set::Empty => *self = Set::Sparse(vec![hash]),
            Set::Sparse(hashes) => {
                if let Err(at) = hashes.binary_search(&hash) {
                    if hashes.len() < SPARSE_MAX {
                        hashes.insert(at, hash);
                        return;
                    }
                    hashes.push(hash);
                    self.densify();
                }
            }
            Set::Dense(registers) => register(registers, hash),
        }
    }

    fn densify(&mut self) -> &mut [u8] {
        if !matches!(self, Set::Dense(_)) {
            let mut registers = vec![0; REGISTERS].into_boxed_slice();
            if let Set::Sparse(hashes) = self {
                hashes.iter().for_each(|h| register(&mut registers, *h));
            }
            *self = Set::Dense(registers);
        }
        let Set::Dense(registers) = self else { unreachable!("made so above") };
        registers
    }

    fn add_registers(&mut self, others: &[u8]) -> Result<(), Damaged> {
        if others.len() != REGISTERS {
            return Err(Damaged("registers of another number"));
        }
        self.densify().iter_mut().zip(others).for_each(|(held, other)| *held = (*held).max(*other));
        Ok(())
    }

    fn count(&self) -> u64 {
        match self {
            Set::Empty => 0,
            Set::Sparse(hashes) => hashes.len() as u64,
            Set::Dense(registers) => {
                let m = REGISTERS as f64;
                let sum: f64 = registers.iter().map(|r| (-f64::from(*r)).exp2()).sum();
                let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
                let zeros = registers.iter().filter(|r| **r == 0).count();
                let linear = raw <= 2.5 * m && zeros > 0;
                (if linear { m * (m / zeros as f64).ln() } else { raw }).round() as u64
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Set::Empty => 0,
            Set::Sparse(hashes) => hashes.capacity() * 8,
            Set::Dense(_) => REGISTERS,
        }
    }
}

pub(super) struct Uniq {
    converter: RowConverter,
    sets: Column<Set>,
    bytes: usize,
    output: DataType,
}

impl Uniq {
    pub fn new(shape: &Shape) -> Result<Self, ArrowError> {
        Ok(Uniq {
            converter: RowConverter::new(shape.args.iter().cloned().map(SortField::new).collect())?,
            sets: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }
}

impl Accumulate for Uniq {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.sets.extend_to(rows.len());
        let values = self.converter.convert_columns(&input.args)?;
        let nulls = input.args[0].logical_nulls();
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| {
            let set = self.sets.get_mut(g);
            let before = set.bytes();
            set.add(xxhash_rust::xxh3::xxh3_64(values.row(row).as_ref()));
            self.bytes = self.bytes + set.bytes() - before;
        });
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let count = |g: &u32| self.sets.held(*g).map_or(0, Set::count);
        super::to_output(Arc::new(UInt64Array::from_iter_values(groups.iter().map(count))), &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.sets.bytes()
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        match self.sets.held(group) {
            None | Some(Set::Empty) => out.u8(0),
            Some(Set::Sparse(hashes)) => {
                out.u8(1);
                out.words(hashes);
            }
            Some(Set::Dense(registers)) => {
                out.u8(2);
                out.bytes(registers);
            }
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.sets.extend_to(rows.len());
        let set = self.sets.get_mut(group);
        let before = set.bytes();
        match from.u8()? {
            0 => {}
            1 => from.words()?.into_iter().for_each(|hash| set.add(hash)),
            2 => set.add_registers(from.bytes()?)?,
            _ => return Err(Damaged("a set of an unknown kind")),
        }
        self.bytes = self.bytes + set.bytes() - before;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_when_few_and_near_when_many() {
        for n in [0u64, 1, 256, 257, 5_000, 20_000, 1_000_000] {
            let mut set = Set::default();
            for i in 0..n {
                let hash = xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes());
                set.add(hash);
                set.add(hash);
            }
            let error = set.count() as f64 - n as f64;
            assert!(error.abs() <= if n <= 256 { 0.0 } else { 0.05 * n as f64 }, "{n}: {}", set.count());
        }
    }
}
