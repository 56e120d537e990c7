//! Plans of cases: aggregations over each other over a source with weights.

use super::case::{Case, Emit, Key, Rows};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::col;
use std::sync::Arc;
use weir_plan::{
    AggregateKind, AggregateSpec, EmitPolicy, EmitSpec, KeyedChangelog, NodeId, Projection, ReplayOrder,
    Retracted, RowOrder, SourceSpec, StartPosition, StreamNode, StreamPlan,
};

pub fn schema() -> SchemaRef {
    let ms = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("t", ms, false),
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
        Field::new("f", DataType::Float64, false),
        Field::new("even", DataType::Boolean, true),
        Field::new("_tp_shard", DataType::Int32, false),
        Field::new("_tp_sn", DataType::Int64, false),
        Field::new("_tp_delta", DataType::Int8, false),
    ]))
}

type Aggregates = Vec<(AggregateKind, Vec<&'static str>, Option<&'static str>, DataType)>;

/// Over rows of the stream; `model::of_rows` computes the same.
fn of_rows() -> Aggregates {
    use AggregateKind as K;
    let (int, float, utf8) = (DataType::Int64, DataType::Float64, DataType::Utf8);
    let array = DataType::new_list(DataType::Int64, true);
    vec![
        (K::Count, vec![], None, int.clone()),
        (K::Count, vec!["v"], None, int.clone()),
        (K::Sum, vec!["v"], None, int.clone()),
        (K::Avg, vec!["v"], None, float.clone()),
        (K::Min, vec!["v"], None, int.clone()),
        (K::Max, vec!["v"], None, int.clone()),
        (K::Min, vec!["f"], None, float.clone()),
        (K::Max, vec!["f"], Some("even"), float.clone()),
        (K::Count, vec![], Some("even"), int.clone()),
        (K::First { skip_nulls: true }, vec!["v"], None, int.clone()),
        (K::Last { skip_nulls: false }, vec!["s"], None, utf8.clone()),
        (K::ArgMin, vec!["v", "f"], None, int.clone()),
        (K::ArgMax, vec!["v", "f"], None, int.clone()),
        (K::UniqExact, vec!["v"], None, int.clone()),
        (K::VarPop, vec!["v"], None, float.clone()),
        (K::StddevSamp, vec!["v"], None, float.clone()),
        (K::GroupArray { skip_nulls: true }, vec!["v"], None, array.clone()),
        (K::GroupUniqArray, vec!["v"], None, array),
        (K::Min, vec!["s"], None, utf8),
        (K::Sum, vec!["f"], None, float.clone()),
        (K::Quantile { level: 0.9 }, vec!["f"], None, float),
        (K::BitXor, vec!["v"], None, int),
    ]
}

fn inner() -> Aggregates {
    use AggregateKind as K;
    let int = DataType::Int64;
    vec![
        (K::Count, vec![], None, int.clone()),
        (K::Sum, vec!["v"], None, int.clone()),
        (K::Max, vec!["v"], None, int),
    ]
}

/// Over results of `inner`: number `a0`, sum `a1`, greatest `a2`.
fn of_results() -> Aggregates {
    use AggregateKind as K;
    let int = DataType::Int64;
    vec![
        (K::Count, vec![], None, int.clone()),
        (K::Sum, vec!["a0"], None, int.clone()),
        (K::Max, vec!["a1"], None, int.clone()),
        (K::Min, vec!["a2"], None, int.clone()),
        (K::UniqExact, vec!["a0"], None, int.clone()),
        (K::GroupArray { skip_nulls: true }, vec!["a1"], None, DataType::new_list(int.clone(), true)),
        (K::ArgMax, vec!["a2", "a0"], None, int),
    ]
}

fn aggregate(
    id: u32,
    keys: &[&str],
    aggregates: Aggregates,
    order: Option<RowOrder>,
    emit: EmitSpec,
    input: StreamNode,
) -> StreamNode {
    let below = input.schema();
    let column = |name: &str| -> Arc<dyn PhysicalExpr> { col(name, &below).unwrap() };
    let projections = keys.iter().map(|n| Projection { expr: column(n), name: (*n).into() }).collect();
    let mut fields: Vec<Field> = keys.iter().map(|n| below.field_with_name(n).unwrap().clone()).collect();
    let aggregates: Vec<AggregateSpec> = aggregates
        .into_iter()
        .enumerate()
        .map(|(i, (kind, args, filter, t))| AggregateSpec {
            kind,
            args: args.into_iter().map(column).collect(),
            filter: filter.map(column),
            output: Arc::new(Field::new(format!("a{i}"), t, true)),
        })
        .collect();
    fields.extend(aggregates.iter().map(|a| a.output.as_ref().clone()));
    StreamNode::Aggregate {
        id: NodeId(id),
        keys: projections,
        aggregates,
        order,
        window: None,
        emit,
        whole: false,
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(input),
    }
}

/// The source's columns: without a weight where rows get theirs by key.
pub fn source_schema(rows: Rows) -> SchemaRef {
    match rows {
        Rows::Weighted => schema(),
        Rows::Keyed { .. } => Arc::new(Schema::new(schema().fields()[..8].to_vec())),
    }
}

/// Rows of the source with their weights.
fn weighted(rows: Rows) -> StreamNode {
    let columns = source_schema(rows);
    let source = StreamNode::Source {
        id: NodeId(9),
        spec: SourceSpec {
            history: weir_plan::HistorySpec::default(),
            database: "default".into(),
            relation: "s".into(),
            columns: columns.fields().iter().map(|f| f.name().clone()).collect(),
            schema: columns.clone(),
            start: StartPosition::Earliest,
            prune: None,
            watermark: None,
            log_order: false,
        },
    };
    if let Rows::Keyed { drop_late } = rows {
        return StreamNode::Changelog {
            id: NodeId(8),
            spec: KeyedChangelog {
                keys: vec![col("k", &columns).unwrap()],
                version: drop_late.then(|| col("t", &columns).unwrap()),
                at: 8,
                shown: false,
            },
            schema: schema(),
            input: Box::new(source),
        };
    }
    let shown = Arc::new(Schema::new(columns.fields()[..8].to_vec()));
    StreamNode::Weights {
        id: NodeId(8),
        at: 8,
        retracted: Some(Retracted { same: vec![1, 2, 3, 4, 6], of: vec![0, 7] }),
        schema: shown,
        input: Box::new(source),
    }
}

pub fn plan(case: &Case) -> StreamPlan {
    let keys: &[&str] = match case.key {
        Key::None => &[],
        Key::Int => &["k"],
        Key::Both => &["k", "s"],
    };
    let policy = match case.emit {
        Emit::Periodic => EmitPolicy::Periodic { every_us: 1_000, repeat: false },
        Emit::OnUpdate | Emit::Changelog => EmitPolicy::OnUpdate { every_us: None },
        Emit::OnUpdateEvery => EmitPolicy::OnUpdate { every_us: Some(1_000) },
        Emit::ChangelogPeriodic => EmitPolicy::Periodic { every_us: 1_000, repeat: false },
    };
    let changelog = matches!(case.emit, Emit::Changelog | Emit::ChangelogPeriodic);
    let emit = EmitSpec { policy, changelog };
    let order = Some(RowOrder { time: 0, shard: 6, sn: 7 });
    // The outer ones have a key at most.
    let outer = &keys[..keys.len().min(1)];
    let root = match case.depth {
        1 => aggregate(0, keys, of_rows(), order, emit, weighted(case.rows)),
        2 => {
            let below = aggregate(1, &["k", "s"], inner(), order, EmitSpec::INNER, weighted(case.rows));
            aggregate(0, outer, of_results(), None, emit, below)
        }
        _ => {
            let below = aggregate(2, &["k", "s"], inner(), order, EmitSpec::INNER, weighted(case.rows));
            let middle = aggregate(1, outer, of_results(), None, EmitSpec::INNER, below);
            let int = DataType::Int64;
            let all = vec![
                (AggregateKind::Count, vec![], None, int.clone()),
                (AggregateKind::Sum, vec!["a0"], None, int),
            ];
            aggregate(0, &[], all, None, emit, middle)
        }
    };
    StreamPlan::new(root, ReplayOrder::Arrival)
}
