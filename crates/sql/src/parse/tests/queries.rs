//! Forms of queries: what they become.

use super::super::reserved::{self, Strictness};
use super::super::*;
use super::{one, query};
use sqlparser::ast::Expr;

/// What stands in the tree (printed), without reserved settings.
#[test]
fn dialect_forms_become_what_they_mean() {
    let cases = [
        ("now() - 5s", "now() - INTERVAL '5' SECOND"),
        ("now()-5m", "now() - INTERVAL '5' MINUTE"),
        ("x + 5M", "x + INTERVAL '5' MONTH"),
        ("-2h", "-INTERVAL '2' HOUR"),
        ("5ns", "INTERVAL '5' NANOSECOND"),
        ("5us", "INTERVAL '5' MICROSECOND"),
        ("5ms", "INTERVAL '5' MILLISECOND"),
        ("5d", "INTERVAL '5' DAY"),
        ("5w", "INTERVAL '5' WEEK"),
        ("5q", "INTERVAL '5' QUARTER"),
        ("5y", "INTERVAL '5' YEAR"),
        ("INTERVAL '5s'", "INTERVAL '5' SECOND"),
        ("INTERVAL '3 days'", "INTERVAL '3' DAY"),
        ("INTERVAL 5 SECOND", "INTERVAL 5 SECOND"),
        ("INTERVAL 5s", "INTERVAL '5' SECOND"),
        ("5 AS s", ""),
        ("t.1", "t.\"1\""),
        ("t.1.2", "t.\"1\".\"2\""),
        ("f(x).2", "f(x).\"2\""),
        ("1.5", "1.5"),
        ("a[1].2", "a[1].\"2\""),
        ("a ? b : c", "if(a, b, c)"),
        ("a > 1 OR b ? 1 : 2", "if(a > 1 OR b, 1, 2)"),
        ("a ? 1 : b ? 2 : 3", "if(a, 1, if(b, 2, 3))"),
        ("a?b:c", "if(a, b, c)"),
        ("a ? raw:x : 1", "if(a, raw:x, 1)"),
        ("f(a ? 1 : 2, 3)", "f(if(a, 1, 2), 3)"),
        ("raw:a.b", "raw:a.b"),
        ("a == 1", "a = 1"),
        ("a <> 1", "a <> 1"),
        ("0xFF", "255"),
        ("1_000_000", "1000000"),
        ("0b101", "5"),
        ("1e3", "1e3"),
        ("$$it's$$", "'it''s'"),
        ("{x:int32}", "_param('x', 'int32')"),
        ("{x:array(nullable(string))}", "_param('x', 'array(nullable(string))')"),
        ("{'a': 1}", "{'a': 1}"),
        ("x -> x + 1", "x -> x + 1"),
        ("f((x, y) -> x, a)", "f((x, y) -> x, a)"),
        ("count() FILTER (WHERE a)", "count() FILTER (WHERE a)"),
        ("x::array(array(int8))", "x::\"array(array(int8))\""),
        ("cast(x, 'int')", "cast(x, 'int')"),
        ("cast(x AS map(string, int))", "CAST(x AS \"map(string, int)\")"),
        ("left(a, 1) || right(b, 2)", "left(a, 1) || right(b, 2)"),
        ("extract(s, 're')", "extract(s, 're')"),
        ("a IN [1, 2]", "a IN (1, 2)"),
        ("a GLOBAL NOT IN (1)", "a NOT IN (1)"),
        ("and(a, or(b, c))", "and(a, or(b, c))"),
        ("a BETWEEN 1 AND 2 AND b", "a BETWEEN 1 AND 2 AND b"),
    ];
    for (text, expected) in cases {
        if expected.is_empty() {
            assert!(parse_expr(text).is_err(), "{text}");
        } else {
            let got = parse_expr(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(got.to_string(), expected, "{text}");
        }
    }
}

#[test]
fn types_of_casts_keep_their_text() {
    for (text, expected) in [
        ("x::low_cardinality(nullable(string))", "low_cardinality(nullable(string))"),
        ("x::datetime64(3, 'UTC')", "datetime64(3, 'UTC')"),
        ("x::ipv4", "ipv4"),
        ("CAST(x AS Array(UInt8))", "Array(UInt8)"),
    ] {
        let Ok(Expr::Cast { data_type, .. }) = parse_expr(text) else { panic!("{text}") };
        assert_eq!(reserved::type_text(&data_type), expected, "{text}");
    }
}

#[test]
fn emit_is_never_an_alias() {
    let cases = [
        ("SELECT count() FROM s EMIT PERIODIC 2s", Some("PERIODIC 2s"), "SELECT count() FROM s"),
        (
            "SELECT count() FROM s GROUP BY k EMIT ON UPDATE LIMIT 3",
            Some("ON UPDATE"),
            "SELECT count() FROM s GROUP BY k LIMIT 3",
        ),
        (
            "SELECT a FROM s EMIT AFTER KEY EXPIRE IDENTIFIED BY c WITH ONLY MAXSPAN 1h AND TIMEOUT 5s",
            Some("AFTER KEY EXPIRE IDENTIFIED BY c WITH ONLY MAXSPAN 1h AND TIMEOUT 5s"),
            "SELECT a FROM s",
        ),
        ("SELECT a FROM s SETTINGS x = 1 EMIT LAST 1h", Some("LAST 1h"), "SELECT a FROM s SETTINGS x = 1"),
        (
            "SELECT a FROM t UNION ALL SELECT b FROM u EMIT STREAM ON UPDATE",
            Some("STREAM ON UPDATE"),
            "SELECT a FROM t UNION ALL SELECT b FROM u",
        ),
        (
            "SELECT emit FROM s WHERE emit = 1 GROUP BY emit",
            None,
            "SELECT emit FROM s WHERE emit = 1 GROUP BY emit",
        ),
        ("SELECT a AS emit FROM s AS emit", None, "SELECT a AS emit FROM s AS emit"),
    ];
    for (text, emit, rest) in cases {
        let mut query = query(text);
        assert_eq!(reserved::emit(&query), emit, "{text}");
        if let Some(settings) = &mut query.settings {
            settings.retain(|s| !reserved::is_reserved(&s.key.value));
        }
        query.settings = query.settings.filter(|s| !s.is_empty());
        assert_eq!(query.to_string(), rest, "{text}");
    }
}

#[test]
fn clauses_stay_at_their_query_level() {
    let outer = query(
        "SELECT * FROM (SELECT a FROM s PARTITION BY a EMIT PERIODIC 1s) AS x SHUFFLE BY a, b LIMIT 1 BY a LIMIT 2",
    );
    assert_eq!(reserved::emit(&outer), None);
    assert!(reserved::partition_by(&outer).is_empty());
    assert_eq!(reserved::shuffle_by(&outer).len(), 2);
    let (counts, by) = reserved::limit_by(&outer).unwrap();
    assert_eq!((counts.limit.to_string(), counts.offset, by.len()), ("1".into(), None, 1));
    assert!(outer.to_string().contains(
        "(SELECT a FROM s SETTINGS __partition_by = _list(a), __emit = 'PERIODIC 1s') AS x LIMIT 2"
    ));

    let e = reserved::refuse(&outer, &[reserved::EMIT]).unwrap_err();
    assert_eq!(
        (e.code.number(), e.message.as_str()),
        (48, "EMIT PERIODIC 1s is not implemented in this version")
    );
    reserved::refuse(&outer, &[reserved::JOIN_STRICTNESS, reserved::FINAL]).unwrap();

    let windowed = query("SELECT sum(a) OVER (PARTITION BY k) FROM s");
    assert!(reserved::partition_by(&windowed).is_empty());
    let offset = query("SELECT a FROM s LIMIT 2, 3 BY k");
    let (counts, _) = reserved::limit_by(&offset).unwrap();
    assert_eq!((counts.limit.to_string(), counts.offset.unwrap().to_string()), ("3".into(), "2".into()));
}

#[test]
fn join_strictness_is_carried_in_order() {
    use Strictness::*;
    let cases: &[(&str, &[Strictness], &str)] = &[
        ("l LATEST JOIN r ON 1", &[Latest], "l JOIN r ON 1"),
        ("l LEFT LATEST JOIN r ON 1", &[Latest], "l LEFT JOIN r ON 1"),
        ("l ASOF LEFT JOIN r ON 1", &[Asof], "l LEFT JOIN r ON 1"),
        ("l ALL JOIN r ON 1", &[], "l JOIN r ON 1"),
        ("l JOIN q ON 1 ANY JOIN r ON 1", &[All, Any], "l JOIN q ON 1 JOIN r ON 1"),
        ("l ARRAY JOIN x LATEST JOIN r ON 1", &[Latest], "l ARRAY JOIN x JOIN r ON 1"),
        ("l LEFT SEMI JOIN r ON 1", &[], "l LEFT SEMI JOIN r ON 1"),
        ("l ANTI JOIN r ON 1", &[], "l LEFT ANTI JOIN r ON 1"),
        ("l GLOBAL INNER JOIN r ON 1", &[], "l INNER JOIN r ON 1"),
        ("l FULL OUTER JOIN r ON 1", &[], "l FULL JOIN r ON 1"),
        ("latest JOIN any ON 1", &[], "latest JOIN any ON 1"),
        ("l AS latest JOIN r ON 1", &[], "l AS latest JOIN r ON 1"),
    ];
    for (from, strictness, printed) in cases {
        let mut query = query(&format!("SELECT 1 FROM {from}"));
        assert_eq!(reserved::join_strictness(&query), *strictness, "{from}");
        query.settings = None;
        let text = query.to_string().replace("FULL OUTER JOIN", "FULL JOIN");
        assert_eq!(text, format!("SELECT 1 FROM {printed}"), "{from}");
    }
}

#[test]
fn with_expressions_take_the_place_of_their_names() {
    let cases = [
        ("WITH 5 AS x SELECT x", "SELECT 5 AS x"),
        ("WITH 5 AS x, x + 1 AS y SELECT y * 2 FROM t WHERE a > x", "SELECT (5 + 1) * 2 FROM t WHERE a > 5"),
        ("WITH c AS (SELECT 1), 2 AS x SELECT x FROM c", "WITH c AS (SELECT 1) SELECT 2 AS x FROM c"),
        ("WITH 1 AS x SELECT x FROM (SELECT x, y FROM t)", "SELECT 1 AS x FROM (SELECT 1 AS x, y FROM t)"),
        ("WITH 1 AS x SELECT (WITH 2 AS x SELECT x), x", "SELECT (SELECT 2 AS x), 1 AS x"),
        ("WITH 1 AS x SELECT f(x -> x + 1), t.x, x.1 FROM t", "SELECT f(x -> x + 1), t.x, x.\"1\" FROM t"),
        ("WITH (SELECT max(a) FROM t) AS m SELECT a / m FROM t", "SELECT a / (SELECT max(a) FROM t) FROM t"),
    ];
    for (text, expected) in cases {
        assert_eq!(query(text).to_string(), expected, "{text}");
    }
}

#[test]
fn settings_and_format_are_the_statements() {
    let parsed = one("SELECT a FROM s SETTINGS seek_to = 'earliest', max_threads = 4, x = -1 FORMAT CSV");
    assert_eq!(parsed.format.as_deref(), Some("CSV"));
    let settings: Vec<_> = parsed.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(settings, [("max_threads", "4"), ("seek_to", "earliest"), ("x", "-1")]);
    for text in ["SELECT 1 FORMAT JSON", "SELECT 1 FORMAT JSON SETTINGS a = 1", "SELECT * FORMAT JSON"] {
        assert_eq!(one(text).format.as_deref(), Some("JSON"), "{text}");
    }
    assert_eq!(one("SELECT format FROM t AS format").format, None);
    assert!(one("SELECT * FROM (SELECT 1 SETTINGS a = 1)").settings.is_empty());
}

#[test]
fn table_functions_all_look_the_same() {
    use sqlparser::ast::TableFactor;
    for text in ["table(s)", "values('a int', (1))", "numbers(10)", "tumble(table(s), 5s)", "{t:Identifier}"]
    {
        let query = query(&format!("SELECT * FROM {text}"));
        let sqlparser::ast::SetExpr::Select(select) = *query.body else { panic!("{text}") };
        assert!(matches!(select.from[0].relation, TableFactor::Table { args: Some(_), .. }), "{text}");
    }
}
