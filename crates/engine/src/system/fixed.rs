//! Tables that say what this build of Weir has: functions, settings, formats, types.

use super::{Columns, Context};
use crate::settings::stream::{Effect, STREAM_SETTINGS};
use crate::settings::{COMPATIBLE, SETTINGS, Scope};
use weir_base::Result;

pub(super) fn one(_: &Context) -> Result<Columns> {
    Ok(Columns::default().flag("dummy", [false]))
}

pub(super) fn build_options(cx: &Context) -> Result<Columns> {
    let rows = [
        ("VERSION_FULL", format!("weir {}", cx.shared.config.version)),
        ("VERSION_DESCRIBE", format!("v{}", cx.shared.config.version)),
        ("SYSTEM", std::env::consts::OS.to_owned()),
        ("SYSTEM_PROCESSOR", std::env::consts::ARCH.to_owned()),
        ("BUILD_TYPE", if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
    ];
    Ok(Columns::default().text("name", rows.iter().map(|r| r.0)).text("value", rows.iter().map(|r| &r.1)))
}

pub(super) fn functions(cx: &Context) -> Result<Columns> {
    // An alias is a line of its own, naming what it stands for.
    let rows: Vec<(&str, bool, &str, &str, &str)> = cx
        .shared
        .config
        .functions
        .infos
        .iter()
        .flat_map(|f| {
            let of = |name, alias_to| (name, f.is_aggregate, alias_to, f.usage.as_str(), f.docs.as_str());
            std::iter::once(of(f.name.as_str(), ""))
                .chain(f.aliases.iter().map(move |a| of(a.as_str(), f.name.as_str())))
        })
        .collect();
    Ok(Columns::default()
        .text("name", rows.iter().map(|r| r.0))
        .flag("is_aggregate", rows.iter().map(|r| r.1))
        .flag("case_insensitive", rows.iter().map(|_| true))
        .text("alias_to", rows.iter().map(|r| r.2))
        .text("syntax", rows.iter().map(|r| r.3))
        .text("description", rows.iter().map(|r| r.4))
        .text("origin", rows.iter().map(|_| "System")))
}

pub(super) fn table_functions(_: &Context) -> Result<Columns> {
    let rows = [
        ("numbers", "numbers(n) or numbers(first, n): the integers from 0 or first"),
        ("table", "table(stream): a snapshot of what the stream holds"),
        ("values", "values('a int32', (1), (2)): rows written in the query"),
        ("zeros", "zeros(n): n times 0"),
    ];
    Ok(Columns::default()
        .text("name", rows.iter().map(|r| r.0))
        .text("description", rows.iter().map(|r| r.1)))
}

pub(super) fn settings(cx: &Context) -> Result<Columns> {
    struct Row {
        name: &'static str,
        value: String,
        default: &'static str,
        kind: &'static str,
        docs: &'static str,
        readonly: bool,
        works: bool,
    }
    let mut rows: Vec<Row> = SETTINGS
        .iter()
        .map(|s| Row {
            name: s.name,
            value: match s.name {
                "max_server_memory_usage" => cx.shared.config.memory_limit_bytes.to_string(),
                "max_concurrent_queries" => cx.shared.config.queries_max.to_string(),
                name => cx.shared.config.settings.get(name).map_or(s.default, String::as_str).to_owned(),
            },
            default: s.default,
            kind: s.kind.name(),
            docs: s.docs,
            readonly: s.scope != Scope::Query,
            works: true,
        })
        .chain(COMPATIBLE.iter().map(|c| Row {
            name: c.name,
            value: c.default.to_owned(),
            default: c.default,
            kind: "string",
            docs: "accepted for compatibility; does nothing",
            readonly: false,
            works: false,
        }))
        .collect();
    rows.sort_by_key(|r| r.name);
    Ok(Columns::default()
        .text("name", rows.iter().map(|r| r.name))
        .text("value", rows.iter().map(|r| &r.value))
        .flag("changed", rows.iter().map(|r| r.value != r.default))
        .text("description", rows.iter().map(|r| r.docs))
        .text_or_null("min", rows.iter().map(|_| None))
        .text_or_null("max", rows.iter().map(|_| None))
        .flag("readonly", rows.iter().map(|r| r.readonly))
        .text("type", rows.iter().map(|r| r.kind))
        .text("default", rows.iter().map(|r| r.default))
        .flag("is_obsolete", rows.iter().map(|r| !r.works)))
}

pub(super) fn stream_settings(_: &Context) -> Result<Columns> {
    Ok(Columns::default()
        .text("name", STREAM_SETTINGS.iter().map(|s| s.name))
        .text("value", STREAM_SETTINGS.iter().map(|s| s.default))
        .text("description", STREAM_SETTINGS.iter().map(|s| s.docs))
        .text("type", STREAM_SETTINGS.iter().map(|s| s.kind.name()))
        .text(
            "effect",
            STREAM_SETTINGS.iter().map(|s| match s.effect {
                Effect::Works => "works",
                Effect::Nothing => "accepted, does nothing",
                Effect::DefaultOnly => "only the default is supported",
            }),
        ))
}

pub(super) fn formats(_: &Context) -> Result<Columns> {
    let all = weir_format::formats();
    Ok(Columns::default()
        .text("name", all.iter().map(|f| f.name))
        .flag("is_input", all.iter().map(|f| f.input))
        .flag("is_output", all.iter().map(|f| f.output))
        .text("content_type", all.iter().map(|f| f.content_type)))
}

pub(super) fn data_type_families(_: &Context) -> Result<Columns> {
    let families = [
        ("bool", "Bool"),
        ("int8", "Int8"),
        ("int16", "Int16"),
        ("int32", "Int32"),
        ("int64", "Int64"),
        ("uint8", "UInt8"),
        ("uint16", "UInt16"),
        ("uint32", "UInt32"),
        ("uint64", "UInt64"),
        ("float32", "Float32"),
        ("float64", "Float64"),
        ("decimal", "Decimal"),
        ("string", "String"),
        ("date", "Date"),
        ("datetime", "DateTime"),
        ("datetime64", "DateTime64"),
        ("uuid", "UUID"),
        ("ipv4", "IPv4"),
        ("ipv6", "IPv6"),
        ("enum8", "Enum8"),
        ("enum16", "Enum16"),
        ("array", "Array"),
        ("map", "Map"),
        ("tuple", "Tuple"),
        ("nullable", "Nullable"),
        ("low_cardinality", "LowCardinality"),
    ];
    Ok(Columns::default()
        .text("name", families.iter().map(|f| f.0))
        .flag("case_insensitive", families.iter().map(|_| true))
        .text("alias_to", families.iter().map(|f| f.1)))
}
