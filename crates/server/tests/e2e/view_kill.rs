//! kill -9 with views: writers at full speed; a filter, a window of many keys, a count and p99 by key, a
//! view on a view; the process is killed at random moments. Nothing is lost, nothing is there twice: each
//! target equals a recomputation over its source.
//!
//! `WEIR_VIEW_KILL_CYCLES` sets the number of kills (default 10), `WEIR_SEED` the seed.

use crate::life::wait_until;
use crate::process::Server;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const WRITERS: u64 = 2;
const ROWS_AN_INSERT: u64 = 400;
const KEYS: u64 = 5_000;
const VIEWS: [&str; 4] = ["kept", "by_second", "by_key", "above"];

fn body(writer: u64, insert: u64, clock_ms: u64) -> String {
    (0..ROWS_AN_INSERT)
        .map(|i| {
            let n = (writer * 1_000_003 + insert) * ROWS_AN_INSERT + i;
            let k = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS;
            let at = clock_ms + i / 4;
            format!("{k},{},{}.{:03}\n", n % 1_000, 1_767_225_600 + at / 1_000, at % 1_000)
        })
        .collect()
}

#[test]
fn targets_of_views_equal_a_recomputation_after_kill_9() {
    let env =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (cycles, seed) = (env("WEIR_VIEW_KILL_CYCLES", 10), env("WEIR_SEED", 1));
    println!("kill -9 with views: {cycles} cycles, seed {seed}");
    let mut random = crate::kill::fastrand(seed);
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query(
        "CREATE STREAM s (k uint64, v int64) SETTINGS shards=2, flush_threshold_ms=300, flush_threshold_count=20000",
    );
    server.query("CREATE STREAM kept_rows (k uint64, v int64) SETTINGS shards=3");
    let made = [
        "CREATE MATERIALIZED VIEW kept INTO kept_rows AS SELECT k, v, _tp_time FROM s WHERE v % 3 = 0 SETTINGS checkpoint_interval=1",
        "CREATE MATERIALIZED VIEW by_second AS SELECT window_start, k, count() AS c, sum(v) AS sv FROM tumble(s, 1s) \
         GROUP BY window_start, k EMIT AFTER WATERMARK WITH DELAY 1h SETTINGS checkpoint_interval=0.3",
        "CREATE MATERIALIZED VIEW by_key AS SELECT k, count() AS c, p99(v) AS p FROM s GROUP BY k EMIT CHANGELOG \
         SETTINGS checkpoint_interval=0.5",
        "CREATE MATERIALIZED VIEW above AS SELECT k % 10 AS d, count() AS c, sum(v) AS sv FROM kept GROUP BY d \
         EMIT ON UPDATE SETTINGS checkpoint_interval=0.4",
    ];
    for sql in made {
        server.query(sql);
    }
    server.stop();

    let notes: Arc<Mutex<BTreeSet<(u64, u64)>>> = Arc::default();
    let next: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let clock_ms = Arc::new(AtomicU64::new(0));
    let send = |door: &crate::http::Door, writer: u64, number: u64, at: u64| {
        let settings = format!("&idempotent_id=w{writer}-{number}");
        let sql = "INSERT INTO s (k, v, _tp_time) FORMAT CSV";
        door.insert(sql, &settings, body(writer, number, at).as_bytes()).is_ok()
    };
    for cycle in 0..cycles {
        let server = Server::start(dir.path());
        let enough = 2 + random() % 25;
        let (killed, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let table = server.table.clone();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (table, notes, next, clock_ms, killed, done) =
                    (table.clone(), &notes, &next, &clock_ms, &killed, &done);
                scope.spawn(move || {
                    while !killed.load(Ordering::SeqCst) {
                        let number = next[writer as usize].fetch_add(1, Ordering::SeqCst);
                        let at = clock_ms.fetch_add(20, Ordering::SeqCst);
                        // What nobody heard of is sent again under its id, with the rows it had.
                        if !send(&table, writer, number, at) {
                            notes.lock().unwrap().insert((writer, number << 32 | at));
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            while done.load(Ordering::SeqCst) < enough {
                std::thread::yield_now();
            }
            server.kill();
            killed.store(true, Ordering::SeqCst);
        });
        if cycle % 3 == 2 {
            // Also amid the restart: while views restore.
            Server::start(dir.path()).kill();
        }
    }

    let server = Server::start(dir.path());
    for (writer, both) in std::mem::take(&mut *notes.lock().unwrap()) {
        assert!(send(&server.table, writer, both >> 32, both & 0xFFFF_FFFF), "a repeat is taken");
    }
    // Closes every window that the rows before lie in; inserts take shards in turn.
    for _ in 0..4 {
        server.query("INSERT INTO s (k, v, _tp_time) SELECT number, 1, to_datetime64('2026-02-01 00:00:00', 3) FROM numbers(100)");
    }
    for view in VIEWS {
        wait_until(&format!("view {view} runs"), || {
            let sql =
                format!("SELECT state, last_error FROM system.materialized_views WHERE name = '{view}'");
            let state = server.query(&sql);
            assert!(!state.starts_with("Error"), "{view}: {state}");
            state.starts_with("Running")
        });
        server.query(&format!("SYSTEM SYNC VIEW {view}"));
    }
    server.query("SYSTEM SYNC VIEW above");
    let rows = server.query("SELECT count() FROM table(s)");
    println!("{} rows", rows.trim());
    let same = |name: &str, expected: &str, got: &str| {
        let (mut expected, mut got): (Vec<String>, Vec<String>) = (
            server.query(expected).lines().map(str::to_owned).collect(),
            server.query(got).lines().map(str::to_owned).collect(),
        );
        expected.sort();
        got.sort();
        let missing = expected.iter().filter(|r| got.binary_search(r).is_err()).count();
        let first = expected.iter().zip(&got).find(|(a, b)| a != b);
        assert!(
            expected == got,
            "{name}: {} rows expected, {} there, {missing} of them missing; the first that differ: {first:?}",
            expected.len(),
            got.len()
        );
    };
    same(
        "kept",
        "SELECT k, v, _tp_time FROM table(s) WHERE v % 3 = 0",
        "SELECT k, v, _tp_time FROM table(kept)",
    );
    let before = "WHERE _tp_time < '2026-01-31 00:00:00'";
    same(
        "by_second",
        &format!(
            "SELECT window_start, k, count(), sum(v) FROM tumble(table(s), 1s) {before} GROUP BY window_start, k"
        ),
        "SELECT window_start, k, c, sv FROM table(by_second) WHERE window_start < '2026-01-31 00:00:00'",
    );
    // Its results leave every two seconds.
    wait_until("the last changes have left", || {
        server.query("SELECT sum(c * _tp_delta) FROM table(by_key)") == rows
    });
    same(
        "by_key",
        "SELECT k, count(), p99(v) FROM table(s) GROUP BY k",
        "SELECT k, c, p FROM table(by_key) GROUP BY k, c, p HAVING sum(_tp_delta) != 0",
    );
    same(
        "above",
        "SELECT k % 10 AS d, count(), sum(v) FROM table(kept) GROUP BY d",
        "SELECT d, arg_max(c, _tp_sn), arg_max(sv, _tp_sn) FROM table(above) GROUP BY d",
    );
}
