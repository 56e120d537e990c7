//! The manifest's file: framing, recovery, replacement.

use super::state::{Change, State};
use crate::error::{Result, StorageError};
use serde::{Deserialize, Serialize};
use std::io::IoSlice;
use std::sync::Arc;
use weir_base::disk::{OpenMode, read_file};
use weir_base::{Disk, DiskFile};

const MAGIC: [u8; 4] = *b"WMF1";
/// Magic, payload length, crc32c of length and payload.
const FRAME_BYTES: usize = 12;
/// A new file is begun past this size, if it would be much smaller.
const COMPACT_AFTER_BYTES: u64 = 1 << 20;
const PREFIX: &str = "manifest-";

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Counts all changes of the shard; consecutive within a file.
    version: u64,
    change: Change,
}

/// The writing side. One per shard, behind its lock.
#[derive(Debug)]
pub(crate) struct Manifest {
    disk: Arc<dyn Disk>,
    dir: String,
    /// Number in the current file's name.
    number: u64,
    file: Arc<dyn DiskFile>,
    len_bytes: u64,
    whole_bytes: u64,
    version: u64,
    state: State,
    /// A write failed: what the file holds is not known.
    doubtful: bool,
}

impl Manifest {
    /// Opens the manifest in `dir`, or begins one. Blocks.
    pub fn open(disk: &Arc<dyn Disk>, dir: &str) -> Result<Self> {
        let failed = |e| StorageError::io("open manifest in", dir, e);
        disk.create_dir_all(dir).map_err(failed)?;
        let mut numbers: Vec<u64> = Vec::new();
        for entry in disk.list(dir).map_err(failed)? {
            match entry.name.strip_prefix(PREFIX).and_then(|n| n.parse().ok()) {
                Some(number) => numbers.push(number),
                None if entry.name.ends_with(".tmp") => {
                    disk.remove_file(&format!("{dir}/{}", entry.name)).map_err(failed)?;
                }
                None => {}
            }
        }
        numbers.sort_unstable();
        let Some(number) = numbers.last().copied() else {
            let (file, len_bytes) = write_whole(&**disk, dir, 0, 0, &State::default())?;
            let parent = weir_base::disk::parent(dir);
            disk.sync_dir(parent).map_err(failed)?;
            return Ok(Manifest {
                disk: disk.clone(),
                dir: dir.to_owned(),
                number: 0,
                file,
                len_bytes,
                whole_bytes: len_bytes,
                version: 0,
                state: State::default(),
                doubtful: false,
            });
        };
        let path = name(dir, number);
        let bytes = read_file(&**disk, &path).map_err(|e| StorageError::io("read", &path, e))?;
        let recovered = recover(&path, &bytes)?;
        let file = disk.open(&path, OpenMode::ReadWrite).map_err(failed)?;
        let mut manifest = Manifest {
            disk: disk.clone(),
            dir: dir.to_owned(),
            number,
            file,
            len_bytes: recovered.len_bytes,
            whole_bytes: recovered.whole_bytes,
            version: recovered.version,
            state: recovered.state,
            // Half of an entry follows: only a new file can be appended to.
            doubtful: recovered.len_bytes != bytes.len() as u64,
        };
        if manifest.doubtful {
            manifest.settle()?;
        } else {
            // What a killed process wrote may be in the page cache only.
            manifest.file.sync_data().map_err(failed)?;
            disk.sync_dir(dir).map_err(failed)?;
        }
        for old in &numbers[..numbers.len() - 1] {
            manifest.disk.remove_file(&name(dir, *old)).map_err(failed)?;
        }
        Ok(manifest)
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Makes `change` durable, then applies it. On an error the state is as before here, but
    /// after a crash the change may be found; call [`Manifest::settle`] (or `append` again)
    /// before removing any file it names.
    ///
    /// # Panics
    /// If the change breaks an invariant: that is a bug, and writing it would lose rows.
    pub fn append(&mut self, change: Change) -> Result<()> {
        let next = match self.state.apply(&change) {
            Ok(next) => next,
            Err(what) => panic!("manifest of {}: {what}", self.dir),
        };
        self.settle()?;
        if self.len_bytes > COMPACT_AFTER_BYTES && self.len_bytes > 4 * self.whole_bytes {
            self.doubtful = true;
            self.settle()?;
        }
        let frame = frame(&Entry { version: self.version + 1, change });
        let path = name(&self.dir, self.number);
        let written = self
            .file
            .write_all_at(self.len_bytes, &[IoSlice::new(&frame)])
            .and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            self.doubtful = true;
            return Err(StorageError::io("write", &path, e));
        }
        self.len_bytes += frame.len() as u64;
        self.version += 1;
        self.state = next;
        Ok(())
    }

    /// Whether a change may be durable that the state does not have.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Begins a new file with the whole state if a write failed before, so that the durable
    /// state is the one here. Blocks.
    pub fn settle(&mut self) -> Result<()> {
        if !self.doubtful {
            return Ok(());
        }
        let number = self.number + 1;
        // Counted even if this fails: the name may be durable, and is not used again.
        let old = std::mem::replace(&mut self.number, number);
        let (file, len_bytes) = write_whole(&*self.disk, &self.dir, number, self.version, &self.state)?;
        self.file = file;
        self.len_bytes = len_bytes;
        self.whole_bytes = len_bytes;
        self.doubtful = false;
        let path = name(&self.dir, old);
        if let Err(e) = self.disk.remove_file(&path) {
            // Found and removed at the next open; the higher number is the one that counts.
            tracing::debug!(path, error = %e, "an old manifest file stays for now");
        }
        Ok(())
    }
}

fn name(dir: &str, number: u64) -> String {
    format!("{dir}/{PREFIX}{number:012}")
}

/// Writes a file that begins with `state` and makes it and its name durable.
fn write_whole(
    disk: &dyn Disk,
    dir: &str,
    number: u64,
    version: u64,
    state: &State,
) -> Result<(Arc<dyn DiskFile>, u64)> {
    let path = name(dir, number);
    let tmp = format!("{path}.tmp");
    let failed = |e| StorageError::io("write", &path, e);
    if disk.len(&tmp).map_err(failed)?.is_some() {
        disk.remove_file(&tmp).map_err(failed)?;
    }
    let bytes = frame(&Entry { version, change: Change::Whole { state: state.clone() } });
    let file = disk.open(&tmp, OpenMode::CreateNew).map_err(failed)?;
    file.write_all_at(0, &[IoSlice::new(&bytes)]).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    drop(file);
    disk.rename(&tmp, &path).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    let file = disk.open(&path, OpenMode::ReadWrite).map_err(failed)?;
    Ok((file, bytes.len() as u64))
}

fn frame(entry: &Entry) -> Vec<u8> {
    let payload = serde_json::to_vec(entry).expect("manifest entries are plain data");
    let len = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&len), &payload);
    let mut out = Vec::with_capacity(FRAME_BYTES + payload.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&len);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&payload);
    out
}

/// The payload of the frame at `at`, if a whole and undamaged one begins there.
fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at + FRAME_BYTES)?;
    if head[..4] != MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(head[4..8].try_into().expect("four bytes")) as usize;
    let crc = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
    let payload = bytes.get(at + FRAME_BYTES..(at + FRAME_BYTES).checked_add(len)?)?;
    (crc32c::crc32c_append(crc32c::crc32c(&head[4..8]), payload) == crc).then_some(payload)
}

struct Recovered {
    state: State,
    version: u64,
    len_bytes: u64,
    whole_bytes: u64,
}

/// Replays a manifest file. What does not check at its very end is a write that a crash cut
/// short; before that it is damage.
fn recover(path: &str, bytes: &[u8]) -> Result<Recovered> {
    let corrupt = |offset: usize, what: String| StorageError::Corrupt {
        path: path.to_owned(),
        offset: offset as u64,
        what,
    };
    let mut at = 0;
    let mut recovered: Option<Recovered> = None;
    while at < bytes.len() {
        let Some(payload) = frame_at(bytes, at) else {
            // Only one write can have been under way, so nothing whole follows it.
            let followed = (at + 1..bytes.len()).any(|later| frame_at(bytes, later).is_some());
            if followed || recovered.is_none() {
                return Err(corrupt(at, "an entry does not match its checksum".into()));
            }
            break;
        };
        let entry: Entry = serde_json::from_slice(payload)
            .map_err(|e| corrupt(at, format!("an entry this build cannot read: {e}")))?;
        let next = match (&recovered, &entry.change) {
            (None, Change::Whole { .. }) => State::default().apply(&entry.change),
            (None, _) => Err("the file does not begin with a whole state".into()),
            (Some(_), Change::Whole { .. }) => Err("a second whole state".into()),
            (Some(r), _) if Some(entry.version) != r.version.checked_add(1) => {
                Err(format!("entry {} follows entry {}", entry.version, r.version))
            }
            (Some(r), change) => r.state.apply(change),
        };
        let state = next.map_err(|what| corrupt(at, what))?;
        at += FRAME_BYTES + payload.len();
        let whole_bytes = recovered.as_ref().map_or(at as u64, |r| r.whole_bytes);
        recovered = Some(Recovered { state, version: entry.version, len_bytes: at as u64, whole_bytes });
    }
    recovered.ok_or_else(|| corrupt(0, "the file is empty".into()))
}
