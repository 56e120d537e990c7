//! Whole queries over scripted sources.

mod property;
mod query;
mod support;
