//! The reserved settings: what sqlparser has no place for, and how to read it back.
//!
//! The token pass writes them into `Query::settings` of the level they were found at; a user
//! cannot write them. Everything that plans a query has to ask for each of them, or call
//! [`refuse`] for those it does not do.
//!
//! | setting | from | value |
//! | --- | --- | --- |
//! | `__emit` | `EMIT …` | text behind EMIT |
//! | `__partition_by`, `__shuffle_by` | `PARTITION BY a, b` of a query | `_list(a, b)` |
//! | `__limit_by` | `LIMIT n [OFFSET m] BY a, b` | `_list(_list(n, m), a, b)` |
//! | `__join_strictness` | `ASOF`, `LATEST`, `ANY` before JOIN | one word a JOIN of the level, in text order |
//! | `__final` | `FROM s FINAL` | 1 |
//! | `__with` | `WITH expr AS name` | replaced within `parse`, never seen outside |
//!
//! A type with arguments in a cast is one quoted word of its text ([`type_text`]).
//! `[start, end)` of `session(…)` is the call `_session_range('[)', start, end)`.
//! `{name:type}` is the call `_param('name', 'type')`, in expressions and for names in FROM.

use crate::ast::Settings;
use sqlparser::ast::{
    DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query, Setting, Value, Visit,
    Visitor,
};
use std::ops::ControlFlow;
use weir_base::{Error, err};

pub const EMIT: &str = "__emit";
pub const PARTITION_BY: &str = "__partition_by";
pub const SHUFFLE_BY: &str = "__shuffle_by";
pub const LIMIT_BY: &str = "__limit_by";
pub const JOIN_STRICTNESS: &str = "__join_strictness";
pub const FINAL: &str = "__final";
pub const WITH: &str = "__with";

/// The function that stands for `{name:type}`.
pub const PARAMETER: &str = "_param";
/// The function that stands for `[start, end)` of a session, its brackets first.
pub const SESSION_RANGE: &str = "_session_range";
pub(super) const LIST: &str = "_list";
pub(super) const WITH_ITEM: &str = "_with";

const ALL: &[(&str, &str)] = &[
    (EMIT, "EMIT"),
    (PARTITION_BY, "PARTITION BY"),
    (SHUFFLE_BY, "SHUFFLE BY"),
    (LIMIT_BY, "LIMIT BY"),
    (JOIN_STRICTNESS, "ASOF, LATEST or ANY JOIN"),
    (FINAL, "FINAL"),
    (WITH, "WITH"),
];

/// Whether users may not name this setting.
pub fn is_reserved(key: &str) -> bool {
    ALL.iter().any(|(k, _)| *k == key)
}

/// The clause a reserved setting stands for, as users write it.
pub fn clause_name(key: &str) -> &'static str {
    ALL.iter().find(|(k, _)| *k == key).map_or("?", |(_, name)| name)
}

/// `LIMIT limit OFFSET offset BY by`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitBy<'a> {
    pub limit: &'a Expr,
    pub offset: Option<&'a Expr>,
}

/// How many matches of a JOIN count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    All,
    Any,
    Asof,
    Latest,
}

fn find<'a>(query: &'a Query, key: &str) -> Option<&'a Expr> {
    query.settings.as_ref()?.iter().find(|s| s.key.value == key).map(|s| &s.value)
}

/// The text behind `EMIT` at this query level.
pub fn emit(query: &Query) -> Option<&str> {
    find(query, EMIT).and_then(string)
}

/// The expressions of the query-level `PARTITION BY`, empty without one.
pub fn partition_by(query: &Query) -> Vec<&Expr> {
    find(query, PARTITION_BY).map(arguments).unwrap_or_default()
}

/// The expressions of `SHUFFLE BY`, empty without one.
pub fn shuffle_by(query: &Query) -> Vec<&Expr> {
    find(query, SHUFFLE_BY).map(arguments).unwrap_or_default()
}

/// `LIMIT … BY` and its expressions. `Query::limit_clause` then holds only the other LIMIT.
pub fn limit_by(query: &Query) -> Option<(LimitBy<'_>, Vec<&Expr>)> {
    let mut all = arguments(find(query, LIMIT_BY)?).into_iter();
    let counts = arguments(all.next()?);
    Some((LimitBy { limit: counts.first()?, offset: counts.get(1).copied() }, all.collect()))
}

/// One entry a JOIN of this level, in text order (ARRAY JOIN does not count); empty when all
/// of them are ordinary.
pub fn join_strictness(query: &Query) -> Vec<Strictness> {
    let Some(words) = find(query, JOIN_STRICTNESS).and_then(string) else { return vec![] };
    words
        .split(',')
        .map(|w| match w {
            "any" => Strictness::Any,
            "asof" => Strictness::Asof,
            "latest" => Strictness::Latest,
            _ => Strictness::All,
        })
        .collect()
}

/// Whether FINAL stands in FROM of this level.
pub fn is_final(query: &Query) -> bool {
    find(query, FINAL).is_some()
}

/// The settings a user wrote at this level, values as text.
pub fn user_settings(query: &Query) -> Settings {
    let all = query.settings.iter().flatten();
    all.filter(|s| !is_reserved(&s.key.value)).map(|s| (s.key.value.clone(), value_text(&s.value))).collect()
}

/// Refuses the first of `keys` found at any level of the query, subqueries included.
///
/// # Errors
/// Code 48 naming the clause.
pub fn refuse(query: &Query, keys: &[&str]) -> Result<(), Error> {
    struct Find<'k>(&'k [&'k str]);
    impl Visitor for Find<'_> {
        type Break = Error;
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
            for Setting { key, value } in query.settings.iter().flatten() {
                if self.0.contains(&key.value.as_str()) {
                    let clause = match (key.value.as_str(), string(value)) {
                        (EMIT, Some(text)) => format!("EMIT {text}"),
                        (name, _) => clause_name(name).to_string(),
                    };
                    return ControlFlow::Break(err!(
                        NotImplemented,
                        "{clause} is not implemented in this version"
                    ));
                }
            }
            ControlFlow::Continue(())
        }
    }
    match query.visit(&mut Find(keys)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Name and type of `{name:type}`, if the function is one.
pub fn parameter(function: &Function) -> Option<(&str, &str)> {
    if function.name.to_string() != PARAMETER {
        return None;
    }
    match function_arguments(function)[..] {
        [name, type_text] => Some((string(name)?, string(type_text)?)),
        _ => None,
    }
}

/// A type in a cast, as text that `weir_format::types` reads: as written where it has arguments
/// (the token pass keeps those as one quoted word), sqlparser's spelling for plain words.
pub fn type_text(data_type: &DataType) -> String {
    match data_type {
        DataType::Custom(name, arguments) if arguments.is_empty() => match &name.0[..] {
            [part] => part.as_ident().map_or_else(|| name.to_string(), |ident| ident.value.clone()),
            _ => name.to_string(),
        },
        other => other.to_string(),
    }
}

/// A setting's value as text: strings without quotes, everything else as written.
pub fn value_text(value: &Expr) -> String {
    match value {
        Expr::Identifier(ident) => ident.value.clone(),
        _ => string(value).map_or_else(|| value.to_string(), str::to_string),
    }
}

pub(super) fn string(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(s) => Some(s),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn arguments(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Function(function) => function_arguments(function),
        _ => vec![],
    }
}

fn function_arguments(function: &Function) -> Vec<&Expr> {
    let FunctionArguments::List(list) = &function.args else { return vec![] };
    list.args
        .iter()
        .filter_map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        })
        .collect()
}
