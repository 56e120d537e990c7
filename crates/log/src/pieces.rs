//! One vectored write: headers, padding and small payloads lie in one scratch buffer, large
//! payloads where the caller has them.

use crate::record::{Header, align_up};
use bytes::Bytes;
use std::io::IoSlice;
use std::ops::Range;

/// Payloads below this are copied next to their headers: fewer slices for the kernel.
const COPY_BYTES_MAX: usize = 4096;

enum Piece {
    Scratch(Range<usize>),
    Payload(Bytes),
}

#[derive(Default)]
pub(crate) struct Pieces {
    scratch: Vec<u8>,
    pieces: Vec<Piece>,
    pub len: u64,
}

impl Pieces {
    pub fn push(&mut self, header: &Header, payload: &Bytes, salt: u64, offset: u64) {
        self.scratch(|s| header.encode(salt, offset, s));
        if payload.len() < COPY_BYTES_MAX {
            self.scratch(|s| s.extend_from_slice(payload));
        } else {
            self.pieces.push(Piece::Payload(payload.clone()));
            self.len += payload.len() as u64;
        }
        let padding = align_up(payload.len() as u64) as usize - payload.len();
        self.scratch(|s| s.resize(s.len() + padding, 0));
    }

    pub fn scratch(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.scratch.len();
        write(&mut self.scratch);
        let end = self.scratch.len();
        self.len += (end - start) as u64;
        match self.pieces.last_mut() {
            Some(Piece::Scratch(range)) => range.end = end,
            _ => self.pieces.push(Piece::Scratch(start..end)),
        }
    }

    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let bytes = self.pieces.iter().map(|piece| match piece {
            Piece::Scratch(range) => &self.scratch[range.clone()],
            Piece::Payload(payload) => &payload[..],
        });
        bytes.map(IoSlice::new).collect()
    }
}
