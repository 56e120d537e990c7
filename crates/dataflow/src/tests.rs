//! Whole queries over scripted sources.

mod aggregates;
mod changelog;
mod emit;
mod expiry;
mod lives;
mod oracle;
mod property;
pub(crate) mod query;
mod seeds;
mod spilled;
mod stateful;
mod stored;
mod substreams;
pub(crate) mod support;
