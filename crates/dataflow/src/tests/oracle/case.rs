//! What is generated: a log, a window, keys, a policy.

use weir_base::Rng;
use weir_plan::{CalendarUnit, Span, WindowKind, WindowSpec};

pub const MS: i64 = 1_000_000;

/// A row of a log. Its place in the log is its place in the list.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    pub append_us: i64,
    pub shard: i32,
    pub sn: i64,
    pub time_ms: i64,
    pub k: Option<i64>,
    pub s: Option<String>,
    pub v: Option<i64>,
    pub f: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    None,
    Int,
    Text,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmitKind {
    /// The default of the plan's kind.
    Default,
    Periodic,
    OnUpdate,
    OnUpdateEvery,
    /// Global only.
    Changelog,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub shards: usize,
    pub log: Vec<LogRow>,
    pub window: Option<WindowSpec>,
    pub key: KeyKind,
    pub emit: EmitKind,
    pub delay_ns: i64,
    pub idle_timeout_us: i64,
    pub future_max_ns: i64,
    /// No row is behind the rows before it by more than the delay.
    pub never_late: bool,
}

fn pick<T: Copy>(rng: &Rng, all: &[T]) -> T {
    all[rng.below(all.len() as u64) as usize]
}

impl Case {
    pub fn generate(rng: &Rng) -> Case {
        let shards = pick(rng, &[1usize, 1, 2, 3, 5]);
        let span = |rng: &Rng| Span::Fixed(pick(rng, &[7i64, 100, 1_000, 5_000]) * MS);
        let window = match rng.below(8) {
            0 | 1 => None,
            2..=4 => Some(WindowKind::Tumble { size: span(rng) }),
            5 | 6 => {
                let slide = pick(rng, &[100i64, 300]) * MS;
                Some(WindowKind::Hop {
                    slide: Span::Fixed(slide),
                    size: Span::Fixed(slide + pick(rng, &[0i64, 1, 250, 900]) * MS),
                })
            }
            _ => Some(WindowKind::Tumble { size: Span::Calendar(CalendarUnit::Day, 1) }),
        };
        let zone = pick(rng, &[chrono_tz::Tz::UTC, chrono_tz::Tz::Europe__Berlin]);
        let window = window.map(|kind| WindowSpec { kind, zone });
        let emits = match window {
            None => vec![
                EmitKind::Default,
                EmitKind::Periodic,
                EmitKind::OnUpdate,
                EmitKind::OnUpdateEvery,
                EmitKind::Changelog,
            ],
            Some(_) => {
                vec![EmitKind::Default, EmitKind::Default, EmitKind::Periodic, EmitKind::OnUpdate]
            }
        };
        let never_late = rng.below(3) == 0;
        let delay_ms = pick(rng, &[0i64, 0, 50, 2_000]);
        let log = Self::log(rng, shards, delay_ms, never_late);
        Case {
            shards,
            log,
            window,
            key: pick(rng, &[KeyKind::None, KeyKind::Int, KeyKind::Int, KeyKind::Text, KeyKind::Both]),
            emit: pick(rng, &emits),
            delay_ns: delay_ms * MS,
            idle_timeout_us: pick(rng, &[500_000i64, 5_000_000]),
            future_max_ns: pick(rng, &[0, 20_000 * MS]),
            never_late,
        }
    }

    fn log(rng: &Rng, shards: usize, delay_ms: i64, never_late: bool) -> Vec<LogRow> {
        let rows = rng.below(pick(rng, &[5, 60, 300])) as usize + 1;
        // Around a change of the clocks in Berlin, so that calendar windows have something to do.
        let base_ms = 1_774_742_400_000 + rng.below(100_000_000) as i64;
        let (mut append_us, mut greatest) = (base_ms * 1_000, base_ms);
        let keys = pick(rng, &[1u64, 3, 40]);
        let step = pick(rng, &[1u64, 10, 400]);
        let skewed = rng.below(3) == 0;
        let mut sns = vec![0i64; shards];
        let mut shard = 0;
        let mut lags = vec![0i64; shards];
        if skewed && !never_late {
            lags.iter_mut().for_each(|l| *l = rng.below(3_000) as i64);
        }
        (0..rows)
            .map(|_| {
                // Ties in append time, now and then a silence.
                append_us += match rng.below(20) {
                    0..=8 => 0,
                    9..=18 => rng.below(30_000) as i64,
                    _ => rng.below(9_000_000) as i64,
                };
                // Records of several rows: the shard stays for a while. Some shards fall silent.
                if rng.below(4) == 0 {
                    shard = (rng.f64() * rng.f64() * shards as f64) as usize;
                }
                greatest += match rng.below(12) {
                    0 => 0,
                    11 => rng.below(20 * step) as i64,
                    _ => rng.below(step) as i64,
                };
                let behind = if never_late {
                    rng.below(delay_ms as u64 + 1) as i64
                } else {
                    match rng.below(4) {
                        0 => rng.below(4_000) as i64,
                        1 => rng.below(200) as i64,
                        _ => 0,
                    }
                };
                let mut time_ms = greatest - behind - lags[shard];
                if !never_late && rng.below(60) == 0 {
                    time_ms = append_us / 1_000 + rng.below(200_000) as i64;
                }
                if never_late {
                    // Behind the greatest there has been, not behind the clock that made it.
                    time_ms = time_ms.max(greatest - delay_ms);
                }
                let k = Some(rng.below(keys) as i64 - 1).filter(|_| rng.below(15) > 0);
                let s = Some(format!("s{}", rng.below(keys))).filter(|_| rng.below(15) > 0);
                let v = Some(rng.below(1_000) as i64 - 500).filter(|_| rng.below(8) > 0);
                sns[shard] += 1;
                LogRow {
                    append_us,
                    shard: shard as i32,
                    sn: sns[shard] - 1,
                    time_ms,
                    k,
                    s,
                    v,
                    f: rng.below(4_000) as f64 / 8.0 - 100.0,
                }
            })
            .scan((i64::MIN, 0i32), |last, row| {
                // At one append time the log's order is by shard.
                let mut row = row;
                if row.append_us == last.0 && row.shard < last.1 {
                    row.append_us += 1;
                }
                if row.append_us < last.0 {
                    row.append_us = last.0 + i64::from(row.shard < last.1);
                }
                *last = (row.append_us, row.shard);
                Some(row)
            })
            .collect()
    }

    /// The same rows in the same order over so many shards.
    pub fn over_shards(&self, shards: usize) -> Vec<LogRow> {
        let mut sns = vec![0i64; shards];
        let mut log: Vec<LogRow> = Vec::new();
        for (i, row) in self.log.iter().enumerate() {
            let shard = (i * 7 / 3) % shards;
            let mut row = LogRow { shard: shard as i32, sn: sns[shard], ..row.clone() };
            sns[shard] += 1;
            if let Some(last) = log.last() {
                let behind = row.append_us < last.append_us
                    || row.append_us == last.append_us && row.shard < last.shard;
                if behind {
                    row.append_us = last.append_us + i64::from(row.shard < last.shard);
                }
            }
            log.push(row);
        }
        log
    }
}
