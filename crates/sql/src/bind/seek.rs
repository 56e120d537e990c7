//! Where an unbounded read begins: `seek_to` and predicates over event time or sequence number.
//!
//! - `_tp_sn` beats `_tp_time`; of several lower bounds the lowest wins; an upper bound alone
//!   means from the earliest row. The predicate filters as well, so beginning early is harmless.
//! - `seek_to` beats predicates.
//!
//! Pure; the query's start comes with the call.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Operator};
use std::sync::Arc;
use weir_base::{Error, EventTime, SeqNo, err};
use weir_format::types::Type;
use weir_plan::{ReplayOrder, StartPosition};

pub(crate) const EVENT_TIME: &str = "_tp_time";
pub(crate) const SEQ_NO: &str = "_tp_sn";

/// The setting `seek_to`; `None` when it is empty.
///
/// # Errors
/// Code 36: neither a word, a time, a relative time nor sequence numbers.
pub fn seek_to(text: &str, now_us: i64, time_zone: Option<Arc<str>>) -> Result<Option<StartPosition>, Error> {
    let text = text.trim();
    let bad = |why: &str| {
        err!(
            BadArguments,
            "seek_to='{text}' {why}; it takes 'earliest', 'latest', a time, '-2h' (units s m h d M q y) or sequence numbers '100,200'"
        )
    };
    match text {
        "" => return Ok(None),
        t if t.eq_ignore_ascii_case("latest") => return Ok(Some(StartPosition::Latest)),
        t if t.eq_ignore_ascii_case("earliest") => return Ok(Some(StartPosition::Earliest)),
        _ => {}
    }
    if let Some(relative) = text.strip_prefix('-') {
        let unit = relative.chars().last().ok_or_else(|| bad("has no number"))?;
        let digits = &relative[..relative.len() - unit.len_utf8()];
        let n: i64 = digits.parse().map_err(|_| bad("is no relative time"))?;
        let seconds = |s: i64| n.checked_mul(s).and_then(|s| s.checked_mul(1000));
        let now_ms = now_us.div_euclid(1000);
        let months = |m: i64| {
            let months = chrono::Months::new(u32::try_from(n.checked_mul(m)?).ok()?);
            let at = chrono::DateTime::from_timestamp_millis(now_ms)?.checked_sub_months(months)?;
            Some(now_ms - at.timestamp_millis())
        };
        let back = match unit {
            's' => seconds(1),
            'm' => seconds(60),
            'h' => seconds(3_600),
            'd' => seconds(86_400),
            'w' => seconds(7 * 86_400),
            'M' => months(1),
            'q' => months(3),
            'y' => months(12),
            _ => return Err(bad("has an unknown unit")),
        };
        let back = back.ok_or_else(|| bad("lies too far back"))?;
        return Ok(Some(StartPosition::EventTime(EventTime(now_ms.saturating_sub(back)))));
    }
    if text.chars().all(|c| c.is_ascii_digit() || c == ',' || c == ' ') {
        let numbers: Option<Vec<SeqNo>> = text
            .split(',')
            .map(|n| n.trim().parse::<u64>().ok().filter(|n| *n <= SeqNo::MAX.0).map(SeqNo))
            .collect();
        return numbers
            .map(|n| Some(StartPosition::SeqNo(n)))
            .ok_or_else(|| bad("is no list of sequence numbers"));
    }
    match super::cast::literal(text, &Type::DateTime64(3, time_zone)) {
        Ok(ScalarValue::TimestampMillisecond(Some(ms), _)) => {
            Ok(Some(StartPosition::EventTime(EventTime(ms))))
        }
        _ => Err(bad("is no time")),
    }
}

/// The setting `replay_order`.
///
/// # Errors
/// Code 36.
pub fn replay_order(text: &str) -> Result<ReplayOrder, Error> {
    match text {
        "" | "arrival" => Ok(ReplayOrder::Arrival),
        "event_time" => Ok(ReplayOrder::EventTime),
        other => Err(err!(BadArguments, "replay_order='{other}'; it is 'arrival' or 'event_time'")),
    }
}

/// What one condition says about the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Bound {
    sn: Option<u64>,
    time_ms: Option<i64>,
    earliest: bool,
}

impl Bound {
    fn position(self) -> Option<StartPosition> {
        match self {
            Bound { sn: Some(n), .. } => Some(StartPosition::SeqNo(vec![SeqNo(n)])),
            Bound { time_ms: Some(i64::MIN), .. } => Some(StartPosition::Earliest),
            Bound { time_ms: Some(ms), .. } => Some(StartPosition::EventTime(EventTime(ms))),
            Bound { earliest: true, .. } => Some(StartPosition::Earliest),
            _ => None,
        }
    }
    fn and(self, other: Bound) -> Bound {
        let least = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Bound {
            sn: match (self.sn, other.sn) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            time_ms: least(self.time_ms, other.time_ms),
            earliest: self.earliest || other.earliest,
        }
    }
}

/// Where the conjunction over a source lets it begin; `None` when it says nothing.
///
/// # Errors
/// Code 183: a comparison of `_tp_time` or `_tp_sn` from which no position follows.
pub(crate) fn from_predicate(predicate: &Expr) -> Result<Option<StartPosition>, Error> {
    let mut all = Bound::default();
    for condition in split_conjunction(predicate) {
        all = all.and(bound(condition)?);
    }
    Ok(all.position())
}

fn column_of(e: &Expr) -> Option<&str> {
    match e {
        Expr::Column(c) if c.name == EVENT_TIME || c.name == SEQ_NO => Some(&c.name),
        Expr::Cast(c) => column_of(&c.expr),
        Expr::Alias(a) => column_of(&a.expr),
        _ => None,
    }
}

fn value_of(e: &Expr) -> Option<&ScalarValue> {
    match e {
        Expr::Literal(v, _) if !v.is_null() => Some(v),
        Expr::Cast(c) => value_of(&c.expr),
        Expr::Alias(a) => value_of(&a.expr),
        _ => None,
    }
}

fn mentions(e: &Expr) -> bool {
    e.column_refs().iter().any(|c| c.name == EVENT_TIME || c.name == SEQ_NO)
}

fn cannot(e: &Expr, why: &str) -> Error {
    err!(
        UnexpectedExpression,
        "can not find where to begin from {e}: {why}; compare with a constant, or set seek_to and filter by an expression such as to_datetime64(_tp_time, 3)"
    )
}

fn bound(condition: &Expr) -> Result<Bound, Error> {
    match condition {
        Expr::BinaryExpr(b) if b.op == Operator::Or => {
            if !mentions(condition) {
                return Ok(Bound::default());
            }
            let (l, r) = (or_side(&b.left)?, or_side(&b.right)?);
            if l == Bound::default() || r == Bound::default() {
                // One side holds for any row, so nothing can be skipped for the other.
                return Err(cannot(condition, "only one side of OR says something about it"));
            }
            // Whichever is lower; mixed kinds have no common order.
            if l.sn.is_some() == r.sn.is_some() {
                return Ok(l.and(r));
            }
            Ok(Bound { earliest: true, ..Bound::default() })
        }
        Expr::BinaryExpr(b) => {
            let (column, op, value) = match (column_of(&b.left), column_of(&b.right)) {
                (Some(c), None) => (c, b.op, &b.right),
                (None, Some(c)) => match b.op.swap() {
                    Some(op) => (c, op, &b.left),
                    None => return Ok(Bound::default()),
                },
                (Some(_), Some(_)) => return Err(cannot(condition, "both sides vary from row to row")),
                (None, None) => return Ok(Bound::default()),
            };
            if !matches!(op, Operator::Eq | Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq) {
                return Ok(Bound::default());
            }
            let Some(value) = value_of(value) else {
                return Err(cannot(condition, "the other side is not a constant"));
            };
            lower(column, op, value).ok_or_else(|| cannot(condition, "the constant has another type"))
        }
        Expr::Between(b) if !b.negated => match (column_of(&b.expr), value_of(&b.low)) {
            (Some(c), Some(v)) => {
                lower(c, Operator::GtEq, v).ok_or_else(|| cannot(condition, "the constant has another type"))
            }
            (Some(_), None) => Err(cannot(condition, "the lower end is not a constant")),
            _ => Ok(Bound::default()),
        },
        Expr::InList(l) if !l.negated => {
            let Some(c) = column_of(&l.expr) else { return Ok(Bound::default()) };
            let mut all = Bound::default();
            for v in &l.list {
                let v = value_of(v).ok_or_else(|| cannot(condition, "the list holds more than constants"))?;
                all = all.and(
                    lower(c, Operator::Eq, v)
                        .ok_or_else(|| cannot(condition, "the list has another type"))?,
                );
            }
            Ok(all)
        }
        _ => Ok(Bound::default()),
    }
}

fn or_side(e: &Expr) -> Result<Bound, Error> {
    let mut all = Bound::default();
    for condition in split_conjunction(e) {
        all = all.and(bound(condition)?);
    }
    Ok(all)
}

fn lower(column: &str, op: Operator, value: &ScalarValue) -> Option<Bound> {
    if matches!(op, Operator::Lt | Operator::LtEq) {
        return Some(Bound { earliest: true, ..Bound::default() });
    }
    if column == SEQ_NO {
        let ScalarValue::Int64(Some(n)) = value.cast_to(&DataType::Int64).ok()? else { return None };
        let n = if op == Operator::Gt { n.saturating_add(1) } else { n };
        return Some(match u64::try_from(n) {
            Ok(n) => Bound { sn: Some(n), ..Bound::default() },
            Err(_) => Bound { earliest: true, ..Bound::default() },
        });
    }
    let ms = match value {
        ScalarValue::TimestampSecond(Some(i64::MIN), _)
        | ScalarValue::TimestampMillisecond(Some(i64::MIN), _)
        | ScalarValue::TimestampMicrosecond(Some(i64::MIN), _)
        | ScalarValue::TimestampNanosecond(Some(i64::MIN), _) => i64::MIN,
        ScalarValue::TimestampSecond(Some(s), _) => s.checked_mul(1000)?,
        ScalarValue::TimestampMillisecond(Some(ms), _) => *ms,
        ScalarValue::TimestampMicrosecond(Some(us), _) => us.div_euclid(1_000),
        ScalarValue::TimestampNanosecond(Some(ns), _) => ns.div_euclid(1_000_000),
        ScalarValue::Date32(_) => {
            match value.cast_to(&DataType::Timestamp(TimeUnit::Millisecond, None)).ok()? {
                ScalarValue::TimestampMillisecond(Some(ms), _) => ms,
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Bound { time_ms: Some(ms), ..Bound::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::logical_expr::{col, lit};

    const NOW: i64 = 1_704_067_200_000_000; // 2024-01-01 00:00:00

    fn time(ms: i64) -> Option<StartPosition> {
        Some(StartPosition::EventTime(EventTime(ms)))
    }

    #[test]
    fn seek_to_takes_all_forms() {
        let now = NOW / 1000;
        let cases = [
            ("", None),
            ("latest", Some(StartPosition::Latest)),
            ("EARLIEST", Some(StartPosition::Earliest)),
            ("-2h", time(now - 7_200_000)),
            ("-30s", time(now - 30_000)),
            ("-1M", time(now - 31 * 86_400_000)),
            ("-1q", time(now - 92 * 86_400_000)),
            ("-1y", time(now - 365 * 86_400_000)),
            ("17", Some(StartPosition::SeqNo(vec![SeqNo(17)]))),
            ("5, 6,7", Some(StartPosition::SeqNo(vec![SeqNo(5), SeqNo(6), SeqNo(7)]))),
            ("2024-01-01 00:00:01", time(now + 1000)),
            ("2024-01-01", time(now)),
        ];
        for (text, expected) in cases {
            assert_eq!(
                seek_to(text, NOW, None).unwrap_or_else(|e| panic!("{text}: {e}")),
                expected,
                "{text}"
            );
        }
        for bad in ["-2x", "-h", "yesterday", "1,x", "-99999999999999999y", "9223372036854775808"] {
            assert_eq!(
                seek_to(bad, NOW, None).unwrap_err().code,
                weir_base::error::Code::BadArguments,
                "{bad}"
            );
        }
    }

    #[test]
    fn predicates_give_positions() {
        let t = |ms: i64| lit(ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into())));
        let at = || col(EVENT_TIME);
        let sn = || col(SEQ_NO);
        let n = |n: i64| lit(n);
        let cases = [
            ("lower bound", at().gt_eq(t(5)), time(5)),
            ("strict lower bound may be early", at().gt(t(5)), time(5)),
            ("turned round", t(5).lt(at()), time(5)),
            ("upper bound alone", at().lt(t(5)), Some(StartPosition::Earliest)),
            ("range", at().gt(t(3)).and(at().lt(t(5))), time(3)),
            ("lowest wins", at().gt(t(3)).and(at().gt(t(2))), time(2)),
            ("sn beats time", at().gt(t(3)).and(sn().gt(n(7))), Some(StartPosition::SeqNo(vec![SeqNo(8)]))),
            ("sn upper bound", sn().lt(n(7)), Some(StartPosition::Earliest)),
            ("or of times", at().gt(t(3)).or(at().eq(t(1))), time(1)),
            ("other columns", col("a").gt(n(5)), None),
            ("least time", at().gt(t(i64::MIN)), Some(StartPosition::Earliest)),
            ("between", at().between(t(4), t(9)), time(4)),
        ];
        for (name, e, expected) in cases {
            assert_eq!(from_predicate(&e).unwrap_or_else(|e| panic!("{name}: {e}")), expected, "{name}");
        }
        for (name, e) in [
            ("another column", at().gt(col("other"))),
            ("or with something else", at().gt(t(3)).or(col("a").eq(n(1)))),
        ] {
            assert_eq!(
                from_predicate(&e).unwrap_err().code,
                weir_base::error::Code::UnexpectedExpression,
                "{name}"
            );
        }
    }
}
