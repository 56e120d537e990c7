//! Which parts are live and where the border between parts and log lies, durably.
//!
//! An append-only file of checksummed changes that begins with a whole state; when it has
//! grown, the state goes into a new file by atomic rename. Readers hold a [`Version`] and
//! see neither later changes nor the removal of files they hold.
//!
//! Invariants, asserted where written and where read
//! - rows of live files + rows removed = rows committed; every change's rows add up;
//! - no two live files have an id in common, `committed_end` never falls;
//! - a file is removed only after the change that drops it is durable;
//! - after a failed write nothing is appended until a new file is durable, and no file that
//!   the doubtful change names is removed before that.
//!
//! Not here: what a commit or merge writes (`commit`, `merge`), log retention.

mod file;
mod state;

pub(crate) use file::Manifest;
pub(crate) use state::{Change, Version};

#[cfg(test)]
mod tests;
