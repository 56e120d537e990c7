//! `WITH expr AS name`: puts the expression in place of the name.
//!
//! A name given in WITH wins over a column of that name and holds in subqueries too. In a
//! select list the result column keeps the name.
//!
//! Invariants
//! - What is put in is bounded: a chain of WITHs that doubles each time is refused.
//!
//! Not here: `WITH name AS (subquery)`, which sqlparser and DataFusion know.

use super::reserved;
use sqlparser::ast::{Expr, Query, Select, SelectItem, Visit, VisitMut, Visitor, VisitorMut};
use std::collections::HashMap;
use std::ops::ControlFlow;
use weir_base::{Error, err};

/// Expression nodes all substitutions of one statement may add.
const NODES_ADDED_MAX: usize = 100_000;

/// Levels of the tree put in for one name.
const LEVELS_MAX: usize = 256;

/// Replaces the names of every `__with` and removes the setting.
///
/// # Errors
/// Code 62 if the substitutions grow past their limit.
pub fn substitute<T: VisitMut>(tree: &mut T) -> Result<(), Error> {
    match VisitMut::visit(tree, &mut Levels { added: 0 }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Inner levels first, so that an inner WITH of the same name wins.
struct Levels {
    added: usize,
}

impl VisitorMut for Levels {
    type Break = Error;
    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let Some(settings) = &mut query.settings else { return ControlFlow::Continue(()) };
        let mut items: Vec<(String, Expr)> = Vec::new();
        settings.retain_mut(|setting| {
            if setting.key.value != reserved::WITH {
                return true;
            }
            if let [name, expr] = reserved::arguments(&setting.value)[..]
                && let Some(name) = reserved::string(name)
            {
                items.push((name.to_string(), expr.clone()));
            }
            false
        });
        if settings.is_empty() {
            query.settings = None;
        }
        let mut put = Put { by: HashMap::new(), shadowed: Vec::new(), added: &mut self.added };
        for (name, mut expr) in items {
            VisitMut::visit(&mut expr, &mut put)?;
            let Size { nodes, levels_max, .. } = size(&expr);
            if levels_max > LEVELS_MAX {
                return ControlFlow::Break(err!(
                    Syntax,
                    "WITH {name} nests deeper than {LEVELS_MAX} levels with the items it builds on"
                ));
            }
            put.by.insert(name, (expr, nodes));
        }
        if put.by.is_empty() { ControlFlow::Continue(()) } else { VisitMut::visit(query, &mut put) }
    }
}

#[derive(Default)]
struct Size {
    nodes: usize,
    levels: usize,
    levels_max: usize,
}

impl Visitor for Size {
    type Break = ();
    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.nodes += 1;
        self.levels += 1;
        self.levels_max = self.levels_max.max(self.levels);
        ControlFlow::Continue(())
    }
    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.levels -= 1;
        ControlFlow::Continue(())
    }
}

fn size(expr: &Expr) -> Size {
    let mut size = Size::default();
    let _ = Visit::visit(expr, &mut size);
    size
}

struct Put<'a> {
    by: HashMap<String, (Expr, usize)>,
    /// Parameters of the lambdas around.
    shadowed: Vec<Vec<String>>,
    added: &'a mut usize,
}

impl Put<'_> {
    fn put_for(&self, expr: &Expr) -> Option<(Expr, usize)> {
        let (value, nodes) = self.names(expr)?;
        let value = match value {
            plain @ (Expr::Value(_)
            | Expr::Identifier(_)
            | Expr::Function(_)
            | Expr::Subquery(_)
            | Expr::Nested(_)) => plain.clone(),
            other => Expr::Nested(Box::new(other.clone())),
        };
        Some((value, *nodes))
    }
    fn names(&self, expr: &Expr) -> Option<&(Expr, usize)> {
        let Expr::Identifier(ident) = expr else { return None };
        if self.shadowed.iter().flatten().any(|s| *s == ident.value) {
            return None;
        }
        self.by.get(&ident.value)
    }
}

impl VisitorMut for Put<'_> {
    type Break = Error;
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = &*item
                && self.names(expr).is_some()
                && let Expr::Identifier(ident) = expr
            {
                let (alias, expr) = (ident.clone(), expr.clone());
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        ControlFlow::Continue(())
    }
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Lambda(lambda) = expr {
            self.shadowed.push(lambda.params.iter().map(|p| p.name.value.clone()).collect());
        }
        ControlFlow::Continue(())
    }
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Lambda(_) = expr {
            self.shadowed.pop();
        }
        if let Some((value, nodes)) = self.put_for(expr) {
            *self.added += nodes;
            if *self.added > NODES_ADDED_MAX {
                return ControlFlow::Break(err!(
                    Syntax,
                    "WITH expressions grow past {NODES_ADDED_MAX} nodes when put in place of their names"
                ));
            }
            *expr = value;
        }
        ControlFlow::Continue(())
    }
}
