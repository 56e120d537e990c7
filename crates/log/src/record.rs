//! How one record lies in a segment file.
//!
//! `header (84 bytes + progress + id, padded to 64) | payload | zeros to a multiple of 64`. Records
//! start at multiples of 64, so a payload does too, and Arrow reads it where it lies.
//! The header's checksum is seeded with the segment's salt and the record's offset: bytes
//! that merely look like a record (a copied file inside a payload) are none.
//!
//! Not here: which records follow each other (`recover`), what a payload means.

use crate::{Idempotency, PROGRESS_BYTES_MAX, Progress, Record, RecordKind};
use bytes::Bytes;
use weir_base::{AppendTime, EventTime, SeqNo};

/// Every record and payload starts at a multiple of this.
pub(crate) const ALIGN: u64 = 64;
/// Bytes of a header without its id.
pub(crate) const HEADER_FIXED: usize = 84;
/// A header is never longer (84 + 18 + 4096 + 255, padded).
pub(crate) const HEADER_MAX: usize = 4_480;
/// `WREC` on disk.
pub(crate) const MAGIC: [u8; 4] = *b"WREC";
const VERSION: u8 = 1;
/// Of records that say how far their writer has come: what does not know of it must not pass over it.
const VERSION_PROGRESS: u8 = 2;
const HAS_ID: u8 = 1;
const HAS_PROGRESS: u8 = 2;
/// Of a progress before its bytes: the writer, and their length.
pub(crate) const PROGRESS_FIXED: usize = 18;

/// The footer of a sealed segment and the idempotency keys before it; never handed out.
pub(crate) const KIND_FOOTER: RecordKind = RecordKind(255);
pub(crate) const KIND_IDS: RecordKind = RecordKind(254);
/// The keys, and how far writers have come.
pub(crate) const KIND_KEYS: RecordKind = RecordKind(253);

/// Kinds the log writes for itself. Readers and observers do not see them.
pub(crate) fn is_internal(kind: RecordKind) -> bool {
    kind == RecordKind::SEAL || kind == KIND_FOOTER || kind == KIND_IDS || kind == KIND_KEYS
}

pub(crate) fn align_up(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: RecordKind,
    pub base: SeqNo,
    pub rows: u32,
    pub append_time: AppendTime,
    pub event_min: EventTime,
    pub event_max: EventTime,
    pub idempotency: Option<Idempotency>,
    pub progress: Option<Progress>,
    pub payload_len: u32,
    pub payload_crc: u32,
    /// Everything below was durable when this record was written.
    pub durable_end: SeqNo,
    /// So was everything below this offset of the same segment; also where the record's
    /// group starts, since a group is written after the one before it is synced.
    pub durable_offset: u64,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// More bytes are needed to tell: at least this many from the record's start.
    Short(u64),
    Bad(&'static str),
}

impl Header {
    /// Bytes from the record's start to its payload.
    pub fn header_len(&self) -> u64 {
        let id = self.idempotency.as_ref().map_or(0, |i| i.id.len());
        let progress = self.progress.as_ref().map_or(0, |p| PROGRESS_FIXED + p.bytes.len());
        align_up((HEADER_FIXED + progress + id) as u64)
    }

    /// Bytes from the record's start to the next record.
    pub fn record_len(&self) -> u64 {
        self.header_len() + align_up(u64::from(self.payload_len))
    }

    /// One past the last sequence number.
    pub fn end(&self) -> SeqNo {
        self.base.plus(u64::from(self.rows))
    }

    /// Appends the padded header to `out`.
    pub fn encode(&self, salt: u64, offset: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let id: &str = self.idempotency.as_ref().map_or("", |i| &i.id);
        assert!(id.len() <= 255, "the id was checked when the append was accepted");
        out.extend_from_slice(&MAGIC);
        let flags = if self.idempotency.is_some() { HAS_ID } else { 0 };
        let (version, flags) = match &self.progress {
            Some(_) => (VERSION_PROGRESS, flags | HAS_PROGRESS),
            None => (VERSION, flags),
        };
        out.extend_from_slice(&[version, self.kind.0, id.len() as u8, flags]);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        out.extend_from_slice(&self.payload_len.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.base.0.to_le_bytes());
        out.extend_from_slice(&self.append_time.0.to_le_bytes());
        out.extend_from_slice(&self.event_min.0.to_le_bytes());
        out.extend_from_slice(&self.event_max.0.to_le_bytes());
        out.extend_from_slice(&self.durable_end.0.to_le_bytes());
        out.extend_from_slice(&self.durable_offset.to_le_bytes());
        let (hash, record_no) = self.idempotency.as_ref().map_or((0, 0), |i| (i.content_hash, i.record_no));
        out.extend_from_slice(&hash.to_le_bytes());
        out.extend_from_slice(&record_no.to_le_bytes());
        debug_assert_eq!(out.len() - start, HEADER_FIXED);
        if let Some(progress) = &self.progress {
            assert!(progress.bytes.len() <= PROGRESS_BYTES_MAX, "checked when the append was accepted");
            out.extend_from_slice(&progress.writer);
            out.extend_from_slice(&(progress.bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(&progress.bytes);
        }
        out.extend_from_slice(id.as_bytes());
        let crc = header_crc(salt, offset, &out[start..]);
        out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + self.header_len() as usize, 0);
    }

    /// Decodes the header at the start of `bytes`, which lie at `offset` of the segment.
    pub fn decode(bytes: &[u8], salt: u64, offset: u64) -> Result<Header, Damage> {
        if bytes.len() < HEADER_FIXED {
            return Err(Damage::Short(HEADER_FIXED as u64));
        }
        if bytes[..4] != MAGIC {
            return Err(Damage::Bad("no record starts here"));
        }
        let has_progress = bytes[7] & HAS_PROGRESS != 0;
        let mut id_at = HEADER_FIXED;
        if has_progress {
            let Some(len) = bytes.get(HEADER_FIXED + 16..HEADER_FIXED + PROGRESS_FIXED) else {
                return Err(Damage::Short((HEADER_FIXED + PROGRESS_FIXED) as u64));
            };
            let len = usize::from(u16::from_le_bytes(len.try_into().expect("two bytes")));
            if len > PROGRESS_BYTES_MAX {
                return Err(Damage::Bad("the record header contradicts itself"));
            }
            id_at += PROGRESS_FIXED + len;
        }
        let used = id_at + usize::from(bytes[6]);
        if bytes.len() < used {
            return Err(Damage::Short(used as u64));
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if u32_at(8) != header_crc(salt, offset, &bytes[..used]) {
            return Err(Damage::Bad("the record header does not match its checksum"));
        }
        if bytes[4] != if has_progress { VERSION_PROGRESS } else { VERSION } {
            return Err(Damage::Bad("the record has an unknown version"));
        }
        let idempotency = if bytes[7] & HAS_ID == 0 {
            if bytes[6] != 0 {
                // Its end would be computed without the id: what follows would overwrite it.
                return Err(Damage::Bad("the record header contradicts itself"));
            }
            None
        } else {
            let id = std::str::from_utf8(&bytes[id_at..used])
                .map_err(|_| Damage::Bad("the idempotency key is not UTF-8"))?;
            Some(Idempotency { id: id.into(), record_no: u32_at(80), content_hash: u64_at(72) })
        };
        let progress = has_progress.then(|| Progress {
            writer: bytes[HEADER_FIXED..HEADER_FIXED + 16].try_into().expect("sixteen bytes"),
            bytes: Bytes::copy_from_slice(&bytes[HEADER_FIXED + PROGRESS_FIXED..id_at]),
        });
        let header = Header {
            kind: RecordKind(bytes[5]),
            base: SeqNo(u64_at(24)),
            rows: u32_at(20),
            append_time: AppendTime(u64_at(32) as i64),
            event_min: EventTime(u64_at(40) as i64),
            event_max: EventTime(u64_at(48) as i64),
            idempotency,
            progress,
            payload_len: u32_at(16),
            payload_crc: u32_at(12),
            durable_end: SeqNo(u64_at(56)),
            durable_offset: u64_at(64),
        };
        if header.base > SeqNo::MAX || header.durable_end > SeqNo::MAX || header.durable_offset > offset {
            return Err(Damage::Bad("the record header contradicts itself"));
        }
        Ok(header)
    }

    pub fn into_record(self, payload: Bytes) -> Record {
        Record {
            kind: self.kind,
            base: self.base,
            rows: self.rows,
            append_time: self.append_time,
            event_min: self.event_min,
            event_max: self.event_max,
            idempotency: self.idempotency,
            payload,
        }
    }
}

/// Over the whole used header except the checksum itself.
fn header_crc(salt: u64, offset: u64, used: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &used[..8]);
    crc32c::crc32c_append(crc, &used[12..])
}

/// Splits off the record at the start of `bytes` (at `offset` of the segment) and checks
/// its payload.
pub(crate) fn decode_record(bytes: &Bytes, salt: u64, offset: u64) -> Result<(Header, Bytes), Damage> {
    let header = Header::decode(bytes, salt, offset)?;
    let from = header.header_len() as usize;
    let to = from + header.payload_len as usize;
    if bytes.len() < to {
        return Err(Damage::Short(to as u64));
    }
    let payload = bytes.slice(from..to);
    if crc32c::crc32c(&payload) != header.payload_crc {
        return Err(Damage::Bad("the payload does not match its checksum"));
    }
    Ok((header, payload))
}

#[cfg(test)]
mod tests;
