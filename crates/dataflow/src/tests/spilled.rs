//! Many keys under little memory against a plain map: over 1, 2 and 5 threads, spilled again and again,
//! written down and restored into another number of threads on the way.

mod keyed;
mod lasting;
mod live;
mod taken_back;

use crate::op::aggregate::{Aggregate, Spec};
use crate::operator::{InputId, Operator, Output};
use crate::resources::Resources;
use crate::state::StateWriter;
use crate::state::spill::SpillSpace;
use crate::workers::Workers;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use datafusion_physical_expr::expressions::col;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::disk::{Disk, SimDisk};
use weir_base::{MemoryBudget, Rng};
use weir_plan::{AggregateKind, AggregateSpec, Element, EmitSpec, Projection, Rows};

const BATCH_ROWS: usize = 2_500;
const BATCHES: usize = 40;
const KEYS: u64 = 20_000;

fn input(text: bool) -> Schema {
    let key = if text { DataType::Utf8 } else { DataType::Int64 };
    Schema::new(vec![Field::new("k", key, true), Field::new("v", DataType::Int64, false)])
}

fn operator(text: bool, emit: EmitSpec, changelog: bool, resources: &Resources) -> Aggregate {
    use AggregateKind as K;
    let input = input(text);
    let column = |name| col(name, &input).unwrap();
    let aggregates: Vec<AggregateSpec> = [K::Count, K::Min, K::Sum, K::GroupUniqArray]
        .into_iter()
        .map(|kind| {
            let list = kind == K::GroupUniqArray;
            let t = if list { DataType::new_list(DataType::Int64, true) } else { DataType::Int64 };
            AggregateSpec {
                output: Arc::new(Field::new(format!("{kind:?}"), t, true)),
                args: vec![column("v")],
                filter: None,
                kind,
            }
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
        changelog,
        schema: Arc::new(Schema::new(fields)),
    };
    Aggregate::new(spec, &input, resources.clone()).unwrap()
}

fn batch(text: bool, rows: &[(Option<u64>, i64)]) -> RecordBatch {
    let keys: ArrayRef = if text {
        Arc::new(rows.iter().map(|(k, _)| k.map(|k| format!("key {k}"))).collect::<StringArray>())
    } else {
        Arc::new(rows.iter().map(|(k, _)| k.map(|k| k as i64)).collect::<Int64Array>())
    };
    let values: ArrayRef = Arc::new(rows.iter().map(|(_, v)| *v).collect::<Int64Array>());
    RecordBatch::try_new(Arc::new(input(text)), vec![keys, values]).unwrap()
}

/// Key to count, least, sum and distinct values.
type Results = BTreeMap<Option<String>, Result>;
type Result = (i64, i64, i64, Vec<i64>);

fn model(text: bool, all: &[(Option<u64>, i64)]) -> Results {
    let mut values: BTreeMap<Option<String>, Vec<i64>> = BTreeMap::new();
    for (k, v) in all {
        let key = k.map(|k| if text { format!("key {k}") } else { k.to_string() });
        values.entry(key).or_default().push(*v);
    }
    let result = |mut all: Vec<i64>| {
        all.sort_unstable();
        let (n, sum) = (all.len() as i64, all.iter().sum());
        all.dedup();
        (n, all[0], sum, all)
    };
    values.into_iter().map(|(k, all)| (k, result(all))).collect()
}

/// Keys and results of a batch that left.
fn told(batch: &RecordBatch) -> Vec<(Option<String>, Result)> {
    let number = |at: usize| batch.column(at).as_primitive::<Int64Type>().clone();
    let lists = batch.column(4).as_list::<i32>().clone();
    (0..batch.num_rows())
        .map(|row| {
            let key = batch.column(0);
            let key = key.is_valid(row).then(|| {
                arrow::util::display::array_value_to_string(key, row).expect("a number or a string")
            });
            let list = lists.value(row).as_primitive::<Int64Type>().values().to_vec();
            (key, (number(1).value(row), number(2).value(row), number(3).value(row), list))
        })
        .collect()
}

fn results(op: &mut Aggregate) -> Results {
    let mut all = Results::new();
    let mut out = Output::default();
    op.end_of_backfill(&mut out).unwrap();
    loop {
        for element in out.elements.drain(..) {
            let Element::Rows(rows) = element else { continue };
            for (key, result) in told(&rows.batch) {
                assert!(all.insert(key.clone(), result).is_none(), "{key:?} left twice");
            }
        }
        if !op.unfinished() {
            return all;
        }
        op.go_on(&mut out).unwrap();
    }
}

fn check(text: bool, threads: usize) {
    let rng = Rng::seeded(threads as u64);
    let disk = Arc::new(SimDisk::new(1));
    let memory = MemoryBudget::root("query", 600_000);
    let mut resources = Resources::new(Workers::new(threads));
    (resources.divide_groups, resources.piece_rows) = (1_000, 512);
    resources.spill = Some(SpillSpace::new(disk.clone(), "spill"));
    resources.memory = Some(memory.clone());
    let mut held = memory.reserve(0).unwrap();
    let mut op = operator(text, EmitSpec::GLOBAL, false, &resources);
    let mut all = Vec::new();
    let mut runs = 0;
    for at in 0..BATCHES {
        let rows: Vec<(Option<u64>, i64)> = (0..BATCH_ROWS)
            .map(|_| (Some(rng.below(KEYS)).filter(|k| k % 101 != 7), rng.below(6) as i64 - 3))
            .collect();
        op.rows(InputId(0), Rows::append(batch(text, &rows)), &mut Output::default()).unwrap();
        // As the task does after each call.
        let bytes = op.stats().state_bytes;
        held.shrink(held.bytes().saturating_sub(bytes));
        held.grow(bytes.saturating_sub(held.bytes())).expect("spills before it passes the limit");
        runs = runs.max(disk.list("spill").map_or(0, |files| files.len()));
        all.extend(rows);
        if at % 13 == 12 {
            let mut saved = StateWriter::default();
            op.snapshot(&mut saved).unwrap();
            resources.threads = resources.threads % 5 + 1;
            op = operator(text, EmitSpec::GLOBAL, false, &resources);
            held.shrink(u64::MAX);
            op.restore(&saved.finish()).unwrap();
            held.grow(op.stats().state_bytes).expect("spills while it is restored");
        }
    }
    assert!(runs > 3, "{runs} runs at a time");
    let (got, expected) = (results(&mut op), model(text, &all));
    assert_eq!(got.len(), expected.len());
    for ((got_key, got), (key, expected)) in got.iter().zip(&expected) {
        assert_eq!((got_key, got), (key, expected), "{threads} threads");
    }
    drop(op);
    assert_eq!(disk.list("spill").unwrap(), [], "nothing stays on disk");
}

#[test]
fn state_that_spills_is_as_if_it_had_not() {
    for threads in [1, 2, 5] {
        check(false, threads);
        check(true, threads);
    }
}
