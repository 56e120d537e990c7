//! A window's groups by key where some of them were spilled: runs on disk and what is in memory, merged
//! group by group, so that no more than a piece of them is in memory at a time.
//!
//! An entry is a share of its group's state (`Spilled::partial`), and merged with older ones, or all of
//! it, and they are passed over.

use super::core::Core;
use super::leaving::ByKey;
use super::part::Part;
use super::spilled::Spilled;
use crate::operator::OpError;
use crate::state::bytes::{Reader, Writer};
use crate::state::keys::Key;
use crate::state::spill::RunReader;
use crate::state::table::compare;
use std::cmp::Ordering;
use std::io;

/// Reads all of a window's groups by key.
pub(super) struct Merged {
    runs: Vec<RunReader>,
    /// Of each run, and of memory at the end.
    partial: Vec<bool>,
    /// Of each run: its groups with rows were all told of by the emission after history.
    told: Vec<bool>,
    memory: ByKey,
    /// The group in memory whose turn it is, saved.
    head: Option<Writer>,
    /// A run that was read through, for its buffer.
    started: bool,
    now_us: i64,
    /// Lives of keys that were over.
    pub expired: u64,
}

impl Merged {
    /// `live` = history has been read; `now_us` = processing time, where keys are forgotten.
    pub fn new(
        core: &Core,
        spilled: &[Spilled],
        parts: &[&Part],
        live: bool,
        now_us: i64,
    ) -> Result<Self, OpError> {
        let open = |s: &Spilled| RunReader::open(s.run.clone());
        let runs = spilled.iter().map(open).collect::<io::Result<Vec<_>>>().map_err(|e| core.spill(e))?;
        let memory = !core.whole_groups(live);
        let partial = spilled.iter().map(|s| s.partial).chain([memory]).collect();
        let told = spilled.iter().map(|s| s.history && live && core.emit.changelog).chain([false]).collect();
        let memory = ByKey::new(&core.form, parts);
        Ok(Merged { runs, partial, told, memory, head: None, started: false, now_us, expired: 0 })
    }

    fn advance_memory(&mut self, core: &Core, parts: &[&Part]) {
        let mut saved = self.head.take().unwrap_or_default();
        saved.0.clear();
        self.head = self.memory.pop(&core.form, parts).map(|(part, group)| {
            parts[part].save(group, &mut saved);
            saved
        });
    }

    /// The next groups, in a part by themselves, numbered in the order of their keys.
    pub fn next(&mut self, core: &Core, parts: &[&Part], rows_max: usize) -> Result<Part, OpError> {
        if !std::mem::replace(&mut self.started, true) {
            self.advance_memory(core, parts);
        }
        let mut into = core.new_part()?;
        let mut equal: Vec<usize> = Vec::new();
        let memory = self.runs.len();
        while into.groups.len() < rows_max {
            // The least key, and everybody who has it.
            equal.clear();
            let mut least: Option<Key<'_>> = None;
            let heads = self.runs.iter().map(RunReader::entry);
            for (at, entry) in heads.chain([self.head.as_ref().map(|w| w.0.as_slice())]).enumerate() {
                let Some(entry) = entry else { continue };
                let key = Key::load(&mut Reader(entry)).map_err(|e| core.damaged(&e))?;
                let order = least.map_or(Ordering::Less, |least| compare(&core.form, key, least));
                match order {
                    Ordering::Less => {
                        least = Some(key);
                        equal.clear();
                        equal.push(at);
                    }
                    Ordering::Equal => equal.push(at),
                    Ordering::Greater => {}
                }
            }
            if equal.is_empty() {
                break;
            }
            // All that is older than a whole group is passed over.
            let whole = equal.iter().rposition(|at| !self.partial[*at]).unwrap_or(0);
            let entry = |at: usize| {
                let head = || self.head.as_ref().map(|w| w.0.as_slice());
                if at == memory { head() } else { self.runs[at].entry() }.expect("it was compared above")
            };
            let mut pieces: Vec<(usize, &[u8])> = equal[whole..].iter().map(|at| (*at, entry(*at))).collect();
            let over = core.living_pieces(&mut pieces, self.now_us).map_err(|e| core.damaged(&e))?;
            self.expired += over as u64;
            let mut told = false;
            for (at, piece) in pieces {
                let mut from = Reader(piece);
                let key = Key::load(&mut from).map_err(|e| core.damaged(&e))?;
                let group = into.merge(key, key.hash(), &mut from).map_err(|e| core.damaged(&e))?;
                told |= self.told[at];
                if told && into.lives(group) {
                    into.told.insert(group);
                }
            }
            for at in &equal {
                if *at == memory {
                    self.advance_memory(core, parts);
                } else {
                    self.runs[*at].advance().map_err(|e| core.spill(e))?;
                }
            }
        }
        Ok(into)
    }
}
