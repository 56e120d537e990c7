//! Why the catalog refused a change or could not be read.

use crate::RelationName;
use std::sync::Arc;
use weir_base::{Code, Error};

/// Every variant but `Log` means that nothing has changed. After a failed append the outcome
/// is unknown until the catalog is opened again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    #[error("database {name} does not exist{hint}")]
    UnknownDatabase { name: String, hint: String },
    #[error("stream {name} does not exist{hint}")]
    UnknownRelation { name: RelationName, hint: String },
    #[error("there is no task or alert {name}; SHOW TASKS and SHOW ALERTS list them")]
    UnknownJob { name: RelationName },
    #[error("there is no named collection {name}; SHOW NAMED COLLECTIONS lists them")]
    UnknownCollection { name: String },
    #[error("there is no format schema {name}; SHOW FORMAT SCHEMAS lists them")]
    UnknownFormatSchema { name: String },
    #[error("{what} is used by {}; drop these first", used_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    InUse { what: String, used_by: Vec<RelationName> },
    #[error("database {name} exists already")]
    DatabaseExists { name: String },
    #[error("{name} exists already; drop it first or use IF NOT EXISTS")]
    RelationExists { name: RelationName },
    #[error(
        "database {name} holds {relations} streams, views, tasks and alerts; drop them first or use CASCADE"
    )]
    DatabaseNotEmpty { name: String, relations: usize },
    #[error("database {name} is built in and cannot be changed")]
    BuiltIn { name: String },
    #[error(
        "{name} is used by {}; drop that first or use SETTINGS enable_dependency_check=0",
        used_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    HasDependents { name: RelationName, used_by: Vec<RelationName> },
    #[error("view {name} would feed itself: its rows come back to it through {through}")]
    FeedsItself { name: RelationName, through: RelationName },
    #[error("a stream cannot be renamed into another database, from {from} to {to}")]
    AcrossDatabases { from: RelationName, to: RelationName },
    #[error("could not write the catalog: {0}")]
    Append(#[from] weir_log::AppendError),
    #[error("could not read the catalog: {0}")]
    Read(#[from] weir_log::ReadError),
    #[error("the catalog is damaged at {place}: {what}")]
    Corrupt { place: String, what: String },
    #[error("could not reach {path}: {source}")]
    Io { path: String, source: Arc<std::io::Error> },
}

impl CatalogError {
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownDatabase { .. } => Code::UnknownDatabase,
            Self::UnknownRelation { .. } | Self::UnknownJob { .. } => Code::UnknownStream,
            Self::UnknownCollection { .. } | Self::UnknownFormatSchema { .. } => Code::BadArguments,
            Self::DatabaseExists { .. } => Code::DatabaseAlreadyExists,
            Self::RelationExists { .. } => Code::StreamAlreadyExists,
            Self::DatabaseNotEmpty { .. } | Self::HasDependents { .. } | Self::InUse { .. } => {
                Code::HasDependents
            }
            Self::BuiltIn { .. } => Code::AccessDenied,
            Self::FeedsItself { .. } => Code::BadArguments,
            Self::AcrossDatabases { .. } => Code::NotImplemented,
            Self::Append(weir_log::AppendError::DiskFull { .. }) => Code::NotEnoughSpace,
            Self::Append(_) | Self::Io { .. } => Code::IoError,
            Self::Read(weir_log::ReadError::Corrupt { .. }) | Self::Corrupt { .. } => Code::CorruptedData,
            Self::Read(_) => Code::IoError,
        }
    }
}

impl From<weir_log::OpenError> for CatalogError {
    fn from(e: weir_log::OpenError) -> Self {
        match e {
            weir_log::OpenError::Read(e) => CatalogError::Read(e),
            weir_log::OpenError::Write(e) => CatalogError::Append(e),
        }
    }
}

impl From<CatalogError> for Error {
    fn from(e: CatalogError) -> Error {
        Error::new(e.code(), e.to_string())
    }
}
