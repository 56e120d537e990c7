//! Tasks and alerts, as a user has them: a clock that the test moves, a receiver behind a socket, kills.

use crate::life::wait_until;
use crate::view_answer::Restarted;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Takes calls, and answers each with the next of its statuses; 200 when there are none left.
pub struct Receiver {
    pub url: String,
    statuses: Arc<Mutex<Vec<u16>>>,
    bodies: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Receiver {
    pub fn new(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let statuses = Arc::new(Mutex::new(statuses.iter().rev().copied().collect::<Vec<_>>()));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let (next, all) = (statuses.clone(), bodies.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (next, all) = (next.clone(), all.clone());
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some(body) = request(&mut stream) {
                        let status = next.lock().unwrap().pop().unwrap_or(200);
                        all.lock().unwrap().push(body);
                        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Receiver { url, statuses, bodies }
    }

    pub fn calls(&self) -> Vec<serde_json::Value> {
        self.bodies.lock().unwrap().clone()
    }

    /// The values of a column over all calls.
    fn values(&self, column: &str) -> Vec<i64> {
        let calls = self.calls();
        let rows = calls.iter().flat_map(|c| c["rows"].as_array().unwrap());
        rows.map(|r| r[column].as_i64().unwrap_or_else(|| r[column].as_str().unwrap().parse().unwrap()))
            .collect()
    }
}

/// The body of the next request; `None` at the end.
fn request(stream: &mut BufReader<std::net::TcpStream>) -> Option<serde_json::Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    // One value, or several behind each other.
    let all = serde_json::Deserializer::from_slice(&body).into_iter();
    let mut all: Vec<serde_json::Value> = all.collect::<Result<_, _>>().expect("a body is JSON");
    Some(if all.len() == 1 { all.remove(0) } else { all.into() })
}

fn one(server: &Restarted<'_>, sql: &str) -> String {
    server.query(sql).trim().to_owned()
}

fn refused(server: &Restarted<'_>, sql: &str) -> String {
    match server.server.as_ref().unwrap().table.query(sql) {
        Ok(_) => panic!("{sql} was not refused"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_task_runs_when_it_is_due_and_once_for_what_was_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM s (k string, v int64)");
    server.query("CREATE STREAM r (k string, total int64, at datetime64(3)) SETTINGS shards=2");
    server.query(
        "CREATE TASK t SCHEDULE 1m TIMEOUT 30s INTO r COMMENT 'sums' AS \
         SELECT k, sum(v) AS total, now64(3) AS at FROM s GROUP BY k",
    );
    assert_eq!(one(&server, "SHOW TASKS"), "t");
    server.query("INSERT INTO s (k, v) VALUES ('a', 1), ('b', 2)");
    assert_eq!(one(&server, "SELECT count() FROM r"), "0");
    server.query("SYSTEM CLOCK ADVANCE 61s");
    wait_until("the first run", || one(&server, "SELECT runs FROM system.tasks") == "1");
    assert_eq!(server.query("SELECT k, total FROM r ORDER BY k"), "a\t1\nb\t2\n");
    // As of the time it was due, not of the time it ran.
    assert_eq!(one(&server, "SELECT uniq_exact(at) FROM r"), "1");
    let created = "SELECT date_diff('second', to_datetime(metadata_modification_time), to_datetime(max(at))) FROM r, \
                   (SELECT metadata_modification_time FROM system.tables WHERE name = 'r') GROUP BY metadata_modification_time";
    assert_eq!(one(&server, created), "60");

    // Five times pass while it is paused, and the server is killed.
    server.query("SYSTEM PAUSE TASK t");
    server.query("INSERT INTO s (k, v) VALUES ('a', 10)");
    server.query("SYSTEM CLOCK ADVANCE 5m");
    assert_eq!(one(&server, "SELECT state, runs FROM system.tasks"), "Paused\t1");
    server.query("SYSTEM RESUME TASK t");
    wait_until("what was missed", || one(&server, "SELECT runs FROM system.tasks") == "2");
    assert_eq!(
        server.query("SELECT k, max(total), count() FROM r GROUP BY k ORDER BY k"),
        "a\t11\t2\nb\t2\t2\n"
    );
    server.kill();
    // The clock of a new server stands where this machine's does: before the last run, or not far behind it.
    assert_eq!(one(&server, "SELECT count() FROM r"), "4");
    let text = one(&server, "SHOW CREATE TASK t");
    assert!(
        text.starts_with("CREATE TASK default.t SCHEDULE 1m TIMEOUT 30s INTO default.r COMMENT"),
        "{text}"
    );

    for (sql, says) in [
        ("DROP STREAM r", "is used by default.t"),
        ("DROP STREAM s", "is used by default.t"),
        ("CREATE TASK t SCHEDULE 1m INTO r AS SELECT 1 AS total", "exists already"),
        ("CREATE TASK u SCHEDULE 1ms INTO r AS SELECT 1 AS total", "materialized view"),
        ("CREATE TASK u SCHEDULE 1m INTO r AS SELECT 1 AS nothing", "does not fit its target"),
        ("CREATE TASK u SCHEDULE 1m INTO nowhere AS SELECT 1 AS a", "does not exist"),
        ("DROP TASK u", "task default.u does not exist"),
        ("SHOW CREATE ALERT t", "alert default.t does not exist"),
    ] {
        let e = refused(&server, sql);
        assert!(e.contains(says), "{sql}: {e}");
    }
    server
        .query("CREATE OR REPLACE TASK t SCHEDULE 1h INTO r AS SELECT 'x' AS k, 7 AS total, now64(3) AS at");
    server.query("SYSTEM CLOCK ADVANCE 61m");
    wait_until("the one in its place", || one(&server, "SELECT count() FROM r WHERE k = 'x'") == "1");
    server.query("DROP TASK t");
    server.query("DROP STREAM r");
    assert_eq!(one(&server, "SELECT count() FROM system.tasks"), "0");
}

#[test]
fn a_run_that_fails_is_tried_again_and_a_large_one_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Restarted::new(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM s (v string)");
    server.query("CREATE STREAM r (n int64) SETTINGS shards=3, sharding_expr='n'");
    server.query("INSERT INTO s VALUES ('1'), ('none')");
    server.query("CREATE TASK t SCHEDULE 10s INTO r AS SELECT to_int64(v) AS n FROM s");
    server.query("SYSTEM CLOCK ADVANCE 11s");
    wait_until("a run has failed", || one(&server, "SELECT failures > 0 FROM system.tasks") == "true");
    let seen = one(&server, "SELECT state, last_error FROM system.tasks");
    assert!(seen.starts_with("Backoff") && seen.contains("none"), "{seen}");
    server.query("TRUNCATE STREAM s");
    server.query("INSERT INTO s SELECT to_string(number) FROM numbers(50000)");
    wait_until("it goes well", || {
        server.query("SYSTEM CLOCK ADVANCE 1s");
        one(&server, "SELECT runs > 0 FROM system.tasks") == "true"
    });
    server.query("DROP TASK t");
    // However many runs there were: each was whole.
    assert_eq!(one(&server, "SELECT count() % 50000, uniq_exact(n), max(n) FROM r"), "0\t50000\t49999");
}

#[test]
fn an_alert_calls_in_batches_and_again_what_was_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::new(&[500, 503]);
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (n int64, v int64)");
    server.query(&format!(
        "CREATE ALERT a BATCH 3 EVENTS WITH TIMEOUT 200ms CALL '{}' AS SELECT n, v FROM s WHERE v > 10 \
         SETTINGS checkpoint_interval=3600",
        receiver.url
    ));
    server.query("INSERT INTO s (n, v) VALUES (1, 11), (2, 1), (3, 12), (4, 13), (5, 14)");
    wait_until("all are delivered", || one(&server, "SELECT delivered_rows FROM system.alerts") == "4");
    let calls = receiver.calls();
    // The first was refused twice; then three rows, then the one that waited.
    let sizes: Vec<usize> = calls.iter().map(|c| c["rows"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [3, 3, 3, 1]);
    assert_eq!(calls[0], calls[2], "a call that is tried again is the same one");
    assert_eq!(calls[0]["alert"], "default.a");
    assert_ne!(calls[2]["id"], calls[3]["id"]);
    let seen = one(
        &server,
        "SELECT state, delivered, failed_calls, last_status, last_call_error FROM system.alerts",
    );
    assert_eq!(seen, "Running\t2\t2\t200");

    // What was delivered after the checkpoint is delivered again; nothing is left out.
    server.query("SYSTEM CHECKPOINT ALERT a");
    server.query("INSERT INTO s (n, v) VALUES (6, 20)");
    wait_until("one more", || receiver.values("n").contains(&6));
    server.kill();
    server.query("INSERT INTO s (n, v) VALUES (7, 20)");
    wait_until("the next one", || receiver.values("n").contains(&7));
    let mut after: Vec<i64> = receiver.values("n").into_iter().filter(|n| *n > 5).collect();
    after.sort_unstable();
    assert_eq!(after, [6, 6, 7]);
    assert_eq!(
        receiver.values("n").iter().filter(|n| **n == 5).count(),
        1,
        "the checkpoint stands behind it"
    );

    let text = one(&server, "SHOW CREATE ALERT a");
    assert!(text.contains("BATCH 3 EVENTS WITH TIMEOUT 200ms CALL"), "{text}");
    assert!(refused(&server, "DROP STREAM s").contains("is used by default.a"));
    server.query("SYSTEM PAUSE ALERT a");
    assert_eq!(one(&server, "SELECT state FROM system.alerts"), "Paused");
    server.query("SYSTEM RESUME ALERT a");
    server.query("DROP ALERT a");
    assert_eq!(one(&server, "SHOW ALERTS"), "");
    assert_eq!(std::fs::read_dir(dir.path().join("data/checkpoints")).map_or(0, Iterator::count), 0);
}

#[test]
fn an_alert_says_no_more_than_its_limit_and_counts_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::new(&[]);
    let server = Restarted::new(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM s (n int64)");
    server.query(&format!("CREATE ALERT a LIMIT 1 ALERTS PER 1m CALL '{}' AS SELECT n FROM s", receiver.url));
    server.query("INSERT INTO s VALUES (1), (2), (3)");
    wait_until("two are left out", || one(&server, "SELECT suppressed_rows FROM system.alerts") == "2");
    assert_eq!(receiver.values("n"), [1]);
    server.query("SYSTEM CLOCK ADVANCE 61s");
    server.query("INSERT INTO s VALUES (4)");
    wait_until("it speaks again", || receiver.calls().len() == 2);
    assert_eq!(receiver.calls()[1]["suppressed_rows"], 2);
    assert_eq!(receiver.values("n"), [1, 4]);
}

#[test]
fn an_alert_waits_for_who_does_not_answer_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::new(&[500; 1000]);
    let server = Restarted::new(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM s (n int64)");
    server.query(&format!("CREATE ALERT a CALL '{}' AS SELECT n FROM s", receiver.url));
    server.query("CREATE MATERIALIZED VIEW v AS SELECT n FROM s");
    server.query("INSERT INTO s SELECT number FROM numbers(1000)");
    wait_until("a call was not taken", || {
        one(&server, "SELECT failed_calls > 0 FROM system.alerts") == "true"
    });
    server.query("SYSTEM SYNC VIEW v");
    assert_eq!(one(&server, "SELECT count() FROM v"), "1000");
    let seen = one(&server, "SELECT delivered_rows, last_status, last_call_error FROM system.alerts");
    assert!(seen.starts_with("0\t500") && seen.contains("answered 500"), "{seen}");
    receiver.statuses.lock().unwrap().clear();
    wait_until("it is taken", || {
        server.query("SYSTEM CLOCK ADVANCE 1m");
        one(&server, "SELECT delivered_rows FROM system.alerts") == "1000"
    });
    let mut taken: Vec<i64> = receiver.values("n");
    taken.dedup();
    assert_eq!(taken, (0..1000).collect::<Vec<_>>(), "in their order");

    for (sql, says) in [
        ("CREATE ALERT b CALL 'ftp://x' AS SELECT n FROM s", "https://"),
        ("CREATE ALERT b BATCH 20000 EVENTS CALL 'http://x' AS SELECT n FROM s", "10000"),
        ("CREATE ALERT b CALL 'http://x' AS SELECT n FROM table(s)", "ends"),
    ] {
        let e = refused(&server, sql);
        assert!(e.contains(says), "{sql}: {e}");
    }
}
