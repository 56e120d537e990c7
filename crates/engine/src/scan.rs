//! Bounded reads of a stream: a snapshot of every shard as a DataFusion table.
//!
//! ```text
//! sync every shard -> snapshot (parts, committed_end, durable_end) -> prune whole parts
//!   -> ParquetSource over the verifying object store  +  LogExec over uncommitted rows
//! ```
//!
//! A bounded read sees every row acknowledged before it was planned. The snapshots' pins live
//! in the plan and in every stream made from it.
//!
//! Not here: unbounded reads (`source`), aliases, who may read.

mod access;
mod columns;
mod defaults;
mod external;
mod log_exec;
mod parts;
mod prune;
mod reader;
mod table;
#[cfg(test)]
pub(crate) mod tests;

pub use access::{ExternalAccess, RandomAccess, StoredAccess, StreamAccess, StreamLookup};
pub use columns::{SHARD_COLUMN, full_schema, shard_type};
pub use reader::{FooterCache, parts_url, register_parts};
pub use table::StreamTable;

pub(crate) use columns::{Picker, query_error};
pub(crate) use prune::{Extent, may_match};
pub(crate) use table::SnapshotScan;
