//! Answers: heads in both header families, whole bodies, and bodies that flow.
//!
//! A flowing body that breaks ends without its last chunk, after its exception block has
//! left the socket: a client can not take it for complete.

use super::ask::Ask;
use super::exception::{self, ExceptionTag};
use super::socket::{Flushes, Moved, Place};
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use weir_base::{Code, Error};
use weir_engine::Progress;

/// A piece of a flowing body.
#[derive(Debug)]
pub enum Chunk {
    Data(Bytes),
    /// The last bytes of a result that broke off: the body is cut after them.
    Fatal(Bytes),
}

/// The body was cut on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the result broke off; its error is in the body")]
pub struct CutShort;

pub enum Body {
    Whole(Option<Bytes>),
    Flow(Flow),
}

pub struct Flow {
    chunks: BoxStream<'static, Chunk>,
    flushes: Arc<Flushes>,
    /// Set after the fatal chunk: the flushes seen when it was handed over.
    cut_after: Option<u64>,
    _moved: Option<Moved>,
}

impl Flow {
    pub fn new(chunks: BoxStream<'static, Chunk>, flushes: Arc<Flushes>) -> Flow {
        Flow { chunks, flushes, cut_after: None, _moved: None }
    }

    /// Its connection is served by the compute threads until the body has ended.
    pub fn moved(self, place: Arc<Place>) -> Flow {
        Flow { _moved: Some(Moved::to_compute(place)), ..self }
    }
}

impl Body {
    pub fn whole(bytes: impl Into<Bytes>) -> Body {
        Body::Whole(Some(bytes.into()).filter(|b: &Bytes| !b.is_empty()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let flow = match self.get_mut() {
            Body::Whole(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Flow(flow) => flow,
        };
        if let Some(seen) = flow.cut_after {
            ready!(flow.flushes.poll_past(seen, cx));
            return Poll::Ready(Some(Err(CutShort)));
        }
        match ready!(flow.chunks.as_mut().poll_next(cx)) {
            None => Poll::Ready(None),
            Some(Chunk::Data(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Chunk::Fatal(bytes)) => {
                flow.cut_after = Some(flow.flushes.count());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Flow(_) => SizeHint::default(),
        }
    }
}

pub type Answer = Response<Body>;

/// What the head of every answer to a statement carries.
#[derive(Debug, Clone)]
pub struct Head {
    pub query_id: String,
    pub proton_headers: bool,
    pub display_name: Arc<str>,
}

impl Head {
    pub fn of(ask: &Ask, query_id: String, display_name: Arc<str>) -> Head {
        Head { query_id, proton_headers: ask.proton_headers, display_name }
    }

    /// Sets `<family>-name` in each family this client reads.
    pub fn put(&self, answer: &mut Answer, name: &str, value: &str) {
        // Header values are visible ASCII; anything else in a warning or an id is replaced.
        let clean: String = value.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
        let Ok(value) = HeaderValue::from_str(&clean) else { return };
        let families: &[&str] = match self.proton_headers {
            true => &["x-clickhouse-", "x-timeplus-", "x-proton-"],
            false => &["x-clickhouse-", "x-timeplus-"],
        };
        for family in families {
            let name: http::HeaderName =
                format!("{family}{name}").parse().expect("families and names are header words");
            answer.headers_mut().append(name, value.clone());
        }
    }

    /// A head without anything of a result.
    pub fn answer(&self, status: StatusCode, content_type: &str, body: Body) -> Answer {
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        if let Ok(value) = HeaderValue::from_str(content_type) {
            answer.headers_mut().insert(http::header::CONTENT_TYPE, value);
        }
        self.put(&mut answer, "query-id", &self.query_id);
        self.put(&mut answer, "server-display-name", &self.display_name);
        self.put(&mut answer, "timezone", "UTC");
        answer
    }

    /// An error before any byte of a result.
    pub fn error(&self, error: &Error, credentials_given: bool) -> Answer {
        let mut answer = self.answer(
            status_of(error, credentials_given),
            "text/plain; charset=UTF-8",
            Body::whole(exception::text(error) + "\n"),
        );
        self.put(&mut answer, "exception-code", &error.code.number().to_string());
        if answer.status() == StatusCode::UNAUTHORIZED {
            answer
                .headers_mut()
                .insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"weir\""));
        }
        answer
    }

    /// What a result says before its first row.
    pub fn result(&self, answer: &mut Answer, format: &str, tag: &ExceptionTag) {
        self.put(answer, "format", format);
        self.put(answer, "exception-tag", tag.as_str());
    }
}

/// Asked without credentials: 401, so that browsers ask; with wrong ones: 403.
fn status_of(error: &Error, credentials_given: bool) -> StatusCode {
    let status = match error.code {
        Code::AuthenticationFailed if credentials_given => 403,
        Code::AuthenticationFailed => 401,
        code => code.http_status(),
    };
    StatusCode::from_u16(status).expect("the code table holds HTTP statuses")
}

/// The JSON of `X-…-Summary` and `X-…-Progress`.
pub fn summary(progress: &Progress, elapsed_ns: u64) -> String {
    use std::sync::atomic::Ordering::Relaxed;
    format!(
        "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
         \"total_rows_to_read\":\"{}\",\"result_rows\":\"{}\",\"result_bytes\":\"0\",\"elapsed_ns\":\"{elapsed_ns}\"}}",
        progress.read_rows.load(Relaxed),
        progress.read_bytes.load(Relaxed),
        progress.written_rows.load(Relaxed),
        progress.written_bytes.load(Relaxed),
        progress.total_rows.load(Relaxed),
        progress.result_rows.load(Relaxed),
    )
}
