//! Text. Lengths and positions count as the function's name says: `length` in bytes,
//! `length_utf8` and `substr` in characters, since a string is always UTF-8.

use crate::scalar::{Args, Call, Scalar, Want, args, bad_value, many, map_str, opt};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListBuilder, PrimitiveArray, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, UInt64Type};
use base64::Engine;
use datafusion::common::Result;
use std::sync::Arc;
use weir_format::types::Type;

const S: Args = args(&[Want::Str]);
const SS: Args = args(&[Want::Str, Want::Str]);
const SSS: Args = args(&[Want::Str, Want::Str, Want::Str]);

fn text(name: &'static str, aliases: &[&str], docs: &'static str, f: fn(&str) -> String) -> Scalar {
    Scalar::new(name, "f(s)", docs, S, Type::String, move |call| Ok(map_str(call, 0, f))).aliases(aliases)
}

fn test2(name: &'static str, aliases: &[&str], docs: &'static str, f: fn(&str, &str) -> bool) -> Scalar {
    Scalar::new(name, "f(s, t)", docs, SS, Type::Bool, move |call| {
        let pairs = call.str(0).iter().zip(call.str(1));
        Ok(Arc::new(pairs.map(|(a, b)| Some(f(a?, b?))).collect::<BooleanArray>()))
    })
    .aliases(aliases)
}

fn count(name: &'static str, aliases: &[&str], docs: &'static str, f: fn(&str) -> u64) -> Scalar {
    Scalar::new(name, "f(s)", docs, S, Type::UInt64, move |call| {
        Ok(Arc::new(call.str(0).iter().map(|s| s.map(f)).collect::<PrimitiveArray<UInt64Type>>()))
    })
    .aliases(aliases)
}

fn replace(name: &'static str, docs: &'static str, f: fn(&str, &str, &str) -> String) -> Scalar {
    Scalar::new(name, "f(s, from, to)", docs, SSS, Type::String, move |call| {
        let (s, from, to) = (call.str(0), call.str(1), call.str(2));
        let rows = (0..call.rows).map(|i| {
            let there = s.is_valid(i) && from.is_valid(i) && to.is_valid(i);
            there.then(|| {
                if from.value(i).is_empty() {
                    s.value(i).to_owned()
                } else {
                    f(s.value(i), from.value(i), to.value(i))
                }
            })
        });
        Ok(Arc::new(rows.collect::<StringArray>()))
    })
}

/// A constant pattern is compiled once for the batch; patterns that vary are compiled by row.
fn with_regex<T>(
    call: &Call,
    pattern_at: usize,
    mut f: impl FnMut(usize, &regex::Regex, &str) -> T,
) -> Result<Vec<Option<T>>> {
    let compile = |p: &str| {
        // The size limit bounds memory for hostile patterns; matching is linear in any case.
        regex::RegexBuilder::new(p)
            .size_limit(4 << 20)
            .build()
            .map_err(|e| bad_value(format!("bad regular expression '{p}': {e}")))
    };
    let constant =
        call.constant_str(pattern_at, "pattern").ok().flatten().map(|p| compile(&p)).transpose()?;
    let (texts, patterns) = (call.str(0), call.str(pattern_at));
    (0..call.rows)
        .map(|i| {
            if texts.is_null(i) || patterns.is_null(i) {
                return Ok(None);
            }
            Ok(Some(match &constant {
                Some(re) => f(i, re, texts.value(i)),
                None => f(i, &compile(patterns.value(i))?, texts.value(i)),
            }))
        })
        .collect()
}

fn regexes() -> Vec<Scalar> {
    let replace_regex = |name: &'static str, limit: usize, docs: &'static str| {
        Scalar::new(name, "f(s, pattern, to)", docs, SSS, Type::String, move |call| {
            let to = call.str(2);
            let rows = with_regex(call, 1, |i, re, s| {
                // `\1` in replacements is written `${1}` by the regex crate.
                let target = if to.is_null(i) { String::new() } else { backslash_groups(to.value(i)) };
                re.replacen(s, limit, target.as_str()).into_owned()
            })?;
            Ok(Arc::new(rows.into_iter().collect::<StringArray>()))
        })
    };
    vec![
        Scalar::new(
            "match",
            "match(s, pattern)",
            "whether the pattern is found in s",
            SS,
            Type::Bool,
            |call| {
                Ok(Arc::new(
                    with_regex(call, 1, |_, re, s| re.is_match(s))?.into_iter().collect::<BooleanArray>(),
                ))
            },
        ),
        Scalar::new(
            "extract",
            "extract(s, pattern)",
            "the first group of the first match, '' without one",
            SS,
            Type::String,
            |call| {
                let rows = with_regex(call, 1, |_, re, s| {
                    let Some(found) = re.captures(s) else { return String::new() };
                    found
                        .get(if found.len() > 1 { 1 } else { 0 })
                        .map_or(String::new(), |m| m.as_str().to_owned())
                })?;
                Ok(Arc::new(rows.into_iter().collect::<StringArray>()))
            },
        ),
        Scalar::new(
            "extract_all",
            "extract_all(s, pattern)",
            "the first group of every match",
            SS,
            Type::Array(Box::new(Type::String)),
            |call| {
                let rows = with_regex(call, 1, |_, re, s| {
                    re.captures_iter(s)
                        .filter_map(|c| c.get(if c.len() > 1 { 1 } else { 0 }).map(|m| m.as_str().to_owned()))
                        .collect::<Vec<_>>()
                })?;
                Ok(string_lists(rows))
            },
        ),
        replace_regex("replace_regex", 0, "every match replaced; \\1 to \\9 are groups")
            .aliases(&["replace_regexp_all"]),
        replace_regex("replace_regexp_one", 1, "the first match replaced"),
    ]
}

fn backslash_groups(to: &str) -> String {
    let mut out = String::with_capacity(to.len());
    let mut chars = to.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(d) if d.is_ascii_digit() => out.push_str(&format!("${{{d}}}")),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

/// A list of non-nullable strings a row; a missing row is an empty list.
pub(crate) fn string_lists(rows: Vec<Option<Vec<String>>>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(Type::String.field("item"));
    for row in rows {
        for s in row.into_iter().flatten() {
            builder.values().append_value(s);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn split(name: &'static str, docs: &'static str) -> Scalar {
    Scalar::new(name, "f(separator, s)", docs, SS, Type::Array(Box::new(Type::String)), |call| {
        let rows = call.str(0).iter().zip(call.str(1)).map(|(by, s)| {
            let (by, s) = (by?, s?);
            Some(if s.is_empty() {
                Vec::new()
            } else if by.is_empty() {
                s.chars().map(String::from).collect()
            } else {
                s.split(by).map(str::to_owned).collect()
            })
        });
        Ok(string_lists(rows.collect()))
    })
}

/// Characters `from` (from 1, negative counts from the end) on, at most `count`.
fn substring(s: &str, from: i64, count: Option<i64>) -> String {
    let n = s.chars().count() as i64;
    let start = match from {
        0 => return String::new(),
        f if f > 0 => f - 1,
        f => n + f,
    };
    let end = match count {
        None => n,
        Some(c) if c < 0 => n + c,
        Some(c) => start.saturating_add(c),
    };
    let (start, end) = (start.clamp(0, n), end.clamp(0, n));
    s.chars().skip(start as usize).take((end - start).max(0) as usize).collect()
}

fn unhex(s: &str) -> String {
    let digits: Vec<u8> = s.bytes().filter_map(|b| (b as char).to_digit(16).map(|d| d as u8)).collect();
    let bytes: Vec<u8> =
        digits.chunks(2).map(|p| if p.len() == 2 { p[0] * 16 + p[1] } else { p[0] }).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex() -> Scalar {
    Scalar::new(
        "hex",
        "hex(x)",
        "the bytes in hexadecimal; integers from the highest byte that is not zero",
        args(&[Want::Any]),
        Type::String,
        |call| {
            let rows: StringArray = match call.args[0].data_type() {
                DataType::Utf8 => call.str(0).iter().map(|s| s.map(|s| hex_of(s.as_bytes()))).collect(),
                DataType::Binary => call.args[0].as_binary::<i32>().iter().map(|s| s.map(hex_of)).collect(),
                DataType::FixedSizeBinary(_) => {
                    call.args[0].as_fixed_size_binary().iter().map(|s| s.map(hex_of)).collect()
                }
                _ => {
                    let wide = arrow::compute::cast(&call.args[0], &DataType::UInt64)?;
                    let wide = wide.as_primitive::<UInt64Type>();
                    wide.iter()
                        .map(|v| {
                            v.map(|v| {
                                let bytes = v.to_be_bytes();
                                hex_of(&bytes[(v.leading_zeros() as usize / 8).min(7)..])
                            })
                        })
                        .collect()
                }
            };
            Ok(Arc::new(rows))
        },
    )
}

pub(crate) fn hex_of(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        write!(out, "{b:02X}").expect("writing to a String cannot fail");
        out
    })
}

fn concat() -> Scalar {
    Scalar::new(
        "concat",
        "concat(a, b, …)",
        "one after the other; anything is turned into text",
        many(&[Want::Any]),
        Type::String,
        |call| {
            let texts = call
                .args
                .iter()
                .zip(&call.fields)
                .map(|(a, f)| crate::convert::to_text(a, f))
                .collect::<Result<Vec<_>>>()?;
            let texts: Vec<&StringArray> = texts.iter().map(|t| t.as_string::<i32>()).collect();
            let mut out = StringBuilder::with_capacity(call.rows, call.rows * 16);
            for i in 0..call.rows {
                use std::fmt::Write;
                for t in texts.iter().filter(|t| t.is_valid(i)) {
                    out.write_str(t.value(i)).expect("writing to a builder cannot fail");
                }
                out.append_value("");
            }
            Ok(Arc::new(out.finish()))
        },
    )
}

pub(crate) fn functions() -> Vec<Scalar> {
    let mut all = vec![
        text("lower", &["lower_utf8", "lcase"], "in lower case", str::to_lowercase),
        text("upper", &["upper_utf8", "ucase"], "in upper case", str::to_uppercase),
        text("reverse", &["reverse_utf8"], "characters from last to first", |s| s.chars().rev().collect()),
        text("unhex", &[], "bytes from hexadecimal digits", unhex),
        text("base64_encode", &["to_base64"], "in base 64", |s| {
            base64::engine::general_purpose::STANDARD.encode(s)
        }),
        Scalar::new("base64_decode", "base64_decode(s)", "from base 64", S, Type::String, |call| {
            let rows = call.str(0).iter().map(|s| {
                s.map(|s| {
                    base64::engine::general_purpose::STANDARD
                        .decode(s)
                        .map(|b| String::from_utf8_lossy(&b).into_owned())
                        .map_err(|e| bad_value(format!("'{s}' is not base 64: {e}")))
                })
                .transpose()
            });
            Ok(Arc::new(rows.collect::<Result<StringArray>>()?))
        })
        .aliases(&["from_base64"]),
        count("length_utf8", &["char_length", "character_length"], "length in characters", |s| {
            s.chars().count() as u64
        }),
        test2("starts_with", &[], "whether s begins with t", |s, t| s.starts_with(t)),
        test2("ends_with", &[], "whether s ends with t", |s, t| s.ends_with(t)),
        test2("has_substring", &[], "whether s contains t", |s, t| s.contains(t)),
        replace("replace_all", "every occurrence replaced", |s, from, to| s.replace(from, to))
            .aliases(&["replace"]),
        replace("replace_one", "the first occurrence replaced", |s, from, to| s.replacen(from, to, 1)),
        split("split_by_string", "parts between separators"),
        split("split_by_char", "parts between separators"),
        hex(),
        concat(),
        Scalar::new(
            "substr",
            "substr(s, from[, count])",
            "characters from position 1 on; negative counts from the end",
            opt(&[Want::Str, Want::Int, Want::Int], 1),
            Type::String,
            |call| {
                let s = call.str(0);
                let rows = (0..call.rows).map(|i| {
                    s.is_valid(i).then(|| {
                        substring(
                            s.value(i),
                            call.int(1).value(i),
                            call.args.get(2).map(|_| call.int(2).value(i)),
                        )
                    })
                });
                Ok(Arc::new(rows.collect::<StringArray>()))
            },
        )
        .aliases(&["substring", "substr_utf8", "substring_utf8", "mid"]),
        Scalar::new(
            "repeat",
            "repeat(s, n)",
            "s, n times; at most 16 MiB",
            args(&[Want::Str, Want::Int]),
            Type::String,
            |call| {
                let rows = call.str(0).iter().zip(call.int(1)).map(|(s, n)| {
                    let (Some(s), Some(n)) = (s, n) else { return Ok(None) };
                    let n = n.max(0) as usize;
                    if s.len().saturating_mul(n) > 16 << 20 {
                        return Err(bad_value(format!(
                            "repeat would make {} bytes, more than 16777216",
                            s.len().saturating_mul(n)
                        )));
                    }
                    Ok(Some(s.repeat(n)))
                });
                Ok(Arc::new(rows.collect::<Result<StringArray>>()?))
            },
        ),
        Scalar::new(
            "position",
            "position(s, t)",
            "where t begins in s, from 1, in bytes; 0 if nowhere",
            SS,
            Type::UInt64,
            |call| {
                let rows = call
                    .str(0)
                    .iter()
                    .zip(call.str(1))
                    .map(|(s, t)| Some(s?.find(t?).map_or(0, |p| p as u64 + 1)));
                Ok(Arc::new(rows.collect::<PrimitiveArray<UInt64Type>>()))
            },
        )
        .aliases(&["locate", "strpos"]),
    ];
    all.extend(regexes());
    all
}
