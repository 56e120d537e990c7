//! Unbounded queries: the stream plan, where it begins, and its rows.

use super::*;
use crate::stream::lower;
use weir_base::{EventTime, SeqNo};
use weir_plan::{SourceSpec, StreamNode, StreamPlan};

fn plan(sql: &str, options: &BindOptions) -> Result<StreamPlan, Error> {
    lower(bind(sql, options)?, &state())
}

fn source(sql: &str) -> SourceSpec {
    let p = plan(sql, &streaming_mode()).unwrap_or_else(|e| panic!("{sql}: {e}"));
    p.root.sources()[0].1.clone()
}

/// Runs a chain over the test rows, as the task loop does, without `Limit`.
fn evaluate(node: &StreamNode) -> Vec<RecordBatch> {
    match node {
        StreamNode::Source { spec, .. } => {
            let all = s_batch();
            let columns = spec
                .columns
                .iter()
                .map(|c| all.column_by_name(c).unwrap_or_else(|| panic!("no column {c}")).clone())
                .collect();
            vec![RecordBatch::try_new(spec.schema.clone(), columns).expect("the source's schema")]
        }
        StreamNode::Filter { predicate, input, .. } => evaluate(input)
            .into_iter()
            .map(|b| {
                let keep =
                    predicate.evaluate(&b).expect("evaluates").into_array(b.num_rows()).expect("an array");
                datafusion::arrow::compute::filter_record_batch(
                    &b,
                    datafusion::arrow::array::AsArray::as_boolean(&keep),
                )
                .expect("filters")
            })
            .collect(),
        StreamNode::Project { exprs, schema, input, .. } => evaluate(input)
            .into_iter()
            .map(|b| {
                let columns = exprs
                    .iter()
                    .map(|p| {
                        p.expr.evaluate(&b).expect("evaluates").into_array(b.num_rows()).expect("an array")
                    })
                    .collect();
                RecordBatch::try_new(schema.clone(), columns).expect("the projection's schema")
            })
            .collect(),
        StreamNode::Union { inputs, schema, .. } => inputs
            .iter()
            .flat_map(evaluate)
            .map(|b| RecordBatch::try_new(schema.clone(), b.columns().to_vec()).expect("the union's schema"))
            .collect(),
        StreamNode::Limit { input, .. } => evaluate(input),
        other => panic!("{} keeps state: dataflow tests it", other.name()),
    }
}

#[test]
fn chains_give_rows_and_the_results_schema() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("SELECT u8 + 1 AS x FROM s WHERE name != 'b'", "x uint16", &["2", "4"]),
        ("SELECT id FROM s WHERE u8 = 2", "id uuid", &["02020202-0202-0202-0202-020202020202"]),
        ("SELECT next FROM v", "next uint16", &["3", "4"]),
        (
            "SELECT x * 2 AS y FROM (SELECT u8 AS x, upper(name) AS w FROM s) AS q WHERE w = 'C'",
            "y uint16",
            &["6"],
        ),
        ("SELECT u8 FROM s WHERE u8 = 1 UNION ALL SELECT i32 FROM s WHERE u8 = 3", "u8 int32", &["1", "7"]),
        ("SELECT u8, u8 FROM s WHERE u8 = 1", "u8 uint8", &["1"]),
        ("SELECT now() AS x FROM s WHERE u8 = 1", "x datetime", &["1970-01-01 00:00:07"]),
        ("SELECT upper(name) AS x FROM s LIMIT 5", "x string", &["A", "B", "C"]),
        ("WITH c AS (SELECT u8 FROM s) SELECT u8 FROM c WHERE u8 > 2", "u8 uint8", &["3"]),
        ("SELECT u8 FROM s WHERE _tp_sn = 1", "u8 uint8", &["2"]),
    ];
    let mut wrong = Vec::new();
    for (sql, expected, values) in cases {
        let p = match plan(sql, &streaming_mode()) {
            Ok(p) => p,
            Err(e) => {
                wrong.push(format!("{sql}: {e}"));
                continue;
            }
        };
        let field = p.root.schema().field(0).clone();
        let shown = format!("{} {}", field.name(), Type::of_field(&field).expect("a Weir type"));
        let mut got = Vec::new();
        for b in evaluate(&p.root) {
            for row in 0..b.num_rows() {
                got.push(render(&field, b.column(0), row).expect("renders").unwrap_or("NULL".into()));
            }
        }
        if shown != *expected || got != *values {
            wrong.push(format!("{sql}: {shown} {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn sources_read_only_what_is_asked_for() {
    let cases: &[(&str, &[&str])] = &[
        ("SELECT u8 FROM s WHERE f > 1", &["u8", "f"]),
        ("SELECT name FROM (SELECT * FROM s) AS q", &["name"]),
        ("SELECT _tp_sn, u8 FROM s", &["u8", "_tp_sn"]),
        ("SELECT next FROM v", &["u8"]),
    ];
    for (sql, columns) in cases {
        assert_eq!(source(sql).columns, *columns, "{sql}");
    }
    assert_eq!(source("SELECT * FROM s").columns.len(), 9, "virtual columns are not in *");
}

#[test]
fn positions_come_from_predicates_and_seek_to() {
    let now_ms = NOW_US / 1000;
    let at = |ms: i64| StartPosition::EventTime(EventTime(ms));
    let cases = [
        ("SELECT u8 FROM s", StartPosition::Latest),
        ("SELECT u8 FROM s WHERE u8 > 1", StartPosition::Latest),
        ("SELECT u8 FROM s WHERE _tp_time >= '2023-01-01'", at(1_672_531_200_000)),
        ("SELECT u8 FROM s WHERE _tp_time > now() - 1d", at(now_ms - 86_400_000)),
        ("SELECT u8 FROM s WHERE _tp_time > now() - INTERVAL 2 HOUR AND u8 > 1", at(now_ms - 7_200_000)),
        ("SELECT u8 FROM s WHERE _tp_time > earliest_ts()", StartPosition::Earliest),
        ("SELECT u8 FROM s WHERE _tp_time < '2023-01-01'", StartPosition::Earliest),
        ("SELECT u8 FROM s WHERE _tp_sn >= 5", StartPosition::SeqNo(vec![SeqNo(5)])),
        (
            "SELECT u8 FROM s WHERE _tp_sn > 5 AND _tp_time > '2023-01-01'",
            StartPosition::SeqNo(vec![SeqNo(6)]),
        ),
        (
            "SELECT u8 FROM (SELECT u8, _tp_time FROM s) AS q WHERE _tp_time >= '2023-01-01'",
            at(1_672_531_200_000),
        ),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in cases {
        match plan(sql, &streaming_mode()) {
            Ok(p) => {
                let got = p.root.sources()[0].1.start.clone();
                if got != expected {
                    wrong.push(format!("{sql}: {got:?}, not {expected:?}"));
                }
            }
            Err(e) => wrong.push(format!("{sql}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let options =
        BindOptions { seek_to: "-1h".into(), replay_order: "event_time".into(), ..streaming_mode() };
    let p = plan("SELECT u8 FROM s", &options).expect("plans");
    assert_eq!(p.root.sources()[0].1.start, at(now_ms - 3_600_000));
    assert_eq!(p.replay_order, ReplayOrder::EventTime);
    for (sql, code) in [
        ("SELECT u8 FROM s WHERE _tp_time > _tp_append_time", 183),
        ("SELECT u8 FROM s WHERE _tp_sn > u8", 183),
    ] {
        assert_eq!(plan(sql, &streaming_mode()).expect_err(sql).code.number(), code, "{sql}");
    }
}

#[test]
fn predicates_reach_the_source_for_pruning_but_not_the_clock() {
    assert!(source("SELECT u8 FROM s WHERE f > 1 AND _tp_time > '2023-01-01'").prune.is_some());
    assert!(source("SELECT u8 FROM s").prune.is_none());
    let moving = source("SELECT u8 FROM s WHERE now() > '2023-01-01'");
    assert!(moving.prune.is_none(), "a moving predicate can not skip parts");
}

#[test]
fn history_may_come_in_any_order_where_the_result_depends_on_none() {
    use weir_plan::SourceOrder::{Any, Log};
    // (query, order)
    let cases = [
        (
            "SELECT name, count(), sum(u8), avg(f), min(f), max(f), count(DISTINCT u8) FROM s GROUP BY name",
            Any,
        ),
        ("SELECT count() FROM (SELECT u8 + 1 AS x FROM s WHERE f > 1) WHERE x > 2", Any),
        ("SELECT name, count() AS c FROM s GROUP BY name HAVING c > 1 EMIT ON UPDATE", Any),
        ("SELECT count(), count_if(u8 > 1) FROM (SELECT u8 FROM s UNION ALL SELECT u8 FROM s)", Any),
        ("SELECT name, count() FROM s GROUP BY name EMIT CHANGELOG", Any),
        ("SELECT u8 FROM s", Log),
        ("SELECT name, last_value(f) FROM s GROUP BY name", Log),
        ("SELECT name, first_value(f), count() FROM s GROUP BY name", Log),
        ("SELECT count() FROM (SELECT u8 FROM s LIMIT 3)", Log),
        ("SELECT window_start, count() FROM tumble(s, 5s) GROUP BY window_start", Log),
    ];
    for (sql, order) in cases {
        let p = plan(sql, &streaming_mode()).unwrap_or_else(|e| panic!("{sql}: {e}"));
        for (_, source) in p.root.sources() {
            assert_eq!(source.history.order, order, "{sql}");
        }
    }
    let in_order = |set: fn(&mut BackfillSettings)| {
        let mut options = streaming_mode();
        set(&mut options.backfill);
        let p = plan("SELECT count() FROM s", &options).expect("plans");
        p.root.sources()[0].1.history.clone()
    };
    assert_eq!(in_order(|b| b.force_backfill_in_order = true).order, Log);
    let emits = in_order(|b| b.emit_during_backfill = true);
    assert_eq!((emits.order, emits.emits), (Log, true));
    let replay = in_order(|b| b.replay_end_time = "2024-01-01 00:00:00".into());
    let replay = (replay.order, replay.replay.expect("it has an end"));
    assert_eq!((replay.0, replay.1.column.as_str()), (Log, "_tp_append_time"));
    assert_eq!(replay.1.end_us, Some(1_704_067_200_000_000));
}

#[test]
fn a_judged_source_may_skip_only_rows_before_the_least_time_asked_for() {
    let of = |condition: &str| {
        let window = "GROUP BY window_start";
        source(&format!("SELECT window_start, count() FROM tumble(s, 5s) WHERE {condition} {window}")).prune
    };
    let all = of("_tp_time >= '2023-01-01' AND u8 > 1").expect("it has a least time").to_string();
    assert!(all.contains("_tp_time") && !all.contains("u8"), "{all}");
    assert!(of("_tp_time < '2023-01-01'").is_none());
    assert!(of("u8 > 1").is_none());
}

#[test]
fn nodes_are_numbered_depth_first() {
    let p = plan("SELECT u8 + 1 AS x FROM s WHERE f > 1 LIMIT 3", &streaming_mode()).expect("plans");
    let mut ids = Vec::new();
    let mut node = &p.root;
    loop {
        ids.push(node.id().0);
        match node.inputs().first() {
            Some(next) => node = next,
            None => break,
        }
    }
    assert_eq!(ids, (0..ids.len() as u32).collect::<Vec<_>>());
    assert_eq!(p.root.name(), "Limit");
}

#[test]
fn windows_put_the_judge_on_the_source() {
    let p = plan(
        "SELECT window_end, name, count() AS c, last_value(f) FROM tumble(s, 5s) WHERE u8 > 1 \
         GROUP BY window_end, name HAVING c > 1",
        &streaming_mode(),
    )
    .expect("plans");
    let source = p.root.sources()[0].1.clone();
    let w = source.watermark.expect("rows are judged");
    assert_eq!(
        (source.columns[w.shard].as_str(), source.columns[w.append_time].as_str()),
        ("_tp_shard", "_tp_append_time")
    );
    assert!(source.prune.is_none(), "rows left out by a condition count for the watermark");
    let mut node = &p.root;
    let mut names = Vec::new();
    loop {
        names.push(node.name());
        if let StreamNode::Aggregate { keys, window, order, emit, .. } = node {
            let window = window.expect("over a window");
            assert_eq!(keys[window.start].name, "window_start", "added where only the end is a key");
            assert_eq!(keys[window.end].name, "window_end");
            assert!(order.is_some(), "last_value goes by the place of rows");
            assert_eq!(*emit, weir_plan::EmitSpec::WINDOW);
        }
        match node.inputs().first() {
            Some(next) => node = next,
            None => break,
        }
    }
    let order: Vec<_> = ["Filter", "WindowAggregate", "Window", "Source"]
        .iter()
        .map(|n| names.iter().position(|m| m == n))
        .collect();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{names:?}");
    let global =
        plan("SELECT name, max(u8) FROM s GROUP BY name EMIT CHANGELOG PERIODIC 1s", &streaming_mode())
            .unwrap();
    assert_eq!(global.root.name(), "Delta");
    assert!(global.root.sources()[0].1.watermark.is_none(), "nothing is judged without a window");
    assert_eq!(global.root.schema().fields().last().unwrap().name(), "_tp_delta");
}
