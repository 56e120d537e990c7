//! A stream whose log is a topic, as who reads it live or writes to it sees it: rows of its parts and what was
//! fed, in the shape of an external stream, whose order over partitions promises no more.

use super::ExternalLog;
use crate::ingest::IngestPlan;
use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use weir_base::{Code, Error, EventTime, SeqNo};
use weir_plan::{
    ExternalRead, ExternalReader, ExternalRows, ExternalScan, ExternalStream, ExternalWrite, ExternalWriter,
    MESSAGE_PARTITION_COLUMN, Partition, Position, StreamError,
};
use weir_storage::{Shard, StorageError, StreamStore, TailBatch, TailCursor, Wanted};

/// Batches that wait for the query.
const AHEAD: usize = 4;
/// Rows of history that are decoded before the query asks for them, over all shards.
const AHEAD_BYTES_MAX: u64 = 32 << 20;

pub(crate) struct LogStream {
    log: Arc<ExternalLog>,
    store: Arc<StreamStore>,
    /// Says which partition a row belongs to.
    ingest: Arc<IngestPlan>,
    /// Spreads writes that say nothing about partitions.
    turn: Arc<AtomicU64>,
}

impl LogStream {
    pub fn new(
        log: Arc<ExternalLog>,
        store: Arc<StreamStore>,
        ingest: Arc<IngestPlan>,
        turn: Arc<AtomicU64>,
    ) -> Self {
        LogStream { log, store, ingest, turn }
    }

    fn shard(&self, partition: i32) -> Result<&Arc<Shard>, StreamError> {
        let shard = usize::try_from(partition).ok().and_then(|i| self.store.shards().get(i));
        shard.ok_or_else(|| StreamError {
            code: Code::BadArguments,
            message: format!("{:?} has no shard {partition}", self.log),
        })
    }
}

impl fmt::Debug for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)
    }
}

fn failed(e: StorageError) -> StreamError {
    Error::from(e).into()
}

#[async_trait::async_trait]
impl ExternalStream for LogStream {
    async fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        let shards = self.store.shards();
        let ends = futures::future::try_join_all(shards.iter().map(|s| s.sync())).await.map_err(failed)?;
        let partition =
            |(s, end): (&Arc<Shard>, SeqNo)| Partition { id: s.id().0 as i32, first: s.oldest(), end };
        Ok(shards.iter().zip(ends).map(partition).collect())
    }

    async fn seek_time(&self, at_ms: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        let shards = of.iter().map(|p| self.shard(p.id).cloned()).collect::<Result<Vec<_>, _>>()?;
        tokio::task::spawn_blocking(move || {
            shards.iter().map(|s| s.seek_event_time(EventTime(at_ms)).map_err(failed)).collect()
        })
        .await
        .map_err(|e| StreamError { code: Code::LogicalError, message: format!("a seek stopped: {e}") })?
    }

    async fn read(&self, scan: ExternalScan) -> Result<Box<dyn ExternalReader>, StreamError> {
        let schema = self.store.schema();
        let columns = scan.columns.as_ref().map(|names| {
            let mut columns: Vec<usize> = names.iter().filter_map(|n| schema.index_of(n).ok()).collect();
            columns.sort_unstable();
            columns.dedup();
            columns
        });
        let wanted = Wanted {
            columns,
            parts_first: true,
            ahead_bytes_max: AHEAD_BYTES_MAX / scan.from.len().max(1) as u64,
            ..Wanted::default()
        };
        let (to, from) = mpsc::channel(AHEAD);
        let (mut tasks, mut holds) = (JoinSet::new(), Vec::new());
        for (partition, at) in scan.from {
            let (hold, held) = watch::channel(false);
            let shard = self.shard(partition)?;
            let reading = Reading {
                partition,
                end: shard.watch_durable_end(),
                cursor: shard.tail_of(at, wanted.clone()),
                skipped: scan.skipped.get(&partition).cloned().unwrap_or_default(),
                held,
                to: to.clone(),
            };
            tasks.spawn(reading.run());
            holds.push((partition, hold));
        }
        Ok(Box::new(LogReader { log: self.log.clone(), from, holds, _tasks: tasks }))
    }

    async fn raw(&self, partition: i32, at: SeqNo) -> Result<Option<Vec<u8>>, StreamError> {
        self.log.stream.raw(partition, at).await
    }

    async fn write(&self, how: ExternalWrite) -> Result<Box<dyn ExternalWriter>, StreamError> {
        Ok(Box::new(LogWriter {
            writer: self.log.stream.write(how).await?,
            log: self.log.clone(),
            ingest: self.ingest.clone(),
            turn: self.turn.clone(),
        }))
    }

    fn is_transactional(&self) -> bool {
        self.log.stream.is_transactional()
    }
}

/// One shard that is read.
struct Reading {
    partition: i32,
    cursor: TailCursor,
    skipped: BTreeSet<SeqNo>,
    /// One past the newest row there is.
    end: watch::Receiver<SeqNo>,
    held: watch::Receiver<bool>,
    to: mpsc::Sender<Result<ExternalRead, StreamError>>,
}

impl Reading {
    /// Ends with the query, or after an error.
    async fn run(mut self) {
        let mut told = None;
        loop {
            if self.held.wait_for(|held| !held).await.is_err() {
                return;
            }
            let read = match self.cursor.try_next().await {
                Ok(Some(rows)) => Ok(self.rows(rows)),
                Ok(None) if told == Some(self.cursor.position()) => {
                    let at = self.cursor.position();
                    let read = tokio::select! {
                        read = self.cursor.next() => read.map(Some),
                        // Perhaps by a gap only, which is told as well.
                        _ = self.end.wait_for(|end| *end > at) => Ok(None),
                    };
                    read.map(|rows| rows.and_then(|rows| self.rows(rows)))
                }
                Ok(None) => {
                    let at = self.cursor.position();
                    told = Some(at);
                    Ok(Some(ExternalRead::CaughtUp { partition: self.partition, at }))
                }
                Err(e) => Err(e),
            };
            let last = read.is_err();
            let Some(read) = read.map_err(failed).transpose() else { continue };
            if self.to.send(read).await.is_err() || last {
                return;
            }
        }
    }

    /// Rows without those that are passed over; `None` where none is left.
    fn rows(&self, rows: TailBatch) -> Option<ExternalRead> {
        let next = rows.end().unwrap_or_default();
        let mut batch = rows.batch.clone();
        let (mut sns, mut append) = (rows.sn_array(), rows.append_time_array());
        if sns.values().iter().any(|sn| self.skipped.contains(&SeqNo(*sn as u64))) {
            let kept = sns.iter().map(|sn| sn.map(|sn| !self.skipped.contains(&SeqNo(sn as u64)))).collect();
            let filter = |array: &dyn arrow::array::Array| arrow::compute::filter(array, &kept).ok();
            batch = arrow::compute::filter_record_batch(&batch, &kept).ok()?;
            sns = filter(&sns)?.to_data().into();
            append = filter(&append)?.to_data().into();
        }
        if batch.num_rows() == 0 {
            return None;
        }
        Some(ExternalRead::Rows(ExternalRows {
            partition: self.partition,
            absent: vec![None; batch.num_columns()],
            batch,
            sns: sns.values().to_vec(),
            append_us: append.values().to_vec(),
            next,
        }))
    }
}

struct LogReader {
    log: Arc<ExternalLog>,
    from: mpsc::Receiver<Result<ExternalRead, StreamError>>,
    holds: Vec<(i32, watch::Sender<bool>)>,
    /// End with it.
    _tasks: JoinSet<()>,
}

fn ended() -> StreamError {
    StreamError { code: Code::QueryWasCancelled, message: "the stream that is read has ended".into() }
}

#[async_trait::async_trait]
impl ExternalReader for LogReader {
    async fn next(&mut self) -> Result<ExternalRead, StreamError> {
        self.from.recv().await.unwrap_or_else(|| Err(ended()))
    }

    fn try_next(&mut self) -> Result<Option<ExternalRead>, StreamError> {
        match self.from.try_recv() {
            Ok(read) => read.map(Some),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(ended()),
        }
    }

    fn hold(&mut self, partition: i32, hold: bool) {
        if let Some((_, held)) = self.holds.iter().find(|(id, _)| *id == partition) {
            held.send_replace(hold);
        }
    }

    fn trouble(&self) -> Option<String> {
        self.log.trouble()
    }
}

struct LogWriter {
    writer: Box<dyn ExternalWriter>,
    log: Arc<ExternalLog>,
    ingest: Arc<IngestPlan>,
    turn: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl ExternalWriter for LogWriter {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError> {
        let shards = self.ingest.shards();
        if shards == 1 {
            return self.writer.write(rows).await;
        }
        let partitions: Int32Array = match self.ingest.shards_of(rows)? {
            Some(of) => of.into_iter().map(|shard| shard as i32).collect(),
            None => {
                let at = self.turn.fetch_add(1, Ordering::Relaxed) % u64::from(shards);
                Int32Array::from_value(at as i32, rows.num_rows())
            }
        };
        let mut fields = rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new(MESSAGE_PARTITION_COLUMN, DataType::Int32, false)));
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(partitions));
        let placed = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| {
            StreamError { code: Code::LogicalError, message: format!("rows without partitions: {e}") }
        })?;
        self.writer.write(&placed).await
    }

    async fn flush(&mut self, at: Option<&Position>) -> Result<(), StreamError> {
        let flushed = self.writer.flush(at).await;
        // Also of what went before a failure.
        self.log.acknowledged(self.writer.acknowledged());
        flushed
    }

    fn linger(&self) -> Duration {
        self.writer.linger()
    }

    fn is_full(&self) -> bool {
        self.writer.is_full()
    }

    fn acknowledged(&self) -> Vec<(i32, SeqNo)> {
        self.writer.acknowledged()
    }

    async fn reached(&mut self) -> Result<Option<Position>, StreamError> {
        self.writer.reached().await
    }
}
