//! Reads the LZ4 frame format from bytes that arrive in any split. Pure.
//!
//! Blocks are handed out as they become complete, verified where the frame carries checksums.
//! Several frames may follow one another; skippable frames are skipped.

use bytes::{Buf, BytesMut};
use std::hash::Hasher;
use twox_hash::XxHash32;
use weir_base::{Error, Result, err};

const MAGIC: u32 = 0x184D_2204;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184D_2A50..=0x184D_2A5F;
/// How far back a linked block may refer.
const WINDOW_BYTES: usize = 64 << 10;

#[derive(Default)]
pub struct FrameReader {
    held: BytesMut,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    BetweenFrames,
    Skipping(usize),
    Blocks(Frame),
}

struct Frame {
    linked: bool,
    block_checksum: bool,
    content_checksum: Option<XxHash32>,
    block_bytes_max: usize,
    window: Vec<u8>,
}

fn bad(what: impl std::fmt::Display) -> Error {
    err!(IncorrectData, "the body is not a readable LZ4 frame: {what}")
}

fn hash32(bytes: &[u8]) -> u32 {
    let mut h = XxHash32::with_seed(0);
    h.write(bytes);
    h.finish() as u32
}

impl FrameReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The input may end here.
    pub fn is_finished(&self) -> bool {
        self.held.is_empty() && matches!(self.state, State::BetweenFrames)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.held.get(at..at + 4)?.try_into().expect("four bytes")))
    }

    /// Appends what is readable so far to `out`.
    ///
    /// # Errors
    /// 117 for anything that is not a sound frame.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Result<()> {
        loop {
            let advanced = match std::mem::take(&mut self.state) {
                State::BetweenFrames => self.begin()?,
                State::Skipping(bytes) => {
                    let now = bytes.min(self.held.len());
                    self.held.advance(now);
                    if now < bytes {
                        self.state = State::Skipping(bytes - now);
                    }
                    now == bytes
                }
                State::Blocks(frame) => self.block(frame, out)?,
            };
            if !advanced {
                return Ok(());
            }
        }
    }

    fn begin(&mut self) -> Result<bool> {
        let Some(magic) = self.word(0) else { return Ok(false) };
        if SKIPPABLE.contains(&magic) {
            let Some(bytes) = self.word(4) else { return Ok(false) };
            self.held.advance(8);
            self.state = State::Skipping(bytes as usize);
            return Ok(true);
        }
        if magic != MAGIC {
            return Err(bad(format_args!("it starts with {magic:#010x}")));
        }
        let Some(&[flags, sizes]) = self.held.get(4..6) else { return Ok(false) };
        if flags >> 6 != 1 {
            return Err(bad(format_args!("its version is {}", flags >> 6)));
        }
        if flags & 1 != 0 {
            return Err(bad("it needs a dictionary"));
        }
        let descriptor = 2 + if flags & 8 != 0 { 8 } else { 0 };
        if self.held.len() < 4 + descriptor + 1 {
            return Ok(false);
        }
        let sum = self.held[4 + descriptor];
        if (hash32(&self.held[4..4 + descriptor]) >> 8) as u8 != sum {
            return Err(bad("its header does not match its checksum"));
        }
        let block_bytes_max = match (sizes >> 4) & 7 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            other => return Err(bad(format_args!("its block size class is {other}"))),
        };
        self.held.advance(4 + descriptor + 1);
        self.state = State::Blocks(Frame {
            linked: flags & 0x20 == 0,
            block_checksum: flags & 0x10 != 0,
            content_checksum: (flags & 4 != 0).then(|| XxHash32::with_seed(0)),
            block_bytes_max,
            window: Vec::new(),
        });
        Ok(true)
    }

    fn block(&mut self, mut frame: Frame, out: &mut Vec<u8>) -> Result<bool> {
        let needs = |reader: &mut Self, frame: Frame| {
            reader.state = State::Blocks(frame);
            Ok(false)
        };
        let Some(word) = self.word(0) else { return needs(self, frame) };
        if word == 0 {
            let sum_bytes = if frame.content_checksum.is_some() { 4 } else { 0 };
            if self.held.len() < 4 + sum_bytes {
                return needs(self, frame);
            }
            if let Some(h) = &frame.content_checksum
                && self.word(4) != Some(h.finish() as u32)
            {
                return Err(bad("its content does not match its checksum"));
            }
            self.held.advance(4 + sum_bytes);
            return Ok(true);
        }
        let plain = word >> 31 == 1;
        let size = (word & 0x7FFF_FFFF) as usize;
        if size > frame.block_bytes_max {
            return Err(bad(format_args!("a block of {size} bytes, more than {}", frame.block_bytes_max)));
        }
        let sum_bytes = if frame.block_checksum { 4 } else { 0 };
        if self.held.len() < 4 + size + sum_bytes {
            return needs(self, frame);
        }
        let payload = &self.held[4..4 + size];
        if frame.block_checksum && self.word(4 + size) != Some(hash32(payload)) {
            return Err(bad("a block does not match its checksum"));
        }
        let start = out.len();
        if plain {
            out.extend_from_slice(payload);
        } else {
            out.resize(start + frame.block_bytes_max, 0);
            let n = lz4_flex::block::decompress_into_with_dict(payload, &mut out[start..], &frame.window)
                .map_err(bad)?;
            out.truncate(start + n);
        }
        let content = &out[start..];
        if let Some(h) = &mut frame.content_checksum {
            h.write(content);
        }
        if frame.linked {
            frame.window.extend_from_slice(content);
            let spare = frame.window.len().saturating_sub(WINDOW_BYTES);
            frame.window.drain(..spare);
        }
        self.held.advance(4 + size + sum_bytes);
        self.state = State::Blocks(frame);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;

    fn read_in_steps(wire: &[u8], step: usize) -> Result<(Vec<u8>, bool)> {
        let mut reader = FrameReader::default();
        let mut out = Vec::new();
        for piece in wire.chunks(step) {
            reader.push(piece);
            reader.read(&mut out)?;
        }
        Ok((out, reader.is_finished()))
    }

    #[test]
    fn every_kind_of_frame_at_any_split() {
        let data: Vec<u8> = (0..300_000u32).map(|i| (i / 7 % 97) as u8 ^ (i % 3) as u8).collect();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for sums in [false, true] {
                let info = FrameInfo::new()
                    .block_mode(mode)
                    .block_size(BlockSize::Max64KB)
                    .block_checksums(sums)
                    .content_checksum(sums);
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(&data).unwrap();
                let mut wire = encoder.finish().unwrap();
                wire.extend(0x184D_2A50u32.to_le_bytes());
                wire.extend(3u32.to_le_bytes());
                wire.extend(b"abc");
                let twice = [wire.clone(), wire].concat();
                for step in [1, 7, 4096, twice.len()] {
                    let (out, finished) = read_in_steps(&twice, step).unwrap();
                    assert!(finished && out == [&data[..], &data[..]].concat(), "{mode:?} {sums} {step}");
                }
            }
        }
    }

    #[test]
    fn damage_is_refused_and_a_cut_is_seen() {
        let info = FrameInfo::new().block_checksums(true).content_checksum(true);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(b"rows rows rows rows rows rows").unwrap();
        let wire = encoder.finish().unwrap();
        for at in 0..wire.len() {
            let mut broken = wire.clone();
            broken[at] ^= 0x40;
            let sound = read_in_steps(&broken, broken.len()).is_ok_and(|(_, finished)| finished);
            assert!(!sound, "flipped byte {at}");
            let (_, finished) = read_in_steps(&wire[..at], 5).unwrap();
            assert!(!finished || at == 0, "cut at {at}");
        }
    }
}
