//! EXPLAIN: how a statement would run.

use crate::engine::Statement;
use crate::outcome::Outcome;
use crate::system::Columns;
use datafusion::physical_plan::displayable;
use weir_base::{Result, err};
use weir_plan::{StreamNode, StreamPlan};
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

fn lines(cx: &Statement, text: &str) -> Result<Outcome> {
    cx.rows(Columns::default().text("explain", text.lines()))
}

fn stream_text(plan: &StreamPlan) -> String {
    let mut out = format!("stream plan (unbounded), replay order {:?}\n", plan.replay_order);
    node_text(&plan.root, 0, &mut out);
    out
}

fn node_text(node: &StreamNode, depth: usize, out: &mut String) {
    let detail = match node {
        StreamNode::Source { spec, .. } => format!(
            "{}.{}, columns [{}], start {:?}{}{}",
            spec.database,
            spec.relation,
            spec.columns.join(", "),
            spec.start,
            spec.prune.as_ref().map_or_else(String::new, |p| format!(", prune {p}")),
            spec.watermark.as_ref().map_or_else(String::new, |w| format!(
                ", watermark {} - {} ms, idle after {} ms",
                w.time,
                w.delay_ns / 1_000_000,
                w.idle_timeout_us / 1_000
            ))
        ),
        StreamNode::Filter { predicate, .. } => predicate.to_string(),
        StreamNode::Project { exprs, .. } => {
            exprs.iter().map(|p| format!("{} AS {}", p.expr, p.name)).collect::<Vec<_>>().join(", ")
        }
        StreamNode::Union { inputs, .. } => format!("{} inputs", inputs.len()),
        StreamNode::Window { spec, time, .. } => format!("{spec} over {time}"),
        StreamNode::Aggregate { keys, aggregates, emit, .. } => {
            let keys: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
            let aggregates: Vec<String> = aggregates.iter().map(ToString::to_string).collect();
            format!("by [{}]: {}; emit {emit}", keys.join(", "), aggregates.join(", "))
        }
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
    };
    // A LIMIT ends the stream, everything below and beside it does not.
    let bounded =
        if matches!(node, StreamNode::Limit { fetch: Some(_), .. }) { "bounded" } else { "unbounded" };
    *out += &format!("{}{}: {} #{} {detail}\n", "  ".repeat(depth), node.name(), bounded, node.id().0);
    for input in node.inputs() {
        node_text(input, depth + 1, out);
    }
}
