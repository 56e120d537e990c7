//! Batches in, a durable part out.

use super::encode::{Effort, writer_properties};
use super::file::PartMeta;
use super::sink::PartSink;
use super::store::PartStore;
use crate::batch::{TIME_COLUMN, event_range};
use crate::error::{Result, StorageError};
use crate::options::StreamOptions;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use parquet::arrow::ArrowWriter;
use weir_base::{AppendTime, EventTime, SeqNo};

/// Writes one part; nothing of it counts until the manifest names it.
pub(crate) struct PartWriter<'a> {
    store: &'a PartStore,
    path: String,
    schema: SchemaRef,
    options: &'a StreamOptions,
    sort_columns: &'a [String],
    effort: Effort,
    /// The first batches, until there are enough rows to choose encodings by.
    first: Vec<RecordBatch>,
    writer: Option<ArrowWriter<PartSink>>,
    seen: Seen,
}

/// What the rows were, as the manifest records it.
#[derive(Debug, Clone)]
struct Seen {
    rows: u64,
    sn: (i64, i64),
    last_sn: i64,
    ascending: bool,
    event: (EventTime, EventTime),
    append: (i64, i64),
}

/// A part that is durable but not yet named by the manifest.
#[derive(Debug, Clone)]
pub(crate) struct WrittenPart {
    pub meta: PartMeta,
}

impl<'a> PartWriter<'a> {
    /// `path` must never have been used. `schema` is the part schema.
    pub fn new(
        store: &'a PartStore,
        path: String,
        schema: SchemaRef,
        options: &'a StreamOptions,
        sort_columns: &'a [String],
        effort: Effort,
    ) -> Self {
        debug_assert!(schema.index_of(TIME_COLUMN).is_ok());
        let seen = Seen {
            rows: 0,
            sn: (i64::MAX, i64::MIN),
            last_sn: i64::MIN,
            ascending: true,
            event: (EventTime(i64::MAX), EventTime(i64::MIN)),
            append: (i64::MAX, i64::MIN),
        };
        PartWriter {
            store,
            path,
            schema,
            options,
            sort_columns,
            effort,
            first: Vec::new(),
            writer: None,
            seen,
        }
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.see(batch);
        let failed = |e| StorageError::parquet("write part", &self.path, e);
        if let Some(writer) = &mut self.writer {
            return writer.write(batch).map_err(failed);
        }
        self.first.push(batch.clone());
        let rows = self.first.iter().map(RecordBatch::num_rows).sum();
        let bytes = self.first.iter().map(RecordBatch::get_array_memory_size).sum();
        if self.effort.is_sample(rows, bytes) { self.begin() } else { Ok(()) }
    }

    /// Held until the row group is written, about.
    pub fn held_bytes(&self) -> u64 {
        // The first rows are joined to a sample before they are encoded.
        let first: usize = self.first.iter().map(RecordBatch::get_array_memory_size).sum();
        (2 * first + self.writer.as_ref().map_or(0, ArrowWriter::memory_size)) as u64
    }

    /// Opens the file: enough rows are there to choose encodings by, or all.
    fn begin(&mut self) -> Result<()> {
        let failed = |e| StorageError::parquet("write part", &self.path, e);
        let first = std::mem::take(&mut self.first);
        let sample = concat_batches(&self.schema, &first).map_err(|e| failed(e.into()))?;
        let properties = writer_properties(&sample, self.sort_columns, self.options, self.effort);
        let sink = self.store.create(&self.path)?;
        let mut writer = ArrowWriter::try_new(sink, self.schema.clone(), Some(properties)).map_err(failed)?;
        writer.write(&sample).map_err(failed)?;
        self.writer = Some(writer);
        Ok(())
    }

    fn see(&mut self, batch: &RecordBatch) {
        let n = batch.num_columns();
        let sns = batch.column(n - 2).as_primitive::<Int64Type>().values();
        let times = batch.column(n - 1).as_primitive::<TimestampMicrosecondType>().values();
        let seen = &mut self.seen;
        seen.rows += sns.len() as u64;
        for sn in sns {
            seen.ascending &= *sn > seen.last_sn;
            seen.last_sn = *sn;
            seen.sn = (seen.sn.0.min(*sn), seen.sn.1.max(*sn));
        }
        for at in times {
            seen.append = (seen.append.0.min(*at), seen.append.1.max(*at));
        }
        let (low, high) = event_range(batch);
        seen.event = (seen.event.0.min(low), seen.event.1.max(high));
    }

    /// Makes the part's bytes durable and registers it for reading. `None` if there were no
    /// rows: then there is no file. `id`, `partition`, `level` and the rest of the caller's
    /// knowledge go into the record.
    pub fn finish(
        mut self,
        id: u64,
        partition: &str,
        level: u32,
        now_ms: i64,
    ) -> Result<Option<WrittenPart>> {
        if !self.first.is_empty() {
            self.begin()?;
        }
        let Some(writer) = self.writer else { return Ok(None) };
        let sink = writer.into_inner().map_err(|e| StorageError::parquet("write part", &self.path, e))?;
        let summary = sink.finish()?;
        self.store.register(&self.path, summary.size_bytes, summary.checks_crc);
        let seen = self.seen;
        let name = self.path.rsplit('/').next().expect("split yields something").to_owned();
        let meta = PartMeta {
            id,
            name,
            size_bytes: summary.size_bytes,
            checks_crc: summary.checks_crc,
            rows: seen.rows,
            partition: partition.to_owned(),
            sn_min: SeqNo(seen.sn.0 as u64),
            sn_end: SeqNo(seen.sn.1 as u64 + 1),
            event_min: seen.event.0,
            event_max: seen.event.1,
            append_min: AppendTime(seen.append.0),
            append_max: AppendTime(seen.append.1),
            level,
            sorted: false,
            arrival: seen.ascending,
            ttl_applied_ms: now_ms,
        };
        Ok(Some(WrittenPart { meta }))
    }
}
