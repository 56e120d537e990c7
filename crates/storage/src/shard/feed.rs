//! Rows of an external log on their way in.

use super::Shard;
use crate::batch::TailBatch;
use crate::error::{Result, StorageError};
use crate::external::{Fed, LogKeeper};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_base::SeqNo;

/// Rows are held up to so many times the bytes at which they go to parts.
const HELD_TIMES_MAX: u64 = 2;

impl Shard {
    /// Says who reads the log, which is an external one.
    pub fn keep_by(&self, keeper: Arc<dyn LogKeeper>) {
        if let Some(log) = self.log.external() {
            log.keep_by(keeper);
        }
    }

    /// Takes rows in that are durable in the external log: the stream's columns in order, numbers that increase
    /// and follow all that was fed. Waits while much is not in parts. Dropping the future feeds nothing.
    ///
    /// # Errors
    /// [`StorageError::Closed`] and [`StorageError::Dropped`]; [`StorageError::Schema`] for rows or numbers that
    /// do not fit.
    pub async fn feed(&self, rows: TailBatch) -> Result<()> {
        let Some(log) = self.log.external() else {
            return Err(StorageError::Schema { what: "the stream keeps its own log".into() });
        };
        let mut rows = TailBatch { batch: self.conform(rows.batch)?, ..rows };
        loop {
            let shrunk = self.backlog.shrunk.notified();
            tokio::pin!(shrunk);
            // Counted from here on, so that nothing between the attempt and the wait is missed.
            shrunk.as_mut().enable();
            if self.closed.load(Ordering::SeqCst) {
                return Err(self.closed_error());
            }
            let limit = self.options().flush_threshold_bytes.saturating_mul(HELD_TIMES_MAX);
            let counted = |end, bytes| self.backlog.add(end, bytes, self.ctx.clock.monotonic());
            match log.feed(rows, limit, counted)? {
                Fed::Taken => return Ok(()),
                Fed::Full(back) => rows = back,
            }
            self.backlog.hurry();
            shrunk.await;
        }
    }

    /// Says that the log has no more rows below `end` than were fed.
    pub fn fed_to(&self, end: SeqNo) {
        if let Some(log) = self.log.external() {
            log.passed(end);
        }
    }

    /// Recent rows from `from` on, if they are in memory.
    pub(super) fn recent(&self, from: SeqNo) -> Option<TailBatch> {
        match self.log.external() {
            Some(log) => log.get(from),
            None => self.ring.get(from),
        }
    }
}
