//! Hop windows made of panes: a row is taken into one pane, and a window's groups are merged from its
//! panes when it closes, so that a row costs the same in ten windows as in one.
//!
//! A pane is as long as the greatest length that divides slide and size. Rows that are late for some of
//! their windows come by window instead (`op::window`); what they left is merged in as well.
//!
//! Only where rows leave when windows close: other policies read windows all the time.

use super::core::Core;
use super::table::Table;
use super::{Aggregate, Bounds};
use crate::operator::OpError;
use crate::state::bytes::{Reader, Writer};
use std::sync::Arc;
use weir_plan::{EmitPolicy, EmitSpec, Span, WindowKind, WindowSpec};

/// Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panes {
    pub slide: i64,
    pub size: i64,
    pub pane: i64,
}

/// A window of more panes is not made of them: merging them would cost more than it saves.
const PANES_MAX: i64 = 10_000;

impl Panes {
    /// `None` where a window is better kept by itself.
    pub fn of(spec: &WindowSpec, emit: EmitSpec) -> Option<Self> {
        let WindowKind::Hop { slide: Span::Fixed(slide), size: Span::Fixed(size) } = spec.kind else {
            return None;
        };
        let pane = gcd(slide, size);
        let (windows, panes) = (size / slide, size / pane);
        let worth = windows > 1 && panes <= PANES_MAX && panes <= 4 * windows;
        (worth && emit.policy == EmitPolicy::OnClose && !emit.changelog).then_some(Panes {
            slide,
            size,
            pane,
        })
    }

    fn is_pane(&self, (end, start): Bounds) -> bool {
        end.saturating_sub(start) == self.pane
    }

    /// When something held in these bounds, a pane or a window, leaves next.
    pub(super) fn closes(&self, bounds: Bounds, closed: i64) -> Option<i64> {
        if self.is_pane(bounds) { self.next_end(bounds, closed) } else { Some(bounds.0) }
    }

    /// The end of the first window that holds a pane and ends after `closed`; `None` = none does.
    fn next_end(&self, (_, start): Bounds, closed: i64) -> Option<i64> {
        let last = start.saturating_sub(start.rem_euclid(self.slide)).saturating_add(self.size);
        // Ends lie a whole number of slides before the last.
        let least = (closed.saturating_add(1)).max(start.saturating_add(self.pane));
        if last < least {
            return None;
        }
        Some(last - last.saturating_sub(least) / self.slide * self.slide)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Aggregate {
    /// Makes the next window that closes, as a table by itself; `None` when there is none any more.
    pub(super) fn next_of_panes(&mut self, panes: Panes, up_to: i64) -> Result<Option<Bounds>, OpError> {
        // Both kinds lie in order of time, so that the first of each says enough.
        let first = |pane: bool| self.tables.keys().find(|b| panes.is_pane(**b) == pane).copied();
        let of_pane = first(true).and_then(|b| panes.next_end(b, self.closed));
        let of_window = first(false).map(|(end, _)| end);
        let Some(end) = of_pane.into_iter().chain(of_window).min().filter(|end| *end <= up_to) else {
            self.closed = self.closed.max(up_to);
            self.drop_panes(panes);
            return Ok(None);
        };
        let bounds = (end, end - panes.size);
        let mut table = match self.tables.remove(&bounds) {
            Some(table) => table,
            None => Table::new(&self.core)?,
        };
        let within = |b: &Bounds| panes.is_pane(*b) && b.1 >= bounds.1;
        let some = self.tables.range((bounds.1, i64::MIN)..=(end, i64::MAX));
        for (_, pane) in some.filter(|(b, _)| within(b)) {
            table.merge(&self.core, pane)?;
        }
        self.tables.insert(bounds, table);
        self.account(bounds)?;
        Ok(Some(bounds))
    }

    /// A window has left: panes that are in no later one go.
    pub(super) fn closed_of_panes(&mut self, panes: Panes, end: i64) {
        self.closed = self.closed.max(end);
        self.drop_panes(panes);
    }

    fn drop_panes(&mut self, panes: Panes) {
        while let Some((bounds, _)) = self.tables.iter().find(|(b, _)| panes.is_pane(**b))
            && panes.next_end(*bounds, self.closed).is_none()
        {
            let bounds = *bounds;
            self.retire(bounds);
        }
    }
}

impl Table {
    /// Takes in all groups of another.
    fn merge(&mut self, core: &Arc<Core>, other: &Table) -> Result<(), OpError> {
        self.spilled.extend(other.spilled.iter().cloned());
        self.shares.merge(&other.shares);
        let mut one = Writer::default();
        for part in &other.parts {
            for group in 0..part.groups.len() as u32 {
                one.0.clear();
                part.save(group, &mut one);
                self.take(&mut Reader(&one.0)).map_err(|e| core.damaged(&e))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_pane_are_those_that_hold_it() {
        for (slide, size) in [(1, 2), (2, 6), (2, 5), (3, 7), (4, 6), (5, 10)] {
            let panes = Panes { slide, size, pane: gcd(slide, size) };
            for start in (-40..40).filter(|s: &i64| s.rem_euclid(panes.pane) == 0) {
                let bounds = (start + panes.pane, start);
                for closed in -60..60 {
                    let expected = (-100..100)
                        .map(|k| k * slide)
                        .filter(|s| *s <= start && start + panes.pane <= s + size)
                        .map(|s| s + size)
                        .find(|end| *end > closed);
                    assert_eq!(panes.next_end(bounds, closed), expected, "{panes:?} {start} {closed}");
                }
            }
        }
    }
}
