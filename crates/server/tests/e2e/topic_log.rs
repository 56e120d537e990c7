//! Streams whose log is a topic of a real broker: any node has the same rows, through kills and cuts.

use crate::kafka::{Broker, lines};
use crate::life::wait_until;
use crate::process::Server;

/// A stream of two shards with its log in `topic`.
fn stream(broker: &Broker, name: &str, topic: &str, settings: &str) -> String {
    format!(
        "CREATE STREAM {name} (id int64, s string) SETTINGS logstore='kafka', brokers='{}', topic='{topic}'{settings}",
        broker.address()
    )
}

/// Every row with its place.
const PLACES: &str = "SELECT _tp_shard, _tp_sn, id, s, _tp_time FROM table(log) ORDER BY _tp_shard, _tp_sn";

#[test]
fn a_topic_is_the_log_of_a_stream() {
    let Some(broker) = Broker::start() else { return };
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path());
    server.query(&stream(&broker, "log", "t", ", shards=2, sharding_expr='id'"));
    assert!(server.query("SHOW CREATE STREAM log").contains("shards = 2"));
    let mut live = server.streaming.follow("SELECT id, s FROM log").unwrap();
    server.query("INSERT INTO log (id, s) VALUES (0, 'a'), (1, 'b'), (2, 'c\"\\n')");
    assert_eq!(
        server.query("SELECT count(), sum(id) FROM table(log)"),
        "3\t3\n",
        "what was acknowledged is there"
    );
    let mut came = lines(&mut live, 3);
    came.sort();
    assert_eq!(came, ["0\ta", "1\tb", "2\tc\"\\n"]);
    assert_eq!(
        server.query("SELECT _tp_shard, _tp_sn, id FROM table(log) ORDER BY id"),
        "0\t0\t0\n1\t0\t1\n0\t1\t2\n"
    );

    // Others write to the topic, too: a row without a time has that of its message.
    broker.produce(
        "t",
        [(1, "k", "{\"id\":3,\"s\":\"d\",\"_tp_time\":\"2026-01-02 03:04:05.006\"}".to_owned())],
    );
    broker.produce("t", [(1, "k", "{\"id\":5}".to_owned())]);
    assert_eq!(lines(&mut live, 2), ["3\td", "5\t"]);
    assert_eq!(
        server.query("SELECT id, _tp_time, _tp_time <= now64() AND _tp_time > now64() - INTERVAL 1 HOUR FROM table(log) WHERE id IN (3, 5) ORDER BY id"),
        format!("3\t2026-01-02 03:04:05.006\tfalse\n5\t{}", server.query("SELECT _tp_time, true FROM table(log) WHERE id = 5"))
    );
    assert_eq!(
        server.query("SELECT _tp_time = to_datetime64(_tp_append_time, 3) FROM table(log) WHERE id = 5"),
        "true\n"
    );

    // Parts and log together, before and after a kill.
    server.query("SYSTEM FLUSH STREAM log");
    server.query("INSERT INTO log (id, s) SELECT number + 10, 'x' FROM numbers(1000)");
    let all = server.query(PLACES);
    assert_eq!(all.lines().count(), 1_005);
    let parts = "SELECT count() FROM system.parts WHERE table = 'log'";
    let shown = server.query(parts);
    assert_ne!(shown, "0\n", "rows went to parts");
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(server.query(PLACES), all);
    let mut again = server.streaming.follow("SELECT id, s FROM log SETTINGS seek_to='earliest'").unwrap();
    let mut ids: Vec<i64> =
        lines(&mut again, 1_005).iter().map(|l| l.split('\t').next().unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    let expected: Vec<i64> = (0..4).chain([5]).chain(10..1_010).collect();
    assert_eq!(ids, expected, "each once");

    // Another node that has only the topic.
    let other = Server::start(other_dir.path());
    other.query(&stream(&broker, "log", "t", ", sharding_expr='id'"));
    assert!(other.query("SHOW CREATE STREAM log").contains("shards = 2"), "as many as there are partitions");
    assert_eq!(other.query(PLACES), all);
    let mut live = other.streaming.follow("SELECT id, s FROM log").unwrap();
    server.query("INSERT INTO log (id, s) VALUES (-1, 'from the other')");
    assert_eq!(lines(&mut live, 1), ["-1\tfrom the other"]);
    assert_eq!(other.query(PLACES), server.query(PLACES));
    other.query("DROP STREAM log");
    assert_eq!(server.query("SELECT count() FROM table(log)"), "1006\n", "the topic stays");
}

#[test]
fn views_over_such_a_stream_and_into_one_go_on_after_kill_9() {
    const ROUNDS: u64 = 4;
    const ROWS: u64 = 3_000;
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    server.query(&stream(&broker, "log", "t", ", shards=3, sharding_expr='id', flush_threshold_ms=100"));
    server.query("CREATE STREAM copy (id int64, doubled int64)");
    server.query("CREATE MATERIALIZED VIEW counts AS SELECT id % 7 AS k, count() AS c, sum(id) AS total FROM log GROUP BY k EMIT CHANGELOG SETTINGS checkpoint_interval=0.2");
    server.query("CREATE MATERIALIZED VIEW doubles INTO copy AS SELECT id, id * 2 AS doubled FROM log SETTINGS checkpoint_interval=0.2");
    for round in 0..ROUNDS {
        let from = round * ROWS;
        server.query(&format!(
            "INSERT INTO log (id, s) SELECT number + {from}, to_string(number) FROM numbers({ROWS}) SETTINGS max_insert_block_size=500"
        ));
        server.end();
        server = Server::start(dir.path());
    }
    let all = ROUNDS * ROWS;
    assert_eq!(
        server.query("SELECT count(), uniq_exact(id), max(id) FROM table(log)"),
        format!("{all}\t{all}\t{}\n", all - 1)
    );
    for view in ["counts", "doubles"] {
        wait_until("the view runs", || {
            server.query(&format!("SELECT state FROM system.materialized_views WHERE name = '{view}'"))
                == "Running\n"
        });
        server.query(&format!("SYSTEM SYNC VIEW {view}"));
    }
    assert_eq!(
        server.query("SELECT count(), uniq_exact(id), sum(doubled) FROM table(copy)"),
        format!("{all}\t{all}\t{}\n", all * (all - 1))
    );
    let kept =
        "SELECT k, c, total FROM table(counts) GROUP BY k, c, total HAVING sum(_tp_delta) != 0 ORDER BY k";
    let counted = server.query("SELECT id % 7 AS k, count(), sum(id) FROM table(log) GROUP BY k ORDER BY k");
    wait_until("counts has all changes", || server.query(kept) == counted);
}

#[test]
fn a_broker_that_is_away_is_said_and_rows_come_when_it_is_back() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query(&stream(
        &broker,
        "log",
        "t",
        ", properties='socket.timeout.ms=2000;message.timeout.ms=4000'",
    ));
    server.query("INSERT INTO log (id) VALUES (1)");
    let mut live = server.streaming.follow("SELECT id FROM log SETTINGS seek_to='earliest'").unwrap();
    assert_eq!(lines(&mut live, 1), ["1"]);
    broker.proxy().cut();
    let refused = server.table.query("INSERT INTO log (id) VALUES (2)").unwrap_err();
    assert!(refused.text.contains("topic t"), "{refused}");
    // A server that starts meanwhile waits for it.
    server.kill();
    let server = Server::start(dir.path());
    let refused = server.table.query("SELECT count() FROM table(log)").unwrap_err();
    assert!(refused.text.contains("Code: 210") && refused.text.contains("topic t"), "{refused}");
    broker.proxy().mend();
    wait_until("it answers again", || server.table.query("SELECT count() FROM table(log)").is_ok());
    server.query("INSERT INTO log (id) VALUES (3)");
    assert_eq!(server.query("SELECT id FROM table(log) WHERE id != 2 ORDER BY id"), "1\n3\n");
}

#[test]
fn a_message_that_is_no_row_stops_the_log_or_is_passed_over() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query(&stream(&broker, "log", "t", ""));
    server.query("INSERT INTO log (id) VALUES (1)");
    let several = "{\"id\":2}{\"id\":3}".to_owned();
    for message in ["nonsense".to_owned(), several, "{\"id\":4}".to_owned()] {
        broker.produce("t", [(0, "k", message)]);
    }
    wait_until("it is said", || match server.table.query("SELECT count() FROM table(log)") {
        Ok(_) => false,
        Err(e) => e.text.contains("offset 1") && e.text.contains("logstore_on_error"),
    });
    server.query("ALTER STREAM log MODIFY SETTING logstore_on_error='skip'");
    wait_until("the rest has come", || {
        server
            .table
            .query("SELECT id, _tp_sn FROM table(log) ORDER BY id")
            .is_ok_and(|rows| rows == "1\t0\n4\t3\n")
    });
    assert_eq!(server.query("SELECT skipped_messages FROM system.shards WHERE table = 'log'"), "2\n");
    assert!(server.query("SHOW CREATE STREAM log").contains("logstore_on_error"));
    // It is so after a restart as well, and many of them are passed over at once.
    server.kill();
    let bad = |n: u64| if n.is_multiple_of(3) { format!("{{\"id\":{n}}}") } else { "bad".to_owned() };
    broker.produce("t", (100..400).map(|n| (0, "k", bad(n))));
    let server = Server::start(dir.path());
    wait_until("the rest has come", || {
        server.table.query("SELECT count(), max(id) FROM table(log)").is_ok_and(|rows| rows == "102\t399\n")
    });
    assert_eq!(
        server.query("SELECT skipped_messages > 190 FROM system.shards WHERE table = 'log'"),
        "true\n"
    );
}

#[test]
fn what_such_a_stream_can_not_be_is_said() {
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    broker.create("two", 2);
    // (settings beside those of the topic, parts of the error)
    let cases: [(&str, &[&str]); 6] = [
        (", shards=3", &["shards is 3", "2 partitions"]),
        (", storage_type='streaming'", &["hybrid", "EXTERNAL"]),
        (", mode='changelog'", &["changelog", "not supported yet"]),
        (", logstore_bytes_max=10000000", &["logstore_bytes_max"]),
        (", brokerz='x'", &["brokerz", "did you mean brokers"]),
        (", type='weir'", &["type", "logstore"]),
    ];
    for (settings, parts) in cases {
        let refused = server.table.query(&stream(&broker, "log", "two", settings)).unwrap_err();
        assert!(parts.iter().all(|part| refused.text.contains(part)), "{settings}: {refused}");
    }
    let refused = server.table.query("CREATE STREAM log (id int64) SETTINGS logstore='kafka'").unwrap_err();
    assert!(refused.text.contains("needs brokers"), "{refused}");
    server.query(&stream(&broker, "log", "two", ""));
    let refused =
        server.table.query("INSERT INTO log (id) SETTINGS idempotent_id='x' VALUES (1)").unwrap_err();
    assert!(refused.text.contains("idempotent_id"), "{refused}");
}

#[test]
fn a_view_into_such_a_stream_writes_each_row_once() {
    const ROUNDS: u64 = 4;
    const ROWS: u64 = 500;
    let Some(broker) = Broker::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    server.query("CREATE STREAM source (id int64) SETTINGS shards=2");
    server.query(&stream(&broker, "log", "t", ", shards=2, sharding_expr='id'"));
    server.query("CREATE MATERIALIZED VIEW v INTO log AS SELECT id, to_string(id) AS s FROM source SETTINGS checkpoint_interval=0.2");
    for round in 0..ROUNDS {
        let from = round * ROWS;
        server.query(&format!(
            "INSERT INTO source (id) SELECT number + {from} FROM numbers({ROWS}) SETTINGS max_insert_block_size=100"
        ));
        if round % 2 == 0 {
            wait_until("some rows are there", || {
                server.query(&format!("SELECT count() > {from} FROM table(log)")) == "true\n"
            });
        }
        server.end();
        server = Server::start(dir.path());
    }
    let all = ROUNDS * ROWS;
    wait_until("the view runs", || {
        server.query("SELECT state FROM system.materialized_views WHERE name = 'v'") == "Running\n"
    });
    server.query("SYSTEM SYNC VIEW v");
    // The broker of the tests shows what transactions that were given up had written; a row that is there twice is of
    // one of these. In a topic of Kafka nobody sees it.
    let seen = server.query("SELECT uniq_exact(id), count() >= uniq_exact(id), max(id) FROM table(log)");
    assert_eq!(seen, format!("{all}\ttrue\t{}\n", all - 1));
    assert_eq!(
        server.query("SELECT count() FROM table(log) WHERE _tp_shard != id % 2 OR s != to_string(id)"),
        "0\n"
    );
}
