//! Rows of parts in sequence order, in bounded memory.
//!
//! Parts that follow each other in arrival order need only be decoded (`ahead`). Parts in arrival
//! order over the same numbers are merged as they are read; a part sorted otherwise is first dealt
//! into buckets by sequence number, on disk where it is large. Parts are opened when the
//! position reaches them and closed when it has passed.

use super::Shard;
use super::ahead::{Ahead, Order};
use super::cursor::When;
use super::retention::LogPin;
use super::wanted::Reading;
use crate::batch::TailBatch;
use crate::error::{Result, StorageError};
use crate::order::failed;
use crate::parts::{PartFile, PartReader};
use crate::spill::Spill;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;
use std::collections::VecDeque;
use std::sync::Arc;
use weir_base::SeqNo;

/// Rows decoded at once.
const INPUT_ROWS: usize = 8_192;
/// Rows delivered at once.
const OUTPUT_ROWS: usize = 8_192;
/// Where parts share more than this part of the sequence numbers, the log is read if it holds them.
const SHARED_PART_MAX: u64 = 8;
/// A part sorted otherwise is held in memory up to this many rows, else dealt into buckets
/// of about so many.
const BUCKET_ROWS: u64 = 262_144;

#[derive(Debug)]
pub(super) struct Replay {
    shard: Arc<Shard>,
    reading: Arc<Reading>,
    /// What parts are decoded to: the wanted columns, number and append time.
    part_schema: SchemaRef,
    /// Not yet opened, the next one last.
    waiting: Vec<Arc<PartFile>>,
    /// Parts that need only be decoded; before those in `waiting`, while none is open.
    ahead: Option<Ahead>,
    open: Vec<Source>,
    /// Rows the reader can do without are left out.
    pruned: bool,
    position: SeqNo,
    end: SeqNo,
    /// Keeps the log from `end` on, so that reading goes on there.
    _pin: LogPin,
}

impl Replay {
    /// The rows of parts from `from` on, as of now.
    pub fn open(shard: &Arc<Shard>, reading: &Arc<Reading>, from: SeqNo, when: When) -> Result<Self> {
        let mut version = None;
        let pin = shard.pin_at(|| {
            let now = shard.version();
            let at = now.committed_end;
            version = Some(now);
            at
        });
        let version = version.expect("pin_at asks for the position");
        let mut waiting: Vec<_> = version.parts.values().filter(|p| p.meta.sn_end > from).cloned().collect();
        waiting.sort_by_key(|p| std::cmp::Reverse(p.meta.sn_min));
        let pruner = reading.wanted.pruner.as_ref().filter(|_| when != When::Live);
        if let Some(pruner) = pruner {
            let mut kept = pruner.parts(shard.id(), &waiting).into_iter();
            waiting.retain(|_| kept.next().unwrap_or(true));
        }
        Ok(Replay {
            shard: shard.clone(),
            reading: reading.clone(),
            part_schema: reading.part_schema(),
            waiting,
            ahead: None,
            open: Vec::new(),
            pruned: pruner.is_some(),
            position: from,
            end: version.committed_end,
            _pin: pin,
        })
    }

    /// Whether parts hold the rows from `from` on, and most of them only need decoding.
    pub fn is_straight(shard: &Shard, from: SeqNo) -> bool {
        let version = shard.version();
        if !shard.has_parts() || version.committed_end <= from {
            return false;
        }
        let mut parts: Vec<_> = version.parts.values().filter(|p| p.meta.sn_end > from).collect();
        parts.sort_by_key(|p| p.meta.sn_min);
        let (mut end, mut shared) = (from, 0);
        for part in &parts {
            shared += end.min(part.meta.sn_end).0.saturating_sub(part.meta.sn_min.max(from).0);
            end = end.max(part.meta.sn_end);
        }
        parts.iter().all(|p| p.meta.arrival) && shared <= (version.committed_end.0 - from.0) / SHARED_PART_MAX
    }

    /// Whether it goes on at `position` and leaves out nothing that the reader must have.
    pub fn serves(&self, position: SeqNo, when: When) -> bool {
        self.position == position && !(self.pruned && when == When::Live)
    }

    /// The parts to be decoded next, if that is all they need.
    pub fn ahead(&mut self) -> Option<&mut Ahead> {
        if self.ahead.is_none() && self.open.len() <= 1 {
            let mut run = VecDeque::new();
            if let Some(last) = self.open.first() {
                // The others that shared its numbers have been passed.
                let meta = &last.part.meta;
                if !meta.arrival || self.waiting.last().is_some_and(|p| p.meta.sn_min < meta.sn_end) {
                    return None;
                }
                run.push_back(last.part.clone());
                self.open.clear();
            }
            while let Some(part) = self.waiting.last() {
                let after = self.waiting.len().checked_sub(2).map(|i| self.waiting[i].meta.sn_min);
                if !part.meta.arrival || after.is_some_and(|sn| sn < part.meta.sn_end) {
                    break;
                }
                run.extend(self.waiting.pop());
            }
            if !run.is_empty() {
                let (order, from) = (Order::Sequence, self.position);
                self.ahead = Some(Ahead::new(&self.shard, &self.reading, run, order, from, self.pruned));
            }
        }
        self.ahead.as_mut()
    }

    /// Rows that [`Replay::ahead`] gave have been taken.
    pub fn passed(&mut self, rows: &TailBatch) {
        self.position = rows.end().expect("rows in sequence order have numbers");
    }

    pub fn leave_ahead(&mut self) {
        self.ahead = None;
    }

    /// Rows from here on are read elsewhere.
    pub fn end(&self) -> SeqNo {
        self.end
    }

    /// The next rows; `None` after the last. Blocks.
    pub fn next(&mut self) -> Result<Option<TailBatch>> {
        loop {
            if let Some(ahead) = self.ahead() {
                if let Some(tail) = ahead.next_blocking()? {
                    self.passed(&tail);
                    return Ok(Some(tail));
                }
                self.leave_ahead();
                continue;
            }
            // Open what can hold the next row.
            let first = self.open.iter().filter_map(Source::head).min();
            while let Some(part) = self.waiting.pop_if(|p| first.is_none_or(|f| p.meta.sn_min.0 as i64 <= f))
            {
                let source = Source::open(&self.shard, &self.part_schema, part, self.position)?;
                self.open.push(source);
                if first.is_none() {
                    break;
                }
            }
            self.open.retain(|s| s.head().is_some());
            if self.open.is_empty() {
                if self.waiting.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            let first = self.open.iter().filter_map(Source::head).min().expect("some are open");
            if self.waiting.last().is_some_and(|p| p.meta.sn_min.0 as i64 <= first) {
                continue;
            }
            let batch = self.merge()?;
            let tail = TailBatch::from_part(&batch, &self.reading.schema)?;
            self.position = tail.end().expect("merge returns rows");
            return Ok(Some(tail));
        }
    }

    /// Up to `OUTPUT_ROWS` of the open sources in order, before any part not yet opened.
    fn merge(&mut self) -> Result<RecordBatch> {
        let border = self.waiting.last().map_or(i64::MAX, |p| p.meta.sn_min.0 as i64);
        let mut places: Vec<(usize, usize)> = Vec::new();
        let mut used: Vec<RecordBatch> = Vec::new();
        let mut slot: Vec<Option<usize>> = vec![None; self.open.len()];
        while places.len() < OUTPUT_ROWS {
            let mut heads: Vec<(i64, usize)> =
                self.open.iter().enumerate().filter_map(|(i, s)| Some((s.head()?, i))).collect();
            heads.sort_unstable();
            let Some(&(first, i)) = heads.first() else { break };
            if first >= border {
                break;
            }
            // Everything of this source before the next source's row goes in one run.
            let until = heads.get(1).map_or(i64::MAX, |h| h.0).min(border);
            let source = &mut self.open[i];
            let current = source.current.as_ref().expect("a source with a head has rows");
            let sns = sns_of(current);
            let from = source.at;
            let run = sns[from..].partition_point(|sn| *sn < until).min(OUTPUT_ROWS - places.len());
            assert!(run > 0, "sequence number {first} is in two parts");
            if places.is_empty() && (run >= OUTPUT_ROWS || from + run == sns.len() && heads.len() == 1) {
                let batch = current.slice(from, run);
                source.pass(run)?;
                return Ok(batch);
            }
            let b = *slot[i].get_or_insert_with(|| {
                used.push(current.clone());
                used.len() - 1
            });
            places.extend((from..from + run).map(|row| (b, row)));
            if source.pass(run)? {
                slot[i] = None;
            }
        }
        interleave_record_batch(&used.iter().collect::<Vec<_>>(), &places).map_err(failed("replay rows"))
    }
}

/// One part, read in sequence order.
#[derive(Debug)]
struct Source {
    part: Arc<PartFile>,
    feed: Feed,
    current: Option<RecordBatch>,
    at: usize,
    from: i64,
}

enum Feed {
    /// The file is in sequence order.
    Arrival(PartReader),
    /// Sorted batches, next first.
    Memory(VecDeque<RecordBatch>),
    Spilled(Spill),
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Feed::Arrival(_) => "Arrival",
            Feed::Memory(_) => "Memory",
            Feed::Spilled(_) => "Spilled",
        })
    }
}

impl Source {
    fn open(shard: &Arc<Shard>, schema: &SchemaRef, part: Arc<PartFile>, from: SeqNo) -> Result<Self> {
        let mut reader = PartReader::open(shard.ctx.parts(), &part, schema, INPUT_ROWS)?;
        let feed = if part.meta.arrival {
            Feed::Arrival(reader)
        } else if part.meta.rows <= BUCKET_ROWS {
            let mut batches = Vec::new();
            while let Some(batch) = reader.next()? {
                batches.push(batch);
            }
            let whole = concat_batches(schema, &batches).map_err(failed("replay rows"))?;
            Feed::Memory(VecDeque::from([sort_by_sn(&whole)?]))
        } else {
            Feed::Spilled(Self::deal(shard, schema, &part, reader, from)?)
        };
        let mut source = Source { part, feed, current: None, at: 0, from: from.0 as i64 };
        source.load()?;
        Ok(source)
    }

    /// Deals the part's rows into buckets by sequence number.
    fn deal(
        shard: &Arc<Shard>,
        schema: &SchemaRef,
        part: &PartFile,
        mut reader: PartReader,
        from: SeqNo,
    ) -> Result<Spill> {
        let start = part.meta.sn_min.max(from);
        let buckets = part.meta.rows.div_ceil(BUCKET_ROWS).max(1);
        let width = (part.meta.sn_end.0 - start.0).div_ceil(buckets).max(1);
        let mut spill = Spill::create(&shard.ctx, shard.spill_dir(), schema, buckets as usize)?;
        while let Some(batch) = reader.next()? {
            let mut rows: Vec<Vec<u32>> = vec![Vec::new(); buckets as usize];
            for (row, sn) in sns_of(&batch).iter().enumerate() {
                if *sn as u64 >= start.0 {
                    rows[((*sn as u64 - start.0) / width) as usize].push(row as u32);
                }
            }
            for (bucket, rows) in rows.into_iter().enumerate().filter(|(_, r)| !r.is_empty()) {
                let picked =
                    take_record_batch(&batch, &UInt32Array::from(rows)).map_err(failed("replay rows"))?;
                spill.add(bucket, picked)?;
            }
        }
        spill.finish()?;
        Ok(spill)
    }

    /// The next row's sequence number.
    fn head(&self) -> Option<i64> {
        self.current.as_ref().map(|c| sns_of(c)[self.at])
    }

    /// Moves on by `rows`; true if another batch is current now.
    fn pass(&mut self, rows: usize) -> Result<bool> {
        self.at += rows;
        if self.current.as_ref().is_some_and(|c| self.at < c.num_rows()) {
            return Ok(false);
        }
        self.load()?;
        Ok(true)
    }

    fn load(&mut self) -> Result<()> {
        (self.current, self.at) = (None, 0);
        loop {
            let next = match &mut self.feed {
                Feed::Arrival(reader) => reader.next()?,
                Feed::Memory(batches) => batches.pop_front(),
                Feed::Spilled(spill) => match spill.next_bucket()? {
                    Some(bucket) => Some(sort_by_sn(&bucket)?),
                    None => None,
                },
            };
            let Some(batch) = next else { return Ok(()) };
            let skip = sns_of(&batch).partition_point(|sn| *sn < self.from);
            if skip < batch.num_rows() {
                self.at = skip;
                self.current = Some(batch);
                return Ok(());
            }
        }
    }
}

fn sns_of(batch: &RecordBatch) -> &[i64] {
    let column: &ArrayRef = batch.column(batch.num_columns() - 2);
    let sns: &Int64Array = column.as_primitive::<Int64Type>();
    debug_assert_eq!(sns.null_count(), 0);
    sns.values()
}

fn sort_by_sn(batch: &RecordBatch) -> Result<RecordBatch> {
    let sns = sns_of(batch);
    let mut order: Vec<u32> = (0..sns.len() as u32).collect();
    order.sort_unstable_by_key(|row| sns[*row as usize]);
    take_record_batch(batch, &UInt32Array::from(order))
        .map_err(|e| StorageError::Arrow { doing: "replay rows", source: Arc::new(e) })
}
