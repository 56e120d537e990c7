//! A disk that can be read as it was at one instant while it is written on.
//!
//! ```text
//! snapshot: writers stand still while all names and lengths are listed
//! write    -> what it overwrites of the snapshot is kept in memory, in ranges; zeros as such
//! removal, replacement -> the old file is kept open
//! read     -> the file below, up to its length then; over it what was kept
//! ```
//!
//! What it was at the instant is what a crash of the process would have left: bytes written, synced or not.
//! Kept is what is overwritten: of logs, which grow into zeros, next to nothing. Whoever writes goes before the
//! snapshot: where more is overwritten or removed than can be kept, the snapshot is lost and its reads fail.
//!
//! One snapshot at a time. Without one an operation costs a shared lock.

use super::{DirEntry, Disk, DiskFile, OpenMode};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// Bytes of overwritten files that are compared with zeros at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// Bytes other than zeros that are kept, and files that are kept open; then the snapshot is lost.
const KEPT_BYTES_MAX: u64 = 64 << 20;
const KEPT_FILES_MAX: u64 = 256;

#[derive(Debug)]
pub struct SnapshotDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    below: Arc<dyn Disk>,
    /// Held by whoever changes something, for writing by who takes a snapshot.
    taken: RwLock<Weak<Taken>>,
    /// Files that are open for writing, by the names they have now.
    open: Mutex<HashMap<String, Weak<Written>>>,
}

/// A file that is open for writing, whatever its name is.
#[derive(Debug, Default)]
struct Written {
    /// What it was when the snapshot was taken, if it was there.
    then: Mutex<Weak<FileThen>>,
}

/// What is known of the instant.
#[derive(Debug)]
struct Taken {
    /// By path.
    files: BTreeMap<String, Arc<FileThen>>,
    dirs: BTreeMap<String, Vec<DirEntry>>,
    /// Those that are still there, by the paths they have now.
    now: Mutex<BTreeMap<String, Arc<FileThen>>>,
    kept: Arc<AllKept>,
}

#[derive(Debug)]
struct FileThen {
    len: u64,
    kept: Mutex<Kept>,
    all: Arc<AllKept>,
}

/// What is kept of all files.
#[derive(Debug, Default)]
struct AllKept {
    bytes: AtomicU64,
    files: AtomicU64,
    /// Why it is not what it was any more.
    lost: Mutex<Option<String>>,
}

impl AllKept {
    fn lose(&self, why: String) {
        self.lost.lock().get_or_insert(why);
    }

    fn is_lost(&self) -> bool {
        self.lost.lock().is_some()
    }

    fn whole(&self) -> io::Result<()> {
        match &*self.lost.lock() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("what it was could not be kept: {why}"))),
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// The file, where its name means nothing or another one now.
    file: Option<Arc<dyn DiskFile>>,
    /// What stood in ranges that were overwritten: begin -> (end, bytes); without bytes zeros.
    ranges: BTreeMap<u64, (u64, Option<Vec<u8>>)>,
    /// Nobody reads it any more.
    released: bool,
}

impl SnapshotDisk {
    pub fn new(below: Arc<dyn Disk>) -> Self {
        SnapshotDisk {
            shared: Arc::new(Shared { below, taken: RwLock::new(Weak::new()), open: Mutex::default() }),
        }
    }

    /// The disk as it is now, to be read. `wanted` says which paths are of interest.
    ///
    /// # Errors
    /// `ResourceBusy` while there is another snapshot; what listing says.
    pub fn snapshot(&self, wanted: impl Fn(&str) -> bool) -> io::Result<DiskSnapshot> {
        let mut taken = self.shared.taken.write();
        if taken.strong_count() > 0 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let (mut files, mut all) = (BTreeMap::new(), BTreeMap::new());
        let kept = Arc::new(AllKept::default());
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            let mut entries = self.shared.below.list(&dir)?;
            entries.retain(|e| wanted(&join(&dir, &e.name)));
            for entry in &entries {
                let path = join(&dir, &entry.name);
                if entry.is_dir {
                    dirs.push(path);
                } else {
                    let then = FileThen { len: entry.len_bytes, kept: Mutex::default(), all: kept.clone() };
                    files.insert(path, Arc::new(then));
                }
            }
            all.insert(dir, entries);
        }
        for (path, written) in &*self.shared.open.lock() {
            if let Some(written) = written.upgrade() {
                *written.then.lock() = files.get(path).map(Arc::downgrade).unwrap_or_default();
            }
        }
        let now = Arc::new(Taken { now: Mutex::new(files.clone()), files, dirs: all, kept });
        *taken = Arc::downgrade(&now);
        Ok(DiskSnapshot { below: self.shared.below.clone(), taken: now })
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

impl Shared {
    /// Takes files from their names. Gives the instant, if there is one, which holds on to them.
    fn leave(&self, taken: &Weak<Taken>, paths: &[&str]) -> Option<Arc<Taken>> {
        let then = taken.upgrade()?;
        for path in paths {
            let file = then.now.lock().get(*path).cloned();
            if let Some(file) = file {
                file.keep(&*self.below, path);
            }
        }
        Some(then)
    }

    fn written(&self, path: &str, new: bool, taken: &Weak<Taken>) -> Arc<Written> {
        let mut open = self.open.lock();
        let there = open.get(path).filter(|_| !new).and_then(Weak::upgrade);
        there.unwrap_or_else(|| {
            let then =
                taken.upgrade().filter(|_| !new).and_then(|t| t.now.lock().get(path).map(Arc::downgrade));
            let written = Arc::new(Written { then: Mutex::new(then.unwrap_or_default()) });
            if open.len() == open.capacity() {
                open.retain(|_, w| w.strong_count() > 0);
            }
            open.insert(path.to_owned(), Arc::downgrade(&written));
            written
        })
    }

    /// Files below a directory, or of that name, are not there any more.
    fn gone(&self, taken: Option<&Taken>, path: &str) {
        let within = format!("{path}/");
        let is_gone = |p: &str| p == path || p.starts_with(&within);
        self.open.lock().retain(|p, _| !is_gone(p));
        if let Some(then) = taken {
            then.now.lock().retain(|p, _| !is_gone(p));
        }
    }
}

impl FileThen {
    /// Keeps the file, which will not be there by this name.
    fn keep(&self, below: &dyn Disk, path: &str) {
        let mut kept = self.kept.lock();
        if kept.file.is_some() || kept.released || self.all.is_lost() {
            return;
        }
        if self.all.files.fetch_add(1, Relaxed) >= KEPT_FILES_MAX {
            return self.all.lose(format!("more than {KEPT_FILES_MAX} files were removed meanwhile"));
        }
        match below.open(path, OpenMode::Read) {
            Ok(file) => kept.file = Some(file),
            // The change says so itself.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.all.lose(format!("{path} could not be kept: {e}")),
        }
    }

    /// Nobody reads it any more: nothing is kept of it.
    fn release(&self) {
        let mut kept = self.kept.lock();
        let bytes: usize = kept.ranges.values().filter_map(|(_, bytes)| Some(bytes.as_ref()?.len())).sum();
        self.all.bytes.fetch_sub(bytes as u64, Relaxed);
        self.all.files.fetch_sub(u64::from(kept.file.is_some()), Relaxed);
        *kept = Kept { released: true, ..Kept::default() };
    }

    /// Keeps what stands from `begin` to `end`, as far as it was there then and is not kept yet.
    fn keep_range(&self, file: &dyn DiskFile, begin: u64, end: u64) {
        let mut kept = self.kept.lock();
        if kept.released || self.all.is_lost() {
            return;
        }
        let (mut at, end) = (begin, end.min(self.len));
        // The range that reaches into what is asked for.
        if let Some((_, (before_end, _))) = kept.ranges.range(..=at).next_back() {
            at = at.max(*before_end);
        }
        while at < end {
            let next = kept.ranges.range(at..).next().map(|(begin, (end, _))| (*begin, *end));
            let gap_end = next.map_or(end, |(begin, _)| begin.min(end));
            while at < gap_end {
                let n = (gap_end - at).min(PIECE_BYTES);
                let mut bytes = vec![0; n as usize];
                match file.read_at(at, &mut bytes) {
                    Ok(read) => bytes[read..].fill(0),
                    Err(e) => {
                        return self.all.lose(format!("bytes to be overwritten could not be read: {e}"));
                    }
                }
                let zeros = bytes.iter().all(|b| *b == 0);
                if !zeros && self.all.bytes.fetch_add(n, Relaxed) + n > KEPT_BYTES_MAX {
                    return self
                        .all
                        .lose(format!("more than {KEPT_BYTES_MAX} bytes were overwritten meanwhile"));
                }
                let before = kept.ranges.range_mut(..at).next_back();
                match before {
                    Some((_, (before_end, None))) if zeros && *before_end == at => *before_end += n,
                    _ => {
                        kept.ranges.insert(at, (at + n, (!zeros).then_some(bytes)));
                    }
                }
                at += n;
            }
            if let Some((_, next_end)) = next.filter(|(begin, _)| *begin == gap_end) {
                at = at.max(next_end);
            }
        }
    }
}

impl Disk for SnapshotDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if mode == OpenMode::Read {
            return self.shared.below.open(path, mode);
        }
        let taken = self.shared.taken.read();
        let file = self.shared.below.open(path, mode)?;
        let written = self.shared.written(path, mode == OpenMode::CreateNew, &taken);
        drop(taken);
        Ok(Arc::new(LiveFile { shared: self.shared.clone(), written, file }))
    }

    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let _taken = self.shared.taken.read();
        self.shared.below.create_dir_all(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let taken = self.shared.taken.read();
        let then = self.shared.leave(&taken, &[from, to]);
        self.shared.below.rename(from, to)?;
        let mut open = self.shared.open.lock();
        match open.remove(from) {
            Some(written) => open.insert(to.to_owned(), written),
            None => open.remove(to),
        };
        if let Some(then) = then {
            let mut now = then.now.lock();
            match now.remove(from) {
                Some(file) => now.insert(to.to_owned(), file),
                None => now.remove(to),
            };
        }
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let taken = self.shared.taken.read();
        let then = self.shared.leave(&taken, &[path]);
        self.shared.below.remove_file(path)?;
        self.shared.gone(then.as_deref(), path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        let taken = self.shared.taken.read();
        let within = format!("{path}/");
        let files: Vec<String> = taken.upgrade().map_or(Vec::new(), |then| {
            then.now.lock().keys().filter(|p| p.starts_with(&within)).cloned().collect()
        });
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let then = self.shared.leave(&taken, &files);
        self.shared.below.remove_dir_all(path)?;
        self.shared.gone(then.as_deref(), path);
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.shared.below.list(path)
    }

    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        self.shared.below.len(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.shared.below.sync_dir(path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.shared.below.free_bytes()
    }
}

/// A file that is written on.
#[derive(Debug)]
struct LiveFile {
    shared: Arc<Shared>,
    written: Arc<Written>,
    file: Arc<dyn DiskFile>,
}

impl LiveFile {
    /// Changes what stands from `begin` to `end`.
    fn change(&self, begin: u64, end: u64, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _taken = self.shared.taken.read();
        let then = self.written.then.lock().upgrade();
        if let Some(then) = then.filter(|then| begin < then.len) {
            then.keep_range(&*self.file, begin, end);
        }
        change()
    }
}

impl DiskFile for LiveFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_all_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = slices.iter().map(|s| s.len()).sum();
        self.change(offset, offset + bytes as u64, || self.file.write_all_at(offset, slices))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.change(len_bytes, u64::MAX, || self.file.set_len(len_bytes))
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        let _taken = self.shared.taken.read();
        self.file.allocate(len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }
}

/// A disk as it was. Only what is read of it is there: all that changes something is refused.
#[derive(Debug)]
pub struct DiskSnapshot {
    below: Arc<dyn Disk>,
    taken: Arc<Taken>,
}

impl DiskSnapshot {
    /// A file that nobody reads any more: what happens to it takes nothing of what can be kept.
    pub fn release(&self, path: &str) {
        if let Some(then) = self.taken.files.get(path) {
            then.release();
        }
    }
}

#[derive(Debug)]
struct FileSnapshot {
    file: Arc<dyn DiskFile>,
    then: Arc<FileThen>,
}

fn read_only<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a snapshot of a disk is only read"))
}

impl Disk for DiskSnapshot {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if mode != OpenMode::Read {
            return read_only();
        }
        let then = self.taken.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        // Between the look and the opening the name may have gone: then it is kept.
        let kept = || then.kept.lock().file.clone();
        let file = match kept() {
            Some(file) => file,
            None => {
                let opened = self.below.open(path, mode);
                match kept() {
                    Some(file) => file,
                    None => {
                        self.taken.kept.whole()?;
                        opened?
                    }
                }
            }
        };
        Ok(Arc::new(FileSnapshot { file, then: then.clone() }))
    }

    fn create_dir_all(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        read_only()
    }

    fn remove_file(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn remove_dir_all(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.taken.dirs.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(self.taken.files.get(path).map(|f| f.len))
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
}

impl DiskFile for FileSnapshot {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = (buf.len() as u64).min(self.then.len.saturating_sub(offset)) as usize;
        let buf = &mut buf[..n];
        let read = self.file.read_at(offset, buf)?;
        buf[read..].fill(0);
        // Whatever was overwritten before or meanwhile was kept before, or could not be.
        let kept = self.then.kept.lock();
        self.then.all.whole()?;
        let end = offset + n as u64;
        let before = kept.ranges.range(..offset).next_back();
        for (from, (to, bytes)) in before.into_iter().chain(kept.ranges.range(offset..end)) {
            let (begin, stop) = ((*from).max(offset), (*to).min(end));
            if begin >= stop {
                continue;
            }
            let into = &mut buf[(begin - offset) as usize..(stop - offset) as usize];
            match bytes {
                None => into.fill(0),
                Some(bytes) => into.copy_from_slice(&bytes[(begin - from) as usize..(stop - from) as usize]),
            }
        }
        Ok(n)
    }

    fn write_all_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        read_only()
    }

    fn sync_data(&self) -> io::Result<()> {
        read_only()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        read_only()
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        read_only()
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.then.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::disk::{SimDisk, read_exact_at, read_file};

    const PATHS: [&str; 5] = ["a", "d/b", "d/e/c", "d/new", "n"];

    /// Some change of some file; what it says depends on nothing but the files.
    fn change(disk: &dyn Disk, rng: &Rng, step: u64) {
        let (path, other) = (PATHS[rng.below(5) as usize], PATHS[rng.below(5) as usize]);
        let (at, n) = (rng.below(900_000), 1 + rng.below(300_000) as usize);
        let what = rng.below(9);
        let done = match what {
            0..=2 => disk.open(path, OpenMode::ReadWrite).and_then(|file| {
                let at = at.min(file.len_bytes()?);
                file.write_all_at(at, &[IoSlice::new(&vec![step as u8; n])])
            }),
            3 => disk.open(path, OpenMode::ReadWrite).and_then(|file| file.set_len(at)),
            4 => disk.open(path, OpenMode::ReadWrite).and_then(|file| file.allocate(at)),
            5 => disk.open(path, OpenMode::CreateNew).map(drop),
            6 => disk.remove_file(path),
            7 if path != other => disk.rename(path, other),
            8 if step.is_multiple_of(13) => {
                disk.remove_dir_all("d/e").and_then(|()| disk.create_dir_all("d/e"))
            }
            _ => Ok(()),
        };
        // Names come and go.
        let _ = done;
    }

    fn contents(disk: &dyn Disk) -> BTreeMap<&'static str, Vec<u8>> {
        PATHS.iter().filter_map(|p| Some((*p, read_file(disk, p).ok()?))).collect()
    }

    #[test]
    fn it_gives_way_where_more_is_removed_or_overwritten_than_it_keeps() {
        let disk = SnapshotDisk::new(Arc::new(SimDisk::new(1)));
        let name = |i: u64| format!("f{i}");
        let make = |i: u64, bytes: usize| {
            let file = disk.open(&name(i), OpenMode::CreateNew).unwrap();
            file.write_all_at(0, &[IoSlice::new(&vec![7; bytes])]).unwrap();
            file
        };
        let files: Vec<_> = (0..KEPT_FILES_MAX + 3).map(|i| make(i, 10)).collect();
        let snapshot = disk.snapshot(|_| true).unwrap();
        // What was read already is not kept.
        snapshot.release(&name(0));
        snapshot.release(&name(1));
        for i in 0..KEPT_FILES_MAX + 2 {
            disk.remove_file(&name(i)).unwrap();
        }
        assert_eq!(read_file(&snapshot, &name(9)).unwrap(), [7; 10]);
        disk.remove_file(&name(KEPT_FILES_MAX + 2)).expect("the disk goes on");
        let e = read_file(&snapshot, &name(9)).unwrap_err();
        assert!(e.to_string().contains("256 files"), "{e}");
        drop((files, snapshot));

        let large = make(1_000, 1 << 20);
        let snapshot = disk.snapshot(|_| true).unwrap();
        snapshot.taken.kept.bytes.store(KEPT_BYTES_MAX - (1 << 19), Relaxed);
        large.write_all_at(0, &[IoSlice::new(&vec![8; 1 << 18])]).unwrap();
        assert_eq!(read_file(&snapshot, &name(1_000)).unwrap(), vec![7; 1 << 20]);
        large.write_all_at(0, &[IoSlice::new(&vec![9; 1 << 20])]).expect("the disk goes on");
        let e = read_file(&snapshot, &name(1_000)).unwrap_err();
        assert!(e.to_string().contains("bytes were overwritten"), "{e}");
    }

    #[test]
    fn it_stays_what_it_was_whatever_is_done_to_the_disk() {
        for seed in 0..80 {
            let rng = Rng::seeded(seed);
            let disk = SnapshotDisk::new(Arc::new(SimDisk::new(seed)));
            disk.create_dir_all("d/e").unwrap();
            for (i, path) in PATHS[..3].iter().enumerate() {
                let file = disk.open(path, OpenMode::CreateNew).unwrap();
                file.write_all_at(0, &[IoSlice::new(&vec![i as u8 + 1; 100_000 * (i + 1)])]).unwrap();
                file.allocate(500_000).unwrap();
            }
            for round in 0..4 {
                (0..10).for_each(|step| change(&disk, &rng, round * 100 + step));
                let before = contents(&disk);
                let snapshot = disk.snapshot(|path| path != "n").unwrap();
                let busy = disk.snapshot(|_| true).unwrap_err();
                assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
                // Opened before and after it is written on.
                let early = snapshot.open("d/b", OpenMode::Read).ok();
                for step in 0..25 {
                    change(&disk, &rng, 50 + round * 100 + step);
                    let mut then = contents(&snapshot);
                    assert_eq!(then.remove("n"), None, "nobody wanted it");
                    for (path, bytes) in &then {
                        assert!(before[path] == *bytes, "seed {seed}, round {round}, step {step}: {path}");
                    }
                    assert_eq!(then.len(), before.len() - usize::from(before.contains_key("n")));
                }
                if let Some(early) = early {
                    let mut bytes = vec![0; early.len_bytes().unwrap() as usize];
                    read_exact_at(&*early, 0, &mut bytes).unwrap();
                    assert!(before["d/b"] == bytes, "seed {seed}, round {round}");
                }
                let listed: Vec<String> = snapshot.list("d").unwrap().into_iter().map(|e| e.name).collect();
                let there = |name: &str| before.contains_key(format!("d/{name}").as_str());
                assert!(listed.iter().filter(|n| *n != "e").all(|n| there(n)), "{listed:?}");
            }
        }
    }
}
