//! UNION ALL: rows of every input under one schema, as they come.
//!
//! Fairness between inputs is the task's, which polls their sources in turn.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use weir_plan::Rows;

const NAME: &str = "Union";

pub struct Union {
    schema: SchemaRef,
}

impl Union {
    /// # Errors
    /// [`OpError::Plan`] when an input's types are not those of `schema`.
    pub fn new(schema: SchemaRef, inputs: &[SchemaRef]) -> Result<Self, OpError> {
        for (i, input) in inputs.iter().enumerate() {
            let same = input.fields().len() == schema.fields().len()
                && input
                    .fields()
                    .iter()
                    .zip(schema.fields())
                    .all(|(a, b)| a.data_type().equals_datatype(b.data_type()));
            if !same {
                return Err(OpError::Plan {
                    operator: NAME,
                    reason: format!("input {i} has columns {input}, the union {schema}"),
                });
            }
        }
        Ok(Union { schema })
    }
}

impl Operator for Union {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.batch.schema_ref() == &self.schema {
            out.rows(rows);
            return Ok(());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.batch.num_rows()));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), rows.batch.columns().to_vec(), &options)
                .map_err(|e| OpError::Plan { operator: NAME, reason: e.to_string() })?;
        out.rows(Rows { batch, weights: rows.weights });
        Ok(())
    }
}
