//! Random plans over random rows and interleavings, against a row-at-a-time model.

use super::query::{compare, filter, limit};
use super::support::*;
use crate::DataflowRuntime;
use datafusion_expr::Operator as BinaryOp;
use datafusion_physical_expr::expressions::{binary, col, lit};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use weir_base::{MemoryBudget, SystemClock};
use weir_plan::{Element, NodeId, Projection, ReplayOrder, Runtime, StreamNode, StreamPlan};

/// A plan as the model sees it.
#[derive(Debug, Clone)]
enum Shape {
    Source,
    /// b > n; NULL is not.
    Keep(i64, Box<Shape>),
    /// (src, a + n, b)
    Add(i64, Box<Shape>),
    Union(Vec<Shape>),
    Limit(u64, Option<u64>, Box<Shape>),
}

fn shape() -> impl Strategy<Value = Shape> {
    Just(Shape::Source).prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            (-3..8i64, inner.clone()).prop_map(|(n, s)| Shape::Keep(n, Box::new(s))),
            (-3..8i64, inner.clone()).prop_map(|(n, s)| Shape::Add(n, Box::new(s))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Shape::Union),
            (0..4u64, prop::option::of(0..12u64), inner).prop_map(|(skip, fetch, s)| Shape::Limit(
                skip,
                fetch,
                Box::new(s)
            )),
        ]
    })
}

fn plan_of(shape: &Shape, next_id: &mut u32) -> StreamNode {
    let id = *next_id;
    *next_id += 1;
    match shape {
        Shape::Source => source_node(id),
        Shape::Keep(n, s) => filter(id, compare("b", BinaryOp::Gt, *n), plan_of(s, next_id)),
        Shape::Add(n, s) => {
            let input = plan_of(s, next_id);
            let schema = schema();
            let column = |c| col(c, &schema).unwrap();
            let a = binary(column("a"), BinaryOp::Plus, lit(*n), &schema).unwrap();
            let exprs = [("src", column("src")), ("a", a), ("b", column("b"))]
                .map(|(name, expr)| Projection { expr, name: name.into() })
                .to_vec();
            StreamNode::Project { id: NodeId(id), exprs, schema: schema.clone(), input: Box::new(input) }
        }
        Shape::Union(inputs) => {
            let inputs = inputs.iter().map(|s| plan_of(s, next_id)).collect();
            StreamNode::Union { id: NodeId(id), schema: schema(), inputs }
        }
        Shape::Limit(skip, fetch, s) => limit(id, *skip, *fetch, plan_of(s, next_id)),
    }
}

/// Pushes one row of source `of` through the shape. `next_id` numbers nodes as `plan_of` does.
fn push(
    shape: &Shape,
    of: u32,
    row: Row,
    next_id: &mut u32,
    passed: &mut HashMap<u32, (u64, u64)>,
) -> Option<Row> {
    let id = *next_id;
    *next_id += 1;
    match shape {
        Shape::Source => (id == of).then_some(row),
        Shape::Keep(n, s) => push(s, of, row, next_id, passed).filter(|r| r.2.is_some_and(|b| b > *n)),
        Shape::Add(n, s) => push(s, of, row, next_id, passed).map(|r| (r.0, r.1 + n, r.2)),
        Shape::Union(inputs) => {
            // No short cut: every input must take its numbers.
            let found: Vec<_> = inputs.iter().map(|s| push(s, of, row, next_id, passed)).collect();
            found.into_iter().flatten().next()
        }
        Shape::Limit(skip, fetch, s) => {
            let row = push(s, of, row, next_id, passed)?;
            let (skipped, taken) = passed.entry(id).or_default();
            if *skipped < *skip {
                *skipped += 1;
                None
            } else if fetch.is_some_and(|f| *taken >= f) {
                None
            } else {
                *taken += 1;
                Some(row)
            }
        }
    }
}

/// Batches of (a, b); an empty one stands for "nothing there yet".
type Script = Vec<Vec<(i64, Option<i64>)>>;

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let row = (0..10i64, prop::option::of(0..10i64));
    prop::collection::vec(prop::collection::vec(prop::collection::vec(row, 0..5), 0..6), 12)
}

/// So many cases, or as `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { usual };
    ProptestConfig { cases, ..config }
}

proptest! {
    #![proptest_config(cases(400))]
    #[test]
    fn any_plan_gives_what_the_model_gives(shape in shape(), scripts in scripts()) {
        let root = plan_of(&shape, &mut 0);
        let steps = root.sources().into_iter().enumerate().map(|(k, (id, _))| {
            let mut steps: Vec<Step> = scripts[k % scripts.len()]
                .iter()
                .map(|rows| match rows.is_empty() {
                    true => Step::NotYet,
                    false => give(&rows.iter().map(|(a, b)| (i64::from(id.0), *a, *b)).collect::<Vec<_>>()),
                })
                .collect();
            steps.push(Step::Give(Element::End));
            (id.0, steps)
        });
        let scripts = Scripts::of(steps);
        let kept = Kept::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let plan = StreamPlan::new(root, ReplayOrder::Arrival);
            let memory = MemoryBudget::root("test", 1 << 30);
            DataflowRuntime::new(tokio::runtime::Handle::current())
                .start(plan, scripts.clone(), Box::new(kept.clone()), Arc::new(SystemClock::new()), memory, None)
                .await
                .unwrap()
                .join()
                .await
                .unwrap();
        });
        let mut passed = HashMap::new();
        let mut expected = Vec::new();
        for (id, element) in scripts.given.lock().iter() {
            if let Element::Rows(rows) = element {
                for row in rows_of(&rows.batch) {
                    expected.extend(push(&shape, id.0, row, &mut 0, &mut passed));
                }
            }
        }
        prop_assert_eq!(kept.rows(), expected);
        prop_assert!(matches!(kept.0.lock().last(), Some(Element::End)));
    }
}
