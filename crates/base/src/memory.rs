//! Accounted memory: the process has a limit, each query has one below it.
//!
//! What is counted is what owners report (state, buffers, rings), not malloc. Memory that can
//! be done without ([`Reclaim`]) is given back before anyone is refused.

use parking_lot::Mutex;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Holds memory that it can do without, such as a cache.
pub trait Reclaim: Debug + Send + Sync {
    /// Gives back about so many bytes and says how many. Called while others wait for memory,
    /// and possibly from within the holder's own growth: it must not wait for a lock.
    fn reclaim(&self, bytes: u64) -> u64;
}

/// At least this part of the limit is reclaimed at a time, so that a tight budget does not ask
/// for every small growth.
const RECLAIM_SHARE: u64 = 64;

/// A node in the tree of limits. Growing a node grows all its ancestors.
#[derive(Debug)]
pub struct MemoryBudget {
    name: String,
    limit_bytes: u64,
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    parent: Option<Arc<MemoryBudget>>,
    reclaimers: Mutex<Vec<Weak<dyn Reclaim>>>,
    /// Whose turn it is to give.
    turn: AtomicUsize,
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
            reclaimers: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// Asks `holder` for memory from now on before this node refuses any.
    pub fn add_reclaimer(&self, holder: Weak<dyn Reclaim>) {
        let mut all = self.reclaimers.lock();
        if all.len() == all.capacity() {
            all.retain(|r| r.strong_count() > 0);
        }
        all.push(holder);
    }

    /// What the holders gave back of `bytes`.
    fn reclaim(&self, bytes: u64) -> u64 {
        let mut holders: Vec<_> = self.reclaimers.lock().iter().filter_map(Weak::upgrade).collect();
        if holders.is_empty() {
            return 0;
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % holders.len();
        holders.rotate_left(first);
        let wanted = bytes.max(self.limit_bytes / RECLAIM_SHARE);
        let mut given = 0;
        for holder in holders {
            if given >= wanted {
                break;
            }
            given += holder.reclaim(wanted - given);
        }
        given
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
        match self.grow_once(bytes, Self::grow) {
            // An ancestor has asked its own holders.
            Err(over) if over.owner == self.name => {
                let missing = over.wanted_bytes.saturating_sub(over.limit_bytes);
                if self.reclaim(missing) == 0 { Err(over) } else { self.grow_once(bytes, Self::grow) }
            }
            other => other,
        }
    }

    fn grow_gently(&self, bytes: u64) -> Result<(), OverBudget> {
        self.grow_once(bytes, Self::grow_gently)
    }

    fn grow_once(
        &self,
        bytes: u64,
        above: fn(&MemoryBudget, u64) -> Result<(), OverBudget>,
    ) -> Result<(), OverBudget> {
        if bytes == 0 {
            // Fits any limit, also one that was passed.
            return Ok(());
        }
        let wanted = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if wanted > self.limit_bytes {
            Some(OverBudget { owner: self.name.clone(), wanted_bytes: wanted, limit_bytes: self.limit_bytes })
        } else {
            self.parent.as_ref().and_then(|p| above(p, bytes).err())
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
    fn grow_past(&self, bytes: u64) {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_bytes.fetch_max(used, Ordering::Relaxed);
        if let Some(p) = &self.parent {
            p.grow_past(bytes);
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
    /// Grows only into what is free: takes nothing back from holders that can do without it.
    pub fn grow_gently(&mut self, bytes: u64) -> Result<(), OverBudget> {
        self.budget.grow_gently(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
    /// Grows past the limits where it must: for a bounded amount, of work that can not stop half
    /// way and gives memory back when it is done. Holders that can do without are asked first;
    /// what is past a limit counts, so that others are refused the sooner.
    pub fn grow_anyway(&mut self, bytes: u64) {
        if self.budget.grow(bytes).is_err() {
            self.budget.grow_past(bytes);
        }
        self.bytes += bytes;
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

    #[test]
    fn what_must_grow_passes_the_limit_and_is_counted() {
        let root = MemoryBudget::root("server", 100);
        let query = root.child("query", 90);
        let held = query.reserve(90).unwrap();
        let mut work = query.reserve(0).unwrap();
        work.grow_anyway(30);
        assert_eq!((query.used_bytes(), root.used_bytes(), root.peak_bytes()), (120, 120, 120));
        assert!(root.reserve(1).is_err());
        root.reserve(0).expect("nothing fits a limit that was passed");
        drop(held);
        assert_eq!((work.bytes(), root.used_bytes()), (30, 30));
        drop(work);
        assert_eq!((query.used_bytes(), root.used_bytes()), (0, 0));
    }

    #[derive(Debug)]
    struct Cache(Mutex<Reservation>);

    impl Reclaim for Cache {
        fn reclaim(&self, bytes: u64) -> u64 {
            let Some(mut held) = self.0.try_lock() else { return 0 };
            let before = held.bytes();
            held.shrink(bytes);
            before - held.bytes()
        }
    }

    #[test]
    fn what_can_be_done_without_is_given_back_before_anyone_is_refused() {
        let root = MemoryBudget::root("server", 100);
        let cache = Arc::new(Cache(Mutex::new(root.reserve(70).unwrap())));
        let as_holder: Weak<dyn Reclaim> = Arc::downgrade(&(cache.clone() as Arc<dyn Reclaim>));
        root.add_reclaimer(as_holder);
        let query = root.child("query", 90);
        let mut held = query.reserve(20).unwrap();
        assert_eq!((cache.0.lock().bytes(), root.used_bytes()), (70, 90), "there was room");
        assert!(held.grow_gently(40).is_err());
        held.grow(40).unwrap();
        assert_eq!((cache.0.lock().bytes(), root.used_bytes()), (40, 100));
        // The holder's own growth can not ask itself.
        assert!(cache.0.lock().grow(10).is_err());
        assert_eq!(held.grow(31).unwrap_err().owner, "query");
        assert_eq!(cache.0.lock().bytes(), 40, "a query's own limit takes nothing from others");
        drop(cache);
        held.grow(30).unwrap();
    }
}
