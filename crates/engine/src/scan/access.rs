//! What a query needs of a relation to read it.

use super::reader::FooterCache;
use crate::externals::OpenExternal;
use crate::source::RowGenerator;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use object_store::ObjectStore;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use weir_base::{Clock, Result};
use weir_storage::StreamStore;

/// Finds relations; implemented by the engine over a catalog snapshot.
pub trait StreamLookup: Send + Sync {
    /// # Errors
    /// Code 60 or 81 for what does not exist.
    fn store(&self, database: &str, relation: &str) -> Result<StreamAccess>;
}

/// Where the rows of a relation come from.
#[derive(Clone)]
pub enum StreamAccess {
    Stored(StoredAccess),
    Random(RandomAccess),
    External(ExternalAccess),
}

/// A stream whose rows lie elsewhere.
#[derive(Clone)]
pub struct ExternalAccess {
    pub name: Arc<str>,
    pub(crate) open: Arc<OpenExternal>,
    /// Says how time passes where no message does.
    pub clock: Arc<dyn Clock>,
    /// Partitions that are read; `None` = all, those that appear later as well.
    pub picked: Option<Arc<[i32]>>,
}

/// A stream whose rows are kept.
#[derive(Clone)]
pub struct StoredAccess {
    /// `database.name`, for messages and for the order of rows that share an append time.
    pub name: Arc<str>,
    pub store: Arc<StreamStore>,
    /// The stream's columns, `_tp_time` among them; no virtual ones.
    pub schema: SchemaRef,
    /// Reads parts, verifying them (`StoreContext::object_store`).
    pub objects: Arc<dyn ObjectStore>,
    /// Shared by all queries of the process.
    pub footers: Arc<FooterCache>,
    /// Columns the parts are sorted by, if these are plain columns: `PartLayout::sort_columns`.
    pub sort_columns: Vec<String>,
    /// The one column the stream is partitioned by, if PARTITION BY is a plain column: then a
    /// part's partition is its value.
    pub partition_column: Option<String>,
    /// What a part written before the column was added reads as; without one it reads as NULL.
    pub column_defaults: Arc<HashMap<String, ScalarValue>>,
    /// Who keeps its log is not us: it is read live as an external stream.
    pub(crate) live: Option<Arc<OpenExternal>>,
}

/// A stream whose rows are made up while queried.
#[derive(Clone)]
pub struct RandomAccess {
    pub name: Arc<str>,
    pub schema: SchemaRef,
    pub generator: Arc<dyn RowGenerator>,
    /// Gives `_tp_append_time`.
    pub clock: Arc<dyn Clock>,
    /// Setting `eps`: rows a second; 0 = as many as are asked for.
    pub rows_per_second: f64,
    /// Setting `interval_time`: milliseconds between batches.
    pub interval_ms: u64,
    /// Setting `max_events`: the source ends after so many rows; 0 = never.
    pub rows_max: u64,
}

impl StreamAccess {
    pub fn schema(&self) -> &SchemaRef {
        match self {
            StreamAccess::Stored(s) => &s.schema,
            StreamAccess::Random(r) => &r.schema,
            StreamAccess::External(e) => &e.open.schema,
        }
    }
    pub fn name(&self) -> &Arc<str> {
        match self {
            StreamAccess::Stored(s) => &s.name,
            StreamAccess::Random(r) => &r.name,
            StreamAccess::External(e) => &e.name,
        }
    }
}

impl fmt::Debug for StreamAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for StoredAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
