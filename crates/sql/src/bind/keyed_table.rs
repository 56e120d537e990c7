//! `changelog(s, key, … [, version] [, drop_late_rows])`: a node of the logical plan, and what it becomes
//! where the query is bounded.
//!
//! Each row takes back the last one of its key. Unbounded, `stream` lowers the node; bounded, it is what
//! the changelog comes to: the last row of each key in log order, with weight 1.

use super::cast::not_null;
use super::errors::external;
use super::window_table::{argument, relation};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result as DfResult};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::FieldMetadata;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, Extension, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, cast, lit,
};
use sqlparser::ast::{Expr as Ast, FunctionArg, TableFactor, Value};
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_format::types::Type;
use weir_plan::WEIGHT_COLUMN;

/// A call in FROM, before names are known.
#[derive(Debug, Clone)]
pub(crate) struct KeyedCall {
    /// What is read.
    pub of: TableFactor,
    pub keys: Vec<Ast>,
    /// Rows behind it are dropped.
    pub version: Option<Ast>,
}

fn boolean(e: &Ast) -> Option<bool> {
    match e {
        Ast::Value(v) => match &v.value {
            Value::Boolean(b) => Some(*b),
            _ => None,
        },
        _ => None,
    }
}

impl KeyedCall {
    pub fn parse(args: &[FunctionArg]) -> Result<Self, Error> {
        let wanted = || {
            err!(
                NumberOfArguments,
                "changelog is written changelog(stream, key[, key …][, version][, drop_late_rows])"
            )
        };
        let mut all: Vec<&Ast> =
            args.iter().map(|a| argument(a).ok_or_else(wanted)).collect::<Result<_, _>>()?;
        let dropping = all.last().and_then(|e| boolean(e));
        if dropping.is_some() {
            all.pop();
        }
        let (of, keys) = all.split_first().ok_or_else(wanted)?;
        let of = relation(of).ok_or_else(|| {
            err!(IncorrectQuery, "changelog reads a stream, a view, table(stream) or a subquery, not {of}")
        })?;
        let mut keys: Vec<Ast> = keys.iter().map(|e| (*e).clone()).collect();
        // The event time is no key.
        let timed = matches!(keys.last(), Some(Ast::Identifier(i)) if i.value == "_tp_time");
        let version = if keys.len() > 1 && (dropping.is_some() || timed) { keys.pop() } else { None };
        if dropping == Some(true) && version.is_none() {
            return Err(err!(
                BadArguments,
                "changelog with drop_late_rows needs a version to know which rows are late: changelog(stream, key, version, true)"
            ));
        }
        if keys.is_empty() {
            return Err(wanted());
        }
        Ok(KeyedCall { of, keys, version: version.filter(|_| dropping == Some(true)) })
    }
}

/// Rows with their weight, the last one of each key taken back by the next.
#[derive(Debug, Clone)]
pub(crate) struct KeyedTable {
    pub input: LogicalPlan,
    pub keys: Vec<Expr>,
    pub version: Option<Expr>,
    schema: DFSchemaRef,
}

impl KeyedTable {
    pub fn new(input: LogicalPlan, keys: Vec<Expr>, version: Option<Expr>) -> DfResult<Self> {
        Self::weightless(&input)?;
        let mut fields: Vec<_> = input.schema().iter().map(|(q, f)| (q.cloned(), f.clone())).collect();
        fields.push((None, Arc::new(Type::Int8.field(WEIGHT_COLUMN))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(KeyedTable { input, keys, version, schema })
    }

    /// # Errors
    /// Code 80: the rows have a weight.
    pub fn weightless(input: &LogicalPlan) -> DfResult<()> {
        if input.schema().fields().iter().any(|f| f.name() == WEIGHT_COLUMN) {
            return Err(external(err!(
                IncorrectQuery,
                "changelog() over rows that have a weight ({WEIGHT_COLUMN}) already; read the stream itself"
            )));
        }
        Ok(())
    }

    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The node of a plan, if it is one.
    pub fn of(plan: &LogicalPlan) -> Option<&KeyedTable> {
        let LogicalPlan::Extension(e) = plan else { return None };
        e.node.as_any().downcast_ref()
    }

    /// The rows that are there in the end, in a bounded query: `input` says of each row where it lies in
    /// the log (`place`), `shown` are the columns that stay.
    pub fn bounded(
        input: LogicalPlan,
        keys: Vec<Expr>,
        version: Option<Expr>,
        shown: Vec<Expr>,
    ) -> DfResult<LogicalPlan> {
        const NUMBER: &str = "\u{1}newest";
        let place = |name: &str| -> DfResult<Expr> {
            let at = input.schema().iter().find(|(_, f)| f.name() == name);
            at.map(|field| Expr::Column(field.into())).ok_or_else(|| {
                external(err!(
                    NotImplemented,
                    "changelog takes rows in log order, which rows of a view or subquery over table(…) do not say; \
                     read changelog(table(stream), key)"
                ))
            })
        };
        let newest_first = version
            .into_iter()
            .map(Ok)
            .chain(VIRTUAL_PLACE.iter().map(|name| place(name)))
            .map(|e| e.map(|e| e.sort(false, false)))
            .collect::<DfResult<Vec<_>>>()?;
        let number = row_number().partition_by(keys).order_by(newest_first).build()?;
        let input = LogicalPlanBuilder::from(input).window(vec![number.alias(NUMBER)])?;
        let first = cast(Expr::Column(Column::new_unqualified(NUMBER)), DataType::UInt64).eq(lit(1u64));
        let told = FieldMetadata::from(Type::Int8.field(WEIGHT_COLUMN).metadata().clone());
        let weight = not_null(lit(1i8)).alias_with_metadata(WEIGHT_COLUMN, Some(told));
        input.filter(first)?.project(shown.into_iter().chain([weight]))?.build()
    }
}

/// Log order.
const VIRTUAL_PLACE: [&str; 3] = ["_tp_append_time", "_tp_shard", "_tp_sn"];

impl PartialEq for KeyedTable {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input && self.keys == other.keys && self.version == other.version
    }
}
impl Eq for KeyedTable {}
impl PartialOrd for KeyedTable {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        if self == other { Some(std::cmp::Ordering::Equal) } else { self.input.partial_cmp(&other.input) }
    }
}
impl Hash for KeyedTable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.keys.hash(state);
        self.version.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for KeyedTable {
    fn name(&self) -> &str {
        "Changelog"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().chain(&self.version).cloned().collect()
    }
    /// Which row is the last of its key may change with every row that is left out below.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "Changelog: {}", keys.join(", "))
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let input = inputs.pop().ok_or_else(|| external(err!(LogicalError, "changelog lost its input")))?;
        let version = if self.version.is_some() { exprs.pop() } else { None };
        Self::new(input, exprs, version)
    }
    fn necessary_children_exprs(&self, columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let own = self.input.schema().fields().len();
        Some(vec![columns.iter().copied().filter(|c| *c < own).collect()])
    }
}
