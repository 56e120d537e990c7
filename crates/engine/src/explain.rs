//! EXPLAIN: how a statement would run, and why a running one gives nothing.

use crate::engine::Statement;
use crate::outcome::Outcome;
use crate::query::why;
use crate::system::Columns;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::displayable;
use std::sync::Arc;
use weir_base::{Result, err};
use weir_plan::{EmitPolicy, StartPosition, StreamNode, StreamPlan, WindowTime};
use weir_sql::ast::{ExplainKind, InsertSource, Statement as Ast};
use weir_sql::bind::errors::from_datafusion;
use weir_sql::stream;

pub(crate) async fn explain(cx: &Statement, kind: ExplainKind, statement: Ast) -> Result<Outcome> {
    if kind == ExplainKind::Ast {
        return lines(cx, &format!("{statement:#?}"));
    }
    let query = match statement {
        Ast::Query(query) => query,
        Ast::Insert(insert) => match insert.source {
            InsertSource::Select(query) => query,
            _ => return Err(err!(NotImplemented, "EXPLAIN of an INSERT without SELECT has nothing to say")),
        },
        _ => return Err(err!(NotImplemented, "EXPLAIN takes a query")),
    };
    if kind == ExplainKind::Syntax {
        return lines(cx, &query.to_string());
    }
    let bound = cx.bind(&query, false)?;
    let state = cx.state()?;
    if bound.unbounded {
        let plan = stream::lower(bound, &state)?;
        return lines(cx, &stream_text(&plan));
    }
    let optimized = state.optimize(&bound.plan).map_err(from_datafusion)?;
    let physical = state.create_physical_plan(&bound.plan).await.map_err(from_datafusion)?;
    let text = match kind {
        ExplainKind::Pipeline => displayable(&*physical).indent(true).to_string(),
        _ => format!(
            "logical plan (bounded)\n{}\nphysical plan\n{}",
            optimized.display_indent(),
            displayable(&*physical).indent(false)
        ),
    };
    lines(cx, &text)
}

/// `EXPLAIN WHY 'query_id'`.
///
/// # Errors
/// Code 36 for an id that does not run.
pub(crate) fn explain_why(cx: &Statement, query_id: &str) -> Result<Outcome> {
    let queries = &cx.shared.queries;
    let info = queries.expect(query_id)?.info();
    lines(cx, &why(&info, cx.shared.world.clock.now_us()).join("\n"))
}

fn lines(cx: &Statement, text: &str) -> Result<Outcome> {
    cx.rows(Columns::default().text("explain", text.lines()))
}

fn stream_text(plan: &StreamPlan) -> String {
    let mut out = format!("stream plan (unbounded), replay order {:?}", plan.replay_order);
    if plan.state.threads > 0 {
        out += &format!(", state in {} parts", plan.state.threads);
    }
    if plan.state.ttl_us > 0 {
        out += &format!(", keys forgotten after {} s", plan.state.ttl_us / 1_000_000);
    }
    out.push('\n');
    node_text(&plan.root, 0, &mut out);
    out
}

fn listed(exprs: &[Arc<dyn PhysicalExpr>]) -> String {
    exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One line a node: what it is, how time passes it, what it keeps, what it does.
fn node_text(node: &StreamNode, depth: usize, out: &mut String) {
    // A LIMIT ends the stream, everything below and beside it does not.
    let bounded =
        if matches!(node, StreamNode::Limit { fetch: Some(_), .. }) { "bounded" } else { "unbounded" };
    *out += &format!(
        "{}{}: {bounded} #{}, watermark: {}, state: {}; {}\n",
        "  ".repeat(depth),
        node.name(),
        node.id().0,
        watermark(node),
        state(node),
        detail(node)
    );
    for input in node.inputs() {
        node_text(input, depth + 1, out);
    }
}

/// How a node is named in a sentence.
pub(crate) fn about(node: &StreamNode) -> String {
    match node {
        StreamNode::Aggregate { emit, .. } => format!("{} (EMIT {emit})", node.name()),
        _ => format!("{} {}", node.name(), detail(node)),
    }
}

/// Whether a watermark leaves the node upwards.
fn passes(node: &StreamNode) -> bool {
    match node {
        StreamNode::Source { spec, .. } => spec.watermark.is_some(),
        StreamNode::Aggregate { window: Some(w), .. } => w.passes.is_some(),
        StreamNode::Aggregate { .. } | StreamNode::Lives { .. } | StreamNode::Substreams { .. } => false,
        other => other.inputs().into_iter().all(passes),
    }
}

fn watermark(node: &StreamNode) -> String {
    match node {
        StreamNode::Source { spec, .. } => match &spec.watermark {
            None => "none".into(),
            Some(w) => format!(
                "{} - {} ms of the slowest shard that is not idle (after {} ms)",
                w.time,
                w.delay_ns / 1_000_000,
                w.idle_timeout_us / 1_000
            ),
        },
        StreamNode::Aggregate { window: Some(w), .. } if w.passes.is_some() => {
            "closes windows, passes as far as no open one has an earlier bound".into()
        }
        StreamNode::Aggregate { window: Some(_), .. } => "closes windows, ends here".into(),
        StreamNode::Substreams { .. } => "closes windows of each key by its own, ends here".into(),
        StreamNode::Lives { .. } => "ends here".into(),
        StreamNode::Union { .. } if passes(node) => "the least of its inputs".into(),
        other if passes(other) => "passes".into(),
        _ => "none".into(),
    }
}

fn state(node: &StreamNode) -> &'static str {
    match node {
        StreamNode::Source { spec, .. } if spec.watermark.is_some() => "a watermark a shard",
        StreamNode::Source { .. } => "its position",
        StreamNode::Aggregate { window: Some(_), .. } => "keys of each window until it closes, spills",
        StreamNode::Aggregate { keys, .. } if keys.is_empty() => "one row",
        StreamNode::Aggregate { emit, .. } if emit.policy == EmitPolicy::Complete => "none between batches",
        StreamNode::Aggregate { .. } => "keys over the whole stream, spills",
        StreamNode::Substreams { .. } => "keys of each window until it closes",
        StreamNode::Over { .. } => "earlier values of each partition, spills",
        StreamNode::Dedup { .. } => "keys that came, spills",
        StreamNode::Lives { .. } => "rows of keys that live, spills",
        StreamNode::Limit { .. } | StreamNode::EmitVersion { .. } => "a count",
        StreamNode::Window { session: Some(_), .. } => "rows of open sessions, spills",
        StreamNode::Weights { retracted: Some(_), .. } => "places of the rows that are there, spills",
        StreamNode::Changelog { .. } => "the last row of each key, spills",
        StreamNode::Filter { .. }
        | StreamNode::Project { .. }
        | StreamNode::Union { .. }
        | StreamNode::Window { .. }
        | StreamNode::Weights { .. }
        | StreamNode::Rank { .. }
        | StreamNode::Sort { .. }
        | StreamNode::Delta { .. } => "none",
    }
}

/// Where a source begins, in words.
pub(crate) fn start(start: &StartPosition) -> String {
    match start {
        StartPosition::Latest => "its start on".into(),
        StartPosition::Earliest => "the earliest row".into(),
        StartPosition::EventTime(at) => {
            let at = chrono::DateTime::from_timestamp_millis(at.0);
            at.map_or_else(String::new, |at| at.format("event time %Y-%m-%d %H:%M:%S%.3f").to_string())
        }
        StartPosition::SeqNo(all) | StartPosition::Restored(all) => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            format!("sequence number {}", all.join(", "))
        }
    }
}

fn detail(node: &StreamNode) -> String {
    match node {
        StreamNode::Source { spec, .. } => format!(
            "{}.{}, columns [{}], from {}{}",
            spec.database,
            spec.relation,
            spec.columns.join(", "),
            start(&spec.start),
            spec.prune.as_ref().map_or_else(String::new, |p| format!(", prune {p}")),
        ),
        StreamNode::Filter { predicate, .. } => predicate.to_string(),
        StreamNode::Project { exprs, .. } => {
            exprs.iter().map(|p| format!("{} AS {}", p.expr, p.name)).collect::<Vec<_>>().join(", ")
        }
        StreamNode::Union { inputs, .. } => format!("{} inputs", inputs.len()),
        StreamNode::Window { spec, time, session, .. } => {
            let time = match time {
                WindowTime::Event(time) => time.to_string(),
                WindowTime::Processing => "the clock".to_owned(),
            };
            let keys = session.as_ref().map(|s| s.keys.iter().map(ToString::to_string).collect::<Vec<_>>());
            let by = keys.map_or_else(String::new, |keys| format!(", by [{}]", keys.join(", ")));
            format!("{spec} over {time}{by}")
        }
        StreamNode::Aggregate { keys, aggregates, emit, .. } => {
            let keys: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
            let aggregates: Vec<String> = aggregates.iter().map(ToString::to_string).collect();
            format!("by [{}]: {}; emit {emit}", keys.join(", "), aggregates.join(", "))
        }
        StreamNode::Lives { spec, .. } => spec.to_string(),
        StreamNode::EmitVersion { each_row: true, .. } => "a number a row".to_owned(),
        StreamNode::EmitVersion { .. } => "a number an emission".to_owned(),
        StreamNode::Weights { at, retracted, input, .. } => {
            let held =
                retracted.as_ref().map_or("", |_| ", a row that takes back stands where the other does");
            format!("weight {}{held}", input.schema().field(*at).name())
        }
        StreamNode::Changelog { spec, .. } => {
            let keys: Vec<String> = spec.keys.iter().map(ToString::to_string).collect();
            let version = spec.version.as_ref();
            let late = version.map_or_else(String::new, |v| format!(", rows late by {v} dropped"));
            format!("by [{}]{late}", keys.join(", "))
        }
        StreamNode::Over { spec, .. } => {
            let functions: Vec<String> = spec.functions.iter().map(ToString::to_string).collect();
            format!("{} by [{}] in log order", functions.join(", "), listed(&spec.partition))
        }
        StreamNode::Substreams { partition, of, .. } => {
            let keys: Vec<_> = partition.iter().map(|p| p.name.as_str()).collect();
            let mut inner = String::new();
            if let StreamNode::Aggregate { keys, aggregates, emit, .. } = &**of {
                let by: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
                let aggregates: Vec<String> = aggregates.iter().map(ToString::to_string).collect();
                inner = format!(" by [{}]: {}; emit {emit}", by.join(", "), aggregates.join(", "));
            }
            format!("a watermark for each [{}], {}{inner}", keys.join(", "), of.name())
        }
        StreamNode::Dedup { spec, .. } => format!(
            "first row of [{}]{}{}",
            listed(&spec.keys),
            spec.ttl_us.map_or_else(String::new, |us| format!(", forgotten after {} ms", us / 1_000)),
            spec.keys_max.map_or_else(String::new, |n| format!(", at most {n} keys"))
        ),
        StreamNode::Rank { spec, .. } => {
            let order: Vec<_> = spec.order.iter().map(|k| k.expr.clone()).collect();
            format!("each result set by [{}] ordered by [{}]", listed(&spec.partition), listed(&order))
        }
        StreamNode::Delta { .. } => "weights as a column".to_owned(),
        StreamNode::Sort { keys, .. } => {
            let key =
                |k: &weir_plan::SortKey| format!("{}{}", k.expr, if k.descending { " DESC" } else { "" });
            keys.iter().map(key).collect::<Vec<_>>().join(", ")
        }
        StreamNode::Limit { skip, fetch, .. } => match fetch {
            Some(fetch) => format!("skip {skip}, fetch {fetch}"),
            None => format!("skip {skip}"),
        },
    }
}
