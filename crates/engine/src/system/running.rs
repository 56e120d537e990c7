//! What runs: queries and metrics.

use super::{Columns, Context};
use crate::query::{FinishedQuery, OperatorStatus, QueryInfo};
use weir_base::Result;
use weir_base::metrics::MetricKind;

pub(crate) fn processes(cx: &Context) -> Result<Columns> {
    let all = cx.shared.queries.list();
    let operator = |o: &OperatorStatus| {
        let mut text = format!("{}:{} in={} out={}", o.node, o.name, o.rows_in, o.rows_out);
        if let Some(watermark) = o.watermark {
            text += &format!(" watermark_ms={}", watermark.div_euclid(1_000_000));
        }
        let counts = [
            ("late", o.late_rows),
            ("future", o.future_rows),
            ("skipped", o.skipped_rows),
            ("expired", o.expired_keys),
            ("keys", o.keys),
            ("state_bytes", o.state_bytes),
        ];
        for (what, n) in counts.into_iter().filter(|(_, n)| *n > 0) {
            text += &format!(" {what}={n}");
        }
        text
    };
    let operators = |q: &QueryInfo| q.operators.iter().map(operator).collect();
    Ok(Columns::default()
        .text("query_id", all.iter().map(|q| &q.query_id))
        .text("user", all.iter().map(|q| &q.user))
        .text("current_database", all.iter().map(|q| &q.database))
        .text("query", all.iter().map(|q| &q.text))
        .flag("is_streaming", all.iter().map(|q| q.streaming))
        .text("state", all.iter().map(|q| q.state))
        .time_ms("started", all.iter().map(|q| q.started_us / 1_000))
        .float("elapsed", all.iter().map(|q| q.elapsed.as_secs_f64()))
        .uint("read_rows", all.iter().map(|q| q.read_rows))
        .uint("read_bytes", all.iter().map(|q| q.read_bytes))
        .uint("result_rows", all.iter().map(|q| q.result_rows))
        .uint("written_rows", all.iter().map(|q| q.written_rows))
        .uint("written_bytes", all.iter().map(|q| q.written_bytes))
        .int("memory_usage", all.iter().map(|q| q.memory_bytes as i64))
        .int("peak_memory_usage", all.iter().map(|q| q.memory_peak_bytes as i64))
        .texts("operators", all.iter().map(operators))
        .uint("rows_in", all.iter().map(|q| q.sums.rows_in))
        .uint("rows_out", all.iter().map(|q| q.sums.rows_out))
        .time_ns_or_null("watermark", all.iter().map(|q| q.sums.watermark))
        .int_or_null("lag_ms", all.iter().map(|q| q.sums.lag_ms))
        .uint("behind_rows", all.iter().map(|q| q.sums.behind_rows))
        .uint("late_rows", all.iter().map(|q| q.sums.late_rows))
        .uint("future_rows", all.iter().map(|q| q.sums.future_rows))
        .uint("skipped_rows", all.iter().map(|q| q.sums.skipped_rows))
        .uint("expired_keys", all.iter().map(|q| q.sums.expired_keys))
        .uint("keys", all.iter().map(|q| q.sums.keys))
        .uint("state_bytes", all.iter().map(|q| q.sums.state_bytes))
        .uint("waiting_rows", all.iter().map(|q| q.waiting_rows)))
}

/// One row a running streaming query and operator, in the order of the plan.
pub(super) fn query_operators(cx: &Context) -> Result<Columns> {
    let queries = cx.shared.queries.list();
    let all: Vec<(&QueryInfo, &OperatorStatus)> =
        queries.iter().flat_map(|q| q.operators.iter().map(move |o| (q, o))).collect();
    let now_us = cx.shared.world.clock.now_us();
    let each = || all.iter().map(|(_, o)| *o);
    Ok(Columns::default()
        .text("query_id", all.iter().map(|(q, _)| &q.query_id))
        .uint("node", each().map(|o| u64::from(o.node)))
        .uint_or_null("parent", each().map(|o| o.parent.map(u64::from)))
        .text("name", each().map(|o| o.name))
        .uint("rows_in", each().map(|o| o.rows_in))
        .uint("rows_out", each().map(|o| o.rows_out))
        .uint("batches", each().map(|o| o.batches))
        .time_ns_or_null("watermark", each().map(|o| o.watermark))
        .int_or_null("lag_ms", each().map(|o| o.lag_ms(now_us)))
        .uint_or_null("behind_rows", each().map(|o| o.read.map(|r| r.behind_rows)))
        .uint("late_rows", each().map(|o| o.late_rows))
        .uint("future_rows", each().map(|o| o.future_rows))
        .uint("skipped_rows", each().map(|o| o.skipped_rows))
        .uint("expired_keys", each().map(|o| o.expired_keys))
        .uint("keys", each().map(|o| o.keys))
        .uint("state_bytes", each().map(|o| o.state_bytes))
        .uint("busy_ns", each().map(|o| o.busy_ns))
        .flag("is_idle", each().map(|o| o.idle))
        .time_ns_or_null("last_rows", each().map(|o| o.came_us.map(|us| us.saturating_mul(1_000)))))
}

/// Statements that ended, the newest last.
pub(super) fn query_log(cx: &Context) -> Result<Columns> {
    let all = cx.shared.history.finished();
    let outcome = |q: &FinishedQuery| match (&q.error, q.began) {
        (None, _) => "QueryFinish",
        (Some(_), true) => "ExceptionWhileProcessing",
        (Some(_), false) => "ExceptionBeforeStart",
    };
    let ended_us = |q: &FinishedQuery| q.started_us.saturating_add(q.duration.as_micros() as i64);
    let code = |q: &FinishedQuery| q.error.as_ref().map_or(0, |(code, _)| i64::from(code.number()));
    let error = |q: &FinishedQuery| q.error.as_ref().map_or_else(String::new, |(_, text)| text.clone());
    Ok(Columns::default()
        .text("type", all.iter().map(outcome))
        .time_ms("event_time", all.iter().map(|q| ended_us(q) / 1_000))
        .time_ms("query_start_time", all.iter().map(|q| q.started_us / 1_000))
        .uint("query_duration_ms", all.iter().map(|q| q.duration.as_millis() as u64))
        .text("query_id", all.iter().map(|q| &q.about.query_id))
        .text("query_kind", all.iter().map(|q| q.about.kind))
        .text("query", all.iter().map(|q| &q.about.text))
        .text("user", all.iter().map(|q| &q.about.user))
        .text("current_database", all.iter().map(|q| &q.about.database))
        .flag("is_streaming", all.iter().map(|q| q.about.streaming))
        .uint("read_rows", all.iter().map(|q| q.read_rows))
        .uint("read_bytes", all.iter().map(|q| q.read_bytes))
        .uint("written_rows", all.iter().map(|q| q.written_rows))
        .uint("written_bytes", all.iter().map(|q| q.written_bytes))
        .uint("result_rows", all.iter().map(|q| q.result_rows))
        .uint("memory_usage", all.iter().map(|q| q.memory_peak_bytes))
        .int("exception_code", all.iter().map(code))
        .text("exception", all.iter().map(error)))
}

/// What was to be said of queries that is no error, the newest last.
pub(super) fn query_warnings(cx: &Context) -> Result<Columns> {
    let all = cx.shared.history.warnings();
    Ok(Columns::default()
        .time_ms("event_time", all.iter().map(|w| w.at_us / 1_000))
        .text("query_id", all.iter().map(|w| &w.query_id))
        .text("query", all.iter().map(|w| &w.query))
        .text("warning", all.iter().map(|w| &w.warning)))
}

/// Rows that windows left out, the newest of each query last.
pub(super) fn late_rows(cx: &Context) -> Result<Columns> {
    let all = cx.shared.queries.late.all();
    Ok(Columns::default()
        .text("query_id", all.iter().map(|r| &r.query_id))
        .int("shard", all.iter().map(|r| i64::from(r.shard)))
        .int("sn", all.iter().map(|r| r.sn))
        .time_ms("event_time", all.iter().map(|r| r.event_time_ns.div_euclid(1_000_000)))
        .time_ms("watermark", all.iter().map(|r| r.watermark_ns.div_euclid(1_000_000))))
}

pub(super) fn metrics(cx: &Context) -> Result<Columns> {
    let all = cx.shared.metrics.all();
    Ok(Columns::default()
        .text("metric", all.iter().map(|m| m.name))
        .int("value", all.iter().map(|m| m.metric.get()))
        .text("description", all.iter().map(|m| m.help))
        .text("name", all.iter().map(|m| m.name))
        .text(
            "kind",
            all.iter().map(|m| match m.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
            }),
        ))
}
