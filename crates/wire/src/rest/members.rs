//! Takes JSON objects apart without reading their values: rows go on to the format's decoder
//! byte for byte, so that no number changes on the way. Pure.

use weir_base::{Error, Result, err};

fn bad(what: impl std::fmt::Display) -> Error {
    err!(IncorrectData, "the body is not what this call takes: {what}")
}

fn after_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\r', '\n'])
}

/// Splits the value at the front of `text` off.
fn value(text: &str) -> Result<(&str, &str)> {
    let bytes = text.as_bytes();
    let mut open = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at)?,
            b'[' | b'{' => {
                open.push(*byte);
                at += 1;
            }
            b',' | b':' | b']' | b'}' if open.is_empty() => return Ok((text[..at].trim_end(), &text[at..])),
            b']' | b'}' => {
                let expected = if *byte == b']' { b'[' } else { b'{' };
                if open.pop() != Some(expected) {
                    return Err(bad(format_args!("an unexpected {} at byte {at}", *byte as char)));
                }
                at += 1;
            }
            _ => {
                at += 1;
                continue;
            }
        }
        if open.is_empty() {
            return Ok((&text[..at], &text[at..]));
        }
    }
    if open.is_empty() { Ok((text.trim_end(), "")) } else { Err(bad("it ends in the middle of a value")) }
}

/// `at` is the opening quote; past the closing one.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize> {
    loop {
        at += 1;
        match bytes.get(at) {
            None => return Err(bad("it ends inside a string")),
            Some(b'\\') => at += 1,
            Some(b'"') => return Ok(at + 1),
            Some(_) => {}
        }
    }
}

/// Calls `item` at each item between `open` and `close`; it gives back what follows the item.
fn items<'a>(
    text: &'a str,
    open: char,
    close: char,
    mut item: impl FnMut(&'a str) -> Result<&'a str>,
) -> Result<()> {
    let inside = after_space(text).strip_prefix(open).ok_or_else(|| {
        bad(if open == '{' { "it is not a JSON object" } else { "an array is missing where one should be" })
    })?;
    let mut rest = after_space(inside);
    loop {
        if let Some(after) = rest.strip_prefix(close) {
            let more = after_space(after);
            if more.is_empty() {
                return Ok(());
            }
            let shown: String = more.chars().take(20).collect();
            return Err(bad(format_args!("after its end comes '{shown}'")));
        }
        rest = after_space(item(rest)?);
        match rest.strip_prefix(',') {
            Some(next) => rest = after_space(next),
            None if rest.starts_with(close) => {}
            None => return Err(bad("it ends where a comma or an end should be")),
        }
    }
}

/// The members of an object: (name, value as written).
fn members(text: &str) -> Result<Vec<(String, &str)>> {
    let mut found = Vec::new();
    items(text, '{', '}', |rest| {
        let (name, rest) = value(rest)?;
        let name: String =
            serde_json::from_str(name).map_err(|_| bad(format_args!("{name} is no member name")))?;
        let rest = after_space(rest)
            .strip_prefix(':')
            .ok_or_else(|| bad(format_args!("after {name} a colon is missing")))?;
        let (value, rest) = value(after_space(rest))?;
        found.push((name, value));
        Ok(rest)
    })?;
    Ok(found)
}

fn member<'a>(all: &[(String, &'a str)], name: &str) -> Option<&'a str> {
    all.iter().rev().find(|(n, _)| n == name).map(|(_, v)| *v)
}

/// Of an ingest body: the quoted column list, and the rows, one array a line.
pub fn ingest(body: &str) -> Result<(String, Vec<u8>)> {
    let all = members(body)?;
    let columns = member(&all, "columns").ok_or_else(|| bad("\"columns\" is missing"))?;
    let columns: Vec<String> = serde_json::from_str(columns)
        .map_err(|e| bad(format_args!("\"columns\" is no array of names: {e}")))?;
    if columns.is_empty() {
        return Err(bad("\"columns\" is empty"));
    }
    let data = member(&all, "data").ok_or_else(|| bad("\"data\" is missing"))?;
    let mut rows = Vec::with_capacity(data.len());
    let mut count = 0u64;
    items(data, '[', ']', |rest| {
        let (row, rest) = value(rest)?;
        count += 1;
        if !row.starts_with('[') {
            return Err(bad(format_args!("row {count} of \"data\" is no array")));
        }
        // A row may be written over several lines; line ends inside it mean nothing in JSON.
        rows.extend(row.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
        rows.push(b'\n');
        Ok(rest)
    })?;
    let columns: Vec<String> = columns.iter().map(|c| super::quoted(c)).collect();
    Ok((columns.join(", "), rows))
}

/// Of a search body: the query, and the format if it names one.
pub fn query(body: &str) -> Result<(String, Option<String>)> {
    let all = members(body)?;
    let text = |name: &str| -> Result<Option<String>> {
        member(&all, name)
            .map(|v| serde_json::from_str(v).map_err(|_| bad(format_args!("\"{name}\" is no string"))))
            .transpose()
    };
    Ok((text("query")?.ok_or_else(|| bad("\"query\" is missing"))?, text("default_format")?))
}
