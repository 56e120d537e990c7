//! The log as others use it: real disk, threads, a runtime. Crashes are in weir-testkit.

mod lead;

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
        progress: None,
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

/// A read goes over several segments while the one it read last still grows, is sealed and has
/// others behind it: nothing is skipped, and it never looks past the last segment.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn readers_keep_up_with_segments_that_grow() {
    let (_dir, disk) = real_disk();
    let config =
        LogConfig { segment_size_bytes_max: 2048, index_interval_bytes: 256, ..LogConfig::default() };
    let log = SegmentLog::open(disk, Arc::new(SystemClock::new()), "s", config, None).unwrap();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let log = log.clone();
            tokio::task::spawn_blocking(move || {
                let mut next = SeqNo(0);
                while next < SeqNo(1500) {
                    for record in log.read(next, usize::MAX).unwrap() {
                        assert_eq!(record.base, next, "a row is skipped or read twice");
                        next = next.plus(u64::from(record.rows));
                    }
                }
            })
        })
        .collect();
    for i in 0..1500u32 {
        let ack = if i % 64 == 0 { Ack::Durable } else { Ack::Written };
        log.append(rows(1, i.to_le_bytes().to_vec()), ack).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
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

#[test]
fn a_full_disk_refuses_appends_until_there_is_room() {
    let disk = weir_base::disk::SimDisk::new(1);
    disk.set_capacity_bytes(20_000);
    let config = LogConfig { segment_size_bytes_max: 8 << 10, ..LogConfig::default() };
    let clock = Arc::new(ManualClock::new(0));
    let handle: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut log = LogCore::open(handle.clone(), clock.clone(), "s", config.clone()).unwrap();
    let mut accepted = 0;
    let refused = loop {
        match log.write_group(vec![rows(1, vec![accepted; 900])]) {
            Ok(_) => accepted += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, AppendError::DiskFull { needed_bytes, .. } if needed_bytes > 0), "{refused}");
    assert!(accepted > 10);
    assert!(log.write_group(vec![rows(1, vec![0; 900])]).is_err(), "still full");
    disk.set_capacity_bytes(u64::MAX);
    log.write_group(vec![rows(1, vec![accepted; 900])]).unwrap();
    drop(log);
    let log = LogCore::open(Arc::new(disk.restart()), clock, "s", config).unwrap();
    let read = log.read(SeqNo(0), usize::MAX).unwrap();
    let firsts: Vec<u8> = read.iter().map(|r| r.payload[0]).collect();
    assert_eq!(firsts, (0..=accepted).collect::<Vec<_>>(), "refused appends left nothing");
}

#[test]
fn the_last_insert_ids_are_remembered_through_restarts_and_truncation() {
    let disk = weir_base::disk::SimDisk::new(1);
    let config = LogConfig { segment_size_bytes_max: 4 << 10, idempotent_ids_max: 3, ..LogConfig::default() };
    let clock = Arc::new(ManualClock::new(0));
    let open = || LogCore::open(Arc::new(disk.clone()), clock.clone(), "s", config.clone()).unwrap();
    let keyed = |id: &str, record_no, content_hash| Append {
        idempotency: Some(Idempotency { id: id.into(), record_no, content_hash }),
        progress: None,
        ..rows(2, vec![7; 1000])
    };
    let mut log = open();
    let append = |log: &mut LogCore, a| log.write_group(vec![a]).unwrap().remove(0);
    // The same key twice in one group is one record.
    let both = log.write_group(vec![keyed("a", 0, 1), keyed("a", 0, 1), keyed("a", 0, 2)]).unwrap();
    assert!(matches!(&both[0], Ok(Appended { base: SeqNo(0), repeated: false, .. })));
    assert!(matches!(&both[1], Ok(Appended { base: SeqNo(0), repeated: true, .. })));
    assert!(matches!(&both[2], Err(AppendError::IdempotencyConflict { record_no: 0, .. })));
    for id in ["b", "c"] {
        append(&mut log, keyed(id, 0, 1)).unwrap();
    }
    // A later record of the same insert keeps its id young: d evicts b, not a.
    append(&mut log, keyed("a", 1, 1)).unwrap();
    append(&mut log, keyed("d", 0, 1)).unwrap();
    log.truncate(log.durable_end()).unwrap();
    assert!(log.start() > SeqNo(0));
    drop(log);
    let mut log = open();
    for (id, record_no, base) in [("a", 0, 0), ("c", 0, 4), ("a", 1, 6), ("d", 0, 8)] {
        let again = append(&mut log, keyed(id, record_no, 1)).unwrap();
        assert!(again.repeated && again.base == SeqNo(base), "{id} {record_no}: {again:?}");
    }
    assert!(append(&mut log, keyed("c", 0, 9)).is_err(), "other rows");
    assert!(!append(&mut log, keyed("b", 0, 1)).unwrap().repeated, "forgotten");
    let long = append(&mut log, keyed(&"x".repeat(256), 0, 1));
    assert!(matches!(long, Err(AppendError::IdTooLong { size_bytes: 256 })));
}

#[test]
fn marks_come_with_the_row_after_them_and_can_be_asked_for_before() {
    let disk = weir_base::disk::SimDisk::new(1);
    let config = LogConfig { segment_size_bytes_max: 2048, ..LogConfig::default() };
    let clock = Arc::new(ManualClock::new(0));
    let mut log = LogCore::open(Arc::new(disk), clock, "s", config).unwrap();
    let mark = |n: u8| Append { kind: RecordKind::MARK, ..rows(0, vec![n; 600]) };
    let kinds = |records: Vec<Record>| records.iter().map(|r| (r.rows, r.payload[0])).collect::<Vec<_>>();
    log.write_group(vec![rows(5, vec![1; 600])]).unwrap();
    // Marks fill the rest of one segment and go on in the next.
    for n in 2..6 {
        log.write_group(vec![mark(n)]).unwrap();
    }
    assert!(log.segments().len() >= 3);
    assert_eq!(kinds(log.read(SeqNo(0), usize::MAX).unwrap()), [(5, 1)]);
    assert_eq!(kinds(log.end_marks().unwrap()), [(0, 2), (0, 3), (0, 4), (0, 5)]);
    log.write_group(vec![rows(1, vec![6; 10])]).unwrap();
    assert_eq!(kinds(log.read(SeqNo(5), 1).unwrap()), [(0, 2), (0, 3), (0, 4), (0, 5), (1, 6)]);
    assert_eq!(kinds(log.read(SeqNo(0), 1).unwrap()), [(5, 1)]);
    assert!(log.end_marks().unwrap().is_empty());
}
