//! Whole queries over scripted sources.

mod changelog;
mod oracle;
mod property;
mod query;
mod support;
