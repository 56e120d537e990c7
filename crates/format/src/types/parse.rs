//! Type names to [`Type`]: both spellings, all aliases, any nesting.

use super::{EnumWidth, Type, TypeError};
use std::sync::Arc;

/// Nesting deeper than this is refused, so that input cannot exhaust the stack.
const DEPTH_MAX: usize = 32;

pub(super) fn parse(text: &str) -> Result<Type, TypeError> {
    let mut p = Parser { text, at: 0, depth: 0 };
    let t = p.data_type()?;
    p.space();
    if p.at != text.len() {
        return Err(p.bad("unexpected text after the type"));
    }
    Ok(t)
}

/// A tuple field name, back-quoted where it is no plain identifier.
pub(super) fn quote_name(name: &str) -> String {
    let plain = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("`{}`", name.replace('`', "\\`")) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn bad(&self, what: impl Into<String>) -> TypeError {
        TypeError::Bad { name: self.text.to_owned(), what: what.into() }
    }
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }
    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }
    fn eat(&mut self, c: char) -> bool {
        self.space();
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }
    fn need(&mut self, c: char) -> Result<(), TypeError> {
        if self.eat(c) { Ok(()) } else { Err(self.bad(format!("expected '{c}' at byte {}", self.at))) }
    }
    fn word(&mut self) -> String {
        self.space();
        let end =
            self.rest().find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest().len());
        let word = self.rest()[..end].to_owned();
        self.at += end;
        word
    }
    fn number(&mut self) -> Result<i64, TypeError> {
        self.space();
        let digits = self.rest().strip_prefix('-').unwrap_or(self.rest());
        let sign = self.rest().len() - digits.len();
        let end = sign + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let n = self.rest()[..end]
            .parse()
            .map_err(|_| self.bad(format!("expected a number at byte {}", self.at)))?;
        self.at += end;
        Ok(n)
    }
    fn quoted(&mut self, quote: char) -> Result<String, TypeError> {
        self.need(quote)?;
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.at += i + c.len_utf8();
                return Ok(out);
            }
            match c {
                '\\' => out.extend(chars.next().map(|(_, c)| c)),
                c => out.push(c),
            }
        }
        Err(self.bad("a quoted name does not end"))
    }

    fn data_type(&mut self) -> Result<Type, TypeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.bad(format!("nested deeper than {DEPTH_MAX}")));
        }
        let name = self.word();
        let has_args = self.eat('(');
        let t = self.named(&name, has_args)?;
        if has_args {
            self.need(')')?;
        }
        self.depth -= 1;
        Ok(t)
    }

    fn named(&mut self, name: &str, args: bool) -> Result<Type, TypeError> {
        let key = name.to_ascii_lowercase().replace('_', "");
        let simple = match key.as_str() {
            "bool" | "boolean" => Some(Type::Bool),
            "int8" | "tinyint" | "int1" => Some(Type::Int8),
            "int16" | "smallint" => Some(Type::Int16),
            "int32" | "int" | "integer" | "mediumint" => Some(Type::Int32),
            "int64" | "bigint" => Some(Type::Int64),
            "uint8" => Some(Type::UInt8),
            "uint16" => Some(Type::UInt16),
            "uint32" | "uint" => Some(Type::UInt32),
            "uint64" => Some(Type::UInt64),
            "float32" | "float" | "real" => Some(Type::Float32),
            "float64" | "double" => Some(Type::Float64),
            "string" | "varchar" | "text" | "char" | "blob" | "utf8" => Some(Type::String),
            "bytes" | "binary" | "varbinary" => Some(Type::Bytes),
            "date" => Some(Type::Date),
            "uuid" => Some(Type::Uuid),
            "ipv4" | "inet4" => Some(Type::Ipv4),
            "ipv6" | "inet6" => Some(Type::Ipv6),
            _ => None,
        };
        if let Some(t) = simple {
            if args {
                // `varchar(20)` is a string; the length is not enforced.
                if t != Type::String {
                    return Err(self.bad(format!("{name} takes no arguments")));
                }
                self.number()?;
            }
            return Ok(t);
        }
        match key.as_str() {
            "datetime" | "timestamp" => {
                let tz = if args { Some(self.zone()?) } else { None };
                Ok(Type::DateTime(tz))
            }
            "datetime64" => {
                if !args {
                    return Ok(Type::DateTime64(3, None));
                }
                let p = self.number()?;
                if !(0..=9).contains(&p) {
                    return Err(self.bad(format!("precision {p} is not between 0 and 9")));
                }
                let tz = if self.eat(',') { Some(self.zone()?) } else { None };
                Ok(Type::DateTime64(p as u8, tz))
            }
            "decimal" | "dec" | "numeric" => {
                let (mut p, mut s) = (10, 0);
                if args {
                    p = self.number()?;
                    if self.eat(',') {
                        s = self.number()?;
                    }
                }
                self.decimal(p, s)
            }
            "decimal32" | "decimal64" | "decimal128" if args => {
                let s = self.number()?;
                self.decimal(
                    match key.as_str() {
                        "decimal32" => 9,
                        "decimal64" => 18,
                        _ => 38,
                    },
                    s,
                )
            }
            "nullable" if args => {
                let inner = self.data_type_or_nothing()?;
                match inner {
                    Type::Nothing => Ok(Type::Nothing),
                    Type::Array(_)
                    | Type::Map(..)
                    | Type::Tuple(_)
                    | Type::Nullable(_)
                    | Type::LowCardinality(_) => Err(self.bad(format!("{inner} can not be nullable"))),
                    t => Ok(Type::Nullable(Box::new(t))),
                }
            }
            "lowcardinality" if args => {
                let inner = self.data_type()?;
                match inner.inner() {
                    Type::Array(_) | Type::Map(..) | Type::Tuple(_) => {
                        Err(self.bad(format!("{inner} can not be low_cardinality")))
                    }
                    _ => Ok(Type::LowCardinality(Box::new(inner))),
                }
            }
            "array" if args => Ok(Type::Array(Box::new(self.data_type()?))),
            "map" if args => {
                let key = self.data_type()?;
                if key.is_nullable() {
                    return Err(self.bad("a map key can not be nullable"));
                }
                self.need(',')?;
                Ok(Type::Map(Box::new(key), Box::new(self.data_type()?)))
            }
            "tuple" if args => self.tuple(),
            "enum8" if args => self.enumeration(Some(EnumWidth::Bits8)),
            "enum16" if args => self.enumeration(Some(EnumWidth::Bits16)),
            "enum" if args => self.enumeration(None),
            "nullable" | "lowcardinality" | "array" | "map" | "tuple" | "enum" | "enum8" | "enum16" => {
                Err(self.bad(format!("{name} needs arguments in parentheses")))
            }
            "int128"
            | "int256"
            | "uint128"
            | "uint256"
            | "decimal256"
            | "fixedstring"
            | "date32"
            | "nested"
            | "json"
            | "object"
            | "point"
            | "ring"
            | "polygon"
            | "multipolygon"
            | "aggregatefunction"
            | "simpleaggregatefunction"
            | "variant"
            | "dynamic"
            | "time"
            | "time64"
            | "bfloat16" => Err(TypeError::NotYet { name: name.to_owned() }),
            _ => Err(TypeError::Unknown {
                name: name.to_owned(),
                hint: weir_base::error::did_you_mean(
                    name,
                    [
                        "string",
                        "int32",
                        "int64",
                        "uint64",
                        "float64",
                        "datetime",
                        "datetime64",
                        "nullable",
                        "array",
                    ],
                ),
            }),
        }
    }

    fn data_type_or_nothing(&mut self) -> Result<Type, TypeError> {
        let start = self.at;
        if self.word().eq_ignore_ascii_case("nothing") {
            return Ok(Type::Nothing);
        }
        self.at = start;
        self.data_type()
    }

    fn zone(&mut self) -> Result<Arc<str>, TypeError> {
        self.space();
        let zone = self.quoted('\'')?;
        if zone.parse::<chrono_tz::Tz>().is_err() {
            return Err(self.bad(format!("unknown time zone '{zone}'")));
        }
        Ok(zone.into())
    }

    fn decimal(&self, p: i64, s: i64) -> Result<Type, TypeError> {
        if !(1..=76).contains(&p) || !(0..=p).contains(&s) {
            return Err(self.bad(format!("decimal({p}, {s}): precision is 1 to 38, scale 0 to precision")));
        }
        if p > 38 {
            return Err(TypeError::NotYet { name: format!("decimal({p}, {s})") });
        }
        Ok(Type::Decimal(p as u8, s as u8))
    }

    fn tuple(&mut self) -> Result<Type, TypeError> {
        let mut fields = Vec::new();
        loop {
            self.space();
            let start = self.at;
            let name = if self.rest().starts_with('`') { self.quoted('`')? } else { self.word() };
            self.space();
            // `name type` or `type`: a name is followed by another word.
            let named = self.rest().chars().next().is_some_and(|c| c.is_ascii_alphabetic());
            if named {
                fields.push((Some(Arc::from(name)), self.data_type()?));
            } else {
                self.at = start;
                fields.push((None, self.data_type()?));
            }
            if !self.eat(',') {
                break;
            }
        }
        let named = fields.iter().filter(|(n, _): &&(Option<Arc<str>>, Type)| n.is_some()).count();
        if named != 0 && named != fields.len() {
            return Err(self.bad("name all fields of a tuple or none"));
        }
        Ok(Type::Tuple(fields.into()))
    }

    fn enumeration(&mut self, width: Option<EnumWidth>) -> Result<Type, TypeError> {
        let mut values: Vec<(Arc<str>, i16)> = Vec::new();
        loop {
            self.space();
            let name: Arc<str> = self.quoted('\'')?.into();
            let value = if self.eat('=') {
                self.number()?
            } else {
                values.last().map_or(1, |(_, v)| i64::from(*v) + 1)
            };
            let value = i16::try_from(value)
                .map_err(|_| self.bad(format!("enum value {value} needs more than 16 bits")))?;
            if values.iter().any(|(n, v)| *n == name || *v == value) {
                return Err(self.bad(format!("enum name '{name}' or value {value} appears twice")));
            }
            values.push((name, value));
            if !self.eat(',') {
                break;
            }
        }
        // By value, as ClickHouse names the type; the least value is the default.
        values.sort_by_key(|(_, v)| *v);
        let fits8 = values.iter().all(|(_, v)| i8::try_from(*v).is_ok());
        let width = width.unwrap_or(if fits8 { EnumWidth::Bits8 } else { EnumWidth::Bits16 });
        if width == EnumWidth::Bits8 && !fits8 {
            return Err(self.bad("enum8 values are -128 to 127; use enum16"));
        }
        Ok(Type::Enum(width, values.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spelling;

    #[test]
    fn names_round_trip_in_both_spellings() {
        let cases = [
            ("Nullable(Int32)", "nullable(int32)"),
            ("int", "int32"),
            ("LowCardinality(Nullable(String))", "low_cardinality(nullable(string))"),
            ("datetime64", "datetime64(3)"),
            ("DateTime64(6, 'Europe/Berlin')", "datetime64(6, 'Europe/Berlin')"),
            ("decimal(10,2)", "decimal(10, 2)"),
            ("Decimal64(4)", "decimal(18, 4)"),
            ("Enum8('a' = 1, 'b')", "enum8('a' = 1, 'b' = 2)"),
            ("enum('x'=300)", "enum16('x' = 300)"),
            ("Tuple(a Int32, `b c` String)", "tuple(a int32, `b c` string)"),
            ("tuple(int8, array(map(string, float64)))", "tuple(int8, array(map(string, float64)))"),
            ("varchar(20)", "string"),
        ];
        for (text, canonical) in cases {
            let t = Type::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(t.to_string(), canonical, "{text}");
            assert_eq!(Type::parse(&t.name(Spelling::Camel)).unwrap(), t, "{text}");
            assert_eq!(Type::of_field(&t.field("c")), Some(t), "{text} through a field");
        }
    }

    #[test]
    fn refusals_name_the_reason() {
        let cases = [
            ("strin", "unknown type strin; did you mean string?"),
            ("int128", "type int128 is not supported yet"),
            ("datetime64(12)", "precision 12 is not between 0 and 9"),
            ("nullable(array(int8))", "array(int8) can not be nullable"),
            ("datetime('Mars/Base')", "unknown time zone 'Mars/Base'"),
            ("array(int8", "expected ')' at byte 10"),
            ("enum8('a' = 200)", "use enum16"),
        ];
        for (text, part) in cases {
            let message = Type::parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        let deep = "array(".repeat(100_000);
        assert!(Type::parse(&deep).is_err());
    }
}
