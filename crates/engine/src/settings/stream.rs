//! SETTINGS of `CREATE STREAM`: checked when the stream is made, kept as text.

use super::Kind;
use std::collections::BTreeMap;
use weir_base::error::did_you_mean;
use weir_base::{Result, err};
use weir_plan::LogTopic;
use weir_storage::{LogFull, LogStore, StorageType, StreamOptions, options::Codec};

#[derive(Debug, Clone, Copy)]
pub struct StreamSetting {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub effect: Effect,
    pub docs: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Does what its docs say.
    Works,
    /// Accepted; how it works here is not to be tuned that way.
    Nothing,
    /// Only the default value is taken; others are refused with code 48.
    DefaultOnly,
}

use Effect::{DefaultOnly, Nothing, Works};
use Kind::{Int, OneOf, Text, UInt};

const fn s(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
    docs: &'static str,
) -> StreamSetting {
    StreamSetting { name, kind, default, effect, docs }
}

/// Sorted by name.
pub const STREAM_SETTINGS: &[StreamSetting] = &[
    s("distributed_ingest_mode", Text, "async", Nothing, "an INSERT's ack decides"),
    s("event_time_column", Text, "", Works, "expression that fills _tp_time"),
    s("fetch_threads", UInt, "1", Nothing, ""),
    s("flush_threshold_bytes", UInt, "10485760", Works, "bytes of log after which rows go to parts"),
    s("flush_threshold_count", UInt, "100000", Works, "rows of log after which rows go to parts"),
    s("flush_threshold_ms", UInt, "2000", Works, "age in milliseconds at which rows go to parts"),
    s("index_granularity", UInt, "8192", Nothing, ""),
    s("ingest_batch_max_bytes", UInt, "67108864", Nothing, ""),
    s("ingest_batch_timeout_ms", UInt, "500", Nothing, ""),
    s("ingest_mode", Text, "", Nothing, "an INSERT's ack decides"),
    s("keep_versions", UInt, "1", DefaultOnly, "versions a key keeps in keyed streams"),
    s(
        "logstore",
        OneOf(&["nativelog", "kafka"]),
        "nativelog",
        Works,
        "who keeps the log: we do, or a topic (settings of a topic then say which)",
    ),
    s("logstore_auto_offset_reset", Text, "earliest", Nothing, ""),
    s(
        "logstore_bytes_max",
        Int,
        "-1",
        Works,
        "bytes of disk that the log of a shard never passes; -1 = no bound",
    ),
    s("logstore_codec", OneOf(&["none", "lz4", "zstd"]), "none", Works, "compression of the log"),
    s("logstore_flush_messages", UInt, "1000", Nothing, "every group of appends is fsynced"),
    s("logstore_flush_ms", UInt, "120000", Nothing, "every group of appends is fsynced"),
    s(
        "logstore_full",
        OneOf(&["refuse", "drop_oldest"]),
        "refuse",
        Works,
        "at logstore_bytes_max: inserts are refused, or the oldest rows go although somebody needs them",
    ),
    s(
        "logstore_on_error",
        OneOf(&["stop", "skip"]),
        "stop",
        Works,
        "of a topic that is the log: a message that is no row stops reading, or is passed over and counted",
    ),
    s("logstore_request_required_acks", Int, "1", Nothing, ""),
    s("logstore_request_timeout_ms", UInt, "30000", Nothing, ""),
    s("logstore_retention_bytes", Int, "-1", Works, "bytes of log kept a shard; -1 = no limit by size"),
    s("logstore_retention_ms", Int, "86400000", Works, "age of log kept, milliseconds; -1 = for ever"),
    s("logstore_subscription_mode", Text, "dedicated", Nothing, ""),
    s("max_idempotent_ids", UInt, "1000", Works, "ids of inserts remembered a shard"),
    s("merge_with_ttl_timeout", UInt, "14400", Nothing, ""),
    s(
        "mode",
        OneOf(&["append", "changelog", "changelog_kv", "versioned_kv"]),
        "append",
        Works,
        "append: rows only come; changelog: a row with _tp_delta -1 takes back an equal one",
    ),
    s("part_codec", OneOf(&["none", "lz4", "zstd"]), "zstd", Works, "compression of parts"),
    s("placement_policies", Text, "", DefaultOnly, ""),
    s("replicas", UInt, "1", DefaultOnly, "copies of the log"),
    s(
        "replication_factor",
        UInt,
        "1",
        Works,
        "copies of the log; more than one only of a topic that is made",
    ),
    s("segment_size_bytes_max", UInt, "268435456", Works, "size at which a log segment is sealed"),
    s("sharding_expr", Text, "", Works, "integer expression that chooses a row's shard, modulo shards"),
    s("shards", UInt, "1", Works, "logs the stream is spread over"),
    s("shared_disk", Text, "", DefaultOnly, ""),
    s("storage_policy", Text, "", DefaultOnly, ""),
    s(
        "storage_type",
        OneOf(&["hybrid", "streaming", "memory"]),
        "hybrid",
        Works,
        "log and parts, log only, or log in memory",
    ),
    s(
        "tail_ring_bytes_max",
        UInt,
        "4194304",
        Works,
        "bytes of recent rows a shard keeps decoded for readers",
    ),
    s(
        "uncommitted_bytes_max",
        UInt,
        "536870912",
        Works,
        "bytes of log not yet in parts at which appends wait",
    ),
    s("version_column", Text, "", DefaultOnly, "of keyed streams"),
];

/// Of `logstore_bytes_max`: an eighth of it is one segment.
const LOG_BYTES_MAX_LEAST: u64 = 1 << 20;

/// Shards of one stream at most; each has a thread of work and files of its own.
const SHARDS_MAX: u64 = 256;

/// A stream's settings, checked.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    pub options: StreamOptions,
    pub sharding_expr: Option<String>,
    pub event_time_column: Option<String>,
    /// Rows carry a weight, `_tp_delta`.
    pub changelog: bool,
    pub log: Option<LogSettings>,
}

/// Of a log that a topic keeps.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// What the connector is told, its `type` among it.
    pub settings: BTreeMap<String, String>,
    /// Messages that are no rows are passed over.
    pub skip: bool,
    /// How the topic is made where it is not there.
    pub topic: LogTopic,
}

impl StreamSettings {
    /// # Errors
    /// 115 for an unknown name, 36 for a bad value, 48 for one this version does not have.
    pub fn parse(settings: &BTreeMap<String, String>) -> Result<Self> {
        let mut parsed = StreamSettings {
            options: StreamOptions::default(),
            sharding_expr: None,
            event_time_column: None,
            changelog: false,
            log: log_settings(settings)?,
        };
        for (name, value) in settings {
            let ours = parsed.log.is_none() || STREAM_SETTINGS.iter().any(|s| s.name == name);
            if ours {
                parsed.set(name, value)?;
            }
        }
        if parsed.log.is_some() {
            parsed.check_log(settings)?;
        } else if settings.get("replication_factor").is_some_and(|n| n != "1") {
            return Err(err!(
                NotImplemented,
                "replication_factor is of logs that a topic keeps (logstore='kafka')"
            ));
        }
        let o = &parsed.options;
        if o.log_bytes_max.is_some() && o.storage_type == StorageType::Memory {
            return Err(err!(
                BadArguments,
                "logstore_bytes_max is for logs on a disk; storage_type is 'memory'"
            ));
        }
        Ok(parsed)
    }

    /// What a log that a topic keeps does not go with.
    fn check_log(&mut self, settings: &BTreeMap<String, String>) -> Result<()> {
        self.options.log_store = LogStore::External;
        if self.options.storage_type != StorageType::Hybrid {
            return Err(err!(
                BadArguments,
                "logstore='kafka' keeps what is not in parts in the topic, and needs storage_type='hybrid'; to read a \
                 topic without keeping its rows, CREATE EXTERNAL STREAM"
            ));
        }
        if self.changelog {
            return Err(err!(NotImplemented, "mode='changelog' with logstore='kafka' is not supported yet"));
        }
        for name in ["logstore_bytes_max", "logstore_full", "logstore_codec", "max_idempotent_ids"] {
            if settings.contains_key(name) {
                return Err(err!(BadArguments, "{name} is of logs that we keep, and logstore is 'kafka'"));
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let Some(setting) = STREAM_SETTINGS.iter().find(|s| s.name == name) else {
            let hint = did_you_mean(name, STREAM_SETTINGS.iter().map(|s| s.name));
            return Err(err!(UnknownSetting, "a stream has no setting {name}{hint}"));
        };
        setting.kind.check(name, value)?;
        match setting.effect {
            Nothing => return Ok(()),
            DefaultOnly if value.eq_ignore_ascii_case(setting.default) => return Ok(()),
            DefaultOnly => {
                return Err(err!(NotImplemented, "setting {name} = '{value}' is not supported yet"));
            }
            Works => {}
        }
        let number = || value.parse::<u64>().expect("checked above");
        let lower = value.to_ascii_lowercase();
        let o = &mut self.options;
        match name {
            "shards" => {
                let n = number();
                if !(1..=SHARDS_MAX).contains(&n) {
                    return Err(err!(BadArguments, "shards can not be {n}; it takes 1 to {SHARDS_MAX}"));
                }
                o.shards = n as u32;
            }
            "mode" => match lower.as_str() {
                "append" => {}
                "changelog" => self.changelog = true,
                _ => {
                    return Err(err!(
                        NotImplemented,
                        "mode='{lower}' is not supported yet: keyed streams come in a later version; \
                         use an append stream and changelog(stream, key), or mode='changelog'"
                    ));
                }
            },
            "storage_type" => {
                o.storage_type = match lower.as_str() {
                    "streaming" => StorageType::Streaming,
                    "memory" => StorageType::Memory,
                    _ => StorageType::Hybrid,
                }
            }
            "logstore_codec" => o.log_codec = codec(&lower),
            "part_codec" => o.part_codec = codec(&lower),
            "logstore_retention_bytes" => o.log_retention_bytes = value.parse::<i64>().ok().and_then(limit),
            "logstore_retention_ms" => o.log_retention_ms = value.parse::<i64>().ok().and_then(limit),
            "logstore_bytes_max" => {
                o.log_bytes_max = value.parse::<i64>().ok().and_then(limit);
                if o.log_bytes_max.is_some_and(|n| n < LOG_BYTES_MAX_LEAST) {
                    return Err(err!(
                        BadArguments,
                        "logstore_bytes_max is {value}; a log takes at least {LOG_BYTES_MAX_LEAST} bytes"
                    ));
                }
            }
            "logstore_full" => {
                o.log_full = match lower.as_str() {
                    "drop_oldest" => LogFull::DropOldest,
                    _ => LogFull::Refuse,
                }
            }
            "flush_threshold_ms" => o.flush_threshold_ms = number(),
            "flush_threshold_count" => o.flush_threshold_count = number().max(1),
            "flush_threshold_bytes" => o.flush_threshold_bytes = number().max(1),
            "uncommitted_bytes_max" => o.uncommitted_bytes_max = number().max(1),
            "segment_size_bytes_max" => o.segment_size_bytes_max = number().max(64 << 10),
            "max_idempotent_ids" => o.idempotent_ids_max = number().min(1 << 20) as u32,
            "tail_ring_bytes_max" => o.tail_ring_bytes_max = number(),
            "sharding_expr" => self.sharding_expr = Some(value.to_owned()).filter(|v| !v.trim().is_empty()),
            // Read where they are needed.
            "logstore" | "logstore_on_error" | "replication_factor" => {}
            "event_time_column" => {
                self.event_time_column = Some(value.to_owned()).filter(|v| !v.trim().is_empty());
            }
            other => unreachable!("{other} works but is not read"),
        }
        Ok(())
    }
}

/// Of a stream whose log a topic keeps, what is said of the topic.
fn log_settings(settings: &BTreeMap<String, String>) -> Result<Option<LogSettings>> {
    let word = |name: &str| settings.get(name).map(|v| v.to_ascii_lowercase());
    if word("logstore").as_deref() != Some("kafka") {
        return Ok(None);
    }
    let ours = |name: &str| STREAM_SETTINGS.iter().any(|s| s.name == name);
    let mut told: BTreeMap<String, String> =
        settings.iter().filter(|(name, _)| !ours(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if told.contains_key("type") {
        return Err(err!(UnknownSetting, "a stream has no setting type; logstore says where its log lies"));
    }
    told.insert("type".into(), "kafka".into());
    told.insert("one_message_per_row".into(), "true".into());
    for (name, value) in [("data_format", "JSONEachRow"), ("delivery", "exactly_once")] {
        told.entry(name.into()).or_insert_with(|| value.into());
    }
    let number = |name: &str| settings.get(name).and_then(|v| v.parse::<i64>().ok());
    Ok(Some(LogSettings {
        settings: told,
        skip: word("logstore_on_error").as_deref() == Some("skip"),
        topic: LogTopic {
            partitions: number("shards").and_then(limit).map(|n| n as u32),
            replication_factor: number("replication_factor").and_then(limit).unwrap_or(1) as u32,
            retention_ms: number("logstore_retention_ms").and_then(limit),
            retention_bytes: number("logstore_retention_bytes").and_then(limit),
        },
    }))
}

/// Negative means without limit.
fn limit(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

fn codec(name: &str) -> Codec {
    match name {
        "lz4" => Codec::Lz4,
        "zstd" => Codec::Zstd,
        _ => Codec::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<StreamSettings> {
        StreamSettings::parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn every_setting_takes_its_default() {
        for s in STREAM_SETTINGS {
            let parsed = parse(s.name, s.default).unwrap_or_else(|e| panic!("{}: {e}", s.name));
            assert_eq!(parsed.options, StreamOptions::default(), "{}", s.name);
        }
    }

    #[test]
    fn what_this_version_lacks_is_refused_by_name() {
        for (name, value, code) in [
            ("replication_factor", "3", 48),
            ("mode", "versioned_kv", 48),
            ("replicas", "3", 48),
            ("mode", "upsert", 36),
            ("shards", "0", 36),
            ("shard", "1", 115),
        ] {
            let e = parse(name, value).unwrap_err();
            assert_eq!(e.code.number(), code, "{name}={value}: {e}");
            assert!(e.message.contains(name), "{e}");
        }
    }

    #[test]
    fn negative_retention_is_no_limit() {
        assert_eq!(parse("logstore_retention_ms", "-1").unwrap().options.log_retention_ms, None);
        assert_eq!(parse("logstore_retention_bytes", "5").unwrap().options.log_retention_bytes, Some(5));
    }
}
