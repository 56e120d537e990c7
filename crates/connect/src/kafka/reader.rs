//! Reads a topic: a thread polls librdkafka, decodes what has come, and hands it over.

use super::batch::{Came, MessageQueue, RawMessage};
use super::client::{Told, code_of};
use super::message::Around;
use super::settings::OffsetReset;
use super::stream::{ANSWER_WAIT, Topic, sn};
use crate::payload::{Decoded, Failed, Messages, PayloadDecoder, wanted};
use arrow_array::{BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::{Schema, SchemaRef};
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use weir_base::{Code, SeqNo};
use weir_format::FormatSettings;
use weir_plan::{ExternalRead, ExternalReader, ExternalRows, ExternalScan, StreamError};

/// Decoded batches that wait for the query.
const AHEAD: usize = 4;
/// A batch is handed over at the latest with so many messages, or bytes.
const BATCH_MESSAGES_MAX: usize = 16_384;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long the thread waits for a message without looking whether anybody still wants one.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// Between one try to get a schema and the next.
const SCHEMA_WAIT_MIN: Duration = Duration::from_millis(100);
const SCHEMA_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often it is asked whether there are more partitions.
const PARTITIONS_EVERY: Duration = Duration::from_secs(5);

type Read = Result<ExternalRead, StreamError>;

pub(super) struct KafkaReader {
    from: mpsc::Receiver<Read>,
    told: Told,
    /// Partitions of which nothing more is wanted for now.
    held: Arc<Mutex<BTreeSet<i32>>>,
}

/// Assigns the partitions and starts the thread.
///
/// # Errors
/// 36 for options librdkafka does not take.
pub(super) fn start(topic: Arc<Topic>, scan: ExternalScan) -> Result<KafkaReader, StreamError> {
    let (consumer, told) = topic.consumer()?;
    let consumer = Arc::new(consumer);
    let runtime = tokio::runtime::Handle::current();
    let held: Arc<Mutex<BTreeSet<i32>>> = Arc::default();
    let (to, from) = mpsc::channel(AHEAD);
    let payload = wanted(&topic.format, &topic.payload, scan.columns.as_deref());
    let around = match &scan.columns {
        None => topic.around.clone(),
        Some(names) => {
            let fields = topic.around.fields().iter().filter(|f| names.contains(f.name())).cloned();
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        }
    };
    let fields = payload.fields().iter().chain(around.fields()).cloned();
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let partitions = scan.from.iter().map(|(id, from)| (*id, Pending::new(*from, around.clone()))).collect();
    let mut polling = Polling {
        decoder: PayloadDecoder::new(
            topic.format.clone(),
            payload,
            FormatSettings::default(),
            runtime.clone(),
        ),
        runtime,
        around,
        schema,
        queue: Some(MessageQueue::new(consumer.clone())),
        consumer,
        told: told.clone(),
        held: held.clone(),
        holding: BTreeSet::new(),
        partitions,
        scan,
        to,
        looked: topic.clock.monotonic(),
        topic,
    };
    polling.assign()?;
    std::thread::Builder::new().name("weir-kafka".into()).spawn(move || polling.run()).map_err(|e| {
        StreamError { code: Code::IoError, message: format!("no thread to read a topic with: {e}") }
    })?;
    Ok(KafkaReader { from, told, held })
}

#[async_trait::async_trait]
impl ExternalReader for KafkaReader {
    async fn next(&mut self) -> Result<ExternalRead, StreamError> {
        match self.from.recv().await {
            Some(read) => read,
            None => Err(ended()),
        }
    }

    fn try_next(&mut self) -> Result<Option<ExternalRead>, StreamError> {
        match self.from.try_recv() {
            Ok(read) => read.map(Some),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(ended()),
        }
    }

    fn hold(&mut self, partition: i32, hold: bool) {
        let mut held = self.held.lock();
        if hold {
            held.insert(partition);
        } else {
            held.remove(&partition);
        }
    }

    fn trouble(&self) -> Option<String> {
        self.told.trouble()
    }
}

fn ended() -> StreamError {
    StreamError { code: Code::LogicalError, message: "the thread that reads a topic stopped on a bug".into() }
}

/// What came of one partition and was not handed over.
struct Pending {
    messages: Messages,
    around: Around,
    offsets: Vec<i64>,
    /// One past the last message seen.
    next: SeqNo,
}

impl Pending {
    fn new(next: SeqNo, around: SchemaRef) -> Self {
        Pending { messages: Messages::default(), around: Around::new(around), offsets: Vec::new(), next }
    }
}

/// Nobody wants more, or nothing can follow.
struct Done;

struct Polling {
    topic: Arc<Topic>,
    /// `None` only within a step.
    queue: Option<MessageQueue>,
    consumer: Arc<BaseConsumer<Told>>,
    told: Told,
    held: Arc<Mutex<BTreeSet<i32>>>,
    /// Of those the ones that librdkafka was told to pause.
    holding: BTreeSet<i32>,
    decoder: PayloadDecoder,
    runtime: tokio::runtime::Handle,
    around: SchemaRef,
    /// Of the rows given: payload, then surroundings.
    schema: SchemaRef,
    partitions: BTreeMap<i32, Pending>,
    scan: ExternalScan,
    to: mpsc::Sender<Read>,
    /// When it was last asked for partitions.
    looked: Duration,
}

impl Polling {
    fn assign(&mut self) -> Result<(), StreamError> {
        // Nothing is paused any more.
        self.holding.clear();
        let failed = |e: KafkaError| self.told.failed(&self.topic.doing("could not read"), &e);
        let mut list = TopicPartitionList::new();
        for (id, pending) in &self.partitions {
            list.add_partition_offset(&self.topic.settings.topic, *id, Offset::Offset(pending.next.0 as i64))
                .map_err(failed)?;
        }
        self.consumer.assign(&list).map_err(failed)
    }

    fn run(mut self) {
        // Ends when the query lets go of its end, or after an error, which is the last thing said.
        while self.step().is_ok() {}
    }

    fn send(&self, read: Read) -> Result<(), Done> {
        let last = read.is_err() || matches!(read, Ok(ExternalRead::BadMessage { .. }));
        self.to.blocking_send(read).map_err(|_| Done)?;
        if last { Err(Done) } else { Ok(()) }
    }

    fn waiting(&self) -> bool {
        self.partitions.values().any(|p| !p.messages.is_empty())
    }

    fn step(&mut self) -> Result<(), Done> {
        if self.to.is_closed() {
            return Err(Done);
        }
        self.pause()?;
        // Whatever has come is handed over as soon as there is nothing more at hand.
        let wait = if self.waiting() { Duration::ZERO } else { IDLE_POLL };
        let Some(mut queue) = self.queue.take() else { return Err(Done) };
        let mut some = false;
        for came in queue.take(wait) {
            some = true;
            match came {
                Came::Message(message) => self.message(&message)?,
                Came::End { partition, offset } => {
                    self.told.goes_on();
                    self.flush(partition)?;
                    let at = sn(offset);
                    if let Some(p) = self.partitions.get_mut(&partition) {
                        p.next = p.next.max(at);
                    }
                    self.send(Ok(ExternalRead::CaughtUp { partition, at }))?;
                }
                Came::Error(code, text) => self.trouble(code, text)?,
            }
        }
        self.queue = Some(queue);
        if some {
            return Ok(());
        }
        for id in self.partitions.keys().copied().collect::<Vec<_>>() {
            self.flush(id)?;
        }
        self.look_for_partitions()
    }

    fn message(&mut self, message: &RawMessage<'_>) -> Result<(), Done> {
        let partition = message.partition();
        match take(&mut self.partitions, &self.scan, message) {
            Ok(false) => Ok(()),
            Ok(true) => self.flush(partition),
            Err(error) => {
                self.flush(partition)?;
                self.bad(partition, sn(message.offset()), error)
            }
        }
    }

    /// Stops and goes on with partitions as the query says.
    fn pause(&mut self) -> Result<(), Done> {
        let held = self.held.lock().clone();
        if held == self.holding {
            return Ok(());
        }
        let list = |ids: &mut dyn Iterator<Item = &i32>| {
            let mut list = TopicPartitionList::new();
            ids.for_each(|id| {
                list.add_partition(&self.topic.settings.topic, *id);
            });
            list
        };
        let paused = self.consumer.pause(&list(&mut held.difference(&self.holding)));
        let resumed = self.consumer.resume(&list(&mut self.holding.difference(&held)));
        match paused.and(resumed) {
            Ok(()) => {
                self.holding = held;
                Ok(())
            }
            Err(e) => self.send(Err(self.told.failed(&self.topic.doing("could not pause"), &e))),
        }
    }

    fn trouble(&mut self, code: RDKafkaErrorCode, text: String) -> Result<(), Done> {
        use RDKafkaErrorCode as K;
        match code {
            K::AutoOffsetReset | K::OffsetOutOfRange => {
                for id in self.partitions.keys().copied().collect::<Vec<_>>() {
                    self.flush(id)?;
                }
                self.reset()
            }
            K::UnknownTopic
            | K::UnknownTopicOrPartition
            | K::UnknownPartition
            | K::TopicAuthorizationFailed
            | K::Fatal => {
                let message = format!("{}: {text}", self.topic.doing("could not go on reading"));
                self.send(Err(StreamError { code: code_of(Some(code)), message }))
            }
            // librdkafka tries again by itself.
            code => {
                self.told.note(code, text);
                Ok(())
            }
        }
    }

    /// Offsets that were to be read are gone.
    fn reset(&mut self) -> Result<(), Done> {
        let topic = &self.topic.settings.topic;
        let mut moved = Vec::new();
        for (id, pending) in &mut self.partitions {
            let held = match self.consumer.fetch_watermarks(topic, *id, ANSWER_WAIT) {
                Ok((first, end)) => (sn(first), sn(end)),
                Err(e) => {
                    let e = self.told.failed(&self.topic.doing("could not ask for the offsets of"), &e);
                    return self.send(Err(e));
                }
            };
            if pending.next >= held.0 && pending.next <= held.1 {
                continue;
            }
            let Some(reset) = self.topic.settings.offset_reset else {
                let message = format!(
                    "topic {topic} of {} partition {id} holds offsets {} to {}; offset {} was to be read next and is \
                     not there: retention has removed it, or it is another topic than before. Start the query anew, or SETTINGS properties='auto.offset.reset=earliest' (or latest) to \
                     go on without what is gone",
                    self.topic.name, held.0, held.1, pending.next
                );
                return self.send(Err(StreamError { code: Code::SequenceOutOfRange, message }));
            };
            let to = match reset {
                OffsetReset::Earliest => held.0,
                OffsetReset::Latest => held.1,
            };
            moved.push(format!("partition {id} from offset {} to {to}", pending.next));
            pending.next = to;
        }
        if moved.is_empty() {
            // All of them are there by now.
            return self.assign().or_else(|e| self.send(Err(e)));
        }
        let what =
            format!("offsets that are gone were passed over (auto.offset.reset): {}", moved.join(", "));
        tracing::warn!(stream = self.topic.name, "{what}");
        match self.assign() {
            Ok(()) => self.send(Ok(ExternalRead::Notice(what))),
            Err(e) => self.send(Err(e)),
        }
    }

    fn look_for_partitions(&mut self) -> Result<(), Done> {
        let now = self.topic.clock.monotonic();
        if !self.scan.follow || now.saturating_sub(self.looked) < PARTITIONS_EVERY {
            return Ok(());
        }
        self.looked = now;
        // Who does not answer now is asked again later.
        let Ok(ids) = self.topic.partition_ids(&self.consumer, &self.told) else { return Ok(()) };
        let new: Vec<i32> = ids.into_iter().filter(|id| !self.partitions.contains_key(id)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for id in &new {
            self.partitions.insert(*id, Pending::new(SeqNo::ZERO, self.around.clone()));
            self.send(Ok(ExternalRead::Appeared(*id)))?;
        }
        match self.assign() {
            Ok(()) => Ok(()),
            Err(e) => self.send(Err(e)),
        }
    }

    /// Says that a message is none; whether it ends with that.
    fn bad(&self, partition: i32, at: SeqNo, error: StreamError) -> Result<(), Done> {
        let topic = &self.topic.settings.topic;
        let message = format!(
            "message at offset {at} of topic {topic} partition {partition} does not parse: {}",
            error.message
        );
        let error = StreamError { message, ..error };
        if self.scan.pass_over {
            return self.send(Ok(ExternalRead::PassedOver { partition, at, error }));
        }
        self.send(Ok(ExternalRead::BadMessage { partition, at, error }))
    }

    /// Decodes and hands over what has come of a partition.
    fn flush(&mut self, id: i32) -> Result<(), Done> {
        let Some(p) = self.partitions.get_mut(&id).filter(|p| !p.messages.is_empty()) else { return Ok(()) };
        let mut messages = std::mem::take(&mut p.messages);
        let offsets = std::mem::take(&mut p.offsets);
        let times_ms = p.around.times_ms().to_vec();
        let around = p.around.finish();
        let next = p.next;
        self.told.goes_on();
        // Of which the first ones were given.
        let mut given = 0;
        loop {
            let of = |n: usize| around.iter().map(|a| a.slice(given, n)).collect::<Vec<_>>();
            let (n, bad) = match self.decoded(&messages, messages.len())? {
                Ok(decoded) => {
                    let around = of(messages.len());
                    let rows = self.rows(id, decoded, &around, &offsets[given..], &times_ms[given..], next);
                    return self.send(rows.map(ExternalRead::Rows));
                }
                Err(bad) => bad,
            };
            let at = sn(offsets[given + n]);
            if n > 0 {
                let (offsets, times_ms) = (&offsets[given..given + n], &times_ms[given..given + n]);
                let rows = match self.decoded(&messages, n)? {
                    Ok(decoded) => self.rows(id, decoded, &of(n), offsets, times_ms, at),
                    Err((_, error)) => Err(error),
                };
                self.send(rows.map(ExternalRead::Rows))?;
            }
            self.bad(id, at, bad)?;
            given += n + 1;
            messages = messages.rest(n + 1);
            if messages.is_empty() {
                return Ok(());
            }
        }
    }

    /// Rows of the first `n` messages, or which of them does not parse. Waits for who knows their schemas.
    fn decoded(&self, messages: &Messages, n: usize) -> Result<Result<Decoded, (usize, StreamError)>, Done> {
        let mut wait = SCHEMA_WAIT_MIN;
        loop {
            match self.decoder.decode(messages, n) {
                Ok(decoded) => {
                    self.told.goes_on();
                    return Ok(Ok(decoded));
                }
                Err(Failed::Bad { index, error }) => return Ok(Err((index, error))),
                Err(Failed::Refused(error)) => {
                    let message = format!("{}: {}", self.topic.doing("could not read"), error.message);
                    self.send(Err(StreamError { message, ..error }))?;
                    return Err(Done);
                }
                Err(Failed::Away(error)) => self.told.note(RDKafkaErrorCode::Fail, error.message),
            }
            let gone = async { tokio::time::timeout(wait, self.to.closed()).await };
            if self.runtime.block_on(gone).is_ok() {
                return Err(Done);
            }
            wait = (wait * 2).min(SCHEMA_WAIT_MAX);
        }
    }

    fn rows(
        &self,
        partition: i32,
        decoded: Decoded,
        around: &[arrow_array::ArrayRef],
        offsets: &[i64],
        times_ms: &[i64],
        next: SeqNo,
    ) -> Result<ExternalRows, StreamError> {
        let bug = |e: arrow_schema::ArrowError| StreamError {
            code: Code::LogicalError,
            message: format!("rows of a topic do not fit their columns: {e}"),
        };
        let append = |ms: &i64| ms.saturating_mul(1_000);
        let mut absent = decoded.absent;
        let n = decoded.batch.num_rows();
        let mut columns = decoded.batch.columns().to_vec();
        let (sns, append_us) = match &decoded.rows {
            None => {
                columns.extend(around.iter().cloned());
                (offsets.to_vec(), times_ms.iter().map(append).collect())
            }
            Some(counts) => {
                let each =
                    || counts.iter().enumerate().flat_map(|(i, c)| std::iter::repeat_n(i, *c as usize));
                let of_row = UInt32Array::from_iter_values(each().map(|i| i as u32));
                for column in around {
                    columns.push(arrow_select::take::take(column, &of_row, None).map_err(bug)?);
                }
                (each().map(|i| offsets[i]).collect(), each().map(|i| append(&times_ms[i])).collect())
            }
        };
        absent.extend(std::iter::repeat_n(None::<BooleanArray>, around.len()));
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(bug)?;
        Ok(ExternalRows { partition, batch, absent, sns, append_us, next })
    }
}

/// Keeps a message; whether it is time to hand over what there is.
fn take(
    partitions: &mut BTreeMap<i32, Pending>,
    scan: &ExternalScan,
    message: &RawMessage<'_>,
) -> Result<bool, StreamError> {
    let (partition, offset) = (message.partition(), sn(message.offset()));
    // Of one that is read no more.
    let Some(p) = partitions.get_mut(&partition) else { return Ok(false) };
    if offset < p.next {
        return Ok(false);
    }
    if scan.skipped.get(&partition).is_some_and(|s| s.contains(&offset)) {
        p.next = offset.plus(1);
        return Ok(false);
    }
    p.around.push(message)?;
    p.messages.push(message.payload());
    p.offsets.push(message.offset());
    p.next = offset.plus(1);
    Ok(p.messages.len() >= BATCH_MESSAGES_MAX || p.messages.bytes() >= BATCH_BYTES_MAX)
}
