//! Rows with their positions, as readers get them.

use crate::error::{Result, StorageError};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;
use weir_base::{AppendTime, EventTime, SeqNo};

/// A row's sequence number, in parts; virtual in SQL.
pub const SN_COLUMN: &str = "_tp_sn";
/// When the log accepted a row, in parts; virtual in SQL.
pub const APPEND_TIME_COLUMN: &str = "_tp_append_time";
/// Event time; a real column of every stream.
pub const TIME_COLUMN: &str = "_tp_time";

/// The sequence numbers of a batch's rows, ascending.
#[derive(Debug, Clone, PartialEq)]
pub enum Sns {
    /// From this one on, without gaps.
    Dense(SeqNo),
    Listed(Int64Array),
    /// Read in no order, by someone who did not ask for them.
    Unread,
}

/// The append times of a batch's rows; never falling.
#[derive(Debug, Clone, PartialEq)]
pub enum Times {
    One(AppendTime),
    Listed(TimestampMicrosecondArray),
    /// By someone who did not ask for them.
    Unread,
}

/// Rows in sequence order with the stream's columns.
#[derive(Debug, Clone, PartialEq)]
pub struct TailBatch {
    pub batch: RecordBatch,
    pub sns: Sns,
    pub append_times: Times,
}

impl TailBatch {
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    pub fn sn(&self, row: usize) -> SeqNo {
        match &self.sns {
            Sns::Dense(base) => base.plus(row as u64),
            Sns::Listed(list) => SeqNo(list.value(row) as u64),
            Sns::Unread => unreachable!("asked for a number that was not wanted"),
        }
    }

    /// The earliest time there is where append times were not read.
    pub fn append_time(&self, row: usize) -> AppendTime {
        match &self.append_times {
            Times::One(at) => *at,
            Times::Listed(list) => AppendTime(list.value(row)),
            Times::Unread => AppendTime(i64::MIN),
        }
    }

    /// One past the last row; `None` for an empty batch and for one without numbers.
    pub fn end(&self) -> Option<SeqNo> {
        if matches!(self.sns, Sns::Unread) {
            return None;
        }
        self.rows().checked_sub(1).map(|last| self.sn(last).plus(1))
    }

    /// Rows `offset .. offset + len`, sharing memory.
    pub fn slice(&self, offset: usize, len: usize) -> TailBatch {
        TailBatch {
            batch: self.batch.slice(offset, len),
            sns: match &self.sns {
                Sns::Dense(base) => Sns::Dense(base.plus(offset as u64)),
                Sns::Listed(list) => Sns::Listed(list.slice(offset, len)),
                Sns::Unread => Sns::Unread,
            },
            append_times: match &self.append_times {
                Times::One(at) => Times::One(*at),
                Times::Listed(list) => Times::Listed(list.slice(offset, len)),
                Times::Unread => Times::Unread,
            },
        }
    }

    /// The rows at or after `from`.
    pub(crate) fn starting_at(&self, from: SeqNo) -> TailBatch {
        let skip = match &self.sns {
            Sns::Dense(base) => (from.0.saturating_sub(base.0) as usize).min(self.rows()),
            Sns::Listed(list) => list.values().partition_point(|sn| (*sn as u64) < from.0),
            Sns::Unread => unreachable!("asked for a number that was not wanted"),
        };
        if skip == 0 { self.clone() } else { self.slice(skip, self.rows() - skip) }
    }

    /// `_tp_sn` as a column.
    pub fn sn_array(&self) -> Int64Array {
        match &self.sns {
            Sns::Dense(base) => (base.0 as i64..(base.0 as i64 + self.rows() as i64)).collect(),
            Sns::Listed(list) => list.clone(),
            Sns::Unread => unreachable!("asked for numbers that were not wanted"),
        }
    }

    /// `_tp_append_time` as a column.
    pub fn append_time_array(&self) -> TimestampMicrosecondArray {
        match &self.append_times {
            Times::One(at) => TimestampMicrosecondArray::from_value(at.0, self.rows()).with_timezone("UTC"),
            Times::Listed(list) => list.clone(),
            Times::Unread => unreachable!("asked for append times that were not wanted"),
        }
    }

    /// The stream's columns followed by `_tp_sn` and `_tp_append_time`, as parts hold them.
    pub(crate) fn with_positions(&self, part_schema: &SchemaRef) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = self.batch.columns().to_vec();
        columns.push(Arc::new(self.sn_array()));
        columns.push(Arc::new(self.append_time_array()));
        RecordBatch::try_new(part_schema.clone(), columns)
            .map_err(|e| StorageError::Schema { what: e.to_string() })
    }

    /// The reverse of [`TailBatch::with_positions`].
    pub(crate) fn from_part(batch: &RecordBatch, schema: &SchemaRef) -> Result<TailBatch> {
        use arrow_array::cast::AsArray;
        let n = schema.fields().len();
        let sns = batch.column(n).as_primitive::<arrow_array::types::Int64Type>().clone();
        let times =
            batch.column(n + 1).as_primitive::<arrow_array::types::TimestampMicrosecondType>().clone();
        let columns = batch.columns()[..n].to_vec();
        let batch = RecordBatch::try_new_with_options(
            schema.clone(),
            columns,
            &arrow_array::RecordBatchOptions::new().with_row_count(Some(sns.len())),
        )
        .map_err(|e| StorageError::Schema { what: e.to_string() })?;
        Ok(TailBatch { batch, sns: Sns::Listed(sns), append_times: Times::Listed(times) })
    }
}

/// The type of `_tp_append_time`.
pub fn append_time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The schema of part files: the stream's columns, `_tp_sn`, `_tp_append_time`.
pub fn part_schema(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(SN_COLUMN, DataType::Int64, false)));
    fields.push(Arc::new(Field::new(APPEND_TIME_COLUMN, append_time_type(), false)));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Least and greatest `_tp_time`; of no rows, or without such a column, zeros.
pub(crate) fn event_range(batch: &RecordBatch) -> (EventTime, EventTime) {
    use arrow_array::cast::AsArray;
    let Some(times) = batch
        .column_by_name(TIME_COLUMN)
        .and_then(|c| c.as_primitive_opt::<arrow_array::types::TimestampMillisecondType>())
    else {
        return (EventTime(0), EventTime(0));
    };
    let mut range: Option<(i64, i64)> = None;
    let mut see = |ms: i64| {
        range = Some(range.map_or((ms, ms), |(lo, hi)| (lo.min(ms), hi.max(ms))));
    };
    if times.null_count() == 0 {
        times.values().iter().for_each(|ms| see(*ms));
    } else {
        times.iter().flatten().for_each(see);
    }
    let (lo, hi) = range.unwrap_or((0, 0));
    (EventTime(lo), EventTime(hi))
}
