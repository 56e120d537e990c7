//! Tokens of a query or an expression to sqlparser's tree.
//!
//! Not here: the token pass itself (`rewrite`), what sqlparser is told (`dialect`).

use super::dialect::WeirDialect;
use super::lex::Tok;
use super::rewrite::{self, Rewritten};
use super::{Limits, with};
use sqlparser::ast::{Expr, Query, VisitMut};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;
use weir_base::{Error, err};

/// How much of the text an error quotes, in characters.
const EXCERPT_CHARS: usize = 40;

/// sqlparser's recursion limit: a query level costs it three or four, a bracket one.
const RECURSION_PER_LEVEL: usize = 4;

/// A tree of this depth is parsed on the caller's stack; a deeper one on a thread of its own,
/// since sqlparser takes up to a quarter of a megabyte a level in builds without optimisation.
const SHALLOW: usize = 6;
const STACK_BYTES_PER_LEVEL: usize = 512 * 1024;

/// Parses all of `toks` as a query. `end` is the position to name when they end too early.
///
/// # Errors
/// Code 62 with line and column.
pub fn query(text: &str, toks: &[Tok], end: (u64, u64), limits: &Limits) -> Result<Box<Query>, Error> {
    run(text, toks, end, limits, true, |p| p.parse_query())
}

/// Parses all of `toks` as one expression.
///
/// # Errors
/// Code 62 with line and column.
pub fn expression(text: &str, toks: &[Tok], end: (u64, u64), limits: &Limits) -> Result<Expr, Error> {
    run(text, toks, end, limits, false, |p| p.parse_expr())
}

fn run<T: VisitMut + Send>(
    text: &str,
    toks: &[Tok],
    end: (u64, u64),
    limits: &Limits,
    is_query: bool,
    parse: fn(&mut Parser) -> Result<T, ParserError>,
) -> Result<T, Error> {
    let Rewritten { tokens, depth } = rewrite::rewrite(text, toks, is_query, limits)?;
    // A token of an honest query is looked at a few dozen times.
    let dialect = WeirDialect::new(10_000 + 200 * tokens.len() as u64);
    let whole = || {
        let mut parser = Parser::new(&dialect)
            .with_recursion_limit(limits.depth_max * RECURSION_PER_LEVEL)
            .with_tokens_with_locations(tokens);
        parse(&mut parser)
            .and_then(|parsed| match &parser.peek_token_ref().token {
                Token::EOF => Ok(parsed),
                _ => parser.expected_ref("end of statement", parser.peek_token_ref()),
            })
            .map_err(|e| explain(text, toks, end, limits, &dialect, e))
            .and_then(|mut tree| with::substitute(&mut tree).map(|()| tree))
    };
    if depth <= SHALLOW {
        return whole();
    }
    std::thread::scope(|scope| {
        let stack_bytes = (depth + SHALLOW) * STACK_BYTES_PER_LEVEL;
        let thread = std::thread::Builder::new()
            .name("parse".into())
            .stack_size(stack_bytes)
            .spawn_scoped(scope, whole);
        let thread =
            thread.map_err(|e| err!(IoError, "could not start a thread to parse a deep query: {e}"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn explain(
    text: &str,
    toks: &[Tok],
    end: (u64, u64),
    limits: &Limits,
    dialect: &WeirDialect,
    error: ParserError,
) -> Error {
    match error {
        ParserError::RecursionLimitExceeded if dialect.exhausted() => {
            syntax(text, toks, None, end, "the query is too ambiguous to read; use fewer nested parentheses")
        }
        ParserError::RecursionLimitExceeded => {
            syntax(text, toks, None, end, &format!("query nests deeper than {} levels", limits.depth_max))
        }
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => {
            let (message, position) = split_position(&message);
            syntax(text, toks, position, end, message)
        }
    }
}

/// sqlparser writes positions at the end of its messages.
fn split_position(message: &str) -> (&str, Option<(u64, u64)>) {
    let Some((head, tail)) = message.rsplit_once(" at Line: ") else { return (message, None) };
    let position = tail.split_once(", Column: ").and_then(|(l, c)| Some((l.parse().ok()?, c.parse().ok()?)));
    if position.is_none() { (message, None) } else { (head, position) }
}

fn syntax(text: &str, toks: &[Tok], position: Option<(u64, u64)>, end: (u64, u64), message: &str) -> Error {
    let message = message.replacen("Expected: ", "expected ", 1).replacen(
        ", found: EOF",
        ", found the end of the statement",
        1,
    );
    let message = message.replacen(", found: ", ", found ", 1);
    let near = position.and_then(|at| toks.iter().find(|t| (t.line, t.column) == at));
    let (line, column) = position.unwrap_or(end);
    match near {
        Some(tok) => err!(Syntax, "syntax error near '{}': {message}", excerpt(&text[tok.start..])),
        None => err!(Syntax, "syntax error: {message}"),
    }
    .at(line, column)
}

/// The start of `text` on one line.
pub fn excerpt(text: &str) -> String {
    let mut short: String =
        text.chars().take(EXCERPT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(EXCERPT_CHARS).is_some() {
        short.push('…');
    }
    short.trim_end().to_string()
}
