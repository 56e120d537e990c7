//! What travels along every edge of a streaming plan, in band.

use arrow_array::{Int32Array, Int64Array, RecordBatch};

/// A point in event time up to which everything has been seen: nanoseconds since the Unix
/// epoch, so that windows over any time column fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatermarkTime(pub i64);

impl WatermarkTime {
    /// All there will ever be has been seen: what a source that ends gives before its end.
    pub const INFINITY: WatermarkTime = WatermarkTime(i64::MAX);
}

/// A checkpoint's number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Rows, with a weight each where they are a changelog.
#[derive(Debug, Clone)]
pub struct Rows {
    pub batch: RecordBatch,
    /// `_tp_delta` of each row; `None` = append-only, all +1.
    pub weights: Option<Int64Array>,
}

impl Rows {
    pub fn append(batch: RecordBatch) -> Self {
        Rows { batch, weights: None }
    }
}

/// Rows that were left out of a window because they came too late for it.
#[derive(Debug, Clone)]
pub struct LateRows {
    /// The columns that were asked to be kept, under their own names.
    pub kept: RecordBatch,
    pub shards: Int32Array,
    pub sns: Int64Array,
    /// Event times, nanoseconds since the epoch.
    pub times_ns: Int64Array,
    /// The watermarks they were judged by.
    pub watermarks_ns: Int64Array,
}

#[derive(Debug, Clone)]
pub enum Element {
    Rows(Rows),
    /// No later row of this edge is earlier, save rows its source stamped late.
    Watermark(WatermarkTime),
    /// How far single keys have come, where each has a watermark of its own: columns of the key, then
    /// [`crate::KEY_WATERMARK_COLUMN`].
    KeyWatermarks(RecordBatch),
    /// The edge has gone quiet and does not hold the watermark back.
    Idle,
    /// Everything before belongs to the epoch's checkpoint.
    Barrier(Epoch),
    /// Processing time, microseconds since the Unix epoch.
    Tick(i64),
    /// Every later row of this source was appended after this (microseconds since the Unix epoch).
    /// Ends at the source, which draws from it what is idle.
    Frontier(i64),
    /// What follows was not yet there when the query started.
    EndOfBackfill,
    /// Nothing follows.
    End,
}
