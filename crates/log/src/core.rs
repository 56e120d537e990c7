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
//! Not here: when segments come and go (`roll`), queues and waiting (`writer`), what a crash
//! leaves over (`recover`).

use crate::frontier::PromiseFile;
use crate::idempotency::{IdempotencyIndex, RECORDS_MAX, Seen, same_rows};
use crate::pieces::Pieces;
use crate::progress::ProgressTable;
use crate::record::{Header, align_up, is_internal};
use crate::recover::{Keys, Recovered, recover};
use crate::segment::{SegmentHeader, corrupt};
use crate::shared::{ReadState, Shared};
use crate::{
    Append, AppendError, Appended, CommitObserver, Idempotency, LogConfig, OpenError, ReadError, Record,
    RecordKind, SegmentInfo,
};
use bytes::Bytes;
use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use weir_base::{AppendTime, Clock, Disk, DiskFile, EventTime, SeqNo};

/// A new segment reserves this, then doubles up to [`ALLOCATE_STEP_MAX`] at a time.
const ALLOCATE_FIRST: u64 = 64 << 10;
const ALLOCATE_STEP_MAX: u64 = 64 << 20;

pub(crate) fn write_error(path: &str, source: io::Error) -> AppendError {
    AppendError::Io { path: path.to_owned(), source: Arc::new(source) }
}

/// The writing side of a log.
#[derive(Debug)]
pub struct LogCore {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: String,
    pub(crate) active: Option<Active>,
    pub(crate) segment_next: u64,
    pub(crate) next: SeqNo,
    pub(crate) ids: IdempotencyIndex,
    /// Of all that is written.
    pub(crate) progress: ProgressTable,
    pub(crate) poisoned: Option<String>,
    /// Names changed that no directory sync has covered.
    pub(crate) dir_unsynced: bool,
}

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) path: String,
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next record goes; everything before is durable between groups.
    pub(crate) offset: u64,
    pub(crate) allocated: u64,
    /// A seal lies at `offset`.
    pub(crate) sealed: bool,
    pub(crate) has_records: bool,
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

impl LogCore {
    /// Opens or creates the log in `dir`. No other handle may write there.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] inside if durable bytes are damaged; it names file and offset.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &str,
        mut config: LogConfig,
    ) -> Result<Self, OpenError> {
        config.record_bytes_max = config.record_bytes_max.min(u64::from(u32::MAX));
        let Recovered { segments, active, keys, durable_end, append_last } = recover(&*disk, dir, &config)?;
        let promise = PromiseFile::open(disk.clone(), dir)?;
        let segment_next =
            match segments.back() {
                None => 0,
                Some(s) => s.header.number.checked_add(1).ok_or_else(|| {
                    corrupt(&s.path, 0, "the number of the segment is the greatest there is")
                })?,
            };
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
        let Keys { ids, progress } = keys;
        let state = ReadState { segments, durable_end, progress: progress.clone() };
        Ok(LogCore {
            shared: Arc::new(Shared::new(disk, clock, config, state, append_last, promise)),
            dir: dir.to_owned(),
            active,
            segment_next,
            next: durable_end,
            ids,
            progress,
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
            let state = &mut *state;
            let segment = state.segments.back_mut().expect("the active segment is the last");
            for new in &group.new {
                segment.note(new.offset, &new.header, self.shared.config.index_interval_bytes);
            }
            for progress in group.new.iter().filter_map(|n| n.header.progress.as_ref()) {
                state.progress.note(progress);
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

    /// See [`crate::ShardLog::progress`].
    pub fn progress(&self, writer: &[u8; 16]) -> Option<Bytes> {
        self.shared.progress(writer)
    }

    /// See [`crate::ShardLog::writers`].
    pub fn writers(&self) -> Vec<[u8; 16]> {
        self.shared.writers()
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
            if let Some(progress) = &append.progress
                && let Err(e) = self.progress.check(progress)
            {
                return Slot::Refused(e);
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
                progress: append.progress,
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
            if let Some(progress) = &new.header.progress {
                self.progress.note(progress);
            }
        }
        Ok(())
    }

    /// Makes room below `active.offset + len` and writes there. Does not sync, does not move
    /// the offset. [`AppendError::DiskFull`] means that nothing is left of it.
    pub(crate) fn write_at_end(&mut self, pieces: &Pieces) -> Result<(), AppendError> {
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

    pub(crate) fn refuse_if_poisoned(&self) -> Result<(), AppendError> {
        match &self.poisoned {
            None => Ok(()),
            Some(reason) => Err(AppendError::Poisoned { reason: reason.clone() }),
        }
    }

    pub(crate) fn poison(&mut self, path: &str, source: io::Error) -> AppendError {
        tracing::error!(path, error = %source, "log write failed; appends are refused until it is reopened");
        self.poisoned = Some(format!("{path}: {source}"));
        write_error(path, source)
    }

    pub(crate) fn disk_full(&self, needed_bytes: u64) -> AppendError {
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

pub(crate) fn is_full(e: &io::Error) -> bool {
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
    let progress = append.progress.as_ref().map_or(0, |p| crate::record::PROGRESS_FIXED + p.bytes.len());
    align_up((crate::record::HEADER_FIXED + progress + id) as u64) + align_up(append.payload.len() as u64)
}

/// The header of a record that the log writes for itself, at the start of a group.
pub(crate) fn internal_header(
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
        progress: None,
        payload_len: payload.len() as u32,
        payload_crc: crc32c::crc32c(payload),
        durable_end: at,
        durable_offset,
    }
}
