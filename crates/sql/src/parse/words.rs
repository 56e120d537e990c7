//! Which words are clauses, operators and joins, for the passes that look at tokens alone.

use super::lex::{Kind, Tok};
use sqlparser::tokenizer::Token;

/// Words after which an operand (or a clause body) has to come: whatever word follows one of
/// these is a name, not a clause.
const WANTS_OPERAND: &[&str] = &[
    "SELECT",
    "DISTINCT",
    "WHERE",
    "PREWHERE",
    "AND",
    "OR",
    "XOR",
    "NOT",
    "BY",
    "ON",
    "USING",
    "HAVING",
    "FROM",
    "JOIN",
    "IN",
    "LIKE",
    "ILIKE",
    "BETWEEN",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "AS",
    "LIMIT",
    "OFFSET",
    "WITH",
    "RECURSIVE",
    "SAMPLE",
    "IS",
    "SETTINGS",
    "FORMAT",
    "INTERVAL",
    "UNION",
    "INTERSECT",
    "QUALIFY",
    "INTO",
    "SET",
    "GLOBAL",
    "DIV",
    "EXPLAIN",
];

/// Whether an operand has to follow the unquoted word.
pub fn wants_operand(word: &str) -> bool {
    WANTS_OPERAND.iter().any(|w| word.eq_ignore_ascii_case(w))
}

/// Whether an operand can end with this token, so that a clause may start behind it.
pub fn ends_operand(tok: &Tok) -> bool {
    match &tok.kind {
        Kind::Interval { .. } => true,
        Kind::Sql(token) => match token {
            Token::Word(w) => w.quote_style.is_some() || !wants_operand(&w.value),
            Token::Number(..) | Token::SingleQuotedString(_) => true,
            _ => tok.closes(),
        },
    }
}

/// Words that end any query-level clause.
pub const CLAUSES: &[&str] = &[
    "WHERE",
    "PREWHERE",
    "GROUP",
    "HAVING",
    "QUALIFY",
    "WINDOW",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "EMIT",
    "PARTITION",
    "SHUFFLE",
    "SETTINGS",
    "FORMAT",
    "UNION",
    "INTERSECT",
    "EXCEPT",
];

/// Words that end EMIT: clauses without those an emit policy is written with (AFTER WINDOW CLOSE).
pub const EMIT_ENDS: &[&str] = &[
    "WHERE",
    "PREWHERE",
    "GROUP",
    "HAVING",
    "QUALIFY",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "EMIT",
    "PARTITION",
    "SHUFFLE",
    "SETTINGS",
    "FORMAT",
    "UNION",
    "INTERSECT",
    "EXCEPT",
];

/// Words that combine SELECTs.
pub const SET_OPERATORS: &[&str] = &["UNION", "INTERSECT", "EXCEPT"];

/// What may stand before JOIN.
pub const JOIN_MODIFIERS: &[&str] = &[
    "GLOBAL", "LOCAL", "ANY", "ALL", "ASOF", "LATEST", "SEMI", "ANTI", "LEFT", "RIGHT", "FULL", "INNER",
    "OUTER", "CROSS", "NATURAL", "PASTE", "ARRAY",
];

/// Keywords of sqlparser that are ordinary functions when a parenthesis follows.
pub const FUNCTION_WORDS: &[&str] = &[
    "LEFT",
    "RIGHT",
    "ANY",
    "ALL",
    "ARRAY",
    "MAP",
    "REPLACE",
    "MATCH",
    "IF",
    "AND",
    "OR",
    "XOR",
    "LIKE",
    "ILIKE",
    "IN",
    "EXTRACT",
    "POSITION",
    "SUBSTRING",
    "SUBSTR",
    "TRIM",
    "CEIL",
    "FLOOR",
    "CAST",
    "TABLE",
    "FORMAT",
    "CHAR",
    "CONVERT",
    "TRUNCATE",
    "MOD",
    "DIV",
    "OVERLAY",
    "STRUCT",
    "TUPLE",
    "RANGE",
    "TRY_CAST",
    "FIRST",
    "LAST",
];

/// For the words of [`FUNCTION_WORDS`] with a form of their own: the word inside the
/// parentheses that tells it from the function.
pub fn special_form_word(upper: &str) -> &'static [&'static str] {
    match upper {
        "EXTRACT" | "SUBSTRING" | "SUBSTR" => &["FROM"],
        "TRIM" => &["FROM", "LEADING", "TRAILING", "BOTH"],
        "POSITION" => &["IN"],
        "CEIL" | "FLOOR" => &["TO"],
        "CAST" | "TRY_CAST" => &["AS"],
        "OVERLAY" => &["PLACING"],
        _ => &[],
    }
}
