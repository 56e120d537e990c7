//! Writes a topic: rows become messages in librdkafka's queue, and count once a broker has them.
//!
//! With transactions: what was written since the last position, and the position itself as the metadata of an
//! offset of the writer's own group, are committed together. A writer of the same name that comes later ends
//! what was begun, and reads the position back.

use super::client::{Told, code_of};
use super::stream::{ANSWER_WAIT, Topic, payload_settings};
use crate::payload::{PayloadEncoder, PayloadFormat};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, TimestampMillisecondType};
use arrow_array::{Array, ArrayRef, MapArray, RecordBatch};
use arrow_schema::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir_base::{Code, SeqNo};
use weir_plan::{
    ExternalWrite, ExternalWriter, MESSAGE_HEADERS_COLUMN, MESSAGE_KEY_COLUMN, MESSAGE_PARTITION_COLUMN,
    Position, StreamError,
};

/// How long one wait for brokers lasts. Not librdkafka's own: what is asked of it in Rust for a millisecond burns
/// all of it.
const LOOK: Duration = Duration::from_micros(500);
/// A position has to fit the metadata of an offset: the default of `offset.metadata.max.bytes`.
const POSITION_BYTES_MAX: usize = 4_096;

/// What threads that wait for brokers share.
pub(super) struct Inner {
    topic: Arc<Topic>,
    producer: BaseProducer<Told>,
    told: Told,
    encoder: PayloadEncoder,
    /// Messages handed to librdkafka.
    sent: u64,
    /// The name of a transactional writer.
    name: Option<String>,
    /// A transaction was begun.
    open: bool,
    gone: Arc<AtomicBool>,
}

/// Producers of INSERTs that have ended, for the next ones: making one takes longer than a small INSERT.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Inner>>);

/// Of one stream.
const IDLE_MAX: usize = 2;

pub(super) struct KafkaWriter {
    /// Where its producer goes in the end, if nothing of it is on its way.
    idle: Option<Arc<Idle>>,
    /// `None` while a call is under way, or after one was given up.
    inner: Option<Box<Inner>>,
    /// Nobody waits for it any more: a call that waits for brokers ends.
    gone: Arc<AtomicBool>,
}

impl Drop for KafkaWriter {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        let (Some(idle), Some(inner)) = (self.idle.take(), self.inner.take()) else { return };
        let mut all = idle.0.lock();
        if inner.is_settled() && all.len() < IDLE_MAX {
            all.push(*inner);
        }
    }
}

impl KafkaWriter {
    /// # Errors
    /// 36 for options librdkafka does not take.
    pub fn new(topic: Arc<Topic>, how: ExternalWrite, idle: &Arc<Idle>) -> Result<Self, StreamError> {
        let gone = Arc::new(AtomicBool::new(false));
        let name = match how {
            ExternalWrite::Plain => None,
            ExternalWrite::Transactional(name) => Some(name),
        };
        if name.is_none() {
            let kept = idle.0.lock().pop();
            if let Some(mut inner) = kept {
                inner.gone = gone.clone();
                return Ok(KafkaWriter { idle: Some(idle.clone()), inner: Some(Box::new(inner)), gone });
            }
        }
        // A schema is looked up by each writer anew.
        let keeps = name.is_none() && !matches!(topic.format, PayloadFormat::Schema(_));
        let idle = keeps.then(|| idle.clone());
        let told = Told::default();
        let config = topic.settings.producer(name.as_deref());
        let producer =
            BaseProducer::from_config_and_context(&config, told.clone()).map_err(|e| StreamError {
                code: Code::BadArguments,
                message: format!("{}: {e}", topic.doing("could not write")),
            })?;
        let encoder =
            PayloadEncoder::new(topic.format.clone(), topic.payload.clone(), payload_settings(&topic))?;
        let inner = Inner { topic, producer, told, encoder, sent: 0, name, open: false, gone: gone.clone() };
        Ok(KafkaWriter { idle, inner: Some(Box::new(inner)), gone })
    }

    /// Does something that waits for brokers, on a thread that may.
    async fn wait<T: Send + 'static>(
        &mut self,
        what: impl FnOnce(&mut Inner) -> Result<T, StreamError> + Send + 'static,
    ) -> Result<T, StreamError> {
        let gone = || StreamError {
            code: Code::LogicalError,
            message: "a writer of a topic was used after a call to it was given up".into(),
        };
        let mut inner = self.inner.take().ok_or_else(gone)?;
        let (inner, done) = tokio::task::spawn_blocking(move || {
            let done = what(&mut inner);
            (inner, done)
        })
        .await
        .map_err(|e| StreamError {
            message: format!("writing to a topic stopped on a bug: {e}"),
            ..gone()
        })?;
        self.inner = Some(inner);
        if done.is_err() {
            // What state it is in nobody knows.
            self.idle = None;
        }
        done
    }
}

#[async_trait::async_trait]
impl ExternalWriter for KafkaWriter {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError> {
        let rows = rows.clone();
        self.wait(move |inner| inner.write(&rows)).await
    }

    async fn flush(&mut self, at: Option<&Position>) -> Result<(), StreamError> {
        let at = at.cloned();
        self.wait(move |inner| inner.flush(at.as_ref())).await
    }

    fn acknowledged(&self) -> Vec<(i32, SeqNo)> {
        self.inner.as_ref().map_or_else(Vec::new, |inner| inner.told.taken())
    }

    async fn reached(&mut self) -> Result<Option<Position>, StreamError> {
        self.wait(Inner::reached).await
    }
}

impl Inner {
    fn failed(&self, what: &str, e: &KafkaError) -> StreamError {
        self.told.failed(&self.topic.doing(what), e)
    }

    /// All that was sent was taken.
    fn is_settled(&self) -> bool {
        self.told.settled() == self.sent && !self.told.has_refused()
    }

    fn begin(&mut self) -> Result<(), StreamError> {
        if self.name.is_some() && !self.open {
            self.producer
                .begin_transaction()
                .map_err(|e| self.failed("could not begin a transaction in", &e))?;
            self.open = true;
        }
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.begin()?;
        let payload: Vec<usize> = self
            .encoder
            .schema()
            .fields()
            .iter()
            .map(|f| rows.schema_ref().index_of(f.name()))
            .collect::<Result<_, _>>()
            .map_err(|e| StreamError { code: Code::LogicalError, message: e.to_string() })?;
        let payload = rows
            .project(&payload)
            .map_err(|e| StreamError { code: Code::LogicalError, message: e.to_string() })?;
        let partitions = rows.column_by_name(MESSAGE_PARTITION_COLUMN).cloned();
        let partitions = partitions.as_ref().and_then(|p| p.as_primitive_opt::<Int32Type>());
        let keys = rows.column_by_name(MESSAGE_KEY_COLUMN).filter(|k| k.null_count() < k.len()).cloned();
        let headers = rows.column_by_name(MESSAGE_HEADERS_COLUMN).filter(|h| has_entries(h)).cloned();
        // Partitions, keys and headers are of a row.
        let by_row = partitions.is_some() || keys.is_some() || headers.is_some();
        let encoded = self.encoder.encode(&payload, by_row)?;
        let times = rows.column_by_name("_tp_time").cloned();
        let topic = self.topic.clone();
        for (payload, row) in encoded.messages() {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic.settings.topic);
            if let Some(payload) = payload {
                record = record.payload(payload);
            }
            if let Some(partitions) = partitions {
                record = record.partition(partitions.value(row));
            }
            if let Some(key) = keys.as_ref().and_then(|k| bytes_of(k.as_ref(), row)) {
                record = record.key(key);
            }
            if let Some(times) = times.as_ref().and_then(|t| t.as_primitive_opt::<TimestampMillisecondType>())
                && times.is_valid(row)
                && times.value(row) > 0
            {
                record = record.timestamp(times.value(row));
            }
            if let Some(map) = headers.as_ref().and_then(|h| h.as_any().downcast_ref::<MapArray>()) {
                record = with_headers(record, map, row);
            }
            self.send(record)?;
        }
        // What brokers have said meanwhile.
        self.producer.poll(Duration::ZERO);
        self.look()
    }

    /// Hands a message to librdkafka; waits while its queue is full.
    fn send(&mut self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), StreamError> {
        loop {
            match self.producer.send(record) {
                Ok(()) => {
                    self.sent += 1;
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.wait_for_brokers()?;
                }
                Err((e, _)) => return Err(self.failed("could not write", &e)),
            }
        }
    }

    /// Takes in what brokers said; where they said nothing it waits a little.
    fn wait_for_brokers(&self) -> Result<(), StreamError> {
        let before = self.told.settled();
        self.producer.poll(Duration::ZERO);
        self.look()?;
        if self.told.settled() == before {
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// Whether somebody still waits for what is written.
    fn wanted(&self) -> Result<(), StreamError> {
        if self.gone.load(Ordering::Relaxed) {
            let message = self.topic.doing("nobody waits any more for what is written to");
            return Err(StreamError { code: Code::QueryWasCancelled, message });
        }
        Ok(())
    }

    /// Whether brokers refused something, or nobody waits any more.
    fn look(&self) -> Result<(), StreamError> {
        self.wanted()?;
        let Some((code, partition)) = self.told.take_refused() else { return Ok(()) };
        let why = match self.told.trouble() {
            Some(why) if code == RDKafkaErrorCode::MessageTimedOut => why,
            _ => code.to_string(),
        };
        let place = if partition < 0 { String::new() } else { format!(" (partition {partition})") };
        let message = format!("{}{place}: {why}", self.topic.doing("a message was not taken by"));
        Err(StreamError { code: code_of(Some(code)), message })
    }

    fn flush(&mut self, at: Option<&Position>) -> Result<(), StreamError> {
        if at.is_some() {
            self.begin()?;
        }
        // Sends what lingers; asked for longer, it would take all of that time.
        match self.producer.flush(Duration::ZERO) {
            Ok(()) | Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => {}
            Err(e) => return Err(self.failed("could not write", &e)),
        }
        while self.told.settled() < self.sent {
            self.wait_for_brokers()?;
        }
        self.look()?;
        if let Some(at) = at {
            self.add_position(at)?;
            self.commit()?;
        }
        Ok(())
    }

    /// The position goes where offsets of the writer's own group lie, within the transaction.
    fn add_position(&mut self, at: &Position) -> Result<(), StreamError> {
        let text = STANDARD.encode(at.encode());
        if text.len() > POSITION_BYTES_MAX {
            return Err(StreamError {
                code: Code::NotImplemented,
                message: format!(
                    "a position over that many partitions takes {} bytes, a broker keeps {POSITION_BYTES_MAX} with an \
                     offset; use delivery='at_least_once'",
                    text.len()
                ),
            });
        }
        let name = self.name.clone().unwrap_or_default();
        let mut offsets = TopicPartitionList::new();
        let failed = |e: KafkaError| self.failed("could not note a position beside", &e);
        offsets.add_partition_offset(&self.topic.settings.topic, 0, Offset::Offset(0)).map_err(failed)?;
        if let Some(mut place) = offsets.find_partition(&self.topic.settings.topic, 0) {
            place.set_metadata(text);
        }
        let consumer = self.group(&name)?;
        let group = consumer.group_metadata().ok_or_else(|| StreamError {
            code: Code::LogicalError,
            message: "a group without a name".into(),
        })?;
        self.retry("could not note a position beside", |inner| {
            inner.producer.send_offsets_to_transaction(&offsets, &group, ANSWER_WAIT)
        })
    }

    fn commit(&mut self) -> Result<(), StreamError> {
        self.retry("could not commit a transaction in", |inner| {
            inner.producer.commit_transaction(ANSWER_WAIT)
        })?;
        self.producer.poll(Duration::ZERO);
        self.look()?;
        self.open = false;
        Ok(())
    }

    /// Again and again as long as librdkafka says that this helps; a transaction that must go is ended.
    fn retry(
        &mut self,
        what: &str,
        mut call: impl FnMut(&Self) -> Result<(), KafkaError>,
    ) -> Result<(), StreamError> {
        loop {
            let e = match call(self) {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            self.producer.poll(Duration::ZERO);
            self.wanted()?;
            let (again, abort) = match &e {
                KafkaError::Transaction(e) => (e.is_retriable(), e.txn_requires_abort()),
                _ => (false, false),
            };
            if !again {
                if abort {
                    // What it held is made again from the last position.
                    let _ = self.producer.abort_transaction(ANSWER_WAIT);
                    self.open = false;
                }
                let refused = self.look().err();
                return Err(refused.unwrap_or_else(|| self.failed(what, &e)));
            }
        }
    }

    fn group(&self, name: &str) -> Result<BaseConsumer<Told>, StreamError> {
        let mut config = self.topic.settings.consumer();
        config.set("group.id", name);
        config.create_with_context(Told::default()).map_err(|e| self.failed("could not ask beside", &e))
    }

    fn reached(&mut self) -> Result<Option<Position>, StreamError> {
        let Some(name) = self.name.clone() else { return Ok(None) };
        self.retry("could not begin to write transactions to", |inner| {
            inner.producer.init_transactions(ANSWER_WAIT)
        })?;
        let consumer = self.group(&name)?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic.settings.topic, 0);
        let found = consumer
            .committed_offsets(asked, ANSWER_WAIT)
            .map_err(|e| self.failed("could not ask how far was written to", &e))?;
        let text = found
            .find_partition(&self.topic.settings.topic, 0)
            .map(|e| e.metadata().to_owned())
            .filter(|text| !text.is_empty());
        let Some(text) = text else { return Ok(None) };
        let position = STANDARD.decode(&text).ok().and_then(|bytes| Position::decode(&bytes));
        position.map(Some).ok_or_else(|| StreamError {
            code: Code::CorruptedData,
            message: format!(
                "{}: the position kept with consumer group {name} is not one of a view; remove the group, and the \
                 view begins where its checkpoint stands",
                self.topic.doing("could not go on writing")
            ),
        })
    }
}

fn has_entries(headers: &ArrayRef) -> bool {
    headers.as_any().downcast_ref::<MapArray>().is_some_and(|map| !map.entries().is_empty())
}

fn bytes_of(column: &dyn Array, row: usize) -> Option<&[u8]> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Binary => Some(column.as_binary::<i32>().value(row)),
        _ => column.as_string_opt::<i32>().map(|s| s.value(row).as_bytes()),
    }
}

fn with_headers<'a>(
    record: BaseRecord<'a, [u8], [u8]>,
    map: &MapArray,
    row: usize,
) -> BaseRecord<'a, [u8], [u8]> {
    if map.is_null(row) || map.value_length(row) == 0 {
        return record;
    }
    let entries = map.value(row);
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
    let mut headers = OwnedHeaders::new_with_capacity(keys.len());
    for i in 0..keys.len() {
        let value = values.is_valid(i).then(|| values.value(i));
        headers = headers.insert(Header { key: keys.value(i), value });
    }
    record.headers(headers)
}
