//! Sessions: which keys they are cut by, and what they become where the query is bounded.
//!
//! A session is one key's, and its keys are what the aggregation above groups by besides the window:
//! the aggregation claims the node below it. Conditions on other columns than the window's come
//! before sessions are cut, as they do for every aggregation.
//!
//! ```text
//! bounded: input -> _sessions(time, …) OVER (PARTITION BY keys ORDER BY time, _tp_shard, _tp_sn)
//!                -> rows that are of a session
//! ```
//!
//! Not here: where sessions are cut (`plan::session`), streaming.

use super::cast::not_null;
use super::errors::{external, from_datafusion};
use super::window_table::{WINDOW_END, WINDOW_START, WindowTable, bound_of, nanos_of, pair, times};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, StructArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result as DfResult};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, PartitionEvaluator, Signature, Volatility,
    WindowUDF, WindowUDFImpl,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{OpenSession, Place, SessionSpec};

const SESSION: &str = "\u{1}session";
const SHARD: &str = "\u{1}shard";
const SN: &str = "\u{1}sn";

/// The session right below, through what keeps its rows.
fn below(plan: &LogicalPlan) -> Option<&WindowTable> {
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            below(plan.inputs()[0])
        }
        other => WindowTable::of(other).filter(|w| w.is_session()),
    }
}

/// An expression over a plan's columns, over those of the session below it.
fn over_session(e: Expr, plan: &LogicalPlan) -> DfResult<Expr> {
    let replaced = |schema: &DFSchema, of: &dyn Fn(usize) -> Expr| {
        e.clone()
            .transform(|x| {
                Ok(match &x {
                    Expr::Column(c) => Transformed::yes(of(schema.index_of_column(c)?)),
                    _ => Transformed::no(x),
                })
            })
            .map(|t| t.data)
    };
    match plan {
        LogicalPlan::SubqueryAlias(a) => {
            let columns = a.input.schema().columns();
            over_session(replaced(&a.schema, &|i| Expr::Column(columns[i].clone()))?, &a.input)
        }
        LogicalPlan::Projection(p) => {
            let e = replaced(&p.schema, &|i| {
                let mut inner = &p.expr[i];
                while let Expr::Alias(a) = inner {
                    inner = &a.expr;
                }
                inner.clone()
            })?;
            over_session(e, &p.input)
        }
        LogicalPlan::Filter(f) => over_session(e, &f.input),
        _ => Ok(e),
    }
}

fn with_keys(plan: &LogicalPlan, keys: &[Expr]) -> DfResult<LogicalPlan> {
    match WindowTable::of(plan) {
        Some(window) => Ok(window.with_keys(keys.to_vec()).into_plan()),
        None => plan.with_new_exprs(plan.expressions(), vec![with_keys(plan.inputs()[0], keys)?]),
    }
}

fn has_session(plan: &LogicalPlan, unclaimed: bool) -> bool {
    let mut found = false;
    let _ = plan.apply_with_subqueries(|p| {
        found |= WindowTable::of(p).is_some_and(|w| w.is_session() && !(unclaimed && w.keys.is_some()));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// Whether sessions are read anywhere.
pub(super) fn occurs(plan: &LogicalPlan) -> bool {
    has_session(plan, false)
}

/// Tells every session by what it is cut.
///
/// # Errors
/// Code 2002 for a session that is not grouped by, 48 for keys made of its bounds and more.
pub(super) fn claim(plan: LogicalPlan) -> Result<LogicalPlan, Error> {
    if !occurs(&plan) {
        return Ok(plan);
    }
    let plan = plan
        .transform_down_with_subqueries(|p| {
            let LogicalPlan::Aggregate(a) = &p else { return Ok(Transformed::no(p)) };
            let Some(window) = below(&a.input).filter(|w| w.keys.is_none()) else {
                return Ok(Transformed::no(p));
            };
            let (mut keys, mut by) = (Vec::new(), Vec::new());
            for group in &a.group_expr {
                let mut e = group;
                while let Expr::Alias(alias) = e {
                    e = &alias.expr;
                }
                if let Expr::Column(c) = e {
                    let at = a.input.schema().maybe_index_of_column(c);
                    by.extend(at.and_then(|at| bound_of(&a.input, at)));
                }
                let key = over_session(e.clone(), &a.input)?;
                let (bounds, columns) = {
                    let columns = key.column_refs();
                    (columns.iter().filter(|c| window.is_bound(c)).count(), columns.len())
                };
                match bounds {
                    0 if matches!(key, Expr::GroupingSet(_)) => {
                        return Err(external(err!(
                            NotImplemented,
                            "ROLLUP, CUBE and GROUPING SETS over session windows are not supported yet"
                        )));
                    }
                    0 => keys.push(key),
                    n if n == columns => {}
                    _ => {
                        return Err(external(err!(
                            NotImplemented,
                            "a key made of a session's bounds and other columns ({e}) is not supported: sessions are cut by their keys; group by its parts"
                        )));
                    }
                }
            }
            if by.is_empty() {
                return Err(external(err!(
                    WindowColumnNotInGroupBy,
                    "a query over session windows must group by window_start or window_end; without a window read the stream itself"
                )));
            }
            let input = with_keys(&a.input, &keys)?;
            // Where sessions are cut between rows of one time the other bound does not follow.
            let mut others = (0..a.input.schema().fields().len())
                .filter(|at| bound_of(&a.input, *at).is_some_and(|bound| !by.contains(&bound)));
            let Some(other) = others.next() else {
                return Ok(Transformed::yes(p.with_new_exprs(p.expressions(), vec![input])?));
            };
            let mut group = a.group_expr.clone();
            group.push(Expr::Column(a.input.schema().columns()[other].clone()));
            let added = group.len() - 1;
            let both = LogicalPlanBuilder::from(input).aggregate(group, a.aggr_expr.clone())?.build()?;
            let columns = both.schema().columns().into_iter().enumerate();
            let kept = columns.filter(|(i, _)| *i != added).map(|(_, c)| Expr::Column(c));
            Ok(Transformed::yes(LogicalPlanBuilder::from(both).project(kept)?.build()?))
        })
        .map_err(from_datafusion)?
        .data;
    if has_session(&plan, true) {
        return Err(err!(
            WindowColumnNotInGroupBy,
            "session windows are cut by the keys of an aggregation right above them; aggregate, and group by window_start and the keys"
        ));
    }
    Ok(plan)
}

/// The plan with the place of each row in the log as two more columns, where that is known.
fn placed(plan: &LogicalPlan) -> DfResult<Option<LogicalPlan>> {
    let hidden = || [SHARD, SN].map(|name| Expr::Column(Column::new_unqualified(name)));
    Ok(match plan {
        LogicalPlan::TableScan(t) => {
            let all = t.source.schema();
            let Some(places) =
                ["_tp_shard", "_tp_sn"].map(|n| all.index_of(n).ok()).into_iter().collect::<Option<Vec<_>>>()
            else {
                return Ok(None);
            };
            let mut columns =
                t.projection.clone().unwrap_or_else(|| (0..all.fields().len()).collect::<Vec<_>>());
            let own: Vec<Expr> = t.projected_schema.columns().into_iter().map(Expr::Column).collect();
            columns.extend(places.iter().filter(|p| !columns.contains(p)).copied().collect::<Vec<_>>());
            let scan = LogicalPlanBuilder::scan_with_filters(
                t.table_name.clone(),
                t.source.clone(),
                Some(columns),
                t.filters.clone(),
            )?;
            let place = |name: &str| Expr::Column(Column::new(Some(t.table_name.clone()), name));
            let more = [place("_tp_shard").alias(SHARD), place("_tp_sn").alias(SN)];
            Some(scan.project(own.into_iter().chain(more))?.build()?)
        }
        LogicalPlan::Projection(p) => match placed(&p.input)? {
            None => None,
            Some(input) => {
                let all = p.expr.iter().cloned().chain(hidden());
                Some(LogicalPlanBuilder::from(input).project(all)?.build()?)
            }
        },
        LogicalPlan::Union(u) => {
            let keys = || hidden().map(|e| e.sort(true, true)).to_vec();
            let place = |input: &LogicalPlan| Ok(placed(input)?.map(|input| (input, keys())));
            super::united::with_place(u, place, 0, |i| [SHARD, SN][i].to_owned())?.map(|(plan, _)| plan)
        }
        LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => match placed(plan.inputs()[0])? {
            None => None,
            Some(input) => Some(plan.with_new_exprs(plan.expressions(), vec![input])?),
        },
        _ => None,
    })
}

/// Rows that are of a session, with the bounds of theirs as two expressions.
pub(super) fn expand(window: &WindowTable, spec: SessionSpec) -> DfResult<(LogicalPlan, [Expr; 2])> {
    let keys = window.keys.clone().ok_or_else(|| external(err!(LogicalError, "a session without keys")))?;
    let placed = placed(&window.input)?;
    let ascending = |e: Expr| e.sort(true, false);
    let mut order = vec![ascending(window.time.clone())];
    if placed.is_some() {
        order.extend([SHARD, SN].map(|n| ascending(Expr::Column(Column::new_unqualified(n)))));
    }
    let mut args = vec![window.time.clone()];
    args.extend(window.conditions.iter().flat_map(|(start, end)| [start.clone(), end.clone()]));
    let signature = Signature::any(args.len(), Volatility::Immutable);
    let f = WindowUDF::new_from_impl(Sessions { spec, signature });
    let call = f.call(args).partition_by(keys).order_by(order).build()?;
    let session = Expr::Column(Column::new_unqualified(SESSION));
    let plan = LogicalPlanBuilder::from(placed.unwrap_or_else(|| window.input.clone()))
        .window([call.alias(SESSION)])?
        .filter(session.clone().is_not_null())?
        .build()?;
    let part = |name: &str| not_null(get_field(session.clone(), name));
    Ok((plan, [part(WINDOW_START), part(WINDOW_END)]))
}

/// The session of each row of a key, as (start, end); NULL for rows of none.
#[derive(Debug)]
struct Sessions {
    spec: SessionSpec,
    signature: Signature,
}

impl PartialEq for Sessions {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}
impl Eq for Sessions {}
impl Hash for Sessions {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.hash(state);
    }
}

impl WindowUDFImpl for Sessions {
    fn name(&self) -> &str {
        "_sessions"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn partition_evaluator(&self, _: PartitionEvaluatorArgs) -> DfResult<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Cutter(self.spec)))
    }
    fn field(&self, args: WindowUDFFieldArgs) -> DfResult<FieldRef> {
        let t = args.input_fields()[0].data_type();
        Ok(Arc::new(Field::new(args.name(), DataType::Struct(pair(t)), true)))
    }
}

#[derive(Debug)]
struct Cutter(SessionSpec);

impl PartitionEvaluator for Cutter {
    fn evaluate_all(&mut self, values: &[ArrayRef], num_rows: usize) -> DfResult<ArrayRef> {
        let (at, t) = nanos_of(&values[0])?;
        let condition = |i: usize| -> Option<Vec<bool>> {
            let array = values.get(i)?.as_boolean_opt()?;
            Some((0..num_rows).map(|row| array.is_valid(row) && array.value(row)).collect())
        };
        let (start, end) = (condition(1), condition(2));
        let holds = |c: &Option<Vec<bool>>, row: usize| c.as_ref().is_some_and(|c| c[row]);
        // Rows by session, then the bounds of each.
        let mut of: Vec<Option<usize>> = Vec::with_capacity(num_rows);
        let mut bounds: Vec<(i64, i64)> = Vec::new();
        let mut open: Option<OpenSession> = None;
        for (row, at) in at.into_iter().enumerate() {
            let step = self.0.step(&mut open, at, holds(&start, row), holds(&end, row));
            if matches!(step.place, Place::Opens | Place::OpensLeftOut) {
                bounds.push((at, at));
            }
            let session = bounds.len().checked_sub(1);
            if let (Some(now), Some(session)) = (step.ended_after.or(open), session) {
                bounds[session] = (now.first_ns, now.end_ns(&self.0));
            }
            of.push(session.filter(|_| matches!(step.place, Place::Opens | Place::Joins)));
        }
        let bound = |f: &dyn Fn((i64, i64)) -> i64| {
            let values = of.iter().map(|s| s.map_or(0, |s| f(bounds[s]))).collect();
            times(values, &t)
        };
        let columns = vec![bound(&|b| b.0)?, bound(&|b| b.1)?];
        let nulls = NullBuffer::from_iter(of.iter().map(Option::is_some));
        Ok(Arc::new(StructArray::try_new(pair(&t), columns, Some(nulls))?))
    }
}
