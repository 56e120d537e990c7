//! Whole queries over scripted sources.

mod aggregates;
mod changelog;
mod emit;
mod expiry;
mod lives;
mod oracle;
mod property;
mod query;
mod seeds;
mod spilled;
mod stateful;
mod substreams;
mod support;
