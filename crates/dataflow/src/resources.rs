//! What operators with much state may use of the machine.

use crate::state::spill::SpillSpace;
use crate::workers::Workers;
use std::sync::Arc;
use weir_base::MemoryBudget;
use weir_plan::StateSpec;

/// Groups of a window from which on its state is dealt over threads.
const DIVIDE_GROUPS: usize = 1 << 16;
/// Groups from which on those without rows are looked for.
const TIDY_GROUPS: usize = 1 << 10;
/// Bytes of a window's state that are worth a file.
const SPILL_BYTES_MIN: usize = 1 << 20;
/// Of the query's memory so many tenths are left when state spills, for what reads its sources and for
/// sorting what spills; under a small limit more, since the allocator, too, takes its share.
const LEFT_TENTHS: u64 = 3;
const LEFT_BYTES_MIN: u64 = 128 << 20;
/// Rows that leave in one piece.
const PIECE_ROWS: usize = 1 << 16;

#[derive(Debug, Clone)]
pub struct Resources {
    /// Into so many parts a large state is dealt, by hash of the key.
    pub threads: usize,
    pub workers: Arc<Workers>,
    /// Keys of an aggregation over the whole stream are forgotten after so long without a row; 0 = never.
    pub(crate) ttl_us: i64,
    /// Where state goes that memory has no room for; `None` = a query that needs it fails.
    pub spill: Option<Arc<SpillSpace>>,
    /// The query's; state spills before it is used up.
    pub memory: Option<Arc<MemoryBudget>>,
    pub(crate) divide_groups: usize,
    pub(crate) spill_bytes_min: usize,
    /// So many groups of a changelog are worth looking for those that are gone.
    pub(crate) tidy_groups: usize,
    /// Even, since changes leave in pairs.
    pub(crate) piece_rows: usize,
}

impl Resources {
    /// As many threads as the workers have.
    pub fn new(workers: Arc<Workers>) -> Self {
        Resources {
            threads: workers.threads(),
            workers,
            ttl_us: 0,
            spill: None,
            memory: None,
            spill_bytes_min: SPILL_BYTES_MIN,
            divide_groups: DIVIDE_GROUPS,
            tidy_groups: TIDY_GROUPS,
            piece_rows: PIECE_ROWS,
        }
    }

    /// What one query wants instead of the defaults.
    pub(crate) fn for_query(mut self, state: StateSpec) -> Self {
        if state.threads > 0 {
            self.threads = state.threads;
        }
        self.ttl_us = state.ttl_us;
        self
    }

    /// Whether state that has become `now` bytes, of which `before` are counted, should rather lie on disk.
    pub(crate) fn is_tight(&self, before: usize, now: usize) -> bool {
        self.is_used(before, now, 1)
    }

    /// Whether half of that is used.
    pub(crate) fn is_half_full(&self, before: usize, now: usize) -> bool {
        self.is_used(before, now, 2)
    }

    fn is_used(&self, before: usize, now: usize, share: u64) -> bool {
        let Some(memory) = &self.memory else { return false };
        let used = memory.used_bytes().saturating_add(now as u64).saturating_sub(before as u64);
        let limit = memory.limit_bytes();
        let left = (limit / 10 * LEFT_TENTHS).max(LEFT_BYTES_MIN.min(limit / 2));
        self.spill.is_some() && used > (limit - left) / share
    }

    /// Bytes of a window's state that are worth a file; under a small limit less is.
    pub(crate) fn spill_bytes_min(&self) -> usize {
        let limit = self.memory.as_ref().map_or(u64::MAX, |m| m.limit_bytes());
        self.spill_bytes_min.min((limit / 16).try_into().unwrap_or(usize::MAX))
    }

    /// The caller's thread.
    pub fn one_thread() -> Self {
        Resources::new(Workers::new(1))
    }
}
