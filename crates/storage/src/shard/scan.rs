//! History in no order: parts as they lie, then the log, to an end that was taken at the start.
//!
//! For readers whose result depends on no order. How far it has come is no sequence number: who
//! must begin again begins at the start, until the end has been reached.

use super::ahead::{Ahead, Order};
use super::snapshot::{LogRows, ShardSnapshot};
use super::wanted::{Reading, Wanted};
use crate::batch::TailBatch;
use crate::error::{Result, StorageError};
use std::sync::Arc;
use tokio::task::{JoinHandle, spawn_blocking};
use weir_base::SeqNo;

/// The rows of a snapshot from a position on, each once.
#[derive(Debug)]
pub struct HistoryScan {
    reading: Arc<Reading>,
    from: SeqNo,
    parts: Option<Ahead>,
    log: LogState,
}

#[derive(Debug)]
enum LogState {
    Idle(Box<LogRows>),
    Reading(JoinHandle<(Box<LogRows>, Option<Result<TailBatch>>)>),
    Ended,
}

impl ShardSnapshot {
    /// Reads the rows at or after `from`.
    pub fn scan(&self, from: SeqNo, wanted: Wanted) -> HistoryScan {
        let reading = Reading::new(&self.shard, wanted);
        let mut parts: Vec<_> = self.parts.iter().filter(|p| p.meta.sn_end > from).cloned().collect();
        if let Some(pruner) = &reading.wanted.pruner {
            let mut kept = pruner.parts(self.shard.id(), &parts).into_iter();
            parts.retain(|_| kept.next().unwrap_or(true));
        }
        let parts = Ahead::new(&self.shard, &reading, parts.into(), Order::Any, from, true);
        let log = LogState::Idle(Box::new(self.log_rows_from(from)));
        HistoryScan { reading, from, parts: Some(parts), log }
    }
}

impl HistoryScan {
    /// The next rows; `None` after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<TailBatch>> {
        if let Some(parts) = &mut self.parts {
            if let Some(rows) = parts.next().await? {
                return Ok(Some(rows));
            }
            self.parts = None;
        }
        loop {
            let reading = match &mut self.log {
                LogState::Reading(reading) => reading,
                LogState::Ended => return Ok(None),
                idle => {
                    let LogState::Idle(mut rows) = std::mem::replace(idle, LogState::Ended) else {
                        unreachable!("the other states were matched")
                    };
                    *idle = LogState::Reading(spawn_blocking(move || {
                        let next = rows.next();
                        (rows, next)
                    }));
                    continue;
                }
            };
            let (rows, next) =
                reading.await.map_err(|e| StorageError::Worker { doing: "a read", reason: e.to_string() })?;
            self.log = if next.is_some() { LogState::Idle(rows) } else { LogState::Ended };
            match next {
                None => return Ok(None),
                Some(rows) => {
                    let rows = self.reading.pick(rows?.starting_at(self.from))?;
                    if rows.rows() > 0 {
                        return Ok(Some(rows));
                    }
                }
            }
        }
    }
}
