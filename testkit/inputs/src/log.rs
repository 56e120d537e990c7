//! Segment files of any content: a log opens, or refuses and says where.
//!
//! Checksums keep random bytes out, and bytes that pass them were written by a log. What a
//! fuzzer should reach lies behind them, so they are put right here before the log looks.

use crate::options;
use bytes::Bytes;
use std::io::IoSlice;
use std::sync::Arc;
use weir_base::disk::{OpenMode, SimDisk};
use weir_base::{AppendTime, Disk, EventTime, ManualClock, SeqNo};
use weir_log::{Append, Idempotency, LogConfig, LogCore, OpenError, ReadError, RecordKind};

const DIR: &str = "log";
const ALIGN: usize = 64;
const HEADER_FIXED: usize = 84;

/// The first two bytes choose options, the next two where the second file begins.
pub(crate) fn open(data: &[u8]) -> bool {
    let ([flags, seed, low, high], body) = options::<4>(data);
    let body = &body[..body.len().min(256 << 10)];
    let cut = usize::from(u16::from_le_bytes([low, high])) * ALIGN;
    let (first, second) = body.split_at(cut.min(body.len()));
    let disk = SimDisk::new(u64::from(seed));
    disk.create_dir_all(DIR).expect("a new disk");
    for part in [first, second] {
        if part.is_empty() {
            continue;
        }
        let mut file = part.to_vec();
        if flags & 1 == 0 {
            put_right(&mut file, flags & 2 == 0);
        }
        let field =
            |at: usize| file.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("8")));
        let path = format!("{DIR}/{:010}-{:020}.seg", field(8), field(16));
        // Two files of one name: the second is not written.
        if let Ok(handle) = disk.open(&path, OpenMode::CreateNew) {
            handle.write_all_at(0, &[IoSlice::new(&file)]).expect("a healthy disk");
            handle.sync_data().expect("a healthy disk");
        }
    }
    disk.sync_dir(DIR).expect("a healthy disk");
    disk.sync_dir("").expect("a healthy disk");
    let config = LogConfig {
        segment_size_bytes_max: 16 << 10,
        index_interval_bytes: 1 << 10,
        record_bytes_max: 64 << 10,
        ..LogConfig::default()
    };
    use_log(&disk, config)
}

/// Recomputes every checksum that lies where one belongs.
pub(crate) fn put_right(file: &mut [u8], trailer: bool) {
    let word = |file: &[u8], at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    if file.len() < ALIGN {
        return;
    }
    let crc = crc32c::crc32c(&file[..60]);
    file[60..64].copy_from_slice(&crc.to_le_bytes());
    let salt: [u8; 8] = file[24..32].try_into().expect("eight bytes");
    // From the end, so that what lies in a payload is right before the payload's sum is taken.
    for at in (ALIGN..file.len()).step_by(ALIGN).rev() {
        if !file[at..].starts_with(b"WREC") || file.len() < at + HEADER_FIXED {
            continue;
        }
        let used = HEADER_FIXED + usize::from(file[at + 6]);
        let payload_at = at + used.next_multiple_of(ALIGN);
        let payload_len = word(file, at + 16) as usize;
        if let Some(payload) = file.get(payload_at..).and_then(|rest| rest.get(..payload_len)) {
            let crc = crc32c::crc32c(payload);
            file[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
        }
        if let Some(header) = file.get(at..at + used) {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&salt), &(at as u64).to_le_bytes());
            let crc = crc32c::crc32c_append(crc, &header[..8]);
            let crc = crc32c::crc32c_append(crc, &header[12..]);
            file[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let at = file.len() - ALIGN;
    if trailer && file[at..].starts_with(b"WEIREND1") {
        file[at + 16..at + 24].copy_from_slice(&salt);
        let crc = crc32c::crc32c(&file[at..at + 60]);
        file[at + 60..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Opens, reads, seeks, appends and opens again; whether all was there to be read.
fn use_log(disk: &SimDisk, config: LogConfig) -> bool {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let mut log = match LogCore::open(Arc::new(disk.clone()), clock.clone(), DIR, config.clone()) {
        Ok(log) => log,
        Err(OpenError::Read(ReadError::Corrupt { .. })) => return false,
        Err(e) => panic!("a healthy disk: {e}"),
    };
    assert!(log.start() <= log.durable_end());
    let readable = read_all(&log);
    log.seek_event_time(EventTime(0));
    log.seek_append_time(AppendTime(0));
    let append = |key: Option<&str>| Append {
        kind: RecordKind::ROWS,
        rows: 1,
        event_min: EventTime(0),
        event_max: EventTime(0),
        idempotency: key.map(|id| Idempotency { id: id.into(), record_no: 0, content_hash: 1 }),
        progress: None,
        payload: Bytes::from_static(b"row"),
        attachment: None,
    };
    let end = log.durable_end();
    if end.0 > SeqNo::MAX.0 - 1_000 {
        // Numbers that are used up are an assertion of the log: 2^63 rows were appended.
        return readable;
    }
    let results = log.write_group(vec![append(None), append(Some("a"))]).expect("a healthy disk");
    assert_eq!(results[0].as_ref().map(|done| done.base).ok(), Some(end), "the next number");
    log.truncate(SeqNo(end.0 / 2)).expect("a healthy disk");
    if readable {
        assert!(read_all(&log), "what was readable stays so");
    }
    let end = log.durable_end();
    drop(log);
    match LogCore::open(Arc::new(disk.clone()), clock, DIR, config) {
        Ok(log) => assert_eq!(log.durable_end(), end, "the same log again"),
        Err(e) => panic!("a log that was used does not open again: {e}"),
    }
    readable
}

/// Whether everything reads.
fn read_all(log: &LogCore) -> bool {
    let mut cursor = log.start();
    while cursor < log.durable_end() {
        match log.read(cursor, 1000) {
            Ok(records) => {
                let last = records.last().expect("at least one record below the durable end");
                let next = last.base.plus(u64::from(last.rows));
                assert!(next > cursor, "reading goes forward");
                cursor = next;
            }
            Err(ReadError::Corrupt { .. }) => return false,
            Err(e) => panic!("a healthy disk: {e}"),
        }
    }
    match log.end_marks() {
        Ok(_) => true,
        Err(ReadError::Corrupt { .. }) => false,
        Err(e) => panic!("a healthy disk: {e}"),
    }
}
