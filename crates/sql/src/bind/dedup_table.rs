//! `dedup(s, key, … [, ttl] [, limit=n])`: a node of the logical plan, and what it becomes where the query
//! is bounded.
//!
//! The first row of each key stays. A key is forgotten a ttl after its row, in append time, and the
//! oldest goes when there is one more than the limit: both functions of the log, so that a stream and
//! a bounded query keep the same rows.
//!
//! Unbounded, `stream` lowers the node; bounded, it is a window function in log order and a filter.

use super::errors::external;
use super::log_order;
use super::spell;
use super::stateful::whole;
use super::window_table::{argument, relation, span};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimestampMicrosecondType};
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::{Column, DFSchemaRef, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    Expr, Extension, Filter, LogicalPlan, PartitionEvaluator, Projection, Signature, TypeSignature,
    UserDefinedLogicalNodeCore, Volatility, Window, WindowUDF, WindowUDFImpl,
};
use sqlparser::ast::{BinaryOperator, Expr as Ast, FunctionArg, FunctionArgExpr, TableFactor};
use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{DEDUP_KEYS_DEFAULT, Span};

/// A call in FROM, before names are known.
#[derive(Debug, Clone)]
pub(crate) struct DedupCall {
    /// What is read.
    pub of: TableFactor,
    pub keys: Vec<Ast>,
    pub ttl_us: Option<i64>,
    pub keys_max: u64,
}

impl DedupCall {
    pub fn parse(args: &[FunctionArg]) -> Result<Self, Error> {
        let wanted = || {
            err!(
                NumberOfArguments,
                "dedup is written dedup(stream, key[, key …][, ttl such as 120s][, limit=10000])"
            )
        };
        let mut all = args.iter();
        let of = all.next().and_then(argument).ok_or_else(wanted)?;
        let of = relation(of).ok_or_else(|| {
            err!(IncorrectQuery, "dedup reads a stream, a view, table(stream) or a subquery, not {of}")
        })?;
        let mut call = DedupCall { of, keys: Vec::new(), ttl_us: None, keys_max: DEDUP_KEYS_DEFAULT };
        let mut limited = false;
        for arg in all {
            if let Some(limit) = limit(arg) {
                if std::mem::replace(&mut limited, true) {
                    return Err(wanted());
                }
                call.keys_max =
                    whole(limit).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| {
                        err!(BadArguments, "the limit of dedup is a number of keys above 0, not {limit}")
                    })?;
                continue;
            }
            let e = argument(arg).ok_or_else(wanted)?;
            match span(e)? {
                None if call.ttl_us.is_none() && !limited => call.keys.push(e.clone()),
                Some(Span::Fixed(ns)) if call.ttl_us.is_none() => call.ttl_us = Some((ns / 1_000).max(1)),
                Some(Span::Calendar(weir_plan::CalendarUnit::Day, n)) if call.ttl_us.is_none() => {
                    call.ttl_us = Some(i64::from(n) * 86_400_000_000);
                }
                Some(Span::Calendar(weir_plan::CalendarUnit::Week, n)) if call.ttl_us.is_none() => {
                    call.ttl_us = Some(i64::from(n) * 7 * 86_400_000_000);
                }
                Some(Span::Calendar(..)) if call.ttl_us.is_none() => {
                    return Err(err!(
                        BadArguments,
                        "the ttl of dedup has a fixed length; write it in days or less"
                    ));
                }
                _ => return Err(wanted()),
            }
        }
        if call.keys.is_empty() {
            return Err(wanted());
        }
        Ok(call)
    }
}

/// `limit=n`, or a plain number.
fn limit(arg: &FunctionArg) -> Option<&Ast> {
    match arg {
        FunctionArg::Named { name, arg: FunctionArgExpr::Expr(e), .. }
            if name.value.eq_ignore_ascii_case("limit") =>
        {
            Some(e)
        }
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Ast::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        })) => {
            matches!(&**left, Ast::Identifier(i) if i.value.eq_ignore_ascii_case("limit")).then_some(&**right)
        }
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e @ Ast::Value(_)))
            if spell::literal_text(e).is_none() =>
        {
            Some(e)
        }
        _ => None,
    }
}

/// The first row of each key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct DedupTable {
    pub input: LogicalPlan,
    pub keys: Vec<Expr>,
    pub ttl_us: Option<i64>,
    /// `None` = all keys are remembered.
    pub keys_max: Option<u64>,
}

impl DedupTable {
    pub fn new(input: LogicalPlan, keys: Vec<Expr>, ttl_us: Option<i64>, keys_max: Option<u64>) -> Self {
        DedupTable { input, keys, ttl_us, keys_max }
    }

    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The node of a plan, if it is one.
    pub fn of(plan: &LogicalPlan) -> Option<&DedupTable> {
        let LogicalPlan::Extension(e) = plan else { return None };
        e.node.as_any().downcast_ref()
    }

    /// The same over an input with more columns behind.
    pub fn over(&self, input: LogicalPlan) -> LogicalPlan {
        DedupTable { input, ..self.clone() }.into_plan()
    }

    /// The same rows in a bounded query.
    pub fn expand(&self) -> DfResult<LogicalPlan> {
        let Some((input, order)) = log_order::with_place(&self.input)? else {
            return Err(external(err!(
                NotImplemented,
                "dedup takes rows in log order, and rows of {} have none; read a stream, a view or a subquery over one",
                log_order::what(&self.input)
            )));
        };
        let appended = order.first().map(|o| o.expr.clone()).filter(|e| is_append_time(e, &input));
        let mut args = match (self.ttl_us, appended) {
            (None, _) => Vec::new(),
            (Some(_), Some(e)) => vec![e],
            (Some(_), None) => {
                return Err(external(err!(
                    NotImplemented,
                    "the ttl of dedup counts append time, which results of windows have none of; leave the ttl out"
                )));
            }
        };
        args.extend(self.keys.iter().cloned());
        let udf = FirstOfKey {
            ttl_us: self.ttl_us,
            keys_max: self.keys_max,
            signature: Signature::one_of(vec![TypeSignature::VariadicAny], Volatility::Immutable),
        };
        let fun = WindowFunctionDefinition::WindowUDF(Arc::new(WindowUDF::new_from_impl(udf)));
        let mut first = WindowFunction::new(fun, args);
        first.params.order_by = order;
        const FIRST: &str = "\u{1}first";
        let first = Expr::WindowFunction(Box::new(first)).alias(FIRST);
        let window = LogicalPlan::Window(Window::try_new(vec![first], Arc::new(input))?);
        let kept = Filter::try_new(Expr::Column(Column::new_unqualified(FIRST)), Arc::new(window))?;
        let own = self.input.schema().columns().into_iter().map(Expr::Column).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(own, Arc::new(LogicalPlan::Filter(kept)))?))
    }
}

fn is_append_time(e: &Expr, plan: &LogicalPlan) -> bool {
    use datafusion::arrow::datatypes::TimeUnit;
    use datafusion::logical_expr::ExprSchemable;
    matches!(e.get_type(plan.schema()), Ok(DataType::Timestamp(TimeUnit::Microsecond, _)))
}

impl PartialOrd for DedupTable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other { Some(Ordering::Equal) } else { self.input.partial_cmp(&other.input) }
    }
}

impl UserDefinedLogicalNodeCore for DedupTable {
    fn name(&self) -> &str {
        "DedupTable"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }
    fn expressions(&self) -> Vec<Expr> {
        self.keys.clone()
    }
    /// Which row is the first may change with every row that is left out below.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.input.schema().fields().iter().map(|f| f.name().clone()).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "DedupTable: {}", keys.join(", "))
    }
    fn with_exprs_and_inputs(&self, keys: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let Some(input) = inputs.pop() else {
            return Err(external(err!(LogicalError, "dedup lost its input")));
        };
        Ok(DedupTable { input, keys, ..self.clone() })
    }
    fn necessary_children_exprs(&self, columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![columns.to_vec()])
    }
}

/// Whether a row is the first of its key. Arguments: the append time where there is a ttl, the keys.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FirstOfKey {
    ttl_us: Option<i64>,
    keys_max: Option<u64>,
    signature: Signature,
}

impl WindowUDFImpl for FirstOfKey {
    fn name(&self) -> &str {
        "first_of_key"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn field(&self, args: WindowUDFFieldArgs) -> DfResult<FieldRef> {
        Ok(Arc::new(Field::new(args.name(), DataType::Boolean, false)))
    }
    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> DfResult<Box<dyn PartitionEvaluator>> {
        let from = usize::from(self.ttl_us.is_some());
        let keys = args.input_fields()[from..].iter().map(|f| SortField::new(f.data_type().clone()));
        Ok(Box::new(Evaluator {
            converter: RowConverter::new(keys.collect())?,
            ttl_us: self.ttl_us,
            keys_max: self.keys_max.map_or(usize::MAX, |n| n as usize),
            known: HashSet::new(),
            oldest_first: VecDeque::new(),
        }))
    }
}

#[derive(Debug)]
struct Evaluator {
    converter: RowConverter,
    ttl_us: Option<i64>,
    keys_max: usize,
    known: HashSet<Arc<OwnedRow>>,
    oldest_first: VecDeque<(Arc<OwnedRow>, i64)>,
}

impl Evaluator {
    fn first(&mut self, values: &[ArrayRef]) -> DfResult<BooleanArray> {
        let from = usize::from(self.ttl_us.is_some());
        let times = self.ttl_us.map(|_| values[0].as_primitive::<TimestampMicrosecondType>());
        let rows = self.converter.convert_columns(&values[from..])?;
        let mut first = Vec::with_capacity(rows.num_rows());
        for (i, row) in rows.iter().enumerate() {
            let at = times.map_or(0, |t| t.value(i));
            let key = Arc::new(row.owned());
            while let Some((_, came)) = self.oldest_first.front()
                && self.ttl_us.is_some_and(|ttl| at.saturating_sub(*came) >= ttl)
            {
                self.forget_oldest();
            }
            let new = !self.known.contains(&key);
            if new {
                if self.oldest_first.len() >= self.keys_max {
                    self.forget_oldest();
                }
                self.known.insert(key.clone());
                self.oldest_first.push_back((key, at));
            }
            first.push(Some(new));
        }
        Ok(first.into())
    }

    fn forget_oldest(&mut self) {
        if let Some((key, _)) = self.oldest_first.pop_front() {
            self.known.remove(&key);
        }
    }
}

impl PartitionEvaluator for Evaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], _: usize) -> DfResult<ArrayRef> {
        Ok(Arc::new(self.first(values)?))
    }
    /// Called for each row, in order.
    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> DfResult<ScalarValue> {
        let row: Vec<ArrayRef> = values.iter().map(|v| v.slice(range.start, 1)).collect();
        Ok(ScalarValue::Boolean(Some(self.first(&row)?.value(0))))
    }
    fn supports_bounded_execution(&self) -> bool {
        true
    }
    fn is_causal(&self) -> bool {
        true
    }
}
