//! Small sound inputs for a fuzzer to begin with.

use crate::format::SCHEMAS;
use crate::message::AVRO;
use arrow_array::RecordBatch;
use bytes::Bytes;
use std::sync::Arc;
use weir_base::disk::{SimDisk, read_file};
use weir_base::{EventTime, ManualClock};
use weir_format::avro::AvroWriter;
use weir_format::{FormatSettings, ResultStats};
use weir_log::{Append, Idempotency, LogConfig, LogCore, RecordKind};

/// One row or two of each schema.
const ROWS: [&str; 4] = [
    "(1, 'a\"b', 1.5), (-2, '', NULL)",
    "(true, -1, 4000000000, -12345.6789, '2024-03-10 01:30:00', '2024-01-02 03:04:05.678', '1999-12-31', \
     '61f0c404-5cb3-11e7-907b-a6006ad3dba0', '1.2.3.4', '2001:db8::1', 'b', 0.1)",
    "([1, NULL, 3], {'k': 1, 'l': 2}, (7, 'x'), 'lc', [[(1.25, '2024-01-01 00:00:00')], []]), \
     ([], {}, (0, ''), NULL, [])",
    "('tab\\tnewline\\n'), ('日本')",
];

/// Target, file name, content.
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut all = Vec::new();
    let families: [(&str, &[&str]); 9] = [
        ("json", crate::JSON),
        ("csv", crate::CSV),
        ("tsv", crate::TSV),
        ("rowbinary", crate::ROW_BINARY),
        ("native", &["Native"]),
        ("arrow_stream", &["ArrowStream"]),
        ("parquet", &["Parquet"]),
        ("values", &["Values"]),
        ("avro", &["Avro"]),
    ];
    for (target, formats) in families {
        for (f, format) in formats.iter().enumerate() {
            for (s, rows) in ROWS.iter().enumerate() {
                let bytes = encode(format, s, rows);
                let which = (s + 4 * f) as u8;
                all.push((target, format!("{format}-{s}"), [&[which, 0, 128, 1], &bytes[..]].concat()));
            }
        }
    }
    for (s, rows) in ROWS.iter().enumerate() {
        let batch = batch(s, rows);
        let settings = FormatSettings::default();
        let writer = AvroWriter::new(&SCHEMAS[s], AVRO[s].clone(), &settings).expect("of its own columns");
        let (mut n, mut out) = (0, Vec::new());
        let mut messages = Vec::new();
        writer.write(&batch, &mut out, |out| messages.push(std::mem::take(out))).expect("rows that fit");
        for message in messages {
            all.push(("avro_message", format!("{s}-{n}"), [&[s as u8, s as u8, 0], &message[..]].concat()));
            n += 1;
        }
        all.push(("avro_schema", s.to_string(), AVRO[s].text().as_bytes().to_vec()));
    }
    let messages: [(u8, &str, &[u8]); 4] = [
        (0, "scalars", b"\x08\x07\x12\x01x\x19\0\0\0\0\0\0\xf8\x3f"),
        (1, "timestamp", b"\x08\x01\x10\x03\x1d\x04\0\0\0\x2a\x04\x08\x05\x10\x06\x38\x05"),
        (2, "nested", b"\x0a\x02\x01\x02\x12\x05\x0a\x01k\x10\x07\x1a\x05\x08\x01\x12\x01y"),
        (3, "text", b"\x0a\x02ab"),
    ];
    for (s, name, message) in messages {
        all.push(("protobuf_message", name.to_owned(), [&[s, s, 0], message].concat()));
        let delimited = [&[s, s, 1, message.len() as u8], message].concat();
        all.push(("protobuf_message", format!("{name}-delimited"), delimited));
    }
    for (name, sealed) in [("sealed", true), ("open", false)] {
        all.push(("log", name.to_owned(), log(sealed)));
    }
    let part = r#"{"id":3,"name":"p","size_bytes":1,"checks_crc":1,"rows":2,"partition":"2024-01-01","sn_min":0,"sn_end":2,"event_min":0,"event_max":1,"append_min":0,"append_max":1,"level":0,"sorted":false,"arrival":true,"ttl_applied_ms":0}"#;
    let state = |end: u64, rows: u64, parts: &str| {
        let next = if parts.is_empty() { 3 } else { 4 };
        format!(
            r#"{{"committed_end":{end},"floor":0,"rows_committed":{rows},"rows_removed":0,"next_part_id":{next},"parts":{{{parts}}}}}"#
        )
    };
    let entry = |version: u64, change: String| {
        format!(r#"WMF1........{{"version":{version},"change":{{{change}}}}}"#)
    };
    let whole = |state: String| entry(7, format!(r#""whole":{{"state":{state}}}"#));
    let manifests = [
        ("empty", whole(state(0, 0, ""))),
        ("part", whole(state(2, 2, &format!(r#""3":{part}"#)))),
        (
            "changes",
            whole(state(0, 0, ""))
                + &entry(8, format!(r#""commit":{{"from":0,"to":2,"rows":2,"parts":[{part}]}}"#))
                + &entry(9, r#""ttl_applied":{"parts":[3],"at_ms":5}"#.to_owned())
                + &entry(10, r#""merge":{"removed":[3],"parts":[],"rows_expired":2}"#.to_owned())
                + &entry(11, r#""truncate":{"to":2,"rows":0}"#.to_owned()),
        ),
    ];
    all.push(("manifest", "sound".to_owned(), [b"\0", &crate::manifest::sound()[..]].concat()));
    for (name, text) in manifests {
        all.push(("manifest", name.to_owned(), [b"\0", text.as_bytes()].concat()));
    }
    let relation = |name: &str, kind: &str| {
        format!(
            r#"{{"id":"61f0c404-5cb3-11e7-907b-a6006ad3dba0","database":"default","name":"{name}","kind":{kind},"columns":[{{"name":"k","type_name":"int64","default":{{"kind":"default","expression":"1"}},"comment":"","codec":null}}],"comment":"","created_ms":1}}"#
        )
    };
    let stream = relation(
        "s",
        r#"{"stream":{"order_by":"k","partition_by":null,"primary_key":null,"ttl":null,"indexes":[],"settings":{"shards":"1"}}}"#,
    );
    let view = relation(
        "v",
        r#"{"view":{"select":"SELECT 1","resolve_in":"default","depends_on":[{"database":"default","name":"s"}]}}"#,
    );
    let event = |event: &str| format!("\n{{\"v\":1,\"event\":{event}}}");
    let catalogs = [
        ("create", event(&format!(r#"{{"create_relation":{{"relation":{stream},"replace":false}}}}"#))),
        (
            "changes",
            [
                event(r#"{"create_database":{"name":"d","comment":""}}"#),
                event(&format!(r#"{{"create_relation":{{"relation":{stream}}}}}"#)),
                event(&format!(r#"{{"create_relation":{{"relation":{view}}}}}"#)),
                event(r#"{"rename":{"pairs":[[{"database":"default","name":"s"},{"database":"default","name":"t"}]]}}"#),
                event(r#"{"truncated":{"name":{"database":"default","name":"t"}}}"#),
                event(r#"{"drop_relation":{"name":{"database":"default","name":"t"}}}"#),
                event(r#"{"drop_database":{"name":"d"}}"#),
            ]
            .concat(),
        ),
        (
            "snapshot",
            format!(
                r#"{{"v":1,"next":0,"snapshot":{{"version":3,"databases":{{"default":{{"comment":"","relations":{{"s":{stream},"v":{view}}}}},"system":{{"comment":"","relations":{{}}}}}}}}}}"#
            ),
        ),
    ];
    for (name, text) in catalogs {
        all.push(("catalog", name.to_owned(), text.into_bytes()));
    }
    all
}

fn batch(schema: usize, rows: &str) -> RecordBatch {
    let (schema, settings) = (&SCHEMAS[schema], FormatSettings::default());
    let mut decoder = weir_format::decoder("Values", schema.clone(), &settings).expect("it is a format");
    decoder.push(Bytes::copy_from_slice(rows.as_bytes())).expect("sound rows");
    decoder.finish().expect("sound rows");
    decoder.next_batch(usize::MAX).expect("sound rows").expect("there are some").batch
}

fn encode(format: &str, schema: usize, rows: &str) -> Vec<u8> {
    let batch = batch(schema, rows);
    let (schema, settings) = (&SCHEMAS[schema], FormatSettings::default());
    let mut encoder = weir_format::encoder(format, schema.clone(), &settings).expect("it is a format");
    let mut out = Vec::new();
    encoder.begin(&mut out).expect("every type can be carried");
    encoder.batch(&batch, &mut out).expect("every type can be carried");
    encoder.end(&ResultStats::default(), &mut out).expect("every type can be carried");
    out
}

/// Two segment files of a small log.
fn log(sealed: bool) -> Vec<u8> {
    let disk = SimDisk::new(1);
    let clock = Arc::new(ManualClock::new(1_000_000));
    let config =
        LogConfig { segment_size_bytes_max: 1024, index_interval_bytes: 256, ..LogConfig::default() };
    let mut log = LogCore::open(Arc::new(disk.clone()), clock, "log", config).expect("a new disk");
    for i in 0..4u32 {
        let mark = i == 2;
        let append = Append {
            kind: if mark { RecordKind::MARK } else { RecordKind::ROWS },
            rows: if mark { 0 } else { 1 + i },
            event_min: EventTime(1),
            event_max: EventTime(2),
            idempotency: (i == 1).then(|| Idempotency { id: "an-id".into(), record_no: 0, content_hash: 5 }),
            progress: None,
            payload: vec![b'p'; 100].into(),
            attachment: None,
        };
        log.write_group(vec![append]).expect("a healthy disk");
    }
    if sealed {
        log.seal().expect("a healthy disk");
    }
    let mut out = vec![0, 1, 0, 0];
    for (path, _) in disk.files().into_iter().filter(|(path, _)| path.ends_with(".seg")).take(2) {
        let mut bytes = read_file(&disk, &path).expect("a healthy disk");
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| (at + 1).next_multiple_of(64));
        bytes.truncate(used.max(64));
        if out[2] == 0 {
            out[2] = (bytes.len() / 64) as u8;
        }
        out.extend_from_slice(&bytes);
    }
    out
}
