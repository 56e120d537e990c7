//! Floor 4: external streams, a folder for each kind of place that rows can lie in.
//!
//! ```text
//! kafka: a topic     payload: bytes of messages <-> rows
//! weir: a stream of another Weir, over HTTP     webhook: rows that are posted to a URL
//! ```
//!
//! Not here: SQL, checkpoints, order over partitions. A connector knows offsets and messages.

mod http;
mod kafka;
mod payload;
mod remote;
mod settings;
mod webhook;
mod weir;

pub use kafka::KafkaConnector;
pub use remote::RemoteHosts;
pub use webhook::WebhookConnector;
pub use weir::WeirConnector;

use std::sync::Arc;
use weir_base::Clock;
use weir_plan::Connector;

/// Every kind of external stream there is.
pub fn connectors(clock: &Arc<dyn Clock>, hosts: &RemoteHosts) -> Vec<Arc<dyn Connector>> {
    vec![
        Arc::new(KafkaConnector::new(clock.clone(), hosts.clone())),
        Arc::new(WeirConnector::new(hosts.clone())),
        Arc::new(WebhookConnector::new(hosts.clone())),
    ]
}
