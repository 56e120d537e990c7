//! What is generated: a log of rows with weights, and what is asked of it.

use weir_base::Rng;

/// A row of a log. Its place in the log is its place in the list.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    pub shard: i32,
    pub sn: i64,
    /// Of a row that takes back its own, not that of the row it takes back.
    pub time_ms: i64,
    pub k: Option<i64>,
    pub s: Option<String>,
    pub v: Option<i64>,
    pub f: f64,
    pub weight: i8,
}

impl LogRow {
    /// Rows are the same that have the same columns.
    pub fn same(&self, other: &LogRow) -> bool {
        (self.shard, self.k, &self.s, self.v, self.f.to_bits())
            == (other.shard, other.k, &other.s, other.v, other.f.to_bits())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    None,
    Int,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    Periodic,
    OnUpdate,
    OnUpdateEvery,
    Changelog,
    ChangelogPeriodic,
}

/// How rows become a changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// They have weights.
    Weighted,
    /// The newest of each key counts; by its time where late rows are dropped.
    Keyed { drop_late: bool },
}

#[derive(Debug, Clone)]
pub struct Case {
    pub rows: Rows,
    pub log: Vec<LogRow>,
    pub key: Key,
    pub emit: Emit,
    /// Aggregations over each other.
    pub depth: usize,
}

fn pick<T: Copy>(rng: &Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize]
}

impl Case {
    pub fn generate(rng: &Rng) -> Case {
        let emits =
            [Emit::Periodic, Emit::OnUpdate, Emit::OnUpdateEvery, Emit::Changelog, Emit::ChangelogPeriodic];
        let keyed = Rows::Keyed { drop_late: rng.below(2) == 0 };
        Case {
            rows: if rng.below(3) == 0 { keyed } else { Rows::Weighted },
            log: log(rng),
            key: pick(rng, &[Key::None, Key::Int, Key::Int, Key::Both]),
            emit: pick(rng, &emits),
            depth: pick(rng, &[1, 1, 2, 3]),
        }
    }
}

fn log(rng: &Rng) -> Vec<LogRow> {
    let rows = rng.below(pick(rng, &[6, 60, 300])) as usize + 1;
    let shards = pick(rng, &[1usize, 2, 3]);
    let keys = pick(rng, &[1u64, 3, 40]);
    let values = pick(rng, &[3u64, 1_000]);
    // How often a step takes something back; in some cases all goes in the end.
    let removals = pick(rng, &[2u64, 5, 9]);
    let all_goes = rng.below(6) == 0;
    let mut sns = vec![0i64; shards];
    let mut living: Vec<LogRow> = Vec::new();
    let mut log: Vec<LogRow> = Vec::new();
    let mut clock = 1_700_000_000_000;
    let mut push = |mut row: LogRow, weight: i8, living: &mut Vec<LogRow>| {
        clock += rng.below(50) as i64;
        row.time_ms = clock - rng.below(400) as i64;
        row.sn = sns[row.shard as usize];
        row.weight = weight;
        sns[row.shard as usize] += 1;
        if weight > 0 {
            living.extend(std::iter::repeat_n(row.clone(), weight as usize));
        } else {
            for _ in 0..-weight {
                let at = living.iter().position(|l| l.same(&row)).expect("it is there");
                living.remove(at);
            }
        }
        log.push(row);
    };
    let fresh = |shard: i32| LogRow {
        shard,
        sn: 0,
        time_ms: 0,
        k: Some(rng.below(keys) as i64 - 1).filter(|_| rng.below(15) > 0),
        s: Some(format!("s{}", rng.below(keys))).filter(|_| rng.below(15) > 0),
        v: Some(rng.below(values) as i64 - 500).filter(|_| rng.below(8) > 0),
        f: rng.below(4 * values) as f64 / 8.0 - 100.0,
        weight: 0,
    };
    for _ in 0..rows {
        let shard = rng.below(shards as u64) as i32;
        let old = match living.len() {
            0 => None,
            n => Some(living[rng.below(n as u64) as usize].clone()),
        };
        match old {
            // Gone.
            Some(old) if rng.below(10) < removals => {
                let there = living.iter().filter(|l| l.same(&old)).count();
                let weight = 1 + rng.below(there.min(3) as u64) as i8;
                push(old, -weight, &mut living);
            }
            // Changed, in the same shard.
            Some(old) if rng.below(3) == 0 => {
                let mut new = fresh(old.shard);
                if rng.below(2) == 0 {
                    (new.k, new.s) = (old.k, old.s.clone());
                }
                push(old, -1, &mut living);
                push(new, 1, &mut living);
            }
            // Once more.
            Some(old) if rng.below(6) == 0 => push(old, 1 + rng.below(2) as i8, &mut living),
            _ => {
                let weight = if rng.below(8) == 0 { 1 + rng.below(4) as i8 } else { 1 };
                push(fresh(shard), weight, &mut living);
            }
        }
    }
    if all_goes {
        while let Some(last) = living.last().cloned() {
            push(last, -1, &mut living);
        }
    }
    log
}
