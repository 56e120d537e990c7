//! A topic: its partitions, where a time lies in them, and who reads and writes it.

use super::admin;
use super::client::{Told, code_of};
use super::reader::{self, KafkaReader};
use super::settings::KafkaSettings;
use super::writer::{Idle, KafkaWriter};
use crate::payload::{PayloadFormat, PayloadSettings};
use crate::remote::RemoteHosts;
use crate::settings::bad;
use arrow_schema::{DataType, SchemaRef};
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Clock, Code, SeqNo};
use weir_plan::{
    ExternalReader, ExternalScan, ExternalSpec, ExternalStream, ExternalWrite, ExternalWriter, LogTopic,
    MESSAGE_KEY_COLUMN, Partition, StreamError,
};

/// How long a broker may take to answer a question.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How often brokers are asked whether they know a topic that was made.
const KNOWN_LOOK: Duration = Duration::from_millis(50);

/// A topic as all who read and write it see it.
pub(super) struct Topic {
    /// `database.name`, for messages.
    pub name: String,
    pub settings: KafkaSettings,
    pub format: PayloadFormat,
    pub payload: SchemaRef,
    pub around: SchemaRef,
    /// Of who asks where partitions end, again and again.
    asking: Mutex<Option<Asking>>,
    pub clock: Arc<dyn Clock>,
}

/// A client that was asked before.
type Asking = (BaseConsumer<Told>, Told);

pub(super) struct KafkaStream(Arc<Topic>, Arc<Idle>);

impl fmt::Debug for KafkaStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (topic {} at {})", self.0.name, self.0.settings.topic, self.0.settings.brokers)
    }
}

impl KafkaStream {
    /// # Errors
    /// 36 where columns and format do not fit each other.
    pub fn new(
        spec: ExternalSpec,
        settings: KafkaSettings,
        clock: Arc<dyn Clock>,
        hosts: &RemoteHosts,
    ) -> Result<Self, StreamError> {
        let format =
            PayloadFormat::of(&settings.payload, &spec.payload, &settings.topic, &spec.schemas, hosts)?;
        if let Ok(key) = spec.around.field_with_name(MESSAGE_KEY_COLUMN)
            && !matches!(key.data_type(), DataType::Utf8 | DataType::Binary)
        {
            return Err(bad(format!(
                "{MESSAGE_KEY_COLUMN} has to be string, bytes or nullable of these; make other types of it in a SELECT"
            )));
        }
        let topic = Topic {
            name: spec.name,
            settings,
            format,
            payload: spec.payload,
            around: spec.around,
            asking: Mutex::default(),
            clock,
        };
        Ok(KafkaStream(Arc::new(topic), Arc::default()))
    }
}

impl Topic {
    pub fn doing(&self, what: &str) -> String {
        format!("{what} topic {} of {} at {}", self.settings.topic, self.name, self.settings.brokers)
    }

    /// A client that reads nothing until it is assigned something.
    ///
    /// # Errors
    /// 36 for options librdkafka does not take together.
    pub fn consumer(&self) -> Result<(BaseConsumer<Told>, Told), StreamError> {
        let told = Told::default();
        let consumer: BaseConsumer<Told> = self
            .settings
            .consumer()
            .create_with_context(told.clone())
            .map_err(|e| bad(format!("{}: {e}", self.doing("could not read"))))?;
        Ok((consumer, told))
    }

    /// Numbers of its partitions.
    pub fn partition_ids(&self, consumer: &BaseConsumer<Told>, told: &Told) -> Result<Vec<i32>, StreamError> {
        let failed = |e: &KafkaError| told.failed(&self.doing("could not reach"), e);
        let metadata =
            consumer.fetch_metadata(Some(&self.settings.topic), ANSWER_WAIT).map_err(|e| failed(&e))?;
        let topic = metadata.topics().first();
        let error = topic.and_then(|t| t.error()).map(RDKafkaErrorCode::from);
        let mut ids: Vec<i32> = topic.into_iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
        match error {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Err(self.no_topic());
            }
            Some(code) => {
                let message = format!("{}: {code}", self.doing("could not reach"));
                return Err(StreamError { code: code_of(Some(code)), message });
            }
            None if ids.is_empty() => return Err(self.no_topic()),
            None => {}
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn no_topic(&self) -> StreamError {
        StreamError {
            code: Code::UnknownStream,
            message: format!(
                "{} has no topic {}, which {} reads; create it there, or name another in SETTINGS topic",
                self.settings.brokers, self.settings.topic, self.name
            ),
        }
    }

    fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        let (consumer, told) = self.consumer()?;
        let ids = self.partition_ids(&consumer, &told)?;
        ids.into_iter()
            .map(|id| {
                let (first, end) = consumer
                    .fetch_watermarks(&self.settings.topic, id, ANSWER_WAIT)
                    .map_err(|e| told.failed(&self.doing("could not ask for the offsets of"), &e))?;
                Ok(Partition { id, first: sn(first), end: sn(end) })
            })
            .collect()
    }

    fn ends(&self, n: usize) -> Result<Vec<SeqNo>, StreamError> {
        // Those who ask at once have a client each; one of them is kept.
        let kept = self.asking.lock().take();
        let (consumer, told) = kept.map_or_else(|| self.consumer(), Ok)?;
        let end = |id| {
            let (_, end) = consumer
                .fetch_watermarks(&self.settings.topic, id, ANSWER_WAIT)
                .map_err(|e| told.failed(&self.doing("could not ask for the ends of"), &e))?;
            Ok(sn(end))
        };
        let ends = (0..n as i32).map(end).collect::<Result<_, StreamError>>()?;
        *self.asking.lock() = Some((consumer, told));
        Ok(ends)
    }

    fn seek_time(&self, at_ms: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        let (consumer, told) = self.consumer()?;
        let failed = |e: &KafkaError| told.failed(&self.doing("could not seek in"), e);
        let mut asked = TopicPartitionList::new();
        for p in of {
            asked
                .add_partition_offset(&self.settings.topic, p.id, Offset::Offset(at_ms.max(0)))
                .map_err(|e| failed(&e))?;
        }
        let found = consumer.offsets_for_times(asked, ANSWER_WAIT).map_err(|e| failed(&e))?;
        Ok(of
            .iter()
            .map(|p| match found.find_partition(&self.settings.topic, p.id).map(|e| e.offset()) {
                Some(Offset::Offset(at)) => sn(at).clamp(p.first, p.end),
                _ => p.end,
            })
            .collect())
    }

    fn samples(&self, n: usize) -> Result<Vec<Vec<u8>>, StreamError> {
        let (consumer, told) = self.consumer()?;
        let failed = |e: &KafkaError| told.failed(&self.doing("could not read"), e);
        let ids = self.partition_ids(&consumer, &told)?;
        let mut place = TopicPartitionList::new();
        for id in &ids {
            place
                .add_partition_offset(&self.settings.topic, *id, Offset::Beginning)
                .map_err(|e| failed(&e))?;
        }
        consumer.assign(&place).map_err(|e| failed(&e))?;
        let (mut all, mut ended) = (Vec::new(), 0);
        while all.len() < n && ended < ids.len() {
            match consumer.poll(ANSWER_WAIT) {
                Some(Ok(m)) => all.extend(m.payload().map(<[u8]>::to_vec)),
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(e)) => return Err(failed(&e)),
                None => break,
            }
        }
        Ok(all)
    }

    /// The payload of one message; `None` where it is gone or has none.
    fn raw(&self, partition: i32, at: SeqNo) -> Result<Option<Vec<u8>>, StreamError> {
        let (consumer, told) = self.consumer()?;
        let failed = |e: &KafkaError| told.failed(&self.doing("could not read"), e);
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(&self.settings.topic, partition, Offset::Offset(at.0 as i64))
            .and_then(|()| consumer.assign(&place))
            .map_err(|e| failed(&e))?;
        match consumer.poll(ANSWER_WAIT) {
            Some(Ok(m)) if m.offset() as u64 == at.0 => Ok(m.payload().map(<[u8]>::to_vec)),
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) | None => Ok(None),
            Some(Err(e)) => Err(failed(&e)),
        }
    }
}

impl KafkaStream {
    async fn partition_count(&self) -> Result<u32, StreamError> {
        ask(&self.0, |topic| {
            let (consumer, told) = topic.consumer()?;
            Ok(topic.partition_ids(&consumer, &told)?.len() as u32)
        })
        .await
    }

    /// Payloads of the first messages of all partitions, so many at most.
    pub async fn samples(&self, n: usize) -> Result<Vec<Vec<u8>>, StreamError> {
        ask(&self.0, move |topic| topic.samples(n)).await
    }
}

pub(super) fn sn(offset: i64) -> SeqNo {
    SeqNo(u64::try_from(offset).unwrap_or(0))
}

/// Questions to brokers wait, on a thread that may.
async fn ask<T: Send + 'static>(
    topic: &Arc<Topic>,
    ask: impl FnOnce(&Topic) -> Result<T, StreamError> + Send + 'static,
) -> Result<T, StreamError> {
    let topic = topic.clone();
    tokio::task::spawn_blocking(move || ask(&topic)).await.map_err(|e| StreamError {
        code: Code::LogicalError,
        message: format!("a question to a broker stopped on a bug: {e}"),
    })?
}

#[async_trait::async_trait]
impl ExternalStream for KafkaStream {
    async fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        ask(&self.0, Topic::partitions).await
    }

    async fn seek_time(&self, at_ms: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        let of = of.to_vec();
        ask(&self.0, move |topic| topic.seek_time(at_ms, &of)).await
    }

    async fn read(&self, scan: ExternalScan) -> Result<Box<dyn ExternalReader>, StreamError> {
        let topic = self.0.clone();
        let reader: KafkaReader = ask(&self.0, move |_| reader::start(topic, scan)).await?;
        Ok(Box::new(reader))
    }

    async fn ends(&self, n: usize) -> Result<Vec<SeqNo>, StreamError> {
        ask(&self.0, move |topic| topic.ends(n)).await
    }

    async fn make_log(&self, how: LogTopic) -> Result<u32, StreamError> {
        match self.partition_count().await {
            Err(e) if e.code == Code::UnknownStream => {}
            known => return known,
        }
        admin::create(&self.0, how).await?;
        let known = async {
            loop {
                match self.partition_count().await {
                    Err(e) if e.code == Code::UnknownStream => tokio::time::sleep(KNOWN_LOOK).await,
                    known => return known,
                }
            }
        };
        tokio::time::timeout(ANSWER_WAIT, known).await.unwrap_or_else(|_| {
            let message = format!("{}: brokers do not show it", self.0.doing("could not make"));
            Err(StreamError { code: Code::NetworkError, message })
        })
    }

    async fn raw(&self, partition: i32, at: SeqNo) -> Result<Option<Vec<u8>>, StreamError> {
        ask(&self.0, move |topic| topic.raw(partition, at)).await
    }

    async fn write(&self, how: ExternalWrite) -> Result<Box<dyn ExternalWriter>, StreamError> {
        let (topic, idle) = (self.0.clone(), self.1.clone());
        let writer = ask(&self.0, move |_| KafkaWriter::new(topic, how, &idle)).await?;
        Ok(Box::new(writer))
    }

    fn is_transactional(&self) -> bool {
        self.0.settings.exactly_once
    }
}

/// What encoding needs of a topic.
pub(super) fn payload_settings(topic: &Topic) -> &PayloadSettings {
    &topic.settings.payload
}
