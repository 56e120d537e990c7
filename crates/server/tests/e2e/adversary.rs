//! Queries and rows made to hold everything: what is held is bounded, what is said is clear, and neighbours go on.

use crate::http::Answer;
use crate::life::wait_until;
use crate::process::Server;
use std::io::Read;
use std::path::Path;

/// Of 64 MiB a quarter is what the process takes by itself.
const LIMIT_BYTES: u64 = 48 << 20;
/// Their state is about twice the limit.
const KEYS: u64 = 3_000_000;

fn metric(server: &Server, name: &str) -> u64 {
    let text = server.query(&format!("SELECT value FROM system.metrics WHERE name = '{name}'"));
    text.trim().parse().unwrap_or_else(|_| panic!("{name}: {text:?}"))
}

/// The id of the query that holds this text, once it runs.
fn id_of(server: &Server, marker: &str) -> String {
    let sql = format!(
        "SELECT query_id FROM system.queries WHERE state = 'Running' AND query LIKE '%{marker}%' AND query NOT LIKE '%system.%'"
    );
    wait_until("the query runs", || !server.query(&sql).is_empty());
    server.query(&sql).trim().to_owned()
}

fn spilled_files(dir: &Path) -> usize {
    let queries = std::fs::read_dir(dir.join("spill")).into_iter().flatten().flatten();
    queries.filter_map(|q| std::fs::read_dir(q.path()).ok()).map(Iterator::count).sum()
}

/// Another query of the server, whose answer is known after each row.
struct Neighbour {
    answer: Answer,
    rows: u64,
}

impl Neighbour {
    fn start(server: &Server) -> Neighbour {
        server.query("CREATE STREAM calm (k string, v uint64)");
        let sql = "SELECT k, count(), sum(v) FROM calm GROUP BY k EMIT ON UPDATE FORMAT TSV";
        Neighbour { answer: server.streaming.follow(sql).unwrap(), rows: 0 }
    }

    fn still_right(&mut self, server: &Server) {
        self.rows += 1;
        server.query(&format!("INSERT INTO calm (k, v) VALUES ('a', {})", self.rows));
        let sum = self.rows * (self.rows + 1) / 2;
        assert_eq!(self.answer.line().unwrap(), Some(format!("a\t{}\t{sum}", self.rows)));
    }
}

/// Reads `key, count` lines until each of the keys has come, once.
fn each_key_once(answer: &mut Answer, mut between: impl FnMut()) {
    let (mut rows, mut sum, mut line) = (0, 0, Vec::new());
    let mut bytes = vec![0; 1 << 20];
    while rows < KEYS {
        let n = answer.read(&mut bytes).unwrap();
        assert!(n > 0, "ended after {rows} rows");
        for b in &bytes[..n] {
            if *b != b'\n' {
                line.push(*b);
                continue;
            }
            let text = std::str::from_utf8(&line).unwrap();
            let (key, count) = text.split_once('\t').unwrap_or_else(|| panic!("{text}"));
            assert_eq!(count, "1", "of key {key}");
            sum += key.parse::<u64>().unwrap();
            rows += 1;
            line.clear();
        }
        between();
    }
    assert_eq!((rows, sum), (KEYS, KEYS * (KEYS - 1) / 2));
}

/// What a streaming query says that must end with an error.
fn cut_with(server: &Server, sql: &str) -> String {
    let mut answer = server.streaming.follow(sql).unwrap();
    let mut said = String::new();
    loop {
        match answer.line() {
            Ok(Some(line)) => said.push_str(&line),
            Ok(None) => panic!("ended without an error: {said}"),
            Err(_) => return said,
        }
    }
}

#[test]
fn keys_that_never_repeat_take_no_more_than_the_limit_and_give_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--memory-limit", "64MiB"]);
    server.query("CREATE STREAM keys (k uint64)");
    // Blocks that fit such a limit.
    server.query(&format!(
        "INSERT INTO keys (k) SELECT number FROM numbers({KEYS}) SETTINGS max_insert_block_size = 65536"
    ));
    server.query("SYSTEM FLUSH STREAM keys");
    let mut neighbour = Neighbour::start(&server);
    neighbour.still_right(&server);
    let given_back = |what: &str| {
        wait_until(&format!("{what} has given its memory back"), || {
            metric(&server, "weir_memory_used_bytes") < LIMIT_BYTES / 8
        });
        wait_until("nothing is left on disk", || spilled_files(dir.path()) == 0);
    };
    given_back("the insert");

    // What can spill does, and gives what it would have given.
    let sql =
        "SELECT k, count() FROM keys GROUP BY k EMIT PERIODIC 1h SETTINGS seek_to = 'earliest' FORMAT TSV";
    let mut spills = server.streaming.follow(sql).unwrap();
    wait_until("it spills", || spilled_files(dir.path()) > 0);
    each_key_once(&mut spills, || neighbour.still_right(&server));
    drop(spills);
    given_back("what spilled");

    // What can not, one group of all rows, ends, says why, and leaves the others alone; also under a limit of its own.
    for (limit, setting) in [(LIMIT_BYTES, ""), (8_000_000, ", max_memory_usage = 8000000")] {
        let said = cut_with(
            &server,
            &format!(
                "SELECT group_array(k), group_array(to_string(k)), uniq_exact(k) FROM keys EMIT ON UPDATE SETTINGS seek_to = 'earliest'{setting} FORMAT TSV"
            ),
        );
        for wanted in ["Code: 241", "Aggregate", &format!("limit of {limit} bytes"), "raise max_memory_usage"]
        {
            assert!(said.contains(wanted), "{wanted} is not in: {said}");
        }
        given_back("what was refused");
        neighbour.still_right(&server);
    }

    assert!(metric(&server, "weir_memory_peak_bytes") <= LIMIT_BYTES);
    assert_eq!(server.query("SELECT count() FROM table(keys)"), format!("{KEYS}\n"));
}

#[test]
fn a_row_dated_2099_is_in_its_window_and_moves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM w (x int32)");
    let sql = "SELECT window_start, count(), 'in_2099' FROM tumble(w, 1s) GROUP BY window_start FORMAT TSV";
    let mut windows = server.streaming.follow(sql).unwrap();
    let id = id_of(&server, "in_2099");
    for time in ["2026-01-01 00:00:00", "2099-01-01 00:00:00", "2026-01-01 00:00:01", "2026-01-01 00:00:02"] {
        server.query(&format!("INSERT INTO w (x, _tp_time) VALUES (1, '{time}')"));
    }
    assert_eq!(windows.line().unwrap().as_deref(), Some("2026-01-01 00:00:00.000\t1\tin_2099"));
    assert_eq!(windows.line().unwrap().as_deref(), Some("2026-01-01 00:00:01.000\t1\tin_2099"));
    server.query(&format!("SYSTEM SYNC QUERY '{id}'"));
    let sums = "SELECT watermark, future_rows, late_rows, keys FROM system.queries WHERE query_id";
    assert_eq!(server.query(&format!("{sums} = '{id}'")), "2026-01-01 00:00:02.000\t1\t0\t2\n");
    assert_eq!(metric(&server, "weir_future_rows_total"), 1);
    let why = server.query(&format!("EXPLAIN WHY '{id}'"));
    assert!(why.contains("future") || why.contains("ahead"), "{why}");
    server.query(&format!("SYSTEM DRAIN QUERY '{id}'"));
    assert_eq!(windows.line().unwrap().as_deref(), Some("2026-01-01 00:00:02.000\t1\tin_2099"));
    assert_eq!(windows.line().unwrap().as_deref(), Some("2099-01-01 00:00:00.000\t1\tin_2099"));
    assert_eq!(windows.line().unwrap(), None);
}

#[test]
fn a_shard_that_falls_silent_lets_windows_close() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM w (shard uint8) SETTINGS shards = 2, sharding_expr = 'shard'");
    let sql = "SELECT window_start, count(), 'silent' FROM tumble(w, 1s) GROUP BY window_start FORMAT TSV";
    let mut windows = server.streaming.follow(sql).unwrap();
    let id = id_of(&server, "silent");
    // Rows of two shards are told apart by the clock.
    let insert = |shard: u8, second: u32| {
        server.query("SYSTEM CLOCK ADVANCE 1ms");
        server.query(&format!(
            "INSERT INTO w (shard, _tp_time) VALUES ({shard}, '2026-01-01 00:00:{second:02}')"
        ));
    };
    insert(1, 0);
    insert(0, 0);
    insert(0, 2);
    server.query("SYSTEM CLOCK ADVANCE 1ms");
    server.query(&format!("SYSTEM SYNC QUERY '{id}'"));
    let sums = format!("SELECT watermark, rows_out, keys FROM system.queries WHERE query_id = '{id}'");
    assert_eq!(server.query(&sums), "2026-01-01 00:00:00.000\t0\t2\n", "the other shard holds it");
    server.query("SYSTEM CLOCK ADVANCE 6s");
    insert(0, 3);
    assert_eq!(windows.line().unwrap().as_deref(), Some("2026-01-01 00:00:00.000\t2\tsilent"));
    assert_eq!(windows.line().unwrap().as_deref(), Some("2026-01-01 00:00:02.000\t1\tsilent"));
    // Its next row is judged by where the query has come to.
    insert(1, 1);
    server.query("SYSTEM CLOCK ADVANCE 1ms");
    server.query(&format!("SYSTEM SYNC QUERY '{id}'"));
    assert_eq!(metric(&server, "weir_late_rows_total"), 1);
}

/// Lines until the answer ends: how many, and the sum of their second column.
fn lines_and_counts(mut answer: Answer) -> (u64, u64) {
    let mut sums = (0, 0);
    while let Some(line) = answer.line().unwrap() {
        let count = line.split('\t').nth(1).and_then(|n| n.parse::<u64>().ok());
        sums = (sums.0 + 1, sums.1 + count.unwrap_or_else(|| panic!("{line}")));
    }
    sums
}

#[test]
fn the_least_windows_over_a_year_and_a_thousand_a_row_hold_little() {
    const ROWS: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--memory-limit", "64MiB", "--test-clock"]);
    let mut neighbour = Neighbour::start(&server);
    server.query("CREATE STREAM year (t datetime64(9), v uint64)");
    let step_ns = 365 * 86_400 * 1_000_000_000 / ROWS;
    server.query(&format!(
        "INSERT INTO year (t, v) SELECT from_unix_timestamp64_nano(to_int64(1700000000000000000 + number * {step_ns})), number FROM numbers({ROWS})"
    ));
    server.query("CREATE STREAM seconds (v uint64)");
    server.query(&format!(
        "INSERT INTO seconds (_tp_time, v) SELECT from_unix_timestamp64_milli(to_int64(1700000000000 + number * 1000)), number FROM numbers({ROWS})"
    ));
    // Of 1 ns each row closes the window before its own; of 1,000 a row those that the last row has not passed are open.
    for (marker, from, windows_all, counted_all, open_max) in [
        ("one_ns", "tumble(year, t, 1ns)", ROWS, ROWS, 1),
        ("hop_1000", "hop(seconds, 1s, 1000s)", ROWS + 999, 1_000 * ROWS, 1_000),
    ] {
        let sql = format!(
            "SELECT window_start, count(), sum(v), '{marker}' FROM {from} GROUP BY window_start SETTINGS seek_to = 'earliest' FORMAT TSV"
        );
        let answer = server.streaming.follow(&sql).unwrap();
        let id = id_of(&server, marker);
        let reader = std::thread::spawn(move || lines_and_counts(answer));
        server.query(&format!("SYSTEM SYNC QUERY '{id}'"));
        neighbour.still_right(&server);
        let held = server.query(&format!(
            "SELECT keys <= {open_max}, peak_memory_usage < 16000000, late_rows FROM system.queries WHERE query_id = '{id}'"
        ));
        assert_eq!(held, "true\ttrue\t0\n", "{marker}");
        // A row is worked into one pane, not into each of its windows.
        let window = format!(
            "SELECT rows_in, rows_out FROM system.query_operators WHERE query_id = '{id}' AND name = 'Window'"
        );
        assert_eq!(server.query(&window), format!("{ROWS}\t{ROWS}\n"), "{marker}");
        server.query(&format!("SYSTEM DRAIN QUERY '{id}'"));
        assert_eq!(reader.join().unwrap(), (windows_all, counted_all), "{marker}");
    }
    neighbour.still_right(&server);
    assert!(metric(&server, "weir_memory_peak_bytes") <= LIMIT_BYTES);
}
