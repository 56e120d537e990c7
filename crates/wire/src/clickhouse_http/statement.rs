//! One statement of one request: text from URL and body, session, outcome, answer.

use super::Shared;
use super::answer::{Answer, Body, Flow, Head, summary};
use super::ask::Ask;
use super::coding;
use super::exception::ExceptionTag;
use super::insert;
use super::result::{QueryResult, run_on};
use super::socket::FlowSide;
use super::upload::Upload;
use crate::formats;
use crate::statement_text::{self, head};
use bytes::Bytes;
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Result, err};
use weir_engine::{Done, Outcome, Progress, QueryHandle, Session};

/// The text of a statement, data not counted (`max_query_size`).
pub const QUERY_BYTES_MAX: usize = 256 << 10;
/// Bounded results no larger than this leave whole, so that an error still has its status.
const HOLD_BYTES: usize = 256 << 10;
/// What `wait_end_of_query=1` may hold.
const WAIT_END_BYTES_MAX: usize = 256 << 20;
/// `X-…-Progress` headers of one answer.
const PROGRESS_HEADERS_MAX: usize = 100;
/// The text of an INSERT that is done where the connection is served.
const HERE_BYTES_MAX: usize = 16 << 10;
const DEFAULT_FORMAT: &str = "TabSeparated";

/// The statement's text; its data, if any, is what `upload` gives from here on.
pub async fn read_text(ask: &Ask, upload: &mut Upload) -> Result<String> {
    let too_long = || {
        err!(
            Syntax,
            "the statement is longer than {QUERY_BYTES_MAX} bytes; send data of an INSERT after FORMAT or VALUES"
        )
    };
    let mut text = ask.query.clone().into_bytes();
    if matches!(head(&text, true), head @ statement_text::Head::Insert { .. } if is_bare(&text, head)) {
        return utf8(text);
    }
    if !statement_text::is_blank(&ask.query) {
        text.push(b'\n');
    }
    loop {
        match head(&text, false) {
            statement_text::Head::Insert { statement, data } if statement <= QUERY_BYTES_MAX => {
                upload.push_back(Bytes::copy_from_slice(&text[data..]));
                text.truncate(statement);
                return utf8(text);
            }
            _ if text.len() > QUERY_BYTES_MAX => return Err(too_long()),
            _ => {}
        }
        match upload.next().await? {
            Some(bytes) => text.extend_from_slice(&bytes),
            None => return utf8(text),
        }
    }
}

/// Whether this is an INSERT whose data are taken in: so little work that it is done where the
/// connection is served, rather than by another thread that has to be woken for it.
pub fn is_small_insert(ask: &Ask, taken_in: &[u8]) -> bool {
    if ask.coding_in.is_some() || ask.blocks_in {
        // Nobody knows how much it unpacks to.
        return false;
    }
    let text = if statement_text::is_blank(&ask.query) { taken_in } else { ask.query.as_bytes() };
    matches!(head(text, true), statement_text::Head::Insert { statement, .. } if statement <= HERE_BYTES_MAX)
}

/// The head is all there is: data comes in the body.
fn is_bare(text: &[u8], head: statement_text::Head) -> bool {
    matches!(head, statement_text::Head::Insert { data, .. } if text[data..].iter().all(|b| b.is_ascii_whitespace() || *b == b';'))
}

fn utf8(text: Vec<u8>) -> Result<String> {
    String::from_utf8(text).map_err(|e| {
        err!(
            Syntax,
            "the statement is not UTF-8 at byte {}; is it compressed without Content-Encoding?",
            e.utf8_error().valid_up_to()
        )
    })
}

/// Puts what the request says over the session, for this statement.
fn prepare(shared: &Shared, ask: &Ask, user: &str, read_only: bool, session: &mut Session) -> Result<()> {
    session.user = user.to_owned();
    session.mode = ask.mode;
    session.spelling = ask.spelling;
    session.read_only = read_only;
    if let Some(database) = ask.database.as_ref().filter(|d| !d.is_empty()) {
        session.database.clone_from(database);
    }
    for (name, value) in &ask.settings {
        shared.service.check_setting(name, value)?;
        session.settings.insert(name.clone(), value.clone());
    }
    session.parameters.extend(ask.parameters.iter().cloned());
    Ok(())
}

/// Keeps in `kept` what the statement itself changed (USE, SET), not what the request laid over.
fn carry_over(before: &Session, after: &Session, kept: &mut Session) {
    if before.database != after.database {
        kept.database.clone_from(&after.database);
    }
    for (name, value) in &after.settings {
        if before.settings.get(name) != Some(value) {
            kept.settings.insert(name.clone(), value.clone());
        }
    }
    for name in before.settings.keys() {
        if !after.settings.contains_key(name) {
            kept.settings.remove(name);
        }
    }
}

/// A request for one statement, ready to run.
pub struct Statement {
    pub ask: Ask,
    pub user: String,
    pub read_only: bool,
    pub head: Head,
    pub flow: FlowSide,
    /// Done where the connection is served.
    pub here: bool,
}

impl Statement {
    /// Runs it, up to the head of the answer.
    pub async fn run(self, shared: Arc<Shared>, upload: &mut Upload) -> Result<Answer> {
        let started = shared.clock.monotonic();
        let text = read_text(&self.ask, upload).await?;
        if statement_text::is_blank(&text) {
            return Err(err!(Syntax, "the request holds no statement; put it in the body or in query="));
        }
        let mut lease = match &self.ask.session {
            Some(ask) => Some(shared.sessions.take(&self.user, ask)?),
            None => None,
        };
        let mut session = lease.as_ref().map(|l| l.session.clone()).unwrap_or_default();
        prepare(&shared, &self.ask, &self.user, self.read_only, &mut session)?;
        let before = session.clone();
        let query_id = self.head.query_id.clone();
        let outcome = match self.here {
            true => shared.service.execute_here(&mut session, &text, query_id).await?,
            false => shared.service.execute(&mut session, &text, query_id).await?,
        };
        if let Some(lease) = &mut lease {
            carry_over(&before, &session, &mut lease.session);
        }
        match outcome {
            Outcome::Done(done) => Ok(self.done(&done, elapsed(&shared, started))),
            Outcome::Insert(mut handle) => {
                handle.format_settings.native_revision = self.ask.protocol_version;
                let done = insert::pump(*handle, upload).await?;
                shared.inserted_rows.add(done.written_rows as i64);
                Ok(self.done(&done, elapsed(&shared, started)))
            }
            Outcome::Rows(handle) => self.rows(shared, handle, started, lease).await,
        }
    }

    fn done(&self, done: &Done, elapsed_ns: u64) -> Answer {
        let mut answer = self.head.answer(StatusCode::OK, "text/plain; charset=UTF-8", Body::Whole(None));
        let progress = Progress::default();
        progress.written_rows.store(done.written_rows, std::sync::atomic::Ordering::Relaxed);
        progress.written_bytes.store(done.written_bytes, std::sync::atomic::Ordering::Relaxed);
        self.head.put(&mut answer, "summary", &summary(&progress, elapsed_ns));
        for warning in &done.warnings {
            self.head.put(&mut answer, "warning", warning);
        }
        answer
    }

    async fn rows(
        self,
        shared: Arc<Shared>,
        mut handle: QueryHandle,
        started: Duration,
        lease: Option<super::sessions::Lease>,
    ) -> Result<Answer> {
        let format = handle
            .format
            .take()
            .or_else(|| self.ask.format.clone().filter(|f| !f.is_empty()))
            .unwrap_or_else(|| DEFAULT_FORMAT.into());
        handle.format_settings.native_revision = self.ask.protocol_version;
        let (info, encoder) = formats::encoder(&format, &handle.schema, &handle.format_settings)?;
        let coder = match self.ask.blocks_out {
            true => coding::Encoder::Blocks,
            false => coding::Encoder::new(self.ask.coding_out, self.ask.compression_level)?,
        };
        let tag = ExceptionTag::draw(&shared.rng);
        let warnings = std::mem::take(&mut handle.warnings);
        let streaming = handle.streaming;
        let mut result = QueryResult::new(handle, encoder, coder, shared.clock.clone(), started, tag.clone());
        let mut progress_headers = Vec::new();
        let mut held = Vec::new();
        let mut complete = false;
        if !streaming {
            complete = self.hold(&mut result, &mut held, &mut progress_headers).await?;
        }
        let summary = summary(&result.progress, result.elapsed_ns());
        let body = if complete {
            Body::whole(held.concat())
        } else if streaming {
            // The connection goes to the threads that compute its rows: see `server`.
            let chunks = result.chunks(held, shared.stop_streams.clone());
            Body::Flow(Flow::new(with_lease(chunks, lease), self.flow.flushes).moved(self.flow.place))
        } else {
            let chunks = result.chunks(held, shared.stop_all.clone());
            Body::Flow(Flow::new(with_lease(run_on(&shared.compute, chunks), lease), self.flow.flushes))
        };
        let mut answer = self.head.answer(StatusCode::OK, info.content_type, body);
        self.head.result(&mut answer, info.name, &tag);
        for progress in progress_headers {
            self.head.put(&mut answer, "progress", &progress);
        }
        self.head.put(&mut answer, "summary", &summary);
        for warning in &warnings {
            self.head.put(&mut answer, "warning", warning);
        }
        if let Some(coding) = self.ask.coding_out.filter(|_| !self.ask.blocks_out) {
            answer
                .headers_mut()
                .insert(http::header::CONTENT_ENCODING, http::HeaderValue::from_static(coding.name()));
        }
        Ok(answer)
    }

    /// Holds back the beginning of a bounded result; true if that is all of it.
    async fn hold(
        &self,
        result: &mut QueryResult,
        held: &mut Vec<Bytes>,
        progress: &mut Vec<String>,
    ) -> Result<bool> {
        let limit = if self.ask.wait_end { WAIT_END_BYTES_MAX } else { HOLD_BYTES };
        let mut bytes_held = 0;
        loop {
            let next = if self.ask.progress_headers && progress.len() < PROGRESS_HEADERS_MAX {
                let now = summary(&result.progress, result.elapsed_ns());
                let interval = Duration::from_millis(self.ask.progress_interval_ms.max(1));
                match tokio::time::timeout(interval, result.next()).await {
                    Ok(next) => next?,
                    Err(_) => {
                        progress.push(now);
                        continue;
                    }
                }
            } else {
                result.next().await?
            };
            let Some(bytes) = next else { return Ok(true) };
            bytes_held += bytes.len();
            held.push(bytes);
            if bytes_held > limit {
                return match self.ask.wait_end {
                    true => Err(err!(
                        MemoryLimitExceeded,
                        "the result is larger than the {limit} bytes that wait_end_of_query=1 may hold; leave it out"
                    )),
                    false => Ok(false),
                };
            }
        }
    }
}

/// A session stays taken until the result that runs in it has been read.
fn with_lease(
    chunks: futures::stream::BoxStream<'static, super::answer::Chunk>,
    lease: Option<super::sessions::Lease>,
) -> futures::stream::BoxStream<'static, super::answer::Chunk> {
    use futures::StreamExt;
    match lease {
        None => chunks,
        Some(lease) => chunks
            .map(move |chunk| {
                let _kept = &lease;
                chunk
            })
            .boxed(),
    }
}

fn elapsed(shared: &Shared, started: Duration) -> u64 {
    shared.clock.monotonic().saturating_sub(started).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_statement_changed_stays_in_the_session() {
        let mut kept = Session::default();
        kept.settings.insert("old".into(), "1".into());
        let mut before = kept.clone();
        before.settings.insert("from_url".into(), "1".into());
        before.database = "from_url".into();
        let mut after = before.clone();
        after.settings.insert("set".into(), "2".into());
        after.settings.remove("old");
        carry_over(&before, &after, &mut kept);
        assert_eq!(kept.database, "default");
        assert_eq!(kept.settings.into_iter().collect::<Vec<_>>(), [("set".to_owned(), "2".to_owned())]);
    }
}
