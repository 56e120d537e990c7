//! Emit policies step by step, with a clock that stands still unless told.

use super::support::*;
use crate::build::build;
use crate::graph::Graph;
use crate::resources::Resources;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch, TimestampNanosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_physical_expr::expressions::col;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use weir_base::{Clock, ManualClock, MemoryBudget};
use weir_plan::{
    AggregateKind, AggregateSpec, Element, EmitPolicy, EmitSpec, Epoch, NodeId, Projection, ReplayOrder,
    Rows, SourceSpec, Span, StartPosition, StreamNode, StreamPlan, WatermarkTime, WindowKeys, WindowKind,
    WindowSpec,
};

const SECOND_US: i64 = 1_000_000;
const WINDOW: WindowSpec =
    WindowSpec { kind: WindowKind::Tumble { size: Span::Fixed(10) }, zone: chrono_tz::UTC };

/// Key, count, sum; the weight of a changelog, else 0.
type Out = (i64, i64, i64, i64);

fn pairs(columns: &[&str]) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let of = |name: &&str| {
        let t = if name.starts_with('w') { time.clone() } else { DataType::Int64 };
        Field::new(*name, t, false)
    };
    Arc::new(Schema::new(columns.iter().map(of).collect::<Vec<_>>()))
}

/// Groups by `k` and counts and sums `v`; over windows that the rows bring with them, or not.
fn aggregate(policy: EmitPolicy, changelog: bool, windowed: bool, whole: bool) -> StreamNode {
    let input = pairs(&["k", "v", "ws", "we"]);
    let source = StreamNode::Source {
        id: NodeId(2),
        spec: SourceSpec {
            history: weir_plan::HistorySpec::default(),
            database: "default".into(),
            relation: "s".into(),
            columns: input.fields().iter().map(|f| f.name().clone()).collect(),
            schema: input.clone(),
            start: StartPosition::Earliest,
            prune: None,
            watermark: None,
            log_order: false,
        },
    };
    let names: &[&str] = if windowed { &["k", "ws", "we"] } else { &["k"] };
    let keys =
        names.iter().map(|n| Projection { expr: col(n, &input).unwrap(), name: (*n).into() }).collect();
    let spec = |kind: AggregateKind, args: &[&str]| AggregateSpec {
        kind: kind.clone(),
        args: args.iter().map(|a| col(a, &input).unwrap()).collect(),
        filter: None,
        output: Arc::new(Field::new(format!("{kind:?}"), DataType::Int64, true)),
    };
    let aggregates = vec![spec(AggregateKind::Count, &[]), spec(AggregateKind::Sum, &["v"])];
    let mut fields: Vec<_> = names.iter().map(|n| input.field_with_name(n).unwrap().clone()).collect();
    fields.extend(aggregates.iter().map(|a| a.output.as_ref().clone()));
    StreamNode::Aggregate {
        id: NodeId(1),
        keys,
        aggregates,
        order: None,
        window: windowed.then_some(WindowKeys { start: 1, end: 2, spec: WINDOW, passes: None }),
        emit: EmitSpec { policy, changelog },
        whole,
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(source),
    }
}

struct Script {
    plan: StreamPlan,
    clock: Arc<ManualClock>,
    graph: Graph,
}

impl Script {
    fn new(root: StreamNode) -> Self {
        let plan = StreamPlan::new(root, ReplayOrder::Arrival);
        let clock = Arc::new(ManualClock::new(SECOND_US));
        let graph = graph(&plan, &clock, &[]);
        Script { plan, clock, graph }
    }

    fn live(policy: EmitPolicy, changelog: bool, windowed: bool) -> Self {
        let mut script = Self::new(aggregate(policy, changelog, windowed, false));
        assert_eq!(script.feed(Element::EndOfBackfill), []);
        script
    }

    fn batches(&mut self) -> Vec<Rows> {
        let rows = |e| if let Element::Rows(rows) = e { Some(rows) } else { None };
        self.graph.results.drain(..).filter_map(rows).collect()
    }

    fn feed(&mut self, element: Element) -> Vec<Out> {
        self.graph.feed(0, element).unwrap();
        let batches = self.batches();
        batches.iter().flat_map(outs).collect()
    }

    /// Rows of `(k, v)`, in the window from 0 to 10 ns.
    fn rows(&mut self, rows: &[(i64, i64)]) -> Vec<Out> {
        self.rows_at(rows, 0)
    }

    fn rows_at(&mut self, rows: &[(i64, i64)], start: i64) -> Vec<Out> {
        let n = rows.len();
        let batch = RecordBatch::try_new(
            pairs(&["k", "v", "ws", "we"]),
            vec![
                Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
                Arc::new(TimestampNanosecondArray::from(vec![start; n])),
                Arc::new(TimestampNanosecondArray::from(vec![start + 10; n])),
            ],
        );
        self.feed(Element::Rows(Rows::append(batch.unwrap())))
    }

    fn is_due(&self) -> bool {
        self.graph.tick_due().is_some_and(|due| due <= self.clock.now_us())
    }

    /// As the task does when it has nothing else to do.
    fn tick(&mut self) -> Vec<Out> {
        let mut all = Vec::new();
        if self.is_due() {
            self.graph.tick().unwrap();
            all.extend(self.batches().iter().flat_map(outs));
            assert!(!self.is_due(), "one tick is enough");
        }
        all
    }

    fn after(&mut self, ms: u64) -> Vec<Out> {
        self.clock.advance(Duration::from_millis(ms));
        self.tick()
    }
}

fn graph(plan: &StreamPlan, clock: &Arc<ManualClock>, saved: &[(NodeId, crate::StateReader)]) -> Graph {
    let scripts = Scripts::default();
    let mut sources: HashMap<_, _> =
        plan.root.sources().into_iter().map(|(id, _)| (id, scripts.open_one(id))).collect();
    let memory = MemoryBudget::root("test", 1 << 30);
    let mut graph =
        build(plan, &mut sources, clock.clone(), &memory, &Resources::one_thread(), saved).unwrap();
    graph.keep_snapshots = true;
    graph
}

fn outs(rows: &Rows) -> Vec<Out> {
    let n = rows.batch.num_columns();
    let column = |i: usize| rows.batch.column(i).as_primitive::<Int64Type>().clone();
    let (k, count, sum) = (column(0), column(n - 2), column(n - 1));
    let weight = |i: usize| rows.weights.as_ref().map_or(0, |w| w.value(i));
    (0..rows.batch.num_rows()).map(|i| (k.value(i), count.value(i), sum.value(i), weight(i))).collect()
}

#[test]
fn periodic_gives_everything_if_anything_changed() {
    let mut s = Script::live(EmitPolicy::Periodic { every_us: 2 * SECOND_US, repeat: false }, false, false);
    assert_eq!(s.rows(&[(1, 5), (2, 6)]), []);
    assert_eq!(s.tick(), [(1, 1, 5, 0), (2, 1, 6, 0)], "the first is due when there is something");
    assert_eq!(s.rows(&[(2, 1)]), []);
    assert_eq!(s.after(1_999), []);
    assert_eq!(s.after(1), [(1, 1, 5, 0), (2, 2, 7, 0)]);
    assert_eq!(s.after(10_000), [], "nothing has changed");
    assert_eq!(s.graph.tick_due(), None, "and nobody is woken for it");
    assert_eq!(s.rows(&[(3, 1)]), []);
    assert_eq!(s.tick().len(), 3, "longer ago than the period");
}

#[test]
fn repeat_gives_everything_again() {
    let mut s = Script::live(EmitPolicy::Periodic { every_us: 2 * SECOND_US, repeat: true }, false, false);
    s.rows(&[(1, 5)]);
    assert_eq!(s.tick(), [(1, 1, 5, 0)]);
    assert_eq!(s.after(2_000), [(1, 1, 5, 0)]);
    assert_eq!(s.after(2_000), [(1, 1, 5, 0)]);
}

#[test]
fn on_update_gives_changed_keys_at_once() {
    let mut s = Script::live(EmitPolicy::OnUpdate { every_us: None }, false, false);
    assert_eq!(s.rows(&[(1, 5), (2, 6), (1, 1)]), [(1, 2, 6, 0), (2, 1, 6, 0)], "once a batch");
    assert_eq!(s.rows(&[(2, 1)]), [(2, 2, 7, 0)]);
    assert_eq!(s.graph.tick_due(), None, "no timer stands in the way");
}

#[test]
fn on_update_with_batch_gathers_changes() {
    let mut s = Script::live(EmitPolicy::OnUpdate { every_us: Some(SECOND_US) }, false, false);
    s.rows(&[(1, 5), (2, 6)]);
    assert_eq!(s.tick().len(), 2);
    s.rows(&[(2, 1)]);
    s.rows(&[(2, 1), (3, 1)]);
    assert_eq!(s.after(999), []);
    assert_eq!(s.after(1), [(2, 3, 8, 0), (3, 1, 1, 0)]);
    assert_eq!(s.after(5_000), []);
}

#[test]
fn per_event_gives_a_result_for_each_row() {
    let mut s = Script::live(EmitPolicy::PerEvent, false, false);
    let expected = [(1, 1, 5, 0), (2, 1, 6, 0), (1, 2, 6, 0), (1, 3, 8, 0), (2, 2, 9, 0)];
    assert_eq!(s.rows(&[(1, 5), (2, 6), (1, 1), (1, 2), (2, 3)]), expected);
    assert_eq!(s.rows(&[(2, 1)]), [(2, 3, 10, 0)]);
    assert_eq!(s.graph.tick_due(), None);
    // However rows are cut into batches.
    let rng = weir_base::Rng::seeded(3);
    let rows: Vec<(i64, i64)> = (0..500).map(|i| (rng.below(7) as i64, i)).collect();
    let run = |size: usize| {
        let mut s = Script::live(EmitPolicy::PerEvent, false, false);
        rows.chunks(size).flat_map(|c| s.rows(c)).collect::<Vec<_>>()
    };
    let one_by_one = run(1);
    assert_eq!(one_by_one.len(), 500);
    assert_eq!([run(3), run(64), run(500)], [one_by_one.clone(), one_by_one.clone(), one_by_one]);
}

#[test]
fn a_changelog_takes_back_what_it_gave() {
    let mut s = Script::live(EmitPolicy::OnUpdate { every_us: None }, true, false);
    assert_eq!(s.rows(&[(1, 5)]), [(1, 1, 5, 1)]);
    assert_eq!(s.rows(&[(1, 1), (2, 2)]), [(1, 1, 5, -1), (1, 2, 6, 1), (2, 1, 2, 1)]);
    let mut s = Script::live(EmitPolicy::Periodic { every_us: SECOND_US, repeat: false }, true, false);
    s.rows(&[(1, 5)]);
    assert_eq!(s.tick(), [(1, 1, 5, 1)]);
    s.rows(&[(1, 1)]);
    s.rows(&[(1, 1)]);
    assert_eq!(s.after(1_000), [(1, 1, 5, -1), (1, 3, 7, 1)], "what lay between was never told");
}

#[test]
fn windows_give_their_final_row_once_whatever_came_before() {
    let policies = [
        EmitPolicy::OnClose,
        EmitPolicy::Periodic { every_us: SECOND_US, repeat: false },
        EmitPolicy::Periodic { every_us: SECOND_US, repeat: true },
        EmitPolicy::OnUpdate { every_us: None },
        EmitPolicy::OnUpdate { every_us: Some(SECOND_US) },
    ];
    for policy in policies {
        let mut s = Script::live(policy, false, true);
        let mut before = s.rows(&[(1, 5)]);
        before.extend(s.tick());
        before.extend(s.rows_at(&[(1, 7)], 10));
        before.extend(s.after(1_000));
        if policy == EmitPolicy::OnClose {
            assert_eq!(before, []);
        } else {
            assert!(
                before.contains(&(1, 1, 5, 0)) && before.contains(&(1, 1, 7, 0)),
                "{policy:?} {before:?}"
            );
        }
        assert_eq!(s.feed(Element::Watermark(WatermarkTime(9))), [], "{policy:?}");
        assert_eq!(s.feed(Element::Watermark(WatermarkTime(10))), [(1, 1, 5, 0)], "{policy:?}");
        assert_eq!(s.feed(Element::Watermark(WatermarkTime::INFINITY)), [(1, 1, 7, 0)], "{policy:?}");
        assert_eq!(s.after(5_000), [], "{policy:?}");
    }
}

#[test]
fn history_gives_one_emission_at_its_end() {
    let policies = [
        EmitPolicy::Periodic { every_us: SECOND_US, repeat: true },
        EmitPolicy::OnUpdate { every_us: None },
        EmitPolicy::OnUpdate { every_us: Some(SECOND_US) },
        EmitPolicy::PerEvent,
    ];
    for policy in policies {
        let mut s = Script::new(aggregate(policy, false, false, false));
        assert_eq!(s.rows(&[(1, 5), (1, 6)]), [], "{policy:?}");
        assert_eq!(s.after(5_000), [], "{policy:?}");
        assert_eq!(s.rows(&[(2, 1)]), [], "{policy:?}");
        assert_eq!(s.feed(Element::EndOfBackfill), [(1, 2, 11, 0), (2, 1, 1, 0)], "{policy:?}");
    }
}

#[test]
fn emissions_are_numbered_from_zero_also_after_a_restart() {
    let input = aggregate(EmitPolicy::OnUpdate { every_us: None }, false, false, true);
    let mut fields: Vec<Field> = input.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.insert(1, Field::new("version", DataType::Int64, false));
    let root = |each_row| StreamNode::EmitVersion {
        id: NodeId(0),
        at: 1,
        each_row,
        schema: Arc::new(Schema::new(fields.clone())),
        input: Box::new(input.clone()),
    };
    let versions = |s: &mut Script, rows: &[(i64, i64)]| -> Vec<i64> {
        s.graph.results.clear();
        let batch = RecordBatch::try_new(
            pairs(&["k", "v", "ws", "we"]),
            vec![
                Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
                Arc::new(TimestampNanosecondArray::from(vec![0; rows.len()])),
                Arc::new(TimestampNanosecondArray::from(vec![10; rows.len()])),
            ],
        );
        s.graph.feed(0, Element::Rows(Rows::append(batch.unwrap()))).unwrap();
        let batches = s.batches();
        batches.iter().flat_map(|r| r.batch.column(1).as_primitive::<Int64Type>().values().to_vec()).collect()
    };
    let mut s = Script::new(root(false));
    s.graph.feed(0, Element::EndOfBackfill).unwrap();
    assert_eq!(versions(&mut s, &[(1, 1), (2, 1)]), [0, 0]);
    assert_eq!(versions(&mut s, &[(1, 1)]), [1]);
    s.graph.feed(0, Element::Barrier(Epoch(1))).unwrap();
    let (_, saved) = s.graph.snapshots.pop().unwrap();
    s.graph = graph(&s.plan, &s.clock, &saved);
    assert_eq!(versions(&mut s, &[(3, 1), (1, 1)]), [2, 2]);
    let mut s = Script::new(root(true));
    s.graph.feed(0, Element::EndOfBackfill).unwrap();
    assert_eq!(versions(&mut s, &[(1, 1), (2, 1)]), [0, 1]);
}
