//! What commits and merges do where the process has little memory left, or none.

use crate::shard::MergeMode;
use crate::testing::*;
use crate::{StorageError, StreamOptions};
use std::sync::Arc;
use weir_base::{MemoryBudget, SeqNo};

const LIMIT: u64 = 256 << 20;
const RECORD_ROWS: i64 = 40_000;

/// A world with a limit, and a shard whose log holds several reads of a commit.
fn filled(seed: u64, layout: Arc<dyn crate::PartLayout>) -> (Arc<crate::StreamStore>, Arc<MemoryBudget>) {
    let w = world(seed);
    let mut ctx = w.ctx.clone();
    ctx.memory = MemoryBudget::root("test", LIMIT);
    let options = StreamOptions { tail_ring_bytes_max: 0, ..Default::default() };
    let store = open(&ctx, options, layout).unwrap();
    for i in 0..8 {
        append(&store.shards()[0], rows(i * RECORD_ROWS, RECORD_ROWS, 1)).unwrap();
    }
    (store, ctx.memory)
}

#[test]
fn a_commit_takes_less_where_memory_is_short_and_always_something() {
    for layout in [arrival, by_key] {
        let (store, memory) = filled(31, layout());
        let shard = &store.shards()[0];
        let expected = read_snapshot(&shard.snapshot()).unwrap();
        let query = memory.reserve(LIMIT).unwrap();
        let mut commits = 0;
        while shard.committed_end() < shard.durable_end() {
            let before = shard.committed_end();
            assert!(shard.commit_once().unwrap());
            assert!(shard.committed_end() > before, "every commit goes on");
            assert_eq!(memory.used_bytes(), LIMIT, "what a commit took is given back");
            commits += 1;
        }
        assert!(commits > 1, "all at once in spite of the limit");
        let past = memory.peak_bytes() - LIMIT;
        assert!(past > 0 && past < 64 << 20, "{past} bytes past the limit");
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
        drop(query);
        assert_eq!(memory.used_bytes(), 0);
    }
}

#[test]
fn a_commit_with_memory_takes_all_and_counts_it() {
    let (store, memory) = filled(32, by_key());
    let shard = &store.shards()[0];
    let log_bytes = shard.stats().uncommitted_bytes;
    assert!(shard.commit_once().unwrap());
    assert_eq!(shard.committed_end(), shard.durable_end());
    assert!(memory.peak_bytes() > log_bytes, "{} bytes for {log_bytes}", memory.peak_bytes());
    assert_eq!(memory.used_bytes(), 0);
}

#[test]
fn merges_wait_for_memory_take_fewer_parts_and_are_counted() {
    for layout in [arrival, by_key] {
        let (store, memory) = filled(33, layout());
        let shard = &store.shards()[0];
        let query = memory.reserve(LIMIT).unwrap();
        while shard.commit_once().unwrap() {}
        drop(query);
        for i in 8..14 {
            append(shard, rows(i * RECORD_ROWS, RECORD_ROWS, 1)).unwrap();
            assert!(shard.commit_once().unwrap());
        }
        let (parts, expected) = (shard.parts().len(), read_snapshot(&shard.snapshot()).unwrap());
        assert!(parts >= 8);
        let query = memory.reserve(LIMIT).unwrap();
        assert!(!shard.merge_once(MergeMode::Tiered).unwrap(), "the background waits");
        let refused = shard.merge_once(MergeMode::ToRest).unwrap_err();
        assert!(matches!(refused, StorageError::NoRoom { .. }), "{refused}");
        assert_eq!(refused.code().number(), 241);
        assert!(refused.to_string().contains("--memory-limit"), "{refused}");
        assert_eq!((shard.parts().len(), memory.used_bytes()), (parts, LIMIT));
        drop(query);

        let two: Vec<_> = shard.version().parts.values().take(2).cloned().collect();
        let room = shard.room_for(&two).unwrap();
        let for_two = memory.used_bytes();
        drop(room);
        let query = memory.reserve(LIMIT - for_two * 5 / 4).unwrap();
        assert!(shard.merge_once(MergeMode::ToRest).unwrap());
        assert!(shard.parts().len() > 1, "all {parts} at once in spite of the limit");
        drop(query);
        while shard.merge_once(MergeMode::ToRest).unwrap() {}
        assert_eq!(shard.parts().len(), 1);
        assert_eq!(memory.used_bytes(), 0);
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
        assert_eq!(shard.durable_end(), SeqNo(14 * RECORD_ROWS as u64));
    }
}
