//! Aggregates under Weir's names.
//!
//! Most are another spelling of a DataFusion aggregate: `sum_if(x, c)` is
//! `sum(x) FILTER (WHERE c)`, `arg_max(x, y)` the last `x` ordered by `y`. Such a [`Rewrite`]
//! states its result type and is replaced when the plan is simplified.

use crate::top_k::TopK;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::functions_aggregate::{
    any_value, approx_distinct, approx_percentile_cont, array_agg, average, bit_and_or_xor, correlation,
    count, covariance, first_last, min_max, percentile_cont, stddev, sum, variance,
};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, ExprFunctionExt, Signature, Volatility, cast, lit,
};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Aggregates whose arguments are brought to the type of their result.
const WIDENED: &[&str] = &[
    "sum_if",
    "avg_if",
    "var_pop",
    "var_samp",
    "stddev_pop",
    "stddev_samp",
    "covar_pop",
    "covar_samp",
    "quantile",
    "quantile_exact",
    "median",
    "p90",
    "p95",
    "p99",
];

type Line = (Arc<AggregateUDF>, &'static str, &'static str);
type ResultType = fn(&[DataType]) -> Result<DataType>;
type Rewriter = Arc<dyn Fn(AggregateFunctionParams) -> Result<Expr> + Send + Sync>;

/// An aggregate that is another one, written differently.
struct Rewrite {
    name: &'static str,
    aliases: Vec<String>,
    /// Least and greatest number of arguments.
    arguments: (usize, usize),
    result: ResultType,
    /// Arguments are brought to the result's type first (sums, means, deviations).
    widens: bool,
    rewrite: Rewriter,
    signature: Signature,
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Rewrite {}
impl Hash for Rewrite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl AggregateUDFImpl for Rewrite {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let (least, most) = self.arguments;
        if given.len() < least || given.len() > most {
            return plan_err!(
                "number of arguments of aggregate function {} does not match: {} given, {least} to {most} wanted",
                self.name,
                given.len()
            );
        }
        // The inner aggregate comes after coercion, so its types are brought about here.
        let wanted = (self.result)(given)?;
        let mut coerced = given.to_vec();
        if self.widens && given[0].is_numeric() {
            coerced.fill(wanted.clone());
            coerced[0] = wanted;
        }
        if self.name.ends_with("_if") {
            *coerced.last_mut().expect("at least one argument, checked above") = DataType::Boolean;
        }
        Ok(coerced)
    }
    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        (self.result)(given)
    }
    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        exec_err!("{} was not rewritten when the plan was simplified", self.name)
    }
    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<arrow::datatypes::FieldRef>> {
        exec_err!("{} was not rewritten when the plan was simplified", self.name)
    }
    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let rewrite = self.rewrite.clone();
        Some(Box::new(move |f: AggregateFunction, _| rewrite(f.params)))
    }
}

fn rewrite(
    name: &'static str,
    aliases: &[&str],
    arguments: (usize, usize),
    result: ResultType,
    f: impl Fn(AggregateFunctionParams) -> Result<Expr> + Send + Sync + 'static,
) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(Rewrite {
        name,
        aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        arguments,
        result,
        widens: WIDENED.contains(&name),
        rewrite: Arc::new(f),
        signature: Signature::user_defined(Volatility::Immutable),
    }))
}

fn float64(_: &[DataType]) -> Result<DataType> {
    Ok(DataType::Float64)
}
fn uint64(_: &[DataType]) -> Result<DataType> {
    Ok(DataType::UInt64)
}
fn int64(_: &[DataType]) -> Result<DataType> {
    Ok(DataType::Int64)
}
fn first(given: &[DataType]) -> Result<DataType> {
    Ok(given[0].clone())
}
fn list_of_first(given: &[DataType]) -> Result<DataType> {
    Ok(DataType::new_list(given[0].clone(), true))
}
fn as_sum(given: &[DataType]) -> Result<DataType> {
    Ok(match &given[0] {
        DataType::Decimal128(p, s) => DataType::Decimal128((*p + 10).min(38), *s),
        t if t.is_signed_integer() => DataType::Int64,
        t if t.is_unsigned_integer() || *t == DataType::Boolean => DataType::UInt64,
        t if t.is_floating() || *t == DataType::Null => DataType::Float64,
        other => {
            return plan_err!(
                "illegal type {other} of argument 1 of aggregate function sum_if; it takes a number"
            );
        }
    })
}

/// `inner` over the first arguments, keeping FILTER and DISTINCT of the call.
fn call(inner: Arc<AggregateUDF>, args: Vec<Expr>, p: AggregateFunctionParams) -> Expr {
    Expr::AggregateFunction(AggregateFunction {
        func: inner,
        params: AggregateFunctionParams {
            args,
            order_by: p.order_by,
            distinct: p.distinct,
            filter: p.filter,
            null_treatment: p.null_treatment,
        },
    })
}

fn and_filter(mut p: AggregateFunctionParams, condition: Expr) -> AggregateFunctionParams {
    let condition = cast(condition, DataType::Boolean);
    p.filter = Some(Box::new(match p.filter.take() {
        Some(f) => f.and(condition),
        None => condition,
    }));
    p
}

/// The aggregate over rows where its last argument holds.
fn with_if(name: &'static str, result: ResultType, inner: fn() -> Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    rewrite(name, &[], (1, 8), result, move |mut p| {
        let Some(condition) = p.args.pop() else {
            return plan_err!("{name} takes a condition as its last argument");
        };
        let mut p = and_filter(p, condition);
        let mut args = std::mem::take(&mut p.args);
        if args.is_empty() {
            args.push(lit(1i64));
        }
        Ok(call(inner(), args, p))
    })
}

fn quantile_of(p: AggregateFunctionParams, level: Expr, exact: bool) -> Result<Expr> {
    let x = cast(p.args[0].clone(), DataType::Float64);
    let sort = Sort::new(x, true, false);
    let expr = if exact {
        percentile_cont::percentile_cont(sort, level)
    } else {
        approx_percentile_cont::approx_percentile_cont(sort, level, None)
    };
    match p.filter {
        Some(f) => expr.filter(*f).build(),
        None => Ok(expr),
    }
}

fn fixed_quantile(name: &'static str, aliases: &[&str], level: f64) -> Arc<AggregateUDF> {
    rewrite(name, aliases, (1, 1), float64, move |p| quantile_of(p, lit(level), false))
}

fn level_of(p: &AggregateFunctionParams) -> Expr {
    p.args.get(1).cloned().unwrap_or_else(|| lit(0.5f64))
}

/// The first (or last) x in the order of y.
fn arg_extreme(name: &'static str, aliases: &[&str], ascending: bool) -> Arc<AggregateUDF> {
    rewrite(name, aliases, (2, 2), first, move |mut p| {
        let y = p.args.pop().expect("two arguments, checked by coerce_types");
        // A null y never wins.
        let mut p = and_filter(p, y.clone().is_not_null());
        p.order_by = vec![Sort::new(y, ascending, false)];
        let args = std::mem::take(&mut p.args);
        Ok(call(first_last::first_value_udaf(), args, p))
    })
}

fn not_null(p: AggregateFunctionParams) -> AggregateFunctionParams {
    let x = p.args[0].clone();
    and_filter(p, x.is_not_null())
}

fn renamed(
    name: &'static str,
    aliases: &[&str],
    result: ResultType,
    inner: fn() -> Arc<AggregateUDF>,
) -> Arc<AggregateUDF> {
    rewrite(name, aliases, (1, 2), result, move |mut p| {
        let args = std::mem::take(&mut p.args);
        Ok(call(inner(), args, p))
    })
}

pub(crate) fn functions() -> Vec<Line> {
    let list_rewrite = |name, aliases: &[&str], distinct: bool| {
        rewrite(name, aliases, (1, 1), list_of_first, move |p| {
            let mut p = not_null(p);
            p.distinct |= distinct;
            let args = std::mem::take(&mut p.args);
            Ok(call(array_agg::array_agg_udaf(), args, p))
        })
    };
    vec![
        (sum::sum_udaf(), "sum(x)", "sum; 64 bits wide for integers"),
        (count::count_udaf(), "count([x])", "rows, or values that are not null"),
        (average::avg_udaf(), "avg(x)", "arithmetic mean"),
        (min_max::min_udaf(), "min(x)", "least value"),
        (min_max::max_udaf(), "max(x)", "greatest value"),
        (
            with_if("count_if", int64, count::count_udaf),
            "count_if(condition)",
            "rows where the condition holds",
        ),
        (with_if("sum_if", as_sum, sum::sum_udaf), "sum_if(x, condition)", "sum where the condition holds"),
        (
            with_if("avg_if", float64, average::avg_udaf),
            "avg_if(x, condition)",
            "mean where the condition holds",
        ),
        (
            with_if("min_if", first, min_max::min_udaf),
            "min_if(x, condition)",
            "least where the condition holds",
        ),
        (
            with_if("max_if", first, min_max::max_udaf),
            "max_if(x, condition)",
            "greatest where the condition holds",
        ),
        (
            with_if("any_if", first, any_value::any_value_udaf),
            "any_if(x, condition)",
            "some value where the condition holds",
        ),
        (
            with_if("uniq_if", uint64, approx_distinct::approx_distinct_udaf),
            "uniq_if(x, condition)",
            "distinct values where the condition holds, about",
        ),
        (
            renamed(
                "uniq",
                &[
                    "unique",
                    "approx_count_distinct",
                    "uniq_hll12",
                    "unique_hll12",
                    "uniq_combined",
                    "unique_combined",
                ],
                uint64,
                approx_distinct::approx_distinct_udaf,
            ),
            "uniq(x)",
            "number of distinct values, about (HyperLogLog)",
        ),
        (
            rewrite("uniq_exact", &["unique_exact", "count_distinct"], (1, 1), int64, |mut p| {
                p.distinct = true;
                let args = std::mem::take(&mut p.args);
                Ok(call(count::count_udaf(), args, p))
            }),
            "uniq_exact(x)",
            "number of distinct values",
        ),
        (
            rewrite(
                "quantile",
                &["quantile_t_digest", "quantile_timing", "quantile_dd"],
                (1, 2),
                float64,
                |p| {
                    let level = level_of(&p);
                    quantile_of(p, level, false)
                },
            ),
            "quantile(x[, level])",
            "value below which that share of rows lies, about (t-digest)",
        ),
        (
            rewrite("quantile_exact", &["quantile_exact_inclusive"], (1, 2), float64, |p| {
                let level = level_of(&p);
                quantile_of(p, level, true)
            }),
            "quantile_exact(x[, level])",
            "the same, exact, interpolated",
        ),
        (fixed_quantile("median", &[], 0.5), "median(x)", "quantile 0.5"),
        (fixed_quantile("p90", &[], 0.9), "p90(x)", "quantile 0.9"),
        (fixed_quantile("p95", &[], 0.95), "p95(x)", "quantile 0.95"),
        (fixed_quantile("p99", &[], 0.99), "p99(x)", "quantile 0.99"),
        (
            renamed("any", &["any_value"], first, any_value::any_value_udaf),
            "any(x)",
            "some value that is not null",
        ),
        (
            renamed("first_value", &[], first, first_last::first_value_udaf),
            "first_value(x)",
            "the first value read",
        ),
        (
            renamed("last_value", &["any_last"], first, first_last::last_value_udaf),
            "last_value(x)",
            "the last value read",
        ),
        (arg_extreme("arg_min", &[], true), "arg_min(x, y)", "x of the row with the least y"),
        (arg_extreme("arg_max", &[], false), "arg_max(x, y)", "x of the row with the greatest y"),
        (list_rewrite("group_array", &[], false), "group_array(x)", "all values as an array"),
        (list_rewrite("group_uniq_array", &[], true), "group_uniq_array(x)", "distinct values as an array"),
        (
            renamed("var_pop", &[], float64, variance::var_pop_udaf),
            "var_pop(x)",
            "variance of the population",
        ),
        (renamed("var_samp", &[], float64, variance::var_samp_udaf), "var_samp(x)", "variance of a sample"),
        (
            renamed("stddev_pop", &[], float64, stddev::stddev_pop_udaf),
            "stddev_pop(x)",
            "standard deviation of the population",
        ),
        (
            renamed("stddev_samp", &[], float64, stddev::stddev_udaf),
            "stddev_samp(x)",
            "standard deviation of a sample",
        ),
        (
            renamed("covar_pop", &[], float64, covariance::covar_pop_udaf),
            "covar_pop(x, y)",
            "covariance of the population",
        ),
        (
            renamed("covar_samp", &[], float64, covariance::covar_samp_udaf),
            "covar_samp(x, y)",
            "covariance of a sample",
        ),
        (correlation::corr_udaf(), "corr(x, y)", "Pearson's correlation"),
        (
            renamed("group_bit_and", &[], first, bit_and_or_xor::bit_and_udaf),
            "group_bit_and(x)",
            "bitwise and of all",
        ),
        (
            renamed("group_bit_or", &[], first, bit_and_or_xor::bit_or_udaf),
            "group_bit_or(x)",
            "bitwise or of all",
        ),
        (
            renamed("group_bit_xor", &[], first, bit_and_or_xor::bit_xor_udaf),
            "group_bit_xor(x)",
            "bitwise exclusive or of all",
        ),
        (
            Arc::new(AggregateUDF::new_from_impl(TopK::new())),
            "top_k(x, k)",
            "the k most frequent values, about (Space-Saving)",
        ),
    ]
}
