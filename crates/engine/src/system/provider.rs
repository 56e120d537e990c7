//! A table whose rows are computed at each scan.

use super::{Compute, Context};
use arrow::array::{
    ArrayRef, Int64Array, ListBuilder, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
    UInt8Array, UInt64Array,
};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::fmt;
use std::sync::Arc;
use weir_base::{Result, err};
use weir_format::types::Type;

/// Columns of a small result, by name.
#[derive(Default)]
pub(crate) struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    fn add(mut self, name: &str, t: &Type, array: ArrayRef) -> Self {
        self.fields.push(t.field(name));
        self.arrays.push(array);
        self
    }
    pub fn text<S: AsRef<str>>(self, name: &str, values: impl IntoIterator<Item = S>) -> Self {
        // Into a list first: Arrow wants to know how many there are.
        let values: Vec<S> = values.into_iter().collect();
        let array = StringArray::from_iter_values(values.iter().map(AsRef::as_ref));
        self.add(name, &Type::String, Arc::new(array))
    }
    pub fn text_or_null(self, name: &str, values: impl IntoIterator<Item = Option<String>>) -> Self {
        let array: StringArray = values.into_iter().collect();
        self.add(name, &Type::String.into_nullable(), Arc::new(array))
    }
    pub fn flag(self, name: &str, values: impl IntoIterator<Item = bool>) -> Self {
        let array = UInt8Array::from_iter_values(values.into_iter().map(u8::from));
        self.add(name, &Type::UInt8, Arc::new(array))
    }
    pub fn uint(self, name: &str, values: impl IntoIterator<Item = u64>) -> Self {
        self.add(name, &Type::UInt64, Arc::new(UInt64Array::from_iter_values(values)))
    }
    pub fn uint_or_null(self, name: &str, values: impl IntoIterator<Item = Option<u64>>) -> Self {
        let array: UInt64Array = values.into_iter().collect();
        self.add(name, &Type::UInt64.into_nullable(), Arc::new(array))
    }
    pub fn int(self, name: &str, values: impl IntoIterator<Item = i64>) -> Self {
        self.add(name, &Type::Int64, Arc::new(Int64Array::from_iter_values(values)))
    }
    pub fn int_or_null(self, name: &str, values: impl IntoIterator<Item = Option<i64>>) -> Self {
        let array: Int64Array = values.into_iter().collect();
        self.add(name, &Type::Int64.into_nullable(), Arc::new(array))
    }
    pub fn float(self, name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let array = arrow::array::Float64Array::from_iter_values(values);
        self.add(name, &Type::Float64, Arc::new(array))
    }
    /// From milliseconds since the Unix epoch.
    pub fn time_ms(self, name: &str, values: impl IntoIterator<Item = i64>) -> Self {
        let array = arrow::array::TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC");
        self.add(name, &Type::DateTime64(3, Some("UTC".into())), Arc::new(array))
    }
    /// From nanoseconds since the Unix epoch; the end of time has no date.
    pub fn time_ns_or_null(self, name: &str, values: impl IntoIterator<Item = Option<i64>>) -> Self {
        let ms = |v: Option<i64>| v.filter(|ns| *ns != i64::MAX).map(|ns| ns.div_euclid(1_000_000));
        let array: arrow::array::TimestampMillisecondArray = values.into_iter().map(ms).collect();
        let t = Type::DateTime64(3, Some("UTC".into())).into_nullable();
        self.add(name, &t, Arc::new(array.with_timezone("UTC")))
    }
    pub fn uuid(self, name: &str, values: impl IntoIterator<Item = uuid::Uuid>) -> Self {
        let mut builder = arrow::array::FixedSizeBinaryBuilder::new(16);
        for value in values {
            builder.append_value(value.as_bytes()).expect("an id has 16 bytes");
        }
        self.add(name, &Type::Uuid, Arc::new(builder.finish()))
    }
    pub fn texts(self, name: &str, values: impl IntoIterator<Item = Vec<String>>) -> Self {
        let t = Type::Array(Box::new(Type::String));
        let mut builder = ListBuilder::new(StringBuilder::new()).with_field(Type::String.field("item"));
        for list in values {
            list.iter().for_each(|v| builder.values().append_value(v));
            builder.append(true);
        }
        self.add(name, &t, Arc::new(builder.finish()))
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.clone()))
    }

    /// # Errors
    /// `LogicalError` if the columns differ in length: a bug of the table.
    pub fn batch(self) -> Result<RecordBatch> {
        let rows = self.arrays.first().map_or(0, |a| a.len());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema(), self.arrays, &options)
            .map_err(|e| err!(LogicalError, "the columns do not make a table: {e}"))
    }
}

pub(super) struct SystemTable {
    name: &'static str,
    schema: SchemaRef,
    compute: Compute,
    context: Context,
}

impl SystemTable {
    pub fn new(name: &'static str, compute: Compute, context: Context) -> Result<Self> {
        let schema = compute(&context)?.schema();
        Ok(SystemTable { name, schema, compute, context })
    }
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system.{}", self.name)
    }
}

#[async_trait::async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let batch = (self.compute)(&self.context)
            .and_then(Columns::batch)
            .map_err(|e| DataFusionError::External(Box::new(e)))?;
        let plan =
            MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema.clone(), projection.cloned())?;
        Ok(plan)
    }
}
