//! Looks at a data directory as a server would that opens it, and reads all of it.
//!
//! The disk it is given must be one that keeps nothing (`weir_base::disk::Overlay`): recovery cuts and removes
//! as it always does.

use crate::config::{EngineConfig, World};
use crate::engine::CATALOG_DIR;
use crate::expr::Compiler;
use crate::session_state::States;
use crate::streams::{Prepared, STREAMS_DIR, stream_dir};
use crate::subscriptions;
use crate::view::files::{CHECKPOINTS_DIR, CheckpointDir};
use crate::view::{check_skipped, is_position, task};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;
use weir_base::metrics::Registry;
use weir_base::{Disk, MemoryBudget, SeqNo};
use weir_catalog::{Catalog, RelationKind, Snapshot};
use weir_plan::Runtime;
use weir_sql::bind::BindOptions;
use weir_storage::{StoreContext, StreamStore};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What does not check, each in a line: where, what, and what to do.
    pub problems: Vec<String>,
    /// What is there and belongs to nobody, or goes by itself.
    pub notes: Vec<String>,
    pub streams: u64,
    pub shards: u64,
    pub checkpoints: u64,
    pub bytes: u64,
    /// Of each stream by id, per shard, one past its last row.
    pub ends: BTreeMap<Uuid, Vec<SeqNo>>,
    /// Names of streams by id.
    pub names: BTreeMap<Uuid, String>,
}

/// Checks everything. `told` hears of each problem when it is found. Blocks; call it on a thread that may, within a
/// runtime.
pub async fn check(
    config: &EngineConfig,
    world: &World,
    runtime: &dyn Runtime,
    told: &(dyn Fn(&str) + Send + Sync),
) -> Report {
    let mut report = Report::default();
    let before = files(&*world.disk);
    let mut problem = |report: &mut Report, text: String| {
        told(&text);
        report.problems.push(text);
    };
    let catalog = match Catalog::open(world.disk.clone(), world.clock.clone(), CATALOG_DIR) {
        Ok(catalog) => catalog,
        Err(e) => {
            problem(
                &mut report,
                format!("{CATALOG_DIR}: {e}; nothing else can be read without it: restore a backup"),
            );
            return report;
        }
    };
    if let Err(e) = catalog.verify() {
        problem(&mut report, format!("{CATALOG_DIR}: {e}; the snapshot beside it may cover what is lost"));
    }
    let snapshot = catalog.snapshot();
    let memory = MemoryBudget::root("the check", config.memory_limit_bytes);
    let (disk, clock, rng) = (world.disk.clone(), world.clock.clone(), world.rng.clone());
    // Nothing runs in the background.
    let ctx = StoreContext::new(
        disk,
        clock,
        rng,
        memory,
        Arc::new(Registry::default()),
        config.parts.clone(),
        None,
    );
    let states = match States::new(&config.functions, ctx.object_store(), None) {
        Ok(states) => states,
        Err(e) => {
            problem(&mut report, e.to_string());
            return report;
        }
    };
    let compiler = Compiler::new(Arc::new(states.base().clone()), BindOptions::default());
    for relation in snapshot.relations().filter(|r| r.is_stored()) {
        let (name, dir) = (relation.full_name(), stream_dir(&relation.id.to_string()));
        report.streams += 1;
        report.names.insert(relation.id, name.to_string());
        let open = Prepared::new(relation, &compiler).and_then(|p| {
            let (schema, options, layout) = p.into_store();
            StreamStore::open(&ctx, &dir, schema, options, layout).map_err(weir_base::Error::from)
        });
        let store = match open {
            Ok(store) => store,
            Err(e) => {
                problem(
                    &mut report,
                    format!("{dir} (stream {name}): {}; restore it from a backup", e.message),
                );
                continue;
            }
        };
        let mut ends = Vec::new();
        for shard in store.shards() {
            report.shards += 1;
            let mut wrong = Vec::new();
            let seen = shard.verify(&mut |e| wrong.push(e.to_string()));
            for what in wrong {
                problem(
                    &mut report,
                    format!("stream {name} shard {}: {what}; restore it from a backup", shard.id()),
                );
            }
            report.bytes += seen.bytes;
            ends.push(seen.log_end);
            check_positions(&snapshot, relation.id, shard, &mut |text| problem(&mut report, text));
        }
        report.ends.insert(relation.id, ends);
        store.close().await;
    }
    check_checkpoints(world, &snapshot, runtime, &mut report, &mut problem).await;
    check_runs(world, &snapshot, &mut report, &mut problem);
    note_strays(world, &snapshot, &mut report);
    catalog.close().await;
    note_recovery(&before, &files(&*world.disk), &mut report);
    report
}

/// Every file with its length.
fn files(disk: &dyn Disk) -> BTreeMap<String, u64> {
    let (mut all, mut dirs) = (BTreeMap::new(), vec![String::new()]);
    while let Some(dir) = dirs.pop() {
        for entry in disk.list(&dir).unwrap_or_default() {
            let path = if dir.is_empty() { entry.name } else { format!("{dir}/{}", entry.name) };
            if entry.is_dir {
                dirs.push(path);
            } else {
                all.insert(path, entry.len_bytes);
            }
        }
    }
    all
}

/// What the next start will remove: what a kill left half written, or nobody names.
fn note_recovery(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, report: &mut Report) {
    for (path, bytes) in before.iter().filter(|(path, _)| !after.contains_key(*path)) {
        report.notes.push(format!(
            "{path} ({bytes} bytes) is half written, or of nobody; the next start removes it and goes on without it"
        ));
    }
}

/// Positions of views in what they wrote.
fn check_positions(
    snapshot: &Snapshot,
    target: Uuid,
    shard: &weir_storage::Shard,
    problem: &mut dyn FnMut(String),
) {
    for writer in shard.writers() {
        let id = Uuid::from_bytes(writer);
        let writes = |kind: &RelationKind| match kind {
            RelationKind::MaterializedView { target: to, .. } => {
                snapshot.relation(&to.database, &to.name).is_some_and(|r| r.id == target)
            }
            _ => false,
        };
        let Some(view) = snapshot.relations().find(|r| r.id == id && writes(&r.kind)) else { continue };
        if shard.progress(&writer).is_some_and(|bytes| !is_position(&bytes)) {
            problem(format!(
                "view {}: its position in shard {} of its target is none; drop the view and create it again",
                view.full_name(),
                shard.id()
            ));
        }
    }
}

async fn check_checkpoints(
    world: &World,
    snapshot: &Snapshot,
    runtime: &dyn Runtime,
    report: &mut Report,
    problem: &mut impl FnMut(&mut Report, String),
) {
    let views = snapshot.relations().filter(|r| matches!(r.kind, RelationKind::MaterializedView { .. }));
    let views = views.map(|r| (r.id, format!("view {}", r.full_name())));
    let jobs = snapshot.jobs().map(|j| (j.id, format!("{} {}", j.word(), j.full_name())));
    let kept = views.chain(jobs).map(|(id, what)| (format!("{CHECKPOINTS_DIR}/{id}"), what));
    let mut all: Vec<_> = kept.collect();
    match subscriptions::stored(&*world.disk) {
        Ok(found) => all.extend(found),
        Err(e) => problem(report, format!("{e}; UNSUBSCRIBE can not remove it: move its directory away")),
    }
    for (dir, what) in all {
        let store = Arc::new(CheckpointDir::at(world.disk.clone(), dir.clone()));
        match runtime.verify(store).await {
            Ok((bytes, wrong)) => {
                report.bytes += bytes;
                report.checkpoints += u64::from(bytes > 0);
                for one in wrong {
                    problem(
                        report,
                        format!("{dir}/{one} ({what}); the checkpoint before it is used if it is whole"),
                    );
                }
            }
            Err(e) => problem(report, format!("{dir} ({what}): {}", e.message)),
        }
        if let Err(e) = check_skipped(&*world.disk, &dir) {
            problem(report, format!("{e} ({what}); restore it from a backup"));
        }
    }
}

/// Runs of tasks that the next start finishes.
fn check_runs(
    world: &World,
    snapshot: &Snapshot,
    report: &mut Report,
    problem: &mut impl FnMut(&mut Report, String),
) {
    for job in snapshot.jobs() {
        match task::verify(&*world.disk, job.id) {
            Ok(bytes) => report.bytes += bytes,
            Err(e) => problem(report, format!("{} {}: {}", job.word(), job.full_name(), e.message)),
        }
    }
}

/// Directories that no event of the catalog names: the next start removes them.
fn note_strays(world: &World, snapshot: &Snapshot, report: &mut Report) {
    let streams = snapshot.relations().filter(|r| r.is_stored()).map(|r| r.id.to_string());
    let kept =
        snapshot.relations().map(|r| r.id.to_string()).chain(snapshot.jobs().map(|j| j.id.to_string()));
    let known: [(&str, BTreeSet<String>); 2] =
        [(STREAMS_DIR, streams.collect()), (CHECKPOINTS_DIR, kept.collect())];
    for (dir, known) in known {
        for entry in world.disk.list(dir).unwrap_or_default() {
            let id = entry.name.split('.').next().unwrap_or(&entry.name);
            if !known.contains(id) {
                report.notes.push(format!("{dir}/{} is of nobody; the next start removes it", entry.name));
            }
        }
    }
}
