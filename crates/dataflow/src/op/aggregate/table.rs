//! One window's groups: in one part as long as they are few, then in as many as there are threads,
//! dealt by hash of the key. How they are dealt changes no result.
//!
//! Not here: what of them lies on disk (`spilled`).

use super::Bounds;
use super::core::Core;
use super::merged::Merged;
use super::part::Part;
use super::spilled::Spilled;
use crate::operator::OpError;
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::{Key, KeyForm};
use crate::state::spill::{RunReader, SpillSpace};
use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;
use std::sync::Arc;
use weir_sketch::Hll;

pub(super) struct Table {
    pub parts: Vec<Part>,
    /// A key may be in several and in memory.
    pub spilled: Vec<Spilled>,
    /// Keys of whole groups on disk.
    pub spilled_keys: i64,
    /// Keys of shares on disk.
    pub shares: Hll,
    /// Keys that were forgotten on disk, and are not counted yet.
    pub expired: u64,
    /// The epoch of the first run that says anything of it; the next one says all.
    pub first_run: u64,
    pub whole_next: bool,
    /// What was last reported as held.
    pub held_bytes: usize,
    pub held_groups: usize,
}

/// The part of a key, of so many.
#[inline]
pub(super) fn part_of(hash: u32, parts: usize) -> usize {
    ((u64::from(hash) * parts as u64) >> 32) as usize
}

/// Of a window by itself, in a tree whose nodes are two thirds full.
const TABLE_BYTES: usize = (size_of::<Table>() + 2 * size_of::<i64>()) * 3 / 2;
/// Groups in memory while runs become one.
pub(super) const MERGE_ROWS: usize = 4_096;
/// Groups that are restored before memory is looked at.
const RESTORE_ROWS: usize = 1_024;

impl Table {
    pub fn new(core: &Core) -> Result<Self, OpError> {
        Ok(Table {
            parts: vec![core.new_part()?],
            spilled: Vec::new(),
            spilled_keys: 0,
            shares: Hll::default(),
            expired: 0,
            first_run: 0,
            whole_next: false,
            held_bytes: 0,
            held_groups: 0,
        })
    }

    /// Keys in memory and on disk; of shares on disk about so many, and none where they are forgotten.
    pub fn keys(&self, core: &Core, live: bool) -> usize {
        if core.whole_groups(live) {
            let new: usize = self.parts.iter().map(Part::new_groups).sum();
            return (self.spilled_keys + new as i64).max(0) as usize;
        }
        let groups: usize = self.parts.iter().map(Part::held).sum();
        let counted = !self.spilled.is_empty() && core.ttl_us.is_none();
        if counted { groups.max(self.shares.count() as usize) } else { groups }
    }

    /// Bytes of groups in memory: what is free when they are on disk.
    pub fn group_bytes(&self) -> usize {
        self.parts.iter().map(|p| p.bytes() - p.own_bytes).sum()
    }

    /// Bytes of groups that are yet to be told of, about.
    pub fn changed_bytes(&self) -> usize {
        let of_part = |p: &Part| p.bytes() / p.groups.len().max(1) * p.groups.changed().len();
        self.parts.iter().map(of_part).sum()
    }

    pub fn bytes(&self) -> usize {
        TABLE_BYTES
            + self.parts.iter().map(Part::bytes).sum::<usize>()
            + self.spilled.iter().map(|s| s.run.memory_bytes()).sum::<usize>()
    }

    /// Deals the groups over threads once there are many.
    pub fn divide(&mut self, bounds: Bounds, core: &Core, resources: &Resources) -> Result<(), OpError> {
        let few = self.parts.len() > 1 || self.parts[0].groups.len() <= resources.divide_groups;
        // Old rows that wait to be taken back stay where they are until they have left.
        let waits = self.pieces().iter().any(|p| !p.old.is_empty());
        if few || resources.threads < 2 || waits || matches!(core.form, KeyForm::Unit) {
            return Ok(());
        }
        self.put_all(bounds);
        let mut whole = self.parts.pop().expect("there is one");
        let noted: Vec<bool> = (0..whole.groups.len() as u32).map(|g| whole.changed_since(g)).collect();
        self.share_out(core, resources)?;
        if whole.changes.is_some() {
            self.parts.iter_mut().for_each(Part::track);
            whole.hand_changes(&mut self.parts[0]);
        }
        let mut one = Writer::default();
        for group in 0..whole.groups.len() as u32 {
            one.0.clear();
            whole.save(group, &mut one);
            let (part, new) = self.take(&mut Reader(&one.0)).map_err(|e| core.damaged(&e))?;
            if whole.loaded.contains(group) {
                self.parts[part].came_back(new);
            }
            if noted[group as usize] {
                self.parts[part].note_moved(new);
            }
        }
        self.divide_aging(core, &whole)
    }

    /// As many empty parts as there are threads.
    pub fn share_out(&mut self, core: &Core, resources: &Resources) -> Result<(), OpError> {
        self.parts = (0..resources.threads).map(|_| core.new_part()).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Takes one saved group in; gives its part and number there.
    pub fn take(&mut self, from: &mut Reader<'_>) -> Result<(usize, u32), Damaged> {
        let key = Key::load(from)?;
        let hash = key.hash();
        let part = part_of(hash, self.parts.len());
        Ok((part, self.parts[part].merge(key, hash, from)?))
    }

    pub fn save(&self, core: &Core, live: bool, out: &mut Writer) -> Result<(), OpError> {
        out.u64(u64::from(self.parts.len() > 1));
        // How many there are is known in the end.
        let (at, mut n) = (out.0.len(), 0u64);
        out.u64(0);
        let pieces = self.pieces();
        // Each key once where who reads it would take what is over for what is.
        if (core.looks_up() || core.ttl_us.is_some()) && !self.spilled.is_empty() {
            let now_us = self.parts.first().map_or(i64::MIN, Part::now_us);
            let mut merged = Merged::new(core, &self.spilled, &pieces, live, now_us)?;
            loop {
                let part = merged.next(core, &pieces, MERGE_ROWS)?;
                let groups = part.groups.len();
                for group in (0..groups as u32).filter(|g| part.counts(*g)) {
                    part.save(group, out);
                    n += 1;
                }
                if groups < MERGE_ROWS {
                    break;
                }
            }
        } else {
            for spilled in &self.spilled {
                let mut reader = RunReader::open(spilled.run.clone()).map_err(|e| core.spill(e))?;
                while let Some(entry) = reader.entry() {
                    out.0.extend_from_slice(entry);
                    reader.advance().map_err(|e| core.spill(e))?;
                }
                n += spilled.run.entries;
            }
            for part in pieces {
                let groups = 0..part.groups.len() as u32;
                for group in groups.filter(|g| part.is_kept(*g) && part.counts(*g)) {
                    part.save(group, out);
                    n += 1;
                }
            }
        }
        out.0[at..at + 8].copy_from_slice(&n.to_le_bytes());
        self.save_old(core, out)
    }

    /// Old rows of all parts: their keys, then they as one batch.
    pub fn save_old(&self, core: &Core, out: &mut Writer) -> Result<(), OpError> {
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut places = Vec::new();
        let (at, mut n) = (out.0.len(), 0u64);
        out.u64(0);
        for part in self.pieces() {
            for (group, (batch, row)) in part.old.iter().filter(|(g, _)| part.is_kept(**g)) {
                part.groups.key(*group).save(out);
                places.push((batches.len() + batch, *row));
                n += 1;
            }
            batches.extend(&part.old_batches);
        }
        out.0[at..at + 8].copy_from_slice(&n.to_le_bytes());
        if places.is_empty() {
            return Ok(());
        }
        let ipc = || -> Result<Vec<u8>, ArrowError> {
            let old = interleave_record_batch(&batches, &places)?;
            let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &old.schema())?;
            writer.write(&old)?;
            writer.into_inner()
        };
        out.bytes(&ipc().map_err(|e| core.arrow(e))?);
        Ok(())
    }

    /// Into a new table.
    pub fn load(
        &mut self,
        core: &Arc<Core>,
        resources: &Resources,
        space: Option<&Arc<SpillSpace>>,
        live: bool,
        from: &mut Reader<'_>,
    ) -> Result<(), OpError> {
        let damaged = |e: Damaged| core.damaged(&e);
        if from.u64().map_err(damaged)? == 1 {
            self.share_out(core, resources)?;
        }
        let n = from.count(2).map_err(damaged)?;
        for i in 1..=n {
            self.take(from).map_err(damaged)?;
            if i % RESTORE_ROWS == 0
                && let Some(space) = space
                && self.can_spill(core)
                && resources.is_tight(0, self.bytes())
            {
                self.spill(core, space, resources, live)?;
            }
        }
        self.load_old(core, from)
    }

    /// What [`Self::save_old`] wrote, once the groups are there.
    pub fn load_old(&mut self, core: &Core, from: &mut Reader<'_>) -> Result<(), OpError> {
        let damaged = |e: Damaged| core.damaged(&e);
        let mut groups = Vec::new();
        for _ in 0..from.count(1).map_err(damaged)? {
            let key = Key::load(from).map_err(damaged)?;
            let part = part_of(key.hash(), self.parts.len());
            // What is yet to be told of is in memory.
            let group = self.parts[part].groups.find_one(key, key.hash());
            groups.push((part, group.ok_or_else(|| core.damaged(&Damaged("an old row of no group")))?));
        }
        if groups.is_empty() {
            return Ok(());
        }
        let unread = |_| core.damaged(&Damaged("old rows do not read"));
        let bytes = from.bytes().map_err(damaged)?;
        let mut reader = arrow::ipc::reader::StreamReader::try_new(bytes, None).map_err(unread)?;
        let old = reader.next().ok_or_else(|| core.damaged(&Damaged("old rows are missing")))?;
        let old = old.map_err(unread)?;
        if old.num_rows() != groups.len() {
            return Err(core.damaged(&Damaged("old rows of another number")));
        }
        for (at, part) in self.parts.iter_mut().enumerate() {
            let own = groups.iter().enumerate().filter(|(_, (of, _))| *of == at);
            let (rows, own): (Vec<u32>, Vec<u32>) = own.map(|(row, (_, g))| (row as u32, *g)).unzip();
            if rows.is_empty() {
                continue;
            }
            // Copied: what was read lies in one piece, which every array would count as its own.
            part.old_batches
                .push(take_record_batch(&old, &UInt32Array::from(rows)).map_err(|e| core.arrow(e))?);
            part.old.extend(own.into_iter().enumerate().map(|(row, group)| (group, (0, row))));
        }
        Ok(())
    }
}
