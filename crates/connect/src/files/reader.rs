//! Reads files, a thread for each group of them.

use super::place::Place;
use super::table::Table;
use arrow_array::{
    ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, TimestampMillisecondArray, UInt32Array,
};
use arrow_schema::{Schema, SchemaRef};
use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use weir_base::{Code, SeqNo};
use weir_format::{DecodedBatch, FormatError, FormatSettings, ParquetRows};
use weir_plan::{ExternalRead, ExternalReader, ExternalRows, ExternalScan, MESSAGE_KEY_COLUMN, StreamError};

/// Batches that wait for the query, of each file.
const AHEAD: usize = 2;
/// Rows of a batch.
const BATCH_ROWS: usize = 8_192;
/// Bytes of a file that are fetched at once where a reader goes on and on.
const FETCH_BYTES: u64 = 1 << 20;

/// What a path says where there is no value; by Hive's convention.
pub(super) const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

type Said = Result<ExternalRead, StreamError>;

pub(super) struct FileReader {
    from: mpsc::Receiver<Said>,
}

impl FileReader {
    /// # Errors
    /// Where there is no such file.
    pub fn start(table: &Arc<Table>, scan: ExternalScan) -> Result<Self, StreamError> {
        let place = table.from()?.clone();
        let (to, from) = mpsc::channel(AHEAD);
        for (partition, _) in scan.from {
            let files = table.group(partition)?;
            let (place, table, columns) = (place.clone(), table.clone(), scan.columns.clone());
            let (to, runtime) = (to.clone(), Handle::current());
            let work = move || {
                for file in files {
                    let (place, table, columns) = (place.clone(), table.clone(), columns.clone());
                    let (to, runtime) = (to.clone(), runtime.clone());
                    let mut reading =
                        Reading { file, partition, rows: 0, place, table, columns, runtime, to };
                    match reading.read() {
                        Ok(()) => {}
                        Err(Ended::Failed(e)) => {
                            // Who asked may have left.
                            let _ = reading.to.blocking_send(Err(e));
                            return;
                        }
                        Err(Ended::Gone) => return,
                    }
                }
                let _ = to.blocking_send(Ok(ExternalRead::CaughtUp { partition, at: SeqNo::MAX }));
            };
            // A thread of its own: it waits for a query that may be slow.
            std::thread::Builder::new().name("weir-files".into()).spawn(work).map_err(|e| StreamError {
                code: Code::IoError,
                message: format!("no thread to read files with: {e}"),
            })?;
        }
        Ok(FileReader { from })
    }
}

#[async_trait::async_trait]
impl ExternalReader for FileReader {
    async fn next(&mut self) -> Result<ExternalRead, StreamError> {
        self.from.recv().await.unwrap_or_else(|| Err(ended()))
    }

    fn try_next(&mut self) -> Result<Option<ExternalRead>, StreamError> {
        match self.from.try_recv() {
            Ok(read) => read.map(Some),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(ended()),
        }
    }

    fn hold(&mut self, _: i32, _: bool) {}

    fn trouble(&self) -> Option<String> {
        None
    }
}

fn ended() -> StreamError {
    StreamError { code: Code::LogicalError, message: "the thread that reads a file stopped on a bug".into() }
}

enum Ended {
    Failed(StreamError),
    /// Nobody wants more.
    Gone,
}

impl From<StreamError> for Ended {
    fn from(e: StreamError) -> Self {
        Ended::Failed(e)
    }
}

struct Reading {
    file: ObjectMeta,
    partition: i32,
    /// Rows read so far.
    rows: u64,
    place: Place,
    table: Arc<Table>,
    columns: Option<Vec<String>>,
    runtime: Handle,
    to: mpsc::Sender<Said>,
}

/// `name=value` in the directories of a path.
pub(super) fn of_path(path: &str) -> Vec<(String, String)> {
    let dirs = path.rsplit_once('/').map_or("", |(dirs, _)| dirs);
    let pair = |dir: &str| {
        let (name, value) = dir.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), unescaped(value)))
    };
    dirs.split('/').filter_map(pair).collect()
}

/// `%41` is `A`; what is no such escape stands for itself.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Reading {
    fn bad(&self, e: &FormatError) -> StreamError {
        StreamError {
            code: Code::CannotParseText,
            message: format!("file {} of {}: {e}", self.file.location, self.table.name),
        }
    }

    fn read(&mut self) -> Result<(), Ended> {
        let told = of_path(self.file.location.as_ref());
        let wants = |name: &str| self.columns.as_ref().is_none_or(|c| c.iter().any(|c| c == name));
        let (of_path, in_file): (Vec<_>, Vec<_>) = self
            .table
            .payload
            .fields()
            .iter()
            .cloned()
            .partition(|f| told.iter().any(|(n, _)| n == f.name()));
        let by_name =
            matches!(self.table.settings.format.name, "Parquet" | "JSONEachRow" | "Avro" | "ArrowStream");
        let mut wanted: Vec<_> = in_file.iter().filter(|f| !by_name || wants(f.name())).cloned().collect();
        if wanted.is_empty() {
            // Somebody has to count the rows.
            wanted.extend(in_file.first().cloned());
        }
        let schema = Arc::new(Schema::new(wanted));
        let tell: Vec<_> = of_path.into_iter().filter(|f| wants(f.name())).collect();
        let constant = self.constant(Arc::new(Schema::new(tell)), &told)?;
        let settings = FormatSettings { skip_unknown_fields: true, ..FormatSettings::default() };
        if self.table.settings.format.name == "Parquet" {
            let file = Ranges::new(self.place.clone(), &self.file, self.runtime.clone());
            let mut rows =
                ParquetRows::open(file, schema, &settings, BATCH_ROWS).map_err(|e| self.bad(&e))?;
            while let Some(batch) = rows.next_batch().map_err(|e| self.bad(&e))? {
                self.give(batch, &constant)?;
            }
            return Ok(());
        }
        let format = self.table.settings.format.name;
        let mut decoder = weir_format::decoder(format, schema, &settings).map_err(|e| self.bad(&e))?;
        let runtime = self.runtime.clone();
        let mut pieces = runtime.block_on(self.place.pieces(&self.file.location))?;
        loop {
            let piece = runtime.block_on(pieces.try_next())?;
            let last = piece.is_none();
            match piece {
                Some(piece) => decoder.push(piece).map_err(|e| self.bad(&e))?,
                None => decoder.finish().map_err(|e| self.bad(&e))?,
            }
            while let Some(batch) = decoder.next_batch(BATCH_ROWS).map_err(|e| self.bad(&e))? {
                self.give(batch, &constant)?;
            }
            if last {
                return Ok(());
            }
        }
    }

    /// One row of what the path tells.
    fn constant(
        &self,
        schema: SchemaRef,
        told: &[(String, String)],
    ) -> Result<Option<RecordBatch>, StreamError> {
        if schema.fields().is_empty() {
            return Ok(None);
        }
        let mut line = String::new();
        for (i, field) in schema.fields().iter().enumerate() {
            let value = told.iter().find(|(n, _)| n == field.name()).map_or("", |(_, v)| v.as_str());
            if i > 0 {
                line.push('\t');
            }
            match value {
                NULL => line.push_str("\\N"),
                value => value.chars().for_each(|c| match c {
                    '\\' => line.push_str("\\\\"),
                    '\t' => line.push_str("\\t"),
                    '\n' => line.push_str("\\n"),
                    '\r' => line.push_str("\\r"),
                    c => line.push(c),
                }),
            }
        }
        line.push('\n');
        let parse = || {
            let mut decoder = weir_format::decoder("TabSeparated", schema, &FormatSettings::default())?;
            decoder.push(Bytes::from(line))?;
            decoder.finish()?;
            decoder.next_batch(1)
        };
        let row = parse().map_err(|e| StreamError {
            code: Code::CannotParseText,
            message: format!("the path of file {} of {}: {e}", self.file.location, self.table.name),
        })?;
        Ok(row.map(|row| row.batch))
    }

    fn give(&mut self, decoded: DecodedBatch, constant: &Option<RecordBatch>) -> Result<(), Ended> {
        let n = decoded.batch.num_rows();
        let base = self.rows;
        self.rows += n as u64;
        if n == 0 {
            return Ok(());
        }
        let bug = |e: arrow_schema::ArrowError| StreamError {
            code: Code::LogicalError,
            message: format!("rows of a file do not fit their columns: {e}"),
        };
        let mut fields = decoded.batch.schema_ref().fields().to_vec();
        let mut columns = decoded.batch.columns().to_vec();
        let mut absent: Vec<Option<BooleanArray>> = decoded.absent;
        let same = UInt32Array::from_value(0, n);
        for (i, field) in constant.iter().flat_map(|c| c.schema_ref().fields().iter().enumerate()) {
            let value = constant.as_ref().expect("it has fields").column(i);
            columns.push(arrow_select::take::take(value, &same, None).map_err(bug)?);
            fields.push(field.clone());
            absent.push(None);
        }
        let modified_us = self.file.last_modified.timestamp_micros();
        for field in self.table.around.fields() {
            let column: ArrayRef = match field.name().as_str() {
                "_tp_time" => {
                    let at = TimestampMillisecondArray::from_value(modified_us.div_euclid(1_000), n);
                    Arc::new(at.with_timezone("UTC"))
                }
                MESSAGE_KEY_COLUMN => {
                    let path = arrow_array::StringArray::from(vec![self.file.location.as_ref()]);
                    arrow_select::take::take(&path, &same, None).map_err(bug)?
                }
                _ => continue,
            };
            columns.push(column);
            fields.push(field.clone());
            absent.push(None);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(bug)?;
        let rows = ExternalRows {
            partition: self.partition,
            batch,
            absent,
            sns: (base as i64..self.rows as i64).collect(),
            append_us: vec![modified_us; n],
            next: SeqNo(self.rows),
        };
        self.to.blocking_send(Ok(ExternalRead::Rows(rows))).map_err(|_| Ended::Gone)
    }
}

/// A file of which ranges are read, on a thread that may wait.
pub(super) struct Ranges {
    place: Place,
    file: Path,
    bytes: u64,
    runtime: Handle,
}

impl Ranges {
    pub fn new(place: Place, file: &ObjectMeta, runtime: Handle) -> Self {
        Ranges { place, file: file.location.clone(), bytes: file.size, runtime }
    }

    fn get(&self, from: u64, bytes: u64) -> Result<Bytes, StreamError> {
        let end = from.saturating_add(bytes).min(self.bytes);
        self.runtime.block_on(self.place.range(&self.file, from.min(end)..end))
    }
}

impl Length for Ranges {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Ranges {
    type T = Pieces;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Pieces> {
        let of = Ranges {
            place: self.place.clone(),
            file: self.file.clone(),
            bytes: self.bytes,
            runtime: self.runtime.clone(),
        };
        Ok(Pieces { of, at: start, ready: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.get(start, length as u64).map_err(|e| ParquetError::General(e.message))?;
        if bytes.len() < length {
            return Err(ParquetError::EOF("the file ends before what its directory says".into()));
        }
        Ok(bytes)
    }
}

/// The file from some place on.
pub(super) struct Pieces {
    of: Ranges,
    at: u64,
    ready: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            let bytes = self.of.get(self.at, FETCH_BYTES).map_err(|e| io::Error::other(e.message))?;
            self.at += bytes.len() as u64;
            self.ready = bytes;
        }
        let n = into.len().min(self.ready.len());
        self.ready.copy_to_slice(&mut into[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_columns() {
        let told = of_path("a/day=2026-01-02/=x/city=S%C3%A3o%20%ZZ/b=c.csv");
        let text: Vec<String> = told.iter().map(|(k, v)| format!("{k}:{v}")).collect();
        assert_eq!(text, ["day:2026-01-02", "city:São %ZZ"]);
    }
}
