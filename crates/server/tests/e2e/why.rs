//! Queries that give nothing, and what the server says of them.

use crate::life::wait_until;
use crate::process::Server;

/// The id of the query that holds this text.
fn id_of(server: &Server, marker: &str) -> String {
    let sql = format!(
        "SELECT query_id FROM system.queries WHERE state = 'Running' AND query LIKE '%{marker}%' AND query NOT LIKE '%system.%'"
    );
    wait_until("the query runs", || !server.query(&sql).is_empty());
    server.query(&sql).trim().to_owned()
}

/// Waits until the first reason holds all of these.
fn why(server: &Server, id: &str, wanted: &[&str]) {
    let mut said = String::new();
    wait_until(&format!("{wanted:?} is why"), || {
        said = server.query(&format!("EXPLAIN WHY '{id}'"));
        let first = said.lines().next().unwrap_or_default();
        wanted.iter().all(|w| first.contains(w))
    });
}

#[test]
fn a_query_without_rows_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (x int32)");

    let mut filtered = server.streaming.follow("SELECT x, 'why_1' FROM s WHERE x > 100 FORMAT TSV").unwrap();
    let id = id_of(&server, "why_1");
    why(&server, &id, &["No row has come from default.s", "seek_to="]);
    server.query("INSERT INTO s (x) VALUES (1), (2)");
    why(&server, &id, &["Filter", "has let none of its 2 rows pass"]);
    server.query("INSERT INTO s (x) VALUES (101)");
    assert_eq!(filtered.line().unwrap().as_deref(), Some("101\twhy_1"));
    assert!(server.query(&format!("EXPLAIN WHY '{id}'")).contains("has left out 2 of 3 rows"));

    let missing = server.table.query("EXPLAIN WHY 'nothing'").unwrap_err();
    assert!(
        missing.text.contains("Code: 36") && missing.text.contains("no query with id nothing"),
        "{missing}"
    );
}

#[test]
fn a_window_that_waits_names_what_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM w (x int32) SETTINGS shards = 1");
    let sql = "SELECT window_start, count(), 'why_2' FROM tumble(w, 5s) GROUP BY window_start EMIT AFTER WINDOW CLOSE WITH DELAY 1s FORMAT TSV";
    let mut windows = server.streaming.follow(sql).unwrap();
    let id = id_of(&server, "why_2");
    let insert = |time: &str| server.query(&format!("INSERT INTO w (x, _tp_time) VALUES (1, '{time}')"));
    insert("2026-01-01 00:00:03");
    why(
        &server,
        &id,
        &[
            "The next window ends at 2026-01-01 00:00:05.000 UTC",
            "has been at 2026-01-01 00:00:02.000 UTC",
            "3.0 s are missing",
            "default.w must give a row with event time 2026-01-01 00:00:06.000 UTC or later",
        ],
    );
    let operators = format!(
        "SELECT name, rows_in, rows_out, keys, watermark, late_rows FROM system.query_operators WHERE query_id = '{id}' AND name IN ('Window', 'WindowAggregate', 'Source') ORDER BY node"
    );
    wait_until("the operators have the row", || {
        server.query(&operators)
            == "WindowAggregate\t1\t0\t1\t2026-01-01 00:00:02.000\t0\nWindow\t1\t1\t0\t2026-01-01 00:00:02.000\t0\nSource\t1\t1\t0\t2026-01-01 00:00:02.000\t0\n"
    });
    insert("2026-01-01 00:00:06");
    assert_eq!(windows.line().unwrap().as_deref(), Some("2026-01-01 00:00:00.000\t1\twhy_2"));
    insert("2026-01-01 00:00:04");
    insert("2026-01-01 00:00:07");
    server.query(&format!("SYSTEM SYNC QUERY '{id}'"));
    let sums = "SELECT rows_in, rows_out, late_rows, keys, watermark, behind_rows FROM system.queries WHERE query_id";
    assert_eq!(server.query(&format!("{sums} = '{id}'")), "4\t1\t1\t1\t2026-01-01 00:00:06.000\t0\n");
    assert!(
        server.query(&format!("EXPLAIN WHY '{id}'")).contains("1 rows came when the watermark had passed")
    );
    let late = "SELECT value FROM system.metrics WHERE name = 'weir_late_rows_total'";
    assert_eq!(server.query(late), "1\n");
    drop(windows);
    wait_until("the query is gone", || server.query(&format!("{sums} = '{id}'")).is_empty());
    assert_eq!(server.query(late), "1\n", "counted once");
}

#[test]
fn a_result_of_on_update_waits_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A clock that only moves when told: whatever waited for a timer would wait for ever.
    let server = Server::start_with(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM s (k string, x int32)");
    let follow = |emit: &str| {
        let sql =
            format!("SELECT k, count(), sum(x), '{}' FROM s GROUP BY k EMIT {emit} FORMAT TSV", emit.len());
        server.streaming.follow(&sql).unwrap()
    };
    let (mut update, mut event, mut changes) =
        (follow("ON UPDATE"), follow("PER EVENT"), follow("CHANGELOG ON UPDATE"));
    server.query("INSERT INTO s (k, x) VALUES ('a', 1), ('a', 2)");
    assert_eq!(update.line().unwrap().as_deref(), Some("a\t2\t3\t9"));
    assert_eq!(event.line().unwrap().as_deref(), Some("a\t1\t1\t9"));
    assert_eq!(event.line().unwrap().as_deref(), Some("a\t2\t3\t9"));
    assert_eq!(changes.line().unwrap().as_deref(), Some("a\t2\t3\t19\t1"));
    server.query("INSERT INTO s (k, x) VALUES ('a', 4)");
    assert_eq!(update.line().unwrap().as_deref(), Some("a\t3\t7\t9"));
    assert_eq!(event.line().unwrap().as_deref(), Some("a\t3\t7\t9"));
    assert_eq!(changes.line().unwrap().as_deref(), Some("a\t2\t3\t19\t-1"));
    assert_eq!(changes.line().unwrap().as_deref(), Some("a\t3\t7\t19\t1"));

    let sql = "SELECT emit_version(), count(), 'why_3' FROM s EMIT PERIODIC 10s FORMAT TSV";
    let mut periodic = server.streaming.follow(sql).unwrap();
    let id = id_of(&server, "why_3");
    server.query("INSERT INTO s (k, x) VALUES ('b', 1)");
    assert_eq!(periodic.line().unwrap().as_deref(), Some("0\t1\twhy_3"), "the first is due at once");
    server.query("INSERT INTO s (k, x) VALUES ('b', 1)");
    why(&server, &id, &["holds 1 keys; its next emission is due in 10.0 s"]);
    server.query("SYSTEM CLOCK ADVANCE 10s");
    assert_eq!(periodic.line().unwrap().as_deref(), Some("1\t2\twhy_3"));
    why(&server, &id, &["Nothing has changed since"]);
}

#[test]
fn explain_shows_what_each_node_does_with_time_and_state() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (x int32, k string)");
    let check = |sql: &str, expected: &[(&str, &str)]| {
        let text = server.streaming.query(&format!("EXPLAIN {sql}")).unwrap_or_else(|e| panic!("{sql}\n{e}"));
        let mut lines = text.lines();
        for (node, about) in expected {
            let line = lines.find(|l| l.trim_start().starts_with(node));
            let line = line.unwrap_or_else(|| panic!("no {node}, in this order, in:\n{text}"));
            assert!(line.contains(about), "{about} is not in: {line}");
        }
    };
    check(
        "SELECT window_start, k, count() FROM tumble(s, 5s) WHERE x > 1 GROUP BY window_start, k EMIT AFTER WINDOW CLOSE WITH DELAY 1s LIMIT 3",
        &[
            ("Limit: bounded", "watermark: none, state: a count"),
            (
                "WindowAggregate: unbounded",
                "watermark: closes windows, ends here, state: keys of each window until it closes, spills",
            ),
            ("Window: unbounded", "watermark: passes, state: none"),
            ("Filter: unbounded", "watermark: passes, state: none"),
            (
                "Source: unbounded",
                "- 1000 ms of the slowest shard that is not idle (after 5000 ms), state: a watermark a shard",
            ),
        ],
    );
    check(
        "SELECT k, emit_version(), sum(x) FROM s GROUP BY k EMIT ON UPDATE",
        &[
            ("EmitVersion: unbounded", "state: a count"),
            ("Aggregate: unbounded", "watermark: none, state: keys over the whole stream, spills"),
            ("Source: unbounded", "watermark: none, state: its position"),
        ],
    );
    check(
        "SELECT k, sum(x) FROM s GROUP BY k EMIT AFTER KEY EXPIRE WITH MAXSPAN 5s AND TIMEOUT 1s",
        &[
            ("Aggregate: unbounded", "state: none between batches"),
            (
                "Lives: unbounded",
                "watermark: ends here, state: rows of keys that live, spills; span 5000 ms, timeout 1000 ms",
            ),
            ("Source: unbounded", "state: a watermark a shard"),
        ],
    );
}
