//! `system.*`: what the server knows of itself, as tables computed when they are read.
//!
//! One function a table gives its columns; `TABLES` names them all.
//!
//! Not here: who may read them.

mod catalog;
mod fixed;
mod numbers;
mod provider;
mod running;
mod storage;
mod views;

pub(crate) use catalog::default_word;
pub(crate) use provider::Columns;
pub(crate) use running::processes;

use crate::engine::Shared;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use provider::SystemTable;
use std::sync::Arc;
use weir_base::error::did_you_mean;
use weir_base::{Result, err};
use weir_format::Spelling;

/// What a table is computed from.
pub(crate) struct Context {
    pub shared: Arc<Shared>,
    /// Of names of types, towards this client.
    pub spelling: Spelling,
    pub database: String,
}

pub(crate) type Compute = fn(&Context) -> Result<Columns>;

/// Sorted by name.
pub(crate) const TABLES: &[(&str, Compute)] = &[
    ("alerts", views::alerts),
    ("build_options", fixed::build_options),
    ("columns", catalog::columns),
    ("data_type_families", fixed::data_type_families),
    ("databases", catalog::databases),
    ("format_schemas", catalog::format_schemas),
    ("formats", fixed::formats),
    ("functions", fixed::functions),
    ("late_rows", running::late_rows),
    ("log_segments", storage::log_segments),
    ("log_writers", storage::log_writers),
    ("materialized_views", views::materialized_views),
    ("metrics", running::metrics),
    ("named_collections", catalog::named_collections),
    ("one", fixed::one),
    ("parts", storage::parts),
    ("processes", running::processes),
    ("queries", running::processes),
    ("query_log", running::query_log),
    ("query_operators", running::query_operators),
    ("query_warnings", running::query_warnings),
    ("settings", fixed::settings),
    ("shards", storage::shards_held),
    ("stream_settings", fixed::stream_settings),
    ("streams", catalog::tables),
    ("subscriptions", views::subscriptions),
    ("table_functions", fixed::table_functions),
    ("tables", catalog::tables),
    ("tasks", views::tasks),
    ("view_log", views::view_log),
];

/// # Errors
/// `UnknownStream` (60).
pub(crate) fn table(
    shared: &Arc<Shared>,
    name: &str,
    spelling: Spelling,
    database: &str,
) -> Result<Arc<dyn TableProvider>> {
    if name == "numbers" {
        return Ok(numbers::endless());
    }
    let Some((name, compute)) = TABLES.iter().find(|(n, _)| *n == name) else {
        let hint = did_you_mean(name, TABLES.iter().map(|(n, _)| *n));
        return Err(err!(UnknownStream, "stream system.{name} does not exist{hint}"));
    };
    let context = Context { shared: shared.clone(), spelling, database: database.to_owned() };
    Ok(Arc::new(SystemTable::new(name, *compute, context)?))
}

/// Table functions that need nothing but their arguments.
///
/// # Errors
/// `NumberOfArguments` (42), `IllegalTypeOfArgument` (43).
pub(crate) fn table_function(name: &str, args: &[ScalarValue]) -> Result<Option<Arc<dyn TableProvider>>> {
    match name {
        "numbers" | "zeros" => numbers::function(name, args).map(Some),
        _ => Ok(None),
    }
}
