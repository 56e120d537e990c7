//! What the operators of a running query say of themselves, in the order of its plan: for
//! `system.query_operators`, `system.queries` and `EXPLAIN WHY`.
//!
//! Reads counters only: a query does not notice being looked at.

use crate::source::SourceRead;
use std::sync::atomic::Ordering::Relaxed;
use weir_plan::{NodeId, QueryCounters, ShardProgress, StreamNode};

/// One operator at one moment. Event times are nanoseconds, others microseconds since the epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorStatus {
    pub node: u32,
    /// `None` = its rows are the query's.
    pub parent: Option<u32>,
    pub name: &'static str,
    pub rows_in: u64,
    pub rows_out: u64,
    pub batches: u64,
    pub busy_ns: u64,
    pub late_rows: u64,
    pub future_rows: u64,
    pub skipped_rows: u64,
    pub expired_keys: u64,
    pub keys: u64,
    pub state_bytes: u64,
    pub idle: bool,
    pub watermark: Option<i64>,
    /// When the watermark last rose.
    pub rose_us: Option<i64>,
    /// When rows last came in.
    pub came_us: Option<i64>,
    /// The watermark at which something held leaves.
    pub waits_for: Option<i64>,
    /// When the next emission is due.
    pub due_us: Option<i64>,
    /// Of a source, per shard, where it judges rows.
    pub shards: Vec<ShardProgress>,
    /// Of a source.
    pub read: Option<SourceRead>,
    pub backfilled: bool,
}

impl OperatorStatus {
    /// Now less the watermark, milliseconds.
    pub fn lag_ms(&self, now_us: i64) -> Option<i64> {
        lag_ms(self.watermark, now_us)
    }
}

fn lag_ms(watermark: Option<i64>, now_us: i64) -> Option<i64> {
    let at = watermark.filter(|at| *at != i64::MAX)?;
    Some(now_us.div_euclid(1_000).saturating_sub(at.div_euclid(1_000_000)))
}

/// Of a whole query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorSums {
    /// Of sources.
    pub rows_in: u64,
    /// Of the topmost operator.
    pub rows_out: u64,
    /// The least of sources that have one.
    pub watermark: Option<i64>,
    pub lag_ms: Option<i64>,
    /// Durable and not read yet.
    pub behind_rows: u64,
    pub late_rows: u64,
    pub future_rows: u64,
    pub skipped_rows: u64,
    pub expired_keys: u64,
    pub keys: u64,
    pub state_bytes: u64,
}

impl OperatorSums {
    pub fn of(all: &[OperatorStatus], now_us: i64) -> Self {
        let sum = |f: fn(&OperatorStatus) -> u64| all.iter().map(f).sum();
        let sources = || all.iter().filter(|o| o.read.is_some());
        let watermark = sources().filter_map(|o| o.watermark).min();
        OperatorSums {
            rows_in: sources().map(|o| o.rows_in).sum(),
            rows_out: all.iter().filter(|o| o.parent.is_none()).map(|o| o.rows_out).sum(),
            watermark,
            lag_ms: lag_ms(watermark, now_us),
            behind_rows: sources().filter_map(|o| o.read).map(|r| r.behind_rows).sum(),
            late_rows: sum(|o| o.late_rows),
            future_rows: sum(|o| o.future_rows),
            skipped_rows: sum(|o| o.skipped_rows),
            expired_keys: sum(|o| o.expired_keys),
            keys: sum(|o| o.keys),
            state_bytes: sum(|o| o.state_bytes),
        }
    }
}

/// Every operator of a plan; counters of one node are added up where several threads run it.
pub(super) fn statuses(
    plan: &StreamNode,
    counters: &[super::registry::OperatorInfo],
    read: impl Fn(NodeId, u64, bool) -> SourceRead,
) -> Vec<OperatorStatus> {
    let mut all = Vec::new();
    walk(plan, None, counters, &read, &mut all);
    all
}

fn walk(
    node: &StreamNode,
    parent: Option<u32>,
    counters: &[super::registry::OperatorInfo],
    read: &impl Fn(NodeId, u64, bool) -> SourceRead,
    all: &mut Vec<OperatorStatus>,
) {
    let id = node.id();
    let mut status = OperatorStatus { node: id.0, parent, name: node.name(), ..OperatorStatus::default() };
    let mut found = false;
    for (_, _, c) in counters.iter().filter(|(n, ..)| *n == id) {
        status.add(c, !found);
        found = true;
    }
    if let StreamNode::Source { .. } = node {
        status.read = Some(read(id, status.rows_in, status.backfilled));
    }
    all.push(status);
    for input in node.inputs() {
        walk(input, Some(id.0), counters, read, all);
    }
}

impl OperatorStatus {
    fn add(&mut self, c: &QueryCounters, first: bool) {
        let known = |v: i64, never: i64| (v != never).then_some(v);
        let least = |a: Option<i64>, b: Option<i64>| if first { b } else { a.and_then(|a| Some(a.min(b?))) };
        self.rows_in += c.rows_in.load(Relaxed);
        self.rows_out += c.rows_out.load(Relaxed);
        self.batches += c.batches_in.load(Relaxed);
        self.busy_ns += c.busy_ns.load(Relaxed);
        self.late_rows += c.late_rows.load(Relaxed);
        self.future_rows += c.future_rows.load(Relaxed);
        self.skipped_rows += c.skipped_rows.load(Relaxed);
        self.expired_keys += c.expired_keys.load(Relaxed);
        self.keys += c.keys.load(Relaxed);
        self.state_bytes += c.state_bytes.load(Relaxed);
        self.idle = c.idle.load(Relaxed) && (first || self.idle);
        self.backfilled = c.backfilled.load(Relaxed) && (first || self.backfilled);
        self.watermark = least(self.watermark, known(c.watermark.load(Relaxed), i64::MIN));
        self.rose_us = self.rose_us.max(known(c.rose_us.load(Relaxed), i64::MIN));
        self.came_us = self.came_us.max(known(c.came_us.load(Relaxed), i64::MIN));
        let min = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
        self.waits_for = min(self.waits_for, known(c.waits_for.load(Relaxed), i64::MAX));
        self.due_us = min(self.due_us, known(c.due_us.load(Relaxed), i64::MAX));
        self.shards.extend(c.shards());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_sources_of_the_top_and_of_all() {
        let read = |behind_rows| Some(SourceRead { behind_rows, history_rows: 0 });
        let all = [
            OperatorStatus { name: "Aggregate", rows_in: 7, rows_out: 2, keys: 3, ..Default::default() },
            OperatorStatus {
                name: "Source",
                node: 1,
                parent: Some(0),
                rows_in: 9,
                rows_out: 9,
                late_rows: 1,
                watermark: Some(5_000_000_000),
                read: read(4),
                ..Default::default()
            },
        ];
        let sums = OperatorSums::of(&all, 7_000_000);
        assert_eq!((sums.rows_in, sums.rows_out, sums.keys, sums.late_rows), (9, 2, 3, 1));
        assert_eq!((sums.watermark, sums.lag_ms, sums.behind_rows), (Some(5_000_000_000), Some(2_000), 4));
    }
}
