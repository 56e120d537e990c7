//! A stream's columns as one query sees them: what its files hold, then what is computed when it
//! is read (`ALIAS`), each time in the zone the session shows it in.
//!
//! A projection over the scan, and only where one is needed: filters and unused columns pass
//! through it.

use super::context::Binder;
use super::scope::UnboundedTable;
use super::{cast, zone};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast::{Expr as Ast, Visit, Visitor};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_base::Error;
use weir_format::types::Type;

/// A column computed when it is read. Those it refers to stand before it.
#[derive(Debug, Clone, PartialEq)]
pub struct AliasColumn {
    pub name: String,
    /// SQL text over the stream's other columns, virtual ones included.
    pub expression: String,
    pub column_type: Type,
}

/// Every column that a piece of a query names.
pub(crate) fn names_in(node: &impl Visit) -> HashSet<String> {
    struct Find(HashSet<String>);
    impl Visitor for Find {
        type Break = ();
        fn pre_visit_expr(&mut self, e: &Ast) -> ControlFlow<()> {
            let name = match e {
                Ast::Identifier(i) => Some(&i.value),
                Ast::CompoundIdentifier(parts) => parts.last().map(|i| &i.value),
                _ => None,
            };
            self.0.extend(name.cloned());
            ControlFlow::Continue(())
        }
    }
    let mut find = Find(HashSet::new());
    let _ = node.visit(&mut find);
    find.0
}

/// Names that a column's expression reads.
///
/// # Errors
/// Code 62.
pub fn names_read(expression: &str) -> Result<HashSet<String>, Error> {
    Ok(names_in(&crate::parse::parse_expr(expression)?))
}

/// What a scan gives and what is made of it.
pub(super) struct Shape<'a> {
    /// Of the table's columns, in order.
    pub scanned: Vec<usize>,
    /// Of those, what the query sees.
    shown: Vec<&'a str>,
    /// In an order in which each finds what it reads.
    aliases: Vec<&'a AliasColumn>,
}

impl<'a> Shape<'a> {
    /// `named`: columns that the query names anywhere; hidden ones are there only if named.
    pub fn of(
        table: &'a UnboundedTable,
        aliases: &'a [AliasColumn],
        named: &HashSet<String>,
    ) -> Result<Self, Error> {
        let mut needed = named.clone();
        let mut wanted = Vec::new();
        for alias in aliases.iter().rev().filter(|_| !named.is_empty()) {
            if needed.contains(&alias.name) {
                needed.extend(names_read(&alias.expression)?);
                wanted.push(alias);
            }
        }
        wanted.reverse();
        let name = |i: usize| table.schema.field(i).name().as_str();
        let all = 0..table.schema.fields().len();
        Ok(Shape {
            scanned: all.clone().filter(|i| *i < table.visible || needed.contains(name(*i))).collect(),
            shown: all
                .filter(|i| *i < table.visible || named.contains(name(*i)))
                .map(name)
                .chain(wanted.iter().map(|a| a.name.as_str()).filter(|a| named.contains(*a)))
                .collect(),
            aliases: wanted,
        })
    }

    /// The columns over a scan of [`Shape::scanned`].
    pub fn over(&self, scan: LogicalPlan, binder: &Binder<'_>) -> Result<LogicalPlan, Error> {
        let mut plan = in_zone(scan, binder)?;
        if self.aliases.is_empty() {
            return Ok(plan);
        }
        for alias in &self.aliases {
            let value = super::spell::cast(
                crate::parse::parse_expr(&alias.expression)?,
                &alias.column_type.to_string(),
            );
            let value = binder.expr(value, plan.schema()).map_err(|e| Error {
                message: format!("column {}: {}", alias.name, e.message),
                position: None,
                ..e
            })?;
            let mut items = columns_of(&plan);
            items.push(value.alias(&alias.name));
            plan = project(plan, items)?;
        }
        let shown = columns_of(&plan)
            .into_iter()
            .filter(|e| matches!(e, Expr::Column(c) if self.shown.contains(&c.name.as_str())));
        let shown = shown.collect();
        project(plan, shown)
    }
}

fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().columns().into_iter().map(Expr::Column).collect()
}

fn project(plan: LogicalPlan, items: Vec<Expr>) -> Result<LogicalPlan, Error> {
    let built: DfResult<LogicalPlan> =
        LogicalPlanBuilder::from(plan).project(items).and_then(LogicalPlanBuilder::build);
    built.map_err(super::errors::from_datafusion)
}

/// Times without a zone of their own in the session's.
pub(super) fn in_zone(plan: LogicalPlan, binder: &Binder<'_>) -> Result<LogicalPlan, Error> {
    let Some(name) = &binder.options.time_zone else { return Ok(plan) };
    let mut changed = false;
    let items: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column((qualifier, field).into());
            let Some(own) = Type::of_field(field) else { return column };
            let zoned = zone::zoned(&own, name);
            if zoned == own {
                return column;
            }
            changed = true;
            let shown = match own.inner() {
                // A plain cast, which predicates see through; null where the column is.
                Type::DateTime(_) | Type::DateTime64(..) => {
                    let to = zoned.field("cast").with_nullable(field.is_nullable());
                    Expr::Cast(Cast::new_from_field(Box::new(column), Arc::new(to)))
                }
                _ => cast::plan(column, &own, &zoned, false),
            };
            shown.alias_qualified(qualifier.cloned(), field.name())
        })
        .collect();
    if changed { project(plan, items) } else { Ok(plan) }
}
