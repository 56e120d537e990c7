//! Streams whose log is one in a test's hands: offsets with gaps, rows of others, power failures, a log that is
//! away or has forgotten. What is read any way is compared with what the log holds.

use super::external::{Elsewhere, START_MS, runs, server, total};
use super::{Server, table_mode};
use crate::views::wait_until;
use weir_base::Rng;

/// Seeds of random cases: `WEIR_EXTERNAL_LOG_CASES` of them from `WEIR_SEED` on.
fn seeds(cases: u64) -> std::ops::Range<u64> {
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let from = number("WEIR_SEED", 0);
    from..from + number("WEIR_EXTERNAL_LOG_CASES", cases)
}

const COLUMNS: &str = "(k int64, v int64) SETTINGS logstore='kafka', sharding_expr='k'";

/// (shard, offset, key, value) of each row, as the log holds it.
fn held(log: &Elsewhere) -> Vec<String> {
    let inner = log.lock();
    let of = |(id, messages): (usize, &Vec<super::external::Message>)| {
        messages
            .iter()
            .map(|m| format!("{id} {} {} {}", m.offset, m.rows[0].0, m.rows[0].1))
            .collect::<Vec<_>>()
    };
    inner.partitions.iter().enumerate().flat_map(of).collect()
}

const PLACES: &str = "SELECT _tp_shard, _tp_sn, k, v FROM t ORDER BY _tp_shard, _tp_sn";

/// Some rows of others, some of ours; event times that go up and down a little.
fn write(server: &Server, log: &Elsewhere, rng: &Rng, n: &mut i64) {
    if rng.below(3) == 0 {
        let count = 1 + rng.below(20) as i64;
        let (from, n_now) = (*n, *n + count);
        server.run(&format!(
            "INSERT INTO t (k, v, _tp_time) SELECT number % 5, number, to_datetime64(({START_MS} + number * 10) / 1000, 3, 'UTC') \
             FROM numbers({from}, {count})"
        ));
        *n = n_now;
        return;
    }
    for _ in 0..1 + rng.below(30) {
        let partitions = log.lock().partitions.len() as u64;
        let at = START_MS + *n * 10 - rng.below(50) as i64;
        log.append(rng.below(partitions) as usize, at, &[(*n % 5, *n, at)]);
        *n += 1;
    }
}

#[test]
fn every_way_to_read_gives_what_the_log_holds_wherever_the_power_fails() {
    for seed in seeds(6) {
        let rng = Rng::seeded(seed);
        let log = Elsewhere::log(1 + (seed as usize) % 3);
        let mut server = server(&log);
        server.run(&format!("CREATE STREAM t {COLUMNS}, flush_threshold_ms=50, flush_threshold_count=20"));
        server.run("CREATE STREAM kept (k int64, v int64) SETTINGS shards=2");
        let settings = "SETTINGS seek_to='earliest', checkpoint_interval=3600";
        server.run(&format!("CREATE MATERIALIZED VIEW keeps INTO kept AS SELECT k, v FROM t {settings}"));
        server.run(&format!(
            "CREATE MATERIALIZED VIEW counted AS SELECT k, count() AS c, sum(v) AS sv FROM t GROUP BY k EMIT ON UPDATE {settings}"
        ));
        let mut n = 0;
        for _ in 0..14 {
            write(&server, &log, &rng, &mut n);
            match rng.below(9) {
                0 => drop(server.run("SYSTEM FLUSH STREAM t")),
                1 => drop(server.run("OPTIMIZE STREAM t")),
                2 => drop(server.run("SYSTEM CHECKPOINT VIEW keeps")),
                3 => drop(server.run("SYSTEM CHECKPOINT VIEW counted")),
                4 | 5 => {
                    server.power_fails();
                    runs(&server);
                }
                _ => {}
            }
            assert_eq!(server.rows(PLACES), held(&log), "seed {seed}");
            let rows = total(&log).len();
            assert_eq!(server.rows("SELECT count() FROM t"), [rows.to_string()], "seed {seed}");
            // Each row once, in the order of its shard.
            let mut tail = server.tail("SELECT _tp_shard, _tp_sn, k, v FROM t SETTINGS seek_to='earliest'");
            let seen = tail.take(rows);
            for shard in 0..3 {
                let of = |all: &[String]| -> Vec<String> {
                    all.iter().filter(|l| l.starts_with(&format!("{shard} "))).cloned().collect()
                };
                assert_eq!(of(&seen), of(&held(&log)), "seed {seed}");
            }
        }
        for view in ["keeps", "counted"] {
            server.run(&format!("SYSTEM SYNC VIEW {view}"));
        }
        let expected: Vec<String> = total(&log).iter().map(|(k, v)| format!("{k} {v}")).collect();
        assert_eq!(server.rows("SELECT k, v FROM kept ORDER BY k, v"), expected, "seed {seed}");
        let bounded = server.rows("SELECT k, count(), sum(v) FROM t GROUP BY k ORDER BY k");
        assert_eq!(server.rows("SELECT k, max(c), max(sv) FROM counted GROUP BY k ORDER BY k"), bounded);
        assert_eq!(server.rows("SELECT count() FROM system.parts WHERE table = 't'").len(), 1);
    }
}

#[test]
fn windows_are_the_same_live_and_over_history() {
    let log = Elsewhere::log(1);
    let server = server(&log);
    server.run(&format!("CREATE STREAM t {COLUMNS}"));
    let windows = "SELECT window_start, count(), sum(v) FROM tumble(t, 100ms) GROUP BY window_start";
    let mut live = server.tail(windows);
    for n in 0..200 {
        log.append(0, START_MS + n * 10, &[(n, n, START_MS + n * 10)]);
    }
    let seen = live.take(18);
    drop(live);
    let bounded = server.rows(&format!("{windows} ORDER BY window_start"));
    assert_eq!(seen, bounded[..18]);
    server.run("SYSTEM FLUSH STREAM t");
    let mut again = server.tail(&format!("{windows} SETTINGS seek_to='earliest'"));
    assert_eq!(again.take(18), seen);
}

#[test]
fn a_log_that_is_away_or_has_forgotten_is_said() {
    let log = Elsewhere::log(1);
    let mut server = server(&log);
    server.run(&format!("CREATE STREAM t {COLUMNS}"));
    server.run("INSERT INTO t (k, v) VALUES (1, 1), (2, 2)");
    server.run("SYSTEM FLUSH STREAM t");
    server.run("INSERT INTO t (k, v) VALUES (3, 3)");
    log.change(|inner| inner.away = true);
    server.power_fails();
    let e = server.error("SELECT count() FROM t");
    assert!(e.code.number() == 210 && e.message.contains("nobody answers"), "{e}");
    let e = server.execute(&mut table_mode(), "INSERT INTO t (k, v) VALUES (4, 4)").map(|_| ()).unwrap_err();
    assert!(e.message.contains("nobody answers"), "{e}");
    wait_until("system.shards says it", || {
        server.rows("SELECT log_error FROM system.shards WHERE table = 't'") == ["nobody answers"]
    });
    // Its retention removes what this server has not read, and something comes.
    log.append(0, START_MS, &[(5, 5, START_MS)]);
    log.change(|inner| {
        inner.first = inner.partitions[0][3].offset;
        inner.away = false;
    });
    wait_until("it is read on", || {
        server.try_rows("SELECT k FROM t ORDER BY k").is_ok_and(|k| k == ["1", "2", "5"])
    });
    let lost = server.rows("SELECT dropped_rows > 0, log_error FROM system.shards WHERE table = 't'");
    assert_eq!(lost, ["true NULL"]);
}

#[test]
fn what_waits_for_parts_is_bounded() {
    let log = Elsewhere::log(1);
    let server = server(&log);
    // Nothing is due by rows or age.
    server.run(&format!(
        "CREATE STREAM t {COLUMNS}, flush_threshold_bytes=65536, flush_threshold_count=100000000, flush_threshold_ms=3600000"
    ));
    let rows = 20_000;
    for n in 0..rows {
        log.append(0, START_MS, &[(n, n, START_MS)]);
    }
    assert_eq!(server.rows("SELECT count(), sum(v) FROM t"), [format!("{rows} {}", rows * (rows - 1) / 2)]);
    let most = server
        .rows("SELECT max(uncommitted_bytes) < 200000, max(parts) > 1 FROM system.shards WHERE table = 't'");
    assert_eq!(most, ["true true"]);
    // A query that holds on to what it began with holds up nobody.
    let mut tail = server.tail("SELECT k FROM t");
    log.append(0, START_MS, &[(-1, 0, START_MS)]);
    assert_eq!(tail.take(1), ["-1"]);
}

#[test]
fn a_view_into_such_a_stream_writes_each_row_once_wherever_the_power_fails() {
    for seed in seeds(4) {
        let rng = Rng::seeded(seed ^ 0x5eed);
        let log = Elsewhere::log(2);
        let mut server = server(&log);
        server.run("CREATE STREAM source (k int64, v int64) SETTINGS shards=2");
        server.run(&format!("CREATE STREAM t {COLUMNS}, flush_threshold_ms=50"));
        server.run(
            "CREATE MATERIALIZED VIEW v INTO t AS SELECT k, v FROM source SETTINGS checkpoint_interval=3600",
        );
        let mut n = 0;
        for _ in 0..10 {
            let count = 1 + rng.below(40);
            server.run(&format!(
                "INSERT INTO source (k, v) SELECT number % 5, number FROM numbers({n}, {count}) SETTINGS max_insert_block_size=7"
            ));
            n += count;
            match rng.below(3) {
                0 => drop(server.run("SYSTEM CHECKPOINT VIEW v")),
                1 => wait_until("something was written", || !total(&log).is_empty()),
                _ => {}
            }
            server.power_fails();
            runs(&server);
        }
        server.run("SYSTEM SYNC VIEW v");
        let expected: Vec<String> = (0..n).map(|v| format!("{} {v}", v % 5)).collect();
        assert_eq!(server.rows("SELECT k, v FROM t ORDER BY v"), expected, "seed {seed}");
        assert_eq!(server.rows("SELECT count() FROM t WHERE _tp_shard != k % 2"), ["0"]);
        assert_eq!(server.rows(PLACES), held(&log));
    }
}

#[test]
fn a_log_that_is_another_one_now_is_no_answer() {
    let log = Elsewhere::log(1);
    let server = server(&log);
    server.run(&format!("CREATE STREAM t {COLUMNS}"));
    server.run("INSERT INTO t (k, v) VALUES (1, 1), (2, 2), (3, 3)");
    server.run("SYSTEM FLUSH STREAM t");
    // Somebody has removed the topic and made it anew.
    log.change(|inner| inner.partitions[0].clear());
    log.append(0, START_MS, &[(4, 4, START_MS)]);
    wait_until("queries say so", || {
        server
            .try_rows("SELECT k FROM t")
            .is_err_and(|e| e.code.number() == 210 && e.message.contains("is not there"))
    });
    let said = server.rows("SELECT log_error LIKE '%is not there%' FROM system.shards WHERE table = 't'");
    assert_eq!(said, ["true"]);
}

#[test]
fn a_seek_by_time_is_early_or_right_and_never_late() {
    let log = Elsewhere::log(1);
    let server = server(&log);
    server.run(&format!("CREATE STREAM t {COLUMNS}"));
    for n in 0..3 {
        server.run(&format!(
            "INSERT INTO t (k, v, _tp_time) SELECT number, number, to_datetime64(({START_MS} + number * 1000) / 1000, 3, 'UTC') \
             FROM numbers({}, 10)",
            n * 10
        ));
        if n == 0 {
            server.run("SYSTEM FLUSH STREAM t");
        }
    }
    for at in [5, 15, 20, 29] {
        let mut tail =
            server.tail(&format!("SELECT k FROM t SETTINGS seek_to='2026-01-01 00:00:{at:02}.000'"));
        let first: i64 = tail.take(1)[0].parse().unwrap();
        assert!(first <= at, "{at}: begins at {first}");
        let rest: Vec<String> = (first + 1..30).map(|k| k.to_string()).collect();
        assert_eq!(tail.take(rest.len()), rest, "{at}");
    }
}
