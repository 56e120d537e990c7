//! Unbounded reads: history, then the tail, as a source of a streaming plan.
//!
//! ```text
//! start position -> per shard a cursor -> history up to the end durable at the start, merged
//!   in replay order -> EndOfBackfill -> live rows, each as it arrives
//! ```
//!
//! Invariants
//! - every row from the start position on is given once, in `_tp_sn` order per shard (in
//!   event-time order: history sorted by event time, then live rows in `_tp_sn` order);
//! - history of several shards and sources leaves in one order (`merge`, `gate`);
//! - live rows never wait for another shard, unless they are judged for windows or feed a function of
//!   the order of rows: then rows of several shards leave in log order, live as well;
//! - a plan whose result depends on no order gets its history in none (`free`);
//! - memory is what is decoded ahead, bounded ([`factory::AHEAD_BYTES_MAX`]) and charged to the query,
//!   or one slice in event-time order.
//!
//! Not here: bounded reads (`scan`), filters, watermarks.

mod event_time;
mod external;
mod factory;
mod free;
mod gate;
mod generate;
mod merge;
mod pace;
mod progress;
mod prune;
mod random;
mod shard;
mod start;
mod tail;
#[cfg(test)]
mod tests;

pub use factory::{StreamSources, Warnings};
pub use generate::{RowGenerator, TypedGenerator};
pub use progress::{QuerySources, SourceRead};

pub(crate) use external::{completed, pick};
pub(crate) use random::generate_block;
pub(crate) use tail::Cuts;
