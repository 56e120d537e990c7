//! The operators, one a file.

pub mod aggregate;
pub mod delta;
pub mod filter;
mod late;
pub mod limit;
pub mod project;
pub mod session;
pub mod sort;
pub mod union;
pub mod window;
