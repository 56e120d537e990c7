mod schedules;

use super::*;
use crate::{Relation, RelationKind};
use std::collections::BTreeMap;
use uuid::Uuid;
use weir_base::disk::{Fault, FaultKind, SimDisk};
use weir_base::{Code, Error, ManualClock};
use weir_log::AppendError;

fn open(disk: &SimDisk) -> Result<Catalog, CatalogError> {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let mut catalog = Catalog::open(Arc::new(disk.clone()), clock, "catalog")?;
    catalog.events_per_snapshot = 3;
    Ok(catalog)
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f)
}

fn stream(n: u128, name: &str) -> Relation {
    relation(
        n,
        name,
        RelationKind::Stream {
            order_by: Some("k".into()),
            partition_by: None,
            primary_key: None,
            ttl: None,
            indexes: Vec::new(),
            settings: BTreeMap::from([("shards".into(), "2".into())]),
        },
    )
}

fn view(n: u128, name: &str, of: &str) -> Relation {
    relation(
        n,
        name,
        RelationKind::View {
            select: format!("SELECT * FROM {of}"),
            resolve_in: "default".into(),
            depends_on: vec![RelationName::new("default", of)],
        },
    )
}

fn relation(n: u128, name: &str, kind: RelationKind) -> Relation {
    Relation {
        id: Uuid::from_u128(n),
        database: "default".into(),
        name: name.into(),
        kind,
        columns: Vec::new(),
        comment: "it's a \"comment\"".into(),
        created_ms: 5,
    }
}

fn create(relation: Relation) -> Event {
    Event::CreateRelation { relation, replace: false }
}

fn name(n: &str) -> RelationName {
    RelationName::new("default", n)
}

fn scenario() -> Vec<Event> {
    vec![
        Event::CreateDatabase { name: "d".into(), comment: String::new() },
        create(stream(1, "a")),
        create(stream(2, "b")),
        create(view(3, "v", "b")),
        Event::Rename { pairs: vec![(name("a"), name("c")), (name("v"), name("a"))] },
        Event::Truncated { name: name("b") },
        Event::DropRelation { name: name("c") },
        Event::DropDatabase { name: "d".into() },
    ]
}

fn apply(catalog: &Catalog, event: Event) -> Result<Arc<Snapshot>, CatalogError> {
    block_on(catalog.apply(event, Dependents::Refuse))
}

/// Runs the scenario until something fails: the last snapshot acknowledged, and whether an
/// event after it was under way.
fn run(disk: &SimDisk) -> (Arc<Snapshot>, bool) {
    let Ok(catalog) = open(disk) else { return (Arc::new(Snapshot::initial()), false) };
    let mut acknowledged = catalog.snapshot();
    for event in scenario() {
        match apply(&catalog, event) {
            Ok(snapshot) => acknowledged = snapshot,
            Err(_) => return (acknowledged, true),
        }
    }
    block_on(catalog.close());
    (acknowledged, false)
}

fn model() -> Vec<Snapshot> {
    let mut all = vec![Snapshot::initial()];
    for event in scenario() {
        all.push(all.last().unwrap().after(&event).unwrap());
    }
    all
}

#[test]
fn a_reopened_catalog_is_the_one_that_was_closed() {
    let disk = SimDisk::new(1);
    let (last, _) = run(&disk);
    assert_eq!(*last, *model().last().unwrap());
    let again = open(&disk.restart()).unwrap();
    assert_eq!(*again.snapshot(), *last);
    apply(&again, create(stream(9, "z"))).unwrap();
}

/// Every disk operation of the scenario, each with every fault: after a restart each event is
/// there whole or not at all, and what was acknowledged is there.
#[test]
fn every_fault_at_every_operation_leaves_whole_events() {
    let disk = SimDisk::new(7);
    run(&disk);
    let operations = disk.operations();
    let model = model();
    assert!(operations > 20, "the scenario does {operations} operations");
    let kinds = [
        FaultKind::Crash,
        FaultKind::Fail,
        FaultKind::Torn { sector_bytes: 512 },
        FaultKind::Torn { sector_bytes: 4096 },
        FaultKind::FailSync,
        FaultKind::NoSpace,
    ];
    for at_operation in 0..operations {
        for kind in kinds {
            let disk = SimDisk::new(at_operation ^ 0x5eed);
            disk.inject(Fault { at_operation, kind });
            let (acknowledged, _) = run(&disk);
            let reopened = open(&disk.restart())
                .unwrap_or_else(|e| panic!("{kind:?} at {at_operation}: does not open: {e}"))
                .snapshot();
            let found = model.iter().position(|s| *s == *reopened);
            let found = found.unwrap_or_else(|| panic!("{kind:?} at {at_operation}: half an event"));
            let least = acknowledged.version as usize;
            assert!(
                found == least || found == least + 1,
                "{kind:?} at {at_operation}: acknowledged {least}, found {found}"
            );
        }
    }
}

/// A failure that does not stop the process: what memory shows is what a restart finds.
#[test]
fn after_a_failed_change_the_catalog_goes_on_or_refuses() {
    let disk = SimDisk::new(3);
    let catalog = open(&disk).unwrap();
    apply(&catalog, create(stream(1, "a"))).unwrap();
    disk.inject(Fault { at_operation: disk.operations(), kind: FaultKind::Fail });
    let _ = apply(&catalog, create(stream(2, "b")));
    disk.clear_faults();
    let _ = apply(&catalog, create(stream(3, "c")));
    let seen = catalog.snapshot();
    let found = open(&disk.restart()).unwrap().snapshot();
    for r in seen.relations() {
        assert_eq!(found.relation("default", &r.name), Some(r));
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let disk = SimDisk::new(2);
    let catalog = open(&disk).unwrap();
    apply(&catalog, create(stream(1, "trades"))).unwrap();
    apply(&catalog, create(view(2, "v", "trades"))).unwrap();
    let before = catalog.snapshot();
    let mut elsewhere = stream(3, "x");
    elsewhere.database = "nowhere".into();
    let mut in_system = stream(3, "x");
    in_system.database = "system".into();
    let to_other = vec![(name("v"), RelationName::new("system", "v"))];
    // (event, code, part of the message)
    let cases = [
        (create(stream(3, "trades")), Code::StreamAlreadyExists, "default.trades exists already"),
        (create(elsewhere), Code::UnknownDatabase, "database nowhere"),
        (create(in_system), Code::AccessDenied, "built in"),
        (Event::DropRelation { name: name("trade") }, Code::UnknownStream, "did you mean trades?"),
        (Event::DropRelation { name: name("trades") }, Code::HasDependents, "default.v"),
        (Event::Rename { pairs: vec![(name("trades"), name("t"))] }, Code::HasDependents, "default.v"),
        (Event::Rename { pairs: to_other }, Code::NotImplemented, "another database"),
        (
            Event::DropDatabase { name: "default".into() },
            Code::HasDependents,
            "2 streams, views, tasks and alerts",
        ),
        (Event::DropDatabase { name: "system".into() }, Code::AccessDenied, "built in"),
        (
            Event::CreateDatabase { name: "default".into(), comment: String::new() },
            Code::DatabaseAlreadyExists,
            "",
        ),
        (Event::Truncated { name: name("no") }, Code::UnknownStream, "default.no"),
    ];
    for (event, code, part) in cases {
        let what = format!("{event:?}");
        let e = Error::from(apply(&catalog, event).unwrap_err());
        assert_eq!(e.code, code, "{what}: {e}");
        assert!(e.message.contains(part), "{what}: {e}");
        assert_eq!(*catalog.snapshot(), *before, "{what}");
    }
    let drop = Event::DropRelation { name: name("trades") };
    block_on(catalog.apply(drop, Dependents::Ignore)).unwrap();
}

/// An event whose caller went away between append and answer is found by the next change.
#[test]
fn a_change_given_up_half_way_is_found_by_the_next() {
    let disk = SimDisk::new(4);
    let catalog = open(&disk).unwrap();
    // As if the caller had been dropped while its append was on the way.
    block_on(async {
        let mut applied = catalog.applied.lock().await;
        applied.unsettled = true;
        catalog.log.append(encode(&create(stream(1, "a"))), Ack::Durable).await.unwrap();
    });
    let e = apply(&catalog, create(stream(2, "a"))).unwrap_err();
    assert!(matches!(e, CatalogError::RelationExists { .. }), "{e}");
    assert!(catalog.snapshot().relation("default", "a").is_some());
}

#[test]
fn a_flipped_bit_in_the_snapshot_is_found() {
    let disk = SimDisk::new(5);
    run(&disk);
    let len = disk.len("catalog/snapshot").unwrap().unwrap();
    for offset in [0, 9, len / 2, len - 1] {
        disk.flip_bit("catalog/snapshot", offset, 3).unwrap();
        let e = open(&disk.restart()).unwrap_err();
        assert!(matches!(e, CatalogError::Corrupt { .. }), "byte {offset}: {e}");
        disk.flip_bit("catalog/snapshot", offset, 3).unwrap();
    }
    open(&disk.restart()).unwrap();
}
