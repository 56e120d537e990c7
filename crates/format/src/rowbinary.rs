//! RowBinary: values one after another, row by row, little endian, no separators.
//!
//! With names and types the header says what the sender has: columns in any order, any subset,
//! and other types than the stream's, which are cast with checks.
//!
//! Lengths in the input are never trusted: nothing is allocated for bytes that are not there.

use crate::column::{Column, Data};
use crate::conform;
use crate::fault::Stop;
use crate::kind::Kind;
use crate::rows::{Header, Next, RowReader, Rows, Target};
use crate::text::quoted::Cursor;
use crate::types::{EnumWidth, Type};
use crate::view::{Columns, Values, View};
use crate::{Encoder, FormatError, FormatSettings, ResultStats, Spelling};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

/// A header naming more columns than this is refused.
const HEADER_COLUMNS_MAX: usize = 10_000;

#[inline]
pub(crate) fn bytes<'a, const N: usize>(c: &mut Cursor<'a>) -> Result<&'a [u8; N], Stop> {
    let found = c.rest().first_chunk::<N>().ok_or(Stop::More)?;
    c.at += N;
    Ok(found)
}

/// A LEB128 number.
#[inline]
pub(crate) fn varint(c: &mut Cursor) -> Result<u64, Stop> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let b = c.peek()?;
        c.at += 1;
        v |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Ok(v);
        }
    }
    Err(Stop::bad("a length of more than 64 bits", b""))
}

pub(crate) fn write_varint(mut v: u64, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Bytes after their length. More than `limit` is an error at once, not a wait for them.
#[inline]
pub(crate) fn string<'a>(c: &mut Cursor<'a>, limit: usize) -> Result<&'a [u8], Stop> {
    let length = varint(c)?;
    if length > limit as u64 {
        return Err(Stop::bad(format!("a length of {length} bytes is more than the limit of {limit}"), b""));
    }
    let found = c.rest().get(..length as usize).ok_or(Stop::More)?;
    c.at += length as usize;
    Ok(found)
}

/// How many values follow; each takes a byte at least.
fn count(c: &mut Cursor, limit: usize) -> Result<usize, Stop> {
    let n = varint(c)?;
    if n > limit as u64 {
        return Err(Stop::bad(format!("a length of {n} is more than the limit of {limit}"), b""));
    }
    if n > c.rest().len() as u64 {
        return Err(Stop::More);
    }
    Ok(n as usize)
}

/// Text of a header.
pub(crate) fn name(c: &mut Cursor) -> Result<String, Stop> {
    let text = string(c, 1 << 16)?;
    String::from_utf8(text.to_vec()).map_err(|e| Stop::bad("a name that is not UTF-8", e.as_bytes()))
}

/// Two halves, each little endian, of a number written big endian.
#[inline]
pub(crate) fn swap_halves(v: &[u8; 16]) -> [u8; 16] {
    let mut out = *v;
    out[..8].reverse();
    out[8..].reverse();
    out
}

/// Bytes of a decimal on the wire.
pub(crate) fn decimal_bytes(precision: u8) -> usize {
    match precision {
        0..=9 => 4,
        10..=18 => 8,
        _ => 16,
    }
}

/// Ticks of the declared precision to ticks of the Arrow unit.
pub(crate) fn ticks(wire: i64, unit_per_tick: i64) -> Result<i64, Stop> {
    wire.checked_mul(unit_per_tick)
        .ok_or_else(|| Stop::bad("out of range of datetime64", wire.to_string().as_bytes()))
}

pub(crate) fn check_decimal(v: i128, precision: u8, kind: &Kind) -> Result<i128, Stop> {
    if v.unsigned_abs() >= 10u128.pow(u32::from(precision)) {
        return Err(Stop::bad(format!("out of range of {}", kind.ty), v.to_string().as_bytes()));
    }
    Ok(v)
}

fn value(c: &mut Cursor, column: &mut Column, s: &FormatSettings) -> Result<(), Stop> {
    let kind = &column.kind;
    if kind.nullable {
        match bytes::<1>(c)?[0] {
            0 => {}
            1 => {
                column.push_default();
                return Ok(());
            }
            other => return Err(Stop::bad(format!("a null mark is 0 or 1, not {other}"), b"")),
        }
    }
    macro_rules! number {
        ($values:expr, $t:ty) => {
            $values.push(<$t>::from_le_bytes(*bytes(c)?))
        };
    }
    match &mut column.data {
        Data::Bool(v) => v.append(bytes::<1>(c)?[0] != 0),
        Data::Int8(v) => number!(v, i8),
        Data::Int16(v) => number!(v, i16),
        Data::Int32(v) => number!(v, i32),
        Data::Int64(v) => number!(v, i64),
        Data::UInt8(v) => number!(v, u8),
        Data::UInt16(v) => number!(v, u16),
        Data::UInt32(v) | Data::Ipv4(v) => number!(v, u32),
        Data::UInt64(v) => number!(v, u64),
        Data::Float32(v) => number!(v, f32),
        Data::Float64(v) => number!(v, f64),
        Data::Decimal { values, precision, .. } => {
            let v = match decimal_bytes(*precision) {
                4 => i32::from_le_bytes(*bytes(c)?).into(),
                8 => i64::from_le_bytes(*bytes(c)?).into(),
                _ => i128::from_le_bytes(*bytes(c)?),
            };
            values.push(check_decimal(v, *precision, kind)?);
        }
        Data::String(v) | Data::Bytes(v) => v.push(string(c, s.row_bytes_max)?),
        Data::Enum(v, names) => {
            let n = match names.width {
                EnumWidth::Bits8 => i8::from_le_bytes(*bytes(c)?).into(),
                EnumWidth::Bits16 => i16::from_le_bytes(*bytes(c)?),
            };
            match names.name_of(n) {
                Some(name) => v.push(name.as_bytes()),
                None => return Err(Stop::bad(format!("{n} is no value of {}", kind.ty), b"")),
            }
        }
        Data::Date(v) => v.push(u16::from_le_bytes(*bytes(c)?).into()),
        Data::Time(v, t) if t.seconds => v.push(u32::from_le_bytes(*bytes(c)?).into()),
        Data::Time(v, t) => v.push(ticks(i64::from_le_bytes(*bytes(c)?), t.unit_per_tick())?),
        Data::Uuid(v) => v.extend_from_slice(&swap_halves(bytes(c)?)),
        Data::Ipv6(v) => v.extend_from_slice(bytes::<16>(c)?),
        Data::Array { items, .. } => {
            for _ in 0..count(c, s.row_bytes_max)? {
                value(c, items, s)?;
            }
            column.end_items();
            return Ok(());
        }
        Data::Map { keys, values, .. } => {
            for _ in 0..count(c, s.row_bytes_max)? {
                value(c, keys, s)?;
                value(c, values, s)?;
            }
            column.end_items();
            return Ok(());
        }
        Data::Tuple { fields, .. } => {
            for field in fields {
                value(c, field, s)?;
            }
            column.end_items();
            return Ok(());
        }
        // Its null mark is all there is.
        Data::Nothing(rows) => *rows += 1,
    }
    column.valid();
    Ok(())
}

pub(crate) struct RowBinaryReader {
    names: bool,
    types: bool,
    header: Header,
    /// For each place of the header: a column of the sender's type, where it is not the
    /// stream's; its values are cast one by one.
    foreign: Vec<Option<Column>>,
}

impl RowBinaryReader {
    pub fn new(columns: usize, names: bool, types: bool) -> RowBinaryReader {
        RowBinaryReader {
            names,
            types,
            header: Header::plain(columns),
            foreign: (0..columns).map(|_| None).collect(),
        }
    }
}

impl RowReader for RowBinaryReader {
    fn header(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        if !self.names || (eof && c.rest().is_empty()) {
            return Ok(());
        }
        let n = varint(c)?;
        if n > HEADER_COLUMNS_MAX as u64 {
            return Err(Stop::bad(
                format!("{n} columns are more than the limit of {HEADER_COLUMNS_MAX}"),
                b"",
            ));
        }
        let names = (0..n).map(|_| name(c)).collect::<Result<Vec<_>, _>>()?;
        let mut types = Vec::new();
        if self.types {
            for column in &names {
                let text = name(c)?;
                types.push(Type::parse(&text).map_err(|e| {
                    Stop::Bad(crate::fault::Fault::new(e.to_string(), text.as_bytes()).in_column(column))
                })?);
            }
        }
        self.header = Header::of_names(&names, rows)?;
        self.foreign = (0..names.len()).map(|_| None).collect();
        for (place, target) in self.header.targets.iter().enumerate() {
            match target {
                Target::Column(i) => {
                    if types.get(place).is_some_and(|t| !same_wire(t, &rows.columns[*i].kind.ty)) {
                        self.foreign[place] = Some(Column::new(&Kind::new(&types[place])));
                    }
                }
                Target::Skip => {
                    let Some(t) = types.get(place) else {
                        let what = format!(
                            "the header names {}, which is no column, and without types it can not be skipped",
                            names[place]
                        );
                        return Err(Stop::bad(what, b""));
                    };
                    self.foreign[place] = Some(Column::new(&Kind::new(t)));
                }
            }
        }
        Ok(())
    }

    fn between(&mut self, c: &mut Cursor, eof: bool, rows: &mut Rows) -> Result<Next, Stop> {
        match c.rest().is_empty() {
            // Rows without columns take no bytes: there is nothing to tell them by.
            false if self.header.targets.is_empty() => {
                let _ = rows;
                Err(Stop::bad("rows without columns", b""))
            }
            false => Ok(Next::Row),
            true if eof => Ok(Next::End),
            true => Err(Stop::More),
        }
    }

    fn row(&mut self, c: &mut Cursor, _eof: bool, rows: &mut Rows) -> Result<(), Stop> {
        for (target, foreign) in self.header.targets.iter().zip(&mut self.foreign) {
            let i = match *target {
                Target::Skip => {
                    let column = foreign.as_mut().expect("skipped columns have a type");
                    column.truncate(0);
                    value(c, column, &rows.settings)?;
                    continue;
                }
                Target::Column(i) => i,
            };
            let done = match foreign {
                None => value(c, &mut rows.columns[i], &rows.settings).map(|()| true),
                Some(column) => {
                    column.truncate(0);
                    value(c, column, &rows.settings)
                        .and_then(|()| through_text(column, &mut rows.columns[i], &rows.settings))
                }
            };
            match done {
                Ok(true) => {}
                Ok(false) => rows.mark_absent(i),
                Err(Stop::Bad(fault)) => return Err(fault.in_column(&rows.names[i]).into()),
                Err(more) => return Err(more),
            }
        }
        self.header.fill_missing(rows);
        Ok(())
    }
}

/// Whether values of both types are the same bytes.
pub(crate) fn same_wire(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::LowCardinality(a), b) => same_wire(a, b),
        (a, Type::LowCardinality(b)) => same_wire(a, b),
        (Type::String | Type::Bytes, Type::String | Type::Bytes) | (Type::DateTime(_), Type::DateTime(_)) => {
            true
        }
        (Type::DateTime64(a, _), Type::DateTime64(b, _)) => a == b,
        (Type::Nullable(a), Type::Nullable(b)) | (Type::Array(a), Type::Array(b)) => same_wire(a, b),
        (Type::Map(ak, av), Type::Map(bk, bv)) => same_wire(ak, bk) && same_wire(av, bv),
        (Type::Tuple(a), Type::Tuple(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|((_, a), (_, b))| same_wire(a, b))
        }
        (a, b) => a == b,
    }
}

/// Moves the one value of `from` into `to`, a column of another type, by way of its text: every
/// type reads every other's text or says why not.
fn through_text(from: &mut Column, to: &mut Column, s: &FormatSettings) -> Result<bool, Stop> {
    let kind = from.kind.clone();
    let array = from
        .finish(s.utf8_replace)
        .map_err(|e| Stop::bad("not UTF-8; set input_utf8='replace' to take it anyway", &e.bytes))?;
    Ok(conform::through_text(&View::new(&kind, &array), 0, to, s)?)
}

pub(crate) struct RowBinaryEncoder {
    columns: Columns,
    names: bool,
    types: bool,
    spelling: Spelling,
}

impl RowBinaryEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings, names: bool, types: bool) -> RowBinaryEncoder {
        RowBinaryEncoder { columns: Columns::new(schema), names, types, spelling: s.spelling }
    }
}

/// A date as the 16 bits of the wire.
pub(crate) fn date16(days: i32) -> Result<u16, String> {
    u16::try_from(days).map_err(|_| {
        "a date outside 1970-01-01 to 2149-06-06 does not fit the wire type Date; cast it to string"
            .to_owned()
    })
}

/// A time as the 32 bits of the wire.
pub(crate) fn time32(seconds: i64) -> Result<u32, String> {
    u32::try_from(seconds).map_err(|_| {
        "a time outside 1970 to 2106-02-07 does not fit the wire type DateTime; cast it to datetime64"
            .to_owned()
    })
}

pub(crate) fn write_decimal(v: i128, precision: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&v.to_le_bytes()[..decimal_bytes(precision)]);
}

fn write_value(view: &View, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if view.kind.nullable {
        let null = view.is_null(row);
        out.push(u8::from(null));
        if null {
            return Ok(());
        }
    }
    write_plain(view, row, out)
}

/// A value without the null mark that a nullable type has before it.
pub(crate) fn write_plain(view: &View, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    macro_rules! number {
        ($values:expr) => {
            out.extend_from_slice(&$values[row].to_le_bytes())
        };
    }
    match &view.data {
        Values::Bool(v) => out.push(u8::from(v.value(row))),
        Values::Int8(v) => number!(v),
        Values::Int16(v) => number!(v),
        Values::Int32(v) => number!(v),
        Values::Int64(v) => number!(v),
        Values::UInt8(v) => number!(v),
        Values::UInt16(v) => number!(v),
        Values::UInt32(v) | Values::Ipv4(v) => number!(v),
        Values::UInt64(v) => number!(v),
        Values::Float32(v) => number!(v),
        Values::Float64(v) => number!(v),
        Values::Decimal { values, precision, .. } => write_decimal(values[row], *precision, out),
        Values::String(v) => {
            write_varint(v.value(row).len() as u64, out);
            out.extend_from_slice(v.value(row).as_bytes());
        }
        Values::Bytes(v) => {
            write_varint(v.value(row).len() as u64, out);
            out.extend_from_slice(v.value(row));
        }
        Values::Enum(v, names) => {
            let name = v.value(row);
            let n = names.value_of(name).ok_or_else(|| format!("'{name}' is no name of {}", view.kind.ty))?;
            match names.width {
                EnumWidth::Bits8 => out.push(n as u8),
                EnumWidth::Bits16 => out.extend_from_slice(&n.to_le_bytes()),
            }
        }
        Values::Date(v) => out.extend_from_slice(&date16(v[row])?.to_le_bytes()),
        Values::Time(v, t) if t.seconds => out.extend_from_slice(&time32(v[row])?.to_le_bytes()),
        Values::Time(v, t) => out.extend_from_slice(&v[row].div_euclid(t.unit_per_tick()).to_le_bytes()),
        Values::Uuid(v) => {
            let bytes: &[u8; 16] = v.value(row).try_into().expect("storage of uuid is 16 bytes wide");
            out.extend_from_slice(&swap_halves(bytes));
        }
        Values::Ipv6(v) => out.extend_from_slice(v.value(row)),
        Values::Array { offsets, items } => {
            let range = view.items(offsets, row);
            write_varint(range.len() as u64, out);
            for i in range {
                write_value(items, i, out)?;
            }
        }
        Values::Map { offsets, keys, values } => {
            let range = view.items(offsets, row);
            write_varint(range.len() as u64, out);
            for i in range {
                write_value(keys, i, out)?;
                write_value(values, i, out)?;
            }
        }
        Values::Tuple { fields, .. } => {
            for field in fields {
                write_value(field, row, out)?;
            }
        }
        Values::Nothing => {}
    }
    Ok(())
}

impl Encoder for RowBinaryEncoder {
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let text = |text: &str, out: &mut Vec<u8>| {
            write_varint(text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        };
        if self.names {
            write_varint(self.columns.names.len() as u64, out);
            self.columns.names.iter().for_each(|n| text(n, out));
        }
        if self.types {
            self.columns.kinds.iter().for_each(|k| text(&k.ty.name(self.spelling), out));
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            for (i, view) in views.iter().enumerate() {
                write_value(view, row, out)
                    .map_err(|what| FormatError::Encode { column: self.columns.names[i].clone(), what })?;
            }
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}
