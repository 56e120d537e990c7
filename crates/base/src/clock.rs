//! The only place that reads a clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall and monotonic time. Cheap to call; shared as `Arc<dyn Clock>`.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Microseconds since the Unix epoch, UTC. May jump either way.
    fn now_us(&self) -> i64;
    /// Time since some fixed instant; never falls.
    fn monotonic(&self) -> Duration;
    /// Milliseconds since the Unix epoch, UTC.
    fn now_ms(&self) -> i64 {
        self.now_us().div_euclid(1000)
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the world handle itself")]
    pub fn new() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the world handle itself")]
    fn now_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(d) => d.as_micros() as i64,
            Err(before) => -(before.duration().as_micros() as i64),
        }
    }
    #[allow(clippy::disallowed_methods, reason = "the world handle itself")]
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until told to move: simulation and `--test-clock`.
#[derive(Debug)]
pub struct ManualClock {
    now_us: AtomicI64,
    start_us: i64,
}

impl ManualClock {
    pub fn new(now_us: i64) -> Self {
        ManualClock { now_us: AtomicI64::new(now_us), start_us: now_us }
    }
    pub fn advance(&self, by: Duration) {
        self.now_us.fetch_add(by.as_micros() as i64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> i64 {
        self.now_us.load(Ordering::SeqCst)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_micros((self.now_us() - self.start_us).max(0) as u64)
    }
}
