//! Casts between Weir's types.
//!
//! Numbers and times become plain casts, which the optimizer and Parquet pruning see through.
//! What Arrow's cast means differently (text forms, zones, enums, addresses, wrapping) goes
//! through one function per target, [`WeirCast`].
//!
//! A null stays null. Numbers that do not fit are errors, unless `cast_overflow='wrap'`.

use super::errors::external;
use chrono::{NaiveDate, NaiveDateTime, Offset, TimeZone};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, FixedSizeListArray, ListArray, MapArray, PrimitiveArray,
    StringArray, StringBuilder, StructArray, UInt64Array, new_empty_array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, FieldRef, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;
use weir_base::{Error, err};
use weir_format::text::{Renderer, TextColumn};
use weir_format::types::Type;
use weir_format::{FormatError, FormatSettings};

/// `expr` of type `from`, as `to`. A nullable source stays nullable.
pub(crate) fn plan(expr: Expr, from: &Type, to: &Type, wrap: bool) -> Expr {
    let target = if from.is_nullable() && can_be_null(to) { to.clone().into_nullable() } else { to.clone() };
    if *from == target {
        return expr;
    }
    let plain = |expr: Expr, to: &Type| {
        Expr::Cast(Cast::new_from_field(Box::new(expr), Arc::new(to.field("cast").with_nullable(true))))
    };
    let (f, t) = (from.inner(), to.inner());
    if *f == Type::Nothing {
        return plain(expr, &target);
    }
    let gains_null = target.is_nullable() && !from.is_nullable();
    if gains_null || (wrap && is_integer(t)) {
        return call(expr, from, &target, wrap);
    }
    match (f, t) {
        (a, b) if is_number(a) && is_number(b) => plain(expr, &target),
        // An integer is seconds, whatever the precision of the target.
        (a, Type::DateTime(_)) if is_integer(a) => plain(plain(expr, &Type::Int64), &target),
        (a, Type::DateTime64(_, tz)) if is_integer(a) => {
            plain(plain(plain(expr, &Type::Int64), &Type::DateTime(tz.clone())), &target)
        }
        (Type::DateTime(_), b) if is_integer(b) => plain(plain(expr, &Type::Int64), &target),
        (Type::DateTime64(_, tz), b) if is_integer(b) => {
            plain(plain(plain(expr, &Type::DateTime(tz.clone())), &Type::Int64), &target)
        }
        (Type::DateTime(_) | Type::DateTime64(..), Type::DateTime(_) | Type::DateTime64(..)) => {
            plain(expr, &target)
        }
        (Type::Date, Type::DateTime(None) | Type::DateTime64(_, None)) => plain(expr, &target),
        (Type::Date, b) if is_integer(b) => plain(plain(expr, &Type::Int32), &target),
        (a, Type::Date) if is_integer(a) => plain(plain(expr, &Type::Int32), &target),
        _ => call(expr, from, &target, wrap),
    }
}

fn can_be_null(t: &Type) -> bool {
    !matches!(t.inner(), Type::Array(_) | Type::Map(..) | Type::Tuple(_))
}

fn is_integer(t: &Type) -> bool {
    matches!(
        t,
        Type::Int8
            | Type::Int16
            | Type::Int32
            | Type::Int64
            | Type::UInt8
            | Type::UInt16
            | Type::UInt32
            | Type::UInt64
    )
}

fn is_number(t: &Type) -> bool {
    is_integer(t) || matches!(t, Type::Bool | Type::Float32 | Type::Float64 | Type::Decimal(..))
}

fn call(expr: Expr, from: &Type, to: &Type, wrap: bool) -> Expr {
    let udf = ScalarUDF::new_from_impl(WeirCast::new(from.clone(), to.clone(), wrap));
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf), vec![expr]))
}

/// `expr` in exactly the storage of the type it has: Arrow is freer inside arrays and tuples.
pub(crate) fn reshape(expr: Expr, to: &Type) -> Expr {
    call(expr, to, to, false)
}

/// The value that `text` stands for in a type, as a literal with the type's storage.
///
/// # Errors
/// Code 53: the text is none of that type.
pub(crate) fn literal(text: &str, to: &Type) -> Result<ScalarValue, Error> {
    let one: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let array = from_text(&one, to).map_err(|e| err!(TypeMismatch, "{}", e.message))?;
    ScalarValue::try_from_array(&array, 0).map_err(super::errors::from_datafusion)
}

/// A cast that is more than Arrow's.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WeirCast {
    name: String,
    from: Type,
    to: Type,
    wrap: bool,
    signature: Signature,
}

impl WeirCast {
    fn new(from: Type, to: Type, wrap: bool) -> Self {
        let name = format!("_cast_to_{to}");
        WeirCast { name, from, to, wrap, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WeirCast {
    fn name(&self) -> &str {
        &self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.to.storage())
    }
    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(Arc::new(self.to.field(&self.name)))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Scalar(s) => {
                let out = convert(&s.to_array()?, &self.from, &self.to, self.wrap).map_err(external)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?))
            }
            ColumnarValue::Array(a) => {
                Ok(ColumnarValue::Array(convert(a, &self.from, &self.to, self.wrap).map_err(external)?))
            }
        }
    }
}

/// Converts whole arrays; `pub` for `to_*` functions and DEFAULT expressions.
///
/// # Errors
/// 6 text that does not parse, 69 a number that does not fit, 70 no such conversion.
pub fn convert(array: &ArrayRef, from: &Type, to: &Type, wrap: bool) -> Result<ArrayRef, Error> {
    let (f, t) = (from.inner(), to.inner());
    if f == t {
        return arrow_cast(array, &to.storage(), from, to);
    }
    match (f, t) {
        (Type::String | Type::Enum(..), Type::String) => arrow_cast(array, &DataType::Utf8, from, to),
        (_, Type::String) => to_text(array, from),
        (Type::Enum(_, values), b) if is_number(b) => {
            let text = array.as_string::<i32>();
            let numbers: PrimitiveArray<Int64Type> = text
                .iter()
                .map(|t| t.and_then(|t| values.iter().find(|(n, _)| &**n == t).map(|(_, v)| i64::from(*v))))
                .collect();
            convert(&(Arc::new(numbers) as ArrayRef), &Type::Int64.into_nullable(), to, wrap)
        }
        (a, Type::Enum(_, values)) if is_integer(a) => {
            let numbers = arrow_cast(array, &DataType::Int64, from, &Type::Int64)?;
            let mut out = StringBuilder::new();
            for n in numbers.as_primitive::<Int64Type>() {
                match n {
                    None => out.append_null(),
                    Some(n) => match values.iter().find(|(_, v)| i64::from(*v) == n) {
                        Some((name, _)) => out.append_value(name),
                        None => return Err(err!(BadArguments, "{n} is no value of {t}")),
                    },
                }
            }
            Ok(Arc::new(out.finish()))
        }
        (Type::String | Type::Enum(..), Type::Bytes) => arrow_cast(array, &DataType::Binary, from, to),
        (Type::String | Type::Enum(..), _) => from_text(array, to),
        (Type::Date, Type::DateTime(Some(tz)) | Type::DateTime64(_, Some(tz))) => {
            let tz = zone(tz)?;
            let days = array.as_primitive::<datafusion::arrow::datatypes::Date32Type>();
            let seconds: PrimitiveArray<Int64Type> =
                days.iter().map(|d| d.and_then(|d| midnight(d, tz))).collect();
            let at_second = arrow_cast(
                &(Arc::new(seconds) as ArrayRef),
                &DataType::Timestamp(TimeUnit::Second, Some(tz.name().into())),
                from,
                to,
            )?;
            arrow_cast(&at_second, &to.storage(), from, to)
        }
        (Type::DateTime(Some(tz)) | Type::DateTime64(_, Some(tz)), Type::Date) => {
            let tz = zone(tz)?;
            let seconds =
                arrow_cast(array, &DataType::Timestamp(TimeUnit::Second, Some(tz.name().into())), from, to)?;
            let seconds = arrow_cast(&seconds, &DataType::Int64, from, to)?;
            let days: Date32Array = seconds
                .as_primitive::<Int64Type>()
                .iter()
                .map(|s| s.and_then(|s| local_day(s, tz)))
                .collect();
            Ok(Arc::new(days))
        }
        (a, b) if wrap && is_number(a) && is_integer(b) => wrapping(array, b, from, to),
        (a, Type::DateTime64(_, tz)) if is_integer(a) => {
            let seconds = arrow_cast(array, &DataType::Int64, from, to)?;
            let at_second = arrow_cast(&seconds, &Type::DateTime(tz.clone()).storage(), from, to)?;
            arrow_cast(&at_second, &to.storage(), from, to)
        }
        (a, Type::DateTime(_)) if is_number(a) => {
            let seconds = arrow_cast(array, &DataType::Int64, from, to)?;
            arrow_cast(&seconds, &to.storage(), from, to)
        }
        (Type::Array(a), Type::Array(b)) => {
            let list = as_list(array)?;
            let values = convert(list.values(), a, b, wrap)?;
            let DataType::List(field) = to.storage() else { unreachable!("an array is stored as a list") };
            let nulls = list.nulls().cloned();
            ListArray::try_new(field, list.offsets().clone(), values, nulls)
                .map(|l| Arc::new(l) as ArrayRef)
                .map_err(|_| err!(CannotConvertType, "can not convert a null inside {from} to {to}"))
        }
        (Type::Tuple(a), Type::Tuple(b)) if a.len() == b.len() => {
            let tuple = array.as_struct();
            let columns = a
                .iter()
                .zip(b.iter())
                .zip(tuple.columns())
                .map(|(((_, f), (_, t)), c)| convert(c, f, t, wrap))
                .collect::<Result<Vec<_>, Error>>()?;
            let DataType::Struct(fields) = to.storage() else {
                unreachable!("a tuple is stored as a struct")
            };
            StructArray::try_new(fields, columns, tuple.nulls().cloned())
                .map(|l| Arc::new(l) as ArrayRef)
                .map_err(|_| err!(CannotConvertType, "can not convert a null inside {from} to {to}"))
        }
        _ => arrow_cast(array, &to.storage(), from, to),
    }
}

fn as_list(array: &ArrayRef) -> Result<ListArray, Error> {
    match array.data_type() {
        DataType::List(_) => Ok(array.as_list::<i32>().clone()),
        DataType::FixedSizeList(..) => {
            let fixed: &FixedSizeListArray = array.as_fixed_size_list();
            Ok(ListArray::from(fixed.clone()))
        }
        other => Err(err!(CannotConvertType, "can not read {other} as an array")),
    }
}

fn arrow_cast(array: &ArrayRef, storage: &DataType, from: &Type, to: &Type) -> Result<ArrayRef, Error> {
    if array.data_type() == storage {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, storage, &options).map_err(|e| {
        use datafusion::arrow::error::ArrowError as A;
        match e {
            A::CastError(m) if m.starts_with("Can't cast value") => {
                let value = m.split_whitespace().nth(3).unwrap_or("a value").to_owned();
                err!(OutOfBound, "{value} does not fit {to}; cast_overflow='wrap' wraps around instead")
            }
            A::CastError(_) => err!(CannotConvertType, "can not convert {from} to {to}"),
            other => super::errors::from_datafusion(other.into()),
        }
    })
}

fn to_text(array: &ArrayRef, from: &Type) -> Result<ArrayRef, Error> {
    let mut out = StringBuilder::with_capacity(array.len(), array.len() * 8);
    Renderer::new(&from.field("value"))
        .each(array, |text| match text {
            Some(t) => out.append_value(String::from_utf8_lossy(t)),
            None => out.append_null(),
        })
        .map_err(|e| err!(CannotConvertType, "can not convert {from} to string: {e}"))?;
    Ok(Arc::new(out.finish()))
}

fn from_text(array: &ArrayRef, to: &Type) -> Result<ArrayRef, Error> {
    let array = arrow_cast(array, &DataType::Utf8, &Type::String, to)?;
    // Nulls pass through, also where the target itself has none: the caller keeps them.
    let nullable = if can_be_null(to) { to.clone().into_nullable() } else { to.clone() };
    let settings = FormatSettings { null_as_default: true, ..FormatSettings::default() };
    let mut column = TextColumn::new(&nullable.field("value"), &settings);
    let fail = |text: &str, e: FormatError| {
        let why = match e {
            FormatError::Parse { what, .. } => what,
            other => other.to_string(),
        };
        err!(CannotParseText, "can not read '{text}' as {to}: {why}")
    };
    for text in array.as_string::<i32>() {
        match text {
            Some(t) => column.push(t).map_err(|e| fail(t, e))?,
            None => column.push_null().map_err(|e| fail("NULL", e))?,
        }
    }
    let out = column.finish().map_err(|e| fail("", e))?;
    arrow_cast(&out, &to.storage(), &Type::String, to)
}

/// Two's complement, as ClickHouse's casts.
fn wrapping(array: &ArrayRef, t: &Type, from: &Type, to: &Type) -> Result<ArrayRef, Error> {
    // 64 bits hold every source bit pattern; floats saturate first.
    let bits: PrimitiveArray<Int64Type> = match array.data_type() {
        DataType::UInt64 => {
            let a: &UInt64Array = array.as_primitive();
            a.unary(|v| v as i64)
        }
        DataType::Float32 | DataType::Float64 => {
            let f = arrow_cast(array, &DataType::Float64, from, to)?;
            f.as_primitive::<datafusion::arrow::datatypes::Float64Type>().unary(|v| v as i64)
        }
        _ => arrow_cast(array, &DataType::Int64, from, to)?.as_primitive::<Int64Type>().clone(),
    };
    fn narrow<P: ArrowPrimitiveType>(
        a: &PrimitiveArray<Int64Type>,
        f: impl Fn(i64) -> P::Native,
    ) -> ArrayRef {
        Arc::new(a.unary::<_, P>(f))
    }
    Ok(match t {
        Type::Int8 => narrow::<Int8Type>(&bits, |v| v as i8),
        Type::Int16 => narrow::<Int16Type>(&bits, |v| v as i16),
        Type::Int32 => narrow::<Int32Type>(&bits, |v| v as i32),
        Type::UInt8 => narrow::<UInt8Type>(&bits, |v| v as u8),
        Type::UInt16 => narrow::<UInt16Type>(&bits, |v| v as u16),
        Type::UInt32 => narrow::<UInt32Type>(&bits, |v| v as u32),
        Type::UInt64 => narrow::<UInt64Type>(&bits, |v| v as u64),
        _ => Arc::new(bits),
    })
}

fn zone(name: &str) -> Result<chrono_tz::Tz, Error> {
    name.parse().map_err(|_| err!(BadArguments, "unknown time zone '{name}'"))
}

/// The first instant of a local day, in seconds.
fn midnight(day: i32, tz: chrono_tz::Tz) -> Option<i64> {
    let date =
        NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_signed(chrono::Duration::days(i64::from(day)))?;
    let local: NaiveDateTime = date.and_hms_opt(0, 0, 0)?;
    // Where midnight does not exist the day begins at the first hour that does.
    (0..4)
        .find_map(|h| tz.from_local_datetime(&(local + chrono::Duration::hours(h))).earliest())
        .map(|t| t.timestamp())
}

fn local_day(seconds: i64, tz: chrono_tz::Tz) -> Option<i32> {
    let utc = chrono::DateTime::from_timestamp(seconds, 0)?.naive_utc();
    let offset = tz.offset_from_utc_datetime(&utc).fix().local_minus_utc();
    Some((seconds + i64::from(offset)).div_euclid(86_400) as i32)
}

/// Says that a value is never null. Where the promise is broken the type's default stands in.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NotNull {
    signature: Signature,
}

/// `expr` in a field that is not nullable.
pub(crate) fn not_null(expr: Expr) -> Expr {
    let udf = ScalarUDF::new_from_impl(NotNull { signature: Signature::any(1, Volatility::Immutable) });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf), vec![expr]))
}

pub(crate) const NOT_NULL: &str = "_not_null";

impl ScalarUDFImpl for NotNull {
    fn name(&self) -> &str {
        NOT_NULL
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(types[0].clone())
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let from = &args.arg_fields[0];
        Ok(Arc::new(
            Field::new(NOT_NULL, from.data_type().clone(), false).with_metadata(from.metadata().clone()),
        ))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Scalar(s) if s.is_null() => {
                Ok(ColumnarValue::Scalar(default_value(&s.data_type())?))
            }
            ColumnarValue::Array(a) if a.null_count() > 0 => {
                let default = default_value(a.data_type())?.to_scalar()?;
                let given = datafusion::arrow::compute::is_not_null(a)?;
                Ok(ColumnarValue::Array(datafusion::arrow::compute::kernels::zip::zip(&given, a, &default)?))
            }
            other => Ok(other.clone()),
        }
    }
}

/// What a type's columns have where there is no value.
pub(crate) fn default_value(t: &DataType) -> DfResult<ScalarValue> {
    let DataType::Map(entries, sorted) = t else { return ScalarValue::new_default(t) };
    // The library's own default of a map is none of that type.
    let DataType::Struct(fields) = entries.data_type() else { return ScalarValue::new_default(t) };
    let columns = fields.iter().map(|f| new_empty_array(f.data_type())).collect();
    let none = StructArray::try_new(fields.clone(), columns, None)?;
    let map = MapArray::try_new(entries.clone(), OffsetBuffer::from_lengths([0]), none, None, *sorted)?;
    Ok(ScalarValue::Map(Arc::new(map)))
}
