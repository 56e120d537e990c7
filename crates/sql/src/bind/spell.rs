//! Expressions of the dialect, rewritten into what the planner knows. Syntax only.
//!
//! Function names in any spelling, `quantile(0.9)(x)`, `count()`, `if`, operators written as
//! functions (`plus(a, b)`), casts in three forms, tuples, JSON paths, parameters, quarters.
//!
//! Not here: aliases and clauses (`select`), types (`coerce`).

use super::condition::CONDITION;
use super::functions::Functions;
use super::log_order::LOG_ORDER;
use super::scope::Scope;
use super::select::at;
use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, CeilFloorKind, DataType, DateTimeField, DuplicateTreatment, Expr,
    Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident,
    JsonPathElem, LimitClause, ObjectName, ObjectNamePart, Query, Select, SelectFlavor, SelectItem, SetExpr,
    Spanned, TableWithJoins, UnaryOperator, Value, VisitMut, VisitorMut,
};
use sqlparser::tokenizer::Span;
use std::ops::ControlFlow;
use weir_base::{Error, err};
use weir_format::types::Type;

/// What `earliest_ts()` becomes: the least time there is.
pub(crate) const EARLIEST: &str = "_earliest_ts";

/// Minus of anything but a literal: unsigned numbers have one here.
pub(crate) const NEGATE: &str = "_negate";

/// Rewrites all expressions below a node.
pub(crate) fn rewrite(
    node: &mut impl VisitMut,
    functions: &Functions,
    scope: &dyn Scope,
) -> Result<(), Error> {
    match node.visit(&mut Pass { functions, scope }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(e) => Err(e),
    }
}

struct Pass<'a> {
    functions: &'a Functions<'a>,
    scope: &'a dyn Scope,
}

impl VisitorMut for Pass<'_> {
    type Break = Error;

    fn post_visit_query(&mut self, q: &mut Query) -> ControlFlow<Error> {
        // LIMIT takes plain numbers: a parameter's cast is taken off again.
        match &mut q.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                limit.iter_mut().for_each(bare);
                offset.iter_mut().for_each(|o| bare(&mut o.value));
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
                bare(offset);
                bare(limit);
            }
            None => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<Error> {
        match self.expr(e) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }
}

fn bare(e: &mut Expr) {
    if let Expr::Cast { expr, .. } = e {
        let inner = std::mem::replace(&mut **expr, Expr::Value(Value::Null.into()));
        *e = match inner {
            Expr::Value(v) => match v.value {
                Value::SingleQuotedString(s) => number(&s),
                other => Expr::Value(other.into()),
            },
            other => other,
        };
    }
}

fn take(e: &mut Expr) -> Expr {
    std::mem::replace(e, Expr::Value(Value::Null.into()))
}

impl Pass<'_> {
    fn expr(&mut self, e: &mut Expr) -> Result<(), Error> {
        match e {
            Expr::Function(_) => self.function(e),
            Expr::Substring { expr, substring_from, substring_for, .. } => {
                let mut args = vec![take(expr)];
                args.extend(substring_from.as_deref_mut().map(take));
                args.extend(substring_for.as_deref_mut().map(take));
                *e = call("substring", args);
                self.function(e)
            }
            Expr::Ceil { expr, field } | Expr::Floor { expr, field } => {
                let scale = match field {
                    CeilFloorKind::Scale(v) => Some(Expr::Value(v.clone())),
                    CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => None,
                    CeilFloorKind::DateTimeField(_) => return Ok(()),
                };
                let mut args = vec![take(expr)];
                args.extend(scale);
                let is_ceil = matches!(e, Expr::Ceil { .. });
                *e = call(if is_ceil { "ceil" } else { "floor" }, args);
                self.function(e)
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
                if !matches!(**expr, Expr::Value(_) | Expr::Interval(_)) {
                    *e = call(NEGATE, vec![take(expr)]);
                }
                Ok(())
            }
            Expr::Tuple(values) => {
                *e = tuple(std::mem::take(values));
                Ok(())
            }
            Expr::JsonAccess { value, path } => {
                let Some(name) = self.functions.resolve("json_value") else {
                    return Err(at(
                        err!(
                            NotImplemented,
                            "JSON paths (column:a.b) need the function json_value, which this build lacks"
                        ),
                        e.span(),
                    ));
                };
                let mut text = String::from("$");
                for elem in &path.path {
                    match elem {
                        JsonPathElem::Dot { key, .. } => {
                            if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                                text.push_str(&format!(".{key}"));
                            } else {
                                text.push_str(&format!("[\"{}\"]", key.replace('"', "\\\"")));
                            }
                        }
                        JsonPathElem::Bracket { key } | JsonPathElem::ColonBracket { key } => match key {
                            Expr::Value(v) => match &v.value {
                                Value::Number(n, _) => text.push_str(&format!("[{n}]")),
                                Value::SingleQuotedString(s) => {
                                    text.push_str(&format!("[\"{}\"]", s.replace('"', "\\\"")))
                                }
                                other => {
                                    return Err(at(
                                        err!(
                                            NotImplemented,
                                            "JSON path element [{other}]; write a name or a number"
                                        ),
                                        key.span(),
                                    ));
                                }
                            },
                            other => {
                                return Err(at(
                                    err!(
                                        NotImplemented,
                                        "JSON path element [{other}]; use json_query for arrays"
                                    ),
                                    key.span(),
                                ));
                            }
                        },
                    }
                }
                let value = take(value);
                *e = call(&name, vec![value, string(&text)]);
                Ok(())
            }
            Expr::Interval(i) => {
                let (unit, factor) = match &i.leading_field {
                    Some(DateTimeField::Quarter) => (DateTimeField::Month, 3),
                    Some(DateTimeField::Week(None)) => (DateTimeField::Day, 7),
                    _ => return Ok(()),
                };
                let text = match &*i.value {
                    Expr::Value(v) => match &v.value {
                        Value::Number(n, _) => n.clone(),
                        Value::SingleQuotedString(s) => s.clone(),
                        _ => return Ok(()),
                    },
                    _ => return Ok(()),
                };
                let n: i64 = text.trim().parse().map_err(|_| {
                    at(err!(BadArguments, "interval of {text} is no whole number"), i.value.span())
                })?;
                *i.value = string(&(n * factor).to_string());
                i.leading_field = Some(unit);
                Ok(())
            }
            Expr::CompoundFieldAccess { root, access_chain }
                if !matches!(**root, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) =>
            {
                // `(a, b).1`: the planner wants the field's name as text.
                for access in access_chain {
                    if let sqlparser::ast::AccessExpr::Dot(inner) = access {
                        let name = match inner {
                            Expr::Identifier(i) => i.value.clone(),
                            Expr::Value(v) => match &v.value {
                                Value::Number(n, _) => n.clone(),
                                _ => continue,
                            },
                            _ => continue,
                        };
                        *inner = string(&name);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn function(&mut self, e: &mut Expr) -> Result<(), Error> {
        let whole = e.clone();
        let Expr::Function(f) = e else { return Ok(()) };
        let [part] = f.name.0.as_slice() else {
            return Err(at(err!(UnknownFunction, "unknown function {}", f.name), whole.span()));
        };
        let Some(ident) = part.as_ident().cloned() else { return Ok(()) };
        // A name without parentheses, such as `current_date`.
        if matches!(f.args, FunctionArguments::None) {
            return Ok(());
        }
        let asked = ident.value.clone();
        parameters_last(f);
        if let FunctionArguments::Subquery(_) = f.args {
            return Ok(());
        }
        let key = super::functions::squash(&asked);
        let plain = f.over.is_none() && f.filter.is_none();
        let mut args = plain_args(f);
        if let Some(list) = &mut args {
            match (key.as_str(), list.len()) {
                ("param", 2) if asked == "_param" => {
                    *e = self.parameter(list, &whole)?;
                    return Ok(());
                }
                ("cast", 2) => {
                    let Some(text) = literal_text(&list[1]) else {
                        return Err(at(
                            err!(BadArguments, "the type in cast(x, 'type') must be text"),
                            list[1].span(),
                        ));
                    };
                    *e = cast(list.swap_remove(0), &text);
                    return Ok(());
                }
                ("if", 3) => {
                    let (other, then) = (list.pop(), list.pop());
                    *e = case(vec![(take(&mut list[0]), then.expect("three arguments"))], other);
                    return Ok(());
                }
                ("if", n) => {
                    return Err(at(
                        err!(NumberOfArguments, "function if takes 3 arguments, {n} given"),
                        whole.span(),
                    ));
                }
                ("multiif", n) => {
                    if n < 3 || n % 2 == 0 {
                        return Err(at(
                            err!(
                                NumberOfArguments,
                                "function multi_if takes pairs of condition and value and a last value, {n} arguments given"
                            ),
                            whole.span(),
                        ));
                    }
                    let other = list.pop();
                    let mut pairs = Vec::new();
                    let mut rest = std::mem::take(list).into_iter();
                    while let (Some(when), Some(then)) = (rest.next(), rest.next()) {
                        pairs.push((when, then));
                    }
                    *e = case(pairs, other);
                    return Ok(());
                }
                ("tuple", n) if n > 0 => {
                    *e = tuple(std::mem::take(list));
                    return Ok(());
                }
                ("arrayjoin", 1) => {
                    *e = call("unnest", std::mem::take(list));
                    return Ok(());
                }
                ("earliestts" | "earliesttimestamp", 0) => {
                    *e = call(EARLIEST, Vec::new());
                    return Ok(());
                }
                _ => {}
            }
            if plain && let Some(op) = operator(&key, list) {
                *e = op;
                return Ok(());
            }
        }
        if key == "count" && is_count_all(f) {
            set_args(f, vec![number("1")]);
        }
        let ours = [EARLIEST, NEGATE, CONDITION, LOG_ORDER].contains(&asked.as_str());
        if ours || matches!(key.as_str(), "unnest" | "namedstruct") {
            return Ok(());
        }
        if key == "emitversion" {
            if args.as_ref().is_none_or(|a| !a.is_empty()) {
                return Err(at(err!(NumberOfArguments, "emit_version() takes no arguments"), ident.span));
            }
            rename(f, super::emit_version::EMIT_VERSION);
            return Ok(());
        }
        if let Some(name) = self.functions.resolve(&asked) {
            rename(f, &name);
            return top_k(f).map_err(|e| at(e, whole.span()));
        }
        if let Some(combined) = self.combined(f, &super::functions::snake(&asked)) {
            top_k(f).map_err(|e| at(e, whole.span()))?;
            if let Some(made) = finished(f, combined) {
                *e = made;
            }
            return Ok(());
        }
        let hint = self.functions.suggest(&asked);
        Err(at(err!(UnknownFunction, "unknown function {asked}{hint}"), ident.span))
    }

    /// `sum_if(x, c)` is `sum(x) FILTER (WHERE c)`, `sum_distinct(x)` is `sum(DISTINCT x)`; more follows in
    /// [`finished`]. In any order, each once.
    fn combined(&self, f: &mut Function, asked: &str) -> Option<Combined> {
        let (mut base, mut condition, mut distinct) = (asked, false, false);
        let mut combined = Combined::default();
        let name = loop {
            if let Some(rest) = base.strip_suffix("_if").filter(|_| !condition) {
                (base, condition) = (rest, true);
            } else if let Some(rest) = base.strip_suffix("_distinct").filter(|_| !distinct) {
                (base, distinct) = (rest, true);
            } else if let Some(rest) = base.strip_suffix("_or_null").filter(|_| !combined.or_null) {
                (base, combined.or_null) = (rest, true);
            } else if let Some(rest) = base.strip_suffix("_or_default") {
                // What an aggregate over no rows gives in any case.
                base = rest;
            } else if let Some(rest) = base.strip_suffix("_array").filter(|_| !combined.array) {
                (base, combined.array) = (rest, true);
            } else {
                return None;
            }
            if let Some(name) = self.functions.resolve(base).filter(|n| self.functions.is_aggregate(n)) {
                break name;
            }
        };
        if combined.array && (distinct || !matches!(name.as_str(), "sum" | "count" | "avg")) {
            return None;
        }
        if condition {
            let mut list = plain_args(f).filter(|list| !list.is_empty() && f.filter.is_none())?;
            f.filter = list.pop().map(Box::new);
            // Of no argument there is only the number of rows.
            if list.is_empty() && name == "count" {
                list.push(number("1"));
            }
            set_args(f, list);
        }
        if distinct && let FunctionArguments::List(list) = &mut f.args {
            list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
        }
        rename(f, &name);
        Some(combined)
    }

    fn parameter(&self, args: &[Expr], whole: &Expr) -> Result<Expr, Error> {
        let (Some(name), Some(type_name)) = (literal_text(&args[0]), literal_text(&args[1])) else {
            return Err(at(err!(Syntax, "a parameter is written {{name:type}}"), whole.span()));
        };
        let value = self.scope.parameter(&name).ok_or_else(|| {
            at(err!(BadArguments, "no value is set for parameter {name}; pass param_{name}=…"), whole.span())
        })?;
        if type_name.eq_ignore_ascii_case("identifier") {
            return Ok(Expr::Identifier(Ident::with_quote('"', value)));
        }
        let parsed = Type::parse(&type_name)
            .map_err(|e| at(err!(UnknownType, "parameter {name}: {e}"), whole.span()))?;
        if parsed.is_nullable() && value == "\\N" {
            return Ok(cast(Expr::Value(Value::Null.into()), &type_name));
        }
        Ok(cast(string(&value), &type_name))
    }
}

/// What is left of a name's combinators once the function is the plain one.
#[derive(Default)]
struct Combined {
    /// NULL where no row counts.
    or_null: bool,
    /// Over the elements of arrays.
    array: bool,
}

/// The call as an expression over others where a combinator makes one of it.
fn finished(f: &mut Function, combined: Combined) -> Option<Expr> {
    let like = |name: &str, args: Vec<Expr>| {
        let mut other = f.clone();
        rename(&mut other, name);
        set_args(&mut other, args);
        Expr::Function(other)
    };
    let first = plain_args(f).and_then(|args| args.into_iter().next());
    let mut made = None;
    if let (true, Some(array)) = (combined.array, &first) {
        let name = f.name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.clone()).unwrap_or_default();
        let sum = || like("sum", vec![call("array_sum", vec![array.clone()])]);
        let count = || like("sum", vec![call("length", vec![array.clone()])]);
        made = Some(match name.as_str() {
            "sum" => sum(),
            "count" => count(),
            _ => binary(sum(), BinaryOperator::Divide, count()),
        });
    }
    if combined.or_null {
        let counted = like("count", vec![first.unwrap_or_else(|| number("1"))]);
        let some = binary(counted, BinaryOperator::Gt, number("0"));
        let plain = made.unwrap_or_else(|| Expr::Function(f.clone()));
        made = Some(case(vec![(some, plain)], None));
    }
    made
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

/// `quantile(0.9)(x)` becomes `quantile(x, 0.9)`, `quantile_if(0.9)(x, c)` `quantile_if(x, 0.9, c)`.
fn parameters_last(f: &mut Function) {
    if let FunctionArguments::List(parameters) = std::mem::replace(&mut f.parameters, FunctionArguments::None)
        && let FunctionArguments::List(list) = &mut f.args
    {
        let conditional = f.name.0.last().and_then(|p| p.as_ident()).is_some_and(|i| {
            let name = super::functions::snake(&i.value);
            name.ends_with("_if")
        });
        let at = list.args.len() - usize::from(conditional && !list.args.is_empty());
        list.args.splice(at..at, parameters.args);
    }
}

/// `top_k(x, k, true)` is another function, since its result has another type.
fn top_k(f: &mut Function) -> Result<(), Error> {
    let named = f.name.0.last().and_then(|p| p.as_ident()).is_some_and(|i| i.value == "top_k");
    let Some(mut list) = plain_args(f).filter(|list| named && list.len() > 2) else { return Ok(()) };
    let with_count = match &list[2] {
        Expr::Value(v) => match &v.value {
            Value::Boolean(b) => Some(*b),
            Value::Number(n, _) if n == "0" || n == "1" => Some(n == "1"),
            _ => None,
        },
        _ => None,
    };
    let Some(with_count) = with_count else {
        return Err(err!(BadArguments, "the third argument of top_k is true or false, not {}", list[2]));
    };
    // What may follow sizes a sketch that there is none of: counts are exact.
    list.truncate(2);
    set_args(f, list);
    if with_count {
        rename(f, "top_k_with_count");
    }
    Ok(())
}

fn is_count_all(f: &Function) -> bool {
    match &f.args {
        FunctionArguments::List(list) => {
            matches!(list.args.as_slice(), [] | [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)])
        }
        _ => false,
    }
}

/// The arguments when all are plain expressions.
fn plain_args(f: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &f.args else { return None };
    if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    list.args
        .iter()
        .map(|a| match a {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
            _ => None,
        })
        .collect()
}

fn set_args(f: &mut Function, args: Vec<Expr>) {
    f.args = FunctionArguments::List(list(args));
}

fn rename(f: &mut Function, name: &str) {
    let span = f.name.0.first().and_then(|p| p.as_ident()).map_or(Span::empty(), |i| i.span);
    f.name = ObjectName(vec![ObjectNamePart::Identifier(Ident {
        value: name.to_owned(),
        quote_style: Some('"'),
        span,
    })]);
}

fn list(args: Vec<Expr>) -> FunctionArgumentList {
    FunctionArgumentList {
        duplicate_treatment: None,
        args: args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect(),
        clauses: Vec::new(),
    }
}

/// `name(args)`.
pub(crate) fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::with_quote('"', name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list(args)),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

pub(crate) fn number(text: &str) -> Expr {
    Expr::Value(Value::Number(text.to_owned(), false).into())
}

pub(crate) fn string(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

pub(crate) fn literal_text(e: &Expr) -> Option<String> {
    match e {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(s) | Value::DoubleQuotedString(s) => Some(s.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// `cast(e AS type)`, the type as text for `weir_format`.
pub(crate) fn cast(e: Expr, type_text: &str) -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(e),
        data_type: DataType::Custom(
            ObjectName(vec![ObjectNamePart::Identifier(Ident::new(type_text))]),
            Vec::new(),
        ),
        array: false,
        format: None,
    }
}

fn case(pairs: Vec<(Expr, Expr)>, other: Option<Expr>) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: pairs.into_iter().map(|(condition, result)| CaseWhen { condition, result }).collect(),
        else_result: other.map(Box::new),
    }
}

/// A tuple whose fields are called 1, 2, …
fn tuple(values: Vec<Expr>) -> Expr {
    let args = values.into_iter().enumerate().flat_map(|(i, v)| [string(&(i + 1).to_string()), v]).collect();
    call("named_struct", args)
}

/// Operators written as functions.
fn operator(key: &str, args: &mut Vec<Expr>) -> Option<Expr> {
    let op = match key {
        "plus" => BinaryOperator::Plus,
        "minus" => BinaryOperator::Minus,
        "multiply" => BinaryOperator::Multiply,
        "divide" => BinaryOperator::Divide,
        "modulo" => BinaryOperator::Modulo,
        "equals" => BinaryOperator::Eq,
        "notequals" => BinaryOperator::NotEq,
        "less" => BinaryOperator::Lt,
        "greater" => BinaryOperator::Gt,
        "lessorequals" => BinaryOperator::LtEq,
        "greaterorequals" => BinaryOperator::GtEq,
        "and" => BinaryOperator::And,
        "or" => BinaryOperator::Or,
        _ => {
            let one = |args: &mut Vec<Expr>| Box::new(Expr::Nested(Box::new(args.remove(0))));
            return match (key, args.len()) {
                ("not", 1) => Some(Expr::UnaryOp { op: UnaryOperator::Not, expr: one(args) }),
                ("negate", 1) => Some(call(NEGATE, std::mem::take(args))),
                ("isnull", 1) => Some(Expr::IsNull(one(args))),
                ("isnotnull", 1) => Some(Expr::IsNotNull(one(args))),
                ("like" | "notlike" | "ilike" | "notilike", 2) => {
                    let pattern = Box::new(args.remove(1));
                    let expr = one(args);
                    let negated = key.starts_with("not");
                    Some(if key.ends_with("ilike") {
                        Expr::ILike { negated, any: false, expr, pattern, escape_char: None }
                    } else {
                        Expr::Like { negated, any: false, expr, pattern, escape_char: None }
                    })
                }
                _ => None,
            };
        }
    };
    let chains = matches!(op, BinaryOperator::And | BinaryOperator::Or);
    if args.len() != 2 && !(chains && args.len() > 2) {
        return None;
    }
    let mut rest = std::mem::take(args).into_iter().map(|e| Expr::Nested(Box::new(e)));
    let first = rest.next()?;
    Some(Expr::Nested(Box::new(rest.fold(first, |left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: op.clone(),
        right: Box::new(right),
    }))))
}

/// `SELECT items FROM from`.
pub(crate) fn plain_query(items: Vec<SelectItem>, from: Vec<TableWithJoins>) -> Query {
    Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(Select {
            select_token: AttachedToken::empty(),
            optimizer_hints: Vec::new(),
            distinct: None,
            select_modifiers: None,
            top: None,
            top_before_distinct: false,
            projection: items,
            exclude: None,
            into: None,
            from,
            lateral_views: Vec::new(),
            prewhere: None,
            selection: None,
            connect_by: Vec::new(),
            group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
            cluster_by: Vec::new(),
            distribute_by: Vec::new(),
            sort_by: Vec::new(),
            having: None,
            named_window: Vec::new(),
            qualify: None,
            window_before_qualify: false,
            value_table_mode: None,
            flavor: SelectFlavor::Standard,
        }))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}
