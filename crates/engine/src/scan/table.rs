//! The table a bounded query reads a stream as.

use super::access::{StoredAccess, StreamAccess};
use super::columns::{Picker, full_schema, query_error};
use super::external::ExternalExec;
use super::log_exec::LogExec;
use super::parts::PartsScan;
use super::prune::{Extent, may_match};
use crate::source::generate_block;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::future::try_join_all;
use std::sync::Arc;
use weir_storage::ShardSnapshot;

/// A stream with its virtual columns; every scan takes a new snapshot.
#[derive(Debug)]
pub struct StreamTable {
    access: StreamAccess,
    schema: SchemaRef,
}

impl StreamTable {
    pub fn new(access: StreamAccess) -> Self {
        let schema = full_schema(access.schema());
        StreamTable { access, schema }
    }
}

#[async_trait::async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let kind = match &self.access {
            StreamAccess::Stored(_) => TableProviderFilterPushDown::Inexact,
            StreamAccess::Random(_) | StreamAccess::External(_) => TableProviderFilterPushDown::Unsupported,
        };
        Ok(vec![kind; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let access = match &self.access {
            StreamAccess::Stored(access) => access,
            StreamAccess::External(access) => {
                let all: Vec<usize> = (0..self.schema.fields().len()).collect();
                let projection = projection.unwrap_or(&all);
                return ExternalExec::plan(access, &self.schema, projection, limit).await;
            }
            StreamAccess::Random(access) => {
                let block = generate_block(access).map_err(|e| DataFusionError::External(Box::new(e)))?;
                let table = MemTable::try_new(self.schema.clone(), vec![vec![block]])?;
                return table.scan(state, projection, filters, limit).await;
            }
        };
        let predicate = match conjunction(filters.to_vec()) {
            Some(all) => {
                let schema = DFSchema::try_from(self.schema.as_ref().clone())?;
                Some(state.create_physical_expr(all, &schema)?)
            }
            None => None,
        };
        let snapshots = snapshot_all(access).await?;
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        SnapshotScan {
            access,
            full_schema: self.schema.clone(),
            snapshots,
            logs: None,
            projection: projection.unwrap_or(&all),
            predicate,
            // A limit below a filter would cut rows that the filter needs.
            limit: limit.filter(|_| filters.is_empty()),
            target_partitions: state.config().target_partitions(),
            options: state.default_table_options().parquet,
        }
        .plan()
    }
}

/// Snapshots of all shards that hold every row acknowledged before the call.
async fn snapshot_all(access: &StoredAccess) -> Result<Vec<ShardSnapshot>> {
    let shards = access.store.shards();
    try_join_all(shards.iter().map(|s| s.sync())).await.map_err(query_error)?;
    Ok(shards.iter().map(|s| s.snapshot()).collect())
}

/// Reads given snapshots.
pub(crate) struct SnapshotScan<'a> {
    pub access: &'a StoredAccess,
    pub full_schema: SchemaRef,
    pub snapshots: Vec<ShardSnapshot>,
    /// Pieces of the snapshots' logs to be read; `None` = all of each.
    pub logs: Option<Vec<ShardSnapshot>>,
    /// Positions in the full schema.
    pub projection: &'a [usize],
    /// Over the full schema; leaves out what cannot match, filters nothing.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    pub limit: Option<usize>,
    pub target_partitions: usize,
    pub options: TableParquetOptions,
}

impl SnapshotScan<'_> {
    pub fn plan(self) -> Result<Arc<dyn ExecutionPlan>> {
        let partition = self.access.partition_column.as_deref();
        let candidates: Vec<_> =
            self.snapshots.iter().flat_map(|s| s.parts.iter().map(|p| (s.shard.id(), p.clone()))).collect();
        let extents: Vec<_> = candidates
            .iter()
            .map(|(shard, part)| Extent::of_part(part, *shard, &self.access.schema, partition))
            .collect();
        let wanted = may_match(self.predicate.as_ref(), &self.full_schema, &extents);
        let parts: Vec<_> =
            candidates.into_iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(part, _)| part).collect();

        let logs = self.logs.unwrap_or_else(|| self.snapshots.clone());
        let logs: Vec<_> = logs.into_iter().filter(|s| s.durable_end > s.committed_end).collect();
        let extents: Vec<_> = logs.iter().map(Extent::of_log).collect();
        let wanted = may_match(self.predicate.as_ref(), &self.full_schema, &extents);
        let logs: Vec<_> =
            logs.into_iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(log, _)| log).collect();

        let picker = Picker::by_index(&self.full_schema, self.projection);
        let schema = picker.schema().clone();
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::with_capacity(2);
        if !parts.is_empty() {
            let scan = PartsScan {
                access: self.access,
                pins: Arc::new(self.snapshots),
                parts,
                projection: self.projection,
                predicate: self.predicate,
                limit: self.limit,
                target_partitions: self.target_partitions,
                options: self.options,
                alone: logs.is_empty(),
            };
            inputs.push(scan.plan()?);
        }
        if !logs.is_empty() {
            inputs.push(Arc::new(LogExec::new(logs, picker, self.limit)));
        }
        Ok(match inputs.len() {
            0 => Arc::new(EmptyExec::new(schema)),
            1 => inputs.remove(0),
            _ => UnionExec::try_new(inputs)?,
        })
    }
}
