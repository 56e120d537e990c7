//! Floor 2: one shard = its log + its Parquet parts, stitched.
//!
//! A sequence number says which side holds a row: parts below `committed_end`, the log from
//! there to `durable_end`. The committer moves the border; readers pin what they read.
//!
//! Not here: SQL, expressions (a [`PartLayout`] evaluates ORDER BY, PARTITION BY and TTL),
//! DataFusion, which shard a row belongs to, watermarks.

mod batch;
mod context;
mod error;
mod external;
pub mod layout;
mod logs;
mod manifest;
pub mod options;
mod order;
mod parts;
mod payload;
mod ring;
mod s3;
mod schema;
mod shard;
mod spill;
mod store;
#[cfg(test)]
mod testing;

pub use batch::{
    APPEND_TIME_COLUMN, SN_COLUMN, Sns, TIME_COLUMN, TailBatch, Times, append_time_type, part_schema,
};
pub use context::{PartsLocation, StoreContext};
pub use error::StorageError;
pub use external::LogKeeper;
pub use layout::{ArrivalByDay, LayoutError, PartLayout};
pub use options::{Codec, LogFull, LogStore, StorageType, StreamOptions};
pub use parts::{BLOCK_BYTES, PartFile, PartInfo, PartMeta};
pub use payload::content_hash;
pub use s3::S3Config;
pub use shard::{
    HistoryScan, LogPin, LogRows, MergeMode, Pruner, Shard, ShardSnapshot, ShardStats, TailCursor, Verified,
    Wanted,
};
pub use store::{Removal, StreamStore, remove_stream};
pub use weir_log::{Ack, Appended, Idempotency, PROGRESS_BYTES_MAX, Progress, SegmentInfo};
