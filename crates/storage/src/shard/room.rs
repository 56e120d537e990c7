//! Memory of commits and merges, counted against the process's limit.
//!
//! A commit always goes on: it takes what it gets, down to one read of the log, which it takes
//! past the limit if it must, since rows that are in parts no longer hold up appends. A merge
//! can wait: it takes fewer inputs, then none until there is room. What either turns out to
//! need beyond what was estimated is counted, never refused: half a part is of use to nobody.

use super::Shard;
use crate::batch::TailBatch;
use crate::error::{Result, StorageError};
use crate::parts::{PartFile, PartReader};
use arrow_array::{Array, RecordBatch};
use std::sync::Arc;
use weir_base::memory::OverBudget;
use weir_base::{MemoryBudget, Reservation};

/// `_tp_sn`, `_tp_append_time`, and the place of a row while it is sorted.
const POSITION_BYTES: u64 = 32;
/// Encoded rows of a merge's output until their row group is written, at most about this.
const OUTPUT_BYTES: u64 = 16 << 20;
/// Rows take so many times more decoded than in a part, as a guess.
const DECODED_FACTOR: u64 = 4;

/// Memory of one step of work: what it was let in with, or what it uses if that is more.
pub(super) struct Room {
    held: Reservation,
    least: u64,
}

impl Room {
    pub fn admit(memory: &Arc<MemoryBudget>, estimate_bytes: u64) -> Result<Room, OverBudget> {
        Ok(Room { held: memory.reserve(estimate_bytes)?, least: estimate_bytes })
    }

    /// So much is in use now.
    pub fn uses(&mut self, bytes: u64) {
        let (wanted, held) = (bytes.max(self.least), self.held.bytes());
        if wanted > held {
            self.held.grow_anyway(wanted - held);
        } else {
            self.held.shrink(held - wanted);
        }
    }
}

/// Rooms of one merge.
pub(super) struct MergeRoom {
    pub inputs: Room,
    pub output: Room,
}

impl Shard {
    /// What a commit takes for these rows: them, their encoded form, their sort keys and places.
    pub(super) fn commit_cost(&self, tail: &TailBatch) -> u64 {
        let copies = if self.layout.sort_columns().is_empty() { 2 } else { 3 };
        bytes_of(&tail.batch) * copies + tail.rows() as u64 * POSITION_BYTES
    }

    /// As many of `parts`, from the first on, as there is memory to merge, down to two.
    ///
    /// # Errors
    /// [`StorageError::NoRoom`] where not even two fit.
    pub(super) fn room_for<'a>(
        &self,
        parts: &'a [Arc<PartFile>],
    ) -> Result<(&'a [Arc<PartFile>], MergeRoom)> {
        let mut n = parts.len();
        loop {
            let (some, memory) = (&parts[..n], &self.ctx.memory);
            let output = some.iter().map(|p| p.meta.size_bytes).sum::<u64>() * DECODED_FACTOR;
            let inputs = some.iter().map(|p| self.input_cost(p)).sum();
            let room = Room::admit(memory, inputs).and_then(|inputs| {
                Ok(MergeRoom { inputs, output: Room::admit(memory, output.min(OUTPUT_BYTES))? })
            });
            match room {
                Ok(room) => return Ok((some, room)),
                Err(_) if n > 2 => n = n.div_ceil(2),
                Err(over) => {
                    self.metrics.merges_put_off.add(1);
                    return Err(StorageError::NoRoom { doing: "a merge of parts", over });
                }
            }
        }
    }

    /// What reading one part takes: the windows of its columns and what is unpacked of them, and
    /// a batch of rows with its keys.
    fn input_cost(&self, part: &PartFile) -> u64 {
        let meta = &part.meta;
        let row_bytes = meta.size_bytes / meta.rows.max(1) + 1;
        let batch = meta.rows.min(super::merge::INPUT_ROWS as u64) * row_bytes * DECODED_FACTOR;
        2 * PartReader::windows_bytes_max(&self.part_schema).min(meta.size_bytes) + 2 * batch
    }
}

/// Bytes that are this batch's own: a slice counts for its rows only.
pub(super) fn bytes_of(batch: &RecordBatch) -> u64 {
    let column = |c: &Arc<dyn Array>| {
        c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(column).sum()
}
