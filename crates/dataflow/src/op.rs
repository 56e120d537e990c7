//! The operators, one a file.

pub mod aggregate;
pub mod changelog;
pub mod delta;
pub mod filter;
mod held;
mod late;
pub mod limit;
pub mod lives;
pub mod project;
pub mod session;
pub mod sort;
pub mod union;
pub mod version;
pub mod weights;
pub mod window;
