//! The operators, one a file.

pub mod filter;
pub mod limit;
pub mod project;
pub mod union;
