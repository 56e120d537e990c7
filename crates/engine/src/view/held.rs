//! Rows that left since the last position and wait for the next: in memory as long as they are few, then in
//! a file, since nothing bounds a result set of millions of groups.
//!
//! What lies in the file is there for the process that wrote it: it is not synced, and goes when it is
//! dropped. Its blocks are known in memory, with their checksums.
//!
//! Not here: what a piece of a result set is for (`sink`).

use super::route::Route;
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_base::disk::{OpenMode, read_exact_at};
use weir_base::{Code, Disk, DiskFile, Error, MemoryBudget, Reservation, Result, err};
use xxhash_rust::xxh3::xxh3_64;

/// Below the data directory; emptied when views are opened.
pub(super) const DIR: &str = "spill/results";
/// More bytes than this go to the file. Little where assertions are on, so that tests come past it.
const IN_MEMORY_BYTES_MAX: u64 = if cfg!(debug_assertions) { 32 << 10 } else { 4 << 20 };
/// A result set that came past it goes to its target in so many records.
const PIECES: u16 = 64;
/// Rows of one block of those whose pieces go by their place.
const BLOCK_ROWS: usize = 8_192;

/// Rows that wait.
pub(super) struct Held {
    disk: Arc<dyn Disk>,
    memory: Arc<MemoryBudget>,
    route: Route,
    set: Set,
}

/// All rows between two positions.
#[derive(Default)]
pub(super) struct Set {
    batches: Vec<RecordBatch>,
    bytes: u64,
    held: Option<Reservation>,
    rows: usize,
    file: Option<SetFile>,
}

impl Held {
    pub fn new(disk: Arc<dyn Disk>, memory: Arc<MemoryBudget>, route: Route) -> Self {
        Held { disk, memory, route, set: Set::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.set.rows == 0
    }

    /// Adds rows. `pieces`: how many the set was cut into before a restart, if it was.
    ///
    /// # Errors
    /// Code 241, 243 or an I/O error of the file.
    pub fn push(&mut self, batch: RecordBatch, pieces: Option<u16>) -> Result<()> {
        let set = &mut self.set;
        let bytes = batch.get_array_memory_size() as u64;
        let refused = match &mut set.held {
            Some(held) => held.grow(bytes).err(),
            none => self.memory.reserve(bytes).map(|held| *none = Some(held)).err(),
        };
        set.rows += batch.num_rows();
        set.bytes += bytes;
        set.batches.push(batch);
        if refused.is_some() || set.bytes > IN_MEMORY_BYTES_MAX {
            set.spill(&self.disk, &self.route, pieces.unwrap_or(PIECES).max(1))?;
        }
        Ok(())
    }

    /// All that waits; what comes then is of the next position.
    pub fn take(&mut self) -> Set {
        std::mem::take(&mut self.set)
    }
}

impl Set {
    /// Into how many pieces it is cut, if nobody began it in another number.
    pub fn pieces(&self) -> u16 {
        self.file.as_ref().map_or(1, |f| f.pieces)
    }

    fn spill(&mut self, disk: &Arc<dyn Disk>, route: &Route, pieces: u16) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(SetFile::create(disk.clone(), pieces)?),
        };
        for batch in std::mem::take(&mut self.batches) {
            file.add(&batch, route)?;
        }
        (self.bytes, self.held) = (0, None);
        Ok(())
    }

    /// Puts rows that wait in memory behind those in the file.
    pub fn close(&mut self, disk: &Arc<dyn Disk>, route: &Route) -> Result<()> {
        if self.file.is_some() { self.spill(disk, route, PIECES) } else { Ok(()) }
    }

    /// The rows of one piece of so many.
    pub fn piece(&self, route: &Route, piece: u16, pieces: u16) -> Result<Vec<RecordBatch>> {
        if let Some(file) = self.file.as_ref() {
            return file.piece(route, piece, pieces, self.rows);
        }
        if pieces == 1 {
            return Ok(self.batches.clone());
        }
        let (mut found, mut before) = (Vec::new(), 0);
        for batch in &self.batches {
            let of_row = route.pieces(batch, before, self.rows, usize::from(pieces))?;
            before += batch.num_rows();
            found.extend(pick(batch, &of_row, piece)?);
        }
        Ok(found)
    }
}

/// The rows of a batch that are in a piece; `None` = none are.
fn pick(batch: &RecordBatch, of_row: &[u32], piece: u16) -> Result<Option<RecordBatch>> {
    let rows = of_row.iter().enumerate().filter(|(_, p)| **p == u32::from(piece)).map(|(row, _)| row as u32);
    let rows: Vec<u32> = rows.collect();
    if rows.is_empty() {
        return Ok(None);
    }
    take_record_batch(batch, &UInt32Array::from(rows))
        .map(Some)
        .map_err(|e| err!(LogicalError, "could not cut a result set: {e}"))
}

/// Rows in a file, dealt by piece as they came.
struct SetFile {
    disk: Arc<dyn Disk>,
    path: String,
    file: Arc<dyn DiskFile>,
    len: u64,
    blocks: Vec<Block>,
    rows: usize,
    pieces: u16,
}

struct Block {
    at: Range<u64>,
    check: u64,
    /// The rows' places in the set.
    rows: Range<usize>,
    /// Of rows whose piece goes by what they hold.
    piece: Option<u16>,
}

fn failed(e: &io::Error) -> Error {
    let code = match e.kind() {
        io::ErrorKind::StorageFull => Code::NotEnoughSpace,
        io::ErrorKind::InvalidData => Code::CorruptedData,
        _ => Code::IoError,
    };
    Error::new(code, format!("rows of a large result set, in {DIR}: {e}"))
}

impl SetFile {
    fn create(disk: Arc<dyn Disk>, pieces: u16) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let create = || {
            disk.create_dir_all(DIR)?;
            let path = format!("{DIR}/{:08}.rows", NEXT.fetch_add(1, Ordering::Relaxed));
            let file = disk.open(&path, OpenMode::CreateNew)?;
            Ok((path, file))
        };
        let (path, file) = create().map_err(|e| failed(&e))?;
        Ok(SetFile { disk, path, file, len: 0, blocks: Vec::new(), rows: 0, pieces })
    }

    fn add(&mut self, batch: &RecordBatch, route: &Route) -> Result<()> {
        let first = self.rows;
        self.rows += batch.num_rows();
        if !route.goes_by_content() {
            for from in (0..batch.num_rows()).step_by(BLOCK_ROWS) {
                let slice = batch.slice(from, BLOCK_ROWS.min(batch.num_rows() - from));
                self.write(&slice, first + from, None)?;
            }
            return Ok(());
        }
        let of_row = route.pieces(batch, 0, batch.num_rows(), usize::from(self.pieces))?;
        for piece in 0..self.pieces {
            if let Some(rows) = pick(batch, &of_row, piece)? {
                self.write(&rows, first, Some(piece))?;
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch, first: usize, piece: Option<u16>) -> Result<()> {
        let ipc = || {
            let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
            writer.write(batch)?;
            writer.into_inner()
        };
        let bytes = ipc().map_err(|e| err!(LogicalError, "could not write down a result set: {e}"))?;
        self.file.write_all_at(self.len, &[IoSlice::new(&bytes)]).map_err(|e| failed(&e))?;
        let at = self.len..self.len + bytes.len() as u64;
        self.len = at.end;
        let rows = first..first + batch.num_rows();
        self.blocks.push(Block { at, check: xxh3_64(&bytes), rows, piece });
        Ok(())
    }

    fn read(&self, block: &Block) -> Result<RecordBatch> {
        let mut bytes = vec![0; (block.at.end - block.at.start) as usize];
        read_exact_at(&*self.file, block.at.start, &mut bytes).map_err(|e| failed(&e))?;
        let damaged = |what: &str| failed(&io::Error::new(io::ErrorKind::InvalidData, what));
        if xxh3_64(&bytes) != block.check {
            return Err(damaged("a block does not match its checksum"));
        }
        let mut reader = StreamReader::try_new(bytes.as_slice(), None)
            .map_err(|e| damaged(&format!("a block does not read: {e}")))?;
        let batch = reader.next().ok_or_else(|| damaged("a block without rows"))?;
        batch.map_err(|e| damaged(&format!("a block does not read: {e}")))
    }

    fn piece(&self, route: &Route, piece: u16, pieces: u16, all: usize) -> Result<Vec<RecordBatch>> {
        let mut found = Vec::new();
        for block in &self.blocks {
            let has = match block.piece {
                Some(of) if pieces == self.pieces => of == piece,
                Some(_) => true,
                None => {
                    let place = |row: usize| Route::place(row, all, usize::from(pieces));
                    (place(block.rows.start)..=place(block.rows.end - 1)).contains(&u32::from(piece))
                }
            };
            if !has {
                continue;
            }
            let batch = self.read(block)?;
            if block.piece.is_some() && pieces == self.pieces {
                found.push(batch);
                continue;
            }
            let of_row = route.pieces(&batch, block.rows.start, all, usize::from(pieces))?;
            found.extend(pick(&batch, &of_row, piece)?);
        }
        Ok(found)
    }
}

impl Drop for SetFile {
    fn drop(&mut self) {
        if let Err(e) = self.disk.remove_file(&self.path) {
            tracing::debug!(path = self.path, error = %e, "rows of a result set stay until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use weir_base::disk::SimDisk;

    fn batch(from: i64, n: i64) -> RecordBatch {
        let k: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + n));
        RecordBatch::try_from_iter([("k", k)]).unwrap()
    }

    fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    /// What is in each piece, of a set held within so many bytes of memory.
    fn cut(route: Route, limit: u64, rows: i64, pieces: Option<u16>) -> (u16, Vec<Vec<i64>>) {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let mut held = Held::new(disk.clone(), MemoryBudget::root("a test", limit), route.clone());
        for from in (0..rows).step_by(1_000) {
            held.push(batch(from, 1_000), pieces).unwrap();
        }
        let mut set = held.take();
        assert!(held.is_empty());
        set.close(&disk, &route).unwrap();
        let pieces = pieces.unwrap_or(set.pieces());
        let all = (0..pieces).map(|p| numbers(&set.piece(&route, p, pieces).unwrap())).collect();
        drop(set);
        assert!(disk.list(DIR).map_or(true, |files| files.is_empty()), "the file went with the set");
        (pieces, all)
    }

    #[test]
    fn a_set_has_the_same_pieces_in_memory_and_on_disk() {
        for route in [Route::Group(vec![0]), Route::Group(vec![]), Route::Source] {
            let (pieces, spilled) = cut(route.clone(), 1 << 30, 40_000, None);
            assert_eq!(pieces, PIECES);
            let mut rows = spilled.concat();
            assert_eq!(rows.is_sorted(), route == Route::Source);
            rows.sort_unstable();
            assert_eq!(rows, (0..40_000).collect::<Vec<_>>());
            let whole = Set { batches: vec![batch(0, 40_000)], rows: 40_000, ..Set::default() };
            for (piece, rows) in spilled.iter().enumerate() {
                let mut other = numbers(&whole.piece(&route, piece as u16, PIECES).unwrap());
                let mut rows = rows.clone();
                other.sort_unstable();
                rows.sort_unstable();
                assert_eq!(rows, other, "piece {piece} of {route:?}");
            }
        }
    }

    #[test]
    fn few_rows_stay_in_memory_in_one_piece() {
        assert_eq!(cut(Route::Source, 1 << 30, 1_000, None), (1, vec![(0..1_000).collect()]));
    }

    #[test]
    fn a_set_that_was_begun_in_another_number_of_pieces_is_cut_so_again() {
        for route in [Route::Group(vec![0]), Route::Source] {
            let (_, again) = cut(route.clone(), 1 << 30, 10_000, Some(3));
            let whole = Set { batches: vec![batch(0, 10_000)], rows: 10_000, ..Set::default() };
            for (piece, rows) in again.iter().enumerate() {
                assert_eq!(*rows, numbers(&whole.piece(&route, piece as u16, 3).unwrap()));
            }
        }
    }

    #[test]
    fn what_memory_refuses_goes_to_disk() {
        let (pieces, all) = cut(Route::Source, 4_000, 1_000, None);
        assert_eq!((pieces, all.concat()), (PIECES, (0..1_000).collect()));
    }
}
