//! Queries without end: into streams, drained, killed; what is remembered of queries.

use super::*;
use std::sync::atomic::Ordering;

impl Server {
    /// Runs a statement that lasts, under an id, on a task of its own.
    fn begin(&self, id: &str, text: &str) -> tokio::task::JoinHandle<Result<u64, Error>> {
        let engine = self.engine.as_ref().unwrap().clone();
        let (id, text) = (id.to_owned(), text.to_owned());
        self.runtime.spawn(async move {
            match engine.execute(&mut Session::default(), &text, Some(id)).await? {
                Outcome::Done(done) => Ok(done.written_rows),
                _ => panic!("{text} gives rows"),
            }
        })
    }

    fn end<T>(&self, task: tokio::task::JoinHandle<T>) -> T {
        let ended = async { tokio::time::timeout(Duration::from_secs(20), task).await };
        self.runtime.block_on(ended).expect("it ends").unwrap()
    }

    fn wait_until_streaming(&self, id: &str) {
        let engine = self.engine.as_ref().unwrap();
        self.wait_for(&format!("query {id}"), || engine.queries().streaming_ids().contains(&id.to_owned()));
    }

    fn rows_with_id(&self, id: &str, text: &str) -> Result<Vec<String>, Error> {
        let engine = self.engine.as_ref().unwrap();
        let mut session = table_mode();
        self.runtime.block_on(async {
            let Outcome::Rows(mut handle) = engine.execute(&mut session, text, Some(id.into())).await? else {
                return Ok(Vec::new());
            };
            let mut rows = Vec::new();
            while let Some(batch) = handle.batches.next().await {
                rows.extend(lines(&batch?));
            }
            Ok(rows)
        })
    }
}

#[test]
fn an_insert_from_a_stream_runs_until_it_is_killed() {
    let server = Server::new();
    server.run("CREATE STREAM source (k int32)");
    server.run("CREATE STREAM target (k int64, s string)");
    server.run("INSERT INTO source (k) VALUES (1), (2)");
    let insert = server.begin(
        "copy",
        "INSERT INTO target (k, s) SELECT k * 10, to_string(k) FROM source WHERE k != 2 SETTINGS seek_to='earliest'",
    );
    server.wait_until_streaming("copy");
    for k in 3..6 {
        server.run(&format!("INSERT INTO source (k) VALUES ({k})"));
    }
    server.run("SYSTEM SYNC QUERY 'copy'");
    assert_eq!(server.rows("SELECT k, s FROM target ORDER BY k"), ["10 1", "30 3", "40 4", "50 5"]);
    assert_eq!(
        server.rows("SELECT is_streaming, written_rows FROM system.queries WHERE query_id = 'copy'"),
        ["1 4"]
    );
    assert_eq!(server.rows("KILL QUERY WHERE query_id = 'copy' SYNC")[0].split(' ').next(), Some("finished"));
    let e = server.end(insert).unwrap_err();
    assert_eq!(e.code.number(), 394, "{e}");
    assert!(e.message.contains("4 rows of this insert are kept"), "{e}");
    server.run("INSERT INTO source (k) VALUES (6)");
    assert_eq!(server.rows("SELECT count() FROM target"), ["4"]);
}

#[test]
fn an_insert_from_a_stream_ends_with_its_limit_its_source_or_its_client() {
    let server = Server::new();
    server.run("CREATE STREAM source (k int32)");
    server.run("CREATE STREAM target (k int32) SETTINGS shards = 2");
    server.run("INSERT INTO source (k) VALUES (1), (2), (3)");
    let limited = "INSERT INTO target (k) SELECT k FROM source LIMIT 2 SETTINGS seek_to='earliest'";
    assert_eq!(server.end(server.begin("limited", limited)).unwrap(), 2);
    assert_eq!(server.run("INSERT INTO target (k) SELECT k FROM source"), 3, "table mode is bounded");
    assert_eq!(server.run("CREATE STREAM filled AS SELECT k FROM source"), 3);

    let follow = "INSERT INTO target (k) SELECT k FROM source";
    let left = server.begin("left", follow);
    server.wait_until_streaming("left");
    left.abort();
    let engine = server.engine.as_ref().unwrap();
    server.wait_for("the end of a query whose client left", || engine.queries().get("left").is_none());

    let dropped = server.begin("dropped", follow);
    server.wait_until_streaming("dropped");
    server.run("DROP STREAM source");
    assert_eq!(server.end(dropped).unwrap_err().code.number(), 60);
    server.run("CREATE STREAM source (k int32)");
    let homeless = server.begin("homeless", follow);
    server.wait_until_streaming("homeless");
    server.run("DROP STREAM target");
    server.run("INSERT INTO source (k) VALUES (1)");
    let e = server.end(homeless).unwrap_err();
    assert_eq!((e.code.number(), e.message.as_str()), (60, "stream default.target was dropped"));
    let e = server
        .end(server.begin("x", "INSERT INTO filled (k) SELECT k FROM source SETTINGS idempotent_id='a'"));
    assert_eq!(e.unwrap_err().code.number(), 36);
}

#[test]
fn a_slow_target_holds_back_its_source() {
    let server = Server::new();
    server.run("CREATE STREAM source (k uint64)");
    server.run("CREATE STREAM target (k uint64)");
    server.run("INSERT INTO source (k) SELECT number FROM numbers(300000)");
    let text = "INSERT INTO target (k) SELECT k FROM source SETTINGS seek_to='earliest', output_buffer_bytes_max=65536";
    let insert = server.begin("all", text);
    server.wait_until_streaming("all");
    server.run("SYSTEM SYNC QUERY 'all'");
    assert_eq!(server.rows("SELECT count(), sum(k) FROM target"), ["300000 44999850000"]);
    let entry = server.engine.as_ref().unwrap().queries().get("all").unwrap();
    assert_eq!(entry.progress.written_rows.load(Ordering::Relaxed), 300_000);
    drop(entry);
    server.rows("KILL QUERY WHERE query_id = 'all'");
    assert_eq!(server.end(insert).unwrap_err().code.number(), 394);
}

#[test]
fn a_drained_query_gives_all_durable_rows_and_ends() {
    let server = Server::with(Options { test_clock: true, ..Options::default() });
    server.run("CREATE STREAM s (k int32) SETTINGS shards = 3");
    server.run("CREATE RANDOM STREAM r (k int32) SETTINGS eps = 1");
    for k in 0..10 {
        server.run(&format!("INSERT INTO s (k) VALUES ({k})"));
    }
    let start = |id: &str, text: &str| {
        let engine = server.engine.as_ref().unwrap();
        let mut session = Session::default();
        let started = engine.execute(&mut session, text, Some(id.into()));
        match server.runtime.block_on(started).unwrap() {
            Outcome::Rows(handle) => handle,
            _ => panic!("{text} gives no rows"),
        }
    };
    let queries = [
        ("live", "SELECT k FROM s", 5),
        ("arrival", "SELECT k FROM s SETTINGS seek_to='earliest'", 15),
        ("event", "SELECT k FROM s SETTINGS seek_to='earliest', replay_order='event_time'", 15),
        ("both", "SELECT k FROM s WHERE _tp_sn >= 0 UNION ALL SELECT k FROM s", 20),
        ("random", "SELECT k FROM r WHERE to_string(k) = 'none'", 0),
    ];
    let mut handles: Vec<_> = queries.iter().map(|(id, text, rows)| (*id, start(id, text), *rows)).collect();
    for k in 10..15 {
        server.run(&format!("INSERT INTO s (k) VALUES ({k})"));
    }
    let mut all: Vec<String> = Vec::new();
    for (id, handle, rows) in &mut handles {
        server.run(&format!("SYSTEM DRAIN QUERY '{id}'"));
        server.run("INSERT INTO s (k) VALUES (99)");
        // What came after the drain is not waited for; a query not drained yet sees it.
        all.clear();
        server.runtime.block_on(async {
            while let Some(batch) = handle.batches.next().await {
                all.extend(lines(&batch.unwrap()));
            }
        });
        all.retain(|k| k != "99");
        assert_eq!(all.len(), *rows, "{id}");
    }
    server.run("CREATE STREAM target (k int32)");
    let insert = server.begin("copy", "INSERT INTO target (k) SELECT k FROM s SETTINGS seek_to='earliest'");
    server.wait_until_streaming("copy");
    server.run("SYSTEM DRAIN");
    let written = server.end(insert).unwrap();
    assert_eq!(server.rows("SELECT count() FROM target"), [written.to_string()]);
    assert_eq!(server.rows("SELECT count() FROM s"), [written.to_string()]);
    assert_eq!(server.error("SYSTEM DRAIN QUERY 'nobody'").code.number(), 36);
    assert_eq!(Server::new().error("SYSTEM DRAIN").code.number(), 36);
}

#[test]
fn a_test_clock_stands_until_it_is_advanced() {
    let server = Server::with(Options { test_clock: true, ..Options::default() });
    let now = || server.rows("SELECT to_unix_timestamp(now())")[0].parse::<i64>().unwrap();
    let before = now();
    assert_eq!(now(), before);
    server.run("SYSTEM CLOCK ADVANCE 5s");
    assert_eq!(now(), before + 5);
    server.run("CREATE STREAM s (k int32)");
    server.run("INSERT INTO s (k) VALUES (1)");
    server.run("SYSTEM CLOCK ADVANCE 1h");
    server.run("INSERT INTO s (k) VALUES (2)");
    assert_eq!(server.rows("SELECT date_diff('second', min(_tp_time), max(_tp_time)) FROM s"), ["3600"]);
    assert_eq!(Server::new().error("SYSTEM CLOCK ADVANCE 1s").code.number(), 36);
}

#[test]
fn the_query_log_remembers_what_ended_and_how() {
    let server = Server::with(Options { settings: vec![("query_log_rows_max", "6")], ..Options::default() });
    server.run("CREATE STREAM s (k int32)");
    server.run("INSERT INTO s (k) VALUES (1), (2), (3)");
    assert_eq!(server.rows_with_id("sum", "SELECT sum(k) FROM s").unwrap(), ["6"]);
    server.rows_with_id("quiet", "SELECT 1 SETTINGS log_queries=0").unwrap();
    server.rows_with_id("unknown", "SELECT nothing FROM s").unwrap_err();
    server.rows_with_id("bad", "SELEC 1").unwrap_err();
    server.rows_with_id("late", "SELECT throw_if(k = 2, 'no') FROM s").unwrap_err();
    let log = "SELECT type, query_id, query_kind, read_rows, result_rows, exception_code FROM system.query_log \
               WHERE query_id IN ('sum', 'quiet', 'unknown', 'bad', 'late')";
    let found = server.rows(log);
    assert_eq!(found[0], "QueryFinish sum Select 3 1 0");
    assert_eq!(found[1], "ExceptionBeforeStart unknown Select 0 0 47");
    assert_eq!(found[2], "ExceptionBeforeStart bad  0 0 62");
    assert!(found[3].starts_with("ExceptionWhileProcessing late Select"), "{found:?}");
    assert!(found[3].ends_with(" 395"), "{found:?}");
    assert_eq!(found.len(), 4);
    for _ in 0..10 {
        server.rows("SELECT 1");
    }
    assert_eq!(server.rows("SELECT count() FROM system.query_log"), ["6"]);
    let text =
        server.rows("SELECT query, user, current_database, is_streaming FROM system.query_log LIMIT 1");
    assert_eq!(text, ["SELECT 1 default default 0"]);
    let tail = server.tail("SELECT k FROM s");
    let id = tail.handle.query_id.clone();
    drop(tail);
    let of_tail =
        format!("SELECT is_streaming, exception_code FROM system.query_log WHERE query_id = '{id}'");
    server.wait_for("the log of a tail", || !server.try_rows(&of_tail).unwrap().is_empty());
    assert_eq!(server.rows(&of_tail), ["1 394"]);
    server.run("INSERT INTO s (k) VALUES (4)");
    let inserts = "SELECT written_rows, exception_code FROM system.query_log WHERE query_kind = 'Insert'";
    server.wait_for("the log of an insert", || server.try_rows(inserts).unwrap() == ["1 0"]);
    assert_eq!(server.error("SET query_log_rows_max = 5").code.number(), 36);
}

#[test]
fn a_seek_before_the_oldest_row_is_told() {
    let server = Server::new();
    server.run("CREATE STREAM s (k int32)");
    server.run("INSERT INTO s (k) VALUES (1), (2), (3)");
    server.run("TRUNCATE STREAM s");
    server.run("INSERT INTO s (k) VALUES (4)");
    for seek in ["1", "-1h"] {
        let mut tail = server.tail(&format!("SELECT k FROM s SETTINGS seek_to='{seek}'"));
        assert_eq!(tail.take(1), ["4"]);
        let [warning] = tail.handle.warnings.as_slice() else { panic!("{:?}", tail.handle.warnings) };
        assert!(warning.contains("default.s shard 0 holds no row before sequence number 3"), "{warning}");
        let id = &tail.handle.query_id;
        let told = format!("SELECT warning FROM system.query_warnings WHERE query_id = '{id}'");
        assert_eq!(server.rows(&told), [warning.as_str()]);
    }
    assert!(server.tail("SELECT k FROM s SETTINGS seek_to='earliest'").handle.warnings.is_empty());
}
