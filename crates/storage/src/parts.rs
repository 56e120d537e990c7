//! Parts: Parquet files, written once, verified whenever read, deleted after the last reader.
//!
//! `store` is where their bytes lie (disk handle or object store) and what DataFusion reads
//! through; `checks` their block checksums; `file` what is known of one part; `write` and
//! `read` turn batches into parts and back, `group` single row groups.
//!
//! Not here: which parts are live (`manifest`), what goes into one (`commit`, `merge`).

mod checks;
mod encode;
mod file;
mod group;
mod object;
mod read;
mod sink;
mod store;
mod write;

pub use checks::BLOCK_BYTES;
pub(crate) use encode::Effort;
pub(crate) use file::Garbage;
pub use file::{PartFile, PartInfo, PartMeta};
pub(crate) use group::PartGroups;
pub(crate) use read::PartReader;
pub(crate) use store::PartStore;
pub(crate) use write::PartWriter;
