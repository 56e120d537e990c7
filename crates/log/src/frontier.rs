//! The append frontier: which append times no later record can have, also after a restart.
//!
//! While a log is idle its frontier follows the clock, so a promise can pass everything the
//! log has recorded. It must hold after a crash too, so a promise never passes what the
//! promise file has reserved; the file is written ahead of need, on demand, off the caller's
//! thread. A crash then starts append times at most one reserve ahead of the clock.
//!
//! The same file reserves sequence numbers for logs in memory.

use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use weir_base::disk::{OpenMode, create_dir_durable, parent, write_file_atomic};
use weir_base::{AppendTime, Disk, DiskFile, SeqNo};

use crate::ReadError;
use crate::segment::{corrupt, read_error};

const MAGIC: [u8; 8] = *b"WEIRPRO1";
const SLOT_BYTES: usize = 32;
/// The two copies lie in different sectors of either usual size.
const SECOND_AT: usize = 4096;
pub(crate) const FILE_NAME: &str = "promise";

/// What is reserved: later records have greater append times and no lower numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise {
    pub append_time: AppendTime,
    pub sn: SeqNo,
}

pub(crate) const NOTHING: Promise = Promise { append_time: AppendTime(i64::MIN), sn: SeqNo::ZERO };

/// The promise in two copies: one write may tear, one byte may rot, neither loses it.
#[derive(Debug)]
pub(crate) struct PromiseFile {
    disk: Arc<dyn Disk>,
    path: String,
    /// Open once this handle has replaced the file as a whole, so that both copies are good
    /// and its name is durable. Only then may a write in place spoil one of them.
    file: Option<Arc<dyn DiskFile>>,
}

impl PromiseFile {
    /// Reads what was promised; [`NOTHING`] without a file.
    pub fn open(disk: Arc<dyn Disk>, dir: &str) -> Result<(Self, Promise), ReadError> {
        let path = format!("{dir}/{FILE_NAME}");
        let failed = |e| read_error(&path, e);
        if disk.len(&path).map_err(failed)?.is_none() {
            return Ok((PromiseFile { disk, path, file: None }, NOTHING));
        }
        let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let mut bytes = [0; SECOND_AT + SLOT_BYTES];
        let n = file.read_at(0, &mut bytes).map_err(failed)?;
        let slots = [decode_slot(&bytes[..n], 0), decode_slot(&bytes[..n], SECOND_AT)];
        let Some(promise) = slots.into_iter().flatten().reduce(max) else {
            return Err(corrupt(&path, 0, "neither copy of the promise matches its checksum"));
        };
        Ok((PromiseFile { disk, path, file: None }, promise))
    }

    /// Durable when it returns. After an error either promise may be found.
    pub fn write(&mut self, promise: Promise) -> io::Result<()> {
        let mut bytes = [0; SECOND_AT + SLOT_BYTES];
        for at in [0, SECOND_AT] {
            bytes[at..at + SLOT_BYTES].copy_from_slice(&encode_slot(promise));
        }
        match self.file.take() {
            Some(file) => {
                file.write_all_at(0, &[IoSlice::new(&bytes)])?;
                file.sync_data()?;
                self.file = Some(file);
            }
            None => {
                create_dir_durable(&*self.disk, parent(&self.path))?;
                write_file_atomic(&*self.disk, &self.path, &bytes)?;
                self.file = Some(self.disk.open(&self.path, OpenMode::ReadWrite)?);
            }
        }
        Ok(())
    }
}

fn max(a: Promise, b: Promise) -> Promise {
    Promise { append_time: a.append_time.max(b.append_time), sn: a.sn.max(b.sn) }
}

fn encode_slot(promise: Promise) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&promise.append_time.0.to_le_bytes());
    slot[16..24].copy_from_slice(&promise.sn.0.to_le_bytes());
    let crc = crc32c::crc32c(&slot[..24]);
    slot[24..28].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode_slot(bytes: &[u8], at: usize) -> Option<Promise> {
    let slot = bytes.get(at..at + SLOT_BYTES)?;
    if slot[..8] != MAGIC || slot[24..28] != crc32c::crc32c(&slot[..24]).to_le_bytes() {
        return None;
    }
    let u64_at = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    Some(Promise { append_time: AppendTime(u64_at(8) as i64), sn: SeqNo(u64_at(16)) })
}

#[derive(Debug)]
struct Times {
    /// What was found in the promise file at the start: later groups are above it. Nothing
    /// says that the disk has it, so it is not promised again.
    floor: i64,
    /// Every durable record has at most this append time.
    recorded: i64,
    /// The greatest frontier handed out.
    promised: i64,
    /// No promise passes this or `recorded`, whichever is greater.
    reserved: i64,
    /// The append time of the group being written, which no promise may reach.
    in_flight: Option<i64>,
}

/// Hands out append times and promises about them.
#[derive(Debug)]
pub(crate) struct Frontier {
    times: Mutex<Times>,
    reserve_us: i64,
}

impl Frontier {
    /// `recorded` is the greatest append time of a durable record, `floor` the greatest that
    /// may have been promised.
    pub fn new(recorded: AppendTime, floor: AppendTime, reserve_us: i64) -> Self {
        let (recorded, floor) = (recorded.0, floor.0);
        let times = Times { floor, recorded, promised: recorded, reserved: i64::MIN, in_flight: None };
        Frontier { times: Mutex::new(times), reserve_us }
    }

    /// The append time of a group that starts now: above all recorded and promised ones.
    pub fn start_group(&self, now_us: i64) -> AppendTime {
        let mut t = self.times.lock();
        let at = now_us.max(t.floor.max(t.recorded).max(t.promised).saturating_add(1));
        t.in_flight = Some(at);
        AppendTime(at)
    }

    /// The group is durable. A group whose outcome is unknown stays in flight for ever.
    pub fn group_durable(&self) {
        let mut t = self.times.lock();
        if let Some(at) = t.in_flight.take() {
            t.recorded = at;
            t.promised = t.promised.max(at);
        }
    }

    /// Nothing of the group was written.
    pub fn group_refused(&self) {
        self.times.lock().in_flight = None;
    }

    /// The frontier now, and whether more should be reserved so that it can follow the clock.
    pub fn get(&self, now_us: i64) -> (AppendTime, bool) {
        let mut t = self.times.lock();
        if t.in_flight.is_none() {
            t.promised = t.promised.max(now_us.min(t.reserved.max(t.recorded)));
        }
        let wants = t.reserved.max(t.recorded) < now_us.saturating_add(self.reserve_us / 2);
        (AppendTime(t.promised), wants && t.in_flight.is_none())
    }

    /// What to reserve so that promises can follow the clock for a while.
    pub fn reserve_until(&self, now_us: i64) -> AppendTime {
        AppendTime(now_us.saturating_add(self.reserve_us).max(self.promised().0))
    }

    /// No later group has this append time or less.
    pub fn promised(&self) -> AppendTime {
        let t = self.times.lock();
        AppendTime(t.promised.max(t.recorded).max(t.floor))
    }

    /// The promise file holds this durably.
    pub fn reserved(&self, until: AppendTime) {
        let mut t = self.times.lock();
        t.reserved = t.reserved.max(until.0);
    }

    pub fn has_reserve(&self) -> bool {
        self.times.lock().reserved > i64::MIN
    }

    /// The last promise: the frontier does not move past it any more.
    pub fn freeze(&self) -> AppendTime {
        let mut t = self.times.lock();
        t.promised = t.promised.max(t.recorded);
        t.in_flight = Some(i64::MAX);
        AppendTime(t.promised.max(t.floor))
    }
}

/// Lets one thread at a time extend a promise, and after a failure none for a second.
#[derive(Debug, Default)]
pub(crate) struct ExtendGate {
    busy: AtomicBool,
    not_before_us: AtomicU64,
}

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Runs `extend` on a thread of its own, so that who asks for the frontier need not wait for
/// the disk. `now` is monotonic.
pub(crate) fn extend_soon<T: Send + Sync + 'static>(
    owner: &Arc<T>,
    gate: fn(&T) -> &ExtendGate,
    now: Duration,
    extend: fn(&T) -> io::Result<()>,
) {
    let this = gate(owner);
    let early = (now.as_micros() as u64) < this.not_before_us.load(Ordering::Acquire);
    if early || this.busy.swap(true, Ordering::AcqRel) {
        return;
    }
    let worker = owner.clone();
    let spawned = std::thread::Builder::new().name("weir-log-time".into()).spawn(move || {
        let this = gate(&worker);
        if let Err(e) = extend(&worker) {
            tracing::warn!(error = %e, "could not reserve append times; the append frontier stands");
            this.not_before_us.store((now + RETRY_AFTER).as_micros() as u64, Ordering::Release);
        }
        this.busy.store(false, Ordering::Release);
    });
    if spawned.is_err() {
        this.busy.store(false, Ordering::Release);
    }
}
