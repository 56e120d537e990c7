//! Results for people: Pretty, PrettyCompact, Vertical.
//!
//! Widths need whole blocks, so each batch is a table of its own; a streaming result scrolls as
//! one table after another, with the header repeated.

use crate::text::write::{Style, Writer};
use crate::view::{Columns, Values, View};
use crate::{Encoder, FormatError, FormatSettings, ResultStats};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use unicode_width::UnicodeWidthStr;

/// Longer values are cut in tables, so that one of them does not push the rest off the screen.
const CELL_WIDTH_MAX: usize = 10_000;

fn width(text: &[u8]) -> usize {
    String::from_utf8_lossy(text).width()
}

fn repeat(text: &str, times: usize, out: &mut Vec<u8>) {
    for _ in 0..times {
        out.extend_from_slice(text.as_bytes());
    }
}

fn is_number(view: &View) -> bool {
    matches!(
        view.data,
        Values::Int8(_)
            | Values::Int16(_)
            | Values::Int32(_)
            | Values::Int64(_)
            | Values::UInt8(_)
            | Values::UInt16(_)
            | Values::UInt32(_)
            | Values::UInt64(_)
            | Values::Float32(_)
            | Values::Float64(_)
            | Values::Decimal { .. }
    )
}

pub(crate) struct PrettyEncoder {
    columns: Columns,
    writer: Writer,
    /// Lines between rows, and the header in a box of its own.
    grid: bool,
    rows_max: usize,
    rows: usize,
    rows_cut: u64,
}

impl PrettyEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings, grid: bool) -> PrettyEncoder {
        PrettyEncoder {
            columns: Columns::new(schema),
            writer: Writer::new(Style::Plain, s),
            grid,
            rows_max: s.pretty_rows_max,
            rows: 0,
            rows_cut: 0,
        }
    }

    /// `cells[column][row]`.
    fn table(&self, cells: &[Vec<Vec<u8>>], right: &[bool], rows: usize, out: &mut Vec<u8>) {
        let line = |r: usize| move |i: usize| cells[i][r].clone();
        let names = &self.columns.names;
        let widths: Vec<usize> = names
            .iter()
            .zip(cells)
            .map(|(name, cells)| cells.iter().map(|c| width(c)).max().unwrap_or(0).max(name.width()))
            .collect();
        let rule = |left: &str, line: &str, cross: &str, right_end: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(left.as_bytes());
            for (i, w) in widths.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(cross.as_bytes());
                }
                repeat(line, w + 2, out);
            }
            out.extend_from_slice(right_end.as_bytes());
            out.push(b'\n');
        };
        let row = |wall: &str, cell: &dyn Fn(usize) -> Vec<u8>, out: &mut Vec<u8>| {
            for i in 0..widths.len() {
                out.extend_from_slice(wall.as_bytes());
                out.push(b' ');
                let text = cell(i);
                let pad = widths[i].saturating_sub(width(&text));
                if right[i] {
                    repeat(" ", pad, out);
                }
                out.extend_from_slice(&text);
                if !right[i] {
                    repeat(" ", pad, out);
                }
                out.push(b' ');
            }
            out.extend_from_slice(wall.as_bytes());
            out.push(b'\n');
        };
        if self.grid {
            rule("┏", "━", "┳", "┓", out);
            row("┃", &|i| names[i].clone().into_bytes(), out);
            rule("┡", "━", "╇", "┩", out);
            for r in 0..rows {
                if r > 0 {
                    rule("├", "─", "┼", "┤", out);
                }
                row("│", &line(r), out);
            }
        } else {
            // The names stand in the upper border.
            for (i, (name, w)) in names.iter().zip(&widths).enumerate() {
                out.extend_from_slice(if i == 0 { "┌─" } else { "┬─" }.as_bytes());
                let pad = w - name.width();
                if right[i] {
                    repeat("─", pad, out);
                }
                out.extend_from_slice(name.as_bytes());
                if !right[i] {
                    repeat("─", pad, out);
                }
                out.extend_from_slice("─".as_bytes());
            }
            out.extend_from_slice("┐\n".as_bytes());
            for r in 0..rows {
                row("│", &line(r), out);
            }
        }
        rule("└", "─", "┴", "┘", out);
    }
}

impl Encoder for PrettyEncoder {
    fn begin(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let rows = batch.num_rows().min(self.rows_max.saturating_sub(self.rows));
        self.rows_cut += (batch.num_rows() - rows) as u64;
        if rows == 0 {
            return Ok(());
        }
        self.rows += rows;
        let arrays = self.columns.arrays(&batch.slice(0, rows))?;
        let views = self.columns.views(&arrays);
        let cells: Vec<Vec<Vec<u8>>> = views
            .iter()
            .map(|view| {
                (0..rows)
                    .map(|r| {
                        let mut text = Vec::new();
                        self.writer.value(view, r, &mut text);
                        one_line(text)
                    })
                    .collect()
            })
            .collect();
        let right: Vec<bool> = views.iter().map(is_number).collect();
        self.table(&cells, &right, rows, out);
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.rows_cut > 0 {
            let line = format!(
                "  {} more rows are not shown (output_format_pretty_max_rows = {})\n",
                self.rows_cut, self.rows_max
            );
            out.extend_from_slice(line.as_bytes());
        }
        Ok(())
    }
}

/// A cell must not break the table: control characters are shown as symbols, long text is cut.
fn one_line(text: Vec<u8>) -> Vec<u8> {
    if text.len() <= CELL_WIDTH_MAX && !text.iter().any(|b| *b < b' ' || *b == 0x7f) {
        return text;
    }
    let mut out = String::new();
    for (n, c) in String::from_utf8_lossy(&text).chars().enumerate() {
        if n == CELL_WIDTH_MAX {
            out.push('…');
            break;
        }
        match c {
            '\0'..='\x1f' => out.push(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}')),
            '\x7f' => out.push('\u{2421}'),
            c => out.push(c),
        }
    }
    out.into_bytes()
}

/// `Row 1:`, then one line a column.
pub(crate) struct VerticalEncoder {
    columns: Columns,
    writer: Writer,
    rows_max: usize,
    rows: usize,
    rows_cut: u64,
}

impl VerticalEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings) -> VerticalEncoder {
        VerticalEncoder {
            columns: Columns::new(schema),
            writer: Writer::new(Style::Plain, s),
            rows_max: s.pretty_rows_max,
            rows: 0,
            rows_cut: 0,
        }
    }
}

impl Encoder for VerticalEncoder {
    fn begin(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        let name_width = self.columns.names.iter().map(|n| n.width()).max().unwrap_or(0);
        for row in 0..batch.num_rows() {
            if self.rows == self.rows_max {
                self.rows_cut += (batch.num_rows() - row) as u64;
                break;
            }
            self.rows += 1;
            if self.rows > 1 {
                out.push(b'\n');
            }
            let header = format!("Row {}:", self.rows);
            out.extend_from_slice(header.as_bytes());
            out.push(b'\n');
            repeat("─", header.len(), out);
            out.push(b'\n');
            for (name, view) in self.columns.names.iter().zip(&views) {
                out.extend_from_slice(name.as_bytes());
                out.push(b':');
                repeat(" ", name_width - name.width() + 1, out);
                self.writer.value(view, row, out);
                out.push(b'\n');
            }
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.rows_cut > 0 {
            let line = format!(
                "\n{} more rows are not shown (output_format_pretty_max_rows = {})\n",
                self.rows_cut, self.rows_max
            );
            out.extend_from_slice(line.as_bytes());
        }
        Ok(())
    }
}
