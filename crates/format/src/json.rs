//! The JSON family: JSONEachRow, JSONCompactEachRow, JSON, JSONCompact.

mod decode;
mod encode;
mod scan;

pub(crate) use decode::{CompactEachRow, EachRow, check_types};
pub(crate) use encode::{CompactEachRowEncoder, DocumentEncoder, EachRowEncoder};
