//! Windows over time: what a window specification means, as arithmetic.
//!
//! Times are nanoseconds since the Unix epoch. Fixed lengths are aligned to the epoch in UTC;
//! calendar units to the calendar of a zone, weeks to Monday, so that a day may have 23 or 25
//! hours. Windows are half open, `[start, end)`.
//!
//! Lives in the waist because bounded and unbounded queries must agree on it to the nanosecond.
//!
//! Not here: which rows are late, closing, where sessions are cut (`session`).

use crate::session::SessionSpec;
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;
use std::fmt;

pub const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// A row lies in at most so many windows.
pub const WINDOWS_PER_ROW_MAX: i64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarUnit {
    Day,
    /// Begins on Monday.
    Week,
    Month,
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Nanoseconds, more than 0.
    Fixed(i64),
    /// So many units (quarters are 3 months, years 12), more than 0.
    Calendar(CalendarUnit, u32),
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Span::Fixed(ns) => {
                let units =
                    [(3_600 * NANOS_PER_SECOND, "h"), (60 * NANOS_PER_SECOND, "m"), (NANOS_PER_SECOND, "s")];
                let small = [(1_000_000, "ms"), (1_000, "us"), (1, "ns")];
                let (size, name) =
                    units.into_iter().chain(small).find(|(size, _)| ns % size == 0).unwrap_or((1, "ns"));
                write!(f, "{}{name}", ns / size)
            }
            Span::Calendar(CalendarUnit::Day, n) => write!(f, "{n}d"),
            Span::Calendar(CalendarUnit::Week, n) => write!(f, "{n}w"),
            Span::Calendar(CalendarUnit::Month, n) => write!(f, "{n}M"),
        }
    }
}

/// How rows are cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    Tumble {
        size: Span,
    },
    Hop {
        slide: Span,
        size: Span,
    },
    /// Per key, as the rows lie.
    Session(SessionSpec),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowBound {
    Start,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    pub kind: WindowKind,
    /// Of the calendar.
    pub zone: Tz,
}

impl fmt::Display for WindowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            WindowKind::Tumble { size } => write!(f, "tumble {size}")?,
            WindowKind::Hop { slide, size } => write!(f, "hop {slide} of {size}")?,
            WindowKind::Session(session) => return write!(f, "session {session}"),
        }
        if self.zone != Tz::UTC { write!(f, " in {}", self.zone) } else { Ok(()) }
    }
}

impl WindowSpec {
    /// # Errors
    /// Says why a window of this shape means nothing.
    pub fn check(&self) -> Result<(), String> {
        let (slide, size) = match self.kind {
            WindowKind::Tumble { size } => (size, size),
            WindowKind::Hop { slide, size } => (slide, size),
            WindowKind::Session(session) => return session.check(),
        };
        match (slide, size) {
            (Span::Fixed(slide), Span::Fixed(size)) => {
                if slide <= 0 || size <= 0 {
                    return Err("a window's length must be more than 0".into());
                }
                if slide > size {
                    return Err(format!(
                        "hop windows {} long every {} would leave rows out; the slide must not be longer than the size",
                        Span::Fixed(size),
                        Span::Fixed(slide)
                    ));
                }
                let windows = size / slide;
                if windows > WINDOWS_PER_ROW_MAX {
                    return Err(format!(
                        "each row would lie in {windows} windows, the limit is {WINDOWS_PER_ROW_MAX}; make the slide longer"
                    ));
                }
                Ok(())
            }
            (Span::Calendar(a, n), Span::Calendar(b, m)) => {
                if n == 0 || m == 0 {
                    return Err("a window's length must be more than 0".into());
                }
                // Days at their fewest: a month has 28.
                let days = |unit, n: u32, month: u64| match unit {
                    CalendarUnit::Day => u64::from(n),
                    CalendarUnit::Week => 7 * u64::from(n),
                    CalendarUnit::Month => month * u64::from(n),
                };
                let (slide_days, size_days) =
                    if a == b { (days(a, n, 31), days(b, m, 31)) } else { (days(a, n, 31), days(b, m, 28)) };
                if slide_days > size_days {
                    return Err(
                        "the slide of a hop window must not be longer than its size, in any month".into()
                    );
                }
                let windows = size_days / slide_days;
                if windows > WINDOWS_PER_ROW_MAX as u64 {
                    return Err(format!(
                        "each row would lie in {windows} windows, the limit is {WINDOWS_PER_ROW_MAX}; make the slide longer"
                    ));
                }
                Ok(())
            }
            _ => Err("slide and size must both be fixed lengths (up to hours) or both calendar units".into()),
        }
    }

    /// Calls `f(start, end)` for every window a time lies in, by ascending start. A session is none
    /// that a time alone would tell.
    pub fn windows_of(&self, at_ns: i64, mut f: impl FnMut(i64, i64)) {
        match self.kind {
            WindowKind::Tumble { size: Span::Fixed(size) } => {
                let start = at_ns.saturating_sub(at_ns.rem_euclid(size));
                f(start, start.saturating_add(size));
            }
            WindowKind::Tumble { size: Span::Calendar(unit, n) } => {
                let k = self.index(unit, n, at_ns);
                f(self.start(unit, n, k), self.start(unit, n, k + 1));
            }
            WindowKind::Hop { slide: Span::Fixed(slide), size: Span::Fixed(size) } => {
                let last = at_ns.saturating_sub(at_ns.rem_euclid(slide));
                // The earliest start whose window still holds the time.
                let mut start = last.saturating_sub((size - 1 - (at_ns - last)).max(0) / slide * slide);
                while start <= last {
                    f(start, start.saturating_add(size));
                    match start.checked_add(slide) {
                        Some(next) => start = next,
                        None => break,
                    }
                }
            }
            WindowKind::Hop { slide: Span::Calendar(unit, n), size } => {
                let last = self.index(unit, n, at_ns);
                let mut found = Vec::new();
                let mut k = last;
                loop {
                    let start = self.start(unit, n, k);
                    let end = self.plus(start, size);
                    if end <= at_ns || found.len() as i64 > WINDOWS_PER_ROW_MAX {
                        break;
                    }
                    found.push((start, end));
                    k -= 1;
                }
                found.into_iter().rev().for_each(|(start, end)| f(start, end));
            }
            WindowKind::Hop { slide: Span::Fixed(_), size: Span::Calendar(..) } => {
                unreachable!("refused by check")
            }
            WindowKind::Session(_) => {}
        }
    }

    /// The watermark that closes every window a time lies in, as far as rows up to it are all there is.
    pub fn closes_all(&self, at_ns: i64) -> i64 {
        match self.kind {
            WindowKind::Session(session) => at_ns.saturating_add(session.idle_ns),
            _ => {
                let mut last = at_ns;
                self.windows_of(at_ns, |_, end| last = end);
                last
            }
        }
    }

    /// How far a watermark reaches into a bound of windows that close by it: no window that is still
    /// open, or is yet to come, has an earlier one. Never falls as the watermark rises.
    pub fn passed_on(&self, watermark_ns: i64, bound: WindowBound) -> i64 {
        if matches!(watermark_ns, i64::MIN | i64::MAX) {
            return watermark_ns;
        }
        match (self.kind, bound) {
            // Sessions are open from any time on; their ends lie behind the watermark.
            (WindowKind::Session(_), WindowBound::Start) => i64::MIN,
            (WindowKind::Session(_), WindowBound::End) => watermark_ns,
            _ => {
                // Open windows end after the watermark: the first of them is the first to hold it.
                let mut first = None;
                self.windows_of(watermark_ns, |start, end| {
                    first.get_or_insert((start, end));
                });
                first.map_or(i64::MIN, |(start, end)| if bound == WindowBound::Start { start } else { end })
            }
        }
    }

    /// The time `size` after a window's start, in the zone's calendar.
    fn plus(&self, start_ns: i64, size: Span) -> i64 {
        match size {
            Span::Fixed(ns) => start_ns.saturating_add(ns),
            Span::Calendar(unit, n) => {
                let date = self.local(start_ns).date();
                let later = match unit {
                    CalendarUnit::Day => date.checked_add_days(Days::new(u64::from(n))),
                    CalendarUnit::Week => date.checked_add_days(Days::new(7 * u64::from(n))),
                    CalendarUnit::Month => date.checked_add_months(Months::new(n)),
                };
                later.map_or(i64::MAX, |d| self.instant(d))
            }
        }
    }

    /// Which piece of `n` units a time lies in, counted from the epoch's.
    fn index(&self, unit: CalendarUnit, n: u32, at_ns: i64) -> i64 {
        let date = self.local(at_ns).date();
        let days = i64::from(date.num_days_from_ce()) - EPOCH_DAYS_FROM_CE;
        let units = match unit {
            CalendarUnit::Day => days,
            // Day 0 is a Thursday.
            CalendarUnit::Week => (days + 3).div_euclid(7),
            CalendarUnit::Month => i64::from(date.year() - 1970) * 12 + i64::from(date.month0()),
        };
        units.div_euclid(i64::from(n))
    }

    fn start(&self, unit: CalendarUnit, n: u32, index: i64) -> i64 {
        let units = index * i64::from(n);
        let date = match unit {
            CalendarUnit::Day => date_of(units),
            CalendarUnit::Week => date_of(units * 7 - 3),
            CalendarUnit::Month => i32::try_from(1970 + units.div_euclid(12))
                .ok()
                .and_then(|y| NaiveDate::from_ymd_opt(y, units.rem_euclid(12) as u32 + 1, 1)),
        };
        date.map_or(if index < 0 { i64::MIN } else { i64::MAX }, |d| self.instant(d))
    }

    fn local(&self, at_ns: i64) -> NaiveDateTime {
        let utc = DateTime::from_timestamp_nanos(at_ns).naive_utc();
        utc + self.zone.offset_from_utc_datetime(&utc).fix()
    }

    /// The first moment of a local day.
    fn instant(&self, date: NaiveDate) -> i64 {
        let midnight = date.and_hms_opt(0, 0, 0).expect("midnight is a time");
        let seconds = match self.zone.from_local_datetime(&midnight).earliest() {
            Some(at) => at.timestamp(),
            // The clock was moved over midnight: the day begins where it was moved.
            None => {
                let before = midnight - chrono::TimeDelta::days(1);
                let offset = self.zone.offset_from_utc_datetime(&before).fix().local_minus_utc();
                midnight.and_utc().timestamp() - i64::from(offset)
            }
        };
        seconds.saturating_mul(NANOS_PER_SECOND)
    }
}

const EPOCH_DAYS_FROM_CE: i64 = 719_163;

fn date_of(days: i64) -> Option<NaiveDate> {
    NaiveDate::from_num_days_from_ce_opt(i32::try_from(days + EPOCH_DAYS_FROM_CE).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = NANOS_PER_SECOND;
    const HOUR: i64 = 3_600 * S;

    fn windows(kind: WindowKind, zone: Tz, at: i64) -> Vec<(i64, i64)> {
        let spec = WindowSpec { kind, zone };
        spec.check().unwrap();
        let mut all = Vec::new();
        spec.windows_of(at, |s, e| all.push((s, e)));
        all
    }
    fn utc(text: &str) -> i64 {
        text.parse::<DateTime<chrono::Utc>>().unwrap().timestamp() * S
    }

    #[test]
    fn fixed_windows_are_aligned_to_the_epoch() {
        let five = WindowKind::Tumble { size: Span::Fixed(5 * S) };
        assert_eq!(windows(five, Tz::UTC, 7 * S), [(5 * S, 10 * S)]);
        assert_eq!(windows(five, Tz::UTC, 5 * S), [(5 * S, 10 * S)]);
        assert_eq!(windows(five, Tz::UTC, -1), [(-5 * S, 0)]);
        let hop = WindowKind::Hop { slide: Span::Fixed(2 * S), size: Span::Fixed(5 * S) };
        assert_eq!(windows(hop, Tz::UTC, 7 * S), [(4 * S, 9 * S), (6 * S, 11 * S)]);
        assert_eq!(windows(hop, Tz::UTC, 8 * S), [(4 * S, 9 * S), (6 * S, 11 * S), (8 * S, 13 * S)]);
        assert_eq!(windows(hop, Tz::UTC, -S), [(-4 * S, S), (-2 * S, 3 * S)]);
    }

    #[test]
    fn hop_windows_are_those_that_hold_the_time() {
        for (slide, size) in [(1, 1), (1, 5), (2, 5), (3, 7), (5, 5), (7, 10)] {
            let kind = WindowKind::Hop { slide: Span::Fixed(slide), size: Span::Fixed(size) };
            for at in -30..30 {
                let expected: Vec<_> = (-100..100)
                    .map(|k| (k * slide, k * slide + size))
                    .filter(|(s, e)| *s <= at && at < *e)
                    .collect();
                assert_eq!(windows(kind, Tz::UTC, at), expected, "{slide} {size} {at}");
            }
        }
    }

    #[test]
    fn a_watermark_is_passed_on_as_far_as_open_windows_allow() {
        for (slide, size) in [(1, 1), (1, 5), (2, 5), (3, 7), (5, 5), (7, 10)] {
            let kind = WindowKind::Hop { slide: Span::Fixed(slide), size: Span::Fixed(size) };
            let spec = WindowSpec { kind, zone: Tz::UTC };
            for watermark in -30..30 {
                let open =
                    (-100..100).map(|k| (k * slide, k * slide + size)).find(|(_, e)| *e > watermark).unwrap();
                assert_eq!(
                    spec.passed_on(watermark, WindowBound::Start),
                    open.0,
                    "{slide} {size} {watermark}"
                );
                assert_eq!(spec.passed_on(watermark, WindowBound::End), open.1, "{slide} {size} {watermark}");
            }
        }
    }

    #[test]
    fn calendar_windows_follow_the_zone() {
        let day = WindowKind::Tumble { size: Span::Calendar(CalendarUnit::Day, 1) };
        // The day the clocks went forward has 23 hours.
        let at = utc("2026-03-29T10:00:00Z");
        let [(start, end)] = windows(day, Tz::Europe__Berlin, at)[..] else { panic!() };
        assert_eq!((start, end - start), (utc("2026-03-28T23:00:00Z"), 23 * HOUR));
        let week = WindowKind::Tumble { size: Span::Calendar(CalendarUnit::Week, 1) };
        assert_eq!(
            windows(week, Tz::UTC, utc("2026-11-22T12:00:00Z")),
            [(utc("2026-11-16T00:00:00Z"), utc("2026-11-23T00:00:00Z"))]
        );
        let quarter = WindowKind::Tumble { size: Span::Calendar(CalendarUnit::Month, 3) };
        assert_eq!(
            windows(quarter, Tz::UTC, utc("2026-11-22T12:00:00Z")),
            [(utc("2026-10-01T00:00:00Z"), utc("2027-01-01T00:00:00Z"))]
        );
        let hop = WindowKind::Hop {
            slide: Span::Calendar(CalendarUnit::Day, 1),
            size: Span::Calendar(CalendarUnit::Day, 2),
        };
        assert_eq!(
            windows(hop, Tz::UTC, utc("2026-11-22T12:00:00Z")),
            [
                (utc("2026-11-21T00:00:00Z"), utc("2026-11-23T00:00:00Z")),
                (utc("2026-11-22T00:00:00Z"), utc("2026-11-24T00:00:00Z"))
            ]
        );
    }

    #[test]
    fn windows_that_mean_nothing_are_refused() {
        let check = |slide, size| WindowSpec { kind: WindowKind::Hop { slide, size }, zone: Tz::UTC }.check();
        assert!(check(Span::Fixed(2), Span::Fixed(1)).is_err());
        assert!(check(Span::Fixed(1), Span::Fixed(1_000_000)).is_err());
        assert!(check(Span::Fixed(1), Span::Calendar(CalendarUnit::Day, 1)).is_err());
        assert!(
            check(Span::Calendar(CalendarUnit::Month, 1), Span::Calendar(CalendarUnit::Day, 30)).is_err()
        );
        assert!(check(Span::Calendar(CalendarUnit::Day, 1), Span::Calendar(CalendarUnit::Month, 1)).is_ok());
    }
}
