//! What is refused: code, words and place.

use super::*;

#[test]
fn errors_name_the_thing_and_its_place() {
    let table = table_mode();
    let live = streaming_mode();
    let cases: &[(&BindOptions, &str, i32, &str, Option<(u64, u64)>)] = &[
        (&table, "SELECT nam FROM s", 47, "unknown column nam; did you mean name?", Some((1, 8))),
        (&table, "SELECT _tp_snn FROM s", 47, "unknown column _tp_snn; did you mean _tp_sn?", Some((1, 8))),
        (&table, "SELECT u8\nFROM s\nWHERE foo > 1", 47, "unknown column foo", Some((3, 7))),
        (&table, "SELECT uper(name) FROM s", 46, "unknown function uper; did you mean upper?", Some((1, 8))),
        (&table, "SELECT 1 FROM sx", 60, "stream sx does not exist", Some((1, 15))),
        (&table, "SELECT 1 FROM nodb.s", 81, "database nodb does not exist", None),
        (&table, "SELECT u8, count() FROM s", 215, "column u8 is neither in GROUP BY", None),
        (&table, "SELECT u8 FROM s WHERE count() > 1", 215, "HAVING", None),
        (&table, "SELECT if(u8, 1) FROM s", 42, "takes 3 arguments, 2 given", None),
        (&table, "SELECT upper() FROM s", 42, "upper", None),
        (&table, "SELECT u8 FROM s WHERE _tp_time > 'never'", 53, "can not read 'never'", None),
        (&table, "SELECT u8::nothing_like FROM s", 50, "unknown type nothing_like", None),
        (&table, "SELECT u8::int256 FROM s", 50, "not supported yet", None),
        (&table, "SELECT * FROM cycle", 80, "refers to itself", None),
        (&table, "SELECT u8 FROM s, o WHERE _tp_time > '2024-01-01'", 47, "more than one relation", None),
        (&table, "SELECT * FROM session(s, 5s)", 2002, "session", None),
        (&table, "SELECT * FROM tumble(s)", 42, "tumble(stream[, time], size[, zone])", Some((1, 15))),
        (&table, "SELECT * FROM tumble(s, 0s)", 36, "more than 0", None),
        (&table, "SELECT * FROM tumble(s, u8, 5s)", 43, "takes a datetime", None),
        (&table, "SELECT * FROM tumble(s, 5us)", 43, "finer than its type", None),
        (&table, "SELECT * FROM tumble(s, 1d, 'Mars/Olympus')", 36, "unknown time zone", None),
        (&table, "SELECT * FROM hop(s, 5s, 1d)", 36, "both", None),
        (&table, "SELECT count() FROM s EMIT PERIODIC 1s", 80, "a query that ends", None),
        (&table, "SELECT name + 1 FROM s", 43, "", None),
        (&table, "SELECT {nobody:string}", 36, "parameter nobody", None),
        (&live, "SELECT count() FROM s GROUP BY ROLLUP(u8)", 48, "ROLLUP", None),
        (&live, "SELECT count() FROM s UNION ALL SELECT count() FROM s", 48, "UNION", None),
        (&live, "SELECT s.u8 FROM s JOIN o ON s.u8 = o.k", 48, "JOIN", None),
        (&live, "SELECT s.u8 FROM s JOIN table(o) ON s.u8 = o.k", 48, "JOIN", None),
        (&live, "SELECT u8 FROM s ORDER BY u8", 80, "a stream has no last one", None),
        (&live, "SELECT c FROM (SELECT count() AS c FROM s EMIT PERIODIC 5s) AS q", 48, "EMIT", None),
        (&live, "SELECT count() FROM s EMIT SOMETIMES", 62, "EMIT", None),
        (&live, "SELECT u8 FROM s SHUFFLE BY name", 80, "not in GROUP BY", None),
        (&live, "SELECT u8 FROM s PARTITION BY u8 SHUFFLE BY name", 80, "exclude each other", None),
        (&live, "SELECT lags(u8, 3, 1) FROM s", 36, "smaller number first", Some((1, 8))),
        (&live, "SELECT lags(u8, 1, name) FROM s", 36, "constant number of rows", None),
        (&live, "SELECT neighbor(u8) FROM s", 42, "neighbor(column, offset", None),
        (
            &live,
            "SELECT u8 FROM s UNION ALL SELECT u8 FROM table(s)",
            48,
            "UNION of bounded and unbounded",
            None,
        ),
        (&live, "SELECT s.u8 FROM s ASOF JOIN o ON s.u8 = o.k", 48, "ASOF", None),
        (&live, "SELECT u8 FROM s WHERE u8 IN (SELECT k FROM table(o))", 48, "subquery", None),
        (&live, "SELECT u8 FROM dedup(s)", 42, "dedup(stream, key", Some((1, 16))),
        (&live, "SELECT u8 FROM dedup(s, u8, limit=0)", 36, "above 0", None),
        (&live, "SELECT u8 FROM dedup(s, u8, 1M)", 36, "fixed length", None),
        (
            &table,
            "SELECT lag(c) FROM (SELECT count() AS c FROM s GROUP BY u8)",
            48,
            "aggregation without a window",
            None,
        ),
    ];
    let mut wrong = Vec::new();
    for (options, sql, code, part, place) in cases {
        let outcome = crate::parse::parse(sql).and_then(|mut p| match p.remove(0).statement {
            Statement::Query(q) => bind_query(&q, &scope(), &state(), options),
            other => panic!("{other:?}"),
        });
        match outcome {
            Ok(_) => wrong.push(format!("{sql}\n    is accepted")),
            Err(e) => {
                let at = e.position.map(|p| (p.line, p.column));
                if e.code.number() != *code || !e.message.contains(part) || (place.is_some() && at != *place)
                {
                    wrong.push(format!("{sql}\n    {} at {at:?}: {}", e.code.number(), e.message));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn errors_while_running_have_codes_too() {
    let e = run_with("SELECT u8 % 0 FROM s", &table_mode()).expect_err("divides by zero");
    assert_eq!(e.code.number(), 153, "{e}");
    let e = run_with("SELECT name::int32 FROM s", &table_mode()).expect_err("is no number");
    assert_eq!(e.code.number(), 6, "{e}");
}
