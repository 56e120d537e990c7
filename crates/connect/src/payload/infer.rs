//! Columns of JSON messages, by a look at some of them.
//!
//! ```text
//! true -> bool    7 -> int64    7, 7.5 -> float64    "a" -> string    [..] -> array    {..} -> string (its text)
//! ```
//!
//! What some messages lack, or hold as null, is nullable; what has several kinds of values is a string.

use serde_json::Value;
use std::collections::BTreeMap;

/// Columns there can be at most.
const COLUMNS_MAX: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Only null so far, or an array without values.
    Unknown,
    Bool,
    Int,
    UInt,
    Float,
    Text,
    Array(Box<Kind>),
}

impl Kind {
    fn of(value: &Value) -> Kind {
        match value {
            Value::Null => Kind::Unknown,
            Value::Bool(_) => Kind::Bool,
            Value::Number(n) if n.is_i64() => Kind::Int,
            Value::Number(n) if n.is_u64() => Kind::UInt,
            Value::Number(_) => Kind::Float,
            Value::String(_) | Value::Object(_) => Kind::Text,
            Value::Array(all) => {
                Kind::Array(Box::new(all.iter().map(Kind::of).fold(Kind::Unknown, Kind::and)))
            }
        }
    }

    /// The kind that holds values of both.
    fn and(self, other: Kind) -> Kind {
        match (self, other) {
            (a, b) if a == b => a,
            (Kind::Unknown, other) | (other, Kind::Unknown) => other,
            (Kind::Array(a), Kind::Array(b)) => Kind::Array(Box::new(a.and(*b))),
            (Kind::Int | Kind::UInt | Kind::Float, Kind::Int | Kind::UInt | Kind::Float) => Kind::Float,
            _ => Kind::Text,
        }
    }

    fn type_name(&self) -> String {
        match self {
            Kind::Bool => "bool".into(),
            Kind::Int => "int64".into(),
            Kind::UInt => "uint64".into(),
            Kind::Float => "float64".into(),
            Kind::Unknown | Kind::Text => "string".into(),
            Kind::Array(of) => format!("array({})", of.type_name()),
        }
    }
}

/// Name and type of each column, in the order in which they are seen first.
///
/// # Errors
/// What is no JSON object, in a line.
pub(crate) fn infer<'a>(
    messages: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<(String, String)>, String> {
    let mut order: Vec<String> = Vec::new();
    let mut kinds: BTreeMap<String, (Kind, usize, bool)> = BTreeMap::new();
    let mut objects = 0;
    for message in messages {
        for value in serde_json::Deserializer::from_slice(message).into_iter::<Value>() {
            let value = value.map_err(|e| format!("a message is no JSON ({e}): {}", start_of(message)))?;
            let Value::Object(fields) = value else {
                return Err(format!("a message is no JSON object: {}", start_of(message)));
            };
            objects += 1;
            for (name, value) in fields {
                let seen = kinds.entry(name.clone()).or_insert_with(|| {
                    order.push(name);
                    (Kind::Unknown, 0, false)
                });
                seen.0 = std::mem::replace(&mut seen.0, Kind::Unknown).and(Kind::of(&value));
                (seen.1, seen.2) = (seen.1 + 1, seen.2 | value.is_null());
            }
            if order.len() > COLUMNS_MAX {
                return Err(format!("messages have more than {COLUMNS_MAX} fields"));
            }
        }
    }
    let column = |name: String| {
        let (kind, times, null) = &kinds[&name];
        let plain = kind.type_name();
        // Arrays are empty instead.
        let nullable = (*null || *times < objects) && !matches!(kind, Kind::Array(_));
        (name, if nullable { format!("nullable({plain})") } else { plain })
    };
    Ok(order.into_iter().map(column).collect())
}

fn start_of(message: &[u8]) -> String {
    String::from_utf8_lossy(message).chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_hold_what_was_seen() {
        let messages: [&[u8]; 3] = [
            br#"{"id": 1, "v": 1, "ok": true, "tags": [], "at": {"x": 1}, "big": 18446744073709551615}"#,
            br#"{"id": 2, "v": 2.5, "ok": null, "tags": ["a"], "at": {}, "big": 1, "mixed": 1} {"id": 3, "mixed": "x"}"#,
            b"",
        ];
        let columns = infer(messages).unwrap();
        let expected = [
            ("at", "nullable(string)"),
            ("big", "nullable(float64)"),
            ("id", "int64"),
            ("mixed", "nullable(string)"),
            ("ok", "nullable(bool)"),
            ("tags", "array(string)"),
            ("v", "nullable(float64)"),
        ];
        let mut sorted = columns.clone();
        sorted.sort();
        assert_eq!(sorted.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect::<Vec<_>>(), expected);
        for (wrong, part) in [(&b"[1]"[..], "no JSON object"), (b"{\"a\":", "no JSON")] {
            assert!(infer([wrong]).unwrap_err().contains(part));
        }
    }
}
