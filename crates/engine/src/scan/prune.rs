//! Leaves out whole parts and log tails that cannot hold a matching row, from what the
//! manifest knows of them: ranges of sn, event time and append time, shard and partition.

use super::columns::{SHARD_COLUMN, shard_type};
use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use weir_base::ShardId;
use weir_storage::{APPEND_TIME_COLUMN, PartFile, SN_COLUMN, ShardSnapshot, TIME_COLUMN};

/// One thing to be read or left out: column name to (least, greatest). What is not named is
/// not known.
#[derive(Debug, Default)]
pub(crate) struct Extent {
    ranges: HashMap<String, (ScalarValue, ScalarValue)>,
    rows: u64,
}

impl Extent {
    pub fn of_part(part: &PartFile, shard: ShardId, schema: &SchemaRef, partition: Option<&str>) -> Self {
        let m = &part.meta;
        let mut ranges = HashMap::from([
            (SN_COLUMN.to_owned(), int_range(m.sn_min.0 as i64, m.sn_end.0 as i64 - 1)),
            (
                APPEND_TIME_COLUMN.to_owned(),
                time_range(TimeUnit::Microsecond, m.append_min.0, m.append_max.0),
            ),
            (SHARD_COLUMN.to_owned(), shard_range(shard)),
        ]);
        // Storage keeps milliseconds; other types of `_tp_time` are not pruned by.
        if let Ok(field) = schema.field_with_name(TIME_COLUMN)
            && matches!(field.data_type(), DataType::Timestamp(TimeUnit::Millisecond, Some(tz)) if &**tz == "UTC")
            && !field.is_nullable()
        {
            ranges.insert(
                TIME_COLUMN.to_owned(),
                time_range(TimeUnit::Millisecond, m.event_min.0, m.event_max.0),
            );
        }
        if let Some(column) = partition
            && let Ok(field) = schema.field_with_name(column)
            && let Ok(value) = ScalarValue::try_from_string(m.partition.clone(), field.data_type())
            && !field.is_nullable()
        {
            ranges.insert(column.to_owned(), (value.clone(), value));
        }
        Extent { ranges, rows: m.rows }
    }

    pub fn of_log(snapshot: &ShardSnapshot) -> Self {
        let (from, end) = (snapshot.committed_end.0 as i64, snapshot.durable_end.0 as i64);
        let ranges = HashMap::from([
            (SN_COLUMN.to_owned(), int_range(from, (end - 1).max(from))),
            (SHARD_COLUMN.to_owned(), shard_range(snapshot.shard.id())),
        ]);
        Extent { ranges, rows: (end - from) as u64 }
    }
}

fn int_range(min: i64, max: i64) -> (ScalarValue, ScalarValue) {
    (ScalarValue::Int64(Some(min)), ScalarValue::Int64(Some(max)))
}

fn shard_range(shard: ShardId) -> (ScalarValue, ScalarValue) {
    debug_assert_eq!(shard_type(), DataType::Int32);
    let value = ScalarValue::Int32(Some(shard.0 as i32));
    (value.clone(), value)
}

pub(super) fn time_range(unit: TimeUnit, min: i64, max: i64) -> (ScalarValue, ScalarValue) {
    let utc: Option<Arc<str>> = Some("UTC".into());
    match unit {
        TimeUnit::Microsecond => (
            ScalarValue::TimestampMicrosecond(Some(min), utc.clone()),
            ScalarValue::TimestampMicrosecond(Some(max), utc),
        ),
        _ => (
            ScalarValue::TimestampMillisecond(Some(min), utc.clone()),
            ScalarValue::TimestampMillisecond(Some(max), utc),
        ),
    }
}

/// Which extents may hold a row that passes; all of them where the predicate says nothing.
pub(crate) fn may_match(
    predicate: Option<&Arc<dyn PhysicalExpr>>,
    schema: &SchemaRef,
    extents: &[Extent],
) -> Vec<bool> {
    let all = vec![true; extents.len()];
    if extents.is_empty() {
        return all;
    }
    let Some(predicate) = predicate else { return all };
    // What cannot be analysed prunes nothing; the filter above decides.
    match PruningPredicateBuilder::new().with_file_schema(schema.clone()).try_build(predicate.clone()) {
        Ok(pruning) if !pruning.always_true() => pruning.prune(&Extents { extents, schema }).unwrap_or(all),
        _ => all,
    }
}

struct Extents<'a> {
    extents: &'a [Extent],
    schema: &'a SchemaRef,
}

impl Extents<'_> {
    fn side(
        &self,
        column: &Column,
        pick: fn(&(ScalarValue, ScalarValue)) -> &ScalarValue,
    ) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        if !self.extents.iter().any(|e| e.ranges.contains_key(&column.name)) {
            return None;
        }
        let unknown = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self
            .extents
            .iter()
            .map(|e| e.ranges.get(&column.name).map_or_else(|| unknown.clone(), |r| pick(r).clone()));
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for Extents<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.side(column, |r| &r.0)
    }
    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.side(column, |r| &r.1)
    }
    fn num_containers(&self) -> usize {
        self.extents.len()
    }
    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts: UInt64Array =
            self.extents.iter().map(|e| e.ranges.contains_key(&column.name).then_some(0)).collect();
        Some(Arc::new(counts))
    }
    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.extents.iter().map(|e| Some(e.rows)).collect::<UInt64Array>()))
    }
    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
