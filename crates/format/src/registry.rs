//! The table of formats: the one place that knows their names.

use crate::arrow_stream::{ArrowStreamDecoder, ArrowStreamEncoder};
use crate::avro::{AvroFileDecoder, AvroFileEncoder};
use crate::csv::{CsvEncoder, CsvReader};
use crate::json::{CompactEachRow, CompactEachRowEncoder, DocumentEncoder, EachRow, EachRowEncoder};
use crate::native::{NativeDecoder, NativeEncoder};
use crate::parquet::{ParquetDecoder, ParquetEncoder};
use crate::pretty::{PrettyEncoder, VerticalEncoder};
use crate::rowbinary::{RowBinaryEncoder, RowBinaryReader};
use crate::rows::{RowDecoder, RowReader};
use crate::tsv::{TsvEncoder, TsvReader};
use crate::values::{ValuesEncoder, ValuesReader};
use crate::{BoxDecoder, BoxEncoder, Encoder, FormatError, FormatInfo, FormatSettings, ResultStats};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

const JSON: &str = "application/json; charset=UTF-8";
const NDJSON: &str = "application/x-ndjson; charset=UTF-8";
const TEXT: &str = "text/plain; charset=UTF-8";
const TSV: &str = "text/tab-separated-values; charset=UTF-8";
const CSV: &str = "text/csv; charset=UTF-8; header=absent";
const CSV_HEADER: &str = "text/csv; charset=UTF-8; header=present";
const BYTES: &str = "application/octet-stream";

const ARROW: &str = "application/vnd.apache.arrow.stream";
const AVRO: &str = "avro/binary";
const PARQUET: &str = "application/vnd.apache.parquet";

/// Makes a decoder or encoder of one format.
enum Make {
    Both(fn(SchemaRef, &FormatSettings) -> BoxDecoder, fn(SchemaRef, &FormatSettings) -> BoxEncoder),
    Out(fn(SchemaRef, &FormatSettings) -> BoxEncoder),
}

macro_rules! formats {
    ($($name:literal [$($alias:literal),*] $content:ident $make:expr;)*) => {
        const INFOS: &[FormatInfo] = &[$(FormatInfo {
            name: $name,
            aliases: &[$($alias),*],
            input: matches!($make, Make::Both(..)),
            output: true,
            content_type: $content,
        }),*];
        const MAKES: &[Make] = &[$($make),*];
    };
}

fn rows<R: RowReader + 'static>(reader: R, schema: SchemaRef, s: &FormatSettings) -> BoxDecoder {
    Box::new(RowDecoder::new(reader, schema, s))
}

/// Decoder and encoder of a format that comes plain, with names, and with names and types.
macro_rules! family {
    ($reader:ident, $encoder:ident, $names:literal, $types:literal) => {
        Make::Both(
            |schema, s| rows($reader::new(schema.fields().len(), $names, $types), schema, s),
            |schema, s| Box::new($encoder::new(&schema, s, $names, $types)),
        )
    };
}

macro_rules! tsv {
    ($names:literal, $types:literal, $raw:literal) => {
        Make::Both(
            |schema, s| rows(TsvReader::new(schema.fields().len(), $names, $types), schema, s),
            |schema, s| Box::new(TsvEncoder::new(&schema, s, $names, $types, $raw)),
        )
    };
}

formats! {
    "JSONEachRow" ["NDJSON", "JSONLines", "JSONL"] NDJSON Make::Both(
        |schema, s| {
            let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
            rows(EachRow::new(names.into_iter()), schema, s)
        },
        |schema, s| Box::new(EachRowEncoder::new(&schema, s)),
    );
    "JSONCompactEachRow" [] NDJSON family!(CompactEachRow, CompactEachRowEncoder, false, false);
    "JSONCompactEachRowWithNames" [] NDJSON family!(CompactEachRow, CompactEachRowEncoder, true, false);
    "JSONCompactEachRowWithNamesAndTypes" [] NDJSON family!(CompactEachRow, CompactEachRowEncoder, true, true);
    "CSV" [] CSV family!(CsvReader, CsvEncoder, false, false);
    "CSVWithNames" [] CSV_HEADER family!(CsvReader, CsvEncoder, true, false);
    "CSVWithNamesAndTypes" [] CSV_HEADER family!(CsvReader, CsvEncoder, true, true);
    "TabSeparated" ["TSV"] TSV tsv!(false, false, false);
    "TabSeparatedWithNames" ["TSVWithNames"] TSV tsv!(true, false, false);
    "TabSeparatedWithNamesAndTypes" ["TSVWithNamesAndTypes"] TSV tsv!(true, true, false);
    "TabSeparatedRaw" ["TSVRaw", "Raw"] TSV Make::Out(
        |schema, s| Box::new(TsvEncoder::new(&schema, s, false, false, true)),
    );
    "RowBinary" [] BYTES family!(RowBinaryReader, RowBinaryEncoder, false, false);
    "RowBinaryWithNames" [] BYTES family!(RowBinaryReader, RowBinaryEncoder, true, false);
    "RowBinaryWithNamesAndTypes" [] BYTES family!(RowBinaryReader, RowBinaryEncoder, true, true);
    "Values" [] TEXT Make::Both(
        |schema, s| rows(ValuesReader::default(), schema, s),
        |schema, s| Box::new(ValuesEncoder::new(&schema, s)),
    );
    "Native" [] BYTES Make::Both(
        |schema, s| Box::new(NativeDecoder::new(schema, s, 0)),
        |schema, s| Box::new(NativeEncoder::new(&schema, s)),
    );
    "ArrowStream" [] ARROW Make::Both(
        |schema, s| Box::new(ArrowStreamDecoder::new(schema, s)),
        |schema, s| Box::new(ArrowStreamEncoder::new(&schema, s)),
    );
    "Avro" [] AVRO Make::Both(
        |schema, s| Box::new(AvroFileDecoder::new(schema, s)),
        |schema, s| Box::new(AvroFileEncoder::new(&schema, s)),
    );
    "Parquet" [] PARQUET Make::Both(
        |schema, s| Box::new(ParquetDecoder::new(schema, s)),
        |schema, s| Box::new(ParquetEncoder::new(&schema, s)),
    );
    "JSON" [] JSON Make::Out(|schema, s| Box::new(DocumentEncoder::new(&schema, s, false)));
    "JSONCompact" [] JSON Make::Out(|schema, s| Box::new(DocumentEncoder::new(&schema, s, true)));
    "Pretty" [] TEXT Make::Out(|schema, s| Box::new(PrettyEncoder::new(&schema, s, true)));
    "PrettyCompact" [] TEXT Make::Out(|schema, s| Box::new(PrettyEncoder::new(&schema, s, false)));
    "Vertical" [] TEXT Make::Out(|schema, s| Box::new(VerticalEncoder::new(&schema, s)));
    "Null" [] TEXT Make::Out(|_, _| Box::new(NullEncoder));
}

/// Every format, for tables and documentation.
pub fn formats() -> &'static [FormatInfo] {
    INFOS
}

fn position(name: &str) -> Result<usize, FormatError> {
    let matches = |f: &FormatInfo| {
        f.name.eq_ignore_ascii_case(name) || f.aliases.iter().any(|a| a.eq_ignore_ascii_case(name))
    };
    INFOS.iter().position(matches).ok_or_else(|| {
        let known = INFOS.iter().flat_map(|f| f.aliases.iter().chain([&f.name]).copied());
        FormatError::Unknown { name: name.to_owned(), hint: weir_base::error::did_you_mean(name, known) }
    })
}

/// The format of a name or alias, in any case.
///
/// # Errors
/// [`FormatError::Unknown`], with the nearest name if one is near.
pub fn find(name: &str) -> Result<&'static FormatInfo, FormatError> {
    position(name).map(|i| &INFOS[i])
}

/// A decoder of the format into batches of `schema`, whose fields [`crate::types::Type::field`]
/// made.
///
/// # Errors
/// [`FormatError::Unknown`], or [`FormatError::Direction`] for a format that is output only.
pub fn decoder(name: &str, schema: SchemaRef, settings: &FormatSettings) -> Result<BoxDecoder, FormatError> {
    let i = position(name)?;
    match &MAKES[i] {
        Make::Both(decoder, _) => Ok(decoder(schema, settings)),
        Make::Out(_) => Err(FormatError::Direction { name: INFOS[i].name.to_owned(), direction: "input" }),
    }
}

/// An encoder of batches of `schema` into the format.
///
/// # Errors
/// [`FormatError::Unknown`].
pub fn encoder(name: &str, schema: SchemaRef, settings: &FormatSettings) -> Result<BoxEncoder, FormatError> {
    Ok(match &MAKES[position(name)?] {
        Make::Both(_, encoder) | Make::Out(encoder) => encoder(schema, settings),
    })
}

/// Takes rows and writes nothing.
struct NullEncoder;

impl Encoder for NullEncoder {
    fn begin(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
    fn batch(&mut self, _batch: &RecordBatch, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
    fn end(&mut self, _stats: &ResultStats, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        Ok(())
    }
}
