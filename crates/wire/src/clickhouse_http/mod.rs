//! HTTP as ClickHouse speaks it, and the REST calls that live on the same ports.
//!
//! ```text
//! server  accept, connections, limits, shutdown
//!   routes  path and method to handler
//!     ask      URL, headers, port -> plain data
//!     upload   body, decoded       statement  text, session, outcome -> answer
//!     insert   body -> writer      result     batches -> coded bytes -> answer
//! ```
//!
//! Invariants
//! - An error before the first byte of a result has its status and code header; after it, the
//!   body carries the tagged block and is cut without its last chunk.
//! - A closed connection drops what it asked for: the query handle goes, the query ends.
//! - Nothing queues for a slow reader beyond the socket, hyper's buffer and two pieces.

pub mod answer;
pub mod ask;
pub mod block;
pub mod cityhash;
pub mod coding;
pub mod exception;
mod insert;
mod lz4_frame;
mod result;
mod routes;
mod server;
pub mod sessions;
mod socket;
mod statement;
mod upload;

pub use server::{HttpOptions, HttpServer};

use crate::access::Access;
use crate::service::QueryService;
use sessions::Sessions;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use weir_base::metrics::Metric;
use weir_base::{Clock, Rng};

/// What all connections of one server have in common.
pub(crate) struct Shared {
    pub service: Arc<dyn QueryService>,
    pub access: Access,
    pub sessions: Arc<Sessions>,
    pub clock: Arc<dyn Clock>,
    pub rng: Rng,
    pub options: HttpOptions,
    pub display_name: Arc<str>,
    /// Where statements run; the network runtime only moves bytes.
    pub compute: tokio::runtime::Handle,
    /// Ends queries that would never end by themselves: at the start of a shutdown.
    pub stop_streams: CancellationToken,
    /// Ends the rest: when the time to drain is over.
    pub stop_all: CancellationToken,
    pub requests: Metric,
    pub failed_requests: Metric,
    pub inserted_rows: Metric,
    pub connections: Metric,
    pub refused_connections: Metric,
}

impl Shared {
    /// A query id in the form of a version 4 UUID.
    pub fn new_query_id(&self) -> String {
        let (a, b) = (self.rng.u64(), self.rng.u64());
        let a = (a & 0xffff_ffff_ffff_0fff) | 0x4000;
        let b = (b & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        )
    }
}
