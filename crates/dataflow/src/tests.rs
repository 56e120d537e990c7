//! Whole queries over scripted sources.

mod emit;
mod lives;
mod aggregates;
mod changelog;
mod oracle;
mod property;
mod query;
mod support;
