//! The most frequent values of a group, and its least or greatest ones with what else their rows say.

use super::{Accumulate, Batch, Input, Place, Shape, each, to_output};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::{Array, ArrayRef, ListArray, StructArray, UInt64Array};
use arrow_buffer::OffsetBuffer;
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType, SortOptions};
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use weir_plan::AggregateKind;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 48;

/// Lists over `items`, in the type that was declared.
fn lists(items: ArrayRef, lengths: &[usize], output: &DataType) -> Result<ArrayRef, ArrowError> {
    let DataType::List(item) = output else {
        return Err(ArrowError::InvalidArgumentError(format!("values are collected into {output}")));
    };
    let items = to_output(items, item.data_type())?;
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    Ok(Arc::new(ListArray::try_new(item.clone(), offsets, items, None)?))
}

/// Columns of structs, in the type of the lists they go into.
fn structs(columns: Vec<ArrayRef>, output: &DataType) -> Result<ArrayRef, ArrowError> {
    match output {
        DataType::List(item) => match item.data_type() {
            DataType::Struct(fields) => Ok(Arc::new(StructArray::try_new(fields.clone(), columns, None)?)),
            other => Err(ArrowError::InvalidArgumentError(format!("{other} is no tuple"))),
        },
        other => Err(ArrowError::InvalidArgumentError(format!("values are collected into {other}"))),
    }
}

/// How often each value occurs, exactly.
pub(super) struct TopK {
    k: usize,
    with_count: bool,
    converter: RowConverter,
    counts: Column<HashMap<Box<[u8]>, u64>>,
    bytes: usize,
    output: DataType,
}

impl TopK {
    pub fn new(k: usize, with_count: bool, shape: &Shape) -> Result<Self, ArrowError> {
        Ok(TopK {
            k,
            with_count,
            converter: RowConverter::new(vec![SortField::new(shape.args[0].clone())])?,
            counts: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }

    fn add(&mut self, group: u32, value: &[u8], times: u64) {
        let counts = self.counts.get_mut(group);
        match counts.get_mut(value) {
            Some(n) => *n += times,
            None => {
                self.bytes += value.len() + ENTRY_BYTES;
                counts.insert(value.into(), times);
            }
        }
    }

    /// The most frequent first; of equal ones the least.
    fn top(&self, group: u32) -> Vec<(&[u8], u64)> {
        let held = self.counts.held(group).into_iter().flatten();
        let mut all: Vec<(&[u8], u64)> = held.map(|(v, n)| (&**v, *n)).collect();
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(self.k);
        all
    }
}

impl Accumulate for TopK {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.counts.extend_to(rows.len());
        let values = self.converter.convert_columns(&input.args[..1])?;
        let nulls = input.args[0].logical_nulls();
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| self.add(g, values.row(row).as_ref(), 1));
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let tops: Vec<Vec<(&[u8], u64)>> = groups.iter().map(|g| self.top(*g)).collect();
        let lengths: Vec<usize> = tops.iter().map(Vec::len).collect();
        let parser = self.converter.parser();
        let mut columns = self.converter.convert_rows(tops.iter().flatten().map(|(v, _)| parser.parse(v)))?;
        if self.with_count {
            columns.push(Arc::new(UInt64Array::from_iter_values(tops.iter().flatten().map(|(_, n)| *n))));
            return lists(structs(columns, &self.output)?, &lengths, &self.output);
        }
        lists(columns.swap_remove(0), &lengths, &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.counts.bytes()
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let mut all: Vec<_> = self.counts.held(group).into_iter().flatten().collect();
        all.sort_unstable();
        out.u64(all.len() as u64);
        for (value, n) in all {
            out.bytes(value);
            out.u64(*n);
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.counts.extend_to(rows.len());
        for _ in 0..from.count(16)? {
            let (value, n) = (from.bytes()?, from.u64()?);
            self.add(group, value, n);
        }
        Ok(())
    }
}

/// A row that is among the k: by value, then by place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    value: Box<[u8]>,
    place: Place,
    context: Box<[u8]>,
}

/// The k least (or greatest) values.
pub(super) struct Least {
    k: usize,
    values: RowConverter,
    contexts: RowConverter,
    has_context: bool,
    /// The last of the k on top.
    held: Column<BinaryHeap<Ranked>>,
    bytes: usize,
    output: DataType,
}

impl Least {
    pub fn new(k: usize, shape: &Shape) -> Result<Self, ArrowError> {
        let options =
            SortOptions { descending: matches!(shape.kind, AggregateKind::MaxK { .. }), nulls_first: false };
        let contexts = shape.args[1..].iter().cloned().map(SortField::new).collect();
        Ok(Least {
            k,
            values: RowConverter::new(vec![SortField::new_with_options(shape.args[0].clone(), options)])?,
            contexts: RowConverter::new(contexts)?,
            has_context: shape.args.len() > 1,
            held: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }

    fn offer(&mut self, group: u32, value: &[u8], place: Place, context: &[u8]) {
        let held = self.held.get_mut(group);
        if held.len() == self.k {
            match held.peek() {
                Some(last) if (value, place) < (&*last.value, last.place) => {
                    self.bytes -= size_of_ranked(last);
                    held.pop();
                }
                _ => return,
            }
        }
        let new = Ranked { value: value.into(), place, context: context.into() };
        self.bytes += size_of_ranked(&new);
        held.push(new);
    }
}

fn size_of_ranked(r: &Ranked) -> usize {
    r.value.len() + r.context.len() + ENTRY_BYTES
}

impl Accumulate for Least {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.held.extend_to(rows.len());
        let values = self.values.convert_columns(&input.args[..1])?;
        let contexts = match self.has_context {
            true => Some(self.contexts.convert_columns(&input.args[1..])?),
            false => None,
        };
        let nulls = input.args[0].logical_nulls();
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| {
            let context = contexts.as_ref().map(|c| c.row(row));
            let context: &[u8] = context.as_ref().map_or(&[], |c| c.as_ref());
            self.offer(g, values.row(row).as_ref(), batch.order.at(row), context);
        });
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let sorted = |g: &u32| {
            let mut all: Vec<&Ranked> = self.held.held(*g).into_iter().flatten().collect();
            all.sort_unstable();
            all
        };
        let all: Vec<Vec<&Ranked>> = groups.iter().map(sorted).collect();
        let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
        let parser = self.values.parser();
        let mut columns = self.values.convert_rows(all.iter().flatten().map(|r| parser.parse(&r.value)))?;
        if !self.has_context {
            return lists(columns.swap_remove(0), &lengths, &self.output);
        }
        let parser = self.contexts.parser();
        columns.extend(self.contexts.convert_rows(all.iter().flatten().map(|r| parser.parse(&r.context)))?);
        lists(structs(columns, &self.output)?, &lengths, &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.held.bytes()
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let mut all: Vec<&Ranked> = self.held.held(group).into_iter().flatten().collect();
        all.sort_unstable();
        out.u64(all.len() as u64);
        for r in all {
            out.bytes(&r.value);
            out.i64(r.place.0);
            out.i64(i64::from(r.place.1));
            out.i64(r.place.2);
            out.bytes(&r.context);
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.held.extend_to(rows.len());
        for _ in 0..from.count(40)? {
            let value = from.bytes()?;
            let place = (from.i64()?, from.i64()? as i32, from.i64()?);
            let context = from.bytes()?;
            self.offer(group, value, place, context);
        }
        Ok(())
    }
}
