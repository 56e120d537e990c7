//! A silence of the source closes what is open: a function of the log, however it is run.

use super::case::{Case, LogRow, MS};
use super::run::{Mode, Runner};
use super::sessions;
use weir_base::Rng;
use weir_plan::{
    Element, ReplayOrder, Span, StreamNode, StreamPlan, Timeout, WatermarkTime, WindowKind, WindowSpec,
};

fn with_timeout(node: &mut StreamNode, timeout: Timeout) {
    match node {
        StreamNode::Source { spec, .. } => {
            spec.watermark.as_mut().expect("it judges").timeout = Some(timeout);
        }
        StreamNode::Window { input, .. } | StreamNode::Aggregate { input, .. } => {
            with_timeout(input, timeout)
        }
        _ => unreachable!("not in these plans"),
    }
}

fn plan(case: &Case, window: WindowSpec, after_us: i64) -> StreamPlan {
    let mut plan = match window.kind {
        WindowKind::Session(spec) => sessions::plan(case, spec, ReplayOrder::Arrival, 0),
        _ => StreamPlan::new(super::nested::tumbled(case, window), ReplayOrder::Arrival),
    };
    with_timeout(&mut plan.root, Timeout { after_us, window });
    plan
}

/// The watermark each row of one shard is judged by.
fn judge(case: &Case, window: WindowSpec, after_us: i64) -> Vec<i64> {
    let (mut watermark, mut greatest) = (i64::MIN, i64::MIN);
    let mut before: Option<&LogRow> = None;
    let mut judged = Vec::new();
    for row in &case.log {
        if before.is_some_and(|b| row.append_us > b.append_us + after_us) && greatest > i64::MIN {
            let mut closed = watermark;
            match window.kind {
                WindowKind::Session(s) => closed = closed.max(greatest + s.idle_ns),
                _ => window.windows_of(greatest, |_, end| closed = closed.max(end)),
            }
            watermark = closed;
        }
        judged.push(watermark);
        let (time, append) = (row.time_ms * MS, row.append_us * 1_000);
        if case.future_max_ns == 0 || time <= append + case.future_max_ns {
            watermark = watermark.max(time - case.delay_ns);
            greatest = greatest.max(time);
        }
        before = Some(row);
    }
    judged
}

fn late_rows(case: &Case, window: WindowSpec, judged: &[i64]) -> u64 {
    let late = |row: &LogRow, wm: i64| match window.kind {
        WindowKind::Session(_) => wm > row.time_ms * MS,
        _ => {
            let mut late = false;
            window.windows_of(row.time_ms * MS, |_, end| late |= wm >= end);
            late
        }
    };
    case.log.iter().zip(judged).filter(|(row, wm)| late(row, **wm)).count() as u64
}

/// How many rows were late, and what left, as text.
fn run(plan: StreamPlan, mode: &Mode, case: &Case) -> (u64, Vec<String>) {
    let mut runner = Runner::new(plan, mode.threads, mode.spill);
    runner.play(mode, &case.log);
    let last = case.log.last().expect("a log has rows").append_us;
    runner.feed(Element::Frontier(last + 1_000_000_000));
    let (left, held) = (runner.out.len(), runner.memory.used_bytes());
    runner.feed(Element::Watermark(WatermarkTime::INFINITY));
    if case.future_max_ns == 0 {
        assert_eq!((runner.out.len(), held), (left, 0), "after a silence nothing is open");
    }
    let mut all = Vec::new();
    for rows in &runner.out {
        let columns = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(&rows.batch)).unwrap();
        all.extend(
            columns
                .to_string()
                .lines()
                .filter(|l| l.contains("-") && l.starts_with('|'))
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")),
        );
    }
    all.sort();
    (runner.late_rows(), all)
}

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = Case::generate(&rng);
    let after_us = [1_000, 20_000, 400_000, 8_000_000][rng.below(4) as usize];
    let kind = match rng.below(3) {
        0 => WindowKind::Session(sessions::generate(&rng)),
        1 => WindowKind::Tumble { size: Span::Fixed(1_000 * MS) },
        _ => WindowKind::Hop { slide: Span::Fixed(300 * MS), size: Span::Fixed(1_000 * MS) },
    };
    let window = WindowSpec { kind, zone: chrono_tz::Tz::UTC };
    let modes = [
        Mode { backfill: 0, batch_rows: 8_192, restore_every: None, threads: 1, spill: true },
        Mode { backfill: usize::MAX, batch_rows: 7, restore_every: None, threads: 5, spill: false },
        Mode {
            backfill: case.log.len() / 2,
            batch_rows: 1,
            restore_every: Some(3),
            threads: 2,
            spill: false,
        },
    ];
    let first = run(plan(&case, window, after_us), &modes[0], &case);
    for mode in &modes[1..] {
        assert_eq!(run(plan(&case, window, after_us), mode, &case), first, "seed {seed}, {mode:?}");
    }
    if case.shards == 1 {
        let expected = late_rows(&case, window, &judge(&case, window, after_us));
        assert_eq!(first.0, expected, "late rows of seed {seed}, {window}, {after_us} us, {case:#?}");
    }
}

#[test]
fn a_timeout_has_one_answer_however_it_is_run() {
    crate::tests::seeds::each_seed("timeouts", check);
}
