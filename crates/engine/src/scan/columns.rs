//! Columns as queries see them: the stream's own, then the virtual ones.

use arrow::array::{ArrayRef, Int32Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use std::sync::Arc;
use weir_base::{Code, Error, ShardId};
use weir_storage::{APPEND_TIME_COLUMN, SN_COLUMN, StorageError, TailBatch, part_schema};

/// The shard a row lies in; virtual.
pub const SHARD_COLUMN: &str = "_tp_shard";

pub fn shard_type() -> DataType {
    DataType::Int32
}

/// The stream's columns, then `_tp_sn`, `_tp_append_time`, `_tp_shard`.
pub fn full_schema(stream: &SchemaRef) -> SchemaRef {
    let with_positions = part_schema(stream);
    let mut fields: Vec<_> = with_positions.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(SHARD_COLUMN, shard_type(), false)));
    Arc::new(Schema::new_with_metadata(fields, stream.metadata().clone()))
}

#[derive(Debug, Clone, Copy)]
enum Pick {
    Stream(usize),
    Sn,
    AppendTime,
    Shard,
}

/// Makes a query's columns out of rows of a tail.
#[derive(Debug, Clone)]
pub(crate) struct Picker {
    picks: Vec<Pick>,
    schema: SchemaRef,
}

impl Picker {
    /// By name. `schema` is what comes out.
    ///
    /// # Errors
    /// Code 47 for a column the stream does not have.
    pub fn by_name(stream: &Schema, names: &[String], schema: SchemaRef) -> Result<Self, Error> {
        let picks = names
            .iter()
            .map(|name| match name.as_str() {
                SN_COLUMN => Ok(Pick::Sn),
                APPEND_TIME_COLUMN => Ok(Pick::AppendTime),
                SHARD_COLUMN => Ok(Pick::Shard),
                name => stream.index_of(name).map(Pick::Stream).map_err(|_| {
                    Error::new(Code::UnknownIdentifier, format!("the stream has no column {name}"))
                }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Picker { picks, schema })
    }

    /// By position in [`full_schema`].
    pub fn by_index(full: &SchemaRef, indices: &[usize]) -> Self {
        let own = full.fields().len() - 3;
        let picks = indices
            .iter()
            .map(|i| match i.checked_sub(own) {
                None => Pick::Stream(*i),
                Some(0) => Pick::Sn,
                Some(1) => Pick::AppendTime,
                Some(_) => Pick::Shard,
            })
            .collect();
        let fields: Vec<_> = indices.iter().map(|i| full.fields()[*i].clone()).collect();
        Picker { picks, schema: Arc::new(Schema::new_with_metadata(fields, full.metadata().clone())) }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn pick(&self, rows: &TailBatch, shard: ShardId) -> Result<RecordBatch, ArrowError> {
        let n = rows.rows();
        let columns = self
            .picks
            .iter()
            .map(|pick| match pick {
                Pick::Stream(i) => rows.batch.column(*i).clone(),
                Pick::Sn => Arc::new(rows.sn_array()) as ArrayRef,
                Pick::AppendTime => Arc::new(rows.append_time_array()),
                Pick::Shard => Arc::new(Int32Array::from_value(shard.0 as i32, n)),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
    }
}

/// A storage failure as DataFusion passes it on, its code kept.
pub(crate) fn query_error(e: StorageError) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(Box::new(Error::from(e)))
}
