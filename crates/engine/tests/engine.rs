//! The engine over a real directory: statements in, rows out, and again after a restart.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use weir_base::disk::{RealDisk, SimDisk};
use weir_base::{Clock, Disk, Error, ManualClock, Rng, SystemClock};
use weir_engine::{
    CheckpointsLocation, Engine, EngineConfig, FunctionInfo, FunctionSet, Outcome, QueryHandle, QueryMode,
    Session, Users, World,
};
use weir_plan::Connector;
use weir_storage::PartsLocation;

#[path = "engine/external.rs"]
mod external;
#[path = "engine/external_log.rs"]
mod external_log;
#[path = "engine/lasting.rs"]
mod lasting;
#[path = "engine/memory.rs"]
mod memory;
#[path = "engine/readers.rs"]
mod readers;
#[path = "engine/tasks.rs"]
mod tasks;
#[path = "engine/views.rs"]
mod views;

struct Server {
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    engine: Option<Arc<Engine>>,
    options: Options,
}

/// What tests start a server with.
#[derive(Clone)]
struct Options {
    memory_limit_bytes: u64,
    /// The time stands still until SYSTEM CLOCK ADVANCE.
    test_clock: bool,
    settings: Vec<(&'static str, &'static str)>,
    /// Instead of a directory.
    disk: Option<SimDisk>,
    /// Kinds of external streams.
    connectors: Vec<Arc<dyn Connector>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            memory_limit_bytes: 1 << 30,
            test_clock: false,
            settings: Vec::new(),
            disk: None,
            connectors: Vec::new(),
        }
    }
}

impl Server {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(64 << 20)
            .enable_all()
            .build()
            .unwrap()
    }

    fn with(options: Options) -> Self {
        let runtime = Self::runtime();
        let mut server = Server { runtime, dir: tempfile::tempdir().unwrap(), engine: None, options };
        server.start();
        server
    }

    fn start(&mut self) {
        let system = SystemClock::new();
        let test_clock = self.options.test_clock.then(|| Arc::new(ManualClock::new(system.now_us())));
        let clock: Arc<dyn Clock> = match &test_clock {
            Some(clock) => clock.clone(),
            None => Arc::new(system),
        };
        let rng = Arc::new(Rng::seeded(1));
        let all = weir_function::functions(&weir_function::World { clock: clock.clone(), rng: rng.clone() });
        let infos = all.infos.into_iter().map(|f| FunctionInfo {
            name: f.name,
            aliases: f.aliases,
            is_aggregate: f.is_aggregate,
            usage: f.usage,
            docs: f.docs,
        });
        let config = EngineConfig {
            memory_limit_bytes: self.options.memory_limit_bytes,
            parts: PartsLocation::Local,
            checkpoints: CheckpointsLocation::Local,
            users: Users::default(),
            settings: self.options.settings.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            compute: self.runtime.handle().clone(),
            test_clock,
            functions: FunctionSet {
                scalars: all.scalars,
                aggregates: all.aggregates,
                infos: infos.collect(),
            },
            queries_max: 100,
            spill_dir: None,
            web_hook: None,
            connectors: self.options.connectors.clone(),
            backups: None,
            version: "0.1.0".into(),
        };
        let disk: Arc<dyn Disk> = match &self.options.disk {
            Some(disk) => Arc::new(disk.clone()),
            None => Arc::new(RealDisk::open(self.dir.path()).unwrap()),
        };
        let world = World { disk, clock, rng };
        let dataflow = Arc::new(weir_dataflow::DataflowRuntime::new(self.runtime.handle().clone()));
        self.engine = Some(Engine::open(config, world, dataflow).unwrap());
    }

    fn restart(&mut self) {
        let engine = self.engine.take().unwrap();
        self.runtime.block_on(engine.shutdown());
        drop(engine);
        self.start();
    }

    /// The machine stops at once and starts again with what the simulated disk has kept.
    fn power_fails(&mut self) {
        let disk = self.options.disk.take().expect("a simulated disk");
        disk.crash();
        std::mem::replace(&mut self.runtime, Self::runtime()).shutdown_background();
        self.engine = None;
        self.options.disk = Some(disk.restart());
        self.start();
    }

    fn execute(&self, session: &mut Session, text: &str) -> Result<Outcome, Error> {
        self.runtime.block_on(self.engine.as_ref().unwrap().execute(session, text, None))
    }

    /// A statement without rows.
    fn run(&self, text: &str) -> u64 {
        match self.execute(&mut table_mode(), text).unwrap_or_else(|e| panic!("{text}: {e}")) {
            Outcome::Done(done) => done.written_rows,
            _ => panic!("{text} gives rows"),
        }
    }

    fn error(&self, text: &str) -> Error {
        match self.try_rows(text) {
            Ok(rows) => panic!("{text} gives {rows:?}"),
            Err(e) => e,
        }
    }

    fn try_rows(&self, text: &str) -> Result<Vec<String>, Error> {
        match self.execute(&mut table_mode(), text)? {
            Outcome::Rows(mut handle) => self.runtime.block_on(async {
                let mut rows = Vec::new();
                while let Some(batch) = handle.batches.next().await {
                    rows.extend(lines(&batch?));
                }
                Ok(rows)
            }),
            _ => Ok(Vec::new()),
        }
    }

    /// A bounded query's rows, each as its values with blanks between.
    fn rows(&self, text: &str) -> Vec<String> {
        self.try_rows(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn tail(&self, text: &str) -> Tail<'_> {
        match self.execute(&mut Session::default(), text).unwrap_or_else(|e| panic!("{text}: {e}")) {
            Outcome::Rows(handle) => {
                assert!(handle.streaming, "{text} ends");
                Tail { server: self, handle, ready: Vec::new() }
            }
            _ => panic!("{text} gives no rows"),
        }
    }
}

struct Tail<'a> {
    server: &'a Server,
    handle: QueryHandle,
    ready: Vec<String>,
}

impl Tail<'_> {
    /// Waits for `n` rows.
    fn take(&mut self, n: usize) -> Vec<String> {
        self.server.runtime.block_on(async {
            while self.ready.len() < n {
                let batch = tokio::time::timeout(Duration::from_secs(20), self.handle.batches.next())
                    .await
                    .unwrap_or_else(|_| panic!("only {:?} came", self.ready))
                    .expect("the query goes on")
                    .unwrap();
                self.ready.extend(lines(&batch));
            }
        });
        self.ready.drain(..n).collect()
    }
}

fn table_mode() -> Session {
    Session { mode: QueryMode::Table, ..Session::default() }
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn rows_are_there_as_history_live_and_after_a_restart() {
    let mut server = Server::new();
    server.run("CREATE STREAM t (k int32, s string DEFAULT 'none', n int64 DEFAULT k + 1)");
    let mut tail = server.tail("SELECT k, s FROM t WHERE k > 1");
    assert_eq!(server.run("INSERT INTO t (k, s) VALUES (1, 'a'), (2, 'b'), (3, 'c')"), 3);
    assert_eq!(tail.take(2), ["2 b", "3 c"]);
    server.run("INSERT INTO t (k) VALUES (4)");
    assert_eq!(tail.take(1), ["4 none"]);
    assert_eq!(server.rows("SELECT k, s, n FROM t ORDER BY k"), ["1 a 2", "2 b 3", "3 c 4", "4 none 5"]);
    assert_eq!(server.rows("SELECT count(), sum(k) FROM table(t)"), ["4 10"]);
    let mut from_start = server.tail("SELECT k FROM t SETTINGS seek_to='earliest'");
    assert_eq!(from_start.take(4), ["1", "2", "3", "4"]);
    drop((tail, from_start));

    server.run("SYSTEM FLUSH STREAM t");
    server.run("INSERT INTO t (k) VALUES (5)");
    assert_eq!(server.rows("SELECT count() FROM system.parts WHERE table = 't'"), ["1"]);
    server.restart();
    assert_eq!(server.rows("SELECT k FROM t ORDER BY k"), ["1", "2", "3", "4", "5"]);
    assert_eq!(server.rows("SELECT _tp_sn FROM t ORDER BY _tp_sn"), ["0", "1", "2", "3", "4"]);
    server.run("INSERT INTO t (k) VALUES (6)");
    assert_eq!(server.rows("SELECT max(_tp_sn) FROM t"), ["5"]);
}

#[test]
fn statements_about_what_exists() {
    let mut server = Server::new();
    server.run("CREATE DATABASE d COMMENT 'x'");
    server.run("CREATE STREAM d.a (k int32, v float64) ORDER BY k SETTINGS shards = 2");
    server.run("CREATE STREAM IF NOT EXISTS d.a (z string)");
    server.run("CREATE VIEW v AS SELECT k FROM d.a WHERE v > 1");
    assert_eq!(server.rows("SHOW DATABASES"), ["d", "default", "system"]);
    assert_eq!(server.rows("SHOW STREAMS FROM d"), ["a"]);
    assert_eq!(server.rows("EXISTS STREAM d.a"), ["1"]);
    assert_eq!(server.rows("EXISTS STREAM d.b"), ["0"]);
    assert_eq!(server.error("CREATE STREAM d.a (k int32)").code.number(), 57);
    assert_eq!(server.error("SELECT * FROM d.nothing").code.number(), 60);
    assert_eq!(server.error("SELECT * FROM nowhere.a").code.number(), 81);
    assert_eq!(server.error("DROP STREAM d.a").code.number(), 630);
    let e = server.error("SELECT * FROM d.aa");
    assert!(e.message.contains("did you mean a?"), "{e}");
    let described = server.rows("DESCRIBE d.a");
    assert!(described[0].starts_with("k int32"), "{described:?}");
    assert!(
        described[2].starts_with("_tp_time datetime64(3, 'UTC') DEFAULT now64(3, 'UTC')"),
        "{described:?}"
    );

    server.run("INSERT INTO d.a (k, v) VALUES (1, 0.5), (2, 1.5), (3, 2.5)");
    assert_eq!(server.rows("SELECT k FROM v ORDER BY k"), ["2", "3"]);
    let text = server.rows("SHOW CREATE STREAM d.a").join("\n");
    server.run("DROP VIEW v");
    server.run("RENAME STREAM d.a TO d.b");
    assert_eq!(server.rows("SELECT count() FROM d.b"), ["3"]);
    server.run(&text);
    assert_eq!(server.rows("SHOW CREATE STREAM d.a").join("\n"), text);
    server.run("TRUNCATE STREAM d.b");
    assert_eq!(server.rows("SELECT count() FROM d.b"), ["0"]);
    server.restart();
    assert_eq!(server.rows("SHOW STREAMS FROM d"), ["a", "b"]);
    server.run("DROP DATABASE d CASCADE");
    assert_eq!(server.error("DROP DATABASE d").code.number(), 81);
}

#[test]
fn what_this_version_lacks_is_refused_and_leaves_nothing() {
    let server = Server::new();
    for (text, code) in [
        ("CREATE STREAM x (k int128)", 50),
        ("CREATE STREAM x (k int32) SETTINGS mode = 'versioned_kv'", 48),
        ("CREATE STREAM x (k int32) SETTINGS logstore = 'kafka'", 36),
        ("CREATE STREAM x (k int32) SETTINGS sharts = 2", 115),
        ("CREATE STREAM x (_tp_sn int32)", 36),
        ("CREATE STREAM x (k int32, k int64)", 62),
        ("CREATE STREAM x (k int32 DEFAULT nope + 1)", 47),
        ("CREATE STREAM x (k int32) ORDER BY nope", 47),
        ("CREATE STREAM x (a int32 DEFAULT b, b int32 DEFAULT a)", 36),
        ("CREATE VIEW x AS SELECT nope FROM system.one", 47),
        ("SELECT 1 SETTINGS max_treads = 2", 115),
        ("SELECT 1; SELECT 2", 62),
        ("SELEKT 1", 62),
    ] {
        let e = server.error(text);
        assert_eq!(e.code.number(), code, "{text}: {e}");
    }
    assert_eq!(server.rows("SHOW STREAMS"), Vec::<String>::new());
}

#[test]
fn inserts_fill_in_what_is_missing_and_refuse_what_does_not_fit() {
    let server = Server::new();
    server.run(
        "CREATE STREAM t (id int32, e enum8('a' = 1, 'b' = 2) DEFAULT 'b', up string MATERIALIZED upper(s), \
         s string, at datetime64(3) DEFAULT to_datetime64('2024-01-01 00:00:00', 3)) \
         SETTINGS event_time_column = 'at'",
    );
    server.run("INSERT INTO t (id, s) VALUES (1, 'x'), (1 + 1, concat('y', 'z'))");
    assert_eq!(server.rows("SELECT id, e, up, s FROM t ORDER BY id"), ["1 b X x", "2 b YZ yz"]);
    assert_eq!(server.rows("SELECT * EXCEPT (at, _tp_time) FROM t WHERE up = 'X'"), ["1 b x"]);
    assert_eq!(server.rows("SELECT DISTINCT to_string(_tp_time) FROM t"), ["2024-01-01 00:00:00.000"]);
    server.run("INSERT INTO t (id, s, at) SELECT number, 'n', '2024-02-01' FROM numbers(10, 5)");
    assert_eq!(server.rows("SELECT count(), min(id), max(id) FROM t WHERE s = 'n'"), ["5 10 14"]);
    for (text, code) in [
        ("INSERT INTO t (id, e) VALUES (3, 'c')", None),
        ("INSERT INTO t (nope) VALUES (3)", Some(47)),
        ("INSERT INTO t (up) VALUES ('x')", Some(36)),
        ("INSERT INTO t (id) VALUES ('many')", None),
        ("INSERT INTO t (id) SELECT 1, 2", Some(80)),
        ("INSERT INTO system.one VALUES (1)", Some(497)),
    ] {
        let e = server.error(text);
        assert!(code.is_none_or(|c| e.code.number() == c), "{text}: {} {e}", e.code.number());
    }
    assert_eq!(server.rows("SELECT count() FROM t"), ["7"]);
}

#[test]
fn an_insert_repeated_with_its_id_adds_nothing_twice() {
    let mut server = Server::new();
    server.run("CREATE STREAM t (k int32) SETTINGS shards = 3");
    let insert = "INSERT INTO t (k) SETTINGS idempotent_id = 'one', max_insert_block_size = 2 VALUES (1), (2), (3), (4), (5)";
    server.run(insert);
    server.run(insert);
    server.restart();
    server.run(insert);
    assert_eq!(server.rows("SELECT k FROM t ORDER BY k"), ["1", "2", "3", "4", "5"]);
    let other = insert.replace("(5)", "(6)");
    let e = server.error(&other);
    assert_eq!(e.code.number(), 36, "{e}");
    assert_eq!(server.rows("SELECT count() FROM t"), ["5"]);
}

#[test]
fn rows_go_to_the_shard_their_expression_says() {
    let server = Server::new();
    server.run("CREATE STREAM t (k int32) SETTINGS shards = 3, sharding_expr = 'k'");
    server.run("INSERT INTO t (k) VALUES (0), (1), (2), (3), (4), (-1)");
    assert_eq!(
        server.rows("SELECT _tp_shard, k FROM t ORDER BY _tp_shard, k"),
        ["0 0", "0 3", "1 1", "1 4", "2 -1", "2 2"]
    );
}

#[test]
fn system_tables_answer_in_both_modes() {
    let server = Server::new();
    server.run("CREATE STREAM t (k int32, s low_cardinality(string))");
    server.run("CREATE RANDOM STREAM r (k int32 DEFAULT 7, s string) SETTINGS eps = 100");
    server.run("INSERT INTO t (k, s) VALUES (1, 'a')");
    for table in [
        "databases",
        "tables",
        "streams",
        "columns",
        "parts",
        "log_segments",
        "queries",
        "processes",
        "functions",
        "settings",
        "metrics",
        "build_options",
        "one",
        "formats",
        "data_type_families",
        "table_functions",
        "stream_settings",
    ] {
        server.rows(&format!("SELECT * FROM system.{table}"));
    }
    assert_eq!(
        server.rows("SELECT name, type FROM system.columns WHERE table = 't' AND position = 2"),
        ["s low_cardinality(string)"]
    );
    assert_eq!(
        server.rows("SELECT name, type FROM system.columns WHERE table = 't' AND position = 2 SETTINGS type_names='clickhouse'"),
        ["s LowCardinality(String)"]
    );
    assert_eq!(
        server.rows(
            "SELECT name, engine, total_rows FROM system.tables WHERE database = 'default' ORDER BY name"
        ),
        ["r Random NULL", "t Stream 1"]
    );
    assert_eq!(server.rows("SELECT number FROM system.numbers LIMIT 3"), ["0", "1", "2"]);
    assert_eq!(server.rows("SELECT sum(number) FROM numbers(100000)"), ["4999950000"]);
    assert_eq!(server.rows("SELECT version(), current_database(), timezone()"), ["0.1.0 default UTC"]);
    // The same from a streaming session: they end.
    match server.execute(&mut Session::default(), "SELECT name FROM system.databases").unwrap() {
        Outcome::Rows(handle) => assert!(!handle.streaming),
        _ => panic!("no rows"),
    }
    let mut random = server.tail("SELECT k FROM r");
    assert_eq!(random.take(2), ["7", "7"]);
}

#[test]
fn sessions_keep_database_and_settings() {
    let server = Server::new();
    server.run("CREATE DATABASE d");
    server.run("CREATE STREAM d.t (k int32)");
    let mut session = table_mode();
    server.execute(&mut session, "USE d").unwrap();
    server.execute(&mut session, "SET max_threads = 1").unwrap();
    assert_eq!((session.database.as_str(), session.settings["max_threads"].as_str()), ("d", "1"));
    server.execute(&mut session, "INSERT INTO t (k) VALUES (1)").unwrap();
    assert_eq!(server.execute(&mut session, "USE nowhere").err().unwrap().code.number(), 81);
    session.read_only = true;
    for text in ["INSERT INTO t (k) VALUES (2)", "DROP STREAM t", "SET max_threads = 2"] {
        assert_eq!(server.execute(&mut session, text).err().unwrap().code.number(), 164, "{text}");
    }
    assert!(server.execute(&mut session, "SELECT * FROM t").is_ok());
}

#[test]
fn a_killed_query_ends_with_its_code() {
    let server = Server::new();
    server.run("CREATE STREAM t (k int32)");
    let mut tail = server.tail("SELECT k FROM t");
    let id = tail.handle.query_id.clone();
    assert_eq!(
        server.rows(&format!("SELECT state FROM system.queries WHERE query_id = '{id}'")),
        ["Running"]
    );
    let killed = server.rows(&format!("KILL QUERY WHERE query_id = '{id}'"));
    assert_eq!(killed.len(), 1);
    let end = server.runtime.block_on(tail.handle.batches.next());
    assert_eq!(end.unwrap().unwrap_err().code.number(), 394);
    drop(tail);
    assert_eq!(server.rows("SELECT count() FROM system.queries WHERE is_streaming = 1"), ["0"]);
}

#[test]
fn explain_says_how_a_query_runs() {
    let server = Server::new();
    server.run("CREATE STREAM t (k int32)");
    let bounded = server.rows("EXPLAIN SELECT k FROM table(t) WHERE k > 1").join("\n");
    assert!(bounded.contains("bounded"), "{bounded}");
    let unbounded =
        match server.execute(&mut Session::default(), "EXPLAIN SELECT k FROM t WHERE k > 1").unwrap() {
            Outcome::Rows(mut handle) => {
                let batch = server.runtime.block_on(handle.batches.next()).unwrap().unwrap();
                lines(&batch).join("\n")
            }
            _ => panic!("no rows"),
        };
    assert!(unbounded.contains("Source: unbounded"), "{unbounded}");
    assert!(unbounded.contains("Filter"), "{unbounded}");
}

#[test]
fn a_stream_that_does_not_open_stops_no_other() {
    let mut server = Server::new();
    server.run("CREATE STREAM good (k int32)");
    server.run("CREATE STREAM bad (k int32)");
    server.run("INSERT INTO good (k) VALUES (1)");
    server.run("INSERT INTO bad (k) VALUES (1)");
    let id = server.rows("SELECT lower(to_string(uuid)) FROM system.tables WHERE name = 'bad'").remove(0);
    let engine = server.engine.take().unwrap();
    server.runtime.block_on(engine.shutdown());
    drop(engine);
    let schemas = server.dir.path().join("streams").join(&id).join("schemas");
    #[allow(clippy::disallowed_methods, reason = "the test damages files")]
    for entry in std::fs::read_dir(schemas).unwrap() {
        std::fs::write(entry.unwrap().path(), b"nonsense").unwrap();
    }
    server.start();
    assert_eq!(server.rows("SELECT k FROM good"), ["1"]);
    let e = server.error("SELECT k FROM bad");
    assert!(e.message.contains("default.bad could not be opened"), "{e}");
    let listed = server.rows("SELECT error != '' FROM system.tables WHERE name = 'bad'");
    assert_eq!(listed.len(), 1);
    server.run("DROP STREAM bad");
    assert_eq!(server.rows("SHOW STREAMS"), ["good"]);
}

#[test]
fn windows_have_one_answer_live_from_history_and_bounded() {
    let server = Server::new();
    server.run("CREATE STREAM t (k int32, v int64) SETTINGS shards = 3, sharding_expr = 'k'");
    let select = |from: &str| {
        format!(
            "SELECT window_start, window_end, k, count(), sum(v), min(v), max(v), uniq_exact(v) \
             FROM {from} GROUP BY window_start, window_end, k"
        )
    };
    for (stream, table) in
        [("tumble(t, 5s)", "tumble(table(t), 5s)"), ("hop(t, 2s, 6s)", "hop(table(t), 2s, 6s)")]
    {
        server.run("TRUNCATE STREAM t");
        let mut live = server.tail(&(select(stream) + " EMIT AFTER WINDOW CLOSE WITH DELAY 3s"));
        // In order but for two seconds, every key and with it every shard in each insert.
        for i in 0..30 {
            let rows: Vec<String> = (0..6)
                .map(|k| {
                    let second = (i + k % 3).min(59);
                    format!("({k}, {}, '2026-01-01 00:00:{second:02}')", i * 7 % 11 + k)
                })
                .collect();
            server.run(&format!("INSERT INTO t (k, v, _tp_time) VALUES {}", rows.join(", ")));
            if i == 10 {
                server.run("SYSTEM FLUSH STREAM t");
            }
        }
        // Shard k % 3 has come to second 29 + k % 3: windows up to second 26 have closed.
        let bounded = server.rows(&format!(
            "SELECT * FROM ({}) AS q WHERE window_end <= '2026-01-01 00:00:26' ORDER BY window_end, window_start, k",
            select(table)
        ));
        assert!(bounded.len() >= 30, "{bounded:?}");
        assert_eq!(live.take(bounded.len()), bounded, "live, {stream}");
        for (order, batch) in [("arrival", 1), ("arrival", 65_536), ("event_time", 65_536)] {
            let mut history = server.tail(&format!(
                "{} EMIT AFTER WINDOW CLOSE WITH DELAY 3s \
                 SETTINGS seek_to = 'earliest', replay_order = '{order}', max_block_size = {batch}",
                select(stream)
            ));
            assert_eq!(history.take(bounded.len()), bounded, "{order}, {stream}");
        }
        let operators = server.rows("SELECT operators FROM system.queries WHERE is_streaming = 1").join(" ");
        assert!(operators.contains("WindowAggregate") && operators.contains("state_bytes="), "{operators}");
    }
}

#[test]
fn aggregates_over_the_stream_follow_what_is_inserted() {
    let server = Server::new();
    server.run("CREATE STREAM t (k string, v int64)");
    server.run("INSERT INTO t (k, v) VALUES ('a', 1), ('b', 2)");
    let mut changes = server.tail("SELECT k, count(), sum(v) FROM t GROUP BY k EMIT ON UPDATE");
    let mut log = server
        .tail("SELECT k, sum(v) FROM t GROUP BY k EMIT CHANGELOG ON UPDATE SETTINGS seek_to = 'earliest'");
    let mut all =
        server.tail("SELECT count(), sum(v) FROM t EMIT PERIODIC 20ms SETTINGS seek_to = 'earliest'");
    assert_eq!(all.take(1), ["2 3"]);
    assert_eq!(log.take(2), ["a 1 1", "b 2 1"]);
    server.run("INSERT INTO t (k, v) VALUES ('a', 10)");
    assert_eq!(changes.take(1), ["a 1 10"], "it began after the first rows");
    assert_eq!(log.take(2), ["a 1 -1", "a 11 1"], "the old row is taken back first");
    assert_eq!(all.take(1), ["3 13"]);
    server.run("INSERT INTO t (k, v) VALUES ('c', 5), ('a', 1)");
    assert_eq!(changes.take(2), ["c 1 5", "a 2 11"]);
    assert_eq!(log.take(3), ["c 5 1", "a 11 -1", "a 12 1"]);
    assert_eq!(all.take(1), ["5 19"]);
}

#[test]
fn state_beyond_the_limit_ends_its_query_with_code_241() {
    let server = Server::new();
    server.run("CREATE STREAM t (k int64)");
    let mut other = server.tail("SELECT count() FROM t EMIT ON UPDATE");
    let mut small = server
        .tail("SELECT k, count() FROM t GROUP BY k EMIT PERIODIC 1h SETTINGS max_memory_usage = 200000");
    server.run("INSERT INTO t (k) SELECT number FROM numbers(50000)");
    let error = server.runtime.block_on(async {
        loop {
            match small.handle.batches.next().await.expect("an error ends it") {
                Ok(_) => {}
                Err(e) => break e,
            }
        }
    });
    assert_eq!(error.code.number(), 241, "{error}");
    assert!(error.message.contains("Aggregate") && error.message.contains("max_memory_usage"), "{error}");
    assert!(!other.take(1).is_empty(), "others go on");
}
