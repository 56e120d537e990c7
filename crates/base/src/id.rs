//! Positions and times, each its own type so that they cannot be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A row's sequence number in its shard, from 0. SQL shows it as `_tp_sn` (int64).
///
/// Ranges are half open everywhere in code: `end` is the first number not covered, so an
/// empty log has `end == SeqNo(0)` and no number is needed for "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SeqNo(pub u64);

impl SeqNo {
    pub const ZERO: SeqNo = SeqNo(0);
    pub const MAX: SeqNo = SeqNo(i64::MAX as u64);
    /// The position `rows` further on.
    pub fn plus(self, rows: u64) -> SeqNo {
        SeqNo(self.0 + rows)
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Event time (`_tp_time`): milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(pub i64);

/// When the log accepted a row (`_tp_append_time`): microseconds since the Unix epoch, UTC.
/// Never falls within a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AppendTime(pub i64);

/// A shard's number within its stream, from 0. SQL shows it as `_tp_shard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
