//! Floor 4: external streams, a folder for each kind of place that rows can lie in.
//!
//! ```text
//! kafka: a topic     payload: bytes of messages <-> rows
//! weir: a stream of another Weir, over HTTP     webhook: rows that are posted to a URL
//! files: files below a directory or in a bucket, as a table
//! ```
//!
//! Not here: SQL, checkpoints, order over partitions. A connector knows offsets and messages.

mod files;
mod http;
mod kafka;
mod payload;
mod remote;
mod settings;
mod webhook;
mod weir;

pub use files::{AllowedPaths, FileConnector, FilesAccess, S3Connector};
pub use kafka::KafkaConnector;
pub use remote::RemoteHosts;
pub use webhook::WebhookConnector;
pub use weir::WeirConnector;

use std::sync::Arc;
use weir_plan::Connector;

/// Every kind of external stream there is.
pub fn connectors(files: &FilesAccess) -> Vec<Arc<dyn Connector>> {
    let hosts = &files.hosts;
    vec![
        Arc::new(FileConnector(files.clone())),
        Arc::new(KafkaConnector::new(files.clock.clone(), hosts.clone())),
        Arc::new(S3Connector(files.clone())),
        Arc::new(WeirConnector::new(hosts.clone())),
        Arc::new(WebhookConnector::new(hosts.clone())),
    ]
}
