//! Questions to another Weir.

use super::settings::WeirSettings;
use crate::http::{NoAnswer, body, client};
use crate::remote::RemoteHosts;
use crate::settings::bad;
use serde_json::Value;
use std::time::Duration;
use weir_base::{Code, SeqNo};
use weir_format::types::Type;
use weir_plan::{Partition, StreamError};

const ANSWER_WAIT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub(super) struct Remote {
    /// `database.name` here, for messages.
    pub name: String,
    pub settings: WeirSettings,
    /// For answers that end, and for those that do not.
    client: reqwest::Client,
    following: reqwest::Client,
}

pub(super) fn ident(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl Remote {
    /// # Errors
    /// 36 for hosts that are none, 497 for one that may not be spoken to.
    pub fn new(name: String, settings: WeirSettings, hosts: &RemoteHosts) -> Result<Self, StreamError> {
        let answering = client(&settings.http, "hosts", Some(ANSWER_WAIT), hosts)?;
        let following = client(&settings.http, "hosts", None, hosts)?;
        Ok(Remote { name, settings, client: answering, following })
    }

    pub fn doing(&self, what: &str) -> String {
        let s = &self.settings;
        format!("{what} {}.{} of {} at {}", s.database, s.stream, self.name, s.http.url)
    }

    pub fn stream(&self) -> String {
        format!("{}.{}", ident(&self.settings.database), ident(&self.settings.stream))
    }

    /// Sends a statement, with data behind it; the answer's head has come, and says that it went well.
    pub async fn send(
        &self,
        what: &str,
        sql: &str,
        settings: &[(&str, &str)],
        data: Option<Vec<u8>>,
        ends: bool,
    ) -> Result<reqwest::Response, NoAnswer> {
        let client = if ends { &self.client } else { &self.following };
        let who = self.doing(what);
        let mut url = reqwest::Url::parse(&self.settings.http.url)
            .map_err(|e| NoAnswer::Bad(bad(format!("{who}: {e}"))))?;
        {
            let mut query = url.query_pairs_mut();
            if data.is_some() {
                query.append_pair("query", sql);
            }
            for (name, value) in settings {
                query.append_pair(name, value);
            }
        }
        let mut request = client.post(url).body(data.unwrap_or_else(|| sql.as_bytes().to_vec()));
        if let Some(user) = &self.settings.user {
            request = request.header("x-clickhouse-user", user);
        }
        if let Some(password) = &self.settings.password {
            request = request.header("x-clickhouse-key", password);
        }
        let mut answer = request.send().await.map_err(|e| NoAnswer::away(&who, &e))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer
            .headers()
            .get("x-clickhouse-exception-code")
            .and_then(|c| c.to_str().ok()?.parse::<i32>().ok());
        let status = answer.status().as_u16();
        let says = body(&mut answer, &who, ANSWER_BYTES_MAX).await?;
        let says = String::from_utf8_lossy(&says).into_owned();
        if code == Some(Code::SequenceOutOfRange.number()) {
            let message = format!("{who}: {}", says.trim());
            return Err(NoAnswer::Bad(StreamError { code: Code::SequenceOutOfRange, message }));
        }
        Err(NoAnswer::of_status(&who, status, &says, "; give user and password"))
    }

    /// Rows of an answer that ends, a JSON object each.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Value>, NoAnswer> {
        let what = "could not ask about";
        let settings = [("default_format", "JSONEachRow"), ("query_mode", "table")];
        let mut answer = self.send(what, sql, &settings, None, true).await?;
        let text = body(&mut answer, &self.doing(what), ANSWER_BYTES_MAX).await?;
        let nonsense = |e: serde_json::Error| {
            let message = format!("{}: it does not answer as a Weir does: {e}", self.doing(what));
            NoAnswer::Bad(StreamError { code: Code::NetworkError, message })
        };
        serde_json::Deserializer::from_slice(&text).into_iter().collect::<Result<_, _>>().map_err(nonsense)
    }

    fn is_it(&self) -> String {
        let s = &self.settings;
        format!("database = {} AND table = {}", literal(&s.database), literal(&s.stream))
    }

    pub async fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        let sql =
            format!("SELECT shard, sn_min, sn_end FROM system.shards WHERE {} ORDER BY shard", self.is_it());
        let number = |row: &Value, name: &str| match &row[name] {
            Value::String(text) => text.parse().unwrap_or(0),
            other => other.as_u64().unwrap_or(0),
        };
        let rows = self.rows(&sql).await.map_err(NoAnswer::error)?;
        if rows.is_empty() {
            return Err(StreamError {
                code: Code::UnknownStream,
                message: format!("{}: there is no such stream", self.doing("could not find")),
            });
        }
        let partition = |row: &Value| Partition {
            id: number(row, "shard") as i32,
            first: SeqNo(number(row, "sn_min")),
            end: SeqNo(number(row, "sn_end")),
        };
        Ok(rows.iter().map(partition).collect())
    }

    pub async fn seek_time(&self, at_ms: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        let sql = format!(
            "SELECT _tp_shard AS shard, min(_tp_sn) AS sn FROM table({}) WHERE _tp_time >= \
             from_unix_timestamp64_milli({at_ms}) GROUP BY shard",
            self.stream()
        );
        let rows = self.rows(&sql).await.map_err(NoAnswer::error)?;
        let of_shard = |p: &Partition| {
            let row = rows.iter().find(|r| r["shard"].as_i64() == Some(p.id.into()))?;
            row["sn"].as_u64().or_else(|| row["sn"].as_str()?.parse().ok()).map(SeqNo)
        };
        Ok(of.iter().map(|p| of_shard(p).unwrap_or(p.end)).collect())
    }

    /// Names and types of its columns, but for the time of a row, which every stream has.
    pub async fn columns(&self) -> Result<Vec<(String, Type)>, StreamError> {
        let sql = format!(
            "SELECT name, type FROM system.columns WHERE {} AND name != '_tp_time' AND default_kind != 'ALIAS' ORDER BY position",
            self.is_it()
        );
        let rows = self.rows(&sql).await.map_err(NoAnswer::error)?;
        if rows.is_empty() {
            return Err(StreamError {
                code: Code::UnknownStream,
                message: format!("{}: there is no such stream", self.doing("could not find the columns of")),
            });
        }
        let column = |row: &Value| {
            let (name, ty) =
                (row["name"].as_str().unwrap_or_default(), row["type"].as_str().unwrap_or_default());
            let ty = Type::parse(ty)
                .map_err(|e| bad(format!("column {name} of {}: {e}", self.doing("stream"))))?;
            Ok((name.to_owned(), ty))
        };
        rows.iter().map(column).collect()
    }

    /// Where a writer is, in base64; empty = it has written nothing.
    pub async fn position(&self, writer: &str) -> Result<String, NoAnswer> {
        let sql = format!(
            "SELECT position FROM system.log_writers WHERE {} AND writer = {} LIMIT 1",
            self.is_it(),
            literal(writer)
        );
        let rows = self.rows(&sql).await?;
        Ok(rows.first().and_then(|r| r["position"].as_str()).unwrap_or_default().to_owned())
    }
}
