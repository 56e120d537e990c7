//! What runs: queries and metrics.

use super::{Columns, Context};
use weir_base::Result;
use weir_base::metrics::MetricKind;

pub(crate) fn processes(cx: &Context) -> Result<Columns> {
    let all = cx.shared.queries.list();
    let operators = |q: &crate::query::QueryInfo| {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        q.operators
            .iter()
            .map(|(id, name, c)| format!("{}:{name} in={} out={}", id.0, load(&c.rows_in), load(&c.rows_out)))
            .collect::<Vec<_>>()
    };
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
        .int("memory_usage", all.iter().map(|q| q.memory_bytes as i64))
        .int("peak_memory_usage", all.iter().map(|q| q.memory_peak_bytes as i64))
        .texts("operators", all.iter().map(operators)))
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
