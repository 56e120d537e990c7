//! Floor 2: one shard = its log + its Parquet parts, stitched.
//!
//! A sequence number says which side holds a row: parts below `committed_end`, the log from
//! there to `durable_end`. The committer moves the border; readers pin what they read.
//!
//! Not here: SQL, expressions (a [`PartLayout`] evaluates ORDER BY, PARTITION BY and TTL),
//! DataFusion, which shard a row belongs to, watermarks.

pub mod layout;
pub mod options;

pub use layout::{LayoutError, PartLayout};
pub use options::{StorageType, StreamOptions};
