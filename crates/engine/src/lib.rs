//! Floor 5: sessions, statements, the life of a query, ingest, DDL, access, settings, system
//! streams. The one API every protocol translates to.
//!
//! ```text
//! protocol -> Session -> Engine::execute(text) -> Outcome { Done | Rows | Insert }
//! ```
//!
//! Not here: sockets, wire formats of protocols, operators, how bytes lie on disk.

pub mod outcome;
pub mod query;
pub mod scan;
pub mod session;
pub mod source;

pub use outcome::{Done, InsertHandle, Outcome, Progress, QueryHandle, Schema};
pub use session::{QueryMode, Session};
