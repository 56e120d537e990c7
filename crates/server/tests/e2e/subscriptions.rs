//! Queries that keep checkpoints under their id: followed, cut, and gone on with.

use crate::http::Answer;
use crate::life::wait_until;
use crate::process::Server;
use crate::view_answer::Restarted;

fn follow(server: &Restarted<'_>, sql: &str) -> Answer {
    server.server.as_ref().unwrap().streaming.follow(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

fn refused(server: &Server, sql: &str) -> String {
    match server.streaming.follow(sql) {
        Ok(_) => panic!("{sql} was not refused"),
        Err(e) => e.to_string(),
    }
}

fn lines(from: &mut Answer, n: usize) -> Vec<String> {
    (0..n).map(|_| from.line().unwrap().expect("it goes on")).collect()
}

fn state(server: &Restarted<'_>) -> String {
    server.query("SELECT state FROM system.subscriptions").trim().to_owned()
}

#[test]
fn a_query_goes_on_where_its_checkpoint_stands_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (k string) SETTINGS shards=2");
    server.query("INSERT INTO s VALUES ('before'), ('a')");
    let sql = "SUBSCRIBE TO SELECT k, count() AS c FROM s WHERE k != 'before' GROUP BY k EMIT ON UPDATE \
               SETTINGS checkpoint_interval=3600, seek_to='earliest' FORMAT TSV";
    let mut first = follow(&server, sql);
    assert_eq!(lines(&mut first, 1), ["a\t1"]);
    server.query("INSERT INTO s VALUES ('a'), ('a')");
    assert_eq!(lines(&mut first, 1), ["a\t3"]);
    let id =
        server.query("SELECT query_id FROM system.subscriptions WHERE state = 'Running'").trim().to_owned();
    server.query(&format!("SYSTEM CHECKPOINT QUERY '{id}'"));
    server.query("INSERT INTO s VALUES ('b')");
    assert_eq!(lines(&mut first, 1), ["b\t1"]);
    let taken = refused(server.server.as_ref().unwrap(), &format!("RECOVER FROM '{id}'"));
    assert!(taken.contains("is running"), "{taken}");

    server.kill();
    assert_eq!(state(&server), "Stopped");
    server.query("INSERT INTO s VALUES ('c')");
    let mut again = follow(&server, &format!("RECOVER FROM '{id}' FORMAT TSV"));
    // What came after the checkpoint comes again, and what came meanwhile.
    let mut both = lines(&mut again, 2);
    both.sort();
    assert_eq!(both, ["b\t1", "c\t1"]);
    server.query("INSERT INTO s VALUES ('a')");
    assert_eq!(lines(&mut again, 1), ["a\t4"]);
    assert_eq!(state(&server), "Running");
    server.query(&format!("SYSTEM CHECKPOINT QUERY '{id}'"));

    // Its client leaves: it stands still, and goes on for another one.
    drop(again);
    wait_until("the query has stopped", || state(&server) == "Stopped");
    server.query("INSERT INTO s VALUES ('a')");
    let mut third = follow(&server, &format!("RECOVER FROM '{id}' FORMAT CSV"));
    assert_eq!(lines(&mut third, 1), ["\"a\",5"]);
    server.query(&format!("UNSUBSCRIBE TO '{id}'"));
    assert_eq!(state(&server), "");
    let mut told = String::new();
    while let Ok(Some(line)) = third.line() {
        told.push_str(&line);
    }
    assert!(told.contains("was cancelled"), "its reader hears that it was ended: {told}");
    let gone = refused(server.server.as_ref().unwrap(), &format!("RECOVER FROM '{id}'"));
    assert!(gone.contains("there are no checkpoints of a query"), "{gone}");
    let left = std::fs::read_dir(dir.path().join("data/subscriptions")).unwrap().count();
    assert_eq!(left, 0, "its files are gone");
}

#[test]
fn what_has_an_end_keeps_nothing_and_what_can_not_be_kept_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (k int32)");
    let mut two = follow(&server, "SUBSCRIBE TO SELECT k FROM s LIMIT 2 FORMAT TSV");
    server.query("INSERT INTO s VALUES (1), (2), (3)");
    assert_eq!(lines(&mut two, 2), ["1", "2"]);
    assert_eq!(two.line().unwrap(), None);
    wait_until("nothing is kept of it", || state(&server).is_empty());

    let running = server.server.as_ref().unwrap();
    let ends = refused(running, "SUBSCRIBE TO SELECT 1");
    assert!(ends.contains("Code: 80") && ends.contains("the query ends"), "{ends}");
    let unknown = refused(running, "RECOVER FROM 'nobody'");
    assert!(unknown.contains("Code: 36") && unknown.contains("SUBSCRIBE TO"), "{unknown}");
    for sql in ["UNSUBSCRIBE TO 'nobody'", "SYSTEM CHECKPOINT QUERY 'nobody'"] {
        let e = running.table.query(sql).unwrap_err().to_string();
        assert!(e.contains("Code: 36"), "{e}");
    }
}

#[test]
fn a_stream_that_is_another_one_now_is_not_read_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Restarted::new(dir.path(), &[]);
    server.query("CREATE STREAM s (k int32)");
    let mut rows = follow(&server, "SUBSCRIBE TO SELECT k FROM s FORMAT TSV");
    server.query("INSERT INTO s VALUES (1)");
    assert_eq!(lines(&mut rows, 1), ["1"]);
    let id = server.query("SELECT query_id FROM system.subscriptions").trim().to_owned();
    drop(rows);
    server.kill();
    server.query("DROP STREAM s");
    server.query("CREATE STREAM s (k int32)");
    let other = refused(server.server.as_ref().unwrap(), &format!("RECOVER FROM '{id}'"));
    assert!(other.contains("another one") && other.contains("UNSUBSCRIBE TO"), "{other}");
    server.query(&format!("UNSUBSCRIBE TO '{id}'"));
    assert_eq!(state(&server), "");
}
