//! Formats by name, and their errors as the client's errors.

use arrow::datatypes::SchemaRef;
use weir_base::{Code, Error, Result};
use weir_format::{BoxDecoder, BoxEncoder, FormatError, FormatInfo, FormatSettings};

/// # Errors
/// 73 for a format that does not exist or does not write; 48 for a column it can not carry.
pub fn encoder(
    name: &str,
    schema: &SchemaRef,
    settings: &FormatSettings,
) -> Result<(&'static FormatInfo, BoxEncoder)> {
    let info = weir_format::find(name).map_err(encode_failed)?;
    Ok((info, weir_format::encoder(name, schema.clone(), settings).map_err(encode_failed)?))
}

/// # Errors
/// 73 for a format that does not exist or does not read.
pub fn decoder(name: &str, schema: &SchemaRef, settings: &FormatSettings) -> Result<BoxDecoder> {
    weir_format::decoder(name, schema.clone(), settings).map_err(decode_failed)
}

pub fn encode_failed(e: FormatError) -> Error {
    let code = match &e {
        FormatError::Unknown { .. } | FormatError::Direction { .. } => Code::UnknownFormat,
        FormatError::Unsupported { .. } => Code::NotImplemented,
        FormatError::Encode { .. } => Code::CannotConvertType,
        FormatError::Schema { .. } => Code::BadArguments,
        FormatError::Parse { .. } | FormatError::Truncated { .. } => Code::LogicalError,
    };
    Error::new(code, e.to_string())
}

pub fn decode_failed(e: FormatError) -> Error {
    let code = match &e {
        FormatError::Unknown { .. } | FormatError::Direction { .. } => Code::UnknownFormat,
        FormatError::Unsupported { .. } => Code::NotImplemented,
        FormatError::Encode { .. } => Code::LogicalError,
        FormatError::Schema { .. } => Code::CannotParseInput,
        FormatError::Parse { .. } => Code::CannotParseInput,
        FormatError::Truncated { .. } => Code::CannotReadAllData,
    };
    Error::new(code, e.to_string())
}
