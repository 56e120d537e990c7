//! First rows of keys and functions over earlier rows of many keys under little memory.

use crate::op::dedup::Dedup;
use crate::op::lives::Lives;
use crate::op::over::Over;
use crate::operator::{InputId, OpError, Operator, Output};
use crate::resources::Resources;
use crate::state::StateWriter;
use crate::state::spill::SpillSpace;
use crate::tests::stored::Stored;
use crate::workers::Workers;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::expressions::col;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use weir_base::disk::{Disk, SimDisk};
use weir_base::{Code, MemoryBudget, Reservation, Rng};
use weir_plan::{DedupSpec, Element, LifeSpec, OverFunction, OverKind, OverSpec, Rows, StreamError};

pub(super) const BATCH_ROWS: usize = 700;
const BATCHES: usize = 60;
pub(super) const KEYS: u64 = 25_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub k: Option<u64>,
    pub v: i64,
    pub append_us: i64,
}

pub(super) fn schema(text: bool) -> SchemaRef {
    let key = if text { DataType::Utf8 } else { DataType::Int64 };
    Arc::new(Schema::new(vec![
        Field::new("k", key, true),
        Field::new("v", DataType::Int64, false),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
    ]))
}

pub(super) fn batch(text: bool, rows: &[Row]) -> Rows {
    let keys: ArrayRef = match text {
        true => Arc::new(rows.iter().map(|r| r.k.map(|k| format!("key {k}"))).collect::<StringArray>()),
        false => Arc::new(rows.iter().map(|r| r.k.map(|k| k as i64)).collect::<Int64Array>()),
    };
    let times = rows.iter().map(|r| Some(r.append_us)).collect::<TimestampMicrosecondArray>();
    let values = rows.iter().map(|r| r.v).collect::<Int64Array>();
    let columns: Vec<ArrayRef> = vec![keys, Arc::new(values), Arc::new(times.with_timezone("UTC"))];
    Rows::append(RecordBatch::try_new(schema(text), columns).unwrap())
}

pub(super) struct Runner<F> {
    pub disk: Arc<SimDisk>,
    resources: Resources,
    held: Reservation,
    make: F,
    pub op: Box<dyn Operator>,
}

impl<F: Fn(&Resources) -> Box<dyn Operator>> Runner<F> {
    pub fn new(memory_bytes: u64, make: F) -> Self {
        let disk = Arc::new(SimDisk::new(1));
        let memory = MemoryBudget::root("query", memory_bytes);
        let mut resources = Resources::new(Workers::new(1));
        resources.spill = Some(SpillSpace::new(disk.clone(), "spill"));
        resources.memory = Some(memory.clone());
        resources.piece_rows = 512;
        let held = memory.reserve(0).unwrap();
        let op = make(&resources);
        Runner { disk, resources, held, make, op }
    }

    fn account(&mut self) {
        let bytes = self.op.stats().state_bytes;
        self.held.shrink(self.held.bytes().saturating_sub(bytes));
        self.held.grow(bytes.saturating_sub(self.held.bytes())).expect("spills before it passes the limit");
    }

    pub fn rows(&mut self, rows: Rows) -> Result<Vec<RecordBatch>, OpError> {
        self.call(|op, out| op.rows(InputId(0), rows, out))
    }

    /// One call, and all that leaves.
    fn call(
        &mut self,
        f: impl FnOnce(&mut dyn Operator, &mut Output) -> Result<(), OpError>,
    ) -> Result<Vec<RecordBatch>, OpError> {
        let mut out = Output::default();
        f(&mut *self.op, &mut out)?;
        self.account();
        while self.op.unfinished() {
            self.op.go_on(&mut out)?;
            self.account();
        }
        let rows = out.elements.into_iter().filter_map(|e| match e {
            Element::Rows(rows) => Some(rows.batch),
            _ => None,
        });
        Ok(rows.collect())
    }

    pub fn restore(&mut self) {
        let mut saved = StateWriter::default();
        self.op.snapshot(&mut saved).unwrap();
        self.op = (self.make)(&self.resources);
        self.held.shrink(u64::MAX);
        self.op.restore(&saved.finish()).unwrap();
        self.account();
    }

    /// As after a restart that goes on from files; `next` comes meanwhile, and again. With `lost` a checkpoint
    /// before it comes to nothing. Gives the bytes written.
    pub fn restore_stored(&mut self, stored: &Stored, epoch: u64, next: &[Rows], lost: bool) -> u64 {
        if lost {
            stored.lost(&mut *self.op, epoch);
        }
        let mut runner = std::mem::replace(&mut self.op, (self.make)(&self.resources));
        let (saved, bytes) = stored.of_operator(&mut *runner, epoch + 1, |op| {
            for rows in next {
                let mut out = Output::default();
                op.rows(InputId(0), rows.clone(), &mut out).unwrap();
                while op.unfinished() {
                    op.go_on(&mut out).unwrap();
                }
            }
            // Whatever memory there is.
            op.spill().unwrap();
        });
        drop(runner);
        self.held.shrink(u64::MAX);
        self.op.restore(&saved).unwrap();
        self.account();
        bytes
    }

    pub fn runs(&self) -> usize {
        self.disk.list("spill").map_or(0, |files| files.len())
    }
}

pub(super) fn log(rng: &Rng) -> Vec<Row> {
    let mut append_us = 0;
    let row = |_| {
        // As inserts of some rows have it.
        append_us += if rng.below(20) == 0 { 20 } else { 0 };
        let k = Some(rng.below(KEYS)).filter(|k| k % 101 != 7);
        Row { k, v: rng.below(1_000) as i64, append_us }
    };
    (0..BATCH_ROWS * BATCHES).map(row).collect()
}

pub(super) fn dedup(
    text: bool,
    ttl_us: Option<i64>,
    keys_max: Option<u64>,
    resources: &Resources,
) -> Box<dyn Operator> {
    let schema = schema(text);
    let keys = vec![col("k", &schema).unwrap()];
    let spec = DedupSpec { keys, ttl_us, append_time: Some(2), keys_max };
    Box::new(Dedup::new(&spec, &schema, resources.clone()).unwrap())
}

/// The values of rows that are the first of their key.
fn first_values(log: &[Row], ttl_us: Option<i64>, keys_max: Option<u64>) -> Vec<i64> {
    let mut oldest_first: VecDeque<Row> = VecDeque::new();
    let mut known: HashMap<Option<u64>, ()> = HashMap::new();
    let mut kept = Vec::new();
    for row in log {
        while let (Some(ttl), Some(oldest)) = (ttl_us, oldest_first.front())
            && row.append_us - oldest.append_us >= ttl
        {
            known.remove(&oldest.k);
            oldest_first.pop_front();
        }
        if known.contains_key(&row.k) {
            continue;
        }
        if keys_max == Some(oldest_first.len() as u64) {
            known.remove(&oldest_first.pop_front().expect("at least one is kept").k);
        }
        known.insert(row.k, ());
        oldest_first.push_back(*row);
        kept.push(row.v);
    }
    kept
}

#[test]
fn first_rows_of_keys_that_were_spilled_are_first_once() {
    let cases = [
        (None, None),
        (Some(20_000), None),
        (None, Some(9_000)),
        (Some(15_000), Some(4_000)),
        (Some(300), None),
    ];
    for (i, (ttl_us, keys_max)) in cases.into_iter().enumerate() {
        let text = i % 2 == 0;
        let log = log(&Rng::seeded(i as u64));
        let mut runner = Runner::new(250_000, |r| dedup(text, ttl_us, keys_max, r));
        let (mut got, mut runs) = (Vec::new(), 0);
        for (fed, rows) in log.chunks(BATCH_ROWS).enumerate() {
            for batch in runner.rows(batch(text, rows)).unwrap() {
                got.extend(batch.column(1).as_primitive::<Int64Type>().values().to_vec());
            }
            runs = runs.max(runner.runs());
            if fed % 17 == 16 {
                runner.restore();
            }
            if (ttl_us, keys_max) == (None, None) {
                assert_eq!(runner.op.stats().keys, got.len() as u64);
            }
        }
        assert_eq!(got, first_values(&log, ttl_us, keys_max), "ttl {ttl_us:?}, at most {keys_max:?}");
        assert_eq!(runs > 1, ttl_us != Some(300), "{runs} runs, ttl {ttl_us:?}, at most {keys_max:?}");
        let bytes: u64 = runner.disk.list("spill").map_or(0, |all| all.iter().map(|f| f.len_bytes).sum());
        assert!(bytes < 3_000_000, "{bytes} bytes on disk, ttl {ttl_us:?}, at most {keys_max:?}");
        let disk = runner.disk.clone();
        drop(runner);
        assert!(disk.list("spill").is_ok_and(|l| l.is_empty()) || runs == 0, "nothing stays on disk");
    }
}

pub(super) fn over(text: bool, resources: &Resources) -> Box<dyn Operator> {
    let input = schema(text);
    let v = || Some(col("v", &input).unwrap());
    let functions: Vec<OverFunction> = [
        (OverKind::RowNumber, None, DataType::UInt64),
        (OverKind::Sum, v(), DataType::Int64),
        (OverKind::Lag { rows: 6, default: ScalarValue::Int64(Some(-1)) }, v(), DataType::Int64),
        (OverKind::Max, Some(col("k", &input).unwrap()), input.field(0).data_type().clone()),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, (kind, arg, t))| OverFunction {
        kind,
        arg,
        filter: None,
        output: Arc::new(Field::new(format!("f{i}"), t, true)),
    })
    .collect();
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    fields.extend(functions.iter().map(|f| f.output.clone()));
    let spec = OverSpec { partition: vec![col("k", &input).unwrap()], functions };
    let schema = Arc::new(Schema::new(fields));
    Box::new(Over::new(&spec, 3, schema, &input, resources.clone()).unwrap())
}

#[test]
fn functions_over_rows_of_partitions_that_were_spilled() {
    for text in [false, true] {
        let mut runner = Runner::new(1_000_000, |r| over(text, r));
        let mut past: HashMap<Option<u64>, Vec<i64>> = HashMap::new();
        let mut runs = 0;
        for (fed, rows) in log(&Rng::seeded(9)).chunks(BATCH_ROWS).enumerate() {
            let out = runner.rows(batch(text, rows)).unwrap();
            assert_eq!(out.len(), 1);
            let number = |at: usize| out[0].column(at).as_primitive::<Int64Type>().clone();
            let (sums, lags) = (number(4), number(5));
            for (i, row) in rows.iter().enumerate() {
                let of_key = past.entry(row.k).or_default();
                of_key.push(row.v);
                assert_eq!(out[0].column(3).as_primitive::<UInt64Type>().value(i), of_key.len() as u64);
                assert_eq!(sums.value(i), of_key.iter().sum::<i64>());
                let lag = of_key.len().checked_sub(7).map_or(-1, |at| of_key[at]);
                assert_eq!(lags.value(i), lag, "{:?}", row.k);
                assert_eq!(out[0].column(6).is_valid(i), row.k.is_some());
            }
            assert_eq!(runner.op.stats().keys, past.len() as u64);
            runs = runs.max(runner.runs());
            if fed % 17 == 16 {
                runner.restore();
            }
        }
        assert!(runs > 3, "{runs} runs");
        let disk = runner.disk.clone();
        drop(runner);
        assert_eq!(disk.list("spill").unwrap(), [], "nothing stays on disk");
    }
}

pub(super) fn lives(timeout_us: i64, resources: &Resources) -> Box<dyn Operator> {
    let input = schema(true);
    let spec = LifeSpec {
        time: 2,
        append_time: 2,
        opens: None,
        closes: None,
        merge_open: false,
        close_included: true,
        span_max_ns: i64::MAX,
        only: false,
        timeout_us: Some(timeout_us),
    };
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("life", DataType::Int64, false)));
    let (keys, schema) = (vec![col("k", &input).unwrap()], Arc::new(Schema::new(fields)));
    Box::new(Lives::new(spec, keys, schema, &input, resources.clone()).unwrap())
}

#[test]
fn lives_whose_rows_were_spilled_leave_whole() {
    const TIMEOUT_US: i64 = 2_000;
    let mut log = log(&Rng::seeded(11));
    log.iter_mut().for_each(|r| r.k = r.k.map(|k| k % 500));
    let mut runner = Runner::new(300_000, |r| lives(TIMEOUT_US, r));
    let (mut got, mut runs) = (BTreeMap::<i64, (Option<String>, Vec<i64>)>::new(), 0);
    let mut take = |out: Vec<RecordBatch>| {
        for batch in out {
            let (k, v) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
            let life = batch.column(3).as_primitive::<Int64Type>();
            let mut numbers = life.values().to_vec();
            numbers.dedup();
            assert!(numbers.iter().all(|n| !got.contains_key(n)), "a life leaves in one batch");
            for row in 0..batch.num_rows() {
                let key = k.is_valid(row).then(|| k.value(row).to_owned());
                let (of, values) = got.entry(life.value(row)).or_insert_with(|| (key.clone(), Vec::new()));
                assert_eq!(*of, key);
                values.push(v.value(row));
            }
        }
    };
    for (fed, rows) in log.chunks(BATCH_ROWS).enumerate() {
        take(runner.rows(batch(true, rows)).unwrap());
        let append_us = rows[rows.len() - 1].append_us - 1;
        take(runner.call(|op, out| op.frontier(append_us, out)).unwrap());
        runs = runs.max(runner.runs());
        if fed % 17 == 16 {
            runner.restore();
        }
    }
    take(runner.call(|op, out| op.end(out)).unwrap());
    let mut expected = Vec::new();
    let mut open: HashMap<Option<u64>, (i64, Vec<i64>)> = HashMap::new();
    let text = |k: Option<u64>| k.map(|k| format!("key {k}"));
    for row in &log {
        let (last, values) = open.entry(row.k).or_default();
        if !values.is_empty() && *last + TIMEOUT_US < row.append_us {
            expected.push((text(row.k), std::mem::take(values)));
        }
        *last = row.append_us;
        values.push(row.v);
    }
    expected.extend(open.into_iter().map(|(k, (_, values))| (text(k), values)));
    let mut got: Vec<_> = got.into_values().collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
    assert!(runs > 2, "{runs} runs");
    let disk = runner.disk.clone();
    assert_eq!(disk.list("spill").unwrap(), [], "nothing stays on disk");
}

#[test]
fn a_full_disk_and_a_damaged_run_end_the_query() {
    let makes: [(&str, fn(&Resources) -> Box<dyn Operator>, u64); 4] = [
        ("Dedup", |r| dedup(true, None, None, r), KEYS),
        ("Dedup", |r| dedup(true, Some(30_000), None, r), KEYS),
        ("Over", |r| over(true, r), KEYS),
        ("Lives", |r| lives(2_000, r), 500),
    ];
    for (name, make, keys) in makes {
        for full in [true, false] {
            let mut runner = Runner::new(if keys == KEYS { 700_000 } else { 300_000 }, make);
            if full {
                runner.disk.set_capacity_bytes(60_000);
            }
            let mut log = log(&Rng::seeded(5));
            log.iter_mut().for_each(|r| r.k = r.k.map(|k| k % keys));
            let mut failed = None;
            for (fed, rows) in log.chunks(BATCH_ROWS).enumerate() {
                if let Err(e) = runner.rows(batch(true, rows)) {
                    failed = Some(StreamError::from(e));
                    break;
                }
                for (path, bytes) in runner.disk.files() {
                    if !full && bytes > 0 {
                        runner.disk.flip_bit(&path, (bytes / 2 + fed as u64) % bytes, 3).unwrap();
                    }
                }
            }
            let e = failed.expect("there was no room, or what was read was damaged");
            assert_eq!(e.code, if full { Code::NotEnoughSpace } else { Code::CorruptedData }, "{e}");
            assert!(e.message.starts_with(name), "{e}");
        }
    }
}
