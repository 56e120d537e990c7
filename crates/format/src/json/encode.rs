//! Rows to the JSON formats.

use crate::text::number::write_int;
use crate::text::write::{Style, Writer, json_text};
use crate::view::Columns;
use crate::{Encoder, FormatError, FormatSettings, ResultStats, Spelling};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    json_text(text.as_bytes(), &mut out);
    out
}

/// One object a line.
pub(crate) struct EachRowEncoder {
    columns: Columns,
    writer: Writer,
    /// `{"a":`, `,"b":` …: what stands before each value.
    lead: Vec<Vec<u8>>,
}

impl EachRowEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings) -> EachRowEncoder {
        let columns = Columns::new(schema);
        let lead = columns.names.iter().enumerate().map(|(i, name)| {
            let mut lead = vec![if i == 0 { b'{' } else { b',' }];
            lead.extend_from_slice(&quoted(name));
            lead.push(b':');
            lead
        });
        EachRowEncoder { lead: lead.collect(), writer: Writer::new(Style::Json, s), columns }
    }
}

impl Encoder for EachRowEncoder {
    fn begin(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            if views.is_empty() {
                out.push(b'{');
            }
            for (lead, view) in self.lead.iter().zip(&views) {
                out.extend_from_slice(lead);
                self.writer.value(view, row, out);
            }
            out.extend_from_slice(b"}\n");
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}

/// One array a line, after names and types if asked for.
pub(crate) struct CompactEachRowEncoder {
    columns: Columns,
    writer: Writer,
    names: bool,
    types: bool,
    spelling: Spelling,
}

impl CompactEachRowEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings, names: bool, types: bool) -> CompactEachRowEncoder {
        CompactEachRowEncoder {
            columns: Columns::new(schema),
            writer: Writer::new(Style::Json, s),
            names,
            types,
            spelling: s.spelling,
        }
    }
}

fn array_line(texts: impl Iterator<Item = String>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, text) in texts.enumerate() {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        json_text(text.as_bytes(), out);
    }
    out.extend_from_slice(b"]\n");
}

impl Encoder for CompactEachRowEncoder {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.names {
            array_line(self.columns.names.iter().cloned(), out);
        }
        if self.types {
            array_line(self.columns.kinds.iter().map(|k| k.ty.name(self.spelling)), out);
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            out.push(b'[');
            for (i, view) in views.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                self.writer.value(view, row, out);
            }
            out.extend_from_slice(b"]\n");
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}

/// One document: `meta`, `data`, `rows`, `statistics`; rows as objects, or compact as arrays.
pub(crate) struct DocumentEncoder {
    columns: Columns,
    writer: Writer,
    compact: bool,
    spelling: Spelling,
    lead: Vec<Vec<u8>>,
    rows: u64,
}

impl DocumentEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings, compact: bool) -> DocumentEncoder {
        let columns = Columns::new(schema);
        let lead = columns.names.iter().enumerate().map(|(i, name)| {
            let mut lead = Vec::new();
            if !compact {
                lead.extend_from_slice(if i == 0 { b"\n\t\t\t" } else { b",\n\t\t\t" });
                lead.extend_from_slice(&quoted(name));
                lead.extend_from_slice(b": ");
            } else if i > 0 {
                lead.extend_from_slice(b", ");
            }
            lead
        });
        DocumentEncoder {
            lead: lead.collect(),
            writer: Writer::new(Style::Json, s),
            compact,
            spelling: s.spelling,
            rows: 0,
            columns,
        }
    }
}

impl Encoder for DocumentEncoder {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        out.extend_from_slice(b"{\n\t\"meta\":\n\t[");
        for (i, (name, kind)) in self.columns.names.iter().zip(&self.columns.kinds).enumerate() {
            out.extend_from_slice(if i == 0 {
                b"\n\t\t{\n\t\t\t\"name\": "
            } else {
                b",\n\t\t{\n\t\t\t\"name\": "
            });
            json_text(name.as_bytes(), out);
            out.extend_from_slice(b",\n\t\t\t\"type\": ");
            json_text(kind.ty.name(self.spelling).as_bytes(), out);
            out.extend_from_slice(b"\n\t\t}");
        }
        out.extend_from_slice(b"\n\t],\n\n\t\"data\":\n\t[");
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            out.extend_from_slice(if self.rows == 0 { b"\n\t\t" } else { b",\n\t\t" });
            self.rows += 1;
            out.push(if self.compact { b'[' } else { b'{' });
            for (lead, view) in self.lead.iter().zip(&views) {
                out.extend_from_slice(lead);
                self.writer.value(view, row, out);
            }
            out.extend_from_slice(if self.compact { b"]" } else { b"\n\t\t}" });
        }
        Ok(())
    }

    fn end(&mut self, stats: &ResultStats, out: &mut Vec<u8>) -> Result<(), FormatError> {
        use std::io::Write;
        out.extend_from_slice(b"\n\t],\n\n\t\"rows\": ");
        write_int(self.rows, out);
        if let Some(rows) = stats.rows_before_limit {
            out.extend_from_slice(b",\n\n\t\"rows_before_limit_at_least\": ");
            write_int(rows, out);
        }
        out.extend_from_slice(b",\n\n\t\"statistics\":\n\t{\n\t\t\"elapsed\": ");
        let elapsed_s = stats.elapsed_ns as f64 / 1e9;
        write!(out, "{elapsed_s:.9}").expect("writing to a Vec cannot fail");
        out.extend_from_slice(b",\n\t\t\"rows_read\": ");
        write_int(stats.rows_read, out);
        out.extend_from_slice(b",\n\t\t\"bytes_read\": ");
        write_int(stats.bytes_read, out);
        out.extend_from_slice(b"\n\t}\n}\n");
        Ok(())
    }
}
