//! How long the log keeps rows, and who needs them longer.

use super::Shard;
use crate::error::{Result, StorageError};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::SeqNo;

/// Positions from which on the log is kept, and how far dropping has been allowed.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: BTreeMap<SeqNo, usize>,
    allowed: SeqNo,
}

/// Keeps log rows from a position on until dropped.
#[derive(Debug)]
pub struct LogPin {
    shard: Arc<Shard>,
    at: SeqNo,
}

impl LogPin {
    pub fn position(&self) -> SeqNo {
        self.at
    }
}

impl Drop for LogPin {
    fn drop(&mut self) {
        let mut pins = self.shard.pins.lock();
        if let Some(count) = pins.held.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                pins.held.remove(&self.at);
            }
        }
    }
}

impl Shard {
    /// Keeps the log from `position` on, for a checkpoint or a reader.
    ///
    /// # Errors
    /// [`StorageError::Truncated`] if part of it is gone already.
    pub fn pin_log(self: &Arc<Self>, position: SeqNo) -> Result<LogPin> {
        let mut pins = self.pins.lock();
        let oldest = self.log.start().max(pins.allowed);
        if position < oldest {
            return Err(StorageError::Truncated { asked: position, oldest });
        }
        *pins.held.entry(position).or_default() += 1;
        drop(pins);
        Ok(LogPin { shard: self.clone(), at: position })
    }

    /// Pins where `position` says at the moment no truncation is being decided.
    pub(super) fn pin_at(self: &Arc<Self>, position: impl FnOnce() -> SeqNo) -> LogPin {
        let mut pins = self.pins.lock();
        let at = position();
        *pins.held.entry(at).or_default() += 1;
        drop(pins);
        LogPin { shard: self.clone(), at }
    }

    /// Drops sealed segments that retention no longer keeps. Never above the committed end
    /// (but for streams without parts) nor at or above a pin. Blocks.
    pub fn retain_once(&self) -> Result<()> {
        let floor = self.version().floor;
        let target = self.retention_target().max(floor);
        let before = {
            let mut pins = self.pins.lock();
            let version = self.version();
            let committed = if self.has_parts() { version.committed_end } else { self.log.durable_end() };
            let pinned = pins.held.keys().next().copied().unwrap_or(SeqNo::MAX);
            let before = target.min(committed).min(pinned);
            // A later snapshot pins at or above the committed end read here, so above this.
            pins.allowed = pins.allowed.max(before.min(self.log.durable_end()));
            before
        };
        if before > self.log.start() {
            self.log.truncate(before)?;
        }
        Ok(())
    }

    /// Where the log would begin if nothing else needed it.
    fn retention_target(&self) -> SeqNo {
        let options = self.options();
        let segments = self.log.segments();
        let mut target = SeqNo::ZERO;
        if let Some(bytes_max) = options.log_retention_bytes {
            let mut kept = 0u64;
            for segment in segments.iter().rev() {
                kept = kept.saturating_add(segment.size_bytes);
                // The one being written stays whatever its size.
                if kept > bytes_max && segment.sealed {
                    target = target.max(segment.end);
                    break;
                }
            }
        }
        if let Some(ms) = options.log_retention_ms {
            let oldest_us = self.ctx.clock.now_us().saturating_sub_unsigned(ms.saturating_mul(1000));
            for segment in segments.iter().filter(|s| s.sealed && s.last_append_time.0 < oldest_us) {
                target = target.max(segment.end);
            }
        }
        target
    }
}
