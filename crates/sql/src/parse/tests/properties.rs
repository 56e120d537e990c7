//! Any text gives a result; what prints without reserved forms parses to itself.

use super::super::*;
use super::lines;
use crate::ast::Statement;
use proptest::prelude::*;

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "BY",
    "EMIT",
    "PERIODIC",
    "PARTITION BY",
    "SHUFFLE BY",
    "SETTINGS",
    "FORMAT",
    "UNION ALL",
    "WITH",
    "AS",
    "JOIN",
    "ASOF",
    "LATEST",
    "ANY",
    "LEFT",
    "ARRAY",
    "ON",
    "USING",
    "INSERT INTO",
    "VALUES",
    "CREATE",
    "STREAM",
    "VIEW",
    "INDEX",
    "TYPE",
    "DEFAULT",
    "CODEC",
    "TTL",
    "COMMENT",
    "NULL",
    "NOT",
    "IN",
    "BETWEEN",
    "AND",
    "OR",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "INTERVAL",
    "CAST",
    "table",
    "values",
    "FINAL",
    "EXCEPT",
    "REPLACE",
    "SHOW",
    "SYSTEM",
    "EXPLAIN",
    "KILL QUERY",
    "SET",
    "OFFSET",
    "OVER",
    "FILTER",
    "a",
    "b",
    "s",
    "t",
    "x",
    "f",
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    ":",
    "::",
    "?",
    "->",
    "=",
    "*",
    "+",
    "-",
    "'s'",
    "'",
    "`",
    "\"q\"",
    "1",
    "5s",
    ".1",
    "0xF",
    "1e3",
    "$$",
    ";",
    "--",
    "/*",
    "*/",
    "\n",
    "é",
    "\u{0}",
    "\\",
];

/// So many cases, or as `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { usual };
    ProptestConfig { cases, failure_persistence: None, ..config }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn token_soup_never_panics(picks in prop::collection::vec((0..WORDS.len(), any::<bool>()), 0..40), start in 0usize..4) {
        let mut text = ["", "SELECT ", "CREATE STREAM s (", "INSERT INTO s "][start].to_string();
        for (word, space) in picks {
            text.push_str(WORDS[word]);
            if space {
                text.push(' ');
            }
        }
        check(&text);
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,80}") {
        check(&text);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse_bytes(&bytes, &Limits::default());
        let mut insert = b"INSERT INTO s FORMAT X\n".to_vec();
        insert.extend_from_slice(&bytes);
        prop_assert!(parse_bytes(&insert, &Limits::default()).is_ok());
    }

    #[test]
    fn a_corpus_line_with_a_hole_never_panics(line in 0usize..200, from in 0usize..100, length in 1usize..10) {
        let all: Vec<&str> = lines().map(|(_, line, _)| line).collect();
        let chars: Vec<char> = all[line % all.len()].chars().collect();
        let kept: String = chars.iter().enumerate().filter(|(i, _)| *i < from || *i >= from + length).map(|(_, c)| c).collect();
        check(&kept);
    }

    #[test]
    fn expressions_print_to_themselves(text in expression()) {
        let printed = parse_expr(&text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string();
        let again = parse_expr(&printed).unwrap_or_else(|e| panic!("{printed}: {e}")).to_string();
        prop_assert_eq!(printed, again);
    }
}

fn check(text: &str) {
    if let Err(e) = parse(text) {
        assert!([62, 48, 115].contains(&e.code.number()), "{text}: {e}");
        assert!(e.position.is_some() || e.message.contains("WITH"), "{text}: {e}");
    }
    let _ = parse_expr(text);
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a".to_string()),
        Just("t.b".to_string()),
        Just("t.1".to_string()),
        Just("5s".to_string()),
        Just("'it''s'".to_string()),
        Just("raw:a.b".to_string()),
        Just("{p:int32}".to_string()),
        (0u32..1000).prop_map(|n| n.to_string()),
        (0u32..1000).prop_map(|n| format!("{n}.5e1")),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            (pair.clone(), prop::sample::select(vec!["+", "-", "*", "/", "%", "=", "<", "||", "AND", "OR"]))
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            inner.clone().prop_map(|a| format!("f({a})")),
            inner.clone().prop_map(|a| format!("NOT ({a})")),
            inner.clone().prop_map(|a| format!("({a})::array(int8)")),
            inner.clone().prop_map(|a| format!("arr[{a}]")),
            inner.clone().prop_map(|a| format!("g(x -> {a})")),
            pair.clone().prop_map(|(a, b)| format!("[{a}, {b}]")),
            pair.clone().prop_map(|(a, b)| format!("(({a}) ? ({b}) : 1)")),
            pair.clone().prop_map(|(a, b)| format!("(({a}) BETWEEN ({b}) AND 2)")),
            pair.prop_map(|(a, b)| format!("CASE WHEN {a} THEN {b} ELSE 1 END")),
        ]
    })
}

#[test]
fn queries_print_to_themselves() {
    let mut seen = 0;
    for (_, line, code) in lines() {
        if code.is_some() || line.contains('\\') {
            continue;
        }
        for parsed in parse(line).unwrap() {
            let Statement::Query(query) = parsed.statement else { continue };
            let printed = query.to_string();
            if printed.contains(" __") {
                continue; // reserved settings cannot be written
            }
            let again = parse(&printed).unwrap_or_else(|e| panic!("{line}\n{printed}\n{e}")).remove(0);
            let Statement::Query(again) = again.statement else { panic!("{printed}") };
            assert_eq!(again.to_string(), printed, "{line}");
            seen += 1;
        }
    }
    assert!(seen > 25, "only {seen} queries were printed");
}
