//! The plan: a tree of plain data.

use crate::aggregate::{AggregateSpec, EmitSpec, LifeSpec, RowOrder, WindowKeys};
use crate::history::HistorySpec;
use crate::stateful::{DedupSpec, OverSpec, RankSpec};
use crate::window::WindowSpec;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
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
    pub state: StateSpec,
}

impl StreamPlan {
    pub fn new(root: StreamNode, replay_order: ReplayOrder) -> Self {
        StreamPlan { root, replay_order, state: StateSpec::default() }
    }
}

/// What a query wants of its keyed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateSpec {
    /// Into so many parts state of many keys is dealt, a thread for each; 0 = as many as the machine has cores.
    pub threads: usize,
    /// Keys of an aggregation over the whole stream are forgotten after so long without a row (processing
    /// time, microseconds); 0 = never.
    pub ttl_us: i64,
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
    /// Where a restored query stood, in each shard there was then.
    Restored(Vec<SeqNo>),
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
    /// Tells sources that lie in history which parts can be skipped; the plan filters again. Of a
    /// judged source it is no more than a least event time.
    pub prune: Option<Arc<dyn PhysicalExpr>>,
    /// Rows are judged: they must come in log order over all shards, and get [`WATERMARK_COLUMN`]
    /// as one more column at the end.
    pub watermark: Option<WatermarkSpec>,
    /// Rows must come in log order over all shards, live as well. Those that are judged do anyway.
    pub log_order: bool,
    pub history: HistorySpec,
}

/// The column in which a source says of each row by which watermark it is judged (int64,
/// nanoseconds): the row is late for every window that ends at or before it.
pub const WATERMARK_COLUMN: &str = "__wm";

/// The column that says of a changelog's row how often it is there: −1 takes one back (int8).
pub const WEIGHT_COLUMN: &str = "_tp_delta";

/// How a source judges rows and how far it says time has come.
#[derive(Debug, Clone)]
pub struct WatermarkSpec {
    /// The event time, a timestamp, over the source's columns.
    pub time: Arc<dyn PhysicalExpr>,
    /// Nanoseconds by which a row may be behind the greatest time of its shard.
    pub delay_ns: i64,
    /// A shard without a row for so long (append time, microseconds) holds nobody back.
    pub idle_timeout_us: i64,
    /// Somebody above counts silences of the stream up to so long (append time, microseconds): the
    /// source says how append time passes. 0 = nobody does.
    pub silence_us: i64,
    /// Rows further ahead of their append time do not move the watermark (nanoseconds; 0 = off).
    pub future_max_ns: i64,
    /// What a silence of the whole source does.
    pub timeout: Option<Timeout>,
    /// Positions among the source's columns.
    pub shard: usize,
    pub append_time: usize,
    /// Each key has a watermark of its own.
    pub partition: Option<PartitionSpec>,
}

impl WatermarkSpec {
    /// What the watermark is at least after a row; `None` where the row is too far ahead of its append time
    /// (microseconds) to move it.
    pub fn moves_to(&self, time_ns: i64, append_us: i64) -> Option<i64> {
        let future = self.future_max_ns > 0
            && time_ns > append_us.saturating_mul(1_000).saturating_add(self.future_max_ns);
        (!future).then(|| time_ns.saturating_sub(self.delay_ns))
    }
}

/// The last column of [`crate::Element::KeyWatermarks`] (int64, nanoseconds), behind those of the key.
pub const KEY_WATERMARK_COLUMN: &str = "__key_wm";

/// By which keys rows are judged.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Over the source's columns.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// A key's watermark is at most so far behind its shard's (nanoseconds).
    pub lag_max_ns: i64,
}

/// No row for so long (append time) closes every window that rows lie in, save those too far in the
/// future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    pub after_us: i64,
    pub window: WindowSpec,
}

/// Which time of a row its windows go by.
#[derive(Debug, Clone)]
pub enum WindowTime {
    /// A timestamp over the input.
    Event(Arc<dyn PhysicalExpr>),
    /// The time at which the row is processed, and the watermark is the clock.
    Processing,
}

/// Where in a window's input stands what says whether a row is late, and what is told of one that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub watermark: usize,
    pub shard: usize,
    pub sn: usize,
    /// Columns kept of late rows, with the names they are kept under.
    pub kept: Vec<(String, usize)>,
}

/// How rows fall to sessions.
#[derive(Debug, Clone)]
pub struct SessionKeys {
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Whether a row starts a session, and whether it ends one.
    pub conditions: Option<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// Positions in the input: rows of one time are taken by shard and sequence number.
    pub shard: usize,
    pub sn: usize,
}

impl SourceSpec {
    /// What leaves the source: its columns, and the judging watermark where there is one.
    pub fn output_schema(&self) -> SchemaRef {
        if self.watermark.is_none() {
            return self.schema.clone();
        }
        let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(WATERMARK_COLUMN, DataType::Int64, false)));
        Arc::new(Schema::new(fields))
    }
}

/// A column to sort by.
#[derive(Debug, Clone)]
pub struct SortKey {
    pub expr: Arc<dyn PhysicalExpr>,
    pub descending: bool,
    pub nulls_first: bool,
}

/// Rows by key as a changelog. Rows must come in log order.
#[derive(Debug, Clone)]
pub struct KeyedChangelog {
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Rows whose version is less than that of their key's row are dropped.
    pub version: Option<Arc<dyn PhysicalExpr>>,
    /// Where the weight is put among the columns.
    pub at: usize,
    /// The column says the weight; else 1 of every row, for an aggregation that counts the weight.
    pub shown: bool,
}

/// How a row that takes another back finds it: the oldest one that has the same `same` columns. From
/// that one it gets the columns `of`.
#[derive(Debug, Clone)]
pub struct Retracted {
    pub same: Vec<usize>,
    pub of: Vec<usize>,
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
    /// Gives every row once for each window it lies in and is not late for; of a session when it has
    /// closed.
    Window {
        id: NodeId,
        spec: WindowSpec,
        time: WindowTime,
        /// `None` = no row is late.
        judged: Option<Judged>,
        /// Of session windows.
        session: Option<SessionKeys>,
        /// Where start and end are put among the columns.
        at: usize,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Keys, then aggregates.
    Aggregate {
        id: NodeId,
        keys: Vec<Projection>,
        aggregates: Vec<AggregateSpec>,
        order: Option<RowOrder>,
        /// `None` = over the whole stream.
        window: Option<WindowKeys>,
        emit: EmitSpec,
        /// A result set leaves as one batch, for whoever sorts it.
        whole: bool,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Holds rows until the life of their key has ended, then gives all of it in one batch, with its
    /// number as one more column at the end.
    Lives {
        id: NodeId,
        spec: LifeSpec,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Says of each row which emission of the aggregation below it belongs to, from 0.
    EmitVersion {
        id: NodeId,
        /// Where the number is put among the columns.
        at: usize,
        /// Every row is an emission.
        each_row: bool,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Takes a column (int8) as the weight of each row: what comes out is a changelog. Rows of weight 0
    /// are not there.
    Weights {
        id: NodeId,
        /// Position of the weight in the input. Where that column is among those that stay, it says 1
        /// of every row: how often a row is there is its weight.
        at: usize,
        /// For whoever looks at where rows stand: a row that takes back stands where that one does.
        retracted: Option<Retracted>,
        /// Of the input's columns the first ones, which stay.
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Each row takes back the last one of its key.
    Changelog {
        id: NodeId,
        spec: KeyedChangelog,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Gives every row what functions say of the rows before it.
    Over {
        id: NodeId,
        spec: OverSpec,
        /// Where the functions' columns are put.
        at: usize,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// One operator `of` for each key, with the key's own watermark. Has the inputs of `of`; of an
    /// aggregation over sessions those of the window that cuts them ([`StreamNode::sessions`]).
    Substreams {
        id: NodeId,
        /// Over the input.
        partition: Vec<Projection>,
        of: Box<StreamNode>,
    },
    /// Lets the first row of each key through.
    Dedup {
        id: NodeId,
        spec: DedupSpec,
        input: Box<StreamNode>,
    },
    /// Numbers the rows of each result set.
    Rank {
        id: NodeId,
        spec: RankSpec,
        /// Where the numbers are put.
        at: usize,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Shows the weight of each row as its last column.
    Delta {
        id: NodeId,
        schema: SchemaRef,
        input: Box<StreamNode>,
    },
    /// Sorts each result set.
    Sort {
        id: NodeId,
        keys: Vec<SortKey>,
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
            | StreamNode::Limit { id, .. }
            | StreamNode::Window { id, .. }
            | StreamNode::Aggregate { id, .. }
            | StreamNode::EmitVersion { id, .. }
            | StreamNode::Lives { id, .. }
            | StreamNode::Weights { id, .. }
            | StreamNode::Changelog { id, .. }
            | StreamNode::Over { id, .. }
            | StreamNode::Substreams { id, .. }
            | StreamNode::Dedup { id, .. }
            | StreamNode::Rank { id, .. }
            | StreamNode::Delta { id, .. }
            | StreamNode::Sort { id, .. } => *id,
        }
    }

    pub fn schema(&self) -> SchemaRef {
        match self {
            StreamNode::Source { spec, .. } => spec.output_schema(),
            StreamNode::Project { schema, .. }
            | StreamNode::Union { schema, .. }
            | StreamNode::Window { schema, .. }
            | StreamNode::Aggregate { schema, .. }
            | StreamNode::EmitVersion { schema, .. }
            | StreamNode::Lives { schema, .. }
            | StreamNode::Weights { schema, .. }
            | StreamNode::Changelog { schema, .. }
            | StreamNode::Over { schema, .. }
            | StreamNode::Rank { schema, .. }
            | StreamNode::Delta { schema, .. } => schema.clone(),
            StreamNode::Filter { input, .. }
            | StreamNode::Dedup { input, .. }
            | StreamNode::Limit { input, .. }
            | StreamNode::Sort { input, .. } => input.schema(),
            StreamNode::Substreams { of, .. } => of.schema(),
        }
    }

    pub fn inputs(&self) -> Vec<&StreamNode> {
        match self {
            StreamNode::Source { .. } => Vec::new(),
            StreamNode::Filter { input, .. }
            | StreamNode::Project { input, .. }
            | StreamNode::Window { input, .. }
            | StreamNode::Aggregate { input, .. }
            | StreamNode::EmitVersion { input, .. }
            | StreamNode::Lives { input, .. }
            | StreamNode::Sort { input, .. }
            | StreamNode::Weights { input, .. }
            | StreamNode::Changelog { input, .. }
            | StreamNode::Over { input, .. }
            | StreamNode::Dedup { input, .. }
            | StreamNode::Rank { input, .. }
            | StreamNode::Delta { input, .. }
            | StreamNode::Limit { input, .. } => vec![input],
            StreamNode::Union { inputs, .. } => inputs.iter().collect(),
            StreamNode::Substreams { of, .. } => of.sessions().unwrap_or(of).inputs(),
        }
    }

    /// Of an aggregation over sessions the window that cuts them, through what keeps their rows.
    pub fn sessions(&self) -> Option<&StreamNode> {
        let StreamNode::Aggregate { input, .. } = self else { return None };
        let mut at = &**input;
        loop {
            at = match at {
                StreamNode::Window { session: Some(_), .. } => return Some(at),
                StreamNode::Filter { input, .. } | StreamNode::Project { input, .. } => input,
                _ => return None,
            };
        }
    }

    fn below_sessions_mut(&mut self) -> Vec<&mut StreamNode> {
        match self {
            StreamNode::Window { session: Some(_), input, .. } => vec![input],
            other => other.inputs_mut().into_iter().flat_map(StreamNode::below_sessions_mut).collect(),
        }
    }

    /// Whether its rows have weights: some take back others.
    pub fn is_changelog(&self) -> bool {
        match self {
            StreamNode::Weights { .. } | StreamNode::Changelog { .. } | StreamNode::Delta { .. } => true,
            StreamNode::Aggregate { emit, .. } => emit.changelog,
            other => other.inputs().into_iter().any(StreamNode::is_changelog),
        }
    }

    pub fn inputs_mut(&mut self) -> Vec<&mut StreamNode> {
        match self {
            StreamNode::Source { .. } => Vec::new(),
            StreamNode::Filter { input, .. }
            | StreamNode::Project { input, .. }
            | StreamNode::Window { input, .. }
            | StreamNode::Aggregate { input, .. }
            | StreamNode::EmitVersion { input, .. }
            | StreamNode::Lives { input, .. }
            | StreamNode::Weights { input, .. }
            | StreamNode::Changelog { input, .. }
            | StreamNode::Over { input, .. }
            | StreamNode::Dedup { input, .. }
            | StreamNode::Rank { input, .. }
            | StreamNode::Sort { input, .. }
            | StreamNode::Delta { input, .. }
            | StreamNode::Limit { input, .. } => vec![input],
            StreamNode::Union { inputs, .. } => inputs.iter_mut().collect(),
            StreamNode::Substreams { of, .. } => {
                if of.sessions().is_some() {
                    of.below_sessions_mut()
                } else {
                    of.inputs_mut()
                }
            }
        }
    }

    /// All source specs below, in depth-first order.
    pub fn sources(&self) -> Vec<(NodeId, &SourceSpec)> {
        match self {
            StreamNode::Source { id, spec } => vec![(*id, spec)],
            other => other.inputs().into_iter().flat_map(|i| i.sources()).collect(),
        }
    }

    /// Sources whose rows somebody takes in one log order over all of them: those below a UNION that feeds a window or functions of earlier rows.
    pub fn together(&self) -> Vec<Vec<NodeId>> {
        let mut groups = Vec::new();
        self.gather(false, None, &mut groups);
        groups.retain(|group| group.len() > 1);
        groups
    }

    /// `wanted`: somebody above takes rows in order; `of`: the group they are in.
    fn gather(&self, wanted: bool, of: Option<usize>, groups: &mut Vec<Vec<NodeId>>) {
        let (wanted, of) = match self {
            StreamNode::Source { id, spec } => {
                let ordered = spec.watermark.is_some() || spec.log_order;
                if let Some(group) = of.filter(|_| ordered) {
                    groups[group].push(*id);
                }
                return;
            }
            StreamNode::Window { .. } | StreamNode::Over { .. } | StreamNode::Dedup { .. } => (true, of),
            // The window that cuts sessions is one with it.
            StreamNode::Substreams { of, .. } => (of.sessions().is_some(), None),
            StreamNode::Aggregate { .. } => (false, None),
            StreamNode::Union { .. } if wanted && of.is_none() => {
                groups.push(Vec::new());
                (true, Some(groups.len() - 1))
            }
            _ => (wanted, of),
        };
        self.inputs().into_iter().for_each(|input| input.gather(wanted, of, groups));
    }

    pub fn name(&self) -> &'static str {
        match self {
            StreamNode::Source { .. } => "Source",
            StreamNode::Filter { .. } => "Filter",
            StreamNode::Project { .. } => "Project",
            StreamNode::Union { .. } => "Union",
            StreamNode::Limit { .. } => "Limit",
            StreamNode::Window { session: Some(_), .. } => "Session",
            StreamNode::Window { .. } => "Window",
            StreamNode::Aggregate { window: Some(_), .. } => "WindowAggregate",
            StreamNode::Aggregate { .. } => "Aggregate",
            StreamNode::EmitVersion { .. } => "EmitVersion",
            StreamNode::Lives { .. } => "Lives",
            StreamNode::Sort { .. } => "Sort",
            StreamNode::Weights { .. } => "Weights",
            StreamNode::Changelog { .. } => "Changelog",
            StreamNode::Over { .. } => "Over",
            StreamNode::Substreams { .. } => "Substreams",
            StreamNode::Dedup { .. } => "Dedup",
            StreamNode::Rank { .. } => "Rank",
            StreamNode::Delta { .. } => "Delta",
        }
    }
}
