//! Materialized views on the simulated disk: the power fails at every operation of their path (rows in, rows
//! out, checkpoints), the disk fills up and comes back, single operations fail. Afterwards each target is what
//! a recomputation over the source gives: nothing lost, nothing twice.
//!
//! `WEIR_VIEW_CRASH_POINTS` sets how many points of each kind are tried (default 12).

use super::{Options, Server, table_mode};
use std::collections::BTreeMap;
use weir_base::disk::{Fault, FaultKind, SimDisk};
use weir_base::{Clock, Error, SystemClock};

const VIEWS: [&str; 3] = ["kept", "counted", "windows"];
const ROUNDS: usize = 5;

fn setup(server: &Server) {
    server.run("CREATE STREAM s (k int32, v int64) SETTINGS shards=2");
    server.run("CREATE STREAM t (k int32, v int64, wide string) SETTINGS shards=2");
    let settings = "SETTINGS checkpoint_interval=3600";
    // So wide that what leaves at once goes into several records.
    server.run(&format!(
        "CREATE MATERIALIZED VIEW kept INTO t AS SELECT k, v, repeat('x', 20000) AS wide FROM s WHERE v % 2 = 0 {settings}"
    ));
    server.run(&format!(
        "CREATE MATERIALIZED VIEW counted AS SELECT k, count() AS c, sum(v) AS sv FROM s GROUP BY k \
         EMIT ON UPDATE {settings}"
    ));
    server.run(&format!(
        "CREATE MATERIALIZED VIEW windows AS SELECT window_start, k, count() AS c FROM tumble(s, 1s) \
         GROUP BY window_start, k EMIT AFTER WATERMARK WITH DELAY 1h {settings}, \
         watermark_idle_timeout_ms=3600000"
    ));
    // No shard is idle: the append times of one may jump when its log is opened anew, and rows that come after
    // those of an idle shard would be late.
    for _ in 0..2 {
        server.run("INSERT INTO s (k, v, _tp_time) VALUES (0, 1, '2025-12-31 00:00:00')");
    }
}

/// Rows `n` to `n` + 6, as one insert.
fn insert(server: &Server, n: usize) -> Result<(), Error> {
    let rows: Vec<String> = (n..n + 7)
        .map(|i| format!("({}, {i}, '2026-01-01 00:00:{:02}.{:03}')", i % 3, n / 7, i % 7 * 100))
        .collect();
    let sql =
        format!("INSERT INTO s (k, v, _tp_time) SETTINGS idempotent_id='i{n}' VALUES {}", rows.join(", "));
    server.execute(&mut table_mode(), &sql).map(|_| ())
}

fn checkpoint(server: &Server, view: &str) -> Result<(), Error> {
    server.execute(&mut table_mode(), &format!("SYSTEM CHECKPOINT VIEW {view}")).map(|_| ())
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    while !done() {
        assert!(clock.monotonic().as_secs() < 60, "waited a minute in vain until {what}");
        std::thread::yield_now();
    }
}

/// All is in the targets that is in the source, once.
fn assert_whole(server: &Server, what: &str) {
    // Closes the windows; inserts take shards in turn.
    for i in 0..2 {
        server.run(&format!(
            "INSERT INTO s (k, v, _tp_time) VALUES (0, {}, '2026-02-01 00:00:00')",
            1_001 + 2 * i
        ));
    }
    let states = "SELECT name, state, last_error FROM system.materialized_views WHERE state != 'Running'";
    wait_until(&format!("views run, {what}: {:?}", server.rows(states)), || server.rows(states).is_empty());
    for view in VIEWS {
        server.run(&format!("SYSTEM SYNC VIEW {view}"));
    }
    let same = |name: &str, expected: &str, got: &str| {
        assert_eq!(server.rows(got), server.rows(expected), "{name}, {what}");
    };
    same(
        "kept",
        "SELECT k, v FROM table(s) WHERE v % 2 = 0 ORDER BY v, k",
        "SELECT k, v FROM table(kept) ORDER BY v, k",
    );
    same(
        "counted",
        "SELECT k, count(), sum(v) FROM table(s) GROUP BY k ORDER BY k",
        "SELECT k, max(c), max(sv) FROM table(counted) GROUP BY k ORDER BY k",
    );
    same(
        "windows",
        "SELECT window_start, k, count() FROM tumble(table(s), 1s) WHERE _tp_time < '2026-01-31 00:00:00' \
         GROUP BY window_start, k ORDER BY window_start, k",
        "SELECT window_start, k, c FROM table(windows) WHERE window_start < '2026-01-31 00:00:00' \
         ORDER BY window_start, k",
    );
}

/// Rows and checkpoints in turn; gives the rows that were refused or not answered.
fn work(server: &Server) -> Vec<usize> {
    let mut unsure = Vec::new();
    for round in 0..ROUNDS {
        if insert(server, round * 7).is_err() {
            unsure.push(round * 7);
        }
        // What the disk refuses is tried again with the next one.
        let _ = checkpoint(server, VIEWS[round % 3]);
        if round % 2 == 1 {
            let _ = checkpoint(server, "counted");
        }
    }
    unsure
}

fn points() -> u64 {
    std::env::var("WEIR_VIEW_CRASH_POINTS").ok().and_then(|v| v.parse().ok()).unwrap_or(12)
}

/// How many operations the work takes, about: threads do not take turns the same way each time.
fn operations() -> u64 {
    let disk = SimDisk::new(1);
    let server = Server::with(Options { disk: Some(disk.clone()), ..Options::default() });
    setup(&server);
    let before = disk.operations();
    work(&server);
    disk.operations() - before
}

/// Work during which each kind of fault strikes once, at points spread over it; then the power fails, if it has
/// not yet.
fn struck_by(kinds: [FaultKind; 2]) {
    let (points, operations) = (points(), operations());
    println!("{kinds:?} at {points} of about {operations} operations");
    for (point, kind) in (0..points).flat_map(|point| kinds.map(|kind| (point, kind))) {
        let disk = SimDisk::new(point);
        let mut server = Server::with(Options { disk: Some(disk.clone()), ..Options::default() });
        setup(&server);
        let at = disk.operations() + point * operations / points;
        disk.inject(Fault { at_operation: at, kind });
        let unsure = work(&server);
        disk.clear_faults();
        let what = format!("{kind:?} at point {point} of {points}");
        // A log whose file it cannot trust takes no more rows until it is opened anew.
        server.power_fails();
        for n in unsure {
            insert(&server, n).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        assert_whole(&server, &what);
    }
}

#[test]
fn views_are_whole_after_the_power_failed_at_any_operation() {
    struck_by([FaultKind::Crash, FaultKind::Torn { sector_bytes: 512 }]);
}

#[test]
fn views_are_whole_after_an_operation_failed() {
    struck_by([FaultKind::Fail, FaultKind::FailSync]);
}

#[test]
fn views_go_on_by_themselves_when_space_returns() {
    for point in 0..points() {
        let disk = SimDisk::new(point);
        let server = Server::with(Options { disk: Some(disk.clone()), ..Options::default() });
        setup(&server);
        assert!(insert(&server, 70).is_ok());
        disk.inject(Fault { at_operation: disk.operations() + point, kind: FaultKind::NoSpace });
        let unsure = work(&server);
        for view in VIEWS {
            if let Err(e) = checkpoint(&server, view) {
                let told = e.message.to_lowercase();
                assert!(told.contains("space") || told.contains("state"), "{e}");
            }
        }
        disk.clear_faults();
        let what = format!("no space from operation {point} on");
        for n in unsure {
            wait_until(&format!("rows are taken again, {what}"), || insert(&server, n).is_ok());
        }
        assert_whole(&server, &what);
        for view in VIEWS {
            checkpoint(&server, view).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}

/// The newest run of each view's checkpoints: its epoch and its file.
fn newest_runs(disk: &SimDisk) -> BTreeMap<String, (u64, String)> {
    let mut newest = BTreeMap::new();
    for (path, _) in disk.files() {
        let Some((dir, name)) = path.rsplit_once('/') else { continue };
        let Some(epoch) = name.strip_prefix("run-").and_then(|n| n.split('-').next()) else { continue };
        let epoch = u64::from_str_radix(epoch, 16).expect("a run's name begins with its epoch");
        let entry = newest.entry(dir.to_owned()).or_insert((0, String::new()));
        if epoch >= entry.0 {
            *entry = (epoch, path.clone());
        }
    }
    newest
}

#[test]
fn a_view_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before() {
    for bit in 0..points() as u32 {
        let disk = SimDisk::new(u64::from(bit));
        let mut server = Server::with(Options { disk: Some(disk.clone()), ..Options::default() });
        setup(&server);
        assert_eq!(work(&server), Vec::<usize>::new());
        for n in [35, 42] {
            insert(&server, n).unwrap();
            for view in VIEWS {
                server.run(&format!("SYSTEM SYNC VIEW {view}"));
                checkpoint(&server, view).unwrap();
            }
        }
        let runs = newest_runs(&disk);
        assert_eq!(runs.len(), 2, "two views keep groups: {runs:?}");
        for (_, path) in runs.values() {
            let (_, len) = disk.files().into_iter().find(|(p, _)| p == path).unwrap();
            disk.flip_bit(path, len * u64::from(bit) / points(), (bit % 8) as u8).unwrap();
        }
        server.power_fails();
        assert_whole(&server, &format!("bit {bit} of the newest runs flipped"));
        let passed_over = server.rows(
            "SELECT DISTINCT view FROM system.view_log WHERE event = 'Warning' AND detail LIKE 'checkpoint % is damaged %' \
             ORDER BY view",
        );
        assert_eq!(passed_over.len(), 2, "bit {bit}: {passed_over:?} of {runs:?}");
        // The number of the damaged one is free again.
        for view in VIEWS {
            checkpoint(&server, view).unwrap();
        }
        server.power_fails();
        assert_whole(&server, "after a checkpoint behind the damaged one");
    }
}
