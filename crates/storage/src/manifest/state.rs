//! The state a manifest holds and the changes to it. Pure.

use crate::parts::{Garbage, PartFile, PartMeta};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_base::SeqNo;

/// One durable step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// The first entry of every file.
    Whole { state: State },
    /// Log rows `from .. to` now lie in these parts.
    Commit { from: SeqNo, to: SeqNo, rows: u64, parts: Vec<PartMeta> },
    /// These parts replace those; `rows_expired` of their rows are gone by TTL.
    Merge { removed: Vec<u64>, parts: Vec<PartMeta>, rows_expired: u64 },
    /// All rows below `to` are gone, `rows` of them were not in parts.
    Truncate { to: SeqNo, rows: u64 },
    /// TTL was applied to these parts and removed nothing.
    TtlApplied { parts: Vec<u64>, at_ms: i64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Rows below lie in parts (or were removed), rows from here on in the log.
    pub committed_end: SeqNo,
    /// Rows below were removed by TRUNCATE.
    pub floor: SeqNo,
    pub rows_committed: u64,
    /// By TTL and TRUNCATE.
    pub rows_removed: u64,
    pub next_part_id: u64,
    pub parts: BTreeMap<u64, PartMeta>,
}

impl State {
    /// The state after `change`, or what is wrong with it.
    pub fn apply(&self, change: &Change) -> Result<State, String> {
        let mut next = self.clone();
        let check = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        match change {
            Change::Whole { state } => next = state.clone(),
            Change::Commit { from, to, rows, parts } => {
                check(*from == self.committed_end, "a commit does not begin where the last one ended")?;
                check(to > from, "a commit of no rows")?;
                check(to.0 - from.0 >= *rows, "a commit of more rows than sequence numbers")?;
                check(rows_of(parts)? == *rows, "a commit's parts lack rows")?;
                let within = |p: &PartMeta| p.sn_min >= *from && p.sn_end <= *to;
                check(parts.iter().all(within), "a commit's part holds rows outside its range")?;
                next.committed_end = *to;
                next.rows_committed = plus(next.rows_committed, *rows)?;
                parts.iter().try_for_each(|p| next.add(p))?;
            }
            Change::Merge { removed, parts, rows_expired } => {
                let mut rows_in = 0;
                let (mut low, mut high) = (SeqNo::MAX, SeqNo::ZERO);
                for id in removed {
                    let part =
                        next.parts.remove(id).ok_or(format!("a merge of part {id}, which is not live"))?;
                    rows_in = plus(rows_in, part.rows)?;
                    (low, high) = (low.min(part.sn_min), high.max(part.sn_end));
                }
                check(rows_in == plus(rows_of(parts)?, *rows_expired)?, "a merge's rows do not add up")?;
                let within = |p: &PartMeta| p.sn_min >= low && p.sn_end <= high;
                check(parts.iter().all(within), "a merge's part holds rows outside its range")?;
                next.rows_removed = plus(next.rows_removed, *rows_expired)?;
                parts.iter().try_for_each(|p| next.add(p))?;
            }
            Change::Truncate { to, rows } => {
                check(*to >= self.committed_end, "a truncation below the committed end")?;
                next.committed_end = *to;
                next.floor = *to;
                next.rows_committed = plus(next.rows_committed, *rows)?;
                next.rows_removed = next.rows_committed;
                next.parts.clear();
            }
            Change::TtlApplied { parts, at_ms } => {
                for id in parts {
                    let part =
                        next.parts.get_mut(id).ok_or(format!("TTL on part {id}, which is not live"))?;
                    part.ttl_applied_ms = *at_ms;
                }
            }
        }
        next.verify()?;
        Ok(next)
    }

    fn add(&mut self, part: &PartMeta) -> Result<(), String> {
        if part.id < self.next_part_id || self.parts.contains_key(&part.id) {
            return Err(format!("part id {} is used twice", part.id));
        }
        self.next_part_id = plus(part.id, 1)?;
        self.parts.insert(part.id, part.clone());
        Ok(())
    }

    fn verify(&self) -> Result<(), String> {
        let live = rows_of(self.parts.values())?;
        if plus(live, self.rows_removed)? != self.rows_committed {
            return Err(format!(
                "{live} rows in live parts and {} removed are not the {} committed",
                self.rows_removed, self.rows_committed
            ));
        }
        if self.floor > self.committed_end {
            return Err(format!(
                "the floor {} lies above the committed end {}",
                self.floor, self.committed_end
            ));
        }
        let odd =
            |(id, p): &(&u64, &PartMeta)| **id != p.id || p.id >= self.next_part_id || p.sn_min >= p.sn_end;
        if let Some((id, p)) = self.parts.iter().find(odd) {
            return Err(format!(
                "part {} of numbers {} .. {} is listed as {id}, the next new one is {}",
                p.id, p.sn_min, p.sn_end, self.next_part_id
            ));
        }
        match self.parts.values().find(|p| p.sn_end > self.committed_end || p.sn_min < self.floor) {
            Some(p) => {
                Err(format!("part {} holds rows outside {} .. {}", p.id, self.floor, self.committed_end))
            }
            None => Ok(()),
        }
    }
}

/// Sums of a damaged file may be anything.
fn plus(a: u64, b: u64) -> Result<u64, String> {
    a.checked_add(b).ok_or_else(|| format!("{a} and {b} are more than can be counted"))
}

fn rows_of<'a>(parts: impl IntoIterator<Item = &'a PartMeta>) -> Result<u64, String> {
    parts.into_iter().try_fold(0, |sum, part| plus(sum, part.rows))
}

/// A state that readers hold: its parts stay readable until it is dropped.
#[derive(Debug)]
pub(crate) struct Version {
    /// How many changes came before; grows by one a change.
    pub number: u64,
    pub committed_end: SeqNo,
    pub floor: SeqNo,
    pub parts: BTreeMap<u64, Arc<PartFile>>,
}

impl Version {
    /// Of a stream without parts.
    pub fn empty() -> Self {
        Version { number: 0, committed_end: SeqNo::ZERO, floor: SeqNo::ZERO, parts: BTreeMap::new() }
    }

    /// The version for `state`; parts already in `before` are shared with it, those that are
    /// no longer in `state` go when their last holder does.
    pub fn of(
        state: &State,
        number: u64,
        dir: &str,
        garbage: &Arc<Garbage>,
        before: Option<&Version>,
    ) -> Self {
        let file = |id: &u64, meta: &PartMeta| match before.and_then(|b| b.parts.get(id)) {
            Some(file) if file.meta == *meta => file.clone(),
            Some(file) => file.with_meta(meta.clone()),
            None => PartFile::new(meta.clone(), dir, garbage.clone()),
        };
        let parts: BTreeMap<_, _> = state.parts.iter().map(|(id, meta)| (*id, file(id, meta))).collect();
        for (id, file) in before.iter().flat_map(|b| &b.parts) {
            if !parts.contains_key(id) {
                file.mark_obsolete();
            }
        }
        Version { number, committed_end: state.committed_end, floor: state.floor, parts }
    }
}
