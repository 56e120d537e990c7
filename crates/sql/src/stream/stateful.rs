//! Functions over earlier rows, first rows of keys, ranks within result sets.
//!
//! Rows of a stream come in log order if its sources are told to, results of windows in the order in
//! which windows close. Results that leave again and again have no order: they are ranked, each
//! result set by itself, and each must come whole.

use super::node::{Hidden, Lowered, Lowering, over_scan};
use crate::bind::errors::from_datafusion;
use crate::bind::{
    DedupTable, WindowTable, bound_of, default_of, in_log_order, running_frame, unaliased, what,
    window_column,
};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Window};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{
    DedupSpec, EmitPolicy, LAG_ROWS_MAX, OverFunction, OverKind, OverSpec, Projection, RankKind, RankSpec,
    SortKey, StreamNode,
};

/// The aggregation that gives the rows, through what keeps them.
fn aggregation(node: &StreamNode) -> Option<&StreamNode> {
    match node {
        StreamNode::Aggregate { .. } => Some(node),
        StreamNode::Substreams { of: input, .. }
        | StreamNode::Filter { input, .. }
        | StreamNode::Project { input, .. }
        | StreamNode::Over { input, .. }
        | StreamNode::Rank { input, .. }
        | StreamNode::Dedup { input, .. }
        | StreamNode::Window { input, .. }
        | StreamNode::Sort { input, .. }
        | StreamNode::Limit { input, .. } => aggregation(input),
        _ => None,
    }
}

/// Whether rows below may be taken back.
fn changelog(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(t) => crate::bind::unbounded_table(t).is_some_and(|t| t.changelog),
        other => other.inputs().into_iter().any(changelog),
    }
}

/// An aggregation below, through what keeps its rows.
pub(super) fn aggregate_below(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Aggregate(_)) || plan.inputs().into_iter().any(aggregate_below)
}

impl Lowering<'_> {
    /// Rows of `plan` in log order, for `name`.
    fn in_order(&mut self, plan: &LogicalPlan, name: &str) -> Result<Lowered, Error> {
        let before = std::mem::replace(&mut self.log_order, true);
        let lowered = self.node(plan);
        self.log_order = before;
        let lowered = lowered?;
        if lowered.node.is_changelog() {
            return Err(err!(
                NotImplemented,
                "{name} over a changelog is not supported: rows that are taken back have no place among the others; aggregate it"
            ));
        }
        if let Some(StreamNode::Aggregate { emit, .. }) = aggregation(&lowered.node)
            && (emit.policy != EmitPolicy::OnClose || emit.changelog)
        {
            return Err(err!(
                NotImplemented,
                "{name} takes rows in the order of the log, and results of {} leave again and again; \
                 let windows leave once (EMIT AFTER WINDOW CLOSE), or read the stream itself",
                if emit.policy == EmitPolicy::OnClose { "a changelog" } else { what(plan) }
            ));
        }
        Ok(lowered)
    }

    pub(super) fn over(&mut self, w: &Window) -> Result<Lowered, Error> {
        let id = self.id();
        let functions: Vec<&WindowFunction> = w
            .window_expr
            .iter()
            .map(|e| match unaliased(e) {
                Expr::WindowFunction(f) => Ok(&**f),
                other => Err(err!(LogicalError, "{other} is no window function")),
            })
            .collect::<Result<_, _>>()?;
        let Some(first) = functions.first() else { return self.node(&w.input) };
        if functions.iter().any(|f| f.params.partition_by != first.params.partition_by) {
            return Err(err!(LogicalError, "window functions of different partitions in one node"));
        }
        let own = w.input.schema().fields().len();
        let outputs = &w.schema.fields()[own..];
        if !in_log_order(first) {
            return self.rank(id, w, &functions, outputs);
        }
        let name =
            functions.iter().map(|f| f.fun.name()).find(|n| *n != "row_number").unwrap_or("row_number");
        let input = self.in_order(&w.input, name)?;
        within_substreams(&input.node, &first.params.partition_by, &w.input, name)?;
        let schema = w.input.schema();
        let partition = first.params.partition_by.iter();
        let spec = OverSpec {
            partition: partition.map(|e| self.physical(e, schema)).collect::<Result<_, _>>()?,
            functions: functions
                .iter()
                .zip(outputs)
                .map(|(f, output)| self.over_function(f, output, w))
                .collect::<Result<_, _>>()?,
        };
        let (schema, hidden) = with_columns(&input, own, outputs);
        let node = StreamNode::Over { id, spec, at: own, schema, input: Box::new(input.node) };
        Ok(Lowered { node, hidden })
    }

    fn over_function(
        &self,
        f: &WindowFunction,
        output: &FieldRef,
        w: &Window,
    ) -> Result<OverFunction, Error> {
        let name = f.fun.name();
        let p = &f.params;
        let schema = w.input.schema();
        let refuse = |why: &str| err!(NotImplemented, "{name} OVER over an unbounded stream {why}");
        let arg = p.args.first();
        let aggregate = matches!(f.fun, WindowFunctionDefinition::AggregateUDF(_));
        if (aggregate || name == "first_value" || name == "last_value") && !running_frame(&p.window_frame) {
            return Err(refuse(
                "is over all rows so far; leave the frame out, or write ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
            ));
        }
        let skips_nulls = p.null_treatment == Some(NullTreatment::IgnoreNulls);
        if p.distinct || skips_nulls && !matches!(name, "first_value" | "last_value") {
            return Err(refuse("has neither DISTINCT nor IGNORE NULLS yet"));
        }
        let typed = || -> Result<DataType, Error> {
            let arg = arg.ok_or_else(|| err!(NumberOfArguments, "{name} takes an argument"))?;
            arg.get_type(schema).map_err(from_datafusion)
        };
        let kind = match name {
            "row_number" => OverKind::RowNumber,
            "lag" => {
                let rows = match p.args.get(1).map(unaliased) {
                    None => 1,
                    Some(Expr::Literal(v, _)) => match v.cast_to(&DataType::UInt64) {
                        Ok(ScalarValue::UInt64(Some(n))) if n <= LAG_ROWS_MAX => n as usize,
                        _ => {
                            return Err(err!(
                                BadArguments,
                                "lag looks back between 0 and {LAG_ROWS_MAX} rows, not {v}"
                            ));
                        }
                    },
                    Some(other) => {
                        return Err(err!(
                            BadArguments,
                            "lag looks back a constant number of rows, not {other}"
                        ));
                    }
                };
                let t = typed()?;
                let default = match p.args.get(2).map(unaliased) {
                    None => default_of(&t, arg.is_some_and(|a| a.nullable(schema).unwrap_or(true))),
                    Some(Expr::Literal(v, _)) => v.cast_to(&t).map_err(from_datafusion)?,
                    Some(other) => {
                        return Err(err!(BadArguments, "the default of lag must be a constant, not {other}"));
                    }
                };
                OverKind::Lag { rows, default }
            }
            "lead" => {
                return Err(err!(
                    NotImplemented,
                    "{name} looks at rows that are yet to come, which a stream can not wait for; look back with lag"
                ));
            }
            "count" => OverKind::Count,
            "sum" => match output.data_type() {
                DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Decimal128(..) => {
                    OverKind::Sum
                }
                other => return Err(refuse(&format!("is not supported for {other} yet"))),
            },
            "avg" => match output.data_type() {
                DataType::Float64 => OverKind::Avg,
                other => return Err(refuse(&format!("is not supported for {other} yet"))),
            },
            "min" => OverKind::Min,
            "max" => OverKind::Max,
            "first_value" if skips_nulls => OverKind::Earliest,
            "last_value" if skips_nulls => OverKind::Latest,
            "first_value" => OverKind::First,
            "last_value" if p.filter.is_none() => OverKind::Last,
            _ => {
                return Err(refuse(
                    "is not supported yet; there are lag, lags, neighbor, row_number, count, sum, avg, min, max, \
                     first_value, last_value, earliest and latest, with _if",
                ));
            }
        };
        // `count(1)` counts rows.
        let arg = arg.filter(|a| {
            kind != OverKind::RowNumber
                && !(kind == OverKind::Count && matches!(a, Expr::Literal(v, _) if !v.is_null()))
        });
        Ok(OverFunction {
            kind,
            arg: arg.map(|a| self.physical(a, schema)).transpose()?,
            filter: p.filter.as_ref().map(|e| self.physical(e, schema)).transpose()?,
            output: output.clone(),
        })
    }

    /// A window function with an ORDER BY of its own, over result sets.
    fn rank(
        &mut self,
        id: weir_plan::NodeId,
        w: &Window,
        functions: &[&WindowFunction],
        outputs: &[FieldRef],
    ) -> Result<Lowered, Error> {
        let kinds = functions
            .iter()
            .map(|f| match f.fun.name() {
                "row_number" => Ok(RankKind::RowNumber),
                "rank" => Ok(RankKind::Rank),
                "dense_rank" => Ok(RankKind::DenseRank),
                other => Err(err!(
                    NotImplemented,
                    "{other} OVER (… ORDER BY …) over an unbounded stream is not supported yet; without ORDER BY it takes rows in log order"
                )),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let p = &functions[0].params;
        if !aggregate_below(&w.input) {
            return Err(err!(
                NotImplemented,
                "{} OVER (… ORDER BY …) over rows of a stream changes with every later row; \
                 aggregate first and rank the results, or use max_k and min_k for the best of each key",
                functions[0].fun.name()
            ));
        }
        let whole = std::mem::replace(&mut self.whole, true);
        let lowered = self.node(&w.input);
        self.whole = whole;
        let input = lowered?;
        let policy = match aggregation(&input.node) {
            Some(StreamNode::Aggregate { emit, .. }) if !emit.changelog => emit.policy,
            _ => {
                return Err(err!(
                    NotImplemented,
                    "ranks over a changelog are not supported yet; leave CHANGELOG out to rank each result set"
                ));
            }
        };
        let in_window = groups_of(&p.partition_by, &w.input).into_iter().any(|(a, group)| is_bound(a, group));
        if policy == EmitPolicy::OnClose {
            within_substreams(&input.node, &p.partition_by, &w.input, functions[0].fun.name())?;
        }
        match policy {
            EmitPolicy::Periodic { .. } => {}
            EmitPolicy::OnClose if in_window => {}
            EmitPolicy::OnClose => {
                return Err(err!(
                    NotImplemented,
                    "{} ranks results of windows, which close one by one: PARTITION BY window_start or window_end as well",
                    functions[0].fun.name()
                ));
            }
            _ => {
                return Err(err!(
                    NotImplemented,
                    "{} ranks whole result sets, and EMIT ON UPDATE sends only what changed; use EMIT PERIODIC",
                    functions[0].fun.name()
                ));
            }
        }
        let schema = w.input.schema();
        let spec = RankSpec {
            partition: p.partition_by.iter().map(|e| self.physical(e, schema)).collect::<Result<_, _>>()?,
            order: p
                .order_by
                .iter()
                .map(|k| {
                    Ok(SortKey {
                        expr: self.physical(&k.expr, schema)?,
                        descending: !k.asc,
                        nulls_first: k.nulls_first,
                    })
                })
                .collect::<Result<_, Error>>()?,
            functions: kinds.into_iter().zip(outputs.iter().cloned()).collect(),
        };
        let own = schema.fields().len();
        let (schema, hidden) = with_columns(&input, own, outputs);
        let node = StreamNode::Rank { id, spec, at: own, schema, input: Box::new(input.node) };
        Ok(Lowered { node, hidden })
    }

    /// A window whose keys have a watermark each: the source below judges by them.
    pub(super) fn partitioned(&mut self, window: &WindowTable) -> Result<(), Error> {
        let refuse = |why: &str| Err(err!(NotImplemented, "PARTITION BY over a window {why}"));
        if self.timeout.is_some() {
            return refuse(
                "has no EMIT TIMEOUT yet; partition_lag_max_ms closes windows of keys that fall silent",
            );
        }
        if window.time.is_volatile() {
            return refuse("by the clock means nothing: all keys have the same clock; group by the key");
        }
        if aggregate_below(&window.input) {
            return refuse(
                "of results of windows is not supported yet; put it where the stream itself is read",
            );
        }
        let keys = window.partition.iter().map(|key| over_scan(key.clone(), &window.input));
        self.partition = keys.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// An aggregation over a window whose keys have a watermark each.
    pub(super) fn substreams(&mut self, node: StreamNode, a: &Aggregate) -> Result<StreamNode, Error> {
        let from: Vec<Option<(&WindowTable, usize)>> = a
            .group_expr
            .iter()
            .map(|e| match unaliased(e) {
                Expr::Column(c) => window_column(&a.input, a.input.schema().maybe_index_of_column(c)?),
                _ => None,
            })
            .collect();
        let Some((window, _)) = from.iter().flatten().find(|(w, _)| !w.partition.is_empty()) else {
            return Ok(node);
        };
        if let StreamNode::Aggregate { emit, window: Some(bounds), .. } = &node {
            let known = matches!(
                emit.policy,
                EmitPolicy::OnClose | EmitPolicy::Periodic { .. } | EmitPolicy::OnUpdate { .. }
            );
            if !known || emit.changelog {
                return Err(err!(
                    NotImplemented,
                    "EMIT {emit} of windows with PARTITION BY is not supported yet"
                ));
            }
            if bounds.passes.is_some() {
                return Err(err!(
                    NotImplemented,
                    "a window over windows with PARTITION BY is not supported yet: there is no watermark over all keys"
                ));
            }
        }
        let partition = window
            .partition
            .iter()
            .map(|key| {
                let at = match key {
                    Expr::Column(c) => window.input.schema().maybe_index_of_column(c),
                    _ => None,
                };
                let group = from.iter().position(|f| f.is_some_and(|(_, column)| Some(column) == at));
                let group = group.ok_or_else(|| {
                    err!(
                        IncorrectQuery,
                        "PARTITION BY {key} is not among the keys of the GROUP BY; group by it too"
                    )
                })?;
                // Of sessions the rows come before they are cut.
                let expr = match node.sessions() {
                    Some(_) => self.physical(key, window.input.schema())?,
                    None => self.physical(unaliased(&a.group_expr[group]), a.input.schema())?,
                };
                Ok(Projection { expr, name: a.schema.field(group).name().clone() })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(StreamNode::Substreams { id: self.id(), partition, of: Box::new(node) })
    }

    pub(super) fn dedup(&mut self, d: &DedupTable) -> Result<Lowered, Error> {
        let id = self.id();
        if d.ttl_us.is_some() && aggregate_below(&d.input) {
            return Err(err!(
                NotImplemented,
                "the ttl of dedup counts append time, which results of windows have none of; leave the ttl out"
            ));
        }
        let before = self.appended;
        self.appended |= d.ttl_us.is_some();
        let input = self.in_order(&d.input, "dedup");
        self.appended = before;
        let input = input?;
        if let Some(key) = substreams_below(&input.node).and_then(<[_]>::first) {
            return Err(err!(
                NotImplemented,
                "windows of each {} close in their own time, so which row is the first is not known; use SELECT DISTINCT, or dedup the stream itself",
                key.name
            ));
        }
        let keys = d.keys.iter().map(|e| self.physical(e, d.input.schema())).collect::<Result<_, _>>()?;
        let append_time = input.find(Hidden::AppendTime);
        let spec = DedupSpec { keys, ttl_us: d.ttl_us, append_time, keys_max: d.keys_max };
        Ok(Lowered {
            node: StreamNode::Dedup { id, spec, input: Box::new(input.node) },
            hidden: input.hidden,
        })
    }

    /// `SELECT DISTINCT`. Which of equal rows stays shows only in what travels behind them.
    pub(super) fn distinct(&mut self, input: &LogicalPlan) -> Result<Lowered, Error> {
        let id = self.id();
        let keys =
            input.schema().columns().into_iter().map(|c| self.physical(&Expr::Column(c), input.schema()));
        let keys = keys.collect::<Result<_, _>>()?;
        let seen = self.ordered || self.log_order;
        let input = if seen || aggregate_below(input) || changelog(input) {
            self.in_order(input, "DISTINCT")?
        } else {
            self.node(input)?
        };
        let spec = DedupSpec { keys, ttl_us: None, append_time: None, keys_max: None };
        Ok(Lowered {
            node: StreamNode::Dedup { id, spec, input: Box::new(input.node) },
            hidden: input.hidden,
        })
    }
}

/// The aggregation below that a column comes from as it is, and which of its keys it is.
fn group_of(plan: &LogicalPlan, column: usize) -> Option<(&Aggregate, usize)> {
    match plan {
        LogicalPlan::SubqueryAlias(a) => group_of(&a.input, column),
        LogicalPlan::Filter(f) => group_of(&f.input, column),
        LogicalPlan::Sort(s) => group_of(&s.input, column),
        LogicalPlan::Window(w) if column < w.input.schema().fields().len() => group_of(&w.input, column),
        LogicalPlan::Projection(p) => match unaliased(p.expr.get(column)?) {
            Expr::Column(c) => group_of(&p.input, p.input.schema().maybe_index_of_column(c)?),
            _ => None,
        },
        LogicalPlan::Aggregate(a) if column < a.group_expr.len() => Some((a, column)),
        _ => None,
    }
}

/// Of the keys of an OVER those that are keys of the aggregation below.
fn groups_of<'a>(keys: &[Expr], input: &'a LogicalPlan) -> Vec<(&'a Aggregate, usize)> {
    let group = |e: &Expr| match unaliased(e) {
        Expr::Column(c) => group_of(input, input.schema().maybe_index_of_column(c)?),
        _ => None,
    };
    keys.iter().filter_map(group).collect()
}

fn is_bound(a: &Aggregate, group: usize) -> bool {
    match unaliased(&a.group_expr[group]) {
        Expr::Column(c) => {
            let at = a.input.schema().maybe_index_of_column(c);
            at.is_some_and(|at| bound_of(&a.input, at).is_some())
        }
        _ => false,
    }
}

/// The substreams that give the rows, through what keeps them.
fn substreams_below(node: &StreamNode) -> Option<&[Projection]> {
    match node {
        StreamNode::Substreams { partition, .. } => Some(partition),
        StreamNode::Aggregate { .. } | StreamNode::Source { .. } | StreamNode::Union { .. } => None,
        other => other.inputs().into_iter().find_map(substreams_below),
    }
}

/// Refuses what takes rows of several substreams in one order: each has its own.
fn within_substreams(node: &StreamNode, keys: &[Expr], input: &LogicalPlan, name: &str) -> Result<(), Error> {
    let groups = groups_of(keys, input);
    let there = |key: &Projection| groups.iter().any(|(a, at)| *a.schema.field(*at).name() == key.name);
    match substreams_below(node).into_iter().flatten().find(|key| !there(key)) {
        None => Ok(()),
        Some(key) => Err(err!(
            NotImplemented,
            "windows of each {} close in their own time, so there is no order over all of them; write {name} OVER (PARTITION BY {})",
            key.name,
            key.name
        )),
    }
}

/// A schema with more columns behind a plan's own, and where hidden ones are then.
fn with_columns(input: &Lowered, own: usize, more: &[FieldRef]) -> (Arc<Schema>, Vec<(Hidden, usize)>) {
    let below = input.node.schema();
    let mut fields: Vec<FieldRef> = below.fields().iter().cloned().collect();
    fields.splice(own..own, more.iter().cloned());
    let shift = |at: usize| if at >= own { at + more.len() } else { at };
    (Arc::new(Schema::new(fields)), input.hidden.iter().map(|(h, at)| (*h, shift(*at))).collect())
}
