//! One answer: generated logs through one plan, however it is run, against a naive model.
//!
//! A case is a log over shards, a plan and what to expect. It is run live, backfilled, begun in the
//! middle of history, in batches of 1, 7 and 8192 rows, over 1, 2 and 5 threads, with memory and without, and with a snapshot, drop and restore after
//! every k-th batch. Which cases are run: `tests::seeds`.

mod adversary;
mod case;
mod model;
mod nested;
mod partitioned;
mod run;
mod sessions;
mod timeout;
mod united;

use case::{Case, EmitKind};
use run::{Mode, run};
use weir_base::Rng;

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = Case::generate(&rng);
    let expected = model::expected(&case);
    let modes = [
        Mode { backfill: 0, batch_rows: 8_192, restore_every: None, threads: 2, spill: false },
        Mode { backfill: usize::MAX, batch_rows: 7, restore_every: None, threads: 1, spill: true },
        Mode { backfill: case.log.len() / 2, batch_rows: 1, restore_every: None, threads: 5, spill: false },
        Mode {
            backfill: case.log.len() / 3,
            batch_rows: 7,
            restore_every: Some(1),
            threads: 2,
            spill: false,
        },
        Mode {
            backfill: 0,
            batch_rows: 1,
            restore_every: Some(1 + rng.below(20) as usize),
            threads: 5,
            spill: true,
        },
    ];
    for mode in &modes {
        let got = run(&case, mode, &case.log);
        assert_eq!(got.rows, expected.rows, "seed {seed}, {mode:?}, {case:#?}");
        if case.window.is_some() && case.emit != EmitKind::Changelog {
            assert_eq!(got.late_rows, expected.late_rows, "late rows of seed {seed}, {mode:?}");
        }
    }
    // Without late rows the number of shards changes nothing either, nor does replay by event time.
    if expected.late_rows == 0 && case.never_late {
        for shards in [1, 2, 5] {
            let log = case.over_shards(shards);
            let got = run(&case, &modes[3], &log);
            // Places of rows that tie in time are their shards', so the model looks at these.
            assert_eq!(got.rows, model::bounded(&case, &log), "seed {seed} over {shards} shards");
            assert_eq!(got.late_rows, 0, "seed {seed} over {shards} shards");
        }
    }
    let by_event_time = run::by_event_time(&case);
    let bounded = model::bounded(&case, &case.log);
    assert_eq!(by_event_time, bounded, "seed {seed} replayed by event time");
}

#[test]
fn a_query_has_one_answer_however_it_is_run() {
    crate::tests::seeds::each_seed("windows", check);
}

#[test]
fn generated_cases_cover_what_they_should() {
    let (mut late, mut idle, mut windows, mut never) = (0, 0, 0, 0);
    for seed in 0..200 {
        let case = Case::generate(&Rng::seeded(seed));
        let expected = model::expected(&case);
        late += usize::from(expected.late_rows > 0);
        idle += usize::from(expected.woken > case.shards);
        windows += usize::from(case.window.is_some() && expected.rows.len() > 5);
        never += usize::from(case.never_late && expected.late_rows == 0);
    }
    assert!(late > 30 && idle > 10 && windows > 60 && never > 30, "{late} {idle} {windows} {never}");
}
