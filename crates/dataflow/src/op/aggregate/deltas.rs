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
//! What was spilled is written down whole, and the query waits for it. Not here: files (`state::runs`).

use super::core::Core;
use super::part::Part;
use super::table::{MERGE_ROWS, Table, part_of};
use super::{Aggregate, Bounds, Merged};
use crate::operator::{OpError, Wrote};
use crate::state::bits::Bits;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::{Key, KeyForm};
use crate::state::runs::{RunFiles, RunRef, RunWriter, entries, frame};
use crate::state::{StateReader, StateWriter};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Runs of one operator; many more would make a restart slow.
const RUNS_MAX: usize = 256;
/// Bytes of runs that are never too many.
const RUNS_BYTES_FEW: u64 = 4 << 20;
/// Blocks of a run that are taken in at once.
const BLOCKS_AT_ONCE: usize = 8;

/// What a part must say at the next barrier, and what it has not said yet of the last one.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Changed since the last barrier.
    since: Bits,
    /// To be written as they are, and from which word of them on.
    pending: Bits,
    word: usize,
    is_pending: bool,
    /// Written, and not yet handed on.
    out: Writer,
    entries: u64,
}

impl Changes {
    pub fn bytes(&self) -> usize {
        size_of::<Changes>() + self.since.bytes() + self.pending.bytes() + self.out.0.capacity()
    }
}

impl Part {
    /// Groups are about to change.
    #[inline]
    pub fn note(&mut self, bounds: Bounds, groups: &[u32]) {
        let Some(mut changes) = self.changes.take() else { return };
        if changes.is_pending {
            for group in groups {
                if changes.pending.remove(*group) {
                    self.put(bounds, *group, &mut changes);
                }
            }
        }
        for group in groups {
            changes.since.insert(*group);
        }
        self.changes = Some(changes);
    }

    fn put(&self, bounds: Bounds, group: u32, changes: &mut Changes) {
        frame(&mut changes.out, |out| {
            out.i64(bounds.0);
            out.i64(bounds.1);
            if self.counts(group) {
                self.save(group, out);
            } else {
                self.write(group, out);
            }
        });
        changes.entries += 1;
    }

    /// Writes up to so many pending groups; `false` = none is left.
    fn put_pending(&mut self, bounds: Bounds, groups_max: usize) -> bool {
        let Some(mut changes) = self.changes.take() else { return false };
        let mut n = 0;
        while changes.is_pending && n < groups_max {
            let Changes { pending, word, .. } = &mut *changes;
            match pending.take_next(word) {
                Some(group) => self.put(bounds, group, &mut changes),
                None => (changes.is_pending, changes.pending) = (false, Bits::default()),
            }
            n += 1;
        }
        let left = changes.is_pending;
        self.changes = Some(changes);
        left
    }

    /// What is written of it and not handed on goes along; groups get other numbers.
    pub fn hand_changes(&mut self, to: &mut Part) {
        to.changes = self.changes.take().map(|mut c| {
            debug_assert!(!c.is_pending, "written before groups move");
            c.since = Bits::default();
            c
        });
    }

    pub fn changed_since(&self, group: u32) -> bool {
        self.changes.as_ref().is_some_and(|c| c.since.contains(group))
    }

    /// Notes of a group that has moved here what was known of it.
    pub fn note_moved(&mut self, group: u32) {
        if let Some(changes) = &mut self.changes {
            changes.since.insert(group);
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

    fn at_barrier(&mut self, whole: bool) -> bool {
        let mut any = false;
        for part in &mut self.parts {
            let n = part.groups.len();
            let Some(changes) = &mut part.changes else { continue };
            let since = std::mem::take(&mut changes.since);
            changes.pending = if whole { Bits::all(n) } else { since };
            (changes.word, changes.is_pending) = (0, n > 0);
            any |= n > 0;
        }
        any
    }

    /// Nothing is written of it that is yet to be handed on, and nothing is to be.
    fn forget_pending(&mut self) {
        for changes in self.parts.iter_mut().filter_map(|p| p.changes.as_mut()) {
            (changes.is_pending, changes.pending, changes.entries) = (false, Bits::default(), 0);
            changes.out.0 = Vec::new();
        }
    }

    /// Writes all that is pending, before groups get other numbers or go.
    pub fn put_all(&mut self, bounds: Bounds) {
        for part in &mut self.parts {
            part.put_pending(bounds, usize::MAX);
        }
    }

    /// Hands on what is written.
    fn hand_on(&mut self, to: &mut RunWriter) {
        for changes in self.parts.iter_mut().filter_map(|p| p.changes.as_mut()).filter(|c| c.entries > 0) {
            to.add_framed(&changes.out.0, std::mem::take(&mut changes.entries));
            changes.out.0.clear();
            changes.out.0.shrink_to(1 << 20);
        }
    }
}

/// The runs of an aggregation.
#[derive(Debug, Default)]
pub(super) struct Runs {
    all: Vec<RunRef>,
    /// Being written, and who is told when it is complete.
    writing: Option<(RunWriter, oneshot::Sender<RunRef>)>,
    /// The last one was not completed.
    lost: bool,
}

impl Runs {
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether runs hold so much more than there is that one of everything is better.
    fn are_too_much(&self, groups: u64) -> bool {
        let bytes: u64 = self.all.iter().map(|r| r.bytes).sum();
        let entries: u64 = self.all.iter().map(|r| r.entries).sum();
        let of_all = bytes / entries.max(1) * groups;
        self.all.len() >= RUNS_MAX || bytes > RUNS_BYTES_FEW + 2 * of_all
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
        let Some((files, epoch, node)) = into.files().filter(|_| self.core.keeps_runs()) else {
            return Ok(false);
        };
        let core = self.core.clone();
        let whole = std::mem::take(&mut self.runs.lost) || self.runs.are_too_much(self.groups as u64);
        let mut some = false;
        for table in self.tables.values_mut() {
            table.track();
            let whole = whole || table.whole_next || !table.spilled.is_empty();
            if whole {
                (table.first_run, table.whole_next) = (epoch.0, false);
            }
            if table.spilled.is_empty() {
                some |= table.at_barrier(whole);
            } else {
                table.at_barrier(false);
                table.forget_pending();
                some = true;
            }
        }
        let first = self.tables.values().map(|t| t.first_run).min().unwrap_or(u64::MAX);
        self.runs.all.retain(|r| r.epoch >= first);
        let before = self.runs.all.clone();
        if some {
            let (mut run, written) = files.begin(epoch, node);
            for (bounds, table) in self.tables.iter().filter(|(_, t)| !t.spilled.is_empty()) {
                write_spilled(&core, *bounds, table, !self.muted, self.now_us, &mut run)?;
            }
            let (ends, end) = oneshot::channel();
            self.runs.writing = Some((run, ends));
            into.put_runs(before, Some((written, end)));
        } else {
            into.put_runs(before, None);
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

    pub(super) fn write_more(&mut self, groups: usize) -> Wrote {
        let Some((run, _)) = &mut self.runs.writing else { return Wrote::All };
        if !run.has_room() {
            return Wrote::Waits;
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
                return Wrote::More;
            }
        }
        if let Some((run, ends)) = self.runs.writing.take() {
            let run = run.finish();
            self.runs.all.push(run.clone());
            // Who waited may have given up.
            let _ = ends.send(run);
        }
        Wrote::All
    }

    /// What parts have written goes to the file; else it would pile up in memory.
    pub(super) fn hand_on(&mut self, bounds: Bounds) {
        if let (Some((run, _)), Some(table)) = (&mut self.runs.writing, self.tables.get_mut(&bounds)) {
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
        self.runs.writing = None;
        self.runs.lost = true;
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
        self.runs.all = runs;
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
        for entry in entries(block) {
            let mut from = Reader(entry?);
            let of = (from.i64()?, from.i64()?);
            if bounds.is_some_and(|b| b != of) {
                continue;
            }
            let key = Key::load(&mut from)?;
            let hash = key.hash();
            if part_of(hash, parts) == at && (newest || self.groups.find_one(key, hash).is_none()) {
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

/// All of a window that was spilled.
fn write_spilled(
    core: &Core,
    bounds: Bounds,
    table: &Table,
    live: bool,
    now_us: i64,
    run: &mut RunWriter,
) -> Result<(), OpError> {
    let pieces = table.pieces();
    let mut merged = Merged::new(core, &table.spilled, &pieces, live, now_us)?;
    loop {
        let part = merged.next(core, &pieces, MERGE_ROWS)?;
        let groups = part.groups.len();
        for group in (0..groups as u32).filter(|g| part.counts(*g)) {
            run.add(|out| {
                out.i64(bounds.0);
                out.i64(bounds.1);
                part.save(group, out);
            });
        }
        if groups < MERGE_ROWS {
            return Ok(());
        }
    }
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
