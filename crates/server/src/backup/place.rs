//! Where a backup lies: a directory, or a prefix of an object store. A file at a time, in pieces.

use super::{PIECE_BYTES, pieces};
use crate::check;
use crate::options::RemoteParts;
use crate::parts;
use futures::StreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Runtime;
use weir_base::disk::{
    Disk, DiskFile, OpenMode, RealDisk, parent, read_exact_at, read_file, write_file_atomic,
};
use xxhash_rust::xxh3::Xxh3;

/// Pieces of one file on their way to an object store.
const PIECES_MAX: usize = 4;

pub enum Place {
    Dir { name: String, disk: RealDisk },
    Remote { name: String, store: Arc<dyn ObjectStore>, prefix: Key, runtime: Runtime },
}

impl Place {
    /// # Errors
    /// One line: a URL that is none, a key that is missing, a directory that can not be used.
    pub fn open(name: &str, remote: impl Fn() -> RemoteParts) -> Result<Self, String> {
        if name.contains("://") {
            let (store, prefix) = parts::open(&remote(), "the backup's URL")?;
            return Ok(Place::Remote { name: name.to_owned(), store, prefix, runtime: check::runtime()? });
        }
        let disk = RealDisk::open(PathBuf::from(name)).map_err(|e| format!("can not use {name}: {e}"))?;
        Ok(Place::Dir { name: name.to_owned(), disk })
    }

    fn name(&self) -> &str {
        match self {
            Place::Dir { name, .. } | Place::Remote { name, .. } => name,
        }
    }

    fn at(&self, doing: &str, path: &str, e: &dyn std::fmt::Display) -> String {
        format!("can not {doing} {}/{path}: {e}", self.name())
    }

    pub fn is_empty(&self) -> Result<bool, String> {
        match self {
            Place::Dir { name, disk } => {
                disk.list("").map(|all| all.is_empty()).map_err(|e| format!("can not list {name}: {e}"))
            }
            Place::Remote { name, store, prefix, runtime } => {
                let first = runtime.block_on(async { store.list(Some(prefix)).next().await });
                match first {
                    None => Ok(true),
                    Some(Ok(_)) => Ok(false),
                    Some(Err(e)) => Err(format!("can not list {name}: {e}")),
                }
            }
        }
    }

    /// Stores so many bytes of a file; gives their checksum.
    pub fn put(&self, path: &str, file: &dyn DiskFile, bytes: u64) -> Result<u64, String> {
        match self {
            Place::Dir { disk, .. } => {
                let failed = |e: io::Error| self.at("write", path, &e);
                disk.create_dir_all(parent(path)).map_err(failed)?;
                let to = disk.open(path, OpenMode::CreateNew).map_err(failed)?;
                let mut at = 0;
                let hash = pieces(file, bytes, |piece| {
                    to.write_all_at(at, &[IoSlice::new(&piece)]).map_err(failed)?;
                    at += piece.len() as u64;
                    Ok(())
                })?;
                to.sync_data().map_err(failed)?;
                Ok(hash)
            }
            Place::Remote { store, prefix, runtime, .. } => {
                let key = key(prefix, path);
                let failed = |e: object_store::Error| self.at("write", path, &e);
                if bytes <= PIECE_BYTES {
                    let mut all = Vec::new();
                    let hash = pieces(file, bytes, |piece| {
                        all = piece;
                        Ok(())
                    })?;
                    runtime.block_on(store.put(&key, all.into())).map_err(failed)?;
                    return Ok(hash);
                }
                let upload = runtime.block_on(store.put_multipart(&key)).map_err(failed)?;
                let _entered = runtime.enter();
                let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES as usize);
                let hash = pieces(file, bytes, |piece| {
                    upload.put(piece.into());
                    runtime.block_on(upload.wait_for_capacity(PIECES_MAX)).map_err(failed)
                })?;
                runtime.block_on(upload.finish()).map_err(failed)?;
                Ok(hash)
            }
        }
    }

    /// Reads so many bytes of a file into another; gives their checksum.
    pub fn get(&self, path: &str, bytes: u64, into: &dyn DiskFile) -> Result<u64, String> {
        let mut hash = Xxh3::new();
        let file = match self {
            Place::Dir { disk, .. } => {
                Some(disk.open(path, OpenMode::Read).map_err(|e| self.at("read", path, &e))?)
            }
            Place::Remote { .. } => None,
        };
        for from in (0..bytes).step_by(PIECE_BYTES as usize) {
            let end = (from + PIECE_BYTES).min(bytes);
            let piece: bytes::Bytes = match (self, &file) {
                (Place::Remote { store, prefix, runtime, .. }, _) => runtime
                    .block_on(store.get_range(&key(prefix, path), from..end))
                    .map_err(|e| self.at("read", path, &e))?,
                (Place::Dir { .. }, Some(file)) => {
                    let mut piece = vec![0; (end - from) as usize];
                    read_exact_at(&**file, from, &mut piece).map_err(|e| self.at("read", path, &e))?;
                    piece.into()
                }
                (Place::Dir { .. }, None) => unreachable!("opened above"),
            };
            hash.update(&piece);
            into.write_all_at(from, &[IoSlice::new(&piece)])
                .map_err(|e| format!("can not write {path}: {e}"))?;
        }
        Ok(hash.digest())
    }

    /// A small file; `None` = it is not there.
    pub fn get_all(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        match self {
            Place::Dir { disk, .. } => match read_file(disk, path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(self.at("read", path, &e)),
            },
            Place::Remote { store, prefix, runtime, .. } => runtime.block_on(async {
                match store.get(&key(prefix, path)).await {
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(e) => Err(self.at("read", path, &e)),
                    Ok(got) => {
                        got.bytes().await.map(|b| Some(b.to_vec())).map_err(|e| self.at("read", path, &e))
                    }
                }
            }),
        }
    }

    /// Writes the last file, once all others are durable.
    pub fn finish(&self, path: &str, bytes: &[u8]) -> Result<(), String> {
        match self {
            Place::Dir { disk, .. } => super::sync_dirs(disk, "")
                .and_then(|()| write_file_atomic(disk, path, bytes))
                .map_err(|e| self.at("write", path, &e)),
            Place::Remote { store, prefix, runtime, .. } => runtime
                .block_on(store.put(&key(prefix, path), bytes.to_vec().into()))
                .map(|_| ())
                .map_err(|e| self.at("write", path, &e)),
        }
    }
}

fn key(prefix: &Key, path: &str) -> Key {
    Key::from_iter(prefix.parts().chain(Key::from(path).parts()))
}
