//! Aggregates under Weir's names.
//!
//! Some are another spelling of a DataFusion aggregate: `arg_max(x, y)` is the first `x` ordered by
//! `y`. Such a [`Rewrite`] states its result type and is replaced when the plan is simplified. Those
//! with a state of our own ([`own::Own`]) give the same over a stream.
//!
//! Those that depend on the order of rows say so; the binder then gives them the order. It also
//! makes `sum_if(x, c)` of `sum`, and `sum_distinct`.

mod collected;
mod counted;
mod events;
mod least;
mod maps;
mod moments;
mod own;
mod rewrite;
mod sequence;
mod sketched;

use arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::functions_aggregate::{
    array_agg, average, bit_and_or_xor, correlation, count, covariance, first_last, min_max, percentile_cont,
    stddev, sum, variance,
};
use datafusion::logical_expr::expr::{NullTreatment, Sort};
use datafusion::logical_expr::{AggregateUDF, ExprFunctionExt, cast, lit};
use rewrite::{Rewrite, and_filter, call, not_null};
use std::sync::Arc;

pub(crate) type Line = (Arc<AggregateUDF>, &'static str, &'static str);

fn float64(_: &[DataType]) -> Result<DataType> {
    Ok(DataType::Float64)
}
fn first(given: &[DataType]) -> Result<DataType> {
    Ok(given[0].clone())
}

/// All arguments as float64.
fn floats(given: &[DataType]) -> Result<Vec<DataType>> {
    match given.iter().find(|t| !t.is_numeric() && **t != DataType::Null) {
        Some(other) => {
            plan_err!("illegal type {other} of an argument of an aggregate function; it takes a number")
        }
        None => Ok(vec![DataType::Float64; given.len()]),
    }
}

fn quantile_exact() -> Arc<AggregateUDF> {
    Rewrite::of("quantile_exact", &percentile_cont::percentile_cont_udaf(), |p| {
        let level = p.args.get(1).cloned().unwrap_or_else(|| lit(0.5f64));
        let sort = Sort::new(cast(p.args[0].clone(), DataType::Float64), true, false);
        let expr = percentile_cont::percentile_cont(sort, level);
        match p.filter {
            Some(f) => expr.filter(*f).build(),
            None => Ok(expr),
        }
    })
    .aliases(&["quantile_exact_inclusive"])
    .coerce(floats)
    .result(float64)
    .arguments(1, 2)
    .udaf()
}

fn fixed_quantile(name: &str, aliases: &[&str], level: f64) -> Arc<AggregateUDF> {
    let quantile = sketched::quantile();
    Rewrite::of(name, &quantile.clone(), move |mut p| {
        p.args = vec![cast(p.args[0].clone(), DataType::Float64), lit(level)];
        call(&quantile, p)
    })
    .aliases(aliases)
    .arguments(1, 1)
    .udaf()
}

/// The first x in the order of y, then of the rows.
fn arg_extreme(name: &str, ascending: bool) -> Arc<AggregateUDF> {
    let first_value = first_last::first_value_udaf();
    Rewrite::of(name, &first_value.clone(), move |mut p| {
        let y = p.args.pop().expect("two arguments, checked by coerce_types");
        // Neither a null y nor a null x ever wins.
        let mut p = not_null(and_filter(p, y.clone().is_not_null()));
        // An order names a column once.
        p.order_by.retain(|by| by.expr != y);
        p.order_by.insert(0, Sort::new(y, ascending, false));
        p.distinct = false;
        call(&first_value, p)
    })
    .coerce(|given| Ok(given.to_vec()))
    .result(first)
    .arguments(2, 2)
    .udaf()
}

/// The first or last value that is not null, unless RESPECT NULLS says otherwise.
fn positional(name: &str, aliases: &[&str], inner: fn() -> Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    let inner = inner();
    Rewrite::of(name, &inner.clone(), move |mut p| {
        p.distinct = false;
        match p.null_treatment {
            Some(NullTreatment::RespectNulls) => call(&inner, p),
            _ => {
                p.null_treatment = None;
                call(&inner, not_null(p))
            }
        }
    })
    .aliases(aliases)
    .arguments(1, 1)
    .udaf()
}

fn renamed(name: &str, aliases: &[&str], inner: Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    let of = inner.clone();
    Rewrite::of(name, &inner, move |p| call(&of, p)).aliases(aliases).udaf()
}

/// The same over float64.
fn statistic(name: &str, inner: Arc<AggregateUDF>, arguments: usize) -> Arc<AggregateUDF> {
    let of = inner.clone();
    Rewrite::of(name, &inner, move |p| call(&of, p))
        .coerce(floats)
        .result(float64)
        .arguments(arguments, arguments)
        .udaf()
}

pub(crate) fn functions() -> Vec<Line> {
    let [sequence_match, sequence_count] = events::sequences();
    let min_k = least::min_k();
    let group_array_sorted = {
        let min_k = min_k.clone();
        Rewrite::of("group_array_sorted", &min_k.clone(), move |p| call(&min_k, p)).arguments(2, 2).udaf()
    };
    let [max_intersections, position, covered] = events::intervals();
    let [sum_map, min_map, max_map] = maps::maps();
    let [skew_pop, skew_samp, kurt_pop, kurt_samp] = moments::shapes();
    let uniq_exact = Rewrite::of("uniq_exact", &count::count_udaf(), |mut p| {
        p.distinct = true;
        call(&count::count_udaf(), p)
    })
    .aliases(&["unique_exact"])
    .arguments(1, 1)
    .udaf();
    vec![
        (
            Arc::new(sum::sum_udaf().as_ref().clone().with_aliases(["sum_kahan"])),
            "sum(x)",
            "sum; 64 bits wide for integers",
        ),
        (count::count_udaf(), "count([x])", "rows, or values that are not null"),
        (average::avg_udaf(), "avg(x)", "arithmetic mean"),
        (min_max::min_udaf(), "min(x)", "least value"),
        (min_max::max_udaf(), "max(x)", "greatest value"),
        (sketched::uniq(), "uniq(x, …)", "number of distinct values, about (HyperLogLog)"),
        (uniq_exact, "uniq_exact(x)", "number of distinct values"),
        (
            sketched::quantile(),
            "quantile(x[, level])",
            "value below which that share of rows lies, within 1 % (DDSketch)",
        ),
        (sketched::quantiles(), "quantiles(x, level, …)", "several quantiles as an array"),
        (quantile_exact(), "quantile_exact(x[, level])", "the same, exact, interpolated"),
        (fixed_quantile("median", &["approx_median"], 0.5), "median(x)", "quantile 0.5"),
        (fixed_quantile("p90", &[], 0.9), "p90(x)", "quantile 0.9"),
        (fixed_quantile("p95", &[], 0.95), "p95(x)", "quantile 0.95"),
        (fixed_quantile("p99", &[], 0.99), "p99(x)", "quantile 0.99"),
        (
            positional("any", &["any_value"], first_last::first_value_udaf),
            "any(x)",
            "the first value that is not null",
        ),
        (counted::any_heavy(), "any_heavy(x)", "the most frequent value"),
        (
            positional("first_value", &["earliest"], first_last::first_value_udaf),
            "first_value(x)",
            "the first value by event time, shard and sequence number",
        ),
        (
            positional("last_value", &["any_last", "latest"], first_last::last_value_udaf),
            "last_value(x)",
            "the last value by event time, shard and sequence number",
        ),
        (arg_extreme("arg_min", true), "arg_min(x, y)", "x of the row with the least y"),
        (arg_extreme("arg_max", false), "arg_max(x, y)", "x of the row with the greatest y"),
        (min_k, "min_k(x, k[, context, …])", "the k least values, with what else their rows say"),
        (least::max_k(), "max_k(x, k[, context, …])", "the k greatest values, with what else their rows say"),
        (counted::top_k(), "top_k(x[, k[, with_count]])", "the k most frequent values"),
        (
            counted::top_k_with_count(),
            "top_k_with_count(x[, k])",
            "the k most frequent values with how often",
        ),
        (
            collected::group_array(),
            "group_array(x[, most])",
            "all values as an array, in the order of the rows",
        ),
        (group_array_sorted, "group_array_sorted(x, most)", "the least values as an array, ascending"),
        (
            counted::group_uniq_array(),
            "group_uniq_array(x[, most])",
            "distinct values as an array, ascending",
        ),
        (collected::group_array_last(), "group_array_last(x, most)", "the last values as an array"),
        (
            collected::delta_sum_of_rows(),
            "delta_sum(x)",
            "sum of what values rose by, in the order of the rows",
        ),
        (
            events::delta_sum_timestamp(),
            "delta_sum_timestamp(x, time)",
            "sum of what values rose by, in the order of a time",
        ),
        (
            events::window_funnel(),
            "window_funnel(window)(time, condition, …)",
            "how many of the conditions held one behind the other within a window from the first",
        ),
        (
            sequence_match,
            "sequence_match(pattern)(time, condition, …)",
            "whether events follow each other as in '(?1).*(?t<=10)(?2)'",
        ),
        (
            sequence_count,
            "sequence_count(pattern)(time, condition, …)",
            "how often they do, no event in two matches",
        ),
        (
            events::retention(),
            "retention(condition, …)",
            "whether the first condition held, and each other with it, as an array",
        ),
        (
            events::exponential_moving_average(),
            "exponential_moving_average(half_life)(x, time)",
            "sum of values that fade with time, by the sum of a 1 in every unit of it",
        ),
        (
            events::avg_time_weighted(),
            "avg_time_weighted(x, time)",
            "mean over time of values that hold until the next",
        ),
        (counted::top_k_weighted(), "top_k_weighted(k)(x, weight)", "the k values with the greatest weight"),
        (
            events::xirr_of(),
            "xirr(payment, date[, guess])",
            "yearly rate at which payments are worth nothing; nan without one",
        ),
        (max_intersections, "max_intersections(start, end)", "the most intervals that meet at a time"),
        (
            position,
            "max_intersections_position(start, end)",
            "the first place at which the most intervals meet",
        ),
        (covered, "interval_length_sum(start, end)", "length of what intervals cover, counted once"),
        (sum_map, "sum_map(m)", "sums of the values of maps, by key"),
        (min_map, "min_map(m)", "least values of maps, by key"),
        (max_map, "max_map(m)", "greatest values of maps, by key"),
        (collected::group_concat(), "group_concat(x[, separator])", "all values as one text"),
        (
            collected::moving_sum(),
            "moving_sum(x[, window])",
            "running sums as an array, in the order of the log",
        ),
        (
            collected::moving_avg(),
            "moving_avg(x[, window])",
            "running means as an array, in the order of the log",
        ),
        (statistic("var_pop", variance::var_pop_udaf(), 1), "var_pop(x)", "variance of the population"),
        (statistic("var_samp", variance::var_samp_udaf(), 1), "var_samp(x)", "variance of a sample"),
        (
            statistic("stddev_pop", stddev::stddev_pop_udaf(), 1),
            "stddev_pop(x)",
            "standard deviation of the population",
        ),
        (
            statistic("stddev_samp", stddev::stddev_udaf(), 1),
            "stddev_samp(x)",
            "standard deviation of a sample",
        ),
        (
            statistic("covar_pop", covariance::covar_pop_udaf(), 2),
            "covar_pop(x, y)",
            "covariance of the population",
        ),
        (
            statistic("covar_samp", covariance::covar_samp_udaf(), 2),
            "covar_samp(x, y)",
            "covariance of a sample",
        ),
        (correlation::corr_udaf(), "corr(x, y)", "Pearson's correlation"),
        (skew_pop, "skew_pop(x)", "skewness of the population"),
        (skew_samp, "skew_samp(x)", "skewness of a sample"),
        (kurt_pop, "kurt_pop(x)", "kurtosis of the population"),
        (kurt_samp, "kurt_samp(x)", "kurtosis of a sample"),
        (counted::entropy(), "entropy(x)", "Shannon entropy of the values, in bits"),
        (
            counted::histogram(),
            "histogram(bins)(x)",
            "bins as an array of (lower bound, upper bound, height), closest values fused",
        ),
        (moments::sum_count(), "sum_count(x)", "a tuple of the sum and the number of values"),
        (moments::avg_weighted(), "avg_weighted(x, weight)", "weighted mean"),
        (
            renamed("group_bit_and", &[], bit_and_or_xor::bit_and_udaf()),
            "group_bit_and(x)",
            "bitwise and of all",
        ),
        (renamed("group_bit_or", &[], bit_and_or_xor::bit_or_udaf()), "group_bit_or(x)", "bitwise or of all"),
        (
            renamed("group_bit_xor", &[], bit_and_or_xor::bit_xor_udaf()),
            "group_bit_xor(x)",
            "bitwise exclusive or of all",
        ),
        (array_agg::array_agg_udaf(), "array_agg(x)", "all values as an array, nulls among them"),
    ]
}
