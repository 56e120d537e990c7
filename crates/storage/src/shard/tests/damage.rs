//! Bit flips and failed reads: detected with file and offset, or harmless.

use super::sim::sim_options;
use crate::shard::MergeMode;
use crate::testing::*;
use crate::{StorageError, StorageType, StreamOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::ManualClock;
use weir_base::disk::SimDisk;

/// A stream with commits and merges behind it.
fn prepared(options: &StreamOptions) -> (SimDisk, BTreeMap<u64, i64>) {
    let w = world(7);
    let store = open(&w.ctx, options.clone(), by_key()).unwrap();
    let shard = &store.shards()[0];
    for i in 0..4 {
        append(shard, rows(i * 150, 150, 2)).unwrap();
        shard.commit_once().unwrap();
    }
    while shard.merge_once(MergeMode::ToRest).unwrap() {}
    shard.collect_garbage();
    append(shard, rows(600, 50, 2)).unwrap();
    shard.commit_once().unwrap();
    append(shard, rows(650, 25, 2)).unwrap();
    shard.retain_once().unwrap();
    let expected = read_snapshot(&shard.snapshot()).unwrap();
    block_on(store.close());
    drop(store);
    (w.disk.restart(), expected)
}

fn read_all(disk: &SimDisk, options: &StreamOptions) -> Result<BTreeMap<u64, i64>, StorageError> {
    let ctx = context(Arc::new(disk.clone()), Arc::new(ManualClock::new(NOW_MS * 1000)), 99);
    let store = open(&ctx, options.clone(), by_key())?;
    let shard = &store.shards()[0];
    let tail = read_tail(shard, 0);
    let seen = read_snapshot(&shard.snapshot());
    block_on(store.close());
    let seen = seen?;
    assert_eq!(tail?, seen, "a cursor reads what a snapshot reads");
    Ok(seen)
}

#[test]
fn a_flipped_bit_is_found_and_named_or_changes_nothing() {
    for log_retention_bytes in [Some(0), None] {
        let options = StreamOptions { log_retention_bytes, ..sim_options(StorageType::Hybrid) };
        let (disk, expected) = prepared(&options);
        let (mut found, mut harmless) = (0, 0);
        for (path, len) in disk.files() {
            // The log has tests of its own.
            if path.contains("/log/") {
                continue;
            }
            let step = (len / 150).max(1) as usize;
            for offset in (0..len).step_by(step) {
                let damaged = disk.restart();
                damaged.flip_bit(&path, offset, (offset % 8) as u8).unwrap();
                match read_all(&damaged, &options) {
                    Ok(seen) => {
                        assert_eq!(seen, expected, "{path} at {offset}");
                        harmless += 1;
                    }
                    Err(StorageError::Corrupt { path: named, offset: at, .. }) => {
                        found += 1;
                        let is_part = path.ends_with(".parquet");
                        assert!(
                            !is_part || named == path && at <= offset,
                            "{path} at {offset}: {named} at {at}"
                        );
                    }
                    Err(e) => panic!("{path} at {offset}: {e}"),
                }
            }
        }
        assert!(found > 500, "{found} found, {harmless} harmless");
    }
}

#[test]
fn a_failed_read_is_an_error_and_the_next_one_works() {
    let options = StreamOptions { log_retention_bytes: Some(0), ..sim_options(StorageType::Hybrid) };
    let (disk, expected) = prepared(&options);
    let before = disk.reads();
    let counted = disk.restart();
    let start = counted.reads();
    read_all(&counted, &options).unwrap();
    let reads = counted.reads() - start;
    assert!(reads > 10, "{before} before, {reads} while reading");
    for at in 0..reads {
        let disk = disk.restart();
        disk.fail_read(disk.reads() + at);
        match read_all(&disk, &options) {
            Ok(seen) => assert_eq!(seen, expected),
            Err(StorageError::Corrupt { path, what, .. }) => panic!("read {at} of {path}: {what}"),
            Err(_) => {}
        }
        disk.clear_faults();
        assert_eq!(read_all(&disk, &options).unwrap(), expected);
    }
}
