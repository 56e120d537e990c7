//! Why a call into storage failed, and what the caller can do about it.

use crate::layout::LayoutError;
use arrow_schema::ArrowError;
use parquet::errors::ParquetError;
use std::io;
use std::sync::Arc;
use weir_base::memory::OverBudget;
use weir_base::{Code, Error, ErrorKind, SeqNo};
use weir_log::{AppendError, ReadError};

/// Every variant but `Append` with an outcome unknown (see [`AppendError`]) means that the
/// call changed nothing that a reader can see.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Append(AppendError),
    /// Retention or TRUNCATE removed the rows asked for.
    #[error("sequence number {asked} is below the oldest held, {oldest}")]
    Truncated { asked: SeqNo, oldest: SeqNo },
    #[error("{path} is damaged at byte {offset}: {what}")]
    Corrupt { path: String, offset: u64, what: String },
    #[error("could not {doing} {path}")]
    Io { doing: &'static str, path: String, source: Arc<io::Error> },
    #[error("could not {doing} {path} on the object store")]
    Object { doing: &'static str, path: String, source: Arc<object_store::Error> },
    #[error("could not {doing} {path}: {reason}")]
    Parquet { doing: &'static str, path: String, reason: String },
    #[error("could not {doing}: {source}")]
    Arrow { doing: &'static str, source: Arc<ArrowError> },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("the batch does not fit the stream: {what}")]
    Schema { what: String },
    /// Appends stop when rows can't be moved to parts; they go on once commits succeed.
    #[error(
        "{uncommitted_bytes} bytes of log wait to be committed to parts, the limit is {limit_bytes}, \
         and commits fail: {reason}"
    )]
    CommitStalled { uncommitted_bytes: u64, limit_bytes: u64, reason: String },
    #[error(
        "the log holds {held_bytes} bytes that somebody needs, and may hold {limit_bytes} (logstore_bytes_max): let who \
         reads it catch up, raise the setting, or set logstore_full='drop_oldest'"
    )]
    LogFull { held_bytes: u64, limit_bytes: u64 },
    #[error("a stream of storage type {storage_type} has no parts; {what} needs them")]
    NoParts { storage_type: &'static str, what: &'static str },
    #[error("{0}; insert less at once or raise --memory-limit")]
    Memory(#[from] OverBudget),
    /// Only of work that was asked for: the background waits.
    #[error("no memory for {doing}: {over}; end queries that hold memory, retry, or raise --memory-limit")]
    NoRoom { doing: &'static str, over: OverBudget },
    #[error("others keep the log of this stream: rows go there, not into a shard")]
    KeptElsewhere,
    /// Of an external log: it can not be said which rows there are.
    #[error("{what}")]
    LogAway { what: String },
    #[error("the shard is closed")]
    Closed,
    #[error("the stream was dropped")]
    Dropped,
    /// A worker thread ended without an answer.
    #[error("{doing} ended without an answer: {reason}")]
    Worker { doing: &'static str, reason: String },
}

pub type Result<T, E = StorageError> = std::result::Result<T, E>;

impl StorageError {
    pub fn kind(&self) -> ErrorKind {
        self.code().kind()
    }

    /// The code under which a client sees it.
    pub fn code(&self) -> Code {
        match self {
            Self::Append(e) => match e {
                AppendError::DiskFull { .. } => Code::NotEnoughSpace,
                AppendError::Io { source, .. } => io_code(source, Code::CannotWriteFile),
                AppendError::Poisoned { .. } | AppendError::Closed => Code::CannotWriteFile,
                _ => Code::BadArguments,
            },
            Self::Truncated { .. } => Code::SequenceOutOfRange,
            Self::Corrupt { .. } => Code::CorruptedData,
            Self::Io { source, .. } => io_code(source, Code::CannotReadFile),
            Self::Object { .. } => Code::IoError,
            Self::Parquet { .. } => Code::CannotReadFile,
            Self::Arrow { .. } | Self::Worker { .. } => Code::LogicalError,
            Self::Layout(_) => Code::BadArguments,
            Self::Schema { .. } => Code::TypeMismatch,
            Self::CommitStalled { .. } | Self::LogFull { .. } => Code::NotEnoughSpace,
            Self::NoParts { .. } => Code::BadArguments,
            Self::Memory(_) | Self::NoRoom { .. } => Code::MemoryLimitExceeded,
            Self::KeptElsewhere => Code::NotImplemented,
            Self::LogAway { .. } => Code::NetworkError,
            Self::Closed => Code::QueryWasCancelled,
            Self::Dropped => Code::UnknownStream,
        }
    }

    pub(crate) fn io(doing: &'static str, path: &str, source: io::Error) -> Self {
        // A damaged block found below a `Read` comes back inside an io::Error.
        if source.get_ref().is_some_and(|inner| inner.is::<StorageError>()) {
            let inner = source.into_inner().expect("get_ref was Some");
            return *inner.downcast::<StorageError>().expect("checked above");
        }
        Self::Io { doing, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn object(doing: &'static str, path: &str, source: object_store::Error) -> Self {
        if let object_store::Error::Generic { source: inner, .. } = &source
            && let Some(own) = inner.downcast_ref::<StorageError>()
        {
            return own.clone();
        }
        Self::Object { doing, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn parquet(doing: &'static str, path: &str, source: ParquetError) -> Self {
        match source {
            ParquetError::External(inner) => match inner.downcast::<StorageError>() {
                Ok(own) => *own,
                Err(inner) => match inner.downcast::<io::Error>() {
                    Ok(io) => Self::io(doing, path, *io),
                    Err(inner) => Self::Parquet { doing, path: path.to_owned(), reason: inner.to_string() },
                },
            },
            other => Self::Parquet { doing, path: path.to_owned(), reason: other.to_string() },
        }
    }

    pub(crate) fn arrow(doing: &'static str, path: &str, source: ArrowError) -> Self {
        match source {
            ArrowError::ExternalError(inner) => match inner.downcast::<StorageError>() {
                Ok(own) => *own,
                Err(inner) => match inner.downcast::<ParquetError>() {
                    Ok(parquet) => Self::parquet(doing, path, *parquet),
                    Err(inner) => Self::Parquet { doing, path: path.to_owned(), reason: inner.to_string() },
                },
            },
            // The Parquet reader passes its errors through Arrow as text.
            ArrowError::ParquetError(reason) => Self::Parquet { doing, path: path.to_owned(), reason },
            source => Self::Arrow { doing, source: Arc::new(source) },
        }
    }

    /// As an error of the object store interface, so that it survives a trip through it.
    pub(crate) fn into_object(self) -> object_store::Error {
        match self {
            Self::Object { source, .. } if Arc::strong_count(&source) == 1 => {
                Arc::into_inner(source).expect("the only holder")
            }
            other => object_store::Error::Generic { store: "weir", source: Box::new(other) },
        }
    }
}

fn io_code(source: &io::Error, other: Code) -> Code {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::NotEnoughSpace,
        _ => other,
    }
}

impl From<AppendError> for StorageError {
    fn from(e: AppendError) -> Self {
        match e {
            AppendError::Closed => Self::Closed,
            AppendError::Memory(over) => Self::Memory(over),
            e => Self::Append(e),
        }
    }
}

impl From<ReadError> for StorageError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Truncated { asked, oldest } => Self::Truncated { asked, oldest },
            ReadError::Corrupt { path, offset, what } => Self::Corrupt { path, offset, what },
            ReadError::Io { path, source } => Self::Io { doing: "read", path, source },
        }
    }
}

impl From<StorageError> for Error {
    fn from(e: StorageError) -> Self {
        let mut text = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Error::new(e.code(), text)
    }
}
