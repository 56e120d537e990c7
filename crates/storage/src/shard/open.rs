//! Opening a shard: recovery of log and manifest, and the checks that tie them together.

use super::{Pins, Shard, ShardMetrics};
use crate::batch::part_schema;
use crate::context::StoreContext;
use crate::error::{Result, StorageError};
use crate::layout::PartLayout;
use crate::logs::{Log, open_log};
use crate::manifest::{Manifest, Version};
use crate::options::{StorageType, StreamOptions};
use crate::parts::Garbage;
use crate::ring::{Backlog, Observer, Ring};
use crate::schema::SchemaBook;
use crate::store::FilesUser;
use arc_swap::ArcSwap;
use arrow_schema::SchemaRef;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::sync::watch;
use weir_base::{SeqNo, ShardId};
use weir_log::ShardLog;

/// What a shard is opened with.
pub(crate) struct ShardSpec<'a> {
    pub ctx: &'a StoreContext,
    pub id: ShardId,
    /// The shard's own directory.
    pub dir: String,
    pub schema: SchemaRef,
    pub book: Arc<SchemaBook>,
    pub options: &'a StreamOptions,
    pub layout: Arc<dyn PartLayout>,
    pub user: FilesUser,
}

impl Shard {
    /// Recovers a shard, or begins one. Blocks.
    ///
    /// # Errors
    /// Damage found now names its file; damage inside parts is found when they are read.
    pub(crate) fn open(spec: ShardSpec<'_>) -> Result<Arc<Shard>> {
        let ShardSpec { ctx, id, dir, schema, book, options, layout, user } = spec;
        let storage_type = options.storage_type;
        let ring = Ring::new(options.tail_ring_bytes_max, &ctx.memory);
        let backlog = Arc::new(Backlog::default());
        let garbage = Arc::new(Garbage::default());
        let part_dir = crate::store::part_dir(&dir);
        let manifest = match storage_type {
            StorageType::Memory => None,
            _ => Some(Manifest::open(&ctx.disk, &format!("{dir}/manifest"))?),
        };
        let observer =
            Arc::new(Observer { ring: ring.clone(), backlog: backlog.clone(), clock: ctx.clock.clone() });
        let log = open_log(ctx, &dir, options, manifest.as_ref(), observer)?;
        if let (Some(manifest), Log::Own(log)) = (&manifest, &log) {
            check_stitch(&**log, manifest, storage_type, &dir)?;
        }
        if storage_type == StorageType::Hybrid {
            ctx.parts().create_dir(&part_dir)?;
            clean_parts(ctx, manifest.as_ref().expect("hybrid has one"), &part_dir)?;
            ctx.disk
                .remove_dir_all(&format!("{dir}/spill"))
                .map_err(|e| StorageError::io("clean", &dir, e))?;
            if let Log::Own(log) = &log {
                let committed_end = manifest.as_ref().expect("hybrid has one").state().committed_end;
                seed_backlog(&**log, committed_end, &backlog);
            }
        }
        // The names of what was just made: parts of a lost directory would be lost rows.
        ctx.disk.sync_dir(&dir).map_err(|e| StorageError::io("sync directory", &dir, e))?;
        let version = match &manifest {
            Some(m) => Version::of(m.state(), m.version(), &part_dir, &garbage, None),
            None => Version::empty(),
        };
        let metrics = ShardMetrics {
            committed_rows: ctx
                .metrics
                .counter("storage_committed_rows_total", "rows moved from log to parts"),
            commits: ctx.metrics.counter("storage_commits_total", "commits of log rows to parts"),
            commit_failures: ctx.metrics.counter("storage_commit_failures_total", "commits that failed"),
            merges: ctx.metrics.counter("storage_merges_total", "merges of parts"),
            merges_put_off: ctx
                .metrics
                .counter("storage_merges_put_off_total", "merges that wait for memory"),
            expired_rows: ctx.metrics.counter("storage_expired_rows_total", "rows removed by TTL"),
            dropped_rows: ctx.metrics.counter(
                "storage_log_dropped_rows_total",
                "rows of full logs that somebody needed and that went (logstore_full='drop_oldest')",
            ),
        };
        let shard = Arc::new_cyclic(|me| Shard {
            me: me.clone(),
            id,
            part_dir,
            ctx: ctx.clone(),
            part_schema: part_schema(&schema),
            schema,
            book,
            layout,
            options: ArcSwap::from_pointee(options.clone()),
            storage_type,
            log,
            ring,
            backlog,
            manifest: manifest.map(Mutex::new),
            version: ArcSwap::from_pointee(version),
            pins: Mutex::new(Pins::default()),
            garbage,
            doubtful: Mutex::default(),
            merging: Mutex::default(),
            making_room: Mutex::default(),
            appending: AtomicU64::new(0),
            dropped_rows: AtomicU64::new(0),
            commit_error: Mutex::default(),
            closing: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            log_closed: tokio::sync::OnceCell::new(),
            dropped: AtomicBool::new(false),
            _user: user,
            metrics,
        });
        shard.start_background();
        Ok(shard)
    }

    pub(super) fn spill_dir(&self) -> String {
        format!("{}/spill", weir_base::disk::parent(&self.part_dir))
    }
}

/// The log must hold every row that parts do not.
fn check_stitch(log: &dyn ShardLog, manifest: &Manifest, storage_type: StorageType, dir: &str) -> Result<()> {
    let state = manifest.state();
    let (start, end) = (log.start(), log.durable_end());
    let corrupt = |what: String| StorageError::Corrupt { path: dir.to_owned(), offset: 0, what };
    if storage_type == StorageType::Hybrid && start > state.committed_end {
        return Err(corrupt(format!("the log begins at {start} but parts end at {}", state.committed_end)));
    }
    if end < state.committed_end {
        return Err(corrupt(format!("the log ends at {end} but parts at {}", state.committed_end)));
    }
    Ok(())
}

/// Registers live parts, checks that they are there, and removes what no manifest names.
fn clean_parts(ctx: &StoreContext, manifest: &Manifest, part_dir: &str) -> Result<()> {
    let store = ctx.parts();
    let listed: HashMap<String, u64> = store.list(part_dir)?.into_iter().collect();
    let live: HashMap<&str, u64> =
        manifest.state().parts.values().map(|p| (p.name.as_str(), p.size_bytes)).collect();
    for (name, size_bytes) in &live {
        let path = format!("{part_dir}/{name}");
        let what = match listed.get(*name) {
            Some(found) if found == size_bytes => continue,
            Some(found) => format!("has {found} bytes, the manifest says {size_bytes}"),
            None => "the file is missing".to_owned(),
        };
        return Err(StorageError::Corrupt { path, offset: 0, what });
    }
    for part in manifest.state().parts.values() {
        store.register(&format!("{part_dir}/{}", part.name), part.size_bytes, part.checks_crc);
    }
    for name in listed.keys() {
        let part = name.strip_suffix(".crc").unwrap_or(name);
        if !live.contains_key(part) {
            store.delete(&format!("{part_dir}/{part}"))?;
        }
    }
    Ok(())
}

/// Counts what a restart found uncommitted, by segments: an upper bound.
fn seed_backlog(log: &dyn ShardLog, committed_end: SeqNo, backlog: &Backlog) {
    for segment in log.segments() {
        let end = segment.end.min(log.durable_end());
        if end > committed_end {
            // A segment that is being written is preallocated; only its records count.
            let rows = end.0 - segment.base.0.min(end.0);
            let waiting = end.0 - segment.base.max(committed_end).0;
            let bytes = segment.size_bytes as u128 * u128::from(waiting) / u128::from(rows.max(1));
            backlog.add(end, bytes as u64, Duration::ZERO);
        }
    }
}
