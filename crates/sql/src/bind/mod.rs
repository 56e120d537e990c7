//! Names to meaning: a parsed query and a [`Scope`] give a DataFusion plan with ClickHouse's
//! result types.
//!
//! ```text
//! Query -> context (table(s), views) -> select (aliases, clauses) -> spell (expressions)
//!       -> SqlToRel -> coerce (types) -> DataFusion's coercion -> finish (result schema)
//! ```
//!
//! Not here: text (`parse`), execution, the catalog.

mod backfill;
mod bounds;
mod cast;
mod changelog_table;
mod coerce;
mod compare;
mod condition;
mod context;
mod dedup_table;
mod emit_version;
pub mod errors;
mod factors;
mod functions;
mod infer;
mod keyed_table;
mod last;
mod life;
mod log_order;
mod operators;
mod order;
mod scope;
mod seek;
mod select;
mod session;
mod shape;
mod spell;
mod stateful;
pub(crate) mod united;
mod widths;
mod window_table;
mod zone;

#[cfg(test)]
mod tests;

pub use backfill::{BackfillSettings, History};
pub use cast::convert;
pub use scope::{Scope, ScopeRelation, UnboundedTable, VIRTUAL_COLUMNS};
pub use seek::{replay_order, seek_to};
pub use shape::{AliasColumn, names_read};
pub use zone::{check_zone, zoned};

pub(crate) use bounds::unbounded_table;
pub(crate) use dedup_table::DedupTable;
pub(crate) use emit_version::is_emit_version;
pub(crate) use keyed_table::KeyedTable;
pub(crate) use life::LifeExprs;
pub use life::SessionRules;
pub(crate) use log_order::{default_of, in_log_order, running_frame, unaliased, what};
pub(crate) use order::{RowsBy, order_of};
pub(crate) use seek::from_predicate;
pub(crate) use window_table::{WindowTable, bound_of, bound_of_result, window_column};

use crate::parse::emit::{Emit, emit as parse_emit};
use crate::parse::reserved;
use context::Binder;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::optimizer::{Optimizer, OptimizerRule};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use sqlparser::ast::{Expr as Ast, Query};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_format::types::Type;
use weir_plan::{ReplayOrder, StartPosition, StateSpec};

/// What a query's meaning depends on besides its text and the scope.
#[derive(Debug, Clone, Default)]
pub struct BindOptions {
    /// `FROM s` reads what there is (`query_mode='table'`).
    pub table_mode: bool,
    /// `cast_overflow='wrap'`.
    pub cast_overflow_wrap: bool,
    /// Unmatched rows of outer joins have nulls instead of defaults.
    pub join_use_nulls: bool,
    /// The query's start: `now()` where it is a constant. Microseconds since the Unix epoch.
    pub now_us: i64,
    /// The setting `seek_to`, empty for none.
    pub seek_to: String,
    /// The setting `replay_order`, empty for the default.
    pub replay_order: String,
    /// The other settings about history.
    pub backfill: BackfillSettings,
    /// The zone of times that have none of their own; `None` = UTC.
    pub time_zone: Option<Arc<str>>,
    /// How sources judge rows of windows.
    pub lateness: Lateness,
    pub sessions: SessionRules,
    pub state: StateSpec,
    /// Windows that EMIT LAST may put a row into; `None` = 1000.
    pub windows_max: Option<i64>,
}

/// Settings of the watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lateness {
    /// `watermark_idle_timeout_ms`, in microseconds.
    pub idle_timeout_us: i64,
    /// `event_time_future_max_ms`, in nanoseconds; 0 = off.
    pub future_max_ns: i64,
    /// `partition_lag_max_ms`, in nanoseconds.
    pub partition_lag_max_ns: i64,
}

impl Default for Lateness {
    fn default() -> Self {
        let day_ns = 86_400 * 1_000_000_000;
        Lateness { idle_timeout_us: 5_000_000, future_max_ns: day_ns, partition_lag_max_ns: day_ns }
    }
}

/// A query that is understood.
#[derive(Debug, Clone)]
pub struct BoundQuery {
    /// Types are final; a bounded plan can go to `SessionState::optimize` as it is.
    pub plan: LogicalPlan,
    /// The result's columns, made by `weir_format::types`. Names may repeat. Batches have these
    /// columns in this order; set this schema on them.
    pub schema: SchemaRef,
    pub unbounded: bool,
    /// From `seek_to`; `None` leaves it to the predicates over each source.
    pub seek_to: Option<StartPosition>,
    pub replay_order: ReplayOrder,
    pub history: History,
    /// The EMIT clause of the outermost level.
    pub emit: Option<Emit>,
    /// What its `IDENTIFIED BY` names.
    pub(crate) life: Option<LifeExprs>,
    pub sessions: SessionRules,
    pub lateness: Lateness,
    pub state: StateSpec,
    /// Columns of sources to be kept of rows that are late, where a source has them.
    pub late_columns: Vec<String>,
}

/// Binds a query.
///
/// # Errors
/// 42, 43, 46, 47, 48, 53, 60, 80, 215, … with line and column where the text tells.
pub fn bind_query(
    query: &Query,
    scope: &dyn Scope,
    state: &SessionState,
    options: &BindOptions,
) -> Result<BoundQuery, Error> {
    let seek_to = seek::seek_to(&options.seek_to, options.now_us, options.time_zone.clone())?;
    let replay_order = seek::replay_order(&options.replay_order)?;
    let history = backfill::history(options, replay_order)?;
    let mut emit = reserved::emit(query).map(parse_emit).transpose()?;
    let mut query = query.clone();
    if let Some(settings) = &mut query.settings {
        settings.retain(|s| s.key.value != reserved::EMIT);
    }
    let binder = Binder::new(scope, state, options);
    let asked = emit.is_some();
    if let Some(e) = &mut emit
        && e.last.is_some()
    {
        last::rewrite(&mut query, e, &binder.functions, options.now_us, options.windows_max)?;
        // It has become part of the query; what is left may say nothing more.
        emit = emit.filter(|e| *e != Emit::default());
    }
    let plan = binder.plan(query)?;
    let unbounded = bounds::is_unbounded(&plan);
    if unbounded {
        bounds::check(&plan)?;
    } else if emit_version::occurs(&plan) {
        return Err(err!(
            IncorrectQuery,
            "emit_version() counts the emissions of a streaming aggregation and this query ends; leave it out"
        ));
    } else if asked {
        return Err(err!(IncorrectQuery, "EMIT has no meaning in a query that ends; leave it out"));
    }
    let rules = rules(options, unbounded);
    let (mut plan, mut schema) = typed(plan, state, &rules).map_err(errors::from_datafusion)?;
    plan = session::claim(plan)?;
    let life = match life::of(emit.as_ref().and_then(|e| e.policy.as_ref())) {
        Some(life) => life::bind(&binder, &rules, life, &plan)?,
        None => None,
    };
    if !unbounded {
        if session::occurs(&plan) {
            // As over a stream: conditions come before sessions are cut.
            let rule: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(PushDownFilter::new());
            plan = Optimizer::with_rules(vec![rule])
                .optimize(plan, state, |_, _| {})
                .map_err(errors::from_datafusion)?;
        }
        plan = order::apply(plan)
            .and_then(changelog_table::without_changelogs)
            .and_then(without_windows)
            .map_err(errors::from_datafusion)?;
    }
    let shown = schema.fields().iter().any(|f| f.name() == weir_plan::WEIGHT_COLUMN);
    if emit.as_ref().is_some_and(|e| e.changelog) && !shown {
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Type::Int8.field(weir_plan::WEIGHT_COLUMN)));
        schema = Arc::new(Schema::new(fields));
    }
    Ok(BoundQuery {
        plan,
        schema,
        unbounded,
        seek_to,
        replay_order,
        history,
        emit,
        life,
        sessions: options.sessions,
        lateness: options.lateness,
        state: options.state,
        late_columns: Vec::new(),
    })
}

/// Window functions of FROM and functions in log order as what DataFusion has.
fn without_windows(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let mut found = false;
    plan.apply_with_subqueries(|p| {
        found |= WindowTable::of(p).is_some() || DedupTable::of(p).is_some();
        found |= matches!(p, LogicalPlan::Window(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if !found {
        return Ok(plan);
    }
    // Order first: it looks at the nodes that are expanded behind it.
    let plan = plan.transform_up_with_subqueries(log_order::order_windows)?.data;
    let expanded = plan.transform_up_with_subqueries(|p| {
        Ok(Transformed::yes(match (WindowTable::of(&p), DedupTable::of(&p)) {
            (Some(window), _) => window.expand()?,
            (None, Some(dedup)) => dedup.expand()?,
            (None, None) => p.recompute_schema()?,
        }))
    })?;
    Ok(expanded.data)
}

pub(crate) fn rules(options: &BindOptions, unbounded: bool) -> coerce::Rules {
    coerce::Rules {
        wrap: options.cast_overflow_wrap,
        join_use_nulls: options.join_use_nulls,
        now_us: options.now_us,
        unbounded,
    }
}

fn typed(
    plan: LogicalPlan,
    state: &SessionState,
    rules: &coerce::Rules,
) -> DfResult<(LogicalPlan, SchemaRef)> {
    let plan = coerce::apply(plan, rules)?;
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    coerce::finish(plan)
}

/// The SELECT of a view.
pub(crate) fn parse_select(text: &str) -> Result<Query, Error> {
    let mut statements = crate::parse::parse(text)?;
    match (statements.len(), statements.pop().map(|p| p.statement)) {
        (1, Some(crate::ast::Statement::Query(q))) => Ok(*q),
        _ => Err(err!(Syntax, "a view is one SELECT, not '{text}'")),
    }
}

/// A scope in which there is nothing: for expressions over given columns.
struct NoScope;

impl Scope for NoScope {
    fn current_database(&self) -> &str {
        "default"
    }
    fn relation(&self, _: Option<&str>, name: &str) -> Result<ScopeRelation, Error> {
        Err(err!(UnknownStream, "an expression can not read stream {name}"))
    }
    fn table_function(&self, _: &str, _: &[ScalarValue]) -> Result<Option<Arc<dyn TableProvider>>, Error> {
        Ok(None)
    }
    fn parameter(&self, _: &str) -> Option<String> {
        None
    }
}

/// Binds an expression over columns, for DEFAULT, ORDER BY, TTL, `sharding_expr`. `now()` stays
/// a call, so that every batch sees its own time.
///
/// # Errors
/// As [`bind_query`].
pub fn bind_expr(
    e: &Ast,
    schema: &SchemaRef,
    state: &SessionState,
    options: &BindOptions,
) -> Result<Expr, Error> {
    let df = DFSchema::try_from(schema.clone()).map_err(errors::from_datafusion)?;
    let bound = Binder::new(&NoScope, state, options).expr(e.clone(), &df)?;
    let bound = coerce::expr(bound, &df, &rules(options, true)).map_err(errors::from_datafusion)?;
    Ok(coerce::shrink(bound))
}

/// The Weir type of a bound expression.
///
/// # Errors
/// Code 50 for a type clients have no name for.
pub fn expr_type(e: &Expr, schema: &SchemaRef) -> Result<Type, Error> {
    let df = DFSchema::try_from(schema.clone()).map_err(errors::from_datafusion)?;
    infer::type_of(e, &df)
        .ok_or_else(|| err!(UnknownType, "expression {e} has a type that can not be stored"))
}

/// A bound expression, cast to a column's type as an assignment would.
///
/// # Errors
/// As [`bind_query`].
pub fn cast_expr(e: Expr, schema: &SchemaRef, to: &Type, options: &BindOptions) -> Result<Expr, Error> {
    let from = expr_type(&e, schema)?;
    Ok(cast::plan(e, &from, to, options.cast_overflow_wrap))
}

/// Makes a bound expression ready to evaluate over batches of `schema`.
///
/// # Errors
/// As [`bind_query`].
pub fn physical_expr(
    e: Expr,
    schema: &SchemaRef,
    state: &SessionState,
) -> Result<Arc<dyn PhysicalExpr>, Error> {
    let df = DFSchema::try_from(Arc::new(Schema::clone(schema))).map_err(errors::from_datafusion)?;
    state.create_physical_expr(e, &df).map_err(errors::from_datafusion)
}

/// The value of an expression without columns.
///
/// # Errors
/// Code 36: it is not constant.
pub(crate) fn constant(e: Expr, state: &SessionState) -> DfResult<ScalarValue> {
    let context = SimplifyContext::builder().with_config_options(state.config_options().clone()).build();
    let simplifier = ExprSimplifier::new(context);
    let shown = e.to_string();
    let mut e = simplifier.simplify(simplifier.coerce(e, &DFSchema::empty())?)?;
    while let Expr::Alias(a) = e {
        e = *a.expr;
    }
    match e {
        Expr::Literal(v, _) => Ok(v),
        _ => Err(errors::external(err!(BadArguments, "argument {shown} must be a constant"))),
    }
}
