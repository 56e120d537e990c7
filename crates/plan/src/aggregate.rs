//! What a keyed aggregation is to compute, and when it is to say so.
//!
//! Not here: state, hashing, time.

use crate::window::{WindowBound, WindowKind, WindowSpec};
use arrow_schema::FieldRef;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use std::fmt;
use std::sync::Arc;

/// The aggregates with a state of our own, and all others.
#[derive(Debug, Clone, PartialEq)]
pub enum AggregateKind {
    /// Rows, or values that are not null where there is an argument.
    Count,
    Sum,
    Avg,
    Min,
    Max,
    /// The value of the first row in the order of the rows; nulls are passed over where `skip_nulls`.
    First {
        skip_nulls: bool,
    },
    Last {
        skip_nulls: bool,
    },
    /// The first argument of the row with the least second one; the first such row in the order of
    /// the rows. A null second argument never wins.
    ArgMin,
    ArgMax,
    /// A value within 1 % of the one at this rank (0 to 1), by DDSketch.
    Quantile {
        level: f64,
    },
    /// Number of distinct values, about (HyperLogLog).
    Uniq,
    UniqExact,
    VarPop,
    VarSamp,
    StddevPop,
    StddevSamp,
    /// All values in the order of the rows.
    GroupArray {
        skip_nulls: bool,
    },
    /// Distinct values, ascending.
    GroupUniqArray,
    /// The first so many values that are not NULL, in the order of the rows.
    GroupArrayFirst {
        most: usize,
    },
    /// The least so many distinct values, ascending.
    GroupUniqArrayLeast {
        most: usize,
    },
    /// Sums of the values up to each, or of the last `window` of them, in the order of the rows; where there
    /// are three further arguments, in theirs.
    MovingSum {
        window: Option<usize>,
    },
    /// The same, over the number of values in a window, without one over that of all.
    MovingAvg {
        window: Option<usize>,
    },
    BitAnd,
    BitOr,
    BitXor,
    /// The most frequent values, with how often each occurs where wanted.
    TopK {
        k: usize,
        with_count: bool,
    },
    /// The k least values with their further arguments; of equal ones the first in the order of rows.
    MinK {
        k: usize,
    },
    MaxK {
        k: usize,
    },
    /// Any other, by the accumulator it brings: one object a group, slower and larger than ours. What
    /// depends on the order of rows takes the order as arguments behind its own.
    Udaf(Arc<AggregateFunctionExpr>),
}

#[derive(Debug, Clone)]
pub struct AggregateSpec {
    pub kind: AggregateKind,
    pub args: Vec<Arc<dyn PhysicalExpr>>,
    /// Only rows for which this is true.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Name and type of the result.
    pub output: FieldRef,
}

impl fmt::Display for AggregateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args: Vec<String> = self.args.iter().map(ToString::to_string).collect();
        match &self.kind {
            AggregateKind::Udaf(u) => write!(f, "{}({})", u.fun().name(), args.join(", "))?,
            kind => write!(f, "{kind:?}({})", args.join(", "))?,
        }
        match &self.filter {
            Some(filter) => write!(f, " where {filter}"),
            None => Ok(()),
        }
    }
}

/// Where a row stands among all rows, for aggregates that depend on it: positions in the input of
/// event time, shard and sequence number, compared in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOrder {
    pub time: usize,
    pub shard: usize,
    pub sn: usize,
}

/// The keys of an aggregation that are its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowKeys {
    /// Positions among the keys.
    pub start: usize,
    pub end: usize,
    pub spec: WindowSpec,
    /// The bound that a window above goes by: the watermark is passed on as far as it allows. `None` =
    /// nobody above asks for it.
    pub passes: Option<WindowBound>,
}

impl WindowKeys {
    /// Rows come only when their window has closed: all that has come leaves at the next watermark.
    pub fn closed_below(&self) -> bool {
        matches!(self.spec.kind, WindowKind::Session(_))
    }
}

/// When results leave. Times are processing time in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmitPolicy {
    /// A window's rows once, when it closes.
    OnClose,
    /// Everything there is, every so often, if anything changed (or always).
    Periodic { every_us: i64, repeat: bool },
    /// Keys that changed: after each input batch, or at most every so often.
    OnUpdate { every_us: Option<i64> },
    /// For each input row the result of its key.
    PerEvent,
    /// The groups of an input batch get no more rows: they leave with it and are forgotten.
    Complete,
}

/// When the life of a key begins and ends (`AFTER KEY EXPIRE`, `AFTER SESSION CLOSE`). Columns are
/// positions in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeSpec {
    /// By which it is measured.
    pub time: usize,
    pub append_time: usize,
    /// Whether a row opens a life; without it every row may.
    pub opens: Option<usize>,
    /// Whether a row closes its life.
    pub closes: Option<usize>,
    /// A row that opens goes into a life that is open, instead of ending it.
    pub merge_open: bool,
    /// A row that closes belongs to the life it closes.
    pub close_included: bool,
    /// A life ends with the row that makes it so long, nanoseconds.
    pub span_max_ns: i64,
    /// Those that end shorter are left out.
    pub only: bool,
    /// A life without a row for so long (append time, microseconds) ends.
    pub timeout_us: Option<i64>,
}

impl fmt::Display for LifeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}span {} ms", if self.only { "only " } else { "" }, self.span_max_ns / 1_000_000)?;
        match self.timeout_us {
            Some(us) => write!(f, ", timeout {} ms", us / 1_000),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmitSpec {
    pub policy: EmitPolicy,
    /// Each change as the old row with weight −1 and the new one with +1.
    pub changelog: bool,
}

impl EmitSpec {
    /// What a global aggregation does unless told otherwise.
    pub const GLOBAL: EmitSpec =
        EmitSpec { policy: EmitPolicy::Periodic { every_us: 2_000_000, repeat: false }, changelog: false };
    /// What an aggregation does whose results another one takes in.
    pub const INNER: EmitSpec = EmitSpec { policy: EmitPolicy::OnUpdate { every_us: None }, changelog: true };
    /// What a window aggregation does unless told otherwise.
    pub const WINDOW: EmitSpec = EmitSpec { policy: EmitPolicy::OnClose, changelog: false };
}

impl fmt::Display for EmitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changelog {
            f.write_str("changelog ")?;
        }
        match self.policy {
            EmitPolicy::OnClose => f.write_str("after window close"),
            EmitPolicy::Periodic { every_us, repeat } => {
                write!(f, "periodic {} ms{}", every_us / 1_000, if repeat { " repeat" } else { "" })
            }
            EmitPolicy::PerEvent => f.write_str("per event"),
            EmitPolicy::Complete => f.write_str("when complete"),
            EmitPolicy::OnUpdate { every_us: None } => f.write_str("on update"),
            EmitPolicy::OnUpdate { every_us: Some(us) } => write!(f, "on update every {} ms", us / 1_000),
        }
    }
}
