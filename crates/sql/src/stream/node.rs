//! Node by node.

use crate::bind::errors::from_datafusion;
use crate::bind::{Lateness, WindowTable, from_predicate, unbounded_table};
use crate::parse::emit::Emit;
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, FetchType, LogicalPlan, Operator, SkipType, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{
    HistorySpec, NodeId, Projection, SortKey, SourceSpec, StartPosition, StreamNode, WEIGHT_COLUMN,
    WatermarkSpec,
};

const SHARD: &str = "_tp_shard";
const APPEND_TIME: &str = "_tp_append_time";
const TIME: &str = "_tp_time";
const SN: &str = "_tp_sn";

/// What travels behind the columns a query names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hidden {
    /// The watermark a row is judged by.
    Watermark,
    /// A row's place: event time, shard, sequence number.
    Time,
    Shard,
    Sn,
    WindowStart,
    WindowEnd,
}

/// A node and where its hidden columns are.
pub(super) struct Lowered {
    pub node: StreamNode,
    pub hidden: Vec<(Hidden, usize)>,
}

impl Lowered {
    fn plain(node: StreamNode) -> Self {
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
    /// The time by which the source below must judge rows, over the scan.
    judged_by: Option<Expr>,
    /// Rows below must say their place in the log.
    pub(super) ordered: bool,
    /// A result set is wanted as one batch.
    pub(super) whole: bool,
    next: u32,
}

impl<'a> Lowering<'a> {
    pub fn new(
        state: &'a SessionState,
        seek_to: &'a Option<StartPosition>,
        emit: Option<Emit>,
        lateness: Lateness,
    ) -> Self {
        Lowering {
            state,
            seek_to,
            lateness,
            emit,
            delay_ns: 0,
            judged_by: None,
            ordered: false,
            whole: false,
            next: 0,
        }
    }

    /// The whole plan under the result's own schema.
    pub fn root(&mut self, plan: &LogicalPlan, schema: SchemaRef) -> Result<StreamNode, Error> {
        let delta = self.emit.is_some_and(|e| e.changelog).then(|| self.id());
        let root = self.node(plan)?.node;
        if self.emit.is_some() {
            return Err(err!(
                NotImplemented,
                "EMIT says when aggregates leave, and this query has none: its rows leave as they come; leave EMIT out"
            ));
        }
        let Some(id) = delta else { return self.named(root, schema) };
        let own = schema.fields().iter().filter(|f| f.name() != WEIGHT_COLUMN).cloned().collect::<Vec<_>>();
        let input = Box::new(self.named(root, Arc::new(Schema::new(own)))?);
        Ok(StreamNode::Delta { id, schema, input })
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
            LogicalPlan::Union(u) => {
                if self.judged_by.is_some() {
                    return Err(err!(
                        NotImplemented,
                        "a window over a UNION of streams is not supported yet; window each of them"
                    ));
                }
                let ordered = std::mem::take(&mut self.ordered);
                let id = self.id();
                let inputs = u
                    .inputs
                    .iter()
                    .map(|i| self.node(i).map(|l| l.node))
                    .collect::<Result<Vec<_>, Error>>()?;
                self.ordered = ordered;
                let schema = Arc::new(Schema::new(u.schema.fields().clone()));
                Ok(Lowered::plain(StreamNode::Union { id, schema, inputs }))
            }
            LogicalPlan::Limit(l) => {
                let id = self.id();
                let Lowered { node, hidden } = self.node(&l.input)?;
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
            other => match WindowTable::of(other) {
                Some(window) => self.window(window),
                None => {
                    let name = other.display().to_string();
                    let name = name.split([':', ' ']).next().unwrap_or("this clause").to_lowercase();
                    Err(err!(NotImplemented, "{name} over an unbounded stream is not supported yet"))
                }
            },
        }
    }

    fn window(&mut self, window: &WindowTable) -> Result<Lowered, Error> {
        let id = self.id();
        if self.judged_by.is_some() {
            return Err(err!(
                NotImplemented,
                "a window over a window is not supported yet; aggregate over the whole stream instead"
            ));
        }
        if window.time.is_volatile() {
            return Err(err!(
                NotImplemented,
                "windows over processing time ({}) are not supported yet; use a column such as _tp_time",
                window.time
            ));
        }
        self.judged_by = Some(over_scan(window.time.clone(), &window.input)?);
        let Lowered { node, hidden } = self.node(&window.input)?;
        self.judged_by = None;
        let own = window.input.schema().fields().len();
        let watermark = hidden
            .iter()
            .find(|(h, _)| *h == Hidden::Watermark)
            .map(|(_, at)| *at)
            .ok_or_else(|| err!(LogicalError, "the rows of a window are not judged"))?;
        let time = self.physical(&window.time, window.input.schema())?;
        let below = node.schema();
        let mut fields: Vec<FieldRef> = below.fields().iter().cloned().collect();
        let all = datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(window);
        for i in 0..2 {
            fields.insert(own + i, Arc::new(Field::clone(all.field(own + i))));
        }
        let mut shifted: Vec<(Hidden, usize)> =
            hidden.into_iter().map(|(h, at)| (h, if at >= own { at + 2 } else { at })).collect();
        shifted.retain(|(h, _)| *h != Hidden::Watermark);
        shifted.push((Hidden::WindowStart, own));
        shifted.push((Hidden::WindowEnd, own + 1));
        let node = StreamNode::Window {
            id,
            spec: window.spec,
            time,
            watermark,
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
            let time = table.schema.column_with_name(TIME).map_or(0, |(i, _)| i);
            fields.push(table.schema.fields()[time].clone());
        }
        let mut hidden = Vec::new();
        let mut also = |name: &str| -> Result<usize, Error> {
            let (_, field) = table
                .schema
                .fields()
                .find(name)
                .ok_or_else(|| err!(UnknownIdentifier, "{} has no column {name}", table.relation))?;
            fields.push(field.clone());
            Ok(fields.len() - 1)
        };
        if self.ordered {
            for (what, name) in [(Hidden::Time, TIME), (Hidden::Shard, SHARD), (Hidden::Sn, SN)] {
                hidden.push((what, also(name)?));
            }
        }
        let watermark = match &self.judged_by {
            None => None,
            Some(time) => Some(WatermarkSpec {
                time: self.physical(time, &t.projected_schema)?,
                delay_ns: self.delay_ns,
                idle_timeout_us: self.lateness.idle_timeout_us,
                future_max_ns: self.lateness.future_max_ns,
                shard: also(SHARD)?,
                append_time: also(APPEND_TIME)?,
            }),
        };
        if watermark.is_some() {
            hidden.push((Hidden::Watermark, fields.len()));
        }
        let all = conjunction(own.iter().map(|e| (*e).clone()));
        let seeks = match &all {
            Some(p) => from_predicate(p),
            None => Ok(None),
        };
        let start = match self.seek_to {
            Some(s) => s.clone(),
            None => seeks?.unwrap_or_default(),
        };
        // Every row counts for the watermark, also those a condition leaves out; but one below the
        // least time the query asks for judges no row that is asked for.
        let judged_by = self.judged_by.as_ref();
        let may_skip = |e: &Expr| !e.is_volatile() && judged_by.is_none_or(|time| is_from(e, time));
        let lasting = conjunction(own.into_iter().filter(|e| may_skip(e)).cloned());
        let prune = lasting.map(|p| self.physical(&p, &t.projected_schema)).transpose()?;
        let node = StreamNode::Source {
            id,
            spec: SourceSpec {
                database: table.database.clone(),
                relation: table.relation.clone(),
                columns: fields.iter().map(|f| f.name().clone()).collect(),
                schema: Arc::new(Schema::new(fields)),
                start,
                prune,
                watermark,
                history: HistorySpec::default(),
            },
        };
        Ok(Lowered { node, hidden })
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

/// An expression over a plan's columns, over those of the one scan below it.
fn over_scan(e: Expr, plan: &LogicalPlan) -> Result<Expr, Error> {
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
        LogicalPlan::TableScan(_) => Ok(e),
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
        other => {
            let name = other.display().to_string();
            let name = name.split([':', ' ']).next().unwrap_or("this").to_lowercase();
            Err(err!(NotImplemented, "a window over {name} is not supported yet"))
        }
    }
}
