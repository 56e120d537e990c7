//! Native blocks to batches, one block a batch.
//!
//! Columns are matched by name. A column is read when it is whole in memory; what was read of a
//! block is kept while the rest comes.
//!
//! Invariant: no allocation follows a declared length before that many bytes are there, and a
//! dictionary never expands beyond `body_bytes_max`.

use super::*;
use crate::column::{Column, Data};
use crate::conform;
use crate::fault::{Fault, Stop};
use crate::kind::Kind;
use crate::rowbinary::{check_decimal, decimal_bytes, name, same_wire, string, swap_halves, ticks, varint};
use crate::rows::{Header, Rows, Target};
use crate::text::quoted::Cursor;
use crate::types::{EnumWidth, Type};
use crate::view::View;
use crate::{DecodedBatch, Decoder, FormatError, FormatSettings};
use arrow_schema::SchemaRef;
use bytes::Bytes;

/// A block naming more columns than this is refused.
const COLUMNS_MAX: u64 = 10_000;

pub(crate) struct NativeDecoder {
    rows: Rows,
    revision: u64,
    input: Vec<u8>,
    at: usize,
    /// Unread bytes needed for the next attempt.
    retry_at: usize,
    finished: bool,
    block: Option<Block>,
    /// A block not handed out in full, and how many of its rows were.
    ready: Option<(DecodedBatch, usize)>,
    failed: Option<FormatError>,
}

struct Block {
    columns: u64,
    rows: usize,
    /// Names read so far.
    names: Vec<String>,
}

/// One step over the input.
enum Step {
    Began(Block),
    Column(String),
    Ended,
}

impl NativeDecoder {
    /// `revision` of the sender; HTTP bodies are always written at 0.
    pub fn new(schema: SchemaRef, settings: &FormatSettings, revision: u64) -> NativeDecoder {
        NativeDecoder {
            rows: Rows::new(schema, settings),
            revision,
            input: Vec::new(),
            at: 0,
            retry_at: 0,
            finished: false,
            block: None,
            ready: None,
            failed: None,
        }
    }

    fn limit(&self) -> usize {
        self.rows.settings.body_bytes_max.min(i32::MAX as usize)
    }

    fn step(&mut self, c: &mut Cursor) -> Result<Step, Stop> {
        let limit = self.limit();
        let Some(block) = &self.block else {
            return begin(c, self.revision, limit).map(Step::Began);
        };
        if block.names.len() as u64 == block.columns {
            return Ok(Step::Ended);
        }
        let column_name = name(c)?;
        let type_name = name(c)?;
        if self.revision >= REVISION_CUSTOM_SERIALIZATION {
            let custom = c.peek()?;
            c.at += 1;
            if custom != 0 {
                let fault = Fault::new("custom serialization is not supported", type_name.as_bytes());
                return Err(fault.in_column(&column_name).into());
            }
        }
        let in_column = |stop: Stop| match stop {
            Stop::Bad(fault) => Stop::Bad(fault.in_column(&column_name)),
            more => more,
        };
        let ty =
            Type::parse(&type_name).map_err(|e| in_column(Stop::bad(e.to_string(), type_name.as_bytes())))?;
        if block.names.contains(&column_name) {
            return Err(in_column(Stop::bad("the block names this column twice", b"")));
        }
        // Also says whether the name is known.
        let header = Header::match_names(
            std::slice::from_ref(&column_name),
            &self.rows.names,
            self.rows.settings.skip_unknown_fields,
        )?;
        read(c, &mut self.rows, header.targets[0], &ty, block.rows, limit).map_err(in_column)?;
        Ok(Step::Column(column_name))
    }

    /// Reads until a block is whole; `None` when more bytes are needed or nothing is left.
    fn next_block(&mut self) -> Result<Option<DecodedBatch>, FormatError> {
        let input = std::mem::take(&mut self.input);
        let done = self.steps(&input);
        self.input = input;
        done
    }

    fn steps(&mut self, input: &[u8]) -> Result<Option<DecodedBatch>, FormatError> {
        loop {
            let unread = &input[self.at..];
            if self.block.is_none() && unread.is_empty() {
                return Ok(None);
            }
            if !self.finished && unread.len() < self.retry_at {
                return Ok(None);
            }
            let mut c = Cursor::new(unread);
            match self.step(&mut c) {
                Ok(step) => {
                    self.at += c.at;
                    self.retry_at = 0;
                    match step {
                        Step::Began(block) => self.block = Some(block),
                        Step::Column(name) => {
                            self.block.as_mut().expect("columns are read inside a block").names.push(name);
                        }
                        Step::Ended => {
                            let block = self.block.take().expect("a block ends after it began");
                            let header = Header::match_names(&block.names, &self.rows.names, true)
                                .map_err(|_| FormatError::Truncated { row: self.rows.row_number() })?;
                            for i in &header.missing {
                                self.rows.fill_absent(*i, block.rows);
                            }
                            if block.rows > 0 {
                                return self.rows.flush_rows(block.rows).map(Some);
                            }
                        }
                    }
                }
                Err(Stop::Bad(fault)) => return Err(fault.at_row(self.rows.row_number())),
                Err(Stop::More) => {
                    if self.finished {
                        return Err(FormatError::Truncated { row: self.rows.row_number() });
                    }
                    if unread.len() > self.limit() {
                        let what = format!("a column is larger than {} bytes (body_bytes_max)", self.limit());
                        return Err(Fault::new(what, b"").at_row(self.rows.row_number()));
                    }
                    self.retry_at = unread.len() + unread.len() / 4 + 1;
                    return Ok(None);
                }
            }
        }
    }
}

/// Reads what stands before the columns of a block.
fn begin(c: &mut Cursor, revision: u64, limit: usize) -> Result<Block, Stop> {
    if revision > 0 {
        loop {
            match varint(c)? {
                0 => break,
                1 => {
                    c.peek()?;
                    c.at += 1;
                }
                2 => {
                    take(c, 4)?;
                }
                field => return Err(Stop::bad(format!("unknown block info field {field}"), b"")),
            }
        }
    }
    let columns = varint(c)?;
    let rows = varint(c)?;
    if columns > COLUMNS_MAX {
        return Err(Stop::bad(format!("{columns} columns are more than the limit of {COLUMNS_MAX}"), b""));
    }
    if rows > limit as u64 || (columns == 0 && rows > 0) {
        return Err(Stop::bad(format!("{rows} rows in a block of {columns} columns"), b""));
    }
    Ok(Block { columns, rows: rows as usize, names: Vec::new() })
}

/// Reads one column of a block into its place.
fn read(
    c: &mut Cursor,
    rows: &mut Rows,
    target: Target,
    ty: &Type,
    count: usize,
    limit: usize,
) -> Result<(), Stop> {
    if count == 0 {
        return Ok(());
    }
    let mut reader = Reader { c, limit };
    if let Target::Column(i) = target
        && same_wire_native(ty, &rows.columns[i].kind.ty)
    {
        let column = &mut rows.columns[i];
        let done = reader.whole(column, count);
        if done.is_err() {
            column.truncate(0);
        }
        return done;
    }
    let kind = Kind::new(ty);
    let mut column = Column::new(&kind);
    reader.whole(&mut column, count)?;
    let Target::Column(i) = target else { return Ok(()) };
    let settings = rows.settings.clone();
    let array = column
        .finish(settings.utf8_replace)
        .map_err(|e| Stop::bad("not UTF-8; set input_utf8='replace' to take it anyway", &e.bytes))?;
    let view = View::new(&kind, &array);
    for row in 0..count {
        match conform::through_text(&view, row, &mut rows.columns[i], &settings) {
            Ok(true) => {}
            Ok(false) => rows.mark_absent_at(i, row),
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(())
}

/// Whether both types' columns are the same bytes: as in RowBinary, but a dictionary is one.
fn same_wire_native(a: &Type, b: &Type) -> bool {
    fn dictionaries(t: &Type, out: &mut Vec<bool>) {
        match t {
            Type::Array(t) => dictionaries(t, out),
            Type::Map(k, v) => {
                dictionaries(k, out);
                dictionaries(v, out);
            }
            Type::Tuple(fields) => fields.iter().for_each(|(_, t)| dictionaries(t, out)),
            t => out.push(matches!(t, Type::LowCardinality(_))),
        }
    }
    let (mut da, mut db) = (Vec::new(), Vec::new());
    dictionaries(a, &mut da);
    dictionaries(b, &mut db);
    da == db && same_wire(a, b)
}

fn take<'a>(c: &mut Cursor<'a>, n: usize) -> Result<&'a [u8], Stop> {
    let found = c.rest().get(..n).ok_or(Stop::More)?;
    c.at += n;
    Ok(found)
}

struct Reader<'a, 'b> {
    c: &'a mut Cursor<'b>,
    limit: usize,
}

impl<'b> Reader<'_, 'b> {
    fn whole(&mut self, column: &mut Column, count: usize) -> Result<(), Stop> {
        self.prefix(column)?;
        self.values(column, count)
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        Ok(u64::from_le_bytes(*crate::rowbinary::bytes(self.c)?))
    }

    /// `count` values of `width` bytes each.
    fn fixed(&mut self, count: usize, width: usize) -> Result<&'b [u8], Stop> {
        let n = count.checked_mul(width).filter(|n| *n <= self.limit);
        let Some(n) = n else {
            return Err(Stop::bad(
                format!("{count} values are more than the limit of {} bytes", self.limit),
                b"",
            ));
        };
        take(self.c, n)
    }

    fn prefix(&mut self, column: &Column) -> Result<(), Stop> {
        if column.kind.low_cardinality {
            let version = self.u64()?;
            if version != DICTIONARY_VERSION {
                return Err(Stop::bad(format!("unknown version {version} of a dictionary"), b""));
            }
            return Ok(());
        }
        match &column.data {
            Data::Array { items, .. } => self.prefix(items),
            Data::Map { keys, values, .. } => {
                self.prefix(keys)?;
                self.prefix(values)
            }
            Data::Tuple { fields, .. } => fields.iter().try_for_each(|f| self.prefix(f)),
            _ => Ok(()),
        }
    }

    fn values(&mut self, column: &mut Column, count: usize) -> Result<(), Stop> {
        if column.kind.low_cardinality {
            return self.dictionary(column, count);
        }
        if column.kind.nullable {
            let marks = self.fixed(count, 1)?;
            if let Some(bad) = marks.iter().find(|m| **m > 1) {
                return Err(Stop::bad(format!("a null mark is 0 or 1, not {bad}"), b""));
            }
            if let Some(nulls) = &mut column.nulls {
                marks.iter().for_each(|m| nulls.append(*m == 0));
            }
        }
        self.plain(column, count)
    }

    /// Values without their null marks.
    fn plain(&mut self, column: &mut Column, count: usize) -> Result<(), Stop> {
        let kind = column.kind.clone();
        let null = |column: &Column, i: usize| column.nulls.as_ref().is_some_and(|n| !n.is_valid(i));
        macro_rules! numbers {
            ($values:expr, $t:ty) => {{
                const WIDTH: usize = size_of::<$t>();
                let bytes = self.fixed(count, WIDTH)?;
                $values.extend(
                    bytes
                        .chunks_exact(WIDTH)
                        .map(|b| <$t>::from_le_bytes(b.try_into().expect("exact chunks"))),
                );
            }};
        }
        match &mut column.data {
            Data::Bool(v) => self.fixed(count, 1)?.iter().for_each(|b| v.append(*b != 0)),
            Data::Int8(v) => numbers!(v, i8),
            Data::Int16(v) => numbers!(v, i16),
            Data::Int32(v) => numbers!(v, i32),
            Data::Int64(v) => numbers!(v, i64),
            Data::UInt8(v) => numbers!(v, u8),
            Data::UInt16(v) => numbers!(v, u16),
            Data::UInt32(v) | Data::Ipv4(v) => numbers!(v, u32),
            Data::UInt64(v) => numbers!(v, u64),
            Data::Float32(v) => numbers!(v, f32),
            Data::Float64(v) => numbers!(v, f64),
            Data::Date(v) => {
                let bytes = self.fixed(count, 2)?;
                v.extend(bytes.chunks_exact(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))));
            }
            Data::Time(v, t) if t.seconds => {
                let bytes = self.fixed(count, 4)?;
                v.extend(
                    bytes
                        .chunks_exact(4)
                        .map(|b| i64::from(u32::from_le_bytes(b.try_into().expect("exact chunks")))),
                );
            }
            Data::Time(v, t) => {
                for b in self.fixed(count, 8)?.chunks_exact(8) {
                    let wire = i64::from_le_bytes(b.try_into().expect("exact chunks"));
                    v.push(ticks(wire, t.unit_per_tick())?);
                }
            }
            Data::Decimal { values, precision, .. } => {
                let width = decimal_bytes(*precision);
                for b in self.fixed(count, width)?.chunks_exact(width) {
                    let v: i128 = match width {
                        4 => i32::from_le_bytes(b.try_into().expect("exact chunks")).into(),
                        8 => i64::from_le_bytes(b.try_into().expect("exact chunks")).into(),
                        _ => i128::from_le_bytes(b.try_into().expect("exact chunks")),
                    };
                    values.push(check_decimal(v, *precision, &kind)?);
                }
            }
            Data::Uuid(v) => {
                for b in self.fixed(count, 16)?.chunks_exact(16) {
                    v.extend_from_slice(&swap_halves(b.try_into().expect("exact chunks")));
                }
            }
            Data::Ipv6(v) => v.extend_from_slice(self.fixed(count, 16)?),
            Data::String(v) | Data::Bytes(v) => {
                // First whether all are there: lengths are quick to walk, bytes are not to copy.
                let start = self.c.at;
                for _ in 0..count {
                    string(self.c, self.limit)?;
                }
                self.c.at = start;
                for _ in 0..count {
                    v.push(string(self.c, self.limit)?);
                    if v.bytes.len() > self.limit {
                        return Err(Stop::bad(format!("strings of more than {} bytes", self.limit), b""));
                    }
                }
            }
            Data::Enum(..) => self.enumeration(column, count, null)?,
            Data::Nothing(rows) => {
                self.fixed(count, 1)?;
                *rows += count;
            }
            Data::Array { .. } | Data::Map { .. } => self.items(column, count)?,
            Data::Tuple { fields, rows } => {
                for field in fields {
                    self.values(field, count)?;
                }
                *rows += count;
            }
        }
        Ok(())
    }

    fn enumeration(
        &mut self,
        column: &mut Column,
        count: usize,
        null: impl Fn(&Column, usize) -> bool,
    ) -> Result<(), Stop> {
        let kind = column.kind.clone();
        let crate::kind::Shape::Enum(names) = &kind.shape else { unreachable!("asked for an enum") };
        let width = if names.width == EnumWidth::Bits8 { 1 } else { 2 };
        let first = column.len();
        for (i, b) in self.fixed(count, width)?.chunks_exact(width).enumerate() {
            let n = if width == 1 { i16::from(b[0] as i8) } else { i16::from_le_bytes([b[0], b[1]]) };
            let under_null = null(column, first + i);
            let Data::Enum(v, _) = &mut column.data else { unreachable!("asked for an enum") };
            match names.name_of(n) {
                Some(name) => v.push(name.as_bytes()),
                None if under_null => v.push(b""),
                None => return Err(Stop::bad(format!("{n} is no value of {}", kind.ty), b"")),
            }
            if v.bytes.len() > self.limit {
                return Err(Stop::bad(format!("enum names of more than {} bytes", self.limit), b""));
            }
        }
        Ok(())
    }

    /// The ends of arrays or maps, then all their items.
    fn items(&mut self, column: &mut Column, count: usize) -> Result<(), Stop> {
        let bytes = self.fixed(count, 8)?;
        let mut ends = Vec::with_capacity(count);
        let mut before = 0;
        for b in bytes.chunks_exact(8) {
            let end = u64::from_le_bytes(b.try_into().expect("exact chunks"));
            if end < before || end > self.limit as u64 {
                return Err(Stop::bad(
                    format!("an array ends at item {end} after one that ends at {before}"),
                    b"",
                ));
            }
            before = end;
            ends.push(end as usize);
        }
        let total = ends.last().copied().unwrap_or(0);
        // Each item takes a byte at least.
        if total > self.c.rest().len() {
            return Err(Stop::More);
        }
        match &mut column.data {
            Data::Array { offsets, items } => {
                let base = items.len();
                self.values(items, total)?;
                offsets.extend(ends.iter().map(|e| (base + e) as i32));
            }
            Data::Map { offsets, keys, values } => {
                let base = keys.len();
                self.values(keys, total)?;
                self.values(values, total)?;
                offsets.extend(ends.iter().map(|e| (base + e) as i32));
            }
            _ => unreachable!("asked for an array or map"),
        }
        Ok(())
    }

    fn dictionary(&mut self, column: &mut Column, count: usize) -> Result<(), Stop> {
        if count == 0 {
            return Ok(());
        }
        let flags = self.u64()?;
        let width = match flags & 0xff {
            n @ 0..=3 => 1usize << n,
            n => return Err(Stop::bad(format!("unknown index type {n} of a dictionary"), b"")),
        };
        if flags & DICTIONARY_GLOBAL != 0 || flags & DICTIONARY_KEYS == 0 {
            return Err(Stop::bad("a dictionary without its keys", b""));
        }
        let keys = self.u64()?;
        if keys > self.limit as u64 {
            return Err(Stop::bad(format!("{keys} keys are more than the limit of {}", self.limit), b""));
        }
        if keys > self.c.rest().len() as u64 {
            return Err(Stop::More);
        }
        let mut dictionary = Column::new(&Kind {
            ty: column.kind.ty.inner().clone(),
            nullable: false,
            low_cardinality: false,
            shape: column.kind.shape.clone(),
        });
        // Under a nullable type key 0 stands for null; its bytes need not be a value.
        self.plain(&mut dictionary, keys as usize)?;
        let rows = self.u64()?;
        if rows != count as u64 {
            return Err(Stop::bad(format!("{rows} indexes for {count} rows"), b""));
        }
        for b in self.fixed(count, width)?.chunks_exact(width) {
            let mut wide = [0; 8];
            wide[..width].copy_from_slice(b);
            let index = u64::from_le_bytes(wide);
            if index >= keys {
                return Err(Stop::bad(format!("index {index} into a dictionary of {keys}"), b""));
            }
            if column.kind.nullable && index == 0 {
                column.push_default();
            } else {
                column.push_from(&dictionary, index as usize);
            }
            if column.bytes_held() > self.limit {
                return Err(Stop::bad(
                    format!("a dictionary expands to more than {} bytes", self.limit),
                    b"",
                ));
            }
        }
        Ok(())
    }
}

impl Decoder for NativeDecoder {
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
        if self.ready.is_none() {
            match self.next_block() {
                Ok(Some(block)) => self.ready = Some((block, 0)),
                Ok(None) => return Ok(None),
                Err(e) => {
                    self.failed = Some(e.clone());
                    self.input = Vec::new();
                    self.at = 0;
                    return Err(e);
                }
            }
        }
        Ok(crate::rows::slice_ready(&mut self.ready, rows_max))
    }
}
