//! The SELECT of a view, with the event time of each row where it gives none.
//!
//! `_tp_time` of a window's row is its start, of any other row its input's, of a global aggregate the
//! greatest it covers: so a view over a view goes by the time of what happened.

use sqlparser::ast::{Distinct, Expr, Ident, Query, SelectItem, SetExpr};
use weir_base::{Result, err};
use weir_sql::parse;

/// The column that is added; its target knows it as `_tp_time`.
pub(super) const TIME_ALIAS: &str = "__tp_time";

/// The ways a SELECT may be bound, the first that can be is it; the last one is as it was written.
///
/// # Errors
/// Code 62 for what is not one SELECT.
pub(super) fn candidates(select: &str) -> Result<Vec<Query>> {
    let written = one(select)?;
    let mut all = Vec::new();
    if let SetExpr::Select(body) = written.body.as_ref()
        && !matches!(body.distinct, Some(Distinct::Distinct | Distinct::On(_)))
        && !body.projection.iter().any(gives_time)
    {
        let changelog = weir_sql::parse::reserved::emit(&written)
            .is_some_and(|emit| emit.to_ascii_lowercase().contains("changelog"));
        for time in ["_tp_time", "window_start", "max(_tp_time)"] {
            // A changelog takes back rows as they were: one more column that moves would move them all.
            if changelog && time.starts_with("max") {
                continue;
            }
            let mut query = Query::clone(&written);
            let SetExpr::Select(body) = query.body.as_mut() else { continue };
            let alias = Ident::with_quote('`', TIME_ALIAS);
            body.projection.push(SelectItem::ExprWithAlias { expr: expression(time)?, alias });
            all.push(query);
        }
    }
    all.push(*written);
    Ok(all)
}

fn one(select: &str) -> Result<Box<Query>> {
    let mut statements = parse::parse(select)?;
    match (statements.len(), statements.pop().map(|p| p.statement)) {
        (1, Some(weir_sql::Statement::Query(query))) => Ok(query),
        _ => Err(err!(Syntax, "a view is one SELECT")),
    }
}

fn expression(text: &str) -> Result<Expr> {
    let query = one(&format!("SELECT {text}"))?;
    match *query.body {
        SetExpr::Select(mut select) => match select.projection.pop() {
            Some(SelectItem::UnnamedExpr(expr)) => Ok(expr),
            _ => Err(err!(LogicalError, "{text} is no expression")),
        },
        _ => Err(err!(LogicalError, "{text} is no expression")),
    }
}

fn gives_time(item: &SelectItem) -> bool {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => alias.value == weir_storage::TIME_COLUMN,
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => name.value == weir_storage::TIME_COLUMN,
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
            parts.last().is_some_and(|name| name.value == weir_storage::TIME_COLUMN)
        }
        _ => false,
    }
}
