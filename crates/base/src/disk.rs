//! Files behind a handle: the machine's disk, or a simulated one that can crash.
//!
//! Paths are relative to the handle's root and use `/`; `..` and absolute paths are refused.
//! What these calls promise about crashes is exactly what POSIX promises and no more:
//! - bytes written are durable only after `sync_data` on that file returned `Ok`;
//! - a created, renamed or removed name is durable only after `sync_dir` on its directory;
//! - after a failed sync nothing is known about unsynced bytes: reopen, do not retry.

mod overlay;
mod real;
mod sim;
mod snapshot;

pub use overlay::Overlay;
pub use real::RealDisk;
pub use sim::{Fault, FaultKind, SimDisk};
pub use snapshot::{DiskSnapshot, SnapshotDisk};

use std::io::{self, IoSlice};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; writes are refused.
    Read,
    /// Must exist.
    ReadWrite,
    /// Must not exist.
    CreateNew,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The last component only.
    pub name: String,
    pub is_dir: bool,
    /// 0 for directories.
    pub len_bytes: u64,
}

/// A directory tree. All calls block; callers run them off the network threads.
pub trait Disk: Send + Sync + std::fmt::Debug {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    fn create_dir_all(&self, path: &str) -> io::Result<()>;
    /// Replaces `to` atomically if it is a file that exists.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove_file(&self, path: &str) -> io::Result<()>;
    /// Removes a directory and all below it; missing is not an error.
    fn remove_dir_all(&self, path: &str) -> io::Result<()>;
    /// Entries in name order. A missing directory is `NotFound`.
    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>>;
    /// Length of a file; `None` if there is none.
    fn len(&self, path: &str) -> io::Result<Option<u64>>;
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Bytes that can still be written; `u64::MAX` where unknown.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Positions are explicit, so one handle may be shared by readers.
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all slices one after the other from `offset`.
    fn write_all_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;
    /// `fdatasync`.
    fn sync_data(&self) -> io::Result<()>;
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// Reserves blocks for `len_bytes` and extends the file with zeros, so that later
    /// writes below do not change metadata.
    fn allocate(&self, len_bytes: u64) -> io::Result<()>;
    fn len_bytes(&self) -> io::Result<u64>;
}

/// Reads exactly `buf.len()` bytes or fails with `UnexpectedEof`.
pub fn read_exact_at(file: &dyn DiskFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let n = file.read_at(offset, buf)?;
    if n == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads a whole file.
pub fn read_file(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut buf = vec![0; file.len_bytes()? as usize];
    read_exact_at(&*file, 0, &mut buf)?;
    Ok(buf)
}

/// Writes `bytes` so that after a crash `path` holds either its old or its new content:
/// temporary name, sync, rename, sync of the directory.
pub fn write_file_atomic(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let tmp = format!("{path}.tmp");
    if disk.len(&tmp)?.is_some() {
        disk.remove_file(&tmp)?;
    }
    let file = disk.open(&tmp, OpenMode::CreateNew)?;
    file.write_all_at(0, &[IoSlice::new(bytes)])?;
    file.sync_data()?;
    drop(file);
    disk.rename(&tmp, path)?;
    disk.sync_dir(parent(path))
}

/// Creates a directory and its missing ancestors so that they survive a crash. Syncs every
/// ancestor also where all exist: an earlier attempt may have ended before its syncs.
pub fn create_dir_durable(disk: &dyn Disk, path: &str) -> io::Result<()> {
    disk.create_dir_all(path)?;
    let mut dir = path;
    while !dir.is_empty() {
        dir = parent(dir);
        disk.sync_dir(dir)?;
    }
    Ok(())
}

/// The directory part of a path, `""` for the root.
pub fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |i| &path[..i])
}
