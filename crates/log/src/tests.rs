//! The log as others use it: real disk, threads, a runtime. Crashes are in weir-testkit.

use super::*;
use weir_base::disk::RealDisk;
use weir_base::{Disk, ManualClock, SystemClock};

fn rows(n: u32, payload: impl Into<Bytes>) -> Append {
    Append {
        kind: RecordKind::ROWS,
        rows: n,
        event_min: EventTime(0),
        event_max: EventTime(0),
        idempotency: None,
        payload: payload.into(),
        attachment: None,
    }
}

#[allow(clippy::disallowed_methods, reason = "a real directory for the real disk")]
fn real_disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    (dir, Arc::new(disk))
}

fn open(disk: &Arc<dyn Disk>) -> Arc<SegmentLog> {
    SegmentLog::open(disk.clone(), Arc::new(SystemClock::new()), "s/0", LogConfig::default(), None).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_groups_and_all_is_there_after_a_restart() {
    let (_dir, disk) = real_disk();
    let log = open(&disk);
    let mut tasks = Vec::new();
    for writer in 0..8u8 {
        let log = log.clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..50u8 {
                let ack = [Ack::Durable, Ack::Written, Ack::None][usize::from(i % 3)];
                let done = log.append(rows(3, vec![writer, i]), ack).await.unwrap();
                assert_eq!(done.rows, 3);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(log.sync().await.unwrap(), SeqNo(1200));
    assert_eq!(log.metrics().records_total.get(), 400);
    assert!(log.metrics().groups_total.get() < 400, "appends share groups");
    log.close().await;
    assert!(matches!(log.append(rows(1, vec![0]), Ack::Durable).await, Err(AppendError::Closed)));
    drop(log);
    let log = open(&disk);
    let read = log.read(SeqNo(0), usize::MAX).unwrap();
    assert_eq!((read.len(), log.durable_end()), (400, SeqNo(1200)));
    for writer in 0..8u8 {
        let order: Vec<u8> = read.iter().filter(|r| r.payload[0] == writer).map(|r| r.payload[1]).collect();
        assert_eq!(order, (0..50).collect::<Vec<_>>(), "each writer's records are in its order");
    }
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_the_commit() {
    let (_dir, disk) = real_disk();
    let log = open(&disk);
    let mut tail = log.watch_durable_end();
    let appended = tokio::spawn({
        let log = log.clone();
        async move { log.append(rows(5, vec![1; 100]), Ack::Durable).await.unwrap() }
    });
    tail.wait_for(|end| *end == SeqNo(5)).await.unwrap();
    assert_eq!(log.read(SeqNo(0), 1).unwrap()[0].payload, vec![1; 100]);
    assert_eq!(appended.await.unwrap().base, SeqNo(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_writers_wait_and_loses_nothing() {
    let (_dir, disk) = real_disk();
    let config = LogConfig { queue_bytes_max: 4096, queue_records_max: 2, ..LogConfig::default() };
    let log = SegmentLog::open(disk, Arc::new(SystemClock::new()), "s", config, None).unwrap();
    let appends = (0..40).map(|i| {
        let log = log.clone();
        tokio::spawn(async move { log.append(rows(1, vec![i; 3000]), Ack::None).await })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap().unwrap();
    }
    assert_eq!(log.sync().await.unwrap(), SeqNo(40));
}

#[derive(Default)]
struct Seen(parking_lot::Mutex<Vec<(SeqNo, Option<u32>)>>);

impl CommitObserver for Seen {
    fn durable(&self, record: &Record, attachment: Option<Arc<dyn Any + Send + Sync>>) {
        let attached = attachment.map(|a| *a.downcast::<u32>().unwrap());
        self.0.lock().push((record.base, attached));
    }
}

#[tokio::test]
async fn the_observer_has_seen_a_record_before_its_writer_hears() {
    let (_dir, disk) = real_disk();
    let seen = Arc::new(Seen::default());
    let log =
        SegmentLog::open(disk, Arc::new(SystemClock::new()), "s", LogConfig::default(), Some(seen.clone()))
            .unwrap();
    log.append(Append { attachment: Some(Arc::new(9u32)), ..rows(2, vec![]) }, Ack::Durable).await.unwrap();
    assert_eq!(*seen.0.lock(), [(SeqNo(0), Some(9))]);
    log.append_blocking(vec![rows(1, vec![]), rows(1, vec![])]).unwrap();
    assert_eq!(seen.0.lock().len(), 3);
}

#[tokio::test]
async fn an_idle_frontier_follows_the_clock_and_holds_after_a_restart() {
    let (_dir, disk) = real_disk();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let log = SegmentLog::open(disk.clone(), clock.clone(), "s", LogConfig::default(), None).unwrap();
    let first = log.append(rows(1, vec![]), Ack::Durable).await.unwrap();
    assert_eq!(log.append_frontier(), first.append_time);
    clock.advance(std::time::Duration::from_secs(60));
    while log.append_frontier() < AppendTime(61_000_000) {
        tokio::task::yield_now().await;
    }
    drop(log);
    // The clock falls back by a minute across the restart.
    let clock = Arc::new(ManualClock::new(1_000_000));
    let log = SegmentLog::open(disk.clone(), clock.clone(), "s", LogConfig::default(), None).unwrap();
    let second = log.append(rows(1, vec![]), Ack::Durable).await.unwrap();
    assert!(second.append_time > AppendTime(61_000_000), "{second:?}");
    assert_eq!(log.seek_append_time(AppendTime(61_000_001)).unwrap(), SeqNo(0), "early by one interval");
}

#[tokio::test]
async fn memory_forgets_rows_and_not_numbers() {
    let (_dir, disk) = real_disk();
    let clock = Arc::new(ManualClock::new(5_000_000));
    let config = MemoryLogConfig { retention_bytes_max: 2000, ..MemoryLogConfig::default() };
    let open = || MemoryLog::open(disk.clone(), clock.clone(), "m/0", config.clone(), None).unwrap();
    let log = open();
    for i in 0..10u8 {
        log.append(rows(10, vec![i; 100]), Ack::Durable).await.unwrap();
    }
    assert_eq!(log.durable_end(), SeqNo(100));
    assert_eq!(log.start(), SeqNo(50), "five records of 356 bytes fit");
    assert!(matches!(log.read(SeqNo(0), 1), Err(ReadError::Truncated { oldest: SeqNo(50), .. })));
    assert_eq!(log.read(SeqNo(73), 1).unwrap()[0].payload, vec![7; 100]);
    let frontier = log.append_frontier();
    drop(log);
    let log = open();
    let end = log.durable_end();
    assert!(end >= SeqNo(100) && log.read(end, 1).unwrap().is_empty());
    let next = log.append(rows(1, vec![]), Ack::Durable).await.unwrap();
    assert!(next.base == end && next.append_time > frontier);
    log.close().await;
    drop(log);
    assert_eq!(open().durable_end(), end.plus(1), "a clean stop skips nothing");
}

#[test]
fn large_payloads_come_back_aligned_and_whole() {
    let (_dir, disk) = real_disk();
    let log = open(&disk);
    let sizes = [0usize, 1, 63, 64, 4095, 4096, 100_000, 9 << 20];
    for size in sizes {
        log.append_blocking(vec![rows(1, vec![size as u8; size])]).unwrap();
    }
    for bytes_max in [1, 70_000, usize::MAX] {
        let mut sn = SeqNo(0);
        while sn < log.durable_end() {
            for record in log.read(sn, bytes_max).unwrap() {
                let size = sizes[record.base.0 as usize];
                assert_eq!(record.payload, vec![size as u8; size]);
                assert_eq!(record.payload.as_ptr() as usize % 64, 0, "size {size}");
                sn = record.base.plus(1);
            }
        }
    }
}
