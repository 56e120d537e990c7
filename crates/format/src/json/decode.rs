//! JSONEachRow (objects) and JSONCompactEachRow (arrays) to rows.

use super::scan;
use crate::fault::Stop;
use crate::rows::{Header, Next, RowReader, Rows, Target};
use crate::text::BYTE_ORDER_MARK;
use crate::text::quoted::Cursor;
use std::collections::HashMap;

/// Objects one after another, separated by blanks or commas, or in one array.
///
/// Fields of most rows come in the order of the row before: that order is tried first, by
/// comparing bytes, before a name is looked up.
pub(crate) struct EachRow {
    by_name: HashMap<Vec<u8>, usize>,
    /// Column that stood at each place of the row before.
    order: Vec<usize>,
    /// Row in which each column was last given.
    seen: Vec<u64>,
    stamp: u64,
    in_array: bool,
    array_ended: bool,
    started: bool,
}

impl EachRow {
    pub fn new(names: impl Iterator<Item = String>) -> EachRow {
        let by_name: HashMap<_, _> = names.enumerate().map(|(i, n)| (n.into_bytes(), i)).collect();
        EachRow {
            order: (0..by_name.len()).collect(),
            seen: vec![0; by_name.len()],
            by_name,
            stamp: 0,
            in_array: false,
            array_ended: false,
            started: false,
        }
    }

    /// Reads a key whose opening quote was read, and its closing quote.
    #[inline]
    fn key(&mut self, c: &mut Cursor, place: usize, rows: &Rows) -> Result<Option<usize>, Stop> {
        let rest = c.rest();
        if let Some(i) = self.order.get(place) {
            let name = rows.names[*i].as_bytes();
            if rest.len() > name.len() && rest[name.len()] == b'"' && &rest[..name.len()] == name {
                c.at += name.len() + 1;
                return Ok(Some(*i));
            }
        }
        let mut scratch = Vec::new();
        let mut inner = Cursor { input: c.input, at: c.at };
        let name = scan::string(&mut inner, &mut scratch)?;
        let found = self.by_name.get(name).copied();
        match found {
            Some(i) => {
                if let Some(o) = self.order.get_mut(place) {
                    *o = i;
                }
            }
            None if !rows.settings.skip_unknown_fields => {
                let text = String::from_utf8_lossy(name);
                let hint = weir_base::error::did_you_mean(&text, rows.names.iter().map(String::as_str));
                return Err(Stop::bad(format!("no column has this name{hint}"), name));
            }
            None => {}
        }
        c.at = inner.at;
        Ok(found)
    }
}

impl RowReader for EachRow {
    fn between(&mut self, c: &mut Cursor, eof: bool, _rows: &mut Rows) -> Result<Next, Stop> {
        loop {
            match c.input.get(c.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => c.at += 1,
                Some(b',') if self.started && !self.array_ended => c.at += 1,
                Some(b'[') if !self.started => {
                    self.started = true;
                    self.in_array = true;
                    c.at += 1;
                }
                Some(b']') if self.in_array && !self.array_ended => {
                    self.array_ended = true;
                    c.at += 1;
                }
                Some(0xEF) if !self.started && c.rest().starts_with(BYTE_ORDER_MARK) => {
                    c.at += BYTE_ORDER_MARK.len();
                }
                // A read may end within the mark.
                Some(0xEF) if !self.started && !eof && BYTE_ORDER_MARK.starts_with(c.rest()) => {
                    return Err(Stop::More);
                }
                Some(_) if self.array_ended => return Err(c.expected("nothing after the array of rows")),
                Some(_) => {
                    self.started = true;
                    return Ok(Next::Row);
                }
                None if eof => {
                    return if self.in_array && !self.array_ended { Err(Stop::More) } else { Ok(Next::End) };
                }
                None => return Err(Stop::More),
            }
        }
    }

    fn row(&mut self, c: &mut Cursor, _eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        if c.peek()? != b'{' {
            return Err(c.expected("'{' of a row"));
        }
        c.at += 1;
        self.stamp += 1;
        let mut given = 0;
        scan::space(c);
        if !c.eat(b'}')? {
            let mut place = 0;
            loop {
                c.need(b'"')?;
                let target = self.key(c, place, rows)?;
                if c.input.get(c.at) == Some(&b':') {
                    c.at += 1;
                    scan::space(c);
                } else {
                    scan::colon(c)?;
                }
                match target {
                    Some(i) => {
                        if std::mem::replace(&mut self.seen[i], self.stamp) == self.stamp {
                            return Err(Stop::bad("field appears twice", rows.names[i].as_bytes()));
                        }
                        given += 1;
                        match scan::value(c, &mut rows.columns[i], &rows.settings) {
                            Ok(true) => {}
                            Ok(false) => rows.mark_absent(i),
                            Err(Stop::Bad(fault)) => return Err(fault.in_column(&rows.names[i]).into()),
                            Err(more) => return Err(more),
                        }
                    }
                    None => scan::skip(c)?,
                }
                place += 1;
                scan::space(c);
                match c.peek()? {
                    b',' => {
                        c.at += 1;
                        scan::space(c);
                    }
                    b'}' => {
                        c.at += 1;
                        break;
                    }
                    _ => return Err(c.expected("',' or '}' after a value")),
                }
            }
        }
        if given < rows.columns.len() {
            for i in 0..rows.columns.len() {
                if self.seen[i] != self.stamp {
                    rows.push_absent(i);
                }
            }
        }
        Ok(())
    }
}

/// Arrays one after another, the names and types before them in arrays of their own.
pub(crate) struct CompactEachRow {
    names: bool,
    types: bool,
    header: Header,
}

impl CompactEachRow {
    pub fn new(columns: usize, names: bool, types: bool) -> CompactEachRow {
        CompactEachRow { names, types, header: Header::plain(columns) }
    }
}

impl RowReader for CompactEachRow {
    fn header(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        if !self.names {
            return Ok(());
        }
        scan::space(c);
        if eof && c.rest().is_empty() {
            return Ok(());
        }
        let names = scan::strings(c)?;
        if self.types {
            check_types(&scan::strings(c)?, names.len())?;
        }
        self.header = Header::of_names(&names, rows)?;
        Ok(())
    }

    fn between(&mut self, c: &mut Cursor, eof: bool, _rows: &mut Rows) -> Result<Next, Stop> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r' | b',') = c.input.get(c.at) {
            c.at += 1;
        }
        match c.input.get(c.at) {
            Some(_) => Ok(Next::Row),
            None if eof => Ok(Next::End),
            None => Err(Stop::More),
        }
    }

    fn row(&mut self, c: &mut Cursor, _eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        c.need(b'[')?;
        for (place, target) in self.header.targets.iter().enumerate() {
            scan::space(c);
            if place > 0 {
                if c.peek()? == b']' {
                    let want = self.header.targets.len();
                    return Err(Stop::bad(format!("the row has {place} values, not {want}"), b""));
                }
                c.need(b',')?;
                scan::space(c);
            }
            match target {
                Target::Skip => scan::skip(c)?,
                Target::Column(i) => match scan::value(c, &mut rows.columns[*i], &rows.settings) {
                    Ok(true) => {}
                    Ok(false) => rows.mark_absent(*i),
                    Err(Stop::Bad(fault)) => return Err(fault.in_column(&rows.names[*i]).into()),
                    Err(more) => return Err(more),
                },
            }
        }
        scan::space(c);
        c.need(b']')?;
        self.header.fill_missing(rows);
        Ok(())
    }
}

/// The types of a header must be types, one for each name. Values are read as the columns'
/// own types, so other types are no error here.
pub(crate) fn check_types(types: &[String], names: usize) -> Result<(), Stop> {
    if types.len() != names {
        return Err(Stop::bad(format!("the header has {names} names but {} types", types.len()), b""));
    }
    for t in types {
        crate::types::Type::parse(t).map_err(|e| Stop::bad(e.to_string(), t.as_bytes()))?;
    }
    Ok(())
}
