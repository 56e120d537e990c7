//! The log on a disk that fails: crash points, random schedules.

use weir_testkit::{crash, log, log_flips, log_threads, memory_log};

#[test]
fn every_fault_point_keeps_what_was_acknowledged() {
    let mut runs = 0;
    for seed in 0..2 {
        runs += crash::every_fault_point(seed, |disk| log::run(disk, seed, 25), log::check);
    }
    assert!(runs > 600, "{runs}");
}

#[test]
fn random_schedules_of_faults_and_restarts_keep_every_promise() {
    crash::schedules("log", 5_000, log::schedule);
}

#[test]
fn a_flipped_bit_is_detected_with_its_place_or_harmless() {
    for seed in 0..2 {
        let sealed = log_flips::flip_everywhere(seed, true, 11);
        assert_eq!(sealed.cut, 0, "after a seal nothing is cut: {sealed:?}");
        assert!(sealed.refused_at_open > 100 && sealed.refused_at_read > 100, "{sealed:?}");
        let unsealed = log_flips::flip_everywhere(seed, false, 11);
        assert!(unsealed.cut > 0 && unsealed.refused_at_open > 50, "{unsealed:?}");
    }
}

#[test]
fn random_schedules_of_a_log_in_memory_never_use_a_number_twice() {
    crash::schedules("memory log", 5_000, memory_log::schedule);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_of_several_writers_heard_survives() {
    for seed in 0..300 {
        let _seen = crash::OnPanic(|| eprintln!("seed {seed}"));
        log_threads::schedule(seed).await;
    }
}

#[test]
fn mangled_files_make_no_panic_and_no_false_record() {
    crash::seeds("mangled log", 1_000, log_flips::mangle);
}
