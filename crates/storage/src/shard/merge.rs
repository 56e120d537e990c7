//! Fewer, larger parts: adjacent parts of one partition become one, in the layout's order.
//!
//! Inputs are streamed, so memory depends on their number, not their size; it is counted, and a
//! merge waits for it (`room`). TTL is applied on the way. A merge whose inputs are gone by its end (TRUNCATE) is thrown away.
//!
//! Not here: which parts to merge (`plan`), when (`background`).

use super::Shard;
use super::commit::GATHER_ROWS;
use super::plan::{MergeMode, plan_merge};
use super::room::{MergeRoom, Room, bytes_of};
use crate::error::{Result, StorageError};
use crate::manifest::Change;
use crate::order::{Keys, failed};
use crate::parts::{Effort, PartFile, PartReader, PartWriter};
use arrow_array::{BooleanArray, RecordBatch};
use arrow_row::Rows;
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave_record_batch;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows decoded at once from each input.
pub(super) const INPUT_ROWS: usize = 4_096;
/// A run at least this long is passed on as a slice instead of being gathered.
const SLICE_ROWS: usize = 1_024;

impl Shard {
    /// Does one merge (or one application of TTL) if one is due. Returns whether it did.
    /// Blocks; one merge a shard runs at a time. Without memory for a merge the background's are
    /// put off.
    ///
    /// # Errors
    /// [`StorageError::NoRoom`] for [`MergeMode::ToRest`] without memory; what reading and
    /// writing parts gives. Nothing has changed then.
    pub fn merge_once(&self, mode: MergeMode) -> Result<bool> {
        if !self.has_parts() {
            return Ok(false);
        }
        let _one = self.merging.lock();
        let version = self.version();
        let now_ms = self.ctx.clock.now_ms();
        let mut by_partition: BTreeMap<&str, Vec<&Arc<PartFile>>> = BTreeMap::new();
        for part in version.parts.values() {
            by_partition.entry(&part.meta.partition).or_default().push(part);
        }
        let limit = self.options().merged_part_bytes_max;
        let mut best: Option<(u64, Vec<Arc<PartFile>>)> = None;
        for parts in by_partition.values_mut() {
            parts.sort_by_key(|p| p.meta.sn_min);
            let sizes: Vec<u64> = parts.iter().map(|p| p.meta.size_bytes).collect();
            if let Some((range, cost)) = plan_merge(&sizes, limit, mode)
                && best.as_ref().is_none_or(|(c, _)| cost < *c)
            {
                best = Some((cost, parts[range].iter().map(|p| Arc::clone(p)).collect()));
            }
        }
        let put_off = |e| match (mode, e) {
            (MergeMode::Tiered, StorageError::NoRoom { .. }) => Ok(false),
            (_, e) => Err(e),
        };
        if let Some((_, parts)) = best {
            let (parts, room) = match self.room_for(&parts) {
                Ok(admitted) => admitted,
                Err(e) => return put_off(e),
            };
            return self.merge_parts(parts, now_ms, room).map(|()| true);
        }
        let Some(due_before_ms) = self.ttl_due_before(mode, now_ms)? else { return Ok(false) };
        match version.parts.values().find(|p| p.meta.ttl_applied_ms < due_before_ms) {
            Some(part) => self.apply_ttl(part, now_ms).map(|()| true).or_else(put_off),
            None => Ok(false),
        }
    }

    /// Parts to which TTL was applied before this time are due; `None` without TTL.
    fn ttl_due_before(&self, mode: MergeMode, now_ms: i64) -> Result<Option<i64>> {
        let empty = RecordBatch::new_empty(self.schema.clone());
        Ok(self.layout.expired(&empty, now_ms)?.map(|_| match mode {
            MergeMode::ToRest => now_ms,
            MergeMode::Tiered => now_ms - TTL_INTERVAL_MS,
        }))
    }

    /// Rewrites a part if it holds expired rows; notes that it was looked at otherwise.
    fn apply_ttl(&self, part: &Arc<PartFile>, now_ms: i64) -> Result<()> {
        let (one, room) = self.room_for(std::slice::from_ref(part))?;
        let mut reader = PartReader::open(self.ctx.parts(), part, &self.part_schema, INPUT_ROWS)?;
        while let Some(batch) = reader.next()? {
            if self.kept(&batch, now_ms)?.is_some_and(|kept| kept.num_rows() < batch.num_rows()) {
                drop(reader);
                return self.merge_parts(one, now_ms, room);
            }
        }
        let mut manifest = self.manifest.as_ref().expect("has parts").lock();
        if manifest.state().parts.contains_key(&part.meta.id) {
            manifest.append(Change::TtlApplied { parts: vec![part.meta.id], at_ms: now_ms })?;
            self.publish(&mut manifest);
        }
        Ok(())
    }

    /// The rows of a part's batch that TTL leaves; `None` if the stream has no TTL.
    fn kept(&self, batch: &RecordBatch, now_ms: i64) -> Result<Option<RecordBatch>> {
        let Some(expired) = self.layout.expired(&self.stream_columns(batch)?, now_ms)? else {
            return Ok(None);
        };
        let keep: BooleanArray = expired.iter().map(|e| Some(e != Some(true))).collect();
        filter_record_batch(batch, &keep).map(Some).map_err(failed("apply TTL"))
    }

    fn stream_columns(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let n = self.schema.fields().len();
        RecordBatch::try_new(self.schema.clone(), batch.columns()[..n].to_vec())
            .map_err(|e| StorageError::Schema { what: e.to_string() })
    }

    fn merge_parts(&self, inputs: &[Arc<PartFile>], now_ms: i64, room: MergeRoom) -> Result<()> {
        let MergeRoom { inputs: mut held, mut output } = room;
        let manifest = self.manifest.as_ref().expect("has parts");
        let options = self.options();
        let sort_columns = self.layout.sort_columns();
        // The id is settled at the end; the random part makes the name unique meanwhile.
        let path = self.new_part_path(manifest.lock().state().next_part_id);
        let (schema, parts) = (self.part_schema.clone(), self.ctx.parts());
        let mut writer = PartWriter::new(parts, path.clone(), schema, &options, &sort_columns, Effort::Trial);
        let level = inputs.iter().map(|p| p.meta.level).max().unwrap_or(0) + 1;
        let partition = &inputs[0].meta.partition;
        let rows_in: u64 = inputs.iter().map(|p| p.meta.rows).sum();
        let merged = self.stream(inputs, now_ms, &mut held, &mut |batch| {
            writer.write(&batch)?;
            output.uses(writer.held_bytes());
            Ok(())
        });
        let written = merged
            .and_then(|()| writer.finish(0, partition, level, now_ms))
            .and_then(|part| parts.sync_dir(&self.part_dir).map(|()| part));
        let mut manifest = manifest.lock();
        let written = match written {
            Ok(written) => written.map(|w| w.meta),
            Err(e) => {
                self.discard(vec![path], &manifest);
                return Err(e);
            }
        };
        if inputs.iter().any(|p| !manifest.state().parts.contains_key(&p.meta.id)) {
            self.discard(vec![path], &manifest);
            return Ok(());
        }
        let rows_out = written.as_ref().map_or(0, |m| m.rows);
        let parts = written
            .map(|mut meta| {
                meta.id = manifest.state().next_part_id;
                meta.sorted = inputs.iter().all(|p| p.meta.sorted);
                meta
            })
            .into_iter()
            .collect();
        let removed = inputs.iter().map(|p| p.meta.id).collect();
        let rows_expired = rows_in.checked_sub(rows_out).expect("a merge makes no rows");
        if let Err(e) = manifest.append(Change::Merge { removed, parts, rows_expired }) {
            self.discard(vec![path], &manifest);
            return Err(e);
        }
        self.publish(&mut manifest);
        self.metrics.merges.add(1);
        self.metrics.expired_rows.add(rows_expired as i64);
        Ok(())
    }

    /// Passes the inputs' rows on in the layout's order, or in sequence order if it has none.
    fn stream(
        &self,
        inputs: &[Arc<PartFile>],
        now_ms: i64,
        held: &mut Room,
        out: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let mut converter = Keys::default();
        let mut heads: Vec<Head> = Vec::new();
        let mut heads_bytes = 0;
        for input in inputs {
            let reader = PartReader::open(self.ctx.parts(), input, &self.part_schema, INPUT_ROWS)?;
            let mut head = Head { reader, batch: None, at: 0, bytes: 0 };
            if !self.advance(&mut head, &mut converter, now_ms)? {
                continue;
            }
            if head.batch.as_ref().is_some_and(|b| b.keys.is_none()) {
                // Arrival order: adjacent parts follow each other.
                loop {
                    held.uses(head.bytes);
                    out(head.batch.take().expect("just filled").rows)?;
                    if !self.advance(&mut head, &mut converter, now_ms)? {
                        break;
                    }
                }
                continue;
            }
            heads_bytes += head.bytes;
            held.uses(heads_bytes);
            heads.push(head);
        }
        let mut gather = Gather::default();
        let mut heap = Heap::new(heads.len(), &heads);
        while let Some(first) = heap.first() {
            let run = heads[first].run_until(heap.second(&heads).map(|s| (s, &heads[s])), first);
            let head = &mut heads[first];
            let current = head.batch.as_ref().expect("a head in the heap has rows");
            gather.take(first, &current.rows, head.at, run, out)?;
            head.at += run;
            if head.at == current.rows.num_rows() {
                gather.leave(first, out)?;
                heads_bytes -= heads[first].bytes;
                if !self.advance(&mut heads[first], &mut converter, now_ms)? {
                    heap.pop(&heads);
                    continue;
                }
                heads_bytes += heads[first].bytes;
                held.uses(heads_bytes + gather.left_bytes);
            }
            heap.sift(&heads);
        }
        gather.flush(out)
    }

    /// Loads the next rows of an input; false at its end.
    fn advance(&self, head: &mut Head, converter: &mut Keys, now_ms: i64) -> Result<bool> {
        head.at = 0;
        while let Some(batch) = head.reader.next()? {
            let rows = self.kept(&batch, now_ms)?.unwrap_or(batch);
            if rows.num_rows() == 0 {
                continue;
            }
            let keys = converter.of(&*self.layout, &self.stream_columns(&rows)?)?.map(KeyRows::new);
            let keys_bytes = keys.as_ref().map_or(0, KeyRows::bytes);
            // Windows, what is unpacked of them, rows and keys.
            head.bytes = 2 * head.reader.windows_bytes() + bytes_of(&rows) + keys_bytes;
            head.batch = Some(Current { rows, keys });
            return Ok(true);
        }
        (head.batch, head.bytes) = (None, 0);
        Ok(false)
    }
}

/// How often the background looks for expired rows in a part.
const TTL_INTERVAL_MS: i64 = 3_600_000;

struct Head {
    reader: PartReader,
    batch: Option<Current>,
    at: usize,
    /// Memory that it takes now.
    bytes: u64,
}

struct Current {
    rows: RecordBatch,
    keys: Option<KeyRows>,
}

/// Keys with their first bytes as numbers: most comparisons end there.
struct KeyRows {
    rows: Rows,
    prefixes: Vec<u128>,
}

impl KeyRows {
    fn new(rows: Rows) -> Self {
        let prefixes = rows
            .iter()
            .map(|row| {
                let data = row.data();
                let mut first = [0; 16];
                let n = data.len().min(16);
                first[..n].copy_from_slice(&data[..n]);
                u128::from_be_bytes(first)
            })
            .collect();
        KeyRows { rows, prefixes }
    }

    fn bytes(&self) -> u64 {
        (self.rows.size() + size_of_val(&*self.prefixes)) as u64
    }
}

impl Head {
    fn keys(&self) -> &KeyRows {
        self.batch.as_ref().and_then(|b| b.keys.as_ref()).expect("a head in the heap has keys")
    }

    /// Whether row `at` of this head comes before the current row of `other`.
    fn before(&self, at: usize, me: usize, other: &Head, they: usize) -> bool {
        let (a, b) = (self.keys(), other.keys());
        let order = a.prefixes[at]
            .cmp(&b.prefixes[other.at])
            .then_with(|| a.rows.row(at).cmp(&b.rows.row(other.at)))
            .then(me.cmp(&they));
        order.is_lt()
    }

    /// How many rows from the current one on come before the current row of `other`; at least
    /// one, since this head is the first.
    fn run_until(&self, other: Option<(usize, &Head)>, me: usize) -> usize {
        let rows = self.keys().prefixes.len();
        let Some((they, other)) = other else { return rows - self.at };
        // Gallop, then search within the last step.
        let (mut low, mut step) = (self.at + 1, 1);
        while low + step <= rows && self.before(low + step - 1, me, other, they) {
            low += step;
            step *= 2;
        }
        let mut high = (low + step - 1).min(rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.before(middle, me, other, they) { low = middle + 1 } else { high = middle }
        }
        low - self.at
    }
}

/// Indices of heads, the one with the least row on top.
struct Heap(Vec<usize>);

impl Heap {
    fn new(len: usize, heads: &[Head]) -> Self {
        let mut heap = Heap((0..len).collect());
        for i in (0..len / 2).rev() {
            heap.sift_from(i, heads);
        }
        heap
    }

    fn less(&self, a: usize, b: usize, heads: &[Head]) -> bool {
        let (a, b) = (self.0[a], self.0[b]);
        heads[a].before(heads[a].at, a, &heads[b], b)
    }

    fn first(&self) -> Option<usize> {
        self.0.first().copied()
    }

    fn second(&self, heads: &[Head]) -> Option<usize> {
        match self.0.len() {
            0 | 1 => None,
            2 => Some(self.0[1]),
            _ => Some(self.0[if self.less(1, 2, heads) { 1 } else { 2 }]),
        }
    }

    fn sift(&mut self, heads: &[Head]) {
        self.sift_from(0, heads);
    }

    fn sift_from(&mut self, mut at: usize, heads: &[Head]) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.0.len() && self.less(child, least, heads) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.0.swap(at, least);
            at = least;
        }
    }

    fn pop(&mut self, heads: &[Head]) {
        self.0.swap_remove(0);
        self.sift(heads);
    }
}

/// Collects runs of rows into batches.
#[derive(Default)]
struct Gather {
    /// Source batches and which input each came from while it is still current.
    sources: Vec<(Option<usize>, RecordBatch)>,
    places: Vec<(usize, usize)>,
    /// Of source batches that are no longer current.
    left_bytes: u64,
}

impl Gather {
    fn take(
        &mut self,
        input: usize,
        rows: &RecordBatch,
        at: usize,
        len: usize,
        out: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        if len >= SLICE_ROWS {
            self.flush(out)?;
            return out(rows.slice(at, len));
        }
        let source = match self.sources.iter().rposition(|(of, _)| *of == Some(input)) {
            Some(source) => source,
            None => {
                self.sources.push((Some(input), rows.clone()));
                self.sources.len() - 1
            }
        };
        self.places.extend((at..at + len).map(|row| (source, row)));
        if self.places.len() >= GATHER_ROWS { self.flush(out) } else { Ok(()) }
    }

    /// The input's current batch is used up.
    fn leave(&mut self, input: usize, out: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        for (of, batch) in &mut self.sources {
            if *of == Some(input) {
                *of = None;
                self.left_bytes += bytes_of(batch);
            }
        }
        // Bounds what is held of used-up batches.
        if self.sources.len() > 64 { self.flush(out) } else { Ok(()) }
    }

    fn flush(&mut self, out: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        if !self.places.is_empty() {
            let sources: Vec<&RecordBatch> = self.sources.iter().map(|s| &s.1).collect();
            out(interleave_record_batch(&sources, &self.places).map_err(failed("merge rows"))?)?;
        }
        self.places.clear();
        self.sources.clear();
        self.left_bytes = 0;
        Ok(())
    }
}
