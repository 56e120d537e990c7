//! `tumble(s, …)` and `hop(s, …)`: a node of the logical plan, and what it becomes where the query
//! is bounded.
//!
//! The node gives its input's columns, then `window_start` and `window_end`, each row once for
//! every window it lies in. Unbounded, `stream` lowers it; bounded, it is a projection.

use super::errors::external;
use super::spell;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, TimestampNanosecondArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result as DfResult};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::expr::FieldMetadata;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, UserDefinedLogicalNodeCore, Volatility,
};
use sqlparser::ast::{DateTimeField, Expr as Ast, FunctionArg, FunctionArgExpr, TableFactor};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{CalendarUnit, Span, WindowKind, WindowSpec};

pub(crate) const WINDOW_START: &str = "window_start";
pub(crate) const WINDOW_END: &str = "window_end";
const EVENT_TIME: &str = "_tp_time";

/// A call in FROM, before names are known.
#[derive(Debug, Clone)]
pub(crate) struct WindowCall {
    pub function: String,
    /// What is windowed.
    pub of: TableFactor,
    pub time: Option<Ast>,
    pub spans: Vec<Span>,
    pub zone: Option<String>,
}

fn argument(a: &FunctionArg) -> Option<&Ast> {
    match a {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
        _ => None,
    }
}

fn span(e: &Ast) -> Result<Option<Span>, Error> {
    let Ast::Interval(i) = e else { return Ok(None) };
    let text = match &*i.value {
        Ast::Value(v) => v.value.to_string().trim_matches('\'').to_owned(),
        other => other.to_string(),
    };
    let n: u32 = text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
        err!(BadArguments, "a window's length must be a whole number more than 0, not {text}")
    })?;
    let fixed = |ns: i64| Span::Fixed(i64::from(n) * ns);
    Ok(Some(match &i.leading_field {
        Some(DateTimeField::Nanosecond | DateTimeField::Nanoseconds) => fixed(1),
        Some(DateTimeField::Microsecond | DateTimeField::Microseconds) => fixed(1_000),
        Some(DateTimeField::Millisecond | DateTimeField::Milliseconds) => fixed(1_000_000),
        Some(DateTimeField::Second | DateTimeField::Seconds) | None => fixed(1_000_000_000),
        Some(DateTimeField::Minute | DateTimeField::Minutes) => fixed(60_000_000_000),
        Some(DateTimeField::Hour | DateTimeField::Hours) => fixed(3_600_000_000_000),
        Some(DateTimeField::Day | DateTimeField::Days) => Span::Calendar(CalendarUnit::Day, n),
        Some(DateTimeField::Week(_) | DateTimeField::Weeks) => Span::Calendar(CalendarUnit::Week, n),
        Some(DateTimeField::Month | DateTimeField::Months) => Span::Calendar(CalendarUnit::Month, n),
        Some(DateTimeField::Quarter) => Span::Calendar(CalendarUnit::Month, n.saturating_mul(3)),
        Some(DateTimeField::Year | DateTimeField::Years) => {
            Span::Calendar(CalendarUnit::Month, n.saturating_mul(12))
        }
        Some(DateTimeField::Custom(word)) => match word.value.to_ascii_uppercase().as_str() {
            "QUARTER" | "QUARTERS" => Span::Calendar(CalendarUnit::Month, n.saturating_mul(3)),
            "NANOSECOND" => fixed(1),
            "MICROSECOND" => fixed(1_000),
            "MILLISECOND" => fixed(1_000_000),
            other => return Err(err!(IllegalTypeOfArgument, "a window can not be counted in {other}")),
        },
        Some(other) => return Err(err!(IllegalTypeOfArgument, "a window can not be counted in {other}")),
    }))
}

impl WindowCall {
    /// Reads `tumble(s[, time], size[, zone])`, `hop(s[, time], slide, size[, zone])`.
    pub fn parse(function: &str, args: &[FunctionArg]) -> Result<Self, Error> {
        let usage = match function {
            "tumble" => "tumble(stream[, time], size[, zone])",
            _ => "hop(stream[, time], slide, size[, zone])",
        };
        let wanted = || err!(NumberOfArguments, "{function} is written {usage}");
        let all: Vec<&Ast> = args.iter().map(|a| argument(a).ok_or_else(wanted)).collect::<Result<_, _>>()?;
        let (of, mut rest) = all.split_first().ok_or_else(wanted)?;
        let of = relation(of).ok_or_else(|| {
            err!(IncorrectQuery, "{function} reads a stream, a view, table(stream) or a subquery, not {of}")
        })?;
        let mut time = None;
        if let Some((first, after)) = rest.split_first()
            && span(first)?.is_none()
        {
            time = Some((*first).clone());
            rest = after;
        }
        let mut spans = Vec::new();
        while let Some((first, after)) = rest.split_first()
            && let Some(span) = span(first)?
        {
            spans.push(span);
            rest = after;
        }
        let mut zone = None;
        if let Some((first, after)) = rest.split_first() {
            zone = Some(spell::literal_text(first).ok_or_else(wanted)?);
            rest = after;
        }
        if !rest.is_empty() || spans.len() != if function == "tumble" { 1 } else { 2 } {
            return Err(wanted());
        }
        Ok(WindowCall { function: function.to_owned(), of, time, spans, zone })
    }
}

/// An argument as what can stand in FROM.
fn relation(e: &Ast) -> Option<TableFactor> {
    use sqlparser::ast::{Ident, ObjectName, ObjectNamePart, TableFunctionArgs};
    let plain = |idents: Vec<Ident>, args: Option<TableFunctionArgs>| TableFactor::Table {
        name: ObjectName(idents.into_iter().map(ObjectNamePart::Identifier).collect()),
        alias: None,
        args,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    };
    match e {
        Ast::Identifier(i) => Some(plain(vec![i.clone()], None)),
        Ast::CompoundIdentifier(all) => Some(plain(all.clone(), None)),
        Ast::Subquery(q) => {
            Some(TableFactor::Derived { lateral: false, subquery: q.clone(), alias: None, sample: None })
        }
        Ast::Nested(inner) => relation(inner),
        Ast::Function(f) => {
            let sqlparser::ast::FunctionArguments::List(list) = &f.args else { return None };
            let args = TableFunctionArgs { args: list.args.clone(), settings: None };
            let idents = f.name.0.iter().filter_map(|p| p.as_ident().cloned()).collect();
            Some(plain(idents, Some(args)))
        }
        _ => None,
    }
}

/// Rows with their windows.
#[derive(Debug, Clone)]
pub(crate) struct WindowTable {
    pub input: LogicalPlan,
    pub time: Expr,
    pub spec: WindowSpec,
    schema: DFSchemaRef,
}

impl WindowTable {
    /// # Errors
    /// Code 36 for windows that mean nothing, 43 for a time that is none or too coarse.
    pub fn plan(input: LogicalPlan, time: Expr, call: &WindowCall) -> Result<LogicalPlan, Error> {
        let t = time.get_type(input.schema()).map_err(super::errors::from_datafusion)?;
        let DataType::Timestamp(unit, column_zone) = &t else {
            return Err(err!(
                IllegalTypeOfArgument,
                "{} takes a datetime or datetime64, {time} is {t}",
                call.function
            ));
        };
        let zone = call.zone.as_deref().or(column_zone.as_deref()).unwrap_or("UTC");
        let zone = zone.parse().map_err(|_| err!(BadArguments, "unknown time zone '{zone}'"))?;
        let kind = match call.spans.as_slice() {
            [size] => WindowKind::Tumble { size: *size },
            [slide, size] => WindowKind::Hop { slide: *slide, size: *size },
            _ => unreachable!("counted when parsed"),
        };
        let resolution = match unit {
            TimeUnit::Second => 1_000_000_000,
            TimeUnit::Millisecond => 1_000_000,
            TimeUnit::Microsecond => 1_000,
            TimeUnit::Nanosecond => 1,
        };
        if let Some(span) = call.spans.iter().find(|s| matches!(s, Span::Fixed(ns) if ns % resolution != 0)) {
            return Err(err!(
                IllegalTypeOfArgument,
                "a window of {span} over {time} is finer than its type, which counts in {unit:?}s; \
                 use a longer window or datetime64 with more digits"
            ));
        }
        let spec = WindowSpec { kind, zone };
        spec.check().map_err(|reason| err!(BadArguments, "{}: {reason}", call.function))?;
        let node = Self::new(input, time, spec).map_err(super::errors::from_datafusion)?;
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    fn new(input: LogicalPlan, time: Expr, spec: WindowSpec) -> DfResult<Self> {
        let bound = time.to_field(input.schema())?.1;
        let mut fields: Vec<_> = input.schema().iter().map(|(q, f)| (q.cloned(), f.clone())).collect();
        for name in [WINDOW_START, WINDOW_END] {
            let field = Field::new(name, bound.data_type().clone(), false);
            fields.push((None, Arc::new(field.with_metadata(bound.metadata().clone()))));
        }
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?;
        Ok(WindowTable { input, time, spec, schema: Arc::new(schema) })
    }

    /// The node of a plan, if it is one.
    pub fn of(plan: &LogicalPlan) -> Option<&WindowTable> {
        let LogicalPlan::Extension(e) = plan else { return None };
        e.node.as_any().downcast_ref()
    }

    /// The same rows in a bounded query.
    pub fn expand(&self) -> DfResult<LogicalPlan> {
        let input = self.input.schema();
        let bound = self.schema.field(input.fields().len()).clone();
        let told = FieldMetadata::from(bound.metadata().clone());
        let own = || -> Vec<Expr> {
            input.iter().map(|(q, f)| Expr::Column(Column::new(q.cloned(), f.name()))).collect()
        };
        let named = |e: Expr, name: &str| e.alias_with_metadata(name, Some(told.clone()));
        if let WindowKind::Tumble { .. } = self.spec.kind {
            let bound_of = |end| {
                let f = Bound { spec: self.spec, end, signature: signature() };
                ScalarUDF::new_from_impl(f).call(vec![self.time.clone()])
            };
            let mut all = own();
            all.push(named(bound_of(false), WINDOW_START));
            all.push(named(bound_of(true), WINDOW_END));
            return LogicalPlanBuilder::from(self.input.clone()).project(all)?.build();
        }
        const LIST: &str = "\u{1}windows";
        let windows = ScalarUDF::new_from_impl(Windows { spec: self.spec, signature: signature() });
        let mut all = own();
        all.push(windows.call(vec![self.time.clone()]).alias(LIST));
        let each = Expr::Column(Column::new_unqualified(LIST));
        let part = |name: &str| super::cast::not_null(get_field(each.clone(), name));
        let mut picked = own();
        picked.push(named(part(WINDOW_START), WINDOW_START));
        picked.push(named(part(WINDOW_END), WINDOW_END));
        LogicalPlanBuilder::from(self.input.clone())
            .project(all)?
            .unnest_column(Column::new_unqualified(LIST))?
            .project(picked)?
            .build()
    }
}

impl PartialEq for WindowTable {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.time == other.time && self.spec == other.spec
    }
}
impl Eq for WindowTable {}
impl PartialOrd for WindowTable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other { Some(Ordering::Equal) } else { self.input.partial_cmp(&other.input) }
    }
}
impl Hash for WindowTable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.time.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for WindowTable {
    fn name(&self) -> &str {
        "WindowTable"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![self.time.clone()]
    }
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        [WINDOW_START, WINDOW_END].map(str::to_owned).into()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowTable: {} over {}", self.spec, self.time)
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let (Some(time), Some(input)) = (exprs.pop(), inputs.pop()) else {
            return Err(external(err!(LogicalError, "a window lost its input")));
        };
        Self::new(input, time, self.spec)
    }
    fn necessary_children_exprs(&self, columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let own = self.input.schema().fields().len();
        Some(vec![columns.iter().copied().filter(|c| *c < own).collect()])
    }
}

fn signature() -> Signature {
    Signature::any(1, Volatility::Immutable)
}

/// Times in nanoseconds, as the stream's operators count them.
fn nanos(args: &ScalarFunctionArgs) -> DfResult<(Vec<i64>, DataType)> {
    let array = args.args[0].to_array(args.number_rows)?;
    if array.null_count() > 0 {
        return Err(external(err!(
            BadArguments,
            "a row has no event time (NULL); filter such rows out before the window"
        )));
    }
    let DataType::Timestamp(unit, _) = array.data_type() else {
        return Err(external(err!(
            IllegalTypeOfArgument,
            "a window is over a time, not {}",
            array.data_type()
        )));
    };
    let scale = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    let plain = cast(&array, &DataType::Int64)?;
    let values = plain.as_primitive::<datafusion::arrow::datatypes::Int64Type>().values();
    Ok((values.iter().map(|v| v.saturating_mul(scale)).collect(), array.data_type().clone()))
}

fn times(values: Vec<i64>, like: &DataType) -> DfResult<ArrayRef> {
    let DataType::Timestamp(unit, zone) = like else { unreachable!("checked on the way in") };
    let scale = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => {
            let array = TimestampNanosecondArray::from(values).with_timezone_opt(zone.clone());
            return Ok(Arc::new(array));
        }
    };
    let units = datafusion::arrow::array::Int64Array::from_iter_values(
        values.into_iter().map(|v| v.div_euclid(scale)),
    );
    Ok(cast(&(Arc::new(units) as ArrayRef), like)?)
}

/// One bound of the tumble window of a time.
#[derive(Debug)]
struct Bound {
    spec: WindowSpec,
    end: bool,
    signature: Signature,
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec && self.end == other.end
    }
}
impl Eq for Bound {}
impl Hash for Bound {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.spec.to_string(), self.end).hash(state);
    }
}

fn bound_field(args: &ReturnFieldArgs<'_>) -> FieldRef {
    let of = &args.arg_fields[0];
    Arc::new(Field::new("bound", of.data_type().clone(), false).with_metadata(of.metadata().clone()))
}

impl ScalarUDFImpl for Bound {
    fn name(&self) -> &str {
        if self.end { "_window_end" } else { "_window_start" }
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(types[0].clone())
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        Ok(bound_field(&args))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let (at, t) = nanos(&args)?;
        let (mut start, mut end) = (0, 0);
        let bounds = at
            .into_iter()
            .map(|at| {
                if at < start || at >= end {
                    self.spec.windows_of(at, |s, e| (start, end) = (s, e));
                }
                if self.end { end } else { start }
            })
            .collect();
        Ok(ColumnarValue::Array(times(bounds, &t)?))
    }
}

/// All windows of a time.
#[derive(Debug)]
struct Windows {
    spec: WindowSpec,
    signature: Signature,
}

impl PartialEq for Windows {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}
impl Eq for Windows {}
impl Hash for Windows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.to_string().hash(state);
    }
}

fn pair(t: &DataType) -> Fields {
    vec![Field::new(WINDOW_START, t.clone(), false), Field::new(WINDOW_END, t.clone(), false)].into()
}

impl ScalarUDFImpl for Windows {
    fn name(&self) -> &str {
        "_windows"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Struct(pair(&types[0])), false))))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let (at, t) = nanos(&args)?;
        let (mut starts, mut ends, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(at.len()));
        for at in at {
            let before = starts.len();
            self.spec.windows_of(at, |s, e| {
                starts.push(s);
                ends.push(e);
            });
            lengths.push(starts.len() - before);
        }
        let pairs = StructArray::try_new(pair(&t), vec![times(starts, &t)?, times(ends, &t)?], None)?;
        let item = Arc::new(Field::new_list_field(pairs.data_type().clone(), false));
        let list = ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(pairs), None)?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}

/// The time a window is over where none is named.
pub(crate) fn default_time() -> Ast {
    Ast::Identifier(sqlparser::ast::Ident::new(EVENT_TIME))
}

/// Which bound of a window a column of `plan` is.
pub(crate) fn bound_of(plan: &LogicalPlan, column: usize) -> Option<bool> {
    match plan {
        LogicalPlan::SubqueryAlias(a) => bound_of(&a.input, column),
        LogicalPlan::Filter(f) => bound_of(&f.input, column),
        LogicalPlan::Projection(p) => {
            let mut e = p.expr.get(column)?;
            while let Expr::Alias(a) = e {
                e = &a.expr;
            }
            let Expr::Column(c) = e else { return None };
            bound_of(&p.input, p.input.schema().maybe_index_of_column(c)?)
        }
        other => {
            let window = WindowTable::of(other)?;
            match column.checked_sub(window.input.schema().fields().len())? {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            }
        }
    }
}
