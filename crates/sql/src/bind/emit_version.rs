//! `emit_version()`: which emission of a streaming aggregation a row belongs to, from 0.
//!
//! Planned as an aggregate without arguments, since it means something beside aggregates only; the
//! stream plan counts result sets (`stream::aggregate`), nothing is ever accumulated.

use super::errors::external;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, Signature, Volatility,
};
use std::sync::Arc;
use weir_base::err;
use weir_format::types::Type;

pub(crate) const EMIT_VERSION: &str = "emit_version";

#[derive(Debug, PartialEq, Eq, Hash)]
struct EmitVersion(Signature);

impl AggregateUDFImpl for EmitVersion {
    fn name(&self) -> &str {
        EMIT_VERSION
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Int64)
    }
    fn return_field(&self, _: &[FieldRef]) -> DfResult<FieldRef> {
        Ok(Arc::new(Type::Int64.field(EMIT_VERSION)))
    }
    fn accumulator(&self, _: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        Err(external(err!(LogicalError, "emit_version() is counted, not accumulated")))
    }
    fn state_fields(&self, _: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        Ok(Vec::new())
    }
}

pub(crate) fn function() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(EmitVersion(Signature::nullary(Volatility::Volatile))))
}

/// Whether an item of an aggregation is it.
pub(crate) fn is_emit_version(e: &Expr) -> bool {
    match e {
        Expr::Alias(a) => is_emit_version(&a.expr),
        Expr::AggregateFunction(f) => f.func.name() == EMIT_VERSION,
        _ => false,
    }
}

/// Whether a plan asks for it anywhere.
pub(crate) fn occurs(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let _ = plan.apply_with_subqueries(|p| {
        for e in p.expressions() {
            let _ = e.apply(|e| {
                found |= is_emit_version(e);
                Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            });
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}
