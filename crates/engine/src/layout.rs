//! ORDER BY, PARTITION BY and TTL of a stream, evaluated for storage.
//!
//! Only deterministic expressions: recovery and merges evaluate them again and must find what
//! the first commit found.

use crate::expr::{Compiled, Compiler, split_exprs};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::compute::kernels::cmp::lt_eq;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMillisecondType};
use sqlparser::ast::Expr as Ast;
use std::sync::Arc;
use weir_base::{Result, err};
use weir_format::types::Type;
use weir_sql::bind::convert;
use weir_sql::parse::parse_expr;
use weir_storage::layout::day_keys;
use weir_storage::{LayoutError, PartLayout};

#[derive(Debug, Default)]
pub(crate) struct ExprLayout {
    /// Empty: arrival order.
    order_by: Vec<Compiled>,
    /// Empty: the UTC day of `_tp_time`.
    partition_by: Vec<Compiled>,
    ttl: Option<Compiled>,
}

/// A plain name refers to itself.
fn plain_columns(keys: &[Compiled]) -> Vec<String> {
    let plain: Option<Vec<String>> = keys.iter().map(|k| k.plain_column.clone()).collect();
    plain.unwrap_or_default()
}

impl ExprLayout {
    /// # Errors
    /// What an expression is refused with; `BadArguments` (36) for one that is not
    /// deterministic, and for a TTL that is no time.
    pub fn new(
        compiler: &Compiler,
        schema: &SchemaRef,
        order_by: Option<&str>,
        partition_by: Option<&str>,
        ttl: Option<&str>,
    ) -> Result<Self> {
        let compile = |clause: &'static str, expr: &Ast| {
            let compiled = compiler.compile_expr(expr, schema, None)?;
            if compiled.volatile {
                return Err(err!(BadArguments, "{clause} {expr} gives another value each time it is asked"));
            }
            Ok(compiled)
        };
        let list = |clause: &'static str, text: Option<&str>| -> Result<Vec<Compiled>> {
            split_exprs(text.unwrap_or(""))?.iter().map(|e| compile(clause, e)).collect()
        };
        let ttl = match ttl {
            None => None,
            Some(text) => {
                let compiled = compile("TTL", &parse_expr(ttl_expression(text)?)?)?;
                if !matches!(
                    compiled.value_type.inner(),
                    Type::Date | Type::DateTime(_) | Type::DateTime64(..)
                ) {
                    return Err(err!(
                        BadArguments,
                        "TTL {text} is {}, a time is needed",
                        compiled.value_type
                    ));
                }
                Some(compiled)
            }
        };
        Ok(ExprLayout {
            order_by: list("ORDER BY", order_by)?,
            partition_by: list("PARTITION BY", partition_by)?,
            ttl,
        })
    }

    /// The one column the stream is partitioned by, if it is a plain one.
    pub fn partition_column(&self) -> Option<String> {
        match self.partition_by.as_slice() {
            [one] if one.value_type == Type::String => one.plain_column.clone(),
            _ => None,
        }
    }
}

/// `expr` of `expr [DELETE]`.
fn ttl_expression(text: &str) -> Result<&str> {
    let text = text.trim();
    let upper = text.to_ascii_uppercase();
    for word in [" RECOMPRESS ", " TO DISK ", " TO VOLUME ", " DELETE WHERE ", " GROUP BY "] {
        if upper.contains(word) {
            return Err(err!(NotImplemented, "TTL …{} is not supported yet; use TTL expr", word.trim_end()));
        }
    }
    Ok(match upper.strip_suffix("DELETE") {
        Some(rest) => text[..rest.len()].trim_end(),
        None => text,
    })
}

fn failed(clause: &'static str) -> impl Fn(weir_base::Error) -> LayoutError {
    move |e| LayoutError { clause, reason: e.message }
}

fn evaluate(
    clause: &'static str,
    keys: &[Compiled],
    batch: &RecordBatch,
) -> Result<Vec<ArrayRef>, LayoutError> {
    keys.iter().map(|k| k.evaluate(batch).map_err(failed(clause))).collect()
}

impl PartLayout for ExprLayout {
    fn sort_keys(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, LayoutError> {
        evaluate("ORDER BY", &self.order_by, batch)
    }

    fn sort_columns(&self) -> Vec<String> {
        plain_columns(&self.order_by)
    }

    fn partition_keys(&self, batch: &RecordBatch) -> Result<ArrayRef, LayoutError> {
        const CLAUSE: &str = "PARTITION BY";
        if self.partition_by.is_empty() {
            return day_keys(batch);
        }
        let texts: Vec<ArrayRef> = evaluate(CLAUSE, &self.partition_by, batch)?
            .iter()
            .zip(&self.partition_by)
            .map(|(values, key)| {
                let text = convert(values, &key.value_type, &Type::String, false).map_err(failed(CLAUSE))?;
                cast(&text, &DataType::Utf8)
                    .map_err(|e| LayoutError { clause: CLAUSE, reason: e.to_string() })
            })
            .collect::<Result<_, _>>()?;
        if let [one] = texts.as_slice()
            && one.null_count() == 0
        {
            return Ok(one.clone());
        }
        let mut out = StringBuilder::with_capacity(batch.num_rows(), batch.num_rows() * 16);
        let mut key = String::new();
        for row in 0..batch.num_rows() {
            key.clear();
            for (i, column) in texts.iter().enumerate() {
                let column = column.as_string::<i32>();
                if i > 0 {
                    key.push('-');
                }
                key.push_str(if column.is_null(row) { "null" } else { column.value(row) });
            }
            out.append_value(&key);
        }
        Ok(Arc::new(out.finish()))
    }

    fn expired(&self, batch: &RecordBatch, now_ms: i64) -> Result<Option<BooleanArray>, LayoutError> {
        const CLAUSE: &str = "TTL";
        let Some(ttl) = &self.ttl else { return Ok(None) };
        let arrow = |e: arrow::error::ArrowError| LayoutError { clause: CLAUSE, reason: e.to_string() };
        let at = ttl.evaluate(batch).map_err(failed(CLAUSE))?;
        let at = cast(&at, &DataType::Timestamp(TimeUnit::Millisecond, None)).map_err(arrow)?;
        let now = arrow::array::Scalar::new(
            arrow::array::PrimitiveArray::<TimestampMillisecondType>::from_value(now_ms, 1),
        );
        let expired = lt_eq(at.as_primitive::<TimestampMillisecondType>(), &now).map_err(arrow)?;
        // A NULL time never expires.
        Ok(Some(match expired.nulls() {
            Some(nulls) => BooleanArray::new(expired.values() & nulls.inner(), None),
            None => expired,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_texts() {
        for (text, expected) in [
            ("_tp_time + interval 1 day", Some("_tp_time + interval 1 day")),
            ("t + 5s DELETE", Some("t + 5s")),
            ("t + 5s delete", Some("t + 5s")),
            ("t TO DISK 'd'", None),
            ("t + 1d RECOMPRESS CODEC(ZSTD)", None),
        ] {
            assert_eq!(ttl_expression(text).ok(), expected, "{text}");
        }
    }
}
