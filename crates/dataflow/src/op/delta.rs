//! Shows the weight of each row of a changelog as its last column.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_array::{ArrayRef, Int8Array, RecordBatch};
use arrow_schema::SchemaRef;
use std::sync::Arc;
use weir_plan::Rows;

const NAME: &str = "Delta";

pub struct Delta {
    schema: SchemaRef,
}

impl Delta {
    pub fn new(schema: SchemaRef) -> Self {
        Delta { schema }
    }
}

impl Operator for Delta {
    /// A weight beyond one is that many rows; our operators give only such of one.
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        let weights: Int8Array = match &rows.weights {
            None => Int8Array::from_value(1, rows.batch.num_rows()),
            Some(weights) => weights
                .values()
                .iter()
                .map(|w| i8::try_from(*w).map_err(|_| plan(format!("a row of weight {w}"))))
                .collect::<Result<Vec<i8>, _>>()?
                .into(),
        };
        let mut columns: Vec<ArrayRef> = rows.batch.columns().to_vec();
        columns.push(Arc::new(weights));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| plan(e.to_string()))?;
        out.rows(Rows { batch, weights: rows.weights });
        Ok(())
    }
}
