//! Queries from registration to their end.

use super::*;
use crate::scan::tests::support::*;
use crate::scan::{StreamAccess, full_schema};
use crate::source::StreamSources;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use weir_base::{Code, MemoryBudget, SystemClock};
use weir_dataflow::DataflowRuntime;
use weir_plan::{HistorySpec, NodeId, ReplayOrder, SourceSpec, StartPosition, StreamNode, StreamPlan};

fn registry(max: usize) -> Arc<QueryRegistry> {
    QueryRegistry::new(
        max,
        MemoryBudget::root("server", 1 << 30),
        Arc::new(SystemClock::new()),
        Drops::default(),
    )
}

fn spec(id: &str) -> QuerySpec {
    QuerySpec {
        query_id: id.into(),
        user: "alice".into(),
        database: "default".into(),
        text: "select 1".into(),
        streaming: false,
        memory_bytes_max: None,
        execution_max: None,
        output_buffer_bytes_max: 1 << 20,
        record: None,
    }
}

async fn bounded(
    entry: Arc<QueryEntry>,
    session: &SessionContext,
    sql: &str,
) -> weir_base::Result<futures::stream::BoxStream<'static, weir_base::Result<arrow::array::RecordBatch>>> {
    let plan = session.sql(sql).await.unwrap().into_optimized_plan().unwrap();
    start_bounded(entry, plan, &session.state(), &Handle::current()).await
}

/// More rows than any buffer holds.
const ENDLESS: &str = "select a.n from s a, s b, s c, s d";

async fn world() -> World {
    let w = World::new(quiet(), arrival());
    w.append(0, rows(0, 500, 0)).await;
    w.flush().await;
    w.append(0, rows(500, 500, 0)).await;
    w
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_query_runs_to_its_end_and_is_gone() {
    let w = world().await;
    let registry = registry(1);
    let entry = registry.register(spec("q1")).unwrap();
    assert_eq!(registry.list()[0].state, "Planned");
    let mut batches = bounded(entry.clone(), &w.session(), "select n from s where n % 2 = 0").await.unwrap();
    let mut rows = 0;
    while let Some(batch) = batches.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, 500);
    let info = entry.info();
    assert_eq!((info.state, info.read_rows, info.result_rows), ("Finished", 1_000, 500));
    assert!(info.read_bytes > 0 && info.memory_bytes == 0, "{info:?}");
    drop((batches, entry));
    assert!(registry.list().is_empty());
}

#[tokio::test]
async fn ids_are_unique_and_numbers_bounded() {
    let registry = registry(2);
    let first = registry.register(spec("a")).unwrap();
    assert_eq!(registry.register(spec("a")).unwrap_err().code, Code::QueryIdInUse);
    let _second = registry.register(spec("b")).unwrap();
    assert_eq!(registry.register(spec("c")).unwrap_err().code, Code::TooManyQueries);
    drop(first);
    registry.register(spec("a")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_query_ends_with_its_code() {
    let w = world().await;
    let registry = registry(10);
    let entry = registry.register(spec("q")).unwrap();
    let mut batches = bounded(entry.clone(), &w.session(), ENDLESS).await.unwrap();
    batches.next().await.unwrap().unwrap();
    assert!(registry.kill("q").is_some() && registry.kill("other").is_none());
    let end = loop {
        match batches.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap().unwrap_err().code, Code::QueryWasCancelled);
    assert!(batches.next().await.is_none());
    assert_eq!(entry.state(), State::Ended(Finish::Cancelled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_past_its_time_ends_with_its_code() {
    let w = world().await;
    let registry = registry(10);
    let limited = QuerySpec { execution_max: Some(Duration::from_millis(50)), ..spec("q") };
    let entry = registry.register(limited).unwrap();
    let sql = "select count(a.n + b.n + c.n + d.n) from s a, s b, s c, s d";
    // On a busy machine planning alone may take that long.
    let end = match bounded(entry.clone(), &w.session(), sql).await {
        Ok(mut batches) => batches.next().await.unwrap().map(|_| ()),
        Err(e) => Err(e),
    };
    assert_eq!(end.unwrap_err().code, Code::TimeoutExceeded);
    assert_eq!(entry.state(), State::Ended(Finish::Failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_stream_cancels() {
    let w = world().await;
    let registry = registry(10);
    let entry = registry.register(spec("q")).unwrap();
    let mut batches = bounded(entry.clone(), &w.session(), ENDLESS).await.unwrap();
    batches.next().await.unwrap().unwrap();
    drop(batches);
    assert_eq!(entry.state(), State::Ended(Finish::Cancelled));
    // The driver and what it spawned let go once they are aborted.
    while Arc::strong_count(&entry) > 1 || entry.info().memory_bytes > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_names_the_operator() {
    let w = world().await;
    let registry = registry(10);
    let entry = registry.register(QuerySpec { memory_bytes_max: Some(4 << 10), ..spec("q") }).unwrap();
    let sql = "select a.k, b.k from s a join s b on a.n = b.n";
    let mut batches = bounded(entry.clone(), &w.session(), sql).await.unwrap();
    let end = loop {
        match batches.next().await {
            Some(Ok(_)) => {}
            other => break other.unwrap(),
        }
    };
    let e = end.unwrap_err();
    assert_eq!(e.code, Code::MemoryLimitExceeded, "{e}");
    assert!(e.message.contains("operator ") && e.message.contains("max_memory_usage"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planning_error_comes_at_once() {
    let session = SessionContext::new();
    let plan = session.sql("select arrow_cast('x', 'Int64')").await.unwrap().into_unoptimized_plan();
    let registry = registry(10);
    let entry = registry.register(spec("q")).unwrap();
    let error = match start_bounded(entry.clone(), plan, &session.state(), &Handle::current()).await {
        Err(e) => e,
        Ok(mut batches) => batches.next().await.unwrap().unwrap_err(),
    };
    assert_eq!(error.code, Code::CannotParseText, "{error}");
    assert_eq!(entry.state(), State::Ended(Finish::Failed));
}

async fn streaming(w: &World, entry: Arc<QueryEntry>) -> StreamingQuery {
    let full = full_schema(&schema());
    let spec = SourceSpec {
        database: "default".into(),
        relation: "s".into(),
        columns: full.fields().iter().map(|f| f.name().clone()).collect(),
        schema: full,
        start: StartPosition::Earliest,
        prune: None,
        watermark: None,
        history: HistorySpec::default(),
        log_order: false,
    };
    let root = StreamNode::Source { id: NodeId(0), spec };
    let sources = StreamSources::new(
        Lookup::of([("s", StreamAccess::Stored(w.access()))]),
        ReplayOrder::Arrival,
        w.session().task_ctx(),
        entry.memory.clone(),
        entry.progress.clone(),
    );
    let plan = StreamPlan::new(root, ReplayOrder::Arrival);
    let runtime = DataflowRuntime::new(Handle::current());
    start_streaming(entry, plan, sources, &runtime, Arc::new(SystemClock::new()), None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_back_its_own_query() {
    let w = World::new(quiet(), arrival());
    for i in 0..100 {
        w.append(0, rows(i * 100, 100, 0)).await;
    }
    let registry = registry(10);
    let small = QuerySpec { streaming: true, output_buffer_bytes_max: 16 << 10, ..spec("q") };
    let entry = registry.register(small).unwrap();
    let mut query = streaming(&w, entry.clone()).await;
    assert_eq!(registry.list()[0].state, "Running");
    let mut rows = query.batches.next().await.unwrap().unwrap().num_rows();
    // A row takes more than 40 bytes; the buffer, the batch in hand and the one on its way.
    assert!(entry.info().read_rows < 1_500, "{:?}", entry.info());
    while rows < 10_000 {
        rows += query.batches.next().await.unwrap().unwrap().num_rows();
    }
    assert_eq!(rows, 10_000);
    assert_eq!(registry.list()[0].operators.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_streaming_query_can_be_killed_or_dropped() {
    let w = World::new(quiet(), arrival());
    let registry = registry(10);
    let entry = registry.register(QuerySpec { streaming: true, ..spec("q") }).unwrap();
    let mut query = streaming(&w, entry.clone()).await;
    let killer = registry.clone();
    let (end, ()) = tokio::join!(query.batches.next(), async move {
        assert!(killer.kill("q").is_some());
    });
    assert_eq!(end.unwrap().unwrap_err().code, Code::QueryWasCancelled);
    assert_eq!(entry.state(), State::Ended(Finish::Cancelled));

    // Gone is who has no holder left, whoever has taken the id since.
    let killed = registry.kill("q").unwrap();
    let waiting = registry.clone();
    let weak = killed.clone();
    let gone = tokio::spawn(async move { waiting.gone(&[weak]).await });
    drop((query, entry));
    gone.await.unwrap();
    assert_eq!(killed.strong_count(), 0);

    let entry = registry.register(QuerySpec { streaming: true, ..spec("q2") }).unwrap();
    drop(streaming(&w, entry.clone()).await);
    assert_eq!(entry.state(), State::Ended(Finish::Cancelled));
}
