//! Whole queries over scripted sources.

mod emit;
mod lives;
mod oracle;
mod property;
mod query;
mod support;
