//! The catalog on disk: an event log, and now and then a snapshot that makes the older
//! events unnecessary.
//!
//! Invariants
//! - An event is visible only after its fsync; what was visible is found after a crash.
//! - Readers hold an immutable [`Snapshot`]; they never wait for a change.
//! - The snapshot file is written only for events that are durable, and events go only after
//!   the file that covers them is durable.
//!
//! Not here: what an event means ([`crate::event`]), framing and checksums of the log.

#[cfg(test)]
mod tests;

use crate::{CatalogError, Event, RelationKind, RelationName, Snapshot};
use arc_swap::ArcSwap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use weir_base::{Clock, Disk, EventTime, SeqNo, disk};
use weir_log::{Ack, Append, LogConfig, RecordKind, SegmentLog, ShardLog};

/// After so many events a snapshot is written and the log below it let go.
const EVENTS_PER_SNAPSHOT: u64 = 1_000;
/// Small, so that events a snapshot covers can go.
const SEGMENT_SIZE_BYTES_MAX: u64 = 1 << 20;
const READ_BYTES_MAX: usize = 4 << 20;
/// Of an event's payload; a reader refuses numbers it does not know.
const FORMAT_VERSION: u32 = 1;

/// Whether views that read a relation keep it from being dropped or renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    Refuse,
    /// `enable_dependency_check = 0`.
    Ignore,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    v: u32,
    event: Event,
}

/// The snapshot file: a checksum line, then this as JSON.
#[derive(Serialize, Deserialize)]
struct Saved {
    v: u32,
    /// The first event not in it.
    next: SeqNo,
    snapshot: Snapshot,
}

/// What is in the log and already in the snapshot. Guarded by one lock: changes are rare.
#[derive(Debug)]
struct Applied {
    next: SeqNo,
    saved_next: SeqNo,
    /// A change was given up half way (its caller went away): look into the log first.
    unsettled: bool,
}

/// Everything that exists. Shared by all sessions.
#[derive(Debug)]
pub struct Catalog {
    disk: Arc<dyn Disk>,
    dir: String,
    log: Arc<dyn ShardLog>,
    current: ArcSwap<Snapshot>,
    applied: tokio::sync::Mutex<Applied>,
    events_per_snapshot: u64,
}

impl Catalog {
    /// Opens or begins the catalog in `dir`. Blocks on the disk. No other handle may write
    /// there.
    ///
    /// # Errors
    /// As [`Catalog::with_log`].
    pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, dir: &str) -> Result<Self, CatalogError> {
        let log_dir = format!("{dir}/log");
        disk::create_dir_durable(&*disk, &log_dir).map_err(|e| io_error(&log_dir, e))?;
        let config = LogConfig { segment_size_bytes_max: SEGMENT_SIZE_BYTES_MAX, ..LogConfig::default() };
        let log = SegmentLog::open(disk.clone(), clock, &log_dir, config, None)?;
        Self::with_log(disk, dir, log)
    }

    /// Reads every event again that the log holds; gives how many. Blocks.
    ///
    /// # Errors
    /// `Read` or `Corrupt` for the first that does not check.
    pub fn verify(&self) -> Result<u64, CatalogError> {
        let (mut at, end, mut events) = (self.log.start(), self.log.durable_end(), 0);
        while at < end {
            for record in self.log.read(at, READ_BYTES_MAX)? {
                if record.kind == RecordKind::EVENT {
                    serde_json::from_slice::<Envelope>(&record.payload).map_err(|e| {
                        CatalogError::Corrupt { place: format!("event {}", record.base), what: e.to_string() }
                    })?;
                    events += 1;
                }
                at = at.max(SeqNo(record.base.0 + u64::from(record.rows)));
            }
        }
        Ok(events)
    }

    /// Reads snapshot and events from `dir`, whose log is `log`. Blocks on the disk.
    ///
    /// # Errors
    /// `Corrupt` or `Read` when an acknowledged event cannot be had back; nothing is skipped.
    pub fn with_log(disk: Arc<dyn Disk>, dir: &str, log: Arc<dyn ShardLog>) -> Result<Self, CatalogError> {
        let path = snapshot_path(dir);
        let (snapshot, next) = match read_snapshot(&*disk, &path)? {
            Some(saved) => (saved.snapshot, saved.next),
            None => (Snapshot::initial(), SeqNo::ZERO),
        };
        if log.durable_end() < next {
            return Err(CatalogError::Corrupt {
                place: path,
                what: format!("it covers {next} events but the log ends at {}", log.durable_end()),
            });
        }
        let catalog = Catalog {
            disk,
            dir: dir.to_owned(),
            log,
            current: ArcSwap::from_pointee(snapshot),
            applied: tokio::sync::Mutex::new(Applied { next, saved_next: next, unsettled: false }),
            events_per_snapshot: EVENTS_PER_SNAPSHOT,
        };
        catalog.catch_up(&mut catalog.applied.try_lock().expect("no one else has the catalog yet"))?;
        Ok(catalog)
    }

    /// What exists now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Checks the event, appends it, waits for its fsync and makes it visible.
    ///
    /// If the caller goes away half way, the event may yet be there: the next change finds it
    /// in the log first.
    pub async fn apply(&self, event: Event, dependents: Dependents) -> Result<Arc<Snapshot>, CatalogError> {
        self.apply_checked(event, dependents, |_| Ok(())).await
    }

    /// Like [`Catalog::apply`], with a last look at the snapshot the event will change.
    pub async fn apply_checked(
        &self,
        event: Event,
        dependents: Dependents,
        check: impl FnOnce(&Snapshot) -> Result<(), CatalogError>,
    ) -> Result<Arc<Snapshot>, CatalogError> {
        let mut applied = self.applied.lock().await;
        if applied.unsettled {
            self.log.sync().await?;
            self.catch_up(&mut applied)?;
        }
        let now = self.snapshot();
        if dependents == Dependents::Refuse {
            refuse_dependents(&now, &event)?;
        }
        check(&now)?;
        let next = Arc::new(now.after(&event)?);
        refuse_circles(&next, &event)?;

        applied.unsettled = true;
        let appended = self.log.append(encode(&event), Ack::Durable).await?;
        assert_eq!(appended.base, applied.next, "the catalog is its log's only writer");
        applied.next = appended.base.plus(1);
        applied.unsettled = false;
        self.current.store(next.clone());
        if applied.next.0 - applied.saved_next.0 >= self.events_per_snapshot {
            // The change stands whether or not this works: the log has everything, and the next
            // change tries again.
            let _ = self.save(&mut applied, &next);
        }
        Ok(next)
    }

    /// Seals the log. Later changes are refused.
    pub async fn close(&self) {
        self.log.close().await;
    }

    fn catch_up(&self, applied: &mut Applied) -> Result<(), CatalogError> {
        let mut snapshot = Snapshot::clone(&self.snapshot());
        while applied.next < self.log.durable_end() {
            for record in self.log.read(applied.next, READ_BYTES_MAX)? {
                if record.kind != RecordKind::EVENT || record.base < applied.next {
                    continue;
                }
                let corrupt = |what: String| CatalogError::Corrupt {
                    place: format!("event {} of {}", record.base, self.dir),
                    what,
                };
                let envelope: Envelope =
                    serde_json::from_slice(&record.payload).map_err(|e| corrupt(e.to_string()))?;
                if envelope.v > FORMAT_VERSION {
                    return Err(corrupt(format!("version {} is from a later Weir", envelope.v)));
                }
                snapshot = snapshot.after(&envelope.event).map_err(|e| corrupt(e.to_string()))?;
                applied.next = record.base.plus(1);
            }
        }
        applied.unsettled = false;
        self.current.store(Arc::new(snapshot));
        Ok(())
    }

    /// Writes the snapshot file, then lets the events go. A crash between the two leaves
    /// events that the file covers; they are passed over by number.
    fn save(&self, applied: &mut Applied, snapshot: &Arc<Snapshot>) -> Result<(), CatalogError> {
        let saved = Saved { v: FORMAT_VERSION, next: applied.next, snapshot: Snapshot::clone(snapshot) };
        let json = serde_json::to_vec(&saved).expect("a snapshot has string keys only");
        let mut bytes = format!("{:08x}\n", crc32c::crc32c(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        let path = snapshot_path(&self.dir);
        disk::write_file_atomic(&*self.disk, &path, &bytes).map_err(|e| io_error(&path, e))?;
        applied.saved_next = applied.next;
        self.log.truncate(applied.next)?;
        Ok(())
    }
}

fn refuse_dependents(now: &Snapshot, event: &Event) -> Result<(), CatalogError> {
    let gone: Vec<&RelationName> = match event {
        Event::DropRelation { name } => vec![name],
        Event::Rename { pairs } => pairs.iter().map(|(from, _)| from).collect(),
        Event::DropDatabase { name } => {
            let database = now.expect_database(name)?;
            let relations = database.relations.len() + database.jobs.len();
            if relations > 0 {
                return Err(CatalogError::DatabaseNotEmpty { name: name.clone(), relations });
            }
            Vec::new()
        }
        Event::CreateDatabase { .. }
        | Event::CreateRelation { .. }
        | Event::CreateView { .. }
        | Event::CreateJob { .. }
        | Event::DropJob { .. }
        | Event::SetCollection { .. }
        | Event::SetFormatSchema { .. }
        | Event::DropCollection { .. }
        | Event::DropFormatSchema { .. }
        | Event::Truncated { .. } => Vec::new(),
    };
    // Collections and schemas may be named by what is behind a colon, too.
    let named = |name: &str, value: &str| value.split(':').next() == Some(name);
    let (what, used_by) = match event {
        Event::DropCollection { name } => {
            ("named collection ", now.externals_with(|k, v| k == "named_collection" && named(name, v)))
        }
        Event::DropFormatSchema { name } => {
            ("format schema ", now.externals_with(|k, v| k == "format_schema" && named(name, v)))
        }
        _ => ("", Vec::new()),
    };
    if let (Event::DropCollection { name } | Event::DropFormatSchema { name }, false) =
        (event, used_by.is_empty())
    {
        return Err(CatalogError::InUse { what: format!("{what}{name}"), used_by });
    }
    for name in gone {
        let used_by = now.dependents(name);
        if !used_by.is_empty() {
            return Err(CatalogError::HasDependents { name: name.clone(), used_by });
        }
    }
    Ok(())
}

/// A view whose rows come back to it would never come to an end.
fn refuse_circles(next: &Snapshot, event: &Event) -> Result<(), CatalogError> {
    let (Event::CreateRelation { relation: view, .. } | Event::CreateView { view, .. }) = event else {
        return Ok(());
    };
    let (depends_on, mut fed) = match &view.kind {
        RelationKind::View { depends_on, .. } => (depends_on, Vec::new()),
        RelationKind::MaterializedView { depends_on, target, .. } => (depends_on, vec![target.clone()]),
        RelationKind::Stream { .. } | RelationKind::External { .. } | RelationKind::Random { .. } => {
            return Ok(());
        }
    };
    fed.push(view.full_name());
    let reached = next.downstream(&fed);
    match depends_on.iter().find(|name| reached.contains(name)) {
        None => Ok(()),
        Some(through) => Err(CatalogError::FeedsItself { name: view.full_name(), through: through.clone() }),
    }
}

fn encode(event: &Event) -> Append {
    let envelope = Envelope { v: FORMAT_VERSION, event: event.clone() };
    Append {
        kind: RecordKind::EVENT,
        rows: 1,
        event_min: EventTime(0),
        event_max: EventTime(0),
        idempotency: None,
        progress: None,
        payload: Bytes::from(serde_json::to_vec(&envelope).expect("an event has string keys only")),
        attachment: None,
    }
}

fn snapshot_path(dir: &str) -> String {
    format!("{dir}/snapshot")
}

fn io_error(path: &str, e: io::Error) -> CatalogError {
    CatalogError::Io { path: path.to_owned(), source: Arc::new(e) }
}

fn read_snapshot(disk: &dyn Disk, path: &str) -> Result<Option<Saved>, CatalogError> {
    if disk.len(path).map_err(|e| io_error(path, e))?.is_none() {
        return Ok(None);
    }
    let bytes = disk::read_file(disk, path).map_err(|e| io_error(path, e))?;
    let corrupt = |what: &str| CatalogError::Corrupt { place: path.to_owned(), what: what.to_owned() };
    let (head, json) = bytes.split_at_checked(9).ok_or_else(|| corrupt("it is too short"))?;
    let sum = std::str::from_utf8(&head[..8]).ok().and_then(|h| u32::from_str_radix(h, 16).ok());
    if sum != Some(crc32c::crc32c(json)) || head[8] != b'\n' {
        return Err(corrupt("its checksum does not fit"));
    }
    let saved: Saved = serde_json::from_slice(json).map_err(|e| corrupt(&e.to_string()))?;
    if saved.v > FORMAT_VERSION {
        return Err(corrupt(&format!("version {} is from a later Weir", saved.v)));
    }
    Ok(Some(saved))
}
