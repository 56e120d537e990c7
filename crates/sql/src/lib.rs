//! Floor 4: text to statement to plan.
//!
//! ```text
//! text -> parse -> Statement -> bind -> LogicalPlan -> { bounded plan | StreamPlan }
//! ```
//!
//! Not here: execution, storage, what exists (a [`bind::Scope`] answers that), sessions.

pub mod ast;
pub mod bind;
pub mod parse;
pub mod stream;

pub use ast::Statement;
