//! One segment file: its header, its footer and what readers know of it.
//!
//! `header (64 bytes) | keys record | records … | footer record | trailer (64 bytes)`; the
//! last two only once it is sealed, before that zeros follow the records. The keys are the
//! idempotency keys of all records before the segment. Header and keys are synced under a
//! temporary name before the file gets its own, so a named file has them.
//!
//! Not here: the order of the steps (`core`, `recover`).

use crate::index::{ENTRY_BYTES, SparseIndex};
use crate::{ReadError, SegmentInfo};
use std::io;
use std::sync::Arc;
use weir_base::{AppendTime, DiskFile, EventTime, SeqNo};

pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;
pub(crate) const TRAILER_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"WEIRSEG1";
const TRAILER_MAGIC: [u8; 8] = *b"WEIREND1";
const SUFFIX: &str = ".seg";
pub(crate) const TMP_SUFFIX: &str = ".tmp";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Counts the segments of a log from 0, so that a missing one is noticed.
    pub number: u64,
    pub base: SeqNo,
    /// Seeds every record checksum of the segment.
    pub salt: u64,
    pub created_us: i64,
    /// Nothing in the segment has a lower append time.
    pub append_floor: AppendTime,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut out = [0; SEGMENT_HEADER_BYTES as usize];
        out[..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.base.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.salt.to_le_bytes());
        out[32..40].copy_from_slice(&self.created_us.to_le_bytes());
        out[40..48].copy_from_slice(&self.append_floor.0.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < SEGMENT_HEADER_BYTES as usize {
            return Err("the file is shorter than a segment header");
        }
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..8] != MAGIC {
            return Err("this is not a log segment of a version this program knows");
        }
        if bytes[60..64] != crc32c::crc32c(&bytes[..60]).to_le_bytes() {
            return Err("the segment header does not match its checksum");
        }
        let base = SeqNo(u64_at(16));
        if base > SeqNo::MAX {
            return Err("the segment header contradicts itself");
        }
        Ok(SegmentHeader {
            number: u64_at(8),
            base,
            salt: u64_at(24),
            created_us: u64_at(32) as i64,
            append_floor: AppendTime(u64_at(40) as i64),
        })
    }
}

/// What a sealed segment says about itself: the payload of its footer record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub end: SeqNo,
    /// Where the records end and the footer record starts.
    pub records_end: u64,
    pub append_first: AppendTime,
    pub append_last: AppendTime,
    pub event_max: EventTime,
    /// The last record takes no sequence number.
    pub ends_in_mark: bool,
    pub index: SparseIndex,
}

const FOOTER_FIXED: usize = 48;

impl Footer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_FIXED + ENTRY_BYTES);
        out.extend_from_slice(&self.end.0.to_le_bytes());
        out.extend_from_slice(&self.records_end.to_le_bytes());
        out.extend_from_slice(&self.append_first.0.to_le_bytes());
        out.extend_from_slice(&self.append_last.0.to_le_bytes());
        out.extend_from_slice(&self.event_max.0.to_le_bytes());
        out.extend_from_slice(&u64::from(self.ends_in_mark).to_le_bytes());
        self.index.encode(&mut out);
        out
    }

    /// Whether numbers and places can be those of the segment that begins so.
    pub fn fits(&self, header: &SegmentHeader) -> bool {
        let has_records = self.end > header.base || self.ends_in_mark;
        self.end >= header.base
            && self.records_end >= SEGMENT_HEADER_BYTES
            && self.index.fits(header.base, self.end, SEGMENT_HEADER_BYTES, self.records_end)
            && has_records == self.index.first_offset().is_some()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, index) = bytes.split_at_checked(FOOTER_FIXED)?;
        let u64_at = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
        Some(Footer {
            end: SeqNo(u64_at(0)),
            records_end: u64_at(8),
            append_first: AppendTime(u64_at(16) as i64),
            append_last: AppendTime(u64_at(24) as i64),
            event_max: EventTime(u64_at(32) as i64),
            ends_in_mark: u64_at(40) != 0,
            index: SparseIndex::decode(index)?,
        })
    }
}

/// The last bytes of a sealed segment: where its footer record starts.
pub(crate) fn encode_trailer(salt: u64, footer_offset: u64) -> [u8; TRAILER_BYTES as usize] {
    let mut out = [0; TRAILER_BYTES as usize];
    out[..8].copy_from_slice(&TRAILER_MAGIC);
    out[8..16].copy_from_slice(&footer_offset.to_le_bytes());
    out[16..24].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Where the footer record starts, or `None` if this is no trailer of that segment.
pub(crate) fn decode_trailer(bytes: &[u8], salt: u64) -> Option<u64> {
    let (head, crc) = bytes.split_at_checked(60)?;
    let sound = head[..8] == TRAILER_MAGIC
        && head[16..24] == salt.to_le_bytes()
        && crc == crc32c::crc32c(head).to_le_bytes();
    sound.then(|| u64::from_le_bytes(head[8..16].try_into().expect("eight bytes")))
}

pub(crate) fn file_name(number: u64, base: SeqNo) -> String {
    format!("{number:010}-{:020}{SUFFIX}", base.0)
}

/// Number and base from a file's name, `None` for names that are no segment's.
pub(crate) fn parse_file_name(name: &str) -> Option<(u64, SeqNo)> {
    let (number, base) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    Some((number.parse().ok()?, SeqNo(base.parse().ok()?)))
}

/// What readers know of a segment. Of the one being written only what is durable.
#[derive(Debug, Clone)]
pub(crate) struct SegmentState {
    pub path: String,
    pub header: SegmentHeader,
    pub end: SeqNo,
    /// One past the last durable record.
    pub records_end: u64,
    pub file_bytes: u64,
    pub append_first: Option<AppendTime>,
    pub append_last: AppendTime,
    pub event_max: EventTime,
    /// The last record takes no sequence number: it belongs to the row after it.
    pub ends_in_mark: bool,
    pub index: SparseIndex,
    /// Open while it is written; sealed segments are opened when read.
    pub file: Option<Arc<dyn DiskFile>>,
}

impl SegmentState {
    pub fn new(path: String, header: SegmentHeader, file: Option<Arc<dyn DiskFile>>) -> Self {
        SegmentState {
            path,
            header,
            end: header.base,
            records_end: SEGMENT_HEADER_BYTES,
            file_bytes: SEGMENT_HEADER_BYTES,
            append_first: None,
            append_last: header.append_floor,
            event_max: EventTime(i64::MIN),
            ends_in_mark: false,
            index: SparseIndex::default(),
            file,
        }
    }

    /// Takes in the next durable record.
    pub fn note(&mut self, offset: u64, header: &crate::record::Header, interval_bytes: u64) {
        self.index.note(offset, header, interval_bytes);
        self.end = header.end();
        self.records_end = offset + header.record_len();
        self.append_first.get_or_insert(header.append_time);
        self.append_last = header.append_time;
        self.ends_in_mark = header.rows == 0;
        if header.rows > 0 {
            self.event_max = self.event_max.max(header.event_max);
        }
    }

    pub fn footer(&self) -> Footer {
        Footer {
            end: self.end,
            records_end: self.records_end,
            append_first: self.append_first.unwrap_or(self.append_last),
            append_last: self.append_last,
            event_max: self.event_max,
            ends_in_mark: self.ends_in_mark,
            index: self.index.clone(),
        }
    }

    pub fn info(&self) -> SegmentInfo {
        SegmentInfo {
            path: self.path.clone(),
            base: self.header.base,
            end: self.end,
            size_bytes: self.file_bytes.max(self.records_end),
            sealed: self.file.is_none(),
            first_append_time: self.append_first.unwrap_or(self.append_last),
            last_append_time: self.append_last,
        }
    }
}

pub(crate) fn read_error(path: &str, source: io::Error) -> ReadError {
    ReadError::Io { path: path.to_owned(), source: Arc::new(source) }
}

pub(crate) fn corrupt(path: &str, offset: u64, what: &str) -> ReadError {
    ReadError::Corrupt { path: path.to_owned(), offset, what: what.to_owned() }
}
