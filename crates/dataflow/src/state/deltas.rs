//! Checkpoints by what changed: which things of an operator did since the last barrier, which of them are
//! still to be written as they were at it, and the runs in which all of them lie.
//!
//! ```text
//! barrier -> what changed since the last one is pending, a run is begun
//! a thing is about to change -> if pending it is written first; it has changed since this barrier
//! between batches -> some more of the pending ones
//! none is pending -> the run is complete
//! ```
//!
//! Not here: what a thing is and how it is written (operators), files (`runs`), groups that spill (`keyed`).

use super::bits::Bits;
use super::bytes::{Damaged, Reader, Writer};
use super::runs::{RunFiles, RunRef, RunWriter, entries, frame};
use super::{StateReader, StateWriter};
use crate::operator::{OpError, Wrote};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;
use weir_plan::{Epoch, NodeId};

/// Runs of one operator; many more would make a restart slow.
const RUNS_MAX: usize = 256;
/// Bytes of runs that are never too many.
const RUNS_BYTES_FEW: u64 = 4 << 20;

/// A set of things of an operator.
pub(crate) trait Things: Default {
    type Id;

    fn insert(&mut self, id: &Self::Id);
    /// Whether it was there.
    fn remove(&mut self, id: &Self::Id) -> bool;
    /// Removes and gives one. Nothing is inserted any more once this was asked.
    fn take_next(&mut self) -> Option<Self::Id>;
    fn is_empty(&self) -> bool;
    fn bytes(&self) -> usize;
}

/// Groups of a table by number.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    bits: Bits,
    /// None is left before this word.
    word: usize,
}

impl Groups {
    /// All below `n`.
    pub fn all(n: usize) -> Self {
        Groups { bits: Bits::all(n), word: 0 }
    }

    pub fn contains(&self, group: u32) -> bool {
        self.bits.contains(group)
    }
}

impl Things for Groups {
    type Id = u32;

    #[inline]
    fn insert(&mut self, group: &u32) {
        self.bits.insert(*group);
    }

    #[inline]
    fn remove(&mut self, group: &u32) -> bool {
        self.bits.remove(*group)
    }

    fn take_next(&mut self) -> Option<u32> {
        self.bits.take_next(&mut self.word)
    }

    fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    fn bytes(&self) -> usize {
        self.bits.bytes()
    }
}

/// What a thing is called.
pub(crate) trait Name: Ord + Clone {
    fn save(&self, out: &mut Writer);
    fn load(from: &mut Reader<'_>) -> Result<Self, Damaged>;
}

/// The bytes are shared with who holds the thing.
impl Name for Arc<[u8]> {
    fn save(&self, out: &mut Writer) {
        out.bytes(self);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(from.bytes()?.into())
    }
}

impl Name for u32 {
    fn save(&self, out: &mut Writer) {
        out.u32(*self);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        from.u32()
    }
}

impl<N: Name> Things for BTreeSet<N> {
    type Id = N;

    fn insert(&mut self, id: &N) {
        if !self.contains(id) {
            BTreeSet::insert(self, id.clone());
        }
    }

    fn remove(&mut self, id: &N) -> bool {
        BTreeSet::remove(self, id)
    }

    fn take_next(&mut self) -> Option<N> {
        self.pop_first()
    }

    fn is_empty(&self) -> bool {
        BTreeSet::is_empty(self)
    }

    /// Nodes of the tree are two thirds full.
    fn bytes(&self) -> usize {
        self.len() * size_of::<N>() * 3 / 2
    }
}

/// What must be said of things at the next barrier, and what has not been said yet of the last one.
#[derive(Debug, Default)]
pub(crate) struct Changes<S> {
    since: S,
    pending: S,
    is_pending: bool,
    /// Written, and not yet handed on.
    out: Writer,
    entries: u64,
}

impl<S: Things> Changes<S> {
    /// A thing is about to change. `put` writes it as it is, where it is still to be written.
    #[inline]
    pub fn note<E>(&mut self, id: &S::Id, put: impl FnOnce(&mut Writer) -> Result<(), E>) -> Result<(), E> {
        self.since.insert(id);
        if self.is_pending && self.pending.remove(id) { self.put(put) } else { Ok(()) }
    }

    /// A thing that has another name now had changed already.
    pub fn note_moved(&mut self, id: &S::Id) {
        self.since.insert(id);
    }

    fn put<E>(&mut self, put: impl FnOnce(&mut Writer) -> Result<(), E>) -> Result<(), E> {
        let mut done = Ok(());
        frame(&mut self.out, |out| done = put(out));
        self.entries += 1;
        done
    }

    /// Writes up to so many pending things; `false` = none is left.
    pub fn put_pending<E>(
        &mut self,
        things_max: usize,
        mut put: impl FnMut(S::Id, &mut Writer) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut n = 0;
        while self.is_pending && n < things_max {
            match self.pending.take_next() {
                Some(id) => self.put(|out| put(id, out))?,
                None => (self.is_pending, self.pending) = (false, S::default()),
            }
            n += 1;
        }
        Ok(self.is_pending)
    }

    /// What changed since the last barrier is pending, or `all` there is; whether that is anything.
    pub fn at_barrier(&mut self, all: Option<S>) -> bool {
        let since = std::mem::take(&mut self.since);
        self.pending = all.unwrap_or(since);
        self.is_pending = !self.pending.is_empty();
        self.is_pending
    }

    pub fn since(&self) -> &S {
        &self.since
    }

    /// Things have other names from now on, of which nothing has changed since the last barrier. What is
    /// written stays to be handed on.
    pub fn take_since(&mut self) -> S {
        debug_assert!(!self.is_pending, "written before things move");
        std::mem::take(&mut self.since)
    }

    /// Nothing is to be written of the last barrier, nor handed on.
    pub fn forget_pending(&mut self) {
        (self.is_pending, self.pending, self.entries) = (false, S::default(), 0);
        self.out.0 = Vec::new();
    }

    /// Hands on what is written.
    pub fn hand_on(&mut self, to: &mut RunWriter) {
        if self.entries > 0 {
            to.add_framed(&self.out.0, std::mem::take(&mut self.entries));
            self.out.0.clear();
            self.out.0.shrink_to(1 << 20);
        }
    }

    pub fn bytes(&self) -> usize {
        self.since.bytes() + self.pending.bytes() + self.out.0.capacity()
    }
}

/// The runs of an operator.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    all: Vec<RunRef>,
    /// Being written, and who is told when it is complete.
    writing: Option<(RunWriter, oneshot::Sender<RunRef>)>,
    /// The last one was not completed.
    lost: bool,
}

impl Runs {
    /// Those that a restored state lies in.
    pub fn restored(all: Vec<RunRef>) -> Self {
        Runs { all, ..Runs::default() }
    }

    /// The one that is being written.
    pub fn writer(&mut self) -> Option<&mut RunWriter> {
        self.writing.as_mut().map(|(run, _)| run)
    }

    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether the next one must say everything: the last was not completed, or they hold so much more than
    /// there is (`things`) that one of everything is better. Asked once a barrier.
    pub fn must_be_whole(&mut self, things: u64) -> bool {
        let bytes: u64 = self.all.iter().map(|r| r.bytes).sum();
        let entries: u64 = self.all.iter().map(|r| r.entries).sum();
        // Bytes of compressed entries and of others tell little of each other.
        let few = RUNS_BYTES_FEW * entries / bytes.max(1);
        let too_much = self.all.len() >= RUNS_MAX || entries > few + 2 * things;
        std::mem::take(&mut self.lost) || too_much
    }

    /// What older ones say is over.
    pub fn keep_from(&mut self, first: Epoch) {
        self.all.retain(|r| r.epoch >= first.0);
    }

    /// Begins a run; the state lies in it and those before.
    pub fn begin(&mut self, (files, epoch, node): (RunFiles, Epoch, NodeId), into: &mut StateWriter) {
        let (run, written) = files.begin(epoch, node);
        let (ends, end) = oneshot::channel();
        self.writing = Some((run, ends));
        into.put_runs(self.all.clone(), Some((written, end)));
    }

    /// Nothing has changed: the state lies in those there are.
    pub fn name(&self, into: &mut StateWriter) {
        into.put_runs(self.all.clone(), None);
    }

    /// The one that is being written is complete.
    pub fn finish(&mut self) {
        if let Some((run, ends)) = self.writing.take() {
            let run = run.finish();
            self.all.push(run.clone());
            // Who waited may have given up.
            let _ = ends.send(run);
        }
    }

    pub fn lose(&mut self) {
        (self.writing, self.lost) = (None, true);
    }
}

/// Reads the runs that a state lies in, the newest first, block by block.
///
/// # Errors
/// [`OpError::Read`], [`OpError::Restore`], and what `take` says.
pub(crate) fn read_runs(
    operator: &'static str,
    from: &StateReader,
    mut take: impl FnMut(&[u8]) -> Result<(), OpError>,
) -> Result<Vec<RunRef>, OpError> {
    let restore = |reason: String| OpError::Restore { operator, reason };
    let runs = from.runs().map_err(|e| restore(e.to_string()))?;
    let missing = || restore("its runs are not to be had".into());
    for run in runs.iter().rev() {
        let files = from.files().ok_or_else(missing)?;
        let read = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
                restore(e.to_string())
            }
            _ => OpError::Read { operator, source: e },
        };
        let mut blocks = files.open(run).map_err(read)?;
        while let Some(block) = blocks.next().map_err(read)? {
            take(&block)?;
        }
    }
    Ok(runs)
}

/// What of changed things is written where.
#[derive(Debug)]
pub(crate) struct Noted<S> {
    pub runs: Runs,
    /// `None` = no barrier has asked for what changed.
    pub changes: Option<Changes<S>>,
}

impl<S> Default for Noted<S> {
    fn default() -> Self {
        Noted { runs: Runs::default(), changes: None }
    }
}

impl<S: Things> Noted<S> {
    /// As a restart finds it.
    pub fn restored(runs: Vec<RunRef>) -> Self {
        Noted { runs: Runs::restored(runs), changes: Some(Changes::default()) }
    }

    pub fn bytes(&self) -> usize {
        self.changes.as_ref().map_or(0, Changes::bytes)
    }

    /// Things written before they changed go to the file; else they would pile up.
    pub fn hand_on(&mut self) {
        if let (Some(changes), Some(run)) = (&mut self.changes, self.runs.writer()) {
            changes.hand_on(run);
        }
    }

    pub fn lose(&mut self) {
        self.runs.lose();
        self.changes.iter_mut().for_each(Changes::forget_pending);
    }
}

/// Things by name, for an operator that knows of all of them in memory.
///
/// entry = name, then 1 and what the operator writes of the thing, or 0: it is gone
#[derive(Debug)]
pub(crate) struct Named<N: Name> {
    noted: Noted<BTreeSet<N>>,
    /// Names mean other things than they did.
    whole_next: bool,
}

impl<N: Name> Default for Named<N> {
    fn default() -> Self {
        Named { noted: Noted::default(), whole_next: false }
    }
}

fn put_thing<N: Name, E>(
    name: &N,
    out: &mut Writer,
    put: impl FnOnce(&mut Writer) -> Result<bool, E>,
) -> Result<(), E> {
    name.save(out);
    let at = out.0.len();
    out.u8(1);
    if !put(out)? {
        out.0.truncate(at);
        out.u8(0);
    }
    Ok(())
}

impl<N: Name> Named<N> {
    pub fn bytes(&self) -> usize {
        self.noted.bytes()
    }

    /// A thing is about to change, come or go. `put` writes it as it is and says whether it is there.
    #[inline]
    pub fn note<E>(&mut self, name: &N, put: impl FnOnce(&mut Writer) -> Result<bool, E>) -> Result<(), E> {
        match &mut self.noted.changes {
            None => Ok(()),
            Some(changes) => changes.note(name, |out| put_thing(name, out, put)),
        }
    }

    /// See [`Noted::hand_on`].
    pub fn hand_on(&mut self) {
        self.noted.hand_on();
    }

    /// Things are about to get other names: what is pending is written, and the next run says all there is.
    pub fn rename<E>(&mut self, mut put: impl FnMut(&N, &mut Writer) -> Result<bool, E>) -> Result<(), E> {
        if let Some(changes) = &mut self.noted.changes {
            changes.put_pending(usize::MAX, |name, out| put_thing(&name, out, |out| put(&name, out)))?;
            changes.take_since();
        }
        self.whole_next = true;
        self.hand_on();
        Ok(())
    }

    /// At a barrier; `false` = nothing may be written to files. `all` gives the names there are (`things`).
    pub fn snapshot(
        &mut self,
        into: &mut StateWriter,
        things: u64,
        all: impl FnOnce() -> BTreeSet<N>,
    ) -> bool {
        let Some(to) = into.files() else { return false };
        let anew = std::mem::take(&mut self.whole_next) || self.noted.changes.is_none();
        let whole = self.noted.runs.must_be_whole(things) || anew;
        if whole {
            self.noted.runs.keep_from(to.1);
        }
        let changes = self.noted.changes.get_or_insert_default();
        if changes.at_barrier(whole.then(all)) {
            self.noted.runs.begin(to, into);
        } else {
            self.noted.runs.name(into);
        }
        true
    }

    /// `put` as in [`Self::note`].
    pub fn write_more<E>(
        &mut self,
        things_max: usize,
        mut put: impl FnMut(&N, &mut Writer) -> Result<bool, E>,
    ) -> Result<Wrote, E> {
        let (Some(run), Some(changes)) = (self.noted.runs.writer(), &mut self.noted.changes) else {
            return Ok(Wrote::All);
        };
        if !run.has_room() {
            return Ok(Wrote::Waits);
        }
        let put = |name: N, out: &mut Writer| put_thing(&name, out, |out| put(&name, out));
        let left = changes.put_pending(things_max, put)?;
        changes.hand_on(run);
        if left {
            return Ok(Wrote::More);
        }
        self.noted.runs.finish();
        Ok(Wrote::All)
    }

    pub fn lose(&mut self) {
        self.noted.lose();
    }

    /// Gives each thing that is there in a state, once; knows then what it lies in.
    ///
    /// # Errors
    /// As [`read_runs`].
    pub fn restore(
        &mut self,
        operator: &'static str,
        from: &StateReader,
        mut take: impl FnMut(N, &mut Reader<'_>) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let damaged = |e: Damaged| OpError::Restore { operator, reason: e.to_string() };
        let mut seen: BTreeSet<N> = BTreeSet::new();
        let runs = read_runs(operator, from, |block| {
            for entry in entries(block) {
                let mut entry = Reader(entry.map_err(damaged)?);
                let name = N::load(&mut entry).map_err(damaged)?;
                let there = entry.u8().map_err(damaged)? == 1;
                if seen.insert(name.clone()) && there {
                    take(name, &mut entry)?;
                }
            }
            Ok(())
        })?;
        self.noted = Noted::restored(runs);
        Ok(())
    }
}
