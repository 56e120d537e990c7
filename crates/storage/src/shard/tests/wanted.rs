//! Whatever a reader wants of history, it gets the rows it would get otherwise.

use crate::layout::PartLayout;
use crate::shard::{Pruner, Shard, Wanted};
use crate::testing::*;
use crate::{PartFile, Sns, StreamOptions, TailBatch};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_schema::SchemaRef;
use parquet::file::metadata::ParquetMetaData;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::{MemoryBudget, Rng, SeqNo, ShardId};

/// A row by its number, as the `value` column tells, at `column`.
fn numbers(tail: &TailBatch, column: usize) -> Vec<i64> {
    let values = tail.batch.column(column).as_primitive::<Float64Type>();
    values.values().iter().map(|v| (v * 2.0) as i64).collect()
}

/// Commits now and then, so that there are parts of all sizes, and a rest in the log.
fn filled(seed: u64, layout: Arc<dyn PartLayout>) -> (World, Arc<Shard>) {
    let w = world(seed);
    let options = StreamOptions {
        row_group_rows_max: 50,
        log_retention_bytes: Some(0),
        tail_ring_bytes_max: if seed.is_multiple_of(3) { 4_096 } else { 0 },
        segment_size_bytes_max: 8_192,
        ..StreamOptions::default()
    };
    let store = open(&w.ctx, options, layout).unwrap();
    let shard = store.shards()[0].clone();
    let rng = Rng::seeded(seed);
    let mut n = 0;
    for _ in 0..40 {
        let count = 1 + rng.below(60) as i64;
        append(&shard, rows(n, count, 1 + (rng.below(8) == 0) as i64)).unwrap();
        n += count;
        match rng.below(6) {
            0 | 1 => drop(shard.commit_once().unwrap()),
            2 => drop(shard.merge_once(crate::MergeMode::ToRest).unwrap()),
            3 => {
                shard.retain_once().unwrap();
            }
            _ => {}
        }
    }
    append(&shard, rows(n, 5, 1)).unwrap();
    (w, shard)
}

#[test]
fn columns_order_and_reading_ahead_change_no_row() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for seed in 0..24 {
        let layout = if seed % 2 == 0 { arrival() } else { by_key() };
        let (_w, shard) = filled(seed, layout);
        let rng = Rng::seeded(1_000 + seed);
        let from = rng.below(shard.durable_end().0 + 1);
        let expected = read_tail(&shard, from).unwrap();
        let budget = MemoryBudget::root("query", [0, 10_000, u64::MAX][rng.below(3) as usize]);
        let wanted = Wanted {
            columns: Some(vec![1]),
            append_times: rng.below(2) == 0,
            sns: rng.below(2) == 0,
            parts_first: rng.below(2) == 0,
            ahead_bytes_max: [0, 1_000, 1 << 20][rng.below(3) as usize],
            memory: Some(budget.clone()),
            pruner: None,
        };
        let why = format!("seed {seed}, from {from}, {wanted:?}");

        // In sequence, on a runtime and on this thread.
        for blocking in [false, true] {
            let mut cursor = shard.tail_of(SeqNo(from), wanted.clone());
            let mut seen = BTreeMap::new();
            loop {
                let next =
                    if blocking { cursor.try_next_blocking() } else { runtime.block_on(cursor.try_next()) };
                let Some(tail) = next.unwrap() else { break };
                assert_eq!(tail.batch.num_columns(), 1);
                for (row, n) in numbers(&tail, 0).into_iter().enumerate() {
                    let sn = tail.sn(row).0;
                    assert!(seen.last_key_value().is_none_or(|(last, _)| *last < sn), "{why}");
                    seen.insert(sn, n);
                }
            }
            assert_eq!(seen, expected, "{why}, blocking {blocking}");
            assert_eq!(cursor.position(), shard.durable_end(), "{why}");
        }

        // In no order.
        let snapshot = shard.snapshot();
        let mut scan = snapshot.scan(SeqNo(from), wanted.clone());
        let (mut seen, mut by_sn) = (Vec::new(), BTreeMap::new());
        while let Some(tail) = runtime.block_on(scan.next()).unwrap() {
            let all = numbers(&tail, 0);
            if wanted.sns {
                let sns = tail.sn_array();
                by_sn.extend(all.iter().enumerate().map(|(row, n)| (sns.value(row) as u64, *n)));
            }
            seen.extend(all);
        }
        seen.sort_unstable();
        let mut all: Vec<i64> = expected.values().copied().collect();
        all.sort_unstable();
        assert_eq!(seen, all, "{why}");
        assert!(!wanted.sns || by_sn == expected, "{why}");
        drop(scan);
        assert_eq!(budget.used_bytes(), 0, "{why}");
    }
}

/// Keeps what may hold a key of at least this.
#[derive(Debug)]
struct FromSn(u64);

impl Pruner for FromSn {
    fn parts(&self, _: ShardId, parts: &[Arc<PartFile>]) -> Vec<bool> {
        parts.iter().map(|p| p.meta.sn_end.0 > self.0).collect()
    }
    fn row_groups(&self, _: &SchemaRef, footer: &ParquetMetaData) -> Vec<bool> {
        // Odd ones only.
        (0..footer.num_row_groups()).map(|g| g % 2 == 1).collect()
    }
}

#[test]
fn what_a_reader_can_do_without_is_not_read_and_live_rows_come_all_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let w = world(7);
    let options =
        StreamOptions { row_group_rows_max: 50, tail_ring_bytes_max: 0, ..StreamOptions::default() };
    let store = open(&w.ctx, options, arrival()).unwrap();
    let shard = &store.shards()[0];
    for part in 0..3 {
        append(shard, rows(part * 200, 200, 1)).unwrap();
        shard.commit_once().unwrap();
    }
    let pruner: Arc<dyn Pruner> = Arc::new(FromSn(200));
    let wanted = Wanted { pruner: Some(pruner), parts_first: true, ..Wanted::default() };
    let mut cursor = shard.tail_of(SeqNo(0), wanted);
    let mut seen = Vec::new();
    while let Some(tail) = runtime.block_on(cursor.try_next()).unwrap() {
        seen.extend((0..tail.rows()).map(|row| tail.sn(row).0));
    }
    let groups: [(u64, u64); 4] = [(250, 300), (350, 400), (450, 500), (550, 600)];
    assert_eq!(seen, groups.iter().flat_map(|(from, end)| *from..*end).collect::<Vec<_>>());
    assert_eq!(cursor.position(), SeqNo(600), "the rest counts as read");
    append(shard, rows(600, 3, 1)).unwrap();
    let live = runtime.block_on(cursor.next()).unwrap();
    assert_eq!((live.sn(0), live.rows()), (SeqNo(600), 3));
}

#[test]
fn a_dense_part_needs_no_sequence_numbers_and_a_start_within_it_is_cut() {
    let w = world(8);
    let options =
        StreamOptions { row_group_rows_max: 50, tail_ring_bytes_max: 0, ..StreamOptions::default() };
    let store = open(&w.ctx, options, arrival()).unwrap();
    let shard = &store.shards()[0];
    append(shard, rows(0, 200, 1)).unwrap();
    shard.commit_once().unwrap();
    let wanted = Wanted { columns: Some(vec![0]), parts_first: true, ..Wanted::default() };
    let mut cursor = shard.tail_of(SeqNo(110), wanted);
    let first = cursor.try_next_blocking().unwrap().unwrap();
    assert_eq!((first.sns.clone(), first.rows()), (Sns::Dense(SeqNo(110)), 40), "the row group of the start");
    let keys = first.batch.column(0).as_primitive::<Int64Type>();
    assert_eq!((keys.len(), keys.value(0)), (40, values_of(110, 1).0));
}
