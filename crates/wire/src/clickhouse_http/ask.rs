//! What one request asks for: URL, headers and port read into plain data. Pure.
//!
//! The first signal that says something wins (who spells type names how): a parameter, a
//! header of one family, the User-Agent, the port.

use super::coding::Coding;
use crate::access::Credentials;
use base64::Engine as _;
use http::HeaderMap;
use weir_base::{Result, err};
use weir_engine::QueryMode;
use weir_format::Spelling;

/// Everything the request says, settings not checked yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub query: String,
    pub database: Option<String>,
    /// From `X-…-Format` or `default_format`; a FORMAT clause goes before it.
    pub format: Option<String>,
    pub query_id: Option<String>,
    pub credentials: Credentials,
    pub session: Option<SessionAsk>,
    /// `compress=1`: the answer in ClickHouse's blocks.
    pub blocks_out: bool,
    /// `decompress=1`: so is the body.
    pub blocks_in: bool,
    pub coding_in: Option<Coding>,
    pub coding_out: Option<Coding>,
    pub compression_level: u32,
    pub wait_end: bool,
    pub progress_headers: bool,
    pub progress_interval_ms: u64,
    pub protocol_version: u64,
    pub spelling: Spelling,
    pub mode: QueryMode,
    /// Answer with `x-proton-*` too: an old client asked with them.
    pub proton_headers: bool,
    pub expects_continue: bool,
    pub settings: Vec<(String, String)>,
    pub parameters: Vec<(String, String)>,
    /// Parameters of the URL that are neither known here nor `param_*`, before they are taken
    /// as settings: REST handlers pick theirs out.
    pub mode_parameter: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionAsk {
    pub id: String,
    pub timeout_s: u64,
    /// The session must exist.
    pub check: bool,
}

/// Longest time a session may be kept idle.
const SESSION_TIMEOUT_S_MAX: u64 = 3600;
const SESSION_TIMEOUT_S_DEFAULT: u64 = 60;

/// Accepted and without effect here: other servers' knobs that drivers send.
const IGNORED: &[&str] = &[
    "quota_key",
    "role",
    "buffer_size",
    "cancel_http_readonly_queries_on_client_close",
    "add_http_cors_header",
    "http_make_head_request",
    "stacktrace",
    "allow_experimental_analyzer",
];

/// Header families, in the order they are looked at.
const FAMILIES: [&str; 3] = ["x-clickhouse-", "x-timeplus-", "x-proton-"];

fn family_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    FAMILIES.iter().find_map(|f| headers.get(format!("{f}{name}")).and_then(|v| v.to_str().ok()))
}

fn has_family(headers: &HeaderMap, family: &str) -> bool {
    headers.keys().any(|k| k.as_str().starts_with(family))
}

fn plain_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// `a=b&c=d` with percent signs and plus signs undone.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>> {
    let undo = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced)
            .decode_utf8()
            .map(|t| t.into_owned())
            .map_err(|_| err!(BadArguments, "the URL holds bytes that are not UTF-8 at '{text}'"))
    };
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((undo(name)?, undo(value)?))
        })
        .collect()
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" | "" => Ok(false),
        _ => Err(err!(BadArguments, "{name}={value} is neither 0 nor 1")),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| err!(BadArguments, "{name}={value} is not a whole number"))
}

/// Spelling of type names where no parameter says it.
pub fn spelling_of(headers: &HeaderMap, port: QueryMode) -> Spelling {
    const CAMEL_AGENTS: [&str; 6] = [
        "clickhouse-connect/",
        "clickhouse-js/",
        "clickhouse-go/",
        "clickhouse-javaclient",
        "jdbc-v2",
        "apache-httpclient",
    ];
    let agent = plain_header(headers, "user-agent").unwrap_or("").to_ascii_lowercase();
    if agent.contains("timeplus-connect/")
        || has_family(headers, "x-timeplus-")
        || has_family(headers, "x-proton-")
    {
        Spelling::Lower
    } else if CAMEL_AGENTS.iter().any(|a| agent.contains(a)) || has_family(headers, "x-clickhouse-") {
        Spelling::Camel
    } else {
        match port {
            QueryMode::Streaming => Spelling::Lower,
            QueryMode::Table => Spelling::Camel,
        }
    }
}

fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>> {
    let Some(value) = plain_header(headers, "authorization") else { return Ok(None) };
    let bad = || {
        err!(AuthenticationFailed, "the Authorization header is not readable; use Basic with user:password")
    };
    let (scheme, rest) = value.split_once(' ').ok_or_else(bad)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(bad());
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).map_err(|_| bad())?;
    let text = String::from_utf8(decoded).map_err(|_| bad())?;
    let (user, password) = text.split_once(':').unwrap_or((&text, ""));
    Ok(Some((user.to_owned(), password.to_owned())))
}

impl Ask {
    /// Reads a request that came in on a port of this mode.
    ///
    /// # Errors
    /// 36 for values that are none, 48 for content codings we do not have, 516 for an
    /// Authorization header that can not be read.
    pub fn read(url_query: &str, headers: &HeaderMap, port: QueryMode) -> Result<Ask> {
        let mut ask = Ask {
            query: String::new(),
            database: family_header(headers, "database").map(Into::into),
            format: family_header(headers, "format").map(Into::into),
            query_id: family_header(headers, "query-id").filter(|q| !q.is_empty()).map(Into::into),
            credentials: Credentials::default(),
            session: None,
            blocks_out: false,
            blocks_in: false,
            coding_in: Coding::of_content(plain_header(headers, "content-encoding"))?,
            coding_out: None,
            compression_level: 3,
            wait_end: false,
            progress_headers: false,
            progress_interval_ms: 100,
            protocol_version: 0,
            spelling: spelling_of(headers, port),
            mode: port,
            proton_headers: has_family(headers, "x-proton-"),
            expects_continue: plain_header(headers, "expect")
                .is_some_and(|v| v.eq_ignore_ascii_case("100-continue")),
            settings: Vec::new(),
            parameters: Vec::new(),
            mode_parameter: None,
        };
        if let Some((user, password)) = basic(headers)? {
            ask.credentials = Credentials { user: Some(user), password: Some(password) };
        }
        if let Some(user) = family_header(headers, "user") {
            ask.credentials.user = Some(user.into());
        }
        if let Some(key) = family_header(headers, "key") {
            ask.credentials.password = Some(key.into());
        }
        let mut http_compression = false;
        let (mut session_id, mut session_timeout, mut session_check) =
            (None, SESSION_TIMEOUT_S_DEFAULT, false);
        for (name, value) in pairs(url_query)? {
            match name.as_str() {
                "query" => ask.query = value,
                "database" => ask.database = Some(value),
                "default_format" => ask.format = ask.format.or(Some(value)),
                "query_id" if value.is_empty() => {}
                "query_id" => ask.query_id = Some(value),
                "user" => ask.credentials.user = ask.credentials.user.or(Some(value)),
                "password" => ask.credentials.password = ask.credentials.password.or(Some(value)),
                "session_id" => session_id = Some(value).filter(|v| !v.is_empty()),
                "session_timeout" => session_timeout = number(&name, &value)?,
                "session_check" => session_check = flag(&name, &value)?,
                "compress" => ask.blocks_out = flag(&name, &value)?,
                "decompress" => ask.blocks_in = flag(&name, &value)?,
                "enable_http_compression" => http_compression = flag(&name, &value)?,
                "http_zlib_compression_level" => ask.compression_level = number(&name, &value)?,
                "wait_end_of_query" => ask.wait_end = flag(&name, &value)?,
                "send_progress_in_http_headers" => ask.progress_headers = flag(&name, &value)?,
                "http_headers_progress_interval_ms" => ask.progress_interval_ms = number(&name, &value)?,
                "client_protocol_version" => ask.protocol_version = number(&name, &value)?,
                "type_names" => {
                    ask.spelling = match value.as_str() {
                        "clickhouse" => Spelling::Camel,
                        "timeplus" => Spelling::Lower,
                        _ => {
                            return Err(err!(
                                BadArguments,
                                "type_names={value} is neither clickhouse nor timeplus"
                            ));
                        }
                    }
                }
                "query_mode" => {
                    ask.mode = match value.as_str() {
                        "streaming" => QueryMode::Streaming,
                        "table" => QueryMode::Table,
                        _ => {
                            return Err(err!(
                                BadArguments,
                                "query_mode={value} is neither streaming nor table"
                            ));
                        }
                    }
                }
                "mode" => ask.mode_parameter = Some(value),
                "db" => ask.database = Some(value),
                known if IGNORED.contains(&known) => {}
                _ => match name.strip_prefix("param_") {
                    Some(parameter) => ask.parameters.push((parameter.to_owned(), value)),
                    None => ask.settings.push((name, value)),
                },
            }
        }
        if let Some(id) = session_id {
            if session_timeout > SESSION_TIMEOUT_S_MAX {
                return Err(err!(
                    BadArguments,
                    "session_timeout={session_timeout} is more than the {SESSION_TIMEOUT_S_MAX} seconds a session may idle"
                ));
            }
            ask.session = Some(SessionAsk { id, timeout_s: session_timeout, check: session_check });
        }
        if http_compression {
            ask.coding_out = Coding::accepted(plain_header(headers, "accept-encoding"));
        }
        Ok(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(k, v)| (k.parse::<HeaderName>().unwrap(), HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    #[test]
    fn the_negotiation_table() {
        use QueryMode::{Streaming, Table};
        use Spelling::{Camel, Lower};
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], QueryMode, Spelling, QueryMode);
        // (URL, headers, port, spelling, mode)
        let cases: &[Row] = &[
            ("", &[], Streaming, Lower, Streaming),
            ("", &[], Table, Camel, Table),
            ("", &[("user-agent", "curl/8.0")], Streaming, Lower, Streaming),
            ("", &[("user-agent", "clickhouse-connect/1.12.0 (lv:py/3.11)")], Streaming, Camel, Streaming),
            ("", &[("user-agent", "timeplus-connect/0.8.17")], Table, Lower, Table),
            ("", &[("user-agent", "clickhouse-js/1.23.1 (lv:nodejs)")], Streaming, Camel, Streaming),
            ("", &[("user-agent", "Apache-HttpClient/5.2")], Streaming, Camel, Streaming),
            ("", &[("x-timeplus-user", "default")], Table, Lower, Table),
            ("", &[("x-proton-format", "CSV")], Table, Lower, Table),
            ("", &[("x-clickhouse-user", "default")], Streaming, Camel, Streaming),
            ("", &[("x-timeplus-user", "a"), ("user-agent", "clickhouse-go/2")], Table, Lower, Table),
            ("type_names=clickhouse", &[("x-timeplus-user", "a")], Streaming, Camel, Streaming),
            ("type_names=timeplus&query_mode=streaming", &[], Table, Lower, Streaming),
            ("query_mode=table", &[], Streaming, Lower, Table),
        ];
        for (url, list, port, spelling, mode) in cases {
            let ask = Ask::read(url, &headers(list), *port).unwrap();
            assert_eq!((ask.spelling, ask.mode), (*spelling, *mode), "{url} {list:?} {port:?}");
        }
    }

    #[test]
    fn parameters_are_told_from_settings() {
        let ask = Ask::read(
            "query=SELECT%20%27a%2Bb%27+%7Bx:int%7D&param_x=5&max_threads=2&compress=1&database=d&session_id=s",
            &HeaderMap::new(),
            QueryMode::Table,
        )
        .unwrap();
        assert_eq!(ask.query, "SELECT 'a+b' {x:int}");
        assert_eq!(ask.parameters, [("x".to_owned(), "5".to_owned())]);
        assert_eq!(ask.settings, [("max_threads".to_owned(), "2".to_owned())]);
        assert_eq!(ask.session, Some(SessionAsk { id: "s".into(), timeout_s: 60, check: false }));
        assert!(ask.blocks_out && !ask.blocks_in);
    }

    #[test]
    fn who_asks() {
        // (URL, headers, user, password)
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>, Option<&'a str>);
        let cases: &[Row] = &[
            ("", &[], None, None),
            ("user=a&password=b", &[], Some("a"), Some("b")),
            ("", &[("authorization", "Basic YTpiOmM=")], Some("a"), Some("b:c")),
            ("", &[("x-clickhouse-user", "a"), ("x-clickhouse-key", "b")], Some("a"), Some("b")),
            ("", &[("x-timeplus-user", "a"), ("x-timeplus-key", "b")], Some("a"), Some("b")),
            (
                "user=u&password=p",
                &[("x-clickhouse-user", "a"), ("x-clickhouse-key", "b")],
                Some("a"),
                Some("b"),
            ),
        ];
        for (url, list, user, password) in cases {
            let got = Ask::read(url, &headers(list), QueryMode::Table).unwrap().credentials;
            assert_eq!((got.user.as_deref(), got.password.as_deref()), (*user, *password), "{url} {list:?}");
        }
        for bad in ["Basic %%%", "Bearer x", "Basic"] {
            assert!(Ask::read("", &headers(&[("authorization", bad)]), QueryMode::Table).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        for (url, part) in [
            ("compress=maybe", "compress=maybe"),
            ("client_protocol_version=x", "client_protocol_version=x"),
            ("session_id=s&session_timeout=99999", "3600"),
            ("query=%FF", "UTF-8"),
            ("query_mode=both", "query_mode=both"),
        ] {
            let e = Ask::read(url, &HeaderMap::new(), QueryMode::Table).unwrap_err();
            assert!(e.message.contains(part), "{url}: {e}");
        }
    }
}
