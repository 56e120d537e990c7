//! Aggregations: which aggregates have a state over a stream, and when results leave.

use super::node::{Hidden, Lowered, Lowering};
use crate::bind::errors::from_datafusion;
use crate::bind::{WindowTable, bound_of};
use crate::parse::emit::Policy;
use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan};
use datafusion::physical_expr::expressions::Column;
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{
    AggregateKind, AggregateSpec, EmitPolicy, EmitSpec, Projection, RowOrder, StreamNode, WindowKeys,
};

fn unaliased(mut e: &Expr) -> &Expr {
    while let Expr::Alias(a) = e {
        e = &a.expr;
    }
    e
}

/// Whether rows below come from a window that is not aggregated yet.
fn windowed(plan: &LogicalPlan) -> bool {
    WindowTable::of(plan).is_some()
        || !matches!(plan, LogicalPlan::Aggregate(_)) && plan.inputs().into_iter().any(windowed)
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
        let emit = self.policy(over_window)?;
        let whole = std::mem::take(&mut self.whole);
        let schema = a.input.schema();
        let functions = a
            .aggr_expr
            .iter()
            .map(|e| match unaliased(e) {
                Expr::AggregateFunction(f) => kind(f, schema).map(|k| (f, k)),
                other => Err(err!(NotImplemented, "{other} over an unbounded stream is not supported yet")),
            })
            .collect::<Result<Vec<_>, Error>>()?;
        use AggregateKind as K;
        let by_place = |k: &AggregateKind| {
            matches!(k, K::First { .. } | K::Last { .. } | K::ArgMin | K::ArgMax | K::GroupArray { .. })
        };
        let ordered = functions.iter().any(|(_, k)| by_place(k)) && !aggregated(&a.input);
        self.ordered = ordered;
        let inside = std::mem::replace(&mut self.inside, true);
        let input = self.node(&a.input)?;
        self.inside = inside;
        self.ordered = false;
        if input.node.is_changelog() {
            let placed = place_of(&input).is_some();
            functions.iter().try_for_each(|(f, k)| takes_back(f, *k, placed))?;
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
            .zip(&a.schema.fields()[groups..])
            .map(|((f, kind), field)| self.spec(f, kind, field, schema))
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
            Some(WindowKeys { start, end: place(true, Hidden::WindowEnd)? })
        } else {
            None
        };
        let order = place_of(&input);
        fields.extend(a.schema.fields().iter().skip(groups).cloned());
        let extra = keys.len() - groups;
        let node = StreamNode::Aggregate {
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

    /// When results leave. The outermost aggregation takes the query's EMIT.
    fn policy(&mut self, window: bool) -> Result<EmitSpec, Error> {
        let default = match (window, self.inside) {
            (true, _) => EmitSpec::WINDOW,
            (false, false) => EmitSpec::GLOBAL,
            // Another aggregation takes the results in, and takes the old ones back.
            (false, true) => return Ok(EmitSpec::INNER),
        };
        let Some(emit) = self.emit.take() else { return Ok(default) };
        let us = |ns: i64| (ns / 1_000).max(1);
        let policy = match emit.policy {
            None => default.policy,
            Some(Policy::WindowClose) if !window => {
                return Err(err!(
                    IncorrectQuery,
                    "EMIT AFTER WINDOW CLOSE needs a window: read tumble(…) or hop(…), or use EMIT PERIODIC"
                ));
            }
            Some(Policy::WindowClose) => EmitPolicy::OnClose,
            Some(Policy::Periodic { every_ns, repeat }) => {
                EmitPolicy::Periodic { every_us: us(every_ns), repeat }
            }
            Some(Policy::OnUpdate { every_ns }) => EmitPolicy::OnUpdate { every_us: every_ns.map(us) },
        };
        if emit.changelog && window {
            return Err(err!(
                IncorrectQuery,
                "EMIT CHANGELOG is for aggregations over the whole stream; rows of windows are final when they close"
            ));
        }
        match emit.delay_ns {
            Some(_) if !window => {
                return Err(err!(
                    IncorrectQuery,
                    "WITH DELAY needs a window: an aggregation over the whole stream waits for no late row"
                ));
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
    ) -> Result<AggregateSpec, Error> {
        let mut args: Vec<Expr> = f.params.args.clone();
        match kind {
            AggregateKind::Count => args.retain(|a| !matches!(a, Expr::Literal(v, _) if !v.is_null())),
            AggregateKind::Quantile { .. } => args.truncate(1),
            AggregateKind::ArgMin | AggregateKind::ArgMax => args.push(f.params.order_by[0].expr.clone()),
            _ => {}
        }
        let args = args.iter().map(|a| self.physical(a, schema)).collect::<Result<_, Error>>()?;
        let filter = f.params.filter.as_ref().map(|e| self.physical(e, schema)).transpose()?;
        Ok(AggregateSpec { kind, args, filter, output: field.clone() })
    }
}

/// Refuses what has no state from which a row can be taken back.
fn takes_back(f: &AggregateFunction, kind: AggregateKind, placed: bool) -> Result<(), Error> {
    use AggregateKind as K;
    let remedy = match kind {
        K::Uniq => "unique counts by hashes that can not be taken out again; use unique_exact",
        K::BitAnd => {
            "group_bit_and loses the bits it clears; use group_bit_xor, or group_array and array functions"
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

/// The state an aggregate has over a stream.
fn kind(f: &AggregateFunction, schema: &DFSchema) -> Result<AggregateKind, Error> {
    use AggregateKind as K;
    let name = f.func.name();
    let later =
        || err!(NotImplemented, "aggregate function {name} over an unbounded stream is not supported yet");
    let p = &f.params;
    let skip_nulls = p.null_treatment == Some(NullTreatment::IgnoreNulls);
    let kind = match (name, p.distinct) {
        ("count", true) if p.args.len() == 1 => K::UniqExact,
        ("array_agg", true) if p.order_by.is_empty() => K::GroupUniqArray,
        // The least and the greatest of values are those of the distinct ones.
        ("min", _) => K::Min,
        ("max", _) => K::Max,
        (_, true) => {
            return Err(err!(
                NotImplemented,
                "{name}(DISTINCT …) over an unbounded stream is not supported yet"
            ));
        }
        ("count", _) if p.args.len() <= 1 => K::Count,
        ("sum", _) => K::Sum,
        ("avg", _) => K::Avg,
        ("any_value", _) => K::First { skip_nulls: true },
        ("first_value" | "last_value", _) => {
            let first = name == "first_value";
            match p.order_by.as_slice() {
                [] if first => K::First { skip_nulls },
                [] => K::Last { skip_nulls },
                [by] if first && !skip_nulls => {
                    if by.asc {
                        K::ArgMin
                    } else {
                        K::ArgMax
                    }
                }
                _ => return Err(later()),
            }
        }
        ("array_agg", _) if p.order_by.is_empty() => K::GroupArray { skip_nulls: false },
        ("approx_distinct", _) => K::Uniq,
        ("approx_percentile_cont", _) => {
            let level = match p.args.get(1).map(unaliased) {
                Some(Expr::Literal(v, _)) => v.cast_to(&datafusion::arrow::datatypes::DataType::Float64),
                _ => return Err(err!(BadArguments, "the level of a quantile must be a constant")),
            };
            match level.map_err(from_datafusion)? {
                ScalarValue::Float64(Some(level)) if (0.0..=1.0).contains(&level) => K::Quantile { level },
                other => {
                    return Err(err!(
                        BadArguments,
                        "the level of a quantile is between 0 and 1, not {other}"
                    ));
                }
            }
        }
        ("var_pop", _) => K::VarPop,
        ("var", _) => K::VarSamp,
        ("stddev_pop", _) => K::StddevPop,
        ("stddev", _) => K::StddevSamp,
        ("bit_and", _) => K::BitAnd,
        ("bit_or", _) => K::BitOr,
        ("bit_xor", _) => K::BitXor,
        _ => return Err(later()),
    };
    // Types without a state are named here, before anything starts.
    if matches!(kind, K::Sum) {
        let t = f.params.args[0].get_type(schema).map_err(from_datafusion)?;
        if !(t.is_numeric()) {
            return Err(err!(NotImplemented, "sum of {t} over an unbounded stream is not supported yet"));
        }
    }
    Ok(kind)
}
