//! The process's memory limit over streams and queries together.

use super::*;

#[test]
fn recent_rows_give_way_to_a_query_that_needs_the_memory() {
    const LIMIT: u64 = 24 << 20;
    let server = Server::with(Options { memory_limit_bytes: LIMIT, ..Options::default() });
    // Rings of up to 4 MiB each, together nearly all there is.
    for i in 0..6 {
        server.run(&format!("CREATE STREAM s{i} (k uint64, s string)"));
        for _ in 0..4 {
            server.run(&format!(
                "INSERT INTO s{i} (k, s) SELECT number, repeat('x', 20) FROM numbers(20000) SETTINGS max_threads=1"
            ));
        }
    }
    // A sort holds its whole input.
    let sort = "SELECT k, s FROM s0 ORDER BY s, k";
    assert_eq!(server.rows(sort).len(), 80_000);
    // Without spilling, more than all of it is too much, and says so.
    let e = server.error("SELECT a.k, b.k FROM s1 AS a JOIN s2 AS b ON a.s = b.s ORDER BY a.k, b.k");
    assert_eq!(e.code.number(), 241, "{e}");
    assert_eq!(server.rows("SELECT count() FROM s5"), ["80000"]);
}
