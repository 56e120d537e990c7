//! Makes topics that are to be logs of streams.

use super::client::{Told, code_of};
use super::stream::{ANSWER_WAIT, Topic};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use weir_plan::{LogTopic, StreamError};

/// Makes the topic; one that is there by now is taken as it is. Brokers may not know it at once.
///
/// # Errors
/// What brokers say against it; 210 where none answers.
pub(super) async fn create(topic: &Topic, how: LogTopic) -> Result<(), StreamError> {
    let told = Told::default();
    let failed = |e: &rdkafka::error::KafkaError| told.failed(&topic.doing("could not make"), e);
    let admin: AdminClient<Told> =
        topic.settings.admin().create_with_context(told.clone()).map_err(|e| failed(&e))?;
    let (ms, bytes) = (how.retention_ms.map(|n| n.to_string()), how.retention_bytes.map(|n| n.to_string()));
    let partitions = how.partitions.unwrap_or(1) as i32;
    let replication = TopicReplication::Fixed(how.replication_factor.max(1) as i32);
    let mut new = NewTopic::new(&topic.settings.topic, partitions, replication);
    if let Some(ms) = &ms {
        new = new.set("retention.ms", ms);
    }
    if let Some(bytes) = &bytes {
        new = new.set("retention.bytes", bytes);
    }
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT)).operation_timeout(Some(ANSWER_WAIT));
    let answers = admin.create_topics([&new], &options).await.map_err(|e| failed(&e))?;
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                let message = format!("{}: {code}", topic.doing("could not make"));
                return Err(StreamError { code: code_of(Some(code)), message });
            }
        }
    }
    Ok(())
}
