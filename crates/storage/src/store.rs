//! One stream's storage: its shards, in one directory.

use crate::context::StoreContext;
use crate::error::{Result, StorageError};
use crate::layout::PartLayout;
use crate::options::{StorageType, StreamOptions};
use crate::schema::SchemaBook;
use crate::shard::{Shard, ShardSpec};
use arrow_schema::SchemaRef;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;
use weir_base::ShardId;

/// Held by everything that may read or write a stream's files; nothing is ever sent.
pub(crate) type FilesUser = mpsc::Sender<Infallible>;

/// A dropped stream whose files wait for their last user.
#[derive(Debug)]
pub struct Removal {
    ctx: StoreContext,
    dir: String,
    users: Option<mpsc::Receiver<Infallible>>,
}

impl Removal {
    /// Returns once nobody holds the store, one of its shards, a snapshot or a cursor any more.
    pub async fn unused(&mut self) {
        if let Some(users) = &mut self.users {
            // Ends when the last sender is gone.
            let _ = users.recv().await;
        }
    }

    /// Removes everything the stream has stored. Blocks.
    ///
    /// # Errors
    /// As [`remove_stream`].
    pub fn remove_files(self) -> Result<()> {
        remove_stream(&self.ctx, &self.dir)
    }
}

/// Removes what a stream has stored that is not open: its parts, wherever they lie, then its
/// directory, so that an interrupted removal is found and repeated. Blocks.
///
/// # Errors
/// What the disk or the object store says; some files may be gone then.
pub fn remove_stream(ctx: &StoreContext, dir: &str) -> Result<()> {
    let failed = |e| StorageError::io("remove", dir, e);
    let entries = match ctx.disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for shard in entries.iter().filter(|e| e.is_dir && e.name.starts_with(SHARD_PREFIX)) {
        ctx.parts().delete_dir(&part_dir(&format!("{dir}/{}", shard.name)))?;
    }
    ctx.disk.remove_dir_all(dir).map_err(failed)
}

/// Names of shards' directories begin with it.
const SHARD_PREFIX: &str = "shard-";

/// Where a shard's parts lie.
pub(crate) fn part_dir(shard_dir: &str) -> String {
    format!("{shard_dir}/parts")
}

/// Shared by all sessions. Background work ends with [`StreamStore::close`] or when the last
/// holder is gone.
#[derive(Debug)]
pub struct StreamStore {
    ctx: StoreContext,
    dir: String,
    schema: SchemaRef,
    options: Mutex<StreamOptions>,
    shards: Vec<Arc<Shard>>,
    _user: FilesUser,
    /// Taken by the first [`StreamStore::retire`].
    users: Mutex<Option<mpsc::Receiver<Infallible>>>,
}

impl StreamStore {
    /// Begins a stream in `dir`, which is made. A directory left by a creation that did not
    /// finish is used. Blocks; do not call on a network thread.
    ///
    /// # Errors
    /// [`StorageError::Schema`] for a stream without shards.
    pub fn create(
        ctx: &StoreContext,
        dir: &str,
        schema: SchemaRef,
        options: StreamOptions,
        layout: Arc<dyn PartLayout>,
    ) -> Result<Arc<StreamStore>> {
        let failed = |e| StorageError::io("create", dir, e);
        ctx.disk.create_dir_all(dir).map_err(failed)?;
        Self::open(ctx, dir, schema, options, layout)
    }

    /// Recovers all shards of a stream. Blocks.
    ///
    /// # Errors
    /// If one shard does not open, naming file and offset; nothing runs then.
    pub fn open(
        ctx: &StoreContext,
        dir: &str,
        schema: SchemaRef,
        options: StreamOptions,
        layout: Arc<dyn PartLayout>,
    ) -> Result<Arc<StreamStore>> {
        if options.shards == 0 {
            return Err(StorageError::Schema { what: "a stream has at least 1 shard, 0 asked".into() });
        }
        let book = Arc::new(match options.storage_type {
            StorageType::Memory => SchemaBook::in_memory(&schema)?,
            _ => SchemaBook::open(&*ctx.disk, &format!("{dir}/schemas"), &schema)?,
        });
        let (user, users) = mpsc::channel(1);
        let mut shards = Vec::with_capacity(options.shards as usize);
        for id in 0..options.shards {
            let shard_dir = format!("{dir}/{SHARD_PREFIX}{id:04}");
            ctx.disk.create_dir_all(&shard_dir).map_err(|e| StorageError::io("create", &shard_dir, e))?;
            shards.push(Shard::open(ShardSpec {
                ctx,
                id: ShardId(id),
                dir: shard_dir,
                schema: schema.clone(),
                book: book.clone(),
                options: &options,
                layout: layout.clone(),
                user: user.clone(),
            })?);
        }
        // Names of what was made on the way here, up to the root.
        let mut at = dir;
        loop {
            ctx.disk.sync_dir(at).map_err(|e| StorageError::io("sync directory", at, e))?;
            if at.is_empty() {
                break;
            }
            at = weir_base::disk::parent(at);
        }
        Ok(Arc::new(StreamStore {
            ctx: ctx.clone(),
            dir: dir.to_owned(),
            schema,
            options: Mutex::new(options),
            shards,
            _user: user,
            users: Mutex::new(Some(users)),
        }))
    }

    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn options(&self) -> StreamOptions {
        self.options.lock().clone()
    }

    pub fn context(&self) -> &StoreContext {
        &self.ctx
    }

    /// Takes effect at once for thresholds, retention, codecs and the ring; the number of
    /// shards, the storage type and the segment size stay as the stream was opened.
    pub fn set_options(&self, options: StreamOptions) {
        let mut current = self.options.lock();
        *current = StreamOptions {
            shards: current.shards,
            storage_type: current.storage_type,
            log_store: current.log_store,
            ..options
        };
        self.shards.iter().for_each(|s| s.set_options(&current));
    }

    /// Removes all rows that are durable now; sequence numbers go on.
    ///
    /// # Errors
    /// Shards before the failing one are empty already; repeat it.
    pub async fn truncate(&self) -> Result<()> {
        for shard in &self.shards {
            shard.truncate().await?;
        }
        Ok(())
    }

    /// Ends background work and closes the logs cleanly.
    pub async fn close(&self) {
        futures::future::join_all(self.shards.iter().map(|s| s.close())).await;
    }

    /// Ends the stream for everyone who looks for it from now on: appends and cursors fail with
    /// [`StorageError::Dropped`], snapshots taken before go on. The files stay until
    /// [`Removal::unused`].
    pub async fn retire(&self) -> Removal {
        self.shards.iter().for_each(|s| s.mark_dropped());
        self.close().await;
        Removal { ctx: self.ctx.clone(), dir: self.dir.clone(), users: self.users.lock().take() }
    }
}
