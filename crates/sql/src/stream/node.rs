//! Node by node.

use super::aggregate::aggregated;
use crate::bind::errors::from_datafusion;
use crate::bind::{
    DedupTable, KeyedTable, Lateness, LifeExprs, SessionRules, UnboundedTable, WindowTable, bound_of_result,
    from_predicate, unbounded_table,
};
use crate::parse::emit::{Emit, Life};
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, FetchType, LogicalPlan, Operator, SkipType, TableScan,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use std::collections::BTreeSet;
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{
    HistorySpec, Judged, NodeId, PartitionSpec, Projection, ReplayOrder, SessionKeys, SortKey, SourceSpec,
    StartPosition, StreamNode, Timeout, WEIGHT_COLUMN, WatermarkSpec, WindowBound, WindowTime,
};

pub(super) const SHARD: &str = "_tp_shard";
const APPEND_TIME: &str = "_tp_append_time";
const TIME: &str = "_tp_time";
const SN: &str = "_tp_sn";

/// What travels behind the columns a query names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hidden {
    /// The watermark a row is judged by.
    Watermark,
    /// A row's place: event time, shard, sequence number. Above a UNION of several streams shards are
    /// numbered over all of them.
    Time,
    Shard,
    Sn,
    /// The shard's number in its stream, where that is another.
    OwnShard,
    /// One of the columns kept of late rows.
    Kept(usize),
    WindowStart,
    WindowEnd,
    AppendTime,
    LifeTime,
    LifeOpens,
    LifeCloses,
}

/// A node and where its hidden columns are.
pub(super) struct Lowered {
    pub node: StreamNode,
    pub hidden: Vec<(Hidden, usize)>,
}

impl Lowered {
    pub fn plain(node: StreamNode) -> Self {
        Lowered { node, hidden: Vec::new() }
    }
    pub fn find(&self, what: Hidden) -> Option<usize> {
        self.hidden.iter().find(|(h, _)| *h == what).map(|(_, at)| *at)
    }
}

pub(super) struct Lowering<'a> {
    state: &'a SessionState,
    seek_to: &'a Option<StartPosition>,
    lateness: Lateness,
    /// Of the outermost aggregation, which takes it.
    pub(super) emit: Option<Emit>,
    pub(super) delay_ns: i64,
    /// `EMIT TIMEOUT`: how long, and the window of the aggregation that has it.
    pub(super) timeout: Option<Timeout>,
    /// The time by which the source below must judge rows, over the scan.
    pub(super) judged_by: Option<Expr>,
    /// The bound by which a window above goes, for the aggregation below it.
    pub(super) passes: Option<WindowBound>,
    /// Kept of rows that are late.
    pub(super) late_columns: Vec<String>,
    /// Of the aggregation that ends keys by their lives, which takes it.
    pub(super) life: Option<LifeExprs>,
    pub(super) sessions: SessionRules,
    /// The life of the aggregation being lowered, between its policy and its input.
    pub(super) ends_keys: Option<Life>,
    /// What the source below must say of the lives of keys.
    pub(super) lives: Option<LifeExprs>,
    /// Of the longest silence that the life of a key outlasts, microseconds.
    pub(super) silence_us: i64,
    /// The keys that have a watermark each, over the scan.
    pub(super) partition: Vec<Expr>,
    /// Rows below must say their place in the log.
    pub(super) ordered: bool,
    /// And when the log took them in.
    pub(super) by_log: bool,
    /// Rows below must come in log order.
    pub(super) log_order: bool,
    /// Rows below must say when they were appended.
    pub(super) appended: bool,
    /// A result set is wanted as one batch.
    pub(super) whole: bool,
    /// Below an aggregation.
    pub(super) inside: bool,
    /// Rows of changelog streams are wanted with their weights although nothing aggregates them.
    weighed: bool,
    pub(super) replay_order: ReplayOrder,
    next: u32,
}

impl<'a> Lowering<'a> {
    pub fn new(
        state: &'a SessionState,
        seek_to: &'a Option<StartPosition>,
        emit: Option<Emit>,
        lateness: Lateness,
        replay_order: ReplayOrder,
    ) -> Self {
        Lowering {
            state,
            seek_to,
            lateness,
            emit,
            delay_ns: 0,
            timeout: None,
            judged_by: None,
            passes: None,
            late_columns: Vec::new(),
            life: None,
            sessions: SessionRules::default(),
            ends_keys: None,
            silence_us: 0,
            lives: None,
            ordered: false,
            by_log: false,
            partition: Vec::new(),
            log_order: false,
            appended: false,
            whole: false,
            inside: false,
            weighed: false,
            replay_order,
            next: 0,
        }
    }

    /// The whole plan under the result's own schema.
    pub fn root(&mut self, plan: &LogicalPlan, schema: SchemaRef) -> Result<StreamNode, Error> {
        let changes = self.emit.as_ref().is_some_and(|e| e.changelog);
        // A tail that shows the weight already has nothing more to show.
        let delta = (changes && schema.fields().len() > plan.schema().fields().len()).then(|| self.id());
        let tail = changes && !aggregated(plan);
        if tail && self.emit.as_ref().is_some_and(|e| e.policy.is_none()) {
            self.emit = None;
            self.weighed = delta.is_some();
        }
        let root = self.node(plan)?.node;
        if tail && self.weighed && !root.is_changelog() {
            return Err(err!(
                NotImplemented,
                "EMIT CHANGELOG over rows that are never taken back: aggregate them, or read a stream of mode='changelog'"
            ));
        }
        if self.emit.is_some() {
            return Err(err!(
                IncorrectQuery,
                "EMIT says when aggregates leave, and this query has none: its rows leave as they come; leave EMIT out"
            ));
        }
        let Some(id) = delta else { return self.named(root, schema) };
        let own = schema.fields().iter().filter(|f| f.name() != WEIGHT_COLUMN).cloned().collect::<Vec<_>>();
        let input = Box::new(self.named(root, Arc::new(Schema::new(own)))?);
        Ok(StreamNode::Delta { id, schema, input })
    }

    /// Whether somebody above counts the weights of rows.
    pub(super) fn counts_weights(&self) -> bool {
        self.inside || self.weighed
    }

    /// Below `changelog(…)` nobody counts weights; gives what [`Self::enter_changelog`] takes.
    pub(super) fn leave_changelog(&mut self) -> (bool, bool) {
        (std::mem::take(&mut self.inside), std::mem::take(&mut self.weighed))
    }

    pub(super) fn enter_changelog(&mut self, above: (bool, bool)) {
        (self.inside, self.weighed) = above;
    }

    pub(super) fn id(&mut self) -> NodeId {
        self.next += 1;
        NodeId(self.next - 1)
    }

    pub(super) fn physical(&self, e: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, Error> {
        self.state.create_physical_expr(e.clone(), schema).map_err(from_datafusion)
    }

    pub(super) fn node(&mut self, plan: &LogicalPlan) -> Result<Lowered, Error> {
        match plan {
            LogicalPlan::TableScan(t) => self.source(t, &[]),
            LogicalPlan::SubqueryAlias(a) => self.node(&a.input),
            LogicalPlan::Filter(f) => {
                let id = self.id();
                let Lowered { node, hidden } = match scan_below(&f.input) {
                    Some(t) => self.source(t, &split_conjunction(&f.predicate))?,
                    None => self.node(&f.input)?,
                };
                let predicate = self.physical(&f.predicate, f.input.schema())?;
                Ok(Lowered { node: StreamNode::Filter { id, predicate, input: Box::new(node) }, hidden })
            }
            // Nobody reads a column; rows are all that counts, and the input has them.
            LogicalPlan::Projection(p) if p.expr.is_empty() => self.node(&p.input),
            LogicalPlan::Projection(p) => {
                let id = self.id();
                let Lowered { node, hidden } = self.node(&p.input)?;
                let mut exprs = p
                    .expr
                    .iter()
                    .zip(p.schema.fields())
                    .map(|(e, f)| {
                        Ok(Projection { expr: self.physical(e, p.input.schema())?, name: f.name().clone() })
                    })
                    .collect::<Result<Vec<_>, Error>>()?;
                let mut fields: Vec<FieldRef> = p.schema.fields().iter().cloned().collect();
                let below = node.schema();
                let hidden = hidden
                    .into_iter()
                    .map(|(what, at)| {
                        let field = below.field(at);
                        exprs.push(Projection {
                            expr: Arc::new(Column::new(field.name(), at)),
                            name: field.name().clone(),
                        });
                        fields.push(Arc::new(field.clone()));
                        (what, fields.len() - 1)
                    })
                    .collect();
                let schema = Arc::new(Schema::new(fields));
                Ok(Lowered { node: StreamNode::Project { id, exprs, schema, input: Box::new(node) }, hidden })
            }
            LogicalPlan::Union(u) => self.union(u),
            LogicalPlan::Limit(l) => {
                let id = self.id();
                let Lowered { node, hidden } = self.node(&l.input)?;
                if self.inside && node.is_changelog() {
                    return Err(err!(
                        NotImplemented,
                        "LIMIT of a changelog below an aggregation is not supported yet: which rows are the first changes with every row"
                    ));
                }
                let skip = match l.get_skip_type().map_err(from_datafusion)? {
                    SkipType::Literal(n) => n as u64,
                    SkipType::UnsupportedExpr => return Err(err!(BadArguments, "OFFSET must be a constant")),
                };
                let fetch = match l.get_fetch_type().map_err(from_datafusion)? {
                    FetchType::Literal(n) => n.map(|n| n as u64),
                    FetchType::UnsupportedExpr => return Err(err!(BadArguments, "LIMIT must be a constant")),
                };
                Ok(Lowered { node: StreamNode::Limit { id, skip, fetch, input: Box::new(node) }, hidden })
            }
            // An aggregation takes rows in by their place, in whatever order they come.
            LogicalPlan::Sort(s) if self.inside => self.node(&s.input),
            LogicalPlan::Sort(s) => {
                let id = self.id();
                let whole = std::mem::replace(&mut self.whole, true);
                let Lowered { node, hidden } = self.node(&s.input)?;
                self.whole = whole;
                let keys = s
                    .expr
                    .iter()
                    .map(|k| {
                        Ok(SortKey {
                            expr: self.physical(&k.expr, s.input.schema())?,
                            descending: !k.asc,
                            nulls_first: k.nulls_first,
                        })
                    })
                    .collect::<Result<Vec<_>, Error>>()?;
                Ok(Lowered { node: StreamNode::Sort { id, keys, input: Box::new(node) }, hidden })
            }
            LogicalPlan::Aggregate(a) => self.aggregate(a).map(Lowered::plain),
            LogicalPlan::Window(w) => self.over(w),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            other => match (WindowTable::of(other), KeyedTable::of(other), DedupTable::of(other)) {
                (Some(window), ..) => self.window(window),
                (_, Some(keyed), _) => self.keyed(keyed),
                (_, _, Some(dedup)) => self.dedup(dedup),
                (None, None, None) => {
                    let name = other.display().to_string();
                    let name = name.split([':', ' ']).next().unwrap_or("this clause").to_lowercase();
                    Err(err!(NotImplemented, "{name} over an unbounded stream is not supported yet"))
                }
            },
        }
    }

    fn window(&mut self, window: &WindowTable) -> Result<Lowered, Error> {
        let id = self.id();
        let input = &window.input;
        if self.judged_by.is_some() {
            return Err(err!(
                NotImplemented,
                "a window over a window that is not aggregated is not supported; aggregate the inner one first"
            ));
        }
        if !window.partition.is_empty() {
            self.partitioned(window)?;
        }
        let time = if is_clock(&window.time)? {
            if self.timeout.is_some() {
                return Err(err!(
                    IncorrectQuery,
                    "EMIT TIMEOUT means nothing for windows by the clock: they close by themselves; leave it out"
                ));
            }
            WindowTime::Processing
        } else if let Some(of_whole) = aggregation_below(input) {
            if self.timeout.is_some() {
                return Err(err!(
                    NotImplemented,
                    "EMIT TIMEOUT over windows of windows is not supported yet; leave it out"
                ));
            }
            self.passes = Some(over_result(window, of_whole)?);
            WindowTime::Event(self.physical(&window.time, input.schema())?)
        } else {
            self.judged_by = Some(over_scan(window.time.clone(), input)?);
            WindowTime::Event(self.physical(&window.time, input.schema())?)
        };
        let ordered = self.ordered;
        self.ordered |= window.is_session();
        let Lowered { node, hidden } = self.node(input)?;
        self.ordered = ordered;
        self.partition.clear();
        self.passes = None;
        let judged = match self.judged_by.take() {
            None => None,
            Some(_) => {
                let find = |what: Hidden| {
                    let found = hidden.iter().find(|(h, _)| *h == what).map(|(_, at)| *at);
                    found.ok_or_else(|| err!(LogicalError, "the rows of a window are not judged"))
                };
                Some(Judged {
                    watermark: find(Hidden::Watermark)?,
                    shard: find(Hidden::OwnShard).or_else(|_| find(Hidden::Shard))?,
                    sn: find(Hidden::Sn)?,
                    kept: hidden
                        .iter()
                        .filter_map(|(what, at)| match what {
                            Hidden::Kept(i) => Some((self.late_columns[*i].clone(), *at)),
                            _ => None,
                        })
                        .collect(),
                })
            }
        };
        let session = match &window.keys {
            None => None,
            Some(keys) => {
                let place = |what: Hidden| hidden.iter().find(|(h, _)| *h == what).map(|(_, at)| *at);
                let (Some(shard), Some(sn)) = (place(Hidden::Shard), place(Hidden::Sn)) else {
                    return Err(err!(
                        NotImplemented,
                        "session windows over rows that have no place in a log are not supported; read the stream itself"
                    ));
                };
                let physical = |e: &Expr| self.physical(e, input.schema());
                let conditions = match &window.conditions {
                    None => None,
                    Some((start, end)) => Some((physical(start)?, physical(end)?)),
                };
                let keys = keys.iter().map(physical).collect::<Result<_, _>>()?;
                Some(SessionKeys { keys, conditions, shard, sn })
            }
        };
        let own = input.schema().fields().len();
        let below = node.schema();
        let mut fields: Vec<FieldRef> = below.fields().iter().cloned().collect();
        let all = datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(window);
        for i in 0..2 {
            fields.insert(own + i, Arc::new(Field::clone(all.field(own + i))));
        }
        let mut shifted: Vec<(Hidden, usize)> =
            hidden.into_iter().map(|(h, at)| (h, if at >= own { at + 2 } else { at })).collect();
        shifted.retain(|(h, _)| {
            use Hidden as H;
            !matches!(h, H::Watermark | H::Kept(_) | H::OwnShard | H::WindowStart | H::WindowEnd)
        });
        shifted.push((Hidden::WindowStart, own));
        shifted.push((Hidden::WindowEnd, own + 1));
        let node = StreamNode::Window {
            id,
            spec: window.spec,
            time,
            judged,
            session,
            at: own,
            schema: Arc::new(Schema::new(fields)),
            input: Box::new(node),
        };
        Ok(Lowered { node, hidden: shifted })
    }

    fn source(&mut self, t: &TableScan, conditions: &[&Expr]) -> Result<Lowered, Error> {
        let id = self.id();
        let Some(table) = unbounded_table(t) else {
            return Err(err!(
                NotImplemented,
                "relation {} ends and can not be read by a streaming query",
                t.table_name
            ));
        };
        let own: Vec<&Expr> = conditions.iter().copied().chain(&t.filters).collect();
        let mut fields: Vec<FieldRef> = t.projected_schema.fields().iter().cloned().collect();
        if fields.is_empty() {
            // Batches count rows by their columns, so one is read all the same.
            let filler = if table.changelog { WEIGHT_COLUMN } else { TIME };
            let filler = table.schema.column_with_name(filler).map_or(0, |(i, _)| i);
            fields.push(table.schema.fields()[filler].clone());
        }
        let mut hidden = Vec::new();
        if table.changelog && (self.judged_by.is_some() || self.lives.is_some()) {
            return Err(err!(
                NotImplemented,
                "windows over a changelog, and keys that expire, are not supported: {} takes rows back; aggregate it without them",
                table.relation
            ));
        }
        // What says when keys end may read columns that nobody else does.
        let lives = self.lives.clone();
        let life = lives.iter().flat_map(|l| [Some(&l.time), l.opens.as_ref(), l.closes.as_ref()]);
        let read: BTreeSet<&str> =
            life.flatten().flat_map(Expr::column_refs).map(|c| c.name.as_str()).collect();
        for name in read {
            also(table, &mut fields, name)?;
        }
        let seen = DFSchema::try_from_qualified_schema(t.table_name.clone(), &Schema::new(fields.clone()))
            .map_err(from_datafusion)?;
        if self.ordered {
            hidden.push((Hidden::Time, also(table, &mut fields, TIME)?));
        }
        // Of a row that is late its place is told.
        if self.ordered || self.judged_by.is_some() {
            hidden.push((Hidden::Shard, also(table, &mut fields, SHARD)?));
            hidden.push((Hidden::Sn, also(table, &mut fields, SN)?));
        }
        if self.judged_by.is_some() {
            for (i, name) in self.late_columns.iter().enumerate() {
                if table.schema.fields().find(name).is_some() {
                    hidden.push((Hidden::Kept(i), also(table, &mut fields, name)?));
                }
            }
        }
        if (self.by_log || self.appended) && self.judged_by.is_none() {
            hidden.push((Hidden::AppendTime, also(table, &mut fields, APPEND_TIME)?));
        }
        let watermark = match &self.judged_by {
            None => None,
            Some(time) => Some(WatermarkSpec {
                time: self.physical(time, &seen)?,
                delay_ns: self.delay_ns,
                silence_us: self.silence_us,
                idle_timeout_us: self.lateness.idle_timeout_us,
                future_max_ns: self.lateness.future_max_ns,
                timeout: self.timeout,
                shard: also(table, &mut fields, SHARD)?,
                append_time: also(table, &mut fields, APPEND_TIME)?,
                partition: if self.partition.is_empty() {
                    None
                } else {
                    let keys = self.partition.iter().map(|k| self.physical(k, &seen));
                    Some(PartitionSpec {
                        keys: keys.collect::<Result<_, _>>()?,
                        lag_max_ns: self.lateness.partition_lag_max_ns,
                    })
                },
            }),
        };
        if let Some(w) = &watermark {
            hidden.push((Hidden::Watermark, fields.len()));
            hidden.push((Hidden::AppendTime, w.append_time));
        }
        let all = conjunction(own.iter().map(|e| (*e).clone()));
        let seeks = match &all {
            Some(p) => from_predicate(p),
            None => Ok(None),
        };
        let mut start = match self.seek_to {
            Some(s) => s.clone(),
            None => seeks?.unwrap_or_default(),
        };
        let weighed = table.changelog && self.counts_weights();
        let stays = fields.len();
        let weights = if weighed { Some(self.weights(table, &mut fields)?) } else { None };
        if weighed && self.seek_to.is_none() && start != StartPosition::Latest {
            // What is taken back may lie before the place a predicate names.
            start = StartPosition::Earliest;
        }
        // Every row counts for the watermark, also those a condition leaves out; but one below the
        // least time the query asks for judges no row that is asked for. Of a changelog those count
        // whose place or weight it looks at.
        let looks = |e: &Expr| e.column_refs().iter().any(|c| is_reserved(&c.name));
        let judged_by = self.judged_by.as_ref();
        let may_skip = |e: &Expr| {
            !(e.is_volatile() || weighed && looks(e)) && judged_by.is_none_or(|time| is_from(e, time))
        };
        let lasting = conjunction(own.into_iter().filter(|e| may_skip(e)).cloned());
        let prune = lasting.map(|p| self.physical(&p, &t.projected_schema)).transpose()?;
        let source = StreamNode::Source {
            id,
            spec: SourceSpec {
                database: table.database.clone(),
                relation: table.relation.clone(),
                columns: fields.iter().map(|f| f.name().clone()).collect(),
                schema: Arc::new(Schema::new(fields.clone())),
                start,
                prune,
                watermark,
                history: HistorySpec::default(),
                log_order: self.log_order,
            },
        };
        if let Some(lives) = lives {
            return self.life_columns(source, hidden, &lives, &seen);
        }
        let Some((at, retracted)) = weights else { return Ok(Lowered { node: source, hidden }) };
        fields.truncate(stays);
        let schema = Arc::new(Schema::new(fields));
        let id = self.id();
        let node = StreamNode::Weights { id, at, retracted, schema, input: Box::new(source) };
        Ok(Lowered { node, hidden })
    }

    /// Puts behind a source's columns what says of each row when the life of its key begins and ends.
    fn life_columns(
        &mut self,
        node: StreamNode,
        mut hidden: Vec<(Hidden, usize)>,
        lives: &LifeExprs,
        seen: &DFSchema,
    ) -> Result<Lowered, Error> {
        let below = node.schema();
        let mut fields: Vec<FieldRef> = below.fields().iter().cloned().collect();
        let mut exprs: Vec<Projection> = fields
            .iter()
            .enumerate()
            .map(|(i, f)| Projection { expr: Arc::new(Column::new(f.name(), i)), name: f.name().clone() })
            .collect();
        let all = [
            (Hidden::LifeTime, Some(&lives.time), "__life_time"),
            (Hidden::LifeOpens, lives.opens.as_ref(), "__life_opens"),
            (Hidden::LifeCloses, lives.closes.as_ref(), "__life_closes"),
        ];
        for (what, e, name) in all {
            let Some(e) = e else { continue };
            let expr = self.physical(e, seen)?;
            let t = expr.data_type(&below).map_err(from_datafusion)?;
            hidden.push((what, fields.len()));
            fields.push(Arc::new(Field::new(name, t, true)));
            exprs.push(Projection { expr, name: name.into() });
        }
        let (id, schema) = (self.id(), Arc::new(Schema::new(fields)));
        Ok(Lowered { node: StreamNode::Project { id, exprs, schema, input: Box::new(node) }, hidden })
    }

    /// The result's own schema on top: names that repeat, Weir's types.
    fn named(&mut self, root: StreamNode, schema: SchemaRef) -> Result<StreamNode, Error> {
        let same = root.schema().fields() == schema.fields();
        if same {
            return Ok(root);
        }
        if let StreamNode::Project { id, mut exprs, input, .. } = root {
            exprs.truncate(schema.fields().len());
            for (p, f) in exprs.iter_mut().zip(schema.fields()) {
                p.name.clone_from(f.name());
            }
            return Ok(StreamNode::Project { id, exprs, schema, input });
        }
        let from = root.schema();
        let exprs = from
            .fields()
            .iter()
            .zip(schema.fields())
            .enumerate()
            .map(|(i, (from, to))| Projection {
                expr: Arc::new(Column::new(from.name(), i)),
                name: to.name().clone(),
            })
            .collect();
        Ok(StreamNode::Project { id: self.id(), exprs, schema, input: Box::new(root) })
    }
}

/// Columns that say where a row stands, not what it is.
pub(super) fn is_reserved(name: &str) -> bool {
    [TIME, SHARD, SN, APPEND_TIME, WEIGHT_COLUMN].contains(&name)
}

/// The position of a column of a stream among those that are read; at the end where it was not.
pub(super) fn also(table: &UnboundedTable, fields: &mut Vec<FieldRef>, name: &str) -> Result<usize, Error> {
    if let Some(at) = fields.iter().position(|f| f.name() == name) {
        return Ok(at);
    }
    let (_, field) = table
        .schema
        .fields()
        .find(name)
        .ok_or_else(|| err!(UnknownIdentifier, "{} has no column {name}", table.relation))?;
    fields.push(field.clone());
    Ok(fields.len() - 1)
}

/// Whether a condition asks for times from a constant on.
fn is_from(condition: &Expr, time: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return false };
    let (column, constant) = match op {
        Operator::Gt | Operator::GtEq => (left, right),
        Operator::Lt | Operator::LtEq => (right, left),
        _ => return false,
    };
    match (&**column, time, &**constant) {
        (Expr::Column(a), Expr::Column(b), Expr::Literal(..)) => a.name == b.name,
        _ => false,
    }
}

/// The scan right below, through aliases that rename nothing a predicate sees.
fn scan_below(plan: &LogicalPlan) -> Option<&TableScan> {
    match plan {
        LogicalPlan::TableScan(t) => Some(t),
        LogicalPlan::SubqueryAlias(a) => scan_below(&a.input),
        _ => None,
    }
}

/// Whether a window's time is the clock's: `now()`, `now64()`.
fn is_clock(time: &Expr) -> Result<bool, Error> {
    if !time.is_volatile() {
        return Ok(false);
    }
    let mut inner = time;
    loop {
        inner = match inner {
            Expr::Alias(a) => &a.expr,
            Expr::Cast(c) => &c.expr,
            Expr::ScalarFunction(f) if matches!(f.name(), "now" | "now64") => return Ok(true),
            _ => {
                return Err(err!(
                    NotImplemented,
                    "a window goes by a time of the rows or by the clock, now64(); {time} is neither"
                ));
            }
        };
    }
}

/// The aggregation that gives the rows of a plan, through what keeps them; whether it is over the
/// whole stream.
fn aggregation_below(plan: &LogicalPlan) -> Option<bool> {
    match plan {
        LogicalPlan::Aggregate(a) => Some(!super::aggregate::windowed(&a.input)),
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            aggregation_below(plan.inputs()[0])
        }
        _ => None,
    }
}

/// By which bound of the windows below a window goes.
fn over_result(window: &WindowTable, of_whole: bool) -> Result<WindowBound, Error> {
    if of_whole {
        return Err(err!(
            NotImplemented,
            "a window over an aggregation of the whole stream is not supported: its rows change as long as the query runs and belong to no time; aggregate windows, or window the stream itself"
        ));
    }
    if window.is_session() {
        return Err(err!(
            NotImplemented,
            "session windows over rows of windows are not supported; use tumble or hop over them"
        ));
    }
    let mut e = &window.time;
    while let Expr::Alias(a) = e {
        e = &a.expr;
    }
    let bound = match e {
        Expr::Column(c) => {
            window.input.schema().maybe_index_of_column(c).and_then(|at| bound_of_result(&window.input, at))
        }
        _ => None,
    };
    match bound {
        Some(true) => Ok(WindowBound::End),
        Some(false) => Ok(WindowBound::Start),
        None => Err(err!(
            NotImplemented,
            "a window over rows of windows goes by their window_start or window_end, not by {}",
            window.time
        )),
    }
}

/// An expression over a plan's columns, over those of the one scan below it.
pub(crate) fn over_scan(e: Expr, plan: &LogicalPlan) -> Result<Expr, Error> {
    let at = |c: &datafusion::common::Column| {
        plan.schema()
            .maybe_index_of_column(c)
            .ok_or_else(|| err!(UnknownIdentifier, "the window's time has no column {c} below it"))
    };
    let replaced = |of: &dyn Fn(usize) -> Expr| -> Result<Expr, Error> {
        e.clone()
            .transform(|x| {
                Ok(match &x {
                    Expr::Column(c) => match at(c) {
                        Ok(i) => Transformed::yes(of(i)),
                        Err(e) => return Err(crate::bind::errors::external(e)),
                    },
                    _ => Transformed::no(x),
                })
            })
            .map(|t| t.data)
            .map_err(from_datafusion)
    };
    let column = |schema: &DFSchema, i: usize| Expr::Column(schema.columns()[i].clone());
    match plan {
        // What each of its inputs makes of it is looked at there.
        LogicalPlan::TableScan(_) | LogicalPlan::Union(_) => Ok(e),
        LogicalPlan::SubqueryAlias(a) => {
            let e = replaced(&|i| column(a.input.schema(), i))?;
            over_scan(e, &a.input)
        }
        LogicalPlan::Filter(f) => over_scan(e, &f.input),
        LogicalPlan::Projection(p) => {
            let e = replaced(&|i| {
                let mut inner = &p.expr[i];
                while let Expr::Alias(a) = inner {
                    inner = &a.expr;
                }
                inner.clone()
            })?;
            over_scan(e, &p.input)
        }
        LogicalPlan::Aggregate(_) => Err(err!(
            NotImplemented,
            "a window over an aggregation is not supported yet; window the stream itself"
        )),
        // These keep rows as they are.
        LogicalPlan::Distinct(Distinct::All(input)) => over_scan(e, input),
        LogicalPlan::Extension(_) if DedupTable::of(plan).is_some() => {
            over_scan(e, &DedupTable::of(plan).expect("asked above").input)
        }
        LogicalPlan::Window(w) => over_scan(e, &w.input),
        other => {
            let name = other.display().to_string();
            let name = name.split([':', ' ']).next().unwrap_or("this").to_lowercase();
            Err(err!(NotImplemented, "a window over {name} is not supported yet"))
        }
    }
}
