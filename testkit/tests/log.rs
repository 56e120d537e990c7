//! The log on a disk that fails: crash points, random schedules.

use weir_testkit::{crash, log};

#[test]
fn every_fault_point_keeps_what_was_acknowledged() {
    let mut runs = 0;
    for seed in 0..6 {
        runs += crash::every_fault_point(seed, |disk| log::run(disk, seed, 25), log::check);
    }
    assert!(runs > 1000, "{runs}");
}

#[test]
fn random_schedules_of_faults_and_restarts_keep_every_promise() {
    crash::schedules(2_000, log::schedule);
}
