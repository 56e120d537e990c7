//! How long the log keeps rows, and who needs them longer.

use super::Shard;
use crate::error::{Result, StorageError};
use crate::logs::SEGMENTS_OF_A_BOUND;
use crate::options::LogFull;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
        // Of an external log nothing is dropped that is not in parts.
        if position < oldest && self.log.external().is_none() {
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
        if let Some(log) = self.log.external() {
            let version = self.version();
            log.truncate(version.committed_end.max(version.floor));
            return Ok(());
        }
        self.retain(self.retention_target(), true)
    }

    /// Makes room for appends of so many bytes, where the log may have so many and no more. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError::LogFull`] if what is there is needed, and the oldest rows may not go.
    pub(super) fn make_room(&self, bytes: u64, limit_bytes: u64) -> Result<()> {
        let _one = self.making_room.lock();
        // The next segment is made in its full size.
        let limit_bytes = limit_bytes - limit_bytes / SEGMENTS_OF_A_BOUND;
        let over = |held: u64| held.saturating_add(bytes) > limit_bytes;
        if !over(self.log_bytes()) {
            return Ok(());
        }
        // What nobody needs goes first, and as much as makes room for some time.
        let target = self.older_than(limit_bytes.saturating_sub(limit_bytes / 4).saturating_sub(bytes));
        self.retain(target, true)?;
        let held_bytes = self.log_bytes();
        if !over(held_bytes) {
            return Ok(());
        }
        if self.options().log_full == LogFull::Refuse {
            return Err(StorageError::LogFull { held_bytes, limit_bytes });
        }
        self.retain(target, false)?;
        let held_bytes = self.log_bytes();
        // Rows that are not in parts yet, or one segment only.
        if over(held_bytes) { Err(StorageError::LogFull { held_bytes, limit_bytes }) } else { Ok(()) }
    }

    /// The oldest row that somebody has pinned; the log is kept from there on.
    pub fn pinned(&self) -> Option<SeqNo> {
        self.pins.lock().held.keys().next().copied()
    }

    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Rows that went although somebody needed them, since the shard was opened.
    pub fn dropped_rows(&self) -> u64 {
        self.dropped_rows.load(Ordering::Relaxed)
    }

    /// Drops sealed segments before `target`; those that somebody has pinned only if not `pinned`.
    fn retain(&self, target: SeqNo, pinned: bool) -> Result<()> {
        let target = target.max(self.version().floor);
        let (before, needed) = {
            let mut pins = self.pins.lock();
            let version = self.version();
            let committed = if self.has_parts() { version.committed_end } else { self.log.durable_end() };
            let needed = pins.held.keys().next().copied().unwrap_or(SeqNo::MAX);
            let before = if pinned { target.min(committed).min(needed) } else { target.min(committed) };
            // A later snapshot pins at or above the committed end read here, so above this.
            pins.allowed = pins.allowed.max(before.min(self.log.durable_end()));
            (before, needed)
        };
        let start = self.log.start();
        if before > start {
            self.log.truncate(before)?;
        }
        // Whole segments went.
        let lost = self.log.start().0.saturating_sub(needed.max(start).0);
        if !pinned && lost > 0 {
            self.dropped_rows.fetch_add(lost, Ordering::Relaxed);
            self.metrics.dropped_rows.add(lost as i64);
        }
        Ok(())
    }

    /// Where the newest sealed segments begin that have so many bytes together with the one being written, which
    /// stays whatever its size.
    fn older_than(&self, bytes_max: u64) -> SeqNo {
        let mut kept = 0u64;
        for segment in self.log.segments().iter().rev() {
            kept = kept.saturating_add(segment.size_bytes);
            if kept > bytes_max && segment.sealed {
                return segment.end;
            }
        }
        SeqNo::ZERO
    }

    /// Where the log would begin if nothing else needed it.
    fn retention_target(&self) -> SeqNo {
        let options = self.options();
        let segments = self.log.segments();
        let mut target = options.log_retention_bytes.map_or(SeqNo::ZERO, |bytes| self.older_than(bytes));
        if let Some(ms) = options.log_retention_ms {
            let oldest_us = self.ctx.clock.now_us().saturating_sub_unsigned(ms.saturating_mul(1000));
            for segment in segments.iter().filter(|s| s.sealed && s.last_append_time.0 < oldest_us) {
                target = target.max(segment.end);
            }
        }
        target
    }
}
