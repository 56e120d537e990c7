//! One answer: every aggregate over a table and over a stream, whole, by key, by window, filtered and
//! over no rows.

use crate::http::Door;
use crate::process::Server;

/// Over `t (k string, x int32, n nullable(int64), f float64, s string, u uint8)`.
const AGGREGATES: &[&str] = &[
    "count()",
    "count(n)",
    "count_if(x > 10)",
    "count_distinct(x)",
    "count_distinct_if(x, u > 1)",
    "count(DISTINCT s)",
    "sum(x)",
    "sum(n)",
    "sum(u)",
    "sum(f)",
    "sum_if(n, x > 10)",
    "sum_distinct(u)",
    "sum_distinct_if(x, u > 1)",
    "sum_kahan(f)",
    "sum_count(u)",
    "avg(x)",
    "avg_if(f, u = 2)",
    "avg_distinct(u)",
    "avg_weighted(x, u)",
    "min(s)",
    "max(s)",
    "min(n)",
    "max(f)",
    "min_if(x, u > 200)",
    "any(n)",
    "any(s)",
    "any_if(x, u > 2)",
    "any_last(n)",
    "any_heavy(u)",
    "first_value(x)",
    "last_value(s)",
    "first_value_if(s, x > 5)",
    "last_value(n)",
    "earliest(x)",
    "latest(x)",
    "latest_if(x, u = 1)",
    "arg_min(x, u)",
    "arg_max(x, u)",
    "arg_max(s, f)",
    "arg_min(n, u)",
    "arg_max(x, s)",
    "arg_max_if(x, u, x > 3)",
    "min_k(x, 3)",
    "max_k(u, 3)",
    "max_k(u, 3, x, s)",
    "min_k(n, 2, x)",
    "top_k(u, 3)",
    "top_k(s, 2, true)",
    "top_k_exact(u, 2)",
    "top_k_if(u, 2, x > 4)",
    "group_array(x)",
    "group_array(x, 3)",
    "group_array(n)",
    "group_array_if(s, u > 2)",
    "group_uniq_array(u)",
    "group_uniq_array(s, 2)",
    "group_concat(s)",
    "group_concat(s, '')",
    "moving_sum(x)",
    "moving_sum(x, 3)",
    "moving_sum(n)",
    "moving_avg(x, 2)",
    "quantile(f)",
    "quantile(x, 0.9)",
    "quantile(0.9)(x)",
    "quantile_if(0.9)(x, u > 1)",
    "median(f)",
    "median(n)",
    "p90(x)",
    "p95(f)",
    "p99(f)",
    "p99_if(f, u > 2)",
    "quantiles(f, 0.1, 0.5, 0.99)",
    "quantile_exact(x, 0.5)",
    "uniq(x)",
    "unique(s)",
    "uniq(x, s)",
    "unique_if(x, u > 1)",
    "uniq_exact(x)",
    "unique_exact_if(s, x > 2)",
    "var_pop(x)",
    "var_samp(n)",
    "stddev_pop(f)",
    "stddev_samp(x)",
    "var_samp_if(x, u > 1)",
    "stddev_pop_if(f, u > 250)",
    "skew_pop(x)",
    "skew_samp(f)",
    "kurt_pop(x)",
    "kurt_samp(f)",
    "covar_pop(x, f)",
    "covar_samp(x, n)",
    "corr(x, f)",
    "entropy(u)",
    "group_bit_and(u)",
    "group_bit_or(u)",
    "group_bit_xor(x)",
    "group_array_last(x, 3)",
    "group_uniq_array_if(s, 2, x > 0)",
    "moving_sum_if(u, x > 0)",
    "moving_avg(n)",
    "delta_sum(x)",
    "delta_sum(f)",
    "delta_sum_if(n, u > 1)",
    "delta_sum_timestamp(x, u)",
    "window_funnel(3)(u, x > 5, x > 0, u = 2)",
    "retention(x > 5, u = 2, u = 9)",
    "max_intersections(u, u + 2)",
    "max_intersections_position(u, u + 2)",
    "interval_length_sum(u, u + 2)",
    "sum_or_null(x)",
    "sum_or_null_if(x, u > 250)",
    "avg_or_null(n)",
    "count_or_null(n)",
    "min_or_default(s)",
    "histogram(4)(x)",
    "histogram(3)(f)",
    "group_array_sorted(2)(x)",
    "exponential_moving_average(3)(f, u)",
    "avg_time_weighted(x, u)",
    "sequence_match('(?1)(?2)')(u, x > 5, x < 0)",
    "sequence_count('(?1)(?t<=3)(?2)')(u, x > 5, x < 0)",
    "top_k_weighted(2)(s, u)",
];

/// Rows that tie in time, come out of order and lie in parts and in the log of three shards.
fn fill(table: &Door) {
    table
        .query(
            "CREATE STREAM t (k string, x int32, n nullable(int64), f float64, s string, u uint8) SETTINGS shards=3",
        )
        .unwrap();
    let mut seed = 11u64;
    let mut below = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    for insert in 0..12 {
        let rows: Vec<String> = (0..1 + below(20))
            .map(|_| {
                let n = if below(4) == 0 { "NULL".to_owned() } else { below(50).to_string() };
                format!(
                    "('{}',{},{n},{},'{}',{},'2026-01-01 00:00:{:02}')",
                    ["a", "b", "c"][below(3) as usize],
                    below(30) as i64 - 10,
                    below(4_000) as f64 / 8.0 - 50.0,
                    ["p", "q", "r", "", "é"][below(5) as usize],
                    below(6),
                    // Two seconds back and forth: no row is late for a window with such a delay.
                    insert * 2 + below(3),
                )
            })
            .collect();
        table.query(&format!("INSERT INTO t (k,x,n,f,s,u,_tp_time) VALUES {}", rows.join(","))).unwrap();
        if insert == 6 {
            table.query("SYSTEM FLUSH STREAM t").unwrap();
        }
    }
}

/// Floats agree to rounding, everything else to the letter.
fn same(a: &str, b: &str) -> bool {
    let parts = |t: &str| t.split([',', '(', ')', '[', ']']).map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (parts(a), parts(b));
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| match (a.parse::<f64>(), b.parse::<f64>()) {
            _ if a == b => true,
            (Ok(x), Ok(y)) => (x - y).abs() <= 1e-9 * x.abs().max(y.abs()).max(1.0),
            _ => false,
        })
}

#[test]
fn every_aggregate_gives_the_same_over_a_table_and_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    fill(&server.table);
    let (table, streaming) = (&server.table, &server.streaming);
    let shapes = [
        ("SELECT {} FROM table(t)", "SELECT {} FROM t LIMIT 1 SETTINGS seek_to='earliest'"),
        (
            "SELECT k, {} FROM table(t) GROUP BY k ORDER BY k",
            "SELECT k, {} FROM t GROUP BY k ORDER BY k LIMIT 3 SETTINGS seek_to='earliest'",
        ),
        (
            "SELECT k, {} FROM (SELECT *, x + 1 AS y FROM table(t) AS q WHERE k <> 'b') AS z WHERE y > 0 GROUP BY k ORDER BY k",
            "SELECT k, {} FROM (SELECT *, x + 1 AS y FROM t AS q WHERE k <> 'b') AS z WHERE y > 0 GROUP BY k ORDER BY k LIMIT 2 SETTINGS seek_to='earliest'",
        ),
        (
            "SELECT window_start, {} FROM tumble(table(t), 5s) GROUP BY window_start ORDER BY window_start LIMIT 3",
            "SELECT window_start, {} FROM tumble(t, 5s) GROUP BY window_start EMIT AFTER WINDOW CLOSE WITH DELAY 2s LIMIT 3 SETTINGS seek_to='earliest'",
        ),
        // Windows made of panes, which are merged.
        (
            "SELECT window_start, {} FROM hop(table(t), 2s, 6s) GROUP BY window_start ORDER BY window_start LIMIT 5",
            "SELECT window_start, {} FROM hop(t, 2s, 6s) GROUP BY window_start EMIT AFTER WINDOW CLOSE WITH DELAY 2s LIMIT 5 SETTINGS seek_to='earliest'",
        ),
        // A condition that no row of a group meets.
        (
            "SELECT k, {} FROM table(t) GROUP BY k ORDER BY k",
            "SELECT k, {} FROM t GROUP BY k ORDER BY k LIMIT 3 SETTINGS seek_to='earliest'",
        ),
    ];
    let mut wrong = Vec::new();
    for (i, (bounded, unbounded)) in shapes.iter().enumerate() {
        let filter = if i == 5 { " FILTER (WHERE x > 1000)" } else { "" };
        let all: Vec<String> = AGGREGATES
            .iter()
            .filter(|e| i != 5 || !e.contains("_if("))
            .map(|e| format!("{e}{filter}"))
            .collect();
        // Several at a time: a query costs more than an aggregate.
        for some in all.chunks(16) {
            let items = some.join(", ");
            let expected = table.query(&bounded.replace("{}", &items));
            let got = streaming.query(&unbounded.replace("{}", &items));
            let (Ok(expected), Ok(got)) = (&expected, &got) else {
                wrong.push(format!("{bounded} of {items}\n  bounded   {expected:?}\n  unbounded {got:?}"));
                continue;
            };
            let cells = |t: &str| {
                t.lines().map(|l| l.split('\t').map(str::to_owned).collect()).collect::<Vec<Vec<_>>>()
            };
            let (expected, got) = (cells(expected), cells(got));
            if expected.len() != got.len() {
                wrong.push(format!("{bounded} of {items}\n  bounded   {expected:?}\n  unbounded {got:?}"));
                continue;
            }
            for (a, b) in expected.iter().zip(&got) {
                let keys = a.len() - some.len();
                for (at, (a, b)) in a.iter().zip(b).enumerate().filter(|(_, (a, b))| !same(a, b)) {
                    let what = at.checked_sub(keys).map_or("the key", |at| some[at].as_str());
                    wrong.push(format!("{bounded} of {what}\n  bounded   {a}\n  unbounded {b}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
