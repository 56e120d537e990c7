//! What is said of queries in each of the states in which they give nothing.

use super::*;
use crate::query::OperatorSums;
use crate::source::SourceRead;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_expr::expressions::{Column, lit};
use std::sync::Arc;
use weir_plan::{EmitSpec, Span, StartPosition, WatermarkSpec, WindowKeys, WindowKind, WindowSpec};

const SECOND: i64 = 1_000_000_000;
const NOW_US: i64 = 1_000_000_000_000;

fn tumble() -> WindowSpec {
    let kind = WindowKind::Tumble { size: Span::Fixed(5 * SECOND) };
    WindowSpec { kind, zone: "UTC".parse().unwrap() }
}

fn source(judged: bool) -> StreamNode {
    let schema = Arc::new(Schema::new(vec![Field::new("t", DataType::Int64, false)]));
    let watermark = judged.then(|| WatermarkSpec {
        time: Arc::new(Column::new("t", 0)),
        delay_ns: SECOND,
        silence_us: 0,
        idle_timeout_us: 5_000_000,
        future_max_ns: 0,
        timeout: None,
        shard: 0,
        append_time: 0,
        partition: None,
    });
    let spec = SourceSpec {
        database: "default".into(),
        relation: "s".into(),
        columns: vec!["t".into()],
        schema,
        start: StartPosition::Latest,
        prune: None,
        watermark,
        history: weir_plan::HistorySpec::default(),
        log_order: false,
    };
    StreamNode::Source { id: NodeId(2), spec }
}

fn filter(input: StreamNode) -> StreamNode {
    StreamNode::Filter { id: NodeId(1), predicate: lit(false), input: Box::new(input) }
}

fn aggregate(window: bool, policy: EmitPolicy, input: StreamNode) -> StreamNode {
    StreamNode::Aggregate {
        id: NodeId(0),
        keys: Vec::new(),
        aggregates: Vec::new(),
        order: None,
        window: window.then_some(WindowKeys { start: 0, end: 1, spec: tumble(), passes: None }),
        emit: EmitSpec { policy, changelog: false },
        whole: false,
        schema: input.schema(),
        input: Box::new(input),
    }
}

fn at(node: u32) -> OperatorStatus {
    OperatorStatus { node, backfilled: true, ..OperatorStatus::default() }
}

fn read(behind_rows: u64, history_rows: u64) -> Option<SourceRead> {
    Some(SourceRead { behind_rows, history_rows })
}

fn query(plan: StreamNode, operators: Vec<OperatorStatus>) -> QueryInfo {
    QueryInfo {
        query_id: "q".into(),
        user: String::new(),
        database: String::new(),
        text: String::new(),
        streaming: true,
        state: "Running",
        started_us: NOW_US - 30_000_000,
        elapsed: Duration::from_secs(30),
        read_rows: 0,
        read_bytes: 0,
        result_rows: 0,
        written_rows: 0,
        written_bytes: 0,
        memory_bytes: 0,
        memory_peak_bytes: 0,
        operators,
        sums: OperatorSums::default(),
        plan: Some(Arc::new(plan)),
        given_rows: 0,
        waiting_rows: 0,
        full_since_us: None,
    }
}

/// The first sentence must hold all of these.
fn first(q: &QueryInfo, wanted: &[&str]) {
    let said = why(q, NOW_US);
    let first = said.first().expect("there is always something to say");
    for w in wanted {
        assert!(first.contains(w), "'{w}' is not in: {said:#?}");
    }
}

#[test]
fn nothing_has_come_or_nothing_passes() {
    let mut q = query(filter(source(false)), vec![at(1), OperatorStatus { read: read(0, 0), ..at(2) }]);
    first(&q, &["No row has come from default.s", "30.0 s ago", "seek_to='earliest'"]);
    let came = Some(NOW_US - 3_000_000);
    q.operators = vec![
        OperatorStatus { rows_in: 7, ..at(1) },
        OperatorStatus { rows_in: 7, rows_out: 7, came_us: came, read: read(0, 0), ..at(2) },
    ];
    first(&q, &["Filter false has let none of its 7 rows pass"]);
    assert!(why(&q, NOW_US).iter().any(|l| l.contains("The last row came from default.s 3.0 s ago")));
    q.full_since_us = Some(NOW_US - 150_000_000);
    q.waiting_rows = 12;
    first(&q, &["does not take", "12 rows", "2 min 30 s", "output_buffer_bytes_max"]);
    q.plan = None;
    q.state = "Starting";
    first(&q, &["It is Starting"]);
}

#[test]
fn a_window_waits_for_the_slowest_shard() {
    let shard = |shard, watermark, ago_s: i64, idle| ShardProgress {
        shard,
        watermark,
        last_append_us: NOW_US - ago_s * 1_000_000,
        idle,
    };
    let plan = || aggregate(true, EmitPolicy::OnClose, source(true));
    let waits = OperatorStatus { rows_in: 3, waits_for: Some(10 * SECOND), ..at(0) };
    let with = |shards: Vec<ShardProgress>| {
        let s = OperatorStatus {
            rows_in: 3,
            came_us: Some(NOW_US),
            watermark: Some(4 * SECOND),
            rose_us: Some(NOW_US - 8_000_000),
            read: read(0, 0),
            shards,
            ..at(2)
        };
        query(plan(), vec![waits.clone(), s])
    };
    let q = with(vec![shard(0, 12 * SECOND, 1, false), shard(1, 4 * SECOND, 3, false)]);
    first(
        &q,
        &[
            "ends at 1970-01-01 00:00:10.000 UTC",
            "at 1970-01-01 00:00:04.000 UTC for 8.0 s",
            "6.0 s are missing",
            "Shard 1 of default.s holds it back: its last row was appended 3.0 s ago",
            // The end and the delay.
            "event time 1970-01-01 00:00:11.000 UTC or later",
        ],
    );
    first(&with(vec![shard(0, 4 * SECOND, 60, true)]), &["Every shard of default.s is idle"]);
    first(&with(vec![shard(0, 4 * SECOND, 1, false)]), &["default.s must give a row with event time"]);
    let mut late = with(vec![shard(0, 20 * SECOND, 1, false)]);
    late.operators[0] = OperatorStatus { rows_in: 3, late_rows: 2, ..at(0) };
    first(&late, &["2 rows came when the watermark had passed their window"]);
    late.operators[1].future_rows = 5;
    assert!(why(&late, NOW_US).iter().any(|l| l.contains("5 rows of default.s lie so far ahead")));
}

#[test]
fn an_aggregation_waits_for_its_time_or_for_history() {
    let policy = EmitPolicy::Periodic { every_us: 2_000_000, repeat: false };
    let s = OperatorStatus {
        rows_in: 40,
        came_us: Some(NOW_US),
        read: read(60, 100),
        backfilled: false,
        ..at(2)
    };
    let mut q = query(
        aggregate(false, policy, source(false)),
        vec![OperatorStatus { rows_in: 40, keys: 9, ..at(0) }, s],
    );
    first(&q, &["History is still being read: 40 of 100 rows of default.s"]);
    q.operators[1] = OperatorStatus { rows_in: 100, came_us: Some(NOW_US), read: read(0, 100), ..at(2) };
    q.operators[0].due_us = Some(NOW_US + 700_000);
    first(&q, &["Aggregate (EMIT periodic 2000 ms) holds 9 keys; its next emission is due in 700 ms"]);
    q.operators[0].due_us = None;
    first(&q, &["Nothing has changed since Aggregate"]);
    assert_eq!(EmitSpec::GLOBAL.policy, policy, "the default of the plan above");
}
