//! The life of a row as a person sees it: live, as history, after a kill, after a clean stop.

use crate::process::Server;

#[test]
fn a_row_is_seen_live_then_as_history_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM trades (sym string, price float64, qty uint32)");
    let mut tail = server
        .streaming
        .follow("SELECT sym, price * qty AS value FROM trades WHERE qty > 10 FORMAT CSV")
        .unwrap();
    server.query("INSERT INTO trades (sym, price, qty) VALUES ('A', 2.5, 100), ('B', 1, 5), ('C', 0.5, 20)");
    assert_eq!(tail.line().unwrap().as_deref(), Some("\"A\",250"));
    assert_eq!(tail.line().unwrap().as_deref(), Some("\"C\",10"));
    assert_eq!(server.query("SELECT count(), sum(qty) FROM table(trades)"), "3\t125\n");
    server.kill();
    // As a query of the killed process may have left it.
    std::fs::create_dir_all(dir.path().join("spill/left")).unwrap();

    let server = Server::start(dir.path());
    assert!(!dir.path().join("spill/left").exists());
    assert_eq!(server.query("SELECT sym, qty FROM trades ORDER BY sym"), "A\t100\nB\t5\nC\t20\n");
    server.query("SYSTEM FLUSH STREAM trades");
    assert_eq!(server.query("SELECT sum(rows) FROM system.parts WHERE table = 'trades' AND active"), "3\n");
    assert_eq!(server.stop(), Some(0));

    let server = Server::start(dir.path());
    assert_eq!(server.query("SELECT count() FROM trades"), "3\n");
    let mut replay = server
        .streaming
        .follow("SELECT sym, _tp_sn FROM trades SETTINGS seek_to='earliest' FORMAT TSV")
        .unwrap();
    for expected in ["A\t0", "B\t1", "C\t2"] {
        assert_eq!(replay.line().unwrap().as_deref(), Some(expected));
    }
    server.query("INSERT INTO trades (sym, price, qty) VALUES ('D', 1, 1)");
    assert_eq!(replay.line().unwrap().as_deref(), Some("D\t3"));
}

#[test]
fn closing_the_connection_ends_the_query() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (x int32)");
    let running = "SELECT count() FROM system.queries WHERE query LIKE '%marker_7%' AND query NOT LIKE '%system.queries%'";
    let tail = server.streaming.follow("SELECT x, 'marker_7' FROM s").unwrap();
    wait_until("the query is listed", || server.query(running) == "1\n");
    drop(tail);
    wait_until("the query is gone", || server.query(running) == "0\n");
}

#[test]
fn kill_query_ends_a_tail_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (x int32)");
    let mut tail = server.streaming.follow("SELECT x, 'marker_8' FROM s").unwrap();
    let id = "SELECT query_id FROM system.queries WHERE query LIKE '%marker_8%' AND query NOT LIKE '%system.queries%'";
    wait_until("the query is listed", || !server.query(id).is_empty());
    server.query(&format!("KILL QUERY WHERE query_id = '{}' SYNC", server.query(id).trim()));
    let mut said = String::new();
    let cut = loop {
        match tail.line() {
            Ok(Some(line)) => said.push_str(&line),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut, "the body of a cancelled query must be cut");
    assert!(said.contains("Code: 394"), "{said}");
}

#[test]
fn a_second_server_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["server", "--http-port", "0", "--http-streaming-port", "0", "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&server.pid().to_string()), "names the process that holds it: {said}");
}

/// Polls a condition that the server brings about; fails loudly after a minute.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed().as_secs() < 60, "waited a minute in vain until {what}");
        std::thread::yield_now();
    }
}
