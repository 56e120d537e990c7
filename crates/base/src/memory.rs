//! Accounted memory: the process has a limit, each query has one below it.
//!
//! What is counted is what owners report (state, buffers, rings), not malloc.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A node in the tree of limits. Growing a node grows all its ancestors.
#[derive(Debug)]
pub struct MemoryBudget {
    name: String,
    limit_bytes: u64,
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    parent: Option<Arc<MemoryBudget>>,
}

/// Growing would pass a limit. Nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{owner} would use {wanted_bytes} bytes, more than its limit of {limit_bytes} bytes")]
pub struct OverBudget {
    pub owner: String,
    pub wanted_bytes: u64,
    pub limit_bytes: u64,
}

impl MemoryBudget {
    pub fn root(name: impl Into<String>, limit_bytes: u64) -> Arc<Self> {
        Self::node(name.into(), limit_bytes, None)
    }
    pub fn child(self: &Arc<Self>, name: impl Into<String>, limit_bytes: u64) -> Arc<Self> {
        Self::node(name.into(), limit_bytes, Some(self.clone()))
    }
    fn node(name: String, limit_bytes: u64, parent: Option<Arc<MemoryBudget>>) -> Arc<Self> {
        Arc::new(MemoryBudget {
            name,
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            parent,
        })
    }
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }
    /// Reserves `bytes` here and in every ancestor, or nowhere.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, OverBudget> {
        let mut r = Reservation { budget: self.clone(), bytes: 0 };
        r.grow(bytes)?;
        Ok(r)
    }
    fn grow(&self, bytes: u64) -> Result<(), OverBudget> {
        let wanted = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if wanted > self.limit_bytes {
            Some(OverBudget { owner: self.name.clone(), wanted_bytes: wanted, limit_bytes: self.limit_bytes })
        } else {
            self.parent.as_ref().and_then(|p| p.grow(bytes).err())
        };
        match refused {
            Some(over) => {
                self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
                Err(over)
            }
            None => {
                self.peak_bytes.fetch_max(wanted, Ordering::Relaxed);
                Ok(())
            }
        }
    }
    fn shrink(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(p) = &self.parent {
            p.shrink(bytes);
        }
    }
}

/// Bytes held against a budget; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    pub fn grow(&mut self, bytes: u64) -> Result<(), OverBudget> {
        self.budget.grow(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.budget.shrink(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_growth_leaves_every_level_as_it_was() {
        let root = MemoryBudget::root("server", 100);
        let a = root.child("query a", 80);
        let b = root.child("query b", 80);
        let held = a.reserve(60).unwrap();
        let refused = b.reserve(50).unwrap_err();
        assert_eq!((refused.owner.as_str(), refused.wanted_bytes), ("server", 110));
        assert_eq!((a.used_bytes(), b.used_bytes(), root.used_bytes()), (60, 0, 60));
        drop(held);
        assert_eq!((a.used_bytes(), root.used_bytes(), a.peak_bytes()), (0, 0, 60));
    }
}
