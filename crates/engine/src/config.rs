//! What the engine is given when it starts.

use crate::access::Users;
use crate::session_state::FunctionSet;
use crate::view::WebHook;
use object_store::ObjectStore;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use weir_base::{Clock, Disk, Error, ManualClock, Rng};
use weir_plan::Connector;
use weir_storage::PartsLocation;

/// Handles to the world.
#[derive(Debug, Clone)]
pub struct World {
    /// Rooted at the data directory.
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<Rng>,
}

/// Where checkpoints of views go.
#[derive(Debug, Clone)]
pub enum CheckpointsLocation {
    /// Beside the logs, on the disk handle.
    Local,
    /// In an object store, below a prefix. Requests run on `runtime`, whose threads nobody blocks.
    Remote { store: Arc<dyn ObjectStore>, prefix: Path, runtime: tokio::runtime::Handle },
}

/// Takes backups of the data directory while it is in use; implemented by `server`.
#[async_trait::async_trait]
pub trait Backups: Send + Sync {
    /// Writes one to a directory or a URL. `options` say how to come at it, by name.
    ///
    /// # Errors
    /// Code 36 for an option that there is not, or a place that can not be used; what went wrong otherwise. No
    /// backup is there then.
    async fn backup(&self, to: &str, options: &BTreeMap<String, String>) -> Result<BackedUp, Error>;
}

/// What is in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackedUp {
    pub streams: u64,
    pub files: u64,
    /// Stored of them.
    pub bytes: u64,
}

/// Chosen by `server`; nothing here is read from files or the environment by the engine.
pub struct EngineConfig {
    /// Accounted bytes of the process.
    pub memory_limit_bytes: u64,
    pub parts: PartsLocation,
    pub checkpoints: CheckpointsLocation,
    pub users: Users,
    /// Defaults of every session's settings; checked by [`crate::Engine::open`].
    pub settings: BTreeMap<String, String>,
    /// Threads for queries, inserts' work and background tasks; never the network's.
    pub compute: tokio::runtime::Handle,
    /// Set with `--test-clock`: the same clock as [`World::clock`], which SYSTEM CLOCK ADVANCE
    /// moves.
    pub test_clock: Option<Arc<ManualClock>>,
    pub functions: FunctionSet,
    /// More queries at once get error 202.
    pub queries_max: usize,
    /// Where sorts and joins of bounded queries spill; `None` makes them fail instead.
    pub spill_dir: Option<PathBuf>,
    /// What alerts call with; `None` refuses them.
    pub web_hook: Option<Arc<dyn WebHook>>,
    /// Kinds of external streams there are.
    pub connectors: Vec<Arc<dyn Connector>>,
    /// What BACKUP is done by; `None` refuses it.
    pub backups: Option<Arc<dyn Backups>>,
    /// Shown by `version()` and `system.build_options`.
    pub version: String,
}
