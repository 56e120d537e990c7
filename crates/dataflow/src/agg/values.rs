//! Aggregates that keep whole values of any type, in Arrow's row format.

use super::{Accumulate, Batch, Input, Place, Shape, each, to_output};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::{Array, ArrayRef, Int64Array, ListArray};
use arrow_buffer::OffsetBuffer;
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use weir_plan::AggregateKind;

type Value = Box<[u8]>;

pub(super) fn converter(t: &DataType) -> Result<RowConverter, ArrowError> {
    RowConverter::new(vec![SortField::new(t.clone())])
}

/// Values back as a column. `None` = NULL.
pub(super) fn column<'a>(
    converter: &RowConverter,
    values: impl Iterator<Item = Option<&'a [u8]>>,
    output: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let parser = converter.parser();
    // A NULL is itself a row of the format.
    let null = null_row(converter)?;
    let rows = values.map(|v| parser.parse(v.unwrap_or(&null)));
    let mut columns = converter.convert_rows(rows)?;
    to_output(columns.pop().expect("one field"), output)
}

fn null_row(converter: &RowConverter) -> Result<Value, ArrowError> {
    let empty = converter.convert_rows(std::iter::empty::<arrow_row::Row<'_>>())?;
    let null = arrow_array::new_null_array(empty[0].data_type(), 1);
    Ok(converter.convert_columns(&[null])?.row(0).as_ref().into())
}

#[derive(Debug, Clone)]
struct Chosen {
    /// What it was chosen by before its place: the second argument of `arg_min`, else empty.
    by: Value,
    place: Place,
    value: Value,
}

/// One value a group: the first, the last, the one with the least or greatest something.
pub(super) struct Pick {
    kind: AggregateKind,
    converter: RowConverter,
    /// Of what decides, where it is not the place.
    by: Option<RowConverter>,
    chosen: Column<Option<Box<Chosen>>>,
    bytes: usize,
    output: DataType,
}

impl Pick {
    pub fn new(shape: &Shape) -> Result<Self, ArrowError> {
        use AggregateKind as K;
        let by = match shape.kind {
            K::Min | K::Max => Some(converter(&shape.args[0])?),
            K::ArgMin | K::ArgMax => Some(converter(&shape.args[1])?),
            _ => None,
        };
        Ok(Pick {
            kind: shape.kind.clone(),
            converter: converter(&shape.args[0])?,
            by,
            chosen: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }
}

impl Pick {
    /// Takes a value where it wins over the one that is held.
    fn offer(&mut self, group: u32, by: &[u8], place: Place, value: &[u8]) {
        use AggregateKind as K;
        let chosen = self.chosen.get_mut(group);
        if let Some(held) = chosen {
            let order = by.cmp(&held.by);
            let greater = matches!(self.kind, K::Max | K::ArgMax);
            let wins = match if greater { order.reverse() } else { order } {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal if matches!(self.kind, K::Last { .. }) => place >= held.place,
                Ordering::Equal => place < held.place,
            };
            if !wins {
                return;
            }
            self.bytes -= size_of_chosen(held);
        }
        let new = Chosen { by: by.into(), place, value: value.into() };
        self.bytes += size_of_chosen(&new);
        *chosen = Some(Box::new(new));
    }
}

fn size_of_chosen(c: &Chosen) -> usize {
    size_of::<Chosen>() + c.by.len() + c.value.len()
}

impl Accumulate for Pick {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        use AggregateKind as K;
        self.chosen.extend_to(rows.len());
        let values = self.converter.convert_columns(&input.args[..1])?;
        let decides = match self.kind {
            K::ArgMin | K::ArgMax => Some(&input.args[1]),
            K::Min | K::Max => Some(&input.args[0]),
            _ => None,
        };
        let by = match (&self.by, decides) {
            (Some(c), Some(array)) => Some(c.convert_columns(std::slice::from_ref(array))?),
            _ => None,
        };
        let nulls = match self.kind {
            K::First { skip_nulls: false } | K::Last { skip_nulls: false } => None,
            K::ArgMin | K::ArgMax => input.args[1].logical_nulls(),
            _ => input.args[0].logical_nulls(),
        };
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| {
            let rank = by.as_ref().map(|b| b.row(row));
            let rank: &[u8] = rank.as_ref().map_or(&[], |r| r.as_ref());
            self.offer(g, rank, batch.order.at(row), values.row(row).as_ref());
        });
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let held = |g: &u32| self.chosen.held(*g).and_then(Option::as_ref).map(|c| &*c.value);
        column(&self.converter, groups.iter().map(held), &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.chosen.bytes()
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let chosen = self.chosen.held(group).and_then(Option::as_ref);
        out.u8(u8::from(chosen.is_some()));
        if let Some(c) = chosen {
            out.bytes(&c.by);
            save_place(c.place, out);
            out.bytes(&c.value);
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.chosen.extend_to(rows.len());
        if from.u8()? == 0 {
            return Ok(());
        }
        let by = from.bytes()?;
        let place = load_place(from)?;
        let value = from.bytes()?;
        self.offer(group, by, place, value);
        Ok(())
    }
}

fn save_place(place: Place, out: &mut Writer) {
    out.i64(place.0);
    out.i64(i64::from(place.1));
    out.i64(place.2);
}

fn load_place(from: &mut Reader<'_>) -> Result<Place, Damaged> {
    Ok((from.i64()?, from.i64()? as i32, from.i64()?))
}

/// All values of a group with their places, or the first of them.
pub(super) struct Collect {
    skip_nulls: bool,
    most: usize,
    converter: RowConverter,
    all: Column<Vec<(Place, Value)>>,
    bytes: usize,
    output: DataType,
}

impl Collect {
    pub fn new(shape: &Shape) -> Result<Self, ArrowError> {
        Ok(Collect {
            skip_nulls: !matches!(shape.kind, AggregateKind::GroupArray { skip_nulls: false }),
            most: match shape.kind {
                AggregateKind::GroupArrayFirst { most } => most,
                _ => usize::MAX,
            },
            converter: converter(&shape.args[0])?,
            all: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }
}

impl Collect {
    /// Takes a value in, unless there are as many before it as are wanted.
    fn offer(&mut self, group: u32, place: Place, value: &[u8]) {
        let all = self.all.get_mut(group);
        if all.len() >= self.most {
            let last = (0..all.len()).max_by_key(|i| all[*i].0);
            match last {
                Some(last) if place < all[last].0 => {
                    self.bytes -= all[last].1.len() + size_of::<(Place, Value)>();
                    all.swap_remove(last);
                }
                _ => return,
            }
        }
        self.bytes += value.len() + size_of::<(Place, Value)>();
        all.push((place, value.into()));
    }
}

impl Accumulate for Collect {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.all.extend_to(rows.len());
        let values = self.converter.convert_columns(&input.args[..1])?;
        let nulls = if self.skip_nulls { input.args[0].logical_nulls() } else { None };
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| {
            self.offer(g, batch.order.at(row), values.row(row).as_ref());
        });
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let lists = groups.iter().map(|g| {
            let mut all: Vec<&(Place, Value)> = self.all.held(*g).into_iter().flatten().collect();
            all.sort_by_key(|(place, _)| *place);
            all.into_iter().map(|(_, v)| &**v).collect()
        });
        list(&self.converter, lists.collect(), &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.all.bytes()
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let all = self.all.held(group).map_or(&[][..], Vec::as_slice);
        out.u64(all.len() as u64);
        for (place, value) in all {
            save_place(*place, out);
            out.bytes(value);
        }
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.all.extend_to(rows.len());
        for _ in 0..from.count(32)? {
            let place = load_place(from)?;
            self.offer(group, place, from.bytes()?);
        }
        Ok(())
    }
}

/// Lists of values; NULL for a group without any, as the bounded aggregate has it.
pub(super) fn list(
    converter: &RowConverter,
    lists: Vec<Vec<&[u8]>>,
    output: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let DataType::List(item) = output else {
        return Err(ArrowError::InvalidArgumentError(format!("values are collected into {output}")));
    };
    let values = column(converter, lists.iter().flatten().map(|v| Some(*v)), item.data_type())?;
    let nulls = lists.iter().map(|l| !l.is_empty()).collect::<Vec<bool>>();
    let offsets = OffsetBuffer::from_lengths(lists.iter().map(Vec::len));
    Ok(Arc::new(ListArray::try_new(item.clone(), offsets, values, Some(nulls.into()))?))
}

/// The distinct values of a group, or their number. NULL is no value.
pub(super) struct Distinct {
    count: bool,
    /// Only the least so many.
    most: usize,
    converter: RowConverter,
    sets: Column<BTreeSet<Value>>,
    bytes: usize,
    output: DataType,
}

/// What an entry of a set costs beside its bytes.
const ENTRY_BYTES: usize = 32;

impl Distinct {
    pub fn new(shape: &Shape) -> Result<Self, ArrowError> {
        Ok(Distinct {
            count: shape.kind == AggregateKind::UniqExact,
            most: match shape.kind {
                AggregateKind::GroupUniqArrayLeast { most } => most,
                _ => usize::MAX,
            },
            converter: converter(&shape.args[0])?,
            sets: Column::default(),
            bytes: 0,
            output: shape.output.data_type().clone(),
        })
    }
}

impl Distinct {
    fn offer(&mut self, group: u32, value: &[u8]) {
        let set = self.sets.get_mut(group);
        if set.contains(value) {
            return;
        }
        if set.len() >= self.most {
            match set.last() {
                Some(last) if value < &**last => {
                    self.bytes -= last.len() + ENTRY_BYTES;
                    set.pop_last();
                }
                _ => return,
            }
        }
        self.bytes += value.len() + ENTRY_BYTES;
        set.insert(value.into());
    }
}

impl Accumulate for Distinct {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.sets.extend_to(rows.len());
        let values = self.converter.convert_columns(&input.args[..1])?;
        let nulls = input.args[0].logical_nulls();
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| {
            self.offer(g, values.row(row).as_ref());
        });
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let empty = BTreeSet::new();
        let set = |g: &u32| self.sets.held(*g).unwrap_or(&empty);
        if self.count {
            let counts = groups.iter().map(|g| set(g).len() as i64);
            return to_output(Arc::new(Int64Array::from_iter_values(counts)), &self.output);
        }
        let lists = groups.iter().map(|g| set(g).iter().map(|v| &**v).collect()).collect();
        list(&self.converter, lists, &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.sets.bytes()
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let set = self.sets.held(group);
        out.u64(set.map_or(0, BTreeSet::len) as u64);
        set.into_iter().flatten().for_each(|v| out.bytes(v));
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.sets.extend_to(rows.len());
        for _ in 0..from.count(8)? {
            self.offer(group, from.bytes()?);
        }
        Ok(())
    }
}
