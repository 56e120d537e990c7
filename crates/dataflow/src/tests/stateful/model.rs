//! What a case gives, row by row, from the rules alone: no batches, no state but the rows themselves.

use super::{Case, Kind, LogRow, functions};
use datafusion_common::ScalarValue;
use weir_plan::OverKind;

fn text<T: ToString>(v: Option<T>) -> String {
    v.map_or_else(|| "NULL".into(), |v| v.to_string())
}

fn column(row: &LogRow, name: &str) -> String {
    match name {
        "k" => text(row.k),
        "s" => text(row.s.as_ref()),
        "v" => text(row.v),
        "f" => text(Some(row.f)),
        "even" => text(row.even()),
        other => panic!("column {other}"),
    }
}

fn own(row: &LogRow) -> Vec<String> {
    ["k", "s", "v", "f", "even"].iter().map(|c| column(row, c)).collect()
}

fn key(case: &Case, row: &LogRow) -> Vec<String> {
    case.keys.iter().map(|k| column(row, k)).collect()
}

pub fn expected(case: &Case) -> Vec<Vec<String>> {
    match case.kind {
        Kind::Over => (0..case.log.len())
            .map(|i| {
                let of = key(case, &case.log[i]);
                let so_far: Vec<&LogRow> = case.log[..=i].iter().filter(|r| key(case, r) == of).collect();
                let all = functions();
                let values = all.iter().map(|(kind, arg, even, _)| value(kind, *arg, *even, &so_far));
                own(&case.log[i]).into_iter().chain(values).collect()
            })
            .collect(),
        Kind::Dedup { ttl_us, keys_max } => {
            // Keys that are remembered, oldest first.
            let mut known: Vec<(Vec<String>, i64)> = Vec::new();
            let mut out = Vec::new();
            for row in &case.log {
                known.retain(|(_, came)| ttl_us.is_none_or(|ttl| row.append_us - came < ttl));
                let key = key(case, row);
                if known.iter().any(|(k, _)| *k == key) {
                    continue;
                }
                if keys_max.is_some_and(|max| known.len() as u64 >= max) {
                    known.remove(0);
                }
                known.push((key, row.append_us));
                out.push(own(row));
            }
            out
        }
    }
}

/// What a function gives for the last of the rows of its partition so far.
fn value(kind: &OverKind, arg: Option<&str>, even: bool, so_far: &[&LogRow]) -> String {
    let last = so_far.len() - 1;
    let counted: Vec<&&LogRow> = so_far.iter().filter(|r| !even || r.even() == Some(true)).collect();
    let ints = || counted.iter().filter_map(|r| r.v);
    let floats = || counted.iter().map(|r| r.f);
    let words = || counted.iter().filter_map(|r| r.s.clone());
    let is = |name| arg == Some(name);
    match kind {
        OverKind::RowNumber => so_far.len().to_string(),
        OverKind::Lag { rows, default } => match last.checked_sub(*rows) {
            Some(at) => column(so_far[at], arg.unwrap()),
            None => match default {
                ScalarValue::Utf8(Some(v)) => v.clone(),
                ScalarValue::Null => "NULL".into(),
                other => other.to_string(),
            },
        },
        OverKind::Count if is("v") => ints().count().to_string(),
        OverKind::Count => counted.len().to_string(),
        OverKind::Sum if is("f") => floats().sum::<f64>().to_string(),
        OverKind::Sum => text(ints().next().map(|_| ints().sum::<i64>())),
        OverKind::Avg => text(ints().next().map(|_| ints().sum::<i64>() as f64 / ints().count() as f64)),
        OverKind::Min if is("v") => text(ints().min()),
        OverKind::Max if is("v") => text(ints().max()),
        OverKind::Min if is("f") => text(floats().reduce(f64::min)),
        OverKind::Max if is("f") => text(floats().reduce(f64::max)),
        OverKind::Min => text(words().min()),
        OverKind::Max => text(words().max()),
        OverKind::First => counted.first().map_or_else(|| "NULL".into(), |r| column(r, arg.unwrap())),
        OverKind::Last => column(so_far[last], arg.unwrap()),
        OverKind::Earliest if is("v") => text(ints().next()),
        OverKind::Latest if is("v") => text(ints().next_back()),
        OverKind::Earliest => text(words().next()),
        OverKind::Latest => text(words().next_back()),
    }
}
