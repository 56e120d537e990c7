//! One request on a connection of its own: closing it cancels what it asked for.

use bytes::Bytes;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::io;
use tokio::net::TcpStream;

#[derive(Debug, Clone)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
}

/// Why there is no result.
#[derive(Debug)]
pub enum RequestError {
    /// The server was not reached, or went away.
    Connection(String),
    /// It answered with an error.
    Refused(String),
}

pub type Upload = BoxStream<'static, io::Result<Bytes>>;

/// A result that comes. Dropping it closes the connection.
pub struct Reply {
    response: Response<Incoming>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|v| v.to_str().ok())
    }

    /// The next bytes; `None` at the proper end; an error where the body was cut.
    pub async fn next(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            match self.response.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(e) => return Some(Err(e.to_string())),
            }
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Sends a statement; its answer's head.
pub async fn ask(target: &Target, parameters: &[(&str, &str)], body: Upload) -> Result<Reply, RequestError> {
    let unreachable = |e: &dyn std::fmt::Display| {
        RequestError::Connection(format!(
            "can not reach a server at {}:{}: {e}; is `weir server` running there?",
            target.host, target.port
        ))
    };
    let stream =
        TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|e| unreachable(&e))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
    let driver = tokio::spawn(async move {
        // How it ended shows in the body.
        let _ = connection.await;
    });
    let query: Vec<String> = parameters.iter().map(|(k, v)| format!("{k}={}", encoded(v))).collect();
    let mut request = Request::post(format!("/?{}", query.join("&")))
        .header("host", format!("{}:{}", target.host, target.port))
        .header("user-agent", concat!("weir-client/", env!("CARGO_PKG_VERSION")))
        .header("x-timeplus-user", &target.user)
        .header("x-timeplus-database", &target.database);
    if let Some(password) = &target.password {
        request = request.header("x-timeplus-key", password);
    }
    let body = StreamBody::new(futures::StreamExt::map(body, |b| b.map(Frame::data)));
    let request = request
        .body(BodyExt::boxed_unsync(body))
        .map_err(|e| RequestError::Refused(format!("user, password or database can not be sent: {e}")))?;
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(e) => {
            driver.abort();
            return Err(RequestError::Connection(format!("the server closed the connection: {e}")));
        }
    };
    let mut reply = Reply { response, driver };
    if reply.response.status() == StatusCode::OK {
        return Ok(reply);
    }
    let mut text = Vec::new();
    while let Some(Ok(bytes)) = reply.next().await {
        text.extend_from_slice(&bytes);
    }
    Err(RequestError::Refused(String::from_utf8_lossy(&text).trim_end().to_owned()))
}

/// A body that is in memory.
pub fn text_body(text: impl Into<Bytes>) -> Upload {
    futures::StreamExt::boxed(futures::stream::iter([Ok(text.into())]))
}
