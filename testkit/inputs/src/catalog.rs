//! A catalog directory of any content: the first line is the snapshot file's JSON, each line
//! after it an event of the log.

use bytes::Bytes;
use std::io::IoSlice;
use std::sync::Arc;
use weir_base::disk::{OpenMode, SimDisk};
use weir_base::{Code, Disk, EventTime, ManualClock};
use weir_catalog::{Catalog, Dependents, Event};
use weir_log::{Append, LogConfig, RecordKind, SegmentLog};

const DIR: &str = "catalog";

pub(crate) fn open(data: &[u8]) -> bool {
    let data = &data[..data.len().min(64 << 10)];
    let disk = SimDisk::new(1);
    let clock = Arc::new(ManualClock::new(1_000_000));
    disk.create_dir_all(DIR).expect("a new disk");
    let mut lines = data.split(|b| *b == b'\n');
    let snapshot = lines.next().unwrap_or_default();
    if !snapshot.is_empty() {
        let file = disk.open(&format!("{DIR}/snapshot"), OpenMode::CreateNew).expect("a new disk");
        let sum = format!("{:08x}\n", crc32c::crc32c(snapshot));
        let bytes = [IoSlice::new(sum.as_bytes()), IoSlice::new(snapshot)];
        file.write_all_at(0, &bytes).expect("a healthy disk");
    }
    let config = LogConfig::default();
    let handle: Arc<SimDisk> = Arc::new(disk.clone());
    let log = SegmentLog::open(handle.clone(), clock.clone(), &format!("{DIR}/log"), config, None)
        .expect("a healthy disk");
    let events = lines.take(64).map(|line| Append {
        kind: RecordKind::EVENT,
        rows: 1,
        event_min: EventTime(0),
        event_max: EventTime(0),
        idempotency: None,
        progress: None,
        payload: Bytes::copy_from_slice(line),
        attachment: None,
    });
    log.append_blocking(events.collect()).expect("a healthy disk");
    let catalog = match Catalog::with_log(handle, DIR, log) {
        Ok(catalog) => catalog,
        Err(e) => {
            assert_eq!(e.code(), Code::CorruptedData, "{e}");
            return false;
        }
    };
    // What opened can be asked and changed; what it cannot do it says.
    let snapshot = catalog.snapshot();
    for relation in snapshot.relations() {
        let _ = snapshot.dependents(&relation.full_name());
        let _ = snapshot.expect_relation(&relation.database, &format!("{}x", relation.name));
    }
    let event = Event::CreateDatabase { name: "made here".into(), comment: String::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("no drivers, no failure");
    let _ = runtime.block_on(catalog.apply(event, Dependents::Refuse));
    true
}
