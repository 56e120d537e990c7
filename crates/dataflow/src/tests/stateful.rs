//! Functions over earlier rows and first rows of keys: generated logs, run in every way, against a
//! model that looks at one row at a time and keeps all of them.
//!
//! Which cases are run: `tests::seeds`.

mod model;
mod rank;

use crate::build::build;
use crate::graph::{Graph, Snapshot};
use crate::resources::Resources;
use crate::state::spill::SpillSpace;
use crate::tests::stored::Stored;
use crate::tests::support::Scripts;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::expressions::col;
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::disk::SimDisk;
use weir_base::{ManualClock, MemoryBudget, Rng};
use weir_plan::{
    DedupSpec, Element, Epoch, HistorySpec, NodeId, OverFunction, OverKind, OverSpec, ReplayOrder, Rows,
    SourceSpec, StartPosition, StreamNode, StreamPlan,
};

#[derive(Debug, Clone)]
pub struct LogRow {
    pub append_us: i64,
    pub shard: i32,
    pub k: Option<i64>,
    pub s: Option<String>,
    pub v: Option<i64>,
    pub f: f64,
}

impl LogRow {
    pub fn even(&self) -> Option<bool> {
        self.v.map(|v| v % 2 == 0)
    }
}

#[derive(Debug)]
pub enum Kind {
    Over,
    Dedup { ttl_us: Option<i64>, keys_max: Option<u64> },
}

#[derive(Debug)]
pub struct Case {
    pub kind: Kind,
    pub keys: Vec<&'static str>,
    pub log: Vec<LogRow>,
}

fn pick<T: Copy>(rng: &Rng, all: &[T]) -> T {
    all[rng.below(all.len() as u64) as usize]
}

impl Case {
    fn generate(rng: &Rng) -> Case {
        let rows = rng.below(pick(rng, &[4, 40, 120])) + 1;
        let keys = pick(rng, &[1, 3, 30]);
        let mut append_us = 1_700_000_000_000_000i64;
        let log = (0..rows)
            .map(|_| {
                append_us += if rng.below(2) == 0 { 0 } else { rng.below(2_000_000) as i64 };
                LogRow {
                    append_us,
                    shard: 0,
                    k: Some(rng.below(keys) as i64 - 1).filter(|_| rng.below(12) > 0),
                    s: Some(format!("s{}", rng.below(keys))).filter(|_| rng.below(12) > 0),
                    v: Some(rng.below(200) as i64 - 100).filter(|_| rng.below(6) > 0),
                    f: rng.below(800) as f64 / 8.0 - 50.0,
                }
            })
            .collect();
        let over: &[&[&'static str]] = &[&[], &["k"], &["s"], &["k", "s"]];
        if rng.below(2) == 0 {
            return Case { kind: Kind::Over, keys: pick(rng, over).to_vec(), log };
        }
        let ttl_us = pick(rng, &[None, None, Some(1), Some(700_000), Some(20_000_000)]);
        let keys_max = pick(rng, &[None, Some(1), Some(2), Some(7), Some(10_000)]);
        Case { kind: Kind::Dedup { ttl_us, keys_max }, keys: pick(rng, &over[1..]).to_vec(), log }
    }

    /// The same rows in the same order, over so many shards.
    fn over_shards(&self, shards: usize) -> Vec<LogRow> {
        self.log
            .iter()
            .enumerate()
            .map(|(i, r)| LogRow { shard: (i * 7 / 3 % shards) as i32, ..r.clone() })
            .collect()
    }
}

fn schema() -> SchemaRef {
    let us = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, false),
        Field::new("even", DataType::Boolean, true),
        Field::new("_tp_append_time", us, false),
        Field::new("_tp_shard", DataType::Int32, false),
    ]))
}

fn batch(rows: &[LogRow]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.k).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.s.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.f)).collect::<Float64Array>()),
        Arc::new(rows.iter().map(LogRow::even).collect::<BooleanArray>()),
        Arc::new(
            rows.iter()
                .map(|r| Some(r.append_us))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        Arc::new(rows.iter().map(|r| Some(r.shard)).collect::<Int32Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub fn lag(rows: usize, default: ScalarValue) -> OverKind {
    OverKind::Lag { rows, default }
}

/// (function, argument, only even rows, type)
pub fn functions() -> Vec<(OverKind, Option<&'static str>, bool, DataType)> {
    let (int, text, float) = (DataType::Int64, DataType::Utf8, DataType::Float64);
    let null = || ScalarValue::Null;
    vec![
        (OverKind::RowNumber, None, false, DataType::UInt64),
        (lag(1, null()), Some("v"), false, int.clone()),
        (lag(3, ScalarValue::Int64(Some(7))), Some("v"), false, int.clone()),
        (lag(0, null()), Some("v"), false, int.clone()),
        (lag(9, null()), Some("k"), false, int.clone()),
        (lag(2, ScalarValue::Float64(Some(0.5))), Some("f"), false, float.clone()),
        (lag(1, ScalarValue::from("none")), Some("s"), false, text.clone()),
        (lag(6, null()), Some("s"), false, text.clone()),
        (lag(2, null()), Some("even"), false, DataType::Boolean),
        (OverKind::Count, None, false, int.clone()),
        (OverKind::Count, Some("v"), false, int.clone()),
        (OverKind::Count, None, true, int.clone()),
        (OverKind::Sum, Some("v"), false, int.clone()),
        (OverKind::Sum, Some("v"), true, int.clone()),
        (OverKind::Sum, Some("f"), false, float.clone()),
        (OverKind::Avg, Some("v"), false, float.clone()),
        (OverKind::Min, Some("v"), false, int.clone()),
        (OverKind::Max, Some("v"), true, int.clone()),
        (OverKind::Min, Some("f"), false, float.clone()),
        (OverKind::Max, Some("f"), false, float.clone()),
        (OverKind::Min, Some("s"), false, text.clone()),
        (OverKind::Max, Some("s"), true, text.clone()),
        (OverKind::First, Some("v"), false, int.clone()),
        (OverKind::First, Some("s"), true, text.clone()),
        (OverKind::Last, Some("v"), false, int.clone()),
        (OverKind::Earliest, Some("v"), false, int.clone()),
        (OverKind::Earliest, Some("s"), true, text.clone()),
        (OverKind::Latest, Some("v"), true, int),
        (OverKind::Latest, Some("s"), false, text),
    ]
}

fn plan(case: &Case) -> StreamPlan {
    let schema = schema();
    let column = |name: &str| col(name, &schema).unwrap();
    let input = Box::new(StreamNode::Source {
        id: NodeId(1),
        spec: SourceSpec {
            database: "default".into(),
            relation: "s".into(),
            columns: schema.fields().iter().map(|f| f.name().clone()).collect(),
            schema: schema.clone(),
            start: StartPosition::Earliest,
            prune: None,
            watermark: None,
            log_order: true,
            history: HistorySpec::default(),
        },
    });
    let keys = case.keys.iter().map(|k| column(k)).collect();
    let id = NodeId(0);
    let root = match case.kind {
        Kind::Dedup { ttl_us, keys_max } => {
            let spec = DedupSpec { keys, ttl_us, append_time: Some(5), keys_max };
            StreamNode::Dedup { id, spec, input }
        }
        Kind::Over => {
            let functions: Vec<OverFunction> = functions()
                .into_iter()
                .enumerate()
                .map(|(i, (kind, arg, even, t))| OverFunction {
                    kind,
                    arg: arg.map(column),
                    filter: even.then(|| column("even")),
                    output: Arc::new(Field::new(format!("f{i}"), t, true)),
                })
                .collect();
            let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
            // Before the place of rows, as behind the columns of a query.
            fields.splice(5..5, functions.iter().map(|f| f.output.clone()));
            let spec = OverSpec { partition: keys, functions };
            StreamNode::Over { id, spec, at: 5, schema: Arc::new(Schema::new(fields)), input }
        }
    };
    StreamPlan::new(root, ReplayOrder::Arrival)
}

#[derive(Debug)]
struct Mode {
    backfill: usize,
    batch_rows: usize,
    restore_every: Option<usize>,
    /// Memory is never enough: all state spills after every batch.
    spill: bool,
}

fn resources(spill: bool) -> Resources {
    let mut resources = Resources::one_thread();
    if spill {
        resources.spill = Some(SpillSpace::new(Arc::new(SimDisk::new(1)), "spill"));
        resources.memory = Some(MemoryBudget::root("tiny", 1));
        resources.spill_bytes_min = 1;
    }
    resources
}

fn graph(
    plan: &StreamPlan,
    memory: &Arc<MemoryBudget>,
    resources: &Resources,
    saved: Option<&Snapshot>,
) -> Graph {
    let scripts = Scripts::default();
    let mut sources: HashMap<_, _> =
        plan.root.sources().into_iter().map(|(id, _)| (id, scripts.open_one(id))).collect();
    let saved = saved.map_or(&[][..], |(_, states)| states);
    let mut graph =
        build(plan, &mut sources, Arc::new(ManualClock::new(1)), memory, resources, saved).unwrap();
    graph.keep_snapshots = true;
    graph
}

/// Columns of each row as text, without the shard.
fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let text = |array: &ArrayRef, row: usize| {
        if array.is_null(row) {
            return "NULL".to_owned();
        }
        match array.as_any().downcast_ref::<Float64Array>() {
            Some(floats) => floats.value(row).to_string(),
            None => arrow::util::display::array_value_to_string(array, row).unwrap(),
        }
    };
    let columns = &batch.columns()[..batch.num_columns() - 2];
    (0..batch.num_rows()).map(|row| columns.iter().map(|c| text(c, row)).collect()).collect()
}

fn run(case: &Case, mode: &Mode, log: &[LogRow]) -> Vec<Vec<String>> {
    let plan = plan(case);
    let memory = MemoryBudget::root("test", 1 << 30);
    let resources = resources(mode.spill);
    let mut graph_now = graph(&plan, &memory, &resources, None);
    let mut out = Vec::new();
    let mut take = |graph: &mut Graph| {
        for element in graph.results.drain(..) {
            if let Element::Rows(rows) = element {
                out.extend(texts(&rows.batch));
            }
        }
    };
    let (mut fed, mut from) = (0, 0);
    let (mut epoch, stored) = (0, Stored::default());
    for at in 1..=log.len() {
        // As a source gives them: never over two shards, never over the end of history.
        let cut = at == log.len()
            || at == mode.backfill
            || at - from == mode.batch_rows
            || log[at].shard != log[from].shard;
        if !cut {
            continue;
        }
        graph_now.feed(0, Element::Rows(Rows::append(batch(&log[from..at])))).unwrap();
        take(&mut graph_now);
        (from, fed) = (at, fed + 1);
        if at == mode.backfill {
            graph_now.feed(0, Element::EndOfBackfill).unwrap();
        }
        if mode.restore_every.is_some_and(|k| fed % (2 * k) == k) {
            epoch += 1;
            stored.checkpoint(&mut graph_now, &plan, epoch, |_| {});
        }
        if mode.restore_every.is_some_and(|k| fed % k == 0) && fed % 3 != 0 {
            epoch += 1;
            let saved = stored.checkpoint(&mut graph_now, &plan, epoch, |graph| {
                // Comes again after the restart.
                for row in log[at..].iter().take(3) {
                    graph.feed(0, Element::Rows(Rows::append(batch(std::slice::from_ref(row))))).unwrap();
                }
            });
            graph_now = graph(&plan, &memory, &resources, Some(&saved));
        } else if mode.restore_every.is_some_and(|k| fed % k == 0) {
            let mut written = Vec::new();
            for _ in 0..2 {
                epoch += 1;
                graph_now.feed(0, Element::Barrier(Epoch(epoch))).unwrap();
                take(&mut graph_now);
                let snapshot = graph_now.snapshots.pop().expect("the barrier has left at the top");
                drop(graph_now);
                graph_now = graph(&plan, &memory, &resources, Some(&snapshot));
                written.push(snapshot.1);
            }
            if !mode.spill {
                assert_eq!(written[0], written[1], "what was restored is what was written");
            }
        }
    }
    out
}

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = Case::generate(&rng);
    let expected = model::expected(&case);
    let modes = [
        Mode { backfill: 0, batch_rows: 8_192, restore_every: None, spill: false },
        Mode { backfill: usize::MAX, batch_rows: 7, restore_every: None, spill: true },
        Mode { backfill: case.log.len() / 2, batch_rows: 1, restore_every: None, spill: true },
        Mode { backfill: case.log.len() / 3, batch_rows: 7, restore_every: Some(1), spill: false },
        Mode { backfill: 0, batch_rows: 1, restore_every: Some(1 + rng.below(20) as usize), spill: true },
        Mode { backfill: 0, batch_rows: 1, restore_every: Some(1 + rng.below(20) as usize), spill: false },
    ];
    for mode in &modes {
        assert_eq!(run(&case, mode, &case.log), expected, "seed {seed}, {mode:?}, {case:#?}");
    }
    for shards in [2, 5] {
        let log = case.over_shards(shards);
        assert_eq!(run(&case, &modes[3], &log), expected, "seed {seed} over {shards} shards");
    }
}

#[test]
fn functions_of_earlier_rows_have_one_answer() {
    crate::tests::seeds::each_seed("functions of earlier rows", check);
}

#[test]
fn generated_cases_forget_keys() {
    let (mut expired, mut evicted) = (0, 0);
    for seed in 0..400 {
        let case = Case::generate(&Rng::seeded(seed));
        if let Kind::Dedup { ttl_us, keys_max } = case.kind {
            let kept = model::expected(&case).len();
            let unbounded = Case { kind: Kind::Dedup { ttl_us: None, keys_max: None }, ..case };
            let more = kept > model::expected(&unbounded).len();
            expired += usize::from(more && ttl_us.is_some() && keys_max.is_none());
            evicted += usize::from(more && ttl_us.is_none() && keys_max.is_some());
        }
    }
    assert!(expired > 3 && evicted > 5, "{expired} {evicted}");
}

#[test]
fn state_is_accounted_and_bounded_by_the_limit() {
    let log: Vec<LogRow> = (0..5_000)
        .map(|i| LogRow { append_us: i, shard: 0, k: Some(i), s: None, v: Some(1), f: 0.0 })
        .collect();
    let state = |kind| {
        let case = Case { kind, keys: vec!["k"], log: log.clone() };
        let memory = MemoryBudget::root("test", 1 << 30);
        let mut graph = graph(&plan(&case), &memory, &resources(false), None);
        for rows in log.chunks(500) {
            graph.feed(0, Element::Rows(Rows::append(batch(rows)))).unwrap();
        }
        let counters = graph.counters();
        let told = counters[0].2.state_bytes.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(told, memory.used_bytes(), "what is told is what is held");
        (counters[0].2.keys.load(std::sync::atomic::Ordering::Relaxed), told)
    };
    let (keys, bytes) = state(Kind::Dedup { ttl_us: None, keys_max: Some(100) });
    assert!(keys == 100 && bytes < 20_000, "{keys} keys, {bytes} bytes");
    let (keys, _) = state(Kind::Dedup { ttl_us: Some(50), keys_max: None });
    assert_eq!(keys, 50);
    let (keys, bytes) = state(Kind::Dedup { ttl_us: None, keys_max: None });
    assert!(keys == 5_000 && bytes > 5_000 * 8, "{keys} keys, {bytes} bytes");
    let (keys, bytes) = state(Kind::Over);
    assert!(keys == 5_000 && bytes > 5_000 * 100, "{keys} keys, {bytes} bytes");
}
