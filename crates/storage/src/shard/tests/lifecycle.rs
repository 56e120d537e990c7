//! What a stream's owner does with it: idempotent inserts, options, storage types, seeking,
//! pins, truncation under readers, a disk that is full for a while.

use crate::shard::MergeMode;
use crate::testing::*;
use crate::{Ack, Idempotency, LogFull, Sns, StorageError, StorageType, StreamOptions};
use std::time::Duration;
use weir_base::disk::{Fault, FaultKind};
use weir_base::{Disk, EventTime, SeqNo};

fn small() -> StreamOptions {
    StreamOptions {
        segment_size_bytes_max: 8 << 10,
        index_interval_bytes: 1 << 10,
        log_retention_bytes: Some(0),
        tail_ring_bytes_max: 0,
        ..Default::default()
    }
}

#[test]
fn a_repeated_insert_adds_nothing_also_after_a_restart() {
    let w = world(11);
    let batch = rows(0, 10, 1);
    let key = |hash| Idempotency { id: "load-1".into(), record_no: 0, content_hash: hash };
    let hash = crate::content_hash(&batch).unwrap();
    let insert = |store: &crate::StreamStore, batch, hash| {
        block_on(store.shards()[0].append(batch, Some(key(hash)), Ack::Durable))
    };
    let store = open(&w.ctx, small(), arrival()).unwrap();
    assert!(!insert(&store, batch.clone(), hash).unwrap().repeated);
    assert!(insert(&store, batch.clone(), hash).unwrap().repeated);
    block_on(store.close());
    drop(store);
    let store = open(&w.ctx, small(), arrival()).unwrap();
    assert!(insert(&store, batch, hash).unwrap().repeated);
    let other = rows(5, 10, 1);
    let refused = insert(&store, other.clone(), crate::content_hash(&other).unwrap()).unwrap_err();
    assert_eq!(refused.code().number(), 36);
    assert_eq!(store.shards()[0].durable_end(), SeqNo(10));
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let w = world(12);
    let store = open(&w.ctx, small(), arrival()).unwrap();
    let whole = rows(0, 3, 1);
    let narrow = whole.project(&[0, 1, 3]).unwrap();
    for (batch, says) in [(narrow, "3 columns"), (whole.slice(0, 0), "0 rows")] {
        let refused = append(&store.shards()[0], batch).unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
    assert_eq!(store.shards()[0].durable_end(), SeqNo(0));
}

#[test]
fn seeking_by_event_time_is_never_late() {
    let w = world(13);
    let store = open(&w.ctx, small(), by_key()).unwrap();
    let shard = &store.shards()[0];
    for i in 0..20 {
        append(shard, rows(i * 60, 60, 1)).unwrap();
        if i % 4 == 3 {
            shard.commit_once().unwrap();
            shard.retain_once().unwrap();
        }
    }
    let mut exact = 0;
    for n in (0..1200).step_by(61) {
        // With one day a row's time rises with its number, which is its sequence number.
        let at = shard.seek_event_time(EventTime(values_of(n, 1).3)).unwrap();
        assert!(at <= SeqNo(n as u64), "row {n} is missed from {at}");
        exact += u64::from(at.0 + 300 > n as u64);
    }
    assert!(exact > 10, "seeks are near: {exact}");
    assert_eq!(shard.seek_event_time(EventTime(i64::MAX)).unwrap(), SeqNo(1200));
}

#[test]
fn a_pin_keeps_the_log_and_retention_goes_on_without_it() {
    let w = world(14);
    let store = open(&w.ctx, small(), arrival()).unwrap();
    let shard = &store.shards()[0];
    append(shard, rows(0, 50, 1)).unwrap();
    let pin = shard.pin_log(SeqNo(20)).unwrap();
    for i in 1..20 {
        append(shard, rows(i * 50, 50, 1)).unwrap();
    }
    while shard.commit_once().unwrap() {}
    shard.retain_once().unwrap();
    assert!(shard.segments()[0].base <= SeqNo(20));
    drop(pin);
    shard.retain_once().unwrap();
    let base = shard.segments()[0].base;
    assert!(base > SeqNo(20));
    assert!(
        matches!(shard.pin_log(SeqNo(20)), Err(StorageError::Truncated { oldest, .. }) if oldest >= base)
    );
    assert_eq!(shard.oldest(), SeqNo(0), "parts hold the rest");
}

#[test]
fn a_log_keeps_to_its_bytes_by_refusing_or_by_dropping_what_is_oldest() {
    const LIMIT: u64 = 64 << 10;
    for (log_full, storage_type) in [
        (LogFull::Refuse, StorageType::Streaming),
        (LogFull::DropOldest, StorageType::Streaming),
        (LogFull::DropOldest, StorageType::Hybrid),
    ] {
        let w = world(18);
        let options = StreamOptions {
            storage_type,
            log_bytes_max: Some(LIMIT),
            log_full,
            log_retention_bytes: None,
            ..small()
        };
        let store = open(&w.ctx, options, arrival()).unwrap();
        let shard = &store.shards()[0];
        append(shard, rows(0, 10, 1)).unwrap();
        // Without anybody who needs the rest it goes, and nobody counts it.
        for i in 1..60 {
            append(shard, rows(i * 10, 10, 1)).unwrap();
            if storage_type == StorageType::Hybrid {
                while shard.commit_once().unwrap() {}
            }
            assert!(shard.log_bytes() <= LIMIT, "{}", shard.log_bytes());
        }
        assert_eq!(shard.dropped_rows(), 0);
        let pin = shard.pin_log(shard.segments()[0].base).unwrap();
        let mut refused = None;
        for i in 60..200 {
            match append(shard, rows(i * 10, 10, 1)) {
                Ok(_) => {}
                Err(e) => {
                    refused = Some(e);
                    break;
                }
            }
            if storage_type == StorageType::Hybrid {
                while shard.commit_once().unwrap() {}
            }
            assert!(shard.log_bytes() <= LIMIT, "{}", shard.log_bytes());
        }
        match log_full {
            LogFull::Refuse => {
                assert!(
                    matches!(refused, Some(StorageError::LogFull { limit_bytes, .. }) if limit_bytes < LIMIT)
                );
                assert_eq!(shard.segments()[0].base, pin.position());
                drop(pin);
                append(shard, rows(0, 10, 1)).unwrap();
            }
            LogFull::DropOldest => {
                assert!(refused.is_none(), "{refused:?}");
                assert_eq!(shard.segments()[0].base.0 - pin.position().0, shard.dropped_rows());
            }
        }
    }
}

#[test]
fn truncation_hides_rows_from_everyone_and_numbers_go_on() {
    for storage_type in [StorageType::Hybrid, StorageType::Streaming, StorageType::Memory] {
        let w = world(15);
        let options = StreamOptions { storage_type, log_retention_bytes: None, ..small() };
        let store = open(&w.ctx, options, arrival()).unwrap();
        let shard = &store.shards()[0];
        let mut cursor = shard.tail(SeqNo(0));
        append(shard, rows(0, 40, 1)).unwrap();
        shard.commit_once().unwrap();
        append(shard, rows(40, 10, 1)).unwrap();
        shard.truncate_once().unwrap();
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap().len(), 0, "{storage_type:?}");
        assert!(cursor.try_next_blocking().unwrap().is_none());
        let next = append(shard, rows(50, 5, 1)).unwrap();
        assert_eq!(next.base, SeqNo(50));
        assert_eq!(cursor.try_next_blocking().unwrap().unwrap().sns, Sns::Dense(SeqNo(50)));
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap().len(), 5);
        assert_eq!(shard.stats().rows, 5);
    }
}

#[test]
fn a_stream_without_parts_tells_a_reader_that_retention_passed_it() {
    let w = world(16);
    let options = StreamOptions { storage_type: StorageType::Streaming, ..small() };
    let store = open(&w.ctx, options, arrival()).unwrap();
    let shard = &store.shards()[0];
    let mut cursor = shard.tail(SeqNo(0));
    for i in 0..30 {
        append(shard, rows(i * 50, 50, 1)).unwrap();
    }
    assert!(!shard.commit_once().unwrap());
    shard.retain_once().unwrap();
    match cursor.try_next_blocking().unwrap_err() {
        StorageError::Truncated { asked, oldest } => {
            assert_eq!(asked, SeqNo(0));
            assert_eq!(oldest, shard.oldest());
            assert_eq!(read_tail(shard, oldest.0).unwrap().len() as u64, 1500 - oldest.0);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn numbers_of_a_stream_in_memory_are_not_used_again() {
    let w = world(17);
    let options = StreamOptions { storage_type: StorageType::Memory, ..small() };
    let store = open(&w.ctx, options.clone(), arrival()).unwrap();
    append(&store.shards()[0], rows(0, 7, 1)).unwrap();
    assert_eq!(read_tail(&store.shards()[0], 0).unwrap().len(), 7);
    block_on(store.close());
    drop(store);
    let store = open(&w.ctx, options, arrival()).unwrap();
    let shard = &store.shards()[0];
    assert_eq!(read_snapshot(&shard.snapshot()).unwrap().len(), 0);
    assert!(append(shard, rows(7, 1, 1)).unwrap().base >= SeqNo(7));
}

#[test]
fn ttl_removes_rows_in_merges_and_counts_them() {
    let w = world(18);
    let store = open(&w.ctx, small(), std::sync::Arc::new(ByKey { ttl_ms: Some(DAY_MS) })).unwrap();
    let shard = &store.shards()[0];
    append(shard, rows(0, 90, 3)).unwrap();
    shard.commit_once().unwrap();
    w.clock.advance(Duration::from_millis(2 * DAY_MS as u64 + 1_000));
    assert_eq!(w.ctx.clock.now_ms(), NOW_MS + 2 * DAY_MS + 1_000);
    while shard.merge_once(MergeMode::ToRest).unwrap() {}
    // Days 0 and 1 are over a day old, day 2 is not.
    assert_eq!(read_snapshot(&shard.snapshot()).unwrap().len(), 30);
    assert_eq!(shard.parts().len(), 1);
    assert_eq!(w.ctx.metrics.counter("storage_expired_rows_total", "rows removed by TTL").get(), 60);
    assert!(!shard.merge_once(MergeMode::ToRest).unwrap(), "at rest");
}

#[test]
fn a_full_disk_stops_appends_loudly_and_loses_nothing() {
    let w = world(19);
    let options = StreamOptions { uncommitted_bytes_max: 1, log_retention_bytes: None, ..small() };
    let store = open(&w.ctx, options, arrival()).unwrap();
    let shard = &store.shards()[0];
    append(shard, rows(0, 10, 1)).unwrap();
    w.disk.inject(Fault { at_operation: w.disk.operations(), kind: FaultKind::NoSpace });
    let failed = shard.commit_once().unwrap_err();
    assert_eq!(failed.code().number(), 243, "{failed}");
    let refused = append(shard, rows(10, 10, 1)).unwrap_err();
    assert!(matches!(refused, StorageError::CommitStalled { .. }), "{refused}");
    assert!(shard.stats().commit_error.is_some());
    w.disk.clear_faults();
    assert!(shard.commit_once().unwrap());
    assert!(shard.stats().commit_error.is_none());
    append(shard, rows(10, 10, 1)).unwrap();
    assert_eq!(read_snapshot(&shard.snapshot()).unwrap().len(), 20);
}

#[test]
fn files_of_a_dropped_stream_stay_until_the_last_reader_lets_go() {
    for storage_type in [StorageType::Hybrid, StorageType::Streaming, StorageType::Memory] {
        let w = world(20);
        let options = StreamOptions { storage_type, log_retention_bytes: None, ..small() };
        let store = open(&w.ctx, options, arrival()).unwrap();
        let shard = store.shards()[0].clone();
        append(&shard, rows(0, 10, 1)).unwrap();
        shard.commit_once().unwrap();
        append(&shard, rows(10, 10, 1)).unwrap();
        let (snapshot, mut cursor, mut waiting) =
            (shard.snapshot(), shard.tail(SeqNo(0)), shard.tail(SeqNo(20)));
        let mut removal = block_on(store.retire());
        assert!(matches!(block_on(cursor.try_next()), Err(StorageError::Dropped)), "{storage_type:?}");
        assert!(matches!(block_on(waiting.next()), Err(StorageError::Dropped)));
        assert!(matches!(append(&shard, rows(20, 1, 1)), Err(StorageError::Dropped)));
        assert_eq!(block_on(shard.sync()).unwrap(), SeqNo(20), "who found it in time reads it whole");
        drop((store, shard, cursor, waiting));
        {
            let mut unused = std::pin::pin!(removal.unused());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(unused.as_mut().poll(&mut cx).is_pending());
            assert_eq!(read_snapshot(&snapshot).unwrap().len(), 20);
            drop(snapshot);
            assert!(unused.as_mut().poll(&mut cx).is_ready());
        }
        removal.remove_files().unwrap();
        assert_eq!(w.disk.list("streams").unwrap().len(), 0);
    }
}

#[test]
fn the_ring_gives_way_before_anyone_is_refused_memory() {
    const LIMIT: u64 = 1 << 20;
    let w = world(21);
    let mut ctx = w.ctx.clone();
    ctx.memory = weir_base::MemoryBudget::root("test", LIMIT);
    let options = StreamOptions { tail_ring_bytes_max: 4 * LIMIT, log_retention_bytes: None, ..small() };
    let store = open(&ctx, options, arrival()).unwrap();
    let shard = &store.shards()[0];
    for i in 0..100 {
        append(shard, rows(i * 500, 500, 1)).unwrap();
    }
    assert!(shard.ring.bytes() > LIMIT / 2, "the ring holds {} bytes", shard.ring.bytes());
    assert_eq!(ctx.memory.used_bytes(), shard.ring.bytes(), "nothing else is held");
    let query = ctx.memory.child("query", LIMIT).reserve(LIMIT).unwrap();
    assert_eq!(shard.ring.bytes(), 0);
    assert_eq!(read_tail(shard, 0).unwrap().len(), 50_000, "readers fall back to segments");
    // An append needs memory on its way; without any it is refused whole.
    let refused = append(shard, rows(50_000, 500, 1)).unwrap_err();
    assert_eq!(refused.code().number(), 241, "{refused}");
    drop(query);
    assert_eq!(append(shard, rows(50_000, 500, 1)).unwrap().base, SeqNo(50_000));
    drop(store);
    assert_eq!(ctx.memory.used_bytes(), 0);
}

#[test]
fn a_stream_in_memory_counts_what_it_keeps() {
    let w = world(22);
    let mut ctx = w.ctx.clone();
    ctx.memory = weir_base::MemoryBudget::root("test", 1 << 20);
    let options = StreamOptions { storage_type: StorageType::Memory, log_retention_bytes: None, ..small() };
    let store = open(&ctx, options, arrival()).unwrap();
    let shard = &store.shards()[0];
    let mut kept = 0;
    let refused = loop {
        match append(shard, rows(kept, 500, 1)) {
            Ok(_) => kept += 500,
            Err(e) => break e,
        }
    };
    assert_eq!(refused.code().number(), 241, "{refused}");
    assert!(kept > 0 && ctx.memory.used_bytes() <= 1 << 20);
    assert_eq!(read_snapshot(&shard.snapshot()).unwrap().len() as i64, kept);
    shard.truncate_once().unwrap();
    append(shard, rows(kept, 500, 1)).unwrap();
    assert_eq!(read_snapshot(&shard.snapshot()).unwrap().len(), 500);
}
