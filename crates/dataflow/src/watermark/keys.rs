//! A watermark for each key, where a query has substreams.
//!
//! Row i of a key is judged by the greatest event time of the key's rows up to i − 1 in log order, less
//! the delay, and at least by its shard's watermark less a lag (`partition_lag_max`). A key that is
//! behind the query's watermark less that lag is forgotten: every later row is judged by at least as
//! much, so that changes no answer. The state grows with the keys seen within the lag.
//!
//! Pure, as the judge whose part it is.

use super::NEVER;
use crate::operator::OpError;
use crate::state::bytes::{Damaged, Reader, Writer};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::HashMap;
use std::sync::Arc;
use weir_plan::{KEY_WATERMARK_COLUMN, PartitionSpec};

const NAME: &str = "Source";
/// Of a key besides its bytes.
const ENTRY_BYTES: usize = 48;
/// Keys are looked through for forgotten ones when there are twice as many as after the last time.
const SWEEP_MIN: usize = 1_024;

#[derive(Debug)]
pub(super) struct Keys {
    /// Of each side of the judge.
    keys: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    lag_max_ns: i64,
    converter: RowConverter,
    told_schema: SchemaRef,
    known: HashMap<Box<[u8]>, i64>,
    bytes: usize,
    sweep_at: usize,
    /// Keys of the last batch and how far they have come.
    told: Option<RecordBatch>,
}

/// Event times of a batch: `None` for rows that move nothing.
pub(super) type Times<'a> = &'a dyn Fn(usize) -> Option<i64>;

fn eval(e: DataFusionError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(e) }
}

fn plan(e: impl ToString) -> OpError {
    OpError::Plan { operator: NAME, reason: e.to_string() }
}

impl Keys {
    pub fn new(spec: PartitionSpec, input: &Schema) -> Result<Self, OpError> {
        let types =
            spec.keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>().map_err(eval)?;
        let mut fields: Vec<Field> =
            types.iter().enumerate().map(|(i, t)| Field::new(format!("key{i}"), t.clone(), true)).collect();
        fields.push(Field::new(KEY_WATERMARK_COLUMN, DataType::Int64, false));
        let converter = RowConverter::new(types.into_iter().map(SortField::new).collect()).map_err(plan)?;
        Ok(Keys {
            keys: vec![spec.keys],
            lag_max_ns: spec.lag_max_ns,
            converter,
            told_schema: Arc::new(Schema::new(fields)),
            known: HashMap::new(),
            bytes: 0,
            sweep_at: SWEEP_MIN,
            told: None,
        })
    }

    /// Another side with the same keys.
    pub fn join(&mut self, spec: PartitionSpec, input: &Schema) -> Result<(), OpError> {
        let types =
            spec.keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>().map_err(eval)?;
        let told = self.told_schema.fields().iter().map(|f| f.data_type());
        if !types.iter().eq(told.take(types.len())) || types.len() + 1 != self.told_schema.fields().len() {
            return Err(plan("keys of other types in another source"));
        }
        self.keys.push(spec.keys);
        Ok(())
    }

    /// By how much keys may be behind, nanoseconds.
    pub fn lag_ns(&self) -> i64 {
        self.lag_max_ns
    }

    /// Judges rows by their keys. `judged` holds what their shards judge them by; `moves` what a row's time
    /// makes of its key's watermark; `watermark` is the query's after these rows.
    pub fn rows(
        &mut self,
        side: usize,
        batch: &RecordBatch,
        judged: &mut [i64],
        moves: Times<'_>,
        watermark: i64,
    ) -> Result<(), OpError> {
        let n = batch.num_rows();
        let columns: Vec<ArrayRef> = self.keys[side]
            .iter()
            .map(|k| k.evaluate(batch).and_then(|v| v.into_array(n)).map_err(eval))
            .collect::<Result<_, _>>()?;
        let rows = self.converter.convert_columns(&columns).map_err(plan)?;
        // The last row of each key of this batch.
        let encoded: Vec<arrow_row::Row<'_>> = rows.iter().collect();
        let mut last: HashMap<&[u8], u32> = HashMap::new();
        for (i, row) in encoded.iter().enumerate() {
            let key: &[u8] = row.as_ref();
            let own = match self.known.get_mut(key) {
                Some(own) => own,
                None => {
                    self.bytes += key.len() + ENTRY_BYTES;
                    self.known.entry(key.into()).or_insert(NEVER)
                }
            };
            if judged[i] != NEVER {
                judged[i] = judged[i].saturating_sub(self.lag_max_ns);
            }
            judged[i] = judged[i].max(*own);
            if let Some(at) = moves(i) {
                *own = (*own).max(at);
            }
            last.insert(key, i as u32);
        }
        let mut places: Vec<u32> = last.values().copied().collect();
        places.sort_unstable();
        let marks: Int64Array =
            places.iter().map(|i| self.known.get(encoded[*i as usize].as_ref()).copied()).collect();
        let places = UInt32Array::from(places);
        let mut all =
            columns.iter().map(|c| take(c, &places, None)).collect::<Result<Vec<_>, _>>().map_err(plan)?;
        all.push(Arc::new(marks));
        self.told = Some(RecordBatch::try_new(self.told_schema.clone(), all).map_err(plan)?);
        self.sweep(watermark);
        Ok(())
    }

    fn sweep(&mut self, watermark: i64) {
        if self.known.len() < self.sweep_at || watermark == NEVER {
            return;
        }
        let floor = watermark.saturating_sub(self.lag_max_ns);
        self.known.retain(|_, own| *own > floor);
        self.bytes = self.known.keys().map(|k| k.len() + ENTRY_BYTES).sum();
        self.sweep_at = (2 * self.known.len()).max(SWEEP_MIN);
    }

    /// What is to be told of the keys of the last batch.
    pub fn take_told(&mut self) -> Option<RecordBatch> {
        self.told.take()
    }

    /// Every key there is.
    pub fn tell_all(&mut self) -> Result<Option<RecordBatch>, OpError> {
        self.told = None;
        if self.known.is_empty() {
            return Ok(None);
        }
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_unstable();
        let parser = self.converter.parser();
        let mut columns =
            self.converter.convert_rows(all.iter().map(|(key, _)| parser.parse(key))).map_err(plan)?;
        columns.push(Arc::new(all.iter().map(|(_, own)| Some(**own)).collect::<Int64Array>()));
        RecordBatch::try_new(self.told_schema.clone(), columns).map(Some).map_err(plan)
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn save(&self, out: &mut Writer) {
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_unstable();
        out.u64(all.len() as u64);
        for (key, own) in all {
            out.bytes(key);
            out.i64(*own);
        }
        out.u64(self.sweep_at as u64);
    }

    pub fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.known.clear();
        self.bytes = 0;
        for _ in 0..from.count(16)? {
            let key = from.bytes()?;
            self.bytes += key.len() + ENTRY_BYTES;
            self.known.insert(key.into(), from.i64()?);
        }
        self.sweep_at = from.u64()? as usize;
        Ok(())
    }
}
