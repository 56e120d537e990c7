//! The operators, one a file.

pub mod aggregate;
pub mod changelog;
pub mod delta;
pub mod filter;
pub mod limit;
pub mod project;
pub mod sort;
pub mod union;
pub mod weights;
pub mod window;
