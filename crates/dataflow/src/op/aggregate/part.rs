//! A share of one window's groups with the states of their aggregates, and what a changelog must
//! remember. One thread at a time works on a part.

use super::expiry::{Ages, Aging};
use crate::agg::Accumulate;
use crate::state::bits::Bits;
use crate::state::bytes::{Damaged, Reader, Writer};
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
    /// Where keys are forgotten.
    pub aging: Option<Box<Aging>>,
}

const TOLD: u8 = 1;
const CHANGED: u8 = 2;

impl Part {
    pub fn new(
        groups: GroupTable,
        states: Vec<Box<dyn Accumulate>>,
        weight: Option<usize>,
        ages: Option<Ages>,
    ) -> Self {
        Part {
            groups,
            states,
            weight,
            told: Bits::default(),
            old: BTreeMap::new(),
            old_batches: Vec::new(),
            aging: ages.map(|ages| Box::new(Aging::new(ages))),
        }
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
        self.groups.bytes()
            + self.states.iter().map(|s| s.bytes()).sum::<usize>()
            + self.told.bytes()
            + self.old.len() * 32
            + self.old_batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>()
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

    /// Takes in what followed a key in what [`Self::save`] wrote.
    pub fn merge(&mut self, key: Key<'_>, hash: u32, from: &mut Reader<'_>) -> Result<u32, Damaged> {
        let group = self.groups.intern_one(key, hash).map_err(|_| Damaged("too many keys"))?;
        let flags = from.u8()?;
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
}
