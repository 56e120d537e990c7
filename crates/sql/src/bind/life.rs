//! What `IDENTIFIED BY` of `EMIT AFTER KEY EXPIRE` and `AFTER SESSION CLOSE` names: expressions over
//! what the aggregation reads, brought down to the one stream below it.
//!
//! Not here: what a life is (`plan::LifeSpec`), the operator.

use super::context::Binder;
use super::errors::from_datafusion;
use super::window_table::WindowTable;
use crate::parse::emit::{Life, Policy};
use crate::parse::parse_expr;
use crate::stream::over_scan;
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use weir_base::{Code, Error, err};

const EVENT_TIME: &str = "_tp_time";

/// How sessions of keys treat the rows that open and close them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionRules {
    /// `merge_open_sessions`: a row that opens joins a session that is open.
    pub merge_open: bool,
    /// Not `include_session_end`: a row that closes is outside.
    pub close_left_out: bool,
}

/// Over the scan of the stream.
#[derive(Debug, Clone)]
pub(crate) struct LifeExprs {
    pub time: Expr,
    pub opens: Option<Expr>,
    pub closes: Option<Expr>,
}

/// The life a policy speaks of.
pub(crate) fn of(policy: Option<&Policy>) -> Option<&Life> {
    match policy {
        Some(Policy::KeyExpire(life) | Policy::SessionClose(life)) => Some(life),
        _ => None,
    }
}

/// The outermost aggregation's input.
fn aggregated(plan: &LogicalPlan) -> Option<&LogicalPlan> {
    match plan {
        LogicalPlan::Aggregate(a) => Some(&a.input),
        other => other.inputs().into_iter().find_map(aggregated),
    }
}

fn windowed(plan: &LogicalPlan) -> bool {
    WindowTable::of(plan).is_some() || plan.inputs().into_iter().any(windowed)
}

/// Binds what identifies lives; `None` where there is nothing to aggregate.
///
/// # Errors
/// Code 43 for a time or a condition that is none, 48 for more than one stream, 47 for names.
pub(super) fn bind(
    binder: &Binder<'_>,
    rules: &super::coerce::Rules,
    life: &Life,
    plan: &LogicalPlan,
) -> Result<Option<LifeExprs>, Error> {
    let Some(input) = aggregated(plan) else { return Ok(None) };
    if windowed(input) {
        // Refused where policies are looked at.
        return Ok(None);
    }
    let expr = |text: &str, condition: bool| -> Result<Expr, Error> {
        let e = binder.expr(parse_expr(text)?, input.schema())?;
        let e = super::coerce::expr(e, input.schema(), rules).map_err(from_datafusion)?;
        let t = e.get_type(input.schema()).map_err(from_datafusion)?;
        match (condition, &t) {
            (false, DataType::Timestamp(..)) | (true, DataType::Boolean) => {}
            (false, _) => {
                return Err(err!(IllegalTypeOfArgument, "IDENTIFIED BY takes a time first, {text} is {t}"));
            }
            (true, _) => {
                return Err(err!(
                    IllegalTypeOfArgument,
                    "IDENTIFIED BY takes conditions that open and close a session, {text} is {t}; write {text} = 1"
                ));
            }
        }
        if e.is_volatile() {
            return Err(err!(NotImplemented, "IDENTIFIED BY {text} changes from call to call; use a column"));
        }
        over_scan(e, input).map_err(|e| match e.code {
            Code::NotImplemented => err!(
                NotImplemented,
                "EMIT AFTER KEY EXPIRE and AFTER SESSION CLOSE read one stream, through subqueries that only filter and compute; {text} comes from something else"
            ),
            _ => e,
        })
    };
    Ok(Some(LifeExprs {
        time: expr(life.by.first().map_or(EVENT_TIME, String::as_str), false)?,
        opens: life.by.get(1).map(|t| expr(t, true)).transpose()?,
        closes: life.by.get(2).map(|t| expr(t, true)).transpose()?,
    }))
}
