//! Lets the first row of each key through.
//!
//! With a bound on keys or time, keys are forgotten in the order in which they came: the oldest when
//! there is one too many, and each a ttl of append time after its row. Append times never fall in
//! log order, so the keys that are over are always the oldest. Without bounds (`DISTINCT`) all keys
//! are kept: the state grows with distinct rows.
//!
//! Not here: log order (sources).

use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::KeyForm;
use crate::state::rows::Layout;
use crate::state::table::{GroupTable, Picked};
use crate::state::{StateReader, StateWriter};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema};
use arrow_select::filter::filter_record_batch;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use weir_plan::{DedupSpec, Rows};

const NAME: &str = "Dedup";
/// Of a key besides its bytes, in the set and in the queue.
const ENTRY_BYTES: usize = 64;

pub struct Dedup {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    append_time: Option<usize>,
    first: First,
}

enum First {
    All { form: KeyForm, groups: GroupTable },
    Newest { converter: RowConverter, newest: Newest },
}

/// The keys that came last, oldest first.
struct Newest {
    keys_max: usize,
    ttl_us: Option<i64>,
    known: HashSet<Arc<[u8]>>,
    /// With the append time of its row, microseconds.
    oldest_first: VecDeque<(Arc<[u8]>, i64)>,
    bytes: usize,
}

impl Newest {
    fn forget_oldest(&mut self) {
        if let Some((key, _)) = self.oldest_first.pop_front() {
            self.known.remove(&key);
            self.bytes -= key.len() + ENTRY_BYTES;
        }
    }

    fn remember(&mut self, key: Arc<[u8]>, at_us: i64) {
        self.bytes += key.len() + ENTRY_BYTES;
        self.known.insert(key.clone());
        self.oldest_first.push_back((key, at_us));
    }

    /// Whether a row is the first of its key as far as is remembered.
    fn is_first(&mut self, key: &[u8], at_us: i64) -> bool {
        if let Some(ttl_us) = self.ttl_us {
            while self.oldest_first.front().is_some_and(|(_, came)| at_us.saturating_sub(*came) >= ttl_us) {
                self.forget_oldest();
            }
        }
        if self.known.contains(key) {
            return false;
        }
        if self.oldest_first.len() >= self.keys_max {
            self.forget_oldest();
        }
        self.remember(key.into(), at_us);
        true
    }

    fn save(&self, out: &mut Writer) {
        out.u64(self.oldest_first.len() as u64);
        for (key, at) in &self.oldest_first {
            out.bytes(key);
            out.i64(*at);
        }
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        for _ in 0..from.count(16)? {
            let key = from.bytes()?.into();
            let at = from.i64()?;
            self.remember(key, at);
        }
        Ok(())
    }
}

fn plan(reason: impl ToString) -> OpError {
    OpError::Plan { operator: NAME, reason: reason.to_string() }
}

fn eval(e: DataFusionError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(e) }
}

fn arrow(e: ArrowError) -> OpError {
    eval(DataFusionError::ArrowError(Box::new(e), None))
}

impl Dedup {
    /// # Errors
    /// [`OpError::Plan`] when a key has a type that cannot be one.
    pub fn new(spec: &DedupSpec, input: &Schema) -> Result<Self, OpError> {
        let types =
            spec.keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>().map_err(eval)?;
        let first = if spec.keys_max.is_none() && spec.ttl_us.is_none() {
            let form = KeyForm::of(&types).map_err(plan)?;
            let mut layout = Layout::default();
            let hash = GroupTable::reserve(&form, &mut layout);
            let groups = GroupTable::new(&form, hash, &layout);
            First::All { form, groups }
        } else {
            if spec.ttl_us.is_some() && spec.append_time.is_none() {
                return Err(plan("a ttl without append times"));
            }
            let fields = types.into_iter().map(SortField::new).collect();
            let newest = Newest {
                keys_max: spec.keys_max.map_or(usize::MAX, |n| n as usize),
                ttl_us: spec.ttl_us,
                known: HashSet::new(),
                oldest_first: VecDeque::new(),
                bytes: 0,
            };
            First::Newest { converter: RowConverter::new(fields).map_err(plan)?, newest }
        };
        let append_time = spec.append_time.filter(|_| spec.ttl_us.is_some());
        Ok(Dedup { keys: spec.keys.clone(), append_time, first })
    }

    fn first_rows(&mut self, batch: &RecordBatch) -> Result<BooleanArray, OpError> {
        let n = batch.num_rows();
        let keys: Vec<ArrayRef> = self
            .keys
            .iter()
            .map(|k| k.evaluate(batch).and_then(|v| v.into_array(n)).map_err(eval))
            .collect::<Result<_, _>>()?;
        match &mut self.first {
            First::All { form, groups } => {
                let mut known = groups.len() as u32;
                let mut found = Vec::with_capacity(n);
                let keys = form.encode(&keys, n).map_err(arrow)?;
                groups
                    .intern(&keys, Picked::all(n), &mut found)
                    .map_err(|e| OpError::Row { reason: format!("DISTINCT: {e}") })?;
                // Groups are numbered in the order in which they come.
                let first = found.into_iter().map(|group| {
                    let first = group == known;
                    known += u32::from(first);
                    Some(first)
                });
                Ok(first.collect())
            }
            First::Newest { converter, newest } => {
                let rows = converter.convert_columns(&keys).map_err(arrow)?;
                let times = match self.append_time {
                    None => None,
                    Some(at) => Some(
                        batch
                            .column(at)
                            .as_primitive_opt::<TimestampMicrosecondType>()
                            .ok_or_else(|| plan("append times are microseconds"))?
                            .values(),
                    ),
                };
                let first = rows
                    .iter()
                    .enumerate()
                    .map(|(i, key)| newest.is_first(key.as_ref(), times.map_or(0, |t| t[i])));
                Ok(first.map(Some).collect())
            }
        }
    }
}

impl Operator for Dedup {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.weights.is_some() {
            return Err(plan("first rows of a changelog"));
        }
        let first = self.first_rows(&rows.batch)?;
        if first.true_count() == rows.batch.num_rows() {
            out.rows(rows);
        } else if first.has_true() {
            out.rows(Rows::append(filter_record_batch(&rows.batch, &first).map_err(arrow)?));
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        let (keys, bytes) = match &self.first {
            First::All { groups, .. } => (groups.len(), groups.bytes()),
            First::Newest { newest, .. } => (newest.oldest_first.len(), newest.bytes),
        };
        Stats { keys: keys as u64, state_bytes: bytes as u64, ..Stats::default() }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        match &self.first {
            First::All { groups, .. } => groups.save(&mut out),
            First::Newest { newest, .. } => newest.save(&mut out),
        }
        into.put("keys", out.0);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let mut from = Reader(from.bytes(NAME, "keys")?);
        match &mut self.first {
            First::All { groups, .. } => groups.load(&mut from),
            First::Newest { newest, .. } => newest.load(&mut from),
        }
        .map_err(|e| OpError::Restore { operator: NAME, reason: e.to_string() })
    }
}
