//! Content codings: gzip, deflate (zlib), zstd and the LZ4 frame, both ways, and ClickHouse's
//! own blocks as one more. All are pushed bytes and give bytes; none waits. Pure.

use super::block::{self, BlockReader};
use super::lz4_frame::FrameReader;
use std::io::Write;
use weir_base::{Result, err};

/// Input handed to a decoder at a time, so that what one step can inflate to stays bounded
/// (a thousandfold of this).
const STEP_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Deflate,
    Zstd,
    Lz4,
}

impl Coding {
    pub const ALL: [Coding; 4] = [Coding::Zstd, Coding::Lz4, Coding::Gzip, Coding::Deflate];

    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
            Coding::Zstd => "zstd",
            Coding::Lz4 => "lz4",
        }
    }

    fn named(name: &str) -> Option<Coding> {
        let name = name.trim();
        if name.eq_ignore_ascii_case("x-gzip") {
            return Some(Coding::Gzip);
        }
        Coding::ALL.into_iter().find(|c| name.eq_ignore_ascii_case(c.name()))
    }

    /// From `Content-Encoding`; `None` for absent or `identity`.
    ///
    /// # Errors
    /// 48 names the codings there are.
    pub fn of_content(header: Option<&str>) -> Result<Option<Coding>> {
        match header.map(str::trim) {
            None | Some("") => Ok(None),
            Some(h) if h.eq_ignore_ascii_case("identity") => Ok(None),
            Some(h) => Coding::named(h).map(Some).ok_or_else(|| {
                err!(NotImplemented, "content encoding {h} is not known; use gzip, deflate, zstd or lz4")
            }),
        }
    }

    /// The client's first choice in `Accept-Encoding` that we have: greatest `q`, then order.
    pub fn accepted(header: Option<&str>) -> Option<Coding> {
        let mut best: Option<(f32, Coding)> = None;
        for offer in header?.split(',') {
            let mut parts = offer.split(';');
            let Some(coding) = Coding::named(parts.next().unwrap_or("")) else { continue };
            let q =
                parts.find_map(|p| p.trim().strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0);
            if q > 0.0 && best.is_none_or(|(b, _)| q > b) {
                best = Some((q, coding));
            }
        }
        best.map(|(_, c)| c)
    }
}

/// Compresses a result as it comes.
pub enum Encoder {
    Plain,
    Blocks,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
}

impl Encoder {
    /// `level`: 1 fast to 9 small, for gzip, deflate and zstd.
    pub fn new(coding: Option<Coding>, level: u32) -> Result<Encoder> {
        let level = level.clamp(1, 9);
        let flate = flate2::Compression::new(level);
        Ok(match coding {
            None => Encoder::Plain,
            Some(Coding::Gzip) => Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate)),
            Some(Coding::Deflate) => Encoder::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), flate)),
            Some(Coding::Zstd) => Encoder::Zstd(
                zstd::stream::write::Encoder::new(Vec::new(), level as i32)
                    .map_err(|e| err!(LogicalError, "could not start zstd: {e}"))?,
            ),
            Some(Coding::Lz4) => Encoder::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new()))),
        })
    }

    /// What leaves for `data`, flushed: the client can read all of it at once.
    pub fn push(&mut self, data: Vec<u8>) -> Result<Vec<u8>> {
        if data.is_empty() {
            return Ok(data);
        }
        macro_rules! through {
            ($e:expr, $inner:ident) => {{
                $e.write_all(&data).and_then(|()| $e.flush()).map_err(failed)?;
                std::mem::take($e.$inner())
            }};
        }
        Ok(match self {
            Encoder::Plain => data,
            Encoder::Blocks => {
                let mut out = Vec::with_capacity(data.len() / 2 + 64);
                block::compress(&data, &mut out);
                out
            }
            Encoder::Gzip(e) => through!(e, get_mut),
            Encoder::Deflate(e) => through!(e, get_mut),
            Encoder::Zstd(e) => through!(e, get_mut),
            Encoder::Lz4(e) => through!(e, get_mut),
        })
    }

    /// The end of the coding, after the last `push`.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self {
            Encoder::Plain | Encoder::Blocks => Ok(Vec::new()),
            Encoder::Gzip(e) => e.finish().map_err(failed),
            Encoder::Deflate(e) => e.finish().map_err(failed),
            Encoder::Zstd(e) => e.finish().map_err(failed),
            Encoder::Lz4(e) => e.finish().map_err(failed),
        }
    }
}

fn failed(e: impl std::fmt::Display) -> weir_base::Error {
    err!(LogicalError, "could not compress the result: {e}")
}

/// Reads a coded body. Boxed parts, since most bodies are plain.
pub enum Decoder {
    Plain,
    Blocks(BlockReader),
    Gzip(Box<flate2::write::MultiGzDecoder<Vec<u8>>>),
    Deflate(Box<flate2::write::ZlibDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
    Lz4(Box<FrameReader>),
}

impl Decoder {
    pub fn new(coding: Option<Coding>) -> Result<Decoder> {
        Ok(match coding {
            None => Decoder::Plain,
            Some(Coding::Gzip) => Decoder::Gzip(Box::new(flate2::write::MultiGzDecoder::new(Vec::new()))),
            Some(Coding::Deflate) => Decoder::Deflate(Box::new(flate2::write::ZlibDecoder::new(Vec::new()))),
            Some(Coding::Zstd) => Decoder::Zstd(Box::new(
                zstd::stream::write::Decoder::new(Vec::new())
                    .map_err(|e| err!(LogicalError, "could not start zstd: {e}"))?,
            )),
            Some(Coding::Lz4) => Decoder::Lz4(Box::default()),
        })
    }

    pub fn blocks() -> Decoder {
        Decoder::Blocks(BlockReader::default())
    }

    /// Takes a step's worth off the front of `input` and gives what became readable.
    ///
    /// # Errors
    /// 117 when the bytes are not in this coding.
    pub fn step(&mut self, input: &mut bytes::Bytes) -> Result<Vec<u8>> {
        let piece = input.split_to(input.len().min(STEP_BYTES));
        let bad = |name: &str, e: std::io::Error| {
            err!(
                IncorrectData,
                "the body is not readable as {name}: {e}; does Content-Encoding say what it is?"
            )
        };
        match self {
            Decoder::Plain => Ok(piece.to_vec()),
            Decoder::Blocks(reader) => {
                reader.push(&piece);
                let mut out = Vec::new();
                while let Some(content) = reader.next_block()? {
                    out.extend(content);
                }
                Ok(out)
            }
            Decoder::Gzip(d) => {
                d.write_all(&piece).and_then(|()| d.flush()).map_err(|e| bad("gzip", e))?;
                Ok(std::mem::take(d.get_mut()))
            }
            Decoder::Deflate(d) => {
                d.write_all(&piece).and_then(|()| d.flush()).map_err(|e| bad("deflate (zlib)", e))?;
                Ok(std::mem::take(d.get_mut()))
            }
            Decoder::Zstd(d) => {
                d.write_all(&piece).and_then(|()| d.flush()).map_err(|e| bad("zstd", e))?;
                Ok(std::mem::take(d.get_mut()))
            }
            Decoder::Lz4(reader) => {
                reader.push(&piece);
                let mut out = Vec::new();
                reader.read(&mut out)?;
                Ok(out)
            }
        }
    }

    /// The input is over: what was still held, or an error if it ends in the middle.
    pub fn finish(&mut self) -> Result<Vec<u8>> {
        let cut = |name: &str| err!(CannotReadAllData, "the body ends in the middle of its {name} data");
        match self {
            Decoder::Plain => Ok(Vec::new()),
            Decoder::Blocks(reader) if reader.is_empty() => Ok(Vec::new()),
            Decoder::Blocks(_) => Err(cut("compressed block")),
            Decoder::Gzip(d) => {
                d.try_finish().map_err(|_| cut("gzip"))?;
                Ok(std::mem::take(d.get_mut()))
            }
            Decoder::Deflate(d) => {
                d.try_finish().map_err(|_| cut("deflate"))?;
                Ok(std::mem::take(d.get_mut()))
            }
            // The decoder can not tell whether a frame is open; formats notice a cut row.
            Decoder::Zstd(d) => Ok(std::mem::take(d.get_mut())),
            Decoder::Lz4(reader) if reader.is_finished() => Ok(Vec::new()),
            Decoder::Lz4(_) => Err(cut("lz4")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn choices() {
        // (Accept-Encoding, what is taken)
        let cases = [
            (None, None),
            (Some(""), None),
            (Some("identity"), None),
            (Some("gzip, deflate"), Some(Coding::Gzip)),
            (Some("lz4,zstd,gzip,deflate"), Some(Coding::Lz4)),
            (Some("br, gzip;q=0.5, zstd;q=0.8"), Some(Coding::Zstd)),
            (Some("gzip;q=0"), None),
            (Some("X-GZIP"), Some(Coding::Gzip)),
        ];
        for (header, expected) in cases {
            assert_eq!(Coding::accepted(header), expected, "{header:?}");
        }
        assert_eq!(Coding::of_content(Some("ZSTD")).unwrap(), Some(Coding::Zstd));
        assert_eq!(Coding::of_content(Some("identity")).unwrap(), None);
        assert!(Coding::of_content(Some("br")).unwrap_err().message.contains("br"));
    }

    fn decode(mut decoder: Decoder, wire: &[u8], step: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for piece in wire.chunks(step) {
            let mut piece = Bytes::copy_from_slice(piece);
            while !piece.is_empty() {
                out.extend(decoder.step(&mut piece)?);
            }
        }
        out.extend(decoder.finish()?);
        Ok(out)
    }

    #[test]
    fn each_push_is_readable_at_once_and_the_whole_comes_back() {
        let codings = Coding::ALL.map(Some);
        for coding in codings.into_iter().chain([None]) {
            let mut encoder = Encoder::new(coding, 3).unwrap();
            let mut wire = Vec::new();
            let mut plain = Vec::new();
            for i in 0..50u32 {
                let row = format!("{i}\trow {i}\n").into_bytes();
                plain.extend_from_slice(&row);
                wire.extend(encoder.push(row).unwrap());
                let mut so_far = Decoder::new(coding).unwrap();
                let mut input = Bytes::from(wire.clone());
                let mut got = Vec::new();
                while !input.is_empty() {
                    got.extend(so_far.step(&mut input).unwrap());
                }
                assert_eq!(got, plain, "{coding:?} after {i} rows");
            }
            wire.extend(encoder.finish().unwrap());
            for step in [1, 10, 1 << 20] {
                assert_eq!(decode(Decoder::new(coding).unwrap(), &wire, step).unwrap(), plain, "{coding:?}");
            }
        }
    }

    #[test]
    fn other_bytes_and_cuts_are_refused() {
        for coding in Coding::ALL {
            let junk = b"this is not compressed at all, not by anyone";
            assert!(decode(Decoder::new(Some(coding)).unwrap(), junk, 1000).is_err(), "{coding:?}");
        }
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Lz4] {
            let mut encoder = Encoder::new(Some(coding), 3).unwrap();
            let mut wire = encoder.push(b"1\n2\n3\n".to_vec()).unwrap();
            wire.extend(encoder.finish().unwrap());
            wire.truncate(wire.len() - 3);
            assert!(decode(Decoder::new(Some(coding)).unwrap(), &wire, 1000).is_err(), "{coding:?}");
        }
        assert!(decode(Decoder::blocks(), b"0123456789", 3).is_err());
    }
}
