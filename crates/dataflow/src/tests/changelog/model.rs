//! The naive model: the rows there are in the end, and every result computed from their list.

use super::case::{Case, Key, LogRow, Rows};
use std::collections::{BTreeMap, BTreeSet};

/// Key and results, as text.
pub type FinalRow = (String, Vec<String>);

/// Rows that were not taken back; of equal ones the oldest goes first.
pub fn living(log: &[LogRow]) -> Vec<LogRow> {
    let mut all: Vec<LogRow> = Vec::new();
    for row in log {
        if row.weight > 0 {
            all.extend(std::iter::repeat_n(row.clone(), row.weight as usize));
        } else {
            for _ in 0..-row.weight {
                let at = all.iter().position(|l| l.same(row)).expect("generated so");
                all.remove(at);
            }
        }
    }
    all
}

/// The newest row of each key.
fn newest(log: &[LogRow], drop_late: bool) -> Vec<LogRow> {
    let mut all: BTreeMap<Option<i64>, LogRow> = BTreeMap::new();
    for row in log {
        let late = all.get(&row.k).is_some_and(|held| row.time_ms < held.time_ms);
        if !(drop_late && late) {
            all.insert(row.k, row.clone());
        }
    }
    all.into_values().collect()
}

pub fn text<T: ToString>(v: Option<T>) -> String {
    v.map_or("NULL".into(), |v| v.to_string())
}

pub fn rounded(v: Option<f64>) -> String {
    v.map_or("NULL".into(), |v| format!("{:.6}", v + 0.0))
}

fn list(all: &[String]) -> String {
    if all.is_empty() { "NULL".into() } else { format!("[{}]", all.join(", ")) }
}

fn quantile(values: &[f64], level: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = values[(level * last as f64).floor() as usize];
    Some(weir_sketch::bins::value(weir_sketch::bins::bin(at)))
}

/// In the order of `plan::of_rows`.
fn of_rows(rows: &[LogRow]) -> Vec<String> {
    let mut rows: Vec<&LogRow> = rows.iter().collect();
    rows.sort_by_key(|r| (r.time_ms, r.shard, r.sn));
    let values: Vec<i64> = rows.iter().filter_map(|r| r.v).collect();
    let floats: Vec<f64> = rows.iter().map(|r| r.f).collect();
    let even: Vec<&&LogRow> = rows.iter().filter(|r| r.v.is_some_and(|v| v % 2 == 0)).collect();
    let distinct: BTreeSet<i64> = values.iter().copied().collect();
    let n = values.len() as f64;
    let mean = |n: f64| values.iter().sum::<i64>() as f64 / n;
    let squares = |n: f64| values.iter().map(|v| (*v as f64 - mean(n)).powi(2)).sum::<f64>();
    let some = !values.is_empty();
    let mut by_f: Vec<&LogRow> = rows.clone();
    by_f.sort_by(|a, b| a.f.total_cmp(&b.f));
    let greatest_f: Option<&LogRow> =
        by_f.last().and_then(|last| by_f.iter().find(|r| r.f == last.f)).copied();
    let texts = |v: &[i64]| v.iter().map(i64::to_string).collect::<Vec<_>>();
    vec![
        rows.len().to_string(),
        values.len().to_string(),
        text(some.then(|| values.iter().sum::<i64>())),
        rounded(some.then(|| mean(n))),
        text(values.iter().min()),
        text(values.iter().max()),
        text(floats.iter().copied().reduce(f64::min)),
        text(even.iter().map(|r| r.f).reduce(f64::max)),
        even.len().to_string(),
        text(values.first()),
        rows.last().map_or("NULL".into(), |r| text(r.s.as_ref())),
        by_f.first().map_or("NULL".into(), |r| text(r.v)),
        greatest_f.map_or("NULL".into(), |r| text(r.v)),
        distinct.len().to_string(),
        rounded(some.then(|| squares(n) / n)),
        rounded((values.len() > 1).then(|| (squares(n) / (n - 1.0)).sqrt())),
        list(&texts(&values)),
        list(&texts(&distinct.into_iter().collect::<Vec<_>>())),
        text(rows.iter().filter_map(|r| r.s.clone()).min()),
        rounded((!floats.is_empty()).then(|| floats.iter().sum::<f64>())),
        rounded(quantile(&floats, 0.9)),
        text(some.then(|| values.iter().fold(0, |x, v| x ^ v))),
    ]
}

/// A row of the inner aggregation: key, then number, sum, greatest.
#[derive(Debug, Clone)]
struct Inner {
    k: Option<i64>,
    n: i64,
    sum: Option<i64>,
    max: Option<i64>,
}

fn inner(rows: &[LogRow]) -> Vec<Inner> {
    let mut groups: BTreeMap<(Option<i64>, Option<String>), Vec<&LogRow>> = BTreeMap::new();
    for row in rows {
        groups.entry((row.k, row.s.clone())).or_default().push(row);
    }
    groups
        .into_iter()
        .map(|((k, _), rows)| {
            let values: Vec<i64> = rows.iter().filter_map(|r| r.v).collect();
            Inner {
                k,
                n: rows.len() as i64,
                sum: (!values.is_empty()).then(|| values.iter().sum()),
                max: values.iter().max().copied(),
            }
        })
        .collect()
}

/// In the order of `plan::of_results`.
fn of_results(rows: &[Inner]) -> Vec<String> {
    let sums: Vec<i64> = rows.iter().filter_map(|r| r.sum).collect();
    let mut sorted = sums.clone();
    sorted.sort_unstable();
    let distinct: BTreeSet<i64> = rows.iter().map(|r| r.n).collect();
    let most = rows.iter().map(|r| r.n).max();
    // No row has a place: of equal ones the least value counts, NULL before any.
    let chosen = most.and_then(|n| rows.iter().filter(|r| r.n == n).map(|r| r.max).min());
    vec![
        rows.len().to_string(),
        rows.iter().map(|r| r.n).sum::<i64>().to_string(),
        text(sums.iter().max()),
        text(rows.iter().filter_map(|r| r.max).min()),
        distinct.len().to_string(),
        list(&sorted.iter().map(i64::to_string).collect::<Vec<_>>()),
        text(chosen.flatten()),
    ]
}

/// The result set in the end, sorted.
pub fn expected(case: &Case) -> Vec<FinalRow> {
    let rows = match case.rows {
        Rows::Weighted => living(&case.log),
        Rows::Keyed { drop_late } => newest(&case.log, drop_late),
    };
    if case.depth == 1 {
        let key = |r: &LogRow| match case.key {
            Key::None => String::new(),
            Key::Int => text(r.k),
            Key::Both => format!("{},{}", text(r.k), text(r.s.as_ref())),
        };
        let mut groups: BTreeMap<String, Vec<LogRow>> = BTreeMap::new();
        if case.key == Key::None {
            groups.insert(String::new(), Vec::new());
        }
        rows.iter().for_each(|r| groups.entry(key(r)).or_default().push(r.clone()));
        groups.into_iter().map(|(k, rows)| (k, of_rows(&rows))).collect()
    } else {
        let inner = inner(&rows);
        let mut groups: BTreeMap<String, Vec<Inner>> = BTreeMap::new();
        if case.key == Key::None {
            groups.insert(String::new(), Vec::new());
        }
        let key = |r: &Inner| if case.key == Key::None { String::new() } else { text(r.k) };
        inner.iter().for_each(|r| groups.entry(key(r)).or_default().push(r.clone()));
        let results: Vec<FinalRow> = groups
            .into_iter()
            .map(|(k, rows)| (k, if rows.is_empty() { none() } else { of_results(&rows) }))
            .collect();
        if case.depth == 2 {
            results
        } else {
            // Number of result rows, and of inner rows in all.
            let total = (!results.is_empty()).then_some(inner.len());
            vec![(String::new(), vec![results.len().to_string(), text(total)])]
        }
    }
}

/// Without a row a sum is NULL, here where nothing above makes it 0.
fn none() -> Vec<String> {
    let mut all = of_results(&[]);
    all[1] = "NULL".into();
    all
}
