//! What ClickHouse allows in a SELECT and standard SQL does not, rewritten on the syntax tree.
//!
//! - An alias can be used anywhere in its SELECT, before its definition too, and wins over a
//!   column of that name. Inside its own definition the name is the column.
//! - `PREWHERE` is `WHERE`; `LIMIT n BY k` is a numbered window; `ARRAY JOIN` is `unnest`.
//! - `*` does not show virtual columns, which are there only when the query names them.
//! - Items without an alias are named as they are written.
//!
//! Not here: expressions (`spell`), what names mean (`scope`), types (`coerce`).

use crate::parse::reserved;
use sqlparser::ast::{
    BinaryOperator, ExceptSelectItem, Expr, GroupByExpr, GroupByWithModifier, Ident, JoinConstraint,
    JoinOperator, LimitClause, ObjectName, ObjectNamePart, OrderByKind, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, SetOperator, SetQuantifier, Spanned, TableAlias, TableFactor,
    TableWithJoins, VisitMut, VisitorMut, WildcardAdditionalOptions, WindowSpec, WindowType,
};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use weir_base::{Error, err};

/// Stands between a name and a number where one result has the same name twice. Cut off again
/// in the result's schema.
pub(crate) const TWIN: char = '\u{1}';

/// How many aliases one SELECT may expand, since each may double the text.
const EXPANSIONS_MAX: usize = 10_000;

/// Every column a query names anywhere: those that `*` does not show are there only if named.
pub(crate) fn columns_named(query: &Query) -> HashSet<String> {
    super::shape::names_in(query)
}

/// Answers what the pass must know of relations.
pub(crate) trait Relations {
    /// The columns that `*` does not show of a stream read directly (or through `table()`):
    /// virtual, MATERIALIZED and ALIAS ones; none of others.
    fn hidden_of(&self, factor: &TableFactor) -> Vec<String>;

    /// Whether a name, in any spelling, is an aggregate function's.
    fn is_aggregate(&self, name: &str) -> bool;
}

/// The clauses `PARTITION BY` and `SHUFFLE BY` of a query.
#[derive(Default)]
struct Substreams {
    partition: Vec<Expr>,
    shuffle: Vec<Expr>,
}

/// Rewrites every SELECT of a query.
pub(crate) fn rewrite(query: &mut Query, relations: &dyn Relations) -> Result<(), Error> {
    let named = columns_named(query);
    let mut pass = Pass { relations, named };
    match query.visit(&mut pass) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(e) => Err(e),
    }
}

struct Pass<'a> {
    relations: &'a dyn Relations,
    named: HashSet<String>,
}

impl VisitorMut for Pass<'_> {
    type Break = Error;
    fn pre_visit_query(&mut self, q: &mut Query) -> ControlFlow<Error> {
        match self.query(q) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }
}

/// An error where an expression stands.
pub(crate) fn at(e: Error, span: sqlparser::tokenizer::Span) -> Error {
    let start = span.start;
    if start.line == 0 { e } else { e.at(start.line, start.column) }
}

impl Pass<'_> {
    fn query(&mut self, q: &mut Query) -> Result<(), Error> {
        if reserved::emit(q).is_some() {
            return Err(err!(
                NotImplemented,
                "EMIT in a subquery or view is not supported yet; put it at the end of the whole query"
            ));
        }
        let owned = |list: Vec<&Expr>| list.into_iter().cloned().collect::<Vec<_>>();
        let streams = Substreams {
            partition: owned(reserved::partition_by(q)),
            shuffle: owned(reserved::shuffle_by(q)),
        };
        if !streams.partition.is_empty() && !streams.shuffle.is_empty() {
            return Err(err!(
                IncorrectQuery,
                "PARTITION BY and SHUFFLE BY exclude each other; PARTITION BY alone keeps rows of one key together"
            ));
        }
        for strictness in reserved::join_strictness(q) {
            let name = match strictness {
                reserved::Strictness::All => continue,
                reserved::Strictness::Any => "ANY JOIN",
                reserved::Strictness::Asof => "ASOF JOIN",
                reserved::Strictness::Latest => "LATEST JOIN",
            };
            return Err(err!(
                NotImplemented,
                "{name} is not supported yet: it comes with streaming joins in a later version"
            ));
        }
        let mut limit_by: Vec<Expr> = Vec::new();
        let mut by_rows = (None, None);
        if let Some((counts, by)) = reserved::limit_by(q) {
            by_rows = (Some(counts.limit.clone()), counts.offset.cloned());
            limit_by = by.into_iter().cloned().collect();
        }
        // What planning must know of settings was read above; their values are no expressions.
        q.settings = None;
        if let Some(LimitClause::LimitOffset { limit, offset, limit_by: by }) = &mut q.limit_clause
            && !by.is_empty()
        {
            limit_by = std::mem::take(by);
            by_rows = (limit.take(), offset.take().map(|o| o.value));
            q.limit_clause = None;
        }
        let order = match &q.order_by {
            Some(o) => match &o.kind {
                OrderByKind::Expressions(list) => list.clone(),
                OrderByKind::All(_) => Vec::new(),
            },
            None => Vec::new(),
        };
        if let Some(list) = q.order_by.as_mut().and_then(|o| match &mut o.kind {
            OrderByKind::Expressions(list) => Some(list),
            OrderByKind::All(_) => None,
        }) && let Some(filled) = list.iter().find(|o| o.with_fill.is_some())
        {
            return Err(at(
                err!(NotImplemented, "ORDER BY … WITH FILL is not supported yet"),
                filled.expr.span(),
            ));
        }
        let by = (!limit_by.is_empty()).then_some((limit_by, by_rows, order));
        match (&mut *q.body, by) {
            (SetExpr::Select(s), by) => self.select(s, by, streams),
            (_, None) if !streams.partition.is_empty() || !streams.shuffle.is_empty() => Err(err!(
                NotImplemented,
                "PARTITION BY and SHUFFLE BY after UNION are not supported; put them into its parts, in brackets"
            )),
            (body, None) => self.set(body),
            (_, Some(_)) => Err(err!(
                NotImplemented,
                "LIMIT BY after UNION is not supported; put the UNION into a subquery"
            )),
        }
    }

    fn set(&mut self, body: &mut SetExpr) -> Result<(), Error> {
        match body {
            SetExpr::Select(s) => self.select(s, None, Substreams::default()),
            SetExpr::SetOperation { left, right, op, set_quantifier } => {
                if *op == SetOperator::Union && *set_quantifier == SetQuantifier::None {
                    *set_quantifier = SetQuantifier::All;
                }
                self.set(left)?;
                self.set(right)
            }
            // The visitor comes to the query itself.
            _ => Ok(()),
        }
    }

    #[allow(clippy::type_complexity)]
    fn select(
        &mut self,
        s: &mut Select,
        limit_by: Option<(Vec<Expr>, (Option<Expr>, Option<Expr>), Vec<sqlparser::ast::OrderByExpr>)>,
        mut streams: Substreams,
    ) -> Result<(), Error> {
        if let Some(pre) = s.prewhere.take() {
            s.selection = Some(match s.selection.take() {
                Some(w) => Expr::BinaryOp {
                    left: Box::new(Expr::Nested(Box::new(pre))),
                    op: BinaryOperator::And,
                    right: Box::new(Expr::Nested(Box::new(w))),
                },
                None => pre,
            });
        }
        self.from(s)?;
        let names: Vec<Option<String>> = s.projection.iter().map(written_name).collect();
        let aliases = Aliases::of(&s.projection);
        let mut expansions = 0;
        for item in &mut s.projection {
            match item {
                SelectItem::UnnamedExpr(e) => aliases.expand(e, &[], &mut expansions)?,
                SelectItem::ExprWithAlias { expr, alias } => {
                    aliases.expand(expr, std::slice::from_ref(&alias.value), &mut expansions)?;
                }
                _ => {}
            }
        }
        for e in s.selection.iter_mut().chain(s.having.iter_mut()).chain(s.qualify.iter_mut()) {
            aliases.expand(e, &[], &mut expansions)?;
        }
        s.selection.iter_mut().chain(s.having.iter_mut()).for_each(super::condition::mark);
        for join in s.from.iter_mut().flat_map(|f| f.joins.iter_mut()) {
            if let Some(JoinConstraint::On(e)) = constraint(&mut join.join_operator) {
                aliases.expand(e, &[], &mut expansions)?;
            }
        }
        if let GroupByExpr::Expressions(list, modifiers) = &mut s.group_by {
            for e in list.iter_mut() {
                aliases.expand(e, &[], &mut expansions)?;
            }
            for m in std::mem::take(modifiers) {
                let sets: Vec<Vec<Expr>> = std::mem::take(list).into_iter().map(|e| vec![e]).collect();
                list.push(match m {
                    GroupByWithModifier::Rollup => Expr::Rollup(sets),
                    GroupByWithModifier::Cube => Expr::Cube(sets),
                    GroupByWithModifier::GroupingSets(e) => e,
                    GroupByWithModifier::Totals => {
                        return Err(err!(NotImplemented, "GROUP BY … WITH TOTALS is not supported yet"));
                    }
                });
            }
        }
        for e in streams.partition.iter_mut().chain(&mut streams.shuffle) {
            aliases.expand(e, &[], &mut expansions)?;
        }
        let is_aggregate = |name: &str| self.relations.is_aggregate(name);
        super::stateful::rewrite(s, &streams.partition, &streams.shuffle, &is_aggregate)?;
        self.name_items(s, names);
        if let Some((mut by, (n, offset), mut order)) = limit_by {
            for e in &mut by {
                aliases.expand(e, &[], &mut expansions)?;
            }
            for o in &mut order {
                aliases.expand(&mut o.expr, &[], &mut expansions)?;
            }
            let first = number_each(by, order, n, offset)?;
            s.qualify = Some(match s.qualify.take() {
                Some(q) => and(q, first),
                None => first,
            });
        }
        Ok(())
    }

    /// Gives every item its name; a name that is taken gets a mark that the result loses again.
    fn name_items(&self, s: &mut Select, names: Vec<Option<String>>) {
        let stars = s
            .projection
            .iter()
            .any(|i| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
        let mut taken: HashMap<String, usize> = HashMap::new();
        let items = std::mem::take(&mut s.projection);
        for (item, name) in items.into_iter().zip(names) {
            let (item, plain) = match item {
                SelectItem::UnnamedExpr(e) => {
                    let plain = matches!(&e, Expr::Identifier(_)) || is_column_path(&e);
                    (e, plain)
                }
                SelectItem::ExprWithAlias { expr, .. } => (expr, false),
                SelectItem::Wildcard(o) => {
                    self.star(o, &s.from, &mut s.projection);
                    continue;
                }
                other => {
                    s.projection.push(other);
                    continue;
                }
            };
            let name = name.unwrap_or_else(|| item.to_string());
            let seen = taken.entry(name.clone()).or_insert(0);
            *seen += 1;
            s.projection.push(if plain && *seen == 1 && !stars {
                SelectItem::UnnamedExpr(item)
            } else {
                let twin = if *seen > 1 || (plain && stars) { format!("{name}{TWIN}{seen}") } else { name };
                SelectItem::ExprWithAlias { expr: item, alias: Ident::with_quote('"', twin) }
            });
        }
    }

    /// `*` without the virtual columns that other parts of the query name.
    fn star(
        &self,
        mut options: WildcardAdditionalOptions,
        from: &[TableWithJoins],
        out: &mut Vec<SelectItem>,
    ) {
        let factors: Vec<&TableFactor> = from
            .iter()
            .flat_map(|f| std::iter::once(&f.relation).chain(f.joins.iter().map(|j| &j.relation)))
            .collect();
        let hidden = |f: &TableFactor| -> Vec<Ident> {
            if self.named.is_empty() {
                return Vec::new();
            }
            let there = self.relations.hidden_of(f);
            there.into_iter().filter(|v| self.named.contains(v)).map(Ident::new).collect()
        };
        if factors.iter().all(|f| hidden(f).is_empty()) {
            out.push(SelectItem::Wildcard(options));
            return;
        }
        if let [one] = factors.as_slice() {
            add_except(&mut options, hidden(one));
            out.push(SelectItem::Wildcard(options));
            return;
        }
        for f in factors {
            let mut options = options.clone();
            add_except(&mut options, hidden(f));
            match shown_name(f) {
                Some(name) => out.push(SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(ObjectName(vec![
                        ObjectNamePart::Identifier(name),
                    ])),
                    options,
                )),
                None => out.push(SelectItem::Wildcard(options)),
            }
        }
    }

    /// `FROM a ARRAY JOIN xs AS x` becomes a subquery over `a` with `unnest(xs) AS x`.
    fn from(&mut self, s: &mut Select) -> Result<(), Error> {
        for from in &mut s.from {
            if let Some(factor) = std::iter::once(&from.relation)
                .chain(from.joins.iter().map(|j| &j.relation))
                .find(|f| matches!(f, TableFactor::Table { sample: Some(_), .. }))
            {
                return Err(at(err!(NotImplemented, "SAMPLE is not supported yet"), factor.span()));
            }
            for join in &from.joins {
                match &join.join_operator {
                    JoinOperator::AsOf { .. } => {
                        return Err(at(
                            err!(
                                NotImplemented,
                                "ASOF JOIN is not supported yet: it comes with streaming joins in a later version"
                            ),
                            join.relation.span(),
                        ));
                    }
                    JoinOperator::LeftArrayJoin => {
                        return Err(at(
                            err!(NotImplemented, "LEFT ARRAY JOIN is not supported yet; use ARRAY JOIN"),
                            join.relation.span(),
                        ));
                    }
                    _ => {}
                }
            }
            let Some(first) = from.joins.iter().position(|j| {
                matches!(j.join_operator, JoinOperator::ArrayJoin | JoinOperator::InnerArrayJoin)
            }) else {
                continue;
            };
            let arrays = from.joins.split_off(first);
            let name = shown_name(&from.relation).unwrap_or_else(|| Ident::new("array_join"));
            let mut except = Vec::new();
            let mut items = Vec::new();
            for a in arrays {
                let (array, alias) = match a.relation {
                    TableFactor::Table { name, alias, .. } => (name, alias),
                    other => {
                        return Err(at(
                            err!(NotImplemented, "ARRAY JOIN of {other}; name a column"),
                            other.span(),
                        ));
                    }
                };
                let idents: Vec<Ident> = array.0.iter().filter_map(|p| p.as_ident().cloned()).collect();
                let expr = match idents.as_slice() {
                    [one] => Expr::Identifier(one.clone()),
                    _ => Expr::CompoundIdentifier(idents.clone()),
                };
                let alias = alias.map(|a| a.name).unwrap_or_else(|| {
                    let own = idents.last().cloned().unwrap_or_else(|| Ident::new("item"));
                    except.push(own.clone());
                    own
                });
                items.push(SelectItem::ExprWithAlias {
                    expr: super::spell::call("unnest", vec![expr]),
                    alias,
                });
            }
            let mut star = WildcardAdditionalOptions::default();
            if !except.is_empty() {
                add_except(&mut star, except);
            }
            items.insert(0, SelectItem::Wildcard(star));
            let inner =
                TableWithJoins { relation: from.relation.clone(), joins: std::mem::take(&mut from.joins) };
            from.relation = TableFactor::Derived {
                lateral: false,
                subquery: Box::new(super::spell::plain_query(items, vec![inner])),
                alias: Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None }),
                sample: None,
            };
        }
        Ok(())
    }
}

/// `s.a`, but not a tuple's `t.1`.
fn is_column_path(e: &Expr) -> bool {
    match e {
        Expr::CompoundIdentifier(parts) => {
            parts.len() == 2 && !parts[1].value.starts_with(|c: char| c.is_ascii_digit())
        }
        _ => false,
    }
}

fn written_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(i)) => Some(i.value.clone()),
        SelectItem::UnnamedExpr(e @ Expr::CompoundIdentifier(parts)) if is_column_path(e) => {
            parts.last().map(|i| i.value.clone())
        }
        SelectItem::UnnamedExpr(e) => Some(e.to_string()),
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        _ => None,
    }
}

/// What columns of a factor are qualified with.
pub(crate) fn shown_name(f: &TableFactor) -> Option<Ident> {
    match f {
        TableFactor::Table { alias: Some(a), .. } | TableFactor::Derived { alias: Some(a), .. } => {
            Some(a.name.clone())
        }
        TableFactor::Table { name, args: None, .. } => name.0.last()?.as_ident().cloned(),
        TableFactor::Table { args: Some(args), .. } => args.args.first().and_then(|a| match a {
            sqlparser::ast::FunctionArg::Unnamed(sqlparser::ast::FunctionArgExpr::Expr(
                Expr::Identifier(i),
            )) => Some(i.clone()),
            sqlparser::ast::FunctionArg::Unnamed(sqlparser::ast::FunctionArgExpr::Expr(
                Expr::CompoundIdentifier(i),
            )) => i.last().cloned(),
            _ => None,
        }),
        _ => None,
    }
}

fn add_except(options: &mut WildcardAdditionalOptions, mut more: Vec<Ident>) {
    if let Some(given) = options.opt_except.take() {
        more.push(given.first_element);
        more.extend(given.additional_elements);
        more.sort_by(|a, b| a.value.cmp(&b.value));
        more.dedup_by(|a, b| a.value == b.value);
    }
    let mut more = more.into_iter();
    if let Some(first_element) = more.next() {
        options.opt_except = Some(ExceptSelectItem { first_element, additional_elements: more.collect() });
    }
}

fn constraint(op: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match op {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c)
        | JoinOperator::Semi(c)
        | JoinOperator::LeftSemi(c)
        | JoinOperator::RightSemi(c)
        | JoinOperator::Anti(c)
        | JoinOperator::LeftAnti(c)
        | JoinOperator::RightAnti(c) => Some(c),
        _ => None,
    }
}

fn and(a: Expr, b: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(Expr::Nested(Box::new(a))),
        op: BinaryOperator::And,
        right: Box::new(Expr::Nested(Box::new(b))),
    }
}

/// `row_number() OVER (PARTITION BY by ORDER BY order)` between offset + 1 and offset + n.
fn number_each(
    by: Vec<Expr>,
    order_by: Vec<sqlparser::ast::OrderByExpr>,
    n: Option<Expr>,
    offset: Option<Expr>,
) -> Result<Expr, Error> {
    let n = n.ok_or_else(|| err!(Syntax, "LIMIT BY needs a number of rows"))?;
    let mut row = match super::spell::call("row_number", Vec::new()) {
        Expr::Function(f) => f,
        _ => unreachable!("call makes a function"),
    };
    let mut over = WindowSpec { window_name: None, partition_by: by, order_by, window_frame: None };
    super::stateful::in_log_order(&mut over);
    row.over = Some(WindowType::WindowSpec(over));
    let row = Expr::Function(row);
    let compare =
        |op, right: Expr| Expr::BinaryOp { left: Box::new(row.clone()), op, right: Box::new(right) };
    Ok(match offset {
        None => compare(BinaryOperator::LtEq, n),
        Some(o) => {
            let last =
                Expr::BinaryOp { left: Box::new(o.clone()), op: BinaryOperator::Plus, right: Box::new(n) };
            and(compare(BinaryOperator::Gt, o), compare(BinaryOperator::LtEq, last))
        }
    })
}

/// The aliases of one SELECT.
struct Aliases(HashMap<String, Expr>);

impl Aliases {
    fn of(items: &[SelectItem]) -> Aliases {
        let mut map = HashMap::new();
        for item in items {
            if let SelectItem::ExprWithAlias { expr, alias } = item {
                // `a AS a` and `s.a AS a` say nothing new.
                let same = match expr {
                    Expr::Identifier(i) => i.value == alias.value,
                    Expr::CompoundIdentifier(p) => p.last().is_some_and(|i| i.value == alias.value),
                    _ => false,
                };
                if !same {
                    map.entry(alias.value.clone()).or_insert_with(|| expr.clone());
                }
            }
        }
        Aliases(map)
    }

    fn expand(&self, e: &mut Expr, inside: &[String], expansions: &mut usize) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut pass = Expand { aliases: self, inside, expansions, subqueries: 0, parameters: Vec::new() };
        match e.visit(&mut pass) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(e) => Err(e),
        }
    }
}

struct Expand<'a> {
    aliases: &'a Aliases,
    /// The definitions we are in: their names mean columns here.
    inside: &'a [String],
    expansions: &'a mut usize,
    subqueries: usize,
    parameters: Vec<String>,
}

impl VisitorMut for Expand<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.subqueries += 1;
        ControlFlow::Continue(())
    }
    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.subqueries -= 1;
        ControlFlow::Continue(())
    }
    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Lambda(l) = e {
            self.parameters.extend(l.params.iter().map(|p| p.name.value.clone()));
        }
        ControlFlow::Continue(())
    }
    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<Error> {
        match e {
            Expr::Lambda(l) => {
                let left = self.parameters.len().saturating_sub(l.params.iter().count());
                self.parameters.truncate(left);
            }
            Expr::Identifier(name)
                if self.subqueries == 0
                    && !self.inside.contains(&name.value)
                    && !self.parameters.contains(&name.value) =>
            {
                let Some(definition) = self.aliases.0.get(&name.value) else {
                    return ControlFlow::Continue(());
                };
                *self.expansions += 1;
                if *self.expansions > EXPANSIONS_MAX {
                    return ControlFlow::Break(at(
                        err!(
                            IncorrectQuery,
                            "aliases of one SELECT expand to more than {EXPANSIONS_MAX} expressions; use a subquery"
                        ),
                        e.span(),
                    ));
                }
                let mut inner = definition.clone();
                let mut inside = self.inside.to_vec();
                inside.push(name.value.clone());
                if let Err(e) = self.aliases.expand(&mut inner, &inside, self.expansions) {
                    return ControlFlow::Break(e);
                }
                *e = match inner {
                    // A bare name must stay one: clauses look at it.
                    Expr::Identifier(_) | Expr::CompoundIdentifier(_) => inner,
                    other => Expr::Nested(Box::new(other)),
                };
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
