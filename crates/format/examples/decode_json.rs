//! How fast rows are read: a million rows of seven flat columns, 135 bytes each as JSON.
//!
//! `cargo run --release -p weir-format --example decode_json`

use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use std::fmt::Write;
use std::sync::Arc;
use weir_base::{Clock, SystemClock};
use weir_format::types::Type;
use weir_format::{FormatSettings, ResultStats, decoder, encoder};

const ROWS: usize = 1_000_000;

fn schema() -> SchemaRef {
    let columns = [
        ("id", "int64"),
        ("ts", "string"),
        ("device", "string"),
        ("city", "string"),
        ("temp", "float64"),
        ("humidity", "float64"),
        ("ok", "bool"),
    ];
    let fields: Vec<_> = columns.iter().map(|(n, t)| Type::parse(t).expect("a type").field(n)).collect();
    Arc::new(Schema::new(fields))
}

fn main() {
    let clock = SystemClock::default();
    let settings = FormatSettings::default();
    let mut text = String::new();
    for i in 0..ROWS {
        let (a, b) = (i % 97, i * 7 % 1000);
        writeln!(
            text,
            "{{\"id\":{i},\"ts\":\"2024-01-02 03:04:{:02}.{b:03}\",\"device\":\"device-{a:04}\",\"city\":\"city of {a}\",\"temp\":{}.{b:03},\"humidity\":0.{b:03}5,\"ok\":{}}}",
            i % 60,
            a,
            i % 2 == 0
        )
        .expect("writing to a String cannot fail");
    }
    let json = Bytes::from(text);
    let batches = read(&clock, "JSONEachRow", &json, &settings);
    for format in ["JSONEachRow", "CSV", "TabSeparated", "RowBinary", "Native", "ArrowStream"] {
        let start = clock.monotonic().as_nanos() as u64;
        let mut e = encoder(format, schema(), &settings).expect("a format");
        let mut out = Vec::new();
        e.begin(&mut out).expect("begins");
        for batch in &batches {
            e.batch(batch, &mut out).expect("encodes");
        }
        e.end(&ResultStats::default(), &mut out).expect("ends");
        report("write", format, clock.monotonic().as_nanos() as u64 - start, out.len());
        read(&clock, format, &Bytes::from(out), &settings);
    }
}

fn read(
    clock: &SystemClock,
    format: &str,
    input: &Bytes,
    s: &FormatSettings,
) -> Vec<arrow_array::RecordBatch> {
    let start = clock.monotonic().as_nanos() as u64;
    let mut d = decoder(format, schema(), s).expect("a format");
    let mut batches = Vec::new();
    for at in (0..input.len()).step_by(64 << 10) {
        d.push(input.slice(at..input.len().min(at + (64 << 10)))).expect("pushes");
        while let Some(b) = d.next_batch(65_536).expect("reads") {
            batches.push(b.batch);
        }
    }
    d.finish().expect("ends");
    while let Some(b) = d.next_batch(65_536).expect("reads") {
        batches.push(b.batch);
    }
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), ROWS);
    report("read", format, clock.monotonic().as_nanos() as u64 - start, input.len());
    batches
}

fn report(what: &str, format: &str, ns: u64, bytes: usize) {
    let seconds = ns as f64 / 1e9;
    println!(
        "{what:5} {format:14} {:6.2} M rows/s {:7.0} MB/s {:4} B/row",
        ROWS as f64 / seconds / 1e6,
        bytes as f64 / seconds / 1e6,
        bytes / ROWS
    );
}
