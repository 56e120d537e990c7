//! What names mean: answered by whoever holds the catalog.

use super::shape::AliasColumn;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;
use weir_base::{Error, err};

/// Columns every stream has besides its own: found by name, not in `*`.
pub const VIRTUAL_COLUMNS: [&str; 3] = ["_tp_sn", "_tp_shard", "_tp_append_time"];

/// The names a query can use, at one moment.
pub trait Scope: Send + Sync {
    /// Where unqualified names are looked up.
    fn current_database(&self) -> &str;

    /// What a name stands for.
    ///
    /// # Errors
    /// Code 60 for an unknown relation, 81 for an unknown database, with a suggestion.
    fn relation(&self, database: Option<&str>, name: &str) -> Result<ScopeRelation, Error>;

    /// Columns of a stream that are computed when it is read, each after those it refers to.
    ///
    /// # Errors
    /// As [`Scope::relation`].
    fn alias_columns(&self, _database: Option<&str>, _name: &str) -> Result<Vec<AliasColumn>, Error> {
        Ok(Vec::new())
    }

    /// A table function such as `numbers(n)`; `None` = there is none of that name. The name
    /// comes in snake_case.
    ///
    /// # Errors
    /// Bad arguments.
    fn table_function(
        &self,
        name: &str,
        args: &[ScalarValue],
    ) -> Result<Option<Arc<dyn TableProvider>>, Error>;

    /// The value given for `{name:type}`.
    fn parameter(&self, name: &str) -> Option<String>;
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub enum ScopeRelation {
    /// Both hold the stream's columns and the virtual ones after them.
    Stream { provider_bounded: Arc<dyn TableProvider>, unbounded: Arc<UnboundedTable> },
    /// Bounded in every mode, for example `system.*`.
    Table(Arc<dyn TableProvider>),
    /// A macro: its SELECT, and the database its names resolve in.
    View { select: String, database: String },
}

/// A stream read without end. Plans hold it; only `stream::lower` can make something run of it.
#[derive(Debug)]
pub struct UnboundedTable {
    pub database: String,
    pub relation: String,
    /// Columns, virtual ones last.
    pub schema: SchemaRef,
    /// How many of them `*` shows.
    pub visible: usize,
    /// Nothing of it is live: it is bounded in every mode.
    pub is_table: bool,
    /// Rows carry a weight (`mode='changelog'`): aggregations take back what has −1.
    pub changelog: bool,
}

#[async_trait::async_trait]
impl TableProvider for UnboundedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(super::errors::external(err!(
            LogicalError,
            "stream {}.{} has no end and can not be read by a bounded plan; use table({})",
            self.database,
            self.relation,
            self.relation
        )))
    }
}
