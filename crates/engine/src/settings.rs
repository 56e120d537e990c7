//! Settings: one table of names, types, defaults and meanings, and what a query makes of them.
//!
//! A value is checked when it is set, so that what runs later only reads good ones. Names of
//! other systems' settings that change no answer are accepted and do nothing; every other
//! unknown name is refused with the nearest one there is.
//!
//! Not here: SETTINGS of streams ([`stream`]), who may set what.

mod query;
pub mod stream;
mod table;

pub use query::LogWriter;
pub use query::QuerySettings;
pub(crate) use query::partitions;
pub use table::{COMPATIBLE, Kind, SETTINGS, Scope, Setting};

use crate::query::HistoryBounds;
use std::collections::BTreeMap;
use weir_base::error::did_you_mean;
use weir_base::{Result, err};

/// The setting of this name; `None` for names that are accepted and do nothing.
///
/// # Errors
/// `UnknownSetting` (115).
pub fn find(name: &str) -> Result<Option<&'static Setting>> {
    if let Ok(at) = SETTINGS.binary_search_by(|s| s.name.cmp(name)) {
        return Ok(Some(&SETTINGS[at]));
    }
    if COMPATIBLE.iter().any(|c| c.name == name) {
        return Ok(None);
    }
    let known = SETTINGS.iter().map(|s| s.name).chain(stream::STREAM_SETTINGS.iter().map(|s| s.name));
    let hint = did_you_mean(name, known);
    Err(err!(UnknownSetting, "unknown setting {name}{hint}; system.settings lists them"))
}

/// Checks one `name = value` for a session or a query.
///
/// # Errors
/// `UnknownSetting` (115); `BadArguments` (36) for a value that does not fit.
pub fn check(name: &str, value: &str) -> Result<()> {
    match find(name)? {
        Some(setting) if setting.scope == Scope::Server => {
            Err(err!(BadArguments, "setting {name} belongs to the server's configuration"))
        }
        Some(setting) if setting.scope == Scope::Start => Err(err!(
            BadArguments,
            "setting {name} is read when the server starts; put it under settings: of its configuration"
        )),
        Some(setting) => setting.kind.check(name, value),
        None => Ok(()),
    }
}

/// Checks the defaults that the server's configuration gives.
pub fn check_server(settings: &BTreeMap<String, String>) -> Result<()> {
    settings.iter().try_for_each(|(name, value)| match find(name)? {
        Some(setting) if setting.scope == Scope::Start => setting.kind.check(name, value),
        _ => check(name, value),
    })
}

/// How much is remembered of queries; `settings` are the server's.
pub(crate) fn history_bounds(settings: &BTreeMap<String, String>) -> HistoryBounds {
    let number = |name: &str| {
        let default = find(name).ok().flatten().expect("a setting of the table").default;
        let text = settings.get(name).map_or(default, String::as_str);
        text.parse::<usize>().expect("checked when the engine opens")
    };
    HistoryBounds {
        log_rows_max: number("query_log_rows_max"),
        log_bytes_max: number("query_log_bytes_max"),
        warnings_rows_max: number("query_warnings_rows_max"),
    }
}

/// # Errors
/// `UnknownSetting` (115).
pub(crate) fn known(name: &str) -> Result<()> {
    find(name).map(|_| ())
}

/// Checks all and gives those that mean something.
pub fn check_all(settings: &BTreeMap<String, String>) -> Result<()> {
    settings.iter().try_for_each(|(name, value)| check(name, value))
}

impl Kind {
    /// # Errors
    /// `BadArguments` (36), naming setting, value and what fits.
    pub fn check(self, name: &str, value: &str) -> Result<()> {
        let fits = match self {
            Kind::Bool => parse_bool(value).is_some(),
            Kind::UInt => value.parse::<u64>().is_ok(),
            Kind::Int => value.parse::<i64>().is_ok(),
            Kind::Float => value.parse::<f64>().is_ok_and(f64::is_finite),
            Kind::Seconds => value.parse::<f64>().is_ok_and(|v| v.is_finite() && v >= 0.0),
            Kind::Text => true,
            Kind::Char => value.len() == 1 && value.is_ascii(),
            Kind::OneOf(words) => words.iter().any(|w| w.eq_ignore_ascii_case(value)),
        };
        if fits {
            return Ok(());
        }
        let wanted = match self {
            Kind::Bool => "0 or 1".to_owned(),
            Kind::UInt => "a number from 0".to_owned(),
            Kind::Int => "an integer".to_owned(),
            Kind::Float => "a number".to_owned(),
            Kind::Seconds => "seconds, from 0".to_owned(),
            Kind::Text => unreachable!("every text fits"),
            Kind::Char => "one ASCII character".to_owned(),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
        };
        Err(err!(BadArguments, "setting {name} can not be '{value}'; it takes {wanted}"))
    }

    /// For `system.settings`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::UInt => "uint64",
            Kind::Int => "int64",
            Kind::Float => "float64",
            Kind::Seconds => "seconds",
            Kind::Text => "string",
            Kind::Char => "char",
            Kind::OneOf(_) => "enum",
        }
    }
}

pub(crate) fn parse_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" => Some(true),
        "0" | "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_fit() {
        assert!(SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        assert!(stream::STREAM_SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        for s in SETTINGS {
            s.kind.check(s.name, s.default).unwrap();
            assert!(!COMPATIBLE.iter().any(|c| c.name == s.name), "{} is in both tables", s.name);
        }
    }

    #[test]
    fn unknown_names_and_bad_values_say_what_to_do() {
        let e = check("max_treads", "1").unwrap_err();
        assert_eq!(e.code.number(), 115);
        assert!(e.message.contains("did you mean max_threads?"), "{e}");
        let e = check("query_mode", "batch").unwrap_err();
        assert_eq!(e.code.number(), 36);
        assert!(e.message.contains("streaming, table"), "{e}");
        check("async_insert", "anything").unwrap();
        check("join_use_nulls", "true").unwrap();
        assert!(check("max_threads", "-1").is_err());
    }
}
