//! The log against a plain list: random schedules of appends, reopenings, truncations and
//! faults, and the invariants that hold whatever the disk does.
//!
//! The model is the list of acknowledged records, and the group whose outcome is unknown.

use bytes::Bytes;
use fastrand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::disk::{Fault, SimDisk};
use weir_base::{AppendTime, EventTime, ManualClock, SeqNo};
use weir_log::{
    Append, AppendError, Appended, Idempotency, LogConfig, LogCore, Progress, ReadError, Record, RecordKind,
};

pub(crate) const DIR: &str = "db/stream/0";

/// What the log was told and what it promised.
#[derive(Default)]
pub struct Model {
    /// Acknowledged records in order, also those dropped by truncation.
    pub records: Vec<Record>,
    /// The group of a failed write or sync: a prefix of it may be found.
    pub unknown: Vec<Append>,
    by_key: HashMap<(Arc<str>, u32), usize>,
    start: SeqNo,
    /// What a truncation that returned left, and what any truncation may have left.
    start_min: SeqNo,
    start_max: SeqNo,
    /// Of this handle; a reopened log may begin lower and must keep `promised`.
    frontier: Option<AppendTime>,
    promised: Option<AppendTime>,
    clock_us: i64,
    keys_made: u32,
    /// The newest progress of each writer.
    progress: HashMap<[u8; 16], Bytes>,
}

/// Small segments and index intervals, so that a short run meets every border.
pub fn small_config(rng: &mut Rng) -> LogConfig {
    LogConfig {
        segment_size_bytes_max: rng.u64(1..8) * 2048,
        segment_age_ms_max: if rng.bool() { 10_000 } else { u64::MAX },
        index_interval_bytes: rng.u64(1..6) * 256,
        record_bytes_max: 6000,
        append_time_reserve_ms: 100,
        ..LogConfig::default()
    }
}

impl Model {
    pub fn new() -> Self {
        Model { clock_us: 1_700_000_000_000_000, ..Model::default() }
    }

    fn end(&self) -> SeqNo {
        self.records.last().map_or(SeqNo(0), end_of)
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::new(ManualClock::new(self.clock_us))
    }

    /// The append with a key used before, or a new one, or none.
    pub(crate) fn make_append(&mut self, rng: &mut Rng) -> Append {
        let repeat = rng.u8(..10) == 0 && !self.by_key.is_empty();
        if repeat {
            let keyed: Vec<&Record> = self.records.iter().filter(|r| r.idempotency.is_some()).collect();
            return again(keyed[rng.usize(..keyed.len())]);
        }
        let mark = rng.u8(..8) == 0;
        // Many alike, so that what a crash left of one group could pass for the next.
        let alike = rng.bool();
        let size = match rng.u8(..8) {
            _ if alike => 700,
            0 => 0,
            1 => rng.usize(4000..5500),
            _ => rng.usize(1..400),
        };
        let mut payload = vec![0; size];
        rng.fill(&mut payload);
        let at = rng.i64(-1000..1000);
        self.keys_made += 1;
        Append {
            kind: if mark { RecordKind::MARK } else { RecordKind::ROWS },
            rows: if mark {
                0
            } else if alike {
                5
            } else {
                rng.u32(1..20)
            },
            event_min: EventTime(at),
            event_max: EventTime(at + rng.i64(0..500)),
            idempotency: (!alike && rng.u8(..3) == 0).then(|| Idempotency {
                id: format!("insert-{}", self.keys_made / 3).into(),
                record_no: self.keys_made % 3,
                content_hash: rng.u64(..),
            }),
            progress: (rng.u8(..4) == 0).then(|| {
                // Now and then a writer is forgotten, and some have much to say.
                let size = [0, 8, 40, 2_000][rng.usize(..4)];
                let bytes: Vec<u8> = (0..size).map(|_| rng.u8(..)).collect();
                Progress { writer: [rng.u8(..4); 16], bytes: bytes.into() }
            }),
            payload: payload.into(),
            attachment: None,
        }
    }

    pub(crate) fn accept(&mut self, append: Append, appended: Appended) {
        let progress = append.progress;
        let record = Record {
            kind: append.kind,
            base: appended.base,
            rows: append.rows,
            append_time: appended.append_time,
            event_min: append.event_min,
            event_max: append.event_max,
            idempotency: append.idempotency,
            payload: append.payload,
        };
        if let Some(key) = &record.idempotency {
            let known = self.by_key.get(&(key.id.clone(), key.record_no));
            assert_eq!(appended.repeated, known.is_some(), "{key:?}");
            if let Some(known) = known {
                assert_eq!(self.records[*known].base, record.base, "{key:?}");
                return;
            }
            self.by_key.insert((key.id.clone(), key.record_no), self.records.len());
        }
        match progress {
            Some(p) if p.bytes.is_empty() => self.progress.remove(&p.writer),
            Some(p) => self.progress.insert(p.writer, p.bytes),
            None => None,
        };
        assert_eq!(record.base, self.end(), "numbers are dense");
        assert!(self.promised.is_none_or(|p| record.append_time > p), "{record:?} {:?}", self.promised);
        assert!(self.records.last().is_none_or(|r| r.append_time <= record.append_time));
        self.records.push(record);
    }

    /// Appends a group; `false` when the log must be reopened.
    fn append_group(&mut self, log: &mut LogCore, appends: Vec<Append>) -> bool {
        let written = log.write_group(appends.clone());
        match written {
            Ok(results) => {
                for (append, result) in appends.into_iter().zip(results) {
                    self.accept(append, result.expect("the appends are valid"));
                }
                self.note_frontier(log);
                assert_eq!(log.durable_end(), self.end());
                true
            }
            Err(AppendError::DiskFull { .. }) => true,
            Err(AppendError::Poisoned { .. }) => false,
            Err(AppendError::Io { .. }) => {
                let known = |a: &Append| {
                    let key = a.idempotency.as_ref();
                    key.is_some_and(|k| self.by_key.contains_key(&(k.id.clone(), k.record_no)))
                };
                self.unknown = appends.into_iter().filter(|a| !known(a)).collect();
                let refused = log.write_group(vec![]);
                assert!(matches!(refused, Err(AppendError::Poisoned { .. })), "{refused:?}");
                false
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn note_frontier(&mut self, log: &LogCore) {
        let frontier = log.append_frontier();
        assert!(self.frontier.is_none_or(|f| frontier >= f), "the frontier fell");
        self.frontier = Some(frontier);
        self.promised = self.promised.max(Some(frontier));
        assert!(self.records.last().is_none_or(|r| r.append_time <= frontier));
    }

    fn truncate(&mut self, log: &mut LogCore, before: SeqNo) -> bool {
        self.start_max = self.start_max.max(before);
        match log.truncate(before) {
            Ok(()) => {
                self.start = log.start();
                self.start_min = self.start;
                true
            }
            Err(_) => false,
        }
    }

    /// Opens the log and checks everything that must hold then.
    pub fn reopen(&mut self, disk: &SimDisk, config: &LogConfig) -> Option<LogCore> {
        let log = match LogCore::open(Arc::new(disk.clone()), self.clock(), DIR, config.clone()) {
            Ok(log) => log,
            Err(e) if e.kind() == weir_base::ErrorKind::Unavailable => return None,
            Err(e) => panic!("{e}"),
        };
        self.frontier = None;
        self.check_content(&log).then_some(log)
    }

    /// Takes over what is found of the unknown group, then compares every record and seek.
    /// `false` if the disk did not let it.
    fn check_content(&mut self, log: &LogCore) -> bool {
        let start = log.start();
        assert!(start >= self.start_min && start <= self.start_max, "start {start}");
        self.start = start;
        let Some(found) = healthy(read_all(log, start)) else { return false };
        let held = self.records.partition_point(|r| end_of(r) <= start && r.rows > 0);
        let mut known: Vec<&Record> = self.records[held..].iter().skip_while(|r| r.base < start).collect();
        // A mark at the very start may have gone with the segment before it.
        while known.first().is_some_and(|r| r.rows == 0) && found.first() != known.first().copied() {
            known.remove(0);
        }
        let mut found = found.into_iter();
        for expected in &known {
            assert_eq!(found.next().as_ref(), Some(*expected), "an acknowledged record");
        }
        let extra: Vec<Record> = found.collect();
        assert!(extra.len() <= self.unknown.len(), "records nobody appended: {extra:?}");
        for (record, append) in extra.into_iter().zip(std::mem::take(&mut self.unknown)) {
            assert_eq!((&record.payload, record.rows), (&append.payload, append.rows), "whole and in order");
            let (base, rows, append_time) = (record.base, record.rows, record.append_time);
            self.accept(append, Appended { base, rows, append_time, repeated: false });
        }
        assert_eq!(log.durable_end(), self.end());
        for writer in 0..4 {
            let writer = [writer; 16];
            assert_eq!(log.progress(&writer).as_ref(), self.progress.get(&writer), "writer {writer:?}");
        }
        self.note_frontier(log);
        true
    }

    /// Random access and seeks give what the list gives.
    pub fn check_reads(&self, log: &LogCore, rng: &mut Rng) {
        let held: Vec<&Record> = self.records.iter().filter(|r| r.base >= self.start && r.rows > 0).collect();
        for record in &held {
            if rng.u8(..4) != 0 {
                continue;
            }
            let inside = record.base.plus(rng.u64(..u64::from(record.rows)));
            let Some(read) = healthy(log.read(inside, rng.usize(..3000))) else { return };
            let first = read.iter().find(|r| r.rows > 0).expect("at least one");
            assert_eq!(&first, record);
        }
        let event = EventTime(rng.i64(-1200..1700));
        let first = held.iter().find(|r| r.event_max >= event).map_or(log.durable_end(), |r| r.base);
        assert!(log.seek_event_time(event) <= first);
        if let Some(record) = held.get(rng.usize(..=held.len())) {
            let first = held.iter().find(|r| r.append_time >= record.append_time).map(|r| r.base);
            assert!(Some(log.seek_append_time(record.append_time)) <= first);
        }
        assert!(log.read(log.durable_end(), 1).unwrap().is_empty());
    }

    /// Repeats what was acknowledged and completes what is missing, then goes on.
    pub fn check_goes_on(&mut self, log: &mut LogCore, rng: &mut Rng) {
        let keyed: Vec<Append> = self.records.iter().filter(|r| r.idempotency.is_some()).map(again).collect();
        assert!(self.append_group(log, keyed), "repeats are answered");
        let count = rng.usize(1..4);
        let mut group: Vec<Append> = (0..count).map(|_| self.make_append(rng)).collect();
        // A row at the end shows the marks that waited for one.
        group.push(Append { kind: RecordKind::ROWS, rows: 1, idempotency: None, ..group[0].clone() });
        assert!(self.append_group(log, group), "appends work again");
        assert!(self.check_content(log));
        self.check_reads(log, rng);
    }
}

/// The result of a read, unless the disk failed it. Damage is a broken promise.
fn healthy<T>(read: Result<T, ReadError>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(ReadError::Io { .. }) => None,
        Err(e) => panic!("{e}"),
    }
}

fn end_of(record: &Record) -> SeqNo {
    record.base.plus(u64::from(record.rows))
}

/// The same insert once more.
pub(crate) fn again(record: &Record) -> Append {
    Append {
        kind: record.kind,
        rows: record.rows,
        event_min: record.event_min,
        event_max: record.event_max,
        idempotency: record.idempotency.clone(),
        progress: None,
        payload: Bytes::clone(&record.payload),
        attachment: None,
    }
}

/// Reads forward in small steps, as a cursor does, and the marks at the end.
pub fn read_all(log: &LogCore, from: SeqNo) -> Result<Vec<Record>, ReadError> {
    let (mut cursor, mut all) = (from, Vec::new());
    while cursor < log.durable_end() {
        let read = log.read(cursor, 700)?;
        cursor = end_of(read.last().expect("at least one record below the durable end"));
        all.extend(read);
    }
    all.extend(log.end_marks()?);
    Ok(all)
}

/// One scenario: a seeded run of everything a log does, until it ends or the disk fails.
pub fn run(disk: &SimDisk, seed: u64, steps: u32) -> (Model, LogConfig) {
    let mut rng = Rng::with_seed(seed);
    let config = small_config(&mut rng);
    let mut model = Model::new();
    run_on(disk, &mut model, &config, &mut rng, steps);
    (model, config)
}

/// Goes on with a model for some steps; stops where the disk does.
pub fn run_on(disk: &SimDisk, model: &mut Model, config: &LogConfig, rng: &mut Rng, steps: u32) {
    let Some(mut log) = model.reopen(disk, config) else { return };
    for _ in 0..steps {
        let goes_on = match rng.u8(..20) {
            0 => {
                drop(log);
                // The clock may come back wrong.
                model.clock_us += rng.i64(-1_000_000..10_000_000);
                match model.reopen(disk, config) {
                    Some(reopened) => log = reopened,
                    None => return,
                }
                true
            }
            1 => log.seal().is_ok(),
            2 => {
                let before = SeqNo(rng.u64(..=model.end().0));
                model.truncate(&mut log, before)
            }
            // Space comes back while the log is open.
            4 => {
                disk.clear_faults();
                true
            }
            3 => {
                let _ = log.extend_frontier();
                model.note_frontier(&log);
                true
            }
            _ => {
                let group = (0..rng.usize(1..5)).map(|_| model.make_append(rng)).collect();
                model.append_group(&mut log, group)
            }
        };
        if !goes_on {
            return;
        }
    }
    model.check_reads(&log, rng);
}

/// Reopens after a fault and checks; to be given to [`crate::crash::every_fault_point`].
pub fn check(disk: &SimDisk, (model, config): &mut (Model, LogConfig)) {
    let mut rng = Rng::with_seed(7);
    let mut log = model.reopen(disk, config).expect("without faults a log opens");
    model.check_goes_on(&mut log, &mut rng);
}

/// One random schedule: runs, faults and restarts in turn on one disk. Returns how many faults
/// struck.
pub fn schedule(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let config = small_config(&mut rng);
    let mut model = Model::new();
    let mut disk = SimDisk::new(seed);
    for _ in 0..rng.u32(1..4) {
        let faults = crate::crash::FAULTS;
        let fault = Fault {
            at_operation: disk.operations() + rng.u64(..30),
            kind: faults[rng.usize(..faults.len())],
        };
        disk.inject(fault);
        if rng.u8(..4) == 0 {
            disk.fail_read(disk.reads() + rng.u64(..20));
        }
        let steps = rng.u32(1..20);
        run_on(&disk, &mut model, &config, &mut rng, steps);
        disk.clear_faults();
        model.clock_us += rng.i64(-1_000_000..10_000_000);
        if disk.crashed() || rng.bool() {
            disk = disk.restart();
        }
    }
    let mut log = model.reopen(&disk, &config).expect("without faults a log opens");
    model.check_goes_on(&mut log, &mut rng);
    disk.faults_struck()
}
