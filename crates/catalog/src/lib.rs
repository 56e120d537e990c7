//! Floor 2: databases, streams, views, and what they are made with: events in their own log, immutable snapshots.
//!
//! Stores SQL text and schemas, never plans, so that nothing here is tied to an engine
//! version. Every change is one event: appended, fsynced, then visible.
//!
//! Not here: rows, expressions, who may do what.

mod definition;
pub mod error;
pub mod event;
pub mod model;
mod store;

pub use definition::{CollectionEntry, FormatSchema, NamedCollection, SchemaLanguage};
pub use error::CatalogError;
pub use event::Event;
pub use model::{
    ColumnDef, ColumnDefault, DEFAULT_DATABASE, Database, DefaultKind, IndexDef, Job, JobKind, Relation,
    RelationKind, RelationName, SYSTEM_DATABASE, Snapshot,
};
pub use store::{Catalog, Dependents};
