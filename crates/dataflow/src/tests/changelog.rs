//! Changelogs: generated inserts, updates and deletions through aggregations, however they are run,
//! against a model that keeps the rows there are and computes everything anew.
//!
//! Which cases are run: `tests::seeds`.

mod case;
mod model;
mod plan;
mod run;

use case::{Case, Emit};
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
        Mode { backfill: case.log.len() / 2, batch_rows: 3, restore_every: None, threads: 2, spill: true },
        Mode {
            backfill: case.log.len() / 3,
            batch_rows: 7,
            restore_every: Some(1),
            threads: 2,
            spill: false,
        },
        Mode {
            backfill: case.log.len() / 3,
            batch_rows: 1,
            restore_every: Some(1 + rng.below(20) as usize),
            threads: 5,
            spill: true,
        },
    ];
    for mode in &modes {
        let got = run(&case, mode).unwrap_or_else(|e| panic!("seed {seed}, {mode:?}: {e}, {case:#?}"));
        match case.emit {
            // A key that is gone is not told of, nor is a result set without rows.
            Emit::OnUpdate | Emit::OnUpdateEvery => {
                let still: Vec<_> = got.into_iter().filter(|r| expected.iter().any(|e| e.0 == r.0)).collect();
                assert_eq!(still, expected, "seed {seed}, {mode:?}, {case:#?}");
            }
            Emit::Periodic if expected.is_empty() => {}
            _ => assert_eq!(got, expected, "seed {seed}, {mode:?}, {case:#?}"),
        }
    }
}

#[test]
fn a_changelog_has_one_answer_however_it_is_run() {
    crate::tests::seeds::each_seed("changelogs", check);
}

#[test]
fn generated_changelogs_cover_what_they_should() {
    let (mut gone, mut doubled, mut nested, mut empty) = (0, 0, 0, 0);
    for seed in 0..200 {
        let case = Case::generate(&Rng::seeded(seed));
        gone += usize::from(case.log.iter().filter(|r| r.weight < 0).count() > 20);
        doubled += usize::from(case.log.iter().any(|r| r.weight > 1));
        nested += usize::from(case.depth > 1);
        empty += usize::from(model::living(&case.log).is_empty());
    }
    assert!(gone > 60 && doubled > 60 && nested > 60 && empty > 5, "{gone} {doubled} {nested} {empty}");
}

#[test]
fn taking_back_what_is_not_there_is_an_error() {
    for depth in [1, 2] {
        let mut case = Case::generate(&Rng::seeded(3));
        case.depth = depth;
        case.rows = case::Rows::Weighted;
        let mut wrong = case.log[0].clone();
        wrong.weight = -1;
        wrong.v = Some(123_456);
        case.log.push(wrong);
        let mode = Mode { backfill: 0, batch_rows: 7, restore_every: None, threads: 1, spill: false };
        let e = run(&case, &mode).expect_err("it was never inserted");
        assert_eq!(e.code, weir_base::Code::BadArguments, "{e}");
        assert!(e.message.contains("takes back a row that is not there"), "{e}");
    }
}
