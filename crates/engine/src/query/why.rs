//! `EXPLAIN WHY`: why a running query gives no rows now, in sentences, the likeliest reason first.
//!
//! Pure: a function of what the query's operators say of themselves and of the time.
//!
//! Not here: how that is gathered (`operators`), the plan's tree (`explain`).

use super::operators::OperatorStatus;
use super::registry::QueryInfo;
use crate::explain::about;
use chrono::DateTime;
use std::time::Duration;
use weir_plan::{EmitPolicy, NodeId, ShardProgress, SourceSpec, StreamNode};

/// How sure a sentence is to be the reason; smaller comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Nothing can come as long as this holds.
    Stops,
    /// Rows are held until something happens.
    Holds,
    /// Rows were lost on the way.
    Loses,
    /// Nothing is there to be given.
    Quiet,
    /// No reason, only what is.
    Fact,
}

/// The reasons of a query. `now_us` is the time at which its numbers were taken.
pub(crate) fn why(q: &QueryInfo, now_us: i64) -> Vec<String> {
    let mut why = Why { q, now_us, all: Vec::new() };
    if !q.streaming {
        why.say(
            Rank::Stops,
            format!("It is no streaming query: it is {} and gives its rows as it finds them.", q.state),
        );
        return why.sorted();
    }
    let Some(plan) = &q.plan else {
        why.say(
            Rank::Stops,
            format!("It is {}: its sources are not open yet, or are closed already.", q.state),
        );
        return why.sorted();
    };
    if q.state != "Running" {
        why.say(Rank::Stops, format!("It is {}.", q.state));
    }
    why.output();
    why.node(plan);
    why.what_left();
    why.sorted()
}

struct Why<'a> {
    q: &'a QueryInfo,
    now_us: i64,
    all: Vec<(Rank, String)>,
}

impl Why<'_> {
    fn say(&mut self, rank: Rank, what: String) {
        self.all.push((rank, what));
    }

    fn sorted(mut self) -> Vec<String> {
        self.all.sort_by_key(|(rank, _)| *rank);
        self.all.into_iter().map(|(_, what)| what).collect()
    }

    fn of(&self, id: NodeId) -> OperatorStatus {
        self.q.operators.iter().find(|o| o.node == id.0).cloned().unwrap_or_default()
    }

    fn ago(&self, at_us: i64) -> String {
        span(self.now_us.saturating_sub(at_us).saturating_mul(1_000))
    }

    /// The reader.
    fn output(&mut self) {
        if let Some(since) = self.q.full_since_us {
            self.say(
                Rank::Stops,
                format!(
                    "Its reader does not take what is there: {} rows wait for it, and for {} the query has waited \
                     with them. Read faster, or raise output_buffer_bytes_max.",
                    self.q.waiting_rows,
                    self.ago(since)
                ),
            );
        }
    }

    fn node(&mut self, node: &StreamNode) {
        let status = self.of(node.id());
        match node {
            StreamNode::Source { spec, .. } => self.source(spec, &status),
            StreamNode::Filter { .. } => self.filter(node, &status),
            StreamNode::Limit { skip, fetch, .. } => self.limit(*skip, *fetch, &status),
            StreamNode::Aggregate { emit, window, .. } => {
                let backfilled = self.backfilled(node);
                if window.is_some_and(|w| !w.closed_below()) {
                    self.closing(node, &status);
                }
                self.emission(node, emit.policy, window.is_some(), backfilled, &status);
            }
            StreamNode::Window { session: Some(_), .. } | StreamNode::Substreams { .. } => {
                self.closing(node, &status);
            }
            StreamNode::Lives { .. } if status.keys > 0 => self.say(
                Rank::Holds,
                format!(
                    "{} keys live: their rows leave when these have expired ({}).",
                    status.keys,
                    about(node)
                ),
            ),
            _ => {}
        }
        if status.late_rows > 0 {
            self.say(
                Rank::Loses,
                format!(
                    "{} rows came when the watermark had passed their window and were left out (late_rows of node {}). \
                     EMIT … WITH DELAY makes windows wait longer.",
                    status.late_rows, status.node
                ),
            );
        }
        if status.skipped_rows > 0 {
            self.say(
                Rank::Loses,
                format!(
                    "{} rows were left out by {} (skipped_rows of node {}).",
                    status.skipped_rows,
                    about(node),
                    status.node
                ),
            );
        }
        for input in node.inputs() {
            self.node(input);
        }
    }

    fn backfilled(&self, node: &StreamNode) -> bool {
        node.sources().iter().all(|(id, _)| self.of(*id).backfilled)
    }

    fn source(&mut self, spec: &SourceSpec, s: &OperatorStatus) {
        let name = format!("{}.{}", spec.database, spec.relation);
        let read = s.read.unwrap_or_default();
        if !s.backfilled && read.history_rows > 0 {
            self.say(
                Rank::Holds,
                format!(
                    "History is still being read: {} of {} rows of {name}. Results over the whole stream leave at its \
                     end.",
                    s.rows_in.min(read.history_rows),
                    read.history_rows
                ),
            );
        } else if read.behind_rows > 0 {
            self.say(
                Rank::Holds,
                format!("{} rows of {name} are there and the query has not read them yet.", read.behind_rows),
            );
        }
        match s.came_us {
            None if read.behind_rows == 0 => self.say(
                Rank::Stops,
                format!(
                    "No row has come from {name} since the query started {} ago. It reads from {}; for rows that are \
                     there already use SETTINGS seek_to='earliest' or table({}).",
                    span(self.q.elapsed.as_nanos() as i64),
                    crate::explain::start(&spec.start),
                    spec.relation
                ),
            ),
            None => {}
            Some(at) => self.say(
                Rank::Quiet,
                format!("The last row came from {name} {} ago, {} rows so far.", self.ago(at), s.rows_in),
            ),
        }
        if s.future_rows > 0 {
            self.say(
                Rank::Loses,
                format!(
                    "{} rows of {name} lie so far ahead of their append time that they do not move the watermark \
                     (event_time_future_max_ms).",
                    s.future_rows
                ),
            );
        }
    }

    fn filter(&mut self, node: &StreamNode, s: &OperatorStatus) {
        let out = s.rows_in.saturating_sub(s.rows_out);
        if s.rows_in > 0 && s.rows_out == 0 {
            self.say(
                Rank::Stops,
                format!("{} has let none of its {} rows pass (node {}).", about(node), s.rows_in, s.node),
            );
        } else if out > 0 {
            let what = format!("{} has left out {out} of {} rows (node {}).", about(node), s.rows_in, s.node);
            self.say(Rank::Fact, what);
        }
    }

    fn limit(&mut self, skip: u64, fetch: Option<u64>, s: &OperatorStatus) {
        if s.rows_in > 0 && s.rows_out == 0 && s.rows_in <= skip {
            self.say(
                Rank::Stops,
                format!(
                    "OFFSET passes over the first {skip} rows; {} have come so far (node {}).",
                    s.rows_in, s.node
                ),
            );
        } else if let Some(fetch) = fetch.filter(|f| s.rows_out < *f) {
            self.say(
                Rank::Fact,
                format!("LIMIT ends the query after {fetch} rows; {} have left.", s.rows_out),
            );
        }
    }

    /// A window that is open, and what its end waits for.
    fn closing(&mut self, node: &StreamNode, s: &OperatorStatus) {
        let Some(end) = s.waits_for else {
            if s.rows_in > 0 {
                self.say(
                    Rank::Quiet,
                    "No window is open: every row that came lies in one that has closed.".into(),
                );
            }
            return;
        };
        let Some((id, spec)) = node.sources().into_iter().min_by_key(|(id, _)| self.of(*id).watermark) else {
            return;
        };
        let source = self.of(id);
        let delay_ns = spec.watermark.as_ref().map_or(0, |w| w.delay_ns);
        let wanted = end.saturating_add(delay_ns);
        let what = if matches!(node, StreamNode::Window { .. }) { "session" } else { "window" };
        let mut text =
            format!("The next {what} ends at {} and leaves when the watermark is there; ", time(end));
        match source.watermark {
            None => text += "there is no watermark yet. ",
            Some(at) => {
                let since = source.rose_us.map_or_else(String::new, |us| format!(" for {}", self.ago(us)));
                let missing = span(end.saturating_sub(at));
                text += &format!("it has been at {}{since}, {missing} are missing. ", time(at));
            }
        }
        text += &self.held_by(spec, &source, wanted);
        self.say(Rank::Holds, text);
    }

    /// Which shard keeps the watermark where it is.
    fn held_by(&self, spec: &SourceSpec, source: &OperatorStatus, wanted: i64) -> String {
        let name = format!("{}.{}", spec.database, spec.relation);
        let need = format!("a row with event time {} or later", time(wanted));
        let active: Vec<&ShardProgress> = source.shards.iter().filter(|s| !s.idle).collect();
        match (source.shards.len(), active.iter().min_by_key(|s| s.watermark)) {
            (0, _) => format!("{name} has given no row with an event time; it takes {need}."),
            (_, None) => format!(
                "Every shard of {name} is idle and the watermark stays until a row comes; it takes {need}."
            ),
            (1, Some(_)) => format!("{name} must give {need}."),
            (_, Some(least)) => {
                let idle_us = spec.watermark.as_ref().map_or(0, |w| w.idle_timeout_us);
                format!(
                    "Shard {} of {name} holds it back: its last row was appended {} ago. It takes {need} in that \
                     shard, or its silence for {} (watermark_idle_timeout_ms).",
                    least.shard,
                    self.ago(least.last_append_us),
                    span(idle_us.saturating_mul(1_000))
                )
            }
        }
    }

    /// What the emit policy waits for.
    fn emission(
        &mut self,
        node: &StreamNode,
        policy: EmitPolicy,
        windowed: bool,
        backfilled: bool,
        s: &OperatorStatus,
    ) {
        let timed =
            matches!(policy, EmitPolicy::Periodic { .. } | EmitPolicy::OnUpdate { every_us: Some(_) });
        if !timed || !backfilled {
            return;
        }
        match s.due_us {
            Some(due) => {
                let left = span(due.saturating_sub(self.now_us).max(0).saturating_mul(1_000));
                self.say(
                    Rank::Holds,
                    format!("{} holds {} keys; its next emission is due in {left}.", about(node), s.keys),
                );
            }
            None if s.rows_in > 0 && !windowed => {
                let what = format!("Nothing has changed since {} emitted last.", about(node));
                self.say(Rank::Quiet, what);
            }
            None => {}
        }
    }

    fn what_left(&mut self) {
        let (given, waiting) = (self.q.given_rows, self.q.waiting_rows);
        if given > 0 {
            let read = given.saturating_sub(waiting);
            self.say(
                Rank::Fact,
                format!("Rows do leave: {given} so far, of which its reader has taken {read}."),
            );
        }
    }
}

/// Nanoseconds since the epoch as text.
fn time(ns: i64) -> String {
    if ns == i64::MAX {
        return "the end of time".into();
    }
    DateTime::from_timestamp_nanos(ns).format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}

/// A length of time as people say it.
fn span(ns: i64) -> String {
    let d = Duration::from_nanos(ns.max(0) as u64);
    let s = d.as_secs();
    match s {
        0 => format!("{} ms", d.as_millis()),
        1..=119 => format!("{:.1} s", d.as_secs_f64()),
        120..=7_199 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3_600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests;
