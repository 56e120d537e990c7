//! Sorted runs of saved groups on disk, written once, removed when dropped; read from the front, or key
//! by key (`paged`).
//!
//! A run is blocks of entries (length, bytes); where the blocks lie and their checksums stay in memory:
//! what comes back is what went in, or an error. An entry begins with its key.
//!
//! Not here: what an entry holds and how runs become one (`op::aggregate`, `paged`).

use super::bytes::{Damaged, Reader, Writer};
use super::keys::Key;
use super::paged::{Lookup, invalid};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_base::disk::{OpenMode, read_exact_at};
use weir_base::{Disk, DiskFile};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes after which a block is written; a longer entry is a block by itself.
const BLOCK_BYTES: usize = 64 << 10;
/// Where keys are looked up a block is read for one of its entries: it ends sooner, but not before it has
/// so many entries, since its first key stays in memory.
const PAGE_BYTES: usize = 4 << 10;
const PAGE_ENTRIES: usize = 16;

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

    /// A run that is read from the front.
    pub(crate) fn begin(&self) -> io::Result<RunWriter> {
        self.create(None)
    }

    /// A run of at most so many entries, whose keys are looked up.
    pub(crate) fn begin_paged(&self, entries_max: u64) -> io::Result<RunWriter> {
        self.create(Some(Lookup::new(entries_max)))
    }

    fn create(&self, lookup: Option<Lookup>) -> io::Result<RunWriter> {
        self.disk.create_dir_all(&self.dir)?;
        let path = format!("{}/{:08}.run", self.dir, self.next.fetch_add(1, Ordering::Relaxed));
        let file = self.disk.open(&path, OpenMode::CreateNew)?;
        let disk = self.disk.clone();
        let run = Run { disk, path, file, blocks: Vec::new(), lookup, entries: 0, bytes: 0 };
        Ok(RunWriter { run, waiting: Writer::default(), block: 0, in_block: 0, last: Vec::new() })
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
    /// Where keys are looked up.
    pub lookup: Option<Lookup>,
    pub entries: u64,
    pub bytes: u64,
}

impl Run {
    /// What it holds in memory.
    pub fn memory_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<BlockAt>() + self.lookup.as_ref().map_or(0, Lookup::bytes)
    }

    /// Reads blocks that follow each other, as many as make a long read; gives how many.
    pub fn read(&self, first: usize, blocks_max: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let (mut n, mut bytes) = (0, 0);
        for block in self.blocks[first..].iter().take(blocks_max) {
            if n > 0 && bytes + block.bytes > BLOCK_BYTES as u64 {
                break;
            }
            (n, bytes) = (n + 1, bytes + block.bytes);
        }
        into.resize(bytes as usize, 0);
        if n == 0 {
            return Ok(0);
        }
        let begin = self.blocks[first].offset;
        read_exact_at(&*self.file, begin, into)?;
        for block in &self.blocks[first..first + n] {
            let at = (block.offset - begin) as usize;
            if xxh3_64(&into[at..at + block.bytes as usize]) != block.check {
                return Err(self.damaged("a block does not match its checksum"));
            }
        }
        Ok(n)
    }

    /// Bytes of a block that [`Self::read`] has read with others from `first` on.
    pub fn place(&self, block: usize, first: usize) -> std::ops::Range<usize> {
        let at = (self.blocks[block].offset - self.blocks[first].offset) as usize;
        at..at + self.blocks[block].bytes as usize
    }

    pub fn damaged(&self, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", self.path))
    }
}

/// The first entry of bytes, and what lies behind it.
pub(crate) fn entry(bytes: &[u8]) -> Result<(&[u8], &[u8]), Damaged> {
    let early = Damaged("an entry ends early");
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or(early.clone())?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(early)
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
    /// Whole blocks that are not yet written, and the one that takes entries.
    waiting: Writer,
    /// Where that one begins, and its entries.
    block: usize,
    in_block: usize,
    /// The last entry of the block before, where keys are looked up.
    last: Vec<u8>,
}

impl RunWriter {
    /// Adds what `write` writes as one entry.
    pub fn add(&mut self, write: impl FnOnce(&mut Writer)) -> io::Result<()> {
        let at = self.waiting.0.len();
        self.waiting.u32(0);
        write(&mut self.waiting);
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the state of one key is over 4 GiB");
        let len = u32::try_from(self.waiting.0.len() - at - 4).map_err(too_long)?;
        self.waiting.0[at..at + 4].copy_from_slice(&len.to_le_bytes());
        if let Some(lookup) = &mut self.run.lookup {
            let key = Key::load(&mut Reader(&self.waiting.0[at + 4..])).map_err(invalid)?;
            if self.in_block == 0 {
                lookup.begin_block(Key::load(&mut Reader(&self.last)).ok(), key);
            }
            lookup.add(key.hash());
        }
        self.run.entries += 1;
        self.in_block += 1;
        let bytes = self.waiting.0.len() - self.block;
        let page = self.run.lookup.is_some() && bytes >= PAGE_BYTES && self.in_block >= PAGE_ENTRIES;
        if page || bytes >= BLOCK_BYTES { self.end_block(at + 4) } else { Ok(()) }
    }

    /// The last entry begins at `last`.
    fn end_block(&mut self, last: usize) -> io::Result<()> {
        let bytes = &self.waiting.0[self.block..];
        let offset = self.run.bytes + self.block as u64;
        self.run.blocks.push(BlockAt { offset, bytes: bytes.len() as u64, check: xxh3_64(bytes) });
        if self.run.lookup.is_some() {
            let mut key = Writer(std::mem::take(&mut self.last));
            key.0.clear();
            Key::load(&mut Reader(&self.waiting.0[last..])).map_err(invalid)?.save(&mut key);
            self.last = key.0;
        }
        (self.block, self.in_block) = (self.waiting.0.len(), 0);
        if self.block >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.run.file.write_all_at(self.run.bytes, &[IoSlice::new(&self.waiting.0)])?;
        self.run.bytes += self.waiting.0.len() as u64;
        self.waiting.0.clear();
        self.block = 0;
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<Run> {
        if self.in_block > 0 {
            // No block follows: whatever its last entry is.
            let last = self.block + 4;
            self.end_block(last)?;
        }
        if !self.waiting.0.is_empty() {
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
    /// The first block that is not in the buffer.
    next: usize,
    buffer: Vec<u8>,
    /// The entry at hand.
    entry: std::ops::Range<usize>,
}

impl RunReader {
    /// At the first entry.
    pub fn open(run: Arc<Run>) -> io::Result<Self> {
        let mut reader = RunReader { run, next: 0, buffer: Vec::new(), entry: 0..0 };
        reader.advance()?;
        Ok(reader)
    }

    /// The entry at hand; `None` after the last.
    pub fn entry(&self) -> Option<&[u8]> {
        (self.entry.end > 0).then(|| &self.buffer[self.entry.clone()])
    }

    pub fn advance(&mut self) -> io::Result<()> {
        let mut at = self.entry.end;
        if at == self.buffer.len() {
            let read = self.run.read(self.next, usize::MAX, &mut self.buffer)?;
            self.next += read;
            if read == 0 {
                self.buffer = Vec::new();
                self.entry = 0..0;
                return Ok(());
            }
            at = 0;
        }
        let (entry, _) = entry(&self.buffer[at..]).map_err(|e| self.run.damaged(e.0))?;
        self.entry = at + 4..at + 4 + entry.len();
        Ok(())
    }
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
