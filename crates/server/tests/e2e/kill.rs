//! kill -9 under load: what was acknowledged is there, once; each record is whole or absent; a
//! tail that resumes by sequence number misses nothing; a repeat with the same id adds nothing.
//!
//! `WEIR_KILL_CYCLES` sets the number of kills (default 20), `WEIR_SEED` the seed.

use crate::process::Server;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const WRITERS: u64 = 4;
const ROWS_A_RECORD: u64 = 20;

/// What the writers know: per writer, acknowledged inserts and those whose end is unknown.
#[derive(Default)]
struct Notes {
    acknowledged: BTreeSet<(u64, u64)>,
    unknown: BTreeSet<(u64, u64)>,
}

fn body(writer: u64, insert: u64) -> String {
    (0..ROWS_A_RECORD).map(|i| format!("{writer},{insert},{i}\n")).collect()
}

fn insert(server: &crate::http::Door, writer: u64, number: u64) -> bool {
    let settings = format!("&idempotent_id=w{writer}-{number}");
    server
        .insert("INSERT INTO s (writer, number, i) FORMAT CSV", &settings, body(writer, number).as_bytes())
        .is_ok()
}

#[test]
fn acknowledged_rows_survive_kill_9() {
    let env =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (cycles, seed) = (env("WEIR_KILL_CYCLES", 20), env("WEIR_SEED", 1));
    println!("kill -9: {cycles} cycles, seed {seed}");
    let mut random = fastrand(seed);
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (writer uint64, number uint64, i uint64) SETTINGS flush_threshold_ms=50, flush_threshold_count=200");
    server.stop();

    let notes = Arc::new(Mutex::new(Notes::default()));
    let next_number: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let next_number = Arc::new(next_number);
    let mut tail_seen: u64 = 0;
    for cycle in 0..cycles {
        let server = Server::start(dir.path());
        repeat_unknown(&server, &mut notes.lock().unwrap());
        let enough = 3 + random() % 60;
        let (dying, killed) = (AtomicBool::new(false), AtomicBool::new(false));
        let done = AtomicU64::new(0);
        let (table, streaming) = (server.table.clone(), server.streaming.clone());
        let (notes_now, numbers) = (notes.clone(), next_number.clone());
        tail_seen = std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (table, notes, numbers, dying, killed, done) =
                    (table.clone(), &notes_now, &numbers, &dying, &killed, &done);
                scope.spawn(move || {
                    while !killed.load(Ordering::SeqCst) {
                        let number = numbers[writer as usize].fetch_add(1, Ordering::SeqCst);
                        let acknowledged = insert(&table, writer, number);
                        let mut notes = notes.lock().unwrap();
                        if acknowledged { &mut notes.acknowledged } else { &mut notes.unknown }
                            .insert((writer, number));
                        done.fetch_add(1, Ordering::SeqCst);
                        // What nobody took would be repeated first, and push out the ids of what was taken.
                        if !acknowledged && dying.load(Ordering::SeqCst) {
                            return;
                        }
                    }
                });
            }
            let tail = scope.spawn(|| {
                let sql = format!("SELECT _tp_sn FROM s WHERE _tp_sn >= {tail_seen} SETTINGS seek_to='{tail_seen}' FORMAT TSV");
                let mut next = tail_seen;
                if let Ok(mut rows) = streaming.follow(&sql) {
                    while let Ok(Some(line)) = rows.line() {
                        let Ok(sn) = line.parse::<u64>() else { break };
                        assert_eq!(sn, next, "cycle {cycle}: the tail skips or repeats a row");
                        next += 1;
                    }
                }
                next
            });
            while done.load(Ordering::SeqCst) < enough {
                std::thread::yield_now();
            }
            dying.store(true, Ordering::SeqCst);
            server.kill();
            killed.store(true, Ordering::SeqCst);
            tail.join().unwrap()
        });
    }

    let server = Server::start(dir.path());
    let mut notes = notes.lock().unwrap();
    let before = check(&server, &notes);
    assert!(tail_seen <= before, "the tail saw {tail_seen} rows, only {before} are there");
    repeat_unknown(&server, &mut notes);
    // Well within the ids that are remembered: repeats of what was acknowledged add nothing.
    for (writer, number) in notes.acknowledged.iter().rev().take(50) {
        assert!(insert(&server.table, *writer, *number), "repeat of {writer}/{number}");
    }
    let rows = check(&server, &notes);
    println!("{} inserts acknowledged, {rows} rows", notes.acknowledged.len());
    assert_eq!(rows, notes.acknowledged.len() as u64 * ROWS_A_RECORD);
}

/// What a client does that never heard: it sends the same rows under the same id again.
fn repeat_unknown(server: &Server, notes: &mut Notes) {
    for (writer, number) in std::mem::take(&mut notes.unknown) {
        assert!(insert(&server.table, writer, number), "repeat of {writer}/{number}");
        notes.acknowledged.insert((writer, number));
    }
}

/// Every acknowledged insert is there whole and once; what else is there is whole, once and was
/// asked for. Returns the number of rows.
fn check(server: &Server, notes: &Notes) -> u64 {
    let text = server.query("SELECT writer, number, count(), uniq_exact(i), uniq_exact(_tp_sn) FROM table(s) GROUP BY writer, number");
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let v: Vec<u64> = line.split('\t').map(|v| v.parse().unwrap_or_else(|_| panic!("{line}"))).collect();
        assert_eq!(&v[2..], [ROWS_A_RECORD; 3], "writer {} insert {}: torn or doubled", v[0], v[1]);
        found.insert((v[0], v[1]), v[2]);
    }
    for id in &notes.acknowledged {
        assert!(found.contains_key(id), "acknowledged insert {id:?} is lost");
    }
    for id in found.keys() {
        assert!(notes.acknowledged.contains(id) || notes.unknown.contains(id), "{id:?} came from nowhere");
    }
    let rows = found.values().sum();
    assert_eq!(
        server.query("SELECT count(), max(_tp_sn) + 1 FROM table(s)"),
        format!("{rows}\t{rows}\n"),
        "numbers are dense"
    );
    rows
}

/// A small generator of its own (SplitMix64), so that a seed means the same for ever.
pub fn fastrand(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
