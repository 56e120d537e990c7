//! What storage gets from the process: handles to the world, and where parts lie.

use crate::parts::PartStore;
use object_store::ObjectStore;
use object_store::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use weir_base::metrics::Registry;
use weir_base::{Clock, Disk, MemoryBudget, Rng};

/// Where Parquet parts lie. Logs and manifests are always on the disk handle.
#[derive(Debug, Clone)]
pub enum PartsLocation {
    /// Beside the log, on the disk handle.
    Local,
    /// In an object store, below a prefix. Calls to it run on `runtime`.
    Remote { store: Arc<dyn ObjectStore>, prefix: Path, runtime: Handle },
}

/// How much background work runs at once, over all streams.
#[derive(Debug)]
pub(crate) struct Slots {
    pub commits: Semaphore,
    pub merges: Semaphore,
}

/// One per process, shared by every stream.
#[derive(Debug, Clone)]
pub struct StoreContext {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<Rng>,
    pub memory: Arc<MemoryBudget>,
    pub metrics: Arc<Registry>,
    /// Where commits, merges and retention run by themselves. With `None` nothing runs in
    /// the background: tests call [`crate::Shard::commit_once`] and its like.
    pub runtime: Option<Handle>,
    parts: Arc<PartStore>,
    pub(crate) slots: Arc<Slots>,
}

impl StoreContext {
    pub fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        rng: Arc<Rng>,
        memory: Arc<MemoryBudget>,
        metrics: Arc<Registry>,
        parts: PartsLocation,
        runtime: Option<Handle>,
    ) -> Self {
        let parts = Arc::new(PartStore::new(disk.clone(), parts));
        let slots = Arc::new(Slots { commits: Semaphore::new(2), merges: Semaphore::new(1) });
        StoreContext { disk, clock, rng, memory, metrics, runtime, parts, slots }
    }

    /// Every part of every stream, each block verified when it is read. The location of a
    /// [`crate::PartFile`] is a path in it. Read only.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.parts.clone()
    }

    pub(crate) fn parts(&self) -> &Arc<PartStore> {
        &self.parts
    }
}
