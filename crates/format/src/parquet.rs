//! Parquet: whole files. Its directory stands at the end, so input waits for the last byte, and
//! output of a query that never ends never becomes a readable file.

use crate::arrow_stream::{guarded, other, storage_batch, storage_schema};
use crate::conform::Conform;
use crate::rows::{Target, slice_ready};
use crate::types::Type;
use crate::view::Columns;
use crate::{DecodedBatch, Decoder, Encoder, FormatError, FormatSettings, ResultStats};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::ChunkReader;
use std::sync::Arc;

/// Rows read at a time, whatever the caller asks for.
const BATCH_ROWS_MAX: usize = 65_536;

pub(crate) struct ParquetDecoder {
    schema: SchemaRef,
    settings: FormatSettings,
    body: Vec<u8>,
    finished: bool,
    rows: Option<ParquetRows>,
    ready: Option<(DecodedBatch, usize)>,
    failed: Option<FormatError>,
}

impl ParquetDecoder {
    pub fn new(schema: SchemaRef, s: &FormatSettings) -> ParquetDecoder {
        ParquetDecoder {
            schema,
            settings: s.clone(),
            body: Vec::new(),
            finished: false,
            rows: None,
            ready: None,
            failed: None,
        }
    }

    fn advance(&mut self, rows_max: usize) -> Result<(), FormatError> {
        if !self.finished {
            return Ok(());
        }
        let rows = match &mut self.rows {
            Some(rows) => rows,
            None if self.body.is_empty() => return Ok(()),
            none => {
                let body = Bytes::from(std::mem::take(&mut self.body));
                none.insert(ParquetRows::open(body, self.schema.clone(), &self.settings, rows_max)?)
            }
        };
        while self.ready.is_none() {
            let Some(batch) = rows.next_batch()? else { return Ok(()) };
            if batch.batch.num_rows() > 0 {
                self.ready = Some((batch, 0));
            }
        }
        Ok(())
    }
}

impl Decoder for ParquetDecoder {
    fn push(&mut self, bytes: Bytes) -> Result<(), FormatError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if self.body.len() + bytes.len() > self.settings.body_bytes_max {
            let what =
                format!("a Parquet file larger than {} bytes (body_bytes_max)", self.settings.body_bytes_max);
            let e = FormatError::Parse { row: 1, column: None, what, text: String::new() };
            self.failed = Some(e.clone());
            self.body = Vec::new();
            return Err(e);
        }
        self.body.extend_from_slice(&bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), FormatError> {
        self.finished = true;
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn next_batch(&mut self, rows_max: usize) -> Result<Option<DecodedBatch>, FormatError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if let Err(e) = self.advance(rows_max) {
            self.failed = Some(e.clone());
            self.rows = None;
            return Err(e);
        }
        Ok(slice_ready(&mut self.ready, rows_max))
    }
}

/// Rows of a Parquet file that is read in pieces: its directory, then the columns wanted of a row group at a time.
pub struct ParquetRows {
    conform: Conform,
    reader: ParquetRecordBatchReader,
}

impl ParquetRows {
    /// Rows of `schema`, at most `rows_max` at a time.
    ///
    /// # Errors
    /// What is no Parquet, or lacks nothing but has columns nobody knows (where these are not to be passed over).
    pub fn open<R: ChunkReader + 'static>(
        file: R,
        schema: SchemaRef,
        settings: &FormatSettings,
        rows_max: usize,
    ) -> Result<Self, FormatError> {
        let conform = Conform::new(schema, settings);
        let builder = guarded(1, || ParquetRecordBatchReaderBuilder::try_new(file))?;
        let header = conform.header(builder.schema())?;
        let mut wanted: Vec<usize> = header
            .targets
            .iter()
            .enumerate()
            .filter(|(_, t)| **t != Target::Skip)
            .map(|(place, _)| place)
            .collect();
        if wanted.is_empty() {
            // How many rows there are a column tells, not what the directory says of them.
            if header.targets.is_empty() {
                let what = "a Parquet file without columns".to_owned();
                return Err(FormatError::Parse { row: 1, column: None, what, text: String::new() });
            }
            wanted.push(0);
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let rows = rows_max.clamp(1, BATCH_ROWS_MAX);
        let reader = guarded(1, || builder.with_projection(mask).with_batch_size(rows).build())?;
        Ok(ParquetRows { conform, reader })
    }

    /// The next rows; `None` after the last.
    pub fn next_batch(&mut self) -> Result<Option<DecodedBatch>, FormatError> {
        let row = self.conform.rows_before() + 1;
        let reader = &mut self.reader;
        match guarded(row, || reader.next().transpose())? {
            Some(batch) => self.conform.batch(&batch).map(Some),
            None => Ok(None),
        }
    }
}

/// The columns of a Parquet file, as far as Weir has types for them.
///
/// # Errors
/// What is no Parquet.
pub fn parquet_columns<R: ChunkReader + 'static>(
    file: R,
) -> Result<Vec<(String, Option<Type>)>, FormatError> {
    let builder = guarded(1, || ParquetRecordBatchReaderBuilder::try_new(file))?;
    Ok(builder.schema().fields().iter().map(|f| (f.name().clone(), Type::of_field(f))).collect())
}

pub(crate) struct ParquetEncoder {
    columns: Columns,
    schema: SchemaRef,
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl ParquetEncoder {
    pub fn new(schema: &SchemaRef, _s: &FormatSettings) -> ParquetEncoder {
        let columns = Columns::new(schema);
        // Parquet has no seconds: other readers would see bare integers.
        let fields: Vec<Field> = storage_schema(&columns)
            .fields()
            .iter()
            .map(|f| match f.data_type() {
                DataType::Timestamp(TimeUnit::Second, tz) => {
                    f.as_ref().clone().with_data_type(DataType::Timestamp(TimeUnit::Millisecond, tz.clone()))
                }
                _ => f.as_ref().clone(),
            })
            .collect();
        ParquetEncoder { columns, schema: Arc::new(Schema::new(fields)), writer: None }
    }

    fn writer(&mut self) -> Result<&mut ArrowWriter<Vec<u8>>, FormatError> {
        if self.writer.is_none() {
            let level = ZstdLevel::try_new(1).expect("level 1 exists");
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
            let writer =
                ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(properties)).map_err(other)?;
            self.writer = Some(writer);
        }
        Ok(self.writer.as_mut().expect("just made"))
    }
}

impl Encoder for ParquetEncoder {
    fn begin(&mut self, _out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.writer().map(|_| ())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let batch = storage_batch(&self.columns, &self.schema, batch)?;
        let writer = self.writer()?;
        writer.write(&batch).map_err(other)?;
        // Row groups that are done can leave; positions in the file are counted, not looked up.
        out.append(writer.inner_mut());
        Ok(())
    }

    fn end(&mut self, _stats: &ResultStats, out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.writer()?;
        let writer = self.writer.take().expect("made above");
        out.append(&mut writer.into_inner().map_err(other)?);
        Ok(())
    }
}
