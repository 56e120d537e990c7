//! Topics of a real broker, read and written; on the other side a client that shares no code with Weir.
//!
//! The broker is tansu (`.ci/test-servers`). It says that a partition ends before its last batch, so what a
//! bounded query is to see is followed by one message more.

use crate::http::Answer;
use crate::life::wait_until;
use crate::process::Server;
use crate::proxy::Proxy;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A broker behind a proxy that can be cut.
pub struct Broker {
    child: Option<Child>,
    python: PathBuf,
    /// Where it listens.
    address: String,
    proxy: Proxy,
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Broker {
    /// The one that `WEIR_TEST_KAFKA` names, which isolates transactions as Kafka does.
    fn named() -> Option<Broker> {
        let (Ok(address), Ok(program)) = (std::env::var("WEIR_TEST_KAFKA"), std::env::var("WEIR_TEST_TANSU"))
        else {
            eprintln!(
                "SKIPPED: WEIR_TEST_KAFKA names no broker; what readers of committed rows see was NOT tested"
            );
            return None;
        };
        let python = PathBuf::from(&program).with_file_name("python");
        Some(Broker { child: None, python, address, proxy: Proxy::start(0) })
    }

    /// `None` where `.ci/test-servers` has not put one.
    pub fn start() -> Option<Broker> {
        let Ok(program) = std::env::var("WEIR_TEST_TANSU") else {
            eprintln!("SKIPPED: WEIR_TEST_TANSU is not set; make test sets it");
            return None;
        };
        let python = PathBuf::from(&program).with_file_name("python");
        let proxy = Proxy::start(0);
        // A port is found, given back and taken again: another test's broker may come between.
        for _ in 0..20 {
            let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = Command::new(&program)
                .args(["broker", "--listener-url", &format!("tcp://127.0.0.1:{own}")])
                .args(["--advertised-listener-url", &format!("tcp://{}", proxy.address())])
                .args(["--storage-engine", "memory://tansu/"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("tansu starts");
            wait_until("tansu listens, or has ended", || {
                child.try_wait().unwrap().is_some() || TcpStream::connect(("127.0.0.1", own)).is_ok()
            });
            if child.try_wait().unwrap().is_none() {
                proxy.turn_to(own);
                let address = proxy.address();
                return Some(Broker { child: Some(child), python, address, proxy });
            }
        }
        panic!("tansu found no port");
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn client(&self, args: &[&str], input: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/kafka_client.py");
        let mut child = Command::new(&self.python)
            .arg(script)
            .arg(self.address())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{args:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    pub fn create(&self, topic: &str, partitions: u32) {
        self.client(&["create", topic, &partitions.to_string()], "");
    }

    /// Messages as (partition, key, payload).
    pub fn produce<'a>(&self, topic: &str, messages: impl IntoIterator<Item = (u32, &'a str, String)>) {
        let lines: Vec<String> =
            messages.into_iter().map(|(p, key, payload)| format!("{p}\t{key}\t{payload}\n")).collect();
        self.client(&["produce", topic], &lines.concat());
    }

    /// Up to so many messages, as (partition, key, payload, headers); fewer after two silent seconds.
    pub fn consume(&self, topic: &str, count: usize) -> Vec<Vec<String>> {
        let lines = self.client(&["consume", topic, &count.to_string(), "2"], "");
        lines.lines().map(|l| l.split('\t').map(str::to_owned).collect()).collect()
    }

    fn stream(&self, topic: &str, columns: &str, settings: &str) -> String {
        format!(
            "CREATE EXTERNAL STREAM {topic} ({columns}) SETTINGS type='kafka', brokers='{}', topic='{topic}'{settings}",
            self.address()
        )
    }
}

pub fn lines(answer: &mut Answer, n: usize) -> Vec<String> {
    (0..n).map(|_| answer.line().expect("the query runs").expect("a row comes")).collect()
}

fn json(id: u64) -> String {
    format!("{{\"id\":{id},\"s\":\"x{id}\"}}")
}

/// `ids`, dealt by turns over `partitions`; one message more in each partition with the id -1.
fn produce_ids(broker: &Broker, topic: &str, ids: std::ops::Range<u64>, partitions: u64) {
    broker.produce(topic, ids.map(|id| ((id % partitions) as u32, "k", json(id))));
    let last = (0..partitions as u32).map(|p| (p, "k", "{\"id\":-1}".to_owned()));
    broker.produce(topic, last);
}

#[test]
fn a_topic_is_read_bounded_live_and_from_anywhere() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("t", 3);
    server.query(&broker.stream("t", "id int64, s string, d int64 DEFAULT id * 2", ""));
    produce_ids(&broker, "t", 0..300, 3);

    let stored = server.query(
        "SELECT count(), sum(id), sum(d), uniq_exact(_tp_shard), max(_tp_sn), any(_tp_message_key), \
         any(_tp_message_headers['from']), min(_tp_time) = min(_tp_append_time) FROM table(t) WHERE id >= 0",
    );
    assert_eq!(stored, "300\t44850\t89700\t3\t99\tk\ttest\ttrue\n");
    assert_eq!(
        server.query("SELECT * FROM table(t) WHERE id = 7 FORMAT JSONEachRow").matches("_tp_").count(),
        1
    );
    assert_eq!(server.query("SELECT count() FROM table(t) WHERE id >= 0 SETTINGS shards='0,2'"), "200\n");
    let refused = server.table.query("SELECT count() FROM table(t) SETTINGS shards='7'").unwrap_err();
    assert!(refused.text.contains("partition 7"), "{refused}");

    // History, then what comes.
    let mut all =
        server.streaming.follow("SELECT id FROM t WHERE id >= 0 SETTINGS seek_to='earliest'").unwrap();
    let mut seen: Vec<u64> = lines(&mut all, 300).iter().map(|l| l.parse().unwrap()).collect();
    let mut live = server.streaming.follow("SELECT id, _tp_shard, _tp_sn FROM t WHERE id >= 0").unwrap();
    wait_until("both follow the topic", || {
        server.query("SELECT count() FROM system.queries WHERE is_streaming AND state = 'Running'") == "2\n"
    });
    produce_ids(&broker, "t", 300..330, 3);
    assert_eq!(lines(&mut live, 30).len(), 30);
    seen.extend(lines(&mut all, 30).iter().map(|l| l.parse::<u64>().unwrap()));
    seen.sort_unstable();
    assert_eq!(seen, (0..330).collect::<Vec<_>>());

    // One offset for each partition; the 100 rows and the last message of before come first.
    let from = "SELECT id FROM t WHERE id >= 0 AND id < 300 LIMIT 8 SETTINGS seek_to='98,97,97'";
    let mut from = server.streaming.follow(from).unwrap();
    let mut ids: Vec<u64> = lines(&mut from, 8).iter().map(|l| l.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [292, 293, 294, 295, 296, 297, 298, 299]);
    let refused = server.streaming.query("SELECT id FROM t SETTINGS seek_to='5000'").unwrap_err();
    assert!(refused.text.contains("which ends at"), "{refused}");
    // A time before all messages.
    let mut timed = server
        .streaming
        .follow("SELECT id FROM t WHERE id >= 0 LIMIT 330 SETTINGS seek_to='2020-01-01'")
        .unwrap();
    assert_eq!(lines(&mut timed, 330).len(), 330);
}

#[test]
fn rows_become_messages() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let values = "VALUES (1, 'a\"b'), (2, 'c\td'), (3, '')";
    // (topic, settings, messages)
    let cases: [(&str, &str, &[&str]); 4] = [
        ("packed", "", &["{\"id\":1,\"s\":\"a\\\"b\"}\n{\"id\":2,\"s\":\"c\\td\"}\n{\"id\":3,\"s\":\"\"}"]),
        (
            "single",
            ", one_message_per_row=1",
            &["{\"id\":1,\"s\":\"a\\\"b\"}", "{\"id\":2,\"s\":\"c\\td\"}", "{\"id\":3,\"s\":\"\"}"],
        ),
        ("csv", ", data_format='CSV'", &["1,\"a\"\"b\"", "2,\"c\td\"", "3,\"\""]),
        ("tsv", ", data_format='TSV'", &["1\ta\"b", "2\tc\\td", "3\t"]),
    ];
    for (topic, settings, messages) in cases {
        broker.create(topic, 1);
        server.query(&broker.stream(topic, "id int64, s string", settings));
        server.query(&format!("INSERT INTO {topic} {values}"));
        let text = broker.consume(topic, messages.len()).into_iter().map(|m| m.join("\t"));
        // Payloads may hold tabs and line breaks: what was consumed is compared as text.
        let got: Vec<String> = text.collect();
        let expected: Vec<String> = messages
            .iter()
            .flat_map(|m| format!("0\t\\N\t{m}\t{{}}").split('\n').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        assert_eq!(got, expected, "{topic}");
        let mut read = server
            .streaming
            .follow(&format!("SELECT id, s FROM {topic} LIMIT 3 SETTINGS seek_to='earliest'"))
            .unwrap();
        assert_eq!(lines(&mut read, 3), ["1\ta\"b", "2\tc\\td", "3\t"], "{topic}");
    }

    // Keys, headers and times.
    broker.create("keyed", 4);
    server.query(&broker.stream("keyed", "raw string, _tp_message_key string", ""));
    server.query("INSERT INTO keyed (raw, _tp_message_key, _tp_message_headers) SELECT 'p' || to_string(number), 'k' || to_string(number % 3), map('n', to_string(number)) FROM numbers(9)");
    let messages = broker.consume("keyed", 9);
    let mut partition_of: BTreeMap<String, String> = BTreeMap::new();
    for m in &messages {
        let before = partition_of.insert(m[1].clone(), m[0].clone());
        assert!(before.is_none_or(|p| p == m[0]), "a key has one partition: {messages:?}");
        let n = m[2].strip_prefix('p').unwrap();
        assert_eq!(m[3], format!("{{\"n\": \"{n}\"}}"));
    }
    assert_eq!((messages.len(), partition_of.len()), (9, 3));

    // Columns found out from the messages there are.
    let address = broker.address();
    server.query(&format!(
        "CREATE EXTERNAL STREAM found SETTINGS type='kafka', brokers='{address}', topic='single'"
    ));
    let found = "SELECT id, s FROM found LIMIT 3 SETTINGS seek_to='earliest'";
    let mut read = server.streaming.follow(found).unwrap();
    assert_eq!(lines(&mut read, 3), ["1\ta\"b", "2\tc\\td", "3\t"]);
    assert!(server.query("DESCRIBE found").to_ascii_lowercase().starts_with("id\tint64"));
    broker.create("empty", 1);
    let none =
        format!("CREATE EXTERNAL STREAM none SETTINGS type='kafka', brokers='{address}', topic='empty'");
    let refused = server.table.query(&none).unwrap_err();
    assert!(refused.text.contains("holds no message"), "{refused}");

    let refused =
        server.table.query("INSERT INTO keyed SETTINGS idempotent_id='x' VALUES ('a', 'b')").unwrap_err();
    assert!(refused.text.contains("idempotent_id"), "{refused}");
    let large = format!("INSERT INTO keyed VALUES ('{}', 'b')", "x".repeat(2 << 20));
    let refused = server.table.query(&large).unwrap_err();
    assert!(refused.text.contains("kafka_max_message_size"), "{refused}");
}

#[test]
fn five_statements_from_topic_to_topic() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("orders", 3);
    broker.create("totals", 1);
    let address = broker.address();
    for statement in [
        format!(
            "CREATE EXTERNAL STREAM orders (customer string, amount float64, _tp_time datetime64(3, 'UTC')) \
             SETTINGS type='kafka', brokers='{address}', topic='orders'"
        ),
        format!(
            "CREATE EXTERNAL STREAM totals (window_start datetime64(3, 'UTC'), customer string, total float64, \
             _tp_message_key string) SETTINGS type='kafka', brokers='{address}', topic='totals'"
        ),
        "CREATE MATERIALIZED VIEW pipeline INTO totals AS SELECT window_start, customer, sum(amount) AS total, \
         customer AS _tp_message_key FROM tumble(orders, 10s) GROUP BY window_start, customer \
         SETTINGS seek_to='earliest'"
            .to_owned(),
    ] {
        server.query(&statement);
    }
    let at = |second: u64| format!("2026-01-01 00:00:{second:02}.000");
    let order = |i: u64| {
        let second = i / 10;
        format!("{{\"customer\":\"c{}\",\"amount\":{}.5,\"_tp_time\":\"{}\"}}", i % 4, i, at(second))
    };
    // A row in each partition, so that all of them are known; then by customer, so that each has one partition; and
    // in the end a row in each that closes the windows.
    let open = |i: u64| format!("{{\"customer\":\"c{i}\",\"amount\":0,\"_tp_time\":\"{}\"}}", at(0));
    broker.produce("orders", (0..3).map(|p| (p as u32, "k", open(p))));
    broker.produce("orders", (0..300).map(|i| ((i % 4 % 3) as u32, "k", order(i))));
    broker.produce(
        "orders",
        (0..3)
            .map(|p| (p, "k", format!("{{\"customer\":\"end\",\"amount\":0,\"_tp_time\":\"{}\"}}", at(50)))),
    );
    let messages = broker.consume("totals", 12);
    let mut expected = BTreeMap::new();
    for i in 0..300_u64 {
        *expected.entry((i / 100, format!("c{}", i % 4))).or_insert(0.0) += i as f64 + 0.5;
    }
    let mut got = BTreeMap::new();
    for m in &messages {
        let row: serde_json::Value = serde_json::from_str(&m[2]).unwrap();
        assert_eq!(row["customer"], m[1].as_str(), "the key is the customer");
        let window = row["window_start"].as_str().unwrap()[17..18].parse::<u64>().unwrap();
        got.insert((window, m[1].clone()), row["total"].as_f64().unwrap());
    }
    assert_eq!(got, expected);
}

#[test]
fn a_view_over_a_topic_counts_each_message_once_through_kill_9() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    broker.create("t", 3);
    broker.create("copy", 2);
    server.query(&broker.stream("t", "id int64, s string", ""));
    server.query(&broker.stream("copy", "id int64", ", one_message_per_row=1"));
    let settings = "SETTINGS seek_to='earliest', checkpoint_interval=0.2";
    server.query("CREATE STREAM rows (id int64) SETTINGS shards=2");
    server
        .query(&format!("CREATE MATERIALIZED VIEW a INTO rows AS SELECT id FROM t WHERE id >= 0 {settings}"));
    server.query(&format!(
        "CREATE MATERIALIZED VIEW b AS SELECT id % 7 AS k, count() AS n, sum(id) AS total FROM t WHERE id >= 0 \
         GROUP BY k EMIT ON UPDATE {settings}"
    ));
    server
        .query(&format!("CREATE MATERIALIZED VIEW c INTO copy AS SELECT id FROM t WHERE id >= 0 {settings}"));
    let rounds = 6;
    for round in 0..rounds {
        produce_ids(&broker, "t", round * 500..(round + 1) * 500, 3);
        if round % 2 == 0 {
            wait_until("some of it is there", || {
                server.query("SELECT count() FROM table(rows)").trim().parse::<u64>().unwrap() > round * 500
            });
        }
        server.kill();
        server = Server::start(dir.path());
    }
    let all = rounds * 500;
    wait_until("all rows are there", || {
        let n = server.query("SELECT count() FROM table(rows)");
        let last = server.query("SELECT max(n) FROM (SELECT k, max(n) AS n FROM table(b) GROUP BY k)");
        n.trim().parse::<u64>().unwrap() >= all && last == format!("{}\n", all / 7 + 1)
    });
    server.query("SYSTEM CHECKPOINT VIEW c");
    let counted = server.query("SELECT count(), uniq_exact(id), sum(id) FROM table(rows)");
    assert_eq!(counted, format!("{all}\t{all}\t{}\n", all * (all - 1) / 2));
    let groups = "SELECT sum(n), sum(total) FROM (SELECT k, max(n) AS n, max(total) AS total FROM table(b) GROUP BY k)";
    assert_eq!(server.query(groups), format!("{all}\t{}\n", all * (all - 1) / 2));
    // At least once.
    let mut ids: Vec<u64> = broker
        .consume("copy", usize::MAX >> 1)
        .iter()
        .map(|m| serde_json::from_str::<serde_json::Value>(&m[2]).unwrap()["id"].as_u64().unwrap())
        .collect();
    assert!(ids.len() as u64 >= all);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..all).collect::<Vec<_>>());
}

/// A view that writes by transactions, killed again and again; gives the ids that a reader of committed rows
/// finds in the target, sorted.
fn written_by_transactions(broker: &Broker, all: u64) -> Vec<u64> {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (from, to) = (format!("from{}", std::process::id()), format!("to{}", std::process::id()));
    broker.create(&from, 2);
    broker.create(&to, 2);
    server.query(&broker.stream(&from, "id int64, s string", ""));
    server.query(&broker.stream(&to, "id int64", ", one_message_per_row=1, delivery='exactly_once'"));
    server.query(&format!(
        "CREATE MATERIALIZED VIEW v INTO {to} AS SELECT id FROM {from} WHERE id >= 0 \
         SETTINGS seek_to='earliest', checkpoint_interval=0.3"
    ));
    let rounds = 5;
    let epoch = |server: &Server| -> u64 {
        server.query("SELECT checkpoint_epoch FROM system.materialized_views").trim().parse().unwrap()
    };
    for round in 0..rounds {
        let before = epoch(&server);
        produce_ids(broker, &from, round * all / rounds..(round + 1) * all / rounds, 2);
        if round % 2 == 1 {
            wait_until("a checkpoint more", || epoch(&server) > before);
        }
        server.kill();
        server = Server::start(dir.path());
    }
    wait_until("the view runs again", || {
        server.query("SELECT state FROM system.materialized_views") == "Running\n"
    });
    server.query("SYSTEM SYNC VIEW v");
    server.query("SYSTEM CHECKPOINT VIEW v");
    let messages = broker.consume(&to, usize::MAX >> 1);
    let id =
        |m: &Vec<String>| serde_json::from_str::<serde_json::Value>(&m[2]).unwrap()["id"].as_u64().unwrap();
    let mut ids: Vec<u64> = messages.iter().map(id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_view_writes_exactly_once_by_transactions() {
    let Some(broker) = Broker::named() else { return };
    assert_eq!(written_by_transactions(&broker, 3_000), (0..3_000).collect::<Vec<_>>());
}

/// The broker of other tests takes part in transactions and isolates nothing, so that what was begun and not
/// committed is seen as well.
#[test]
fn a_view_with_transactions_goes_on_after_kill_9() {
    let Some(broker) = Broker::start() else { return };
    let mut ids = written_by_transactions(&broker, 3_000);
    ids.dedup();
    assert_eq!(ids, (0..3_000).collect::<Vec<_>>());
}

#[test]
fn a_message_that_does_not_parse_follows_on_error() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("t", 2);
    server.query(&broker.stream("t", "id int64, s string", ""));
    let poison = "{\"id\": \"not a number\"}";
    broker.produce("t", [(0, "k", json(1)), (0, "k", poison.into()), (0, "k", json(2)), (1, "k", json(3))]);
    broker.produce("t", [(0, "k", "{\"id\":-1}".to_owned()), (1, "k", "{\"id\":-1}".to_owned())]);
    for door in [&server.table, &server.streaming] {
        let from = if std::ptr::eq(door, &server.table) { "table(t)" } else { "t" };
        let refused = door.query(&format!("SELECT id FROM {from} SETTINGS seek_to='earliest'")).unwrap_err();
        for part in ["offset 1", "partition 0", "not a number"] {
            assert!(refused.text.contains(part), "{part}: {refused}");
        }
    }
    for on_error in ["stop", "skip", "dlq"] {
        server.query(&format!(
            "CREATE MATERIALIZED VIEW {on_error} AS SELECT id FROM t WHERE id >= 0 SETTINGS seek_to='earliest', on_error='{on_error}'"
        ));
    }
    wait_until("the poison is passed", || {
        let of = |view: &str| server.query(&format!("SELECT array_sort(group_array(id)) FROM table({view})"));
        of("skip") == "[1,2,3]\n" && of("dlq") == "[1,2,3]\n"
    });
    wait_until("the view has stopped", || {
        server.query("SELECT state FROM system.materialized_views WHERE name = 'stop'") == "Error\n"
    });
    let error = server.query("SELECT last_error FROM system.materialized_views WHERE name = 'stop'");
    assert!(error.contains("row 1 of default.t shard 0") && error.contains("does not parse"), "{error}");
    let row = server.query("SELECT stream, shard, sn, row, reason LIKE '%not a number%' FROM table(dlq_dlq)");
    assert_eq!(row, format!("default.t\t0\t1\t{}\ttrue\n", poison.replace('\\', "\\\\")));
}

#[test]
fn a_broker_that_goes_away_is_waited_for() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("t", 1);
    broker.create("copy", 1);
    server.query(&broker.stream("t", "id int64, s string", ""));
    // Rows that had to wait may leave together.
    server.query(&broker.stream("copy", "id int64", ", one_message_per_row='true'"));
    server.query("CREATE MATERIALIZED VIEW v INTO copy AS SELECT id FROM t SETTINGS seek_to='earliest', checkpoint_interval=0.2");
    let mut follow = server.streaming.follow("SELECT id FROM t SETTINGS seek_to='earliest'").unwrap();
    broker.produce("t", [(0, "k", json(1))]);
    assert_eq!(lines(&mut follow, 1), ["1"]);
    broker.proxy.cut();
    wait_until("somebody says so", || {
        server.query("SELECT count() FROM system.query_warnings WHERE warning LIKE '%tried again%'") != "0\n"
    });
    assert_eq!(
        server.query("SELECT count() FROM system.queries WHERE is_streaming AND state = 'Running'"),
        "2\n",
        "nobody has given up"
    );
    broker.proxy.mend();
    broker.produce("t", [(0, "k", json(2))]);
    assert_eq!(lines(&mut follow, 1), ["2"]);
    let ids: Vec<String> = broker.consume("copy", 2).into_iter().map(|m| m[2].clone()).collect();
    assert_eq!(ids, ["{\"id\":1}", "{\"id\":2}"]);
}

#[test]
fn large_messages_and_tombstones() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("large", 1);
    server.query(&broker.stream("large", "raw nullable(string)", ""));
    broker.produce("large", [(0, "k", "x".repeat(10 << 20)), (0, "k", "\\N".into()), (0, "k", "end".into())]);
    let mut rows = server
        .streaming
        .follow(
            "SELECT length(raw), raw IS NULL, _tp_message_key FROM large LIMIT 3 SETTINGS seek_to='earliest'",
        )
        .unwrap();
    assert_eq!(lines(&mut rows, 3), ["10485760\tfalse\tk", "\\N\ttrue\tk", "3\tfalse\tk"]);
    // Of other formats a tombstone is no row.
    broker.create("t", 1);
    server.query(&broker.stream("t", "id int64", ""));
    broker.produce(
        "t",
        [
            (0, "k", json(1)),
            (0, "k", "\\N".into()),
            (0, "k", format!("{}\n{}", "{\"id\":2}", "").trim().into()),
            (0, "k", "{\"id\":3}{\"id\":4}".into()),
            (0, "k", json(5)),
        ],
    );
    let mut rows =
        server.streaming.follow("SELECT id, _tp_sn FROM t LIMIT 5 SETTINGS seek_to='earliest'").unwrap();
    assert_eq!(lines(&mut rows, 5), ["1\t0", "2\t2", "3\t3", "4\t3", "5\t4"]);
}

#[test]
fn what_can_not_work_is_said() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let address = broker.address();
    let refused = |sql: &str| server.table.query(sql).unwrap_err().text;
    // (statement, parts of the error)
    let cases: [(String, &[&str]); 9] = [
        ("CREATE EXTERNAL STREAM e (a int64) SETTINGS type='kafka', topic='t', brokers='169.254.169.254:80'".into(), &["--allowed-remote-hosts"]),
        ("CREATE EXTERNAL STREAM e (a int64)".into(), &["type=", "'kafka'"]),
        ("CREATE EXTERNAL STREAM e (a int64) SETTINGS type='kafak'".into(), &["'kafak'", "'kafka'"]),
        ("CREATE EXTERNAL STREAM e (a int64) SETTINGS type='kafka', topic='t'".into(), &["needs brokers"]),
        (format!("CREATE EXTERNAL STREAM e (a int64) SETTINGS type='kafka', brokers='{address}', topic='t', data_format='xml'"), &["data_format", "xml"]),
        (format!("CREATE EXTERNAL STREAM e (a int64, b int64) SETTINGS type='kafka', brokers='{address}', topic='t', data_format='RawBLOB'"), &["one column"]),
        (format!("CREATE EXTERNAL STREAM e (a int64) SETTINGS type='kafka', brokers='{address}', topic='t', properties='plugin.library.paths=/tmp/x'"), &["can not be set"]),
        ("CREATE EXTERNAL STREAM e (a int64) ORDER BY a SETTINGS type='kafka', brokers='b', topic='t'".into(), &["ORDER BY"]),
        ("CREATE EXTERNAL STREAM e (a int64, _tp_shard int32) SETTINGS type='kafka', brokers='b', topic='t'".into(), &["reserved"]),
    ];
    for (sql, parts) in &cases {
        let error = refused(sql);
        for part in *parts {
            assert!(error.contains(part), "{sql}: {part}: {error}");
        }
    }
    // No such topic; nobody there; credentials nobody asked for.
    server.query(&broker.stream("missing", "a int64", ""));
    let error = refused("SELECT * FROM table(missing)");
    assert!(error.contains("no topic missing") && error.contains("UNKNOWN_TABLE"), "{error}");
    let error = refused("CREATE TASK k SCHEDULE 1h INTO missing AS SELECT 1 AS a");
    assert!(error.contains("can not write to an external stream"), "{error}");
    let secrets = "security_protocol='SASL_PLAINTEXT', username='me', password='s3cret', properties='ssl.key.password=s3cret'";
    server.query(&format!("CREATE EXTERNAL STREAM locked (a int64) SETTINGS type='kafka', brokers='{address}', topic='t', {secrets}"));
    let error = refused("SELECT * FROM table(locked)");
    assert!(error.contains("could not reach topic t"), "{error}");
    for shown in [
        error,
        server.query("SHOW CREATE STREAM locked"),
        server.query("SELECT create_table_query FROM system.tables"),
        server.query("SELECT query FROM system.query_log"),
        refused(&format!(
            "CREATE EXTERNAL STREAM locked (a int64) SETTINGS type='kafka', brokers='{address}', topics='t', {secrets}"
        )),
    ] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    // Its definition outlives a restart, its secrets too.
    assert!(server.query("SHOW CREATE STREAM locked").contains("[HIDDEN]"));
    server.query("DROP STREAM locked");
    server.query("CREATE DATABASE d");
    server.query(&broker.stream("d.x", "a int64", "").replace("topic='d.x'", "topic='x'"));
    assert!(server.query("SHOW CREATE STREAM d.x").contains("CREATE EXTERNAL STREAM d.x"));
    server.query("DROP DATABASE d CASCADE");
}
