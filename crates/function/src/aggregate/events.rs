//! Aggregates over events on a line: `window_funnel`, `retention`, `delta_sum_timestamp`, `xirr`,
//! `max_intersections`, `interval_length_sum`, `sequence_match`, `exponential_moving_average`, `avg_time_weighted`.
//!
//! An event is a place on the line and a word. Events are sorted when a result is wanted, by both, so that
//! the order in which rows came changes nothing.

use super::own::{Own, constant};
use super::sequence::{Step, count, matches, parse};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, TimeUnit, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use std::sync::Arc;

/// Steps of a funnel, conditions of `retention`.
const CONDITIONS_MAX: usize = 32;
const SECONDS_PER_YEAR: f64 = 365.0 * 86_400.0;
const RATE_GUESS: f64 = 0.1;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Finish {
    /// Steps reached within so long; words are steps, from 1.
    Funnel {
        window: i64,
        steps: usize,
    },
    /// Which conditions held; a word has a bit for each.
    Retention {
        conditions: usize,
    },
    /// Sum of what values rose by, one behind the other; words are of the value's type.
    DeltaSum,
    /// The rate at which payments are worth nothing; places are seconds.
    Xirr {
        guess: f64,
    },
    /// Most intervals at a time, or the first place with so many; words are +1 and -1.
    Intersections,
    Position,
    /// Length of what intervals cover; words are their ends.
    Covered,
    /// Events that follow each other as a pattern says; words have a bit for each condition.
    Match {
        conditions: usize,
        counts: bool,
    },
    /// Values that count half after so long.
    Fading {
        half_life: f64,
    },
    /// The mean over time of values that hold until the next.
    OverTime,
}

#[derive(Debug)]
struct Events {
    finish: Finish,
    /// Of the result.
    output: DataType,
    /// Of a pattern.
    steps: Vec<Step>,
    events: Vec<(i64, u64)>,
}

/// Integers and times as int64.
fn whole(array: &ArrayRef) -> Result<Int64Array> {
    let array = match array.data_type() {
        DataType::Date32 => cast(array, &DataType::Int32)?,
        _ => array.clone(),
    };
    Ok(cast(&array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// Numbers as words: integers in 64 bits, others as floats.
fn words(array: &ArrayRef) -> Result<UInt64Array> {
    let t = array.data_type();
    if t.is_unsigned_integer() {
        return Ok(cast(array, &DataType::UInt64)?.as_primitive::<UInt64Type>().clone());
    }
    if t.is_integer() {
        let wide = cast(array, &DataType::Int64)?;
        return Ok(wide.as_primitive::<Int64Type>().unary(|v| v as u64));
    }
    let wide = cast(array, &DataType::Float64)?;
    Ok(wide.as_primitive::<Float64Type>().unary(f64::to_bits))
}

fn holds(array: &ArrayRef, row: usize) -> bool {
    let held = array.as_boolean();
    held.is_valid(row) && held.value(row)
}

impl Events {
    fn of(args: &AccumulatorArgs<'_>, finish: Finish) -> Box<dyn Accumulator> {
        let output = args.return_field.data_type().clone();
        Box::new(Events { finish, output, steps: Vec::new(), events: Vec::new() })
    }

    fn sorted(&self) -> Vec<(i64, u64)> {
        let mut all = self.events.clone();
        match self.finish {
            // Of one time the last step comes first, so that a row takes one step.
            Finish::Funnel { .. } => all.sort_unstable_by_key(|(at, step)| (*at, std::cmp::Reverse(*step))),
            // An interval that ends where another begins does not meet it.
            Finish::Intersections | Finish::Position => all.sort_unstable_by_key(|(at, w)| (*at, *w as i64)),
            _ => all.sort_unstable(),
        }
        all
    }

    fn scalar(&self, wide: ScalarValue) -> Result<ScalarValue> {
        wide.cast_to(&self.output)
    }
}

fn funnel(events: &[(i64, u64)], window: i64, steps: usize) -> u8 {
    // Of each step: when the chain that reached it began.
    let mut began: Vec<Option<i64>> = vec![None; steps];
    for (at, step) in events {
        let step = *step as usize - 1;
        if step == 0 {
            began[0] = Some(*at);
        } else if let Some(first) = began[step - 1]
            && *at <= first.saturating_add(window)
        {
            began[step] = Some(first);
            if step + 1 == steps {
                return steps as u8;
            }
        }
    }
    began.iter().rposition(Option::is_some).map_or(0, |step| step as u8 + 1)
}

/// What values rose by in all. Words order as they came.
fn rises(words: impl Iterator<Item = u64>, output: &DataType) -> ScalarValue {
    let all: Vec<u64> = words.collect();
    let pairs = all.windows(2).map(|w| (w[0], w[1]));
    if output.is_unsigned_integer() {
        let sum = pairs.filter(|(a, b)| b > a).fold(0u64, |sum, (a, b)| sum.wrapping_add(b - a));
        return ScalarValue::UInt64(Some(sum));
    }
    if output.is_integer() {
        let signed = pairs.map(|(a, b)| (a as i64, b as i64)).filter(|(a, b)| b > a);
        return ScalarValue::Int64(Some(signed.fold(0i64, |s, (a, b)| s.wrapping_add(b.wrapping_sub(a)))));
    }
    let floats = pairs.map(|(a, b)| f64::from_bits(b) - f64::from_bits(a)).filter(|d| *d > 0.0);
    ScalarValue::Float64(Some(floats.sum::<f64>() + 0.0))
}

/// Sums of rises, for values in the order of their rows.
pub(super) fn delta_sum(values: &ArrayRef, output: &DataType) -> Result<ScalarValue> {
    rises(words(values)?.iter().flatten(), output).cast_to(output)
}

/// The rate at which payments, each with its second, are worth nothing at the first of them.
fn xirr(payments: &[(i64, f64)], guess: f64) -> f64 {
    let Some((first, _)) = payments.first() else { return f64::NAN };
    let years = |at: i64| (at - first) as f64 / SECONDS_PER_YEAR;
    let worth = |rate: f64| payments.iter().map(|(at, p)| p / (1.0 + rate).powf(years(*at))).sum::<f64>();
    let slope = |rate: f64| {
        let of = |(at, p): &(i64, f64)| -years(*at) * p / (1.0 + rate).powf(years(*at) + 1.0);
        payments.iter().map(of).sum::<f64>()
    };
    let mut rate = guess;
    for _ in 0..100 {
        let next = rate - worth(rate) / slope(rate);
        if !next.is_finite() || next <= -1.0 {
            break;
        }
        if (next - rate).abs() < 1e-12 {
            return next;
        }
        rate = next;
    }
    // Newton ran away: halve an interval, if the worth changes its sign there.
    let (mut low, mut high) = (-0.999_999, 1e6);
    if worth(low).signum() == worth(high).signum() {
        return f64::NAN;
    }
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if worth(middle).signum() == worth(low).signum() { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The greatest number of intervals at a time, and where it is reached first.
fn intersections(events: &[(i64, u64)]) -> (i64, i64) {
    let (mut now, mut most, mut place) = (0i64, 0i64, 0i64);
    for (at, step) in events {
        now += *step as i64;
        if now > most {
            (most, place) = (now, *at);
        }
    }
    (most, place)
}

fn covered(intervals: &[(i64, u64)]) -> u64 {
    let (mut sum, mut until) = (0u64, i64::MIN);
    for (start, end) in intervals.iter().map(|(start, end)| (*start, *end as i64)) {
        let from = start.max(until);
        if end > from {
            sum += end.abs_diff(from);
            until = end;
        }
    }
    sum
}

/// The sum of values that count half with each half-life before the last, over what a value in every unit of
/// time would sum up to.
fn faded(events: &[(i64, u64)], half_life: f64) -> Option<f64> {
    let (last, _) = events.last()?;
    let weight = |at: i64| (-((last - at) as f64) / half_life).exp2();
    let sum: f64 = events.iter().map(|(at, v)| f64::from_bits(*v) * weight(*at)).sum();
    Some(sum * (1.0 - (-1.0 / half_life).exp2()))
}

/// The mean of values over the time for which each is the last; without time between them their plain mean.
fn over_time(events: &[(i64, u64)]) -> Option<f64> {
    let ((first, _), (last, _)) = (events.first()?, events.last()?);
    let value = |v: u64| f64::from_bits(v);
    if first == last {
        return Some(events.iter().map(|(_, v)| value(*v)).sum::<f64>() / events.len() as f64);
    }
    let sum: f64 = events.windows(2).map(|w| value(w[0].1) * (w[1].0 - w[0].0) as f64).sum();
    Some(sum / (last - first) as f64)
}

fn one_list(values: ArrayRef) -> ScalarValue {
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ScalarValue::List(Arc::new(ListArray::new(item, offsets, values, None)))
}

impl Accumulator for Events {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let rows = arrays[0].len();
        match self.finish {
            Finish::Funnel { steps, .. } => {
                let at = whole(&arrays[0])?;
                for row in (0..rows).filter(|row| at.is_valid(*row)) {
                    let steps = (1..=steps).filter(|step| holds(&arrays[*step], row));
                    self.events.extend(steps.map(|step| (at.value(row), step as u64)));
                }
            }
            Finish::Match { conditions, .. } => {
                let at = whole(&arrays[0])?;
                for row in (0..rows).filter(|row| at.is_valid(*row)) {
                    let held = (0..conditions).filter(|c| holds(&arrays[1 + c], row));
                    let bits = held.fold(0, |bits, c| bits | 1 << c);
                    self.events.extend((bits > 0).then(|| (at.value(row), bits)));
                }
            }
            Finish::Retention { conditions } => {
                let bit = |c: usize| (0..rows).any(|row| holds(&arrays[c], row));
                let bits = (0..conditions).filter(|c| bit(*c)).fold(0, |bits, c| bits | 1 << c);
                let seen = self.events.first().map_or(0, |(_, bits)| *bits);
                self.events = vec![(0, seen | bits)];
            }
            Finish::DeltaSum | Finish::Fading { .. } | Finish::OverTime => {
                let (values, at) = (words(&arrays[0])?, whole(&arrays[1])?);
                self.events.extend(at.iter().zip(&values).filter_map(|(at, v)| Some((at?, v?))));
            }
            Finish::Xirr { .. } => {
                let (values, at) = (words(&arrays[0])?, whole(&arrays[1])?);
                let per_second = match arrays[1].data_type() {
                    DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000,
                    DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000_000,
                    DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000_000_000,
                    _ => 1,
                };
                let day = if *arrays[1].data_type() == DataType::Date32 { 86_400 } else { 1 };
                let second = |at: i64| at * day / per_second;
                self.events.extend(at.iter().zip(&values).filter_map(|(at, v)| Some((second(at?), v?))));
            }
            Finish::Intersections | Finish::Position => {
                let (start, end) = (whole(&arrays[0])?, whole(&arrays[1])?);
                for (start, end) in start.iter().zip(&end).filter_map(|(a, b)| Some((a?, b?))) {
                    self.events.extend([(start, 1), (end, -1i64 as u64)]);
                }
            }
            Finish::Covered => {
                let (start, end) = (whole(&arrays[0])?, whole(&arrays[1])?);
                self.events.extend(start.iter().zip(&end).filter_map(|(a, b)| Some((a?, b? as u64))));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let all = self.sorted();
        match self.finish {
            Finish::Funnel { window, steps } => Ok(ScalarValue::UInt8(Some(funnel(&all, window, steps)))),
            Finish::Retention { conditions } => {
                let bits = all.first().map_or(0, |(_, bits)| *bits);
                // The first condition counts for every other.
                let held = |c: usize| u8::from(bits & 1 == 1 && bits >> c & 1 == 1);
                let held: arrow::array::UInt8Array = (0..conditions).map(|c| Some(held(c))).collect();
                Ok(one_list(Arc::new(held)))
            }
            Finish::DeltaSum => self.scalar(rises(all.into_iter().map(|(_, v)| v), &self.output)),
            Finish::Xirr { guess } => {
                let payments: Vec<(i64, f64)> =
                    all.into_iter().map(|(at, v)| (at, f64::from_bits(v))).collect();
                Ok(ScalarValue::Float64((!payments.is_empty()).then(|| xirr(&payments, guess))))
            }
            Finish::Intersections => Ok(ScalarValue::UInt64(Some(intersections(&all).0.max(0) as u64))),
            Finish::Position if all.is_empty() => ScalarValue::try_from(&self.output),
            Finish::Position => self.scalar(place(intersections(&all).1, &self.output)?),
            Finish::Covered => Ok(ScalarValue::UInt64(Some(covered(&all)))),
            Finish::Match { counts: true, .. } => Ok(ScalarValue::UInt64(Some(count(&all, &self.steps)))),
            Finish::Match { .. } => Ok(ScalarValue::UInt8(Some(u8::from(matches(&all, &self.steps))))),
            Finish::Fading { half_life } => Ok(ScalarValue::Float64(faded(&all, half_life))),
            Finish::OverTime => Ok(ScalarValue::Float64(over_time(&all))),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.events.capacity() * size_of::<(i64, u64)>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let all = self.sorted();
        let places: Int64Array = all.iter().map(|(at, _)| Some(*at)).collect();
        let words: UInt64Array = all.iter().map(|(_, word)| Some(*word)).collect();
        Ok(vec![one_list(Arc::new(places)), one_list(Arc::new(words))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (places, words) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for row in (0..places.len()).filter(|row| places.is_valid(*row)) {
            let (at, word) = (places.value(row), words.value(row));
            if at.len() != word.len() {
                return exec_err!("places and words of events differ in number");
            }
            let all = at
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .zip(word.as_primitive::<UInt64Type>().values());
            self.events.extend(all.map(|(at, word)| (*at, *word)));
        }
        if let Finish::Retention { .. } = self.finish {
            let bits = self.events.iter().fold(0, |bits, (_, b)| bits | b);
            self.events = vec![(0, bits)];
        }
        Ok(())
    }
}

/// A place as a value that casts to the type it was of.
fn place(at: i64, of: &DataType) -> Result<ScalarValue> {
    match of {
        DataType::Date32 => Ok(ScalarValue::Date32(Some(at as i32))),
        DataType::Timestamp(..) => ScalarValue::Int64(Some(at)).cast_to(of),
        _ => Ok(ScalarValue::Int64(Some(at))),
    }
}

fn state(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let list = |what: &str, t| {
        Arc::new(Field::new(format!("{}[{what}]", args.name), DataType::new_list(t, true), true))
    };
    vec![list("places", DataType::Int64), list("words", DataType::UInt64)]
}

/// Whether values lie on a line that integers count.
fn counts(t: &DataType) -> bool {
    t.is_integer() || matches!(t, DataType::Date32 | DataType::Timestamp(..))
}

fn time(given: &[DataType], at: usize, name: &str) -> Result<DataType> {
    match &given[at] {
        t if counts(t) => Ok(t.clone()),
        DataType::Null => Ok(DataType::Int64),
        other => plan_err!(
            "illegal type {other} of argument {} of {name}; it takes integers, dates or times",
            at + 1
        ),
    }
}

fn number(given: &[DataType], at: usize, name: &str) -> Result<DataType> {
    match &given[at] {
        t if t.is_integer() || t.is_floating() => Ok(t.clone()),
        DataType::Null => Ok(DataType::Int64),
        t if t.is_numeric() => Ok(DataType::Float64),
        other => plan_err!("illegal type {other} of argument {} of {name}; it takes a number", at + 1),
    }
}

/// `window_funnel(time, condition, …, window)`, written `window_funnel(window)(time, condition, …)`.
pub(super) fn window_funnel() -> Arc<AggregateUDF> {
    Own::new(
        "window_funnel",
        (3, CONDITIONS_MAX + 2),
        |_| Ok(DataType::UInt8),
        state,
        |args| {
            let last = args.exprs.len() - 1;
            let window = match constant(args, last, "the window")?.map(|w| w.cast_to(&DataType::Int64)) {
                Some(Ok(ScalarValue::Int64(Some(window)))) if window >= 0 => window,
                _ => return plan_err!("the window of window_funnel is a whole number, in units of its time"),
            };
            Ok(Events::of(args, Finish::Funnel { window, steps: last - 1 }))
        },
    )
    .coerce(|given| {
        let conditions = std::iter::repeat_n(DataType::Boolean, given.len() - 2);
        let window = [DataType::Int64];
        Ok([time(given, 0, "window_funnel")?].into_iter().chain(conditions).chain(window).collect())
    })
    .udaf()
}

/// `sequence_match(time, condition, …, pattern)`, written `sequence_match(pattern)(time, condition, …)`, and
/// `sequence_count`.
pub(super) fn sequences() -> [Arc<AggregateUDF>; 2] {
    fn of(args: &AccumulatorArgs<'_>, counts: bool) -> Result<Box<dyn Accumulator>> {
        let last = args.exprs.len() - 1;
        let pattern = match constant(args, last, "the pattern")?.map(|p| p.cast_to(&DataType::Utf8)) {
            Some(Ok(ScalarValue::Utf8(Some(pattern)))) => pattern,
            _ => return plan_err!("the pattern of {} is a text such as '(?1)(?2)'", args.name),
        };
        let conditions = last - 1;
        let steps = parse(&pattern, conditions)?;
        let (finish, output) = (Finish::Match { conditions, counts }, args.return_field.data_type().clone());
        Ok(Box::new(Events { finish, output, steps, events: Vec::new() }))
    }
    fn taken(given: &[DataType]) -> Result<Vec<DataType>> {
        let conditions = std::iter::repeat_n(DataType::Boolean, given.len() - 2);
        let time = time(given, 0, "sequence_match and sequence_count")?;
        Ok([time].into_iter().chain(conditions).chain([DataType::Utf8]).collect())
    }
    let arguments = (3, CONDITIONS_MAX + 2);
    [
        Own::new("sequence_match", arguments, |_| Ok(DataType::UInt8), state, |args| of(args, false)),
        Own::new("sequence_count", arguments, |_| Ok(DataType::UInt64), state, |args| of(args, true)),
    ]
    .map(|own| own.coerce(taken).udaf())
}

/// `retention(condition, …)`.
pub(super) fn retention() -> Arc<AggregateUDF> {
    let result = |_: &[DataType]| Ok(DataType::new_list(DataType::UInt8, true));
    Own::new("retention", (1, CONDITIONS_MAX), result, state, |args| {
        Ok(Events::of(args, Finish::Retention { conditions: args.exprs.len() }))
    })
    .coerce(|given| Ok(vec![DataType::Boolean; given.len()]))
    .udaf()
}

/// `delta_sum_timestamp(x, time)`.
pub(super) fn delta_sum_timestamp() -> Arc<AggregateUDF> {
    Own::new(
        "delta_sum_timestamp",
        (2, 2),
        |given| Ok(given[0].clone()),
        state,
        |args| Ok(Events::of(args, Finish::DeltaSum)),
    )
    .coerce(|given| {
        Ok(vec![number(given, 0, "delta_sum_timestamp")?, time(given, 1, "delta_sum_timestamp")?])
    })
    .udaf()
}

/// `xirr(payment, date[, guess])`.
pub(super) fn xirr_of() -> Arc<AggregateUDF> {
    Own::new(
        "xirr",
        (2, 3),
        |_| Ok(DataType::Float64),
        state,
        |args| {
            let guess = match constant(args, 2, "the guess")?.map(|g| g.cast_to(&DataType::Float64)) {
                None => RATE_GUESS,
                Some(Ok(ScalarValue::Float64(Some(guess)))) if guess > -1.0 => guess,
                _ => return plan_err!("the guess of xirr is a rate of more than -1"),
            };
            Ok(Events::of(args, Finish::Xirr { guess }))
        },
    )
    .coerce(|given| {
        number(given, 0, "xirr")?;
        let mut taken = vec![DataType::Float64, time(given, 1, "xirr")?];
        taken.extend(given.get(2).map(|_| DataType::Float64));
        Ok(taken)
    })
    .udaf()
}

/// A value as a float, and a time.
fn timed(given: &[DataType], name: &str) -> Result<Vec<DataType>> {
    number(given, 0, name)?;
    let mut taken = vec![DataType::Float64, time(given, 1, name)?];
    taken.extend(given.get(2).map(|_| DataType::Float64));
    Ok(taken)
}

/// `exponential_moving_average(x, time, half_life)`, written `exponential_moving_average(half_life)(x, time)`.
pub(super) fn exponential_moving_average() -> Arc<AggregateUDF> {
    Own::new(
        "exponential_moving_average",
        (3, 3),
        |_| Ok(DataType::Float64),
        state,
        |args| match constant(args, 2, "the half-life")?.map(|h| h.cast_to(&DataType::Float64)) {
            Some(Ok(ScalarValue::Float64(Some(half_life)))) if half_life > 0.0 => {
                Ok(Events::of(args, Finish::Fading { half_life }))
            }
            _ => plan_err!("the half-life of exponential_moving_average is a number more than 0"),
        },
    )
    .coerce(|given| timed(given, "exponential_moving_average"))
    .udaf()
}

/// `avg_time_weighted(x, time)`.
pub(super) fn avg_time_weighted() -> Arc<AggregateUDF> {
    Own::new(
        "avg_time_weighted",
        (2, 2),
        |_| Ok(DataType::Float64),
        state,
        |args| Ok(Events::of(args, Finish::OverTime)),
    )
    .coerce(|given| timed(given, "avg_time_weighted"))
    .udaf()
}

/// `max_intersections(start, end)`, `max_intersections_position`, `interval_length_sum`.
pub(super) fn intervals() -> [Arc<AggregateUDF>; 3] {
    fn ends(given: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![
            time(given, 0, "an aggregate over intervals")?,
            time(given, 1, "an aggregate over intervals")?,
        ])
    }
    let own = |name, result, one| Own::new(name, (2, 2), result, state, one).coerce(ends).udaf();
    [
        own(
            "max_intersections",
            |_| Ok(DataType::UInt64),
            |args| Ok(Events::of(args, Finish::Intersections)),
        ),
        own(
            "max_intersections_position",
            |given| Ok(given[0].clone()),
            |args| Ok(Events::of(args, Finish::Position)),
        ),
        own("interval_length_sum", |_| Ok(DataType::UInt64), |args| Ok(Events::of(args, Finish::Covered))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_funnel_counts_steps_within_its_window() {
        // (name, events of (time, step), window, steps reached)
        let cases = [
            ("nothing", vec![], 10, 0),
            ("not begun", vec![(1, 2), (2, 3)], 10, 0),
            ("all in time", vec![(1, 1), (5, 2), (9, 3)], 10, 3),
            ("the last too late", vec![(1, 1), (5, 2), (12, 3)], 10, 2),
            ("begun anew", vec![(1, 1), (20, 1), (25, 2), (30, 3)], 10, 3),
            ("in the wrong order", vec![(1, 2), (2, 1), (3, 3)], 10, 1),
            ("a row is one step", vec![(1, 2), (1, 1), (2, 3)], 10, 1),
        ];
        for (name, events, window, expected) in cases {
            assert_eq!(funnel(&events, window, 3), expected, "{name}");
        }
    }

    #[test]
    fn rates_of_return() {
        let year = 365 * 86_400;
        let near = |got: f64, wanted: f64| assert!((got - wanted).abs() < 1e-9, "{got} is not {wanted}");
        near(xirr(&[(0, -100.0), (year, 110.0)], RATE_GUESS), 0.1);
        near(xirr(&[(0, -100.0), (year, 50.0)], RATE_GUESS), -0.5);
        near(xirr(&[(0, -100.0), (year, 0.0), (2 * year, 400.0)], RATE_GUESS), 1.0);
        assert!(xirr(&[(0, 100.0), (year, 110.0)], RATE_GUESS).is_nan(), "nobody pays");
    }

    #[test]
    fn means_over_time() {
        let events = |all: &[(i64, f64)]| all.iter().map(|(at, v)| (*at, v.to_bits())).collect::<Vec<_>>();
        assert_eq!(over_time(&events(&[(0, 1.0), (10, 3.0), (20, 100.0)])), Some(2.0));
        assert_eq!(over_time(&events(&[(5, 1.0), (5, 2.0)])), Some(1.5), "no time passes");
        assert_eq!(over_time(&[]), None);
        assert_eq!(faded(&events(&[(0, 8.0), (1, 4.0)]), 1.0), Some(4.0), "(4 + 8 / 2) / 2");
    }

    #[test]
    fn intervals_that_touch_do_not_meet() {
        let events = |all: &[(i64, i64)]| {
            let mut events: Vec<(i64, u64)> =
                all.iter().flat_map(|(a, b)| [(*a, 1), (*b, -1i64 as u64)]).collect();
            events.sort_unstable_by_key(|(at, w)| (*at, *w as i64));
            events
        };
        assert_eq!(intersections(&events(&[(1, 3), (3, 5)])), (1, 1));
        assert_eq!(intersections(&events(&[(1, 3), (2, 4), (3, 7)])), (2, 2));
        assert_eq!(covered(&[(1, 3), (2, 4), (3, 7), (10, 12)]), 8);
        assert_eq!(covered(&[(-5, 0), (1, 10), (2, 3)]), 14);
    }
}
