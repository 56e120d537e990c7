//! What librdkafka says beside messages: which brokers do not answer, and why.

use super::stream::sn;
use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use rdkafka::{ClientContext, Message};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_base::{Code, SeqNo};
use weir_plan::StreamError;

/// What a client of librdkafka has come to, seen from other threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    trouble: Mutex<Option<(RDKafkaErrorCode, String)>>,
    /// Messages that brokers have taken, or that nobody will.
    settled: AtomicU64,
    refused: Mutex<Option<(RDKafkaErrorCode, i32)>>,
    /// One past the greatest offset that was taken, by partition.
    taken: Mutex<BTreeMap<i32, i64>>,
}

impl Told {
    /// Why nothing goes on, in a line.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().as_ref().map(|(_, text)| text.clone())
    }

    /// Brokers answer.
    pub fn goes_on(&self) {
        *self.0.trouble.lock() = None;
    }

    pub fn note(&self, code: RDKafkaErrorCode, text: String) {
        *self.0.trouble.lock() = Some((code, text));
    }

    /// What to say where a broker did not answer in time.
    pub fn failed(&self, doing: &str, e: &KafkaError) -> StreamError {
        let trouble = self.0.trouble.lock().clone();
        let own = e.rdkafka_error_code();
        let (code, why) = match trouble {
            Some((code, why)) => (Some(code), why),
            None => (own, e.to_string()),
        };
        StreamError { code: code_of(code.or(own)), message: format!("{doing}: {why}") }
    }

    /// Messages brokers have taken or refused.
    pub fn settled(&self) -> u64 {
        self.0.settled.load(Ordering::Acquire)
    }

    /// One past the greatest offset that brokers have taken, of each partition.
    pub fn taken(&self) -> Vec<(i32, SeqNo)> {
        self.0.taken.lock().iter().map(|(id, next)| (*id, sn(*next))).collect()
    }

    pub fn has_refused(&self) -> bool {
        self.0.refused.lock().is_some()
    }

    /// The first message that was not taken: why, and its partition.
    pub fn take_refused(&self) -> Option<(RDKafkaErrorCode, i32)> {
        self.0.refused.lock().take()
    }
}

/// Weir's code of one of librdkafka's.
pub(super) fn code_of(code: Option<RDKafkaErrorCode>) -> Code {
    use RDKafkaErrorCode as K;
    match code {
        Some(K::UnknownTopic | K::UnknownTopicOrPartition | K::UnknownPartition) => Code::UnknownStream,
        Some(K::Authentication | K::SaslAuthenticationFailed) => Code::AuthenticationFailed,
        Some(
            K::TopicAuthorizationFailed
            | K::GroupAuthorizationFailed
            | K::ClusterAuthorizationFailed
            | K::TransactionalIdAuthorizationFailed,
        ) => Code::AccessDenied,
        Some(K::MessageSizeTooLarge | K::InvalidMessageSize | K::InvalidRecord) => Code::BadArguments,
        Some(K::OffsetOutOfRange | K::AutoOffsetReset) => Code::SequenceOutOfRange,
        _ => Code::NetworkError,
    }
}

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(target: "weir::kafka", facility, "{message}");
            }
            _ => tracing::info!(target: "weir::kafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        // All brokers down says less than why they are.
        let known = self.0.trouble.lock().is_some();
        if code != RDKafkaErrorCode::AllBrokersDown || !known {
            self.note(code, reason.to_owned());
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ConsumerContext for Told {}

impl ProducerContext<NoCustomPartitioner> for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                self.goes_on();
                let mut taken = self.0.taken.lock();
                let next = taken.entry(message.partition()).or_default();
                *next = (*next).max(message.offset().saturating_add(1));
            }
            Err((e, message)) => {
                let code = e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                self.0.refused.lock().get_or_insert((code, message.partition()));
            }
        }
        self.0.settled.fetch_add(1, Ordering::Release);
    }
}
