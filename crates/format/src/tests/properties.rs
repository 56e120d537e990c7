//! Properties of all formats: what goes out comes back, any split reads the same, no bytes panic.

use super::*;
use crate::formats;
use arrow_schema::Field;
use proptest::prelude::*;
use std::fmt::Write;

const INPUTS: &[&str] = &[
    "JSONEachRow",
    "JSONCompactEachRow",
    "JSONCompactEachRowWithNames",
    "JSONCompactEachRowWithNamesAndTypes",
    "CSV",
    "CSVWithNames",
    "CSVWithNamesAndTypes",
    "TabSeparated",
    "TabSeparatedWithNames",
    "TabSeparatedWithNamesAndTypes",
    "RowBinary",
    "RowBinaryWithNames",
    "RowBinaryWithNamesAndTypes",
    "Native",
    "ArrowStream",
    "Avro",
    "Parquet",
    "Values",
];

/// The batch with names that a format has: those of Avro are letters and digits.
fn named_for(format: &str, batch: &RecordBatch) -> RecordBatch {
    if format != "Avro" {
        return batch.clone();
    }
    let named = |(i, f): (usize, &Arc<Field>)| f.as_ref().clone().with_name(format!("c{i}"));
    let fields: Vec<Field> = batch.schema().fields().iter().enumerate().map(named).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).unwrap()
}

/// What a format has no room for: Avro's integers have a sign.
fn has_no_room(format: &str, e: &FormatError) -> bool {
    format == "Avro" && e.to_string().contains("out of range of long")
}

#[test]
fn every_input_format_is_tested_here() {
    let inputs: Vec<_> = formats().iter().filter(|f| f.input).map(|f| f.name).collect();
    let mut listed = INPUTS.to_vec();
    listed.sort_by_key(|n| inputs.iter().position(|i| i == n));
    assert_eq!(listed, inputs);
}

/// A type and, from a seed, literals of its values.
fn any_type() -> impl Strategy<Value = String> {
    let scalar = prop::sample::select(vec![
        "bool",
        "int8",
        "int64",
        "uint16",
        "uint64",
        "float32",
        "float64",
        "decimal(9, 3)",
        "decimal(38, 12)",
        "string",
        "date",
        "datetime",
        "datetime('America/New_York')",
        "datetime64(1)",
        "datetime64(3, 'Asia/Kolkata')",
        "datetime64(9)",
        "uuid",
        "ipv4",
        "ipv6",
        "enum8('a' = -1, 'it\\'s' = 5)",
        "enum16('x' = 1000, 'y' = 1)",
    ])
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        4 => scalar.clone(),
        1 => scalar.clone().prop_map(|t| format!("nullable({t})")),
        1 => scalar.clone().prop_map(|t| format!("low_cardinality({t})")),
        1 => scalar.prop_map(|t| format!("low_cardinality(nullable({t}))")),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|t| format!("array({t})")),
            inner.clone().prop_map(|t| format!("map(string, {t})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("tuple({a}, {b})")),
            inner.prop_map(|t| format!("tuple(only {t})")),
        ]
    })
}

/// Small steps of a fixed generator: a value needs many random choices, and shrinking them one
/// by one helps no one.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % n
    }
}

fn literal(t: &Type, d: &mut Dice, out: &mut String) {
    let bits = |d: &mut Dice| d.roll(u64::MAX) >> d.roll(64);
    match t {
        Type::Bool => out.push_str(["true", "false"][d.roll(2) as usize]),
        Type::Int8 => write!(out, "{}", bits(d) as i8).unwrap(),
        Type::Int64 => write!(out, "{}", bits(d) as i64).unwrap(),
        Type::UInt16 => write!(out, "{}", bits(d) as u16).unwrap(),
        Type::UInt64 => write!(out, "{}", bits(d)).unwrap(),
        Type::Float32 => {
            let v = f32::from_bits(bits(d) as u32);
            write!(out, "{}", if v.is_finite() { v } else { 1.5 }).unwrap();
        }
        Type::Float64 => {
            let v = f64::from_bits(bits(d));
            write!(out, "{}", if v.is_finite() { v } else { -0.1 }).unwrap();
        }
        Type::Decimal(p, s) => {
            let v = i128::from(bits(d) as i64) % 10i128.pow(u32::from(*p));
            let unit = 10i128.pow(u32::from(*s));
            let sign = if v < 0 { "-" } else { "" };
            write!(out, "{sign}{}.{:0w$}", v.abs() / unit, v.abs() % unit, w = usize::from(*s)).unwrap();
        }
        Type::String => {
            let letters = [
                "", "a", "'", "\"", "\\", "\n", "\t", "\r", "é", "日", ",", "\0", "/", " ", "N", "{",
                "\u{2028}", "1",
            ];
            let text: String =
                (0..d.roll(6)).map(|_| letters[d.roll(letters.len() as u64) as usize]).collect();
            let text = text.replace('\\', "\\\\").replace('\'', "\\'");
            write!(out, "'{text}'").unwrap();
        }
        Type::Date => {
            write!(out, "'{:04}-{:02}-{:02}'", 1970 + d.roll(150), 1 + d.roll(12), 1 + d.roll(28)).unwrap()
        }
        // Not in the hour that New York's clocks have twice in autumn: its text says not which one is meant.
        Type::DateTime(_) => {
            let v = (bits(d) as u32).min(u32::MAX - 86_400);
            write!(out, "{}", v - v % 86_400 + 28_800 + v % 57_600).unwrap();
        }
        // Every tick of the declared precision, as long as nanoseconds hold the year.
        Type::DateTime64(p, _) => {
            write!(out, "{}", (bits(d) as i64 % 4_000_000_000) * 10i64.pow(u32::from(*p).min(9))).unwrap()
        }
        Type::Uuid => write!(out, "'{}'", uuid::Uuid::from_u64_pair(bits(d), bits(d))).unwrap(),
        Type::Ipv4 => write!(out, "'{}'", std::net::Ipv4Addr::from(bits(d) as u32)).unwrap(),
        Type::Ipv6 => {
            let v = u128::from(bits(d)) << 64 | u128::from(bits(d));
            write!(out, "'{}'", std::net::Ipv6Addr::from(v)).unwrap();
        }
        Type::Enum(_, names) => {
            let name = &names[d.roll(names.len() as u64) as usize].0;
            write!(out, "'{}'", name.replace('\'', "\\'")).unwrap();
        }
        Type::Array(t) => {
            out.push('[');
            for i in 0..d.roll(4) {
                out.push_str(if i > 0 { "," } else { "" });
                literal(t, d, out);
            }
            out.push(']');
        }
        Type::Map(k, v) => {
            out.push('{');
            for i in 0..d.roll(3) {
                out.push_str(if i > 0 { "," } else { "" });
                literal(k, d, out);
                out.push(':');
                literal(v, d, out);
            }
            out.push('}');
        }
        Type::Tuple(fields) => {
            out.push('(');
            for (i, (_, t)) in fields.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                literal(t, d, out);
            }
            out.push_str(if fields.len() == 1 { ",)" } else { ")" });
        }
        Type::Nullable(t) if d.roll(3) > 0 => literal(t, d, out),
        Type::Nullable(_) => out.push_str("NULL"),
        Type::LowCardinality(t) => literal(t, d, out),
        other => panic!("no literals of {other}"),
    }
}

fn any_batch() -> impl Strategy<Value = RecordBatch> {
    (prop::collection::vec(any_type(), 1..5), 0usize..20, 1u64..).prop_map(|(types, rows, seed)| {
        let names = ["a", "b.c", "d e\"", "ü", "f"];
        let columns: Vec<_> = names.into_iter().zip(types.iter().map(String::as_str)).collect();
        let parsed: Vec<Type> = types.iter().map(|t| Type::parse(t).unwrap()).collect();
        let mut dice = Dice(seed);
        let mut text = String::new();
        for _ in 0..rows {
            text.push('(');
            for (i, t) in parsed.iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                literal(t, &mut dice, &mut text);
            }
            text.push(')');
        }
        let s = FormatSettings::default();
        decode_all("Values", &schema(&columns), text.as_bytes(), &s).unwrap_or_else(|e| panic!("{e}: {text}"))
    })
}

/// Parts of `bytes` at cuts given as fractions.
fn parts<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let mut from = 0;
    let mut parts = Vec::new();
    for to in at.into_iter().chain([bytes.len()]) {
        parts.push(&bytes[from..to]);
        from = to;
    }
    parts
}

/// So many cases, or as `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { usual };
    ProptestConfig { cases, ..config }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn what_goes_out_comes_back(batch in any_batch(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6), camel_case in any::<bool>(), quote in any::<bool>(), rows_max in 1usize..30) {
        let s = FormatSettings {
            spelling: if camel_case { Spelling::Camel } else { Spelling::Lower },
            json_quote_64bit_integers: quote,
            ..FormatSettings::default()
        };
        for format in INPUTS {
            let batch = named_for(format, &batch);
            let bytes = match encode(format, &batch, &s) {
                Err(e) if has_no_room(format, &e) => continue,
                encoded => encoded.unwrap_or_else(|e| panic!("{format}: {e}")),
            };
            let back = decode_split(format, &batch.schema(), &parts(&bytes, &cuts), &s, rows_max)
                .unwrap_or_else(|e| panic!("{format}: {e}\n{}", String::from_utf8_lossy(&bytes)));
            prop_assert_eq!(back.num_rows(), batch.num_rows(), "{}", format);
            prop_assert_eq!(&back, &batch, "{}: {}", format, String::from_utf8_lossy(&bytes));
        }
    }

    /// Files with a byte or two changed, and noise: an answer or an error, never a panic.
    #[test]
    fn no_bytes_panic(batch in any_batch(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), noise in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let s = FormatSettings { row_bytes_max: 1 << 20, body_bytes_max: 1 << 20, ..FormatSettings::default() };
        for format in INPUTS {
            let batch = named_for(format, &batch);
            let mut bytes = match encode(format, &batch, &s) {
                Err(e) if has_no_room(format, &e) => continue,
                encoded => encoded.unwrap(),
            };
            if !bytes.is_empty() {
                for (at, v) in &flips {
                    let at = at.index(bytes.len());
                    bytes[at] = *v;
                }
            }
            let whole = decode_all(format, &batch.schema(), &bytes, &s);
            let at = cut.index(bytes.len() + 1);
            let split = decode_split(format, &batch.schema(), &[&bytes[..at], &bytes[at..]], &s, usize::MAX);
            if !matches!(*format, "ArrowStream" | "Parquet" | "Avro") {
                // The text an error shows ends where the input so far does.
                prop_assert_eq!(whole.ok(), split.ok(), "{}", format);
            }
            let _ = decode_all(format, &batch.schema(), &noise, &s);
            let _ = decode_all(format, &batch.schema(), &bytes[..at], &s);
        }
    }
}
