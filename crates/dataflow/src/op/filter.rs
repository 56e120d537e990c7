//! Keeps the rows for which a predicate is true; NULL is not true.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray};
use arrow_schema::{DataType, Schema};
use arrow_select::filter::{FilterBuilder, filter_record_batch};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use std::sync::Arc;
use weir_plan::Rows;

const NAME: &str = "Filter";

pub struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
}

impl Filter {
    /// # Errors
    /// [`OpError::Plan`] when the predicate is not boolean over `input`.
    pub fn new(predicate: Arc<dyn PhysicalExpr>, input: &Schema) -> Result<Self, OpError> {
        match predicate.data_type(input) {
            Ok(DataType::Boolean | DataType::Null) => Ok(Filter { predicate }),
            Ok(other) => Err(OpError::Plan {
                operator: NAME,
                reason: format!("predicate {predicate} is {other}, not boolean"),
            }),
            Err(e) => Err(eval(e)),
        }
    }
}

fn eval(e: DataFusionError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(e) }
}

fn arrow(e: arrow_schema::ArrowError) -> OpError {
    eval(DataFusionError::ArrowError(Box::new(e), None))
}

impl Operator for Filter {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let mask = match self.predicate.evaluate(&rows.batch).map_err(eval)? {
            ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))) => {
                out.rows(rows);
                return Ok(());
            }
            ColumnarValue::Scalar(_) => return Ok(()),
            ColumnarValue::Array(array) if array.data_type() == &DataType::Null => return Ok(()),
            ColumnarValue::Array(array) => array,
        };
        let mask: &BooleanArray = mask.as_boolean_opt().ok_or_else(|| OpError::Plan {
            operator: NAME,
            reason: format!("predicate gave {}, not boolean", mask.data_type()),
        })?;
        let kept = mask.true_count();
        if kept == rows.batch.num_rows() {
            out.rows(rows);
        } else if kept > 0 {
            let weights = match rows.weights {
                Some(w) => {
                    let w = FilterBuilder::new(mask).build().filter(&w).map_err(arrow)?;
                    Some(w.as_primitive().clone())
                }
                None => None,
            };
            out.rows(Rows { batch: filter_record_batch(&rows.batch, mask).map_err(arrow)?, weights });
        }
        Ok(())
    }
}
