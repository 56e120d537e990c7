//! Topics whose messages have schemas: Avro and Protobuf, of a registry and of our own, with confluent-kafka's
//! serializers on the other side; and what holds secrets of external streams.

use crate::kafka::{Broker, lines};
use crate::life::wait_until;
use crate::process::Server;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/schema_client.py");

/// A schema registry, and who serializes with it.
struct Registry {
    child: Child,
    python: PathBuf,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// `credentials`: `user:password` or `-`; on `port`, 0 = a free one.
    fn start(credentials: &str, port: u16) -> Registry {
        let program = std::env::var("WEIR_TEST_TANSU").expect("there is a broker");
        let python = PathBuf::from(program).with_file_name("python");
        let mut child = Command::new(&python)
            .args([CLIENT, "serve", credentials, &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Registry { child, python, port: line.trim().parse().expect("it says its port") }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn client(&self, args: &[&str], input: &str) -> String {
        let mut child = Command::new(&self.python)
            .arg(CLIENT)
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

    fn produce(&self, broker: &Broker, topic: &str, language: &[&str], rows: &str) {
        let url = self.url();
        self.client(&[&["produce", broker.address(), &url, topic], language].concat(), rows);
    }

    fn consume(&self, broker: &Broker, topic: &str, language: &str, count: usize) -> Vec<serde_json::Value> {
        let url = self.url();
        let text = self.client(&["consume", broker.address(), &url, topic, language, &count.to_string()], "");
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn raw(&self, broker: &Broker, topic: &str, payloads: &[&str]) {
        self.client(&["raw", broker.address(), topic], &payloads.join("\n"));
    }
}

const V1: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},{"name":"name","type":["null","string"],"default":null}]}"#;
const V2: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"price","type":"double","default":0},{"name":"id","type":"long"},
    {"name":"tags","type":{"type":"array","items":"string"},"default":[]},
    {"name":"name","type":["null","string"],"default":null}]}"#;

#[test]
fn avro_of_a_registry_is_read_and_written() {
    let Some(broker) = Broker::start() else { return };
    let registry = Registry::start("-", 0);
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("orders", 1);
    broker.create("copies", 1);
    broker.create("fresh", 1);
    let rows: Vec<String> = (0..50).map(|i| format!("{{\"id\":{i},\"name\":\"n{i}\"}}")).collect();
    registry.produce(&broker, "orders", &["avro", V1], &rows.join("\n"));
    let rows: Vec<String> =
        (50..99).map(|i| format!("{{\"id\":{i},\"name\":null,\"price\":0.5,\"tags\":[\"t{i}\"]}}")).collect();
    registry.produce(&broker, "orders", &["avro", V2], &rows.join("\n"));
    let settings = |topic: &str| {
        format!(
            "SETTINGS type='kafka', brokers='{}', topic='{topic}', data_format='Avro', kafka_schema_registry_url='{}'",
            broker.address(),
            registry.url()
        )
    };
    // Columns of the newest schema; rows of both.
    server.query(&format!("CREATE EXTERNAL STREAM orders {}", settings("orders")));
    let columns: Vec<String> = server
        .query("DESCRIBE orders")
        .lines()
        .map(|l| l.split('\t').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(columns[..4], ["price Float64", "id Int64", "tags Array(String)", "name Nullable(String)"]);
    let read = "SELECT id, price, name, length(tags) FROM orders LIMIT 99 SETTINGS seek_to='earliest'";
    let mut all = server.streaming.follow(read).unwrap();
    let got = lines(&mut all, 99);
    assert_eq!(got[0], "0\t0\tn0\t0");
    assert_eq!(got[98], "98\t0.5\t\\N\t1");

    // What is written has the newest schema of the subject, or one made of the columns.
    registry.produce(&broker, "copies", &["avro", V2], "{\"id\":-1,\"name\":\"before\"}");
    server.query(&format!("CREATE EXTERNAL STREAM copies (id int64, price float64, tags array(string), name nullable(string)) {}", settings("copies")));
    server.query("INSERT INTO copies VALUES (7, 1.5, ['a', 'b'], NULL)");
    let copies = registry.consume(&broker, "copies", "avro", 2);
    assert_eq!(copies[1], serde_json::json!({"id": 7, "price": 1.5, "tags": ["a", "b"], "name": null}));
    server.query(&format!(
        "CREATE EXTERNAL STREAM fresh (id int64, at datetime64(3, 'UTC'), p tuple(x int32, y string)) {}",
        settings("fresh")
    ));
    server.query("INSERT INTO fresh VALUES (1, '2026-11-27 10:00:00.001', (5, 'q'))");
    let fresh = registry.consume(&broker, "fresh", "avro", 1);
    assert_eq!(
        fresh[0],
        serde_json::json!({"id": 1, "at": "2026-11-27 10:00:00.001000+00:00", "p": {"x": 5, "y": "q"}})
    );

    // A number that the registry does not know, bytes without one, and a value that is cut.
    registry.raw(&broker, "orders", &["0000002710", "7b7d", "000000006402"]);
    let follow = "SELECT id FROM orders SETTINGS seek_to='99'";
    let told = server.streaming.query(follow).unwrap_err().text;
    assert!(
        told.contains("offset 99 of topic orders partition 0") && told.contains("Schema not found"),
        "{told}"
    );
    server.query(
        "CREATE MATERIALIZED VIEW v AS SELECT id FROM orders SETTINGS seek_to='98', on_error='dlq', checkpoint_interval=0.2",
    );
    registry.produce(&broker, "orders", &["avro", V1], "{\"id\":1000,\"name\":null}");
    wait_until("what does not parse is kept, and the view goes on", || {
        server.query("SELECT sum(id) FROM table(v)") == "1098\n"
    });
    assert_eq!(server.query("SELECT array_sort(group_array(sn)) FROM table(v_dlq)"), "[99,100,101]\n");
    assert_eq!(
        server.query("SELECT count() FROM table(v_dlq) WHERE reason LIKE '%without a registry%'"),
        "1\n"
    );
}

#[test]
fn a_registry_that_is_away_is_waited_for() {
    let Some(broker) = Broker::start() else { return };
    let registry = Registry::start("me:pass", 0);
    let port = registry.port;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("t", 1);
    let create = |name: &str, credentials: &str| {
        format!(
            "CREATE EXTERNAL STREAM {name} (id int64) SETTINGS type='kafka', brokers='{}', topic='t', data_format='Avro', \
             kafka_schema_registry_url='http://127.0.0.1:{port}'{credentials}",
            broker.address()
        )
    };
    server.query(&create("t", ", kafka_schema_registry_credentials='me:pass'"));
    server.query("INSERT INTO t VALUES (1)");
    server.query(&create("u", ""));
    let refused = server.streaming.query("SELECT id FROM u SETTINGS seek_to='earliest'").unwrap_err();
    assert!(refused.text.contains("kafka_schema_registry_credentials"), "{refused}");
    assert!(!server.query("SHOW CREATE STREAM t").contains("me:pass"));
    drop(registry);
    // Schemas that a stream knows it asks for no more; one that is made anew knows none.
    server.query("DROP STREAM t");
    server.query(&create("t", ", kafka_schema_registry_credentials='me:pass'"));
    let mut read = server.streaming.follow("SELECT id FROM t LIMIT 1 SETTINGS seek_to='earliest'").unwrap();
    wait_until("the query says what it waits for", || {
        server.query("SELECT count() FROM system.query_warnings WHERE warning LIKE '%schema registry%'")
            != "0\n"
    });
    let refused = server.table.query("INSERT INTO t VALUES (2)").unwrap_err();
    assert!(refused.text.contains("NETWORK_ERROR"), "{refused}");
    let again = Registry::start("me:pass", port);
    // The registry was in memory: the schema gets the same number by being registered anew.
    server.query("INSERT INTO t VALUES (2)");
    assert_eq!(lines(&mut read, 1), ["1"]);
    drop(again);
}

#[test]
fn protobuf_of_a_registry_and_of_our_own() {
    let Some(broker) = Broker::start() else { return };
    let registry = Registry::start("-", 0);
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    for topic in ["orders", "plain", "many"] {
        broker.create(topic, 1);
    }
    let rows: Vec<String> =
        (0..20).map(|i| format!("{{\"id\":{i},\"name\":\"n{i}\",\"tags\":[\"a\"]}}")).collect();
    registry.produce(&broker, "orders", &["protobuf"], &rows.join("\n"));
    let stream = |topic: &str, rest: &str| {
        format!(
            "CREATE EXTERNAL STREAM {topic} {rest}, type='kafka', brokers='{}', topic='{topic}'",
            broker.address()
        )
    };
    let url = format!("kafka_schema_registry_url='{}'", registry.url());
    server.query(&stream(
        "orders",
        &format!("(id int64, name string, tags array(string)) SETTINGS data_format='Protobuf', {url}"),
    ));
    let read = "SELECT id, name, tags FROM orders LIMIT 20 SETTINGS seek_to='earliest'";
    let read = server.streaming.query(read).unwrap();
    assert!(read.ends_with("\n19\tn19\t['a']\n"), "{read}");

    // Our own schema, with one that it imports; registered for what is written.
    let order = "syntax = \"proto3\"; package shop; import \"tags.proto\"; message Other {} message Order { int64 id = 1; string name = 2; Tags tags = 3; }";
    let refused =
        server.table.query(&format!("CREATE FORMAT SCHEMA orders AS '{order}' TYPE Protobuf")).unwrap_err();
    assert!(refused.text.contains("tags.proto"), "{refused}");
    server.query("CREATE FORMAT SCHEMA tags AS 'syntax = \"proto3\"; package shop; message Tags { repeated string all = 1; }' TYPE Protobuf");
    server.query(&format!("CREATE FORMAT SCHEMA orders AS '{order}' TYPE Protobuf"));
    for (topic, format) in [("plain", "ProtobufSingle"), ("many", "Protobuf")] {
        server
            .query(&stream(topic, &format!("SETTINGS data_format='{format}', format_schema='orders:Order'")));
        server.query(&format!(
            "INSERT INTO {topic} (id, name, tags) VALUES (1, 'a', (['x', 'y'],)), (2, 'b', ([],))"
        ));
        let read = format!("SELECT id, name, tags.all FROM {topic} LIMIT 2 SETTINGS seek_to='earliest'");
        assert_eq!(
            lines(&mut server.streaming.follow(&read).unwrap(), 2),
            ["1\ta\t['x','y']", "2\tb\t[]"],
            "{topic}"
        );
    }
    let refused = server.table.query("DROP FORMAT SCHEMA tags").unwrap_err();
    assert!(refused.text.contains("imported by orders"), "{refused}");
    let refused = server.table.query("DROP FORMAT SCHEMA orders").unwrap_err();
    assert!(refused.text.contains("default.many, default.plain"), "{refused}");
    let refused = server
        .table
        .query(&stream(
            "typo",
            "(idd int64) SETTINGS data_format='ProtobufSingle', format_schema='orders:Order'",
        ))
        .unwrap_err();
    assert!(refused.text.contains("did you mean id"), "{refused}");

    // Written for others, by the place of the message in the registry's schema.
    server.query("INSERT INTO orders VALUES (77, 'ours', ['p', 'q'])");
    let all = registry.consume(&broker, "orders", "protobuf", 21);
    assert_eq!(all[20], serde_json::json!({"id": "77", "name": "ours", "tags": ["p", "q"]}));
}

#[test]
fn collections_hold_what_nobody_is_shown() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    broker.create("t", 1);
    broker.produce("t", [(0, "k", "{\"id\":5}".to_owned()), (0, "k", "{\"id\":6}".to_owned())]);
    server.query(&format!(
        "CREATE NAMED COLLECTION here AS type='kafka', brokers='{}' NOT OVERRIDABLE, topic='none', my_key='s3cret'",
        broker.address()
    ));
    let refused = server
        .table
        .query("CREATE EXTERNAL STREAM t (id int64) SETTINGS named_collection='here', topic='t'")
        .unwrap_err();
    assert!(refused.text.contains("my_key"), "{refused}");
    server.query("ALTER NAMED COLLECTION here SET properties='client.id=s3cret' DELETE my_key");
    server.query("CREATE EXTERNAL STREAM t (id int64) SETTINGS named_collection='here', topic='t'");
    let refused = server
        .table
        .query("CREATE EXTERNAL STREAM u (id int64) SETTINGS named_collection='here', brokers='x:1'")
        .unwrap_err();
    assert!(refused.text.contains("NOT OVERRIDABLE"), "{refused}");
    let read = "SELECT id FROM t LIMIT 2 SETTINGS seek_to='earliest'";
    assert_eq!(lines(&mut server.streaming.follow(read).unwrap(), 2), ["5", "6"]);
    for shown in [
        "SHOW CREATE STREAM t",
        "SHOW CREATE NAMED COLLECTION here",
        "SELECT * FROM system.named_collections",
        "SELECT query FROM system.query_log",
        "SELECT create_table_query FROM system.tables",
    ] {
        let text = server.query(shown);
        assert!(!text.contains("s3cret"), "{shown}: {text}");
    }
    assert_eq!(server.query("SHOW NAMED COLLECTIONS"), "here\n");
    let refused = server.table.query("DROP NAMED COLLECTION here").unwrap_err();
    assert!(refused.text.contains("default.t"), "{refused}");
    server.kill();
    server = Server::start(dir.path());
    assert_eq!(lines(&mut server.streaming.follow(read).unwrap(), 2), ["5", "6"]);
    server.query("DROP STREAM t");
    server.query("DROP NAMED COLLECTION here");
    server.query("DROP NAMED COLLECTION IF EXISTS here");
    assert_eq!(server.query("SHOW NAMED COLLECTIONS"), "");
}
