//! Random schedules: changes, faults, crashes and reopenings in turn, beside a plain list of
//! what was acknowledged.
//!
//! The model is the snapshot after the last acknowledged event and the one event, if any, whose
//! append failed: it may be found, whole, or not.

use super::*;
use fastrand::Rng;
use weir_testkit::crash::{self, FAULTS};

struct Model {
    acknowledged: Snapshot,
    /// The event of a failed append: it may be there or not.
    unknown: Option<Event>,
    ids: u128,
    events_per_snapshot: u64,
}

impl Model {
    /// Opens and compares. `None` if the disk did not let it.
    fn reopen(&mut self, disk: &SimDisk, clock: &Arc<ManualClock>) -> Option<Catalog> {
        let mut catalog = match Catalog::open(Arc::new(disk.clone()), clock.clone(), "catalog") {
            Ok(catalog) => catalog,
            Err(e) => {
                let damaged = Error::from(e.clone()).code == Code::CorruptedData;
                assert!(!damaged, "{e}");
                return None;
            }
        };
        catalog.events_per_snapshot = self.events_per_snapshot;
        self.settle(&catalog.snapshot());
        Some(catalog)
    }

    fn settle(&mut self, found: &Snapshot) {
        if *found != self.acknowledged {
            let event = self.unknown.as_ref().expect("nothing else was asked for");
            assert_eq!(*found, self.acknowledged.after(event).expect("it was possible"), "half of {event:?}");
            self.acknowledged = found.clone();
        }
        self.unknown = None;
    }

    fn random_event(&mut self, rng: &mut Rng) -> Event {
        let names = ["a", "b", "c", "d"];
        let databases = ["default", "x", "y", "system"];
        let database = |rng: &mut Rng| databases[if rng.bool() { 0 } else { rng.usize(..4) }].to_owned();
        let named = |rng: &mut Rng| RelationName::new(database(rng), names[rng.usize(..4)]);
        match rng.u8(..12) {
            0 => Event::CreateDatabase { name: database(rng), comment: "c".repeat(rng.usize(..600)) },
            1 => Event::DropDatabase { name: database(rng) },
            2 => Event::Truncated { name: named(rng) },
            3 | 4 => Event::DropRelation { name: named(rng) },
            5 => {
                let pairs = (0..rng.usize(1..4)).map(|_| (named(rng), named(rng)));
                Event::Rename { pairs: pairs.collect() }
            }
            6 => {
                self.ids += 1;
                let mut relation = view(self.ids, names[rng.usize(..4)], names[rng.usize(..4)]);
                relation.database = database(rng);
                Event::CreateRelation { relation, replace: rng.bool() }
            }
            _ => {
                self.ids += 1;
                let mut relation = stream(self.ids, names[rng.usize(..4)]);
                relation.database = database(rng);
                relation.comment = "c".repeat(rng.usize(..2000));
                Event::CreateRelation { relation, replace: rng.u8(..4) == 0 }
            }
        }
    }

    /// One change; `false` when the catalog must be opened again.
    fn change(&mut self, catalog: &Catalog, rng: &mut Rng) -> bool {
        let event = self.random_event(rng);
        let dependents = if rng.bool() { Dependents::Refuse } else { Dependents::Ignore };
        let before = catalog.snapshot();
        match block_on(catalog.apply(event.clone(), dependents)) {
            Ok(after) => {
                let expected = self.acknowledged.after(&event).expect("it was accepted");
                assert_eq!(*after, expected, "{event:?}");
                self.acknowledged = expected;
                true
            }
            Err(CatalogError::Append(AppendError::DiskFull { .. })) => true,
            Err(CatalogError::Append(e)) => {
                // A log that is poisoned has not taken this one.
                if matches!(e, AppendError::Io { .. }) {
                    self.unknown = Some(event);
                }
                false
            }
            Err(CatalogError::Read(_)) => false,
            Err(_) => {
                assert_eq!(*catalog.snapshot(), *before, "what is refused changes nothing");
                true
            }
        }
    }
}

fn schedule(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let mut disk = SimDisk::new(seed);
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let mut model = Model {
        acknowledged: Snapshot::initial(),
        unknown: None,
        ids: 0,
        events_per_snapshot: rng.u64(1..6),
    };
    for _ in 0..rng.u32(1..5) {
        let kind = FAULTS[rng.usize(..FAULTS.len())];
        disk.inject(Fault { at_operation: disk.operations() + rng.u64(..25), kind });
        if rng.u8(..4) == 0 {
            disk.fail_read(disk.reads() + rng.u64(..6));
        }
        if let Some(catalog) = model.reopen(&disk, &clock) {
            for _ in 0..rng.u32(1..12) {
                if !model.change(&catalog, &mut rng) {
                    break;
                }
            }
            if rng.bool() {
                block_on(catalog.close());
            }
        }
        disk.clear_faults();
        if disk.crashed() || rng.bool() {
            disk = disk.restart();
        }
    }
    let catalog = model.reopen(&disk, &clock).expect("without faults a catalog opens");
    while !matches!(model.random_event(&mut rng), Event::Truncated { .. }) {
        assert!(model.change(&catalog, &mut rng), "and goes on");
    }
    drop(catalog);
    let catalog = model.reopen(&disk.restart(), &clock).expect("and opens again");
    assert_eq!(*catalog.snapshot(), model.acknowledged);
    disk.faults_struck()
}

#[test]
fn random_schedules_leave_whole_events_and_lose_none() {
    crash::schedules("catalog", 5_000, schedule);
}
