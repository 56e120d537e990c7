//! One window's groups with the states of their aggregates, and what a changelog must remember.

use crate::agg::Accumulate;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::table::GroupTable;
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Table {
    pub groups: GroupTable,
    pub states: Vec<Box<dyn Accumulate>>,
    /// What was last reported as held.
    pub held_bytes: usize,
    /// Of a changelog: groups that were told, whose old row must be taken back when they change.
    pub told: BTreeSet<u32>,
    /// The old rows of groups that changed since: batch and row.
    pub old: BTreeMap<u32, (usize, usize)>,
    pub old_batches: Vec<RecordBatch>,
}

impl Table {
    pub fn new(groups: GroupTable, states: Vec<Box<dyn Accumulate>>) -> Self {
        Table {
            groups,
            states,
            held_bytes: 0,
            told: BTreeSet::new(),
            old: BTreeMap::new(),
            old_batches: Vec::new(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.groups.bytes()
            + self.states.iter().map(|s| s.bytes()).sum::<usize>()
            + self.told.len() * 8
            + self.old.len() * 32
            + self.old_batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>()
    }

    pub fn save(&self, out: &mut Writer) -> Result<(), ArrowError> {
        self.groups.save(out);
        self.states.iter().for_each(|s| s.save(out));
        out.u64(self.told.len() as u64);
        self.told.iter().for_each(|g| out.u64(u64::from(*g)));
        out.u64(self.old.len() as u64);
        for (group, (batch, row)) in &self.old {
            out.u64(u64::from(*group));
            out.u64(*batch as u64);
            out.u64(*row as u64);
        }
        out.u64(self.old_batches.len() as u64);
        for batch in &self.old_batches {
            let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema())?;
            writer.write(batch)?;
            out.bytes(&writer.into_inner()?);
        }
        Ok(())
    }

    pub fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.groups.load(from)?;
        for state in &mut self.states {
            state.load(from)?;
        }
        for _ in 0..from.count(8)? {
            self.told.insert(from.u64()? as u32);
        }
        for _ in 0..from.count(24)? {
            let group = from.u64()? as u32;
            self.old.insert(group, (from.u64()? as usize, from.u64()? as usize));
        }
        for _ in 0..from.count(8)? {
            let damaged = |_| Damaged("an old row does not read");
            let mut reader =
                arrow::ipc::reader::StreamReader::try_new(from.bytes()?, None).map_err(damaged)?;
            let batch = reader.next().ok_or(Damaged("an old row is missing"))?.map_err(damaged)?;
            self.old_batches.push(batch);
        }
        let there =
            |(batch, row): &(usize, usize)| self.old_batches.get(*batch).is_some_and(|b| *row < b.num_rows());
        if self.old.values().all(there) { Ok(()) } else { Err(Damaged("an old row is missing")) }
    }
}
