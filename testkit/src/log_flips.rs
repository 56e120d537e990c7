//! One flipped bit anywhere in a log's files: detected with file and offset, or harmless.
//! Files mangled at will: never a panic, never a record that was not written.

use crate::log::{DIR, Model, again, read_all};
use fastrand::Rng;
use std::io::IoSlice;
use std::sync::Arc;
use weir_base::disk::{OpenMode, SimDisk};
use weir_base::{AppendTime, Disk, ManualClock, SeqNo};
use weir_log::{Append, AppendError, Idempotency, LogConfig, LogCore, OpenError, ReadError, Record};

/// How the flips of one run ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub refused_at_open: u64,
    pub refused_at_read: u64,
    /// The unsealed last group was cut, which nothing can tell from a crash.
    pub cut: u64,
    pub harmless: u64,
}

struct Written {
    disk: SimDisk,
    config: LogConfig,
    records: Vec<Record>,
    promised: AppendTime,
    /// What the last group may be cut to.
    cut_to: SeqNo,
}

fn write(seed: u64, sealed: bool) -> Written {
    let mut rng = Rng::with_seed(seed);
    let config = LogConfig {
        segment_size_bytes_max: 6 << 10,
        index_interval_bytes: 700,
        append_time_reserve_ms: 1_000_000,
        ..LogConfig::default()
    };
    let disk = SimDisk::new(seed);
    let clock = Arc::new(ManualClock::new(1_000_000));
    let mut log = LogCore::open(Arc::new(disk.clone()), clock.clone(), DIR, config.clone()).expect("opens");
    let mut model = Model::new();
    let mut cut_to = SeqNo(0);
    for _ in 0..14 {
        let before = log.durable_end();
        let group: Vec<Append> = (0..rng.usize(1..4)).map(|_| model.make_append(&mut rng)).collect();
        for (append, result) in group.clone().into_iter().zip(log.write_group(group).expect("writes")) {
            let appended = result.expect("valid");
            // A group of repeats alone is not written: the one before it is still the last.
            if !appended.repeated {
                cut_to = before;
            }
            model.accept(append, appended);
        }
    }
    clock.advance(std::time::Duration::from_secs(900));
    log.extend_frontier().expect("reserves");
    let promised = log.append_frontier();
    assert!(promised >= AppendTime(901_000_000));
    if sealed {
        log.seal().expect("seals");
        cut_to = log.durable_end();
    }
    assert!(log.segments().len() >= 3);
    drop(log);
    Written { disk: disk.restart(), config, records: model.records, promised, cut_to }
}

/// Flips a bit of every `stride`-th byte of every file, each on a fresh copy, and checks
/// what opening and reading give.
pub fn flip_everywhere(seed: u64, sealed: bool, stride: usize) -> Outcomes {
    let written = write(seed, sealed);
    let mut rng = Rng::with_seed(seed);
    let mut outcomes = Outcomes::default();
    for (path, len) in written.disk.files() {
        for at in (rng.u64(..stride as u64)..len).step_by(stride) {
            let bit = rng.u8(..8);
            let _seen = crate::crash::OnPanic(|| eprintln!("seed {seed}: bit {bit} of byte {at} of {path}"));
            let disk = written.disk.restart();
            disk.flip_bit(&path, at, bit).expect("the byte exists");
            check(&written, &disk, &path, len, &mut outcomes);
        }
    }
    outcomes
}

fn check(written: &Written, disk: &SimDisk, path: &str, len: u64, outcomes: &mut Outcomes) {
    // The clock is far back: only what is stored keeps append times from falling.
    let clock = Arc::new(ManualClock::new(0));
    let names_the_place = |e: &ReadError| match e {
        ReadError::Corrupt { path: found, offset, .. } => {
            assert!(found == path && *offset <= len, "{e} in {path}");
        }
        other => panic!("{other}"),
    };
    let mut log = match LogCore::open(Arc::new(disk.clone()), clock, DIR, written.config.clone()) {
        Ok(log) => log,
        Err(OpenError::Read(e)) => {
            names_the_place(&e);
            outcomes.refused_at_open += 1;
            return;
        }
        Err(other) => panic!("{other}"),
    };
    let found = match read_all(&log, log.start()) {
        Ok(found) => found,
        Err(e) => {
            names_the_place(&e);
            outcomes.refused_at_read += 1;
            return;
        }
    };
    assert_eq!(found, written.records[..found.len()], "never a wrong answer");
    if found.len() == written.records.len() {
        outcomes.harmless += 1;
    } else {
        assert!(log.durable_end() >= written.cut_to, "only the unsealed last group can go");
        outcomes.cut += 1;
    }
    let keyed = found.iter().filter(|r| r.idempotency.is_some()).map(again);
    for result in log.write_group(keyed.collect()).expect("writes") {
        assert!(result.expect("valid").repeated, "keys survive");
    }
    let other_rows = |key: &Idempotency| Idempotency { content_hash: !key.content_hash, ..key.clone() };
    let mut next = again(&found[0]);
    next.idempotency = next.idempotency.as_ref().map(other_rows);
    match log.write_group(vec![next]).expect("writes").remove(0) {
        Ok(appended) => assert!(appended.append_time > written.promised, "promises hold"),
        Err(e) => assert!(matches!(e, AppendError::IdempotencyConflict { .. }), "{e}"),
    }
}

/// Overwrites, cuts, extends and removes files of a log at random, then opens and reads it.
pub fn mangle(seed: u64) {
    let written = write(seed % 16, seed.is_multiple_of(2));
    let mut rng = Rng::with_seed(seed);
    let disk = &written.disk;
    for _ in 0..rng.u32(1..4) {
        let files = disk.files();
        let (path, len) = &files[rng.usize(..files.len())];
        let file = disk.open(path, OpenMode::ReadWrite).expect("it is listed");
        match rng.u8(..8) {
            0 => disk.remove_file(path).expect("it is listed"),
            1 => file.set_len(rng.u64(..=*len)).expect("a healthy disk"),
            2 => file.set_len(len + rng.u64(..5000)).expect("a healthy disk"),
            _ => {
                // Often a copy from elsewhere: bytes that look right in the wrong place.
                let mut bytes = vec![0; rng.usize(1..2000)];
                if rng.bool() {
                    rng.fill(&mut bytes);
                } else {
                    file.read_at(rng.u64(..=*len) / 64 * 64, &mut bytes).expect("a healthy disk");
                }
                let at = rng.u64(..=*len) / 64 * 64;
                file.write_all_at(at, &[IoSlice::new(&bytes)]).expect("a healthy disk");
            }
        }
    }
    let clock = Arc::new(ManualClock::new(0));
    let Ok(mut log) = LogCore::open(Arc::new(disk.clone()), clock, DIR, written.config.clone()) else {
        return;
    };
    let mut cursor = log.start();
    while let Ok(read) = log.read(cursor, 1000) {
        let Some(last) = read.last() else { break };
        cursor = last.base.plus(u64::from(last.rows));
        for record in &read {
            assert!(written.records.contains(record), "seed {seed}: nobody wrote {record:?}");
        }
    }
    // What was lost with whole files is lost; what is left must be usable.
    let next = Append { idempotency: None, ..again(&written.records[0]) };
    log.write_group(vec![next]).expect("a healthy disk");
}
