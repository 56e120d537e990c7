//! Values of Avro to columns.

use super::schema::{AvroSchema, Node};
use crate::column::{Column, Data};
use crate::datum::Datum;
use crate::fault::Fault;
use crate::kind::{Kind, Shape};
use crate::paths::{Child, Target, targets};
use crate::rows::Rows;
use crate::{DecodedBatch, FormatError, FormatSettings};
use arrow_schema::SchemaRef;
use std::sync::Arc;

/// An item of some types takes no byte: so many of them at most in one array.
const EMPTY_ITEMS_MAX: u64 = 1 << 20;

/// Rows of values, each read by the schema that it was written with.
pub struct AvroRows {
    rows: Rows,
    /// Where the fields of the schema seen last go.
    plan: Option<(Arc<[(String, Arc<Node>)]>, Vec<Target>)>,
}

impl AvroRows {
    /// Gives the columns of `schema`.
    pub fn new(schema: SchemaRef, settings: &FormatSettings) -> Self {
        AvroRows { rows: Rows::new(schema, settings), plan: None }
    }

    /// Appends one value, all of `bytes`.
    ///
    /// # Errors
    /// Bytes that are none of the schema's, or a value that its column can not hold. The rows before it stay.
    pub fn push(&mut self, schema: &AvroSchema, bytes: &[u8]) -> Result<(), FormatError> {
        let mut input = bytes;
        self.value(schema, &mut input)?;
        if input.is_empty() {
            return Ok(());
        }
        let row = self.rows.row_number() - 1;
        self.rows.unpush_row();
        let what =
            format!("{} bytes are left behind the value; it was written with another schema", input.len());
        Err(Fault::new(what, b"").at_row(row))
    }

    /// As [`Self::push`], where more may follow.
    pub(super) fn value(&mut self, schema: &AvroSchema, input: &mut &[u8]) -> Result<(), FormatError> {
        if self.plan.as_ref().is_none_or(|(of, _)| !Arc::ptr_eq(of, &schema.fields)) {
            let targets = targets(&self.rows.names, &schema.fields, &child);
            self.plan = Some((schema.fields.clone(), targets));
        }
        let Some((fields, targets)) = &self.plan else { return Ok(()) };
        let read = record(fields, targets, input, &mut self.rows);
        match read {
            Ok(()) => {
                self.rows.fill_row();
                self.rows.end_row();
                Ok(())
            }
            Err(fault) => {
                let row = self.rows.row_number();
                self.rows.undo_row();
                Err(fault.at_row(row))
            }
        }
    }

    pub fn len(&self) -> usize {
        self.rows.batch_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows, and none are left.
    pub fn finish(&mut self) -> Result<DecodedBatch, FormatError> {
        self.rows.flush()
    }
}

/// A field's own fields, through a union with null.
pub(super) fn child(node: &Arc<Node>) -> Child<Arc<Node>> {
    match &**node {
        Node::Record(fields) => Child::Record(fields.to_vec()),
        Node::Union(branches) => {
            let mut some = branches.iter().filter(|b| !matches!(***b, Node::Null));
            match (some.next(), some.next()) {
                (Some(one), None) => child(one),
                _ => Child::Value,
            }
        }
        _ => Child::Value,
    }
}

/// Fields of a record to the columns that they go to.
fn record(
    fields: &[(String, Arc<Node>)],
    targets: &[Target],
    input: &mut &[u8],
    rows: &mut Rows,
) -> Result<(), Fault> {
    for ((name, node), target) in fields.iter().zip(targets) {
        match target {
            Target::Skip => skip(node, input),
            Target::Column(i) => value(node, input, &mut rows.columns[*i], &rows.settings),
            Target::Record(below) => nested(node, below, input, rows),
        }
        .map_err(|fault| fault.in_column(name))?;
    }
    Ok(())
}

/// A record whose fields are columns of their own.
fn nested(node: &Node, targets: &[Target], input: &mut &[u8], rows: &mut Rows) -> Result<(), Fault> {
    match node {
        Node::Record(fields) => record(fields, targets, input, rows),
        Node::Union(branches) => nested(branch(branches, input)?, targets, input, rows),
        // Null: what lies below it is left out.
        _ => Ok(()),
    }
}

fn branch<'a>(branches: &'a [Arc<Node>], input: &mut &[u8]) -> Result<&'a Node, Fault> {
    let i = long(input)?;
    usize::try_from(i).ok().and_then(|i| branches.get(i)).map(|n| &**n).ok_or_else(|| {
        Fault::new(
            format!("branch {i} of a union of {}; it was written with another schema", branches.len()),
            b"",
        )
    })
}

fn value(
    node: &Node,
    input: &mut &[u8],
    column: &mut Column,
    settings: &FormatSettings,
) -> Result<(), Fault> {
    let datum = match node {
        Node::Union(branches) => return value(branch(branches, input)?, input, column, settings),
        Node::Array(items) => {
            if !matches!(column.data, Data::Array { .. }) {
                return Err(unfit("an array", &column.kind));
            }
            let Data::Array { items: into, .. } = &mut column.data else { unreachable!("looked at above") };
            blocks(input, |input| value(items, input, into, settings))?;
            column.end_items();
            return Ok(());
        }
        Node::Map(of) => {
            if !matches!(column.data, Data::Map { .. }) {
                return Err(unfit("a map", &column.kind));
            }
            let Data::Map { keys, values, .. } = &mut column.data else { unreachable!("looked at above") };
            blocks(input, |input| {
                keys.push_datum(Datum::Text(text(input)?), settings)?;
                value(of, input, values, settings)
            })?;
            column.end_items();
            return Ok(());
        }
        Node::Record(fields) => return tuple(fields, input, column, settings),
        _ => scalar(node, input)?,
    };
    column.push_datum(datum, settings)
}

fn unfit(what: &str, kind: &Kind) -> Fault {
    Fault::new(format!("{what} can not be read as {}", kind.ty), b"")
}

fn tuple(
    fields: &[(String, Arc<Node>)],
    input: &mut &[u8],
    column: &mut Column,
    settings: &FormatSettings,
) -> Result<(), Fault> {
    let kind = column.kind.clone();
    let (Shape::Tuple(spec), Data::Tuple { fields: into, .. }) = (&kind.shape, &mut column.data) else {
        return Err(unfit("a record", &kind));
    };
    let before: Vec<usize> = into.iter().map(Column::len).collect();
    for (place, (name, node)) in fields.iter().enumerate() {
        let to = if spec.named { spec.fields.iter().position(|(n, _)| n == name) } else { Some(place) };
        match to.and_then(|i| into.get_mut(i)) {
            Some(column) => value(node, input, column, settings),
            None => skip(node, input),
        }
        .map_err(|fault| fault.in_column(name))?;
    }
    for (column, before) in into.iter_mut().zip(before) {
        if column.len() == before {
            column.push_default();
        }
    }
    column.end_items();
    Ok(())
}

/// Items of an array or a map, which come in blocks.
fn blocks(input: &mut &[u8], mut item: impl FnMut(&mut &[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
    let mut empty = 0;
    loop {
        let count = long(input)?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            // The length of the block in bytes.
            long(input)?;
        }
        for _ in 0..count.unsigned_abs() {
            let before = input.len();
            item(input)?;
            if input.len() == before {
                empty += 1;
                if empty > EMPTY_ITEMS_MAX {
                    return Err(Fault::new(
                        format!("more than {EMPTY_ITEMS_MAX} items that take no byte"),
                        b"",
                    ));
                }
            }
        }
    }
}

fn skip(node: &Node, input: &mut &[u8]) -> Result<(), Fault> {
    match node {
        Node::Union(branches) => skip(branch(branches, input)?, input),
        Node::Array(items) => blocks(input, |input| skip(items, input)),
        Node::Map(values) => blocks(input, |input| {
            bytes(input)?;
            skip(values, input)
        }),
        Node::Record(fields) => fields.iter().try_for_each(|(_, node)| skip(node, input)),
        _ => scalar(node, input).map(|_| ()),
    }
}

fn scalar<'d, 'n: 'd, 'i: 'd>(node: &'n Node, input: &mut &'i [u8]) -> Result<Datum<'d>, Fault> {
    Ok(match node {
        Node::Null => Datum::Null,
        Node::Bool => match take(input, 1)? {
            [0] => Datum::Bool(false),
            [1] => Datum::Bool(true),
            other => return Err(Fault::new("a boolean that is neither 0 nor 1", other)),
        },
        Node::Int | Node::Long => Datum::Int(long(input)?),
        Node::Float => {
            let b = take(input, 4)?;
            Datum::Float(f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
        }
        Node::Double => {
            let b = take(input, 8)?;
            Datum::Float(f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
        }
        Node::Bytes => Datum::Bytes(bytes(input)?),
        Node::String | Node::Uuid => Datum::Text(text(input)?),
        Node::Fixed(n) => Datum::Bytes(take(input, *n)?),
        Node::Enum(symbols) => {
            let i = long(input)?;
            let symbol = usize::try_from(i).ok().and_then(|i| symbols.get(i));
            let none = || Fault::new(format!("symbol {i} of an enum of {}", symbols.len()), b"");
            Datum::Text(symbol.ok_or_else(none)?)
        }
        Node::Date => {
            let days = long(input)?;
            Datum::Date(
                days.try_into()
                    .map_err(|_| Fault::new("a date out of range", days.to_string().as_bytes()))?,
            )
        }
        Node::Timestamp(digits) => Datum::Time { value: long(input)?, digits: *digits },
        Node::Decimal { scale, fixed, .. } => {
            let b = match fixed {
                Some(n) => take(input, *n)?,
                None => bytes(input)?,
            };
            Datum::Decimal { value: big_endian(b)?, scale: *scale }
        }
        Node::Array(_) | Node::Map(_) | Node::Union(_) | Node::Record(_) => {
            unreachable!("walked before scalars are read")
        }
    })
}

/// Two's complement of any length.
fn big_endian(bytes: &[u8]) -> Result<i128, Fault> {
    let fill = if bytes.first().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    let extra = bytes.len().saturating_sub(16);
    if bytes[..extra].iter().any(|b| *b != fill) {
        return Err(Fault::new("a decimal of more than 38 digits", b""));
    }
    let mut all = [fill; 16];
    let kept = &bytes[extra..];
    all[16 - kept.len()..].copy_from_slice(kept);
    Ok(i128::from_be_bytes(all))
}

fn cut() -> Fault {
    Fault::new("the value ends early; it was written with another schema", b"")
}

fn take<'a>(input: &mut &'a [u8], n: usize) -> Result<&'a [u8], Fault> {
    let (head, rest) = input.split_at_checked(n).ok_or_else(cut)?;
    *input = rest;
    Ok(head)
}

/// Zigzag, seven bits a byte, the least first.
pub(super) fn long(input: &mut &[u8]) -> Result<i64, Fault> {
    let mut raw = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(input, 1)? else { return Err(cut()) };
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    Err(Fault::new("an integer of more than 64 bits; it was written with another schema", b""))
}

pub(super) fn bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let n = long(input)?;
    take(input, usize::try_from(n).map_err(|_| cut())?)
}

fn text<'a>(input: &mut &'a [u8]) -> Result<&'a str, Fault> {
    let bytes = bytes(input)?;
    std::str::from_utf8(bytes).map_err(|_| Fault::new("text that is not UTF-8", bytes))
}
