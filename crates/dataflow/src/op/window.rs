//! Gives each row its windows: once for every one it is not late for.
//!
//! A row is late for a window that ends at or before the watermark its source judged it by. A row
//! that is late for any of its windows is counted.
//!
//! Not here: judging (`watermark`), what a window is (`plan::window`).

use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::{StateReader, StateWriter};
use crate::time::{from_nanos, nanos, nanos_per_unit};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{DataType, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use std::sync::Arc;
use weir_plan::{Rows, Span, WindowKind, WindowSpec};

const NAME: &str = "Window";
/// Rows of a batch that leaves, where rows have many windows.
const ROWS_MAX: usize = 65_536;

pub struct Window {
    spec: WindowSpec,
    time: Arc<dyn PhysicalExpr>,
    watermark: usize,
    at: usize,
    schema: SchemaRef,
    late_rows: u64,
}

impl Window {
    /// # Errors
    /// [`OpError::Plan`] when window or columns do not fit.
    pub fn new(
        spec: WindowSpec,
        time: Arc<dyn PhysicalExpr>,
        watermark: usize,
        at: usize,
        schema: SchemaRef,
    ) -> Result<Self, OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        spec.check().map_err(plan)?;
        let bound = schema.fields().get(at).map(|f| f.data_type());
        if bound.is_none_or(|t| nanos_per_unit(t).is_none()) {
            return Err(plan(format!("window_start is {bound:?}, no time")));
        }
        Ok(Window { spec, time, watermark, at, schema, late_rows: 0 })
    }

    /// The columns with the bounds put in.
    fn batch(
        &self,
        columns: Vec<ArrayRef>,
        starts: Vec<i64>,
        ends: Vec<i64>,
    ) -> Result<RecordBatch, OpError> {
        let n = starts.len();
        let t: DataType = self.schema.field(self.at).data_type().clone();
        let bound = |values| from_nanos(values, &t).expect("checked to be a time when made");
        let mut all = columns;
        all.insert(self.at, bound(starts));
        all.insert(self.at + 1, bound(ends));
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        RecordBatch::try_new_with_options(self.schema.clone(), all, &options)
            .map_err(|e| OpError::Plan { operator: NAME, reason: e.to_string() })
    }
}

impl Operator for Window {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        if rows.weights.is_some() {
            return Err(plan("windows over a changelog".into()));
        }
        let n = rows.batch.num_rows();
        let times = self
            .time
            .evaluate(&rows.batch)
            .and_then(|v| v.into_array(n))
            .map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })?;
        let times = nanos(&times).ok_or_else(|| plan(format!("{} is no time", times.data_type())))?;
        let judged = rows
            .batch
            .column(self.watermark)
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| plan("the judging watermark is int64".into()))?
            .values();
        let (mut starts, mut ends) = (Vec::with_capacity(n), Vec::with_capacity(n));
        if let WindowKind::Tumble { size: Span::Fixed(size) } = self.spec.kind {
            // Neighbours mostly share a window: one division serves a run of them.
            let (mut start, mut end) = (0, 0);
            let mut late = 0usize;
            for (time, wm) in times.iter().zip(judged) {
                if *time < start || *time >= end {
                    self.spec.windows_of(*time, |s, e| (start, end) = (s, e));
                }
                debug_assert!(end.saturating_sub(start) <= size);
                starts.push(start);
                ends.push(end);
                late += usize::from(*wm >= end);
            }
            if late == 0 {
                let batch = self.batch(rows.batch.columns().to_vec(), starts, ends)?;
                out.rows(Rows::append(batch));
                return Ok(());
            }
            starts.clear();
            ends.clear();
        }
        let mut picked: Vec<u32> = Vec::with_capacity(n);
        for (row, (time, wm)) in times.iter().zip(judged).enumerate() {
            let mut late = false;
            self.spec.windows_of(*time, |start, end| {
                if *wm >= end {
                    late = true;
                } else {
                    picked.push(row as u32);
                    starts.push(start);
                    ends.push(end);
                }
            });
            self.late_rows += u64::from(late);
            if picked.len() >= ROWS_MAX || row + 1 == n {
                let indices = UInt32Array::from(std::mem::take(&mut picked));
                let columns = rows
                    .batch
                    .columns()
                    .iter()
                    .map(|c| arrow_select::take::take(c, &indices, None))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| plan(e.to_string()))?;
                let batch = self.batch(columns, std::mem::take(&mut starts), std::mem::take(&mut ends))?;
                out.rows(Rows::append(batch));
            }
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { late_rows: self.late_rows, ..Stats::default() }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        into.put_u64("late_rows", self.late_rows);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.late_rows = from.u64(NAME, "late_rows")?;
        Ok(())
    }
}
