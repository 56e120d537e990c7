//! Group commit for one log, without threads.
//!
//! Appends from many callers share one vectored write and one sync. [`LogCore::write_group`]
//! is the whole of it; the writer thread calls the two halves so that callers who asked for
//! less than durable hear in between. Crash tests drive this type directly.
//!
//! Invariants
//! - A group is written only after the one before it is synced.
//! - Readers see a record only after the sync that covers it.
//! - After a write or sync whose outcome is unknown nothing is written until the log is
//!   reopened. A full disk found out before or undone after the write is not such a case.
//!
//! Not here: queues and waiting (`writer`), what a crash leaves over (`recover`).

use crate::frontier::PromiseFile;
use crate::idempotency::{IdempotencyIndex, RECORDS_MAX, Seen, same_rows};
use crate::record::{ALIGN, Header, KIND_FOOTER, KIND_IDS, align_up, is_internal};
use crate::recover::{Recovered, recover};
use crate::segment::{
    SEGMENT_HEADER_BYTES, SegmentHeader, SegmentState, TMP_SUFFIX, TRAILER_BYTES, encode_trailer, file_name,
};
use crate::shared::{ReadState, Shared};
use crate::{
    Append, AppendError, Appended, CommitObserver, Idempotency, LogConfig, OpenError, ReadError, Record,
    RecordKind, SegmentInfo,
};
use bytes::Bytes;
use std::any::Any;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use weir_base::disk::OpenMode;
use weir_base::{AppendTime, Clock, Disk, DiskFile, EventTime, SeqNo};

/// A new segment reserves this, then doubles up to [`ALLOCATE_STEP_MAX`] at a time.
const ALLOCATE_FIRST: u64 = 64 << 10;
const ALLOCATE_STEP_MAX: u64 = 64 << 20;
/// Payloads below this are copied next to their headers: fewer slices for the kernel.
const COPY_BYTES_MAX: usize = 4096;

pub(crate) fn write_error(path: &str, source: io::Error) -> AppendError {
    AppendError::Io { path: path.to_owned(), source: Arc::new(source) }
}

/// The writing side of a log.
#[derive(Debug)]
pub struct LogCore {
    shared: Arc<Shared>,
    dir: String,
    active: Option<Active>,
    segment_next: u64,
    next: SeqNo,
    ids: IdempotencyIndex,
    poisoned: Option<String>,
    /// Names changed that no directory sync has covered.
    dir_unsynced: bool,
}

#[derive(Debug)]
struct Active {
    path: String,
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    /// Where the next record goes; everything before is durable between groups.
    offset: u64,
    allocated: u64,
    /// A seal lies at `offset`.
    sealed: bool,
    has_records: bool,
}

/// A group that is written and waits for its sync.
#[derive(Debug)]
pub struct Group {
    results: Vec<Result<Appended, AppendError>>,
    new: Vec<NewRecord>,
}

impl Group {
    /// What becomes of each append, in order, once the group is durable.
    pub fn results(&self) -> &[Result<Appended, AppendError>] {
        &self.results
    }
    pub fn payload_bytes(&self) -> u64 {
        self.new.iter().map(|n| u64::from(n.header.payload_len)).sum()
    }
    pub fn into_results(self) -> Vec<Result<Appended, AppendError>> {
        self.results
    }
}

struct NewRecord {
    header: Header,
    offset: u64,
    payload: Bytes,
    attachment: Option<Arc<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for NewRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewRecord").field("header", &self.header).field("offset", &self.offset).finish()
    }
}

/// A part of a vectored write: headers, padding and small payloads lie in one scratch buffer.
enum Piece {
    Scratch(Range<usize>),
    Payload(Bytes),
}

#[derive(Default)]
struct Pieces {
    scratch: Vec<u8>,
    pieces: Vec<Piece>,
    len: u64,
}

impl Pieces {
    fn push(&mut self, header: &Header, payload: &Bytes, salt: u64, offset: u64) {
        self.scratch(|s| header.encode(salt, offset, s));
        if payload.len() < COPY_BYTES_MAX {
            self.scratch(|s| s.extend_from_slice(payload));
        } else {
            self.pieces.push(Piece::Payload(payload.clone()));
            self.len += payload.len() as u64;
        }
        let padding = align_up(payload.len() as u64) as usize - payload.len();
        self.scratch(|s| s.resize(s.len() + padding, 0));
    }

    fn scratch(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.scratch.len();
        write(&mut self.scratch);
        let end = self.scratch.len();
        self.len += (end - start) as u64;
        match self.pieces.last_mut() {
            Some(Piece::Scratch(range)) => range.end = end,
            _ => self.pieces.push(Piece::Scratch(start..end)),
        }
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        let bytes = self.pieces.iter().map(|piece| match piece {
            Piece::Scratch(range) => &self.scratch[range.clone()],
            Piece::Payload(payload) => &payload[..],
        });
        bytes.map(IoSlice::new).collect()
    }
}

impl LogCore {
    /// Opens or creates the log in `dir`. No other handle may write there.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] inside if durable bytes are damaged; it names file and offset.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &str,
        config: LogConfig,
    ) -> Result<Self, OpenError> {
        let Recovered { segments, active, ids, durable_end, append_last } = recover(&*disk, dir, &config)?;
        let promise = PromiseFile::open(disk.clone(), dir)?;
        let segment_next = segments.back().map_or(0, |s| s.header.number + 1);
        let active = active.map(|a| {
            let state = segments.back().expect("the active segment is the last");
            Active {
                path: state.path.clone(),
                header: state.header,
                file: a.file,
                offset: a.offset,
                allocated: a.allocated,
                sealed: a.sealed,
                has_records: state.append_first.is_some(),
            }
        });
        let state = ReadState { segments, durable_end };
        Ok(LogCore {
            shared: Arc::new(Shared::new(disk, clock, config, state, append_last, promise)),
            dir: dir.to_owned(),
            active,
            segment_next,
            next: durable_end,
            ids,
            poisoned: None,
            dir_unsynced: true,
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Writes the appends as one group and makes it durable. The outer error means that the
    /// group as a whole failed; see [`AppendError`] for what may be found later.
    pub fn write_group(
        &mut self,
        appends: Vec<Append>,
    ) -> Result<Vec<Result<Appended, AppendError>>, AppendError> {
        let mut group = self.write(appends)?;
        self.commit(&mut group, None)?;
        Ok(group.into_results())
    }

    /// The first half: one vectored write. [`LogCore::commit`] must follow.
    pub fn write(&mut self, appends: Vec<Append>) -> Result<Group, AppendError> {
        self.refuse_if_poisoned()?;
        let (mut plan, accepted) = self.classify(&appends);
        let mut group = Group { results: Vec::with_capacity(appends.len()), new: Vec::new() };
        if accepted > 0 {
            self.write_accepted(appends, &plan, accepted, &mut group.new)?;
        }
        for slot in &mut plan {
            group.results.push(match slot {
                Slot::Refused(e) => Err(e.clone()),
                Slot::Repeated(seen) => Ok(seen.repeated()),
                Slot::New(i) => Ok(appended(&group.new[*i].header, false)),
                Slot::RepeatedInGroup(i) => Ok(appended(&group.new[*i].header, true)),
            });
        }
        Ok(group)
    }

    /// The second half: one sync, then readers, the observer and waiting readers, in that
    /// order. Returns the durable end.
    pub fn commit(
        &mut self,
        group: &mut Group,
        observer: Option<&dyn CommitObserver>,
    ) -> Result<SeqNo, AppendError> {
        self.refuse_if_poisoned()?;
        if group.new.is_empty() {
            return Ok(self.next);
        }
        let active = self.active.as_mut().expect("a written group has a segment");
        if let Err(e) = active.file.sync_data() {
            let path = active.path.clone();
            return Err(self.poison(&path, e));
        }
        active.has_records = true;
        {
            let mut state = self.shared.state.write();
            let segment = state.segments.back_mut().expect("the active segment is the last");
            for new in &group.new {
                segment.note(new.offset, &new.header, self.shared.config.index_interval_bytes);
            }
            segment.file_bytes = active.allocated;
            state.durable_end = self.next;
        }
        if let Some(observer) = observer {
            for new in group.new.drain(..) {
                observer.durable(&new.header.into_record(new.payload), new.attachment);
            }
        }
        self.shared.frontier.group_durable();
        // Marks take no number: waiting readers are woken for them too.
        self.shared.durable.send_replace(self.next);
        Ok(self.next)
    }

    /// Writes a seal: everything before it is durable, which recovery then knows. Nothing to
    /// do if the log is sealed or empty. A full disk is no error here.
    pub fn seal(&mut self) -> Result<(), AppendError> {
        self.refuse_if_poisoned()?;
        let Some(active) = self.active.as_mut().filter(|a| !a.sealed && a.has_records) else { return Ok(()) };
        let append_time = self.shared.frontier.promised();
        let header = internal_header(RecordKind::SEAL, self.next, append_time, active.offset, &Bytes::new());
        let mut pieces = Pieces::default();
        pieces.push(&header, &Bytes::new(), active.header.salt, active.offset);
        match self.write_at_end(&pieces) {
            Ok(()) => {}
            Err(AppendError::DiskFull { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
        let active = self.active.as_mut().expect("checked above");
        if let Err(e) = active.file.sync_data() {
            let path = active.path.clone();
            return Err(self.poison(&path, e));
        }
        active.sealed = true;
        Ok(())
    }

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
            self.sync_names()?;
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

    pub fn start(&self) -> SeqNo {
        self.shared.start()
    }
    pub fn durable_end(&self) -> SeqNo {
        self.shared.durable_end()
    }
    /// See [`crate::ShardLog::append_frontier`]; does not reserve more.
    pub fn append_frontier(&self) -> AppendTime {
        self.shared.frontier.get(self.shared.clock.now_us()).0
    }
    /// Reserves append times so that the frontier can follow the clock a while longer.
    pub fn extend_frontier(&self) -> io::Result<()> {
        self.shared.extend_promise()
    }
    pub fn read(&self, from: SeqNo, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        self.shared.read(from, bytes_max)
    }
    /// Marks after the last durable row, which `read` gives only with the row after them.
    pub fn end_marks(&self) -> Result<Vec<Record>, ReadError> {
        self.shared.end_marks()
    }
    pub fn seek_event_time(&self, from: EventTime) -> SeqNo {
        self.shared.seek_event_time(from)
    }
    pub fn seek_append_time(&self, from: AppendTime) -> SeqNo {
        self.shared.seek_append_time(from)
    }
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segments()
    }

    /// Decides about each append before anything is written. Returns how many are new.
    fn classify(&self, appends: &[Append]) -> (Vec<Slot>, usize) {
        let limit = self.shared.config.record_bytes_max;
        let mut by_key: HashMap<(&str, u32), (usize, u64, u32)> = HashMap::new();
        let mut accepted = 0;
        let plan = appends.iter().map(|append| {
            assert!(!is_internal(append.kind), "{:?} is written by the log itself", append.kind);
            let size_bytes = append.payload.len() as u64;
            if size_bytes > limit {
                return Slot::Refused(AppendError::TooLarge { size_bytes, limit_bytes: limit });
            }
            let Some(key) = &append.idempotency else {
                accepted += 1;
                return Slot::New(accepted - 1);
            };
            if key.id.len() > 255 {
                return Slot::Refused(AppendError::IdTooLong { size_bytes: key.id.len() as u64 });
            }
            match self.ids.check(key, append) {
                Ok(None) => {}
                Ok(Some(seen)) => return Slot::Repeated(seen),
                Err(e) => return Slot::Refused(e),
            }
            if let Some((at, hash, rows)) = by_key.get(&(&*key.id, key.record_no)) {
                return match same_rows(key, append, *hash, *rows) {
                    Ok(()) => Slot::RepeatedInGroup(*at),
                    Err(e) => Slot::Refused(e),
                };
            }
            if self.ids.refuses(key) {
                let limit = RECORDS_MAX as u64;
                return Slot::Refused(AppendError::IdTooManyRecords { id: key.id.to_string(), limit });
            }
            by_key.insert((&key.id, key.record_no), (accepted, key.content_hash, append.rows));
            accepted += 1;
            Slot::New(accepted - 1)
        });
        let plan = plan.collect();
        (plan, accepted)
    }

    fn write_accepted(
        &mut self,
        appends: Vec<Append>,
        plan: &[Slot],
        accepted: usize,
        new: &mut Vec<NewRecord>,
    ) -> Result<(), AppendError> {
        let is_new = |slot: &Slot| matches!(slot, Slot::New(_));
        let fresh = || appends.iter().zip(plan).filter(|(_, slot)| is_new(slot)).map(|(a, _)| a);
        let group_bytes: u64 = fresh().map(record_bytes).sum();
        self.ensure_segment(group_bytes)?;
        let active = self.active.as_ref().expect("made sure of above");
        let (salt, durable_offset, durable_end) = (active.header.salt, active.offset, self.next);
        let append_time = self.shared.frontier.start_group(self.shared.clock.now_us());
        let (mut offset, mut next) = (active.offset, self.next);
        let mut pieces = Pieces::default();
        new.reserve(accepted);
        for (append, _) in appends.into_iter().zip(plan).filter(|(_, slot)| is_new(slot)) {
            let header = Header {
                kind: append.kind,
                base: next,
                rows: append.rows,
                append_time,
                event_min: append.event_min,
                event_max: append.event_max,
                idempotency: append.idempotency,
                payload_len: append.payload.len() as u32,
                payload_crc: crc32c::crc32c(&append.payload),
                durable_end,
                durable_offset,
            };
            pieces.push(&header, &append.payload, salt, offset);
            next = header.end();
            let len = header.record_len();
            new.push(NewRecord { header, offset, payload: append.payload, attachment: append.attachment });
            offset += len;
        }
        debug_assert_eq!(pieces.len, group_bytes);
        assert!(next <= SeqNo::MAX, "sequence numbers are used up");
        if let Err(e) = self.write_at_end(&pieces) {
            if matches!(e, AppendError::DiskFull { .. }) {
                self.shared.frontier.group_refused();
            }
            return Err(e);
        }
        let active = self.active.as_mut().expect("made sure of above");
        active.offset = offset;
        active.sealed = false;
        self.next = next;
        for new in new.iter() {
            if let Some(key) = &new.header.idempotency {
                self.ids.insert(key, seen(&new.header, key));
            }
        }
        Ok(())
    }

    /// Makes room below `active.offset + len` and writes there. Does not sync, does not move
    /// the offset. [`AppendError::DiskFull`] means that nothing is left of it.
    fn write_at_end(&mut self, pieces: &Pieces) -> Result<(), AppendError> {
        let size_max = self.shared.config.segment_size_bytes_max;
        let active = self.active.as_mut().expect("the caller has a segment");
        let end = active.offset + pieces.len;
        let path = active.path.clone();
        if end > active.allocated {
            let step = active.allocated.clamp(ALLOCATE_FIRST, ALLOCATE_STEP_MAX);
            let wanted = (active.allocated + step).min(size_max).max(end);
            let mut done = active.file.allocate(wanted).map(|()| wanted);
            if done.as_ref().is_err_and(is_full) && wanted > end {
                done = active.file.allocate(end).map(|()| end);
            }
            match done {
                Ok(allocated) => active.allocated = allocated,
                Err(e) if is_full(&e) => return Err(self.disk_full(pieces.len)),
                Err(e) => return Err(self.poison(&path, e)),
            }
        }
        match active.file.write_all_at(active.offset, &pieces.slices()) {
            Ok(()) => Ok(()),
            // A file system that found out late. What was written in part goes, durably: a
            // refused record must not come back after a crash.
            Err(e) if is_full(&e) => {
                active.sealed = false;
                active.allocated = active.offset;
                match active.file.set_len(active.offset).and_then(|()| active.file.sync_data()) {
                    Ok(()) => Err(self.disk_full(pieces.len)),
                    Err(e) => Err(self.poison(&path, e)),
                }
            }
            Err(e) => Err(self.poison(&path, e)),
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
    fn ensure_segment(&mut self, bytes: u64) -> Result<(), AppendError> {
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
        // The keys of all records so far: truncation may take the segments that have them.
        let keys = Bytes::from(self.ids.encode());
        let keys_at = SEGMENT_HEADER_BYTES;
        let keys_header = internal_header(KIND_IDS, self.next, header.append_floor, keys_at, &keys);
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

    pub(crate) fn refuse_if_poisoned(&self) -> Result<(), AppendError> {
        match &self.poisoned {
            None => Ok(()),
            Some(reason) => Err(AppendError::Poisoned { reason: reason.clone() }),
        }
    }

    fn poison(&mut self, path: &str, source: io::Error) -> AppendError {
        tracing::error!(path, error = %source, "log write failed; appends are refused until it is reopened");
        self.poisoned = Some(format!("{path}: {source}"));
        write_error(path, source)
    }

    fn disk_full(&self, needed_bytes: u64) -> AppendError {
        AppendError::DiskFull { free_bytes: self.shared.disk.free_bytes().unwrap_or(0), needed_bytes }
    }
}

enum Slot {
    Refused(AppendError),
    /// Durable before.
    Repeated(Seen),
    /// The n-th record that is written.
    New(usize),
    /// Like the n-th of this group.
    RepeatedInGroup(usize),
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn appended(header: &Header, repeated: bool) -> Appended {
    Appended { base: header.base, rows: header.rows, append_time: header.append_time, repeated }
}

fn seen(header: &Header, key: &Idempotency) -> Seen {
    Seen {
        content_hash: key.content_hash,
        base: header.base,
        rows: header.rows,
        append_time: header.append_time,
    }
}

/// What an append takes in the file.
fn record_bytes(append: &Append) -> u64 {
    let id = append.idempotency.as_ref().map_or(0, |i| i.id.len());
    align_up((crate::record::HEADER_FIXED + id) as u64) + align_up(append.payload.len() as u64)
}

fn internal_header(
    kind: RecordKind,
    at: SeqNo,
    append_time: AppendTime,
    durable_offset: u64,
    payload: &Bytes,
) -> Header {
    Header {
        kind,
        base: at,
        rows: 0,
        append_time,
        event_min: EventTime(0),
        event_max: EventTime(0),
        idempotency: None,
        payload_len: payload.len() as u32,
        payload_crc: crc32c::crc32c(payload),
        durable_end: at,
        durable_offset,
    }
}

/// Differs between segments; need not be secret. Splitmix over what makes a segment unique.
fn new_salt(now_us: i64, number: u64, base: SeqNo) -> u64 {
    let mut z = (now_us as u64) ^ number.rotate_left(40) ^ base.0.rotate_left(20);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
