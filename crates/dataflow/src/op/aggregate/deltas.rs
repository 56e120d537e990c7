//! Checkpoints in proportion to what changed: at a barrier the groups that changed since the one before go
//! into a run (`state::runs`), as they were at it, while rows go on being taken in.
//!
//! ```text
//! barrier: what changed since the last one is pending, nothing has changed since this one
//! rows, emissions -> a pending group is written before it changes
//! between batches -> some more of the pending ones
//! none is pending: the run is complete
//! ```
//!
//! Invariants
//! - a run holds each group at most once, as it was at the barrier; of a group without rows that it is gone;
//! - what an older run says of a group is over; of a window all that runs say before its first one;
//! - when runs hold much more than there is, a run is made of everything, and the older ones go.
//!
//! What was spilled is written down whole, beside the query as well: its files never change. Where what is in
//! memory of a group is all of it, what lies on disk of such groups is left out; elsewhere both are shares,
//! and who reads them merges them.
//!
//! Not here: files (`state::runs`).

use super::core::Core;
use super::part::Part;
use super::spilled::Spilled;
use super::table::{MERGE_ROWS, Table, part_of};
use super::{Aggregate, Bounds, Merged};
use crate::operator::{OpError, Wrote};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::deltas::{Groups, Runs};
use crate::state::keys::{Key, KeyForm};
use crate::state::runs::{RunFiles, RunRef, RunWriter, entries};
use crate::state::{StateReader, StateWriter};
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use weir_plan::Epoch;

/// A window's groups on disk as they were at a barrier, on their way into its run.
pub(super) struct OnDisk {
    bounds: Bounds,
    spilled: Vec<Spilled>,
    live: bool,
    now_us: i64,
    /// Keys of whole groups that were in memory.
    in_memory: HashSet<Box<[u8]>>,
    /// Once it is their turn.
    merged: Option<Merged>,
}

impl OnDisk {
    /// Writes some more groups; `false` = none is left.
    fn write_more(&mut self, core: &Core, groups: usize, run: &mut RunWriter) -> Result<bool, OpError> {
        let merged = match &mut self.merged {
            Some(merged) => merged,
            None => {
                let merged = Merged::new(core, &self.spilled, &[], self.live, self.now_us)?;
                self.merged.insert(merged)
            }
        };
        let rows_max = groups.clamp(1, MERGE_ROWS);
        let part = merged.next(core, &[], rows_max)?;
        let mut key = Writer::default();
        for group in (0..part.groups.len() as u32).filter(|g| part.counts(*g)) {
            key.0.clear();
            part.groups.key(group).save(&mut key);
            if !self.in_memory.contains(key.0.as_slice()) {
                run.add(|out| {
                    out.i64(self.bounds.0);
                    out.i64(self.bounds.1);
                    part.save(group, out);
                });
            }
        }
        Ok(part.groups.len() == rows_max)
    }
}

/// Keys whose places in the index are asked for before the first of them is looked up.
const KEYS_AHEAD: usize = 64;

/// Blocks of a run that are taken in at once.
const BLOCKS_AT_ONCE: usize = 8;

impl Part {
    /// Groups are about to change.
    #[inline]
    pub fn note(&mut self, bounds: Bounds, groups: &[u32]) {
        let Some(mut changes) = self.changes.take() else { return };
        for group in groups {
            let Ok(()) = changes.note(group, |out| self.put(bounds, *group, out));
        }
        self.changes = Some(changes);
    }

    fn put(&self, bounds: Bounds, group: u32, out: &mut Writer) -> Result<(), Infallible> {
        out.i64(bounds.0);
        out.i64(bounds.1);
        if self.counts(group) {
            self.save(group, out);
        } else {
            self.write(group, out);
        }
        Ok(())
    }

    /// Writes up to so many pending groups; `false` = none is left.
    fn put_pending(&mut self, bounds: Bounds, groups_max: usize) -> bool {
        let Some(mut changes) = self.changes.take() else { return false };
        let Ok(left) = changes.put_pending(groups_max, |group, out| self.put(bounds, group, out));
        self.changes = Some(changes);
        left
    }

    /// What is written of it and not handed on goes along; groups get other numbers.
    pub fn hand_changes(&mut self, to: &mut Part) {
        to.changes = self.changes.take().map(|mut c| {
            c.take_since();
            c
        });
    }

    pub fn changed_since(&self, group: u32) -> bool {
        self.changes.as_ref().is_some_and(|c| c.since().contains(group))
    }

    /// Notes of a group that has moved here what was known of it.
    pub fn note_moved(&mut self, group: u32) {
        if let Some(changes) = &mut self.changes {
            changes.note_moved(&group);
        }
    }

    pub fn track(&mut self) {
        self.changes.get_or_insert_default();
    }
}

impl Table {
    /// All parts note what changes; the first time nothing of them is written yet.
    fn track(&mut self) {
        if self.parts.iter().any(|p| p.changes.is_none()) {
            self.whole_next = true;
            self.parts.iter_mut().for_each(Part::track);
        }
    }

    fn keys_in_memory(&self) -> HashSet<Box<[u8]>> {
        let mut key = Writer::default();
        let mut all = HashSet::new();
        for part in self.pieces() {
            for group in 0..part.groups.len() as u32 {
                key.0.clear();
                part.groups.key(group).save(&mut key);
                all.insert(key.0.as_slice().into());
            }
        }
        all
    }

    fn at_barrier(&mut self, whole: bool) -> bool {
        let mut any = false;
        for part in &mut self.parts {
            let n = part.groups.len();
            let Some(changes) = &mut part.changes else { continue };
            any |= changes.at_barrier(whole.then(|| Groups::all(n)));
        }
        any
    }

    /// Nothing is written of it that is yet to be handed on, and nothing is to be.
    fn forget_pending(&mut self) {
        self.parts.iter_mut().filter_map(|p| p.changes.as_mut()).for_each(|c| c.forget_pending());
    }

    /// Writes all that is pending, before groups get other numbers or go.
    pub fn put_all(&mut self, bounds: Bounds) {
        for part in &mut self.parts {
            part.put_pending(bounds, usize::MAX);
        }
    }

    /// Hands on what is written.
    fn hand_on(&mut self, to: &mut RunWriter) {
        self.parts.iter_mut().filter_map(|p| p.changes.as_mut()).for_each(|c| c.hand_on(to));
    }
}

impl Core {
    /// Whether runs are worth it: one group is not, and groups that age are dealt by turns.
    fn keeps_runs(&self) -> bool {
        self.ttl_us.is_none() && !matches!(self.form, KeyForm::Unit)
    }
}

impl Aggregate {
    /// At a barrier, where files may be written; `false` = state goes into the epoch itself.
    pub(super) fn snapshot_runs(&mut self, into: &mut StateWriter) -> Result<bool, OpError> {
        let Some(to) = into.files().filter(|_| self.core.keeps_runs()) else {
            return Ok(false);
        };
        let epoch = to.1;
        let (core, live) = (self.core.clone(), !self.muted);
        let whole_groups = core.whole_groups(live);
        if whole_groups {
            // Then there is little in memory that lies on disk as well.
            self.spill_again()?;
        }
        let whole = self.runs.must_be_whole(self.groups as u64);
        let mut some = false;
        for (bounds, table) in &mut self.tables {
            table.track();
            let whole = whole || table.whole_next || !table.spilled.is_empty();
            if whole {
                (table.first_run, table.whole_next) = (epoch.0, false);
            }
            some |= table.at_barrier(whole);
            if !table.spilled.is_empty() {
                self.on_disk.push_back(OnDisk {
                    bounds: *bounds,
                    spilled: table.spilled.clone(),
                    live,
                    now_us: self.now_us,
                    in_memory: if whole_groups { table.keys_in_memory() } else { HashSet::new() },
                    merged: None,
                });
                some = true;
            }
        }
        let first = self.tables.values().map(|t| t.first_run).min().unwrap_or(u64::MAX);
        self.runs.keep_from(Epoch(first));
        if some {
            self.runs.begin(to, into);
        } else {
            self.runs.name(into);
        }
        let mut out = Writer::default();
        self.save_head(&mut out);
        out.u64(self.tables.len() as u64);
        for ((end, start), table) in &self.tables {
            out.i64(*end);
            out.i64(*start);
            out.u64(u64::from(table.parts.len() > 1));
            out.u64(table.first_run);
            table.save_old(&core, &mut out)?;
        }
        into.put("windows", out.0);
        Ok(true)
    }

    pub(super) fn write_more(&mut self, groups: usize) -> Result<Wrote, OpError> {
        let Some(run) = self.runs.writer() else { return Ok(Wrote::All) };
        if !run.has_room() {
            return Ok(Wrote::Waits);
        }
        let mut left = false;
        for (bounds, table) in &mut self.tables {
            for part in &mut table.parts {
                // One that has none costs no more than a look.
                left |= part.put_pending(*bounds, groups);
                if left {
                    break;
                }
            }
            table.hand_on(run);
            if left {
                return Ok(Wrote::More);
            }
        }
        if let Some(window) = self.on_disk.front_mut() {
            if !window.write_more(&self.core, groups, run)? {
                self.on_disk.pop_front();
            }
            return Ok(Wrote::More);
        }
        self.runs.finish();
        Ok(Wrote::All)
    }

    /// What parts have written goes to the file; else it would pile up in memory.
    pub(super) fn hand_on(&mut self, bounds: Bounds) {
        if let (Some(run), Some(table)) = (self.runs.writer(), self.tables.get_mut(&bounds)) {
            table.hand_on(run);
        }
    }

    /// Before a window goes, or its groups move: what is pending of it is written.
    pub(super) fn write_pending(&mut self, bounds: Bounds) {
        if !self.runs.is_writing() {
            return;
        }
        if let Some(table) = self.tables.get_mut(&bounds) {
            table.put_all(bounds);
        }
        self.hand_on(bounds);
    }

    /// The same of all windows that end up to then.
    pub(super) fn write_pending_to(&mut self, end: i64) {
        if self.runs.is_writing() {
            let bounds: Vec<Bounds> = self.tables.range(..=(end, i64::MAX)).map(|(b, _)| *b).collect();
            bounds.into_iter().for_each(|b| self.write_pending(b));
        }
    }

    pub(super) fn lose_runs(&mut self) {
        self.runs.lose();
        self.on_disk.clear();
        self.tables.values_mut().for_each(Table::forget_pending);
    }

    /// Takes in what [`Self::snapshot_runs`] and the runs it names say.
    pub(super) fn restore_runs(&mut self, from: &StateReader, head: &[u8]) -> Result<(), OpError> {
        let core = self.core.clone();
        let damaged = |e: Damaged| core.damaged(&e);
        let missing =
            || OpError::Restore { operator: core.name, reason: "its runs are not to be had".into() };
        let mut head = Reader(head);
        self.load_head(&mut head).map_err(damaged)?;
        let mut olds = Vec::new();
        for _ in 0..head.count(40).map_err(damaged)? {
            let bounds = (head.i64().map_err(damaged)?, head.i64().map_err(damaged)?);
            let mut table = Table::new(&core)?;
            if head.u64().map_err(damaged)? == 1 {
                table.share_out(&core, &self.resources)?;
            }
            table.first_run = head.u64().map_err(damaged)?;
            table.parts.iter_mut().for_each(Part::track);
            olds.push((bounds, skip_old(&mut head).map_err(damaged)?));
            self.tables.insert(bounds, table);
        }
        let runs = from.runs().map_err(damaged)?;
        let files = from.files().filter(|_| !runs.is_empty());
        if !runs.is_empty() {
            let files = files.ok_or_else(missing)?;
            for (age, run) in runs.iter().rev().enumerate() {
                self.take_run(files, run, age == 0)?;
            }
        }
        for (bounds, old) in olds {
            let table = self.tables.get_mut(&bounds).expect("put there above");
            table.load_old(&core, &mut Reader(old))?;
        }
        self.runs = Runs::restored(runs);
        for bounds in self.tables.keys().copied().collect::<Vec<_>>() {
            self.account(bounds)?;
        }
        Ok(())
    }

    /// `newest`: no group is there yet that it could name.
    fn take_run(&mut self, files: &RunFiles, run: &RunRef, newest: bool) -> Result<(), OpError> {
        let core = self.core.clone();
        let read = |e: std::io::Error| core.unread(e);
        let mut blocks = files.open(run).map_err(read)?;
        let mut last = false;
        while !last {
            let mut some = Vec::new();
            while some.len() < BLOCKS_AT_ONCE && !last {
                match blocks.next().map_err(read)? {
                    Some(block) => some.push(block),
                    None => last = true,
                }
            }
            let some = Arc::new(some);
            // Each part takes its groups out of all blocks: of a single window on a thread each.
            if let [(bounds, table)] = self.tables.iter_mut().collect::<Vec<_>>().as_mut_slice()
                && table.first_run <= run.epoch
            {
                let (bounds, n) = (**bounds, table.parts.len());
                let jobs: Vec<(usize, Part)> =
                    std::mem::take(&mut table.parts).into_iter().enumerate().collect();
                let done = self.resources.workers.run(jobs, move |(at, mut part)| {
                    let mut taken = Ok(());
                    for block in some.iter() {
                        taken = taken.and_then(|()| part.take_block(block, Some(bounds), (at, n), newest));
                    }
                    (part, taken)
                });
                for (part, taken) in done {
                    table.parts.push(part);
                    taken.map_err(|e| core.damaged(&e))?;
                }
            } else {
                for block in some.iter() {
                    take_windows(&mut self.tables, block, run.epoch, newest).map_err(|e| core.damaged(&e))?;
                }
            }
            self.make_room_restoring(run, newest)?;
        }
        Ok(())
    }

    /// Spills what is restored where there is no room. Only of windows that lie in one run: of others an older
    /// run must see what is there.
    fn make_room_restoring(&mut self, run: &RunRef, newest: bool) -> Result<(), OpError> {
        let Some(space) = self.resources.spill.clone().filter(|_| newest) else { return Ok(()) };
        let core = self.core.clone();
        let bytes = self.tables.values().map(Table::bytes).sum();
        if !self.resources.is_tight(0, bytes) {
            return Ok(());
        }
        for table in self.tables.values_mut().filter(|t| t.first_run == run.epoch && t.can_spill(&core)) {
            table.spill(&core, &space, &self.resources, !self.muted)?;
        }
        Ok(())
    }
}

impl Part {
    /// Takes in those entries that are of this window and part (of so many) and of which nothing newer is known.
    fn take_block(
        &mut self,
        block: &[u8],
        bounds: Option<Bounds>,
        (at, parts): (usize, usize),
        newest: bool,
    ) -> Result<(), Damaged> {
        let mut ahead: Vec<(Key<'_>, u32, Reader<'_>)> = Vec::with_capacity(KEYS_AHEAD);
        for entry in entries(block) {
            let mut from = Reader(entry?);
            let of = (from.i64()?, from.i64()?);
            if bounds.is_some_and(|b| b != of) {
                continue;
            }
            let key = Key::load(&mut from)?;
            let hash = key.hash();
            if part_of(hash, parts) != at {
                continue;
            }
            self.groups.ask_for(hash);
            ahead.push((key, hash, from));
            if ahead.len() == KEYS_AHEAD {
                self.take_keys(&mut ahead, newest)?;
            }
        }
        self.take_keys(&mut ahead, newest)
    }

    fn take_keys(
        &mut self,
        ahead: &mut Vec<(Key<'_>, u32, Reader<'_>)>,
        newest: bool,
    ) -> Result<(), Damaged> {
        for (key, hash, mut from) in ahead.drain(..) {
            if newest || self.groups.find_one(key, hash).is_none() {
                self.merge(key, hash, &mut from)?;
            }
        }
        Ok(())
    }
}

/// Deals entries over windows; of windows that are no longer there nothing is wanted.
fn take_windows(
    tables: &mut BTreeMap<Bounds, Table>,
    block: &[u8],
    epoch: u64,
    newest: bool,
) -> Result<(), Damaged> {
    for entry in entries(block) {
        let mut from = Reader(entry?);
        let bounds = (from.i64()?, from.i64()?);
        let Some(table) = tables.get_mut(&bounds).filter(|t| t.first_run <= epoch) else { continue };
        let key = Key::load(&mut from)?;
        let hash = key.hash();
        let at = part_of(hash, table.parts.len());
        let part = &mut table.parts[at];
        if newest || part.groups.find_one(key, hash).is_none() {
            part.merge(key, hash, &mut from)?;
        }
    }
    Ok(())
}

/// Where the old rows of a window lie in a head; they are taken in after its groups.
fn skip_old<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], Damaged> {
    let all = from.0;
    let n = from.count(1)?;
    for _ in 0..n {
        Key::load(from)?;
    }
    if n > 0 {
        from.bytes()?;
    }
    Ok(&all[..all.len() - from.0.len()])
}
