//! One statement: sent, shown as it comes, cancelled by Ctrl-C, summed up.

use super::http::{self, Reply, RequestError, Target, Upload};
use super::scan::Scanner;
use super::table::{self, Table};
use bytes::Bytes;
use futures::StreamExt;
use std::io::Write;
use std::time::Duration;
use tokio_util::io::ReaderStream;
use weir_base::{Clock, Rng, SystemClock};

/// How results are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    Tables,
    Format(String),
}

/// Where an INSERT's data comes from.
pub enum Input {
    None,
    Stdin,
}

pub struct Terminal {
    /// A line with rows and time after each statement.
    pub summary: bool,
}

/// What statements have in common: the database that USE changes, and a session on the server
/// for SET.
pub struct ClientSession {
    pub target: Target,
    id: String,
    rng: Rng,
    clock: SystemClock,
}

impl ClientSession {
    pub fn new(target: Target) -> ClientSession {
        let rng = Rng::from_machine();
        let id = format!("weir-client-{:016x}", rng.u64());
        ClientSession { target, id, rng, clock: SystemClock::new() }
    }
}

/// Why a statement, or the client, ended badly.
#[derive(Debug)]
pub enum Failure {
    Query(String),
    Usage(String),
    Connection(String),
    /// Ctrl-C while a statement ran.
    Cancelled,
    /// Whoever read our output has left; nothing to say.
    OutputClosed,
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Query(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Connection(_) => 3,
            Failure::Cancelled => 130,
            Failure::OutputClosed => 0,
        }
    }
    pub fn text(&self) -> Option<String> {
        match self {
            Failure::Query(text) => Some(text.clone()),
            Failure::Usage(text) | Failure::Connection(text) => Some(format!("weir client: {text}")),
            Failure::Cancelled | Failure::OutputClosed => None,
        }
    }
}

/// `\G` at the end asks for one line a column.
pub fn vertical<'a>(statement: &'a str, show: &Show) -> (&'a str, Show) {
    match statement.strip_suffix("\\G") {
        Some(statement) => (statement.trim_end(), Show::Format("Vertical".into())),
        None => (statement, show.clone()),
    }
}

/// An error under the line of the statement it speaks of.
fn pointed_out(error: &str, statement: &str) -> String {
    let position = error.rsplit_once("(line ").and_then(|(_, rest)| {
        let (line, rest) = rest.split_once(", column ")?;
        let (column, _) = rest.split_once(')')?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
    });
    let Some((line, column)) = position else { return error.to_owned() };
    match statement.lines().nth(line.wrapping_sub(1)) {
        Some(text) => format!("{error}\n\n  {text}\n  {}^", " ".repeat(column.saturating_sub(1))),
        None => error.to_owned(),
    }
}

fn body(statement: &str, input: Input) -> Upload {
    match input {
        Input::None => http::text_body(statement.to_owned()),
        Input::Stdin => {
            let head = format!("{}\n", statement.trim_end().trim_end_matches(';'));
            let data = ReaderStream::with_capacity(tokio::io::stdin(), 256 << 10);
            futures::stream::iter([Ok(Bytes::from(head))]).chain(data).boxed()
        }
    }
}

/// Runs it and shows what comes.
///
/// # Errors
/// See [`Failure`]; what was shown before stays.
pub async fn statement(
    session: &mut ClientSession,
    statement: &str,
    show: &Show,
    input: Input,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let started = session.clock.monotonic();
    let query_id = format!("{:016x}{:016x}", session.rng.u64(), session.rng.u64());
    let format = match show {
        Show::Tables => table::FORMAT,
        Show::Format(format) => format,
    };
    let parameters = [
        ("query_id", query_id.as_str()),
        ("default_format", format),
        ("session_id", session.id.as_str()),
        ("session_timeout", "3600"),
    ];
    let running = async {
        let reply = match http::ask(&session.target, &parameters, body(statement, input)).await {
            Ok(reply) => reply,
            Err(RequestError::Connection(text)) => return Err(Failure::Connection(text)),
            Err(RequestError::Refused(text)) => return Err(Failure::Query(pointed_out(&text, statement))),
        };
        show_reply(reply, statement).await
    };
    let shown = tokio::select! {
        shown = running => shown,
        _ = tokio::signal::ctrl_c() => {
            // The connection is closed with `running`; the statement says so to servers behind
            // something that keeps connections open.
            kill(&session.target, &query_id).await;
            Err(Failure::Cancelled)
        }
    };
    if terminal.summary && !matches!(shown, Err(Failure::Connection(_))) {
        let seconds = (session.clock.monotonic() - started).as_secs_f64();
        match &shown {
            Ok(Shown { rows: Some(rows), .. }) => say(&format!("\n{} in {seconds:.3} s\n", plural(*rows))),
            Ok(Shown { written, .. }) if *written > 0 => {
                say(&format!("{} written in {seconds:.3} s\n", plural(*written)));
            }
            Ok(_) => say(&format!("Ok in {seconds:.3} s\n")),
            Err(Failure::Cancelled) => say(&format!("\ncancelled after {seconds:.3} s\n")),
            Err(_) => {}
        }
    }
    if shown.is_ok()
        && let Some(database) = used_database(statement)
    {
        session.target.database = database;
    }
    shown.map(|_| ())
}

fn plural(rows: u64) -> String {
    if rows == 1 { "1 row".into() } else { format!("{rows} rows") }
}

/// The database of a `USE` statement.
fn used_database(statement: &str) -> Option<String> {
    let mut words = statement.trim_end_matches(';').split_whitespace();
    let is_use = words.next()?.eq_ignore_ascii_case("use");
    is_use.then(|| words.next().map(|d| d.trim_matches(['`', '"']).to_owned())).flatten()
}

async fn kill(target: &Target, query_id: &str) {
    let text = format!("KILL QUERY WHERE query_id = '{query_id}'");
    let ask = http::ask(target, &[], http::text_body(text));
    // The closed connection has done it already, as a rule.
    let _ = tokio::time::timeout(Duration::from_secs(1), ask).await;
}

struct Shown {
    /// Known for tables.
    rows: Option<u64>,
    written: u64,
}

async fn show_reply(mut reply: Reply, statement: &str) -> Result<Shown, Failure> {
    let mut table = (reply.header("x-timeplus-format") == Some(table::FORMAT)).then(Table::default);
    if let Some(warning) = reply.header("x-timeplus-warning") {
        eprintln!("warning: {warning}");
    }
    let written = reply.header("x-timeplus-summary").map_or(0, written_rows);
    let mut scanner = Scanner::new(reply.header("x-timeplus-exception-tag"));
    let mut cut = None;
    while let Some(next) = reply.next().await {
        match next {
            Ok(bytes) => show_bytes(&mut table, &scanner.push(&bytes))?,
            Err(e) => {
                cut = Some(e);
                break;
            }
        }
    }
    let (rest, error) = scanner.finish();
    show_bytes(&mut table, &rest)?;
    if let (Some(table), None, None) = (&table, &error, &cut) {
        say(&table.finish());
    }
    match (error, cut) {
        (Some(error), _) => Err(Failure::Query(pointed_out(&error, statement))),
        (None, Some(cut)) => Err(Failure::Connection(format!("the result broke off: {cut}"))),
        (None, None) => Ok(Shown { rows: table.map(|t| t.rows), written }),
    }
}

fn show_bytes(table: &mut Option<Table>, bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = match table {
        Some(table) => {
            let text = table.push(bytes).map_err(Failure::Query)?;
            out.write_all(text.as_bytes())
        }
        None => out.write_all(bytes),
    };
    written.and_then(|()| out.flush()).map_err(|_| Failure::OutputClosed)
}

/// To the terminal. Whoever read it may have left; that is no failure of ours.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn written_rows(summary: &str) -> u64 {
    let value: Option<serde_json::Value> = serde_json::from_str(summary).ok();
    value.as_ref().and_then(|v| v["written_rows"].as_str()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_into_the_statement() {
        let error = "Code: 62. DB::Exception: unexpected FORM (line 2, column 10). (SYNTAX_ERROR)";
        assert_eq!(
            pointed_out(error, "SELECT\nSELECT 1 FORM x"),
            format!("{error}\n\n  SELECT 1 FORM x\n           ^")
        );
        assert_eq!(pointed_out("no position", "SELECT"), "no position");
        let beyond = "bad (line 9, column 1)";
        assert_eq!(pointed_out(beyond, "SELECT"), beyond);
    }

    #[test]
    fn endings_and_uses() {
        let tables = Show::Tables;
        assert_eq!(vertical("SELECT 1 \\G", &tables), ("SELECT 1", Show::Format("Vertical".into())));
        assert_eq!(vertical("SELECT 1", &tables), ("SELECT 1", Show::Tables));
        assert_eq!(used_database("use `d`;").as_deref(), Some("d"));
        assert_eq!(used_database("SELECT 1"), None);
        assert_eq!(written_rows("{\"written_rows\":\"12\"}"), 12);
    }
}
