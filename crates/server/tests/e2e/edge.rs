//! One Weir that reads and writes a stream of another, over a network that breaks, with processes that are killed.

use crate::jobs::Receiver;
use crate::kafka::lines;
use crate::life::wait_until;
use crate::process::Server;
use crate::proxy::Proxy;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

fn port(server: &Server) -> u16 {
    server.table.address.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Rows of the edge test; `WEIR_EDGE_ROWS` sets another number.
fn rows_in_all() -> u64 {
    std::env::var("WEIR_EDGE_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

fn number(server: &Server, sql: &str) -> u64 {
    server.query(sql).trim().parse().unwrap()
}

#[test]
fn a_stream_of_another_weir_is_read_and_written() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut centre = Server::start(there.path());
    let proxy = Proxy::start(port(&centre));
    let edge = Server::start(here.path());
    centre.query("CREATE STREAM t (id int64, s nullable(string), a array(int32), at datetime64(6, 'UTC')) SETTINGS shards=2");
    let rows = "SELECT number, if(number % 3 = 0, NULL, to_string(number)), [to_int32(number), 7], to_datetime64(1.5, 6, 'UTC') FROM numbers";
    centre.query(&format!("INSERT INTO t {rows}(1000)"));
    edge.query(&format!("CREATE EXTERNAL STREAM t SETTINGS type='weir', hosts='{}'", proxy.address()));
    let all = "SELECT count(), sum(id), count(s), sum(a[1]), uniq_exact(_tp_shard), min(at) FROM table(t)";
    assert_eq!(edge.query(all), centre.query(all));
    let mut follow = edge.streaming.follow("SELECT id FROM t SETTINGS seek_to='earliest'").unwrap();
    assert_eq!(lines(&mut follow, 1_000).len(), 1_000);
    // What is written here is there at once, and comes back.
    edge.query("INSERT INTO t (id, s, a, at) VALUES (5000, 'x', [], '2026-11-27 00:00:00.000001')");
    assert_eq!(
        centre.query("SELECT s, a, at FROM table(t) WHERE id = 5000"),
        "x\t[]\t2026-11-27 00:00:00.000001\n"
    );
    assert_eq!(lines(&mut follow, 1), ["5000"]);
    // The network, then the other server itself.
    proxy.reset();
    centre.query("INSERT INTO t (id) VALUES (5001)");
    assert_eq!(lines(&mut follow, 1), ["5001"]);
    proxy.cut();
    wait_until("somebody says so", || {
        edge.query("SELECT count() FROM system.query_warnings WHERE warning LIKE '%tried again%'") != "0\n"
    });
    let refused = edge.table.query("INSERT INTO t (id) VALUES (1)").unwrap_err();
    assert!(refused.text.contains("NETWORK_ERROR"), "{refused}");
    centre.kill();
    centre = Server::start(there.path());
    proxy.turn_to(port(&centre));
    proxy.mend();
    centre.query("INSERT INTO t (id) VALUES (5002)");
    assert_eq!(lines(&mut follow, 1), ["5002"]);
    // From a place and a time.
    let from = "SELECT id FROM t LIMIT 1 SETTINGS seek_to='2020-01-01'";
    assert_eq!(lines(&mut edge.streaming.follow(from).unwrap(), 1).len(), 1);

    // A backlog of one large record: more waits than one INSERT should have, in pieces of it.
    centre.query("CREATE STREAM big (id int64)");
    edge.query("CREATE STREAM kept (id int64)");
    edge.query("INSERT INTO kept SELECT number FROM numbers(1500000)");
    edge.query(&format!("CREATE EXTERNAL STREAM big SETTINGS type='weir', hosts='{}'", proxy.address()));
    edge.query("CREATE MATERIALIZED VIEW v INTO big AS SELECT id FROM kept SETTINGS seek_to='earliest'");
    wait_until("the backlog is there", || number(&centre, "SELECT count() FROM table(big)") >= 1_500_000);
    assert_eq!(centre.query("SELECT count(), uniq_exact(id) FROM table(big)"), "1500000\t1500000\n");
    assert_eq!(edge.query("SELECT count() FROM system.view_log WHERE event = 'Failed'"), "0\n");

    for (settings, part) in [
        ("type='weir'", "needs hosts"),
        ("type='weir', hosts='a:1,b:1'", "one server"),
        ("type='weir', hosts='169.254.169.254:80'", "--allowed-remote-hosts"),
        ("type='weir', hosts='localhost:1', streams='x'", "did you mean stream"),
    ] {
        let refused = edge
            .table
            .query(&format!("CREATE EXTERNAL STREAM x (id int64) SETTINGS {settings}"))
            .unwrap_err();
        assert!(refused.text.contains(part), "{settings}: {refused}");
    }
    let none = format!("CREATE EXTERNAL STREAM none SETTINGS type='weir', hosts='{}'", proxy.address());
    assert!(edge.table.query(&none).unwrap_err().text.contains("no such stream"));
}

#[test]
fn who_writes_with_a_position_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    server.query("CREATE STREAM t (id int64) SETTINGS shards=3");
    server.query("CREATE STREAM keyed (id int64) SETTINGS shards=3, sharding_expr='id'");
    let writer = "1b671a64-40d5-891e-99b0-da01ff1f3341";
    let insert = |server: &Server, from: &str, to: &str, ids: &str| {
        server.table.query(&format!(
            "INSERT INTO t SETTINGS log_writer='{writer}', log_writer_from='{from}', log_writer_position='{to}' VALUES {ids}"
        ))
    };
    insert(&server, "", "YQ==", "(1), (2)").unwrap();
    // An answer that was lost: the same again is no error, and nothing twice.
    insert(&server, "", "YQ==", "(1), (2)").unwrap();
    insert(&server, "YQ==", "Yg==", "(3)").unwrap();
    // One that was on its way for long.
    let late = insert(&server, "YQ==", "Yw==", "(3), (4)").unwrap_err();
    assert!(late.text.contains("2500") && late.text.contains("system.log_writers"), "{late}");
    server.kill();
    server = Server::start(dir.path());
    insert(&server, "YQ==", "Yg==", "(3)").unwrap();
    assert!(insert(&server, "", "Yw==", "(9)").is_err());
    // A body that breaks off behind whole rows.
    let address = &server.table.address;
    let settings = format!(
        "log_writer={writer}&log_writer_from=Yg%3D%3D&log_writer_position=Yw%3D%3D&max_insert_block_size=1"
    );
    let mut torn = TcpStream::connect(address).unwrap();
    let body = "{\"id\":7}\n".repeat(10_000);
    write!(
        torn,
        "POST /?query=INSERT%20INTO%20t%20FORMAT%20JSONEachRow&{settings} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len() + 1
    )
    .unwrap();
    torn.shutdown(Shutdown::Write).unwrap();
    // It has ended once the answer, or nothing more, is there.
    let _ = torn.read_to_end(&mut Vec::new());
    let select = "INSERT INTO t SETTINGS log_writer='1b671a64-40d5-891e-99b0-da01ff1f3341', log_writer_position='YQ==' SELECT 1";
    assert!(server.table.query(select).unwrap_err().text.contains("several records"));
    assert_eq!(
        server.query("SELECT array_sort(group_array(id)), uniq_exact(_tp_shard) FROM table(t)"),
        "[1,2,3]\t1\n"
    );
    assert_eq!(
        server.query("SELECT table, writer, position FROM system.log_writers"),
        format!("t\t{writer}\tYg==\n")
    );
    let refused = server
        .table
        .query(&format!(
            "INSERT INTO keyed SETTINGS log_writer='{writer}', log_writer_position='YQ==' VALUES (1)"
        ))
        .unwrap_err();
    assert!(refused.text.contains("sharding_expr"), "{refused}");
    for settings in [
        "log_writer='x', log_writer_position='YQ=='",
        "log_writer_position='YQ=='",
        &format!("log_writer='{writer}'"),
    ] {
        let refused =
            server.table.query(&format!("INSERT INTO t SETTINGS {settings} VALUES (1)")).unwrap_err();
        assert!(refused.text.contains("log_writer"), "{refused}");
    }
}

/// An edge whose rows go to a centre.
struct Edge<'a> {
    dir: &'a Path,
    server: Server,
}

impl Edge<'_> {
    fn start<'a>(dir: &'a Path, proxy: &Proxy, stream_settings: &str) -> Edge<'a> {
        let server = Server::start(dir);
        server.query(&format!(
            "CREATE STREAM kept (id int64, at datetime64(3, 'UTC')) SETTINGS storage_type='streaming', {stream_settings}"
        ));
        server.query(&format!(
            "CREATE EXTERNAL STREAM rows (id int64, edge_shard int32, edge_sn int64) SETTINGS type='weir', hosts='{}'",
            proxy.address()
        ));
        server.query(
            "CREATE MATERIALIZED VIEW forward INTO rows AS SELECT id, _tp_shard AS edge_shard, _tp_sn AS edge_sn, \
             at AS _tp_time FROM kept SETTINGS seek_to='earliest', checkpoint_interval=0.5",
        );
        Edge { dir, server }
    }

    fn kill(&mut self) {
        self.server.end();
        self.server = Server::start(self.dir);
    }

    /// Rows with event times in disorder.
    fn insert(&self, from: u64, n: u64) -> Result<(), String> {
        let sql = format!(
            "INSERT INTO kept (id, at) SELECT {from} + number, to_datetime64(1800000000 + (number * 7919) % 1000, 3, 'UTC') \
             FROM numbers({n})"
        );
        self.server.table.query(&sql).map(drop).map_err(|e| e.text)
    }
}

const CENTRE: &str = "CREATE STREAM rows (id int64, edge_shard int32, edge_sn int64) SETTINGS shards=3";

/// Each row once, and those of an edge's shard in its order; gives how many there are.
fn check_centre(centre: &Server) -> u64 {
    let text = centre.query("SELECT edge_shard, edge_sn FROM table(rows) ORDER BY _tp_shard, _tp_sn");
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for line in text.lines() {
        let (shard, sn) = line.split_once('\t').unwrap();
        let sn = sn.parse().unwrap();
        let before = last.insert(shard, sn);
        assert!(before.is_none_or(|b| b < sn), "shard {shard}: {sn} behind {before:?}");
    }
    text.lines().count() as u64
}

#[test]
fn an_edge_forwards_each_row_once_through_cuts_and_kills() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut centre = Server::start(there.path());
    centre.query(CENTRE);
    let proxy = Proxy::start(port(&centre));
    let mut edge = Edge::start(here.path(), &proxy, "shards=2");
    let (all, steps) = (rows_in_all(), 20);
    let each = all / steps;
    for step in 0..steps {
        edge.insert(step * each, each).unwrap();
        match step % 10 {
            1 => proxy.reset(),
            2 => proxy.cut(),
            4 => proxy.mend(),
            5 => edge.kill(),
            7 => {
                centre.end();
                centre = Server::start(there.path());
                proxy.turn_to(port(&centre));
            }
            8 => {
                proxy.cut();
                edge.kill();
                proxy.mend();
            }
            _ => wait_until("some of it comes through", || {
                proxy.mend();
                number(&centre, "SELECT count() FROM table(rows)") > step * each / 4
            }),
        }
    }
    proxy.mend();
    wait_until("all of it is there", || number(&centre, "SELECT count() FROM table(rows)") >= each * steps);
    assert_eq!(check_centre(&centre), each * steps);
    assert_eq!(
        centre.query("SELECT uniq_exact(id), min(id), max(id), uniq_exact(edge_shard) FROM table(rows)"),
        format!("{0}\t0\t{1}\t2\n", each * steps, each * steps - 1)
    );
}

fn bytes_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|e| if e.path().is_dir() { bytes_of(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
        .sum()
}

#[test]
fn an_edge_without_a_network_keeps_to_its_disk() {
    const LIMIT: u64 = 4 << 20;
    for full in ["refuse", "drop_oldest"] {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let centre = Server::start(there.path());
        centre.query(CENTRE);
        let proxy = Proxy::start(port(&centre));
        let mut edge =
            Edge::start(here.path(), &proxy, &format!("logstore_bytes_max={LIMIT}, logstore_full='{full}'"));
        edge.insert(0, 1_000).unwrap();
        wait_until("the first rows are there", || {
            number(&centre, "SELECT count() FROM table(rows)") == 1_000
        });
        edge.server.query("SYSTEM CHECKPOINT VIEW forward");
        proxy.cut();
        let (mut taken, mut refused) = (1_000, None);
        for _ in 0..60 {
            match edge.insert(taken, 10_000) {
                Ok(()) => taken += 10_000,
                Err(e) => {
                    refused = Some(e);
                    break;
                }
            }
            let held = bytes_of(&here.path().join("streams"));
            assert!(held <= LIMIT + (256 << 10), "{held} bytes on disk with {taken} rows");
        }
        let dropped =
            number(&edge.server, "SELECT sum(dropped_rows) FROM system.shards WHERE table = 'kept'");
        match full {
            "refuse" => {
                let text = refused.expect("the log is full");
                assert!(text.contains("logstore_bytes_max") && text.contains("drop_oldest"), "{text}");
                assert_eq!(dropped, 0);
                // What was taken outlives a kill.
                edge.kill();
            }
            _ => assert!(refused.is_none() && dropped > 0, "{refused:?} {dropped}"),
        }
        proxy.mend();
        let id = taken - 1;
        wait_until("the newest row is there", || {
            number(&centre, &format!("SELECT count() FROM table(rows) WHERE id = {id}")) == 1
        });
        assert_eq!(check_centre(&centre), number(&centre, "SELECT uniq_exact(id) FROM table(rows)"));
        let there = number(&centre, "SELECT count() FROM table(rows)");
        match full {
            "refuse" => {
                assert_eq!(there, taken);
                wait_until("there is room again", || edge.insert(taken, 10_000).is_ok());
            }
            _ => {
                // What a reader held in memory when it was dropped may have come through all the same.
                assert!(there + dropped >= taken && there < taken, "{there} and {dropped} of {taken}");
                // By the query that ran, or by the one that took its place.
                let told = "SELECT (SELECT count() FROM system.query_warnings WHERE warning LIKE '%was full and dropped rows%') \
                            + (SELECT count() FROM system.view_log WHERE event = 'Warning' AND detail LIKE '%holds no row before%')";
                assert_ne!(edge.server.query(told), "0\n");
            }
        }
    }
}

#[test]
fn rows_are_posted_to_a_url() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let receiver = Receiver::new(&[200, 503, 429]);
    server.query(&format!(
        "CREATE EXTERNAL STREAM hook (id int64, s string) SETTINGS type='http', url='{}?key=s3cret', http_header_x_token='s3cret'",
        receiver.url
    ));
    server.query("INSERT INTO hook VALUES (1, 'a'), (2, 'b')");
    assert_eq!(receiver.calls(), [serde_json::json!([{"id": 1, "s": "a"}, {"id": 2, "s": "b"}])]);
    // Answered with 503 and 429, then taken.
    server.query("CREATE STREAM s (id int64)");
    server.query("CREATE MATERIALIZED VIEW v INTO hook AS SELECT id, 'v' AS s FROM s WHERE id > 2");
    server.query("INSERT INTO s VALUES (1), (3)");
    wait_until("the row is taken", || receiver.calls().len() == 4);
    server.query("SYSTEM CHECKPOINT VIEW v");
    assert_eq!(receiver.calls()[1..], [(); 3].map(|()| serde_json::json!({"id": 3, "s": "v"})));
    let refusing = Receiver::new(&[401]);
    server
        .query(&format!("CREATE EXTERNAL STREAM no (id int64) SETTINGS type='http', url='{}'", refusing.url));
    let refused = |sql: &str| server.table.query(sql).unwrap_err().text;
    assert!(refused("INSERT INTO no VALUES (1)").contains("http_header_"));
    assert!(refused("SELECT * FROM table(hook)").contains("can not be read"));
    for settings in [
        "url='ftp://x'",
        "url='http://u:p@x'",
        "url='http://169.254.169.254/'",
        "url='http://x', http_header_a='\n'",
    ] {
        refused(&format!("CREATE EXTERNAL STREAM x (id int64) SETTINGS type='http', {settings}"));
    }
    for shown in
        ["SHOW CREATE STREAM hook", "SELECT query FROM system.query_log WHERE query LIKE '%x_token%'"]
    {
        let text = server.query(shown);
        assert!(
            text.contains("[HIDDEN]")
                && !text.contains("token='s3cret'")
                && !text.contains("token = 's3cret'"),
            "{text}"
        );
    }
}
