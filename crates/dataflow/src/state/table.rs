//! Groups by key: a hash index of u32 over rows of words, keys stored once.
//!
//! Open addressing with linear probing. A slot holds a group and, in the bits that groups of its index
//! do not need, the end of the key's hash, so that a row is looked at only where it is nearly sure to be
//! the right one. A few hundred rows are looked up in passes (slots, rows, key bytes), each of which
//! asks for what the next needs, so that the loads of a pass wait for memory together.
//!
//! Not here: what a key's columns are (`keys`), what aggregates keep (`agg`).

use super::bits::Bits;
use super::block::{Block, HUGE_BYTES, prefetch};
use super::bytes::{Damaged, Reader, Writer};
use super::keys::{BatchKeys, Key, KeyForm, hash_word};
use super::rows::{Half, Layout, RowStore};
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_buffer::NullBuffer;
use arrow_row::Rows;
use arrow_schema::ArrowError;
use std::cmp::Ordering;
use std::sync::Arc;

/// Bytes of a heap segment; a key must fit one.
const HEAP_SEGMENT_BYTES: usize = HUGE_BYTES;
const HEAP_SHIFT: u32 = HEAP_SEGMENT_BYTES.trailing_zeros();
/// Bytes of a first segment at first.
const HEAP_FIRST_BYTES: usize = 256;
/// The most of ten index slots that are used.
const LOAD_TENTHS: usize = 7;
/// An index that fits the nearest caches has room to spare: what costs there is looking at a second slot.
const SLOTS_SPARE: usize = 1 << 14;
const LOAD_TENTHS_SPARE: usize = 3;
const SLOTS_MIN: usize = 16;
const SLOTS_MAX: usize = 1 << 31;
const MISS: u32 = u32::MAX;
/// Rows that are looked up together: what they touch fits the first two caches.
pub(crate) const CHUNK_ROWS: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    #[error("a key has {0} bytes, the limit is {HEAP_SEGMENT_BYTES}")]
    KeyTooLong(usize),
    #[error("more than {SLOTS_MAX} keys in one table")]
    Full,
}

/// Which rows of a batch are meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Picked<'a> {
    /// So many from one on.
    Run {
        first: usize,
        len: usize,
    },
    Listed(&'a [u32]),
}

impl<'a> Picked<'a> {
    pub fn all(len: usize) -> Self {
        Picked::Run { first: 0, len }
    }
    pub fn len(&self) -> usize {
        match self {
            Picked::Run { len, .. } => *len,
            Picked::Listed(rows) => rows.len(),
        }
    }
    #[inline]
    pub fn at(&self, i: usize) -> usize {
        match self {
            Picked::Run { first, .. } => first + i,
            Picked::Listed(rows) => rows[i] as usize,
        }
    }
    /// Pieces of a bounded number of rows.
    pub fn chunks(self, rows_max: usize) -> impl Iterator<Item = Picked<'a>> {
        (0..self.len()).step_by(rows_max).map(move |at| {
            let len = rows_max.min(self.len() - at);
            match self {
                Picked::Run { first, .. } => Picked::Run { first: first + at, len },
                Picked::Listed(rows) => Picked::Listed(&rows[at..at + len]),
            }
        })
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
        heap: Heap,
    },
}

/// Slots of group + 1 below, the end of a hash above; 0 = free.
#[derive(Debug, Default)]
struct Index {
    /// Empty or a power of two.
    slots: Block<u32>,
    /// Bits of a slot's number, which are those of a group too: there are fewer groups than slots.
    bits: u32,
}

impl Index {
    #[inline]
    fn mask(&self) -> u32 {
        (1 << self.bits) - 1
    }

    #[inline]
    fn prefetch(&self, hash: u32) {
        prefetch(&self.slots[(hash & self.mask()) as usize]);
    }

    /// The first group that may have this hash.
    #[inline]
    fn first(&self, hash: u32) -> u32 {
        let (mask, end) = (self.mask(), hash >> self.bits);
        let mut slot = hash & mask;
        loop {
            let held = self.slots[slot as usize];
            if held == 0 {
                return MISS;
            }
            if held >> self.bits == end {
                return (held & mask) - 1;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The group for which `is` holds among those that may have this hash.
    #[inline]
    fn find(&self, hash: u32, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let (mask, end) = (self.mask(), hash >> self.bits);
        let mut slot = hash & mask;
        loop {
            let held = self.slots[slot as usize];
            if held == 0 {
                return None;
            }
            if held >> self.bits == end && is((held & mask) - 1) {
                return Some((held & mask) - 1);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, hash: u32, group: u32) {
        let (mask, end) = (self.mask(), hash >> self.bits);
        let mut slot = hash & mask;
        while self.slots[slot as usize] != 0 {
            slot = (slot + 1) & mask;
        }
        // A shift by all bits would keep them.
        self.slots[slot as usize] = end << self.bits | (group + 1);
    }
}

#[derive(Debug)]
pub(crate) struct GroupTable {
    keys: Keys,
    index: Index,
    pub rows: RowStore,
    null_group: Option<u32>,
    /// Changed since they were last emitted.
    dirty: Bits,
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
            (_, Some(hash)) => Keys::Bytes { hash, heap: Heap::default() },
            (_, None) => unreachable!("byte keys reserve a hash"),
        };
        GroupTable {
            keys,
            index: Index::default(),
            rows: RowStore::new(layout),
            null_group: None,
            dirty: Bits::default(),
            changed: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no keys: one group.
    pub fn is_unit(&self) -> bool {
        matches!(self.keys, Keys::Unit)
    }

    /// The one group there is without keys, before any row.
    pub fn add_unit(&mut self) {
        debug_assert!(self.is_unit() && self.rows.len() == 0);
        self.rows.push();
    }

    pub fn bytes(&self) -> usize {
        let heap = match &self.keys {
            Keys::Bytes { heap, .. } => heap.bytes(),
            _ => 0,
        };
        self.rows.bytes() + self.index.slots.bytes() + heap + self.dirty.bytes() + self.changed.capacity() * 4
    }

    /// The groups of picked rows, made where they are new. Fast for up to [`CHUNK_ROWS`] at a time.
    pub fn intern(
        &mut self,
        batch: &BatchKeys,
        picked: Picked<'_>,
        out: &mut Vec<u32>,
    ) -> Result<(), TableError> {
        out.clear();
        if picked.len() == 0 {
            return Ok(());
        }
        match batch {
            BatchKeys::Unit => {
                self.unit();
                out.resize(picked.len(), 0);
                Ok(())
            }
            BatchKeys::Int { values, nulls, hashes } => {
                self.first_guess(hashes, picked, out)?;
                self.intern_ints(values, nulls.as_ref(), hashes, picked, out)
            }
            BatchKeys::Text { values, hashes } => {
                self.first_guess(hashes, picked, out)?;
                self.intern_bytes(hashes, picked, out, |row| {
                    values.is_valid(row).then(|| values.value(row).as_bytes())
                })
            }
            BatchKeys::Rows { values, hashes } => {
                self.first_guess(hashes, picked, out)?;
                self.intern_rows(values, hashes, picked, out)
            }
        }
    }

    /// Groups that may be those of the rows; asks for their rows.
    fn first_guess(
        &mut self,
        hashes: &[u32],
        picked: Picked<'_>,
        out: &mut Vec<u32>,
    ) -> Result<(), TableError> {
        self.room_for_one()?;
        for i in 0..picked.len() {
            self.index.prefetch(hashes[picked.at(i)]);
        }
        out.extend((0..picked.len()).map(|i| {
            let guess = self.index.first(hashes[picked.at(i)]);
            if guess != MISS {
                self.rows.prefetch(guess);
            }
            guess
        }));
        Ok(())
    }

    fn intern_ints(
        &mut self,
        values: &[u64],
        nulls: Option<&NullBuffer>,
        hashes: &[u32],
        picked: Picked<'_>,
        out: &mut [u32],
    ) -> Result<(), TableError> {
        for (i, group) in out.iter_mut().enumerate() {
            let row = picked.at(i);
            if nulls.is_some_and(|n| n.is_null(row)) {
                *group = self.null();
            } else if *group == MISS || self.rows.word(*group, 0) != values[row] {
                *group = self.find_int(values[row], hashes[row])?;
            }
        }
        Ok(())
    }

    fn intern_rows(
        &mut self,
        values: &Rows,
        hashes: &[u32],
        picked: Picked<'_>,
        out: &mut [u32],
    ) -> Result<(), TableError> {
        // A row of the format borrows from its own handle only: no NULL aside, so no Option either.
        self.ask_for_bytes(hashes, picked, out);
        for (i, group) in out.iter_mut().enumerate() {
            let row = picked.at(i);
            *group = self.find_guessed(values.row(row).as_ref(), hashes[row], *group)?;
        }
        Ok(())
    }

    fn intern_bytes<'a>(
        &mut self,
        hashes: &[u32],
        picked: Picked<'_>,
        out: &mut [u32],
        key: impl Fn(usize) -> Option<&'a [u8]>,
    ) -> Result<(), TableError> {
        self.ask_for_bytes(hashes, picked, out);
        for (i, group) in out.iter_mut().enumerate() {
            let row = picked.at(i);
            *group = match key(row) {
                None => self.null(),
                Some(key) => self.find_guessed(key, hashes[row], *group)?,
            };
        }
        Ok(())
    }

    /// Asks for the key bytes of guessed groups that have the whole hash; others are no longer guessed.
    fn ask_for_bytes(&self, hashes: &[u32], picked: Picked<'_>, out: &mut [u32]) {
        let Keys::Bytes { hash, heap } = &self.keys else { unreachable!("asked by form") };
        for (i, group) in out.iter_mut().enumerate() {
            if *group == MISS {
                continue;
            }
            if self.rows.half(*group, *hash) == hashes[picked.at(i)] {
                heap.prefetch(self.rows.word(*group, 0));
            } else {
                *group = MISS;
            }
        }
    }

    fn find_guessed(&mut self, key: &[u8], hash: u32, guess: u32) -> Result<u32, TableError> {
        let Keys::Bytes { heap, .. } = &self.keys else { unreachable!("asked by form") };
        if guess != MISS && heap.get(self.rows.word(guess, 0)) == key {
            return Ok(guess);
        }
        self.find_bytes(key, hash)
    }

    /// The one group of a table without keys.
    fn unit(&mut self) -> u32 {
        if self.rows.len() == 0 {
            self.rows.push();
        }
        0
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

    fn find_int(&mut self, key: u64, hash: u32) -> Result<u32, TableError> {
        if let Some(group) = self.index.find(hash, |g| self.rows.word(g, 0) == key) {
            return Ok(group);
        }
        self.room_for_one()?;
        let group = self.rows.push();
        *self.rows.word_mut(group, 0) = key;
        self.index.insert(hash, group);
        Ok(group)
    }

    fn find_bytes(&mut self, key: &[u8], hash: u32) -> Result<u32, TableError> {
        let Keys::Bytes { hash: at, heap } = &self.keys else { unreachable!("asked by form") };
        let at = *at;
        let is = |g| self.rows.half(g, at) == hash && heap.get(self.rows.word(g, 0)) == key;
        if let Some(group) = self.index.find(hash, is) {
            return Ok(group);
        }
        self.room_for_one()?;
        let Keys::Bytes { heap, .. } = &mut self.keys else { unreachable!("asked above") };
        let place = heap.push(key)?;
        let group = self.rows.push();
        *self.rows.word_mut(group, 0) = place;
        self.rows.set_half(group, at, hash);
        self.index.insert(hash, group);
        Ok(group)
    }

    /// The group of one key.
    pub fn intern_one(&mut self, key: Key<'_>, hash: u32) -> Result<u32, TableError> {
        if !matches!(key, Key::Unit | Key::Null) {
            self.room_for_one()?;
        }
        match key {
            Key::Unit => Ok(self.unit()),
            Key::Null => Ok(self.null()),
            Key::Int(word) => self.find_int(word, hash),
            Key::Bytes(bytes) => self.find_bytes(bytes, hash),
        }
    }

    /// Brings the place of a key in the index near, so that looking it up soon waits for less.
    pub fn ask_for(&self, hash: u32) {
        if !self.index.slots.is_empty() {
            self.index.prefetch(hash);
        }
    }

    /// The group of a key, if it has one.
    pub fn find_one(&self, key: Key<'_>, hash: u32) -> Option<u32> {
        match (key, &self.keys) {
            (Key::Unit, _) => (self.rows.len() > 0).then_some(0),
            (Key::Null, _) => self.null_group,
            _ if self.index.slots.is_empty() => None,
            (Key::Int(word), _) => self.index.find(hash, |g| self.rows.word(g, 0) == word),
            (Key::Bytes(key), Keys::Bytes { hash: at, heap }) => self
                .index
                .find(hash, |g| self.rows.half(g, *at) == hash && heap.get(self.rows.word(g, 0)) == key),
            (Key::Bytes(_), _) => unreachable!("a key has the form of its table"),
        }
    }

    /// Keys of picked rows that have no group, some more than once.
    pub fn missing<'a>(&self, batch: &'a BatchKeys, picked: Picked<'_>) -> Vec<(u32, Key<'a>)> {
        let keys = (0..picked.len()).map(|i| batch.key(picked.at(i)));
        keys.filter(|(hash, key)| self.find_one(*key, *hash).is_none()).collect()
    }

    /// The key of a group.
    pub fn key(&self, group: u32) -> Key<'_> {
        if self.null_group == Some(group) {
            return Key::Null;
        }
        match &self.keys {
            Keys::Unit => Key::Unit,
            Keys::Int => Key::Int(self.rows.word(group, 0)),
            Keys::Bytes { heap, .. } => Key::Bytes(heap.get(self.rows.word(group, 0))),
        }
    }

    /// Grows the index so that one more key fits.
    #[inline]
    fn room_for_one(&mut self) -> Result<(), TableError> {
        let slots = self.index.slots.len();
        let load = if slots < SLOTS_SPARE { LOAD_TENTHS_SPARE } else { LOAD_TENTHS };
        if (self.rows.len() + 1) * 10 <= slots * load { Ok(()) } else { self.grow_index(slots) }
    }

    #[cold]
    fn grow_index(&mut self, slots: usize) -> Result<(), TableError> {
        if slots == SLOTS_MAX {
            return Err(TableError::Full);
        }
        // The old one goes first: it is made again from the rows.
        let slots = (slots * 2).max(SLOTS_MIN);
        self.index = Index::default();
        self.index = Index { slots: Block::zeroed(slots), bits: slots.trailing_zeros() };
        let n = self.rows.len() as u32;
        let mut hashes = [0; CHUNK_ROWS];
        for first in (0..n).step_by(CHUNK_ROWS) {
            let groups = first..n.min(first + CHUNK_ROWS as u32);
            for (hash, group) in hashes.iter_mut().zip(groups.clone()) {
                *hash = match &self.keys {
                    Keys::Unit => unreachable!("a table without keys has no index"),
                    Keys::Int => hash_word(self.rows.word(group, 0)),
                    Keys::Bytes { hash, .. } => self.rows.half(group, *hash),
                };
                self.index.prefetch(*hash);
            }
            for (hash, group) in hashes.iter().zip(groups) {
                if self.null_group != Some(group) {
                    self.index.insert(*hash, group);
                }
            }
        }
        Ok(())
    }

    /// Marks groups as changed; gives those that were not.
    pub fn mark(&mut self, groups: &[u32]) -> usize {
        let before = self.changed.len();
        for group in groups {
            if self.dirty.insert(*group) {
                self.changed.push(*group);
            }
        }
        before
    }

    pub fn is_changed(&self, group: u32) -> bool {
        self.dirty.contains(group)
    }

    /// Groups changed since the last [`Self::clean`], in the order of their first change.
    pub fn changed(&self) -> &[u32] {
        &self.changed
    }

    pub fn clean(&mut self) {
        for group in self.changed.drain(..) {
            self.dirty.remove(group);
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
                            std::str::from_utf8(heap.get(self.rows.word(*g, 0)))
                                .expect("bytes of a string array")
                        })
                    })
                    .collect();
                vec![Arc::new(values) as ArrayRef]
            }
            (KeyForm::Rows(converter), Keys::Bytes { heap, .. }) => {
                let parser = converter.parser();
                let rows = groups.iter().map(|g| parser.parse(heap.get(self.rows.word(*g, 0))));
                converter.convert_rows(rows)?
            }
            _ => unreachable!("a table has the form it was made with"),
        })
    }

    /// The words of a group behind its key.
    pub fn save_words(&self, group: u32, out: &mut Writer) {
        (self.key_words()..self.rows.width()).for_each(|at| out.u64(self.rows.word(group, at)));
    }

    pub fn load_words(&mut self, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        for at in self.key_words()..self.rows.width() {
            *self.rows.word_mut(group, at) = from.u64()?;
        }
        Ok(())
    }

    /// Words of a row that say what its key is and where: they are the table's own.
    fn key_words(&self) -> usize {
        usize::from(!matches!(self.keys, Keys::Unit))
    }

    /// All groups by key, NULL first.
    pub fn sorted(&self, form: &KeyForm) -> Vec<u32> {
        // What decides mostly lies beside the group: looking into the rows would miss the cache at
        // each comparison.
        // Three halves of a word each, since there are many.
        let mut all: Vec<[u32; 3]> = Vec::with_capacity(self.len());
        for group in (0..self.len() as u32).filter(|g| self.null_group != Some(*g)) {
            let prefix = prefix(form, self.key(group));
            all.push([(prefix >> 32) as u32, prefix as u32, group]);
        }
        match &self.keys {
            Keys::Unit | Keys::Int => all.sort_unstable(),
            Keys::Bytes { heap, .. } => {
                let bytes = |g: u32| heap.get(self.rows.word(g, 0));
                all.sort_unstable_by(|a, b| a[..2].cmp(&b[..2]).then_with(|| bytes(a[2]).cmp(bytes(b[2]))));
            }
        }
        self.null_group.into_iter().chain(all.iter().map(|[_, _, g]| *g)).collect()
    }
}

/// Orders as keys do, as far as eight bytes can.
fn prefix(form: &KeyForm, key: Key<'_>) -> u64 {
    match key {
        Key::Unit | Key::Null => 0,
        Key::Int(word) => word ^ if form.signed() { 1 << 63 } else { 0 },
        Key::Bytes(bytes) => {
            let mut first = [0; 8];
            let n = bytes.len().min(8);
            first[..n].copy_from_slice(&bytes[..n]);
            u64::from_be_bytes(first)
        }
    }
}

/// NULL first, then as the column's values.
pub(crate) fn compare(form: &KeyForm, a: Key<'_>, b: Key<'_>) -> Ordering {
    let rank = |key: &Key<'_>| !matches!(key, Key::Null);
    rank(&a).cmp(&rank(&b)).then_with(|| match (a, b) {
        (Key::Bytes(a), Key::Bytes(b)) => a.cmp(b),
        _ => prefix(form, a).cmp(&prefix(form, b)),
    })
}

/// Bytes of keys, one behind the other in segments that never move.
#[derive(Debug, Default)]
struct Heap {
    segments: Vec<Block<u8>>,
    /// Bytes of the last segment that are used.
    used: usize,
}

impl Heap {
    /// Gives the place: segment (22 bits), offset (21), length (21).
    fn push(&mut self, key: &[u8]) -> Result<u64, TableError> {
        if key.len() >= HEAP_SEGMENT_BYTES {
            return Err(TableError::KeyTooLong(key.len()));
        }
        let (end, segments) = (self.used + key.len(), self.segments.len());
        match self.segments.last_mut() {
            Some(last) if end <= last.len() => {}
            Some(last) if end <= HEAP_SEGMENT_BYTES => last.grow(end.next_power_of_two()),
            _ if segments == 1 << (64 - 2 * HEAP_SHIFT) => return Err(TableError::Full),
            last => {
                let bytes = match last {
                    None => key.len().next_power_of_two().max(HEAP_FIRST_BYTES),
                    Some(_) => HEAP_SEGMENT_BYTES,
                };
                self.segments.push(Block::zeroed(bytes));
                self.used = 0;
            }
        }
        let segment = self.segments.len() - 1;
        let at = self.used;
        self.segments[segment][at..at + key.len()].copy_from_slice(key);
        self.used += key.len();
        Ok((segment as u64) << (2 * HEAP_SHIFT) | (at as u64) << HEAP_SHIFT | key.len() as u64)
    }

    #[inline]
    fn get(&self, place: u64) -> &[u8] {
        const MASK: usize = HEAP_SEGMENT_BYTES - 1;
        let (segment, at) = ((place >> (2 * HEAP_SHIFT)) as usize, (place >> HEAP_SHIFT) as usize & MASK);
        &self.segments[segment][at..at + (place as usize & MASK)]
    }

    #[inline]
    fn prefetch(&self, place: u64) {
        let bytes = self.get(place);
        if let (Some(first), Some(last)) = (bytes.first(), bytes.last()) {
            prefetch(first);
            prefetch(last);
        }
    }

    fn bytes(&self) -> usize {
        self.segments.iter().map(Block::bytes).sum()
    }
}

#[cfg(test)]
mod tests;
