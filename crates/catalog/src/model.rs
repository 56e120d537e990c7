//! What exists, at one moment.

use crate::{CatalogError, FormatSchema, NamedCollection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;
use weir_base::error::did_you_mean;

/// Everything the catalog knows, immutable; queries hold one for their whole life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// One more after every event.
    pub version: u64,
    pub databases: BTreeMap<String, Database>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub collections: BTreeMap<String, Arc<NamedCollection>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub format_schemas: BTreeMap<String, Arc<FormatSchema>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Database {
    pub comment: String,
    pub relations: BTreeMap<String, Arc<Relation>>,
    #[serde(default)]
    pub jobs: BTreeMap<String, Arc<Job>>,
}

/// A task or an alert: a query that somebody is to be given the rows of, and that has none of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: Uuid,
    pub database: String,
    pub name: String,
    pub kind: JobKind,
    pub select: String,
    pub resolve_in: String,
    /// The relations its SELECT names, resolved; they cannot be dropped under it.
    pub depends_on: Vec<RelationName>,
    /// Of its query, by name, validated by the engine.
    pub settings: BTreeMap<String, String>,
    pub comment: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// It stands still until somebody resumes it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
}

fn is_false(it: &bool) -> bool {
    !it
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// A query with an end that runs now and then. Times are in microseconds.
    Task {
        every_us: i64,
        /// A run that takes longer is ended; `None` = never.
        timeout_us: Option<i64>,
        target: RelationName,
    },
    /// A query without end whose rows are called out. Times are in microseconds.
    Alert {
        url: String,
        /// Rows of one call, and how long the first of them waits for the others.
        batch_rows: u64,
        batch_wait_us: i64,
        /// So many calls in so long.
        limit: Option<(u64, i64)>,
    },
}

impl Job {
    pub fn full_name(&self) -> RelationName {
        RelationName::new(&self.database, &self.name)
    }

    /// `task` or `alert`.
    pub fn word(&self) -> &'static str {
        match self.kind {
            JobKind::Task { .. } => "task",
            JobKind::Alert { .. } => "alert",
        }
    }

    fn depends(&self, of: &RelationName) -> bool {
        self.depends_on.contains(of) || matches!(&self.kind, JobKind::Task { target, .. } if target == of)
    }
}

/// A stream or a view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    pub id: Uuid,
    pub database: String,
    pub name: String,
    pub kind: RelationKind,
    /// For a stream: declared columns and `_tp_time`, in order. For a view: result columns.
    pub columns: Vec<ColumnDef>,
    pub comment: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    /// Rows are kept. Clauses are SQL text as written; `None` = the default.
    Stream {
        order_by: Option<String>,
        partition_by: Option<String>,
        primary_key: Option<String>,
        ttl: Option<String>,
        #[serde(default)]
        indexes: Vec<IndexDef>,
        /// SETTINGS by name, validated by the engine.
        settings: BTreeMap<String, String>,
    },
    /// Rows lie elsewhere, and are read and written through a connector.
    External {
        /// SETTINGS by name, validated by the connector; secrets among them.
        settings: BTreeMap<String, String>,
        /// `_tp_time` is a value of the payload; else it is when a message was written.
        #[serde(default)]
        time_in_payload: bool,
    },
    /// Rows are made up while queried.
    Random { settings: BTreeMap<String, String> },
    /// A query that runs, and the stream that its rows go to.
    MaterializedView {
        select: String,
        resolve_in: String,
        /// The relations its SELECT names, resolved; they cannot be dropped under it.
        #[serde(default)]
        depends_on: Vec<RelationName>,
        target: RelationName,
        /// The target was made with the view, and goes with it.
        #[serde(default)]
        inner: bool,
        /// Of its query and its own, by name, validated by the engine.
        #[serde(default)]
        settings: BTreeMap<String, String>,
        /// It stands still until somebody resumes it.
        #[serde(default, skip_serializing_if = "is_false")]
        paused: bool,
    },
    /// A macro over other relations: its SELECT, and the database its names resolve in.
    View {
        select: String,
        resolve_in: String,
        /// The relations its SELECT names, resolved; they cannot be dropped under it.
        #[serde(default)]
        depends_on: Vec<RelationName>,
    },
}

/// `INDEX name expression TYPE type`, as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexDef {
    pub name: String,
    pub expression: String,
    pub type_text: String,
}

/// A relation's full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationName {
    pub database: String,
    pub name: String,
}

impl RelationName {
    pub fn new(database: impl Into<String>, name: impl Into<String>) -> Self {
        RelationName { database: database.into(), name: name.into() }
    }
}

impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnDef {
    pub name: String,
    /// Canonical lower-case type name (`weir_format::types::Type`).
    pub type_name: String,
    pub default: Option<ColumnDefault>,
    pub comment: String,
    /// As written, for example `DoubleDelta, LZ4`; accepted for compatibility.
    pub codec: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnDefault {
    pub kind: DefaultKind,
    /// SQL text.
    pub expression: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultKind {
    /// Fills what an insert leaves out.
    Default,
    /// Always computed on insert; not insertable, not in `*`.
    Materialized,
    /// Computed when read; not stored, not in `*`.
    Alias,
}

/// The database of names without one.
pub const DEFAULT_DATABASE: &str = "default";
/// Holds the system tables; nothing can be created in it.
pub const SYSTEM_DATABASE: &str = "system";

impl Relation {
    pub fn full_name(&self) -> RelationName {
        RelationName::new(&self.database, &self.name)
    }

    /// Whether rows are kept for it.
    pub fn is_stored(&self) -> bool {
        matches!(self.kind, RelationKind::Stream { .. })
    }
}

impl Snapshot {
    /// What exists before the first event: the databases `default` and `system`.
    pub fn initial() -> Self {
        let databases =
            [DEFAULT_DATABASE, SYSTEM_DATABASE].map(|name| (name.to_owned(), Database::default()));
        Snapshot { databases: databases.into(), ..Snapshot::default() }
    }

    pub fn relation(&self, database: &str, name: &str) -> Option<&Arc<Relation>> {
        self.databases.get(database)?.relations.get(name)
    }

    /// Like [`Snapshot::relation`], or what to tell who asked.
    ///
    /// # Errors
    /// `UnknownDatabase` (81) or `UnknownRelation` (60), each with the nearest name there is.
    pub fn expect_relation(&self, database: &str, name: &str) -> Result<&Arc<Relation>, CatalogError> {
        let relations = &self.expect_database(database)?.relations;
        relations.get(name).ok_or_else(|| {
            // The same name in another database is nearer than another name in this one.
            let elsewhere = self.databases.iter().find(|(_, d)| d.relations.contains_key(name));
            CatalogError::UnknownRelation {
                name: RelationName::new(database, name),
                hint: match elsewhere {
                    Some((other, _)) => format!("; did you mean {other}.{name}?"),
                    None => did_you_mean(name, relations.keys().map(String::as_str)),
                },
            }
        })
    }

    /// # Errors
    /// `UnknownDatabase` (81) with the nearest name there is.
    pub fn expect_database(&self, name: &str) -> Result<&Database, CatalogError> {
        self.databases.get(name).ok_or_else(|| CatalogError::UnknownDatabase {
            name: name.to_owned(),
            hint: did_you_mean(name, self.databases.keys().map(String::as_str)),
        })
    }

    /// External streams, and streams with a log elsewhere, one of whose settings, as it was given, is as asked.
    pub fn externals_with(&self, is: impl Fn(&str, &str) -> bool) -> Vec<RelationName> {
        let given = |r: &&Arc<Relation>| match &r.kind {
            RelationKind::External { settings, .. } | RelationKind::Stream { settings, .. } => {
                settings.iter().any(|(k, v)| is(k, v))
            }
            _ => false,
        };
        self.relations().filter(given).map(|r| r.full_name()).collect()
    }

    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.databases.values().flat_map(|d| d.jobs.values())
    }

    pub fn job(&self, name: &RelationName) -> Option<&Arc<Job>> {
        self.databases.get(&name.database)?.jobs.get(&name.name)
    }

    pub fn relations(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.databases.values().flat_map(|d| d.relations.values())
    }

    /// The stream that has a relation's rows: its target, of a materialized view; else itself.
    ///
    /// # Errors
    /// `UnknownRelation` (60) where the target was dropped all the same.
    pub fn rows_of<'a>(&'a self, relation: &'a Arc<Relation>) -> Result<&'a Arc<Relation>, CatalogError> {
        match &relation.kind {
            RelationKind::MaterializedView { target, .. } => {
                self.expect_relation(&target.database, &target.name)
            }
            RelationKind::Stream { .. }
            | RelationKind::External { .. }
            | RelationKind::Random { .. }
            | RelationKind::View { .. } => Ok(relation),
        }
    }

    /// Views, tasks and alerts whose SELECT names this relation, and those that write to it.
    pub fn dependents(&self, of: &RelationName) -> Vec<RelationName> {
        let depends = |r: &Relation| match &r.kind {
            RelationKind::View { depends_on, .. } => depends_on.contains(of),
            RelationKind::MaterializedView { depends_on, target, .. } => {
                depends_on.contains(of) || target == of
            }
            RelationKind::Stream { .. } | RelationKind::External { .. } | RelationKind::Random { .. } => {
                false
            }
        };
        let relations = self.relations().filter(|r| depends(r)).map(|r| r.full_name());
        relations.chain(self.jobs().filter(|j| j.depends(of)).map(|j| j.full_name())).collect()
    }

    /// Where rows that come to one of `from` go on to through materialized views, and so on.
    pub fn downstream(&self, from: &[RelationName]) -> Vec<RelationName> {
        let mut reached: Vec<RelationName> = from.to_vec();
        let mut at = 0;
        while at < reached.len() {
            let name = reached[at].clone();
            at += 1;
            for relation in self.relations() {
                let next = match &relation.kind {
                    RelationKind::MaterializedView { depends_on, target, .. }
                        if depends_on.contains(&name) =>
                    {
                        [relation.full_name(), target.clone()]
                    }
                    RelationKind::View { depends_on, .. } if depends_on.contains(&name) => {
                        [relation.full_name(), relation.full_name()]
                    }
                    _ => continue,
                };
                for next in next {
                    if !reached.contains(&next) {
                        reached.push(next);
                    }
                }
            }
        }
        reached
    }
}
