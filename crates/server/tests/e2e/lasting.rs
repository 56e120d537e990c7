//! Statements that last: an INSERT over a stream without end, a reader of a dropped stream.

use crate::http::{Answer, percent};
use crate::life::wait_until;
use crate::process::Server;
use std::path::Path;

fn streams_on_disk(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("streams")).unwrap().count()
}

#[test]
fn an_insert_from_a_stream_lasts_as_long_as_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM source (k int32)");
    server.query("CREATE STREAM target (k int32)");
    let insert = percent("INSERT INTO target (k) SELECT k FROM source WHERE k > 1");
    // The answer comes at the end, so the connection is held without one.
    let address = server.streaming.address.clone();
    let path = format!("/?query={insert}&query_id=follow");
    let client = std::net::TcpStream::connect(&address).unwrap();
    std::io::Write::write_all(
        &mut &client,
        format!("POST {path} HTTP/1.1\r\nHost: weir\r\nContent-Length: 0\r\n\r\n").as_bytes(),
    )
    .unwrap();
    let running = "SELECT count() FROM system.queries WHERE query_id = 'follow' AND state = 'Running'";
    wait_until("the insert runs", || server.query(running) == "1\n");
    server.query("INSERT INTO source (k) VALUES (1), (2), (3)");
    wait_until("its rows are there", || server.query("SELECT count() FROM target") == "2\n");
    let written = "SELECT written_rows FROM system.queries WHERE query_id = 'follow'";
    wait_until("its progress is told", || server.query(written) == "2\n");
    drop(client);
    wait_until("it ends", || server.query(running) == "0\n");
    server.query("INSERT INTO source (k) VALUES (4)");
    let log =
        "SELECT query_kind, is_streaming, exception_code FROM system.query_log WHERE query_id = 'follow'";
    wait_until("it is remembered", || server.query(log) == "Insert\t1\t394\n");
    assert_eq!(server.query("SELECT count() FROM target"), "2\n");
    // The other port copies what is there.
    server.query("INSERT INTO target (k) SELECT k FROM source WHERE k > 2");
    assert_eq!(server.query("SELECT count() FROM target"), "4\n");
}

#[test]
fn a_slow_reader_keeps_a_dropped_stream_s_files_and_a_kill_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM big (k uint64, s string)");
    // More than the buffers of sockets, server and query hold.
    server.query("INSERT INTO big (k, s) SELECT number, repeat('x', 100) FROM numbers(200000)");
    server.query("SYSTEM FLUSH STREAM big");
    let read = |server: &Server| -> Answer {
        let mut answer = server.table.follow("SELECT k, s FROM big FORMAT TSV").unwrap();
        assert!(answer.line().unwrap().is_some());
        answer
    };
    let (mut finishes, held) = (read(&server), read(&server));
    server.query("DROP STREAM big");
    assert_eq!(server.table.query("SELECT 1 FROM big").unwrap_err().status, 404);
    let mut rows = 1;
    while finishes.line().unwrap().is_some() {
        rows += 1;
    }
    assert_eq!(rows, 200_000);
    assert_eq!(streams_on_disk(dir.path()), 1, "the other reader holds the files");
    server.kill();
    drop(held);
    let server = Server::start(dir.path());
    assert_eq!(streams_on_disk(dir.path()), 0);
    server.query("CREATE STREAM big (k uint64)");
    assert_eq!(server.query("SELECT count() FROM big"), "0\n");
}

#[test]
fn a_query_that_fails_is_not_said_to_have_taken_everything_in() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (x int32)");
    for round in 0..20 {
        let door = server.streaming.clone();
        let sql = "SELECT throw_if(x = 1) FROM s";
        let query =
            std::thread::spawn(move || door.insert(sql, &format!("&query_id=q{round}"), b"").unwrap_err());
        let running =
            format!("SELECT count() FROM system.queries WHERE query_id = 'q{round}' AND state = 'Running'");
        wait_until("the query runs", || server.query(&running) == "1\n");
        server.query("INSERT INTO s (x) VALUES (1)");
        let e = server.table.query(&format!("SYSTEM SYNC QUERY 'q{round}'")).unwrap_err();
        // It may be gone already.
        assert!(e.text.contains("Code: 395") || e.text.contains("Code: 36."), "{e}");
        assert!(query.join().unwrap().text.contains("Code: 395"));
    }
}
