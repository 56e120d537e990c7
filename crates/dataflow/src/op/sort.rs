//! Sorts each result set, which comes as one batch; of a changelog the changes, each by its new row.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_array::{Int64Array, UInt32Array};
use arrow_ord::sort::{SortColumn, SortOptions, lexsort_to_indices};
use arrow_select::take::{take, take_record_batch};
use weir_plan::{Rows, SortKey};

const NAME: &str = "Sort";

pub struct Sort {
    keys: Vec<SortKey>,
}

/// The order with each row that is taken back right before the one that replaces it.
fn in_pairs(order: &UInt32Array, weights: &Int64Array) -> UInt32Array {
    let old_of = |row: u32| row.checked_sub(1).filter(|old| weights.value(*old as usize) < 0);
    let replaced = |row: u32| weights.values().get(row as usize + 1).is_some_and(|w| *w > 0);
    let mut all = Vec::with_capacity(order.len());
    for row in order.values() {
        match weights.value(*row as usize) {
            w if w > 0 => all.extend(old_of(*row).into_iter().chain([*row])),
            _ if replaced(*row) => {}
            _ => all.push(*row),
        }
    }
    all.into()
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
        let mut order = lexsort_to_indices(&columns, None).map_err(arrow)?;
        if let Some(weights) = &rows.weights {
            order = in_pairs(&order, weights);
        }
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
