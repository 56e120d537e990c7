//! Simulator scenarios and reference models, for the tests of every other crate.
//!
//! Not here: anything a release contains.

pub mod crash;
pub mod log;
pub mod log_flips;
pub mod log_threads;
pub mod memory_log;
