//! History by event time across shards, in bounded memory.
//!
//! History is cut into slices of event time that hold about [`SLICE_ROWS`] rows by what is
//! known of parts and log; each slice is scanned (parts, row groups and pages outside it are
//! skipped), sorted by (event time, shard, sn) and given before the next is read. A slice
//! that turns out more than [`SLICE_ROWS_MAX`] is halved and read again, down to one
//! millisecond; what is held counts against the query's memory limit. Of the log a slice reads the
//! pieces that hold event times of it.
//!
//! Not here: merging with other sources (`gate`), live rows (`tail`).

use super::merge::{Key, Origin};
use crate::scan::{SHARD_COLUMN, SnapshotScan, StoredAccess, full_schema, query_error};
use arrow::array::{
    Array, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMillisecondArray,
};
use arrow::compute::{
    SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch,
};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMillisecondType};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, col, lit};
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use weir_base::{Code, Error, MemoryBudget, Reservation, SeqNo};
use weir_plan::{SourceSpec, StreamError};
use weir_storage::{SN_COLUMN, ShardSnapshot, TIME_COLUMN};

/// Rows a slice is meant to have.
const SLICE_ROWS: u64 = 262_144;
/// Rows at which a slice is halved instead.
const SLICE_ROWS_MAX: usize = 1_048_576;
/// Rows given at once.
const RUN_ROWS: usize = 32_768;
/// What is known of the log's event times is kept in at most so many pieces a shard.
const LOG_PIECES_MAX: usize = 4_096;
/// A slice that touches more pieces of logs reads what lies between them, too.
const SLICE_PIECES_MAX: usize = 16;

/// Rows in replay order, with what their keys need.
#[derive(Debug, Clone)]
pub(super) struct SortedRun {
    batch: RecordBatch,
    times: TimestampMillisecondArray,
    shards: Int32Array,
    sns: Int64Array,
}

impl SortedRun {
    pub fn key(&self, row: usize, origin: &Origin) -> Key {
        Key {
            time: self.times.value(row),
            stream: origin.stream.clone(),
            shard: self.shards.value(row) as u32,
            sn: self.sns.value(row) as u64,
            source: origin.source,
        }
    }

    pub fn run_length(&self, origin: &Origin, bound: Option<&Key>) -> usize {
        let Some(bound) = bound else { return self.batch.num_rows() };
        let (mut low, mut high) = (0, self.batch.num_rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle, origin) < *bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The first `n` rows, and the others if there are any.
    pub fn split(self, n: usize) -> (RecordBatch, Option<SortedRun>) {
        let rest = (n < self.batch.num_rows()).then(|| self.slice(n, self.batch.num_rows() - n));
        (self.batch.slice(0, n), rest)
    }

    fn slice(&self, offset: usize, len: usize) -> SortedRun {
        SortedRun {
            batch: self.batch.slice(offset, len),
            times: self.times.slice(offset, len),
            shards: self.shards.slice(offset, len),
            sns: self.sns.slice(offset, len),
        }
    }
}

/// Event times and the number of rows spread over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    min: i64,
    max: i64,
    rows: u64,
}

/// Rows of one snapshot's log and their event times.
#[derive(Debug, Clone, Copy)]
struct LogPiece {
    snapshot: usize,
    from: SeqNo,
    end: SeqNo,
    extent: Extent,
}

pub(super) struct EventTimeReplay {
    head: Option<SortedRun>,
    state: State,
}

enum State {
    Reading(BoxFuture<'static, Result<(Box<Reader>, Option<Slice>), StreamError>>),
    Giving { reader: Box<Reader>, slice: Slice, at: usize },
    Ended,
}

struct Slice {
    rows: SortedRun,
    _held: Reservation,
}

struct Reader {
    access: StoredAccess,
    snapshots: Vec<ShardSnapshot>,
    from: Vec<SeqNo>,
    full: SchemaRef,
    /// Positions in the full schema: the query's columns, then time, shard, sn.
    projection: Vec<usize>,
    schema: SchemaRef,
    prune: Option<Arc<dyn PhysicalExpr>>,
    task: Arc<TaskContext>,
    memory: Arc<MemoryBudget>,
    extents: Vec<Extent>,
    /// By snapshot and sequence number.
    log: Vec<LogPiece>,
    /// The next slice begins here.
    at: i64,
    last: i64,
    /// Slices to be read before new ones are cut, latest first: halves of one too large.
    pending: Vec<(i64, i64)>,
}

impl EventTimeReplay {
    /// Replays the rows of `snapshots` at or after `from`.
    pub fn new(
        access: StoredAccess,
        snapshots: Vec<ShardSnapshot>,
        from: Vec<SeqNo>,
        spec: &SourceSpec,
        task: Arc<TaskContext>,
        memory: Arc<MemoryBudget>,
    ) -> Result<Self, StreamError> {
        let full = full_schema(&access.schema);
        let index = |name: &str| {
            full.index_of(name).map_err(|_| StreamError {
                code: Code::UnknownIdentifier,
                message: format!("{} has no column {name}", access.name),
            })
        };
        let mut projection = spec.columns.iter().map(|c| index(c)).collect::<Result<Vec<_>, _>>()?;
        for name in [TIME_COLUMN, SHARD_COLUMN, SN_COLUMN] {
            projection.push(index(name)?);
        }
        // A hint that does not fit (an unknown column) prunes nothing.
        let prune = spec.prune.as_ref().and_then(|p| reassign_expr_columns(p.clone(), &full).ok());
        let reader = Box::new(Reader {
            access,
            snapshots,
            from,
            full,
            projection,
            schema: spec.schema.clone(),
            prune,
            task,
            memory,
            extents: Vec::new(),
            log: Vec::new(),
            at: 0,
            last: -1,
            pending: Vec::new(),
        });
        let begin = async move {
            let reader = reader.survey().await?;
            reader.next_slice().await
        };
        Ok(EventTimeReplay { head: None, state: State::Reading(begin.boxed()) })
    }

    /// The rows to be given next; `None` at the end of history.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<&SortedRun>, StreamError>> {
        while self.head.is_none() {
            match &mut self.state {
                State::Ended => return Poll::Ready(Ok(None)),
                State::Reading(read) => {
                    let outcome = ready!(read.poll_unpin(cx));
                    self.state = match outcome? {
                        (reader, Some(slice)) => State::Giving { reader, slice, at: 0 },
                        (_, None) => State::Ended,
                    };
                }
                State::Giving { slice, at, .. } => {
                    let left = slice.rows.batch.num_rows() - *at;
                    if left > 0 {
                        let n = left.min(RUN_ROWS);
                        self.head = Some(slice.rows.slice(*at, n));
                        *at += n;
                    } else {
                        let State::Giving { reader, .. } = std::mem::replace(&mut self.state, State::Ended)
                        else {
                            unreachable!("matched above")
                        };
                        self.state = State::Reading(reader.next_slice().boxed());
                    }
                }
            }
        }
        Poll::Ready(Ok(self.head.as_ref()))
    }

    pub fn take_head(&mut self) -> SortedRun {
        self.head.take().expect("poll_head gave it")
    }

    pub fn put_back(&mut self, rest: SortedRun) {
        self.head = Some(rest);
    }
}

fn failed(e: DataFusionError) -> StreamError {
    StreamError::from(e)
}

impl Reader {
    /// Learns how the rows lie in event time.
    async fn survey(mut self: Box<Self>) -> Result<Box<Self>, StreamError> {
        let snapshots = self.snapshots.clone();
        let log = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            for (snapshot, held) in snapshots.iter().enumerate() {
                let mut pieces: Vec<LogPiece> = Vec::new();
                for rows in held.log_rows() {
                    let rows = rows.map_err(query_error)?;
                    if let (Some(extent), Some(end)) = (extent_of(&rows.batch), rows.end()) {
                        pieces.push(LogPiece { snapshot, from: rows.sn(0), end, extent });
                    }
                    if pieces.len() > LOG_PIECES_MAX {
                        pieces = pieces.chunks(2).map(joined).collect();
                    }
                }
                all.extend(pieces);
            }
            Ok::<_, DataFusionError>(all)
        });
        let log = log.await.map_err(|e| StreamError {
            code: Code::LogicalError,
            message: format!("reading the log of {} stopped: {e}", self.access.name),
        })?;
        self.log = log.map_err(failed)?;
        self.extents = self.log.iter().map(|p| p.extent).collect();
        for (snapshot, from) in self.snapshots.iter().zip(&self.from) {
            let parts = snapshot.parts.iter().map(|p| &p.meta).filter(|m| m.sn_end > *from);
            self.extents.extend(parts.map(|m| Extent {
                min: m.event_min.0,
                max: m.event_max.0,
                rows: m.rows,
            }));
        }
        self.at = self.extents.iter().map(|e| e.min).min().unwrap_or(0);
        self.last = self.extents.iter().map(|e| e.max).max().unwrap_or(-1);
        Ok(self)
    }

    async fn next_slice(mut self: Box<Self>) -> Result<(Box<Self>, Option<Slice>), StreamError> {
        loop {
            let (from, to) = match self.pending.pop() {
                Some(half) => half,
                None if self.at > self.last => return Ok((self, None)),
                None => {
                    let to = slice_end(&self.extents, self.at, self.last, SLICE_ROWS);
                    (std::mem::replace(&mut self.at, to + 1), to)
                }
            };
            if !self.extents.iter().any(|e| e.min <= to && e.max >= from) {
                continue;
            }
            match self.read(from, to).await? {
                Some(slice) if slice.rows.batch.num_rows() > 0 => return Ok((self, Some(slice))),
                Some(_) => {}
                None => {
                    let middle = from + (to - from) / 2;
                    self.pending.push((middle + 1, to));
                    self.pending.push((from, middle));
                }
            }
        }
    }

    /// Rows with event time in `[from, to]`, sorted; `None` = too many, and it can be halved.
    async fn read(&self, from: i64, to: i64) -> Result<Option<Slice>, StreamError> {
        let (stream, mut held) = {
            let reserve = self.memory.reserve(0).map_err(over)?;
            let plan = self.plan(from, to).map_err(failed)?;
            (execute_stream(plan, self.task.clone()).map_err(failed)?, reserve)
        };
        let mut stream = stream;
        let (mut batches, mut rows) = (Vec::new(), 0);
        while let Some(batch) = stream.try_next().await.map_err(failed)? {
            let batch = self.within(&batch, from, to).map_err(|e| failed(e.into()))?;
            rows += batch.num_rows();
            if rows > SLICE_ROWS_MAX && to > from {
                return Ok(None);
            }
            // Twice: once as read, once sorted.
            held.grow(2 * batch.get_array_memory_size() as u64).map_err(over)?;
            batches.push(batch);
        }
        let schema = stream.schema();
        let sorted = self.sort(&schema, &batches).map_err(|e| failed(e.into()))?;
        Ok(Some(Slice { rows: sorted, _held: held }))
    }

    fn plan(&self, from: i64, to: i64) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let utc: Option<Arc<str>> = Some("UTC".into());
        let time = col(TIME_COLUMN, &self.full)?;
        let at = |ms| lit(ScalarValue::TimestampMillisecond(Some(ms), utc.clone()));
        let and = |a, b| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(a, Operator::And, b)) };
        let mut predicate = and(
            Arc::new(BinaryExpr::new(time.clone(), Operator::GtEq, at(from))),
            Arc::new(BinaryExpr::new(time, Operator::LtEq, at(to))),
        );
        if let Some(prune) = &self.prune {
            predicate = and(predicate, prune.clone());
        }
        let options = self.task.session_config().options();
        SnapshotScan {
            access: &self.access,
            full_schema: self.full.clone(),
            snapshots: self.snapshots.clone(),
            logs: Some(self.log_between(from, to)),
            projection: &self.projection,
            predicate: Some(predicate),
            limit: None,
            // Rows are sorted afterwards.
            target_partitions: self.task.session_config().target_partitions(),
            options: datafusion::config::TableParquetOptions {
                global: options.execution.parquet.clone(),
                ..Default::default()
            },
        }
        .plan()
    }

    /// Of the snapshots' logs what holds event times in `[from, to]`.
    fn log_between(&self, from: i64, to: i64) -> Vec<ShardSnapshot> {
        let hit = self.log.iter().filter(|p| p.extent.min <= to && p.extent.max >= from);
        let mut runs: Vec<(usize, SeqNo, SeqNo)> = Vec::new();
        for piece in hit {
            let full = runs.len() >= SLICE_PIECES_MAX;
            match runs.last_mut() {
                Some((snapshot, _, end)) if *snapshot == piece.snapshot && (*end == piece.from || full) => {
                    *end = piece.end;
                }
                _ => runs.push((piece.snapshot, piece.from, piece.end)),
            }
        }
        runs.into_iter().map(|(snapshot, from, end)| self.snapshots[snapshot].log_piece(from, end)).collect()
    }

    /// Of a scanned batch the rows that belong to the slice and to the start position.
    fn within(
        &self,
        batch: &RecordBatch,
        from: i64,
        to: i64,
    ) -> Result<RecordBatch, arrow::error::ArrowError> {
        let (times, shards, sns) = keys_of(batch);
        let keep: BooleanArray = (0..batch.num_rows())
            .map(|i| {
                let time = times.value(i);
                let first = self.from.get(shards.value(i) as usize).copied().unwrap_or_default();
                Some(time >= from && time <= to && sns.value(i) as u64 >= first.0)
            })
            .collect();
        filter_record_batch(batch, &keep)
    }

    fn sort(
        &self,
        schema: &SchemaRef,
        batches: &[RecordBatch],
    ) -> Result<SortedRun, arrow::error::ArrowError> {
        let all = concat_batches(schema, batches)?;
        let (times, shards, sns) = keys_of(&all);
        let key = |values: &dyn Array| SortColumn {
            values: arrow::array::make_array(values.to_data()),
            options: None,
        };
        let order = lexsort_to_indices(&[key(&times), key(&shards), key(&sns)], None)?;
        let sorted = take_record_batch(&all, &order)?;
        let (times, shards, sns) = keys_of(&sorted);
        let own: Vec<_> = sorted.columns()[..sorted.num_columns() - 3].to_vec();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(sorted.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), own, &options)?;
        Ok(SortedRun { batch, times, shards, sns })
    }
}

fn over(e: weir_base::memory::OverBudget) -> StreamError {
    StreamError::from(Error::new(
        Code::MemoryLimitExceeded,
        format!("replay in event-time order: {e}; raise max_memory_usage"),
    ))
}

/// The last three columns: time, shard, sn.
fn keys_of(batch: &RecordBatch) -> (TimestampMillisecondArray, Int32Array, Int64Array) {
    let n = batch.num_columns();
    (
        batch.column(n - 3).as_primitive::<TimestampMillisecondType>().clone(),
        batch.column(n - 2).as_primitive::<Int32Type>().clone(),
        batch.column(n - 1).as_primitive::<Int64Type>().clone(),
    )
}

fn extent_of(batch: &RecordBatch) -> Option<Extent> {
    let times = batch.column_by_name(TIME_COLUMN)?.as_primitive_opt::<TimestampMillisecondType>()?;
    let (min, max) = (arrow::compute::min(times)?, arrow::compute::max(times)?);
    Some(Extent { min, max, rows: batch.num_rows() as u64 })
}

fn joined(pieces: &[LogPiece]) -> LogPiece {
    let both =
        |a: Extent, b: Extent| Extent { min: a.min.min(b.min), max: a.max.max(b.max), rows: a.rows + b.rows };
    pieces
        .iter()
        .copied()
        .reduce(|a, b| LogPiece { end: b.end, extent: both(a.extent, b.extent), ..a })
        .expect("chunks are not empty")
}

/// The end (inclusive) of a slice from `from` with about `rows_wanted` rows, if rows lie evenly
/// within their extents. At least one millisecond, at most to `last`.
fn slice_end(extents: &[Extent], from: i64, last: i64, rows_wanted: u64) -> i64 {
    let rows_until = |to: i64| -> f64 {
        extents
            .iter()
            .map(|e| {
                let (low, high) = (e.min.max(from), e.max.min(to));
                if low > high {
                    return 0.0;
                }
                let width = (e.max as f64 - e.min as f64) + 1.0;
                e.rows as f64 * (((high as f64 - low as f64) + 1.0) / width)
            })
            .sum()
    };
    let (mut low, mut high) = (from, last);
    while low < high {
        let middle = low + (high - low) / 2;
        if rows_until(middle) >= rows_wanted as f64 {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_hold_about_what_was_asked() {
        let e = |min, max, rows| Extent { min, max, rows };
        // (name, extents, from, last, wanted, expected end)
        let cases = [
            ("all fits", vec![e(0, 99, 100)], 0, 99, 1_000, 99),
            ("a tenth", vec![e(0, 99, 100)], 0, 99, 10, 9),
            ("from the middle", vec![e(0, 99, 100)], 50, 99, 10, 59),
            ("two over each other", vec![e(0, 99, 100), e(0, 99, 100)], 0, 99, 10, 4),
            ("one instant with all rows", vec![e(5, 5, 1_000)], 5, 9, 10, 5),
            ("a gap is skipped over", vec![e(0, 9, 10), e(1_000, 1_009, 10)], 0, 1_009, 15, 1_004),
        ];
        for (name, extents, from, last, wanted, expected) in cases {
            assert_eq!(slice_end(&extents, from, last, wanted), expected, "{name}");
        }
    }
}
