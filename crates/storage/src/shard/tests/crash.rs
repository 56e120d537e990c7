//! Crash points: every disk operation of a scenario goes wrong once in every way.

use super::sim::{Op, Sim, random_op};
use crate::{StorageError, StorageType};
use weir_base::Rng;
use weir_base::disk::{Fault, FaultKind};

const SCENARIO: &[Op] = &[
    Op::Append { rows: 20 },
    Op::Append { rows: 7 },
    Op::Commit,
    Op::Append { rows: 30 },
    Op::Commit,
    Op::Hold,
    Op::Rest,
    Op::Read,
    Op::LetGo,
    Op::Retain,
    Op::Append { rows: 40 },
    Op::Commit,
    Op::AdvanceClock { ms: 11 * 86_400_000 },
    Op::Append { rows: 5 },
    Op::Commit,
    Op::Rest,
    Op::Reopen,
    Op::Append { rows: 9 },
    Op::Truncate,
    Op::Append { rows: 11 },
    Op::Commit,
    Op::Retain,
];

const KINDS: &[FaultKind] = &[
    FaultKind::Crash,
    FaultKind::Fail,
    FaultKind::Torn { sector_bytes: 512 },
    FaultKind::Torn { sector_bytes: 4096 },
    FaultKind::FailSync,
    FaultKind::NoSpace,
];

/// Runs a scenario with a fault somewhere, then checks after a power cut and goes on.
fn run(mut sim: Sim, ops: &[Op], fault: Option<Fault>) -> u64 {
    if let Some(fault) = fault {
        sim.disk.inject(fault);
    }
    for op in ops {
        if !go_on(&mut sim, *op) {
            break;
        }
    }
    let operations = sim.disk.operations();
    sim.power_cut();
    finish(&mut sim);
    operations
}

/// Runs one step; `false` if the machine crashed.
fn go_on(sim: &mut Sim, op: Op) -> bool {
    match sim.step(op) {
        Ok(()) => {}
        Err(e @ StorageError::Corrupt { .. }) => panic!("{op:?}: {e}"),
        Err(_) if sim.disk.crashed() => return false,
        // The fault struck: the process goes on, or is restarted and goes on.
        Err(_) => {
            sim.disk.clear_faults();
            if matches!(sim.step(op), Err(StorageError::Append(_) | StorageError::Closed)) {
                sim.drop_store();
            }
        }
    }
    !sim.disk.crashed()
}

fn finish(sim: &mut Sim) {
    sim.check().expect("after the fault everything opens and reads");
    for op in [Op::Append { rows: 3 }, Op::Commit, Op::Rest, Op::Retain] {
        sim.step(op).expect("and goes on");
    }
    sim.check().expect("and reads again");
    sim.check_cursor().expect("and nothing was left out");
}

fn crash_points(seed: u64, storage_type: StorageType, kinds: &[FaultKind]) {
    let operations = run(Sim::new(seed, storage_type), SCENARIO, None);
    assert!(operations > 50, "the scenario does {operations} disk operations");
    for at_operation in 0..operations {
        for kind in kinds {
            run(Sim::new(seed, storage_type), SCENARIO, Some(Fault { at_operation, kind: *kind }));
        }
    }
}

#[test]
fn every_disk_operation_may_crash_or_fail() {
    crash_points(0, StorageType::Hybrid, &[FaultKind::Crash, FaultKind::Fail]);
}

#[test]
fn every_disk_operation_may_tear() {
    let kinds = [FaultKind::Torn { sector_bytes: 512 }, FaultKind::Torn { sector_bytes: 4096 }];
    crash_points(1, StorageType::Hybrid, &kinds);
}

#[test]
fn every_sync_may_fail_and_the_disk_may_fill_up() {
    crash_points(2, StorageType::Hybrid, &[FaultKind::FailSync, FaultKind::NoSpace]);
}

#[test]
fn every_disk_operation_may_fail_without_parts() {
    crash_points(0, StorageType::Streaming, KINDS);
}

/// One random schedule: several lives of a few steps, each with a fault somewhere; then all is
/// checked, used and checked again. Returns how many faults struck.
fn schedule(seed: u64) -> u64 {
    let rng = Rng::seeded(seed);
    let storage_type = if rng.below(5) == 0 { StorageType::Streaming } else { StorageType::Hybrid };
    let mut sim = Sim::dense(seed, storage_type, &rng);
    for _ in 0..1 + rng.below(3) {
        let kind = KINDS[rng.below(KINDS.len() as u64) as usize];
        let at_operation = sim.disk.operations() + rng.below(60);
        sim.disk.inject(Fault { at_operation, kind });
        if rng.below(4) == 0 {
            sim.disk.fail_read(sim.disk.reads() + rng.below(20));
        }
        for _ in 0..2 + rng.below(10) {
            let op = random_op(&rng, 12, true);
            if !go_on(&mut sim, op) {
                break;
            }
        }
        sim.disk.clear_faults();
        if sim.disk.crashed() || rng.below(2) == 0 {
            sim.power_cut();
        }
    }
    sim.disk.clear_faults();
    sim.power_cut();
    finish(&mut sim);
    sim.disk.faults_struck()
}

#[test]
fn random_schedules() {
    weir_testkit::crash::schedules("storage", 5_000, schedule);
}
