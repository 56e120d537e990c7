//! The front of an operator: merges what its inputs say about time, and aligns barriers.
//!
//! Pure. Invariants
//! - the merged watermark is the minimum over inputs neither idle nor ended, and never falls;
//! - with all of them idle it stays where it is;
//! - a barrier passes once every input has brought it or ended;
//! - backfill ends once, when it has for every input; likewise the end.
//!
//! Not here: holding back an input that has brought its barrier (the task does not poll it).

use crate::operator::{InputId, OpError};
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::{StateReader, StateWriter};
use weir_plan::{Epoch, WatermarkTime};

#[derive(Debug, Clone, Default)]
struct Input {
    watermark: Option<WatermarkTime>,
    frontier: Option<i64>,
    barrier: Option<Epoch>,
    idle: bool,
    backfilled: bool,
    ended: bool,
}

#[derive(Debug)]
pub(crate) struct Gate {
    inputs: Vec<Input>,
    watermark: Option<WatermarkTime>,
    frontier: Option<i64>,
    idle: bool,
    backfilled: bool,
    ended: bool,
    tick_us: i64,
}

/// What the operator behind the gate is to be told, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Watermark(WatermarkTime),
    EndOfBackfill,
    Barrier(Epoch),
    Tick(i64),
    Frontier(i64),
    Idle,
    End,
}

/// The name of a gate's state among its operator's.
const SAVED: &str = "gate";

/// Two inputs brought different barriers at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("barriers of epochs {0:?} and {1:?} met")]
pub(crate) struct Misaligned(pub Epoch, pub Epoch);

impl Gate {
    pub fn new(inputs: usize) -> Self {
        Gate {
            inputs: vec![Input::default(); inputs],
            watermark: None,
            frontier: None,
            idle: false,
            backfilled: false,
            ended: false,
            tick_us: i64::MIN,
        }
    }

    pub fn rows(&mut self, from: InputId) {
        self.inputs[from.0].idle = false;
        self.idle = false;
    }

    pub fn watermark(&mut self, from: InputId, at: WatermarkTime, out: &mut Vec<Signal>) {
        let input = &mut self.inputs[from.0];
        input.idle = false;
        input.watermark = input.watermark.max(Some(at));
        self.idle = false;
        self.merge(out);
    }

    pub fn idle(&mut self, from: InputId, out: &mut Vec<Signal>) {
        self.inputs[from.0].idle = true;
        self.merge(out);
        self.all_idle(out);
    }

    pub fn tick(&mut self, now_us: i64, out: &mut Vec<Signal>) {
        if now_us > self.tick_us {
            self.tick_us = now_us;
            out.push(Signal::Tick(now_us));
        }
    }

    /// The least of inputs that go on.
    pub fn frontier(&mut self, from: InputId, append_us: i64, out: &mut Vec<Signal>) {
        self.inputs[from.0].frontier = self.inputs[from.0].frontier.max(Some(append_us));
        let least = self.live().map(|i| i.frontier).min().flatten();
        if let Some(at) = least.filter(|at| Some(*at) > self.frontier) {
            self.frontier = Some(at);
            out.push(Signal::Frontier(at));
        }
    }

    pub fn end_of_backfill(&mut self, from: InputId, out: &mut Vec<Signal>) {
        self.inputs[from.0].backfilled = true;
        self.all_backfilled(out);
    }

    pub fn barrier(&mut self, from: InputId, epoch: Epoch, out: &mut Vec<Signal>) -> Result<(), Misaligned> {
        self.inputs[from.0].barrier = Some(epoch);
        self.aligned(out)
    }

    pub fn end(&mut self, from: InputId, out: &mut Vec<Signal>) -> Result<(), Misaligned> {
        self.inputs[from.0].ended = true;
        self.merge(out);
        self.aligned(out)?;
        self.all_backfilled(out);
        self.all_idle(out);
        if !self.ended && self.inputs.iter().all(|i| i.ended) {
            self.ended = true;
            out.push(Signal::End);
        }
        Ok(())
    }

    /// What was said so far, so that an input that stays silent after a restart counts as before.
    pub fn save(&self, into: &mut StateWriter) {
        fn option(out: &mut Writer, value: Option<i64>) {
            out.u8(u8::from(value.is_some()));
            out.i64(value.unwrap_or_default());
        }
        let mut out = Writer::default();
        option(&mut out, self.watermark.map(|w| w.0));
        option(&mut out, self.frontier);
        out.u8(u8::from(self.idle));
        out.u8(u8::from(self.backfilled));
        out.u64(self.inputs.len() as u64);
        for input in &self.inputs {
            option(&mut out, input.watermark.map(|w| w.0));
            option(&mut out, input.frontier);
            out.u8(u8::from(input.idle));
            out.u8(u8::from(input.backfilled));
        }
        into.put(SAVED, out.0);
    }

    pub fn restore(&mut self, operator: &'static str, from: &StateReader) -> Result<(), OpError> {
        let bytes = from.bytes(operator, SAVED)?;
        self.load(&mut Reader(bytes)).map_err(|e| OpError::Restore { operator, reason: e.to_string() })
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        fn option(from: &mut Reader<'_>) -> Result<Option<i64>, Damaged> {
            let (there, value) = (from.u8()? == 1, from.i64()?);
            Ok(there.then_some(value))
        }
        self.watermark = option(from)?.map(WatermarkTime);
        self.frontier = option(from)?;
        (self.idle, self.backfilled) = (from.u8()? == 1, from.u8()? == 1);
        if from.count(20)? != self.inputs.len() {
            return Err(Damaged("it is of another number of inputs"));
        }
        for input in &mut self.inputs {
            input.watermark = option(from)?.map(WatermarkTime);
            input.frontier = option(from)?;
            (input.idle, input.backfilled) = (from.u8()? == 1, from.u8()? == 1);
        }
        Ok(())
    }

    fn live(&self) -> impl Iterator<Item = &Input> {
        self.inputs.iter().filter(|i| !i.ended)
    }

    fn merge(&mut self, out: &mut Vec<Signal>) {
        let active: Vec<_> = self.live().filter(|i| !i.idle).map(|i| i.watermark).collect();
        // `None` is less than every time: one input that has not spoken holds all back.
        if let Some(least) = active.into_iter().min().flatten()
            && Some(least) > self.watermark
        {
            self.watermark = Some(least);
            out.push(Signal::Watermark(least));
        }
    }

    fn all_idle(&mut self, out: &mut Vec<Signal>) {
        if !self.idle && self.live().next().is_some() && self.live().all(|i| i.idle) {
            self.idle = true;
            out.push(Signal::Idle);
        }
    }

    fn all_backfilled(&mut self, out: &mut Vec<Signal>) {
        let any = self.inputs.iter().any(|i| i.backfilled);
        if !self.backfilled && any && self.inputs.iter().all(|i| i.backfilled || i.ended) {
            self.backfilled = true;
            out.push(Signal::EndOfBackfill);
        }
    }

    fn aligned(&mut self, out: &mut Vec<Signal>) -> Result<(), Misaligned> {
        let Some(first) = self.live().find_map(|i| i.barrier).or(self.inputs.iter().find_map(|i| i.barrier))
        else {
            return Ok(());
        };
        if let Some(other) = self.inputs.iter().filter_map(|i| i.barrier).find(|e| *e != first) {
            return Err(Misaligned(first, other));
        }
        if self.live().all(|i| i.barrier.is_some()) {
            self.inputs.iter_mut().for_each(|i| i.barrier = None);
            out.push(Signal::Barrier(first));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InputId = InputId(0);
    const B: InputId = InputId(1);

    fn said(f: impl FnOnce(&mut Vec<Signal>)) -> Vec<Signal> {
        let mut out = Vec::new();
        f(&mut out);
        out
    }
    fn wm(at: i64) -> Signal {
        Signal::Watermark(WatermarkTime(at))
    }

    #[test]
    fn the_watermark_is_the_least_of_active_inputs_and_never_falls() {
        let mut g = Gate::new(2);
        assert_eq!(said(|o| g.watermark(A, WatermarkTime(10), o)), []);
        assert_eq!(said(|o| g.watermark(B, WatermarkTime(5), o)), [wm(5)]);
        assert_eq!(said(|o| g.idle(B, o)), [wm(10)]);
        g.rows(B);
        assert_eq!(said(|o| g.watermark(B, WatermarkTime(7), o)), [], "behind what was promised");
        assert_eq!(said(|o| g.watermark(A, WatermarkTime(20), o)), []);
        assert_eq!(said(|o| g.watermark(B, WatermarkTime(15), o)), [wm(15)]);
        assert_eq!(said(|o| g.idle(A, o)), [], "B is behind A");
        assert_eq!(said(|o| g.idle(B, o)), [Signal::Idle]);
        assert_eq!(said(|o| g.idle(B, o)), [], "said once");
        assert_eq!(said(|o| g.watermark(A, WatermarkTime(30), o)), [wm(30)]);
    }

    #[test]
    fn an_input_that_ended_holds_nothing_back() {
        let mut g = Gate::new(2);
        assert_eq!(said(|o| g.watermark(A, WatermarkTime(10), o)), []);
        assert_eq!(said(|o| g.barrier(A, Epoch(1), o).unwrap()), []);
        assert_eq!(said(|o| g.end_of_backfill(A, o)), []);
        assert_eq!(
            said(|o| g.end(B, o).unwrap()),
            [wm(10), Signal::Barrier(Epoch(1)), Signal::EndOfBackfill]
        );
        assert_eq!(said(|o| g.end(A, o).unwrap()), [Signal::End]);
    }

    #[test]
    fn barriers_pass_when_all_have_brought_them() {
        let mut g = Gate::new(2);
        assert_eq!(said(|o| g.barrier(B, Epoch(1), o).unwrap()), []);
        assert_eq!(said(|o| g.barrier(A, Epoch(1), o).unwrap()), [Signal::Barrier(Epoch(1))]);
        assert_eq!(said(|o| g.barrier(A, Epoch(2), o).unwrap()), []);
        let mut out = Vec::new();
        assert_eq!(g.barrier(B, Epoch(3), &mut out), Err(Misaligned(Epoch(2), Epoch(3))));
    }

    #[test]
    fn a_barrier_brought_before_the_end_still_passes() {
        let mut g = Gate::new(2);
        assert_eq!(said(|o| g.barrier(A, Epoch(1), o).unwrap()), []);
        assert_eq!(said(|o| g.end(A, o).unwrap()), []);
        assert_eq!(said(|o| g.barrier(B, Epoch(1), o).unwrap()), [Signal::Barrier(Epoch(1))]);
        assert_eq!(said(|o| g.end(B, o).unwrap()), [Signal::End]);
    }

    #[test]
    fn the_frontier_is_the_least_of_inputs() {
        let mut g = Gate::new(2);
        assert_eq!(said(|o| g.frontier(A, 5, o)), []);
        assert_eq!(said(|o| g.frontier(B, 3, o)), [Signal::Frontier(3)]);
        assert_eq!(said(|o| g.frontier(B, 9, o)), [Signal::Frontier(5)]);
        assert_eq!(said(|o| g.frontier(A, 4, o)), [], "it never falls");
    }

    #[test]
    fn ticks_only_rise() {
        let mut g = Gate::new(2);
        assert_eq!(said(|o| g.tick(5, o)), [Signal::Tick(5)]);
        assert_eq!(said(|o| g.tick(5, o)), []);
        assert_eq!(said(|o| g.tick(4, o)), []);
    }
}
