//! Log order in a plan: where rows of a window function without ORDER BY stand.
//!
//! Rows of a stream stand where they were appended: (`_tp_append_time`, `_tp_shard`, `_tp_sn`). Those of a UNION of streams go by the stream's name before the shard. Results of
//! windows stand in the order in which they leave: (end, start, keys). What keeps rows keeps their
//! order. Other relations (aggregations over everything, joins, `system.*`) have none; there a
//! function means what it does in standard SQL, and `lag` is refused.
//!
//! An unbounded query takes rows as they come, its sources see to the order. A bounded one gets the order
//! as columns that travel with the rows up to the function and no further: so both give the same.

use super::dedup_table::DedupTable;
use super::errors::external;
use super::window_table::{WINDOW_END, WINDOW_START, WindowTable, bound_of};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, Result as DfResult, ScalarValue, TableReference};
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::function::{ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    ColumnarValue, Distinct, Expr, Extension, Filter, Limit, LimitEffect, LogicalPlan, PartitionEvaluator,
    Projection, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Sort, SubqueryAlias, TableScan,
    TableScanBuilder, Volatility, Window, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowUDF,
    WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use std::sync::Arc;
use weir_base::err;

/// Stands for log order in an OVER.
pub(crate) const LOG_ORDER: &str = "_log_order";

const PLACE: [&str; 3] = ["_tp_append_time", "_tp_shard", "_tp_sn"];

pub(crate) fn marker() -> Arc<ScalarUDF> {
    // Volatile, so that nobody computes it beforehand.
    Arc::new(ScalarUDF::new_from_impl(LogOrder { signature: Signature::nullary(Volatility::Volatile) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LogOrder {
    signature: Signature,
}

impl ScalarUDFImpl for LogOrder {
    fn name(&self) -> &str {
        LOG_ORDER
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(external(err!(LogicalError, "log order was not planned")))
    }
}

/// Whether an OVER asks for log order.
pub(crate) fn in_log_order(f: &WindowFunction) -> bool {
    let marks = |e: &Expr| matches!(e, Expr::ScalarFunction(f) if f.name() == LOG_ORDER);
    matches!(f.params.order_by.as_slice(), [one] if marks(&one.expr))
}

pub(crate) fn unaliased(mut e: &Expr) -> &Expr {
    while let Expr::Alias(a) = e {
        e = &a.expr;
    }
    e
}

/// The frame from the first row to the row itself.
pub(crate) fn running_frame(f: &WindowFrame) -> bool {
    matches!(&f.start_bound, WindowFrameBound::Preceding(v) if v.is_null())
        && matches!(f.end_bound, WindowFrameBound::CurrentRow)
}

fn rows_so_far() -> WindowFrame {
    WindowFrame::new_bounds(
        WindowFrameUnits::Rows,
        WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::CurrentRow,
    )
}

/// Functions that look at single rows: without an order they mean nothing.
fn looks_at_rows(name: &str) -> bool {
    matches!(name, "lag" | "lead" | "first_value" | "last_value" | "nth_value")
}

/// Puts log order into the window functions of a bounded plan that ask for it.
pub(crate) fn order_windows(plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Window(w) = plan else { return Ok(Transformed::no(plan)) };
    let asks = |e: &Expr| matches!(unaliased(e), Expr::WindowFunction(f) if in_log_order(f));
    if !w.window_expr.iter().any(asks) {
        return Ok(Transformed::no(LogicalPlan::Window(w)));
    }
    let placed = place(&w.input)?;
    let mut exprs = Vec::with_capacity(w.window_expr.len());
    for (e, field) in w.window_expr.iter().zip(&w.schema.fields()[w.input.schema().fields().len()..]) {
        let Expr::WindowFunction(f) = unaliased(e) else {
            exprs.push(e.clone());
            continue;
        };
        let mut f = f.clone();
        if in_log_order(&f) {
            order_function(&mut f, placed.as_ref().map(|(_, order)| order.as_slice()), &w.input)?;
        }
        // Under its old name, which says how it was asked for.
        exprs.push(Expr::WindowFunction(f).alias(field.name()));
    }
    let Some((input, _)) = placed else {
        return Ok(Transformed::yes(LogicalPlan::Window(Window::try_new(exprs, w.input)?)));
    };
    let ordered = LogicalPlan::Window(Window::try_new(exprs, Arc::new(input))?);
    let own: Vec<Expr> = w.schema.columns().into_iter().map(Expr::Column).collect();
    let plan = LogicalPlan::Projection(Projection::try_new(own, Arc::new(ordered))?);
    Ok(Transformed::yes(plan))
}

fn order_function(f: &mut WindowFunction, order: Option<&[SortExpr]>, input: &LogicalPlan) -> DfResult<()> {
    let name = f.fun.name().to_owned();
    let aggregate = matches!(f.fun, WindowFunctionDefinition::AggregateUDF(_));
    let by_default =
        f.params.window_frame.units == WindowFrameUnits::Range && running_frame(&f.params.window_frame);
    match order {
        Some(order) if aggregate || looks_at_rows(&name) || name == "row_number" => {
            f.params.order_by = order.to_vec();
            if by_default {
                f.params.window_frame = rows_so_far();
            }
        }
        None if looks_at_rows(&name) => {
            return Err(external(err!(
                NotImplemented,
                "{name} takes rows in log order, and rows of {} have none; say which with OVER (ORDER BY …)",
                what(input)
            )));
        }
        _ => {
            f.params.order_by.clear();
            if by_default {
                f.params.window_frame = WindowFrame::new(None);
            }
        }
    }
    Ok(())
}

/// What a plan is to whoever wrote the query.
pub(crate) fn what(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Aggregate(_) => "an aggregation without a window",
        LogicalPlan::Join(_) => "a join",
        LogicalPlan::Union(_) => "a union",
        LogicalPlan::TableScan(_) => "a relation that is no stream",
        LogicalPlan::Unnest(_) => "an ARRAY JOIN",
        other => match other.inputs().as_slice() {
            [one] => what(one),
            _ => "this relation",
        },
    }
}

/// Ascending, NULL first: as keys of a window's results are ordered.
fn ascending(e: Expr) -> SortExpr {
    SortExpr::new(e, true, true)
}

fn column((relation, field): (Option<&TableReference>, &FieldRef)) -> Expr {
    Expr::Column(Column::new(relation.cloned(), field.name()))
}

/// The plan with what orders its rows among its columns, behind its own; `None` where rows have no order.
fn place(plan: &LogicalPlan) -> DfResult<Option<(LogicalPlan, Vec<SortExpr>)>> {
    Ok(match plan {
        LogicalPlan::TableScan(t) => place_of_scan(t)?,
        LogicalPlan::SubqueryAlias(a) => {
            let Some((input, order)) = place(&a.input)? else { return Ok(None) };
            let alias = SubqueryAlias::try_new(Arc::new(input), a.alias.clone())?;
            let order = renamed(order, alias.input.schema(), &alias.schema)?;
            Some((LogicalPlan::SubqueryAlias(alias), order))
        }
        LogicalPlan::Filter(f) => {
            let Some((input, order)) = place(&f.input)? else { return Ok(None) };
            Some((LogicalPlan::Filter(Filter::try_new(f.predicate.clone(), Arc::new(input))?), order))
        }
        LogicalPlan::Limit(l) => {
            let Some((input, order)) = place(&l.input)? else { return Ok(None) };
            let (skip, fetch) = (l.skip.clone(), l.fetch.clone());
            Some((LogicalPlan::Limit(Limit { skip, fetch, input: Arc::new(input) }), order))
        }
        LogicalPlan::Sort(s) => {
            let (input, order) = match place(&s.input)? {
                Some((input, order)) => (Arc::new(input), order),
                None => (s.input.clone(), Vec::new()),
            };
            let all = s.expr.iter().cloned().chain(order).collect();
            Some((LogicalPlan::Sort(Sort { expr: s.expr.clone(), input, fetch: s.fetch }), all))
        }
        LogicalPlan::Projection(p) => {
            let Some((input, order)) = place(&p.input)? else { return Ok(None) };
            let mut exprs = p.expr.clone();
            let order = order
                .into_iter()
                .map(|by| {
                    let there = exprs.iter().position(|e| *unaliased(e) == by.expr);
                    let at = there.unwrap_or_else(|| {
                        exprs.push(by.expr.clone().alias(format!("\u{1}place{}", exprs.len())));
                        exprs.len() - 1
                    });
                    (at, by)
                })
                .collect::<Vec<_>>();
            let p = Projection::try_new(exprs, Arc::new(input))?;
            let order = order
                .into_iter()
                .map(|(at, by)| SortExpr { expr: column(p.schema.qualified_field(at)), ..by })
                .collect();
            Some((LogicalPlan::Projection(p), order))
        }
        LogicalPlan::Union(u) => super::united::with_place(u, place, 1, |i| format!("\u{1}united{i}"))?,
        LogicalPlan::Window(w) => {
            let Some((input, order)) = place(&w.input)? else { return Ok(None) };
            Some((LogicalPlan::Window(Window::try_new(w.window_expr.clone(), Arc::new(input))?), order))
        }
        LogicalPlan::Aggregate(a) => {
            let bounds: Vec<Option<bool>> = a
                .group_expr
                .iter()
                .map(|e| match unaliased(e) {
                    Expr::Column(c) => bound_of(&a.input, a.input.schema().maybe_index_of_column(c)?),
                    _ => None,
                })
                .collect();
            if bounds.iter().all(Option::is_none) {
                return Ok(None);
            }
            // One bound alone orders windows as both do.
            let group = |at: usize| ascending(column(a.schema.qualified_field(at)));
            let of = |end: Option<bool>| bounds.iter().enumerate().filter(move |(_, b)| **b == end);
            let all = of(Some(true)).chain(of(Some(false))).chain(of(None));
            Some((plan.clone(), all.map(|(at, _)| group(at)).collect()))
        }
        // The first of equal rows stays, as in a stream.
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let keys = input.schema().columns().into_iter().map(Expr::Column).collect();
            let first = DedupTable::new((**input).clone(), keys, None, None);
            place(&LogicalPlan::Extension(Extension { node: Arc::new(first) }))?
        }
        LogicalPlan::Extension(_) => {
            if let Some(window) = WindowTable::of(plan) {
                let Some((input, mut order)) = place(&window.input)? else { return Ok(None) };
                let placed = window.over(input)?;
                // A row that lies in several windows comes by their starts.
                order.push(ascending(Expr::Column(Column::new_unqualified(WINDOW_START))));
                debug_assert!(placed.schema().has_column_with_unqualified_name(WINDOW_END));
                Some((placed, order))
            } else if let Some(dedup) = DedupTable::of(plan) {
                let Some((input, order)) = place(&dedup.input)? else { return Ok(None) };
                Some((dedup.over(input), order))
            } else {
                None
            }
        }
        _ => None,
    })
}

/// Rows with the order of their log as columns, for who needs to see it.
pub(crate) fn with_place(plan: &LogicalPlan) -> DfResult<Option<(LogicalPlan, Vec<SortExpr>)>> {
    place(plan)
}

fn place_of_scan(t: &TableScan) -> DfResult<Option<(LogicalPlan, Vec<SortExpr>)>> {
    let schema = t.source.schema();
    let Some(places) =
        PLACE.iter().map(|name| Some(schema.column_with_name(name)?.0)).collect::<Option<Vec<_>>>()
    else {
        return Ok(None);
    };
    let mut projection = t.projection.clone().unwrap_or_else(|| (0..schema.fields().len()).collect());
    for at in places {
        if !projection.contains(&at) {
            projection.push(at);
        }
    }
    let scan = TableScanBuilder::new(t.table_name.clone(), t.source.clone())
        .with_projection(Some(projection))
        .with_filters(t.filters.clone())
        .with_fetch(t.fetch)
        .build()?;
    let order = PLACE
        .iter()
        .map(|name| ascending(Expr::Column(Column::new(Some(t.table_name.clone()), *name))))
        .collect();
    Ok(Some((LogicalPlan::TableScan(scan), order)))
}

/// The same columns under another relation.
fn renamed(order: Vec<SortExpr>, from: &DFSchema, to: &DFSchema) -> DfResult<Vec<SortExpr>> {
    order
        .into_iter()
        .map(|by| {
            let Expr::Column(c) = &by.expr else {
                return Err(external(err!(
                    NotImplemented,
                    "the order of a subquery by {} is lost outside; order by one of its columns",
                    by.expr
                )));
            };
            let at = from.index_of_column(c)?;
            Ok(SortExpr { expr: column(to.qualified_field(at)), ..by })
        })
        .collect()
}

/// `lag` and `lead` that give the type's default where there is no row, NULL only for nullable types.
pub(crate) fn shift(name: &str) -> Option<Arc<WindowUDF>> {
    use datafusion::functions_window::lead_lag::{lag_udwf, lead_udwf};
    let of = match name {
        "lag" => lag_udwf(),
        "lead" => lead_udwf(),
        _ => return None,
    };
    Some(Arc::new(WindowUDF::new_from_impl(Shift { of })))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Shift {
    of: Arc<WindowUDF>,
}

/// What there is where there is no row.
pub(crate) fn default_of(t: &DataType, nullable: bool) -> ScalarValue {
    if nullable { ScalarValue::try_new_null(t) } else { super::cast::default_value(t) }
        .unwrap_or(ScalarValue::Null)
}

impl WindowUDFImpl for Shift {
    fn name(&self) -> &str {
        self.of.name()
    }
    fn signature(&self) -> &Signature {
        self.of.signature()
    }
    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.of.expressions(args)
    }
    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> DfResult<Box<dyn PartitionEvaluator>> {
        let (mut exprs, mut fields) = (args.input_exprs().to_vec(), args.input_fields().to_vec());
        if exprs.len() < 3 {
            let value = default_of(fields[0].data_type(), fields[0].is_nullable());
            if exprs.len() == 1 {
                exprs.push(Arc::new(Literal::new(ScalarValue::Int64(Some(1)))));
                fields.push(Arc::new(datafusion::arrow::datatypes::Field::new(
                    "offset",
                    DataType::Int64,
                    false,
                )));
            }
            fields.push(fields[0].clone());
            exprs.push(Arc::new(Literal::new(value)));
        }
        let args = PartitionEvaluatorArgs::new(&exprs, &fields, args.is_reversed(), args.ignore_nulls());
        self.of.partition_evaluator_factory(args)
    }
    fn field(&self, args: WindowUDFFieldArgs) -> DfResult<FieldRef> {
        let fields = args.input_fields();
        let null = fields[0].is_nullable()
            || fields.get(2).is_some_and(|f| f.is_nullable())
            || super::cast::default_value(fields[0].data_type()).is_err();
        let name = args.name().to_owned();
        Ok(Arc::new(fields[0].as_ref().clone().with_name(name).with_nullable(null)))
    }
    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.of.inner().limit_effect(args)
    }
}
