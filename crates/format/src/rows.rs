//! The frame around every row format: input in any split, batches out, errors with row numbers.
//!
//! A format implements [`RowReader`]; [`RowDecoder`] keeps unread bytes, retries a row that was
//! cut by the end of the input, and undoes what its first attempt left in the columns.
//!
//! Rows are held back until a batch is full or the input ends, so batches do not depend on how
//! the input was split.
//!
//! Invariants
//! - A batch never holds a row that did not parse; after an error nothing more is handed out.
//! - Work on a row that is cut again and again is bounded: the next attempt waits for an eighth
//!   more bytes.

use crate::column::Column;
use crate::conform;
use crate::fault::Stop;
use crate::kind::Kind;
use crate::text::quoted::Cursor;
use crate::{DecodedBatch, Decoder, FormatError, FormatSettings};
use arrow_array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::BooleanBufferBuilder;
use arrow_schema::SchemaRef;
use bytes::Bytes;

/// A batch is handed out early when this much input went into it; also keeps the 32-bit offsets
/// of string columns in range.
pub(crate) const BATCH_BYTES_MAX: usize = 64 << 20;

/// Rows larger than this are refused whatever the settings say, for the same reason.
const ROW_BYTES_MAX: usize = 1 << 30;

/// Columns under construction.
pub(crate) struct Rows {
    pub names: Vec<String>,
    pub columns: Vec<Column>,
    pub settings: FormatSettings,
    schema: SchemaRef,
    /// For each column the rows of this batch that left it out, ascending.
    absent: Vec<Vec<u32>>,
    /// Whole rows in this batch.
    batch_rows: usize,
    /// Rows handed out before this batch.
    rows_before: u64,
}

impl Rows {
    pub fn new(schema: SchemaRef, settings: &FormatSettings) -> Rows {
        Rows {
            names: schema.fields().iter().map(|f| f.name().clone()).collect(),
            columns: schema.fields().iter().map(|f| Column::new(&Kind::of_field(f))).collect(),
            absent: vec![Vec::new(); schema.fields().len()],
            settings: settings.clone(),
            schema,
            batch_rows: 0,
            rows_before: 0,
        }
    }

    /// The row being read did not give column `i`; the caller pushed its default.
    pub fn mark_absent(&mut self, i: usize) {
        self.absent[i].push(self.batch_rows as u32);
    }

    /// As [`Rows::mark_absent`], for row `row` of a batch that is read column by column.
    pub fn mark_absent_at(&mut self, i: usize, row: usize) {
        self.absent[i].push(row as u32);
    }

    /// `rows` rows did not give column `i`.
    pub fn fill_absent(&mut self, i: usize, rows: usize) {
        for row in 0..rows {
            self.columns[i].push_default();
            self.mark_absent_at(i, row);
        }
    }

    /// A batch of `rows` rows that were read column by column.
    pub fn flush_rows(&mut self, rows: usize) -> Result<DecodedBatch, FormatError> {
        self.batch_rows = rows;
        self.flush()
    }

    pub fn push_absent(&mut self, i: usize) {
        self.columns[i].push_default();
        self.mark_absent(i);
    }

    /// The number, from 1 over the whole input, of the row being read.
    pub fn row_number(&self) -> u64 {
        self.rows_before + self.batch_rows as u64 + 1
    }

    pub fn batch_rows(&self) -> usize {
        self.batch_rows
    }

    /// Columns that the row being read has not given are absent in it.
    pub fn fill_row(&mut self) {
        for i in 0..self.columns.len() {
            if self.columns[i].len() == self.batch_rows {
                self.push_absent(i);
            }
        }
    }

    /// Every column has the value of the row being read.
    pub fn end_row(&mut self) {
        self.batch_rows += 1;
    }

    /// Drops the row that was read last.
    pub fn unpush_row(&mut self) {
        self.batch_rows -= 1;
        self.undo_row();
    }

    /// Drops what a half-read row left.
    pub fn undo_row(&mut self) {
        for (column, absent) in self.columns.iter_mut().zip(&mut self.absent) {
            column.truncate(self.batch_rows);
            while absent.last().is_some_and(|r| *r as usize >= self.batch_rows) {
                absent.pop();
            }
        }
    }

    pub fn flush(&mut self) -> Result<DecodedBatch, FormatError> {
        let rows = std::mem::take(&mut self.batch_rows);
        let mut arrays = Vec::with_capacity(self.columns.len());
        for ((column, name), field) in self.columns.iter_mut().zip(&self.names).zip(self.schema.fields()) {
            let array = column.finish(self.settings.utf8_replace).map_err(|e| FormatError::Parse {
                row: self.rows_before + e.row as u64 + 1,
                column: Some(name.clone()),
                what: "not UTF-8; set input_utf8='replace' to take it anyway".to_owned(),
                text: String::from_utf8_lossy(&e.bytes).chars().take(100).collect(),
            })?;
            arrays.push(
                conform::to_storage(array, field.data_type())
                    .map_err(|what| FormatError::Encode { column: name.clone(), what })?,
            );
        }
        let absent = self.absent.iter_mut().map(|a| absent_mask(std::mem::take(a), rows)).collect();
        self.rows_before += rows as u64;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|e| {
                FormatError::Encode {
                    column: String::new(),
                    what: format!("columns do not make a batch: {e}"),
                }
            })?;
        Ok(DecodedBatch { batch, absent })
    }
}

fn absent_mask(rows_absent: Vec<u32>, rows: usize) -> Option<BooleanArray> {
    if rows_absent.is_empty() {
        return None;
    }
    let mut mask = BooleanBufferBuilder::new(rows);
    mask.append_n(rows, false);
    for row in rows_absent {
        mask.set_bit(row as usize, true);
    }
    Some(BooleanArray::new(mask.finish(), None))
}

/// The next rows of a batch handed out piece by piece; `ready` is empty after the last.
pub(crate) fn slice_ready(
    ready: &mut Option<(DecodedBatch, usize)>,
    rows_max: usize,
) -> Option<DecodedBatch> {
    let (whole, from) = ready.as_mut()?;
    let left = whole.batch.num_rows() - *from;
    if *from == 0 && left <= rows_max {
        return ready.take().map(|(whole, _)| whole);
    }
    let rows = left.min(rows_max.max(1));
    let part = DecodedBatch {
        batch: whole.batch.slice(*from, rows),
        absent: whole
            .absent
            .iter()
            .map(|mask| mask.as_ref().map(|m| m.slice(*from, rows)).filter(|m| m.true_count() > 0))
            .collect(),
    };
    *from += rows;
    if rows == left {
        *ready = None;
    }
    Some(part)
}

/// What comes after the separators between rows.
pub(crate) enum Next {
    Row,
    /// The input is over; only blanks are left.
    End,
}

/// A format whose input is rows one after another.
pub(crate) trait RowReader: Send {
    /// Reads what stands before the first row. Called again from the start after
    /// [`Stop::More`]; with `eof` an input that ends inside it is an error.
    fn header(&mut self, _c: &mut Cursor, _eof: bool, _rows: &mut Rows) -> Result<(), Stop> {
        Ok(())
    }
    /// Skips separators before a row. What it skipped stays skipped, also on [`Stop::More`].
    fn between(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<Next, Stop>;
    /// Reads one row: one value into each column.
    fn row(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<(), Stop>;
}

pub(crate) struct RowDecoder<R> {
    reader: R,
    rows: Rows,
    input: Vec<u8>,
    /// Bytes of `input` already read.
    at: usize,
    /// Unread bytes needed for the next attempt.
    retry_at: usize,
    finished: bool,
    header_done: bool,
    ended: bool,
    batch_bytes: usize,
    failed: Option<FormatError>,
}

impl<R: RowReader> RowDecoder<R> {
    pub fn new(reader: R, schema: SchemaRef, settings: &FormatSettings) -> Self {
        RowDecoder {
            reader,
            rows: Rows::new(schema, settings),
            input: Vec::new(),
            at: 0,
            retry_at: 0,
            finished: false,
            header_done: false,
            ended: false,
            batch_bytes: 0,
            failed: None,
        }
    }

    fn wait_or_fail(&mut self) -> Result<(), FormatError> {
        self.rows.undo_row();
        let row = self.rows.row_number();
        if self.finished {
            return Err(FormatError::Truncated { row });
        }
        let unread = self.input.len() - self.at;
        let limit = self.rows.settings.row_bytes_max.min(ROW_BYTES_MAX);
        if unread > limit {
            return Err(too_large(row, limit));
        }
        self.retry_at = unread + unread / 8 + 1;
        Ok(())
    }

    fn stopped(&mut self, stop: Stop) -> Result<(), FormatError> {
        match stop {
            Stop::More => self.wait_or_fail(),
            Stop::Bad(fault) => Err(fault.at_row(self.rows.row_number())),
        }
    }

    pub fn flush(&mut self) -> Result<Option<DecodedBatch>, FormatError> {
        self.batch_bytes = 0;
        self.rows.flush().map(Some)
    }

    fn advance(&mut self, rows_max: usize) -> Result<Option<DecodedBatch>, FormatError> {
        loop {
            if self.rows.batch_rows >= rows_max || self.batch_bytes >= BATCH_BYTES_MAX {
                return self.flush();
            }
            if self.ended {
                return if self.rows.batch_rows > 0 { self.flush() } else { Ok(None) };
            }
            if !self.finished && self.input.len() - self.at < self.retry_at {
                return Ok(None);
            }
            let mut c = Cursor::new(&self.input[self.at..]);
            if !self.header_done {
                match self.reader.header(&mut c, self.finished, &mut self.rows) {
                    Ok(()) => {
                        self.at += c.at;
                        self.header_done = true;
                        continue;
                    }
                    Err(stop) => {
                        self.stopped(stop)?;
                        return Ok(None);
                    }
                }
            }
            let next = self.reader.between(&mut c, self.finished, &mut self.rows);
            let start = c.at;
            match next {
                Ok(Next::End) => {
                    self.at = self.input.len();
                    self.ended = true;
                    continue;
                }
                Ok(Next::Row) => {}
                Err(stop) => {
                    self.at += start;
                    self.stopped(stop)?;
                    return Ok(None);
                }
            }
            match self.reader.row(&mut c, self.finished, &mut self.rows) {
                Ok(()) => {
                    let used = c.at - start;
                    let limit = self.rows.settings.row_bytes_max.min(ROW_BYTES_MAX);
                    if used > limit {
                        return Err(too_large(self.rows.row_number(), limit));
                    }
                    self.at += c.at;
                    self.batch_bytes += used;
                    self.rows.batch_rows += 1;
                    self.retry_at = 0;
                }
                Err(stop) => {
                    self.at += start;
                    self.stopped(stop)?;
                    return Ok(None);
                }
            }
        }
    }
}

#[cold]
fn too_large(row: u64, limit: usize) -> FormatError {
    FormatError::Parse {
        row,
        column: None,
        what: format!("the row is larger than {limit} bytes (row_bytes_max)"),
        text: String::new(),
    }
}

impl<R: RowReader> Decoder for RowDecoder<R> {
    fn push(&mut self, bytes: Bytes) -> Result<(), FormatError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if self.at > 0 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        self.input.extend_from_slice(&bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), FormatError> {
        self.finished = true;
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn next_batch(&mut self, rows_max: usize) -> Result<Option<DecodedBatch>, FormatError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let batch = self.advance(rows_max.max(1));
        if let Err(e) = &batch {
            self.failed = Some(e.clone());
            self.input = Vec::new();
            self.at = 0;
        }
        batch
    }
}

/// Where the values of a named header go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Column(usize),
    Skip,
}

/// Which column each name of a header means, and the columns it does not name.
#[derive(Default)]
pub(crate) struct Header {
    pub targets: Vec<Target>,
    pub missing: Vec<usize>,
}

impl Header {
    /// The columns as they stand in the schema.
    pub fn plain(columns: usize) -> Header {
        Header { targets: (0..columns).map(Target::Column).collect(), missing: Vec::new() }
    }

    pub fn of_names(given: &[String], rows: &Rows) -> Result<Header, Stop> {
        Header::match_names(given, &rows.names, rows.settings.skip_unknown_fields)
    }

    pub fn match_names(given: &[String], names: &[String], skip_unknown: bool) -> Result<Header, Stop> {
        let mut targets = Vec::with_capacity(given.len());
        for name in given {
            let target = match names.iter().position(|n| n == name) {
                Some(i) if targets.contains(&Target::Column(i)) => {
                    return Err(Stop::bad(format!("the header names column {name} twice"), b""));
                }
                Some(i) => Target::Column(i),
                None if skip_unknown => Target::Skip,
                None => {
                    let hint = weir_base::error::did_you_mean(name, names.iter().map(String::as_str));
                    return Err(Stop::bad(format!("the header names {name}, which is no column{hint}"), b""));
                }
            };
            targets.push(target);
        }
        let missing = (0..names.len()).filter(|i| !targets.contains(&Target::Column(*i))).collect();
        Ok(Header { targets, missing })
    }

    /// Gives the columns that the header does not name their defaults.
    pub fn fill_missing(&self, rows: &mut Rows) {
        for i in &self.missing {
            rows.push_absent(*i);
        }
    }
}
