//! What a window has on disk: runs of groups by key, oldest first.
//!
//! Where a group that changes must be whole in memory, the groups of a batch that are not there are
//! looked up in the runs before it is taken in; elsewhere runs hold shares of a group's state, and nobody
//! reads them before results leave.

use super::Bounds;
use super::core::{Core, Work};
use super::merged::Merged;
use super::part::Part;
use super::table::{MERGE_ROWS, Table};
use crate::operator::OpError;
use crate::resources::Resources;
use crate::state::keys::KeyForm;
use crate::state::paged::{look_up, to_merge};
use crate::state::spill::{Run, SpillSpace};
use crate::state::table::Picked;
use std::sync::Arc;
use weir_sketch::Hll;
use xxhash_rust::xxh3::xxh3_64;

/// Runs of shares from which on they become one.
const SHARES_MAX: usize = 64;
/// Runs of whole groups that are looked into, besides one for each part.
const RUNS_MAX: usize = 8;

/// Groups that were spilled at once.
#[derive(Debug, Clone)]
pub(super) struct Spilled {
    pub run: Arc<Run>,
    /// What it says of a group is to be merged with what older runs say.
    pub partial: bool,
    /// It was written while history was read.
    pub history: bool,
}

impl Core {
    /// Whether a group that changes must be whole in memory: what it was is told, or rows are taken back.
    pub fn looks_up(&self) -> bool {
        self.changelog || self.tells_changes()
    }

    /// Whether what is in memory of a group is all of it.
    pub fn whole_groups(&self, live: bool) -> bool {
        self.changelog || live && self.tells_changes()
    }

    /// Brings the groups of picked rows back that were spilled.
    pub fn load(
        &self,
        part: &mut Part,
        spilled: &[Spilled],
        live: bool,
        work: &Work,
        picked: Picked<'_>,
    ) -> Result<(), OpError> {
        let wanted = part.groups.missing(&work.keys, picked);
        let runs: Vec<Arc<Run>> = spilled.iter().map(|s| s.run.clone()).collect();
        let loaded = look_up(&runs, &self.form, wanted, |at, (hash, key), from| {
            let Spilled { partial, history, .. } = spilled[at];
            if Part::is_gone(from) {
                return Ok(true);
            }
            let group = part.merge(key, hash, from)?;
            part.came_back(group);
            if history && live && self.emit.changelog && part.lives(group) {
                part.told.insert(group);
            }
            Ok(!partial)
        });
        loaded.map_err(|e| self.spill(e))
    }
}

/// What became of a part that was spilled.
struct Done {
    runs: Vec<Run>,
    part: Part,
    /// Keys that were not on disk, less those that are gone.
    keys: i64,
    /// Of shares, whose keys may be on disk already.
    shares: Hll,
    /// Keys that were too old to be written down.
    expired: u64,
}

/// Writes a part's groups down by key; those that are yet to be told of stay in memory.
fn spill_part(core: &Core, space: &SpillSpace, mut part: Part, whole: bool) -> Result<Done, OpError> {
    let failed = |e| core.spill(e);
    let expired = part.forgotten() as u64;
    let before = part.take_before().map(|before| spill_part(core, space, before, whole)).transpose()?;
    let (mut runs, mut shares) = before.map_or((Vec::new(), Hll::default()), |b| (b.runs, b.shares));
    let mut keys = 0;
    if part.at_rest() > 0 {
        let entries_max = part.groups.len() as u64;
        let begun = if core.looks_up() { space.begin_paged(entries_max) } else { space.begin() };
        let mut writer = begun.map_err(failed)?;
        for group in part.groups.sorted(&core.form) {
            let (lives, loaded) = (part.lives(group), part.loaded.contains(group));
            if part.groups.is_changed(group) {
                continue;
            }
            if whole {
                keys += i64::from(lives) - i64::from(loaded);
            } else if lives {
                shares.add(xxh3_64(&part.groups.key(group).hash().to_le_bytes()));
            }
            if lives || loaded {
                writer.add(|out| part.write(group, out)).map_err(failed)?;
            }
        }
        runs.extend(Some(writer.finish().map_err(failed)?).filter(|r| r.entries > 0));
    }
    let mut kept = core.new_part()?;
    part.same_time(&mut kept);
    let changed = part.groups.changed().to_vec();
    part.keep(&changed, &mut kept).map_err(|e| core.damaged(&e))?;
    Ok(Done { runs, part: kept, keys, shares, expired })
}

impl Table {
    /// Groups that could be written down to give memory back.
    pub fn can_spill(&self, core: &Core) -> bool {
        // One group of all rows is needed for every row; on disk nobody knows whose time is over.
        let stays = core.looks_up() && (matches!(core.form, KeyForm::Unit) || core.ttl_us.is_some());
        !stays && self.pieces().iter().any(|p| p.at_rest() > 0)
    }

    /// Writes what is in memory down, each part as a run, and begins anew.
    pub fn spill(
        &mut self,
        core: &Arc<Core>,
        space: &Arc<SpillSpace>,
        resources: &Resources,
        live: bool,
    ) -> Result<(), OpError> {
        let parts = std::mem::take(&mut self.parts);
        let (work, place) = (core.clone(), space.clone());
        let whole = core.whole_groups(live);
        let done = resources.workers.run(parts, move |part| spill_part(&work, &place, part, whole));
        for done in done {
            let Done { runs, part, keys, shares, expired } = done?;
            let spilled = |run| Spilled { run: Arc::new(run), partial: !whole, history: !live };
            self.spilled.extend(runs.into_iter().map(spilled));
            self.expired += expired;
            self.parts.push(part);
            self.spilled_keys += keys;
            self.shares.merge(&shares);
        }
        self.merge_runs(core, space, live)
    }

    /// Makes one of some runs when they are many.
    fn merge_runs(&mut self, core: &Core, space: &SpillSpace, live: bool) -> Result<(), OpError> {
        let from = if core.whole_groups(live) {
            let bytes: Vec<u64> = self.spilled.iter().map(|s| s.run.bytes).collect();
            to_merge(&bytes, RUNS_MAX + self.parts.len())
        } else {
            (self.spilled.len() > SHARES_MAX).then_some(0)
        };
        let Some(mut from) = from else { return Ok(()) };
        // A share is whole with all that is older.
        if self.spilled[from..].iter().any(|s| s.partial) {
            from = 0;
        }
        let merged = &self.spilled[from..];
        let failed = |e| core.spill(e);
        let begun = if core.looks_up() {
            space.begin_paged(merged.iter().map(|s| s.run.entries).sum())
        } else {
            space.begin()
        };
        let mut writer = begun.map_err(failed)?;
        let now_us = self.parts.first().map_or(i64::MIN, Part::now_us);
        let mut groups = Merged::new(core, merged, &[], live, now_us)?;
        loop {
            let part = groups.next(core, &[], MERGE_ROWS)?;
            for group in 0..part.groups.len() as u32 {
                // That a group is gone is of no interest to anything older.
                if from > 0 || part.lives(group) {
                    writer.add(|out| part.write(group, out)).map_err(failed)?;
                }
            }
            if part.groups.len() < MERGE_ROWS {
                break;
            }
        }
        let run = writer.finish().map_err(failed)?;
        self.expired += groups.expired;
        self.spilled.truncate(from);
        if run.entries > 0 {
            // A pane's are merged with those of other panes.
            let partial = !core.looks_up();
            self.spilled.push(Spilled { run: Arc::new(run), partial, history: !live });
        }
        Ok(())
    }

    /// Groups that no row is left of go when they are the most. What lies on disk must be told first.
    pub fn tidy(&mut self, bounds: Bounds, core: &Core, resources: &Resources) -> Result<(), OpError> {
        if !core.changelog || !self.spilled.is_empty() {
            return Ok(());
        }
        for at in 0..self.parts.len() {
            let part = &self.parts[at];
            let groups = part.groups.len();
            if groups < part.tidy_at.max(resources.tidy_groups) {
                continue;
            }
            let kept: Vec<u32> = (0..groups as u32).filter(|g| part.counts(*g)).collect();
            if 2 * kept.len() < groups {
                self.put_all(bounds);
                let mut fewer = core.new_part()?;
                let mut all = std::mem::replace(&mut self.parts[at], core.new_part()?);
                all.hand_changes(&mut fewer);
                all.keep(&kept, &mut fewer).map_err(|e| core.damaged(&e))?;
                self.parts[at] = fewer;
                // Runs know groups that nothing says any more that they are gone.
                self.whole_next = true;
            }
            self.parts[at].tidy_at = 2 * kept.len();
        }
        Ok(())
    }
}
