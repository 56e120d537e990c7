//! Which path does what, who may, and how a refusal looks.

use super::Shared;
use super::answer::{Answer, Body, Head};
use super::ask::Ask;
use super::socket::FlowSide;
use super::statement::{Statement, is_small_insert};
use super::upload::Upload;
use crate::rest;
use futures::FutureExt;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use weir_base::metrics::MetricKind;
use weir_base::{Error, Result, err};
use weir_engine::QueryMode;

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.0).poll(cx).map(|joined| joined.map_err(|e| broke_off(&e)))
    }
}

fn broke_off(why: &dyn std::fmt::Display) -> Error {
    err!(LogicalError, "the statement broke off inside the server: {why}")
}

/// Answers one request. Never fails: a refusal is an answer.
pub async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    mode: QueryMode,
    flow: FlowSide,
) -> Result<Answer, Infallible> {
    shared.requests.add(1);
    let answer = route(&shared, request, mode, flow).await;
    if answer.status().is_client_error() || answer.status().is_server_error() {
        shared.failed_requests.add(1);
    }
    Ok(answer)
}

fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    whole(status, "text/plain; charset=UTF-8", body)
}

fn whole(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> Answer {
    let mut answer = Answer::new(Body::whole(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    answer
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>, mode: QueryMode, flow: FlowSide) -> Answer {
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match path {
        "/ping" if reads => text(StatusCode::OK, "Ok.\n"),
        "/replicas_status" if reads => text(StatusCode::OK, "Ok.\n"),
        "/proton/ping" | "/timeplusd/ping" if reads => {
            whole(StatusCode::OK, "application/json", "{\"status\":\"UP\"}")
        }
        "/proton/info" | "/timeplusd/info" if reads => {
            whole(StatusCode::OK, "application/json", rest::info(&shared.display_name))
        }
        "/metrics" if reads => {
            whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics(shared))
        }
        "/" if reads && request.uri().query().is_none_or(str::is_empty) => text(StatusCode::OK, "Ok.\n"),
        "/" if reads || *request.method() == Method::POST => statement(shared, request, mode, flow).await,
        _ => match rest::Call::of(request.method(), path) {
            Some(call) => rest_call(shared, request, call, mode, flow).await,
            None => text(
                StatusCode::NOT_FOUND,
                format!(
                    "There is nothing at {} {path}. Send statements to / with GET or POST, ask /ping, /metrics, \
                     /proton/ping, or POST to /proton/v1/ingest/streams/{{name}} and /proton/v1/search.\n",
                    request.method()
                ),
            ),
        },
    }
}

/// A refusal knows as much as was read: heads name the query.
fn refused(shared: &Shared, head: Option<&Head>, error: &Error, credentials_given: bool) -> Answer {
    match head {
        Some(head) => head.error(error, credentials_given),
        None => Head {
            query_id: shared.new_query_id(),
            proton_headers: false,
            display_name: shared.display_name.clone(),
        }
        .error(error, credentials_given),
    }
}

async fn statement(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    mode: QueryMode,
    flow: FlowSide,
) -> Answer {
    let (parts, body) = request.into_parts();
    let read_only = parts.method != Method::POST;
    let ask = match Ask::read(parts.uri.query().unwrap_or(""), &parts.headers, mode) {
        Ok(ask) => ask,
        Err(e) => return refuse_body(refused(shared, None, &e, true), body, &parts.headers).await,
    };
    let head = head_of(shared, &ask);
    let credentials_given = ask.credentials.user.is_some() || ask.credentials.password.is_some();
    let user = match shared.access.admit(&ask.credentials).await {
        Ok(user) => user,
        Err(e) => return refuse_body(head.error(&e, credentials_given), body, &parts.headers).await,
    };
    let upload = match read_only {
        true => Ok(Upload::empty()),
        false => Upload::new(body, ask.coding_in, ask.blocks_in),
    };
    let mut upload = match upload {
        Ok(upload) => upload,
        Err(e) => return head.error(&e, credentials_given),
    };
    let mut here = false;
    if !ask.expects_continue && content_length(&parts.headers).is_some_and(|n| n <= TAKE_IN_BYTES_MAX) {
        if let Err(e) = upload.take_in().await {
            return head.error(&e, true);
        }
        here = is_small_insert(&ask, upload.taken_in());
    }
    run(shared, Statement { ask, user, read_only, head, flow, here }, upload)
        .await
        .unwrap_or_else(|(head, e)| head.error(&e, true))
}

/// Bodies up to this are read before their statement runs.
const TAKE_IN_BYTES_MAX: u64 = 64 << 10;

fn content_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn head_of(shared: &Shared, ask: &Ask) -> Head {
    let query_id = ask.query_id.clone().unwrap_or_else(|| shared.new_query_id());
    Head::of(ask, query_id, shared.display_name.clone())
}

/// Runs a statement on the compute runtime, or here if it is little work. A client that leaves
/// ends it.
async fn run(
    shared: &Arc<Shared>,
    statement: Statement,
    mut upload: Upload,
) -> std::result::Result<Answer, (Head, Error)> {
    let head = statement.head.clone();
    let expects_continue = statement.ask.expects_continue;
    let here = statement.here;
    let task = {
        let shared = shared.clone();
        async move {
            let answer = statement.run(shared, &mut upload).await;
            upload.drain(expects_continue).await;
            answer
        }
    };
    let ended = match here {
        true => AssertUnwindSafe(task).catch_unwind().await.map_err(|_| broke_off(&"it stopped on a bug")),
        false => AbortOnDrop(shared.compute.spawn(task)).await,
    };
    match ended {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) | Err(e) => Err((head, e)),
    }
}

async fn refuse_body(answer: Answer, body: Incoming, headers: &http::HeaderMap) -> Answer {
    if let Ok(upload) = Upload::new(body, None, false) {
        upload.drain(headers.contains_key(http::header::EXPECT)).await;
    }
    answer
}

async fn rest_call(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    call: rest::Call,
    mode: QueryMode,
    flow: FlowSide,
) -> Answer {
    let (parts, body) = request.into_parts();
    let url = parts.uri.query().unwrap_or("");
    let ask = match Ask::read(url, &parts.headers, mode) {
        Ok(ask) => ask,
        Err(e) => {
            let answer = rest::refused(refused(shared, None, &e, true), &e);
            return refuse_body(answer, body, &parts.headers).await;
        }
    };
    let head = head_of(shared, &ask);
    let credentials_given = ask.credentials.user.is_some() || ask.credentials.password.is_some();
    let failed = |e: &Error| rest::refused(head.error(e, credentials_given), e);
    let user = match shared.access.admit(&ask.credentials).await {
        Ok(user) => user,
        Err(e) => return refuse_body(failed(&e), body, &parts.headers).await,
    };
    let read = async {
        let mut upload = Upload::new(body, ask.coding_in, ask.blocks_in)?;
        let whole = upload.all(shared.options.rest_body_bytes_max, "the request's body").await;
        upload.drain(ask.expects_continue).await;
        whole
    };
    let body = match read.await {
        Ok(body) => body,
        Err(e) => return failed(&e),
    };
    let work = match call.work(ask.clone(), &parts.headers, body) {
        Ok(work) => work,
        Err(e) => return failed(&e),
    };
    match work {
        rest::Work::Run { ask, data, rows_answer } => {
            let upload = Upload::of(data);
            let statement =
                Statement { ask: *ask, user, read_only: false, head: head.clone(), flow, here: false };
            match run(shared, statement, upload).await {
                Ok(answer) if rows_answer => answer,
                Ok(answer) => rest::done(answer, &head.query_id),
                Err((_, e)) => failed(&e),
            }
        }
        rest::Work::Analyze { query } => {
            let session = weir_engine::Session {
                user,
                mode: ask.mode,
                database: ask.database.clone().unwrap_or_else(|| "default".into()),
                ..Default::default()
            };
            let service = shared.service.clone();
            let task = async move { service.is_streaming(&session, &query).await };
            match AbortOnDrop(shared.compute.spawn(task)).await {
                Ok(Ok(streaming)) => whole(
                    StatusCode::OK,
                    "application/json",
                    format!("{{\"is_streaming\":{streaming},\"request_id\":\"{}\"}}", head.query_id),
                ),
                Ok(Err(e)) | Err(e) => failed(&e),
            }
        }
    }
}

/// The registry in Prometheus' text form.
fn metrics(shared: &Shared) -> String {
    let mut out = String::new();
    for entry in shared.service.metrics().all() {
        let kind = match entry.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let name = format!("weir_{}", entry.name.strip_prefix("weir_").unwrap_or(entry.name));
        let help = entry.help.replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}", entry.metric.get())
            .expect("a String takes everything");
    }
    out
}
