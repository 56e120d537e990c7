//! What a keyed aggregation is to compute, and when it is to say so.
//!
//! Not here: state, hashing, time.

use arrow_schema::FieldRef;
use datafusion_physical_expr::PhysicalExpr;
use std::fmt;
use std::sync::Arc;

/// The aggregates with a state of our own.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    BitAnd,
    BitOr,
    BitXor,
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
        write!(f, "{:?}({})", self.kind, args.join(", "))?;
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
            EmitPolicy::OnUpdate { every_us: None } => f.write_str("on update"),
            EmitPolicy::OnUpdate { every_us: Some(us) } => write!(f, "on update every {} ms", us / 1_000),
        }
    }
}
