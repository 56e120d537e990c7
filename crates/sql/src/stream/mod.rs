//! An unbounded plan becomes a [`StreamPlan`]: plain data that `dataflow` runs.
//!
//! ```text
//! LogicalPlan -> chosen rules (simplify, filters down, columns down) -> StreamNode tree
//! ```
//!
//! Only rules that change no row and no order are applied: they bring predicates to the
//! sources, where they decide where to begin and which parts to skip, and drop columns nobody
//! reads. A predicate always filters again in the plan.
//!
//! What rows need besides the columns a query names (the watermark that judges them, their place
//! in the log, the bounds of their window) travels behind these, through every projection.
//!
//! Not here: state, execution.

mod aggregate;
mod changelog;
mod history;
mod node;
mod stateful;
mod union;

pub(crate) use node::over_scan;

use crate::bind::BoundQuery;
use crate::bind::errors::from_datafusion;
use datafusion::execution::SessionState;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimizer::{Optimizer, OptimizerRule};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use std::sync::Arc;
use weir_base::{Error, err};
use weir_plan::{ReplayOrder, StreamPlan};

/// Lowers an unbounded query.
///
/// # Errors
/// 48 for operators of later versions, 183 for a predicate that should seek and can not.
pub fn lower(bound: BoundQuery, state: &SessionState) -> Result<StreamPlan, Error> {
    if !bound.unbounded {
        return Err(err!(LogicalError, "a bounded query has no stream plan"));
    }
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let plan =
        Optimizer::with_rules(rules).optimize(bound.plan, state, |_, _| {}).map_err(from_datafusion)?;
    let mut lowering =
        node::Lowering::new(state, &bound.seek_to, bound.emit, bound.lateness, bound.replay_order);
    lowering.late_columns = bound.late_columns;
    lowering.life = bound.life;
    lowering.sessions = bound.sessions;
    let mut root = lowering.root(&plan, bound.schema)?;
    if bound.state.ttl_us > 0 {
        aggregate::may_forget(&root)?;
    }
    history::plan_history(&mut root, &bound.history.spec, bound.history.in_order);
    if bound.replay_order == ReplayOrder::EventTime && root.sources().iter().any(|(_, s)| s.log_order) {
        return Err(err!(
            IncorrectQuery,
            "lag, row_number, dedup and other functions of the order of rows take them as they were appended, \
             replay_order='event_time' gives history in another order; leave it out"
        ));
    }
    Ok(StreamPlan { root, replay_order: bound.replay_order, state: bound.state })
}
