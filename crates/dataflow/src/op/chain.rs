//! Operators one behind the other as one: what a key's substream of sessions is made of.
//!
//! Each is called as a task would, what it gives goes to the next at once. Nothing is left for later: what
//! leaves in pieces leaves in all of them.

use crate::operator::{InputId, OpError, Operator, Output, Stats};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::{StateReader, StateWriter};
use weir_plan::{Element, Rows, WatermarkTime};

const NAME: &str = "Chain";

pub struct Chain(Vec<Box<dyn Operator>>);

impl Chain {
    /// `operators`: the one that is fed first.
    pub fn new(operators: Vec<Box<dyn Operator>>) -> Self {
        Chain(operators)
    }

    /// One call of an operator; what it gives goes up from there.
    fn call(
        &mut self,
        at: usize,
        out: &mut Output,
        f: impl FnOnce(&mut dyn Operator, &mut Output) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let mut own = Output::default();
        f(self.0[at].as_mut(), &mut own)?;
        self.pass(at, own, out)
    }

    /// Takes what an operator gave to the next.
    fn pass(&mut self, at: usize, mut own: Output, out: &mut Output) -> Result<(), OpError> {
        while self.0[at].unfinished() {
            self.0[at].go_on(&mut own)?;
        }
        own.late.drain(..).for_each(|late| out.late(late));
        for element in own.elements {
            let Some(next) = self.0.get_mut(at + 1) else {
                out.push(element);
                continue;
            };
            let mut given = Output::default();
            match element {
                Element::Rows(rows) => next.rows(InputId(0), rows, &mut given)?,
                Element::Watermark(at) => next.watermark(at, &mut given)?,
                Element::Frontier(us) => next.frontier(us, &mut given)?,
                Element::KeyWatermarks(marks) => next.key_watermarks(&marks, &mut given)?,
                Element::Tick(us) => next.tick(us, &mut given)?,
                Element::EndOfBackfill => next.end_of_backfill(&mut given)?,
                other => given.push(other),
            }
            self.pass(at + 1, given, out)?;
        }
        Ok(())
    }
}

impl Operator for Chain {
    fn rows(&mut self, from: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        self.call(0, out, |op, out| op.rows(from, rows, out))
    }

    fn watermark(&mut self, at: WatermarkTime, out: &mut Output) -> Result<(), OpError> {
        self.call(0, out, |op, out| op.watermark(at, out))
    }

    fn tick(&mut self, now_us: i64, out: &mut Output) -> Result<(), OpError> {
        self.call(0, out, |op, out| op.tick(now_us, out))
    }

    fn tick_due(&self) -> Option<i64> {
        self.0.iter().filter_map(|op| op.tick_due()).min()
    }

    fn end_of_backfill(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.call(0, out, |op, out| op.end_of_backfill(out))
    }

    fn end(&mut self, out: &mut Output) -> Result<(), OpError> {
        (0..self.0.len()).try_for_each(|at| self.call(at, out, |op, out| op.end(out)))
    }

    fn stats(&self) -> Stats {
        self.0.iter().map(|op| op.stats()).fold(Stats::default(), |a, b| Stats {
            late_rows: a.late_rows + b.late_rows,
            skipped_rows: a.skipped_rows + b.skipped_rows,
            expired_keys: a.expired_keys + b.expired_keys,
            keys: a.keys + b.keys,
            state_bytes: a.state_bytes + b.state_bytes,
        })
    }

    fn waits_for(&self) -> Option<i64> {
        self.0.iter().filter_map(|op| op.waits_for()).min()
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        for op in &mut self.0 {
            if op.spill()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        let mut out = Writer::default();
        for op in &mut self.0 {
            let mut state = StateWriter::default();
            op.snapshot(&mut state)?;
            state.finish().save(&mut out);
        }
        into.put("chain", out.0);
        Ok(())
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        let damaged = |e: Damaged| OpError::Restore { operator: NAME, reason: e.to_string() };
        let mut from = Reader(from.bytes(NAME, "chain")?);
        self.0.iter_mut().try_for_each(|op| {
            let state = StateReader::load(&mut from).map_err(damaged)?;
            op.restore(&state)
        })
    }
}
