//! Shows the weight of each row of a changelog as its last column.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_array::{ArrayRef, Int8Array, RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::take::take_record_batch;
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
    /// A weight beyond one is that many rows.
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        let (mut batch, mut weights) = (rows.batch, rows.weights);
        if let Some(given) = &weights
            && given.values().iter().any(|w| w.unsigned_abs() > 1)
        {
            let times = |w: &i64| usize::try_from(w.unsigned_abs()).unwrap_or(usize::MAX);
            let rows = given.values().iter().enumerate();
            let each = rows.flat_map(|(row, w)| std::iter::repeat_n(row as u32, times(w)));
            let indices = UInt32Array::from_iter_values(each);
            batch = take_record_batch(&batch, &indices).map_err(|e| plan(e.to_string()))?;
            weights = Some(indices.values().iter().map(|row| given.value(*row as usize).signum()).collect());
        }
        let shown = match &weights {
            None => Int8Array::from_value(1, batch.num_rows()),
            Some(weights) => weights.values().iter().map(|w| *w as i8).collect::<Vec<_>>().into(),
        };
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns.push(Arc::new(shown));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| plan(e.to_string()))?;
        out.rows(Rows { batch, weights });
        Ok(())
    }
}
