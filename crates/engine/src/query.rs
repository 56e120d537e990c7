//! The life of a query: who runs, with what limits, and how it ends.
//!
//! ```text
//! Registry::register -> Entry (id, budget, cancel) -> start_bounded | start_streaming
//!   -> stream of batches; dropped, killed, timed out or failed, the query is gone
//! ```
//!
//! Every query runs on the compute runtime; only its batches cross to the network's, through
//! a buffer with a limit.
//!
//! Not here: parsing and planning SQL, sources, operators.

mod bounded;
mod buffer;
mod history;
mod late;
mod memory;
mod operators;
mod registry;
mod state;
mod streaming;
#[cfg(test)]
mod tests;
mod why;

pub use bounded::start_bounded;
pub(crate) use buffer::Late;
pub use history::{FinishedQuery, HistoryBounds, QueryAbout, QueryHistory, QueryRecord, QueryWarning};
pub use late::{LateLog, LateRow};
pub(crate) use late::{LateWriter, late_target};
pub use memory::BudgetPool;
pub use operators::{OperatorStatus, OperatorSums};
pub(crate) use registry::SELECT;
pub use registry::{Drops, QueryEntry, QueryInfo, QueryRegistry, QuerySpec};
pub use state::{Event, Finish, State};
pub use streaming::{StreamingQuery, start_streaming};
pub(crate) use why::why;
