//! `top_k(x, k)`: the most frequent values, after Metwally, Agrawal and El Abbadi,
//! "Efficient Computation of Frequent and Top-k Elements in Data Streams" (Space-Saving).
//!
//! Exact while there are at most [`COUNTERS_PER_K`] × k distinct values; beyond that a new
//! value takes over the least counter.

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};
use datafusion::physical_expr::expressions::Literal;
use std::collections::HashMap;
use std::sync::Arc;

const COUNTERS_PER_K: usize = 64;
const K_MAX: u64 = 65_536;
const K_DEFAULT: u64 = 10;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopK {
    signature: Signature,
}

impl TopK {
    pub(crate) fn new() -> Self {
        TopK { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for TopK {
    fn name(&self) -> &str {
        "top_k"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [x] => Ok(vec![x.clone()]),
            [x, k] if k.is_integer() => Ok(vec![x.clone(), DataType::UInt64]),
            _ => plan_err!("top_k takes a value and a constant number k"),
        }
    }
    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        Ok(DataType::new_list(given[0].clone(), true))
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let k = match args.exprs.get(1) {
            None => K_DEFAULT,
            Some(e) => match e.downcast_ref::<Literal>().map(Literal::value) {
                Some(ScalarValue::UInt64(Some(k))) if (1..=K_MAX).contains(k) => *k,
                _ => return plan_err!("top_k takes a constant k of 1 to {K_MAX}"),
            },
        };
        Ok(Box::new(Counters {
            k: k as usize,
            value_type: args.exprs[0].data_type(args.schema)?,
            counts: HashMap::new(),
        }))
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let values = DataType::new_list(args.input_fields[0].data_type().clone(), true);
        Ok(vec![
            Arc::new(Field::new(format!("{}[values]", args.name), values, true)),
            Arc::new(Field::new(
                format!("{}[counts]", args.name),
                DataType::new_list(DataType::UInt64, true),
                true,
            )),
        ])
    }
}

#[derive(Debug)]
struct Counters {
    k: usize,
    value_type: DataType,
    counts: HashMap<ScalarValue, u64>,
}

impl Counters {
    fn add(&mut self, value: ScalarValue, by: u64) {
        if let Some(n) = self.counts.get_mut(&value) {
            *n += by;
            return;
        }
        if self.counts.len() >= self.k * COUNTERS_PER_K {
            self.shrink();
        }
        self.counts.insert(value, by);
    }

    /// Drops the lesser half. Dropping many at once keeps an insert cheap; a value that comes
    /// back starts anew, so counts are never too high.
    fn shrink(&mut self) {
        let keep = self.k * COUNTERS_PER_K / 2;
        let mut all: Vec<(ScalarValue, u64)> = self.counts.drain().collect();
        all.select_nth_unstable_by(keep, |a, b| b.1.cmp(&a.1));
        all.truncate(keep);
        self.counts.extend(all);
    }

    fn sorted(&self) -> Vec<(&ScalarValue, u64)> {
        let mut all: Vec<_> = self.counts.iter().map(|(v, n)| (v, *n)).collect();
        all.sort_by(|a, b| {
            b.1.cmp(&a.1).then_with(|| a.0.partial_cmp(b.0).unwrap_or(std::cmp::Ordering::Equal))
        });
        all
    }

    fn list<'a>(&self, values: impl Iterator<Item = &'a ScalarValue>) -> ScalarValue {
        let values: Vec<ScalarValue> = values.cloned().collect();
        ScalarValue::List(ScalarValue::new_list_nullable(&values, &self.value_type))
    }
}

impl Accumulator for Counters {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        for i in 0..arrays[0].len() {
            if arrays[0].is_valid(i) {
                self.add(ScalarValue::try_from_array(&arrays[0], i)?.compacted(), 1);
            }
        }
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let top: Vec<&ScalarValue> = self.sorted().into_iter().take(self.k).map(|(v, _)| v).collect();
        Ok(self.list(top.into_iter()))
    }
    fn size(&self) -> usize {
        let values: usize = self.counts.keys().map(ScalarValue::size).sum();
        size_of_val(self) + values + self.counts.len() * 16
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let all = self.sorted();
        let counts = UInt64Array::from_iter_values(all.iter().map(|(_, n)| *n));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([counts.len()]);
        let field = Arc::new(Field::new_list_field(DataType::UInt64, true));
        Ok(vec![
            self.list(all.iter().map(|(v, _)| *v)),
            ScalarValue::List(Arc::new(ListArray::new(field, offsets, Arc::new(counts), None))),
        ])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (values, counts) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for row in 0..values.len() {
            let (v, n) = (values.value(row), counts.value(row));
            let n = n.as_primitive::<UInt64Type>();
            for i in 0..v.len() {
                self.add(ScalarValue::try_from_array(&v, i)?.compacted(), n.value(i));
            }
        }
        Ok(())
    }
}
