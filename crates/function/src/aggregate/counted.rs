//! Aggregates over how often each value occurs: `top_k`, `group_uniq_array`, `any_heavy`, `entropy`.
//!
//! Counts are exact, so that order and batches change nothing; memory goes with distinct values and
//! is accounted for. Of values that occur equally often the lesser comes first.

use super::own::{Own, number};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, UInt64Type};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use std::collections::HashMap;
use std::sync::Arc;

const K_MAX: u64 = 65_536;
const K_DEFAULT: usize = 10;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Finish {
    /// The distinct values, ascending; at most so many.
    Distinct(Option<usize>),
    /// The most frequent, with how often where wanted.
    Top { k: usize, with_count: bool },
    /// The most frequent one.
    Heavy,
    /// Shannon's, in bits.
    Entropy,
}

#[derive(Debug)]
struct Counts {
    finish: Finish,
    value_type: DataType,
    converter: RowConverter,
    counts: HashMap<Box<[u8]>, u64>,
    bytes: usize,
}

/// The fields of `(value, count)`.
fn pair(value: &DataType) -> Fields {
    vec![Field::new("1", value.clone(), true), Field::new("2", DataType::UInt64, false)].into()
}

impl Counts {
    fn new(finish: Finish, value_type: DataType) -> Result<Self> {
        let converter = RowConverter::new(vec![SortField::new(value_type.clone())])?;
        Ok(Counts { finish, value_type, converter, counts: HashMap::new(), bytes: 0 })
    }

    fn take(&mut self, rows: &Rows, values: &ArrayRef, n: impl Fn(usize) -> u64) {
        let nulls = values.logical_nulls();
        for row in 0..values.len() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let bytes = rows.row(row);
            match self.counts.get_mut(bytes.as_ref()) {
                Some(count) => *count += n(row),
                None => {
                    self.bytes += bytes.as_ref().len() + ENTRY_BYTES;
                    self.counts.insert(bytes.as_ref().into(), n(row));
                }
            }
        }
    }

    /// Ascending.
    fn sorted(&self) -> Vec<(&[u8], u64)> {
        let mut all: Vec<(&[u8], u64)> = self.counts.iter().map(|(v, n)| (&**v, *n)).collect();
        all.sort_unstable();
        all
    }

    /// The most frequent first.
    fn top(&self, k: usize) -> Vec<(&[u8], u64)> {
        let mut all = self.sorted();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        all.truncate(k);
        all
    }

    fn values(&self, all: &[(&[u8], u64)]) -> Result<ArrayRef> {
        let parser = self.converter.parser();
        let mut columns = self.converter.convert_rows(all.iter().map(|(v, _)| parser.parse(v)))?;
        Ok(columns.pop().expect("one field"))
    }
}

fn one_list(values: ArrayRef) -> ScalarValue {
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ScalarValue::List(Arc::new(ListArray::new(item, offsets, values, None)))
}

fn counts_of(all: &[(&[u8], u64)]) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(all.iter().map(|(_, n)| *n)))
}

impl Accumulator for Counts {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let rows = self.converter.convert_columns(&arrays[..1])?;
        self.take(&rows, &arrays[0], |_| 1);
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(match self.finish {
            Finish::Distinct(most) => {
                let mut all = self.sorted();
                all.truncate(most.unwrap_or(usize::MAX));
                one_list(self.values(&all)?)
            }
            Finish::Top { k, with_count } => {
                let all = self.top(k);
                let values = self.values(&all)?;
                if with_count {
                    let pairs = StructArray::new(pair(&self.value_type), vec![values, counts_of(&all)], None);
                    one_list(Arc::new(pairs))
                } else {
                    one_list(values)
                }
            }
            Finish::Heavy => match self.top(1).as_slice() {
                [] => ScalarValue::try_from(&self.value_type)?,
                all => ScalarValue::try_from_array(&self.values(all)?, 0)?,
            },
            Finish::Entropy => {
                let total = self.counts.values().sum::<u64>() as f64;
                // Ascending, so that rounding is the same whatever came first.
                let share = |n: u64| n as f64 / total;
                let bits: f64 = self.sorted().iter().map(|(_, n)| -share(*n) * share(*n).log2()).sum();
                ScalarValue::Float64((!self.counts.is_empty()).then_some(bits + 0.0))
            }
        })
    }
    fn size(&self) -> usize {
        size_of_val(self) + self.converter.size() + self.bytes
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let all = self.sorted();
        Ok(vec![one_list(self.values(&all)?), one_list(counts_of(&all))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (values, counts) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for row in 0..values.len() {
            if values.is_null(row) {
                continue;
            }
            let (v, n) = (values.value(row), counts.value(row));
            let n = n.as_primitive::<UInt64Type>();
            let rows = self.converter.convert_columns(std::slice::from_ref(&v))?;
            self.take(&rows, &v, |i| n.value(i));
        }
        Ok(())
    }
}

fn state(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let list = |t: DataType| DataType::new_list(t, true);
    vec![
        Arc::new(Field::new(
            format!("{}[values]", args.name),
            list(args.input_fields[0].data_type().clone()),
            true,
        )),
        Arc::new(Field::new(format!("{}[counts]", args.name), list(DataType::UInt64), true)),
    ]
}

fn of(args: &AccumulatorArgs<'_>, finish: Finish) -> Result<Box<dyn Accumulator>> {
    Ok(Box::new(Counts::new(finish, args.exprs[0].data_type(args.schema)?)?))
}

fn list_of_first(given: &[DataType]) -> Result<DataType> {
    Ok(DataType::new_list(given[0].clone(), true))
}

fn k_of(args: &AccumulatorArgs<'_>) -> Result<usize> {
    Ok(number(args, 1, "the k of top_k", K_MAX)?.unwrap_or(K_DEFAULT))
}

/// `top_k(x[, k])`.
pub(super) fn top_k() -> Arc<AggregateUDF> {
    Own::new("top_k", (1, 2), list_of_first, state, |args| {
        of(args, Finish::Top { k: k_of(args)?, with_count: false })
    })
    .aliases(&["top_k_exact"])
    .udaf()
}

/// `top_k(x, k, true)`: the binder writes it so, since the result has another type.
pub(super) fn top_k_with_count() -> Arc<AggregateUDF> {
    let pairs = |given: &[DataType]| Ok(DataType::new_list(DataType::Struct(pair(&given[0])), true));
    Own::new("top_k_with_count", (1, 2), pairs, state, |args| {
        of(args, Finish::Top { k: k_of(args)?, with_count: true })
    })
    .udaf()
}

/// `any_heavy(x)`.
pub(super) fn any_heavy() -> Arc<AggregateUDF> {
    Own::new("any_heavy", (1, 1), |given| Ok(given[0].clone()), state, |args| of(args, Finish::Heavy)).udaf()
}

/// `entropy(x)`.
pub(super) fn entropy() -> Arc<AggregateUDF> {
    Own::new("entropy", (1, 1), |_| Ok(DataType::Float64), state, |args| of(args, Finish::Entropy)).udaf()
}

/// `group_uniq_array(x[, most])`.
pub(super) fn group_uniq_array() -> Arc<AggregateUDF> {
    Own::new("group_uniq_array", (1, 2), list_of_first, state, |args| {
        let most = number(args, 1, "the size of group_uniq_array", u64::from(u32::MAX))?;
        of(args, Finish::Distinct(most))
    })
    .udaf()
}
