//! Says of each row which emission it belongs to: a counter from 0 (`emit_version()`).
//!
//! Below it an aggregation gives each result set as one batch.

use crate::operator::{InputId, OpError, Operator, Output};
use crate::state::{StateReader, StateWriter};
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::SchemaRef;
use std::sync::Arc;
use weir_plan::Rows;

const NAME: &str = "EmitVersion";

pub struct Version {
    at: usize,
    /// Every row is an emission of its own (`PER EVENT`).
    each_row: bool,
    schema: SchemaRef,
    next: u64,
}

impl Version {
    pub fn new(at: usize, each_row: bool, schema: SchemaRef) -> Self {
        Version { at, each_row, schema, next: 0 }
    }
}

impl Operator for Version {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let n = rows.batch.num_rows();
        let first = self.next as i64;
        let versions = if self.each_row {
            Int64Array::from_iter_values(first..first + n as i64)
        } else {
            Int64Array::from_value(first, n)
        };
        self.next += if self.each_row { n as u64 } else { 1 };
        let mut columns: Vec<ArrayRef> = rows.batch.columns().to_vec();
        columns.insert(self.at, Arc::new(versions));
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| OpError::Plan { operator: NAME, reason: e.to_string() })?;
        out.rows(Rows { batch, weights: rows.weights });
        Ok(())
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        into.put_u64("next", self.next);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.next = from.u64(NAME, "next")?;
        Ok(())
    }
}
