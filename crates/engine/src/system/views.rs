//! Materialized views: what each does now, and what happened to them; queries that keep checkpoints, tasks, alerts.

use super::{Columns, Context};
use std::sync::atomic::{AtomicU64, Ordering};
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

pub(super) fn tasks(cx: &Context) -> Result<Columns> {
    let all = cx.shared.views.list_tasks();
    let ms = |us: Option<i64>| us.map(|us| us.saturating_mul(1_000));
    Ok(Columns::default()
        .text("database", all.iter().map(|t| &t.job.database))
        .text("name", all.iter().map(|t| &t.job.name))
        .text("state", all.iter().map(|t| t.state))
        .text("query", all.iter().map(|t| &t.job.select))
        .text("target", all.iter().map(|t| &t.target))
        .int("schedule_ms", all.iter().map(|t| t.every_us / 1_000))
        .int_or_null("timeout_ms", all.iter().map(|t| t.timeout_us.map(|us| us / 1_000)))
        .time_ns_or_null("next_run", all.iter().map(|t| ms(t.next_us)))
        .time_ns_or_null("last_run", all.iter().map(|t| ms(t.last_us)))
        .float("last_run_ms", all.iter().map(|t| t.last_took_us as f64 / 1_000.0))
        .uint("runs", all.iter().map(|t| t.runs))
        .uint("failures", all.iter().map(|t| t.failures))
        .uint("rows_written", all.iter().map(|t| t.rows))
        .text("last_error", all.iter().map(|t| &t.last_error)))
}

pub(super) fn alerts(cx: &Context) -> Result<Columns> {
    let all = cx.shared.views.list_alerts(&cx.shared);
    let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
    Ok(Columns::default()
        .text("database", all.iter().map(|a| &a.database))
        .text("name", all.iter().map(|a| &a.name))
        .text("state", all.iter().map(|a| a.state))
        .text("query", all.iter().map(|a| &a.query))
        .text("url", all.iter().map(|a| &a.target))
        .uint("rows_in", all.iter().map(|a| a.rows_in))
        .uint("delivered", all.iter().map(|a| load(&a.calls.delivered)))
        .uint("delivered_rows", all.iter().map(|a| load(&a.calls.delivered_rows)))
        .uint("suppressed_rows", all.iter().map(|a| load(&a.calls.suppressed_rows)))
        .uint("failed_calls", all.iter().map(|a| load(&a.calls.failed)))
        .uint("last_status", all.iter().map(|a| load(&a.calls.last_status)))
        .text("last_call_error", all.iter().map(|a| a.calls.last_error.lock().clone()))
        .text("last_error", all.iter().map(|a| &a.last_error))
        .uint("lag_rows", all.iter().map(|a| a.lag_rows))
        .int_or_null("lag_ms", all.iter().map(|a| a.lag_ms))
        .uint("checkpoint_epoch", all.iter().map(|a| a.checkpoint.epoch)))
}
