//! Aggregates of a changelog that must know every value: an ordered multiset a group.
//!
//! An entry's bytes order as its aggregate looks for it: what decides (`arg_min`), the row's place
//! where that decides, the value; Arrow's row format is ordered by its bytes.
//!
//! Not here: aggregates of rows that only come (`values`, `quantile`).

use super::retract::{each_weighted, not_there};
use super::values::{column, converter, list};
use super::{Accumulate, Batch, Input, Place, Shape, to_output};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array};
use arrow_row::RowConverter;
use arrow_schema::{ArrowError, DataType};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_plan::AggregateKind;

type Set = BTreeMap<Box<[u8]>, Entry>;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// How often it is there, at least once.
    n: i64,
    /// Where its value begins in its bytes.
    value_at: u32,
}

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 48;
const PLACE_BYTES: usize = 20;

/// Adds a weight to an entry, which goes when none is left.
fn change<K: Ord>(
    set: &mut BTreeMap<K, Entry>,
    key: K,
    weight: i64,
    value_at: u32,
) -> Result<std::cmp::Ordering, ArrowError> {
    use std::collections::btree_map::Entry as Slot;
    match set.entry(key) {
        Slot::Vacant(slot) if weight > 0 => {
            slot.insert(Entry { n: weight, value_at });
            Ok(std::cmp::Ordering::Greater)
        }
        Slot::Vacant(_) => Err(not_there()),
        Slot::Occupied(mut slot) => {
            let n = slot.get().n.saturating_add(weight);
            slot.get_mut().n = n;
            match n {
                0 => {
                    slot.remove();
                    Ok(std::cmp::Ordering::Less)
                }
                n if n < 0 => Err(not_there()),
                _ => Ok(std::cmp::Ordering::Equal),
            }
        }
    }
}

pub(super) struct Multiset {
    kind: AggregateKind,
    values: RowConverter,
    by: Option<RowConverter>,
    sets: Column<Set>,
    bytes: usize,
    output: DataType,
}

impl Multiset {
    pub fn new(shape: &Shape) -> Result<Self, ArrowError> {
        let decides = matches!(shape.kind, AggregateKind::ArgMin | AggregateKind::ArgMax);
        Ok(Multiset {
            kind: shape.kind.clone(),
            values: converter(&shape.args[0])?,
            by: decides.then(|| converter(&shape.args[1])).transpose()?,
            sets: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }

    fn placed(&self) -> bool {
        use AggregateKind as K;
        matches!(self.kind, K::First { .. } | K::Last { .. } | K::ArgMin | K::ArgMax | K::GroupArray { .. })
    }

    fn chosen<'a>(&self, set: &'a Set) -> Option<&'a [u8]> {
        use AggregateKind as K;
        let (key, entry) = match self.kind {
            K::Max | K::Last { .. } => set.last_key_value()?,
            K::ArgMax => {
                // Of the greatest the first.
                let (last, entry) = set.last_key_value()?;
                let by = &last[..entry.value_at as usize - PLACE_BYTES];
                set.range::<[u8], _>((std::ops::Bound::Included(by), std::ops::Bound::Unbounded)).next()?
            }
            _ => set.first_key_value()?,
        };
        Some(&key[entry.value_at as usize..])
    }
}

/// Bytes that order as places do.
fn place_bytes(place: Place, out: &mut Vec<u8>) {
    out.extend_from_slice(&(place.0 as u64 ^ 1 << 63).to_be_bytes());
    out.extend_from_slice(&(place.1 as u32 ^ 1 << 31).to_be_bytes());
    out.extend_from_slice(&(place.2 as u64 ^ 1 << 63).to_be_bytes());
}

impl Accumulate for Multiset {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        use AggregateKind as K;
        self.sets.extend_to(rows.len());
        let values = self.values.convert_columns(&input.args[..1])?;
        let by = match &self.by {
            Some(by) => Some(by.convert_columns(&input.args[1..2])?),
            None => None,
        };
        let nulls = match self.kind {
            K::First { skip_nulls: false } | K::Last { skip_nulls: false } => None,
            K::GroupArray { skip_nulls: false } => None,
            K::ArgMin | K::ArgMax => input.args[1].logical_nulls(),
            _ => input.args[0].logical_nulls(),
        };
        let placed = self.placed();
        let mut key = Vec::new();
        each_weighted(batch, input.filter.as_ref(), nulls.as_ref(), |g, row, weight| {
            key.clear();
            if let Some(by) = &by {
                key.extend_from_slice(by.row(row).as_ref());
            }
            if placed {
                place_bytes(batch.order.at(row), &mut key);
            }
            let value_at = key.len() as u32;
            key.extend_from_slice(values.row(row).as_ref());
            let size = key.len() + ENTRY_BYTES;
            match change(self.sets.get_mut(g), key.as_slice().into(), weight, value_at)? {
                std::cmp::Ordering::Greater => self.bytes += size,
                std::cmp::Ordering::Less => self.bytes -= size,
                std::cmp::Ordering::Equal => {}
            }
            Ok(())
        })
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        use AggregateKind as K;
        let empty = Set::new();
        let set = |g: &u32| self.sets.held(*g).unwrap_or(&empty);
        match self.kind {
            K::UniqExact => {
                let counts = groups.iter().map(|g| set(g).len() as i64);
                to_output(Arc::new(Int64Array::from_iter_values(counts)), &self.output)
            }
            K::GroupUniqArray => {
                let lists = groups.iter().map(|g| set(g).keys().map(|v| &**v).collect()).collect();
                list(&self.values, lists, &self.output)
            }
            K::GroupArray { .. } => {
                let lists = groups
                    .iter()
                    .map(|g| {
                        let each = set(g).iter().flat_map(|(key, entry)| {
                            std::iter::repeat_n(&key[entry.value_at as usize..], entry.n as usize)
                        });
                        each.collect()
                    })
                    .collect();
                list(&self.values, lists, &self.output)
            }
            _ => column(&self.values, groups.iter().map(|g| self.chosen(set(g))), &self.output),
        }
    }

    fn bytes(&self) -> usize {
        self.bytes + self.sets.bytes()
    }

    fn ordered(&self) -> bool {
        self.placed()
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let set = self.sets.held(group);
        out.u64(set.map_or(0, Set::len) as u64);
        for (key, entry) in set.into_iter().flatten() {
            out.i64(entry.n);
            out.u32(entry.value_at);
            out.bytes(key);
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.sets.extend_to(rows.len());
        let least = if self.placed() { PLACE_BYTES } else { 0 };
        for _ in 0..from.count(20)? {
            let n = from.i64()?;
            let value_at = u32::from_le_bytes(from.take(4)?.try_into().expect("four bytes were taken"));
            let key: Box<[u8]> = from.bytes()?.into();
            if n < 1 || value_at as usize > key.len() || (value_at as usize) < least {
                return Err(Damaged("an entry of a multiset is impossible"));
            }
            let size = key.len() + ENTRY_BYTES;
            let set = self.sets.get_mut(group);
            if change(set, key, n, value_at).is_ok_and(std::cmp::Ordering::is_gt) {
                self.bytes += size;
            }
        }
        Ok(())
    }
}

/// Quantiles: how often each bin of the sketch occurs. At most 65536 bins a group.
pub(super) struct Bins {
    level: f64,
    sets: Column<BTreeMap<u16, Entry>>,
    bins: usize,
}

impl Bins {
    pub fn new(level: f64) -> Self {
        Bins { level, sets: Column::default(), bins: 0 }
    }

    fn quantile(&self, group: u32) -> Option<f64> {
        let set = self.sets.held(group)?;
        let total: i64 = set.values().map(|e| e.n).sum();
        let rank = weir_sketch::rank(self.level, total as u64)?;
        let mut passed = 0;
        set.iter()
            .find(|(_, entry)| {
                passed += entry.n as u64;
                passed > rank
            })
            .map(|(bin, _)| weir_sketch::bins::value(*bin))
    }
}

impl Accumulate for Bins {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.sets.extend_to(rows.len());
        let values = to_output(input.args[0].clone(), &DataType::Float64)?;
        let v = values.as_primitive::<Float64Type>().values();
        each_weighted(batch, input.filter.as_ref(), values.nulls(), |g, row, weight| {
            // What is no number has no rank.
            if v[row].is_nan() {
                return Ok(());
            }
            match change(self.sets.get_mut(g), weir_sketch::bins::bin(v[row]), weight, 0)? {
                std::cmp::Ordering::Greater => self.bins += 1,
                std::cmp::Ordering::Less => self.bins -= 1,
                std::cmp::Ordering::Equal => {}
            }
            Ok(())
        })
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(groups.iter().map(|g| self.quantile(*g)).collect::<Float64Array>()))
    }

    fn bytes(&self) -> usize {
        self.bins * 32 + self.sets.bytes()
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let set = self.sets.held(group);
        out.u64(set.map_or(0, BTreeMap::len) as u64);
        for (bin, entry) in set.into_iter().flatten() {
            out.u16(*bin);
            out.i64(entry.n);
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.sets.extend_to(rows.len());
        for _ in 0..from.count(10)? {
            let (bin, n) = (from.u16()?, from.i64()?);
            if n < 1 {
                return Err(Damaged("a bin that does not occur"));
            }
            if change(self.sets.get_mut(group), bin, n, 0).is_ok_and(std::cmp::Ordering::is_gt) {
                self.bins += 1;
            }
        }
        Ok(())
    }
}
