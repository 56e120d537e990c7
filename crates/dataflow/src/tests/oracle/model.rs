//! The naive model: judges every row by looking at all rows before it, and computes every window
//! from the list of its rows. Written from the rules, not from the operators.

use super::case::{Case, KeyKind, LogRow, MS};
use std::collections::BTreeMap;

/// A final row: bounds of its window, key, results as text.
pub type FinalRow = (i64, i64, String, Vec<String>);

#[derive(Debug, PartialEq)]
pub struct Expected {
    /// Sorted.
    pub rows: Vec<FinalRow>,
    pub late_rows: u64,
    /// Times a shard began or went on after having been idle.
    pub woken: usize,
}

/// What moves a shard's watermark: not rows too far in the future.
fn moves(case: &Case, row: &LogRow) -> bool {
    case.future_max_ns == 0 || row.time_ms * MS <= row.append_us * 1_000 + case.future_max_ns
}

/// The watermark each row is judged by.
pub fn judge(case: &Case, log: &[LogRow]) -> (Vec<i64>, usize) {
    let timeout = case.idle_timeout_us;
    let shards: Vec<i32> = {
        let mut all: Vec<i32> = log.iter().map(|r| r.shard).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let mut floors: BTreeMap<i32, i64> = BTreeMap::new();
    let mut judged = Vec::new();
    let mut woken = 0;
    // The query's watermark so far; looked at anew at every moment at which it can change.
    let mut query = i64::MIN;
    for i in 0..log.len() {
        let row = &log[i];
        // A shard's own watermark after the rows before i.
        let own = |shard: i32, floors: &BTreeMap<i32, i64>| {
            let rows = log[..i].iter().filter(|r| r.shard == shard && moves(case, r));
            let greatest = rows.map(|r| r.time_ms * MS - case.delay_ns).max().unwrap_or(i64::MIN);
            greatest.max(floors.get(&shard).copied().unwrap_or(i64::MIN))
        };
        let last = |shard: i32| log[..i].iter().rev().find(|r| r.shard == shard).map(|r| r.append_us);
        let active = |shard: i32, at: i64| last(shard).is_some_and(|l| l > at - timeout);
        let least = |at: i64, floors: &BTreeMap<i32, i64>| {
            shards.iter().filter(|s| active(**s, at)).map(|s| own(*s, floors)).min().unwrap_or(i64::MIN)
        };
        // Moments since the last row: that of the last row, then each at which a shard falls idle.
        let mut moments: Vec<i64> = shards.iter().filter_map(|s| last(*s)).map(|l| l + timeout).collect();
        moments.extend(i.checked_sub(1).map(|p| log[p].append_us));
        moments.retain(|m| *m < row.append_us && i.checked_sub(1).is_none_or(|p| *m >= log[p].append_us));
        moments.sort_unstable();
        for at in moments {
            query = query.max(least(at, &floors));
        }
        // At the moment of the row itself shards that fall idle just now still count.
        let just_before = shards
            .iter()
            .filter(|s| last(**s).is_some_and(|l| l + timeout >= row.append_us))
            .map(|s| own(*s, &floors))
            .min();
        query = query.max(just_before.unwrap_or(i64::MIN));
        if last(row.shard).is_none_or(|l| l + timeout < row.append_us) {
            woken += 1;
            let floor = floors.entry(row.shard).or_insert(i64::MIN);
            *floor = (*floor).max(query);
        }
        judged.push(own(row.shard, &floors));
    }
    (judged, woken)
}

fn key_of(case: &Case, row: &LogRow) -> String {
    let k = row.k.map_or("NULL".to_owned(), |k| k.to_string());
    let s = row.s.clone().unwrap_or("NULL".into());
    match case.key {
        KeyKind::None => String::new(),
        KeyKind::Int => k,
        KeyKind::Text => s,
        KeyKind::Both => format!("{k},{s}"),
    }
}

fn text<T: ToString>(v: Option<T>) -> String {
    v.map_or("NULL".into(), |v| v.to_string())
}

/// The results of rows, in the order of the plan in `run`.
fn results(rows: &[&LogRow]) -> Vec<String> {
    let mut rows: Vec<&LogRow> = rows.to_vec();
    rows.sort_by_key(|r| (r.time_ms, r.shard, r.sn));
    let values: Vec<i64> = rows.iter().filter_map(|r| r.v).collect();
    let even: Vec<f64> = rows.iter().filter(|r| r.v.is_some_and(|v| v % 2 == 0)).map(|r| r.f).collect();
    let distinct: std::collections::BTreeSet<i64> = values.iter().copied().collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<i64>() as f64 / n;
    let variance = values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n;
    let by_f = |best: Option<&&LogRow>| best.map(|r| text(r.v)).unwrap_or("NULL".into());
    let rounded = |f: f64| format!("{:.6}", f + 0.0);
    let mut least_f: Vec<&LogRow> = rows.clone();
    least_f.sort_by(|a, b| a.f.total_cmp(&b.f));
    vec![
        rows.len().to_string(),
        values.len().to_string(),
        text((!values.is_empty()).then(|| values.iter().sum::<i64>())),
        if values.is_empty() { "NULL".into() } else { rounded(mean) },
        text(values.iter().min()),
        text(values.iter().max()),
        text(rows.iter().map(|r| r.f).reduce(f64::min)),
        text(even.iter().copied().reduce(f64::max)),
        even.len().to_string(),
        text(values.first()),
        rows.last().map(|r| text(r.s.as_ref())).unwrap_or("NULL".into()),
        by_f(least_f.first()),
        distinct.len().to_string(),
        distinct.len().to_string(),
        if values.is_empty() { "NULL".into() } else { rounded(variance) },
        if values.is_empty() {
            "NULL".into()
        } else {
            format!("[{}]", values.iter().map(i64::to_string).collect::<Vec<_>>().join(", "))
        },
        text(rows.iter().filter_map(|r| r.s.clone()).min()),
    ]
}

fn windows_of(case: &Case, time_ms: i64) -> Vec<(i64, i64)> {
    let Some(window) = &case.window else { return vec![(0, 0)] };
    let mut all = Vec::new();
    window.windows_of(time_ms * MS, |s, e| all.push((s, e)));
    all
}

fn grouped(case: &Case, log: &[LogRow], judged: Option<&[i64]>) -> Expected {
    let mut groups: BTreeMap<(i64, i64, String), Vec<&LogRow>> = BTreeMap::new();
    let mut late_rows = 0;
    for (i, row) in log.iter().enumerate() {
        let mut late = false;
        for (start, end) in windows_of(case, row.time_ms) {
            if case.window.is_some() && judged.is_some_and(|j| j[i] >= end) {
                late = true;
            } else {
                groups.entry((start, end, key_of(case, row))).or_default().push(row);
            }
        }
        late_rows += u64::from(late);
    }
    let mut rows: Vec<FinalRow> =
        groups.into_iter().map(|((start, end, key), rows)| (start, end, key, results(&rows))).collect();
    rows.sort();
    Expected { rows, late_rows, woken: 0 }
}

/// What every way of running the case's log must give in the end.
pub fn expected(case: &Case) -> Expected {
    let (judged, woken) = judge(case, &case.log);
    Expected { woken, ..grouped(case, &case.log, Some(&judged)) }
}

/// The bounded query: no row is late.
pub fn bounded(case: &Case, log: &[LogRow]) -> Vec<FinalRow> {
    grouped(case, log, None).rows
}
