//! Writes files: rows are encoded in memory, a file for each partition, and put whole.

use super::place::Place;
use super::reader::NULL;
use super::settings::extension;
use super::table::Table;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use bytes::Bytes;
use object_store::path::Path;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::Code;
use weir_format::{BoxEncoder, FormatError, FormatSettings, ResultStats};
use weir_plan::{ExternalWriter, Position, StreamError};

/// A file is put when it has so many bytes, and all are when together they have.
const FILE_BYTES_MAX: usize = 64 << 20;
const ALL_BYTES_MAX: usize = 256 << 20;
/// Files that are filled at once.
const OPEN_MAX: usize = 1_000;

pub(super) struct FileWriter {
    table: Arc<Table>,
    to: Place,
    /// Columns of the files, and those that their paths tell.
    inside: SchemaRef,
    told: SchemaRef,
    /// By what the path tells.
    open: BTreeMap<String, Open>,
}

struct Open {
    encoder: BoxEncoder,
    bytes: Vec<u8>,
}

impl FileWriter {
    pub fn new(table: Arc<Table>, to: Place) -> Self {
        let by = &table.settings.partition_by;
        let (told, inside): (Vec<_>, Vec<_>) =
            table.payload.fields().iter().cloned().partition(|f| by.contains(f.name()));
        // In the order they are named.
        let told = by.iter().filter_map(|name| told.iter().find(|f| f.name() == name).cloned());
        let told = Arc::new(Schema::new(told.collect::<Vec<_>>()));
        FileWriter { to, inside: Arc::new(Schema::new(inside)), told, open: BTreeMap::new(), table }
    }

    fn failed(&self, e: &FormatError) -> StreamError {
        StreamError { code: Code::BadArguments, message: format!("a file of {}: {e}", self.table.name) }
    }

    /// Of each row the directories it lies in.
    fn paths(&self, rows: &RecordBatch) -> Result<Vec<String>, StreamError> {
        if self.told.fields().is_empty() {
            return Ok(vec![String::new(); rows.num_rows()]);
        }
        let rows = columns_of(rows, &self.told).map_err(|e| bug(&e))?;
        let encode = || {
            let mut text = Vec::new();
            let settings = FormatSettings::default();
            let mut encoder = weir_format::encoder("JSONCompactEachRow", self.told.clone(), &settings)?;
            encoder.begin(&mut text)?;
            encoder.batch(&rows, &mut text)?;
            Ok(text)
        };
        let text = encode().map_err(|e: FormatError| self.failed(&e))?;
        let path = |line: &[u8]| {
            let values: Vec<Value> = serde_json::from_slice(line).map_err(|e| StreamError {
                code: Code::LogicalError,
                message: format!("values of partition_by are no JSON: {e}"),
            })?;
            let dirs = self.told.fields().iter().zip(values).map(|(field, value)| {
                let value = match value {
                    Value::Null => NULL.to_owned(),
                    Value::String(text) => escaped(&text),
                    other => escaped(&other.to_string()),
                };
                format!("{}={value}/", field.name())
            });
            Ok(dirs.collect::<String>())
        };
        text.split(|b| *b == b'\n').take(rows.num_rows()).map(path).collect()
    }

    fn add(&mut self, dirs: &str, rows: &RecordBatch) -> Result<(), StreamError> {
        if !self.open.contains_key(dirs) {
            if self.open.len() == OPEN_MAX {
                return Err(StreamError {
                    code: Code::BadArguments,
                    message: format!(
                        "rows of {} lie in more than {OPEN_MAX} partitions of {}; insert them by partition, or choose \
                         another partition_by",
                        self.table.name,
                        self.table.settings.partition_by.join(", ")
                    ),
                });
            }
            let made = || {
                let mut bytes = Vec::new();
                let name = self.table.settings.format.name;
                let mut encoder =
                    weir_format::encoder(name, self.inside.clone(), &FormatSettings::default())?;
                encoder.begin(&mut bytes)?;
                Ok(Open { encoder, bytes })
            };
            let open = made().map_err(|e: FormatError| self.failed(&e))?;
            self.open.insert(dirs.to_owned(), open);
        }
        let open = self.open.get_mut(dirs).expect("made above");
        let done = open.encoder.batch(rows, &mut open.bytes);
        done.map_err(|e| self.failed(&e))
    }

    /// Ends files and puts them; those that fail are gone, and whoever writes hears of it.
    async fn put(&mut self, which: impl Fn(&Open) -> bool) -> Result<(), StreamError> {
        let full: Vec<String> =
            self.open.iter().filter(|(_, o)| which(o)).map(|(dirs, _)| dirs.clone()).collect();
        for dirs in full {
            let Some(Open { mut encoder, mut bytes }) = self.open.remove(&dirs) else { continue };
            encoder.end(&ResultStats::default(), &mut bytes).map_err(|e| self.failed(&e))?;
            let access = &self.table.access;
            let name = format!(
                "{}/{dirs}{:016x}-{:016x}.{}",
                self.to.below.trim_matches('/'),
                access.clock.now_us(),
                access.rng.u64(),
                extension(self.table.settings.format)
            );
            let path = Path::parse(name.trim_start_matches('/')).map_err(|e| StreamError {
                code: Code::BadArguments,
                message: format!("{name} is no path: {e}"),
            })?;
            self.to.put(&path, Bytes::from(bytes)).await?;
        }
        Ok(())
    }
}

fn bug(e: &ArrowError) -> StreamError {
    StreamError { code: Code::LogicalError, message: format!("rows for a file do not fit its columns: {e}") }
}

fn columns_of(rows: &RecordBatch, schema: &Schema) -> Result<RecordBatch, ArrowError> {
    let places: Vec<usize> =
        schema.fields().iter().map(|f| rows.schema_ref().index_of(f.name())).collect::<Result<_, _>>()?;
    rows.project(&places)
}

/// What may stand in a path, whatever stands in a value.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(*byte)),
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[async_trait::async_trait]
impl ExternalWriter for FileWriter {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError> {
        let paths = self.paths(rows)?;
        let inside = columns_of(rows, &self.inside).map_err(|e| bug(&e))?;
        let mut by_path: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (row, path) in paths.iter().enumerate() {
            by_path.entry(path).or_default().push(row as u32);
        }
        for (path, of) in by_path {
            if of.len() == inside.num_rows() {
                self.add(path, &inside)?;
                continue;
            }
            let of = UInt32Array::from(of);
            let columns = inside.columns().iter().map(|c| arrow_select::take::take(c, &of, None));
            let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|e| bug(&e))?;
            let part = RecordBatch::try_new(self.inside.clone(), columns).map_err(|e| bug(&e))?;
            self.add(path, &part)?;
        }
        self.put(|open| open.bytes.len() >= FILE_BYTES_MAX).await?;
        let all: usize = self.open.values().map(|o| o.bytes.len()).sum();
        if all >= ALL_BYTES_MAX { self.put(|_| true).await } else { Ok(()) }
    }

    async fn flush(&mut self, _: Option<&Position>) -> Result<(), StreamError> {
        self.put(|_| true).await
    }
}
