//! How the columns of a part are encoded, chosen from a sample of its rows.
//!
//! Integers and times are delta coded, or get a dictionary where few values repeat, or have
//! their bytes split by significance before compression: in a part that will lie for long
//! the sample is encoded each way and the smallest wins, in a fresh one an estimate of the
//! first two decides. Strings get a dictionary that falls back by itself; floats a dictionary
//! where values repeat, else split bytes.

use crate::batch::{APPEND_TIME_COLUMN, SN_COLUMN};
use crate::options::{Codec, StreamOptions};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::collections::HashSet;

/// Rows looked at before deciding.
const SAMPLE_ROWS: usize = 8_192;
/// The same where each way is tried.
const TRIAL_ROWS: usize = 32_768;
/// Of wide rows fewer are held while deciding.
const SAMPLE_BYTES_MAX: usize = 8 << 20;

/// How much work the choice is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// A fresh part, merged soon.
    Estimate,
    /// A merged part.
    Trial,
}

impl Effort {
    /// Whether so much of a part's beginning decides: enough rows, or rows so wide that more of
    /// them are not worth holding.
    pub fn is_sample(self, rows: usize, bytes: usize) -> bool {
        let rows_wanted = match self {
            Effort::Estimate => SAMPLE_ROWS,
            Effort::Trial => TRIAL_ROWS,
        };
        rows >= rows_wanted || bytes >= SAMPLE_BYTES_MAX
    }
}

pub(super) fn writer_properties(
    sample: &RecordBatch,
    sort_columns: &[String],
    options: &StreamOptions,
    effort: Effort,
) -> WriterProperties {
    let compression = match options.part_codec {
        Codec::None => Compression::UNCOMPRESSED,
        Codec::Lz4 => Compression::LZ4_RAW,
        Codec::Zstd => Compression::ZSTD(ZstdLevel::try_new(1).expect("1 is a level")),
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("weir {}", env!("CARGO_PKG_VERSION")))
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(options.row_group_rows_max.max(1)))
        .set_dictionary_enabled(true);
    let schema = sample.schema();
    for (field, column) in schema.fields().iter().zip(sample.columns()) {
        let path = ColumnPath::from(vec![field.name().clone()]);
        let trial = match effort {
            Effort::Trial => trial_choice(column, compression, options.row_group_rows_max),
            Effort::Estimate => None,
        };
        match trial.unwrap_or_else(|| choose(field.name(), column)) {
            Choice::Dictionary => {}
            choice @ (Choice::Delta | Choice::Split) => {
                builder = builder
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, choice.encoding());
            }
        }
    }
    for name in &options.bloom_filter_columns {
        let path = ColumnPath::from(vec![name.clone()]);
        builder = builder.set_column_bloom_filter_enabled(path.clone(), true);
        builder = builder.set_column_bloom_filter_max_ndv(path, options.row_group_rows_max as u64);
    }
    if !sort_columns.is_empty() {
        let sorting = sort_columns
            .iter()
            .map_while(|name| schema.index_of(name).ok())
            .map(|i| SortingColumn { column_idx: i as i32, descending: false, nulls_first: false })
            .collect::<Vec<_>>();
        // Positions are those of leaf columns: true only while no nested column comes before.
        let flat = sorting
            .iter()
            .all(|s| schema.fields()[..=s.column_idx as usize].iter().all(|f| !f.data_type().is_nested()));
        if flat {
            builder = builder.set_sorting_columns(Some(sorting));
        }
    }
    builder.build()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Dictionary,
    Delta,
    Split,
}

impl Choice {
    fn encoding(self) -> Encoding {
        match self {
            Choice::Dictionary => Encoding::RLE_DICTIONARY,
            Choice::Delta => Encoding::DELTA_BINARY_PACKED,
            Choice::Split => Encoding::BYTE_STREAM_SPLIT,
        }
    }
}

/// Encodes the sample each way; `None` where there is nothing to choose. Delta coding must
/// be clearly smaller, since it is the slowest to read.
fn trial_choice(column: &ArrayRef, compression: Compression, row_group_rows: usize) -> Option<Choice> {
    let t = column.data_type();
    let bytes = t.primitive_width().filter(|w| matches!(w, 4 | 8))?;
    let integer = t.is_integer() || t.is_temporal() && !matches!(t, DataType::Interval(_));
    if !integer || column.len() < SAMPLE_ROWS {
        return None;
    }
    let sample = column.slice(0, column.len().min(TRIAL_ROWS));
    let delta = trial_size(&sample, Choice::Delta, compression)?;
    let split = trial_size(&sample, Choice::Split, compression)?;
    let mut best = if split * 21 / 20 <= delta { (Choice::Split, split) } else { (Choice::Delta, delta) };
    let distinct = distinct(&sample)?;
    if distinct * 4 <= sample.len() {
        // The dictionary is written once a row group, of which the sample is a part.
        let whole = row_group_rows.max(sample.len());
        let entries = distinct * bytes * sample.len() / whole;
        let estimate = sample.len() * (usize::BITS - (distinct - 1).leading_zeros()) as usize / 8 + entries;
        let measured = trial_size(&sample, Choice::Dictionary, compression)?;
        let dictionary = measured.saturating_sub(distinct * bytes) + entries;
        if dictionary.min(estimate) <= best.1 {
            best = (Choice::Dictionary, dictionary);
        }
    }
    Some(best.0)
}

fn trial_size(sample: &ArrayRef, choice: Choice, compression: Compression) -> Option<usize> {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_enabled(choice == Choice::Dictionary);
    let properties = match choice {
        Choice::Dictionary => properties,
        other => properties.set_encoding(other.encoding()),
    };
    let batch = RecordBatch::try_from_iter([("c", sample.clone())]).ok()?;
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties.build())).ok()?;
    writer.write(&batch).ok()?;
    writer.close().ok()?;
    Some(out.len())
}

fn distinct(column: &ArrayRef) -> Option<usize> {
    let data = column.to_data();
    let width = column.data_type().primitive_width()?;
    let bytes = data.buffers().first()?.as_slice();
    let values = &bytes[data.offset() * width..(data.offset() + data.len()) * width];
    Some(values.chunks_exact(width).collect::<HashSet<_>>().len())
}

fn choose(name: &str, column: &ArrayRef) -> Choice {
    if name == SN_COLUMN || name == APPEND_TIME_COLUMN {
        return Choice::Delta;
    }
    let column = column.slice(0, column.len().min(SAMPLE_ROWS));
    match column.data_type() {
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            float_choice(values.iter().map(|v| u64::from(v.to_bits())))
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            float_choice(values.iter().map(|v| v.to_bits()))
        }
        DataType::UInt64 => {
            let values = column.as_primitive::<arrow_array::types::UInt64Type>().values();
            integer_choice(&values.iter().map(|v| *v as i64).collect::<Vec<_>>())
        }
        t if t.is_integer() || t.is_temporal() && !matches!(t, DataType::Interval(_)) => {
            match arrow_cast::cast(&column, &DataType::Int64) {
                Ok(wide) => integer_choice(wide.as_primitive::<arrow_array::types::Int64Type>().values()),
                Err(_) => widened_choice(&column),
            }
        }
        _ => Choice::Dictionary,
    }
}

/// Dates and short times go to 64 bits by way of 32.
fn widened_choice(column: &ArrayRef) -> Choice {
    let wide =
        arrow_cast::cast(column, &DataType::Int32).and_then(|c| arrow_cast::cast(&c, &DataType::Int64));
    match wide {
        Ok(wide) => {
            let wide: &Int64Array = wide.as_primitive();
            integer_choice(wide.values())
        }
        Err(_) => Choice::Dictionary,
    }
}

fn float_choice(bits: impl Iterator<Item = u64>) -> Choice {
    let mut distinct = HashSet::new();
    let mut rows = 0usize;
    for b in bits {
        rows += 1;
        distinct.insert(b);
    }
    if distinct.len() * 4 <= rows { Choice::Dictionary } else { Choice::Split }
}

/// Compares what delta coding and a dictionary would take per value.
fn integer_choice(values: &[i64]) -> Choice {
    let distinct = values.iter().collect::<HashSet<_>>().len();
    if distinct * 8 > values.len() || values.len() < 64 {
        return Choice::Delta;
    }
    // Delta coding packs miniblocks of 32 at the width of their spread of differences.
    let deltas: Vec<i64> = values.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    let mut delta_bits = 0u64;
    for mini in deltas.chunks(32) {
        let low = *mini.iter().min().expect("chunks are not empty");
        let spread = mini.iter().map(|d| d.wrapping_sub(low) as u64).max().expect("not empty");
        delta_bits += u64::from(64 - spread.leading_zeros()) * mini.len() as u64;
    }
    let dictionary_bits = u64::from(usize::BITS - distinct.leading_zeros()) * values.len() as u64;
    // A dictionary costs a page and an indirection; it must be clearly smaller.
    if dictionary_bits + dictionary_bits / 4 < delta_bits { Choice::Dictionary } else { Choice::Delta }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_bounded_by_rows_and_by_bytes() {
        // (effort, rows, bytes, enough)
        let cases = [
            (Effort::Estimate, SAMPLE_ROWS - 1, 1, false),
            (Effort::Estimate, SAMPLE_ROWS, 1, true),
            (Effort::Trial, SAMPLE_ROWS, 1, false),
            (Effort::Trial, TRIAL_ROWS, 1, true),
            (Effort::Trial, 1, SAMPLE_BYTES_MAX, true),
        ];
        for (effort, rows, bytes, enough) in cases {
            assert_eq!(effort.is_sample(rows, bytes), enough, "{effort:?} {rows} rows {bytes} bytes");
        }
    }

    #[test]
    fn a_trial_takes_what_is_smallest() {
        let mut x = 1u64;
        let mut random = |below: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % below
        };
        // Runs of rising numbers with a fall between them, as of a column under a sort key.
        let mut falls = Vec::new();
        for _ in 0..700 {
            let mut run: Vec<i64> = (0..50).map(|_| random(50_000_000) as i64).collect();
            run.sort_unstable();
            falls.extend(run);
        }
        let cases: Vec<(&str, Vec<i64>, Choice)> = vec![
            (
                "rising by about as much",
                (0..32_768).map(|i| i * 1000 + random(8) as i64).collect(),
                Choice::Delta,
            ),
            ("a thousand values", (0..32_768).map(|_| random(1_000) as i64).collect(), Choice::Dictionary),
            (
                "fifty times",
                (0..32_768).map(|_| random(50) as i64 * 1_234_567_891).collect(),
                Choice::Dictionary,
            ),
            ("runs with falls", falls, Choice::Split),
        ];
        let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
        for (name, values, expected) in cases {
            let column: ArrayRef = std::sync::Arc::new(Int64Array::from(values));
            assert_eq!(trial_choice(&column, zstd, 122_880), Some(expected), "{name}");
        }
    }

    #[test]
    fn integers_take_the_smaller_encoding() {
        let mut x = 1u64;
        let mut random = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let wide: Vec<i64> = (0..50).map(|_| random() as i64).collect();
        let cases: Vec<(&str, Vec<i64>, Choice)> = vec![
            ("rising times", (0..8192).map(|i| 1_700_000_000_000 + i * 13).collect(), Choice::Delta),
            ("random wide", (0..8192).map(|_| random() as i64).collect(), Choice::Delta),
            ("small range", (0..8192).map(|_| (random() % 200) as i64).collect(), Choice::Delta),
            (
                "few wide values",
                (0..8192).map(|_| wide[(random() % 50) as usize]).collect(),
                Choice::Dictionary,
            ),
        ];
        for (name, values, expected) in cases {
            assert_eq!(integer_choice(&values), expected, "{name}");
        }
    }
}
