//! UNION of streams. Below a window or a function of earlier rows its rows stand in one order: that of
//! their logs, and at one time that of the streams' names, shards and sequence numbers.
//!
//! Each input says of its rows what the one above wants to know: behind the columns of the UNION all
//! have the same hidden ones.

use super::node::{Hidden, Lowered, Lowering, over_scan};
use super::stateful::aggregate_below;
use crate::bind::errors::from_datafusion;
use crate::bind::united::{self, SHARDS_MAX, streams};
use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, Union};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{Projection, StreamNode};

impl Lowering<'_> {
    pub(super) fn union(&mut self, u: &Union) -> Result<Lowered, Error> {
        let one_order = self.judged_by.is_some() || self.log_order;
        let unites = if one_order || self.ordered { self.may_unite(u) } else { Ok(()) };
        if one_order {
            unites.clone()?;
        }
        let placed = one_order || self.ordered && unites.is_ok();
        let before = (self.ordered, self.by_log, self.judged_by.clone(), self.partition.clone());
        if !placed {
            // Rows are taken as they come.
            (self.ordered, self.by_log) = (false, false);
        }
        let id = self.id();
        let mut inputs = Vec::with_capacity(u.inputs.len());
        for input in united::branches(u) {
            if let Some(time) = &before.2 {
                let below = |e: &Expr| over_scan(by_position(e, &u.schema, input.schema())?, input);
                self.judged_by = Some(below(time)?);
                self.partition = before.3.iter().map(below).collect::<Result<_, _>>()?;
            }
            inputs.push(self.node(input)?);
        }
        (self.ordered, self.by_log, self.judged_by, self.partition) = before;
        if !placed {
            let inputs: Vec<StreamNode> = inputs.into_iter().map(|i| i.node).collect();
            let schema = match inputs.first() {
                // Of rows that are only counted a column is read all the same.
                Some(first) if u.schema.fields().is_empty() => first.schema(),
                _ => Arc::new(Schema::new(u.schema.fields().clone())),
            };
            return Ok(Lowered::plain(StreamNode::Union { id, schema, inputs }));
        }
        self.aligned(id, u, inputs)
    }

    /// Refuses what has no place in one order.
    fn may_unite(&self, u: &Union) -> Result<(), Error> {
        let refuse = |why: &str| Err(err!(NotImplemented, "{why}"));
        if self.lives.is_some() {
            return refuse(
                "keys that expire over a UNION are not supported yet; use a window, or each of the streams",
            );
        }
        if united::branches(u).into_iter().any(aggregate_below) {
            return refuse(
                "a window, or a function of earlier rows, over a UNION of results is not supported: \
                 results have no place in a log; use it below the UNION",
            );
        }
        if united::branches(u).into_iter().any(|branch| united::below(branch).len() > 1) {
            return refuse(
                "a window, or a function of earlier rows, over a UNION of subqueries over UNIONs is not supported yet; \
                 write them as one UNION ALL",
            );
        }
        if united::branches(u).into_iter().any(changelog) {
            return refuse(
                "a window, or a function of earlier rows, over a UNION with a changelog is not supported: \
                 rows that are taken back have no place among the others",
            );
        }
        Ok(())
    }

    /// Inputs with the same hidden columns behind those of the UNION.
    fn aligned(&mut self, id: weir_plan::NodeId, u: &Union, inputs: Vec<Lowered>) -> Result<Lowered, Error> {
        let own = u.schema.fields().len();
        let names = streams(u);
        let type_of = |input: &Lowered, what| {
            let at = input.find(what)?;
            Some(input.node.schema().field(at).data_type().clone())
        };
        let first = inputs.first().ok_or_else(|| err!(LogicalError, "a UNION of nothing"))?;
        let everywhere = |what: &Hidden| {
            let t = type_of(first, *what);
            t.is_some() && inputs.iter().all(|i| type_of(i, *what) == t)
        };
        let mut hidden: Vec<Hidden> = first.hidden.iter().map(|(h, _)| *h).filter(everywhere).collect();
        if names.len() > 1 && hidden.contains(&Hidden::Shard) {
            hidden.retain(|h| *h != Hidden::OwnShard);
            hidden.push(Hidden::OwnShard);
        }
        let mut fields: Vec<FieldRef> = u.schema.fields().iter().cloned().collect();
        let mut branches = Vec::with_capacity(inputs.len());
        for (i, (input, plan)) in inputs.into_iter().zip(united::branches(u)).enumerate() {
            let below = input.node.schema();
            let column = |at: usize| Projection {
                expr: Arc::new(Column::new(below.field(at).name(), at)),
                name: below.field(at).name().clone(),
            };
            let mut exprs: Vec<Projection> = (0..own).map(column).collect();
            let rank = names.iter().position(|n| united::below(plan).first() == Some(n)).unwrap_or(0);
            for what in &hidden {
                let place = input.find(*what).or_else(|| input.find(Hidden::Shard));
                let at = place.ok_or_else(|| err!(LogicalError, "an input of a UNION lost its place"))?;
                let mut hidden = column(at);
                match what {
                    Hidden::Shard if rank > 0 => hidden.expr = numbered(hidden.expr, rank),
                    Hidden::OwnShard => hidden.name = "__own_shard".into(),
                    _ => {}
                }
                if i == 0 {
                    fields.push(Arc::new(below.field(at).clone().with_name(&*hidden.name)));
                }
                exprs.push(hidden);
            }
            branches.push((exprs, input.node));
        }
        let schema = Arc::new(Schema::new(fields));
        let inputs = branches
            .into_iter()
            .map(|(exprs, input)| {
                let (id, schema) = (self.id(), schema.clone());
                StreamNode::Project { id, exprs, schema, input: Box::new(input) }
            })
            .collect();
        let hidden = hidden.into_iter().enumerate().map(|(i, what)| (what, own + i)).collect();
        Ok(Lowered { node: StreamNode::Union { id, schema, inputs }, hidden })
    }
}

fn changelog(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(t) => crate::bind::unbounded_table(t).is_some_and(|t| t.changelog),
        other => other.inputs().into_iter().any(changelog),
    }
}

/// A shard's number among those of all streams.
fn numbered(shard: Arc<dyn PhysicalExpr>, rank: usize) -> Arc<dyn PhysicalExpr> {
    let first = ScalarValue::Int32(Some(rank as i32 * SHARDS_MAX));
    Arc::new(BinaryExpr::new(shard, Operator::Plus, Arc::new(Literal::new(first))))
}

/// An expression over a UNION's columns, over those of one of its inputs.
fn by_position(e: &Expr, union: &DFSchema, input: &DFSchema) -> Result<Expr, Error> {
    e.clone()
        .transform(|x| {
            let Expr::Column(c) = &x else { return Ok(Transformed::no(x)) };
            let at = union.index_of_column(c)?;
            Ok(Transformed::yes(Expr::Column(input.columns()[at].clone())))
        })
        .map(|t| t.data)
        .map_err(from_datafusion)
}
