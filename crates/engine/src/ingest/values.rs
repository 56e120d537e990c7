//! `INSERT … VALUES` whose values are expressions, such as `(now64() - 1s, 'a' || 'b')`: slower
//! than literals, which the Values format reads, and so only for what that refuses.

use super::fill::default_array;
use crate::expr::{Compiler, arguments};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat;
use arrow::datatypes::{Schema, SchemaRef};
use sqlparser::ast::Expr;
use std::sync::Arc;
use weir_base::{Error, Result, err};
use weir_format::DecodedBatch;
use weir_format::types::Type;
use weir_sql::parse;

/// Evaluates the rows of a VALUES clause, each value cast to its column's type. `DEFAULT`
/// stands for a value left out.
///
/// # Errors
/// With row (from 1) and column.
pub(crate) fn rows_of_values(
    compiler: &Compiler,
    text: &str,
    columns: &[(String, Type)],
    schema: &SchemaRef,
) -> Result<DecodedBatch> {
    let rows = rows(text)?;
    let mut values: Vec<Vec<ArrayRef>> = vec![Vec::with_capacity(rows.len()); columns.len()];
    let mut absent: Vec<Vec<bool>> = vec![Vec::with_capacity(rows.len()); columns.len()];
    let nothing: SchemaRef = Arc::new(Schema::empty());
    let one_row = RecordBatch::try_new_with_options(
        nothing.clone(),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )
    .expect("no columns fit no fields");
    for (i, row) in rows.iter().enumerate() {
        if row.len() != columns.len() {
            return Err(err!(
                IncorrectQuery,
                "row {} has {} values, the insert names {} columns",
                i + 1,
                row.len(),
                columns.len()
            ));
        }
        for (c, (expr, (name, column_type))) in row.iter().zip(columns).enumerate() {
            let left_out = matches!(expr, Expr::Identifier(id) if id.value.eq_ignore_ascii_case("default"));
            absent[c].push(left_out);
            values[c].push(if left_out {
                default_array(column_type, 1)
            } else {
                compiler
                    .compile_expr(expr, &nothing, Some(column_type))
                    .and_then(|compiled| compiled.evaluate(&one_row))
                    .map_err(|e| in_place(e, i + 1, name))?
            });
        }
    }
    let arrays = values
        .iter()
        .map(|parts| concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| err!(LogicalError, "could not join values: {e}"))?;
    let batch = RecordBatch::try_new(schema.clone(), arrays)
        .map_err(|e| err!(TypeMismatch, "the values do not fit: {e}"))?;
    let absent = absent.into_iter().map(|a| a.contains(&true).then(|| BooleanArray::from(a))).collect();
    Ok(DecodedBatch { batch, absent })
}

fn in_place(e: Error, row: usize, column: &str) -> Error {
    Error { message: format!("row {row}, column {column}: {}", e.message), ..e }
}

/// The rows of `(a, b), (c, d)`: parsed as arguments of a function, which they look like.
fn rows(text: &str) -> Result<Vec<Vec<Expr>>> {
    let text = text.trim().trim_end_matches(';').trim_end().trim_end_matches(',');
    let Expr::Function(call) = parse::parse_expr(&format!("rows({text})"))? else {
        return Err(err!(Syntax, "VALUES is not a list of rows in parentheses"));
    };
    arguments(call)?
        .into_iter()
        .map(|row| match row {
            Expr::Tuple(values) => Ok(values),
            Expr::Nested(value) => Ok(vec![*value]),
            other => Err(err!(Syntax, "a row of VALUES stands in parentheses, not {other}")),
        })
        .collect()
}
