//! How fast messages become columns: a million of five columns, each as JSON, Avro and Protobuf.
//!
//! `cargo run --release -p weir-format --example decode_messages`

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use weir_base::{Clock, SystemClock};
use weir_format::avro::{AvroRows, AvroSchema, AvroWriter};
use weir_format::protobuf::{ProtobufRows, ProtobufSchema, ProtobufWriter};
use weir_format::types::Type;
use weir_format::{FormatSettings, decoder};

const ROWS: usize = 1_000_000;
/// Messages that become one batch, as of a topic.
const AT_ONCE: usize = 16_384;

const PROTO: &str = "syntax = \"proto3\"; message M { int64 id = 1; string level = 2; double value = 3; string host = 4; string text = 5; }";

fn schema() -> SchemaRef {
    let columns =
        [("id", "int64"), ("level", "string"), ("value", "float64"), ("host", "string"), ("text", "string")];
    let fields: Vec<_> = columns.iter().map(|(n, t)| Type::parse(t).expect("a type").field(n)).collect();
    Arc::new(Schema::new(fields))
}

fn main() {
    let (clock, settings) = (SystemClock::default(), FormatSettings::default());
    let mut text = String::new();
    for i in 0..ROWS {
        let level = if i % 10 == 0 { "error" } else { "info" };
        writeln!(
            text,
            "{{\"id\":{i},\"level\":\"{level}\",\"value\":{}.25,\"host\":\"host-{}.example.com\",\"text\":\"request {i} took {} ms\"}}",
            i / 4,
            i % 500,
            i % 977
        )
        .expect("writing to a String cannot fail");
    }
    let lines: Vec<&[u8]> = text.as_bytes().split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    let began = clock.monotonic();
    let mut batches: Vec<RecordBatch> = Vec::new();
    for chunk in lines.chunks(AT_ONCE) {
        let mut d = decoder("JSONEachRow", schema(), &settings).expect("a format");
        d.push(chunk.join(&b'\n').into()).expect("JSON");
        d.finish().expect("JSON");
        while let Some(b) = d.next_batch(usize::MAX).expect("JSON") {
            batches.push(b.batch);
        }
    }
    report("JSON", began, clock.monotonic(), text.len());

    let avro = AvroSchema::of_columns(&schema(), "m").expect("its columns");
    let writer = AvroWriter::new(&schema(), avro.clone(), &settings).expect("its columns");
    let mut values = Vec::new();
    let began = clock.monotonic();
    for batch in &batches {
        writer.write(batch, &mut Vec::new(), |out| values.push(std::mem::take(out))).expect("rows");
    }
    let bytes: usize = values.iter().map(Vec::len).sum();
    report("write Avro", began, clock.monotonic(), bytes);
    let began = clock.monotonic();
    for chunk in values.chunks(AT_ONCE) {
        let mut rows = AvroRows::new(schema(), &settings);
        chunk.iter().for_each(|v| rows.push(&avro, v).expect("a value"));
        assert_eq!(rows.finish().expect("rows").batch.num_rows(), chunk.len());
    }
    report("Avro", began, clock.monotonic(), bytes);

    let texts = BTreeMap::from([("m".to_owned(), PROTO.to_owned())]);
    let proto = ProtobufSchema::parse(&texts, "m", None).expect("it compiles");
    let writer = ProtobufWriter::new(&schema(), proto.clone(), &settings).expect("its columns");
    let mut messages = Vec::new();
    let began = clock.monotonic();
    for batch in &batches {
        writer.write(batch, |m| messages.push(m)).expect("rows");
    }
    let bytes: usize = messages.iter().map(Vec::len).sum();
    report("write Protobuf", began, clock.monotonic(), bytes);
    let began = clock.monotonic();
    for chunk in messages.chunks(AT_ONCE) {
        let mut rows = ProtobufRows::new(schema(), &settings);
        chunk.iter().for_each(|m| rows.push(&proto, m).expect("a message"));
        assert_eq!(rows.finish().expect("rows").batch.num_rows(), chunk.len());
    }
    report("Protobuf", began, clock.monotonic(), bytes);
}

fn report(what: &str, began: std::time::Duration, ended: std::time::Duration, bytes: usize) {
    let seconds = (ended - began).as_secs_f64();
    println!(
        "{what:15} {:7.0} thousand rows/s {:6.0} MB/s",
        ROWS as f64 / seconds / 1e3,
        bytes as f64 / seconds / 1e6
    );
}
