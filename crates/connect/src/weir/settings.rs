//! SETTINGS of a stream of another Weir.

use crate::http::HttpSettings;
use crate::settings::Settings;
use weir_plan::{ExternalSpec, StreamError};

const KNOWN: &[&str] = &[
    "type",
    "hosts",
    "db",
    "stream",
    "user",
    "password",
    "secure",
    "ssl_ca_pem",
    "skip_ssl_cert_check",
    "delivery",
];

pub(super) const SECRETS: &[&str] = &["password", "ssl_ca_pem"];

#[derive(Clone)]
pub(super) struct WeirSettings {
    pub http: HttpSettings,
    pub database: String,
    pub stream: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub exactly_once: bool,
}

impl WeirSettings {
    /// # Errors
    /// 115 for an unknown setting, 36 for a bad value.
    pub fn parse(spec: &ExternalSpec) -> Result<Self, StreamError> {
        let mut s = Settings::new("weir", KNOWN, &spec.settings)?;
        let host = s.needed("hosts", "centre:8123")?;
        let scheme = if s.flag("secure")? { "https" } else { "http" };
        if host.contains(',') {
            return Err(crate::settings::bad(
                "hosts names one server, as 'centre:8123'; a stream of several is not supported yet",
            ));
        }
        let url =
            if host.contains(':') { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:8123") };
        let own = spec.name.rsplit_once('.').map_or(spec.name.as_str(), |(_, name)| name);
        let delivery = s.word("delivery", &["exactly_once", "at_least_once"])?;
        Ok(WeirSettings {
            http: HttpSettings {
                url,
                ca_pem: s.text("ssl_ca_pem"),
                skip_cert_check: s.flag("skip_ssl_cert_check")?,
            },
            database: s.text("db").unwrap_or_else(|| "default".into()),
            stream: s.text("stream").unwrap_or_else(|| own.to_owned()),
            user: s.text("user"),
            password: s.text("password"),
            exactly_once: delivery != Some("at_least_once"),
        })
    }
}
