//! `min_k(x, k[, context…])` and `max_k`: the k least or greatest values, with what else their rows
//! say. Of equal ones the first in the order of the rows.

use super::own::{Own, number};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, ListArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use std::collections::BinaryHeap;
use std::sync::Arc;

const K_MAX: u64 = 65_536;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 32;

/// Rows as bytes that compare as (value, order of rows, context).
#[derive(Debug)]
struct Least {
    k: usize,
    /// Columns between the value and the context.
    orders: usize,
    contexts: usize,
    converter: RowConverter,
    /// The k least; the greatest of them on top.
    held: BinaryHeap<Box<[u8]>>,
    bytes: usize,
    item: DataType,
}

fn item_of(given: &[DataType]) -> DataType {
    match given {
        [value, _] => value.clone(),
        _ => {
            let of = std::iter::once(&given[0]).chain(&given[2..]);
            let fields = of.enumerate().map(|(i, t)| Field::new((i + 1).to_string(), t.clone(), true));
            DataType::Struct(fields.collect::<Fields>())
        }
    }
}

impl Least {
    fn of(args: &AccumulatorArgs<'_>, greatest: bool) -> Result<Self> {
        let Some(k) = number(args, 1, "the k of min_k and max_k", K_MAX)? else {
            return plan_err!("aggregate function {} takes a value and a number k", args.name);
        };
        let types = args.exprs.iter().map(|e| e.data_type(args.schema)).collect::<Result<Vec<DataType>>>()?;
        let first = SortOptions { descending: greatest, nulls_first: false };
        let mut fields = vec![SortField::new_with_options(types[0].clone(), first)];
        for order in args.order_bys {
            let t = order.expr.data_type(args.schema)?;
            fields.push(SortField::new_with_options(t, order.options));
        }
        fields.extend(types[2..].iter().cloned().map(SortField::new));
        Ok(Least {
            k,
            orders: args.order_bys.len(),
            contexts: types.len() - 2,
            converter: RowConverter::new(fields)?,
            held: BinaryHeap::new(),
            bytes: 0,
            item: item_of(&types),
        })
    }

    fn take(&mut self, row: &[u8]) {
        if self.held.len() == self.k {
            match self.held.peek() {
                Some(greatest) if **greatest > *row => self.bytes -= greatest.len() + ENTRY_BYTES,
                _ => return,
            }
            self.held.pop();
        }
        self.bytes += row.len() + ENTRY_BYTES;
        self.held.push(row.into());
    }

    fn sorted(&self) -> Vec<&[u8]> {
        let mut all: Vec<&[u8]> = self.held.iter().map(|r| &**r).collect();
        all.sort_unstable();
        all
    }
}

impl Accumulator for Least {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let mut columns = vec![arrays[0].clone()];
        columns.extend_from_slice(&arrays[2 + self.contexts..2 + self.contexts + self.orders]);
        columns.extend_from_slice(&arrays[2..2 + self.contexts]);
        let nulls = arrays[0].logical_nulls();
        let rows = self.converter.convert_columns(&columns)?;
        for (i, row) in rows.iter().enumerate() {
            if nulls.as_ref().is_none_or(|n| n.is_valid(i)) {
                self.take(row.as_ref());
            }
        }
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let parser = self.converter.parser();
        let mut columns = self.converter.convert_rows(self.sorted().into_iter().map(|r| parser.parse(r)))?;
        columns.drain(1..=self.orders);
        let items: ArrayRef = match &self.item {
            DataType::Struct(fields) if self.contexts > 0 => {
                Arc::new(StructArray::try_new(fields.clone(), columns, None)?)
            }
            _ => columns.swap_remove(0),
        };
        let item = Arc::new(Field::new_list_field(items.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([items.len()]);
        Ok(ScalarValue::List(Arc::new(ListArray::try_new(item, offsets, items, None)?)))
    }
    fn size(&self) -> usize {
        size_of_val(self) + self.converter.size() + self.bytes
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let rows = BinaryArray::from_vec(self.sorted());
        let item = Arc::new(Field::new_list_field(DataType::Binary, true));
        let offsets = OffsetBuffer::from_lengths([rows.len()]);
        Ok(vec![ScalarValue::List(Arc::new(ListArray::new(item, offsets, Arc::new(rows), None)))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for rows in states[0].as_list::<i32>().iter().flatten() {
            for row in rows.as_binary::<i32>().iter().flatten() {
                self.take(row);
            }
        }
        Ok(())
    }
}

fn state(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let rows = DataType::new_list(DataType::Binary, true);
    vec![Arc::new(Field::new(format!("{}[rows]", args.name), rows, true))]
}

fn coerce(given: &[DataType]) -> Result<Vec<DataType>> {
    let mut taken = given.to_vec();
    taken[1] = DataType::UInt64;
    Ok(taken)
}

fn list(given: &[DataType]) -> Result<DataType> {
    Ok(DataType::new_list(item_of(given), true))
}

/// `min_k(x, k[, context…])`.
pub(super) fn min_k() -> Arc<AggregateUDF> {
    Own::new("min_k", (2, 16), list, state, |args| Ok(Box::new(Least::of(args, false)?)))
        .coerce(coerce)
        .ordered()
        .udaf()
}

/// `max_k(x, k[, context…])`.
pub(super) fn max_k() -> Arc<AggregateUDF> {
    Own::new("max_k", (2, 16), list, state, |args| Ok(Box::new(Least::of(args, true)?)))
        .coerce(coerce)
        .ordered()
        .udaf()
}
