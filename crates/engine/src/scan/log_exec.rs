//! The uncommitted rows of a snapshot, one partition a shard, read from ring and log while
//! the query asks for them.

use super::columns::{Picker, query_error};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, PlanProperties};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning};
use std::fmt;
use std::sync::Arc;
use weir_storage::ShardSnapshot;

/// Batches read ahead of the query, per shard.
const BATCHES_AHEAD: usize = 2;

#[derive(Debug)]
pub(super) struct LogExec {
    snapshots: Vec<ShardSnapshot>,
    picker: Picker,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl LogExec {
    /// `limit`: more rows than that are not needed of any partition.
    pub fn new(snapshots: Vec<ShardSnapshot>, picker: Picker, limit: Option<usize>) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(picker.schema().clone()),
            Partitioning::UnknownPartitioning(snapshots.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        LogExec { snapshots, picker, limit, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    fn rows(snapshot: &ShardSnapshot) -> usize {
        snapshot.rows_in_log() as usize
    }
}

impl DisplayAs for LogExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogExec: shards={}", self.snapshots.len())?;
        for s in &self.snapshots {
            write!(f, ", {}=[{}..{})", s.shard.id(), s.committed_end, s.durable_end)?;
        }
        Ok(())
    }
}

impl ExecutionPlan for LogExec {
    fn name(&self) -> &str {
        "LogExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("LogExec has no children") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(snapshot) = self.snapshots.get(partition).cloned() else {
            return internal_err!("LogExec has no partition {partition}");
        };
        let picker = self.picker.clone();
        let mut left = self.limit.unwrap_or(usize::MAX);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let mut builder = RecordBatchReceiverStreamBuilder::new(picker.schema().clone(), BATCHES_AHEAD);
        let to = builder.tx();
        builder.spawn_blocking(move || {
            for rows in snapshot.log_rows() {
                let rows = rows.map_err(query_error)?;
                let rows = if rows.rows() > left { rows.slice(0, left) } else { rows };
                left -= rows.rows();
                let batch = picker.pick(&rows, snapshot.shard.id())?;
                metrics.record_output(batch.num_rows());
                // An error means that the query wants no more.
                if to.blocking_send(Ok(batch)).is_err() || left == 0 {
                    break;
                }
            }
            Ok(())
        });
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let rows = match args.partition() {
            Some(i) => self.snapshots.get(i).map_or(0, Self::rows),
            None => self.snapshots.iter().map(Self::rows).sum(),
        };
        let rows = match self.limit {
            None => Precision::Exact(rows),
            Some(_) => Precision::Inexact(rows),
        };
        Ok(Arc::new(Statistics::new_unknown(&self.schema()).with_num_rows(rows)))
    }
}
