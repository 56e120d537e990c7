//! Which records of which idempotent inserts are in the log.
//!
//! Bounded by ids (`idempotent_ids_max`, the ids written least recently go first) and by
//! records over all ids ([`RECORDS_MAX`]). An id goes as a whole.

use crate::{Append, AppendError, Appended, Idempotency};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weir_base::{AppendTime, SeqNo};

/// Records remembered over all ids, about 64 bytes each.
pub(crate) const RECORDS_MAX: usize = 1 << 17;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub content_hash: u64,
    pub base: SeqNo,
    pub rows: u32,
    pub append_time: AppendTime,
}

impl Seen {
    pub fn repeated(&self) -> Appended {
        Appended { base: self.base, rows: self.rows, append_time: self.append_time, repeated: true }
    }
}

#[derive(Debug, Default)]
struct Records {
    /// Rank of the last write under this id.
    turn: u64,
    by_no: BTreeMap<u32, Seen>,
}

#[derive(Debug)]
pub(crate) struct IdempotencyIndex {
    ids_max: usize,
    ids: HashMap<Arc<str>, Records>,
    /// Ids by rank, the least recently written first.
    turns: BTreeMap<u64, Arc<str>>,
    turn_next: u64,
    records: usize,
}

impl IdempotencyIndex {
    pub fn new(ids_max: usize) -> Self {
        IdempotencyIndex { ids_max, ids: HashMap::new(), turns: BTreeMap::new(), turn_next: 0, records: 0 }
    }

    /// The record if it is known. The same key with other rows is refused.
    pub fn check(&self, key: &Idempotency, append: &Append) -> Result<Option<Seen>, AppendError> {
        let Some(seen) = self.ids.get(&key.id).and_then(|r| r.by_no.get(&key.record_no)) else {
            return Ok(None);
        };
        same_rows(key, append, seen.content_hash, seen.rows)?;
        Ok(Some(*seen))
    }

    pub fn insert(&mut self, key: &Idempotency, seen: Seen) {
        if self.ids_max == 0 {
            return;
        }
        let turn = self.turn_next;
        self.turn_next += 1;
        let records = self.ids.entry(key.id.clone()).or_default();
        if !records.by_no.is_empty() {
            self.turns.remove(&records.turn);
        }
        records.turn = turn;
        if records.by_no.insert(key.record_no, seen).is_none() {
            self.records += 1;
        }
        self.turns.insert(turn, key.id.clone());
        while self.ids.len() > self.ids_max || (self.records > RECORDS_MAX && self.ids.len() > 1) {
            let (_, id) = self.turns.pop_first().expect("every id has a turn");
            let gone = self.ids.remove(&id).expect("every turn has an id");
            self.records -= gone.by_no.len();
        }
    }

    /// Whether one id holds all there is room for: its further records are refused, since
    /// forgetting its first ones would break the promise silently.
    pub fn refuses(&self, key: &Idempotency) -> bool {
        self.ids.get(&key.id).is_some_and(|r| r.by_no.len() >= RECORDS_MAX)
    }

    /// All that is remembered, in the order that [`IdempotencyIndex::decode_into`] needs.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for id in self.turns.values() {
            let records = &self.ids[id];
            out.push(id.len() as u8);
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&(records.by_no.len() as u32).to_le_bytes());
            for (no, seen) in &records.by_no {
                out.extend_from_slice(&no.to_le_bytes());
                out.extend_from_slice(&seen.content_hash.to_le_bytes());
                out.extend_from_slice(&seen.base.0.to_le_bytes());
                out.extend_from_slice(&seen.rows.to_le_bytes());
                out.extend_from_slice(&seen.append_time.0.to_le_bytes());
            }
        }
        out
    }

    /// Adds what [`IdempotencyIndex::encode`] wrote; `None` if the bytes are not that.
    pub fn decode_into(&mut self, mut bytes: &[u8]) -> Option<()> {
        while let Some((len, rest)) = bytes.split_first() {
            let (id, rest) = rest.split_at_checked(usize::from(*len))?;
            let id: Arc<str> = std::str::from_utf8(id).ok()?.into();
            let (count, mut rest) = rest.split_first_chunk::<4>()?;
            for _ in 0..u32::from_le_bytes(*count) {
                let (entry, after) = rest.split_first_chunk::<32>()?;
                let u32_at =
                    |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
                let u64_at =
                    |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
                let key = Idempotency { id: id.clone(), record_no: u32_at(0), content_hash: u64_at(4) };
                self.insert(
                    &key,
                    Seen {
                        content_hash: u64_at(4),
                        base: SeqNo(u64_at(12)),
                        rows: u32_at(20),
                        append_time: AppendTime(u64_at(24) as i64),
                    },
                );
                rest = after;
            }
            bytes = rest;
        }
        Some(())
    }
}

/// Refuses a key that was used with other rows.
pub(crate) fn same_rows(key: &Idempotency, append: &Append, hash: u64, rows: u32) -> Result<(), AppendError> {
    if key.content_hash == hash && append.rows == rows {
        return Ok(());
    }
    Err(AppendError::IdempotencyConflict { id: key.id.to_string(), record_no: key.record_no })
}
