//! Sessions of generated logs against a naive model, however they are run.

use super::case::{Case, LogRow, MS};
use super::model::{self, FinalRow};
use super::run::{Mode, Runner, schema};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMillisecondType;
use arrow_schema::{DataType, Field, Schema};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{binary, col, lit};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::Rng;
use weir_plan::{
    AggregateKind, AggregateSpec, Brackets, Element, EmitSpec, Judged, NodeId, Projection, ReplayOrder,
    RowOrder, Rows, SessionKeys, SessionSpec, SourceSpec, StartPosition, StreamNode, StreamPlan,
    WATERMARK_COLUMN, WatermarkSpec, WatermarkTime, WindowKeys, WindowKind, WindowSpec, WindowTime,
};

/// A row starts a session when its v is more than this, and ends one when it is less than that.
const STARTS_ABOVE: i64 = 200;
const ENDS_BELOW: i64 = -150;

pub fn generate(rng: &Rng) -> SessionSpec {
    let pick = |all: &[i64]| all[rng.below(all.len() as u64) as usize] * MS;
    let brackets = Brackets { start_in: rng.below(2) == 0, end_in: rng.below(2) == 0 };
    SessionSpec {
        idle_ns: pick(&[1, 5, 60, 400, 4_000]),
        max_len_ns: (rng.below(3) == 0).then(|| pick(&[1, 30, 700, 2_000])),
        conditions: (rng.below(2) == 0).then_some(brackets),
    }
}

/// Aggregate(Session(Source)), by k.
pub fn plan(case: &Case, spec: SessionSpec, replay_order: ReplayOrder, id: u32) -> StreamPlan {
    let input = schema();
    let window = WindowSpec { kind: WindowKind::Session(spec), zone: chrono_tz::Tz::UTC };
    let source = StreamNode::Source {
        id: NodeId(id + 2),
        spec: SourceSpec {
            history: weir_plan::HistorySpec::default(),
            database: "default".into(),
            relation: "s".into(),
            columns: input.fields().iter().map(|f| f.name().clone()).collect(),
            schema: input.clone(),
            start: StartPosition::Earliest,
            prune: None,
            watermark: Some(WatermarkSpec {
                time: col("t", &input).unwrap(),
                delay_ns: case.delay_ns,
                silence_us: 0,
                idle_timeout_us: case.idle_timeout_us,
                future_max_ns: case.future_max_ns,
                timeout: None,
                shard: 6,
                append_time: 7,
                partition: None,
            }),
            log_order: false,
        },
    };
    let below = source.schema();
    let t = input.field(0).data_type().clone();
    let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("window_start", t.clone(), false));
    fields.push(Field::new("window_end", t, false));
    fields.push(Field::new(WATERMARK_COLUMN, DataType::Int64, false));
    let compare = |op, value: i64| binary(col("v", &below).unwrap(), op, lit(value), &below).unwrap();
    let session = StreamNode::Window {
        id: NodeId(id + 1),
        spec: window,
        time: WindowTime::Event(col("t", &below).unwrap()),
        judged: Some(Judged { watermark: 9, shard: 6, sn: 8, kept: vec![("v".into(), 3)] }),
        session: Some(SessionKeys {
            keys: vec![col("k", &below).unwrap()],
            conditions: spec
                .conditions
                .map(|_| (compare(Operator::Gt, STARTS_ABOVE), compare(Operator::Lt, ENDS_BELOW))),
            shard: 6,
            sn: 8,
        }),
        at: 9,
        schema: Arc::new(Schema::new(fields)),
        input: Box::new(source),
    };
    let below = session.schema();
    let names = ["window_end", "k", "window_start"];
    let keys =
        names.iter().map(|n| Projection { expr: col(n, &below).unwrap(), name: (*n).into() }).collect();
    let list = DataType::new_list(DataType::Int64, true);
    let specs = [
        (AggregateKind::Count, vec![], DataType::Int64),
        (AggregateKind::Sum, vec!["v"], DataType::Int64),
        (AggregateKind::GroupArray { skip_nulls: true }, vec!["v"], list),
    ];
    let aggregates: Vec<AggregateSpec> = specs
        .into_iter()
        .map(|(kind, args, t)| AggregateSpec {
            kind: kind.clone(),
            args: args.into_iter().map(|a| col(a, &below).unwrap()).collect(),
            filter: None,
            output: Arc::new(Field::new(format!("{kind:?}"), t, true)),
        })
        .collect();
    let mut out: Vec<Field> = names.iter().map(|n| below.field_with_name(n).unwrap().clone()).collect();
    out.extend(aggregates.iter().map(|a| a.output.as_ref().clone()));
    let root = StreamNode::Aggregate {
        id: NodeId(id),
        keys,
        aggregates,
        order: Some(RowOrder { time: 0, shard: 6, sn: 8 }),
        window: Some(WindowKeys { start: 2, end: 0, spec: window, passes: None }),
        emit: EmitSpec::WINDOW,
        whole: false,
        schema: Arc::new(Schema::new(out)),
        input: Box::new(session),
    };
    StreamPlan::new(root, replay_order)
}

/// Sessions of one key's rows, which are in order: bounds and rows.
fn cut<'a>(spec: &SessionSpec, rows: &[&'a LogRow]) -> Vec<(i64, i64, Vec<&'a LogRow>)> {
    let at = |i: usize| rows[i].time_ms * MS;
    let starts = |i: usize| spec.conditions.is_none() || rows[i].v.is_some_and(|v| v > STARTS_ABOVE);
    let ends = |i: usize| spec.conditions.is_some() && rows[i].v.is_some_and(|v| v < ENDS_BELOW);
    let brackets = spec.conditions.unwrap_or(Brackets { start_in: true, end_in: true });
    let (mut all, mut i) = (Vec::new(), 0);
    while i < rows.len() {
        if !starts(i) {
            i += 1;
            continue;
        }
        let mut of = if brackets.start_in { vec![i] } else { vec![] };
        let mut next = i + 1;
        let mut before = i;
        loop {
            let over = |j: usize| {
                at(j) - at(before) >= spec.idle_ns
                    || spec.max_len_ns.is_some_and(|max| at(j) - at(*of.first().unwrap_or(&i)) >= max)
            };
            if next == rows.len() || over(next) {
                break;
            }
            if ends(next) {
                if brackets.end_in {
                    of.push(next);
                    next += 1;
                }
                break;
            }
            of.push(next);
            before = next;
            next += 1;
        }
        if let (Some(first), Some(last)) = (of.first(), of.last()) {
            all.push((at(*first), at(*last) + spec.idle_ns, of.iter().map(|j| rows[*j]).collect()));
        }
        i = next;
    }
    all
}

/// Sorted final rows, and how many rows were late.
pub fn expected(
    case: &Case,
    spec: &SessionSpec,
    log: &[LogRow],
    judged: Option<&[i64]>,
) -> (Vec<FinalRow>, u64) {
    let mut keys: BTreeMap<Option<i64>, Vec<&LogRow>> = BTreeMap::new();
    let mut late = 0;
    for (i, row) in log.iter().enumerate() {
        if judged.is_some_and(|j| j[i] > row.time_ms * MS) {
            late += 1;
        } else {
            keys.entry(row.k).or_default().push(row);
        }
    }
    let _ = case;
    let mut all = Vec::new();
    for (k, mut rows) in keys {
        rows.sort_by_key(|r| (r.time_ms, r.shard, r.sn));
        // Sessions with the same bounds, cut between rows of one time, are one group.
        let mut groups: BTreeMap<(i64, i64), Vec<&LogRow>> = BTreeMap::new();
        for (start, end, rows) in cut(spec, &rows) {
            groups.entry((start, end)).or_default().extend(rows);
        }
        for ((start, end), rows) in groups {
            let values: Vec<i64> = rows.iter().filter_map(|r| r.v).collect();
            let null = |text: String| if values.is_empty() { "NULL".to_owned() } else { text };
            let list = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let results = vec![
                rows.len().to_string(),
                null(values.iter().sum::<i64>().to_string()),
                null(format!("[{list}]")),
            ];
            all.push((start, end, k.map_or("NULL".into(), |k| k.to_string()), results));
        }
    }
    all.sort();
    (all, late)
}

fn text(array: &dyn Array, i: usize) -> String {
    if array.is_null(i) {
        "NULL".into()
    } else {
        arrow::util::display::array_value_to_string(array, i).unwrap()
    }
}

/// What has left.
pub fn results(out: &[Rows]) -> Vec<FinalRow> {
    let mut all = Vec::new();
    for batch in out.iter().map(|r| &r.batch) {
        let bound = |name: &str| {
            let column = batch.column_by_name(name).unwrap();
            column.as_primitive::<TimestampMillisecondType>().clone()
        };
        let (starts, ends) = (bound("window_start"), bound("window_end"));
        for i in 0..batch.num_rows() {
            let results = (3..6).map(|c| text(batch.column(c), i)).collect();
            all.push((starts.value(i) * MS, ends.value(i) * MS, text(batch.column(1), i), results));
        }
    }
    all
}

/// Drains, checks the order in which rows left, and gives them sorted.
fn finish(mut runner: Runner) -> (Vec<FinalRow>, u64) {
    runner.tick();
    let before_drain = runner.out.len();
    runner.feed(Element::Watermark(WatermarkTime::INFINITY));
    assert_eq!(runner.memory.used_bytes(), 0, "closed sessions are freed");
    for part in [&runner.out[..before_drain], &runner.out[before_drain..]] {
        let left: Vec<_> = results(part).iter().map(|r| (r.1, r.0)).collect();
        assert!(left.is_sorted(), "sessions close by end and start: {left:?}");
    }
    let told: usize = runner.late.iter().map(|l| l.sns.len()).sum();
    assert_eq!(told as u64, runner.late_rows(), "late rows are told of, each once");
    let mut all = results(&runner.out);
    all.sort();
    (all, runner.late_rows())
}

fn run(case: &Case, spec: SessionSpec, mode: &Mode, log: &[LogRow]) -> (Vec<FinalRow>, u64) {
    let mut runner = Runner::new(plan(case, spec, ReplayOrder::Arrival, 0), mode.threads, mode.spill);
    runner.play(mode, log);
    finish(runner)
}

fn check(seed: u64) {
    let rng = Rng::seeded(seed);
    let case = Case::generate(&rng);
    let spec = generate(&rng);
    let (judged, _) = model::judge(&case, &case.log);
    let expected_rows = expected(&case, &spec, &case.log, Some(&judged));
    let modes = [
        Mode { backfill: 0, batch_rows: 8_192, restore_every: None, threads: 1, spill: true },
        Mode { backfill: usize::MAX, batch_rows: 7, restore_every: None, threads: 5, spill: false },
        Mode { backfill: case.log.len() / 2, batch_rows: 1, restore_every: None, threads: 2, spill: false },
        Mode { backfill: case.log.len() / 3, batch_rows: 7, restore_every: Some(1), threads: 1, spill: true },
        Mode {
            backfill: 0,
            batch_rows: 1,
            restore_every: Some(1 + rng.below(20) as usize),
            threads: 5,
            spill: false,
        },
    ];
    for mode in &modes {
        assert_eq!(
            run(&case, spec, mode, &case.log),
            expected_rows,
            "seed {seed}, {mode:?}, {spec}, {case:#?}"
        );
    }
    let bounded = |log: &[LogRow]| expected(&case, &spec, log, None);
    if expected_rows.1 == 0 && case.never_late {
        for shards in [1, 2, 5] {
            let log = case.over_shards(shards);
            assert_eq!(
                run(&case, spec, &modes[3], &log),
                bounded(&log),
                "seed {seed} over {shards} shards, {spec}"
            );
        }
    }
    let mut runner = Runner::new(plan(&case, spec, ReplayOrder::EventTime, 0), 2, true);
    let mut log = case.log.clone();
    log.sort_by_key(|r| (r.time_ms, r.shard, r.sn));
    for rows in log.chunks(11) {
        runner.feed(Element::Rows(Rows::append(super::run::batch(rows))));
    }
    runner.feed(Element::EndOfBackfill);
    assert_eq!(finish(runner), bounded(&case.log), "seed {seed} replayed by event time");
}

#[test]
fn sessions_have_one_answer_however_they_are_run() {
    crate::tests::seeds::each_seed("sessions", check);
}

#[test]
fn rows_of_sessions_go_to_disk() {
    let mut spilled = 0;
    for seed in 0..50 {
        let rng = Rng::seeded(seed);
        let (case, spec) = (Case::generate(&rng), generate(&rng));
        let mode = Mode { backfill: 0, batch_rows: 7, restore_every: None, threads: 1, spill: true };
        let mut runner = Runner::new(plan(&case, spec, ReplayOrder::Arrival, 0), 1, true);
        runner.play(&mode, &case.log);
        spilled += usize::from(runner.spilled());
        finish(runner);
    }
    assert!(spilled > 8, "{spilled} of 50");
}

#[test]
fn generated_sessions_cover_what_they_should() {
    let (mut late, mut limited, mut left_out, mut many) = (0, 0, 0, 0);
    for seed in 0..200 {
        let rng = Rng::seeded(seed);
        let case = Case::generate(&rng);
        let spec = generate(&rng);
        let (judged, _) = model::judge(&case, &case.log);
        let (rows, late_rows) = expected(&case, &spec, &case.log, Some(&judged));
        late += usize::from(late_rows > 0);
        let several = rows.iter().any(|r| r.3[0].parse::<u64>().unwrap() > 2);
        limited += usize::from(spec.max_len_ns.is_some() && several);
        left_out += usize::from(spec.conditions.is_some_and(|c| !(c.start_in && c.end_in)) && several);
        many += usize::from(rows.len() > 10 && several);
    }
    assert!(late > 30 && limited > 8 && left_out > 8 && many > 10, "{late} {limited} {left_out} {many}");
}
