//! Sorted runs of saved groups on disk, written once, read from the front, removed when dropped.
//!
//! A run is blocks of entries (length, bytes); where the blocks lie and their checksums stay in memory:
//! what comes back is what went in, or an error.
//!
//! Not here: what an entry holds and how runs become one (`op::aggregate`).

use super::bytes::Writer;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_base::disk::{OpenMode, read_exact_at};
use weir_base::{Disk, DiskFile};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes after which a block is written; a longer entry is a block by itself.
const BLOCK_BYTES: usize = 64 << 10;

/// A directory for runs, emptied by whoever owns it before it is used.
#[derive(Debug)]
pub struct SpillSpace {
    disk: Arc<dyn Disk>,
    dir: String,
    next: AtomicU64,
}

impl SpillSpace {
    pub fn new(disk: Arc<dyn Disk>, dir: impl Into<String>) -> Arc<Self> {
        Arc::new(SpillSpace { disk, dir: dir.into(), next: AtomicU64::new(0) })
    }

    pub(crate) fn begin(&self) -> io::Result<RunWriter> {
        self.disk.create_dir_all(&self.dir)?;
        let path = format!("{}/{:08}.run", self.dir, self.next.fetch_add(1, Ordering::Relaxed));
        let file = self.disk.open(&path, OpenMode::CreateNew)?;
        let run = Run { disk: self.disk.clone(), path, file, blocks: Vec::new(), entries: 0, bytes: 0 };
        Ok(RunWriter { run, block: Writer::default() })
    }
}

#[derive(Debug, Clone, Copy)]
struct BlockAt {
    offset: u64,
    bytes: u64,
    check: u64,
}

#[derive(Debug)]
pub(crate) struct Run {
    disk: Arc<dyn Disk>,
    path: String,
    file: Arc<dyn DiskFile>,
    blocks: Vec<BlockAt>,
    pub entries: u64,
    pub bytes: u64,
}

impl Run {
    /// What it holds in memory.
    pub fn memory_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<BlockAt>()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(e) = self.disk.remove_file(&self.path) {
            tracing::debug!(path = self.path, error = %e, "a spilled run stays until the next start");
        }
    }
}

#[derive(Debug)]
pub(crate) struct RunWriter {
    run: Run,
    block: Writer,
}

impl RunWriter {
    /// Adds what `write` writes as one entry.
    pub fn add(&mut self, write: impl FnOnce(&mut Writer)) -> io::Result<()> {
        let at = self.block.0.len();
        self.block.u32(0);
        write(&mut self.block);
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the state of one key is over 4 GiB");
        let len = u32::try_from(self.block.0.len() - at - 4).map_err(too_long)?;
        self.block.0[at..at + 4].copy_from_slice(&len.to_le_bytes());
        self.run.entries += 1;
        if self.block.0.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.block.0);
        self.run.file.write_all_at(self.run.bytes, &[IoSlice::new(&bytes)])?;
        let at = BlockAt { offset: self.run.bytes, bytes: bytes.len() as u64, check: xxh3_64(&bytes) };
        self.run.blocks.push(at);
        self.run.bytes += bytes.len() as u64;
        self.block.0 = bytes;
        self.block.0.clear();
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<Run> {
        if !self.block.0.is_empty() {
            self.flush()?;
        }
        self.run.blocks.shrink_to_fit();
        Ok(self.run)
    }
}

/// Reads a run from the front.
#[derive(Debug)]
pub(crate) struct RunReader {
    run: Arc<Run>,
    next: usize,
    block: Vec<u8>,
    /// The entry at hand.
    entry: std::ops::Range<usize>,
}

impl RunReader {
    /// At the first entry.
    pub fn open(run: Arc<Run>) -> io::Result<Self> {
        let mut reader = RunReader { run, next: 0, block: Vec::new(), entry: 0..0 };
        reader.advance()?;
        Ok(reader)
    }

    /// The entry at hand; `None` after the last.
    pub fn entry(&self) -> Option<&[u8]> {
        (self.entry.end > 0).then(|| &self.block[self.entry.clone()])
    }

    pub fn advance(&mut self) -> io::Result<()> {
        let mut at = self.entry.end;
        if at == self.block.len() {
            let Some(block) = self.run.blocks.get(self.next).copied() else {
                self.block = Vec::new();
                self.entry = 0..0;
                return Ok(());
            };
            self.next += 1;
            self.block.resize(block.bytes as usize, 0);
            read_exact_at(&*self.run.file, block.offset, &mut self.block)?;
            if xxh3_64(&self.block) != block.check {
                return Err(damaged(&self.run.path, "a block does not match its checksum"));
            }
            at = 0;
        }
        let len = self.block.get(at..at + 4).ok_or_else(|| damaged(&self.run.path, "an entry ends early"))?;
        let len = u32::from_le_bytes(len.try_into().expect("four bytes were taken")) as usize;
        if at + 4 + len > self.block.len() {
            return Err(damaged(&self.run.path, "an entry ends early"));
        }
        self.entry = at + 4..at + 4 + len;
        Ok(())
    }
}

fn damaged(path: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::disk::SimDisk;

    fn space() -> (Arc<SimDisk>, Arc<SpillSpace>) {
        let disk = Arc::new(SimDisk::new(1));
        (disk.clone(), SpillSpace::new(disk, "spill"))
    }

    #[test]
    fn entries_come_back_in_order_and_the_file_goes_with_the_run() {
        let (disk, space) = space();
        let mut writer = space.begin().unwrap();
        let long = vec![7u8; 3 * BLOCK_BYTES];
        for i in 0..20_000u64 {
            writer.add(|out| if i == 500 { out.bytes(&long) } else { out.u64(i) }).unwrap();
        }
        let run = Arc::new(writer.finish().unwrap());
        assert_eq!(run.entries, 20_000);
        let mut reader = RunReader::open(run.clone()).unwrap();
        for i in 0..20_000u64 {
            let entry = reader.entry().unwrap();
            if i == 500 {
                assert_eq!(entry.len(), long.len() + 8);
            } else {
                assert_eq!(entry, i.to_le_bytes());
            }
            reader.advance().unwrap();
        }
        assert!(reader.entry().is_none());
        assert_eq!(disk.list("spill").unwrap().len(), 1);
        drop((run, reader));
        assert_eq!(disk.list("spill").unwrap(), []);
    }

    #[test]
    fn an_empty_run_has_no_entry_and_a_damaged_block_is_an_error() {
        let (disk, space) = space();
        let run = space.begin().unwrap().finish().unwrap();
        assert!(RunReader::open(Arc::new(run)).unwrap().entry().is_none());
        let mut writer = space.begin().unwrap();
        writer.add(|out| out.u64(9)).unwrap();
        let run = Arc::new(writer.finish().unwrap());
        let file = disk.open(&run.path, OpenMode::ReadWrite).unwrap();
        file.write_all_at(5, &[IoSlice::new(&[1])]).unwrap();
        assert_eq!(RunReader::open(run).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
