//! A changelog stream read as a table: a node of the logical plan, and the rows it becomes.
//!
//! Where rows are shown, they are shown as they lie, with their weights. Where anything above puts rows
//! together (an aggregation, DISTINCT, a join, a window function, a subquery in an expression), it gets
//! the rows that were not taken back, each once and with weight 1: what the weights would make of it in
//! a stream.
//!
//! A row that takes back takes the oldest one of its shard that equals it in every column, but for
//! its time and its place. Where nobody looks at time or place, it does not matter which one goes, and
//! equal rows are counted instead of put in order.

use super::cast::not_null;
use super::errors::external;
use super::window_table::WindowTable;
use datafusion::arrow::array::{AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result as DfResult};
use datafusion::functions_aggregate::expr_fn::{max, sum};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_nested::expr_fn::array_repeat;
use datafusion::logical_expr::expr::{FieldMetadata, WindowFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprFunctionExt, Extension, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, UserDefinedLogicalNodeCore, Volatility, WindowFrame,
    WindowFunctionDefinition, cast, lit, when,
};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use weir_base::err;
use weir_plan::WEIGHT_COLUMN;

const SHARD: &str = "_tp_shard";
const SN: &str = "_tp_sn";
/// Where a row stands, not what it is.
const PLACE: [&str; 4] = ["_tp_time", SHARD, SN, "_tp_append_time"];
const COUNT: &str = "\u{1}count";
const TOTAL: &str = "\u{1}total";
const NEWER: &str = "\u{1}newer";

/// Rows of a changelog stream, with the columns a query sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ChangelogTable {
    /// All columns of the stream, virtual ones too.
    input: LogicalPlan,
    shown: Vec<usize>,
    schema: DFSchemaRef,
}

impl ChangelogTable {
    /// `scan` gives all columns of a stream; `shown` are those the query sees.
    pub fn plan(scan: LogicalPlan, shown: Vec<usize>) -> DfResult<LogicalPlan> {
        let fields: Vec<_> = shown
            .iter()
            .map(|i| scan.schema().qualified_field(*i))
            .map(|(qualifier, field)| (qualifier.cloned(), field.clone()))
            .collect();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, scan.schema().metadata().clone())?);
        let node = ChangelogTable { input: scan, shown, schema };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    fn of(plan: &LogicalPlan) -> Option<&ChangelogTable> {
        let LogicalPlan::Extension(e) = plan else { return None };
        e.node.as_any().downcast_ref()
    }

    fn column(&self, at: usize) -> Expr {
        Expr::Column(self.input.schema().qualified_field(at).into())
    }

    /// The rows as they lie.
    fn raw(&self) -> DfResult<LogicalPlan> {
        let shown: Vec<Expr> = self.shown.iter().map(|i| self.column(*i)).collect();
        LogicalPlanBuilder::from(self.input.clone()).project(shown)?.build()
    }

    /// The rows that are there, where somebody looks at their places or not.
    fn living(&self, placed: bool) -> DfResult<LogicalPlan> {
        let schema = self.input.schema();
        let is = |i: usize, names: &[&str]| names.contains(&schema.field(i).name().as_str());
        let all = 0..schema.fields().len();
        let same: Vec<Expr> = all
            .clone()
            .filter(|i| !is(*i, &PLACE) && !is(*i, &[WEIGHT_COLUMN]))
            .map(|i| self.column(i))
            .collect();
        let named = |name: &str| {
            let at = schema.iter().position(|(_, f)| f.name() == name);
            at.map(|i| self.column(i)).ok_or_else(|| external(err!(LogicalError, "a changelog lost {name}")))
        };
        let weight = cast(named(WEIGHT_COLUMN)?, DataType::Int64);
        let plus = |name: &str| Expr::Column(Column::new_unqualified(name));
        let counted = |args: Vec<Expr>| {
            ScalarUDF::new_from_impl(Living(Signature::any(args.len(), Volatility::Immutable)))
                .call(args)
                .alias(COUNT)
        };
        let input = LogicalPlanBuilder::from(self.input.clone());
        let counts = if placed {
            let mut by = same;
            by.push(named(SHARD)?);
            let over = |value: Expr| {
                let all = WindowFunctionDefinition::AggregateUDF(sum_udaf());
                Expr::from(WindowFunction::new(all, vec![value])).partition_by(by.clone())
            };
            let total = over(weight.clone()).build()?.alias(TOTAL);
            let added = when(weight.clone().gt(lit(0i64)), weight.clone()).otherwise(lit(0i64))?;
            let newer = over(added)
                .order_by(vec![named(SN)?.sort(false, false)])
                .window_frame(WindowFrame::new(Some(true)))
                .build()?
                .alias(NEWER);
            let mut kept: Vec<Expr> = all.map(|i| self.column(i)).collect();
            kept.push(counted(vec![not_null(plus(TOTAL)), not_null(plus(NEWER)), weight]));
            input.window(vec![total])?.window(vec![newer])?.project(kept)?
        } else {
            let any = |i: usize| max(self.column(i)).alias(schema.field(i).name());
            let places: Vec<Expr> = self.shown.iter().filter(|i| is(**i, &PLACE)).map(|i| any(*i)).collect();
            let mut kept = same.clone();
            kept.extend(
                places.iter().map(|p| Expr::Column(Column::new_unqualified(p.schema_name().to_string()))),
            );
            kept.push(counted(vec![not_null(plus(TOTAL))]));
            let sums = std::iter::once(sum(weight).alias(TOTAL)).chain(places);
            input.aggregate(same, sums.collect::<Vec<_>>())?.project(kept)?
        };
        let often = cast(plus(COUNT), DataType::UInt64);
        const EACH: &str = "\u{1}each";
        let there = counts.filter(plus(COUNT).gt(lit(0i64)))?;
        let mut kept: Vec<Expr> = there.schema().columns().into_iter().map(Expr::Column).collect();
        kept.push(array_repeat(lit(1i8), often).alias(EACH));
        let each = there.project(kept)?.unnest_column(Column::new_unqualified(EACH))?;
        let told = |i: usize| Some(FieldMetadata::from(self.schema.field(i).metadata().clone()));
        let shown: Vec<Expr> = self
            .shown
            .iter()
            .enumerate()
            .map(|(at, i)| {
                let (qualifier, field) = schema.qualified_field(*i);
                if field.name() == WEIGHT_COLUMN {
                    let one = not_null(Expr::Column(Column::new_unqualified(EACH)));
                    return one.alias_with_metadata(field.name(), told(at)).qualified(qualifier);
                }
                if !placed && PLACE.contains(&field.name().as_str()) {
                    let any = not_null(Expr::Column(Column::new_unqualified(field.name())));
                    return any.alias_with_metadata(field.name(), told(at)).qualified(qualifier);
                }
                self.column(*i)
            })
            .collect();
        each.project(shown)?.build()
    }
}

/// An alias under the qualifier of the column it stands for.
trait Qualified {
    fn qualified(self, qualifier: Option<&datafusion::common::TableReference>) -> Expr;
}

impl Qualified for Expr {
    fn qualified(self, qualifier: Option<&datafusion::common::TableReference>) -> Expr {
        match self {
            Expr::Alias(mut alias) => {
                alias.relation = qualifier.cloned();
                Expr::Alias(alias)
            }
            other => other,
        }
    }
}

impl PartialOrd for ChangelogTable {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        if self == other { Some(std::cmp::Ordering::Equal) } else { self.input.partial_cmp(&other.input) }
    }
}

impl UserDefinedLogicalNodeCore for ChangelogTable {
    fn name(&self) -> &str {
        "ChangelogTable"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangelogTable")
    }
    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let input = inputs.pop().ok_or_else(|| external(err!(LogicalError, "a changelog lost its input")))?;
        Ok(ChangelogTable { input, ..self.clone() })
    }
}

/// Puts the rows of changelog streams in place of their nodes.
///
/// # Errors
/// 48 for a window over a changelog.
pub(super) fn without_changelogs(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let (mut found, mut placed) = (false, false);
    plan.apply_with_subqueries(|p| {
        found |= ChangelogTable::of(p).is_some();
        for e in p.expressions() {
            placed |= e.column_refs().iter().any(|c| PLACE.contains(&c.name.as_str()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if found { put(plan, true, placed) } else { Ok(plan) }
}

fn put(plan: LogicalPlan, shown: bool, placed: bool) -> DfResult<LogicalPlan> {
    if let Some(table) = ChangelogTable::of(&plan) {
        return if shown { table.raw() } else { table.living(placed) };
    }
    let shown = shown
        && matches!(
            plan,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Sort(_)
                | LogicalPlan::Limit(_)
                | LogicalPlan::Union(_)
        );
    if WindowTable::of(&plan).is_some() && plan.exists(|p| Ok(ChangelogTable::of(p).is_some()))? {
        return Err(external(err!(
            NotImplemented,
            "windows over a changelog are not supported: its rows are taken back; aggregate it without a window"
        )));
    }
    let plan = plan.map_subqueries(|p| Ok(Transformed::yes(put(p, false, placed)?)))?.data;
    let plan = plan.map_children(|p| Ok(Transformed::yes(put(p, shown, placed)?)))?.data;
    plan.recompute_schema()
}

/// How often a row is there: all its weights together; or, of them, the part of this row, where newer
/// rows keep theirs first.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Living(Signature);

impl ScalarUDFImpl for Living {
    fn name(&self) -> &str {
        "_living"
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = args.args.iter().map(|a| a.to_array(args.number_rows)).collect::<DfResult<Vec<_>>>()?;
        let all: Vec<&Int64Array> = arrays.iter().map(|a| a.as_primitive::<Int64Type>()).collect();
        if all[0].values().iter().any(|total| *total < 0) {
            return Err(external(err!(
                BadArguments,
                "a changelog takes back a row that is not there; insert a row before the one with _tp_delta -1 that takes it back"
            )));
        }
        let counts: Int64Array = match all.as_slice() {
            [totals] => (*totals).clone(),
            [totals, newer, weights] => (0..totals.len())
                .map(|i| {
                    let own = weights.value(i).max(0);
                    let left = totals.value(i) - (newer.value(i) - own);
                    left.clamp(0, own)
                })
                .collect::<Vec<_>>()
                .into(),
            _ => return Err(external(err!(LogicalError, "a row's number is counted from one or three"))),
        };
        Ok(ColumnarValue::Array(Arc::new(counts)))
    }
}
