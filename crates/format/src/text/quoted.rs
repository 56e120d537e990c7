//! Literals as ClickHouse writes them: `'text'`, `[1, 2]`, `{'k': 1}`, `(1, 'a')`, `NULL`.
//!
//! The grammar of `Values`, and of arrays, maps and tuples inside TSV and CSV fields.

use crate::FormatSettings;
use crate::column::{Column, Data};
use crate::fault::{Fault, Stop};

/// A place in the input. At its end readers stop with [`Stop::More`].
pub(crate) struct Cursor<'a> {
    pub input: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Cursor { input, at: 0 }
    }
    pub fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }
    #[inline]
    pub fn peek(&self) -> Result<u8, Stop> {
        self.input.get(self.at).copied().ok_or(Stop::More)
    }
    pub fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.input.get(self.at) {
            self.at += 1;
        }
    }
    pub fn eat(&mut self, c: u8) -> Result<bool, Stop> {
        let found = self.peek()? == c;
        self.at += usize::from(found);
        Ok(found)
    }
    pub fn need(&mut self, c: u8) -> Result<(), Stop> {
        if self.eat(c)? {
            return Ok(());
        }
        Err(self.expected(&format!("'{}'", char::from(c))))
    }
    #[cold]
    pub fn expected(&self, what: &str) -> Stop {
        Stop::bad(format!("expected {what}"), self.rest())
    }
}

/// The content of a string whose opening `quote` was read: escapes undone, doubled quotes too.
/// Ends after the closing quote. `scratch` holds the content where it is not a plain slice.
pub(crate) fn string<'a>(c: &mut Cursor<'a>, quote: u8, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Stop> {
    let start = c.at;
    let Some(n) = memchr::memchr2(quote, b'\\', c.rest()) else { return Err(Stop::More) };
    c.at += n;
    // Whether a quote is doubled is told by the next byte. At the end of the input it counts as
    // the last one: whatever holds the literal needs more bytes and reads it again.
    if c.input[c.at] == quote && c.input.get(c.at + 1) != Some(&quote) {
        let text = &c.input[start..c.at];
        c.at += 1;
        return Ok(text);
    }
    scratch.clear();
    let mut from = start;
    loop {
        scratch.extend_from_slice(&c.input[from..c.at]);
        if c.input[c.at] == quote {
            if c.input.get(c.at + 1) != Some(&quote) {
                c.at += 1;
                return Ok(scratch);
            }
            scratch.push(quote);
            c.at += 2;
        } else {
            c.at += 1;
            unescape(c, scratch)?;
        }
        from = c.at;
        let Some(n) = memchr::memchr2(quote, b'\\', c.rest()) else { return Err(Stop::More) };
        c.at += n;
    }
}

/// Appends what the escape after a backslash stands for.
pub(crate) fn unescape(c: &mut Cursor, out: &mut Vec<u8>) -> Result<(), Stop> {
    let e = c.peek()?;
    c.at += 1;
    match e {
        b'n' => out.push(b'\n'),
        b't' => out.push(b'\t'),
        b'r' => out.push(b'\r'),
        b'0' => out.push(0),
        b'b' => out.push(8),
        b'f' => out.push(12),
        b'a' => out.push(7),
        b'v' => out.push(11),
        b'x' => {
            let Some(pair) = c.input.get(c.at..c.at + 2) else { return Err(Stop::More) };
            let digit = |d: u8| (d as char).to_digit(16).map(|v| v as u8);
            match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => out.push(high << 4 | low),
                _ => return Err(Stop::bad("\\x needs two hexadecimal digits", pair)),
            }
            c.at += 2;
        }
        other => out.push(other),
    }
    Ok(())
}

/// Reads one literal into the column. `Ok(false)`: it was null and the column took its default.
pub(crate) fn value(c: &mut Cursor, column: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    c.space();
    let first = c.peek()?;
    if matches!(first, b'n' | b'N') && is_word(c, b"null")? {
        c.at += 4;
        return Ok(column.push_null(s.null_as_default)?);
    }
    let kind = column.kind.clone();
    let start = c.at;
    match &mut column.data {
        Data::Array { items, .. } => {
            c.need(b'[')?;
            c.space();
            if !c.eat(b']')? {
                loop {
                    value(c, items, s)?;
                    c.space();
                    if !c.eat(b',')? {
                        break;
                    }
                }
                c.need(b']')?;
            }
            column.end_items();
        }
        Data::Map { keys, values, .. } => {
            c.need(b'{')?;
            c.space();
            if !c.eat(b'}')? {
                loop {
                    value(c, keys, s)?;
                    c.space();
                    c.need(b':')?;
                    value(c, values, s)?;
                    c.space();
                    if !c.eat(b',')? {
                        break;
                    }
                }
                c.need(b'}')?;
            }
            column.end_items();
        }
        Data::Tuple { fields, .. } => {
            c.need(b'(')?;
            for (i, field) in fields.iter_mut().enumerate() {
                if i > 0 {
                    c.space();
                    c.need(b',')?;
                }
                value(c, field, s)?;
            }
            c.space();
            // A trailing comma marks a tuple of one.
            if fields.len() == 1 && c.eat(b',')? {
                c.space();
            }
            c.need(b')')?;
            column.end_items();
        }
        _ if first == b'\'' || first == b'"' => {
            c.at += 1;
            let mut scratch = Vec::new();
            let mut inner = Cursor { input: c.input, at: c.at };
            let text = string(&mut inner, first, &mut scratch)?;
            column.push_text(text, s.best_effort_times)?;
            c.at = inner.at;
        }
        _ => {
            let end = c.rest().iter().position(|b| {
                matches!(
                    b,
                    b',' | b')' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r' | b'(' | b'[' | b'\''
                )
            });
            // At the end of the input the token may go on.
            let Some(end) = end else { return Err(Stop::More) };
            let token = &c.input[start..start + end];
            if end == 0 || matches!(c.input[start + end], b'(' | b'[') {
                return Err(Stop::bad(format!("expected a literal of {}", kind.ty), c.rest()));
            }
            bare(token, column, s)?;
            c.at += end;
        }
    }
    Ok(true)
}

/// A literal without quotes: a number or a word.
pub(crate) fn bare(token: &[u8], column: &mut Column, s: &FormatSettings) -> Result<(), Fault> {
    match &mut column.data {
        // A number in a column of text is its text, but a word is a mistake.
        Data::String(_) | Data::Bytes(_)
            if !token.first().is_some_and(|c| c.is_ascii_digit() || matches!(c, b'-' | b'+' | b'.')) =>
        {
            Err(Fault::new("text needs quotes", token))
        }
        _ => column.push_text(token, s.best_effort_times),
    }
}

/// Whether the next letters are `word` (lower case), in any case, and nothing longer.
pub(crate) fn is_word(c: &Cursor, word: &[u8]) -> Result<bool, Stop> {
    let rest = c.rest();
    let n = rest.len().min(word.len());
    if !rest[..n].eq_ignore_ascii_case(&word[..n]) {
        return Ok(false);
    }
    match rest.get(word.len()) {
        Some(next) => Ok(!next.is_ascii_alphanumeric() && *next != b'_'),
        None => Err(Stop::More),
    }
}
