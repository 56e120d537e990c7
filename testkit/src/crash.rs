//! Runs a scenario with a fault at every disk operation, or by random seed.
//!
//! A scenario runs on a [`SimDisk`] and returns what it was promised (the model). After the
//! fault it is checked twice: reopened in the same process, as after a failed write, and
//! again on the disk a power cut leaves.
//!
//! Not here: what is promised.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use weir_base::disk::{Fault, FaultKind, SimDisk};
use weir_base::{Clock, SystemClock};

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

/// Runs random schedules (see [`seeds`]) and prints in how many a fault struck; `schedule`
/// returns the number of faults that did.
pub fn schedules(kind: &str, count: u64, schedule: impl Fn(u64) -> u64 + Sync) {
    let struck = AtomicU64::new(0);
    let done = seeds(kind, count, |seed| {
        struck.fetch_add(u64::from(schedule(seed) > 0), Ordering::Relaxed);
    });
    let struck = struck.into_inner();
    println!("{kind}: a fault struck in {struck} of {done}");
    assert!(done < 100 || struck * 2 > done, "faults strike in few schedules of {kind}: {struck} of {done}");
}

/// Runs `run` for `count` seeds from 0 on, on two threads; returns and prints how many those were.
///
/// `WEIR_SIM_SEED` is another first seed, `WEIR_SIM_SCHEDULES` another count; with
/// `WEIR_SIM_SECONDS` they go on until so much time has passed. A failing seed is printed as
/// what to set so that it is run again.
pub fn seeds(kind: &str, count: u64, run: impl Fn(u64) + Sync) -> u64 {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    let first = number("WEIR_SIM_SEED").unwrap_or(0);
    let count = number("WEIR_SIM_SCHEDULES").unwrap_or(count);
    let seconds = number("WEIR_SIM_SECONDS").map(Duration::from_secs);
    let clock = SystemClock::new();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let lane = || {
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if seconds.map_or(n >= count, |limit| clock.monotonic() >= limit) {
                return;
            }
            let seed = first + n;
            let _seen = OnPanic(|| {
                failed.store(true, Ordering::Relaxed);
                eprintln!("failing {kind}: WEIR_SIM_SEED={seed} WEIR_SIM_SCHEDULES=1");
            });
            run(seed);
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(lane);
        lane();
    });
    let done = done.into_inner();
    println!("schedules of {kind}: {done} from seed {first}");
    done
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
