//! Reads a column that a part was written without: as its default, else as NULL.

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
    replace_columns_with_literals,
};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct ColumnDefaults(pub Arc<HashMap<String, ScalarValue>>);

impl PhysicalExprAdapterFactory for ColumnDefaults {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let missing = self
            .0
            .iter()
            .filter(|(name, _)| physical.field_with_name(name).is_err())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let rest = DefaultPhysicalExprAdapterFactory.create(logical, physical)?;
        Ok(Arc::new(Adapter { missing, rest }))
    }
}

#[derive(Debug)]
struct Adapter {
    missing: HashMap<String, ScalarValue>,
    rest: Arc<dyn PhysicalExprAdapter>,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let missing: HashMap<&str, &ScalarValue> =
            self.missing.iter().map(|(name, value)| (name.as_str(), value)).collect();
        self.rest.rewrite(replace_columns_with_literals(expr, &missing)?)
    }
}
