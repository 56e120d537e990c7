//! TabSeparated: fields between tabs, rows between newlines, backslash escapes, `\N` for null.
//!
//! Arrays, maps and tuples are literals with their own quotes, not escaped a second time.

use crate::column::{Column, Data};
use crate::fault::Stop;
use crate::json::check_types;
use crate::rows::{Header, Next, RowReader, Rows, Target};
use crate::text::quoted::{Cursor, unescape};
use crate::text::whole_literal;
use crate::text::write::{Style, Writer, escape};
use crate::view::Columns;
use crate::{Encoder, FormatError, FormatSettings, ResultStats, Spelling};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

pub(crate) struct TsvReader {
    names: bool,
    types: bool,
    header: Header,
}

impl TsvReader {
    pub fn new(columns: usize, names: bool, types: bool) -> TsvReader {
        TsvReader { names, types, header: Header::plain(columns) }
    }
}

/// The bytes of the next field, escapes kept; the cursor stops at the tab or newline after it,
/// or at the end of the input.
fn field<'a>(c: &mut Cursor<'a>, eof: bool) -> Result<(&'a [u8], bool), Stop> {
    let start = c.at;
    let mut escaped = false;
    loop {
        match memchr::memchr3(b'\t', b'\n', b'\\', c.rest()) {
            None if eof => {
                c.at = c.input.len();
                break;
            }
            None => return Err(Stop::More),
            Some(n) => {
                c.at += n;
                if c.input[c.at] != b'\\' {
                    break;
                }
                escaped = true;
                if c.at + 1 >= c.input.len() {
                    if eof {
                        return Err(Stop::bad("the input ends after a backslash", &c.input[start..]));
                    }
                    return Err(Stop::More);
                }
                c.at += 2;
            }
        }
    }
    let mut text = &c.input[start..c.at];
    // A carriage return in text is written as `\r`; a bare one belongs to the line's end.
    if c.input.get(c.at).is_none_or(|b| *b == b'\n') {
        text = text.strip_suffix(b"\r").unwrap_or(text);
    }
    Ok((text, escaped))
}

fn plain(text: &[u8], escaped: bool) -> Result<Vec<u8>, Stop> {
    if !escaped {
        return Ok(text.to_vec());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut c = Cursor::new(text);
    while let Some(n) = memchr::memchr(b'\\', c.rest()) {
        out.extend_from_slice(&c.rest()[..n]);
        c.at += n + 1;
        unescape(&mut c, &mut out).map_err(|_| Stop::bad("an escape does not end", text))?;
    }
    out.extend_from_slice(c.rest());
    Ok(out)
}

/// Reads a header line.
fn line(c: &mut Cursor, eof: bool) -> Result<Vec<String>, Stop> {
    let mut all = Vec::new();
    loop {
        let (text, escaped) = field(c, eof)?;
        let text = plain(text, escaped)?;
        all.push(String::from_utf8(text).map_err(|e| Stop::bad("not UTF-8", e.as_bytes()))?);
        match c.input.get(c.at) {
            Some(b'\t') => c.at += 1,
            Some(_) => {
                c.at += 1;
                return Ok(all);
            }
            None => return Ok(all),
        }
    }
}

fn value(text: &[u8], escaped: bool, column: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    if text == b"\\N" {
        return Ok(column.push_null(s.null_as_default)?);
    }
    match &mut column.data {
        Data::Array { .. } | Data::Map { .. } | Data::Tuple { .. } => whole_literal(text, column, s)?,
        _ if escaped => column.push_text(&plain(text, true)?, s.best_effort_times)?,
        _ => column.push_text(text, s.best_effort_times)?,
    }
    Ok(true)
}

impl RowReader for TsvReader {
    fn header(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        if !self.names || (eof && c.rest().is_empty()) {
            return Ok(());
        }
        let names = line(c, eof)?;
        if self.types {
            check_types(&line(c, eof)?, names.len())?;
        }
        self.header = Header::of_names(&names, rows)?;
        Ok(())
    }

    fn between(&mut self, c: &mut Cursor, eof: bool, _rows: &mut Rows) -> Result<Next, Stop> {
        match c.rest().is_empty() {
            false => Ok(Next::Row),
            true if eof => Ok(Next::End),
            true => Err(Stop::More),
        }
    }

    fn row(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        let count = self.header.targets.len();
        if count == 0 {
            field(c, eof)?;
        }
        for (place, target) in self.header.targets.iter().enumerate() {
            let (text, escaped) = field(c, eof)?;
            if let Target::Column(i) = *target {
                match value(text, escaped, &mut rows.columns[i], &rows.settings) {
                    Ok(true) => {}
                    Ok(false) => rows.mark_absent(i),
                    Err(Stop::Bad(fault)) => return Err(fault.in_column(&rows.names[i]).into()),
                    Err(Stop::More) => return Err(Stop::bad("the value does not end", text)),
                }
            }
            let last = place + 1 == count;
            match c.input.get(c.at) {
                Some(b'\t') if !last => c.at += 1,
                Some(b'\t') => return Err(Stop::bad(format!("more than {count} fields"), c.rest())),
                Some(_) | None if !last => {
                    return Err(Stop::bad(format!("the row has {} fields, not {count}", place + 1), text));
                }
                _ => {}
            }
        }
        c.at += usize::from(c.at < c.input.len());
        self.header.fill_missing(rows);
        Ok(())
    }
}

pub(crate) struct TsvEncoder {
    columns: Columns,
    writer: Writer,
    names: bool,
    types: bool,
    /// TabSeparatedRaw: no escapes.
    raw: bool,
    spelling: Spelling,
}

impl TsvEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings, names: bool, types: bool, raw: bool) -> TsvEncoder {
        let writer = Writer::new(if raw { Style::Plain } else { Style::Escaped }, s);
        TsvEncoder { columns: Columns::new(schema), writer, names, types, raw, spelling: s.spelling }
    }

    fn line(&self, texts: impl Iterator<Item = String>, out: &mut Vec<u8>) {
        for (i, text) in texts.enumerate() {
            if i > 0 {
                out.push(b'\t');
            }
            if self.raw {
                out.extend_from_slice(text.as_bytes())
            } else {
                escape(text.as_bytes(), b'\'', out)
            }
        }
        out.push(b'\n');
    }
}

impl Encoder for TsvEncoder {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.names {
            self.line(self.columns.names.iter().cloned(), out);
        }
        if self.types {
            self.line(self.columns.kinds.iter().map(|k| k.ty.name(self.spelling)), out);
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            for (i, view) in views.iter().enumerate() {
                if i > 0 {
                    out.push(b'\t');
                }
                if self.raw && view.is_null(row) {
                    out.extend_from_slice(b"\\N");
                } else {
                    self.writer.value(view, row, out);
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}
