//! Sessions whose keys have a watermark each, against the naive model of sessions with the keys' own
//! judgement.

use super::case::{Case, LogRow, MS};
use super::run::{Mode, Runner};
use super::sessions::{expected, generate, plan as one_watermark, results};
use datafusion_physical_expr::expressions::col;
use std::collections::HashMap;
use weir_base::Rng;
use weir_plan::{
    Element, NodeId, PartitionSpec, Projection, ReplayOrder, SessionSpec, StreamNode, StreamPlan,
    WatermarkTime,
};

/// No key is so far behind.
const LAG_MAX_NS: i64 = 1 << 59;

fn plan(case: &Case, spec: SessionSpec) -> StreamPlan {
    let mut plan = one_watermark(case, spec, ReplayOrder::Arrival, 40);
    let mut partition = Vec::new();
    by_key(&mut plan.root, &mut partition);
    let root = StreamNode::Substreams { id: NodeId(9), partition, of: Box::new(plan.root) };
    assert_eq!(root.inputs()[0].name(), "Source", "keys have the operators below them, too");
    StreamPlan { root, ..plan }
}

fn by_key(node: &mut StreamNode, partition: &mut Vec<Projection>) {
    if let StreamNode::Source { spec, .. } = node {
        let k = col("k", &spec.schema).unwrap();
        let keys = vec![k.clone()];
        spec.watermark.as_mut().unwrap().partition = Some(PartitionSpec { keys, lag_max_ns: LAG_MAX_NS });
        partition.push(Projection { expr: k, name: "k".into() });
    }
    node.inputs_mut().into_iter().for_each(|input| by_key(input, partition));
}

/// By the greatest time of the key's rows before.
fn judge(case: &Case, log: &[LogRow]) -> Vec<i64> {
    let mut watermarks: HashMap<Option<i64>, i64> = HashMap::new();
    let judged = |row: &LogRow| {
        let held = watermarks.entry(row.k).or_insert(i64::MIN);
        let before = *held;
        let time = row.time_ms * MS;
        if case.future_max_ns == 0 || time <= row.append_us * 1_000 + case.future_max_ns {
            *held = before.max(time - case.delay_ns);
        }
        before
    };
    log.iter().map(judged).collect()
}

fn check(seed: u64) -> u64 {
    let rng = Rng::seeded(seed);
    let (case, spec) = (Case::generate(&rng), generate(&rng));
    let (rows, late) = expected(&case, &spec, &case.log, Some(&judge(&case, &case.log)));
    let modes = [
        Mode { backfill: 0, batch_rows: 8_192, restore_every: None, threads: 1, spill: false },
        Mode { backfill: usize::MAX, batch_rows: 7, restore_every: Some(2), threads: 5, spill: false },
        Mode {
            backfill: case.log.len() / 2,
            batch_rows: 1,
            restore_every: Some(5),
            threads: 2,
            spill: false,
        },
    ];
    // Over one stream, and over the UNION of two.
    for (mode, split) in modes.iter().flat_map(|m| [(m, None), (m, Some((seed % 3) as i32))]) {
        let mut runner = match split {
            None => Runner::new(plan(&case, spec), mode.threads, mode.spill),
            Some(shard) => {
                let plan = super::united::plan(plan(&case, spec));
                Runner::new(plan, mode.threads, mode.spill).split_at(shard)
            }
        };
        runner.play(mode, &case.log);
        runner.tick();
        runner.feed(Element::Watermark(WatermarkTime::INFINITY));
        let told: usize = runner.late.iter().map(|l| l.sns.len()).sum();
        let mut got = results(&runner.out);
        got.sort();
        assert_eq!(got, rows, "seed {seed}, {mode:?}, {spec}, {case:#?}");
        assert_eq!(told as u64, late, "late rows of seed {seed}, {mode:?}");
    }
    late
}

#[test]
fn sessions_of_keys_with_their_own_watermarks_have_one_answer() {
    if let Some(seed) = std::env::var("WEIR_SEED").ok().and_then(|s| s.parse().ok()) {
        check(seed);
        return;
    }
    let cases = std::env::var("WEIR_GENERATED_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let late: u64 = (0..cases).map(check).sum();
    assert!(late > 10 || cases < 100, "{late} late rows");
}
