//! History as settings and plans want it: in no order, in part, at a pace, and before its end is said.

use super::*;
use std::time::Duration;
use weir_base::{Clock, ManualClock};
use weir_plan::{ReplaySpec, Source, SourceFactory, SourceOrder};

fn spec_of(history: HistorySpec, names: &[&str], start: StartPosition) -> SourceSpec {
    SourceSpec {
        database: "default".into(),
        relation: "s".into(),
        columns: names.iter().map(|n| (*n).to_owned()).collect(),
        schema: columns(names),
        start,
        prune: None,
        watermark: None,
        history,
        log_order: false,
    }
}

async fn open(world: &World, spec: &SourceSpec, clock: Arc<dyn Clock>) -> (StreamSources, Box<dyn Source>) {
    let lookup = Lookup::of([("s", StreamAccess::Stored(world.access()))]);
    let entry = entry(&registry(), "q");
    let (task, memory) = (world.session().task_ctx(), entry.memory.clone());
    let sources = StreamSources::new(lookup, ReplayOrder::Arrival, task, memory, entry.progress.clone())
        .for_plan(&StreamNode::Source { id: NodeId(0), spec: spec.clone() }, clock);
    let source = sources.open(NodeId(0), spec).await.unwrap();
    (sources, source)
}

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// The rows up to the end of backfill, which must come.
async fn history(source: &mut dyn Source) -> Vec<RecordBatch> {
    let mut all = Vec::new();
    loop {
        match source.next().await.unwrap() {
            Element::Rows(rows) => all.push(rows.batch),
            Element::EndOfBackfill => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn sorted(batches: &[RecordBatch]) -> Vec<i64> {
    let mut all = numbers(batches);
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn history_in_no_order_is_all_of_it_once_and_live_rows_follow() {
    for layout in [arrival(), by_key()] {
        for names in [&["n"][..], &NAMES[..]] {
            let w =
                World::new(StreamOptions { shards: 3, row_group_rows_max: 64, ..quiet() }, layout.clone());
            for n in 0..30 {
                w.append((n % 3) as usize, rows(n * 50, 50, n % 2)).await;
                if n % 8 == 7 {
                    w.flush().await;
                }
            }
            let any = HistorySpec { order: SourceOrder::Any, ..HistorySpec::default() };
            let spec = spec_of(any, names, StartPosition::Earliest);
            let (sources, mut source) = open(&w, &spec, system()).await;
            let begun = source.position();
            let first = source.next().await.unwrap();
            let Element::Rows(first) = first else { panic!("{first:?}") };
            assert_eq!(source.position(), begun, "no number says how far it has come");
            let mut all = history(&mut *source).await;
            all.push(first.batch);
            assert_eq!(sorted(&all), (0..1_500).collect::<Vec<_>>());
            assert_eq!(source.position(), vec![SeqNo(500); 3]);
            w.append(1, rows(1_500, 2, 0)).await;
            let live = source.next().await.unwrap();
            assert!(matches!(&live, Element::Rows(r) if ints(&r.batch, "n") == [1_500, 1_501]));
            drop(sources);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_no_order_from_a_number_on() {
    let w = World::new(StreamOptions { shards: 2, row_group_rows_max: 64, ..quiet() }, by_key());
    for shard in 0..2 {
        w.append(shard, rows(shard as i64 * 1_000, 300, 0)).await;
    }
    w.flush().await;
    w.append(1, rows(1_300, 10, 0)).await;
    let any = HistorySpec { order: SourceOrder::Any, ..HistorySpec::default() };
    let start = StartPosition::SeqNo(vec![SeqNo(290), SeqNo(301)]);
    let (_sources, mut source) = open(&w, &spec_of(any, &["n"], start), system()).await;
    let expected: Vec<i64> = (290..300).chain(1_301..1_310).collect();
    assert_eq!(sorted(&history(&mut *source).await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_history_waits_for_its_end_to_be_told() {
    let w = World::new(quiet(), arrival());
    w.append(0, rows(0, 10, 0)).await;
    let spec = spec_of(HistorySpec::default(), &["n"], StartPosition::Earliest);
    let (sources, mut source) = open(&w, &spec, system()).await;
    let progress = sources.sources();
    let mut synced = Box::pin(progress.sync());
    assert!(matches!(source.next().await.unwrap(), Element::Rows(_)));
    assert!(matches!(source.next().await.unwrap(), Element::EndOfBackfill));
    assert!(futures::poll!(&mut synced).is_pending(), "what the end makes leave is under way");
    assert!(source.try_next().unwrap().is_none());
    synced.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_backfill_may_be_told_before_it_and_is_told_once() {
    let w = World::new(quiet(), arrival());
    w.append(0, rows(0, 10, 0)).await;
    w.flush().await;
    let spec =
        spec_of(HistorySpec { emits: true, ..HistorySpec::default() }, &["n"], StartPosition::Earliest);
    let (_sources, mut source) = open(&w, &spec, system()).await;
    assert!(matches!(source.next().await.unwrap(), Element::EndOfBackfill));
    assert!(matches!(source.next().await.unwrap(), Element::Rows(r) if r.batch.num_rows() == 10));
    w.append(0, rows(10, 1, 0)).await;
    assert!(matches!(source.next().await.unwrap(), Element::Rows(r) if r.batch.num_rows() == 1));
}

fn replay(column: &str, speed: f64, from_ms: Option<i64>, to_ms: Option<i64>) -> HistorySpec {
    let us = |ms: i64| (NOW_MS + ms) * 1_000;
    let replay =
        ReplaySpec { column: column.into(), speed, start_us: from_ms.map(us), end_us: to_ms.map(us) };
    HistorySpec { replay: Some(replay), ..HistorySpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_by_the_clock_of_the_world() {
    let w = World::new(quiet(), arrival());
    // Event times 0, 10 and 20 s; the last row comes late, and waits for nobody.
    w.append(0, timed([(0, NOW_MS), (1, NOW_MS + 10_000), (2, NOW_MS + 20_000), (3, NOW_MS + 5_000)])).await;
    w.flush().await;
    let clock = Arc::new(ManualClock::new(NOW_MS * 1_000));
    let spec = spec_of(replay("_tp_time", 2.0, None, None), &["n"], StartPosition::Latest);
    let (_sources, mut source) = open(&w, &spec, clock.clone()).await;
    assert!(matches!(source.next().await.unwrap(), Element::Rows(r) if ints(&r.batch, "n") == [0]));
    assert!(source.try_next().unwrap().is_none());
    clock.advance(Duration::from_millis(4_999));
    assert!(source.try_next().unwrap().is_none(), "10 s at twice the speed are 5 s");
    clock.advance(Duration::from_millis(1));
    assert!(matches!(source.next().await.unwrap(), Element::Rows(r) if ints(&r.batch, "n") == [1]));
    clock.advance(Duration::from_secs(5));
    assert!(matches!(source.next().await.unwrap(), Element::Rows(r) if ints(&r.batch, "n") == [2, 3]));
    assert!(matches!(source.next().await.unwrap(), Element::EndOfBackfill));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_with_an_end_ends() {
    let w = World::new(quiet(), arrival());
    w.append(0, timed((0..10).map(|n| (n, NOW_MS + n * 1_000)))).await;
    w.flush().await;
    let spec = spec_of(replay("_tp_time", 0.0, Some(3_000), Some(6_000)), &["n"], StartPosition::Latest);
    let (_sources, mut source) = open(&w, &spec, system()).await;
    assert_eq!(numbers(&history(&mut *source).await), [3, 4, 5, 6]);
    assert!(matches!(source.next().await.unwrap(), Element::Watermark(WatermarkTime::INFINITY)));
    assert!(matches!(source.next().await.unwrap(), Element::End));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_can_not_be_is_refused() {
    let w = World::new(quiet(), arrival());
    let lookup = Lookup::of([("s", StreamAccess::Stored(w.access()))]);
    let entry = entry(&registry(), "q");
    let clock = Arc::new(ManualClock::new(NOW_MS * 1_000));
    let task = w.session().task_ctx();
    let memory = entry.memory.clone();
    let spec = spec_of(replay("k", 1.0, None, None), &["n"], StartPosition::Latest);
    let sources = StreamSources::new(lookup, ReplayOrder::Arrival, task, memory, entry.progress.clone())
        .for_plan(&StreamNode::Source { id: NodeId(0), spec }, clock);
    // (name, replay, code)
    let cases = [
        ("an unknown column", replay("nope", 1.0, None, None), Code::UnknownIdentifier),
        ("no time", replay("k", 1.0, None, None), Code::IllegalTypeOfArgument),
        ("an end to come", replay("_tp_time", 1.0, None, Some(1)), Code::BadArguments),
    ];
    for (name, history, code) in cases {
        let spec = spec_of(history, &["n"], StartPosition::Latest);
        let refused = sources.open(NodeId(0), &spec).await.err().expect(name);
        assert_eq!(refused.code, code, "{name}: {}", refused.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_alone_when_that_is_asked_for() {
    let w = World::new(
        StreamOptions { segment_size_bytes_max: 4_096, log_retention_bytes: Some(0), ..quiet() },
        arrival(),
    );
    for n in 0..40 {
        w.append(0, rows(n * 20, 20, 0)).await;
    }
    w.flush().await;
    let shard = &w.store.shards()[0];
    w.append(0, rows(800, 5, 0)).await;
    while shard.log_start() == SeqNo(0) {
        shard.retain_once().unwrap();
    }
    let first = shard.log_start().0 as i64;
    let history_spec = HistorySpec { log_only: true, ..HistorySpec::default() };
    let (_sources, mut source) =
        open(&w, &spec_of(history_spec, &["n"], StartPosition::Earliest), system()).await;
    assert_eq!(numbers(&history(&mut *source).await), (first..805).collect::<Vec<_>>());
}
