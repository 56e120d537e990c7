//! Contract of external streams: rows that lie elsewhere, read and written through a connector.
//!
//! ```text
//! settings, columns -> Connector::open -> ExternalStream: partitions, where a time lies
//!   read: messages from offsets on, decoded -> ExternalRead      write: rows -> messages -> durable there
//! ```
//!
//! A partition is a shard, the offset of a message the sequence number of its rows: offsets of a partition only
//! increase, and may have gaps. All rows of a message have its offset.
//!
//! Not here: what a setting means and who is spoken to (`connect`), order over partitions (`engine`).

use crate::{Position, StreamError};
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Code, SeqNo};

/// The key of a message.
pub const MESSAGE_KEY_COLUMN: &str = "_tp_message_key";
/// The partition that a row is written to (`int32`); no column of the payload.
pub const MESSAGE_PARTITION_COLUMN: &str = "_tp_shard";
/// The headers of a message: `map(string, string)`.
pub const MESSAGE_HEADERS_COLUMN: &str = "_tp_message_headers";

/// What an external stream was created with.
#[derive(Debug, Clone)]
pub struct ExternalSpec {
    /// `database.name`, for messages.
    pub name: String,
    /// SETTINGS by name, those of a named collection among them.
    pub settings: BTreeMap<String, String>,
    /// Schemas of formats that settings may name.
    pub schemas: BTreeMap<String, SchemaText>,
    /// Columns whose values lie in the payload, in order.
    pub payload: SchemaRef,
    /// Columns made of what surrounds a payload: `_tp_time`, [`MESSAGE_KEY_COLUMN`],
    /// [`MESSAGE_HEADERS_COLUMN`].
    pub around: SchemaRef,
}

/// The text of a format's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaText {
    /// `Avro` or `Protobuf`.
    pub language: String,
    pub text: String,
}

/// Opens external streams of one `type`; implemented by `connect`, handed to `engine` by `server`.
#[async_trait::async_trait]
pub trait Connector: Send + Sync {
    /// The value of the setting `type`.
    fn kind(&self) -> &'static str;

    /// Settings whose values are secrets: shown to nobody.
    fn secrets(&self) -> &'static [&'static str];

    /// Checks what was asked for and makes a stream of it. Talks to nobody.
    ///
    /// # Errors
    /// 115 for an unknown setting, 36 for a bad value, 48 for a column the format can not carry.
    fn open(&self, spec: ExternalSpec) -> Result<Arc<dyn ExternalStream>, StreamError>;

    /// The payload's columns where CREATE names none.
    ///
    /// # Errors
    /// Whatever keeps it from finding out.
    async fn infer(&self, spec: ExternalSpec) -> Result<SchemaRef, StreamError>;
}

/// Rows there are of a partition at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    pub id: i32,
    /// The oldest offset held, and one past the newest that may be read.
    pub first: SeqNo,
    pub end: SeqNo,
}

/// How a log that others keep is to be made, where it is not there yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogTopic {
    /// `None` = as many as there are, or one.
    pub partitions: Option<u32>,
    pub replication_factor: u32,
    /// How long and how much of a partition the other side keeps; `None` = as it does by itself.
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
}

/// What of an external stream is to be read.
#[derive(Debug, Clone, Default)]
pub struct ExternalScan {
    /// Where to begin in each partition.
    pub from: Vec<(i32, SeqNo)>,
    /// Columns that are wanted, by name; `None` = all.
    pub columns: Option<Vec<String>>,
    /// Messages that are passed over without a look, by partition.
    pub skipped: BTreeMap<i32, BTreeSet<SeqNo>>,
    /// Partitions that appear later are read from their beginning.
    pub follow: bool,
    /// A message that does not parse is said ([`ExternalRead::PassedOver`]) and passed over, and reading goes on.
    pub pass_over: bool,
}

/// An external stream. It holds no connection before somebody reads or writes.
#[async_trait::async_trait]
pub trait ExternalStream: Send + Sync + fmt::Debug {
    /// Its partitions now, ascending; those that its settings pick.
    ///
    /// # Errors
    /// 210 where nobody answers, 60 where there is no such topic.
    async fn partitions(&self) -> Result<Vec<Partition>, StreamError>;

    /// The first offset in each partition whose message is not older (milliseconds since the epoch); the end
    /// where there is none.
    async fn seek_time(&self, at_ms: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError>;

    async fn read(&self, scan: ExternalScan) -> Result<Box<dyn ExternalReader>, StreamError>;

    /// The payload of one message, for who is told that it does not parse.
    async fn raw(&self, partition: i32, at: SeqNo) -> Result<Option<Vec<u8>>, StreamError>;

    async fn write(&self, how: ExternalWrite) -> Result<Box<dyn ExternalWriter>, StreamError>;

    /// Of the first `n` partitions, one past the newest offset that may be read now. Asked again and again.
    ///
    /// # Errors
    /// As [`Self::partitions`].
    async fn ends(&self, n: usize) -> Result<Vec<SeqNo>, StreamError> {
        let all = self.partitions().await?;
        if all.len() < n {
            let message = format!("{self:?} has {} partitions, and had {n}", all.len());
            return Err(StreamError { code: Code::BadArguments, message });
        }
        Ok(all.iter().take(n).map(|p| p.end).collect())
    }

    /// Makes it on the other side where it is not there, to be the log of a stream; says how many partitions it
    /// has.
    ///
    /// # Errors
    /// 48 where it can be no log, else why it can not be made.
    async fn make_log(&self, _how: LogTopic) -> Result<u32, StreamError> {
        Err(StreamError {
            code: Code::NotImplemented,
            message: format!("{self:?} can not keep a stream's log"),
        })
    }

    /// Whether all its rows are there at once, and none comes later: it is read to its end in every mode.
    fn is_table(&self) -> bool {
        false
    }

    /// Whether a view may write to it exactly once, by transactions.
    fn is_transactional(&self) -> bool {
        false
    }
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalWrite {
    /// An INSERT, or a view that writes at least once.
    Plain,
    /// A writer that nobody else is, under this name: transactions carry how far it has come.
    Transactional(String),
}

/// Rows of one partition, and what of them the payload did not give.
#[derive(Debug, Clone)]
pub struct ExternalRows {
    pub partition: i32,
    /// Wanted columns of payload and surroundings, by name.
    pub batch: RecordBatch,
    /// For each column: `None` if every row gave it, else which rows left it out.
    pub absent: Vec<Option<BooleanArray>>,
    /// Offset and append time (microseconds since the epoch, as the other side says) of each row.
    pub sns: Vec<i64>,
    pub append_us: Vec<i64>,
    /// One past the last message that was looked at.
    pub next: SeqNo,
}

#[derive(Debug)]
pub enum ExternalRead {
    Rows(ExternalRows),
    /// Everything before this offset has been given, and there was no more a moment ago.
    CaughtUp {
        partition: i32,
        at: SeqNo,
    },
    /// A partition that was not there before; it is read from its beginning.
    Appeared(i32),
    /// What its owner should know, and no error: it goes on.
    Notice(String),
    /// A message that does not parse, where such are passed over. What lies before it was given.
    PassedOver {
        partition: i32,
        at: SeqNo,
        error: StreamError,
    },
    /// A message that does not parse. What lies before it was given; reading does not go on.
    BadMessage {
        partition: i32,
        at: SeqNo,
        error: StreamError,
    },
}

/// Reads until it is dropped.
#[async_trait::async_trait]
pub trait ExternalReader: Send {
    /// Waits; cancel safe.
    async fn next(&mut self) -> Result<ExternalRead, StreamError>;
    fn try_next(&mut self) -> Result<Option<ExternalRead>, StreamError>;
    /// Reads no more of a partition for now, or goes on; some rows that were on their way still come.
    fn hold(&mut self, partition: i32, hold: bool);
    /// What keeps it from reading just now, in a line; it is tried again and again.
    fn trouble(&self) -> Option<String>;
}

/// Writes rows. Dropped, what was not flushed may be there or not.
#[async_trait::async_trait]
pub trait ExternalWriter: Send {
    /// Rows of payload and surroundings, complete. Waits while too much is on its way.
    ///
    /// # Errors
    /// A row that the format can not carry or the other side refuses (36); 210 where nobody takes it.
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError>;

    /// Returns once all rows are durable on the other side. With a position (a transactional writer): rows
    /// and position are there together, or neither is.
    async fn flush(&mut self, at: Option<&Position>) -> Result<(), StreamError>;

    /// How long rows with a position wait for more, where nothing more is at hand.
    fn linger(&self) -> Duration {
        // A transaction is a message of its own in every partition.
        Duration::from_millis(100)
    }

    /// So much waits that it should be flushed at the next position.
    fn is_full(&self) -> bool {
        false
    }

    /// One past the greatest offset that the other side has acknowledged, of each partition written to.
    fn acknowledged(&self) -> Vec<(i32, SeqNo)> {
        Vec::new()
    }

    /// How far this writer had come, by the other side. Ends what an earlier one of its name began.
    async fn reached(&mut self) -> Result<Option<Position>, StreamError> {
        Ok(None)
    }
}
