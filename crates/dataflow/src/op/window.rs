//! Gives each row its windows: once for every one it is not late for.
//!
//! A row is late for a window that ends at or before the watermark its source judged it by. A row
//! that is late for any of its windows is counted. Rows of windows below are never late.
//!
//! By processing time a row's time is the last tick, which comes before it, and the watermark is the
//! clock: it is asked for when a window that was given out ends.
//!
//! Not here: judging (`watermark`), what a window is (`plan::window`), sessions (`session`).

use super::late;
use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::bytes::{Reader, Writer};
use crate::state::{StateReader, StateWriter};
use crate::time::{from_nanos, from_units, nanos, nanos_per_unit, units};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::SchemaRef;
use std::collections::BTreeSet;
use weir_plan::{Element, Judged, Rows, Span, WatermarkTime, WindowKind, WindowSpec, WindowTime};

const NAME: &str = "Window";
/// Rows of a batch that leaves, where rows have many windows.
const ROWS_MAX: usize = 65_536;

pub struct Window {
    spec: WindowSpec,
    time: WindowTime,
    judged: Option<Judged>,
    at: usize,
    schema: SchemaRef,
    /// Rows leave once, with the pane of so many nanoseconds they lie in; those that are late for some of
    /// their windows with the others.
    pane: Option<i64>,
    late_rows: u64,
    /// Of processing time: the last tick.
    now_us: i64,
    /// Of processing time: ends of windows that rows were given and that have not passed. Their number
    /// is that of windows a moment lies in.
    ends: BTreeSet<i64>,
    /// Of the last batch.
    rest: Option<Rest>,
}

/// Rows of a batch whose windows have not left yet.
struct Rest {
    batch: RecordBatch,
    times: Vec<i64>,
    judged: Vec<i64>,
    next: usize,
}

/// Rows with a window each.
#[derive(Default)]
struct Found {
    rows: Vec<u32>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    /// Rows that are late for some window.
    late: Vec<u32>,
}

impl Found {
    fn push(&mut self, row: usize, start: i64, end: i64) {
        self.rows.push(row as u32);
        self.starts.push(start);
        self.ends.push(end);
    }
    fn truncate(&mut self, len: usize) {
        self.rows.truncate(len);
        self.starts.truncate(len);
        self.ends.truncate(len);
    }
}

impl Window {
    /// # Errors
    /// [`OpError::Plan`] when window or columns do not fit.
    pub fn new(
        spec: WindowSpec,
        time: WindowTime,
        judged: Option<Judged>,
        at: usize,
        schema: SchemaRef,
    ) -> Result<Self, OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        spec.check().map_err(plan)?;
        let bound = schema.fields().get(at).map(|f| f.data_type());
        if bound.is_none_or(|t| nanos_per_unit(t).is_none()) {
            return Err(plan(format!("window_start is {bound:?}, no time")));
        }
        Ok(Window {
            spec,
            time,
            judged,
            at,
            schema,
            pane: None,
            late_rows: 0,
            now_us: i64::MIN,
            ends: BTreeSet::new(),
            rest: None,
        })
    }

    /// For an aggregation that makes windows of panes.
    pub fn in_panes(mut self, pane: Option<i64>) -> Self {
        self.pane = pane;
        self
    }

    /// The windows of one row that it is not late for; its pane if it is late for none.
    fn windows_of(&mut self, row: usize, time: i64, wm: i64, found: &mut Found) {
        let before = found.rows.len();
        let mut late = false;
        // Every window of a row ends after it.
        if self.pane.is_none() || wm > time {
            self.spec.windows_of(time, |start, end| {
                if wm >= end {
                    late = true;
                } else {
                    found.push(row, start, end);
                }
            });
        }
        if late {
            self.late_rows += 1;
            found.late.push(row as u32);
        }
        if let (Some(pane), false) = (self.pane, late) {
            found.truncate(before);
            let start = time.saturating_sub(time.rem_euclid(pane));
            found.push(row, start, start.saturating_add(pane));
        }
    }

    /// The batch with its windows or panes, where that is simple: each row has one, bounds are whole units
    /// of the column, no row is late, and the times of the batch lie not too far apart.
    fn aligned(
        &self,
        batch: &RecordBatch,
        times: &ArrayRef,
        judged: &[i64],
    ) -> Result<Option<RecordBatch>, OpError> {
        let size_ns = match (self.pane, self.spec.kind) {
            (Some(pane), _) => pane,
            (None, WindowKind::Tumble { size: Span::Fixed(size) }) => size,
            _ => return Ok(None),
        };
        let t = self.schema.field(self.at).data_type();
        let Some((values, unit)) = units(times).filter(|(_, unit)| nanos_per_unit(t) == Some(*unit)) else {
            return Ok(None);
        };
        let (least, greatest) = values.iter().fold((i64::MAX, i64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
        // Far from where nanoseconds end.
        let limit = i64::MAX / unit / 2;
        if values.is_empty() || size_ns % unit != 0 || least < -limit || greatest > limit {
            return Ok(None);
        }
        let size = size_ns / unit;
        let base = least - least.rem_euclid(size);
        if size == 1 || size >= 1 << 32 || greatest - base >= 1 << 32 {
            return Ok(None);
        }
        // Granlund and Montgomery (PLDI 1994): exact for 32-bit numbers.
        let inverse = u64::MAX / size as u64 + 1;
        let starts: Vec<i64> = values
            .iter()
            .map(|v| {
                let windows = (u128::from((v - base) as u64) * u128::from(inverse)) >> 64;
                base + windows as i64 * size
            })
            .collect();
        let late = match self.pane {
            None => starts.iter().zip(judged).filter(|(start, wm)| **wm >= (**start + size) * unit).count(),
            // Which windows it is late for has to be looked at.
            Some(_) => values.iter().zip(judged).filter(|(time, wm)| **wm > **time * unit).count(),
        };
        if late > 0 {
            return Ok(None);
        }
        let ends = starts.iter().map(|s| s + size).collect();
        let bound = |values| from_units(values, t).expect("checked to be a time when made");
        self.with_bounds(batch.columns().to_vec(), bound(starts), bound(ends)).map(Some)
    }

    /// The columns with bounds in nanoseconds put in.
    fn batch(
        &self,
        columns: Vec<ArrayRef>,
        starts: Vec<i64>,
        ends: Vec<i64>,
    ) -> Result<RecordBatch, OpError> {
        let t = self.schema.field(self.at).data_type();
        let bound = |values| from_nanos(values, t).expect("checked to be a time when made");
        self.with_bounds(columns, bound(starts), bound(ends))
    }

    fn with_bounds(
        &self,
        columns: Vec<ArrayRef>,
        starts: ArrayRef,
        ends: ArrayRef,
    ) -> Result<RecordBatch, OpError> {
        let n = starts.len();
        let mut all = columns;
        all.insert(self.at, starts);
        all.insert(self.at + 1, ends);
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        RecordBatch::try_new_with_options(self.schema.clone(), all, &options)
            .map_err(|e| OpError::Plan { operator: NAME, reason: e.to_string() })
    }
}

impl Operator for Window {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        if rows.weights.is_some() {
            return Err(plan("windows over a changelog".into()));
        }
        let n = rows.batch.num_rows();
        let times = match &self.time {
            WindowTime::Event(_) => time_column(NAME, &self.time, &rows.batch)?,
            WindowTime::Processing => {
                let now_ns = processed_ns(NAME, self.now_us)?;
                let Window { spec, ends, .. } = self;
                spec.windows_of(now_ns, |_, end| {
                    ends.insert(end);
                });
                let t = self.schema.field(self.at).data_type();
                from_nanos(vec![now_ns; n], t).expect("checked to be a time when made")
            }
        };
        let never = if self.judged.is_none() { vec![i64::MIN; n] } else { Vec::new() };
        let judged = match &self.judged {
            Some(judged) => late::judged(NAME, judged, &rows.batch)?,
            None => &never,
        };
        if let Some(batch) = self.aligned(&rows.batch, &times, judged)? {
            out.rows(Rows::append(batch));
            return Ok(());
        }
        let times = nanos(&times).ok_or_else(|| plan(format!("{} is no time", times.data_type())))?;
        self.rest = Some(Rest { judged: judged.to_vec(), batch: rows.batch, times, next: 0 });
        self.go_on(out)
    }

    fn unfinished(&self) -> bool {
        self.rest.is_some()
    }

    /// The next rows with their windows: those of many windows leave in pieces.
    fn go_on(&mut self, out: &mut Output) -> Result<(), OpError> {
        let plan = |reason: String| OpError::Plan { operator: NAME, reason };
        let Some(mut rest) = self.rest.take() else { return Ok(()) };
        let mut found = Found::default();
        while rest.next < rest.times.len() && found.rows.len() < ROWS_MAX {
            self.windows_of(rest.next, rest.times[rest.next], rest.judged[rest.next], &mut found);
            rest.next += 1;
        }
        let indices = UInt32Array::from(found.rows);
        let columns = rest
            .batch
            .columns()
            .iter()
            .map(|c| arrow_select::take::take(c, &indices, None))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| plan(e.to_string()))?;
        out.rows(Rows::append(self.batch(columns, found.starts, found.ends)?));
        if let Some(judged) = &self.judged {
            late::tell(NAME, judged, &rest.batch, found.late, &rest.times, out)?;
        }
        self.rest = (rest.next < rest.times.len()).then_some(rest);
        Ok(())
    }

    fn watermark(&mut self, at: WatermarkTime, out: &mut Output) -> Result<(), OpError> {
        // A source by itself says nothing of the clock; its end does.
        if matches!(self.time, WindowTime::Event(_)) || at == WatermarkTime::INFINITY {
            self.ends.clear();
            out.watermark(at);
        }
        Ok(())
    }

    fn tick(&mut self, now_us: i64, out: &mut Output) -> Result<(), OpError> {
        if matches!(self.time, WindowTime::Processing) {
            self.now_us = now_us;
            let now_ns = now_us.saturating_mul(1_000);
            let before = self.ends.len();
            self.ends = self.ends.split_off(&now_ns.saturating_add(1));
            if self.ends.len() < before {
                out.watermark(WatermarkTime(now_ns));
            }
        }
        out.push(Element::Tick(now_us));
        Ok(())
    }

    fn tick_due(&self) -> Option<i64> {
        // The first microsecond that is not before the end.
        self.ends.first().map(|end| end.saturating_add(999).div_euclid(1_000))
    }

    fn stats(&self) -> Stats {
        Stats { late_rows: self.late_rows, ..Stats::default() }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        into.put_u64("late_rows", self.late_rows);
        let mut ends = Writer::default();
        ends.words(&self.ends.iter().map(|e| *e as u64).collect::<Vec<_>>());
        into.put("ends", ends.0);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        self.late_rows = from.u64(NAME, "late_rows")?;
        let ends = Reader(from.bytes(NAME, "ends")?).words();
        let ends = ends.map_err(|e| OpError::Restore { operator: NAME, reason: e.to_string() })?;
        self.ends = ends.into_iter().map(|e| e as i64).collect();
        Ok(())
    }
}

/// The moment at which rows are processed.
fn processed_ns(operator: &'static str, now_us: i64) -> Result<i64, OpError> {
    if now_us == i64::MIN {
        return Err(OpError::Plan { operator, reason: "rows came before the first tick".into() });
    }
    Ok(now_us.saturating_mul(1_000))
}

/// The event time of each row of a batch.
fn time_column(operator: &'static str, time: &WindowTime, batch: &RecordBatch) -> Result<ArrayRef, OpError> {
    let WindowTime::Event(time) = time else { unreachable!("asked of event time") };
    let times = time
        .evaluate(batch)
        .and_then(|v| v.into_array(batch.num_rows()))
        .map_err(|e| OpError::Eval { operator, source: Box::new(e) })?;
    if times.null_count() > 0 {
        return Err(OpError::Row {
            reason: format!("a row has no time ({time} is NULL); filter such rows out before the window"),
        });
    }
    Ok(times)
}

/// The time of each row of a batch, in nanoseconds.
pub(super) fn times_of(
    operator: &'static str,
    time: &WindowTime,
    now_us: i64,
    batch: &RecordBatch,
) -> Result<Vec<i64>, OpError> {
    if matches!(time, WindowTime::Processing) {
        return Ok(vec![processed_ns(operator, now_us)?; batch.num_rows()]);
    }
    let times = time_column(operator, time, batch)?;
    nanos(&times)
        .ok_or_else(|| OpError::Plan { operator, reason: format!("{} is no time", times.data_type()) })
}
