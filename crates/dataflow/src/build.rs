//! Plan to operators: the one place that knows every kind of node.

use crate::graph::{Graph, Leaf, Node, Target};
use crate::op::filter::Filter;
use crate::op::limit::Limit;
use crate::op::project::Project;
use crate::op::union::Union;
use crate::operator::{InputId, OpError, Operator};
use crate::state::StateReader;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_base::Clock;
use weir_plan::{NodeId, QueryCounters, Source, StreamNode};

/// The operator of a node; `None` for a source.
fn operator(node: &StreamNode) -> Result<Option<Box<dyn Operator>>, OpError> {
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
    }))
}

/// Builds what one task runs. `sources` has an opened source for every source node; `saved` is
/// the state of an epoch to go on from, empty for a new query.
pub(crate) fn build(
    root: &StreamNode,
    sources: &mut HashMap<NodeId, Box<dyn Source>>,
    clock: Arc<dyn Clock>,
    saved: &[(NodeId, StateReader)],
) -> Result<Graph, OpError> {
    let mut graph = Graph::new(clock);
    add(root, Target::Sink, sources, &mut graph)?;
    graph.restore(saved)?;
    Ok(graph)
}

fn add(
    node: &StreamNode,
    target: Target,
    sources: &mut HashMap<NodeId, Box<dyn Source>>,
    graph: &mut Graph,
) -> Result<(), OpError> {
    let counters = Arc::new(QueryCounters::default());
    counters.watermark.store(i64::MIN, Ordering::Relaxed);
    match operator(node)? {
        None => {
            let source = sources.remove(&node.id()).ok_or_else(|| OpError::Plan {
                operator: "Source",
                reason: format!("node {} occurs twice or was not opened", node.id().0),
            })?;
            graph.leaves.push(Leaf::new(node.id(), source, target, counters));
        }
        Some(op) => {
            let inputs = node.inputs();
            let index = graph.nodes.len();
            graph.nodes.push(Node::new(node.id(), node.name(), op, inputs.len(), target, counters));
            for (i, input) in inputs.into_iter().enumerate() {
                add(input, Target::Node(index, InputId(i)), sources, graph)?;
            }
        }
    }
    Ok(())
}
