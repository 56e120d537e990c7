//! The shape all our scalar functions share: a name, what arguments it wants, its result
//! field, and a kernel over whole arrays.

use crate::FunctionInfo;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use weir_format::types::Type;

/// What one argument must be. The binder casts what fits and refuses the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// As it comes.
    Any,
    /// Text.
    Str,
    /// Any number, as int64.
    Int,
    /// Any number, as float64.
    Float,
    /// A number, kept.
    Number,
    /// Date or time, kept.
    Time,
    /// An array, kept.
    List,
    Bool,
}

impl Want {
    fn coerce(self, function: &str, at: usize, given: &DataType) -> Result<DataType> {
        let number = given.is_numeric() || matches!(given, DataType::Null | DataType::Boolean);
        let fits = match self {
            Want::Any => Some(given.clone()),
            Want::Str => match given {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
                    Some(DataType::Utf8)
                }
                DataType::Dictionary(_, v) if matches!(**v, DataType::Utf8) => Some(DataType::Utf8),
                _ => None,
            },
            Want::Int => number.then_some(DataType::Int64),
            Want::Float => number.then_some(DataType::Float64),
            Want::Number => number.then(|| given.clone()),
            Want::Time => match given {
                DataType::Timestamp(..) | DataType::Date32 => Some(given.clone()),
                DataType::Date64 => Some(DataType::Date32),
                _ => None,
            },
            Want::List => match given {
                DataType::List(_) => Some(given.clone()),
                DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::ListView(f) => {
                    Some(DataType::List(f.clone()))
                }
                _ => None,
            },
            Want::Bool => number.then_some(DataType::Boolean),
        };
        fits.ok_or_else(|| {
            let shown = Type::of_field(&Field::new("", given.clone(), false))
                .map_or_else(|| given.to_string(), |t| t.to_string());
            DataFusionError::Plan(format!(
                "illegal type {shown} of argument {} of function {function}; it takes {}",
                at + 1,
                match self {
                    Want::Any => "anything",
                    Want::Str => "a string (use to_string)",
                    Want::Int | Want::Float | Want::Number => "a number",
                    Want::Time => "a date or datetime (use to_datetime64)",
                    Want::List => "an array",
                    Want::Bool => "a bool",
                }
            ))
        })
    }
}

/// How many arguments, and what each must be.
#[derive(Debug, Clone, Copy)]
pub struct Args {
    pub wants: &'static [Want],
    /// How many of `wants` may be left out, from the right.
    pub optional: usize,
    /// The last want repeats without end.
    pub variadic: bool,
}

pub const fn args(wants: &'static [Want]) -> Args {
    Args { wants, optional: 0, variadic: false }
}
pub const fn opt(wants: &'static [Want], optional: usize) -> Args {
    Args { wants, optional, variadic: false }
}
pub const fn many(wants: &'static [Want]) -> Args {
    Args { wants, optional: 0, variadic: true }
}

/// A call as the kernel sees it: every argument an array of `rows` values.
pub struct Call {
    pub args: Vec<ArrayRef>,
    /// The value of each argument that is a constant.
    pub constants: Vec<Option<ScalarValue>>,
    pub fields: Vec<FieldRef>,
    pub rows: usize,
    pub result: FieldRef,
}

impl Call {
    pub fn str(&self, i: usize) -> &StringArray {
        self.args[i].as_string::<i32>()
    }
    pub fn int(&self, i: usize) -> &Int64Array {
        self.args[i].as_primitive::<Int64Type>()
    }
    pub fn float(&self, i: usize) -> &arrow::array::Float64Array {
        self.args[i].as_primitive::<Float64Type>()
    }
    /// A constant text argument, `None` if it was left out.
    pub fn constant_str(&self, i: usize, what: &str) -> Result<Option<String>> {
        match self.constants.get(i) {
            None => Ok(None),
            Some(Some(ScalarValue::Utf8(v) | ScalarValue::LargeUtf8(v) | ScalarValue::Utf8View(v))) => {
                Ok(v.clone())
            }
            Some(_) => plan_err!("{what} must be a constant string"),
        }
    }
}

/// The result field from the argument fields and constants; nullability is added by [`Nulls`].
pub type ResultOf = Arc<dyn Fn(&[FieldRef], &[Option<&ScalarValue>]) -> Result<Field> + Send + Sync>;
pub type Kernel = Arc<dyn Fn(&Call) -> Result<ArrayRef> + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    /// A null argument gives null; the kernel may compute anything there.
    Propagate,
    /// The kernel and the result field say it all.
    Own,
}

#[derive(Clone)]
pub struct Scalar {
    name: &'static str,
    aliases: Vec<String>,
    args: Args,
    usage: &'static str,
    docs: &'static str,
    nulls: Nulls,
    result: ResultOf,
    kernel: Kernel,
    signature: Signature,
}

impl Scalar {
    /// A deterministic function of its arguments with a fixed result type.
    pub fn new(
        name: &'static str,
        usage: &'static str,
        docs: &'static str,
        args: Args,
        result: Type,
        kernel: impl Fn(&Call) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> Self {
        let result: ResultOf = Arc::new(move |_, _| Ok(result.field("")));
        Scalar {
            name,
            aliases: Vec::new(),
            args,
            usage,
            docs,
            nulls: Nulls::Propagate,
            result,
            kernel: Arc::new(kernel),
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
    pub fn aliases(mut self, names: &[&str]) -> Self {
        self.aliases = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }
    /// The result type follows from the arguments.
    pub fn result(
        mut self,
        of: impl Fn(&[FieldRef], &[Option<&ScalarValue>]) -> Result<Field> + Send + Sync + 'static,
    ) -> Self {
        self.result = Arc::new(of);
        self
    }
    pub fn own_nulls(mut self) -> Self {
        self.nulls = Nulls::Own;
        self
    }
    /// Evaluated anew for every batch, never folded when planning.
    pub fn volatile(mut self) -> Self {
        self.signature = Signature::user_defined(Volatility::Volatile);
        self
    }
    pub fn info(&self) -> FunctionInfo {
        FunctionInfo {
            name: self.name.to_owned(),
            aliases: self.aliases.clone(),
            is_aggregate: false,
            usage: self.usage.to_owned(),
            docs: self.docs.to_owned(),
        }
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Scalar {}
impl Hash for Scalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Scalar {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let Args { wants, optional, variadic } = self.args;
        let at_least = wants.len() - optional;
        if given.len() < at_least || (given.len() > wants.len() && !variadic) {
            return plan_err!(
                "number of arguments of function {} does not match: {} given; use {}",
                self.name,
                given.len(),
                self.usage
            );
        }
        given.iter().enumerate().map(|(i, t)| wants[i.min(wants.len() - 1)].coerce(self.name, i, t)).collect()
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("{} has a result field, not just a type", self.name)
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = (self.result)(args.arg_fields, args.scalar_arguments)?;
        let nullable = match self.nulls {
            Nulls::Propagate => field.is_nullable() || args.arg_fields.iter().any(|f| f.is_nullable()),
            Nulls::Own => field.is_nullable(),
        };
        Ok(Arc::new(field.with_name(self.name).with_nullable(nullable)))
    }
    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_constant =
            !call.args.is_empty() && call.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let volatile = self.signature.volatility == Volatility::Volatile;
        let rows = if all_constant && !volatile { 1 } else { call.number_rows };
        let constants = call
            .args
            .iter()
            .map(|a| match a {
                ColumnarValue::Scalar(v) => Some(v.clone()),
                ColumnarValue::Array(_) => None,
            })
            .collect();
        let arrays = call.args.iter().map(|a| a.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let mut result = (self.kernel)(&Call {
            args: arrays.clone(),
            constants,
            fields: call.arg_fields,
            rows,
            result: call.return_field,
        })?;
        if self.nulls == Nulls::Propagate {
            let nulls = arrays.iter().fold(result.logical_nulls(), |n, a| {
                NullBuffer::union(n.as_ref(), a.logical_nulls().as_ref())
            });
            if nulls.as_ref().is_some_and(|n| n.null_count() > 0) {
                result = make_array(result.to_data().into_builder().nulls(nulls).build()?);
            }
        }
        if all_constant && !volatile {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// A DataFusion function whose result is ClickHouse's, under our names.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Renamed {
    name: &'static str,
    aliases: Vec<String>,
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Renamed {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(given)
    }
    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        self.inner.return_type(given)
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }
    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }
    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }
}

/// DataFusion's functions under our names, with usage and docs.
pub fn borrowed() -> Vec<(Arc<ScalarUDF>, &'static str, &'static str)> {
    use datafusion::functions as f;
    use datafusion::functions_nested as n;
    type Line = (&'static str, &'static [&'static str], Arc<ScalarUDF>, &'static str, &'static str);
    let lines: Vec<Line> = vec![
        (
            "coalesce",
            &["if_null"],
            f::core::coalesce(),
            "coalesce(x, …)",
            "the first argument that is not null",
        ),
        ("null_if", &["nullif"], f::core::nullif(), "null_if(a, b)", "null if a = b, else a"),
        ("greatest", &[], f::core::greatest(), "greatest(x, …)", "the greatest argument"),
        ("least", &[], f::core::least(), "least(x, …)", "the least argument"),
        ("ltrim", &["trim_left"], f::string::ltrim(), "trim_left(s)", "without spaces on the left"),
        ("rtrim", &["trim_right"], f::string::rtrim(), "trim_right(s)", "without spaces on the right"),
        ("btrim", &["trim", "trim_both"], f::string::btrim(), "trim(s)", "without spaces on both sides"),
        ("lpad", &["left_pad"], f::unicode::lpad(), "left_pad(s, length[, fill])", "padded on the left"),
        ("rpad", &["right_pad"], f::unicode::rpad(), "right_pad(s, length[, fill])", "padded on the right"),
        (
            "translate",
            &[],
            f::unicode::translate(),
            "translate(s, from, to)",
            "characters replaced one by one",
        ),
        ("array_distinct", &[], n::set_ops::array_distinct_udf(), "array_distinct(a)", "each element once"),
        ("array_sort", &[], n::sort::array_sort_udf(), "array_sort(a)", "in ascending order"),
        ("array_reverse", &[], n::reverse::array_reverse_udf(), "array_reverse(a)", "in reverse order"),
        ("array_concat", &[], n::concat::array_concat_udf(), "array_concat(a, b, …)", "one after the other"),
        ("map_keys", &[], n::map_keys::map_keys_udf(), "map_keys(m)", "the keys of a map"),
        ("map_values", &[], n::map_values::map_values_udf(), "map_values(m)", "the values of a map"),
    ];
    lines
        .into_iter()
        .map(|(name, aliases, inner, usage, docs)| {
            let aliases = aliases.iter().map(|a| (*a).to_owned()).collect();
            (Arc::new(ScalarUDF::new_from_impl(Renamed { name, aliases, inner })), usage, docs)
        })
        .collect()
}

/// The same type as argument `i`.
pub fn like_argument(i: usize) -> impl Fn(&[FieldRef], &[Option<&ScalarValue>]) -> Result<Field> {
    move |fields, _| Ok(fields[i].as_ref().clone())
}

/// An error a row's value caused.
pub fn bad_value(message: impl Into<String>) -> DataFusionError {
    DataFusionError::Execution(message.into())
}

/// Builds text row by row.
pub fn map_str(call: &Call, i: usize, f: impl Fn(&str) -> String) -> ArrayRef {
    let values = call.str(i);
    Arc::new(values.iter().map(|v| v.map(&f)).collect::<StringArray>())
}
