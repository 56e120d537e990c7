//! Sorting rows by the layout's keys and splitting them by partition.

use crate::error::{Result, StorageError};
use crate::layout::PartLayout;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::{ArrowError, DataType, SortOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a row lies: batch and row in it.
pub(crate) type Place = (usize, usize);

pub(crate) fn failed(doing: &'static str) -> impl Fn(ArrowError) -> StorageError {
    move |source| StorageError::Arrow { doing, source: Arc::new(source) }
}

/// Makes sort keys comparable as bytes. The converter must see all batches that are compared.
#[derive(Debug, Default)]
pub(crate) struct Keys(Option<RowConverter>);

impl Keys {
    /// The keys of `batch` (the stream's columns); `None` if the stream has no order of its own.
    pub fn of(&mut self, layout: &dyn PartLayout, batch: &RecordBatch) -> Result<Option<Rows>> {
        let keys = layout.sort_keys(batch)?;
        if keys.is_empty() {
            return Ok(None);
        }
        let converter = match &mut self.0 {
            Some(converter) => converter,
            none => {
                let options = SortOptions { descending: false, nulls_first: false };
                let fields = keys
                    .iter()
                    .map(|k| SortField::new_with_options(k.data_type().clone(), options))
                    .collect();
                none.insert(RowConverter::new(fields).map_err(failed("compare sort keys"))?)
            }
        };
        converter.convert_columns(&keys).map(Some).map_err(failed("compare sort keys"))
    }
}

/// The rows of `batches` by partition, in the order of the batches.
pub(crate) fn partitions(
    layout: &dyn PartLayout,
    batches: &[RecordBatch],
) -> Result<BTreeMap<String, Vec<Place>>> {
    let mut all: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for (b, batch) in batches.iter().enumerate() {
        let keys: ArrayRef = layout.partition_keys(batch)?;
        let keys = cast(&keys, &DataType::Utf8).map_err(failed("read partition keys"))?;
        let keys = keys.as_string::<i32>();
        let mut row = 0;
        while row < keys.len() {
            let key = if keys.is_null(row) { "" } else { keys.value(row) };
            let same = |r: usize| if keys.is_null(r) { key.is_empty() } else { keys.value(r) == key };
            let end = (row + 1..keys.len()).find(|r| !same(*r)).unwrap_or(keys.len());
            let places = match all.get_mut(key) {
                Some(places) => places,
                None => all.entry(key.to_owned()).or_default(),
            };
            places.extend((row..end).map(|r| (b, r)));
            row = end;
        }
    }
    Ok(all)
}

/// Sorts `places` by key; equal keys stay in order.
pub(crate) fn sort(places: &mut [Place], keys: &[Rows]) {
    let key = |p: &Place| keys[p.0].row(p.1);
    if !places.is_sorted_by(|a, b| key(a) <= key(b)) {
        places.sort_by(|a, b| key(a).cmp(&key(b)));
    }
}
