//! Number of distinct values, about: a HyperLogLog a group.

use super::{Accumulate, Batch, Input, Shape, each};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::rows::{Column, RowStore};
use arrow_array::{ArrayRef, UInt64Array};
use arrow_schema::{ArrowError, DataType};
use std::sync::Arc;
use weir_sketch::{Hll, hash_rows};

pub(super) struct Uniq {
    sets: Column<Hll>,
    bytes: usize,
    output: DataType,
}

impl Uniq {
    pub fn new(shape: &Shape) -> Self {
        Uniq { sets: Column::default(), bytes: 0, output: shape.output.data_type().clone() }
    }
}

impl Accumulate for Uniq {
    fn update(&mut self, rows: &mut RowStore, batch: &Batch<'_>, input: &Input) -> Result<(), ArrowError> {
        self.sets.extend_to(rows.len());
        let (hashes, nulls) = hash_rows(&input.args)?;
        each(batch, input.filter.as_ref(), nulls.as_ref(), |g, row| {
            let set = self.sets.get_mut(g);
            let before = set.bytes();
            set.add(hashes[row]);
            self.bytes = self.bytes + set.bytes() - before;
        });
        Ok(())
    }

    fn evaluate(&self, _: &RowStore, groups: &[u32]) -> Result<ArrayRef, ArrowError> {
        let count = |g: &u32| self.sets.held(*g).map_or(0, Hll::count);
        super::to_output(Arc::new(UInt64Array::from_iter_values(groups.iter().map(count))), &self.output)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.sets.bytes()
    }

    fn ordered(&self) -> bool {
        false
    }

    fn save(&self, _: &RowStore, group: u32, out: &mut Writer) {
        let mut saved = Vec::new();
        if let Some(set) = self.sets.held(group) {
            set.save(&mut saved);
        }
        out.bytes(&saved);
    }

    fn merge(&mut self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.sets.extend_to(rows.len());
        let other = Hll::load(from.bytes()?).map_err(|_| Damaged("a sketch does not read"))?;
        let set = self.sets.get_mut(group);
        let before = set.bytes();
        set.merge(&other);
        self.bytes = self.bytes + set.bytes() - before;
        Ok(())
    }
}
