//! Every type in every format against bytes that a real ClickHouse wrote (`testdata/make.py`).

use crate::types::Type;
use crate::{FormatError, FormatSettings, ResultStats, Spelling, decoder, encoder};
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use std::sync::Arc;

pub(crate) fn camel() -> FormatSettings {
    FormatSettings { spelling: Spelling::Camel, ..FormatSettings::default() }
}

pub(crate) fn schema(columns: &[(&str, &str)]) -> SchemaRef {
    let fields: Vec<_> =
        columns.iter().map(|(n, t)| Type::parse(t).unwrap_or_else(|e| panic!("{t}: {e}")).field(n)).collect();
    Arc::new(Schema::new(fields))
}

/// The schema of the files in testdata.
pub(crate) fn all_types() -> SchemaRef {
    let text = include_str!("../testdata/types");
    let columns: Vec<_> = text.lines().map(|l| l.split_once('\t').expect("name, tab, type")).collect();
    schema(&columns)
}

pub(crate) fn decode_all(
    format: &str,
    schema: &SchemaRef,
    input: &[u8],
    s: &FormatSettings,
) -> Result<RecordBatch, FormatError> {
    decode_split(format, schema, &[input], s, usize::MAX)
}

/// Decodes the parts as pushed one by one.
pub(crate) fn decode_split(
    format: &str,
    schema: &SchemaRef,
    parts: &[&[u8]],
    s: &FormatSettings,
    rows_max: usize,
) -> Result<RecordBatch, FormatError> {
    let mut d = decoder(format, schema.clone(), s)?;
    let mut batches = Vec::new();
    for part in parts {
        d.push(Bytes::copy_from_slice(part))?;
        while let Some(b) = d.next_batch(rows_max)? {
            batches.push(b.batch);
        }
    }
    d.finish()?;
    while let Some(b) = d.next_batch(rows_max)? {
        batches.push(b.batch);
    }
    Ok(arrow_select::concat::concat_batches(schema, &batches).expect("batches of one schema"))
}

pub(crate) fn encode(format: &str, batch: &RecordBatch, s: &FormatSettings) -> Result<Vec<u8>, FormatError> {
    let mut e = encoder(format, batch.schema(), s)?;
    let mut out = Vec::new();
    e.begin(&mut out)?;
    e.batch(batch, &mut out)?;
    e.end(&ResultStats::default(), &mut out)?;
    Ok(out)
}

fn file(name: &str) -> &'static [u8] {
    macro_rules! files {
        ($($n:literal)*) => {
            match name {
                $($n => include_bytes!(concat!("../testdata/", $n)),)*
                other => panic!("no file {other}"),
            }
        };
    }
    files!("JSONEachRow" "JSONCompactEachRow" "JSONCompactEachRowWithNames"
        "JSONCompactEachRowWithNamesAndTypes" "CSV" "CSVWithNames" "CSVWithNamesAndTypes" "TabSeparated"
        "TabSeparatedWithNames" "TabSeparatedWithNamesAndTypes" "RowBinary" "RowBinaryWithNames"
        "RowBinaryWithNamesAndTypes" "Native" "Values" "ArrowStream" "Parquet")
}

/// Formats that carry every type both ways.
pub(crate) const EXACT: &[&str] = &[
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
    "Values",
    "Native",
];

pub(crate) fn sample() -> RecordBatch {
    decode_all("RowBinary", &all_types(), file("RowBinary"), &camel()).expect("a file of ClickHouse")
}

#[track_caller]
fn same_columns(a: &RecordBatch, b: &RecordBatch, what: &str) {
    for (i, field) in a.schema().fields().iter().enumerate() {
        assert_eq!(a.column(i), b.column(i), "{what}: {}", field.name());
    }
}

#[test]
fn reads_and_writes_what_clickhouse_writes() {
    let sample = sample();
    assert_eq!(sample.num_rows(), 3);
    for format in EXACT {
        let bytes = file(format);
        let batch =
            decode_all(format, &all_types(), bytes, &camel()).unwrap_or_else(|e| panic!("{format}: {e}"));
        same_columns(&batch, &sample, format);
        let out = encode(format, &sample, &camel()).unwrap();
        if out != bytes {
            panic!(
                "{format}\nours   {}\ntheirs {}",
                String::from_utf8_lossy(&out),
                String::from_utf8_lossy(bytes)
            );
        }
    }
}

#[test]
fn reads_files_of_other_types() {
    let sample = sample();
    for format in ["ArrowStream", "Parquet"] {
        let batch = decode_all(format, &all_types(), file(format), &camel())
            .unwrap_or_else(|e| panic!("{format}: {e}"));
        same_columns(&batch, &sample, format);
        let ours = encode(format, &sample, &camel()).unwrap_or_else(|e| panic!("{format}: {e}"));
        let back =
            decode_all(format, &all_types(), &ours, &camel()).unwrap_or_else(|e| panic!("{format}: {e}"));
        same_columns(&back, &sample, format);
    }
}

#[test]
fn native_blocks_at_the_revision_of_a_client() {
    let s = FormatSettings { native_revision: 54_405, ..camel() };
    let one = decode_all("Values", &schema(&[("check", "uint8")]), b"(1)", &s).unwrap();
    let out = encode("Native", &one, &s).unwrap();
    assert_eq!(out, b"\x01\x00\x02\xff\xff\xff\xff\x00\x01\x01\x05check\x05UInt8\x01");
    let s = FormatSettings { native_revision: 54_454, ..camel() };
    let out = encode("Native", &one, &s).unwrap();
    assert_eq!(&out[8..], b"\x01\x01\x05check\x05UInt8\x00\x01");
}

/// What the input of a format gave, or the message it was refused with.
fn outcome(format: &str, columns: &[(&str, &str)], input: &[u8], s: &FormatSettings) -> String {
    match decode_all(format, &schema(columns), input, s) {
        Ok(batch) => String::from_utf8_lossy(&encode("Values", &batch, s).unwrap()).into_owned(),
        Err(e) => format!("error: {e}"),
    }
}

#[test]
fn values_of_text_formats() {
    let s = FormatSettings::default();
    let strict = FormatSettings { skip_unknown_fields: false, null_as_default: false, ..s.clone() };
    let one = |t: &'static str| [("x", t)];
    // (format, type, input, expected)
    let cases: &[(&str, &'static str, &str, &str)] = &[
        // Rows may be separated by anything or stand in an array.
        ("JSONEachRow", "int8", "{\"x\":1}{\"x\":2},\n{\"x\":3}", "(1),(2),(3)"),
        ("JSONEachRow", "int8", "[{\"x\":1}, {\"x\":2}]\n", "(1),(2)"),
        ("JSONEachRow", "int8", "", ""),
        ("JSONEachRow", "int8", "{ \"y\" : {\"a\":[1,\"]\\\"\"]} , \"x\" : 5 }", "(5)"),
        ("JSONEachRow", "int8", "{}", "(0)"),
        ("JSONEachRow", "int8", "{\"x\":null}", "(0)"),
        ("JSONEachRow", "nullable(int8)", "{\"x\":null}", "(NULL)"),
        ("JSONEachRow", "uint64", "{\"x\":\"18446744073709551615\"}", "(18446744073709551615)"),
        ("JSONEachRow", "uint64", "{\"x\":18446744073709551615}", "(18446744073709551615)"),
        (
            "JSONEachRow",
            "decimal(38, 10)",
            "{\"x\":1234567890123456789.0123456789}",
            "(1234567890123456789.0123456789)",
        ),
        ("JSONEachRow", "float64", "{\"x\":1e3}", "(1000)"),
        ("JSONEachRow", "float64", "{\"x\":\"nan\"}", "(nan)"),
        ("JSONEachRow", "float64", "{\"x\":-0.25}", "(-0.25)"),
        ("JSONEachRow", "bool", "{\"x\":true}", "(true)"),
        ("JSONEachRow", "bool", "{\"x\":0}", "(false)"),
        ("JSONEachRow", "uint8", "{\"x\":true}", "(1)"),
        ("JSONEachRow", "string", "{\"x\":\"\\u00e9\\ud83d\\ude00\\n\"}", "('é😀\\n')"),
        ("JSONEachRow", "string", "{\"x\":[1, {\"a\":2}]}", "('[1, {\"a\":2}]')"),
        ("JSONEachRow", "string", "{\"x\":1.50}", "('1.50')"),
        ("JSONEachRow", "map(int8, string)", "{\"x\":{\"1\":\"a\"}}", "({1:'a'})"),
        ("JSONEachRow", "tuple(a int8, b string)", "{\"x\":{\"b\":\"q\"}}", "((0,'q'))"),
        ("JSONEachRow", "tuple(a int8, b string)", "{\"x\":[3,\"q\"]}", "((3,'q'))"),
        ("JSONEachRow", "datetime", "{\"x\":1704164645}", "('2024-01-02 03:04:05')"),
        ("JSONEachRow", "datetime", "{\"x\":\"2024-01-02T03:04:05Z\"}", "('2024-01-02 03:04:05')"),
        (
            "JSONEachRow",
            "datetime('Asia/Tokyo')",
            "{\"x\":\"2024-01-02T03:04:05+01:00\"}",
            "('2024-01-02 11:04:05')",
        ),
        ("JSONEachRow", "datetime64(3)", "{\"x\":1704164645678}", "('2024-01-02 03:04:05.678')"),
        ("JSONEachRow", "datetime64(3)", "{\"x\":1704164645}", "('2024-01-02 03:04:05.000')"),
        ("JSONEachRow", "datetime64(3)", "{\"x\":1704164645.678}", "('2024-01-02 03:04:05.678')"),
        ("JSONEachRow", "datetime64(3)", "{\"x\":\"1704164645\"}", "('2024-01-02 03:04:05.000')"),
        (
            "JSONEachRow",
            "datetime64(3)",
            "{\"x\":\"2024-01-02 03:04:05.6789\"}",
            "('2024-01-02 03:04:05.678')",
        ),
        ("JSONEachRow", "datetime64(1)", "{\"x\":\"2024-01-02 03:04:05.678\"}", "('2024-01-02 03:04:05.6')"),
        (
            "JSONEachRow",
            "date",
            "{\"x\":\"2024-02-30\"}",
            "error: row 1, column x: can not be read as date, at '2024-02-30'",
        ),
        ("JSONEachRow", "date", "{\"x\":\"1950-05-06\"}", "('1950-05-06')"),
        ("JSONEachRow", "enum8('a' = 1)", "{\"x\":1}", "('a')"),
        (
            "JSONEachRow",
            "enum8('a' = 1)",
            "{\"x\":\"b\"}",
            "error: row 1, column x: no name of enum8('a' = 1), at 'b'",
        ),
        (
            "JSONEachRow",
            "int8",
            "{\"x\":1}\n{\"x\":300}",
            "error: row 2, column x: out of range of int8, at '300'",
        ),
        (
            "JSONEachRow",
            "int8",
            "{\"x\":\"one\"}",
            "error: row 1, column x: can not be read as int8, at 'one'",
        ),
        ("JSONEachRow", "int8", "{\"x\":1.5}", "error: row 1, column x: can not be read as int8, at '1.5'"),
        ("JSONEachRow", "int8", "{\"x\":1,\"x\":2}", "error: row 1: field appears twice, at 'x'"),
        ("JSONEachRow", "int8", "{\"x\":1", "error: the input ends in the middle of row 1"),
        ("JSONEachRow", "int8", "{\"x\":1}\n{\"x\"", "error: the input ends in the middle of row 2"),
        ("JSONEachRow", "int8", "{\"x\" 1}", "error: row 1: expected ':', at '1}'"),
        (
            "JSONEachRow",
            "array(int8)",
            "{\"x\":[1,\"a\"]}",
            "error: row 1, column x: can not be read as int8, at 'a'",
        ),
        ("JSONCompactEachRow", "array(int8)", "[[1]]\n[[]]", "([1]),([])"),
        ("JSONCompactEachRow", "int8", "[1,2]", "error: row 1: expected ']', at ',2]'"),
        ("CSV", "string", "a b \n\"q\"\"r\"\r\n'x'\n", "('a b'),('q\"r'),('\\'x\\'')"),
        ("CSV", "nullable(string)", "\\N\n\"\\N\"\nNULL\n", "(NULL),('\\\\N'),('NULL')"),
        ("CSV", "nullable(int8)", "NULL\n5", "(NULL),(5)"),
        ("CSV", "int8", "\"1\"\n 2 \n", "(1),(2)"),
        ("CSV", "int8", "1,2\n", "error: row 1: more than 1 fields, at '2\n'"),
        ("CSV", "tuple(int8, string)", "1,\"a\"\n\"(2,'b')\"\n", "((1,'a')),((2,'b'))"),
        ("CSV", "array(string)", "\"['a\"\"b','c']\"\n", "(['a\"b','c'])"),
        ("CSV", "string", "\"open", "error: the input ends in the middle of row 1"),
        ("TSV", "string", "a\\tb\n\\N\nc\r\n", "('a\\tb'),(''),('c')"),
        ("TSV", "nullable(string)", "\\N\n\\\\N", "(NULL),('\\\\N')"),
        ("TSV", "bool", "true\n0\nFalse\n", "(true),(false),(false)"),
        ("TSV", "int8", "1\t2\n", "error: row 1: more than 1 fields, at '\t2\n'"),
        ("TSV", "uuid", "nope\n", "error: row 1, column x: can not be read as uuid, at 'nope'"),
        ("TSV", "map(string, array(int8))", "{'a':[1,2]}\n", "({'a':[1,2]})"),
        ("Values", "int8", "(1), (2) (3);", "(1),(2),(3)"),
        ("Values", "string", "('it''s'),('a\\'b\\x41')", "('it\\'s'),('a\\'bA')"),
        ("Values", "string", "(abc)", "error: row 1, column x: text needs quotes, at 'abc'"),
        ("Values", "int8", "(DEFAULT)", "(0)"),
        ("Values", "int8", "(now())", "error: row 1, column x: expected a literal of int8, at 'now())'"),
        ("Values", "nullable(int8)", "(null)", "(NULL)"),
        ("Values", "tuple(int8)", "((1,)),((2))", "((1)),((2))"),
        ("Values", "ipv6", "('1.2.3.4')", "('::ffff:1.2.3.4')"),
    ];
    for (format, ty, input, expected) in cases {
        assert_eq!(outcome(format, &one(ty), input.as_bytes(), &s), *expected, "{format} {ty}: {input}");
    }
    let cases: &[(&str, &str, &str)] = &[
        ("JSONEachRow", "{\"x\":null}", "error: row 1, column x: null for int8, which is not nullable"),
        ("JSONEachRow", "{\"xx\":1}", "error: row 1: no column has this name; did you mean x?, at 'xx'"),
        ("CSVWithNames", "y\n1\n", "error: row 1: the header names y, which is no column; did you mean x?"),
        ("TSV", "\\N\n", "error: row 1, column x: null for int8, which is not nullable"),
    ];
    for (format, input, expected) in cases {
        assert_eq!(outcome(format, &one("int8"), input.as_bytes(), &strict), *expected, "{format}: {input}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_named_or_replaced() {
    let columns = schema(&[("x", "array(string)"), ("n", "int8")]);
    let input = b"{\"x\":[\"a\"],\"n\":1}\n{\"x\":[\"b\",\"c\xff\"],\"n\":2}\n";
    let s = FormatSettings::default();
    let message = decode_all("JSONEachRow", &columns, input, &s).unwrap_err().to_string();
    assert!(message.starts_with("row 2, column x: not UTF-8"), "{message}");
    let s = FormatSettings { utf8_replace: true, ..s };
    let batch = decode_all("JSONEachRow", &columns, input, &s).unwrap();
    assert_eq!(encode("Values", &batch, &s).unwrap(), "(['a'],1),(['b','c\u{fffd}'],2)".as_bytes());
}

#[test]
fn columns_by_name_in_any_order_and_what_was_left_out() {
    let columns = schema(&[("a", "int8"), ("b", "string"), ("c", "nullable(int8)")]);
    let cases: &[(&str, &[u8])] = &[
        ("JSONEachRow", b"{\"c\":1,\"z\":0,\"a\":2}\n{\"a\":3,\"c\":null}\n"),
        ("CSVWithNames", b"c,z,a\n1,0,2\n\\N,0,3\n"),
        ("TSVWithNamesAndTypes", b"c\tz\ta\nint8\tint8\tint8\n1\t0\t2\n\\N\t0\t3\n"),
        ("JSONCompactEachRowWithNames", b"[\"c\",\"z\",\"a\"]\n[1,0,2]\n[null,0,3]\n"),
        (
            "RowBinaryWithNamesAndTypes",
            b"\x03\x01c\x01z\x01a\x0fNullable(Int16)\x04int8\x06String\x00\x01\x00\x00\x012\x01\x00\x013",
        ),
        (
            "Native",
            b"\x03\x02\x01c\x0fNullable(Int16)\x00\x01\x01\x00\x00\x00\x01z\x04int8\x00\x00\x01a\x06string\x012\x013",
        ),
    ];
    for (format, input) in cases {
        let mut d = decoder(format, columns.clone(), &FormatSettings::default()).unwrap();
        d.push(Bytes::from_static(input)).unwrap();
        d.finish().unwrap();
        let got = d.next_batch(100).unwrap_or_else(|e| panic!("{format}: {e}")).unwrap();
        let text = encode("Values", &got.batch, &FormatSettings::default()).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "(2,'',1),(3,'',NULL)", "{format}");
        let absent: Vec<Option<Vec<bool>>> =
            got.absent.iter().map(|m| m.as_ref().map(|m| m.values().iter().collect())).collect();
        assert_eq!(absent, [None, Some(vec![true, true]), None], "{format}");
        assert!(d.next_batch(100).unwrap().is_none(), "{format}");
    }
}

#[test]
fn empty_fields_and_nulls_ask_for_the_default() {
    let mut d =
        decoder("CSV", schema(&[("a", "int8"), ("b", "string")]), &FormatSettings::default()).unwrap();
    d.push(Bytes::from_static(b"1,\n,\"\"\n\\N,x\n")).unwrap();
    d.finish().unwrap();
    let got = d.next_batch(100).unwrap().unwrap();
    let masks: Vec<Vec<bool>> = got.absent.iter().flatten().map(|m| m.values().iter().collect()).collect();
    assert_eq!(masks, [[false, true, true], [true, false, false]]);
}

#[test]
fn a_batch_with_a_bad_row_is_not_handed_out() {
    let mut d = decoder("JSONEachRow", schema(&[("x", "int8")]), &FormatSettings::default()).unwrap();
    d.push(Bytes::from_static(b"{\"x\":1}{\"x\":2}{\"x\":3}{\"x\":true}{\"x\":\"?\"}")).unwrap();
    assert_eq!(d.next_batch(2).unwrap().unwrap().batch.num_rows(), 2);
    let first = d.next_batch(4).unwrap_err();
    assert_eq!(first.to_string(), "row 5, column x: can not be read as int8, at '?'");
    assert_eq!(d.next_batch(4).unwrap_err(), first);
    assert_eq!(d.push(Bytes::new()).unwrap_err(), first);
}

#[test]
fn rows_and_lengths_have_limits() {
    let s = FormatSettings { row_bytes_max: 1000, body_bytes_max: 5000, ..FormatSettings::default() };
    let x = schema(&[("x", "string"), ("a", "array(int8)")]);
    let huge = "a".repeat(2000);
    let json = format!("{{\"x\":\"{huge}\"}}");
    let cases: &[(&str, &[u8], &str)] = &[
        ("JSONEachRow", json.as_bytes(), "larger than 1000 bytes"),
        ("JSONEachRow", &json.as_bytes()[..1500], "larger than 1000 bytes"),
        ("RowBinary", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "more than the limit of 1000"),
        ("RowBinary", b"\x00\xff\xff\xff\xff\x0f", "more than the limit of 1000"),
        ("Native", b"\x01\xff\xff\xff\xff\x0f", "rows in a block"),
        ("Native", b"\x00\x05", "rows in a block"),
        ("Native", b"\x01\x01\x01x\x06string\xff\xff\xff\xff\x0f", "more than the limit of 5000"),
        ("Native", b"\x01\x01\x01a\x0barray(int8)\xff\xff\xff\xff\x00\x00\x00\x00", "ends at item"),
        ("ArrowStream", b"\xff\xff\xff\xff\xff\xff\xff\x0f", "more than the limit"),
    ];
    for (format, input, part) in cases {
        let mut d = decoder(format, x.clone(), &s).unwrap();
        d.push(Bytes::copy_from_slice(input)).unwrap();
        let e = d.next_batch(10).expect_err(format);
        assert!(e.to_string().contains(part), "{format}: {e}");
    }
    let deep = format!("{{\"y\":{}", "[".repeat(100_000));
    let e = decode_all("JSONEachRow", &x, deep.as_bytes(), &FormatSettings::default()).unwrap_err();
    assert!(e.to_string().contains("nested deeper than"), "{e}");
}

#[test]
fn names_of_formats() {
    use crate::{find, formats};
    for (name, canonical) in [
        ("tsv", "TabSeparated"),
        ("ndjson", "JSONEachRow"),
        ("JSONLINES", "JSONEachRow"),
        ("native", "Native"),
    ] {
        assert_eq!(find(name).unwrap().name, canonical);
    }
    assert_eq!(
        find("JSONEachRo").unwrap_err().to_string(),
        "format JSONEachRo is not known; did you mean JSONEachRow?"
    );
    let s = FormatSettings::default();
    for f in formats() {
        assert!(f.output && encoder(f.name, all_types(), &s).is_ok(), "{}", f.name);
        assert_eq!(decoder(f.name, all_types(), &s).is_ok(), f.input, "{}", f.name);
    }
    let e = decoder("Pretty", all_types(), &s).err().unwrap();
    assert_eq!(e.to_string(), "format Pretty can not be used for input");
}

#[test]
fn documents_and_tables() {
    let s = camel();
    let columns = schema(&[("n", "uint64"), ("s", "string")]);
    let batch = decode_all("Values", &columns, "(1,'a/b'),(22,'é\nx')".as_bytes(), &s).unwrap();
    let stats =
        ResultStats { elapsed_ns: 1_500_000, rows_read: 2, bytes_read: 30, rows_before_limit: Some(9) };
    let mut e =
        encoder("JSON", columns.clone(), &FormatSettings { json_quote_64bit_integers: true, ..s.clone() })
            .unwrap();
    let mut out = Vec::new();
    e.begin(&mut out).unwrap();
    e.batch(&batch, &mut out).unwrap();
    e.end(&stats, &mut out).unwrap();
    let expected = "{\n\t\"meta\":\n\t[\n\t\t{\n\t\t\t\"name\": \"n\",\n\t\t\t\"type\": \"UInt64\"\n\t\t},\n\t\t{\n\t\t\t\"name\": \"s\",\n\t\t\t\"type\": \"String\"\n\t\t}\n\t],\n\n\t\"data\":\n\t[\n\t\t{\n\t\t\t\"n\": \"1\",\n\t\t\t\"s\": \"a\\/b\"\n\t\t},\n\t\t{\n\t\t\t\"n\": \"22\",\n\t\t\t\"s\": \"é\\nx\"\n\t\t}\n\t],\n\n\t\"rows\": 2,\n\n\t\"rows_before_limit_at_least\": 9,\n\n\t\"statistics\":\n\t{\n\t\t\"elapsed\": 0.001500000,\n\t\t\"rows_read\": 2,\n\t\t\"bytes_read\": 30\n\t}\n}\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let text = |format| String::from_utf8(encode(format, &batch, &s).unwrap()).unwrap();
    assert_eq!(text("PrettyCompact"), "┌──n─┬─s───┐\n│  1 │ a/b │\n│ 22 │ é␊x │\n└────┴─────┘\n");
    assert_eq!(
        text("Pretty"),
        "┏━━━━┳━━━━━┓\n┃  n ┃ s   ┃\n┡━━━━╇━━━━━┩\n│  1 │ a/b │\n├────┼─────┤\n│ 22 │ é␊x │\n└────┴─────┘\n"
    );
    assert_eq!(text("Vertical"), "Row 1:\n──────\nn: 1\ns: a/b\n\nRow 2:\n──────\nn: 22\ns: é\nx\n");
    assert_eq!(text("Null"), "");
    let json: serde_json::Value =
        serde_json::from_slice(&encode("JSONCompact", &sample(), &s).unwrap()).unwrap();
    assert_eq!(json["rows"], 3);
    let few = FormatSettings { pretty_rows_max: 1, ..s.clone() };
    let cut = String::from_utf8(encode("PrettyCompact", &batch, &few).unwrap()).unwrap();
    assert!(cut.ends_with("1 more rows are not shown (output_format_pretty_max_rows = 1)\n"), "{cut}");
}

#[test]
fn dates_beyond_the_wire_are_refused_not_bent() {
    let columns = schema(&[("d", "date"), ("t", "datetime")]);
    let s = FormatSettings::default();
    let batch = decode_all("Values", &columns, b"('1950-05-06','2024-01-01 00:00:00')", &s).unwrap();
    for format in ["Native", "RowBinary"] {
        let e = encode(format, &batch, &s).unwrap_err().to_string();
        assert!(e.starts_with("column d: a date outside"), "{e}");
    }
}

#[test]
fn other_arrow_types_are_shown() {
    use arrow_array::*;
    use arrow_schema::{DataType, Field};
    let strings = ["a", "b"];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("view", Arc::new(StringViewArray::from_iter_values(strings))),
        ("large", Arc::new(LargeStringArray::from_iter_values(strings))),
        ("dict", Arc::new(DictionaryArray::<types::Int32Type>::from_iter(strings))),
        ("local", Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000]))),
        (
            "d256",
            Arc::new(
                Decimal256Array::from(vec![arrow_buffer::i256::ONE; 2])
                    .with_precision_and_scale(50, 1)
                    .unwrap(),
            ),
        ),
        (
            "list",
            Arc::new(LargeListArray::from_iter_primitive::<types::Int32Type, _, _>([Some([Some(1)]), None])),
        ),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), a.null_count() > 0)).collect();
    let batch =
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, a)| a).collect())
            .unwrap();
    let out = encode("Values", &batch, &FormatSettings::default()).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "('a','a','a','1970-01-01 00:00:00.000000','0.1',[1]),('b','b','b','1970-01-01 00:00:01.500000','0.1',[])"
    );
    let _ = DataType::Null;
}

mod properties;

#[test]
fn a_byte_order_mark_is_passed_over_wherever_a_read_ends() {
    let (schema, settings) = (schema(&[("s", "string")]), FormatSettings::default());
    let cases = [
        ("CSV", "\u{feff}a\nb\n"),
        ("CSV", "\u{feff}"),
        ("CSVWithNames", "\u{feff}s\na\nb\n"),
        ("JSONEachRow", "\u{feff}{\"s\":\"a\"}{\"s\":\"b\"}"),
    ];
    for (format, body) in cases {
        let body = body.as_bytes();
        let whole = decode_all(format, &schema, body, &settings).unwrap();
        assert_eq!(whole, decode_all(format, &schema, &body[3..], &settings).unwrap(), "{format}");
        for at in 0..=body.len() {
            let parts = [&body[..at], &body[at..]];
            let split = decode_split(format, &schema, &parts, &settings, usize::MAX);
            assert_eq!(split.ok().as_ref(), Some(&whole), "{format} cut at {at}");
        }
    }
}
