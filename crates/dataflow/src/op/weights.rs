//! Takes a column as the weight of each row: rows of a stream become a changelog.
//!
//! Where somebody looks at where rows stand (their event time, their place in the log), a row that
//! takes another back stands where that one does: the oldest that equals it. For that the places of
//! rows that were not taken back are held, a queue for each different row. Queues that memory has no room
//! for go to disk, and those of a batch come back before it is taken in.
//!
//! Not here: what a weight means to an aggregate (`agg::retract`), how it is shown (`delta`).

use crate::agg::not_there;
use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::{Key, KeyForm};
use crate::state::paged::Paged;
use crate::state::{StateReader, StateWriter};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int64Type};
use arrow_array::{
    ArrayRef, BooleanArray, Int8Array, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow_row::{RowConverter, Rows as RowsOf, SortField};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_select::filter::{filter, filter_record_batch};
use arrow_select::take::take_record_batch;
use datafusion_common::DataFusionError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use weir_plan::{Retracted, Rows};

const NAME: &str = "Weights";
/// Keys are bytes, in whatever form.
const BY_BYTES: KeyForm = KeyForm::Text;
/// Different rows that are restored before memory is looked at.
const RESTORE_KEYS: usize = 1 << 10;
/// What a held row costs beside its bytes.
const ENTRY_BYTES: usize = 80;

pub struct Weights {
    at: usize,
    held: Option<Held>,
    schema: SchemaRef,
}

/// Rows that are there, and where they stand.
struct Held {
    spec: Retracted,
    same: RowConverter,
    of: RowConverter,
    rows: BTreeMap<Box<[u8]>, Queue>,
    count: u64,
    bytes: usize,
    spilled: Paged,
    resources: Resources,
    /// Bytes when this call began: the loop has counted so many.
    counted: usize,
}

/// Places of rows that are the same, the oldest first.
#[derive(Default)]
struct Queue {
    places: VecDeque<Box<[u8]>>,
    /// What it was is on disk: where nothing is left of it, it must be said there.
    on_disk: bool,
}

impl Queue {
    fn save(&self, out: &mut Writer) {
        out.u64(self.places.len() as u64);
        self.places.iter().for_each(|p| out.bytes(p));
    }
}

fn arrow(e: ArrowError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(DataFusionError::ArrowError(Box::new(e), None)) }
}

fn spill(source: std::io::Error) -> OpError {
    OpError::Spill { operator: NAME, source }
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
}

impl Held {
    fn new(spec: &Retracted, input: &Schema, resources: Resources) -> Result<Self, OpError> {
        let converter = |columns: &[usize]| {
            let fields = columns.iter().map(|i| SortField::new(input.field(*i).data_type().clone()));
            RowConverter::new(fields.collect()).map_err(arrow)
        };
        Ok(Held {
            same: converter(&spec.same)?,
            of: converter(&spec.of)?,
            spec: spec.clone(),
            rows: BTreeMap::new(),
            count: 0,
            bytes: 0,
            spilled: Paged::default(),
            resources,
            counted: 0,
        })
    }

    fn add(&mut self, key: &[u8], place: &[u8]) {
        self.count += 1;
        self.bytes += place.len() + ENTRY_BYTES;
        let queue = match self.rows.get_mut(key) {
            Some(queue) => queue,
            None => {
                self.bytes += key.len() + ENTRY_BYTES;
                self.rows.entry(key.into()).or_default()
            }
        };
        queue.places.push_back(place.into());
    }

    fn take(&mut self, key: &[u8]) -> Result<Box<[u8]>, OpError> {
        let queue = self.rows.get_mut(key).ok_or_else(|| arrow(not_there()))?;
        let place = queue.places.pop_front().ok_or_else(|| arrow(not_there()))?;
        let gone = queue.places.is_empty() && !queue.on_disk;
        self.count -= 1;
        self.bytes -= place.len() + ENTRY_BYTES;
        if gone {
            self.rows.remove(key);
            self.bytes -= key.len() + ENTRY_BYTES;
        }
        Ok(place)
    }

    fn state_bytes(&self) -> usize {
        self.bytes + self.spilled.memory_bytes()
    }

    /// Brings the queues of a batch back that were spilled.
    fn load(&mut self, keys: &RowsOf) -> Result<(), OpError> {
        if self.spilled.is_empty() {
            return Ok(());
        }
        let all = keys.iter().map(|k| k.data()).filter(|k| !self.rows.contains_key(*k));
        let wanted = all.map(|k| (Key::Bytes(k).hash(), Key::Bytes(k))).collect();
        let (rows, bytes) = (&mut self.rows, &mut self.bytes);
        let done = self.spilled.load(&BY_BYTES, wanted, |(_, key), from| {
            let Key::Bytes(key) = key else { return Err(Damaged("a row of another form")) };
            let mut queue = Queue { places: VecDeque::new(), on_disk: true };
            for _ in 0..from.count(8)? {
                let place: Box<[u8]> = from.bytes()?.into();
                *bytes += place.len() + ENTRY_BYTES;
                queue.places.push_back(place);
            }
            if !queue.places.is_empty() {
                *bytes += key.len() + ENTRY_BYTES;
                rows.insert(key.into(), queue);
            }
            Ok(())
        });
        done.map_err(spill)
    }

    /// Writes all queues in memory down and begins anew; `false` = there are none.
    fn spill(&mut self) -> Result<bool, OpError> {
        let Some(space) = self.resources.spill.clone().filter(|_| !self.rows.is_empty()) else {
            return Ok(false);
        };
        let all: Vec<_> = std::mem::take(&mut self.rows).into_iter().collect();
        self.bytes = 0;
        let write = |(key, queue): (Box<[u8]>, Queue), out: &mut Writer| {
            Key::Bytes(&key).save(out);
            queue.save(out);
        };
        let counts = |from: &mut Reader<'_>| Ok(from.u64()? > 0);
        self.spilled.spill(&space, &BY_BYTES, all, write, counts).map_err(spill)?;
        Ok(true)
    }

    /// Spills when there is no room for what this call has added.
    fn make_room(&mut self) -> Result<(), OpError> {
        let much = self.bytes >= self.resources.spill_bytes_min();
        if much && self.resources.is_tight(self.counted, self.state_bytes()) {
            self.spill()?;
        }
        Ok(())
    }

    /// The rows each once, those that take back where the others stand.
    fn place(
        &mut self,
        batch: &RecordBatch,
        weights: &Int64Array,
    ) -> Result<(RecordBatch, Int64Array), OpError> {
        let columns =
            |of: &[usize]| -> Vec<ArrayRef> { of.iter().map(|i| batch.column(*i).clone()).collect() };
        let keys = self.same.convert_columns(&columns(&self.spec.same)).map_err(arrow)?;
        let places = self.of.convert_columns(&columns(&self.spec.of)).map_err(arrow)?;
        self.counted = self.state_bytes();
        self.load(&keys)?;
        let (mut indices, mut each, mut stand) = (Vec::new(), Vec::new(), Vec::<Box<[u8]>>::new());
        for (row, weight) in weights.values().iter().enumerate() {
            let (key, place) = (keys.row(row), places.row(row));
            for _ in 0..weight.unsigned_abs() {
                indices.push(row as u32);
                each.push(weight.signum());
                if *weight > 0 {
                    self.add(key.as_ref(), place.as_ref());
                    stand.push(place.as_ref().into());
                } else {
                    stand.push(self.take(key.as_ref())?);
                }
            }
        }
        self.make_room()?;
        let batch = take_record_batch(batch, &UInt32Array::from(indices)).map_err(arrow)?;
        let parser = self.of.parser();
        let placed = self.of.convert_rows(stand.iter().map(|p| parser.parse(p))).map_err(arrow)?;
        let mut columns = batch.columns().to_vec();
        for (at, column) in self.spec.of.iter().zip(placed) {
            columns[*at] = column;
        }
        Ok((RecordBatch::try_new(batch.schema(), columns).map_err(arrow)?, each.into()))
    }

    fn save(&self, out: &mut Writer) -> Result<(), OpError> {
        // How many there are is known in the end.
        let (at, mut n) = (out.0.len(), 0u64);
        out.u64(0);
        if !self.spilled.is_empty() {
            let mut newest = self.spilled.newest().map_err(spill)?;
            while let Some(entry) = newest.next(&BY_BYTES).map_err(spill)? {
                let mut from = Reader(entry);
                let key = Key::load(&mut from).map_err(damaged)?;
                // What came back is newer in memory.
                let newer = matches!(key, Key::Bytes(key) if self.rows.contains_key(key));
                if !newer && from.u64().map_err(damaged)? > 0 {
                    out.0.extend_from_slice(entry);
                    n += 1;
                }
            }
        }
        for (key, queue) in self.rows.iter().filter(|(_, q)| !q.places.is_empty()) {
            Key::Bytes(key).save(out);
            queue.save(out);
            n += 1;
        }
        out.0[at..at + 8].copy_from_slice(&n.to_le_bytes());
        Ok(())
    }

    fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), OpError> {
        for i in 1..=from.count(17).map_err(damaged)? {
            let Key::Bytes(key) = Key::load(from).map_err(damaged)? else {
                return Err(damaged(Damaged("a row of another form")));
            };
            for _ in 0..from.count(8).map_err(damaged)? {
                self.add(key, from.bytes().map_err(damaged)?);
            }
            if i % RESTORE_KEYS == 0 {
                self.make_room()?;
            }
        }
        Ok(())
    }
}

impl Weights {
    /// # Errors
    /// [`OpError::Plan`] when the weight is no int8.
    pub fn new(
        at: usize,
        retracted: Option<&Retracted>,
        schema: SchemaRef,
        input: &Schema,
        resources: Resources,
    ) -> Result<Self, OpError> {
        match input.fields().get(at) {
            Some(f) if f.data_type() == &arrow_schema::DataType::Int8 => {}
            other => {
                return Err(OpError::Plan {
                    operator: NAME,
                    reason: format!("a weight is {other:?}, no int8"),
                });
            }
        }
        let held = retracted.map(|r| Held::new(r, input, resources)).transpose()?;
        Ok(Weights { at, held, schema })
    }
}

impl Operator for Weights {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let mut batch = rows.batch;
        let given = batch.column(self.at).as_primitive::<Int8Type>();
        let mut weights: Int64Array = given.values().iter().map(|w| i64::from(*w)).collect();
        if weights.values().contains(&0) {
            let there: BooleanArray = weights.values().iter().map(|w| Some(*w != 0)).collect();
            batch = filter_record_batch(&batch, &there).map_err(arrow)?;
            weights = filter(&weights, &there).map_err(arrow)?.as_primitive::<Int64Type>().clone();
        }
        if let Some(held) = &mut self.held {
            (batch, weights) = held.place(&batch, &weights)?;
        }
        let n = batch.num_rows();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns[self.at] = Arc::new(Int8Array::from_value(1, n));
        columns.truncate(self.schema.fields().len());
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(arrow)?;
        out.rows(Rows { batch, weights: Some(weights) });
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.held.as_ref().map_or_else(Stats::default, |held| Stats {
            keys: held.count,
            state_bytes: held.state_bytes() as u64,
            ..Stats::default()
        })
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        self.held.as_mut().map_or(Ok(false), Held::spill)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        if let Some(held) = &self.held {
            let mut out = Writer::default();
            held.save(&mut out)?;
            into.put("rows", out.0);
        }
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let Some(held) = &mut self.held else { return Ok(()) };
        held.restore(&mut Reader(from.bytes(NAME, "rows")?))
    }
}
