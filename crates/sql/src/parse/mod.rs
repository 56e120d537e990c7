//! Text to statements: `Vec<Parsed>`, nothing resolved.
//!
//! ```text
//! text -> split (own scanner, cuts INSERT data) -> statement (own parser for all but queries)
//!                                                    └ query: rewrite (token pass) -> sqlparser -> with
//! ```
//!
//! Invariants
//! - No input panics, overflows the stack or takes more than time linear in the text times its
//!   bracket depth: depth, size and steps are limited ([`Limits`]).
//! - Every error has code 62 (or 48 for what is known but not done) and a line and column.
//! - Clauses of DDL are kept as written; queries are sqlparser's trees, with [`reserved`]
//!   settings for what those have no place for.
//!
//! Not here: names and types (`bind`), DataFusion, sessions. Printing a query back with
//! `Display` loses backslash escapes: keep the source text where text is stored.

mod cursor;
mod ddl;
mod definitions;
mod dialect;
pub mod emit;
mod jobs;
mod lex;
mod query;
pub mod reserved;
mod rewrite;
mod show;
mod split;
mod statement;
mod with;
mod words;

#[cfg(test)]
mod tests;

use crate::ast::Parsed;
use sqlparser::ast::Expr;
use weir_base::{Error, err};

/// Stack a thread needs to bind, plan, print or drop a query of the default depth, in bytes, in
/// a build without optimisation. (Parsing itself takes a thread of its own for deep queries.)
pub const STACK_BYTES_MIN: usize = 64 << 20;

/// Bounds of one parse.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one statement, data of INSERT not counted (setting `max_query_size`).
    pub query_size_bytes_max: usize,
    /// Levels a tree may have: brackets, and operators in a row outside AND and OR.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { query_size_bytes_max: 256 * 1024, depth_max: 256 }
    }
}

/// All statements of a text, split at `;`. Data behind `INSERT … FORMAT name` runs to the end.
///
/// # Errors
/// Code 62 with line and column for what is no statement (an empty text too), 48 for a
/// statement that is known and not implemented.
pub fn parse(text: &str) -> Result<Vec<Parsed>, Error> {
    parse_bytes(text.as_bytes(), &Limits::default())
}

/// As [`parse`], for a text whose INSERT data need not be UTF-8, with limits of one's own.
///
/// # Errors
/// As [`parse`].
pub fn parse_bytes(bytes: &[u8], limits: &Limits) -> Result<Vec<Parsed>, Error> {
    let pieces = split::split(bytes, limits)?;
    if pieces.is_empty() {
        return Err(err!(Syntax, "empty query: expected a statement").at(1, 1));
    }
    // Offsets of tokens lie in the valid part; data behind it was cut off already.
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).expect("valid up to here"),
    };
    pieces.into_iter().map(|piece| statement::statement(text, piece, limits)).collect()
}

/// One expression, as DEFAULT, ORDER BY, TTL and PARTITION BY texts hold it.
///
/// # Errors
/// Code 62 with line and column in `text`.
pub fn parse_expr(text: &str) -> Result<Expr, Error> {
    let limits = Limits::default();
    let mut pieces = split::split(text.as_bytes(), &limits)?;
    match (pieces.pop(), pieces.is_empty()) {
        (Some(piece), true) if piece.data.is_none() => {
            query::expression(text, &piece.toks, piece.end, &limits)
        }
        (None, _) => Err(err!(Syntax, "expected an expression, found nothing").at(1, 1)),
        _ => Err(err!(Syntax, "expected one expression, found several statements").at(1, 1)),
    }
}
