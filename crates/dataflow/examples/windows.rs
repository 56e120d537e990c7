//! Nanoseconds a row from a source's judge through windows and aggregation to the sink, by the clock.
//!
//! `cargo run --release -p weir-dataflow --example windows -- rows=50000000 keys=1000 window_ms=1000`
//!
//! A millisecond of event time is 1,000 rows; rows are out of order by up to 2 s. `hop_ms=N` = hop windows
//! every N ms; `idle_ms=N` = sessions instead; `p99`.

use arrow_array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_physical_expr::expressions::col;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_base::{Clock, MemoryBudget, Rng, SeqNo, SystemClock};
use weir_dataflow::DataflowRuntime;
use weir_plan::{
    AggregateKind, AggregateSpec, Element, EmitSpec, HistorySpec, Judged, NodeId, Projection, ReplayOrder,
    Rows, Runtime, SessionKeys, SessionSpec, Sink, Source, SourceFactory, SourceSpec, Span, StartPosition,
    StreamError, StreamNode, StreamPlan, WATERMARK_COLUMN, WatermarkSpec, WatermarkTime, WindowKeys,
    WindowKind, WindowSpec, WindowTime,
};

const BATCH_ROWS: usize = 8_192;
const ROWS_PER_MS: usize = 1_000;
const DISORDER_MS: u64 = 2_000;

/// Gives the same few batches again and again, at later times.
struct Script {
    schema: SchemaRef,
    keys: Vec<(ArrayRef, ArrayRef)>,
    behind: Vec<Vec<i64>>,
    batch: usize,
    rows_left: usize,
    ended: bool,
}

#[async_trait::async_trait]
impl Source for Script {
    async fn next(&mut self) -> Result<Element, StreamError> {
        Ok(self.try_next()?.expect("always has something"))
    }
    fn try_next(&mut self) -> Result<Option<Element>, StreamError> {
        if self.rows_left == 0 {
            let first = !std::mem::replace(&mut self.ended, true);
            return Ok(Some(if first { Element::Watermark(WatermarkTime::INFINITY) } else { Element::End }));
        }
        let at = self.batch % self.keys.len();
        let first = self.batch * BATCH_ROWS;
        let now = |i: usize| 1_000_000 + ((first + i) / ROWS_PER_MS) as i64;
        let times = self.behind[at].iter().enumerate().map(|(i, behind)| now(i) - behind);
        let (k, v) = self.keys[at].clone();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from_iter_values(times)),
            k,
            v,
            Arc::new(Int32Array::from(vec![0; BATCH_ROWS])),
            Arc::new(TimestampMicrosecondArray::from(vec![now(0) * 1_000; BATCH_ROWS])),
            Arc::new(Int64Array::from_iter_values((first..first + BATCH_ROWS).map(|sn| sn as i64))),
        ];
        self.batch += 1;
        self.rows_left = self.rows_left.saturating_sub(BATCH_ROWS);
        let batch = RecordBatch::try_new(self.schema.clone(), columns).expect("as the schema says");
        Ok(Some(Element::Rows(Rows::append(batch))))
    }
    fn position(&self) -> Vec<SeqNo> {
        Vec::new()
    }
}

struct Scripts {
    schema: SchemaRef,
    rows: usize,
    keys: u64,
}

#[async_trait::async_trait]
impl SourceFactory for Scripts {
    async fn open(&self, _: NodeId, _: &SourceSpec) -> Result<Box<dyn Source>, StreamError> {
        let rng = Rng::seeded(1);
        let one = |_| -> (ArrayRef, ArrayRef) {
            let k = UInt64Array::from_iter_values((0..BATCH_ROWS).map(|_| rng.below(self.keys)));
            let v = Float64Array::from_iter_values((0..BATCH_ROWS).map(|_| (rng.f64() * 8.0).exp()));
            (Arc::new(k), Arc::new(v))
        };
        let keys: Vec<_> = (0..64).map(one).collect();
        let behind =
            (0..64).map(|_| (0..BATCH_ROWS).map(|_| rng.below(DISORDER_MS) as i64).collect()).collect();
        let schema = self.schema.clone();
        Ok(Box::new(Script { schema, keys, behind, batch: 0, rows_left: self.rows, ended: false }))
    }
}

struct Count(Arc<AtomicU64>);

#[async_trait::async_trait]
impl Sink for Count {
    async fn send(&mut self, element: Element) -> Result<(), StreamError> {
        if let Element::Rows(rows) = element {
            self.0.fetch_add(rows.batch.num_rows() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn plan(schema: &SchemaRef, kind: WindowKind, p99: bool) -> StreamPlan {
    let column = |name: &str, s: &Schema| col(name, s).expect("a column");
    let source = StreamNode::Source {
        id: NodeId(2),
        spec: SourceSpec {
            database: "default".into(),
            relation: "s".into(),
            columns: schema.fields().iter().map(|f| f.name().clone()).collect(),
            schema: schema.clone(),
            start: StartPosition::Earliest,
            prune: None,
            watermark: Some(WatermarkSpec {
                time: column("t", schema),
                delay_ns: DISORDER_MS as i64 * 1_000_000,
                silence_us: 0,
                idle_timeout_us: 5_000_000,
                future_max_ns: 86_400_000_000_000,
                timeout: None,
                shard: 3,
                append_time: 4,
                partition: None,
            }),
            history: HistorySpec::default(),
            log_order: false,
        },
    };
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("window_start", schema.field(0).data_type().clone(), false));
    fields.push(Field::new("window_end", schema.field(0).data_type().clone(), false));
    fields.push(Field::new(WATERMARK_COLUMN, DataType::Int64, false));
    let spec = WindowSpec { kind, zone: chrono_tz::Tz::UTC };
    let window = StreamNode::Window {
        id: NodeId(1),
        spec,
        time: WindowTime::Event(column("t", schema)),
        judged: Some(Judged { watermark: 6, shard: 3, sn: 5, kept: Vec::new() }),
        session: matches!(kind, WindowKind::Session(_)).then(|| SessionKeys {
            keys: vec![column("k", schema)],
            conditions: None,
            shard: 3,
            sn: 5,
        }),
        at: 6,
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(source),
    };
    let below = window.schema();
    let keys: Vec<Projection> = ["window_start", "window_end", "k"]
        .map(|n| Projection { expr: column(n, &below), name: n.into() })
        .into();
    use AggregateKind as K;
    let mut kinds =
        vec![(K::Count, DataType::Int64), (K::Min, DataType::Float64), (K::Max, DataType::Float64)];
    if p99 {
        kinds.push((K::Quantile { level: 0.99 }, DataType::Float64));
    }
    let aggregates: Vec<AggregateSpec> = kinds
        .into_iter()
        .map(|(kind, t)| AggregateSpec {
            kind: kind.clone(),
            args: if kind == K::Count { vec![] } else { vec![column("v", &below)] },
            filter: None,
            output: Arc::new(Field::new(format!("{kind:?}"), t, true)),
        })
        .collect();
    let mut out: Vec<Field> =
        keys.iter().map(|k| below.field_with_name(&k.name).expect("a column").clone()).collect();
    out.extend(aggregates.iter().map(|a| a.output.as_ref().clone()));
    let root = StreamNode::Aggregate {
        id: NodeId(0),
        keys,
        aggregates,
        order: None,
        window: Some(WindowKeys { start: 0, end: 1, spec, passes: None }),
        emit: EmitSpec::WINDOW,
        whole: false,
        schema: Arc::new(Schema::new(out)),
        input: Box::new(window),
    };
    StreamPlan::new(root, ReplayOrder::Arrival)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, or: u64| {
        let found = args.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        found.unwrap_or(or)
    };
    let (rows, keys) = (number("rows", 20_000_000) as usize, number("keys", 1_000));
    let size = Span::Fixed(number("window_ms", 1_000) as i64 * 1_000_000);
    let kind = match number("hop_ms", 0) as i64 {
        0 if number("idle_ms", 0) > 0 => WindowKind::Session(SessionSpec {
            idle_ns: number("idle_ms", 0) as i64 * 1_000_000,
            max_len_ns: None,
            conditions: None,
        }),
        0 => WindowKind::Tumble { size },
        slide => WindowKind::Hop { slide: Span::Fixed(slide * 1_000_000), size },
    };
    let time = |unit| DataType::Timestamp(unit, None);
    let schema = Arc::new(Schema::new(vec![
        Field::new("t", time(TimeUnit::Millisecond), false),
        Field::new("k", DataType::UInt64, false),
        Field::new("v", DataType::Float64, false),
        Field::new("_tp_shard", DataType::Int32, false),
        Field::new("_tp_append_time", time(TimeUnit::Microsecond), false),
        Field::new("_tp_sn", DataType::Int64, false),
    ]));
    let plan = plan(&schema, kind, args.iter().any(|a| a == "p99"));
    let threads = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (clock, left) = (Arc::new(SystemClock::new()), Arc::new(AtomicU64::new(0)));
    let began = clock.monotonic();
    let counters = threads.block_on(async {
        let runtime = DataflowRuntime::new(tokio::runtime::Handle::current());
        let sink = Box::new(Count(left.clone()));
        let memory = MemoryBudget::root("all", 8 << 30);
        let scripts = Arc::new(Scripts { schema, rows, keys });
        let query = runtime.start(plan, scripts, sink, clock.clone(), memory, None).await.expect("starts");
        query.join().await.expect("ends");
        query.counters()
    });
    let took = clock.monotonic() - began;
    let per_row = |ns: u128| ns as f64 / rows as f64;
    println!(
        "{rows} rows to {} results: {:.1} ns a row",
        left.load(Ordering::Relaxed),
        per_row(took.as_nanos())
    );
    for (_, name, c) in counters {
        println!("  {name}: {:.1} ns a row", per_row(u128::from(c.busy_ns.load(Ordering::Relaxed))));
    }
}
