//! How long a log takes to open after a kill, with a large unsealed last segment.
//! `cargo run --release -p weir-log --example open_big -- DIRECTORY [MIB] [RECORD_KIB]`
#![allow(clippy::disallowed_methods, reason = "measures on the machine's disk")]

use std::sync::Arc;
use weir_base::disk::RealDisk;
use weir_base::{Clock, EventTime, SystemClock};
use weir_log::{Append, LogConfig, LogCore, RecordKind};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| args.get(at).map_or(default, |a| a.parse().expect("a number"));
    let (mib, record_kib) = (number(1, 250), number(2, 256));
    let disk = Arc::new(RealDisk::open(std::path::Path::new(&args[0])).expect("a directory"));
    let clock = Arc::new(SystemClock::new());
    let config = LogConfig::default();
    let mut log = LogCore::open(disk.clone(), clock.clone(), "log", config.clone()).expect("opens");
    let payload = bytes::Bytes::from(vec![7u8; record_kib << 10]);
    for _ in 0..(mib << 10) / record_kib / 8 {
        let group = (0..8).map(|_| Append {
            kind: RecordKind::ROWS,
            rows: 1,
            event_min: EventTime(0),
            event_max: EventTime(0),
            idempotency: None,
            progress: None,
            payload: payload.clone(),
            attachment: None,
        });
        log.write_group(group.collect()).expect("writes");
    }
    println!("{} MiB in {} segments", mib, log.segments().len());
    drop(log);
    for _ in 0..5 {
        let start = clock.monotonic();
        let log = LogCore::open(disk.clone(), clock.clone(), "log", config.clone()).expect("opens");
        println!("opened at {} in {:?}", log.durable_end(), clock.monotonic() - start);
    }
}
