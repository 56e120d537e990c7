//! Runs of tasks on the simulated disk: whatever operation fails while one is written, each run is in its target
//! as a whole once it had time to be finished.

use super::{Options, Server, table_mode};
use weir_base::disk::{Fault, FaultKind, SimDisk};
use weir_base::{Clock, SystemClock};

/// Of one run; so many that they go in several records to each shard.
const ROWS: usize = 3_000;

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    while !done() {
        assert!(clock.monotonic().as_secs() < 60, "waited a minute in vain until {what}");
        std::thread::yield_now();
    }
}

fn setup(server: &Server) {
    server.run("CREATE STREAM r (n int64, at datetime64(3)) SETTINGS shards=3, sharding_expr='n'");
    server.run(&format!(
        "CREATE TASK t SCHEDULE 10s INTO r AS SELECT number AS n, now64(3) AS at FROM numbers({ROWS})"
    ));
}

/// The next time comes; waits for a run, or that one has failed.
fn run(server: &Server) {
    // A disk that has failed takes no statement that is noted.
    let _ = server.execute(&mut table_mode(), "SYSTEM CLOCK ADVANCE 11s");
    wait_until("a run has ended", || {
        server.rows("SELECT 1 FROM system.tasks WHERE runs + failures > 0").len() == 1
    });
}

fn assert_whole(server: &Server, what: &str) {
    server.run("SYSTEM CLOCK ADVANCE 11s");
    wait_until(&format!("a run went well, {what}"), || {
        server.run("SYSTEM CLOCK ADVANCE 1s");
        server.rows("SELECT 1 FROM system.tasks WHERE runs > 0 AND state = 'Waiting'").len() == 1
    });
    let cut = format!(
        "SELECT at, c, u FROM (SELECT at, count() AS c, uniq_exact(n) AS u FROM table(r) GROUP BY at) \
         WHERE c != {ROWS} OR u != {ROWS}"
    );
    // Another one may just be written.
    let tasks = "SELECT state, runs, failures, last_error FROM system.tasks";
    let seen = format!("{:?}, {:?}", server.rows(&cut), server.rows(tasks));
    wait_until(&format!("no run is cut, {what}: {seen}"), || server.rows(&cut).is_empty());
    assert!(!server.rows("SELECT 1 FROM table(r) LIMIT 1").is_empty(), "{what}");
}

#[test]
fn a_run_is_whole_whatever_fails_while_it_is_written() {
    let options =
        |disk: &SimDisk| Options { disk: Some(disk.clone()), test_clock: true, ..Options::default() };
    let operations = {
        let disk = SimDisk::new(1);
        let server = Server::with(options(&disk));
        setup(&server);
        let before = disk.operations();
        run(&server);
        disk.operations() - before
    };
    let points = 12;
    for point in 0..points {
        for kind in
            [FaultKind::Crash, FaultKind::Torn { sector_bytes: 512 }, FaultKind::Fail, FaultKind::FailSync]
        {
            let disk = SimDisk::new(point);
            let mut server = Server::with(options(&disk));
            setup(&server);
            disk.inject(Fault { at_operation: disk.operations() + point * operations / points, kind });
            run(&server);
            disk.clear_faults();
            server.power_fails();
            assert_whole(&server, &format!("{kind:?} at point {point} of {points}"));
        }
    }
}

#[test]
fn a_run_is_finished_when_space_returns() {
    let disk = SimDisk::new(3);
    let server = Server::with(Options { disk: Some(disk.clone()), test_clock: true, ..Options::default() });
    setup(&server);
    for ahead in [0, 3, 9, 40] {
        disk.inject(Fault { at_operation: disk.operations() + ahead, kind: FaultKind::NoSpace });
        run(&server);
        disk.clear_faults();
        assert_whole(&server, &format!("no space after {ahead} operations"));
    }
}
