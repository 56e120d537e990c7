//! A disk in memory that can crash, fill up, tear writes and lie the way real ones do.
//!
//! Every file has a live image (what the process reads) and a durable one (what a power
//! cut leaves). Names likewise. A crash keeps a seeded choice of what was not synced, at
//! 512 byte or 4 KiB granularity, so a caller that relies on more than the promises of
//! [`super`] fails some seed.
//!
//! Invariants
//! - The same seed and the same calls give the same bytes.
//! - What `sync_data` and `sync_dir` covered survives every crash.
//! - After a crash every call on the disk and its open files fails; [`SimDisk::restart`]
//!   gives the durable image as a new disk.
//!
//! Not here: timing; reordering between threads (use one thread for a replayable run).

mod file;
mod image;
#[cfg(test)]
mod tests;

use super::{DirEntry, Disk, DiskFile, OpenMode, parent};
use fastrand::Rng;
use file::SimFile;
use image::{FileImage, Names, Node};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The machine stops before the operation.
    Crash,
    /// The operation fails with an I/O error. A write may have taken part effect.
    Fail,
    /// The machine stops during the operation: of a write, some sectors of this many bytes
    /// (512 or 4096) are on the platter and some not. Other operations: like `Crash`.
    Torn { sector_bytes: u32 },
    /// The first sync at or after the operation fails. What it should have covered is then
    /// durable, still dirty, dropped, or (worst) readable but never written out: chosen by seed.
    FailSync,
    /// From the operation on everything that takes space fails, until the faults are cleared.
    /// A write may have taken part effect.
    NoSpace,
}

/// A fault and the operation (see [`SimDisk::operations`]) it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub at_operation: u64,
    pub kind: FaultKind,
}

/// The simulated disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    names: Names,
    files: BTreeMap<u64, FileImage>,
    file_next: u64,
    operations: u64,
    reads: u64,
    faults: Vec<Fault>,
    faults_struck: u64,
    read_fault: Option<u64>,
    capacity_bytes: u64,
    crashed: bool,
}

/// What to do with the operation at hand.
enum Verdict {
    Go,
    /// Fail; a write applies a part first.
    Fail,
    /// Crash with this write half done.
    Tear(u64),
    FailSync,
    /// Fail for want of space; a write applies a part first.
    NoSpace,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    TakesSpace,
    Sync,
    Other,
}

fn crash_error() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

fn injected() -> io::Error {
    io::Error::other("injected disk fault")
}

fn no_space() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            rng: Rng::with_seed(seed),
            names: Names::default(),
            files: BTreeMap::new(),
            file_next: 0,
            operations: 0,
            reads: 0,
            faults: Vec::new(),
            faults_struck: 0,
            read_fault: None,
            capacity_bytes: u64::MAX,
            crashed: false,
        })))
    }

    /// How many operations that change something (or sync) were asked for so far. The next
    /// one has this number; reads are counted apart.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// How many reads of file content were asked for so far.
    pub fn reads(&self) -> u64 {
        self.0.lock().reads
    }

    /// How many operations a fault made fail so far, reads included, also before a restart.
    pub fn faults_struck(&self) -> u64 {
        self.0.lock().faults_struck
    }

    pub fn inject(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// The read with this number (see [`SimDisk::reads`]) fails.
    pub fn fail_read(&self, at_read: u64) {
        self.0.lock().read_fault = Some(at_read);
    }

    /// Takes back all injected faults that have not struck, and ends `NoSpace`.
    pub fn clear_faults(&self) {
        let mut state = self.0.lock();
        state.faults.clear();
        state.read_fault = None;
    }

    /// Limits the sum of all file lengths; `u64::MAX` for none.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.0.lock().capacity_bytes = capacity_bytes;
    }

    /// Cuts the power. Harmless if it is off.
    pub fn crash(&self) {
        self.0.lock().crash();
    }

    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// The machine after a power cut: crashes this disk unless it has, and returns what is
    /// durable as a new disk without faults. Its randomness goes on from this one's.
    pub fn restart(&self) -> SimDisk {
        let mut state = self.0.lock();
        state.crash();
        let seed = state.rng.u64(..);
        let mut names = Names::default();
        let mut files = BTreeMap::new();
        for (path, node) in state.names.durable_tree() {
            if let Node::File(id) = node {
                files.insert(id, FileImage::settled(state.files[&id].durable.clone()));
            }
            names.insert_settled(path, node);
        }
        SimDisk(Arc::new(Mutex::new(State {
            rng: Rng::with_seed(seed),
            names,
            files,
            file_next: state.file_next,
            operations: 0,
            reads: 0,
            faults: Vec::new(),
            faults_struck: state.faults_struck,
            read_fault: None,
            capacity_bytes: state.capacity_bytes,
            crashed: false,
        })))
    }

    /// Flips one bit (0 to 7) of the byte at `offset`, on the platter and in the cache.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.0.lock();
        let id = state.file_id(path)?;
        let file = state.files.get_mut(&id).expect("names point at files that exist");
        let at = offset as usize;
        if at >= file.live.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.live[at] ^= 1 << bit;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= 1 << bit;
        }
        Ok(())
    }

    /// Every file with its length, in path order.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.0.lock();
        let named = state.names.live.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path.clone(), state.files[id].live.len() as u64)),
            Node::Dir => None,
        });
        named.collect()
    }
}

impl State {
    fn crash(&mut self) {
        if self.crashed {
            return;
        }
        self.crashed = true;
        let sector_bytes = if self.rng.bool() { 512 } else { 4096 };
        for file in self.files.values_mut() {
            file.crash(&mut self.rng, sector_bytes);
        }
        self.names.crash(&mut self.rng);
    }

    /// Counts an operation and says what becomes of it.
    fn begin(&mut self, operation: Operation) -> io::Result<Verdict> {
        if self.crashed {
            return Err(crash_error());
        }
        let now = self.operations;
        self.operations += 1;
        let mut verdict = Verdict::Go;
        let mut spent = None;
        for (i, fault) in self.faults.iter().enumerate() {
            let strikes = match fault.kind {
                FaultKind::NoSpace => {
                    if now >= fault.at_operation && operation == Operation::TakesSpace {
                        self.faults_struck += 1;
                        return Ok(Verdict::NoSpace);
                    }
                    false
                }
                FaultKind::FailSync => now >= fault.at_operation && operation == Operation::Sync,
                _ => now == fault.at_operation,
            };
            if strikes {
                self.faults_struck += 1;
                verdict = match fault.kind {
                    FaultKind::Crash => {
                        self.crash();
                        return Err(crash_error());
                    }
                    FaultKind::Fail if operation == Operation::Sync => Verdict::FailSync,
                    FaultKind::Fail => Verdict::Fail,
                    FaultKind::Torn { sector_bytes } => Verdict::Tear(u64::from(sector_bytes)),
                    FaultKind::FailSync => Verdict::FailSync,
                    FaultKind::NoSpace => unreachable!("does not strike once"),
                };
                spent = Some(i);
                break;
            }
        }
        if let Some(i) = spent {
            self.faults.remove(i);
        }
        Ok(verdict)
    }

    /// [`State::begin`] for operations that either happen or do not.
    fn begin_plain(&mut self, operation: Operation) -> io::Result<()> {
        match self.begin(operation)? {
            Verdict::Go => Ok(()),
            Verdict::Fail | Verdict::FailSync => Err(injected()),
            Verdict::NoSpace => Err(no_space()),
            Verdict::Tear(_) => {
                self.crash();
                Err(crash_error())
            }
        }
    }

    fn file_id(&self, path: &str) -> io::Result<u64> {
        match self.names.live.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn used_bytes(&self) -> u64 {
        let named = self.names.live.values();
        named.map(|n| if let Node::File(id) = n { self.files[id].live.len() as u64 } else { 0 }).sum()
    }

    fn refuse_beyond_capacity(&self, id: u64, len_bytes: u64) -> io::Result<()> {
        let grows = len_bytes.saturating_sub(self.files[&id].live.len() as u64);
        if grows > self.capacity_bytes.saturating_sub(self.used_bytes()) { Err(no_space()) } else { Ok(()) }
    }

    fn require_dir(&self, path: &str) -> io::Result<()> {
        match self.names.live.get(path) {
            _ if path.is_empty() => Ok(()),
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn check_path(path: &str) -> io::Result<()> {
    let bad = path.starts_with('/') || path.split('/').any(|c| c == ".." || c == "." || c.is_empty());
    if bad && !path.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path {path:?} leaves the data directory"),
        ));
    }
    Ok(())
}

impl Disk for SimDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        check_path(path)?;
        let mut state = self.0.lock();
        if state.crashed {
            return Err(crash_error());
        }
        let id = if mode == OpenMode::CreateNew {
            state.begin_plain(Operation::TakesSpace)?;
            state.require_dir(parent(path))?;
            if state.names.live.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let id = state.file_next;
            state.file_next += 1;
            state.files.insert(id, FileImage::default());
            state.names.create(path, Node::File(id));
            id
        } else {
            state.file_id(path)?
        };
        Ok(Arc::new(SimFile { disk: self.0.clone(), id, writable: mode != OpenMode::Read }))
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.0.lock();
        state.begin_plain(Operation::TakesSpace)?;
        let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            match state.names.live.get(&path[..end]) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => state.names.create(&path[..end], Node::Dir),
            }
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_path(from)?;
        check_path(to)?;
        let mut state = self.0.lock();
        state.begin_plain(Operation::Other)?;
        state.require_dir(parent(to))?;
        match (state.names.live.get(from), state.names.live.get(to)) {
            (None, _) => Err(io::ErrorKind::NotFound.into()),
            (Some(Node::File(_)), Some(Node::Dir)) => Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::Dir), Some(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            _ => {
                state.names.rename(from, to);
                Ok(())
            }
        }
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.0.lock();
        state.begin_plain(Operation::Other)?;
        state.file_id(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.0.lock();
        state.begin_plain(Operation::Other)?;
        match state.names.live.get(path) {
            None => return Ok(()),
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Dir) => {}
        }
        let mut below = state.names.below(path);
        below.reverse();
        for name in below {
            state.names.remove(&name);
        }
        state.names.remove(path);
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        check_path(path)?;
        let state = self.0.lock();
        if state.crashed {
            return Err(crash_error());
        }
        state.require_dir(path)?;
        let entries = state.names.live.iter().filter(|(name, _)| parent(name) == path);
        let entries = entries.map(|(name, node)| DirEntry {
            name: name[name.rfind('/').map_or(0, |i| i + 1)..].to_owned(),
            is_dir: *node == Node::Dir,
            len_bytes: if let Node::File(id) = node { state.files[id].live.len() as u64 } else { 0 },
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        check_path(path)?;
        let state = self.0.lock();
        if state.crashed {
            return Err(crash_error());
        }
        Ok(match state.names.live.get(path) {
            Some(Node::File(id)) => Some(state.files[id].live.len() as u64),
            Some(Node::Dir) => Some(0),
            None => None,
        })
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.0.lock();
        state.begin_plain(Operation::Sync)?;
        state.require_dir(path)?;
        state.names.sync_dir(path);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock();
        if state.crashed {
            return Err(crash_error());
        }
        let now = state.operations;
        if state.faults.iter().any(|f| f.kind == FaultKind::NoSpace && now >= f.at_operation) {
            return Ok(0);
        }
        if state.capacity_bytes == u64::MAX {
            return Ok(u64::MAX);
        }
        Ok(state.capacity_bytes.saturating_sub(state.used_bytes()))
    }
}
