//! Appends to an idle log, written by who appends.

use super::*;
use std::thread::ThreadId;
use weir_base::disk::{Fault, FaultKind, SimDisk};

/// The threads on which records became durable.
#[derive(Default)]
struct Threads(parking_lot::Mutex<Vec<ThreadId>>);

impl CommitObserver for Threads {
    fn durable(&self, _: &Record, _: Option<Arc<dyn Any + Send + Sync>>) {
        self.0.lock().push(std::thread::current().id());
    }
}

fn sim(seed: u64, observer: Option<Arc<dyn CommitObserver>>) -> (SimDisk, Arc<SegmentLog>) {
    let disk = SimDisk::new(seed);
    let clock = Arc::new(ManualClock::new(0));
    let log = SegmentLog::open(Arc::new(disk.clone()), clock, "s", LogConfig::default(), observer).unwrap();
    (disk, log)
}

fn reopened(disk: &SimDisk) -> LogCore {
    let clock = Arc::new(ManualClock::new(0));
    LogCore::open(Arc::new(disk.restart()), clock, "s", LogConfig::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_to_an_idle_log_stays_on_its_thread() {
    let seen = Arc::new(Threads::default());
    let (_disk, log) = sim(1, Some(seen.clone()));
    for _ in 0..20 {
        let log = log.clone();
        let appender = tokio::spawn(async move {
            log.append(rows(1, vec![1]), Ack::Durable).await.unwrap();
            std::thread::current().id()
        });
        let appender = appender.await.unwrap();
        assert_eq!(seen.0.lock().pop(), Some(appender));
    }
    assert_eq!(log.sync().await.unwrap(), SeqNo(20));
}

/// A runtime of one thread can not wait for the disk: the log's thread does.
#[tokio::test]
async fn without_another_thread_the_log_writes() {
    let seen = Arc::new(Threads::default());
    let (_disk, log) = sim(2, Some(seen.clone()));
    log.append(rows(1, vec![1]), Ack::Durable).await.unwrap();
    assert_ne!(seen.0.lock().pop(), Some(std::thread::current().id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_synced_by_whoever_comes_next() {
    for next in 0..6 {
        let (disk, log) = sim(3, None);
        for sn in 0..5 {
            assert_eq!(log.append(rows(1, vec![7; 100]), Ack::Written).await.unwrap().base, SeqNo(sn));
        }
        match next {
            0 => assert_eq!(log.sync().await.unwrap(), SeqNo(5)),
            1 => {
                let mut end = log.watch_durable_end();
                end.wait_for(|end| *end == SeqNo(5)).await.unwrap();
            }
            2 => assert_eq!(log.append(rows(1, vec![8]), Ack::Durable).await.unwrap().base, SeqNo(5)),
            3 => log.truncate(SeqNo(3)).unwrap(),
            4 => log.close().await,
            _ => {}
        }
        drop(log);
        assert!(reopened(&disk).durable_end() >= SeqNo(5), "way {next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_after_the_write_was_acknowledged_poisons_the_log() {
    for seed in 0..20 {
        let (disk, log) = sim(seed, None);
        log.append(rows(1, vec![1]), Ack::Durable).await.unwrap();
        disk.inject(Fault { at_operation: disk.operations(), kind: FaultKind::FailSync });
        assert_eq!(log.append(rows(1, vec![2]), Ack::Written).await.unwrap().base, SeqNo(1));
        log.sync().await.unwrap_err();
        assert!(matches!(log.poisoned(), Some(AppendError::Poisoned { .. })));
        let refused = log.append(rows(1, vec![3]), Ack::Written).await.unwrap_err();
        assert!(matches!(refused, AppendError::Poisoned { .. }), "{refused}");
        assert_eq!(log.durable_end(), SeqNo(1), "nobody reads what is not durable");
        assert_eq!(log.metrics().unheard_failures_total.get(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_log_is_sealed_and_has_no_thread() {
    let (disk, log) = sim(4, None);
    for ack in [Ack::Durable, Ack::Written] {
        log.append(rows(1, vec![1]), ack).await.unwrap();
        assert!(log.has_thread());
        while log.has_thread() {
            tokio::task::yield_now().await;
        }
    }
    let operations = disk.operations();
    log.close().await;
    assert_eq!(disk.operations(), operations, "it was sealed");
}
