//! Queries that read a stream while it is dropped, truncated or replaced.

use super::*;

/// More than every buffer between parts and client holds.
const ROWS: usize = 400_000;

/// Some rows in parts, some in the log.
fn filled() -> Server {
    let server = Server::new();
    server.run("CREATE STREAM t (k uint64, s string)");
    server.run(&format!("INSERT INTO t (k, s) SELECT number, to_string(number) FROM numbers({})", ROWS / 2));
    server.run("SYSTEM FLUSH STREAM t");
    server.run(&format!(
        "INSERT INTO t (k, s) SELECT number, to_string(number) FROM numbers({}, {}) \
         SETTINGS max_insert_block_size = 10000",
        ROWS / 2,
        ROWS / 2
    ));
    server
}

#[allow(clippy::disallowed_methods, reason = "a test looks behind the store's back")]
fn streams_on_disk(server: &Server) -> usize {
    std::fs::read_dir(server.dir.path().join("streams")).unwrap().count()
}

impl Server {
    /// A bounded query of which one batch was taken, with the rows of that batch.
    fn begun(&self, text: &str) -> (QueryHandle, usize) {
        let Outcome::Rows(mut handle) = self.execute(&mut table_mode(), text).unwrap() else {
            panic!("{text} gives no rows")
        };
        let first = self.runtime.block_on(handle.batches.next()).unwrap().unwrap();
        (handle, first.num_rows())
    }

    fn rest(&self, handle: &mut QueryHandle) -> Result<usize, Error> {
        self.runtime.block_on(async {
            let mut rows = 0;
            while let Some(batch) = handle.batches.next().await {
                rows += batch?.num_rows();
            }
            Ok(rows)
        })
    }

    pub(super) fn wait_for(&self, what: &str, mut there: impl FnMut() -> bool) {
        let now = || {
            self.runtime.block_on(async {
                tokio::task::yield_now().await;
                tokio::time::Instant::now()
            })
        };
        let until = now() + Duration::from_secs(20);
        while !there() {
            assert!(now() < until, "{what} did not come");
        }
    }
}

#[test]
fn a_query_reads_a_stream_to_its_end_whatever_happens_to_it_meanwhile() {
    for statement in ["DROP STREAM t", "TRUNCATE STREAM t", "CREATE OR REPLACE STREAM t (other string)"] {
        let server = filled();
        let (mut handle, first) = server.begun("SELECT k, s FROM t");
        assert!(first < ROWS / 2, "one batch holds half of it");
        server.run(statement);
        let (mut second, _) = server.begun("SELECT 1");
        assert_eq!(server.rest(&mut second).unwrap(), 0);
        assert_eq!(first + server.rest(&mut handle).unwrap(), ROWS, "{statement}");
        drop(handle);
        if statement.starts_with("DROP") {
            server.wait_for("the removal of the files", || streams_on_disk(&server) == 0);
            assert_eq!(server.error("SELECT k FROM t").code.number(), 60);
        } else {
            server.wait_for("the removal of the old files", || streams_on_disk(&server) == 1);
            assert_eq!(server.rows("SELECT count() FROM t"), ["0"]);
        }
    }
}

#[test]
fn files_of_a_dropped_stream_that_a_stop_left_go_at_the_next_start() {
    let mut server = filled();
    let (handle, _) = server.begun("SELECT k, s FROM t");
    server.run("DROP STREAM t");
    let engine = server.engine.take().unwrap();
    server.runtime.block_on(engine.shutdown());
    assert_eq!(streams_on_disk(&server), 1, "a reader holds them");
    drop((engine, handle));
    server.start();
    // The reader's threads may hold files a moment longer than its handle.
    server.wait_for("the removal of the files", || streams_on_disk(&server) == 0);
    server.run("CREATE STREAM t (k int32)");
    assert_eq!(server.rows("SELECT count() FROM t"), ["0"]);
}

#[test]
fn streaming_queries_on_a_dropped_stream_end_with_its_name() {
    let server = filled();
    server.run("CREATE STREAM other (k uint64)");
    let live = server.tail("SELECT k FROM t");
    let mut history = server.tail("SELECT k FROM t SETTINGS seek_to='earliest'");
    history.take(1);
    let both = server.tail("SELECT k FROM t UNION ALL SELECT k FROM other");
    server.run("DROP STREAM t");
    for (name, tail) in [("live", live), ("history", history), ("union", both)] {
        let mut handle = tail.handle;
        let e = server.rest(&mut handle).unwrap_err();
        assert_eq!((e.code.number(), e.message.as_str()), (60, "stream default.t was dropped"), "{name}");
    }
    server.wait_for("the removal of the files", || streams_on_disk(&server) == 1);
}

#[test]
fn a_tail_goes_on_after_a_truncation() {
    let server = filled();
    let mut history = server.tail("SELECT _tp_sn FROM t SETTINGS seek_to='earliest'");
    history.take(1);
    let mut live = server.tail("SELECT k FROM t");
    server.run("TRUNCATE STREAM t");
    server.run("INSERT INTO t (k) VALUES (1000000)");
    assert_eq!(live.take(1), ["1000000"]);
    // What was read before it leaves, what was not is skipped, each row once and in order.
    let mut last = 0;
    while last < ROWS as u64 {
        let batch = server.runtime.block_on(history.handle.batches.next()).unwrap().unwrap();
        for sn in history.ready.drain(..).chain(lines(&batch)) {
            let next: u64 = sn.parse().unwrap();
            assert!(next > last, "{next} after {last}");
            last = next;
        }
    }
}
