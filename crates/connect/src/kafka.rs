//! `type='kafka'`: a topic of Kafka, Redpanda or anything that speaks as they do, through librdkafka.
//!
//! ```text
//! settings -> KafkaStream -> partitions, seek: asked once, by a client made for it
//!   reader: a thread polls librdkafka and decodes -> bounded channel -> the query
//!   writer: rows -> librdkafka's queue -> delivery reports
//! ```
//!
//! Invariants
//! - nobody joins a consumer group: partitions are assigned, offsets are the query's own;
//! - a row leaves as it arrives: nothing waits for a batch to fill;
//! - what is read ahead is bounded by librdkafka's queue and the channel.

mod admin;
mod batch;
mod client;
mod message;
mod reader;
mod settings;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

use crate::payload::{PayloadFormat, infer, language_of};
use crate::remote::RemoteHosts;
use crate::settings::bad;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use settings::{KafkaSettings, SECRETS};
use std::sync::Arc;
use stream::KafkaStream;
use weir_base::Clock;
use weir_format::types::Type;
use weir_plan::{Connector, ExternalSpec, ExternalStream, StreamError};

/// Messages that are looked at to find out columns.
const SAMPLES: usize = 200;

pub struct KafkaConnector {
    clock: Arc<dyn Clock>,
    hosts: RemoteHosts,
}

impl KafkaConnector {
    /// The clock says when a topic is asked for new partitions, `hosts` which brokers may be asked.
    pub fn new(clock: Arc<dyn Clock>, hosts: RemoteHosts) -> Self {
        KafkaConnector { clock, hosts }
    }
}

impl KafkaConnector {
    /// By a look at the first messages.
    async fn infer_json(
        &self,
        spec: ExternalSpec,
        settings: KafkaSettings,
    ) -> Result<SchemaRef, StreamError> {
        self.hosts.check_brokers(&settings.brokers)?;
        let name = spec.name.clone();
        let no = |what: &str| {
            bad(format!("{name} names no columns, and {what}; write them in CREATE EXTERNAL STREAM"))
        };
        let stream = KafkaStream::new(spec, settings, self.clock.clone(), &self.hosts)?;
        let samples = stream.samples(SAMPLES).await?;
        let columns = infer(samples.iter().map(Vec::as_slice)).map_err(|e| no(&e))?;
        if columns.is_empty() {
            return Err(no("its topic holds no message to find them out from"));
        }
        let field = |(name, type_name): (String, String)| {
            Type::parse(&type_name).map(|t| t.field(&name)).map_err(|e| no(&e.to_string()))
        };
        Ok(Arc::new(Schema::new(columns.into_iter().map(field).collect::<Result<Vec<_>, _>>()?)))
    }
}

#[async_trait::async_trait]
impl Connector for KafkaConnector {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn secrets(&self) -> &'static [&'static str] {
        SECRETS
    }

    fn open(&self, spec: ExternalSpec) -> Result<Arc<dyn ExternalStream>, StreamError> {
        let settings = KafkaSettings::parse(&spec)?;
        self.hosts.check_brokers(&settings.brokers)?;
        Ok(Arc::new(KafkaStream::new(spec, settings, self.clock.clone(), &self.hosts)?))
    }

    async fn infer(&self, spec: ExternalSpec) -> Result<SchemaRef, StreamError> {
        let settings = KafkaSettings::parse(&spec)?;
        let format = settings.payload.format.clone().unwrap_or_else(|| "JSONEachRow".into());
        match format.as_str() {
            name if name.eq_ignore_ascii_case("RawBLOB") => {
                Ok(Arc::new(Schema::new(vec![Field::new("raw", DataType::Utf8, false)])))
            }
            name if name.eq_ignore_ascii_case("JSONEachRow") => self.infer_json(spec, settings).await,
            name if language_of(name).is_some() => {
                let none = Schema::empty();
                let topic = &settings.topic;
                match PayloadFormat::of(&settings.payload, &none, topic, &spec.schemas, &self.hosts)? {
                    PayloadFormat::Schema(format) => {
                        let field = |(name, ty): (String, Type)| ty.field(&name);
                        let fields: Vec<Field> = format.columns().await?.into_iter().map(field).collect();
                        Ok(Arc::new(Schema::new(fields)))
                    }
                    _ => Err(bad(format!(
                        "{} names no columns; write them in CREATE EXTERNAL STREAM, or give format_schema or \
                         kafka_schema_registry_url",
                        spec.name
                    ))),
                }
            }
            name => Err(bad(format!(
                "{} names no columns, and messages of {name} do not name theirs; write them in CREATE EXTERNAL STREAM",
                spec.name
            ))),
        }
    }
}
