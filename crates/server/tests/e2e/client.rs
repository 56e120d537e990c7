//! `weir client`, `weir demo` and wrong usage, as processes.

use crate::life::wait_until;
use crate::process::{Server, signal};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

fn weir(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["WEIR_PASSWORD", "WEIR_HOST", "WEIR_PORT", "WEIR_CONFIG"] {
        command.env_remove(name);
    }
    command
}

/// The client against this server's streaming port, with `input` on standard input.
fn client(server: &Server, arguments: &[&str], input: Option<&str>) -> Output {
    let (_, port) = server.streaming.address.rsplit_once(':').expect("addresses have ports");
    let mut command = weir(&["client", "--port", port]);
    command.args(arguments);
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("the client starts");
    if let Some(input) = input {
        child.stdin.take().expect("stdin is piped").write_all(input.as_bytes()).expect("the client reads");
    }
    child.wait_with_output().expect("the client ends")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn statements_data_and_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let ran = client(&server, &["-n", "-q", "CREATE STREAM t (a int32, b string); SELECT 1"], None);
    assert_eq!((ran.status.code(), out(&ran).as_str()), (Some(0), "1\n"), "{}", err(&ran));

    let ran = client(&server, &["-q", "INSERT INTO t (a, b) FORMAT CSV"], Some("1,x\n2,\"y;z\"\n"));
    assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
    let ran =
        client(&server, &["-q", "SELECT a, b FROM table(t) ORDER BY a", "--format", "JSONEachRow"], None);
    assert_eq!(out(&ran), "{\"a\":1,\"b\":\"x\"}\n{\"a\":2,\"b\":\"y;z\"}\n");
    let ran =
        client(&server, &[], Some("INSERT INTO t (a, b) VALUES (3, 'c');\nSELECT count() FROM table(t);\n"));
    assert_eq!((ran.status.code(), out(&ran).as_str()), (Some(0), "3\n"), "{}", err(&ran));
    let ran = client(&server, &["-q", "SELECT 1 AS n \\G"], None);
    assert!(out(&ran).contains("n: 1"), "{}", out(&ran));

    let ran = client(&server, &["-q", "SELECT nope FROM table(t)"], None);
    assert_eq!(ran.status.code(), Some(1));
    assert!(err(&ran).contains("Code: 47"), "{}", err(&ran));
    let ran = client(&server, &["-q", "SELECT 1; SELECT 2"], None);
    assert_eq!(ran.status.code(), Some(2), "{}", err(&ran));
    let ran = client(&server, &["--no-such-option"], None);
    assert_eq!(ran.status.code(), Some(2));
    let ran = weir(&["client", "--port", "1", "-q", "SELECT 1"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(3));
    assert!(err(&ran).contains("127.0.0.1:1"), "{}", err(&ran));
}

#[test]
fn an_interrupt_ends_the_query_on_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (x int32)");
    let (_, port) = server.streaming.address.rsplit_once(':').unwrap();
    let mut child = weir(&["client", "--port", port, "-q", "SELECT x, 'marker_9' FROM s"]).spawn().unwrap();
    let running = "SELECT count() FROM system.queries WHERE query LIKE '%marker_9%' AND query NOT LIKE '%system.queries%'";
    wait_until("the query is listed", || server.query(running) == "1\n");
    server.query("INSERT INTO s (x) VALUES (7)");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "7\tmarker_9\n");
    signal(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_until("the query is gone", || server.query(running) == "0\n");
}

#[test]
fn the_demo_shows_rows_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let ran =
        weir(&["demo", "--rate", "50", "--seconds", "3"]).env("TMPDIR", scratch.path()).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
    let shown = out(&ran);
    assert!(shown.contains("symbol") && shown.contains("weir client --port"), "{shown}");
    assert!(["ELBE", "ODER", "ISAR", "SPREE", "WESER"].iter().any(|s| shown.contains(s)), "{shown}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);

    let mut child = weir(&["demo"]).env("TMPDIR", scratch.path()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().expect("rows before the end").unwrap().contains("──") {}
    signal(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn wrong_starts_are_one_line_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("weir.yaml");
    std::fs::write(&config, "htp_port: 1\n").unwrap();
    let config = config.to_str().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    // (arguments, what the line must hold)
    let cases: &[(&[&str], &[&str])] = &[
        (&["server", "--data-dir", data, "--config", config], &["weir.yaml", "htp_port", "http_port"]),
        (&["server", "--data-dir", data, "--config", "/nowhere.yaml"], &["/nowhere.yaml"]),
        (&["server", "--data-dir", data, "--listen", "0.0.0.0"], &["0.0.0.0", "WEIR_PASSWORD"]),
        (&["server", "--data-dir", "/proc/weir"], &["/proc/weir", "--data-dir"]),
    ];
    for (arguments, parts) in cases {
        let ran = weir(arguments).output().unwrap();
        let said = err(&ran);
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        for part in *parts {
            assert!(said.contains(part), "{said} lacks {part}");
        }
    }
    let ran = weir(&["--version"]).output().unwrap();
    assert_eq!(out(&ran), format!("weir {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_password_is_asked_for_at_every_door() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let server = Server::start_with(&dir.path().join("data"), &["--password-file", file.to_str().unwrap()]);
    let ran = client(&server, &["-q", "SELECT 1"], None);
    assert_eq!(ran.status.code(), Some(1));
    assert!(err(&ran).contains("Code: 516"), "{}", err(&ran));
    let ran = client(&server, &["--password", "s3cret", "-q", "SELECT 1"], None);
    assert_eq!(out(&ran), "1\n", "{}", err(&ran));
}

#[test]
fn a_clean_stop_takes_less_than_five_seconds_with_queries_open() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM s (x int32)");
    let _tail = server.streaming.follow("SELECT x FROM s").unwrap();
    let start = std::time::Instant::now();
    assert_eq!(server.stop(), Some(0));
    assert!(start.elapsed().as_secs_f64() < 5.0, "{:?}", start.elapsed());
}
