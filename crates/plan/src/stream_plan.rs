//! The plan: a tree of plain data.

use arrow_schema::SchemaRef;
use datafusion_physical_expr::PhysicalExpr;
use std::sync::Arc;
use weir_base::{EventTime, SeqNo};

/// Numbers a node within its plan, in depth-first order; metrics and state are kept by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// An unbounded query.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    pub root: StreamNode,
    /// How history is replayed, for all sources of the query.
    pub replay_order: ReplayOrder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayOrder {
    /// Log order over all shards and sources.
    #[default]
    Arrival,
    /// By event time across shards.
    EventTime,
}

/// Where a source begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StartPosition {
    /// After the last row durable when the query started.
    #[default]
    Latest,
    Earliest,
    /// At or before the first row with this event time or later.
    EventTime(EventTime),
    /// At this number in each shard: one for all shards, or one for each.
    SeqNo(Vec<SeqNo>),
}

/// Columns a source must give, by name: stream columns and virtual ones (`_tp_sn`,
/// `_tp_shard`, `_tp_append_time`), in the order of `SourceSpec::schema`.
pub type ScanColumns = Vec<String>;

#[derive(Debug, Clone)]
pub struct SourceSpec {
    pub database: String,
    pub relation: String,
    pub columns: ScanColumns,
    pub schema: SchemaRef,
    pub start: StartPosition,
    /// Tells sources that lie in history which parts can be skipped; the plan filters again.
    pub prune: Option<Arc<dyn PhysicalExpr>>,
}

#[derive(Debug, Clone)]
pub struct Projection {
    pub expr: Arc<dyn PhysicalExpr>,
    pub name: String,
}

/// One operator and its inputs. New kinds (window, aggregate, join, emit) are added here and
/// get a file in `dataflow::op`.
#[derive(Debug, Clone)]
pub enum StreamNode {
    Source {
        id: NodeId,
        spec: SourceSpec,
    },
    Filter {
        id: NodeId,
        predicate: Arc<dyn PhysicalExpr>,
        input: Box<StreamNode>,
    },
    Project {
        id: NodeId,
        exprs: Vec<Projection>,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    Union {
        id: NodeId,
        schema: SchemaRef,
        inputs: Vec<StreamNode>,
    },
    /// Skips `skip` rows, then ends the query after `fetch` rows.
    Limit {
        id: NodeId,
        skip: u64,
        fetch: Option<u64>,
        input: Box<StreamNode>,
    },
}

impl StreamNode {
    pub fn id(&self) -> NodeId {
        match self {
            StreamNode::Source { id, .. }
            | StreamNode::Filter { id, .. }
            | StreamNode::Project { id, .. }
            | StreamNode::Union { id, .. }
            | StreamNode::Limit { id, .. } => *id,
        }
    }

    pub fn schema(&self) -> SchemaRef {
        match self {
            StreamNode::Source { spec, .. } => spec.schema.clone(),
            StreamNode::Project { schema, .. } | StreamNode::Union { schema, .. } => schema.clone(),
            StreamNode::Filter { input, .. } | StreamNode::Limit { input, .. } => input.schema(),
        }
    }

    pub fn inputs(&self) -> Vec<&StreamNode> {
        match self {
            StreamNode::Source { .. } => Vec::new(),
            StreamNode::Filter { input, .. }
            | StreamNode::Project { input, .. }
            | StreamNode::Limit { input, .. } => vec![input],
            StreamNode::Union { inputs, .. } => inputs.iter().collect(),
        }
    }

    /// All source specs below, in depth-first order.
    pub fn sources(&self) -> Vec<(NodeId, &SourceSpec)> {
        match self {
            StreamNode::Source { id, spec } => vec![(*id, spec)],
            other => other.inputs().into_iter().flat_map(|i| i.sources()).collect(),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            StreamNode::Source { .. } => "Source",
            StreamNode::Filter { .. } => "Filter",
            StreamNode::Project { .. } => "Project",
            StreamNode::Union { .. } => "Union",
            StreamNode::Limit { .. } => "Limit",
        }
    }
}
