//! Asking others over HTTP: one client for each whom a stream speaks to.

use crate::remote::RemoteHosts;
use crate::settings::bad;
use std::time::Duration;
use weir_base::Code;
use weir_plan::StreamError;

/// Until a connection stands.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How one is spoken to. Without secrets in what `Debug` gives.
#[derive(Clone, Default)]
pub(crate) struct HttpSettings {
    pub url: String,
    /// Certificates that are trusted beside those of the system, PEM.
    pub ca_pem: Option<String>,
    pub skip_cert_check: bool,
}

/// Why there is no answer that helps.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nobody answers; later they may.
    Away(StreamError),
    /// We are not let in.
    Refused(StreamError),
    /// What was asked for is not there, or makes no sense.
    Bad(StreamError),
}

impl NoAnswer {
    pub fn error(self) -> StreamError {
        match self {
            NoAnswer::Away(e) | NoAnswer::Refused(e) | NoAnswer::Bad(e) => e,
        }
    }

    pub fn away(who: &str, e: &reqwest::Error) -> NoAnswer {
        NoAnswer::Away(StreamError { code: Code::NetworkError, message: format!("{who}: {}", cause(e)) })
    }

    /// Of a status that is no success.
    pub fn of_status(who: &str, status: u16, says: &str, remedy: &str) -> NoAnswer {
        let error = |code: Code, more: &str| StreamError {
            code,
            message: format!("{who}: {status} ({}){more}", says.trim()),
        };
        match status {
            401 => NoAnswer::Refused(error(Code::AuthenticationFailed, remedy)),
            403 => NoAnswer::Refused(error(Code::AccessDenied, "")),
            404 => NoAnswer::Bad(error(Code::UnknownStream, "")),
            408 | 429 | 500.. => NoAnswer::Away(error(Code::NetworkError, "")),
            _ => NoAnswer::Bad(error(Code::BadArguments, "")),
        }
    }
}

/// A client for a URL whose host may be spoken to. `setting` names it in errors; `answer_wait`: for a whole answer.
///
/// # Errors
/// 36 for what is no URL of HTTP or holds a user, 497 for a host that may not be spoken to.
pub(crate) fn client(
    settings: &HttpSettings,
    setting: &str,
    answer_wait: Option<Duration>,
    hosts: &RemoteHosts,
) -> Result<reqwest::Client, StreamError> {
    let url = reqwest::Url::parse(&settings.url)
        .ok()
        .filter(|u| matches!(u.scheme(), "http" | "https"))
        .ok_or_else(|| bad(format!("{setting} is no URL; write http://host:port")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(format!("{setting} holds a user; there are settings for that")));
    }
    hosts.check(url.host_str().unwrap_or_default())?;
    let mut client = reqwest::Client::builder()
        .connect_timeout(CONNECT_WAIT)
        .redirect(reqwest::redirect::Policy::none())
        .danger_accept_invalid_certs(settings.skip_cert_check)
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")));
    if let Some(wait) = answer_wait {
        client = client.timeout(wait);
    }
    if let Some(pem) = &settings.ca_pem {
        let certificate = reqwest::Certificate::from_pem(pem.as_bytes())
            .map_err(|_| bad(format!("the certificates for {setting} are none in PEM")))?;
        client = client.add_root_certificate(certificate);
    }
    client.build().map_err(|e| bad(format!("no HTTP client for {setting}: {e}")))
}

/// The body of an answer, so many bytes at most.
pub(crate) async fn body(
    answer: &mut reqwest::Response,
    who: &str,
    bytes_max: usize,
) -> Result<Vec<u8>, NoAnswer> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| NoAnswer::away(who, &e))? {
        body.extend(chunk);
        if body.len() > bytes_max {
            return Err(NoAnswer::Bad(bad(format!("{who}: an answer of more than {bytes_max} bytes"))));
        }
    }
    Ok(body)
}

/// What went wrong, down to its cause.
fn cause(e: &reqwest::Error) -> String {
    if e.is_timeout() {
        return "no answer in time".into();
    }
    let mut text = String::new();
    let mut at: Option<&dyn std::error::Error> = std::error::Error::source(e);
    while let Some(cause) = at {
        text = cause.to_string();
        at = cause.source();
    }
    if text.is_empty() { e.to_string() } else { text }
}
