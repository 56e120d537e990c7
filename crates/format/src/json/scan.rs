//! JSON values straight into columns, in one pass over the bytes.
//!
//! There is no document between text and columns: the column's type says what to look for.
//! Numbers keep all their digits (decimals, 64-bit integers), and an error points at its bytes.

use crate::FormatSettings;
use crate::column::{Column, Data};
use crate::fault::{Fault, Stop};
use crate::kind::Shape;
use crate::text::number::POWERS;
use crate::text::quoted::{self, Cursor};

/// Values of unknown fields may nest this deep.
const SKIP_DEPTH_MAX: usize = 1000;

#[inline]
pub(super) fn space(c: &mut Cursor) {
    while let Some(b) = c.input.get(c.at)
        && *b <= b' '
        && matches!(b, b' ' | b'\n' | b'\t' | b'\r')
    {
        c.at += 1;
    }
}

/// Distance to the next quote or backslash.
#[inline]
fn string_part(rest: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |v: u64| v.wrapping_sub(LOW) & !v & HIGH;
    let mut at = 0;
    while let Some(chunk) = rest.get(at..at + 8) {
        let v = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        // A borrow can set a bit above the first hit, never below it.
        let hits = zero(v ^ (LOW * b'"' as u64)) | zero(v ^ (LOW * b'\\' as u64));
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
        if at == 64 {
            return memchr::memchr2(b'"', b'\\', &rest[at..]).map(|n| at + n);
        }
    }
    rest[at..].iter().position(|b| matches!(b, b'"' | b'\\')).map(|n| at + n)
}

/// Appends the content of a string whose opening quote was read; ends after the closing one.
#[inline]
fn string_into(c: &mut Cursor, out: &mut Vec<u8>) -> Result<(), Stop> {
    loop {
        let rest = c.rest();
        let Some(n) = string_part(rest) else { return Err(Stop::More) };
        out.extend_from_slice(&rest[..n]);
        c.at += n + 1;
        if rest[n] == b'"' {
            return Ok(());
        }
        escape(c, out)?;
    }
}

/// The content of a string whose opening quote was read, borrowed where it has no escapes.
pub(super) fn string<'a>(c: &mut Cursor<'a>, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Stop> {
    let rest = c.rest();
    let Some(n) = string_part(rest) else { return Err(Stop::More) };
    if rest[n] == b'"' {
        c.at += n + 1;
        return Ok(&rest[..n]);
    }
    scratch.clear();
    string_into(c, scratch)?;
    Ok(scratch)
}

#[cold]
fn escape(c: &mut Cursor, out: &mut Vec<u8>) -> Result<(), Stop> {
    let start = c.at - 1;
    let e = c.peek()?;
    c.at += 1;
    match e {
        b'n' => out.push(b'\n'),
        b't' => out.push(b'\t'),
        b'r' => out.push(b'\r'),
        b'b' => out.push(8),
        b'f' => out.push(12),
        b'"' | b'\\' | b'/' | b'\'' => out.push(e),
        b'u' => {
            let mut code = hex4(c)?;
            if (0xD800..0xDC00).contains(&code) {
                let pair = c.input.get(c.at..c.at + 2).ok_or(Stop::More)?;
                if pair == b"\\u" {
                    c.at += 2;
                    let low = hex4(c)?;
                    if !(0xDC00..0xE000).contains(&low) {
                        return Err(Stop::bad("half of a surrogate pair", &c.input[start..c.at]));
                    }
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
            }
            let Some(ch) = char::from_u32(code) else {
                return Err(Stop::bad("half of a surrogate pair", &c.input[start..c.at]));
            };
            out.extend_from_slice(ch.encode_utf8(&mut [0; 4]).as_bytes());
        }
        _ => return Err(Stop::bad("unknown escape in a string", &c.input[start..c.at])),
    }
    Ok(())
}

fn hex4(c: &mut Cursor) -> Result<u32, Stop> {
    let digits = c.input.get(c.at..c.at + 4).ok_or(Stop::More)?;
    let mut v = 0;
    for d in digits {
        let Some(d) = char::from(*d).to_digit(16) else {
            return Err(Stop::bad("\\u needs four hexadecimal digits", digits));
        };
        v = v * 16 + d;
    }
    c.at += 4;
    Ok(v)
}

/// Reads an integer of up to 18 digits; `None` leaves the cursor for the careful path.
#[inline]
fn short_int(c: &mut Cursor) -> Result<Option<i64>, Stop> {
    let start = c.at;
    let mut at = start;
    let negative = c.input.get(at) == Some(&b'-');
    at += usize::from(negative);
    let digits = at;
    let mut v = 0i64;
    loop {
        let Some(b) = c.input.get(at) else { return Err(Stop::More) };
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            if at == digits || at - digits > 18 || matches!(b, b'.' | b'e' | b'E') {
                return Ok(None);
            }
            c.at = at;
            return Ok(Some(if negative { -v } else { v }));
        }
        v = v.wrapping_mul(10).wrapping_add(i64::from(d));
        at += 1;
    }
}

/// Reads a plain decimal that is exact as integer over power of ten; `None` leaves the cursor.
#[inline]
fn short_float(c: &mut Cursor) -> Result<Option<f64>, Stop> {
    let mut at = c.at;
    let negative = c.input.get(at) == Some(&b'-');
    at += usize::from(negative);
    let (mut v, mut digits, mut point) = (0u64, 0usize, None);
    loop {
        let Some(b) = c.input.get(at) else { return Err(Stop::More) };
        let d = b.wrapping_sub(b'0');
        if d <= 9 {
            v = v.wrapping_mul(10).wrapping_add(u64::from(d));
            digits += 1;
        } else if *b == b'.' && point.is_none() {
            point = Some(digits);
        } else if matches!(b, b'e' | b'E' | b'.') || digits == 0 || digits > 18 || v >= 1 << 53 {
            return Ok(None);
        } else {
            c.at = at;
            let v = v as f64 / POWERS[point.map_or(0, |p| digits - p)];
            return Ok(Some(if negative { -v } else { v }));
        }
        at += 1;
    }
}

/// A number or word: up to the next separator.
fn token<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Stop> {
    let rest = c.rest();
    let end = rest
        .iter()
        .position(|b| {
            matches!(b, b',' | b'}' | b']' | b':' | b' ' | b'\n' | b'\t' | b'\r' | b'"' | b'{' | b'[')
        })
        .ok_or(Stop::More)?;
    c.at += end;
    Ok(&rest[..end])
}

fn null(c: &mut Cursor, column: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    let word = token(c)?;
    if word != b"null" {
        return Err(Stop::bad(format!("expected a value of {}", column.kind.ty), word));
    }
    Ok(column.push_null(s.null_as_default)?)
}

/// Reads one value into the column. `Ok(false)`: it was null and the column took its default.
pub(super) fn value(c: &mut Cursor, column: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    let first = c.peek()?;
    if first == b'n' {
        return null(c, column, s);
    }
    macro_rules! int {
        ($values:expr) => {
            if let Some(v) = short_int(c)? {
                match v.try_into() {
                    Ok(v) => $values.push(v),
                    Err(_) => {
                        return Err(Stop::bad(
                            format!("out of range of {}", column.kind.ty),
                            v.to_string().as_bytes(),
                        ));
                    }
                }
                column.valid();
                return Ok(true);
            }
        };
    }
    match &mut column.data {
        Data::Int64(v) => int!(v),
        Data::UInt64(v) => int!(v),
        Data::Int32(v) => int!(v),
        Data::UInt32(v) => int!(v),
        Data::Int16(v) => int!(v),
        Data::UInt16(v) => int!(v),
        Data::Int8(v) => int!(v),
        Data::UInt8(v) => int!(v),
        Data::Float64(v) => {
            if let Some(f) = short_float(c)? {
                v.push(f);
                column.valid();
                return Ok(true);
            }
        }
        Data::String(v) | Data::Bytes(v) => {
            if first == b'"' {
                c.at += 1;
                string_into(c, &mut v.bytes)?;
                v.end_value();
            } else {
                // A number, array or object in a column of text is kept as its text.
                let start = c.at;
                skip(c)?;
                v.push(&c.input[start..c.at]);
            }
            column.valid();
            return Ok(true);
        }
        Data::Array { .. } => return array(c, column, s),
        Data::Map { .. } => return map(c, column, s),
        Data::Tuple { .. } => return tuple(c, column, s),
        _ => {}
    }
    scalar(c, column, s, first)?;
    Ok(true)
}

fn scalar(c: &mut Cursor, column: &mut Column, s: &FormatSettings, first: u8) -> Result<(), Stop> {
    if first == b'"' {
        let mut scratch = Vec::new();
        let mut inner = Cursor { input: c.input, at: c.at + 1 };
        let text = string(&mut inner, &mut scratch)?;
        column.push_text(text, s.best_effort_times)?;
        c.at = inner.at;
        return Ok(());
    }
    if matches!(first, b'{' | b'[') {
        let what = if first == b'{' { "an object" } else { "an array" };
        return Err(Stop::bad(format!("{what} can not be read as {}", column.kind.ty), c.rest()));
    }
    let mut word = token(c)?;
    let is_number = matches!(
        column.kind.shape,
        Shape::Int8
            | Shape::Int16
            | Shape::Int32
            | Shape::Int64
            | Shape::UInt8
            | Shape::UInt16
            | Shape::UInt32
            | Shape::UInt64
            | Shape::Float32
            | Shape::Float64
    );
    if is_number {
        word = match word {
            b"true" => b"1",
            b"false" => b"0",
            w => w,
        };
    }
    Ok(quoted::bare(word, column, s)?)
}

fn array(c: &mut Cursor, column: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    let Data::Array { items, .. } = &mut column.data else { unreachable!("asked for an array") };
    if c.peek()? != b'[' {
        return Err(not_nested(c, column));
    }
    c.at += 1;
    space(c);
    if !c.eat(b']')? {
        loop {
            value(c, items, s)?;
            space(c);
            if !c.eat(b',')? {
                break;
            }
            space(c);
        }
        c.need(b']')?;
    }
    column.end_items();
    Ok(true)
}

fn map(c: &mut Cursor, column: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    let Data::Map { keys, values, .. } = &mut column.data else { unreachable!("asked for a map") };
    if c.peek()? != b'{' {
        return Err(not_nested(c, column));
    }
    c.at += 1;
    space(c);
    if !c.eat(b'}')? {
        loop {
            if c.peek()? != b'"' {
                return Err(c.expected("a key in double quotes"));
            }
            scalar_key(c, keys, s)?;
            colon(c)?;
            value(c, values, s)?;
            space(c);
            if !c.eat(b',')? {
                break;
            }
            space(c);
        }
        c.need(b'}')?;
    }
    column.end_items();
    Ok(true)
}

/// A key of an object as a value of the map's key type.
fn scalar_key(c: &mut Cursor, keys: &mut Column, s: &FormatSettings) -> Result<(), Stop> {
    let mut scratch = Vec::new();
    let mut inner = Cursor { input: c.input, at: c.at + 1 };
    let text = string(&mut inner, &mut scratch)?;
    match keys.kind.shape {
        Shape::Array(_) | Shape::Map(..) | Shape::Tuple(_) => crate::text::whole_literal(text, keys, s)?,
        _ => keys.push_text(text, s.best_effort_times)?,
    }
    c.at = inner.at;
    Ok(())
}

pub(super) fn colon(c: &mut Cursor) -> Result<(), Stop> {
    space(c);
    c.need(b':')?;
    space(c);
    Ok(())
}

fn tuple(c: &mut Cursor, column: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    let kind = column.kind.clone();
    let Shape::Tuple(spec) = &kind.shape else { unreachable!("asked for a tuple") };
    let Data::Tuple { fields, .. } = &mut column.data else { unreachable!("asked for a tuple") };
    match c.peek()? {
        b'[' => {
            c.at += 1;
            for (i, field) in fields.iter_mut().enumerate() {
                space(c);
                if i > 0 {
                    c.need(b',')?;
                    space(c);
                }
                value(c, field, s)?;
            }
            space(c);
            c.need(b']')?;
        }
        b'{' if spec.named => {
            c.at += 1;
            let mut given = vec![false; fields.len()];
            space(c);
            if !c.eat(b'}')? {
                loop {
                    c.need(b'"')?;
                    let mut scratch = Vec::new();
                    let mut inner = Cursor { input: c.input, at: c.at };
                    let name = string(&mut inner, &mut scratch)?;
                    let found = spec.fields.iter().position(|(n, _)| n.as_bytes() == name);
                    if found.is_none() && !s.skip_unknown_fields {
                        return Err(Stop::bad(format!("no field of {}", kind.ty), name));
                    }
                    if found.is_some_and(|i| given[i]) {
                        return Err(Stop::bad("field appears twice", name));
                    }
                    c.at = inner.at;
                    colon(c)?;
                    match found {
                        Some(i) => {
                            value(c, &mut fields[i], s)?;
                            given[i] = true;
                        }
                        None => skip(c)?,
                    }
                    space(c);
                    if !c.eat(b',')? {
                        break;
                    }
                    space(c);
                }
                c.need(b'}')?;
            }
            for (field, given) in fields.iter_mut().zip(given) {
                if !given {
                    field.push_default();
                }
            }
        }
        _ => return Err(not_nested(c, column)),
    }
    column.end_items();
    Ok(true)
}

#[cold]
fn not_nested(c: &Cursor, column: &Column) -> Stop {
    Stop::Bad(Fault::new(format!("can not be read as {}", column.kind.ty), c.rest()))
}

/// Passes over one value of any kind.
pub(super) fn skip(c: &mut Cursor) -> Result<(), Stop> {
    let mut open: Vec<u8> = Vec::new();
    let start = c.at;
    loop {
        space(c);
        match c.peek()? {
            b'"' => {
                c.at += 1;
                loop {
                    let Some(n) = string_part(c.rest()) else { return Err(Stop::More) };
                    let quote = c.input[c.at + n] == b'"';
                    c.at += n + 1;
                    if quote {
                        break;
                    }
                    c.peek()?;
                    c.at += 1;
                }
            }
            b @ (b'{' | b'[') => {
                c.at += 1;
                open.push(if b == b'{' { b'}' } else { b']' });
                if open.len() > SKIP_DEPTH_MAX {
                    return Err(Stop::bad(format!("nested deeper than {SKIP_DEPTH_MAX}"), &c.input[start..]));
                }
                continue;
            }
            b @ (b'}' | b']') => {
                if open.pop() != Some(b) {
                    return Err(c.expected("a value"));
                }
                c.at += 1;
            }
            b',' | b':' if !open.is_empty() => {
                c.at += 1;
                continue;
            }
            _ => {
                if token(c)?.is_empty() {
                    return Err(c.expected("a value"));
                }
            }
        }
        if open.is_empty() {
            return Ok(());
        }
    }
}

/// A whole array of strings, as headers are.
pub(super) fn strings(c: &mut Cursor) -> Result<Vec<String>, Stop> {
    space(c);
    c.need(b'[')?;
    let mut all = Vec::new();
    space(c);
    if c.eat(b']')? {
        return Ok(all);
    }
    loop {
        space(c);
        c.need(b'"')?;
        let mut text = Vec::new();
        string_into(c, &mut text)?;
        all.push(String::from_utf8(text).map_err(|e| Stop::bad("not UTF-8", e.as_bytes()))?);
        space(c);
        if !c.eat(b',')? {
            break;
        }
    }
    c.need(b']')?;
    Ok(all)
}
