//! Avro 1.12: schemas, single values, and object container files.
//!
//! ```text
//! schema text -> AvroSchema        value: bytes -> columns (read), columns -> bytes (write)
//!                                  file: header with its schema, blocks of values (container)
//! ```
//!
//! Values are read straight into columns, by the schema they were written with: fields are found by name, and
//! those that no column wants are passed over. So a reader that knows other fields than the writer gets what
//! schema resolution would give it, and what a few bytes claim to hold never takes more memory than they do.
//!
//! Our own code: `apache-avro` 0.21 panics on a bad name in a schema, forgets that a UUID is of 16 bytes, and
//! takes gigabytes for an array of which ten bytes claim that it is long; `arrow-avro` has no way back to the rows
//! before a value that does not fit.

mod container;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use container::{AvroFileDecoder, AvroFileEncoder};
pub use read::AvroRows;
pub use schema::AvroSchema;
pub use write::AvroWriter;
