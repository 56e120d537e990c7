//! What the crate's tests share: a world, a schema, rows whose values follow from their number.

use crate::context::{PartsLocation, StoreContext};
use crate::error::Result;
use crate::layout::{ArrivalByDay, LayoutError, PartLayout, day_keys};
use crate::options::StreamOptions;
use crate::shard::{Shard, ShardSnapshot};
use crate::store::StreamStore;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMillisecondType};
use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::disk::SimDisk;
use weir_base::metrics::Registry;
use weir_base::{Clock, Disk, ManualClock, MemoryBudget, Rng};
use weir_log::{Ack, Appended};

pub const DAY_MS: i64 = 86_400_000;
/// 2026-01-01.
pub const NOW_MS: i64 = 1_767_225_600_000;

pub fn context(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, seed: u64) -> StoreContext {
    StoreContext::new(
        disk,
        clock,
        Arc::new(Rng::seeded(seed)),
        MemoryBudget::root("test", u64::MAX),
        Arc::new(Registry::default()),
        PartsLocation::Local,
        None,
    )
}

pub struct World {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub ctx: StoreContext,
}

pub fn world(seed: u64) -> World {
    let disk = SimDisk::new(seed);
    let clock = Arc::new(ManualClock::new(NOW_MS * 1000));
    let ctx = context(Arc::new(disk.clone()), clock.clone(), seed);
    World { disk, clock, ctx }
}

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, false),
        Field::new("value", DataType::Float64, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("_tp_time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
    ]))
}

/// One row's values, all from its number.
pub fn values_of(n: i64, days: i64) -> (i64, f64, String, i64) {
    let key = (n.wrapping_mul(2_654_435_761) >> 3) % 97;
    (key, n as f64 * 0.5, format!("row {}", n % 13), NOW_MS + (n % days.max(1)) * DAY_MS + n)
}

/// Rows numbered `from .. from + rows`, over so many days.
pub fn rows(from: i64, rows: i64, days: i64) -> RecordBatch {
    let all: Vec<_> = (from..from + rows).map(|n| values_of(n, days)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(all.iter().map(|v| v.0))),
        Arc::new(Float64Array::from_iter_values(all.iter().map(|v| v.1))),
        Arc::new(arrow_array::StringArray::from_iter_values(all.iter().map(|v| &v.2))),
        Arc::new(TimestampMillisecondArray::from_iter_values(all.iter().map(|v| v.3)).with_timezone("UTC")),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns fit the schema")
}

/// The number of the row in a batch of [`schema`]'s columns.
pub fn number(batch: &RecordBatch, row: usize) -> i64 {
    let value = batch.column(1).as_primitive::<arrow_array::types::Float64Type>().value(row);
    let n = (value * 2.0) as i64;
    let key = batch.column(0).as_primitive::<Int64Type>().value(row);
    assert_eq!(key, values_of(n, 1).0, "the columns of row {n} belong together");
    assert_eq!(batch.column(2).as_string::<i32>().value(row), values_of(n, 1).2);
    n
}

/// ORDER BY key, by day, TTL on `_tp_time`.
#[derive(Debug)]
pub struct ByKey {
    pub ttl_ms: Option<i64>,
}

impl PartLayout for ByKey {
    fn sort_keys(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, LayoutError> {
        Ok(vec![batch.column(0).clone()])
    }
    fn sort_columns(&self) -> Vec<String> {
        vec!["key".into()]
    }
    fn partition_keys(&self, batch: &RecordBatch) -> Result<ArrayRef, LayoutError> {
        day_keys(batch)
    }
    fn expired(&self, batch: &RecordBatch, now_ms: i64) -> Result<Option<BooleanArray>, LayoutError> {
        let Some(ttl_ms) = self.ttl_ms else { return Ok(None) };
        let times = batch.column(3).as_primitive::<TimestampMillisecondType>();
        Ok(Some(times.values().iter().map(|t| Some(*t + ttl_ms < now_ms)).collect()))
    }
}

pub fn by_key() -> Arc<dyn PartLayout> {
    Arc::new(ByKey { ttl_ms: None })
}

pub fn arrival() -> Arc<dyn PartLayout> {
    Arc::new(ArrivalByDay)
}

pub fn open(
    ctx: &StoreContext,
    options: StreamOptions,
    layout: Arc<dyn PartLayout>,
) -> Result<Arc<StreamStore>> {
    StreamStore::open(ctx, "streams/s", schema(), options, layout)
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    match tokio::runtime::Handle::try_current() {
        Ok(handle) => handle.block_on(future),
        Err(_) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("no drivers, no failure").block_on(future)
        }
    }
}

/// Appends and waits for the group commit.
pub fn append(shard: &Shard, batch: RecordBatch) -> Result<Appended> {
    block_on(shard.append(batch, None, Ack::Durable))
}

/// (sn -> row number) of everything a snapshot holds; panics on a repeated sn.
pub fn read_snapshot(snapshot: &ShardSnapshot) -> Result<BTreeMap<u64, i64>> {
    let mut seen = BTreeMap::new();
    let mut see = |sn: u64, n: i64| assert_eq!(seen.insert(sn, n), None, "sequence number {sn} twice");
    let store = snapshot.shard.object_store();
    for part in &snapshot.parts {
        let bytes = block_on(async {
            use object_store::ObjectStoreExt;
            store.get(&part.location).await?.bytes().await
        })
        .map_err(|e| crate::StorageError::object("read", part.path(), e))?;
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(bytes).expect("verified").build().expect("verified");
        let mut last_key = i64::MIN;
        for batch in reader {
            let batch = batch.expect("verified");
            let sns = batch.column_by_name("_tp_sn").expect("parts hold it").as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let key = batch.column(0).as_primitive::<Int64Type>().value(row);
                assert!(!part.meta.sorted || key >= last_key, "rows of {} are not sorted", part.path());
                last_key = key;
                see(sns.value(row) as u64, number(&batch, row));
            }
        }
    }
    for tail in snapshot.log_rows() {
        let tail = tail?;
        for row in 0..tail.rows() {
            see(tail.sn(row).0, number(&tail.batch, row));
        }
    }
    Ok(seen)
}

/// (sn -> row number) of everything from `from` to the durable end, read by a cursor; checks
/// order and that append times never fall.
pub fn read_tail(shard: &Arc<Shard>, from: u64) -> Result<BTreeMap<u64, i64>> {
    let mut cursor = shard.tail(weir_base::SeqNo(from));
    let (mut seen, mut last, mut last_time) = (BTreeMap::new(), None, i64::MIN);
    while let Some(tail) = cursor.try_next_blocking()? {
        for row in 0..tail.rows() {
            let sn = tail.sn(row).0;
            assert!(last.is_none_or(|l| sn > l), "{sn} after {last:?}");
            last = Some(sn);
            let at = tail.append_time(row).0;
            assert!(at >= last_time, "append time falls at {sn}");
            last_time = at;
            seen.insert(sn, number(&tail.batch, row));
        }
    }
    Ok(seen)
}
