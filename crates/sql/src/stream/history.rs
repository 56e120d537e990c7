//! What the sources of a plan may do with their history: in which order, and how else the query's
//! settings want it.
//!
//! History may come in any order below an aggregation over the whole stream whose result depends
//! on none: every aggregate commutes, nothing in between keeps state, and nothing leaves before
//! history has been read. Sums and averages of floats agree to rounding, as in every query.

use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use std::sync::Arc;
use weir_plan::{
    AggregateKind, AggregateSpec, EmitPolicy, HistorySpec, SourceOrder, StreamNode, WEIGHT_COLUMN,
};

/// Tells every source of a plan; `in_order`: none may do as it likes.
pub(super) fn plan_history(root: &mut StreamNode, history: &HistorySpec, in_order: bool) {
    let ordered = in_order || history.emits || history.log_only || history.replay.is_some();
    tell(root, history, if ordered { None } else { Some(SourceOrder::Log) }, false);
}

/// `order` for the sources below; `None` = in order whatever they feed. `live`: so are live rows.
fn tell(node: &mut StreamNode, history: &HistorySpec, order: Option<SourceOrder>, live: bool) {
    if let StreamNode::Source { spec, .. } = node {
        let order = if live { SourceOrder::Live } else { order.unwrap_or_default() };
        spec.history = HistorySpec { order, ..history.clone() };
        return;
    }
    // The last row of a key is the one that was appended last, in whichever shard.
    let live = live || matches!(node, StreamNode::Changelog { .. });
    let below = match node {
        StreamNode::Aggregate { aggregates, order: None, window: None, keys, emit, input, .. }
            if matches!(emit.policy, EmitPolicy::Periodic { .. } | EmitPolicy::OnUpdate { .. }) =>
        {
            let exprs = keys.iter().map(|k| &k.expr).chain(aggregates.iter().flat_map(exprs_of));
            let free = aggregates.iter().all(commutes) && exprs.into_iter().all(constant) && passes(input);
            if free { SourceOrder::Any } else { SourceOrder::Log }
        }
        // Between a free aggregation and its sources; elsewhere `Log` stays `Log`.
        StreamNode::Filter { .. } | StreamNode::Project { .. } | StreamNode::Union { .. } => {
            order.unwrap_or_default()
        }
        _ => SourceOrder::Log,
    };
    let below = order.map(|_| below);
    node.inputs_mut().into_iter().for_each(|input| tell(input, history, below, live));
}

fn exprs_of(aggregate: &AggregateSpec) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
    aggregate.args.iter().chain(&aggregate.filter)
}

/// Whether a value depends on its row alone.
fn constant(e: &Arc<dyn PhysicalExpr>) -> bool {
    !is_volatile(e)
}

/// Whether rows pass one by one, from sources of rows that are only added.
fn passes(node: &StreamNode) -> bool {
    match node {
        StreamNode::Source { spec, .. } => {
            spec.watermark.is_none() && !spec.columns.iter().any(|c| c == WEIGHT_COLUMN)
        }
        StreamNode::Filter { predicate, input, .. } => constant(predicate) && passes(input),
        StreamNode::Project { exprs, input, .. } => exprs.iter().all(|p| constant(&p.expr)) && passes(input),
        StreamNode::Union { inputs, .. } => inputs.iter().all(passes),
        _ => false,
    }
}

fn commutes(aggregate: &AggregateSpec) -> bool {
    use AggregateKind as K;
    match &aggregate.kind {
        K::Count
        | K::Sum
        | K::Avg
        | K::Min
        | K::Max
        | K::Quantile { .. }
        | K::Uniq
        | K::UniqExact
        | K::VarPop
        | K::VarSamp
        | K::StddevPop
        | K::StddevSamp
        | K::GroupUniqArray
        | K::GroupUniqArrayLeast { .. }
        | K::TopK { .. }
        | K::BitAnd
        | K::BitOr
        | K::BitXor => true,
        K::First { .. }
        | K::Last { .. }
        | K::ArgMin
        | K::ArgMax
        | K::GroupArray { .. }
        | K::GroupArrayFirst { .. }
        | K::MovingSum { .. }
        | K::MovingAvg { .. }
        | K::MinK { .. }
        | K::MaxK { .. }
        | K::Udaf(_) => false,
    }
}
