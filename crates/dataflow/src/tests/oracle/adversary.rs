//! What would hold without bound if it were made naively: what is held, and what is said.

use super::case::{Case, EmitKind, KeyKind, LogRow, MS};
use super::run::Runner;
use super::{nested, run, sessions};
use std::sync::atomic::Ordering::Relaxed;
use weir_plan::{
    Element, ReplayOrder, Rows, SessionSpec, Span, StreamPlan, WatermarkTime, WindowKind, WindowSpec,
};

const S: i64 = 1_000 * MS;
const DAY_MS: i64 = 86_400_000;

fn case(log: Vec<LogRow>) -> Case {
    Case {
        shards: 2,
        log,
        window: None,
        key: KeyKind::Int,
        emit: EmitKind::Default,
        delay_ns: 0,
        idle_timeout_us: 5_000_000,
        future_max_ns: DAY_MS * MS,
        never_late: false,
    }
}

fn row(shard: i32, sn: i64, append_ms: i64, time_ms: i64) -> LogRow {
    let append_us = append_ms * 1_000;
    LogRow { append_us, shard, sn, time_ms, k: Some(sn), s: None, v: Some(1), f: 0.0 }
}

fn spec(kind: WindowKind) -> WindowSpec {
    WindowSpec { kind, zone: chrono_tz::Tz::UTC }
}

fn feed(runner: &mut Runner, rows: &[LogRow]) {
    runner.feed(Element::Rows(Rows::append(run::batch(rows))));
}

fn left(runner: &Runner) -> usize {
    runner.out.iter().map(|r| r.batch.num_rows()).sum()
}

#[test]
fn a_row_dated_far_ahead_is_held_and_moves_nothing() {
    let year_2099_ms = 130 * 365 * DAY_MS;
    let log: Vec<LogRow> =
        (0..100).map(|i| row(0, i, 1_000 * i, if i == 5 { year_2099_ms } else { 1_000 * i })).collect();
    let tumble = spec(WindowKind::Tumble { size: Span::Fixed(S) });
    let session = SessionSpec { idle_ns: S / 2, max_len_ns: None, conditions: None };
    let case = case(log.clone());
    let plans = [
        StreamPlan::new(nested::tumbled(&case, tumble), ReplayOrder::Arrival),
        sessions::plan(&case, session, ReplayOrder::Arrival, 0),
    ];
    for plan in plans {
        let mut runner = Runner::new(plan, 1, false);
        feed(&mut runner, &log);
        assert_eq!(left(&runner), 98, "all but the one far ahead and the one whose window is open");
        let counters = runner.counters();
        assert_eq!(counters.iter().map(|(_, _, c)| c.future_rows.load(Relaxed)).sum::<u64>(), 1, "shown");
        assert_eq!(runner.late_rows(), 0);
        let watermark = counters.iter().map(|(_, _, c)| c.watermark.load(Relaxed)).max();
        assert_eq!(watermark, Some(99 * S), "not moved by it");
        assert_eq!(counters.iter().map(|(_, _, c)| c.keys.load(Relaxed)).sum::<u64>(), 2, "it is held");
        runner.feed(Element::Watermark(WatermarkTime::INFINITY));
        assert_eq!(left(&runner), 100);
    }
}

#[test]
fn a_shard_that_falls_silent_holds_nothing_back() {
    let mut log = vec![row(1, 0, 0, 0)];
    log.extend((0..20).map(|i| row(0, i, 1_000 * i + 1, 1_000 * i)));
    // Its next row is judged by where the query has come to meanwhile.
    log.push(row(1, 1, 20_000, 3_000));
    let tumble = spec(WindowKind::Tumble { size: Span::Fixed(S) });
    let case = case(log.clone());
    let plan = StreamPlan::new(nested::tumbled(&case, tumble), ReplayOrder::Arrival);
    let mut runner = Runner::new(plan, 1, false);
    feed(&mut runner, &log[..1]);
    feed(&mut runner, &log[1..5]);
    assert_eq!(left(&runner), 0, "the other shard has come to 0 only");
    feed(&mut runner, &log[5..21]);
    assert_eq!(left(&runner), 19, "those that end by 19 s");
    feed(&mut runner, &log[21..]);
    assert_eq!(runner.late_rows(), 1);
    // Nothing more comes at all: what is open stays open, by the log, until the end.
    runner.feed(Element::Frontier(1_000_000_000));
    assert_eq!(left(&runner), 19);
    runner.feed(Element::Watermark(WatermarkTime::INFINITY));
    assert_eq!((left(&runner), runner.memory.used_bytes()), (20, 0));
}

#[test]
fn windows_of_the_least_length_over_a_year_hold_one_at_a_time() {
    let step_ms = 365 * DAY_MS / 100_000;
    let log: Vec<LogRow> = (0..100_000).map(|i| row(0, i, i * step_ms, i * step_ms)).collect();
    let kinds = [
        WindowKind::Tumble { size: Span::Fixed(MS) },
        WindowKind::Session(SessionSpec { idle_ns: MS, max_len_ns: None, conditions: None }),
    ];
    let case = case(log.clone());
    for kind in kinds {
        let plan = match kind {
            WindowKind::Session(spec) => sessions::plan(&case, spec, ReplayOrder::Arrival, 0),
            _ => StreamPlan::new(nested::tumbled(&case, spec(kind)), ReplayOrder::Arrival),
        };
        let mut runner = Runner::new(plan, 1, false);
        for rows in log.chunks(1_000) {
            feed(&mut runner, rows);
        }
        assert_eq!(left(&runner), 99_999);
        let peak = runner.memory.peak_bytes();
        assert!(peak < 16 << 20, "{peak} bytes for batches of 1,000 rows");
        let keys: u64 = runner.counters().iter().map(|(_, _, c)| c.keys.load(Relaxed)).sum();
        assert_eq!(keys, 1);
    }
}

#[test]
fn rows_that_wait_are_accounted_until_the_memory_is_gone() {
    // One shard goes on, the other stays where it was and is not idle: everything waits.
    let spec = SessionSpec { idle_ns: S, max_len_ns: None, conditions: None };
    let mut case = case(vec![row(1, 0, 0, 0)]);
    case.idle_timeout_us = i64::MAX / 4;
    let mut runner =
        Runner::with_memory(sessions::plan(&case, spec, ReplayOrder::Arrival, 0), 1, false, 8 << 20);
    feed(&mut runner, &case.log);
    let mut fed = 0;
    let error = loop {
        let rows: Vec<LogRow> = (fed..fed + 1_000).map(|i| row(0, i, i, i)).collect();
        fed += 1_000;
        assert!(fed < 1_000_000, "it must end");
        match runner.try_feed(Element::Rows(Rows::append(run::batch(&rows)))) {
            Ok(()) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(error.code, weir_base::Code::MemoryLimitExceeded, "{error}");
    assert!(error.message.contains("Session"), "{error}");
}
