//! The machine's disk, below one root directory.

use super::{DirEntry, Disk, DiskFile, OpenMode};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Creates the root if it is missing.
    #[allow(clippy::disallowed_methods, reason = "the world handle itself")]
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        Ok(RealDisk { root })
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    fn full(&self, path: &str) -> io::Result<PathBuf> {
        let relative = Path::new(path);
        if relative.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("path {path:?} leaves the data directory"),
            ));
        }
        Ok(self.root.join(relative))
    }
}

#[allow(clippy::disallowed_methods, reason = "the world handle itself")]
impl Disk for RealDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::ReadWrite => options.read(true).write(true),
            OpenMode::CreateNew => options.read(true).write(true).create_new(true),
        };
        Ok(Arc::new(RealFile(options.open(self.full(path)?)?)))
    }
    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.full(path)?)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.full(from)?, self.full(to)?)
    }
    fn remove_file(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.full(path)?)
    }
    fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        match std::fs::remove_dir_all(self.full(path)?) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
    fn list(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.full(path)?)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Removed between listing and asking: it is not there.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            entries.push(DirEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: meta.is_dir(),
                len_bytes: if meta.is_dir() { 0 } else { meta.len() },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        match std::fs::metadata(self.full(path)?) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::open(self.full(path)?)?.sync_all()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
    fn write_all_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        // pwritev takes at most IOV_MAX slices and may write fewer bytes than asked.
        let mut rest: Vec<IoSlice<'_>> = slices.to_vec();
        let mut rest = &mut rest[..];
        while !rest.is_empty() {
            let batch = rest.len().min(1024);
            match rustix::io::pwritev(&self.0, &rest[..batch], offset) {
                Ok(0) if rest[..batch].iter().all(|s| s.is_empty()) => rest = &mut rest[batch..],
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }
    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, len_bytes) {
            Ok(()) => Ok(()),
            // File systems without it still get the length.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.set_len(len_bytes),
            Err(e) => Err(e.into()),
        }
    }
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
