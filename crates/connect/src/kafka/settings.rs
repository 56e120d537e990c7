//! SETTINGS of a topic, and what librdkafka is told.

use crate::payload::{PayloadSettings, RegistrySettings, SubjectStrategy};
use crate::settings::{Settings, bad};
use rdkafka::ClientConfig;
use weir_plan::{ExternalSpec, StreamError};

const KNOWN: &[&str] = &[
    "type",
    "brokers",
    "topic",
    "security_protocol",
    "sasl_mechanism",
    "username",
    "password",
    "ssl_ca_cert_file",
    "ssl_ca_pem",
    "skip_ssl_cert_check",
    "properties",
    "data_format",
    "format_schema",
    "kafka_schema_registry_url",
    "kafka_schema_registry_credentials",
    "kafka_schema_registry_ca_pem",
    "kafka_schema_registry_skip_cert_check",
    "kafka_schema_registry_subject_strategy",
    "one_message_per_row",
    "kafka_max_message_size",
    "delivery",
];

pub(super) const SECRETS: &[&str] = &[
    "password",
    "ssl_ca_pem",
    "properties",
    "kafka_schema_registry_credentials",
    "kafka_schema_registry_ca_pem",
];

/// Of librdkafka: what would load code, run a program, or change what Weir relies on.
const REFUSED: &[&str] = &[
    "plugin.library.paths",
    "sasl.kerberos.kinit.cmd",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "isolation.level",
    "group.id",
    "transactional.id",
    "bootstrap.servers",
    "metadata.broker.list",
    "log_level",
    "debug",
];

/// Messages that librdkafka has fetched and nobody has taken, kilobytes.
const FETCHED_KBYTES_MAX: &str = "8192";
/// Of one answer of a broker; a larger message is fetched all the same.
const FETCH_BYTES_MAX: &str = "8388608";
/// Messages on their way to brokers, kilobytes.
const SENT_KBYTES_MAX: &str = "32768";
const MESSAGE_BYTES_MAX_DEFAULT: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct KafkaSettings {
    pub brokers: String,
    pub topic: String,
    pub payload: PayloadSettings,
    /// `auto.offset.reset`, if somebody said it: what to do about offsets that are gone.
    pub offset_reset: Option<OffsetReset>,
    pub exactly_once: bool,
    /// Of librdkafka, by name, in the order they are set.
    options: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OffsetReset {
    Earliest,
    Latest,
}

impl KafkaSettings {
    /// # Errors
    /// 115 for an unknown setting, 36 for a bad value.
    pub fn parse(spec: &ExternalSpec) -> Result<Self, StreamError> {
        let mut s = Settings::new("kafka", KNOWN, &spec.settings)?;
        let brokers = s.needed("brokers", "localhost:9092")?;
        let topic = s.needed("topic", "events")?;
        let mut options: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: String| options.push((name.into(), value));
        let protocol = s.word("security_protocol", &["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])?;
        let mechanism = s.word("sasl_mechanism", &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])?;
        let (user, password) = (s.text("username"), s.text("password"));
        let protocol = protocol.unwrap_or("PLAINTEXT");
        let sasl = protocol.starts_with("SASL");
        if !sasl && (mechanism.is_some() || user.is_some() || password.is_some()) {
            return Err(bad(format!(
                "sasl_mechanism, username and password need security_protocol='SASL_SSL' or 'SASL_PLAINTEXT', it is \
                 '{protocol}'"
            )));
        }
        set("security.protocol", protocol.into());
        if sasl {
            let (Some(user), Some(password)) = (user, password) else {
                return Err(bad(format!("security_protocol='{protocol}' needs username and password")));
            };
            set("sasl.mechanism", mechanism.unwrap_or("PLAIN").into());
            set("sasl.username", user);
            set("sasl.password", password);
        }
        if let Some(file) = s.text("ssl_ca_cert_file") {
            set("ssl.ca.location", file);
        }
        if let Some(pem) = s.text("ssl_ca_pem") {
            set("ssl.ca.pem", pem);
        }
        if s.flag("skip_ssl_cert_check")? {
            set("enable.ssl.certificate.verification", "false".into());
        }
        let mut offset_reset = None;
        for pair in
            s.text("properties").unwrap_or_default().split(';').map(str::trim).filter(|p| !p.is_empty())
        {
            // Not the value: it may be a secret.
            let Some((name, value)) = pair.split_once('=') else {
                return Err(bad("properties are name=value, with semicolons between them"));
            };
            let (name, value) = (name.trim(), value.trim());
            if REFUSED.contains(&name) {
                return Err(bad(format!(
                    "properties: {name} can not be set: Weir decides it, or it would run code"
                )));
            }
            if name == "auto.offset.reset" {
                offset_reset = Some(match value {
                    "earliest" | "smallest" | "beginning" => OffsetReset::Earliest,
                    "latest" | "largest" | "end" => OffsetReset::Latest,
                    _ => return Err(bad("properties: auto.offset.reset can be earliest or latest")),
                });
                continue;
            }
            set(name, value.to_owned());
        }
        let format = s.text("data_format");
        let one_message_per_row = s.flag("one_message_per_row")?;
        let message_bytes_max = s.number("kafka_max_message_size", MESSAGE_BYTES_MAX_DEFAULT)? as usize;
        let exactly_once = s.word("delivery", &["at_least_once", "exactly_once"])? == Some("exactly_once");
        let format_schema = s.text("format_schema");
        let registry = registry(&mut s)?;
        let payload = PayloadSettings {
            format,
            format_schema,
            registry,
            one_message_per_row,
            message_bytes_max,
            limit: ("kafka_max_message_size", ", and message.max.bytes of the topic"),
        };
        let settings = KafkaSettings { brokers, topic, payload, offset_reset, exactly_once, options };
        // What librdkafka does not know it says here, before anything is made.
        settings.common().create_native_config().map_err(|e| not_taken(&e))?;
        Ok(settings)
    }

    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "weir")
            // Brokers that went away are tried again within these.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "5000");
        for (name, value) in &self.options {
            config.set(name, value);
        }
        config
    }

    /// Of who makes topics.
    pub fn admin(&self) -> ClientConfig {
        self.common()
    }

    /// Of who reads, and of who asks.
    pub fn consumer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            // Assigned partitions need a name; nobody joins a group of it.
            .set("group.id", "weir")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            // Offsets that are gone are an error, told to who reads.
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", FETCHED_KBYTES_MAX)
            .set("fetch.max.bytes", FETCH_BYTES_MAX)
            .set("receive.message.max.bytes", "1000000000")
            .set("fetch.error.backoff.ms", "100")
            .set("allow.auto.create.topics", "false");
        // Who is slower than a broker for a moment is not to wait for a second, which is librdkafka's way.
        if config.get("fetch.queue.backoff.ms").is_none() {
            config.set("fetch.queue.backoff.ms", "5");
        }
        config
    }

    pub fn producer(&self, transactional_id: Option<&str>) -> ClientConfig {
        let mut config = self.common();
        config.set("enable.idempotence", "true").set("queue.buffering.max.kbytes", SENT_KBYTES_MAX).set(
            "message.max.bytes",
            self.payload.message_bytes_max.saturating_add(65_536).clamp(1_000_000, 1_000_000_000).to_string(),
        );
        if config.get("linger.ms").is_none() {
            config.set("linger.ms", "5");
        }
        if let Some(id) = transactional_id {
            config.set("transactional.id", id);
        }
        config
    }
}

fn registry(s: &mut Settings<'_>) -> Result<Option<RegistrySettings>, StreamError> {
    let url = s.text("kafka_schema_registry_url");
    let credentials = s.text("kafka_schema_registry_credentials");
    let ca_pem = s.text("kafka_schema_registry_ca_pem");
    let skip_cert_check = s.flag("kafka_schema_registry_skip_cert_check")?;
    let strategies = ["TopicName", "RecordName", "TopicRecordName"];
    let strategy = s.word("kafka_schema_registry_subject_strategy", &strategies)?;
    let Some(url) = url else {
        if credentials.is_some() || ca_pem.is_some() || skip_cert_check || strategy.is_some() {
            return Err(bad("kafka_schema_registry_… needs kafka_schema_registry_url='http://host:8081'"));
        }
        return Ok(None);
    };
    if credentials.as_ref().is_some_and(|c| !c.contains(':')) {
        return Err(bad("kafka_schema_registry_credentials is 'user:password'; found no colon"));
    }
    let strategy = match strategy {
        Some("RecordName") => SubjectStrategy::Record,
        Some("TopicRecordName") => SubjectStrategy::TopicAndRecord,
        _ => SubjectStrategy::Topic,
    };
    Ok(Some(RegistrySettings { url, credentials, ca_pem, skip_cert_check, strategy }))
}

/// What librdkafka says of a property, without its value.
fn not_taken(e: &rdkafka::error::KafkaError) -> StreamError {
    match e {
        rdkafka::error::KafkaError::ClientConfig(_, what, name, value) => {
            let what = if value.is_empty() { what.clone() } else { what.replace(value.as_str(), "…") };
            bad(format!("properties: {name}: {}", what.trim()))
        }
        e => bad(format!("properties: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::Schema;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn parse(settings: &[(&str, &str)]) -> Result<KafkaSettings, StreamError> {
        let base = [("type", "kafka"), ("brokers", "b:1"), ("topic", "t")];
        let all = base.iter().chain(settings).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let empty = Arc::new(Schema::empty());
        KafkaSettings::parse(&ExternalSpec {
            name: "default.k".into(),
            settings: all.collect(),
            schemas: BTreeMap::new(),
            payload: empty.clone(),
            around: empty,
        })
    }

    #[test]
    fn settings_say_what_is_wrong_with_them() {
        // (settings, code, part of the message)
        let cases: [(&[(&str, &str)], i32, &str); 10] = [
            (&[("brokers", "")], 36, "needs brokers"),
            (&[("topics", "a")], 115, "did you mean topic"),
            (&[("security_protocol", "tls")], 36, "SASL_SSL"),
            (&[("username", "me")], 36, "security_protocol"),
            (&[("security_protocol", "SASL_SSL"), ("username", "me")], 36, "username and password"),
            (&[("properties", "plugin.library.paths=/tmp/x.so")], 36, "can not be set"),
            (&[("properties", "no.such.property=secret")], 36, "no.such.property"),
            (&[("kafka_max_message_size", "big")], 36, "whole number"),
            (&[("kafka_schema_registry_credentials", "secret:x")], 36, "needs kafka_schema_registry_url"),
            (
                &[("kafka_schema_registry_url", "http://r"), ("kafka_schema_registry_credentials", "secret")],
                36,
                "no colon",
            ),
        ];
        for (settings, code, part) in cases {
            let e = parse(settings).unwrap_err();
            assert_eq!(e.code.number(), code, "{settings:?}: {}", e.message);
            assert!(e.message.contains(part), "{settings:?}: {}", e.message);
            assert!(!e.message.contains("secret"), "{}", e.message);
        }
    }

    #[test]
    fn properties_reach_librdkafka() {
        let s = parse(&[
            ("security_protocol", "sasl_plaintext"),
            ("sasl_mechanism", "scram-sha-256"),
            ("username", "me"),
            ("password", "p;w=1"),
            ("properties", "socket.timeout.ms = 9000; auto.offset.reset=earliest;compression.type=zstd"),
        ])
        .unwrap();
        let config = s.producer(None);
        assert_eq!(config.get("sasl.password"), Some("p;w=1"));
        assert_eq!(config.get("sasl.mechanism"), Some("SCRAM-SHA-256"));
        assert_eq!(config.get("socket.timeout.ms"), Some("9000"));
        assert_eq!(config.get("compression.type"), Some("zstd"));
        assert_eq!(s.offset_reset, Some(OffsetReset::Earliest));
        config.create_native_config().unwrap();
        s.consumer().create_native_config().unwrap();
        s.producer(Some("id")).create_native_config().unwrap();
    }
}
