//! Streams whose log is a topic: who reads it, and what is done about what it can not read.
//!
//! ```text
//! INSERT, view -> `stream`: partition by sharding_expr -> topic
//! topic -> one reader a stream -> completed rows -> shards: live readers, snapshots -> parts
//! bounded query -> where does the partition end? -> waits until the reader has come there
//! ```
//!
//! Invariants
//! - partition = shard, offset = sequence number, one row a message: a row has the same number on every node;
//! - each row is fed once, in the order of offsets, from the committed end on: after a restart what was fed and
//!   not committed is read again;
//! - whoever waits for rows hears why reading does not go on.
//!
//! Not here: librdkafka (`connect`), what is held and goes to parts (`storage`).

mod stream;

pub(crate) use stream::LogStream;

use crate::ingest::IngestPlan;
use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::kernels::zip::zip;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use weir_base::{Code, Error, SeqNo, ShardId};
use weir_plan::{ExternalRead, ExternalRows, ExternalScan, ExternalStream, Partition, StreamError};
use weir_storage::{LogKeeper, Shard, Sns, StorageError, StreamStore, TIME_COLUMN, TailBatch, Times};

/// Between two attempts to read on.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Messages passed over that the server's log tells of, by partition.
const SKIPPED_TOLD_MAX: u64 = 100;
/// How long a query waits for rows that are in the topic and have not come.
const CAUGHT_UP_WAIT: Duration = Duration::from_secs(30);

/// The log of one stream, as all its shards share it.
pub(crate) struct ExternalLog {
    name: String,
    stream: Arc<dyn ExternalStream>,
    ingest: Arc<IngestPlan>,
    /// Rows without a time of their own get that of their message.
    time_of_message: bool,
    /// One past the newest offset that was acknowledged to this process, by shard.
    acked: Vec<AtomicU64>,
    /// Statements that asked where the log ends; and the number of the last of them at the newest question, with its
    /// answer.
    questions: AtomicU64,
    ends: AsyncMutex<(u64, Vec<SeqNo>)>,
    /// Messages that do not parse are passed over.
    skip: AtomicBool,
    /// Messages passed over, and offsets that were gone before they were read, by shard, since the start.
    skipped: Vec<AtomicU64>,
    lost: Vec<AtomicU64>,
    /// Of each shard one past the newest row fed.
    fed: Vec<watch::Receiver<SeqNo>>,
    trouble: watch::Sender<Option<Trouble>>,
    /// It is said anew what is done about messages that are no rows.
    told: Notify,
    stop: CancellationToken,
}

/// Rows up to a message that is none; where one goes on behind it, and why.
type Completed = (Option<TailBatch>, Option<(usize, StreamError)>);

/// Why reading does not go on.
#[derive(Debug, Clone)]
struct Trouble {
    error: StreamError,
    /// It will not go by itself.
    stands: bool,
}

/// Why one reader ended.
enum Ended {
    /// The stream is gone, or the server stops.
    Gone,
    /// Begin again at once.
    Again,
    Trouble(Trouble),
}

impl From<StreamError> for Ended {
    fn from(error: StreamError) -> Self {
        Ended::Trouble(Trouble { error, stands: false })
    }
}

impl From<StorageError> for Ended {
    fn from(e: StorageError) -> Self {
        match e {
            StorageError::Closed | StorageError::Dropped => Ended::Gone,
            e => Ended::Trouble(Trouble { error: Error::from(e).into(), stands: true }),
        }
    }
}

/// What the log of a stream is opened with.
pub(crate) struct LogOf {
    pub name: String,
    pub stream: Arc<dyn ExternalStream>,
    pub ingest: Arc<IngestPlan>,
    pub time_of_message: bool,
    pub skip: bool,
}

impl fmt::Debug for ExternalLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log of {}: {:?}", self.name, self.stream)
    }
}

impl ExternalLog {
    /// Begins to read on `runtime`, where there is one.
    pub fn start(of: LogOf, store: &StreamStore, runtime: Option<&tokio::runtime::Handle>) -> Arc<Self> {
        let shards = store.shards();
        let log = Arc::new(ExternalLog {
            name: of.name,
            stream: of.stream,
            ingest: of.ingest,
            time_of_message: of.time_of_message,
            acked: shards.iter().map(|_| AtomicU64::new(0)).collect(),
            questions: AtomicU64::new(0),
            ends: AsyncMutex::default(),
            skip: AtomicBool::new(of.skip),
            skipped: shards.iter().map(|_| AtomicU64::new(0)).collect(),
            lost: shards.iter().map(|_| AtomicU64::new(0)).collect(),
            fed: shards.iter().map(|s| s.watch_durable_end()).collect(),
            trouble: watch::Sender::new(None),
            told: Notify::new(),
            stop: CancellationToken::new(),
        });
        shards.iter().for_each(|shard| shard.keep_by(log.clone()));
        if let Some(runtime) = runtime {
            runtime.spawn(log.clone().read_on(shards.to_vec()));
        }
        log
    }

    /// Reads no more.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// What is done about messages that do not parse from now on.
    pub fn set_skip(&self, skip: bool) {
        if self.skip.swap(skip, Ordering::Relaxed) != skip {
            self.told.notify_one();
        }
    }

    /// Of a shard, since the start: messages that were passed over, and offsets that were gone before they were
    /// read.
    pub fn missed(&self, shard: ShardId) -> (u64, u64) {
        let of = |all: &[AtomicU64]| all.get(shard.0 as usize).map_or(0, |n| n.load(Ordering::Relaxed));
        (of(&self.skipped), of(&self.lost))
    }

    /// Why reading does not go on, in a line.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().as_ref().map(|t| t.error.message.clone())
    }

    /// The other side has rows of these partitions.
    fn acknowledged(&self, ends: Vec<(i32, SeqNo)>) {
        for (partition, end) in ends {
            if let Some(acked) = self.acked.get(partition as usize) {
                acked.fetch_max(end.0, Ordering::SeqCst);
            }
        }
    }

    async fn read_on(self: Arc<Self>, shards: Vec<Arc<Shard>>) {
        let mut wait = RETRY_MIN;
        // What the server's log has of a trouble that lasts.
        let mut said: Option<String> = None;
        loop {
            let before = self.fed_ends();
            let ended = tokio::select! {
                ended = self.read(&shards) => ended,
                () = self.stop.cancelled() => return,
            };
            match ended {
                Ended::Gone => return,
                Ended::Again => continue,
                Ended::Trouble(trouble) => {
                    let text = &trouble.error.message;
                    if said.as_deref() != Some(text) {
                        tracing::warn!(
                            stream = self.name,
                            error = text,
                            "the log of a stream is not read on; it is tried again"
                        );
                        said = Some(text.clone());
                    }
                    self.trouble.send_replace(Some(trouble));
                }
            }
            if self.fed_ends() != before {
                (wait, said) = (RETRY_MIN, None);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Something was done about it.
                () = self.told.notified() => self.clear_trouble(),
                () = self.stop.cancelled() => return,
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn clear_trouble(&self) {
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
    }

    /// Where partitions end, by a question that is asked after the call. Those who come while one is asked share the
    /// next.
    async fn ask_ends(&self) -> Result<Vec<SeqNo>, StreamError> {
        let mine = self.questions.fetch_add(1, Ordering::SeqCst) + 1;
        let mut known = self.ends.lock().await;
        if known.0 < mine {
            let newest = self.questions.load(Ordering::SeqCst);
            *known = (newest, self.stream.ends(self.fed.len()).await?);
        }
        Ok(known.1.clone())
    }

    fn fed_ends(&self) -> Vec<SeqNo> {
        self.fed.iter().map(|fed| *fed.borrow()).collect()
    }

    /// Where each partition is read from: where the rows that were fed end, or later where the topic begins
    /// there.
    fn starts(&self, partitions: &[Partition]) -> Result<Vec<(i32, SeqNo)>, Ended> {
        if partitions.len() < self.fed.len() {
            let message = format!(
                "{:?} has {} partitions, stream {} has {} shards: it is another topic than before; drop the stream and \
                 create it again",
                self.stream,
                partitions.len(),
                self.name,
                self.fed.len()
            );
            let error = StreamError { code: Code::BadArguments, message };
            return Err(Ended::Trouble(Trouble { error, stands: true }));
        }
        if partitions.len() > self.fed.len() {
            tracing::warn!(
                stream = self.name,
                "its topic has {} partitions now; those from {} on are not read, since a stream's shards do not change: \
                 write to none of them, or drop the stream and create it again",
                partitions.len(),
                self.fed.len()
            );
        }
        let from = |((p, end), lost): ((&Partition, SeqNo), &AtomicU64)| {
            if end < p.first && end > SeqNo::ZERO {
                lost.fetch_add(p.first.0 - end.0, Ordering::Relaxed);
                tracing::error!(
                    stream = self.name,
                    partition = p.id,
                    "rows {end} to {} of the topic are gone before they were read: its retention is shorter than this \
                     server was away",
                    p.first
                );
            }
            (p.id, end.max(p.first))
        };
        Ok(partitions.iter().zip(self.fed_ends()).zip(&self.lost).map(from).collect())
    }

    /// Reads until something keeps it from that.
    async fn read(&self, shards: &[Arc<Shard>]) -> Ended {
        match self.try_read(shards).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_read(&self, shards: &[Arc<Shard>]) -> Result<std::convert::Infallible, Ended> {
        let from = self.starts(&self.stream.partitions().await?)?;
        for ((_, at), shard) in from.iter().zip(shards) {
            shard.fed_to(*at);
        }
        let pass_over = self.skip.load(Ordering::Relaxed);
        let scan = ExternalScan { from, pass_over, ..ExternalScan::default() };
        let mut reader = self.stream.read(scan).await?;
        loop {
            let read = tokio::select! {
                read = reader.next() => read?,
                () = self.told.notified() => return Err(Ended::Again),
            };
            if !matches!(read, ExternalRead::Notice(_) | ExternalRead::BadMessage { .. }) {
                self.clear_trouble();
            }
            match read {
                ExternalRead::Rows(rows) => {
                    let shard = shards.get(rows.partition as usize);
                    let Some(shard) = shard else { continue };
                    let (partition, next) = (rows.partition, rows.next);
                    let mut from = 0;
                    while from < rows.sns.len() {
                        let (good, bad) = self.complete(&rows, from)?;
                        if let Some(good) = good {
                            shard.feed(good).await?;
                        }
                        let Some((to, error)) = bad else { break };
                        self.bad(partition, error)?;
                        from = to;
                    }
                    shard.fed_to(next);
                }
                ExternalRead::CaughtUp { partition, at } => {
                    if let Some(shard) = shards.get(partition as usize) {
                        shard.fed_to(at);
                    }
                }
                ExternalRead::Appeared(_) => {}
                ExternalRead::Notice(what) => {
                    tracing::warn!(stream = self.name, "{what}");
                }
                ExternalRead::PassedOver { partition, error, .. } => self.bad(partition, error)?,
                // It was said since that such are passed over: the next reader does.
                ExternalRead::BadMessage { .. } if self.skip.load(Ordering::Relaxed) => {
                    return Err(Ended::Again);
                }
                ExternalRead::BadMessage { partition, error, .. } => self.bad(partition, error)?,
            }
        }
    }

    /// What becomes of a message that is no row: passed over, or the end of reading.
    fn bad(&self, partition: i32, error: StreamError) -> Result<(), Ended> {
        if self.skip.load(Ordering::Relaxed) {
            let before =
                self.skipped.get(partition as usize).map_or(0, |n| n.fetch_add(1, Ordering::Relaxed));
            // The first tell what is wrong; how many there are `system.shards` says.
            if before < SKIPPED_TOLD_MAX {
                tracing::warn!(stream = self.name, error = error.message, "a message was passed over");
            }
            return Ok(());
        }
        let message = format!(
            "{}; the log of {} is not read beyond it: ALTER STREAM {} MODIFY SETTING logstore_on_error='skip' \
             passes it over",
            error.message, self.name, self.name
        );
        Err(Ended::Trouble(Trouble { error: StreamError { message, ..error }, stands: true }))
    }

    /// Rows from the one at `from` on, with all columns, up to the first message that is none: behind it one goes on,
    /// and why.
    fn complete(&self, rows: &ExternalRows, from: usize) -> Result<Completed, Ended> {
        let sn = |i: usize| SeqNo(rows.sns[i] as u64);
        let all = rows.sns.len();
        let several = (from + 1..all).find(|i| rows.sns[*i] == rows.sns[i - 1]);
        let good = several.map_or(all, |i| i - 1);
        let some = |rows: TailBatch| (rows.rows() > 0).then_some(rows);
        if let Ok(complete) = self.complete_range(rows, from, good) {
            let bad = several.map(|i| {
                let message = format!(
                    "message at offset {} of partition {} holds several rows; in the log of a stream it is one",
                    sn(i),
                    rows.partition
                );
                let to = (i..all).find(|k| rows.sns[*k] != rows.sns[i]).unwrap_or(all);
                (to, StreamError { code: Code::BadArguments, message })
            });
            return Ok((some(complete), bad));
        }
        // Row by row, to know which one it is.
        for i in from..good {
            let Err(e) = self.complete_range(rows, i, i + 1) else { continue };
            let message = format!(
                "message at offset {} of partition {} is no row: {}",
                sn(i),
                rows.partition,
                e.message
            );
            let before = self.complete_range(rows, from, i).map_err(StreamError::from)?;
            return Ok((some(before), Some((i + 1, StreamError { code: e.code, message }))));
        }
        let message = format!("rows of {} fail together and not alone", self.name);
        Err(StreamError { code: Code::LogicalError, message }.into())
    }

    fn complete_range(&self, rows: &ExternalRows, from: usize, to: usize) -> Result<TailBatch, Error> {
        let n = to - from;
        let mut batch = rows.batch.slice(from, n);
        let mut absent: Vec<Option<BooleanArray>> =
            rows.absent.iter().map(|a| a.as_ref().map(|mask| mask.slice(from, n))).collect();
        let append = TimestampMicrosecondArray::from_iter_values(rows.append_us[from..to].iter().copied())
            .with_timezone("UTC");
        if self.time_of_message
            && let Ok(i) = batch.schema_ref().index_of(TIME_COLUMN)
            && let Some(mask) = absent.get_mut(i).and_then(Option::take)
        {
            let column = batch.column(i);
            let times = arrow::compute::cast(&append, column.data_type()).map_err(bug)?;
            let mut columns = batch.columns().to_vec();
            columns[i] = zip(&mask, &times, column).map_err(bug)?;
            batch = RecordBatch::try_new(batch.schema(), columns).map_err(bug)?;
        }
        Ok(TailBatch {
            batch: self.ingest.complete(&batch, &absent)?,
            sns: Sns::Listed(Int64Array::from(rows.sns[from..to].to_vec())),
            append_times: Times::Listed(append),
        })
    }
}

fn bug(e: arrow::error::ArrowError) -> Error {
    Error::new(Code::LogicalError, format!("rows of a log do not fit their columns: {e}"))
}

#[async_trait::async_trait]
impl LogKeeper for ExternalLog {
    async fn caught_up(&self, shard: ShardId) -> Result<(), StorageError> {
        let at = shard.0 as usize;
        let away = |error: &StreamError| StorageError::LogAway {
            what: format!("it can not be said which rows stream {} has: {}", self.name, error.message),
        };
        let ends = self.ask_ends().await.map_err(|e| away(&e))?;
        // Rows that were fed are not there any more: what there is now is another log.
        if let Some(trouble) = &*self.trouble.borrow()
            && trouble.error.code == Code::SequenceOutOfRange
        {
            return Err(away(&trouble.error));
        }
        let end = ends.get(at).copied().unwrap_or_default().max(SeqNo(self.acked[at].load(Ordering::SeqCst)));
        let (mut fed, mut trouble) = (self.fed[at].clone(), self.trouble.subscribe());
        let wait = async {
            tokio::select! {
                biased;
                fed = fed.wait_for(|fed| *fed >= end) => fed.map(drop).map_err(|_| None),
                stands = trouble.wait_for(|t| t.as_ref().is_some_and(|t| t.stands)) => {
                    Err(stands.ok().and_then(|t| t.as_ref().map(|t| away(&t.error))))
                }
            }
        };
        match tokio::time::timeout(CAUGHT_UP_WAIT, wait).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(why.unwrap_or(StorageError::Closed)),
            Err(_) => {
                let why = self.trouble().unwrap_or_else(|| "brokers give them too slowly".into());
                Err(StorageError::LogAway {
                    what: format!(
                        "stream {} has rows to {end} in partition {shard}, and only those to {} have come within {} s: {why}",
                        self.name,
                        *self.fed[at].borrow(),
                        CAUGHT_UP_WAIT.as_secs()
                    ),
                })
            }
        }
    }
}
