//! `weir check`, `weir backup` and `weir restore`, on directories of servers that were killed.

use crate::life::wait_until;
use crate::process::Server;
use crate::view_answer::{Restarted, wait_for_view};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Runs the binary; gives exit code, and output of both kinds.
fn weir(args: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(args)
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.code().expect("it ends by itself"), text)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// Every file below a directory.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                all.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
            }
        }
    }
    all
}

/// A directory with everything in it: parts, logs, views with state, a task, what was subscribed to.
fn filled(dir: &Path) -> Restarted<'_> {
    let server = Restarted::new(dir, &[]);
    server.query("CREATE STREAM s (k string, v int64) SETTINGS shards=2");
    server.query("CREATE STREAM t (c uint64)");
    server.query("CREATE MATERIALIZED VIEW kept AS SELECT k, v FROM s WHERE v % 2 = 0");
    server.query(
        "CREATE MATERIALIZED VIEW counted AS SELECT k, count() AS c, sum(v) AS sv FROM s GROUP BY k EMIT CHANGELOG",
    );
    server.query("CREATE TASK often SCHEDULE 1h INTO t AS SELECT count() AS c FROM s");
    server.query("INSERT INTO s (k, v) SELECT to_string(number % 100), number FROM numbers(20000)");
    server.query("SYSTEM FLUSH STREAM s");
    server.query("INSERT INTO s (k, v) SELECT to_string(number % 100), number FROM numbers(500)");
    for view in ["kept", "counted"] {
        server.query(&format!("SYSTEM SYNC VIEW {view}"));
        server.query(&format!("SYSTEM CHECKPOINT VIEW {view}"));
    }
    server
}

fn assert_whole(server: &Restarted<'_>, rows: u64) {
    for view in ["kept", "counted"] {
        wait_for_view(server, view);
        server.query(&format!("SYSTEM SYNC VIEW {view}"));
    }
    assert_eq!(server.query("SELECT count() FROM table(s)"), format!("{rows}\n"));
    assert_eq!(
        server.query("SELECT k, v, count() FROM table(kept) GROUP BY k, v ORDER BY k, v"),
        server.query("SELECT k, v, count() FROM table(s) WHERE v % 2 = 0 GROUP BY k, v ORDER BY k, v")
    );
    // Changes leave every two seconds.
    let kept = "SELECT k, c, sv FROM table(counted) GROUP BY k, c, sv HAVING sum(_tp_delta) != 0 ORDER BY k";
    let counted = server.query("SELECT k, count(), sum(v) FROM table(s) GROUP BY k ORDER BY k");
    wait_until("counted has all changes", || server.query(kept) == counted);
}

fn kill(mut server: Restarted<'_>) {
    server.server.take().unwrap().kill();
}

#[test]
fn a_check_finds_what_is_damaged_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = filled(dir.path());
    let (code, told) = weir(&["check", text(&data)]);
    assert!(code == 2 && told.contains("is in use by process"), "{code} {told}");
    kill(server);
    let before = contents(&data);
    let (code, told) = weir(&["check", text(&data)]);
    assert!(code == 0 && told.contains("all is well") && told.contains("2 checkpoints"), "{code} {told}");
    assert!(contents(&data) == before, "nothing was changed");

    // Of each kind of file the largest; one byte of it is another one.
    let kinds: [(&str, fn(&str) -> bool); 8] = [
        ("part", |p| p.ends_with(".parquet")),
        ("checksums of a part", |p| p.ends_with(".parquet.crc")),
        ("manifest", |p| p.contains("/manifest/")),
        ("schema", |p| p.ends_with(".schema")),
        ("log", |p| p.starts_with("streams/") && p.ends_with(".seg")),
        ("run of a checkpoint", |p| p.starts_with("checkpoints/") && p.contains("/run-")),
        ("epoch", |p| p.starts_with("checkpoints/") && p.contains("/epoch-")),
        ("catalog", |p| p.starts_with("catalog/log/") && p.ends_with(".seg")),
    ];
    for (kind, is) in kinds {
        let largest = before
            .iter()
            .filter(|(p, _)| is(text(p)))
            .max_by_key(|(_, bytes)| bytes.iter().rposition(|b| *b != 0).unwrap_or(0));
        let (path, bytes) = largest.unwrap_or_else(|| panic!("there is a {kind}"));
        let end = bytes.iter().rposition(|b| *b != 0).unwrap();
        // A log's end may have been cut by the kill; what lies before it may not.
        let at = if kind == "manifest" { 20 } else { end / 3 };
        let mut other = bytes.clone();
        other[at] ^= 0x10;
        std::fs::write(data.join(path), &other).unwrap();
        let (code, told) = weir(&["check", text(&data)]);
        assert!(code == 1 && told.contains("problem: "), "{kind} {path:?} at {at}: {code} {told}");
        let dir = text(path.parent().unwrap());
        let named = told.contains(dir) || told.contains("stream ") || told.contains("catalog");
        assert!(named, "{kind}: {path:?} is not named: {told}");
        std::fs::write(data.join(path), bytes).unwrap();
    }
    // The end of a manifest may be what a kill left half written: the next start goes on without it.
    let (path, bytes) = before.iter().find(|(p, _)| text(p).contains("/manifest/")).unwrap();
    std::fs::write(data.join(path), [&bytes[..], b"WMF1 half"].concat()).unwrap();
    let (code, told) = weir(&["check", text(&data)]);
    assert!(code == 0 && told.contains(&format!("note: {}", text(path))), "{code} {told}");
    std::fs::write(data.join(path), bytes).unwrap();
    std::fs::create_dir_all(data.join("streams/00000000-0000-0000-0000-000000000001")).unwrap();
    let (code, told) = weir(&["check", text(&data)]);
    assert!(
        code == 0 && told.contains("note: streams/00000000-0000-0000-0000-000000000001"),
        "{code} {told}"
    );
    let (code, told) = weir(&["check", text(&dir.path().join("nowhere"))]);
    assert!(code == 2 && told.contains("there is no data directory"), "{code} {told}");
}

#[test]
fn a_backup_is_restored_and_goes_on_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backup) = (dir.path().join("data"), dir.path().join("backup"));
    kill(filled(dir.path()));
    let (code, told) = weir(&["backup", text(&data), text(&backup)]);
    assert!(code == 0, "{told}");
    let (code, told) = weir(&["backup", text(&data), text(&backup)]);
    assert!(code == 1 && told.contains("holds something already"), "{told}");

    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let target = other.join("data");
    let (code, told) = weir(&["restore", text(&backup), text(&target)]);
    assert!(code == 0, "{told}");
    let (code, told) = weir(&["restore", text(&backup), text(&target)]);
    assert!(code == 1 && told.contains("is not empty"), "{told}");
    let mut server = Restarted::new(&other, &[]);
    assert_whole(&server, 20_500);
    server.query("INSERT INTO s (k, v) SELECT to_string(number % 100), number FROM numbers(1000)");
    server.kill();
    assert_whole(&server, 21_500);
    let gaps = "SELECT count() FROM (SELECT max(_tp_sn) + 1 - count() AS gap FROM table(s) GROUP BY _tp_shard) WHERE gap != 0";
    assert_eq!(server.query(gaps), "0\n");
    drop(server);

    // A backup that lost its end, and one with another byte.
    let manifest = backup.join("weir-backup.json");
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    let third = dir.path().join("third");
    let (code, told) = weir(&["restore", text(&backup), text(&third)]);
    assert!(code == 1 && told.contains("has no weir-backup.json"), "{told}");
    std::fs::write(&manifest, whole).unwrap();
    let (path, bytes) = contents(&backup).into_iter().find(|(p, _)| text(p).ends_with(".parquet")).unwrap();
    let mut damaged = bytes;
    damaged[40] ^= 1;
    std::fs::write(backup.join(&path), damaged).unwrap();
    let (code, told) = weir(&["restore", text(&backup), text(&third)]);
    assert!(
        code == 1 && told.contains("does not match its checksum") && told.contains(text(&path)),
        "{told}"
    );
    assert!(!third.exists() && !dir.path().join("third.restoring").exists(), "nothing is left of it");

    // What does not check is not backed up as if it were whole.
    let (path, bytes) = contents(&data).into_iter().find(|(p, _)| text(p).ends_with(".parquet")).unwrap();
    let mut damaged = bytes;
    damaged[40] ^= 1;
    std::fs::write(data.join(&path), damaged).unwrap();
    let (code, told) = weir(&["backup", text(&data), text(&third)]);
    assert!(code == 1 && told.contains("does not check"), "{told}");
}

/// Stops others when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_backup_is_taken_of_an_instant_while_rows_come_and_parts_are_merged() {
    const WRITERS: usize = 3;
    const ROWS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let server = filled(dir.path());
    let table = &server.server.as_ref().unwrap().table;
    let acknowledged = AtomicU64::new(20_500);
    let stop = AtomicBool::new(false);
    let mut taken = Vec::new();
    std::thread::scope(|scope| {
        // A scope waits for its threads, also where this one has failed.
        let stopping = Stop(&stop);
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    table
                        .query(&format!(
                            "INSERT INTO s (k, v) SELECT to_string(number % 7), number FROM numbers({ROWS})"
                        ))
                        .expect("rows are taken");
                    acknowledged.fetch_add(ROWS, Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                for sql in ["SYSTEM FLUSH STREAM s", "OPTIMIZE STREAM s", "SYSTEM CHECKPOINT VIEW counted"] {
                    table.query(sql).expect("it is done");
                }
            }
        });
        for n in 0..3 {
            let to = dir.path().join(format!("backup-{n}"));
            let least = acknowledged.load(Relaxed);
            let told = server.query(&format!("BACKUP TO '{}'", text(&to)));
            let fields: Vec<&str> = told.trim().split('\t').collect();
            assert!(fields.len() == 4 && fields[0] == text(&to) && fields[1] == "4", "{told}");
            taken.push((to, least, acknowledged.load(Relaxed) + WRITERS as u64 * ROWS));
        }
        drop(stopping);
    });
    for (n, (backup, least, most)) in taken.into_iter().enumerate() {
        let restored = dir.path().join(format!("restored-{n}"));
        std::fs::create_dir(&restored).unwrap();
        let (code, told) = weir(&["restore", text(&backup), text(&restored.join("data"))]);
        assert!(code == 0, "{told}");
        let (code, told) = weir(&["check", text(&restored.join("data"))]);
        assert!(code == 0, "{told}");
        let mut of_then = Restarted::new(&restored, &[]);
        let rows: u64 = of_then.query("SELECT count() FROM table(s)").trim().parse().unwrap();
        assert!(least <= rows && rows <= most && rows.is_multiple_of(ROWS), "{least} <= {rows} <= {most}");
        assert_whole(&of_then, rows);
        of_then.query("INSERT INTO s (k, v) SELECT to_string(number % 100), number FROM numbers(1000)");
        of_then.kill();
        assert_whole(&of_then, rows + 1_000);
    }
    // The server has not noticed.
    assert_whole(&server, acknowledged.load(Relaxed));

    let inside = dir.path().join("data/backup");
    for (sql, says) in [
        (format!("BACKUP TO '{}'", text(&inside)), "lies in the data directory itself"),
        (format!("BACKUP TO '{}'", text(dir.path())), "holds something already"),
        ("BACKUP TO 'b' SETTINGS end_point='x'".into(), "did you mean endpoint"),
        ("BACKUP TO 's3://bucket/prefix'".into(), "AWS_ACCESS_KEY_ID"),
        ("BACKUP STREAM s TO 'b'".into(), "a backup holds all there is"),
    ] {
        let refused = server.server.as_ref().unwrap().table.query(&sql).unwrap_err();
        assert!(refused.text.contains(says), "{sql}: {refused}");
    }
    assert!(!inside.exists());
}

/// An S3 service that ends with the test.
pub struct Moto {
    child: Child,
    pub port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    /// `None` where there is no such program.
    pub fn start() -> Option<Moto> {
        let program = std::env::var("WEIR_TEST_MOTO").ok()?;
        // A port is found, given back and taken again: another test's server may come between.
        for _ in 0..20 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = Command::new(&program)
                .args(["-H", "127.0.0.1", "-p", &port.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("moto starts");
            let mut moto = Moto { child, port };
            wait_until("moto listens, or has ended", || {
                moto.child.try_wait().unwrap().is_some()
                    || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if moto.child.try_wait().unwrap().is_none() && moto.ask("PUT /weir").starts_with("HTTP/1.1 200") {
                return Some(moto);
            }
        }
        panic!("moto found no port");
    }

    /// The answer to a request without a body.
    pub fn ask(&self, what: &str) -> String {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head =
            format!("{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn a_backup_may_lie_in_an_object_store() {
    let Some(moto) = Moto::start() else {
        eprintln!("SKIPPED: WEIR_TEST_MOTO is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = filled(dir.path());
    // More than one piece of an upload.
    server.query("CREATE STREAM big (x string)");
    for _ in 0..3 {
        server.query(
            "INSERT INTO big SELECT hex(rand64()) || hex(rand64()) || hex(rand64()) FROM numbers(100000)",
        );
    }
    kill(server);
    let endpoint = format!("http://127.0.0.1:{}", moto.port);
    let at = ["--endpoint", &endpoint];
    let (code, told) = weir(&[&["backup", text(&data), "s3://weir/nightly/1"], &at[..]].concat());
    assert!(code == 0, "{told}");
    let (code, told) = weir(&[&["backup", text(&data), "s3://weir/nightly/1"], &at[..]].concat());
    assert!(code == 1 && told.contains("holds something already"), "{told}");
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let target = other.join("data");
    let (code, told) = weir(&[&["restore", "s3://weir/nightly/2", text(&target)], &at[..]].concat());
    assert!(code == 1 && told.contains("has no weir-backup.json"), "{told}");
    let (code, told) = weir(&[&["restore", "s3://weir/nightly/1", text(&target)], &at[..]].concat());
    assert!(code == 0, "{told}");
    let server = Restarted::new(&other, &[]);
    assert_whole(&server, 20_500);
    assert_eq!(server.query("SELECT count(), uniq_exact(x) > 299000 FROM table(big)"), "300000\ttrue\n");
}

#[test]
fn a_directory_that_no_server_has_run_on_checks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    assert_eq!(server.stop(), Some(0));
    let (code, told) = weir(&["check", text(&dir.path().join("data"))]);
    assert!(code == 0 && told.contains("0 streams"), "{code} {told}");
}
