//! Floor 4: runs a [`weir_plan::StreamPlan`]: operators, and the one task loop that feeds them.
//!
//! ```text
//! sources -> task (polls, merges watermarks, aligns barriers) -> operators -> sink
//! ```
//!
//! A chain without an exchange is one task in one thread, without channels between. A row
//! leaves as it arrives: nothing here waits for a timer or for more rows.
//!
//! A new operator is a file in [`op`], a variant in `plan` and a line in [`build`].
//!
//! Where a source judges rows ([`weir_plan::WatermarkSpec`]) the judge sits right behind it, before
//! anything else sees a row.
//!
//! Not here: SQL, storage, what sources and sinks are, clocks of operators.

mod agg;
mod build;
mod checkpoint;
mod gate;
mod graph;
mod identity;
mod lasting;
pub mod op;
mod operator;
mod resources;
mod runtime;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod time;
mod watermark;
mod workers;

pub use operator::{InputId, OpError, Operator, Output, Stats, Wrote};
pub use resources::Resources;
pub use runtime::DataflowRuntime;
pub use state::spill::SpillSpace;
pub use state::{StateReader, StateWriter};
pub use workers::Workers;
