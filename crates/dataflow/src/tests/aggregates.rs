//! Every aggregate in a table of groups: rows at once, one by one, and with the state saved, dropped
//! and read again after every few batches give the same.

use crate::agg::{Batch, Input, Order, Shape, accumulators};
use crate::state::bytes::{Reader, Writer};
use crate::state::rows::{Layout, RowStore};
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate as df;
use datafusion_physical_expr::PhysicalSortExpr;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;
use std::sync::Arc;
use weir_base::Rng;
use weir_plan::AggregateKind as K;

const GROUPS: u64 = 7;

#[derive(Debug, Clone)]
struct Row {
    group: u32,
    place: (i64, i32, i64),
    v: Option<i64>,
    f: f64,
    s: Option<String>,
    kept: Option<bool>,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, false),
        Field::new("s", DataType::Utf8, true),
        Field::new("t", DataType::Int64, false),
        Field::new("sn", DataType::Int64, false),
        Field::new("g", DataType::Float64, true),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.f)).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.s.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| Some(r.place.0)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.place.2)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.v.map(|v| v as f64)).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// An aggregate by the accumulator it brings, with the order of rows where it wants one.
fn udaf(f: Arc<AggregateUDF>, args: &[&str], distinct: bool, ordered: bool) -> (K, Vec<String>) {
    let schema = schema();
    let column = |name: &str| col(name, &schema).unwrap();
    let order = if ordered {
        vec![PhysicalSortExpr::new_default(column("t")), PhysicalSortExpr::new_default(column("sn"))]
    } else {
        Vec::new()
    };
    let built = AggregateExprBuilder::new(f, args.iter().map(|a| column(a)).collect())
        .schema(schema.clone())
        .order_by(order)
        .with_distinct(distinct)
        .alias("a")
        .build()
        .unwrap();
    let mut names: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    if ordered {
        names.extend(["t".to_owned(), "sn".to_owned()]);
    }
    (K::Udaf(Arc::new(built)), names)
}

fn pair(a: &DataType, b: &DataType) -> DataType {
    DataType::Struct(vec![Field::new("1", a.clone(), true), Field::new("2", b.clone(), true)].into())
}

fn kinds() -> Vec<(K, Vec<String>, DataType)> {
    let list = |t: DataType| DataType::new_list(t, true);
    let (int, float, utf8) = (DataType::Int64, DataType::Float64, DataType::Utf8);
    let own = |k: K, args: &[&str], t: &DataType| {
        (k, args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), t.clone())
    };
    let foreign = |(k, args): (K, Vec<String>), t: &DataType| (k, args, t.clone());
    vec![
        own(K::Count, &[], &int),
        own(K::Count, &["v"], &int),
        own(K::Sum, &["v"], &int),
        own(K::Avg, &["v"], &float),
        own(K::Min, &["v"], &int),
        own(K::Max, &["s"], &utf8),
        own(K::First { skip_nulls: true }, &["v"], &int),
        own(K::First { skip_nulls: false }, &["s"], &utf8),
        own(K::Last { skip_nulls: true }, &["s"], &utf8),
        own(K::ArgMin, &["v", "f"], &int),
        own(K::ArgMax, &["s", "v"], &utf8),
        own(K::Quantile { level: 0.9 }, &["f"], &float),
        own(K::Uniq, &["v"], &DataType::UInt64),
        own(K::UniqExact, &["s"], &int),
        own(K::VarSamp, &["f"], &float),
        own(K::GroupArray { skip_nulls: true }, &["v"], &list(int.clone())),
        own(K::GroupUniqArray, &["s"], &list(utf8.clone())),
        own(K::GroupArrayFirst { most: 4 }, &["v"], &list(int.clone())),
        own(K::GroupUniqArrayLeast { most: 3 }, &["s"], &list(utf8.clone())),
        own(K::MovingSum { window: None }, &["v"], &list(int.clone())),
        own(K::MovingSum { window: Some(3) }, &["v"], &list(int.clone())),
        own(K::MovingAvg { window: Some(2) }, &["f"], &list(float.clone())),
        own(K::BitXor, &["v"], &int),
        own(K::TopK { k: 3, with_count: false }, &["s"], &list(utf8.clone())),
        own(K::TopK { k: 2, with_count: true }, &["v"], &list(pair(&int, &DataType::UInt64))),
        own(K::MinK { k: 3 }, &["v"], &list(int.clone())),
        own(K::MaxK { k: 2 }, &["v", "s"], &list(pair(&int, &utf8))),
        foreign(udaf(df::correlation::corr_udaf(), &["g", "f"], false, false), &float),
        foreign(udaf(df::covariance::covar_pop_udaf(), &["g", "f"], false, false), &float),
        foreign(udaf(df::sum::sum_udaf(), &["v"], true, false), &int),
        foreign(udaf(df::average::avg_udaf(), &["f"], true, false), &float),
        foreign(udaf(df::count::count_udaf(), &["s"], true, false), &int),
        foreign(udaf(df::regr::regr_slope_udaf(), &["f", "g"], false, false), &float),
        foreign(udaf(df::array_agg::array_agg_udaf(), &["s"], false, true), &list(utf8.clone())),
        foreign(udaf(df::first_last::last_value_udaf(), &["s"], false, true), &utf8),
    ]
}

/// Results of every aggregate, a column each, all rows and only those a filter keeps.
fn run(rows: &[Row], batch_rows: usize, restore_every: Option<usize>) -> Vec<ArrayRef> {
    let schema = schema();
    let kinds = kinds();
    let shapes: Vec<Shape> = kinds
        .iter()
        .map(|(kind, args, t)| Shape {
            kind: kind.clone(),
            args: args.iter().map(|a| schema.field_with_name(a).unwrap().data_type().clone()).collect(),
            always: false,
            changelog: false,
            output: Arc::new(Field::new("a", t.clone(), true)),
        })
        .collect();
    let shapes = [shapes.clone(), shapes].concat();
    let made = || {
        let mut layout = Layout::default();
        let states = accumulators(&shapes, &mut layout).unwrap();
        (RowStore::new(&layout), states)
    };
    let (mut store, mut states) = made();
    (0..GROUPS).for_each(|_| {
        store.push();
    });
    for (fed, part) in rows.chunks(batch_rows).enumerate() {
        let b = batch(part);
        let groups: Vec<u32> = part.iter().map(|r| r.group).collect();
        let order = Order::Log {
            times: part.iter().map(|r| Some(r.place.0)).collect(),
            shards: part.iter().map(|r| Some(r.place.1)).collect::<Int32Array>(),
            sns: part.iter().map(|r| Some(r.place.2)).collect(),
        };
        let kept: BooleanArray = part.iter().map(|r| r.kept).collect();
        for (i, state) in states.iter_mut().enumerate() {
            let args = &kinds[i % kinds.len()].1;
            let input = Input {
                args: args.iter().map(|a| b.column_by_name(a).unwrap().clone()).collect(),
                filter: (i >= kinds.len()).then(|| kept.clone()),
            };
            let batch = Batch { groups: &groups, order: &order, weights: None };
            state.update(&mut store, &batch, &input).unwrap();
        }
        if restore_every.is_some_and(|k| (fed + 1) % k == 0) {
            let (mut again, mut read) = made();
            for group in 0..GROUPS as u32 {
                again.push();
                for (i, (old, new)) in states.iter().zip(&mut read).enumerate() {
                    let mut saved = Writer::default();
                    old.save(&store, group, &mut saved);
                    let mut from = Reader(&saved.0);
                    new.merge(&mut again, group, &mut from).unwrap();
                    assert!(from.0.is_empty(), "all that was written is read");
                    let mut twice = Writer::default();
                    new.save(&again, group, &mut twice);
                    // What others keep in a hash set they write down in its order.
                    if !matches!(kinds[i % kinds.len()].0, K::Udaf(_)) {
                        assert_eq!(saved.0, twice.0, "a new group becomes exactly that one");
                    }
                }
            }
            (store, states) = (again, read);
        }
    }
    let groups: Vec<u32> = (0..GROUPS as u32).collect();
    states
        .iter()
        .map(|s| {
            assert!(s.bytes() < 1 << 24, "bytes are counted, not guessed");
            let first = s.evaluate(&store, &groups).unwrap();
            assert_eq!(&s.evaluate(&store, &groups).unwrap(), &first, "reading changes nothing");
            first
        })
        .collect()
}

fn close(a: &ArrayRef, b: &ArrayRef) -> bool {
    match a.data_type() {
        DataType::Float64 => {
            let (a, b) = (a.as_primitive::<Float64Type>(), b.as_primitive::<Float64Type>());
            a.iter().zip(b).all(|(a, b)| match (a, b) {
                (Some(a), Some(b)) => a == b || (a - b).abs() <= 1e-9 * a.abs().max(1.0),
                (a, b) => a == b,
            })
        }
        _ => a == b,
    }
}

fn rows(seed: u64, n: usize) -> Vec<Row> {
    let rng = Rng::seeded(seed);
    let mut all: Vec<Row> = (0..n)
        .map(|sn| Row {
            // The last group never has a row.
            group: rng.below(GROUPS - 1) as u32,
            place: (rng.below(20) as i64, 0, sn as i64),
            v: Some(rng.below(40) as i64 - 20).filter(|_| rng.below(5) > 0),
            f: rng.below(100) as f64 / 4.0 - 10.0,
            s: Some(format!("s{}", rng.below(9))).filter(|_| rng.below(6) > 0),
            kept: [Some(true), Some(false), None][rng.below(3) as usize],
        })
        .collect();
    // A group that no row of a filter reaches.
    all.iter_mut().filter(|r| r.group == 0).for_each(|r| r.kept = Some(false));
    all
}

#[test]
fn every_aggregate_is_the_same_in_any_batches_and_after_restore() {
    for seed in 0..12 {
        let rows = rows(seed, 1 + seed as usize * 37);
        let expected = run(&rows, 10_000, None);
        for (batch_rows, restore_every) in [(1, None), (7, Some(3)), (1, Some(11)), (50, Some(1))] {
            let got = run(&rows, batch_rows, restore_every);
            for (i, (a, b)) in expected.iter().zip(&got).enumerate() {
                let (kind, args, _) = &kinds()[i % kinds().len()];
                assert!(
                    close(a, b),
                    "seed {seed}, batches of {batch_rows}, {restore_every:?}: {kind:?}{args:?}\n{a:?}\n{b:?}"
                );
            }
        }
    }
}
