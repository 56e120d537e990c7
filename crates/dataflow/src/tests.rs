//! Whole queries over scripted sources.

mod oracle;
mod property;
mod query;
mod support;
