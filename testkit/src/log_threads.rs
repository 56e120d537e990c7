//! The threaded log under faults: what any of several writers heard is there, in its place.
//!
//! Threads interleave as they like, so a seed fixes the fault and not the run.

use crate::log::{DIR, read_all};
use fastrand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::disk::{Fault, SimDisk};
use weir_base::{EventTime, ManualClock, SeqNo};
use weir_log::{Ack, Append, LogConfig, LogCore, RecordKind, SegmentLog, ShardLog};

/// Four writers, one fault, a power cut; then every acknowledged record is looked up.
pub async fn schedule(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let disk = SimDisk::new(seed);
    let clock = Arc::new(ManualClock::new(1_000_000));
    let kind = crate::crash::FAULTS[rng.usize(..crate::crash::FAULTS.len())];
    disk.inject(Fault { at_operation: rng.u64(..60), kind });
    let config = LogConfig {
        segment_size_bytes_max: 4096,
        queue_bytes_max: 2048,
        queue_records_max: 3,
        ..LogConfig::default()
    };
    let handle: Arc<SimDisk> = Arc::new(disk.clone());
    let mut heard: HashMap<SeqNo, Vec<u8>> = HashMap::new();
    if let Ok(log) = SegmentLog::open(handle.clone(), clock.clone(), DIR, config.clone(), None) {
        let writers: Vec<_> = (0..4u8).map(|writer| tokio::spawn(write(log.clone(), writer))).collect();
        for writer in writers {
            heard.extend(writer.await.expect("writers do not panic"));
        }
        if rng.bool() {
            log.close().await;
        }
        assert!(log.durable_end() >= heard.keys().max().map_or(SeqNo(0), |sn| sn.plus(2)));
    }
    let after = disk.restart();
    let log = LogCore::open(Arc::new(after), clock, DIR, config).expect("without faults a log opens");
    let found = read_all(&log, SeqNo(0)).expect("and reads");
    let by_sn: HashMap<SeqNo, _> = found.iter().map(|r| (r.base, &r.payload)).collect();
    for (sn, payload) in &heard {
        assert_eq!(by_sn.get(sn).map(|p| &p[..]), Some(&payload[..]), "acknowledged at {sn}");
    }
    for writer in 0..4 {
        let numbers: Vec<u8> =
            found.iter().filter(|r| r.payload[0] == writer).map(|r| r.payload[1]).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "writer {writer}: each once and in order: {numbers:?}");
    }
}

async fn write(log: Arc<SegmentLog>, writer: u8) -> Vec<(SeqNo, Vec<u8>)> {
    let mut heard = Vec::new();
    for i in 0..12u8 {
        let mut payload = vec![writer, i];
        payload.resize(2 + usize::from(i) * 40, 0);
        let append = Append {
            kind: RecordKind::ROWS,
            rows: 2,
            event_min: EventTime(0),
            event_max: EventTime(0),
            idempotency: None,
            progress: None,
            payload: payload.clone().into(),
            attachment: None,
        };
        // What is only written may be lost with the machine, but not out of order.
        let ack = if i % 3 == writer % 3 { Ack::Written } else { Ack::Durable };
        match log.append(append, ack).await {
            Ok(done) if ack == Ack::Durable => heard.push((done.base, payload)),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    heard
}
