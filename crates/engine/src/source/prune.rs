//! Which parts and row groups of history a plan can do without, by its predicate.

use crate::scan::{Extent, may_match};
use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;
use std::collections::HashSet;
use std::sync::Arc;
use weir_base::ShardId;
use weir_storage::{PartFile, Pruner};

#[derive(Debug)]
pub(super) struct PlanPruner {
    /// Over `full`.
    pub predicate: Arc<dyn PhysicalExpr>,
    /// The stream's columns.
    pub stream: SchemaRef,
    /// With the virtual ones.
    pub full: SchemaRef,
    pub partition_column: Option<String>,
}

impl Pruner for PlanPruner {
    fn parts(&self, shard: ShardId, parts: &[Arc<PartFile>]) -> Vec<bool> {
        let partition = self.partition_column.as_deref();
        let extents: Vec<_> =
            parts.iter().map(|p| Extent::of_part(p, shard, &self.stream, partition)).collect();
        may_match(Some(&self.predicate), &self.full, &extents)
    }

    fn row_groups(&self, file: &SchemaRef, footer: &ParquetMetaData) -> Vec<bool> {
        let all = vec![true; footer.num_row_groups()];
        // Columns that a part does not have, or has in another type, say nothing.
        let built = PruningPredicateBuilder::new()
            .with_file_schema(self.full.clone())
            .try_build(self.predicate.clone());
        match built {
            Ok(p) if !p.always_true() => p.prune(&Groups { file, full: &self.full, footer }).unwrap_or(all),
            _ => all,
        }
    }
}

struct Groups<'a> {
    file: &'a SchemaRef,
    full: &'a SchemaRef,
    footer: &'a ParquetMetaData,
}

impl Groups<'_> {
    fn statistics(&self, column: &Column) -> Option<StatisticsConverter<'_>> {
        let wanted = self.full.field_with_name(&column.name).ok()?;
        let there = self.file.field_with_name(&column.name).ok()?;
        if wanted.data_type() != there.data_type() {
            return None;
        }
        let parquet = self.footer.file_metadata().schema_descr();
        StatisticsConverter::try_new(there.name(), self.file, parquet).ok()
    }
}

impl PruningStatistics for Groups<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.statistics(column)?.row_group_mins(self.footer.row_groups()).ok()
    }
    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.statistics(column)?.row_group_maxes(self.footer.row_groups()).ok()
    }
    fn num_containers(&self) -> usize {
        self.footer.num_row_groups()
    }
    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self.statistics(column)?.row_group_null_counts(self.footer.row_groups()).ok()?;
        Some(Arc::new(counts))
    }
    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self.footer.row_groups().iter().map(|g| Some(g.num_rows() as u64));
        Some(Arc::new(rows.collect::<UInt64Array>()))
    }
    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
