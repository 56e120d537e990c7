//! Windows over windows: generated logs against a naive model of both levels.

use super::case::{Case, LogRow, MS};
use super::model;
use super::run::{Mode, Runner, schema};
use super::sessions;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_schema::{DataType, Field, Schema};
use datafusion_physical_expr::expressions::col;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::Rng;
use weir_plan::{
    AggregateKind, AggregateSpec, Element, EmitSpec, Judged, NodeId, Projection, ReplayOrder, SourceSpec,
    Span, StartPosition, StreamNode, StreamPlan, WATERMARK_COLUMN, WatermarkSpec, WatermarkTime, WindowBound,
    WindowKeys, WindowKind, WindowSpec, WindowTime,
};

/// (start, end, rows of the inner level, sum of their counts)
type Outer = (i64, i64, i64, i64);

struct Shape {
    inner: WindowSpec,
    outer: WindowSpec,
    by: WindowBound,
}

fn generate(rng: &Rng) -> Shape {
    let pick = |all: &[i64]| Span::Fixed(all[rng.below(all.len() as u64) as usize] * MS);
    let spec = |kind| WindowSpec { kind, zone: chrono_tz::Tz::UTC };
    let inner = match rng.below(3) {
        0 => WindowKind::Tumble { size: pick(&[7, 100, 1_000]) },
        1 => WindowKind::Hop { slide: pick(&[100, 300]), size: pick(&[300, 301, 1_000]) },
        _ => WindowKind::Session(sessions::generate(rng)),
    };
    let outer = match rng.below(2) {
        0 => WindowKind::Tumble { size: pick(&[50, 1_000, 5_000]) },
        _ => WindowKind::Hop { slide: pick(&[500, 1_000]), size: pick(&[1_000, 3_000]) },
    };
    let session = matches!(inner, WindowKind::Session(_));
    let by = if session || rng.below(2) == 0 { WindowBound::End } else { WindowBound::Start };
    Shape { inner: spec(inner), outer: spec(outer), by }
}

/// Aggregate(Window(Aggregate(Window(Source)))).
fn plan(case: &Case, shape: &Shape) -> StreamPlan {
    let inner = match shape.inner.kind {
        WindowKind::Session(spec) => sessions::plan(case, spec, ReplayOrder::Arrival, 2).root,
        _ => tumbled(case, shape.inner),
    };
    let StreamNode::Aggregate { id, keys, aggregates, order, window, emit, whole, schema, input } = inner
    else {
        unreachable!("made so")
    };
    let window = window.map(|w| WindowKeys { passes: Some(shape.by), ..w });
    let inner = StreamNode::Aggregate { id, keys, aggregates, order, window, emit, whole, schema, input };
    let below = inner.schema();
    let at = below.fields().len();
    let t = below.field_with_name("window_start").unwrap().data_type().clone();
    let mut fields: Vec<Field> = below.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("outer_start", t.clone(), false));
    fields.push(Field::new("outer_end", t, false));
    let by = if shape.by == WindowBound::Start { "window_start" } else { "window_end" };
    let window = StreamNode::Window {
        id: NodeId(1),
        spec: shape.outer,
        time: WindowTime::Event(col(by, &below).unwrap()),
        judged: None,
        session: None,
        at,
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(inner),
    };
    let below = window.schema();
    let count = below.fields().iter().find(|f| f.name() == "Count").unwrap().name().clone();
    let key = |name: &str| Projection { expr: col(name, &below).unwrap(), name: name.into() };
    let output = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
    let aggregate = |kind, args, name| AggregateSpec { kind, args, filter: None, output: output(name) };
    let aggregates = vec![
        aggregate(AggregateKind::Count, vec![], "n"),
        aggregate(AggregateKind::Sum, vec![col(&count, &below).unwrap()], "total"),
    ];
    let mut out: Vec<Field> =
        ["outer_start", "outer_end"].iter().map(|n| below.field_with_name(n).unwrap().clone()).collect();
    out.extend(aggregates.iter().map(|a| a.output.as_ref().clone()));
    let root = StreamNode::Aggregate {
        id: NodeId(0),
        keys: vec![key("outer_start"), key("outer_end")],
        aggregates,
        order: None,
        window: Some(WindowKeys { start: 0, end: 1, spec: shape.outer, passes: None }),
        emit: EmitSpec::WINDOW,
        whole: false,
        schema: Arc::new(Schema::new(out)),
        input: Box::new(window),
    };
    StreamPlan::new(root, ReplayOrder::Arrival)
}

/// Counts by k of tumble or hop windows.
pub fn tumbled(case: &Case, spec: WindowSpec) -> StreamNode {
    let input = schema();
    let source = StreamNode::Source {
        id: NodeId(4),
        spec: SourceSpec {
            history: weir_plan::HistorySpec::default(),
            database: "default".into(),
            relation: "s".into(),
            columns: input.fields().iter().map(|f| f.name().clone()).collect(),
            schema: input.clone(),
            start: StartPosition::Earliest,
            prune: None,
            watermark: Some(WatermarkSpec {
                time: col("t", &input).unwrap(),
                delay_ns: case.delay_ns,
                silence_us: 0,
                idle_timeout_us: case.idle_timeout_us,
                future_max_ns: case.future_max_ns,
                timeout: None,
                shard: 6,
                append_time: 7,
                partition: None,
            }),
            log_order: false,
        },
    };
    let t = input.field(0).data_type().clone();
    let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("window_start", t.clone(), false));
    fields.push(Field::new("window_end", t, false));
    fields.push(Field::new(WATERMARK_COLUMN, DataType::Int64, false));
    let window = StreamNode::Window {
        id: NodeId(3),
        spec,
        time: WindowTime::Event(col("t", &input).unwrap()),
        judged: Some(Judged { watermark: 9, shard: 6, sn: 8, kept: Vec::new() }),
        session: None,
        at: 9,
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(source),
    };
    let below = window.schema();
    let names = ["k", "window_start", "window_end"];
    let count = Arc::new(Field::new("Count", DataType::Int64, true));
    let mut out: Vec<Field> = names.iter().map(|n| below.field_with_name(n).unwrap().clone()).collect();
    out.push(count.as_ref().clone());
    StreamNode::Aggregate {
        id: NodeId(2),
        keys: names.iter().map(|n| Projection { expr: col(n, &below).unwrap(), name: (*n).into() }).collect(),
        aggregates: vec![AggregateSpec {
            kind: AggregateKind::Count,
            args: vec![],
            filter: None,
            output: count,
        }],
        order: None,
        window: Some(WindowKeys { start: 1, end: 2, spec, passes: None }),
        emit: EmitSpec::WINDOW,
        whole: false,
        schema: Arc::new(Schema::new(out)),
        input: Box::new(window),
    }
}

/// Rows of the inner level as (start, end, count).
fn inner_rows(case: &Case, shape: &Shape, judged: &[i64]) -> Vec<(i64, i64, i64)> {
    if let WindowKind::Session(spec) = shape.inner.kind {
        let (rows, _) = sessions::expected(case, &spec, &case.log, Some(judged));
        return rows.into_iter().map(|r| (r.0, r.1, r.3[0].parse().unwrap())).collect();
    }
    let mut counts: BTreeMap<(i64, i64, Option<i64>), i64> = BTreeMap::new();
    for (row, wm) in case.log.iter().zip(judged) {
        shape.inner.windows_of(row.time_ms * MS, |start, end| {
            if *wm < end {
                *counts.entry((start, end, row.k)).or_default() += 1;
            }
        });
    }
    counts.into_iter().map(|((start, end, _), n)| (start, end, n)).collect()
}

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = Case::generate(&rng);
    let shape = generate(&rng);
    let (judged, _) = model::judge(&case, &case.log);
    let mut windows: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for (start, end, n) in inner_rows(&case, &shape, &judged) {
        let at = if shape.by == WindowBound::Start { start } else { end };
        shape.outer.windows_of(at, |s, e| {
            let (rows, total) = windows.entry((s, e)).or_default();
            *rows += 1;
            *total += n;
        });
    }
    let expected: Vec<Outer> = windows.into_iter().map(|((s, e), (n, total))| (s, e, n, total)).collect();
    let modes = [
        Mode { backfill: 0, batch_rows: 8_192, restore_every: None, threads: 1, spill: true },
        Mode { backfill: usize::MAX, batch_rows: 7, restore_every: None, threads: 5, spill: false },
        Mode { backfill: case.log.len() / 2, batch_rows: 1, restore_every: None, threads: 2, spill: false },
        Mode { backfill: case.log.len() / 3, batch_rows: 7, restore_every: Some(1), threads: 1, spill: true },
    ];
    for mode in &modes {
        let got = run(&case, &shape, mode, &case.log);
        assert_eq!(
            got, expected,
            "seed {seed}, {mode:?}, {} over {} by {:?}",
            shape.outer, shape.inner, shape.by
        );
    }
}

/// Sorted; each window once.
fn run(case: &Case, shape: &Shape, mode: &Mode, log: &[LogRow]) -> Vec<Outer> {
    let mut runner = Runner::new(plan(case, shape), mode.threads, mode.spill);
    runner.play(mode, log);
    runner.feed(Element::Watermark(WatermarkTime::INFINITY));
    assert_eq!(runner.memory.used_bytes(), 0, "closed windows are freed");
    let mut all = Vec::new();
    for batch in runner.out.iter().map(|r| &r.batch) {
        let time = |c: usize| batch.column(c).as_primitive::<TimestampMillisecondType>().clone();
        let int = |c: usize| batch.column(c).as_primitive::<Int64Type>().clone();
        for i in 0..batch.num_rows() {
            let (start, end) = (time(0).value(i) * MS, time(1).value(i) * MS);
            all.push((start, end, int(2).value(i), int(3).value(i)));
        }
    }
    all.sort_unstable();
    all
}

#[test]
fn windows_over_windows_have_one_answer_however_they_are_run() {
    crate::tests::seeds::each_seed("windows over windows", check);
}

/// Runs of shares of one pane are not the whole of what another pane has of a key.
#[test]
fn runs_of_panes_that_became_one_are_merged_with_those_of_others() {
    check(962);
}
