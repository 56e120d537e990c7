//! One value as text, in the style of each text format.

use super::number::{write_decimal, write_float, write_int};
use super::{ident, time};
use crate::FormatSettings;
use crate::view::{Values, View};

/// Where a value stands decides its quotes and escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As people read it: no quotes, no escapes.
    Plain,
    /// A TSV field: backslash escapes, `\N` for null.
    Escaped,
    /// A CSV field: text in double quotes.
    Csv,
    /// A literal: text in single quotes with backslash escapes, `NULL`.
    Quoted,
    Json,
}

/// Writes values in one style.
#[derive(Clone, Copy)]
pub(crate) struct Writer {
    pub style: Style,
    quote_64bit: bool,
    quote_denormals: bool,
}

impl Writer {
    pub fn new(style: Style, settings: &FormatSettings) -> Writer {
        Writer {
            style,
            quote_64bit: settings.json_quote_64bit_integers,
            quote_denormals: settings.json_quote_denormals,
        }
    }

    fn with(self, style: Style) -> Writer {
        Writer { style, ..self }
    }

    pub fn value(self, view: &View, row: usize, out: &mut Vec<u8>) {
        if view.is_null(row)
            && !matches!(view.data, Values::Array { .. } | Values::Map { .. } | Values::Tuple { .. })
        {
            out.extend_from_slice(match self.style {
                Style::Plain => "ᴺᵁᴸᴸ".as_bytes(),
                Style::Escaped | Style::Csv => b"\\N",
                Style::Quoted => b"NULL",
                Style::Json => b"null",
            });
            return;
        }
        match &view.data {
            Values::Bool(v) => out.extend_from_slice(if v.value(row) { b"true" } else { b"false" }),
            Values::Int8(v) => write_int(v[row], out),
            Values::Int16(v) => write_int(v[row], out),
            Values::Int32(v) => write_int(v[row], out),
            Values::UInt8(v) => write_int(v[row], out),
            Values::UInt16(v) => write_int(v[row], out),
            Values::UInt32(v) => write_int(v[row], out),
            Values::Int64(v) => self.wide(v[row], out),
            Values::UInt64(v) => self.wide(v[row], out),
            Values::Float32(v) => self.float(v[row], out),
            Values::Float64(v) => self.float(v[row], out),
            Values::Decimal { values, scale, .. } => write_decimal(values[row], *scale, out),
            Values::String(v) | Values::Enum(v, _) => self.text(v.value(row).as_bytes(), out),
            Values::Bytes(v) => self.text(v.value(row), out),
            Values::Date(v) => self.quoted(out, |out| time::write_date(i64::from(v[row]), out)),
            Values::Time(v, kind) => self.quoted(out, |out| time::write_time(v[row], kind, out)),
            Values::Uuid(v) => self.quoted(out, |out| ident::write_uuid(v.value(row), out)),
            Values::Ipv6(v) => self.quoted(out, |out| ident::write_ipv6(v.value(row), out)),
            Values::Ipv4(v) => self.quoted(out, |out| ident::write_ipv4(v[row], out)),
            Values::Nothing => {}
            Values::Array { .. } | Values::Map { .. } | Values::Tuple { .. } => match self.style {
                Style::Csv => {
                    let mut nested = Vec::new();
                    self.with(Style::Quoted).nested(view, row, &mut nested);
                    csv_text(&nested, out);
                }
                Style::Json | Style::Quoted => self.nested(view, row, out),
                Style::Plain | Style::Escaped => self.with(Style::Quoted).nested(view, row, out),
            },
        }
    }

    fn nested(self, view: &View, row: usize, out: &mut Vec<u8>) {
        let json = self.style == Style::Json;
        match &view.data {
            Values::Array { offsets, items } => {
                out.push(b'[');
                for (n, i) in view.items(offsets, row).enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    self.value(items, i, out);
                }
                out.push(b']');
            }
            Values::Map { offsets, keys, values } => {
                out.push(b'{');
                for (n, i) in view.items(offsets, row).enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    if json {
                        self.json_key(keys, i, out)
                    } else {
                        self.value(keys, i, out)
                    }
                    out.push(b':');
                    self.value(values, i, out);
                }
                out.push(b'}');
            }
            Values::Tuple { fields, spec } => {
                let object = json && spec.named;
                out.push(if object {
                    b'{'
                } else if json {
                    b'['
                } else {
                    b'('
                });
                for (n, (field, (name, _))) in fields.iter().zip(&spec.fields).enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    if object {
                        json_text(name.as_bytes(), out);
                        out.push(b':');
                    }
                    self.value(field, row, out);
                }
                out.push(if object {
                    b'}'
                } else if json {
                    b']'
                } else {
                    b')'
                });
            }
            _ => unreachable!("only arrays, maps and tuples nest"),
        }
    }

    /// Keys of JSON objects are strings, whatever the key's type.
    fn json_key(self, keys: &View, row: usize, out: &mut Vec<u8>) {
        let mut text = Vec::new();
        self.with(Style::Plain).value(keys, row, &mut text);
        json_text(&text, out);
    }

    fn wide<I: itoa::Integer>(self, v: I, out: &mut Vec<u8>) {
        let quote = self.quote_64bit && self.style == Style::Json;
        if quote {
            out.push(b'"');
        }
        write_int(v, out);
        if quote {
            out.push(b'"');
        }
    }

    fn float<F: ryu::Float + Into<f64> + Copy>(self, v: F, out: &mut Vec<u8>) {
        let wide: f64 = v.into();
        if self.style == Style::Json && !wide.is_finite() {
            if self.quote_denormals {
                out.push(b'"');
                write_float(v, out);
                out.push(b'"');
            } else {
                out.extend_from_slice(b"null");
            }
            return;
        }
        write_float(v, out);
    }

    /// Text that needs no escapes.
    fn quoted(self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let quote = match self.style {
            Style::Plain | Style::Escaped => None,
            Style::Csv | Style::Json => Some(b'"'),
            Style::Quoted => Some(b'\''),
        };
        out.extend(quote);
        write(out);
        out.extend(quote);
    }

    pub fn text(self, text: &[u8], out: &mut Vec<u8>) {
        match self.style {
            Style::Plain => out.extend_from_slice(text),
            Style::Escaped => escape(text, b'\'', out),
            Style::Csv => csv_text(text, out),
            Style::Quoted => {
                out.push(b'\'');
                escape(text, b'\'', out);
                out.push(b'\'');
            }
            Style::Json => json_text(text, out),
        }
    }
}

/// Backslash escapes, in runs.
pub(crate) fn escape(text: &[u8], quote: u8, out: &mut Vec<u8>) {
    let mut from = 0;
    for (i, c) in text.iter().enumerate() {
        let short = match c {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            0 => b'0',
            8 => b'b',
            12 => b'f',
            c if *c == quote => quote,
            _ => continue,
        };
        out.extend_from_slice(&text[from..i]);
        out.extend_from_slice(&[b'\\', short]);
        from = i + 1;
    }
    out.extend_from_slice(&text[from..]);
}

fn csv_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut from = 0;
    for at in memchr::memchr_iter(b'"', text) {
        out.extend_from_slice(&text[from..=at]);
        from = at;
    }
    out.extend_from_slice(&text[from..]);
    out.push(b'"');
}

/// For each byte: 0 = as it is, else what to do with it.
const JSON_ESCAPE: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 32 {
        table[i] = b'u';
        i += 1;
    }
    table[8] = b'b';
    table[9] = b't';
    table[10] = b'n';
    table[12] = b'f';
    table[13] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'/' as usize] = b'/';
    // Lead byte of U+2028 and U+2029, which end a line in JavaScript.
    table[0xE2] = 0xE2;
    table
};

pub(crate) fn json_text(text: &[u8], out: &mut Vec<u8>) {
    // Bytes that are not UTF-8 (type `bytes`) must not break the document.
    let repaired;
    let text = match std::str::from_utf8(text) {
        Ok(_) => text,
        Err(_) => {
            repaired = String::from_utf8_lossy(text).into_owned();
            repaired.as_bytes()
        }
    };
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut from = 0;
    for (i, c) in text.iter().enumerate() {
        let short = JSON_ESCAPE[usize::from(*c)];
        if short == 0 {
            continue;
        }
        match short {
            b'u' => {
                out.extend_from_slice(&text[from..i]);
                out.extend_from_slice(b"\\u00");
                out.push(b'0' + (c >> 4));
                out.push(b"0123456789ABCDEF"[usize::from(c & 15)]);
                from = i + 1;
            }
            0xE2 => {
                if text[i + 1] == 0x80 && matches!(text[i + 2], 0xA8 | 0xA9) {
                    out.extend_from_slice(&text[from..i]);
                    out.extend_from_slice(if text[i + 2] == 0xA8 { b"\\u2028" } else { b"\\u2029" });
                    from = i + 3;
                }
            }
            short => {
                out.extend_from_slice(&text[from..i]);
                out.extend_from_slice(&[b'\\', short]);
                from = i + 1;
            }
        }
    }
    out.extend_from_slice(&text[from..]);
    out.push(b'"');
}
