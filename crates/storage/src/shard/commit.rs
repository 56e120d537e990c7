//! Moves the border between log and parts: log rows become sorted, partitioned parts.
//!
//! Order on disk: parts and their checksums, their names, the manifest entry; only then may
//! the log drop the rows. A failure at any point leaves the border where it was.
//!
//! Its memory is counted (`room`): where there is little, fewer rows go at a time.

use super::Shard;
use super::room::bytes_of;
use crate::batch::TailBatch;
use crate::error::Result;
use crate::manifest::{Change, Manifest};
use crate::order::{Keys, failed, partitions, sort};
use crate::parts::{Effort, PartMeta, PartWriter};
use arrow_array::RecordBatch;
use arrow_select::interleave::interleave_record_batch;
use weir_base::{Reservation, SeqNo};

/// Log bytes one commit takes at most, so that its memory is bounded; more in a backlog than
/// the thresholds ask for, so that parts do not stay small.
const COMMIT_BYTES_MAX: u64 = 64 << 20;
/// Log bytes read at once.
const READ_BYTES: usize = 4 << 20;
/// Rows handed to the part writer at once where they must be gathered.
pub(super) const GATHER_ROWS: usize = 16_384;

impl Shard {
    /// Commits what is durable in the log, up to a bounded amount. Returns whether there was
    /// anything. Blocks; one commit runs at a time.
    ///
    /// # Errors
    /// Nothing has changed then and the call may be repeated.
    pub fn commit_once(&self) -> Result<bool> {
        let Some(manifest) = &self.manifest else { return Ok(false) };
        if !self.has_parts() {
            return Ok(false);
        }
        let mut manifest = manifest.lock();
        let outcome = self.commit(&mut manifest);
        self.note_commit(&outcome);
        drop(manifest);
        self.garbage.collect(self.ctx.parts());
        outcome
    }

    fn commit(&self, manifest: &mut Manifest) -> Result<bool> {
        let from = manifest.state().committed_end;
        let (tails, to, mut room) = self.gather(from)?;
        if to == from {
            return Ok(false);
        }
        let rows = tails.iter().map(|t| t.rows() as u64).sum();
        let mut paths = Vec::new();
        let written = self
            .write_parts(&tails, manifest.state().next_part_id, &mut paths, &mut room)
            .and_then(|parts| self.ctx.parts().sync_dir(&self.part_dir).map(|()| parts))
            .and_then(|parts| manifest.append(Change::Commit { from, to, rows, parts }));
        if let Err(e) = written {
            self.discard(paths, manifest);
            return Err(e);
        }
        self.publish(manifest);
        if let Some(log) = self.log.external() {
            // Before the backlog, at whose word rows are fed again.
            log.truncate(to);
        }
        self.backlog.committed(to);
        self.metrics.committed_rows.add(rows as i64);
        Ok(true)
    }

    /// Durable rows from `from` on, where they end, and the memory that committing them takes.
    /// One read of the log, the least there is, is taken whatever the limit says.
    fn gather(&self, from: SeqNo) -> Result<(Vec<TailBatch>, SeqNo, Reservation)> {
        let target = self.log.durable_end();
        let limit = COMMIT_BYTES_MAX.max(self.options().flush_threshold_bytes);
        let (mut at, mut bytes, mut tails) = (from, 0, Vec::new());
        let mut room = self.ctx.memory.reserve(0)?;
        while at < target && bytes < limit {
            let (rows, next) = self.log.read(at, READ_BYTES, &self.book)?;
            let (mut cost, mut read) = (0, Vec::new());
            for (tail, size) in rows {
                bytes += size;
                cost += self.commit_cost(&tail);
                read.push(tail);
            }
            if next == at {
                break;
            }
            let enough = match room.grow(cost) {
                Ok(()) => false,
                // These come with the next commit, when the memory of this one is free again.
                Err(_) if !tails.is_empty() => break,
                Err(_) => {
                    room.grow_anyway(cost);
                    true
                }
            };
            tails.append(&mut read);
            at = next;
            if enough {
                break;
            }
        }
        Ok((tails, at, room))
    }

    /// Writes one part a partition. Every path that may exist afterwards is in `paths`, also
    /// after an error.
    fn write_parts(
        &self,
        tails: &[TailBatch],
        next_id: u64,
        paths: &mut Vec<String>,
        room: &mut Reservation,
    ) -> Result<Vec<PartMeta>> {
        let layout = &*self.layout;
        let options = self.options();
        let sort_columns = layout.sort_columns();
        let batches: Vec<RecordBatch> = tails.iter().map(|t| t.batch.clone()).collect();
        let full: Vec<RecordBatch> =
            tails.iter().map(|t| t.with_positions(&self.part_schema)).collect::<Result<_>>()?;
        let full_refs: Vec<&RecordBatch> = full.iter().collect();
        let mut converter = Keys::default();
        let keys = batches.iter().map(|b| converter.of(layout, b)).collect::<Result<Option<Vec<_>>>>()?;
        if let Some(keys) = &keys {
            // Short texts have keys longer than themselves.
            let keys_bytes = keys.iter().map(|k| k.size() as u64).sum::<u64>();
            room.grow_anyway(keys_bytes.saturating_sub(batches.iter().map(bytes_of).sum()));
        }
        let groups = partitions(layout, &batches)?;
        let only_one = groups.len() == 1;
        let mut parts = Vec::new();
        for (partition, mut places) in groups {
            if let Some(keys) = &keys {
                sort(&mut places, keys);
            }
            let id = next_id + parts.len() as u64;
            let path = self.new_part_path(id);
            paths.push(path.clone());
            let schema = self.part_schema.clone();
            let mut writer =
                PartWriter::new(self.ctx.parts(), path, schema, &options, &sort_columns, Effort::Estimate);
            if only_one && places.is_sorted() {
                full.iter().try_for_each(|b| writer.write(b))?;
            } else {
                for chunk in places.chunks(GATHER_ROWS) {
                    writer
                        .write(&interleave_record_batch(&full_refs, chunk).map_err(failed("sort rows"))?)?;
                }
            }
            // TTL is applied by merges: 0 says that it has not been.
            let mut meta = writer.finish(id, &partition, 0, 0)?.expect("a group has rows").meta;
            meta.sorted = keys.is_some();
            parts.push(meta);
        }
        Ok(parts)
    }

    /// A path no part has had.
    pub(super) fn new_part_path(&self, id: u64) -> String {
        format!("{}/{id:010}-{:08x}.parquet", self.part_dir, self.ctx.rng.u64() as u32)
    }

    /// Files of a change that failed: removed at once unless it may be durable after all.
    pub(super) fn discard(&self, paths: Vec<String>, manifest: &Manifest) {
        for path in paths {
            self.ctx.parts().unregister(&path);
            if manifest.is_doubtful() {
                self.doubtful.lock().push(path);
            } else {
                self.garbage.add(path);
            }
        }
    }
}
