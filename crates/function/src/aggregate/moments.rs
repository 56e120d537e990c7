//! Aggregates of a few numbers a group: skewness, kurtosis, `sum_count`, `avg_weighted`.

use super::own::Own;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, StructArray, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::StateFieldsArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use std::sync::Arc;

fn numbers(args: &StateFieldsArgs<'_>, n: usize) -> Vec<FieldRef> {
    (0..n)
        .map(|i| Arc::new(Field::new(format!("{}[{i}]", args.name), DataType::Float64, true)) as FieldRef)
        .collect()
}

fn floats(given: &[DataType]) -> Result<Vec<DataType>> {
    match given.iter().find(|t| !t.is_numeric() && **t != DataType::Null) {
        Some(other) => {
            plan_err!("illegal type {other} of an argument of an aggregate function; it takes a number")
        }
        None => Ok(vec![DataType::Float64; given.len()]),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    SkewPop,
    SkewSamp,
    KurtPop,
    KurtSamp,
}

/// Central moments, merged as by Pébay (SAND2008-6212).
#[derive(Debug)]
struct Moments {
    shape: Shape,
    n: f64,
    mean: f64,
    m2: f64,
    m3: f64,
    m4: f64,
}

impl Moments {
    fn new(shape: Shape) -> Self {
        Moments { shape, n: 0.0, mean: 0.0, m2: 0.0, m3: 0.0, m4: 0.0 }
    }

    fn merge(&mut self, nb: f64, mean: f64, m2: f64, m3: f64, m4: f64) {
        if nb == 0.0 {
            return;
        }
        let na = self.n;
        let n = na + nb;
        let d = mean - self.mean;
        let (a2, a3) = (self.m2, self.m3);
        self.m4 += m4
            + d.powi(4) * na * nb * (na * na - na * nb + nb * nb) / n.powi(3)
            + 6.0 * d * d * (na * na * m2 + nb * nb * a2) / (n * n)
            + 4.0 * d * (na * m3 - nb * a3) / n;
        self.m3 += m3 + d.powi(3) * na * nb * (na - nb) / (n * n) + 3.0 * d * (na * m2 - nb * a2) / n;
        self.m2 += m2 + d * d * na * nb / n;
        self.mean += d * nb / n;
        self.n = n;
    }
}

impl Accumulator for Moments {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        arrays[0]
            .as_primitive::<Float64Type>()
            .iter()
            .flatten()
            .for_each(|x| self.merge(1.0, x, 0.0, 0.0, 0.0));
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sample = matches!(self.shape, Shape::SkewSamp | Shape::KurtSamp);
        let variance = self.m2 / if sample { self.n - 1.0 } else { self.n };
        let value = match self.shape {
            Shape::SkewPop | Shape::SkewSamp => self.m3 / self.n / variance.powf(1.5),
            Shape::KurtPop | Shape::KurtSamp => self.m4 / self.n / (variance * variance),
        };
        Ok(ScalarValue::Float64((self.n > 0.0).then_some(value)))
    }
    fn size(&self) -> usize {
        size_of_val(self)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok([self.n, self.mean, self.m2, self.m3, self.m4].map(|v| ScalarValue::Float64(Some(v))).to_vec())
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let of = |i: usize| states[i].as_primitive::<Float64Type>();
        for row in 0..states[0].len() {
            self.merge(
                of(0).value(row),
                of(1).value(row),
                of(2).value(row),
                of(3).value(row),
                of(4).value(row),
            );
        }
        Ok(())
    }
}

/// `skew_pop(x)` and its like.
pub(super) fn shapes() -> [Arc<AggregateUDF>; 4] {
    let own = |name, one| {
        Own::new(name, (1, 1), |_| Ok(DataType::Float64), |args| numbers(args, 5), one).coerce(floats).udaf()
    };
    [
        own("skew_pop", |_| Ok(Box::new(Moments::new(Shape::SkewPop)))),
        own("skew_samp", |_| Ok(Box::new(Moments::new(Shape::SkewSamp)))),
        own("kurt_pop", |_| Ok(Box::new(Moments::new(Shape::KurtPop)))),
        own("kurt_samp", |_| Ok(Box::new(Moments::new(Shape::KurtSamp)))),
    ]
}

/// Sums of weighted values and of weights.
#[derive(Debug, Default)]
struct Weighted {
    values: f64,
    weights: f64,
}

impl Accumulator for Weighted {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let (x, w) = (arrays[0].as_primitive::<Float64Type>(), arrays[1].as_primitive::<Float64Type>());
        for (x, w) in x.iter().zip(w).filter_map(|(x, w)| Some((x?, w?))) {
            self.values += x * w;
            self.weights += w;
        }
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64((self.weights != 0.0).then(|| self.values / self.weights)))
    }
    fn size(&self) -> usize {
        size_of_val(self)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok([self.values, self.weights].map(|v| ScalarValue::Float64(Some(v))).to_vec())
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let sum = |i: usize| states[i].as_primitive::<Float64Type>().iter().flatten().sum::<f64>();
        self.values += sum(0);
        self.weights += sum(1);
        Ok(())
    }
}

/// `avg_weighted(x, weight)`.
pub(super) fn avg_weighted() -> Arc<AggregateUDF> {
    Own::new(
        "avg_weighted",
        (2, 2),
        |_| Ok(DataType::Float64),
        |args| numbers(args, 2),
        |_| Ok(Box::new(Weighted::default())),
    )
    .coerce(floats)
    .udaf()
}

/// A sum in 64 bits and the number of values.
#[derive(Debug)]
enum SumCount {
    Signed(i64, u64),
    Unsigned(u64, u64),
    Float(f64, u64),
}

impl SumCount {
    fn count(&mut self) -> &mut u64 {
        let (SumCount::Signed(_, n) | SumCount::Unsigned(_, n) | SumCount::Float(_, n)) = self;
        n
    }

    fn add(&mut self, values: &ArrayRef) {
        match self {
            SumCount::Signed(sum, _) => {
                let all = values.as_primitive::<Int64Type>();
                *sum = all.iter().flatten().fold(*sum, i64::wrapping_add);
            }
            SumCount::Unsigned(sum, _) => {
                let all = values.as_primitive::<UInt64Type>();
                *sum = all.iter().flatten().fold(*sum, u64::wrapping_add);
            }
            SumCount::Float(sum, _) => {
                *sum += values.as_primitive::<Float64Type>().iter().flatten().sum::<f64>()
            }
        }
    }
}

fn sum_type(t: &DataType) -> Result<DataType> {
    Ok(match t {
        t if t.is_signed_integer() => DataType::Int64,
        t if t.is_unsigned_integer() || *t == DataType::Boolean => DataType::UInt64,
        t if t.is_numeric() || *t == DataType::Null => DataType::Float64,
        other => return plan_err!("illegal type {other} of argument 1 of sum_count; it takes a number"),
    })
}

fn sum_and_count(t: &DataType) -> Fields {
    vec![Field::new("1", t.clone(), true), Field::new("2", DataType::UInt64, true)].into()
}

impl Accumulator for SumCount {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.add(&arrays[0]);
        *self.count() += (arrays[0].len() - arrays[0].logical_null_count()) as u64;
        Ok(())
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let state = self.state()?;
        let (sum, count) = (state[0].to_array()?, state[1].to_array()?);
        let fields = sum_and_count(sum.data_type());
        Ok(ScalarValue::Struct(Arc::new(StructArray::try_new(fields, vec![sum, count], None)?)))
    }
    fn size(&self) -> usize {
        size_of_val(self)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum: ArrayRef = match self {
            SumCount::Signed(sum, _) => Arc::new(Int64Array::from(vec![*sum])),
            SumCount::Unsigned(sum, _) => Arc::new(UInt64Array::from(vec![*sum])),
            SumCount::Float(sum, _) => Arc::new(Float64Array::from(vec![*sum])),
        };
        Ok(vec![ScalarValue::try_from_array(&sum, 0)?, ScalarValue::UInt64(Some(*self.count()))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.add(&states[0]);
        *self.count() += states[1].as_primitive::<UInt64Type>().iter().flatten().sum::<u64>();
        Ok(())
    }
}

/// `sum_count(x)`: a tuple.
pub(super) fn sum_count() -> Arc<AggregateUDF> {
    Own::new(
        "sum_count",
        (1, 1),
        |given| Ok(DataType::Struct(sum_and_count(&sum_type(&given[0])?))),
        |args| {
            let sum = args.input_fields[0].data_type().clone();
            vec![
                Arc::new(Field::new(format!("{}[sum]", args.name), sum, true)),
                Arc::new(Field::new(format!("{}[count]", args.name), DataType::UInt64, true)),
            ]
        },
        |args| {
            Ok(Box::new(match args.exprs[0].data_type(args.schema)? {
                DataType::Int64 => SumCount::Signed(0, 0),
                DataType::UInt64 => SumCount::Unsigned(0, 0),
                _ => SumCount::Float(0.0, 0),
            }))
        },
    )
    .coerce(|given| Ok(vec![sum_type(&given[0])?]))
    .udaf()
}
