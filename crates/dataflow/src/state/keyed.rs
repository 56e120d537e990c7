//! Checkpoints of a table whose groups may go to disk and come back (`paged`): what changed in memory, and what
//! changed and lies in runs of spilled groups.
//!
//! ```text
//! groups go to disk -> pending ones are written first; their run is kept if something in it is in no checkpoint
//! barrier -> groups that changed are pending, and so are those runs, as they are
//! between batches -> pending groups, then entries of the runs, of each key the newest
//! ```
//!
//! An entry is that of a spilled run: the key, and all there is of the group. Within a run of a checkpoint the
//! first entry of a key counts: groups in memory are newer than what lies on disk.
//!
//! Not here: what an entry holds behind its key (the operators).

use super::bytes::{Damaged, Reader, Writer};
use super::deltas::{Groups, Noted, Things, read_runs};
use super::keys::{Key, KeyForm};
use super::paged::{Newest, Paged, invalid};
use super::runs::entries;
use super::spill::Run;
use super::table::GroupTable;
use super::{StateReader, StateWriter};
use crate::operator::{OpError, Wrote};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

/// Runs of spilled groups that are kept for the next barrier: they take room on the disk.
const SINCE_MAX: usize = 64;

#[derive(Default)]
pub(crate) struct Keyed {
    noted: Noted<Groups>,
    /// Runs of spilled groups of which some changed since the last barrier.
    since: Vec<Arc<Run>>,
    /// They were too many: the next run of a checkpoint says all.
    whole_next: bool,
    /// Those that are being written.
    spilled: Option<Newest>,
}

impl Keyed {
    pub fn bytes(&self) -> usize {
        self.noted.bytes() + self.since.iter().map(|r| r.memory_bytes()).sum::<usize>()
    }

    /// A group is about to change. `put` writes it as it is.
    #[inline]
    pub fn note(&mut self, group: u32, put: impl FnOnce(&mut Writer)) {
        if let Some(changes) = &mut self.noted.changes {
            let Ok(()) = changes.note(&group, |out| -> Result<(), Infallible> {
                put(out);
                Ok(())
            });
        }
    }

    /// A group that had changed has another number now.
    pub fn note_moved(&mut self, group: u32) {
        if let Some(changes) = &mut self.noted.changes {
            changes.note_moved(&group);
        }
    }

    /// See [`Noted::hand_on`].
    pub fn hand_on(&mut self) {
        self.noted.hand_on();
    }

    /// Writes all that is pending, before groups get other numbers or go to disk; gives those that changed
    /// since the last barrier, under their old numbers.
    pub fn leave(&mut self, mut put: impl FnMut(u32, &mut Writer)) -> Groups {
        let Some(changes) = &mut self.noted.changes else { return Groups::default() };
        let Ok(_) = changes.put_pending(usize::MAX, |group, out| -> Result<(), Infallible> {
            put(group, out);
            Ok(())
        });
        let since = changes.take_since();
        self.hand_on();
        since
    }

    /// Where groups went of which those of `since` are in no checkpoint.
    pub fn went_to(&mut self, run: Option<Arc<Run>>, since: &Groups) {
        if !since.is_empty() && !self.whole_next {
            self.since.extend(run);
        }
        if self.since.len() > SINCE_MAX {
            (self.since, self.whole_next) = (Vec::new(), true);
        }
    }

    /// At a barrier: `groups` in memory, `keys` in all. `false` = nothing may be written to files.
    pub fn snapshot(
        &mut self,
        into: &mut StateWriter,
        groups: usize,
        keys: u64,
        disk: &Paged,
    ) -> io::Result<bool> {
        let Some(to) = into.files() else { return Ok(false) };
        let anew = std::mem::take(&mut self.whole_next) || self.noted.changes.is_none();
        let whole = self.noted.runs.must_be_whole(keys) || anew;
        let changes = self.noted.changes.get_or_insert_default();
        let since = std::mem::take(&mut self.since);
        let any = if whole {
            self.noted.runs.keep_from(to.1);
            self.spilled = if disk.is_empty() { None } else { Some(disk.newest()?) };
            changes.at_barrier(Some(Groups::all(groups)))
        } else {
            self.spilled = if since.is_empty() { None } else { Some(Newest::new(&since)?) };
            changes.at_barrier(None)
        };
        if any || self.spilled.is_some() {
            self.noted.runs.begin(to, into);
        } else {
            self.noted.runs.name(into);
        }
        Ok(true)
    }

    /// Writes some more. `counts` says of what follows a key on disk whether anybody looks for it.
    pub fn write_more(
        &mut self,
        groups_max: usize,
        form: &KeyForm,
        mut put: impl FnMut(u32, &mut Writer),
        counts: impl Fn(&mut Reader<'_>) -> Result<bool, Damaged>,
    ) -> io::Result<Wrote> {
        let (Some(run), Some(changes)) = (self.noted.runs.writer(), &mut self.noted.changes) else {
            return Ok(Wrote::All);
        };
        if !run.has_room() {
            return Ok(Wrote::Waits);
        }
        let Ok(left) = changes.put_pending(groups_max, |group, out| -> Result<(), Infallible> {
            put(group, out);
            Ok(())
        });
        changes.hand_on(run);
        if left {
            return Ok(Wrote::More);
        }
        if let Some(spilled) = &mut self.spilled {
            for _ in 0..groups_max {
                let Some(entry) = spilled.next(form)? else {
                    self.spilled = None;
                    break;
                };
                let mut rest = Reader(entry);
                if Key::load(&mut rest).and_then(|_| counts(&mut rest)).map_err(invalid)? {
                    run.add(|out| out.0.extend_from_slice(entry));
                }
            }
        }
        if self.spilled.is_some() {
            return Ok(Wrote::More);
        }
        self.noted.runs.finish();
        Ok(Wrote::All)
    }

    pub fn lose(&mut self) {
        self.noted.lose();
        (self.spilled, self.since) = (None, Vec::new());
    }

    /// Gives the entries of a state block by block, the newest first: an entry counts where nothing is known of
    /// its key ([`unknown`]).
    ///
    /// # Errors
    /// As [`read_runs`].
    pub fn restore(
        &mut self,
        operator: &'static str,
        from: &StateReader,
        mut take: impl FnMut(&[u8]) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let runs = read_runs(operator, from, &mut take)?;
        self.noted = Noted::restored(runs);
        Ok(())
    }
}

/// The entries of a block whose keys are neither in memory nor on disk: keys, their hashes and what follows
/// them. Of those with the same key the first counts.
pub(crate) fn unknown<'a>(
    block: &'a [u8],
    form: &KeyForm,
    groups: &GroupTable,
    disk: &Paged,
) -> io::Result<Vec<(u32, Key<'a>, Reader<'a>)>> {
    let mut all = Vec::new();
    for entry in entries(block) {
        let mut rest = Reader(entry.map_err(invalid)?);
        let key = Key::load(&mut rest).map_err(invalid)?;
        let hash = key.hash();
        if groups.find_one(key, hash).is_none() {
            all.push((hash, key, rest));
        }
    }
    if !disk.is_empty() {
        let there = disk.there(form, all.iter().map(|(hash, key, _)| (*hash, *key)).collect())?;
        all.retain(|(_, key, _)| !there.contains(form, *key));
    }
    Ok(all)
}
