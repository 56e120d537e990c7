//! History at the pace at which it came, and the piece of it that is asked for.
//!
//! The first row goes at once; a row that came t later goes t / speed after it, by the world's
//! clock. Rows keep their order: one that is due waits for those before it.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use weir_base::{Clock, Result, err};
use weir_plan::ReplaySpec;
use weir_storage::{APPEND_TIME_COLUMN, Sns, TailBatch, Times};

/// A wait for the clock goes on no longer without looking at it: a test's does not run by itself.
const CLOCK_LOOK: Duration = Duration::from_millis(100);

/// When the first row of a query's history went: (clock, time of the row), microseconds. Shared by
/// its sources.
#[derive(Debug, Default)]
pub(super) struct Began(Mutex<Option<(i64, i64)>>);

pub(super) struct Pace {
    /// Position among the columns that are read; `None` = append time.
    column: Option<usize>,
    spec: ReplaySpec,
    began: Arc<Began>,
    clock: Arc<dyn Clock>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// `read`: the columns of the rows that come.
    ///
    /// # Errors
    /// Code 47 for an unknown column, 43 for one that is no time, 36 for an end to come.
    pub fn new(
        name: &str,
        spec: &ReplaySpec,
        read: &Schema,
        began: Arc<Began>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let column = match spec.column.as_str() {
            APPEND_TIME_COLUMN => None,
            column => {
                let at = read.index_of(column).map_err(|_| {
                    err!(UnknownIdentifier, "replay_time_column: {name} has no column {column}")
                })?;
                let t = read.field(at).data_type();
                if !matches!(t, DataType::Timestamp(..) | DataType::Date32) {
                    return Err(err!(
                        IllegalTypeOfArgument,
                        "replay_time_column: {column} of {name} is {t}, no time"
                    ));
                }
                Some(at)
            }
        };
        if spec.end_us.is_some_and(|end| end > clock.now_us()) {
            return Err(err!(
                BadArguments,
                "replay_end_time lies in the future; leave it out to go on with the tail"
            ));
        }
        Ok(Pace { column, spec: spec.clone(), began, clock, timer: None })
    }

    /// The source ends with its history.
    pub fn ends(&self) -> bool {
        self.spec.end_us.is_some()
    }

    /// Of each row its time in microseconds; `None` = always due.
    fn times(&self, rows: &TailBatch) -> Result<Vec<Option<i64>>> {
        let Some(column) = self.column else {
            return Ok((0..rows.rows()).map(|i| Some(rows.append_time(i).0)).collect());
        };
        let us = DataType::Timestamp(TimeUnit::Microsecond, None);
        let times = cast(rows.batch.column(column), &us)
            .map_err(|e| err!(LogicalError, "replay_time_column {}: {e}", self.spec.column))?;
        Ok(times.as_primitive::<TimestampMicrosecondType>().iter().collect())
    }

    /// The rows within the piece, and whether only later ones can follow.
    pub fn within(&self, rows: TailBatch) -> Result<(TailBatch, bool)> {
        let (start, end) = (self.spec.start_us.unwrap_or(i64::MIN), self.spec.end_us.unwrap_or(i64::MAX));
        if self.spec.start_us.is_none() && self.spec.end_us.is_none() {
            return Ok((rows, false));
        }
        let times = self.times(&rows)?;
        // Append times never fall.
        let past = self.column.is_none() && times.last().copied().flatten().is_some_and(|t| t > end);
        let keep: BooleanArray =
            times.iter().map(|t| Some(t.is_some_and(|t| t >= start && t <= end))).collect();
        if keep.true_count() == keep.len() {
            return Ok((rows, past));
        }
        Ok((filtered(&rows, &keep).map_err(|e| err!(LogicalError, "replay: {e}"))?, past))
    }

    /// How many of the first rows may go, at least one.
    pub fn poll_due(&mut self, rows: &TailBatch, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        if self.spec.speed <= 0.0 {
            return Poll::Ready(Ok(rows.rows()));
        }
        let times = match self.times(rows) {
            Ok(times) => times,
            Err(e) => return Poll::Ready(Err(e)),
        };
        loop {
            let now_us = self.clock.now_us();
            let Some(first) = times.first().copied().flatten() else { return Poll::Ready(Ok(1)) };
            let (clock_us, row_us) = *self.began.0.lock().get_or_insert((now_us, first));
            let passed = now_us.saturating_sub(clock_us) as f64 * self.spec.speed;
            let limit_us = row_us.saturating_add(passed as i64);
            let due = times.iter().take_while(|t| t.is_none_or(|t| t <= limit_us)).count();
            if due > 0 {
                self.timer = None;
                return Poll::Ready(Ok(due));
            }
            let wait_us = (first.saturating_sub(limit_us) as f64 / self.spec.speed).ceil();
            let wait = Duration::from_micros(wait_us as u64).min(CLOCK_LOOK);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(wait)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }
}

fn filtered(
    rows: &TailBatch,
    keep: &BooleanArray,
) -> std::result::Result<TailBatch, arrow::error::ArrowError> {
    let batch: RecordBatch = filter_record_batch(&rows.batch, keep)?;
    let sns = match &rows.sns {
        Sns::Unread => Sns::Unread,
        _ => Sns::Listed(filter(&rows.sn_array(), keep)?.as_primitive::<Int64Type>().clone()),
    };
    let append_times = match &rows.append_times {
        Times::Listed(list) => {
            Times::Listed(filter(list, keep)?.as_primitive::<TimestampMicrosecondType>().clone())
        }
        other => other.clone(),
    };
    Ok(TailBatch { batch, sns, append_times })
}
