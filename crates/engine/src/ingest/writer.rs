//! Blocks of rows to records, records to shards, and what to say when one of them fails.
//!
//! Invariants
//! - Nothing of a block is appended before all its rows are parsed and completed.
//! - Records of one insert reach a shard in order; at most one a shard is on its way while the
//!   next is being made ready.
//! - With an id, which rows make up a record depends on the rows alone, so that repeating them
//!   finds the same records.

use super::IngestPlan;
use crate::outcome::{Done, InsertWriter};
use crate::settings::LogWriter;
use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat, concat_batches, take_record_batch};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use weir_base::{Error, MemoryBudget, Reservation, Result, err};
use weir_format::DecodedBatch;
use weir_plan::{ExternalStream, ExternalWrite, ExternalWriter, StreamError};
use weir_storage::{Ack, Idempotency, Progress, StorageError, StreamStore};

/// An id of more bytes is refused.
const ID_BYTES_MAX: usize = 255;

/// A block up to this is completed where it is: waking another thread would take longer.
const INLINE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct WriterOptions {
    /// `database.name` of the target, for messages.
    pub stream: String,
    pub query_id: String,
    pub block_rows_max: usize,
    pub ack: Ack,
    pub idempotent_id: Option<String>,
    pub log_writer: Option<(LogWriter, Arc<LogWriters>)>,
    /// Compute threads: completing a block is work that network threads should not do.
    pub compute: tokio::runtime::Handle,
    pub memory: Arc<MemoryBudget>,
    pub written_rows_total: weir_base::metrics::Metric,
}

/// Where records go.
#[derive(Clone)]
pub(crate) enum Destination {
    Store(Arc<StreamStore>),
    /// Messages, in the order of their rows; a writer is made when there is something to write.
    External(Arc<dyn ExternalStream>, Arc<AsyncMutex<Option<Box<dyn ExternalWriter>>>>),
}

/// What became of a record.
struct Kept {
    rows: u32,
    repeated: bool,
}

enum Failed {
    Store(StorageError),
    External(StreamError),
    /// A writer is not where its INSERT says that it is.
    Moved,
}

/// One at a time of those who write with a position: between the look at where a writer is and the end of its
/// append nobody else moves it.
#[derive(Debug)]
pub(crate) struct LogWriters([Arc<AsyncMutex<()>>; 64]);

impl Default for LogWriters {
    fn default() -> Self {
        LogWriters(std::array::from_fn(|_| Arc::default()))
    }
}

impl LogWriters {
    fn of(&self, writer: &[u8; 16]) -> Arc<AsyncMutex<()>> {
        let mut hash = StableHash::default();
        hash.write(writer);
        self.0[(hash.finish() % self.0.len() as u64) as usize].clone()
    }
}

/// Appends a record of who writes with a position. Not to be given up half way.
async fn append_as(
    store: Arc<StreamStore>,
    shard: u32,
    batch: RecordBatch,
    (writer, locks): (LogWriter, Arc<LogWriters>),
) -> Result<Kept, Failed> {
    let _one = locks.of(&writer.id).lock_owned().await;
    let shard = store.shards()[shard as usize].clone();
    let at = shard.progress(&writer.id).unwrap_or_default();
    if *at == *writer.to {
        return Ok(Kept { rows: batch.num_rows() as u32, repeated: true });
    }
    if *at != *writer.from {
        return Err(Failed::Moved);
    }
    let progress = Progress { writer: writer.id, bytes: writer.to.into() };
    let appended = shard.append_as(batch, progress, Ack::Durable).await.map_err(Failed::Store)?;
    Ok(Kept { rows: appended.rows, repeated: false })
}

impl Destination {
    pub fn external(stream: Arc<dyn ExternalStream>) -> Self {
        Destination::External(stream, Arc::default())
    }

    /// Appends a record; returns when it is kept as `ack` says, by an external stream always durably.
    fn append(
        &self,
        shard: u32,
        batch: RecordBatch,
        idempotency: Option<Idempotency>,
        ack: Ack,
    ) -> BoxFuture<'static, Result<Kept, Failed>> {
        match self {
            Destination::Store(store) => {
                let shard = store.shards()[shard as usize].clone();
                async move {
                    let appended = shard.append(batch, idempotency, ack).await.map_err(Failed::Store)?;
                    Ok(Kept { rows: appended.rows, repeated: appended.repeated })
                }
                .boxed()
            }
            Destination::External(stream, writer) => {
                let (stream, writer) = (stream.clone(), writer.clone());
                async move {
                    let mut writer = writer.lock().await;
                    if writer.is_none() {
                        *writer = Some(stream.write(ExternalWrite::Plain).await.map_err(Failed::External)?);
                    }
                    let writer = writer.as_mut().expect("made above");
                    writer.write(&batch).await.map_err(Failed::External)?;
                    writer.flush(None).await.map_err(Failed::External)?;
                    Ok(Kept { rows: batch.num_rows() as u32, repeated: false })
                }
                .boxed()
            }
        }
    }
}

/// What came in and is not yet a block.
#[derive(Default)]
struct Pending {
    batches: Vec<RecordBatch>,
    absent: Vec<Vec<Option<BooleanArray>>>,
    rows: usize,
    held: Option<Reservation>,
}

pub(crate) struct StreamWriter {
    plan: Arc<IngestPlan>,
    to: Destination,
    /// Spreads inserts that say nothing about shards.
    turn: Arc<AtomicU64>,
    options: WriterOptions,
    id: Option<Arc<str>>,
    pending: Pending,
    /// Blocks made so far.
    blocks: u32,
    /// One a shard: its newest record, on its way.
    in_flight: Vec<Option<JoinHandle<Result<Kept, Failed>>>>,
    rows_kept: u64,
    bytes_kept: u64,
    failed: bool,
}

impl StreamWriter {
    /// # Errors
    /// `BadArguments` (36) for an id that is too long.
    pub fn new(
        plan: Arc<IngestPlan>,
        to: Destination,
        turn: Arc<AtomicU64>,
        options: WriterOptions,
    ) -> Result<Self> {
        let id: Option<Arc<str>> = options.idempotent_id.as_deref().map(Arc::from);
        if let Some(id) = &id
            && id.len() > ID_BYTES_MAX
        {
            return Err(err!(
                BadArguments,
                "idempotent_id has {} bytes, {ID_BYTES_MAX} are the most",
                id.len()
            ));
        }
        if let (Some(_), Destination::External(..)) = (&id, &to) {
            return Err(err!(
                BadArguments,
                "{} is an external stream, which knows no idempotent_id; leave it out",
                options.stream
            ));
        }
        if options.log_writer.is_some() {
            let refused = match &to {
                _ if id.is_some() => Some("idempotent_id says the same in another way; leave it out"),
                Destination::External(..) => Some("an external stream keeps no positions of writers"),
                Destination::Store(_) if plan.shards() > 1 && plan.has_sharding() => {
                    Some("its sharding_expr spreads an INSERT over shards, so that it is no single record")
                }
                Destination::Store(_) => None,
            };
            if let Some(why) = refused {
                return Err(err!(NotImplemented, "log_writer in an INSERT into {}: {why}", options.stream));
            }
        }
        let in_flight = (0..plan.shards()).map(|_| None).collect();
        Ok(StreamWriter {
            plan,
            to,
            turn,
            options,
            id,
            pending: Pending::default(),
            blocks: 0,
            in_flight,
            rows_kept: 0,
            bytes_kept: 0,
            failed: false,
        })
    }

    async fn push(&mut self, decoded: DecodedBatch) -> Result<()> {
        if decoded.batch.num_rows() == 0 {
            return Ok(());
        }
        let bytes = decoded.batch.get_array_memory_size() as u64;
        let reserved = match &mut self.pending.held {
            Some(held) => held.grow(bytes),
            none => self.options.memory.reserve(bytes).map(|r| *none = Some(r)),
        };
        reserved.map_err(|e| {
            err!(MemoryLimitExceeded, "{e}; lower max_insert_block_size, now {}", self.options.block_rows_max)
        })?;
        let mut from = 0;
        while from < decoded.batch.num_rows() {
            let room = self.options.block_rows_max - self.pending.rows;
            let take = room.min(decoded.batch.num_rows() - from);
            self.pending.batches.push(decoded.batch.slice(from, take));
            self.pending
                .absent
                .push(decoded.absent.iter().map(|a| a.as_ref().map(|m| m.slice(from, take))).collect());
            self.pending.rows += take;
            from += take;
            if self.pending.rows == self.options.block_rows_max {
                self.flush(false).await?;
            }
        }
        Ok(())
    }

    /// Makes a block of what is pending and sends it on its way. Of the `last` block one record
    /// is seen to its end: nothing is left to be done meanwhile.
    async fn flush(&mut self, last: bool) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.rows == 0 {
            return Ok(());
        }
        let block_no = self.blocks;
        self.blocks += 1;
        let plan = self.plan.clone();
        let wants_hash = self.id.is_some();
        let fixed_shard = self.shard_of_block(block_no);
        let bytes: usize = pending.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let made = if bytes <= INLINE_BYTES_MAX {
            Block::make(&plan, pending, wants_hash, fixed_shard)?
        } else {
            let make = move || Block::make(&plan, pending, wants_hash, fixed_shard);
            let made = self.options.compute.spawn_blocking(make).await;
            made.map_err(|e| err!(LogicalError, "making a block ended without an answer: {e}"))??
        };
        let Block { records, content_hash, held } = made;
        let held = Arc::new(held);
        let mut left = records.len();
        for (shard, batch) in records {
            left -= 1;
            self.wait_for(shard).await?;
            let idempotency = self.id.clone().map(|id| Idempotency { id, record_no: block_no, content_hash });
            let (ack, held) = (self.options.ack, held.clone());
            let bytes = batch.get_array_memory_size() as u64;
            self.bytes_kept += bytes;
            let append = match (&self.options.log_writer, &self.to) {
                (Some(writer), Destination::Store(store)) => {
                    // Seen to its end whatever becomes of who asked for it.
                    let append = append_as(store.clone(), shard, batch, writer.clone());
                    let task = self.options.compute.spawn(append);
                    async move { task.await.unwrap_or(Err(Failed::Store(StorageError::Closed))) }.boxed()
                }
                _ => self.to.append(shard, batch, idempotency, ack),
            };
            let append = async move {
                let appended = append.await;
                drop(held);
                appended
            };
            if last && left == 0 {
                let appended = append.await;
                self.note(appended)?;
            } else {
                self.in_flight[shard as usize] = Some(self.options.compute.spawn(append));
            }
        }
        Ok(())
    }

    /// Where a whole block goes; `None` when its rows say it themselves.
    fn shard_of_block(&self, block_no: u32) -> Option<u32> {
        let shards = u64::from(self.plan.shards());
        if let Some((writer, _)) = &self.options.log_writer {
            let mut hash = StableHash::default();
            hash.write(&writer.id);
            return Some((hash.finish() % shards) as u32);
        }
        match &self.id {
            Some(_) if self.plan.sharding_is_deterministic() => None,
            // A repeat has to find the same shard: a function of id and block, so of row number.
            Some(id) => {
                let mut hash = StableHash::default();
                hash.write(id.as_bytes());
                Some((hash.finish().wrapping_add(u64::from(block_no)) % shards) as u32)
            }
            None => Some((self.turn.fetch_add(1, Ordering::Relaxed) % shards) as u32),
        }
    }

    async fn wait_for(&mut self, shard: u32) -> Result<()> {
        let Some(task) = self.in_flight[shard as usize].take() else { return Ok(()) };
        let appended =
            task.await.map_err(|e| err!(LogicalError, "an append ended without an answer: {e}"))?;
        self.note(appended)
    }

    /// What became of a record.
    fn note(&mut self, appended: Result<Kept, Failed>) -> Result<()> {
        let appended = appended.map_err(|e| match e {
            Failed::Store(StorageError::Dropped) => {
                err!(UnknownStream, "stream {} was dropped", self.options.stream)
            }
            Failed::Store(e) => append_error(&e),
            Failed::External(e) => e.into(),
            Failed::Moved => err!(
                SequenceOutOfRange,
                "log_writer is not at log_writer_from in {}: somebody wrote under its name since; system.log_writers \
                 says where it is",
                self.options.stream
            ),
        })?;
        self.rows_kept += u64::from(appended.rows);
        if !appended.repeated {
            self.options.written_rows_total.add(i64::from(appended.rows));
        }
        Ok(())
    }

    async fn wait_for_all(&mut self) -> Result<()> {
        let mut first = None;
        for shard in 0..self.in_flight.len() as u32 {
            if let Err(e) = self.wait_for(shard).await {
                first.get_or_insert(e);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Sends what is pending on its way and waits until all of it is acknowledged.
    ///
    /// # Errors
    /// As [`InsertWriter::write`].
    pub async fn commit(&mut self) -> Result<()> {
        let result = match self.flush(true).await {
            Ok(()) => self.wait_for_all().await,
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => Ok(()),
            Err(e) => Err(self.fail(e).await),
        }
    }

    /// Rows and bytes that are acknowledged.
    pub fn kept(&self) -> (u64, u64) {
        (self.rows_kept, self.bytes_kept)
    }

    /// Ends the insert with another's error, which then says how much is kept.
    pub async fn abandon(mut self, e: Error) -> Error {
        if self.options.log_writer.is_some() {
            // Its rows are all there or none: the position says that they are.
            return e;
        }
        match self.commit().await {
            Ok(()) => self.fail(e).await,
            // The first error is why it ends.
            Err(_) => e,
        }
    }

    /// Waits for what is on its way, then says how much of the insert is there.
    async fn fail(&mut self, e: Error) -> Error {
        self.failed = true;
        let _ = self.wait_for_all().await;
        if self.rows_kept == 0 {
            return e;
        }
        Error { message: format!("{}; {} rows of this insert are kept", e.message, self.rows_kept), ..e }
    }
}

fn append_error(e: &StorageError) -> Error {
    Error::new(e.code(), e.to_string())
}

#[async_trait::async_trait]
impl InsertWriter for StreamWriter {
    async fn write(&mut self, batch: DecodedBatch) -> Result<()> {
        if self.failed {
            return Err(err!(BadArguments, "the insert has failed already"));
        }
        match self.push(batch).await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.fail(e).await),
        }
    }

    async fn finish(mut self: Box<Self>) -> Result<Done> {
        if self.failed {
            return Err(err!(BadArguments, "the insert has failed already"));
        }
        self.commit().await?;
        Ok(Done {
            query_id: self.options.query_id.clone(),
            written_rows: self.rows_kept,
            written_bytes: self.bytes_kept,
            warnings: Vec::new(),
        })
    }
}

/// Rows that become one record in each shard they belong to.
struct Block {
    records: Vec<(u32, RecordBatch)>,
    content_hash: u64,
    /// Given back when the last record is appended.
    held: Option<Reservation>,
}

impl Block {
    fn make(plan: &IngestPlan, pending: Pending, wants_hash: bool, shard: Option<u32>) -> Result<Block> {
        let internal = |e: arrow::error::ArrowError| err!(LogicalError, "could not join rows: {e}");
        let schema = pending.batches[0].schema();
        let given = concat_batches(&schema, &pending.batches).map_err(internal)?;
        let absent = join_absent(&pending, schema.fields().len()).map_err(internal)?;
        let content_hash = if wants_hash { hash_rows(&given, &absent)? } else { 0 };
        let complete = plan.complete(&given, &absent)?;
        let shards = match shard {
            // Where rows choose and no id needs the choice to be repeatable.
            Some(_) if !wants_hash => plan.shards_of(&complete)?,
            Some(_) => None,
            None => plan.shards_of(&complete)?,
        };
        let records = match shards {
            None => vec![(shard.unwrap_or(0), complete)],
            Some(of_row) => {
                let mut rows: Vec<Vec<u32>> = vec![Vec::new(); plan.shards() as usize];
                for (row, shard) in of_row.iter().enumerate() {
                    rows[*shard as usize].push(row as u32);
                }
                rows.into_iter()
                    .enumerate()
                    .filter(|(_, rows)| !rows.is_empty())
                    .map(|(shard, rows)| {
                        let picked = take_record_batch(&complete, &UInt32Array::from(rows));
                        picked.map(|batch| (shard as u32, batch)).map_err(internal)
                    })
                    .collect::<Result<_>>()?
            }
        };
        Ok(Block { records, content_hash, held: pending.held })
    }
}

fn join_absent(
    pending: &Pending,
    columns: usize,
) -> Result<Vec<Option<BooleanArray>>, arrow::error::ArrowError> {
    (0..columns)
        .map(|c| {
            if pending.absent.iter().all(|a| a.get(c).is_none_or(Option::is_none)) {
                return Ok(None);
            }
            let masks: Vec<BooleanArray> = pending
                .absent
                .iter()
                .zip(&pending.batches)
                .map(|(a, batch)| match a.get(c).and_then(Clone::clone) {
                    Some(mask) => mask,
                    None => {
                        BooleanArray::new(arrow::buffer::BooleanBuffer::new_unset(batch.num_rows()), None)
                    }
                })
                .collect();
            let refs: Vec<&dyn Array> = masks.iter().map(|m| m as &dyn Array).collect();
            let joined = concat(&refs)?;
            Ok(Some(arrow::array::AsArray::as_boolean(&joined).clone()))
        })
        .collect()
}

/// Of what the client sent, so that a default such as `now64()` does not make a repeat differ.
fn hash_rows(given: &RecordBatch, absent: &[Option<BooleanArray>]) -> Result<u64> {
    let rows = weir_storage::content_hash(given).map_err(|e| append_error(&e))?;
    let mut hash = StableHash::default();
    hash.write(&rows.to_le_bytes());
    for mask in absent {
        match mask {
            None => hash.write(&[0]),
            Some(mask) => {
                hash.write(&[1]);
                mask.iter().for_each(|m| hash.write(&[u8::from(m == Some(true))]));
            }
        }
    }
    Ok(hash.finish())
}

/// FNV-1a: the same in every version and process, as recorded ids need it.
struct StableHash(u64);

impl Default for StableHash {
    fn default() -> Self {
        StableHash(0xcbf2_9ce4_8422_2325)
    }
}

impl StableHash {
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
