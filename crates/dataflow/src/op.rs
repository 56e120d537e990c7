//! The operators, one a file.

pub mod aggregate;
pub mod chain;
pub mod changelog;
pub mod dedup;
pub mod delta;
pub mod filter;
mod held;
mod kept;
mod late;
pub mod limit;
pub mod lives;
pub mod over;
pub mod project;
pub mod rank;
pub mod session;
pub mod sort;
pub mod substreams;
pub mod union;
pub mod version;
pub mod weights;
pub mod window;
