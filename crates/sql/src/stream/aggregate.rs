//! Aggregations: which aggregates have a state over a stream, and when results leave.

use super::node::{Hidden, Lowered, Lowering};
use crate::bind::errors::from_datafusion;
use crate::bind::{RowsBy, WindowTable, bound_of, is_emit_version, order_of};
use crate::parse::emit::{Life, Policy};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{
    AggregateKind, AggregateSpec, EmitPolicy, EmitSpec, LifeSpec, Projection, RowOrder, StreamError,
    StreamNode, Timeout, WindowBound, WindowKeys, WindowKind, WindowSpec,
};

fn unaliased(mut e: &Expr) -> &Expr {
    while let Expr::Alias(a) = e {
        e = &a.expr;
    }
    e
}

/// Whether rows below come from a window that is not aggregated yet.
pub(super) fn windowed(plan: &LogicalPlan) -> bool {
    WindowTable::of(plan).is_some()
        || !matches!(plan, LogicalPlan::Aggregate(_)) && plan.inputs().into_iter().any(windowed)
}

/// The window whose rows come here.
fn window_below(plan: &LogicalPlan) -> Option<&WindowTable> {
    match WindowTable::of(plan) {
        Some(window) => Some(window),
        None if matches!(plan, LogicalPlan::Aggregate(_)) => None,
        None => plan.inputs().into_iter().find_map(window_below),
    }
}

/// Whether an aggregation lies below.
pub(super) fn aggregated(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Aggregate(_)) || plan.inputs().into_iter().any(aggregated)
}

impl Lowering<'_> {
    pub(super) fn aggregate(&mut self, a: &Aggregate) -> Result<StreamNode, Error> {
        let id = self.id();
        let bounds: Vec<Option<bool>> = a
            .group_expr
            .iter()
            .map(|e| match unaliased(e) {
                Expr::Column(c) => bound_of(&a.input, a.input.schema().maybe_index_of_column(c)?),
                _ => None,
            })
            .collect();
        let over_window = windowed(&a.input);
        let by_window = bounds.iter().any(Option::is_some);
        if over_window && !by_window {
            return Err(err!(
                WindowColumnNotInGroupBy,
                "a query over a window must group by window_start or window_end; without a window read the stream itself"
            ));
        }
        let spec = window_below(&a.input).map(|w| w.spec);
        let emit = self.policy(spec)?;
        let passes = self.passes.take();
        if let Some(spec) = spec.filter(|s| matches!(s.kind, WindowKind::Session(_))) {
            if emit != EmitSpec::WINDOW {
                return Err(err!(
                    NotImplemented,
                    "rows of session windows leave when the session has closed; EMIT AFTER WINDOW CLOSE [WITH DELAY] is all they have"
                ));
            }
            if passes == Some(WindowBound::Start) {
                return Err(err!(
                    NotImplemented,
                    "a window over session windows ({spec}) goes by window_end: their starts are open as long as they are"
                ));
            }
        }
        let version = a.aggr_expr.iter().position(is_emit_version);
        if version.is_some() && emit.changelog {
            return Err(err!(
                IncorrectQuery,
                "emit_version() and EMIT CHANGELOG exclude each other: a row is taken back in another emission than it was given in"
            ));
        }
        let whole = std::mem::take(&mut self.whole) || version.is_some();
        let schema = a.input.schema();
        let functions = a
            .aggr_expr
            .iter()
            .filter(|e| !is_emit_version(e))
            .map(|e| match unaliased(e) {
                Expr::AggregateFunction(f) => kind(f, schema).map(|k| (f, k)),
                other => Err(err!(NotImplemented, "{other} over an unbounded stream is not supported yet")),
            })
            .collect::<Result<Vec<_>, Error>>()?;
        use AggregateKind as K;
        let by_place = |(f, k): &(&AggregateFunction, Option<AggregateKind>)| match k {
            Some(k) => {
                matches!(
                    k,
                    K::First { .. }
                        | K::Last { .. }
                        | K::ArgMin
                        | K::ArgMax
                        | K::GroupArray { .. }
                        | K::GroupArrayFirst { .. }
                        | K::MovingSum { .. }
                        | K::MovingAvg { .. }
                ) || matches!(k, K::MinK { .. } | K::MaxK { .. }) && f.params.args.len() > 2
            }
            None => order_of(f).is_some(),
        };
        let own_rows = !aggregated(&a.input);
        self.by_log = own_rows && functions.iter().any(|(f, _)| order_of(f) == Some(RowsBy::Log));
        self.ordered = own_rows && (self.by_log || functions.iter().any(by_place));
        let lives = self.ends_keys.take();
        if lives.is_some() {
            if a.group_expr.is_empty() {
                return Err(err!(
                    IncorrectQuery,
                    "EMIT AFTER KEY EXPIRE and AFTER SESSION CLOSE end keys, and this query has none; add GROUP BY"
                ));
            }
            self.lives = self.life.take();
            self.judged_by = self.lives.as_ref().map(|l| l.time.clone());
            self.silence_us = lives.as_ref().and_then(|l| l.timeout_ns).map_or(0, |ns| (ns / 1_000).max(1));
        }
        let inside = std::mem::replace(&mut self.inside, true);
        let mut input = self.node(&a.input)?;
        self.inside = inside;
        self.ordered = false;
        self.by_log = false;
        if let Some(life) = &lives {
            (self.judged_by, self.lives, self.silence_us) = (None, None, 0);
            input = self.lives_of(input, life, a)?;
        }
        if input.node.is_changelog() {
            let placed = place_of(&input).is_some();
            functions.iter().try_for_each(|(f, k)| takes_back(f, k.as_ref(), placed))?;
        }

        let mut keys = a
            .group_expr
            .iter()
            .zip(a.schema.fields())
            .map(|(e, f)| Ok(Projection { expr: self.physical(e, schema)?, name: f.name().clone() }))
            .collect::<Result<Vec<_>, Error>>()?;
        let groups = keys.len();
        let aggregates = functions
            .into_iter()
            .zip(a.schema.fields()[groups..].iter().enumerate().filter(|(i, _)| Some(*i) != version))
            .map(|((f, kind), (_, field))| match kind {
                Some(kind) => self.spec(f, kind, field, schema, &input),
                None => self.foreign(f, field, schema, &input),
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let below = input.node.schema();
        let mut fields: Vec<FieldRef> = a.schema.fields().iter().take(groups).cloned().collect();
        let window = if over_window {
            let mut place = |end: bool, hidden: Hidden| -> Result<usize, Error> {
                if let Some(at) = bounds.iter().position(|b| *b == Some(end)) {
                    return Ok(at);
                }
                // The other bound follows from the one that is a key: it changes no group.
                let at = input.find(hidden).ok_or_else(|| err!(LogicalError, "a window lost its bounds"))?;
                let field = below.field(at);
                keys.push(Projection {
                    expr: Arc::new(Column::new(field.name(), at)),
                    name: field.name().clone(),
                });
                fields.push(Arc::new(field.clone()));
                Ok(keys.len() - 1)
            };
            let start = place(false, Hidden::WindowStart)?;
            let end = place(true, Hidden::WindowEnd)?;
            let spec = spec.ok_or_else(|| err!(LogicalError, "a window lost its shape"))?;
            Some(WindowKeys { start, end, spec, passes })
        } else {
            None
        };
        if lives.is_some() {
            // Lives of one key are groups of their own.
            let at = below.fields().len() - 1;
            let field = below.field(at);
            keys.push(Projection {
                expr: Arc::new(Column::new(field.name(), at)),
                name: field.name().clone(),
            });
            fields.push(Arc::new(field.clone()));
        }
        let order = place_of(&input);
        let of_keys = fields.len();
        let others = a.schema.fields().iter().skip(groups).enumerate();
        fields.extend(others.filter(|(i, _)| Some(*i) != version).map(|(_, f)| f.clone()));
        let extra = keys.len() - groups;
        let mut node = StreamNode::Aggregate {
            id,
            keys,
            aggregates,
            order,
            window,
            emit,
            whole,
            schema: Arc::new(Schema::new(fields)),
            input: Box::new(input.node),
        };
        node = self.substreams(node, a)?;
        if let Some(nth) = version {
            let mut fields: Vec<FieldRef> = node.schema().fields().iter().cloned().collect();
            let at = of_keys + nth;
            fields.insert(at, a.schema.fields()[groups + nth].clone());
            let (schema, each_row) = (Arc::new(Schema::new(fields)), emit.policy == EmitPolicy::PerEvent);
            node = StreamNode::EmitVersion { id: self.id(), at, each_row, schema, input: Box::new(node) };
        }
        if extra == 0 {
            return Ok(node);
        }
        let from = node.schema();
        let exprs = (0..from.fields().len())
            .filter(|i| *i < groups || *i >= groups + extra)
            .map(|i| Projection {
                expr: Arc::new(Column::new(from.field(i).name(), i)),
                name: from.field(i).name().clone(),
            })
            .collect();
        let schema = Arc::new(Schema::new(a.schema.fields().clone()));
        Ok(StreamNode::Project { id: self.id(), exprs, schema, input: Box::new(node) })
    }

    /// Rows of the input by the lives of their keys, with the number of a life as the last column.
    fn lives_of(&mut self, input: Lowered, life: &Life, a: &Aggregate) -> Result<Lowered, Error> {
        let place =
            |what| input.find(what).ok_or_else(|| err!(LogicalError, "a row does not say when it lives"));
        let spec = LifeSpec {
            time: place(Hidden::LifeTime)?,
            append_time: place(Hidden::AppendTime)?,
            opens: input.find(Hidden::LifeOpens),
            closes: input.find(Hidden::LifeCloses),
            merge_open: self.sessions.merge_open,
            close_included: !self.sessions.close_left_out,
            span_max_ns: life.span_max_ns,
            only: life.only,
            timeout_us: life.timeout_ns.map(|ns| (ns / 1_000).max(1)),
        };
        let keys =
            a.group_expr.iter().map(|e| self.physical(e, a.input.schema())).collect::<Result<_, _>>()?;
        let mut fields: Vec<FieldRef> = input.node.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("__life", DataType::Int64, false)));
        let (id, schema) = (self.id(), Arc::new(Schema::new(fields)));
        let node = StreamNode::Lives { id, spec, keys, schema, input: Box::new(input.node) };
        Ok(Lowered { node, hidden: input.hidden })
    }

    /// When results leave. The outermost aggregation takes the query's EMIT.
    fn policy(&mut self, spec: Option<WindowSpec>) -> Result<EmitSpec, Error> {
        let window = spec.is_some();
        let default = match (window, self.inside) {
            (true, _) => EmitSpec::WINDOW,
            (false, false) => EmitSpec::GLOBAL,
            // Another aggregation takes the results in, and takes the old ones back.
            (false, true) => return Ok(EmitSpec::INNER),
        };
        let Some(emit) = self.emit.take() else { return Ok(default) };
        let refuse = |why: &str| Err(err!(IncorrectQuery, "{why}"));
        let us = |ns: i64| (ns / 1_000).max(1);
        let policy = match &emit.policy {
            None => default.policy,
            Some(Policy::WindowClose) if !window => {
                return refuse(
                    "EMIT AFTER WINDOW CLOSE needs a window: read tumble(…) or hop(…), or use EMIT PERIODIC",
                );
            }
            Some(Policy::WindowClose) => EmitPolicy::OnClose,
            Some(Policy::Periodic { every_ns, repeat }) => {
                EmitPolicy::Periodic { every_us: us(*every_ns), repeat: *repeat }
            }
            Some(Policy::OnUpdate { every_ns }) => EmitPolicy::OnUpdate { every_us: every_ns.map(us) },
            Some(Policy::PerEvent) if window => {
                return refuse(
                    "EMIT PER EVENT is for aggregations over the whole stream; for windows use EMIT ON UPDATE",
                );
            }
            Some(Policy::PerEvent) => EmitPolicy::PerEvent,
            Some(p @ (Policy::KeyExpire(_) | Policy::SessionClose(_))) if window => {
                return refuse(&format!(
                    "EMIT {} ends keys of an aggregation over the whole stream; the window ends these already, leave it out",
                    p.name()
                ));
            }
            Some(Policy::KeyExpire(life) | Policy::SessionClose(life)) => {
                self.ends_keys = Some(life.clone());
                EmitPolicy::Complete
            }
        };
        if emit.changelog && window {
            return refuse(
                "EMIT CHANGELOG is for aggregations over the whole stream; rows of windows are final when they close",
            );
        }
        match emit.timeout_ns {
            Some(ns) if window => {
                self.timeout = spec.map(|window| Timeout { after_us: us(ns), window });
            }
            Some(_) => {
                return refuse(
                    "EMIT TIMEOUT closes windows when no row comes, and there is none; leave it out, or read tumble(…)",
                );
            }
            None => {}
        }
        match emit.delay_ns {
            Some(_) if !window => {
                return refuse(
                    "WITH DELAY needs a window: an aggregation over the whole stream waits for no late row",
                );
            }
            Some(ns) => self.delay_ns = ns,
            None => {}
        }
        Ok(EmitSpec { policy, changelog: emit.changelog })
    }

    fn spec(
        &self,
        f: &AggregateFunction,
        kind: AggregateKind,
        field: &FieldRef,
        schema: &DFSchema,
        input: &Lowered,
    ) -> Result<AggregateSpec, Error> {
        let mut args: Vec<Expr> = f.params.args.clone();
        match kind {
            AggregateKind::Count => args.retain(|a| !matches!(a, Expr::Literal(v, _) if !v.is_null())),
            AggregateKind::Quantile { .. }
            | AggregateKind::TopK { .. }
            | AggregateKind::GroupArrayFirst { .. }
            | AggregateKind::GroupUniqArrayLeast { .. }
            | AggregateKind::MovingSum { .. }
            | AggregateKind::MovingAvg { .. } => args.truncate(1),
            AggregateKind::MinK { .. } | AggregateKind::MaxK { .. } => {
                args.remove(1);
            }
            AggregateKind::ArgMin | AggregateKind::ArgMax => args.push(f.params.order_by[0].expr.clone()),
            _ => {}
        }
        let mut args = args.iter().map(|a| self.physical(a, schema)).collect::<Result<Vec<_>, Error>>()?;
        if matches!(kind, AggregateKind::MovingSum { .. } | AggregateKind::MovingAvg { .. }) {
            args.extend(log_place(input));
        }
        let filter = f.params.filter.as_ref().map(|e| self.physical(e, schema)).transpose()?;
        Ok(AggregateSpec { kind, args, filter, output: field.clone() })
    }
}

impl Lowering<'_> {
    /// An aggregate without a state of ours, by the accumulator it brings.
    fn foreign(
        &self,
        f: &AggregateFunction,
        field: &FieldRef,
        schema: &DFSchema,
        input: &Lowered,
    ) -> Result<AggregateSpec, Error> {
        let p = &f.params;
        let args = p.args.iter().map(|a| self.physical(a, schema)).collect::<Result<Vec<_>, Error>>()?;
        let mut order = p
            .order_by
            .iter()
            .map(|s| {
                let options = SortOptions { descending: !s.asc, nulls_first: s.nulls_first };
                Ok(PhysicalSortExpr { expr: self.physical(&s.expr, schema)?, options })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        if let Some(by) = order_of(f) {
            let first = if by == RowsBy::Log { Hidden::AppendTime } else { Hidden::Time };
            let place = [first, Hidden::Shard, Hidden::Sn].map(|h| input.find(h));
            if let [Some(a), Some(b), Some(c)] = place {
                let below = input.node.schema();
                order.extend([a, b, c].map(|at| {
                    PhysicalSortExpr::new_default(Arc::new(Column::new(below.field(at).name(), at)))
                }));
            }
        }
        let built = AggregateExprBuilder::new(f.func.clone(), args)
            .order_by(order)
            .schema(input.node.schema())
            .alias(field.name())
            .with_distinct(p.distinct)
            .with_ignore_nulls(p.null_treatment == Some(NullTreatment::IgnoreNulls))
            .build()
            .map_err(from_datafusion)?;
        // What is wrong with its constants is told here, before anything starts.
        built.create_accumulator().map_err(|e| Error::from(StreamError::from(e)))?;
        let all = built.all_expressions();
        let filter = p.filter.as_ref().map(|e| self.physical(e, schema)).transpose()?;
        Ok(AggregateSpec {
            args: all.args.into_iter().chain(all.order_by_exprs).collect(),
            kind: AggregateKind::Udaf(Arc::new(built)),
            filter,
            output: field.clone(),
        })
    }
}

/// Whether `aggregate_state_ttl_sec` means something for a plan.
///
/// # Errors
/// Says why it does not.
pub(super) fn may_forget(root: &StreamNode) -> Result<(), Error> {
    let (mut forgets, mut closes) = (false, None);
    let mut waiting = vec![root];
    while let Some(node) = waiting.pop() {
        match node {
            StreamNode::Aggregate { window: Some(_), .. } | StreamNode::Substreams { .. } => {
                closes = Some("windows end their keys when they close");
            }
            StreamNode::Aggregate { emit, .. } if emit.policy == EmitPolicy::Complete => {
                closes = Some("EMIT AFTER KEY EXPIRE and AFTER SESSION CLOSE end keys by themselves");
            }
            StreamNode::Aggregate { input, .. } if input.is_changelog() => {
                return Err(err!(
                    NotImplemented,
                    "aggregate_state_ttl_sec over a changelog or another aggregation is not supported: what is taken back later would miss the keys that were forgotten"
                ));
            }
            StreamNode::Aggregate { .. } => forgets = true,
            _ => {}
        }
        waiting.extend(node.inputs());
    }
    match closes {
        Some(why) if !forgets => Err(err!(
            IncorrectQuery,
            "aggregate_state_ttl_sec is for aggregations over the whole stream, and {why}; leave it out"
        )),
        _ => Ok(()),
    }
}

/// Where rows stand in their log, as columns; none where they are no stream's.
fn log_place(input: &Lowered) -> Vec<Arc<dyn PhysicalExpr>> {
    let place = [Hidden::AppendTime, Hidden::Shard, Hidden::Sn].map(|h| input.find(h));
    let [Some(a), Some(b), Some(c)] = place else { return Vec::new() };
    let below = input.node.schema();
    [a, b, c].map(|at| Arc::new(Column::new(below.field(at).name(), at)) as _).to_vec()
}

/// Aggregates whose result goes by how rows come, or by an order that only a sort gives.
const NOT_OVER_STREAMS: &[&str] =
    &["approx_percentile_cont", "approx_percentile_cont_with_weight", "nth_value", "string_agg", "grouping"];

/// Aggregates that keep distinct values by themselves.
const DISTINCT: &[&str] = &["count", "sum", "avg", "array_agg"];

/// Refuses what has no state from which a row can be taken back.
fn takes_back(f: &AggregateFunction, kind: Option<&AggregateKind>, placed: bool) -> Result<(), Error> {
    use AggregateKind as K;
    let Some(kind) = kind else {
        return Err(err!(
            NotImplemented,
            "{} over a changelog is not supported: its state can not take rows back; use count, sum, avg, min, max or group_array",
            f.func.name()
        ));
    };
    let remedy = match kind {
        K::Uniq => "unique counts by hashes that can not be taken out again; use unique_exact",
        K::BitAnd => {
            "group_bit_and loses the bits it clears; use group_bit_xor, or group_array and array functions"
        }
        K::GroupArrayFirst { .. } | K::GroupUniqArrayLeast { .. } => {
            "of values that were left out none can come back; leave the size out"
        }
        K::MovingSum { .. } | K::MovingAvg { .. } => {
            "results over rows that are taken back have no order of the log; use sum, or sum(x) OVER () below"
        }
        K::BitOr => {
            "group_bit_or loses which row set a bit; use group_bit_xor, or group_array and array functions"
        }
        K::First { .. } | K::Last { .. } if !placed && f.func.name() != "any_value" => {
            return Err(err!(
                NotImplemented,
                "{} over a changelog without an order (results of another aggregation, a UNION) is not supported; use any, min, max, arg_min or arg_max",
                f.func.name()
            ));
        }
        _ => return Ok(()),
    };
    Err(err!(NotImplemented, "{} over a changelog is not supported: {remedy}", f.func.name()))
}

fn place_of(input: &Lowered) -> Option<RowOrder> {
    Some(RowOrder {
        time: input.find(Hidden::Time)?,
        shard: input.find(Hidden::Shard)?,
        sn: input.find(Hidden::Sn)?,
    })
}

/// A constant of 1 to 65536; what is none is told by the function itself.
fn whole_number(e: Option<&Expr>, default: usize) -> Option<usize> {
    let value = match e.map(unaliased) {
        None => return (default > 0).then_some(default),
        Some(Expr::Literal(v, _)) => v.cast_to(&datafusion::arrow::datatypes::DataType::UInt64).ok()?,
        Some(_) => return None,
    };
    match value {
        ScalarValue::UInt64(Some(n)) if (1..=65_536).contains(&n) => Some(n as usize),
        _ => None,
    }
}

/// The state of ours that an aggregate has over a stream; `None` = it brings its own.
fn kind(f: &AggregateFunction, schema: &DFSchema) -> Result<Option<AggregateKind>, Error> {
    use AggregateKind as K;
    let name = f.func.name();
    let p = &f.params;
    let distinct = p.distinct && !matches!(name, "min" | "max" | "bit_and" | "bit_or");
    if NOT_OVER_STREAMS.contains(&name) || distinct && !DISTINCT.contains(&name) {
        let shown = if distinct { format!("{name}(DISTINCT …)") } else { name.to_owned() };
        return Err(err!(
            NotImplemented,
            "aggregate function {shown} over an unbounded stream is not supported; use table(stream) for the rows there are now"
        ));
    }
    let skip_nulls = p.null_treatment == Some(NullTreatment::IgnoreNulls);
    let kind = match (name, distinct) {
        ("count", true) if p.args.len() == 1 => K::UniqExact,
        ("array_agg", true) if p.order_by.is_empty() => K::GroupUniqArray,
        (_, true) => return Ok(None),
        ("count", _) if p.args.len() <= 1 => K::Count,
        ("sum", _) => K::Sum,
        ("avg", _) => K::Avg,
        // The least and the greatest of values are those of the distinct ones.
        ("min", _) => K::Min,
        ("max", _) => K::Max,
        ("first_value" | "last_value", _) => {
            let first = name == "first_value";
            match p.order_by.as_slice() {
                [] if first => K::First { skip_nulls },
                [] => K::Last { skip_nulls },
                [by] if first && !skip_nulls && !by.nulls_first => {
                    if by.asc {
                        K::ArgMin
                    } else {
                        K::ArgMax
                    }
                }
                _ => return Ok(None),
            }
        }
        ("array_agg", _) if p.order_by.is_empty() => K::GroupArray { skip_nulls: false },
        ("group_array", _) if p.args.len() == 1 && p.order_by.is_empty() => {
            K::GroupArray { skip_nulls: true }
        }
        ("group_uniq_array", _) if p.args.len() == 1 => K::GroupUniqArray,
        ("group_array", _) if p.order_by.is_empty() => match whole_number(p.args.get(1), 0) {
            Some(most) => K::GroupArrayFirst { most },
            None => return Ok(None),
        },
        ("group_uniq_array", _) => match whole_number(p.args.get(1), 0) {
            Some(most) => K::GroupUniqArrayLeast { most },
            None => return Ok(None),
        },
        ("moving_sum" | "moving_avg", _) if p.order_by.is_empty() => {
            let window = whole_number(p.args.get(1), 0);
            match (p.args.len(), window) {
                (2, None) => return Ok(None),
                _ if name == "moving_sum" => K::MovingSum { window },
                _ => K::MovingAvg { window },
            }
        }
        ("uniq", _) => K::Uniq,
        ("quantile", _) => {
            let level = match p.args.get(1).map(unaliased) {
                None => ScalarValue::Float64(Some(0.5)),
                Some(Expr::Literal(v, _)) => {
                    v.cast_to(&datafusion::arrow::datatypes::DataType::Float64).map_err(from_datafusion)?
                }
                _ => return Err(err!(BadArguments, "the level of a quantile must be a constant")),
            };
            match level {
                ScalarValue::Float64(Some(level)) if (0.0..=1.0).contains(&level) => K::Quantile { level },
                other => {
                    return Err(err!(
                        BadArguments,
                        "the level of a quantile is between 0 and 1, not {other}"
                    ));
                }
            }
        }
        ("top_k" | "top_k_with_count", _) => match whole_number(p.args.get(1), 10) {
            Some(k) => K::TopK { k, with_count: name == "top_k_with_count" },
            None => return Ok(None),
        },
        ("min_k" | "max_k", _) if p.order_by.is_empty() => match whole_number(p.args.get(1), 0) {
            Some(k) if name == "min_k" => K::MinK { k },
            Some(k) => K::MaxK { k },
            None => return Ok(None),
        },
        ("var_pop", _) => K::VarPop,
        ("var", _) => K::VarSamp,
        ("stddev_pop", _) => K::StddevPop,
        ("stddev", _) => K::StddevSamp,
        ("bit_and", _) => K::BitAnd,
        ("bit_or", _) => K::BitOr,
        ("bit_xor", _) => K::BitXor,
        _ => return Ok(None),
    };
    // Types that a state of ours does not hold are left to the accumulator.
    if matches!(kind, K::Sum) {
        let t = f.params.args[0].get_type(schema).map_err(from_datafusion)?;
        if !(t.is_numeric()) {
            return Ok(None);
        }
    }
    Ok(Some(kind))
}
