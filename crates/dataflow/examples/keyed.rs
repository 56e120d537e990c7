//! Nanoseconds a row and bytes a key of keyed aggregation, at a number of keys.
//!
//! `cargo run --release -p weir-dataflow --example keyed -- keys=10000000 rows=50000000 p99`
//!
//! `text` = keys are IPv6 addresses as text; `window=N` = rows lie in windows of N rows, out of order by
//! up to a tenth; `batch=N` rows a batch; `threads=N`; `spill memory_mb=N` = state past so much
//! goes to `spill_dir=…`.

#![allow(clippy::disallowed_methods, reason = "reads its own size from /proc")]

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use datafusion_physical_expr::expressions::col;
use std::sync::Arc;
use std::time::Duration;
use weir_base::disk::{Disk, RealDisk};
use weir_base::{Clock, MemoryBudget, Rng, SystemClock};
use weir_dataflow::op::aggregate::{Aggregate, Spec};
use weir_dataflow::{InputId, Operator, Output, Resources, SpillSpace, Workers};
use weir_plan::{
    AggregateKind, AggregateSpec, EmitPolicy, EmitSpec, Projection, Rows, Span, WatermarkTime, WindowKeys,
    WindowKind, WindowSpec,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|a| a == name);
    let number = |name: &str, or: u64| {
        let found = args.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        found.unwrap_or(or)
    };
    let (keys, rows, batch_rows) =
        (number("keys", 1_000_000), number("rows", 5_000_000), number("batch", 8_192));
    let (text, window, threads) = (has("text"), number("window", 0), number("threads", 1) as usize);
    let key_type = if text { DataType::Utf8 } else { DataType::UInt64 };
    let ms = DataType::Timestamp(TimeUnit::Millisecond, None);
    let input = Schema::new(vec![
        Field::new("k", key_type, false),
        Field::new("v", DataType::Float64, false),
        Field::new("window_start", ms.clone(), false),
        Field::new("window_end", ms, false),
    ]);
    let column = |name| col(name, &input).expect("one of the columns");
    use AggregateKind as K;
    let mut kinds =
        vec![(K::Count, DataType::Int64), (K::Min, DataType::Float64), (K::Max, DataType::Float64)];
    if has("p99") {
        kinds.push((K::Quantile { level: 0.99 }, DataType::Float64));
    }
    let aggregates: Vec<AggregateSpec> = kinds
        .into_iter()
        .map(|(kind, t)| AggregateSpec {
            args: if kind == K::Count { vec![] } else { vec![column("v")] },
            kind: kind.clone(),
            filter: None,
            output: Arc::new(Field::new(format!("{kind:?}"), t, true)),
        })
        .collect();
    let names: &[&str] = if window > 0 { &["k", "window_start", "window_end"] } else { &["k"] };
    let projections: Vec<Projection> =
        names.iter().map(|n| Projection { expr: column(n), name: (*n).into() }).collect();
    let mut fields: Vec<_> =
        names.iter().map(|n| Arc::new(input.field_with_name(n).expect("a column").clone())).collect();
    fields.extend(aggregates.iter().map(|a| a.output.clone()));
    let global = EmitPolicy::Periodic { every_us: 1_000_000, repeat: false };
    let size = Span::Fixed((window as i64).max(1) * 1_000_000_000);
    let window_spec = WindowSpec { kind: WindowKind::Tumble { size }, zone: chrono_tz::Tz::UTC };
    let spec = Spec {
        keys: &projections,
        aggregates: &aggregates,
        order: None,
        window: (window > 0).then_some(WindowKeys { start: 1, end: 2, spec: window_spec, passes: None }),
        emit: EmitSpec { policy: if window > 0 { EmitPolicy::OnClose } else { global }, changelog: false },
        whole: false,
        panes: None,
        changelog: false,
        schema: Arc::new(Schema::new(fields)),
    };
    let mut resources = Resources::new(Workers::new(threads));
    if has("spill") {
        let dir = args.iter().find_map(|a| a.strip_prefix("spill_dir=")).unwrap_or("spill.tmp");
        let disk = RealDisk::open(dir).expect("a directory");
        disk.remove_dir_all("runs").expect("an empty directory");
        resources.spill = Some(SpillSpace::new(Arc::new(disk), "runs"));
    }
    let limit = MemoryBudget::root("the query", number("memory_mb", 1 << 20) << 20);
    resources.memory = Some(limit.clone());
    let mut counted = limit.reserve(0).expect("nothing");
    let mut op = Aggregate::new(spec, &input, resources).expect("a plan that fits");
    let (clock, rng) = (SystemClock::new(), Rng::seeded(1));
    let schema = Arc::new(input);
    let (mut busy, mut emit) = (Duration::ZERO, Duration::ZERO);
    let mut fed = 0;
    let before = resident_bytes();
    while fed < rows {
        let n = batch_rows.min(rows - fed) as usize;
        let k: ArrayRef = if text {
            Arc::new(StringArray::from_iter_values((0..n).map(|_| address(rng.below(keys)))))
        } else {
            Arc::new(UInt64Array::from_iter_values((0..n).map(|_| rng.below(keys))))
        };
        let v = Float64Array::from_iter_values((0..n).map(|_| (rng.f64() * 8.0).exp()));
        let size = window.max(1) as i64;
        let starts: Vec<i64> = (0..n as i64)
            .map(|i| {
                let at = fed as i64 + i - rng.below(window / 10 + 1) as i64;
                at - at.rem_euclid(size)
            })
            .collect();
        let ends = TimestampMillisecondArray::from_iter_values(starts.iter().map(|s| s + size));
        let starts = TimestampMillisecondArray::from(starts);
        let batch =
            RecordBatch::try_new(schema.clone(), vec![k, Arc::new(v), Arc::new(starts), Arc::new(ends)])
                .expect("as the schema says");
        let began = clock.monotonic();
        op.rows(InputId(0), Rows::append(batch), &mut Output::default()).expect("takes rows");
        busy += clock.monotonic() - began;
        // As the task does after each call.
        let bytes = op.stats().state_bytes;
        counted.shrink(counted.bytes().saturating_sub(bytes));
        counted.grow(bytes.saturating_sub(counted.bytes())).expect("spills before it passes the limit");
        fed += n as u64;
        if window > 0 {
            let at = WatermarkTime((fed as i64 - window as i64 / 10 - 1) * 1_000_000);
            emit += timed(&clock, &mut op, |op, out| op.watermark(at, out).expect("closes windows"));
        }
    }
    let (stats, held) = (op.stats(), resident_bytes().saturating_sub(before));
    emit += timed(&clock, &mut op, |op, out| op.end_of_backfill(out).expect("emits"));
    println!(
        "{} keys, {rows} rows: {:.0} ns a row, {:.1} bytes a key ({:.1} resident), read in {:.0} ms",
        stats.keys,
        busy.as_nanos() as f64 / rows as f64,
        stats.state_bytes as f64 / stats.keys.max(1) as f64,
        held as f64 / stats.keys.max(1) as f64,
        emit.as_secs_f64() * 1_000.0
    );
}

/// A call with all pieces that follow it, thrown away.
fn timed(
    clock: &SystemClock,
    op: &mut Aggregate,
    call: impl FnOnce(&mut Aggregate, &mut Output),
) -> Duration {
    let began = clock.monotonic();
    call(op, &mut Output::default());
    while op.unfinished() {
        op.go_on(&mut Output::default()).expect("emits");
    }
    clock.monotonic() - began
}

fn address(n: u64) -> String {
    let x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let part = |i: u64| (x >> (16 * i)) & 0xFFFF;
    format!("2001:db8:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}", part(0), part(1), part(2), part(3), n >> 16, n & 0xFFFF)
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}
