//! Sorts each result set, which comes as one batch.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_ord::sort::{SortColumn, SortOptions, lexsort_to_indices};
use arrow_select::take::{take, take_record_batch};
use weir_plan::{Rows, SortKey};

const NAME: &str = "Sort";

pub struct Sort {
    keys: Vec<SortKey>,
}

impl Sort {
    pub fn new(keys: Vec<SortKey>) -> Self {
        Sort { keys }
    }
}

impl Operator for Sort {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let n = rows.batch.num_rows();
        let arrow = |e: arrow_schema::ArrowError| OpError::Plan { operator: NAME, reason: e.to_string() };
        let columns = self
            .keys
            .iter()
            .map(|k| {
                let values = k.expr.evaluate(&rows.batch).and_then(|v| v.into_array(n))?;
                let options = SortOptions { descending: k.descending, nulls_first: k.nulls_first };
                Ok(SortColumn { values, options: Some(options) })
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| OpError::Eval { operator: NAME, source: Box::new(e) })?;
        let order = lexsort_to_indices(&columns, None).map_err(arrow)?;
        let batch = take_record_batch(&rows.batch, &order).map_err(arrow)?;
        let weights = match rows.weights {
            Some(w) => {
                use arrow_array::cast::AsArray;
                Some(take(&w, &order, None).map_err(arrow)?.as_primitive().clone())
            }
            None => None,
        };
        out.rows(Rows { batch, weights });
        Ok(())
    }
}
