//! Rows by key to a changelog: each row takes back the last one of its key.
//!
//! Rows come in log order. A row that is behind the one that is held, by its version, may be dropped
//! instead (`drop_late_rows`). What is taken back is the old row as it was, its place in the log included.
//!
//! State: one row a key, in Arrow's row format.
//!
//! Not here: what the weights do above (`agg::retract`).

use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::{StateReader, StateWriter};
use arrow_array::{Array, ArrayRef, Int8Array, Int64Array, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrow_select::interleave::interleave;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::HashMap;
use std::sync::Arc;
use weir_plan::{KeyedChangelog, Rows};

const NAME: &str = "Changelog";
/// What a key costs beside its bytes.
const ENTRY_BYTES: usize = 96;

#[derive(Debug)]
struct Held {
    version: Box<[u8]>,
    row: Box<[u8]>,
}

pub struct Changelog {
    spec: KeyedChangelog,
    schema: SchemaRef,
    keys: RowConverter,
    version: Option<RowConverter>,
    row: RowConverter,
    held: HashMap<Box<[u8]>, Held>,
    bytes: usize,
    late_rows: u64,
}

fn arrow(e: ArrowError) -> OpError {
    eval(DataFusionError::ArrowError(Box::new(e), None))
}

fn eval(e: DataFusionError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(e) }
}

impl Changelog {
    /// # Errors
    /// [`OpError::Plan`] when the weight has no place; [`OpError::Eval`] for columns of a type that
    /// can not be held.
    pub fn new(spec: KeyedChangelog, schema: SchemaRef, input: &Schema) -> Result<Self, OpError> {
        if schema.fields().get(spec.at).is_none_or(|f| f.data_type() != &DataType::Int8) {
            return Err(OpError::Plan { operator: NAME, reason: "the weight has no column (int8)".into() });
        }
        let converter = |types: Vec<DataType>| {
            RowConverter::new(types.into_iter().map(SortField::new).collect()).map_err(arrow)
        };
        let types = |all: &[Arc<dyn PhysicalExpr>]| {
            all.iter().map(|e| e.data_type(input)).collect::<Result<Vec<_>, _>>().map_err(eval)
        };
        let version = match &spec.version {
            None => None,
            Some(e) => Some(converter(types(std::slice::from_ref(e))?)?),
        };
        Ok(Changelog {
            keys: converter(types(&spec.keys)?)?,
            version,
            row: converter(input.fields().iter().map(|f| f.data_type().clone()).collect())?,
            spec,
            schema,
            held: HashMap::new(),
            bytes: 0,
            late_rows: 0,
        })
    }

    fn evaluate(e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
        e.evaluate(batch).and_then(|v| v.into_array(batch.num_rows())).map_err(eval)
    }
}

fn size(key: &[u8], held: &Held) -> usize {
    key.len() + held.version.len() + held.row.len() + ENTRY_BYTES
}

impl Operator for Changelog {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.weights.is_some() {
            return Err(OpError::Plan { operator: NAME, reason: "a changelog of a changelog".into() });
        }
        let batch = rows.batch;
        let keys = self.spec.keys.iter().map(|k| Self::evaluate(k, &batch)).collect::<Result<Vec<_>, _>>()?;
        let keys = self.keys.convert_columns(&keys).map_err(arrow)?;
        let versions = match (&self.version, &self.spec.version) {
            (Some(converter), Some(e)) => {
                Some(converter.convert_columns(&[Self::evaluate(e, &batch)?]).map_err(arrow)?)
            }
            _ => None,
        };
        let full = self.row.convert_columns(batch.columns()).map_err(arrow)?;
        // Of what leaves: which array (0 = the batch, 1 = old rows), which row of it.
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        let mut old: Vec<Box<[u8]>> = Vec::new();
        for row in 0..batch.num_rows() {
            let key = keys.row(row);
            let version = versions.as_ref().map(|v| v.row(row));
            let version: &[u8] = version.as_ref().map_or(&[], |v| v.as_ref());
            let new = Held { version: version.into(), row: full.row(row).as_ref().into() };
            match self.held.get_mut(key.as_ref()) {
                Some(held) if *version < *held.version => {
                    self.late_rows += 1;
                    continue;
                }
                Some(held) => {
                    self.bytes = self.bytes - size(key.as_ref(), held) + size(key.as_ref(), &new);
                    places.push((1, old.len()));
                    weights.push(-1i64);
                    old.push(std::mem::replace(held, new).row);
                }
                None => {
                    self.bytes += size(key.as_ref(), &new);
                    self.held.insert(key.as_ref().into(), new);
                }
            }
            places.push((0, row));
            weights.push(1);
        }
        if places.is_empty() {
            return Ok(());
        }
        let parser = self.row.parser();
        let old = self.row.convert_rows(old.iter().map(|r| parser.parse(r))).map_err(arrow)?;
        let mut columns = batch
            .columns()
            .iter()
            .zip(&old)
            .map(|(new, old)| {
                let sources: [&dyn Array; 2] = [new, old];
                interleave(&sources, &places).map_err(arrow)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let shown = if self.spec.shown { |w: &i64| *w as i8 } else { |_: &i64| 1 };
        let shown: Int8Array = weights.iter().map(shown).collect::<Vec<_>>().into();
        columns.insert(self.spec.at, Arc::new(shown));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(arrow)?;
        out.rows(Rows { batch, weights: Some(Int64Array::from(weights)) });
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats {
            keys: self.held.len() as u64,
            state_bytes: self.bytes as u64,
            late_rows: self.late_rows,
            ..Stats::default()
        }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        out.u64(self.late_rows);
        out.u64(self.held.len() as u64);
        let mut all: Vec<_> = self.held.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        for (key, held) in all {
            out.bytes(key);
            out.bytes(&held.version);
            out.bytes(&held.row);
        }
        into.put("rows", out.0);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let mut from = Reader(from.bytes(NAME, "rows")?);
        let mut load = || -> Result<(), Damaged> {
            self.late_rows = from.u64()?;
            for _ in 0..from.count(24)? {
                let key: Box<[u8]> = from.bytes()?.into();
                let held = Held { version: from.bytes()?.into(), row: from.bytes()?.into() };
                self.bytes += size(&key, &held);
                self.held.insert(key, held);
            }
            Ok(())
        };
        load().map_err(|e| OpError::Restore { operator: NAME, reason: e.to_string() })
    }
}
