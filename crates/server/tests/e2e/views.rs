//! The life of materialized views, as a user has it.

use crate::check::Moto;
use crate::life::wait_until;
use crate::process::Server;
use crate::view_answer::{Restarted, wait_for_view};

#[test]
fn a_view_is_filled_read_in_every_way_and_goes_on_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (k string, v int64) SETTINGS shards=2");
    server.query("INSERT INTO s (k, v) VALUES ('before', 1)");
    server.query("CREATE MATERIALIZED VIEW mv AS SELECT k, v * 2 AS w FROM s WHERE v > 0");
    server.query("CREATE MATERIALIZED VIEW IF NOT EXISTS mv AS SELECT 1");
    server.query("INSERT INTO s (k, v) VALUES ('a', 1), ('b', -1), ('c', 3)");
    server.query("SYSTEM SYNC VIEW mv");
    assert_eq!(server.query("SELECT k, w FROM table(mv) ORDER BY k"), "a\t2\nc\t6\n");

    // History and then live; live alone begins after what is there.
    let streaming = server.server.as_ref().unwrap().streaming.clone();
    let mut both = streaming.follow("SELECT k FROM mv SETTINGS seek_to='earliest' FORMAT TSV").unwrap();
    let mut two = vec![both.line().unwrap().unwrap(), both.line().unwrap().unwrap()];
    two.sort();
    assert_eq!(two, ["a", "c"]);
    server.query("INSERT INTO s (k, v) VALUES ('d', 4)");
    assert_eq!(both.line().unwrap().as_deref(), Some("d"));
    drop(both);

    server.kill();
    wait_for_view(&server, "mv");
    server.query("INSERT INTO s (k, v) VALUES ('e', 5)");
    server.query("SYSTEM SYNC VIEW mv");
    assert_eq!(server.query("SELECT k, w FROM table(mv) ORDER BY k"), "a\t2\nc\t6\nd\t8\ne\t10\n");
    // `_tp_time` of a row is its source's.
    assert_eq!(
        server.query(
            "SELECT count() FROM table(s) AS s JOIN table(mv) AS m ON s.k = m.k AND s._tp_time = m._tp_time"
        ),
        "4\n"
    );
    server.query("SYSTEM PAUSE VIEW mv");
    server.query("INSERT INTO s (k, v) VALUES ('f', 6)");
    assert_eq!(server.query("SELECT state FROM system.materialized_views"), "Paused\n");
    server.query("SYSTEM RESUME VIEW mv");
    server.query("SYSTEM SYNC VIEW mv");
    assert_eq!(server.query("SELECT count() FROM table(mv)"), "5\n");
    let events = server.query("SELECT DISTINCT event FROM system.view_log");
    for event in ["Restoring", "Running", "Paused"] {
        assert!(events.lines().any(|e| e == event), "{event} among {events}");
    }
    server.query("DROP VIEW mv");
    assert_eq!(server.query("SELECT count() FROM system.materialized_views"), "0\n");
}

#[test]
fn views_over_views_and_into_streams_of_other_shards() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM s (k int32, v int64) SETTINGS shards=3");
    server.query("CREATE STREAM t (k int32, v int64) SETTINGS shards=2");
    server.query("CREATE MATERIALIZED VIEW a INTO t AS SELECT k, v FROM s WHERE v % 2 = 0");
    server.query("CREATE MATERIALIZED VIEW b AS SELECT k, v + 1 AS v FROM a");
    server.query(
        "CREATE MATERIALIZED VIEW c AS SELECT k, count() AS c, sum(v) AS s FROM b GROUP BY k EMIT CHANGELOG",
    );
    for part in 0..6 {
        server.query(&format!(
            "INSERT INTO s (k, v) SELECT number % 7, number FROM numbers({}, 100)",
            part * 100
        ));
        server.query("SYSTEM CLOCK ADVANCE 10ms");
        if part % 2 == 0 {
            server.kill();
            for view in ["a", "b", "c"] {
                wait_for_view(&server, view);
            }
        }
    }
    for view in ["a", "b", "c", "c"] {
        server.query(&format!("SYSTEM SYNC VIEW {view}"));
    }
    server.query("SYSTEM DRAIN VIEW c");
    assert_eq!(server.query("SELECT count(), sum(v) FROM table(t)"), "300\t89700\n");
    assert_eq!(server.query("SELECT count(), sum(v) FROM table(b)"), "300\t90000\n");
    assert_eq!(
        server.query("SELECT k, c, s FROM table(c) GROUP BY k, c, s HAVING sum(_tp_delta) != 0 ORDER BY k"),
        server.query("SELECT k, count(), sum(v) FROM table(b) GROUP BY k ORDER BY k")
    );
}

#[test]
fn a_row_that_fails_stops_the_view_is_skipped_or_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (k string)");
    for (view, how) in [("stops", "stop"), ("skips", "skip"), ("keeps", "dlq")] {
        server.query(&format!(
            "CREATE MATERIALIZED VIEW {view} AS SELECT cast(k, 'int64') AS n FROM s SETTINGS on_error='{how}'"
        ));
    }
    server.query("INSERT INTO s (k) VALUES ('1'), ('2'), ('three'), ('4')");
    server.query("INSERT INTO s (k) VALUES ('5'), ('six'), ('7')");
    for view in ["skips", "keeps"] {
        wait_until("bad rows are passed", || {
            server.query(&format!("SELECT count() FROM table({view})")) == "5\n"
        });
        assert_eq!(server.query(&format!("SELECT sum(n) FROM table({view})")), "19\n", "{view}");
    }
    assert_eq!(
        server.query(
            "SELECT shard, sn, row LIKE '%three%' OR row LIKE '%six%' FROM table(keeps_dlq) ORDER BY sn"
        ),
        "0\t2\ttrue\n0\t5\ttrue\n"
    );
    let state = "SELECT state, error_shard, error_sn FROM system.materialized_views WHERE name = 'stops'";
    wait_until("the view stops", || server.query(state) == "Error\t0\t2\n");
    let error = server.query("SELECT last_error FROM system.materialized_views WHERE name = 'stops'");
    assert!(error.contains("three") && error.contains("SYSTEM RECOVER VIEW"), "{error}");
    let refused = server.server.as_ref().unwrap().table.query("SYSTEM SYNC VIEW stops").unwrap_err();
    assert!(refused.text.contains("state Error"), "{refused}");
    // What was decided stays decided.
    server.kill();
    for view in ["skips", "keeps"] {
        wait_for_view(&server, view);
    }
    server.query("ALTER VIEW stops MODIFY QUERY SETTING on_error='skip'");
    server.query("SYSTEM RECOVER VIEW stops");
    wait_until("bad rows are passed", || server.query("SELECT count() FROM table(stops)") == "5\n");
    assert_eq!(server.query("SELECT count() FROM table(keeps_dlq)"), "2\n");
}

#[test]
fn what_can_be_no_view_is_refused_with_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (k string, v int64)");
    server.query("CREATE STREAM t (k string)");
    let cases = [
        ("CREATE MATERIALIZED VIEW m AS SELECT k FROM table(s)", "task"),
        ("CREATE MATERIALIZED VIEW m INTO t AS SELECT k, v FROM s", "no column v"),
        ("CREATE MATERIALIZED VIEW m INTO nowhere AS SELECT k FROM s", "nowhere"),
        ("CREATE MATERIALIZED VIEW m AS SELECT k FROM s SETTINGS replay_order='event_time'", "log order"),
        ("CREATE MATERIALIZED VIEW m INTO t AS SELECT k, count() FROM s GROUP BY k EMIT CHANGELOG", ""),
        ("CREATE MATERIALIZED VIEW s AS SELECT k FROM t", "s"),
    ];
    for (sql, says) in cases {
        let refused = server.table.query(sql).map(|_| ()).unwrap_err();
        assert!(refused.text.contains(says), "{sql}: {refused}");
    }
    server.query("CREATE MATERIALIZED VIEW m INTO t AS SELECT k FROM s");
    for sql in
        ["DROP STREAM s", "DROP STREAM t", "RENAME STREAM s TO other", "INSERT INTO m (k) VALUES ('x')"]
    {
        let refused = server.table.query(sql).map(|_| ()).unwrap_err();
        assert!(refused.text.contains("m"), "{sql}: {refused}");
    }
    let made = server.query("SHOW CREATE VIEW m");
    assert!(made.contains("CREATE MATERIALIZED VIEW") && made.contains("INTO"), "{made}");
    server.query("DROP VIEW m");
    server.query("DROP STREAM t");
}

#[test]
fn a_view_is_altered_renamed_shown_and_goes_with_its_database() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    let refused = |server: &Restarted<'_>, sql: &str, says: &str| {
        let e = server.server.as_ref().unwrap().table.query(sql).map(|_| ()).unwrap_err();
        assert!(e.text.contains(says), "{sql}: {e}");
    };
    server.query("CREATE DATABASE d");
    server.query("CREATE STREAM d.s (k string, v int64)");
    server.query("CREATE MATERIALIZED VIEW d.rows AS SELECT k, v FROM d.s WHERE v > 10 COMMENT 'large ones'");
    server.query(
        "CREATE MATERIALIZED VIEW d.sums AS SELECT k, count() AS c, sum(v) AS sv FROM d.s GROUP BY k HAVING c > 1 EMIT ON UPDATE",
    );
    server.query("INSERT INTO d.s (k, v) VALUES ('a', 1), ('b', 20), ('a', 30)");

    // Another condition of a query without state; another one above all state. What was taken in stays.
    server.query("ALTER VIEW d.rows MODIFY QUERY SELECT k, v FROM d.s WHERE v > 1000");
    server.query("SYSTEM SYNC VIEW d.sums");
    server.query(
        "ALTER VIEW d.sums MODIFY QUERY SELECT k, count() AS c, sum(v) AS sv FROM d.s GROUP BY k HAVING c > 2 EMIT ON UPDATE",
    );
    server.query("INSERT INTO d.s (k, v) VALUES ('a', 4), ('b', 5), ('b', 2000)");
    server.query("SYSTEM SYNC VIEW d.rows");
    server.query("SYSTEM SYNC VIEW d.sums");
    assert_eq!(server.query("SELECT k, v FROM table(d.rows) ORDER BY v"), "b\t20\na\t30\nb\t2000\n");
    assert_eq!(
        server.query("SELECT k, c, sv FROM table(d.sums) ORDER BY _tp_sn, k"),
        "a\t2\t31\na\t3\t35\nb\t3\t2025\n"
    );
    for (sql, says) in [
        (
            "ALTER VIEW d.sums MODIFY QUERY SELECT k, count() AS c, max(v) AS sv FROM d.s GROUP BY k EMIT ON UPDATE",
            "RENAME",
        ),
        (
            "ALTER VIEW d.sums MODIFY QUERY SELECT k, count() AS c, sum(v) AS sv FROM d.s WHERE v > 1 GROUP BY k EMIT ON UPDATE",
            "RENAME",
        ),
        ("ALTER VIEW d.rows MODIFY QUERY SELECT k, v, v + 1 AS more FROM d.s", "no column more"),
        ("CREATE MATERIALIZED VIEW d.back INTO d.s AS SELECT k, v + 1 AS v FROM d.rows", "feed itself"),
        ("ALTER VIEW d.rows MODIFY QUERY SETTING on_error='perhaps'", "stop, skip, dlq"),
        ("ALTER VIEW d.rows RESET QUERY SETTING no_such_setting", "no_such_setting"),
        ("ALTER VIEW d.s MODIFY COMMENT 'x'", "not a materialized view"),
        ("TRUNCATE STREAM d.rows", "view"),
        ("DROP DATABASE d", "CASCADE"),
        ("RENAME STREAM d.s TO d.other", "used by"),
    ] {
        refused(&server, sql, says);
    }
    server.query("ALTER VIEW d.rows MODIFY QUERY SETTING checkpoint_interval=5, on_error='skip'");
    server.query("ALTER VIEW d.rows RESET QUERY SETTING on_error");
    server.query("ALTER VIEW d.rows MODIFY COMMENT 'larger ones'");
    server.query("RENAME STREAM d.rows TO d.large");
    server.kill();
    let state = "SELECT state FROM system.materialized_views WHERE name = 'large'";
    wait_until("the renamed view runs", || server.query(state) == "Running\n");
    server.query("INSERT INTO d.s (k, v) VALUES ('c', 5000)");
    server.query("SYSTEM SYNC VIEW d.large");
    assert_eq!(server.query("SELECT count() FROM table(d.large)"), "4\n");
    assert_eq!(server.query("SHOW STREAMS FROM d"), "large\ns\nsums\n");
    assert_eq!(server.query("SHOW STREAMS FROM d SETTINGS include_internal_streams=1").lines().count(), 5);
    assert_eq!(server.query("SHOW VIEWS FROM d"), "large\nsums\n");
    let made = server.query("SHOW CREATE VIEW d.large").replace("\\n", "\n").replace("\\'", "'");
    for part in ["v > 1000", "checkpoint_interval = 5", "COMMENT 'larger ones'"] {
        assert!(made.contains(part) && !made.contains("on_error"), "{part} in {made}");
    }
    server.query("DROP VIEW d.large");
    server.query(&made);
    server.query("INSERT INTO d.s (k, v) VALUES ('d', 6000)");
    server.query("SYSTEM SYNC VIEW d.large");
    assert_eq!(server.query("SELECT k FROM table(d.large)"), "d\n");
    server.query("DROP DATABASE d CASCADE");
    assert_eq!(server.query("SELECT count() FROM system.materialized_views"), "0\n");
    server.kill();
    assert_eq!(server.query("SHOW DATABASES"), "default\nsystem\n");
    let left: Vec<_> = ["checkpoints", "streams"]
        .iter()
        .flat_map(|d| std::fs::read_dir(dir.path().join("data").join(d)).unwrap())
        .map(|e| e.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_view_waits_for_resume_where_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (v int64)");
    server.query("INSERT INTO s (v) VALUES (1)");
    server
        .query("CREATE MATERIALIZED VIEW m AS SELECT v FROM s SETTINGS pause_on_start=1, seek_to='earliest'");
    let state = "SELECT state FROM system.materialized_views";
    assert_eq!(server.query(state), "Paused\n");
    server.kill();
    assert_eq!(server.query(state), "Paused\n");
    server.query("SYSTEM RESUME VIEW m");
    server.query("SYSTEM SYNC VIEW m");
    server.query("SYSTEM PAUSE VIEW m");
    server.query("SYSTEM PAUSE MATERIALIZED VIEW m");
    assert_eq!(server.query("SELECT v FROM table(m)"), "1\n");
    let refused = server.server.as_ref().unwrap().table.query("SYSTEM CHECKPOINT VIEW m").unwrap_err();
    assert!(refused.text.contains("Paused"), "{refused}");
}

#[test]
fn what_is_paused_stays_so_until_somebody_resumes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (v int64)");
    server.query("CREATE STREAM r (v int64)");
    server.query("CREATE MATERIALIZED VIEW m AS SELECT v FROM s");
    server.query("CREATE TASK t SCHEDULE 1h INTO r AS SELECT 1 AS v");
    server.query("CREATE ALERT a BATCH 1 EVENTS CALL 'http://127.0.0.1:1/' AS SELECT v FROM s");
    let states = "SELECT state FROM system.materialized_views UNION ALL SELECT state FROM system.tasks \
                  UNION ALL SELECT state FROM system.alerts";
    let all = |server: &Restarted<'_>| {
        let mut all: Vec<String> = server.query(states).lines().map(str::to_owned).collect();
        all.sort();
        all
    };
    for what in ["VIEW m", "TASK t", "ALERT a"] {
        server.query(&format!("SYSTEM PAUSE {what}"));
    }
    server.query("INSERT INTO s (v) VALUES (1)");
    server.kill();
    assert_eq!(all(&server), ["Paused", "Paused", "Paused"]);
    server.query("ALTER VIEW m MODIFY COMMENT 'still'");
    for what in ["VIEW m", "TASK t"] {
        server.query(&format!("SYSTEM RESUME {what}"));
    }
    server.query("SYSTEM SYNC VIEW m");
    assert_eq!(server.query("SELECT v FROM table(m)"), "1\n");
    server.kill();
    wait_for_view(&server, "m");
    assert_eq!(all(&server), ["Paused", "Running", "Waiting"]);
    for (relation, says) in [("t", "read its target default.r"), ("a", "system.alerts")] {
        let query = format!("SELECT * FROM {relation}");
        let refused = server.server.as_ref().unwrap().table.query(&query).unwrap_err();
        assert!(refused.text.contains(says), "{refused}");
    }
}

#[test]
fn a_view_whose_source_is_another_one_now_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (v int64)");
    server.query("CREATE MATERIALIZED VIEW m AS SELECT v FROM s");
    server.query("INSERT INTO s (v) VALUES (1), (2), (3)");
    server.query("SYSTEM SYNC VIEW m");
    server.query("SYSTEM PAUSE VIEW m");
    server.query("DROP STREAM s SETTINGS enable_dependency_check=0");
    server.query("CREATE STREAM s (v int64)");
    server.query("INSERT INTO s (v) VALUES (4)");
    let refused = server.server.as_ref().unwrap().table.query("SYSTEM RESUME VIEW m").unwrap_err();
    assert!(refused.text.contains("another one than the view"), "{refused}");
    assert_eq!(server.query("SELECT state FROM system.materialized_views"), "Error\n");
    server.kill();
    wait_until("the view says so again", || {
        server.query("SELECT state FROM system.materialized_views") == "Error\n"
    });
}

#[test]
fn checkpoints_may_lie_in_an_object_store() {
    let Some(moto) = Moto::start() else {
        eprintln!("SKIPPED: WEIR_TEST_MOTO is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("http://127.0.0.1:{}", moto.port);
    // Any key will do there, and the path of a home is one.
    let options =
        ["--checkpoints-url", "s3://weir/ck", "--parts-endpoint", &endpoint, "--parts-key-env", "PATH"];
    let options = [&options[..], &["--parts-secret-env", "PATH"]].concat();
    let mut server = Restarted::new(dir.path(), &options);
    server.query("CREATE STREAM s (k int64)");
    server.query(
        "CREATE MATERIALIZED VIEW v AS SELECT k, count() AS c FROM s GROUP BY k EMIT ON UPDATE SETTINGS checkpoint_interval=3600",
    );
    for round in 0..3 {
        server.query("INSERT INTO s SELECT number FROM numbers(1000)");
        server.query("SYSTEM SYNC VIEW v");
        server.query("SYSTEM CHECKPOINT VIEW v");
        server.query(&format!("INSERT INTO s SELECT number FROM numbers({round})"));
        server.kill();
        wait_for_view(&server, "v");
        server.query("SYSTEM SYNC VIEW v");
        assert_eq!(
            server.query("SELECT k, max(c), count() FROM table(v) GROUP BY k ORDER BY k"),
            server.query("SELECT k, count(), count() FROM table(s) GROUP BY k ORDER BY k"),
            "round {round}"
        );
    }
    let listed = || moto.ask("GET /weir?list-type=2&prefix=ck/");
    assert!(listed().contains("/epoch-") && listed().contains("/run-"), "{}", listed());
    assert!(!dir.path().join("data/checkpoints").exists(), "none on the disk");
    server.query("DROP VIEW v");
    assert!(!listed().contains("/epoch-") && !listed().contains("/run-"), "{}", listed());
}
