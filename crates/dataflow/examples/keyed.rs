//! Nanoseconds a row and bytes a key of keyed aggregation, at a number of keys.
//!
//! `cargo run --release -p weir-dataflow --example keyed -- 10000000 50000000 p99`

use arrow_array::{Float64Array, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use datafusion_physical_expr::expressions::col;
use std::sync::Arc;
use weir_base::{Clock, Rng, SystemClock};
use weir_dataflow::op::aggregate::{Aggregate, Spec};
use weir_dataflow::{InputId, Operator, Output};
use weir_plan::{AggregateKind, AggregateSpec, EmitPolicy, EmitSpec, Projection, Rows};

const BATCH_ROWS: usize = 8_192;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let (keys, rows) = (number(0, 1_000_000), number(1, 5_000_000));
    let input = Schema::new(vec![
        Field::new("k", DataType::UInt64, false),
        Field::new("v", DataType::Float64, false),
    ]);
    let column = |name| col(name, &input).expect("one of two columns");
    use AggregateKind as K;
    let mut kinds =
        vec![(K::Count, DataType::Int64), (K::Min, DataType::Float64), (K::Max, DataType::Float64)];
    if args.iter().any(|a| a == "p99") {
        kinds.push((K::Quantile { level: 0.99 }, DataType::Float64));
    }
    let aggregates: Vec<AggregateSpec> = kinds
        .into_iter()
        .map(|(kind, t)| AggregateSpec {
            kind,
            args: if kind == K::Count { vec![] } else { vec![column("v")] },
            filter: None,
            output: Arc::new(Field::new(format!("{kind:?}"), t, true)),
        })
        .collect();
    let mut fields = vec![Arc::new(input.field(0).clone())];
    fields.extend(aggregates.iter().map(|a| a.output.clone()));
    let spec = Spec {
        keys: &[Projection { expr: column("k"), name: "k".into() }],
        aggregates: &aggregates,
        order: None,
        window: None,
        emit: EmitSpec {
            policy: EmitPolicy::Periodic { every_us: 1_000_000, repeat: false },
            changelog: false,
        },
        whole: false,
        schema: Arc::new(Schema::new(fields)),
    };
    let mut op = Aggregate::new(spec, &input).expect("a plan that fits");
    let (clock, rng) = (SystemClock::new(), Rng::seeded(1));
    let schema = Arc::new(input);
    let mut busy = std::time::Duration::ZERO;
    let mut fed = 0;
    while fed < rows {
        let n = BATCH_ROWS.min((rows - fed) as usize);
        let k = UInt64Array::from_iter_values((0..n).map(|_| rng.below(keys)));
        let v = Float64Array::from_iter_values((0..n).map(|_| (rng.f64() * 8.0).exp()));
        let batch =
            RecordBatch::try_new(schema.clone(), vec![Arc::new(k), Arc::new(v)]).expect("two columns");
        let began = clock.monotonic();
        op.rows(InputId(0), Rows::append(batch), &mut Output::default()).expect("takes rows");
        busy += clock.monotonic() - began;
        fed += n as u64;
    }
    let stats = op.stats();
    let began = clock.monotonic();
    op.end_of_backfill(&mut Output::default()).expect("emits");
    let emit = clock.monotonic() - began;
    println!(
        "{} keys, {rows} rows: {:.0} ns a row, {:.1} bytes a key, all read in {:.0} ms",
        stats.keys,
        busy.as_nanos() as f64 / rows as f64,
        stats.state_bytes as f64 / stats.keys.max(1) as f64,
        emit.as_secs_f64() * 1_000.0
    );
}
