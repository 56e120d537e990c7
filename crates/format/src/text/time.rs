//! Dates and times to text and back.
//!
//! Instants are ticks since 1970 in UTC; a zone only shapes the text. Local times that a clock
//! change repeats are read as the first of the two, those it skips with the offset after it.

use super::number::write_int;
use crate::kind::TimeKind;
use chrono::{Offset, TimeZone};

const DAY_S: i64 = 86_400;

/// Year, month, day of a day number since 1970-01-01 (proleptic Gregorian).
pub(crate) fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Day number of a date; `None` if there is no such date.
pub(crate) fn days_of(year: i64, month: u32, day: u32) -> Option<i64> {
    if !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
    if day > length {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let mp = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * mp + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn two(v: u32, out: &mut Vec<u8>) {
    out.push(b'0' + (v / 10) as u8);
    out.push(b'0' + (v % 10) as u8);
}

/// Appends `YYYY-MM-DD`.
pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        two((year / 100) as u32, out);
        two((year % 100) as u32, out);
    } else {
        write_int(year, out);
    }
    out.push(b'-');
    two(month, out);
    out.push(b'-');
    two(day, out);
}

/// Appends `YYYY-MM-DD hh:mm:ss[.fff]` in the kind's zone; `ticks` are of its Arrow unit.
pub(crate) fn write_time(ticks: i64, kind: &TimeKind, out: &mut Vec<u8>) {
    let per_second = 10i64.pow(u32::from(kind.unit_digits));
    let seconds = ticks.div_euclid(per_second);
    let fraction = ticks.rem_euclid(per_second);
    let local = seconds.saturating_add(offset_s(seconds, kind.zone));
    write_date(local.div_euclid(DAY_S), out);
    let of_day = local.rem_euclid(DAY_S) as u32;
    out.push(b' ');
    two(of_day / 3600, out);
    out.push(b':');
    two(of_day / 60 % 60, out);
    out.push(b':');
    two(of_day % 60, out);
    if kind.digits > 0 {
        out.push(b'.');
        let shown = fraction / kind.unit_per_tick();
        for place in (0..u32::from(kind.digits)).rev() {
            out.push(b'0' + (shown / 10i64.pow(place) % 10) as u8);
        }
    }
}

/// Seconds east of UTC at an instant.
fn offset_s(seconds: i64, zone: Option<chrono_tz::Tz>) -> i64 {
    let Some(zone) = zone else { return 0 };
    let Some(at) = chrono::DateTime::from_timestamp(seconds, 0) else { return 0 };
    i64::from(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc())
}

/// The instant of a local time, seconds since 1970.
fn instant_s(local: i64, zone: Option<chrono_tz::Tz>) -> i64 {
    let Some(zone) = zone else { return local };
    let Some(naive) = chrono::DateTime::from_timestamp(local, 0).map(|t| t.naive_utc()) else { return local };
    match zone.offset_from_local_datetime(&naive) {
        chrono::LocalResult::Single(o) | chrono::LocalResult::Ambiguous(o, _) => {
            local - i64::from(o.fix().local_minus_utc())
        }
        chrono::LocalResult::None => local - offset_s(local + DAY_S, Some(zone)),
    }
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
    fn eat(&mut self, c: u8) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }
    /// Between `least` and `most` digits.
    fn digits(&mut self, least: usize, most: usize) -> Option<i64> {
        let start = self.at;
        let mut v = 0i64;
        while self.at - start < most
            && let Some(c @ b'0'..=b'9') = self.peek()
        {
            v = v * 10 + i64::from(c - b'0');
            self.at += 1;
        }
        (self.at - start >= least).then_some(v)
    }
}

/// Reads all of `text` as a date: `YYYY-MM-DD` (or with a time after it, which is dropped),
/// `YYYYMMDD`, or a number of days up to 65535.
pub(crate) fn read_date(text: &[u8]) -> Option<i32> {
    if text.iter().all(u8::is_ascii_digit) {
        return match text.len() {
            1..=5 => std::str::from_utf8(text).ok()?.parse::<u16>().ok().map(i32::from),
            8 => {
                let mut s = Scan { text, at: 0 };
                let (y, m, d) = (s.digits(4, 4)?, s.digits(2, 2)?, s.digits(2, 2)?);
                days_of(y, m as u32, d as u32).map(|d| d as i32)
            }
            _ => None,
        };
    }
    let mut s = Scan { text, at: 0 };
    let days = date_part(&mut s)?;
    if s.at < text.len() {
        if !matches!(s.peek(), Some(b' ' | b'T')) {
            return None;
        }
        s.at += 1;
        clock_part(&mut s)?;
        zone_part(&mut s)?;
        if s.at < text.len() {
            return None;
        }
    }
    i32::try_from(days).ok()
}

fn date_part(s: &mut Scan) -> Option<i64> {
    let year = s.digits(4, 4)?;
    let separator = s.peek().filter(|c| matches!(c, b'-' | b'/'))?;
    s.at += 1;
    let month = s.digits(1, 2)?;
    if !s.eat(separator) {
        return None;
    }
    let day = s.digits(1, 2)?;
    if (year, month, day) == (0, 0, 0) {
        // What ClickHouse shows for a date that was never set.
        return Some(0);
    }
    days_of(year, month as u32, day as u32)
}

/// `hh:mm[:ss[.fraction]]`: seconds of the day and nanoseconds.
fn clock_part(s: &mut Scan) -> Option<(i64, i64)> {
    let hour = s.digits(1, 2)?;
    if !s.eat(b':') {
        return None;
    }
    let minute = s.digits(2, 2)?;
    let (mut second, mut nanos) = (0, 0);
    if s.eat(b':') {
        second = s.digits(2, 2)?;
        if s.peek() == Some(b'.') || s.peek() == Some(b',') {
            s.at += 1;
            let start = s.at;
            nanos = s.digits(1, 9)?;
            nanos *= 10i64.pow(9 - (s.at - start) as u32);
            // Digits beyond nanoseconds are cut.
            while matches!(s.peek(), Some(b'0'..=b'9')) {
                s.at += 1;
            }
        }
    }
    // A leap second is the second after it.
    (hour <= 23 && minute <= 59 && second <= 60).then_some((hour * 3600 + minute * 60 + second, nanos))
}

/// `Z`, `UTC`, `+hh:mm`, `+hhmm`, `+hh` or nothing: seconds east of UTC if given. The outer
/// `None` is a zone that does not parse.
fn zone_part(s: &mut Scan) -> Option<Option<i64>> {
    if s.peek() == Some(b' ') {
        s.at += 1;
    }
    if s.eat(b'Z') || s.eat(b'z') {
        return Some(Some(0));
    }
    let rest = &s.text[s.at..];
    if rest == b"UTC" || rest == b"GMT" {
        s.at += 3;
        return Some(Some(0));
    }
    let sign = match s.peek() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Some(None),
    };
    s.at += 1;
    let hour = s.digits(2, 2)?;
    s.eat(b':');
    let minute = s.digits(2, 2).unwrap_or(0);
    (hour <= 18 && minute <= 59).then_some(Some(sign * (hour * 3600 + minute * 60)))
}

/// Unix numbers at least this large count ticks, not seconds (as ClickHouse: the year 2284).
const SECONDS_MAX: i128 = 9_908_870_400;

/// Reads all of `text` as an instant, in ticks of the kind's Arrow unit.
///
/// Takes `YYYY-MM-DD[ hh:mm[:ss[.fraction]]]` in the kind's zone, the same with `T`, `Z` or an
/// offset (ISO 8601), and Unix numbers: seconds with or without fraction, or ticks of the
/// declared precision when too large for seconds. `best_effort` adds `YYYYMMDDhhmmss`,
/// numbers in ms, µs and ns by their length, and day-month-name forms.
pub(crate) fn read_time(text: &[u8], kind: &TimeKind, best_effort: bool) -> Option<i64> {
    let mut s = Scan { text, at: 0 };
    let dated = text.len() >= 8 && matches!(text[4], b'-' | b'/');
    let (seconds, nanos) = if dated {
        let days = date_part(&mut s)?;
        let (mut clock, mut nanos, mut offset) = (0, 0, None);
        if s.at < text.len() {
            if !matches!(s.peek(), Some(b' ' | b'T' | b't')) {
                return None;
            }
            s.at += 1;
            (clock, nanos) = clock_part(&mut s)?;
            offset = zone_part(&mut s)?;
            if s.at < text.len() {
                return None;
            }
        }
        let local = days * DAY_S + clock;
        // The zero date is the zero instant in every zone.
        let seconds = match offset {
            Some(o) => local - o,
            None if local == 0 && text.starts_with(b"0000") => 0,
            None => instant_s(local, kind.zone),
        };
        (seconds, nanos)
    } else {
        return match number(text, kind, best_effort) {
            Some(v) => Some(v),
            None if best_effort => wordy(text, kind),
            None => None,
        };
    };
    at_unit(seconds, nanos, kind)
}

/// Seconds and nanoseconds to ticks, cut to the declared precision.
fn at_unit(seconds: i64, nanos: i64, kind: &TimeKind) -> Option<i64> {
    let per_second = 10i64.pow(u32::from(kind.unit_digits));
    let ticks = seconds.checked_mul(per_second)?.checked_add(nanos / (1_000_000_000 / per_second))?;
    Some(ticks - ticks.rem_euclid(kind.unit_per_tick()))
}

fn number(text: &[u8], kind: &TimeKind, best_effort: bool) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1i128, rest),
        rest => (1, rest),
    };
    let mut s = Scan { text: digits, at: 0 };
    let whole = i128::from(s.digits(1, 18)?) * sign;
    if s.eat(b'.') {
        let start = s.at;
        let fraction = s.digits(1, 9)?;
        let nanos = fraction * 10i64.pow(9 - (s.at - start) as u32);
        while matches!(s.peek(), Some(b'0'..=b'9')) {
            s.at += 1;
        }
        if s.at < digits.len() {
            return None;
        }
        return at_unit(whole as i64, nanos * sign as i64, kind);
    }
    // A nineteenth digit: nanoseconds in this century.
    let whole = match s.peek() {
        Some(c @ b'0'..=b'9') => {
            s.at += 1;
            whole * 10 + sign * i128::from(c - b'0')
        }
        _ => whole,
    };
    if s.at < digits.len() {
        return None;
    }
    if best_effort {
        match digits.len() {
            14 => {
                let mut s = Scan { text: digits, at: 0 };
                let (y, mo, d) = (s.digits(4, 4)?, s.digits(2, 2)?, s.digits(2, 2)?);
                let (h, mi, se) = (s.digits(2, 2)?, s.digits(2, 2)?, s.digits(2, 2)?);
                if h > 23 || mi > 59 || se > 60 {
                    return None;
                }
                let local = days_of(y, mo as u32, d as u32)? * DAY_S + h * 3600 + mi * 60 + se;
                return at_unit(instant_s(local, kind.zone), 0, kind);
            }
            8 => {
                let local = i64::from(read_date(digits)?) * DAY_S;
                return at_unit(instant_s(local, kind.zone), 0, kind);
            }
            13 | 16 | 19 => {
                let per_second = 10i128.pow(digits.len() as u32 - 10);
                let nanos = whole.rem_euclid(per_second) * (1_000_000_000 / per_second);
                return at_unit(whole.div_euclid(per_second) as i64, nanos as i64, kind);
            }
            _ => {}
        }
    }
    if whole.abs() >= SECONDS_MAX && kind.digits > 0 {
        return i64::try_from(whole * i128::from(kind.unit_per_tick())).ok();
    }
    at_unit(i64::try_from(whole).ok()?, 0, kind)
}

/// `02 Jan 2024 03:04:05`, `Jan 2 2024`, `Tue, 02 Jan 2024 03:04:05 GMT`.
fn wordy(text: &[u8], kind: &TimeKind) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.replace(',', " ");
    let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let weekdays = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let (mut year, mut month, mut day, mut clock, mut offset) = (None, None, None, (0, 0), None);
    for word in text.split_ascii_whitespace() {
        let low = word.to_ascii_lowercase();
        let three = low.get(..3).unwrap_or("");
        if let Some(m) = months.iter().position(|m| *m == three) {
            month = Some(m as u32 + 1);
        } else if weekdays.contains(&three) {
        } else if word.contains(':') && !word.starts_with(['+', '-']) {
            let mut s = Scan { text: word.as_bytes(), at: 0 };
            clock = clock_part(&mut s)?;
            offset = zone_part(&mut s)?.or(offset);
            if s.at < word.len() {
                return None;
            }
        } else if word.len() == 4 && word.bytes().all(|c| c.is_ascii_digit()) {
            year = word.parse().ok();
        } else if word.len() <= 2 && word.bytes().all(|c| c.is_ascii_digit()) {
            day = word.parse().ok();
        } else {
            let mut s = Scan { text: word.as_bytes(), at: 0 };
            offset = Some(zone_part(&mut s)??);
            if s.at < word.len() {
                return None;
            }
        }
    }
    let local = days_of(year?, month?, day?)? * DAY_S + clock.0;
    at_unit(offset.map_or_else(|| instant_s(local, kind.zone), |o| local - o), clock.1, kind)
}
