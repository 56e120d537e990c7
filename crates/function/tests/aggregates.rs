//! Aggregates in parts: over several partitions and batches of few rows, states are merged, and the
//! result is that of all rows at once.

use datafusion::arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;
use weir_base::{ManualClock, Rng};

/// Ordered as the binder orders them; `t` has no ties.
const AGGREGATES: &[&str] = &[
    "sum(x)",
    "uniq(x)",
    "uniq(x, s)",
    "uniq_exact(s)",
    "quantile(f)",
    "quantile(f, 0.99) FILTER (WHERE x > 3)",
    "quantiles(f, 0.1, 0.9)",
    "quantile_exact(x, 0.5)",
    "median(x)",
    "any(x ORDER BY t)",
    "first_value(s ORDER BY t)",
    "last_value(x ORDER BY t)",
    "first_value(x ORDER BY t) FILTER (WHERE x > 100)",
    "arg_min(x, f ORDER BY t)",
    "arg_max(s, x ORDER BY t)",
    "min_k(x, 3 ORDER BY t)",
    "max_k(x, 2, s, f ORDER BY t)",
    "top_k(x, 3)",
    "top_k_with_count(s, 2)",
    "any_heavy(x)",
    "entropy(s)",
    "group_array(x ORDER BY t)",
    "group_array(s, 4 ORDER BY t)",
    "group_array(x ORDER BY t) FILTER (WHERE f > 0)",
    "group_uniq_array(x)",
    "group_uniq_array(s, 2)",
    "group_concat(s, '-' ORDER BY t)",
    "moving_sum(x ORDER BY t)",
    "moving_sum(x, 2 ORDER BY t)",
    "moving_avg(x, 3 ORDER BY t)",
    "sum_count(x)",
    "avg_weighted(f, x)",
    "skew_pop(f)",
    "skew_samp(f)",
    "kurt_pop(f)",
    "kurt_samp(f)",
    "var_samp(x)",
    "covar_pop(x, f)",
    "corr(x, f)",
    "group_bit_xor(x)",
];

fn context(partitions: usize, batch_rows: usize) -> SessionContext {
    let schema = Arc::new(Schema::new(vec![
        Field::new("t", DataType::Int64, false),
        Field::new("k", DataType::Utf8, true),
        Field::new("x", DataType::Int32, true),
        Field::new("f", DataType::Float64, false),
        Field::new("s", DataType::Utf8, false),
    ]));
    let rng = Rng::seeded(3);
    let (mut rows, n) = (Vec::new(), 400);
    for t in 0..n {
        // Spread so that no partition has its rows in order.
        let t = t * 7 % n;
        let x = Some(rng.below(20) as i32).filter(|_| rng.below(6) > 0);
        rows.push((t, rng.below(5), x, rng.below(2_000) as f64 / 4.0 - 200.0, rng.below(6)));
    }
    let mut parts = vec![Vec::new(); partitions];
    for (i, chunk) in rows.chunks(batch_rows).enumerate() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(chunk.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
            Arc::new(chunk.iter().map(|r| (r.1 > 0).then(|| format!("k{}", r.1))).collect::<StringArray>()),
            Arc::new(chunk.iter().map(|r| r.2).collect::<Int32Array>()),
            Arc::new(chunk.iter().map(|r| Some(r.3)).collect::<Float64Array>()),
            Arc::new(chunk.iter().map(|r| Some(format!("s{}", r.4))).collect::<StringArray>()),
        ];
        parts[i % partitions].push(RecordBatch::try_new(schema.clone(), columns).unwrap());
    }
    let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(batch_rows.max(2));
    let mut ctx = SessionContext::new_with_config(config);
    let world = weir_function::World { clock: Arc::new(ManualClock::new(0)), rng: Arc::new(Rng::seeded(7)) };
    weir_function::register(&world, &mut ctx).unwrap();
    ctx.register_table("t", Arc::new(MemTable::try_new(schema, parts).unwrap())).unwrap();
    ctx
}

async fn rows(ctx: &SessionContext, sql: &str) -> Vec<String> {
    let batches = match ctx.sql(sql).await {
        Ok(plan) => plan.collect().await,
        Err(e) => return vec![format!("error: {e}")],
    };
    let batches = match batches {
        Ok(batches) => batches,
        Err(e) => return vec![format!("error: {e}")],
    };
    let mut all = Vec::new();
    for batch in batches {
        let options = FormatOptions::new().with_null("NULL");
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let shown = |c: &ArrayFormatter<'_>| {
                let text = c.value(row).to_string();
                // Sums of floats agree to rounding.
                text.parse::<f64>().map_or(text, |f| format!("{f:.9}"))
            };
            all.push(columns.iter().map(shown).collect::<Vec<_>>().join(" | "));
        }
    }
    all
}

#[tokio::test]
async fn parts_of_any_size_give_the_result_of_the_whole() {
    let whole = context(1, 1_000);
    let mut wrong = Vec::new();
    for (partitions, batch_rows) in [(1, 1), (3, 7), (4, 50)] {
        let parts = context(partitions, batch_rows);
        for e in AGGREGATES {
            for sql in [format!("SELECT {e} FROM t"), format!("SELECT k, {e} FROM t GROUP BY k ORDER BY k")] {
                let (expected, got) = (rows(&whole, &sql).await, rows(&parts, &sql).await);
                if expected != got || expected[0].starts_with("error") {
                    wrong.push(format!("{sql} ({partitions} x {batch_rows})\n  {expected:?}\n  {got:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
