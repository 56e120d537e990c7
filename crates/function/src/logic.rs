//! Choosing between values.

use crate::scalar::{Args, Call, Scalar, Want, args, like_argument, many, opt};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray, UInt8Array};
use arrow::compute::{is_not_null, is_null, kernels::zip::zip};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use std::sync::Arc;
use weir_format::types::Type;

/// `multi_if(c1, v1, c2, v2, …, otherwise)`. The binder brings the values to one type.
fn choose(call: &Call) -> Result<ArrayRef> {
    let last = call.args.len() - 1;
    let mut out = arrow::compute::cast(&call.args[last], call.result.data_type())?;
    for pair in (0..last / 2).rev() {
        let condition = arrow::compute::cast(&call.args[pair * 2], &DataType::Boolean)?;
        // Null counts as false.
        let condition = match condition.as_boolean() {
            c if c.null_count() > 0 => arrow::compute::prep_null_mask_filter(c),
            c => c.clone(),
        };
        let value = arrow::compute::cast(&call.args[pair * 2 + 1], call.result.data_type())?;
        out = zip(&condition, &value, &out)?;
    }
    Ok(out)
}

fn chosen_field(fields: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<arrow::datatypes::Field> {
    if fields.len() < 3 || fields.len().is_multiple_of(2) {
        return plan_err!("multi_if takes pairs of condition and value, then a value for the rest");
    }
    let last = fields.len() - 1;
    let values: Vec<&FieldRef> = (0..last / 2).map(|p| &fields[p * 2 + 1]).chain([&fields[last]]).collect();
    let typed = values.iter().find(|f| *f.data_type() != DataType::Null).unwrap_or(&values[0]);
    let nullable = values.iter().any(|f| f.is_nullable() || *f.data_type() == DataType::Null);
    Ok(typed.as_ref().clone().with_nullable(nullable))
}

fn test(
    name: &'static str,
    aliases: &[&str],
    docs: &'static str,
    f: fn(&dyn Array) -> Result<BooleanArray>,
) -> Scalar {
    Scalar::new(name, "f(x)", docs, args(&[Want::Any]), Type::Bool, move |call| {
        Ok(Arc::new(f(&call.args[0])?))
    })
    .own_nulls()
    .aliases(aliases)
}

pub(crate) fn functions() -> Vec<Scalar> {
    const IF: Args = args(&[Want::Any, Want::Any, Want::Any]);
    vec![
        Scalar::new("if", "if(condition, then, else)", "null counts as false", IF, Type::Nothing, choose)
            .result(chosen_field)
            .own_nulls(),
        Scalar::new(
            "multi_if",
            "multi_if(c1, v1, …, else)",
            "the value of the first true condition",
            many(&[Want::Any]),
            Type::Nothing,
            choose,
        )
        .result(chosen_field)
        .own_nulls(),
        test("is_null", &[], "whether x is null", |a| Ok(is_null(a)?)),
        test("is_not_null", &[], "whether x is not null", |a| Ok(is_not_null(a)?)),
        Scalar::new(
            "assume_not_null",
            "assume_not_null(x)",
            "x as a type that is not nullable; null becomes the default",
            args(&[Want::Any]),
            Type::Nothing,
            |call| {
                let x = &call.args[0];
                if x.null_count() == 0 {
                    return Ok(x.clone());
                }
                let default = ScalarValue::new_default(x.data_type())?.to_array_of_size(x.len())?;
                Ok(zip(&is_not_null(x)?, x, &default)?)
            },
        )
        .result(|fields, _| Ok(fields[0].as_ref().clone().with_nullable(false)))
        .own_nulls(),
        Scalar::new(
            "to_nullable",
            "to_nullable(x)",
            "x as a nullable type",
            args(&[Want::Any]),
            Type::Nothing,
            |call| Ok(call.args[0].clone()),
        )
        .result(|fields, _| Ok(fields[0].as_ref().clone().with_nullable(true)))
        .own_nulls(),
        Scalar::new(
            "materialize",
            "materialize(x)",
            "a constant as a column",
            args(&[Want::Any]),
            Type::Nothing,
            |call| Ok(call.args[0].clone()),
        )
        .result(like_argument(0)),
        Scalar::new(
            "xor",
            "xor(a, b)",
            "exactly one of them",
            args(&[Want::Bool, Want::Bool]),
            Type::Bool,
            |call| {
                let pairs = call.args[0].as_boolean().iter().zip(call.args[1].as_boolean());
                Ok(Arc::new(pairs.map(|(a, b)| Some(a? != b?)).collect::<BooleanArray>()))
            },
        ),
        Scalar::new(
            "to_type_name",
            "to_type_name(x)",
            "the name of x's type",
            args(&[Want::Any]),
            Type::String,
            |call| {
                let name = Type::of_field(&call.fields[0])
                    .map_or_else(|| call.fields[0].data_type().to_string(), |t| t.to_string());
                Ok(Arc::new(StringArray::from(vec![name; call.rows])))
            },
        )
        .own_nulls(),
        Scalar::new(
            "throw_if",
            "throw_if(condition[, message])",
            "fails the query where the condition holds, else 0",
            opt(&[Want::Bool, Want::Str], 1),
            Type::UInt8,
            |call| {
                if call.args[0].as_boolean().true_count() > 0 {
                    let message = call.constant_str(1, "the message")?;
                    let message = message.unwrap_or_else(|| "value is not zero".into());
                    let thrown = weir_base::err!(ThrownByUser, "throw_if: {message}");
                    return Err(DataFusionError::External(Box::new(thrown)));
                }
                Ok(Arc::new(UInt8Array::from(vec![0; call.rows])))
            },
        ),
        Scalar::new("version", "version()", "the version of the server", args(&[]), Type::String, |call| {
            Ok(Arc::new(StringArray::from(vec![env!("CARGO_PKG_VERSION"); call.rows])))
        }),
        Scalar::new("timezone", "timezone()", "the server's time zone", args(&[]), Type::String, |call| {
            Ok(Arc::new(StringArray::from(vec!["UTC"; call.rows])))
        }),
    ]
}
