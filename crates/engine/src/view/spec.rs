//! What a view or an alert is, as the catalog has it and its driver needs it.

use super::alert::AlertSpec;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;
use weir_catalog::{Job, JobKind, Relation, RelationKind, RelationName};

const CHECKPOINT_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);

/// Where a view's rows go.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    Stream(RelationName),
    /// It is an alert.
    Alert(AlertSpec),
}

/// How long the first row of a call waits for others, where nobody says.
const ALERT_WAIT_DEFAULT: Duration = Duration::from_secs(1);

/// What a view is, as its driver needs it.
#[derive(Debug, Clone)]
pub(crate) struct ViewSpec {
    pub id: Uuid,
    pub name: RelationName,
    pub select: String,
    pub resolve_in: String,
    pub output: Output,
    pub settings: BTreeMap<String, String>,
    /// Until somebody resumes it.
    pub paused: bool,
    /// Microseconds since the epoch.
    pub created_us: i64,
}

/// Whether a setting says yes.
pub(super) fn is_set(settings: &BTreeMap<String, String>, name: &str) -> bool {
    settings.get(name).is_some_and(|v| v == "1" || v == "true")
}

impl ViewSpec {
    /// `None` for what is no materialized view.
    pub fn of(relation: &Relation) -> Option<ViewSpec> {
        let RelationKind::MaterializedView { select, resolve_in, target, settings, paused, .. } =
            &relation.kind
        else {
            return None;
        };
        Some(ViewSpec {
            id: relation.id,
            name: relation.full_name(),
            select: select.clone(),
            resolve_in: resolve_in.clone(),
            output: Output::Stream(target.clone()),
            settings: settings.clone(),
            paused: *paused,
            created_us: relation.created_ms.saturating_mul(1_000),
        })
    }

    /// `None` for what is no alert.
    pub fn of_alert(job: &Job) -> Option<ViewSpec> {
        let JobKind::Alert { url, batch_rows, batch_wait_us, limit } = &job.kind else { return None };
        let micros = |us: &i64| Duration::from_micros(u64::try_from(*us).unwrap_or_default());
        let batch_wait = if *batch_wait_us > 0 { micros(batch_wait_us) } else { ALERT_WAIT_DEFAULT };
        let limit = limit.as_ref().map(|(calls, per)| (*calls, micros(per)));
        Some(ViewSpec {
            id: job.id,
            name: job.full_name(),
            select: job.select.clone(),
            resolve_in: job.resolve_in.clone(),
            output: Output::Alert(AlertSpec { url: url.clone(), batch_rows: *batch_rows, batch_wait, limit }),
            settings: job.settings.clone(),
            paused: job.paused,
            created_us: job.created_ms.saturating_mul(1_000),
        })
    }

    /// It waits for RESUME when the server starts, or it was just made.
    pub fn waits(&self) -> bool {
        self.paused || is_set(&self.settings, "pause_on_start")
    }

    /// `VIEW` or `ALERT`, as in statements.
    pub fn object(&self) -> &'static str {
        match self.output {
            Output::Stream(_) => "VIEW",
            Output::Alert(_) => "ALERT",
        }
    }

    /// For messages: what it is, and its name.
    pub fn what(&self) -> String {
        format!("{} {}", self.object().to_lowercase(), self.name)
    }

    /// As it is listed in `system.queries`.
    pub fn text(&self) -> String {
        match &self.output {
            Output::Stream(target) => {
                format!("CREATE MATERIALIZED VIEW {} INTO {target} AS {}", self.name, self.select)
            }
            Output::Alert(alert) => {
                format!("CREATE ALERT {} CALL '{}' AS {}", self.name, alert.url, self.select)
            }
        }
    }

    pub fn query_id(&self) -> String {
        format!("view-{}", self.id)
    }

    /// Names it in the records of its target.
    pub fn writer(&self) -> [u8; 16] {
        *self.id.as_bytes()
    }

    /// So many failures at one row make a bad row of it, whatever failed; 0 = never.
    pub fn best_effort_after(&self) -> u32 {
        let of = |name: &str| self.settings.get(name).map(String::as_str);
        match of("recovery_policy") {
            Some("best_effort") => {
                of("recovery_retry_for_sn_failure").and_then(|n| n.parse().ok()).unwrap_or(3).max(1)
            }
            _ => 0,
        }
    }

    pub fn checkpoint_interval(&self) -> Duration {
        let seconds = self.settings.get("checkpoint_interval").and_then(|s| s.parse::<f64>().ok());
        match seconds {
            Some(s) if s > 0.0 => Duration::from_secs_f64(s.min(86_400.0)),
            _ => CHECKPOINT_INTERVAL_DEFAULT,
        }
    }
}
