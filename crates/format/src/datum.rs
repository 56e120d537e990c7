//! Scalars of formats that have types of their own (Avro, Protobuf), to columns and back.
//!
//! A value goes where it can be told without loss: numbers into wider or checked narrower ones, text into
//! whatever its text says, days and times by their units.
//!
//! Not here: arrays, maps and records, which each format walks by its own schema.

use crate::FormatSettings;
use crate::column::{Column, Data};
use crate::fault::Fault;
use crate::text::write::{Style, Writer};
use crate::view::{Values, View};

/// One scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Datum<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Days since 1970-01-01.
    Date(i32),
    /// `value` units of 10^-digits seconds since 1970-01-01 UTC.
    Time {
        value: i64,
        digits: u8,
    },
    /// `value` * 10^-scale.
    Decimal {
        value: i128,
        scale: u8,
    },
}

impl Datum<'_> {
    fn word(&self) -> &'static str {
        match self {
            Datum::Null => "null",
            Datum::Bool(_) => "a boolean",
            Datum::Int(_) | Datum::UInt(_) => "an integer",
            Datum::Float(_) => "a floating-point number",
            Datum::Text(_) => "text",
            Datum::Bytes(_) => "bytes",
            Datum::Date(_) => "a date",
            Datum::Time { .. } => "a time",
            Datum::Decimal { .. } => "a decimal",
        }
    }

    pub fn integer(&self) -> Option<i128> {
        match self {
            Datum::Int(v) => Some(i128::from(*v)),
            Datum::UInt(v) => Some(i128::from(*v)),
            Datum::Bool(v) => Some(i128::from(*v)),
            Datum::Date(v) => Some(i128::from(*v)),
            Datum::Time { value, .. } => Some(i128::from(*value)),
            Datum::Decimal { value, scale: 0 } => Some(*value),
            _ => None,
        }
    }

    pub fn float(&self) -> Option<f64> {
        match self {
            Datum::Float(v) => Some(*v),
            Datum::Decimal { value, scale } => Some(*value as f64 / 10f64.powi(i32::from(*scale))),
            other => other.integer().map(|v| v as f64),
        }
    }

    /// Unscaled; `None` where it has no place, or digits would be lost.
    pub fn decimal(&self, precision: u8, scale: u8) -> Option<i128> {
        let (value, from) = match self {
            Datum::Decimal { value, scale } => (*value, *scale),
            _ => (self.integer()?, 0),
        };
        let moved = if scale >= from {
            value.checked_mul(10i128.checked_pow(u32::from(scale - from))?)?
        } else {
            let by = 10i128.checked_pow(u32::from(from - scale))?;
            if value % by != 0 {
                return None;
            }
            value / by
        };
        (moved.unsigned_abs() < 10u128.pow(u32::from(precision))).then_some(moved)
    }

    fn shown(&self) -> String {
        match self {
            Datum::Text(text) => (*text).to_owned(),
            Datum::Bytes(bytes) => bytes.iter().take(50).map(|b| format!("{b:02x}")).collect(),
            Datum::Float(v) => v.to_string(),
            other => other.integer().map(|v| v.to_string()).unwrap_or_default(),
        }
    }
}

/// `value` in units of 10^-to seconds; what is finer is cut off, towards the past.
pub(crate) fn rescaled(value: i64, from: u8, to: u8) -> Option<i64> {
    if to >= from {
        value.checked_mul(10i64.checked_pow(u32::from(to - from))?)
    } else {
        Some(value.div_euclid(10i64.pow(u32::from(from - to))))
    }
}

impl Column {
    /// Appends a scalar.
    ///
    /// # Errors
    /// A value that the column's type can not hold; the column is as it was.
    pub fn push_datum(&mut self, datum: Datum<'_>, settings: &FormatSettings) -> Result<(), Fault> {
        if datum == Datum::Null {
            return self.push_null(settings.null_as_default).map(|_| ());
        }
        if let Datum::Text(text) = datum
            && !matches!(self.data, Data::String(_) | Data::Bytes(_))
        {
            return self.push_text(text.as_bytes(), settings.best_effort_times);
        }
        let ty = self.kind.ty.clone();
        let bad =
            || Fault::new(format!("{} can not be read as {ty}", datum.word()), datum.shown().as_bytes());
        let range = || Fault::new(format!("out of range of {ty}"), datum.shown().as_bytes());
        macro_rules! int {
            ($values:expr) => {
                $values.push(datum.integer().ok_or_else(bad)?.try_into().map_err(|_| range())?)
            };
        }
        match &mut self.data {
            Data::Bool(v) => match datum.integer() {
                Some(b @ (0 | 1)) => v.append(b == 1),
                _ => return Err(bad()),
            },
            Data::Int8(v) => int!(v),
            Data::Int16(v) => int!(v),
            Data::Int32(v) => int!(v),
            Data::Int64(v) => int!(v),
            Data::UInt8(v) => int!(v),
            Data::UInt16(v) => int!(v),
            Data::UInt32(v) => int!(v),
            Data::UInt64(v) => int!(v),
            Data::Float32(v) => v.push(datum.float().ok_or_else(bad)? as f32),
            Data::Float64(v) => v.push(datum.float().ok_or_else(bad)?),
            Data::Decimal { values, precision, scale } => {
                if datum.integer().is_none() && !matches!(datum, Datum::Decimal { .. }) {
                    return Err(bad());
                }
                values.push(datum.decimal(*precision, *scale).ok_or_else(|| {
                    Fault::new(format!("out of range of {ty}, or with more digits after the point"), b"")
                })?);
            }
            Data::String(s) => match datum {
                Datum::Text(text) => s.push(text.as_bytes()),
                Datum::Bytes(bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => s.push(text.as_bytes()),
                    Err(_) if settings.utf8_replace => s.push(String::from_utf8_lossy(bytes).as_bytes()),
                    Err(_) => {
                        return Err(Fault::new("not UTF-8; declare the column as bytes", bytes));
                    }
                },
                _ => return Err(bad()),
            },
            Data::Bytes(s) => match datum {
                Datum::Text(text) => s.push(text.as_bytes()),
                Datum::Bytes(bytes) => s.push(bytes),
                _ => return Err(bad()),
            },
            Data::Enum(s, names) => {
                let value = datum.integer().ok_or_else(bad)?;
                let name = i16::try_from(value).ok().and_then(|v| names.name_of(v));
                s.push(
                    name.ok_or_else(|| Fault::new(format!("no number of {ty}"), datum.shown().as_bytes()))?
                        .as_bytes(),
                );
            }
            Data::Date(v) => match datum {
                Datum::Time { value, digits } => {
                    let seconds = rescaled(value, digits, 0).ok_or_else(range)?;
                    v.push(seconds.div_euclid(86_400).try_into().map_err(|_| range())?);
                }
                Datum::Date(_) | Datum::Int(_) | Datum::UInt(_) => int!(v),
                _ => return Err(bad()),
            },
            Data::Time(v, kind) => {
                let (value, digits) = match datum {
                    Datum::Time { value, digits } => (value, digits),
                    Datum::Date(days) => (i64::from(days) * 86_400, 0),
                    // A number counts in what the type shows.
                    Datum::Int(_) | Datum::UInt(_) => {
                        (datum.integer().unwrap_or(0).try_into().map_err(|_| range())?, kind.digits)
                    }
                    _ => return Err(bad()),
                };
                let shown = rescaled(value, digits, kind.digits).ok_or_else(range)?;
                v.push(shown.checked_mul(kind.unit_per_tick()).ok_or_else(range)?);
            }
            Data::Uuid(v) => v.extend_from_slice(sixteen(datum).ok_or_else(bad)?),
            Data::Ipv6(v) => v.extend_from_slice(sixteen(datum).ok_or_else(bad)?),
            Data::Ipv4(v) => match datum {
                Datum::Bytes(bytes) => {
                    let bytes: [u8; 4] = bytes.try_into().map_err(|_| bad())?;
                    v.push(u32::from_be_bytes(bytes));
                }
                _ => int!(v),
            },
            Data::Array { .. } | Data::Map { .. } | Data::Tuple { .. } => return Err(bad()),
            Data::Nothing(_) => return Err(Fault::new("a value where only null can be", b"")),
        }
        self.valid();
        Ok(())
    }
}

fn sixteen(datum: Datum<'_>) -> Option<&[u8]> {
    match datum {
        Datum::Bytes(bytes) if bytes.len() == 16 => Some(bytes),
        _ => None,
    }
}

/// The scalar in a row; `None` for arrays, maps and tuples. What has no scalar of its own (enums, UUIDs,
/// addresses) is text, in `scratch`.
pub(crate) fn datum_of<'a>(
    view: &View<'a>,
    row: usize,
    settings: &FormatSettings,
    scratch: &'a mut Vec<u8>,
) -> Option<Datum<'a>> {
    if view.is_null(row) {
        return Some(Datum::Null);
    }
    Some(match &view.data {
        Values::Bool(a) => Datum::Bool(a.value(row)),
        Values::Int8(v) => Datum::Int(v[row].into()),
        Values::Int16(v) => Datum::Int(v[row].into()),
        Values::Int32(v) => Datum::Int(v[row].into()),
        Values::Int64(v) => Datum::Int(v[row]),
        Values::UInt8(v) => Datum::UInt(v[row].into()),
        Values::UInt16(v) => Datum::UInt(v[row].into()),
        Values::UInt32(v) => Datum::UInt(v[row].into()),
        Values::UInt64(v) => Datum::UInt(v[row]),
        Values::Float32(v) => Datum::Float(v[row].into()),
        Values::Float64(v) => Datum::Float(v[row]),
        Values::Decimal { values, scale, .. } => Datum::Decimal { value: values[row], scale: *scale },
        Values::String(a) | Values::Enum(a, _) => Datum::Text(a.value(row)),
        Values::Bytes(a) => Datum::Bytes(a.value(row)),
        Values::Date(v) => Datum::Date(v[row]),
        Values::Time(v, kind) => Datum::Time { value: v[row], digits: kind.unit_digits },
        Values::Uuid(_) | Values::Ipv6(_) | Values::Ipv4(_) => {
            text_of(view, row, settings, scratch);
            Datum::Text(std::str::from_utf8(scratch).unwrap_or_default())
        }
        Values::Nothing => Datum::Null,
        Values::Array { .. } | Values::Map { .. } | Values::Tuple { .. } => return None,
    })
}

/// The text of a value, where a format has nothing but text for it.
pub(crate) fn text_of(view: &View<'_>, row: usize, settings: &FormatSettings, out: &mut Vec<u8>) {
    out.clear();
    Writer::new(Style::Plain, settings).value(view, row, out);
}
