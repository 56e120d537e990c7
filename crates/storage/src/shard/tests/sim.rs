//! A shard on the simulated disk beside a plain model: maps of what was acknowledged.
//!
//! The model knows which rows must be readable, and which may be: those of appends whose
//! outcome is unknown, those TTL may have removed, those of a truncation that failed midway.
//! Inserts with an id may be repeated at any time: what is there is answered, what is missing
//! is completed, nothing is there twice.

use crate::shard::{MergeMode, Shard, ShardSnapshot, TailCursor};
use crate::store::StreamStore;
use crate::testing::*;
use crate::{PartLayout, StorageError, StorageType, StreamOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use weir_base::disk::SimDisk;
use weir_base::{Clock, ManualClock, Rng, SeqNo};
use weir_log::{Ack, Idempotency};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Append {
        rows: i64,
    },
    /// An append with an insert id of its own.
    Insert {
        rows: i64,
    },
    /// One of the last inserts once more, as a client that did not hear does.
    Repeat {
        back: usize,
    },
    Commit,
    Merge,
    Rest,
    Retain,
    Truncate,
    AdvanceClock {
        ms: u64,
    },
    Hold,
    LetGo,
    Read,
    /// Power cut and restart.
    Crash,
    /// Restart of the process; the disk keeps what was written.
    Reopen,
}

/// Partitions that rows spread over.
const DAYS: i64 = 2;
pub const TTL_MS: i64 = 10 * DAY_MS;

pub struct Sim {
    pub disk: SimDisk,
    clock: Arc<ManualClock>,
    seed: u64,
    options: StreamOptions,
    layout: fn() -> Arc<dyn PartLayout>,
    ttl: bool,
    store: Option<Arc<StreamStore>>,
    next: i64,
    /// sn -> row number of acknowledged rows above the floor.
    acked: BTreeMap<u64, i64>,
    /// First row number and length of each append without an answer.
    unknown: Vec<(i64, i64)>,
    /// First row number and length of each insert with an id, and where it is known to lie.
    inserts: Vec<(i64, i64, Option<SeqNo>)>,
    /// All rows below may be gone, or none of them.
    maybe_floor: u64,
    floor: u64,
    held: Vec<(ShardSnapshot, BTreeMap<u64, i64>)>,
    cursor: Option<TailCursor>,
    /// Where the cursor stands in the rows it has delivered.
    delivered: BTreeSet<u64>,
    cursor_from: u64,
}

pub fn sim_options(storage_type: StorageType) -> StreamOptions {
    StreamOptions {
        storage_type,
        segment_size_bytes_max: 16 << 10,
        index_interval_bytes: 2 << 10,
        log_retention_bytes: Some(20 << 10),
        log_retention_ms: None,
        tail_ring_bytes_max: 4 << 10,
        row_group_rows_max: 64,
        part_codec: crate::Codec::Lz4,
        ..Default::default()
    }
}

fn ttl_layout() -> Arc<dyn PartLayout> {
    Arc::new(ByKey { ttl_ms: Some(TTL_MS) })
}

/// Everything small, so that few rows meet many borders.
fn dense_options(storage_type: StorageType, rng: &Rng) -> StreamOptions {
    StreamOptions {
        segment_size_bytes_max: 4 << 10,
        index_interval_bytes: 1 << 10,
        log_retention_bytes: (rng.below(3) > 0).then_some(6 << 10),
        log_retention_ms: (rng.below(3) == 0).then_some(DAY_MS as u64),
        tail_ring_bytes_max: 1 << 10,
        row_group_rows_max: 8,
        ..sim_options(storage_type)
    }
}

impl Sim {
    /// For random schedules: see [`dense_options`].
    pub fn dense(seed: u64, storage_type: StorageType, rng: &Rng) -> Sim {
        Sim { options: dense_options(storage_type, rng), ..Sim::new(seed, storage_type) }
    }

    pub fn new(seed: u64, storage_type: StorageType) -> Sim {
        let (layout, ttl): (fn() -> Arc<dyn PartLayout>, bool) = match seed % 3 {
            0 => (arrival, false),
            1 => (by_key, false),
            _ => (ttl_layout, true),
        };
        Sim {
            disk: SimDisk::new(seed),
            clock: Arc::new(ManualClock::new(NOW_MS * 1000)),
            seed,
            options: sim_options(storage_type),
            layout,
            ttl,
            store: None,
            next: 0,
            acked: BTreeMap::new(),
            unknown: Vec::new(),
            inserts: Vec::new(),
            maybe_floor: 0,
            floor: 0,
            held: Vec::new(),
            cursor: None,
            delivered: BTreeSet::new(),
            cursor_from: 0,
        }
    }

    fn shard(&self) -> Option<Arc<Shard>> {
        self.store.as_ref().map(|s| s.shards()[0].clone())
    }

    pub fn open(&mut self) -> Result<(), StorageError> {
        if self.store.is_none() {
            self.seed += 1_000;
            let ctx = context(Arc::new(self.disk.clone()), self.clock.clone(), self.seed);
            self.store = Some(open(&ctx, self.options.clone(), (self.layout)())?);
        }
        Ok(())
    }

    pub fn drop_store(&mut self) {
        self.held.clear();
        self.cursor = None;
        if let Some(store) = self.store.take() {
            // Joins the writer; its answers no longer matter.
            block_on(store.close());
        }
    }

    pub fn power_cut(&mut self) {
        self.disk.crash();
        self.drop_store();
        self.disk = self.disk.restart();
    }

    /// Runs one step. Errors are for the caller to judge; the model has taken note.
    pub fn step(&mut self, op: Op) -> Result<(), StorageError> {
        match op {
            Op::Crash => {
                self.power_cut();
                return Ok(());
            }
            Op::Reopen => {
                self.drop_store();
                return Ok(());
            }
            Op::AdvanceClock { ms } => {
                self.clock.advance(Duration::from_millis(ms));
                return Ok(());
            }
            _ => {}
        }
        self.open()?;
        let shard = self.shard().expect("opened above");
        match op {
            Op::Append { rows: n } => {
                let first = self.next;
                self.next += n;
                self.append(&shard, first, n, false)?;
            }
            Op::Insert { rows: n } => {
                let first = self.next;
                self.next += n;
                self.inserts.push((first, n, None));
                self.append(&shard, first, n, true)?;
            }
            Op::Repeat { back } => {
                if let Some(at) = self.inserts.len().checked_sub(1 + back) {
                    let (first, n, _) = self.inserts[at];
                    self.append(&shard, first, n, true)?;
                }
            }
            Op::Commit => {
                shard.commit_once()?;
            }
            Op::Merge => {
                shard.merge_once(MergeMode::Tiered)?;
            }
            Op::Rest => while shard.merge_once(MergeMode::ToRest)? {},
            Op::Retain => {
                shard.retain_once()?;
                shard.collect_garbage();
            }
            Op::Truncate => {
                let to = shard.durable_end().0;
                self.maybe_floor = to;
                shard.truncate_once()?;
                self.floor = to;
                self.acked.retain(|sn, _| *sn >= to);
            }
            Op::Hold => {
                let snapshot = shard.snapshot();
                let content = read_snapshot(&snapshot)?;
                self.held.push((snapshot, content));
            }
            Op::LetGo => {
                for (snapshot, content) in std::mem::take(&mut self.held) {
                    assert_eq!(read_snapshot(&snapshot)?, content, "a held snapshot changed");
                }
            }
            Op::Read => self.read_on(&shard, 3)?,
            Op::Crash | Op::Reopen | Op::AdvanceClock { .. } => unreachable!("handled above"),
        }
        Ok(())
    }

    fn append(&mut self, shard: &Shard, first: i64, n: i64, with_id: bool) -> Result<(), StorageError> {
        let key =
            Idempotency { id: format!("insert-{first}").into(), record_no: 0, content_hash: first as u64 };
        let batch = rows(first, n, DAYS);
        match block_on(shard.append(batch, with_id.then_some(key), Ack::Durable)) {
            Ok(done) => {
                let insert = self.inserts.iter_mut().find(|i| with_id && i.0 == first);
                let known = insert.and_then(|i| i.2.replace(done.base));
                assert!(
                    known.is_none_or(|at| done.repeated && at == done.base),
                    "the insert at {known:?}: {done:?}"
                );
                let sns = done.base.0..done.base.0 + n as u64;
                // A repeat adds nothing, also where the rows are gone by now.
                if known.is_none() && done.base.0 >= self.floor {
                    self.acked.extend(sns.zip(first..));
                }
                self.unknown.retain(|(f, _)| *f != first);
                Ok(())
            }
            Err(e) => {
                let known = self.inserts.iter().any(|i| i.0 == first && i.2.is_some());
                if !known && !self.unknown.iter().any(|(f, _)| *f == first) {
                    self.unknown.push((first, n));
                }
                Err(e)
            }
        }
    }

    fn read_on(&mut self, shard: &Arc<Shard>, batches: usize) -> Result<(), StorageError> {
        let from = self.delivered.last().map_or(self.cursor_from, |last| last + 1);
        let cursor = self.cursor.get_or_insert_with(|| shard.tail(SeqNo(from)));
        for _ in 0..batches {
            match cursor.try_next_blocking() {
                Ok(Some(tail)) => {
                    for row in 0..tail.rows() {
                        let sn = tail.sn(row).0;
                        assert!(self.delivered.last().is_none_or(|l| sn > *l), "{sn} delivered again");
                        if let Some(n) = self.acked.get(&sn) {
                            assert_eq!(number(&tail.batch, row), *n);
                        }
                        self.delivered.insert(sn);
                    }
                }
                Ok(None) => break,
                Err(StorageError::Truncated { oldest, .. })
                    if self.options.storage_type != StorageType::Hybrid =>
                {
                    // Retention of a stream without parts passed the reader, and says so.
                    self.cursor_from = oldest.0;
                    self.delivered.clear();
                    self.cursor = None;
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether TTL may have removed the row.
    fn may_be_expired(&self, n: i64) -> bool {
        self.ttl && values_of(n, DAYS).3 + TTL_MS < self.clock.now_ms()
    }

    /// Opens if need be and compares everything with the model.
    pub fn check(&mut self) -> Result<(), StorageError> {
        self.open()?;
        let shard = self.shard().expect("opened above");
        let seen = read_snapshot(&shard.snapshot())?;
        let hybrid = self.options.storage_type == StorageType::Hybrid;
        // Retention may have dropped the oldest rows of a stream without parts.
        let oldest = if hybrid { 0 } else { shard.oldest().0 };
        let cut = seen.keys().next().copied().unwrap_or(u64::MAX) >= self.maybe_floor;
        for (sn, n) in &self.acked {
            let gone = self.may_be_expired(*n) || *sn < oldest || cut && *sn < self.maybe_floor;
            match seen.get(sn) {
                Some(found) => assert_eq!(found, n, "row at {sn}"),
                None => assert!(gone, "acknowledged row {n} at {sn} is lost"),
            }
        }
        let numbers: BTreeSet<i64> = seen.values().copied().collect();
        assert_eq!(numbers.len(), seen.len(), "a row is there twice");
        // Each record whole or absent, and nothing nobody wrote.
        let mut others: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        for (sn, n) in &seen {
            assert!(*sn >= self.floor, "row {n} at {sn} was truncated");
            if self.acked.contains_key(sn) {
                continue;
            }
            let record = self.unknown.iter().position(|(first, len)| (*first..first + len).contains(n));
            let Some(record) = record else {
                assert!(*sn < self.maybe_floor, "row {n} at {sn} was never written");
                continue;
            };
            others.entry(record).or_default().push(*n);
        }
        for (record, found) in others {
            let (first, len) = self.unknown[record];
            let expired = (first..first + len).any(|n| self.may_be_expired(n));
            assert!(found.len() == len as usize || expired, "half of the record at {first}: {found:?}");
        }
        let from = if hybrid { 0 } else { shard.oldest().0 };
        let tail = read_tail(&shard, from)?;
        for (sn, n) in &seen {
            assert_eq!(tail.get(sn), Some(n), "a cursor misses {sn}");
        }
        // A cursor may meet rows in the log that TTL has removed from parts; nothing else.
        for (sn, n) in &tail {
            assert!(seen.contains_key(sn) || self.may_be_expired(*n), "a cursor sees {sn} twice or too much");
        }
        // What this run saw durable stays durable.
        for (sn, n) in seen {
            self.acked.insert(sn, n);
        }
        if cut {
            let floor = self.maybe_floor;
            self.acked.retain(|sn, _| *sn >= floor);
        }
        let acked = self.acked.values().copied().collect::<BTreeSet<_>>();
        self.unknown.retain(|(first, _)| !acked.contains(first));
        Ok(())
    }

    /// Reads the long-lived cursor to the end: nothing was left out.
    pub fn check_cursor(&mut self) -> Result<(), StorageError> {
        self.open()?;
        let shard = self.shard().expect("opened above");
        loop {
            let before = (self.delivered.len(), self.cursor_from);
            self.read_on(&shard, 1_000)?;
            if before == (self.delivered.len(), self.cursor_from) && self.cursor.is_some() {
                break;
            }
        }
        for (sn, n) in &self.acked {
            let due = *sn >= self.cursor_from.max(self.floor).max(self.maybe_floor);
            assert!(
                !due || self.delivered.contains(sn) || self.may_be_expired(*n),
                "the cursor left out {sn}"
            );
        }
        Ok(())
    }
}

/// A random step of up to so many rows; appends are the most frequent.
pub fn random_op(rng: &Rng, rows_max: u64, crashes: bool) -> Op {
    match rng.below(if crashes { 20 } else { 19 }) {
        0..3 => Op::Append { rows: 1 + rng.below(rows_max) as i64 },
        3 | 4 => Op::Insert { rows: 1 + rng.below(rows_max) as i64 },
        5 => Op::Repeat { back: rng.below(3) as usize },
        6..9 => Op::Commit,
        9 => Op::Merge,
        10 => Op::Rest,
        11 => Op::Retain,
        12 => {
            if rng.below(4) == 0 {
                Op::Truncate
            } else {
                Op::Retain
            }
        }
        13 => Op::AdvanceClock { ms: rng.below(3 * DAY_MS as u64) },
        14 => Op::Hold,
        15 => Op::LetGo,
        16 | 17 => Op::Read,
        18 => Op::Reopen,
        _ => Op::Crash,
    }
}
