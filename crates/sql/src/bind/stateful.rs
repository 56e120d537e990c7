//! Functions over the rows before a row, on the syntax tree of one SELECT.
//!
//! - `lag(x)`, `row_number()` and their like without OVER are over the whole stream, or over the
//!   query's `PARTITION BY`; `lags` is a list of `lag`, `neighbor` looks back or ahead.
//! - An OVER without ORDER BY takes rows in log order, which the call `_log_order()` stands for.
//! - `PARTITION BY k` of a query that aggregates is one more key; `SHUFFLE BY` is checked and changes
//!   no answer.
//!
//! Not here: what log order is (`log_order`).

use super::factors::WINDOW;
use super::functions::squash;
use super::log_order::LOG_ORDER;
use super::select::at;
use super::spell::{call, number};
use super::window_table::{WINDOW_END, WINDOW_START};
use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    Array, CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    NamedWindowExpr, NullTreatment, OrderByExpr, OrderByOptions, Query, Select, SelectItem, Spanned,
    TableFactor, UnaryOperator, Value, VisitMut, VisitorMut, WindowSpec, WindowType,
};
use std::ops::ControlFlow;
use weir_base::{Error, err};
use weir_plan::LAG_ROWS_MAX;

/// `lags` gives so many values at most.
const LAGS_MAX: u64 = 1_000;

/// Rewrites a SELECT whose aliases are expanded.
pub(super) fn rewrite(
    s: &mut Select,
    partition: &[Expr],
    shuffle: &[Expr],
    is_aggregate: &dyn Fn(&str) -> bool,
) -> Result<(), Error> {
    let mut aggregates = false;
    let mut pass = Pass { partition, is_aggregate, aggregates: &mut aggregates, subqueries: 0 };
    for item in &mut s.projection {
        if let SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } = item {
            walk(e, &mut pass)?;
        }
    }
    for e in s.having.iter_mut().chain(s.qualify.iter_mut()) {
        walk(e, &mut pass)?;
    }
    for window in &mut s.named_window {
        if let NamedWindowExpr::WindowSpec(spec) = &mut window.1 {
            in_log_order(spec);
        }
    }
    let windowed = s.from.iter().any(|f| reads_window(&f.relation));
    let GroupByExpr::Expressions(groups, _) = &mut s.group_by else { return Ok(()) };
    let of_window =
        |e: &Expr| matches!(e, Expr::Identifier(i) if [WINDOW_START, WINDOW_END].contains(&i.value.as_str()));
    if let (Some(key), false, true) = (partition.first(), windowed, groups.iter().any(of_window)) {
        return Err(at(
            err!(
                NotImplemented,
                "PARTITION BY must stand in the query that reads the window, FROM tumble(…) or hop(…): each key has a watermark there"
            ),
            key.span(),
        ));
    }
    for e in shuffle {
        if !groups.contains(e) {
            return Err(at(
                err!(
                    IncorrectQuery,
                    "SHUFFLE BY {e} is not in GROUP BY: rows of one group must stay together; shuffle by keys of the GROUP BY"
                ),
                e.span(),
            ));
        }
    }
    if aggregates || !groups.is_empty() {
        for e in partition {
            if !groups.contains(e) {
                groups.push(e.clone());
            }
        }
    }
    Ok(())
}

/// A window function of FROM, which has become a name.
fn reads_window(f: &TableFactor) -> bool {
    matches!(f, TableFactor::Table { name, .. }
        if name.0.first().and_then(|p| p.as_ident()).is_some_and(|i| i.value == WINDOW))
}

fn walk(e: &mut Expr, pass: &mut Pass<'_>) -> Result<(), Error> {
    match e.visit(pass) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(e) => Err(e),
    }
}

/// Log order, where the window has none of its own.
pub(super) fn in_log_order(spec: &mut WindowSpec) {
    if spec.order_by.is_empty() && spec.window_name.is_none() {
        spec.order_by.push(OrderByExpr {
            expr: call(LOG_ORDER, Vec::new()),
            options: OrderByOptions { asc: None, nulls_first: None },
            with_fill: None,
        });
    }
}

struct Pass<'a> {
    partition: &'a [Expr],
    is_aggregate: &'a dyn Fn(&str) -> bool,
    aggregates: &'a mut bool,
    subqueries: usize,
}

impl VisitorMut for Pass<'_> {
    type Break = Error;

    // A subquery is a SELECT of its own.
    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.subqueries += 1;
        ControlFlow::Continue(())
    }
    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.subqueries -= 1;
        ControlFlow::Continue(())
    }
    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<Error> {
        if self.subqueries > 0 {
            return ControlFlow::Continue(());
        }
        match self.function(e) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(at(error, e.span())),
        }
    }
}

impl Pass<'_> {
    fn function(&mut self, e: &mut Expr) -> Result<(), Error> {
        let Expr::Function(f) = e else { return Ok(()) };
        let [part] = f.name.0.as_slice() else { return Ok(()) };
        let Some(name) = part.as_ident().map(|i| i.value.clone()) else { return Ok(()) };
        match squash(&name).as_str() {
            "lag" | "rownumber" if f.over.is_none() => self.over(f),
            "lags" => *e = self.lags(f)?,
            "neighbor" => *e = self.neighbor(f)?,
            name if f.over.is_some() && valid(name).is_some() => valid_value(f),
            _ => match &mut f.over {
                Some(WindowType::WindowSpec(spec)) => in_log_order(spec),
                Some(WindowType::NamedWindow(_)) => {}
                None => *self.aggregates |= (self.is_aggregate)(&name),
            },
        }
        if let Expr::Function(f) = e
            && let Some(WindowType::WindowSpec(spec)) = &mut f.over
        {
            in_log_order(spec);
        }
        Ok(())
    }

    fn over(&self, f: &mut Function) {
        let mut spec = WindowSpec {
            window_name: None,
            partition_by: self.partition.to_vec(),
            order_by: Vec::new(),
            window_frame: None,
        };
        in_log_order(&mut spec);
        f.over = Some(WindowType::WindowSpec(spec));
    }

    /// `name(args)` with the OVER of another call.
    fn like(&self, name: &str, args: Vec<Expr>, f: &Function) -> Expr {
        let Expr::Function(mut made) = call(name, args) else { unreachable!("call makes a function") };
        made.over.clone_from(&f.over);
        if made.over.is_none() {
            self.over(&mut made);
        }
        if let Some(WindowType::WindowSpec(spec)) = &mut made.over {
            in_log_order(spec);
        }
        Expr::Function(made)
    }

    /// `lags(c, from, to[, default])`: what `lag` gives at each of these distances.
    fn lags(&self, f: &Function) -> Result<Expr, Error> {
        let usage = || err!(NumberOfArguments, "lags is written lags(column, from, to[, default])");
        let args = arguments(f).ok_or_else(usage)?;
        let (c, from, to, default) = match args.as_slice() {
            [c, from, to] => (c, from, to, None),
            [c, from, to, default] => (c, from, to, Some(default)),
            _ => return Err(usage()),
        };
        let distance = |e: &Expr| match whole(e) {
            Some(n) if (0..=LAG_ROWS_MAX as i64).contains(&n) => Ok(n as u64),
            _ => Err(err!(
                BadArguments,
                "lags looks back a constant number of rows between 0 and {LAG_ROWS_MAX}, not {e}"
            )),
        };
        let (from, to) = (distance(from)?, distance(to)?);
        if from > to {
            return Err(err!(
                BadArguments,
                "lags from {from} to {to} is no range; write the smaller number first"
            ));
        }
        if to - from >= LAGS_MAX {
            return Err(err!(
                BadArguments,
                "lags from {from} to {to} gives more than {LAGS_MAX} values a row"
            ));
        }
        let elem = (from..=to)
            .map(|n| {
                let mut args = vec![(*c).clone(), number(&n.to_string())];
                args.extend(default.map(|d| (*d).clone()));
                self.like("lag", args, f)
            })
            .collect();
        Ok(Expr::Array(Array { elem, named: false }))
    }

    /// `neighbor(c, n[, default])`: back for n below 0, ahead for n above.
    fn neighbor(&self, f: &Function) -> Result<Expr, Error> {
        let usage = || err!(NumberOfArguments, "neighbor is written neighbor(column, offset[, default])");
        let args = arguments(f).ok_or_else(usage)?;
        let (c, n, default) = match args.as_slice() {
            [c, n] => (c, n, None),
            [c, n, default] => (c, n, Some(default)),
            _ => return Err(usage()),
        };
        let n = whole(n)
            .ok_or_else(|| err!(BadArguments, "the offset of neighbor must be a constant, not {n}"))?;
        let mut args = vec![(*c).clone(), number(&n.unsigned_abs().to_string())];
        args.extend(default.map(|d| (*d).clone()));
        Ok(self.like(if n > 0 { "lead" } else { "lag" }, args, f))
    }
}

/// The function that gives the first or last value that is not NULL, for names in no spelling of their own.
fn valid(squashed: &str) -> Option<&'static str> {
    match squashed {
        "earliest" | "any" | "anyvalue" | "earliestif" | "anyif" | "firstvalueif" => Some("first_value"),
        "latest" | "anylast" | "latestif" | "anylastif" | "lastvalueif" => Some("last_value"),
        _ => None,
    }
}

/// `latest(x) OVER` is `last_value(x) IGNORE NULLS`, `latest_if(x, c)` that of the x for which c holds.
fn valid_value(f: &mut Function) {
    let name = squash(&f.name.to_string());
    let Some(of) = valid(&name) else { return };
    let Some(mut args) = arguments(f).map(|a| a.into_iter().cloned().collect::<Vec<_>>()) else { return };
    let condition = match f.filter.take() {
        Some(c) => Some(*c),
        None if name.ends_with("if") && args.len() > 1 => args.pop(),
        None => None,
    };
    if let (Some(condition), [x]) = (condition, args.as_mut_slice()) {
        let when = CaseWhen { condition, result: x.clone() };
        let token = || AttachedToken::empty();
        *x = Expr::Case {
            case_token: token(),
            end_token: token(),
            operand: None,
            conditions: vec![when],
            else_result: None,
        };
    }
    let Expr::Function(made) = call(of, args) else { unreachable!("call makes a function") };
    (f.name, f.args) = (made.name, made.args);
    f.null_treatment = Some(NullTreatment::IgnoreNulls);
}

fn arguments(f: &Function) -> Option<Vec<&Expr>> {
    let FunctionArguments::List(list) = &f.args else { return None };
    list.args
        .iter()
        .map(|a| match a {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
            _ => None,
        })
        .collect()
}

/// A constant whole number.
pub(super) fn whole(e: &Expr) -> Option<i64> {
    match e {
        Expr::Value(v) => match &v.value {
            Value::Number(n, _) => n.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => whole(expr)?.checked_neg(),
        Expr::Nested(inner) => whole(inner),
        _ => None,
    }
}
