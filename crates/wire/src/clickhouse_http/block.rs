//! ClickHouse's compressed blocks, as `compress=1` and `decompress=1` ask for.
//!
//! A block is a 16-byte CityHash128 of all that follows, a method byte, the size of header
//! and payload (u32), the size after decompression (u32), the payload. Pure.

use super::cityhash::cityhash128;
use bytes::{Buf, BytesMut};
use weir_base::{Result, err};

const METHOD_NONE: u8 = 0x02;
const METHOD_LZ4: u8 = 0x82;
const METHOD_ZSTD: u8 = 0x90;
const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
/// What goes into one block at most.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// What a client's block may hold; ClickHouse's own limit is 1 GiB, no client sends near it.
pub const CLIENT_BLOCK_BYTES_MAX: usize = 128 << 20;

fn checksum(block: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let (first, second) = cityhash128(block);
    let mut out = [0; CHECKSUM_BYTES];
    out[..8].copy_from_slice(&first.to_le_bytes());
    out[8..].copy_from_slice(&second.to_le_bytes());
    out
}

/// Appends `data` as LZ4 blocks of at most 1 MiB each.
pub fn compress(data: &[u8], out: &mut Vec<u8>) {
    for piece in data.chunks(BLOCK_BYTES_MAX) {
        let start = out.len();
        let payload = lz4_flex::block::compress(piece);
        out.extend_from_slice(&[0; CHECKSUM_BYTES]);
        out.push(METHOD_LZ4);
        out.extend_from_slice(&((payload.len() + HEADER_BYTES) as u32).to_le_bytes());
        out.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        out.extend_from_slice(&payload);
        let sum = checksum(&out[start + CHECKSUM_BYTES..]);
        out[start..start + CHECKSUM_BYTES].copy_from_slice(&sum);
    }
}

/// Takes bytes in any split, gives the content of each block that is complete.
#[derive(Default)]
pub struct BlockReader {
    held: BytesMut,
}

impl BlockReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// No byte is left over.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The next block's content; `None` until more bytes come.
    ///
    /// # Errors
    /// 117 for a wrong checksum, an unknown method, or a size beyond
    /// [`CLIENT_BLOCK_BYTES_MAX`].
    pub fn next_block(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(header) = self.held.get(CHECKSUM_BYTES..CHECKSUM_BYTES + HEADER_BYTES) else {
            return Ok(None);
        };
        let method = header[0];
        let word =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes")) as usize;
        let (stored, plain) = (word(1), word(5));
        if stored < HEADER_BYTES || stored.max(plain) > CLIENT_BLOCK_BYTES_MAX {
            return Err(err!(
                IncorrectData,
                "a compressed block says {stored} bytes stored and {plain} bytes plain; the limit is \
                 {CLIENT_BLOCK_BYTES_MAX} bytes; is the body really in ClickHouse's compressed blocks?"
            ));
        }
        if self.held.len() < CHECKSUM_BYTES + stored {
            return Ok(None);
        }
        let block = &self.held[CHECKSUM_BYTES..CHECKSUM_BYTES + stored];
        if checksum(block) != self.held[..CHECKSUM_BYTES] {
            return Err(err!(
                IncorrectData,
                "a compressed block of {stored} bytes does not match its checksum"
            ));
        }
        let payload = &block[HEADER_BYTES..];
        let content = match method {
            METHOD_NONE => Ok(payload.to_vec()),
            METHOD_LZ4 => lz4_flex::block::decompress(payload, plain).map_err(|e| e.to_string()),
            METHOD_ZSTD => zstd::bulk::decompress(payload, plain).map_err(|e| e.to_string()),
            other => Err(format!("its method is {other:#04x}, not LZ4, ZSTD or none")),
        };
        let content = match content {
            Ok(c) if c.len() == plain => c,
            Ok(c) => {
                return Err(err!(IncorrectData, "a compressed block holds {} bytes, not {plain}", c.len()));
            }
            Err(why) => return Err(err!(IncorrectData, "a compressed block can not be read: {why}")),
        };
        self.held.advance(CHECKSUM_BYTES + stored);
        Ok(Some(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_at_any_split(
            data in proptest::collection::vec(0u8..4, 0..5000),
            step in 1usize..200,
        ) {
            let mut wire = Vec::new();
            compress(&data, &mut wire);
            let mut reader = BlockReader::default();
            let mut got = Vec::new();
            for piece in wire.chunks(step) {
                reader.push(piece);
                while let Some(content) = reader.next_block().unwrap() {
                    got.extend(content);
                }
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(got, data);
        }

        #[test]
        fn a_flipped_bit_is_never_content(at in 0usize..80, bit in 0u8..8) {
            let mut wire = Vec::new();
            compress(b"some rows some rows some rows some rows, and an end that differs", &mut wire);
            let at = at % wire.len();
            wire[at] ^= 1 << bit;
            let mut reader = BlockReader::default();
            reader.push(&wire);
            // A size may now ask for more bytes; nothing may come out.
            prop_assert!(!matches!(reader.next_block(), Ok(Some(_))));
        }
    }

    #[test]
    fn the_other_methods_are_read() {
        let plain = b"plain plain plain";
        for (method, payload) in
            [(METHOD_NONE, plain.to_vec()), (METHOD_ZSTD, zstd::bulk::compress(plain, 1).unwrap())]
        {
            let mut block = vec![method];
            block.extend(((payload.len() + HEADER_BYTES) as u32).to_le_bytes());
            block.extend((plain.len() as u32).to_le_bytes());
            block.extend(payload);
            let mut reader = BlockReader::default();
            reader.push(&checksum(&block));
            reader.push(&block);
            assert_eq!(reader.next_block().unwrap().as_deref(), Some(&plain[..]));
        }
    }
}
