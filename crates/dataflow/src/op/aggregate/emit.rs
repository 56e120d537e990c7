//! When results leave an aggregation, as its policy says.
//!
//! Not here: what a result set is made of (`leaving`).

use super::Aggregate;
use super::core::Core;
use super::leaving::What;
use crate::operator::{OpError, Output};
use weir_plan::{Element, EmitPolicy};

impl Aggregate {
    /// What the policy sends when it is time; `then` follows.
    pub(super) fn emit_due(&mut self, then: Option<Element>, out: &mut Output) -> Result<(), OpError> {
        let what = match self.core.emit.policy {
            EmitPolicy::OnClose | EmitPolicy::Complete => None,
            EmitPolicy::Periodic { .. } if !self.core.emit.changelog => Some(What::All),
            // What came while history was read; from then on every row has had its own.
            EmitPolicy::PerEvent => Some(What::All),
            _ => Some(What::Changed),
        };
        match what {
            None => {
                if let Some(then) = then {
                    out.push(then);
                }
                Ok(())
            }
            Some(what) => {
                self.changed = false;
                self.emit(what, then, out)
            }
        }
    }

    /// When the next emission by the clock is due; a time that has passed asks for one now.
    pub(super) fn emission_due(&self) -> Option<i64> {
        let (timed, repeat) = match self.core.emit.policy {
            EmitPolicy::Periodic { repeat, .. } => (true, repeat),
            EmitPolicy::OnUpdate { every_us } => (every_us.is_some(), false),
            EmitPolicy::OnClose | EmitPolicy::PerEvent | EmitPolicy::Complete => (false, false),
        };
        (timed && !self.muted && (self.changed || repeat)).then_some(self.due_us)
    }

    /// The one emission after history: of all there is, since nobody noted what changed meanwhile.
    pub(super) fn emit_first(&mut self, then: Element, out: &mut Output) -> Result<(), OpError> {
        if matches!(self.core.emit.policy, EmitPolicy::OnClose | EmitPolicy::Complete) {
            out.push(then);
            return Ok(());
        }
        self.changed = false;
        self.first = true;
        if !self.core.emit.changelog {
            return self.emit(What::All, Some(then), out);
        }
        for (bounds, table) in self.tables.iter_mut().filter(|(_, t)| t.spilled.is_empty()) {
            let mut at = 0;
            while let Some(part) = table.piece_mut(at) {
                let all: Vec<u32> = (0..part.groups.len() as u32).filter(|g| part.is_kept(*g)).collect();
                part.note(*bounds, &all);
                part.groups.mark(&all);
                at += 1;
            }
        }
        self.emit(What::First, Some(then), out)
    }

    /// Whether a later emission must know which groups changed.
    pub(super) fn marks(&self) -> bool {
        self.core.tells_changes() && !self.muted && self.core.emit.policy != EmitPolicy::PerEvent
    }
}

impl Core {
    /// Whether results are of groups that changed.
    pub fn tells_changes(&self) -> bool {
        let policy = self.emit.policy;
        self.emit.changelog || matches!(policy, EmitPolicy::OnUpdate { .. } | EmitPolicy::PerEvent)
    }
}
