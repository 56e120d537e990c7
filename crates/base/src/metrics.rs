//! Counters and gauges by name; `/metrics` and `system.metrics` print the registry.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// One number. A counter only grows; a gauge is set.
#[derive(Debug, Clone, Default)]
pub struct Metric(Arc<AtomicI64>);

impl Metric {
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
    pub fn set(&self, to: i64) {
        self.0.store(to, Ordering::Relaxed);
    }
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
}

#[derive(Debug, Clone)]
pub struct MetricEntry {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricKind,
    pub metric: Metric,
}

/// Every metric of one process, by name. Names end in their unit (`_bytes`, `_rows_total`).
#[derive(Default)]
pub struct Registry {
    entries: Mutex<BTreeMap<&'static str, MetricEntry>>,
    /// Called before numbers are read: for those that are counted elsewhere.
    refresh: Mutex<Vec<Refresh>>,
}

type Refresh = Arc<dyn Fn() + Send + Sync>;

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Registry {
    pub fn counter(&self, name: &'static str, help: &'static str) -> Metric {
        self.entry(name, help, MetricKind::Counter)
    }
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Metric {
        self.entry(name, help, MetricKind::Gauge)
    }
    fn entry(&self, name: &'static str, help: &'static str, kind: MetricKind) -> Metric {
        let mut all = self.entries.lock();
        let entry =
            all.entry(name).or_insert_with(|| MetricEntry { name, help, kind, metric: Metric::default() });
        assert_eq!(entry.kind, kind, "metric {name} registered twice with different kinds");
        entry.metric.clone()
    }
    /// Calls `refresh` before every reading.
    pub fn before_reading(&self, refresh: impl Fn() + Send + Sync + 'static) {
        self.refresh.lock().push(Arc::new(refresh));
    }

    pub fn all(&self) -> Vec<MetricEntry> {
        let refresh = self.refresh.lock().clone();
        refresh.iter().for_each(|r| r());
        self.entries.lock().values().cloned().collect()
    }
}
