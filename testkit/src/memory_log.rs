//! The log in memory through restarts: numbers are never used twice, append times never fall.

use fastrand::Rng;
use std::sync::Arc;
use weir_base::disk::{Fault, SimDisk};
use weir_base::{AppendTime, ErrorKind, EventTime, ManualClock, SeqNo};
use weir_log::{Append, MemoryLog, MemoryLogConfig, RecordKind, ShardLog};

/// One random schedule of lives, each with a fault, on one disk. Returns how many faults struck.
pub fn schedule(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let mut disk = SimDisk::new(seed);
    let mut clock_us = 1_000_000_000;
    let (mut end, mut newest) = (SeqNo(0), AppendTime(i64::MIN));
    for _ in 0..rng.u32(2..6) {
        let kind = crate::crash::FAULTS[rng.usize(..crate::crash::FAULTS.len())];
        disk.inject(Fault { at_operation: disk.operations() + rng.u64(..12), kind });
        clock_us += rng.i64(-30_000_000..30_000_000);
        let clock = Arc::new(ManualClock::new(clock_us));
        let config = MemoryLogConfig { retention_bytes_max: 5_000, ..MemoryLogConfig::default() };
        match MemoryLog::open(Arc::new(disk.clone()), clock.clone(), "m/0", config, None) {
            Ok(log) => {
                for _ in 0..rng.u32(1..20) {
                    clock.advance(std::time::Duration::from_millis(rng.u64(..8_000)));
                    let append = Append {
                        kind: RecordKind::ROWS,
                        rows: rng.u32(1..1 << 24),
                        event_min: EventTime(0),
                        event_max: EventTime(0),
                        idempotency: None,
                        progress: None,
                        payload: vec![1; rng.usize(..900)].into(),
                        attachment: None,
                    };
                    let rows = append.rows;
                    if let Ok(done) = log.append_blocking(append) {
                        assert!(
                            done.base >= end && done.append_time > newest,
                            "{done:?} after {end} {newest:?}"
                        );
                        (end, newest) = (done.base.plus(u64::from(rows)), done.append_time);
                        assert_eq!(log.durable_end(), end);
                        assert_eq!(log.read(done.base, 1).expect("held").len(), 1);
                    }
                }
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}"),
        }
        disk.clear_faults();
        if disk.crashed() || rng.bool() {
            disk = disk.restart();
        }
    }
    disk.faults_struck()
}
