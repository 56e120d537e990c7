//! Statements that are not queries: the facts in their trees.

use super::super::*;
use super::one;
use crate::ast::*;

fn name(text: &str) -> Name {
    match text.split_once('.') {
        Some((database, name)) => Name { database: Some(database.into()), name: name.into() },
        None => Name { database: None, name: text.into() },
    }
}

fn stream(text: &str) -> (CreateStream, Settings) {
    let parsed = one(text);
    match parsed.statement {
        Statement::CreateStream(stream) => (stream, parsed.settings),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_stream_with_every_clause() {
    let (s, settings) = stream(
        "CREATE STREAM IF NOT EXISTS db.s (
            a int32,
            b string DEFAULT 'x' CODEC(ZSTD(1), LZ4) COMMENT 'hi',
            c datetime64(3, 'UTC') DEFAULT now64(3) - 5s,
            d ALIAS a + 1,
            e nullable(int) MATERIALIZED a * 2 TTL c + 1d,
            f array(tuple(x int, y string)) NULL,
            `g h` string NOT NULL,
            INDEX i lower(b) TYPE bloom_filter(0.01) GRANULARITY 3,
            PRIMARY KEY (a)
        ) ENGINE = MergeTree() ORDER BY (a, to_start_of_hour(c)) PARTITION BY to_YYYYMM(c)
          TTL c + 7d DELETE SETTINGS shards = 2, logstore_retention_ms = -1, mode = 'append' COMMENT 'all'",
    );
    assert_eq!(
        (s.name.clone(), s.if_not_exists, s.or_replace, s.kind),
        (name("db.s"), true, false, StreamKind::Stream)
    );
    let column = |name: &str| s.columns.iter().find(|c| c.name == name).unwrap();
    assert_eq!(s.columns.len(), 7);
    assert_eq!(column("a").type_text.as_deref(), Some("int32"));
    assert_eq!(column("b").default, Some((DefaultWord::Default, "'x'".into())));
    assert_eq!((column("b").codec.as_deref(), column("b").comment.as_str()), (Some("ZSTD(1), LZ4"), "hi"));
    assert_eq!(column("c").type_text.as_deref(), Some("datetime64(3, 'UTC')"));
    assert_eq!(column("c").default, Some((DefaultWord::Default, "now64(3) - 5s".into())));
    assert_eq!(
        (column("d").type_text.as_deref(), column("d").default.clone()),
        (None, Some((DefaultWord::Alias, "a + 1".into())))
    );
    assert_eq!(column("e").default, Some((DefaultWord::Materialized, "a * 2".into())));
    assert_eq!(column("e").ttl.as_deref(), Some("c + 1d"));
    assert_eq!(
        (column("f").type_text.as_deref(), column("f").nullable),
        (Some("array(tuple(x int, y string))"), true)
    );
    assert!(!column("g h").nullable);
    assert_eq!(s.indexes, [("i".to_string(), "lower(b)".to_string(), "bloom_filter(0.01)".to_string())]);
    assert_eq!(s.order_by.as_deref(), Some("(a, to_start_of_hour(c))"));
    assert_eq!(s.partition_by.as_deref(), Some("to_YYYYMM(c)"));
    assert_eq!(s.primary_key.as_deref(), Some("(a)"));
    assert_eq!(s.ttl.as_deref(), Some("c + 7d"));
    assert_eq!(s.comment, "all");
    let settings: Vec<_> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(settings, [("logstore_retention_ms", "-1"), ("mode", "append"), ("shards", "2")]);
}

#[test]
fn clauses_of_a_stream_come_in_any_order() {
    let clauses = [
        "ORDER BY a",
        "PARTITION BY b",
        "PRIMARY KEY a",
        "TTL c + 1d",
        "COMMENT 'x'",
        "SETTINGS shards = 2",
        "ENGINE = M(a)",
    ];
    for rotate in 0..clauses.len() {
        let mut turned = clauses.to_vec();
        turned.rotate_left(rotate);
        for _ in 0..2 {
            let text = format!("CREATE STREAM s (a int, b int, c datetime) {}", turned.join(" "));
            let (s, settings) = stream(&text);
            let got = (
                s.order_by.as_deref(),
                s.partition_by.as_deref(),
                s.primary_key.as_deref(),
                s.ttl.as_deref(),
                s.comment.as_str(),
            );
            assert_eq!(got, (Some("a"), Some("b"), Some("a"), Some("c + 1d"), "x"), "{text}");
            assert_eq!(settings["shards"], "2", "{text}");
            turned.reverse();
        }
    }
}

#[test]
fn other_streams() {
    for (text, kind) in [
        ("CREATE RANDOM STREAM r (a int DEFAULT rand() % 10) SETTINGS eps = 5", StreamKind::Random),
        ("CREATE EXTERNAL STREAM r (a int) SETTINGS type = 'kafka'", StreamKind::External),
        ("CREATE EXTERNAL TABLE r SETTINGS type = 'mysql'", StreamKind::External),
        (
            "CREATE MUTABLE STREAM r (a int, INDEX i (a) UNIQUE STORING (b)) PRIMARY KEY a",
            StreamKind::Mutable,
        ),
        ("CREATE TABLE r (a int)", StreamKind::Stream),
    ] {
        assert_eq!(stream(text).0.kind, kind, "{text}");
    }
    assert_eq!(stream("CREATE STREAM a AS d.b").0.like, Some(name("d.b")));
    let (s, settings) =
        stream("CREATE STREAM a ORDER BY x, y SETTINGS shards = 2 AS SELECT 1 AS x, 2 AS y SETTINGS z = 1");
    assert!(s.as_select.is_some());
    assert_eq!((s.order_by.as_deref(), settings.len()), (Some("(x, y)"), 1));
    assert_eq!(stream("CREATE STREAM s (a int) ORDER BY ()").0.order_by.as_deref(), Some("tuple()"));
    let words = stream(
        "CREATE STREAM s (index int, projection string, `order` int, comment string, ttl int, primary int)",
    )
    .0;
    assert_eq!(words.columns.len(), 6);
}

#[test]
fn views_keep_their_text() {
    let text = "CREATE OR REPLACE VIEW db.v AS SELECT a /* why */, 'it\\'s' FROM s EMIT PERIODIC 1s SETTINGS x = 1 COMMENT 'c'";
    let Statement::CreateView { name: n, or_replace, if_not_exists, select, comment } = one(text).statement
    else {
        panic!()
    };
    assert_eq!((n, or_replace, if_not_exists, comment.as_str()), (name("db.v"), true, false, "c"));
    assert_eq!(select, "SELECT a /* why */, 'it\\'s' FROM s EMIT PERIODIC 1s SETTINGS x = 1");
    assert!(parse("CREATE VIEW v AS SELECT (").is_err());
}

/// The debug text of a statement's tree, for those that are small.
#[test]
fn short_statements() {
    let s = r#"Name { database: None, name: "s" }"#;
    let ds = r#"Name { database: Some("d"), name: "s" }"#;
    let cases = [
        (
            "CREATE DATABASE IF NOT EXISTS d COMMENT 'x'",
            r#"CreateDatabase { name: "d", if_not_exists: true, comment: "x" }"#.to_string(),
        ),
        (
            "DROP DATABASE IF EXISTS d CASCADE",
            r#"DropDatabase { name: "d", if_exists: true, cascade: true }"#.into(),
        ),
        ("DROP STREAM s", format!("Drop {{ object: Stream, name: {s}, if_exists: false }}")),
        ("DROP TABLE IF EXISTS d.s SYNC", format!("Drop {{ object: Stream, name: {ds}, if_exists: true }}")),
        ("DROP VIEW s", format!("Drop {{ object: View, name: {s}, if_exists: false }}")),
        ("TRUNCATE STREAM IF EXISTS s", format!("Truncate {{ name: {s}, if_exists: true }}")),
        ("TRUNCATE s", format!("Truncate {{ name: {s}, if_exists: false }}")),
        ("RENAME STREAM s TO d.s", format!("Rename {{ pairs: [({s}, {ds})] }}")),
        ("USE d", r#"Use { database: "d" }"#.into()),
        ("EXISTS s", format!("Exists {{ object: Stream, name: {s} }}")),
        ("EXISTS VIEW d.s", format!("Exists {{ object: View, name: {ds} }}")),
        ("EXISTS DATABASE s", format!("Exists {{ object: Database, name: {s} }}")),
        ("DESCRIBE s", format!("Describe(Relation({s}))")),
        ("DESC TABLE d.s", format!("Describe(Relation({ds}))")),
        ("SHOW STREAMS", "Show(Relations { database: None, like: None, views_only: false })".into()),
        (
            "SHOW VIEWS FROM d",
            r#"Show(Relations { database: Some("d"), like: None, views_only: true })"#.into(),
        ),
        (
            "SHOW DATABASES NOT ILIKE 'x'",
            r#"Show(Databases { like: Some(Like { pattern: "x", case_insensitive: true, negated: true }) })"#
                .into(),
        ),
        ("SHOW CREATE STREAM d.s", format!("Show(Create {{ object: Some(Stream), name: {ds} }})")),
        ("SHOW CREATE s", format!("Show(Create {{ object: None, name: {s} }})")),
        ("SHOW CREATE VIEW s", format!("Show(Create {{ object: Some(View), name: {s} }})")),
        ("SHOW COLUMNS FROM s FROM d", format!("Show(Columns {{ of: {ds}, like: None }})")),
        ("SHOW FUNCTIONS", "Show(Functions { like: None })".into()),
        ("SHOW SETTINGS", "Show(Settings { like: None })".into()),
        ("SHOW PROCESSLIST", "Show(ProcessList)".into()),
        ("SET a = 1, b = 'x', c = true", r#"Set({"a": "1", "b": "x", "c": "true"})"#.into()),
        ("SYSTEM SYNC STREAM s", format!("System(SyncStream({s}))")),
        ("SYSTEM SYNC QUERY 'q'", r#"System(SyncQuery("q"))"#.into()),
        ("SYSTEM FLUSH STREAM d.s", format!("System(FlushStream({ds}))")),
        ("SYSTEM MERGE TABLE s", format!("System(MergeStream({s}))")),
        ("SYSTEM CLOCK ADVANCE 5s", "System(ClockAdvance { micros: 5000000 })".into()),
        ("SYSTEM CLOCK ADVANCE 250us", "System(ClockAdvance { micros: 250 })".into()),
        ("SYSTEM CLOCK ADVANCE INTERVAL 2 MINUTES", "System(ClockAdvance { micros: 120000000 })".into()),
        ("SYSTEM DRAIN", r#"System(DrainQuery(""))"#.into()),
        ("SYSTEM DRAIN QUERY 'q'", r#"System(DrainQuery("q"))"#.into()),
        ("OPTIMIZE TABLE d.s FINAL", format!("Optimize {{ name: {ds} }}")),
    ];
    for (text, expected) in cases {
        assert_eq!(format!("{:?}", one(text).statement), expected, "{text}");
    }
}

#[test]
fn explain_kill_describe() {
    let Statement::ExplainWhy { query_id } = one("EXPLAIN WHY 'q-1'").statement else { panic!() };
    assert_eq!(query_id, "q-1");
    for (text, expected) in [
        ("EXPLAIN SELECT 1", ExplainKind::Plan),
        ("EXPLAIN PLAN SELECT 1", ExplainKind::Plan),
        ("EXPLAIN AST SELECT 1", ExplainKind::Ast),
        ("EXPLAIN SYNTAX SELECT 1", ExplainKind::Syntax),
        ("EXPLAIN PIPELINE INSERT INTO s SELECT 1", ExplainKind::Pipeline),
    ] {
        let Statement::Explain { kind, .. } = one(text).statement else { panic!("{text}") };
        assert_eq!(kind, expected, "{text}");
    }
    let Statement::KillQuery { filter, sync } =
        one("KILL QUERY WHERE query_id = 'x' AND elapsed > 5 SYNC").statement
    else {
        panic!()
    };
    assert_eq!((filter.to_string().as_str(), sync), ("query_id = 'x' AND elapsed > 5", true));
    for (text, expected) in
        [("DESCRIBE (SELECT 1)", "SELECT 1"), ("DESCRIBE TABLE numbers(10)", "SELECT * FROM numbers(10)")]
    {
        let Statement::Describe(DescribeTarget::Query(query)) = one(text).statement else { panic!("{text}") };
        assert_eq!(query.to_string(), expected, "{text}");
    }
}

fn insert(text: &str) -> (Insert, Settings) {
    let parsed = one(text);
    match parsed.statement {
        Statement::Insert(insert) => (insert, parsed.settings),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn data_of_an_insert_is_cut_off_as_it_is() {
    let cases: &[(&str, &str, &str)] = &[
        ("INSERT INTO s FORMAT CSV\n1,'a\n", "CSV", "1,'a\n"),
        ("INSERT INTO s FORMAT CSV \r\n 1", "CSV", " 1"),
        ("INSERT INTO s FORMAT JSONEachRow {\"a\":1}; {\"a\":(", "JSONEachRow", "{\"a\":1}; {\"a\":("),
        ("INSERT INTO s FORMAT JSONEachRow", "JSONEachRow", ""),
        ("INSERT INTO s FORMAT JSONEachRow ; ", "JSONEachRow", ""),
        ("insert into s (a) settings x=1 format Values\n\n(1)", "Values", "\n(1)"),
        ("INSERT INTO format FORMAT CSV 1", "CSV", "1"),
    ];
    for (text, format, data) in cases {
        let InsertSource::Format { name, data: got } = insert(text).0.source else { panic!("{text}") };
        assert_eq!((name.as_str(), std::str::from_utf8(&got).unwrap()), (*format, *data), "{text}");
    }
    let bytes = b"INSERT INTO s FORMAT RowBinary\n\x00\xff(((;\x80";
    let parsed = parse_bytes(bytes, &Limits::default()).unwrap().remove(0);
    let Statement::Insert(Insert { source: InsertSource::Format { data, .. }, .. }) = parsed.statement else {
        panic!()
    };
    assert_eq!(data, b"\x00\xff(((;\x80");
    assert_eq!(parse_bytes(b"SELECT '\xff'", &Limits::default()).unwrap_err().code.number(), 62);

    let values: &[(&str, &str)] = &[
        ("INSERT INTO s VALUES (1, 'a;b'), (2, \"c;\");", "(1, 'a;b'), (2, \"c;\")"),
        ("INSERT INTO s VALUES ('\\';', 1 /* ; */)", "('\\';', 1 /* ; */)"),
        ("INSERT INTO s VALUES", ""),
        ("INSERT INTO s VALUES ((((not sql", "((((not sql"),
        ("INSERT INTO values VALUES (1)", "(1)"),
        ("INSERT INTO table VALUES (1)", "(1)"),
    ];
    for (text, expected) in values {
        let InsertSource::Values { text: got } = insert(text).0.source else { panic!("{text}") };
        assert_eq!(got, *expected, "{text}");
    }
}

#[test]
fn data_does_not_count_as_query_text() {
    let limits = Limits { query_size_bytes_max: 100, ..Limits::default() };
    let long = "x".repeat(1000);
    parse_bytes(format!("INSERT INTO s VALUES ('{long}')").as_bytes(), &limits).unwrap();
    parse_bytes(format!("INSERT INTO s FORMAT CSV {long}").as_bytes(), &limits).unwrap();
    parse_bytes(format!("SELECT 1; {} SELECT 2", " ".repeat(1000)).as_bytes(), &limits).unwrap();
    let e = parse_bytes(format!("SELECT '{long}'").as_bytes(), &limits).unwrap_err();
    assert_eq!(e.code.number(), 62);
    assert!(e.message.contains("max_query_size = 100 bytes"), "{e}");
}

#[test]
fn targets_columns_and_settings_of_an_insert() {
    let (i, settings) =
        insert("INSERT INTO STREAM d.s (a, `b c`) SETTINGS idempotent_id = 'x' VALUES (1, 2)");
    assert_eq!((i.target, i.columns), (name("d.s"), Some(vec!["a".into(), "b c".into()])));
    assert_eq!(settings["idempotent_id"], "x");
    let (i, settings) = insert("INSERT INTO s SELECT a FROM t SETTINGS x = 1");
    assert!(matches!(i.source, InsertSource::Select(_)));
    assert_eq!((i.columns, settings["x"].as_str()), (None, "1"));
    for text in [
        "INSERT INTO s (SELECT 1)",
        "INSERT INTO s (a) (SELECT 1) UNION ALL (SELECT 2)",
        "INSERT INTO s WITH 1 AS x SELECT x",
    ] {
        assert!(matches!(insert(text).0.source, InsertSource::Select(_)), "{text}");
    }
}
