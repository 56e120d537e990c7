//! Where sessions are cut: one key's rows, in the order of event time, shard and sequence number.
//!
//! ```text
//! rows less than `idle` apart are one session        [first, last + idle)
//! max_len: a session's rows are less than it apart; the next one begins a new session
//! conditions: a row that starts one opens it, a row that ends one closes it; others in between
//! ```
//!
//! A round bracket leaves the row that opens or closes out: it is not of the session and does not
//! move its bounds, yet the gap to the next row is counted from it. The row that opens a session is
//! not asked whether it ends it; one that ends it and is left out may open the next.
//!
//! Lives in the waist because bounded and unbounded queries must agree on it row by row.
//!
//! Not here: keys, order, when a session closes.

use crate::window::Span;
use std::fmt;

/// Which of the rows that meet the conditions are of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Brackets {
    /// `[`: the row that starts it is.
    pub start_in: bool,
    /// `]`: the row that ends it is.
    pub end_in: bool,
}

/// Lengths are nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionSpec {
    pub idle_ns: i64,
    pub max_len_ns: Option<i64>,
    /// With conditions for its first and last row.
    pub conditions: Option<Brackets>,
}

impl fmt::Display for SessionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "idle {}", Span::Fixed(self.idle_ns))?;
        if let Some(max_len_ns) = self.max_len_ns {
            write!(f, ", at most {}", Span::Fixed(max_len_ns))?;
        }
        match self.conditions {
            None => Ok(()),
            Some(Brackets { start_in, end_in }) => {
                write!(
                    f,
                    ", {}start, end{}",
                    if start_in { '[' } else { '(' },
                    if end_in { ']' } else { ')' }
                )
            }
        }
    }
}

/// A key's session that may still get rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    pub first_ns: i64,
    pub last_ns: i64,
    /// It was opened by a row that is left out, and has none yet.
    pub empty: bool,
}

/// What a row is to the sessions of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Of no session.
    Outside,
    /// The first of a new session.
    Opens,
    /// Opens a session that it is not of.
    OpensLeftOut,
    /// Of the open session.
    Joins,
}

/// What a row does to the session that was open before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub place: Place,
    /// The session that had ended before the row, if one was open.
    pub ended_before: Option<OpenSession>,
    /// The row joined the session and ended it.
    pub ended_after: Option<OpenSession>,
}

impl OpenSession {
    /// Where the session ends if no row follows.
    pub fn end_ns(&self, spec: &SessionSpec) -> i64 {
        self.last_ns.saturating_add(spec.idle_ns)
    }

    fn join(&mut self, at_ns: i64) {
        if std::mem::take(&mut self.empty) {
            self.first_ns = at_ns;
        }
        self.last_ns = at_ns;
    }
}

impl SessionSpec {
    /// # Errors
    /// Says why a session of this shape means nothing.
    pub fn check(&self) -> Result<(), String> {
        if self.idle_ns <= 0 || self.max_len_ns.is_some_and(|m| m <= 0) {
            return Err("the idle gap and the greatest length must be more than 0".into());
        }
        Ok(())
    }

    /// Takes the next row of a key. Times never fall from call to call.
    pub fn step(&self, open: &mut Option<OpenSession>, at_ns: i64, starts: bool, ends: bool) -> Step {
        let mut ended_before = None;
        if let Some(session) = open {
            let over = at_ns >= session.end_ns(self)
                || self.max_len_ns.is_some_and(|max| at_ns >= session.first_ns.saturating_add(max));
            match self.conditions {
                _ if over => ended_before = open.take(),
                Some(brackets) if ends && !brackets.end_in => ended_before = open.take(),
                brackets => {
                    session.join(at_ns);
                    let ended_after = if brackets.is_some() && ends { open.take() } else { None };
                    return Step { place: Place::Joins, ended_before: None, ended_after };
                }
            }
        }
        let place = match self.conditions {
            Some(_) if !starts => Place::Outside,
            Some(Brackets { start_in: false, .. }) => Place::OpensLeftOut,
            _ => Place::Opens,
        };
        if place != Place::Outside {
            *open =
                Some(OpenSession { first_ns: at_ns, last_ns: at_ns, empty: place == Place::OpensLeftOut });
        }
        Step { place, ended_before, ended_after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows `(time, starts, ends)` into sessions: bounds and which rows.
    fn sessions(spec: SessionSpec, rows: &[(i64, bool, bool)]) -> Vec<(i64, i64, Vec<i64>)> {
        let (mut open, mut held, mut all) = (None, Vec::new(), Vec::new());
        let mut end = |session: OpenSession, rows: &mut Vec<i64>| {
            if !session.empty {
                all.push((session.first_ns, session.end_ns(&spec), std::mem::take(rows)));
            }
            rows.clear();
        };
        for (at, starts, ends) in rows {
            let step = spec.step(&mut open, *at, *starts, *ends);
            if let Some(session) = step.ended_before {
                end(session, &mut held);
            }
            if matches!(step.place, Place::Opens | Place::Joins) {
                held.push(*at);
            }
            if let Some(session) = step.ended_after {
                end(session, &mut held);
            }
        }
        if let Some(session) = open {
            end(session, &mut held);
        }
        all
    }

    #[test]
    fn rows_less_than_idle_apart_are_one_session() {
        let spec = SessionSpec { idle_ns: 5, max_len_ns: None, conditions: None };
        let at = |all: &[i64]| all.iter().map(|t| (*t, false, false)).collect::<Vec<_>>();
        assert_eq!(sessions(spec, &at(&[0, 4, 4, 8])), [(0, 13, vec![0, 4, 4, 8])]);
        assert_eq!(sessions(spec, &at(&[0, 5])), [(0, 5, vec![0]), (5, 10, vec![5])]);
        let short = SessionSpec { max_len_ns: Some(8), ..spec };
        assert_eq!(
            sessions(short, &at(&[0, 4, 7, 8, 12])),
            [(0, 12, vec![0, 4, 7]), (8, 17, vec![8, 12])],
            "a session's rows are less than max_len apart"
        );
    }

    #[test]
    fn brackets_say_whether_the_bounding_rows_are_in() {
        // 1 is outside; 2 starts; 3 is inside and would start too; 4 ends; 5 is outside.
        let rows =
            [(1, false, false), (2, true, false), (3, true, false), (4, false, true), (5, false, false)];
        let cases = [
            (true, true, vec![(2, 104, vec![2, 3, 4])]),
            (true, false, vec![(2, 103, vec![2, 3])]),
            (false, true, vec![(3, 104, vec![3, 4])]),
            (false, false, vec![(3, 103, vec![3])]),
        ];
        for (start_in, end_in, expected) in cases {
            let conditions = Some(Brackets { start_in, end_in });
            let spec = SessionSpec { idle_ns: 100, max_len_ns: None, conditions };
            assert_eq!(sessions(spec, &rows), expected, "{spec}");
        }
    }

    #[test]
    fn a_row_that_ends_and_is_left_out_may_open_the_next() {
        let rows = [(1, true, true), (2, false, false), (3, true, true), (4, false, false)];
        let spec = |start_in, end_in| SessionSpec {
            idle_ns: 100,
            max_len_ns: None,
            conditions: Some(Brackets { start_in, end_in }),
        };
        assert_eq!(sessions(spec(true, false), &rows), [(1, 102, vec![1, 2]), (3, 104, vec![3, 4])]);
        assert_eq!(sessions(spec(true, true), &rows), [(1, 103, vec![1, 2, 3])]);
        // Left out at both ends, and nothing in between: no session.
        assert_eq!(sessions(spec(false, false), &[(1, true, false), (2, false, true)]), []);
        // The gap is counted from the row that was left out.
        let short = SessionSpec { idle_ns: 5, ..spec(false, true) };
        assert_eq!(sessions(short, &[(1, true, false), (6, false, false)]), []);
        assert_eq!(sessions(short, &[(1, true, false), (5, false, false)]), [(5, 10, vec![5])]);
    }
}
