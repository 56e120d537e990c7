//! Checkpoints of operators by key: they hold what changed, and what a restart finds is what there was, with much
//! memory and with little.

use super::keyed::{BATCH_ROWS, KEYS, Row, Runner, batch, dedup, lives, log, over};
use super::taken_back::changelog;
use crate::operator::{InputId, Operator, Output};
use crate::resources::Resources;
use crate::tests::stored::Stored;
use arrow_array::RecordBatch;
use weir_base::Rng;
use weir_plan::Rows;

type Make = fn(&Resources) -> Box<dyn Operator>;

const OPERATORS: [(&str, Make, u64); 6] = [
    ("dedup", |r| dedup(true, None, None, r), KEYS),
    ("dedup with a ttl", |r| dedup(false, Some(30_000), None, r), KEYS),
    ("dedup of the newest", |r| dedup(true, None, Some(3_000), r), KEYS),
    ("over", |r| over(true, r), KEYS),
    ("changelog", |r| changelog(true, r), KEYS),
    ("lives", |r| lives(2_000, r), 500),
];

/// Rows of all batches, as text: where batches are cut does not matter, and lives leave as they end.
fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut all = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|c| arrow::util::display::array_value_to_string(c, row));
            all.push(values.collect::<Result<Vec<_>, _>>().unwrap().join(","));
        }
    }
    all
}

fn log_of(keys: u64) -> Vec<Row> {
    let mut log = log(&Rng::seeded(21));
    log.iter_mut().for_each(|r| r.k = r.k.map(|k| k % keys));
    log
}

#[test]
fn what_a_restart_finds_is_what_there_was() {
    for (name, make, keys) in OPERATORS {
        for memory_bytes in [1 << 30, if keys == KEYS { 900_000 } else { 300_000 }] {
            let log = log_of(keys);
            let mut plain = Runner::new(1 << 30, make);
            let mut expected = Vec::new();
            for rows in log.chunks(BATCH_ROWS) {
                expected.extend(plain.rows(batch_of(name, rows)).unwrap());
            }
            let mut runner = Runner::new(memory_bytes, make);
            let stored = Stored::default();
            let (mut got, mut runs) = (Vec::new(), 0);
            let batches: Vec<&[Row]> = log.chunks(BATCH_ROWS).collect();
            for (fed, rows) in batches.iter().enumerate() {
                got.extend(runner.rows(batch_of(name, rows)).unwrap());
                runs = runs.max(runner.runs());
                if fed % 4 == 3 {
                    let next: Vec<Rows> =
                        batches[fed + 1..].iter().take(2).map(|rows| batch_of(name, rows)).collect();
                    runner.restore_stored(&stored, 2 * fed as u64 + 1, &next, fed % 12 == 7);
                }
            }
            let what = format!("{name} with {memory_bytes} bytes");
            assert!(texts(&got) == texts(&expected), "{what}");
            // Few keys are remembered where there is a bound.
            let spills = memory_bytes < 1 << 30 && !name.contains("newest");
            assert!(runs > 0 || !spills, "{what}");
        }
    }
}

fn batch_of(name: &str, rows: &[Row]) -> Rows {
    batch(!name.contains("ttl"), rows)
}

#[test]
fn a_checkpoint_holds_what_changed() {
    for (name, make, keys) in OPERATORS {
        for memory_bytes in [1 << 30, if keys == KEYS { 900_000 } else { 300_000 }] {
            let log = log_of(keys);
            let mut runner = Runner::new(memory_bytes, make);
            for rows in log.chunks(BATCH_ROWS) {
                runner.rows(batch_of(name, rows)).unwrap();
            }
            let stored = Stored::default();
            let (_, all) = stored.of_operator(&mut *runner.op, 1, |_| {});
            let last = log[log.len() - 1].append_us;
            let few: Vec<Row> =
                (0..10).map(|i| Row { k: Some(KEYS + i), v: i as i64, append_us: last }).collect();
            let few = batch_of(name, &few);
            runner.rows(few.clone()).unwrap();
            let (_, some) = stored.of_operator(&mut *runner.op, 2, |op| {
                op.rows(InputId(0), few.clone(), &mut Output::default()).unwrap();
            });
            assert!(some > 0 && some < all / 50, "{name} with {memory_bytes} bytes: {some} of {all}");
            let (_, again) = stored.of_operator(&mut *runner.op, 3, |_| {});
            assert!(again < all / 50, "{name} with {memory_bytes} bytes: {again} of {all}");
            let (_, nothing) = stored.of_operator(&mut *runner.op, 4, |_| {});
            assert_eq!(nothing, 0, "{name} with {memory_bytes} bytes");
        }
    }
}
