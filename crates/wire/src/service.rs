//! What a protocol needs of the engine, and nothing more.
//!
//! Tests put a small service of their own behind real sockets; `weir server` puts the engine.

use std::sync::Arc;
use weir_base::Result;
use weir_base::metrics::Registry;
use weir_engine::{Outcome, Session};

/// The engine as protocols see it.
#[async_trait::async_trait]
pub trait QueryService: Send + Sync + 'static {
    /// Runs exactly one statement. `USE` and `SET` change `session`.
    async fn execute(&self, session: &mut Session, text: &str, query_id: String) -> Result<Outcome>;

    /// As [`QueryService::execute`], on the caller's thread: for an INSERT whose text ends where
    /// its data, which is little, begins.
    async fn execute_here(&self, session: &mut Session, text: &str, query_id: String) -> Result<Outcome> {
        self.execute(session, text, query_id).await
    }

    /// Refuses a setting that is unknown (115) or has a bad value (36), before it enters a
    /// session.
    fn check_setting(&self, name: &str, value: &str) -> Result<()>;

    /// Whether the statement would run without end. Plans it, runs nothing.
    async fn is_streaming(&self, session: &Session, text: &str) -> Result<bool>;

    fn metrics(&self) -> Arc<Registry>;
}
