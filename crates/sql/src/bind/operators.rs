//! Operators and types that mean something else here than in DataFusion: comparisons, access to
//! fields, minus, names of types.
//!
//! Not here: relations and functions (`context`).

use super::errors::external;
use super::{compare, spell, zone};
use datafusion::arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::functions_nested::expr_fn::{array_element, map_extract};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr, TypePlanner,
};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, GetFieldAccess, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit,
};
use sqlparser::ast::BinaryOperator;
use std::sync::Arc;
use weir_base::err;
use weir_format::types::{TYPE_KEY, Type};

/// Names of types: the field tells the Weir type always, so that casts can be recognised.
#[derive(Debug)]
pub(super) struct WeirTypes {
    /// Of times without one.
    pub time_zone: Option<Arc<str>>,
}

impl TypePlanner for WeirTypes {
    fn plan_type_field(&self, sql: &sqlparser::ast::DataType) -> DfResult<Option<FieldRef>> {
        let text = type_text(sql);
        let t = Type::parse(&text).map_err(|e| external(err!(UnknownType, "{e}")))?;
        let t = match &self.time_zone {
            Some(name) => zone::zoned(&t, name),
            None => t,
        };
        let mut metadata = t.field("").metadata().clone();
        metadata.insert(TYPE_KEY.to_owned(), t.to_string());
        Ok(Some(Arc::new(t.field("cast").with_metadata(metadata))))
    }
}

/// A type as written: `Display` of a custom type would quote or space it differently.
pub(crate) fn type_text(sql: &sqlparser::ast::DataType) -> String {
    match sql {
        sqlparser::ast::DataType::Custom(name, modifiers) => {
            let name: Vec<String> =
                name.0.iter().map(|p| p.as_ident().map_or(p.to_string(), |i| i.value.clone())).collect();
            let name = name.join(".");
            if modifiers.is_empty() { name } else { format!("{name}({})", modifiers.join(", ")) }
        }
        sqlparser::ast::DataType::DoublePrecision => "float64".to_owned(),
        other => other.to_string(),
    }
}

/// Operators that mean something else here than in DataFusion.
#[derive(Debug)]
pub(super) struct WeirPlanner {
    pub int_div: Option<Arc<ScalarUDF>>,
}

fn comparison(op: &BinaryOperator) -> Option<Operator> {
    Some(match op {
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        _ => return None,
    })
}

impl ExprPlanner for WeirPlanner {
    fn plan_binary_op(
        &self,
        raw: RawBinaryExpr,
        schema: &DFSchema,
    ) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = raw;
        if let Some(op) = comparison(&op) {
            let (left, right) = match (is_earliest(&left), is_earliest(&right)) {
                (true, false) => (least_like(&right, schema)?, right),
                (false, true) => {
                    let least = least_like(&left, schema)?;
                    (left, least)
                }
                _ => (left, right),
            };
            let (left, right) = compare::align(left, right, schema).map_err(external)?;
            return Ok(PlannerResult::Planned(compare::binary(left, op, right)));
        }
        match op {
            BinaryOperator::Plus | BinaryOperator::Minus => {
                let df = if op == BinaryOperator::Plus { Operator::Plus } else { Operator::Minus };
                if let Some(e) = compare::time_arithmetic(&left, df, &right, schema) {
                    return Ok(PlannerResult::Planned(e));
                }
            }
            BinaryOperator::MyIntegerDivide | BinaryOperator::DuckIntegerDivide => {
                if let Some(f) = &self.int_div {
                    let call = ScalarFunction::new_udf(f.clone(), vec![left, right]);
                    return Ok(PlannerResult::Planned(Expr::ScalarFunction(call)));
                }
            }
            BinaryOperator::And | BinaryOperator::Or => {
                let truth = |e: Expr| -> DfResult<Expr> {
                    let t = e.get_type(schema)?;
                    Ok(if super::widths::is_number(&t) {
                        compare::binary(e, Operator::NotEq, lit(ScalarValue::new_zero(&t)?))
                    } else {
                        e
                    })
                };
                return Ok(PlannerResult::Original(RawBinaryExpr {
                    left: truth(left)?,
                    right: truth(right)?,
                    op,
                }));
            }
            _ => {}
        }
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }

    /// `a[i]` and `m[k]` that find nothing give the type's default.
    fn plan_field_access(
        &self,
        raw: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> DfResult<PlannerResult<RawFieldAccessExpr>> {
        let RawFieldAccessExpr { expr, field_access } = raw;
        let t = expr.get_type(schema)?;
        let (found, item) = match (&t, &field_access) {
            (DataType::Map(entries, _), GetFieldAccess::NamedStructField { name }) => {
                (array_element(map_extract(expr.clone(), lit(name.clone())), lit(1i64)), value_field(entries))
            }
            (DataType::Map(entries, _), GetFieldAccess::ListIndex { key }) => {
                let key = match (&**key, key_field(entries)) {
                    (Expr::Literal(v, _), Some(k)) => lit(v.cast_to(k.data_type())?),
                    (k, _) => k.clone(),
                };
                (array_element(map_extract(expr.clone(), key), lit(1i64)), value_field(entries))
            }
            (DataType::List(item), GetFieldAccess::ListIndex { key }) => {
                (array_element(expr.clone(), (**key).clone()), Some(item.clone()))
            }
            _ => return Ok(PlannerResult::Original(RawFieldAccessExpr { expr, field_access })),
        };
        let nullable =
            item.as_ref().is_none_or(|i| i.is_nullable()) && !matches!(expr, Expr::ScalarFunction(_));
        Ok(PlannerResult::Planned(match item {
            Some(i) if !nullable && super::cast::default_value(i.data_type()).is_ok() => {
                super::cast::not_null(found)
            }
            _ => found,
        }))
    }

    /// `sum(x > 3)` counts: a bool is summed as uint8.
    fn plan_aggregate(
        &self,
        mut raw: datafusion::logical_expr::planner::RawAggregateExpr,
    ) -> DfResult<PlannerResult<datafusion::logical_expr::planner::RawAggregateExpr>> {
        if matches!(raw.func.name(), "sum" | "avg") {
            for a in &mut raw.args {
                if is_condition(a) {
                    let inner = std::mem::take(a);
                    *a = Expr::Cast(datafusion::logical_expr::expr::Cast::new(
                        Box::new(inner),
                        DataType::UInt8,
                    ));
                }
            }
        }
        Ok(PlannerResult::Original(raw))
    }
}

fn is_condition(e: &Expr) -> bool {
    match e {
        Expr::BinaryExpr(b) => comparison_or_logic(b.op),
        Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::InList(_)
        | Expr::Between(_)
        | Expr::Like(_) => true,
        Expr::Alias(a) => is_condition(&a.expr),
        _ => false,
    }
}

fn comparison_or_logic(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::And
            | Operator::Or
    )
}

fn key_field(entries: &FieldRef) -> Option<FieldRef> {
    match entries.data_type() {
        DataType::Struct(kv) => kv.first().cloned(),
        _ => None,
    }
}

fn value_field(entries: &FieldRef) -> Option<FieldRef> {
    match entries.data_type() {
        DataType::Struct(kv) => kv.get(1).cloned(),
        _ => None,
    }
}

fn is_earliest(e: &Expr) -> bool {
    matches!(e, Expr::ScalarFunction(f) if f.name() == spell::EARLIEST)
}

/// The least value of a time's type.
fn least_like(e: &Expr, schema: &DFSchema) -> DfResult<Expr> {
    Ok(lit(match e.get_type(schema)? {
        DataType::Timestamp(TimeUnit::Second, z) => ScalarValue::TimestampSecond(Some(i64::MIN), z),
        DataType::Timestamp(TimeUnit::Microsecond, z) => ScalarValue::TimestampMicrosecond(Some(i64::MIN), z),
        DataType::Timestamp(TimeUnit::Nanosecond, z) => ScalarValue::TimestampNanosecond(Some(i64::MIN), z),
        DataType::Timestamp(TimeUnit::Millisecond, z) => ScalarValue::TimestampMillisecond(Some(i64::MIN), z),
        other => {
            return Err(external(err!(
                IllegalTypeOfArgument,
                "earliest_ts() compares with a time such as _tp_time, not with {other}"
            )));
        }
    }))
}

/// Minus, until the type rules turn it into the planner's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Negate(pub Signature);

impl ScalarUDFImpl for Negate {
    fn name(&self) -> &str {
        spell::NEGATE
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match super::widths::negated(&types[0]) {
            Some(t) => Ok(t),
            None if matches!(types[0], DataType::Decimal128(..) | DataType::Null | DataType::Interval(_)) => {
                Ok(types[0].clone())
            }
            None => Err(external(err!(IllegalTypeOfArgument, "minus takes a number, not {}", types[0]))),
        }
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(external(err!(LogicalError, "minus was not planned")))
    }
}

/// `earliest_ts()` outside a comparison: the epoch's first moment that prints.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct EarliestTs {
    signature: Signature,
}

impl EarliestTs {
    pub fn new() -> Self {
        EarliestTs { signature: Signature::nullary(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for EarliestTs {
    fn name(&self) -> &str {
        spell::EARLIEST
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(Type::DateTime64(3, None).storage())
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::TimestampMillisecond(Some(0), Some("UTC".into()))))
    }
}
