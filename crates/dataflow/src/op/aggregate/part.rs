//! A share of one window's groups with the states of their aggregates, and what a changelog must
//! remember. One thread at a time works on a part.

use super::expiry::{Ages, Aging};
use crate::agg::Accumulate;
use crate::state::bits::Bits;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::deltas::{Changes, Groups};
use crate::state::keys::Key;
use crate::state::table::GroupTable;
use arrow_array::RecordBatch;
use std::borrow::Cow;
use std::collections::BTreeMap;

pub(super) struct Part {
    pub groups: GroupTable,
    pub states: Vec<Box<dyn Accumulate>>,
    /// The word that says how many rows a group has, where it can be none.
    pub weight: Option<usize>,
    /// Of a changelog: groups that were told, whose old row must be taken back when they change.
    pub told: Bits,
    /// The old rows of groups that changed since: batch and row.
    pub old: BTreeMap<u32, (usize, usize)>,
    pub old_batches: Vec<RecordBatch>,
    /// Groups that came back from disk, where what they were still lies.
    pub loaded: Bits,
    loaded_groups: usize,
    /// So many groups are worth looking for those that no row is left of.
    pub tidy_at: usize,
    /// Where checkpoints say what changed.
    pub changes: Option<Box<Changes<Groups>>>,
    /// Where keys are forgotten.
    pub aging: Option<Box<Aging>>,
    /// What it takes before there are groups, and when they are on disk.
    pub own_bytes: usize,
}

/// Of a part, what its small blocks take on the heap besides what they hold (measured: a third of what a
/// window with one group takes, 1.3 KB).
const SMALL_BLOCKS_BYTES: usize = 480;
const TOLD: u8 = 1;
const CHANGED: u8 = 2;
/// No row is left of it; nothing follows.
const GONE: u8 = 4;

impl Part {
    pub fn new(
        groups: GroupTable,
        states: Vec<Box<dyn Accumulate>>,
        weight: Option<usize>,
        ages: Option<Ages>,
    ) -> Self {
        let of_states = states.iter().map(|s| size_of_val(&**s) + size_of_val(s)).sum::<usize>();
        Part {
            own_bytes: size_of::<Part>() + of_states + groups.rows.width() * 8 + SMALL_BLOCKS_BYTES,
            groups,
            states,
            weight,
            told: Bits::default(),
            old: BTreeMap::new(),
            old_batches: Vec::new(),
            loaded: Bits::default(),
            loaded_groups: 0,
            tidy_at: 0,
            changes: None,
            aging: ages.map(|ages| Box::new(Aging::new(ages))),
        }
    }

    /// Groups of which nothing lies on disk.
    pub fn new_groups(&self) -> usize {
        self.groups.len() - self.loaded_groups
    }

    /// Groups that may go to disk: those that changed are told of first.
    pub fn at_rest(&self) -> usize {
        self.groups.len() - self.groups.changed().len()
    }

    /// Whether anybody needs to know of a group: it has rows, or is yet to be told of.
    pub fn counts(&self, group: u32) -> bool {
        self.lives(group) || self.groups.is_changed(group)
    }

    /// Whether a group has rows. Without keys there is one result, of no rows too.
    pub fn lives(&self, group: u32) -> bool {
        let rows = &self.groups.rows;
        if let Some(aging) = &self.aging {
            return aging.keeps(rows, group);
        }
        self.weight.is_none_or(|at| rows.word(group, at) > 0) || self.groups.is_unit()
    }

    /// Those of groups that live.
    pub fn living<'a>(&self, groups: &'a [u32]) -> Cow<'a, [u32]> {
        match (self.weight, &self.aging) {
            (None, None) => Cow::Borrowed(groups),
            _ => groups.iter().copied().filter(|g| self.lives(*g)).collect::<Vec<_>>().into(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.own_bytes
            + self.groups.bytes()
            + self.states.iter().map(|s| s.bytes()).sum::<usize>()
            + self.told.bytes()
            + self.loaded.bytes()
            + self.old.len() * 32
            + self.old_batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>()
            + self.changes.as_ref().map_or(0, |c| c.bytes())
            + self.aging.as_ref().map_or(0, |a| a.bytes())
    }

    /// Writes one group down, with its key.
    pub fn save(&self, group: u32, out: &mut Writer) {
        self.groups.key(group).save(out);
        let told = if self.told.contains(group) { TOLD } else { 0 };
        out.u8(told | if self.groups.is_changed(group) { CHANGED } else { 0 });
        if let Some(at) = self.weight {
            out.u64(self.groups.rows.word(group, at));
        }
        if let Some(aging) = &self.aging {
            aging.ages.save(&self.groups.rows, group, out);
        }
        self.states.iter().for_each(|s| s.save(&self.groups.rows, group, out));
    }

    /// As it lies on disk: of a group without rows no more than that it is gone.
    pub fn write(&self, group: u32, out: &mut Writer) {
        if self.lives(group) {
            return self.save(group, out);
        }
        self.groups.key(group).save(out);
        out.u8(GONE);
    }

    /// Whether what follows a key says that it is gone.
    pub fn is_gone(from: &Reader<'_>) -> bool {
        from.0.first().is_some_and(|flags| flags & GONE != 0)
    }

    /// Takes in what followed a key in what [`Self::save`] or [`Self::write`] wrote.
    pub fn merge(&mut self, key: Key<'_>, hash: u32, from: &mut Reader<'_>) -> Result<u32, Damaged> {
        let group = self.groups.intern_one(key, hash).map_err(|_| Damaged("too many keys"))?;
        let flags = from.u8()?;
        if flags & GONE != 0 {
            return Ok(group);
        }
        if flags & TOLD != 0 {
            self.told.insert(group);
        }
        if flags & CHANGED != 0 {
            self.groups.mark(&[group]);
        }
        if let Some(at) = self.weight {
            let word = self.groups.rows.word_mut(group, at);
            *word = word.wrapping_add(from.u64()?);
        }
        if let Some(aging) = &self.aging {
            aging.ages.merge(&mut self.groups.rows, group, from)?;
        }
        for state in &mut self.states {
            state.merge(&mut self.groups.rows, group, from)?;
        }
        Ok(group)
    }

    /// Notes that something of a group lies on disk.
    pub fn came_back(&mut self, group: u32) {
        self.loaded_groups += usize::from(self.loaded.insert(group));
    }

    /// Moves some groups into a new part, in this order; the others are dropped.
    pub fn keep(self, groups: &[u32], into: &mut Part) -> Result<(), Damaged> {
        let mut one = Writer::default();
        for group in groups {
            one.0.clear();
            self.save(*group, &mut one);
            let mut from = Reader(&one.0);
            let key = Key::load(&mut from)?;
            let new = into.merge(key, key.hash(), &mut from)?;
            if self.loaded.contains(*group) {
                into.came_back(new);
            }
            if let Some(place) = self.old.get(group) {
                into.old.insert(new, *place);
            }
        }
        into.old_batches = self.old_batches;
        Ok(())
    }
}
