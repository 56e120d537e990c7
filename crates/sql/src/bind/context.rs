//! What DataFusion's planner asks while it plans: relations, functions, operators, types.

use super::changelog_table::ChangelogTable;
use super::compare;
use super::condition::{CONDITION, Condition};
use super::dedup_table::{DedupCall, DedupTable};
use super::errors::external;
use super::factors::{
    BOUNDED, DEDUP, KEYED, WINDOW, dedup_factor, keyed_factor, named_by_parameter, partitioned_window,
    table_factor, window_factor,
};
use super::functions::{Functions, snake};
use super::keyed_table::{KeyedCall, KeyedTable};
use super::log_order;
use super::operators::{EarliestTs, Negate, WeirPlanner, WeirTypes};
use super::scope::{Scope, ScopeRelation, VIRTUAL_COLUMNS};
use super::shape::{self, Shape};
use super::window_table::{WindowCall, WindowTable};
use super::{BindOptions, select, spell, zone};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF,
    Signature, TableSource, Volatility, WindowUDF, lit,
};
use datafusion::sql::planner::{NullOrdering, ParserOptions, PlannerContext, SqlToRel};
use sqlparser::ast::{Expr as Ast, Query, Statement, TableFactor, VisitMut, VisitorMut};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_base::{Error, err};

/// Views inside views deeper than this are refused: each takes stack while it is planned.
const VIEW_DEPTH_MAX: usize = 16;

/// Plans queries of one session; views get one of their own.
pub(crate) struct Binder<'a> {
    pub scope: &'a dyn Scope,
    pub state: &'a SessionState,
    pub options: &'a BindOptions,
    pub(super) functions: Functions<'a>,
    database: String,
    table_mode: bool,
    /// The views we are in, outermost first.
    views: Vec<(String, String)>,
    named: RefCell<HashSet<String>>,
    /// Hidden columns of the streams that are read: what an unknown name may have meant.
    hidden: RefCell<Vec<String>>,
    windows: RefCell<Vec<WindowCall>>,
    keyed: RefCell<Vec<KeyedCall>>,
    dedups: RefCell<Vec<DedupCall>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
}

impl<'a> Binder<'a> {
    pub(crate) fn new(scope: &'a dyn Scope, state: &'a SessionState, options: &'a BindOptions) -> Self {
        Self::inside(
            scope,
            state,
            options,
            scope.current_database().to_owned(),
            options.table_mode,
            Vec::new(),
        )
    }

    fn inside(
        scope: &'a dyn Scope,
        state: &'a SessionState,
        options: &'a BindOptions,
        database: String,
        table_mode: bool,
        views: Vec<(String, String)>,
    ) -> Self {
        let int_div = state.scalar_functions().get("int_div").cloned();
        let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(WeirPlanner { int_div })];
        planners.extend(state.expr_planners().iter().cloned());
        Binder {
            scope,
            state,
            options,
            functions: Functions::new(state),
            database,
            table_mode,
            views,
            named: RefCell::new(HashSet::new()),
            hidden: RefCell::default(),
            windows: RefCell::default(),
            keyed: RefCell::default(),
            dedups: RefCell::default(),
            planners,
        }
    }

    /// The plan as the planner makes it, without type rules.
    pub(crate) fn plan(&self, mut query: Query) -> Result<LogicalPlan, Error> {
        self.tables(&mut query)?;
        *self.named.borrow_mut() = select::columns_named(&query);
        select::rewrite(&mut query, self)?;
        spell::rewrite(&mut query, &self.functions, self.scope)?;
        if let Some(zone) = &self.options.time_zone {
            zone::rewrite(&mut query, zone);
        }
        let planner = SqlToRel::new_with_options(self, parser_options());
        planner
            .sql_statement_to_plan(Statement::Query(Box::new(query)))
            .map_err(|e| super::errors::or_hidden(super::errors::from_datafusion(e), &self.hidden.borrow()))
    }

    /// One expression over a schema.
    pub(crate) fn expr(&self, mut e: Ast, schema: &DFSchema) -> Result<Expr, Error> {
        spell::rewrite(&mut e, &self.functions, self.scope)?;
        if let Some(zone) = &self.options.time_zone {
            zone::rewrite(&mut e, zone);
        }
        let planner = SqlToRel::new_with_options(self, parser_options());
        planner.sql_to_expr(e, schema, &mut PlannerContext::new()).map_err(super::errors::from_datafusion)
    }

    /// `table(s)` becomes a name the planner can look up; functions of later versions are named.
    fn tables(&self, query: &mut Query) -> Result<(), Error> {
        struct Pass<'p>(
            &'p str,
            &'p dyn Scope,
            &'p RefCell<Vec<WindowCall>>,
            &'p RefCell<Vec<KeyedCall>>,
            &'p RefCell<Vec<DedupCall>>,
        );
        impl VisitorMut for Pass<'_> {
            type Break = Error;
            fn pre_visit_query(&mut self, q: &mut Query) -> ControlFlow<Error> {
                match partitioned_window(q, &mut self.2.borrow_mut()) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => ControlFlow::Break(e),
                }
            }
            fn pre_visit_table_factor(&mut self, f: &mut TableFactor) -> ControlFlow<Error> {
                let done = named_by_parameter(f, self.1)
                    .and_then(|()| window_factor(f, &mut self.2.borrow_mut()))
                    .and_then(|()| keyed_factor(f, &mut self.3.borrow_mut()))
                    .and_then(|()| dedup_factor(f, &mut self.4.borrow_mut()))
                    .and_then(|()| table_factor(f, self.0));
                match done {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => ControlFlow::Break(e),
                }
            }
        }
        match query.visit(&mut Pass(&self.database, self.scope, &self.windows, &self.keyed, &self.dedups)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(e) => Err(e),
        }
    }

    fn relation(&self, database: Option<&str>, name: &str) -> Result<ScopeRelation, Error> {
        self.scope.relation(Some(database.unwrap_or(&self.database)), name)
    }

    fn source(
        &self,
        database: Option<&str>,
        name: &str,
        bounded: bool,
    ) -> Result<Arc<dyn TableSource>, Error> {
        let bounded = bounded || self.table_mode;
        let self_database = database.unwrap_or(&self.database);
        let plan = match self.relation(database, name)? {
            ScopeRelation::Table(t) => shape::in_zone(scan(name, t, None)?, self)?,
            ScopeRelation::Stream { provider_bounded, unbounded } => {
                let bounded = bounded || unbounded.is_table;
                let provider: Arc<dyn TableProvider> =
                    if bounded { provider_bounded } else { unbounded.clone() };
                let aliases = self.scope.alias_columns(Some(self_database), name)?;
                let named = self.named.borrow().clone();
                let hidden = unbounded.schema.fields()[unbounded.visible..].iter().map(|f| f.name().clone());
                self.hidden.borrow_mut().extend(hidden.chain(aliases.iter().map(|a| a.name.clone())));
                let shape = Shape::of(&unbounded, &aliases, &named)?;
                let plan = if bounded && unbounded.changelog {
                    ChangelogTable::plan(scan(name, provider, None)?, shape.scanned.clone())
                        .map_err(super::errors::from_datafusion)?
                } else {
                    scan(name, provider, Some(shape.scanned.clone()))?
                };
                shape.over(plan, self)?
            }
            ScopeRelation::View { select, database } => {
                let mut views = self.views.clone();
                views.push((self_database.to_owned(), name.to_owned()));
                if self.views.contains(&views[views.len() - 1]) {
                    return Err(err!(
                        IncorrectQuery,
                        "view {name} refers to itself; change one of the views"
                    ));
                }
                if views.len() > VIEW_DEPTH_MAX {
                    return Err(err!(
                        IncorrectQuery,
                        "view {name} is view number {} inside views, the limit is {VIEW_DEPTH_MAX}",
                        views.len()
                    ));
                }
                let query = super::parse_select(&select)?;
                Binder::inside(self.scope, self.state, self.options, database, bounded, views)
                    .plan(query)
                    .map_err(|mut e| {
                        // The place would be in the view's text, which the client did not send.
                        e.position = None;
                        e.message = format!("in view {name}: {}", e.message);
                        e
                    })?
            }
        };
        Ok(Arc::new(PlannedSource { schema: Arc::new(plan.schema().as_arrow().clone()), plan }))
    }

    /// A window function of FROM.
    fn window(&self, number: usize) -> Result<Arc<dyn TableSource>, Error> {
        let call = self.windows.borrow()[number].clone();
        for e in call.time.iter().chain(call.conditions()) {
            self.named.borrow_mut().extend(shape::names_in(e));
        }
        let planned = self.read(&call.of, &call.function)?;
        let typed = |e: Ast| {
            let e = self.expr(e, planned.schema())?;
            super::coerce::expr(e, planned.schema(), &super::rules(self.options, true))
                .map_err(super::errors::from_datafusion)
        };
        let time =
            typed(call.time.clone().unwrap_or_else(|| super::window_table::default_time(planned.schema())))?;
        let condition = |e: &Ast| {
            let e = typed(e.clone())?;
            let t = e.get_type(planned.schema()).map_err(super::errors::from_datafusion)?;
            if t == DataType::Boolean {
                return Ok(e);
            }
            if !super::widths::is_number(&t) {
                return Err(err!(IllegalTypeOfArgument, "{e} is {t}, no condition of a session"));
            }
            let zero = ScalarValue::new_zero(&t).map_err(super::errors::from_datafusion)?;
            Ok(compare::binary(e, Operator::NotEq, lit(zero)))
        };
        let conditions = match &call.conditions {
            None => None,
            Some((_, start, end)) => Some((condition(start)?, condition(end)?)),
        };
        let partition = call
            .partition
            .iter()
            .map(|key| match self.expr(key.clone(), planned.schema())? {
                column @ Expr::Column(_) => Ok(column),
                other => Err(err!(
                    NotImplemented,
                    "PARTITION BY over a window takes columns, {other} is none; compute it in a subquery inside {}",
                    call.function
                )),
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let plan = WindowTable::plan(planned, time, conditions, partition, &call)?;
        Ok(Arc::new(PlannedSource { schema: Arc::new(plan.schema().as_arrow().clone()), plan }))
    }

    /// `changelog(…)`.
    fn keyed(&self, number: usize) -> Result<Arc<dyn TableSource>, Error> {
        let call = self.keyed.borrow()[number].clone();
        for e in call.keys.iter().chain(&call.version) {
            self.named.borrow_mut().extend(shape::names_in(e));
        }
        let named = self.named.borrow().clone();
        // A bounded query puts rows in log order by these.
        self.named.borrow_mut().extend(VIRTUAL_COLUMNS.map(str::to_owned));
        let planned = self.read(&call.of, "changelog");
        *self.named.borrow_mut() = named.clone();
        let planned = planned?;
        let typed = |e: &Ast| {
            let e = self.expr(e.clone(), planned.schema())?;
            super::coerce::expr(e, planned.schema(), &super::rules(self.options, true))
                .map_err(super::errors::from_datafusion)
        };
        let keys = call.keys.iter().map(typed).collect::<Result<Vec<_>, _>>()?;
        let version = call.version.as_ref().map(typed).transpose()?;
        let stays = |name: &str| named.contains(name) || !VIRTUAL_COLUMNS.contains(&name);
        let shown = planned.schema().columns().into_iter().filter(|c| stays(&c.name)).map(Expr::Column);
        let shown: Vec<Expr> = shown.collect();
        let plan = if super::bounds::is_unbounded(&planned) {
            LogicalPlanBuilder::from(planned)
                .project(shown)
                .and_then(LogicalPlanBuilder::build)
                .and_then(|input| KeyedTable::new(input, keys, version))
                .map(KeyedTable::into_plan)
        } else {
            KeyedTable::weightless(&planned).and_then(|()| KeyedTable::bounded(planned, keys, version, shown))
        };
        let plan = plan.map_err(super::errors::from_datafusion)?;
        Ok(Arc::new(PlannedSource { schema: Arc::new(plan.schema().as_arrow().clone()), plan }))
    }

    /// `dedup(…)`.
    fn dedup(&self, number: usize) -> Result<Arc<dyn TableSource>, Error> {
        let call = self.dedups.borrow()[number].clone();
        for key in &call.keys {
            self.named.borrow_mut().extend(shape::names_in(key));
        }
        let planned = self.read(&call.of, "dedup")?;
        let keys = call
            .keys
            .iter()
            .map(|key| {
                let key = self.expr(key.clone(), planned.schema())?;
                super::coerce::expr(key, planned.schema(), &super::rules(self.options, true))
                    .map_err(super::errors::from_datafusion)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let plan = DedupTable::new(planned, keys, call.ttl_us, Some(call.keys_max)).into_plan();
        Ok(Arc::new(PlannedSource { schema: Arc::new(plan.schema().as_arrow().clone()), plan }))
    }

    /// What stands inside a function of FROM.
    fn read(&self, of: &TableFactor, function: &str) -> Result<LogicalPlan, Error> {
        let mut of = of.clone();
        named_by_parameter(&mut of, self.scope)?;
        window_factor(&mut of, &mut self.windows.borrow_mut())?;
        keyed_factor(&mut of, &mut self.keyed.borrow_mut())?;
        dedup_factor(&mut of, &mut self.dedups.borrow_mut())?;
        table_factor(&mut of, &self.database)?;
        Ok(match &of {
            TableFactor::Derived { subquery, .. } => {
                let views = self.views.clone();
                let database = self.database.clone();
                Binder::inside(self.scope, self.state, self.options, database, self.table_mode, views)
                    .plan((**subquery).clone())?
            }
            TableFactor::Table { name, args: None, .. } => {
                let parts: Vec<&str> =
                    name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.as_str()).collect();
                let source = match parts.as_slice() {
                    [name] => self.source(None, name, false)?,
                    [database, name] => self.source(Some(database), name, false)?,
                    [BOUNDED, database, name] => self.source(Some(database), name, true)?,
                    [KEYED, ..] => {
                        return Err(err!(
                            NotImplemented,
                            "{function} over a changelog is not supported: its rows are taken back; aggregate it directly"
                        ));
                    }
                    [DEDUP, number, _] => self.dedup(number.parse().expect("written by dedup_factor"))?,
                    [WINDOW, ..] => {
                        return Err(err!(
                            NotImplemented,
                            "a window directly over a window is not supported yet; aggregate the inner one first"
                        ));
                    }
                    _ => {
                        return Err(err!(
                            UnknownStream,
                            "unknown stream {name}; names are stream or database.stream"
                        ));
                    }
                };
                let scan = || {
                    LogicalPlanBuilder::scan(
                        TableReference::bare(parts[parts.len() - 1]),
                        source.clone(),
                        None,
                    )
                };
                match source.get_logical_plan() {
                    Some(plan) => plan.into_owned(),
                    None => {
                        scan().and_then(LogicalPlanBuilder::build).map_err(super::errors::from_datafusion)?
                    }
                }
            }
            other => return Err(err!(NotImplemented, "{function} over {other} is not supported yet")),
        })
    }
}

fn scan(
    name: &str,
    provider: Arc<dyn TableProvider>,
    columns: Option<Vec<usize>>,
) -> Result<LogicalPlan, Error> {
    LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(provider), columns)
        .and_then(LogicalPlanBuilder::build)
        .map_err(super::errors::from_datafusion)
}

impl select::Relations for Binder<'_> {
    fn is_aggregate(&self, name: &str) -> bool {
        let snake = snake(name);
        let suffixes = ["_if", "_distinct", "_or_null", "_or_default", "_array"];
        let base = suffixes.iter().find_map(|suffix| snake.strip_suffix(suffix));
        std::iter::once(name)
            .chain(base)
            .any(|name| self.functions.resolve(name).is_some_and(|name| self.functions.is_aggregate(&name)))
    }

    fn hidden_of(&self, factor: &TableFactor) -> Vec<String> {
        let TableFactor::Table { name, args: None, .. } = factor else { return Vec::new() };
        let parts: Vec<&str> = name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.as_str()).collect();
        let (database, name) = match parts.as_slice() {
            [name] => (self.database.as_str(), *name),
            [.., database, name] => (*database, *name),
            [] => return Vec::new(),
        };
        match self.relation(Some(database), name) {
            Ok(ScopeRelation::Stream { unbounded, .. }) => {
                let hidden = &unbounded.schema.fields()[unbounded.visible..];
                let aliases = self.scope.alias_columns(Some(database), name).unwrap_or_default();
                let hidden = hidden.iter().map(|f| f.name().clone());
                hidden.chain(aliases.into_iter().map(|a| a.name)).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn parser_options() -> ParserOptions {
    ParserOptions {
        parse_float_as_decimal: false,
        enable_ident_normalization: false,
        support_varchar_with_length: true,
        enable_options_value_normalization: false,
        collect_spans: true,
        map_string_types_to_utf8view: false,
        default_null_ordering: NullOrdering::NullsLast,
    }
}

/// A relation that is already a plan.
struct PlannedSource {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl TableSource for PlannedSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

impl ContextProvider for Binder<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        if name.catalog() == Some(WINDOW) {
            let number = name.schema().and_then(|n| n.parse().ok()).expect("written by window_factor");
            return self.window(number).map_err(external);
        }
        if name.catalog() == Some(KEYED) {
            let number = name.schema().and_then(|n| n.parse().ok()).expect("written by keyed_factor");
            return self.keyed(number).map_err(external);
        }
        if name.catalog() == Some(DEDUP) {
            let number = name.schema().and_then(|n| n.parse().ok()).expect("written by dedup_factor");
            return self.dedup(number).map_err(external);
        }
        let bounded = name.catalog() == Some(BOUNDED);
        if name.catalog().is_some() && !bounded {
            return Err(external(err!(
                UnknownStream,
                "unknown stream {name}; names are stream or database.stream"
            )));
        }
        self.source(name.schema(), name.table(), bounded).map_err(external)
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> DfResult<Arc<dyn TableSource>> {
        let schema = DFSchema::empty();
        let rules = super::rules(self.options, false);
        let mut values = Vec::new();
        for a in args {
            let a = super::coerce::expr(a, &schema, &rules)?;
            values.push(super::constant(a, self.state)?);
        }
        match self.scope.table_function(name, &values).map_err(external)? {
            Some(provider) => Ok(provider_as_source(provider)),
            None => {
                let known = ["table", "numbers", "values", "tumble", "hop", "session", "changelog", "dedup"];
                let hint = weir_base::error::did_you_mean(name, known);
                Err(external(err!(UnknownFunction, "unknown table function {name}{hint}")))
            }
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(WeirTypes { time_zone: self.options.time_zone.clone() }))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        match name {
            spell::NEGATE => {
                Some(Arc::new(ScalarUDF::new_from_impl(Negate(Signature::any(1, Volatility::Immutable)))))
            }
            log_order::LOG_ORDER => Some(log_order::marker()),
            CONDITION => Some(Arc::new(ScalarUDF::new_from_impl(Condition::default()))),
            spell::EARLIEST => Some(Arc::new(ScalarUDF::new_from_impl(EarliestTs::new()))),
            // The planner's own form of a tuple.
            "named_struct" => Some(datafusion::functions::core::named_struct()),
            _ => self.state.scalar_functions().get(name).cloned(),
        }
    }
    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }
    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        if name == super::emit_version::EMIT_VERSION {
            return Some(super::emit_version::function());
        }
        self.state.aggregate_functions().get(name).cloned()
    }
    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        log_order::shift(name).or_else(|| self.state.window_functions().get(name).cloned())
    }
    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }
    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }
    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }
    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }
    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }
    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
    fn create_cte_work_table(&self, name: &str, _: SchemaRef) -> DfResult<Arc<dyn TableSource>> {
        Err(external(err!(NotImplemented, "recursive WITH ({name}) is not supported yet")))
    }
}
