//! What stands in FROM before names are known: table functions become names that the planner can
//! look up.
//!
//! Not here: what the names mean (`context`).

use super::dedup_table::DedupCall;
use super::functions::snake;
use super::keyed_table::KeyedCall;
use super::scope::Scope;
use super::window_table::WindowCall;
use super::{select, spell};
use sqlparser::ast::{
    Expr as Ast, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Query, Spanned, TableAlias,
    TableFactor,
};
use weir_base::{Error, err};

/// The catalog of a table reference that stands for `table(s)`.
pub(super) const BOUNDED: &str = "\u{1}table";

/// The catalog of a table reference that stands for a window function of FROM; its schema is the
/// number of the call.
pub(super) const WINDOW: &str = "\u{1}window";

/// The same for `changelog(…)`.
pub(super) const KEYED: &str = "\u{1}changelog";

/// The same for `dedup(…)`.
pub(super) const DEDUP: &str = "\u{1}dedup";

/// `FROM {name:identifier}`.
pub(super) fn named_by_parameter(f: &mut TableFactor, scope: &dyn Scope) -> Result<(), Error> {
    let TableFactor::Table { name, args: args @ Some(_), .. } = f else { return Ok(()) };
    if name.0.first().and_then(|p| p.as_ident()).is_none_or(|i| i.value != crate::parse::reserved::PARAMETER)
    {
        return Ok(());
    }
    let given = args.as_ref().and_then(|a| match a.args.first() {
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(e))) => spell::literal_text(e),
        _ => None,
    });
    let given = given.ok_or_else(|| err!(Syntax, "a parameter is written {{name:identifier}}"))?;
    let value = scope
        .parameter(&given)
        .ok_or_else(|| err!(BadArguments, "no value is set for parameter {given}; pass param_{given}=…"))?;
    *name =
        ObjectName(value.split('.').map(|p| ObjectNamePart::Identifier(Ident::with_quote('"', p))).collect());
    *args = None;
    Ok(())
}

/// `tumble(…)`, `hop(…)` and `session(…)` become names the planner can look up.
pub(super) fn window_factor(f: &mut TableFactor, windows: &mut Vec<WindowCall>) -> Result<(), Error> {
    let TableFactor::Table { name, args, alias, .. } = f else { return Ok(()) };
    let Some(given) = args else { return Ok(()) };
    let [part] = name.0.as_slice() else { return Ok(()) };
    let Some(ident) = part.as_ident().cloned() else { return Ok(()) };
    let function = snake(&ident.value);
    if !matches!(function.as_str(), "tumble" | "hop" | "session") {
        return Ok(());
    }
    let call = WindowCall::parse(&function, &given.args).map_err(|e| select::at(e, ident.span))?;
    let of = select::shown_name(&call.of).unwrap_or_else(|| Ident::new(function.as_str()));
    let number = windows.len().to_string();
    windows.push(call);
    if alias.is_none() {
        *alias = Some(TableAlias { explicit: true, name: of.clone(), columns: Vec::new(), at: None });
    }
    *args = None;
    let parts = [WINDOW.to_owned(), number, of.value];
    *name = ObjectName(
        parts
            .into_iter()
            .map(|value| ObjectNamePart::Identifier(Ident { value, quote_style: None, span: ident.span }))
            .collect(),
    );
    Ok(())
}

/// `changelog(…)` likewise.
pub(super) fn keyed_factor(f: &mut TableFactor, keyed: &mut Vec<KeyedCall>) -> Result<(), Error> {
    let TableFactor::Table { name, args, alias, .. } = f else { return Ok(()) };
    let Some(given) = args else { return Ok(()) };
    let [part] = name.0.as_slice() else { return Ok(()) };
    let Some(ident) = part.as_ident().cloned().filter(|i| snake(&i.value) == "changelog") else {
        return Ok(());
    };
    let call = KeyedCall::parse(&given.args).map_err(|e| select::at(e, ident.span))?;
    let of = select::shown_name(&call.of).unwrap_or_else(|| Ident::new("changelog"));
    let number = keyed.len().to_string();
    keyed.push(call);
    if alias.is_none() {
        *alias = Some(TableAlias { explicit: true, name: of.clone(), columns: Vec::new(), at: None });
    }
    *args = None;
    let parts = [KEYED.to_owned(), number, of.value];
    *name = ObjectName(
        parts
            .into_iter()
            .map(|value| ObjectNamePart::Identifier(Ident { value, quote_style: None, span: ident.span }))
            .collect(),
    );
    Ok(())
}

/// The window that a query with PARTITION BY reads knows of it.
pub(super) fn partitioned_window(q: &mut Query, windows: &mut Vec<WindowCall>) -> Result<(), Error> {
    let partition: Vec<Ast> = crate::parse::reserved::partition_by(q).into_iter().cloned().collect();
    if let (false, sqlparser::ast::SetExpr::Select(s)) = (partition.is_empty(), &mut *q.body)
        && let [from] = s.from.as_mut_slice()
    {
        let before = windows.len();
        window_factor(&mut from.relation, windows)?;
        if let Some(call) = windows.get_mut(before) {
            call.partition = partition;
        }
    }
    Ok(())
}

/// `dedup(…)` likewise.
pub(super) fn dedup_factor(f: &mut TableFactor, dedups: &mut Vec<DedupCall>) -> Result<(), Error> {
    let TableFactor::Table { name, args, alias, .. } = f else { return Ok(()) };
    let Some(given) = args else { return Ok(()) };
    let [part] = name.0.as_slice() else { return Ok(()) };
    let Some(ident) = part.as_ident().cloned().filter(|i| snake(&i.value) == "dedup") else { return Ok(()) };
    let call = DedupCall::parse(&given.args).map_err(|e| select::at(e, ident.span))?;
    let of = select::shown_name(&call.of).unwrap_or_else(|| Ident::new("dedup"));
    let number = dedups.len().to_string();
    dedups.push(call);
    if alias.is_none() {
        *alias = Some(TableAlias { explicit: true, name: of.clone(), columns: Vec::new(), at: None });
    }
    *args = None;
    let parts = [DEDUP.to_owned(), number, of.value];
    *name = ObjectName(
        parts
            .into_iter()
            .map(|value| ObjectNamePart::Identifier(Ident { value, quote_style: None, span: ident.span }))
            .collect(),
    );
    Ok(())
}

pub(super) fn table_factor(f: &mut TableFactor, default_database: &str) -> Result<(), Error> {
    let TableFactor::Table { name, args, alias, .. } = f else { return Ok(()) };
    let Some(given) = args else { return Ok(()) };
    let [part] = name.0.as_slice() else { return Ok(()) };
    let Some(ident) = part.as_ident().cloned() else { return Ok(()) };
    let function = snake(&ident.value);
    match function.as_str() {
        "table" => {}
        "rowify" => {
            return Err(select::at(
                err!(
                    NotImplemented,
                    "table function {function} is not supported yet: it comes with stateful streaming queries in a later version"
                ),
                ident.span,
            ));
        }
        _ => {
            name.0 = vec![ObjectNamePart::Identifier(Ident {
                value: function,
                quote_style: None,
                span: ident.span,
            })];
            return Ok(());
        }
    }
    let target: Vec<Ident> = match given.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Ast::Identifier(i)))] => vec![i.clone()],
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Ast::CompoundIdentifier(i)))] => i.clone(),
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Ast::Function(inner)))] => {
            return Err(select::at(
                err!(IncorrectQuery, "table() takes the name of a stream or view, not {inner}"),
                inner.span(),
            ));
        }
        _ => {
            return Err(select::at(
                err!(NumberOfArguments, "table() takes one argument, the name of a stream or view"),
                ident.span,
            ));
        }
    };
    let (database, relation) = match target.as_slice() {
        [name] => (Ident::new(default_database), name.clone()),
        [database, name] => (database.clone(), name.clone()),
        _ => return Err(select::at(err!(Syntax, "table() takes name or database.name"), ident.span)),
    };
    if alias.is_none() {
        *alias = Some(TableAlias { explicit: true, name: relation.clone(), columns: Vec::new(), at: None });
    }
    *args = None;
    *name = ObjectName(
        [Ident { value: BOUNDED.to_owned(), quote_style: None, span: relation.span }, database, relation]
            .into_iter()
            .map(ObjectNamePart::Identifier)
            .collect(),
    );
    Ok(())
}
