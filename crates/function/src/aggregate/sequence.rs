//! `sequence_match` and `sequence_count`: whether events follow each other as a pattern says.
//!
//! ```text
//! (?1)        the first condition holds          .    any event          .*   events in between
//! (?t<=10)    so much time between the events before and behind it, others may lie in between
//! ```
//! Events for which no condition holds are none. All ways through the pattern are followed at once, so that
//! an event is looked at once for each step.
//!
//! Not here: how events are kept (`events`).

use datafusion::common::{Result, plan_err};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Op {
    fn holds(self, a: i64, b: i64) -> bool {
        match self {
            Op::Less => a < b,
            Op::LessOrEqual => a <= b,
            Op::Greater => a > b,
            Op::GreaterOrEqual => a >= b,
            Op::Equal => a == b,
            Op::NotEqual => a != b,
        }
    }
}

/// An event of the pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Which condition holds, from 0; `None` = any.
    condition: Option<usize>,
    /// Others may lie between it and the one before.
    gap: bool,
    /// Of the time since the one before.
    times: Vec<(Op, i64)>,
}

/// Reads a pattern of so many conditions.
///
/// # Errors
/// Says where it is none.
pub(super) fn parse(pattern: &str, conditions: usize) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut next = Step::default();
    let mut rest = pattern;
    let wrong = |rest: &str| {
        plan_err!("the pattern '{pattern}' does not read at '{rest}'; it is made of (?1), (?t<=10), . and .*")
    };
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(".*") {
            next.gap = true;
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix('.') {
            steps.push(std::mem::take(&mut next));
            rest = after;
            continue;
        }
        let Some((inner, after)) = rest.strip_prefix("(?").and_then(|r| r.split_once(')')) else {
            return wrong(rest);
        };
        if let Some(time) = inner.strip_prefix('t') {
            let ops = [
                ("<=", Op::LessOrEqual),
                (">=", Op::GreaterOrEqual),
                ("==", Op::Equal),
                ("!=", Op::NotEqual),
                ("<", Op::Less),
                (">", Op::Greater),
            ];
            let found = ops.iter().find_map(|(text, op)| Some((*op, time.strip_prefix(text)?.parse().ok()?)));
            let Some(time) = found else { return wrong(rest) };
            if steps.is_empty() {
                return plan_err!(
                    "the pattern '{pattern}' begins with a time, which lies between two events"
                );
            }
            next.gap = true;
            next.times.push(time);
        } else {
            match inner.parse::<usize>() {
                Ok(n) if (1..=conditions).contains(&n) => {
                    steps.push(Step { condition: Some(n - 1), ..std::mem::take(&mut next) });
                }
                Ok(n) => return plan_err!("the pattern '{pattern}' names condition {n} of {conditions}"),
                Err(_) => return wrong(rest),
            }
        }
        rest = after;
    }
    if steps.is_empty() || !next.times.is_empty() {
        return plan_err!("the pattern '{pattern}' does not end with an event");
    }
    Ok(steps)
}

/// Where the match that ends first ends, one past its last event. Events are times and bits of the
/// conditions that hold.
fn first(events: &[(i64, u64)], steps: &[Step]) -> Option<usize> {
    // Of each step: events that a way through the pattern has come to.
    let mut reached: Vec<Vec<usize>> = vec![Vec::new(); steps.len()];
    for (i, (at, holds)) in events.iter().enumerate() {
        // The last step first: an event is one step of a way.
        for k in (0..steps.len()).rev() {
            let step = &steps[k];
            if step.condition.is_some_and(|c| holds >> c & 1 == 0) {
                continue;
            }
            let from = k == 0 || {
                let before = &reached[k - 1];
                let fits = |j: &usize| step.times.iter().all(|(op, v)| op.holds(at - events[*j].0, *v));
                match (before.first(), before.last()) {
                    (Some(far), Some(near)) if step.gap => {
                        // One bound is met by the furthest or the nearest, if by any.
                        fits(far) || fits(near) || !step.times.is_empty() && before.iter().any(fits)
                    }
                    (_, Some(near)) => near + 1 == i,
                    _ => false,
                }
            };
            if from && k + 1 == steps.len() {
                return Some(i + 1);
            }
            if from {
                reached[k].push(i);
            }
        }
    }
    None
}

/// How many matches follow each other; no event is of two.
pub(super) fn count(mut events: &[(i64, u64)], steps: &[Step]) -> u64 {
    let mut n = 0;
    while let Some(end) = first(events, steps) {
        n += 1;
        events = &events[end..];
    }
    n
}

/// Whether there is a match.
pub(super) fn matches(events: &[(i64, u64)], steps: &[Step]) -> bool {
    first(events, steps).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_as_often_as_they_are_there() {
        // Conditions 1, 2 and 3 are bits 1, 2 and 4.
        let events = [(1, 1), (2, 4), (3, 2), (10, 1), (11, 2), (30, 1), (50, 2)];
        // (pattern, how often)
        let cases = [
            ("(?1)(?2)", 2),
            ("(?1).*(?2)", 3),
            ("(?1).(?2)", 1),
            ("(?1)(?t<=2)(?2)", 2),
            ("(?1)(?t>5)(?2)", 2),
            ("(?1)(?t==20)(?2)", 1),
            ("(?1)(?t>=1)(?t<10)(?2)", 2),
            ("(?3).*(?1)(?2).*", 1),
            ("(?2)(?3)", 0),
            ("(?1).*(?1).*(?1)", 1),
        ];
        for (pattern, expected) in cases {
            let steps = parse(pattern, 3).unwrap();
            assert_eq!(count(&events, &steps), expected, "{pattern}");
            assert_eq!(matches(&events, &steps), expected > 0, "{pattern}");
        }
        for wrong in ["", "(?4)", "(?0)", "(?t>1)(?1)", "(?1)(?t>1)", "(?1)(?t~1)(?2)", "(?1", "abc", ".*"] {
            assert!(parse(wrong, 3).is_err(), "{wrong}");
        }
    }
}
