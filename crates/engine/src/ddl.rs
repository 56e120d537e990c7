//! Statements about what exists: made, removed, renamed, shown.
//!
//! Not here: the catalog's rules (`weir_catalog`), files (`streams`).

mod alter;
mod create;
mod definitions;
mod external;
mod jobs;
pub(crate) mod show;
pub(crate) mod views;

pub(crate) use alter::{alter_stream, drop_database, drop_relation, rename, truncate};
pub(crate) use create::{create_database, create_stream, create_view, new_id};
pub(crate) use definitions::change_definition;
pub(crate) use jobs::{create_job, drop_job, steer_job};
pub(crate) use show::{describe_query, describe_relation, exists, show};
pub(crate) use views::{alter_view, create_materialized_view, steer_view};
