//! The Parquet side of a scan: files, how they are split over threads, what is known of them.

use super::access::StoredAccess;
use super::columns::{SHARD_COLUMN, shard_type};
use super::defaults::ColumnDefaults;
use super::prune::time_range;
use super::reader::{PartReaders, parts_url};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileGroupPartitioner, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;
use weir_base::ShardId;
use weir_storage::{APPEND_TIME_COLUMN, PartFile, SN_COLUMN, ShardSnapshot, TIME_COLUMN, part_schema};

/// Sorted parts are each read as one run up to this many; beyond it the merge would cost more
/// than the order saves.
const SORTED_RUNS_MAX: usize = 32;
/// Files below this together are not worth a second thread.
const SPLIT_BYTES_MIN: usize = 1 << 20;

pub(super) struct PartsScan<'a> {
    pub access: &'a StoredAccess,
    pub pins: Arc<Vec<ShardSnapshot>>,
    pub parts: Vec<(ShardId, Arc<PartFile>)>,
    /// Positions in the full schema.
    pub projection: &'a [usize],
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    pub limit: Option<usize>,
    pub target_partitions: usize,
    pub options: TableParquetOptions,
    /// Nothing is read beside the parts, so their order is the scan's.
    pub alone: bool,
}

impl PartsScan<'_> {
    pub fn plan(self) -> Result<Arc<dyn ExecutionPlan>> {
        let file_schema = part_schema(&self.access.schema);
        let shard = Arc::new(Field::new(SHARD_COLUMN, shard_type(), false));
        let table = TableSchema::builder(file_schema.clone()).with_table_partition_cols(vec![shard]).build();
        let readers = PartReaders {
            objects: self.access.objects.clone(),
            footers: self.access.footers.clone(),
            pins: self.pins.clone(),
        };
        let ordering = self.ordering(table.table_schema());
        let mut source = ParquetSource::new(table.clone())
            .with_table_parquet_options(self.options.clone())
            .with_parquet_file_reader_factory(Arc::new(readers));
        if let Some(predicate) = &self.predicate {
            source = source.with_predicate(predicate.clone());
        }
        let statistics = self.statistics(table.table_schema());
        let groups = self.groups(&file_schema, ordering.is_some());
        let mut config = FileScanConfigBuilder::new(parts_url(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_limit(self.limit)
            .with_expr_adapter(Some(Arc::new(ColumnDefaults(self.access.column_defaults.clone()))))
            .with_projection_indices(Some(self.projection.to_vec()))?;
        if let Some(ordering) = ordering {
            config = config.with_output_ordering(vec![ordering]);
        }
        Ok(DataSourceExec::from_data_source(config.build()))
    }

    /// The order every single file has, where it can serve the query.
    fn ordering(&self, table: &SchemaRef) -> Option<LexOrdering> {
        let sorted = self.parts.iter().all(|(_, p)| p.meta.sorted);
        if !self.alone || !sorted || self.access.sort_columns.is_empty() || self.parts.len() > SORTED_RUNS_MAX
        {
            return None;
        }
        let options = SortOptions { descending: false, nulls_first: false };
        let keys = self.access.sort_columns.iter().map_while(|name| {
            let column = col(name, table).ok()?;
            Some(PhysicalSortExpr::new(column, options))
        });
        LexOrdering::new(keys)
    }

    fn groups(&self, file_schema: &SchemaRef, ordered: bool) -> Vec<FileGroup> {
        let files = self.parts.iter().map(|(shard, part)| {
            let m = &part.meta;
            let mut statistics =
                Statistics::new_unknown(file_schema).with_num_rows(Precision::Exact(m.rows as usize));
            let mut known = |name: &str, (min, max): (ScalarValue, ScalarValue)| {
                if let Ok(i) = file_schema.index_of(name)
                    && file_schema.field(i).data_type() == &min.data_type()
                    && !file_schema.field(i).is_nullable()
                {
                    statistics.column_statistics[i] = exact(min, max);
                }
            };
            known(TIME_COLUMN, time_range(TimeUnit::Millisecond, m.event_min.0, m.event_max.0));
            known(APPEND_TIME_COLUMN, time_range(TimeUnit::Microsecond, m.append_min.0, m.append_max.0));
            known(SN_COLUMN, sn_range(part));
            PartitionedFile::new(part.path(), m.size_bytes)
                .with_partition_values(vec![ScalarValue::Int32(Some(shard.0 as i32))])
                .with_statistics(Arc::new(statistics))
        });
        let groups: Vec<FileGroup> = if ordered {
            files.map(|f| FileGroup::new(vec![f])).collect()
        } else {
            FileGroup::new(files.collect()).split_files(self.target_partitions.max(1))
        };
        if groups.len() >= self.target_partitions {
            return groups;
        }
        FileGroupPartitioner::new()
            .with_target_partitions(self.target_partitions)
            .with_repartition_file_min_size(SPLIT_BYTES_MIN)
            .with_preserve_order_within_groups(ordered)
            .repartition_file_groups(&groups)
            .unwrap_or(groups)
    }

    fn statistics(&self, table: &SchemaRef) -> Statistics {
        let rows = self.parts.iter().map(|(_, p)| p.meta.rows as usize).sum();
        let mut statistics = Statistics::new_unknown(table).with_num_rows(Precision::Exact(rows));
        let metas = || self.parts.iter().map(|(_, p)| &p.meta);
        if let (Some(min), Some(max), Ok(i)) = (
            metas().map(|m| m.event_min.0).min(),
            metas().map(|m| m.event_max.0).max(),
            table.index_of(TIME_COLUMN),
        ) {
            let field = table.field(i);
            let utc_ms = matches!(field.data_type(), DataType::Timestamp(TimeUnit::Millisecond, Some(tz)) if &**tz == "UTC");
            if utc_ms && !field.is_nullable() {
                let (min, max) = time_range(TimeUnit::Millisecond, min, max);
                statistics.column_statistics[i] = exact(min, max);
            }
        }
        statistics
    }
}

fn exact(min: ScalarValue, max: ScalarValue) -> ColumnStatistics {
    ColumnStatistics {
        null_count: Precision::Exact(0),
        min_value: Precision::Exact(min),
        max_value: Precision::Exact(max),
        ..ColumnStatistics::new_unknown()
    }
}

fn sn_range(part: &PartFile) -> (ScalarValue, ScalarValue) {
    let last = part.meta.sn_end.0 as i64 - 1;
    (ScalarValue::Int64(Some(part.meta.sn_min.0 as i64)), ScalarValue::Int64(Some(last)))
}
