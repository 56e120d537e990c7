//! Messages with schemas: any bytes as a value of Avro, a message of Protobuf, or the text of a schema.
//!
//! A message that is refused leaves the rows before it as they were.

use crate::format::SCHEMAS;
use crate::options;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use weir_format::FormatSettings;
use weir_format::avro::{AvroRows, AvroSchema};
use weir_format::protobuf::{ProtobufRows, ProtobufSchema};

const INPUT_MAX: usize = 64 << 10;

/// Of the columns of each of [`SCHEMAS`].
pub(crate) static AVRO: LazyLock<Vec<AvroSchema>> =
    LazyLock::new(|| SCHEMAS.iter().map(|s| AvroSchema::of_columns(s, "r").expect("written here")).collect());

const PROTO: &str = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto";
message A { int64 a = 1; string b = 2; optional double c = 3; }
message B { bool b = 1; sint32 i = 2; fixed32 u = 3; string d = 4; google.protobuf.Timestamp t = 5; bytes id = 6; E e = 7; float f = 8; }
enum E { a = 0; b = 5; }
message C { repeated int32 arr = 1; map<string, uint32> m = 2; T t = 3; repeated T n = 4; }
message T { int64 x = 1; string y = 2; T self = 3; }
message D { string s = 1; }"#;

pub(crate) static PROTOBUF: LazyLock<Vec<ProtobufSchema>> = LazyLock::new(|| {
    let texts = BTreeMap::from([("m".to_owned(), PROTO.to_owned())]);
    let parse = |name: &str| ProtobufSchema::parse(&texts, "m", Some(name)).expect("written here");
    ["A", "B", "C", "D"].map(parse).into()
});

pub(crate) fn avro(data: &[u8]) -> bool {
    let ([written, read, flags], body) = options::<3>(data);
    let body = &body[..body.len().min(INPUT_MAX)];
    let schema = &AVRO[usize::from(written) % AVRO.len()];
    let columns = &SCHEMAS[usize::from(read) % SCHEMAS.len()];
    let settings = FormatSettings { utf8_replace: flags & 1 != 0, ..FormatSettings::default() };
    let mut rows = AvroRows::new(columns.clone(), &settings);
    let nothing = AvroSchema::parse(r#"{"type":"record","name":"r","fields":[]}"#).expect("written here");
    rows.push(&nothing, &[]).expect("a record without fields");
    let accepted = rows.push(schema, body).is_ok();
    let kept = rows.finish().expect("what was taken is whole");
    assert_eq!(kept.batch.num_rows(), 1 + usize::from(accepted));
    accepted
}

pub(crate) fn protobuf(data: &[u8]) -> bool {
    let ([written, read, flags], body) = options::<3>(data);
    let body = &body[..body.len().min(INPUT_MAX)];
    let schema = &PROTOBUF[usize::from(written) % PROTOBUF.len()];
    let columns = &SCHEMAS[usize::from(read) % SCHEMAS.len()];
    let mut rows = ProtobufRows::new(columns.clone(), &FormatSettings::default());
    rows.push(&PROTOBUF[3], &[]).expect("a message without fields");
    let taken = match flags & 1 {
        0 => rows.push(schema, body).map(|()| 1),
        _ => rows.push_delimited(schema, body),
    };
    let kept = rows.finish().expect("what was taken is whole");
    assert_eq!(kept.batch.num_rows(), 1 + taken.as_ref().map_or(0, |n| *n as usize));
    taken.is_ok()
}

pub(crate) fn avro_schema(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(&data[..data.len().min(INPUT_MAX)]) else { return false };
    AvroSchema::parse(text).is_ok_and(|schema| schema.columns().is_ok())
}
