//! Expressions kept as text in the catalog, made ready to run: defaults, keys, TTL, shards.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use sqlparser::ast::Expr as Ast;
use std::sync::Arc;
use weir_base::{Error, Result, err};
use weir_format::types::Type;
use weir_sql::bind::errors::from_datafusion;
use weir_sql::bind::{self, BindOptions};
use weir_sql::parse;

/// An expression over the columns of one schema.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub physical: Arc<dyn PhysicalExpr>,
    pub value_type: Type,
    /// Gives another value each time, as `now()` and `rand()` do.
    pub volatile: bool,
    /// Names it reads.
    pub columns: Vec<String>,
    /// Its name, where it is a column and nothing else.
    pub plain_column: Option<String>,
}

impl Compiled {
    /// One value a row. The batch has the schema it was compiled for.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let value = self.physical.evaluate(batch).map_err(from_datafusion)?;
        value.into_array(batch.num_rows()).map_err(from_datafusion)
    }
}

/// Compiles with the functions of one session state.
#[derive(Debug, Clone)]
pub struct Compiler {
    state: Arc<SessionState>,
    options: BindOptions,
}

impl Compiler {
    pub fn new(state: Arc<SessionState>, options: BindOptions) -> Self {
        Compiler { state, options }
    }

    /// # Errors
    /// Syntax (62), unknown columns (47) and functions (46), types that do not fit (43, 53).
    pub fn compile(&self, text: &str, schema: &SchemaRef) -> Result<Compiled> {
        self.compile_expr(&parse::parse_expr(text)?, schema, None)
    }

    /// The expression's value, cast to a type as an assignment does it.
    pub fn compile_as(&self, text: &str, schema: &SchemaRef, to: &Type) -> Result<Compiled> {
        self.compile_expr(&parse::parse_expr(text)?, schema, Some(to))
    }

    pub fn compile_expr(&self, expr: &Ast, schema: &SchemaRef, to: Option<&Type>) -> Result<Compiled> {
        let mut logical = bind::bind_expr(expr, schema, &self.state, &self.options)?;
        let volatile = calls_anew(&logical);
        let columns = logical.column_refs().into_iter().map(|c| c.name.clone()).collect();
        let value_type = match to {
            Some(to) => {
                logical = bind::cast_expr(logical, schema, to, &self.options)?;
                to.clone()
            }
            None => bind::expr_type(&logical, schema)?,
        };
        let physical = bind::physical_expr(logical, schema, &self.state)?;
        let plain_column = physical.downcast_ref::<Column>().map(|c| c.name().to_owned());
        Ok(Compiled { physical, value_type, volatile, columns, plain_column })
    }
}

/// Also `now()`, which is constant within a query and so not volatile to the planner.
fn calls_anew(expr: &datafusion::logical_expr::Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    use datafusion::logical_expr::{Expr, Volatility};
    expr.exists(|e| {
        Ok(matches!(e, Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable))
    })
    .unwrap_or(true)
}

/// The items of `a, f(b)`, `(a, b)`, `tuple()` or nothing.
pub(crate) fn split_exprs(text: &str) -> Result<Vec<Ast>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    // One expression in parentheses is itself, several are a tuple.
    let mut expr = parse::parse_expr(&format!("({text})"))?;
    while let Ast::Nested(inner) = expr {
        expr = *inner;
    }
    match expr {
        Ast::Tuple(items) => Ok(items),
        Ast::Function(f) if f.name.to_string().eq_ignore_ascii_case("tuple") => arguments(f),
        other => Ok(vec![other]),
    }
}

/// As [`split_exprs`], each as text, to be compared with other such texts.
pub(crate) fn split_list(text: &str) -> Result<Vec<String>> {
    Ok(split_exprs(text)?.iter().map(ToString::to_string).collect())
}

/// The arguments of a call, which are plain expressions.
pub(crate) fn arguments(call: sqlparser::ast::Function) -> Result<Vec<Ast>> {
    use sqlparser::ast::{FunctionArg, FunctionArgExpr, FunctionArguments};
    let FunctionArguments::List(list) = call.args else { return Ok(Vec::new()) };
    list.args
        .into_iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Ok(e),
            other => Err(err!(Syntax, "{other} is no expression")),
        })
        .collect()
}

/// A column of a batch as another type, by the rules of `cast`.
pub(crate) fn convert_column(array: &ArrayRef, from: &Field, to: &Type, wrap: bool) -> Result<ArrayRef> {
    let Some(given) = Type::of_field(from) else {
        return Err(err!(
            TypeMismatch,
            "column {} of type {} fits no type of Weir",
            from.name(),
            from.data_type()
        ));
    };
    let converted = bind::convert(array, &given, to, wrap)
        .map_err(|e| Error { message: format!("column {}: {}", from.name(), e.message), ..e })?;
    if !to.is_nullable() && converted.null_count() > 0 {
        return Err(err!(TypeMismatch, "column {} holds NULL, {to} can not", from.name()));
    }
    Ok(converted)
}
