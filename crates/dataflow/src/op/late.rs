//! Rows that come too late: counted, and told of.
//!
//! Not here: who is late (`watermark` judges, windows compare), where they are kept (the sink).

use crate::operator::{OpError, Output};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{Field, Schema};
use std::sync::Arc;
use weir_plan::{Judged, LateRows};

/// The watermark each row is judged by.
pub(super) fn judged<'a>(
    operator: &'static str,
    at: &Judged,
    batch: &'a RecordBatch,
) -> Result<&'a [i64], OpError> {
    let column = batch.column(at.watermark).as_primitive_opt::<Int64Type>();
    let wrong = || OpError::Plan { operator, reason: "the judging watermark is int64".into() };
    Ok(column.ok_or_else(wrong)?.values())
}

/// Tells of late rows of a batch.
pub(super) fn tell(
    operator: &'static str,
    at: &Judged,
    batch: &RecordBatch,
    rows: Vec<u32>,
    times: &[i64],
    out: &mut Output,
) -> Result<(), OpError> {
    if rows.is_empty() {
        return Ok(());
    }
    let plan = |reason: String| OpError::Plan { operator, reason };
    let watermarks = judged(operator, at, batch)?;
    let times_ns: Int64Array = rows.iter().map(|r| Some(times[*r as usize])).collect();
    let watermarks_ns: Int64Array = rows.iter().map(|r| Some(watermarks[*r as usize])).collect();
    let count = rows.len();
    let rows = UInt32Array::from(rows);
    let pick = |column: usize| {
        arrow_select::take::take(batch.column(column), &rows, None).map_err(|e| plan(e.to_string()))
    };
    let schema = batch.schema();
    let kept = at.kept.iter().map(|(_, c)| pick(*c)).collect::<Result<Vec<ArrayRef>, _>>()?;
    let fields: Vec<Field> =
        at.kept.iter().map(|(name, c)| schema.field(*c).clone().with_name(name.as_str())).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    let kept = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), kept, &options)
        .map_err(|e| plan(e.to_string()))?;
    let shards = pick(at.shard)?;
    let shards = shards.as_primitive_opt::<Int32Type>().ok_or_else(|| plan("shards are int32".into()))?;
    let sns = pick(at.sn)?;
    let sns = sns.as_primitive_opt::<Int64Type>().ok_or_else(|| plan("sequence numbers are int64".into()))?;
    out.late(LateRows { kept, shards: shards.clone(), sns: sns.clone(), times_ns, watermarks_ns });
    Ok(())
}
