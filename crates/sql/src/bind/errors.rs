//! What went wrong while planning, as a client sees it.
//!
//! DataFusion's errors are Rust facts in many shapes. This maps them to codes, names the
//! thing, and keeps the place in the text where it is known. No Rust type names leave here.

use datafusion::common::{DataFusionError, Diagnostic, SchemaError};
use weir_base::error::{Code, did_you_mean};
use weir_base::{Error, err};

/// Wraps one of ours so that it survives a trip through DataFusion.
pub(crate) fn external(e: Error) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

/// An error of planning. Also right for errors at run time, where the code is what matters.
pub fn from_datafusion(e: DataFusionError) -> Error {
    convert(e, None)
}

/// Offers columns that are there only when they are named, where nothing nearer was found.
pub(crate) fn or_hidden(mut e: Error, hidden: &[String]) -> Error {
    if e.code == Code::UnknownIdentifier
        && !e.message.contains("did you mean")
        && let Some(name) = e.message.strip_prefix("unknown column ")
    {
        let name = name.rsplit('.').next().unwrap_or(name).to_owned();
        e.message += &did_you_mean(&name, hidden.iter().map(String::as_str));
    }
    e
}

fn place(e: Error, at: Option<(u64, u64)>) -> Error {
    match (e.position, at) {
        (None, Some((line, column))) if line > 0 => e.at(line, column),
        _ => e,
    }
}

fn spot(d: &Diagnostic) -> Option<(u64, u64)> {
    d.span.map(|s| (s.start.line, s.start.column))
}

fn convert(e: DataFusionError, at: Option<(u64, u64)>) -> Error {
    match e {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => place(*ours, at),
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(df) => convert(*df, at),
                Err(other) => Error::new(Code::LogicalError, other.to_string()),
            },
        },
        DataFusionError::Diagnostic(d, inner) => {
            let at = spot(&d).or(at);
            convert(*inner, at)
        }
        DataFusionError::Context(_, inner) => convert(*inner, at),
        DataFusionError::Shared(inner) => match std::sync::Arc::try_unwrap(inner) {
            Ok(inner) => convert(inner, at),
            // Several holders: one of ours somewhere below is found without taking it out.
            Err(shared) => match ours_below(shared.as_ref()) {
                Some(ours) => place(ours, at),
                None => from_text(&shared.to_string(), at),
            },
        },
        DataFusionError::Collection(mut all) if !all.is_empty() => convert(all.remove(0), at),
        DataFusionError::SchemaError(s, _) => place(schema(*s), at),
        DataFusionError::NotImplemented(m) => place(err!(NotImplemented, "{}", tidy(&m)), at),
        DataFusionError::ResourcesExhausted(m) => err!(MemoryLimitExceeded, "{}", tidy(&m)),
        DataFusionError::ArrowError(a, _) => place(arrow(&a), at),
        DataFusionError::Plan(m) => from_text(&m, at),
        DataFusionError::SQL(p, _) => place(err!(Syntax, "{}", tidy(&p.to_string())), at),
        DataFusionError::Execution(m) => from_text(&m, at),
        DataFusionError::Internal(m) => err!(LogicalError, "{}", tidy(&m)),
        other => from_text(&other.to_string(), at),
    }
}

fn ours_below(e: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut at = Some(e);
    while let Some(here) = at {
        if let Some(ours) = here.downcast_ref::<Error>() {
            return Some(ours.clone());
        }
        at = here.source();
    }
    None
}

fn schema(e: SchemaError) -> Error {
    match e {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let hint = did_you_mean(&field.name, valid_fields.iter().map(|c| c.name.as_str()));
            let name = match &field.relation {
                Some(r) => format!("{r}.{}", field.name),
                None => field.name.clone(),
            };
            let e = err!(UnknownIdentifier, "unknown column {name}{hint}");
            match field.spans.first() {
                Some(s) => e.at(s.start.line, s.start.column),
                None => e,
            }
        }
        SchemaError::AmbiguousReference { field } => err!(
            UnknownIdentifier,
            "column {} is in more than one relation of the query; write relation.{}",
            field.name,
            field.name
        ),
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            err!(IncorrectQuery, "column {name} appears twice in a subquery; give one an alias")
        }
    }
}

fn arrow(a: &datafusion::arrow::error::ArrowError) -> Error {
    use datafusion::arrow::error::ArrowError as A;
    match a {
        A::DivideByZero => err!(DivisionByZero, "division by zero"),
        A::ArithmeticOverflow(m) => err!(OutOfBound, "{}", tidy(m)),
        A::CastError(m) => cast_text(m),
        A::ParseError(m) => err!(CannotParseText, "{}", tidy(m)),
        A::InvalidArgumentError(m) => err!(BadArguments, "{}", tidy(m)),
        A::ComputeError(m) => from_text(m, None),
        A::ExternalError(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => match inner.downcast_ref::<DataFusionError>() {
                Some(df) => from_text(&df.to_string(), None),
                None => err!(LogicalError, "{}", tidy(&inner.to_string())),
            },
        },
        other => err!(LogicalError, "{}", tidy(&other.to_string())),
    }
}

fn cast_text(m: &str) -> Error {
    if m.contains("Can't cast value") || m.contains("overflow") || m.contains("Overflow") {
        return err!(OutOfBound, "{}; cast_overflow='wrap' wraps around instead", tidy(&spell(m)));
    }
    if m.contains("Cannot cast string") || m.contains("parse") {
        return err!(CannotParseText, "{}", tidy(&spell(m)));
    }
    err!(CannotConvertType, "{}", tidy(&spell(m)))
}

/// Texts of DataFusion's planner that mean something particular.
fn from_text(m: &str, at: Option<(u64, u64)>) -> Error {
    let has = |part: &str| m.contains(part);
    let text = tidy(&spell(m));
    let code = if has("Invalid function") || has("There is no window function") {
        Code::UnknownFunction
    } else if has("Aggregate functions are not allowed") {
        return place(
            err!(NotAnAggregate, "an aggregate function is not allowed in WHERE; use HAVING instead"),
            at,
        );
    } else if has("must appear in the GROUP BY clause")
        || has("must be in the GROUP BY clause")
        || has("could not be resolved from available columns")
        || has("HAVING clause references")
    {
        return place(not_aggregated(m), at);
    } else if has("illegal type") {
        Code::IllegalTypeOfArgument
    } else if has("does not support zero arguments")
        || has("takes at")
        || has("arguments but")
        || has("number of arguments")
        || has("expects") && has("argument")
    {
        Code::NumberOfArguments
    } else if has("Cannot coerce") || has("Cannot infer common") || has("No function matches") || has("coerc")
    {
        Code::IllegalTypeOfArgument
    } else if has("Can't cast value") || has("Cannot cast string") {
        return place(cast_text(m), at);
    } else if has("Divide by zero") || has("division by zero") {
        return place(err!(DivisionByZero, "division by zero"), at);
    } else if has("Cannot create filter with non-boolean") {
        Code::IllegalTypeOfArgument
    } else if has("type") && (has("mismatch") || has("Cannot cast") || has("Unsupported CAST")) {
        Code::TypeMismatch
    } else {
        Code::IncorrectQuery
    };
    place(Error::new(code, text), at)
}

fn not_aggregated(m: &str) -> Error {
    let quoted = m.split('"').nth(1).map(|q| q.rsplit('.').next().unwrap_or(q).to_owned());
    match quoted {
        Some(column) => err!(
            NotAnAggregate,
            "column {column} is neither in GROUP BY nor inside an aggregate function; add it to GROUP BY or wrap it, for example in any({column})"
        ),
        None => err!(NotAnAggregate, "{}", tidy(&spell(m))),
    }
}

/// Arrow's names of types in Weir's spelling.
fn spell(m: &str) -> String {
    let mut out = m.to_owned();
    for (from, to) in [
        ("UInt8", "uint8"),
        ("UInt16", "uint16"),
        ("UInt32", "uint32"),
        ("UInt64", "uint64"),
        ("Int8", "int8"),
        ("Int16", "int16"),
        ("Int32", "int32"),
        ("Int64", "int64"),
        ("Float32", "float32"),
        ("Float64", "float64"),
        ("LargeUtf8", "string"),
        ("Utf8View", "string"),
        ("Utf8", "string"),
        ("Boolean", "bool"),
        ("Date32", "date"),
        ("Decimal128", "decimal"),
        ("Timestamp(Second, ", "datetime("),
        ("Timestamp(Millisecond, ", "datetime64(3, "),
        ("Timestamp(Microsecond, ", "datetime64(6, "),
        ("Timestamp(Nanosecond, ", "datetime64(9, "),
        ("Some(\"UTC\")", "'UTC'"),
    ] {
        out = out.replace(from, to);
    }
    out
}

/// One line, lowercase start, no full stop, no prefix that names the kind in Rust.
fn tidy(m: &str) -> String {
    let mut m = m.trim();
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "This feature is not implemented: ",
        "Arrow error: ",
        "type_coercion\ncaused by\n",
        "Invalid argument error: ",
        "Compute error: ",
        "Cast error: ",
        "Parser error: ",
        "External error: ",
        "Internal error: ",
        "Schema error: ",
    ] {
        while let Some(rest) = m.strip_prefix(prefix) {
            m = rest;
        }
    }
    let m = m.split(".\nThis issue was likely caused").next().unwrap_or(m);
    let m = m.split("\n\nbacktrace").next().unwrap_or(m);
    let line = m.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches('.');
    let mut chars = line.chars();
    match chars.next() {
        Some(first) if chars.clone().next().is_some_and(|c| c.is_lowercase() || c == ' ' || c == '\'') => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => line.to_owned(),
    }
}
