//! State on disk and kill -9: what a killed query spilled is gone with it, and the same query gives
//! the same answer from the log.

use crate::life::wait_until;
use crate::process::Server;
use std::path::Path;

const KEYS: u64 = 60_000;
/// Less than a quarter of what the keys need.
const QUERY: &str = "SELECT k, count(), sum(v), max(v) FROM tumble(big, 1h) GROUP BY window_end, k \
                     SETTINGS seek_to='earliest', max_memory_usage=1500000 FORMAT TSV";

fn files_below(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let count = |path: std::path::PathBuf| if path.is_dir() { files_below(&path) } else { 1 };
    entries.flatten().map(|e| count(e.path())).sum()
}

fn insert(server: &Server, first: u64) {
    server.query(&format!(
        "INSERT INTO big (k, v, _tp_time) SELECT number % {KEYS}, number + {first}, \
         to_datetime64('2026-01-01 00:00:01', 3) FROM numbers({KEYS})"
    ));
}

#[test]
fn a_query_killed_amid_a_spill_leaves_nothing_and_starts_over_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let spilled = dir.path().join("spill");
    let mut server = Server::start(dir.path());
    server.query("CREATE STREAM big (k uint64, v uint64)");
    for round in 0..3 {
        insert(&server, round);
        // It goes on taking rows in, so it holds runs whenever the kill comes.
        let tail = server.streaming.follow(QUERY).unwrap();
        wait_until("the query has spilled", || files_below(&spilled) > 0);
        insert(&server, 100 + round);
        server.kill();
        drop(tail);
        server = Server::start(dir.path());
        assert_eq!(files_below(&spilled), 0, "round {round}");
    }
    // Past the end of the window, so that it closes.
    server.query("INSERT INTO big (k, v, _tp_time) VALUES (0, 0, '2026-01-01 03:00:00')");
    let mut tail = server.streaming.follow(QUERY).unwrap();
    let mut live: Vec<String> = (0..KEYS).map(|_| tail.line().unwrap().expect("a row a key")).collect();
    drop(tail);
    let sql =
        "SELECT k, count(), sum(v), max(v) FROM table(big) WHERE _tp_time < '2026-01-01 01:00:00' GROUP BY k";
    let mut bounded: Vec<String> = server.query(sql).lines().map(str::to_owned).collect();
    live.sort();
    bounded.sort();
    assert_eq!(live.len(), bounded.len());
    assert_eq!(live.iter().zip(&bounded).find(|(l, b)| l != b), None, "live beside bounded");
    wait_until("runs of the query are gone", || files_below(&spilled) == 0);
}
