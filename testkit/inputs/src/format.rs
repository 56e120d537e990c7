//! Bodies of inserts: any bytes in any input format, against two schemas.
//!
//! What is accepted must not depend on how the body was cut into pieces.

use crate::options;
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use std::sync::{Arc, LazyLock};
use weir_format::types::Type;
use weir_format::{FormatError, FormatSettings};

/// Limits that a small input must not pass whatever it declares.
const BYTES_MAX: usize = 1 << 20;
/// Pushed at most: enough for every structure, little enough to be quick.
const INPUT_MAX: usize = 64 << 10;

fn schema(columns: &[(&str, &str)]) -> SchemaRef {
    let field = |(name, text): &(&str, &str)| Type::parse(text).expect("written here").field(name);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

pub(crate) static SCHEMAS: LazyLock<[SchemaRef; 4]> = LazyLock::new(|| {
    [
        schema(&[("a", "int64"), ("b", "string"), ("c", "nullable(float64)")]),
        schema(&[
            ("b", "bool"),
            ("i", "int8"),
            ("u", "uint32"),
            ("d", "decimal(20, 4)"),
            ("dt", "datetime('America/New_York')"),
            ("t", "datetime64(3, 'UTC')"),
            ("day", "date"),
            ("id", "uuid"),
            ("v4", "ipv4"),
            ("v6", "ipv6"),
            ("e", "enum8('a' = -1, 'b' = 5)"),
            ("f", "float32"),
        ]),
        schema(&[
            ("arr", "array(nullable(int32))"),
            ("m", "map(string, uint16)"),
            ("t", "tuple(x int64, y string)"),
            ("lc", "low_cardinality(nullable(string))"),
            ("n", "array(array(tuple(decimal(9, 2), datetime)))"),
        ]),
        schema(&[("s", "string")]),
    ]
});

/// Decodes with the options of the first four bytes, whole and in two pieces.
pub(crate) fn decode(formats: &[&str], data: &[u8]) -> bool {
    let ([which, flags, cut, rows], body) = options::<4>(data);
    let body = &body[..body.len().min(INPUT_MAX)];
    let format = formats[usize::from(which >> 2) % formats.len()];
    let schema = &SCHEMAS[usize::from(which) % SCHEMAS.len()];
    let settings = FormatSettings {
        skip_unknown_fields: flags & 1 == 0,
        null_as_default: flags & 2 == 0,
        utf8_replace: flags & 4 != 0,
        best_effort_times: flags & 8 != 0,
        csv_delimiter: if flags & 16 == 0 { b',' } else { b';' },
        native_revision: if flags & 32 == 0 { 0 } else { 54_480 },
        row_bytes_max: BYTES_MAX,
        body_bytes_max: BYTES_MAX,
        ..FormatSettings::default()
    };
    let whole = read(format, schema, &settings, &[body], usize::MAX);
    let at = if body.is_empty() { 0 } else { usize::from(cut) * body.len() / 256 };
    let pieces = [&body[..at], &body[at..]];
    let split = read(format, schema, &settings, &pieces, usize::from(rows).max(1));
    let accepted = whole.as_ref().is_ok_and(|batch| batch.num_rows() > 0);
    // Which error comes first may differ; what Arrow's and Parquet's readers accept is theirs.
    if !matches!(format, "ArrowStream" | "Parquet" | "Avro") {
        assert_eq!(whole.ok(), split.ok(), "{format}: the pieces read otherwise than the whole");
    }
    accepted
}

fn read(
    format: &str,
    schema: &SchemaRef,
    settings: &FormatSettings,
    pieces: &[&[u8]],
    rows_max: usize,
) -> Result<RecordBatch, FormatError> {
    let mut decoder = weir_format::decoder(format, schema.clone(), settings)?;
    let mut batches: Vec<RecordBatch> = Vec::new();
    let mut rows = 0;
    let mut take = |decoder: &mut weir_format::BoxDecoder| {
        while let Some(decoded) = decoder.next_batch(rows_max)? {
            assert!(decoded.batch.num_rows() > 0 && decoded.batch.num_rows() <= rows_max);
            assert_eq!(decoded.batch.schema_ref(), schema, "the schema asked for");
            assert_eq!(decoded.absent.len(), schema.fields().len());
            for absent in decoded.absent.iter().flatten() {
                assert_eq!(arrow_array::Array::len(absent), decoded.batch.num_rows());
            }
            rows += decoded.batch.num_rows();
            // A small input of many rows is no mistake; holding them all here would be.
            if rows <= INPUT_MAX {
                batches.push(decoded.batch);
            }
        }
        Ok::<(), FormatError>(())
    };
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece))?;
        take(&mut decoder)?;
    }
    decoder.finish()?;
    take(&mut decoder)?;
    Ok(arrow_select::concat::concat_batches(schema, &batches).expect("batches of one schema"))
}
