//! Operators that remember earlier rows: functions over the rows before a row, the first rows of a
//! key, ranks within a result set.
//!
//! Rows are taken in the order in which they come; where that must be log order, the plan's sources
//! say so ([`crate::SourceSpec::log_order`]).

use crate::stream_plan::SortKey;
use arrow_schema::FieldRef;
use datafusion_common::ScalarValue;
use datafusion_physical_expr::PhysicalExpr;
use std::fmt;
use std::sync::Arc;

/// `lag(c, n)` looks back so many rows at most; each key keeps as many values.
pub const LAG_ROWS_MAX: u64 = 10_000;
/// Keys that `dedup` remembers unless told otherwise.
pub const DEDUP_KEYS_DEFAULT: u64 = 10_000;

/// Functions over the rows so far of one partition.
#[derive(Debug, Clone)]
pub struct OverSpec {
    /// Empty: all rows are one partition.
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    pub functions: Vec<OverFunction>,
}

#[derive(Debug, Clone)]
pub struct OverFunction {
    pub kind: OverKind,
    pub arg: Option<Arc<dyn PhysicalExpr>>,
    /// Of aggregates: rows for which this is not true count for nothing.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub output: FieldRef,
}

/// What a function gives for a row; aggregates are over all rows up to and with it.
#[derive(Debug, Clone, PartialEq)]
pub enum OverKind {
    /// From 1.
    RowNumber,
    /// The value so many rows before, else `default`.
    Lag {
        rows: usize,
        default: ScalarValue,
    },
    Count,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
    /// The first and the last one that is not NULL.
    Earliest,
    Latest,
}

impl fmt::Display for OverFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.kind {
            OverKind::RowNumber => "row_number",
            OverKind::Lag { rows, .. } => {
                let arg = self.arg.as_ref().map(ToString::to_string).unwrap_or_default();
                return write!(f, "lag({arg}, {rows})");
            }
            OverKind::Count => "count",
            OverKind::Sum => "sum",
            OverKind::Avg => "avg",
            OverKind::Min => "min",
            OverKind::Max => "max",
            OverKind::First => "first_value",
            OverKind::Last => "last_value",
            OverKind::Earliest => "earliest",
            OverKind::Latest => "latest",
        };
        match &self.arg {
            Some(arg) => write!(f, "{name}({arg})"),
            None => write!(f, "{name}()"),
        }
    }
}

/// Lets the first row of each key through.
#[derive(Debug, Clone)]
pub struct DedupSpec {
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// A key is forgotten so long after the row that was let through, in append time.
    pub ttl_us: Option<i64>,
    /// Position of the append time among the input's columns, where there is a ttl.
    pub append_time: Option<usize>,
    /// At most so many keys are remembered, the oldest goes first; `None` = all.
    pub keys_max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankKind {
    RowNumber,
    Rank,
    DenseRank,
}

/// Numbers the rows of each partition within one result set, which comes as one batch.
#[derive(Debug, Clone)]
pub struct RankSpec {
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    pub order: Vec<SortKey>,
    pub functions: Vec<(RankKind, FieldRef)>,
}
