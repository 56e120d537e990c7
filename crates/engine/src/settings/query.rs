//! What the settings of session and statement come to, parsed once.

use super::{check_all, find, parse_bool};
use crate::session::{QueryMode, Session};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Result, err};
use weir_format::{FormatSettings, Spelling};
use weir_plan::{ReplayOrder, StateSpec};
use weir_sql::bind::BackfillSettings;
use weir_storage::Ack;

/// More threads than this help nobody.
const THREADS_MAX: u64 = 256;

/// Read by everything that runs one statement.
#[derive(Debug, Clone)]
pub struct QuerySettings {
    pub mode: QueryMode,
    pub seek_to: Option<String>,
    pub replay_order: ReplayOrder,
    pub replay_order_text: String,
    pub backfill: BackfillSettings,
    pub lateness: weir_sql::bind::Lateness,
    /// Partitions of external streams that are read; `None` = all.
    pub partitions: Option<Arc<[i32]>>,
    pub late_rows_stream: Option<String>,
    pub sessions: weir_sql::bind::SessionRules,
    pub state: StateSpec,
    /// Windows that EMIT LAST may put a row into.
    pub windows_max: i64,
    /// At least 1.
    pub threads_max: usize,
    /// 0 = the server's limit.
    pub memory_bytes_max: u64,
    pub execution_time_max: Option<Duration>,
    /// 0 = no limit.
    pub result_rows_max: u64,
    pub block_rows_max: usize,
    pub insert_block_rows_max: usize,
    pub output_buffer_bytes_max: usize,
    pub ack: Ack,
    /// Of a query that keeps checkpoints; `None` = the default.
    pub checkpoint_interval: Option<Duration>,
    pub idempotent_id: Option<String>,
    /// Of `log_writer` and its positions.
    pub log_writer: Option<LogWriter>,
    pub cast_overflow_wrap: bool,
    pub join_use_nulls: bool,
    pub check_dependents: bool,
    pub internal_streams: bool,
    pub read_only: bool,
    /// Of times that have none of their own; `None` = UTC.
    pub time_zone: Option<Arc<str>>,
    pub log_queries: bool,
    pub format: FormatSettings,
}

/// Where one value comes from: the statement, the session, the server, the default.
struct Lookup<'a>([&'a BTreeMap<String, String>; 3]);

impl<'a> Lookup<'a> {
    fn set(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|level| level.get(name)).map(String::as_str)
    }
    fn text(&self, name: &str) -> &'a str {
        self.set(name).unwrap_or_else(|| {
            let setting = find(name).ok().flatten().expect("asked only for names of the table");
            setting.default
        })
    }
    fn flag(&self, name: &str) -> bool {
        parse_bool(self.text(name)).expect("checked when set")
    }
    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().expect("checked when set")
    }
}

/// `'0,2'`; nothing = all.
pub(crate) fn partitions(text: &str) -> Result<Option<Arc<[i32]>>> {
    let bad = || {
        err!(BadArguments, "shards is '{text}', it takes numbers of partitions with commas between, as '0,2'")
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut all = text
        .split(',')
        .map(|n| n.trim().parse::<i32>().ok().filter(|n| *n >= 0).ok_or_else(bad))
        .collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    all.dedup();
    Ok(Some(all.into()))
}

/// Who writes with a position of its own, where it has to be, and where it will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogWriter {
    pub id: [u8; 16],
    pub from: Vec<u8>,
    pub to: Vec<u8>,
}

impl LogWriter {
    /// Whether an id is one that others chose: of version 8 (RFC 9562), which views here never have.
    pub fn is_remote(id: &[u8; 16]) -> bool {
        uuid::Uuid::from_bytes(*id).get_version_num() == 8
    }
}

fn log_writer(id: &str, from: &str, to: &str) -> Result<Option<LogWriter>> {
    if id.is_empty() {
        return match from.is_empty() && to.is_empty() {
            true => Ok(None),
            false => Err(err!(BadArguments, "log_writer_from and log_writer_position need log_writer")),
        };
    }
    let uuid =
        uuid::Uuid::parse_str(id).ok().filter(|id| LogWriter::is_remote(id.as_bytes())).ok_or_else(|| {
            err!(
                BadArguments,
                "log_writer is '{id}', it takes a UUID of version 8, as 1b671a64-40d5-891e-99b0-da01ff1f3341"
            )
        })?;
    let bytes = |name: &str, text: &str| {
        STANDARD.decode(text).map_err(|_| err!(BadArguments, "{name} is not base64"))
    };
    let (from, to) = (bytes("log_writer_from", from)?, bytes("log_writer_position", to)?);
    if to.is_empty() || to.len() > weir_storage::PROGRESS_BYTES_MAX {
        return Err(err!(
            BadArguments,
            "log_writer_position has {} bytes, it takes 1 to {}",
            to.len(),
            weir_storage::PROGRESS_BYTES_MAX
        ));
    }
    Ok(Some(LogWriter { id: *uuid.as_bytes(), from, to }))
}

impl QuerySettings {
    /// # Errors
    /// `UnknownSetting` (115) or `BadArguments` (36) in the statement's own settings.
    pub fn new(
        session: &Session,
        statement: &BTreeMap<String, String>,
        server: &BTreeMap<String, String>,
        cores: usize,
    ) -> Result<Self> {
        check_all(statement)?;
        let at = Lookup([statement, &session.settings, server]);
        let spelling = match at.text("type_names") {
            "clickhouse" => Spelling::Camel,
            "timeplus" => Spelling::Lower,
            _ => session.spelling,
        };
        let zone = at.text("session_timezone");
        let utc = zone.is_empty() || zone.eq_ignore_ascii_case("UTC");
        if !utc {
            weir_sql::bind::check_zone(zone)?;
        }
        let seconds: f64 = at.text("max_execution_time").parse().expect("checked when set");
        let checkpoint: f64 = at.text("checkpoint_interval").parse().expect("checked when set");
        let positive = |name: &str, limit: u64| (at.number(name).clamp(1, limit)) as usize;
        Ok(QuerySettings {
            mode: match at.set("query_mode") {
                Some(m) if m.eq_ignore_ascii_case("table") => QueryMode::Table,
                Some(_) => QueryMode::Streaming,
                None => session.mode,
            },
            seek_to: Some(at.text("seek_to")).filter(|s| !s.is_empty()).map(str::to_owned),
            replay_order: match at.text("replay_order") {
                o if o.eq_ignore_ascii_case("event_time") => ReplayOrder::EventTime,
                _ => ReplayOrder::Arrival,
            },
            replay_order_text: at.text("replay_order").to_ascii_lowercase(),
            backfill: BackfillSettings {
                emit_during_backfill: at.flag("emit_during_backfill"),
                force_backfill_in_order: at.flag("force_backfill_in_order"),
                enable_backfill_from_historical_store: at.flag("enable_backfill_from_historical_store"),
                replay_speed: at.text("replay_speed").parse().expect("checked when set"),
                replay_time_column: at.text("replay_time_column").to_owned(),
                replay_start_time: at.text("replay_start_time").to_owned(),
                replay_end_time: at.text("replay_end_time").to_owned(),
            },
            lateness: weir_sql::bind::Lateness {
                idle_timeout_us: at.number("watermark_idle_timeout_ms").min(1 << 40) as i64 * 1_000,
                future_max_ns: at.number("event_time_future_max_ms").min(1 << 40) as i64 * 1_000_000,
                partition_lag_max_ns: at.number("partition_lag_max_ms").min(1 << 40) as i64 * 1_000_000,
            },
            late_rows_stream: Some(at.text("late_rows_stream")).filter(|s| !s.is_empty()).map(str::to_owned),
            sessions: weir_sql::bind::SessionRules {
                merge_open: at.flag("merge_open_sessions"),
                close_left_out: !at.flag("include_session_end"),
            },
            state: StateSpec {
                threads: at.number("max_threads").min(THREADS_MAX) as usize,
                ttl_us: at.number("aggregate_state_ttl_sec").min(1 << 40) as i64 * 1_000_000,
            },
            windows_max: at.number("max_windows").clamp(1, weir_plan::WINDOWS_PER_ROW_MAX as u64) as i64,
            threads_max: match at.number("max_threads") {
                0 => cores.max(1),
                n => n.min(THREADS_MAX) as usize,
            },
            memory_bytes_max: at.number("max_memory_usage"),
            execution_time_max: (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(1e9))),
            result_rows_max: at.number("max_result_rows"),
            block_rows_max: positive("max_block_size", 1 << 20),
            insert_block_rows_max: positive("max_insert_block_size", 1 << 24),
            output_buffer_bytes_max: positive("output_buffer_bytes_max", 1 << 30),
            partitions: partitions(at.text("shards"))?,
            checkpoint_interval: (checkpoint > 0.0)
                .then(|| Duration::from_secs_f64(checkpoint.min(86_400.0))),
            ack: match at.text("ack").to_ascii_lowercase().as_str() {
                "written" => Ack::Written,
                "none" => Ack::None,
                _ => Ack::Durable,
            },
            idempotent_id: Some(at.text("idempotent_id")).filter(|s| !s.is_empty()).map(str::to_owned),
            log_writer: log_writer(
                at.text("log_writer"),
                at.text("log_writer_from"),
                at.text("log_writer_position"),
            )?,
            cast_overflow_wrap: at.text("cast_overflow").eq_ignore_ascii_case("wrap"),
            join_use_nulls: at.flag("join_use_nulls"),
            check_dependents: at.flag("enable_dependency_check"),
            internal_streams: at.flag("include_internal_streams"),
            read_only: session.read_only || at.text("readonly") != "0",
            time_zone: (!utc).then(|| zone.into()),
            log_queries: at.flag("log_queries"),
            format: FormatSettings {
                spelling,
                json_quote_64bit_integers: at.flag("output_format_json_quote_64bit_integers"),
                json_quote_denormals: at.flag("output_format_json_quote_denormals"),
                csv_delimiter: at.text("format_csv_delimiter").as_bytes()[0],
                skip_unknown_fields: at.flag("input_format_skip_unknown_fields"),
                null_as_default: at.flag("input_format_null_as_default"),
                utf8_replace: at.text("input_utf8").eq_ignore_ascii_case("replace"),
                pretty_rows_max: at.number("output_format_pretty_max_rows") as usize,
                best_effort_times: !at.text("date_time_input_format").eq_ignore_ascii_case("basic"),
                ..FormatSettings::default()
            },
        })
    }
}
