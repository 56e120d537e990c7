//! The order of rows, for bounded aggregates whose result depends on it.
//!
//! `first_value`, `last_value`, `any`, `group_array` and ties of `arg_min` go by (event time, shard,
//! sequence number), as they do over a stream; `moving_sum` goes by (append time, shard, sequence
//! number). Each gets an ORDER BY over columns that travel from the scan through all that keeps
//! rows. The ORDER BY of a subquery that is cut (LIMIT) goes first; without one the planner drops it.
//!
//! Rows of a UNION of streams go by the stream's name before the shard. Rows that are no stream's (of an
//! aggregation, a join, `numbers()`) are taken as they come.
//!
//! Not here: unbounded plans, where `stream` says each row's place to the operator.

use super::window_table::WindowTable;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result as DfResult};
use datafusion::logical_expr::expr::{AggregateFunction, Alias, Sort};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Aggregate, Expr, LogicalPlan, Projection, SubqueryAlias, TableScan, TableScanBuilder,
};
use std::sync::Arc;

const SHARD: &str = "_tp_shard";
const SN: &str = "_tp_sn";

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsBy {
    EventTime,
    /// As the log took them in.
    Log,
}

impl RowsBy {
    fn columns(self) -> [&'static str; 3] {
        match self {
            RowsBy::EventTime => [super::seek::EVENT_TIME, SHARD, SN],
            RowsBy::Log => ["_tp_append_time", SHARD, SN],
        }
    }

    /// The name under which the `i`th key travels; nobody can write it.
    fn name(self, i: usize) -> String {
        let mark = if self == RowsBy::Log { 'l' } else { 't' };
        format!("\u{2}{mark}{i}")
    }
}

/// The order an aggregate goes by, if its result depends on one.
pub(crate) fn order_of(f: &AggregateFunction) -> Option<RowsBy> {
    if f.params.distinct {
        return None;
    }
    match (f.func.order_sensitivity(), f.func.name()) {
        (_, name) if name.starts_with("moving_") => Some(RowsBy::Log),
        (AggregateOrderSensitivity::Beneficial | AggregateOrderSensitivity::SoftRequirement, _)
        | (_, "nth_value" | "string_agg") => Some(RowsBy::EventTime),
        _ => None,
    }
}

/// Gives every such aggregate of a bounded plan its ORDER BY.
pub(crate) fn apply(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    plan.transform_up_with_subqueries(|p| match p {
        LogicalPlan::Aggregate(a) => aggregate(a),
        other => Ok(Transformed::no(other)),
    })
    .map(|t| t.data)
}

fn inner(mut e: &Expr) -> &Expr {
    while let Expr::Alias(a) = e {
        e = &a.expr;
    }
    e
}

fn needs(e: &Expr) -> Option<RowsBy> {
    match inner(e) {
        Expr::AggregateFunction(f) => order_of(f),
        _ => None,
    }
}

fn aggregate(a: Aggregate) -> DfResult<Transformed<LogicalPlan>> {
    let mut input = (*a.input).clone();
    let mut orders = Vec::new();
    for by in [RowsBy::EventTime, RowsBy::Log] {
        if a.aggr_expr.iter().any(|e| needs(e) == Some(by)) {
            let (with, keys) = carried(&input, by)?;
            input = with;
            orders.push((by, keys));
        }
    }
    if orders.iter().all(|(_, keys)| keys.is_empty()) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(a)));
    }
    let groups = a.schema.fields().len() - a.aggr_expr.len();
    let aggregates = a
        .aggr_expr
        .into_iter()
        .enumerate()
        .map(|(i, e)| {
            let Some(by) = needs(&e) else { return e };
            let keys = orders.iter().find(|(b, _)| *b == by).map(|(_, keys)| keys.clone());
            let aliased = matches!(e, Expr::Alias(_));
            let e = ordered(e, &keys.unwrap_or_default());
            // Its own name would tell the order; those above know it by the one it had.
            if aliased { e } else { e.alias(a.schema.field(groups + i).name()) }
        })
        .collect();
    Ok(Transformed::yes(LogicalPlan::Aggregate(Aggregate::try_new(
        Arc::new(input),
        a.group_expr,
        aggregates,
    )?)))
}

fn ordered(e: Expr, keys: &[Sort]) -> Expr {
    match e {
        Expr::Alias(a) => Expr::Alias(Alias { expr: Box::new(ordered(*a.expr, keys)), ..a }),
        Expr::AggregateFunction(mut f) => {
            f.params.order_by.extend_from_slice(keys);
            Expr::AggregateFunction(f)
        }
        other => other,
    }
}

/// The plan with what its rows are ordered by, over its columns; no keys where there is no order.
fn carried(plan: &LogicalPlan, by: RowsBy) -> DfResult<(LogicalPlan, Vec<Sort>)> {
    let unordered = || Ok((plan.clone(), Vec::new()));
    let below = |input: &LogicalPlan| -> DfResult<(LogicalPlan, Vec<Sort>)> {
        let (input, keys) = carried(input, by)?;
        Ok((plan.with_new_exprs(plan.expressions(), vec![input])?, keys))
    };
    match plan {
        LogicalPlan::TableScan(t) => scan(t, by),
        LogicalPlan::SubqueryAlias(a) => {
            let (input, keys) = carried(&a.input, by)?;
            let from = input.schema().clone();
            let plan = LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), a.alias.clone())?);
            let keys = renamed(keys, &from, plan.schema())?;
            Ok((plan, keys))
        }
        LogicalPlan::Projection(p) => {
            let (input, keys) = carried(&p.input, by)?;
            if keys.is_empty() {
                return unordered();
            }
            let mut exprs = p.expr.clone();
            let mut out = Vec::with_capacity(keys.len());
            for (i, key) in keys.into_iter().enumerate() {
                exprs.push(key.expr.alias(by.name(i)));
                out.push(Sort { expr: Expr::Column(Column::new_unqualified(by.name(i))), ..key });
            }
            Ok((LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?), out))
        }
        LogicalPlan::Sort(s) => {
            let (plan, keys) = below(&s.input)?;
            // Beyond the keys of a Sort, place decides.
            Ok((plan, s.expr.iter().cloned().chain(keys).collect()))
        }
        LogicalPlan::Filter(f) => below(&f.input),
        LogicalPlan::Limit(l) => below(&l.input),
        LogicalPlan::Window(w) => below(&w.input),
        LogicalPlan::Union(u) => {
            let place = |input: &LogicalPlan| {
                let (plan, keys) = carried(input, by)?;
                Ok((!keys.is_empty()).then_some((plan, keys)))
            };
            Ok(super::united::with_place(u, place, 1, |i| by.name(i))?.unwrap_or((plan.clone(), Vec::new())))
        }
        other => match WindowTable::of(other) {
            Some(w) => below(&w.input),
            None => unordered(),
        },
    }
}

fn scan(t: &TableScan, by: RowsBy) -> DfResult<(LogicalPlan, Vec<Sort>)> {
    let schema = t.source.schema();
    let found: Option<Vec<usize>> = by.columns().iter().map(|c| schema.index_of(c).ok()).collect();
    let Some(found) = found else { return Ok((LogicalPlan::TableScan(t.clone()), Vec::new())) };
    let mut projection = t.projection.clone().unwrap_or_else(|| (0..schema.fields().len()).collect());
    projection.extend(found.iter().filter(|i| !t.projection.as_ref().is_none_or(|p| p.contains(i))));
    let scan = TableScanBuilder::from(t.clone()).with_projection(Some(projection)).build()?;
    let keys = by
        .columns()
        .iter()
        .map(|c| Sort::new(Expr::Column(Column::new(Some(t.table_name.clone()), *c)), true, false))
        .collect();
    Ok((LogicalPlan::TableScan(scan), keys))
}

/// Keys over `from`, over the same columns as `to` calls them.
fn renamed(keys: Vec<Sort>, from: &DFSchema, to: &DFSchema) -> DfResult<Vec<Sort>> {
    keys.into_iter()
        .map(|key| {
            let expr = key.expr.transform(|e| {
                Ok(match &e {
                    Expr::Column(c) => {
                        let at = from.index_of_column(c)?;
                        Transformed::yes(Expr::Column(to.qualified_field(at).into()))
                    }
                    _ => Transformed::no(e),
                })
            })?;
            Ok(Sort { expr: expr.data, ..key })
        })
        .collect()
}
