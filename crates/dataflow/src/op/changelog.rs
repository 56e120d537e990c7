//! Rows by key to a changelog: each row takes back the last one of its key.
//!
//! Rows come in log order. A row that is behind the one that is held, by its version, may be dropped
//! instead (`drop_late_rows`). What is taken back is the old row as it was, its place in the log included.
//!
//! State: one row a key, in Arrow's row format. Keys that memory has no room for go to disk, and those of
//! a batch come back before it is taken in.
//!
//! Not here: what the weights do above (`agg::retract`).

use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::{Key, KeyForm};
use crate::state::paged::Paged;
use crate::state::{StateReader, StateWriter};
use arrow_array::{Array, ArrayRef, Int8Array, Int64Array, RecordBatch};
use arrow_row::{RowConverter, Rows as RowsOf, SortField};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrow_select::interleave::interleave;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::HashMap;
use std::sync::Arc;
use weir_plan::{KeyedChangelog, Rows};

const NAME: &str = "Changelog";
/// Keys are bytes, in whatever form.
const BY_BYTES: KeyForm = KeyForm::Text;
/// Keys that are restored before memory is looked at.
const RESTORE_KEYS: usize = 1 << 10;
/// What a key costs beside its bytes.
const ENTRY_BYTES: usize = 96;

#[derive(Debug)]
struct Held {
    version: Box<[u8]>,
    row: Box<[u8]>,
    /// An older row of the key is on disk.
    on_disk: bool,
}

impl Held {
    fn save(&self, out: &mut Writer) {
        out.bytes(&self.version);
        out.bytes(&self.row);
    }

    fn load(from: &mut Reader<'_>, on_disk: bool) -> Result<Self, Damaged> {
        Ok(Held { version: from.bytes()?.into(), row: from.bytes()?.into(), on_disk })
    }
}

pub struct Changelog {
    spec: KeyedChangelog,
    schema: SchemaRef,
    keys: RowConverter,
    version: Option<RowConverter>,
    row: RowConverter,
    held: HashMap<Box<[u8]>, Held>,
    bytes: usize,
    spilled: Paged,
    spilled_keys: usize,
    /// Keys in memory that are on disk too.
    loaded: usize,
    resources: Resources,
    /// Bytes when this call began: the loop has counted so many.
    counted: usize,
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
    pub fn new(
        spec: KeyedChangelog,
        schema: SchemaRef,
        input: &Schema,
        resources: Resources,
    ) -> Result<Self, OpError> {
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
            spilled: Paged::default(),
            spilled_keys: 0,
            loaded: 0,
            resources,
            counted: 0,
            late_rows: 0,
        })
    }

    fn state_bytes(&self) -> usize {
        self.bytes + self.spilled.memory_bytes()
    }

    /// Brings the keys of a batch back that were spilled.
    fn load(&mut self, keys: &RowsOf) -> Result<(), OpError> {
        if self.spilled.is_empty() {
            return Ok(());
        }
        let all = keys.iter().map(|k| k.data()).filter(|k| !self.held.contains_key(*k));
        let wanted = all.map(|k| (Key::Bytes(k).hash(), Key::Bytes(k))).collect();
        let (held, bytes, loaded) = (&mut self.held, &mut self.bytes, &mut self.loaded);
        let done = self.spilled.load(&BY_BYTES, wanted, |(_, key), from| {
            let Key::Bytes(key) = key else { return Err(Damaged("a key of another form")) };
            let row = Held::load(from, true)?;
            *bytes += size(key, &row);
            *loaded += 1;
            held.insert(key.into(), row);
            Ok(())
        });
        done.map_err(spill)
    }

    /// Spills when there is no room for what this call has added.
    fn make_room(&mut self) -> Result<(), OpError> {
        let much = self.bytes >= self.resources.spill_bytes_min();
        if much && self.resources.is_tight(self.counted, self.state_bytes()) {
            Operator::spill(self)?;
        }
        Ok(())
    }

    fn evaluate(e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
        e.evaluate(batch).and_then(|v| v.into_array(batch.num_rows())).map_err(eval)
    }
}

fn spill(source: std::io::Error) -> OpError {
    OpError::Spill { operator: NAME, source }
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
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
        self.counted = self.state_bytes();
        self.load(&keys)?;
        let full = self.row.convert_columns(batch.columns()).map_err(arrow)?;
        // Of what leaves: which array (0 = the batch, 1 = old rows), which row of it.
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        let mut old: Vec<Box<[u8]>> = Vec::new();
        for row in 0..batch.num_rows() {
            let key = keys.row(row);
            let version = versions.as_ref().map(|v| v.row(row));
            let version: &[u8] = version.as_ref().map_or(&[], |v| v.as_ref());
            let mut new =
                Held { version: version.into(), row: full.row(row).as_ref().into(), on_disk: false };
            match self.held.get_mut(key.as_ref()) {
                Some(held) if *version < *held.version => {
                    self.late_rows += 1;
                    continue;
                }
                Some(held) => {
                    new.on_disk = held.on_disk;
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
        self.make_room()?;
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
            keys: (self.spilled_keys + self.held.len() - self.loaded) as u64,
            state_bytes: self.state_bytes() as u64,
            late_rows: self.late_rows,
            ..Stats::default()
        }
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        let Some(space) = self.resources.spill.clone().filter(|_| !self.held.is_empty()) else {
            return Ok(false);
        };
        self.spilled_keys += self.held.len() - std::mem::take(&mut self.loaded);
        self.bytes = 0;
        let mut all: Vec<_> = std::mem::take(&mut self.held).into_iter().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let write = |(key, held): (Box<[u8]>, Held), out: &mut Writer| {
            Key::Bytes(&key).save(out);
            held.save(out);
        };
        self.spilled.spill(&space, &BY_BYTES, all, write, |_| Ok(true)).map_err(spill)?;
        Ok(true)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        out.u64(self.late_rows);
        // How many there are is known in the end.
        let (at, mut n) = (out.0.len(), self.held.len() as u64);
        out.u64(0);
        if !self.spilled.is_empty() {
            let mut newest = self.spilled.newest().map_err(spill)?;
            while let Some(entry) = newest.next(&BY_BYTES).map_err(spill)? {
                let key = Key::load(&mut Reader(entry)).map_err(damaged)?;
                // What came back is newer in memory.
                if !matches!(key, Key::Bytes(key) if self.held.contains_key(key)) {
                    out.0.extend_from_slice(entry);
                    n += 1;
                }
            }
        }
        let mut all: Vec<_> = self.held.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        for (key, held) in all {
            Key::Bytes(key).save(&mut out);
            held.save(&mut out);
        }
        out.0[at..at + 8].copy_from_slice(&n.to_le_bytes());
        into.put("rows", out.0);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let mut from = Reader(from.bytes(NAME, "rows")?);
        self.late_rows = from.u64().map_err(damaged)?;
        for i in 1..=from.count(24).map_err(damaged)? {
            let Key::Bytes(key) = Key::load(&mut from).map_err(damaged)? else {
                return Err(damaged(Damaged("a key of another form")));
            };
            let held = Held::load(&mut from, false).map_err(damaged)?;
            self.bytes += size(key, &held);
            self.held.insert(key.into(), held);
            if i % RESTORE_KEYS == 0 {
                self.make_room()?;
            }
        }
        Ok(())
    }
}
