//! The source over a RANDOM stream: rows made up while they are asked for, at a rate.
//!
//! Nothing queues: a reader that is slow gets fewer rows.

use crate::Progress;
use crate::scan::{Picker, RandomAccess, full_schema};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use weir_base::{AppendTime, Result, SeqNo, ShardId};
use weir_plan::{Element, Rows, Source, SourceSpec, StreamError, WatermarkTime};
use weir_storage::{Sns, TailBatch, Times};

/// Rows of one bounded read.
const BLOCK_ROWS: usize = 65_409;
/// Rows of one batch when nothing limits the rate, and at most.
const BATCH_ROWS_MAX: u64 = 8_192;

/// What `table(random)` gives: one block, with virtual columns.
pub(crate) fn generate_block(access: &RandomAccess) -> Result<RecordBatch> {
    let rows = match access.rows_max {
        0 => BLOCK_ROWS,
        max => BLOCK_ROWS.min(max as usize),
    };
    let batch = access.generator.generate(rows)?;
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_iter_values(0..rows as i64)));
    columns.push(Arc::new(
        TimestampMicrosecondArray::from_value(access.clock.now_us(), rows).with_timezone("UTC"),
    ));
    columns.push(Arc::new(Int32Array::from_value(0, rows)));
    RecordBatch::try_new(full_schema(&access.schema), columns)
        .map_err(|e| weir_base::err!(LogicalError, "random rows of {} do not fit: {e}", access.name))
}

pub(super) struct RandomSource {
    access: RandomAccess,
    picker: Picker,
    read: Arc<Progress>,
    /// `None` = as many rows as are asked for. Made when first waited for, inside the runtime.
    pace: Option<(Duration, Option<Interval>)>,
    rows_per_tick: f64,
    /// What a tick left over: rates need not be whole numbers.
    owed: f64,
    /// Rows due now.
    due: u64,
    next: SeqNo,
    greeted: bool,
    /// The query is drained: what was made so far is all.
    drain: CancellationToken,
    /// The last watermark was given.
    closed: bool,
}

impl RandomSource {
    pub fn new(
        access: RandomAccess,
        spec: &SourceSpec,
        read: Arc<Progress>,
        drain: CancellationToken,
    ) -> Result<Self, StreamError> {
        let picker = Picker::by_name(&access.schema, &spec.columns, spec.schema.clone())?;
        let rate = access.rows_per_second;
        // A tick that would give less than a row only wastes a wake-up.
        let interval_ms = (access.interval_ms.max(1) as f64).max(1_000.0 / rate.max(1e-5));
        let unlimited = rate <= 0.0;
        Ok(RandomSource {
            picker,
            read,
            pace: (!unlimited).then(|| (Duration::from_micros((interval_ms * 1_000.0) as u64), None)),
            rows_per_tick: rate * interval_ms / 1_000.0,
            owed: 0.0,
            due: 0,
            next: SeqNo::ZERO,
            greeted: false,
            drain,
            closed: false,
            access,
        })
    }

    fn finished(&self) -> bool {
        self.drain.is_cancelled() || self.access.rows_max > 0 && self.next.0 >= self.access.rows_max
    }

    /// Rows that are due, at most one batch of them.
    fn give(&mut self) -> Result<Element, StreamError> {
        let mut n = if self.pace.is_some() { self.due.min(BATCH_ROWS_MAX) } else { BATCH_ROWS_MAX };
        if self.access.rows_max > 0 {
            n = n.min(self.access.rows_max - self.next.0);
        }
        self.due = self.due.saturating_sub(n);
        let rows = TailBatch {
            batch: self.access.generator.generate(n as usize)?,
            sns: Sns::Dense(self.next),
            append_times: Times::One(AppendTime(self.access.clock.now_us())),
        };
        self.next = self.next.plus(n);
        let batch = self.picker.pick(&rows, ShardId(0)).map_err(|e| {
            StreamError::from(weir_base::err!(
                LogicalError,
                "random rows of {} do not fit: {e}",
                self.access.name
            ))
        })?;
        self.read.add_read(n, batch.get_array_memory_size() as u64);
        Ok(Element::Rows(Rows::append(batch)))
    }

    fn ready(&mut self) -> Result<Option<Element>, StreamError> {
        if !self.greeted {
            self.greeted = true;
            return Ok(Some(Element::EndOfBackfill));
        }
        if self.finished() && !std::mem::replace(&mut self.closed, true) {
            return Ok(Some(Element::Watermark(WatermarkTime::INFINITY)));
        }
        if self.closed {
            return Ok(Some(Element::End));
        }
        if self.pace.is_none() || self.due > 0 { self.give().map(Some) } else { Ok(None) }
    }
}

#[async_trait::async_trait]
impl Source for RandomSource {
    async fn next(&mut self) -> Result<Element, StreamError> {
        loop {
            if let Some(element) = self.ready()? {
                return Ok(element);
            }
            let (period, timer) = self.pace.as_mut().expect("without a pace rows are always ready");
            let timer = timer.get_or_insert_with(|| {
                let mut timer = tokio::time::interval(*period);
                timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
                timer
            });
            tokio::select! {
                _ = timer.tick() => {}
                () = self.drain.cancelled() => continue,
            }
            let due = self.rows_per_tick + self.owed;
            self.due += due as u64;
            self.owed = due.fract();
        }
    }

    fn try_next(&mut self) -> Result<Option<Element>, StreamError> {
        self.ready()
    }

    fn position(&self) -> Vec<SeqNo> {
        vec![self.next]
    }
}
