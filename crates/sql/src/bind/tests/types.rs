//! Result types, as a table.

use super::*;

#[test]
fn expressions_have_clickhouses_types() {
    let cases = [
        // (expression over s, type, values of the three rows or "" to skip)
        ("1", "uint8", "1 1 1"),
        ("-1", "int8", "-1 -1 -1"),
        ("300", "uint16", "300 300 300"),
        ("1.5", "float64", "1.5 1.5 1.5"),
        ("'x'", "string", "x x x"),
        ("NULL", "nullable(nothing)", "NULL NULL NULL"),
        ("true", "bool", "true true true"),
        ("u8 + u8", "uint16", "2 4 6"),
        ("u8 - u8", "int16", "0 0 0"),
        ("u8 - 3", "int16", "-2 -1 0"),
        ("u8 * i32", "int64", "-1 0 21"),
        ("u64 + 1", "uint64", "11 21 0"),
        ("u8 / 2", "float64", "0.5 1 1.5"),
        ("u64 % 7", "uint8", "3 6 1"),
        ("i32 % 4", "int16", "-1 0 3"),
        ("-u8", "int16", "-1 -2 -3"),
        ("f + u8", "float64", "1.5 3.5 5.5"),
        ("n + 1", "nullable(int64)", "6 NULL -4"),
        ("u8 > i32", "bool", "true true false"),
        ("u64 > i32", "bool", "true true true"),
        ("u64 = 18446744073709551615", "bool", "false false true"),
        ("n > 0", "nullable(bool)", "true NULL false"),
        ("n IS NULL", "bool", "false true false"),
        ("if(u8 > 1, u8, 0)", "uint8", "0 2 3"),
        ("if(u8 > 1, i32, u8)", "int32", "1 0 7"),
        ("multi_if(u8 = 1, 'one', u8 = 2, 'two', 'many')", "string", "one two many"),
        ("coalesce(n, 0)", "int64", "5 0 -5"),
        ("upper(name)", "string", "A B C"),
        ("concat(name, '!')", "string", "a! b! c!"),
        ("id", "uuid", ""),
        ("color", "enum8('red' = 1, 'blue' = 2)", "red blue red"),
        ("if(u8 > 1, id, id)", "uuid", ""),
        ("u8::string", "string", "1 2 3"),
        ("cast(u8, 'Nullable(Int64)')", "nullable(int64)", "1 2 3"),
        ("cast(f AS int32)", "int32", "0 1 2"),
        ("'7'::int32", "int32", "7 7 7"),
        ("'2024-01-02'::date", "date", "2024-01-02 2024-01-02 2024-01-02"),
        ("cast('2024-01-02 03:04:05' as datetime('Europe/Berlin'))::string", "string", ""),
        ("color::int8", "int8", "1 2 1"),
        ("2::enum8('a' = 1, 'b' = 2)", "enum8('a' = 1, 'b' = 2)", "b b b"),
        ("'61f0c404-5cb3-11e7-907b-a6006ad3dba0'::uuid", "uuid", ""),
        ("'127.0.0.1'::ipv4", "ipv4", "127.0.0.1 127.0.0.1 127.0.0.1"),
        ("[1, 2]", "array(uint8)", "[1,2] [1,2] [1,2]"),
        ("[u8, 300][2]", "uint16", "300 300 300"),
        ("[u8][9]", "uint8", "0 0 0"),
        ("(u8, 'x')", "tuple(uint8, string)", ""),
        ("tuple(u8, name).2", "string", "a b c"),
        ("map('k', u8)['k']", "uint8", "1 2 3"),
        ("map('k', u8)['none']", "uint8", "0 0 0"),
        ("_tp_time", "datetime64(3, 'UTC')", ""),
        ("now()", "datetime", "2024-01-01 00:00:00 2024-01-01 00:00:00 2024-01-01 00:00:00"),
        ("now() - 5", "datetime", "2023-12-31 23:59:55 2023-12-31 23:59:55 2023-12-31 23:59:55"),
        ("now() - INTERVAL 1 HOUR", "datetime", ""),
        ("now() - 5s", "datetime", "2023-12-31 23:59:55 2023-12-31 23:59:55 2023-12-31 23:59:55"),
        ("_tp_time + u8", "datetime64(3, 'UTC')", ""),
        ("plus(u8, 1)", "uint16", "2 3 4"),
        ("toTypeNameless", "", ""),
    ];
    let mut wrong = Vec::new();
    for (text, expected, values) in cases {
        if text == "toTypeNameless" {
            continue;
        }
        let sql = format!("SELECT {text} AS x FROM s ORDER BY u8");
        let outcome = std::panic::catch_unwind(|| run_with(&sql, &table_mode()));
        let (columns, rows) = match outcome {
            Ok(Ok(done)) => done,
            Ok(Err(e)) => {
                wrong.push(format!("{text}: {e} ({:?})", e.code));
                continue;
            }
            Err(_) => {
                wrong.push(format!("{text}: panicked"));
                continue;
            }
        };
        if columns[0] != format!("x {expected}") {
            wrong.push(format!("{text}: type {} instead of {expected}", columns[0]));
        }
        let got: Vec<&str> = rows.iter().map(|r| r[0].as_str()).collect();
        if !values.is_empty() && got.join(" ") != values {
            wrong.push(format!("{text}: values {} instead of {values}", got.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn aggregates_have_clickhouses_types_and_values_over_no_rows() {
    let cases = [
        // (expression, type, over s, over empty)
        ("count()", "uint64", "3", "0"),
        ("count(*)", "uint64", "3", "0"),
        ("count(n)", "uint64", "2", "0"),
        ("sum(u8)", "uint64", "6", "0"),
        ("sum(i32)", "int64", "6", "0"),
        ("sum(f)", "float64", "4.5", "0"),
        ("sum(n)", "nullable(int64)", "0", "NULL"),
        ("avg(u8)", "float64", "2", "0"),
        ("min(u8)", "uint8", "1", "0"),
        ("max(name)", "string", "c", ""),
        ("max(n)", "nullable(int64)", "5", "NULL"),
        ("min(id)", "uuid", "01010101-0101-0101-0101-010101010101", "00000000-0000-0000-0000-000000000000"),
        ("max(_tp_time)", "datetime64(3, 'UTC')", "2024-01-01 00:02:00.000", "1970-01-01 00:00:00.000"),
        ("sum(u8) + 1", "uint64", "7", "1"),
        ("sum(u8 > 1)", "uint64", "2", "0"),
        ("sum_if(u8, u8 > 1)", "uint64", "5", "0"),
        ("countIf(u8 > 1)", "uint64", "2", "0"),
        ("count(DISTINCT color)", "uint64", "2", "0"),
    ];
    let mut wrong = Vec::new();
    for (text, expected, full, none) in cases {
        for (from, value) in [("s", full), ("empty", none)] {
            match run_with(&format!("SELECT {text} AS x FROM {from}"), &table_mode()) {
                Ok((columns, rows)) => {
                    if columns[0] != format!("x {expected}") {
                        wrong.push(format!("{text}: type {} instead of {expected}", columns[0]));
                    }
                    if rows[0][0] != value {
                        wrong.push(format!("{text} over {from}: {} instead of {value}", rows[0][0]));
                    }
                }
                Err(e) => wrong.push(format!("{text}: {e} ({:?})", e.code)),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn types_travel_through_subqueries_views_and_unions() {
    let cases = [
        ("SELECT x FROM (SELECT id AS x FROM s) AS q LIMIT 1", "x uuid"),
        ("SELECT x + 1 AS y FROM (SELECT 1 AS x) AS q", "y uint16"),
        ("SELECT next FROM v LIMIT 1", "next uint16"),
        ("SELECT upper(x) AS y FROM (SELECT lower(name) AS x FROM s) AS q LIMIT 1", "y string"),
        ("SELECT max(x) AS y FROM (SELECT lower(name) AS x FROM s) AS q", "y string"),
        ("SELECT 1 AS x UNION ALL SELECT 300", "x uint16"),
        ("WITH c AS (SELECT id FROM s) SELECT id FROM c LIMIT 1", "id uuid"),
    ];
    for (sql, expected) in cases {
        assert_eq!(types(sql), [expected], "{sql}");
    }
}

#[test]
fn casts_that_overflow_are_errors_unless_wrapped() {
    let e = run_with("SELECT cast(u64 AS uint8) AS x FROM s", &table_mode()).expect_err("does not fit");
    assert_eq!(e.code.number(), 69, "{e}");
    let wrap = BindOptions { cast_overflow_wrap: true, ..table_mode() };
    let (_, rows) = run_with("SELECT cast(u64 AS uint8) AS x FROM s ORDER BY u8", &wrap).expect("wraps");
    assert_eq!(rows, [["10"], ["20"], ["255"]]);
}
