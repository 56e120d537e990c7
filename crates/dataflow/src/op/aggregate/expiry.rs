//! Keys that are forgotten when no row comes for them (`aggregate_state_ttl_sec`).
//!
//! ```text
//! rows -> groups of this turn <- what is still alive of the key in the turn before
//! every ttl: the turn before is dropped whole, this turn becomes the one before
//! ```
//! A turn is as long as keys live, so nothing in this turn is too old and everything in the one before is
//! when it goes: forgetting looks at no key by itself. In between a group says when its last row came,
//! and one that is too old is not there for anybody who looks.
//!
//! Where state was spilled a key lies in pieces. Each says when its first and its last row came: a piece
//! too long before the next one is another life of the key and counts no more.
//!
//! Time is processing time, told by ticks. Not here: who asks for them (`build`, `task`).

use super::core::Core;
use super::part::Part;
use super::table::{Table, part_of};
use super::{Aggregate, GLOBAL};
use crate::operator::OpError;
use crate::state::bits::Bits;
use crate::state::bytes::{Damaged, Reader, Writer};
use crate::state::keys::Key;
use crate::state::rows::{Layout, RowStore};

/// The words of a group that say when its first and its last row came, microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages {
    first: usize,
    last: usize,
}

impl Ages {
    pub fn reserve(layout: &mut Layout) -> Self {
        Ages { first: layout.word(u64::MAX), last: layout.word(0) }
    }

    fn note(&self, rows: &mut RowStore, group: u32, first: u64, last: u64) {
        let word = rows.word_mut(group, self.first);
        *word = first.min(*word);
        let word = rows.word_mut(group, self.last);
        *word = last.max(*word);
    }

    pub fn save(&self, rows: &RowStore, group: u32, out: &mut Writer) {
        out.u64(rows.word(group, self.first));
        out.u64(rows.word(group, self.last));
    }

    pub fn merge(&self, rows: &mut RowStore, group: u32, from: &mut Reader<'_>) -> Result<(), Damaged> {
        let (first, last) = (from.u64()?, from.u64()?);
        self.note(rows, group, first, last);
        Ok(())
    }
}

/// What a part knows of the age of its groups.
pub(super) struct Aging {
    pub ages: Ages,
    /// Groups whose last row came no later are forgotten.
    horizon_us: i64,
    now_us: i64,
    /// Groups that went on to the next turn.
    gone: Bits,
    n_gone: usize,
    /// The turn before.
    pub before: Option<Part>,
}

impl Aging {
    pub fn new(ages: Ages) -> Self {
        Aging { ages, horizon_us: i64::MIN, now_us: i64::MIN, gone: Bits::default(), n_gone: 0, before: None }
    }

    /// Whether a group is there.
    pub fn keeps(&self, rows: &RowStore, group: u32) -> bool {
        !self.gone.contains(group) && rows.word(group, self.ages.last) as i64 > self.horizon_us
    }

    pub fn bytes(&self) -> usize {
        size_of::<Aging>() + self.gone.bytes() + self.before.as_ref().map_or(0, Part::bytes)
    }
}

impl Part {
    /// Groups that are held, those of the turn before among them.
    pub fn held(&self) -> usize {
        let Some(aging) = &self.aging else { return self.groups.len() };
        self.groups.len() - aging.n_gone + aging.before.as_ref().map_or(0, Part::held)
    }

    /// Whether a group is neither forgotten nor in the next turn.
    pub fn is_kept(&self, group: u32) -> bool {
        self.aging.as_ref().is_none_or(|a| a.keeps(&self.groups.rows, group))
    }

    /// The turn before.
    pub fn before(&self) -> Option<&Part> {
        self.aging.as_ref()?.before.as_ref()
    }

    /// Takes the turn before away: it is spilled by itself.
    pub fn take_before(&mut self) -> Option<Part> {
        self.aging.as_mut()?.before.take()
    }

    /// Sets another part's time.
    pub fn same_time(&self, other: &mut Part) {
        if let Some(aging) = &self.aging {
            other.at(aging.now_us, aging.horizon_us);
        }
    }

    /// Groups that are held and too old.
    pub fn forgotten(&self) -> usize {
        let old = |p: &Part| p.held() - (0..p.groups.len() as u32).filter(|g| p.is_kept(*g)).count();
        self.before().map_or(0, old)
    }

    /// Processing time, where keys are forgotten.
    pub fn now_us(&self) -> i64 {
        self.aging.as_ref().map_or(i64::MIN, |a| a.now_us)
    }

    /// It is `now_us`; groups whose last row came at `horizon_us` or before are too old.
    fn at(&mut self, now_us: i64, horizon_us: i64) {
        let Some(aging) = &mut self.aging else { return };
        (aging.now_us, aging.horizon_us) = (now_us, horizon_us);
        if let Some(before) = &mut aging.before {
            before.at(now_us, horizon_us);
        }
    }

    /// Begins a turn with what `next` holds, nothing; gives the number of keys that are forgotten.
    fn turn(&mut self, next: Part) -> usize {
        let Some(aging) = &mut self.aging else { return 0 };
        let forgotten = aging.before.take().map_or(0, |p| p.held());
        let (now_us, horizon_us) = (aging.now_us, aging.horizon_us);
        let before = std::mem::replace(self, next);
        self.at(now_us, horizon_us);
        if let Some(aging) = &mut self.aging {
            aging.before = Some(before);
        }
        forgotten
    }
}

impl Core {
    /// Notes that rows of groups came. From `known` on they are new to this turn: what the turn before
    /// knows of them comes along, unless it is too old.
    pub fn touch(&self, part: &mut Part, groups: &[u32], known: usize, now_us: i64) -> Result<(), OpError> {
        let Some(aging) = &mut part.aging else { return Ok(()) };
        let ages = aging.ages;
        if let Some(mut before) = aging.before.take() {
            for group in known as u32..part.groups.len() as u32 {
                self.bring(part, group, &mut before)?;
            }
            part.aging.as_mut().expect("looked at above").before = Some(before);
        }
        let now = now_us.max(0) as u64;
        groups.iter().for_each(|g| ages.note(&mut part.groups.rows, *g, now, now));
        Ok(())
    }

    /// Brings what the turn before holds of a group's key.
    fn bring(&self, part: &mut Part, group: u32, before: &mut Part) -> Result<(), OpError> {
        let key = part.groups.key(group);
        let hash = key.hash();
        let Some(old) = before.groups.find_one(key, hash).filter(|old| before.lives(*old)) else {
            return Ok(());
        };
        let mut saved = Writer::default();
        before.save(old, &mut saved);
        let mut from = Reader(&saved.0);
        let damaged = |e: Damaged| self.damaged(&e);
        let key = Key::load(&mut from).map_err(damaged)?;
        part.merge(key, hash, &mut from).map_err(damaged)?;
        if let Some((batch, row)) = before.old.remove(&old) {
            part.old.insert(group, (part.old_batches.len(), 0));
            part.old_batches.push(before.old_batches[batch].slice(row, 1));
        }
        if let Some(aging) = &mut before.aging {
            aging.gone.insert(old);
            aging.n_gone += 1;
        }
        Ok(())
    }

    /// Of pieces of one key, as [`Part::save`] wrote them, those that are of its present life; none when that
    /// is over, too. Gives the number of lives that are over.
    pub fn living_pieces(&self, pieces: &mut Vec<(usize, &[u8])>, now_us: i64) -> Result<usize, Damaged> {
        let Some(ttl_us) = self.ttl_us else { return Ok(0) };
        let mut times = Vec::with_capacity(pieces.len());
        for (_, piece) in pieces.iter() {
            let mut from = Reader(piece);
            Key::load(&mut from)?;
            // Flags; a changelog, whose groups have a weight, forgets nothing.
            from.u8()?;
            times.push((from.u64()? as i64, from.u64()? as i64));
        }
        let (alive, over) = alive(&times, ttl_us, now_us);
        let mut alive = alive.into_iter();
        pieces.retain(|_| alive.next().unwrap_or(false));
        Ok(over)
    }
}

/// Which of pieces (first and last row) belong to a life that goes on, and how many lives are over.
fn alive(times: &[(i64, i64)], ttl_us: i64, now_us: i64) -> (Vec<bool>, usize) {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|i| times[*i]);
    let mut alive = vec![false; times.len()];
    let (mut next, mut goes_on, mut over) = (now_us, true, 0);
    for i in order.into_iter().rev() {
        let (first, last) = times[i];
        if next.saturating_sub(last) >= ttl_us {
            goes_on = false;
            over += 1;
        }
        alive[i] = goes_on;
        next = next.min(first);
    }
    (alive, over)
}

impl Table {
    /// Deals what the turn before `whole` holds as this turn was dealt.
    pub fn divide_aging(&mut self, core: &Core, whole: &Part) -> Result<(), OpError> {
        let Some(before) = whole.before() else { return Ok(()) };
        let damaged = |e: Damaged| core.damaged(&e);
        let parts = self.parts.len();
        let mut saved = Writer::default();
        for group in (0..before.groups.len() as u32).filter(|g| before.is_kept(*g)) {
            saved.0.clear();
            before.save(group, &mut saved);
            let mut from = Reader(&saved.0);
            let key = Key::load(&mut from).map_err(damaged)?;
            let Some(aging) = &mut self.parts[part_of(key.hash(), parts)].aging else { continue };
            if aging.before.is_none() {
                aging.before = Some(core.new_part()?);
            }
            let into = aging.before.as_mut().expect("made above");
            into.merge(key, key.hash(), &mut from).map_err(damaged)?;
        }
        self.expired += whole.forgotten() as u64;
        let (now_us, horizon_us) = whole.aging.as_ref().map_or((0, 0), |a| (a.now_us, a.horizon_us));
        self.parts.iter_mut().for_each(|p| p.at(now_us, horizon_us));
        Ok(())
    }

    /// Everything in memory: parts of this turn, then of the one before.
    pub fn pieces(&self) -> Vec<&Part> {
        let before = self.parts.iter().filter_map(|p| p.aging.as_ref()?.before.as_ref());
        self.parts.iter().chain(before).collect()
    }

    /// The same by number.
    pub fn piece_mut(&mut self, at: usize) -> Option<&mut Part> {
        let n = self.parts.len();
        if at < n {
            return self.parts.get_mut(at);
        }
        let with = self.parts.iter_mut().filter_map(|p| p.aging.as_mut()?.before.as_mut());
        with.into_iter().nth(at - n)
    }
}

impl Aggregate {
    /// Time comes to `now_us`: keys whose time is over are forgotten.
    pub(super) fn age(&mut self, now_us: i64) -> Result<(), OpError> {
        let Some(ttl_us) = self.core.ttl_us else { return Ok(()) };
        self.now_us = self.now_us.max(now_us);
        if self.turned_us == i64::MIN {
            self.turned_us = self.now_us;
        }
        let turns = self.now_us.saturating_sub(self.turned_us) / ttl_us;
        self.turned_us += turns * ttl_us;
        let horizon_us = self.now_us.saturating_sub(ttl_us);
        let core = self.core.clone();
        for part in self.tables.values_mut().flat_map(|t| &mut t.parts) {
            part.at(self.now_us, horizon_us);
            // After two nothing is left.
            for _ in 0..turns.min(2) {
                self.expired += part.turn(core.new_part()?) as u64;
            }
        }
        if turns > 0 { self.account(GLOBAL) } else { Ok(()) }
    }

    /// When the next turn begins, where there is something to forget.
    pub(super) fn age_due(&self) -> Option<i64> {
        let ttl_us = self.core.ttl_us?;
        (self.groups > 0).then(|| self.turned_us.saturating_add(ttl_us))
    }

    /// What was restored is as the turn before: it ended with the last row of a key.
    pub(super) fn restore_ages(&mut self) -> Result<(), OpError> {
        if self.core.ttl_us.is_none() {
            return Ok(());
        }
        let core = self.core.clone();
        for part in self.tables.values_mut().flat_map(|t| &mut t.parts) {
            part.turn(core.new_part()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::alive;

    #[test]
    fn pieces_of_a_life_lie_closer_than_keys_live() {
        // (name, pieces, expected, lives that are over), keys live for 10 and it is 100
        let cases = [
            ("alone and young", vec![(80, 91)], vec![true], 0),
            ("alone and old", vec![(80, 90)], vec![false], 1),
            ("one behind the other", vec![(80, 85), (92, 99)], vec![true, true], 0),
            ("in any order", vec![(92, 99), (80, 85)], vec![true, true], 0),
            ("another life before", vec![(60, 82), (92, 99)], vec![false, true], 1),
            ("all of the life before", vec![(60, 70), (71, 80), (92, 99)], vec![false, false, true], 1),
            ("all lives are over", vec![(1, 20), (50, 60)], vec![false, false], 2),
            ("begun before the last ended", vec![(50, 95), (91, 92)], vec![true, true], 0),
        ];
        for (name, times, expected, over) in cases {
            assert_eq!(alive(&times, 10, 100), (expected, over), "{name}");
        }
    }
}
