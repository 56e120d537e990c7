//! How a source gives what was there before the query started.

/// In what order the rows of history leave a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceOrder {
    /// As the plan's replay order says; rows of a shard by sequence number.
    #[default]
    Log,
    /// By append time over all shards, live rows as well: these wait until no other shard can have an
    /// earlier one.
    Live,
    /// The query's result depends on no order: whichever is the fastest.
    Any,
}

/// What a source does with its history. The default: all of it, in order, as fast as it can.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HistorySpec {
    pub order: SourceOrder,
    /// Backfill is said to end before it begins, so that results leave while history is read.
    pub emits: bool,
    /// Only what the log still holds, nothing from parts.
    pub log_only: bool,
    pub replay: Option<ReplaySpec>,
}

/// History given at the pace at which it came, or a piece of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplaySpec {
    /// The column with the time of each row, a timestamp: of the stream, or `_tp_append_time`.
    pub column: String,
    /// 1 = as it came, 2 = twice as fast, 0 = without waiting.
    pub speed: f64,
    /// Rows before are left out; microseconds since the Unix epoch.
    pub start_us: Option<i64>,
    /// Rows after are left out, and the source ends.
    pub end_us: Option<i64>,
}
