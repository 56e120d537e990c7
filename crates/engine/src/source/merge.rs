//! The order of replay: where a row stands among all rows of a query's history.
//!
//! Pure.

use std::cmp::Ordering;
use std::sync::Arc;
use weir_storage::TailBatch;

/// A row's place. In arrival order `time` is the append time in microseconds, in event-time
/// order the event time in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub time: i64,
    pub stream: Arc<str>,
    pub shard: u32,
    pub sn: u64,
    /// Tells apart two sources over the same stream.
    pub source: usize,
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time
            .cmp(&other.time)
            .then_with(|| self.stream.cmp(&other.stream))
            .then_with(|| self.shard.cmp(&other.shard))
            .then_with(|| self.sn.cmp(&other.sn))
            .then_with(|| self.source.cmp(&other.source))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whose rows these are: what a key needs beside the row.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub stream: Arc<str>,
    pub shard: u32,
    pub source: usize,
}

impl Origin {
    pub fn arrival(&self, rows: &TailBatch, row: usize) -> Key {
        Key {
            time: rows.append_time(row).0,
            stream: self.stream.clone(),
            shard: self.shard,
            sn: rows.sn(row).0,
            source: self.source,
        }
    }

    /// How many leading rows come before `bound`. Append times and sns never fall in a batch.
    pub fn run_length(&self, rows: &TailBatch, bound: Option<&Key>) -> usize {
        let Some(bound) = bound else { return rows.rows() };
        let (mut low, mut high) = (0, rows.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.arrival(rows, middle) < *bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
