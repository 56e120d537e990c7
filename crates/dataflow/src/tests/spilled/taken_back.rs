//! Last rows of many keys, and places of many rows that may be taken back, under little memory.

use super::keyed::{BATCH_ROWS, KEYS, Row, Runner, batch, log, schema};
use crate::op::changelog::Changelog;
use crate::op::weights::Weights;
use crate::operator::Operator;
use crate::resources::Resources;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int8Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion_physical_expr::expressions::col;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use weir_base::disk::Disk;
use weir_base::{Code, Rng};
use weir_plan::{KeyedChangelog, Retracted, Rows, StreamError};

fn weighted(text: bool) -> SchemaRef {
    let input = schema(text);
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("w", DataType::Int8, false)));
    Arc::new(Schema::new(fields))
}

pub(super) fn changelog(text: bool, resources: &Resources) -> Box<dyn Operator> {
    let input = schema(text);
    let spec = KeyedChangelog { keys: vec![col("k", &input).unwrap()], version: None, at: 3, shown: true };
    Box::new(Changelog::new(spec, weighted(text), &input, resources.clone()).unwrap())
}

fn weights(text: bool, resources: &Resources) -> Box<dyn Operator> {
    let schema = weighted(text);
    let retracted = Retracted { same: vec![0, 1], of: vec![2] };
    Box::new(Weights::new(3, Some(&retracted), schema.clone(), &schema, resources.clone()).unwrap())
}

#[test]
fn the_last_row_of_a_key_is_taken_back_from_disk() {
    for text in [false, true] {
        let mut runner = Runner::new(1_000_000, |r| changelog(text, r));
        let (mut last, mut runs) = (HashMap::new(), 0);
        for (fed, rows) in log(&Rng::seeded(4)).chunks(BATCH_ROWS).enumerate() {
            let mut expected = Vec::new();
            for row in rows {
                expected.extend(last.insert(row.k, row.v).map(|old| (row.k.is_some(), old, -1)));
                expected.push((row.k.is_some(), row.v, 1));
            }
            let out = runner.rows(batch(text, rows)).unwrap();
            let got: Vec<(bool, i64, i8)> = out
                .iter()
                .flat_map(|b| {
                    let v = b.column(1).as_primitive::<Int64Type>();
                    let w = b.column(3).as_primitive::<Int8Type>();
                    (0..b.num_rows()).map(|i| (b.column(0).is_valid(i), v.value(i), w.value(i)))
                })
                .collect();
            assert_eq!(got, expected);
            assert_eq!(runner.op.stats().keys, last.len() as u64);
            runs = runs.max(runner.runs());
            if fed % 17 == 16 {
                runner.restore();
            }
        }
        assert!(runs > 3, "{runs} runs");
    }
}

/// Rows that come and are taken back, with their weights.
fn changes(rng: &Rng) -> Vec<(Row, i8)> {
    let mut there: Vec<Row> = Vec::new();
    let change = |mut row: Row| {
        if !there.is_empty() && rng.below(10) < 4 {
            let old = there.swap_remove(rng.below(there.len() as u64) as usize);
            return (Row { append_us: row.append_us, ..old }, -1);
        }
        (row.k, row.v) = (Some(rng.below(KEYS / 5)).filter(|k| *k > 0), row.v % 3);
        there.push(row);
        (row, 1)
    };
    log(rng).into_iter().map(change).collect()
}

fn weighted_batch(text: bool, changes: &[(Row, i8)]) -> Rows {
    let rows: Vec<Row> = changes.iter().map(|(row, _)| *row).collect();
    let mut columns = batch(text, &rows).batch.columns().to_vec();
    columns.push(Arc::new(changes.iter().map(|(_, w)| Some(*w)).collect::<Int8Array>()) as ArrayRef);
    Rows::append(RecordBatch::try_new(weighted(text), columns).unwrap())
}

#[test]
fn a_row_that_takes_back_finds_the_oldest_on_disk() {
    for text in [false, true] {
        let mut runner = Runner::new(600_000, |r| weights(text, r));
        let mut there: HashMap<(Option<u64>, i64), VecDeque<i64>> = HashMap::new();
        let (mut n, mut runs) = (0u64, 0);
        for (fed, changes) in changes(&Rng::seeded(6)).chunks(BATCH_ROWS).enumerate() {
            let mut expected = Vec::new();
            for (row, weight) in changes {
                let queue = there.entry((row.k, row.v)).or_default();
                if *weight > 0 {
                    queue.push_back(row.append_us);
                    expected.push(row.append_us);
                    n += 1;
                } else {
                    expected.push(queue.pop_front().expect("it is there"));
                    n -= 1;
                }
            }
            let out = runner.rows(weighted_batch(text, changes)).unwrap();
            let times =
                |b: &RecordBatch| b.column(2).as_primitive::<TimestampMicrosecondType>().values().to_vec();
            assert_eq!(out.iter().flat_map(times).collect::<Vec<_>>(), expected);
            assert_eq!(runner.op.stats().keys, n);
            runs = runs.max(runner.runs());
            if fed % 17 == 16 {
                runner.restore();
            }
        }
        assert!(runs > 3, "{runs} runs");
        let disk = runner.disk.clone();
        drop(runner);
        assert_eq!(disk.list("spill").unwrap(), [], "nothing stays on disk");
    }
}

#[test]
fn a_damaged_run_of_them_ends_the_query() {
    for name in ["Changelog", "Weights"] {
        let make = |r: &Resources| if name == "Weights" { weights(true, r) } else { changelog(true, r) };
        let mut runner = Runner::new(400_000, make);
        let mut failed = None;
        for (fed, changes) in changes(&Rng::seeded(6)).chunks(BATCH_ROWS).enumerate() {
            let rows: Vec<Row> = changes.iter().map(|(row, _)| *row).collect();
            let rows = if name == "Weights" { weighted_batch(true, changes) } else { batch(true, &rows) };
            if let Err(e) = runner.rows(rows) {
                failed = Some(StreamError::from(e));
                break;
            }
            for (path, bytes) in runner.disk.files() {
                for at in (0..bytes).step_by(2_048) {
                    runner.disk.flip_bit(&path, (at + fed as u64) % bytes, 3).unwrap();
                }
            }
        }
        let e = failed.expect("what was read was damaged");
        assert_eq!(e.code, Code::CorruptedData, "{e}");
        assert!(e.message.starts_with(name), "{e}");
    }
}
