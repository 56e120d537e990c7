//! CSV: fields between delimiters, text in double quotes, a quote in it doubled, `\N` for null.
//!
//! As in ClickHouse an empty field without quotes stands for the column's default, and a tuple
//! takes one field for each of its parts.

use crate::column::{Column, Data};
use crate::fault::Stop;
use crate::json::check_types;
use crate::kind::{Kind, Shape};
use crate::rows::{Header, Next, RowReader, Rows, Target};
use crate::text::quoted::Cursor;
use crate::text::write::{Style, Writer};
use crate::text::{BYTE_ORDER_MARK, whole_literal};
use crate::view::{Columns, Values, View};
use crate::{Encoder, FormatError, FormatSettings, ResultStats, Spelling};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

pub(crate) struct CsvReader {
    names: bool,
    types: bool,
    header: Header,
}

impl CsvReader {
    pub fn new(columns: usize, names: bool, types: bool) -> CsvReader {
        CsvReader { names, types, header: Header::plain(columns) }
    }
}

struct Field<'a> {
    text: &'a [u8],
    quoted: bool,
    /// The text holds doubled quotes.
    doubled: bool,
}

impl Field<'_> {
    fn plain(&self) -> std::borrow::Cow<'_, [u8]> {
        if !self.doubled {
            return self.text.into();
        }
        let mut out = Vec::with_capacity(self.text.len());
        let mut from = 0;
        while let Some(n) = memchr::memchr(b'"', &self.text[from..]) {
            out.extend_from_slice(&self.text[from..=from + n]);
            from = (from + n + 2).min(self.text.len());
        }
        out.extend_from_slice(&self.text[from..]);
        out.into()
    }
}

fn blanks(c: &mut Cursor, delimiter: u8) {
    while let Some(b @ (b' ' | b'\t')) = c.input.get(c.at)
        && *b != delimiter
    {
        c.at += 1;
    }
}

/// The next field; the cursor stops at the delimiter or line end after it, or at the end.
fn field<'a>(c: &mut Cursor<'a>, delimiter: u8, eof: bool) -> Result<Field<'a>, Stop> {
    blanks(c, delimiter);
    if c.input.get(c.at) == Some(&b'"') {
        c.at += 1;
        let start = c.at;
        let mut doubled = false;
        loop {
            let Some(n) = memchr::memchr(b'"', c.rest()) else { return Err(Stop::More) };
            c.at += n;
            match c.input.get(c.at + 1) {
                Some(b'"') => {
                    doubled = true;
                    c.at += 2;
                }
                // The next byte may double this quote.
                None if !eof => return Err(Stop::More),
                _ => break,
            }
        }
        let text = &c.input[start..c.at];
        c.at += 1;
        blanks(c, delimiter);
        return match c.input.get(c.at) {
            None if !eof => Err(Stop::More),
            Some(b) if *b != delimiter && !matches!(b, b'\r' | b'\n') => {
                Err(Stop::bad("text after a closing quote", &c.input[start - 1..]))
            }
            _ => Ok(Field { text, quoted: true, doubled }),
        };
    }
    let start = c.at;
    match memchr::memchr3(delimiter, b'\n', b'\r', c.rest()) {
        Some(n) => c.at += n,
        None if eof => c.at = c.input.len(),
        None => return Err(Stop::More),
    }
    let text = c.input[start..c.at].trim_ascii_end();
    Ok(Field { text, quoted: false, doubled: false })
}

/// Passes over the end of a line; needs the byte after `\r`.
fn line_end(c: &mut Cursor, eof: bool) -> Result<(), Stop> {
    match c.input.get(c.at) {
        Some(b'\r') => match c.input.get(c.at + 1) {
            Some(b'\n') => c.at += 2,
            Some(_) => c.at += 1,
            None if eof => c.at += 1,
            None => return Err(Stop::More),
        },
        Some(b'\n') => c.at += 1,
        None if eof => {}
        None => return Err(Stop::More),
        Some(_) => return Err(c.expected("the end of the line")),
    }
    Ok(())
}

fn line(c: &mut Cursor, delimiter: u8, eof: bool) -> Result<Vec<String>, Stop> {
    let mut all = Vec::new();
    loop {
        let text = field(c, delimiter, eof)?.plain().into_owned();
        all.push(String::from_utf8(text).map_err(|e| Stop::bad("not UTF-8", e.as_bytes()))?);
        if c.input.get(c.at) == Some(&delimiter) {
            c.at += 1;
        } else {
            line_end(c, eof)?;
            return Ok(all);
        }
    }
}

fn value(c: &mut Cursor, column: &mut Column, s: &FormatSettings, eof: bool) -> Result<bool, Stop> {
    if let Data::Tuple { fields, .. } = &mut column.data
        && !whole_tuple(c, s.csv_delimiter)
    {
        for (i, part) in fields.iter_mut().enumerate() {
            if i > 0 {
                c.need(s.csv_delimiter)?;
            }
            value(c, part, s, eof)?;
        }
        column.end_items();
        return Ok(true);
    }
    let field = field(c, s.csv_delimiter, eof)?;
    if !field.quoted {
        if field.text.is_empty() {
            column.push_default();
            return Ok(false);
        }
        if field.text == b"\\N" {
            return Ok(column.push_null(s.null_as_default)?);
        }
        // Nulls of other tools; text that is not quoted keeps the word.
        if column.kind.nullable
            && !matches!(column.data, Data::String(_) | Data::Bytes(_))
            && (field.text == b"NULL" || field.text == b"null")
        {
            return Ok(column.push_null(s.null_as_default)?);
        }
    }
    let text = field.plain();
    match &mut column.data {
        Data::Array { .. } | Data::Map { .. } | Data::Tuple { .. } => whole_literal(&text, column, s)?,
        _ => column.push_text(&text, s.best_effort_times)?,
    }
    Ok(true)
}

/// Whether a tuple comes as one quoted literal.
fn whole_tuple(c: &mut Cursor, delimiter: u8) -> bool {
    blanks(c, delimiter);
    c.rest().starts_with(b"\"(")
}

/// How many fields a value of this kind takes.
fn width(kind: &Kind) -> usize {
    match &kind.shape {
        Shape::Tuple(t) => t.fields.iter().map(|(_, k)| width(k)).sum(),
        _ => 1,
    }
}

/// The header of a column: its name, or one for each part of a tuple.
fn names_of(name: &str, kind: &Kind, out: &mut Vec<(String, String)>, spelling: Spelling) {
    match &kind.shape {
        Shape::Tuple(t) => {
            for (part, k) in &t.fields {
                names_of(&format!("{name}.{part}"), k, out, spelling);
            }
        }
        _ => out.push((name.to_owned(), kind.ty.name(spelling))),
    }
}

/// Joins the names `t.a, t.b` that a tuple's parts have back into `t`.
fn join_tuples(given: Vec<String>, rows: &Rows) -> Vec<String> {
    let mut joined = Vec::with_capacity(given.len());
    let mut i = 0;
    'next: while i < given.len() {
        for (name, column) in rows.names.iter().zip(&rows.columns) {
            if width(&column.kind) > 1 || matches!(column.data, Data::Tuple { .. }) {
                let mut parts = Vec::new();
                names_of(name, &column.kind, &mut parts, Spelling::Lower);
                if given[i..].len() >= parts.len() && given[i..].iter().zip(&parts).all(|(g, (p, _))| g == p)
                {
                    joined.push(name.clone());
                    i += parts.len();
                    continue 'next;
                }
            }
        }
        joined.push(given[i].clone());
        i += 1;
    }
    joined
}

impl RowReader for CsvReader {
    fn header(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        // A read may end within the mark, or before it.
        if !eof && c.rest().len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(c.rest()) {
            return Err(Stop::More);
        }
        if c.rest().starts_with(BYTE_ORDER_MARK) {
            c.at += BYTE_ORDER_MARK.len();
        }
        if !self.names || (eof && c.rest().is_empty()) {
            return Ok(());
        }
        let delimiter = rows.settings.csv_delimiter;
        let names = line(c, delimiter, eof)?;
        if self.types {
            check_types(&line(c, delimiter, eof)?, names.len())?;
        }
        self.header = Header::of_names(&join_tuples(names, rows), rows)?;
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
        let delimiter = rows.settings.csv_delimiter;
        let count = self.header.targets.len();
        for (place, target) in self.header.targets.iter().enumerate() {
            match *target {
                Target::Skip => {
                    field(c, delimiter, eof)?;
                }
                Target::Column(i) => match value(c, &mut rows.columns[i], &rows.settings, eof) {
                    Ok(true) => {}
                    Ok(false) => rows.mark_absent(i),
                    Err(Stop::Bad(fault)) => return Err(fault.in_column(&rows.names[i]).into()),
                    Err(more) => return Err(more),
                },
            }
            if place + 1 < count {
                match c.input.get(c.at) {
                    Some(b) if *b == delimiter => c.at += 1,
                    None if !eof => return Err(Stop::More),
                    _ => {
                        let what = format!("the row has {} fields, not {count}", place + 1);
                        return Err(Stop::bad(what, c.rest()));
                    }
                }
            }
        }
        if c.input.get(c.at) == Some(&delimiter) {
            // One delimiter at the end of a line is forgiven.
            c.at += 1;
            blanks(c, delimiter);
            if !matches!(c.input.get(c.at), None | Some(b'\n' | b'\r')) {
                return Err(Stop::bad(format!("more than {count} fields"), c.rest()));
            }
        }
        line_end(c, eof)?;
        self.header.fill_missing(rows);
        Ok(())
    }
}

pub(crate) struct CsvEncoder {
    columns: Columns,
    writer: Writer,
    names: bool,
    types: bool,
    delimiter: u8,
    spelling: Spelling,
}

impl CsvEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings, names: bool, types: bool) -> CsvEncoder {
        CsvEncoder {
            columns: Columns::new(schema),
            writer: Writer::new(Style::Csv, s),
            names,
            types,
            delimiter: s.csv_delimiter,
            spelling: s.spelling,
        }
    }

    fn value(&self, view: &View, row: usize, out: &mut Vec<u8>) {
        if let Values::Tuple { fields, .. } = &view.data {
            for (i, part) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(self.delimiter);
                }
                self.value(part, row, out);
            }
        } else {
            self.writer.value(view, row, out);
        }
    }
}

impl Encoder for CsvEncoder {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let mut header = Vec::new();
        for (name, kind) in self.columns.names.iter().zip(&self.columns.kinds) {
            names_of(name, kind, &mut header, self.spelling);
        }
        let mut line = |pick: fn(&(String, String)) -> &str| {
            for (i, entry) in header.iter().enumerate() {
                if i > 0 {
                    out.push(self.delimiter);
                }
                self.writer.text(pick(entry).as_bytes(), out);
            }
            out.push(b'\n');
        };
        if self.names {
            line(|(name, _)| name);
        }
        if self.types {
            line(|(_, ty)| ty);
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            for (i, view) in views.iter().enumerate() {
                if i > 0 {
                    out.push(self.delimiter);
                }
                self.value(view, row, out);
            }
            out.push(b'\n');
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}
