//! Checkpoint files in a directory of the data directory, and where those of all views lie.
//!
//! A file is written under its own name and counts once it is whole, which what reads it checks; nothing
//! is renamed. The directory is made with the first file.

use super::remote::RemoteDir;
use crate::config::CheckpointsLocation;
use std::io::{self, IoSlice};
use std::sync::Arc;
use weir_base::disk::{OpenMode, create_dir_durable, read_exact_at};
use weir_base::{Disk, DiskFile};
use weir_plan::{CheckpointFile, CheckpointRead, CheckpointStore};

/// Below the data directory; one directory a view.
pub(crate) const CHECKPOINTS_DIR: &str = "checkpoints";

/// Where checkpoints of all views lie.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    disk: Arc<dyn Disk>,
    /// Above the directories of views; `None` = on the disk.
    remote: Option<RemoteDir>,
}

impl Checkpoints {
    pub fn new(disk: Arc<dyn Disk>, location: &CheckpointsLocation) -> Self {
        let remote = match location {
            CheckpointsLocation::Local => None,
            CheckpointsLocation::Remote { store, prefix, runtime } => {
                let dir = prefix.clone().join(CHECKPOINTS_DIR);
                Some(RemoteDir::new(store.clone(), dir, runtime.clone()))
            }
        };
        Checkpoints { disk, remote }
    }

    /// Those of the view that is named by `id`.
    pub fn of(&self, id: &str) -> Arc<dyn CheckpointStore> {
        match &self.remote {
            None => Arc::new(CheckpointDir::at(self.disk.clone(), format!("{CHECKPOINTS_DIR}/{id}"))),
            Some(above) => Arc::new(above.below(id)),
        }
    }

    /// Removes all of a view's. Blocks.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        match &self.remote {
            None => self.disk.remove_dir_all(&format!("{CHECKPOINTS_DIR}/{id}")),
            Some(above) => above.below(id).remove_all(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct CheckpointDir {
    disk: Arc<dyn Disk>,
    dir: String,
}

impl CheckpointDir {
    pub fn at(disk: Arc<dyn Disk>, dir: String) -> Self {
        CheckpointDir { disk, dir }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
}

impl CheckpointStore for CheckpointDir {
    fn create(&self, name: &str) -> io::Result<Box<dyn CheckpointFile>> {
        create_dir_durable(&*self.disk, &self.dir)?;
        let path = self.path(name);
        let file = self.disk.open(&path, OpenMode::CreateNew)?;
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        Ok(Box::new(Writing { disk, dir, path, file: Some(file), len: 0 }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn CheckpointRead>> {
        let file = self.disk.open(&self.path(name), OpenMode::Read)?;
        let len = file.len_bytes()?;
        Ok(Arc::new(Finished { file, len }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        match self.disk.list(&self.dir) {
            Ok(entries) => Ok(entries.into_iter().filter(|e| !e.is_dir).map(|e| e.name).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.disk.remove_file(&self.path(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

struct Writing {
    disk: Arc<dyn Disk>,
    dir: String,
    path: String,
    /// `None` once it is finished.
    file: Option<Arc<dyn DiskFile>>,
    len: u64,
}

impl CheckpointFile for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().expect("it is written before it is finished");
        file.write_all_at(self.len, &[IoSlice::new(bytes)])?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        self.file.as_ref().expect("finished once").sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        self.file = None;
        Ok(self.len)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(e) = self.disk.remove_file(&self.path)
        {
            // It does not match its checksum, so it counts for nothing.
            tracing::debug!(path = self.path, error = %e, "a checkpoint file that was given up stays");
        }
    }
}

#[derive(Debug)]
struct Finished {
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl CheckpointRead for Finished {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.file, offset, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::disk::SimDisk;

    #[test]
    fn a_file_is_there_once_it_is_finished_and_an_unfinished_one_is_not() {
        let disk = Arc::new(SimDisk::new(1));
        let dir = CheckpointDir::at(disk.clone(), "checkpoints/v".into());
        assert!(dir.list().unwrap().is_empty(), "without a directory");
        let mut file = dir.create("a").unwrap();
        file.write(b"one").unwrap();
        file.write(b"two").unwrap();
        assert_eq!(file.finish().unwrap(), 6);
        let mut given_up = dir.create("b").unwrap();
        given_up.write(b"x").unwrap();
        drop(given_up);
        assert_eq!(dir.list().unwrap(), ["a"]);
        assert_eq!(dir.create("a").err().map(|e| e.kind()), Some(io::ErrorKind::AlreadyExists));
        let read = dir.open("a").unwrap();
        let mut bytes = [0; 4];
        read.read_at(2, &mut bytes).unwrap();
        assert_eq!((&bytes, read.len()), (b"etwo", 6));
        assert!(read.read_at(4, &mut bytes).is_err());
        dir.remove("a").unwrap();
        dir.remove("a").unwrap();
        Checkpoints::new(disk.clone(), &CheckpointsLocation::Local).remove("v").unwrap();
        assert!(disk.list("checkpoints").unwrap().is_empty());
    }
}
