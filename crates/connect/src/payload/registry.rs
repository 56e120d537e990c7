//! A schema registry as Confluent's, and those that speak as it does: schemas by id, and of subjects.
//!
//! A message begins with a zero byte and the id of its schema, four bytes, big-endian; one of Protobuf goes on
//! with the place of its message in the schema (Confluent, "Wire format").

use super::schema::{Language, MessageSchema};
use crate::http::{HttpSettings, NoAnswer, body, client};
use crate::remote::RemoteHosts;
use crate::settings::bad;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use weir_base::Code;
use weir_plan::StreamError;

const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Schemas kept; past them all are asked for again.
const KEPT_MAX: usize = 1_000;
/// Schemas that one schema may name, themselves and through others.
const REFERENCES_MAX: usize = 100;
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Which subject holds the schema of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SubjectStrategy {
    /// `topic-value`.
    #[default]
    Topic,
    /// The full name of the record.
    Record,
    /// `topic-` and the full name of the record.
    TopicAndRecord,
}

/// How a registry is reached; for messages about it, without secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegistrySettings {
    pub url: String,
    /// `user:password`.
    pub credentials: Option<String>,
    pub ca_pem: Option<String>,
    pub skip_cert_check: bool,
    pub strategy: SubjectStrategy,
}

pub(crate) struct Registry {
    client: reqwest::Client,
    settings: RegistrySettings,
    language: Language,
    by_id: Mutex<HashMap<u32, Arc<MessageSchema>>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry {}", self.settings.url)
    }
}

impl Registry {
    /// # Errors
    /// 36 for what is no URL of HTTP, 497 for a host that may not be spoken to.
    pub fn new(
        settings: RegistrySettings,
        language: Language,
        hosts: &RemoteHosts,
    ) -> Result<Self, StreamError> {
        let http = HttpSettings {
            url: settings.url.clone(),
            ca_pem: settings.ca_pem.clone(),
            skip_cert_check: settings.skip_cert_check,
        };
        let client = client(&http, "kafka_schema_registry_url", Some(ANSWER_WAIT), hosts)?;
        Ok(Registry { client, settings, language, by_id: Mutex::default() })
    }

    /// Waits for the registry, on a thread that may.
    ///
    /// # Errors
    /// 36 where there is none.
    pub fn schema(&self, id: u32, runtime: &tokio::runtime::Handle) -> Result<Arc<MessageSchema>, NoAnswer> {
        if let Some(schema) = self.by_id.lock().get(&id) {
            return Ok(schema.clone());
        }
        let answer = runtime.block_on(self.ask(&format!("schemas/ids/{id}"), None))?;
        let schema = Arc::new(runtime.block_on(self.read(&answer, &format!("schema {id}")))?);
        let mut kept = self.by_id.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(id, schema.clone());
        Ok(schema)
    }

    /// The newest schema of a subject, with its id; `None` where there is no such subject.
    pub async fn latest(&self, subject: &str) -> Result<Option<(u32, MessageSchema)>, NoAnswer> {
        let path = format!("subjects/{}/versions/latest", escaped(subject));
        let answer = match self.ask(&path, None).await {
            Err(NoAnswer::Bad(e)) if e.code == Code::UnknownStream => return Ok(None),
            other => other?,
        };
        let id = answer["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| self.nonsense(&path))?;
        Ok(Some((id, self.read(&answer, &format!("the schema of subject {subject}")).await?)))
    }

    /// Makes a text the newest schema of a subject; its id.
    pub async fn register(&self, subject: &str, text: &str) -> Result<u32, NoAnswer> {
        let mut body = json!({ "schema": text });
        if self.language == Language::Protobuf {
            body["schemaType"] = json!("PROTOBUF");
        }
        let path = format!("subjects/{}/versions", escaped(subject));
        let answer = self.ask(&path, Some(body)).await?;
        answer["id"].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| self.nonsense(&path))
    }

    pub fn strategy(&self) -> SubjectStrategy {
        self.settings.strategy
    }

    fn nonsense(&self, path: &str) -> NoAnswer {
        NoAnswer::Bad(bad(format!("{}/{path} did not answer as a schema registry does", self.settings.url)))
    }

    async fn ask(&self, path: &str, post: Option<Value>) -> Result<Value, NoAnswer> {
        let url = format!("{}/{path}", self.settings.url.trim_end_matches('/'));
        let request = match &post {
            None => self.client.get(&url),
            Some(body) => self.client.post(&url).body(body.to_string()),
        };
        let mut request =
            request.header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        if post.is_some() {
            request = request.header("content-type", "application/vnd.schemaregistry.v1+json");
        }
        if let Some(credentials) = &self.settings.credentials {
            request = request.header("authorization", format!("Basic {}", STANDARD.encode(credentials)));
        }
        let who = format!("schema registry {url}");
        let mut answer = request.send().await.map_err(|e| NoAnswer::away(&who, &e))?;
        let status = answer.status();
        let body = body(&mut answer, &who, ANSWER_BYTES_MAX).await?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(json);
        }
        let says = json["message"].as_str().unwrap_or("no reason given");
        let remedy = "; give kafka_schema_registry_credentials='user:password'";
        Err(NoAnswer::of_status(&who, status.as_u16(), says, remedy))
    }

    /// A schema as the registry tells it, with those it names.
    async fn read(&self, answer: &Value, what: &str) -> Result<MessageSchema, NoAnswer> {
        let given = answer["schemaType"].as_str().unwrap_or("AVRO");
        if !given.eq_ignore_ascii_case(self.language.name()) {
            let name = self.language.name();
            return Err(NoAnswer::Bad(bad(format!("{what} is one of {given}, and data_format says {name}"))));
        }
        let text = answer["schema"].as_str().ok_or_else(|| self.nonsense(what))?;
        let mut texts = BTreeMap::new();
        let mut left = references(answer);
        while let Some((name, subject, version)) = left.pop() {
            if texts.contains_key(&name) {
                continue;
            }
            if texts.len() >= REFERENCES_MAX {
                return Err(NoAnswer::Bad(bad(format!("{what} names more than {REFERENCES_MAX} others"))));
            }
            let path = format!("subjects/{}/versions/{version}", escaped(&subject));
            let answer = self.ask(&path, None).await?;
            let text = answer["schema"].as_str().ok_or_else(|| self.nonsense(&path))?;
            texts.insert(name.clone(), text.to_owned());
            left.extend(references(&answer));
        }
        let schema = MessageSchema::of_registry(self.language, text, texts);
        schema.map_err(|e| NoAnswer::Bad(StreamError { message: format!("{what}: {}", e.message), ..e }))
    }
}

fn references(answer: &Value) -> Vec<(String, String, u64)> {
    let one = |r: &Value| {
        Some((r["name"].as_str()?.to_owned(), r["subject"].as_str()?.to_owned(), r["version"].as_u64()?))
    };
    answer["references"].as_array().into_iter().flatten().filter_map(one).collect()
}

/// A name as a part of a path.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
