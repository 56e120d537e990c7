//! What exists, at one moment.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Everything the catalog knows, immutable; queries hold one for their whole life.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// One more after every event.
    pub version: u64,
    pub databases: BTreeMap<String, Database>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Database {
    pub comment: String,
    pub relations: BTreeMap<String, Arc<Relation>>,
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
        /// SETTINGS by name, validated by the engine.
        settings: BTreeMap<String, String>,
    },
    /// Rows are made up while queried.
    Random { settings: BTreeMap<String, String> },
    /// A macro over other relations: its SELECT, and the database its names resolve in.
    View { select: String, resolve_in: String },
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

impl Snapshot {
    pub fn relation(&self, database: &str, name: &str) -> Option<&Arc<Relation>> {
        self.databases.get(database)?.relations.get(name)
    }
}
