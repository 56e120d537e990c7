//! Floor 6: protocols. Each translates between bytes on a socket and the engine's one API.
//!
//! ```text
//! socket -> clickhouse_http | rest -> QueryService (the engine) -> Outcome -> encoder -> socket
//! ```
//!
//! Codecs (negotiation, framing, exception blocks, statement heads) are pure functions and
//! are tested without sockets; only `clickhouse_http::server` and `socket` do I/O.
//!
//! Not here: SQL beyond finding where a statement ends, streams, storage, process wiring.
#![allow(clippy::disallowed_types, reason = "sockets live here")]

pub mod access;
pub mod clickhouse_http;
mod engine_service;
mod formats;
pub mod rest;
pub mod service;
pub mod statement_text;

pub use access::Access;
pub use clickhouse_http::{HttpOptions, HttpServer};
pub use service::QueryService;

/// The version this build answers with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
