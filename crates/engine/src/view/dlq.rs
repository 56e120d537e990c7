//! `<view>_dlq`: rows a view could not take, as text, with the reason.

use super::ViewSpec;
use super::bad_rows::BadRow;
use crate::ddl::show::{literal, quote};
use crate::engine::Shared;
use crate::execute;
use crate::outcome::Outcome;
use crate::query::QueryAbout;
use crate::session::{QueryMode, Session};
use crate::settings::partitions;
use futures::StreamExt;
use std::sync::Arc;
use weir_base::{Error, Result, err};
use weir_catalog::{RelationKind, RelationName};
use weir_format::ResultStats;

pub(super) fn name(spec: &ViewSpec) -> RelationName {
    RelationName::new(&spec.name.database, format!("{}_dlq", spec.name.name))
}

fn ident(name: &RelationName) -> String {
    format!("{}.{}", quote(&name.database), quote(&name.name))
}

/// Runs a statement of the server's own.
async fn run(shared: &Arc<Shared>, text: &str) -> Result<Outcome> {
    let query_id = shared.new_id().to_string();
    let record = shared.history.begin(QueryAbout {
        query_id: query_id.clone(),
        user: "default".into(),
        database: "default".into(),
        text: execute::shown(text.as_bytes()),
        kind: "View",
        streaming: false,
    });
    record.forget();
    let mut session = Session { mode: QueryMode::Table, ..Session::default() };
    Box::pin(execute::statement(shared.clone(), &mut session, text.as_bytes(), query_id, record)).await
}

/// Makes the stream of bad rows where it is missing.
pub(super) async fn ensure(shared: &Arc<Shared>, spec: &ViewSpec) -> Result<()> {
    let text = format!(
        "CREATE STREAM IF NOT EXISTS {} (stream string, shard int32, sn int64, row string, code int32, reason string)",
        ident(&name(spec))
    );
    run(shared, &text).await.map(|_| ())
}

/// Writes a row down, once however often it is tried. Returns when it is durable.
pub(super) async fn write(shared: &Arc<Shared>, spec: &ViewSpec, row: &BadRow, e: &Error) -> Result<()> {
    let json = read(shared, spec, row).await.unwrap_or_else(|e| format!("not readable: {e}"));
    let text = format!(
        "INSERT INTO {} (stream, shard, sn, row, code, reason) SETTINGS idempotent_id={} VALUES ({}, {}, {}, {}, {}, {})",
        ident(&name(spec)),
        literal(&format!("{}-{}-{}-{}", spec.id, row.stream, row.shard, row.sn)),
        literal(&row.stream.to_string()),
        row.shard,
        row.sn,
        literal(&json),
        e.code.number(),
        literal(&e.message),
    );
    run(shared, &text).await.map(|_| ())
}

/// The row as JSON; of a message that may not even parse, its payload.
async fn read(shared: &Arc<Shared>, spec: &ViewSpec, row: &BadRow) -> Result<String> {
    let snapshot = shared.catalog.snapshot();
    let relation = snapshot.expect_relation(&row.stream.database, &row.stream.name)?;
    if let RelationKind::External { .. } = relation.kind {
        let picked = partitions(spec.settings.get("shards").map_or("", String::as_str))?;
        let partition = match picked {
            Some(picked) => picked.get(row.shard).copied().unwrap_or_default(),
            None => row.shard as i32,
        };
        let open = shared.externals.get(relation, &shared.compiler())?;
        let payload = open.stream.raw(partition, row.sn).await?;
        return Ok(payload.map_or_else(String::new, |p| String::from_utf8_lossy(&p).into_owned()));
    }
    let text = format!(
        "SELECT * FROM table({}) WHERE _tp_sn = {} AND _tp_shard = {}",
        ident(&row.stream),
        row.sn,
        row.shard
    );
    let Outcome::Rows(mut rows) = run(shared, &text).await? else {
        return Err(err!(LogicalError, "a SELECT without rows"));
    };
    let failed =
        |e: weir_format::FormatError| err!(LogicalError, "the row could not be written as JSON: {e}");
    let mut encoder =
        weir_format::encoder("JSONEachRow", rows.schema.clone(), &rows.format_settings).map_err(failed)?;
    let mut out = Vec::new();
    encoder.begin(&mut out).map_err(failed)?;
    while let Some(batch) = rows.batches.next().await {
        encoder.batch(&batch?, &mut out).map_err(failed)?;
    }
    encoder.end(&ResultStats::default(), &mut out).map_err(failed)?;
    Ok(String::from_utf8_lossy(&out).trim_end().to_owned())
}
