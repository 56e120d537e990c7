//! A bounded read of an external stream: what its partitions held when the query was planned.

use super::access::ExternalAccess;
use super::columns::Picker;
use crate::externals::OpenExternal;
use crate::source::{completed, pick};
use arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, PlanProperties};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Error, ShardId, err};
use weir_plan::{ExternalRead, ExternalScan, Partition};

/// How often it is asked why nothing comes, and how often in a row before a query with an end is given up.
const LOOK: Duration = Duration::from_secs(5);
const SILENT_LOOKS_MAX: u32 = 6;

/// Batches read ahead of the query, per partition.
const BATCHES_AHEAD: usize = 2;

#[derive(Debug)]
pub(super) struct ExternalExec {
    name: Arc<str>,
    open: Arc<OpenExternal>,
    partitions: Vec<Partition>,
    /// Of the payload and its surroundings; `None` = all.
    columns: Option<Vec<String>>,
    picker: Picker,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

fn failed(e: impl Into<Error>) -> DataFusionError {
    DataFusionError::External(Box::new(e.into()))
}

impl ExternalExec {
    /// Asks how far each partition goes now. `limit`: more rows are not needed of any partition.
    pub async fn plan(
        access: &ExternalAccess,
        full: &SchemaRef,
        projection: &[usize],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let picker = Picker::by_index(full, projection);
        let all = access.open.stream.partitions().await.map_err(failed)?;
        let mut partitions = pick(&access.name, all, access.picked.as_deref()).map_err(failed)?;
        partitions.retain(|p| p.first < p.end);
        if partitions.is_empty() {
            return Ok(Arc::new(EmptyExec::new(picker.schema().clone())));
        }
        let columns = (!access.open.computes).then(|| {
            let own = |f: &&Arc<arrow::datatypes::Field>| access.open.schema.index_of(f.name()).is_ok();
            picker.schema().fields().iter().filter(own).map(|f| f.name().clone()).collect()
        });
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(picker.schema().clone()),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Arc::new(ExternalExec {
            name: access.name.clone(),
            open: access.open.clone(),
            partitions,
            columns,
            picker,
            limit,
            properties,
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }
}

impl DisplayAs for ExternalExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalExec: {}", self.name)?;
        for p in &self.partitions {
            write!(f, ", {}=[{}..{})", p.id, p.first, p.end)?;
        }
        Ok(())
    }
}

impl ExecutionPlan for ExternalExec {
    fn name(&self) -> &str {
        "ExternalExec"
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
        if children.is_empty() { Ok(self) } else { internal_err!("ExternalExec has no children") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(at) = self.partitions.get(partition).copied() else {
            return internal_err!("ExternalExec has no partition {partition}");
        };
        let (open, picker, name) = (self.open.clone(), self.picker.clone(), self.name.clone());
        let mut left = self.limit.unwrap_or(usize::MAX);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let scan = ExternalScan {
            from: vec![(at.id, at.first)],
            columns: self.columns.clone(),
            ..ExternalScan::default()
        };
        let mut builder = RecordBatchReceiverStreamBuilder::new(picker.schema().clone(), BATCHES_AHEAD);
        let to = builder.tx();
        builder.spawn(async move {
            let mut reader = open.stream.read(scan).await.map_err(failed)?;
            let (mut next, mut silent) = (at.first, 0);
            while next < at.end && left > 0 {
                let read = match tokio::time::timeout(LOOK, reader.next()).await {
                    Ok(read) => read.map_err(failed)?,
                    Err(_) => {
                        silent += 1;
                        match reader.trouble() {
                            Some(trouble) if silent >= SILENT_LOOKS_MAX => {
                                return Err(failed(err!(NetworkError, "{name} can not be read: {trouble}")));
                            }
                            _ => continue,
                        }
                    }
                };
                silent = 0;
                let rows = match read {
                    ExternalRead::Rows(rows) => rows,
                    // Numbers at the end that no message has.
                    ExternalRead::CaughtUp { .. } => break,
                    ExternalRead::BadMessage { at: bad, .. } if bad >= at.end => break,
                    ExternalRead::PassedOver { error, .. } | ExternalRead::BadMessage { error, .. } => {
                        return Err(failed(error));
                    }
                    ExternalRead::Appeared(_) | ExternalRead::Notice(_) => continue,
                };
                next = rows.next;
                let rows = completed(&open, rows).map_err(failed)?;
                let within = (0..rows.rows()).position(|i| rows.sn(i) >= at.end).unwrap_or(rows.rows());
                let n = within.min(left);
                left -= n;
                let batch = picker.pick(&rows.slice(0, n), ShardId(at.id as u32))?;
                metrics.record_output(n);
                // An error means that the query wants no more.
                if n > 0 && to.send(Ok(batch)).await.is_err() {
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
}
