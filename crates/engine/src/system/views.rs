//! Materialized views: what each does now, and what happened to them; queries that keep checkpoints.

use super::{Columns, Context};
use weir_base::Result;

pub(super) fn materialized_views(cx: &Context) -> Result<Columns> {
    let all = cx.shared.views.list(&cx.shared);
    let ms = |us: u64| us as f64 / 1_000.0;
    Ok(Columns::default()
        .text("database", all.iter().map(|v| &v.database))
        .text("name", all.iter().map(|v| &v.name))
        .text("uuid", all.iter().map(|v| &v.id))
        .text("state", all.iter().map(|v| v.state))
        .text("query", all.iter().map(|v| &v.query))
        .text("target", all.iter().map(|v| &v.target))
        .text("query_id", all.iter().map(|v| &v.query_id))
        .text("last_error", all.iter().map(|v| &v.last_error))
        .int("last_error_code", all.iter().map(|v| v.last_error_code))
        .time_ns_or_null(
            "last_error_time",
            all.iter().map(|v| v.last_error_us.map(|us| us.saturating_mul(1_000))),
        )
        .int_or_null("error_shard", all.iter().map(|v| v.error_row.map(|(shard, _)| shard as i64)))
        .int_or_null("error_sn", all.iter().map(|v| v.error_row.map(|(_, sn)| sn as i64)))
        .uint("failures", all.iter().map(|v| v.failures))
        .uint("restarts", all.iter().map(|v| v.restarts))
        .uint("skipped_rows", all.iter().map(|v| v.skipped_rows))
        .uint("lag_rows", all.iter().map(|v| v.lag_rows))
        .int_or_null("lag_ms", all.iter().map(|v| v.lag_ms))
        .uint("rows_in", all.iter().map(|v| v.rows_in))
        .uint("rows_written", all.iter().map(|v| v.rows_written))
        .uint("keys", all.iter().map(|v| v.keys))
        .uint("state_bytes", all.iter().map(|v| v.state_bytes))
        .uint("late_rows", all.iter().map(|v| v.late_rows))
        .uint("checkpoint_epoch", all.iter().map(|v| v.checkpoint.epoch))
        .uint("checkpoint_written_bytes", all.iter().map(|v| v.checkpoint.written_bytes))
        .uint("checkpoint_bytes", all.iter().map(|v| v.checkpoint.bytes))
        .float("checkpoint_ms", all.iter().map(|v| ms(v.checkpoint.took_us)))
        .float("checkpoint_stopped_ms", all.iter().map(|v| ms(v.checkpoint.stopped_us)))
        .float("checkpoint_age_s", all.iter().map(|v| v.checkpoint_age_s.unwrap_or(-1.0))))
}

/// The newest last.
pub(super) fn view_log(cx: &Context) -> Result<Columns> {
    let all = cx.shared.views.events();
    Ok(Columns::default()
        .time_ms("event_time", all.iter().map(|e| e.at_us / 1_000))
        .text("database", all.iter().map(|e| &e.database))
        .text("view", all.iter().map(|e| &e.view))
        .text("event", all.iter().map(|e| &e.event))
        .text("detail", all.iter().map(|e| &e.detail)))
}

/// Queries that keep checkpoints under their id.
pub(super) fn subscriptions(cx: &Context) -> Result<Columns> {
    let all = cx.shared.subscriptions.list();
    let ms = |us: i64| us / 1_000;
    Ok(Columns::default()
        .text("query_id", all.iter().map(|s| &s.about.query_id))
        .text("state", all.iter().map(|s| s.state))
        .text("database", all.iter().map(|s| &s.about.database))
        .text("query", all.iter().map(|s| &s.about.text))
        .time_ms("created", all.iter().map(|s| ms(s.about.created_us)))
        .time_ms("used", all.iter().map(|s| ms(s.about.used_us)))
        .uint("checkpoint_epoch", all.iter().map(|s| s.about.epoch))
        .uint("checkpoint_bytes", all.iter().map(|s| s.about.bytes))
        .time_ms("checkpoint_time", all.iter().map(|s| ms(s.about.at_us))))
}
