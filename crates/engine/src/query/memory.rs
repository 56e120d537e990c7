//! DataFusion's memory, counted against a query's budget.

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use weir_base::{MemoryBudget, Reservation};

/// A pool whose limits are those of a [`MemoryBudget`] and its ancestors.
#[derive(Debug)]
pub struct BudgetPool {
    budget: Arc<MemoryBudget>,
    state: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    reservation: Reservation,
    /// Grown by operators that cannot take no for an answer, above the limit.
    above_bytes: u64,
}

impl BudgetPool {
    pub fn new(budget: Arc<MemoryBudget>) -> Self {
        let reservation = budget.reserve(0).expect("reserving nothing fits any limit");
        BudgetPool { budget, state: Mutex::new(Held { reservation, above_bytes: 0 }) }
    }
}

impl MemoryPool for BudgetPool {
    fn name(&self) -> &str {
        "weir"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        let mut held = self.state.lock();
        if held.reservation.grow(additional as u64).is_err() {
            held.above_bytes += additional as u64;
        }
    }

    fn shrink(&self, _: &MemoryReservation, bytes: usize) {
        let mut held = self.state.lock();
        let above = held.above_bytes.min(bytes as u64);
        held.above_bytes -= above;
        held.reservation.shrink(bytes as u64 - above);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut held = self.state.lock();
        held.reservation.grow(additional as u64).map_err(|over| {
            resources_datafusion_err!(
                "operator {} asked for {additional} bytes more: {over}; raise max_memory_usage or let the query \
                 hold less",
                reservation.consumer().name()
            )
        })
    }

    fn reserved(&self) -> usize {
        let held = self.state.lock();
        (held.reservation.bytes() + held.above_bytes) as usize
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.budget.limit_bytes() as usize)
    }
}

impl fmt::Display for BudgetPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weir({} of {} bytes)", self.reserved(), self.budget.limit_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::MemoryConsumer;

    #[test]
    fn growth_is_counted_refused_and_given_back() {
        let root = MemoryBudget::root("server", 1_000);
        let pool: Arc<dyn MemoryPool> = Arc::new(BudgetPool::new(root.child("query q1", 100)));
        let sort = MemoryConsumer::new("Sort").register(&pool);
        sort.try_grow(60).unwrap();
        let refused = sort.try_grow(50).unwrap_err().to_string();
        assert!(
            refused.contains("operator Sort") && refused.contains("110") && refused.contains("100"),
            "{refused}"
        );
        assert_eq!((root.used_bytes(), pool.reserved()), (60, 60));
        sort.grow(50);
        assert_eq!((root.used_bytes(), pool.reserved()), (60, 110), "above the limit is known, not reserved");
        drop(sort);
        assert_eq!((root.used_bytes(), pool.reserved()), (0, 0));
    }
}
