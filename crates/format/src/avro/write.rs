//! Columns to values of Avro.

use super::read::child;
use super::schema::{AvroSchema, Node};
use crate::datum::{Datum, datum_of, text_of};
use crate::paths::{Target, targets, unused};
use crate::view::{Columns, Values, View};
use crate::{FormatError, FormatSettings};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use std::sync::Arc;

/// Writes rows of some columns by a schema.
pub struct AvroWriter {
    columns: Columns,
    schema: AvroSchema,
    /// The column of each field; a field without one is null.
    targets: Vec<Target>,
    settings: FormatSettings,
}

impl AvroWriter {
    /// # Errors
    /// A column that no field is for, or a field that must be given and is no column.
    pub fn new(
        columns: &SchemaRef,
        schema: AvroSchema,
        settings: &FormatSettings,
    ) -> Result<Self, FormatError> {
        let columns = Columns::new(columns);
        let refused = |what: String| FormatError::Schema { name: "Avro", what };
        let targets = targets(&columns.names, &schema.fields, &child);
        if let Some(i) = unused(columns.names.len(), &targets) {
            return Err(refused(format!(
                "the schema {} has no field {}",
                schema.full_name(),
                columns.names[i]
            )));
        }
        for ((name, node), target) in schema.fields.iter().zip(&targets) {
            if *target == Target::Skip && null_branch(node).is_none() {
                return Err(refused(format!(
                    "field {name} of {} can not be null, and there is no column of this name",
                    schema.full_name()
                )));
            }
        }
        Ok(AvroWriter { columns, schema, targets, settings: settings.clone() })
    }

    pub fn schema(&self) -> &AvroSchema {
        &self.schema
    }

    /// Appends each row's value to `out`; `end` is called behind each.
    ///
    /// # Errors
    /// A value that its field can not hold.
    pub fn write(
        &self,
        batch: &RecordBatch,
        out: &mut Vec<u8>,
        mut end: impl FnMut(&mut Vec<u8>),
    ) -> Result<(), FormatError> {
        let arrays = self.columns.arrays(batch)?;
        let views = self.columns.views(&arrays);
        for row in 0..batch.num_rows() {
            self.record(&self.schema.fields, &self.targets, &views, row, out)?;
            end(out);
        }
        Ok(())
    }

    fn record(
        &self,
        fields: &[(String, Arc<Node>)],
        targets: &[Target],
        views: &[View<'_>],
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        for ((name, node), target) in fields.iter().zip(targets) {
            let failed = |what: String| FormatError::Encode { column: name.clone(), what };
            match (target, null_branch(node)) {
                (Target::Column(i), _) => {
                    write(node, &views[*i], row, out, &self.settings).map_err(failed)?
                }
                (Target::Skip, Some(null)) => long(null, out),
                (Target::Skip, None) => {
                    return Err(failed("no column gives it, and it can not be null".into()));
                }
                (Target::Record(below), _) => {
                    let mut at = node;
                    while let Node::Union(branches) = &**at {
                        let some = branches.iter().position(|b| !matches!(**b, Node::Null)).unwrap_or(0);
                        long(some as i64, out);
                        at = &branches[some];
                    }
                    if let Node::Record(fields) = &**at {
                        self.record(fields, below, views, row, out)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Which branch of a union says null.
fn null_branch(node: &Node) -> Option<i64> {
    match node {
        Node::Union(branches) => branches.iter().position(|b| matches!(**b, Node::Null)).map(|i| i as i64),
        _ => None,
    }
}

fn write(
    node: &Node,
    view: &View<'_>,
    row: usize,
    out: &mut Vec<u8>,
    settings: &FormatSettings,
) -> Result<(), String> {
    let null = view.is_null(row);
    match (node, &view.data) {
        (Node::Union(_), _) if null => {
            let i = null_branch(node).ok_or("null, and no branch of the schema's union is")?;
            long(i, out);
            Ok(())
        }
        (Node::Union(branches), _) => {
            let begin = out.len();
            let mut first = None;
            for (i, branch) in branches.iter().enumerate() {
                if matches!(**branch, Node::Null) {
                    continue;
                }
                long(i as i64, out);
                match write(branch, view, row, out, settings) {
                    Ok(()) => return Ok(()),
                    Err(what) => {
                        out.truncate(begin);
                        first.get_or_insert(what);
                    }
                }
            }
            Err(first.unwrap_or_else(|| "a value where the schema has only null".into()))
        }
        (Node::Array(items), Values::Array { offsets, items: of }) => {
            let range = view.items(offsets, row);
            block(range, out, |i, out| write(items, of, i, out, settings))
        }
        (Node::Map(values), Values::Map { offsets, keys, values: of }) => {
            let range = view.items(offsets, row);
            let mut key = Vec::new();
            block(range, out, |i, out| {
                text_of(keys, i, settings, &mut key);
                bytes(&key, out);
                write(values, of, i, out, settings)
            })
        }
        (Node::Record(fields), Values::Tuple { fields: views, spec }) => {
            for (place, (name, node)) in fields.iter().enumerate() {
                let at =
                    if spec.named { spec.fields.iter().position(|(n, _)| n == name) } else { Some(place) };
                match (at.and_then(|i| views.get(i)), null_branch(node)) {
                    (Some(view), _) => {
                        write(node, view, row, out, settings).map_err(|what| format!("{name}: {what}"))?
                    }
                    (None, Some(null)) => long(null, out),
                    (None, None) => return Err(format!("{name}: not there, and the schema says that it is")),
                }
            }
            Ok(())
        }
        _ if null => match node {
            Node::Null => Ok(()),
            _ => Err("null where the schema has none; use a union with null".into()),
        },
        _ => {
            let mut scratch = Vec::new();
            let datum = datum_of(view, row, settings, &mut scratch)
                .ok_or_else(|| format!("{} can not be written as {}", view.kind.ty, word(node)))?;
            scalar(node, datum, out).map_err(|what| {
                what.unwrap_or_else(|| format!("{} can not be written as {}", view.kind.ty, word(node)))
            })
        }
    }
}

fn word(node: &Node) -> &'static str {
    match node {
        Node::Null => "null",
        Node::Bool => "boolean",
        Node::Int => "int",
        Node::Long => "long",
        Node::Float => "float",
        Node::Double => "double",
        Node::Bytes => "bytes",
        Node::String => "string",
        Node::Fixed(_) => "fixed",
        Node::Enum(_) => "enum",
        Node::Array(_) => "array",
        Node::Map(_) => "map",
        Node::Union(_) => "union",
        Node::Record(_) => "record",
        Node::Date => "date",
        Node::Timestamp(_) => "timestamp",
        Node::Decimal { .. } => "decimal",
        Node::Uuid => "uuid",
    }
}

/// `Err(None)`: the types do not go together; else why this value does not.
fn scalar(node: &Node, datum: Datum<'_>, out: &mut Vec<u8>) -> Result<(), Option<String>> {
    let integer = || datum.integer().ok_or(None);
    match node {
        Node::Null => return Err(None),
        Node::Bool => match datum {
            Datum::Bool(v) => out.push(v.into()),
            _ => return Err(None),
        },
        Node::Int | Node::Date if matches!(datum, Datum::Text(_)) => return Err(None),
        Node::Int | Node::Date => {
            let v = i32::try_from(integer()?).map_err(|_| Some("out of range of int".to_owned()))?;
            long(v.into(), out);
        }
        Node::Long => {
            let v = i64::try_from(integer()?).map_err(|_| Some("out of range of long".to_owned()))?;
            long(v, out);
        }
        Node::Float => out.extend((datum.float().ok_or(None)? as f32).to_le_bytes()),
        Node::Double => out.extend(datum.float().ok_or(None)?.to_le_bytes()),
        Node::Bytes => match datum {
            Datum::Bytes(v) => bytes(v, out),
            Datum::Text(v) => bytes(v.as_bytes(), out),
            _ => return Err(None),
        },
        Node::String | Node::Uuid => match datum {
            Datum::Text(v) => bytes(v.as_bytes(), out),
            Datum::Bytes(v) => {
                let text = std::str::from_utf8(v).map_err(|_| Some("bytes that are not UTF-8".to_owned()))?;
                bytes(text.as_bytes(), out);
            }
            _ => return Err(None),
        },
        Node::Fixed(n) => match datum {
            Datum::Bytes(v) if v.len() == *n => out.extend(v),
            Datum::Text(v) if v.len() == *n => out.extend(v.as_bytes()),
            Datum::Bytes(_) | Datum::Text(_) => return Err(Some(format!("not {n} bytes long"))),
            _ => return Err(None),
        },
        Node::Enum(symbols) => match datum {
            Datum::Text(v) => {
                let i = symbols.iter().position(|s| s == v);
                long(i.ok_or_else(|| Some(format!("'{v}' is no symbol of the enum")))? as i64, out);
            }
            _ => return Err(None),
        },
        Node::Timestamp(digits) => {
            let (value, from) = match datum {
                Datum::Time { value, digits } => (value, digits),
                Datum::Date(days) => (i64::from(days) * 86_400, 0),
                _ => return Err(None),
            };
            long(
                crate::datum::rescaled(value, from, *digits)
                    .ok_or_else(|| Some("out of range".to_owned()))?,
                out,
            );
        }
        Node::Decimal { precision, scale, fixed } => {
            let value = datum.decimal(*precision, *scale).ok_or_else(|| {
                Some(format!("does not fit a decimal of {precision} digits, {scale} of them after the point"))
            })?;
            decimal(value, *fixed, out)?;
        }
        Node::Array(_) | Node::Map(_) | Node::Union(_) | Node::Record(_) => return Err(None),
    }
    Ok(())
}

/// Big-endian two's complement, as short as it can be where the length is not given.
fn decimal(value: i128, fixed: Option<usize>, out: &mut Vec<u8>) -> Result<(), Option<String>> {
    let all = value.to_be_bytes();
    let fill = if value < 0 { 0xff } else { 0 };
    let spare = (0..15).take_while(|i| all[*i] == fill && (all[i + 1] & 0x80 == fill & 0x80)).count();
    let short = &all[spare..];
    match fixed {
        None => bytes(short, out),
        Some(n) if n < short.len() => return Err(Some(format!("does not fit {n} bytes"))),
        Some(n) => {
            out.extend(std::iter::repeat_n(fill, n - short.len()));
            out.extend(short);
        }
    }
    Ok(())
}

fn block(
    range: std::ops::Range<usize>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(usize, &mut Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    if !range.is_empty() {
        long(range.len() as i64, out);
        for i in range {
            item(i, out)?;
        }
    }
    long(0, out);
    Ok(())
}

/// Zigzag, seven bits a byte, the least first.
pub(super) fn long(value: i64, out: &mut Vec<u8>) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

pub(super) fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend(value);
}
