//! The order of the rows of a UNION: at one time by the streams' names, then as each stream has them.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, Result as DfResult};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Projection, Union, cast, lit};
use std::sync::Arc;

/// More shards than a stream has: shards are numbered over all streams of a UNION.
pub(crate) const SHARDS_MAX: i32 = 1 << 16;

/// What a UNION is of, those of a UNION right in it among them.
pub(crate) fn branches(u: &Union) -> Vec<&LogicalPlan> {
    u.inputs
        .iter()
        .flat_map(|input| match &**input {
            LogicalPlan::Union(inner) => branches(inner),
            other => vec![other],
        })
        .collect()
}

/// The streams whose rows a UNION gives, by name, each once.
pub(crate) fn streams(u: &Union) -> Vec<String> {
    let mut all: Vec<String> = u.inputs.iter().flat_map(|i| below(i)).collect();
    all.sort();
    all.dedup();
    all
}

/// Names of all relations below.
pub(crate) fn below(plan: &LogicalPlan) -> Vec<String> {
    match plan {
        LogicalPlan::TableScan(t) => vec![t.table_name.to_string()],
        other => other.inputs().into_iter().flat_map(below).collect(),
    }
}

/// A UNION with the place of its rows behind its columns, under names made by `name`. `place` gives an input with
/// what its rows go by, of which the one at `shard_at` is the shard; without it in every input rows have no order.
pub(crate) fn with_place(
    u: &Union,
    place: impl Fn(&LogicalPlan) -> DfResult<Option<(LogicalPlan, Vec<Sort>)>>,
    shard_at: usize,
    name: impl Fn(usize) -> String,
) -> DfResult<Option<(LogicalPlan, Vec<Sort>)>> {
    let names = streams(u);
    let own = u.schema.fields().len();
    let (mut inputs, mut places) = (Vec::with_capacity(u.inputs.len()), None);
    for input in branches(u) {
        let of = below(input);
        // A UNION further inside has numbered its shards in its own way.
        let ([of], Some((plan, keys))) = (of.as_slice(), place(input)?) else { return Ok(None) };
        if keys.len() <= shard_at || *places.get_or_insert(keys.len()) != keys.len() {
            return Ok(None);
        }
        let rank = names.iter().position(|n| n == of).unwrap_or(0) as i64;
        let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().take(own).map(Expr::Column).collect();
        for (i, key) in keys.into_iter().enumerate() {
            // Of another type than the column: the planner takes two names of one column for each other, and loses
            // at the UNION that they are.
            let to = match key.expr.get_type(plan.schema())? {
                DataType::Int64 => DataType::UInt64,
                _ => DataType::Int64,
            };
            let key = cast(key.expr, to);
            let key = if i == shard_at { key + lit(rank * i64::from(SHARDS_MAX)) } else { key };
            exprs.push(key.alias(name(i)));
        }
        inputs.push(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?)));
    }
    let (Some(first), Some(places)) = (inputs.first(), places) else { return Ok(None) };
    let mut fields: Vec<_> = u.schema.iter().map(|(q, f)| (q.cloned(), f.clone())).collect();
    fields.extend((own..own + places).map(|at| (None, first.schema().field(at).clone())));
    let schema = Arc::new(DFSchema::new_with_metadata(fields, u.schema.metadata().clone())?);
    let key = |i| Sort::new(Expr::Column(Column::new_unqualified(name(i))), true, true);
    let keys = (0..places).map(key).collect();
    Ok(Some((LogicalPlan::Union(Union { inputs, schema }), keys)))
}
