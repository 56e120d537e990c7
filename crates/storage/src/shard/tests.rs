mod crash;
mod damage;
mod external;
mod lifecycle;
mod memory;
mod model;
mod sim;
mod stitch;
mod wanted;

use super::*;
use crate::StreamOptions;
use crate::testing::*;
use weir_log::Ack;

fn options() -> StreamOptions {
    StreamOptions { segment_size_bytes_max: 64 << 10, index_interval_bytes: 4 << 10, ..Default::default() }
}

#[test]
fn a_row_reads_the_same_from_ring_log_and_parts() {
    for layout in [arrival, by_key] {
        let w = world(1);
        let store = open(&w.ctx, options(), layout()).unwrap();
        let shard = &store.shards()[0];
        let mut expected = std::collections::BTreeMap::new();
        for i in 0..40 {
            let appended = append(shard, rows(i * 50, 50, 3)).unwrap();
            expected.extend((0..50u64).map(|k| (appended.base.0 + k, i * 50 + k as i64)));
        }
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
        assert_eq!(read_tail(shard, 0).unwrap(), expected);
        assert!(shard.commit_once().unwrap());
        assert_eq!(shard.committed_end(), SeqNo(2000));
        assert_eq!(shard.parts().len(), 3);
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
        store.set_options(StreamOptions {
            log_retention_bytes: Some(0),
            tail_ring_bytes_max: 0,
            ..options()
        });
        append(shard, rows(2000, 50, 3)).unwrap();
        expected.extend((2000..2050).map(|n| (n as u64, n)));
        shard.retain_once().unwrap();
        assert!(shard.segments()[0].base > SeqNo(0), "the log was cut");
        assert_eq!(read_tail(shard, 0).unwrap(), expected);
        for from in [1, 777, 1999, 2001] {
            assert_eq!(read_tail(shard, from).unwrap(), expected.clone().split_off(&from));
        }
        drop(store);
        let store = open(&w.ctx, options(), layout()).unwrap();
        let shard = &store.shards()[0];
        assert_eq!(read_tail(shard, 0).unwrap(), expected);
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
    }
}

#[test]
fn merges_keep_rows_and_order_and_let_readers_finish() {
    for layout in [arrival, by_key] {
        let w = world(2);
        let store = open(&w.ctx, options(), layout()).unwrap();
        let shard = &store.shards()[0];
        for i in 0..30 {
            append(shard, rows(i * 70, 70, 2)).unwrap();
            assert!(shard.commit_once().unwrap());
        }
        let before = shard.snapshot();
        let expected = read_snapshot(&before).unwrap();
        assert_eq!(expected.len(), 2100);
        let mut merges = 0;
        while shard.merge_once(MergeMode::ToRest).unwrap() {
            merges += 1;
        }
        assert!(merges >= 4);
        assert_eq!(shard.parts().len(), 2, "one part a day");
        shard.collect_garbage();
        assert_eq!(read_snapshot(&before).unwrap(), expected);
        drop(before);
        assert_eq!(shard.collect_garbage(), 60, "files go with their last reader");
        assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
        store.set_options(StreamOptions {
            log_retention_bytes: Some(0),
            tail_ring_bytes_max: 0,
            ..options()
        });
        shard.retain_once().unwrap();
        assert_eq!(read_tail(shard, 0).unwrap(), expected);
        let files = w.ctx.disk.list("streams/s/shard-0000/parts").unwrap();
        assert_eq!(files.len(), 4, "two parts with a sidecar each: {files:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_cursor_is_woken_by_an_append() {
    let w = world(3);
    let store = open(&w.ctx, options(), arrival()).unwrap();
    let shard = store.shards()[0].clone();
    let mut cursor = shard.tail(shard.durable_end());
    let waiting = tokio::spawn(async move { cursor.next().await.map(|b| b.rows()) });
    shard.append(rows(0, 5, 1), None, Ack::Durable).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 5);
    let mut cursor = shard.tail(SeqNo(5));
    let waiting = tokio::spawn(async move { cursor.next().await });
    store.close().await;
    drop((store, shard));
    assert!(matches!(waiting.await.unwrap(), Err(StorageError::Closed)));
}
