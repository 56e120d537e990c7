//! Takes a column as the weight of each row: rows of a stream become a changelog.
//!
//! Where somebody looks at where rows stand (their event time, their place in the log), a row that
//! takes another back stands where that one does: the oldest that equals it. For that the places of
//! rows that were not taken back are held, a queue for each different row.
//!
//! Not here: what a weight means to an aggregate (`agg::retract`), how it is shown (`delta`).

use crate::agg::not_there;
use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::{StateReader, StateWriter};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int64Type};
use arrow_array::{
    ArrayRef, BooleanArray, Int8Array, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_select::filter::{filter, filter_record_batch};
use arrow_select::take::take_record_batch;
use datafusion_common::DataFusionError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use weir_plan::{Retracted, Rows};

const NAME: &str = "Weights";
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
    rows: BTreeMap<Box<[u8]>, VecDeque<Box<[u8]>>>,
    count: u64,
    bytes: usize,
}

fn arrow(e: ArrowError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(DataFusionError::ArrowError(Box::new(e), None)) }
}

impl Held {
    fn new(spec: &Retracted, input: &Schema) -> Result<Self, OpError> {
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
        })
    }

    fn add(&mut self, key: &[u8], place: &[u8]) {
        self.count += 1;
        self.bytes += place.len() + ENTRY_BYTES;
        match self.rows.get_mut(key) {
            Some(places) => places.push_back(place.into()),
            None => {
                self.bytes += key.len() + ENTRY_BYTES;
                self.rows.insert(key.into(), VecDeque::from([place.into()]));
            }
        }
    }

    fn take(&mut self, key: &[u8]) -> Result<Box<[u8]>, OpError> {
        let places = self.rows.get_mut(key);
        let place = places.and_then(VecDeque::pop_front).ok_or_else(|| arrow(not_there()))?;
        self.count -= 1;
        self.bytes -= place.len() + ENTRY_BYTES;
        if self.rows[key].is_empty() {
            self.rows.remove(key);
            self.bytes -= key.len() + ENTRY_BYTES;
        }
        Ok(place)
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
        let batch = take_record_batch(batch, &UInt32Array::from(indices)).map_err(arrow)?;
        let parser = self.of.parser();
        let placed = self.of.convert_rows(stand.iter().map(|p| parser.parse(p))).map_err(arrow)?;
        let mut columns = batch.columns().to_vec();
        for (at, column) in self.spec.of.iter().zip(placed) {
            columns[*at] = column;
        }
        Ok((RecordBatch::try_new(batch.schema(), columns).map_err(arrow)?, each.into()))
    }

    fn save(&self, out: &mut Writer) {
        out.u64(self.rows.len() as u64);
        for (key, places) in &self.rows {
            out.bytes(key);
            out.u64(places.len() as u64);
            places.iter().for_each(|p| out.bytes(p));
        }
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        for _ in 0..from.count(16)? {
            let key = from.bytes()?;
            for _ in 0..from.count(8)? {
                let place = from.bytes()?;
                self.add(key, place);
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
        let held = retracted.map(|r| Held::new(r, input)).transpose()?;
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
            state_bytes: held.bytes as u64,
            ..Stats::default()
        })
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        if let Some(held) = &self.held {
            let mut out = Writer::default();
            held.save(&mut out);
            into.put("rows", out.0);
        }
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let bytes = from.bytes(NAME, "rows")?;
        held.load(&mut Reader(bytes)).map_err(|e| OpError::Restore { operator: NAME, reason: e.to_string() })
    }
}
