//! `type='http'`: rows are posted to a URL; nothing can be read back.
//!
//! Rows become bodies of one format, each of so many bytes at most. A body counts once it was answered with 2xx;
//! where nobody answers, or with 408, 429 or 5xx, it is posted again, so that each row is there at least once.

use crate::http::{HttpSettings, NoAnswer, body, client};
use crate::payload::{PayloadEncoder, PayloadFormat, PayloadSettings};
use crate::remote::RemoteHosts;
use crate::settings::{Settings, bad};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Code, SeqNo};
use weir_plan::{
    Connector, ExternalReader, ExternalScan, ExternalSpec, ExternalStream, ExternalWrite, ExternalWriter,
    Partition, Position, StreamError,
};

const KNOWN: &[&str] = &[
    "type",
    "url",
    "write_method",
    "data_format",
    "one_message_per_row",
    "username",
    "password",
    "http_max_body_size",
    "ssl_ca_pem",
    "skip_ssl_cert_check",
];
/// Headers are named behind this; their values are secrets.
const HEADER: &str = "http_header_";
const ANSWER_WAIT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_DEFAULT: u64 = 1 << 20;
/// Tries of a body before who writes is told; the waits between them double.
const TRIES: u32 = 5;
const WAIT_FIRST: Duration = Duration::from_millis(100);

pub struct WebhookConnector {
    hosts: RemoteHosts,
}

impl WebhookConnector {
    /// `hosts`: who may be spoken to.
    pub fn new(hosts: RemoteHosts) -> Self {
        WebhookConnector { hosts }
    }
}

#[async_trait::async_trait]
impl Connector for WebhookConnector {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["password", "ssl_ca_pem"]
    }

    fn open(&self, spec: ExternalSpec) -> Result<Arc<dyn ExternalStream>, StreamError> {
        Ok(Arc::new(Webhook(Arc::new(Target::new(spec, &self.hosts)?))))
    }

    async fn infer(&self, spec: ExternalSpec) -> Result<SchemaRef, StreamError> {
        Err(bad(format!(
            "{} names no columns, and a URL has none; write them in CREATE EXTERNAL STREAM",
            spec.name
        )))
    }
}

struct Target {
    /// `database.name`, for messages.
    name: String,
    url: String,
    method: reqwest::Method,
    headers: HeaderMap,
    format: PayloadFormat,
    payload: SchemaRef,
    how: PayloadSettings,
    client: reqwest::Client,
}

impl Target {
    fn new(spec: ExternalSpec, hosts: &RemoteHosts) -> Result<Self, StreamError> {
        let (named, left) = Settings::prefixed(&spec.settings, HEADER);
        let mut s = Settings::new("http", KNOWN, &left)?;
        let url = s.needed("url", "https://host/path")?;
        let http = HttpSettings {
            url: url.clone(),
            ca_pem: s.text("ssl_ca_pem"),
            skip_cert_check: s.flag("skip_ssl_cert_check")?,
        };
        let client = client(&http, "url", Some(ANSWER_WAIT), hosts)?;
        let method = match s.word("write_method", &["POST", "PUT"])? {
            Some("PUT") => reqwest::Method::PUT,
            _ => reqwest::Method::POST,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in named {
            let no = || bad(format!("{HEADER}{name} is no header of HTTP"));
            let header = HeaderName::from_bytes(name.replace('_', "-").as_bytes()).map_err(|_| no())?;
            headers.insert(header, HeaderValue::from_str(&value).map_err(|_| no())?);
        }
        if let Some(user) = s.text("username") {
            let both = STANDARD.encode(format!("{user}:{}", s.text("password").unwrap_or_default()));
            let value =
                HeaderValue::from_str(&format!("Basic {both}")).map_err(|_| bad("username is no text"))?;
            headers.insert(reqwest::header::AUTHORIZATION, value);
        }
        let message_bytes_max =
            usize::try_from(s.number("http_max_body_size", BODY_BYTES_DEFAULT)?).unwrap_or(usize::MAX);
        let how = PayloadSettings {
            format: s.text("data_format"),
            one_message_per_row: s.flag("one_message_per_row")?,
            message_bytes_max,
            limit: ("http_max_body_size", ""),
            ..PayloadSettings::default()
        };
        let format = PayloadFormat::of(&how, &spec.payload, "", &spec.schemas, hosts)?;
        if !headers.contains_key(reqwest::header::CONTENT_TYPE)
            && let Ok(value) = HeaderValue::from_str(format.content_type())
        {
            headers.insert(reqwest::header::CONTENT_TYPE, value);
        }
        Ok(Target { name: spec.name, url, method, headers, format, payload: spec.payload, how, client })
    }

    /// The URL may hold a secret behind its path.
    fn doing(&self, what: &str) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        format!("{what} {url} of {}", self.name)
    }

    async fn post(&self, payload: &[u8]) -> Result<(), NoAnswer> {
        let who = self.doing("could not write to");
        let request = self.client.request(self.method.clone(), &self.url).headers(self.headers.clone());
        let mut answer = request.body(payload.to_vec()).send().await.map_err(|e| NoAnswer::away(&who, &e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let says = body(&mut answer, &who, ANSWER_BYTES_MAX).await.unwrap_or_default();
        let says: String = String::from_utf8_lossy(&says).chars().take(200).collect();
        Err(NoAnswer::of_status(
            &who,
            status.as_u16(),
            &says,
            "; give username and password, or http_header_…",
        ))
    }
}

struct Webhook(Arc<Target>);

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.doing("posts to"))
    }
}

impl Webhook {
    fn unread<T>(&self) -> Result<T, StreamError> {
        Err(StreamError {
            code: Code::NotImplemented,
            message: format!(
                "{} is an external stream of type 'http': it is written, and can not be read",
                self.0.name
            ),
        })
    }
}

#[async_trait::async_trait]
impl ExternalStream for Webhook {
    async fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        self.unread()
    }

    async fn seek_time(&self, _at_ms: i64, _of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        self.unread()
    }

    async fn read(&self, _scan: ExternalScan) -> Result<Box<dyn ExternalReader>, StreamError> {
        self.unread()
    }

    async fn raw(&self, _partition: i32, _at: SeqNo) -> Result<Option<Vec<u8>>, StreamError> {
        self.unread()
    }

    async fn write(&self, _how: ExternalWrite) -> Result<Box<dyn ExternalWriter>, StreamError> {
        let target = self.0.clone();
        let encoder = PayloadEncoder::new(target.format.clone(), target.payload.clone(), &target.how)?;
        Ok(Box::new(WebhookWriter { target, encoder }))
    }
}

struct WebhookWriter {
    target: Arc<Target>,
    encoder: PayloadEncoder,
}

#[async_trait::async_trait]
impl ExternalWriter for WebhookWriter {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError> {
        let bug =
            |e: arrow_schema::ArrowError| StreamError { code: Code::LogicalError, message: e.to_string() };
        let columns: Vec<usize> = self
            .encoder
            .schema()
            .fields()
            .iter()
            .map(|f| rows.schema_ref().index_of(f.name()))
            .collect::<Result<_, _>>()
            .map_err(bug)?;
        let encoded = self.encoder.encode(&rows.project(&columns).map_err(bug)?, false)?;
        for (payload, _) in encoded.messages() {
            let mut wait = WAIT_FIRST;
            for left in (0..TRIES).rev() {
                match self.target.post(payload.unwrap_or_default()).await {
                    Ok(()) => break,
                    Err(NoAnswer::Away(_)) if left > 0 => tokio::time::sleep(wait).await,
                    Err(e) => return Err(e.error()),
                }
                wait *= 2;
            }
        }
        Ok(())
    }

    /// What was written was answered.
    async fn flush(&mut self, _at: Option<&Position>) -> Result<(), StreamError> {
        Ok(())
    }
}
