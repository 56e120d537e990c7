//! Bounded reads of real stores.

pub(crate) mod support;

use super::*;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;
use std::collections::HashMap;
use std::sync::Arc;
use support::*;
use weir_base::Code;
use weir_plan::StreamError;
use weir_storage::StreamOptions;

async fn run(session: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    session.sql(sql).await.unwrap().collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// The result as text, one line a row.
async fn lines(session: &SessionContext, sql: &str) -> Vec<String> {
    let batches = run(session, sql).await;
    let mut out = Vec::new();
    for b in &batches {
        for row in 0..b.num_rows() {
            let cells = b
                .columns()
                .iter()
                .map(|c| arrow::util::display::array_value_to_string(c, row).expect("every type prints"));
            out.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    out
}

async fn plan_text(session: &SessionContext, sql: &str) -> String {
    let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    displayable(plan.as_ref()).indent(true).to_string()
}

/// Two shards, each with two committed parts on two days and an uncommitted tail.
async fn stitched(layout: Arc<dyn weir_storage::PartLayout>) -> World {
    let w = World::new(StreamOptions { shards: 2, ..quiet() }, layout);
    for (from, day, commit) in [(0, 0, true), (100, 1, true), (200, 2, false)] {
        for shard in 0..2 {
            w.append(shard, rows(from + 50 * shard as i64, 50, day)).await;
        }
        if commit {
            w.flush().await;
        }
    }
    w
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_log_are_one_table() {
    let w = stitched(arrival()).await;
    let s = w.session();
    assert_eq!(lines(&s, "select count(*), sum(n), min(n), max(n) from s").await, ["300 44850 0 299"]);
    assert_eq!(
        lines(
            &s,
            "select _tp_shard, count(distinct _tp_sn), min(_tp_sn), max(_tp_sn) from s group by 1 order by 1"
        )
        .await,
        ["0 150 0 149", "1 150 0 149"]
    );
    assert_eq!(lines(&s, "select k, n from s where n in (7, 251) order by n").await, ["k7 7", "k1 251"]);
    assert_eq!(lines(&s, "select count(*) from s where _tp_append_time is null").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_counted_without_being_read() {
    let w = stitched(arrival()).await;
    let text = plan_text(&w.session(), "select count(*) from s").await;
    assert!(!text.contains("LogExec") && !text.contains("DataSourceExec"), "{text}");
    assert_eq!(lines(&w.session(), "select count(*) from s").await, ["300"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn predicates_leave_out_parts_shards_and_log() {
    let w = stitched(arrival()).await;
    let s = w.session();
    let day = |d: i64| format!("to_timestamp_millis({})", NOW_MS + d * DAY_MS);
    // (predicate, rows, part files, whether the log is read)
    let cases = [
        ("true".to_owned(), 300, 4, true),
        (format!("_tp_time < {}", day(1)), 100, 2, true),
        ("_tp_sn < 50".to_owned(), 100, 2, false),
        ("_tp_sn >= 100".to_owned(), 100, 0, true),
        ("_tp_sn = 60 and _tp_shard = 1".to_owned(), 1, 1, false),
        ("_tp_shard = 0".to_owned(), 150, 2, true),
    ];
    for (predicate, rows, files, log) in cases {
        let sql = format!("select n from s where {predicate}");
        let text = plan_text(&s, &sql).await;
        let seen = text.matches(".parquet").count();
        assert_eq!((seen, text.contains("LogExec")), (files, log), "{predicate}\n{text}");
        let found: usize = run(&s, &sql).await.iter().map(|b| b.num_rows()).sum();
        assert_eq!(found, rows, "{predicate}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn predicates_reach_the_parquet_source_beside_a_log() {
    let w = stitched(arrival()).await;
    let text = plan_text(&w.session(), "select k from s where n = 17").await;
    let source = text.lines().find(|l| l.contains("DataSourceExec")).unwrap();
    assert!(source.contains("predicate=") && text.contains("LogExec"), "{text}");
    assert_eq!(lines(&w.session(), "select k from s where n = 17").await, ["k7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sorted_parts_need_no_sort() {
    let w = stitched(by_key()).await;
    let sql = "select k, n from s order by k limit 1000";
    assert!(plan_text(&w.session(), sql).await.contains("SortExec"), "the log is not sorted");
    let before = lines(&w.session(), "select k from s order by k").await;
    w.flush().await;
    let text = plan_text(&w.session(), sql).await;
    assert!(!text.contains("SortExec"), "{text}");
    assert_eq!(lines(&w.session(), "select k from s order by k").await, before);
    for shard in w.store.shards() {
        shard.merge().await.unwrap();
    }
    let after = lines(&w.session(), "select k from s order by k").await;
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_keeps_its_parts_while_merges_remove_them() {
    let w = stitched(arrival()).await;
    let s = w.session();
    let plan = s.sql("select sum(n), count(n) from s").await.unwrap().create_physical_plan().await.unwrap();
    w.flush().await;
    for shard in w.store.shards() {
        shard.merge().await.unwrap();
    }
    w.append(0, rows(10_000, 10, 0)).await;
    let batches = datafusion::physical_plan::collect(plan, s.task_ctx()).await.unwrap();
    assert_eq!(
        ScalarValue::try_from_array(batches[0].column(0), 0).unwrap(),
        ScalarValue::Int64(Some(44_850))
    );
    assert_eq!(lines(&s, "select count(*) from s").await, ["310"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_is_an_error_with_its_code() {
    let w = stitched(arrival()).await;
    w.flip_a_byte_in_each_part();
    let e = w.session().sql("select sum(n) from s").await.unwrap().collect().await.unwrap_err();
    let e = StreamError::from(&e);
    assert_eq!(e.code, Code::CorruptedData, "{}", e.message);
    assert!(e.message.contains(".parquet"), "{}", e.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_later_reads_as_its_default() {
    let w = World::new(quiet(), arrival());
    w.append(0, rows(0, 10, 0)).await;
    w.flush().await;
    let (w, _) = w
        .reopen(|schema| {
            let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new("added", DataType::Int64, true)));
            fields.push(Arc::new(Field::new("bare", DataType::Int64, true)));
            Arc::new(Schema::new(fields))
        })
        .await;
    let mut access = w.access();
    access.column_defaults = Arc::new(HashMap::from([("added".to_owned(), ScalarValue::Int64(Some(42)))]));
    let s = w.session_of(access);
    assert_eq!(
        lines(&s, "select sum(added), count(bare), count(*) from s where added = 42").await,
        ["420 0 10"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_are_kept_within_their_limit() {
    let w = stitched(arrival()).await;
    run(&w.session(), "select sum(n) from s").await;
    let kept = w.footers.bytes();
    assert!(kept > 0);
    run(&w.session(), "select sum(n) from s").await;
    assert_eq!(w.footers.bytes(), kept, "found again");
    let small = FooterCache::new(kept / 2);
    let mut access = w.access();
    access.footers = small.clone();
    run(&w.session_of(access), "select sum(n) from s").await;
    assert!(small.bytes() > 0 && small.bytes() <= kept / 2, "{} of {kept}", small.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_stop_early_and_empty_streams_are_empty() {
    let w = stitched(arrival()).await;
    assert_eq!(lines(&w.session(), "select n from s limit 7").await.len(), 7);
    assert_eq!(lines(&w.session(), "select n from s where n >= 290 limit 3").await.len(), 3);
    let empty = World::new(quiet(), arrival());
    assert_eq!(lines(&empty.session(), "select count(*), count(n) from s").await, ["0 0"]);
    assert!(lines(&empty.session(), "select n, _tp_sn from s").await.is_empty());
}
