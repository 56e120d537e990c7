//! How rows lie in parts: the seam to expressions that storage itself cannot evaluate.

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};

/// A layout expression failed on some row.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{clause} failed: {reason}")]
pub struct LayoutError {
    /// `ORDER BY`, `PARTITION BY` or `TTL`.
    pub clause: &'static str,
    pub reason: String,
}

/// ORDER BY, PARTITION BY and TTL of one stream, evaluated over whole batches of the stream's
/// columns. Must be deterministic: recovery and merges evaluate it again.
pub trait PartLayout: Send + Sync + std::fmt::Debug {
    /// Sort keys, ascending, nulls last; empty means arrival order.
    fn sort_keys(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, LayoutError>;
    /// Names of stream columns the sort keys are exactly, in order, if they are plain columns;
    /// written as the Parquet sorting columns.
    fn sort_columns(&self) -> Vec<String>;
    /// One partition key a row, as text (for example `20261122`).
    fn partition_keys(&self, batch: &RecordBatch) -> Result<ArrayRef, LayoutError>;
    /// Which rows TTL has expired at `now_ms`; `None` if the stream has no TTL.
    fn expired(&self, batch: &RecordBatch, now_ms: i64) -> Result<Option<BooleanArray>, LayoutError>;
}

/// Arrival order, partitioned by the UTC day of `_tp_time`, no TTL: the default.
#[derive(Debug)]
pub struct ArrivalByDay;

impl PartLayout for ArrivalByDay {
    fn sort_keys(&self, _: &RecordBatch) -> Result<Vec<ArrayRef>, LayoutError> {
        Ok(Vec::new())
    }
    fn sort_columns(&self) -> Vec<String> {
        Vec::new()
    }
    fn partition_keys(&self, batch: &RecordBatch) -> Result<ArrayRef, LayoutError> {
        day_keys(batch)
    }
    fn expired(&self, _: &RecordBatch, _: i64) -> Result<Option<BooleanArray>, LayoutError> {
        Ok(None)
    }
}

/// `YYYYMMDD` of `_tp_time` in UTC, one a row.
pub fn day_keys(batch: &RecordBatch) -> Result<ArrayRef, LayoutError> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMillisecondType;
    let fail = |reason: &str| LayoutError { clause: "PARTITION BY", reason: reason.to_owned() };
    let time = batch
        .column_by_name("_tp_time")
        .and_then(|c| c.as_primitive_opt::<TimestampMillisecondType>().cloned())
        .ok_or_else(|| fail("no column _tp_time of type datetime64(3)"))?;
    let mut builder = arrow_array::builder::StringBuilder::with_capacity(time.len(), time.len() * 8);
    let mut last: Option<(i64, String)> = None;
    for ms in time.values() {
        let day = ms.div_euclid(86_400_000);
        if last.as_ref().is_none_or(|(d, _)| *d != day) {
            let (y, m, d) = civil_from_days(day);
            last = Some((day, format!("{y:04}{m:02}{d:02}")));
        }
        builder.append_value(&last.as_ref().expect("set above").1);
    }
    Ok(std::sync::Arc::new(builder.finish()))
}

/// Days since 1970-01-01 to (year, month, day) in the proleptic Gregorian calendar
/// (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_to_dates() {
        for (days, date) in
            [(0, (1970, 1, 1)), (-1, (1969, 12, 31)), (11_016, (2000, 2, 29)), (20_779, (2026, 11, 22))]
        {
            assert_eq!(civil_from_days(days), date);
        }
    }
}
