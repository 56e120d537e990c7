//! Rows of lives and sessions on disk: what memory has no room for of the rows that wait in `held`.
//!
//! Each is written under the number of its life, in its order; later runs have later rows of it. They come
//! back when their life leaves. Numbers of lives that have ended are dropped when runs become one.
//!
//! Not here: when a life ends, what is known of one besides its rows (`lives`, `session`).

use super::held::{Handle, Held};
use crate::operator::OpError;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::{Key, KeyForm};
use crate::state::paged::{Newest, invalid, look_up, to_merge};
use crate::state::spill::{Run, SpillSpace};
use arrow_array::RecordBatch;
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::interleave::interleave_record_batch;
use datafusion_common::DataFusionError;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

const BY_NUMBER: KeyForm = KeyForm::Int { data_type: DataType::Int64 };
/// Rows that are written together.
const ROWS_MAX: usize = 65_536;
/// Runs from which on some become one.
const RUNS_MAX: usize = 8;

/// The rows of one life: its number, how many of them are on disk, and those in memory.
pub(crate) type RowsOf<'a> = (i64, usize, &'a [Handle]);

pub(crate) struct Kept {
    operator: &'static str,
    schema: SchemaRef,
    /// `None` = rows of a type that is not written as bytes: they stay in memory.
    converter: Option<RowConverter>,
    runs: Vec<Arc<Run>>,
}

impl Kept {
    pub fn new(operator: &'static str, schema: SchemaRef) -> Self {
        let fields = schema.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).ok().filter(|_| !schema.fields().is_empty());
        Kept { operator, schema, converter, runs: Vec::new() }
    }

    pub fn can_spill(&self) -> bool {
        self.converter.is_some()
    }

    pub fn memory_bytes(&self) -> usize {
        self.runs.iter().map(|r| r.memory_bytes()).sum()
    }

    /// No life is open.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    fn failed(&self, source: io::Error) -> OpError {
        OpError::Spill { operator: self.operator, source }
    }

    fn arrow(&self, e: ArrowError) -> OpError {
        let source = DataFusionError::ArrowError(Box::new(e), None);
        OpError::Eval { operator: self.operator, source: Box::new(source) }
    }

    /// Writes the rows in memory of lives down, by number. `open` gives the numbers of lives whose rows are
    /// still to leave.
    pub fn spill(
        &mut self,
        space: &SpillSpace,
        held: &Held,
        lives: &[RowsOf<'_>],
        open: impl FnOnce() -> HashSet<i64>,
    ) -> Result<(), OpError> {
        let converter = self.converter.as_ref().expect("asked where rows are written as bytes");
        let mut writer = space.begin_paged(lives.len() as u64).map_err(|e| self.failed(e))?;
        for lives in pieces(lives, |(_, _, rows)| rows.len()) {
            let handles: Vec<Handle> = lives.iter().flat_map(|(_, _, rows)| rows.iter().copied()).collect();
            let batch = held.gather(&handles).map_err(|e| self.arrow(e))?;
            let rows = converter.convert_columns(batch.columns()).map_err(|e| self.arrow(e))?;
            let mut at = 0;
            for (number, _, handles) in lives {
                let write = |out: &mut Writer| {
                    Key::Int(*number as u64).save(out);
                    out.u64(handles.len() as u64);
                    (at..at + handles.len()).for_each(|row| out.bytes(rows.row(row).data()));
                };
                writer.add(write).map_err(|e| self.failed(e))?;
                at += handles.len();
            }
        }
        let run = writer.finish().map_err(|e| self.failed(e))?;
        self.runs.extend((run.entries > 0).then(|| Arc::new(run)));
        let bytes: Vec<u64> = self.runs.iter().map(|r| r.bytes).collect();
        let Some(from) = to_merge(&bytes, RUNS_MAX) else { return Ok(()) };
        let merged = self.merge(space, from, &open()).map_err(|e| self.failed(e))?;
        self.runs.truncate(from);
        self.runs.extend((merged.entries > 0).then(|| Arc::new(merged)));
        Ok(())
    }

    /// Writes all rows of a life for a checkpoint.
    pub fn save(&self, held: &Held, life: RowsOf<'_>, out: &mut Writer) -> Result<(), OpError> {
        let converter = self.converter.as_ref().expect("asked where rows are written as bytes");
        let batch = self.gather(held, &[life])?;
        let rows = converter.convert_columns(batch.columns()).map_err(|e| self.arrow(e))?;
        out.u64(rows.num_rows() as u64);
        rows.iter().for_each(|row| out.bytes(row.data()));
        Ok(())
    }

    /// Rows as [`Self::save`] wrote them.
    pub fn load(from: &mut Reader<'_>, into: &mut Vec<Box<[u8]>>) -> Result<usize, Damaged> {
        let n = from.count(8)?;
        for _ in 0..n {
            into.push(from.bytes()?.into());
        }
        Ok(n)
    }

    /// Their columns again.
    pub fn columns(&self, rows: &[Box<[u8]>]) -> Result<RecordBatch, OpError> {
        let converter = self.converter.as_ref().expect("they were written as bytes");
        let parser = converter.parser();
        let columns = converter.convert_rows(rows.iter().map(|r| parser.parse(r)));
        let batch = columns.and_then(|columns| RecordBatch::try_new(self.schema.clone(), columns));
        batch.map_err(|e| self.arrow(e))
    }

    fn merge(&self, space: &SpillSpace, from: usize, open: &HashSet<i64>) -> io::Result<Run> {
        let mut writer = space.begin_paged(self.runs[from..].iter().map(|r| r.entries).sum())?;
        let mut entries = Newest::new(&self.runs[from..])?;
        while entries.next(&BY_NUMBER)?.is_some() {
            let (mut number, mut n, mut rows) = (0, 0, Vec::new());
            for entry in entries.all() {
                let mut from = Reader(entry);
                let Key::Int(key) = Key::load(&mut from).map_err(invalid)? else {
                    return Err(invalid(Damaged("a number of another form")));
                };
                number = key;
                n += from.u64().map_err(invalid)?;
                rows.push(from.0);
            }
            if open.contains(&(number as i64)) {
                writer.add(|out| {
                    Key::Int(number).save(out);
                    out.u64(n);
                    rows.iter().for_each(|r| out.0.extend_from_slice(r));
                })?;
            }
        }
        writer.finish()
    }

    /// All rows of lives, one life behind the other, each in its order.
    pub fn gather(&self, held: &Held, lives: &[RowsOf<'_>]) -> Result<RecordBatch, OpError> {
        let handles: Vec<Handle> = lives.iter().flat_map(|(_, _, rows)| rows.iter().copied()).collect();
        let in_memory = held.gather(&handles).map_err(|e| self.arrow(e))?;
        let spilled: Vec<&RowsOf<'_>> = lives.iter().filter(|(_, on_disk, _)| *on_disk > 0).collect();
        let Some(converter) = self.converter.as_ref().filter(|_| !spilled.is_empty()) else {
            return Ok(in_memory);
        };
        // From the newest run to the oldest.
        let mut found: HashMap<i64, Vec<Vec<u8>>> = HashMap::new();
        let wanted = spilled.iter().map(|(number, ..)| Key::Int(*number as u64)).map(|k| (k.hash(), k));
        let looked_up = look_up(&self.runs, &BY_NUMBER, wanted.collect(), |_, (_, key), from| {
            let Key::Int(number) = key else { return Err(Damaged("a number of another form")) };
            found.entry(number as i64).or_default().push(from.0.to_vec());
            Ok(false)
        });
        looked_up.map_err(|e| self.failed(e))?;
        let parser = converter.parser();
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        let mut next = 0..;
        for (number, on_disk, handles) in lives {
            let before = rows.len();
            for piece in found.get(number).into_iter().flatten().rev() {
                let mut from = Reader(piece);
                let mut read = || -> Result<(), Damaged> {
                    for _ in 0..from.count(8)? {
                        rows.push(parser.parse(from.bytes()?));
                    }
                    Ok(())
                };
                read().map_err(|e| self.failed(invalid(e)))?;
            }
            if rows.len() - before != *on_disk {
                return Err(self.failed(invalid(Damaged("rows are missing"))));
            }
            places.extend((before..rows.len()).map(|row| (0, row)));
            places.extend(next.by_ref().take(handles.len()).map(|row| (1, row)));
        }
        let columns = converter.convert_rows(rows).map_err(|e| self.arrow(e))?;
        let from_disk = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| self.arrow(e))?;
        interleave_record_batch(&[&from_disk, &in_memory], &places).map_err(|e| self.arrow(e))
    }
}

/// Pieces of lives that have not many rows together, or are one.
pub(crate) fn pieces<T>(lives: &[T], rows: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut all, mut begin, mut n) = (Vec::new(), 0, 0);
    for (i, life) in lives.iter().enumerate() {
        n += rows(life);
        if n >= ROWS_MAX {
            all.push(&lives[begin..=i]);
            (begin, n) = (i + 1, 0);
        }
    }
    if begin < lives.len() {
        all.push(&lives[begin..]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Array, ArrayRef, Int64Array, StringArray, UInt32Array};
    use arrow_schema::{Field, Schema};
    use std::collections::BTreeMap;
    use weir_base::disk::{Disk, SimDisk};
    use weir_base::{Code, Rng};
    use weir_plan::StreamError;

    #[derive(Default)]
    struct Life {
        on_disk: usize,
        rows: Vec<Handle>,
        values: Vec<i64>,
    }

    fn add(held: &mut Held, schema: &SchemaRef, values: &[i64]) -> Handle {
        let texts = values.iter().map(|v| (v % 5 != 0).then(|| format!("text {v}")));
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(values.to_vec())), Arc::new(texts.collect::<StringArray>())];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        held.add(&batch, &UInt32Array::from_iter_values(0..values.len() as u32)).unwrap()
    }

    fn check(kept: &Kept, held: &Held, lives: &BTreeMap<i64, Life>) -> Result<(), OpError> {
        let rows: Vec<RowsOf<'_>> = lives.iter().map(|(n, l)| (*n, l.on_disk, l.rows.as_slice())).collect();
        let batch = kept.gather(held, &rows)?;
        let expected: Vec<i64> = lives.values().flat_map(|l| l.values.iter().copied()).collect();
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), expected.as_slice());
        let texts = batch.column(1).as_string::<i32>();
        for (row, v) in expected.iter().enumerate() {
            let text = texts.is_valid(row).then(|| texts.value(row).to_owned());
            assert_eq!(text, (v % 5 != 0).then(|| format!("text {v}")));
        }
        Ok(())
    }

    #[test]
    fn rows_come_back_in_their_order_and_lives_that_ended_leave_the_disk() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("v", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
        ]));
        let rng = Rng::seeded(1);
        let disk = Arc::new(SimDisk::new(1));
        let space = SpillSpace::new(disk.clone(), "spill");
        let (mut kept, mut held) = (Kept::new("Lives", schema.clone()), Held::new(schema.clone()));
        let mut lives: BTreeMap<i64, Life> = BTreeMap::new();
        for round in 0..60 {
            let values: Vec<i64> = (0..400).map(|i| round * 400 + i).collect();
            let (block, first) = add(&mut held, &schema, &values);
            for (i, v) in values.into_iter().enumerate() {
                let life = lives.entry(rng.below(50) as i64 + round * 10).or_default();
                life.rows.push((block, first + i as u32));
                life.values.push(v);
            }
            // The oldest end.
            while lives.len() > 120 {
                let (_, life) = lives.pop_first().unwrap();
                life.rows.iter().for_each(|r| held.release(*r));
            }
            check(&kept, &held, &lives).unwrap();
            if round % 3 == 2 {
                let rows = lives.iter().map(|(n, l)| (*n, l.on_disk, l.rows.as_slice()));
                let rows: Vec<RowsOf<'_>> = rows.filter(|r| !r.2.is_empty()).collect();
                kept.spill(&space, &held, &rows, || lives.keys().copied().collect()).unwrap();
                for life in lives.values_mut() {
                    life.on_disk += std::mem::take(&mut life.rows).len();
                }
                held = Held::new(schema.clone());
                check(&kept, &held, &lives).unwrap();
            }
        }
        let files = disk.list("spill").unwrap();
        assert!(files.len() <= RUNS_MAX, "{} runs", files.len());
        let live: usize = lives.values().map(|l| l.values.len() * 40).sum();
        let bytes: u64 = files.iter().map(|f| f.len_bytes).sum();
        assert!(bytes < 4 * live as u64, "{bytes} bytes on disk of {live}");
        for (path, bytes) in disk.files() {
            disk.flip_bit(&path, bytes / 2, 1).unwrap();
        }
        let e = StreamError::from(check(&kept, &held, &lives).expect_err("it is damaged"));
        assert_eq!(e.code, Code::CorruptedData, "{e}");
        kept.clear();
        assert_eq!(disk.list("spill").unwrap(), [], "nothing stays on disk");
    }
}
