//! Streaming reads of real stores, through the task loop.

mod history;

use crate::query::{QueryEntry, QueryRegistry, QuerySpec, StreamingQuery, start_streaming};
use crate::scan::tests::support::*;
use crate::scan::{RandomAccess, StreamAccess, full_schema};
use crate::source::{StreamSources, TypedGenerator};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::{Code, Error, EventTime, MemoryBudget, Rng, SeqNo, SystemClock};
use weir_dataflow::DataflowRuntime;
use weir_plan::{
    Element, HistorySpec, NodeId, ReplayOrder, SourceSpec, StartPosition, StreamNode, StreamPlan,
    WatermarkTime,
};
use weir_storage::StreamOptions;

fn columns(names: &[&str]) -> SchemaRef {
    let full = full_schema(&schema());
    Arc::new(Schema::new(names.iter().map(|n| full.field_with_name(n).unwrap().clone()).collect::<Vec<_>>()))
}

const NAMES: [&str; 4] = ["n", "_tp_shard", "_tp_sn", "_tp_time"];

fn source(id: u32, relation: &str, start: StartPosition) -> StreamNode {
    let spec = SourceSpec {
        database: "default".into(),
        relation: relation.into(),
        columns: NAMES.iter().map(|n| (*n).to_owned()).collect(),
        schema: columns(&NAMES),
        start,
        prune: None,
        watermark: None,
        history: HistorySpec::default(),
        log_order: false,
    };
    StreamNode::Source { id: NodeId(id), spec }
}

fn registry() -> Arc<QueryRegistry> {
    QueryRegistry::new(
        10,
        MemoryBudget::root("server", 1 << 30),
        Arc::new(SystemClock::new()),
        crate::query::Drops::default(),
    )
}

fn entry(registry: &Arc<QueryRegistry>, id: &str) -> Arc<QueryEntry> {
    registry
        .register(QuerySpec {
            query_id: id.into(),
            user: "default".into(),
            database: "default".into(),
            text: "select".into(),
            streaming: true,
            memory_bytes_max: None,
            execution_max: None,
            output_buffer_bytes_max: 1 << 20,
            record: None,
        })
        .unwrap()
}

async fn start(
    entry: Arc<QueryEntry>,
    world: &World,
    lookup: Arc<Lookup>,
    root: StreamNode,
    replay_order: ReplayOrder,
) -> Result<StreamingQuery, Error> {
    let task = world.session().task_ctx();
    let sources =
        StreamSources::new(lookup, replay_order, task, entry.memory.clone(), entry.progress.clone());
    let runtime = DataflowRuntime::new(tokio::runtime::Handle::current());
    start_streaming(
        entry,
        StreamPlan::new(root, replay_order),
        sources,
        &runtime,
        Arc::new(SystemClock::new()),
        None,
    )
    .await
}

async fn simple(world: &World, root: StreamNode, order: ReplayOrder) -> StreamingQuery {
    let lookup = Lookup::of([("s", StreamAccess::Stored(world.access()))]);
    start(entry(&registry(), "q"), world, lookup, root, order).await.unwrap()
}

/// Reads until `rows` rows have come.
async fn take(query: &mut StreamingQuery, rows: usize) -> Vec<RecordBatch> {
    let (mut got, mut all) = (0, Vec::new());
    while got < rows {
        let batch = query.batches.next().await.expect("the query goes on").unwrap();
        got += batch.num_rows();
        all.push(batch);
    }
    assert_eq!(got, rows, "not a row more");
    all
}

fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|b| ints(b, "n")).collect()
}

/// Every sn of each shard once and in order, from `first`.
fn check_order(batches: &[RecordBatch], first: i64) {
    let mut next: BTreeMap<i64, i64> = BTreeMap::new();
    for b in batches {
        for (shard, sn) in ints(b, "_tp_shard").into_iter().zip(ints(b, "_tp_sn")) {
            let expected = next.entry(shard).or_insert(first);
            assert_eq!(sn, *expected, "shard {shard}");
            *expected += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_begins_after_what_was_there() {
    let w = World::new(quiet(), arrival());
    w.append(0, rows(0, 10, 0)).await;
    let mut query = simple(&w, source(0, "s", StartPosition::Latest), ReplayOrder::Arrival).await;
    for n in 10..15 {
        w.append(0, rows(n, 1, 0)).await;
        assert_eq!(numbers(&take(&mut query, 1).await), [n], "a row comes alone, without another");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_then_live_gives_each_row_once_while_commits_and_merges_run() {
    const ROWS: i64 = 40;
    const BATCHES: i64 = 60;
    let w =
        Arc::new(World::new(StreamOptions { shards: 2, tail_ring_bytes_max: 1 << 14, ..quiet() }, by_key()));
    for shard in 0..2 {
        w.append(shard, rows(0, ROWS, 0)).await;
    }
    w.flush().await;
    let writers: Vec<_> = (0..2)
        .map(|shard| {
            let w = w.clone();
            tokio::spawn(async move {
                for i in 1..BATCHES {
                    w.append(shard, rows(i * ROWS, ROWS, i % 3)).await;
                    if i % 7 == 0 {
                        w.store.shards()[shard].flush().await.unwrap();
                    }
                    if i % 20 == 0 {
                        w.store.shards()[shard].merge().await.unwrap();
                    }
                }
            })
        })
        .collect();
    let mut readers = Vec::new();
    for _ in 0..3 {
        let w = w.clone();
        readers.push(tokio::spawn(async move {
            let mut query = simple(&w, source(0, "s", StartPosition::Earliest), ReplayOrder::Arrival).await;
            take(&mut query, (2 * ROWS * BATCHES) as usize).await
        }));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // One more that finds everything in history.
    let mut late = simple(&w, source(0, "s", StartPosition::Earliest), ReplayOrder::Arrival).await;
    let mut all = vec![take(&mut late, (2 * ROWS * BATCHES) as usize).await];
    for reader in readers {
        all.push(reader.await.unwrap());
    }
    for batches in &all {
        check_order(batches, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arrival_order_holds_over_shards_and_streams() {
    let (a, b) = (
        World::new(StreamOptions { shards: 2, ..quiet() }, arrival()),
        World::new(StreamOptions { shards: 2, ..quiet() }, by_key()),
    );
    // One row at a time, so that the order of arrival is the order of the numbers.
    for n in 0..60 {
        let world = if n % 3 == 0 { &a } else { &b };
        world.append((n % 2) as usize, rows(n, 1, n % 4)).await;
        if n == 30 {
            a.flush().await;
            b.flush().await;
        }
    }
    let lookup = Lookup::of([
        ("a", StreamAccess::Stored(a.access_named("default.a"))),
        ("b", StreamAccess::Stored(b.access_named("default.b"))),
    ]);
    let union = |start: fn() -> StartPosition| StreamNode::Union {
        id: NodeId(0),
        schema: columns(&NAMES),
        inputs: vec![source(1, "a", start()), source(2, "b", start())],
    };
    let root = union(|| StartPosition::Earliest);
    let mut query = start(entry(&registry(), "q"), &a, lookup, root, ReplayOrder::Arrival).await.unwrap();
    assert_eq!(numbers(&take(&mut query, 60).await), (0..60).collect::<Vec<_>>());
    b.append(1, rows(60, 1, 0)).await;
    assert_eq!(numbers(&take(&mut query, 1).await), [60]);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_rows_of_several_shards_come_in_log_order_where_it_is_wanted() {
    let w = World::new(StreamOptions { shards: 3, ..quiet() }, arrival());
    w.append(0, rows(0, 1, 0)).await;
    let mut root = source(0, "s", StartPosition::Earliest);
    if let StreamNode::Source { spec, .. } = &mut root {
        spec.log_order = true;
    }
    let mut query = simple(&w, root, ReplayOrder::Arrival).await;
    for n in 1..60 {
        w.append((n * 7 / 2 % 3) as usize, rows(n, 1, 0)).await;
    }
    assert_eq!(numbers(&take(&mut query, 60).await), (0..60).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn event_time_order_sorts_history_over_parts_and_log() {
    let w = World::new(StreamOptions { shards: 2, ..quiet() }, arrival());
    let rng = Rng::seeded(3);
    let mut expected = Vec::new();
    for i in 0..20 {
        let shard = (i % 2) as usize;
        let batch: Vec<_> =
            (0..50).map(|j| (i * 50 + j, NOW_MS + rng.below(3 * DAY_MS as u64) as i64)).collect();
        expected.extend(batch.iter().copied());
        w.append(shard, timed(batch)).await;
        if i == 11 {
            w.flush().await;
        }
    }
    expected.sort_by_key(|(_, time)| *time);
    let mut query = simple(&w, source(0, "s", StartPosition::Earliest), ReplayOrder::EventTime).await;
    let got = take(&mut query, 1_000).await;
    let times: Vec<_> = got.iter().flat_map(|b| ints(b, "_tp_time")).collect();
    assert_eq!(times, expected.iter().map(|(_, time)| *time).collect::<Vec<_>>());
    let mut seen = numbers(&got);
    seen.sort_unstable();
    assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
    w.append(1, rows(1_000, 1, 0)).await;
    assert_eq!(numbers(&take(&mut query, 1).await), [1_000], "then live");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_positions() {
    let w = World::new(StreamOptions { shards: 2, ..quiet() }, arrival());
    for shard in 0..2 {
        w.append(shard, rows(0, 10, 0)).await;
        w.append(shard, rows(10, 10, 5)).await;
    }
    w.flush().await;
    let sn = |list: &[u64]| StartPosition::SeqNo(list.iter().map(|n| SeqNo(*n)).collect());
    // (name, start, rows at least, first sn at most)
    let at = EventTime(NOW_MS + 5 * DAY_MS);
    for (name, start, exact) in [
        ("each", sn(&[15, 20]), Some(5)),
        ("all", sn(&[18]), Some(4)),
        ("time", StartPosition::EventTime(at), None),
    ] {
        let mut query = simple(&w, source(0, "s", start), ReplayOrder::Arrival).await;
        if let Some(exact) = exact {
            take(&mut query, exact).await;
        } else {
            let mut found = 0;
            while found < 20 {
                let batch = query.batches.next().await.unwrap().unwrap();
                found += ints(&batch, "_tp_time").iter().filter(|t| **t >= at.0).count();
            }
            assert_eq!(found, 20, "{name}: no row is missed");
        }
    }
    let lookup = Lookup::of([("s", StreamAccess::Stored(w.access()))]);
    let registry = registry();
    let refused =
        start(entry(&registry, "q"), &w, lookup.clone(), source(0, "s", sn(&[99])), ReplayOrder::Arrival);
    assert_eq!(refused.await.err().unwrap().code, Code::SequenceOutOfRange);
    let unknown = source(0, "nope", StartPosition::Latest);
    let refused = start(entry(&registry, "q"), &w, lookup, unknown, ReplayOrder::Arrival).await;
    assert_eq!(refused.err().unwrap().code, Code::UnknownStream);
    assert!(registry.list().is_empty(), "a query that did not start is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_history_starts_later_and_says_so() {
    let w = World::new(quiet(), arrival());
    w.append(0, rows(0, 10, 0)).await;
    w.store.truncate().await.unwrap();
    w.append(0, rows(10, 5, 0)).await;
    let start = StartPosition::SeqNo(vec![SeqNo(3)]);
    let mut query = simple(&w, source(0, "s", start), ReplayOrder::Arrival).await;
    assert_eq!(query.warnings.len(), 1, "{:?}", query.warnings);
    assert_eq!(numbers(&take(&mut query, 5).await), (10..15).collect::<Vec<_>>());
}

fn random(rows_per_second: f64, rows_max: u64) -> RandomAccess {
    let clock = Arc::new(SystemClock::new());
    let make = TypedGenerator::new(schema(), vec![None; 3], clock.clone(), Arc::new(Rng::seeded(5)));
    RandomAccess {
        name: "default.r".into(),
        schema: schema(),
        generator: Arc::new(make),
        clock,
        rows_per_second,
        interval_ms: 5,
        rows_max,
    }
}

#[tokio::test]
async fn random_streams_keep_their_rate_and_end_at_their_limit() {
    let w = World::new(quiet(), arrival());
    // (rows a second, rows in all, seconds it must take at least)
    for (rate, rows, least) in [(0.0, 20_000, 0.0), (1_000.0, 200, 0.19), (20.0, 4, 0.14)] {
        let lookup = Lookup::of([("r", StreamAccess::Random(random(rate, rows)))]);
        let began = tokio::time::Instant::now();
        let query = source(0, "r", StartPosition::Latest);
        let mut query =
            start(entry(&registry(), "q"), &w, lookup, query, ReplayOrder::Arrival).await.unwrap();
        let mut sns = Vec::new();
        while let Some(batch) = query.batches.next().await {
            sns.extend(ints(&batch.unwrap(), "_tp_sn"));
        }
        assert_eq!(sns, (0..rows as i64).collect::<Vec<_>>());
        let took = began.elapsed().as_secs_f64();
        assert!(took >= least, "{rate} rows/s: {rows} rows took only {took} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_read_of_a_random_stream_is_one_block() {
    use crate::scan::StreamTable;
    let session = datafusion::prelude::SessionContext::new();
    let table = StreamTable::new(StreamAccess::Random(random(10.0, 0)));
    session.register_table("r", Arc::new(table)).unwrap();
    let sql = "select count(*), max(_tp_sn) from r where k is not null";
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    let cell = |c: usize| arrow::util::display::array_value_to_string(batches[0].column(c), 0).unwrap();
    assert_eq!((cell(0), cell(1)), ("65409".into(), "65408".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_returns_when_all_has_been_handed_over() {
    let w = World::new(StreamOptions { shards: 2, ..quiet() }, arrival());
    let registry = registry();
    let lookup = Lookup::of([("s", StreamAccess::Stored(w.access()))]);
    let e = entry(&registry, "q");
    let root = source(0, "s", StartPosition::Earliest);
    let mut query = start(e.clone(), &w, lookup, root, ReplayOrder::Arrival).await.unwrap();
    for n in 0..20 {
        w.append((n % 2) as usize, rows(n, 1, 0)).await;
    }
    registry.sync("q").await.unwrap();
    assert_eq!(e.info().result_rows, 20, "all is in the output buffer, nobody has read it");
    assert_eq!(e.info().read_rows, 20);
    let mut got = numbers(&take(&mut query, 20).await);
    got.sort_unstable();
    assert_eq!(got, (0..20).collect::<Vec<_>>());
    assert_eq!(registry.sync("other").await.unwrap_err().code, Code::BadArguments);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_source_gives_what_is_durable_then_its_last_watermark_then_its_end() {
    for order in [ReplayOrder::Arrival, ReplayOrder::EventTime] {
        let w = World::new(StreamOptions { shards: 2, ..quiet() }, arrival());
        w.append(0, rows(0, 10, 0)).await;
        w.flush().await;
        let lookup = Lookup::of([("s", StreamAccess::Stored(w.access()))]);
        let entry = entry(&registry(), "q");
        let (task, memory) = (w.session().task_ctx(), entry.memory.clone());
        let sources = StreamSources::new(lookup, order, task, memory, entry.progress.clone());
        let StreamNode::Source { id, spec } = source(0, "s", StartPosition::Earliest) else { unreachable!() };
        let mut tail = weir_plan::SourceFactory::open(&sources, id, &spec).await.unwrap();
        let mut seen = Vec::new();
        let mut given = 0;
        loop {
            let element = tail.next().await.unwrap();
            seen.push(match &element {
                Element::Rows(rows) => {
                    given += rows.batch.num_rows();
                    "rows"
                }
                Element::EndOfBackfill => "live",
                Element::Watermark(WatermarkTime::INFINITY) => "infinity",
                Element::End => break,
                other => panic!("{other:?}"),
            });
            if seen.last() == Some(&"live") {
                w.append(1, rows(10, 5, 0)).await;
                w.append(0, rows(15, 5, 0)).await;
                // A live read is under way when the query is drained.
                let first = tail.next().await.unwrap();
                assert!(matches!(&first, Element::Rows(rows) if rows.batch.num_rows() == 5));
                given += 5;
                if let std::task::Poll::Ready(Ok(Element::Rows(rows))) = futures::poll!(tail.next()) {
                    given += rows.batch.num_rows();
                }
                w.append(1, rows(20, 5, 0)).await;
                sources.sources().drain();
            }
        }
        assert_eq!(seen.last(), Some(&"infinity"), "{seen:?}");
        assert_eq!(given, 25, "each row once");
    }
}
