//! Plan to operators: the one place that knows every kind of node.

use crate::graph::{Graph, Leaf, Node, Target};
use crate::op::aggregate::{Aggregate, Panes, Spec};
use crate::op::chain::Chain;
use crate::op::changelog::Changelog;
use crate::op::dedup::Dedup;
use crate::op::delta::Delta;
use crate::op::filter::Filter;
use crate::op::limit::Limit;
use crate::op::lives::Lives;
use crate::op::over::Over;
use crate::op::project::Project;
use crate::op::rank::Rank;
use crate::op::session::Session;
use crate::op::sort::Sort;
use crate::op::substreams::Substreams;
use crate::op::union::Union;
use crate::op::version::Version;
use crate::op::weights::Weights;
use crate::op::window::Window;
use crate::operator::{InputId, OpError, Operator};
use crate::resources::Resources;
use crate::state::StateReader;
use crate::watermark::Judge;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::{Clock, MemoryBudget};
use weir_plan::{
    NodeId, QueryCounters, ReplayOrder, Source, SourceSpec, StreamNode, StreamPlan, WindowSpec, WindowTime,
};

/// The operator of a node; `None` for a source.
/// `panes` = what the aggregation above is made of, where its windows are.
fn operator(
    node: &StreamNode,
    panes: Option<Panes>,
    resources: &Resources,
) -> Result<Option<Box<dyn Operator>>, OpError> {
    Ok(Some(match node {
        StreamNode::Source { .. } => return Ok(None),
        StreamNode::Filter { predicate, input, .. } => {
            Box::new(Filter::new(predicate.clone(), &input.schema())?)
        }
        StreamNode::Project { exprs, schema, input, .. } => {
            Box::new(Project::new(exprs.clone(), schema.clone(), &input.schema())?)
        }
        StreamNode::Union { schema, inputs, .. } => {
            let inputs: Vec<_> = inputs.iter().map(StreamNode::schema).collect();
            Box::new(Union::new(schema.clone(), &inputs)?)
        }
        StreamNode::Limit { skip, fetch, .. } => Box::new(Limit::new(*skip, *fetch)),
        StreamNode::Window { spec, time, judged, session: Some(keys), at, schema, input, .. } => {
            let (time, judged, schema) = (time.clone(), judged.clone(), schema.clone());
            let session = Session::new(*spec, time, judged, keys.clone(), *at, schema, &input.schema())?;
            Box::new(session.with(resources.clone()))
        }
        StreamNode::Window { spec, time, judged, session: None, at, schema, .. } => {
            let pane = panes.map(|p| p.pane);
            Box::new(Window::new(*spec, time.clone(), judged.clone(), *at, schema.clone())?.in_panes(pane))
        }
        StreamNode::Aggregate { .. } => Box::new(aggregate(node, panes_of(node), resources)?),
        StreamNode::Over { spec, at, schema, input, .. } => {
            Box::new(Over::new(spec, *at, schema.clone(), &input.schema(), resources.clone())?)
        }
        StreamNode::Substreams { partition, of, .. } => {
            let StreamNode::Aggregate { emit, whole, schema, input, .. } = &**of else {
                return Err(OpError::Plan { operator: "Substreams", reason: format!("of {}", of.name()) });
            };
            let keys = partition.iter().map(|p| p.expr.clone()).collect();
            // Each key has few windows: they are kept by themselves, not made of panes.
            let (made, resources, policy) = (of.clone(), resources.clone(), emit.policy);
            let below = match of.sessions().map(StreamNode::inputs).as_deref() {
                Some([input]) => input.schema(),
                _ => input.schema(),
            };
            let make = move || -> Result<Box<dyn Operator>, OpError> {
                if made.sessions().is_some() { chain(&made, &resources) } else { one(&made, &resources) }
            };
            Box::new(Substreams::new(Box::new(make), keys, schema.clone(), policy, *whole, &below)?)
        }
        StreamNode::Dedup { spec, input, .. } => {
            Box::new(Dedup::new(spec, &input.schema(), resources.clone())?)
        }
        StreamNode::Rank { spec, at, schema, input, .. } => {
            Box::new(Rank::new(spec, *at, schema.clone(), &input.schema())?)
        }
        StreamNode::Lives { spec, keys, schema, input, .. } => {
            Box::new(Lives::new(*spec, keys.clone(), schema.clone(), &input.schema(), resources.clone())?)
        }
        StreamNode::EmitVersion { at, each_row, schema, .. } => {
            Box::new(Version::new(*at, *each_row, schema.clone()))
        }
        StreamNode::Weights { at, retracted, schema, input, .. } => {
            let (retracted, schema) = (retracted.as_ref(), schema.clone());
            Box::new(Weights::new(*at, retracted, schema, &input.schema(), resources.clone())?)
        }
        StreamNode::Changelog { spec, schema, input, .. } => {
            Box::new(Changelog::new(spec.clone(), schema.clone(), &input.schema(), resources.clone())?)
        }
        StreamNode::Delta { schema, .. } => Box::new(Delta::new(schema.clone())),
        StreamNode::Sort { keys, .. } => Box::new(Sort::new(keys.clone())),
    }))
}

/// A key's aggregation.
fn one(node: &StreamNode, resources: &Resources) -> Result<Box<dyn Operator>, OpError> {
    Ok(Box::new(aggregate(node, None, resources)?))
}

/// A key's aggregation and what is below it up to the window that cuts sessions.
fn chain(node: &StreamNode, resources: &Resources) -> Result<Box<dyn Operator>, OpError> {
    let mut all = Vec::new();
    let mut at = node;
    loop {
        all.extend(operator(at, None, resources)?);
        match (at, at.inputs().as_slice()) {
            (StreamNode::Window { .. }, _) => break,
            (_, [input]) => at = input,
            _ => return Err(OpError::Plan { operator: "Chain", reason: format!("over {}", at.name()) }),
        }
    }
    all.reverse();
    Ok(Box::new(Chain::new(all)))
}

fn aggregate(node: &StreamNode, panes: Option<Panes>, resources: &Resources) -> Result<Aggregate, OpError> {
    let StreamNode::Aggregate { keys, aggregates, order, window, emit, whole, schema, input, .. } = node
    else {
        let reason = format!("{} is no aggregation", node.name());
        return Err(OpError::Plan { operator: "Aggregate", reason });
    };
    let spec = Spec {
        keys,
        aggregates,
        order: *order,
        window: *window,
        emit: *emit,
        whole: *whole,
        panes,
        changelog: input.is_changelog(),
        schema: schema.clone(),
    };
    Aggregate::new(spec, &input.schema(), resources.clone())
}

/// The panes of an aggregation above hop windows, where only its window keys look at their bounds: rows
/// between them come once, with those of their pane.
fn panes_of(node: &StreamNode) -> Option<Panes> {
    let StreamNode::Aggregate { keys, aggregates, emit, window: Some(window), input, .. } = node else {
        return None;
    };
    let (spec, bounds) = windows_below(input)?;
    let others = keys.iter().enumerate().filter(|(i, _)| ![window.start, window.end].contains(i));
    let mut read = others
        .map(|(_, key)| &key.expr)
        .chain(aggregates.iter().flat_map(|a| a.args.iter().chain(&a.filter)));
    let looks = read.any(|e| reads(e, &bounds));
    if looks { None } else { Panes::of(spec, *emit) }
}

/// The windows that rows come from and which of their columns are bounds, if nothing between computes with these.
fn windows_below(node: &StreamNode) -> Option<(&WindowSpec, Vec<usize>)> {
    match node {
        StreamNode::Window { spec, at, .. } => Some((spec, vec![*at, *at + 1])),
        StreamNode::Filter { predicate, input, .. } => {
            windows_below(input).filter(|(_, bounds)| !reads(predicate, bounds))
        }
        StreamNode::Project { exprs, input, .. } => {
            let (spec, below) = windows_below(input)?;
            let mut bounds = Vec::new();
            for (i, e) in exprs.iter().enumerate().filter(|(_, e)| reads(&e.expr, &below)) {
                e.expr.downcast_ref::<Column>()?;
                bounds.push(i);
            }
            Some((spec, bounds))
        }
        _ => None,
    }
}

fn reads(expr: &Arc<dyn PhysicalExpr>, columns: &[usize]) -> bool {
    let of_its_own = expr.downcast_ref::<Column>().is_some_and(|c| columns.contains(&c.index()));
    of_its_own || expr.children().into_iter().any(|e| reads(e, columns))
}

/// Builds what one task runs. `sources` has an opened source for every source node; `saved` is
/// the state of an epoch to go on from, empty for a new query.
pub(crate) fn build(
    plan: &StreamPlan,
    sources: &mut HashMap<NodeId, Box<dyn Source>>,
    clock: Arc<dyn Clock>,
    memory: &Arc<MemoryBudget>,
    resources: &Resources,
    saved: &[(NodeId, StateReader)],
) -> Result<Graph, OpError> {
    let held = memory.reserve(0).map_err(|e| OpError::Plan { operator: "Query", reason: e.to_string() })?;
    let mut graph = Graph::new(clock, held);
    let resources = &resources.clone().for_query(plan.state);
    let above = Above { target: Target::Sink, panes: None, timed: false };
    let mut together = Together::new(&plan.root);
    add(&plan.root, plan.replay_order, above, sources, resources, &mut together, &mut graph)?;
    graph.restore(saved)?;
    Ok(graph)
}

/// Sources whose rows are judged by one judge, and which it is.
struct Together(Vec<(Vec<NodeId>, Option<usize>)>);

impl Together {
    fn new(root: &StreamNode) -> Self {
        Together(root.together().into_iter().map(|ids| (ids, None)).collect())
    }
}

/// Who judges the rows of a source, and as which side.
fn judge(
    id: NodeId,
    spec: &SourceSpec,
    order: ReplayOrder,
    together: &mut Together,
    graph: &mut Graph,
) -> Result<Option<(usize, usize)>, OpError> {
    if spec.watermark.is_none() {
        return Ok(None);
    }
    let group = together.0.iter_mut().find(|(ids, _)| ids.contains(&id));
    if let Some((_, Some(judge))) = &group {
        return Ok(Some((*judge, graph.judges[*judge].join(spec)?)));
    }
    graph.judges.extend(Judge::of(spec, order)?);
    let judge = graph.judges.len() - 1;
    if let Some((_, known)) = group {
        *known = Some(judge);
    }
    Ok(Some((judge, 0)))
}

/// What a node must know of those above it.
struct Above {
    target: Target,
    /// Of the aggregation above.
    panes: Option<Panes>,
    /// Somebody counts by the clock.
    timed: bool,
}

fn add(
    node: &StreamNode,
    order: ReplayOrder,
    Above { target, panes, timed }: Above,
    sources: &mut HashMap<NodeId, Box<dyn Source>>,
    resources: &Resources,
    together: &mut Together,
    graph: &mut Graph,
) -> Result<(), OpError> {
    let timed = timed
        || matches!(node, StreamNode::Window { time: WindowTime::Processing, .. })
        || resources.ttl_us > 0 && matches!(node, StreamNode::Aggregate { window: None, .. });
    let counters = Arc::new(QueryCounters::default());
    match operator(node, panes, resources)? {
        None => {
            let source = sources.remove(&node.id()).ok_or_else(|| OpError::Plan {
                operator: "Source",
                reason: format!("node {} occurs twice or was not opened", node.id().0),
            })?;
            let StreamNode::Source { spec, .. } = node else { unreachable!("sources have no operator") };
            let judge = judge(node.id(), spec, order, together, graph)?;
            let mut leaf = Leaf::new(node.id(), source, judge, target, counters);
            leaf.timed = timed;
            graph.leaves.push(leaf);
        }
        Some(op) => {
            let between = matches!(node, StreamNode::Filter { .. } | StreamNode::Project { .. });
            let (inputs, panes) = (node.inputs(), if between { panes } else { panes_of(node) });
            let index = graph.nodes.len();
            graph.nodes.push(Node::new(node.id(), node.name(), op, inputs.len(), target, counters));
            for (i, input) in inputs.into_iter().enumerate() {
                let above = Above { target: Target::Node(index, InputId(i)), panes, timed };
                add(input, order, above, sources, resources, together, graph)?;
            }
        }
    }
    Ok(())
}
