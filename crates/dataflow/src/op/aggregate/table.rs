//! One window's groups: in one part as long as they are few, then in as many as there are threads,
//! dealt by hash of the key. How they are dealt changes no result.

use super::core::Core;
use super::merged::Merged;
use super::part::Part;
use crate::operator::OpError;
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::{Key, KeyForm};
use crate::state::spill::{Run, RunReader, SpillSpace};
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave_record_batch;
use std::sync::Arc;

pub(super) struct Table {
    pub parts: Vec<Part>,
    /// What was spilled, each by key. A key may be in several and in memory.
    pub runs: Vec<Arc<Run>>,
    /// Keys that were forgotten when runs became one, and are not counted yet.
    pub expired: u64,
    /// What was last reported as held.
    pub held_bytes: usize,
    pub held_groups: usize,
}

/// The part of a key, of so many.
#[inline]
pub(super) fn part_of(hash: u32, parts: usize) -> usize {
    ((u64::from(hash) * parts as u64) >> 32) as usize
}

/// Runs of a window from which on they become one.
const RUNS_MAX: usize = 64;
/// Groups in memory while they do.
pub(super) const MERGE_ROWS: usize = 4_096;
/// Groups that are restored before memory is looked at.
const RESTORE_ROWS: usize = 1_024;

/// A part's groups by key.
fn write(core: &Core, space: &SpillSpace, part: &Part) -> Result<Run, OpError> {
    let failed = |e| core.spill(e);
    let mut writer = space.begin().map_err(failed)?;
    for group in part.groups.sorted(&core.form).into_iter().filter(|g| part.is_kept(*g)) {
        writer.add(|out| part.save(group, out)).map_err(failed)?;
    }
    writer.finish().map_err(failed)
}

impl Table {
    pub fn new(core: &Core) -> Result<Self, OpError> {
        Ok(Table {
            parts: vec![core.new_part()?],
            runs: Vec::new(),
            expired: 0,
            held_bytes: 0,
            held_groups: 0,
        })
    }

    pub fn groups(&self) -> usize {
        self.parts.iter().map(Part::held).sum()
    }

    pub fn bytes(&self) -> usize {
        let runs = self.runs.iter().map(|r| r.memory_bytes()).sum::<usize>();
        self.parts.iter().map(Part::bytes).sum::<usize>() + runs
    }

    /// Writes what is in memory down, each part as a run, and begins anew.
    pub fn spill(
        &mut self,
        core: &Arc<Core>,
        space: &Arc<SpillSpace>,
        resources: &Resources,
    ) -> Result<(), OpError> {
        let parts = std::mem::take(&mut self.parts);
        let (work, place) = (core.clone(), space.clone());
        let done = resources.workers.run(parts, move |part| -> Result<_, OpError> {
            let before = part.before().map(|before| write(&work, &place, before)).transpose()?;
            let run = write(&work, &place, &part)?;
            let expired = part.forgotten() as u64;
            Ok(([before, Some(run)], part.next(work.new_part()?), expired))
        });
        for done in done {
            let (runs, part, expired) = done?;
            self.expired += expired;
            self.runs.extend(runs.into_iter().flatten().filter(|r| r.entries > 0).map(Arc::new));
            self.parts.push(part);
        }
        if self.runs.len() > RUNS_MAX {
            let (run, expired) = self.merge_runs(core, space)?;
            self.runs = vec![Arc::new(run)];
            self.expired += expired;
        }
        Ok(())
    }

    /// All runs as one, and the number of keys that were forgotten on the way.
    fn merge_runs(&self, core: &Core, space: &SpillSpace) -> Result<(Run, u64), OpError> {
        let now_us = self.parts.first().map_or(i64::MIN, Part::now_us);
        let mut merged = Merged::new(core, &self.runs, &[], now_us)?;
        let mut writer = space.begin().map_err(|e| core.spill(e))?;
        loop {
            let part = merged.next(core, &[], MERGE_ROWS)?;
            for group in 0..part.groups.len() as u32 {
                writer.add(|out| part.save(group, out)).map_err(|e| core.spill(e))?;
            }
            if part.groups.len() < MERGE_ROWS {
                let run = writer.finish().map_err(|e| core.spill(e))?;
                return Ok((run, merged.expired));
            }
        }
    }

    /// Deals the groups over threads once there are many.
    pub fn divide(&mut self, core: &Core, resources: &Resources) -> Result<(), OpError> {
        let few = self.parts.len() > 1 || self.parts[0].groups.len() <= resources.divide_groups;
        // Old rows that wait to be taken back stay where they are until they have left.
        let waits = self.pieces().iter().any(|p| !p.old.is_empty());
        if few || resources.threads < 2 || waits || matches!(core.form, KeyForm::Unit) {
            return Ok(());
        }
        let whole = self.parts.pop().expect("there is one");
        self.parts = (0..resources.threads).map(|_| core.new_part()).collect::<Result<_, _>>()?;
        let mut one = Writer::default();
        for group in 0..whole.groups.len() as u32 {
            one.0.clear();
            whole.save(group, &mut one);
            self.take(&mut Reader(&one.0)).map_err(|e| core.damaged(&e))?;
        }
        self.divide_aging(core, &whole)
    }

    /// Takes one saved group in; gives its part and number there.
    pub fn take(&mut self, from: &mut Reader<'_>) -> Result<(usize, u32), Damaged> {
        let key = Key::load(from)?;
        let hash = key.hash();
        let part = part_of(hash, self.parts.len());
        Ok((part, self.parts[part].merge(key, hash, from)?))
    }

    pub fn save(&self, core: &Core, out: &mut Writer) -> Result<(), OpError> {
        out.u64(u64::from(self.parts.len() > 1));
        if core.ttl_us.is_some() && !self.runs.is_empty() {
            return self.save_merged(core, out);
        }
        let pieces = self.pieces();
        let kept = pieces.iter().map(|p| (0..p.groups.len() as u32).filter(|g| p.is_kept(*g)).count() as u64);
        let spilled: u64 = self.runs.iter().map(|r| r.entries).sum();
        out.u64(spilled + kept.sum::<u64>());
        for run in &self.runs {
            let mut reader = RunReader::open(run.clone()).map_err(|e| core.spill(e))?;
            while let Some(entry) = reader.entry() {
                out.0.extend_from_slice(entry);
                reader.advance().map_err(|e| core.spill(e))?;
            }
        }
        // Old rows of all parts as one batch, by the number of their group among all.
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let (mut numbers, mut places) = (Vec::new(), Vec::new());
        let mut number = 0;
        for part in pieces {
            for group in (0..part.groups.len() as u32).filter(|g| part.is_kept(*g)) {
                part.save(group, out);
                if let Some((batch, row)) = part.old.get(&group) {
                    numbers.push(number);
                    places.push((batches.len() + batch, *row));
                }
                number += 1;
            }
            batches.extend(&part.old_batches);
        }
        out.words(&numbers);
        if !numbers.is_empty() {
            let ipc = || -> Result<Vec<u8>, ArrowError> {
                let old = interleave_record_batch(&batches, &places)?;
                let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &old.schema())?;
                writer.write(&old)?;
                writer.into_inner()
            };
            out.bytes(&ipc().map_err(|e| core.arrow(e))?);
        }
        Ok(())
    }

    /// Into a new table.
    pub fn load(
        &mut self,
        core: &Arc<Core>,
        resources: &Resources,
        space: Option<&Arc<SpillSpace>>,
        from: &mut Reader<'_>,
    ) -> Result<(), OpError> {
        let damaged = |e: Damaged| core.damaged(&e);
        if from.u64().map_err(damaged)? == 1 {
            self.parts = (0..resources.threads).map(|_| core.new_part()).collect::<Result<_, _>>()?;
        }
        let n = from.count(2).map_err(damaged)?;
        let mut places = Vec::with_capacity(n);
        for i in 1..=n {
            places.push(self.take(from).map_err(damaged)?);
            if i % RESTORE_ROWS == 0
                && let Some(space) = space
                && resources.is_tight(0, self.bytes())
            {
                self.spill(core, space, resources)?;
            }
        }
        let numbers = from.words().map_err(damaged)?;
        if numbers.is_empty() {
            return Ok(());
        }
        let unread = |_| core.damaged(&Damaged("old rows do not read"));
        let bytes = from.bytes().map_err(damaged)?;
        let mut reader = arrow::ipc::reader::StreamReader::try_new(bytes, None).map_err(unread)?;
        let old = reader.next().ok_or_else(|| core.damaged(&Damaged("old rows are missing")))?;
        let old = old.map_err(unread)?;
        if old.num_rows() != numbers.len() {
            return Err(core.damaged(&Damaged("old rows of another number")));
        }
        self.parts.iter_mut().for_each(|p| p.old_batches.push(old.clone()));
        for (row, number) in numbers.into_iter().enumerate() {
            let place = places.get(number as usize);
            let (part, group) = place.ok_or_else(|| core.damaged(&Damaged("an old row of no group")))?;
            self.parts[*part].old.insert(*group, (0, row));
        }
        Ok(())
    }
}
