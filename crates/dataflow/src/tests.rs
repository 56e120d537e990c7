//! Whole queries over scripted sources.

mod aggregates;
mod oracle;
mod property;
mod query;
mod support;
