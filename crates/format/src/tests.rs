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
