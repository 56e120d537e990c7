//! Rows that keep coming, as a table: widths from what was seen, the head again every so many
//! rows and whenever a column had to grow. Pure.
//!
//! Input is JSONCompactEachRowWithNamesAndTypes, a line at a time.

use serde_json::Value;
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// A cell is cut to this many terminal columns.
const CELL_WIDTH_MAX: usize = 64;
/// The head again after this many rows.
const HEAD_EVERY_ROWS: u64 = 50;

/// The server's format that tables are made of.
pub const FORMAT: &str = "JSONCompactEachRowWithNamesAndTypes";

#[derive(Default)]
pub struct Table {
    partial: Vec<u8>,
    names: Option<Vec<String>>,
    right: Option<Vec<bool>>,
    widths: Vec<usize>,
    pub rows: u64,
    rows_since_head: u64,
}

impl Table {
    /// Takes bytes of the result; the text to show for the lines complete in them.
    ///
    /// # Errors
    /// What line can not be read.
    pub fn push(&mut self, bytes: &[u8]) -> Result<String, String> {
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else { return Ok(String::new()) };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        let mut rows = Vec::new();
        for line in complete.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let unreadable =
                |_| format!("a line of the result is not readable: {}", String::from_utf8_lossy(line));
            let cells: Vec<Value> = serde_json::from_slice(line).map_err(unreadable)?;
            if self.names.is_none() {
                self.names = Some(cells.iter().map(shown).collect());
            } else if self.right.is_none() {
                self.right = Some(cells.iter().map(|t| is_number(t.as_str().unwrap_or(""))).collect());
            } else {
                rows.push(cells.iter().map(shown).collect::<Vec<String>>());
            }
        }
        Ok(self.show(&rows))
    }

    fn show(&mut self, rows: &[Vec<String>]) -> String {
        let mut out = String::new();
        let (Some(names), Some(right)) = (&self.names, &self.right) else { return out };
        if rows.is_empty() {
            return out;
        }
        let mut grown = self.widths.is_empty();
        if grown {
            self.widths = names.iter().map(|n| n.width()).collect();
        }
        for row in rows {
            for (cell, width) in row.iter().zip(&mut self.widths) {
                if cell.width() > *width {
                    *width = cell.width();
                    grown = true;
                }
            }
        }
        let mut head_due = grown;
        for row in rows {
            if head_due || self.rows_since_head >= HEAD_EVERY_ROWS {
                head(&mut out, names, &self.widths, right, self.rows > 0);
                (head_due, self.rows_since_head) = (false, 0);
            }
            line(&mut out, row, &self.widths, right);
            self.rows += 1;
            self.rows_since_head += 1;
        }
        out
    }

    /// At the end: an empty result shows its head.
    pub fn finish(&self) -> String {
        let mut out = String::new();
        if let (Some(names), Some(right), 0) = (&self.names, &self.right, self.rows) {
            let widths: Vec<usize> = names.iter().map(|n| n.width()).collect();
            head(&mut out, names, &widths, right, false);
        }
        out
    }
}

fn head(out: &mut String, names: &[String], widths: &[usize], right: &[bool], again: bool) {
    if again {
        out.push('\n');
    }
    line(out, names, widths, right);
    let rules: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
    line(out, &rules, widths, right);
}

fn line(out: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    let start = out.len();
    for ((cell, width), right) in cells.iter().zip(widths).zip(right) {
        let pad = width.saturating_sub(cell.width());
        let (before, after) = if *right { (pad, 0) } else { (0, pad) };
        write!(out, " {:before$}{cell}{:after$} ", "", "").expect("a String takes everything");
    }
    out.truncate(start + out[start..].trim_end().len());
    out.push('\n');
}

fn is_number(type_name: &str) -> bool {
    let low = type_name.to_ascii_lowercase();
    let inner = low.strip_prefix("nullable(").unwrap_or(&low);
    ["int", "uint", "float", "decimal"].iter().any(|p| inner.starts_with(p))
}

/// A value on one line, cut to the widest a cell may be.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "NULL".to_owned(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => write!(out, "\\x{:02x}", c as u32).expect("a String takes everything"),
            c => out.push(c),
        }
        if out.width() > CELL_WIDTH_MAX {
            while out.width() >= CELL_WIDTH_MAX {
                out.pop();
            }
            out.push('…');
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[\"sym\",\"price\"]\n[\"string\",\"float64\"]\n";

    #[test]
    fn widths_grow_and_the_head_comes_again() {
        let mut table = Table::default();
        assert_eq!(table.push(HEAD.as_bytes()).unwrap(), "");
        assert_eq!(table.finish(), " sym  price\n ───  ─────\n");
        let first = table.push(b"[\"A\",1.5]\n[\"B\",").unwrap();
        assert_eq!(first, " sym  price\n ───  ─────\n A      1.5\n");
        assert_eq!(table.push(b"2]\n").unwrap(), " B        2\n");
        assert_eq!(
            table.push(b"[\"LONGER\",null]\n").unwrap(),
            "\n sym     price\n ──────  ─────\n LONGER   NULL\n"
        );
        assert_eq!(table.rows, 3);
    }

    #[test]
    fn the_head_comes_again_after_many_rows() {
        let mut table = Table::default();
        table.push(HEAD.as_bytes()).unwrap();
        let text = table.push("[\"A\",1]\n".repeat(120).as_bytes()).unwrap();
        assert_eq!(text.matches("sym").count(), 3);
    }

    #[test]
    fn cells_stay_on_their_line() {
        assert_eq!(shown(&Value::from("a\nb\u{7}")), "a\\nb\\x07");
        let cut = shown(&Value::from("x".repeat(500)));
        assert!(cut.width() <= CELL_WIDTH_MAX && cut.ends_with('…'));
        assert_eq!(shown(&serde_json::json!([1, "a"])), "[1,\"a\"]");
    }
}
