//! The same where changes are told, or rows are taken back: what was spilled comes back before it changes.

use super::{KEYS, Results, batch, operator, told};
use crate::op::aggregate::Aggregate;
use crate::operator::{InputId, OpError, Operator, Output};
use crate::resources::Resources;
use crate::state::StateWriter;
use crate::state::spill::SpillSpace;
use crate::workers::Workers;
use arrow_array::Int64Array;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weir_base::disk::{Disk, SimDisk};
use weir_base::{Code, MemoryBudget, Reservation, Rng};
use weir_plan::{Element, EmitPolicy, EmitSpec, Rows, StreamError};

const BATCH_ROWS: usize = 1_000;
const BATCHES: usize = 40;
const HISTORY: usize = 10;
const SECOND_US: i64 = 1_000_000;

type Key = Option<String>;

/// Rows that are there, by key.
#[derive(Default)]
struct Model(BTreeMap<Key, Vec<i64>>);

impl Model {
    fn result(&self, key: &Key) -> Option<super::Result> {
        let mut all = self.0.get(key).filter(|all| !all.is_empty())?.clone();
        all.sort_unstable();
        let (n, sum) = (all.len() as i64, all.iter().sum());
        all.dedup();
        Some((n, all[0], sum, all))
    }

    fn add(&mut self, key: Key, v: i64, weight: i64) {
        let of_key = self.0.entry(key.clone()).or_default();
        match weight {
            1 => of_key.push(v),
            _ => drop(of_key.swap_remove(of_key.iter().position(|x| *x == v).expect("it is there"))),
        }
        if of_key.is_empty() {
            self.0.remove(&key);
        }
    }

    fn results(&self) -> Results {
        self.0.keys().map(|k| (k.clone(), self.result(k).expect("it has rows"))).collect()
    }
}

struct Runner {
    disk: Arc<SimDisk>,
    resources: Resources,
    held: Reservation,
    op: Aggregate,
    text: bool,
    emit: EmitSpec,
    changelog: bool,
}

impl Runner {
    fn new(text: bool, threads: usize, emit: EmitSpec, changelog: bool, memory_bytes: u64) -> Self {
        let disk = Arc::new(SimDisk::new(1));
        let memory = MemoryBudget::root("query", memory_bytes);
        let mut resources = Resources::new(Workers::new(threads));
        (resources.divide_groups, resources.piece_rows, resources.tidy_groups) = (500, 512, 16);
        resources.spill = Some(SpillSpace::new(disk.clone(), "spill"));
        resources.memory = Some(memory.clone());
        let held = memory.reserve(0).unwrap();
        let op = operator(text, emit, changelog, &resources);
        Runner { disk, resources, held, op, text, emit, changelog }
    }

    /// One call, and all that leaves.
    fn call(
        &mut self,
        f: impl FnOnce(&mut Aggregate, &mut Output) -> Result<(), OpError>,
    ) -> Result<Vec<Rows>, OpError> {
        let mut out = Output::default();
        f(&mut self.op, &mut out)?;
        self.account()?;
        while self.op.unfinished() {
            self.op.go_on(&mut out)?;
            self.account()?;
        }
        let rows = out.elements.into_iter().filter_map(|e| match e {
            Element::Rows(rows) => Some(rows),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// As the task does after each call.
    fn account(&mut self) -> Result<(), OpError> {
        loop {
            let bytes = self.op.stats().state_bytes;
            self.held.shrink(self.held.bytes().saturating_sub(bytes));
            if self.held.grow(bytes.saturating_sub(self.held.bytes())).is_ok() {
                return Ok(());
            }
            let keys = self.op.stats().keys;
            assert!(self.op.spill()?, "{bytes} bytes of {keys} keys do not spill, {:?}", self.emit);
        }
    }

    fn rows(&mut self, rows: &[(Option<u64>, i64, i64)]) -> Result<Vec<Rows>, OpError> {
        let plain: Vec<(Option<u64>, i64)> = rows.iter().map(|(k, v, _)| (*k, *v)).collect();
        let weights = rows.iter().map(|(_, _, w)| *w).collect::<Int64Array>();
        let rows = Rows { batch: batch(self.text, &plain), weights: self.changelog.then_some(weights) };
        self.call(|op, out| op.rows(InputId(0), rows, out))
    }

    fn restore(&mut self) -> Result<(), OpError> {
        let mut saved = StateWriter::default();
        self.op.snapshot(&mut saved)?;
        self.resources.threads = self.resources.threads % 5 + 1;
        self.op = operator(self.text, self.emit, self.changelog, &self.resources);
        self.held.shrink(u64::MAX);
        self.op.restore(&saved.finish())?;
        self.account()
    }

    fn runs(&self) -> usize {
        self.disk.list("spill").map_or(0, |files| files.len())
    }
}

/// What a client holds.
fn fold(held: &mut Results, rows: &[Rows], whole: bool) {
    if whole && !rows.is_empty() {
        held.clear();
    }
    for rows in rows {
        for (i, (key, result)) in told(&rows.batch).into_iter().enumerate() {
            match rows.weights.as_ref().map(|w| w.value(i)) {
                None => drop(held.insert(key, result)),
                Some(1) => assert!(held.insert(key, result).is_none(), "the old row is taken back first"),
                Some(_) => assert_eq!(held.remove(&key), Some(result), "what is taken back was given"),
            }
        }
    }
}

fn check(text: bool, threads: usize, emit: EmitSpec, changelog: bool) {
    let at = format!("{emit:?}, text {text}, changelog {changelog}, {threads} threads");
    let rng = Rng::seeded(threads as u64);
    let mut runner = Runner::new(text, threads, emit, changelog, 1_000_000);
    let (mut model, mut held) = (Model::default(), Results::new());
    let mut there: Vec<(Option<u64>, i64)> = Vec::new();
    let whole = !emit.changelog && matches!(emit.policy, EmitPolicy::Periodic { .. });
    let mut runs = 0;
    for fed in 0..BATCHES {
        let (mut rows, mut changed, mut each) = (Vec::new(), BTreeSet::new(), Vec::new());
        for _ in 0..BATCH_ROWS {
            let gone = changelog && !there.is_empty() && rng.below(20) < if fed > 24 { 13 } else { 6 };
            let (k, v) = match gone {
                true => there.swap_remove(rng.below(there.len() as u64) as usize),
                false => (Some(rng.below(KEYS)).filter(|k| k % 101 != 7), rng.below(6) as i64 - 3),
            };
            if !gone {
                there.push((k, v));
            }
            let key = k.map(|k| if text { format!("key {k}") } else { k.to_string() });
            let weight = if gone { -1 } else { 1 };
            rows.push((k, v, weight));
            model.add(key.clone(), v, weight);
            if emit.policy == EmitPolicy::PerEvent {
                each.push((key.clone(), model.result(&key).expect("rows only come")));
            }
            changed.insert(key);
        }
        let out = runner.rows(&rows).unwrap();
        runs = runs.max(runner.runs());
        fold(&mut held, &out, whole);
        if fed >= HISTORY && emit.policy == EmitPolicy::PerEvent {
            let all: Vec<_> = out.iter().flat_map(|r| told(&r.batch)).collect();
            assert_eq!(all, each, "{at}");
        }
        if fed >= HISTORY
            && emit == (EmitSpec { policy: EmitPolicy::OnUpdate { every_us: None }, changelog: false })
        {
            let all: Results = out.iter().flat_map(|r| told(&r.batch)).collect();
            let expected = changed.into_iter().filter_map(|k| Some((k.clone(), model.result(&k)?)));
            assert_eq!(all, expected.collect(), "{at}");
        }
        if fed + 1 == HISTORY {
            let out = runner.call(|op, out| op.end_of_backfill(out)).unwrap();
            fold(&mut held, &out, whole);
            assert_eq!(held, model.results(), "after history, {at}");
        }
        if fed >= HISTORY && fed % 3 == 0 {
            let out = runner.call(|op, out| op.tick(fed as i64 * SECOND_US, out)).unwrap();
            fold(&mut held, &out, whole);
        }
        // Elsewhere it is about so many.
        if !changelog && !whole && fed >= HISTORY {
            assert_eq!(runner.op.stats().keys, model.0.len() as u64, "{at}");
        }
        if fed % 13 == 12 {
            runner.restore().unwrap();
        }
    }
    let out = runner.call(|op, out| op.tick(1_000 * SECOND_US, out)).unwrap();
    fold(&mut held, &out, whole);
    assert!(runs > 3, "{runs} runs at a time, {at}");
    held.retain(|k, _| emit.changelog || model.0.contains_key(k));
    assert!(held == model.results(), "{at}");
    let disk = runner.disk.clone();
    drop(runner);
    assert_eq!(disk.list("spill").unwrap(), [], "nothing stays on disk");
}

fn emits() -> Vec<EmitSpec> {
    let spec = |policy, changelog| EmitSpec { policy, changelog };
    vec![
        spec(EmitPolicy::OnUpdate { every_us: None }, false),
        spec(EmitPolicy::OnUpdate { every_us: Some(SECOND_US) }, false),
        spec(EmitPolicy::Periodic { every_us: SECOND_US, repeat: false }, false),
        spec(EmitPolicy::OnUpdate { every_us: None }, true),
        spec(EmitPolicy::Periodic { every_us: SECOND_US, repeat: false }, true),
    ]
}

#[test]
fn what_was_spilled_changes_as_if_it_had_not_been() {
    for (i, emit) in emits().into_iter().enumerate() {
        check(i % 2 == 0, [1, 2, 5][i % 3], emit, false);
    }
    check(true, 2, EmitSpec { policy: EmitPolicy::PerEvent, changelog: false }, false);
}

#[test]
fn rows_are_taken_back_from_what_was_spilled() {
    for (i, emit) in emits().into_iter().enumerate() {
        check(i % 2 == 1, [5, 1, 2][i % 3], emit, true);
    }
}

#[test]
fn groups_that_no_row_is_left_of_leave_memory_and_disk() {
    let emit = EmitSpec { policy: EmitPolicy::OnUpdate { every_us: None }, changelog: false };
    for memory_bytes in [1 << 30, 1_000_000] {
        let mut runner = Runner::new(false, 2, emit, true, memory_bytes);
        runner.call(|op, out| op.end_of_backfill(out)).unwrap();
        let (mut most, mut runs) = (0, 0);
        // Keys come and go, never more than a few thousand at a time.
        for round in 0..60u64 {
            let keys = |round: u64| round * 1_000..(round + 1) * 1_000;
            let come: Vec<_> = keys(round).map(|k| (Some(k), 1, 1)).collect();
            runner.rows(&come).unwrap();
            if let Some(old) = round.checked_sub(5) {
                let gone: Vec<_> = keys(old).map(|k| (Some(k), 1, -1)).collect();
                assert!(runner.rows(&gone).unwrap().is_empty(), "what is gone is not told of");
            }
            most = most.max(runner.op.stats().keys);
            runs = runs.max(runner.runs());
        }
        assert!(most < 20_000, "{most} keys of 5000");
        assert_eq!(runs > 0, memory_bytes < 1 << 30);
        let bytes: u64 = runner.disk.list("spill").map_or(0, |all| all.iter().map(|f| f.len_bytes).sum());
        assert!(bytes < 3_000_000, "{bytes} bytes on disk of 5000 keys");
    }
}

#[test]
fn a_full_disk_ends_the_query_and_says_so() {
    for emit in emits() {
        let mut runner = Runner::new(false, 1, emit, false, 1_000_000);
        runner.disk.set_capacity_bytes(400_000);
        runner.call(|op, out| op.end_of_backfill(out)).unwrap();
        let rng = Rng::seeded(5);
        let mut failed = None;
        for _ in 0..60 {
            let rows: Vec<_> = (0..BATCH_ROWS).map(|_| (Some(rng.below(KEYS)), 1, 1)).collect();
            if let Err(e) = runner.rows(&rows) {
                failed = Some(StreamError::from(e));
                break;
            }
        }
        let e = failed.expect("the disk is full");
        assert_eq!(e.code, Code::NotEnoughSpace, "{e}");
        assert!(e.message.starts_with("Aggregate could not"), "{e}");
        assert!(e.message.ends_with("make room there or raise max_memory_usage"), "{e}");
    }
}

#[test]
fn a_damaged_run_ends_the_query() {
    for emit in emits() {
        let mut runner = Runner::new(false, 1, emit, false, 1_000_000);
        runner.call(|op, out| op.end_of_backfill(out)).unwrap();
        let mut failed = None;
        for round in 0..60 {
            let rows: Vec<_> = (0..2_000).map(|k| (Some(k * 7 + round % 7), 1, 1)).collect();
            let done = runner.rows(&rows).and_then(|mut out| {
                out.extend(runner.call(|op, out| op.tick(round as i64 * SECOND_US, out))?);
                Ok(out)
            });
            match done {
                Ok(out) => {
                    let right = |r: &Rows| told(&r.batch).iter().all(|(_, (n, _, sum, _))| n == sum);
                    assert!(out.iter().all(right));
                }
                Err(e) => {
                    failed = Some(StreamError::from(e));
                    break;
                }
            }
            for (path, bytes) in runner.disk.files() {
                if bytes > 0 {
                    runner.disk.flip_bit(&path, (bytes / 2 + round) % bytes, 3).unwrap();
                }
            }
        }
        let e = failed.expect("a block is damaged");
        assert_eq!(e.code, Code::CorruptedData, "{e}");
    }
}
