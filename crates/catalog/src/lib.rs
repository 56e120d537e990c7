//! Floor 2: databases, streams and views: events in their own log, immutable snapshots.
//!
//! Stores SQL text and schemas, never plans, so that nothing here is tied to an engine
//! version. Every change is one event: appended, fsynced, then visible.
//!
//! Not here: rows, expressions, who may do what.

pub mod model;

pub use model::{ColumnDef, ColumnDefault, DefaultKind, Relation, RelationKind, Snapshot};
