//! `tumble(s, …)`, `hop(s, …)` and `session(s, …)`: a node of the logical plan, and what it becomes
//! where the query is bounded.
//!
//! The node gives its input's columns, then `window_start` and `window_end`, each row once for
//! every window it lies in. Unbounded, `stream` lowers it; bounded, it is a projection, of sessions
//! one over a window function (`session`).

use super::errors::external;
use super::spell;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, TimestampNanosecondArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
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
use weir_plan::{Brackets, CalendarUnit, SessionSpec, Span, WindowKind, WindowSpec};

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
    /// Of a session: which rows start and end it.
    pub conditions: Option<(Brackets, Ast, Ast)>,
    /// The query's PARTITION BY.
    pub partition: Vec<Ast>,
}

pub(super) fn argument(a: &FunctionArg) -> Option<&Ast> {
    match a {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
        _ => None,
    }
}

pub(super) fn span(e: &Ast) -> Result<Option<Span>, Error> {
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
            "session" => "session(stream[, time], idle[, max_length][, [start_condition, end_condition]])",
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
        let (mut zone, mut conditions) = (None, None);
        let fits = match function {
            "session" => {
                conditions = session_conditions(rest).ok_or_else(wanted)?;
                matches!(spans.len(), 1 | 2)
            }
            _ => {
                if let Some((first, after)) = rest.split_first() {
                    zone = Some(spell::literal_text(first).ok_or_else(wanted)?);
                    rest = after;
                }
                rest.is_empty() && spans.len() == if function == "tumble" { 1 } else { 2 }
            }
        };
        if !fits {
            return Err(wanted());
        }
        Ok(WindowCall {
            function: function.to_owned(),
            of,
            time,
            spans,
            zone,
            conditions,
            partition: Vec::new(),
        })
    }

    /// Expressions besides the time.
    pub fn conditions(&self) -> impl Iterator<Item = &Ast> {
        self.conditions.iter().flat_map(|(_, start, end)| [start, end])
    }

    fn kind(&self) -> Result<WindowKind, Error> {
        Ok(match (self.function.as_str(), self.spans.as_slice()) {
            ("session", [idle, rest @ ..]) => WindowKind::Session(SessionSpec {
                idle_ns: gap(*idle)?,
                max_len_ns: rest.first().map(|s| gap(*s)).transpose()?,
                conditions: self.conditions.as_ref().map(|(brackets, ..)| *brackets),
            }),
            (_, [size]) => WindowKind::Tumble { size: *size },
            (_, [slide, size]) => WindowKind::Hop { slide: *slide, size: *size },
            _ => unreachable!("counted when parsed"),
        })
    }
}

/// What stands behind the lengths of a session: nothing, `_session_range('[)', a, b)`, or `a, b`, which
/// is `[a, b]`.
#[allow(clippy::type_complexity)]
fn session_conditions(rest: &[&Ast]) -> Option<Option<(Brackets, Ast, Ast)>> {
    match rest {
        [] => Some(None),
        [Ast::Function(f)] if f.name.to_string() == crate::parse::reserved::SESSION_RANGE => {
            let sqlparser::ast::FunctionArguments::List(list) = &f.args else { return None };
            let args: Vec<&Ast> = list.args.iter().filter_map(argument).collect();
            let [brackets, start, end] = args.as_slice() else { return None };
            let brackets = spell::literal_text(brackets)?;
            let brackets = Brackets { start_in: brackets.starts_with('['), end_in: brackets.ends_with(']') };
            Some(Some((brackets, (*start).clone(), (*end).clone())))
        }
        [start, end] => {
            let brackets = Brackets { start_in: true, end_in: true };
            Some(Some((brackets, (*start).clone(), (*end).clone())))
        }
        _ => None,
    }
}

/// A length that is no piece of a calendar: days and weeks have 24 hours each day.
fn gap(span: Span) -> Result<i64, Error> {
    const DAY_NS: i64 = 86_400_000_000_000;
    match span {
        Span::Fixed(ns) => Ok(ns),
        Span::Calendar(CalendarUnit::Day, n) => Ok(i64::from(n).saturating_mul(DAY_NS)),
        Span::Calendar(CalendarUnit::Week, n) => Ok(i64::from(n).saturating_mul(7 * DAY_NS)),
        Span::Calendar(CalendarUnit::Month, _) => Err(err!(
            IllegalTypeOfArgument,
            "{span} is no fixed length; a session's gap and greatest length have units up to weeks"
        )),
    }
}

/// An argument as what can stand in FROM.
pub(super) fn relation(e: &Ast) -> Option<TableFactor> {
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
    /// Of a session: which rows start and end it.
    pub conditions: Option<(Expr, Expr)>,
    /// Of a session: what rows are grouped by; `None` as long as no aggregation has claimed it.
    pub keys: Option<Vec<Expr>>,
    /// Columns whose values have a watermark each; none = one for all rows.
    pub partition: Vec<Expr>,
    pub(super) schema: DFSchemaRef,
}

impl WindowTable {
    /// # Errors
    /// Code 36 for windows that mean nothing, 43 for a time that is none or too coarse.
    pub fn plan(
        input: LogicalPlan,
        time: Expr,
        conditions: Option<(Expr, Expr)>,
        partition: Vec<Expr>,
        call: &WindowCall,
    ) -> Result<LogicalPlan, Error> {
        let (input, time) = shadowed(input, time).map_err(super::errors::from_datafusion)?;
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
        let kind = call.kind()?;
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
        Self::new(input, time, spec, conditions, None, partition)
            .map(WindowTable::into_plan)
            .map_err(super::errors::from_datafusion)
    }

    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The same of a session that is cut by keys.
    pub fn with_keys(&self, keys: Vec<Expr>) -> Self {
        WindowTable { keys: Some(keys), ..self.clone() }
    }

    pub fn is_session(&self) -> bool {
        matches!(self.spec.kind, WindowKind::Session(_))
    }

    /// Whether a column is one of the bounds.
    pub fn is_bound(&self, column: &Column) -> bool {
        let at = self.schema.maybe_index_of_column(column);
        at.is_some_and(|at| at >= self.input.schema().fields().len())
    }

    fn new(
        input: LogicalPlan,
        time: Expr,
        spec: WindowSpec,
        conditions: Option<(Expr, Expr)>,
        keys: Option<Vec<Expr>>,
        partition: Vec<Expr>,
    ) -> DfResult<Self> {
        let bound = time.to_field(input.schema())?.1;
        let mut fields: Vec<_> = input.schema().iter().map(|(q, f)| (q.cloned(), f.clone())).collect();
        for name in [WINDOW_START, WINDOW_END] {
            let field = Field::new(name, bound.data_type().clone(), false);
            fields.push((None, Arc::new(field.with_metadata(bound.metadata().clone()))));
        }
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?;
        Ok(WindowTable { input, time, spec, conditions, keys, partition, schema: Arc::new(schema) })
    }

    /// The same windows over an input with more columns behind.
    pub fn over(&self, input: LogicalPlan) -> DfResult<LogicalPlan> {
        let (time, conditions, keys) = (self.time.clone(), self.conditions.clone(), self.keys.clone());
        Self::new(input, time, self.spec, conditions, keys, self.partition.clone()).map(Self::into_plan)
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
        if let WindowKind::Session(spec) = self.spec.kind {
            let (plan, [start, end]) = super::session::expand(self, spec)?;
            let mut all = own();
            all.push(named(start, WINDOW_START));
            all.push(named(end, WINDOW_END));
            return LogicalPlanBuilder::from(plan).project(all)?.build();
        }
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
        self.input == other.input
            && self.time == other.time
            && self.spec == other.spec
            && self.conditions == other.conditions
            && self.keys == other.keys
            && self.partition == other.partition
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
        let conditions = self.conditions.iter().flat_map(|(start, end)| [start, end]);
        let own = std::iter::once(&self.time).chain(conditions).chain(&self.partition);
        own.chain(self.keys.iter().flatten()).cloned().collect()
    }
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        [WINDOW_START, WINDOW_END].map(str::to_owned).into()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowTable: {} over {}", self.spec, self.time)
    }
    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let lost = || external(err!(LogicalError, "a window lost its input"));
        let mut exprs = exprs.into_iter();
        let (time, input) = (exprs.next().ok_or_else(lost)?, inputs.pop().ok_or_else(lost)?);
        let conditions = match &self.conditions {
            None => None,
            Some(_) => Some((exprs.next().ok_or_else(lost)?, exprs.next().ok_or_else(lost)?)),
        };
        let partition = exprs.by_ref().take(self.partition.len()).collect();
        let keys = self.keys.as_ref().map(|_| exprs.collect());
        Self::new(input, time, self.spec, conditions, keys, partition)
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
    nanos_of(&args.args[0].to_array(args.number_rows)?)
}

pub(super) fn nanos_of(array: &ArrayRef) -> DfResult<(Vec<i64>, DataType)> {
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
    let plain = cast(array, &DataType::Int64)?;
    let values = plain.as_primitive::<datafusion::arrow::datatypes::Int64Type>().values();
    Ok((values.iter().map(|v| v.saturating_mul(scale)).collect(), array.data_type().clone()))
}

pub(super) fn times(values: Vec<i64>, like: &DataType) -> DfResult<ArrayRef> {
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

pub(super) fn pair(t: &DataType) -> Fields {
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

/// Columns of windows below go under other names: `window_start` is that of the window above.
fn shadowed(input: LogicalPlan, time: Expr) -> DfResult<(LogicalPlan, Expr)> {
    let hidden = |name: &str| [WINDOW_START, WINDOW_END].contains(&name).then(|| format!("\u{1}{name}"));
    if input.schema().fields().iter().all(|f| hidden(f.name()).is_none()) {
        return Ok((input, time));
    }
    let all: Vec<Expr> = input
        .schema()
        .columns()
        .into_iter()
        .map(|c| match hidden(&c.name) {
            Some(name) => Expr::Column(c).alias(name),
            None => Expr::Column(c),
        })
        .collect();
    let time = time.transform(|e| {
        Ok(match &e {
            Expr::Column(c) => match hidden(&c.name) {
                Some(name) => Transformed::yes(Expr::Column(Column::new_unqualified(name))),
                None => Transformed::no(e),
            },
            _ => Transformed::no(e),
        })
    })?;
    Ok((LogicalPlanBuilder::from(input).project(all)?.build()?, time.data))
}

/// The time a window is over where none is named: a window's row is dated by its start.
pub(crate) fn default_time(schema: &DFSchema) -> Ast {
    let has = |name: &str| schema.fields().iter().any(|f| f.name() == name);
    let dated = !has(EVENT_TIME) && has(WINDOW_START);
    Ast::Identifier(sqlparser::ast::Ident::new(if dated { WINDOW_START } else { EVENT_TIME }))
}

/// Which bound of a window a column of `plan` is.
pub(crate) fn bound_of(plan: &LogicalPlan, column: usize) -> Option<bool> {
    let (window, at) = window_column(plan, column)?;
    match at.checked_sub(window.input.schema().fields().len())? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// The window that a plan's column comes from as it is, and which column of its it is.
pub(crate) fn window_column(plan: &LogicalPlan, column: usize) -> Option<(&WindowTable, usize)> {
    match plan {
        LogicalPlan::SubqueryAlias(a) => window_column(&a.input, column),
        LogicalPlan::Filter(f) => window_column(&f.input, column),
        LogicalPlan::Projection(p) => {
            let mut e = p.expr.get(column)?;
            while let Expr::Alias(a) = e {
                e = &a.expr;
            }
            let Expr::Column(c) = e else { return None };
            window_column(&p.input, p.input.schema().maybe_index_of_column(c)?)
        }
        other => Some((WindowTable::of(other)?, column)),
    }
}

/// Which bound of its window a column of rows of an aggregation is.
pub(crate) fn bound_of_result(plan: &LogicalPlan, column: usize) -> Option<bool> {
    match plan {
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) => bound_of_result(plan.inputs()[0], column),
        LogicalPlan::Projection(p) => {
            let mut e = p.expr.get(column)?;
            while let Expr::Alias(a) = e {
                e = &a.expr;
            }
            let Expr::Column(c) = e else { return None };
            bound_of_result(&p.input, p.input.schema().maybe_index_of_column(c)?)
        }
        LogicalPlan::Aggregate(a) => {
            let mut e = a.group_expr.get(column)?;
            while let Expr::Alias(alias) = e {
                e = &alias.expr;
            }
            let Expr::Column(c) = e else { return None };
            bound_of(&a.input, a.input.schema().maybe_index_of_column(c)?)
        }
        _ => None,
    }
}
