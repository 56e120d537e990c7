//! Life of a query: latency, limits, errors, panics, cancel, barriers.

use super::support::*;
use crate::DataflowRuntime;
use crate::build::build;
use crate::resources::Resources;
use crate::task::{Finish, Task};
use datafusion_expr::Operator as BinaryOp;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{binary, col, lit};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, watch};
use weir_base::{Code, MemoryBudget, SystemClock};
use weir_plan::{
    Element, Epoch, NodeId, Projection, ReplayOrder, Rows, Running, Runtime, StreamError, StreamNode,
    StreamPlan, WatermarkTime,
};

pub fn compare(column: &str, op: BinaryOp, value: i64) -> Arc<dyn PhysicalExpr> {
    binary(col(column, &schema()).unwrap(), op, lit(value), &schema()).unwrap()
}

pub fn filter(id: u32, predicate: Arc<dyn PhysicalExpr>, input: StreamNode) -> StreamNode {
    StreamNode::Filter { id: NodeId(id), predicate, input: Box::new(input) }
}

pub fn limit(id: u32, skip: u64, fetch: Option<u64>, input: StreamNode) -> StreamNode {
    StreamNode::Limit { id: NodeId(id), skip, fetch, input: Box::new(input) }
}

async fn start(root: StreamNode, scripts: Arc<Scripts>, sink: Box<dyn weir_plan::Sink>) -> Arc<dyn Running> {
    let plan = StreamPlan::new(root, ReplayOrder::Arrival);
    DataflowRuntime::new(tokio::runtime::Handle::current())
        .start(plan, scripts, sink, Arc::new(SystemClock::new()), MemoryBudget::root("test", 1 << 30), None)
        .await
        .unwrap()
}

fn rows(element: Option<Element>) -> Vec<Row> {
    match element {
        Some(Element::Rows(r)) => rows_of(&r.batch),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_row_leaves_without_waiting_for_another() {
    let scripts = Scripts::of([(1, vec![give(&[(1, 1, None)]), Step::NotYet, give(&[(1, 9, None)])])]);
    let (tx, mut rx) = mpsc::channel(1);
    let plan = filter(0, compare("a", BinaryOp::Gt, 5), source_node(1));
    let query = start(plan, scripts, Box::new(ChannelSink(tx))).await;
    assert_eq!(rows(rx.recv().await), [(1, 9, None)], "what the filter kept of nothing is not sent");
    query.cancel();
    query.join().await.unwrap();
    let counters = query.counters();
    assert_eq!(counters.iter().map(|(_, name, _)| *name).collect::<Vec<_>>(), ["Filter", "Source"]);
    let (_, _, filter) = &counters[0];
    assert_eq!((filter.rows_in.load(Ordering::Relaxed), filter.rows_out.load(Ordering::Relaxed)), (2, 1));
    assert_eq!(filter.watermark.load(Ordering::Relaxed), i64::MIN);
}

#[tokio::test]
async fn limit_counts_rows_exactly_and_ends_the_query() {
    let three = || give(&[(1, 1, None), (1, 2, None), (1, 3, None)]);
    for (skip, fetch, expected) in
        [(0, 0, vec![]), (0, 2, vec![1, 2]), (2, 3, vec![3, 1, 2]), (4, 1, vec![2]), (0, 3, vec![1, 2, 3])]
    {
        let scripts = Scripts::of([(1, vec![three(), Step::NotYet, three()])]);
        let kept = Kept::default();
        let plan = limit(0, skip, Some(fetch), source_node(1));
        start(plan, scripts, Box::new(kept.clone())).await.join().await.unwrap();
        assert_eq!(kept.rows().iter().map(|r| r.1).collect::<Vec<_>>(), expected, "{skip} {fetch}");
        assert!(matches!(kept.0.lock().last(), Some(Element::End)));
    }
}

#[tokio::test]
async fn a_limit_below_a_union_ends_only_its_branch() {
    let scripts = Scripts::of([
        (2, vec![give(&[(2, 1, None), (2, 2, None)]), give(&[(2, 3, None)])]),
        (3, vec![give(&[(3, 1, None)]), Step::NotYet, give(&[(3, 2, None)]), Step::Give(Element::End)]),
    ]);
    let dropped = scripts.clone();
    let plan = StreamNode::Union {
        id: NodeId(0),
        schema: schema(),
        inputs: vec![limit(1, 0, Some(1), source_node(2)), source_node(3)],
    };
    let kept = Kept::default();
    start(plan, scripts, Box::new(kept.clone())).await.join().await.unwrap();
    assert!(dropped.dropped.lock()[&NodeId(2)].load(Ordering::SeqCst), "its source is let go");
    let mut rows = kept.rows();
    rows.sort();
    assert_eq!(rows, [(2, 1, None), (3, 1, None), (3, 2, None)]);
}

#[tokio::test]
async fn an_expression_error_ends_the_query_with_its_code() {
    let by_zero = binary(
        lit(1i64),
        BinaryOp::Divide,
        binary(col("a", &schema()).unwrap(), BinaryOp::Minus, col("a", &schema()).unwrap(), &schema())
            .unwrap(),
        &schema(),
    )
    .unwrap();
    let out = Arc::new(arrow_schema::Schema::new(vec![arrow_schema::Field::new(
        "x",
        arrow_schema::DataType::Int64,
        true,
    )]));
    let plan = StreamNode::Project {
        id: NodeId(0),
        exprs: vec![Projection { expr: by_zero, name: "x".into() }],
        schema: out,
        input: Box::new(source_node(1)),
    };
    let query = start(plan, Scripts::of([(1, vec![give(&[(1, 1, None)])])]), Box::new(Kept::default())).await;
    assert_eq!(query.join().await.unwrap_err().code, Code::DivisionByZero);
}

#[tokio::test]
async fn failures_and_panics_of_a_source_are_the_querys() {
    let fail = StreamError { code: Code::CorruptedData, message: "part p is damaged at byte 7".into() };
    for (step, code) in [(Step::Fail(fail), Code::CorruptedData), (Step::Panic, Code::LogicalError)] {
        let scripts = Scripts::of([(0, vec![give(&[(1, 1, None)]), step])]);
        let query = start(source_node(0), scripts, Box::new(Kept::default())).await;
        assert_eq!(query.join().await.unwrap_err().code, code);
    }
}

#[tokio::test]
async fn dropping_the_handle_cancels_even_while_the_sink_is_full() {
    let scripts = Scripts::of([(0, (0..10).map(|i| give(&[(0, i, None)])).collect())]);
    let held = scripts.clone();
    let (tx, mut rx) = mpsc::channel(1);
    let query = start(source_node(0), scripts, Box::new(ChannelSink(tx))).await;
    assert_eq!(rows(rx.recv().await), [(0, 0, None)]);
    drop(query);
    // The channel closes when the task lets go of its sink.
    while rx.recv().await.is_some() {}
    assert!(held.dropped.lock()[&NodeId(0)].load(Ordering::SeqCst));
    assert!(held.given.lock().len() < 10, "back-pressure reached the source");
}

/// Runs a plan as a bare task, keeping snapshots.
async fn run_bare(root: &StreamNode, scripts: &Scripts) -> (Vec<Element>, Vec<crate::graph::Snapshot>) {
    let mut sources: HashMap<_, _> =
        root.sources().into_iter().map(|(id, _)| (id, scripts.open_one(id))).collect();
    let plan = StreamPlan::new(root.clone(), ReplayOrder::Arrival);
    let memory = MemoryBudget::root("test", 1 << 30);
    let graph =
        build(&plan, &mut sources, Arc::new(SystemClock::new()), &memory, &Resources::one_thread(), &[])
            .unwrap();
    let (_cancel, cancelled) = watch::channel(false);
    let (kept, snapshots) = (Kept::default(), Arc::new(Mutex::new(Vec::new())));
    let into = snapshots.clone();
    let task = Task {
        graph,
        sink: Box::new(kept.clone()),
        cancel: cancelled,
        snapshots: Some(Box::new(move |s| into.lock().push(s))),
        keeping: None,
        told: crate::task::Told::default(),
        failed_at: Default::default(),
    };
    assert_eq!(task.run().await.unwrap(), Finish::Ended);
    let elements = std::mem::take(&mut *kept.0.lock());
    let snapshots = std::mem::take(&mut *snapshots.lock());
    (elements, snapshots)
}

#[tokio::test]
async fn a_barrier_divides_what_lies_before_from_what_lies_after() {
    let barrier = || Step::Give(Element::Barrier(Epoch(1)));
    let script = |s: i64, after: i64| {
        let mut steps = vec![give(&[(s, 0, None)]), barrier()];
        steps.extend((0..after).map(|i| give(&[(s, 1, Some(i))])));
        steps.push(Step::Give(Element::End));
        steps
    };
    let scripts = Scripts::of([
        (2, script(2, 3)),
        (3, [vec![Step::NotYet; 5], vec![give(&[(3, 0, None)])], script(3, 1)].concat()),
    ]);
    let union =
        StreamNode::Union { id: NodeId(1), schema: schema(), inputs: vec![source_node(2), source_node(3)] };
    let (elements, snapshots) = run_bare(&limit(0, 1, Some(100), union), &scripts).await;
    let at = elements.iter().position(|e| matches!(e, Element::Barrier(Epoch(1)))).unwrap();
    let epoch_of = |e: &Element| match e {
        Element::Rows(r) => rows_of(&r.batch)[0].1,
        _ => -1,
    };
    assert!(elements[..at].iter().all(|e| epoch_of(e) == 0), "{elements:?}");
    assert!(elements[at + 1..].iter().all(|e| epoch_of(e) != 0), "{elements:?}");
    let [(Epoch(1), states)] = &snapshots[..] else { panic!("{snapshots:?}") };
    let (_, state) = states.iter().find(|(id, _)| *id == NodeId(0)).unwrap();
    assert_eq!(
        (state.u64("Limit", "skip_left").unwrap(), state.u64("Limit", "fetch_left").unwrap()),
        (0, 98)
    );
}

#[tokio::test]
async fn watermarks_keep_their_place_among_rows() {
    let wm = |at| Step::Give(Element::Watermark(WatermarkTime(at)));
    let scripts = Scripts::of([(
        1,
        vec![
            give(&[(1, 7, None)]),
            wm(5),
            give(&[(1, 1, None)]),
            wm(8),
            Step::Give(Element::Idle),
            Step::Give(Element::EndOfBackfill),
            give(&[(1, 9, None)]),
            Step::Give(Element::Tick(3)),
            Step::Give(Element::End),
        ],
    )]);
    let plan = filter(0, compare("a", BinaryOp::Gt, 5), source_node(1));
    let (elements, _) = run_bare(&plan, &scripts).await;
    let seen: Vec<String> = elements
        .iter()
        .map(|e| match e {
            Element::Rows(r) => format!("rows {}", rows_of(&r.batch)[0].1),
            Element::Watermark(at) => format!("wm {}", at.0),
            Element::Barrier(_) => unreachable!(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, ["rows 7", "wm 5", "wm 8", "Idle", "EndOfBackfill", "rows 9", "End"]);
}

#[tokio::test]
async fn a_huge_batch_is_cut_and_weights_go_along() {
    let n = crate::task::SLICE_ROWS_MAX + 10;
    let big: Vec<Row> = (0..n as i64).map(|i| (1, i, Some(i % 3))).collect();
    let weights = (0..n as i64).map(|i| if i % 2 == 0 { 1 } else { -1 }).collect();
    let element = Element::Rows(Rows { batch: batch(&big), weights: Some(weights) });
    let scripts = Scripts::of([(1, vec![Step::Give(element), Step::Give(Element::End)])]);
    let plan = filter(0, compare("b", BinaryOp::Eq, 1), source_node(1));
    let (elements, _) = run_bare(&plan, &scripts).await;
    let mut got = Vec::new();
    for e in &elements {
        if let Element::Rows(r) = e {
            let w = r.weights.as_ref().unwrap();
            got.extend(rows_of(&r.batch).into_iter().zip(w.values().iter().copied()));
        }
    }
    let expected: Vec<_> =
        big.iter().filter(|r| r.2 == Some(1)).map(|r| (*r, if r.1 % 2 == 0 { 1 } else { -1 })).collect();
    assert_eq!(got, expected);
    assert_eq!(elements.len(), 3, "two slices and the end");
}
