//! Files as a table: which there are, and who reads and writes them.

use super::FilesAccess;
use super::place::{FILES_MAX, Place};
use super::reader::{self, FileReader, Ranges};
use super::settings::FileSettings;
use super::writer::FileWriter;
use crate::payload::infer;
use crate::settings::bad;
use arrow_schema::{Field, Schema, SchemaRef};
use futures::TryStreamExt;
use object_store::ObjectMeta;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use weir_base::{Code, SeqNo};
use weir_format::types::Type;
use weir_plan::{
    ExternalReader, ExternalScan, ExternalSpec, ExternalStream, ExternalWrite, ExternalWriter, Partition,
    StreamError,
};

/// Files that are read at once for one query: each is in one of so many groups, which are read one after the other.
const GROUPS_MAX: usize = 4;
/// Files that were told and are not read yet, of queries that are planned just now.
const TOLD_MAX: usize = 4 * FILES_MAX;
/// Bytes of a file that are looked at to find out columns.
const SAMPLE_BYTES: usize = 1 << 20;

/// A table as all who read and write it see it.
pub(super) struct Table {
    /// `database.name`, for messages.
    pub name: String,
    pub settings: FileSettings,
    pub payload: SchemaRef,
    pub around: SchemaRef,
    pub access: FilesAccess,
    told: Mutex<Told>,
}

/// Groups of files, by their numbers.
#[derive(Default)]
struct Told {
    next: i32,
    groups: BTreeMap<i32, Vec<ObjectMeta>>,
    files: usize,
}

pub(super) struct FileTable(Arc<Table>);

impl fmt::Debug for FileTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.0.settings;
        let place = settings.from.as_ref().or(settings.to.as_ref()).map_or("", |p| p.shown.as_str());
        write!(f, "{} ({place})", self.0.name)
    }
}

impl FileTable {
    pub fn open(
        spec: ExternalSpec,
        access: &FilesAccess,
        settings: fn(&ExternalSpec, &FilesAccess) -> Result<FileSettings, StreamError>,
    ) -> Result<Self, StreamError> {
        let settings = settings(&spec, access)?;
        Ok(FileTable(Arc::new(Table {
            name: spec.name,
            settings,
            payload: spec.payload,
            around: spec.around,
            access: access.clone(),
            told: Mutex::default(),
        })))
    }

    /// Columns of the first file, and those that its path tells.
    pub async fn infer(&self) -> Result<SchemaRef, StreamError> {
        let table = &self.0;
        let no = |what: &str| {
            bad(format!("{} names no columns, and {what}; write them in CREATE EXTERNAL TABLE", table.name))
        };
        let from = table.from()?.clone();
        let files = from.list().await?;
        let first = files.first().ok_or_else(|| no("there is no file to find them out from"))?.clone();
        let mut columns: Vec<(String, String)> = match table.settings.format.name {
            "Parquet" => {
                let (place, file, runtime) = (from.clone(), first.clone(), tokio::runtime::Handle::current());
                let found = tokio::task::spawn_blocking(move || {
                    weir_format::parquet_columns(Ranges::new(place, &file, runtime))
                });
                let found = found.await.map_err(|e| no(&e.to_string()))?.map_err(|e| no(&e.to_string()))?;
                let column = |(name, of): (String, Option<Type>)| match of {
                    Some(of) => Ok((name, of.to_string())),
                    None => Err(no(&format!(
                        "column {name} of {} has a type that fits none of Weir",
                        first.location
                    ))),
                };
                found.into_iter().map(column).collect::<Result<_, _>>()?
            }
            "JSONEachRow" => {
                let mut pieces = from.pieces(&first.location).await?;
                let mut sample = Vec::new();
                while sample.len() < SAMPLE_BYTES
                    && let Some(piece) = pieces.try_next().await?
                {
                    sample.extend_from_slice(&piece);
                }
                // The last line may be cut.
                let mut lines: Vec<&[u8]> = sample.split(|b| *b == b'\n').collect();
                if sample.len() >= SAMPLE_BYTES {
                    lines.pop();
                }
                infer(lines.into_iter().filter(|l| !l.is_empty())).map_err(|e| no(&e))?
            }
            name => return Err(no(&format!("files of {name} do not tell theirs"))),
        };
        for (name, _) in reader::of_path(first.location.as_ref()) {
            if !columns.iter().any(|(known, _)| *known == name) {
                columns.push((name, "string".into()));
            }
        }
        let field = |(name, type_name): (String, String)| {
            Type::parse(&type_name).map(|t| t.field(&name)).map_err(|e| no(&e.to_string()))
        };
        Ok(Arc::new(Schema::new(columns.into_iter().map(field).collect::<Result<Vec<Field>, _>>()?)))
    }
}

impl Table {
    pub fn from(&self) -> Result<&Place, StreamError> {
        self.settings.from.as_ref().ok_or_else(|| {
            bad(format!(
                "{} has no read_from: it is only written; create it with read_from='dir/*.parquet'",
                self.name
            ))
        })
    }

    /// The files of a group.
    pub fn group(&self, id: i32) -> Result<Vec<ObjectMeta>, StreamError> {
        let mut told = self.told.lock();
        let group = told.groups.remove(&id).ok_or_else(|| StreamError {
            code: Code::TooManyQueries,
            message: format!("too many queries of {} begin at once; try again", self.name),
        })?;
        told.files -= group.len();
        Ok(group)
    }

    /// Files in groups of about the same size, each of a new number.
    fn tell(&self, files: Vec<ObjectMeta>) -> Vec<i32> {
        let mut groups: Vec<(u64, Vec<ObjectMeta>)> = vec![(0, Vec::new()); GROUPS_MAX.min(files.len())];
        for file in files {
            if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
                *bytes += file.size;
                group.push(file);
            }
        }
        let mut told = self.told.lock();
        let mut ids = Vec::with_capacity(groups.len());
        for (_, group) in groups {
            told.files += group.len();
            while told.files > TOLD_MAX
                && let Some((_, oldest)) = told.groups.pop_first()
            {
                // Of a query that was only explained.
                told.files -= oldest.len();
            }
            let id = told.next;
            told.next = id.checked_add(1).unwrap_or(0);
            told.groups.insert(id, group);
            ids.push(id);
        }
        ids
    }
}

#[async_trait::async_trait]
impl ExternalStream for FileTable {
    async fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        let files = self.0.from()?.list().await?;
        let files = files.into_iter().filter(|f| f.size > 0).collect();
        // How many rows there are nobody knows before they are read.
        let partition = |id| Partition { id, first: SeqNo::ZERO, end: SeqNo::MAX };
        Ok(self.0.tell(files).into_iter().map(partition).collect())
    }

    async fn seek_time(&self, _: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        Ok(of.iter().map(|p| p.first).collect())
    }

    async fn read(&self, scan: ExternalScan) -> Result<Box<dyn ExternalReader>, StreamError> {
        Ok(Box::new(FileReader::start(&self.0, scan)?))
    }

    async fn raw(&self, _: i32, _: SeqNo) -> Result<Option<Vec<u8>>, StreamError> {
        Ok(None)
    }

    async fn write(&self, _: ExternalWrite) -> Result<Box<dyn ExternalWriter>, StreamError> {
        let Some(to) = self.0.settings.to.clone() else {
            return Err(bad(format!(
                "{} has no write_to: it is only read; create it with write_to='dir'",
                self.0.name
            )));
        };
        Ok(Box::new(FileWriter::new(self.0.clone(), to)))
    }

    fn is_table(&self) -> bool {
        true
    }
}
