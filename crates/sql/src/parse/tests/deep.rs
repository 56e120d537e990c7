//! Hostile sizes: an error or a tree, never an overflow, never a hang.

use super::super::*;

/// Runs on a thread with the stack the module asks for, prints and drops the tree there.
fn parses(text: String, limits: Limits) -> Result<usize, Error> {
    let run = move || {
        let parsed = parse_bytes(text.as_bytes(), &limits)?;
        Ok(format!("{:?}", parsed[0].settings).len() + parsed.len())
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES_MIN).spawn(run).unwrap();
    thread.join().unwrap_or_else(|_| panic!("the parser panicked"))
}

fn nested(n: usize) -> Vec<(&'static str, String)> {
    let around =
        |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    vec![
        ("parentheses", format!("SELECT {}", around("(", "1", ")"))),
        ("calls", format!("SELECT {}", around("f(", "1", ")"))),
        ("arrays", format!("SELECT {}", around("[", "1", "]"))),
        ("maps", format!("SELECT {}", around("{'a': ", "1", "}"))),
        ("subqueries", format!("SELECT * FROM {}", around("(SELECT * FROM ", "t", ")"))),
        ("scalar subqueries", format!("SELECT {}", around("(SELECT ", "1", ")"))),
        ("CTEs", around("WITH a AS (", "SELECT 1", ") SELECT 1")),
        ("CASE", format!("SELECT {}", around("CASE WHEN 1 THEN ", "1", " END"))),
        ("lambdas", format!("SELECT {}1", "x -> ".repeat(n))),
        ("NOT", format!("SELECT {}1", "NOT ".repeat(n))),
        ("minus", format!("SELECT {}1", "- ".repeat(n))),
        ("INTERVAL", format!("SELECT {}1 DAY", "INTERVAL ".repeat(n))),
        ("plus", format!("SELECT 1{}", " + 1".repeat(n))),
        ("casts", format!("SELECT 1{}", "::int".repeat(n))),
        ("indexes", format!("SELECT a{}", "[1]".repeat(n))),
        ("ternaries", format!("SELECT 1{}", " ? 1 : 1".repeat(n))),
        ("BETWEEN", format!("SELECT 1{}", " BETWEEN 1 AND 1".repeat(n))),
        ("IS NULL", format!("SELECT 1{}", " IS NULL".repeat(n))),
        ("types", format!("SELECT x::{}", around("array(", "int", ")"))),
        ("UNION", format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(n))),
        ("JOIN", format!("SELECT 1 FROM a{}", " JOIN b ON 1".repeat(n))),
        ("FROM parentheses", format!("SELECT * FROM {}", around("(", "t", ")"))),
        ("FROM parentheses, bad", format!("SELECT * FROM {}", around("(", "t t t", ")"))),
        ("FROM twice, bad", format!("SELECT * FROM {}", around("((SELECT * FROM ", "t t t", ") JOIN x)"))),
        (
            "FROM unions, bad",
            format!("SELECT * FROM {}", around("((SELECT * FROM ", "t t t", ") UNION SELECT 1)")),
        ),
        (
            "WITH chain",
            format!(
                "WITH {} SELECT 1",
                (0..n).map(|i| format!("x{i} + 1 AS x{}", i + 1)).collect::<Vec<_>>().join(", ")
            ),
        ),
        (
            "WITH doubling",
            format!(
                "WITH 1 AS x0, {} SELECT x5",
                (0..n).map(|i| format!("x{i} + x{i} AS x{}", i + 1)).collect::<Vec<_>>().join(", ")
            ),
        ),
        ("column types", format!("CREATE STREAM s (a {})", around("array(", "int", ")"))),
        ("defaults", format!("CREATE STREAM s (a int DEFAULT {})", around("(", "1", ")"))),
        ("EXPLAIN", format!("{}SELECT 1", "EXPLAIN ".repeat(n))),
        ("comments", around("/*", "", "*/") + "SELECT 1"),
    ]
}

#[test]
fn nesting_of_every_kind_ends() {
    for n in [20, 100, 255, 2000] {
        for (name, text) in nested(n) {
            if let Err(e) = parses(text, Limits::default()) {
                assert_eq!(e.code.number(), 62, "{name} x {n}: {e}");
            }
        }
    }
}

#[test]
fn reasonable_nesting_is_accepted() {
    let refused = [
        "INTERVAL",
        "FROM parentheses, bad",
        "FROM twice, bad",
        "FROM unions, bad",
        "WITH doubling",
        "EXPLAIN",
    ];
    for (name, text) in nested(20) {
        let got = parses(text, Limits::default());
        assert_eq!(got.is_ok(), !refused.contains(&name), "{name}: {got:?}");
    }
}

#[test]
fn a_megabyte_of_parentheses_is_an_error() {
    let limits = Limits { query_size_bytes_max: 4 << 20, ..Limits::default() };
    for text in [
        "(".repeat(1 << 20),
        "SELECT ".to_string() + &"(".repeat(1 << 20),
        "[".repeat(1 << 20),
        "SELECT f(".repeat(1 << 17),
    ] {
        assert_eq!(parses(text, limits).unwrap_err().code.number(), 62);
    }
}

#[test]
fn a_million_columns_are_refused_by_size_and_parse_without_the_limit() {
    let text = format!("SELECT {}a FROM t", "a,".repeat(1_000_000));
    assert!(parses(text, Limits::default()).unwrap_err().message.contains("max_query_size"));
    let large = Limits { query_size_bytes_max: 64 << 20, ..Limits::default() };
    parses(format!("SELECT {}a FROM t", "a,".repeat(50_000)), large).unwrap();
}

#[test]
fn long_chains_of_and_and_or_are_fine() {
    let wide = format!("SELECT a FROM t WHERE a = 0{}", " OR a = 1".repeat(5000));
    parses(wide, Limits::default()).unwrap();
    let text = format!("a{}", " AND a".repeat(100));
    let printed = parse_expr(&text).unwrap().to_string();
    assert_eq!(printed, text);
}
