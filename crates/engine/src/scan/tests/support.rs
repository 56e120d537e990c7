//! A real store in a temporary directory, and rows to put into it.

use crate::scan::{FooterCache, StoredAccess, StreamAccess, StreamLookup, StreamTable, register_parts};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::prelude::{SessionConfig, SessionContext};
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::disk::RealDisk;
use weir_base::metrics::Registry;
use weir_base::{MemoryBudget, Result, Rng, SystemClock, err};
use weir_storage::{
    Ack, ArrivalByDay, LayoutError, PartLayout, PartsLocation, StoreContext, StreamOptions, StreamStore,
};

pub const DAY_MS: i64 = 86_400_000;
/// 2026-01-01.
pub const NOW_MS: i64 = 1_767_225_600_000;

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("k", DataType::Utf8, false),
        Field::new("_tp_time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
    ]))
}

/// Rows numbered `from .. from + count` on one day.
pub fn rows(from: i64, count: i64, day: i64) -> RecordBatch {
    timed((from..from + count).map(|n| (n, NOW_MS + day * DAY_MS + n)))
}

/// Rows of (number, event time).
pub fn timed(all: impl IntoIterator<Item = (i64, i64)>) -> RecordBatch {
    let all: Vec<_> = all.into_iter().collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(all.iter().map(|r| r.0))),
        Arc::new(StringArray::from_iter_values(all.iter().map(|r| format!("k{}", r.0 % 10)))),
        Arc::new(TimestampMillisecondArray::from_iter_values(all.iter().map(|r| r.1)).with_timezone("UTC")),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub fn ints(batch: &RecordBatch, column: &str) -> Vec<i64> {
    let column = arrow::compute::cast(batch.column_by_name(column).unwrap(), &DataType::Int64).unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

/// Nothing is committed unless a test flushes.
pub fn quiet() -> StreamOptions {
    StreamOptions { flush_threshold_ms: 3_600_000, ..StreamOptions::default() }
}

pub fn arrival() -> Arc<dyn PartLayout> {
    Arc::new(ArrivalByDay)
}

pub fn by_key() -> Arc<dyn PartLayout> {
    Arc::new(ByKey)
}

#[derive(Debug)]
struct ByKey;

impl PartLayout for ByKey {
    fn sort_keys(&self, batch: &RecordBatch) -> std::result::Result<Vec<ArrayRef>, LayoutError> {
        Ok(vec![batch.column(1).clone()])
    }
    fn sort_columns(&self) -> Vec<String> {
        vec!["k".into()]
    }
    fn partition_keys(&self, batch: &RecordBatch) -> std::result::Result<ArrayRef, LayoutError> {
        ArrivalByDay.partition_keys(batch)
    }
    fn expired(
        &self,
        _: &RecordBatch,
        _: i64,
    ) -> std::result::Result<Option<arrow::array::BooleanArray>, LayoutError> {
        Ok(None)
    }
}

pub struct World {
    dir: tempfile::TempDir,
    pub ctx: StoreContext,
    pub store: Arc<StreamStore>,
    pub footers: Arc<FooterCache>,
    layout: Arc<dyn PartLayout>,
    schema: SchemaRef,
}

impl World {
    pub fn new(options: StreamOptions, layout: Arc<dyn PartLayout>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::open(dir, options, layout, schema())
    }

    fn open(
        dir: tempfile::TempDir,
        options: StreamOptions,
        layout: Arc<dyn PartLayout>,
        schema: SchemaRef,
    ) -> Self {
        let ctx = StoreContext::new(
            Arc::new(RealDisk::open(dir.path()).unwrap()),
            Arc::new(SystemClock::new()),
            Arc::new(Rng::seeded(1)),
            MemoryBudget::root("test", u64::MAX),
            Arc::new(Registry::default()),
            PartsLocation::Local,
            None,
        );
        let store = StreamStore::create(&ctx, "streams/s", schema.clone(), options, layout.clone()).unwrap();
        World { dir, ctx, store, footers: FooterCache::new(64 << 20), layout, schema }
    }

    /// Closes the store and opens it with another schema.
    pub async fn reopen(self, change: impl FnOnce(&SchemaRef) -> SchemaRef) -> (Self, SchemaRef) {
        let options = self.store.options();
        self.store.close().await;
        let World { dir, store, layout, schema, .. } = self;
        drop(store);
        let schema = change(&schema);
        (Self::open(dir, options, layout, schema.clone()), schema)
    }

    pub async fn append(&self, shard: usize, batch: RecordBatch) {
        self.store.shards()[shard].append(batch, None, Ack::Durable).await.unwrap();
    }

    pub async fn flush(&self) {
        for shard in self.store.shards() {
            shard.flush().await.unwrap();
        }
    }

    pub fn access(&self) -> StoredAccess {
        self.access_named("default.s")
    }

    pub fn access_named(&self, name: &str) -> StoredAccess {
        StoredAccess {
            name: name.into(),
            store: self.store.clone(),
            schema: self.schema.clone(),
            objects: self.ctx.object_store(),
            footers: self.footers.clone(),
            sort_columns: self.layout.sort_columns(),
            partition_column: None,
            live: None,
            column_defaults: Arc::default(),
        }
    }

    pub fn session(&self) -> SessionContext {
        self.session_of(self.access())
    }

    /// A session with the table `s`.
    pub fn session_of(&self, access: StoredAccess) -> SessionContext {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        register_parts(&session.runtime_env(), self.ctx.object_store());
        session.register_table("s", Arc::new(StreamTable::new(StreamAccess::Stored(access)))).unwrap();
        session
    }

    #[allow(clippy::disallowed_methods, reason = "a test damages files behind the store's back")]
    pub fn flip_a_byte_in_each_part(&self) {
        let parts = self.store.shards().iter().flat_map(|s| s.parts());
        for part in parts {
            let path = self.dir.path().join(&part.path);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[8] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

/// Relations by name in the database `default`.
pub struct Lookup(pub HashMap<String, StreamAccess>);

impl Lookup {
    pub fn of(all: impl IntoIterator<Item = (&'static str, StreamAccess)>) -> Arc<Self> {
        Arc::new(Lookup(all.into_iter().map(|(name, access)| (name.to_owned(), access)).collect()))
    }
}

impl StreamLookup for Lookup {
    fn store(&self, _: &str, relation: &str) -> Result<StreamAccess> {
        self.0.get(relation).cloned().ok_or_else(|| err!(UnknownStream, "stream {relation} does not exist"))
    }
}
