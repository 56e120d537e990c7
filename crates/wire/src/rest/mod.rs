//! REST calls on the HTTP ports: `/proton/v1/…`, also as `/timeplusd/v1/…`.
//!
//! Each is a statement in other clothes: an ingest is an INSERT, a search is its query. They
//! are translated here and run as any statement. Pure.

mod members;

use crate::clickhouse_http::answer::{Answer, Body};
use crate::clickhouse_http::ask::Ask;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use weir_base::{Error, Result, err};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Ingest { stream: String },
    Search,
    Analyze,
}

/// What a call comes down to.
pub enum Work {
    /// `ask.query` with `data` as the body. `rows_answer`: the answer is the query's result.
    Run {
        ask: Box<Ask>,
        data: Bytes,
        rows_answer: bool,
    },
    Analyze {
        query: String,
    },
}

impl Call {
    pub fn of(method: &Method, path: &str) -> Option<Call> {
        let call = path.strip_prefix("/proton/v1/").or_else(|| path.strip_prefix("/timeplusd/v1/"))?;
        if *method != Method::POST {
            return None;
        }
        if let Some(stream) = call.strip_prefix("ingest/streams/") {
            let stream = percent_encoding::percent_decode_str(stream).decode_utf8().ok()?;
            return (!stream.is_empty()).then(|| Call::Ingest { stream: stream.into_owned() });
        }
        match call {
            "search" => Some(Call::Search),
            "sqlanalyzer" => Some(Call::Analyze),
            _ => None,
        }
    }

    /// # Errors
    /// 117 for a body that is not the JSON the call takes, 36 for an unknown `mode`.
    pub fn work(self, mut ask: Ask, headers: &HeaderMap, body: Vec<u8>) -> Result<Work> {
        let text = std::str::from_utf8(&body).map_err(|_| err!(IncorrectData, "the body is not UTF-8"))?;
        match self {
            Call::Ingest { stream } => {
                let (columns, rows) = members::ingest(text)?;
                ask.query = format!(
                    "INSERT INTO {}{} ({columns}) FORMAT JSONCompactEachRow",
                    ask.database.as_ref().map(|d| format!("{}.", quoted(d))).unwrap_or_default(),
                    quoted(&stream)
                );
                let ack = match ask.mode_parameter.as_deref() {
                    None | Some("" | "sync" | "ordered") => "durable",
                    Some("async") => "written",
                    Some("fire_and_forget") => "none",
                    Some(other) => {
                        return Err(err!(
                            BadArguments,
                            "mode={other} is not known; use sync, ordered, async or fire_and_forget"
                        ));
                    }
                };
                ask.settings.push(("ack".into(), ack.into()));
                for name in ["x-timeplus-idempotent-id", "x-proton-idempotent-id"] {
                    if let Some(id) = headers.get(name).and_then(|v| v.to_str().ok()) {
                        ask.settings.push(("idempotent_id".into(), id.into()));
                        break;
                    }
                }
                Ok(Work::Run { ask: Box::new(ask), data: rows.into(), rows_answer: false })
            }
            Call::Search => {
                let (query, format) = members::query(text)?;
                ask.query = query;
                ask.format = ask.format.or(format);
                Ok(Work::Run { ask: Box::new(ask), data: Bytes::new(), rows_answer: true })
            }
            Call::Analyze => Ok(Work::Analyze { query: members::query(text)?.0 }),
        }
    }
}

/// A name between backticks.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An error's answer as these calls give it: `{"code", "error_msg", "request_id"}`.
pub fn refused(answer: Answer, error: &Error) -> Answer {
    let id = answer.headers().get("x-timeplus-query-id").and_then(|v| v.to_str().ok()).unwrap_or("");
    let body = format!(
        "{{\"code\":{},\"error_msg\":{},\"request_id\":{}}}\n",
        error.code.number(),
        json(&error.client_text(crate::VERSION)),
        json(id)
    );
    as_json(answer, body)
}

/// An ingest that went through.
pub fn done(answer: Answer, query_id: &str) -> Answer {
    as_json(answer, format!("{{\"request_id\":{0},\"query_id\":{0}}}\n", json(query_id)))
}

fn as_json(mut answer: Answer, body: String) -> Answer {
    *answer.body_mut() = Body::whole(body);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

pub fn info(display_name: &str) -> String {
    format!("{{\"name\":{},\"build\":{{\"version\":{}}}}}", json(display_name), json(crate::VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_engine::QueryMode;

    fn ask(url: &str) -> Ask {
        Ask::read(url, &HeaderMap::new(), QueryMode::Streaming).unwrap()
    }

    #[test]
    fn paths() {
        let ingest = |s: &str| Some(Call::Ingest { stream: s.into() });
        // (method, path, call)
        let cases = [
            (Method::POST, "/proton/v1/ingest/streams/trades", ingest("trades")),
            (Method::POST, "/timeplusd/v1/ingest/streams/a%20b", ingest("a b")),
            (Method::GET, "/proton/v1/ingest/streams/trades", None),
            (Method::POST, "/proton/v1/ingest/streams/", None),
            (Method::POST, "/proton/v1/search", Some(Call::Search)),
            (Method::POST, "/proton/v1/sqlanalyzer", Some(Call::Analyze)),
            (Method::POST, "/proton/v1/else", None),
            (Method::POST, "/search", None),
        ];
        for (method, path, expected) in cases {
            assert_eq!(Call::of(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn an_ingest_is_an_insert() {
        let call = Call::Ingest { stream: "tra`des".into() };
        let mut headers = HeaderMap::new();
        headers.insert("x-proton-idempotent-id", HeaderValue::from_static("n1"));
        let body = br#" {"columns" : ["a","b c"], "data": [ [1, "x]"], [2.50, [1,2]] ] } "#.to_vec();
        let Work::Run { ask, data, rows_answer } = call.work(ask("mode=async&db=d"), &headers, body).unwrap()
        else {
            panic!("an ingest runs a statement");
        };
        assert_eq!(ask.query, "INSERT INTO `d`.`tra\\`des` (`a`, `b c`) FORMAT JSONCompactEachRow");
        assert_eq!(&data[..], b"[1, \"x]\"]\n[2.50, [1,2]]\n");
        assert!(!rows_answer);
        let settings: Vec<(&str, &str)> =
            ask.settings.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(settings, [("ack", "written"), ("idempotent_id", "n1")]);
    }

    #[test]
    fn bodies_that_are_refused() {
        let ingest = Call::Ingest { stream: "s".into() };
        for (call, body, part) in [
            (&Call::Search, r#"{"sql":"SELECT 1"}"#, "query"),
            (&Call::Search, r#"SELECT 1"#, "object"),
            (&ingest, r#"{"data":[[1]]}"#, "columns"),
            (&ingest, r#"{"columns":["a"]}"#, "data"),
            (&ingest, r#"{"columns":["a"],"data":[[1]"#, "ends"),
            (&ingest, r#"{"columns":["a"],"data":[1]}"#, "array"),
        ] {
            let e = call.clone().work(ask(""), &HeaderMap::new(), body.into()).err().unwrap();
            assert!(e.message.contains(part), "{body}: {e}");
        }
        let body = br#"{"columns":["a"],"data":[]}"#.to_vec();
        let e = ingest.work(ask("mode=x"), &HeaderMap::new(), body).err().unwrap();
        assert!(e.message.contains("mode=x"), "{e}");
    }
}
