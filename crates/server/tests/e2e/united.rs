//! Rows of two streams that are written to at once come in one order, live as in the tables.

use crate::life::wait_until;
use crate::process::Server;

const ROWS: usize = 150;

#[test]
fn live_rows_of_two_streams_come_in_the_order_of_their_logs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query("CREATE STREAM a (n int64) SETTINGS shards=2");
    server.query("CREATE STREAM b (n int64)");
    let of = |a: &str, b: &str| {
        format!(
            "SELECT row_number() AS place, s, n, lag(n) AS before, at FROM (SELECT 'a' AS s, n, _tp_append_time AS at FROM {a} UNION ALL SELECT 'b', n, _tp_append_time FROM {b})"
        )
    };
    let mut live =
        server.streaming.follow(&format!("{} LIMIT {} FORMAT TSV", of("a", "b"), 2 * ROWS)).unwrap();
    let running = "SELECT count() FROM system.queries WHERE state = 'Running' AND query LIKE '%row_number%UNION%' AND query NOT LIKE '%system.%'";
    wait_until("the query runs", || server.query(running) == "1\n");
    std::thread::scope(|scope| {
        for (stream, first) in [("a", 0), ("b", 1_000_000)] {
            let table = &server.table;
            scope.spawn(move || {
                for n in first..first + ROWS {
                    table.query(&format!("INSERT INTO {stream} (n) VALUES ({n})")).unwrap();
                }
            });
        }
        let mut got = Vec::new();
        while let Some(line) = live.line().unwrap() {
            got.push(line);
        }
        assert_eq!(got.len(), 2 * ROWS);
        let times: Vec<&str> = got.iter().map(|l| l.rsplit('\t').next().unwrap_or_default()).collect();
        assert!(times.is_sorted(), "{got:#?}");
        let sql = format!("{} ORDER BY place FORMAT TSV", of("table(a)", "table(b)"));
        let bounded = server.query(&sql);
        assert_eq!(got, bounded.lines().collect::<Vec<_>>());
    });
}
