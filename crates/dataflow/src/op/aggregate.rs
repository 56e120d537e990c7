//! Keyed aggregation: over windows, which close, or over the whole stream.
//!
//! ```text
//! batch -> keys and arguments evaluated -> rows by window -> table of the window: groups, aggregates
//! watermark -> tables of closed windows leave in order (end, start, key) and are freed
//! batch, tick -> what changed, or everything, as the emit policy says
//! ```
//!
//! Rows of sessions come when these have closed: they lie in one table with the window among its
//! keys, and all of it leaves at the next watermark.
//! Over a changelog rows have weights: a group counts them, and is gone when none is left.
//!
//! While history is read nothing but closed windows leaves; at its end there is one emission.
//!
//! Not here: late rows (none come here), state in memory (`state`), aggregates (`agg`).

mod core;
mod deltas;
mod emit;
mod expiry;
mod leaving;
mod merged;
mod panes;
mod part;
mod per_event;
mod spilled;
mod table;

use self::core::{Core, Window};
use crate::agg::Shape;
use crate::operator::{InputId, OpError, Operator, Output, Stats, Wrote};
use crate::resources::Resources;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::deltas::Runs;
use crate::state::keys::KeyForm;
use crate::state::table::Picked;
use crate::state::{StateReader, StateWriter};
use arrow_schema::{Schema, SchemaRef};
use datafusion_common::DataFusionError;
use deltas::OnDisk;
use leaving::{Leaving, What};
use merged::Merged;
pub use panes::Panes;
use part::Part;
use spilled::Spilled;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use table::{Table, part_of};
use weir_plan::{
    AggregateKind, AggregateSpec, Element, EmitPolicy, EmitSpec, Projection, RowOrder, Rows, WatermarkTime,
    WindowKeys,
};

/// Bounds of a window in nanoseconds: end first, the order in which windows close.
type Bounds = (i64, i64);
const GLOBAL: Bounds = (i64::MAX, i64::MIN);
/// Fewer rows than this are not worth waking a thread for.
const ROWS_TO_SHARE: usize = 2_048;
/// Groups of a window with less than this stay: their file, and what is known of it, would take as much.
const SPILL_BYTES_LEAST: usize = 4 << 10;

pub struct Aggregate {
    core: Arc<Core>,
    resources: Resources,
    tables: BTreeMap<Bounds, Table>,
    /// Rows come by pane; tables are of panes, and of windows for rows that were late for others.
    panes: Option<Panes>,
    /// Of panes: windows up to this end have left.
    closed: i64,
    /// Rows taken in so far.
    came: i64,
    /// History is being read.
    muted: bool,
    /// Something changed since the last emission.
    changed: bool,
    /// When the next emission is due; unknown before the first tick.
    due_us: i64,
    /// Of keys that are forgotten: processing time, when their present turn began, how many there were.
    now_us: i64,
    turned_us: i64,
    expired: u64,
    /// Results that have not left yet.
    leaving: Option<Leaving>,
    /// The next emission is the one after history.
    first: bool,
    /// What is written of it at barriers; groups note their changes.
    runs: Runs,
    /// What is still to be written of groups on disk.
    on_disk: VecDeque<OnDisk>,
    tracks: bool,
    bytes: usize,
    /// Bytes when this call began: the loop has counted so many.
    counted: usize,
    groups: usize,
}

/// A part's share of a batch.
struct Job {
    bounds: Bounds,
    at: usize,
    part: Part,
    /// `None` = all.
    rows: Option<Vec<u32>>,
    /// Where groups are that are not in the part.
    spilled: Vec<Spilled>,
}

/// A plan's aggregation, as one thing.
pub struct Spec<'a> {
    pub keys: &'a [Projection],
    pub aggregates: &'a [AggregateSpec],
    pub order: Option<RowOrder>,
    pub window: Option<WindowKeys>,
    pub emit: EmitSpec,
    pub whole: bool,
    /// The input gives panes instead of windows.
    pub panes: Option<Panes>,
    /// The input is a changelog.
    pub changelog: bool,
    pub schema: SchemaRef,
}

impl Aggregate {
    /// # Errors
    /// [`OpError::Plan`] when types do not fit or an aggregate has no state for its argument.
    pub fn new(spec: Spec<'_>, input: &Schema, resources: Resources) -> Result<Self, OpError> {
        let name = if spec.window.is_some() { "WindowAggregate" } else { "Aggregate" };
        let plan = |reason: String| OpError::Plan { operator: name, reason };
        let eval = |e: DataFusionError| OpError::Eval { operator: name, source: Box::new(e) };
        if spec.schema.fields().len() != spec.keys.len() + spec.aggregates.len() {
            return Err(plan("the result has another number of columns".into()));
        }
        let window = match spec.window {
            None => None,
            Some(keys) => {
                let expr = |at: usize| {
                    let key = spec.keys.get(at).ok_or_else(|| plan("a window that is no key".into()))?;
                    let t = key.expr.data_type(input).map_err(eval)?;
                    match crate::time::nanos_per_unit(&t) {
                        Some(_) => Ok((key.expr.clone(), t)),
                        None => Err(plan(format!("window bound {} is {t}, no time", key.name))),
                    }
                };
                let ((start, start_type), (end, end_type)) = (expr(keys.start)?, expr(keys.end)?);
                Some(Window { keys, start, end, start_type, end_type })
            }
        };
        let is_bound = |at: usize| spec.window.is_some_and(|w| at == w.start || at == w.end);
        let closed = window.as_ref().filter(|w| w.keys.closed_below());
        let bounds = closed.map(|w| [w.end.clone(), w.start.clone()]);
        let others = spec.keys.iter().enumerate().filter(|(i, _)| !is_bound(*i));
        let keys: Vec<_> = bounds.into_iter().flatten().chain(others.map(|(_, k)| k.expr.clone())).collect();
        if closed.is_some() && spec.emit != EmitSpec::WINDOW {
            return Err(plan("rows of sessions leave when they close".into()));
        }
        let types = keys.iter().map(|k| k.data_type(input)).collect::<Result<Vec<_>, _>>().map_err(eval)?;
        let shapes = spec
            .aggregates
            .iter()
            .map(|a| shape(a, input, spec.changelog))
            .collect::<Result<Vec<_>, DataFusionError>>()
            .map_err(eval)?;
        if spec.emit.changelog && spec.window.is_some() {
            return Err(plan("a changelog of windows".into()));
        }
        if spec.changelog && spec.window.is_some() {
            return Err(plan("windows over a changelog".into()));
        }
        if spec.emit.policy == EmitPolicy::OnClose && spec.window.is_none() {
            return Err(plan("a global aggregation never closes".into()));
        }
        // Without keys there is one result; complete groups are forgotten at once.
        let forgets = spec.window.is_none()
            && !spec.keys.is_empty()
            && !spec.changelog
            && spec.emit.policy != EmitPolicy::Complete;
        let mut core = Core {
            name,
            keys,
            window,
            specs: spec.aggregates.to_vec(),
            order: spec.order,
            emit: spec.emit,
            whole: spec.whole,
            changelog: spec.changelog,
            schema: spec.schema,
            form: KeyForm::of(&types).map_err(|e| plan(e.to_string()))?,
            shapes,
            ordered: false,
            ttl_us: (resources.ttl_us > 0 && forgets).then_some(resources.ttl_us),
        };
        // A type without a state fails the start, not the first row.
        core.ordered = core.new_part()?.states.iter().any(|s| s.ordered());
        Ok(Aggregate {
            core: Arc::new(core),
            resources,
            tables: BTreeMap::new(),
            panes: spec.panes,
            closed: i64::MIN,
            came: 0,
            muted: true,
            changed: false,
            due_us: i64::MIN,
            now_us: i64::MIN,
            turned_us: i64::MIN,
            expired: 0,
            leaving: None,
            first: false,
            runs: Runs::default(),
            on_disk: VecDeque::new(),
            tracks: false,
            bytes: 0,
            counted: 0,
            groups: 0,
        })
    }

    /// Panes are merged when a window closes: all of them may go.
    fn write_before_close(&mut self, up_to: i64) {
        self.write_pending_to(if self.panes.is_some() { i64::MAX } else { up_to });
    }

    fn save_head(&self, out: &mut Writer) {
        out.i64(self.came);
        out.u64(u64::from(self.muted));
        out.u64(u64::from(self.changed));
        out.i64(self.closed);
        // A restart is no reason to emit.
        out.i64(self.due_us);
    }

    fn load_head(&mut self, from: &mut Reader<'_>) -> Result<(), Damaged> {
        self.came = from.i64()?;
        self.muted = from.u64()? == 1;
        self.changed = from.u64()? == 1;
        self.closed = from.i64()?;
        self.due_us = from.i64()?;
        Ok(())
    }

    /// What a window holds now is counted.
    fn account(&mut self, bounds: Bounds) -> Result<(), OpError> {
        let Some(table) = self.tables.get_mut(&bounds) else { return Ok(()) };
        table.tidy(bounds, &self.core, &self.resources)?;
        let (bytes, groups) = (table.bytes(), table.keys(&self.core, !self.muted));
        self.expired += std::mem::take(&mut table.expired);
        self.bytes = self.bytes + bytes - std::mem::replace(&mut table.held_bytes, bytes);
        self.groups = self.groups + groups - std::mem::replace(&mut table.held_groups, groups);
        Ok(())
    }

    fn retire(&mut self, bounds: Bounds) {
        if let Some(table) = self.tables.remove(&bounds) {
            self.bytes -= table.held_bytes;
            self.groups -= table.held_groups;
        }
    }

    /// Whether what this call has added has no room.
    fn is_tight(&self) -> bool {
        self.resources.is_tight(self.counted, self.bytes)
    }

    /// Whether groups that changed, which do not spill, take half of what there is before others do.
    fn many_changed(&self) -> bool {
        if !self.resources.is_half_full(self.counted, self.bytes) {
            return false;
        }
        let bytes = self.tables.values().map(Table::changed_bytes).sum();
        bytes >= self.resources.spill_bytes_min() && self.resources.is_half_full(self.counted, bytes)
    }

    /// Spills until there is room again for what this call has added.
    fn make_room(&mut self) -> Result<(), OpError> {
        while self.is_tight() {
            if !self.spill_one(self.resources.spill_bytes_min())? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Spills one window's state: the last to close of those that hold much, at least so many bytes.
    /// `false` = none can.
    fn spill_one(&mut self, bytes_min: usize) -> Result<bool, OpError> {
        let Some(space) = self.resources.spill.clone() else { return Ok(false) };
        let most = self.tables.values().map(Table::group_bytes).max().unwrap_or(0);
        let least = (most / 4).max(bytes_min);
        let much =
            |(_, table): &(&Bounds, &Table)| table.group_bytes() >= least && table.can_spill(&self.core);
        let Some(bounds) = self.tables.iter().filter(much).map(|(b, _)| *b).next_back() else {
            return Ok(false);
        };
        self.write_pending(bounds);
        let table = self.tables.get_mut(&bounds).expect("found above");
        table.spill(&self.core, &space, &self.resources, !self.muted)?;
        self.account(bounds)?;
        Ok(true)
    }

    /// Before history ends: from then on what is in memory of a group is all of it.
    fn spill_shares(&mut self) -> Result<(), OpError> {
        if self.core.looks_up() { self.spill_again() } else { Ok(()) }
    }

    /// What is in memory of windows that are on disk goes there too.
    fn spill_again(&mut self) -> Result<(), OpError> {
        let Some(space) = self.resources.spill.clone() else { return Ok(()) };
        let some = self.tables.iter().filter(|(_, t)| !t.spilled.is_empty()).map(|(b, _)| *b);
        for bounds in some.collect::<Vec<_>>() {
            self.write_pending(bounds);
            let table = self.tables.get_mut(&bounds).expect("found above");
            table.spill(&self.core, &space, &self.resources, !self.muted)?;
            self.account(bounds)?;
        }
        Ok(())
    }

    /// Takes the parts of a window out of its table, each with its rows.
    fn deal(
        &mut self,
        bounds: Bounds,
        rows: Option<Vec<u32>>,
        n: usize,
        hashes: Option<&[u32]>,
        jobs: &mut Vec<Job>,
    ) -> Result<(), OpError> {
        if !self.tables.contains_key(&bounds) {
            let mut table = Table::new(&self.core)?;
            if self.tracks {
                // Nothing of it is in any run.
                table.whole_next = true;
                table.parts.iter_mut().for_each(Part::track);
            }
            self.tables.insert(bounds, table);
        }
        let table = self.tables.get_mut(&bounds).expect("put there above");
        table.divide(bounds, &self.core, &self.resources)?;
        let looked_up = !table.spilled.is_empty() && self.core.whole_groups(!self.muted);
        let spilled = if looked_up { table.spilled.clone() } else { Vec::new() };
        let parts = std::mem::take(&mut table.parts);
        let (Some(hashes), true) = (hashes, parts.len() > 1) else {
            jobs.extend(parts.into_iter().map(|part| {
                let (rows, spilled) = (rows.clone(), spilled.clone());
                Job { bounds, at: 0, part, rows, spilled }
            }));
            return Ok(());
        };
        let mut dealt = vec![Vec::with_capacity(n / parts.len() + n / 8); parts.len()];
        match rows {
            None => (0..n as u32).for_each(|r| dealt[part_of(hashes[r as usize], parts.len())].push(r)),
            Some(rows) => {
                rows.into_iter().for_each(|r| dealt[part_of(hashes[r as usize], parts.len())].push(r));
            }
        }
        let with_rows = parts.into_iter().zip(dealt).enumerate();
        jobs.extend(with_rows.map(|(at, (part, rows))| {
            let (rows, spilled) = (Some(rows), spilled.clone());
            Job { bounds, at, part, rows, spilled }
        }));
        Ok(())
    }
}

fn shape(spec: &AggregateSpec, input: &Schema, changelog: bool) -> Result<Shape, DataFusionError> {
    let args = spec.args.iter().map(|a| a.data_type(input)).collect::<Result<Vec<_>, _>>()?;
    let nullable = spec.args.iter().map(|a| a.nullable(input)).collect::<Result<Vec<_>, _>>()?;
    let floats = matches!(spec.kind, AggregateKind::Quantile { .. });
    Ok(Shape {
        kind: spec.kind.clone(),
        args,
        always: spec.filter.is_none() && !nullable.contains(&true) && !floats,
        changelog,
        output: spec.output.clone(),
    })
}

impl Operator for Aggregate {
    fn rows(&mut self, _: InputId, rows: Rows, out: &mut Output) -> Result<(), OpError> {
        if rows.weights.is_some() && !self.core.changelog {
            return Err(OpError::Plan {
                operator: self.core.name,
                reason: "weights that nobody announced".into(),
            });
        }
        let batch = rows.batch;
        let n = batch.num_rows();
        self.counted = self.bytes;
        let work = self.core.work(&batch, rows.weights, self.came, self.marks(), self.now_us)?;
        let mut jobs = Vec::new();
        for (bounds, rows) in self.core.split(&batch)? {
            self.deal(bounds, rows, n, work.keys.hashes(), &mut jobs)?;
        }
        let core = self.core.clone();
        let live = !self.muted;
        let each_row = self.core.emit.policy == EmitPolicy::PerEvent && live;
        let run = move |mut job: Job| {
            let picked = job.rows.as_deref().map_or(Picked::all(n), Picked::Listed);
            let loaded = match job.spilled.as_slice() {
                [] => Ok(()),
                spilled => core.load(&mut job.part, spilled, live, &work, picked),
            };
            let told = loaded.and_then(|()| {
                if each_row {
                    core.per_event(job.bounds, &mut job.part, &work, picked).map(Some)
                } else {
                    core.update(job.bounds, &mut job.part, &work, picked).map(|()| None)
                }
            });
            (job, told)
        };
        let shared = n >= ROWS_TO_SHARE && jobs.iter().any(|j| j.at > 0);
        let done: Vec<_> =
            if shared { self.resources.workers.run(jobs, run) } else { jobs.into_iter().map(run).collect() };
        let (mut all, mut last) = (Ok(()), None);
        let mut told_bounds = Vec::new();
        let mut told = Vec::new();
        for (job, updated) in done {
            // Parts of a window lie one behind the other, in their order.
            if let Some(last) = last.filter(|bounds| *bounds != job.bounds) {
                self.account(last)?;
            }
            if last != Some(job.bounds) {
                told_bounds.push(job.bounds);
            }
            last = Some(job.bounds);
            let parts = &mut self.tables.get_mut(&job.bounds).expect("its parts were dealt").parts;
            // Of most windows there is one: room for more would cost more than the rows of a small one.
            parts.reserve_exact(1);
            parts.push(job.part);
            match updated {
                Ok(results) => told.extend(results.map(|r| (job.rows, r))),
                Err(e) => all = all.and(Err(e)),
            }
        }
        if let Some(bounds) = last {
            self.account(bounds)?;
        }
        if self.runs.is_writing() {
            told_bounds.into_iter().for_each(|b| self.hand_on(b));
        }
        all?;
        self.came += n as i64;
        self.changed = !each_row;
        self.make_room()?;
        if each_row {
            return self.core.told(n, told, out);
        }
        if self.core.emit.policy == EmitPolicy::Complete {
            self.changed = false;
            self.write_before_close(i64::MAX);
            return self.emit(What::Closed(i64::MAX), None, out);
        }
        // Changes that wait for their time leave before it where there is no room for them.
        let at_once = self.core.emit.policy == (EmitPolicy::OnUpdate { every_us: None })
            || self.marks() && self.many_changed();
        if !self.muted && at_once {
            self.changed = false;
            self.emit(What::Changed, None, out)?;
        }
        Ok(())
    }

    /// Closes windows. Above, time has come as far as no row of an open window can be earlier; where
    /// nobody goes by it the watermark ends here.
    fn watermark(&mut self, at: WatermarkTime, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes;
        let Some(window) = &self.core.window else { return Ok(()) };
        let keys = window.keys;
        let passed =
            keys.passes.map(|bound| Element::Watermark(WatermarkTime(keys.spec.passed_on(at.0, bound))));
        let up_to = if keys.closed_below() { i64::MAX } else { at.0 };
        self.write_before_close(up_to);
        self.emit(What::Closed(up_to), passed, out)
    }

    fn tick(&mut self, now_us: i64, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes;
        let then = Element::Tick(now_us);
        self.age(now_us)?;
        if self.emission_due().is_none_or(|due| due > now_us) {
            out.push(then);
            return Ok(());
        }
        if let EmitPolicy::Periodic { every_us, .. } | EmitPolicy::OnUpdate { every_us: Some(every_us) } =
            self.core.emit.policy
        {
            self.due_us = now_us.saturating_add(every_us);
        }
        self.emit_due(Some(then), out)
    }

    fn tick_due(&self) -> Option<i64> {
        self.emission_due().into_iter().chain(self.age_due()).min()
    }

    fn end_of_backfill(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes;
        self.spill_shares()?;
        self.muted = false;
        if self.core.changelog && self.core.keys.is_empty() && self.tables.is_empty() {
            // No rows have one result, too, however they came and went.
            let mut table = Table::new(&self.core)?;
            table.parts[0].groups.add_unit();
            self.tables.insert(GLOBAL, table);
            self.account(GLOBAL)?;
            self.changed = true;
        }
        if self.changed {
            return self.emit_first(Element::EndOfBackfill, out);
        }
        out.push(Element::EndOfBackfill);
        Ok(())
    }

    fn end(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes;
        if self.core.window.is_some() {
            self.write_before_close(i64::MAX);
            return self.emit(What::Closed(i64::MAX), None, out);
        }
        if self.changed { self.emit_due(None, out) } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<bool, OpError> {
        // Rows on their way out are where they were.
        // Nobody asks before memory is refused: then little is worth a file, too.
        let bytes_min = self.resources.spill_bytes_min().min(SPILL_BYTES_LEAST);
        if self.leaving.is_some() { Ok(false) } else { self.spill_one(bytes_min) }
    }

    fn unfinished(&self) -> bool {
        self.leaving.is_some()
    }

    fn go_on(&mut self, out: &mut Output) -> Result<(), OpError> {
        self.counted = self.bytes;
        self.emit_more(out)
    }

    fn stats(&self) -> Stats {
        let (keys, state_bytes) = (self.groups as u64, self.bytes as u64);
        Stats { keys, state_bytes, expired_keys: self.expired, ..Stats::default() }
    }

    fn waits_for(&self) -> Option<i64> {
        self.core.window.as_ref()?;
        let (bounds, _) = self.tables.first_key_value()?;
        match self.panes {
            None => Some(bounds.0),
            Some(panes) => panes.closes(*bounds, self.closed),
        }
    }

    fn snapshot(&mut self, into: &mut StateWriter) -> Result<(), OpError> {
        if self.snapshot_runs(into)? {
            self.tracks = true;
            return Ok(());
        }
        let mut out = Writer::default();
        self.save_head(&mut out);
        out.u64(self.tables.len() as u64);
        for ((end, start), table) in &self.tables {
            out.i64(*end);
            out.i64(*start);
            table.save(&self.core, !self.muted, &mut out)?;
        }
        into.put("tables", out.0);
        Ok(())
    }

    fn snapshot_more(&mut self, things: usize) -> Result<Wrote, OpError> {
        self.write_more(things)
    }

    fn snapshot_lost(&mut self) {
        self.lose_runs();
    }

    fn restore(&mut self, from: &StateReader) -> Result<(), OpError> {
        if let Some(head) = from.get("windows") {
            self.tracks = true;
            return self.restore_runs(from, head);
        }
        let bytes = from.bytes(self.core.name, "tables")?;
        let mut from = Reader(bytes);
        let core = self.core.clone();
        let damaged = |e: Damaged| core.damaged(&e);
        self.load_head(&mut from).map_err(damaged)?;
        for _ in 0..from.count(16).map_err(damaged)? {
            let bounds = (from.i64().map_err(damaged)?, from.i64().map_err(damaged)?);
            let mut table = Table::new(&core)?;
            table.load(&core, &self.resources, self.resources.spill.as_ref(), !self.muted, &mut from)?;
            self.tables.insert(bounds, table);
            self.account(bounds)?;
        }
        self.restore_ages()
    }
}
