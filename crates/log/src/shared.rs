//! What the writer publishes and readers look at.
//!
//! Readers take positions and handles under a short lock and read without it.

use crate::frontier::{Frontier, NOTHING, Promise, PromiseFile};
use crate::progress::ProgressTable;
use crate::record::{Damage, HEADER_FIXED, Header, decode_record};
use crate::segment::{SegmentState, corrupt, read_error};
use crate::{LogConfig, ReadError, Record, SegmentInfo};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::watch;
use weir_base::disk::OpenMode;
use weir_base::{AppendTime, Clock, Disk, DiskFile, EventTime, SeqNo};

/// One read of the disk while rows are collected.
const READ_BYTES_MAX: u64 = 4 << 20;
const READ_BYTES_MIN: u64 = 64 << 10;
/// One read of the disk while record headers are skipped.
const SKIP_BYTES: u64 = 32 << 10;
/// Positions remembered of readers that went forward.
const HINTS_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct ReadState {
    pub segments: VecDeque<SegmentState>,
    pub durable_end: SeqNo,
    /// Of what is durable.
    pub progress: ProgressTable,
}

/// Where the record after one that was read lies, so that a reader that goes on needs no
/// walk from the index entry.
#[derive(Debug, Clone, Copy)]
struct Hint {
    segment: u64,
    sn: SeqNo,
    offset: u64,
}

#[derive(Debug)]
struct PromiseWriter {
    file: PromiseFile,
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub config: LogConfig,
    pub state: RwLock<ReadState>,
    pub durable: watch::Sender<SeqNo>,
    pub frontier: Frontier,
    promise: Mutex<PromiseWriter>,
    hints: Mutex<VecDeque<Hint>>,
}

/// A stretch of one segment's durable records.
struct Span {
    path: String,
    number: u64,
    salt: u64,
    file: Option<Arc<dyn DiskFile>>,
    offset: u64,
    /// The record at `offset` holds the cursor, or is a mark before the one that does.
    exact: bool,
    end: u64,
}

impl Shared {
    pub fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: LogConfig,
        state: ReadState,
        recorded: AppendTime,
        (promise, promised): (PromiseFile, Promise),
    ) -> Self {
        let reserve_us =
            i64::try_from(config.append_time_reserve_ms).unwrap_or(i64::MAX).saturating_mul(1000);
        Shared {
            disk,
            clock,
            durable: watch::Sender::new(state.durable_end),
            state: RwLock::new(state),
            frontier: Frontier::new(recorded, promised.append_time, reserve_us),
            promise: Mutex::new(PromiseWriter { file: promise, closed: false }),
            hints: Mutex::new(VecDeque::new()),
            config,
        }
    }

    pub fn start(&self) -> SeqNo {
        let state = self.state.read();
        state.segments.front().map_or(state.durable_end, |s| s.header.base)
    }

    pub fn durable_end(&self) -> SeqNo {
        self.state.read().durable_end
    }

    pub fn progress(&self, writer: &[u8; 16]) -> Option<Bytes> {
        self.state.read().progress.get(writer).cloned()
    }

    pub fn writers(&self) -> Vec<[u8; 16]> {
        self.state.read().progress.writers()
    }

    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.state.read().segments.iter().map(SegmentState::info).collect()
    }

    pub fn seek_event_time(&self, from: EventTime) -> SeqNo {
        let state = self.state.read();
        let mut hit = state.segments.iter().filter(|s| s.event_max >= from);
        hit.find_map(|s| s.index.seek_event(from)).unwrap_or(state.durable_end)
    }

    pub fn seek_append_time(&self, from: AppendTime) -> SeqNo {
        let state = self.state.read();
        let first = state.segments.partition_point(|s| s.append_last < from);
        let mut rest = state.segments.iter().skip(first);
        rest.find_map(|s| s.index.seek_append(from)).unwrap_or(state.durable_end)
    }

    /// Writes the promise file so that the frontier can follow the clock a while longer.
    pub fn extend_promise(&self) -> io::Result<()> {
        let mut promise = self.promise.lock();
        if promise.closed {
            return Ok(());
        }
        let until = self.frontier.reserve_until(self.clock.now_us());
        promise.file.write(Promise { append_time: until, ..NOTHING })?;
        self.frontier.reserved(until);
        Ok(())
    }

    /// No promise is written after this; another handle may open the directory. `exact`
    /// gives back what is reserved and was not promised, so that a clean stop leaves no gap.
    pub fn close_promise(&self, exact: bool) {
        let mut promise = self.promise.lock();
        if exact && !promise.closed && self.frontier.has_reserve() {
            let promised = Promise { append_time: self.frontier.freeze(), ..NOTHING };
            if let Err(e) = promise.file.write(promised) {
                // What stands in the file reserves more: later records start later, no harm.
                tracing::warn!(error = %e, "could not give back reserved append times");
            }
        }
        promise.closed = true;
    }

    /// See [`crate::ShardLog::read`].
    pub fn read(&self, from: SeqNo, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        let mut reading =
            Reading { cursor: from, records: Vec::new(), marks: Vec::new(), bytes: 0, bytes_max };
        let mut after = None;
        while let Some(span) = self.locate(&reading, after)? {
            let number = span.number;
            if after.is_some_and(|(before, _)| before == number) {
                // The marks that were held back are read again.
                reading.marks.clear();
            }
            let offset = self.read_span(span, &mut reading)?;
            if reading.full() {
                self.remember(Hint { segment: number, sn: reading.cursor, offset });
                break;
            }
            after = Some((number, offset));
        }
        if let Some((segment, offset)) = after {
            self.remember(Hint { segment, sn: reading.cursor, offset });
        }
        Ok(reading.records)
    }

    /// The marks after the last durable row, which [`Shared::read`] holds back.
    pub fn end_marks(&self) -> Result<Vec<Record>, ReadError> {
        let (cursor, spans) = {
            let state = self.state.read();
            let cursor = state.durable_end;
            let held = state.segments.iter().filter(|s| s.end == cursor && s.ends_in_mark);
            let spans = held.map(|s| Span {
                path: s.path.clone(),
                number: s.header.number,
                salt: s.header.salt,
                file: s.file.clone(),
                offset: s.index.offset_of(cursor).expect("a segment that ends in a mark has records"),
                exact: false,
                end: s.records_end,
            });
            (cursor, spans.collect::<Vec<_>>())
        };
        let mut reading =
            Reading { cursor, records: Vec::new(), marks: Vec::new(), bytes: 0, bytes_max: usize::MAX };
        for span in spans {
            self.read_span(span, &mut reading)?;
        }
        Ok(reading.marks)
    }

    /// The next stretch to read: from the cursor on, or the segment `after` the one that
    /// was read to its end.
    fn locate(&self, reading: &Reading, after: Option<(u64, u64)>) -> Result<Option<Span>, ReadError> {
        let cursor = reading.cursor;
        let state = self.state.read();
        let oldest = state.segments.front().map_or(state.durable_end, |s| s.header.base);
        if cursor >= state.durable_end {
            return Ok(None);
        }
        if cursor < oldest {
            // Retention may pass a reader between two segments: it keeps what it has.
            let none_yet = reading.records.is_empty();
            return if none_yet { Err(ReadError::Truncated { asked: cursor, oldest }) } else { Ok(None) };
        }
        // The segment that was read to its end may have grown since, and may even be sealed with
        // another behind it: then the reader goes on where its cursor stands.
        let grown = |number: u64| state.segments.iter().any(|s| s.header.number == number && s.end > cursor);
        let after = after.filter(|(number, _)| !grown(*number));
        let at = match after {
            Some((number, _)) => {
                // Rows follow, so one of the later segments has them; one before it may be empty.
                let later = |s: &SegmentState| s.header.number > number && s.index.first_offset().is_some();
                state.segments.iter().position(later).unwrap_or(state.segments.len())
            }
            // Marks at the end of a segment go with the row after them, in the next one.
            None => {
                state.segments.partition_point(|s| s.end < cursor || (s.end == cursor && !s.ends_in_mark))
            }
        };
        let Some(segment) = state.segments.get(at) else {
            let newest = state.segments.back().expect("rows lie in segments");
            return Err(corrupt(&newest.path, newest.records_end, "the segment ends before its rows"));
        };
        let known = match after {
            Some(_) => segment.index.first_offset(),
            None => {
                let hints = self.hints.lock();
                hints.iter().find(|h| h.segment == segment.header.number && h.sn == cursor).map(|h| h.offset)
            }
        };
        let indexed = || segment.index.offset_of(cursor).expect("a segment with records has an index entry");
        Ok(Some(Span {
            path: segment.path.clone(),
            number: segment.header.number,
            salt: segment.header.salt,
            file: segment.file.clone(),
            offset: known.unwrap_or_else(indexed),
            exact: known.is_some(),
            end: segment.records_end,
        }))
    }

    fn remember(&self, hint: Hint) {
        let mut hints = self.hints.lock();
        hints.retain(|h| h.sn != hint.sn);
        if hints.len() == HINTS_MAX {
            hints.pop_front();
        }
        hints.push_back(hint);
    }

    /// Collects from one segment. Returns the offset where the record that holds the cursor
    /// (or a mark before it) starts.
    fn read_span(&self, span: Span, reading: &mut Reading) -> Result<u64, ReadError> {
        let file = match &span.file {
            Some(file) => file.clone(),
            None => match self.disk.open(&span.path, OpenMode::Read) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(match self.start() {
                        oldest if oldest > reading.cursor => {
                            ReadError::Truncated { asked: reading.cursor, oldest }
                        }
                        _ => read_error(&span.path, e),
                    });
                }
                Err(e) => return Err(read_error(&span.path, e)),
            },
        };
        let mut pos = span.offset;
        let mut need = HEADER_FIXED as u64;
        let mut skipping = !span.exact;
        let mut expected: Option<SeqNo> = None;
        // Where the marks that follow the newest row start; they are read with the next row.
        let mut resume = pos;
        while pos < span.end && !reading.full() {
            let left = (reading.bytes_max.saturating_sub(reading.bytes)) as u64;
            let usual = if skipping { SKIP_BYTES } else { left.clamp(READ_BYTES_MIN, READ_BYTES_MAX) };
            let want = usual.max(need).min(span.end - pos);
            let bytes = read_aligned(&*file, pos, want as usize).map_err(|e| read_error(&span.path, e))?;
            if (bytes.len() as u64) < want {
                return Err(corrupt(
                    &span.path,
                    pos + bytes.len() as u64,
                    "the file ends before its records",
                ));
            }
            let mut at = 0;
            while at < bytes.len() as u64 && !reading.full() {
                let here = pos + at;
                let rest = bytes.slice(at as usize..);
                let header = match Header::decode(&rest, span.salt, here) {
                    Ok(header) => header,
                    Err(Damage::Short(n)) => {
                        need = short(&span, here, n)?;
                        break;
                    }
                    Err(Damage::Bad(what)) => return Err(corrupt(&span.path, here, what)),
                };
                if here + header.record_len() > span.end || expected.is_some_and(|sn| sn != header.base) {
                    return Err(corrupt(&span.path, here, "the record does not follow the one before it"));
                }
                let wanted = if header.rows == 0 {
                    header.base >= reading.cursor
                } else {
                    header.end() > reading.cursor
                };
                if wanted {
                    skipping = false;
                    let (header, payload) = match decode_record(&rest, span.salt, here) {
                        Ok(record) => record,
                        Err(Damage::Short(n)) => {
                            need = short(&span, here, n)?;
                            break;
                        }
                        Err(Damage::Bad(what)) => return Err(corrupt(&span.path, here, what)),
                    };
                    let (end, len) = (header.end(), header.record_len());
                    expected = Some(end);
                    let is_mark = header.rows == 0;
                    if is_mark && reading.marks.is_empty() {
                        resume = here;
                    }
                    reading.marks.push(header.into_record(payload));
                    if !is_mark {
                        reading.bytes += reading.marks.iter().map(|r| r.payload.len()).sum::<usize>();
                        reading.records.append(&mut reading.marks);
                        reading.cursor = end;
                        resume = here + len;
                    }
                    at += len;
                } else {
                    expected = Some(header.end());
                    at += header.record_len();
                    resume = here + header.record_len();
                }
                need = HEADER_FIXED as u64;
            }
            pos += at;
        }
        Ok(resume)
    }
}

fn short(span: &Span, here: u64, need: u64) -> Result<u64, ReadError> {
    if here + need > span.end {
        return Err(corrupt(&span.path, here, "the record runs past the end of the segment"));
    }
    Ok(need)
}

struct Reading {
    cursor: SeqNo,
    records: Vec<Record>,
    /// Marks whose row has not been read yet, then that row.
    marks: Vec<Record>,
    bytes: usize,
    bytes_max: usize,
}

impl Reading {
    fn full(&self) -> bool {
        !self.records.is_empty() && self.bytes >= self.bytes_max
    }
}

/// Reads `len` bytes (fewer at the end of the file) so that they lie in memory as they do
/// in the file, modulo 64.
pub(crate) fn read_aligned(file: &dyn DiskFile, offset: u64, len: usize) -> io::Result<Bytes> {
    const ALIGN: usize = crate::record::ALIGN as usize;
    debug_assert_eq!(offset % ALIGN as u64, 0);
    let mut buffer = vec![0u8; len + ALIGN];
    let skip = buffer.as_ptr().align_offset(ALIGN);
    let n = file.read_at(offset, &mut buffer[skip..skip + len])?;
    Ok(Bytes::from(buffer).slice(skip..skip + n))
}
