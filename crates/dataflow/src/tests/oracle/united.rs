//! Windows over the UNION of two streams: as over one stream with the shards of both.

use super::case::Case;
use super::model;
use super::run::{Mode, run_united};
use arrow_schema::DataType;
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use std::sync::Arc;
use weir_base::Rng;
use weir_plan::{NodeId, Projection, StreamNode, StreamPlan};

const SHARD: usize = 6;

/// A plan over one source as the same over the UNION of two, whose shards are numbered one behind the other.
pub fn plan(plan: StreamPlan) -> StreamPlan {
    let mut plan = plan;
    replace(&mut plan.root);
    plan
}

fn replace(node: &mut StreamNode) {
    let StreamNode::Source { spec, .. } = node else {
        return node.inputs_mut().into_iter().for_each(replace);
    };
    let schema = spec.output_schema();
    let branch = |n: u32| {
        let spec = weir_plan::SourceSpec { relation: format!("s{n}"), ..spec.clone() };
        let own = |at: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(schema.field(at).name(), at)) };
        let exprs = (0..schema.fields().len()).map(|at| {
            let expr = match at {
                SHARD => {
                    let first: Arc<dyn PhysicalExpr> = Arc::new(Literal::new((n as i32 * 65_536).into()));
                    Arc::new(BinaryExpr::new(own(at), Operator::Plus, first)) as _
                }
                _ => own(at),
            };
            Projection { expr, name: schema.field(at).name().clone() }
        });
        let source = StreamNode::Source { id: NodeId(30 + n), spec };
        let exprs = exprs.collect();
        StreamNode::Project { id: NodeId(20 + n), exprs, schema: schema.clone(), input: Box::new(source) }
    };
    assert_eq!(schema.field(SHARD).data_type(), &DataType::Int32);
    *node = StreamNode::Union { id: NodeId(10), inputs: vec![branch(0), branch(1)], schema: schema.clone() };
}

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = Case::generate(&rng);
    if case.window.is_none() {
        return;
    }
    let expected = model::expected(&case);
    let modes = [
        Mode { backfill: 0, batch_rows: 8_192, restore_every: None, threads: 2, spill: false },
        Mode { backfill: usize::MAX, batch_rows: 7, restore_every: Some(3), threads: 1, spill: true },
        Mode {
            backfill: case.log.len() / 2,
            batch_rows: 1,
            restore_every: Some(7),
            threads: 5,
            spill: false,
        },
    ];
    for (split, mode) in modes.iter().enumerate().map(|(i, m)| ((i as i32 + seed as i32) % 4, m)) {
        let got = run_united(&case, mode, &case.log, split);
        assert_eq!(got.rows, expected.rows, "seed {seed}, split at {split}, {mode:?}, {case:#?}");
        assert_eq!(got.late_rows, expected.late_rows, "late rows of seed {seed}, {mode:?}");
    }
}

#[test]
fn windows_over_a_union_have_one_answer_however_they_are_run() {
    if let Some(seed) = std::env::var("WEIR_SEED").ok().and_then(|s| s.parse().ok()) {
        return check(seed);
    }
    let cases = std::env::var("WEIR_GENERATED_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    (0..cases).for_each(check);
}
