//! Checkpoint files below a prefix of an object store.
//!
//! A file is there once its upload is complete, as a whole. Calls block the thread they are made on, whichever
//! that is: the requests run on threads of their own.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use tokio::runtime::Handle;
use weir_plan::{CheckpointFile, CheckpointRead, CheckpointStore};

/// Of a file, what is sent at a time; a smaller one is sent as a whole.
const PIECE_BYTES: usize = 8 << 20;
/// Read at a time: runs are read from the front.
const READ_BYTES: u64 = 4 << 20;

#[derive(Clone)]
pub(crate) struct RemoteDir {
    store: Arc<dyn ObjectStore>,
    dir: Path,
    runtime: Handle,
}

impl fmt::Debug for RemoteDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.dir, self.store)
    }
}

fn failed(e: object_store::Error) -> io::Error {
    let kind = match &e {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, e)
}

impl RemoteDir {
    /// `runtime` has threads that nobody blocks.
    pub fn new(store: Arc<dyn ObjectStore>, dir: Path, runtime: Handle) -> Self {
        RemoteDir { store, dir, runtime }
    }

    pub fn below(&self, name: &str) -> RemoteDir {
        RemoteDir { dir: self.key(name), ..self.clone() }
    }

    fn key(&self, name: &str) -> Path {
        self.dir.clone().join(name)
    }

    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        let (done, answer) = sync_channel(1);
        self.runtime.spawn(async move {
            // Who asked waits for it.
            let _ = done.send(work.await);
        });
        let gone = |_| io::Error::other("the server is shutting down");
        answer.recv().map_err(gone)?.map_err(failed)
    }

    /// Removes all of it. Blocks.
    pub fn remove_all(&self) -> io::Result<()> {
        let (store, dir) = (self.store.clone(), self.dir.clone());
        self.wait(async move {
            let found = store.list(Some(&dir)).map_ok(|o| o.location).boxed();
            store.delete_stream(found).try_for_each(|_| async { Ok(()) }).await
        })
    }
}

impl CheckpointStore for RemoteDir {
    fn is_far(&self) -> bool {
        true
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn CheckpointFile>> {
        let (store, key) = (self.store.clone(), self.key(name));
        match self.wait(async move { store.head(&key).await }) {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let key = self.key(name);
        Ok(Box::new(Uploading { dir: self.clone(), key, waiting: Vec::new(), upload: None, len: 0 }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn CheckpointRead>> {
        let (store, key) = (self.store.clone(), self.key(name));
        let meta = self.wait(async move { store.head(&key).await })?;
        Ok(Arc::new(Remote {
            dir: self.clone(),
            key: self.key(name),
            len: meta.size,
            window: Mutex::default(),
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let (store, dir) = (self.store.clone(), self.dir.clone());
        let listed = self.wait(async move { store.list_with_delimiter(Some(&dir)).await })?;
        Ok(listed.objects.iter().filter_map(|o| o.location.filename().map(str::to_owned)).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (store, key) = (self.store.clone(), self.key(name));
        match self.wait(async move { store.delete(&key).await }) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

struct Uploading {
    dir: RemoteDir,
    key: Path,
    waiting: Vec<u8>,
    /// Of a file of several pieces.
    upload: Option<Box<dyn MultipartUpload>>,
    len: u64,
}

impl Uploading {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.waiting);
        let mut upload = match self.upload.take() {
            Some(upload) => upload,
            None => {
                let (store, key) = (self.dir.store.clone(), self.key.clone());
                self.dir.wait(async move { store.put_multipart(&key).await })?
            }
        };
        let part = upload.put_part(piece.into());
        self.upload = Some(upload);
        self.dir.wait(part)
    }
}

impl CheckpointFile for Uploading {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE_BYTES { self.send() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        if self.upload.is_none() {
            let (store, key) = (self.dir.store.clone(), self.key.clone());
            let all = std::mem::take(&mut self.waiting);
            self.dir.wait(async move { store.put(&key, all.into()).await })?;
            return Ok(self.len);
        }
        if !self.waiting.is_empty() {
            self.send()?;
        }
        if let Some(mut upload) = self.upload.take() {
            self.dir.wait(async move { upload.complete().await })?;
        }
        Ok(self.len)
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take() {
            // Pieces that nobody completes are not a file.
            self.dir.runtime.spawn(async move { upload.abort().await });
        }
    }
}

#[derive(Debug)]
struct Remote {
    dir: RemoteDir,
    key: Path,
    len: u64,
    /// What was read last, and where it begins.
    window: Mutex<(u64, Bytes)>,
}

impl CheckpointRead for Remote {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset + into.len() as u64;
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut window = self.window.lock();
        let within = |(from, bytes): &(u64, Bytes)| *from <= offset && end <= from + bytes.len() as u64;
        if !within(&window) {
            let (store, key) = (self.dir.store.clone(), self.key.clone());
            let range = offset..end.max(offset + READ_BYTES).min(self.len);
            let read = self.dir.wait(async move { store.get_range(&key, range).await })?;
            *window = (offset, read);
        }
        let (from, bytes) = &*window;
        let at = (offset - from) as usize;
        let found = bytes.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn dir() -> (tokio::runtime::Runtime, RemoteDir) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let dir = RemoteDir::new(Arc::new(InMemory::new()), Path::from("weir/checkpoints/v"), handle);
        (runtime, dir)
    }

    #[test]
    fn a_file_is_there_once_it_is_finished_and_an_unfinished_one_is_not() {
        let (_runtime, dir) = dir();
        assert!(dir.list().unwrap().is_empty());
        let mut file = dir.create("a").unwrap();
        file.write(b"one").unwrap();
        file.write(b"two").unwrap();
        assert!(dir.list().unwrap().is_empty(), "not yet");
        assert_eq!(file.finish().unwrap(), 6);
        drop(dir.create("b").unwrap());
        assert_eq!(dir.list().unwrap(), ["a"]);
        assert_eq!(dir.create("a").err().map(|e| e.kind()), Some(io::ErrorKind::AlreadyExists));
        let read = dir.open("a").unwrap();
        let mut bytes = [0; 4];
        read.read_at(2, &mut bytes).unwrap();
        assert_eq!((&bytes, read.len()), (b"etwo", 6));
        assert_eq!(read.read_at(4, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        dir.remove("a").unwrap();
        dir.remove("a").unwrap();
        assert_eq!(dir.open("a").err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn a_large_file_goes_in_pieces_and_is_read_in_others() {
        let (_runtime, dir) = dir();
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 5).map(|i| (i * 31 % 251) as u8).collect();
        let mut file = dir.create("big").unwrap();
        bytes.chunks(1_000_003).for_each(|c| file.write(c).unwrap());
        assert_eq!(file.finish().unwrap(), bytes.len() as u64);
        let read = dir.open("big").unwrap();
        for (at, n) in [(0, 12), (12, 5_000_000), (5_000_012, 100), (3, 9), (bytes.len() - 7, 7)] {
            let mut found = vec![0; n];
            read.read_at(at as u64, &mut found).unwrap();
            assert!(found == bytes[at..at + n], "{n} bytes at {at}");
        }
        let mut given_up = dir.create("other").unwrap();
        given_up.write(&bytes).unwrap();
        drop(given_up);
        assert_eq!(dir.list().unwrap(), ["big"]);
        dir.remove_all().unwrap();
        assert!(dir.list().unwrap().is_empty());
    }
}
