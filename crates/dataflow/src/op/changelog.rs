//! Rows by key to a changelog: each row takes back the last one of its key.
//!
//! Rows come in log order. A row that is behind the one that is held, by its version, may be dropped
//! instead (`drop_late_rows`). What is taken back is the old row as it was, its place in the log included.
//!
//! State: one row a key, in Arrow's row format. Keys that memory has no room for go to disk, and those of
//! a batch come back before it is taken in.
//!
//! Not here: what the weights do above (`agg::retract`).

use crate::operator::{InputId, OpError, Operator, Output, Stats, Wrote};
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keyed::{Keyed, unknown};
use crate::state::keys::{Key, KeyForm};
use crate::state::paged::Paged;
use crate::state::rows::Layout;
use crate::state::spill::SpillSpace;
use crate::state::table::{GroupTable, TableError};
use crate::state::{StateReader, StateWriter};
use arrow_array::{Array, ArrayRef, Int8Array, Int64Array, RecordBatch};
use arrow_row::{RowConverter, Rows as RowsOf, SortField};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrow_select::interleave::interleave;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::io;
use std::sync::Arc;
use weir_plan::{KeyedChangelog, Rows};

const NAME: &str = "Changelog";
/// Keys are bytes, in whatever form.
const BY_BYTES: KeyForm = KeyForm::Text;
/// Keys that are restored before memory is looked at.
const RESTORE_KEYS: usize = 1 << 10;
/// What a row costs beside its bytes.
const HELD_BYTES: usize = size_of::<Held>() + 32;

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

    fn bytes(&self) -> usize {
        self.version.len() + self.row.len() + HELD_BYTES
    }
}

/// The last row of each key, in memory and on disk.
struct Known {
    groups: GroupTable,
    empty: Box<dyn Fn() -> GroupTable + Send>,
    /// By group.
    held: Vec<Held>,
    /// Of the rows.
    bytes: usize,
    spilled: Paged,
    spilled_keys: usize,
    /// Keys in memory that are on disk too.
    loaded: usize,
    /// What checkpoints say of the keys.
    keyed: Keyed,
}

impl Known {
    fn new() -> Self {
        let mut layout = Layout::default();
        let hash = GroupTable::reserve(&BY_BYTES, &mut layout);
        let empty: Box<dyn Fn() -> GroupTable + Send> =
            Box::new(move || GroupTable::new(&BY_BYTES, hash, &layout));
        Known {
            groups: empty(),
            empty,
            held: Vec::new(),
            bytes: 0,
            spilled: Paged::default(),
            spilled_keys: 0,
            loaded: 0,
            keyed: Keyed::default(),
        }
    }

    fn keys(&self) -> u64 {
        (self.spilled_keys + self.held.len() - self.loaded) as u64
    }

    fn bytes(&self) -> usize {
        self.in_memory() + self.spilled.memory_bytes() + self.keyed.bytes()
    }

    fn in_memory(&self) -> usize {
        self.groups.bytes() + self.bytes + (self.held.capacity() - self.held.len()) * size_of::<Held>()
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let key = Key::Bytes(key);
        self.groups.find_one(key, key.hash())
    }

    /// A key that is not in memory.
    fn add(&mut self, key: &[u8], held: Held) -> Result<u32, TableError> {
        let key = Key::Bytes(key);
        let group = self.groups.intern_one(key, key.hash())?;
        self.bytes += held.bytes();
        self.held.push(held);
        Ok(group)
    }

    /// The row of a key, on its way to be replaced.
    fn replace(&mut self, group: u32, with: Held) -> Held {
        let (groups, held) = (&self.groups, &self.held);
        self.keyed.note(group, |out| put(groups, held, group, out));
        self.bytes += with.bytes();
        let old = std::mem::replace(&mut self.held[group as usize], with);
        self.bytes -= old.bytes();
        old
    }

    fn spill(&mut self, space: &SpillSpace) -> io::Result<()> {
        let since = self.keyed.leave(|g, out| put(&self.groups, &self.held, g, out));
        let groups = std::mem::replace(&mut self.groups, (self.empty)());
        let held = std::mem::take(&mut self.held);
        self.spilled_keys += held.len() - std::mem::take(&mut self.loaded);
        self.bytes = 0;
        let write = |g: u32, out: &mut Writer| put(&groups, &held, g, out);
        let run = self.spilled.spill(space, &BY_BYTES, groups.sorted(&BY_BYTES), write, |_| Ok(true))?;
        self.keyed.went_to(run, &since);
        Ok(())
    }

    /// Takes in what a block of a checkpoint says of keys of which nothing newer is known.
    fn restore(&mut self, block: &[u8]) -> Result<(), OpError> {
        for (hash, key, mut rest) in unknown(block, &BY_BYTES, &self.groups, &self.spilled).map_err(spill)? {
            if self.groups.find_one(key, hash).is_none() {
                let Key::Bytes(key) = key else { return Err(damaged(Damaged("a key of another form"))) };
                let held = Held::load(&mut rest, false).map_err(damaged)?;
                self.add(key, held).map_err(|_| damaged(Damaged("too many keys")))?;
            }
        }
        Ok(())
    }
}

fn put(groups: &GroupTable, held: &[Held], group: u32, out: &mut Writer) {
    groups.key(group).save(out);
    held[group as usize].save(out);
}

pub struct Changelog {
    spec: KeyedChangelog,
    schema: SchemaRef,
    keys: RowConverter,
    version: Option<RowConverter>,
    row: RowConverter,
    known: Known,
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
            known: Known::new(),
            resources,
            counted: 0,
            late_rows: 0,
        })
    }

    /// Brings the keys of a batch back that were spilled.
    fn load(&mut self, keys: &RowsOf) -> Result<(), OpError> {
        let known = &mut self.known;
        if known.spilled.is_empty() {
            return Ok(());
        }
        let all = keys.iter().map(|k| k.data()).filter(|k| known.find(k).is_none());
        let wanted = all.map(|k| (Key::Bytes(k).hash(), Key::Bytes(k))).collect();
        let spilled = std::mem::take(&mut known.spilled);
        let done = spilled.load(&BY_BYTES, wanted, |(_, key), from| {
            let Key::Bytes(key) = key else { return Err(Damaged("a key of another form")) };
            known.add(key, Held::load(from, true)?).map_err(|_| Damaged("too many keys"))?;
            known.loaded += 1;
            Ok(())
        });
        known.spilled = spilled;
        done.map_err(spill)
    }

    /// Spills when there is no room for what this call has added.
    fn make_room(&mut self) -> Result<(), OpError> {
        let much = self.known.in_memory() >= self.resources.spill_bytes_min();
        if much && self.resources.is_tight(self.counted, self.known.bytes()) {
            Operator::spill(self)?;
        }
        Ok(())
    }

    fn evaluate(e: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
        e.evaluate(batch).and_then(|v| v.into_array(batch.num_rows())).map_err(eval)
    }
}

fn spill(source: io::Error) -> OpError {
    OpError::Spill { operator: NAME, source }
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
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
        self.counted = self.known.bytes();
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
            match self.known.find(key.as_ref()) {
                Some(group) => {
                    let held = &self.known.held[group as usize];
                    if *version < *held.version {
                        self.late_rows += 1;
                        continue;
                    }
                    new.on_disk = held.on_disk;
                    places.push((1, old.len()));
                    weights.push(-1i64);
                    old.push(self.known.replace(group, new).row);
                }
                None => {
                    let group = self.known.add(key.as_ref(), new);
                    let group = group.map_err(|e| OpError::Row { reason: format!("changelog: {e}") })?;
                    self.known.keyed.note_moved(group);
                }
            }
            places.push((0, row));
            weights.push(1);
        }
        self.make_room()?;
        self.known.keyed.hand_on();
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
            keys: self.known.keys(),
            state_bytes: self.known.bytes() as u64,
            late_rows: self.late_rows,
            ..Stats::default()
        }
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        let Some(space) = self.resources.spill.clone().filter(|_| !self.known.held.is_empty()) else {
            return Ok(false);
        };
        self.known.spill(&space).map_err(spill)?;
        Ok(true)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let keys = self.known.keys();
        let Known { groups, held, spilled, keyed, .. } = &mut self.known;
        if keyed.snapshot(into, groups.len(), keys, spilled).map_err(spill)? {
            into.put_u64("late_rows", self.late_rows);
            return Ok(());
        }
        let mut out = Writer::default();
        out.u64(self.late_rows);
        // How many there are is known in the end.
        let (at, mut n) = (out.0.len(), held.len() as u64);
        out.u64(0);
        if !spilled.is_empty() {
            let mut newest = spilled.newest().map_err(self::spill)?;
            while let Some(entry) = newest.next(&BY_BYTES).map_err(self::spill)? {
                let key = Key::load(&mut Reader(entry)).map_err(damaged)?;
                // What came back is newer in memory.
                if groups.find_one(key, key.hash()).is_none() {
                    out.0.extend_from_slice(entry);
                    n += 1;
                }
            }
        }
        groups.sorted(&BY_BYTES).into_iter().for_each(|g| put(groups, held, g, &mut out));
        out.0[at..at + 8].copy_from_slice(&n.to_le_bytes());
        into.put("rows", out.0);
        Ok(())
    }

    fn snapshot_more(&mut self, things: usize) -> Result<Wrote, OpError> {
        let Known { groups, held, keyed, .. } = &mut self.known;
        let put = |group: u32, out: &mut Writer| put(groups, held, group, out);
        keyed.write_more(things, &BY_BYTES, put, |_| Ok(true)).map_err(spill)
    }

    fn snapshot_lost(&mut self) {
        self.known.keyed.lose();
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        if from.lies_in_runs() {
            self.late_rows = from.u64(NAME, "late_rows")?;
            let mut keyed = std::mem::take(&mut self.known.keyed);
            keyed.restore(NAME, from, |block| {
                self.known.restore(block)?;
                self.make_room()
            })?;
            self.known.keyed = keyed;
            return Ok(());
        }
        let mut from = Reader(from.bytes(NAME, "rows")?);
        self.late_rows = from.u64().map_err(damaged)?;
        for i in 1..=from.count(24).map_err(damaged)? {
            let Key::Bytes(key) = Key::load(&mut from).map_err(damaged)? else {
                return Err(damaged(Damaged("a key of another form")));
            };
            let held = Held::load(&mut from, false).map_err(damaged)?;
            self.known.add(key, held).map_err(|_| damaged(Damaged("too many keys")))?;
            if i % RESTORE_KEYS == 0 {
                self.make_room()?;
            }
        }
        Ok(())
    }
}
