//! Runs a scenario with a fault at every disk operation, or by random seed.
//!
//! A scenario runs on a [`SimDisk`] and returns what it was promised (the model). After the
//! fault it is checked twice: reopened in the same process, as after a failed write, and
//! again on the disk a power cut leaves.
//!
//! Not here: what is promised.

use weir_base::disk::{Fault, FaultKind, SimDisk};

/// Every way an operation goes wrong.
pub const FAULTS: [FaultKind; 6] = [
    FaultKind::Crash,
    FaultKind::Fail,
    FaultKind::Torn { sector_bytes: 512 },
    FaultKind::Torn { sector_bytes: 4096 },
    FaultKind::FailSync,
    FaultKind::NoSpace,
];

/// Runs `run` once to count its disk operations, then once for each operation and fault.
/// Returns how many runs that were.
///
/// `run` stops at the first error that its store cannot go on from and returns its model;
/// `check` reopens the store, panics where the model is broken, and may go on using it.
pub fn every_fault_point<M>(seed: u64, run: impl Fn(&SimDisk) -> M, check: impl Fn(&SimDisk, &mut M)) -> u64 {
    let disk = SimDisk::new(seed);
    let mut model = run(&disk);
    check(&disk, &mut model);
    check(&disk.restart(), &mut model);
    let disk = SimDisk::new(seed);
    run(&disk);
    let operations = disk.operations();
    assert!(operations > 0, "the scenario touches no disk");
    for at_operation in 0..operations {
        for kind in FAULTS {
            let fault = Fault { at_operation, kind };
            let _seen = OnPanic(|| eprintln!("seed {seed}, {fault:?}"));
            let disk = SimDisk::new(seed ^ at_operation);
            disk.inject(fault);
            let mut model = run(&disk);
            disk.clear_faults();
            if !disk.crashed() {
                check(&disk, &mut model);
            }
            check(&disk.restart(), &mut model);
        }
    }
    operations * FAULTS.len() as u64
}

/// Runs `schedule` for `count` seeds, or as many as `WEIR_SIM_SCHEDULES` says, from
/// `WEIR_SIM_SEED` (default 0) on, on two threads. A failing seed is printed.
pub fn schedules(count: u64, schedule: impl Fn(u64) + Sync) {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    };
    let (count, first) = (number("WEIR_SIM_SCHEDULES", count), number("WEIR_SIM_SEED", 0));
    std::thread::scope(|scope| {
        for lane in 0..2 {
            let schedule = &schedule;
            scope.spawn(move || {
                for seed in (first + lane..first + count).step_by(2) {
                    let _seen =
                        OnPanic(|| eprintln!("failing schedule: WEIR_SIM_SEED={seed} WEIR_SIM_SCHEDULES=1"));
                    schedule(seed);
                }
            });
        }
    });
}

/// Says what was being run when a check fails.
pub struct OnPanic<F: Fn()>(pub F);

impl<F: Fn()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}
