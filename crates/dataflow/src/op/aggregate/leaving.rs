//! Results on their way out, piece by piece: a large result set is never there as a whole.
//!
//! While one is under way the operator is asked for nothing but the next piece.

use super::core::Core;
use super::merged::Merged;
use super::part::Part;
use super::table::Table;
use super::{Aggregate, Bounds};
use crate::operator::{OpError, Output};
use crate::state::keys::KeyForm;
use crate::state::table::compare;
use arrow_array::{Int64Array, RecordBatch};
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave_record_batch;
use std::ops::Bound;
use weir_plan::{Element, Rows};

/// What leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Windows that end at or before this, by (end, start, key); they are freed.
    Closed(i64),
    /// Every group.
    All,
    /// Every group of a changelog, for the first time.
    First,
    /// Groups that changed since they last left; of a changelog with what they were before.
    Changed,
}

pub(super) struct Leaving {
    what: What,
    /// The one after history.
    first: bool,
    /// Leaves after the last row.
    then: Option<Element>,
    window: Option<Cursor>,
    /// The window that has left before.
    last: Option<Bounds>,
}

/// Where in a window.
struct Cursor {
    bounds: Bounds,
    /// Of a window that closes.
    by_key: Option<ByKey>,
    /// Of a window that has spilled.
    merged: Option<Merged>,
    part: usize,
    row: usize,
    /// Groups that have left.
    groups: usize,
}

impl Aggregate {
    /// Begins to emit; the rest follows in [`Self::emit_more`].
    pub(super) fn emit(
        &mut self,
        what: What,
        then: Option<Element>,
        out: &mut Output,
    ) -> Result<(), OpError> {
        debug_assert!(self.leaving.is_none(), "asked for something before the last piece had left");
        let first = std::mem::take(&mut self.first);
        self.leaving = Some(Leaving { what, first, then, window: None, last: None });
        self.emit_more(out)
    }

    pub(super) fn emit_more(&mut self, out: &mut Output) -> Result<(), OpError> {
        let Some(mut leaving) = self.leaving.take() else { return Ok(()) };
        let (mut batches, mut rows) = (Vec::new(), 0);
        while let Some(piece) = self.piece(&mut leaving)? {
            rows += piece.batch.num_rows();
            batches.push(piece);
            // Who sorts wants all of it at once.
            if rows >= self.resources.piece_rows && !self.core.whole {
                self.leaving = Some(leaving);
                return self.core.leave(batches, out);
            }
        }
        self.core.leave(batches, out)?;
        if let Some(then) = leaving.then {
            out.push(then);
        }
        // What has been told of may go to disk.
        if matches!(leaving.what, What::First | What::Changed) { self.make_room() } else { Ok(()) }
    }

    /// The next rows, of one window; `None` after the last.
    fn piece(&mut self, leaving: &mut Leaving) -> Result<Option<Rows>, OpError> {
        loop {
            let Some(cursor) = &mut leaving.window else {
                match self.next_window(leaving)? {
                    Some(cursor) => leaving.window = Some(cursor),
                    None => return Ok(None),
                }
                continue;
            };
            let table = self.tables.get_mut(&cursor.bounds).expect("windows leave before they go");
            let rows_max = self.resources.piece_rows;
            let rows = match leaving.what {
                what if cursor.merged.is_some() => cursor.merged(&self.core, table, what, rows_max)?,
                What::Closed(_) => cursor.closed(&self.core, table, rows_max)?,
                What::All => cursor.all(&self.core, table, rows_max)?,
                What::First | What::Changed => cursor.changed(&self.core, table, rows_max)?,
            };
            if rows.is_some() {
                return Ok(rows);
            }
            let bounds = cursor.bounds;
            leaving.last = Some(bounds);
            if leaving.first && cursor.merged.is_some() && self.core.looks_up() {
                // They lay on disk, all of them.
                table.spilled_keys = cursor.groups as i64;
            }
            leaving.window = None;
            match leaving.what {
                What::Closed(_) => {
                    self.retire(bounds);
                    if let Some(panes) = self.panes {
                        self.closed_of_panes(panes, bounds.0);
                    }
                }
                What::All if leaving.first => self.account(bounds)?,
                What::All => {}
                What::First | What::Changed => self.account(bounds)?,
            }
        }
    }

    fn next_window(&mut self, leaving: &Leaving) -> Result<Option<Cursor>, OpError> {
        let after = leaving.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = match (leaving.what, self.panes) {
            (What::Closed(up_to), Some(panes)) => self.next_of_panes(panes, up_to)?,
            (What::Closed(up_to), None) => {
                self.tables.keys().next().copied().filter(|(end, _)| *end <= up_to)
            }
            (What::All | What::First | What::Changed, _) => {
                self.tables.range((after, Bound::Unbounded)).next().map(|(bounds, _)| *bounds)
            }
        };
        let Some((bounds, table)) = next.and_then(|b| self.tables.get_key_value(&b)) else { return Ok(None) };
        let mut cursor = Cursor { bounds: *bounds, by_key: None, merged: None, part: 0, row: 0, groups: 0 };
        // What changed is in memory.
        if !table.spilled.is_empty() && leaving.what != What::Changed {
            let (live, pieces) = (!self.muted, table.pieces());
            cursor.merged = Some(Merged::new(&self.core, &table.spilled, &pieces, live, self.now_us)?);
        } else if matches!(leaving.what, What::Closed(_)) {
            cursor.by_key = Some(ByKey::new(&self.core.form, &table.pieces()));
        }
        Ok(Some(cursor))
    }
}

impl Cursor {
    fn merged(
        &mut self,
        core: &Core,
        table: &Table,
        what: What,
        rows_max: usize,
    ) -> Result<Option<Rows>, OpError> {
        let merged = self.merged.as_mut().expect("asked where there is one");
        let part = merged.next(core, &table.pieces(), rows_max)?;
        let groups: Vec<u32> = (0..part.groups.len() as u32).collect();
        if groups.is_empty() {
            return Ok(None);
        }
        let batch = core.result(self.bounds, &part, &part.living(&groups))?;
        self.groups += batch.num_rows();
        let weights = (what == What::First).then(|| Int64Array::from_value(1, batch.num_rows()));
        Ok(Some(Rows { batch, weights }))
    }

    fn closed(&mut self, core: &Core, table: &Table, rows_max: usize) -> Result<Option<Rows>, OpError> {
        let by_key = self.by_key.as_mut().expect("made for a window that closes");
        let (groups, places) = by_key.next(&core.form, &table.pieces(), rows_max);
        if places.is_empty() {
            return Ok(None);
        }
        if let [part] = &table.parts[..] {
            return Ok(Some(Rows::append(core.result(self.bounds, part, &groups[0])?)));
        }
        let batches = table
            .parts
            .iter()
            .zip(&groups)
            .map(|(part, groups)| core.result(self.bounds, part, groups))
            .collect::<Result<Vec<_>, _>>()?;
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        let batch = interleave_record_batch(&batches, &places).map_err(|e| core.arrow(e))?;
        Ok(Some(Rows::append(batch)))
    }

    fn all(&mut self, core: &Core, table: &Table, rows_max: usize) -> Result<Option<Rows>, OpError> {
        while let Some(part) = table.pieces().get(self.part).copied() {
            let end = part.groups.len().min(self.row + rows_max);
            if self.row < end {
                let groups: Vec<u32> = (self.row as u32..end as u32).collect();
                self.row = end;
                return Ok(Some(Rows::append(core.result(self.bounds, part, &part.living(&groups))?)));
            }
            self.part += 1;
            self.row = 0;
        }
        Ok(None)
    }

    fn changed(&mut self, core: &Core, table: &mut Table, rows_max: usize) -> Result<Option<Rows>, OpError> {
        while let Some(part) = table.piece_mut(self.part) {
            let changed = part.groups.changed();
            let rows_max = if core.emit.changelog { (rows_max / 2).max(1) } else { rows_max };
            let end = changed.len().min(self.row + rows_max);
            if self.row < end {
                let mut groups = changed[self.row..end].to_vec();
                groups.retain(|g| part.is_kept(*g));
                self.row = end;
                part.note(self.bounds, &groups);
                return Ok(Some(if core.emit.changelog {
                    core.changes(self.bounds, part, &groups)?
                } else {
                    Rows::append(core.result(self.bounds, part, &part.living(&groups))?)
                }));
            }
            part.old.clear();
            part.old_batches.clear();
            part.groups.clean();
            self.part += 1;
            self.row = 0;
        }
        Ok(None)
    }
}

impl Core {
    /// Old and new rows of groups that changed, side by side; they are told now.
    fn changes(&self, bounds: Bounds, part: &mut Part, groups: &[u32]) -> Result<Rows, OpError> {
        let new = self.result(bounds, part, &part.living(groups))?;
        let mut new_rows = 0..;
        let mut batches: Vec<&RecordBatch> = part.old_batches.iter().collect();
        batches.push(&new);
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        for group in groups {
            if let Some(old) = part.old.get(group) {
                places.push(*old);
                weights.push(-1);
            }
            if part.lives(*group) {
                places.push((batches.len() - 1, new_rows.next().expect("without end")));
                weights.push(1);
            }
        }
        let batch = interleave_record_batch(&batches, &places).map_err(|e| self.arrow(e))?;
        for group in groups {
            if part.lives(*group) {
                part.told.insert(*group);
            } else {
                part.told.remove(*group);
            }
        }
        Ok(Rows { batch, weights: Some(Int64Array::from(weights)) })
    }

    /// Hands batches on, as one where they will be sorted.
    fn leave(&self, batches: Vec<Rows>, out: &mut Output) -> Result<(), OpError> {
        if !self.whole || batches.len() < 2 {
            batches.into_iter().for_each(|b| out.rows(b));
            return Ok(());
        }
        let batch =
            concat_batches(&self.schema, batches.iter().map(|r| &r.batch)).map_err(|e| self.arrow(e))?;
        let weights = batches.iter().map(|r| r.weights.clone()).collect::<Option<Vec<_>>>();
        let weights = weights.map(|all| all.iter().flat_map(|w| w.values().iter().copied()).collect());
        out.rows(Rows { batch, weights });
        Ok(())
    }
}

/// The groups of all parts by key.
pub(super) struct ByKey {
    /// Of each part.
    sorted: Vec<Vec<u32>>,
    /// How many of them have left.
    gone: Vec<usize>,
}

impl ByKey {
    pub fn new(form: &KeyForm, parts: &[&Part]) -> Self {
        let kept = |p: &&Part| {
            let mut all = p.groups.sorted(form);
            all.retain(|g| p.is_kept(*g));
            all
        };
        let sorted: Vec<_> = parts.iter().map(kept).collect();
        ByKey { gone: vec![0; sorted.len()], sorted }
    }

    /// Part and number of the next group.
    pub fn pop(&mut self, form: &KeyForm, parts: &[&Part]) -> Option<(usize, u32)> {
        let head = |part: usize| Some((part, *self.sorted[part].get(self.gone[part])?));
        let least = (0..parts.len())
            .filter_map(head)
            .min_by(|(p, a), (q, b)| compare(form, parts[*p].groups.key(*a), parts[*q].groups.key(*b)));
        let (part, group) = least?;
        self.gone[part] += 1;
        Some((part, group))
    }

    /// The next groups: of each part, and how they follow each other (part and place among these).
    fn next(
        &mut self,
        form: &KeyForm,
        parts: &[&Part],
        rows_max: usize,
    ) -> (Vec<Vec<u32>>, Vec<(usize, usize)>) {
        let mut groups: Vec<Vec<u32>> = vec![Vec::new(); parts.len()];
        let mut places = Vec::new();
        while places.len() < rows_max
            && let Some((part, group)) = self.pop(form, parts)
        {
            places.push((part, groups[part].len()));
            groups[part].push(group);
        }
        (groups, places)
    }
}
