//! A run of a task that takes more than one record, on disk before its first one is appended: what stops the
//! server in between leaves a run that the next start finishes, not a part of one.
//!
//! ```text
//! records -> redo.tmp, synced -> redo -> appended one by one, each with its number -> redo is removed
//! redo = "WTSK" | version u32 | time of the run i64 | record …
//! record = shard u32 | number u16 | of so many u16 | length u64 | XXH3 of the bytes u64 | Arrow IPC stream
//! ```
//!
//! Not here: which records are appended already (`task`).

use super::super::files::CHECKPOINTS_DIR;
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use std::io::{self, IoSlice};
use std::sync::Arc;
use uuid::Uuid;
use weir_base::disk::{OpenMode, create_dir_durable, read_exact_at};
use weir_base::{Disk, DiskFile, Error, Result, err};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 4] = *b"WTSK";
const VERSION: u32 = 1;
const HEAD_BYTES: u64 = 16;
const RECORD_HEAD_BYTES: usize = 24;

fn dir(task: Uuid) -> String {
    format!("{CHECKPOINTS_DIR}/{task}")
}

fn path(task: Uuid) -> String {
    format!("{}/redo", dir(task))
}

/// One record of a run.
pub(super) struct Record {
    pub shard: u32,
    pub number: u16,
    pub of: u16,
    pub rows: RecordBatch,
}

/// A run on its way to disk.
pub(super) struct RedoWriter {
    disk: Arc<dyn Disk>,
    task: Uuid,
    file: Arc<dyn DiskFile>,
    at: u64,
}

fn failed(e: io::Error) -> Error {
    let code = if e.kind() == io::ErrorKind::StorageFull {
        weir_base::Code::NotEnoughSpace
    } else {
        weir_base::Code::CannotWriteFile
    };
    Error::new(code, format!("a run could not be noted before it is written: {e}; make room there"))
}

impl RedoWriter {
    pub fn begin(disk: Arc<dyn Disk>, task: Uuid, at_us: i64) -> Result<Self> {
        let tmp = format!("{}.tmp", path(task));
        let open = || -> io::Result<Arc<dyn DiskFile>> {
            create_dir_durable(&*disk, &dir(task))?;
            match disk.remove_file(&tmp) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let file = disk.open(&tmp, OpenMode::CreateNew)?;
            let head = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &at_us.to_le_bytes()].concat();
            file.write_all_at(0, &[IoSlice::new(&head)])?;
            Ok(file)
        };
        let file = open().map_err(failed)?;
        Ok(RedoWriter { disk, task, file, at: HEAD_BYTES })
    }

    pub fn add(&mut self, record: &Record) -> Result<()> {
        let ipc = || {
            let mut writer = StreamWriter::try_new(Vec::new(), &record.rows.schema())?;
            writer.write(&record.rows)?;
            writer.into_inner()
        };
        let bytes = ipc().map_err(|e: arrow::error::ArrowError| err!(LogicalError, "{e}"))?;
        let mut head = Vec::with_capacity(RECORD_HEAD_BYTES);
        head.extend(record.shard.to_le_bytes());
        head.extend(record.number.to_le_bytes());
        head.extend(record.of.to_le_bytes());
        head.extend((bytes.len() as u64).to_le_bytes());
        head.extend(xxh3_64(&bytes).to_le_bytes());
        self.file.write_all_at(self.at, &[IoSlice::new(&head), IoSlice::new(&bytes)]).map_err(failed)?;
        self.at += (head.len() + bytes.len()) as u64;
        Ok(())
    }

    /// From here on the run will be finished, whatever stops the server.
    pub fn finish(self) -> Result<()> {
        let tmp = format!("{}.tmp", path(self.task));
        let done = || {
            self.file.sync_data()?;
            self.disk.rename(&tmp, &path(self.task))?;
            self.disk.sync_dir(&dir(self.task))
        };
        done().map_err(failed)
    }
}

/// A run that was noted and may not be whole in its target.
pub(super) struct Redo {
    pub at_us: i64,
    path: String,
    file: Arc<dyn DiskFile>,
    at: u64,
    bytes: u64,
}

impl Redo {
    /// `None` = there is none.
    pub fn open(disk: &dyn Disk, task: Uuid) -> Result<Option<Redo>> {
        let path = path(task);
        let file = match disk.open(&path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| unread(&path, &e))?,
        };
        let bytes = file.len_bytes().map_err(|e| unread(&path, &e))?;
        let mut head = [0; HEAD_BYTES as usize];
        read_exact_at(&*file, 0, &mut head).map_err(|e| unread(&path, &e))?;
        if head[..4] != MAGIC || head[4..8] != VERSION.to_le_bytes() {
            return Err(unread(&path, &"its first bytes are not those of a run"));
        }
        let at_us = i64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
        Ok(Some(Redo { at_us, path, file, at: HEAD_BYTES, bytes }))
    }

    /// The next record; `None` after the last.
    pub fn next(&mut self) -> Result<Option<Record>> {
        if self.at >= self.bytes {
            return Ok(None);
        }
        let damaged = |e: &dyn std::fmt::Display| unread(&self.path, e);
        let mut head = [0; RECORD_HEAD_BYTES];
        read_exact_at(&*self.file, self.at, &mut head).map_err(|e| damaged(&e))?;
        let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (len, check) = (word(8), word(16));
        let from = self.at + RECORD_HEAD_BYTES as u64;
        if len > self.bytes.saturating_sub(from) {
            return Err(damaged(&"it ends early"));
        }
        let mut bytes = vec![0; len as usize];
        read_exact_at(&*self.file, from, &mut bytes).map_err(|e| damaged(&e))?;
        if xxh3_64(&bytes) != check {
            return Err(damaged(&"a record does not match its checksum"));
        }
        let mut reader = StreamReader::try_new(bytes.as_slice(), None).map_err(|e| damaged(&e))?;
        let rows = reader.next().ok_or_else(|| damaged(&"a record has no rows"))?.map_err(|e| damaged(&e))?;
        self.at = from + len;
        let shard = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        Ok(Some(Record { shard, number: number(4), of: number(6), rows }))
    }
}

fn unread(path: &str, e: &dyn std::fmt::Display) -> Error {
    err!(
        CorruptedData,
        "{path}, a run that is to be finished, can not be read: {e}; DROP the task and create it again, the rest of \
         that run is lost"
    )
}

/// The task is gone.
pub(super) fn forget(disk: &dyn Disk, task: Uuid) -> Result<()> {
    disk.remove_dir_all(&dir(task)).map_err(failed)
}

/// The run is whole in its target.
pub(super) fn remove(disk: &dyn Disk, task: Uuid) -> Result<()> {
    match disk.remove_file(&path(task)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
        _ => Ok(()),
    }
}

/// Reads all of what is noted of a task's run; gives its bytes.
///
/// # Errors
/// Where it is not what was written.
pub(crate) fn verify(disk: &dyn Disk, task: Uuid) -> Result<u64> {
    let Some(mut redo) = Redo::open(disk, task)? else { return Ok(0) };
    while redo.next()?.is_some() {}
    Ok(redo.bytes)
}
