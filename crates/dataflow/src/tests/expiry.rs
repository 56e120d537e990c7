//! Keys that are forgotten against a plain map: over 1, 2 and 5 threads, with and without spilling, written
//! down and restored into another number of threads on the way.

use crate::op::aggregate::{Aggregate, Spec};
use crate::operator::{InputId, Operator, Output};
use crate::resources::Resources;
use crate::state::StateWriter;
use crate::state::spill::SpillSpace;
use crate::workers::Workers;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use datafusion_physical_expr::expressions::col;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weir_base::disk::{Disk, SimDisk};
use weir_base::{MemoryBudget, Rng};
use weir_plan::{AggregateKind, AggregateSpec, Element, EmitPolicy, EmitSpec, Projection, Rows};

const TTL_US: i64 = 1_000;
const STEPS: usize = 150;

fn input() -> Schema {
    Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("v", DataType::Int64, false)])
}

fn operator(emit: EmitSpec, resources: &Resources) -> Aggregate {
    use AggregateKind as K;
    let input = input();
    let column = |name| col(name, &input).unwrap();
    let aggregates: Vec<AggregateSpec> = [K::Count, K::Sum, K::UniqExact]
        .into_iter()
        .map(|kind| AggregateSpec {
            output: Arc::new(Field::new(format!("{kind:?}"), DataType::Int64, true)),
            args: vec![column("v")],
            filter: None,
            kind,
        })
        .collect();
    let mut fields = vec![Arc::new(input.field(0).clone())];
    fields.extend(aggregates.iter().map(|a| a.output.clone()));
    let spec = Spec {
        keys: &[Projection { expr: column("k"), name: "k".into() }],
        aggregates: &aggregates,
        order: None,
        window: None,
        emit,
        whole: false,
        panes: None,
        changelog: false,
        schema: Arc::new(Schema::new(fields)),
    };
    Aggregate::new(spec, &input, resources.clone()).unwrap()
}

fn batch(rows: &[(u64, i64)]) -> RecordBatch {
    let keys = rows.iter().map(|(k, _)| Some(format!("key {k}")).filter(|_| *k != 3));
    let keys: ArrayRef = Arc::new(keys.collect::<StringArray>());
    let values: ArrayRef = Arc::new(rows.iter().map(|(_, v)| *v).collect::<Int64Array>());
    RecordBatch::try_new(Arc::new(input()), vec![keys, values]).unwrap()
}

/// Key, count, sum, distinct values, weight.
type Out = (String, i64, i64, i64, i64);

/// Everything that leaves, and what follows of what was begun.
fn left(op: &mut Aggregate, out: &mut Output) -> Vec<Out> {
    let mut all = Vec::new();
    loop {
        for element in out.elements.drain(..) {
            let Element::Rows(rows) = element else { continue };
            let keys = rows.batch.column(0).as_string::<i32>().clone();
            let number = |at: usize| rows.batch.column(at).as_primitive::<Int64Type>().clone();
            let (count, sum, distinct) = (number(1), number(2), number(3));
            for (row, key) in keys.iter().enumerate() {
                let weight = rows.weights.as_ref().map_or(0, |w| w.value(row));
                let key = key.unwrap_or("key 3").to_owned();
                all.push((key, count.value(row), sum.value(row), distinct.value(row), weight));
            }
        }
        if !op.unfinished() {
            return all;
        }
        op.go_on(out).unwrap();
    }
}

#[derive(Debug, Clone, Default)]
struct Held {
    values: Vec<i64>,
    last_us: i64,
}

impl Held {
    fn out(&self, key: u64, weight: i64) -> Out {
        let distinct: BTreeSet<&i64> = self.values.iter().collect();
        let sum = self.values.iter().sum();
        (format!("key {key}"), self.values.len() as i64, sum, distinct.len() as i64, weight)
    }
    fn lives(&self, now_us: i64) -> bool {
        now_us - self.last_us < TTL_US
    }
}

fn check(emit: EmitSpec, threads: usize, spills: bool) {
    let name = format!("{emit}, {threads} threads, spills: {spills}");
    let rng = Rng::seeded(threads as u64);
    let disk = Arc::new(SimDisk::new(1));
    let memory = MemoryBudget::root("query", 100_000);
    let mut resources = Resources::new(Workers::new(threads));
    (resources.divide_groups, resources.piece_rows, resources.ttl_us) = (100, 64, TTL_US);
    if spills {
        resources.spill = Some(SpillSpace::new(disk.clone(), "spill"));
        resources.memory = Some(memory.clone());
    }
    let mut held = memory.reserve(0).unwrap();
    let mut op = operator(emit, &resources);
    let mut out = Output::default();
    let mut model: BTreeMap<u64, Held> = BTreeMap::new();
    let (mut now_us, mut expired, mut runs) = (5_000_000i64, 0, 0);
    op.end_of_backfill(&mut out).unwrap();
    left(&mut op, &mut out);
    for step in 0..STEPS {
        now_us += match rng.below(20) {
            0 => 3 * TTL_US,
            1 => TTL_US,
            _ => 1 + rng.below(TTL_US as u64 / 3) as i64,
        };
        op.tick(now_us, &mut out).unwrap();
        let got = left(&mut op, &mut out);
        if matches!(emit.policy, EmitPolicy::Periodic { .. }) && !emit.changelog {
            let mut got = got;
            got.sort();
            let alive = model.iter().filter(|(_, h)| h.lives(now_us));
            let mut expected: Vec<Out> = alive.map(|(k, h)| h.out(*k, 0)).collect();
            expected.sort();
            assert_eq!(got, expected, "{name}, step {step}");
        }
        // Some keys come often, most seldom.
        let rows: Vec<(u64, i64)> = (0..rng.below(200))
            .map(|_| (if rng.below(2) == 0 { rng.below(10) } else { rng.below(2_000) }, rng.below(5) as i64))
            .collect();
        let before = model.clone();
        for (key, value) in &rows {
            let held = model.entry(*key).or_default();
            if !held.values.is_empty() && !held.lives(now_us) {
                expired += 1;
                *held = Held::default();
            }
            held.values.push(*value);
            held.last_us = now_us;
        }
        op.rows(InputId(0), Rows::append(batch(&rows)), &mut out).unwrap();
        let mut got = left(&mut op, &mut out);
        if matches!(emit.policy, EmitPolicy::OnUpdate { .. }) {
            let keys: BTreeSet<u64> = rows.iter().map(|(k, _)| *k).collect();
            let mut expected = Vec::new();
            for key in keys {
                if emit.changelog
                    && let Some(old) = before.get(&key).filter(|h| h.lives(now_us))
                {
                    expected.push(old.out(key, -1));
                }
                expected.push(model[&key].out(key, i64::from(emit.changelog)));
            }
            expected.sort();
            got.sort();
            assert_eq!(got, expected, "{name}, step {step}");
        }
        // As the task does after each call.
        let bytes = op.stats().state_bytes;
        if spills {
            held.shrink(held.bytes().saturating_sub(bytes));
            held.grow(bytes.saturating_sub(held.bytes())).expect("spills before it passes the limit");
            runs = runs.max(disk.list("spill").map_or(0, |files| files.len()));
        }
        if step % 13 == 12 {
            let mut saved = StateWriter::default();
            op.snapshot(&mut saved).unwrap();
            resources.threads = resources.threads % 5 + 1;
            op = operator(emit, &resources);
            held.shrink(u64::MAX);
            op.restore(&saved.finish()).unwrap();
            if spills {
                held.grow(op.stats().state_bytes).unwrap();
            }
        }
    }
    assert!(!spills || runs > 1, "{name}: {runs} runs");
    assert!(expired > 50, "{name}: {expired} came back");
    // In the end all are forgotten, and nothing is kept of them in memory.
    for _ in 0..2 {
        now_us += TTL_US;
        op.tick(now_us, &mut out).unwrap();
        left(&mut op, &mut out);
    }
    assert_eq!(op.stats().keys, 0, "{name}");
    assert!(op.stats().expired_keys > 0, "{name}");
    assert_eq!(op.tick_due().filter(|_| emit.policy != REPEAT), None, "{name}: nobody is woken for nothing");
}

const REPEAT: EmitPolicy = EmitPolicy::Periodic { every_us: 1, repeat: true };

#[test]
fn keys_are_forgotten_as_in_a_plain_map() {
    for threads in [1, 2, 5] {
        check(EmitSpec { policy: REPEAT, changelog: false }, threads, false);
        check(EmitSpec { policy: REPEAT, changelog: false }, threads, true);
        for changelog in [false, true] {
            check(EmitSpec { policy: EmitPolicy::OnUpdate { every_us: None }, changelog }, threads, false);
        }
    }
}
