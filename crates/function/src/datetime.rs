//! Dates and times. Calendar functions use the value's zone, or one given as last argument;
//! the stored instant never changes.

use crate::World;
use crate::scalar::{Args, Call, Scalar, Want, args, bad_value, opt};
use arrow::array::{Array, ArrayRef, AsArray, Date32Array, Int64Array, PrimitiveArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, FieldRef, Int64Type, TimeUnit, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use datafusion::common::{Result, ScalarValue, plan_err};
use std::sync::Arc;
use weir_format::types::Type;

const TIME_ZONE: Args = opt(&[Want::Time, Want::Str], 1);

/// Ticks a second of a time type, 0 for `date`.
pub(crate) fn ticks(t: &DataType) -> i64 {
    match t {
        DataType::Timestamp(TimeUnit::Second, _) => 1,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000_000_000,
        _ => 0,
    }
}

fn zone_named(name: &str) -> Result<Tz> {
    name.parse().map_err(|_| bad_value(format!("unknown time zone '{name}'")))
}

/// The zone calendar fields are taken in: the argument's, else the value's own.
fn zone(call: &Call, argument: usize) -> Result<Tz> {
    if let Some(name) = call.constant_str(argument, "the time zone")? {
        return zone_named(&name);
    }
    match call.args[0].data_type() {
        DataType::Timestamp(_, Some(tz)) => zone_named(tz),
        _ => Ok(Tz::UTC),
    }
}

/// Seconds since the epoch and the nanoseconds after them, for each value.
fn instants(array: &ArrayRef) -> Result<Vec<(i64, u32)>> {
    if let DataType::Date32 = array.data_type() {
        let days = array.as_primitive::<arrow::datatypes::Date32Type>();
        return Ok(days.values().iter().map(|d| (i64::from(*d) * 86_400, 0)).collect());
    }
    let per = ticks(array.data_type());
    let raw = cast(array, &DataType::Int64)?;
    let nanos = 1_000_000_000 / per;
    Ok(raw
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .map(|v| (v.div_euclid(per), (v.rem_euclid(per) * nanos) as u32))
        .collect())
}

/// Wall clock time in `tz`. Days before year −262144 or after 262143 are clamped.
fn local(tz: Tz, (seconds, nanos): (i64, u32)) -> NaiveDateTime {
    let utc = DateTime::from_timestamp(seconds, nanos)
        .unwrap_or(if seconds < 0 {
            DateTime::<chrono::Utc>::MIN_UTC
        } else {
            DateTime::<chrono::Utc>::MAX_UTC
        })
        .naive_utc();
    if tz == Tz::UTC { utc } else { utc + TimeDelta::seconds(offset(tz, &utc)) }
}

fn offset(tz: Tz, utc: &NaiveDateTime) -> i64 {
    i64::from(tz.offset_from_utc_datetime(utc).fix().local_minus_utc())
}

/// The instant of a wall clock time; the earlier where it is twice, after the gap where it
/// is not at all.
fn instant_of(tz: Tz, at: NaiveDateTime) -> i64 {
    if tz == Tz::UTC {
        return at.and_utc().timestamp();
    }
    match tz.from_local_datetime(&at).earliest() {
        Some(t) => t.timestamp(),
        None => at.and_utc().timestamp() - offset(tz, &(at - TimeDelta::days(1))),
    }
}

fn field<T: ArrowPrimitiveType>(
    name: &'static str,
    aliases: &[&str],
    docs: &'static str,
    of: fn(&NaiveDateTime) -> T::Native,
) -> Scalar
where
    T::Native: Send + Sync,
{
    let result = match T::DATA_TYPE {
        DataType::UInt8 => Type::UInt8,
        DataType::UInt16 => Type::UInt16,
        DataType::UInt64 => Type::UInt64,
        _ => Type::UInt32,
    };
    Scalar::new(name, "f(time[, zone])", docs, TIME_ZONE, result, move |call| {
        let tz = zone(call, 1)?;
        let values = instants(&call.args[0])?;
        Ok(Arc::new(PrimitiveArray::<T>::from_iter_values(values.into_iter().map(|v| of(&local(tz, v))))))
    })
    .aliases(aliases)
}

fn start_date(
    name: &'static str,
    aliases: &[&str],
    docs: &'static str,
    of: fn(NaiveDate) -> NaiveDate,
) -> Scalar {
    Scalar::new(name, "f(time[, zone])", docs, TIME_ZONE, Type::Date, move |call| {
        let tz = zone(call, 1)?;
        let values = instants(&call.args[0])?;
        let days = values.into_iter().map(|v| days_of(of(local(tz, v).date())));
        Ok(Arc::new(Date32Array::from_iter_values(days)))
    })
    .aliases(aliases)
}

fn days_of(date: NaiveDate) -> i32 {
    date.num_days_from_ce() - 719_163
}

fn first_of_month(d: NaiveDate) -> NaiveDate {
    d.with_day(1).expect("every month has a first day")
}
fn first_of_quarter(d: NaiveDate) -> NaiveDate {
    first_of_month(d).with_month0(d.month0() / 3 * 3).expect("the first exists in every month")
}
fn first_of_year(d: NaiveDate) -> NaiveDate {
    NaiveDate::from_ymd_opt(d.year(), 1, 1).unwrap_or(d)
}
fn monday(d: NaiveDate) -> NaiveDate {
    d - TimeDelta::days(i64::from(d.weekday().num_days_from_monday()))
}
fn sunday(d: NaiveDate) -> NaiveDate {
    d - TimeDelta::days(i64::from(d.weekday().num_days_from_sunday()))
}

/// `datetime` in the argument's zone.
fn datetime_like(fields: &[FieldRef], constants: &[Option<&ScalarValue>], zone_at: usize) -> Type {
    let named = match constants.get(zone_at) {
        Some(Some(ScalarValue::Utf8(Some(z)))) => Some(Arc::from(z.as_str())),
        _ => None,
    };
    let own = match fields[0].data_type() {
        DataType::Timestamp(_, Some(z)) if &**z != "UTC" => Some(z.clone()),
        _ => None,
    };
    Type::DateTime(named.or(own))
}

/// Rounds down to a multiple of `seconds` of the wall clock.
fn start_seconds(name: &'static str, docs: &'static str, seconds: i64) -> Scalar {
    Scalar::new(name, "f(time[, zone])", docs, TIME_ZONE, Type::DateTime(None), move |call| {
        let tz = zone(call, 1)?;
        let values = instants(&call.args[0])?;
        let starts = values.into_iter().map(|(s, nanos)| floor_wall(tz, s, nanos, seconds));
        seconds_array(starts, call)
    })
    .result(|fields, constants| Ok(datetime_like(fields, constants, 1).field("")))
}

fn floor_wall(tz: Tz, s: i64, nanos: u32, step: i64) -> i64 {
    if tz == Tz::UTC {
        return s.div_euclid(step) * step;
    }
    let wall = local(tz, (s, nanos)).and_utc().timestamp();
    if step == 86_400 {
        // A day may have 23 or 25 hours: go by the wall clock.
        return instant_of(
            tz,
            local(tz, (s, nanos)).date().and_hms_opt(0, 0, 0).expect("midnight is a time"),
        );
    }
    s - (wall - wall.div_euclid(step) * step)
}

fn seconds_array(values: impl Iterator<Item = i64>, call: &Call) -> Result<ArrayRef> {
    let array = PrimitiveArray::<TimestampSecondType>::from_iter_values(values);
    Ok(match call.result.data_type() {
        DataType::Timestamp(TimeUnit::Second, Some(tz)) => Arc::new(array.with_timezone(tz.clone())),
        other => cast(&array, other)?,
    })
}

/// A constant interval as (months, days, nanoseconds).
fn interval(value: Option<&ScalarValue>, function: &str) -> Result<(i32, i32, i64)> {
    match value {
        Some(ScalarValue::IntervalMonthDayNano(Some(i))) => Ok((i.months, i.days, i.nanoseconds)),
        Some(ScalarValue::IntervalYearMonth(Some(m))) => Ok((*m, 0, 0)),
        Some(ScalarValue::IntervalDayTime(Some(i))) => Ok((0, i.days, i64::from(i.milliseconds) * 1_000_000)),
        _ => plan_err!("{function} takes a constant interval such as INTERVAL 5 MINUTE or 5m"),
    }
}

fn to_start_of_interval() -> Scalar {
    const ARGS: Args = opt(&[Want::Time, Want::Any, Want::Str], 1);
    Scalar::new(
        "to_start_of_interval",
        "to_start_of_interval(time, interval[, zone])",
        "start of the interval that holds the time, counted from the Unix epoch (weeks from a Monday)",
        ARGS,
        Type::DateTime(None),
        |call| {
            let tz = zone(call, 2)?;
            let (months, days, nanos) = interval(call.constants[1].as_ref(), "to_start_of_interval")?;
            let values = instants(&call.args[0])?;
            match (months, days, nanos) {
                (m, 0, 0) if m > 0 => {
                    let starts = values.into_iter().map(|v| {
                        let d = local(tz, v).date();
                        let n = (i64::from(d.year()) * 12 + i64::from(d.month0())).div_euclid(i64::from(m))
                            * i64::from(m);
                        NaiveDate::from_ymd_opt(n.div_euclid(12) as i32, n.rem_euclid(12) as u32 + 1, 1)
                            .map_or(0, days_of)
                    });
                    Ok(Arc::new(Date32Array::from_iter_values(starts)) as ArrayRef)
                }
                (0, d, 0) if d > 0 && d % 7 == 0 => {
                    let starts = values.into_iter().map(|v| {
                        // 1970-01-05 was a Monday.
                        (days_of(local(tz, v).date()) - 4).div_euclid(d) * d + 4
                    });
                    Ok(Arc::new(Date32Array::from_iter_values(starts)))
                }
                (0, d, 0) if d > 0 => {
                    let starts = values.into_iter().map(|v| {
                        let day = days_of(local(tz, v).date()).div_euclid(d) * d;
                        let date = NaiveDate::from_num_days_from_ce_opt(day + 719_163).unwrap_or_default();
                        instant_of(tz, date.and_hms_opt(0, 0, 0).expect("midnight is a time"))
                    });
                    seconds_array(starts, call)
                }
                (0, 0, n) if n > 0 && n % 1_000_000_000 == 0 => {
                    let step = n / 1_000_000_000;
                    seconds_array(values.into_iter().map(|(s, _)| s.div_euclid(step) * step), call)
                }
                (0, 0, n) if n > 0 => {
                    let starts = values.into_iter().map(|(s, f)| {
                        let t = i128::from(s) * 1_000_000_000 + i128::from(f);
                        (t.div_euclid(i128::from(n)) * i128::from(n)) as i64
                    });
                    let array = arrow::array::TimestampNanosecondArray::from_iter_values(starts);
                    Ok(cast(&array.with_timezone("UTC"), call.result.data_type())?)
                }
                _ => plan_err!("to_start_of_interval takes a positive interval of one unit"),
            }
        },
    )
    .result(|fields, constants| {
        let (months, days, nanos) = interval(constants[1], "to_start_of_interval")?;
        let t = match (months, days, nanos) {
            (0, d, 0) if d % 7 != 0 => datetime_like(fields, constants, 2),
            (_, _, 0) => Type::Date,
            (_, _, n) if n % 1_000_000_000 == 0 => datetime_like(fields, constants, 2),
            (_, _, n) => Type::DateTime64(
                if n % 1_000_000 == 0 {
                    3
                } else if n % 1_000 == 0 {
                    6
                } else {
                    9
                },
                None,
            ),
        };
        Ok(t.field(""))
    })
}

/// `add_<unit>s` / `subtract_<unit>s`: the type of the time argument is kept; a date plus
/// hours or less becomes a datetime.
fn shift(name: &'static str, unit: Unit, sign: i64) -> Scalar {
    const ARGS: Args = args(&[Want::Time, Want::Int]);
    Scalar::new(name, "f(time, n)", "the time moved by n units", ARGS, Type::DateTime(None), move |call| {
        let by = call.int(1);
        let t = call.args[0].data_type().clone();
        let tz = zone(call, 9)?;
        if matches!(call.result.data_type(), DataType::Date32) {
            let days = call.args[0].as_primitive::<arrow::datatypes::Date32Type>();
            let moved = days.values().iter().zip(by.values()).map(|(d, n)| {
                let date = NaiveDate::from_num_days_from_ce_opt(*d + 719_163).unwrap_or_default();
                unit.add(date.and_hms_opt(0, 0, 0).expect("midnight is a time"), sign.saturating_mul(*n))
                    .map_or(*d, |t| days_of(t.date()))
            });
            return Ok(Arc::new(Date32Array::from_iter_values(moved)));
        }
        let per = ticks(&t).max(1);
        let moved = instants(&call.args[0])?.into_iter().zip(by.values()).map(|((s, nanos), n)| {
            let n = sign.saturating_mul(*n);
            let s = match unit.seconds() {
                Some(step) => s.saturating_add(n.saturating_mul(step)),
                None => unit.add(local(tz, (s, nanos)), n).map_or(s, |w| instant_of(tz, w)),
            };
            s.saturating_mul(per) + i64::from(nanos) / (1_000_000_000 / per)
        });
        let raw = Int64Array::from_iter_values(moved);
        let stored = match call.result.data_type() {
            DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, None),
            other => other.clone(),
        };
        Ok(cast(&cast(&raw, &stored)?, call.result.data_type())?)
    })
    .result(move |fields, _| {
        let keeps = !matches!(fields[0].data_type(), DataType::Date32) || unit.is_calendar();
        Ok(if keeps { fields[0].as_ref().clone() } else { Type::DateTime(None).field("") })
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    fn parse(text: &str) -> Option<Unit> {
        let t = text.to_ascii_lowercase();
        Some(match t.trim_end_matches('s') {
            "second" | "" => Unit::Second,
            "minute" | "mi" => Unit::Minute,
            "hour" | "hh" | "h" => Unit::Hour,
            "day" | "dd" | "d" => Unit::Day,
            "week" | "wk" | "ww" => Unit::Week,
            "month" | "mm" => Unit::Month,
            "quarter" | "qq" | "q" => Unit::Quarter,
            "year" | "yyyy" | "yy" => Unit::Year,
            _ => return None,
        })
    }
    fn is_calendar(self) -> bool {
        !matches!(self, Unit::Second | Unit::Minute | Unit::Hour)
    }
    fn seconds(self) -> Option<i64> {
        match self {
            Unit::Second => Some(1),
            Unit::Minute => Some(60),
            Unit::Hour => Some(3_600),
            _ => None,
        }
    }
    fn add(self, at: NaiveDateTime, n: i64) -> Option<NaiveDateTime> {
        let months = |per: i64| {
            let n = n.checked_mul(per)?;
            let m = Months::new(u32::try_from(n.unsigned_abs()).ok()?);
            if n < 0 { at.checked_sub_months(m) } else { at.checked_add_months(m) }
        };
        match self {
            Unit::Day => at.checked_add_signed(TimeDelta::try_days(n)?),
            Unit::Week => at.checked_add_signed(TimeDelta::try_weeks(n)?),
            Unit::Month => months(1),
            Unit::Quarter => months(3),
            Unit::Year => months(12),
            _ => at.checked_add_signed(TimeDelta::try_seconds(n.checked_mul(self.seconds()?)?)?),
        }
    }
    /// Number of unit borders between the epoch and the wall clock time.
    fn index(self, t: &NaiveDateTime) -> i64 {
        let seconds = t.and_utc().timestamp();
        let months = i64::from(t.year()) * 12 + i64::from(t.month0());
        match self {
            Unit::Second => seconds,
            Unit::Minute => seconds.div_euclid(60),
            Unit::Hour => seconds.div_euclid(3_600),
            Unit::Day => i64::from(days_of(t.date())),
            Unit::Week => (i64::from(days_of(t.date())) + 3).div_euclid(7),
            Unit::Month => months,
            Unit::Quarter => months.div_euclid(3),
            Unit::Year => i64::from(t.year()),
        }
    }
}

fn date_diff() -> Scalar {
    const ARGS: Args = opt(&[Want::Str, Want::Time, Want::Time, Want::Str], 1);
    Scalar::new(
        "date_diff",
        "date_diff('unit', from, to[, zone])",
        "number of borders of the unit between two times",
        ARGS,
        Type::Int64,
        |call| {
            let name = call.constant_str(0, "the unit")?.unwrap_or_default();
            let Some(unit) = Unit::parse(&name) else {
                return plan_err!("date_diff knows no unit '{name}'; use second, minute, hour, day, week, month, quarter or year");
            };
            let tz = match call.constant_str(3, "the time zone")? {
                Some(z) => zone_named(&z)?,
                None => match call.args[1].data_type() {
                    DataType::Timestamp(_, Some(z)) => zone_named(z)?,
                    _ => Tz::UTC,
                },
            };
            let (from, to) = (instants(&call.args[1])?, instants(&call.args[2])?);
            let diffs = from.into_iter().zip(to).map(|(a, b)| unit.index(&local(tz, b)) - unit.index(&local(tz, a)));
            Ok(Arc::new(Int64Array::from_iter_values(diffs)))
        },
    )
    .aliases(&["datediff", "timestamp_diff"])
}

fn date_trunc() -> Scalar {
    const ARGS: Args = opt(&[Want::Str, Want::Time, Want::Str], 1);
    Scalar::new(
        "date_trunc",
        "date_trunc('unit', time[, zone])",
        "start of the unit that holds the time, as datetime",
        ARGS,
        Type::DateTime(None),
        |call| {
            let name = call.constant_str(0, "the unit")?.unwrap_or_default();
            let Some(unit) = Unit::parse(&name) else {
                return plan_err!("date_trunc knows no unit '{name}'");
            };
            let tz = match call.result.data_type() {
                DataType::Timestamp(_, Some(z)) => zone_named(z)?,
                _ => Tz::UTC,
            };
            let starts = instants(&call.args[1])?.into_iter().map(|(s, nanos)| {
                let d = || local(tz, (s, nanos)).date();
                let midnight =
                    |d: NaiveDate| instant_of(tz, d.and_hms_opt(0, 0, 0).expect("midnight is a time"));
                match unit {
                    Unit::Second => s,
                    Unit::Minute => floor_wall(tz, s, nanos, 60),
                    Unit::Hour => floor_wall(tz, s, nanos, 3_600),
                    Unit::Day => midnight(d()),
                    Unit::Week => midnight(monday(d())),
                    Unit::Month => midnight(first_of_month(d())),
                    Unit::Quarter => midnight(first_of_quarter(d())),
                    Unit::Year => midnight(first_of_year(d())),
                }
            });
            seconds_array(starts, call)
        },
    )
    .result(|fields, constants| Ok(datetime_like(&fields[1..], &constants[1..], 1).field("")))
}

fn format_datetime() -> Scalar {
    const ARGS: Args = opt(&[Want::Time, Want::Str, Want::Str], 1);
    Scalar::new(
        "format_datetime",
        "format_datetime(time, '%Y-%m-%d %H:%i:%S'[, zone])",
        "the time as text; specifiers are MySQL's",
        ARGS,
        Type::String,
        |call| {
            let tz = zone(call, 2)?;
            let formats = call.str(1);
            let texts = instants(&call.args[0])?.into_iter().enumerate().map(|(i, v)| {
                if formats.is_null(i) { String::new() } else { mysql_format(&local(tz, v), formats.value(i)) }
            });
            Ok(Arc::new(StringArray::from_iter_values(texts)))
        },
    )
}

fn mysql_format(t: &NaiveDateTime, format: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(format.len() + 16);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let h12 = (t.hour() + 11) % 12 + 1;
        let written = match chars.next() {
            Some('Y') => write!(out, "{:04}", t.year()),
            Some('y') => write!(out, "{:02}", t.year().rem_euclid(100)),
            Some('m') => write!(out, "{:02}", t.month()),
            Some('c') => write!(out, "{}", t.month()),
            Some('d') => write!(out, "{:02}", t.day()),
            Some('e') => write!(out, "{:>2}", t.day()),
            Some('j') => write!(out, "{:03}", t.ordinal()),
            Some('H' | 'k') => write!(out, "{:02}", t.hour()),
            Some('h' | 'I' | 'l') => write!(out, "{h12:02}"),
            Some('i') => write!(out, "{:02}", t.minute()),
            Some('s' | 'S') => write!(out, "{:02}", t.second()),
            Some('f') => write!(out, "{:06}", t.nanosecond() / 1_000),
            Some('p') => write!(out, "{}", if t.hour() < 12 { "AM" } else { "PM" }),
            Some('F') => write!(out, "{}", t.format("%Y-%m-%d")),
            Some('T') => write!(out, "{}", t.format("%H:%M:%S")),
            Some('R') => write!(out, "{}", t.format("%H:%M")),
            Some('D') => write!(out, "{}", t.format("%m/%d/%y")),
            Some('a') => write!(out, "{}", t.format("%a")),
            Some('W') => write!(out, "{}", t.format("%A")),
            Some('b') => write!(out, "{}", t.format("%b")),
            Some('M') => write!(out, "{}", t.format("%B")),
            Some('u') => write!(out, "{}", t.weekday().number_from_monday()),
            Some('w') => write!(out, "{}", t.weekday().num_days_from_sunday()),
            Some('G') => write!(out, "{:04}", t.iso_week().year()),
            Some('V') => write!(out, "{:02}", t.iso_week().week()),
            Some('n') => writeln!(out),
            Some('t') => write!(out, "\t"),
            Some('%') => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
            None => write!(out, "%"),
        };
        written.expect("writing to a String cannot fail");
    }
    out
}

fn to_timezone() -> Scalar {
    const ARGS: Args = args(&[Want::Time, Want::Str]);
    Scalar::new(
        "to_timezone",
        "to_timezone(time, 'zone')",
        "the same instant, shown in another zone",
        ARGS,
        Type::DateTime(None),
        |call| Ok(cast(&call.args[0], call.result.data_type())?),
    )
    .result(|fields, constants| {
        let Some(Some(ScalarValue::Utf8(Some(z)))) = constants.get(1) else {
            return plan_err!("to_timezone takes a constant time zone such as 'Europe/Berlin'");
        };
        zone_named(z)?;
        let zone = Some(Arc::from(z.as_str()));
        match Type::of_field(&fields[0]).map(|t| t.inner().clone()) {
            Some(Type::DateTime64(p, _)) => Ok(Type::DateTime64(p, zone).field("")),
            Some(Type::DateTime(_)) => Ok(Type::DateTime(zone).field("")),
            _ => plan_err!("to_timezone takes a datetime or datetime64"),
        }
    })
}

fn constant_time(call: &Call, now_us: i64) -> Result<ArrayRef> {
    let us = arrow::array::TimestampMicrosecondArray::from(vec![now_us; call.rows]).with_timezone("UTC");
    Ok(cast(&us, call.result.data_type())?)
}

pub(crate) fn functions(world: &World) -> Vec<Scalar> {
    let mut all = vec![
        field::<UInt16Type>("to_year", &["year"], "the year", |t| t.year() as u16),
        field::<UInt8Type>("to_quarter", &["quarter"], "1 to 4", |t| (t.month0() / 3 + 1) as u8),
        field::<UInt8Type>("to_month", &["month"], "1 to 12", |t| t.month() as u8),
        field::<UInt16Type>("to_day_of_year", &["day_of_year"], "1 to 366", |t| t.ordinal() as u16),
        field::<UInt8Type>("to_day_of_month", &["day", "day_of_month", "to_day"], "1 to 31", |t| {
            t.day() as u8
        }),
        field::<UInt8Type>("to_day_of_week", &["day_of_week"], "1 = Monday to 7", |t| {
            t.weekday().number_from_monday() as u8
        }),
        field::<UInt8Type>("to_hour", &["hour"], "0 to 23", |t| t.hour() as u8),
        field::<UInt8Type>("to_minute", &["minute"], "0 to 59", |t| t.minute() as u8),
        field::<UInt8Type>("to_second", &["second"], "0 to 59", |t| t.second() as u8),
        field::<UInt8Type>("to_iso_week", &[], "ISO week, 1 to 53", |t| t.iso_week().week() as u8),
        field::<UInt32Type>("to_yyyymm", &["to_YYYYMM"], "year and month as one number", |t| {
            t.year() as u32 * 100 + t.month()
        }),
        field::<UInt32Type>("to_yyyymmdd", &["to_YYYYMMDD"], "the date as one number", |t| {
            (t.year() as u32 * 100 + t.month()) * 100 + t.day()
        }),
        field::<UInt64Type>(
            "to_yyyymmddhhmmss",
            &["to_YYYYMMDDhhmmss"],
            "date and time as one number",
            |t| {
                let date = (t.year() as u64 * 100 + u64::from(t.month())) * 100 + u64::from(t.day());
                ((date * 100 + u64::from(t.hour())) * 100 + u64::from(t.minute())) * 100
                    + u64::from(t.second())
            },
        ),
        start_date("to_start_of_year", &[], "first day of the year", first_of_year),
        start_date("to_start_of_quarter", &[], "first day of the quarter", first_of_quarter),
        start_date("to_start_of_month", &[], "first day of the month", first_of_month),
        start_date("to_start_of_week", &[], "the Sunday on or before", sunday),
        start_date("to_monday", &[], "the Monday on or before", monday),
        start_seconds("to_start_of_day", "midnight", 86_400),
        start_seconds("to_start_of_hour", "start of the hour", 3_600),
        start_seconds("to_start_of_fifteen_minutes", "start of the quarter of an hour", 900),
        start_seconds("to_start_of_ten_minutes", "start of the ten minutes", 600),
        start_seconds("to_start_of_five_minutes", "start of the five minutes", 300),
        start_seconds("to_start_of_minute", "start of the minute", 60),
        start_seconds("to_start_of_second", "start of the second", 1),
        to_start_of_interval(),
        date_diff(),
        date_trunc(),
        format_datetime(),
        to_timezone(),
    ];
    for (name, unit, sign) in [
        ("add_seconds", Unit::Second, 1),
        ("add_minutes", Unit::Minute, 1),
        ("add_hours", Unit::Hour, 1),
        ("add_days", Unit::Day, 1),
        ("add_weeks", Unit::Week, 1),
        ("add_months", Unit::Month, 1),
        ("add_quarters", Unit::Quarter, 1),
        ("add_years", Unit::Year, 1),
        ("subtract_seconds", Unit::Second, -1),
        ("subtract_minutes", Unit::Minute, -1),
        ("subtract_hours", Unit::Hour, -1),
        ("subtract_days", Unit::Day, -1),
        ("subtract_weeks", Unit::Week, -1),
        ("subtract_months", Unit::Month, -1),
        ("subtract_quarters", Unit::Quarter, -1),
        ("subtract_years", Unit::Year, -1),
    ] {
        all.push(shift(name, unit, sign));
    }
    all.push(Scalar::new(
        "to_unix_timestamp",
        "to_unix_timestamp(time)",
        "seconds since 1970-01-01 00:00:00 UTC",
        args(&[Want::Time]),
        Type::UInt32,
        |call| {
            let seconds =
                instants(&call.args[0])?.into_iter().map(|(s, _)| s.clamp(0, i64::from(u32::MAX)) as u32);
            Ok(Arc::new(PrimitiveArray::<UInt32Type>::from_iter_values(seconds)))
        },
    ));
    for (name, per) in [
        ("to_unix_timestamp64_milli", 1_000i64),
        ("to_unix_timestamp64_micro", 1_000_000),
        ("to_unix_timestamp64_nano", 1_000_000_000),
    ] {
        all.push(Scalar::new(
            name,
            "f(time)",
            "units since the Unix epoch",
            args(&[Want::Time]),
            Type::Int64,
            move |call| {
                let scaled = instants(&call.args[0])?
                    .into_iter()
                    .map(|(s, n)| s.saturating_mul(per).saturating_add(i64::from(n) / (1_000_000_000 / per)));
                Ok(Arc::new(Int64Array::from_iter_values(scaled)))
            },
        ));
    }
    for (name, digits) in [
        ("from_unix_timestamp", 0u8),
        ("from_unix_timestamp64_milli", 3),
        ("from_unix_timestamp64_micro", 6),
        ("from_unix_timestamp64_nano", 9),
    ] {
        let t = if digits == 0 { Type::DateTime(None) } else { Type::DateTime64(digits, None) };
        all.push(Scalar::new(
            name,
            "f(n)",
            "the time that many units after the Unix epoch",
            args(&[Want::Int]),
            t,
            |call| {
                let DataType::Timestamp(unit, _) = call.result.data_type() else {
                    return plan_err!("not a timestamp");
                };
                let naive = cast(&call.args[0], &DataType::Timestamp(*unit, None))?;
                Ok(cast(&naive, call.result.data_type())?)
            },
        ));
    }
    let clock = world.clock.clone();
    all.push(
        Scalar::new(
            "now",
            "now([zone])",
            "the time of the batch",
            opt(&[Want::Str], 1),
            Type::DateTime(None),
            {
                let clock = clock.clone();
                move |call| constant_time(call, clock.now_us())
            },
        )
        .result(|_, constants| Ok(now_type(constants, 0, None)?.field("")))
        .aliases(&["current_timestamp"])
        .volatile(),
    );
    all.push(
        Scalar::new(
            "now64",
            "now64([digits[, zone]])",
            "the time of the batch, with fractions",
            opt(&[Want::Any, Want::Str], 2),
            Type::DateTime64(3, None),
            {
                let clock = clock.clone();
                move |call| constant_time(call, clock.now_us())
            },
        )
        .result(|_, constants| {
            let digits = match constants.first() {
                None => 3,
                Some(Some(v)) => match v.cast_to(&DataType::Int64)? {
                    ScalarValue::Int64(Some(n)) if (0..=9).contains(&n) => n as u8,
                    _ => return plan_err!("now64 takes a precision of 0 to 9"),
                },
                Some(None) => return plan_err!("now64 takes a constant precision"),
            };
            Ok(now_type(constants, 1, Some(digits))?.field(""))
        })
        .volatile(),
    );
    for (name, back) in [("today", 0), ("yesterday", 1)] {
        let clock = clock.clone();
        all.push(
            Scalar::new(name, "f()", "the date in UTC", args(&[]), Type::Date, move |call| {
                let day = clock.now_us().div_euclid(86_400_000_000) as i32 - back;
                Ok(Arc::new(Date32Array::from(vec![day; call.rows])))
            })
            .volatile(),
        );
    }
    all
}

fn now_type(constants: &[Option<&ScalarValue>], zone_at: usize, digits: Option<u8>) -> Result<Type> {
    let zone = match constants.get(zone_at) {
        None => None,
        Some(Some(ScalarValue::Utf8(Some(z)))) => {
            zone_named(z)?;
            Some(Arc::from(z.as_str()))
        }
        Some(_) => return plan_err!("the time zone must be a constant string"),
    };
    Ok(match digits {
        None => Type::DateTime(zone),
        Some(d) => Type::DateTime64(d, zone),
    })
}
