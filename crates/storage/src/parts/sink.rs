//! Writes the bytes of one part, with its checksums, durably.
//!
//! A part's name is never used twice and nothing reads it before the manifest names it, so
//! it is written in place: a crash leaves a file that no manifest names, removed at open.

use super::checks::BlockSums;
use super::store::{CHECKS_SUFFIX, remote_path};
use crate::context::PartsLocation;
use crate::error::{Result, StorageError};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use tokio::runtime::Handle;
use weir_base::disk::OpenMode;
use weir_base::{Disk, DiskFile};

/// Bytes collected before a write to the disk.
const LOCAL_BUFFER_BYTES: usize = 1 << 20;
/// Bytes collected before a part of a multipart upload; S3 wants at least 5 MiB.
const REMOTE_BUFFER_BYTES: usize = 8 << 20;

pub(crate) struct PartSink {
    path: String,
    sums: BlockSums,
    buffer: Vec<u8>,
    target: Target,
}

enum Target {
    Local {
        disk: Arc<dyn Disk>,
        file: Arc<dyn DiskFile>,
        offset: u64,
    },
    Remote {
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        runtime: Handle,
        upload: Option<Box<dyn MultipartUpload>>,
    },
}

/// Size and the checksum of the sidecar, both for the manifest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SinkSummary {
    pub size_bytes: u64,
    pub checks_crc: u32,
}

impl PartSink {
    pub(super) fn create(disk: &Arc<dyn Disk>, location: &PartsLocation, path: &str) -> Result<Self> {
        let target = match location {
            PartsLocation::Local => Target::Local {
                disk: disk.clone(),
                file: disk
                    .open(path, OpenMode::CreateNew)
                    .map_err(|e| StorageError::io("create", path, e))?,
                offset: 0,
            },
            PartsLocation::Remote { store, prefix, runtime } => Target::Remote {
                store: store.clone(),
                prefix: prefix.clone(),
                runtime: runtime.clone(),
                upload: None,
            },
        };
        Ok(PartSink { path: path.to_owned(), sums: BlockSums::default(), buffer: Vec::new(), target })
    }

    fn buffer_bytes(&self) -> usize {
        match self.target {
            Target::Local { .. } => LOCAL_BUFFER_BYTES,
            Target::Remote { .. } => REMOTE_BUFFER_BYTES,
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.sums.update(&self.buffer);
        match &mut self.target {
            Target::Local { file, offset, .. } => {
                file.write_all_at(*offset, &[IoSlice::new(&self.buffer)])?;
                *offset += self.buffer.len() as u64;
                self.buffer.clear();
            }
            Target::Remote { store, prefix, runtime, upload } => {
                let upload = match upload {
                    Some(upload) => upload,
                    None => {
                        let at = remote_path(prefix, &self.path);
                        upload.insert(runtime.block_on(store.put_multipart(&at)).map_err(io::Error::other)?)
                    }
                };
                let payload = PutPayload::from(std::mem::take(&mut self.buffer));
                runtime.block_on(upload.put_part(payload)).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Writes what is left and the sidecar, and makes both durable (their names only after
    /// [`super::PartStore::sync_dir`]).
    pub fn finish(mut self) -> Result<SinkSummary> {
        let path = std::mem::take(&mut self.path);
        let sidecar = format!("{path}{CHECKS_SUFFIX}");
        match &self.target {
            Target::Remote { upload: None, store, prefix, runtime } => {
                // Small enough for one request.
                self.sums.update(&self.buffer);
                let payload = PutPayload::from(std::mem::take(&mut self.buffer));
                runtime
                    .block_on(store.put(&remote_path(prefix, &path), payload))
                    .map_err(|e| StorageError::object("write", &path, e))?;
            }
            _ => {
                self.path.clone_from(&path);
                self.drain().map_err(|e| StorageError::io("write", &path, e))?;
            }
        }
        let checks = std::mem::take(&mut self.sums).finish();
        let (encoded, checks_crc) = checks.encode();
        match &mut self.target {
            Target::Local { disk, file, .. } => {
                file.sync_data().map_err(|e| StorageError::io("sync", &path, e))?;
                let failed = |e| StorageError::io("write", &sidecar, e);
                let file = disk.open(&sidecar, OpenMode::CreateNew).map_err(failed)?;
                file.write_all_at(0, &[IoSlice::new(&encoded)]).map_err(failed)?;
                file.sync_data().map_err(failed)?;
            }
            Target::Remote { store, prefix, runtime, upload } => {
                if let Some(upload) = upload {
                    runtime
                        .block_on(upload.complete())
                        .map_err(|e| StorageError::object("complete", &path, e))?;
                }
                runtime
                    .block_on(store.put(&remote_path(prefix, &sidecar), PutPayload::from(encoded)))
                    .map_err(|e| StorageError::object("write", &sidecar, e))?;
            }
        }
        Ok(SinkSummary { size_bytes: checks.size_bytes, checks_crc })
    }
}

impl Write for PartSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= self.buffer_bytes() {
            self.drain()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Durability comes with `finish`; small writes stay together until then.
        Ok(())
    }
}
