//! What alerts call with: POST over HTTP/1.1 or 2, with TLS where the URL asks for it.
//!
//! Redirects are not followed: a hook is called where its owner said.

use bytes::Bytes;
use std::time::Duration;
use weir_connect::RemoteHosts;
use weir_engine::WebHook;

/// From the first byte sent to the last one of the answer's head.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
const CONNECT_WAIT: Duration = Duration::from_secs(10);

pub struct HttpHook {
    client: reqwest::Client,
    /// Whom alerts may call.
    hosts: RemoteHosts,
}

impl HttpHook {
    /// # Errors
    /// One line: TLS can not be set up.
    pub fn new(hosts: RemoteHosts) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .timeout(ANSWER_WAIT)
            .connect_timeout(CONNECT_WAIT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .build();
        client
            .map(|client| HttpHook { client, hosts })
            .map_err(|e| format!("can not make an HTTP client for alerts: {e}"))
    }
}

/// What went wrong, down to its cause.
fn told(e: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut at: Option<&dyn std::error::Error> = std::error::Error::source(e);
    while let Some(cause) = at {
        text = cause.to_string();
        at = cause.source();
    }
    if e.is_timeout() {
        text = format!("no answer within {} s", ANSWER_WAIT.as_secs());
    }
    if text.is_empty() { e.to_string() } else { text }
}

#[async_trait::async_trait]
impl WebHook for HttpHook {
    async fn post(&self, url: &str, body: Bytes) -> Result<u16, String> {
        let host = reqwest::Url::parse(url).ok().and_then(|u| u.host_str().map(str::to_owned));
        self.hosts.check(&host.unwrap_or_default()).map_err(|e| e.message)?;
        let request = self.client.post(url).header("content-type", "application/json").body(body);
        // What the answer says besides its status nobody reads.
        request.send().await.map(|answer| answer.status().as_u16()).map_err(|e| told(&e))
    }
}
