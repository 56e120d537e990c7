//! Floor 1: sketches, one for both sides. A quantile or a number of distinct values is the same
//! to the last bit in a bounded query and over a stream, because both keep the states that are here.
//!
//! Every state is a function of the set (or multiset) of values it took in: order, batches and
//! merges change nothing.
//!
//! Not here: groups, tables, DataFusion. What holds a state for each group is `function`'s for
//! bounded queries and `dataflow`'s for streams.

pub mod bins;
mod hash;
mod histogram;
mod hll;

pub use hash::hash_rows;
pub use histogram::{BINS_MAX, Bins, rank};
pub use hll::Hll;

/// The bytes of a saved sketch say something impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;
