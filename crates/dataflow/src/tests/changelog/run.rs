//! Runs a case's plan over its log, element by element, and folds what leaves into a result set.

use super::case::{Case, Emit, LogRow};
use super::model::{FinalRow, rounded};
use super::plan::{plan, source_schema};
use crate::build::build;
use crate::graph::{Graph, Snapshot};
use crate::resources::Resources;
use crate::state::spill::SpillSpace;
use crate::tests::stored::Stored;
use crate::tests::support::Scripts;
use crate::workers::Workers;
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow_schema::DataType;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weir_base::disk::SimDisk;
use weir_base::{ManualClock, MemoryBudget};
use weir_plan::{Element, Epoch, Rows, StreamError, StreamPlan};

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

fn batch(case: &Case, rows: &[LogRow]) -> RecordBatch {
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
        Arc::new(rows.iter().map(|r| Some(r.sn)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.weight)).collect::<Int8Array>()),
    ];
    let schema = source_schema(case.rows);
    let columns = columns.into_iter().take(schema.fields().len()).collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

struct Runner {
    plan: StreamPlan,
    clock: Arc<ManualClock>,
    memory: Arc<MemoryBudget>,
    resources: Resources,
    graph: Graph,
    /// What left, by the element that caused it.
    out: Vec<Vec<Rows>>,
    epoch: u64,
    stored: Stored,
    restored: usize,
}

impl Runner {
    fn new(plan: StreamPlan, threads: usize, spill: bool) -> Self {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let memory = MemoryBudget::root("test", 1 << 30);
        let mut resources = Resources::new(Workers::new(threads));
        (resources.divide_groups, resources.piece_rows, resources.tidy_groups) = (3, 4, 2);
        if spill {
            resources.spill = Some(SpillSpace::new(Arc::new(SimDisk::new(1)), "spill"));
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
            out: Vec::new(),
            epoch: 0,
            stored: Stored::default(),
            restored: 0,
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

    fn feed(&mut self, element: Element) -> Result<(), StreamError> {
        self.graph.feed(0, element)?;
        self.take()
    }

    /// All that one element made leave.
    fn take(&mut self) -> Result<(), StreamError> {
        let mut all = Vec::new();
        let mut more = true;
        while more {
            more = self.graph.resume()?;
            all.extend(self.graph.results.drain(..).filter_map(|e| match e {
                Element::Rows(rows) => Some(rows),
                _ => None,
            }));
        }
        if !all.is_empty() {
            self.out.push(all);
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), StreamError> {
        self.clock.advance(std::time::Duration::from_secs(10));
        if self.graph.tick_due().is_some_and(|due| due <= weir_base::Clock::now_us(&*self.clock)) {
            self.graph.tick()?;
            self.take()?;
        }
        Ok(())
    }

    /// As after a restart; `next` comes meanwhile, and again.
    fn restore(&mut self, next: Option<&Rows>) -> Result<(), StreamError> {
        self.restored += 1;
        if self.restored % 5 == 1 { self.restore_inline() } else { self.restore_stored(next) }
    }

    fn restore_stored(&mut self, next: Option<&Rows>) -> Result<(), StreamError> {
        self.epoch += 1;
        let within = self.stored.begin(&mut self.graph);
        self.feed(Element::Barrier(Epoch(self.epoch)))?;
        let there = self.out.len();
        self.graph.files = None;
        // What comes while it is written is not in it.
        self.graph.write_more(1)?;
        if let Some(next) = next {
            self.feed(Element::Rows(next.clone()))?;
        }
        self.graph.write_more(1)?;
        self.tick()?;
        let saved = self.stored.complete(&mut self.graph, &self.plan);
        drop(within);
        self.out.truncate(there);
        self.resources.threads = self.resources.threads % 5 + 1;
        self.graph = Self::build(&self.plan, &self.clock, &self.memory, &self.resources, Some(&saved));
        Ok(())
    }

    fn restore_inline(&mut self) -> Result<(), StreamError> {
        self.epoch += 1;
        self.feed(Element::Barrier(Epoch(self.epoch)))?;
        let snapshot = self.graph.snapshots.pop().expect("the barrier has left at the top");
        self.graph = Self::build(&self.plan, &self.clock, &self.memory, &self.resources, Some(&snapshot));
        self.epoch += 1;
        self.feed(Element::Barrier(Epoch(self.epoch)))?;
        let again = self.graph.snapshots.pop().unwrap();
        if self.resources.spill.is_none() {
            assert_eq!(again.1, snapshot.1, "what was restored is what was written");
        }
        // On a machine with other cores.
        self.resources.threads = self.resources.threads % 5 + 1;
        self.graph = Self::build(&self.plan, &self.clock, &self.memory, &self.resources, Some(&snapshot));
        Ok(())
    }
}

/// Batches as a source gives them: never over two shards.
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

pub fn run(case: &Case, mode: &Mode) -> Result<Vec<FinalRow>, StreamError> {
    let mut runner = Runner::new(plan(case), mode.threads, mode.spill);
    let seam = mode.backfill.min(case.log.len());
    let mut fed = 0;
    for (part, rows) in [&case.log[..seam], &case.log[seam..]].into_iter().enumerate() {
        let batches = batches(rows, mode.batch_rows);
        for (at, rows) in batches.iter().enumerate() {
            runner.feed(Element::Rows(Rows::append(batch(case, rows))))?;
            fed += 1;
            if fed % 5 == 0 {
                runner.tick()?;
            }
            if mode.restore_every.is_some_and(|k| fed % k == 0) {
                let next = batches.get(at + 1).map(|rows| Rows::append(batch(case, rows)));
                runner.restore(next.as_ref())?;
            }
        }
        if part == 0 {
            runner.feed(Element::EndOfBackfill)?;
        }
    }
    runner.tick()?;
    Ok(fold(case, &runner.out))
}

/// The result set a client has in the end.
fn fold(case: &Case, out: &[Vec<Rows>]) -> Vec<FinalRow> {
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for emission in out {
        if case.emit == Emit::Periodic {
            held.clear();
        }
        for rows in emission {
            let shown = texts(&rows.batch);
            let Some(weights) = &rows.weights else {
                held.extend(shown);
                continue;
            };
            for (i, (key, values)) in shown.into_iter().enumerate() {
                if weights.value(i) == 1 {
                    assert!(held.insert(key, values).is_none(), "the old row is taken back first");
                    continue;
                }
                assert_eq!(weights.value(i), -1);
                let old = held.remove(&key);
                assert_eq!(old.as_ref(), Some(&values), "what is taken back is what was given");
            }
        }
    }
    held.into_iter().collect()
}

fn texts(batch: &RecordBatch) -> Vec<FinalRow> {
    let text = |array: &ArrayRef, i: usize| -> String {
        if array.is_null(i) {
            return "NULL".into();
        }
        arrow::util::display::array_value_to_string(array, i).unwrap()
    };
    let is_key = |i: usize| matches!(batch.schema_ref().field(i).name().as_str(), "k" | "s");
    let (keys, values): (Vec<usize>, Vec<usize>) = (0..batch.num_columns()).partition(|i| is_key(*i));
    // Means, variances and sums of floats agree to rounding.
    let round = |i: usize| {
        matches!(batch.schema_ref().field(i).name().as_str(), "a3" | "a14" | "a15" | "a19" | "a20")
    };
    (0..batch.num_rows())
        .map(|row| {
            let key: Vec<String> = keys.iter().map(|i| text(batch.column(*i), row)).collect();
            let values = values.iter().map(|i| {
                let array = batch.column(*i);
                if round(*i) && array.data_type() == &DataType::Float64 && array.is_valid(row) {
                    return rounded(Some(array.as_primitive::<Float64Type>().value(row)));
                }
                match array.data_type() {
                    DataType::Float64 if array.is_valid(row) => {
                        array.as_primitive::<Float64Type>().value(row).to_string()
                    }
                    _ => text(array, row),
                }
            });
            (key.join(","), values.collect())
        })
        .collect()
}
