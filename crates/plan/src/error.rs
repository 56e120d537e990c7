//! The one place where DataFusion's errors become codes a client knows.

use crate::StreamError;
use arrow_schema::ArrowError;
use datafusion_common::DataFusionError;
use weir_base::{Code, Error};

impl From<DataFusionError> for StreamError {
    fn from(e: DataFusionError) -> Self {
        StreamError::from(&e)
    }
}

impl From<&DataFusionError> for StreamError {
    fn from(e: &DataFusionError) -> Self {
        let root = unwrapped(e);
        match root {
            DataFusionError::External(inner) => foreign(inner.as_ref(), Code::LogicalError),
            DataFusionError::ArrowError(inner, _) => arrow(inner),
            DataFusionError::NotImplemented(m) => error(Code::NotImplemented, m),
            DataFusionError::ResourcesExhausted(m) => error(Code::MemoryLimitExceeded, m),
            DataFusionError::Plan(m) | DataFusionError::Configuration(m) => error(Code::BadArguments, m),
            DataFusionError::SchemaError(..) => error(Code::UnknownIdentifier, &root.strip_backtrace()),
            DataFusionError::Execution(m) => error(Code::BadArguments, m),
            DataFusionError::IoError(io) => match io.get_ref() {
                Some(inner) => foreign(inner, Code::CannotReadFile),
                None => error(Code::CannotReadFile, &io.to_string()),
            },
            other => wrapped(other),
        }
    }
}

impl From<Error> for StreamError {
    fn from(e: Error) -> Self {
        StreamError { code: e.code, message: e.to_string() }
    }
}

impl From<StreamError> for Error {
    fn from(e: StreamError) -> Self {
        Error::new(e.code, e.message)
    }
}

/// Below contexts, shared pointers, diagnostics and collections (whose first error counts).
fn unwrapped(mut e: &DataFusionError) -> &DataFusionError {
    loop {
        e = match e {
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => inner,
            DataFusionError::Shared(inner) => inner,
            DataFusionError::Collection(all) if !all.is_empty() => &all[0],
            DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
                ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
                    Some(inner) => inner,
                    None => return e,
                },
                _ => return e,
            },
            _ => return e,
        }
    }
}

/// Errors of other crates that carry one of ours somewhere below them.
fn wrapped(e: &(dyn std::error::Error + 'static)) -> StreamError {
    foreign(e, Code::LogicalError)
}

fn foreign(e: &(dyn std::error::Error + 'static), otherwise: Code) -> StreamError {
    let mut at = Some(e);
    while let Some(here) = at {
        if let Some(ours) = here.downcast_ref::<Error>() {
            return StreamError { code: ours.code, message: ours.to_string() };
        }
        if let Some(ours) = here.downcast_ref::<StreamError>() {
            return ours.clone();
        }
        at = here.source();
    }
    error(otherwise, &e.to_string())
}

fn arrow(e: &ArrowError) -> StreamError {
    match e {
        ArrowError::DivideByZero => error(Code::DivisionByZero, "division by zero"),
        ArrowError::CastError(m) | ArrowError::ParseError(m) => error(Code::CannotParseText, m),
        ArrowError::ArithmeticOverflow(m) => error(Code::OutOfBound, m),
        ArrowError::ComputeError(m) | ArrowError::InvalidArgumentError(m) => error(Code::BadArguments, m),
        ArrowError::NotYetImplemented(m) => error(Code::NotImplemented, m),
        ArrowError::MemoryError(m) => error(Code::MemoryLimitExceeded, m),
        ArrowError::ExternalError(inner) => foreign(inner.as_ref(), Code::LogicalError),
        ArrowError::IoError(m, _) => error(Code::CannotReadFile, m),
        other => error(Code::LogicalError, &other.to_string()),
    }
}

fn error(code: Code, message: &str) -> StreamError {
    // DataFusion appends a backtrace where one was captured.
    let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
    StreamError { code, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn codes_survive_every_wrapping() {
        let ours = || Error::new(Code::CorruptedData, "part x is damaged at byte 7");
        let external = || DataFusionError::External(Box::new(ours()));
        let cases = [
            ("ours", external(), Code::CorruptedData),
            ("shared", DataFusionError::Shared(Arc::new(external())), Code::CorruptedData),
            ("context", DataFusionError::Context("while".into(), Box::new(external())), Code::CorruptedData),
            ("io", DataFusionError::IoError(std::io::Error::other(ours())), Code::CorruptedData),
            (
                "arrow around datafusion",
                DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(external()))), None),
                Code::CorruptedData,
            ),
            (
                "division",
                DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None),
                Code::DivisionByZero,
            ),
            ("memory", DataFusionError::ResourcesExhausted("sort".into()), Code::MemoryLimitExceeded),
            ("bug", DataFusionError::Internal("x".into()), Code::LogicalError),
        ];
        for (name, e, code) in cases {
            assert_eq!(StreamError::from(&e).code, code, "{name}");
        }
    }
}
