//! Segments come and go: sealing, creating, truncating.
//!
//! Invariants
//! - A file with a segment's name has its header and keys, synced.
//! - A segment is sealed, synced, before the next one is named.
//! - Removals reach the disk one by one, oldest first: a crash leaves no hole.

use crate::AppendError;
use crate::core::{Active, LogCore, internal_header, is_full, write_error};
use crate::pieces::Pieces;
use crate::record::{ALIGN, KIND_FOOTER, KIND_IDS, KIND_KEYS};
use crate::segment::{
    SEGMENT_HEADER_BYTES, SegmentHeader, SegmentState, TMP_SUFFIX, TRAILER_BYTES, encode_trailer, file_name,
};
use bytes::Bytes;
use std::io;
use weir_base::SeqNo;
use weir_base::disk::OpenMode;

impl LogCore {
    /// Drops whole sealed segments that end at or below `before`; the newest always stays. A
    /// segment that is written to and past its age is sealed first.
    pub fn truncate(&mut self, before: SeqNo) -> Result<(), AppendError> {
        if self.poisoned.is_none() && before >= self.next && self.aged() {
            match self.seal_segment() {
                // No room for a footer: the segment stays until there is.
                Ok(()) | Err(AppendError::DiskFull { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        // An earlier removal may have failed before its sync.
        self.sync_names()?;
        loop {
            let path = {
                let state = self.shared.state.read();
                let first = state.segments.front().filter(|s| s.end <= before && s.file.is_none());
                match first.filter(|_| state.segments.len() > 1) {
                    Some(first) => first.path.clone(),
                    None => return Ok(()),
                }
            };
            // One removal at a time reaches the disk, so that a crash leaves no hole.
            self.dir_unsynced = true;
            // Readers first: who finds no file must find it truncated.
            let first = self.shared.state.write().segments.pop_front();
            match self.shared.disk.remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    first.into_iter().for_each(|s| self.shared.state.write().segments.push_front(s));
                    return Err(write_error(&path, e));
                }
            }
            self.sync_names()?;
        }
    }

    fn aged(&self) -> bool {
        self.active.as_ref().is_some_and(|a| {
            let age_us = self.shared.clock.now_us().saturating_sub(a.header.created_us);
            a.has_records
                && age_us / 1000 >= i64::try_from(self.shared.config.segment_age_ms_max).unwrap_or(i64::MAX)
        })
    }

    /// Makes sure that there is a segment for a group of `bytes`.
    pub(crate) fn ensure_segment(&mut self, bytes: u64) -> Result<(), AppendError> {
        let size_max = self.shared.config.segment_size_bytes_max;
        let full = self.active.as_ref().is_some_and(|a| a.has_records && a.offset + bytes > size_max);
        if full || self.aged() {
            self.seal_segment()?;
        }
        if self.active.is_none() {
            self.create_segment()?;
        }
        Ok(())
    }

    /// Writes footer and trailer, cuts what was reserved, and syncs.
    fn seal_segment(&mut self) -> Result<(), AppendError> {
        let footer = {
            let state = self.shared.state.read();
            Bytes::from(state.segments.back().expect("the active segment is the last").footer().encode())
        };
        let active = self.active.as_ref().expect("the caller has a segment");
        let (salt, start) = (active.header.salt, active.offset);
        let append_time = self.shared.frontier.promised();
        let mut pieces = Pieces::default();
        let header = internal_header(KIND_FOOTER, self.next, append_time, start, &footer);
        pieces.push(&header, &footer, salt, start);
        pieces.scratch(|s| s.extend_from_slice(&encode_trailer(salt, start)));
        self.write_at_end(&pieces)?;
        let active = self.active.take().expect("checked above");
        let file_bytes = start + pieces.len;
        if let Err(e) = active.file.set_len(file_bytes).and_then(|()| active.file.sync_data()) {
            return Err(self.poison(&active.path, e));
        }
        let mut state = self.shared.state.write();
        let segment = state.segments.back_mut().expect("the active segment is the last");
        segment.file = None;
        segment.file_bytes = file_bytes;
        debug_assert_eq!((file_bytes - TRAILER_BYTES) % ALIGN, 0);
        Ok(())
    }

    /// Prepares the file under a temporary name, so that a named one always has a header.
    fn create_segment(&mut self) -> Result<(), AppendError> {
        let disk = self.shared.disk.clone();
        let now_us = self.shared.clock.now_us();
        let header = SegmentHeader {
            number: self.segment_next,
            base: self.next,
            salt: new_salt(now_us, self.segment_next, self.next),
            created_us: now_us,
            append_floor: self.shared.frontier.promised(),
        };
        let path = format!("{}/{}", self.dir, file_name(header.number, header.base));
        let tmp = format!("{path}{TMP_SUFFIX}");
        // What is remembered of all records so far: truncation may take the segments that have them.
        let ids = self.ids.encode();
        let (kind, keys) = if self.progress.is_empty() {
            (KIND_IDS, ids)
        } else {
            let mut keys = (ids.len() as u64).to_le_bytes().to_vec();
            keys.extend_from_slice(&ids);
            self.progress.encode(&mut keys);
            (KIND_KEYS, keys)
        };
        let keys = Bytes::from(keys);
        let keys_at = SEGMENT_HEADER_BYTES;
        let keys_header = internal_header(kind, self.next, header.append_floor, keys_at, &keys);
        let mut start = Pieces::default();
        start.scratch(|s| s.extend_from_slice(&header.encode()));
        start.push(&keys_header, &keys, header.salt, keys_at);
        let prepared = (|| {
            if disk.len(&tmp)?.is_some() {
                disk.remove_file(&tmp)?;
            }
            let file = disk.open(&tmp, OpenMode::CreateNew)?;
            file.write_all_at(0, &start.slices())?;
            file.sync_data()?;
            Ok(file)
        })();
        let file = match prepared {
            Ok(file) => file,
            // No record can be in a file without a name: the next append tries again.
            Err(e) if is_full(&e) => return Err(self.disk_full(start.len)),
            Err(e) => return Err(self.poison(&tmp, e)),
        };
        self.dir_unsynced = true;
        if let Err(e) = disk.rename(&tmp, &path).and_then(|()| disk.sync_dir(&self.dir)) {
            return Err(self.poison(&path, e));
        }
        self.dir_unsynced = false;
        self.segment_next += 1;
        let mut state = SegmentState::new(path.clone(), header, Some(file.clone()));
        state.records_end = start.len;
        self.shared.state.write().segments.push_back(state);
        self.active = Some(Active {
            path,
            header,
            file,
            offset: start.len,
            allocated: start.len,
            sealed: false,
            has_records: false,
        });
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), AppendError> {
        if self.dir_unsynced {
            self.shared.disk.sync_dir(&self.dir).map_err(|e| write_error(&self.dir, e))?;
            self.dir_unsynced = false;
        }
        Ok(())
    }
}

/// Differs between segments; need not be secret. Splitmix over what makes a segment unique.
fn new_salt(now_us: i64, number: u64, base: SeqNo) -> u64 {
    let mut z = (now_us as u64) ^ number.rotate_left(40) ^ base.0.rotate_left(20);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
