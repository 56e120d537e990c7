//! Native: blocks of columns, as ClickHouse's own clients read and write them.
//!
//! A block is its number of columns and rows, then for each column its name, its type and all
//! its values. With a client revision above 0 (`client_protocol_version`) a block starts with
//! its info fields, and from 54454 each type is followed by a byte that says how values are
//! serialized. A dictionary-coded column is a version, then keys and indexes.

mod decode;
mod encode;

pub(crate) use decode::NativeDecoder;
pub(crate) use encode::NativeEncoder;

/// From this revision a byte after each type tells of custom serialization.
const REVISION_CUSTOM_SERIALIZATION: u64 = 54_454;

/// Below this revision a column of type `DateTime` is named without its zone.
const REVISION_TIME_ZONE: u64 = 54_337;

/// Version of a dictionary-coded column: one dictionary a block.
const DICTIONARY_VERSION: u64 = 1;
/// Keys come with the block.
const DICTIONARY_KEYS: u64 = 1 << 9;
/// The reader forgets the dictionary it had.
const DICTIONARY_NEW: u64 = 1 << 10;
/// Keys of another block are used; no one writes that into files.
const DICTIONARY_GLOBAL: u64 = 1 << 8;

/// What ClickHouse writes for each value of type Nothing.
const NOTHING: u8 = b'0';
