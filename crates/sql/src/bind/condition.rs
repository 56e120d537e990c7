//! Numbers as conditions: `WHERE active` means `active != 0`, also under AND, OR and NOT.
//!
//! What is written does not say whether `active` is a number, so such operands are marked on
//! the syntax tree and the mark is turned into a comparison, or dropped, once types are known.

use super::compare;
use super::errors::external;
use super::widths;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
    lit,
};
use sqlparser::ast::{BinaryOperator, Expr as Ast, UnaryOperator};
use weir_base::err;

/// Name of the mark.
pub(crate) const CONDITION: &str = "_condition";

/// Marks what may be a number where a condition is wanted.
pub(super) fn mark(e: &mut Ast) {
    match e {
        Ast::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or | BinaryOperator::Xor, right } => {
            mark(left);
            mark(right);
        }
        Ast::UnaryOp { op: UnaryOperator::Not, expr } | Ast::Nested(expr) => mark(expr),
        Ast::Identifier(_)
        | Ast::CompoundIdentifier(_)
        | Ast::Function(_)
        | Ast::Case { .. }
        | Ast::Cast { .. } => {
            wrap(e);
        }
        Ast::Value(v) if matches!(v.value, sqlparser::ast::Value::Number(..)) => wrap(e),
        Ast::BinaryOp {
            op:
                BinaryOperator::Plus
                | BinaryOperator::Minus
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Modulo,
            ..
        } => wrap(e),
        // Comparisons and the like are conditions already; anything else says so itself.
        _ => {}
    }
}

fn wrap(e: &mut Ast) {
    let inner =
        std::mem::replace(e, Ast::Wildcard(sqlparser::ast::helpers::attached_token::AttachedToken::empty()));
    *e = super::spell::call(CONDITION, vec![inner]);
}

/// The condition that a marked, typed operand stands for.
pub(super) fn settle(of: Expr, schema: &DFSchema) -> DfResult<Expr> {
    let t = of.get_type(schema)?;
    if !widths::is_number(&t) {
        return Ok(of);
    }
    let zero = lit(ScalarValue::new_zero(&t)?);
    Ok(compare::binary(of, Operator::NotEq, zero))
}

/// The mark, until [`settle`] takes it away.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition(Signature);

impl Default for Condition {
    fn default() -> Self {
        Condition(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Condition {
    fn name(&self) -> &str {
        CONDITION
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        match &types[0] {
            t if *t == DataType::Boolean || *t == DataType::Null || widths::is_number(t) => {
                Ok(DataType::Boolean)
            }
            t => Err(external(err!(
                IllegalTypeOfArgument,
                "a condition is a bool or a number, not {t}; compare it with something"
            ))),
        }
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(external(err!(LogicalError, "a condition was not planned")))
    }
}
