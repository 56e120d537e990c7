//! Keys that are forgotten, by a clock that the test moves.

use crate::life::wait_until;
use crate::process::Server;

#[test]
fn a_key_that_falls_silent_begins_anew_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--test-clock"]);
    server.query("CREATE STREAM s (k string, x int32)");
    let sql = "SELECT k, count(), sum(x) FROM s GROUP BY k EMIT ON UPDATE SETTINGS aggregate_state_ttl_sec=10, max_threads=2 FORMAT TSV";
    let mut results = server.streaming.follow(sql).unwrap();
    let running = "SELECT count() FROM system.queries WHERE state = 'Running' AND query LIKE '%ttl_sec=10%'";
    wait_until("the query runs", || server.query(running) != "0\n");
    let insert = |rows: &str| server.query(&format!("INSERT INTO s (k, x) VALUES {rows}"));
    insert("('a', 1)");
    assert_eq!(results.line().unwrap().as_deref(), Some("a\t1\t1"));
    server.query("SYSTEM CLOCK ADVANCE 6s");
    insert("('b', 5)");
    assert_eq!(results.line().unwrap().as_deref(), Some("b\t1\t5"));
    server.query("SYSTEM CLOCK ADVANCE 6s");
    insert("('a', 2)");
    assert_eq!(results.line().unwrap().as_deref(), Some("a\t1\t2"), "12 s after its last row");
    insert("('b', 6)");
    assert_eq!(results.line().unwrap().as_deref(), Some("b\t2\t11"), "6 s after its last row");
    server.query("SYSTEM CLOCK ADVANCE 60s");
    let numbers =
        "SELECT keys, expired_keys FROM system.query_operators WHERE name = 'Aggregate' AND expired_keys > 0";
    wait_until("all keys are forgotten", || server.query(numbers) == "0\t3\n");
    let whole = "SELECT sum(expired_keys) FROM system.queries";
    assert_eq!(server.query(whole), "3\n");
}
