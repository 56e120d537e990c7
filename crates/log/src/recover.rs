//! Opening a log: which records count, and what a crash left over.
//!
//! Sealed segments answer from their footers; only the last segment is read. A record that
//! does not check ends the log if nothing found anywhere says it was durable (it belongs to
//! the last group, whose sync never returned); else it is corruption, refused with file and
//! offset. What is kept of the last group is written and synced again before anyone reads
//! it: after a failed sync the cache may hold bytes the disk never got.

use crate::idempotency::{IdempotencyIndex, Seen};
use crate::progress::ProgressTable;
use crate::record::{
    ALIGN, Damage, HEADER_FIXED, HEADER_MAX, Header, KIND_FOOTER, KIND_IDS, KIND_KEYS, MAGIC, decode_record,
    is_internal,
};
use crate::segment::{
    Footer, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentState, TMP_SUFFIX, TRAILER_BYTES, corrupt,
    decode_trailer, parse_file_name, read_error,
};
use crate::shared::read_aligned;
use crate::{LogConfig, OpenError, ReadError, RecordKind};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use weir_base::disk::{OpenMode, create_dir_durable};
use weir_base::{AppendTime, Disk, DiskFile, SeqNo};

/// One read while the last segment is gone through.
const SCAN_BYTES: u64 = 4 << 20;
/// A seal is a header without id or payload.
const SEAL_BYTES: u64 = (HEADER_FIXED as u64).next_multiple_of(ALIGN);

pub(crate) struct Recovered {
    pub segments: VecDeque<SegmentState>,
    /// The last segment, unless it is sealed.
    pub active: Option<RecoveredActive>,
    pub keys: Keys,
    pub durable_end: SeqNo,
    pub append_last: AppendTime,
}

/// What is remembered of records apart from where they lie.
pub(crate) struct Keys {
    pub ids: IdempotencyIndex,
    pub progress: ProgressTable,
}

pub(crate) struct RecoveredActive {
    pub file: Arc<dyn DiskFile>,
    /// Where the next record goes.
    pub offset: u64,
    pub allocated: u64,
    /// A seal lies at `offset`; the next record overwrites it.
    pub sealed: bool,
}

pub(crate) fn recover(disk: &dyn Disk, dir: &str, config: &LogConfig) -> Result<Recovered, OpenError> {
    let entries = match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|e| read_error(dir, e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = format!("{dir}/{}", entry.name);
        if let Some((number, base)) = parse_file_name(&entry.name) {
            names.push((number, base, path));
        } else if entry.name.strip_suffix(TMP_SUFFIX).and_then(parse_file_name).is_some() {
            // A segment that never got its name holds nothing.
            disk.remove_file(&path).map_err(|e| read_error(&path, e))?;
        }
    }
    names.sort();
    let mut recovered = Recovered {
        segments: VecDeque::new(),
        active: None,
        keys: Keys {
            ids: IdempotencyIndex::new(config.idempotent_ids_max as usize),
            progress: ProgressTable::default(),
        },
        durable_end: SeqNo::ZERO,
        append_last: AppendTime(i64::MIN),
    };
    let count = names.len();
    for (i, (number, base, path)) in names.into_iter().enumerate() {
        let last = i + 1 == count;
        if let Some(previous) = recovered.segments.back() {
            let before = previous.header.number;
            if number == before {
                return Err(corrupt(&path, 0, &format!("segment {number} is there twice")).into());
            }
            if number - 1 != before {
                return Err(corrupt(&path, 0, &format!("segment {} before it is missing", number - 1)).into());
            }
            if base != previous.end {
                let what = format!("it starts at {base}, the segment before it ends at {}", previous.end);
                return Err(corrupt(&path, 0, &what).into());
            }
        }
        let mode = if last { OpenMode::ReadWrite } else { OpenMode::Read };
        let segment = Opened::open(disk, path, number, base, mode)?;
        let footer = match segment.read_footer() {
            // The footer of the last segment may have been written in part.
            Err(ReadError::Corrupt { .. }) if last => None,
            footer => footer?,
        };
        match footer {
            Some(footer) if last => {
                segment.recover_sealed(config, &footer, &mut recovered.keys)?;
                recovered.segments.push_back(segment.sealed_state(footer));
            }
            Some(footer) => recovered.segments.push_back(segment.sealed_state(footer)),
            None if last => segment.recover_tail(disk, dir, config, &mut recovered)?,
            None => {
                let at = segment.len.saturating_sub(TRAILER_BYTES);
                return Err(corrupt(&segment.path, at, "the trailer of a sealed segment is damaged").into());
            }
        }
        let newest = recovered.segments.back().expect("pushed above");
        recovered.durable_end = newest.end;
        recovered.append_last = newest.append_last;
    }
    if recovered.segments.iter().all(|s| s.append_first.is_none()) {
        // The first record makes the log's own name count; with records in it, it does.
        create_dir_durable(disk, dir).map_err(|e| crate::core::write_error(dir, e))?;
    }
    Ok(recovered)
}

struct Opened {
    path: String,
    file: Arc<dyn DiskFile>,
    len: u64,
    header: SegmentHeader,
}

impl Opened {
    fn open(
        disk: &dyn Disk,
        path: String,
        number: u64,
        base: SeqNo,
        mode: OpenMode,
    ) -> Result<Self, ReadError> {
        let failed = |e| read_error(&path, e);
        let file = disk.open(&path, mode).map_err(failed)?;
        let len = file.len_bytes().map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        let n = file.read_at(0, &mut bytes).map_err(failed)?;
        let header = SegmentHeader::decode(&bytes[..n]).map_err(|what| corrupt(&path, 0, what))?;
        if (header.number, header.base) != (number, base) {
            return Err(corrupt(&path, 0, "the segment header belongs to another file name"));
        }
        Ok(Opened { path, file, len, header })
    }

    fn corrupt(&self, offset: u64, what: &str) -> ReadError {
        corrupt(&self.path, offset, what)
    }

    fn failed(&self, e: io::Error) -> ReadError {
        read_error(&self.path, e)
    }

    /// The footer, if the file ends in a trailer.
    fn read_footer(&self) -> Result<Option<Footer>, ReadError> {
        let Some(trailer_at) = self.len.checked_sub(TRAILER_BYTES).filter(|at| *at >= SEGMENT_HEADER_BYTES)
        else {
            return Ok(None);
        };
        let mut trailer = [0; TRAILER_BYTES as usize];
        let n = self.file.read_at(trailer_at, &mut trailer).map_err(|e| self.failed(e))?;
        let Some(at) = decode_trailer(&trailer[..n], self.header.salt) else { return Ok(None) };
        let (header, payload) = self.read_internal(at, trailer_at, &[KIND_FOOTER])?;
        let footer = Footer::decode(&payload)
            .filter(|f| f.records_end <= at && f.end == header.base && f.fits(&self.header))
            .ok_or_else(|| self.corrupt(at, "the segment's footer contradicts itself"))?;
        Ok(Some(footer))
    }

    /// Adds what is remembered of all segments before this one; returns where the records start. It was
    /// synced before the file had its name.
    fn read_keys(&self, into: &mut Keys) -> Result<u64, ReadError> {
        let at = SEGMENT_HEADER_BYTES;
        let damaged = || self.corrupt(at, "the segment's idempotency keys are damaged");
        let (header, payload) = self.read_internal(at, self.len, &[KIND_IDS, KIND_KEYS])?;
        let mut ids = &payload[..];
        if header.kind == KIND_KEYS {
            let (len, rest) = ids.split_first_chunk::<8>().ok_or_else(damaged)?;
            let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| damaged())?;
            let (first, progress) = rest.split_at_checked(len).ok_or_else(damaged)?;
            into.progress.decode_into(progress).ok_or_else(damaged)?;
            ids = first;
        }
        into.ids.decode_into(ids).ok_or_else(damaged)?;
        Ok(at + header.record_len())
    }

    /// The last segment is sealed: nothing follows that has its keys, so they are collected
    /// from the records.
    fn recover_sealed(&self, config: &LogConfig, footer: &Footer, keys: &mut Keys) -> Result<(), OpenError> {
        let (scan, damage) = self.scan(config, keys)?;
        if (scan.state.end, scan.state.records_end) != (footer.end, footer.records_end) {
            return Err(self
                .corrupt(scan.state.records_end, damage.unwrap_or("the records end early"))
                .into());
        }
        // Its sync may have failed before the process ended. Once a segment follows, a footer
        // that the disk never got would be corruption.
        self.rewrite(footer.records_end, self.len)?;
        self.file.sync_data().map_err(|e| crate::core::write_error(&self.path, e))?;
        Ok(())
    }

    /// Reads the record of the log's own that starts at `at` and ends at or before `end`.
    fn read_internal(
        &self,
        at: u64,
        end: u64,
        kinds: &[RecordKind],
    ) -> Result<(Header, bytes::Bytes), ReadError> {
        if !at.is_multiple_of(ALIGN) || at < SEGMENT_HEADER_BYTES || at >= end {
            return Err(self.corrupt(at.min(end), "nothing can lie there"));
        }
        let mut len = end.min(at + HEADER_MAX as u64) - at;
        loop {
            let bytes = read_aligned(&*self.file, at, len as usize).map_err(|e| self.failed(e))?;
            match decode_record(&bytes, self.header.salt, at) {
                Ok(record) if kinds.contains(&record.0.kind) => return Ok(record),
                Ok(_) => {
                    return Err(self.corrupt(at, "a record of another kind lies here"));
                }
                Err(Damage::Short(need)) if need > len && at + need <= end => len = need,
                Err(Damage::Short(_)) => {
                    return Err(self.corrupt(at, "the record runs past the end of the file"));
                }
                Err(Damage::Bad(what)) => return Err(self.corrupt(at, what)),
            }
        }
    }

    fn sealed_state(self, footer: Footer) -> SegmentState {
        let mut state = SegmentState::new(self.path, self.header, None);
        state.end = footer.end;
        state.records_end = footer.records_end;
        state.file_bytes = self.len;
        state.append_first = Some(footer.append_first);
        state.append_last = footer.append_last;
        state.event_max = footer.event_max;
        state.ends_in_mark = footer.ends_in_mark;
        state.index = footer.index;
        state
    }

    /// Reads the unsealed last segment, cuts what was never durable and makes the rest so.
    fn recover_tail(
        self,
        disk: &dyn Disk,
        dir: &str,
        config: &LogConfig,
        into: &mut Recovered,
    ) -> Result<(), OpenError> {
        let (mut scan, damage) = self.scan(config, &mut into.keys)?;
        let end = scan.state.records_end;
        let after = match scan.seal_at {
            Some(at) => at + SEAL_BYTES,
            None => end,
        };
        let clean = self.tail_is_zero_or_cuttable(after, damage, &mut scan)?;
        let write_failed = |e| crate::core::write_error(&self.path, e);
        let mut active =
            RecoveredActive { file: self.file.clone(), offset: end, allocated: self.len, sealed: false };
        if scan.seal_at.is_some() && clean {
            // Sealed after its sync: there is nothing to make durable.
            active.sealed = true;
        } else {
            if !clean || scan.seal_at.is_some() {
                self.file.set_len(end).map_err(write_failed)?;
                active.allocated = end;
            }
            self.rewrite(scan.group_start, end)?;
            self.file.sync_data().map_err(write_failed)?;
        }
        if scan.state.append_first.is_none() {
            // Its name may not be durable yet; with records in it, it is.
            disk.sync_dir(dir).map_err(|e| crate::core::write_error(dir, e))?;
        }
        scan.state.file_bytes = active.allocated;
        into.segments.push_back(scan.state);
        into.active = Some(active);
        Ok(())
    }

    /// Goes through keys and records up to the first that does not check, and says why it
    /// did not.
    fn scan(&self, config: &LogConfig, keys: &mut Keys) -> Result<(Scan, Option<&'static str>), ReadError> {
        let records_start = self.read_keys(keys)?;
        let mut state = SegmentState::new(self.path.clone(), self.header, Some(self.file.clone()));
        state.file_bytes = self.len;
        state.records_end = records_start;
        let mut scan = Scan { state, group_start: records_start, known_end: SeqNo::ZERO, seal_at: None };
        let damage = self.scan_records(config, &mut scan, keys)?;
        Ok((scan, damage))
    }

    fn scan_records(
        &self,
        config: &LogConfig,
        scan: &mut Scan,
        keys: &mut Keys,
    ) -> Result<Option<&'static str>, ReadError> {
        let mut pos = scan.state.records_end;
        let mut need = 0;
        loop {
            let want = SCAN_BYTES.max(need).min(self.len.saturating_sub(pos));
            if want == 0 {
                return Ok(None);
            }
            let bytes = read_aligned(&*self.file, pos, want as usize).map_err(|e| self.failed(e))?;
            let mut at = 0;
            need = 0;
            while at < bytes.len() as u64 {
                let here = pos + at;
                let (header, _) = match decode_record(&bytes.slice(at as usize..), self.header.salt, here) {
                    Ok(record) => record,
                    Err(Damage::Short(n)) if here + n <= self.len && n > bytes.len() as u64 - at => {
                        need = n;
                        break;
                    }
                    Err(Damage::Short(_)) => return Ok(Some("the record runs past the end of the file")),
                    Err(Damage::Bad(what)) => return Ok(Some(what)),
                };
                if header.base != scan.state.end || header.append_time < scan.state.append_last {
                    return Ok(Some("the record does not follow the one before it"));
                }
                scan.group_start = scan.group_start.max(header.durable_offset);
                scan.known_end = scan.known_end.max(header.durable_end);
                if header.kind == RecordKind::SEAL {
                    scan.seal_at = Some(here);
                    return Ok(None);
                }
                if is_internal(header.kind) {
                    return Ok(Some("the segment's footer is not complete"));
                }
                if let Some(key) = &header.idempotency {
                    keys.ids.insert(
                        key,
                        Seen {
                            content_hash: key.content_hash,
                            base: header.base,
                            rows: header.rows,
                            append_time: header.append_time,
                        },
                    );
                }
                if let Some(progress) = &header.progress {
                    keys.progress.note(progress);
                }
                scan.state.note(here, &header, config.index_interval_bytes);
                at += header.record_len();
            }
            if at == 0 && need == 0 {
                return Ok(None);
            }
            pos += at;
        }
    }

    /// Looks at everything from `from` on. Refuses damage that something says was durable;
    /// returns whether there is nothing but zeros.
    fn tail_is_zero_or_cuttable(
        &self,
        from: u64,
        damage: Option<&'static str>,
        scan: &mut Scan,
    ) -> Result<bool, ReadError> {
        let cut = scan.state.records_end;
        let mut zero = true;
        let mut durable_offset = scan.group_start;
        let mut pos = from;
        while pos < self.len {
            let window = SCAN_BYTES.min(self.len - pos);
            let want = (window + HEADER_MAX as u64).min(self.len - pos);
            let bytes = read_aligned(&*self.file, pos, want as usize).map_err(|e| self.failed(e))?;
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|b| *b != 0) {
                zero = false;
                for at in (0..(window as usize).min(bytes.len())).step_by(ALIGN as usize) {
                    if bytes[at..].starts_with(&MAGIC)
                        && let Ok(h) = Header::decode(&bytes[at..], self.header.salt, pos + at as u64)
                    {
                        durable_offset = durable_offset.max(h.durable_offset);
                        scan.known_end = scan.known_end.max(h.durable_end);
                    }
                }
            }
            pos += window;
        }
        if durable_offset > cut || scan.known_end > scan.state.end {
            let damage = damage.unwrap_or("the records end");
            let (end, known_end) = (scan.state.end, scan.known_end.max(scan.state.end));
            let what = format!(
                "{damage}, at sequence number {end}, but later bytes say that {known_end} and byte \
                 {durable_offset} had been reached and were durable"
            );
            return Err(self.corrupt(cut, &what));
        }
        Ok(zero)
    }

    /// Writes what is kept of the last group once more, so that the sync after it counts.
    fn rewrite(&self, from: u64, to: u64) -> Result<(), OpenError> {
        let mut pos = from;
        while pos < to {
            let want = SCAN_BYTES.min(to - pos);
            let bytes = read_aligned(&*self.file, pos, want as usize).map_err(|e| self.failed(e))?;
            let written = self.file.write_all_at(pos, &[IoSlice::new(&bytes)]);
            written.map_err(|e| crate::core::write_error(&self.path, e))?;
            pos += want;
        }
        Ok(())
    }
}

struct Scan {
    state: SegmentState,
    /// Everything below this offset was durable: the start of the last group found.
    group_start: u64,
    known_end: SeqNo,
    seal_at: Option<u64>,
}
