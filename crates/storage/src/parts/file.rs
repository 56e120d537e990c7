//! What is known of one part, and its removal after the last reader.

use super::store::PartStore;
use object_store::path::Path;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use weir_base::{AppendTime, EventTime, SeqNo};

/// A part as the manifest records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMeta {
    pub id: u64,
    /// File name within the shard's part directory.
    pub name: String,
    pub size_bytes: u64,
    /// crc32c of the sidecar with the block checksums.
    pub checks_crc: u32,
    pub rows: u64,
    pub partition: String,
    /// Least sequence number, and one past the greatest; other parts may hold some between.
    pub sn_min: SeqNo,
    pub sn_end: SeqNo,
    pub event_min: EventTime,
    pub event_max: EventTime,
    pub append_min: AppendTime,
    pub append_max: AppendTime,
    /// 0 for a commit's part, one more than its highest input for a merge's.
    pub level: u32,
    /// In the order of the layout's sort keys, of which there are some.
    pub sorted: bool,
    /// In sequence order.
    pub arrival: bool,
    /// When TTL was last applied, milliseconds since the Unix epoch.
    pub ttl_applied_ms: i64,
}

/// One live or pinned part. Readers hold it in an `Arc`; when a part that the manifest no
/// longer names loses its last holder, its files are handed to the shard for removal.
#[derive(Debug)]
pub struct PartFile {
    pub meta: PartMeta,
    /// In [`crate::StoreContext::object_store`].
    pub location: Path,
    life: Arc<PartLife>,
}

/// Shared by all descriptions of one part's files.
#[derive(Debug)]
struct PartLife {
    path: String,
    obsolete: AtomicBool,
    garbage: Arc<Garbage>,
}

/// Files to be removed, filled by the last holder of a part, emptied off the readers' threads.
#[derive(Debug, Default)]
pub(crate) struct Garbage(Mutex<Vec<String>>);

impl Garbage {
    pub fn add(&self, path: String) {
        self.0.lock().push(path);
    }

    /// Removes what is due; what fails is kept for the next call. Blocks.
    pub fn collect(&self, store: &PartStore) -> usize {
        let due = std::mem::take(&mut *self.0.lock());
        let mut removed = 0;
        for path in due {
            match store.delete(&path) {
                Ok(()) => removed += 1,
                Err(e) => {
                    tracing::warn!(path, error = %e, "could not remove a part that is no longer needed");
                    self.0.lock().push(path);
                }
            }
        }
        removed
    }
}

impl PartFile {
    pub(crate) fn new(meta: PartMeta, dir: &str, garbage: Arc<Garbage>) -> Arc<Self> {
        let location = Path::from(format!("{dir}/{}", meta.name));
        let path = location.as_ref().to_owned();
        let life = Arc::new(PartLife { path, obsolete: AtomicBool::new(false), garbage });
        Arc::new(PartFile { meta, location, life })
    }

    /// The same files, described anew.
    pub(crate) fn with_meta(&self, meta: PartMeta) -> Arc<Self> {
        assert_eq!(self.meta.name, meta.name);
        Arc::new(PartFile { meta, location: self.location.clone(), life: self.life.clone() })
    }

    /// The path within the part store, as text.
    pub fn path(&self) -> &str {
        self.location.as_ref()
    }

    pub(crate) fn mark_obsolete(&self) {
        self.life.obsolete.store(true, Ordering::SeqCst);
    }

    pub fn info(&self) -> PartInfo {
        PartInfo { path: self.path().to_owned(), meta: self.meta.clone() }
    }
}

impl Drop for PartLife {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::SeqCst) {
            self.garbage.add(std::mem::take(&mut self.path));
        }
    }
}

/// A row of `system.parts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    pub path: String,
    pub meta: PartMeta,
}
