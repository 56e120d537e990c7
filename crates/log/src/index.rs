//! The sparse index of one segment: by sequence number, append time and event time.
//!
//! One entry for about `index_interval_bytes` of log. Lookups may come out early by up to
//! one interval, never late, and do no I/O.

use crate::record::{ALIGN, Header};
use weir_base::{AppendTime, EventTime, SeqNo};

/// A run of records: from `offset` to the next entry's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Base of the first record.
    pub sn: SeqNo,
    pub offset: u64,
    /// Greatest of the run.
    pub append_last: AppendTime,
    /// Greatest of the run's rows; `EventTime(i64::MIN)` without rows.
    pub event_max: EventTime,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    entries: Vec<IndexEntry>,
}

pub(crate) const ENTRY_BYTES: usize = 32;

impl SparseIndex {
    /// Takes note of the record at `offset`; records come in file order.
    pub fn note(&mut self, offset: u64, header: &Header, interval_bytes: u64) {
        let event_max = if header.rows == 0 { EventTime(i64::MIN) } else { header.event_max };
        match self.entries.last_mut() {
            Some(last) if offset - last.offset < interval_bytes => {
                last.append_last = header.append_time;
                last.event_max = last.event_max.max(event_max);
            }
            _ => self.entries.push(IndexEntry {
                sn: header.base,
                offset,
                append_last: header.append_time,
                event_max,
            }),
        }
    }

    /// The offset at or before the record that holds `sn`, and before marks right in front
    /// of it. `None` without records.
    pub fn offset_of(&self, sn: SeqNo) -> Option<u64> {
        // Marks share their base with the record after them, so equal is not early enough.
        let after = self.entries.partition_point(|e| e.sn < sn);
        self.entries.get(after.saturating_sub(1)).map(|e| e.offset)
    }

    /// Where the first record lies; `None` without records.
    pub fn first_offset(&self) -> Option<u64> {
        self.entries.first().map(|e| e.offset)
    }

    /// Where the first run with a row at or after `from` starts.
    pub fn seek_event(&self, from: EventTime) -> Option<SeqNo> {
        self.entries.iter().find(|e| e.event_max >= from).map(|e| e.sn)
    }

    pub fn seek_append(&self, from: AppendTime) -> Option<SeqNo> {
        self.entries.get(self.entries.partition_point(|e| e.append_last < from)).map(|e| e.sn)
    }

    /// Whether the entries go forward and lie within the records and numbers given.
    pub fn fits(&self, base: SeqNo, end: SeqNo, from: u64, to: u64) -> bool {
        let within = |e: &IndexEntry| {
            e.sn >= base && e.sn <= end && e.offset >= from && e.offset < to && e.offset.is_multiple_of(ALIGN)
        };
        let forward = |pair: &[IndexEntry]| pair[0].sn <= pair[1].sn && pair[0].offset < pair[1].offset;
        self.entries.first().is_none_or(|e| e.sn == base)
            && self.entries.iter().all(within)
            && self.entries.windows(2).all(forward)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for e in &self.entries {
            out.extend_from_slice(&e.sn.0.to_le_bytes());
            out.extend_from_slice(&e.offset.to_le_bytes());
            out.extend_from_slice(&e.append_last.0.to_le_bytes());
            out.extend_from_slice(&e.event_max.0.to_le_bytes());
        }
    }

    /// `None` unless `bytes` is whole entries.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        let at = |c: &[u8; ENTRY_BYTES], i: usize| {
            u64::from_le_bytes(c[i..i + 8].try_into().expect("eight bytes"))
        };
        let entries = chunks.iter().map(|c| IndexEntry {
            sn: SeqNo(at(c, 0)),
            offset: at(c, 8),
            append_last: AppendTime(at(c, 16) as i64),
            event_max: EventTime(at(c, 24) as i64),
        });
        Some(SparseIndex { entries: entries.collect() })
    }
}
