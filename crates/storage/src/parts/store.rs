//! Where the bytes of parts lie, read with verification.
//!
//! Only registered parts can be read: registering tells the sidecar's checksum, which the
//! manifest holds. Nothing is kept open and no bytes are cached; the operating system's page
//! cache does that for local parts.

use super::checks::Checks;
use super::sink::PartSink;
use crate::context::PartsLocation;
use crate::error::{Result, StorageError};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use weir_base::Disk;
use weir_base::disk::{OpenMode, read_file};

/// Reads nearer to each other than this are joined into one.
const COALESCE_LOCAL_BYTES: u64 = 64 << 10;
const COALESCE_REMOTE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct PartStore {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) location: PartsLocation,
    known: RwLock<HashMap<String, Arc<Known>>>,
}

/// A registered part.
#[derive(Debug)]
pub(super) struct Known {
    pub size_bytes: u64,
    checks_crc: u32,
    checks: OnceLock<Arc<Checks>>,
}

/// Suffix of the sidecar beside each part.
pub(crate) const CHECKS_SUFFIX: &str = ".crc";

impl PartStore {
    pub fn new(disk: Arc<dyn Disk>, location: PartsLocation) -> Self {
        PartStore { disk, location, known: RwLock::default() }
    }

    /// Makes a part readable under `path`.
    pub fn register(&self, path: &str, size_bytes: u64, checks_crc: u32) {
        let known = Known { size_bytes, checks_crc, checks: OnceLock::new() };
        self.known.write().insert(path.to_owned(), Arc::new(known));
    }

    pub fn unregister(&self, path: &str) {
        self.known.write().remove(path);
    }

    pub(super) fn known(&self, path: &str) -> Result<Arc<Known>> {
        self.known.read().get(path).cloned().ok_or_else(|| {
            StorageError::io("find part", path, io::Error::new(io::ErrorKind::NotFound, "not a live part"))
        })
    }

    /// Paths of registered parts at or below `prefix`, in order.
    pub(super) fn known_under(&self, prefix: &str) -> Vec<String> {
        let mut paths: Vec<String> = self
            .known
            .read()
            .keys()
            .filter(|path| prefix.is_empty() || path.strip_prefix(prefix).is_some_and(|r| r.starts_with('/')))
            .cloned()
            .collect();
        paths.sort();
        paths
    }

    /// Starts a new part at `path`. Blocks.
    pub fn create(&self, path: &str) -> Result<PartSink> {
        PartSink::create(&self.disk, &self.location, path)
    }

    /// Makes the names of new parts in `dir` durable. Blocks.
    pub fn sync_dir(&self, dir: &str) -> Result<()> {
        match &self.location {
            PartsLocation::Local => {
                self.disk.sync_dir(dir).map_err(|e| StorageError::io("sync directory", dir, e))
            }
            PartsLocation::Remote { .. } => Ok(()),
        }
    }

    /// Makes `dir` exist where directories do. Blocks.
    pub fn create_dir(&self, dir: &str) -> Result<()> {
        match &self.location {
            PartsLocation::Local => {
                self.disk.create_dir_all(dir).map_err(|e| StorageError::io("create directory", dir, e))
            }
            PartsLocation::Remote { .. } => Ok(()),
        }
    }

    /// Removes a part and its sidecar; missing is not an error. Blocks.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.unregister(path);
        for path in [path.to_owned(), format!("{path}{CHECKS_SUFFIX}")] {
            match &self.location {
                PartsLocation::Local => match self.disk.remove_file(&path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other.map_err(|e| StorageError::io("remove", &path, e))?,
                },
                PartsLocation::Remote { store, prefix, runtime } => {
                    match runtime.block_on(store.delete(&remote_path(prefix, &path))) {
                        Err(object_store::Error::NotFound { .. }) => {}
                        other => other.map_err(|e| StorageError::object("remove", &path, e))?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Names and sizes in `dir`, which may be missing. Blocks.
    pub fn list(&self, dir: &str) -> Result<Vec<(String, u64)>> {
        match &self.location {
            PartsLocation::Local => match self.disk.list(dir) {
                Ok(entries) => {
                    Ok(entries.into_iter().filter(|e| !e.is_dir).map(|e| (e.name, e.len_bytes)).collect())
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(e) => Err(StorageError::io("list", dir, e)),
            },
            PartsLocation::Remote { store, prefix, runtime } => {
                let listed = store.list(Some(&remote_path(prefix, dir))).try_collect::<Vec<_>>();
                let listed = runtime.block_on(listed).map_err(|e| StorageError::object("list", dir, e))?;
                Ok(listed
                    .into_iter()
                    .filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.size)))
                    .collect())
            }
        }
    }

    /// Removes `dir` and everything in it. Blocks.
    pub fn delete_dir(&self, dir: &str) -> Result<()> {
        let within = format!("{dir}/");
        self.known.write().retain(|path, _| !path.starts_with(&within));
        match &self.location {
            PartsLocation::Local => {
                self.disk.remove_dir_all(dir).map_err(|e| StorageError::io("remove directory", dir, e))
            }
            PartsLocation::Remote { .. } => {
                for (name, _) in self.list(dir)? {
                    self.delete(&format!("{dir}/{name}"))?;
                }
                Ok(())
            }
        }
    }

    /// The ranges of a part, each block they touch verified. Blocks.
    pub fn read(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match &self.location {
            PartsLocation::Local => self.read_local(path, ranges),
            PartsLocation::Remote { runtime, .. } => runtime.block_on(self.read_remote(path, ranges)),
        }
    }

    pub(super) fn read_local(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let known = self.known(path)?;
        let checks = match known.checks.get() {
            Some(checks) => checks.clone(),
            None => {
                let sidecar = format!("{path}{CHECKS_SUFFIX}");
                let bytes =
                    read_file(&*self.disk, &sidecar).map_err(|e| missing_is_damage("read", &sidecar, e))?;
                known.keep(Checks::decode(&sidecar, &bytes, known.checks_crc, known.size_bytes)?)
            }
        };
        let file = self.disk.open(path, OpenMode::Read).map_err(|e| missing_is_damage("open", path, e))?;
        let runs = coalesce(&checks, ranges, COALESCE_LOCAL_BYTES);
        let mut read = Vec::with_capacity(runs.len());
        for run in runs {
            let mut buf = vec![0; (run.end - run.start) as usize];
            let n = file.read_at(run.start, &mut buf).map_err(|e| StorageError::io("read", path, e))?;
            if n != buf.len() {
                return Err(cut_short(path, run.start + n as u64, known.size_bytes));
            }
            checks.verify(path, run.start, &buf)?;
            read.push((run.start, Bytes::from(buf)));
        }
        Ok(pick(ranges, &read))
    }

    pub(super) async fn read_remote(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let PartsLocation::Remote { store, prefix, .. } = &self.location else {
            unreachable!("callers match on the location");
        };
        let known = self.known(path)?;
        let checks = match known.checks.get() {
            Some(checks) => checks.clone(),
            None => {
                let sidecar = format!("{path}{CHECKS_SUFFIX}");
                let failed = |e| StorageError::object("read", &sidecar, e);
                let got = store.get(&remote_path(prefix, &sidecar)).await.map_err(failed)?;
                let bytes = got.bytes().await.map_err(failed)?;
                known.keep(Checks::decode(&sidecar, &bytes, known.checks_crc, known.size_bytes)?)
            }
        };
        let runs = coalesce(&checks, ranges, COALESCE_REMOTE_BYTES);
        let at = remote_path(prefix, path);
        let got = store.get_ranges(&at, &runs).await.map_err(|e| StorageError::object("read", path, e))?;
        let mut read = Vec::with_capacity(runs.len());
        for (run, bytes) in runs.into_iter().zip(got) {
            if bytes.len() as u64 != run.end - run.start {
                return Err(cut_short(path, run.start + bytes.len() as u64, known.size_bytes));
            }
            checks.verify(path, run.start, &bytes)?;
            read.push((run.start, bytes));
        }
        Ok(pick(ranges, &read))
    }
}

impl Known {
    fn keep(&self, checks: Checks) -> Arc<Checks> {
        self.checks.get_or_init(|| Arc::new(checks)).clone()
    }
}

pub(super) fn remote_path(prefix: &Path, path: &str) -> Path {
    Path::from_iter(prefix.parts().chain(Path::from(path).parts()))
}

/// A file that the manifest names must be there.
fn missing_is_damage(doing: &'static str, path: &str, e: io::Error) -> StorageError {
    if e.kind() == io::ErrorKind::NotFound {
        return StorageError::Corrupt {
            path: path.to_owned(),
            offset: 0,
            what: "the file is missing".into(),
        };
    }
    StorageError::io(doing, path, e)
}

fn cut_short(path: &str, offset: u64, expected_bytes: u64) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        offset,
        what: format!("the file ends here, {expected_bytes} bytes were written"),
    }
}

/// Block-aligned runs that cover `ranges`, ascending and disjoint.
fn coalesce(checks: &Checks, ranges: &[Range<u64>], gap_bytes: u64) -> Vec<Range<u64>> {
    let mut aligned: Vec<Range<u64>> =
        ranges.iter().filter(|r| r.start < r.end).map(|r| checks.align(r)).collect();
    aligned.sort_by_key(|r| r.start);
    let mut runs: Vec<Range<u64>> = Vec::with_capacity(aligned.len());
    for range in aligned {
        match runs.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap_bytes) => {
                last.end = last.end.max(range.end);
            }
            _ => runs.push(range),
        }
    }
    runs
}

/// Cuts the asked ranges out of what was read, without copying.
fn pick(ranges: &[Range<u64>], read: &[(u64, Bytes)]) -> Vec<Bytes> {
    ranges
        .iter()
        .map(|range| {
            if range.start >= range.end {
                return Bytes::new();
            }
            let run = read.partition_point(|(start, _)| *start <= range.start) - 1;
            let (start, bytes) = &read[run];
            bytes.slice((range.start - start) as usize..(range.end - start) as usize)
        })
        .collect()
}
