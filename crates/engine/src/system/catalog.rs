//! Databases, relations and their columns.

use super::{Columns, Context, TABLES};
use crate::ddl::show::{create_text, engine_name};
use crate::settings::stream::StreamSettings;
use crate::streams::column_type;
use crate::system::provider::SystemTable;
use datafusion::catalog::TableProvider;
use std::sync::Arc;
use weir_base::Result;
use weir_catalog::{DefaultKind, Relation, RelationKind, SYSTEM_DATABASE};
use weir_format::types::Type;

pub(super) fn databases(cx: &Context) -> Result<Columns> {
    let snapshot = cx.shared.catalog.snapshot();
    let names: Vec<&String> = snapshot.databases.keys().collect();
    let engine = |n: &&String| if *n == SYSTEM_DATABASE { "System" } else { "Atomic" };
    Ok(Columns::default()
        .text("name", &names)
        .text("engine", names.iter().map(engine))
        .text("data_path", names.iter().map(|_| "streams/"))
        .text("comment", snapshot.databases.values().map(|d| &d.comment)))
}

fn relations(cx: &Context) -> Vec<Arc<Relation>> {
    cx.shared.catalog.snapshot().relations().cloned().collect()
}

pub(super) fn tables(cx: &Context) -> Result<Columns> {
    let all = relations(cx);
    let system = || TABLES.iter().map(|(name, _)| *name).chain(["numbers"]);
    let n_system = system().count();
    let stats: Vec<Option<(u64, u64)>> = all
        .iter()
        .map(|r| {
            let open = r.is_stored().then(|| cx.shared.streams.get(r).ok()).flatten()?;
            let shards = open.store.shards().iter().map(|s| s.stats());
            Some(shards.fold((0, 0), |(rows, bytes), s| (rows + s.rows, bytes + s.part_bytes + s.log_bytes)))
        })
        .collect();
    let clause = |f: fn(&RelationKind) -> Option<String>| {
        all.iter().map(move |r| f(&r.kind).unwrap_or_default()).chain(system().map(|_| String::new()))
    };
    let mode = |r: &Arc<Relation>| if r.is_stored() { "append" } else { "" };
    let create = |r: &Arc<Relation>| create_text(r, &cx.shared.externals, cx.spelling);
    let texts: Vec<String> = all.iter().map(create).collect();
    Ok(Columns::default()
        .text("database", all.iter().map(|r| r.database.as_str()).chain(system().map(|_| SYSTEM_DATABASE)))
        .text("name", all.iter().map(|r| r.name.as_str()).chain(system()))
        .uuid("uuid", all.iter().map(|r| r.id).chain(system().map(|_| uuid::Uuid::nil())))
        .text("engine", all.iter().map(|r| engine_name(&r.kind)).chain(system().map(|_| "SystemTable")))
        .text("mode", all.iter().map(mode).chain(system().map(|_| "")))
        .flag("is_temporary", (0..all.len() + n_system).map(|_| false))
        .text("create_table_query", texts.iter().map(String::as_str).chain(system().map(|_| "")))
        .text("engine_full", all.iter().map(|r| engine_name(&r.kind)).chain(system().map(|_| "SystemTable")))
        .text(
            "as_select",
            clause(|k| match k {
                RelationKind::View { select, .. } | RelationKind::MaterializedView { select, .. } => {
                    Some(select.clone())
                }
                _ => None,
            }),
        )
        .text(
            "partition_key",
            clause(|k| match k {
                RelationKind::Stream { partition_by, .. } => partition_by.clone(),
                _ => None,
            }),
        )
        .text(
            "sorting_key",
            clause(|k| match k {
                RelationKind::Stream { order_by, .. } => order_by.clone(),
                _ => None,
            }),
        )
        .text(
            "primary_key",
            clause(|k| match k {
                RelationKind::Stream { primary_key, .. } => primary_key.clone(),
                _ => None,
            }),
        )
        .uint_or_null("total_rows", stats.iter().map(|s| s.map(|s| s.0)).chain(system().map(|_| None)))
        .uint_or_null("total_bytes", stats.iter().map(|s| s.map(|s| s.1)).chain(system().map(|_| None)))
        .uint(
            "shards",
            all.iter()
                .map(|r| match &r.kind {
                    RelationKind::Stream { settings, .. } => {
                        StreamSettings::parse(settings).map_or(1, |s| u64::from(s.options.shards))
                    }
                    _ => 0,
                })
                .chain(system().map(|_| 0)),
        )
        .text("comment", all.iter().map(|r| r.comment.as_str()).chain(system().map(|_| "")))
        .time_ms("metadata_modification_time", all.iter().map(|r| r.created_ms).chain(system().map(|_| 0)))
        .text(
            "error",
            all.iter()
                .map(|r| cx.shared.streams.error_of(r.id).unwrap_or_default())
                .chain(system().map(|_| String::new())),
        ))
}

/// One column of one relation.
struct Row {
    database: String,
    table: String,
    position: u64,
    name: String,
    column_type: Option<Type>,
    default_kind: &'static str,
    default_expression: String,
    comment: String,
    codec: String,
    keys: [bool; 3],
}

fn rows(cx: &Context) -> Vec<Row> {
    let mut out = Vec::new();
    for relation in relations(cx) {
        let keys = |text: &Option<String>, column: &str| {
            let parts = crate::expr::split_list(text.as_deref().unwrap_or("")).unwrap_or_default();
            parts.iter().any(|p| p.trim_matches('`') == column)
        };
        for (i, c) in relation.columns.iter().enumerate() {
            out.push(Row {
                database: relation.database.clone(),
                table: relation.name.clone(),
                position: i as u64 + 1,
                name: c.name.clone(),
                column_type: column_type(&c.type_name).ok(),
                default_kind: c.default.as_ref().map_or("", |d| default_word(d.kind)),
                default_expression: c.default.as_ref().map_or_else(String::new, |d| d.expression.clone()),
                comment: c.comment.clone(),
                codec: c.codec.as_ref().map_or_else(String::new, |c| format!("CODEC({c})")),
                keys: match &relation.kind {
                    RelationKind::Stream { order_by, partition_by, primary_key, .. } => {
                        [keys(partition_by, &c.name), keys(order_by, &c.name), keys(primary_key, &c.name)]
                    }
                    _ => [false; 3],
                },
            });
        }
    }
    for (table, compute) in TABLES {
        // `columns` would ask for itself.
        if *table == "columns" {
            continue;
        }
        let context =
            Context { shared: cx.shared.clone(), spelling: cx.spelling, database: cx.database.clone() };
        let Ok(provider) = SystemTable::new(table, *compute, context) else { continue };
        for (i, field) in provider.schema().fields().iter().enumerate() {
            out.push(Row {
                database: SYSTEM_DATABASE.to_owned(),
                table: (*table).to_owned(),
                position: i as u64 + 1,
                name: field.name().clone(),
                column_type: Type::of_field(field),
                default_kind: "",
                default_expression: String::new(),
                comment: String::new(),
                codec: String::new(),
                keys: [false; 3],
            });
        }
    }
    out
}

pub(crate) fn default_word(kind: DefaultKind) -> &'static str {
    match kind {
        DefaultKind::Default => "DEFAULT",
        DefaultKind::Materialized => "MATERIALIZED",
        DefaultKind::Alias => "ALIAS",
    }
}

/// (precision, radix, scale) of a number, as JDBC asks for it.
fn numeric(t: &Type) -> Option<(u64, u64, u64)> {
    Some(match t.inner() {
        Type::Bool | Type::Int8 | Type::UInt8 => (8, 2, 0),
        Type::Int16 | Type::UInt16 => (16, 2, 0),
        Type::Int32 | Type::UInt32 => (32, 2, 0),
        Type::Int64 | Type::UInt64 => (64, 2, 0),
        Type::Float32 => (24, 2, 0),
        Type::Float64 => (53, 2, 0),
        Type::Decimal(p, s) => (u64::from(*p), 10, u64::from(*s)),
        _ => return None,
    })
}

pub(super) fn columns(cx: &Context) -> Result<Columns> {
    let rows = rows(cx);
    let of_type = |f: fn(&Type) -> Option<u64>| rows.iter().map(move |r| r.column_type.as_ref().and_then(f));
    Ok(Columns::default()
        .text("database", rows.iter().map(|r| &r.database))
        .text("table", rows.iter().map(|r| &r.table))
        .text("name", rows.iter().map(|r| &r.name))
        .text(
            "type",
            rows.iter().map(|r| r.column_type.as_ref().map_or_else(String::new, |t| t.name(cx.spelling))),
        )
        .uint("position", rows.iter().map(|r| r.position))
        .text("default_kind", rows.iter().map(|r| r.default_kind))
        .text("default_expression", rows.iter().map(|r| &r.default_expression))
        .text("comment", rows.iter().map(|r| &r.comment))
        .flag("is_in_partition_key", rows.iter().map(|r| r.keys[0]))
        .flag("is_in_sorting_key", rows.iter().map(|r| r.keys[1]))
        .flag("is_in_primary_key", rows.iter().map(|r| r.keys[2]))
        .flag("is_in_sampling_key", rows.iter().map(|_| false))
        .text("compression_codec", rows.iter().map(|r| &r.codec))
        .uint_or_null("character_octet_length", rows.iter().map(|_| None))
        .uint_or_null("numeric_precision", of_type(|t| numeric(t).map(|n| n.0)))
        .uint_or_null("numeric_precision_radix", of_type(|t| numeric(t).map(|n| n.1)))
        .uint_or_null("numeric_scale", of_type(|t| numeric(t).map(|n| n.2)))
        .uint_or_null(
            "datetime_precision",
            of_type(|t| match t.inner() {
                Type::DateTime(_) => Some(0),
                Type::DateTime64(p, _) => Some(u64::from(*p)),
                _ => None,
            }),
        ))
}

/// Values are shown to nobody.
pub(super) fn named_collections(cx: &Context) -> Result<Columns> {
    let snapshot = cx.shared.catalog.snapshot();
    let all = &snapshot.collections;
    Ok(Columns::default()
        .text("name", all.keys())
        .texts("keys", all.values().map(|c| c.entries.keys().cloned().collect())))
}

pub(super) fn format_schemas(cx: &Context) -> Result<Columns> {
    let snapshot = cx.shared.catalog.snapshot();
    let all = &snapshot.format_schemas;
    Ok(Columns::default()
        .text("name", all.keys())
        .text("type", all.values().map(|s| s.language.to_string()))
        .text("schema", all.values().map(|s| &s.text)))
}
