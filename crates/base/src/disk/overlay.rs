//! A disk of which nothing is changed: what is written lies in memory, above it.
//!
//! For who looks at a data directory as its owner would, recovery and all, and must leave it as it is.

use super::{DirEntry, Disk, DiskFile, OpenMode, parent};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Bytes that are copied up at a time.
const BLOCK_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub struct Overlay {
    below: Arc<dyn Disk>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files as they are here: opened for writing, made, or moved.
    files: HashMap<String, Arc<OverlayFile>>,
    /// Paths below which nothing of the disk below is there any more.
    gone: BTreeSet<String>,
    dirs: BTreeSet<String>,
}

impl State {
    fn hides(&self, path: &str) -> bool {
        let mut at = path;
        while !at.is_empty() {
            if self.gone.contains(at) {
                return true;
            }
            at = parent(at);
        }
        false
    }
}

/// What is written, above what there was.
#[derive(Debug)]
struct OverlayFile {
    below: Option<Arc<dyn DiskFile>>,
    inner: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    len: u64,
    /// Of the file below so many bytes are still seen.
    below_len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    pub fn new(below: Arc<dyn Disk>) -> Self {
        Overlay { below, state: Mutex::default() }
    }

    fn not_found(path: &str) -> io::Error {
        io::Error::new(io::ErrorKind::NotFound, format!("{path} is not there"))
    }

    fn exists_below(&self, state: &State, path: &str) -> io::Result<bool> {
        Ok(!state.hides(path) && self.below.len(path)?.is_some())
    }

    /// The file as it is here.
    fn raised(&self, state: &mut State, path: &str) -> io::Result<Arc<OverlayFile>> {
        if let Some(file) = state.files.get(path) {
            return Ok(file.clone());
        }
        if !self.exists_below(state, path)? {
            return Err(Self::not_found(path));
        }
        let below = self.below.open(path, OpenMode::Read)?;
        let len = below.len_bytes()?;
        let inner = Mutex::new(Written { len, below_len: len, blocks: BTreeMap::new() });
        let file = Arc::new(OverlayFile { below: Some(below), inner });
        state.files.insert(path.to_owned(), file.clone());
        Ok(file)
    }
}

impl Disk for Overlay {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        if mode == OpenMode::CreateNew {
            if state.files.contains_key(path) || self.exists_below(&state, path)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = Arc::new(OverlayFile { below: None, inner: Mutex::default() });
            state.files.insert(path.to_owned(), file.clone());
            return Ok(file);
        }
        if mode == OpenMode::Read && !state.files.contains_key(path) && !state.hides(path) {
            return self.below.open(path, mode);
        }
        Ok(self.raised(&mut state, path)?)
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut at = path;
        while !at.is_empty() {
            state.dirs.insert(at.to_owned());
            at = parent(at);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = self.raised(&mut state, from)?;
        state.files.remove(from);
        state.gone.insert(from.to_owned());
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let here = state.files.remove(path).is_some();
        let below = self.exists_below(&state, path)?;
        if below {
            state.gone.insert(path.to_owned());
        }
        if here || below { Ok(()) } else { Err(Self::not_found(path)) }
    }

    fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let within = format!("{path}/");
        state.files.retain(|p, _| !p.starts_with(&within));
        state.dirs.retain(|d| d != path && !d.starts_with(&within));
        state.gone.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        let mut all: BTreeMap<String, DirEntry> = BTreeMap::new();
        let mut there = path.is_empty() || state.dirs.contains(path);
        if !state.hides(path) {
            match self.below.list(path) {
                Ok(entries) => {
                    there = true;
                    let join =
                        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                    let seen = entries.into_iter().filter(|e| !state.gone.contains(&join(&e.name)));
                    all.extend(seen.map(|e| (e.name.clone(), e)));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        for (file, is) in &state.files {
            if parent(file) == path {
                there = true;
                let name = file[path.len()..].trim_start_matches('/').to_owned();
                let len_bytes = is.inner.lock().len;
                all.insert(name.clone(), DirEntry { name, is_dir: false, len_bytes });
            }
        }
        for dir in state.dirs.iter().filter(|d| !d.is_empty() && parent(d) == path) {
            let name = dir[path.len()..].trim_start_matches('/').to_owned();
            all.entry(name.clone()).or_insert(DirEntry { name, is_dir: true, len_bytes: 0 });
        }
        if there { Ok(all.into_values().collect()) } else { Err(Self::not_found(path)) }
    }

    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        let state = self.state.lock();
        match state.files.get(path) {
            Some(file) => Ok(Some(file.inner.lock().len)),
            None if state.hides(path) => Ok(None),
            None => self.below.len(path),
        }
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl OverlayFile {
    /// The block that holds `offset`, as it is here.
    fn block<'a>(&self, inner: &'a mut Written, number: u64) -> io::Result<&'a mut Vec<u8>> {
        if !inner.blocks.contains_key(&number) {
            let mut block = vec![0; BLOCK_BYTES as usize];
            self.read_below(inner.below_len, number * BLOCK_BYTES, &mut block)?;
            inner.blocks.insert(number, block);
        }
        Ok(inner.blocks.get_mut(&number).expect("it was put there"))
    }

    /// What is below from `offset` on; zeros behind it.
    fn read_below(&self, below_len: u64, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let wanted = (into.len() as u64).min(below_len.saturating_sub(offset)) as usize;
        let mut n = 0;
        if let Some(below) = self.below.as_ref().filter(|_| wanted > 0) {
            n = below.read_at(offset, &mut into[..wanted])?;
        }
        into[n..].fill(0);
        Ok(())
    }
}

impl DiskFile for OverlayFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let inner = self.inner.lock();
        let n = (buf.len() as u64).min(inner.len.saturating_sub(offset)) as usize;
        let buf = &mut buf[..n];
        self.read_below(inner.below_len, offset, buf)?;
        if n == 0 {
            return Ok(0);
        }
        let (first, last) = (offset / BLOCK_BYTES, (offset + n as u64 - 1) / BLOCK_BYTES);
        for (number, block) in inner.blocks.range(first..=last) {
            let begin = number * BLOCK_BYTES;
            let from = begin.max(offset);
            let end = (begin + BLOCK_BYTES).min(offset + n as u64);
            buf[(from - offset) as usize..(end - offset) as usize]
                .copy_from_slice(&block[(from - begin) as usize..(end - begin) as usize]);
        }
        Ok(n)
    }

    fn write_all_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let mut at = offset;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let (number, within) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
                let n = rest.len().min(BLOCK_BYTES as usize - within);
                self.block(&mut inner, number)?[within..within + n].copy_from_slice(&rest[..n]);
                (at, rest) = (at + n as u64, &rest[n..]);
            }
        }
        inner.len = inner.len.max(at);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if len_bytes < inner.len {
            let (number, within) = (len_bytes / BLOCK_BYTES, (len_bytes % BLOCK_BYTES) as usize);
            if within > 0 {
                self.block(&mut inner, number)?[within..].fill(0);
            }
            let cut = number + u64::from(within > 0);
            inner.blocks.split_off(&cut);
            inner.below_len = inner.below_len.min(len_bytes);
        }
        inner.len = len_bytes;
        Ok(())
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.len = inner.len.max(len_bytes);
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.inner.lock().len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::disk::{SimDisk, read_file};

    fn write(disk: &dyn Disk, path: &str, bytes: &[u8]) {
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        file.write_all_at(0, &[IoSlice::new(bytes)]).unwrap();
    }

    /// Everything there is, by path.
    fn all(disk: &dyn Disk, dir: &str, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in disk.list(dir).unwrap() {
            let path = if dir.is_empty() { entry.name.clone() } else { format!("{dir}/{}", entry.name) };
            if entry.is_dir {
                all(disk, &path, into);
            } else {
                let bytes = read_file(disk, &path).unwrap();
                assert_eq!(disk.len(&path).unwrap(), Some(bytes.len() as u64), "{path}");
                assert_eq!(entry.len_bytes, bytes.len() as u64, "{path}");
                into.insert(path, bytes);
            }
        }
    }

    #[test]
    fn it_is_what_a_disk_would_be_and_the_one_below_stays() {
        for seed in 0..60 {
            let rng = Rng::seeded(seed);
            let (plain, below) = (Arc::new(SimDisk::new(seed)), Arc::new(SimDisk::new(seed)));
            for disk in [&plain, &below] {
                disk.create_dir_all("d/e").unwrap();
                write(&**disk, "a", &[1; 100]);
                write(&**disk, "d/b", &[2; 150_000]);
                write(&**disk, "d/e/c", &[3; 70_000]);
            }
            let mut before = BTreeMap::new();
            all(&*below, "", &mut before);
            let overlay = Overlay::new(below.clone());
            let paths = ["a", "d/b", "d/e/c", "d/new", "n"];
            for step in 0..40u64 {
                let path = paths[rng.below(5) as usize];
                let other = paths[rng.below(5) as usize];
                let at = rng.below(160_000);
                let what = rng.below(6);
                let one = |disk: &dyn Disk| -> Result<(), io::ErrorKind> {
                    let kind = |e: io::Error| e.kind();
                    match what {
                        0 => {
                            let file = disk.open(path, OpenMode::ReadWrite).map_err(kind)?;
                            file.write_all_at(at, &[IoSlice::new(&[step as u8; 5_000])]).map_err(kind)
                        }
                        1 => disk.open(path, OpenMode::ReadWrite).map_err(kind)?.set_len(at).map_err(kind),
                        2 => disk.open(path, OpenMode::CreateNew).map(drop).map_err(kind),
                        3 => disk.remove_file(path).map_err(kind),
                        4 if path != other => disk.rename(path, other).map_err(kind),
                        4 => Ok(()),
                        _ => {
                            let mut bytes = vec![0; 9_000];
                            let file = disk.open(path, OpenMode::Read).map_err(kind)?;
                            file.read_at(at, &mut bytes).map(drop).map_err(kind)
                        }
                    }
                };
                assert_eq!(
                    one(&overlay),
                    one(&*plain),
                    "seed {seed} step {step}: {what} {path} {other} {at}"
                );
                let (mut here, mut there) = (BTreeMap::new(), BTreeMap::new());
                all(&overlay, "", &mut here);
                all(&*plain, "", &mut there);
                assert!(here == there, "seed {seed} step {step}: {what} {path} {other} {at}");
            }
            let mut after = BTreeMap::new();
            all(&*below, "", &mut after);
            assert!(before == after, "seed {seed}: the disk below was changed");
        }
    }
}
