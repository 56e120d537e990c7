//! Windows whose keys have a watermark each: generated logs, run in every way, against a model that
//! judges one row at a time.
//!
//! Which cases are run: `tests::seeds`.

use crate::build::build;
use crate::graph::{Graph, Snapshot};
use crate::resources::Resources;
use crate::tests::stored::Stored;
use crate::tests::support::Scripts;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_array::{
    Array, ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_expr::Operator as Op;
use datafusion_physical_expr::expressions::{BinaryExpr, col, lit};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use weir_base::{Clock, ManualClock, MemoryBudget, Rng};
use weir_plan::{
    AggregateKind, AggregateSpec, Element, EmitPolicy, EmitSpec, Epoch, HistorySpec, Judged, NodeId,
    PartitionSpec, Projection, ReplayOrder, Rows, SourceSpec, Span, StartPosition, StreamNode, StreamPlan,
    WATERMARK_COLUMN, WatermarkSpec, WatermarkTime, WindowKeys, WindowKind, WindowSpec, WindowTime,
};

const MS: i64 = 1_000_000;

#[derive(Debug, Clone)]
struct LogRow {
    append_us: i64,
    shard: i32,
    time_ms: i64,
    k: Option<i64>,
    v: i64,
}

#[derive(Debug)]
struct Case {
    log: Vec<LogRow>,
    window: WindowSpec,
    delay_ms: i64,
    lag_ms: i64,
    future_max_ms: i64,
    /// Only rows with v > 0 pass between source and window.
    filter: bool,
    emit: EmitPolicy,
}

/// (key, start, end) in milliseconds, to (count, sum).
type Windows = BTreeMap<(Option<i64>, i64, i64), (i64, i64)>;

fn pick<T: Copy>(rng: &Rng, all: &[T]) -> T {
    all[rng.below(all.len() as u64) as usize]
}

impl Case {
    fn generate(rng: &Rng) -> Case {
        let shards = pick(rng, &[1i32, 1, 2, 5]);
        let keys = pick(rng, &[1u64, 4, 60]);
        let rows = rng.below(pick(rng, &[5, 60, 400])) + 1;
        let base_ms = 1_774_742_400_000;
        let (mut append_us, mut shard) = (base_ms * 1_000, 0);
        // Every key has a clock of its own, some far behind.
        let behind: Vec<i64> = (0..keys).map(|_| pick(rng, &[0, 0, 300, 5_000, 100_000])).collect();
        let log = (0..rows)
            .map(|_| {
                append_us += if rng.below(2) == 0 { 0 } else { rng.below(300_000) as i64 };
                if rng.below(3) == 0 {
                    let next = rng.below(shards as u64) as i32;
                    // At one append time the log's order is by shard.
                    append_us += i64::from(next < shard);
                    shard = next;
                }
                let key = rng.below(keys);
                let mut time_ms = append_us / 1_000 - behind[key as usize] - rng.below(1_500) as i64;
                if rng.below(50) == 0 {
                    time_ms += 90_000;
                }
                LogRow {
                    append_us,
                    shard,
                    time_ms,
                    k: (key > 0).then_some(key as i64),
                    v: rng.below(20) as i64 - 5,
                }
            })
            .collect();
        let kind = if rng.below(2) == 0 {
            WindowKind::Tumble { size: Span::Fixed(pick(rng, &[100, 1_000, 4_000]) * MS) }
        } else {
            WindowKind::Hop { slide: Span::Fixed(500 * MS), size: Span::Fixed(1_200 * MS) }
        };
        Case {
            log,
            window: WindowSpec { kind, zone: chrono_tz::Tz::UTC },
            delay_ms: pick(rng, &[0, 700]),
            lag_ms: pick(rng, &[0, 2_000, 86_400_000]),
            future_max_ms: pick(rng, &[0, 60_000]),
            filter: rng.below(2) == 0,
            emit: pick(
                rng,
                &[
                    EmitPolicy::OnClose,
                    EmitPolicy::OnClose,
                    EmitPolicy::Periodic { every_us: 1_000_000, repeat: false },
                    EmitPolicy::OnUpdate { every_us: None },
                ],
            ),
        }
    }

    /// All windows, those that close before the end of the log, and the number of late rows.
    fn expected(&self) -> (Windows, BTreeSet<(Option<i64>, i64, i64)>, u64) {
        const NEVER: i64 = i64::MIN / 2;
        let (mut query, mut late_rows) = (NEVER, 0);
        let mut shards: BTreeMap<i32, i64> = BTreeMap::new();
        let mut keys: BTreeMap<Option<i64>, i64> = BTreeMap::new();
        let mut windows = Windows::new();
        for row in &self.log {
            let shard = shards.entry(row.shard).or_insert(query);
            let own = keys.entry(row.k).or_insert(NEVER);
            let judged = (*own).max(*shard - self.lag_ms);
            let mut late = false;
            if !self.filter || row.v > 0 {
                self.window.windows_of(row.time_ms * MS, |start, end| {
                    let (start, end) = (start / MS, end / MS);
                    if judged >= end {
                        late = true;
                    } else {
                        let held = windows.entry((row.k, start, end)).or_default();
                        *held = (held.0 + 1, held.1 + row.v);
                    }
                });
            }
            late_rows += u64::from(late);
            let future =
                self.future_max_ms > 0 && row.time_ms * 1_000 > row.append_us + self.future_max_ms * 1_000;
            if !future {
                *own = (*own).max(row.time_ms - self.delay_ms);
                *shard = (*shard).max(row.time_ms - self.delay_ms);
            }
            query = query.max(*shards.values().min().expect("this row's"));
        }
        let closed = windows.keys().filter(|(k, _, end)| keys[k].max(query - self.lag_ms) >= *end);
        let closed = closed.copied().collect();
        (windows, closed, late_rows)
    }
}

fn schema() -> SchemaRef {
    let ms = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let us = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("t", ms, false),
        Field::new("k", DataType::Int64, true),
        Field::new("v", DataType::Int64, false),
        Field::new("_tp_shard", DataType::Int32, false),
        Field::new("_tp_append_time", us, false),
        Field::new("_tp_sn", DataType::Int64, false),
    ]))
}

fn batch(rows: &[LogRow]) -> RecordBatch {
    let ms = rows.iter().map(|r| Some(r.time_ms)).collect::<TimestampMillisecondArray>();
    let us = rows.iter().map(|r| Some(r.append_us)).collect::<TimestampMicrosecondArray>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ms.with_timezone("UTC")),
        Arc::new(rows.iter().map(|r| r.k).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.v)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.shard)).collect::<Int32Array>()),
        Arc::new(us.with_timezone("UTC")),
        Arc::new(Int64Array::from_iter_values(0..rows.len() as i64)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn plan(case: &Case) -> StreamPlan {
    let schema = schema();
    let column = |name: &str, s: &Schema| col(name, s).unwrap();
    let mut input = StreamNode::Source {
        id: NodeId(4),
        spec: SourceSpec {
            database: "default".into(),
            relation: "s".into(),
            columns: schema.fields().iter().map(|f| f.name().clone()).collect(),
            schema: schema.clone(),
            start: StartPosition::Earliest,
            prune: None,
            log_order: false,
            history: HistorySpec::default(),
            watermark: Some(WatermarkSpec {
                time: column("t", &schema),
                delay_ns: case.delay_ms * MS,
                silence_us: 0,
                timeout: None,
                // Idle shards have a test of their own.
                idle_timeout_us: i64::MAX,
                future_max_ns: case.future_max_ms * MS,
                shard: 3,
                append_time: 4,
                partition: Some(PartitionSpec {
                    keys: vec![column("k", &schema)],
                    lag_max_ns: case.lag_ms * MS,
                }),
            }),
        },
    };
    if case.filter {
        let predicate = Arc::new(BinaryExpr::new(column("v", &schema), Op::Gt, lit(0i64)));
        input = StreamNode::Filter { id: NodeId(3), predicate, input: Box::new(input) };
    }
    let t = schema.field(0).data_type().clone();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("window_start", t.clone(), false));
    fields.push(Field::new("window_end", t.clone(), false));
    fields.push(Field::new(WATERMARK_COLUMN, DataType::Int64, false));
    let input = StreamNode::Window {
        id: NodeId(2),
        spec: case.window,
        time: WindowTime::Event(column("t", &schema)),
        judged: Some(Judged { watermark: 6, shard: 3, sn: 5, kept: Vec::new() }),
        session: None,
        at: 6,
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(input),
    };
    let below = input.schema();
    let key = |name: &str| Projection { expr: column(name, &below), name: name.into() };
    let int = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
    let spec = |kind, arg: Option<&str>, name: &str| AggregateSpec {
        kind,
        args: arg.into_iter().map(|a| column(a, &below)).collect(),
        filter: None,
        output: int(name),
    };
    let aggregate = StreamNode::Aggregate {
        id: NodeId(1),
        keys: vec![key("k"), key("window_start"), key("window_end")],
        aggregates: vec![spec(AggregateKind::Count, None, "n"), spec(AggregateKind::Sum, Some("v"), "sum")],
        order: None,
        window: Some(WindowKeys { start: 1, end: 2, spec: case.window, passes: None }),
        emit: EmitSpec { policy: case.emit, changelog: false },
        whole: false,
        schema: Arc::new(Schema::new(vec![
            int("k"),
            Arc::new(Field::new("window_start", t.clone(), false)),
            Arc::new(Field::new("window_end", t, false)),
            int("n"),
            int("sum"),
        ])),
        input: Box::new(input),
    };
    let root = StreamNode::Substreams { id: NodeId(0), partition: vec![key("k")], of: Box::new(aggregate) };
    StreamPlan::new(root, ReplayOrder::Arrival)
}

struct Runner {
    plan: StreamPlan,
    clock: Arc<ManualClock>,
    memory: Arc<MemoryBudget>,
    graph: Graph,
    epoch: u64,
    stored: Stored,
    restored: usize,
    windows: Windows,
    once: bool,
}

impl Runner {
    fn new(case: &Case) -> Self {
        let plan = plan(case);
        let clock = Arc::new(ManualClock::new(1_000_000));
        let memory = MemoryBudget::root("test", 1 << 30);
        let graph = Self::graph(&plan, &clock, &memory, None);
        let once = case.emit == EmitPolicy::OnClose;
        let stored = Stored::default();
        Runner { plan, clock, memory, graph, epoch: 0, stored, restored: 0, windows: Windows::new(), once }
    }

    fn graph(
        plan: &StreamPlan,
        clock: &Arc<ManualClock>,
        memory: &Arc<MemoryBudget>,
        saved: Option<&Snapshot>,
    ) -> Graph {
        let scripts = Scripts::default();
        let mut sources: HashMap<_, _> =
            plan.root.sources().into_iter().map(|(id, _)| (id, scripts.open_one(id))).collect();
        let saved = saved.map_or(&[][..], |(_, states)| states);
        let mut graph =
            build(plan, &mut sources, clock.clone(), memory, &Resources::one_thread(), saved).unwrap();
        graph.keep_snapshots = true;
        graph
    }

    fn feed(&mut self, element: Element) {
        self.graph.feed(0, element).unwrap();
        let results: Vec<Element> = self.graph.results.drain(..).collect();
        for element in results {
            let Element::Rows(rows) = element else { continue };
            let ints = |i: usize| rows.batch.column(i).as_primitive::<Int64Type>().clone();
            let times = |i: usize| rows.batch.column(i).as_primitive::<TimestampMillisecondType>().clone();
            let (k, start, end, n, sum) = (ints(0), times(1), times(2), ints(3), ints(4));
            for i in 0..rows.batch.num_rows() {
                let key = (k.is_valid(i).then(|| k.value(i)), start.value(i), end.value(i));
                let before = self.windows.insert(key, (n.value(i), sum.value(i)));
                assert!(before.is_none() || !self.once, "{key:?} left twice");
            }
        }
    }

    fn tick(&mut self) {
        self.clock.advance(std::time::Duration::from_secs(10));
        if self.graph.tick_due().is_some_and(|due| due <= self.clock.now_us()) {
            self.graph.tick().unwrap();
            self.feed(Element::Watermark(WatermarkTime(i64::MIN)));
        }
    }

    /// As after a restart; `next` comes meanwhile, and again.
    fn restore(&mut self, next: &[LogRow]) {
        self.restored += 1;
        self.epoch += 1;
        if !self.restored.is_multiple_of(3) {
            let saved = self.stored.checkpoint(&mut self.graph, &self.plan, self.epoch, |graph| {
                for row in next.iter().take(3) {
                    graph.feed(0, Element::Rows(Rows::append(batch(std::slice::from_ref(row))))).unwrap();
                }
            });
            self.graph = Self::graph(&self.plan, &self.clock, &self.memory, Some(&saved));
            return;
        }
        self.stored.checkpoint(&mut self.graph, &self.plan, self.epoch, |_| {});
        let mut written = Vec::new();
        for _ in 0..2 {
            self.epoch += 1;
            self.feed(Element::Barrier(Epoch(self.epoch)));
            let snapshot = self.graph.snapshots.pop().expect("the barrier has left at the top");
            self.graph = Self::graph(&self.plan, &self.clock, &self.memory, Some(&snapshot));
            written.push(snapshot.1);
        }
        assert_eq!(written[0], written[1], "what was restored is what was written");
    }
}

fn run(
    case: &Case,
    backfill: usize,
    batch_rows: usize,
    restore_every: Option<usize>,
) -> (Windows, Windows, u64) {
    let mut runner = Runner::new(case);
    let (mut from, mut fed) = (0, 0);
    if backfill == 0 {
        runner.feed(Element::EndOfBackfill);
    }
    let log = &case.log;
    for at in 1..=log.len() {
        let cut =
            at == log.len() || at == backfill || at - from == batch_rows || log[at].shard != log[from].shard;
        if !cut {
            continue;
        }
        runner.feed(Element::Rows(Rows::append(batch(&log[from..at]))));
        (from, fed) = (at, fed + 1);
        if at == backfill {
            runner.feed(Element::EndOfBackfill);
        }
        if fed % 5 == 0 {
            runner.tick();
        }
        if restore_every.is_some_and(|k| fed % k == 0) {
            runner.restore(&log[at..]);
        }
    }
    let before_drain = runner.windows.clone();
    runner.feed(Element::Watermark(WatermarkTime::INFINITY));
    let late = runner.graph.counters().iter().map(|(_, _, c)| c.late_rows.load(Relaxed)).sum();
    let held: u64 = runner
        .graph
        .counters()
        .iter()
        .filter(|(id, ..)| id.0 == 0)
        .map(|(_, _, c)| c.keys.load(Relaxed))
        .sum();
    assert_eq!(held, 0, "closed windows are freed");
    (before_drain, runner.windows, late)
}

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = Case::generate(&rng);
    let (windows, closed, late_rows) = case.expected();
    let modes = [
        (0, 8_192, None),
        (usize::MAX, 7, None),
        (case.log.len() / 2, 1, None),
        (case.log.len() / 3, 7, Some(1)),
        (0, 1, Some(1 + rng.below(20) as usize)),
    ];
    for (backfill, batch_rows, restore_every) in modes {
        let (before_drain, got, late) = run(&case, backfill, batch_rows, restore_every);
        let mode = (backfill, batch_rows, restore_every);
        assert_eq!(got, windows, "seed {seed}, {mode:?}, {case:#?}");
        assert_eq!(late, late_rows, "late rows of seed {seed}, {mode:?}");
        if case.emit == EmitPolicy::OnClose {
            let left: BTreeSet<_> = before_drain.keys().copied().collect();
            assert_eq!(left, closed, "what closed before the end, seed {seed}, {mode:?}, {case:#?}");
        }
    }
}

#[test]
fn windows_of_substreams_have_one_answer() {
    crate::tests::seeds::each_seed("substreams", check);
}

#[test]
fn generated_cases_have_late_rows_and_keys_that_fall_behind() {
    let (mut late, mut open, mut forced) = (0, 0, 0);
    for seed in 0..200 {
        let mut case = Case::generate(&Rng::seeded(seed));
        let (windows, closed, late_rows) = case.expected();
        late += usize::from(late_rows > 0);
        open += usize::from(closed.len() < windows.len());
        let lag_ms = std::mem::replace(&mut case.lag_ms, i64::MAX / 8);
        forced += usize::from(lag_ms < 86_400_000 && case.expected().1.len() < closed.len());
    }
    assert!(late > 50 && open > 50 && forced > 10, "{late} {open} {forced}");
}
