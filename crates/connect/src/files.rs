//! `type='file'` and `type='s3'`: files below a directory or in a bucket, as a table. It has an end: nothing of it is
//! live.
//!
//! ```text
//! read_from (a pattern) -> files there are now, in a few groups, each a partition -> a thread each -> rows
//! INSERT -> rows by partition_by -> encoded -> files of new names below write_to, each there whole or not
//! ```
//!
//! Columns that a file lacks are taken from its path, where that says `name=value`.
//!
//! Invariants
//! - nothing outside of the directories of `--allowed-paths` is read or written, whatever links say;
//! - a file is read in pieces: memory does not depend on its size.
//!
//! Not here: formats (`weir_format`).

mod place;
mod reader;
mod settings;
mod table;
mod writer;

pub use place::AllowedPaths;

use crate::remote::RemoteHosts;
use arrow_schema::SchemaRef;
use std::sync::Arc;
use table::FileTable;
use weir_base::{Clock, Rng};
use weir_plan::{Connector, ExternalSpec, ExternalStream, StreamError};

/// What tables of files are made with.
#[derive(Clone)]
pub struct FilesAccess {
    pub paths: AllowedPaths,
    pub hosts: RemoteHosts,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<Rng>,
}

/// Local files.
pub struct FileConnector(pub FilesAccess);

/// Files in a bucket of S3, or of what speaks as it does.
pub struct S3Connector(pub FilesAccess);

#[async_trait::async_trait]
impl Connector for FileConnector {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn secrets(&self) -> &'static [&'static str] {
        &[]
    }

    fn open(&self, spec: ExternalSpec) -> Result<Arc<dyn ExternalStream>, StreamError> {
        Ok(Arc::new(FileTable::open(spec, &self.0, settings::local)?))
    }

    async fn infer(&self, spec: ExternalSpec) -> Result<SchemaRef, StreamError> {
        FileTable::open(spec, &self.0, settings::local)?.infer().await
    }
}

#[async_trait::async_trait]
impl Connector for S3Connector {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["access_key_id", "secret_access_key", "session_token"]
    }

    fn open(&self, spec: ExternalSpec) -> Result<Arc<dyn ExternalStream>, StreamError> {
        Ok(Arc::new(FileTable::open(spec, &self.0, settings::s3)?))
    }

    async fn infer(&self, spec: ExternalSpec) -> Result<SchemaRef, StreamError> {
        FileTable::open(spec, &self.0, settings::s3)?.infer().await
    }
}
