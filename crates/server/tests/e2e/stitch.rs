//! Readers in table mode, history-then-live and tail, while inserts, commits, merges, retention
//! and a restart happen: every sequence number once, in order per shard.

use crate::process::Server;
use std::sync::atomic::{AtomicBool, Ordering};

const SHARDS: usize = 2;

#[test]
fn every_row_once_whatever_happens_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query(&format!(
        "CREATE STREAM s (x uint64, pad string) ORDER BY x SETTINGS shards={SHARDS}, flush_threshold_ms=20, \
         flush_threshold_count=500, logstore_retention_bytes=1, logstore_retention_ms=1"
    ));
    run_round(&server);
    server.kill();
    run_round(&Server::start(dir.path()));
}

fn run_round(server: &Server) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (table, stop) = (server.table.clone(), &stop);
            scope.spawn(move || {
                for n in 0..60u64 {
                    let rows: String = (0..97)
                        .map(|i| format!("{},'{}'\n", writer * 1_000_000 + n * 97 + i, "x".repeat(40)))
                        .collect();
                    table
                        .insert("INSERT INTO s (x, pad) FORMAT CSV", "", rows.replace('\'', "\"").as_bytes())
                        .unwrap();
                }
                stop.store(true, Ordering::SeqCst);
            });
        }
        let (table, stop_now) = (server.table.clone(), &stop);
        scope.spawn(move || {
            while !stop_now.load(Ordering::SeqCst) {
                table.query("SYSTEM MERGE STREAM s").unwrap();
            }
        });
        for _ in 0..2 {
            let (table, stop) = (server.table.clone(), &stop);
            scope.spawn(move || {
                let mut last = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    let text = table
                        .query("SELECT sum(c), sum(u), sum(m) FROM (SELECT count() AS c, uniq_exact(_tp_sn) AS u, max(_tp_sn) + 1 AS m FROM table(s) GROUP BY _tp_shard)")
                        .unwrap();
                    let v: Vec<u64> = text.trim().split('\t').map(|v| v.parse().unwrap_or_else(|_| panic!("{text}"))).collect();
                    assert!(v[0] == v[1] && v[1] == v[2], "a snapshot with gaps or doubles: {text}");
                    assert!(v[0] >= last, "a later snapshot has fewer rows: {last} then {}", v[0]);
                    last = v[0];
                }
            });
        }
    });
    let total: u64 = server.query("SELECT count() FROM table(s)").trim().parse().unwrap();
    // History then live, started now: all of it, in order per shard.
    let mut replay = server
        .streaming
        .follow("SELECT _tp_shard, _tp_sn FROM s SETTINGS seek_to='earliest' FORMAT TSV")
        .unwrap();
    let mut next = [0u64; SHARDS];
    for _ in 0..total {
        let line = replay.line().unwrap().expect("the replay holds every row");
        let (shard, sn) = line.split_once('\t').unwrap_or_else(|| panic!("{line}"));
        let shard: usize = shard.parse().unwrap();
        assert_eq!(sn.parse::<u64>().unwrap(), next[shard], "shard {shard}");
        next[shard] += 1;
    }
    server.query("INSERT INTO s (x, pad) VALUES (1, 'live')");
    let line = replay.line().unwrap().expect("the replay goes on live");
    let (shard, sn) = line.split_once('\t').unwrap_or_else(|| panic!("{line}"));
    assert_eq!(sn.parse::<u64>().unwrap(), next[shard.parse::<usize>().unwrap()]);
}
