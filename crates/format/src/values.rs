//! Values: `(1,'a',NULL),(2,'b',[1,2])`. Only literals; expressions are the SQL side's.

use crate::fault::Stop;
use crate::rows::{Next, RowReader, Rows};
use crate::text::quoted::{self, Cursor};
use crate::text::write::{Style, Writer};
use crate::view::Columns;
use crate::{Encoder, FormatError, FormatSettings, ResultStats};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

#[derive(Default)]
pub(crate) struct ValuesReader {
    ended: bool,
}

impl RowReader for ValuesReader {
    fn between(&mut self, c: &mut Cursor, eof: bool, _rows: &mut Rows) -> Result<Next, Stop> {
        loop {
            match c.input.get(c.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => c.at += 1,
                Some(b',') if !self.ended => c.at += 1,
                Some(b';') => {
                    self.ended = true;
                    c.at += 1;
                }
                Some(_) if self.ended => return Err(c.expected("nothing after ';'")),
                Some(_) => return Ok(Next::Row),
                None if eof => return Ok(Next::End),
                None => return Err(Stop::More),
            }
        }
    }

    fn row(&mut self, c: &mut Cursor, _eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        c.need(b'(')?;
        for i in 0..rows.columns.len() {
            c.space();
            if i > 0 {
                if c.peek()? == b')' {
                    let want = rows.columns.len();
                    return Err(Stop::bad(format!("the row has {i} values, not {want}"), b""));
                }
                c.need(b',')?;
                c.space();
            }
            if matches!(c.peek()?, b'd' | b'D') && quoted::is_word(c, b"default")? {
                c.at += "default".len();
                rows.push_absent(i);
                continue;
            }
            match quoted::value(c, &mut rows.columns[i], &rows.settings) {
                Ok(true) => {}
                Ok(false) => rows.mark_absent(i),
                Err(Stop::Bad(fault)) => return Err(fault.in_column(&rows.names[i]).into()),
                Err(more) => return Err(more),
            }
        }
        c.space();
        c.need(b')')
    }
}

pub(crate) struct ValuesEncoder {
    columns: Columns,
    writer: Writer,
    rows: u64,
}

impl ValuesEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings) -> ValuesEncoder {
        ValuesEncoder { columns: Columns::new(schema), writer: Writer::new(Style::Quoted, s), rows: 0 }
    }
}

impl Encoder for ValuesEncoder {
    fn begin(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            if self.rows > 0 {
                out.push(b',');
            }
            self.rows += 1;
            out.push(b'(');
            for (i, view) in views.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                self.writer.value(view, row, out);
            }
            out.push(b')');
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}
