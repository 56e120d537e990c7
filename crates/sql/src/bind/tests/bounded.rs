//! Bounded queries: clauses of the dialect, by their rows.

use super::*;

#[test]
fn clauses_of_the_dialect() {
    let cases: &[(&str, &[&str])] = &[
        // Aliases anywhere, before the definition and over columns.
        ("SELECT a + 1 AS b, u8 * 2 AS a FROM s WHERE b > 3 ORDER BY b", &["5 4", "7 6"]),
        ("SELECT u8 + 1 AS u8 FROM s WHERE u8 = 3", &["3"]),
        ("SELECT name AS k, count() AS c FROM s GROUP BY k HAVING c > 0 ORDER BY k LIMIT 1", &["a 1"]),
        ("SELECT u8 % 2 AS k, sum(u8) AS t FROM s GROUP BY k ORDER BY k", &["0 2", "1 4"]),
        ("SELECT u8 FROM s PREWHERE u8 > 1 WHERE u8 < 3", &["2"]),
        ("SELECT u8 FROM s WHERE 1 ORDER BY u8 DESC LIMIT 2", &["3", "2"]),
        ("SELECT color, u8 FROM s ORDER BY u8 DESC LIMIT 1 BY color", &["red 3", "blue 2"]),
        ("SELECT u8 FROM s ORDER BY u8 LIMIT 1 OFFSET 1", &["2"]),
        ("SELECT u8 FROM s ORDER BY u8 LIMIT 1, 1", &["2"]),
        ("SELECT DISTINCT color FROM s ORDER BY color", &["blue", "red"]),
        ("SELECT u8 FROM table(s) WHERE name IN ('a', 'c') ORDER BY u8", &["1", "3"]),
        ("SELECT u8 FROM s WHERE u8 IN (SELECT k FROM o)", &["2"]),
        ("SELECT count() FROM default.s", &["3"]),
        ("SELECT s.u8 FROM default.s WHERE s.u8 == 2", &["2"]),
        // Virtual columns by name only.
        ("SELECT _tp_sn FROM s WHERE u8 = 3", &["2"]),
        ("SELECT count() FROM s WHERE _tp_sn >= 1", &["2"]),
        // Joins fill defaults.
        ("SELECT u8, label FROM s LEFT JOIN o ON s.u8 = o.k ORDER BY u8", &["1 ", "2 two", "3 "]),
        ("SELECT u8, k FROM s FULL JOIN o ON s.u8 = o.k ORDER BY u8, k", &["0 9", "1 0", "2 2", "3 0"]),
        ("SELECT u8 FROM s INNER JOIN o ON s.u8 = o.k", &["2"]),
        // Views, inside views too.
        ("SELECT next, name FROM v ORDER BY next", &["3 b", "4 c"]),
        ("SELECT count() FROM vv", &["2"]),
        ("WITH big AS (SELECT * FROM s WHERE u8 > 1) SELECT count() FROM big", &["2"]),
        ("SELECT u8 FROM s WHERE u8 < 2 UNION SELECT u8 FROM s WHERE u8 < 2", &["1", "1"]),
        ("SELECT sum(number) FROM numbers(5)", &["10"]),
        ("SELECT arrayJoin([1, 2]) AS x ORDER BY x", &["1", "2"]),
        (
            "SELECT u8, x FROM (SELECT u8, [u8, 9] AS xs FROM s WHERE u8 < 3) AS q ARRAY JOIN xs AS x ORDER BY u8, x",
            &["1 1", "1 9", "2 2", "2 9"],
        ),
        // Literals in the other side's type.
        ("SELECT u8 FROM s WHERE _tp_time >= '2024-01-01 00:01:00' ORDER BY u8", &["2", "3"]),
        ("SELECT u8 FROM s WHERE _tp_time BETWEEN '2024-01-01 00:01:00' AND '2024-01-01 00:01:30'", &["2"]),
        ("SELECT u8 FROM s WHERE id = '02020202-0202-0202-0202-020202020202'", &["2"]),
        ("SELECT u8 FROM s WHERE _tp_time > now() + 90s", &["3"]),
        ("SELECT u8 FROM s WHERE _tp_time > earliest_ts() AND u8 = 1", &["1"]),
        ("SELECT u8 FROM s WHERE name = {who:string}", &["2"]),
        ("SELECT u8 FROM s ORDER BY u8 LIMIT {limit:uint64}", &["1", "2"]),
        ("SELECT 1, 1", &["1 1"]),
        ("SELECT u8, u8 FROM s WHERE u8 = 1", &["1 1"]),
        ("SELECT n FROM s ORDER BY n DESC", &["5", "-5", "NULL"]),
        ("SELECT toStartOf.x FROM (SELECT 5 AS x) AS toStartOf", &["5"]),
        ("SELECT UPPER(name), Lower(name) FROM s WHERE u8 = 1", &["A a"]),
        (
            "SELECT u8, lag(u8), lag(n), lag(name, 2, 'none') FROM s ORDER BY u8",
            &["1 0 NULL none", "2 1 5 none", "3 2 NULL a"],
        ),
        ("SELECT u8, lag(u8) FROM s PARTITION BY color ORDER BY u8", &["1 0", "2 0", "3 1"]),
        ("SELECT u8, sum(u8) OVER (PARTITION BY color) AS t FROM s ORDER BY u8", &["1 1", "2 2", "3 4"]),
        ("SELECT name FROM dedup(s, color) ORDER BY name", &["a", "b"]),
        ("SELECT name FROM dedup(s, color, limit=1) ORDER BY name", &["a", "b", "c"]),
        ("SELECT row_number() OVER (ORDER BY u8 DESC) AS r FROM s ORDER BY r", &["1", "2", "3"]),
        ("SELECT min(u8) FROM s GROUP BY color WITH ROLLUP ORDER BY 1", &["1", "1", "2"]),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        match run_with(sql, &table_mode()) {
            Ok((_, rows)) => {
                let got: Vec<String> = rows.iter().map(|r| r.join(" ")).collect();
                if got != *expected {
                    wrong.push(format!("{sql}\n    gives {got:?}, not {expected:?}"));
                }
            }
            Err(e) => wrong.push(format!("{sql}\n    {e} ({:?})", e.code)),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn columns_are_named_as_written() {
    let cases: &[(&str, &[&str])] = &[
        (
            "SELECT count(), u8 + 1, 'x' FROM s GROUP BY u8",
            &["count() uint64", "u8 + 1 uint16", "'x' string"],
        ),
        ("SELECT 1, 1", &["1 uint8", "1 uint8"]),
        ("SELECT * FROM o", &["k uint8", "label string", "_tp_time datetime64(3, 'UTC')"]),
        (
            "SELECT *, _tp_sn FROM o, s WHERE false",
            &[
                "k uint8",
                "label string",
                "_tp_time datetime64(3, 'UTC')",
                "u8 uint8",
                "u64 uint64",
                "i32 int32",
                "f float64",
                "n nullable(int64)",
                "name string",
                "id uuid",
                "color enum8('red' = 1, 'blue' = 2)",
                "_tp_time datetime64(3, 'UTC')",
                "_tp_sn int64",
            ],
        ),
        (
            "SELECT *, _tp_sn FROM (SELECT u8, _tp_sn FROM s) AS q",
            &["u8 uint8", "_tp_sn int64", "_tp_sn int64"],
        ),
        ("SELECT * EXCEPT (label) FROM o", &["k uint8", "_tp_time datetime64(3, 'UTC')"]),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        match run_with(sql, &table_mode()) {
            Ok((got, _)) if got == *expected => {}
            Ok((got, _)) => wrong.push(format!("{sql}\n    gives {got:?}, not {expected:?}")),
            Err(e) => wrong.push(format!("{sql}\n    {e} ({:?})", e.code)),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn join_use_nulls_gives_nulls() {
    let options = BindOptions { join_use_nulls: true, ..table_mode() };
    let (columns, rows) =
        run_with("SELECT u8, label FROM s LEFT JOIN o ON s.u8 = o.k ORDER BY u8", &options).expect("runs");
    assert_eq!(columns[1], "label nullable(string)");
    assert_eq!(rows[0], ["1", "NULL"]);
}

#[test]
fn predicates_keep_the_column_bare_for_pruning() {
    let cases = [
        ("SELECT u8 FROM s WHERE _tp_time >= '2024-01-01'", "_tp_time >= TimestampMillisecond(1704067200000"),
        ("SELECT u8 FROM s WHERE u64 = 123456", "u64 = UInt64(123456)"),
        ("SELECT u8 FROM s WHERE i32 > 5", "i32 > Int32(5)"),
        ("SELECT u8 FROM s WHERE _tp_sn >= 5 AND _tp_sn < 9", "_tp_sn >= Int64(5)"),
    ];
    for (sql, part) in cases {
        let bound = bind(sql, &table_mode()).expect("binds");
        let plan = state().optimize(&bound.plan).expect("optimizes").to_string();
        assert!(plan.contains(part), "{sql}:\n{plan}");
        assert!(!plan.contains("CAST"), "{sql}:\n{plan}");
    }
}

#[test]
fn expressions_over_a_schema_evaluate() {
    let schema = s_schema();
    let options = streaming_mode();
    let cases = [
        ("u8 + 1", "uint16", "2"),
        ("toString(u8)", "", ""),
        ("cast(_tp_time, 'date')", "date", "2024-01-01"),
        ("if(u8 > 1, 'x', name)", "string", "a"),
    ];
    let state = state();
    for (text, expected, value) in cases {
        let ast = crate::parse::parse_expr(text).expect("parses");
        let bound = match bind_expr(&ast, &schema, &state, &options) {
            Ok(b) => b,
            Err(e) => {
                assert_eq!((e.code.number(), expected), (46, ""), "{text}: {e}");
                continue;
            }
        };
        let t = expr_type(&bound, &schema).expect("a type");
        assert_eq!(t.to_string(), expected, "{text}");
        let p = physical_expr(bound, &schema, &state).expect("plans");
        let out = p.evaluate(&s_batch()).expect("evaluates").into_array(3).expect("an array");
        assert_eq!(render(&t.field("x"), &out, 0).expect("renders").expect("no null"), value, "{text}");
    }
}
