//! The HTTP door over real sockets, with a small service where the engine would be.
#![allow(clippy::disallowed_types, reason = "raw sockets show what hyper sends")]

mod door;
mod service;

use door::Door;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn statements_come_from_the_url_and_the_body() {
    let door = Door::open();
    // (name, request, status, body)
    let cases = [
        ("url", door.get("/?query=SELECT%201"), 200, "1\n"),
        ("body", door.post("/", "SELECT 1"), 200, "1\n"),
        ("both", door.post("/?query=SELECT", "1"), 200, "1\n"),
        ("format clause", door.post("/", "SELECT 1 FORMAT JSONEachRow"), 200, "{\"n\":1}\n"),
        ("default format", door.post("/?default_format=CSV", "SELECT 1"), 200, "1\n"),
        ("nothing", door.post("/", " -- no \n"), 400, ""),
        ("ping", door.get("/ping"), 200, "Ok.\n"),
        ("root", door.get("/"), 200, "Ok.\n"),
        ("replicas", door.get("/replicas_status"), 200, "Ok.\n"),
        ("proton ping", door.get("/proton/ping"), 200, "{\"status\":\"UP\"}"),
        ("elsewhere", door.get("/nowhere"), 404, ""),
        ("unknown format", door.post("/", "SELECT 1 FORMAT Nope"), 404, ""),
        ("unknown setting", door.post("/?nope=1", "SELECT 1"), 404, ""),
    ];
    for (name, answer, status, body) in cases {
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        if status == 200 {
            assert_eq!(answer.text(), body, "{name}");
        }
    }
}

#[test]
fn heads_are_in_both_families() {
    let door = Door::open();
    let answer = door.post("/?query_id=q7", "SELECT 1");
    for (name, value) in [
        ("x-clickhouse-query-id", "q7"),
        ("x-timeplus-query-id", "q7"),
        ("x-clickhouse-format", "TabSeparated"),
        ("x-timeplus-timezone", "UTC"),
        ("x-clickhouse-server-display-name", "weir"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(answer.header("x-clickhouse-summary").unwrap().contains("\"result_rows\":\"1\""));
    assert_eq!(answer.header("x-clickhouse-exception-tag").unwrap().len(), 16);
    assert_eq!(answer.header("x-proton-query-id"), None);
    let old =
        door.send("POST / HTTP/1.1\r\nHost: x\r\nx-proton-query-id: p1\r\nContent-Length: 8\r\n\r\nSELECT 1");
    assert_eq!(old.header("x-proton-query-id"), Some("p1"));
}

#[test]
fn errors_have_text_code_and_status_and_the_connection_goes_on() {
    let door = Door::open();
    let mut connection = door.connect();
    for _ in 0..3 {
        let answer = connection.ask(&door.posting("/", "FAIL 60"));
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("x-clickhouse-exception-code"), Some("60"));
        assert_eq!(answer.header("x-timeplus-exception-code"), Some("60"));
        assert_eq!(
            answer.text(),
            "Code: 60. DB::Exception: stream nope does not exist. (UNKNOWN_TABLE) (version 0.1.0)\n"
        );
        assert_eq!(connection.ask(&door.posting("/", "SELECT 1")).text(), "1\n");
    }
    // A refused INSERT with a body still to come.
    let body = format!("INSERT INTO t FORMAT CSV\nx\n{}", "1\n".repeat(500_000));
    let answer = connection.ask(&door.posting("/", &body));
    assert_eq!(
        (answer.status, answer.header("x-clickhouse-exception-code")),
        (400, Some("27")),
        "{answer:?}"
    );
    assert_eq!(connection.ask(&door.posting("/", "SELECT 1")).text(), "1\n");
    assert_eq!(door.service.rows.load(Ordering::SeqCst), 0);
}

#[test]
fn get_reads_only() {
    let door = Door::open();
    let answer = door.get("/?query=INSERT%20INTO%20t%20VALUES%20(1)");
    assert_eq!((answer.status, answer.header("x-clickhouse-exception-code")), (403, Some("164")));
}

#[test]
fn rows_of_an_insert_stream_in() {
    let door = Door::open();
    let rows = "7\n".repeat(300_000);
    let cases = [
        ("url and body", "/?query=INSERT%20INTO%20t%20FORMAT%20CSV", rows.clone()),
        ("body alone", "/", format!("INSERT INTO t FORMAT CSV\n{rows}")),
    ];
    for (name, path, body) in cases {
        let before = door.service.rows.load(Ordering::SeqCst);
        let answer = door.post(path, &body);
        assert_eq!(answer.status, 200, "{name} {answer:?}");
        assert!(
            answer.header("x-clickhouse-summary").unwrap().contains("\"written_rows\":\"300000\""),
            "{name}"
        );
        assert_eq!(door.service.rows.load(Ordering::SeqCst) - before, 300_000, "{name}");
    }
    let answer = door.post("/", "INSERT INTO t (n) VALUES (1), (2), (3);");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(door.service.rows.load(Ordering::SeqCst), 600_003);
}

#[test]
fn a_late_bad_row_says_how_many_are_kept() {
    let door = Door::open();
    let body = format!("INSERT INTO t FORMAT CSV\n{}oops\n", "7\n".repeat(250_000));
    let answer = door.post("/", &body);
    assert_eq!(answer.status, 400);
    assert!(
        answer.text().contains("row 250001") && answer.text().contains("200000 rows before it are kept"),
        "{}",
        answer.text()
    );
}

#[test]
fn expect_continue_is_answered() {
    let door = Door::open();
    let mut connection = door.connect();
    connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n");
    let go_on = connection.read_head();
    assert!(go_on.starts_with("HTTP/1.1 100"), "{go_on}");
    connection.write(b"SELECT 1");
    assert_eq!(connection.read_answer().text(), "1\n");
}

#[test]
fn bodies_are_compressed_both_ways() {
    let door = Door::open();
    let plain = b"INSERT INTO t FORMAT CSV\n1\n2\n3\n";
    let gzip = {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(plain).unwrap();
        e.finish().unwrap()
    };
    let lz4 = {
        let mut e = lz4_flex::frame::FrameEncoder::new(Vec::new());
        e.write_all(plain).unwrap();
        e.finish().unwrap()
    };
    let zstd = zstd::bulk::compress(plain, 1).unwrap();
    for (coding, body) in [("gzip", gzip), ("lz4", lz4), ("zstd", zstd)] {
        let before = door.service.rows.load(Ordering::SeqCst);
        let answer = door.send_with("POST", "/", &[("Content-Encoding", coding)], &body);
        assert_eq!(answer.status, 200, "{coding} {answer:?}");
        assert_eq!(door.service.rows.load(Ordering::SeqCst) - before, 3, "{coding}");
    }
    let mut blocks = Vec::new();
    weir_wire::clickhouse_http::block::compress(b"1\n2\n", &mut blocks);
    let before = door.service.rows.load(Ordering::SeqCst);
    let answer = door.send_with("POST", "/?decompress=1&query=INSERT+INTO+t+FORMAT+CSV", &[], &blocks);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(door.service.rows.load(Ordering::SeqCst) - before, 2);

    for coding in ["gzip", "lz4", "zstd"] {
        let answer = door.send_with(
            "GET",
            "/?query=ROWS+50000&enable_http_compression=1",
            &[("Accept-Encoding", coding)],
            b"",
        );
        assert_eq!(answer.header("content-encoding"), Some(coding));
        let text = door::inflate(coding, &answer.body);
        assert_eq!(text.lines().count(), 50_000, "{coding}");
    }
    let answer = door.get("/?query=ROWS+5&compress=1");
    let mut reader = weir_wire::clickhouse_http::block::BlockReader::default();
    reader.push(&answer.body);
    assert_eq!(reader.next_block().unwrap().as_deref(), Some(&b"0\n1\n2\n3\n4\n"[..]));
    // Not asked for: not compressed, whatever is accepted.
    let plain = door.send_with("GET", "/?query=ROWS+5", &[("Accept-Encoding", "gzip")], b"");
    assert_eq!((plain.header("content-encoding"), plain.text().as_str()), (None, "0\n1\n2\n3\n4\n"));
}

#[test]
fn large_results_flow_and_small_ones_have_a_length() {
    let door = Door::open();
    let small = door.get("/?query=ROWS+5");
    assert_eq!(small.header("content-length"), Some("10"));
    let large = door.get("/?query=ROWS+1000000");
    assert_eq!(large.header("transfer-encoding"), Some("chunked"));
    assert_eq!(large.text().lines().count(), 1_000_000);
    assert!(large.complete);
    let held = door.get("/?query=ROWS+1000000&wait_end_of_query=1");
    assert!(held.header("content-length").is_some());
}

#[test]
fn an_early_error_has_a_status_and_a_late_one_cuts_the_body() {
    let door = Door::open();
    let early = door.get("/?query=BREAK+10");
    assert_eq!((early.status, early.header("x-clickhouse-exception-code")), (400, Some("153")));
    let held = door.get("/?query=BREAK+1000000&wait_end_of_query=1");
    assert_eq!(held.status, 400);
    for path in ["/?query=BREAK+1000000", "/?query=LIVE+BREAK+10"] {
        let late = door.get(path);
        assert_eq!(late.status, 200, "{path}");
        assert!(!late.complete, "{path}: the last chunk must be missing");
        let tag = late.header("x-clickhouse-exception-tag").unwrap().to_owned();
        let (at, message) = weir_wire::clickhouse_http::exception::find(&late.body, &tag).expect(path);
        assert!(message.starts_with("Code: 153. DB::Exception: division by zero"), "{message}");
        assert!(late.body[..at].ends_with(b"\n"), "rows before the error have left");
    }
    // Through a coding the block is inside it.
    let coded = door.send_with(
        "GET",
        "/?query=LIVE+BREAK+10&enable_http_compression=1",
        &[("Accept-Encoding", "gzip")],
        b"",
    );
    assert!(!coded.complete);
    assert!(door::inflate("gzip", &coded.body).contains("__exception__"));
}

#[test]
fn live_rows_leave_as_they_come_and_closing_cancels() {
    let door = Door::open();
    let mut connection = door.connect();
    connection.write(b"GET /?query=LIVE HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = connection.read_head();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("chunked"), "{head}");
    for i in 0..5 {
        door.service.emit(i);
        assert_eq!(connection.read_chunk().unwrap(), format!("{i}\n").as_bytes());
    }
    assert_eq!(door.service.cancelled.load(Ordering::SeqCst), 0);
    drop(connection);
    let took = door.service.wait_cancelled(1);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn closing_cancels_a_bounded_query_that_gives_nothing() {
    let door = Door::open();
    let mut connection = door.connect();
    connection.write(b"GET /?query=HANG HTTP/1.1\r\nHost: x\r\n\r\n");
    door.service.wait_started(1);
    drop(connection);
    assert!(door.service.wait_cancelled(1) < Duration::from_secs(1));
}

#[test]
fn who_may_enter() {
    let door = Door::with_password("pw");
    let basic = |text: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    };
    type Row<'a> = (&'a str, Vec<(&'a str, String)>, u16);
    let cases: Vec<Row> = vec![
        ("/?query=SELECT+1", vec![], 401),
        ("/?query=SELECT+1&user=default&password=pw", vec![], 200),
        ("/?query=SELECT+1&user=default&password=wrong", vec![], 403),
        ("/?query=SELECT+1", vec![("Authorization", basic("default:pw"))], 200),
        ("/?query=SELECT+1", vec![("Authorization", basic("root:pw"))], 403),
        (
            "/?query=SELECT+1",
            vec![("X-ClickHouse-User", "default".into()), ("X-ClickHouse-Key", "pw".into())],
            200,
        ),
        (
            "/?query=SELECT+1",
            vec![("x-timeplus-user", "default".into()), ("x-timeplus-key", "pw".into())],
            200,
        ),
        ("/ping", vec![], 200),
    ];
    for (path, headers, status) in cases {
        let list: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let answer = door.send_with("GET", path, &list, b"");
        assert_eq!(answer.status, status, "{path} {list:?}");
        if status != 200 {
            assert_eq!(answer.header("x-clickhouse-exception-code"), Some("516"));
        }
    }
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let door = Door::with_connections_max(2);
    let mut first = door.connect();
    let mut second = door.connect();
    assert_eq!(first.ask(&door.posting("/", "SELECT 1")).status, 200);
    assert_eq!(second.ask(&door.posting("/", "SELECT 1")).status, 200);
    let mut third = door.connect();
    let answer = third.read_answer();
    assert_eq!((answer.status, answer.header("x-clickhouse-exception-code")), (503, Some("202")));
    drop(first);
    door.wait_until(|| {
        door.connect().try_ask(&door.posting("/", "SELECT 1")).is_some_and(|a| a.status == 200)
    });
}

#[test]
fn sessions_keep_what_statements_set() {
    let door = Door::open();
    assert_eq!(door.post("/?session_id=s&from_url=1", "SET a=5").status, 200);
    assert_eq!(door.post("/?session_id=s", "SETTINGS").text(), "a=5\n");
    assert_eq!(door.post("/", "SETTINGS").text(), "\n");
    let gone = door.post("/?session_id=other&session_check=1", "SETTINGS");
    assert_eq!(gone.header("x-clickhouse-exception-code"), Some("372"));
}

#[test]
fn rest_calls_translate() {
    let door = Door::open();
    let body = "{\"columns\":[\"n\"],\"data\":[[1],[2]]}";
    let answer = door.post("/proton/v1/ingest/streams/t", body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text().contains("\"request_id\""), "{}", answer.text());
    assert_eq!(door.service.rows.load(Ordering::SeqCst), 2);
    assert_eq!(door.post("/timeplusd/v1/search", "{\"query\":\"SELECT 1\"}").text(), "1\n");
    let failed = door.post("/proton/v1/search", "{\"query\":\"FAIL 60\"}");
    assert_eq!(failed.status, 404);
    let json: serde_json::Value = serde_json::from_str(&failed.text()).unwrap();
    assert_eq!(json["code"], 60);
    let analyzed = door.post("/proton/v1/sqlanalyzer", "{\"query\":\"LIVE\"}");
    assert!(analyzed.text().contains("\"is_streaming\":true"), "{}", analyzed.text());
}

#[test]
fn metrics_are_prometheus_text() {
    let door = Door::open();
    door.post("/", "SELECT 1");
    let text = door.get("/metrics").text();
    assert!(text.contains("# TYPE weir_http_requests_total counter\nweir_http_requests_total 2\n"), "{text}");
}

#[test]
fn progress_comes_in_headers_when_asked() {
    let door = Door::open();
    let path = "/?query=SLOW&send_progress_in_http_headers=1&http_headers_progress_interval_ms=1";
    let answer = door.get(path);
    assert_eq!(answer.text(), "1\n");
    assert!(answer.header("x-clickhouse-progress").unwrap().contains("read_rows"));
}

#[test]
fn shutting_down_ends_live_queries_and_lets_others_finish() {
    let door = Door::open();
    let mut live = door.connect();
    live.write(b"GET /?query=LIVE HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = live.read_head();
    let mut slow = door.connect();
    slow.write(b"GET /?query=HELD HTTP/1.1\r\nHost: x\r\n\r\n");
    door.service.wait_started(2);
    door.shut_down();
    let rest = live.read_body(&head);
    assert!(!rest.complete && rest.text().contains("shutting down"), "{rest:?}");
    door.service.release();
    assert_eq!(slow.read_answer().text(), "1\n");
}
