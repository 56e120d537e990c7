//! Cuts a text into statements, and the data off an INSERT.
//!
//! Invariants
//! - Data after `VALUES` and `FORMAT name` is kept byte for byte and is never scanned as SQL.
//! - Brackets of every statement handed on match and nest no deeper than [`Limits::depth_max`].
//!
//! Not here: what a statement says (`statement`).

use super::lex::{Kind, Lexer, Tok};
use super::{Limits, words};
use crate::ast::InsertSource;
use sqlparser::tokenizer::Token;
use weir_base::{Error, err};

/// One statement's tokens, without its semicolon.
#[derive(Debug)]
pub struct Piece {
    pub toks: Vec<Tok>,
    /// Cut off behind `INSERT … VALUES` or `FORMAT name`.
    pub data: Option<InsertSource>,
    /// Position right behind the last token, for "unexpected end".
    pub end: (u64, u64),
}

/// Splits at semicolons; empty statements vanish.
///
/// # Errors
/// Code 62: malformed tokens, brackets that do not match or nest too deep, a statement longer
/// than `query_size_bytes_max` (INSERT data does not count).
pub fn split(bytes: &[u8], limits: &Limits) -> Result<Vec<Piece>, Error> {
    // SQL is UTF-8, the data behind it need not be: only what is read as SQL has to be valid.
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).expect("valid up to here"),
    };
    let mut lexer = Lexer::new(text);
    let mut pieces = Vec::new();
    loop {
        let (piece, more) = one(bytes, text, &mut lexer, limits)?;
        if !piece.toks.is_empty() {
            pieces.push(piece);
        }
        if !more {
            break;
        }
    }
    if text.len() < bytes.len() && lexer.offset() <= text.len() && !data_reached(&pieces) {
        let (line, column) = lexer.position();
        return Err(err!(Syntax, "statement text is not UTF-8").at(line, column));
    }
    Ok(pieces)
}

fn data_reached(pieces: &[Piece]) -> bool {
    pieces.last().is_some_and(|p| matches!(p.data, Some(InsertSource::Format { .. })))
}

/// The next statement, and whether text may follow it.
fn one(bytes: &[u8], text: &str, lexer: &mut Lexer, limits: &Limits) -> Result<(Piece, bool), Error> {
    let mut toks: Vec<Tok> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut selects = false;
    while let Some(tok) = lexer.next_token()? {
        let start = toks.first().map_or(tok.start, |t| t.start);
        if tok.end - start > limits.query_size_bytes_max {
            return Err(tok.error(format!(
                "statement is longer than max_query_size = {} bytes; raise the setting, or send rows as data of INSERT … FORMAT",
                limits.query_size_bytes_max
            )));
        }
        if tok.is_token(&Token::SemiColon) && open.is_empty() {
            return Ok((piece(toks, None, lexer), true));
        }
        if tok.opens() {
            if open.len() >= limits.depth_max {
                return Err(tok.error(format!("brackets nest deeper than {} levels", limits.depth_max)));
            }
            open.push(toks.len());
        } else if tok.closes() {
            match open.pop() {
                Some(at) if pairs(&toks[at], &tok) => {}
                Some(at) if half_open(&toks, at, &tok, open.last().copied()) => {}
                Some(at) => {
                    let (l, c) = (toks[at].line, toks[at].column);
                    let (close, opened) = (&text[tok.start..tok.end], &text[toks[at].start..toks[at].end]);
                    return Err(
                        tok.error(format!("{close} does not close the {opened} of line {l}, column {c}"))
                    );
                }
                None => return Err(tok.error(format!("{} closes nothing", &text[tok.start..tok.end]))),
            }
        }
        let first_is_insert = toks.first().is_some_and(|t| t.is("INSERT"));
        if first_is_insert && open.is_empty() && !selects {
            let named = toks.last().is_some_and(|t| t.is("INTO") || t.is_token(&Token::Period));
            if tok.is_any(&["SELECT", "WITH"]) && !named {
                selects = true;
            } else if tok.is("VALUES") && !named {
                toks.push(tok);
                let from = lexer.offset();
                let to = values_end(bytes, from);
                let Some(data) = text.get(from..to.min(text.len())).filter(|_| to <= text.len()) else {
                    return Err(err!(Syntax, "data of VALUES is not UTF-8"));
                };
                let found = piece(toks, Some(InsertSource::Values { text: data.trim().to_string() }), lexer);
                lexer.skip_to((to + 1).min(text.len()));
                return Ok((found, to < bytes.len()));
            } else if tok.is("FORMAT") && !named {
                toks.push(tok);
                let Some(name) = lexer.next_token()? else {
                    let (line, column) = lexer.position();
                    return Err(err!(Syntax, "FORMAT wants the name of a format").at(line, column));
                };
                let Some(format) = name.word().map(str::to_string) else {
                    return Err(name.error("FORMAT wants the name of a format"));
                };
                toks.push(name);
                let data = format_data(&bytes[lexer.offset()..]).to_vec();
                return Ok((piece(toks, Some(InsertSource::Format { name: format, data }), lexer), false));
            }
        }
        toks.push(tok);
    }
    if let Some(&at) = open.last() {
        let opened = &text[toks[at].start..toks[at].end];
        return Err(toks[at].error(format!("{opened} is never closed")));
    }
    Ok((piece(toks, None, lexer), false))
}

fn piece(toks: Vec<Tok>, data: Option<InsertSource>, lexer: &Lexer) -> Piece {
    Piece { toks, data, end: lexer.position() }
}

fn pairs(open: &Tok, close: &Tok) -> bool {
    matches!(
        (&open.kind, &close.kind),
        (Kind::Sql(Token::LParen), Kind::Sql(Token::RParen))
            | (Kind::Sql(Token::LBracket), Kind::Sql(Token::RBracket))
            | (Kind::Sql(Token::LBrace), Kind::Sql(Token::RBrace))
    )
}

/// `[start, end)` and `(start, end]`, the last argument of `session(…)`.
fn half_open(toks: &[Tok], at: usize, close: &Tok, around: Option<usize>) -> bool {
    let mixed = toks[at].is_token(&Token::LBracket) && close.is_token(&Token::RParen)
        || toks[at].is_token(&Token::LParen) && close.is_token(&Token::RBracket);
    mixed
        && at > 0
        && toks[at - 1].is_token(&Token::Comma)
        && around.is_some_and(|call| {
            call > 0 && toks[call].is_token(&Token::LParen) && toks[call - 1].is("SESSION")
        })
}

/// What follows the name of a format: blanks and one line end are not data, nor is a lone `;`.
fn format_data(rest: &[u8]) -> &[u8] {
    let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | 0x0c)).count();
    let rest = &rest[blanks..];
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
    match rest.strip_prefix(b";") {
        Some(tail) if tail.iter().all(u8::is_ascii_whitespace) => &[],
        _ => rest,
    }
}

/// Where the rows of VALUES end: at the first `;` outside quotes and comments, else at the end.
fn values_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b';' => return at,
            quote @ (b'\'' | b'"' | b'`') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'-' if bytes[at..].starts_with(b"--") => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes[at..].starts_with(b"/*") => {
                at += 2;
                while at < bytes.len() && !bytes[at..].starts_with(b"*/") {
                    at += 1;
                }
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Takes a trailing `FORMAT name` (before or behind SETTINGS) off a statement's tokens.
pub fn take_format(toks: &mut Vec<Tok>) -> Option<String> {
    let mut depth = 0usize;
    for i in 0..toks.len() {
        if toks[i].opens() {
            depth += 1;
        } else if toks[i].closes() {
            depth -= 1;
        }
        let starts = i > 1 && (words::ends_operand(&toks[i - 1]) || toks[i - 1].is_token(&Token::Mul));
        // Not at 1: SHOW FORMAT SCHEMAS.
        if depth == 0 && starts && toks[i].is("FORMAT") {
            let last = i + 2 == toks.len() || toks.get(i + 2).is_some_and(|t| t.is("SETTINGS"));
            if let Some(name) = toks.get(i + 1).and_then(Tok::identifier).filter(|_| last) {
                let name = name.to_string();
                toks.drain(i..i + 2);
                return Some(name);
            }
        }
    }
    None
}
