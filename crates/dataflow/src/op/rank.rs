//! Numbers the rows of each partition within one result set, which comes as one batch: `row_number`,
//! `rank` and `dense_rank` over results of an aggregation, for the n best of each.
//!
//! Stateless: a result set is ranked by itself. Rows that tie keep the order they came in.

use crate::operator::{InputId, OpError, Operator, Output};
use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema, SchemaRef, SortOptions};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use std::sync::Arc;
use weir_plan::{RankKind, RankSpec, Rows};

const NAME: &str = "Rank";

pub struct Rank {
    /// Partition keys, then what orders the rows of one.
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    partition: RowConverter,
    order: RowConverter,
    partitions: usize,
    kinds: Vec<RankKind>,
    at: usize,
    schema: SchemaRef,
}

fn plan(reason: impl ToString) -> OpError {
    OpError::Plan { operator: NAME, reason: reason.to_string() }
}

fn eval(e: DataFusionError) -> OpError {
    OpError::Eval { operator: NAME, source: Box::new(e) }
}

fn arrow(e: ArrowError) -> OpError {
    eval(DataFusionError::ArrowError(Box::new(e), None))
}

impl Rank {
    /// # Errors
    /// [`OpError::Plan`] when types do not fit.
    pub fn new(spec: &RankSpec, at: usize, schema: SchemaRef, input: &Schema) -> Result<Self, OpError> {
        if schema.fields().len() != input.fields().len() + spec.functions.len() {
            return Err(plan("the result has another number of columns"));
        }
        let field = |e: &Arc<dyn PhysicalExpr>, options: SortOptions| {
            e.data_type(input).map(|t| SortField::new_with_options(t, options)).map_err(eval)
        };
        let by = spec.partition.iter().map(|e| field(e, SortOptions::default()));
        let order = spec
            .order
            .iter()
            .map(|k| field(&k.expr, SortOptions { descending: k.descending, nulls_first: k.nulls_first }));
        Ok(Rank {
            exprs: spec.partition.iter().chain(spec.order.iter().map(|k| &k.expr)).cloned().collect(),
            partition: RowConverter::new(by.collect::<Result<_, _>>()?).map_err(plan)?,
            order: RowConverter::new(order.collect::<Result<_, _>>()?).map_err(plan)?,
            partitions: spec.partition.len(),
            kinds: spec.functions.iter().map(|(kind, _)| *kind).collect(),
            at,
            schema,
        })
    }
}

impl Operator for Rank {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.weights.is_some() {
            return Err(plan("ranks of a changelog"));
        }
        let batch = rows.batch;
        let n = batch.num_rows();
        let columns = self
            .exprs
            .iter()
            .map(|e| e.evaluate(&batch).and_then(|v| v.into_array(n)).map_err(eval))
            .collect::<Result<Vec<ArrayRef>, _>>()?;
        let (by, order) = columns.split_at(self.partitions);
        // Without keys Arrow makes no rows at all: then all rows are one partition.
        let by = (!by.is_empty()).then(|| self.partition.convert_columns(by)).transpose().map_err(arrow)?;
        let order = self.order.convert_columns(order).map_err(arrow)?;
        let partition = |row: usize| by.as_ref().map(|by| by.row(row));
        let mut places: Vec<usize> = (0..n).collect();
        places.sort_by(|a, b| {
            partition(*a).cmp(&partition(*b)).then_with(|| order.row(*a).cmp(&order.row(*b)))
        });
        let mut numbers = vec![vec![0u64; n]; self.kinds.len()];
        let (mut number, mut rank, mut dense) = (0, 0, 0);
        for (i, row) in places.iter().enumerate() {
            let before = i.checked_sub(1).map(|b| places[b]);
            let same = before.filter(|b| partition(*b) == partition(*row));
            if same.is_none() {
                (number, rank, dense) = (0, 0, 0);
            }
            number += 1;
            if same.is_none_or(|b| order.row(b) != order.row(*row)) {
                rank = number;
                dense += 1;
            }
            for (kind, numbers) in self.kinds.iter().zip(&mut numbers) {
                numbers[*row] = match kind {
                    RankKind::RowNumber => number,
                    RankKind::Rank => rank,
                    RankKind::DenseRank => dense,
                };
            }
        }
        let mut all = batch.columns().to_vec();
        for (i, numbers) in numbers.into_iter().enumerate() {
            all.insert(self.at + i, Arc::new(UInt64Array::from(numbers)));
        }
        out.rows(Rows::append(RecordBatch::try_new(self.schema.clone(), all).map_err(plan)?));
        Ok(())
    }
}
