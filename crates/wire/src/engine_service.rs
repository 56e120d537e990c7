//! The engine behind the doors.

use crate::service::QueryService;
use std::sync::Arc;
use weir_base::Result;
use weir_base::metrics::Registry;
use weir_engine::{Engine, Outcome, Session, settings};

#[async_trait::async_trait]
impl QueryService for Engine {
    async fn execute(&self, session: &mut Session, text: &str, query_id: String) -> Result<Outcome> {
        Engine::execute(self, session, text, Some(query_id)).await
    }

    async fn execute_here(&self, session: &mut Session, text: &str, query_id: String) -> Result<Outcome> {
        Engine::execute_here(self, session, text, Some(query_id)).await
    }

    fn check_setting(&self, name: &str, value: &str) -> Result<()> {
        settings::check(name, value)
    }

    async fn is_streaming(&self, session: &Session, text: &str) -> Result<bool> {
        Engine::is_streaming(self, session, text).await
    }

    fn metrics(&self) -> Arc<Registry> {
        Engine::metrics(self)
    }
}
