//! Floor 5: sessions, statements, the life of a query, ingest, DDL, access, settings, system
//! streams. The one API every protocol translates to.
//!
//! ```text
//! protocol -> Session -> Engine::execute(text) -> Outcome { Done | Rows | Insert }
//! ```
//!
//! Not here: sockets, wire formats of protocols, operators, how bytes lie on disk.

pub mod access;
mod check;
pub mod config;
mod ddl;
mod engine;
mod execute;
mod explain;
mod expr;
mod external_log;
mod externals;
mod ingest;
mod insert_select;
mod layout;
pub mod outcome;
pub mod query;
mod random;
pub mod scan;
mod scope;
mod secrets;
pub mod session;
mod session_functions;
mod session_state;
pub mod settings;
pub mod source;
mod steer;
mod streams;
mod subscriptions;
mod system;
mod view;

pub use access::Users;
pub use check::{Report, check};
pub use config::{BackedUp, Backups, CheckpointsLocation, EngineConfig, World};
pub use engine::Engine;
pub use outcome::{Done, InsertHandle, InsertWriter, Outcome, Progress, QueryHandle, Schema};
pub use session::{QueryMode, Session};
pub use session_state::{FunctionInfo, FunctionSet};
pub use view::WebHook;
