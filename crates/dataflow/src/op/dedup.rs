//! Lets the first row of each key through.
//!
//! With a bound on keys or time, keys are forgotten in the order in which they came: the oldest when
//! there is one too many, and each a ttl of append time after its row. Append times never fall in
//! log order, so the keys that are over are always the oldest: keys are numbered, and those below some
//! number are forgotten wherever they lie. Without bounds (`DISTINCT`) all keys are kept: the state
//! grows with distinct rows.
//!
//! Keys that memory has no room for go to disk, and those of a batch are looked up there.
//!
//! Not here: log order (sources), runs (`state::paged`).

use crate::operator::{InputId, OpError, Operator, Output, Stats, Wrote};
use crate::resources::Resources;
use crate::state::bits::Bits;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keyed::{Keyed, unknown};
use crate::state::keys::{BatchKeys, Key, KeyForm};
use crate::state::paged::Paged;
use crate::state::rows::Layout;
use crate::state::spill::SpillSpace;
use crate::state::table::{GroupTable, Picked};
use crate::state::{StateReader, StateWriter};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, DataType, Schema};
use arrow_select::filter::filter_record_batch;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::collections::VecDeque;
use std::sync::Arc;
use weir_plan::{DedupSpec, Rows};

const NAME: &str = "Dedup";
/// So many forgotten keys in memory are worth making the table anew.
const TIDY_GROUPS: u64 = 64;
/// Keys that are restored before memory is looked at.
const RESTORE_KEYS: usize = 1 << 10;

pub struct Dedup {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    append_time: Option<usize>,
    known: Known,
    /// `None` = all are remembered.
    newest: Option<Newest>,
    resources: Resources,
    /// Bytes when this call began: the loop has counted so many.
    counted: usize,
}

/// The keys that were let through, in memory and on disk.
struct Known {
    form: KeyForm,
    groups: GroupTable,
    empty: Box<dyn Fn() -> GroupTable + Send>,
    /// Where only the newest are remembered: the word with a key's number, from 1.
    number: Option<usize>,
    /// Groups that are on disk as they are here.
    saved: Bits,
    saved_groups: usize,
    spilled: Paged,
    spilled_keys: usize,
    /// What checkpoints say of the keys, and the least number that was remembered at the last one.
    keyed: Keyed,
    first: u64,
}

impl Known {
    fn new(types: &[DataType], numbered: bool) -> Result<Self, OpError> {
        let form = KeyForm::of(types).map_err(plan)?;
        let mut layout = Layout::default();
        let hash = GroupTable::reserve(&form, &mut layout);
        let number = numbered.then(|| layout.word(0));
        let (of, of_layout) = (KeyForm::of(types).map_err(plan)?, layout);
        let empty: Box<dyn Fn() -> GroupTable + Send> =
            Box::new(move || GroupTable::new(&of, hash, &of_layout));
        Ok(Known {
            form,
            groups: empty(),
            empty,
            number,
            saved: Bits::default(),
            saved_groups: 0,
            spilled: Paged::default(),
            spilled_keys: 0,
            keyed: Keyed::default(),
            first: 0,
        })
    }

    /// 0 where keys have none.
    fn number(&self, group: u32) -> u64 {
        self.number.map_or(0, |at| self.groups.rows.word(group, at))
    }

    fn set_number(&mut self, group: u32, number: u64) {
        if let Some(at) = self.number {
            *self.groups.rows.word_mut(group, at) = number;
        }
    }

    /// A key is let through, with a number where keys have one.
    fn pass(&mut self, group: u32, number: u64) {
        let (groups, at) = (&self.groups, self.number);
        self.keyed.note(group, |out| put(groups, at, group, out));
        self.set_number(group, number);
        self.saved.remove(group);
    }

    fn add(&mut self, key: Key<'_>, number: u64) -> Result<u32, Damaged> {
        let group = self.groups.intern_one(key, key.hash()).map_err(|_| Damaged("too many keys"))?;
        self.set_number(group, number.max(self.number(group)));
        Ok(group)
    }

    /// Takes those keys of a batch back into memory that are on disk with a number from `first` on.
    fn load(&mut self, keys: &BatchKeys, rows: usize, first: u64) -> Result<(), OpError> {
        if self.spilled.is_empty() {
            return Ok(());
        }
        let wanted = self.groups.missing(keys, Picked::all(rows));
        let mut found: Vec<(Key<'_>, u64)> = Vec::new();
        let loaded = self.spilled.load(&self.form, wanted, |(_, key), from| {
            found.push((key, from.u64()?));
            Ok(())
        });
        loaded.map_err(spill)?;
        for (key, number) in found.into_iter().filter(|(_, number)| *number >= first) {
            let group = self.add(key, number).map_err(damaged)?;
            self.saved_groups += usize::from(self.saved.insert(group));
        }
        Ok(())
    }

    /// Writes what is not on disk, of numbers from `first` on, and begins anew.
    fn spill(&mut self, space: &SpillSpace, first: u64) -> Result<(), OpError> {
        let since = self.keyed.leave(|g, out| put(&self.groups, self.number, g, out));
        let groups = std::mem::replace(&mut self.groups, (self.empty)());
        let saved = std::mem::take(&mut self.saved);
        let number = |g: u32| self.number.map_or(0, |at| groups.rows.word(g, at));
        self.spilled_keys += groups.len() - std::mem::take(&mut self.saved_groups);
        let mut all = groups.sorted(&self.form);
        all.retain(|g| !saved.contains(*g) && number(*g) >= first);
        let write = |g: u32, out: &mut Writer| put(&groups, self.number, g, out);
        let counts = |from: &mut Reader<'_>| Ok(from.u64()? >= first);
        let run = self.spilled.spill(space, &self.form, all, write, counts).map_err(spill)?;
        self.keyed.went_to(run, &since);
        Ok(())
    }

    /// Forgets the keys in memory with numbers below `first`.
    fn tidy(&mut self, first: u64) -> Result<(), OpError> {
        let since = self.keyed.leave(|g, out| put(&self.groups, self.number, g, out));
        let groups = std::mem::replace(&mut self.groups, (self.empty)());
        let saved = std::mem::take(&mut self.saved);
        self.saved_groups = 0;
        let at = self.number.expect("only numbered keys are forgotten");
        for old in (0..groups.len() as u32).filter(|g| groups.rows.word(*g, at) >= first) {
            let group = self.add(groups.key(old), groups.rows.word(old, at)).map_err(damaged)?;
            if saved.contains(old) {
                self.saved_groups += usize::from(self.saved.insert(group));
            }
            if since.contains(old) {
                self.keyed.note_moved(group);
            }
        }
        Ok(())
    }

    fn keys(&self) -> usize {
        self.spilled_keys + self.groups.len() - self.saved_groups
    }

    fn bytes(&self) -> usize {
        self.groups.bytes() + self.saved.bytes() + self.spilled.memory_bytes() + self.keyed.bytes()
    }

    /// Keys with numbers from `first` on.
    fn save(&self, first: u64, out: &mut Writer) -> Result<(), OpError> {
        // How many there are is known in the end.
        let (at, mut n) = (out.0.len(), 0u64);
        out.u64(0);
        if !self.spilled.is_empty() {
            let mut newest = self.spilled.newest().map_err(spill)?;
            while let Some(entry) = newest.next(&self.form).map_err(spill)? {
                let mut from = Reader(entry);
                let number = Key::load(&mut from).and_then(|_| from.u64()).map_err(damaged)?;
                if number >= first {
                    out.0.extend_from_slice(entry);
                    n += 1;
                }
            }
        }
        for group in 0..self.groups.len() as u32 {
            if self.number(group) >= first && !self.saved.contains(group) {
                put(&self.groups, self.number, group, out);
                n += 1;
            }
        }
        out.0[at..at + 8].copy_from_slice(&n.to_le_bytes());
        Ok(())
    }
}

fn put(groups: &GroupTable, number: Option<usize>, group: u32, out: &mut Writer) {
    groups.key(group).save(out);
    out.u64(number.map_or(0, |at| groups.rows.word(group, at)));
}

/// Which of the keys are remembered: those with numbers from `first` on. Rows that are the first of their
/// key are numbered; a key gets another number only when it has been forgotten.
struct Newest {
    keys_max: u64,
    ttl_us: Option<i64>,
    first: u64,
    next: u64,
    /// Append times (microseconds), oldest first, and up to which number each goes. Only with a ttl.
    times: VecDeque<(i64, u64)>,
}

impl Newest {
    fn keys(&self) -> u64 {
        self.next - self.first
    }

    /// Forgets numbers below `up_to`.
    fn forget(&mut self, up_to: u64) {
        self.first = up_to;
        while self.times.front().is_some_and(|(_, end)| *end <= up_to) {
            self.times.pop_front();
        }
    }

    /// The number of a row that is the first of its key, as far as is remembered; `before` = that of its key.
    fn first_of_key(&mut self, before: u64, at_us: i64) -> Option<u64> {
        if let Some(ttl_us) = self.ttl_us {
            while let Some((came, end)) = self.times.front().copied()
                && at_us.saturating_sub(came) >= ttl_us
            {
                self.forget(end);
            }
        }
        if before >= self.first {
            return None;
        }
        if self.keys() >= self.keys_max {
            self.forget(self.first + 1);
        }
        let number = self.next;
        self.next += 1;
        if self.ttl_us.is_some() {
            match self.times.back_mut() {
                Some((came, end)) if *came == at_us => *end = self.next,
                _ => self.times.push_back((at_us, self.next)),
            }
        }
        Some(number)
    }

    fn save(&self, out: &mut Writer) {
        out.u64(self.first);
        out.u64(self.next);
        out.u64(self.times.len() as u64);
        for (came, end) in &self.times {
            out.i64(*came);
            out.u64(*end);
        }
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        (self.first, self.next) = (from.u64()?, from.u64()?);
        if self.first > self.next {
            return Err(Damaged("more is forgotten than came"));
        }
        for _ in 0..from.count(16)? {
            self.times.push_back((from.i64()?, from.u64()?));
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

fn spill(source: std::io::Error) -> OpError {
    OpError::Spill { operator: NAME, source }
}

fn damaged(e: Damaged) -> OpError {
    OpError::Restore { operator: NAME, reason: e.to_string() }
}

impl Dedup {
    /// # Errors
    /// [`OpError::Plan`] when a key has a type that cannot be one.
    pub fn new(spec: &DedupSpec, input: &Schema, resources: Resources) -> Result<Self, OpError> {
        let types =
            spec.keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>().map_err(eval)?;
        if spec.ttl_us.is_some() && spec.append_time.is_none() {
            return Err(plan("a ttl without append times"));
        }
        let bounded = spec.keys_max.is_some() || spec.ttl_us.is_some();
        let newest = bounded.then(|| Newest {
            keys_max: spec.keys_max.unwrap_or(u64::MAX),
            ttl_us: spec.ttl_us,
            first: 1,
            next: 1,
            times: VecDeque::new(),
        });
        let append_time = spec.append_time.filter(|_| spec.ttl_us.is_some());
        let known = Known::new(&types, bounded)?;
        Ok(Dedup { keys: spec.keys.clone(), append_time, known, newest, resources, counted: 0 })
    }

    /// The least number that is remembered.
    fn first(&self) -> u64 {
        self.newest.as_ref().map_or(0, |n| n.first)
    }

    fn bytes(&self) -> usize {
        let times = self.newest.as_ref().map_or(0, |n| n.times.capacity() * size_of::<(i64, u64)>());
        self.known.bytes() + times
    }

    fn first_rows(&mut self, batch: &RecordBatch) -> Result<BooleanArray, OpError> {
        let n = batch.num_rows();
        let keys: Vec<ArrayRef> = self
            .keys
            .iter()
            .map(|k| k.evaluate(batch).and_then(|v| v.into_array(n)).map_err(eval))
            .collect::<Result<_, _>>()?;
        let keys = self.known.form.encode(&keys, n).map_err(arrow)?;
        self.known.load(&keys, n, self.first())?;
        let mut known = self.known.groups.len() as u32;
        let mut found = Vec::with_capacity(n);
        let interned = self.known.groups.intern(&keys, Picked::all(n), &mut found);
        interned.map_err(|e| OpError::Row { reason: format!("DISTINCT: {e}") })?;
        let Some(newest) = &mut self.newest else {
            // Groups are numbered in the order in which they come.
            let first = found.into_iter().map(|group| {
                let first = group == known;
                if first {
                    known += 1;
                    self.known.pass(group, 0);
                }
                Some(first)
            });
            return Ok(first.collect());
        };
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
        let mut first = Vec::with_capacity(n);
        for (row, group) in found.into_iter().enumerate() {
            let number = newest.first_of_key(self.known.number(group), times.map_or(0, |t| t[row]));
            if let Some(number) = number {
                self.known.pass(group, number);
            }
            first.push(number.is_some());
        }
        if self.known.groups.len() as u64 > 2 * newest.keys() + TIDY_GROUPS {
            let first = newest.first;
            self.known.tidy(first)?;
        }
        Ok(first.into())
    }

    fn restore_runs(&mut self, from: &StateReader, numbers: &[u8]) -> Result<(), OpError> {
        if let Some(newest) = &mut self.newest {
            newest.load(&mut Reader(numbers)).map_err(damaged)?;
        }
        let first = self.first();
        let mut keyed = std::mem::take(&mut self.known.keyed);
        keyed.restore(NAME, from, |block| {
            let known = &mut self.known;
            for (hash, key, mut rest) in
                unknown(block, &known.form, &known.groups, &known.spilled).map_err(spill)?
            {
                let number = rest.u64().map_err(damaged)?;
                if number >= first && known.groups.find_one(key, hash).is_none() {
                    known.add(key, number).map_err(damaged)?;
                }
            }
            self.make_room()
        })?;
        self.known.keyed = keyed;
        Ok(())
    }

    /// Spills until there is room again for what this call has added.
    fn make_room(&mut self) -> Result<(), OpError> {
        let much = self.known.groups.bytes() >= self.resources.spill_bytes_min();
        if much && self.resources.is_tight(self.counted, self.bytes()) {
            self.spill()?;
        }
        Ok(())
    }
}

impl Operator for Dedup {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.weights.is_some() {
            return Err(plan("first rows of a changelog"));
        }
        self.counted = self.bytes();
        let first = self.first_rows(&rows.batch)?;
        self.make_room()?;
        self.known.keyed.hand_on();
        if first.true_count() == rows.batch.num_rows() {
            out.rows(rows);
        } else if first.has_true() {
            out.rows(Rows::append(filter_record_batch(&rows.batch, &first).map_err(arrow)?));
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        let keys = match &self.newest {
            None => self.known.keys() as u64,
            Some(newest) => newest.keys(),
        };
        Stats { keys, state_bytes: self.bytes() as u64, ..Stats::default() }
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        let Some(space) = self.resources.spill.clone().filter(|_| self.known.groups.len() > 0) else {
            return Ok(false);
        };
        self.known.spill(&space, self.first())?;
        Ok(true)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        if let Some(newest) = &self.newest {
            newest.save(&mut out);
        }
        let known = &mut self.known;
        let (groups, keys) = (known.groups.len(), known.keys() as u64);
        if known.keyed.snapshot(into, groups, keys, &known.spilled).map_err(spill)? {
            known.first = self.newest.as_ref().map_or(0, |n| n.first);
            into.put("numbers", out.0);
            return Ok(());
        }
        self.known.save(self.first(), &mut out)?;
        into.put("keys", out.0);
        Ok(())
    }

    fn snapshot_more(&mut self, things: usize) -> Result<Wrote, OpError> {
        let Known { form, groups, number, keyed, first, .. } = &mut self.known;
        let counts = |from: &mut Reader<'_>| Ok(from.u64()? >= *first);
        keyed.write_more(things, form, |group, out| put(groups, *number, group, out), counts).map_err(spill)
    }

    fn snapshot_lost(&mut self) {
        self.known.keyed.lose();
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        if let Some(numbers) = from.get("numbers") {
            return self.restore_runs(from, numbers);
        }
        let mut from = Reader(from.bytes(NAME, "keys")?);
        if let Some(newest) = &mut self.newest {
            newest.load(&mut from).map_err(damaged)?;
        }
        for i in 1..=from.count(9).map_err(damaged)? {
            let key = Key::load(&mut from).map_err(damaged)?;
            let number = from.u64().map_err(damaged)?;
            self.known.add(key, number).map_err(damaged)?;
            if i % RESTORE_KEYS == 0 {
                self.make_room()?;
            }
        }
        Ok(())
    }
}
