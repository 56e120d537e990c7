//! Groups by key: a hash index of u32 over rows of words, keys stored once.
//!
//! Open addressing with linear probing; the index is the only thing that is ever copied to grow.
//! A batch is looked up in three passes (index slots, rows, the rest), so that the loads of a pass
//! do not wait for each other: most of what explicit prefetching would give, in safe code.
//!
//! Not here: what a key's columns are (`keys`), what aggregates keep (`agg`).

use super::bytes::{Damaged, Reader, Writer};
use super::keys::{BatchKeys, KeyForm, hash_word};
use super::rows::{Half, Layout, RowStore};
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_schema::ArrowError;
use std::cmp::Ordering;
use std::sync::Arc;

/// Bytes of a heap segment; a key must fit one.
const HEAP_SEGMENT_BYTES: usize = 1 << 20;
/// The most of ten index slots that are used.
const LOAD_TENTHS: usize = 7;
const MISS: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    #[error("a key has {0} bytes, the limit is {HEAP_SEGMENT_BYTES}")]
    KeyTooLong(usize),
    #[error("more than {MISS} keys in one table")]
    Full,
}

/// Which rows of a batch are meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Picked<'a> {
    /// The first so many.
    All(usize),
    Listed(&'a [u32]),
}

impl Picked<'_> {
    pub fn len(&self) -> usize {
        match self {
            Picked::All(n) => *n,
            Picked::Listed(rows) => rows.len(),
        }
    }
    #[inline]
    pub fn at(&self, i: usize) -> usize {
        match self {
            Picked::All(_) => i,
            Picked::Listed(rows) => rows[i] as usize,
        }
    }
}

#[derive(Debug)]
enum Keys {
    Unit,
    /// The key is word 0.
    Int,
    /// Word 0 says where the bytes lie; the hash is kept to compare and to grow without reading them.
    Bytes {
        hash: Half,
        heap: Vec<Vec<u8>>,
    },
}

#[derive(Debug)]
pub(crate) struct GroupTable {
    keys: Keys,
    /// Group + 1; 0 = free. Empty or a power of two.
    index: Vec<u32>,
    pub rows: RowStore,
    null_group: Option<u32>,
    /// A bit a group: changed since it was last emitted.
    dirty: Vec<u64>,
    changed: Vec<u32>,
}

impl GroupTable {
    /// Takes the first words of `layout` for its key: call it before aggregates take theirs.
    pub fn reserve(form: &KeyForm, layout: &mut Layout) -> Option<Half> {
        match form {
            KeyForm::Unit => None,
            KeyForm::Int { .. } => {
                layout.word(0);
                None
            }
            KeyForm::Text | KeyForm::Rows(_) => {
                layout.word(0);
                Some(layout.half())
            }
        }
    }

    pub fn new(form: &KeyForm, hash: Option<Half>, layout: &Layout) -> Self {
        let keys = match (form, hash) {
            (KeyForm::Unit, _) => Keys::Unit,
            (KeyForm::Int { .. }, _) => Keys::Int,
            (_, Some(hash)) => Keys::Bytes { hash, heap: Vec::new() },
            (_, None) => unreachable!("byte keys reserve a hash"),
        };
        GroupTable {
            keys,
            index: Vec::new(),
            rows: RowStore::new(layout),
            null_group: None,
            dirty: Vec::new(),
            changed: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn bytes(&self) -> usize {
        let heap = match &self.keys {
            Keys::Bytes { heap, .. } => heap.iter().map(Vec::capacity).sum(),
            _ => 0,
        };
        self.rows.bytes()
            + self.index.capacity() * 4
            + heap
            + self.dirty.capacity() * 8
            + self.changed.capacity() * 4
    }

    /// The groups of picked rows, made where they are new.
    pub fn intern(
        &mut self,
        batch: &BatchKeys,
        picked: Picked<'_>,
        out: &mut Vec<u32>,
    ) -> Result<(), TableError> {
        out.clear();
        match batch {
            BatchKeys::Unit => {
                if picked.len() > 0 && self.rows.len() == 0 {
                    self.rows.push();
                }
                out.resize(picked.len(), 0);
                Ok(())
            }
            BatchKeys::Int { values, nulls, hashes } => {
                self.room_for(picked.len())?;
                let mask = self.index.len() - 1;
                out.extend((0..picked.len()).map(|i| self.index[hashes[picked.at(i)] as usize & mask]));
                for (i, found) in out.iter_mut().enumerate() {
                    let group = found.wrapping_sub(1);
                    *found = if *found != 0 && self.rows.word(group, 0) == values[picked.at(i)] {
                        group
                    } else {
                        MISS
                    };
                }
                for (i, found) in out.iter_mut().enumerate() {
                    let row = picked.at(i);
                    if nulls.as_ref().is_some_and(|n| n.is_null(row)) {
                        *found = self.null();
                    } else if *found == MISS || self.null_group == Some(*found) {
                        *found = self.find_int(values[row], hashes[row]);
                    }
                }
                Ok(())
            }
            BatchKeys::Text { values, hashes } => {
                self.room_for(picked.len())?;
                for i in 0..picked.len() {
                    let row = picked.at(i);
                    out.push(if values.is_null(row) {
                        self.null()
                    } else {
                        self.find_bytes(values.value(row).as_bytes(), hashes[row])?
                    });
                }
                Ok(())
            }
            BatchKeys::Rows { values, hashes } => {
                self.room_for(picked.len())?;
                for i in 0..picked.len() {
                    let row = picked.at(i);
                    out.push(self.find_bytes(values.row(row).as_ref(), hashes[row])?);
                }
                Ok(())
            }
        }
    }

    /// The group of NULL, of key forms that keep it aside.
    fn null(&mut self) -> u32 {
        match self.null_group {
            Some(group) => group,
            None => {
                let group = self.rows.push();
                self.null_group = Some(group);
                group
            }
        }
    }

    fn find_int(&mut self, key: u64, hash: u32) -> u32 {
        let mask = self.index.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.index[slot] {
                0 => {
                    let group = self.rows.push();
                    *self.rows.word_mut(group, 0) = key;
                    self.index[slot] = group + 1;
                    return group;
                }
                found if self.rows.word(found - 1, 0) == key => return found - 1,
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn find_bytes(&mut self, key: &[u8], hash: u32) -> Result<u32, TableError> {
        let Keys::Bytes { hash: at, heap } = &mut self.keys else { unreachable!("asked by form") };
        let mask = self.index.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.index[slot] {
                0 => {
                    let place = store(heap, key)?;
                    let group = self.rows.push();
                    *self.rows.word_mut(group, 0) = place;
                    self.rows.set_half(group, *at, hash);
                    self.index[slot] = group + 1;
                    return Ok(group);
                }
                found => {
                    let group = found - 1;
                    if self.rows.half(group, *at) == hash && stored(heap, self.rows.word(group, 0)) == key {
                        return Ok(group);
                    }
                    slot = (slot + 1) & mask;
                }
            }
        }
    }

    /// Grows the index so that `more` keys fit.
    fn room_for(&mut self, more: usize) -> Result<(), TableError> {
        // Rows of a batch are mostly old keys: room is made for a part of them, again if need be.
        let wanted = self.rows.len() + more;
        if wanted >= MISS as usize {
            return Err(TableError::Full);
        }
        if wanted * 10 <= self.index.len() * LOAD_TENTHS {
            return Ok(());
        }
        let slots = (wanted * 10 / LOAD_TENTHS + 1).next_power_of_two().max(16);
        self.build_index(slots);
        Ok(())
    }

    fn build_index(&mut self, slots: usize) {
        // The old one goes first: it is made again from the rows.
        self.index = Vec::new();
        self.index = vec![0; slots];
        let mask = slots - 1;
        for group in 0..self.rows.len() as u32 {
            if self.null_group == Some(group) {
                continue;
            }
            let hash = match &self.keys {
                Keys::Unit => continue,
                Keys::Int => hash_word(self.rows.word(group, 0)),
                Keys::Bytes { hash, .. } => self.rows.half(group, *hash),
            };
            let mut slot = hash as usize & mask;
            while self.index[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            self.index[slot] = group + 1;
        }
    }

    /// Marks groups as changed; gives those that were not.
    pub fn mark(&mut self, groups: &[u32]) -> usize {
        let before = self.changed.len();
        self.dirty.resize(self.rows.len().div_ceil(64), 0);
        for group in groups {
            let (word, bit) = (&mut self.dirty[*group as usize / 64], 1 << (group % 64));
            if *word & bit == 0 {
                *word |= bit;
                self.changed.push(*group);
            }
        }
        before
    }

    /// Groups changed since the last [`Self::clean`], in the order of their first change.
    pub fn changed(&self) -> &[u32] {
        &self.changed
    }

    pub fn clean(&mut self) {
        for group in self.changed.drain(..) {
            self.dirty[group as usize / 64] = 0;
        }
        self.changed.shrink_to(1 << 16);
    }

    /// The key columns of groups.
    pub fn key_columns(&self, form: &KeyForm, groups: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        let null = |g: u32| self.null_group == Some(g);
        Ok(match (form, &self.keys) {
            (KeyForm::Unit, _) => Vec::new(),
            (KeyForm::Int { .. }, _) => {
                let words = groups.iter().map(|g| (!null(*g)).then(|| self.rows.word(*g, 0)));
                vec![form.int_column(words)?]
            }
            (KeyForm::Text, Keys::Bytes { heap, .. }) => {
                let values: StringArray = groups
                    .iter()
                    .map(|g| {
                        (!null(*g)).then(|| {
                            std::str::from_utf8(stored(heap, self.rows.word(*g, 0)))
                                .expect("bytes of a string array")
                        })
                    })
                    .collect();
                vec![Arc::new(values) as ArrayRef]
            }
            (KeyForm::Rows(converter), Keys::Bytes { heap, .. }) => {
                let parser = converter.parser();
                let rows = groups.iter().map(|g| parser.parse(stored(heap, self.rows.word(*g, 0))));
                converter.convert_rows(rows)?
            }
            _ => unreachable!("a table has the form it was made with"),
        })
    }

    /// Orders groups by key, NULL first.
    pub fn sort(&self, form: &KeyForm, groups: &mut [u32]) {
        let null = |g: &u32| self.null_group == Some(*g);
        let flip = if form.signed() { 1u64 << 63 } else { 0 };
        match &self.keys {
            Keys::Unit => {}
            Keys::Int => groups.sort_unstable_by_key(|g| (!null(g), self.rows.word(*g, 0) ^ flip)),
            Keys::Bytes { heap, .. } => groups.sort_unstable_by(|a, b| match (null(a), null(b)) {
                (true, _) => Ordering::Less,
                (_, true) => Ordering::Greater,
                _ => stored(heap, self.rows.word(*a, 0)).cmp(stored(heap, self.rows.word(*b, 0))),
            }),
        }
    }

    pub fn save(&self, out: &mut Writer) {
        self.rows.save(out);
        out.u64(self.null_group.map_or(0, |g| u64::from(g) + 1));
        if let Keys::Bytes { heap, .. } = &self.keys {
            out.u64(heap.len() as u64);
            heap.iter().for_each(|s| out.bytes(s));
        }
        out.u64(self.changed.len() as u64);
        self.changed.iter().for_each(|g| out.u64(u64::from(*g)));
    }

    pub fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.rows.load(from)?;
        self.null_group = from.u64()?.checked_sub(1).map(|g| g as u32);
        if let Keys::Bytes { heap, .. } = &mut self.keys {
            let n = from.count(8)?;
            *heap = (0..n).map(|_| from.bytes().map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        }
        let n = from.count(8)?;
        let changed = (0..n).map(|_| from.u64().map(|g| g as u32)).collect::<Result<Vec<_>, _>>()?;
        if changed.iter().any(|g| *g as usize >= self.rows.len()) {
            return Err(Damaged("a changed group does not exist"));
        }
        self.mark(&changed);
        if !matches!(self.keys, Keys::Unit) {
            self.build_index((self.rows.len() * 10 / LOAD_TENTHS + 1).next_power_of_two().max(16));
        }
        Ok(())
    }
}

/// Place of bytes in the heap: segment (24 bits), offset (20), length (20).
fn store(heap: &mut Vec<Vec<u8>>, key: &[u8]) -> Result<u64, TableError> {
    if key.len() >= HEAP_SEGMENT_BYTES {
        return Err(TableError::KeyTooLong(key.len()));
    }
    if heap.last().is_none_or(|s| s.len() + key.len() > HEAP_SEGMENT_BYTES) {
        if heap.len() == 1 << 24 {
            return Err(TableError::Full);
        }
        let first = heap.is_empty();
        heap.push(if first { Vec::new() } else { Vec::with_capacity(HEAP_SEGMENT_BYTES) });
    }
    let segment = heap.len() - 1;
    let bytes = &mut heap[segment];
    let place = (segment as u64) << 40 | (bytes.len() as u64) << 20 | key.len() as u64;
    bytes.extend_from_slice(key);
    Ok(place)
}

#[inline]
fn stored(heap: &[Vec<u8>], place: u64) -> &[u8] {
    let (segment, at, len) =
        ((place >> 40) as usize, (place >> 20) as usize & 0xF_FFFF, place as usize & 0xF_FFFF);
    &heap[segment][at..at + len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int32Array, UInt64Array};
    use arrow_schema::DataType;
    use std::collections::HashMap;
    use weir_base::Rng;

    fn check(types: &[DataType], columns: impl Fn(&[Option<u64>]) -> Vec<ArrayRef>) {
        let form = KeyForm::of(types).unwrap();
        let mut layout = Layout::default();
        let hash = GroupTable::reserve(&form, &mut layout);
        let mut table = GroupTable::new(&form, hash, &layout);
        let rng = Rng::seeded(7);
        let mut model: HashMap<Option<u64>, u32> = HashMap::new();
        let mut order = Vec::new();
        for round in 0..30 {
            let keys: Vec<Option<u64>> =
                (0..500).map(|_| Some(rng.below(3_000)).filter(|k| k % 41 != 0)).collect();
            let batch = form.encode(&columns(&keys), keys.len()).unwrap();
            let listed: Vec<u32> = (0..500).filter(|i| i % 3 != 1).collect();
            let picked = if round % 2 == 0 { Picked::All(500) } else { Picked::Listed(&listed) };
            let mut groups = Vec::new();
            table.intern(&batch, picked, &mut groups).unwrap();
            for (i, group) in groups.iter().enumerate() {
                let key = keys[picked.at(i)];
                let expected = *model.entry(key).or_insert_with(|| {
                    order.push(key);
                    order.len() as u32 - 1
                });
                assert_eq!(*group, expected, "{key:?} in round {round}");
            }
            if round == 20 {
                let mut saved = Writer::default();
                table.save(&mut saved);
                table = GroupTable::new(&form, hash, &layout);
                table.load(&mut Reader(&saved.0)).unwrap();
            }
        }
        let mut groups: Vec<u32> = (0..table.len() as u32).collect();
        assert_eq!(&table.key_columns(&form, &groups).unwrap(), &columns(&order));
        table.sort(&form, &mut groups);
        let mut sorted = order.clone();
        sorted.sort();
        assert_eq!(&table.key_columns(&form, &groups).unwrap(), &columns(&sorted));
    }

    #[test]
    fn integers() {
        check(&[DataType::UInt64], |k| vec![Arc::new(k.iter().copied().collect::<UInt64Array>())]);
        check(&[DataType::Int32], |k| {
            vec![Arc::new(k.iter().map(|v| v.map(|v| v as i32 - 10)).collect::<Int32Array>())]
        });
    }

    #[test]
    fn strings_and_several_columns() {
        let text = |k: &[Option<u64>]| -> ArrayRef {
            Arc::new(k.iter().map(|v| v.map(|v| format!("key {v:09}"))).collect::<StringArray>())
        };
        check(&[DataType::Utf8], |k| vec![text(k)]);
        check(&[DataType::UInt64, DataType::Utf8], |k| {
            vec![Arc::new(k.iter().map(|v| v.map(|v| v / 7)).collect::<UInt64Array>()), text(k)]
        });
    }

    #[test]
    fn marks_are_given_once_until_cleaned() {
        let form = KeyForm::of(&[DataType::UInt64]).unwrap();
        let mut layout = Layout::default();
        GroupTable::reserve(&form, &mut layout);
        let mut table = GroupTable::new(&form, None, &layout);
        let keys: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..200));
        let mut groups = Vec::new();
        table.intern(&form.encode(&[keys], 200).unwrap(), Picked::All(200), &mut groups).unwrap();
        table.mark(&[3, 3, 150]);
        table.mark(&[150, 2]);
        assert_eq!(table.changed(), [3, 150, 2]);
        table.clean();
        assert_eq!(table.changed(), [0u32; 0]);
        table.mark(&[150]);
        assert_eq!(table.changed(), [150]);
    }
}
