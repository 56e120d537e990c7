//! What an operator is, and where it puts its results.

use crate::state::{StateReader, StateWriter};
use arrow_array::RecordBatch;
use datafusion_common::DataFusionError;
use weir_base::Code;
use weir_plan::{Element, LateRows, Rows, StreamError, WatermarkTime};

/// Which input of an operator an element came from, from 0 in the order of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputId(pub usize);

/// Why an operator cannot go on; ends its query.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// An expression failed on some row.
    #[error("{operator} failed: {source}")]
    Eval { operator: &'static str, source: Box<DataFusionError> },
    /// The plan does not fit its own schemas.
    #[error("{operator} got a plan that does not fit: {reason}")]
    Plan { operator: &'static str, reason: String },
    /// A row that the query cannot take.
    #[error("{reason}")]
    Row { reason: String },
    /// State could not be written to disk or read back.
    #[error(
        "{operator} could not spill its state to disk: {source}; make room there or raise max_memory_usage"
    )]
    Spill { operator: &'static str, source: std::io::Error },
    /// Saved state could not be read, though it may be whole.
    #[error("{operator} could not read its state: {source}")]
    Read { operator: &'static str, source: std::io::Error },
    /// Saved state that is damaged or not this operator's.
    #[error("{operator} cannot restore its state: {reason}")]
    Restore { operator: &'static str, reason: String },
}

impl From<OpError> for StreamError {
    fn from(e: OpError) -> Self {
        match e {
            OpError::Eval { operator, source } => {
                let inner = StreamError::from(*source);
                // What the user's own expression did needs no operator's name in front.
                match inner.code.kind() {
                    weir_base::ErrorKind::Internal => StreamError {
                        code: inner.code,
                        message: format!("{operator} failed: {}", inner.message),
                    },
                    _ => inner,
                }
            }
            e @ OpError::Plan { .. } => StreamError { code: Code::LogicalError, message: e.to_string() },
            OpError::Row { reason } => StreamError { code: Code::BadArguments, message: reason },
            OpError::Spill { ref source, .. } | OpError::Read { ref source, .. } => {
                let code = match source.kind() {
                    std::io::ErrorKind::StorageFull => Code::NotEnoughSpace,
                    std::io::ErrorKind::InvalidData => Code::CorruptedData,
                    _ => Code::IoError,
                };
                StreamError { code, message: e.to_string() }
            }
            e @ OpError::Restore { .. } => StreamError { code: Code::CorruptedData, message: e.to_string() },
        }
    }
}

/// What an operator says of itself after each call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub late_rows: u64,
    /// Rows left out because of an emit policy.
    pub skipped_rows: u64,
    /// Keys that were forgotten because no row came for them.
    pub expired_keys: u64,
    pub keys: u64,
    /// Accounted against the query's memory.
    pub state_bytes: u64,
}

/// One step of a query.
///
/// No clock, no tasks, no I/O of its own. The loop merges the watermarks of several inputs and
/// aligns their barriers before it calls; what an operator puts into `out` goes on in that
/// order, before the element that caused it. `End`, `Idle` and barriers are passed on by the
/// loop itself.
pub trait Operator: Send {
    fn rows(&mut self, from: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError>;

    /// Passes it on unless rows may still leave that are earlier.
    fn watermark(&mut self, at: WatermarkTime, out: &mut Output) -> Result<(), OpError> {
        out.watermark(at);
        Ok(())
    }

    /// Every later row was appended after this, microseconds since the epoch.
    fn frontier(&mut self, append_us: i64, out: &mut Output) -> Result<(), OpError> {
        out.push(Element::Frontier(append_us));
        Ok(())
    }

    /// How far single keys have come.
    fn key_watermarks(&mut self, marks: &RecordBatch, out: &mut Output) -> Result<(), OpError> {
        out.push(Element::KeyWatermarks(marks.clone()));
        Ok(())
    }

    /// Processing time, microseconds since the epoch.
    fn tick(&mut self, now_us: i64, out: &mut Output) -> Result<(), OpError> {
        out.push(Element::Tick(now_us));
        Ok(())
    }

    /// When the operator wants the next tick (microseconds since the epoch): a time that has passed
    /// asks for one now, `None` for none.
    fn tick_due(&self) -> Option<i64> {
        None
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    /// The event time (nanoseconds) at which something held leaves, once the watermark is there.
    fn waits_for(&self) -> Option<i64> {
        None
    }

    fn end_of_backfill(&mut self, out: &mut Output) -> Result<(), OpError> {
        out.push(Element::EndOfBackfill);
        Ok(())
    }

    /// All inputs have ended: the last chance to emit.
    fn end(&mut self, _out: &mut Output) -> Result<(), OpError> {
        Ok(())
    }

    /// More results of the last call are still to leave, and so is what it passes on after them: the
    /// loop hands on what there is, then calls [`Self::go_on`], and nothing else before the last piece.
    fn unfinished(&self) -> bool {
        false
    }

    /// Emits the next piece.
    fn go_on(&mut self, _out: &mut Output) -> Result<(), OpError> {
        Ok(())
    }

    /// Gives memory back by writing state to disk; `false` = there is nothing it could.
    fn spill(&mut self) -> Result<bool, OpError> {
        Ok(false)
    }

    /// Nothing will be emitted any more, whatever comes: the loop ends this branch and drops
    /// its sources. Asked before the first element and after each call.
    fn done(&self) -> bool {
        false
    }

    /// State at a barrier. Stateless operators write nothing.
    fn snapshot(&mut self, _into: &mut StateWriter) -> Result<(), OpError> {
        Ok(())
    }

    fn restore(&mut self, _from: &StateReader) -> Result<(), OpError> {
        Ok(())
    }

    /// Writes about so many more things of the state that the last barrier asked for, as they were at it.
    fn snapshot_more(&mut self, _things: usize) -> Result<Wrote, OpError> {
        Ok(Wrote::All)
    }

    /// The last checkpoint was not completed: the next one counts on nothing that was written for it.
    fn snapshot_lost(&mut self) {}
}

/// How far an operator is with what a barrier asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrote {
    All,
    /// There is more, and room for it.
    More,
    /// There is more; the disk has to come along.
    Waits,
}

/// What one call of an operator emits, in order.
#[derive(Debug, Default)]
pub struct Output {
    pub(crate) elements: Vec<Element>,
    pub(crate) rows: u64,
    pub(crate) late: Vec<LateRows>,
}

impl Output {
    /// Emits rows; of an empty batch nothing.
    pub fn rows(&mut self, rows: Rows) {
        let n = rows.batch.num_rows();
        if n > 0 {
            self.rows += n as u64;
            self.elements.push(Element::Rows(rows));
        }
    }

    pub fn watermark(&mut self, at: WatermarkTime) {
        self.elements.push(Element::Watermark(at));
    }

    /// Tells of rows that are left out as late.
    pub fn late(&mut self, rows: LateRows) {
        self.late.push(rows);
    }

    pub fn push(&mut self, element: Element) {
        match element {
            Element::Rows(rows) => self.rows(rows),
            other => self.elements.push(other),
        }
    }
}
