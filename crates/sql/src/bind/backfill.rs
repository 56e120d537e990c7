//! The settings that say how history is given: muted or not, from where, at which pace.

use super::BindOptions;
use datafusion::common::ScalarValue;
use weir_base::{Error, err};
use weir_format::types::Type;
use weir_plan::{HistorySpec, ReplayOrder, ReplaySpec};

/// As they were set; the default is that of each setting.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillSettings {
    pub emit_during_backfill: bool,
    pub force_backfill_in_order: bool,
    pub enable_backfill_from_historical_store: bool,
    pub replay_speed: f64,
    /// Empty for `_tp_append_time`.
    pub replay_time_column: String,
    /// Empty for none.
    pub replay_start_time: String,
    pub replay_end_time: String,
}

impl Default for BackfillSettings {
    fn default() -> Self {
        BackfillSettings {
            emit_during_backfill: false,
            force_backfill_in_order: false,
            enable_backfill_from_historical_store: true,
            replay_speed: 0.0,
            replay_time_column: String::new(),
            replay_start_time: String::new(),
            replay_end_time: String::new(),
        }
    }
}

/// What they come to, for every source of a query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    pub spec: HistorySpec,
    /// In order, also where the result depends on none.
    pub in_order: bool,
}

/// # Errors
/// Code 36 for values that do not fit, 48 for settings that do not go together.
pub(super) fn history(options: &BindOptions, order: ReplayOrder) -> Result<History, Error> {
    let set = &options.backfill;
    if !(set.replay_speed.is_finite() && set.replay_speed >= 0.0) {
        return Err(err!(
            BadArguments,
            "replay_speed={}; it is 0 (no waiting), 1 (as it came), or another factor",
            set.replay_speed
        ));
    }
    let time = |name: &str, text: &str| -> Result<Option<i64>, Error> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        match super::cast::literal(text.trim(), &Type::DateTime64(6, options.time_zone.clone())) {
            Ok(ScalarValue::TimestampMicrosecond(Some(us), _)) => Ok(Some(us)),
            _ => Err(err!(BadArguments, "{name}='{text}' is no time, such as '2024-01-01 00:00:00'")),
        }
    };
    let start_us = time("replay_start_time", &set.replay_start_time)?;
    let end_us = time("replay_end_time", &set.replay_end_time)?;
    if let (Some(start), Some(end)) = (start_us, end_us)
        && end < start
    {
        return Err(err!(
            BadArguments,
            "replay_end_time '{}' lies before replay_start_time '{}'",
            set.replay_end_time,
            set.replay_start_time
        ));
    }
    let replays = set.replay_speed > 0.0 || start_us.is_some() || end_us.is_some();
    if order == ReplayOrder::EventTime && (replays || set.emit_during_backfill) {
        let which = if replays { "replay_speed and its like" } else { "emit_during_backfill" };
        return Err(err!(
            NotImplemented,
            "{which} with replay_order='event_time' is not supported yet; leave replay_order at 'arrival'"
        ));
    }
    let column = match set.replay_time_column.trim() {
        "" => "_tp_append_time",
        name => name,
    };
    let replay =
        replays.then(|| ReplaySpec { column: column.to_owned(), speed: set.replay_speed, start_us, end_us });
    let spec = HistorySpec {
        emits: set.emit_during_backfill,
        log_only: !set.enable_backfill_from_historical_store,
        replay,
        ..HistorySpec::default()
    };
    Ok(History { spec, in_order: set.force_backfill_in_order })
}
