//! Reads all of a shard again: every record of its log, every block of its parts.
//!
//! What ties them together (manifest, log and parts) was checked when the shard was opened.

use super::Shard;
use crate::error::StorageError;
use crate::payload::decode;
use weir_base::SeqNo;
use weir_log::RecordKind;

/// One read of the log or of a part.
const READ_BYTES: u64 = 4 << 20;

/// What was looked at of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// The first row the log holds, and one past the last.
    pub log_start: SeqNo,
    pub log_end: SeqNo,
    pub log_records: u64,
    pub parts: u64,
    pub part_rows: u64,
    /// Of payloads and parts.
    pub bytes: u64,
}

impl Shard {
    /// Tells of everything that does not check, and goes on behind it as far as that can be. Blocks.
    pub fn verify(self: &std::sync::Arc<Self>, found: &mut dyn FnMut(StorageError)) -> Verified {
        let mut seen =
            Verified { log_start: self.log.start(), log_end: self.log.durable_end(), ..Verified::default() };
        self.verify_log(&mut seen, found);
        self.verify_parts(&mut seen, found);
        seen
    }

    fn verify_log(&self, seen: &mut Verified, found: &mut dyn FnMut(StorageError)) {
        let Ok(log) = self.log.own() else { return };
        let mut at = seen.log_start;
        while at < seen.log_end {
            let records = match log.read(at, READ_BYTES as usize) {
                Ok(records) => records,
                // Behind a record that does not check nothing says where the next one begins.
                Err(e) => return found(e.into()),
            };
            let before = at;
            for record in records {
                seen.log_records += 1;
                seen.bytes += record.payload.len() as u64;
                at = at.max(SeqNo(record.base.0 + u64::from(record.rows)));
                if record.kind != RecordKind::ROWS {
                    continue;
                }
                match decode(&record.payload, &self.book) {
                    Ok(batch) if batch.num_rows() as u64 == u64::from(record.rows) => {}
                    Ok(batch) => found(StorageError::Corrupt {
                        path: self.part_dir.clone(),
                        offset: record.base.0,
                        what: format!(
                            "the log record at {} has {} rows, its header says {}",
                            record.base,
                            batch.num_rows(),
                            record.rows
                        ),
                    }),
                    Err(e) => found(e),
                }
            }
            if at == before {
                return found(StorageError::Corrupt {
                    path: self.part_dir.clone(),
                    offset: at.0,
                    what: format!("the log gives no record at {at}, and ends at {}", seen.log_end),
                });
            }
        }
    }

    fn verify_parts(self: &std::sync::Arc<Self>, seen: &mut Verified, found: &mut dyn FnMut(StorageError)) {
        for part in &self.snapshot().parts {
            let (path, size) = (part.path(), part.meta.size_bytes);
            seen.parts += 1;
            seen.part_rows += part.meta.rows;
            for from in (0..size).step_by(READ_BYTES as usize) {
                let range = from..(from + READ_BYTES).min(size);
                seen.bytes += range.end - range.start;
                if let Err(e) = self.ctx.parts().read(path, &[range]) {
                    found(e);
                }
            }
        }
    }
}
