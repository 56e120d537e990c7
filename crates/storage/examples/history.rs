//! How fast history is read from parts, with nothing behind it: rows a second and CPU seconds.
//!
//!     cargo run --release -p weir-storage --example history -- DIR [MILLION_ROWS]
//!
//! Makes the stream in DIR on the first run: event time, a key of 1,000, a value, in arrival order.

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use std::sync::Arc;
use std::time::Duration;
use weir_base::disk::RealDisk;
use weir_base::metrics::Registry;
use weir_base::{Clock, MemoryBudget, Rng, SeqNo, SystemClock};
use weir_storage::{Ack, ArrivalByDay, PartsLocation, StoreContext, StreamOptions, StreamStore, Wanted};

const BATCH_ROWS: u64 = 1_000_000;
const START_MS: i64 = 1_767_225_600_000;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("a directory");
    let millions: u64 = args.next().map_or(20, |n| n.parse().expect("a number of million rows"));
    let clock = Arc::new(SystemClock::new());
    let ctx = StoreContext::new(
        Arc::new(RealDisk::open(std::path::Path::new(&dir)).expect("the directory opens")),
        clock.clone(),
        Arc::new(Rng::seeded(1)),
        MemoryBudget::root("example", u64::MAX),
        Arc::new(Registry::default()),
        PartsLocation::Local,
        Some(tokio::runtime::Handle::current()),
    );
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, false),
        Field::new("value", DataType::Float64, false),
        Field::new("_tp_time", time, false),
    ]));
    let options = StreamOptions { log_retention_bytes: Some(0), ..StreamOptions::default() };
    let store = StreamStore::open(&ctx, "streams/s", schema.clone(), options, Arc::new(ArrivalByDay))
        .expect("the stream opens");
    let shard = store.shards()[0].clone();
    let rng = Rng::seeded(2);
    while shard.durable_end().0 < millions * BATCH_ROWS {
        let at = shard.durable_end().0;
        let time = |n: u64| START_MS + (n / 100) as i64 - rng.below(2_000) as i64;
        let rows = at..at + BATCH_ROWS;
        let value = || (rng.u64() >> 11) as f64 / (1u64 << 53) as f64;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows.clone().map(|_| rng.below(1_000) as i64))),
            Arc::new(Float64Array::from_iter_values(rows.clone().map(|_| value()))),
            Arc::new(TimestampMillisecondArray::from_iter_values(rows.map(time)).with_timezone("UTC")),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns).expect("columns fit");
        shard.append(batch, None, Ack::Durable).await.expect("appended");
    }
    shard.flush().await.expect("flushed");
    shard.merge().await.expect("merged");
    println!("{} parts, {} bytes", shard.parts().len(), shard.stats().part_bytes);

    let wanted = |columns: &[usize], append_times: bool| Wanted {
        columns: Some(columns.to_vec()),
        append_times,
        parts_first: true,
        ahead_bytes_max: 32 << 20,
        ..Wanted::default()
    };
    for _ in 0..2 {
        for (name, wanted) in [
            ("key, value, time", wanted(&[0, 1, 2], false)),
            ("key, value, time, append time", wanted(&[0, 1, 2], true)),
            ("key, value", wanted(&[0, 1], false)),
            ("key", wanted(&[0], false)),
            ("value", wanted(&[1], false)),
            ("time", wanted(&[2], false)),
        ] {
            let (began, cpu) = (clock.monotonic(), cpu_seconds());
            let mut cursor = shard.tail_of(SeqNo(0), wanted.clone());
            let mut rows = 0;
            while let Some(tail) = cursor.try_next().await.expect("history reads") {
                rows += tail.rows() as u64;
            }
            let (took, used) = (clock.monotonic() - began, cpu_seconds() - cpu);
            print(name, rows, took, used);
        }
        let began = (clock.monotonic(), cpu_seconds());
        let mut scan = shard.snapshot().scan(SeqNo(0), wanted(&[0, 1], false));
        let mut rows = 0;
        while let Some(tail) = scan.next().await.expect("history reads") {
            rows += tail.rows() as u64;
        }
        print("key, value, in no order", rows, clock.monotonic() - began.0, cpu_seconds() - began.1);
    }
}

fn print(name: &str, rows: u64, took: Duration, cpu_s: f64) {
    let seconds = took.as_secs_f64();
    println!(
        "{name}: {:.1} M rows/s, {seconds:.2} s, {cpu_s:.2} CPU s, {:.1} CPU ns a row",
        rows as f64 / seconds / 1e6,
        cpu_s * 1e9 / rows as f64
    );
}

/// Of this process, from /proc.
#[allow(clippy::disallowed_methods, reason = "an example measures the machine it runs on")]
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks = |i: usize| fields[i].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
