//! Block checksums of a part: one crc32c per 64 KiB, in a sidecar file beside it.
//!
//! The manifest holds the sidecar's own checksum, so a part is covered from the manifest
//! down to each byte. A block is verified whenever it enters memory.

use crate::error::{Result, StorageError};
use std::ops::Range;

/// Bytes one checksum covers; the last block of a file is shorter.
pub const BLOCK_BYTES: u64 = 64 << 10;

const MAGIC: &[u8; 4] = b"WCRC";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;

/// Sums the blocks of a file as it is written.
#[derive(Debug, Default)]
pub(crate) struct BlockSums {
    sums: Vec<u32>,
    current: u32,
    in_current: u64,
}

impl BlockSums {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let take = bytes.len().min((BLOCK_BYTES - self.in_current) as usize);
            self.current = crc32c::crc32c_append(self.current, &bytes[..take]);
            self.in_current += take as u64;
            bytes = &bytes[take..];
            if self.in_current == BLOCK_BYTES {
                self.sums.push(self.current);
                (self.current, self.in_current) = (0, 0);
            }
        }
    }

    pub fn finish(mut self) -> Checks {
        let size_bytes = self.sums.len() as u64 * BLOCK_BYTES + self.in_current;
        if self.in_current > 0 {
            self.sums.push(self.current);
        }
        Checks { size_bytes, sums: self.sums }
    }
}

/// The checksums of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checks {
    pub size_bytes: u64,
    sums: Vec<u32>,
}

impl Checks {
    /// The sidecar's content and the checksum of it that goes into the manifest.
    pub fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.sums.len() * 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.size_bytes.to_le_bytes());
        for sum in &self.sums {
            out.extend_from_slice(&sum.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        (out, crc)
    }

    /// Reads a sidecar back; `expected_crc` and `size_bytes` come from the manifest.
    pub fn decode(path: &str, bytes: &[u8], expected_crc: u32, size_bytes: u64) -> Result<Self> {
        let corrupt = |what: String| StorageError::Corrupt { path: path.to_owned(), offset: 0, what };
        let crc = crc32c::crc32c(bytes);
        if crc != expected_crc {
            return Err(corrupt(format!("checksum is {crc:08x}, the manifest says {expected_crc:08x}")));
        }
        if bytes.len() < HEADER_BYTES || &bytes[..4] != MAGIC {
            return Err(corrupt("not a checksum file".into()));
        }
        let version = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(corrupt(format!("version {version}, this build reads {VERSION}")));
        }
        let covered = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let blocks = covered.div_ceil(BLOCK_BYTES) as usize;
        if covered != size_bytes || bytes.len() != HEADER_BYTES + blocks * 4 {
            return Err(corrupt(format!("covers {covered} bytes, the manifest says {size_bytes}")));
        }
        let sums =
            bytes[HEADER_BYTES..].as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
        Ok(Checks { size_bytes: covered, sums })
    }

    /// `range` widened to whole blocks.
    pub fn align(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
        let end = range.end.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES).min(self.size_bytes);
        start..end
    }

    /// Verifies `bytes`, read from `start`, which lies on a block border.
    pub fn verify(&self, path: &str, start: u64, bytes: &[u8]) -> Result<()> {
        debug_assert_eq!(start % BLOCK_BYTES, 0);
        let first = (start / BLOCK_BYTES) as usize;
        for (i, block) in bytes.chunks(BLOCK_BYTES as usize).enumerate() {
            let found = crc32c::crc32c(block);
            let expected = self.sums[first + i];
            if found != expected {
                return Err(StorageError::Corrupt {
                    path: path.to_owned(),
                    offset: start + i as u64 * BLOCK_BYTES,
                    what: format!(
                        "block of {} bytes has checksum {found:08x}, expected {expected:08x}",
                        block.len()
                    ),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_of(bytes: &[u8], step: usize) -> Checks {
        let mut sums = BlockSums::default();
        bytes.chunks(step).for_each(|c| sums.update(c));
        sums.finish()
    }

    #[test]
    fn sums_do_not_depend_on_how_the_file_was_written() {
        for len in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let checks = sums_of(&bytes, 7_777);
            assert_eq!(checks, sums_of(&bytes, len.max(1)), "{len}");
            checks.verify("f", 0, &bytes).unwrap();
            let (encoded, crc) = checks.encode();
            assert_eq!(Checks::decode("f.crc", &encoded, crc, len as u64).unwrap(), checks);
        }
    }

    #[test]
    fn a_flipped_bit_is_named_by_its_block() {
        let mut bytes = vec![7u8; 200_000];
        let checks = sums_of(&bytes, 1000);
        bytes[70_000] ^= 4;
        match checks.verify("f", 0, &bytes).unwrap_err() {
            StorageError::Corrupt { path, offset, .. } => assert_eq!((path.as_str(), offset), ("f", 65_536)),
            other => panic!("{other}"),
        }
        let (mut encoded, crc) = checks.encode();
        encoded[9] ^= 1;
        assert!(Checks::decode("f.crc", &encoded, crc, 200_000).is_err());
    }

    #[test]
    fn ranges_widen_to_blocks_within_the_file() {
        let checks = sums_of(&vec![0; 150_000], 1000);
        for (range, aligned) in
            [(0..1, 0..65_536), (65_535..65_537, 0..131_072), (131_072..131_073, 131_072..150_000)]
        {
            assert_eq!(checks.align(&range), aligned);
        }
    }
}
