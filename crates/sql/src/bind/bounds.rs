//! What a query without end can not do, and why.

use super::scope::UnboundedTable;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::DefaultTableSource;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, TableScan};
use weir_base::{Error, err};

/// The stream a scan reads without end, if it does.
pub(crate) fn unbounded_table(t: &TableScan) -> Option<&UnboundedTable> {
    let source = t.source.as_ref().downcast_ref::<DefaultTableSource>()?;
    source.table_provider.as_ref().downcast_ref::<UnboundedTable>()
}

/// Whether the plan, or a subquery in it, never ends.
pub(crate) fn is_unbounded(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let _ = plan.apply_with_subqueries(|p| {
        found |= matches!(p, LogicalPlan::TableScan(t) if unbounded_table(t).is_some());
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// Refuses what needs state or an end.
///
/// # Errors
/// Code 48 for what comes in a later version, 80 for what can not be.
pub(crate) fn check(plan: &LogicalPlan) -> Result<(), Error> {
    walk(plan, false, false)
}

fn later(what: &str, instead: &str) -> Error {
    err!(
        NotImplemented,
        "{what} over an unbounded stream is not supported yet: it comes with stateful streaming queries in a later version; {instead}"
    )
}

const TABLE: &str = "use table(stream) for the rows there are now";

/// The aggregation right below, through what keeps its rows.
fn aggregate_below(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(_) => true,
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Sort(_) => plan.inputs().into_iter().all(aggregate_below),
        _ => false,
    }
}

fn walk(plan: &LogicalPlan, under_union: bool, inside: bool) -> Result<(), Error> {
    if !is_unbounded(plan) {
        return Err(err!(
            NotImplemented,
            "UNION of bounded and unbounded relations is not supported yet; use table(stream) in every part or in none"
        ));
    }
    for e in plan.expressions() {
        let mut subquery = false;
        let _ = e.apply(|e| {
            subquery |= matches!(
                e,
                Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
            );
            Ok(TreeNodeRecursion::Continue)
        });
        if subquery {
            return Err(later("a subquery in an expression", TABLE));
        }
    }
    match plan {
        LogicalPlan::TableScan(_) => return Ok(()),
        LogicalPlan::Aggregate(a) if a.group_expr.iter().any(|g| matches!(g, Expr::GroupingSet(_))) => {
            return Err(later("ROLLUP, CUBE or GROUPING SETS", TABLE));
        }
        LogicalPlan::Aggregate(_) if under_union && !inside => {
            return Err(later("an aggregation inside a UNION", "run the queries one by one"));
        }
        LogicalPlan::Sort(_) if aggregate_below(plan) => {}
        LogicalPlan::Join(_) => return Err(later("JOIN", TABLE)),
        LogicalPlan::Distinct(Distinct::On(_)) => {
            return Err(later("DISTINCT ON", "read dedup(stream, key), or use LIMIT 1 BY key"));
        }
        LogicalPlan::Distinct(_) | LogicalPlan::Window(_) if under_union => {
            return Err(later(
                "a function of the order of rows inside a UNION",
                "run the queries one by one",
            ));
        }
        LogicalPlan::Unnest(_) => return Err(later("ARRAY JOIN", TABLE)),
        LogicalPlan::Sort(_) => {
            return Err(err!(
                IncorrectQuery,
                "ORDER BY needs all rows and a stream has no last one; leave ORDER BY out, or use table(stream) for the rows there are now"
            ));
        }
        LogicalPlan::Limit(_) if under_union => {
            return Err(err!(
                NotImplemented,
                "LIMIT inside a UNION of streams is not supported yet; put it after the UNION"
            ));
        }
        LogicalPlan::RecursiveQuery(_) => return Err(later("recursive WITH", TABLE)),
        _ => {}
    }
    let under_union = under_union || matches!(plan, LogicalPlan::Union(_));
    // Another aggregation takes in what the inputs of a UNION give.
    let inside = inside || matches!(plan, LogicalPlan::Aggregate(_));
    for input in plan.inputs() {
        walk(input, under_union, inside)?;
    }
    Ok(())
}
