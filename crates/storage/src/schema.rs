//! The schemas a stream has had, so that older records and parts still read.
//!
//! A record names its schema by hash; the schema itself lies in a small checksummed file of
//! the stream, durable before any record names it.

use crate::error::{Result, StorageError};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_schema::{Schema, SchemaRef};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::Disk;
use weir_base::disk::{read_file, write_file_atomic};

/// Names a schema in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SchemaId(pub u64);

/// A schema with what decoding needs: the same fields as read back from their IPC form.
#[derive(Debug, Clone)]
pub(crate) struct KnownSchema {
    pub id: SchemaId,
    pub schema: SchemaRef,
    /// With the dictionary ids that encoding assigns.
    pub ipc: SchemaRef,
}

#[derive(Debug)]
pub(crate) struct SchemaBook {
    current: KnownSchema,
    all: RwLock<HashMap<SchemaId, KnownSchema>>,
}

impl SchemaBook {
    /// Only the current schema, nothing stored: for streams in memory.
    pub fn in_memory(schema: &SchemaRef) -> Result<Self> {
        let (current, _) = encode(schema)?;
        Ok(SchemaBook { all: RwLock::new(HashMap::from([(current.id, current.clone())])), current })
    }

    /// Reads the schemas in `dir` and adds the current one durably if it is new. Blocks.
    pub fn open(disk: &dyn Disk, dir: &str, schema: &SchemaRef) -> Result<Self> {
        let book = Self::in_memory(schema)?;
        let failed = |e| StorageError::io("list", dir, e);
        disk.create_dir_all(dir).map_err(failed)?;
        for entry in disk.list(dir).map_err(failed)? {
            let Some(stem) = entry.name.strip_suffix(".schema") else { continue };
            let path = format!("{dir}/{}", entry.name);
            let bytes = read_file(disk, &path).map_err(|e| StorageError::io("read", &path, e))?;
            let known = decode(&path, stem, &bytes)?;
            book.all.write().insert(known.id, known);
        }
        let path = format!("{dir}/{:016x}.schema", book.current.id.0);
        if disk.len(&path).map_err(failed)?.is_none() {
            let (_, message) = encode(schema)?;
            let mut bytes = crc32c::crc32c(&message).to_le_bytes().to_vec();
            bytes.extend_from_slice(&message);
            write_file_atomic(disk, &path, &bytes).map_err(|e| StorageError::io("write", &path, e))?;
            let parent = weir_base::disk::parent(dir);
            disk.sync_dir(parent).map_err(|e| StorageError::io("sync directory", parent, e))?;
        }
        Ok(book)
    }

    pub fn current(&self) -> &KnownSchema {
        &self.current
    }

    pub fn get(&self, id: SchemaId) -> Option<KnownSchema> {
        self.all.read().get(&id).cloned()
    }
}

fn encode(schema: &SchemaRef) -> Result<(KnownSchema, Vec<u8>)> {
    let mut tracker = DictionaryTracker::new(false);
    let data = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut tracker,
        &IpcWriteOptions::default(),
    );
    // The order in which metadata is written is not fixed, so the id comes from a sorted form.
    let id = SchemaId(xxhash_rust::xxh3::xxh3_64(describe(schema).as_bytes()));
    let ipc = parse(&data.ipc_message).map_err(|what| StorageError::Schema { what })?;
    Ok((KnownSchema { id, schema: schema.clone(), ipc }, data.ipc_message))
}

fn parse(message: &[u8]) -> std::result::Result<SchemaRef, String> {
    let message = arrow_ipc::root_as_message(message).map_err(|e| e.to_string())?;
    let schema = message.header_as_schema().ok_or("not a schema message")?;
    Ok(Arc::new(arrow_ipc::convert::fb_to_schema(schema)))
}

fn decode(path: &str, stem: &str, bytes: &[u8]) -> Result<KnownSchema> {
    let corrupt = |what: String| StorageError::Corrupt { path: path.to_owned(), offset: 0, what };
    let (crc, message) = bytes.split_first_chunk::<4>().ok_or_else(|| corrupt("cut short".into()))?;
    if crc32c::crc32c(message) != u32::from_le_bytes(*crc) {
        return Err(corrupt("checksum does not match".into()));
    }
    let id = u64::from_str_radix(stem, 16).map_err(|_| corrupt("the name is no schema id".into()))?;
    let ipc = parse(message).map_err(corrupt)?;
    Ok(KnownSchema { id: SchemaId(id), schema: ipc.clone(), ipc })
}

fn describe(schema: &Schema) -> String {
    fn field(out: &mut String, f: &arrow_schema::Field) {
        use std::fmt::Write;
        let mut metadata: Vec<_> = f.metadata().iter().collect();
        metadata.sort();
        write!(out, "{:?} {:?} {} {metadata:?};", f.name(), f.data_type(), f.is_nullable())
            .expect("writing to a string");
    }
    let mut out = String::new();
    schema.fields().iter().for_each(|f| field(&mut out, f));
    out
}

/// `batch` with exactly the columns of `schema`, by name: a nullable column added later reads
/// as NULL, a dropped one is left out.
pub(crate) fn adapt(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => arrow_cast::cast(column, field.data_type())
                .map_err(|e| StorageError::Schema { what: format!("column {}: {e}", field.name()) }),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), rows)),
            None => Err(StorageError::Schema {
                what: format!("column {} is missing and has no default", field.name()),
            }),
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|e| StorageError::Schema { what: e.to_string() })
}
