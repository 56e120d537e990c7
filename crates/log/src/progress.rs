//! How far each of those has come who write results into this log: a few bytes a record may carry, of
//! which the newest of each writer is remembered for as long as the writer is.
//!
//! What the bytes mean is the writer's. They are remembered apart from idempotency keys, since no number
//! of inserts may push them out.
//!
//! Bounded by writers ([`WRITERS_MAX`]) and bytes each ([`PROGRESS_BYTES_MAX`]).

use crate::AppendError;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Bytes of one progress.
pub const PROGRESS_BYTES_MAX: usize = 4_096;
/// Writers remembered by one log.
pub const WRITERS_MAX: usize = 1_024;

/// What a writer says of itself with a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Progress {
    pub writer: [u8; 16],
    /// At most [`PROGRESS_BYTES_MAX`]; none = the writer is to be forgotten.
    pub bytes: Bytes,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProgressTable(BTreeMap<[u8; 16], Bytes>);

impl ProgressTable {
    pub fn get(&self, writer: &[u8; 16]) -> Option<&Bytes> {
        self.0.get(writer)
    }

    pub fn writers(&self) -> Vec<[u8; 16]> {
        self.0.keys().copied().collect()
    }

    pub fn note(&mut self, progress: &Progress) {
        if progress.bytes.is_empty() {
            self.0.remove(&progress.writer);
        } else {
            self.0.insert(progress.writer, progress.bytes.clone());
        }
    }

    pub fn check(&self, progress: &Progress) -> Result<(), AppendError> {
        let size_bytes = progress.bytes.len();
        if size_bytes > PROGRESS_BYTES_MAX {
            let size_bytes = size_bytes as u64;
            return Err(AppendError::ProgressTooLong { size_bytes });
        }
        if size_bytes > 0 && self.0.len() >= WRITERS_MAX && !self.0.contains_key(&progress.writer) {
            return Err(AppendError::TooManyWriters { limit: WRITERS_MAX as u64 });
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writer (16), length (u16), bytes; one behind the other.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (writer, bytes) in &self.0 {
            out.extend_from_slice(writer);
            out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }

    /// Adds what [`ProgressTable::encode`] wrote; `None` if the bytes are not that.
    pub fn decode_into(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let (writer, rest) = bytes.split_first_chunk::<16>()?;
            let (len, rest) = rest.split_first_chunk::<2>()?;
            let (one, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            if one.is_empty() || one.len() > PROGRESS_BYTES_MAX {
                return None;
            }
            self.note(&Progress { writer: *writer, bytes: Bytes::copy_from_slice(one) });
            bytes = rest;
        }
        Some(())
    }
}
