//! Batches to Native blocks.

use super::*;
use crate::rowbinary::{date16, decimal_bytes, time32, write_plain, write_varint};
use crate::types::{EnumWidth, Type};
use crate::view::{Columns, Values, View};
use crate::{Encoder, FormatError, FormatSettings, ResultStats, Spelling};
use arrow_array::RecordBatch;
use arrow_buffer::ToByteSlice;
use arrow_schema::SchemaRef;
use std::collections::HashMap;
use std::ops::Range;

const _: () = assert!(cfg!(target_endian = "little"), "Native is written from memory as it is");

pub(crate) struct NativeEncoder {
    columns: Columns,
    spelling: Spelling,
    revision: u64,
}

impl NativeEncoder {
    pub fn new(schema: &SchemaRef, s: &FormatSettings) -> NativeEncoder {
        NativeEncoder { columns: Columns::new(schema), spelling: s.spelling, revision: s.native_revision }
    }
}

impl Encoder for NativeEncoder {
    fn begin(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        let text = |text: &str, out: &mut Vec<u8>| {
            write_varint(text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        };
        if self.revision > 0 {
            // Field 1: is_overflows = 0; field 2: bucket_num = -1; end.
            out.extend_from_slice(&[1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0]);
        }
        write_varint(views.len() as u64, out);
        write_varint(rows as u64, out);
        for (view, name) in views.iter().zip(&self.columns.names) {
            text(name, out);
            match &view.kind.ty {
                Type::DateTime(Some(_)) if self.revision < REVISION_TIME_ZONE => {
                    text(&Type::DateTime(None).name(self.spelling), out);
                }
                ty => text(&ty.name(self.spelling), out),
            }
            if self.revision >= REVISION_CUSTOM_SERIALIZATION {
                out.push(0);
            }
            prefix(view, out);
            values(view, &Pick::Range(0..rows), out)
                .map_err(|what| FormatError::Encode { column: name.clone(), what })?;
        }
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}

/// Which values of a column: arrays pick their items.
enum Pick {
    Range(Range<usize>),
    Some(Vec<usize>),
}

impl Pick {
    fn len(&self) -> usize {
        match self {
            Pick::Range(r) => r.len(),
            Pick::Some(v) => v.len(),
        }
    }
    fn each(&self, mut f: impl FnMut(usize) -> Result<(), String>) -> Result<(), String> {
        match self {
            Pick::Range(r) => r.clone().try_for_each(f),
            Pick::Some(v) => v.iter().try_for_each(|i| f(*i)),
        }
    }
}

/// What dictionary-coded columns, at any depth, write before all values.
fn prefix(view: &View, out: &mut Vec<u8>) {
    if view.kind.low_cardinality {
        out.extend_from_slice(&DICTIONARY_VERSION.to_le_bytes());
        return;
    }
    match &view.data {
        Values::Array { items, .. } => prefix(items, out),
        Values::Map { keys, values, .. } => {
            prefix(keys, out);
            prefix(values, out);
        }
        Values::Tuple { fields, .. } => fields.iter().for_each(|f| prefix(f, out)),
        _ => {}
    }
}

fn values(view: &View, rows: &Pick, out: &mut Vec<u8>) -> Result<(), String> {
    if view.kind.low_cardinality {
        return dictionary(view, rows, out);
    }
    if view.kind.nullable {
        rows.each(|i| {
            out.push(u8::from(view.is_null(i)));
            Ok(())
        })?;
    }
    plain(view, rows, out)
}

fn plain(view: &View, rows: &Pick, out: &mut Vec<u8>) -> Result<(), String> {
    macro_rules! numbers {
        ($values:expr) => {
            match rows {
                Pick::Range(r) => out.extend_from_slice($values[r.clone()].to_byte_slice()),
                Pick::Some(v) => v.iter().for_each(|i| out.extend_from_slice(&$values[*i].to_le_bytes())),
            }
        };
    }
    match &view.data {
        Values::Int8(v) => numbers!(v),
        Values::Int16(v) => numbers!(v),
        Values::Int32(v) => numbers!(v),
        Values::Int64(v) => numbers!(v),
        Values::UInt8(v) => numbers!(v),
        Values::UInt16(v) => numbers!(v),
        Values::UInt32(v) | Values::Ipv4(v) => numbers!(v),
        Values::UInt64(v) => numbers!(v),
        Values::Float32(v) => numbers!(v),
        Values::Float64(v) => numbers!(v),
        Values::Time(v, t) if !t.seconds && t.unit_per_tick() == 1 => numbers!(v),
        Values::Nothing => out.resize(out.len() + rows.len(), NOTHING),
        // The value under a null is any; it must only have the right width.
        Values::Date(v) => rows.each(|i| {
            let days = if view.is_null(i) { 0 } else { date16(v[i])? };
            out.extend_from_slice(&days.to_le_bytes());
            Ok(())
        })?,
        Values::Time(v, t) if t.seconds => rows.each(|i| {
            let seconds = if view.is_null(i) { 0 } else { time32(v[i])? };
            out.extend_from_slice(&seconds.to_le_bytes());
            Ok(())
        })?,
        Values::Enum(_, names) => rows.each(|i| {
            if !view.is_null(i) {
                return write_plain(view, i, out);
            }
            let width = if names.width == EnumWidth::Bits8 { 1 } else { 2 };
            out.resize(out.len() + width, 0);
            Ok(())
        })?,
        Values::Decimal { values, precision, .. } => rows.each(|i| {
            let v = if view.is_null(i) { 0 } else { values[i] };
            out.extend_from_slice(&v.to_le_bytes()[..decimal_bytes(*precision)]);
            Ok(())
        })?,
        Values::String(_) | Values::Bytes(_) => rows.each(|i| {
            if view.is_null(i) {
                out.push(0);
                return Ok(());
            }
            write_plain(view, i, out)
        })?,
        Values::Bool(_) | Values::Uuid(_) | Values::Ipv6(_) | Values::Time(..) => {
            rows.each(|i| write_plain(view, i, out))?
        }
        Values::Array { offsets, items } => {
            let items_of = ends(view, offsets, rows, out)?;
            values(items, &items_of, out)?;
        }
        Values::Map { offsets, keys, values: vs } => {
            let items_of = ends(view, offsets, rows, out)?;
            values(keys, &items_of, out)?;
            values(vs, &items_of, out)?;
        }
        Values::Tuple { fields, .. } => {
            for field in fields {
                values(field, rows, out)?;
            }
        }
    }
    Ok(())
}

/// Writes where each array ends, counted over the block, and returns which items that are.
fn ends(view: &View, offsets: &[i32], rows: &Pick, out: &mut Vec<u8>) -> Result<Pick, String> {
    let mut end = 0u64;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    rows.each(|i| {
        let range = view.items(offsets, i);
        end += range.len() as u64;
        out.extend_from_slice(&end.to_le_bytes());
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => ranges.push(range),
        }
        Ok(())
    })?;
    Ok(match ranges.as_slice() {
        [] => Pick::Range(0..0),
        [one] => Pick::Range(one.clone()),
        _ => Pick::Some(ranges.into_iter().flatten().collect()),
    })
}

/// Keys and indexes. Key 0 is the default; of a nullable type key 0 is null and 1 the default.
fn dictionary(view: &View, rows: &Pick, out: &mut Vec<u8>) -> Result<(), String> {
    if rows.len() == 0 {
        return Ok(());
    }
    let mut keys = Vec::new();
    let mut default = default_key(view);
    if view.kind.nullable {
        keys.extend_from_slice(&default);
    }
    keys.extend_from_slice(&default);
    let first = u32::from(view.kind.nullable);
    // A value is known by its bytes on the wire.
    let mut known: HashMap<Vec<u8>, u32> = HashMap::from([(std::mem::take(&mut default), first)]);
    let mut count = first + 1;
    let mut indexes = Vec::with_capacity(rows.len());
    let mut bytes = Vec::new();
    rows.each(|i| {
        if view.is_null(i) {
            indexes.push(0);
            return Ok(());
        }
        bytes.clear();
        write_plain(view, i, &mut bytes)?;
        let index = match known.get(&bytes) {
            Some(index) => *index,
            None => {
                keys.extend_from_slice(&bytes);
                known.insert(bytes.clone(), count);
                count += 1;
                count - 1
            }
        };
        indexes.push(index);
        Ok(())
    })?;
    let width = match count - 1 {
        0..=0xff => 0u64,
        0x100..=0xffff => 1,
        _ => 2,
    };
    out.extend_from_slice(&(DICTIONARY_KEYS | DICTIONARY_NEW | width).to_le_bytes());
    out.extend_from_slice(&u64::from(count).to_le_bytes());
    out.extend_from_slice(&keys);
    out.extend_from_slice(&(rows.len() as u64).to_le_bytes());
    match width {
        0 => out.extend(indexes.iter().map(|i| *i as u8)),
        1 => indexes.iter().for_each(|i| out.extend_from_slice(&(*i as u16).to_le_bytes())),
        _ => out.extend_from_slice(indexes.to_byte_slice()),
    }
    Ok(())
}

/// The wire bytes of the default of a type.
fn default_key(view: &View) -> Vec<u8> {
    let mut column = crate::column::Column::new(&crate::kind::Kind {
        nullable: false,
        low_cardinality: false,
        ty: view.kind.ty.inner().clone(),
        shape: view.kind.shape.clone(),
    });
    column.push_default();
    let kind = column.kind.clone();
    let mut out = Vec::new();
    if let Ok(array) = column.finish(true) {
        // Defaults are in range of every wire type.
        let _ = write_plain(&View::new(&kind, &array), 0, &mut out);
    }
    out
}
