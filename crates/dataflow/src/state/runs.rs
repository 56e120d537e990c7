//! Large state of an operator in files of its checkpoints: each epoch adds a run with what changed since the
//! one before, and an epoch names the runs that it needs.
//!
//! A run is written beside the query, piece by piece, while the query goes on; it counts once the epoch
//! that names it does.
//!
//! ```text
//! run   = "WRUN" | version u32 | block … | block of no bytes, then entries u64 and their check u64
//! block = length u32 | XXH3 of the bytes, seeded with the next, u64 | length of the entries u32
//!         | entries, each: length u32, bytes
//! ```
//! The bytes of a block are its entries, or they in LZ4 where the store is far and that is less: on a disk the time
//! that packing takes from the query is worth more than the bytes. Runs of version 1 have no length of the entries,
//! and no LZ4.
//!
//! Not here: what an entry means (operators), which runs an epoch needs (`checkpoint`).

use super::bytes::{Damaged, Reader, Writer};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use weir_plan::{CheckpointRead, CheckpointStore, Epoch, NodeId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const MAGIC: u32 = u32::from_le_bytes(*b"WRUN");
const VERSION: u32 = 2;
/// Blocks are not compressed.
const VERSION_PLAIN: u32 = 1;
/// Bytes of entries in a block.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks on their way to the file, and those that wait besides; then whoever writes waits.
const BLOCKS_SENT_MAX: usize = 4;
const BLOCKS_WAITING_MAX: usize = 8;
const HEAD_BYTES: u64 = 8;
const BLOCK_HEAD_BYTES: usize = 16;
const PLAIN_BLOCK_HEAD_BYTES: usize = 12;

/// Where a query's runs lie.
#[derive(Clone)]
pub struct RunFiles {
    store: Arc<dyn CheckpointStore>,
}

impl fmt::Debug for RunFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.store)
    }
}

/// A finished run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunRef {
    pub epoch: u64,
    pub node: u32,
    pub entries: u64,
    /// Of its file; as long as it is not written, those of its entries.
    pub bytes: u64,
}

impl RunRef {
    pub fn name(&self) -> String {
        name(Epoch(self.epoch), NodeId(self.node))
    }

    pub fn save(all: &[RunRef], out: &mut Writer) {
        out.u64(all.len() as u64);
        for run in all {
            out.u64(run.epoch);
            out.u32(run.node);
            out.u64(run.entries);
            out.u64(run.bytes);
        }
    }

    pub fn load(from: &mut Reader<'_>) -> Result<Vec<RunRef>, Damaged> {
        let n = from.count(28)?;
        let one = |from: &mut Reader<'_>| {
            let (epoch, node) = (from.u64()?, from.u32()?);
            Ok(RunRef { epoch, node, entries: from.u64()?, bytes: from.u64()? })
        };
        (0..n).map(|_| one(from)).collect()
    }
}

fn name(epoch: Epoch, node: NodeId) -> String {
    format!("run-{:016x}-{}", epoch.0, node.0)
}

pub(crate) fn is_run(name: &str) -> bool {
    name.starts_with("run-")
}

/// What becomes of a run that is being written.
pub(crate) type Written = oneshot::Receiver<io::Result<u64>>;

enum Piece {
    /// Entries.
    Block(Vec<u8>),
    /// Entries in all: the run is complete.
    End(u64),
}

impl RunFiles {
    pub fn new(store: Arc<dyn CheckpointStore>) -> Self {
        RunFiles { store }
    }

    /// Begins the run of an operator at an epoch. A thread of its own writes it: call it within a runtime.
    pub fn begin(&self, epoch: Epoch, node: NodeId) -> (RunWriter, Written) {
        let (send, receive) = sync_channel(BLOCKS_SENT_MAX);
        let (done, written) = oneshot::channel();
        let (store, name) = (self.store.clone(), name(epoch, node));
        spawn_blocking(move || {
            let result = (|| {
                let mut file = store.create(&name)?;
                let mut head = Writer::default();
                head.u32(MAGIC);
                head.u32(VERSION);
                file.write(&head.0)?;
                loop {
                    match receive.recv() {
                        Ok(Piece::Block(entries)) => {
                            let packed = store.is_far().then(|| lz4_flex::block::compress(&entries));
                            let packed = packed.filter(|packed| packed.len() < entries.len());
                            let bytes = packed.as_ref().unwrap_or(&entries);
                            let mut head = Writer::default();
                            head.u32(bytes.len() as u32);
                            head.u64(check_of(bytes, entries.len() as u32));
                            head.u32(entries.len() as u32);
                            file.write(&head.0)?;
                            file.write(bytes)?;
                        }
                        Ok(Piece::End(entries)) => {
                            let mut tail = Writer::default();
                            tail.u32(0);
                            tail.u64(0);
                            tail.u32(0);
                            tail.u64(entries);
                            tail.u64(xxh3_64(&entries.to_le_bytes()));
                            file.write(&tail.0)?;
                            return file.finish();
                        }
                        // Given up: dropped unfinished it is not there.
                        Err(_) => return Err(io::Error::other("the run was given up")),
                    }
                }
            })();
            // Nobody may wait for it any more.
            let _ = done.send(result);
        });
        let run = RunRef { epoch: epoch.0, node: node.0, entries: 0, bytes: HEAD_BYTES };
        let writer = RunWriter { run, send, block: Writer::default(), waiting: VecDeque::new() };
        (writer, written)
    }

    pub fn open(&self, run: &RunRef) -> io::Result<RunBlocks> {
        let file = self.store.open(&run.name())?;
        let mut blocks = RunBlocks { file, at: 0, entries: run.entries, plain: false };
        let head = blocks.take(HEAD_BYTES as usize)?;
        blocks.plain = head[4..] == VERSION_PLAIN.to_le_bytes();
        if head[..4] != MAGIC.to_le_bytes() || !blocks.plain && head[4..] != VERSION.to_le_bytes() {
            return Err(damaged("its first bytes are not those of a run"));
        }
        Ok(blocks)
    }
}

/// Of a block's bytes and how long its entries are.
fn check_of(bytes: &[u8], unpacked: u32) -> u64 {
    xxh3_64_with_seed(bytes, u64::from(unpacked))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a run of a checkpoint is damaged: {what}"))
}

/// A run on its way to its file. Dropped before [`RunWriter::finish`] it is not there.
#[derive(Debug)]
pub(crate) struct RunWriter {
    run: RunRef,
    send: SyncSender<Piece>,
    block: Writer,
    /// Blocks for which the thread has no time yet.
    waiting: VecDeque<Vec<u8>>,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Piece::Block(block) => write!(f, "block of {} bytes", block.len()),
            Piece::End(entries) => write!(f, "end of {entries} entries"),
        }
    }
}

impl RunWriter {
    /// Entries that are framed already.
    pub fn add_framed(&mut self, framed: &[u8], entries: u64) {
        self.run.entries += entries;
        // Cut between entries: a block is read as a whole.
        let mut rest = framed;
        while !rest.is_empty() {
            let room = BLOCK_BYTES - self.block.0.len();
            let mut n = 0;
            if rest.len() <= room {
                n = rest.len();
            }
            while n < rest.len().min(room) {
                let (len, _) = rest[n..].split_first_chunk::<4>().expect("entries are framed");
                n += 4 + u32::from_le_bytes(*len) as usize;
            }
            let (now, later) = rest.split_at(n);
            self.block.0.extend_from_slice(now);
            rest = later;
            self.seal_full();
        }
    }

    pub fn add(&mut self, entry: impl FnOnce(&mut Writer)) {
        frame(&mut self.block, entry);
        self.run.entries += 1;
        self.seal_full();
    }

    fn seal_full(&mut self) {
        if self.block.0.len() >= BLOCK_BYTES {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let entries = std::mem::take(&mut self.block.0);
        self.run.bytes += (BLOCK_HEAD_BYTES + entries.len()) as u64;
        self.waiting.push_back(entries);
        self.has_room();
        while self.waiting.len() > BLOCKS_WAITING_MAX {
            let block = self.waiting.pop_front().expect("there are more");
            // A thread that is gone says why itself.
            if self.send.send(Piece::Block(block)).is_err() {
                self.waiting.clear();
            }
        }
    }

    /// Hands on what it can; whether more may come without waiting for the disk.
    pub fn has_room(&mut self) -> bool {
        while let Some(block) = self.waiting.pop_front() {
            match self.send.try_send(Piece::Block(block)) {
                Ok(()) => {}
                Err(TrySendError::Full(Piece::Block(block))) => {
                    self.waiting.push_front(block);
                    return false;
                }
                Err(_) => self.waiting.clear(),
            }
        }
        true
    }

    /// Says that it is complete; how that went whoever holds its [`Written`] hears.
    pub fn finish(mut self) -> RunRef {
        if !self.block.0.is_empty() {
            self.seal();
        }
        for block in std::mem::take(&mut self.waiting) {
            if self.send.send(Piece::Block(block)).is_err() {
                break;
            }
        }
        // As above.
        let _ = self.send.send(Piece::End(self.run.entries));
        self.run.bytes += (BLOCK_HEAD_BYTES + 16) as u64;
        self.run
    }
}

/// Writes an entry with its length in front.
#[inline]
pub(crate) fn frame(out: &mut Writer, entry: impl FnOnce(&mut Writer)) {
    let at = out.0.len();
    out.u32(0);
    entry(out);
    let len = (out.0.len() - at - 4) as u32;
    out.0[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// The blocks of a run, one after the other.
#[derive(Debug)]
pub(crate) struct RunBlocks {
    file: Arc<dyn CheckpointRead>,
    at: u64,
    entries: u64,
    /// Blocks are not compressed.
    plain: bool,
}

impl RunBlocks {
    fn take(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.file.read_at(self.at, &mut bytes)?;
        self.at += n as u64;
        Ok(bytes)
    }

    /// The next block, checked; `None` after the last.
    ///
    /// # Errors
    /// `InvalidData` where it is not what was written.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let head = self.take(if self.plain { PLAIN_BLOCK_HEAD_BYTES } else { BLOCK_HEAD_BYTES })?;
        let (len, rest) = head.split_at(4);
        let (check, unpacked) = rest.split_at(8);
        let len = u32::from_le_bytes(len.try_into().expect("four bytes"));
        let unpacked = unpacked.try_into().map_or(len, u32::from_le_bytes);
        if len == 0 {
            let tail = self.take(16)?;
            let (entries, check) = tail.split_at(8);
            let counted = u64::from_le_bytes(entries.try_into().expect("eight bytes"));
            if xxh3_64(entries).to_le_bytes() != check
                || counted != self.entries
                || head.iter().any(|b| *b != 0)
            {
                return Err(damaged("it ends elsewhere"));
            }
            return Ok(None);
        }
        if u64::from(len) > self.file.len().saturating_sub(self.at) {
            return Err(damaged("it ends early"));
        }
        let block = self.take(len as usize)?;
        let checked = if self.plain { xxh3_64(&block) } else { check_of(&block, unpacked) };
        if checked.to_le_bytes() != check {
            return Err(damaged("a block does not match its checksum"));
        }
        if unpacked == len {
            return Ok(Some(block));
        }
        let entries = lz4_flex::block::decompress(&block, unpacked as usize);
        entries.map(Some).map_err(|e| damaged(&format!("a block does not unpack: {e}")))
    }
}

/// The entries of a block.
pub(crate) fn entries(block: &[u8]) -> impl Iterator<Item = Result<&[u8], Damaged>> {
    let mut from = Reader(block);
    std::iter::from_fn(move || {
        if from.0.is_empty() {
            return None;
        }
        let entry = from.u32().and_then(|len| from.take(len as usize));
        if entry.is_err() {
            from.0 = &[];
        }
        Some(entry)
    })
}
