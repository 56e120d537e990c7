//! Runs a case's plan over a log, element by element, and folds what leaves into final rows.

use super::case::{Case, EmitKind, KeyKind, LogRow, MS};
use super::model::FinalRow;
use crate::build::build;
use crate::graph::{Graph, Snapshot};
use crate::resources::Resources;
use crate::state::spill::SpillSpace;
use crate::tests::stored::Stored;
use crate::tests::support::Scripts;
use crate::workers::Workers;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::col;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use weir_base::disk::SimDisk;
use weir_base::{ManualClock, MemoryBudget};
use weir_plan::{
    AggregateKind, AggregateSpec, Element, EmitPolicy, EmitSpec, Epoch, HistorySpec, Judged, LateRows,
    NodeId, Projection, ReplayOrder, RowOrder, Rows, SourceSpec, StartPosition, StreamNode, StreamPlan,
    WATERMARK_COLUMN, WatermarkSpec, WatermarkTime, WindowKeys, WindowTime,
};

#[derive(Debug)]
pub struct Mode {
    /// So many rows are history.
    pub backfill: usize,
    pub batch_rows: usize,
    /// After every so many batches everything is written down, dropped and restored.
    pub restore_every: Option<usize>,
    /// State of more than a few groups is dealt over so many threads; a restore goes on with more.
    pub threads: usize,
    /// Memory is never enough: all state spills after every batch.
    pub spill: bool,
}

#[derive(Debug)]
pub struct Got {
    pub rows: Vec<FinalRow>,
    pub late_rows: u64,
}

pub(super) fn schema() -> SchemaRef {
    let ms = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let us = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("t", ms, false),
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, false),
        Field::new("even", DataType::Boolean, true),
        Field::new("_tp_shard", DataType::Int32, false),
        Field::new("_tp_append_time", us, false),
        Field::new("_tp_sn", DataType::Int64, false),
    ]))
}

pub(super) fn batch(rows: &[LogRow]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            rows.iter().map(|r| Some(r.time_ms)).collect::<TimestampMillisecondArray>().with_timezone("UTC"),
        ),
        Arc::new(rows.iter().map(|r| r.k).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.s.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| r.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.f)).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.v.map(|v| v % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|r| Some(r.shard)).collect::<Int32Array>()),
        Arc::new(
            rows.iter()
                .map(|r| Some(r.append_us))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        Arc::new(rows.iter().map(|r| Some(r.sn)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Aggregate(Window(Source)), or Aggregate(Source).
fn plan(case: &Case, replay_order: ReplayOrder) -> StreamPlan {
    let schema = schema();
    let column = |name: &str, s: &Schema| col(name, s).unwrap();
    let source = StreamNode::Source {
        id: NodeId(2),
        spec: SourceSpec {
            database: "default".into(),
            relation: "s".into(),
            columns: schema.fields().iter().map(|f| f.name().clone()).collect(),
            schema: schema.clone(),
            start: StartPosition::Earliest,
            prune: None,
            log_order: false,
            watermark: case.window.map(|_| WatermarkSpec {
                time: column("t", &schema),
                delay_ns: case.delay_ns,
                silence_us: 0,
                idle_timeout_us: case.idle_timeout_us,
                future_max_ns: case.future_max_ns,
                timeout: None,
                shard: 6,
                append_time: 7,
                partition: None,
            }),
            history: HistorySpec::default(),
        },
    };
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    let input = match case.window {
        None => source,
        Some(spec) => {
            let t = schema.field(0).data_type().clone();
            fields.push(Field::new("window_start", t.clone(), false));
            fields.push(Field::new("window_end", t, false));
            fields.push(Field::new(WATERMARK_COLUMN, DataType::Int64, false));
            StreamNode::Window {
                id: NodeId(1),
                spec,
                time: WindowTime::Event(column("t", &schema)),
                judged: Some(Judged { watermark: 9, shard: 6, sn: 8, kept: Vec::new() }),
                session: None,
                at: 9,
                schema: Arc::new(Schema::new(fields)),
                input: Box::new(source),
            }
        }
    };
    let below = input.schema();
    let mut names = Vec::new();
    if case.window.is_some() {
        // Not in front: the window may stand anywhere among the keys.
        names.extend(["window_end", "window_start"]);
    }
    match case.key {
        KeyKind::None => {}
        KeyKind::Int => names.insert(0, "k"),
        KeyKind::Text => names.push("s"),
        KeyKind::Both => names.extend(["k", "s"]),
    }
    let keys: Vec<Projection> =
        names.iter().map(|n| Projection { expr: column(n, &below), name: (*n).into() }).collect();
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
    let window = case.window.map(|spec| WindowKeys {
        start: at("window_start"),
        end: at("window_end"),
        spec,
        passes: None,
    });
    use AggregateKind as K;
    let list = DataType::new_list(DataType::Int64, true);
    let (int, float, utf8) = (DataType::Int64, DataType::Float64, DataType::Utf8);
    let even = Some(column("even", &below));
    let specs: Vec<(AggregateKind, Vec<&str>, Option<Arc<dyn PhysicalExpr>>, DataType)> = vec![
        (K::Count, vec![], None, int.clone()),
        (K::Count, vec!["v"], None, int.clone()),
        (K::Sum, vec!["v"], None, int.clone()),
        (K::Avg, vec!["v"], None, float.clone()),
        (K::Min, vec!["v"], None, int.clone()),
        (K::Max, vec!["v"], None, int.clone()),
        (K::Min, vec!["f"], None, float.clone()),
        (K::Max, vec!["f"], even.clone(), float.clone()),
        (K::Count, vec![], even, int.clone()),
        (K::First { skip_nulls: true }, vec!["v"], None, int.clone()),
        (K::Last { skip_nulls: false }, vec!["s"], None, utf8.clone()),
        (K::ArgMin, vec!["v", "f"], None, int.clone()),
        (K::UniqExact, vec!["v"], None, int.clone()),
        (K::Uniq, vec!["v"], None, int),
        (K::VarPop, vec!["v"], None, float),
        (K::GroupArray { skip_nulls: true }, vec!["v"], None, list),
        (K::Min, vec!["s"], None, utf8),
    ];
    let aggregates: Vec<AggregateSpec> = specs
        .into_iter()
        .enumerate()
        .map(|(i, (kind, args, filter, t))| AggregateSpec {
            kind,
            args: args.into_iter().map(|a| column(a, &below)).collect(),
            filter,
            output: Arc::new(Field::new(format!("a{i}"), t, true)),
        })
        .collect();
    let mut out: Vec<Field> = names.iter().map(|n| below.field_with_name(n).unwrap().clone()).collect();
    out.extend(aggregates.iter().map(|a| a.output.as_ref().clone()));
    let policy = match case.emit {
        EmitKind::Default if case.window.is_some() => EmitPolicy::OnClose,
        EmitKind::Default => EmitSpec::GLOBAL.policy,
        EmitKind::Periodic => EmitPolicy::Periodic { every_us: 1_000, repeat: false },
        EmitKind::OnUpdate | EmitKind::Changelog => EmitPolicy::OnUpdate { every_us: None },
        EmitKind::OnUpdateEvery => EmitPolicy::OnUpdate { every_us: Some(1_000) },
    };
    let root = StreamNode::Aggregate {
        id: NodeId(0),
        keys,
        aggregates,
        order: Some(RowOrder { time: 0, shard: 6, sn: 8 }),
        window,
        emit: EmitSpec { policy, changelog: case.emit == EmitKind::Changelog },
        whole: false,
        schema: Arc::new(Schema::new(out)),
        input: Box::new(input),
    };
    StreamPlan::new(root, replay_order)
}

pub(super) struct Runner {
    plan: StreamPlan,
    clock: Arc<ManualClock>,
    pub memory: Arc<MemoryBudget>,
    resources: Resources,
    graph: Graph,
    disk: Arc<SimDisk>,
    pub out: Vec<Rows>,
    pub late: Vec<LateRows>,
    epoch: u64,
    stored: Stored,
    restored: usize,
    /// Rows of shards from this one on are a second source's, there from 0.
    split: Option<i32>,
}

impl Runner {
    pub fn new(plan: StreamPlan, threads: usize, spill: bool) -> Self {
        Self::with_memory(plan, threads, spill, 1 << 30)
    }

    pub fn with_memory(plan: StreamPlan, threads: usize, spill: bool, bytes: u64) -> Self {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let memory = MemoryBudget::root("test", bytes);
        let disk = Arc::new(SimDisk::new(1));
        let mut resources = Resources::new(Workers::new(threads));
        (resources.divide_groups, resources.piece_rows) = (3, 4);
        if spill {
            resources.spill = Some(SpillSpace::new(disk.clone(), "spill"));
            resources.memory = Some(MemoryBudget::root("tiny", 1));
            resources.spill_bytes_min = 1;
        }
        let graph = Self::build(&plan, &clock, &memory, &resources, None);
        Runner {
            plan,
            clock,
            memory,
            resources,
            graph,
            disk,
            out: Vec::new(),
            late: Vec::new(),
            epoch: 0,
            stored: Stored::default(),
            restored: 0,
            split: None,
        }
    }

    fn build(
        plan: &StreamPlan,
        clock: &Arc<ManualClock>,
        memory: &Arc<MemoryBudget>,
        resources: &Resources,
        saved: Option<&Snapshot>,
    ) -> Graph {
        let scripts = Scripts::default();
        let mut sources: HashMap<_, _> =
            plan.root.sources().into_iter().map(|(id, _)| (id, scripts.open_one(id))).collect();
        let saved = saved.map_or(&[][..], |(_, states)| states);
        let mut graph = build(plan, &mut sources, clock.clone(), memory, resources, saved).unwrap();
        graph.keep_snapshots = true;
        graph
    }

    /// What every source says.
    pub fn feed(&mut self, element: Element) {
        self.try_feed(element).unwrap();
    }

    pub fn try_feed(&mut self, element: Element) -> Result<(), weir_plan::StreamError> {
        (0..self.graph.leaves.len()).try_for_each(|leaf| self.feed_to(leaf, element.clone()))
    }

    /// Over two sources, with the first shard that is the second one's.
    pub fn split_at(mut self, shard: i32) -> Self {
        self.split = Some(shard);
        self
    }

    fn rows(&mut self, rows: &[LogRow]) {
        let (leaf, first) = match self.split.filter(|split| rows[0].shard >= *split) {
            Some(split) => (1, split),
            None => (0, 0),
        };
        let own: Vec<LogRow> = rows.iter().map(|r| LogRow { shard: r.shard - first, ..r.clone() }).collect();
        self.feed_to(leaf, Element::Rows(Rows::append(batch(&own)))).unwrap();
    }

    fn feed_to(&mut self, leaf: usize, element: Element) -> Result<(), weir_plan::StreamError> {
        self.graph.feed(leaf, element)?;
        self.take();
        while self.graph.resume()? {
            self.take();
        }
        Ok(())
    }

    pub fn counters(&self) -> Vec<(NodeId, &'static str, Arc<weir_plan::QueryCounters>)> {
        self.graph.counters()
    }

    fn take(&mut self) {
        self.late.extend(self.graph.late.drain(..));
        for element in self.graph.results.drain(..) {
            if let Element::Rows(rows) = element {
                self.out.push(rows);
            }
        }
    }

    /// Ticks as long as somebody wants one.
    pub fn tick(&mut self) {
        self.clock.advance(std::time::Duration::from_secs(10));
        if self.graph.tick_due().is_some_and(|due| due <= weir_base::Clock::now_us(&*self.clock)) {
            self.graph.tick().unwrap();
            self.take();
            while self.graph.resume().unwrap() {
                self.take();
            }
        }
    }

    /// As after a restart; `next` comes meanwhile, and again.
    fn restore(&mut self, next: &[LogRow]) {
        self.restored += 1;
        if self.restored % 5 == 1 { self.restore_inline() } else { self.restore_stored(next) }
    }

    fn restore_stored(&mut self, next: &[LogRow]) {
        self.epoch += 1;
        let there = (self.out.len(), self.late.len());
        let within = self.stored.begin(&mut self.graph);
        self.feed(Element::Barrier(Epoch(self.epoch)));
        let there = (self.out.len().max(there.0), self.late.len().max(there.1));
        self.graph.files = None;
        // What comes while it is written is not in it.
        self.graph.write_more(1).unwrap();
        if !next.is_empty() {
            self.rows(next);
        }
        self.graph.write_more(1).unwrap();
        self.tick();
        let saved = self.stored.complete(&mut self.graph, &self.plan);
        drop(within);
        self.out.truncate(there.0);
        self.late.truncate(there.1);
        self.resources.threads = self.resources.threads % 5 + 1;
        self.graph = Self::build(&self.plan, &self.clock, &self.memory, &self.resources, Some(&saved));
    }

    fn restore_inline(&mut self) {
        self.epoch += 1;
        self.feed(Element::Barrier(Epoch(self.epoch)));
        let snapshot = self.graph.snapshots.pop().expect("the barrier has left at the top");
        self.graph = Self::build(&self.plan, &self.clock, &self.memory, &self.resources, Some(&snapshot));
        let again = {
            self.epoch += 1;
            self.feed(Element::Barrier(Epoch(self.epoch)));
            self.graph.snapshots.pop().unwrap()
        };
        if self.resources.spill.is_none() {
            assert_eq!(again.1, snapshot.1, "what was restored is what was written");
        }
        // On a machine with other cores.
        self.resources.threads = self.resources.threads % 5 + 1;
        self.graph = Self::build(&self.plan, &self.clock, &self.memory, &self.resources, Some(&snapshot));
    }

    /// A log, up to where nothing follows for now.
    pub fn play(&mut self, mode: &Mode, log: &[LogRow]) {
        let seam = mode.backfill.min(log.len());
        let mut fed = 0;
        for (part, rows) in [&log[..seam], &log[seam..]].into_iter().enumerate() {
            let batches = batches(rows, mode.batch_rows);
            for (at, rows) in batches.iter().enumerate() {
                self.rows(rows);
                fed += 1;
                // Knowing that time has passed changes nothing but how soon windows close.
                if fed % 3 == 0 {
                    self.feed_to(0, Element::Frontier(rows[rows.len() - 1].append_us - 1)).unwrap();
                }
                if fed % 5 == 0 {
                    self.tick();
                }
                if mode.restore_every.is_some_and(|k| fed % k == 0) {
                    self.restore(batches.get(at + 1).copied().unwrap_or_default());
                }
            }
            if part == 0 {
                self.feed(Element::EndOfBackfill);
            }
        }
    }

    /// Whether something lies on disk.
    pub fn spilled(&self) -> bool {
        !self.disk.files().is_empty()
    }

    pub fn late_rows(&self) -> u64 {
        self.graph.counters().iter().map(|(_, _, c)| c.late_rows.load(Relaxed)).sum()
    }
}

/// Batches as a source gives them: in log order, never over two shards.
fn batches(log: &[LogRow], rows_max: usize) -> Vec<&[LogRow]> {
    let mut all = Vec::new();
    let mut from = 0;
    for i in 1..=log.len() {
        if i == log.len() || i - from == rows_max || log[i].shard != log[from].shard {
            all.push(&log[from..i]);
            from = i;
        }
    }
    all
}

pub fn run(case: &Case, mode: &Mode, log: &[LogRow]) -> Got {
    let mut runner = Runner::new(plan(case, ReplayOrder::Arrival), mode.threads, mode.spill);
    runner.play(mode, log);
    finish(case, runner)
}

/// The same over the UNION of two streams, which have the shards from 0 and from `split` on.
pub fn run_united(case: &Case, mode: &Mode, log: &[LogRow], split: i32) -> Got {
    let plan = super::united::plan(plan(case, ReplayOrder::Arrival));
    let mut runner = Runner::new(plan, mode.threads, mode.spill).split_at(split);
    runner.play(mode, log);
    finish(case, runner)
}

/// History by event time, then nothing.
pub fn by_event_time(case: &Case) -> Vec<FinalRow> {
    let mut runner = Runner::new(plan(case, ReplayOrder::EventTime), 2, true);
    let mut log = case.log.clone();
    log.sort_by_key(|r| (r.time_ms, r.shard, r.sn));
    for rows in log.chunks(11) {
        runner.feed(Element::Rows(Rows::append(batch(rows))));
    }
    runner.feed(Element::EndOfBackfill);
    finish(case, runner).rows
}

/// As SYSTEM DRAIN: all there is has been read, the watermark goes to the end of time.
fn finish(case: &Case, mut runner: Runner) -> Got {
    runner.tick();
    let before_drain = runner.out.len();
    runner.feed(Element::Watermark(WatermarkTime::INFINITY));
    let late_rows = runner.late_rows();
    if case.window.is_some() {
        assert_eq!(runner.memory.used_bytes(), 0, "closed windows are freed");
    }
    if case.emit == EmitKind::Default && case.window.is_some() {
        closes_in_order(case, &runner.out[..before_drain]);
        closes_in_order(case, &runner.out[before_drain..]);
    }
    let mut last: BTreeMap<(i64, i64, String), (i64, Vec<String>)> = BTreeMap::new();
    let changelog = case.emit == EmitKind::Changelog;
    let mut seen_final = HashMap::new();
    for rows in &runner.out {
        let weights = rows.weights.clone();
        assert_eq!(weights.is_some(), changelog);
        for (i, (start, end, key, values)) in texts(case, &rows.batch).into_iter().enumerate() {
            let key = (start, end, key);
            if case.emit == EmitKind::Default && case.window.is_some() {
                assert!(seen_final.insert(key.clone(), ()).is_none(), "{key:?} left twice");
            }
            match weights.as_ref().map(|w| w.value(i)) {
                None => {
                    last.insert(key, (1, values));
                }
                Some(-1) => {
                    let held = last.remove(&key).expect("what is taken back was given");
                    assert_eq!(held.1, values, "what is taken back is what was given");
                    assert_eq!(weights.as_ref().unwrap().value(i + 1), 1, "old and new lie side by side");
                }
                Some(1) => {
                    assert!(last.insert(key, (1, values)).is_none(), "the old row is taken back first")
                }
                Some(other) => panic!("weight {other}"),
            }
        }
    }
    let rows = last.into_iter().map(|((start, end, key), (_, values))| (start, end, key, values)).collect();
    Got { rows, late_rows }
}

/// Final rows leave by (end, start, key).
fn closes_in_order(case: &Case, out: &[Rows]) {
    let mut all: Vec<(i64, i64, (bool, i64), (bool, String))> = Vec::new();
    for rows in out {
        let column = |name: &str| rows.batch.column_by_name(name).cloned();
        let texts = texts(case, &rows.batch);
        for (i, (start, end, ..)) in texts.into_iter().enumerate() {
            let k = column("k").map_or((true, 0), |c| {
                let c = c.as_primitive::<Int64Type>().clone();
                if c.is_null(i) { (false, 0) } else { (true, c.value(i)) }
            });
            let s = column("s").map_or((true, String::new()), |c| {
                let c = c.as_string::<i32>().clone();
                if c.is_null(i) { (false, String::new()) } else { (true, c.value(i).to_owned()) }
            });
            all.push((end, start, k, s));
        }
    }
    assert!(all.is_sorted(), "{all:?}");
}

fn texts(case: &Case, batch: &RecordBatch) -> Vec<FinalRow> {
    let bound = |name: &str| {
        batch.column_by_name(name).map(|c| c.as_primitive::<TimestampMillisecondType>().values().to_vec())
    };
    let (starts, ends) = (bound("window_start"), bound("window_end"));
    let names: &[&str] = match case.key {
        KeyKind::None => &[],
        KeyKind::Int => &["k"],
        KeyKind::Text => &["s"],
        KeyKind::Both => &["k", "s"],
    };
    let text = |array: &ArrayRef, i: usize| -> String {
        if array.is_null(i) {
            return "NULL".into();
        }
        match array.data_type() {
            DataType::Float64 => {
                let v = array.as_primitive::<arrow_array::types::Float64Type>().value(i);
                v.to_string()
            }
            _ => arrow::util::display::array_value_to_string(array, i).unwrap(),
        }
    };
    let keys = batch.num_columns() - 17;
    (0..batch.num_rows())
        .map(|i| {
            let at = |b: &Option<Vec<i64>>| b.as_ref().map_or(0, |b| b[i] * MS);
            let key: Vec<String> = names.iter().map(|n| text(batch.column_by_name(n).unwrap(), i)).collect();
            let values = (keys..batch.num_columns())
                .map(|c| {
                    let value = text(batch.column(c), i);
                    // Means and variances agree to rounding.
                    match (c - keys, value.parse::<f64>()) {
                        (3 | 14, Ok(v)) => format!("{:.6}", v + 0.0),
                        _ => value,
                    }
                })
                .collect();
            (at(&starts), at(&ends), key.join(","), values)
        })
        .collect()
}
