//! Computes each output column from the input's.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use weir_plan::{Projection, Rows};

const NAME: &str = "Project";

pub struct Project {
    exprs: Vec<Projection>,
    schema: SchemaRef,
}

impl Project {
    /// # Errors
    /// [`OpError::Plan`] when the expressions do not give the columns of `schema`.
    pub fn new(exprs: Vec<Projection>, schema: SchemaRef, input: &Schema) -> Result<Self, OpError> {
        if exprs.len() != schema.fields().len() {
            return Err(OpError::Plan {
                operator: NAME,
                reason: format!("{} expressions for {} columns", exprs.len(), schema.fields().len()),
            });
        }
        for (p, field) in exprs.iter().zip(schema.fields()) {
            let given =
                p.expr.data_type(input).map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })?;
            if !given.equals_datatype(field.data_type()) {
                return Err(OpError::Plan {
                    operator: NAME,
                    reason: format!(
                        "column {} is {}, its expression gives {given}",
                        p.name,
                        field.data_type()
                    ),
                });
            }
        }
        Ok(Project { exprs, schema })
    }
}

impl Operator for Project {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let n = rows.batch.num_rows();
        let columns = self
            .exprs
            .iter()
            .map(|p| p.expr.evaluate(&rows.batch).and_then(|v| v.into_array(n)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })?;
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| OpError::Plan { operator: NAME, reason: e.to_string() })?;
        out.rows(Rows { batch, weights: rows.weights });
        Ok(())
    }
}
