//! Corpus replay and helpers; the cases proper are in the modules.

mod deep;
mod properties;
mod queries;
mod statements;

use super::*;
use crate::ast::{Parsed, Statement};

/// `(file, text, expected code; None = parses)`: one statement a line.
const CORPUS: &[(&str, &str, Option<i32>)] = &[
    ("ddl", include_str!("../../tests/corpus/sql/ddl.sql"), None),
    ("admin", include_str!("../../tests/corpus/sql/admin.sql"), None),
    ("insert", include_str!("../../tests/corpus/sql/insert.sql"), None),
    ("query", include_str!("../../tests/corpus/sql/query.sql"), None),
    ("streaming", include_str!("../../tests/corpus/sql/streaming.sql"), None),
    ("refused", include_str!("../../tests/corpus/sql/refused.sql"), Some(48)),
    ("bad", include_str!("../../tests/corpus/sql/bad.sql"), Some(62)),
];

fn lines() -> impl Iterator<Item = (&'static str, &'static str, Option<i32>)> {
    CORPUS.iter().flat_map(|(file, text, code)| text.lines().map(move |line| (*file, line, *code)))
}

fn one(text: &str) -> Parsed {
    let mut all = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn query(text: &str) -> sqlparser::ast::Query {
    match one(text).statement {
        Statement::Query(query) => *query,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_line_of_the_corpus_parses_or_is_refused_as_its_file_says() {
    for (file, line, code) in lines() {
        let got = parse(line).map(|_| ());
        match (got, code) {
            (Ok(()), None) => {}
            (Err(e), Some(code)) => {
                assert_eq!(e.code.number(), code, "{file}: {line}: {e}");
                let at = e.position.unwrap_or_else(|| panic!("{file}: {line}: no position: {e}"));
                assert!(
                    at.line == 1 && at.column >= 1 && at.column <= line.chars().count() as u64 + 1,
                    "{line}: {e}"
                );
            }
            (got, code) => panic!("{file}: {line}: expected {code:?}, got {got:?}"),
        }
    }
}

#[test]
fn case_of_keywords_does_not_matter() {
    for (_, line, code) in
        lines().filter(|(_, line, _)| !line.contains(|c: char| "'\"`$0123456789".contains(c)))
    {
        for text in [line.to_lowercase(), line.to_uppercase()] {
            assert_eq!(parse(&text).err().map(|e| e.code.number()), code, "{text}");
        }
    }
}

#[test]
fn statements_end_at_semicolons_outside_text() {
    let cases: &[(&str, usize)] = &[
        ("SELECT 1; SELECT 2", 2),
        ("SELECT 1;", 1),
        (";;SELECT ';' ; ;", 1),
        ("SELECT 1 -- ; not here\n; SELECT $$;$$", 2),
        ("INSERT INTO s VALUES (';'), ('\\';'); SELECT 1", 2),
        ("INSERT INTO s VALUES (1); INSERT INTO s VALUES (2);", 2),
        ("INSERT INTO s FORMAT CSV\n1;SELECT 1", 1),
        ("INSERT INTO s SELECT 1; SELECT 2", 2),
    ];
    for (text, count) in cases {
        assert_eq!(parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).len(), *count, "{text}");
    }
    for empty in ["", "  ", ";", "-- nothing\n;", "/* */"] {
        assert_eq!(parse(empty).unwrap_err().code.number(), 62, "{empty:?}");
    }
}

#[test]
fn errors_name_place_and_text() {
    let cases = [
        ("SELECT a\nFROM t WHERE ,", 2, 14, "near ','"),
        ("SELCT 1", 1, 1, "did you mean SELECT?"),
        ("SELECT (\n 1", 1, 8, "( is never closed"),
        ("SELECT 'ü' 'x' 'y'", 1, 16, "near ''y''"),
        ("SELECT 1 +", 1, 11, "found the end of the statement"),
        ("SELECT 1; SELECT 2 +", 1, 21, "found the end of the statement"),
        ("DROP STREAM a b", 1, 15, "expected end of statement, found b"),
        ("CREATE STREAM s (a int DEFAULT 1 + )", 1, 36, "expected an expression"),
        ("ALTER STREAM s ADD COLUMN c int", 1, 1, "but for MODIFY SETTING"),
        ("SELECT a FROM t SETTINGS __emit = 'x'", 1, 26, "setting __emit is reserved"),
        ("DROP STREAM s SETTINGS __emit = 'x'", 1, 1, "setting __emit is reserved"),
        ("SELECT a FROM s LIMIT 1 BY k LIMIT 2 BY k", 1, 30, "LIMIT BY is given twice"),
    ];
    for (text, line, column, message) in cases {
        let e = parse(text).map(|_| ()).expect_err(text);
        assert_eq!(e.position.map(|p| (p.line, p.column)), Some((line, column)), "{text}: {e}");
        assert!(e.message.contains(message), "{text}: {e}");
    }
}
