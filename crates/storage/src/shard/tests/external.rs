//! A shard whose log others keep: fed, committed and read at the same time.

use crate::options::LogStore;
use crate::testing::*;
use crate::{Sns, StreamOptions, TailBatch, Times};
use std::collections::BTreeMap;
use weir_base::{AppendTime, SeqNo};

fn options() -> StreamOptions {
    StreamOptions { log_store: LogStore::External, ..StreamOptions::default() }
}

/// Row `n`, with a gap before it.
fn row(n: i64) -> TailBatch {
    TailBatch {
        batch: rows(n, 1, 1),
        sns: Sns::Listed(vec![3 * n + 1].into()),
        append_times: Times::One(AppendTime(n)),
    }
}

#[test]
fn nothing_is_said_to_wait_that_is_in_parts() {
    const ROWS: i64 = 1_000;
    let w = world(1);
    let store = open(&w.ctx, options(), arrival()).unwrap();
    let shard = &store.shards()[0];
    for n in 0..ROWS {
        std::thread::scope(|scope| {
            scope.spawn(|| block_on(shard.feed(row(n))).unwrap());
            while !shard.commit_once().unwrap() {}
        });
        assert_eq!(shard.stats().uncommitted_bytes, 0, "a committer would go on and on for row {n}");
        if n % 100 == 99 {
            while shard.merge_once(crate::MergeMode::ToRest).unwrap() {}
        }
    }
    let expected: BTreeMap<u64, i64> = (0..ROWS).map(|n| (3 * n as u64 + 1, n)).collect();
    assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
    assert_eq!(read_tail(shard, 0).unwrap(), expected);
    assert_eq!(shard.stats().rows, ROWS as u64);
}

#[test]
fn what_was_fed_and_not_committed_is_fed_again_after_a_restart() {
    let w = world(2);
    let store = open(&w.ctx, options(), by_key()).unwrap();
    let shard = &store.shards()[0];
    (0..10).for_each(|n| block_on(shard.feed(row(n))).unwrap());
    shard.fed_to(SeqNo(40));
    assert!(shard.commit_once().unwrap());
    (20..25).for_each(|n| block_on(shard.feed(row(n))).unwrap());
    let before = shard.snapshot();
    let all: BTreeMap<u64, i64> = (0..10).chain(20..25).map(|n| (3 * n as u64 + 1, n)).collect();
    assert_eq!(read_snapshot(&before).unwrap(), all);
    assert!(shard.commit_once().unwrap());
    assert_eq!(read_snapshot(&before).unwrap(), all, "what it began with");
    drop((before, store));

    let store = open(&w.ctx, options(), by_key()).unwrap();
    let shard = &store.shards()[0];
    assert_eq!(shard.durable_end(), SeqNo(74), "from here on it is to be fed");
    let e = block_on(shard.feed(row(24))).unwrap_err();
    assert!(e.to_string().contains("came after"), "{e}");
    // A message that says it is older counts as written with the one before it.
    block_on(shard.feed(TailBatch { append_times: Times::One(AppendTime(-5)), ..row(30) })).unwrap();
    assert_eq!(read_tail(shard, 0).unwrap().len(), 16);
    assert!(block_on(shard.append(rows(0, 1, 1), None, weir_log::Ack::Durable)).is_err());
}
