//! An unbounded plan becomes a [`StreamPlan`]: plain data that `dataflow` runs.
//!
//! ```text
//! LogicalPlan -> chosen rules (simplify, filters down, columns down) -> StreamNode tree
//! ```
//!
//! Only rules that change no row and no order are applied: they bring predicates to the
//! sources, where they decide where to begin and which parts to skip, and drop columns nobody
//! reads. A predicate always filters again in the plan.
//!
//! Not here: state, time, execution.

use crate::bind::errors::from_datafusion;
use crate::bind::{BoundQuery, from_predicate, unbounded_table};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, FetchType, LogicalPlan, SkipType, TableScan};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimizer::{Optimizer, OptimizerRule};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{NodeId, Projection, SourceSpec, StartPosition, StreamNode, StreamPlan};

/// Lowers an unbounded query.
///
/// # Errors
/// 48 for operators of later versions, 183 for a predicate that should seek and can not.
pub fn lower(bound: BoundQuery, state: &SessionState) -> Result<StreamPlan, Error> {
    if !bound.unbounded {
        return Err(err!(LogicalError, "a bounded query has no stream plan"));
    }
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let plan =
        Optimizer::with_rules(rules).optimize(bound.plan, state, |_, _| {}).map_err(from_datafusion)?;
    let mut lowering = Lowering { state, seek_to: bound.seek_to, next: 0 };
    let root = lowering.node(&plan)?;
    let root = lowering.named(root, bound.schema)?;
    Ok(StreamPlan { root, replay_order: bound.replay_order })
}

struct Lowering<'a> {
    state: &'a SessionState,
    seek_to: Option<StartPosition>,
    next: u32,
}

impl Lowering<'_> {
    fn id(&mut self) -> NodeId {
        self.next += 1;
        NodeId(self.next - 1)
    }

    fn physical(&self, e: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, Error> {
        self.state.create_physical_expr(e.clone(), schema).map_err(from_datafusion)
    }

    fn node(&mut self, plan: &LogicalPlan) -> Result<StreamNode, Error> {
        match plan {
            LogicalPlan::TableScan(t) => self.source(t, &[]),
            LogicalPlan::SubqueryAlias(a) => self.node(&a.input),
            LogicalPlan::Filter(f) => {
                let id = self.id();
                let input = match scan_below(&f.input) {
                    Some(t) => self.source(t, &split_conjunction(&f.predicate))?,
                    None => self.node(&f.input)?,
                };
                let predicate = self.physical(&f.predicate, f.input.schema())?;
                Ok(StreamNode::Filter { id, predicate, input: Box::new(input) })
            }
            // Nobody reads a column; rows are all that counts, and the input has them.
            LogicalPlan::Projection(p) if p.expr.is_empty() => self.node(&p.input),
            LogicalPlan::Projection(p) => {
                let id = self.id();
                let input = self.node(&p.input)?;
                let exprs = p
                    .expr
                    .iter()
                    .zip(p.schema.fields())
                    .map(|(e, f)| {
                        Ok(Projection { expr: self.physical(e, p.input.schema())?, name: f.name().clone() })
                    })
                    .collect::<Result<Vec<_>, Error>>()?;
                let schema = Arc::new(Schema::new(p.schema.fields().clone()));
                Ok(StreamNode::Project { id, exprs, schema, input: Box::new(input) })
            }
            LogicalPlan::Union(u) => {
                let id = self.id();
                let inputs = u.inputs.iter().map(|i| self.node(i)).collect::<Result<Vec<_>, Error>>()?;
                let schema = Arc::new(Schema::new(u.schema.fields().clone()));
                Ok(StreamNode::Union { id, schema, inputs })
            }
            LogicalPlan::Limit(l) => {
                let id = self.id();
                let input = Box::new(self.node(&l.input)?);
                let skip = match l.get_skip_type().map_err(from_datafusion)? {
                    SkipType::Literal(n) => n as u64,
                    SkipType::UnsupportedExpr => return Err(err!(BadArguments, "OFFSET must be a constant")),
                };
                let fetch = match l.get_fetch_type().map_err(from_datafusion)? {
                    FetchType::Literal(n) => n.map(|n| n as u64),
                    FetchType::UnsupportedExpr => return Err(err!(BadArguments, "LIMIT must be a constant")),
                };
                Ok(StreamNode::Limit { id, skip, fetch, input })
            }
            other => {
                let name = other.display().to_string();
                let name = name.split([':', ' ']).next().unwrap_or("this clause").to_lowercase();
                Err(err!(NotImplemented, "{name} over an unbounded stream is not supported yet"))
            }
        }
    }

    fn source(&mut self, t: &TableScan, conditions: &[&Expr]) -> Result<StreamNode, Error> {
        let id = self.id();
        let Some(table) = unbounded_table(t) else {
            return Err(err!(
                NotImplemented,
                "relation {} ends and can not be read by a streaming query",
                t.table_name
            ));
        };
        let own: Vec<&Expr> = conditions.iter().copied().chain(&t.filters).collect();
        let mut schema: SchemaRef = Arc::new(Schema::new(t.projected_schema.fields().clone()));
        if schema.fields().is_empty() {
            // Batches count rows by their columns, so one is read all the same.
            let time = table.schema.column_with_name("_tp_time").map_or(0, |(i, _)| i);
            schema = Arc::new(Schema::new(vec![table.schema.field(time).clone()]));
        }
        let all = conjunction(own.iter().map(|e| (*e).clone()));
        let seeks = match &all {
            Some(p) => from_predicate(p),
            None => Ok(None),
        };
        let start = match &self.seek_to {
            Some(s) => s.clone(),
            None => seeks?.unwrap_or_default(),
        };
        let lasting = conjunction(own.into_iter().filter(|e| !e.is_volatile()).cloned());
        let prune = lasting.map(|p| self.physical(&p, &t.projected_schema)).transpose()?;
        Ok(StreamNode::Source {
            id,
            spec: SourceSpec {
                database: table.database.clone(),
                relation: table.relation.clone(),
                columns: schema.fields().iter().map(|f| f.name().clone()).collect(),
                schema,
                start,
                prune,
            },
        })
    }

    /// The result's own schema on top: names that repeat, Weir's types.
    fn named(&mut self, root: StreamNode, schema: SchemaRef) -> Result<StreamNode, Error> {
        let same = root.schema().fields() == schema.fields();
        if same {
            return Ok(root);
        }
        if let StreamNode::Project { id, mut exprs, input, .. } = root {
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
                expr: Arc::new(datafusion::physical_expr::expressions::Column::new(from.name(), i)),
                name: to.name().clone(),
            })
            .collect();
        Ok(StreamNode::Project { id: self.id(), exprs, schema, input: Box::new(root) })
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
