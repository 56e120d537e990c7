//! Rows on their way in: which columns they lack and what goes there, when they happened, which
//! shard they belong to, which record they become.
//!
//! ```text
//! decoded rows -> blocks of max_insert_block_size -> defaults, event time -> shards -> append
//! ```
//!
//! Not here: how rows are parsed (`weir_format`), the log, acknowledgement to the client.

pub mod fill;
mod values;
mod writer;

pub use fill::{IngestPlan, default_array};
pub(crate) use values::rows_of_values;
pub(crate) use writer::{Destination, LogWriters, StreamWriter, WriterOptions};
