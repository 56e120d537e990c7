//! `system.numbers`, `numbers(n)` and `zeros(n)`: made while they are read.

use arrow::array::{ArrayRef, RecordBatch, UInt8Array, UInt64Array};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::ScalarValue;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use std::sync::Arc;
use weir_base::{Result, err};
use weir_format::types::Type;

#[derive(Debug, Clone)]
struct Numbers {
    schema: SchemaRef,
    next: u64,
    end: u64,
    zeros: bool,
}

impl Numbers {
    fn new(next: u64, end: u64, zeros: bool) -> Self {
        let field = if zeros { Type::UInt8.field("zero") } else { Type::UInt64.field("number") };
        Numbers { schema: Arc::new(Schema::new(vec![field])), next, end, zeros }
    }

    fn batch(&mut self, rows_max: u64) -> RecordBatch {
        let to = self.next.saturating_add(rows_max).min(self.end);
        let column: ArrayRef = if self.zeros {
            Arc::new(UInt8Array::from_value(0, (to - self.next) as usize))
        } else {
            Arc::new(UInt64Array::from_iter_values(self.next..to))
        };
        self.next = to;
        RecordBatch::try_new(self.schema.clone(), vec![column]).expect("one column of its own schema")
    }
}

impl PartitionStream for Numbers {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, cx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows_max = cx.session_config().batch_size() as u64;
        let batches = futures::stream::unfold(self.clone(), move |mut at| async move {
            if at.next >= at.end {
                return None;
            }
            let batch = at.batch(rows_max);
            // Nothing here waits, so a plan that reads it all must be let go now and then.
            tokio::task::consume_budget().await;
            Some((Ok(batch), at))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

fn table(numbers: Numbers) -> Arc<dyn TableProvider> {
    let schema = numbers.schema.clone();
    let table = StreamingTable::try_new(schema, vec![Arc::new(numbers)]);
    Arc::new(table.expect("the partition has the table's schema"))
}

/// `system.numbers`: to be read with a LIMIT.
pub(super) fn endless() -> Arc<dyn TableProvider> {
    table(Numbers::new(0, u64::MAX, false))
}

/// `numbers(n)`, `numbers(first, n)`, `zeros(n)`.
pub(super) fn function(name: &str, args: &[ScalarValue]) -> Result<Arc<dyn TableProvider>> {
    let number = |v: &ScalarValue| match v.cast_to(&arrow::datatypes::DataType::UInt64) {
        Ok(ScalarValue::UInt64(Some(n))) => Ok(n),
        _ => Err(err!(IllegalTypeOfArgument, "{name} takes numbers from 0, not {v}")),
    };
    let zeros = name == "zeros";
    match args {
        [n] => Ok(table(Numbers::new(0, number(n)?, zeros))),
        [first, n] if !zeros => {
            let first = number(first)?;
            Ok(table(Numbers::new(first, first.saturating_add(number(n)?), false)))
        }
        _ => Err(err!(NumberOfArguments, "{name} takes a count, numbers also a first number before it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stop_where_they_should() {
        let mut n = Numbers::new(5, 12, false);
        let lengths: Vec<usize> =
            std::iter::from_fn(|| (n.next < n.end).then(|| n.batch(3).num_rows())).collect();
        assert_eq!(lengths, [3, 3, 1]);
        assert!(function("numbers", &[ScalarValue::Utf8(Some("x".into()))]).is_err());
        assert_eq!(function("zeros", &[]).unwrap_err().code.number(), 42);
    }
}
