//! `EMIT LAST i [ON PROCTIME]`, rewritten on the syntax tree into what it stands for.
//!
//! ```text
//! rows           -> those since i before the query's start, then the tail
//! aggregates     -> hop(s, every, i) GROUP BY …, the windows that end after the query's start
//! tumble, hop    -> hop(s, its slide, i), likewise
//! ```
//! `every` is EMIT PERIODIC's; unless told 2 s, or longer where those were too many windows. By processing time (`ON PROCTIME`) nothing is read
//! again: rows count as they come.
//!
//! Not here: what a hop window is (`window_table`), where a read begins (`seek`).

use super::functions::{Functions, snake};
use super::spell;
use super::window_table::{WINDOW_END, WINDOW_START};
use crate::parse::emit::{Emit, Last, Policy};
use sqlparser::ast::{
    BinaryOperator, DateTimeField, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, Interval, ObjectName, ObjectNamePart, Query, Select, SetExpr,
    TableAlias, TableFactor, TableFunctionArgs, Value, Visit, Visitor,
};
use std::ops::ControlFlow;
use weir_base::{Error, err};

const SECOND_NS: i64 = 1_000_000_000;
/// How often the last i are given unless told, seconds: the first of these that makes few enough
/// windows.
const EVERY_S: [i64; 9] = [2, 5, 10, 30, 60, 300, 600, 1_800, 3_600];
/// Windows a row may lie in, unless told otherwise.
const WINDOWS_MAX: i64 = 1_000;

const UTC_MS: &str = "datetime64(3, 'UTC')";
const UTC_US: &str = "datetime64(6, 'UTC')";

/// Rewrites `query` and takes LAST out of `emit`.
///
/// # Errors
/// Code 48 for what is not one SELECT over one relation, 36 for too many windows, 80 for a window
/// that has no slide.
pub(super) fn rewrite(
    query: &mut Query,
    emit: &mut Emit,
    functions: &Functions<'_>,
    now_us: i64,
    windows_max: Option<i64>,
) -> Result<(), Error> {
    let windows_max = windows_max.unwrap_or(WINDOWS_MAX);
    let Some(last) = emit.last.take() else { return Ok(()) };
    let SetExpr::Select(select) = &mut *query.body else {
        return Err(err!(NotImplemented, "EMIT LAST after UNION is not supported yet; use it in one SELECT"));
    };
    let [from] = select.from.as_slice() else { return Err(one_relation()) };
    if !from.joins.is_empty() {
        return Err(one_relation());
    }
    if !aggregates(select, functions) {
        since(select, last, now_us);
        return Ok(());
    }
    let every_ns = match emit.policy {
        Some(Policy::Periodic { every_ns, .. }) => every_ns,
        _ => {
            let few = |every: &i64| last.ns / (every * SECOND_NS) <= windows_max;
            EVERY_S.into_iter().find(few).unwrap_or(86_400) * SECOND_NS
        }
    };
    let factor = &mut select.from[0].relation;
    match window_function(factor) {
        Some(function) => widen(factor, &function, last, windows_max)?,
        None => {
            emit.policy = None;
            windows(last.ns, every_ns, windows_max)?;
            let (of, alias) = relation(factor)?;
            let mut args = vec![of];
            args.extend(last.by_processing_time.then(now));
            args.extend([interval(every_ns), interval(last.ns)]);
            *factor = hop(args, alias);
            let GroupByExpr::Expressions(keys, _) = &mut select.group_by else {
                return Err(err!(
                    NotImplemented,
                    "EMIT LAST with GROUP BY ALL is not supported yet; name the keys"
                ));
            };
            keys.extend([WINDOW_START, WINDOW_END].map(column));
        }
    }
    if !last.by_processing_time {
        since(select, last, now_us);
        // Windows that ended before would lack the rows before those.
        let ends = compare(WINDOW_END, BinaryOperator::GtEq, now_us.div_euclid(1_000), UTC_MS);
        select.selection = Some(and(select.selection.take(), ends));
    }
    Ok(())
}

fn one_relation() -> Error {
    err!(NotImplemented, "EMIT LAST is not supported over several relations yet; read one stream")
}

/// Whether the SELECT aggregates.
fn aggregates(select: &Select, functions: &Functions<'_>) -> bool {
    struct Find<'a>(&'a Functions<'a>);
    impl Visitor for Find<'_> {
        type Break = ();
        fn pre_visit_expr(&mut self, e: &Ast) -> ControlFlow<()> {
            let Ast::Function(f) = e else { return ControlFlow::Continue(()) };
            let name = snake(&f.name.to_string());
            let suffixes = ["_if", "_distinct", "_or_null", "_or_default", "_array"];
            let bases = suffixes.map(|suffix| name.strip_suffix(suffix));
            let bases = bases.into_iter().chain([Some(name.as_str())]);
            let found = bases.into_iter().flatten().filter_map(|n| self.0.resolve(n));
            if f.over.is_none() && found.into_iter().any(|n| self.0.is_aggregate(&n)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    grouped || select.projection.visit(&mut Find(functions)).is_break()
}

/// Rows from `last` before the query's start on.
fn since(select: &mut Select, last: Last, now_us: i64) {
    let from_us = now_us.saturating_sub(last.ns / 1_000);
    let condition = if last.by_processing_time {
        // No place in the log is found by append time: the read begins at the earliest row.
        let earliest = Ast::BinaryOp {
            left: Box::new(column("_tp_time")),
            op: BinaryOperator::GtEq,
            right: Box::new(call("earliest_ts", vec![])),
        };
        and(Some(earliest), compare("_tp_append_time", BinaryOperator::GtEq, from_us, UTC_US))
    } else {
        compare("_tp_time", BinaryOperator::GtEq, from_us.div_euclid(1_000), UTC_MS)
    };
    select.selection = Some(and(select.selection.take(), condition));
}

fn and(before: Option<Ast>, condition: Ast) -> Ast {
    match before {
        None => condition,
        Some(before) => Ast::BinaryOp {
            left: Box::new(Ast::Nested(Box::new(before))),
            op: BinaryOperator::And,
            right: Box::new(condition),
        },
    }
}

/// `column op time`; the time in units of the type, since the epoch.
fn compare(name: &str, op: BinaryOperator, at: i64, time_type: &str) -> Ast {
    let (per_second, digits) = if time_type == UTC_US { (1_000_000, 6) } else { (1_000, 3) };
    let nanos = (at.rem_euclid(per_second) * (1_000_000_000 / per_second)) as u32;
    let at = chrono::DateTime::from_timestamp(at.div_euclid(per_second), nanos).unwrap_or_default();
    let text = at.format(if digits == 6 { "%Y-%m-%d %H:%M:%S%.6f" } else { "%Y-%m-%d %H:%M:%S%.3f" });
    let text = Ast::Value(Value::SingleQuotedString(text.to_string()).into());
    Ast::BinaryOp { left: Box::new(column(name)), op, right: Box::new(spell::cast(text, time_type)) }
}

fn column(name: &str) -> Ast {
    Ast::Identifier(Ident::new(name))
}

fn windows(last_ns: i64, every_ns: i64, windows_max: i64) -> Result<(), Error> {
    let windows = last_ns / every_ns;
    if windows > windows_max {
        return Err(err!(
            BadArguments,
            "EMIT LAST would put each row into {windows} windows, the limit is {windows_max}; use a longer PERIODIC or slide, or raise max_windows"
        ));
    }
    if windows == 0 {
        return Err(err!(
            BadArguments,
            "EMIT LAST must be at least as long as PERIODIC or the window's slide"
        ));
    }
    Ok(())
}

fn window_function(factor: &TableFactor) -> Option<String> {
    let TableFactor::Table { name, args: Some(_), .. } = factor else { return None };
    let name = snake(&name.to_string());
    matches!(name.as_str(), "tumble" | "hop" | "session").then_some(name)
}

/// `tumble(s, size)` and `hop(s, slide, size)` to a hop of the last so long.
fn widen(factor: &mut TableFactor, function: &str, last: Last, windows_max: i64) -> Result<(), Error> {
    let TableFactor::Table { name, args: Some(args), .. } = factor else { return Ok(()) };
    let is_interval =
        |a: &FunctionArg| matches!(a, FunctionArg::Unnamed(FunctionArgExpr::Expr(Ast::Interval(_))));
    let spans: Vec<usize> = (0..args.args.len()).filter(|i| is_interval(&args.args[*i])).collect();
    match (function, spans.as_slice()) {
        ("tumble", [size]) => args.args.insert(size + 1, argument(interval(last.ns))),
        ("hop", [_, size]) => args.args[*size] = argument(interval(last.ns)),
        ("tumble" | "hop", _) => {
            return Err(err!(
                NumberOfArguments,
                "EMIT LAST over {function} needs its window given as intervals"
            ));
        }
        _ => {
            return Err(err!(
                IncorrectQuery,
                "EMIT LAST over session windows means nothing: they have no slide; use tumble, hop or the stream"
            ));
        }
    }
    if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Ast::Interval(slide)))) = args.args.get(spans[0])
        && let Some(slide_ns) = nanos(slide)
    {
        windows(last.ns, slide_ns, windows_max)?;
    }
    if last.by_processing_time {
        // The time, where one is given, stands between the relation and the first interval.
        args.args.splice(1..spans[0], [argument(now())]);
    }
    *name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new("hop"))]);
    Ok(())
}

fn argument(e: Ast) -> FunctionArg {
    FunctionArg::Unnamed(FunctionArgExpr::Expr(e))
}

/// A relation as an argument, and the name it goes by.
fn relation(factor: &TableFactor) -> Result<(Ast, Option<TableAlias>), Error> {
    match factor {
        TableFactor::Table { name, args: None, alias, .. } => {
            let parts: Vec<Ident> = name.0.iter().filter_map(|p| p.as_ident().cloned()).collect();
            let of = match parts.as_slice() {
                [one] => Ast::Identifier(one.clone()),
                _ => Ast::CompoundIdentifier(parts),
            };
            Ok((of, alias.clone()))
        }
        TableFactor::Derived { subquery, alias, .. } => Ok((Ast::Subquery(subquery.clone()), alias.clone())),
        other => {
            Err(err!(NotImplemented, "EMIT LAST over {other} is not supported yet; read a stream or a view"))
        }
    }
}

fn hop(args: Vec<Ast>, alias: Option<TableAlias>) -> TableFactor {
    TableFactor::Table {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new("hop"))]),
        alias,
        args: Some(TableFunctionArgs { args: args.into_iter().map(argument).collect(), settings: None }),
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    }
}

/// `now64(3)`, processing time.
fn now() -> Ast {
    call("now64", vec![Ast::Value(Value::Number("3".into(), false).into())])
}

fn call(name: &str, args: Vec<Ast>) -> Ast {
    Ast::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(argument).collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

const UNITS: [(i64, DateTimeField); 6] = [
    (3_600_000_000_000, DateTimeField::Hour),
    (60_000_000_000, DateTimeField::Minute),
    (1_000_000_000, DateTimeField::Second),
    (1_000_000, DateTimeField::Millisecond),
    (1_000, DateTimeField::Microsecond),
    (1, DateTimeField::Nanosecond),
];

/// A length of time in the greatest unit that counts it.
fn interval(ns: i64) -> Ast {
    let (size, field) =
        UNITS.into_iter().find(|(size, _)| ns % size == 0).unwrap_or((1, DateTimeField::Nanosecond));
    Ast::Interval(Interval {
        value: Box::new(Ast::Value(Value::SingleQuotedString((ns / size).to_string()).into())),
        leading_field: Some(field),
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

/// Of an interval of a fixed length.
fn nanos(i: &Interval) -> Option<i64> {
    let (size, _) = UNITS.into_iter().find(|(_, field)| {
        i.leading_field.as_ref().is_some_and(|f| {
            let (f, field) = (f.to_string(), field.to_string());
            f.trim_end_matches('S') == field.trim_end_matches('S')
        })
    })?;
    let Ast::Value(v) = &*i.value else { return None };
    let n: i64 = v.value.to_string().trim_matches('\'').parse().ok()?;
    n.checked_mul(size).filter(|ns| *ns > 0)
}
