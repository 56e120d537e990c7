//! Entry functions that take any bytes: what reads files and bodies must answer or refuse them,
//! never panic, and never allocate what a length in them asks for.
//!
//! `fuzz/` calls these with bytes that an instrumented fuzzer makes; the test beside them
//! replays every file of `fuzz/corpus` in CI. A new target is a function here, a line in
//! [`TARGETS`], a file in `fuzz/targets` and a folder in `fuzz/corpus`.
//!
//! Not here: whole answers compared with a model (`weir-testkit`, property tests of the crates).

mod catalog;
mod format;
mod log;
mod manifest;
mod message;
mod seeds;

pub use seeds::seeds;

const JSON: &[&str] = &[
    "JSONEachRow",
    "JSONCompactEachRow",
    "JSONCompactEachRowWithNames",
    "JSONCompactEachRowWithNamesAndTypes",
];
const CSV: &[&str] = &["CSV", "CSVWithNames", "CSVWithNamesAndTypes"];
const TSV: &[&str] = &["TabSeparated", "TabSeparatedWithNames", "TabSeparatedWithNamesAndTypes"];
const ROW_BINARY: &[&str] = &["RowBinary", "RowBinaryWithNames", "RowBinaryWithNamesAndTypes"];

/// Every target by the name of its folder in `fuzz/corpus`. Each says whether the input was
/// accepted.
pub const TARGETS: &[(&str, fn(&[u8]) -> bool)] = &[
    ("arrow_stream", |data| format::decode(&["ArrowStream"], data)),
    ("avro", |data| format::decode(&["Avro"], data)),
    ("avro_message", message::avro),
    ("avro_schema", message::avro_schema),
    ("catalog", catalog::open),
    ("csv", |data| format::decode(CSV, data)),
    ("json", |data| format::decode(JSON, data)),
    ("log", log::open),
    ("manifest", manifest::open),
    ("native", |data| format::decode(&["Native"], data)),
    ("parquet", |data| format::decode(&["Parquet"], data)),
    ("protobuf_message", message::protobuf),
    ("rowbinary", |data| format::decode(ROW_BINARY, data)),
    ("tsv", |data| format::decode(TSV, data)),
    ("values", |data| format::decode(&["Values"], data)),
];

/// Runs the target of this name; whether the input was accepted.
///
/// # Panics
/// If there is no such target, and where an input breaks a promise.
pub fn run(target: &str, data: &[u8]) -> bool {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("no target {target}")).1(data)
}

/// The first bytes choose options, the rest is the input; fewer bytes choose 0.
fn options<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    match data.split_first_chunk::<N>() {
        Some((chosen, rest)) => (*chosen, rest),
        None => ([0; N], &[]),
    }
}
