//! The only source of randomness. Seeded in tests and simulation, from the machine otherwise.

use parking_lot::Mutex;

/// A shared random generator; not for secrets.
#[derive(Debug)]
pub struct Rng(Mutex<fastrand::Rng>);

impl Rng {
    pub fn seeded(seed: u64) -> Self {
        Rng(Mutex::new(fastrand::Rng::with_seed(seed)))
    }
    #[allow(clippy::disallowed_methods, reason = "the world handle itself")]
    pub fn from_machine() -> Self {
        Rng(Mutex::new(fastrand::Rng::new()))
    }
    pub fn u64(&self) -> u64 {
        self.0.lock().u64(..)
    }
    /// Uniform in `0..bound`; `bound` must not be 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().u64(..bound)
    }
    /// Uniform in `[0, 1)`.
    pub fn f64(&self) -> f64 {
        self.0.lock().f64()
    }
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }
}
