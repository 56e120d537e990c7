//! What is seen of views: their state, and what happened to them.

use super::machine::State;
use super::{Calls, Output, View};
use crate::engine::Shared;
use crate::query::QueryEntry;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use weir_base::Error;
use weir_catalog::RelationName;
use weir_plan::{CheckpointStatus, Running};

/// Events that are remembered; the oldest go first, and a restart forgets all.
const EVENTS_MAX: usize = 10_000;

/// A row of `system.view_log`.
#[derive(Debug, Clone)]
pub(crate) struct ViewEvent {
    pub at_us: i64,
    pub database: String,
    pub view: String,
    pub event: String,
    pub detail: String,
}

#[derive(Default)]
pub(super) struct ViewLog(Mutex<VecDeque<ViewEvent>>);

impl ViewLog {
    pub fn add(&self, at_us: i64, view: &RelationName, event: &str, detail: &str) {
        let mut all = self.0.lock();
        if all.len() == EVENTS_MAX {
            all.pop_front();
        }
        all.push_back(ViewEvent {
            at_us,
            database: view.database.clone(),
            view: view.name.clone(),
            event: event.into(),
            detail: detail.into(),
        });
    }

    pub fn all(&self) -> Vec<ViewEvent> {
        self.0.lock().iter().cloned().collect()
    }
}

/// What a view's driver says of it.
pub(super) struct Shown {
    state: State,
    failures: u32,
    starts: u64,
    /// `None` = it has not failed since the process began.
    error: Option<(Error, i64)>,
    /// The row it stopped at: shard and sequence number.
    error_row: Option<(usize, u64)>,
    skipped: u64,
    checkpoint: CheckpointStatus,
    entry: Weak<QueryEntry>,
    running: Option<Weak<dyn Running>>,
}

impl Default for Shown {
    fn default() -> Self {
        Shown {
            state: State::Created,
            failures: 0,
            starts: 0,
            error: None,
            error_row: None,
            skipped: 0,
            checkpoint: CheckpointStatus::default(),
            entry: Weak::new(),
            running: None,
        }
    }
}

impl Shown {
    pub fn state(&mut self, state: State, failures: u32) {
        (self.state, self.failures) = (state, failures);
    }

    pub fn started(&mut self, entry: Arc<QueryEntry>, running: Arc<dyn Running>) {
        self.starts += 1;
        self.checkpointed(running.checkpoints());
        self.entry = Arc::downgrade(&entry);
        self.running = Some(Arc::downgrade(&running));
    }

    pub fn checkpointed(&mut self, status: Option<CheckpointStatus>) {
        if let Some(status) = status {
            self.checkpoint = status;
        }
    }

    /// It runs, or will without being asked.
    pub fn goes_on(&self) -> bool {
        self.state.is_active() || matches!(self.state, State::Created | State::Backoff(_))
    }

    pub fn bad_row(&mut self, row: Option<(usize, u64)>) {
        self.error_row = row;
    }

    pub fn skipped(&mut self, rows: u64) {
        self.skipped = rows;
    }

    pub fn failed(&mut self, e: &Error, at_us: i64) {
        self.error = Some((e.clone(), at_us));
    }

    fn running(&self) -> Option<Arc<dyn Running>> {
        self.running.as_ref().and_then(Weak::upgrade)
    }

    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub fn name_of_state(&self) -> &'static str {
        self.state.name()
    }

    pub fn error(&self) -> Option<Error> {
        self.error.as_ref().map(|(e, _)| e.clone())
    }
}

/// A row of `system.materialized_views`.
#[derive(Debug, Clone)]
pub(crate) struct ViewInfo {
    pub database: String,
    pub name: String,
    pub id: String,
    pub state: &'static str,
    pub query: String,
    pub target: String,
    pub query_id: String,
    pub last_error: String,
    pub last_error_code: i64,
    pub last_error_us: Option<i64>,
    pub error_row: Option<(usize, u64)>,
    pub skipped_rows: u64,
    pub failures: u64,
    pub restarts: u64,
    pub lag_rows: u64,
    pub lag_ms: Option<i64>,
    pub rows_in: u64,
    pub rows_written: u64,
    pub keys: u64,
    pub state_bytes: u64,
    pub late_rows: u64,
    pub checkpoint: CheckpointStatus,
    pub checkpoint_age_s: Option<f64>,
    /// Of an alert.
    pub calls: Arc<Calls>,
}

impl View {
    pub(super) fn info(&self, shared: &Shared) -> ViewInfo {
        let spec = self.spec.lock().clone();
        let shown = self.shown.lock();
        let query = shown.entry.upgrade().filter(|_| shown.state.is_active()).map(|e| e.info());
        let checkpoint =
            shown.running().and_then(|r| r.checkpoints()).unwrap_or_else(|| shown.checkpoint.clone());
        let age = (checkpoint.epoch > 0)
            .then(|| (shared.world.clock.now_us().saturating_sub(checkpoint.at_us)) as f64 / 1e6);
        let of = |f: fn(&crate::query::QueryInfo) -> u64| query.as_ref().map_or(0, f);
        ViewInfo {
            database: spec.name.database.clone(),
            name: spec.name.name.clone(),
            id: spec.id.to_string(),
            state: shown.state.name(),
            query: spec.select.clone(),
            target: match &spec.output {
                Output::Stream(target) => target.to_string(),
                Output::Alert(alert) => alert.url.clone(),
            },
            query_id: spec.query_id(),
            last_error: shown.error.as_ref().map(|(e, _)| e.to_string()).unwrap_or_default(),
            last_error_code: shown.error.as_ref().map_or(0, |(e, _)| i64::from(e.code.number())),
            last_error_us: shown.error.as_ref().map(|(_, at)| *at),
            error_row: shown.error_row,
            skipped_rows: shown.skipped,
            failures: u64::from(shown.failures),
            restarts: shown.starts.saturating_sub(1),
            lag_rows: of(|q| q.sums.behind_rows),
            lag_ms: query.as_ref().and_then(|q| q.sums.lag_ms),
            rows_in: of(|q| q.read_rows),
            rows_written: of(|q| q.written_rows),
            keys: of(|q| q.sums.keys),
            state_bytes: of(|q| q.sums.state_bytes),
            late_rows: of(|q| q.sums.late_rows),
            checkpoint,
            checkpoint_age_s: age,
            calls: self.calls.clone(),
        }
    }
}
