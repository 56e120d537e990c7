//! Protobuf: schemas of proto2 and proto3, and messages.
//!
//! ```text
//! schema text -> ProtobufSchema    message: bytes -> columns (read), columns -> bytes (write)
//! ```
//!
//! Texts are compiled by `protox`, messages taken apart by `prost-reflect`.

mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

pub use read::ProtobufRows;
pub use schema::ProtobufSchema;
pub use write::ProtobufWriter;

/// Times of `google.protobuf.Timestamp`: seconds and nanoseconds.
const TIMESTAMP: &str = "google.protobuf.Timestamp";
const NANOS: i64 = 1_000_000_000;

/// Messages that stand for one scalar which may be missing.
fn is_wrapper(message: &prost_reflect::MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
        && message.name().ends_with("Value")
        && message.fields().len() == 1
        && message.get_field_by_name("value").is_some_and(|f| !f.is_list())
}
