//! Everything at once on a real disk: writers, commits, merges, retention, and readers that
//! must see every sequence number once, in order.

use crate::context::PartsLocation;
use crate::shard::Shard;
use crate::store::StreamStore;
use crate::testing::*;
use crate::{StoreContext, StreamOptions};
use std::sync::Arc;
use weir_base::disk::RealDisk;
use weir_base::metrics::Registry;
use weir_base::{MemoryBudget, Rng, SeqNo, SystemClock};
use weir_log::Ack;

const WRITERS: i64 = 3;
const BATCHES: i64 = 120;
const BATCH_ROWS: i64 = 40;
const TOTAL: u64 = (WRITERS * BATCHES * BATCH_ROWS) as u64;

async fn follow(shard: Arc<Shard>, from: u64) -> u64 {
    let mut cursor = shard.tail(SeqNo(from));
    let mut next = from;
    while next < TOTAL {
        let tail = cursor.next().await.expect("nothing is ever lost");
        for row in 0..tail.rows() {
            assert_eq!(tail.sn(row), SeqNo(next), "every number once, in order");
            number(&tail.batch, row);
            next += 1;
        }
    }
    next - from
}

/// Snapshots until all rows are there; each is dense from 0 to its end.
async fn snapshots(shard: Arc<Shard>) -> u64 {
    tokio::task::spawn_blocking(move || {
        let mut taken = 0;
        loop {
            let snapshot = shard.snapshot();
            let seen = read_snapshot(&snapshot).expect("a snapshot reads");
            assert_eq!(seen.len() as u64, snapshot.durable_end.0);
            assert!(seen.keys().copied().eq(0..snapshot.durable_end.0));
            taken += 1;
            if snapshot.durable_end.0 == TOTAL {
                return taken;
            }
        }
    })
    .await
    .expect("the reader does not panic")
}

#[test]
fn every_row_once_whatever_runs_meanwhile() {
    for layout in [arrival, by_key] {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        let ctx = StoreContext::new(
            Arc::new(RealDisk::open(dir.path()).unwrap()),
            Arc::new(SystemClock::new()),
            Arc::new(Rng::seeded(5)),
            MemoryBudget::root("test", u64::MAX),
            Arc::new(Registry::default()),
            PartsLocation::Local,
            Some(runtime.handle().clone()),
        );
        let options = StreamOptions {
            flush_threshold_count: 700,
            flush_threshold_ms: 20,
            segment_size_bytes_max: 64 << 10,
            index_interval_bytes: 4 << 10,
            log_retention_bytes: Some(0),
            uncommitted_bytes_max: 1 << 20,
            tail_ring_bytes_max: 64 << 10,
            ..Default::default()
        };
        let store = StreamStore::create(&ctx, "s", schema(), options.clone(), layout()).unwrap();
        runtime.block_on(async {
            let shard = store.shards()[0].clone();
            let writers: Vec<_> = (0..WRITERS)
                .map(|w| {
                    let shard = shard.clone();
                    tokio::spawn(async move {
                        for b in 0..BATCHES {
                            let first = (w * BATCHES + b) * BATCH_ROWS;
                            shard.append(rows(first, BATCH_ROWS, 2), None, Ack::Durable).await.unwrap();
                            if b % 40 == 39 {
                                shard.merge().await.unwrap();
                            }
                        }
                    })
                })
                .collect();
            let live: Vec<_> = (0..3).map(|i| tokio::spawn(follow(shard.clone(), i * 500))).collect();
            let bounded = tokio::spawn(snapshots(shard.clone()));
            for writer in writers {
                writer.await.unwrap();
            }
            for (i, reader) in live.into_iter().enumerate() {
                assert_eq!(reader.await.unwrap(), TOTAL - i as u64 * 500);
            }
            assert!(bounded.await.unwrap() > 0);
            shard.flush().await.unwrap();
            shard.merge().await.unwrap();
            assert_eq!(shard.parts().len(), 2);
            assert!(shard.segments()[0].base > SeqNo(0), "the log was cut");
            // From the very beginning again, now out of parts.
            assert_eq!(follow(shard.clone(), 0).await, TOTAL);
            store.close().await;
        });
        drop(store);
        let store = StreamStore::open(&ctx, "s", schema(), options, layout()).unwrap();
        assert_eq!(read_snapshot(&store.shards()[0].snapshot()).unwrap().len() as u64, TOTAL);
        runtime.block_on(store.close());
    }
}
