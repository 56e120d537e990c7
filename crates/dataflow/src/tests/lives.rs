//! Lives of keys against a naive model: the rows of each key, one after another in log order.
//!
//! A case is run in batches of several sizes, with frontiers told or not, and with a snapshot, drop
//! and restore after every k-th batch.

use super::support::*;
use crate::build::build;
use crate::graph::Graph;
use crate::resources::Resources;
use crate::state::spill::SpillSpace;
use crate::tests::stored::Stored;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_physical_expr::expressions::col;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use weir_base::disk::SimDisk;
use weir_base::{ManualClock, MemoryBudget, Rng};
use weir_plan::{
    AggregateKind, AggregateSpec, Element, EmitPolicy, EmitSpec, Epoch, LifeSpec, NodeId, Projection,
    ReplayOrder, Rows, SourceSpec, StartPosition, StreamNode, StreamPlan, WatermarkSpec, WatermarkTime,
};

const MS: i64 = 1_000_000;

#[derive(Debug, Clone)]
struct LogRow {
    append_us: i64,
    time_ms: i64,
    k: Option<i64>,
    v: i64,
    opens: Option<bool>,
    closes: Option<bool>,
}

#[derive(Debug)]
struct Case {
    log: Vec<LogRow>,
    spec: LifeSpec,
}

/// Key, number of rows, sum.
type FinalRow = (Option<i64>, i64, i64);

fn pick<T: Copy>(rng: &Rng, all: &[T]) -> T {
    all[rng.below(all.len() as u64) as usize]
}

fn generate(rng: &Rng) -> Case {
    let keys = pick(rng, &[1u64, 3, 30]);
    let (mut append_us, mut time_ms) = (1_000_000_000, 1_000_000);
    let rows = rng.below(pick(rng, &[5, 60, 400])) as usize + 1;
    let log = (0..rows)
        .map(|_| {
            append_us += match rng.below(10) {
                0..=3 => 0,
                4..=8 => rng.below(20_000) as i64,
                _ => rng.below(3_000_000) as i64,
            };
            time_ms += rng.below(40) as i64;
            LogRow {
                append_us,
                time_ms: time_ms - rng.below(200) as i64,
                k: Some(rng.below(keys) as i64).filter(|_| rng.below(15) > 0),
                v: rng.below(100) as i64,
                opens: Some(rng.below(4) == 0).filter(|_| rng.below(9) > 0),
                closes: Some(rng.below(4) == 0).filter(|_| rng.below(9) > 0),
            }
        })
        .collect();
    let sessions = rng.below(2) == 0;
    let spec = LifeSpec {
        time: 1,
        append_time: 0,
        opens: sessions.then_some(4),
        closes: sessions.then_some(5),
        merge_open: rng.below(2) == 0,
        close_included: rng.below(2) == 0,
        span_max_ns: pick(rng, &[1i64, 50, 500, 100_000]) * MS,
        only: rng.below(3) == 0,
        timeout_us: pick(rng, &[None, Some(10_000), Some(1_000_000)]),
    };
    Case { log, spec }
}

/// What leaves, sorted, and how many rows are left out.
fn model(case: &Case) -> (Vec<FinalRow>, u64) {
    let spec = &case.spec;
    let mut by_key: BTreeMap<Option<i64>, Vec<&LogRow>> = BTreeMap::new();
    case.log.iter().for_each(|r| by_key.entry(r.k).or_default().push(r));
    let (mut out, mut skipped) = (Vec::new(), 0);
    for (k, rows) in by_key {
        let mut lives: Vec<Vec<&LogRow>> = Vec::new();
        let mut open: Vec<&LogRow> = Vec::new();
        let span = |life: &[&LogRow]| {
            let times = life.iter().map(|r| r.time_ms);
            (times.clone().max().unwrap_or(0) - times.min().unwrap_or(0)) * MS
        };
        for row in rows {
            let (opens, closes) = if spec.opens.is_some() {
                (Some(row.opens == Some(true)), row.closes == Some(true))
            } else {
                (None, false)
            };
            let silent = |life: &[&LogRow]| match (life.last(), spec.timeout_us) {
                (Some(last), Some(timeout)) => row.append_us - last.append_us > timeout,
                _ => false,
            };
            if silent(&open) || opens == Some(true) && !spec.merge_open || closes && !spec.close_included {
                lives.push(std::mem::take(&mut open));
            }
            if open.is_empty() && opens == Some(false) {
                skipped += 1;
                continue;
            }
            open.push(row);
            if closes && spec.close_included || span(&open) >= spec.span_max_ns {
                lives.push(std::mem::take(&mut open));
            }
        }
        lives.push(open);
        for life in lives.into_iter().filter(|l| !l.is_empty()) {
            if spec.only && span(&life) < spec.span_max_ns {
                skipped += life.len() as u64;
            } else {
                out.push((k, life.len() as i64, life.iter().map(|r| r.v).sum()));
            }
        }
    }
    out.sort_unstable();
    (out, skipped)
}

fn schema() -> SchemaRef {
    let time = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("append", time(TimeUnit::Microsecond), false),
        Field::new("t", time(TimeUnit::Millisecond), false),
        Field::new("k", DataType::Int64, true),
        Field::new("v", DataType::Int64, false),
        Field::new("opens", DataType::Boolean, true),
        Field::new("closes", DataType::Boolean, true),
        Field::new("shard", DataType::Int32, false),
    ]))
}

fn batch(rows: &[LogRow]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            rows.iter()
                .map(|r| Some(r.append_us))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        Arc::new(
            rows.iter().map(|r| Some(r.time_ms)).collect::<TimestampMillisecondArray>().with_timezone("UTC"),
        ),
        Arc::new(rows.iter().map(|r| r.k).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.opens).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|r| r.closes).collect::<BooleanArray>()),
        Arc::new(Int32Array::from(vec![0; rows.len()])),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Aggregate(Lives(Source)).
fn plan(case: &Case) -> StreamPlan {
    let schema = schema();
    let source = StreamNode::Source {
        id: NodeId(2),
        spec: SourceSpec {
            history: weir_plan::HistorySpec::default(),
            database: "default".into(),
            relation: "s".into(),
            columns: schema.fields().iter().map(|f| f.name().clone()).collect(),
            schema: schema.clone(),
            start: StartPosition::Earliest,
            prune: None,
            watermark: Some(WatermarkSpec {
                time: col("t", &schema).unwrap(),
                delay_ns: 0,
                silence_us: 0,
                idle_timeout_us: 5_000_000,
                future_max_ns: 0,
                timeout: None,
                shard: 6,
                append_time: 0,
                partition: None,
            }),
            log_order: false,
        },
    };
    let mut fields: Vec<Field> = source.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("__life", DataType::Int64, false));
    let lives = StreamNode::Lives {
        id: NodeId(1),
        spec: case.spec,
        keys: vec![col("k", &schema).unwrap()],
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(source),
    };
    let below = lives.schema();
    let column = |name: &str| col(name, &below).unwrap();
    let key = |name: &str| Projection { expr: column(name), name: name.into() };
    let spec = |kind: AggregateKind, args| AggregateSpec {
        kind: kind.clone(),
        args,
        filter: None,
        output: Arc::new(Field::new(format!("{kind:?}"), DataType::Int64, true)),
    };
    let aggregates = vec![spec(AggregateKind::Count, vec![]), spec(AggregateKind::Sum, vec![column("v")])];
    let mut out = vec![Field::new("k", DataType::Int64, true), Field::new("__life", DataType::Int64, false)];
    out.extend(aggregates.iter().map(|a| a.output.as_ref().clone()));
    let root = StreamNode::Aggregate {
        id: NodeId(0),
        keys: vec![key("k"), key("__life")],
        aggregates,
        order: None,
        window: None,
        emit: EmitSpec { policy: EmitPolicy::Complete, changelog: false },
        whole: false,
        schema: Arc::new(Schema::new(out)),
        input: Box::new(lives),
    };
    StreamPlan::new(root, ReplayOrder::Arrival)
}

#[derive(Debug)]
struct Mode {
    backfill: usize,
    batch_rows: usize,
    frontier_every: usize,
    restore_every: usize,
    /// Memory is never enough: rows spill after every batch, and few leave in a piece.
    spill: bool,
}

fn resources(spill: bool) -> Resources {
    let mut resources = Resources::one_thread();
    if spill {
        resources.spill = Some(SpillSpace::new(Arc::new(SimDisk::new(1)), "spill"));
        resources.memory = Some(MemoryBudget::root("tiny", 1));
        (resources.spill_bytes_min, resources.piece_rows) = (1, 4);
    }
    resources
}

fn graph(
    plan: &StreamPlan,
    memory: &Arc<MemoryBudget>,
    resources: &Resources,
    saved: &[(NodeId, crate::StateReader)],
) -> Graph {
    let scripts = Scripts::default();
    let mut sources: HashMap<_, _> =
        plan.root.sources().into_iter().map(|(id, _)| (id, scripts.open_one(id))).collect();
    let clock = Arc::new(ManualClock::new(1));
    let mut graph = build(plan, &mut sources, clock, memory, resources, saved).unwrap();
    graph.keep_snapshots = true;
    graph
}

fn run(case: &Case, mode: &Mode) -> (Vec<FinalRow>, u64) {
    let plan = plan(case);
    let memory = MemoryBudget::root("test", 1 << 30);
    let resources = resources(mode.spill);
    let mut g = graph(&plan, &memory, &resources, &[]);
    let mut out = Vec::new();
    let mut take = |g: &mut Graph| {
        while g.resume().unwrap() {}
        for element in g.results.drain(..) {
            let Element::Rows(rows) = element else { continue };
            let column = |i: usize| rows.batch.column(i).as_primitive::<Int64Type>().clone();
            let (k, count, sum) = (column(0), column(2), column(3));
            for i in 0..rows.batch.num_rows() {
                out.push((k.is_valid(i).then(|| k.value(i)), count.value(i), sum.value(i)));
            }
        }
    };
    let (mut fed, mut epoch, mut done) = (0, 0, 0);
    let stored = Stored::default();
    let seam = mode.backfill.min(case.log.len());
    for (part, rows) in [&case.log[..seam], &case.log[seam..]].into_iter().enumerate() {
        for rows in rows.chunks(mode.batch_rows) {
            g.feed(0, Element::Rows(Rows::append(batch(rows)))).unwrap();
            fed += 1;
            done += rows.len();
            if fed % mode.frontier_every == 0 {
                take(&mut g);
                g.feed(0, Element::Frontier(rows[rows.len() - 1].append_us - 1)).unwrap();
            }
            take(&mut g);
            if fed % mode.restore_every == 0 && fed % 3 != 0 {
                epoch += 1;
                stored.checkpoint(&mut g, &plan, epoch, |_| {});
                epoch += 1;
                let saved = stored.checkpoint(&mut g, &plan, epoch, |g| {
                    // Comes again after the restart.
                    for row in case.log[done..].iter().take(3) {
                        g.feed(0, Element::Rows(Rows::append(batch(std::slice::from_ref(row))))).unwrap();
                    }
                    while g.resume().unwrap() {}
                    g.results.clear();
                });
                g = graph(&plan, &memory, &resources, &saved.1);
            } else if fed % mode.restore_every == 0 {
                epoch += 1;
                g.feed(0, Element::Barrier(Epoch(epoch))).unwrap();
                let (_, saved) = g.snapshots.pop().unwrap();
                g = graph(&plan, &memory, &resources, &saved);
                epoch += 1;
                g.feed(0, Element::Barrier(Epoch(epoch))).unwrap();
                let again = g.snapshots.pop().unwrap().1;
                assert!(mode.spill || again == saved, "what was restored is what was written");
            }
        }
        if part == 0 {
            g.feed(0, Element::EndOfBackfill).unwrap();
        }
    }
    g.feed(0, Element::Watermark(WatermarkTime::INFINITY)).unwrap();
    take(&mut g);
    g.feed(0, Element::End).unwrap();
    take(&mut g);
    assert_eq!(memory.used_bytes(), 0, "ended lives are freed");
    let skipped = g.counters().iter().map(|(_, _, c)| c.skipped_rows.load(Relaxed)).sum();
    out.sort_unstable();
    (out, skipped)
}

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = generate(&rng);
    let expected = model(&case);
    let mode = |backfill, batch_rows, frontier_every, restore_every, spill| Mode {
        backfill,
        batch_rows,
        frontier_every,
        restore_every,
        spill,
    };
    let modes = [
        mode(0, 8_192, 1, usize::MAX, false),
        mode(usize::MAX, 7, usize::MAX, usize::MAX, true),
        mode(case.log.len() / 2, 1, 3, usize::MAX, false),
        mode(case.log.len() / 2, 3, 3, usize::MAX, true),
        mode(case.log.len() / 3, 7, 2, 1, false),
        mode(0, 1, 1, 1 + rng.below(20) as usize, true),
    ];
    for mode in &modes {
        assert_eq!(run(&case, mode), expected, "seed {seed}, {mode:?}, {case:#?}");
    }
}

#[test]
fn lives_have_one_answer_however_they_are_run() {
    crate::tests::seeds::each_seed("lives", check);
}

#[test]
fn silence_ends_a_life_as_soon_as_it_is_known() {
    let row = |append_us, k| LogRow { append_us, time_ms: 1, k: Some(k), v: 1, opens: None, closes: None };
    let spec = LifeSpec {
        time: 1,
        append_time: 0,
        opens: None,
        closes: None,
        merge_open: false,
        close_included: true,
        span_max_ns: 1_000 * MS,
        only: false,
        timeout_us: Some(100),
    };
    let case = Case { log: vec![], spec };
    let (plan, memory) = (plan(&case), MemoryBudget::root("test", 1 << 30));
    let mut g = graph(&plan, &memory, &resources(false), &[]);
    g.feed(0, Element::EndOfBackfill).unwrap();
    g.results.clear();
    g.feed(0, Element::Rows(Rows::append(batch(&[row(1_000, 1), row(1_050, 2)])))).unwrap();
    let left = |g: &mut Graph| {
        let rows = g.results.drain(..).filter(|e| matches!(e, Element::Rows(_))).count();
        (rows, memory.used_bytes() > 0)
    };
    g.feed(0, Element::Frontier(1_099)).unwrap();
    assert_eq!(left(&mut g), (0, true), "a row of 1100 would still belong to it");
    g.feed(0, Element::Frontier(1_100)).unwrap();
    assert_eq!(left(&mut g), (1, true));
    g.feed(0, Element::Frontier(2_000)).unwrap();
    assert_eq!(left(&mut g), (1, false), "nothing is held of what has ended");
}
