//! The judge at a source: by which watermark each row is judged, and how far time has come.
//!
//! Pure: a function of the rows in log order over shards, so batches, timing and restarts change
//! nothing. For row i of a shard
//!
//! - it is judged by its shard's watermark after row i − 1 (greatest event time less the delay);
//! - from a shard that was idle it is judged by the query's watermark where that is greater, and
//!   the shard goes on from there;
//! - a row too far ahead of its append time moves nothing.
//!
//! A shard is idle from `idle_timeout_us` after its last row on. The query's watermark is the least
//! of shards that are not idle; with all of them idle it stays.
//!
//! With a timeout, a silence of the whole source for that long brings the watermark to where every
//! window closes that rows lie in, save those of rows too far ahead. All shards count as idle then.
//!
//! In event-time replay no row of history is late; at its end each shard goes on from its own
//! greatest time.
//!
//! With a partition each key has a watermark of its own (`keys`); what is told of the query is then the
//! least that any key's can be.
//!
//! Sources below a UNION have one judge, told of the rows of all of them in log order: a shard is then one
//! of a source, and the query's watermark the least of all shards.
//!
//! Not here: what is done with a late row (`op::window`), who brings rows into log order (sources).

mod keys;

use crate::operator::OpError;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::{StateReader, StateWriter};
use crate::time::nanos;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::SchemaRef;
use keys::Keys;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_plan::{ReplayOrder, ShardProgress, SourceSpec, WatermarkSpec, WatermarkTime};

const NAME: &str = "Source";
/// Before any row.
const NEVER: i64 = i64::MIN;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Shard {
    watermark: i64,
    /// Microseconds.
    last_append: i64,
    idle: bool,
}

/// A source of a judge.
#[derive(Debug)]
struct Side {
    spec: WatermarkSpec,
    schema: SchemaRef,
    /// History by event time is being read.
    unordered: bool,
    /// Rows so far ahead of their append time that they moved nothing.
    future_rows: u64,
}

#[derive(Debug)]
pub(crate) struct Judge {
    sides: Vec<Side>,
    /// By side and number.
    shards: BTreeMap<(usize, i32), Shard>,
    /// The query's watermark.
    watermark: i64,
    /// Told to the query.
    told: i64,
    /// History by event time: nothing is late, append times come in any order.
    unordered: bool,
    /// Where a timeout counts from, and what it closes: the last append of any shard (microseconds),
    /// the greatest event time that is not too far ahead. `NEVER` once it has happened.
    last_append: i64,
    greatest: i64,
    keys: Option<Keys>,
    /// Told at the end of history by event time.
    all_keys: Option<RecordBatch>,
}

/// Judges rows one by one without looking at append times, where none of them can matter: the shard
/// falls not idle between the rows (append times never fall) and no row is in the future. Gives the
/// shard's watermark after them, and the greatest of their times.
fn steady(
    spec: &WatermarkSpec,
    silence_max_us: i64,
    times: &[i64],
    appends: &[i64],
    mut watermark: i64,
    judged: &mut Vec<i64>,
) -> Option<(i64, i64)> {
    let (first, last) = (*appends.first()?, *appends.last()?);
    debug_assert!(appends.is_sorted(), "append times never fall within a shard");
    let latest = times.iter().fold(NEVER, |a, b| a.max(*b));
    let future_from = match spec.future_max_ns {
        0 => i64::MAX,
        max => first.saturating_mul(1_000).saturating_add(max),
    };
    if last.saturating_sub(first) > silence_max_us || latest > future_from {
        return None;
    }
    judged.extend(times.iter().map(|time| {
        let before = watermark;
        watermark = watermark.max(time.saturating_sub(spec.delay_ns));
        before
    }));
    Some((watermark, latest))
}

impl Judge {
    /// `None` where the source judges nothing.
    ///
    /// # Errors
    /// [`OpError::Plan`] when keys have types that cannot be keys.
    pub fn of(source: &SourceSpec, order: ReplayOrder) -> Result<Option<Self>, OpError> {
        let Some(spec) = source.watermark.clone() else { return Ok(None) };
        let keys = spec.partition.clone().map(|p| Keys::new(p, &source.schema)).transpose()?;
        let unordered = order == ReplayOrder::EventTime;
        Ok(Some(Judge {
            sides: vec![Side { spec, schema: source.output_schema(), unordered, future_rows: 0 }],
            shards: BTreeMap::new(),
            watermark: NEVER,
            told: NEVER,
            unordered,
            last_append: NEVER,
            greatest: NEVER,
            keys,
            all_keys: None,
        }))
    }

    /// Judges the rows of another source as well, with the same delays and timeouts; gives its side.
    ///
    /// # Errors
    /// [`OpError::Plan`] where it has other keys.
    pub fn join(&mut self, source: &SourceSpec) -> Result<usize, OpError> {
        let plan = |reason: &str| OpError::Plan { operator: NAME, reason: reason.into() };
        let spec = source.watermark.clone().ok_or_else(|| plan("a source that is not judged"))?;
        match (&mut self.keys, spec.partition.clone()) {
            (None, None) => {}
            (Some(keys), Some(partition)) => keys.join(partition, &source.schema)?,
            _ => return Err(plan("watermarks of keys in one source only")),
        }
        let (schema, unordered) = (source.output_schema(), self.unordered);
        self.sides.push(Side { spec, schema, unordered, future_rows: 0 });
        Ok(self.sides.len() - 1)
    }

    /// The rows of a side with the watermark each is judged by.
    pub fn rows(&mut self, side: usize, batch: &RecordBatch) -> Result<RecordBatch, OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        let n = batch.num_rows();
        let times = self.sides[side]
            .spec
            .time
            .evaluate(batch)
            .and_then(|v| v.into_array(n))
            .map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })?;
        let shards = batch
            .column(self.sides[side].spec.shard)
            .as_primitive_opt::<Int32Type>()
            .ok_or_else(|| plan("the shard of a row is int32".into()))?
            .values();
        if let Some(row) = (times.null_count() > 0).then(|| (0..n).find(|i| times.is_null(*i))).flatten() {
            return Err(OpError::Row {
                reason: format!(
                    "a row of shard {} has no event time ({} is NULL); filter such rows out before the window",
                    shards[row], self.sides[side].spec.time
                ),
            });
        }
        let times =
            nanos(&times).ok_or_else(|| plan(format!("event time is {}, no time", times.data_type())))?;
        let appends = batch
            .column(self.sides[side].spec.append_time)
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| plan("append times are microseconds".into()))?
            .values();
        let mut judged = Vec::with_capacity(n);
        let mut at = 0;
        while at < n {
            let shard = shards[at];
            let end = at + shards[at..].iter().take_while(|s| **s == shard).count();
            if self.unordered {
                judged.resize(end, NEVER);
                self.history((side, shard), &times[at..end], &appends[at..end]);
            } else {
                self.run((side, shard), &times[at..end], &appends[at..end], &mut judged);
            }
            at = end;
        }
        if let Some(keys) = &mut self.keys {
            let spec = &self.sides[side].spec;
            let moves = |i: usize| spec.moves_to(times[i], appends[i]);
            keys.rows(side, batch, &mut judged, &moves, self.watermark)?;
            if self.unordered {
                judged.fill(NEVER);
            }
        }
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns.push(Arc::new(Int64Array::from(judged)));
        RecordBatch::try_new(self.sides[side].schema.clone(), columns).map_err(|e| plan(e.to_string()))
    }

    /// Rows of one shard, one behind the other in log order.
    fn run(&mut self, shard: (usize, i32), times: &[i64], appends: &[i64], judged: &mut Vec<i64>) {
        let mut at = 0;
        let timeout_us = self.sides[0].spec.timeout.map_or(i64::MAX, |t| t.after_us);
        let silence_max_us = self.sides[0].spec.idle_timeout_us.min(timeout_us);
        while at < times.len() {
            self.pass(appends[at]);
            let query = self.watermark;
            let held = self.shards.entry(shard).or_insert(Shard {
                watermark: NEVER,
                last_append: appends[at],
                idle: true,
            });
            if held.idle {
                held.idle = false;
                held.watermark = held.watermark.max(query);
            }
            let (rest, appended) = (&times[at..], &appends[at..]);
            if let Some((watermark, latest)) =
                steady(&self.sides[0].spec, silence_max_us, rest, appended, held.watermark, judged)
            {
                let last = appends[appends.len() - 1];
                held.watermark = watermark;
                held.last_append = last;
                self.greatest = self.greatest.max(latest);
                self.last_append = last;
                self.merge();
                self.pass(last);
                return;
            }
            // As far as this shard does not fall idle on the way.
            let mut last = appends[at];
            let mut watermark = held.watermark;
            let mut greatest = self.greatest;
            while at < times.len() && appends[at].saturating_sub(last) <= silence_max_us {
                judged.push(watermark);
                last = appends[at];
                match self.sides[0].spec.moves_to(times[at], last) {
                    None => self.sides[shard.0].future_rows += 1,
                    Some(to) => {
                        watermark = watermark.max(to);
                        greatest = greatest.max(times[at]);
                    }
                }
                at += 1;
            }
            held.watermark = watermark;
            held.last_append = last;
            self.greatest = greatest;
            self.last_append = last;
            self.merge();
            self.pass(last);
        }
    }

    /// Rows of history by event time.
    fn history(&mut self, shard: (usize, i32), times: &[i64], appends: &[i64]) {
        let held = self.shards.entry(shard).or_insert(Shard {
            watermark: NEVER,
            last_append: i64::MIN,
            idle: false,
        });
        for (time, append) in times.iter().zip(appends) {
            held.last_append = held.last_append.max(*append);
            match self.sides[0].spec.moves_to(*time, *append) {
                None => self.sides[shard.0].future_rows += 1,
                Some(to) => {
                    held.watermark = held.watermark.max(to);
                    self.greatest = self.greatest.max(*time);
                }
            }
            self.last_append = self.last_append.max(*append);
        }
    }

    /// Append time comes to `now`: shards fall idle in their order, before the rows of that moment,
    /// and then the timeout happens.
    fn pass(&mut self, now: i64) {
        let silent = self.sides[0].spec.timeout.filter(|_| self.last_append != NEVER);
        match silent.map(|t| (t, self.last_append.saturating_add(t.after_us))) {
            Some((timeout, at)) if at < now => {
                self.pass_idle(at.saturating_add(1));
                self.last_append = NEVER;
                self.shards.values_mut().for_each(|s| s.idle = true);
                if self.greatest != NEVER {
                    self.watermark = self.watermark.max(timeout.window.closes_all(self.greatest));
                }
            }
            _ => {}
        }
        self.pass_idle(now);
    }

    fn pass_idle(&mut self, now: i64) {
        loop {
            let timeout = self.sides[0].spec.idle_timeout_us;
            let next = self
                .shards
                .values()
                .filter(|s| !s.idle)
                .map(|s| s.last_append.saturating_add(timeout))
                .filter(|at| *at < now)
                .min();
            let Some(at) = next else { return };
            for shard in self.shards.values_mut() {
                shard.idle |= shard.last_append.saturating_add(timeout) <= at;
            }
            self.merge();
        }
    }

    fn merge(&mut self) {
        if let Some(least) = self.shards.values().filter(|s| !s.idle).map(|s| s.watermark).min() {
            self.watermark = self.watermark.max(least);
        }
    }

    /// Every later row was appended after `append_us`.
    pub fn frontier(&mut self, append_us: i64) {
        if !self.unordered {
            self.pass(append_us.saturating_add(1));
        }
    }

    /// The history of a side has been read.
    pub fn end_of_backfill(&mut self, side: usize) -> Result<(), OpError> {
        self.sides[side].unordered = false;
        if self.unordered && self.sides.iter().all(|s| !s.unordered) {
            self.unordered = false;
            self.merge();
            if let Some(keys) = &mut self.keys {
                self.all_keys = keys.tell_all()?;
            }
        }
        Ok(())
    }

    /// How far keys of the last rows have come.
    pub fn tell_keys(&mut self) -> Option<RecordBatch> {
        let told = self.keys.as_mut()?.take_told();
        if self.unordered { None } else { self.all_keys.take().or(told) }
    }

    /// Keys with a watermark of their own, and the bytes they take.
    pub fn keys_held(&self) -> Option<(u64, u64)> {
        self.keys.as_ref().map(|k| (k.len() as u64, k.bytes() as u64))
    }

    /// Rows of a side so far ahead of their append time that they moved nothing.
    pub fn future_rows(&self, side: usize) -> u64 {
        self.sides[side].future_rows
    }

    /// Nothing follows from a side: it holds nobody back.
    pub fn end(&mut self, side: usize) {
        if self.sides.len() > 1 {
            self.shards.retain(|(of, _), _| *of != side);
            self.merge();
        }
    }

    /// How far each shard of a side has come, for who asks what holds the watermark back.
    pub fn shards(&self, side: usize) -> impl Iterator<Item = ShardProgress> {
        let own = self.shards.iter().filter(move |((of, _), _)| *of == side);
        own.map(|((_, shard), s)| ShardProgress {
            shard: *shard,
            watermark: s.watermark,
            last_append_us: s.last_append,
            idle: s.idle,
        })
    }

    /// The query's watermark, if it rose since it was last told.
    pub fn tell(&mut self) -> Option<WatermarkTime> {
        if self.unordered || self.watermark <= self.told {
            return None;
        }
        self.told = self.watermark;
        let lag_ns = self.keys.as_ref().map_or(0, Keys::lag_ns);
        Some(WatermarkTime(self.told.saturating_sub(lag_ns)))
    }

    pub fn save(&self, into: &mut StateWriter) {
        let mut out = Writer::default();
        out.i64(self.watermark);
        out.i64(self.told);
        out.u64(u64::from(self.unordered));
        out.i64(self.last_append);
        out.i64(self.greatest);
        out.u64(self.shards.len() as u64);
        for side in &self.sides {
            out.u64(u64::from(side.unordered));
            out.u64(side.future_rows);
        }
        for ((side, id), shard) in &self.shards {
            out.u64(*side as u64);
            out.i64(i64::from(*id));
            out.i64(shard.watermark);
            out.i64(shard.last_append);
            out.u64(u64::from(shard.idle));
        }
        if let Some(keys) = &self.keys {
            keys.save(&mut out);
        }
        into.put("judge", out.0);
    }

    pub fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let bytes = from.bytes(NAME, "judge")?;
        self.load(&mut Reader(bytes)).map_err(|e| OpError::Restore { operator: NAME, reason: e.to_string() })
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.watermark = from.i64()?;
        self.told = from.i64()?;
        self.unordered = from.u64()? == 1;
        self.last_append = from.i64()?;
        self.greatest = from.i64()?;
        self.shards.clear();
        let n = from.count(32)?;
        for side in &mut self.sides {
            side.unordered = from.u64()? == 1;
            side.future_rows = from.u64()?;
        }
        for _ in 0..n {
            let id = (from.u64()? as usize, from.i64()? as i32);
            let shard = Shard { watermark: from.i64()?, last_append: from.i64()?, idle: from.u64()? == 1 };
            self.shards.insert(id, shard);
        }
        match &mut self.keys {
            Some(keys) => keys.load(from),
            None => Ok(()),
        }
    }
}
